"""Compose on functions whose parts are known: exact truths, scikit-learn as judge, and noise that fools plain R^2."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.compose import (
    Subsets,
    alone_gap,
    binned,
    clipped,
    cross_talk,
    dependence,
    leave_one_out,
    log_odds,
    negative_loss,
    self_repair,
    subset_leak,
    value_leak,
    walsh,
)
from probekit.metrics.ratios import Ratio, estimates


def made(ratio: Ratio):
    return estimates([ratio], Clusters.of(np.arange(len(ratio.missed)), 300, 0))[0]


def value(ratio: Ratio) -> float:
    found = made(ratio)
    assert found.value is not None, found.note
    return found.value


def over_sets(function, n_parts: int, n: int = 30) -> np.ndarray:
    """v(S) of every row and its one donor: [n, 1, n_sets]."""
    kept = Subsets.of(n_parts).kept
    return np.tile([function(row) for row in kept], (n, 1)).astype(float)[:, None]


# Ablation space ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "n_parts", "additive", "pairs", "left_out", "gap"),
    [
        (lambda s: s @ [1.0, 2.0, -0.5], 3, 0, 0, 1, 0),
        (lambda s: s.all(), 2, 1 / 3, 0, 2, 1),
        (lambda s: s.all(), 3, 4 / 7, 1 / 7, 3, 1),  # parity of three too: what needs all parts
        (lambda s: s.any(), 2, 1 / 3, 0, 0, 1),  # a backup
        (lambda s: 3 * s[0] + s[1:].all(), 3, 1 / 39, 0, 5 / 4, 2 / 20),
    ],
)
def test_functions_of_sets_that_are_known(function, n_parts, additive, pairs, left_out, gap):
    values, subsets = over_sets(function, n_parts), Subsets.of(n_parts)
    assert value(subset_leak(values, subsets, 1).ratio) == pytest.approx(additive, abs=1e-12)
    assert value(subset_leak(values, subsets, 2).ratio) == pytest.approx(pairs, abs=1e-12)
    assert value(leave_one_out(values, subsets)) == pytest.approx(left_out, abs=1e-12)
    assert value(alone_gap(values, subsets).ratio) == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@given(v=arrays(float, 16, elements=st.floats(-5, 5)))
def test_the_share_of_an_order_is_least_squares(order, v):
    subsets = Subsets.of(4)
    if v.var() < 1e-3:
        return
    signs = 2.0 * subsets.kept - 1
    terms = [t for size in range(1, order + 1) for t in itertools.combinations(range(4), size)]
    design = np.stack([np.ones(16), *(signs[:, list(t)].prod(1) for t in terms)], 1)
    judged = 1 - LinearRegression().fit(design, v).score(design, v)
    assert subset_leak(v[None, None], subsets, order).raw == pytest.approx(judged, abs=1e-8)
    assert (walsh(v)[1:] ** 2).sum() == pytest.approx(v.var(), abs=1e-9)


def test_noise_of_donors_is_no_interaction():
    """Plain R^2 takes it for one: an additive function with noise of its own size, 4 donors."""
    rng = np.random.default_rng(0)
    subsets = Subsets.of(3)
    values = over_sets(lambda s: s.sum(), 3, 400) + rng.normal(size=(400, 4, 8))
    found = subset_leak(values, subsets, 2)
    estimate = made(found.ratio)
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low < 0 < estimate.high < 0.03
    assert found.raw > 0.02
    assert subset_leak(values, subsets, 1).raw > 0.1
    assert value(subset_leak(values, subsets, 1).ratio) == pytest.approx(0, abs=0.02)


def test_rows_that_are_opposed_do_not_cancel():
    values = over_sets(lambda s: s.all(), 2)
    values[::2] *= -1
    assert np.allclose(values.mean((0, 1)), 0)
    assert value(subset_leak(values, Subsets.of(2), 1).ratio) == pytest.approx(1 / 3)


def test_many_parts_are_sampled_and_judged_on_sets_held_out():
    rng = np.random.default_rng(1)
    subsets = Subsets.of(14, n_sampled=320)
    assert not subsets.exact and len(np.unique(subsets.kept[subsets.uniform], axis=0)) == 320
    assert subsets.kept[subsets.whole].all() and not subsets.kept[subsets.nothing].any()
    assert (subsets.kept[subsets.without].sum(1) == 13).all() and (subsets.kept[subsets.alone].sum(1) == 1).all()
    weight = rng.normal(size=14)
    signs = 2.0 * subsets.kept - 1
    pairs = signs @ weight + 3 * signs[:, 0] * signs[:, 1]
    for v, additive, second in (
        (signs @ weight, 0, 0),
        (pairs, 9 / (9 + (weight**2).sum()), 0),
        (signs[:, :3].prod(1), 1, 1),
    ):
        values = np.tile(v, (20, 1, 1)).transpose(1, 0, 2).reshape(20, 1, -1)
        assert value(subset_leak(values, subsets, 2).ratio) == pytest.approx(second, abs=0.8 if second else 1e-9)
        assert value(subset_leak(values, subsets, 1).ratio) == pytest.approx(additive, abs=0.25 if additive else 1e-9)
    # What is fitted on all sets and judged on the same explains what nothing explains.
    noise = rng.normal(size=(1, 1, len(subsets.kept)))
    terms = [t for size in range(3) for t in itertools.combinations(range(14), size)]
    design = np.stack([signs[:, list(t)].prod(1) for t in terms], 1)[subsets.uniform]
    v = noise[0, 0, subsets.uniform]
    in_sample = 1 - r2_score(v, design @ np.linalg.lstsq(design, v, rcond=None)[0])
    assert in_sample < 0.75 < 1 < subset_leak(noise, subsets, 2).raw


def test_log_odds_and_losses_by_hand():
    law = np.array([[0.8, 0.2], [0.1, 0.9]])
    edited = np.array([[[0.5, 0.5], [0.8, 0.2]], [[0.5, 0.5], [1.0, 0.0]]])
    assert log_odds(law, edited) == pytest.approx(np.array([[0, 2], [0, np.log2(1e-12)]]))
    expected = (law[:, None] * np.log2(np.maximum(edited, 1e-12))).sum(-1)
    assert negative_loss(law, edited) == pytest.approx(expected)
    entropy = -(law * np.log2(law)).sum(1)
    assert negative_loss(law, law[:, None])[:, 0] == pytest.approx(-entropy)
    sure = np.array([[[1.0, 1e-10]]])  # 1 - p of which is no number
    assert log_odds(law[:1], sure)[0, 0] == pytest.approx(-np.log2(1e-10))


# Repair and cross-talk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "shown"), [(0.0, 1.0), (2.0, 0.0), (0.5, 0.75), (3.0, 0.0), (-1.0, 1.0)])
def test_self_repair_is_what_the_total_effect_lacks(total, shown):
    plain = made(self_repair(np.full((30, 1), total), np.full((30, 1), 2.0)))
    assert plain.value == pytest.approx(1 - total / 2)
    assert clipped(plain).value == pytest.approx(shown)
    nothing = made(self_repair(np.zeros((30, 1)), np.zeros((30, 1))))
    assert clipped(nothing).value is None and nothing.na_reason == "small_denominator"


def test_cross_talk_of_single_directions_is_their_cosine():
    rng = np.random.default_rng(2)
    w = rng.normal(size=(3, 6))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    h, donor = rng.normal(size=(2, 40, 6))
    change = ((donor - h) @ w.T)[:, :, None] * w  # [n, i, d]: do(z_i) along w_i
    moved = abs(change @ w.T)
    own = abs((donor - h) @ w.T)
    cosines = abs(w @ w.T)
    expected = ((own @ cosines).sum() - own.sum()) / 2 / own.sum()
    assert value(cross_talk(moved)) == pytest.approx(expected)
    assert value(cross_talk(1e-6 * moved)) == pytest.approx(expected)
    first = np.zeros((3, 3), bool)
    first[0, 1] = True
    assert value(cross_talk(moved, first)) == pytest.approx(cosines[0, 1])


# Value space ---------------------------------------------------------------------------------------------------------


def drawn(n=600, n_bits=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng, rng.integers(0, 2, (n, n_bits))


def two(p):
    return np.stack([1 - p, p], 1)


@pytest.mark.parametrize(
    ("function", "additive", "pairs"),
    [
        (lambda z: z[:, 0] ^ z[:, 1] ^ z[:, 2], 1, 1),
        (lambda z: z[:, 0] ^ z[:, 1], 1, 0),
        (lambda z: z[:, 0], 0, 0),
        (lambda z: 0.2 + z @ [0.1, 0.3, 0.2], 0, 0),
    ],
)
def test_functions_of_values_that_are_known(function, additive, pairs):
    _, z = drawn(20_000)
    group = np.arange(len(z))
    law = two(function(z).astype(float))
    assert value(value_leak(law, z, group, 1).ratio) == pytest.approx(additive, abs=0.002)
    assert value(value_leak(law, z, group, 2).ratio) == pytest.approx(pairs, abs=0.002)
    assert value_leak(law, z, group, 0).raw == pytest.approx(1)


def test_parts_that_hang_together_are_weighted_by_what_occurs():
    """scikit-learn on one-hot columns of the rows themselves; XOR of two bits that nearly always agree."""
    rng, z = drawn(4000, 2)
    z[:, 1] = np.where(rng.random(4000) < 0.9, z[:, 0], z[:, 1])
    y = (z[:, 0] ^ z[:, 1]) + 0.5 * z[:, 0]
    design = np.concatenate([np.eye(2)[z[:, 0]], np.eye(2)[z[:, 1]]], 1)
    judged = 1 - LinearRegression().fit(design, y).score(design, y)
    found = value_leak(y[:, None], z, np.arange(4000), 1)
    assert found.raw == pytest.approx(judged, abs=1e-9)
    assert value(found.ratio) == pytest.approx(judged, abs=1e-9)  # nothing is noise: both halves say the same
    assert 0.05 < judged < 0.95


def test_noise_of_rows_is_no_interaction():
    """Eight values each of two parts and an additive behaviour in noise: plain R^2 finds much beyond order 1."""
    rng = np.random.default_rng(3)
    z = rng.integers(0, 8, (3000, 2))
    y = (z.sum(1) / 7 + rng.normal(size=3000))[:, None]
    found = value_leak(y, z, np.arange(3000), 1)
    assert found.raw > 0.05
    assert value(found.ratio) == pytest.approx(0, abs=0.04)
    # Groups of copies are not split: their noise would count as what both halves know.
    copies = np.repeat(np.arange(150), 4)
    z, y = z[copies], y[copies]
    apart, together = (value_leak(y, z, group, 1) for group in (np.arange(600), copies))
    assert value(apart.ratio) > 0.15
    assert together.ratio.missed.mean() < apart.ratio.missed.mean() / 2


def test_values_that_one_half_lacks_are_left_out_and_counted():
    _, z = drawn(200, 2)
    z[0] = 7, 7
    found = value_leak(two(z[:, 0].clip(0, 1).astype(float)), z, np.arange(200), 1)
    assert found.seen == pytest.approx(199 / 200)
    assert found.ratio.available[0] == 0


def test_readouts_become_codes():
    rng = np.random.default_rng(4)
    s = rng.random(500) < 0.1
    axis = rng.normal(size=(1, 3))
    sharp = np.where(s, 1.0, -1.0)[:, None] * axis
    for readout, bins in ((sharp, 2), (sharp, 4), (sharp + 0.1 * rng.normal(size=(500, 3)), 2)):
        code = binned(readout, bins)
        assert len(np.unique(code)) == 2
        assert (code == code[s][0])[s].all() and (code != code[s][0])[~s].all()
    spread = binned(rng.normal(size=(500, 1)), 4)
    assert (np.bincount(spread, minlength=4) > 50).all()
    assert len(np.unique(binned(np.zeros((9, 2)), 3))) == 1


def test_dependence_is_tau():
    rng, z = drawn(4000, 2)
    group = np.arange(4000)
    assert made(dependence(z, group)).value == pytest.approx(0, abs=0.002)
    assert value(dependence(z[:, [0, 0]], group)) == pytest.approx(1, abs=1e-9)
    agree = np.where(rng.random(4000) < 0.8, z[:, 0], 1 - z[:, 0])
    assert value(dependence(np.stack([z[:, 0], agree], 1), group)) == pytest.approx(0.6**2, abs=0.03)
    # Many values of few rows tell each other apart by chance.
    many = rng.integers(0, 30, (300, 2))
    assert made(dependence(many, np.arange(300))).value == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Subsets.of(1), "at least two; found 1"),
        (lambda: Subsets.of(20, 100), "takes 563 sets of parts; found 100"),
        (lambda: subset_leak(np.zeros((4, 8)), Subsets.of(3), 2), r"found the shape \[4, 8\]"),
        (lambda: value_leak(np.zeros((4, 2)), np.zeros((4, 1)), np.arange(4), 1), r"found codes of the shape \[4, 1\]"),
    ],
)
def test_a_mistake_is_one_sentence(call, message):
    with pytest.raises(BadInput, match=message):
        call()
