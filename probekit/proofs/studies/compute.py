"""The study of compute: what a network loses with a description alone kept of an activation, told on two scales.

Loss recovered needs a floor, and three are in use: the activation set to zero, what is likely whatever the input, and
the best reader of the input alone. The other scale has none: the share of its training compute after which the network
was as good as it is then. Among the descriptions are the network's own earlier steps, of which that share is known.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.jobs.engines import Progress
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.training import compute_equivalent
from probekit.metrics.ratios import Estimate, Ratio, estimates
from probekit.proofs.blocks import block_study
from probekit.proofs.studies.beds import OTHELLO, WORLD, Levels, adder, othello, tiny_world
from probekit.proofs.studies.courses import ANSWER, RANDOM, RULE, Course, Stage
from probekit.proofs.studies.kept import Stored, listed
from probekit.records import digest
from probekit.testbeds.variants.checkpoints import KINDS

FLOORS = {"zero": "the activation is zero", "prior": "what is likely anyhow", "input": "the input alone, read"}
ADDERS: Levels = {"neurons": (16,), "directions": (4, 8, 16), "simple:quadratic": (4,)}
BOARDS: Levels = {"neurons": (64,), "directions": (16, 31), "simple:quadratic": (4,)}  # 32 squares have 31 directions
STORIES: Levels = {"neurons": (16,), "directions": (4, 8), "simple:quadratic": (4,)}
MEAN = ", mean"  # what is kept with all else as it is on average, and not another input's
STEP = "step"  # what an earlier step of the network is named by
GENERAL = tuple(kind for kind in KINDS if kind != "never")  # a network that never generalises has nothing to recover
N_BOOTSTRAP = 2_000


@dataclass(frozen=True)
class ComputeSize:
    """networks: of each kind that adds, all when 0. games: that the Othello network is read on, and stories of the tiny
    world, none when 0."""

    networks: int = 0
    games: int = 1_600
    stories: int = 400


@dataclass(frozen=True)
class ComputeFindings(Stored):
    """What the page speaks of, a row per kind, network and description.

    `loss` under replacement and the network's own in bits; under each of FLOORS its loss (`zero_bits`) and what is
    recovered (`zero`, `zero_low`, `zero_high`); `compute` alike, with why there is none in `compute_na`.
    """

    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ComputeCell:
    """One network at the end of its training. games: or stories."""

    kind: str
    network: int
    games: int
    seed: int

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["compute", 1, asdict(self)])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.kind} {self.network}"

    def course(self) -> Course:
        """The network as it learned; of Othello the last step alone is there."""
        if self.kind == OTHELLO:
            return othello(Path(), self.games, self.seed, BOARDS, until=0)
        if self.kind == WORLD:
            return tiny_world(self.games, self.seed, STORIES)
        return adder(self.kind, self.network, self.seed, ADDERS)


def measure_compute(
    root: Path, size: ComputeSize | None = None, seed: int = 0, progress: Progress | None = None
) -> ComputeFindings:
    """Measure every network. What is done lies in a folder below `root`: Interrupted on Ctrl-C, and the same call goes
    on."""
    size = size or ComputeSize()
    plan = [(kind, i) for kind in GENERAL for i in range(min(KINDS[kind][1], size.networks or KINDS[kind][1]))]
    texts = {kind: n for kind, n in ((OTHELLO, size.games), (WORLD, size.stories)) if n}
    plan += [(kind, 0) for kind in texts]
    cells = [ComputeCell(kind, i, texts.get(kind, 0), seed) for kind, i in plan]
    spec = {"compute": 1, "size": asdict(size), "seed": seed}
    _, frame = block_study("compute", spec, cells, measure_cell, root=root, progress=progress)
    return ComputeFindings(listed(frame))


def measure_cell(cell: ComputeCell) -> pd.DataFrame:
    """A row per description of one network."""
    course = cell.course()
    last = Stage(course, course.steps[-1], course.at(course.steps[-1]))
    lost = {name + MEAN * mean: last.loss(law) for mean in (True, False) for name, law in last.replaced(mean).items()}
    kept = dict(last.bases()).get(RULE)
    if kept is not None:
        for mean in (True, False):  # as many random directions as the decoders of the rule look along
            lost[f"{RANDOM} {kept.shape[1]}" + MEAN * mean] = last.loss(last.alone(last.drawn(kept.shape[1]), mean))
    else:
        for step in course.steps[:-1]:
            lost[f"{STEP} {step}"] = last.loss(course.at(step).law[last.test])
    place = {"kind": cell.kind, "network": cell.network, "last": course.steps[-1]}
    return pd.DataFrame([place | row for row in told_of(last, lost, cell.seed)])


def told_of(last: Stage, losses: dict[str, NDArray[np.float64]], seed: int) -> Iterator[dict[str, Any]]:
    """A row per name of `losses`, bits per test row [n_test] each: under every floor, and as compute.

    last: the network that is replaced, whose own loss is recovered.
    """
    own, floors = last.loss(last.snapshot.law[last.test]), floors_of(last)
    clusters = Clusters.of(last.course.group, N_BOOTSTRAP, seed)
    for name, loss in losses.items():
        row = {"level": name, "loss": _round(loss.mean()), "own": _round(own.mean()), "n": len(own)}
        told = estimates([Ratio(floor - loss, floor - own) for floor in floors.values()], clusters)
        for (floor, bits), found in zip(floors.items(), told, strict=True):
            row |= {f"{floor}_bits": _round(bits.mean())} | _figures(floor, found)
        found = compute_equivalent(last.course.curve, loss - own, clusters)
        yield row | _figures("compute", found) | {"compute_na": found.note if found.na_reason else ""}


def floors_of(last: Stage) -> dict[str, NDArray[np.float64]]:
    """Bits per test row [n_test] of each of FLOORS."""
    course = last.course
    prior = course.seen.behaviours[ANSWER].law[course.setting.split.fit].mean(0).astype(np.float64)
    return {
        "zero": last.loss(last.zeroed()), "prior": last.loss(np.tile(prior, (len(last.test), 1))),
        "input": course.setting.floor_bits(),
    }  # fmt: skip


def _figures(name: str, found: Estimate) -> dict[str, Any]:
    return {name: _round(found.value), f"{name}_low": _round(found.low), f"{name}_high": _round(found.high)}


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5) + 0.0
