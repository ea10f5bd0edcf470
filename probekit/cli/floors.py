"""`probekit floors`: how much of published probing tasks is the text? The work is in `proofs.floors`."""

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.jobs.progress import progress

CACHE = Path.home() / ".cache" / "probekit" / "floors"
FOLDER = "floors"  # inside the folder of runs, so that its run folders are not taken for measurements of a model


def floors(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="The wheel sae-probes 0.4.2, or its folder cleaned_data; pip fetches it otherwise."
        ),
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Tasks, separated by commas. All 113 when left out.")] = "",
    splits: Annotated[int, typer.Option("--splits", min=1, help="Splits of every task.")] = 5,
    model: Annotated[
        str, typer.Option("--model", help="Read the tasks of shortest texts by this model too: its folder or name.")
    ] = "",
    into: Annotated[
        Path | None, typer.Option("--into", help="Folder that floors.csv and the picture floors.svg are written to.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that run folders are written to.")] = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Read 113 published probing tasks by their text alone, and say how far that is from a network's layers."""
    with reporting("floors", as_json):
        from probekit.proofs.floors import page
        from probekit.proofs.floors.model import model_floors
        from probekit.proofs.floors.tasks import folder_of
        from probekit.proofs.floors.text import text_floors

        asked = [name.strip() for name in only.split(",") if name.strip()]
        folder, root, beside = folder_of(data, CACHE), runs / FOLDER, None
        with progress() as say:
            run, found = text_floors(folder, splits, asked, root=root, n_workers=workers, progress=say)
            if model:
                beside = model_floors(folder, model, asked, root=root, progress=say)[1]
        found = page.results(found, beside)
        if into is not None:
            found = page.write_results(found, into)
        if as_json:
            print_json("floors", True, rows(found), run=str(run.path))
            return
        columns = ["task", "floor", "sd", "embedding", "layer_9", "layer_20", *(["fbu"] if model else [])]
        cells = [[_figure(row[name]) for name in columns] for row in rows(found)]
        screen = console()
        screen.print(plain_table(columns, cells, "AUC of the text alone, and of published probes"))
        told = page.facts(found)
        screen.print(f"mean {told['mean floor']} of the text, {told['mean layer_20']} of layer 20; "
                     f"{told['near']} within .02 of it, {told['as good']} as good.")  # fmt: skip
        typer.echo(f"run: {run.path}")


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
