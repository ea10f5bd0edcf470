"""L-BFGS for smooth losses that need not be convex, from many starts at once, each with steps of its own."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.solver import HISTORY, lbfgs_direction

Losses = Callable[[Tensor], Tensor]
CHECK = 3  # iterations between two looks at the rows that decide when to stop
BACKTRACKS = 6
FIRST = 0.3  # length of the first step of all, whose curvature nothing is known of


def descend(
    losses: Losses, x: Float[Tensor, "s p"], steps: int, check: Losses
) -> tuple[Float[Tensor, "s p"], Float[Tensor, " s"]]:
    """Of every start's path downhill the point of lowest `check`, looked at every few iterations, and its check.

    losses and check map points [s, p] to losses [s], each of its own point alone. A start is itself such a point, so
    that none is returned worse than it came. Ends early once no start has found a better point at two looks in a row.
    """
    value, gradient = _evaluate(losses, x)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    curvature = torch.ones_like(value)
    kept, lowest, idle = x, check(x).detach(), 0
    for i in range(steps):
        step = lbfgs_direction(gradient[None], pairs, lambda g, c=curvature: g * c[None, :, None])[0]
        slope = (gradient * step).sum(1)
        uphill = slope >= 0
        step, slope = torch.where(uphill[:, None], -gradient, step), torch.where(uphill, -(gradient**2).sum(1), slope)
        length = torch.ones_like(value) if pairs else (FIRST / gradient.norm(dim=1).clamp_min(1e-8)).clamp_max(1.0)
        for _ in range(BACKTRACKS):
            moved = x + length[:, None] * step
            new, after = _evaluate(losses, moved)
            short = ~(new <= value + 1e-4 * length * slope)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 4, length)
        # A start that finds no shorter step stays where it is; the others go on.
        moved = torch.where(short[:, None], x, moved)
        after = torch.where(short[:, None], gradient, after)
        s, y = moved - x, after - gradient
        along = (s * y).sum(1)
        known = along > 1e-12
        rho = torch.where(known, 1 / along.clamp_min(1e-12), torch.zeros_like(along))
        curvature = torch.where(known, along / (y * y).sum(1).clamp_min(1e-20), curvature)
        pairs = [*pairs[1 - HISTORY :], (s[None], y[None], rho)]
        x, value, gradient = moved, torch.where(short, value, new), after
        if i % CHECK == CHECK - 1 or i == steps - 1:
            seen = check(x).detach()
            better = seen < lowest
            kept, lowest = torch.where(better[:, None], x, kept), torch.where(better, seen, lowest)
            idle = 0 if bool(better.any()) else idle + 1
            if idle == 2:
                break
    return kept, lowest


def _evaluate(losses: Losses, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = losses(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient
