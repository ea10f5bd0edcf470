"""Equivalence: its size, its margin, and statsmodels as the judge."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import ttost_paired

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters, ratio_interval
from probekit.metrics.equivalence import equivalence, equivalence_of_interval, smallest_detectable


def weights_of(n_groups: int, n_bootstrap: int = 500, seed: int = 0) -> np.ndarray:
    return Clusters.of(np.arange(n_groups), n_bootstrap, seed).weights


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
