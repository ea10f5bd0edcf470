"""What a model adds to the text: the floor, a linear reader and its FBU on the tasks whose texts are shortest."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.hookpoint import spread
from probekit.jobs.engines import Progress
from probekit.jobs.probe import probe
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.proofs.blocks import block_study
from probekit.proofs.floors.tasks import LABEL, TEXT, chosen, read_texts
from probekit.records import digest
from probekit.storage.runs import Run

N_TASKS, N_ROWS, N_SITES = 24, 1_000, 6
LEVELS = ("baseline", "linear")
VERSION = 1


@dataclass(frozen=True)
class ModelUnit:
    """A task read by a model. model, folder: where both are; root: where its own run folder goes."""

    task: str
    model: str
    n_rows: int
    folder: Path
    root: Path

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["floors of a model", VERSION, self.task, Path(self.model).name, self.n_rows])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.task} by {Path(self.model).name}"


def model_floors(
    folder: Path, model: str, tasks: Sequence[str] = (), n_rows: int = N_ROWS, *,
    root: Path | str = "runs", progress: Progress | None = None,
) -> tuple[Run, pd.DataFrame]:  # fmt: skip
    """Every task read by a model at six layers; returns the run folder and a row per task.

    tasks: those whose texts are shortest when empty. One text is never on two sides of a split, however often it
    comes. Raises BadInput for an unknown task or a model that cannot be loaded; a stopped study resumes.
    """
    if n_rows < 100:
        raise BadInput(f"a task is read from 100 rows at least; found {n_rows}.")
    asked = chosen(tasks) if tasks else shortest(folder)
    planned = [ModelUnit(task, model, n_rows, folder, Path(root)) for task in asked]
    spec = {"model_floors": VERSION, "tasks": asked, "model": Path(model).name, "n_rows": n_rows}
    told = {"root": root, "n_workers": 1, "progress": progress}
    return block_study("model_floors", spec, planned, _measure_unit, lambda rows: rows, **told)


def shortest(folder: Path, n: int = N_TASKS) -> list[str]:
    """The rule: the tasks whose median text has fewest characters; of equals the one with the smaller number."""
    every = chosen(())
    length = [read_texts(folder, task).median_length for task in every]
    return [every[i] for i in np.argsort(length, kind="stable")[:n]]


def some_rows(label: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """At most n rows, half of each class, drawn at random, in the order of the file."""
    generator = np.random.default_rng(43)
    return np.sort(np.concatenate([generator.permutation(np.flatnonzero(label == side))[: n // 2] for side in (0, 1)]))


@cache
def _loaded(model: str) -> Model:
    return load_model(model)


def _measure_unit(unit: ModelUnit) -> pd.DataFrame:
    rows, model = read_texts(unit.folder, unit.task), _loaded(unit.model)
    kept = some_rows(rows.label, unit.n_rows)
    file = unit.root / "texts" / f"{unit.task}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({TEXT: [rows.texts[i] for i in kept], LABEL: rows.label[kept]}).to_csv(file, index=False)
    hooks = [hook.name for hook in spread(model.n_layers, N_SITES)]
    found = probe(
        model, file, label=LABEL, text=TEXT, group=TEXT, hooks=hooks, levels=LEVELS,
        root=unit.root / "probes", store=unit.root / "activations", progress=False, controls=(), n_permutations=0,
        falls=False,
    )  # fmt: skip
    known = bool(found.frame["value"].notna().any())
    told = _told(found.frame, found.best() if known else None)
    return pd.DataFrame([{"task": unit.task, "length": rows.median_length} | told])


def _told(frame: pd.DataFrame, best: pd.Series | None) -> dict[str, Any]:
    """The floor's figures and, where it leaves something to explain, those of the layer that selection rows prefer."""
    floor = frame.iloc[0]
    left = ("auroc", "value", "low", "high")
    auroc, value, low, high = (float("nan") if best is None else float(best[name]) for name in left)
    return {
        "n": int(floor["n"]), "groups": int(floor["groups"]), "hook": "" if best is None else str(best["hook"]),
        "floor_auroc": float(floor["floor_auroc"]), "floor_bits": float(floor["floor_bits"]),
        "auroc": auroc, "fbu": value, "low": low, "high": high,
    }  # fmt: skip
