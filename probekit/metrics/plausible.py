"""Plausible but incorrect: rows of which a reader is confident, which it answers consistently, and wrongly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Ratio, estimates

CONFIDENT = 0.2  # the top share of a reader's confidence
WRONG = 0.5  # of the probability of the likeliest outcome, below which another one is wrong
ENOUGH = 0.5  # share of rows that must have another to agree with, else consistency is not asked for
PAIR, GROUP, NOTHING = "pair", "group", "none"  # what rows are to be consistent with


@dataclass(frozen=True)
class Answered:
    """What a reader says of rows and how that compares, each [n].

    confident: among the top fifth of its confidence at home; wrong: the behaviour is hardly what it says; consistent:
    with the rows that it has to agree with; asked: whether there are any, without which a row is no case. with_what:
    `pair`, `group`, or `none` where consistency is not asked for.
    """

    confident: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    consistent: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    with_what: str

    @property
    def plausible(self) -> NDArray[np.bool_]:
        """Confident, consistent and wrong [n]."""
        return self.asked & self.confident & self.consistent & self.wrong


@dataclass(frozen=True)
class Rate:
    """A proportion of rows with its 95 % interval over whole groups; n rows of `groups` groups."""

    value: float
    low: float
    high: float
    n: int
    groups: int


def answered(
    confidence: NDArray, said: NDArray, law: NDArray, group: NDArray, home: NDArray, pair: NDArray | None = None
) -> Answered:
    """Rows by what a reader says of them, all [n] but for law [n, n_outcomes] (docs/method.md section 5).

    confidence: probability of the likeliest outcome, `said`; law: the behaviour. An answer is wrong where that has less
    than half of the probability of the likeliest outcome: of moves that are as good none is. home: rows of the domain
    that it was fitted in, whose top fifth says what is confident everywhere. pair: which pair each row is of, where
    rows come in pairs, such as a statement and its negation: an answer agrees with the other's where both are the same
    exactly if they should be. Without pairs it agrees where the rows of its group that should be answered alike are.
    Where fewer than half of the rows have any other to agree with, all are consistent, and that is said.
    """
    confident = confidence >= np.quantile(confidence[home], 1 - CONFIDENT)
    truth, likeliest = law.argmax(1), law.max(1)
    wrong = law[np.arange(len(said)), said] < WRONG * likeliest
    if pair is not None:
        consistent, asked = _agree(pair, said, truth, apart=True)
        with_what = PAIR
    else:
        consistent, asked = _agree(group, said, truth, apart=False)
        with_what = GROUP
    if asked.mean() < ENOUGH:
        every = np.ones(len(said), np.bool_)
        return Answered(confident, wrong, every, every, NOTHING)
    return Answered(confident, wrong, consistent, asked, with_what)


def _agree(unit: NDArray, said: NDArray, truth: NDArray, *, apart: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether all other rows of its unit are answered as this one where they should be, and whether there is any.

    apart: rows that should be answered differently count as well.
    """
    consistent, asked = np.ones(len(said), np.bool_), np.zeros(len(said), np.bool_)
    code = np.unique(unit, return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(code))[:-1]):
        alike, same = truth[rows][:, None] == truth[rows], said[rows][:, None] == said[rows]
        counts = np.ones_like(alike) if apart else alike
        counts = counts & ~np.eye(len(rows), dtype=np.bool_)
        consistent[rows] = ((alike == same) | ~counts).all(1)
        asked[rows] = counts.any(1)
    return consistent, asked


def rate(happens: NDArray[np.bool_], group: NDArray, n_bootstrap: int, seed: int) -> Rate:
    """How often something happens, over rows; whole groups are drawn.

    Where it never does, the upper limit is that of as many independent groups (Clopper and Pearson 1934), since no draw
    has another value than 0.
    """
    clusters = Clusters.of(group, n_bootstrap, seed)
    n_groups = len(clusters.names)
    if not happens.any():
        return Rate(0.0, 0.0, float(1 - 0.025 ** (1 / n_groups)), len(happens), n_groups)
    found = estimates([Ratio(happens.astype(np.float64), np.ones(len(happens)))], clusters)[0]
    value = float(happens.mean())
    low, high = (value if limit is None else limit for limit in (found.low, found.high))
    return Rate(value, low, high, len(happens), n_groups)
