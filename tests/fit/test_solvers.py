"""Both solvers against scikit-learn over shapes, conditionings and class counts, and against each other; bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from probekit.errors import FitError
from probekit.fit.frame import fit_frame
from probekit.fit.path import fit_path
from probekit.fit.readout import TOLERANCE, Rows, fit_readout
from probekit.fit.solvers.blocks import Blocks, class_basis
from probekit.fit.solvers.lbfgs import STALLED, minimise
from probekit.fit.solvers.newton import Products, minimise_newton, newton_is_cheaper

SHAPES = [(60, 90), (400, 1), (300, 8), (1500, 40)]


def draw(n: int, d: int, k: int, spectrum: str, seed: int):
    """Activations of a stated conditioning and labels [n]: (x, labels)."""
    rng = np.random.default_rng(seed)
    spread = {
        "flat": np.ones(d),
        "power law": np.arange(1, d + 1) ** -1.5,
        "outlier": np.where(np.arange(d) == d // 2, 1000.0, 1.0),
    }[spectrum]
    h = rng.normal(size=(n, d))
    p = softmax(3 * h @ rng.normal(size=(d, k)) / math.sqrt(d), axis=1)
    label = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    label[:k] = np.arange(k)
    turn = np.eye(d) if spectrum == "outlier" else np.linalg.qr(rng.normal(size=(d, d)))[0]
    return torch.tensor(h * spread @ turn, dtype=torch.float32), torch.tensor(label)


def one_hot(label: torch.Tensor, k: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(label, k).T[:, None].float().contiguous()


def objective(z, law, weight, bias, ridge: float) -> float:
    """Nats per row in float64: weight [k, r], bias [k]."""
    logits = z.double() @ weight.double().T + bias.double()
    data = (torch.logsumexp(logits, 1) - (law[:, 0].double().T * logits).sum(1)).mean()
    return float(data + ridge / 2 * (weight.double() ** 2).sum())


def solve(solver: str, z, law, variance, ridge: float, offset=None, tolerance=TOLERANCE, step: int = 0):
    """Parameters [k, t, r + 2] by the named solver."""
    ridges = torch.full((law.shape[1],), ridge)
    if solver == "newton":
        w, certificate = minimise_newton(Products.of(z, variance), law, offset, ridges[None], None, tolerance)
        w, certificate = w[:, 0], certificate[0]
    else:
        rows = Blocks(z, step or len(z))
        w, certificate = minimise(rows, law, offset, variance, ridges, None, tolerance)
    assert bool((certificate <= STALLED * tolerance).all())
    return w


@pytest.mark.parametrize("solver", ["blocks", "newton"])
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("spectrum", ["flat", "power law", "outlier"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_minimum_is_scikit_learn_s(shape, spectrum, k, solver):
    n, d = shape
    x, label = draw(n, d, k, spectrum, k)
    frame = fit_frame(x)
    z, law, ridge = frame.apply(x), one_hot(label, k), 1e-3
    w = solve(solver, z, law, frame.variance, ridge, step=128)
    judge = LogisticRegression(
        C=1 / (n * ridge / (2 if k == 2 else 1)), solver="newton-cholesky", tol=1e-9, max_iter=1000
    ).fit(z.double().numpy(), label)
    weight, bias = torch.tensor(judge.coef_), torch.tensor(judge.intercept_)
    if k == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    best = objective(z, law, weight, bias, ridge)
    ours = objective(z, law, w[:, 0, :-2], w[:, 0, -2], ridge)
    assert -1e-6 < ours - best < 20 * TOLERANCE, (ours, best)


def test_separable_data_end_at_the_minimum_that_the_ridge_sets():
    x, _ = draw(500, 6, 2, "flat", 0)
    law = one_hot((x[:, 0] > 0).long(), 2)
    for solver in ("blocks", "newton"):
        w = solve(solver, x, law, x.var(0), 1e-4)
        judge = LogisticRegression(C=1 / (500 * 0.5e-4), solver="newton-cholesky", tol=1e-10).fit(x, x[:, 0] > 0)
        assert torch.allclose((w[1, 0, :-2] - w[0, 0, :-2]).double(), torch.tensor(judge.coef_[0]), rtol=0.05, atol=0.1)
        assert float(w[1, 0, 0] - w[0, 0, 0]) > 5


def test_the_solvers_agree_beside_a_floor_for_weighted_rows_and_many_targets():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(700, 5, generator=g) * torch.tensor([3.0, 2, 1, 0.5, 0.1])
    law = torch.softmax(2 * torch.randn(3, 4, 700, generator=g) + z.T[:3, None], 0)
    offset = torch.randn(3, 4, 700, generator=g) + torch.log(law)
    weighed = law * torch.rand(4, 700, generator=g) * 2
    for laws, floor in ((law, None), (law, offset), (weighed, None), (weighed, offset)):
        found = [solve(s, z, laws, z.var(0), 1e-2, floor, 1e-8, 100) for s in ("blocks", "newton")]
        assert torch.allclose(found[0], found[1], atol=5e-3)
        assert float((found[1][..., :-1].sum(0)).abs().max()) < 1e-4, "weights sum to zero over classes"


def test_weighing_a_row_twice_is_having_it_twice():
    g = torch.Generator().manual_seed(1)
    z, law = torch.randn(300, 4, generator=g), one_hot(torch.randint(0, 3, (300,), generator=g), 3)
    twice = torch.cat([z, z[:100]]), torch.cat([law, law[..., :100]], -1)
    heavy = law.clone()
    heavy[..., :100] *= 2
    # The mean is over rows, whatever they weigh.
    for solver in ("blocks", "newton"):
        first = solve(solver, *twice, z.var(0), 1e-2, tolerance=1e-8)
        second = solve(solver, z, heavy, z.var(0), 1e-2 * 400 / 300, tolerance=1e-8)
        assert torch.allclose(first, second, atol=3e-3)


def test_all_ridges_at_once_are_each_alone():
    x, label = draw(400, 6, 3, "power law", 2)
    law = one_hot(label, 3).repeat(1, 2, 1)
    ridges = torch.tensor([1.0, 1e-2, 1e-4])
    products = Products.of(x, x.var(0))
    together, certificate = minimise_newton(products, law, None, ridges, None, TOLERANCE)
    assert bool((certificate <= TOLERANCE).all())
    for i in range(3):
        alone = solve("blocks", x, law, x.var(0), float(ridges[i]), tolerance=1e-8)
        for weight in (together[:, i], alone):
            assert objective(x, law[:, :1], weight[:, 0, :-2], weight[:, 0, -2], float(ridges[i])) == pytest.approx(
                objective(x, law[:, :1], alone[:, 0, :-2], alone[:, 0, -2], float(ridges[i])), abs=2 * TOLERANCE
            )


@pytest.mark.parametrize("d", [6, 150])
def test_a_path_takes_for_each_target_what_does_best_on_selection(d):
    """d = 6 is solved by Newton for all ridges at once, d = 150 in turn."""
    x, _ = draw(300, d, 2, "power law", 3)
    g = torch.Generator().manual_seed(2)
    truth = torch.randn(d, 3, generator=g) * torch.tensor([20.0, 1.0, 0.0])
    law = torch.stack([torch.sigmoid(x @ truth).T, 1 - torch.sigmoid(x @ truth).T])
    law = (torch.rand(law.shape[1:], generator=g) < law[0]).float()
    law = torch.stack([law, 1 - law])
    frame = fit_frame(x[:200])
    z = frame.apply(x)
    assert newton_is_cheaper(z[:200], 2) == (d == 6)
    fit, select = Rows(z[:200], law[..., :200]), Rows(z[200:], law[..., 200:])
    lambdas = (1.0, 0.1, 1e-2, 1e-3)
    chosen = select.bits(fit_path(fit, select, frame.variance, lambdas)).mean(-1)
    every = [select.bits(fit_readout(fit.z, fit.law, None, frame.variance, ridge)).mean(-1) for ridge in lambdas]
    lowest = torch.stack([torch.ones(3), *every]).amin(0)
    # A target leaves the path where its selection loss rises, which may be before a second valley.
    assert torch.allclose(chosen, lowest, atol=5e-3)


def test_differences_and_basis_are_those_of_vectors_that_sum_to_zero():
    for k in (2, 3, 7):
        basis, mix = class_basis(k, torch.zeros(1, dtype=torch.float64))
        assert torch.allclose(basis.T @ basis, torch.eye(k - 1, dtype=torch.float64))
        assert torch.allclose(basis.sum(0), torch.zeros(k - 1, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(mix, basis[:-1] - basis[-1])


@pytest.mark.parametrize("d", [4, 150])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["activations", "law", "floor"])
def test_what_is_not_finite_is_refused(where, bad, d):
    g = torch.Generator().manual_seed(4)
    z, law = torch.randn(500, d, generator=g), one_hot(torch.arange(500) % 2, 2)
    offset = torch.zeros_like(law)
    {"activations": z.T, "floor": offset, "law": law}[where][0, ..., 5] = bad
    with pytest.raises(FitError, match="not finite"):
        fit_readout(z, law, offset, torch.ones(d), 1e-2)
    with pytest.raises(FitError, match="not finite"):
        fit_path(Rows(z, law, offset), Rows(z, law, offset), torch.ones(d))
    if where == "activations":
        with pytest.raises(FitError, match="not all finite"):
            fit_frame(z)


def test_constant_columns_only():
    x = torch.full((200, 3), 7.0)
    frame = fit_frame(x)
    law = one_hot(torch.arange(200) % 4 // 3, 2)
    readout = fit_path(Rows(frame.apply(x), law), Rows(frame.apply(x), law), frame.variance)
    bits = float(Rows(frame.apply(x), law).bits(readout).mean())
    assert bits == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25), abs=1e-3)


def test_a_class_that_the_fit_rows_lack_costs_bits_but_no_crash():
    x, label = draw(300, 5, 3, "flat", 5)
    law = one_hot(label, 3)
    fit = law.clone()
    fit[1] += fit[2]
    fit[2] = 0
    readout = fit_readout(x, fit, None, x.var(0), 1e-3)
    bits = Rows(x, law).bits(readout)[0]
    assert bool(torch.isfinite(bits).all())
    assert float(bits[label == 2].mean()) > 5
    only = torch.zeros_like(law)
    only[0] = 1
    assert float(Rows(x, only).bits(fit_readout(x, only, None, x.var(0), 1e-3)).mean()) < 0.01


def test_targets_of_very_different_difficulty_leave_the_work_one_by_one():
    """Dropping converged targets changes nothing for those that stay."""
    g = torch.Generator().manual_seed(6)
    z = torch.randn(600, 30, generator=g)
    gains = torch.logspace(-2, 1.3, 12)
    score = (z @ torch.randn(30, 12, generator=g) / 30**0.5 * gains).T
    law = torch.stack([torch.sigmoid(score), 1 - torch.sigmoid(score)])
    law = (torch.rand(score.shape, generator=g) < law[0]).float()
    law = torch.stack([law, 1 - law])
    together = solve("blocks", z, law, z.var(0), 1e-3, step=100)
    for i in range(12):
        alone = solve("blocks", z, law[:, [i]], z.var(0), 1e-3)
        both = [objective(z, law[:, [i]], w[:, j, :-2], w[:, j, -2], 1e-3) for w, j in ((together, i), (alone, 0))]
        assert both[0] == pytest.approx(both[1], abs=10 * TOLERANCE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("d", [6, 150])
def test_the_accelerator_gives_the_numbers_of_the_processor(d):
    x, label = draw(2000, d, 3, "power law", 7)
    law = one_hot(label, 3)
    bits = []
    for device in ("cpu", "cuda"):
        fit, select = (
            (x[:1500].to(device), law[..., :1500].to(device)),
            (x[1500:].to(device), law[..., 1500:].to(device)),
        )
        frame = fit_frame(fit[0])
        rows = Rows(frame.apply(fit[0]), fit[1]), Rows(frame.apply(select[0]), select[1])
        bits.append(float(rows[1].bits(fit_path(*rows, frame.variance)).mean()))
    assert bits[0] == pytest.approx(bits[1], abs=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_a_floor_that_is_nearly_constant_does_not_stop_newton(spread):
    """Its coefficient and the intercept are nearly one number: rare outcomes, nearly separable, at every ridge."""
    stalled = 0
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        rare = torch.rand(1_500, generator=g) < 0.02
        z = (3 * rare + 0.2 * torch.randn(1_500, generator=g))[:, None]
        law = one_hot(rare.long(), 2)
        offset = torch.zeros_like(law)
        offset[0] = 3.9 + spread * torch.randn(1, 1_500, generator=g)
        ridges = torch.tensor([1.0, 0.1, 1e-2, 1e-3])
        products = Products.of(z, z.var(0))
        beside, certificate = minimise_newton(products, law, offset, ridges, None, TOLERANCE)
        alone, _ = minimise_newton(products, law, None, ridges, None, TOLERANCE)
        stalled += int((certificate > STALLED * TOLERANCE).sum())
        for i, ridge in enumerate(ridges.tolist()):
            weight, bias, scale = beside[:, i, 0, :-2], beside[:, i, 0, -2], beside[0, i, 0, -1]
            if spread == 0:
                # A constant is an intercept.
                told = objective(z, law, weight, bias + scale * offset[:, 0, 0], ridge)
                least = objective(z, law, alone[:, i, 0, :-2], alone[:, i, 0, -2], ridge)
                assert told == pytest.approx(least, abs=5e-5)
    assert stalled == 0
