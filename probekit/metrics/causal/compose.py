"""Compose (docs/method.md section 4): do the parts add up? Pure functions of values, over parts and over sets of them.

In value space the function is f(z) = E[B | values of the parts]; in ablation space it is v(S), the behaviour with the
parts outside S taken from donors. Both are taken apart by functional ANOVA, and what noise alone would leave is
subtracted: products of two halves of the rows, or of two donors, have none of it in the mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.ratios import Estimate, Ratio

Array = NDArray[np.float64]
# Means of cells [n, k], which cells they are of and how many rows each has -> what is left of the means.
Residual = Callable[[Array, NDArray[np.int64], Array], Array]
EXACT = 12  # parts up to which every set of them is run
N_SPLITS = 8  # of the rows into halves, over which value space is averaged
HELD_OUT = 0.25  # of sampled subsets, which the regression is judged on
NEAR = 1e-3  # of the range of a readout: values nearer than this are one
TINY = 1e-12


@dataclass(frozen=True)
class Leak:
    """A ratio without the noise floor, and the same as if there were no noise (`raw`).

    seen: share of rows that it is of; the others are alone with their values.
    """

    ratio: Ratio
    raw: float
    seen: float = 1.0


# ------------------------------------------------------------------------------------------------------ ablation space


@dataclass(frozen=True)
class Subsets:
    """Sets of parts that are kept: kept [n_sets, n_parts]. uniform: those drawn evenly, all of them where `exact`."""

    kept: NDArray[np.bool_]
    uniform: NDArray[np.int64]
    exact: bool

    @classmethod
    def of(cls, n_parts: int, n_sampled: int = 512, seed: int = 0) -> "Subsets":
        """Every set of up to EXACT parts; of more, `n_sampled` drawn evenly, each once, and the ends that are named.

        Raises BadInput for fewer than two parts, or fewer sets than twice the terms of order 2.
        """
        if n_parts < 2:
            raise BadInput(f"parts compose where there are at least two; found {n_parts}.")
        if n_parts <= EXACT:
            kept = np.array(list(product((False, True), repeat=n_parts)))
            return cls(kept, np.arange(len(kept)), True)
        n_terms = len(_terms(n_parts, 2))
        if n_sampled < 2 * n_terms / (1 - HELD_OUT):
            least = int(np.ceil(2 * n_terms / (1 - HELD_OUT)))
            raise BadInput(
                f"order 2 over {n_parts} parts has {n_terms} terms, which takes {least} sets of parts; found "
                f"{n_sampled}: give more sets, or at most {EXACT} parts."
            )
        generator = np.random.default_rng([seed, 31])
        drawn: dict[bytes, NDArray[np.bool_]] = {}
        while len(drawn) < n_sampled:  # of at least 2 ** 13: repeats are rare
            row = generator.integers(0, 2, n_parts).astype(bool)
            drawn.setdefault(row.tobytes(), row)
        ends = np.vstack([np.ones(n_parts), np.zeros(n_parts), 1 - np.eye(n_parts), np.eye(n_parts)]).astype(bool)
        kept = np.vstack([ends, np.stack(list(drawn.values()))])
        return cls(kept, len(ends) + np.arange(n_sampled), False)

    @property
    def n_parts(self) -> int:
        return self.kept.shape[1]

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in reversed(list(enumerate(self.kept)))}

    def at(self, kept: Sequence[bool] | NDArray) -> int:
        """The place of one set."""
        return self._places[np.asarray(kept, dtype=bool).tobytes()]

    @property
    def whole(self) -> int:
        """All parts kept."""
        return self.at([True] * self.n_parts)

    @property
    def nothing(self) -> int:
        """No part kept."""
        return self.at([False] * self.n_parts)

    @property
    def without(self) -> list[int]:
        """All but one, for each part."""
        return [self.at(row) for row in ~np.eye(self.n_parts, dtype=bool)]

    @property
    def alone(self) -> list[int]:
        """One only, for each part."""
        return [self.at(row) for row in np.eye(self.n_parts, dtype=bool)]


def subset_leak(values: NDArray, subsets: Subsets, order: int, seed: int = 0) -> Leak:
    """1 - R^2 of the functional ANOVA of v(S) up to `order`, over sets of parts that are equally likely.

    values [n, donor, n_sets] follow `subsets.kept`. Each row is taken apart by itself and squares are summed, so that
    rows do not cancel. Squares of means over donors are means of products of two different donors: the mean over all
    ways to split the donors into halves. With one donor nothing is subtracted. Up to EXACT parts the share is that of
    the higher orders; beyond, a regression with terms up to `order` is judged on sets that it was not fitted on.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 3 or values.shape[2] != len(subsets.kept):
        raise BadInput(
            f"values of {len(subsets.kept)} sets of parts are [n, donor, set]; found the shape {list(values.shape)}."
        )
    if subsets.exact:
        effects = walsh(values)
        size = subsets.kept.sum(1)
        left, every = effects[..., size > order], effects[..., size > 0]
    else:
        left, every = _held_out(values[..., subsets.uniform], subsets.kept[subsets.uniform], order, seed)
    raw = (left.mean(1) ** 2).sum() / max(float((every.mean(1) ** 2).sum()), TINY)
    return Leak(Ratio(_square(left), _square(every), of_reader=False), float(raw))


def walsh(values: NDArray) -> Array:
    """Effects of sets of parts: [..., 2^m] -> [..., 2^m], sum over S of v(S) (-1)^|A - S| / 2^m for each set A.

    The parts are the binary digits of a place, the first one the highest, as in `Subsets.of`. An orthogonal basis over
    sets that are equally likely: the squares of the effects of A other than the empty set sum to the variance of v.
    """
    values = np.asarray(values, dtype=np.float64)
    m = int(np.log2(values.shape[-1]))
    cube = values.reshape(*values.shape[:-1], *(2,) * m)
    for axis in range(values.ndim - 1, cube.ndim):
        off, on = np.take(cube, 0, axis), np.take(cube, 1, axis)
        cube = np.stack([(on + off) / 2, (on - off) / 2], axis)
    return cube.reshape(values.shape)


def _terms(n_parts: int, order: int) -> list[tuple[int, ...]]:
    return [term for size in range(order + 1) for term in combinations(range(n_parts), size)]


def _held_out(values: Array, kept: NDArray[np.bool_], order: int, seed: int) -> tuple[Array, Array]:
    """(what the regression misses of sets held out, what the mean misses), each [n, donor, n_held_out]."""
    signs = 2.0 * kept - 1
    design = np.stack([signs[:, list(term)].prod(1) for term in _terms(kept.shape[1], order)], 1)
    shuffled = np.random.default_rng([seed, 32]).permutation(len(kept))
    out, fit = np.split(shuffled, [round(HELD_OUT * len(kept))])
    said = values[..., fit] @ (design[out] @ np.linalg.pinv(design[fit])).T
    return values[..., out] - said, values[..., out] - values[..., fit].mean(-1, keepdims=True)


def _square(values: Array) -> Array:
    """Square of the mean over donors without its noise, summed over the last axis: [n, donor, k] -> [n]."""
    n_donors = values.shape[1]
    if n_donors == 1:
        return (values**2).sum((1, 2))
    return ((values.sum(1) ** 2).sum(-1) - (values**2).sum((1, 2))) / (n_donors * (n_donors - 1))


def leave_one_out(values: NDArray, subsets: Subsets) -> Ratio:
    """Sum over parts of v(all) - v(all but one), over v(all) - v(none): additive 1, a conjunction of n n, a backup 0.

    values [n, donor, n_sets].
    """
    v = np.asarray(values, dtype=np.float64).mean(1)
    lost = v[:, [subsets.whole]] - v[:, subsets.without]
    return Ratio(lost.sum(1), v[:, subsets.whole] - v[:, subsets.nothing], of_reader=False)


def alone_gap(values: NDArray, subsets: Subsets) -> Leak:
    """How far parts do something else in the whole than alone: sum (w - a)^2 / sum (w^2 + a^2), over rows and parts.

    w = v(all) - v(all but i) and a = v(i alone) - v(none). 0 where they are equal; 1 where one of them is nothing, as
    in a conjunction (a = 0) or with a backup (w = 0); above 1 where they are opposed. values [n, donor, n_sets].
    """
    v = np.asarray(values, dtype=np.float64)
    whole = v[..., [subsets.whole]] - v[..., subsets.without]
    alone = v[..., subsets.alone] - v[..., [subsets.nothing]]
    both = np.concatenate([whole, alone], -1)
    raw = ((whole - alone).mean(1) ** 2).sum() / max(float((both.mean(1) ** 2).sum()), TINY)
    return Leak(Ratio(_square(whole - alone), _square(both), of_reader=False), float(raw))


def log_odds(law: NDArray, edited: NDArray) -> Array:
    """Bits between the answer, the likeliest outcome of `law` [n, k], and all others, in `edited` [n, ..., k]."""
    answer = np.asarray(law).argmax(-1)
    picked = np.arange(edited.shape[-1]) == answer.reshape(-1, *(1,) * (edited.ndim - 1))
    # The others are summed: 1 - p of a sure answer would be rounding.
    on, off = (np.where(chosen, edited, 0).sum(-1, dtype=np.float64) for chosen in (picked, ~picked))
    return np.log2(np.maximum(on, TINY)) - np.log2(np.maximum(off, TINY))


def negative_loss(law: NDArray, edited: NDArray) -> Array:
    """Minus the bits that `edited` [n, ..., k] needs for outcomes of `law` [n, k]; at most minus the law's entropy."""
    p = np.asarray(law, dtype=np.float64).reshape(len(law), *(1,) * (edited.ndim - 2), -1)
    return (p * np.log2(np.maximum(edited, TINY))).sum(-1)


# --------------------------------------------------------------------------------------------------- repair, cross-talk


def self_repair(total: NDArray, direct: NDArray) -> Ratio:
    """1 - TE / DE over rows and parts, before it is clipped (McGrath et al. 2023; Rushing & Nanda 2024).

    total [n, part]: what the behaviour falls by when a part is ablated; direct [n, part]: the same while what could
    step in is held at what it was.
    """
    total, direct = (np.asarray(effect, dtype=np.float64).sum(-1) for effect in (total, direct))
    return Ratio(direct - total, direct, of_reader=False)


def clipped(estimate: Estimate) -> Estimate:
    """A share that lies between 0 and 1 by its definition, and its limits."""
    value, low, high = (
        None if x is None else min(1.0, max(0.0, x)) for x in (estimate.value, estimate.low, estimate.high)
    )
    return replace(estimate, value=value, low=low, high=high)


def cross_talk(moved: NDArray, follows: NDArray | None = None) -> Ratio:
    """Mean |change of readout j| over |change of readout i| under do(z_i), over i and j other than i.

    moved [n, i, j]: how far readout j moves, in units of the activations; follows [i, j]: which j are asked for each i,
    all when None. 0 where parts are separate; |w_i w_j| of single directions of unit length at one hook point.
    """
    moved = np.asarray(moved, dtype=np.float64)
    n_parts = moved.shape[1]
    asked = ~np.eye(n_parts, dtype=bool) & (True if follows is None else np.asarray(follows, dtype=bool))
    counted = asked.sum(1)
    own = np.diagonal(moved, axis1=1, axis2=2)[:, counted > 0]
    others = (moved * asked).sum(2)[:, counted > 0] / counted[counted > 0]
    unit = float(own.sum(1).mean()) if own.size else 0.0  # so that what is too little does not depend on the scale
    return Ratio(others.sum(1) / (unit or 1.0), own.sum(1) / (unit or 1.0), of_reader=False)


# --------------------------------------------------------------------------------------------------------- value space


def binned(readout: NDArray, n_bins: int = 2) -> NDArray[np.int64]:
    """Codes [n] of a part's values [n, k] along their leading axis.

    Values that are `n_bins` at most but for rounding are told apart as they are; others by k-means in one dimension,
    begun at quantiles.
    """
    centred = np.asarray(readout, dtype=np.float64)
    centred = centred.reshape(len(centred), -1) - centred.reshape(len(centred), -1).mean(0)
    x = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    ordered = np.sort(x)
    gap = np.diff(ordered) > NEAR * max(float(np.ptp(x)), TINY)
    if gap.sum() < n_bins:
        return np.searchsorted(ordered[1:][gap], x, side="right").astype(np.int64)
    centres = np.quantile(x, (np.arange(n_bins) + 0.5) / n_bins)
    for _ in range(100):
        code = np.searchsorted((centres[1:] + centres[:-1]) / 2, x)
        found = np.array([x[code == i].mean() if (code == i).any() else centres[i] for i in range(n_bins)])
        if np.array_equal(found, centres):
            break
        centres = np.sort(found)
    return code.astype(np.int64)


def value_leak(law: NDArray, codes: NDArray, group: NDArray, order: int, seed: int = 0) -> Leak:
    """1 - R^2 up to `order` of f(z) = E[B | z], over the joint values that occur, weighted by how often they do.

    law [n, outcome]; codes [n, part]; group [n]. The best function of that order is a table for every `order` parts,
    fitted by weighted least squares, since parts need not be independent. Whole groups are split into halves; what both
    leave is multiplied, averaged over N_SPLITS splits. Values that only one half has tell nothing and are left out.
    """
    law, codes = np.asarray(law, dtype=np.float64), np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] < 2 or len(codes) != len(law):
        raise BadInput(
            f"parts compose where there are at least two, with a value for each of {len(law)} rows; found codes of the "
            f"shape {list(codes.shape)}."
        )
    cells, cell = np.unique(codes, axis=0, return_inverse=True)
    design = _tables(cells, order)
    return _between(law, cell.reshape(-1), group, seed, lambda f, at, w: f - _projected(f, design[at], w))


def _tables(cells: NDArray, order: int) -> Array:
    """A column for each value of every `order` parts together: [n_cells, p]."""
    blocks = [np.ones((len(cells), 1))]
    for term in combinations(range(cells.shape[1]), min(order, cells.shape[1])) if order else ():
        code = np.unique(cells[:, list(term)], axis=0, return_inverse=True)[1].reshape(-1)
        blocks.append(np.eye(code.max() + 1)[code])
    return np.concatenate(blocks, 1)


def _projected(f: Array, design: Array, weight: Array) -> Array:
    root = np.sqrt(weight)[:, None]
    return design @ np.linalg.lstsq(design * root, f * root, rcond=None)[0]


def _between(law: Array, cell: NDArray[np.int64], group: NDArray, seed: int, residual: Residual) -> Leak:
    """What `residual` leaves of the means per cell over their variance, by products of two halves of the groups."""
    names, code = np.unique(group, return_inverse=True)
    n_cells = int(cell.max()) + 1
    generator = np.random.default_rng([seed, 33])
    missed, available, seen = (np.zeros(len(law)) for _ in range(3))
    for _ in range(N_SPLITS):
        half = (generator.permutation(len(names)) < len(names) // 2)[code]
        means, counts = zip(*(_means(law[side], cell[side], n_cells) for side in (half, ~half)), strict=True)
        at = np.flatnonzero((counts[0] > 0) & (counts[1] > 0))
        if len(at):
            one, other = _product([mean[at] for mean in means], at, (counts[0] + counts[1])[at], residual)
            every = np.zeros((3, n_cells))
            every[:, at] = one, other, np.ones(len(at))
            missed, available, seen = missed + every[0, cell], available + every[1, cell], seen + every[2, cell]
    f, count = _means(law, cell, n_cells)
    left, total = _product([f, f], np.arange(n_cells), count, residual)
    raw = float((count * left).sum() / max(float((count * total).sum()), TINY))
    return Leak(Ratio(missed / N_SPLITS, available / N_SPLITS, of_reader=False), raw, float(seen.mean() / N_SPLITS))


def _product(means: Sequence[Array], at: NDArray[np.int64], weight: Array, residual: Residual) -> tuple[Array, Array]:
    """Products of what is left, and of distances from the mean, of both halves in each cell."""
    left = [residual(f, at, weight) for f in means]
    centred = [f - np.average(f, axis=0, weights=weight) for f in means]
    return (left[0] * left[1]).sum(1), (centred[0] * centred[1]).sum(1)


def _means(law: Array, cell: NDArray[np.int64], n_cells: int) -> tuple[Array, Array]:
    """Mean law and number of rows of each cell; 0 where there is none."""
    count = np.bincount(cell, minlength=n_cells).astype(np.float64)
    total = np.stack([np.bincount(cell, column, n_cells) for column in law.T], 1)
    return total / np.maximum(count, 1)[:, None], count


def dependence(codes: NDArray, group: NDArray, seed: int = 0) -> Ratio:
    """How much of the parts' values other parts tell: Goodman and Kruskal's tau, over ordered pairs of parts together.

    codes [n, part]; group [n]. 0 where they are independent, 1 where each one gives the others away. Halves as in
    `value_leak`.
    """
    codes = np.asarray(codes)
    told, every = np.zeros(len(codes)), np.zeros(len(codes))
    for i, j in product(range(codes.shape[1]), repeat=2):
        if i != j:
            known = np.unique(codes[:, i], return_inverse=True)[1].reshape(-1)
            asked = np.unique(codes[:, j], return_inverse=True)[1].reshape(-1)
            one_hot = np.eye(asked.max() + 1)[asked]
            told += _between(one_hot, known, group, seed, lambda f, at, w: f).ratio.available
            every += ((one_hot - one_hot.mean(0)) ** 2).sum(1)
    return Ratio(told, every, of_reader=False)
