"""Which classes can be told: pools, and what refuses a cell."""

import numpy as np
import pytest

from probekit.metrics.classes import LEAST_ROWS, is_certain, pool_rare, pooled, unmeasurable


def law_of(counts):
    return np.eye(len(counts), dtype=np.float32)[np.repeat(np.arange(len(counts)), counts)]


def test_rare_classes_become_one_and_no_row_is_lost():
    law = law_of([40, 3, 30, 5, 1])
    every = np.arange(len(law))
    place, n_pooled = pool_rare(law, [every])
    assert n_pooled == 3 and place.tolist() == [0, 2, 1, 2, 2]
    made, names = pooled(law, ("a", "b", "c", "d", "e"), place)
    assert names == ("a", "c", "rest")
    assert made.sum(0).tolist() == [40, 30, 9] and (made.sum(1) == 1).all()


def test_the_side_that_sees_fewest_of_a_class_decides():
    law = law_of([40, 20, 20])
    place, n_pooled = pool_rare(law, [np.arange(80), np.arange(45)])  # five rows of the second class, none of the third
    assert n_pooled == 2 and place.tolist() == [0, 1, 1]


@pytest.mark.parametrize("law", [law_of([40, 3]), law_of([40, 30, 3]), np.full((50, 4), 0.25, np.float32)])
def test_what_is_not_pooled(law):
    """Two classes, one rare class with none to join it, and a law that is known without counting rows."""
    place, n_pooled = pool_rare(law, [np.arange(len(law))])
    assert n_pooled == 0 and place.tolist() == list(range(law.shape[1]))


def test_labels_are_certain_and_laws_are_not():
    assert is_certain(law_of([3, 4])) and not is_certain(np.full((3, 2), 0.5))


def test_a_class_that_a_side_hardly_has_is_named_with_the_side():
    law = law_of([100, 100])
    sides = {"fit": np.arange(50, 150), "test": np.r_[0:50, 150 : 150 + LEAST_ROWS - 1]}
    told = unmeasurable(law, ("no", "yes"), np.arange(200), sides)
    assert told.startswith("'yes' has 7 of 57 test rows, where 8 are needed")
    sides["test"] = np.r_[0:50, 150 : 150 + LEAST_ROWS]
    assert unmeasurable(law, ("no", "yes"), np.arange(200), sides) == ""


def test_few_groups_are_refused_and_few_rows_are_not():
    law = law_of([30, 30])
    sides = {"fit": np.r_[0:20, 30:50], "test": np.r_[20:30, 50:60]}
    assert unmeasurable(law, ("no", "yes"), np.arange(60) % 19, sides).startswith("19 groups where 20 are needed")
    assert unmeasurable(law, ("no", "yes"), np.arange(60) % 20, sides) == ""


def test_more_than_two_classes_and_soft_laws_count_otherwise():
    law = law_of([30, 30, 2])
    sides = {"fit": np.arange(31), "test": np.arange(31, 62)}
    assert unmeasurable(law, ("a", "b", "c"), np.arange(62), sides) == ""
    soft = np.tile(np.array([[0.95, 0.05]], np.float32), (400, 1))
    assert unmeasurable(soft, ("a", "b"), np.arange(400), {"fit": np.arange(200)}) == ""
    assert "'b' has 5" in unmeasurable(soft, ("a", "b"), np.arange(400), {"fit": np.arange(100)})
