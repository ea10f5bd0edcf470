"""Inference: exactness of permutations, coverage, known truths, and SciPy, scikit-learn and statsmodels as judges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from probekit.errors import BadInput, TooFewRows
from probekit.inference import (
    best_site,
    extrapolate,
    extrapolated_ratio,
    max_t,
    nested_rows,
    permutation_plan,
    simultaneous_band,
)
from probekit.stats import Clusters, ratio_interval

groups = st.lists(st.integers(-3, 30), min_size=3, max_size=80).filter(lambda g: len(set(g)) >= 3).map(np.array)
seeds = st.integers(0, 99)


def weights_of(n_groups: int, n_bootstrap: int = 500, seed: int = 0) -> np.ndarray:
    return Clusters.of(np.arange(n_groups), n_bootstrap, seed).weights


# ------------------------------------------------------------------------------------------------------------- bands


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


def test_the_shift_for_skewness_balances_the_sides_of_a_band():
    rng = np.random.default_rng(1)
    weights, reps = weights_of(60, 600), 200
    above = below = 0
    for _ in range(reps):
        low, high = simultaneous_band(rng.exponential(size=(6, 60)), np.ones((6, 60)), weights)
        above, below = above + (low > 1).any(), below + (high < 1).any()
    assert (above + below) / reps <= 0.13  # a symmetric band misses .15, and all on one side
    assert above >= 1


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


# ------------------------------------------------------------------------------------------------------------- max-T


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


# ------------------------------------------------------------------------------------------------------ permutations


@given(groups, seeds)
def test_a_plan_moves_rows_inside_groups_and_lone_rows_among_each_other(group, seed):
    counts = dict(zip(*np.unique(group, return_counts=True), strict=True))
    alone = np.array([counts[name] == 1 for name in group])
    plan = permutation_plan(group, 4, seed, constant_within=False)
    for row in plan:
        assert sorted(row.tolist()) == list(range(len(group)))
        assert np.array_equal(group[row][~alone], group[~alone])
        assert alone[row][alone].all()
    assert np.array_equal(plan, permutation_plan(group, 4, seed, constant_within=False))


@given(groups, seeds)
def test_a_plan_for_constant_groups_moves_them_whole_and_in_order(group, seed):
    names, counts = np.unique(group, return_counts=True)
    if len(set(counts.tolist())) == len(counts):
        with pytest.raises(BadInput, match="whole groups cannot be exchanged"):
            permutation_plan(group, 2, seed, constant_within=True)
        return
    for row in permutation_plan(group, 4, seed, constant_within=True):
        assert sorted(row.tolist()) == list(range(len(group)))
        for name in names:
            taken = row[group == name]
            assert len(set(group[taken].tolist())) == 1
            assert np.array_equal(taken, np.flatnonzero(group == group[taken[0]]))


@pytest.mark.parametrize(
    ("group", "constant", "n_possible"),
    [([0, 0, 0], False, 6), ([0, 1, 2], False, 6), ([0, 0, 1, 1, 2, 2], True, 6), ([0, 0, 1, 1], False, 4)],
)
def test_every_permitted_permutation_is_equally_likely_the_identity_too(group, constant, n_possible):
    plan = permutation_plan(np.array(group), 6_000, 0, constant_within=constant)
    found, counts = np.unique(plan, axis=0, return_counts=True)
    assert len(found) == n_possible
    assert np.arange(len(group)).tolist() in found.tolist()
    expected = 6_000 / n_possible
    assert ((counts - expected) ** 2 / expected).sum() < 24  # chi-squared, 5 degrees of freedom: p < .0003


def test_a_plan_that_could_only_stand_still_is_refused():
    with pytest.raises(BadInput, match="no permutation but the identity"):
        permutation_plan(np.zeros(1), 3, 0, constant_within=False)


def test_permuting_whole_groups_is_valid_where_permuting_rows_is_not():
    """Behaviour constant in groups and activations alike in groups: rows are not exchangeable, groups are."""
    rng = np.random.default_rng(8)
    group, reps = np.repeat(np.arange(20), 10), 200
    wrong = np.zeros(2)
    for _ in range(reps):
        label = rng.integers(0, 2, 20)[group]
        h = rng.normal(size=20)[group] + 0.5 * rng.normal(size=200)
        plans = (
            permutation_plan(group, 99, int(rng.integers(1 << 30)), constant_within=True),
            permutation_plan(np.arange(200), 99, int(rng.integers(1 << 30)), constant_within=False),
        )
        for i, plan in enumerate(plans):
            centred = label - label.mean()
            _, p = max_t(np.abs([h @ centred]), np.abs(h[plan] @ centred)[:, None])
            wrong[i] += p[0] <= 0.05
    assert wrong[0] / reps <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / reps)
    assert wrong[1] / reps >= 0.3


# --------------------------------------------------------------------------------------------------- nested selection


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


# ------------------------------------------------------------------------------------------------------ extrapolation


@given(st.floats(0, 2), st.floats(-1, 5), st.integers(1, 300))
def test_a_line_in_d_over_n_is_recovered_exactly(bits, slope, d):
    n_fit = np.array([4, 8, 16]) * d
    found = extrapolate(n_fit, bits + slope * d / n_fit, d)
    assert (found.bits_inf, found.slope) == pytest.approx((bits, slope), abs=1e-9)
    assert found.residual == pytest.approx(0, abs=1e-9)


def test_the_fit_is_weighted_least_squares():
    n_fit, bits = np.array([130, 260, 500]), np.array([0.52, 0.43, 0.41])
    slope, intercept = np.polyfit(32 / n_fit, bits, 1, w=np.sqrt(n_fit))
    found = extrapolate(n_fit, bits, 32)
    assert (found.bits_inf, found.slope) == pytest.approx((intercept, slope))
    with pytest.raises(BadInput, match="at least two sizes"):
        extrapolate(np.array([64, 64]), np.array([1.0, 1.0]), 4)


@given(st.lists(st.integers(0, 60), min_size=36, max_size=80).map(np.array), seeds)
def test_nested_subsets_hold_whole_groups(group, seed):
    try:
        subsets = nested_rows(group, 2, seed)
    except BadInput:
        assert np.unique(group, return_counts=True)[1].max() > 2
        return
    for rows, size in zip(subsets, (8, 16, 32), strict=True):
        assert len(rows) >= size
        assert not set(group[rows].tolist()) & set(np.delete(group, rows).tolist())
    assert set(subsets[0].tolist()) < set(subsets[1].tolist()) < set(subsets[2].tolist())


def test_nested_subsets_of_single_rows_have_the_sizes_asked_for():
    assert [len(rows) for rows in nested_rows(np.arange(600), 32, 0)] == [128, 256, 512]
    with pytest.raises(TooFewRows, match="32 coordinates need 512 fit rows and there are 500"):
        nested_rows(np.arange(500), 32, 0)
    with pytest.raises(BadInput, match="give smaller groups"):
        nested_rows(np.arange(600) // 300, 32, 0)


def test_extrapolation_comes_nearer_to_the_truth_than_any_finite_fit():
    """A noisy linear binary behaviour in 32 dimensions, ridge chosen by cross-validation, judged on 20,000 rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    d, n_test = 32, 20_000
    errors, inside, wide = [], 0, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        w = rng.normal(size=d)
        w *= 8 / np.linalg.norm(w)
        x = rng.normal(size=(n_test + 16 * d, d))
        p = np.clip(1 / (1 + np.exp(-x @ w)), 1e-12, 1 - 1e-12)
        y = (rng.random(len(p)) < p).astype(int)
        fit, test = np.arange(16 * d), np.arange(16 * d, len(p))
        truth = np.mean(-p[test] * np.log2(p[test]) - (1 - p[test]) * np.log2(1 - p[test]))
        bits, sizes = [], []
        for part in nested_rows(fit, d, seed):
            search = GridSearchCV(
                LogisticRegression(max_iter=500), {"C": [0.03, 0.1, 0.3, 1, 3, 10]}, scoring="neg_log_loss", cv=4
            )
            search.fit(x[part], y[part])
            q = np.clip(search.predict_proba(x[test])[:, 1], 1e-12, 1 - 1e-12)
            bits.append(-p[test] * np.log2(q) - (1 - p[test]) * np.log2(1 - q))
            sizes.append(len(part))
        clusters = Clusters.of(test, 300, seed)
        bits, sizes = np.array(bits), np.array(sizes)
        sums = np.stack([clusters.sums(row) for row in bits])
        ones, zeros = np.ones(n_test), np.zeros(n_test)
        value, low, high = extrapolated_ratio(sums, sizes, ones, zeros, d, clusters.weights)
        assert value == pytest.approx(extrapolate(sizes, bits.mean(1), d).bits_inf, abs=1e-9)
        assert low < value < high
        raw_low, raw_high = ratio_interval(sums[-1], ones, clusters.weights)
        errors.append([value - truth, bits[-1].mean() - truth])
        inside += raw_low <= truth <= raw_high
        wide.append(high - low)
    mean = np.mean(errors, axis=0)
    assert mean[1] > 0.02  # what a fit on 16 rows per coordinate still misses
    assert abs(mean[0]) < mean[1] / 2
    assert inside == 0  # the raw interval is about the fitted reader, never about the truth
    assert np.mean(wide) < 0.03
