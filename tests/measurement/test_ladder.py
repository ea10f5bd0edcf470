"""Leaps of a stack whose every loss is known: noise that compounds, errors that cancel, and what the product says."""

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.measurement.ladder import Rung, ladder
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ladder import leaps
from probekit.metrics.splits import split_by_group

N = 8_000
RNG = np.random.default_rng(0)


def entropy(e):
    return float(-(e * np.log2(e) + (1 - e) * np.log2(1 - e)))


def noisy(e):
    """What a leap tells that errs with probability e."""
    return lambda below: below @ np.array([[1 - e, e], [e, 1 - e]])


def one_hot(bit):
    return np.eye(2)[bit.astype(int)][:, None]


def climbed(bits, e, **more):
    rungs = [Rung(f"rung {i}", one_hot(bit), noisy(e) if i else None) for i, bit in enumerate(bits)]
    return ladder(rungs, np.arange(N), split_by_group(np.arange(N), 0), n_bootstrap=400, **more).leaps


@pytest.mark.parametrize("e", [0.02, 0.1])
def test_noise_compounds_as_it_must(e):
    """Three leaps that each turn the bit with probability e: (1 - (1 - 2 e)^m) / 2 over m leaps."""
    bits = [RNG.random(N) < 0.5]
    for _ in range(3):
        bits.append(bits[-1] ^ (RNG.random(N) < e))
    told = climbed(bits, e)
    for (i, j), found in told.left.items():
        exact = entropy((1 - (1 - 2 * e) ** (j - i)) / 2)
        assert found.value == pytest.approx(exact, abs=0.06) and found.low - 0.02 <= exact <= found.high + 0.02
    product = 1 - (1 - entropy(e)) ** 3
    assert told.compounded[0, 3].value == pytest.approx(product, abs=0.06)
    added = sum(told.left[k, k + 1].value for k in range(3))  # the naive way: losses added up
    assert e < 0.05 or abs(added - entropy((1 - (1 - 2 * e) ** 3) / 2)) > 0.2


def test_errors_that_cancel_are_seen_over_two_leaps_and_not_by_the_product():
    """The second leap turns back what the first one turned: told by the stack, the bit is right in 82 % of its
    confidence, though each leap loses .469."""
    bit, turned = RNG.random(N) < 0.5, RNG.random(N) < 0.1
    told = climbed([bit, bit ^ turned, bit], 0.1)
    assert told.left[0, 2].value == pytest.approx(-np.log2(0.82), abs=0.02)
    assert told.compounded[0, 2].value == pytest.approx(1 - (1 - entropy(0.1)) ** 2, abs=0.06)
    assert told.excess[0, 2].high < -0.2


def test_a_site_is_the_lowest_rung_and_a_sure_error_leaves_the_floor():
    bit = RNG.random(N) < 0.5
    read = one_hot(bit ^ (RNG.random(N) < 0.1))  # sure of itself, and wrong in a tenth of the rows
    told = climbed([bit, bit], 0.0, read=read)
    assert told.left[1, 2].value == pytest.approx(0, abs=0.01)
    # the best mixture of a sure law with an even floor: eps / 2 = .1
    assert (
        told.left[0, 1].value == pytest.approx(entropy(0.1), abs=0.06) == pytest.approx(told.left[0, 2].value, abs=0.1)
    )


def test_a_leap_that_is_not_there_is_refused():
    one = np.ones(50)
    with pytest.raises(BadInput, match="is missing"):
        leaps({(0, 2): one}, {2: (one, 0 * one)}, Clusters.of(np.arange(50), 100, 0))
    law = one_hot(np.arange(50) % 2 > 0)
    split = split_by_group(np.arange(50), 0)
    with pytest.raises(BadInput, match="needs two rungs"):
        ladder([Rung("a", law)], np.arange(50), split)
    with pytest.raises(BadInput, match="is told as"):
        ladder([Rung("a", law), Rung("b", law, lambda below: below[:, :, :1])], np.arange(50), split)


def test_nothing_to_tell_is_no_number():
    law = np.tile([[[1.0, 0.0]]], (200, 1, 1))
    found = ladder([Rung("a", law), Rung("b", law, lambda x: x), Rung("c", law, lambda x: x)], np.arange(200),
                   split_by_group(np.arange(200), 0), n_bootstrap=100)  # fmt: skip
    assert {one.na_reason for one in found.leaps.left.values()} == {"small_denominator"}
    assert found.leaps.excess[0, 2].na_reason == "small_denominator"
