"""Commands that set runs side by side and write what is taken away. They open run folders and never load a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.out import JsonOption, RootOption, console, plain_table, print_json, reporting, rows

if TYPE_CHECKING:
    import pandas as pd

    from probekit.storage.runs import Run

BehaviourOption = Annotated[str | None, typer.Option(help="The first one that has a value when left out.")]
DomainOption = Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    app.command("compare")(compare)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs A and B: folders, names or 'latest'; more stand beside A.")],
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
    """Is run B better than run A? What is comparable, differences paired by group, examples that changed."""
    with reporting("compare", as_json):
        from probekit.cli.reading import given, k_of
        from probekit.results import compare as sides
        from probekit.results.sidetext import side_by_side
        from probekit.results.text import to_csv

        found = [_opened(run, root) for run in runs]
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


def _opened(run: str, root: Path) -> "Run":
    from probekit.storage.runs import find_run, open_run

    return open_run(find_run(run, root))


def _print_across(table: "pd.DataFrame", runs: "list[Run]", every: bool) -> None:
    """A line per site and level, a column per run, each marked against the first."""
    from probekit.results.sidetext import across_rows, usual_cells

    head, lines = across_rows(table if every else usual_cells(table), [run.name for run in runs])
    screen = console()
    screen.print(plain_table(head, lines, f"share unexplained; + better, - worse than {runs[0].name}, = equal"))
