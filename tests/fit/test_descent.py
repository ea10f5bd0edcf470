"""Descent from many starts: against SciPy's L-BFGS, each start on its own, and stopped by rows held out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen

from probekit.fit.solvers.descent import descend


def sloped(losses: Callable[[torch.Tensor], torch.Tensor]):
    """Losses, and their slopes by autograd."""

    def both(x: torch.Tensor):
        x = x.detach().requires_grad_()
        value = losses(x)
        return value.detach(), lambda: torch.autograd.grad(value.sum(), x)[0]

    return both


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def test_a_curved_valley_is_followed_to_its_end_from_every_start():
    starts = torch.tensor(np.random.default_rng(0).uniform(-2, 2, size=(6, 2)), dtype=torch.float64)
    found, value = descend(sloped(rosenbrock), starts, 200, rosenbrock)
    for start, point in zip(starts.numpy(), found.numpy(), strict=True):
        judge = minimize(rosen, start, method="L-BFGS-B")
        assert point == pytest.approx(judge.x, abs=1e-3)
    assert float(value.max()) < 1e-6


def test_every_start_goes_its_own_way():
    """A batch of starts ends where each ends alone: nothing of one reaches another."""
    starts = torch.tensor(np.random.default_rng(1).normal(size=(4, 3)), dtype=torch.float64)
    together, _ = descend(sloped(rosenbrock), starts, 30, rosenbrock)
    for i, start in enumerate(starts):
        alone, _ = descend(sloped(rosenbrock), start[None], 30, rosenbrock)
        torch.testing.assert_close(together[i], alone[0], atol=1e-8, rtol=1e-8)


def test_what_is_returned_holds_out_best():
    """The check is lowest on the way: neither the start nor the minimum of what is descended."""
    starts = torch.tensor([[4.0, 4.0], [3.0, -2.0]], dtype=torch.float64)
    loss = lambda x: (torch.tensor([1e-2, 3e-2]) * x**2).sum(1)  # noqa: E731
    check = lambda x: ((x - 1) ** 2).sum(1)  # noqa: E731
    found, seen = descend(sloped(loss), starts, 40, check)
    torch.testing.assert_close(seen, check(found))
    assert bool((seen <= check(starts)).all())
    end, _ = descend(sloped(loss), starts, 40, loss)
    assert bool((seen < check(end) - 0.1).all())


def test_a_start_without_a_slope_stays():
    starts = torch.zeros(2, 2, dtype=torch.float64)
    found, value = descend(sloped(lambda x: (x**2).sum(1)), starts, 5, lambda x: (x**2).sum(1))
    assert torch.equal(found, starts)
    assert bool((value == 0).all())
