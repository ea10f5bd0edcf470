"""Commands that set runs side by side and write what is taken away. They open run folders and never load a model."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.out import JsonOption, RootOption, console, plain_table, print_json, reporting, rows
from probekit.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from probekit.storage.runs import Run

BehaviourOption = Annotated[str | None, typer.Option(help="The first one that has a value when left out.")]
DomainOption = Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for name, command in (
        ("compare", compare),
        ("report", report),
        ("card", card),
        ("bundle", bundle),
        ("export", export),
    ):
        app.command(name)(command)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Runs A and B: folders, names or 'latest'; more stand beside A; a sweep's folder."),
    ],
    behaviour: Annotated[str | None, typer.Option(help="The first one of both when left out.")] = None,
    domain: DomainOption = None,
    position: Annotated[str | None, typer.Option(help="A rule of positions, of runs with several.")] = None,
    metric: Annotated[str, typer.Option(help="read or replace.")] = "read",
    arm: Annotated[str | None, typer.Option(help="Of replace: chain:matched, single:random, ...")] = None,
    k: Annotated[str | None, typer.Option("--k", help="One k for the levels that have several, or 'all'.")] = None,
    most: Annotated[int, typer.Option("--most", min=0, help="Examples that changed, of two runs.")] = 10,
    wide: Annotated[bool, typer.Option("--wide", help="Every cell of both.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the cells as CSV.")] = False,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Is run B better than run A? What is comparable, differences paired by group, examples that changed.

    Of a sweep: a line for each job, with the mean over its seeds and the least and the most.
    """
    with reporting("compare", as_json):
        from probekit.cli.reading import given, k_of
        from probekit.results import compare as sides
        from probekit.results.seeds import has_seeds
        from probekit.results.sidetext import side_by_side
        from probekit.results.text import to_csv
        from probekit.storage.runs import find_runs, open_run

        found = [open_run(folder) for run in runs for folder in find_runs(run, root)]
        if len(found) > 2 and has_seeds([run.name for run in found]):
            _print_seeds(found, {"behaviour": behaviour, "k": k_of(k)}, csv, as_json)
            return
        chosen = given(behaviour=behaviour, domain=domain, position=position, metric=metric, arm=arm, k=k_of(k))
        if len(found) != 2:
            table = sides.across(found, **chosen)
            if as_json:
                print_json("compare", True, rows(table), runs=[run.name for run in found])
            elif csv:
                typer.echo(to_csv(table).encode(), nl=False)
            else:
                _print_across(table, found, wide)
            return
        both = sides.compare(*found, **chosen, most=most)
        if as_json:
            told = {name: rows(getattr(both, name)) for name in ("comparable", "only", "changed")}
            print_json("compare", True, rows(both.cells), a=both.a, b=both.b, sentences=both.sentences, **told)
        elif csv:
            typer.echo(to_csv(both.cells).encode(), nl=False)
        else:
            screen = console()
            for part in side_by_side(both, screen.width, every=wide):
                screen.print(part)


def report(
    run: Annotated[str, typer.Argument(help="A run folder, a run's name, or 'latest'.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; RUN.html when left out.")] = None,
    beside: Annotated[str | None, typer.Option("--compare", help="A run that is set beside it as B.")] = None,
    behaviour: BehaviourOption = None,
    domain: DomainOption = None,
    position: Annotated[str | None, typer.Option(help="A rule of positions, of a run with several.")] = None,
    reported: Annotated[Path | None, typer.Option(help="A TOML file of published numbers, drawn beside these.")] = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write a run as one page that needs nothing else: story, map, examples, trust, provenance."""
    with reporting("report", as_json):
        from probekit.results.report.page import report as page
        from probekit.results.reported import read_reported
        from probekit.storage.runs import run_before

        found = _opened(run, root)
        other = None if beside is None else _opened(beside, root)
        published = () if reported is None else read_reported(reported)
        text = page(found, behaviour=behaviour, domain=domain, position=position, other=other,
                    previous=run_before(found), reported=published)  # fmt: skip
        _written("report", [(out or Path(f"{found.name}.html"), text)], as_json)


def card(
    run: Annotated[str, typer.Argument(help="A run folder, a run's name, or 'latest'.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="FILE.json or FILE.html; RUN-BEHAVIOUR.json when left out.")
    ] = None,
    behaviour: BehaviourOption = None,
    domain: DomainOption = None,
    position: Annotated[str | None, typer.Option(help="A rule of positions, of a run with several.")] = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write the abstraction card of one behaviour: finding, levels, shares, choices, checks, versions."""
    with reporting("card", as_json):
        import json

        from probekit.results.report.card import card as card_of
        from probekit.results.report.card import card_page

        found = _opened(run, root)
        told = card_of(found, behaviour=behaviour, domain=domain, position=position)
        path = out or Path(f"{found.name}-card.json")
        if path.suffix not in (".json", ".html"):
            raise BadInput(f"a card is written as .json or .html; found '{path.name}'.")
        text = card_page(told) if path.suffix == ".html" else json.dumps(told, indent=1, allow_nan=False) + "\n"
        _written("card", [(path, text)], as_json)


def bundle(
    runs: Annotated[list[str], typer.Argument(help="Run folders, names or patterns such as 'truth-*'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder; it is made where it is not there.")] = Path(
        "site"
    ),
    title: Annotated[str, typer.Option(help="Of the first page.")] = "probekit runs",
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write several runs as a folder of static pages: an index, a report and the cards of each."""
    with reporting("bundle", as_json):
        from probekit.results.report.site import site
        from probekit.storage.runs import find_runs, open_run

        found = [open_run(folder) for run in runs for folder in find_runs(run, root)]
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{out} cannot be made: {error.strerror}.") from None
        _written("bundle", ((out / name, text) for name, text in site(found, title)), as_json)


def export(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders, names, patterns such as 'truth-*', a sweep's folder.")
    ],
    to: Annotated[str, typer.Option("--to", help="csv, parquet, wandb or mlflow.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file, or folder of wandb and mlflow; named by --to if left out."),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Leave out unfinished and damaged runs, and say which.")] = False,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write the records of runs as one table, or as runs of wandb or mlflow, kept in a folder and not sent."""
    with reporting("export", as_json):
        from probekit.results.export import export as write
        from probekit.storage.runs import open_runs

        found, left_out = open_runs(runs, root, "drop" if drop else "refuse")
        where = out or Path({"csv": "runs.csv", "parquet": "runs.parquet"}.get(to, to))
        made = [str(path) for path in write(found, to, where)]
        if as_json:
            told = [{"path": path} for path in made]
            print_json("export", True, told, runs=[run.name for run in found], left_out=left_out)
            return
        typer.echo("\n".join(made))
        screen = console(err=True)
        screen.print(f"{len(found)} run{'s' * (len(found) > 1)}, {sum(len(run.records) for run in found):,} records")
        for name, why in left_out.items():
            screen.print(f"left out: {name}: {why}")
        if to in _LOOK:
            typer.echo(_LOOK[to].format(where), err=True)


_LOOK = {
    "wandb": "upload: wandb sync {}/wandb/offline-run-*",
    "mlflow": "look: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {}",
}


def _written(command: str, files: Iterable[tuple[Path, str]], as_json: bool) -> None:
    """Write files and say which."""
    told = []
    for path, text in files:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}.") from None
        told.append({"path": str(path), "bytes": path.stat().st_size})
    if as_json:
        print_json(command, True, told)
    else:
        typer.echo("\n".join(one["path"] for one in told))


def _opened(run: str, root: Path) -> "Run":
    from probekit.storage.runs import find_run, open_run

    return open_run(find_run(run, root))


def _print_across(table: "pd.DataFrame", runs: "list[Run]", every: bool) -> None:
    """A line per site and level, a column per run, each marked against the first."""
    from probekit.results.sidetext import across_rows, usual_cells

    head, lines = across_rows(table if every else usual_cells(table), [run.name for run in runs])
    screen, first = console(), runs[0].name
    if sum(map(len, head)) > screen.width - 20:  # names would leave no room for numbers
        letters = [chr(ord("A") + i) if len(runs) <= 26 else str(i + 1) for i in range(len(runs))]
        for letter, run in zip(letters, runs, strict=True):
            screen.print(f"{letter}: {run.name}")
        head, first = [*head[:2], *letters], letters[0]
    screen.print(plain_table(head, lines, f"share unexplained; + better, - worse than {first}, = equal"))


def _print_seeds(runs: "list[Run]", chosen: dict, csv: bool, as_json: bool) -> None:
    """A line for each job of a sweep, over its seeds."""
    import pandas as pd

    from probekit.results.seeds import over_seeds, seed_lines
    from probekit.results.text import to_csv

    if isinstance(chosen["k"], str):
        chosen["k"] = None  # all of them, as when it is left out
    table = over_seeds(pd.concat([run.records for run in runs], ignore_index=True), **chosen)
    if as_json:
        print_json("compare", True, rows(table), runs=[run.name for run in runs])
    elif csv:
        typer.echo(to_csv(table).encode(), nl=False)
    else:
        head, lines, before = seed_lines(table)
        screen = console()
        at = f"{before}*, " if before else ""
        screen.print(plain_table(head, lines, f"{at}{table['level'].iloc[0]}: share unexplained"))
        most = max(table["seeds"].tolist())
        screen.print(
            f"mean [least, most] over {most} seed{'s' * (most > 1)}; 0 explains all, 1 adds nothing to the input"
        )
