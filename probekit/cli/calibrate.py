"""`probekit calibrate`: the kit measured on plants whose answer is known. The work is in `calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.errors import BadInput
from probekit.jobs.progress import progress

if TYPE_CHECKING:
    import pandas as pd


FOLDER = "calibration"  # inside the folder of runs, so that its run folders are not taken for measurements of a model


def calibrate(
    only: Annotated[str, typer.Option("--only", help="Cases, separated by commas: P1,P2. All when left out.")] = "",
    seeds: Annotated[int, typer.Option("--seeds", help="Draws of every case.")] = 10,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            help="Rows, in place of 2,000 for intervals and 20,000 for values; with --few of 200, 1,000 and 4,000.",
        ),
    ] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Count false positives on pure noise instead.")] = False,
    few: Annotated[bool, typer.Option("--few", help="Read plants and noise from fewer rows than coordinates.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that run folders are written to.")] = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure plants whose answer is known and judge every number; exit code 1 when one is not accepted."""
    with reporting("calibrate", as_json):
        from probekit.proofs import calibration, units

        names = [name.strip() for name in only.split(",") if name.strip()]
        if noise and (few or names or n is not None):
            raise BadInput("--noise has no cases and no rows to choose: leave out --few, --only and --n.")
        with progress() as say:
            told = {"root": runs / FOLDER, "n_workers": workers, "progress": say}
            if noise:
                from probekit.proofs.noise import noise_study

                run, frame = noise_study(seeds, **told)
            elif few:
                from probekit.proofs.few import ROWS, few_study

                run, frame = few_study(seeds, names, ROWS if n is None else (n,), **told)
            else:
                sizes = (units.SMALL, units.LARGE) if n is None else (n,)
                run, frame = calibration.calibrate(names, seeds, sizes, **told)
        ok = bool(frame["passed"].all())
        if as_json:
            print_json("calibrate", ok, rows(frame), run=str(run.path))
        else:
            _print(frame, run.path)
    if not ok:
        raise typer.Exit(1)


def _print(frame: "pd.DataFrame", run: Path) -> None:
    """A line per truth; why one is not accepted stands below, so that the table fits narrow terminals."""
    screen, found = console(), rows(frame)
    if "truth" in frame:
        columns = ("case", "what", "truth", "found", "95 %", "cover", "naive", "ok")
        cells = [
            (
                row["case"],
                " ".join(_figure(row[name]) for name in _WHAT if row[name] not in (None, "")),
                *(_figure(row[name]) for name in ("truth", "estimate")),
                f"{_figure(row['low'])} {_figure(row['high'])}",
                *(_figure(row[name]) for name in ("coverage", "naive_value")),
                "yes" if row["passed"] else "NO",
            )
            for row in found
        ]
    elif "limit" in frame:
        columns = ("case", "level", "d", "n", "limit", "found", "at most", "below", "usual", "ok")
        cells = [
            (
                *(
                    _figure(row[name])
                    for name in ("case", "level", "d", "n", "limit", "value", "high", "below", "usual")
                ),
                "yes" if row["passed"] else "NO",
            )
            for row in found
        ]
    else:
        columns, cells = list(frame.columns), [[_figure(value) for value in row.values()] for row in found]
    screen.print(plain_table(columns, cells, "What is true, and what was found"))
    for row in found:
        if not row["passed"] and row.get("why"):
            named = (row.get(name) for name in ("case", "metric", "level", "n", "d"))
            screen.print(f"{' '.join(str(name) for name in named if name is not None)}: {row['why']}")
    screen.print(f"{sum(map(bool, frame['passed']))} of {len(frame)} accepted.")
    typer.echo(f"run: {run}")


_WHAT = ("metric", "level", "k", "arm", "source", "control", "domains", "keep")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.3f}"
    return "" if value is None else str(value)
