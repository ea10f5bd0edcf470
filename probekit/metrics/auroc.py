"""AUROC of scores against labels with a cluster-bootstrap interval, and the rows that one needs."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Bootstrap, Clusters


def auroc_interval(
    score: NDArray, label: NDArray, clusters: Clusters, level: float = 0.95
) -> tuple[float, float, float]:
    """Area under the ROC curve with its cluster bootstrap BCa interval: (value, low, high).

    score [n]; label [n] in {0, 1}; clusters of the same rows. Every draw's area is exact, ties half: rows are sorted
    once and each draw is a cumulative sum of weights; the jackknife subtracts each group's pairs. Draws without one of
    the classes are dropped. Raises BadInput when a class is absent.
    """
    positive = np.asarray(label).astype(bool)
    if not positive.any() or positive.all():
        raise BadInput(f"an AUROC needs both classes; found {int(positive.sum())} ones in {len(positive)} rows.")
    if len(score) != len(positive) or len(score) != len(clusters.code) or not np.isfinite(score).all():
        raise BadInput(f"an AUROC needs {len(clusters.code)} finite scores and labels; found {len(score)}.")
    n_groups = len(clusters.names)
    rank, code = np.unique(score, return_inverse=True)[1], clusters.code
    pairs = _pairs_won(rank, positive)
    n_positive = np.bincount(code, positive, n_groups)
    n_negative = np.bincount(code, ~positive, n_groups)
    inside = np.lexsort((rank, code))
    own = np.bincount(
        code[inside], _pairs_won(rank[inside], positive[inside], code[inside]) * positive[inside], n_groups
    )
    # Pairs of a group with everything: its ones with all zeros, its zeros with all ones, less those counted twice.
    touched = np.bincount(code, pairs, n_groups) - own
    total = pairs[positive].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = (total - touched) / ((n_positive.sum() - n_positive) * (n_negative.sum() - n_negative))
    drawn = Bootstrap.of(
        float(total / (n_positive.sum() * n_negative.sum())),
        _drawn_auroc(rank, positive, code, clusters.weights),
        left_out,
    )
    return drawn.value, *drawn.interval(level)


def auroc(score: NDArray, label: NDArray) -> float:
    """Area under the ROC curve, ties half; score [n], label [n] in {0, 1} of which both occur."""
    positive = np.asarray(label).astype(bool)
    pairs = _pairs_won(np.unique(score, return_inverse=True)[1], positive)
    return float(pairs[positive].sum() / (positive.sum() * (~positive).sum()))


def auroc_leak(auroc: float, base: float = 0.5) -> float:
    """1 - (A - base) / (1 - base): 0 separates perfectly, 1 no better than the base (the floor's AUROC, or 1/2)."""
    if not base < 1:
        raise BadInput(f"the base of an AUROC leak is below 1; found {base}: the floor separates perfectly already.")
    return 1 - (auroc - base) / (1 - base)


def _pairs_won(rank: NDArray, positive: NDArray, block: NDArray | None = None) -> NDArray[np.float64]:
    """For each row the number of rows of the other class that it is on the right side of, ties half: [n].

    rank [n]: dense ranks of the scores. With block [n], only pairs within a block.
    """
    cell = rank if block is None else block * (rank.max() + 1) + rank
    cells, at = np.unique(cell, return_inverse=True)
    ones, zeros = np.bincount(at, positive), np.bincount(at, ~positive)
    of_cell = np.zeros(len(cells), dtype=np.int64) if block is None else cells // (rank.max() + 1)
    first = np.searchsorted(of_cell, of_cell, "left")  # the first cell of the block of each
    last = np.searchsorted(of_cell, of_cell, "right") - 1
    zeros_to, ones_to = np.cumsum(zeros), np.cumsum(ones)
    lower_zeros = zeros_to - zeros - (zeros_to - zeros)[first]
    higher_ones = ones_to[last] - ones_to
    return np.where(positive, (lower_zeros + zeros / 2)[at], (higher_ones + ones / 2)[at])


def _drawn_auroc(rank: NDArray, positive: NDArray, code: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """AUROC of each bootstrap draw: [n_bootstrap]."""
    order = np.argsort(rank, kind="stable")
    ones, zeros = order[positive[order]], order[~positive[order]]
    # How many of the sorted zeros lie below each one, and how many below or level with it.
    below, level = (np.searchsorted(rank[zeros], rank[ones], side) for side in ("left", "right"))
    out = np.empty(len(weights))
    step = max(1, 2_000_000 // len(rank))
    for i in range(0, len(weights), step):
        some = weights[i : i + step]
        beaten = np.zeros((len(some), len(zeros) + 1))
        np.cumsum(some[:, code[zeros]], 1, dtype=np.float64, out=beaten[:, 1:])
        # Half a win for a tie, and no second gather where there is none.
        won = beaten[:, below] if np.array_equal(below, level) else (beaten[:, below] + beaten[:, level]) / 2
        drawn = some[:, code[ones]]
        with np.errstate(divide="ignore", invalid="ignore"):
            out[i : i + step] = np.einsum("ij,ij->i", won, drawn) / (drawn.sum(1, dtype=np.float64) * beaten[:, -1])
    return out


def auroc_rows(half_width: float, level: float = 0.95) -> int:
    """Rows per class for an AUROC-leak of +- half_width: 1,025 for .05, 6,403 for .02.

    From the variance of the Mann-Whitney statistic of two equal classes without signal, (2 m + 1) / (12 m^2); the leak
    with base 1/2 has twice its standard error.
    """
    if not half_width > 0:
        raise BadInput(f"half the width of an interval is above 0; found {half_width}.")
    c = (2 * float(ndtri((1 + level) / 2)) / half_width) ** 2 / 12  # m^2 >= c (2 m + 1)
    return int(np.ceil(c + np.sqrt(c * (c + 1))))
