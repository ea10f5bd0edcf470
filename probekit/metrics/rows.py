"""How many rows there are, effectively, and what more would change: nested samples, the limit in n."""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, TooFewRows
from probekit.metrics.ratios import Ratio

SIZES = (4, 8, 16)  # rows per coordinate of the three fits behind S_inf
ONLINE_SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


# ------------------------------------------------------------------------------------------------ extrapolation in n


def at_infinity(bits: NDArray, n_fit: NDArray, d: int) -> NDArray[np.float64]:
    """The loss at infinitely many fit rows, from S(n) = S_inf + b d / n: [m, ...] -> [...].

    The line is fitted by least squares weighted with n, since the scatter of a fit falls as 1 / n; the bias of a
    regularised or plain logistic fit is proportional to d / n from about four rows per coordinate (docs/method.md
    section 7.5).
    bits [m, ...]: losses on the same test rows of readers fitted on n_fit [m] rows (nested subsets, see `nested_rows`).
    S_inf is a fixed linear combination of the m losses, row by row, so its interval is the cluster bootstrap of the
    losses themselves. It spans the draw of test rows, not that of fit rows.
    """
    return np.tensordot(_line(n_fit, d)[0], bits, 1)


def nested_rows(group: NDArray, d: int, seed: int, sizes: tuple[int, ...] = SIZES) -> tuple[NDArray[np.int64], ...]:
    """Rows of nested subsets of whole groups with at least `sizes` rows per coordinate, smallest first.

    group [n] of the fit rows. Raises TooFewRows when there are fewer than the largest size asks for, BadInput when a
    single group is so large that two subsets would be the same.
    """
    if len(group) < max(sizes) * d:
        raise TooFewRows(
            f"S_inf is fitted on {', '.join(map(str, sizes))} rows per coordinate: {d} coordinates need "
            f"{max(sizes) * d} fit rows and there are {len(group)}."
        )
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 12]).permutation(len(counts))
    ends = np.searchsorted(np.cumsum(counts[order]), np.array(sizes) * d)
    if len(set(ends.tolist())) < len(sizes):
        raise BadInput(
            f"groups of up to {counts.max()} rows cannot make nested subsets of {', '.join(map(str, sizes))} times {d} "
            "rows: give smaller groups."
        )
    place = np.empty(len(counts), dtype=np.int64)
    place[order] = np.arange(len(counts))
    return tuple(np.flatnonzero(place[code] <= end) for end in ends)


def _line(n_fit: NDArray, d: int) -> NDArray[np.float64]:
    """[2, m]: what takes m losses to (intercept, slope) of the line in d / n, weighted by n."""
    n_fit = np.asarray(n_fit, dtype=np.float64)
    if len(np.unique(n_fit)) < 2 or n_fit.min() <= 0:
        raise BadInput(f"a line in d / n needs fits of at least two sizes; found {n_fit.tolist()}.")
    design = np.stack([np.ones(len(n_fit)), d / n_fit], axis=1)
    weighted = design.T * n_fit
    return np.asarray(np.linalg.solve(weighted @ design, weighted), dtype=np.float64)


# -------------------------------------------------------------------------------------------------------- online code


def online_blocks(group: NDArray, seed: int, shares: tuple[float, ...] = ONLINE_SHARES) -> list[NDArray[np.int64]]:
    """Rows of each block of the online code, whole groups in a random order: the data are sent block by block.

    Blocks end at .1 .2 .4 .8 1.6 3.2 6.25 12.5 25 50 100 % of the rows (Voita and Titov 2020, footnote 4), or at the
    end of the group in which that row lies; ends that coincide make one block. The seed draws the order, of which the
    protocol asks for at least five.
    """
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 13]).permutation(len(counts))
    sent = np.cumsum(counts[order])
    # A tenth of a per cent of 1,000 rows is one row, whatever the last digit of the product says.
    ends = np.unique(np.searchsorted(sent, np.array(shares) * len(code) - 1e-6))
    place = np.empty(len(counts), dtype=np.int64)
    place[order] = np.arange(len(counts))
    block = np.searchsorted(ends, place[code])
    return [np.flatnonzero(block == i) for i in range(len(ends))]


# ------------------------------------------------------------------------------------------------------- sample size


def icc(values: NDArray, group: NDArray) -> float:
    """Correlation within groups by one-way analysis of variance, ICC(1): (MSB - MSW) / (MSB + (n0 - 1) MSW).

    values [n], group [n]; n0 is the mean group size for unequal groups (Donner 1986). Below 0 when rows of a group
    differ more than rows of different groups; 0 where it cannot be told: groups of one row, one group, no variance.
    """
    return float(iccs(values[:, None], group)[0])


def iccs(values: NDArray, group: NDArray) -> NDArray[np.float64]:
    """`icc` of each column of values [n, m], of the same groups: [m]."""
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    n, n_groups = len(code), len(counts)
    out = np.zeros(values.shape[1])
    if n_groups < 2 or n_groups == n:
        return out
    n0 = (n - (counts**2).sum() / n) / (n_groups - 1)
    for i, column in enumerate(values.T.astype(np.float64)):
        mean = np.bincount(code, column) / counts
        between = (counts * (mean - column.mean()) ** 2).sum() / (n_groups - 1)
        within = ((column - mean[code]) ** 2).sum() / (n - n_groups)
        total = between + (n0 - 1) * within
        out[i] = (between - within) / total if total > 0 else 0.0
    return out


def effective_rows(group: NDArray, correlation: float) -> float:
    """Independent rows that carry as much: n / (1 + (m - 1) ICC), m = sum of squared group sizes over n (Kish 1965).

    Never more than n: a negative correlation counts as none.
    """
    counts = np.unique(group, return_counts=True)[1]
    n = float(counts.sum())
    return n / (1 + ((counts**2).sum() / n - 1) * min(1.0, max(0.0, correlation)))


def falling(bits_of_half: NDArray, bits_of_all: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """How much FBU still fell as the fit rows doubled: > 0 says that more rows would explain more; each [n].

    The same reader fitted on half of the fit groups and on all of them, on the same test rows. What is explained is a
    lower bound, and by about this much (docs/method.md, Rows).
    """
    return Ratio(bits_of_half - bits_of_all, floor - ceiling)
