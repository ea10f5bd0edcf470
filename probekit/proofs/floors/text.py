"""The floor alone on published tasks: what a reader of the text knows, where a network was probed.

A unit is a task with all of its splits; its rows go into a run folder, so that a stopped study resumes.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.fit.floor import Inputs, blocks_of, fit_floor
from probekit.fit.readout import cross_entropy
from probekit.inputs.surface import word_features
from probekit.jobs.engines import Progress
from probekit.metrics.auroc import auroc
from probekit.metrics.splits import FRACTIONS, Split
from probekit.proofs.blocks import block_study
from probekit.proofs.floors.tasks import Texts, chosen, published, read_texts
from probekit.records import digest
from probekit.storage.runs import Run

N_TRAINED, N_LEFT, N_TEST = 1_024, 100, 2_000  # as published; to test are left at least so many, and tested so many
SPLITS = 5
VERSION = 1


@dataclass(frozen=True)
class TextUnit:
    """All splits of a task. folder: where its file is, which is no part of what it is."""

    task: str
    splits: int
    folder: Path

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["floors", VERSION, self.task, self.splits])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return self.task


def text_floors(
    folder: Path, splits: int = SPLITS, only: Sequence[str] = (), *,
    root: Path | str = "runs", n_workers: int = 1, progress: Progress | None = None,
) -> tuple[Run, pd.DataFrame]:  # fmt: skip
    """The strong floor of whole texts (`word_features`) on every task; returns the run folder and a row per task.

    only: tasks, all 113 when empty. Raises BadInput for an unknown task; Interrupted on Ctrl-C, and the same call
    resumes.
    """
    if splits < 1:
        raise BadInput(f"a task is split at least once; found {splits}.")
    tasks = chosen(only)
    planned = [TextUnit(task, splits, folder) for task in tasks]
    spec = {"floors": VERSION, "tasks": tasks, "splits": splits}
    told = {"root": root, "n_workers": n_workers, "progress": progress}
    return block_study("floors", spec, planned, _measure_unit, judged, **told)


def _measure_unit(unit: TextUnit) -> pd.DataFrame:
    return pd.DataFrame(read_floor(unit.task, read_texts(unit.folder, unit.task), unit.splits))


def read_floor(task: str, rows: Texts, splits: int) -> list[dict]:
    """One row per split: AUC and bits of the floor on test rows, and on those whose text no trained row has."""
    inputs = word_features(rows.texts)
    read = Inputs.of(inputs, blocks_of("strong", inputs))  # counted once for all splits
    number, out = rows.number, []
    for seed in range(splits):
        trained, tested = draw(rows.label, seed)
        both = np.concatenate([trained, tested])
        law = torch.from_numpy(np.eye(2, dtype=np.float32)[rows.label[both]].T[:, None].copy())
        split = sides(len(trained), len(both))
        floor, logits = fit_floor("strong", read.rows(both), law, np.arange(len(both)), split, seed)
        odds = (logits[1, 0] - logits[0, 0]).numpy()[split.test]
        label, unseen = rows.label[tested], ~np.isin(number[tested], number[trained])
        out.append({
            "task": task, "seed": seed, "n_rows": len(rows.label), "n_texts": int(number.max()) + 1,
            "length": rows.median_length, "n_trained": len(trained), "n_test": len(tested),
            "n_unseen": int(unseen.sum()), "family": floor.family, "auc": auroc(odds, label),
            "auc_unseen": auroc(odds[unseen], label[unseen]) if len(set(label[unseen])) == 2 else None,
            "bits": float(cross_entropy(logits, law)[0, split.test].mean()),
        })  # fmt: skip
    return out


def draw(label: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train and to test on, as published: row by row, half of each class, 1,024 or all but 100, then 2,000.

    Raises BadInput where a task has too few rows of a class.
    """
    n_trained = min(len(label) - N_LEFT, N_TRAINED)
    n_test = min(len(label) - n_trained, N_TEST)
    generator = np.random.default_rng([seed, 41])
    rows = [generator.permutation(np.flatnonzero(label == side)) for side in (0, 1)]
    half, more = n_trained // 2, n_test // 2
    if half < 2 or min(map(len, rows)) <= half:
        raise BadInput(f"a task needs more than {max(half, 2)} rows of each class; found {[*map(len, rows)]}.")
    trained, tested = ([side[at] for side in rows] for at in (slice(half), slice(half, half + more)))
    return generator.permutation(np.concatenate(trained)), generator.permutation(np.concatenate(tested))


def sides(n_trained: int, n: int) -> Split:
    """The trained rows, in random order, shared out to fit, select and calibrate as in every measurement; then test."""
    ends = np.round(np.cumsum(FRACTIONS[:3]) / sum(FRACTIONS[:3]) * n_trained).astype(np.int64)
    fit, select, calibrate, test = np.split(np.arange(n, dtype=np.int64), ends)
    return Split(fit, select, calibrate, test)


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per task: means over splits, the spread of the AUC between them, and the published AUCs."""
    out = []
    for task, part in rows.groupby("task", sort=False):
        first = part.iloc[0]
        out.append({
            "task": task, **{name: first[name] for name in ("n_rows", "n_texts", "length", "n_trained", "n_test")},
            "splits": len(part), "floor": part["auc"].mean(), "sd": part["auc"].std(ddof=1),
            "lowest": part["auc"].min(), "highest": part["auc"].max(), "bits": part["bits"].mean(),
            "unseen": (part["n_unseen"] / part["n_test"]).mean(), "floor_unseen": part["auc_unseen"].mean(),
            **published()[str(task)],
        })  # fmt: skip
    return pd.DataFrame(out)
