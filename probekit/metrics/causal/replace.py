"""Replace (docs/method.md section 2): does the model run on the abstraction? Pure functions of outcome laws.

The runner runs the network with donors' activations outside the kept subspace and hands the laws over.
"""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.ratios import Ratio

TINY = 1e-12
SAME = 1e-4  # squared distances below this, in units of the pool, are rounding of float32 readouts


def kl_bits(p: NDArray, q: NDArray) -> NDArray:
    """KL(p || q) in bits over the last axis; 0 log 0 = 0."""
    return np.where(p > 0, p * (np.log2(np.maximum(p, TINY)) - np.log2(np.maximum(q, TINY))), 0).sum(-1)


def mixture_kl(law: NDArray, edited: NDArray) -> NDArray:
    """KL(p || mean over all donors) per row in bits [n], from M of them: law [n, outcome], edited [n, donor, outcome].

    -ln q = sum over j of (1 - q)^j / j, and (1 - q)^j has an unbiased estimate up to j = M, the mean of products over j
    different donors (Zhang 2012, Neural Computation 24, does the same for entropy). What is left, the powers above M,
    is taken at the donors' mean, into which the row itself enters as half a donor as far as the donors disagree: with
    sure answers all M may miss a right one that others have, and the plain mean would then say that nobody has it.
    A row whose donors agree with it costs exactly 0; nothing kept estimates E KL(p || mean p).

    With four sure answers that are equally frequent, 16 donors and nothing kept, this finds 2.04 bits where 2 are true,
    a jackknife .6 and split halves worse (tests/metrics/test_metrics.py). Sure answers rarer than 1 in 2 M are
    underestimated.
    """
    law, edited = law.astype(np.float64), edited.astype(np.float64)
    n_donors = edited.shape[1]
    powers = np.zeros((n_donors + 1, *law.shape))  # unbiased (1 - q)^j, one more donor at a time
    powers[0] = 1
    for m in range(1, n_donors + 1):
        share = np.arange(1, m + 1)[:, None, None] / m
        powers[1 : m + 1] = (1 - share) * powers[1 : m + 1] + share * (1 - edited[:, m - 1]) * powers[:m]
    mean = edited.mean(1)
    spread = np.where(mean > TINY, edited.var(1, ddof=1) / np.maximum(mean, TINY) ** 2, 1)
    own = np.minimum(spread, 1) / (2 * n_donors + 1)
    mean = (1 - own) * mean + own * law
    j = np.arange(1, n_donors + 1)[:, None, None]
    rest = -np.log(np.maximum(mean, TINY)) - ((1 - mean) ** j / j).sum(0)
    loss = (powers[1:] / j).sum(0) + rest
    return np.where(law > 0, law * (np.log(np.maximum(law, TINY)) + loss), 0).sum(-1) / np.log(2)


def fbu_replace(law: NDArray, edited: NDArray, floor: NDArray, ceiling: NDArray) -> tuple[Ratio, Ratio]:
    """(FBU of the mixture over donors, FBU of the mean over donors of the per-donor loss).

    law [n, outcome] unedited, edited [n, donor, outcome]; floor, ceiling [n] bits of the same rows. The second exposes
    errors that cancel in the mixture.
    """
    mixed = mixture_kl(law, edited)
    single = kl_bits(law[:, None], edited).mean(1)
    available = floor - ceiling
    return Ratio(mixed, available, mixed, floor, ceiling), Ratio(single, available, single, floor, ceiling)


def fbu_mean(law: NDArray, edited: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """FBU of one edited law per row [n, outcome], as when what is not kept is set to its mean."""
    lost = kl_bits(law, edited)
    return Ratio(lost, floor - ceiling, lost, floor, ceiling)


def necessity(law: NDArray, erased: NDArray, site: NDArray) -> Ratio:
    """1 - rise of E KL(p || p edited) when the abstraction is erased / rise when all of the site is.

    0: without it nothing is left of what the site does; 1: it can go. law [n, outcome]; erased, site [n, donor,
    outcome], of as many donors each. What is told as bits is the rise, beside the site's as the floor's.
    """
    mine, whole = (kl_bits(law[:, None], edited).mean(1) for edited in (erased, site))
    return Ratio(whole - mine, whole, mine, whole, np.zeros(len(whole)))


def match_donors(
    values: NDArray,
    pool: NDArray,
    group: NDArray,
    pool_group: NDArray,
    n_donors: int,
    seed: int = 0,
    rounding: float = 0.0,
) -> NDArray:
    """For each row the pool rows nearest in the abstraction's value, never of its own group: [n, n_donors].

    values [n, k], pool [n_pool, k], in units of the pool's standard deviation per coordinate; one of less than
    `rounding` has a single value. Rows whose values agree to within rounding are equally near, and are drawn from at
    random: an abstraction with few values says nothing about which of the rows that share one stands for another.
    """
    spread = pool.std(0)
    scale = np.where(spread > rounding, np.maximum(spread, 1e-30), np.inf)
    a, b = values / scale, pool / scale
    distance = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    same = SAME * max(1.0, float((b**2).sum(1).max(initial=0.0)))
    distance = np.where(distance < same, 0.0, distance)
    distance += same * np.random.default_rng([seed, 17]).random(distance.shape)
    distance[group[:, None] == pool_group] = np.inf
    _check_enough(distance, n_donors)
    nearest = np.argpartition(distance, n_donors, axis=1)[:, :n_donors]
    return nearest


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
