"""Export: runs in the files that other tools open, through those tools' own libraries, which then send nothing."""

# pyright: reportCallIssue=false

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from probekit.errors import BadInput, MissingExtra, first_line
from probekit.results.selection import behaviours, domains, positions
from probekit.results.tables import leak_map
from probekit.results.text import to_csv


@runtime_checkable
class Exportable(Protocol):
    """A run folder that was opened (`probekit.open_run`)."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> dict: ...

    @property
    def records(self) -> Any: ...  # a frame: what is a cached property is none to pyright


FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"  # without which the library asks for a database


def export(runs: Sequence[Exportable], to: str, out: Path) -> list[Path]:
    """Write runs into `out` and return what was made: one file of all records, or a run of the other tool for each.

    to: one of FORMATS. `csv` and `parquet` are the frame that `read_runs` gives. `wandb` and `mlflow` get the spec as
    their settings, every share unexplained by site (`<behaviour>/<level>`, the site's number as the step), and all
    records in records.csv; both write to the folder `out` alone, which is then synced or opened. Raises BadInput for
    another word, for no runs and where nothing can be written, MissingExtra without the library.

    >>> from pathlib import Path
    >>> import probekit as pk
    >>> from probekit.results.export import export
    >>> export([pk.open_run("runs/othello")], "csv", Path("all.csv"))
    [PosixPath('all.csv')]
    """
    if to not in FORMATS:
        raise BadInput(f"runs are exported to {', '.join(FORMATS)}; found '{to}'.")
    if not runs:
        raise BadInput("there is no run to be exported: name a run folder, or a pattern that finds some.")
    try:
        return FORMATS[to](runs, out)
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror or first_line(error)}.") from None


def _csv(runs: Sequence[Exportable], out: Path) -> list[Path]:
    out.write_text(to_csv(_together(runs)), encoding="utf-8")
    return [out]


def _parquet(runs: Sequence[Exportable], out: Path) -> list[Path]:
    _together(runs).to_parquet(out, index=False)
    return [out]


def _together(runs: Sequence[Exportable]) -> pd.DataFrame:
    frame = pd.concat([run.records for run in runs], ignore_index=True)
    frame.attrs = {}  # manifests are no part of a table
    return frame


def _wandb(runs: Sequence[Exportable], out: Path) -> list[Path]:
    """A folder `offline-run-*` of each run below `out/wandb`, which `wandb sync` uploads."""
    try:
        import wandb
    except ImportError:
        raise MissingExtra("--to wandb takes a package that is not installed: pip install wandb.") from None
    (out / "wandb").mkdir(parents=True, exist_ok=True)  # else the library writes to a folder of its own choice
    settings = wandb.Settings(
        mode="offline", silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True,
        x_disable_meta=True, x_disable_machine_info=True,
    )  # fmt: skip
    made = []
    for run in runs:
        known = {"project": "probekit", "name": run.name, "config": {**run.spec, "run": run.name}}
        theirs = wandb.init(dir=str(out), settings=settings, reinit="create_new", **known)
        for step, values in _by_step(run):
            theirs.log(values, step=step)
        records = Path(theirs.dir) / "records.csv"  # a table of the library takes a minute for thousands of records
        records.write_text(to_csv(run.records), encoding="utf-8")
        theirs.save(records, base_path=theirs.dir, policy="end")
        made.append(Path(theirs.dir).parent)
        theirs.finish()
    if wandb.run is None:  # no run of the caller's: what writes the files ends, and has written all of them
        wandb.teardown()
    return made


def _mlflow(runs: Sequence[Exportable], out: Path) -> list[Path]:
    """A run of each in the experiment `probekit` of a store of files, which `mlflow ui` opens."""
    with _file_store():
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError:
            raise MissingExtra(
                "--to mlflow takes a package that is not installed: pip install mlflow-skinny."
            ) from None
        client = MlflowClient(tracking_uri=out.resolve().as_uri())
        known = client.get_experiment_by_name("probekit")
        experiment = known.experiment_id if known else client.create_experiment("probekit")
        made = []
        for run in runs:
            theirs = client.create_run(experiment, run_name=run.name, tags={"probekit.run": run.name})
            asked = [Param(key, str(value)[:500]) for key, value in _flat(run.spec)]
            told = [Metric(_plain(key), value, 0, step)
                    for step, values in _by_step(run) for key, value in values.items()]  # fmt: skip
            for start in range(0, max(len(asked), len(told)), 100):  # as many as one call takes of params
                some = slice(start, start + 100)
                client.log_batch(theirs.info.run_id, metrics=told[some], params=asked[some])
            client.log_text(theirs.info.run_id, to_csv(run.records), "records.csv")
            client.set_terminated(theirs.info.run_id)
            made.append(out / experiment / theirs.info.run_id)
        return made


FORMATS: dict[str, Callable[[Sequence[Exportable], Path], list[Path]]] = {
    "csv": _csv, "parquet": _parquet, "wandb": _wandb, "mlflow": _mlflow,
}  # fmt: skip


def _by_step(run: Exportable) -> Iterator[tuple[int, dict[str, float]]]:
    """(number of a site in forward order, what is unexplained there by behaviour and level), whatever has a value."""
    found: dict[str, dict[str, float]] = {}
    frame = run.records
    for behaviour in behaviours(frame):
        for domain in domains(frame, behaviour):
            for position in positions(frame, behaviour):
                rows = leak_map(frame, behaviour=behaviour, domain=domain, position=position, k="all")
                within = [behaviour, *([domain] if len(domains(frame, behaviour)) > 1 else []),
                          *([position] if len(positions(frame, behaviour)) > 1 else [])]  # fmt: skip
                for site in dict.fromkeys(rows["hook"]):
                    found.setdefault(site, {})
                for row in rows[rows["value"].notna()].to_dict("records"):
                    found[row["hook"]]["/".join([*within, str(row["label"])])] = float(row["value"])
    yield from enumerate(found.values())


def _plain(name: str) -> str:
    """Without what the names of metrics may not have."""
    return re.sub(r"[^\w\-./ ]+", "", name)[:240]


def _flat(table: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif value not in (None, "", [], ()):
            yield before + key, value


@contextmanager
def _file_store() -> Iterator[None]:
    before = os.environ.get(FILE_STORE)
    os.environ[FILE_STORE] = "true"
    try:
        yield
    finally:
        os.environ.pop(FILE_STORE) if before is None else os.environ.update({FILE_STORE: before})
