"""A predictor of where a model errs: finds what its description has, and nothing where it has nothing."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probekit.errors import BadInput
from probekit.fit.badness import Predictor

RNG = np.random.default_rng(1)


def drawn(n):
    x = RNG.normal(size=(n, 4))
    return x, (x[:, 0] > 0.5) & (x[:, 1] > 0.5)


def test_it_finds_what_the_description_has_and_is_frozen():
    (x, bad), (there, truth) = drawn(1_500), drawn(800)
    predictor = Predictor.fit(x, bad, np.arange(1_500))
    assert predictor.kind == "boosted trees" and predictor.n_bad == bad.sum()
    assert roc_auc_score(truth, predictor.scores(there)) > 0.98
    assert Predictor.fit(x, bad, np.arange(1_500)).digest == predictor.digest
    assert Predictor.fit(x, ~bad, np.arange(1_500)).digest != predictor.digest


def test_a_group_that_is_known_by_heart_does_not_choose_the_predictor():
    """Bad per group at random, the group's number beside it: what is right in sample is chance on new groups."""
    group = np.repeat(np.arange(60), 20)
    bad = (RNG.random(60) < 0.3)[group]
    x = np.column_stack([group, RNG.normal(size=1_200)])
    predictor = Predictor.fit(x, bad, group)
    new = np.column_stack([RNG.integers(0, 60, 500) + 0.5, RNG.normal(size=500)])
    assert roc_auc_score(RNG.random(500) < 0.3, predictor.scores(new)) < 0.65


def test_too_little_to_learn_from_is_one_sentence():
    x, _ = drawn(100)
    with pytest.raises(BadInput, match="learned from 8 bad rows"):
        Predictor.fit(x, np.arange(100) < 5, np.arange(100))
    with pytest.raises(BadInput, match="one row of numbers per answer"):
        Predictor.fit(x[:50], np.arange(100) < 50, np.arange(100))
