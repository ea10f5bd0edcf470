"""Costs: how often a job runs the model with its activations edited, told from the spec alone: an upper bound.

A text is run whole once for each hook point, and then from the first edited token and the first edited block on, once
for every edit: these are edited runs. Time is that of their multiplications at the speed that this processor has here.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from functools import cache
from typing import Any

import numpy as np

from probekit.hookpoint import HookPoint, after_blocks, n_matches
from probekit.inputs.folders import n_layers_of, width_of
from probekit.jobs.progress import time_left
from probekit.spec import ComposeSpec, JobSpec, ReplaceSpec

METHODS = 3  # of a single direction: mean difference, LDA, logistic
SEARCH = 128 * 3  # pairs of a step of a search for a subspace, forwards and backwards
EXACT = 12  # parts, up to which all sets of them are run
SQUARE = 512  # of the matrices that are multiplied to see how fast this processor is


@dataclass(frozen=True)
class EditedRuns:
    """Of one kind of cell: places [hook points, or chains], texts that are run whole, edited runs of their ends, and
    blocks of those, with the whole texts' own. seconds: at least, None where the model's size is not known."""

    kind: str
    places: int
    passes: int
    runs: int
    blocks: int | None
    seconds: float | None

    def line(self) -> str:
        """For people."""
        blocks = "" if self.blocks is None else f", {self.blocks:,} block evaluations"
        seconds = "" if self.seconds is None else f", {time_left(max(1, self.seconds))} or more here"
        return (
            f"{self.kind}: {self.places} place{'s' * (self.places > 1)}, {self.passes:,} forward passes of whole texts "
            f"and at most {self.runs:,} edited ones{blocks}{seconds}"
        )


@dataclass(frozen=True)
class ModelSize:
    """What the config of a local model and its texts say. tokens: of a text; tail: from the first edited one on."""

    layers: int
    block: int
    tokens: float
    tail: float

    @classmethod
    def of(cls, config: Mapping[str, Any], tokens: float | None, at_end: bool) -> "ModelSize | None":
        """None where one of it is not known. at_end: whether the last token alone is edited and read."""
        layers, width = n_layers_of(config), width_of(config)
        if not layers or not width:
            return None
        inner = config.get("intermediate_size") or config.get("n_inner") or 4 * width
        known = 1.0 if tokens is None else tokens
        return cls(layers, 4 * width**2 + 2 * width * inner, known, 1.0 if at_end else known)


def edited_runs(
    spec: JobSpec, size: ModelSize | None, kinds: Mapping[str, str], ranks: Mapping[str, int]
) -> Iterator[EditedRuns]:
    """Of replace, steer and compose, as far as they are asked for. kinds: of the behaviours; ranks: of their readouts,
    as far as they are known."""
    speed = None if size is None else _speed()
    if spec.replace is not None:
        hooks = spec.replace.hooks or after_blocks(spec.read.hooks)
        for kind, runs_of in (("replace", _replaced), ("steer", _steered)):
            if kind == "replace" or spec.steer is not None:
                runs = sum(
                    runs_of(spec, spec.replace, name, kinds, ranks) for name in spec.replace.behaviours_of(kinds)
                )
                yield _priced(kind, hooks, spec.replace.rows, len(spec.replace.behaviours_of(kinds)), runs, size, speed)
    if spec.compose is not None:
        asked = spec.compose.behaviours_of(kinds)
        hooks = spec.compose.hooks or after_blocks(spec.read.hooks)
        yield _priced(
            "compose", hooks, spec.compose.rows, len(asked), len(asked) * _composed(spec.compose), size, speed
        )


def seconds_of(size: ModelSize | None, texts: int) -> float | None:
    """Of whole texts in the model's blocks, at the speed of this processor: at least."""
    return None if size is None else 2 * size.block * size.layers * size.tokens * texts / _speed()


def bytes_of(spec: JobSpec, config: Mapping[str, Any], rows: int, copies: int) -> int | None:
    """Of the activations of `rows` at the hook points that are read; copies: of them, such as a twin's."""
    n_layers, width = n_layers_of(config), width_of(config)
    if n_layers is None or width is None:
        return None
    sites = sum(n_matches(pattern, n_layers) for pattern in spec.read.hooks)
    number = 2 if spec.model and spec.model.dtype == "bfloat16" else 4
    return rows * sites * width * number * copies


def _priced(
    kind: str,
    patterns: Sequence[str],
    rows: int,
    n_behaviours: int,
    runs: int,
    size: ModelSize | None,
    speed: float | None,
) -> EditedRuns:
    """runs: of one row at one hook point, over all behaviours."""
    if size is None:
        n = sum(1 for _ in patterns)
        return EditedRuns(kind, n, n * rows * n_behaviours, n * rows * runs, None, None)
    layers = [layer for pattern in patterns for layer in _layers(pattern, size.layers)]
    passes = rows * n_behaviours * len(layers)
    tails = sum(size.layers - layer for layer in layers) * rows * runs
    blocks = passes * size.layers + tails
    done = 2 * size.block * (passes * size.layers * size.tokens + tails * size.tail)
    return EditedRuns(kind, len(layers), passes, rows * runs * len(layers), blocks, done / speed if speed else None)


def _layers(pattern: str, n_layers: int) -> list[int]:
    """The first block that an edit there runs, for each hook point that a pattern names."""
    if "*" not in pattern:
        return [HookPoint.parse(pattern).entry]
    part = pattern.split(".", 2)[-1]
    return [HookPoint.parse(name).entry
            for name in matching([HookPoint.within(i, part).name for i in range(n_layers)], pattern)]  # fmt: skip


def _sets(
    spec: JobSpec, replaced: ReplaceSpec, behaviour: str, kinds: Mapping[str, str], ranks: Mapping[str, int]
) -> list[tuple[str, int, bool]]:
    """(level, k, whether LEACE has a label for it) of every direction set that is kept, random ones at the end."""
    out = []
    for name in (behaviour, *replaced.labels_of(kinds, behaviour)):
        for level in replaced.levels:
            if level not in spec.read.levels:
                continue
            if level == "direction":
                out += [(level, 1, False)] * METHODS
                continue
            most = ranks.get(name) if level == "directions" else None
            ks = spec.read.simple_ks if level.startswith("simple:") else spec.read.ks
            found = {k if most is None else min(k, most) for k in replaced.ks if most is not None or k in ks}
            out += [(level, k, level == "directions") for k in sorted(found)]
    out += [("directions", 2, False) for _ in replaced.features]
    out += [("directions", len(entry.rows or (1,)), False) for entry in spec.directions]
    out += [("das", k, False) for k in replaced.das_ks] + [("pca", k, False) for k in replaced.ks]
    return out + [("random", k, False) for k in sorted({k for _, k, _ in out})]


def _replaced(
    spec: JobSpec, replaced: ReplaceSpec, behaviour: str, kinds: Mapping[str, str], ranks: Mapping[str, int]
) -> int:
    """Edited runs of one row at one hook point."""
    swaps = replaced.donors if replaced.swap is None else replaced.swaps
    cost = {"random": replaced.donors, "matched": replaced.donors, "resample": replaced.donors, "iia": swaps}
    arms = [arm for arm in replaced.arms if not arm.startswith("chain:") and arm != "roll_out"]
    if replaced.swap is None and "necessity:resample" in arms and "iia" in arms:
        arms.remove("iia")  # the same run as that one
    told = any(arm.startswith("necessity") or arm == "iia" for arm in replaced.arms)
    runs = sum(cost[arm.partition(":")[2]] if arm == "single:random" else 1 for arm in arms
               if arm in ("single:random", "single:mean"))  # fmt: skip
    runs += (replaced.donors + 1 + swaps * ("iia" in replaced.arms)) * told  # all of the site
    for _, k, label in _sets(spec, replaced, behaviour, kinds, ranks):
        for arm in arms:
            if arm != "necessity:leace" or (label and k == 1):
                runs += cost.get(arm if arm == "iia" else arm.partition(":")[2], 1)
    beside = len(replaced.das_controls) + 1 if "iia" in replaced.arms else 0
    searches = 1 + sum(control != "placebo" for control in replaced.das_controls) * ("iia" in replaced.arms)
    return runs + len(replaced.das_ks) * (beside * swaps + -(-searches * replaced.das_steps * SEARCH // replaced.rows))


def _steered(
    spec: JobSpec, replaced: ReplaceSpec, behaviour: str, kinds: Mapping[str, str], ranks: Mapping[str, int]
) -> int:
    """Each single direction in every dose, and as many random ones."""
    single = [level for level, k, _ in _sets(spec, replaced, behaviour, kinds, ranks) if k == 1 and level != "random"]
    return 2 * len(single) * len(spec.steer.doses) if spec.steer else 0


def _composed(spec: ComposeSpec) -> int:
    """Every set of parts that is kept, or as many as are drawn."""
    n = len(spec.parts) or spec.k or 0
    return spec.donors * (2**n if n <= EXACT else spec.sets)


@cache
def _speed() -> float:
    """Multiplications and additions a second of this processor, on matrices of the size of a small model's."""
    one = np.ones((SQUARE, SQUARE), np.float32)
    best = np.inf
    for _ in range(4):
        begun = time.perf_counter()
        np.matmul(one, one)
        best = min(best, time.perf_counter() - begun)
    return 2 * SQUARE**3 / best
