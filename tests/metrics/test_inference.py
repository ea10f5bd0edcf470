"""Inference: exactness of permutations, coverage, known truths, and SciPy, scikit-learn and statsmodels as judges."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from probekit.errors import BadInput, TooFewRows
from probekit.metrics.auroc import auroc_interval, auroc_leak, auroc_rows
from probekit.metrics.bands import best_site, max_t, simultaneous_band
from probekit.metrics.bootstrap import Bootstrap, Clusters, ratio_interval, ratio_intervals
from probekit.metrics.equivalence import equivalence, equivalence_of_interval, smallest_detectable
from probekit.metrics.permutations import permutation_plan
from probekit.metrics.rows import at_infinity, effective_rows, icc, nested_rows, online_blocks, refusal

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
def test_a_line_in_d_over_n_is_recovered_exactly(limit, slope, d):
    n_fit = np.array([4, 8, 16]) * d
    bits = np.tile((limit + slope * d / n_fit)[:, None], 30)
    assert at_infinity(bits, n_fit, d) == pytest.approx(np.full(30, limit), abs=1e-9)


def test_the_fit_is_weighted_least_squares():
    n_fit, bits = np.array([130, 260, 500]), np.array([0.52, 0.43, 0.41])
    _, intercept = np.polyfit(32 / n_fit, bits, 1, w=np.sqrt(n_fit))
    assert at_infinity(bits, n_fit, 32) == pytest.approx(intercept)
    with pytest.raises(BadInput, match="at least two sizes"):
        at_infinity(np.ones((2, 30)), np.array([64, 64]), 4)


def test_an_extrapolated_ratio_is_relative_to_floor_and_ceiling():
    rng = np.random.default_rng(22)
    floor, ceiling = 1 + rng.random(30), 0.3 * rng.random(30)
    n_fit = np.array([64, 128, 256])
    bits = ceiling + 0.25 * (floor - ceiling) + 1.5 * (16 / n_fit)[:, None]
    found = ratio_interval(at_infinity(bits, n_fit, 16) - ceiling, floor - ceiling, weights_of(30))
    assert found == pytest.approx((0.25, 0.25))


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
        limit, ones = clusters.sums(at_infinity(bits, sizes, d)), np.ones(n_test)
        value = limit.mean()
        low, high = ratio_interval(limit, ones, clusters.weights)
        assert low < value < high
        raw_low, raw_high = ratio_interval(clusters.sums(bits[-1]), ones, clusters.weights)
        errors.append([value - truth, bits[-1].mean() - truth])
        inside += raw_low <= truth <= raw_high
        wide.append(high - low)
    mean = np.mean(errors, axis=0)
    assert mean[1] > 0.02  # what a fit on 16 rows per coordinate still misses
    assert abs(mean[0]) < mean[1] / 2
    assert inside == 0  # the raw interval is about the fitted reader, never about the truth
    assert np.mean(wide) < 0.03


# -------------------------------------------------------------------------------------------------------- equivalence


@settings(max_examples=30)
@given(st.integers(0, 999), st.floats(0.6, 0.98))
def test_a_p_value_is_alpha_where_the_limit_of_the_interval_lies(seed, level):
    """Without the correction for few groups, which 2,000 of them make small."""
    rng = np.random.default_rng(seed)
    numerator, denominator = rng.exponential(size=2_000), 1 + rng.random(2_000)
    drawn = Bootstrap.of_ratio(numerator, denominator, weights_of(2_000, 400))
    low, high = drawn.interval(level)
    assert drawn.p_above(high) == pytest.approx((1 - level) / 2, abs=0.01)
    assert drawn.p_below(low) == pytest.approx((1 - level) / 2, abs=0.01)


@settings(max_examples=30)
@given(seeds, st.integers(2, 300), st.integers(1, 7))
def test_many_intervals_at_once_are_those_of_each_ratio_alone(seed, n_groups, m):
    """Against draws made one sum at a time; some ratios are constant or have nothing to explain in some draws."""
    rng = np.random.default_rng(seed)
    weights = weights_of(n_groups, 300, seed)
    numerator, denominator = rng.exponential(size=(m, n_groups)), 1 + rng.random((m, n_groups))
    numerator[0] = denominator[0]
    denominator[-1, 1:] = 0
    many = Bootstrap.of_ratios(numerator, denominator, weights)
    for a, b, found, interval in zip(
        numerator, denominator, many, ratio_intervals(numerator, denominator, weights), strict=True
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates, left_out = (weights @ a) / (weights @ b), (a.sum() - a) / (b.sum() - b)
        alone = Bootstrap.of(a.sum() / b.sum(), replicates, left_out)
        assert found.replicates == pytest.approx(alone.replicates, rel=1e-12)
        told = [found.value, found.bias, found.acceleration, *interval]
        expected = [alone.value, alone.bias, alone.acceleration, *alone.interval()]
        assert told == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if m > 1:
        assert ratio_intervals(numerator, denominator, weights)[0] == (1, 1)


@pytest.mark.parametrize("margin", [0.1, 0.15, 0.2])
def test_equivalence_agrees_with_statsmodels_on_independent_pairs(margin):
    rng = np.random.default_rng(11)
    first = rng.normal(size=100)
    second = first + 0.05 + 0.6 * rng.normal(size=100)
    ours = equivalence(first - second, np.ones(100), weights_of(100, 20_000), margin)
    theirs = ttost_paired(first, second, -margin, margin)
    assert ours.p == pytest.approx(theirs[0], rel=0.15, abs=0.003)
    assert ours.verdict == ("within" if theirs[0] <= 0.05 else "undecided")


def test_a_value_at_the_border_is_called_within_in_at_most_alpha_of_data_sets():
    """40 clusters of 10 rows, correlation .3 within them: treating rows as independent errs several times as often."""
    rng = np.random.default_rng(12)
    group, reps = np.repeat(np.arange(40), 10), 400
    by_group, by_row = Clusters.of(group, 500, 0), Clusters.of(np.arange(400), 300, 0)
    within, outside = np.zeros(2), 0
    for i in range(reps):
        noise = np.sqrt(0.3) * rng.normal(size=40)[group] + np.sqrt(0.7) * rng.normal(size=400)
        border = 0.2 if i % 2 else -0.2
        available = 1 + 0.2 * rng.random(400)
        missed = border * available + noise * 0.3
        for j, clusters in enumerate((by_group, by_row)):
            found = equivalence(clusters.sums(missed), clusters.sums(available), clusters.weights, margin=0.2)
            within[j] += found.verdict == "within"
            outside += (found.verdict == "outside") * (j == 0)
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / reps)
    assert within[0] / reps <= limit and outside / reps <= limit
    assert within[1] / reps >= 0.12


def test_the_size_holds_with_eight_groups():
    """Read as a normal deviate instead of Student's t, .08 of data sets would be called within."""
    rng = np.random.default_rng(3)
    weights, reps = weights_of(8, 2_000), 1_500
    within = sum(
        equivalence(0.1 + 0.02 * rng.normal(size=8), np.ones(8), weights, margin=0.1).verdict == "within"
        for _ in range(reps)
    )
    assert within / reps <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / reps)


def test_the_smallest_detectable_margin_is_certified_in_four_of_five_data_sets():
    rng = np.random.default_rng(13)
    n_groups, reps = 60, 300
    weights = weights_of(n_groups, 600)
    both = smallest_detectable(1 / np.sqrt(n_groups), n_groups=n_groups)
    one = smallest_detectable(1 / np.sqrt(n_groups), two_sided=False)
    assert one * np.sqrt(n_groups) == pytest.approx(1.645 + 0.842, abs=0.001)
    certified = np.zeros(2)
    for _ in range(reps):
        x = rng.normal(size=n_groups)
        for i, margin in enumerate((both, one)):
            certified[i] += equivalence(x, np.ones(n_groups), weights, margin).verdict == "within"
    assert certified[0] / reps == pytest.approx(0.8, abs=0.06)
    assert certified[1] / reps < 0.68  # the one-sided formula would promise too much


def test_the_three_verdicts_and_the_reference():
    weights = weights_of(50, 1_000)
    rng = np.random.default_rng(14)
    value = 0.5 + 0.2 * rng.normal(size=50)
    assert equivalence(value, np.ones(50), weights, 0.1).verdict == "outside"
    assert equivalence(value, np.ones(50), weights, 0.1, reference=0.5).verdict == "within"
    assert equivalence(value, np.ones(50), weights, 0.03, reference=0.5).verdict == "undecided"
    assert equivalence(-value, np.ones(50), weights, 0.1).verdict == "outside"
    with pytest.raises(BadInput, match="a margin is at least 0"):
        equivalence(value, np.ones(50), weights, -0.1)


def test_no_spread_is_certain_and_one_group_is_not():
    ones = np.ones(30)
    found = equivalence(0.05 * ones, ones, weights_of(30), 0.1)
    assert (found.verdict, found.p, found.smallest_detectable) == ("within", 0.0, 0.0)
    assert equivalence(0.2 * ones, ones, weights_of(30), 0.1).verdict == "outside"
    alone = equivalence(np.array([0.0]), np.array([1.0]), np.ones((500, 1), dtype=np.float32), 0.1)
    assert (alone.verdict, alone.p) == ("undecided", 1.0)
    assert np.isnan(alone.smallest_detectable)


@given(st.floats(-0.5, 1.5), st.floats(0.01, 0.4), st.floats(0.01, 0.5))
def test_an_interval_alone_gives_what_a_normal_value_would(value, half, margin):
    found = equivalence_of_interval(value, value - half, value + half, margin)
    error = half / 1.959964
    p = max(scipy.stats.norm.sf((margin - value) / error), scipy.stats.norm.cdf((-margin - value) / error))
    assert found.p == pytest.approx(p, abs=1e-6)
    assert found.p_at_least == pytest.approx(scipy.stats.norm.sf((margin - value) / error), abs=1e-6)
    assert found.p_at_most == pytest.approx(1 - found.p_at_least)
    inside = -margin <= found.low and found.high <= margin
    away = found.low > margin or found.high < -margin
    assert found.verdict == ("within" if inside else "outside" if away else "undecided")
    assert found.smallest_detectable == pytest.approx((1.644854 + 1.281552) * error, abs=1e-5)


def test_groups_and_their_interval_lead_to_the_same_verdict():
    rng = np.random.default_rng(15)
    numerator, denominator, weights = 0.1 + 0.1 * rng.normal(size=100), np.ones(100), weights_of(100, 4_000)
    of_groups = equivalence(numerator, denominator, weights, 0.12)
    low, high = ratio_interval(numerator, denominator, weights)
    of_interval = equivalence_of_interval(of_groups.value, low, high, 0.12)
    assert of_interval.p == pytest.approx(of_groups.p, abs=0.02)
    assert of_interval.smallest_detectable == pytest.approx(of_groups.smallest_detectable, rel=0.05)


# -------------------------------------------------------------------------------------------------------------- AUROC


def _binary(seed: int, n: int, n_groups: int, decimals: int) -> tuple[np.ndarray, np.ndarray, Clusters]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    label[:2] = 0, 1
    score = np.round(rng.normal(size=n) + label, decimals)
    return score, label, Clusters.of(rng.integers(0, n_groups, n), 120, seed)


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(8, 60), st.integers(2, 60), st.integers(0, 3))
def test_every_draw_and_every_jackknife_is_scikit_learn_s_weighted_auroc(seed, n, n_groups, decimals):
    score, label, clusters = _binary(seed, n, n_groups, decimals)
    value, low, high = auroc_interval(score, label, clusters)
    assert value == pytest.approx(roc_auc_score(label, score), abs=1e-12)

    def weighted(weights: np.ndarray) -> float:
        row = weights[clusters.code]
        both = min(row[label == 1].sum(), row[label == 0].sum()) > 0
        return roc_auc_score(label, score, sample_weight=row) if both else np.nan

    replicates = np.array([weighted(row) for row in clusters.weights])
    left_out = np.array([weighted(1 - row) for row in np.eye(len(clusters.names))])
    expected = Bootstrap.of(value, replicates, left_out)
    assert (low, high) == pytest.approx(expected.interval(), abs=1e-9)


def test_the_area_s_interval_agrees_with_scipy_on_independent_rows_and_is_wider_in_clusters():
    rng = np.random.default_rng(16)
    group, label = np.repeat(np.arange(40), 10), np.tile([0, 1], 200)
    score = 0.7 * label + rng.normal(size=40)[group] * (2 * label - 1) * 0.6 + rng.normal(size=400)
    rows = Clusters.of(np.arange(400), 3_000, 0)
    _, low, high = auroc_interval(score, label, rows)
    theirs = scipy.stats.bootstrap(
        (score, label), lambda s, y: roc_auc_score(y, s), paired=True, vectorized=False, n_resamples=1_500,
        method="BCa", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.08 * (high - low))
    _, low_of, high_of = auroc_interval(score, label, Clusters.of(group, 3_000, 0))
    assert high_of - low_of > 1.3 * (high - low)


def test_an_area_without_both_classes_or_with_nan_is_refused():
    clusters = Clusters.of(np.arange(4), 100, 0)
    with pytest.raises(BadInput, match="found 4 ones in 4 rows"):
        auroc_interval(np.arange(4.0), np.ones(4), clusters)
    with pytest.raises(BadInput, match="finite scores"):
        auroc_interval(np.array([0, 1, np.nan, 2]), np.array([0, 1, 0, 1]), clusters)


def test_a_leak_of_the_area_is_relative_to_its_base():
    assert (auroc_leak(1.0), auroc_leak(0.5), auroc_leak(0.5625)) == (0.0, 1.0, 0.875)
    assert auroc_leak(0.9, base=0.8) == pytest.approx(0.5)
    with pytest.raises(BadInput, match="below 1"):
        auroc_leak(0.9, base=1.0)


# -------------------------------------------------------------------------------------------------------- online code


def test_blocks_of_single_rows_end_at_the_published_shares():
    blocks = online_blocks(np.arange(10_000), 0)
    assert np.cumsum([len(rows) for rows in blocks]).tolist() == [
        10,
        20,
        40,
        80,
        160,
        320,
        625,
        1250,
        2500,
        5000,
        10000,
    ]
    assert not np.array_equal(blocks[-1], online_blocks(np.arange(10_000), 1)[-1])
    assert [len(rows) for rows in online_blocks(np.arange(1_000), 0)] == [1, 1, 2, 4, 8, 16, 31, 62, 125, 250, 500]


@given(groups, seeds)
def test_blocks_hold_whole_groups_and_all_rows_once(group, seed):
    blocks = online_blocks(group, seed)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(group)))
    assert all(len(rows) for rows in blocks)
    names = [set(group[rows].tolist()) for rows in blocks]
    assert sum(map(len, names)) == len(set.union(*names))


def test_online_code_of_a_learned_coin_approaches_its_entropy():
    """Laplace's rule sent block by block costs the entropy and about half a logarithm of n: what learning costs."""
    rng = np.random.default_rng(17)
    y = (rng.random(20_000) < 0.1).astype(int)
    blocks = online_blocks(np.arange(20_000), 0)
    bits, seen = [], y[blocks[0]]
    for rows in blocks[1:]:
        p = (seen.sum() + 1) / (len(seen) + 2)
        bits.append(-(np.log2(p) * y[rows].sum() + np.log2(1 - p) * (1 - y[rows]).sum()))
        seen = np.r_[seen, y[rows]]
    total = len(blocks[0]) + sum(bits)  # the first block costs a bit a row
    share = y.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert 1 < total - 20_000 * entropy < 60


# -------------------------------------------------------------------------------------------------------- sample size


@pytest.mark.parametrize("truth", [0.0, 0.1, 0.5, 0.9])
def test_the_correlation_within_groups_is_recovered(truth):
    rng = np.random.default_rng(18)
    group = np.repeat(np.arange(400), rng.integers(2, 15, 400))
    values = np.sqrt(truth) * rng.normal(size=400)[group] + np.sqrt(1 - truth) * rng.normal(size=len(group))
    assert icc(values, group) == pytest.approx(truth, abs=0.05)
    assert icc(3 - 7 * values, group) == pytest.approx(icc(values, group), abs=1e-9)


def test_the_correlation_within_equal_groups_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(19)
    table = rng.normal(size=(6, 1)) + rng.normal(size=(6, 4))
    f = scipy.stats.f_oneway(*table).statistic
    assert icc(table.ravel(), np.repeat(np.arange(6), 4)) == pytest.approx((f - 1) / (f + 3))


def test_effective_rows_run_from_groups_to_rows():
    group = np.repeat(np.arange(40), 25)
    assert effective_rows(group, 0.0) == effective_rows(group, -0.04) == 1000
    assert effective_rows(group, 1.0) == 40
    assert effective_rows(group, 0.1) == pytest.approx(1000 / 3.4)
    assert effective_rows(np.arange(7), 0.9) == 7
    assert icc(np.arange(7.0), np.arange(7)) == icc(np.ones(8), np.repeat([0, 1], 4)) == 0.0


@pytest.mark.parametrize(("correlation", "by_row"), [(0.1, 0.72), (0.5, 0.39)])
def test_coverage_of_clusters_and_of_rows(correlation, by_row):
    """The figures of docs/method.md section 7.4, and that effective rows explain them."""
    rng = np.random.default_rng(20)
    group, reps = np.repeat(np.arange(40), 25), 500
    clusters, rows = Clusters.of(group, 400, 0), Clusters.of(np.arange(1000), 400, 0)
    hits = np.zeros(2)
    for _ in range(reps):
        noise = np.sqrt(correlation) * rng.normal(size=40)[group] + np.sqrt(1 - correlation) * rng.normal(size=1000)
        for i, unit in enumerate((clusters, rows)):
            low, high = ratio_interval(unit.sums(2 + noise), unit.sums(np.ones(1000)), unit.weights)
            hits[i] += low <= 2 <= high
    assert hits[0] / reps >= 0.91
    assert hits[1] / reps == pytest.approx(by_row, abs=0.06)
    shrunk = np.sqrt(effective_rows(group, correlation) / 1000)
    assert by_row == pytest.approx(2 * scipy.stats.norm.cdf(1.96 * shrunk) - 1, abs=0.03)


@pytest.mark.parametrize(
    ("n", "one_direction", "verdict"),
    [(640, False, "enough"), (639, False, "refused"), (640, True, "enough"), (639, True, "marked")],
)
def test_sample_sizes_of_the_protocol(n, one_direction, verdict):
    found = refusal(n, 64, one_direction)
    assert found.verdict == verdict
    assert f"{n} effective fit rows for 64 coordinates" in found.sentence
    assert ("640 are asked" in found.sentence) == (verdict != "enough")


def test_rows_for_an_area_are_the_protocol_s_and_hold_in_a_simulation():
    assert (auroc_rows(0.05), auroc_rows(0.02)) == (1025, 6403)
    rng = np.random.default_rng(21)
    label = np.repeat([0, 1], 1025)
    ranks = np.argsort(rng.random((600, 2050)), axis=1)
    u = (ranks * label).sum(1) - 1025 * 1024 / 2
    leaks = 2 * (1 - u / 1025**2)
    assert 1.96 * leaks.std() == pytest.approx(0.05, abs=0.004)
    assert auroc_leak(roc_auc_score(label, ranks[0])) == pytest.approx(leaks[0])
    with pytest.raises(BadInput, match="above 0"):
        auroc_rows(0)


def test_the_bias_behind_the_sample_sizes():
    """An unregularised logistic fit costs about .72 bits per parameter and row (docs/method.md section 7.5)."""
    from sklearn.linear_model import LogisticRegression

    d, n, n_test = 8, 800, 4_000
    extra = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n + n_test, d))
        logit = x @ np.full(d, 0.3)
        p = 1 / (1 + np.exp(-logit))
        y = (rng.random(len(p)) < p).astype(int)
        fitted = LogisticRegression(C=np.inf, fit_intercept=False).fit(x[:n], y[:n])
        q, p = fitted.predict_proba(x[n:])[:, 1], p[n:]
        extra.append(np.mean(p * np.log2(p / q) + (1 - p) * np.log2((1 - p) / (1 - q))))
    assert np.mean(extra) == pytest.approx(0.72 * d / n, rel=0.25)
