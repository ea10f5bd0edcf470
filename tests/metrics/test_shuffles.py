"""The permuted control: in small groups neither what inverts the labels nor what leaves them where they were."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from probekit.metrics.permutations import permute_within


def derangement_of_pairs(n):
    """What was done before: each row takes the activation of the other member of its pair."""
    return np.arange(n).reshape(-1, 2)[:, ::-1].ravel()


def told(x, label, permutation):
    """Bits that a linear reader of the permuted activations leaves of one bit, fitted on one half of the pairs."""
    half = len(label) // 2
    moved = x[permutation]
    fitted = LogisticRegression(C=0.1).fit(moved[:half], label[:half])
    return log_loss(label[half:], fitted.predict_proba(moved[half:])) / np.log(2)


def test_a_contrast_pair_tells_nothing_once_permuted_and_all_once_deranged():
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 600)
    x = (2 * label - 1)[:, None] * np.ones(6) + rng.normal(size=(1200, 6))
    permutation, within = permute_within(np.arange(1200) // 2, 0)
    assert within
    assert told(x, label, np.arange(1200)) < 0.1
    assert told(x, label, derangement_of_pairs(1200)) < 0.1, "the naive control must fail, or this shows nothing"
    assert told(x, label, permutation) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_labels_drawn_alone_in_small_groups_are_gone_too(size):
    """A uniform shuffle inside groups of m would leave one row of m in place, and with it a part of the signal."""
    rng = np.random.default_rng(size)
    n = 1200 * size
    label, group = rng.integers(0, 2, n), np.arange(n) // size
    x = (2 * label - 1)[:, None] * np.ones(6) + rng.normal(size=(n, 6))
    inside = np.argsort(group + rng.random(n))  # the naive control: uniform, and never across groups
    assert told(x, label, inside) < 0.99
    permutation, _ = permute_within(group, 1)
    assert 0.998 < told(x, label, permutation) < 1.03  # what six coordinates of noise cost


def test_large_groups_keep_their_rows_and_nothing_is_lost():
    group = np.repeat(np.arange(20), 12)
    permutation, within = permute_within(group, 0)
    assert within and sorted(permutation) == list(range(240))
    assert (group[permutation] == group).all() and (permutation != np.arange(240)).mean() > 0.8
    alone, within = permute_within(np.arange(50), 0)
    assert not within and sorted(alone) == list(range(50)) and (alone != np.arange(50)).any()
