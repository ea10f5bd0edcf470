"""Exact values: what the best member of a family leaves unexplained of a law, by enumeration, convexity or integration.

States are equally likely rows of signs unless weights are given. A reader sees them through activations with vanishing
noise, so the infimum over a family is over functions of the state. Where noise matters, it is integrated.
"""

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

# The trapezoidal rule against a normal density; Gauss-Hermite nodes lie too far apart for a steep logistic.
_NODES = np.linspace(-9, 9, 6_001)
_WEIGHTS = np.exp(-(_NODES**2) / 2)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def states(n_bits: int) -> NDArray[np.float64]:
    """All rows of signs: [2 ** n_bits, n_bits]."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n_bits)))


def binary_law(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] probabilities of the second outcome -> law [n, 2]."""
    return np.stack([1 - probability, probability], 1)


def entropy(law: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits over the last axis; 0 log 0 = 0."""
    return np.asarray(-(law * np.log2(np.where(law > 0, law, 1))).sum(-1))


def binary_entropy(probability: float) -> float:
    """H(p) in bits."""
    return float(entropy(np.array([probability, 1 - probability])))


def fbu(bits: float, law: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """Fraction of behaviour unexplained beside the floor `prior`, of a reader that needs `bits` per example."""
    w = _weights(law, weights)
    ceiling = float(w @ entropy(law))
    return (bits - ceiling) / (float(entropy(w @ law)) - ceiling)


def cell_bits(law: NDArray[np.float64], cells: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> float:
    """Bits per example of the best law per cell: cells [n] names the cell of each state."""
    w = _weights(law, weights)
    total = 0.0
    for cell in np.unique(cells):
        inside = cells == cell
        mass = w[inside].sum()
        total += mass * float(entropy(w[inside] @ law[inside] / mass)) if mass else 0.0
    return total


@cache
def orders(n_bits: int) -> tuple[tuple[int, ...], ...]:
    """Every order in which a direction can pass the corners of the sign cube, for up to 3 bits.

    Integer directions up to 4 meet every region of the arrangement of the corners' differences. Directions with ties
    are left out: what they separate, a slight tilt separates too. Cutting through a cloud of noise does not help, since
    it mixes half-spaces and the bits of the cells are concave in such mixtures.
    """
    assert n_bits <= 3, "more bits need larger integers"
    points = states(n_bits)
    found = set()
    for direction in itertools.product(range(-4, 5), repeat=n_bits):
        values = points @ np.array(direction)
        if len(np.unique(values)) == len(values):
            found.add(tuple(np.argsort(np.argsort(values)).tolist()))
    return tuple(sorted(found))


@cache
def _slabs(n_bits: int, n_thresholds: int) -> tuple[NDArray[np.int64], ...]:
    """The cells that each such cut makes of the states, each once: many orders of the states share one."""
    n, made = 2**n_bits, {}
    for order in orders(n_bits):
        for cuts in itertools.combinations(range(1, n), n_thresholds):
            cells = np.digitize(np.array(order), cuts)
            made.setdefault(cells.tobytes(), cells)
    return tuple(made.values())


def threshold_fbu(law: NDArray[np.float64], n_thresholds: int) -> float:
    """Least FBU of one direction cut by `n_thresholds` parallel planes, one law per cell."""
    return fbu(min(cell_bits(law, cells) for cells in _slabs(int(np.log2(len(law))), n_thresholds)), law)


def softmax_fbu(
    features: NDArray[np.float64], law: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> float:
    """Least FBU of a softmax whose logits are affine in features [n, f]: a convex problem, solved numerically.

    On separable states the infimum lies at infinity and is met to about 1e-5.
    """
    w = _weights(law, weights)
    design = np.concatenate([np.ones((len(features), 1)), features / max(float(abs(features).max()), 1e-12)], 1)
    shape = design.shape[1], law.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = design @ flat.reshape(shape)
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        gradient = design.T @ (w[:, None] * (np.exp(log_p) - law))
        return float(-(w[:, None] * law * log_p).sum()) / np.log(2), gradient.ravel() / np.log(2)

    found = minimize(
        loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    return fbu(float(found.fun), law, w)


def monomials(points: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Products of up to `degree` different signs: polynomials of that degree on the sign cube are affine in them."""
    columns = range(points.shape[1])
    sets = [s for size in range(1, degree + 1) for s in itertools.combinations(columns, size)]
    return np.stack([points[:, list(s)].prod(1) for s in sets], 1)


def interaction_share(values: NDArray[np.float64], n_parts: int, order: int) -> float:
    """1 - R^2 of the functional ANOVA up to `order`: values [2 ** n_parts] of a function on the sign cube."""
    points = states(n_parts)
    centred = values - values.mean()
    low = monomials(points, order) if order else np.zeros((len(points), 0))
    explained = ((low.T @ centred / len(points)) ** 2).sum()
    return float(1 - explained / (centred**2).mean())


def sign_bits(amplitude: float) -> float:
    """Bits left of a fair sign s after seeing amplitude * s + N(0, 1): 1 - I, by quadrature."""
    return gaussian_bits(np.array([amplitude]), np.ones(1))


def gaussian_bits(margins: NDArray[np.float64], weights: NDArray[np.float64], slope: float | None = None) -> float:
    """Bits of the logistic reader sigmoid(slope * z), z = s (margin + N(0, 1)), margins with the given weights.

    slope: the best one when None. For one margin it is 2 * margin, which is Bayes.
    """
    z = margins[:, None] + _NODES

    def bits(by: float) -> float:
        return float(weights @ (np.logaddexp(0, -by * z) @ _WEIGHTS)) / np.log(2)

    if slope is not None:
        return bits(slope)
    if len(margins) == 1:
        return bits(2 * float(margins[0]))
    return float(minimize_scalar(bits, bounds=(0.0, 50.0), method="bounded", options={"xatol": 1e-10}).fun)


def subset_amplitude(mean: NDArray[np.float64], covariance: NDArray[np.float64], k: int) -> float:
    """Largest Mahalanobis length of the mean over all subsets of k coordinates: what the best k neurons see."""
    best = 0.0
    for chosen in itertools.combinations(range(len(mean)), k):
        at = list(chosen)
        best = max(best, float(mean[at] @ np.linalg.solve(covariance[np.ix_(at, at)], mean[at])))
    return best**0.5


def auroc(scores: Sequence[float] | NDArray, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """AUROC of a score over states: positive, negative [n] are each state's probability mass of either label."""
    s = np.asarray(scores, float)
    gap = s[:, None] - s
    wins = (gap > 1e-9) + 0.5 * (abs(gap) <= 1e-9)
    return float(positive @ wins @ negative / (positive.sum() * negative.sum()))


def auroc_leak(value: float) -> float:
    """Distance of an AUROC from 1, in units of its distance from chance: 1 - (A - 1/2) / (1/2)."""
    return 2 * (1 - value)


def _weights(law: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.full(len(law), 1 / len(law)) if weights is None else weights / weights.sum()
