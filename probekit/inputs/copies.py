"""Copies: the same input in several groups, so that it would be fitted and tested, and what becomes of it.

A group is a copy where at least half of its rows are those of other groups that are copies too. So games of a board
that share an opening stay apart, and a text that stands twice in a file, or a game that does, is one group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.classes import LEAST_GROUPS
from probekit.task import TEXT, Observations

KINDS = ("merge", "keep")
ALIKE = 1e-4  # of the spread of a projection, that near-exact copies differ by
GRIDS = (0, 1 / 3, 2 / 3)  # by which the grids are moved that copies lie in one cell of
PROJECTIONS = 4  # random ones; that two rows of numbers meet in all of them by chance is one in 1e16
MOST_SITES = 3  # that are compared: of more, some of early and late ones
FEWEST = 4  # groups to one, from which on inputs are taken for a few kinds that come again, as tokens or boards do
SOME = 1_000  # rows that tell the scale of a column
BLOCK = 2**22  # numbers that are looked at in float64 at a time


def without_copies(sites: Mapping[str, NDArray], observations: Observations, copies: str) -> Observations:
    """Groups that are copies of each other as one, within each domain, and how many rows that were, in the note.

    Rows are copies where their activations and what the floor reads are the same up to rounding, or their texts.
    copies: `merge`, or `keep` to leave the groups and only count. Raises BadInput for another word.
    """
    if copies not in KINDS:
        raise BadInput(f"copies is '{copies}': say {' or '.join(KINDS)}.")
    numbers = [block for name, block in observations.floor_inputs.items() if name != TEXT]
    input_ = same_rows([*_some(list(sites.values())), *numbers])
    if TEXT in observations.floor_inputs:
        input_ = _one_of_either(input_, numbered(observations.floor_inputs[TEXT]))
    few = TEXT not in observations.floor_inputs
    group, told = merged(observations.group, input_, numbered(observations.domain), copies, few)
    return replace(observations, group=group, note="; ".join(filter(None, (observations.note, told))))


def merged(
    group: NDArray, input_: NDArray, domain: NDArray, copies: str = "merge", few: bool = True
) -> tuple[NDArray, str]:
    """Groups [n] after copies became one, numbered anew, or as they were; and what to tell of it, empty where nothing.

    input_, domain [n]: what each row reads, the same number for copies, and where it stands. few: whether there may be
    few inputs, as tokens and boards are, which come again in groups that have nothing else in common; else they are few
    where fewer than LEAST_GROUPS groups would be left, of which nothing could be measured.
    """
    here, code = numbered(input_, domain), numbered(group)
    known = np.unique(np.stack([here, code]), axis=1)  # each input with each group that it is in
    shared = np.bincount(known[0])[here] > 1
    n, before = int(shared.sum()), int(code.max()) + 1
    across = np.unique(np.stack([input_, domain]), axis=1)[0]
    n_across = int((np.bincount(across)[input_] > 1).sum())
    told = f"{n_across} rows of one domain are also rows of another" if n_across else ""
    if not n or before < LEAST_GROUPS or not input_.any():  # of which nothing can be measured, or told apart, anyway
        return group, told
    copy = 2 * np.bincount(code, shared) >= np.bincount(code)
    at = known[:, copy[known[1]]]
    next_to = np.flatnonzero(at[0, 1:] == at[0, :-1])
    one = components(before, at[1, next_to], at[1, next_to + 1])
    after = int(one.max()) + 1
    kinds = after * FEWEST < before and (few or after < LEAST_GROUPS)
    if copies == "keep":
        why = "and were kept there as asked"
    elif kinds:
        why = "taken for inputs of few kinds: groups stay as they are"
    elif after == before:
        why = "and less than half of the rows of any: groups stay as they are"
    else:
        why = f"which became one: {after} groups of {before} are left (copies = 'keep' leaves them apart)"
    kept = copies == "keep" or kinds
    told = "; ".join(filter(None, (f"{n} of {len(code)} rows are also in other groups, {why}", told)))
    return group if kept or after == before else one[code], told


def numbered(*columns: NDArray) -> NDArray[np.int64]:
    """A number for each row [n], the same for rows that agree in all columns."""
    out = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        code = np.unique(column, return_inverse=True)[1]
        out = np.unique(out * (int(code.max(initial=0)) + 1) + code, return_inverse=True)[1]
    return out


def same_rows(arrays: Sequence[NDArray]) -> NDArray[np.int64]:
    """A number for each row [n], the same for rows that agree in all arrays [n, _] up to rounding."""
    seen = np.zeros((len(arrays[0]), PROJECTIONS))
    with np.errstate(all="ignore"):  # what is not finite is told where it is read
        for i, array in enumerate(arrays):
            seen += _projected(array, i)
        seen = seen / (ALIKE * _spread(seen))
    # Grids a part of a step from each other: what lies on both sides of an edge of one is together in another.
    return reduce(_one_of_either, (numbered(*np.floor(seen + shift).T) for shift in GRIDS))


def components(n: int, a: NDArray, b: NDArray) -> NDArray[np.int64]:
    """Which component each of n nodes is in, when a [m] and b [m] are joined, in the order of their first nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _one_of_either(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each row, the same for rows that share one of the first or one of the second."""
    n = int(first.max(initial=0)) + 1
    return components(n + int(second.max(initial=0)) + 1, first, n + second)[first]


def _some(sites: Sequence[NDArray]) -> list[NDArray]:
    at = np.unique(np.linspace(0, len(sites) - 1, MOST_SITES).round().astype(int))
    return [sites[int(i)] for i in at]


def _projected(array: NDArray, seed: int) -> NDArray[np.float64]:
    """Rows of any width along a few random directions, columns brought to one scale."""
    step = max(1, BLOCK // max(1, array.shape[1]))
    some = array[:: max(1, len(array) // SOME)].astype(np.float64)
    centre, scale = some[0], _spread(some)
    turn = np.random.default_rng(seed).normal(size=(array.shape[1], PROJECTIONS))
    rows = (array[start : start + step].astype(np.float64) for start in range(0, len(array), step))
    return np.concatenate([((block - centre) / scale) @ turn for block in rows])


def _spread(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column what most of its values lie within, so that a few far away hide no others; 1 where none differ."""
    low, high = np.quantile(columns, (0.1, 0.9), axis=0)
    usual, all_of_it = high - low, columns.max(0) - columns.min(0)
    return np.where(usual > 0, usual, np.where(all_of_it > 0, all_of_it, 1.0))
