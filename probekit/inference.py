"""Inference on losses: bands over sites, max-T, nested selection, extrapolation in n, equivalence, AUROC, refusals.

The protocol of measurement.md section 7 beyond one interval (`stats` has those). Pure functions of group sums, shared
by what makes numbers and what reads them: NumPy and SciPy only. `weights` are always those of `stats.Clusters`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from probekit.errors import BadInput, TooFewRows
from probekit.stats import Clusters, resampled

SIZES = (4, 8, 16)  # rows per coordinate of the three fits behind S_inf
ONLINE_SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
FEW_REPLICATES = 100  # finite bootstrap draws below which there is no interval
_SAME = 1e-9  # a permutation or a draw that changes nothing may differ in the last digits


# ------------------------------------------------------------------------------------------------------- many sites


def simultaneous_band(
    numerator: NDArray, denominator: NDArray, weights: NDArray, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Band that covers the ratios of *all* sites at once with probability `level`: (low [n_sites], high [n_sites]).

    numerator, denominator [n_sites, n_groups]; weights [n_bootstrap, n_groups], the same draws at every site, so that
    the band knows how sites move together. Sup-t (Montiel Olea and Plagborg-Moller 2019): c is the quantile over draws
    of the largest |replicate - value| / SE, with Student's t for few groups. Both limits are shifted by the skewness,
    SE a (2 c^2 + 1) with BCa's acceleration a (Hall 1988), without which bands of positive losses cover too little.
    A site without spread gets a band of no width and does not count; without denominator, NaN.
    """
    _check_sites(numerator, denominator, weights)
    value, drawn = _ratios(numerator, denominator, weights)
    replicates = drawn.T
    value = np.where(np.isfinite(value), value, np.nan)
    low, high = value.copy(), value.copy()
    n_groups = weights.shape[1]
    replicates = replicates[np.isfinite(replicates[:, np.isfinite(value)]).all(1)]
    if len(replicates) < FEW_REPLICATES or n_groups < 2:
        return low, high
    with np.errstate(invalid="ignore"):
        error = replicates.std(0)
        counted = error > 1e-12 * np.maximum(1, np.abs(value))
    if not counted.any():
        return low, high
    value, error = value[counted], error[counted]
    c = float(np.quantile(np.abs((replicates[:, counted] - value) / error).max(1), level))
    half = float(stdtrit(n_groups - 1, ndtr(c)))
    left_out = _left_out(numerator[counted], denominator[counted])
    shift = np.array([_acceleration(site) for site in left_out]) * (2 * c**2 + 1)
    shift = np.clip(shift, -half, half)  # the value stays inside
    error = error * np.sqrt(n_groups / (n_groups - 1))
    low[counted], high[counted] = value + error * (shift - half), value + error * (shift + half)
    return low, high


def max_t(
    observed: NDArray, permuted: NDArray, step_down: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """p-values of sites, larger statistics being evidence: (adjusted for having looked at all of them, raw), [n_sites].

    observed [n_sites]; permuted [n_permutations, n_sites], each row from one permutation used at all sites. Westfall
    and Young (1993) max-T, free step-down or single-step; the family-wise error holds whatever the dependence between
    sites. Statistics are standardised per site over the permutations and the observed one, which keeps the test exact.
    p = (1 + #) / (1 + n_permutations); a site whose statistic never varies has p 1.
    """
    if permuted.ndim != 2 or permuted.shape[1:] != observed.shape or len(permuted) == 0:
        raise BadInput(f"max-T compares {observed.shape} statistics with permuted ones of shape {permuted.shape}.")
    pool = np.vstack([observed[None], permuted]).astype(np.float64)
    if not np.isfinite(pool).all():
        raise BadInput("max-T was given a statistic that is not finite: leave out the sites that have none.")
    spread = pool.std(0)
    varies = spread > 1e-12 * np.maximum(1e-300, np.abs(pool).max(0))
    p_adjusted, p_raw = np.ones(len(observed)), np.ones(len(observed))
    z = (pool[:, varies] - pool[:, varies].mean(0)) / spread[varies]
    if not varies.any():
        return p_adjusted, p_raw
    p_raw[varies] = np.mean(z >= z[0] - _SAME, axis=0)
    order = np.argsort(-z[0], kind="stable")
    ranked = z[:, order]
    if step_down:  # the k-th largest is compared with the maximum over itself and everything below
        against = np.maximum.accumulate(ranked[:, ::-1], axis=1)[:, ::-1]
    else:
        against = np.broadcast_to(ranked.max(1, keepdims=True), ranked.shape)
    p = np.maximum.accumulate(np.mean(against >= ranked[0] - _SAME, axis=0))
    back = np.empty(len(order))
    back[order] = p
    p_adjusted[varies] = back
    return p_adjusted, p_raw


def permutation_plan(group: NDArray, n_permutations: int, seed: int, constant_within: bool) -> NDArray[np.int64]:
    """Uniform random permutations of rows that the null hypothesis allows: [n_permutations, n], identity included.

    Rows move inside their group; rows that are alone in theirs exchange places. With `constant_within` (a behaviour
    that is the same all over a group) whole groups of equal size exchange their rows, in order. Unlike the derangements
    of `stats.permute_within`, which make a control, these are uniform on a group of permutations, so that p-values are
    exact.
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


def best_site(
    select_bits: NDArray, numerator: NDArray, denominator: NDArray, fold_of_group: NDArray, weights: NDArray
) -> tuple[NDArray[np.int64], float, float, float]:
    """Ratio at the best site, chosen without its test rows: (site of each fold [n_folds], value, low, high).

    select_bits [n_folds, n_sites]: loss on the selection rows of each outer fold (NaN: not measured there);
    numerator, denominator [n_sites, n_groups]: sums over test groups by readers that were fitted outside the group's
    own fold; fold_of_group [n_groups]. In each fold the site of least selection loss is taken, and only its test groups
    are scored by it (nested selection, measurement.md 7.2). The value is unbiased; the interval takes the choices as
    made, and covers as long as selection uses a part of the groups outside a fold (.94 on 24 equal sites with a fifth
    of them, .80 with all: each fold then chooses by the very rows that test the others).
    """
    _check_sites(numerator, denominator, weights)
    n_folds, n_sites = select_bits.shape
    if n_sites != len(numerator) or fold_of_group.shape != numerator.shape[1:]:
        raise BadInput(
            f"selection has {n_sites} sites, the losses {len(numerator)}; "
            f"{len(fold_of_group)} folds are named for {numerator.shape[1]} groups."
        )
    if len(fold_of_group) and not 0 <= fold_of_group.min() <= fold_of_group.max() < n_folds:
        raise BadInput(f"a group lies in fold {fold_of_group.max()}; selection was done in {n_folds}.")
    if np.isnan(select_bits).all(1).any():
        raise BadInput("a fold has no site with a selection loss.")
    chosen = np.nanargmin(select_bits, axis=1).astype(np.int64)
    at = chosen[fold_of_group], np.arange(numerator.shape[1])
    low, high = ratio_interval(numerator[at], denominator[at], weights)
    return chosen, float(numerator[at].sum() / denominator[at].sum()), low, high


def _check_sites(numerator: NDArray, denominator: NDArray, weights: NDArray) -> None:
    if numerator.ndim != 2 or numerator.shape != denominator.shape or weights.shape[1:] != numerator.shape[1:]:
        raise BadInput(
            f"numerator {numerator.shape} and denominator {denominator.shape} are (sites, groups) and the bootstrap "
            f"weights {weights.shape} (draws, groups): their numbers of groups have to agree."
        )


def _ratios(
    numerator: NDArray, denominator: NDArray, weights: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each ratio [m], and the same of each draw [m, n_bootstrap]; not finite where nothing was to explain.

    numerator, denominator [m, n_groups].
    """
    drawn = resampled(np.concatenate([numerator, denominator]), weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = numerator.sum(1) / denominator.sum(1)
        return np.asarray(value, dtype=np.float64), drawn[: len(numerator)] / drawn[len(numerator) :]


# ------------------------------------------------------------------------------------------------ extrapolation in n


def at_infinity(bits: NDArray, n_fit: NDArray, d: int) -> NDArray[np.float64]:
    """The loss at infinitely many fit rows, from S(n) = S_inf + b d / n: [m, ...] -> [...].

    The line is fitted by least squares weighted with n, since the scatter of a fit falls as 1 / n; the bias of a
    regularised or plain logistic fit is proportional to d / n from about four rows per coordinate (measurement.md 1).
    bits [m, ...]: losses on the same test rows of readers fitted on n_fit [m] rows (nested subsets, see `nested_rows`).
    S_inf is a fixed linear combination of the m losses, row by row, so its interval is the cluster bootstrap of the
    losses themselves. It spans the draw of test rows, not that of fit rows.
    """
    return np.tensordot(_line(n_fit, d)[0], bits, 1)


def nested_rows(group: NDArray, d: int, seed: int, sizes: tuple[int, ...] = SIZES) -> tuple[NDArray[np.int64], ...]:
    """Rows of nested subsets of whole groups with at least `sizes` rows per coordinate, smallest first.

    group [n] of the fit rows. Raises TooFewRows when there are fewer than the largest size asks for, BadInput when a
    single group is so large that two subsets would be the same.
    """
    if len(group) < max(sizes) * d:
        raise TooFewRows(
            f"S_inf is fitted on {', '.join(map(str, sizes))} rows per coordinate: {d} coordinates need "
            f"{max(sizes) * d} fit rows and there are {len(group)}."
        )
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 12]).permutation(len(counts))
    ends = np.searchsorted(np.cumsum(counts[order]), np.array(sizes) * d)
    if len(set(ends.tolist())) < len(sizes):
        raise BadInput(
            f"groups of up to {counts.max()} rows cannot make nested subsets of {', '.join(map(str, sizes))} times {d} "
            "rows: give smaller groups."
        )
    place = np.empty(len(counts), dtype=np.int64)
    place[order] = np.arange(len(counts))
    return tuple(np.flatnonzero(place[code] <= end) for end in ends)


def _line(n_fit: NDArray, d: int) -> NDArray[np.float64]:
    """[2, m]: what takes m losses to (intercept, slope) of the line in d / n, weighted by n."""
    n_fit = np.asarray(n_fit, dtype=np.float64)
    if len(np.unique(n_fit)) < 2 or n_fit.min() <= 0:
        raise BadInput(f"a line in d / n needs fits of at least two sizes; found {n_fit.tolist()}.")
    design = np.stack([np.ones(len(n_fit)), d / n_fit], axis=1)
    weighted = design.T * n_fit
    return np.asarray(np.linalg.solve(weighted @ design, weighted), dtype=np.float64)


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
            acceleration = _acceleration(left_out)
        return cls(value, drawn, bias, acceleration, n_groups)

    @classmethod
    def of_ratio(cls, numerator: NDArray, denominator: NDArray, weights: NDArray) -> "Bootstrap":
        """Of sum(numerator) / sum(denominator) over groups, paired."""
        return cls.of_ratios(numerator[None], denominator[None], weights)[0]

    @classmethod
    def of_ratios(cls, numerator: NDArray, denominator: NDArray, weights: NDArray) -> "list[Bootstrap]":
        """The same of many ratios at once, which costs little more than one: each [m, n_groups]."""
        parts = *_ratios(numerator, denominator, weights), _left_out(numerator, denominator)
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


def _left_out(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """Ratios without each group in turn: [..., n_groups]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = denominator.sum(-1, keepdims=True) - denominator
        return np.asarray((numerator.sum(-1, keepdims=True) - numerator) / rest, dtype=np.float64)


def _acceleration(left_out: NDArray[np.float64]) -> float:
    """BCa's a from jackknife values: a sixth of the skewness of the statistic."""
    spread = left_out[np.isfinite(left_out)]
    spread = spread.mean() - spread
    cubed = (spread**2).sum() ** 1.5
    return float((spread**3).sum() / (6 * cubed)) if cubed > 0 else 0.0


def _below(drawn: NDArray[np.float64], value: float) -> float:
    """Share of sorted draws below a value, ties half; never nearer to 0 or 1 than half a draw."""
    near = _SAME * max(1e-3, abs(value))  # equal draws may differ in the last digits
    first, last = np.searchsorted(drawn, value - near, "left"), np.searchsorted(drawn, value + near, "right")
    share = (first + last) / 2 / len(drawn)
    return float(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))


# -------------------------------------------------------------------------------------------------------- equivalence


@dataclass(frozen=True)
class Equivalence:
    """Is a value within a declared margin of a reference?

    verdict: within | outside | undecided. low, high: the interval at 1 - 2 alpha that decides it. p: of the two
    one-sided tests (the larger), small when within; p_outside: small when beyond one of the borders. p_at_most and
    p_at_least: of "the truth is at most (at least) reference + margin", for one-sided questions.
    smallest_detectable: the smallest margin that would be certified in 80 % of data sets of this size if the truth were
    the reference.
    """

    verdict: str
    value: float
    low: float
    high: float
    margin: float
    p: float
    p_outside: float
    p_at_most: float
    p_at_least: float
    smallest_detectable: float


def equivalence(
    numerator: NDArray,
    denominator: NDArray,
    weights: NDArray,
    margin: float,
    reference: float = 0.0,
    alpha: float = 0.05,
) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) of |ratio - reference| <= margin, on a paired ratio's cluster bootstrap.

    numerator, denominator [n_groups]; weights [n_bootstrap, n_groups]. `within` when both tests reject at alpha,
    `outside` when the ratio is shown to lie beyond one of the borders, else `undecided`: not shown is not shown absent.
    """
    check_margin(margin, alpha)
    drawn = Bootstrap.of_ratio(numerator, denominator, weights)
    upper, lower = reference + margin, reference - margin
    at_most, at_least = drawn.p_below(upper), drawn.p_above(upper)
    p, beyond = max(at_least, drawn.p_below(lower)), min(at_most, drawn.p_above(lower))
    low, high = drawn.interval(1 - 2 * alpha)
    return Equivalence(
        _verdict(p, beyond, alpha), drawn.value, low, high, margin, p, beyond,
        at_most, at_least, smallest_detectable(drawn.error, alpha, n_groups=drawn.n_groups),
    )  # fmt: skip


def equivalence_of_interval(
    value: float,
    low: float,
    high: float,
    margin: float,
    reference: float = 0.0,
    alpha: float = 0.05,
    level: float = 0.95,
) -> Equivalence:
    """The same from a value and its interval at `level` alone, each side of it read as a normal distribution's."""
    check_margin(margin, alpha)
    z = float(ndtri((1 + level) / 2))
    below, above = max(value - low, 0.0) / z, max(high - value, 0.0) / z
    upper, lower = reference + margin, reference - margin

    def p_below(bound: float) -> float:
        """Of "the truth is at most bound"."""
        gap = bound - value
        error = below if gap < 0 else above
        return float(ndtr(gap / error)) if error > 0 else float(gap >= 0)

    at_most, at_least = p_below(upper), 1 - p_below(upper)
    p, beyond = max(at_least, p_below(lower)), min(at_most, 1 - p_below(lower))
    narrow = float(ndtri(1 - alpha))
    error = (below + above) / 2
    return Equivalence(
        _verdict(p, beyond, alpha), value, value - narrow * below, value + narrow * above, margin, p, beyond,
        at_most, at_least, smallest_detectable(error, alpha),
    )  # fmt: skip


def smallest_detectable(
    error: float, alpha: float = 0.05, power: float = 0.8, two_sided: bool = True, n_groups: int | None = None
) -> float:
    """Smallest margin certified with this power when the truth is the reference; error: standard error of the value.

    (z_(1-alpha) + z_((1+power)/2)) SE: both one-sided tests have to reject, so each may fail in half of 1 - power. With
    two_sided False ("at most margin above the reference" alone) it is (z_(1-alpha) + z_power) SE. With n_groups the
    quantiles are Student's t. NaN when the error is.
    """
    check_margin(0.0, alpha)
    chances = np.array([1 - alpha, (1 + power) / 2 if two_sided else power])
    quantiles = ndtri(chances) if n_groups is None else stdtrit(max(1, n_groups - 1), chances)
    return float(quantiles.sum() * error)


def _verdict(p: float, beyond: float, alpha: float) -> str:
    return "within" if p <= alpha else "outside" if beyond <= alpha else "undecided"


def check_margin(margin: float, alpha: float) -> None:
    """Raise BadInput for a margin or a level of a test that cannot be one."""
    if not margin >= 0 or not 0 < alpha < 0.5:
        raise BadInput(f"a margin is at least 0 and alpha between 0 and .5; found {margin} and {alpha}.")


# -------------------------------------------------------------------------------------------------------------- AUROC


def auroc_interval(
    score: NDArray, label: NDArray, clusters: Clusters, level: float = 0.95
) -> tuple[float, float, float]:
    """Area under the ROC curve with its cluster bootstrap BCa interval: (value, low, high).

    score [n]; label [n] in {0, 1}; clusters of the same rows. Every draw's area is exact, ties half: rows are sorted
    once and each draw is a cumulative sum of weights; the jackknife subtracts each group's pairs. Draws without one of
    the classes are dropped. Raises BadInput when a class is absent.
    """
    positive = np.asarray(label).astype(bool)
    if not positive.any() or positive.all():
        raise BadInput(f"an AUROC needs both classes; found {int(positive.sum())} ones in {len(positive)} rows.")
    if len(score) != len(positive) or len(score) != len(clusters.code) or not np.isfinite(score).all():
        raise BadInput(f"an AUROC needs {len(clusters.code)} finite scores and labels; found {len(score)}.")
    n_groups = len(clusters.names)
    rank, code = np.unique(score, return_inverse=True)[1], clusters.code
    pairs = _pairs_won(rank, positive)
    n_positive = np.bincount(code, positive, n_groups)
    n_negative = np.bincount(code, ~positive, n_groups)
    inside = np.lexsort((rank, code))
    own = np.bincount(
        code[inside], _pairs_won(rank[inside], positive[inside], code[inside]) * positive[inside], n_groups
    )
    # Pairs of a group with everything: its ones with all zeros, its zeros with all ones, less those counted twice.
    touched = np.bincount(code, pairs, n_groups) - own
    total = pairs[positive].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = (total - touched) / ((n_positive.sum() - n_positive) * (n_negative.sum() - n_negative))
    drawn = Bootstrap.of(
        float(total / (n_positive.sum() * n_negative.sum())),
        _drawn_auroc(rank, positive, code, clusters.weights),
        left_out,
    )
    return drawn.value, *drawn.interval(level)


def auroc_leak(auroc: float, base: float = 0.5) -> float:
    """1 - (A - base) / (1 - base): 0 separates perfectly, 1 no better than the base (the floor's AUROC, or 1/2)."""
    if not base < 1:
        raise BadInput(f"the base of an AUROC leak is below 1; found {base}: the floor separates perfectly already.")
    return 1 - (auroc - base) / (1 - base)


def _pairs_won(rank: NDArray, positive: NDArray, block: NDArray | None = None) -> NDArray[np.float64]:
    """For each row the number of rows of the other class that it is on the right side of, ties half: [n].

    rank [n]: dense ranks of the scores. With block [n], only pairs within a block.
    """
    cell = rank if block is None else block * (rank.max() + 1) + rank
    cells, at = np.unique(cell, return_inverse=True)
    ones, zeros = np.bincount(at, positive), np.bincount(at, ~positive)
    of_cell = np.zeros(len(cells), dtype=np.int64) if block is None else cells // (rank.max() + 1)
    first = np.searchsorted(of_cell, of_cell, "left")  # the first cell of the block of each
    last = np.searchsorted(of_cell, of_cell, "right") - 1
    zeros_to, ones_to = np.cumsum(zeros), np.cumsum(ones)
    lower_zeros = zeros_to - zeros - (zeros_to - zeros)[first]
    higher_ones = ones_to[last] - ones_to
    return np.where(positive, (lower_zeros + zeros / 2)[at], (higher_ones + ones / 2)[at])


def _drawn_auroc(rank: NDArray, positive: NDArray, code: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """AUROC of each bootstrap draw: [n_bootstrap]."""
    order = np.argsort(rank, kind="stable")
    ones, zeros = order[positive[order]], order[~positive[order]]
    # How many of the sorted zeros lie below each one, and how many below or level with it.
    below, level = (np.searchsorted(rank[zeros], rank[ones], side) for side in ("left", "right"))
    out = np.empty(len(weights))
    step = max(1, 2_000_000 // len(rank))
    for i in range(0, len(weights), step):
        some = weights[i : i + step]
        beaten = np.zeros((len(some), len(zeros) + 1))
        np.cumsum(some[:, code[zeros]], 1, dtype=np.float64, out=beaten[:, 1:])
        # Half a win for a tie, and no second gather where there is none.
        won = beaten[:, below] if np.array_equal(below, level) else (beaten[:, below] + beaten[:, level]) / 2
        drawn = some[:, code[ones]]
        with np.errstate(divide="ignore", invalid="ignore"):
            out[i : i + step] = np.einsum("ij,ij->i", won, drawn) / (drawn.sum(1, dtype=np.float64) * beaten[:, -1])
    return out


# -------------------------------------------------------------------------------------------------------- online code


def online_blocks(group: NDArray, seed: int, shares: tuple[float, ...] = ONLINE_SHARES) -> list[NDArray[np.int64]]:
    """Rows of each block of the online code, whole groups in a random order: the data are sent block by block.

    Blocks end at .1 .2 .4 .8 1.6 3.2 6.25 12.5 25 50 100 % of the rows (Voita and Titov 2020, footnote 4), or at the
    end of the group in which that row lies; ends that coincide make one block. The seed draws the order, of which the
    protocol asks for at least five.
    """
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 13]).permutation(len(counts))
    sent = np.cumsum(counts[order])
    # A tenth of a per cent of 1,000 rows is one row, whatever the last digit of the product says.
    ends = np.unique(np.searchsorted(sent, np.array(shares) * len(code) - 1e-6))
    place = np.empty(len(counts), dtype=np.int64)
    place[order] = np.arange(len(counts))
    block = np.searchsorted(ends, place[code])
    return [np.flatnonzero(block == i) for i in range(len(ends))]


# ------------------------------------------------------------------------------------------------------- sample size


def icc(values: NDArray, group: NDArray) -> float:
    """Correlation within groups by one-way analysis of variance, ICC(1): (MSB - MSW) / (MSB + (n0 - 1) MSW).

    values [n], group [n]; n0 is the mean group size for unequal groups (Donner 1986). Below 0 when rows of a group
    differ more than rows of different groups; 0 where it cannot be told: groups of one row, one group, no variance.
    """
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    n, n_groups = len(code), len(counts)
    if n_groups < 2 or n_groups == n:
        return 0.0
    mean = np.bincount(code, values) / counts
    between = (counts * (mean - values.mean()) ** 2).sum() / (n_groups - 1)
    within = ((values - mean[code]) ** 2).sum() / (n - n_groups)
    n0 = (n - (counts**2).sum() / n) / (n_groups - 1)
    total = between + (n0 - 1) * within
    return float((between - within) / total) if total > 0 else 0.0


def effective_rows(group: NDArray, correlation: float) -> float:
    """Independent rows that carry as much: n / (1 + (m - 1) ICC), m = sum of squared group sizes over n (Kish 1965).

    Never more than n: a negative correlation counts as none.
    """
    counts = np.unique(group, return_counts=True)[1]
    n = float(counts.sum())
    return n / (1 + ((counts**2).sum() / n - 1) * min(1.0, max(0.0, correlation)))


@dataclass(frozen=True)
class Sufficiency:
    """What a number of rows allows: verdict enough | marked | refused, and one sentence."""

    verdict: str
    sentence: str


def refusal(n_effective: float, d: int, one_direction: bool) -> Sufficiency:
    """Section 7.5 of the protocol in effective rows: a regularised reader of d coordinates needs 10 d.

    Below, a reader of one direction is marked (its bits are biased upwards, its AUROC is not), any other refused.
    Below 2 d even that is refused (`stats.check_rows`).
    """
    found = f"{n_effective:.0f} effective fit rows for {d} coordinates, {10 * d} are asked"
    if n_effective >= 10 * d:
        return Sufficiency("enough", f"{n_effective:.0f} effective fit rows for {d} coordinates are enough")
    return Sufficiency("marked", f"{found}: biased upwards") if one_direction else Sufficiency("refused", found)


def auroc_rows(half_width: float, level: float = 0.95) -> int:
    """Rows per class for an AUROC-leak of +- half_width: 1,025 for .05, 6,403 for .02.

    From the variance of the Mann-Whitney statistic of two equal classes without signal, (2 m + 1) / (12 m^2); the leak
    with base 1/2 has twice its standard error.
    """
    if not half_width > 0:
        raise BadInput(f"half the width of an interval is above 0; found {half_width}.")
    c = (2 * float(ndtri((1 + level) / 2)) / half_width) ** 2 / 12  # m^2 >= c (2 m + 1)
    return int(np.ceil(c + np.sqrt(c * (c + 1))))
