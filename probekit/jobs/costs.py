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
from probekit.spec import GENERATION, ComposeSpec, JobSpec, ReplaceSpec, SteerSpec

METHODS = 3  # of a single direction: mean difference, LDA, logistic
SEARCH = 128 * 3  # pairs of a step of a search for a subspace, forwards and backwards
EXACT = 12  # parts, up to which all sets of them are run
ROLL_OUT = "roll_out"
Kept = tuple[str, int, bool]  # level, k, and whether LEACE has a label for it
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


@dataclass(frozen=True)
class PricedTask:
    """What decides how much is run beside the spec. kinds: of the behaviours; ranks: of their readouts, as far as they
    are known; domains: of the file; positions: rules of them that are measured apart."""

    kinds: Mapping[str, str]
    ranks: Mapping[str, int]
    domains: int = 1
    positions: int = 1


def edited_runs(spec: JobSpec, size: ModelSize | None, asked: PricedTask) -> Iterator[EditedRuns]:
    """Of replace, chains, roll-out, steer and compose, as far as they are asked for."""
    if spec.replace is not None:
        yield from _replace_runs(spec, spec.replace, size, asked)
    if spec.compose is not None:
        named = spec.compose.behaviours_of(asked.kinds)
        entries = _entries(spec.compose.hooks or after_blocks(spec.read.hooks), size)
        rows = spec.compose.rows * asked.positions
        yield _priced("compose", entries, rows, len(named), len(named) * _composed(spec.compose), size)


def _replace_runs(
    spec: JobSpec, replaced: ReplaceSpec, size: ModelSize | None, asked: PricedTask
) -> Iterator[EditedRuns]:
    entries = _entries(replaced.hooks or after_blocks(spec.read.hooks), size)
    rows, edited = replaced.rows * asked.positions, spec.edited_of(asked.kinds)
    sets = {name: _sets(spec, replaced, name, asked) for name in (*edited["replace"], *edited["steer"])}
    sets = {name: found + [("random", k, False) for k in sorted({k for _, k, _ in found})]
            for name, found in sets.items()}  # fmt: skip
    shown = [sets[name] for name in edited["replace"]]
    if shown:
        yield _priced("replace", entries, rows, len(shown), sum(_replaced(replaced, one) for one in shown), size)
    if shown and len(entries) > 1:
        domains = asked.domains if spec.transfer else 1
        runs = sum(_chained(replaced, one) for one in shown)
        yield _priced("chain", [min(entries)] * domains, rows, len(shown), runs, size)
    if shown and entries and ROLL_OUT in replaced.arms:
        runs = sum(replaced.donors * len(_without_das(one)) for one in shown)
        yield _priced(ROLL_OUT, [min(entries)] * len(entries), rows, len(shown), runs, size)
    if spec.steer is None:
        return
    told = [name for name in edited["steer"] if asked.kinds[name] != GENERATION]
    runs = sum(_steered(spec.steer, sets[name]) for name in told)
    if told:
        yield _priced("steer", entries, rows, len(told), runs, size)
    tokens = _written(spec)
    for name in (name for name in edited["steer"] if name not in told):
        runs = rows * len(entries) * _steered(spec.steer, sets[name])
        yield _written_runs(f"steer while {name} is written", len(entries), runs, tokens[name], size)


def _written_runs(kind: str, places: int, runs: int, tokens: int, size: ModelSize | None) -> EditedRuns:
    """runs: of all places, a text and `tokens` behind it each."""
    if size is None:
        return EditedRuns(kind, places, 0, runs, None, None)
    done = 2 * size.block * runs * size.layers * (size.tokens + tokens)
    return EditedRuns(kind, places, 0, runs, runs * size.layers * tokens, done / _speed())


def _written(spec: JobSpec) -> dict[str, int]:
    """Tokens that are written for a row of each behaviour of kind `generation`."""
    return {entry.name: (entry.n_tokens or 1) * max(1, entry.samples)
            for entry in spec.task.behaviours if entry.kind == GENERATION}  # fmt: skip


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
    kind: str, entries: Sequence[int], rows: int, n_behaviours: int, runs: int, size: ModelSize | None
) -> EditedRuns:
    """entries: of each place the first block that is run again. runs: of one row at one place, over all behaviours."""
    n = len(entries)
    passes = rows * n_behaviours * n
    if size is None:
        return EditedRuns(kind, n, passes, n * rows * runs, None, None)
    tails = sum(size.layers - entry for entry in entries) * rows * runs
    blocks = passes * size.layers + tails
    done = 2 * size.block * (passes * size.layers * size.tokens + tails * size.tail)
    return EditedRuns(kind, n, passes, rows * runs * n, blocks, done / _speed())


def _entries(patterns: Sequence[str], size: ModelSize | None) -> list[int]:
    """The first block that an edit runs at each hook point; one for each pattern where the model is not known."""
    return [layer for pattern in patterns for layer in (_layers(pattern, size.layers) if size else [0])]


def _layers(pattern: str, n_layers: int) -> list[int]:
    """The first block that an edit there runs, for each hook point that a pattern names."""
    if "*" not in pattern:
        return [HookPoint.parse(pattern).entry]
    part = pattern.split(".", 2)[-1]
    return [HookPoint.parse(name).entry
            for name in matching([HookPoint.within(i, part).name for i in range(n_layers)], pattern)]  # fmt: skip


def _sets(spec: JobSpec, replaced: ReplaceSpec, behaviour: str, asked: PricedTask) -> list[Kept]:
    """Every direction set that is kept, but for random ones."""
    out = []
    for name in (behaviour, *replaced.labels_of(asked.kinds, behaviour)):
        for level in replaced.levels:
            if level not in spec.read.levels:
                continue
            if level == "direction":
                out += [(level, 1, False)] * METHODS
                continue
            most = asked.ranks.get(name) if level == "directions" else None
            ks = spec.read.simple_ks if level.startswith("simple:") else spec.read.ks
            found = {k if most is None else min(k, most) for k in replaced.ks if most is not None or k in ks}
            out += [(level, k, level == "directions") for k in sorted(found)]
    out += [("directions", 2, False) for _ in replaced.features]
    out += [("directions", len(entry.rows or (1,)), False) for entry in spec.directions]
    return out + [("das", k, False) for k in replaced.das_ks] + [("pca", k, False) for k in replaced.ks]


def _replaced(replaced: ReplaceSpec, sets: Sequence[Kept]) -> int:
    """Edited runs of one row at one hook point."""
    swaps = replaced.donors if replaced.swap is None else replaced.swaps
    cost = {"random": replaced.donors, "matched": replaced.donors, "resample": replaced.donors, "iia": swaps}
    arms = [arm for arm in replaced.arms if not arm.startswith("chain:") and arm != ROLL_OUT]
    if replaced.swap is None and "necessity:resample" in arms and "iia" in arms:
        arms.remove("iia")  # the same run as that one
    told = any(arm.startswith("necessity") or arm == "iia" for arm in replaced.arms)
    runs = sum(cost[arm.partition(":")[2]] if arm == "single:random" else 1 for arm in arms
               if arm in ("single:random", "single:mean"))  # fmt: skip
    runs += (replaced.donors + 1 + swaps * ("iia" in replaced.arms)) * told  # all of the site
    for _, k, label in sets:
        for arm in arms:
            if arm != "necessity:leace" or (label and k == 1):
                runs += cost.get(arm if arm == "iia" else arm.partition(":")[2], 1)
    beside = len(replaced.das_controls) + 1 if "iia" in replaced.arms else 0
    searches = 1 + sum(control != "placebo" for control in replaced.das_controls) * ("iia" in replaced.arms)
    return runs + len(replaced.das_ks) * (beside * swaps + -(-searches * replaced.das_steps * SEARCH // replaced.rows))


def _without_das(sets: Sequence[Kept]) -> list[Kept]:
    """What is kept at several hook points at once: nothing is learned there."""
    return [one for one in sets if one[0] != "das"]


def _chained(replaced: ReplaceSpec, sets: Sequence[Kept]) -> int:
    """Edited runs of one row at all hook points together."""
    arms = [arm for arm in replaced.arms if arm.startswith("chain:")]
    once = sum(1 if arm == "chain:mean" else replaced.donors for arm in arms)
    return once * len(_without_das(sets)) + replaced.donors * ("chain:random" in arms)  # and with nothing kept


def _steered(steer: SteerSpec, sets: Sequence[Kept]) -> int:
    """Each single direction in every dose, and as many random ones."""
    return 2 * sum(k == 1 and level != "random" for level, k, _ in sets) * len(steer.doses)


def _composed(spec: ComposeSpec) -> int:
    """Every set of parts that is kept, or as many as are drawn."""
    n = len(spec.parts) or spec.k or 0
    return spec.donors * (2**n if n <= EXACT else spec.sets)


@cache
def _speed() -> float:
    """Multiplications and additions a second of this processor, on matrices of the size of a small model's."""
    one = np.ones((SQUARE, SQUARE), np.float32)
    best = np.inf
    for _ in range(12):  # other work on the machine can only slow one down
        begun = time.perf_counter()
        np.matmul(one, one)
        best = min(best, time.perf_counter() - begun)
    return 2 * SQUARE**3 / best
