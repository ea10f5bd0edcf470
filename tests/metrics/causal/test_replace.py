"""Replace: divergences by hand, mixtures, donors that are found or said to be lacking."""

import numpy as np
import pytest
from scipy.stats import entropy as nats

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.replace import fbu_replace, kl_bits, match_donors, mixture_kl, random_donors
from probekit.metrics.ratios import Estimate, Ratio, estimates


def dirichlet(rng, *shape, k=4):
    return rng.dirichlet(np.ones(k), shape)


def single(n: int) -> Clusters:
    return Clusters.of(np.arange(n), 300, 0)


def made(ratio: Ratio, clusters: Clusters | None = None) -> Estimate:
    """One estimate; every row is its own group unless clusters say otherwise."""
    return estimates([ratio], clusters or single(len(ratio.missed)))[0]


def jackknife(law, edited):
    """The usual way to take the first order of a bias out (Quenouille 1956)."""
    m = edited.shape[1]
    without = kl_bits(law[:, None], (edited.sum(1, keepdims=True) - edited) / (m - 1)).mean(1)
    return m * kl_bits(law, edited.mean(1)) - (m - 1) * without


def split_halves(law, edited):
    """What docs/method.md section 2 names."""
    half = edited.shape[1] // 2
    halves = [kl_bits(law, edited[:, part].mean(1)) for part in (slice(0, half), slice(half, None))]
    return 2 * kl_bits(law, edited.mean(1)) - np.mean(halves, axis=0)


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
