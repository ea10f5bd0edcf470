"""Plausible but incorrect: known answers, and what confidence or consistency alone would have said."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from probekit.metrics.plausible import answered, rate


def law_of(truth):
    return np.eye(2)[truth]


def statements(n, misled=0.3, seed=0):
    """n pairs of a statement and its negation: a reader that follows a salient distractor in some of them.

    Of those it says the contrary of both, as sure as of the others: consistent, confident and wrong. One in five pairs
    it is unsure of, and answers both alike.
    """
    draw = np.random.default_rng(seed)
    truth = np.stack([first := draw.integers(0, 2, n), 1 - first], 1)
    kind = draw.random(n)
    flipped, unsure = kind < misled, kind > 0.8
    said = np.where(flipped[:, None], 1 - truth, truth)
    said[unsure] = 1
    confidence = np.where(unsure[:, None], 0.55, 0.9) + 0.05 * draw.random((n, 2))
    return confidence.ravel(), said.ravel(), truth.ravel(), np.repeat(np.arange(n), 2), flipped.repeat(2)


def test_the_share_that_was_planted_is_found():
    confidence, said, truth, pair, flipped = statements(4_000)
    everywhere = np.ones(len(said), bool)
    found = answered(confidence, said, law_of(truth), pair // 4, everywhere, pair)
    assert found.with_what == "pair" and found.asked.all()
    assert found.confident.mean() == pytest.approx(0.2, abs=0.001)
    assert (found.plausible == (flipped & found.confident)).all()
    told = rate(found.plausible, pair // 4, 500, 0)
    # The top fifth is drawn from the four in five that are sure, of which three in eight are misled.
    assert told.low < 0.2 * 3 / 8 < told.high and told.groups == 1_000


def test_consistency_or_confidence_alone_says_nothing_of_it():
    """A reader that always says the contrary is perfectly consistent; one that is always unsure answers both alike."""
    confidence, said, truth, pair, _ = statements(1_000, misled=0.0)
    everywhere = np.ones(len(said), bool)
    right = answered(confidence, said, law_of(truth), pair, everywhere, pair)
    contrary = answered(confidence, 1 - said, law_of(truth), pair, everywhere, pair)
    assert (right.consistent == contrary.consistent).all(), "which column of consistency is right cannot be told"
    assert right.plausible.sum() == 0 and contrary.plausible.sum() == contrary.confident.sum() > 300
    unsure = confidence < 0.6
    assert not right.consistent[unsure].any() and right.consistent[~unsure].all()
    # Wrong in one row of each such pair: without the pairs these are counted as if they were answers of one mind.
    alone = answered(np.ones(len(said)), said, law_of(truth), np.arange(len(said)), everywhere)
    assert alone.with_what == "none" and alone.plausible.sum() == (unsure & (said != truth)).sum() > 0


def test_rows_of_a_group_that_should_be_answered_alike():
    truth = np.array([0, 0, 1, 0, 0, 1, 1, 1])
    said = np.array([1, 1, 1, 0, 1, 0, 0, 1])
    group = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    found = answered(np.ones(8), said, law_of(truth), group, np.ones(8, bool))
    assert found.with_what == "group"
    assert found.asked.tolist() == [True, True, False, True, True, True, True, False]
    assert found.consistent[:7].tolist() == [True, True, True, False, False, True, True]
    assert found.plausible.tolist() == [True, True, False, False, False, True, True, False]


def test_confident_elsewhere_is_what_was_confident_at_home():
    confidence = np.concatenate([np.linspace(0.5, 0.9, 101), np.full(50, 0.89)])
    home = np.arange(151) < 101
    found = answered(confidence, np.zeros(151, int), law_of(np.zeros(151, int)), np.arange(151), home)
    assert found.confident[home].mean() == pytest.approx(0.2, abs=0.01) and found.confident[~home].all()


def test_a_rate_of_nothing_has_an_upper_limit():
    told = rate(np.zeros(90, bool), np.arange(90) // 3, 200, 0)
    assert (told.value, told.low, told.n, told.groups) == (0.0, 0.0, 90, 30)
    assert told.high == pytest.approx(proportion_confint(0, 30, method="beta")[1])
    one = rate(np.arange(90) < 9, np.arange(90) // 3, 500, 0)
    assert 0 < one.low < 0.1 < one.high < 0.3


def test_one_of_several_moves_that_are_as_good_is_not_wrong():
    """By the likeliest outcome alone half of such answers would be."""
    law = np.array([[0.5, 0.5, 0.0], [0.45, 0.55, 0.0], [0.9, 0.1, 0.0], [0.0, 0.4, 0.6]])
    said = np.array([1, 0, 1, 0])
    found = answered(np.ones(4), said, law, np.arange(4), np.ones(4, bool))
    assert (said != law.argmax(1)).all() and found.wrong.tolist() == [False, False, True, True]
