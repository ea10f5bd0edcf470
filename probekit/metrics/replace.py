"""Replace (measurement.md section 2): does the model run on the abstraction? Pure functions of outcome laws.

The runner runs the network with donors' activations outside the kept subspace and hands the laws over.
"""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.read import Estimate, ratio
from probekit.stats import Clusters

TINY = 1e-12


def kl_bits(p: NDArray, q: NDArray) -> NDArray:
    """KL(p || q) in bits over the last axis; 0 log 0 = 0."""
    return np.where(p > 0, p * (np.log2(np.maximum(p, TINY)) - np.log2(np.maximum(q, TINY))), 0).sum(-1)


def mixture_kl(law: NDArray, edited: NDArray) -> NDArray:
    """KL(p || mean over donors) per row, debiased by split halves: law [n, k], edited [n, donor, k] -> [n].

    A mean over M donors lies below the mean over all of them by about c / M in this loss; halves cost 2 c / M, so
    2 f(M) - mean f(M / 2) removes it. With nothing kept it estimates E KL(p || mean p).
    """
    half = edited.shape[1] // 2
    whole = kl_bits(law, edited.mean(1))
    halves = (kl_bits(law, edited[:, :half].mean(1)) + kl_bits(law, edited[:, half : 2 * half].mean(1))) / 2
    return 2 * whole - halves


def fbu_replace(law: NDArray, edited: NDArray, available: NDArray, clusters: Clusters) -> tuple[Estimate, Estimate]:
    """(FBU of the mixture over donors, FBU of the mean over donors of the per-donor loss).

    law [n, k] unedited, edited [n, donor, k], available [n] = floor - ceiling bits of the same rows. The second
    exposes errors that cancel in the mixture.
    """
    mixed = mixture_kl(law, edited)
    single = kl_bits(law[:, None], edited).mean(1)
    return ratio(mixed, available, clusters, bits=mixed), ratio(single, available, clusters, bits=single)


def match_donors(values: NDArray, pool: NDArray, group: NDArray, pool_group: NDArray, n_donors: int) -> NDArray:
    """For each row the pool rows nearest in the abstraction's value, never of its own group: [n, n_donors].

    values [n, k], pool [n_pool, k], in units of the pool's standard deviation per coordinate.
    """
    scale = np.maximum(pool.std(0), 1e-8)
    a, b = values / scale, pool / scale
    distance = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    distance[group[:, None] == pool_group] = np.inf
    _check_enough(distance, n_donors)
    nearest = np.argpartition(distance, n_donors, axis=1)[:, :n_donors]
    # Order by distance, then deal alternately, so that the two halves of the debiasing are alike.
    order = np.take_along_axis(distance, nearest, 1).argsort(1)
    nearest = np.take_along_axis(nearest, order, 1)
    return np.concatenate([nearest[:, ::2], nearest[:, 1::2]], axis=1)


def random_donors(group: NDArray, pool_group: NDArray, n_donors: int, seed: int) -> NDArray:
    """Pool rows drawn at random, never of the row's own group: [n, n_donors]."""
    key = np.random.default_rng([seed, 5]).random((len(group), len(pool_group)))
    key[group[:, None] == pool_group] = np.inf
    _check_enough(key, n_donors)
    return np.argpartition(key, n_donors, axis=1)[:, :n_donors]


def _check_enough(distance: NDArray, n_donors: int) -> None:
    fewest = int(np.isfinite(distance).sum(1).min())
    if fewest < n_donors or distance.shape[1] <= n_donors:
        raise BadInput(f"{n_donors} donors are asked for and a row has {fewest} outside its own group: give more rows.")
