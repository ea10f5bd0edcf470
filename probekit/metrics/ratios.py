"""Fractions of behaviour from losses per row: FBU, shares, transfer and differences, as estimates with intervals."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.bootstrap import FEW_CLUSTERS, Clusters, Crossed, ratio_intervals

MIN_DENOMINATOR = 0.005  # of the unit: a ratio over less is NA
MAX_RELATIVE_ERROR = 0.25  # of the denominator, over groups


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

    def without_tail(self) -> "Estimate":
        """Nothing told of single rows or groups."""
        return replace(self, p99_bits=None, worst_group=None)

    def without_rows(self) -> "Estimate":
        """Nor are group sums kept."""
        return replace(self.without_tail(), numerator=None, denominator=None)


@dataclass(frozen=True)
class Ratio:
    """sum(missed) / sum(available) over rows, each [n], before anything is resampled; `estimates` does that.

    bits, floor_bits, ceiling_bits [n]: losses whose means are told beside it. too_little: the NA reason when too little
    is available, see `too_little`. negative: the note of a value that is below -2 SE. of_reader: whether some reader
    has these losses; else nothing is told of their tail and no group sum is kept.
    """

    missed: NDArray[np.float64]
    available: NDArray[np.float64]
    bits: NDArray[np.float64] | None = None
    floor_bits: NDArray[np.float64] | None = None
    ceiling_bits: NDArray[np.float64] | None = None
    too_little: str = "small_denominator"
    negative: str = ""
    of_reader: bool = True


def fbu(bits: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """FBU(q) = (S(q) - S(ceiling)) / (S(floor) - S(ceiling)); each [n], bits per row."""
    return Ratio(bits - ceiling, floor - ceiling, bits, floor, ceiling)


def share(before: NDArray, after: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """The part of S(floor) - S(ceiling) that one class takes, by which the losses fall from `before` to `after`.

    Over nested models from the floor to the ceiling shares telescope: they sum to 1. One may be slightly negative on
    test rows; it is stored so, and flagged below -2 SE.
    """
    negative = "negative beyond 2 SE: this class overfits"
    return Ratio(before - after, floor - ceiling, after, floor, ceiling, negative=negative)


def estimates(ratios: Iterable[Ratio], clusters: Clusters) -> list[Estimate]:
    """Each ratio with its interval (paired cluster bootstrap), the tail and the worst group of what is missed.

    All are over the same rows and are resampled together, which costs little more than one alone. Of each only its
    group sums are held meanwhile. NA with the ratio's reason where there is `too_little` to explain.
    """
    out, negative, of_reader = [], [], []
    for one in ratios:
        out.append(_unresampled(one, clusters))
        negative.append(one.negative)
        of_reader.append(one.of_reader)
    valued = [i for i, estimate in enumerate(out) if not estimate.na_reason]
    if valued:
        sums = [np.stack([getattr(out[i], name) for i in valued]) for name in ("numerator", "denominator")]
        for i, (low, high) in zip(valued, ratio_intervals(sums[0], sums[1], clusters.weights), strict=True):
            out[i] = replace(out[i], low=low, high=high)
            if negative[i] and out[i].value < min(0, -2 * (high - low) / 3.92):
                out[i] = replace(out[i], note=negative[i])
    return [one if losses else one.without_rows() for one, losses in zip(out, of_reader, strict=True)]


def _unresampled(ratio: Ratio, clusters: Clusters) -> Estimate:
    """All of an estimate but its interval."""
    numerator, denominator = clusters.sums(ratio.missed), clusters.sums(ratio.available)
    groups, n = len(clusters.names), len(ratio.missed)
    short = too_little(denominator, clusters.sizes)
    return Estimate(
        value=None if short else float(numerator.sum() / denominator.sum()),
        low=None,
        high=None,
        bits=_mean(ratio.bits),
        floor_bits=_mean(ratio.floor_bits),
        ceiling_bits=_mean(ratio.ceiling_bits),
        p99_bits=float(np.quantile(ratio.missed, 0.99)),
        worst_group=float((numerator / clusters.sizes).max()),
        n=n,
        groups=groups,
        na_reason=ratio.too_little if short else "",
        note=short or ("fewer than 20 clusters: the interval is too short" if groups < FEW_CLUSTERS else ""),
        numerator=numerator,
        denominator=denominator,
    )


def too_little(available: NDArray, sizes: NDArray) -> str:
    """Why a denominator is too small to divide by, in one sentence; empty where it is large enough (docs/method.md).

    available [n_groups]: bits to explain, summed over the rows of each group; sizes [n_groups]: their rows. The least
    is MIN_DENOMINATOR bit per row, known to MAX_RELATIVE_ERROR of itself: the law of a soft behaviour has no label
    noise, so that a hundredth of a bit can be told, where labels need more.
    """
    mean = available.sum() / sizes.sum()
    # the linearised standard error of a ratio of group sums
    error = np.sqrt(len(available) / max(1, len(available) - 1) * ((available - mean * sizes) ** 2).sum()) / sizes.sum()
    if mean >= MIN_DENOMINATOR and error <= MAX_RELATIVE_ERROR * mean:
        return ""
    asked = f"at least {MIN_DENOMINATOR:g} with an error of at most {MAX_RELATIVE_ERROR:.0%} of it can be divided by"
    return f"{mean:.4f} bit a row to explain, standard error {error:.4f}: {asked}"


def _mean(rows: NDArray | None) -> float | None:
    return None if rows is None else float(np.mean(rows))


def transfer(moved: NDArray, direct: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """T = (S_B(fitted on A) - S_B(fitted on B)) / (S_B(floor) - S_B(fitted on B)); each [n], bits per row of B.

    0: nothing is lost by fitting elsewhere; 1: no better than B's floor. NA `absent_in_test_domain` when even the
    direct fit finds too little there.
    """
    return Ratio(moved - direct, floor - direct, moved, floor, ceiling, too_little="absent_in_test_domain")


def difference(first: NDArray, second: NDArray) -> Ratio:
    """Mean difference of two losses in bits: below 0 the first is the better reader."""
    return Ratio(first - second, np.ones(len(first)), first)


def crossed_estimates(ratios: Iterable[Ratio], clusters: Clusters, crossed: Crossed) -> list[Estimate]:
    """The same as `estimates` for rows that are pairs: intervals allow for bases and donors that pairs share.

    clusters: over the bases, whose group sums are kept; crossed: bases and donors of the same rows.
    """
    kept = list(ratios)
    out = []
    for ratio, one in zip(kept, estimates(kept, clusters), strict=True):
        if not one.na_reason:
            low, high = crossed.interval(ratio.missed, ratio.available)
            few = "fewer than 20 clusters: the interval is too short" if crossed.fewest < FEW_CLUSTERS else ""
            one = replace(one, low=low, high=high, note=one.note or few)
        out.append(one)
    return out
