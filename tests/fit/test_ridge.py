"""Ridge regression from one pass, judged by scikit-learn, and leaving groups out against refitting without them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Judge

from probekit.errors import BadInput, FitError
from probekit.fit.streamed.moments import Moments
from probekit.fit.streamed.ridge import leave_group_out
from probekit.fit.streamed.source import Source


def draw(n: int, d: int, t: int, seed: int = 0, far: float = 0.0):
    """Correlated activations, possibly far from zero, and noisy linear targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.geomspace(3, 0.1, d)) + far
    y = x @ rng.normal(size=(d, t)) + rng.normal(size=(n, t)) + 5
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


@pytest.mark.parametrize(("n", "d"), [(300, 5), (40, 60), (500, 1), (3000, 30)])
@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_ridge_is_scikit_learn_s_at_every_strength(n, d, far, monkeypatch):
    monkeypatch.setattr("probekit.fit.streamed.moments.BLOCK_BYTES", 64 * 8 * d)  # several blocks
    x, y = draw(n, d, 3, far=far)
    ridges = (10.0, 1.0, 1e-2)
    found = Moments.of(Source.of(x), y).ridge(ridges)
    for i, ridge in enumerate(ridges):
        judge = Judge(alpha=n * ridge, solver="svd").fit(x.double().numpy(), y.double().numpy())
        assert found.weight[i].T.numpy() == pytest.approx(np.atleast_2d(judge.coef_), abs=1e-5)
        assert found.predict(x)[i].numpy() == pytest.approx(judge.predict(x.double().numpy()), abs=1e-3)


def test_without_a_ridge_duplicated_and_constant_columns_are_harmless():
    x, y = draw(200, 4, 2)
    wide = torch.cat([x, x[:, :2], torch.full((200, 1), 3.0)], 1)
    plain, more = (Moments.of(Source.of(v), y).ridge((0.0,)).predict(v) for v in (x, wide))
    assert torch.allclose(plain, more, atol=1e-5)


@pytest.mark.parametrize(("n", "d", "n_groups"), [(120, 6, 10), (60, 80, 12), (200, 3, 2), (90, 5, 90)])
def test_leaving_a_group_out_is_refitting_without_it(n, d, n_groups):
    x, y = draw(n, d, 2, seed=1, far=3.0)
    group = torch.randint(0, n_groups, (n,), generator=torch.Generator().manual_seed(0))
    group[:2] = torch.tensor([0, 1])
    ridges = (1.0, 1e-2)
    found = leave_group_out(Source.of(x), y, group, ridges)
    for i, ridge in enumerate(ridges):
        for g in group.unique():
            inside, outside = group == g, group != g
            judge = Judge(alpha=n * ridge, solver="svd").fit(x[outside].double().numpy(), y[outside].double().numpy())
            assert found[i, inside].numpy() == pytest.approx(judge.predict(x[inside].double().numpy()), abs=1e-4)
    inside = Moments.of(Source.of(x), y).ridge(ridges).predict(x)
    assert float((found - y).square().mean()) > float((inside - y).square().mean()), "held out is worse than fitted"


def test_groups_that_cannot_be_left_out_are_refused():
    x, y = draw(30, 4, 1)
    with pytest.raises(BadInput, match="at least two groups"):
        leave_group_out(Source.of(x), y, torch.zeros(30, dtype=torch.long), (1.0,))
    with pytest.raises(BadInput, match="targets have 29 rows"):
        Moments.of(Source.of(x), y[1:])
    x[3, 1] = torch.nan
    with pytest.raises(FitError, match="not finite"):
        Moments.of(Source.of(x), y)
