"""Which classes can be told: pools, and what refuses a cell."""

import numpy as np
import pytest

from probekit.metrics.classes import (
    LEAST_ROWS,
    is_certain,
    pool_rare,
    pooled,
    splits_with_classes,
    unmeasurable,
    unseen,
)
from probekit.metrics.splits import splits_by_group


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


def test_the_rarest_joins_a_pool_that_fit_rows_hardly_have():
    """Alone, a class that no fit row has would be said by the prior, a constant."""
    law = law_of([40, 20, 30, 25])
    place, n_pooled = pool_rare(law, [np.arange(92)])  # two rows of the last class
    assert n_pooled == 2 and place.tolist() == [0, 2, 1, 2]
    place, n_pooled = pool_rare(law, [np.r_[0:40, 60:90], np.arange(115)])  # none of the second and the last
    assert n_pooled == 3 and place.tolist() == [0, 1, 1, 1]
    place, n_pooled = pool_rare(law_of([40, 20, 20]), [np.arange(40)])
    assert n_pooled == 2 and place.tolist() == [0, 1, 1], "two classes are left, of which one is told to be rare"


def test_a_class_of_other_domains_alone_pools_nothing_here():
    law = law_of([40, 30, 50])
    assert pool_rare(law, [np.arange(70)], np.arange(70))[1] == 0


def test_an_outcome_of_a_soft_law_that_fit_rows_never_show_is_pooled():
    law = np.tile(np.array([[0.6, 0.3, 0.1, 0.0]], np.float32), (60, 1))
    assert pool_rare(law, [np.arange(40)])[1] == 0, "a tenth of each row is known, and what no row shows is nothing"
    law[40:] = [0.1, 0.3, 0.0, 0.6]
    place, n_pooled = pool_rare(law, [np.arange(40)])
    assert n_pooled == 2 and place.tolist() == [0, 1, 2, 2]


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


def test_a_class_of_test_rows_that_no_fit_row_has_is_named_with_both_sides():
    law, sides = law_of([30, 30, 9]), {"fit": np.arange(31), "test": np.arange(31, 69)}
    told = unmeasurable(law, ("a", "b", "c"), np.arange(69), sides)
    assert told.startswith("'c' has 0 of 31 fit rows and 9 of 38 test rows")
    assert unmeasurable(law, ("a", "b", "c"), np.arange(69), sides | {"test": np.arange(31, 67)}) == "", "seven rows"
    assert unseen(law[:31], law[31:61], ("a", "b", "c")) and not unseen(law[:31], law[31:60], ("a", "b", "c"))


def test_splits_are_drawn_anew_only_for_a_class_that_is_short_by_mischance():
    """Twenty rows of a class in five groups of four: of some draws a fit side has four of them, of others all."""
    group = np.arange(400) // 4
    law = law_of([190, 190, 20])[:, [2, 0, 1]]
    redrawn = 0
    for seed in range(20):
        plain, found = splits_by_group(group, seed), splits_with_classes(group, [law], seed)
        short = law[plain[0].fit].sum(0).min() < LEAST_ROWS
        assert law[found[0].fit].sum(0).min() >= LEAST_ROWS
        assert short or np.array_equal(found[0].fit, plain[0].fit)
        redrawn += short
    assert 0 < redrawn < 20


@pytest.mark.parametrize("law", [law_of([200, 200]), law_of([398, 2]), np.full((400, 2), 0.5)])
def test_other_splits_are_those_of_the_seed(law):
    for outer in (1, 5):
        plain, found = (
            splits_by_group(np.arange(400), 3, outer, 3),
            splits_with_classes(np.arange(400), [law], 3, outer, 3),
        )
        assert all(np.array_equal(a.fit, b.fit) for a, b in zip(plain, found, strict=True))
