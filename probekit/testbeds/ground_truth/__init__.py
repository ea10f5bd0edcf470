"""Planted answers: generators of (activations, behaviour) whose leak is known exactly (measurement.md section 6).

h = s R^T + noise with independent fair signs s in {-1, +1}, R orthonormal columns drawn per seed, so that no neuron is
special. Truths are FBU beside the floor `prior`, since the input is the plant itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput


@dataclass(frozen=True)
class Plant:
    """A case: n_bits signs, the law of the behaviour given them, and what each (level, k) leaves unexplained."""

    name: str
    n_bits: int
    law: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    truth: Mapping[tuple[str, int | None], float]
    fools: str


@dataclass(frozen=True)
class Planted:
    """Drawn data: activations [n, d], law [n, n_outcomes] (one-hot where deterministic), signs [n, n_bits]."""

    activations: NDArray[np.float32]
    law: NDArray[np.float32]
    signs: NDArray[np.float64]


def _binary(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.stack([1 - probability, probability], axis=1).astype(np.float64)


def _union(s: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = s[:, 0] * s[:, 1] < 0, s[:, 2] > 0
    return np.eye(4)[2 * first + second]


CASES = {
    case.name: case
    for case in (
        Plant(
            "P1", 1, lambda s: _binary((s[:, 0] > 0) * 1.0), {("direction", 1): 0.0, ("linear", None): 0.0}, "neurons"
        ),
        Plant(
            "P2",
            2,
            lambda s: _binary((s[:, 0] * s[:, 1] < 0) * 1.0),
            {
                ("linear", None): 1.0,
                ("simple:one_threshold", 1): 0.689,
                ("simple:two_thresholds", 1): 0.0,
                ("simple:quadratic", 1): 0.0,
                ("simple:bilinear", 2): 0.0,
            },
            "accuracy, linear erasure, linear probes",
        ),
        Plant(
            "P3",
            3,
            lambda s: _binary((s.prod(1) < 0) * 1.0),
            {
                ("linear", None): 1.0,
                ("simple:quadratic", 2): 1.0,
                ("simple:one_threshold", 1): 0.811,
                ("simple:two_thresholds", 1): 0.406,
                ("simple:cubic", 1): 0.0,
            },
            "accuracy, pairs",
        ),
        Plant(
            "P18",
            3,
            _union,
            {("linear", None): 0.5, ("simple:quadratic", 2): 0.0},
            "decompositions in one order",
        ),
        Plant("P19", 1, lambda s: _binary(np.where(s[:, 0] > 0, 0.9, 0.1)), {("linear", None): 0.0}, "no ceiling"),
    )
}


def draw(name: str, n: int, d: int = 8, seed: int = 0, gain: float = 3.0, noise: float = 0.3) -> Planted:
    """Draw n rows of a case in d dimensions."""
    if name not in CASES:
        near = get_close_matches(name, CASES, n=1, cutoff=0.0)[0]
        raise BadInput(f"no planted case '{name}'. Did you mean '{near}'? Cases: {', '.join(CASES)}.")
    case = CASES[name]
    if d < case.n_bits:
        raise BadInput(f"{name} plants {case.n_bits} bits: d must be at least that, found {d}.")
    generator = np.random.default_rng([seed, 20])
    rotation = np.linalg.qr(generator.normal(size=(d, d)))[0]
    signs = (generator.integers(0, 2, size=(n, case.n_bits)) * 2 - 1).astype(np.float64)
    activations = gain * signs @ rotation[: case.n_bits] + noise * generator.normal(size=(n, d)) @ rotation
    return Planted(activations.astype(np.float32), case.law(signs).astype(np.float32), signs)
