"""Feedback: a chain of XOR, whose answers all hang on the one that is edited; and one that has no memory."""

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.feedback import feedback_leak
from probekit.metrics.ratios import estimates


def found(answers, free, forced, start):
    ratio = feedback_leak(answers, free, forced, start)
    return estimates([ratio], Clusters.of(np.arange(len(answers)), 300, 0))[0]


def generated(n, length, start, memory):
    """Answers of x_t XOR memory * answer before, without the edit, free and forced."""
    x = np.random.default_rng(0).integers(0, 2, (n, length))
    answers, free, forced = (np.zeros((n, length), int) for _ in range(3))
    for t in range(length):
        for given, inputs in ((answers, answers), (free, free), (forced, answers)):
            before = inputs[:, t - 1] if t and memory else 0
            given[:, t] = before ^ x[:, t] ^ (given is not answers and t == start)
    return answers, free, forced


@pytest.mark.parametrize(("length", "start"), [(12, 4), (16, 2), (5, 4)])
def test_a_chain_of_xor(length, start):
    estimate = found(*generated(50, length, start, memory=True), start)
    assert estimate.value == pytest.approx(1 - 1 / (length - start))
    assert (estimate.low, estimate.high) == pytest.approx((estimate.value, estimate.value))


def test_without_memory_forcing_loses_nothing():
    assert found(*generated(50, 8, 3, memory=False), 3).value == 0


def test_an_edit_that_changes_nothing_is_na():
    answers = generated(50, 8, 3, memory=True)[0]
    assert found(answers, answers, answers, 3).na_reason == "small_denominator"


def test_a_mistake_is_one_sentence():
    with pytest.raises(BadInput, match=r"alike; found \[2, 3\], \[2, 3\], \[2, 4\]"):
        feedback_leak(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 4)), 0)
    with pytest.raises(BadInput, match="one of 3 generated places; found 3"):
        feedback_leak(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)), 3)
