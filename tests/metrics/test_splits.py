"""Splits: whole groups, every row tested once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import BadInput
from probekit.metrics.splits import folds_by_group, split_by_group, splits_by_group

groups = st.lists(st.integers(-3, 30), min_size=4, max_size=80).filter(lambda g: len(set(g)) >= 4).map(np.array)


def check_sides(split, group):
    """Four sides that share no group and leave out no row."""
    parts = (split.fit, split.select, split.calibrate, split.test)
    sides = [set(group[side].tolist()) for side in parts]
    assert all(sides)
    assert not any(a & b for i, a in enumerate(sides) for b in sides[:i])
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(group)))


@given(groups, st.integers(0, 99))
def test_no_group_is_on_two_sides(group, seed):
    split = split_by_group(group, seed)
    check_sides(split, group)


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
