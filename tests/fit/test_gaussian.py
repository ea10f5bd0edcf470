"""Readouts of numbers: against scikit-learn's ridge, beside a floor, over folds, and as a loss."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV

from probekit.errors import FitError
from probekit.fit.mlp import fit_mlp
from probekit.fit.path import LAMBDAS, fit_nested, fit_path
from probekit.fit.platt import fit_platt
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import Rows, calibrate, cross_entropy, entropy, fit_readout, take
from probekit.levels import Level


def plant(n: int = 600, d: int = 30, t: int = 3, seed: int = 0) -> Rows:
    """t numbers, each half told by the floor: coordinates far from centred, of very different lengths."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g) * torch.logspace(1, -1, d) + 3.0
    floor = torch.randn(t, n, generator=g)
    y = torch.randn(t, d, generator=g) @ (z - 3.0).T / d**0.5 + 2.0 * floor + torch.randn(t, n, generator=g) + 5.0
    return Rows(z, y[None], floor[None])


def test_the_loss_is_a_gaussian_code_less_its_constant():
    rows = plant()
    said = rows.law + 0.3
    bits = -norm.logpdf(rows.law.numpy(), said.numpy(), 1.0) / math.log(2) - 0.5 * math.log2(2 * math.pi)
    np.testing.assert_allclose(cross_entropy(said, rows.law).numpy(), bits[0], atol=1e-6)
    assert float(entropy(rows.law).abs().max()) == 0


@pytest.mark.parametrize("ridge", [1e-4, 0.1, 10.0])
def test_without_a_floor_it_is_scikit_learns_ridge(ridge):
    rows = plant()
    found = fit_readout(rows.z, rows.law, None, rows.z.var(0), ridge)
    for i in range(3):
        peer = Ridge(alpha=ridge * len(rows.z)).fit(rows.z.numpy(), rows.law[0, i].numpy())
        np.testing.assert_allclose(found.weight[0, i].numpy(), peer.coef_, rtol=1e-4, atol=1e-5)
        assert float(found.bias[0, i]) == pytest.approx(float(peer.intercept_), rel=1e-4)


def test_the_floors_coefficient_has_no_penalty():
    rows = plant()
    assert rows.offset is not None
    found = fit_readout(rows.z, rows.law, rows.offset, rows.z.var(0), 1e-7)
    for i in range(3):
        both = np.column_stack([rows.z.numpy(), rows.offset[0, i].numpy()])
        peer = LinearRegression().fit(both, rows.law[0, i].numpy())
        assert float(found.scale[i]) == pytest.approx(float(peer.coef_[-1]), rel=1e-3)
    heavy = fit_readout(rows.z, rows.law, rows.offset, rows.z.var(0), 1e6)
    for i in range(3):
        alone = LinearRegression().fit(rows.offset[0, i].numpy()[:, None], rows.law[0, i].numpy())
        assert float(heavy.scale[i]) == pytest.approx(float(alone.coef_[0]), rel=1e-3)


def test_a_floor_that_the_coordinates_repeat_keeps_its_coefficient():
    rows = plant(t=1)
    same = Rows(rows.z, rows.law, rows.z[:, 0][None, None])
    found = fit_readout(same.z, same.law, same.offset, same.z.var(0), 1e-9)
    bare = Rows(rows.z, rows.law)
    alone = bare.bits(fit_readout(bare.z, bare.law, None, bare.z.var(0), 1e-9))
    assert float(found.scale) == 1
    assert float(same.bits(found).mean()) == pytest.approx(float(alone.mean()), rel=1e-4)


def test_the_ridge_is_the_one_of_a_search_by_hand():
    rows = plant(120, 60)
    fit, select = take(rows, slice(80)), take(rows, slice(80, None))
    found = fit_path(fit, select)
    lost = torch.stack([select.bits(fit_readout(fit.z, fit.law, fit.offset, fit.z.var(0), r)).mean(1) for r in LAMBDAS])
    assert found.ridge.tolist() == pytest.approx([LAMBDAS[int(i)] for i in lost.argmin(0)])


def test_over_inner_folds_it_is_scikit_learns_search():
    rows = plant(90, 40, t=1)
    n, folds = 90, 3
    pairs = [(torch.tensor([i for i in range(n) if i % folds != k]), torch.arange(k, n, folds)) for k in range(folds)]
    bare = Rows(rows.z, rows.law)
    found = fit_nested(bare, 60, pairs)
    splits = [(a.numpy(), b.numpy()) for a, b in pairs]
    # Theirs is a sum over rows where ours is a mean: 60 of each fold.
    peer = RidgeCV(alphas=[r * 60 for r in LAMBDAS], cv=splits, scoring="neg_mean_squared_error").fit(
        rows.z.numpy(), rows.law[0, 0].numpy()
    )
    assert float(found.ridge) == pytest.approx(float(peer.alpha_) / 60)


def test_noise_is_left_to_the_floor():
    g = torch.Generator().manual_seed(1)
    rows = Rows(torch.randn(300, 100, generator=g), torch.randn(1, 4, 300, generator=g), torch.zeros(1, 4, 300))
    found = fit_path(take(rows, slice(200)), take(rows, slice(200, None)))
    assert int(torch.isinf(found.ridge).sum()) >= 2
    assert not bool(found.weight[0, torch.isinf(found.ridge)].any())


def test_what_is_not_finite_is_refused():
    rows = plant(t=1)
    rows.z[3, 1] = torch.inf
    with pytest.raises(FitError, match="activations that are not finite"):
        fit_readout(rows.z, rows.law, None, torch.ones(30), 1.0)


def test_a_calibration_is_a_line_that_never_turns_over():
    x = torch.linspace(-2, 2, 400)[None, None]
    theta = fit_platt(x, 3 * x + 1)
    assert float((calibrate(x, theta) - (3 * x + 1)).abs().max()) < 0.05
    turned = calibrate(x, fit_platt(x, -x))
    assert float(turned.diff().min()) > 0, "what says the opposite says nothing"
    few = fit_platt(x[..., :2], 100 * x[..., :2])
    assert float(few[0, 0].exp()) < 100, "few rows do not say much"


def test_an_mlp_finds_a_square_that_a_line_does_not():
    g = torch.Generator().manual_seed(2)
    z = torch.randn(2_000, 4, generator=g)
    y = (z[:, :1] ** 2 - 1).T[None] + 0.1 * torch.randn(1, 1, 2_000, generator=g)
    rows = Rows(z, y.contiguous(), torch.zeros(1, 1, 2_000))
    fit, select = take(rows, slice(1_500)), take(rows, slice(1_500, None))
    deep = cross_entropy(fit_mlp(fit, select, seed=0).logits(select.z, select.beside), select.law).mean()
    line = select.bits(fit_path(fit, select)).mean()
    assert float(deep) < 0.1 * float(line)


@pytest.mark.parametrize(
    ("level", "truth"),
    [("linear", 1.0), ("simple:quadratic", 0.2), ("simple:bilinear", 0.2), ("simple:two_thresholds", 0.478)],
)
def test_simple_functions_of_a_number(level, truth):
    """y = floor + z0 z1 + noise of variance 1/4: a product leaves 1/5, a line all.

    Squares of the sum and of the difference, each cut where |s| > 1.5, explain 65 % of what a product does.
    """
    g = torch.Generator().manual_seed(3)
    n, n_fit = 3_000, 2_000
    x, floor, noise = torch.randn(n, 24, generator=g), torch.randn(n, generator=g), torch.randn(n, generator=g)
    law, offset = (floor + x[:, 0] * x[:, 1] + 0.5 * noise)[None, None], floor[None, None]
    parts = slice(n_fit), slice(n_fit, 2_500), slice(2_500, None)
    fit, select, test = (Side(x[at], law[..., at], offset[..., at]) for at in parts)
    site = Site.prepare([(fit, select, None)], 0)[0]
    bits = min(float(reader.bits(test).mean()) for reader in fit_level(site, Level.parse(level), (2,)))
    share = bits / float(cross_entropy(test.offset, test.law).mean())
    assert share == pytest.approx(truth, abs=0.06)
