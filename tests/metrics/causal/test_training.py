"""Compute-equivalent: a power law whose share at a loss is known, and curves that are no such thing."""

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.training import TrainingCurve, compute_equivalent

COMPUTE = np.geomspace(1e3, 1e9, 400)


def loss_of(compute):
    return 1.5 + 40 * compute**-0.3


CURVE = TrainingCurve.of(COMPUTE, loss_of(COMPUTE))


@pytest.mark.parametrize("share", [1e-5, 1e-3, 0.07, 0.5, 1.0])
def test_the_share_is_the_power_law_s(share):
    assert CURVE.share(float(loss_of(share * COMPUTE[-1]))) == pytest.approx(share, rel=2e-3)


def test_few_checkpoints_are_joined_along_the_logarithm_of_compute():
    few = TrainingCurve.of(np.array([100.0, 1.0, 10.0]), np.array([1.0, 3.0, 2.0]))  # in any order
    assert few.share(2.5) == pytest.approx(10**0.5 / 100) and few.share(1.0) == 1 and few.share(3.0) == 0.01
    assert TrainingCurve.of(np.array([0.0, 10.0]), np.array([3.0, 1.0])).share(2.0) == pytest.approx(0.5)


def test_a_loss_that_rises_again_was_reached_when_it_was_first_reached():
    bumpy = TrainingCurve.of(np.array([1.0, 10.0, 100.0, 1000.0]), np.array([4.0, 2.0, 3.0, 1.0]))
    assert bumpy.envelope.tolist() == [4.0, 2.0, 2.0, 1.0]
    assert bumpy.share(3.0) == pytest.approx(10**0.5 / 1000) and bumpy.share(2.0) == pytest.approx(0.01)
    assert bumpy.share(1.5) == pytest.approx(10**2.5 / 1000)
    flat = TrainingCurve.of(np.array([1.0, 2.0, 4.0]), np.array([2.0, 1.0, 1.5]))  # the best one was not the last
    assert flat.share(1.0) == 0.5 and np.isnan(flat.share(0.9)) and np.isnan(flat.share(2.1))


def test_what_an_edit_loses_is_read_off_the_curve_with_its_interval():
    group = np.repeat(np.arange(200), 5)
    true = float(loss_of(0.02 * COMPUTE[-1]) - loss_of(COMPUTE[-1]))
    inside = 0
    for seed in range(40):
        lost = np.random.default_rng(seed).gamma(2.0, true / 2, 1000)
        found = compute_equivalent(CURVE, lost, Clusters.of(group, 300, seed))
        assert found.low < found.value < found.high and found.bits == pytest.approx(lost.mean())
        inside += found.low <= 0.02 <= found.high
    assert inside >= 34  # 95 % of 40 is 38
    nothing = compute_equivalent(CURVE, np.zeros(1000), Clusters.of(group, 300, 0))
    assert (nothing.value, nothing.low, nothing.high) == pytest.approx((1.0, 1.0, 1.0))


def test_beyond_the_curve_nothing_is_told():
    clusters = Clusters.of(np.arange(50), 200, 0)
    worse, better = (compute_equivalent(CURVE, np.full(50, lost), clusters) for lost in (1e3, -0.5))
    assert worse.na_reason == better.na_reason == "not_defined"
    assert "it loses 1e+03 bits, and the first checkpoint" in worse.note and "it gains 0.5 bits" in better.note
    near = float(loss_of(COMPUTE[0]) - loss_of(COMPUTE[-1]))
    wide = compute_equivalent(CURVE, np.tile([0.6 * near, 1.39 * near], 25), clusters)
    assert wide.low == pytest.approx(1e-6) and wide.note == "an end of the interval is the curve's own"


@pytest.mark.parametrize(("compute", "loss", "said"), [
    ([1.0], [2.0], "two or more"), ([1.0, 2.0], [2.0], "two or more"), ([1.0, np.nan], [2.0, 1.0], "has numbers"),
    ([-1.0, 2.0], [2.0, 1.0], "no compute below 0"), ([1.0, 1.0], [2.0, 1.0], "names a compute twice"),
])  # fmt: skip
def test_what_is_no_curve_is_refused(compute, loss, said):
    with pytest.raises(BadInput, match=said):
        TrainingCurve.of(np.array(compute), np.array(loss))
