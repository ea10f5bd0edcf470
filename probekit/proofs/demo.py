"""The demo's opening: a behaviour that two directions decide exactly, and three usual methods miss (plant P2)."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.jobs.measure import measure
from probekit.testbeds.ground_truth import draw

N = 6_000
LEVELS = ("linear", "simple:one_threshold", "simple:two_thresholds", "simple:quadratic")


def xor_table() -> pd.DataFrame:
    """Rows of (method, what it says, figure): behaviour = s1 XOR s2, both written along directions."""
    planted = draw("P2", N, d=16)
    x, law = planted.activations, planted.law
    options = {
        "ks": (1,), "simple_ks": (1,), "decomposition": False, "controls": (), "floors": ("strong",),
        "n_permutations": 0, "extrapolate": False,
    }  # fmt: skip
    found = measure(x, behaviour=law, levels=LEVELS, **options)
    found = found[found["metric"] == "read"].set_index("level")["value"]
    after = measure(erase_linearly(x, law[:, 1]), behaviour=law, levels=("simple:two_thresholds",), **options)
    changed = float(np.abs(erase_linearly(x, law[:, 1]) - x).std() / x.std())
    accuracy = best_threshold_accuracy(x, law[:, 1], planted.signs)
    rows = [
        ("accuracy of the best threshold", "three quarters right: it is mostly there", f"{accuracy:.2f}"),
        ("linear probe", "absent (FBU 1 adds nothing)", f"FBU {found['linear']:.2f}"),
        ("linear erasure", "nothing to erase: activations hardly move", f"change {changed:.3f}"),
        ("two thresholds, read after erasure", "still all of it", f"FBU {after['value'].iloc[0]:.2f}"),
        ("one threshold on a fitted direction", "a part, in bits", f"FBU {found['simple:one_threshold']:.2f}"),
        ("two thresholds on a fitted direction", "all of it", f"FBU {found['simple:two_thresholds']:.2f}"),
        ("a quadratic of a fitted direction", "all of it", f"FBU {found['simple:quadratic']:.2f}"),
    ]
    return pd.DataFrame(rows, columns=["method", "what it says", "figure"])


def best_threshold_accuracy(x: NDArray[np.float32], label: NDArray[np.float32], signs: NDArray[np.float64]) -> float:
    """Accuracy of the best single threshold on the direction s1 + s2."""
    direction = x.T @ signs.sum(1)
    value = x @ direction
    cuts = np.quantile(value, np.linspace(0.02, 0.98, 97))
    right = [(label == (value > cut)).mean() for cut in cuts]
    return float(max(max(right), 1 - min(right)))


def erase_linearly(x: NDArray[np.float32], label: NDArray[np.float32]) -> NDArray[np.float32]:
    """LEACE (Belrose et al. 2023) for one binary label: remove the whitened cross-covariance direction."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    cross = centred.T @ (label - label.mean()) / len(x)
    # Below two standard errors of an estimate from n rows a cross-covariance is sampling noise, which LEACE's
    # population formula has none of.
    standard = np.linalg.solve(np.linalg.cholesky(covariance), cross)
    if (standard**2).sum() <= 2 * x.shape[1] * label.var() / len(x):
        return x
    solved = np.linalg.solve(covariance, cross)
    return (x - np.outer(centred @ solved, cross) / (cross @ solved)).astype(np.float32)
