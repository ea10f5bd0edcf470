"""Leaps: what is lost where each description is told from the one below it, leap by leap, and over several leaps."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Bootstrap, Clusters, resampled
from probekit.metrics.ratios import Estimate, Ratio, estimates

Leap = tuple[int, int]


@dataclass(frozen=True)
class Leaps:
    """Estimates by (from, to), rungs counted from the bottom.

    left: FBU of the rung told from the true value of a lower one. compounded: what it would be if every leap kept its
    share of what was left, 1 - prod(1 - FBU of each leap). excess: left less compounded, on the same draws of groups;
    above 0 errors build on each other, below 0 they cancel. Both only of two leaps or more.
    """

    left: Mapping[Leap, Estimate]
    compounded: Mapping[Leap, Estimate]
    excess: Mapping[Leap, Estimate]


def leaps(bits: Mapping[Leap, NDArray], ends: Mapping[int, tuple[NDArray, NDArray]], clusters: Clusters) -> Leaps:
    """FBU of every leap and how they compound (docs/method.md section 3).

    bits: (from, to) -> losses [n] of rung `to` told from rung `from`; ends: rung -> (floor, ceiling) [n] each, bits per
    row; clusters of the same rows. Where one leap is NA, so is what is compounded of it. Raises BadInput when a leap
    between neighbours is missing.

    >>> import numpy as np
    >>> from probekit.metrics.bootstrap import Clusters
    >>> one, none = np.ones(60), np.zeros(60)
    >>> bits = {(0, 1): 0.5 * one, (1, 2): 0.5 * one, (0, 2): 0.8 * one}
    >>> told = leaps(bits, {1: (one, none), 2: (one, none)}, Clusters.of(np.arange(60), 200, 0))
    >>> [round(part[0, 2].value, 2) for part in (told.left, told.compounded, told.excess)]
    [0.8, 0.75, 0.05]
    """
    order = list(bits)
    found = estimates([Ratio(bits[i, j] - ends[j][1], ends[j][0] - ends[j][1], bits[i, j], *ends[j]) for i, j in order],
                      clusters)  # fmt: skip
    left = dict(zip(order, found, strict=True))
    compounded, excess = {}, {}
    for i, j in order:
        between = [(k, k + 1) for k in range(i, j)]
        if missing := [leap for leap in between if leap not in left]:
            raise BadInput(f"leaps {i} to {j} need each leap between them: {missing[0]} is missing, give its bits.")
        if j - i < 2:
            continue
        na = next((left[leap] for leap in [*between, (i, j)] if left[leap].na_reason), None)
        if na is not None:
            gone = Estimate.missing(na.na_reason, na.note, na.n, na.groups)
            compounded[i, j] = excess[i, j] = gone
            continue
        values, drawn, without = (np.stack(part) for part in zip(
            *(_ratio(left[leap], clusters) for leap in [*between, (i, j)]), strict=True))  # fmt: skip
        parts = [(1 - np.prod(1 - one[:-1], 0), one[-1]) for one in (values, drawn, without)]
        compounded[i, j] = _estimate([product for product, _ in parts], left[i, j])
        excess[i, j] = _estimate([whole - product for product, whole in parts], left[i, j])
    return Leaps(left, compounded, excess)


def _ratio(one: Estimate, clusters: Clusters) -> tuple[NDArray, NDArray, NDArray]:
    """(value [1], in each draw, without each group) of an estimate's ratio."""
    sums = np.stack([np.asarray(one.numerator), np.asarray(one.denominator)])
    drawn, whole = resampled(sums, clusters.weights), sums.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return whole[0] / whole[1], drawn[0] / drawn[1], (whole[0] - sums[0]) / (whole[1] - sums[1])


def _estimate(parts: list[NDArray], like: Estimate) -> Estimate:
    low, high = Bootstrap.of(float(parts[0][0]), parts[1], parts[2]).interval()
    return replace(Estimate.missing("", like.note, like.n, like.groups), value=float(parts[0][0]), low=low, high=high)
