"""The metrics as formulas: values computed by hand, and the cases that a simpler formula gets wrong."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy as nats

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Estimate, Ratio, difference, estimates, fbu, share, transfer
from probekit.metrics.replace import fbu_replace, kl_bits, match_donors, mixture_kl, random_donors


def single(n: int) -> Clusters:
    return Clusters.of(np.arange(n), 300, 0)


def made(ratio: Ratio, clusters: Clusters | None = None) -> Estimate:
    """One estimate; every row is its own group unless clusters say otherwise."""
    return estimates([ratio], clusters or single(len(ratio.missed)))[0]


def constant(value: float, n: int = 40) -> np.ndarray:
    return np.full(n, value)


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


losses = st.integers(1, 5).flatmap(lambda m: arrays(float, (m + 2, 24), elements=st.floats(0, 8)))


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


def dirichlet(rng, *shape, k=4):
    return rng.dirichlet(np.ones(k), shape)


def test_kl_agrees_with_scipy():
    rng = np.random.default_rng(3)
    p, q = dirichlet(rng, 50), dirichlet(rng, 50)
    assert kl_bits(p, q) == pytest.approx(nats(p, q, base=2, axis=1))
    assert kl_bits(np.eye(3), np.eye(3)).tolist() == [0, 0, 0]
    assert kl_bits(np.array([[1.0, 0]]), np.array([[0.25, 0.75]])).tolist() == [2]


def test_keeping_nothing_costs_kl_to_the_mean_law_and_the_bias_is_removed():
    rng = np.random.default_rng(4)
    law = dirichlet(rng, 4000, k=3) * 0.8 + 0.2 / 3
    truth = float(kl_bits(law, law.mean(0)).mean())
    donors = rng.integers(0, 4000, (4000, 16))
    naive = float(kl_bits(law, law[donors].mean(1)).mean())
    ours = float(mixture_kl(law, law[donors]).mean())
    assert naive - truth > 0.01
    assert abs(ours - truth) < (naive - truth) / 5


def test_an_edit_that_changes_nothing_costs_nothing():
    rng = np.random.default_rng(5)
    law = dirichlet(rng, 60)
    edited = np.repeat(law[:, None], 16, 1)
    assert np.abs(mixture_kl(law, edited)).max() < 1e-12
    mixed, per_donor = map(made, fbu_replace(law, edited, np.ones(60), np.zeros(60)))
    assert (mixed.value, per_donor.value) == pytest.approx((0, 0))
    hard = np.eye(4)[rng.integers(0, 4, 60)]
    assert np.abs(mixture_kl(hard, np.repeat(hard[:, None], 16, 1))).max() == 0


def test_errors_that_cancel_in_the_mixture_show_per_donor():
    """P17: half of the donors push the law up, half down; their mean is the law itself."""
    law = np.full((80, 2), 0.5)
    push = np.where(np.arange(16) % 2, 0.4, -0.4)
    edited = np.repeat(np.stack([0.5 + push, 0.5 - push], 1)[None], 80, 0)
    mixed, per_donor = map(made, fbu_replace(law, edited, np.ones(80), np.zeros(80)))
    # Donors dealt out evenly are better than chance, which is taken for luck.
    assert mixed.value == pytest.approx(0, abs=0.05)
    assert per_donor.value == pytest.approx(float(nats([0.5, 0.5], [0.9, 0.1], base=2)))


def test_matched_donors_are_the_nearest_and_never_of_the_same_group():
    rng = np.random.default_rng(6)
    values, pool = rng.normal(size=(30, 3)), rng.normal(size=(200, 3)) * [1, 10, 0.1]
    group, pool_group = rng.integers(0, 10, 30), rng.integers(0, 10, 200)
    chosen = match_donors(values, pool, group, pool_group, 8)
    assert chosen.shape == (30, 8)
    scaled = pool / pool.std(0)
    for row in range(30):
        assert (pool_group[chosen[row]] != group[row]).all()
        distance = np.linalg.norm(scaled - values[row] / pool.std(0), axis=1)
        allowed = np.flatnonzero(pool_group != group[row])
        assert set(chosen[row]) == set(allowed[np.argsort(distance[allowed])[:8]])


def test_rows_that_share_a_value_are_drawn_from_at_random():
    """Two values, told apart by rounding alone within each: whichever rows lie nearest by rounding say nothing."""
    rng = np.random.default_rng(8)
    sign = rng.integers(0, 2, 600) * 2.0 - 1
    values = (sign[:, None] * [3.0, 0.0] + 1e-6 * rng.normal(size=(600, 2))).astype(np.float32)
    behaviour = values[:, 1] > 0  # what rounding would give away
    rows = np.arange(600)
    chosen = match_donors(values[:300], values[300:], rows[:300], rows[300:], 16, rounding=1e-4)
    assert (sign[300:][chosen] == sign[:300, None]).all()
    alike = (behaviour[300:][chosen] == behaviour[:300, None]).mean()
    assert alike == pytest.approx(0.5, abs=0.05)
    assert not np.array_equal(
        chosen, match_donors(values[:300], values[300:], rows[:300], rows[300:], 16, seed=1, rounding=1e-4)
    )


def jackknife(law, edited):
    """The usual way to take the first order of a bias out (Quenouille 1956)."""
    m = edited.shape[1]
    without = kl_bits(law[:, None], (edited.sum(1, keepdims=True) - edited) / (m - 1)).mean(1)
    return m * kl_bits(law, edited.mean(1)) - (m - 1) * without


def split_halves(law, edited):
    """What measurement.md section 2 names."""
    half = edited.shape[1] // 2
    halves = [kl_bits(law, edited[:, part].mean(1)) for part in (slice(0, half), slice(half, None))]
    return 2 * kl_bits(law, edited.mean(1)) - np.mean(halves, axis=0)


@pytest.mark.parametrize(
    ("n_outcomes", "concentration", "off"),
    [
        (2, 1e-3, 0.02),
        (4, 1e-3, 0.05),
        (4, 0.1, 0.05),
        (16, 1e-3, 0.05),
        (16, 0.1, 0.05),
        (64, 1e-2, 0.1),
        (64, 1, 0.05),
    ],
)
def test_nothing_kept_costs_what_all_donors_cost(n_outcomes, concentration, off):
    """From sure answers (1e-3) to broad laws (1): E KL(p || mean p), from 16 donors, to a share of `off`."""
    rng = np.random.default_rng(9)
    law, *donors = rng.dirichlet(np.full(n_outcomes, concentration), (17, 3000))
    truth = float(kl_bits(law, np.full(n_outcomes, 1 / n_outcomes)[None]).mean())
    assert mixture_kl(law, np.stack(donors, 1)).mean() == pytest.approx(truth, rel=off)


@pytest.mark.parametrize("naive", [jackknife, split_halves])
def test_usual_corrections_fail_for_sure_answers(naive):
    """Four sure answers, equally frequent: all 16 donors miss the right one in one row of a hundred."""
    rng = np.random.default_rng(9)
    law, *donors = np.eye(4)[rng.integers(0, 4, (17, 20_000))]
    edited = np.stack(donors, 1)
    assert abs(naive(law, edited).mean() / 2 - 1) > 0.2
    assert mixture_kl(law, edited).mean() / 2 == pytest.approx(1, abs=0.03)


def test_donors_that_agree_on_what_is_wrong_are_believed():
    """An edit after which every donor gives the right answer about 1 in 50: the loss is log2 50, not what M allows."""
    rng = np.random.default_rng(10)
    right = 0.02 * np.exp(rng.normal(0, 0.3, (3000, 16)) - 0.045)
    edited = np.stack([right, 1 - right], -1)
    found = mixture_kl(np.tile([1.0, 0.0], (3000, 1)), edited).mean()
    assert found == pytest.approx(np.log2(50), rel=0.03)


def test_random_donors_are_never_of_the_same_group_and_follow_the_seed():
    rng = np.random.default_rng(7)
    group, pool_group = rng.integers(0, 5, 50), rng.integers(0, 5, 120)
    chosen = random_donors(group, pool_group, 16, 0)
    assert (pool_group[chosen] != group[:, None]).all()
    assert all(len(set(row)) == 16 for row in chosen.tolist())
    assert np.array_equal(chosen, random_donors(group, pool_group, 16, 0))
    assert not np.array_equal(chosen, random_donors(group, pool_group, 16, 1))


@pytest.mark.parametrize("outside", [10, 16, 17])
def test_few_rows_outside_the_group_are_never_filled_up_from_inside(outside):
    """Either donors of other groups alone, or a refusal: never a donor of the row's own group."""
    pool_group = np.array([0] * 40 + [1] * outside)
    pool = np.random.default_rng(0).normal(size=(len(pool_group), 2))
    for donors in (
        lambda: match_donors(pool[:5], pool, np.zeros(5, int), pool_group, 16),
        lambda: random_donors(np.zeros(5, int), pool_group, 16, 0),
    ):
        try:
            chosen = donors()
        except BadInput:
            assert outside < 16
            continue
        assert (pool_group[chosen] == 1).all()


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
