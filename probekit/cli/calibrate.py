"""`probekit calibrate`: the kit measured on plants whose answer is known. The work is in `calibrate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.out import JsonOption, print_json, progress, reporting, rows
from probekit.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


FOLDER = "calibration"  # inside the folder of runs, so that its run folders are not taken for measurements of a model


def calibrate(
    only: Annotated[str, typer.Option("--only", help="Cases, separated by commas: P1,P2. All when left out.")] = "",
    seeds: Annotated[int, typer.Option("--seeds", help="Draws of every case.")] = 10,
    n: Annotated[
        int | None, typer.Option("--n", help="Rows, in place of 2,000 for intervals and 20,000 for values.")
    ] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Count false positives on pure noise instead.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that run folders are written to.")] = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure plants whose answer is known and judge every number; exit code 1 when one is not accepted."""
    with reporting("calibrate", as_json):
        from probekit.proofs import calibration, units

        names = [name.strip() for name in only.split(",") if name.strip()]
        if noise:
            if names or n is not None:
                raise BadInput("--noise has no cases and no rows to choose: leave out --only and --n.")
            from probekit.proofs.noise import noise_study

            run, frame = noise_study(seeds, root=runs / FOLDER, n_workers=workers, progress=progress())
        else:
            sizes = (units.SMALL, units.LARGE) if n is None else (n,)
            run, frame = calibration.calibrate(
                names, seeds, sizes, root=runs / FOLDER, n_workers=workers, progress=progress()
            )
        told = {"run": str(run.path)}
        ok = bool(frame["passed"].all())
        if as_json:
            print_json("calibrate", ok, rows(frame), **told)
        else:
            _print(frame, run.path)
    if not ok:
        raise typer.Exit(1)


def _print(frame: "pd.DataFrame", run: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = [name for name in frame.columns if name not in ("source", "domains", "kind", "naive_method", "se")]
    table = Table(*shown, title="What is true, and what was found")
    for row in rows(frame.loc[:, shown]):
        cells = [
            f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
            for value in row.values()
        ]
        table.add_row(*cells, style="" if row["passed"] else "bold")
    Console(width=None if sys.stdout.isatty() else 220).print(table)
    typer.echo(f"{sum(map(bool, frame['passed']))} of {len(frame)} accepted; run: {run}")
