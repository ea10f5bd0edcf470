"""AUROC: every draw is scikit-learn's, the interval SciPy's on independent rows."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from probekit.errors import BadInput
from probekit.metrics.auroc import auroc_interval, auroc_leak, auroc_rows
from probekit.metrics.bootstrap import Bootstrap, Clusters


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
