"""Pairs: two rows that an abstraction cannot tell apart and a model treats differently, beside random pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.classes import entropy_bits

ALIKE = 0.05  # share of random pairs that are as near as two rows that cannot be told apart
N_RANDOM, N_NEIGHBOURS, MOST_PAIRS = 10_000, 20, 20
MOST_SEARCHED = 2_000  # rows among which neighbours are looked for; of more, so many are drawn
SAME = 1e-9  # of the largest, a distance that is none


@dataclass(frozen=True)
class CounterexamplePairs:
    """Pairs of rows [m], those that the model treats most differently first, and what they are measured by.

    first, second: rows; distance: of their readouts; percentile: of random pairs that are nearer, in percent;
    divergence: of their laws, in bits; ratio: over the mean of random pairs. n_alike: pairs that were found to be
    alike; alike, random: mean divergence of those, and of random pairs, in bits (NaN of none).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.float64]
    percentile: NDArray[np.float64]
    divergence: NDArray[np.float64]
    ratio: NDArray[np.float64]
    n_alike: int = 0
    alike: float = float("nan")
    random: float = float("nan")

    @classmethod
    def none(cls) -> "CounterexamplePairs":
        """Of rows that no pair can be made of."""
        rows, figures = np.empty(0, np.int64), np.empty(0)
        return cls(rows, rows, figures, figures, figures, figures)

    def among(self, rows: NDArray[np.int64]) -> "CounterexamplePairs":
        """The same pairs, told as places in a larger set: rows [n] are where these are there."""
        return replace(self, first=rows[self.first], second=rows[self.second])

    @classmethod
    def together(cls, parts: "Sequence[CounterexamplePairs]", most: int = MOST_PAIRS) -> "CounterexamplePairs":
        """Of several sets of rows that share no group, such as the test rows of folds: the clearest of all."""
        every = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        order = np.lexsort((every["distance"], -every["ratio"].round(9)))[:most]
        n_alike = sum(part.n_alike for part in parts)
        alike = sum(part.alike * part.n_alike for part in parts if part.n_alike) / n_alike if n_alike else np.nan
        known = [part.random for part in parts if not np.isnan(part.random)]
        random = float(np.mean(known)) if known else float("nan")
        return cls(**{name: values[order] for name, values in every.items()}, n_alike=n_alike, alike=float(alike),
                   random=random)  # fmt: skip


_COLUMNS = ("first", "second", "distance", "percentile", "divergence", "ratio")


def counterexample_pairs(
    readouts: Sequence[NDArray], law: NDArray, group: NDArray, *, seed: int, most: int = MOST_PAIRS
) -> CounterexamplePairs:
    """Rows whose readouts are alike and whose laws are not (docs/method.md section 5).

    readouts: arrays [n, width] of what is read of each row; two rows are alike where the Euclidean distance of every
    one of them is at most the 5th percentile of random pairs. The first one's distance is told. law [n, n_outcomes]; of
    one outcome it holds numbers. group [n]: two rows of one group are never a pair, since they share more than the
    abstraction speaks of; of each pair of groups the clearest pair is taken, and of each row the clearest pair that it
    is in. A pair counts where its laws differ at least as much as those of two random rows do on average. Random pairs
    are of two groups as well. Raises BadInput for arrays of different lengths.
    """
    if any(len(part) != len(law) for part in (*readouts, group)):
        lengths = ", ".join(str(len(part)) for part in (*readouts, law, group))
        raise BadInput(f"pairs are of rows that all arrays have; readouts, law and group have {lengths}: give as many.")
    draw = np.random.default_rng([seed, 31])
    at = np.sort(draw.permutation(len(law))[:MOST_SEARCHED])
    views, law, group = (
        [np.asarray(part, np.float64)[at] for part in readouts],
        np.asarray(law, np.float64)[at],
        group[at],
    )
    random = _random_pairs(group, draw)
    if not len(random):
        return CounterexamplePairs.none()
    apart = [_distance(view, random) for view in views]
    limits = [float(np.quantile(one, ALIKE)) + SAME * float(one.max()) for one in apart]
    usual = float(divergence(law, random).mean())
    # Of ties, such as rows that read exactly alike, a search gives some; random pairs give others.
    low, high = np.sort(np.concatenate([_neighbours(views, limits, group), random]), axis=1).T
    pairs = np.stack(np.divmod(np.unique(low * len(group) + high), len(group)), axis=1)
    pairs = pairs[np.all([_distance(view, pairs) <= limit for view, limit in zip(views, limits, strict=True)], axis=0)]
    bits, distance = divergence(law, pairs), _distance(views[0], pairs)
    shown = _clearest(pairs, bits, distance, group, usual, most)
    alike = float(bits.mean()) if len(pairs) else float("nan")
    bits, distance = bits[shown], distance[shown]
    nearer = 100 * np.searchsorted(np.sort(apart[0]), distance, "left") / len(apart[0])
    first, second = at[pairs[shown]].T
    return CounterexamplePairs(first, second, distance, nearer, bits, bits / (usual or 1.0), len(pairs), alike, usual)


def divergence(law: NDArray, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """How differently two rows behave, in bits: pairs [m, 2] of rows -> [m].

    Of laws [n, n_outcomes] the Jensen-Shannon divergence (Lin 1991), from 0 to 1. Of numbers [n, 1] what is lost where
    one is told as the other: half the squared difference in nats, which has no largest value.
    """
    one, other = law[pairs[:, 0]], law[pairs[:, 1]]
    if law.shape[1] == 1:
        return (one - other)[:, 0] ** 2 / (2 * np.log(2))
    mixed = entropy_bits((one + other) / 2)
    return np.maximum(0.0, mixed - (entropy_bits(one) + entropy_bits(other)) / 2)


def _random_pairs(group: NDArray, draw: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of rows of two groups [m, 2]."""
    if not len(group):
        return np.empty((0, 2), np.int64)
    pairs = draw.integers(0, len(group), size=(N_RANDOM, 2))
    return pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]


def _distance(view: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.linalg.norm(view[pairs[:, 0]] - view[pairs[:, 1]], axis=1)


def _neighbours(views: Sequence[NDArray[np.float64]], limits: Sequence[float], group: NDArray) -> NDArray[np.int64]:
    """Each row with the nearest of other groups [m, 2], where every view is told in units of its own limit."""
    from sklearn.neighbors import NearestNeighbors

    scaled = [view / (limit or 1.0) for view, limit in zip(views, limits, strict=True)]
    most = int(np.unique(group, return_counts=True)[1].max())  # those of its own group may be nearest of all
    n = min(len(group) - 1, N_NEIGHBOURS + min(most, 5 * N_NEIGHBOURS))
    near = NearestNeighbors(n_neighbors=n).fit(np.concatenate(scaled, axis=1)).kneighbors(return_distance=False)
    pairs = np.stack([np.repeat(np.arange(len(group)), n), near.ravel()], axis=1)
    return pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]


def _clearest(
    pairs: NDArray[np.int64], bits: NDArray[np.float64], distance: NDArray[np.float64], group: NDArray, usual: float,
    most: int,
) -> NDArray[np.int64]:  # fmt: skip
    """Places of the pairs of largest divergence, the nearest of equal ones, each row and each pair of groups once."""
    known = np.unique(group, return_inverse=True)[1]
    rows, groups, out = set[int](), set[tuple[int, int]](), list[int]()
    for i in np.lexsort((distance, -bits.round(9))):
        if len(out) == most or bits[i] <= 0 or bits[i] < usual:
            break
        a, b = (int(row) for row in pairs[i])
        both = min(known[a], known[b]), max(known[a], known[b])
        if a in rows or b in rows or both in groups:
            continue
        out.append(int(i))
        rows |= {a, b}
        groups.add(both)
    return np.array(out, np.int64)
