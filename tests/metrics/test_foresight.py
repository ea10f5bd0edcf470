"""Foresight: rankings at a budget against brute force, scikit-learn and rankings whose worth is known."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.foresight import foresight, random_average

RNG = np.random.default_rng(0)


def told(scores, bad, group=None, budget=0.1, n_bootstrap=400):
    return foresight(scores, bad, Clusters.of(np.arange(len(bad)) if group is None else group, n_bootstrap, 0), budget)


def test_a_perfect_ranking_leaks_nothing_and_its_reverse_misleads():
    bad = np.arange(400) % 10 == 0
    found = told({"knows": bad * 1.0, "equal": np.ones(400), "wrong": -1.0 * bad}, bad)
    values = {name: {m: one.value for m, one in row.items()} for name, row in found.rankings.items()}
    assert values["knows"] == pytest.approx({"precision": 1, "recall": 1, "lift": 10, "average": 1, "leak": 0})
    assert values["equal"] == pytest.approx(found.random | {"average": 0.1})
    assert values["wrong"]["precision"] == 0 and values["wrong"]["leak"] == pytest.approx(1 / 9 + 1)


def test_average_precision_is_scikit_learns_and_ties_are_the_mean_over_orders():
    bad = RNG.random(300) < 0.15
    score = np.round(RNG.normal(size=300) + bad, 1)
    found = told({"a": score}, bad, budget=0.2).rankings["a"]
    assert found["average"].value == pytest.approx(average_precision_score(bad, score))
    orders = [np.argsort(-(score + 1e-6 * np.random.default_rng(i).random(300)))[:60] for i in range(4_000)]
    assert found["precision"].value == pytest.approx(np.mean([bad[top].mean() for top in orders]), abs=2e-3)


def test_chance_by_enumeration():
    for n, k in ((5, 2), (6, 1), (4, 4)):
        places = list(itertools.combinations(range(n), k))
        exact = np.mean([np.mean([(i + 1) / (at + 1) for i, at in enumerate(one)]) for one in places])
        assert random_average(n, k) == pytest.approx(exact)


def test_too_few_bad_rows_have_no_number():
    found = told({"a": RNG.random(200)}, np.arange(200) < 7)
    assert {one.na_reason for one in found.rankings["a"].values()} == {"too_few_rows"}
    assert "7 bad rows of 200" in found.rankings["a"]["recall"].note and not found.less


def test_a_difference_is_paired():
    """Two rankings alike but for a few rows: the interval of their difference is far narrower than either's."""
    bad = RNG.random(2_000) < 0.1
    one = RNG.normal(size=2_000) + 1.5 * bad
    other = one + 0.05 * RNG.normal(size=2_000)
    found = told({"one": one, "other": other}, bad)
    alone, both = found.rankings["one"]["precision"], found.less["one", "other"]["precision"]
    assert both.value == pytest.approx(alone.value - found.rankings["other"]["precision"].value)
    assert both.high - both.low < (alone.high - alone.low) / 2
    assert found.less["other", "one"]["recall"].value == pytest.approx(-found.less["one", "other"]["recall"].value)


def test_intervals_cover_where_rows_share_groups():
    """40 groups whose rows are bad together: intervals over groups cover; over rows, the naive way, they do not."""
    of_groups = of_rows = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(40), 25)
        feature = rng.normal(size=40)[group]
        bad = rng.random(1_000) < np.where(rng.random(40)[group] < 0.5, 0.02, 0.4)
        score = feature + 0.3 * rng.normal(size=1_000)  # knows nothing: precision is the base rate, .21
        by_group, by_row = (told({"a": score}, bad, g, 0.2, 300).rankings["a"]["precision"] for g in (group, None))
        of_groups += by_group.low <= 0.21 <= by_group.high
        of_rows += by_row.low <= 0.21 <= by_row.high
    assert of_groups >= 51 and of_rows <= 48


def test_what_is_no_ranking_is_refused():
    bad = np.arange(50) < 10
    with pytest.raises(BadInput, match="finite score for each of the 50 rows"):
        told({"a": np.full(50, np.nan)}, bad)
    with pytest.raises(BadInput, match="a budget is a share"):
        told({"a": np.ones(50)}, bad, budget=1.0)
