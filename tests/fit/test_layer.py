"""The last layer of a simple function: one step for all ridges against the path that solves each on its own."""

import numpy as np
import pytest
import torch

from probekit.fit.path import LAMBDAS, fit_path
from probekit.fit.readout import Readout, Rows, fit_readout
from probekit.fit.simple import layer
from probekit.fit.simple.layer import refit_layer


def rows(n: int, seed: int, with_floor: bool, weight: float = 1.0) -> Rows:
    """Six features, two of them the same but for noise of a hundredth, and a law that four of them decide."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 6))
    z[:, 5] = z[:, 4] + 0.01 * rng.normal(size=n)
    floor = rng.normal(size=n)
    p = 1 / (1 + np.exp(-weight * z[:, :4] @ [1.0, -0.5, 0.3, 0.0] - 0.4 - 0.7 * floor * with_floor))
    label = torch.tensor((rng.random(n) < p).astype(int))
    law = torch.nn.functional.one_hot(1 - label, 2).T[:, None].float().contiguous()
    offset = torch.tensor(np.stack([floor, np.zeros(n)])[:, None], dtype=torch.float32) if with_floor else None
    return Rows(torch.tensor(z, dtype=torch.float32), law, offset)


@pytest.mark.parametrize("with_floor", [False, True])
def test_the_layer_is_that_of_the_whole_path(with_floor):
    fit, select, test = (rows(n, seed, with_floor) for seed, n in enumerate((600, 400, 4_000)))
    some = Rows(fit.z[:100], fit.law[..., :100], None if fit.offset is None else fit.offset[..., :100])
    start = fit_path(some, select)
    expected, found = fit_path(fit, select), refit_layer(fit, select, start, LAMBDAS)
    assert float(select.bits(found).mean()) <= float(select.bits(expected).mean()) + 2e-4
    assert float(test.bits(found).mean()) == pytest.approx(float(test.bits(expected).mean()), abs=1e-3)
    # At the ridge that it names, the layer is the minimum.
    exact = fit_readout(fit.z, fit.law, fit.offset, fit.z.var(0), found.ridge)
    assert float(fit.bits(found).mean()) == pytest.approx(float(fit.bits(exact).mean()), abs=1e-4)
    torch.testing.assert_close(found.scale, exact.scale, atol=5e-3, rtol=0)
    assert float(fit.bits(start).mean()) > float(fit.bits(exact).mean()) + 5e-3, "the start was not there already"


def test_ridges_matter_where_rows_are_few():
    """Sixty features of noise on 80 rows: the largest ridge holds out better than the smallest by far."""
    rng = np.random.default_rng(0)
    both = []
    for n in (80, 400):
        z = torch.tensor(rng.normal(size=(n, 60)), dtype=torch.float32)
        both.append(Rows(z, torch.nn.functional.one_hot(torch.tensor(rng.integers(0, 2, n)), 2).T[:, None].float()))
    start = Readout.nothing(2, 1, 60, both[0].z)
    found = refit_layer(*both, start, LAMBDAS)
    assert float(found.ridge) == 1.0
    alone = refit_layer(*both, start, (1e-2,))
    assert float(both[1].bits(alone).mean()) > float(both[1].bits(found).mean()) + 0.1


def test_a_constant_floor_is_no_obstacle():
    """Its coefficient and the intercept are one and the same."""
    fit, select = rows(500, 0, False), rows(300, 1, False)
    fit, select = (Rows(r.z, r.law, torch.full_like(r.law, 0.3)) for r in (fit, select))
    expected = fit_path(fit, select)
    found = refit_layer(fit, select, Readout.nothing(2, 1, 6, fit.z), LAMBDAS)
    assert float(select.bits(found).mean()) == pytest.approx(float(select.bits(expected).mean()), abs=3e-4)


def test_a_law_of_many_outcomes_and_rows_told_apart_take_the_path():
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.normal(size=(400, 3)), dtype=torch.float32)
    law = torch.softmax(torch.stack([z[:, 0], z[:, 1], z[:, 2]]), 0)[:, None].contiguous()
    three = Rows(z, law)
    found = refit_layer(three, three, Readout.nothing(3, 1, 3, z), LAMBDAS)
    expected = fit_path(three, three)
    assert float(three.bits(found).mean()) == pytest.approx(float(three.bits(expected).mean()), abs=1e-4)
    apart = Rows(z, torch.stack([(z[:, 0] > 0).float(), (z[:, 0] <= 0).float()])[:, None].contiguous())
    start = Readout.nothing(2, 1, 3, z)
    assert layer._newton(apart, apart, start, (1e-12,)) is None, "there is no minimum within reach"
    assert float(apart.bits(refit_layer(apart, apart, start, LAMBDAS)).mean()) < 0.02
