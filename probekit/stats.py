"""Splits by whole group, permutations, and the draws of groups behind every interval. NumPy only."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, TooFewRows

FRACTIONS = (0.5, 0.15, 0.1, 0.25)  # fit, select, calibrate, test
MIN_DENOMINATOR = 0.05  # of the unit: a ratio over less is NA
FEW_CLUSTERS = 20  # below this an interval is marked
DRAWS_AT_ONCE = 128  # of which the weights are widened to float64: a block that stays in the cache


@dataclass(frozen=True)
class Split:
    """Row numbers of the four sides; no group is on two of them.

    fit: estimates; select: ridge, restarts, early stops, layers; calibrate: temperature and intercepts; test: once.
    inner: further (fit, select) pairs inside fit and select together, over which ridges are chosen; empty for one pair.
    """

    fit: NDArray[np.int64]
    select: NDArray[np.int64]
    calibrate: NDArray[np.int64]
    test: NDArray[np.int64]
    inner: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] = ()


def split_by_group(
    group: NDArray, seed: int, fractions: tuple[float, float, float, float] = FRACTIONS, inner: int = 1
) -> Split:
    """Assign whole groups to the four sides at random, in the given proportions of groups; inner: folds for ridges.

    Raises BadInput when there are too few groups to fill all four sides.
    """
    names, code = np.unique(group, return_inverse=True)
    n_groups = len(names)
    _check_groups(n_groups, 4)
    order = np.random.default_rng([seed, 1]).permutation(n_groups)
    n_test = min(max(1, round(fractions[3] * n_groups)), n_groups - 3)
    side = np.full(n_groups, 3)
    side[order[: n_groups - n_test]] = _training_sides(n_groups - n_test, fractions[:3])
    return _split(side[code], group, seed, inner)


def splits_by_group(group: NDArray, seed: int, outer: int = 1, inner: int = 1) -> list[Split]:
    """One split for each of `outer` folds, so that every row is tested once; with outer = 1 a single `split_by_group`.

    The groups outside a fold are shared out to fit, select and calibrate, anew for each fold.
    """
    if outer == 1:
        return [split_by_group(group, seed, inner=inner)]
    names, code = np.unique(group, return_inverse=True)
    least = outer
    while least - -(-least // outer) < 3:  # outside the largest fold three sides are to be filled
        least += 1
    _check_groups(len(names), least)
    fold = folds_by_group(names, outer, seed)
    out = []
    for i in range(outer):
        generator = np.random.default_rng([seed, 9, i])
        rest = generator.permutation(np.flatnonzero(fold != i))
        side = np.full(len(names), 3)
        side[rest] = _training_sides(len(rest), FRACTIONS[:3])
        out.append(_split(side[code], group, seed, inner))
    return out


def _training_sides(n_groups: int, fractions: tuple[float, ...]) -> NDArray[np.int64]:
    """Side numbers 0, 1, 2 for groups in random order, at least one group each."""
    share = np.cumsum(fractions) / sum(fractions)
    first = min(max(1, round(share[0] * n_groups)), n_groups - 2)
    second = min(max(first + 1, round(share[1] * n_groups)), n_groups - 1)
    return np.repeat([0, 1, 2], [first, second - first, n_groups - second])


def _split(side: NDArray, group: NDArray, seed: int, inner: int) -> Split:
    fit, select, calibrate, test = (np.flatnonzero(side == i) for i in range(4))
    pairs: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] = ()
    if inner > 1:
        both = np.sort(np.concatenate([fit, select]))
        fold = folds_by_group(group[both], inner, seed)
        pairs = tuple((both[fold != i], both[fold == i]) for i in range(int(fold.max()) + 1))
    return Split(fit, select, calibrate, test, pairs)


def _check_groups(n_groups: int, least: int) -> None:
    if n_groups < least:
        raise BadInput(
            f"the group column has {n_groups} group{'s' * (n_groups != 1)} and {least} are needed: fit, select, "
            "calibrate and test take at least one each and no group may be on two sides. Give a column with more "
            "groups, or none."
        )


def folds_by_group(group: NDArray, n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold number of each row; whole groups, fewer folds than asked when there are fewer groups."""
    names, code = np.unique(group, return_inverse=True)
    fold = np.arange(len(names)) % min(n_folds, len(names))
    return np.random.default_rng([seed, 2]).permutation(fold)[code]


def permute_within(group: NDArray, seed: int) -> tuple[NDArray[np.int64], bool]:
    """A permutation of rows inside each group; of rows anywhere when groups hold one row each.

    No row keeps its place: each takes the next in a random cycle of its group, because in small groups a plain shuffle
    leaves a large part of the signal where it was. Groups of one row exchange theirs among each other.
    Returns (permutation, whether it stayed within groups).
    """
    generator = np.random.default_rng([seed, 3])
    names, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    within = len(names) < len(group) and np.median(counts) >= 2
    cycle = np.where(counts[code] > 1, code, -1) if within else np.zeros(len(group), dtype=np.int64)
    order = np.lexsort((generator.random(len(group)), cycle))
    starts = np.flatnonzero(np.diff(cycle[order], prepend=cycle[order[0]] - 1))
    sizes = np.diff(np.append(starts, len(group)))
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    following = order[start + (np.arange(len(group)) - start + 1) % size]
    permutation = np.empty(len(group), dtype=np.int64)
    permutation[order] = following
    return permutation, bool(within)


def permute_groups(group: NDArray, seed: int) -> NDArray[np.int64]:
    """Row numbers that give every group the rows of another one, repeated or cut to its size.

    For behaviour that is constant within groups, where moving rows inside a group changes nothing.
    """
    names, code = np.unique(group, return_inverse=True)
    shift = np.random.default_rng([seed, 7]).permutation(len(names))
    source = np.empty(len(names), dtype=np.int64)
    source[shift] = np.roll(shift, 1)  # one cycle: no group keeps its own rows
    members = [np.flatnonzero(code == i) for i in range(len(names))]
    out = np.empty(len(group), dtype=np.int64)
    for i, rows in enumerate(members):
        out[rows] = np.resize(members[source[i]], len(rows))
    return out


def check_rows(n_fit: int, d: int) -> None:
    """Raise TooFewRows for less than 2 fit rows per coordinate, from which no bits are told (measurement.md 7.5)."""
    if n_fit < 2 * d:
        raise TooFewRows(
            f"{d} coordinates are to be read from {n_fit} fit rows: below {2 * d} rows bits cannot be told from "
            f"overfitting. Give at least {10 * d} fit rows (about {round(10 * d / FRACTIONS[0])} in all)."
        )


@dataclass(frozen=True)
class Clusters:
    """Bootstrap weights over the groups of a set of rows, shared by every ratio measured on them.

    code [n]: group of each row; names: group labels; weights [n_bootstrap, n_groups]: how often each group is drawn.
    """

    code: NDArray[np.int64]
    names: NDArray
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, group: NDArray, n_bootstrap: int, seed: int) -> "Clusters":
        """Draw whole groups with replacement."""
        names, code = np.unique(group, return_inverse=True)
        return cls(code, names, _drawn(len(names), n_bootstrap, seed))

    def sums(self, rows: NDArray) -> NDArray[np.float64]:
        """Sum of a per-row quantity over each group: [n] -> [n_groups]."""
        weights = np.asarray(rows, dtype=np.float64)
        return np.bincount(self.code, weights=weights, minlength=len(self.names)).astype(np.float64)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Rows in each group."""
        return np.bincount(self.code, minlength=len(self.names))

    @cached_property
    def labels(self) -> list[str]:
        """Names of the groups as records keep them."""
        return [str(name) for name in self.names]


@lru_cache(maxsize=4)
def _drawn(n_groups: int, n_bootstrap: int, seed: int) -> NDArray[np.float32]:
    """How often each of n groups is drawn: [n_bootstrap, n_groups]. Pools of equally many groups share one array."""
    generator = np.random.default_rng([seed, 4])
    weights = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap).astype(np.float32)
    weights.flags.writeable = False
    return weights


def resampled(sums: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Each sum over groups in each draw: sums [m, n_groups], weights [n_bootstrap, n_groups] -> [m, n_bootstrap].

    One matrix product, because one sum at a time is bound by reading the weights. Equal sums are resampled once: the
    columns of a product may differ in their last digits, and a ratio of equal sums has to be exactly 1 in every draw.
    """
    places: dict[bytes, int] = {}
    at = [places.setdefault(row.tobytes(), len(places)) for row in sums]
    different = np.empty((len(places), sums.shape[1]))
    different[at] = sums
    out = np.empty((len(places), len(weights)))
    for start in range(0, len(weights), DRAWS_AT_ONCE):
        some = slice(start, start + DRAWS_AT_ONCE)
        out[:, some] = different @ weights[some].astype(np.float64).T
    return out[at]
