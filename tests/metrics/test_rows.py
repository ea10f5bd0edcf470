"""Rows: how many are needed, how many they count as, and the limit of many."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import BadInput, TooFewRows
from probekit.metrics.bootstrap import Clusters, ratio_interval
from probekit.metrics.rows import at_infinity, effective_rows, icc, nested_rows, online_blocks


def weights_of(n_groups: int, n_bootstrap: int = 500, seed: int = 0) -> np.ndarray:
    return Clusters.of(np.arange(n_groups), n_bootstrap, seed).weights


seeds = st.integers(0, 99)


groups = st.lists(st.integers(-3, 30), min_size=3, max_size=80).filter(lambda g: len(set(g)) >= 3).map(np.array)


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


def test_the_bias_behind_the_sample_sizes():
    """An unregularised logistic fit inflates the loss by about .72 bits per parameter and row (docs/method.md 7.5)."""
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
