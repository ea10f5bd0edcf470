"""What all levels of a site cost beside its linear level alone: fits, scores and the cluster bootstrap of each."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from probekit.fit.frame import fit_frame
from probekit.fit.path import LAMBDAS
from probekit.fit.readout import Rows, fit_readout, take
from probekit.inputs.arrays import as_activations
from probekit.levels import DEFAULT
from probekit.measurement.cell import Measurement
from probekit.measurement.setting import Setting
from probekit.proofs.bench import Row
from probekit.proofs.bench.problems import Problem
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
    """For each of the first sets of ASKED a row per peer; all of them fit the linear level of the same site.

    Peers: that level with its ridge chosen on one side; cross-validated over inner folds as this package does it; with
    the same solver one fold and one ridge at a time; and scikit-learn's. ratio: the peer's time over that of all levels
    under the same folds; bound_ratio: the inverse. Floors and splits are prepared before, once for all sites, and not
    timed. gap: between the held-out bits of both linear levels.
    """
    site = problem.sites[0]
    x = torch.cat([site.fit, site.held_out])
    labels = torch.cat([site.fit_labels, site.held_out_labels])[:, 0].numpy()
    case = f"1 site x 1 binary target, n {len(x)}, d {x.shape[1]}"
    _timed(x, labels, ["linear", "direction"], (), 1)  # loads what optimisers load when first used
    by_hand = {name: peer(x, labels) for name, peer in BY_HAND.items()}
    for name, (levels, controls) in list(ASKED.items())[:n_sets]:
        for folds in FOLDS:
            seconds, bits = _timed(x, labels, levels, controls, folds)
            # Three times, since it is short beside the rest.
            alone = sorted(_timed(x, labels, ["linear"], (), folds) for _ in range(3))[1]
            peers = {"linear level" if folds == 1 else f"linear level, {folds} inner folds": alone}
            for peer, (theirs, their_bits) in (peers if folds == 1 else peers | by_hand).items():
                yield Row.of(f"{name}, {case}", peer, seconds, theirs, abs(bits - their_bits), theirs)


def _timed(
    x: torch.Tensor, labels: np.ndarray, levels: Sequence[str], controls: Sequence[str], inner_folds: int
) -> tuple[float, float]:
    """Seconds of one cell, and the bits of its linear level."""
    measurement = _measurement(x, labels, levels, controls, inner_folds)
    units = ("group", "row") if "row_split" in controls else ("group",)
    for unit in units:
        measurement.pool("target", measurement.observations.domains[0], unit)
    started = time.perf_counter()
    records = measurement.read_cell(HOOK, "target", x, None).records
    seconds = time.perf_counter() - started
    bits = next(record.bits for record in records if record.level == "linear" and not record.control)
    assert bits is not None
    return seconds, bits


def _measurement(
    x: torch.Tensor, labels: np.ndarray, levels: Sequence[str], controls: Sequence[str], inner_folds: int
) -> Measurement:
    _, observations = as_activations(
        {HOOK: x}, {"target": labels}, None, np.arange(len(x)) // ROWS_PER_GROUP, None, None
    )
    asked = {"hooks": (HOOK,), "levels": tuple(levels), "controls": tuple(controls), "floors": ("strong",),
             "outer_folds": 1, "inner_folds": inner_folds, "falls": False}  # fmt: skip
    nothing = {"decomposition": False, "extrapolate": False, "n_permutations": 0}
    return Measurement(observations, validate(ReadSpec, asked | nothing, "bench"), n_bootstrap=N_BOOTSTRAP)


def _setting(x: torch.Tensor, labels: np.ndarray) -> Setting:
    """The split, inner folds and floor that the cells are measured with."""
    measurement = _measurement(x, labels, ["linear"], (), max(FOLDS))
    return measurement.pool("target", measurement.observations.domains[0], "group").settings[0]


def _in_turn(x: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Seconds and test bits of the same solver, one fold after the other and in each one ridge after the other."""
    setting = _setting(x, labels)
    started = time.perf_counter()
    fit, select, test = (setting.side(x, side) for side in ("fit", "select", "test"))
    frame = fit_frame(fit.x, select.x)
    law, offset = (torch.cat(both, -1) for both in ((fit.law, select.law), (fit.offset, select.offset)))
    whole = Rows(frame.apply(fit.x, select.x), law, offset)
    losses = torch.zeros(len(LAMBDAS))
    for inside, outside in setting.inner:
        rows, held_out = take(whole, inside), take(whole, outside)
        readout = None
        for i, ridge in enumerate(LAMBDAS):
            readout = fit_readout(rows.z, rows.law, rows.offset, frame.variance, ridge, readout)
            losses[i] += held_out.bits(readout).mean()
    best = LAMBDAS[int(losses.argmin())]
    found = fit_readout(whole.z, whole.law, whole.offset, frame.variance, best)
    seconds = time.perf_counter() - started
    return seconds, float(Rows(frame.apply(test.x), test.law, test.offset).bits(found).mean())


def _scikit_learn(x: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Seconds and test bits of LogisticRegressionCV behind StandardScaler, on the same rows and folds.

    Its ridges are ours, but of other coordinates, so that it need not end at the same loss.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    setting = _setting(x, labels)
    rows = np.concatenate([setting.rows("fit"), setting.rows("select")])
    pairs = [(inside.numpy(), outside.numpy()) for inside, outside in setting.inner]
    strengths = [2 / (len(rows) * ridge) for ridge in LAMBDAS]  # its one weight vector is our two of half the size
    asked: dict[str, Any] = {"Cs": strengths, "cv": pairs, "scoring": "neg_log_loss", "max_iter": 20_000}
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(**asked))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # defaults that will change, none of which matters here
        started = time.perf_counter()
        model.fit(x[rows].numpy(), labels[rows])
        seconds = time.perf_counter() - started
    test = setting.rows("test")
    law = model.predict_proba(x[test].numpy())[np.arange(len(test)), labels[test]]
    return seconds, float(-np.log2(law).mean())


BY_HAND: dict[str, Callable[[torch.Tensor, np.ndarray], tuple[float, float]]] = {
    "the same solver, fold by fold and ridge by ridge": _in_turn,
    "scikit-learn LogisticRegressionCV, StandardScaler": _scikit_learn,
}
