"""Permutations: exact within groups, valid where permuting rows is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import BadInput
from probekit.metrics.bands import max_t
from probekit.metrics.permutations import SMALL_GROUP, permutation_plan, permute_within

groups = st.lists(st.integers(-3, 30), min_size=3, max_size=80).filter(lambda g: len(set(g)) >= 3).map(np.array)


seeds = st.integers(0, 99)


groups = st.lists(st.integers(-3, 30), min_size=4, max_size=80).filter(lambda g: len(set(g)) >= 4).map(np.array)


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
