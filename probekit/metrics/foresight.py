"""Foresight: how many of the bad rows a ranking made in advance finds at a budget, beside chance and other rankings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.bootstrap import FEW_CLUSTERS, Bootstrap, Clusters
from probekit.metrics.ratios import Estimate

FEW = 8  # bad rows, or good ones, below which no number has a meaning
MEASURES = ("precision", "recall", "lift", "average", "leak")
AT_ONCE = 2_000_000  # weights of rows that are held at a time
Drawn = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Foresight:
    """What rankings find. rankings: name -> measure -> its estimate; random: what no ranking at all finds, exactly.

    precision: share of bad rows among those at the top; recall: share of the bad rows that are at the top; lift:
    precision over the share of bad rows; average: mean precision over all budgets; leak: 1 - (precision - base) /
    (best - base), 0 where the bad rows lead, 1 where the ranking is no better than chance. less: (name, other) ->
    measure -> the first less the second, on the same draws of groups. n, n_bad: rows. budget: share of them at the top.
    """

    budget: float
    n: int
    n_bad: int
    groups: int
    rankings: Mapping[str, Mapping[str, Estimate]]
    random: Mapping[str, float]
    less: Mapping[tuple[str, str], Mapping[str, Estimate]] = field(default_factory=dict)


def foresight(
    scores: Mapping[str, NDArray], bad: NDArray[np.bool_], clusters: Clusters, budget: float = 0.1
) -> Foresight:
    """Rankings of the same rows by what turned out to be bad (docs/method.md section 3).

    scores: name -> [n], the rows expected to be worst highest; bad [n]; clusters of the same rows, drawn whole; budget:
    the share of rows that can be looked at. Rows of one score come in no order: the mean over all orders is told, so
    that equal scores find what chance finds. Intervals are BCa over groups; every pair of rankings is compared on the
    same draws. All are NA where fewer than 8 rows are bad, or good. Raises BadInput for scores that are not finite or
    of another length, and for a budget that is no share.

    >>> import numpy as np
    >>> from probekit.metrics.bootstrap import Clusters
    >>> bad = np.arange(200) < 20
    >>> told = foresight({"knows": 1.0 * bad, "equal": np.zeros(200)}, bad, Clusters.of(np.arange(200), 200, 0))
    >>> [float(round(told.rankings[name]["precision"].value, 6)) for name in ("knows", "equal")]
    [1.0, 0.1]
    """
    bad = np.asarray(bad, dtype=np.bool_)
    if not 0 < budget < 1:
        raise BadInput(f"a budget is a share of the rows, above 0 and below 1; found {budget}.")
    for name, score in scores.items():
        if len(score) != len(bad) or len(bad) != len(clusters.code) or not np.isfinite(score).all():
            raise BadInput(
                f"ranking '{name}' needs a finite score for each of the {len(bad)} rows; found {len(score)}."
            )
    n, n_bad, groups = len(bad), int(bad.sum()), len(clusters.names)
    base = n_bad / n
    random = {"precision": base, "recall": budget, "lift": 1.0, "average": random_average(n, n_bad), "leak": 1.0}
    if min(n_bad, n - n_bad) < FEW or groups < 2:
        why = f"{n_bad} bad rows of {n} in {groups} groups: at least {FEW} bad and {FEW} good ones are needed"
        none = {measure: Estimate.missing("too_few_rows", why, n, groups) for measure in MEASURES}
        return Foresight(budget, n, n_bad, groups, dict.fromkeys(scores, none), random)
    every = np.ones((1, groups))
    found: dict[str, tuple[Drawn, Drawn, Drawn]] = {}
    for name, score in scores.items():
        rank = np.unique(-np.asarray(score, dtype=np.float64), return_inverse=True)[1]
        whole, drawn, left_out = (
            _measured(rank, bad, clusters.code, weights, budget)
            for weights in (every, clusters.weights, every - np.eye(groups))
        )
        found[name] = whole, drawn, left_out
    names = list(scores)
    return Foresight(
        budget, n, n_bad, groups,
        {name: _told(found[name], n, groups) for name in names},
        random,
        {(name, other): _told(_apart(found[name], found[other]), n, groups)
         for name in names for other in names if name != other},
    )  # fmt: skip


def random_average(n: int, n_bad: int) -> float:
    """The mean of average precision over all orders of n rows, n_bad of them bad: 0 without any.

    A bad row at place i counts (1 + bad rows before it) / i; the others are spread evenly over the other places.
    """
    if n_bad == 0 or n < 2:
        return float(n_bad > 0)
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (n_bad - 1) / (n - 1) * (n - harmonic)) / n


def _measured(
    rank: NDArray[np.int64], bad: NDArray[np.bool_], code: NDArray[np.int64], weights: NDArray, budget: float
) -> Drawn:
    """Each measure of each draw, [n_draws]: rank [n] from 0 at the top, weights [n_draws, n_groups]."""
    order = np.argsort(rank, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(rank[order])), len(order) - 1)  # the last row of each score
    of_row, is_bad = code[order], bad[order]
    hits, totals, bads, average = (np.empty(len(weights)) for _ in range(4))
    step = max(1, AT_ONCE // len(order))
    for start in range(0, len(weights), step):
        some = slice(start, start + step)
        drawn = weights[some][:, of_row].astype(np.float64)
        seen, caught = (np.cumsum(part, 1)[:, ends] for part in (drawn, drawn * is_bad))
        totals[some], bads[some] = seen[:, -1], caught[:, -1]
        for i in range(len(drawn)):
            hits[start + i] = np.interp(budget * seen[i, -1], np.append(0, seen[i]), np.append(0, caught[i]))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(seen > 0, caught / np.where(seen > 0, seen, 1), 0)
            average[some] = (np.diff(caught, axis=1, prepend=0) * share).sum(1) / caught[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        base, precision = bads / totals, hits / (budget * totals)
        best = np.minimum(1, base / budget)
        return {"precision": precision, "recall": hits / bads, "lift": precision / base, "average": average,
                "leak": 1 - (precision - base) / (best - base)}  # fmt: skip


def _apart(first: tuple[Drawn, Drawn, Drawn], second: tuple[Drawn, Drawn, Drawn]) -> tuple[Drawn, Drawn, Drawn]:
    one, drawn, left = ({m: a[m] - b[m] for m in a} for a, b in zip(first, second, strict=True))
    return one, drawn, left


def _told(found: tuple[Drawn, Drawn, Drawn], n: int, groups: int) -> dict[str, Estimate]:
    """Of (all rows, draws, without each group): an estimate of each measure."""
    few = f"fewer than {FEW_CLUSTERS} clusters: the interval is too short" if groups < FEW_CLUSTERS else ""
    out = {}
    for measure in MEASURES:
        value = float(found[0][measure][0])
        low, high = Bootstrap.of(value, found[1][measure], found[2][measure]).interval()
        out[measure] = Estimate(value, low, high, None, None, None, None, None, n, groups, note=few)
    return out
