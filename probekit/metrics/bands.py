"""What is said of all sites together: simultaneous bands, max-T, the site that selection rows prefer."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from probekit.errors import BadInput
from probekit.metrics.bootstrap import FEW_REPLICATES, SAME, acceleration_of, ratio_interval, ratios_of, sums_left_out


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
    value, drawn = ratios_of(numerator, denominator, weights)
    return band_of(value, drawn, sums_left_out(numerator, denominator), level)


def band_of(
    value: NDArray, drawn: NDArray, left_out: NDArray, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same of any statistics: value [n_sites], drawn [n_sites, n_bootstrap], left_out [n_sites, n_groups].

    drawn: each statistic in the same draws of groups; left_out: without each group in turn.
    """
    replicates = drawn.T
    value = np.where(np.isfinite(value), value, np.nan)
    low, high = value.copy(), value.copy()
    n_groups = left_out.shape[1]
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
    shift = np.array([acceleration_of(site) for site in left_out[counted]]) * (2 * c**2 + 1)
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
    p_raw[varies] = np.mean(z >= z[0] - SAME, axis=0)
    order = np.argsort(-z[0], kind="stable")
    ranked = z[:, order]
    if step_down:  # the k-th largest is compared with the maximum over itself and everything below
        against = np.maximum.accumulate(ranked[:, ::-1], axis=1)[:, ::-1]
    else:
        against = np.broadcast_to(ranked.max(1, keepdims=True), ranked.shape)
    p = np.maximum.accumulate(np.mean(against >= ranked[0] - SAME, axis=0))
    back = np.empty(len(order))
    back[order] = p
    p_adjusted[varies] = back
    return p_adjusted, p_raw


def best_site(
    select_bits: NDArray, numerator: NDArray, denominator: NDArray, fold_of_group: NDArray, weights: NDArray
) -> tuple[NDArray[np.int64], float, float, float]:
    """Ratio at the best site, chosen without its test rows: (site of each fold [n_folds], value, low, high).

    select_bits [n_folds, n_sites]: loss on the selection rows of each outer fold (NaN: not measured there);
    numerator, denominator [n_sites, n_groups]: sums over test groups by readers that were fitted outside the group's
    own fold; fold_of_group [n_groups]. In each fold the site of least selection loss is taken, and only its test groups
    are scored by it (nested selection, docs/method.md section 7.2). The value is unbiased; the interval takes the
    choices as made, and covers as long as selection uses a part of the groups outside a fold (.94 on 24 equal sites
    with a fifth of them, .80 with all: each fold then chooses by the very rows that test the others).
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
