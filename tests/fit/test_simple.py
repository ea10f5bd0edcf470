"""Simple functions: XOR (P2) and parity-3 (P3), whose loss in every class is known, under rotations and nuisances."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.preprocessing import PolynomialFeatures

from probekit.fit.directions import fit_low_rank
from probekit.fit.path import fit_path
from probekit.fit.readers import Side, Site
from probekit.fit.readout import Rows, cross_entropy
from probekit.fit.simple import joint as simple
from probekit.fit.simple.joint import Simple, fit_simples, n_features
from probekit.fit.simple.pursuit import best_cuts
from probekit.fit.simple.starts import MAX_K, Region
from probekit.levels import SIMPLE

N = 1024


def plant(bits: int, nuisance: float, seed: int, d: int = 8):
    """h = sum_i s_i e_i in a random rotation, `nuisance` x d Gaussian dimensions; the label is the product of signs."""
    rng = np.random.default_rng(seed)
    signs = np.concatenate([rng.permutation(np.arange(n) % 2**bits) for n in (N, N // 2, N)])
    s = 2 * (signs[:, None] >> np.arange(bits) & 1) - 1
    extra = int(nuisance * d)
    h = np.concatenate([s, rng.normal(size=(len(s), extra)), np.zeros((len(s), d - bits - extra))], 1)
    x = torch.tensor(h @ np.linalg.qr(rng.normal(size=(d, d)))[0], dtype=torch.float32)
    label = torch.tensor((s.prod(1) > 0).astype(int))
    law = torch.nn.functional.one_hot(label, 2).T[:, None].float().contiguous()
    parts = slice(0, N), slice(N, N + N // 2), slice(N + N // 2, None)
    return [Side(x[p], law[..., p], torch.zeros_like(law[..., p])) for p in parts]


def fit_alone(kind: str, k: int, site: Site) -> Simple:
    """One class at one k, without the path of smaller ones."""
    return fit_simples(kind, (k,), *site.rows, site.region)[k]


def loss(kind: str, k: int, sides: list[Side], seed: int = 0) -> float:
    """Test bits of the jointly fitted class (the prior costs exactly 1 bit)."""
    fit, select, test = sides
    site = Site.prepare([(fit, select, None)], seed)[0]
    fitted = fit_alone(kind, k, site)
    return float(fitted.bits(Rows(site.frame.apply(test.x), test.law, test.offset)).mean())


XOR = {
    ("one_threshold", 1): 0.689, ("two_thresholds", 1): 0.0, ("quadratic", 1): 0.0, ("bilinear", 2): 0.0,
    ("mlp16", 1): 0.0,
}  # fmt: skip
PARITY = {
    ("one_threshold", 1): 0.811, ("two_thresholds", 1): 0.406, ("quadratic", 3): 1.0,
    ("cubic", 1): 0.0, ("mlp16", 1): 0.0,
}  # fmt: skip


@pytest.mark.parametrize(("seed", "nuisance"), [(0, 0), (1, 0.5), (2, 0.5)])
def test_xor(seed, nuisance):
    sides = plant(2, nuisance, seed)
    for (kind, k), truth in XOR.items():
        assert loss(kind, k, sides, seed) == pytest.approx(truth, abs=0.04), (kind, k)


@pytest.mark.parametrize(("seed", "nuisance"), [(0, 0), (1, 0.5), (2, 0.5)])
def test_parity_of_three(seed, nuisance):
    sides = plant(3, nuisance, seed)
    for (kind, k), truth in PARITY.items():
        assert loss(kind, k, sides, seed) == pytest.approx(truth, abs=0.04), (kind, k)


def union(seed: int, d: int = 8, n: int = 4 * N, noise: float = 0.1) -> tuple[list[Side], np.ndarray]:
    """B = (s1 XOR s2, s3), four outcomes; also the basis, whose first three rows are the planted directions."""
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 2, size=(3 * n, 3)) * 2 - 1
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    h = np.concatenate([s + noise * rng.normal(size=s.shape), noise * rng.normal(size=(len(s), d - 3))], 1)
    outcome = torch.tensor(2 * (s[:, 0] * s[:, 1] < 0) + (s[:, 2] > 0)).long()
    law = torch.nn.functional.one_hot(outcome, 4).T[:, None].float().contiguous()
    x = torch.tensor(h @ basis, dtype=torch.float32)
    parts = slice(0, n), slice(n, n + n // 2), slice(n + n // 2, None)
    return [Side(x[p], law[..., p], torch.zeros_like(law[..., p])) for p in parts], basis


@pytest.mark.parametrize("seed", range(4))
def test_two_thresholds_of_a_union_are_not_stuck_where_the_third_sign_alone_is_told(seed):
    """The best three cells of one direction leave .4222 of two bits; those of s3 alone, a local optimum, leave .5."""
    assert loss("two_thresholds", 1, union(seed)[0], seed) / 2 == pytest.approx(0.4222, abs=0.02)


def test_searched_directions_stay_within_what_is_planted():
    """A direction that leans into coordinates that say nothing would fail where these are shifted.

    Their noise is a tenth of the signs', so that a lean of .3 moves a row by .03; what the search alone finds leans by
    .5 to 1.
    """
    leans = []
    for seed in range(6):
        (fit, select, _), basis = union(seed)
        site = Site.prepare([(fit, select, None)], seed)[0]
        fitted = fit_alone("two_thresholds", 1, site)
        searched = site.region.basis @ site.region.cells(2).directions[0, :, :1]
        whitened = searched / site.frame.variance.sqrt()[:, None]
        leans.append(
            [
                float(np.abs(s[3:]).max() / np.abs(s[:3]).max())
                for s in (basis @ site.back(found).double().numpy()[:, 0] for found in (fitted.directions, whitened))
            ]
        )
    kept, alone = np.array(leans).T
    # A processor that rounds otherwise moves one seed by a tenth.
    assert kept.mean() < 0.3 and kept.max() < 0.5 < alone.min()


def noisy_xor(n: int, d: int, seed: int) -> list[Side]:
    """XOR of two signs with noise, one label in twenty wrong, beside d - 2 coordinates that say nothing."""
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 2, (n, 2)) * 2 - 1
    h = np.concatenate([s + 0.3 * rng.normal(size=s.shape), rng.normal(size=(n, d - 2))], 1)
    x = torch.tensor(h @ np.linalg.qr(rng.normal(size=(d, d)))[0], dtype=torch.float32)
    label = torch.tensor((s.prod(1) > 0) ^ (rng.random(n) < 0.05)).long()
    law = torch.nn.functional.one_hot(label, 2).T[:, None].float().contiguous()
    parts = slice(0, n // 2), slice(n // 2, 3 * n // 4), slice(3 * n // 4, None)
    return [Side(x[p], law[..., p], torch.zeros_like(law[..., p])) for p in parts]


@pytest.mark.parametrize("kind", ["quadratic", "cubic", "mlp16"])
def test_more_directions_than_there_are_do_not_fit_noise(kind):
    """Two directions tell all; eight of 100 coordinates on 4,000 rows could lose a tenth of a bit to noise."""
    fit, select, test = noisy_xor(8_000, 100, 0)
    site = Site.prepare([(fit, select, None)], 0)[0]
    rows = Rows(site.frame.apply(test.x), test.law, test.offset)
    path = fit_simples(kind, (1, 2, 4, 8), *site.rows, site.region)
    bits = {k: float(fitted.bits(rows).mean()) for k, fitted in path.items()}
    assert bits[2] < 0.43
    assert bits[8] < bits[2] + 0.02
    # Naive: all quadratic features of the even directions, not one of them held back.
    if kind == "quadratic":
        wide = site.region.basis @ site.region.even[:, :8] / site.frame.variance.sqrt()[:, None]
        seen = [
            torch.tensor(PolynomialFeatures(2, include_bias=False).fit_transform(r.z @ wide), dtype=torch.float32)
            for r in (site.rows[0], rows)
        ]
        loose = fit_path(Rows(seen[0], fit.law), Rows(seen[0], fit.law), lambdas=(1e-6,))
        assert float(Rows(seen[1], test.law).bits(loose).mean()) > bits[2] + 0.05


def test_nothing_is_read_where_there_is_nothing():
    """Labels of pure chance beside a floor that knows their law: what many starts and stops find on rows held out."""
    excess, naive = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = torch.tensor(rng.normal(size=(1_600, 8)), dtype=torch.float32)
        law = torch.nn.functional.one_hot(torch.tensor(rng.integers(0, 2, 1_600)), 2).T[:, None].float().contiguous()
        sides = [Side(x[p], law[..., p], torch.zeros_like(law[..., p])) for p in (slice(600), slice(600, 800))]
        site = Site.prepare([(*sides, None)], seed)[0]
        test = Rows(site.frame.apply(x[800:]), law[..., 800:], torch.zeros_like(law[..., 800:]))
        excess.append(float(fit_alone("quadratic", 2, site).bits(test).mean()) - 1)
        kept = simple.tells
        simple.tells = lambda *_: True
        naive.append(float(fit_alone("quadratic", 2, site).bits(test).mean()) - 1)
        simple.tells = kept
    assert np.mean(excess) < 0.6 * np.mean(naive)
    assert np.mean(naive) > 0.002
    assert np.median(excess) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_wider_function_starts_as_the_narrower_one(kind):
    """Before a step is taken, the function of two directions on four of them gives the same laws."""
    fit, select, _ = plant(2, 0.5, 0)
    site = Site.prepare([(fit, select, None)], 0)[0]
    narrow = simple._fitted(kind, 2, None, site.region)
    wide = simple._widened(kind, 4, narrow, site.region)
    assert wide["directions"].shape == (1, site.d, 4)
    rows = site.region.far[1]
    expected, found = (simple._logits(kind, parameters, rows) for parameters in (narrow, wide))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_cuts_are_the_best_of_all():
    """Against trying every pair of cuts of forty rows."""
    rng = np.random.default_rng(0)
    s, floor = rng.normal(size=40), rng.dirichlet(np.ones(3), size=40)
    law = np.eye(3)[rng.integers(0, 3, size=40)]
    law[(s > -0.3) & (s < 0.9)] = [0.9, 0.1, 0]
    order = np.argsort(s)

    def told(rows: np.ndarray) -> float:
        own, beside = law[rows].sum(0), floor[rows].sum(0)
        return float(np.where(own > 0, own * np.log(np.maximum(own, 1e-12) / beside), 0).sum())

    best = max((sum(map(told, np.split(order, cuts))), cuts) for cuts in itertools.combinations(range(1, 40), 2))[1]
    found, _ = best_cuts(*(torch.tensor(a, dtype=torch.float32) for a in (s, law, floor)), 2)
    assert tuple((s < found.numpy()[:, None]).sum(1)) == best


@pytest.mark.parametrize("bits", [2, 3])
def test_a_linear_readout_and_its_directions_see_nothing_of_either(bits):
    fit, select, test = plant(bits, 0.5, 0)
    site = Site.prepare([(fit, select, None)], 0)[0]
    rows = Rows(site.frame.apply(test.x), test.law, test.offset)
    assert float(rows.bits(site.linear).mean()) == pytest.approx(1.0, abs=0.02)
    # Naive: the function on the directions that a linear readout finds, which are not those of the plant.
    found = fit_low_rank(site.rows[0], site.linear, site.frame.variance, 1)
    naive = [
        torch.tensor(PolynomialFeatures(3, include_bias=False).fit_transform(r.z @ found), dtype=torch.float32)
        for r in (*site.rows, rows)
    ]
    readout = fit_path(*(Rows(z, side.law) for z, side in zip(naive, (fit, select), strict=False)))
    assert float(Rows(naive[2], test.law).bits(readout).mean()) > 0.7


def test_one_seed_gives_one_result():
    sides = plant(2, 0.5, 3)
    assert loss("mlp16", 1, sides, 5) == loss("mlp16", 1, sides, 5)


def test_a_simple_function_beside_a_floor_that_knows_half():
    """B = (s1 XOR s2, s3) with s3 in the floor: what is left is XOR alone."""
    fit, select, test = plant(2, 0, 4)
    rng = np.random.default_rng(0)
    sides = []
    for side in (fit, select, test):
        third = torch.tensor(rng.integers(0, 2, len(side.x)))
        outcome = torch.nn.functional.one_hot(side.law[1, 0].long() * 2 + third, 4).T[:, None].float().contiguous()
        known = 3 * (torch.arange(4)[:, None, None] % 2 == third).float()
        sides.append(Side(side.x, outcome, known))
    alone = float(cross_entropy(sides[2].offset, sides[2].law).mean())
    assert alone > 1.0
    assert loss("quadratic", 1, sides) < 0.02


@pytest.mark.parametrize("kind", SIMPLE)
def test_feature_counts_and_laws_of_every_class(kind):
    fit, select, test = plant(2, 0.5, 0)
    site = Site.prepare([(fit, select, None)], 0)[0]
    for k in (1, 3):
        # Fewer linear directions than k: the rest are drawn.
        region = Region.of(*site.rows, site.frame.variance, torch.eye(site.d)[:, :1], 0)
        fitted = fit_simples(kind, (k,), *site.rows, region)[k]
        z = site.frame.apply(test.x)
        assert fitted.features(z).shape == (len(z), n_features(kind, k))
        assert fitted.directions.shape == (site.d, k)
        rows = Rows(z, test.law, test.offset)
        assert torch.equal(fitted.bits(rows), cross_entropy(fitted.logits(rows), test.law))
        if "threshold" in kind:
            assert set(fitted.features(z).unique().tolist()) <= {0.0, 1.0}, "cells are hard once fitted"
    assert MAX_K >= 3


def test_a_band_of_a_continuous_direction_is_cut_where_it_ends():
    """|z| < .7 decides nine times in ten: soft thresholds that stay soft lie .03 above the truth."""
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        turn, s = np.linalg.qr(rng.standard_normal((8, 8)))[0], rng.standard_normal((4_000, 8))
        chance = np.where(np.abs(s[:, 0]) < 0.7, 0.9, 0.1)
        label = torch.from_numpy((rng.random(4_000) < chance).astype(int))
        law = torch.nn.functional.one_hot(label, 2).T[:, None].float().contiguous()
        x, beside = torch.from_numpy(s @ turn).float(), law[..., :2000].mean(-1, keepdim=True).log()
        sides = [Side(x[a:b], law[..., a:b], beside.expand(-1, -1, b - a).contiguous())
                 for a, b in ((0, 2000), (2000, 2800), (2800, 4000))]  # fmt: skip
        site = Site.prepare([(*sides[:2], None)], seed)[0]
        fitted, test = fit_alone("two_thresholds", 1, site), sides[2]
        lost = fitted.bits(Rows(site.frame.apply(test.x), test.law, test.offset)).mean()
        known = np.stack([1 - chance, chance])[:, None, 2800:]
        truth = cross_entropy(torch.from_numpy(np.log(known)).float(), test.law).mean()
        floor = cross_entropy(test.offset, test.law).mean()
        found.append(float((lost - truth) / (floor - truth)))
    assert np.mean(found) < 0.022, found
