"""Permutations that leave the groups what they are: within groups, of whole groups, and plans shared by all sites."""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput

SMALL_GROUP = 8  # rows: a shuffle inside a group this large leaves at most an eighth of its rows in place


def permutation_plan(group: NDArray, n_permutations: int, seed: int, constant_within: bool) -> NDArray[np.int64]:
    """Uniform random permutations of rows that the null hypothesis allows: [n_permutations, n], identity included.

    Rows move inside their group; rows that are alone in theirs exchange places. With `constant_within` (a behaviour
    that is the same all over a group) whole groups of equal size exchange their rows, in order. Unlike those of
    `permute_within`, which make a control, these are uniform on a group of permutations, so that p-values are exact.
    Raises BadInput when only the identity is allowed.
    """
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    n = len(code)
    generator = np.random.default_rng([seed, 11])
    plan = np.tile(np.arange(n), (n_permutations, 1))
    if constant_within:
        by_group = np.argsort(code, kind="stable")
        start = np.concatenate([[0], np.cumsum(counts)])
        alike = [
            np.stack([by_group[start[g] : start[g] + size] for g in np.flatnonzero(counts == size)])
            for size in np.unique(counts)
        ]
        alike = [members for members in alike if len(members) > 1]
        if not alike:
            raise BadInput(
                f"the behaviour is constant within groups and no two of the {len(counts)} groups have the same number "
                "of rows, so that whole groups cannot be exchanged: give groups of equal size."
            )
        for row in plan:
            for members in alike:
                row[members] = members[generator.permutation(len(members))]
        return plan
    cell = np.where(counts[code] > 1, code, -1)
    if n < 2 or len(np.unique(cell)) == n:
        raise BadInput(f"{n} rows allow no permutation but the identity.")
    by_cell = np.argsort(cell, kind="stable")
    for row in plan:
        row[by_cell] = np.argsort(cell + generator.random(n))
    return plan


def permute_within(group: NDArray, seed: int) -> tuple[NDArray[np.int64], bool]:
    """A random permutation of rows inside each group; small groups of one size also exchange their rows as wholes.

    Uniform inside a group, never a derangement: in a contrast pair, one true and one false, a derangement inverts every
    label and leaves all that there is to read. But a uniform shuffle leaves one row of m where it was, so that groups
    of fewer than SMALL_GROUP rows first take the rows of another group of their size.
    Groups of one row are exchanged with one another. Returns (permutation, whether rows have groups to stay in).
    """
    generator = np.random.default_rng([seed, 3])
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    by_group = np.argsort(code, kind="stable")
    start = np.concatenate([[0], np.cumsum(counts)])
    source = np.arange(len(counts))
    for size in np.unique(counts[counts < SMALL_GROUP]):
        alike = np.flatnonzero(counts == size)
        source[alike] = alike[generator.permutation(len(alike))]
    permutation = np.empty(len(group), dtype=np.int64)
    for to, taken in enumerate(source):
        rows = by_group[start[taken] : start[taken + 1]]
        permutation[by_group[start[to] : start[to + 1]]] = rows[generator.permutation(len(rows))]
    return permutation, bool((counts > 1).any() and np.median(counts) >= 2)


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
