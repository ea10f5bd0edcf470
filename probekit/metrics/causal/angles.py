"""Angles between two subspaces, beside those that subspaces of the same ranks make by chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from probekit.errors import BadInput

SPAN = 1e-10  # of the largest singular value: less does not count as a direction


@dataclass(frozen=True)
class Angles:
    """How two subspaces of a site lie to each other.

    degrees [r]: principal angles, smallest first, r being the smaller rank. overlap: the mean of their squared cosines,
    1 where one holds the other. chance_degrees [r, 3]: 5 %, 50 % and 95 % quantiles of each angle of random subspaces;
    chance_overlap: the same of the overlap. p: chance of so large an overlap or more. ranks, width: of both, and of
    the site.
    """

    degrees: NDArray[np.float64]
    overlap: float
    chance_degrees: NDArray[np.float64]
    chance_overlap: NDArray[np.float64]
    p: float
    ranks: tuple[int, int]
    width: int

    def __str__(self) -> str:
        low, middle, high = self.chance_degrees[0]
        return (
            f"smallest angle {self.degrees[0]:.1f} degrees where chance has {middle:.1f} [{low:.1f}, {high:.1f}]; "
            f"overlap {self.overlap:.3f} where chance has {self.chance_overlap[1]:.3f} (ranks {self.ranks[0]} and "
            f"{self.ranks[1]} of {self.width}; p = {self.p:.2g})"
        )


def angles(first: NDArray, second: NDArray, n_draws: int = 2000, seed: int = 0) -> Angles:
    """Principal angles of the spans of the columns of `first` [d, k] and `second` [d, m], with what chance makes.

    Chance is a uniform (Haar) subspace of each rank; its quantiles are simulated from the seed, and so is p, which is
    then never below 1 / (n_draws + 1). Where a rank is 1, p is exact: the squared cosine with a subspace of rank m is
    Beta(m / 2, (d - m) / 2). Raises BadInput for other shapes, values that are not finite, and empty spans.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise BadInput(f"two subspaces of one site are [d, k] and [d, m]; found {first.shape} and {second.shape}.")
    a, b = _span(first), _span(second)
    d, k, m = len(a), a.shape[1], b.shape[1]
    squared = principal_cosines(a, b) ** 2
    drawn = chance_cosines(d, k, m, n_draws, seed) ** 2
    overlap, by_chance = float(squared.mean()), drawn.mean(1)
    if min(k, m) == 1 and max(k, m) < d:
        p = 1 - float(betainc(max(k, m) / 2, (d - max(k, m)) / 2, min(overlap, 1.0)))
    else:
        p = float((1 + (by_chance >= overlap - 1e-9).sum()) / (n_draws + 1))
    quantiles = [0.05, 0.5, 0.95]
    return Angles(
        _degrees(a, b), overlap, np.quantile(np.rad2deg(np.arccos(np.sqrt(drawn))), quantiles, axis=0).T,
        np.quantile(by_chance, quantiles), p, (k, m), d,
    )  # fmt: skip


def principal_cosines(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Cosines of the principal angles of two orthonormal bases [..., d, k] and [..., d, m], largest first."""
    return np.clip(np.linalg.svd(np.swapaxes(a, -1, -2) @ b, compute_uv=False), 0, 1)


def chance_cosines(d: int, k: int, m: int, n_draws: int, seed: int) -> NDArray[np.float64]:
    """Those of uniform subspaces of ranks k and m in d coordinates: [n_draws, min(k, m)].

    Of k Gaussian columns only the first m rows and the scatter of the others matter, which is a Wishart matrix: drawn
    as a triangle (Bartlett 1933), so that nothing grows with d.
    """
    k, m = min(k, m), max(k, m)
    generator = np.random.default_rng([seed, 31])
    inside, rest = generator.normal(size=(n_draws, m, k)), d - m
    if rest >= k:
        outside = np.triu(generator.normal(size=(n_draws, k, k)), 1)
        outside[:, np.arange(k), np.arange(k)] = np.sqrt(generator.chisquare(rest - np.arange(k), (n_draws, k)))
    else:
        outside = generator.normal(size=(n_draws, rest, k))
    return np.clip(np.linalg.svd(np.linalg.qr(np.concatenate([inside, outside], 1))[0][:, :m], compute_uv=False), 0, 1)


def _degrees(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Principal angles; small ones by their sines, since the cosine of a small angle is 1 in all digits."""
    cosines = principal_cosines(a, b)
    a, b = (a, b) if a.shape[1] >= b.shape[1] else (b, a)
    sines = np.sort(np.clip(np.linalg.svd(b - a @ (a.T @ b), compute_uv=False), 0, 1))
    return np.rad2deg(np.where(cosines**2 > 0.5, np.arcsin(sines), np.arccos(cosines)))


def _span(directions: NDArray) -> NDArray[np.float64]:
    """An orthonormal basis of what the columns span."""
    if not np.isfinite(directions).all() or not np.any(directions):
        raise BadInput("directions must be finite and not all 0 to have an angle.")
    u, size, _ = np.linalg.svd(directions.astype(np.float64), full_matrices=False)
    return u[:, size > SPAN * size[0]]
