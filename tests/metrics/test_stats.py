"""Splits, bootstrap, permutations and refusals: properties over drawn groups, SciPy and coverage as judges."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import BadInput, TooFewRows
from probekit.metrics.bootstrap import Clusters, ratio_interval, resampled
from probekit.metrics.permutations import SMALL_GROUP, permute_within
from probekit.metrics.splits import check_rows, folds_by_group, split_by_group, splits_by_group

groups = st.lists(st.integers(-3, 30), min_size=4, max_size=80).filter(lambda g: len(set(g)) >= 4).map(np.array)


@given(groups, st.integers(0, 99))
def test_no_group_is_on_two_sides(group, seed):
    split = split_by_group(group, seed)
    check_sides(split, group)


def check_sides(split, group):
    """Four sides that share no group and leave out no row."""
    parts = (split.fit, split.select, split.calibrate, split.test)
    sides = [set(group[side].tolist()) for side in parts]
    assert all(sides)
    assert not any(a & b for i, a in enumerate(sides) for b in sides[:i])
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(group)))


@given(
    groups.filter(lambda group: len(set(group.tolist())) >= 6), st.integers(2, 5), st.integers(1, 3), st.integers(0, 9)
)
def test_every_row_is_tested_once_and_selection_stays_inside_training(group, outer, inner, seed):
    splits = splits_by_group(group, seed, outer, inner)
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(len(group)))
    for split in splits:
        check_sides(split, group)
        training = sorted([*split.fit.tolist(), *split.select.tolist()])
        assert len(split.inner) == (0 if inner == 1 else min(inner, len(set(group[training].tolist()))))
        for fit, select in split.inner:
            assert sorted([*fit.tolist(), *select.tolist()]) == training
            assert not set(group[fit].tolist()) & set(group[select].tolist()) or len(split.inner) == 1


@given(groups, st.integers(1, 6), st.integers(0, 9))
def test_a_group_is_in_one_fold_and_no_fold_is_empty(group, n_folds, seed):
    fold = folds_by_group(group, n_folds, seed)
    assert all(len(set(fold[group == name].tolist())) == 1 for name in set(group.tolist()))
    assert set(fold.tolist()) == set(range(min(n_folds, len(set(group.tolist())))))


def test_splits_follow_names_of_any_type_in_the_stated_proportions_and_the_seed():
    group = np.repeat([f"game {i}" for i in range(200)], 3)
    split = split_by_group(group, 0)
    assert (len(split.fit), len(split.select), len(split.calibrate), len(split.test)) == (300, 90, 60, 150)
    assert np.array_equal(split.fit, split_by_group(group, 0).fit)
    assert not np.array_equal(split.fit, split_by_group(group, 1).fit)


@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_too_few_groups_to_split(n_groups):
    with pytest.raises(BadInput, match=f"has {n_groups} group"):
        split_by_group(np.arange(12) % n_groups, 0)


@given(groups, st.integers(0, 9))
def test_rows_of_a_group_stay_together_and_large_groups_stay_where_they_are(group, seed):
    permutation, _ = permute_within(group, seed)
    assert sorted(permutation.tolist()) == list(range(len(group)))
    names, counts = np.unique(group, return_counts=True)
    for name, size in zip(names, counts, strict=True):
        taken = np.unique(group[permutation[group == name]])
        assert len(taken) == 1 and counts[names == taken[0]] == size
        assert size < SMALL_GROUP or taken[0] == name


def test_permutation_says_what_it_did():
    rows, within = permute_within(np.repeat(np.arange(30), 10)[::-1], 0)
    assert within
    assert (rows != np.arange(300)).mean() > 0.8
    rows, within = permute_within(np.arange(300), 0)
    assert not within
    assert (rows != np.arange(300)).mean() > 0.8


def test_bca_agrees_with_scipy_on_independent_rows():
    rng = np.random.default_rng(0)
    numerator = rng.exponential(size=60)
    denominator = 1 + rng.random(60)
    weights = Clusters.of(np.arange(60), 8_000, 0).weights
    ours = ratio_interval(numerator, denominator, weights)
    theirs = scipy.stats.bootstrap(
        (numerator, denominator), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True, method="BCa",
        n_resamples=8_000, rng=np.random.default_rng(1), vectorized=True,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)
    # the distribution is skewed, so the plain percentile interval is elsewhere
    percentile = np.quantile((weights @ numerator) / (weights @ denominator), (0.025, 0.975))
    assert ours[1] - percentile[1] > 0.04 * width


def test_cluster_bootstrap_covers_where_row_bootstrap_does_not():
    rng = np.random.default_rng(2)
    group, rows, icc, reps = np.repeat(np.arange(40), 25), np.arange(1000), 0.1, 150
    by_group, by_row = Clusters.of(group, 400, 0), Clusters.of(rows, 400, 0)
    hits = np.zeros(2)
    for _ in range(reps):
        loss = 2 + np.sqrt(icc) * rng.normal(size=40)[group] + np.sqrt(1 - icc) * rng.normal(size=1000)
        for i, clusters in enumerate((by_group, by_row)):
            low, high = ratio_interval(clusters.sums(loss), clusters.sums(np.ones(1000)), clusters.weights)
            hits[i] += low <= 2 <= high
    assert hits[0] / reps >= 0.9
    assert hits[1] / reps <= 0.8


def test_pairing_removes_what_numerator_and_denominator_share():
    rng = np.random.default_rng(3)
    denominator = rng.exponential(size=100)
    numerator = 0.5 * denominator
    low, high = ratio_interval(numerator, denominator, Clusters.of(np.arange(100), 500, 0).weights)
    assert (low, high) == pytest.approx((0.5, 0.5), abs=1e-6)
    noisy = numerator + 0.01 * rng.normal(size=100)
    low, high = ratio_interval(noisy, denominator, Clusters.of(np.arange(100), 500, 0).weights)
    assert 0.001 < high - low < 0.01
    alone = ratio_interval(noisy, np.full(100, denominator.mean()), Clusters.of(np.arange(100), 500, 0).weights)
    assert alone[1] - alone[0] > 20 * (high - low)


@given(groups)
def test_cluster_sums_and_sizes_are_those_of_the_rows(group):
    clusters = Clusters.of(group, 10, 0)
    value = np.arange(len(group), dtype=float)
    assert clusters.sums(value).tolist() == [value[group == name].sum() for name in clusters.names]
    assert clusters.sizes.tolist() == [(group == name).sum() for name in clusters.names]
    assert (clusters.weights.sum(1) == len(clusters.names)).all()


def test_pools_of_as_many_groups_share_one_draw_and_nobody_changes_it():
    first, second = Clusters.of(np.arange(30) // 2, 50, 3), Clusters.of(np.array(list("abcdefghijklmno")), 50, 3)
    assert first.weights is second.weights
    drawn = np.random.default_rng([3, 4]).multinomial(15, np.full(15, 1 / 15), size=50)
    assert np.array_equal(first.weights, drawn)
    assert not np.array_equal(first.weights, Clusters.of(np.arange(15), 50, 4).weights)
    with pytest.raises(ValueError, match="read-only"):
        first.weights[0, 0] = 7


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 300))
def test_sums_that_are_resampled_together_are_those_of_each_alone(seed, m, n_bootstrap):
    weights = Clusters.of(np.arange(40), n_bootstrap, seed).weights
    sums = np.random.default_rng(seed).normal(size=(m, 40))
    found = resampled(np.concatenate([sums, sums[::-1]]), weights)
    assert found[:m] == pytest.approx(np.stack([weights @ row for row in sums]), rel=1e-12, abs=1e-12)
    assert np.array_equal(found[:m], found[: m - 1 : -1]), "equal sums are to be equal to the last digit"


def test_below_two_rows_per_coordinate_nothing_is_read():
    with pytest.raises(TooFewRows, match=r"64 coordinates are to be read from 127 fit rows: below 128 .* at least 640"):
        check_rows(127, 64)
    assert check_rows(128, 64) is None
