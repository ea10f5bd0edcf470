"""Splits by whole group: fit, select, calibrate and test; outer and inner folds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput

FRACTIONS = (0.5, 0.15, 0.1, 0.25)  # fit, select, calibrate, test


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
