"""Statistics of rows that come in batches: concept-erasure and scikit-learn judge, and stored rows are the truth."""

import numpy as np
import pytest
import torch
from concept_erasure import LeaceEraser
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge as Judge

from probekit.errors import BadInput, FitError
from probekit.fit.moments import Accumulator, Moments


def classes(n: int, d: int, k: int, seed: int = 0, far: float = 0.0):
    """k classes with different means under one correlated noise: activations, class numbers, one-hot targets."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    x = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.geomspace(2, 0.05, d))
    x = x + rng.normal(size=(k, d))[label] + far
    return torch.tensor(x), label, torch.eye(k, dtype=torch.float64)[label]


def seen(x: torch.Tensor, y: torch.Tensor, sizes: list[int]) -> Accumulator:
    out = Accumulator()
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        out.update(a, b)
    return out


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_batches_in_any_order_and_merged_halves_are_all_rows_at_once(far):
    x, _, y = classes(600, 7, 3, far=far)
    centred, targets = x - x.mean(0), y - y.mean(0)
    one = seen(x, y, [1, 199, 0, 400])
    first, second = seen(x[:250], y[:250], [100, 150]), seen(x[250:], y[250:], [350])
    first.merge(Accumulator())
    first.merge(second)
    shuffled = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    for sums in (one, first, seen(x[shuffled], y[shuffled], [300, 300])):
        found = sums.moments()
        assert found.n == 600
        # Naive: E[x x^T] - mean mean^T keeps no digit of a variance of 1e-3 beside a mean of 1e6.
        assert torch.allclose(found.xx, centred.T @ centred / 600, rtol=1e-9, atol=1e-9)
        assert torch.allclose(found.xy, centred.T @ targets / 600, rtol=1e-9, atol=1e-9)
        assert torch.allclose(found.x_mean, x.mean(0))
        assert torch.allclose(found.yy, targets.square().mean(0))


@pytest.mark.parametrize(("k", "d"), [(2, 1), (2, 9), (4, 6)])
@pytest.mark.parametrize("far", [0.0, 50.0])
def test_the_discriminant_is_scikit_learn_s(k, d, far):
    x, label, y = classes(900, d, k, seed=1, far=far)
    found = seen(x, y, [100] * 9).moments().lda()
    judge = LinearDiscriminantAnalysis(solver="lsqr").fit(x.numpy(), label)
    law = torch.softmax(found.logits(x), 1)
    assert law.numpy() == pytest.approx(judge.predict_proba(x.numpy()), abs=1e-8)


def test_shrinkage_repairs_a_singular_covariance():
    x, label, y = classes(300, 4, 3, seed=2)
    x = torch.cat([x, x[:, :1]], 1)
    moments = seen(x, y, [300]).moments()
    with pytest.raises(FitError, match="singular"):
        moments.lda()
    law = torch.softmax(moments.lda(0.1).logits(x), 1)
    # Its own shrinkage standardises each class first: it is told the covariance instead.
    pooled = sum(torch.cov(x[label == c].T, correction=0) * (label == c).mean() for c in range(3))
    pooled = 0.9 * pooled + 0.1 * pooled.diagonal().mean() * torch.eye(5)
    judge = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Given(pooled.numpy())).fit(x.numpy(), label)
    assert law.numpy() == pytest.approx(judge.predict_proba(x.numpy()), abs=1e-8)


class _Given:
    """A covariance estimator of scikit-learn that is told its answer."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def fit(self, x: np.ndarray) -> "_Given":
        return self


def test_the_mean_difference_is_that_of_the_rows():
    x, label, y = classes(500, 6, 3, seed=3, far=20.0)
    found = seen(x, y, [250, 250]).moments().mean_difference()
    for c in range(3):
        assert torch.allclose(found[:, c], x[label == c].mean(0) - x[label != c].mean(0), atol=1e-10)


@pytest.mark.parametrize(("k", "d", "far"), [(2, 5, 0.0), (3, 8, 10.0), (4, 3, 0.0)])
def test_the_eraser_is_concept_erasure_s(k, d, far):
    x, _, y = classes(800, d, k, seed=4, far=far)
    found = seen(x, y, [200] * 4).moments().leace()
    judge = LeaceEraser.fit(x, y, shrinkage=False, svd_tol=1e-9, constrain_cov_trace=False)
    erased = found(x)
    assert torch.allclose(erased, judge(x), atol=1e-8)
    after = Moments.of(erased, y)
    assert float(after.xy.abs().max()) < 1e-9
    assert torch.allclose(found(erased), erased, atol=1e-9), "erasing twice is erasing once"


def test_xor_is_invisible_to_linear_erasure():
    """Every class has the same mean: the eraser leaves rows as they are."""
    signs = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)] * 50).double()
    y = torch.eye(2, dtype=torch.float64)[(signs.prod(1) > 0).long()]
    assert torch.allclose(seen(signs, y, [200]).moments().leace()(signs), signs)


def linear(n: int, d: int, t: int, seed: int = 0, far: float = 0.0):
    """Correlated activations, possibly far from zero, and noisy linear targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.geomspace(3, 0.1, d)) + far
    y = x @ rng.normal(size=(d, t)) + rng.normal(size=(n, t)) + 5
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


@pytest.mark.parametrize(("n", "d"), [(300, 5), (40, 60), (500, 1), (3000, 30)])
@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_ridge_is_scikit_learn_s_at_every_strength(n, d, far, monkeypatch):
    monkeypatch.setattr("probekit.fit.moments.BLOCK", 64)  # several blocks
    x, y = linear(n, d, 3, far=far)
    ridges = (10.0, 1.0, 1e-2)
    found = Moments.of(x, y).ridge(ridges)
    for i, ridge in enumerate(ridges):
        judge = Judge(alpha=n * ridge, solver="svd").fit(x.double().numpy(), y.double().numpy())
        assert found.weight[i].T.numpy() == pytest.approx(np.atleast_2d(judge.coef_), abs=1e-5)
        assert found.predict(x)[i].numpy() == pytest.approx(judge.predict(x.double().numpy()), abs=1e-3)


def test_without_a_ridge_duplicated_and_constant_columns_are_harmless():
    x, y = linear(200, 4, 2)
    wide = torch.cat([x, x[:, :2], torch.full((200, 1), 3.0)], 1)
    plain, more = (Moments.of(v, y).ridge((0.0,)).predict(v) for v in (x, wide))
    assert torch.allclose(plain, more, atol=1e-5)


def test_what_cannot_be_told_is_refused():
    x, _, y = classes(60, 4, 2)
    with pytest.raises(FitError, match="no rows"):
        Accumulator().moments()
    sums = seen(x, y, [60])
    with pytest.raises(BadInput, match="came with"):
        sums.update(x, y[:3])
    with pytest.raises(BadInput, match="so far had 4 coordinates and 2 targets"):
        sums.update(x[:, :3], y)
    sums.update(x[:1] * torch.nan, y[:1])
    with pytest.raises(FitError, match="not finite"):
        sums.moments()
    one = seen(x, torch.ones(60, 1, dtype=torch.float64), [60]).moments()
    for refused in (one.mean_difference, one.lda):
        with pytest.raises(FitError, match="rows of its own"):
            refused()
    with pytest.raises(BadInput, match="sum to 1"):
        seen(x, y[:, :1] * 0.5 + 0.2, [60]).moments().lda()
