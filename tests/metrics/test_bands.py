"""Bands: coverage of all sites at once, family-wise error, a site chosen on other folds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from probekit.errors import BadInput
from probekit.metrics.bands import best_site, max_t, simultaneous_band
from probekit.metrics.bootstrap import Clusters, ratio_interval


def weights_of(n_groups: int, n_bootstrap: int = 500, seed: int = 0) -> np.ndarray:
    return Clusters.of(np.arange(n_groups), n_bootstrap, seed).weights


def test_a_band_covers_all_sites_at_once_where_intervals_for_each_do_not():
    rng = np.random.default_rng(0)
    weights, n_sites, reps = weights_of(40, 600), 12, 200
    hits = np.zeros(2)
    for _ in range(reps):
        shared = rng.normal(size=40)
        numerator = 2 + 0.8 * rng.normal(size=(n_sites, 40)) + 0.6 * shared
        denominator = np.full((n_sites, 40), 4.0)
        low, high = simultaneous_band(numerator, denominator, weights)
        hits[0] += np.all((low <= 0.5) & (high >= 0.5))
        each = [ratio_interval(a, b, weights) for a, b in zip(numerator, denominator, strict=True)]
        hits[1] += all(low <= 0.5 <= high for low, high in each)
    assert hits[0] / reps >= 0.92  # .95 less 2 SE
    assert hits[1] / reps <= 0.75


def test_the_limits_of_a_band_follow_the_skewness():
    """The exact interval of the mean of 40 exponential values has 4.1 SE above it and 2.2 below at this level."""
    rng = np.random.default_rng(1)
    numerator = rng.exponential(size=(12, 40))
    weights = weights_of(40, 2_000)
    for sign, longer in ((1, 0), (-1, 1)):
        low, high = simultaneous_band(sign * numerator, np.ones((12, 40)), weights)
        value = sign * numerator.mean(1)
        arms = np.median([high - value, value - low], axis=1)
        assert arms[longer] / arms[1 - longer] == pytest.approx(4.1 / 2.2, rel=0.25)
    symmetric = np.concatenate([numerator, 2 - numerator], axis=1)
    low, high = simultaneous_band(symmetric, np.ones((12, 80)), weights_of(80, 2_000))
    assert np.allclose(high - symmetric.mean(1), symmetric.mean(1) - low)
    reps, missed = 200, np.zeros(2)
    for _ in range(reps):
        low, high = simultaneous_band(rng.exponential(size=(6, 60)), np.ones((6, 60)), weights_of(60, 400))
        missed += (low > 1).any(), (high < 1).any()
    assert missed.sum() / reps <= 0.1  # without the shift .15, all of it below the truth


def test_one_site_has_nearly_its_own_interval_and_equal_sites_share_it():
    rng = np.random.default_rng(2)
    numerator, denominator = rng.exponential(size=200), 1 + rng.random(200)
    weights = weights_of(200, 4_000)
    own = np.array(ratio_interval(numerator, denominator, weights))
    low, high = simultaneous_band(numerator[None], denominator[None], weights)
    assert [low[0], high[0]] == pytest.approx(own, abs=0.06 * np.ptp(own))
    many = simultaneous_band(np.tile(numerator, (9, 1)), np.tile(denominator, (9, 1)), weights)
    assert np.allclose(many[0], low[0], rtol=1e-9) and np.allclose(many[1], high[0], rtol=1e-9)


def test_sites_without_spread_or_denominator_do_not_count():
    rng = np.random.default_rng(3)
    numerator, denominator = rng.exponential(size=(1, 50)), 1 + rng.random((1, 50))
    weights = weights_of(50)
    alone = simultaneous_band(numerator, denominator, weights)
    low, high = simultaneous_band(
        np.vstack([numerator, 0.3 * denominator, numerator]), np.vstack([denominator, denominator, 0 * denominator]),
        weights,
    )  # fmt: skip
    assert [low[0], high[0]] == pytest.approx([alone[0][0], alone[1][0]], abs=1e-12)
    assert low[1] == high[1] == pytest.approx(0.3)
    assert np.isnan([low[2], high[2]]).all()


def test_sites_and_weights_that_do_not_match_are_refused():
    with pytest.raises(BadInput, match="numbers of groups have to agree"):
        simultaneous_band(np.ones((2, 5)), np.ones((2, 5)), weights_of(6))


def test_max_t_holds_the_family_wise_error_where_raw_p_values_do_not():
    rng = np.random.default_rng(4)
    reps, n_sites = 400, 12
    wrong = np.zeros(3)
    for _ in range(reps):
        # 20 exchangeable statistics, heavy tails, dependent sites of different scale: the first is the observed one
        pool = (rng.standard_t(3, size=(20, n_sites)) + rng.normal(size=(20, 1))) * np.arange(1, n_sites + 1)
        stepped, raw = max_t(pool[0], pool[1:])
        single, _ = max_t(pool[0], pool[1:], step_down=False)
        wrong += [stepped.min() <= 0.05, single.min() <= 0.05, raw.min() <= 0.05]
    assert wrong[0] / reps <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / reps)
    assert wrong[1] == wrong[0]  # they differ below the smallest only
    assert wrong[0] / reps >= 0.02  # and it is not merely silent
    assert wrong[2] / reps >= 0.2


@given(st.integers(0, 9999), st.integers(1, 8), st.integers(1, 40))
def test_raw_is_below_step_down_is_below_single_step(seed, n_sites, n_permutations):
    rng = np.random.default_rng(seed)
    observed, permuted = rng.normal(size=n_sites) + 1, rng.normal(size=(n_permutations, n_sites))
    stepped, raw = max_t(observed, permuted)
    single, same = max_t(observed, permuted, step_down=False)
    assert (raw <= stepped + 1e-12).all() and (stepped <= single + 1e-12).all() and (raw == same).all()
    assert (raw >= 1 / (1 + n_permutations) - 1e-12).all() and (single <= 1).all()
    scale, shift = rng.uniform(0.1, 9, n_sites), rng.normal(size=n_sites)
    assert np.array_equal(max_t(observed * scale + shift, permuted * scale + shift)[0], stepped)


def test_step_down_finds_more_than_single_step_and_bonferroni():
    rng = np.random.default_rng(5)
    permuted = rng.normal(size=(999, 10)) + 2 * rng.normal(size=(999, 1))
    observed = np.r_[np.full(5, 12.0), 4.9, np.zeros(4)]
    permuted[:, 6:] += rng.normal(size=(999, 4))
    stepped, raw = max_t(observed, permuted)
    single, _ = max_t(observed, permuted, step_down=False)
    bonferroni = multipletests(raw, method="bonferroni")[1]
    assert (stepped[:5] <= 0.002).all() and (stepped[6:] > 0.2).all()
    assert stepped[5] < single[5] < bonferroni[5]


def test_independent_sites_agree_with_sidak():
    rng = np.random.default_rng(6)
    permuted = rng.normal(size=(20_000, 6))
    observed = np.array([2.6, 1.8, 1.2, 0.5, 0.0, -1.0])
    single, raw = max_t(observed, permuted, step_down=False)
    stepped, _ = max_t(observed, permuted)
    assert single == pytest.approx(multipletests(raw, method="sidak")[1], abs=0.015)
    assert stepped == pytest.approx(multipletests(raw, method="holm-sidak")[1], abs=0.015)


def test_a_site_that_never_varies_has_p_one():
    rng = np.random.default_rng(7)
    permuted = np.column_stack([rng.normal(size=99), np.full(99, 3.0)])
    adjusted, raw = max_t(np.array([9.0, 3.0]), permuted)
    assert adjusted.tolist() == [0.01, 1.0] and raw.tolist() == [0.01, 1.0]
    assert max_t(np.zeros(2), np.zeros((9, 2)))[0].tolist() == [1.0, 1.0]
    with pytest.raises(BadInput, match="not finite"):
        max_t(np.array([np.nan]), np.zeros((9, 1)))
    with pytest.raises(BadInput, match="permuted ones of shape"):
        max_t(np.zeros(3), np.zeros((9, 2)))


def test_the_best_of_null_sites_is_biased_and_nested_selection_is_not():
    rng = np.random.default_rng(9)
    n_sites, n_groups, n_folds, reps = 24, 60, 5, 150
    fold = np.arange(n_groups) % n_folds
    weights = weights_of(n_groups, 300)
    denominator = np.ones((n_sites, n_groups))
    naive, nested, covered = [], [], 0
    for _ in range(reps):
        losses = 1 + 0.5 * rng.normal(size=(n_sites, n_groups))  # every site explains nothing: the truth is 1
        rest = [rng.permutation(np.flatnonzero(fold != i))[: n_groups // n_folds] for i in range(n_folds)]
        select = np.stack([losses[:, rows].mean(1) for rows in rest])
        chosen, value, low, high = best_site(select, losses, denominator, fold, weights)
        assert chosen.tolist() == select.argmin(1).tolist()
        naive.append(losses.mean(1).min())
        nested.append(value)
        covered += low <= 1 <= high
    assert np.mean(naive) < 1 - 0.1
    assert abs(np.mean(nested) - 1) < 3 * np.std(nested) / np.sqrt(reps)
    assert covered / reps >= 0.9


def test_best_site_takes_each_fold_s_own_choice():
    numerator = np.array([[1.0, 1, 1, 1], [2, 4, 6, 8]])
    select = np.array([[0.1, np.nan], [0.9, 0.2]])
    chosen, value, low, high = best_site(select, numerator, np.full((2, 4), 2.0), np.array([0, 0, 1, 1]), weights_of(4))
    assert chosen.tolist() == [0, 1]
    assert value == (1 + 1 + 6 + 8) / 8
    assert low < value < high
    with pytest.raises(BadInput, match="no site with a selection loss"):
        best_site(select * np.nan, numerator, numerator, np.array([0, 0, 1, 1]), weights_of(4))
    with pytest.raises(BadInput, match="lies in fold 2"):
        best_site(select, numerator, numerator, np.array([0, 0, 1, 2]), weights_of(4))
    with pytest.raises(BadInput, match="selection has 2 sites, the losses 1"):
        best_site(select, numerator[:1], numerator[:1], np.array([0, 0, 1, 1]), weights_of(4))
