"""Cluster bootstrap of paired ratios: whole groups are drawn; intervals are BCa (Efron 1987). Rows that share two kinds
of groups have an interval of their own.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

FEW_CLUSTERS = 20  # below this an interval is marked
DRAWS_AT_ONCE = 128  # of which the weights are widened to float64: a block that stays in the cache
FEW_REPLICATES = 100  # finite bootstrap draws below which there is no interval
SAME = 1e-9  # a permutation or a draw that changes nothing may differ in the last digits


def ratios_of(
    numerator: NDArray, denominator: NDArray, weights: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each ratio [m], and the same of each draw [m, n_bootstrap]; not finite where nothing was to explain.

    numerator, denominator [m, n_groups].
    """
    drawn = resampled(np.concatenate([numerator, denominator]), weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = numerator.sum(1) / denominator.sum(1)
        return np.asarray(value, dtype=np.float64), drawn[: len(numerator)] / drawn[len(numerator) :]


# ---------------------------------------------------------------------------------------------------- one distribution


@dataclass(frozen=True)
class Bootstrap:
    """Bootstrap distribution of one statistic, read as BCa (Efron 1987): an interval, or how far a bound lies out.

    replicates, sorted and finite; bias and acceleration are BCa's z0 and a; n_groups were resampled.
    """

    value: float
    replicates: NDArray[np.float64]
    bias: float
    acceleration: float
    n_groups: int

    @classmethod
    def of(cls, value: float, replicates: NDArray, left_out: NDArray) -> "Bootstrap":
        """replicates [n_bootstrap]; left_out [n_groups]: the statistic without each group. Those not finite go."""
        n_groups = len(left_out)
        drawn = np.sort(replicates[np.isfinite(replicates)].astype(np.float64))
        left_out = left_out[np.isfinite(left_out)]
        bias = acceleration = 0.0
        if len(drawn) >= FEW_REPLICATES and len(left_out) >= 2:
            bias = float(ndtri(_below(drawn, value)))
            acceleration = acceleration_of(left_out)
        return cls(value, drawn, bias, acceleration, n_groups)

    @classmethod
    def of_ratio(cls, numerator: NDArray, denominator: NDArray, weights: NDArray) -> "Bootstrap":
        """Of sum(numerator) / sum(denominator) over groups, paired."""
        return cls.of_ratios(numerator[None], denominator[None], weights)[0]

    @classmethod
    def of_ratios(cls, numerator: NDArray, denominator: NDArray, weights: NDArray) -> "list[Bootstrap]":
        """The same of many ratios at once, which costs little more than one: each [m, n_groups]."""
        parts = *ratios_of(numerator, denominator, weights), sums_left_out(numerator, denominator)
        return [cls.of(float(value), drawn, left_out) for value, drawn, left_out in zip(*parts, strict=True)]

    @property
    def known(self) -> bool:
        """Whether there were enough groups and draws to say anything about the spread."""
        return len(self.replicates) >= FEW_REPLICATES and self.n_groups >= 2

    @property
    def error(self) -> float:
        """Standard error, with the correction for few groups."""
        if not self.known:
            return float("nan")
        spread = self.replicates.std()
        exact = np.ptp(self.replicates) == 0 or spread < 1e-12 * max(1.0, abs(self.value))
        return 0.0 if exact else float(spread * np.sqrt(self.n_groups / (self.n_groups - 1)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """BCa interval; of no width when the spread is zero or unknown."""
        if not self.known or np.ptp(self.replicates) == 0:
            return self.value, self.value
        z = ndtri(np.array([(1 - level) / 2, (1 + level) / 2])) + self.bias
        low, high = np.quantile(self.replicates, ndtr(self.bias + z / (1 - self.acceleration * z)))
        return float(low), float(high)

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the truth is at least `bound`"; 1 when the spread is unknown.

        The level at which a BCa limit would lie at the bound, its normal deviate read as Student's t with one degree of
        freedom less than groups: for a mean of normal group sums this is the t test.
        """
        t = self._deviate(bound)
        return float(1 - stdtr(self.n_groups - 1, t)) if self.known else 1.0

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the truth is at most `bound`"; 1 when the spread is unknown."""
        t = self._deviate(bound)
        return float(stdtr(self.n_groups - 1, t)) if self.known else 1.0

    def _deviate(self, bound: float) -> float:
        if not self.known:
            return float("nan")
        if self.error == 0:
            return float(np.inf * np.sign(bound - self.value)) if abs(bound - self.value) > 1e-12 else 0.0
        y = float(ndtri(_below(self.replicates, bound))) - self.bias
        scale = 1 + self.acceleration * y
        if scale <= 0:  # beyond the end of the BCa transformation
            return float(np.inf * np.sign(y))
        return (y / scale - self.bias) * float(np.sqrt((self.n_groups - 1) / self.n_groups))


def ratio_interval(
    numerator: NDArray, denominator: NDArray, weights: NDArray, level: float = 0.95
) -> tuple[float, float]:
    """BCa interval of sum(numerator) / sum(denominator) over clusters, numerator and denominator paired.

    numerator, denominator [n_groups]; weights [n_bootstrap, n_groups]. The acceleration is the jackknife's.
    """
    return ratio_intervals(numerator[None], denominator[None], weights, level)[0]


def ratio_intervals(
    numerator: NDArray, denominator: NDArray, weights: NDArray, level: float = 0.95
) -> list[tuple[float, float]]:
    """The same of many ratios over the same groups at once: numerator, denominator [m, n_groups]."""
    return [drawn.interval(level) for drawn in Bootstrap.of_ratios(numerator, denominator, weights)]


def sums_left_out(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """Ratios without each group in turn: [..., n_groups]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = denominator.sum(-1, keepdims=True) - denominator
        return np.asarray((numerator.sum(-1, keepdims=True) - numerator) / rest, dtype=np.float64)


def acceleration_of(left_out: NDArray[np.float64]) -> float:
    """BCa's a from jackknife values: a sixth of the skewness of the statistic."""
    spread = left_out[np.isfinite(left_out)]
    spread = spread.mean() - spread
    cubed = (spread**2).sum() ** 1.5
    return float((spread**3).sum() / (6 * cubed)) if cubed > 0 else 0.0


def _below(drawn: NDArray[np.float64], value: float) -> float:
    """Share of sorted draws below a value, ties half; never nearer to 0 or 1 than half a draw."""
    near = SAME * max(1e-3, abs(value))  # equal draws may differ in the last digits
    first, last = np.searchsorted(drawn, value - near, "left"), np.searchsorted(drawn, value + near, "right")
    share = (first + last) / 2 / len(drawn)
    return float(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))


# ----------------------------------------------------------------------------------------------- differences of ratios


@dataclass(frozen=True)
class Differences:
    """Second ratio less first, of m pairs of ratios: value [m], drawn [m, n_bootstrap], left_out [m, n_left_out].

    drawn: the same in each draw of groups; left_out: without each group in turn.
    """

    value: NDArray[np.float64]
    drawn: NDArray[np.float64]
    left_out: NDArray[np.float64]

    @classmethod
    def paired(cls, first: tuple[NDArray, NDArray], second: tuple[NDArray, NDArray], weights: NDArray) -> "Differences":
        """Of ratios over the same groups, which are drawn once for both: what a group does to both cancels.

        first, second: numerator and denominator [m, n_groups] each; weights [n_bootstrap, n_groups].
        """
        parts = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
        value, drawn = ratios_of(*parts, weights)
        left_out, m = sums_left_out(*parts), len(first[0])
        return cls(value[m:] - value[:m], drawn[m:] - drawn[:m], left_out[m:] - left_out[:m])

    @classmethod
    def unpaired(
        cls, first: tuple[NDArray, NDArray], second: tuple[NDArray, NDArray], weights: tuple[NDArray, NDArray]
    ) -> "Differences":
        """Of ratios over different groups: two sets of draws that know nothing of each other, as many of each."""
        (one, drawn_one), (other, drawn_other) = (
            ratios_of(*sums, drawn) for sums, drawn in zip((first, second), weights, strict=True)
        )
        without_one, without_other = (sums_left_out(*sums) for sums in (first, second))
        left_out = np.concatenate([other[:, None] - without_one, without_other - one[:, None]], axis=1)
        return cls(other - one, drawn_other - drawn_one, left_out)

    def intervals(self, level: float = 0.95) -> list[tuple[float, float]]:
        """The BCa interval of each."""
        return [
            Bootstrap.of(float(value), drawn, left_out).interval(level)
            for value, drawn, left_out in zip(self.value, self.drawn, self.left_out, strict=True)
        ]


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
    weights, even = np.empty((n_bootstrap, n_groups), dtype=np.float32), np.full(n_groups, 1 / n_groups)
    for some in np.array_split(weights, -(-n_bootstrap // DRAWS_AT_ONCE)):
        some[:] = generator.multinomial(n_groups, even, size=len(some))
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


# ------------------------------------------------------------------------------------------------- rows in two groups


@dataclass(frozen=True)
class Crossed:
    """Rows that share two kinds of groups, as pairs share bases and donors: the interval of a ratio over them.

    The variance is V(first) + V(second) - V(both) of the linearised ratio (Cameron, Gelbach and Miller 2011), never
    less than that of either kind alone, each with the correction for few groups; the interval is Student's t with as
    many degrees of freedom as the rarer kind has groups, less one. Resampling both kinds (Owen 2007) counts what is a
    row's own three times, and nearly all of a right or wrong answer is its own.

    first, second, both [n]: the group of each row in each way, and in both at once.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    both: NDArray[np.int64]

    @classmethod
    def of(cls, first: NDArray, second: NDArray) -> "Crossed":
        """Labels of each row's two groups, of any kind: [n] each."""
        codes = [np.unique(labels, return_inverse=True)[1].astype(np.int64) for labels in (first, second)]
        both = np.unique(codes[0] * (int(codes[1].max(initial=0)) + 1) + codes[1], return_inverse=True)[1]
        return cls(codes[0], codes[1], both.astype(np.int64))

    @property
    def fewest(self) -> int:
        """Groups of the rarer kind."""
        return int(min(self.first.max(), self.second.max())) + 1

    def error(self, numerator: NDArray, denominator: NDArray) -> float:
        """Standard error of sum(numerator) / sum(denominator) over rows, [n] each; not a number below two groups."""
        total = float(denominator.sum())
        if self.fewest < 2 or total == 0:
            return float("nan")
        left = (numerator - numerator.sum() / total * denominator).astype(np.float64) / total
        one, other, both = (
            (np.bincount(code, left) ** 2).sum() * (code.max() + 1) / code.max()
            for code in (self.first, self.second, self.both)
        )
        return float(np.sqrt(max(one + other - both, one, other)))

    def interval(self, numerator: NDArray, denominator: NDArray, level: float = 0.95) -> tuple[float, float]:
        """Of sum(numerator) / sum(denominator); of no width when the spread is unknown."""
        value, error = float(numerator.sum() / denominator.sum()), self.error(numerator, denominator)
        width = error * float(stdtrit(self.fewest - 1, (1 + level) / 2)) if np.isfinite(error) else 0.0
        return value - width, value + width
