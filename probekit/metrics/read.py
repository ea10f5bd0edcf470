"""FBU, the fraction of behaviour left unexplained (measurement.md section 0), and the decomposition (section 1).

Pure functions of per-row losses in bits; no model, store or file is known here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from probekit.inference import ratio_interval
from probekit.stats import FEW_CLUSTERS, MIN_DENOMINATOR, Clusters


@dataclass(frozen=True)
class Estimate:
    """One ratio with everything that is printed beside it; the group sums let readers recompute the interval."""

    value: float | None
    low: float | None
    high: float | None
    bits: float | None
    floor_bits: float | None
    ceiling_bits: float | None
    p99_bits: float | None
    worst_group: float | None
    n: int
    groups: int
    na_reason: str = ""
    note: str = ""
    numerator: NDArray[np.float64] | None = None
    denominator: NDArray[np.float64] | None = None

    @classmethod
    def missing(cls, reason: str, note: str = "", n: int = 0, groups: int = 0) -> "Estimate":
        """No value, and why: one of `records.NA_REASONS`."""
        return cls(None, None, None, None, None, None, None, None, n, groups, reason, note)


def fbu(bits: NDArray, floor_bits: NDArray, ceiling_bits: NDArray, clusters: Clusters) -> Estimate:
    """FBU(q) = (S(q) - S(ceiling)) / (S(floor) - S(ceiling)); each argument [n], bits per row.

    Cluster bootstrap of the paired ratio. NA with reason `small_denominator` below .05 bit.
    """
    missed = bits - ceiling_bits
    return ratio(missed, floor_bits - ceiling_bits, clusters, bits, floor_bits, ceiling_bits)


def ratio(
    missed: NDArray,
    available: NDArray,
    clusters: Clusters,
    bits: NDArray | None = None,
    floor_bits: NDArray | None = None,
    ceiling_bits: NDArray | None = None,
) -> Estimate:
    """sum(missed) / sum(available) over rows, with interval, tail and worst group of what is missed."""
    numerator, denominator = clusters.sums(missed), clusters.sums(available)
    groups, n = len(clusters.names), len(missed)
    value = low = high = None
    reason = "" if denominator.sum() / n >= MIN_DENOMINATOR else "small_denominator"
    if not reason:
        value = float(numerator.sum() / denominator.sum())
        low, high = ratio_interval(numerator, denominator, clusters.weights)
    return Estimate(
        value=value,
        low=low,
        high=high,
        bits=_mean(bits),
        floor_bits=_mean(floor_bits),
        ceiling_bits=_mean(ceiling_bits),
        p99_bits=float(np.quantile(missed, 0.99)),
        worst_group=float((numerator / clusters.sizes).max()),
        n=n,
        groups=groups,
        na_reason=reason,
        note="fewer than 20 clusters: the interval is too short" if groups < FEW_CLUSTERS else "",
        numerator=numerator,
        denominator=denominator,
    )


def shares(bits: Sequence[NDArray], floor_bits: NDArray, ceiling_bits: NDArray, clusters: Clusters) -> list[Estimate]:
    """Decomposition of S(floor) - S(ceiling) over nested models, largest class last: telescoping shares that sum to 1.

    bits: per-row losses of each nested model in the order they were added. One estimate per model and a last one for
    what none of them finds. A share may be slightly negative on test rows; it is stored so, and flagged below -2 SE.
    """
    ladder = [floor_bits, *bits, ceiling_bits]
    return [share(before, after, floor_bits, ceiling_bits, clusters) for before, after in pairwise(ladder)]


def share(before: NDArray, after: NDArray, floor_bits: NDArray, ceiling_bits: NDArray, clusters: Clusters) -> Estimate:
    """The part of S(floor) - S(ceiling) that one class takes; flagged where it is below -2 SE."""
    found = ratio(before - after, floor_bits - ceiling_bits, clusters, after, floor_bits, ceiling_bits)
    if found.value is not None and found.low is not None and found.high is not None:
        error = (found.high - found.low) / 3.92
        if found.value < min(0, -2 * error):
            return replace(found, note="negative beyond 2 SE: this class overfits")
    return found


def _mean(rows: NDArray | None) -> float | None:
    return None if rows is None else float(np.mean(rows))
