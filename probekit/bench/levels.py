"""What all levels of a site cost beside its linear level alone: fits, scores and the cluster bootstrap of each."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from probekit.arrays import as_activations
from probekit.bench import Row
from probekit.bench.problems import Problem
from probekit.levels import DEFAULT
from probekit.measurement import Measurement
from probekit.spec import ReadSpec, validate

HOOK = "blocks.0.hook_resid_post"
ROWS_PER_GROUP = 5
N_BOOTSTRAP = 2_000
FOLDS = (1, 5)
CONTROLS = ("random_directions", "permuted", "row_split")  # the others need a twin or types of tokens
BUT_NONLINEAR = tuple(level for level in DEFAULT if level != "nonlinear")
ASKED: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "levels but simple and nonlinear": ([name for name in BUT_NONLINEAR if not name.startswith("simple")], ()),
    "levels but nonlinear": (BUT_NONLINEAR, ()),
    "all levels and controls": (DEFAULT, CONTROLS),
}


def level_rows(problem: Problem, n_sets: int) -> Iterator[Row]:
    """For each of the first sets of ASKED a row with ridges chosen on one side, and one with them cross-validated.

    ratio: the linear level's time over all of theirs, under the same folds; bound_ratio: the inverse. Floors and splits
    are prepared before, once for all sites, and not timed. gap: bits between the losses of the linear level in both,
    which is 0.
    """
    site = problem.sites[0]
    x = torch.cat([site.fit, site.held_out])
    labels = torch.cat([site.fit_labels, site.held_out_labels])[:, 0].numpy()
    case = f"1 site x 1 binary target, n {len(x)}, d {x.shape[1]}"
    _timed(x, labels, ["linear", "direction"], (), 1)  # loads what optimisers load when first used
    for name, (levels, controls) in list(ASKED.items())[:n_sets]:
        for folds in FOLDS:
            peer = "linear level" if folds == 1 else f"linear level, {folds} inner folds"
            seconds, bits = _timed(x, labels, levels, controls, folds)
            # Three times, since it is short beside the rest.
            alone, bits_alone = sorted(_timed(x, labels, ["linear"], (), folds) for _ in range(3))[1]
            yield Row(f"{name}, {case}", peer, seconds, alone, alone / seconds, abs(bits - bits_alone),
                      seconds / alone)  # fmt: skip


def _timed(
    x: torch.Tensor, labels: np.ndarray, levels: Sequence[str], controls: Sequence[str], inner_folds: int
) -> tuple[float, float]:
    """Seconds of one cell, and the bits of its linear level."""
    _, observations = as_activations(
        {HOOK: x}, {"target": labels}, None, np.arange(len(x)) // ROWS_PER_GROUP, None, None
    )
    asked = {"hooks": (HOOK,), "levels": tuple(levels), "controls": tuple(controls), "floors": ("strong",),
             "inner_folds": inner_folds}  # fmt: skip
    nothing = {"decomposition": False, "extrapolate": False, "n_permutations": 0}
    read = validate(ReadSpec, asked | nothing, "bench")
    measurement = Measurement(observations, read, n_bootstrap=N_BOOTSTRAP)
    units = ("group", "row") if "row_split" in controls else ("group",)
    for unit in units:
        measurement.pool("target", observations.domains[0], unit)
    started = time.perf_counter()
    records = measurement.read_cell(HOOK, "target", x, None).records
    seconds = time.perf_counter() - started
    bits = next(record.bits for record in records if record.level == "linear" and not record.control)
    assert bits is not None
    return seconds, bits
