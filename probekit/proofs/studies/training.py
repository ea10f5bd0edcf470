"""The study of training: at which step does a level become readable, used, and what it will be at the end?

Networks are kept at steps spread over the logarithm of compute, and all are asked of the same inputs: what can be read
of the right answer, what the network itself says with a description alone kept, and what is lost when a description of
this step is taken, frozen, to the last one. Neighbouring steps are compared over rows that they share.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from probekit.jobs.engines import Progress
from probekit.measurement.across import LEAST_SEEDS
from probekit.metrics.bootstrap import Clusters, Crossed, Differences, ratio_intervals
from probekit.metrics.causal.training import TrainingCurve
from probekit.metrics.ratios import Ratio, too_little
from probekit.proofs.blocks import block_study
from probekit.proofs.studies.beds import OTHELLO, UNTIL, WORLD, adder, othello, tiny_world, train_othello
from probekit.proofs.studies.courses import Course
from probekit.proofs.studies.kept import Stored, listed
from probekit.records import digest
from probekit.testbeds.variants.checkpoints import KINDS

METRICS = ("read", "replace", "transfer")
MARGIN = 0.2  # of what there is to explain, that a level has to explain for good to count as there
MARGINS = (MARGIN, 0.35, 0.5)  # beside it, others that may have been chosen
N_BOOTSTRAP = 2_000


@dataclass(frozen=True)
class TrainingSize:
    """networks: of each kind that adds, all when 0. games: that the Othello network is read on, and stories of the tiny
    world, none when 0."""

    networks: int = 0
    games: int = 1_600
    stories: int = 400


@dataclass(frozen=True)
class TrainingFindings(Stored):
    """What the page speaks of. onsets: `begun`; learned: a row per kind, network and step.

    rows: one per kind, metric, level and step, with its value, an interval, and the change since the step before.
    """

    rows: tuple[dict[str, Any], ...]
    onsets: tuple[dict[str, Any], ...]
    learned: tuple[dict[str, Any], ...]

    @cached_property
    def begun(self) -> dict[tuple[str, str, str, float], dict[int, float | None]]:
        """(kind, metric, level, margin) -> network -> the step from which on it is there, None where it never is."""
        out: dict[tuple[str, str, str, float], dict[int, float | None]] = {}
        for row in self.onsets:
            at, step = (row["kind"], row["metric"], row["level"], row["margin"]), row["onset"]
            out.setdefault(at, {})[int(row["network"])] = None if step is None or np.isnan(step) else float(step)
        return out


@dataclass(frozen=True)
class TrainingCell:
    """One network of a kind at all of its steps. games: or stories; root: where the first steps of Othello are."""

    kind: str
    network: int
    games: int
    seed: int
    root: Path

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["training", 1, self.kind, self.network, self.games, UNTIL if self.games else 0, self.seed])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.kind} {self.network}"

    def course(self) -> Course:
        """The network as it learns."""
        if self.kind == OTHELLO:
            return othello(self.root / OTHELLO, self.games, self.seed)
        if self.kind == WORLD:
            return tiny_world(self.games, self.seed)
        return adder(self.kind, self.network, self.seed)


def measure_training(
    root: Path, size: TrainingSize | None = None, seed: int = 0, progress: Progress | None = None
) -> TrainingFindings:
    """Measure every kind at every step; the first steps of Othello are trained below `root` where they are not there.

    What is done lies in a folder below `root`: Interrupted on Ctrl-C, and the same call goes on.
    """
    size = size or TrainingSize()
    if size.games:
        train_othello(root / OTHELLO)
    texts = {kind: n for kind, n in ((OTHELLO, size.games), (WORLD, size.stories)) if n}
    plan = [(kind, 0) for kind in texts]
    plan += [(kind, i) for kind, (_, n) in KINDS.items() for i in range(min(n, size.networks or n))]
    cells = [TrainingCell(kind, i, texts.get(kind, 0), seed, root) for kind, i in plan]
    spec = {"training": 1, "size": asdict(size), "until": UNTIL, "seed": seed}
    by_kind = partial(judged, seed=seed)
    _, frame = block_study("training", spec, cells, measure_cell, by_kind, root=root, progress=progress)
    rows, onsets, learned = (_listed(frame[frame["table"] == name]) for name in ("rows", "onsets", "learned"))
    return TrainingFindings(rows, onsets, learned)


def _listed(frame: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    kept = frame.dropna(axis="columns", how="all").drop(columns="table")
    counts = [name for name in ("step", "network", "networks") if name in kept]  # which stand beside tables without
    return listed(kept.astype(dict.fromkeys(counts, int)))


# One network ----------------------------------------------------------------------------------------------------------


def measure_cell(cell: TrainingCell) -> pd.DataFrame:
    """A row per step, metric and level: sums over groups of rows of what is missed and of what there is."""
    course, rows = cell.course(), []
    stages = list(course.stages())
    code = np.unique(course.group, return_inverse=True)[1]
    sizes = np.bincount(code)
    for stage in stages:
        told = {"read": stage.read(), "replace": stage.used(), "transfer": stage.carried(stages[-1])}
        place = {"kind": cell.kind, "network": cell.network, "step": stage.step, "accuracy": stage.accuracy,
                 "loss": float(stage.loss(stage.snapshot.law[stage.test]).mean())}  # fmt: skip
        for metric, levels in told.items():
            for level, ratio in levels.items():
                rows.append(place | {"metric": metric, "level": level} | _sums(ratio, code, sizes))
    return pd.DataFrame(rows)


def _sums(ratio: Ratio | None, code: NDArray[np.int64], sizes: NDArray[np.int64]) -> dict[str, Any]:
    """missed and available [n_groups]; no numbers where there is too little to explain, or where none was fitted."""
    none = [float("nan")] * len(sizes)
    if ratio is None:
        return {"missed": none, "available": none}
    missed, available = (np.bincount(code, one, len(sizes)) for one in (ratio.missed, ratio.available))
    if too_little(available, sizes):
        return {"missed": none, "available": none}
    return {"missed": missed.tolist(), "available": available.tolist()}


# All networks of a kind -----------------------------------------------------------------------------------------------


def judged(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The tables of the findings, one below the other; `table` says which."""
    made = [{"table": "rows", **one} for one in _values(rows, seed)]
    made += [{"table": "onsets", **one} for one in _onsets(rows)]
    learned = rows.drop_duplicates(["kind", "network", "step"])
    made += [
        {"table": "learned", "kind": row["kind"], "network": row["network"], "step": row["step"],
         "accuracy": round(row["accuracy"], 4), "loss": round(row["loss"], 4)} for row in learned.to_dict("records")
    ]  # fmt: skip
    return pd.DataFrame(made)


@dataclass(frozen=True)
class _Sums:
    """Of some networks, one after the other: missed, available and the network of each group, [n] each."""

    missed: NDArray[np.float64]
    available: NDArray[np.float64]
    network: NDArray[np.int64]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "_Sums":
        parts = [
            np.concatenate([np.asarray(one, dtype=np.float64) for one in rows[name]])
            for name in ("missed", "available")
        ]
        return cls(*parts, np.repeat(rows["network"].to_numpy(), [len(one) for one in rows["missed"]]))

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.missed).all())

    @property
    def value(self) -> float:
        return float(self.missed.sum() / self.available.sum()) if self.known else float("nan")

    def interval(self, seed: int) -> tuple[float | None, float | None]:
        """Over networks; of one alone over its groups; none of two to four networks."""
        n = len(np.unique(self.network))
        if not self.known or 1 < n < LEAST_SEEDS:
            return None, None
        if n > 1:
            return Crossed.of(self.network, self.network).interval(self.missed, self.available)
        weights = Clusters.of(np.arange(len(self.missed)), N_BOOTSTRAP, seed).weights
        return ratio_intervals(self.missed[None], self.available[None], weights)[0]

    def change(self, since: "_Sums", seed: int) -> dict[str, float | None]:
        """Value less that of the step before: groups of rows of all networks are drawn, once for both steps."""
        if not (self.known and since.known):
            return {"change": None, "change_low": None, "change_high": None}
        weights = Clusters.of(np.arange(len(self.missed)), N_BOOTSTRAP, seed).weights
        sums = [(one.missed[None], one.available[None]) for one in (since, self)]
        found = Differences.paired(*sums, weights)
        low, high = found.intervals()[0]
        return {"change": _round(found.value[0]), "change_low": _round(low), "change_high": _round(high)}


def _values(rows: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    for (kind, metric, level), part in rows.groupby(["kind", "metric", "level"], sort=False):
        before: _Sums | None = None
        for step, some in part.groupby("step"):
            now = _Sums.of(some.sort_values("network"))
            low, high = now.interval(seed)
            told = {"kind": kind, "metric": metric, "level": level, "step": int(step), "networks": len(some),
                    "value": _round(now.value), "low": _round(low), "high": _round(high)}  # fmt: skip
            yield told | ({} if before is None else now.change(before, seed))
            before = now


def _round(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4) + 0.0


def _onsets(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for (kind, network, metric, level), part in rows.groupby(["kind", "network", "metric", "level"], sort=False):
        part = part.sort_values("step")
        values = np.array([_Sums.of(part.iloc[[i]]).value for i in range(len(part))])
        for margin in MARGINS:
            found = _round(onset(part["step"].to_numpy(), values, margin))
            yield {"kind": kind, "network": int(network), "metric": metric, "level": level, "margin": margin,
                   "onset": found}  # fmt: skip


def onset(steps: NDArray, values: NDArray, margin: float = MARGIN) -> float | None:
    """The step from which on a share left unexplained stays at 1 - margin or below; None where it ends above.

    Between two steps it falls along a line in the logarithm of steps. NaN counts as 1: nothing is there.

    >>> import numpy as np
    >>> from probekit.proofs.studies.training import onset
    >>> round(onset(np.array([0, 10, 100, 1000]), np.array([0.5, 1.0, 0.9, 0.1])), 1)
    133.4
    """
    values = np.where(np.isfinite(values), values, 1.0)
    above = np.flatnonzero(values > 1 - margin)
    if not len(above):
        return float(steps[0])
    last = int(above[-1])
    if last == len(steps) - 1:
        return None
    curve = TrainingCurve.of(steps[last : last + 2], values[last : last + 2])
    return curve.share(1 - margin) * float(steps[last + 1])


@dataclass(frozen=True)
class Mean:
    """A geometric mean over networks with the interval of Student's t, none below LEAST_SEEDS; n: networks."""

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Mean":
        """values [n], all above 0."""
        told, n = np.log(values), len(values)
        middle = float(told.mean())
        if n < LEAST_SEEDS:
            return cls(float(np.exp(middle)), None, None, n)
        width = float(told.std(ddof=1) / np.sqrt(n) * stdtrit(n - 1, 0.975))
        return cls(float(np.exp(middle)), float(np.exp(middle - width)), float(np.exp(middle + width)), n)
