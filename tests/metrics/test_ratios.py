"""Ratios: metrics from losses and laws whose answers are known."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Estimate, Ratio, difference, estimates, fbu, share, transfer


def single(n: int) -> Clusters:
    return Clusters.of(np.arange(n), 300, 0)


def made(ratio: Ratio, clusters: Clusters | None = None) -> Estimate:
    """One estimate; every row is its own group unless clusters say otherwise."""
    return estimates([ratio], clusters or single(len(ratio.missed)))[0]


def constant(value: float, n: int = 40) -> np.ndarray:
    return np.full(n, value)


losses = st.integers(1, 5).flatmap(lambda m: arrays(float, (m + 2, 24), elements=st.floats(0, 8)))


@pytest.mark.parametrize(
    ("bits", "floor", "ceiling", "value"),
    [(0.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 1.0), (0.5, 1.0, 0.2, 0.375), (3.0, 1.5, 0.5, 2.5), (0.4, 1.0, 0.5, -0.2)],
)
def test_fbu_by_hand_and_never_clipped(bits, floor, ceiling, value):
    estimate = made(fbu(constant(bits), constant(floor), constant(ceiling)))
    assert estimate.value == pytest.approx(value)
    assert (estimate.low, estimate.high) == pytest.approx((value, value))
    assert (estimate.bits, estimate.floor_bits, estimate.ceiling_bits) == pytest.approx((bits, floor, ceiling))
    assert estimate.p99_bits == pytest.approx(bits - ceiling)
    assert (estimate.n, estimate.groups, estimate.na_reason, estimate.note) == (40, 40, "", "")


def test_fbu_is_the_ratio_of_means_not_the_mean_of_ratios():
    floor = np.tile([0.1, 2.0], 30)
    bits = np.tile([0.2, 1.0], 30)
    estimate = made(fbu(bits, floor, np.zeros(60)))
    assert estimate.value == pytest.approx(1.2 / 2.1)
    assert np.mean(bits / floor) == pytest.approx(1.25)


def test_noisy_behaviour_is_scored_against_its_own_entropy():
    """P19: B ~ Bernoulli(.9) or (.1) by s1. The reader that knows s1 misses nothing; without a ceiling .469 remains."""
    rng = np.random.default_rng(0)
    s = rng.integers(0, 2, 400)
    p = np.where(s, 0.9, 0.1)
    law = np.stack([p, 1 - p], 1)
    ceiling = -(law * np.log2(law)).sum(1)
    floor = -(law * np.log2(law.mean(0))).sum(1)
    estimate = made(fbu(ceiling, floor, ceiling))
    assert estimate.ceiling_bits == pytest.approx(0.469, abs=1e-3)
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert made(fbu(ceiling, floor, np.zeros(400))).value == pytest.approx(0.469, abs=5e-3)


def test_na_below_a_two_hundredth_of_a_bit():
    assert made(fbu(constant(0.2), constant(0.2049), constant(0.2))).na_reason == "small_denominator"
    assert made(fbu(constant(0.2), constant(0.2051), constant(0.2))).na_reason == ""
    na = made(fbu(constant(0.9), constant(0.204), constant(0.2)))
    assert (na.value, na.low, na.high) == (None, None, None)
    assert (na.bits, na.floor_bits, na.p99_bits) == pytest.approx((0.9, 0.204, 0.7))
    assert made(fbu(constant(0.2), constant(0.1), constant(0.2))).na_reason == "small_denominator"


def test_na_where_what_is_to_explain_is_not_known_to_a_quarter_of_itself():
    """A denominator of .1 bit from few noisy groups may be nothing at all; from many it can be divided by."""
    rng = np.random.default_rng(0)
    for n, reason in ((60, "small_denominator"), (6_000, "")):
        gain = rng.normal(0.1, 1.0, n)
        estimate = made(fbu(np.zeros(n), gain - gain.mean() + 0.1, np.zeros(n)))
        assert estimate.na_reason == reason
        assert ("standard error 0.1" in estimate.note) == bool(reason)


def test_tail_and_worst_group_show_what_the_mean_hides():
    missed = np.zeros(1000)
    missed[:20] = 5.0
    group = np.repeat(np.arange(50), 20)
    estimate = made(Ratio(missed, np.ones(1000)), Clusters.of(group, 500, 0))
    assert estimate.value == pytest.approx(0.1)
    assert estimate.p99_bits == 5.0
    assert estimate.worst_group == 5.0
    assert estimate.high > 0.2
    few = made(Ratio(missed, np.ones(1000)), Clusters.of(np.repeat(np.arange(10), 100), 500, 0))
    assert "fewer than 20 clusters" in few.note


def test_interval_can_be_recomputed_from_the_group_sums():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(30), 4)
    missed, available = rng.random(120), 1 + rng.random(120)
    estimate = made(Ratio(missed, available), Clusters.of(group, 500, 0))
    assert estimate.numerator.sum() / estimate.denominator.sum() == pytest.approx(estimate.value)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.numerator[7] == pytest.approx(missed[group == 7].sum())


def test_ratios_that_are_resampled_together_are_those_of_each_alone():
    """NA among them too; and the rows can be thrown away as soon as they were seen."""
    rng = np.random.default_rng(12)
    clusters = Clusters.of(rng.integers(0, 50, 600), 500, 0)
    floor, ceiling, reader = 1 + rng.random(600), 0.2 * rng.random(600), rng.random(600)
    ratios = [
        fbu(reader, floor, ceiling), fbu(floor, floor, ceiling), share(floor, reader, floor, ceiling),
        share(reader, floor, floor, ceiling), transfer(floor, floor, floor, ceiling), difference(reader, floor),
    ]  # fmt: skip
    together = estimates(iter(ratios), clusters)
    for ratio, found in zip(ratios, together, strict=True):
        for name, alone in asdict(made(ratio, clusters)).items():
            close = pytest.approx(alone, rel=1e-12, abs=1e-12) if isinstance(alone, float) else alone
            assert np.array_equal(getattr(found, name), alone) or getattr(found, name) == close, name
    assert [e.na_reason for e in together] == ["", "", "", "", "absent_in_test_domain", ""]
    assert ["negative" in e.note for e in together] == [False, False, False, True, False, False]
    assert (together[1].value, together[1].low, together[1].high) == (1, 1, 1)
    assert estimates([], clusters) == []


@given(losses)
def test_shares_telescope_to_one(ladder):
    floor, *bits, ceiling = ladder
    floor = floor + ceiling + 2.0  # much, and about as much in every group
    steps = pairwise([floor, *bits, ceiling])
    found = estimates([share(before, after, floor, ceiling) for before, after in steps], single(24))
    assert len(found) == len(bits) + 1
    assert sum(part.value for part in found) == pytest.approx(1, abs=1e-9)
    assert found[-1].value == pytest.approx(made(fbu(bits[-1], floor, ceiling)).value, abs=1e-12)


def test_a_share_that_misleads_is_kept_negative_and_flagged():
    rng = np.random.default_rng(2)
    floor = 1 + 0.1 * rng.random(100)
    ladder, none = [floor, floor - 0.4, floor - 0.2, np.zeros(100)], np.zeros(100)
    steps = [share(before, after, floor, none) for before, after in pairwise(ladder)]
    first, second, third = estimates(steps, single(100))
    assert first.note == third.note == ""
    assert second.value == pytest.approx(-0.19, abs=0.01)
    assert "negative beyond 2 SE" in second.note
    wobble = rng.normal(size=100)
    unsure = made(share(floor, floor + 0.01 * (wobble - wobble.mean()) + 1e-6, floor, none))
    assert unsure.value < 0
    assert unsure.note == ""


def test_transfer_by_hand():
    floor, ceiling, direct = constant(1.0), constant(0.0), constant(0.2)
    assert made(transfer(direct, direct, floor, ceiling)).value == 0
    assert made(transfer(floor, direct, floor, ceiling)).value == pytest.approx(1)
    assert made(transfer(constant(2.0), direct, floor, ceiling)).value == pytest.approx(2.25)
    half = made(transfer(constant(0.6), direct, floor, ceiling))
    assert half.value == pytest.approx(0.5)
    assert (half.bits, half.floor_bits, half.ceiling_bits) == pytest.approx((0.6, 1.0, 0.0))


def test_what_is_absent_in_the_test_domain_does_not_transfer_well_or_badly():
    """P4b: the direct fit finds nothing in B; a ratio there would be noise over noise."""
    absent = made(transfer(constant(1.4), constant(0.997), constant(1.0), constant(0.0)))
    assert absent.na_reason == "absent_in_test_domain"
    assert absent.value is None
    # not even when the direct fit overfits below its floor
    assert made(transfer(constant(1.4), constant(1.1), constant(1.0), constant(0.0))).value is None


def test_difference_is_in_bits_with_its_interval():
    rng = np.random.default_rng(8)
    first, second = rng.random(200), rng.random(200) + 0.3
    estimate = made(difference(first, second))
    assert estimate.value == pytest.approx((first - second).mean())
    assert estimate.low < estimate.value < estimate.high < 0
