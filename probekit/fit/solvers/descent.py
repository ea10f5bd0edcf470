"""L-BFGS for smooth losses that need not be convex, from many starts at once, each with steps of its own."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Losses [s] of points [s, p], each of its own point alone, and what gives their slopes [s, p] when it is called.
Objective = Callable[[Tensor], tuple[Tensor, Callable[[], Tensor]]]
HISTORY = 8
CHECK = 3  # iterations between two looks at the rows that decide when to stop
BACKTRACKS = 6
FIRST = 0.3  # length of the first step of all, whose curvature nothing is known of


def descend(
    losses: Objective, x: Float[Tensor, "s p"], steps: int, check: Callable[[Tensor], Tensor], gain: float = 0.0
) -> tuple[Float[Tensor, "s p"], Float[Tensor, " s"]]:
    """Of every start's path downhill the point of lowest `check`, looked at every few iterations, and its check.

    check maps points [s, p] to what decides [s], again each of its own point alone. A start is itself such a point, so
    that none is returned worse than it came. Ends early once two looks in a row have found no point better by `gain`.
    """
    value, slope_of = losses(x)
    gradient = slope_of()
    moves, changes = (x.new_zeros(len(x), 0, x.shape[1], dtype=torch.float64) for _ in range(2))
    curvature = torch.ones_like(value)
    kept, lowest, idle = x, check(x), 0
    for i in range(steps):
        step = _direction(gradient, moves, changes, curvature)
        slope = (gradient * step).sum(1)
        uphill = slope >= 0
        step, slope = torch.where(uphill[:, None], -gradient, step), torch.where(uphill, -(gradient**2).sum(1), slope)
        length = torch.ones_like(value) if i else (FIRST / gradient.norm(dim=1).clamp_min(1e-8)).clamp_max(1.0)
        for _ in range(BACKTRACKS):
            moved = x + length[:, None] * step
            new, slope_of = losses(moved)
            short = ~(new <= value + 1e-4 * length * slope)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 4, length)
        # A start that finds no shorter step stays where it is; the others go on.
        moved = torch.where(short[:, None], x, moved)
        after = torch.where(short[:, None], gradient, slope_of())
        s, y = moved - x, after - gradient
        along = (s * y).sum(1)
        known = along > 1e-12
        curvature = torch.where(known, along / (y * y).sum(1).clamp_min(1e-20), curvature)
        s, y = (torch.where(known[:, None], part, 0.0).double()[:, None] for part in (s, y))
        moves, changes = (torch.cat([old[:, 1 - HISTORY :], new], 1) for old, new in ((moves, s), (changes, y)))
        x, value, gradient = moved, torch.where(short, value, new), after
        if i % CHECK == CHECK - 1 or i == steps - 1:
            seen = check(x)
            better = seen < lowest - gain
            kept, lowest = torch.where(better[:, None], x, kept), torch.where(better, seen, lowest)
            idle = 0 if bool(better.any()) else idle + 1
            if idle == 2:
                break
    return kept, lowest


def _direction(
    gradient: Float[Tensor, "s p"],
    moves: Float[Tensor, "s m p"],
    changes: Float[Tensor, "s m p"],
    curvature: Float[Tensor, " s"],
) -> Float[Tensor, "s p"]:
    """Minus the inverse Hessian of L-BFGS on the gradient, in the compact form of Byrd, Nocedal and Schnabel (1994).

    Pairs of a move and the gradient's change, oldest first; one that is all zero counts for nothing. The form needs a
    few products for all pairs and starts, where the recursion of two loops needs several for each.
    """
    g, scale = gradient.double()[..., None], curvature.double()[:, None, None]
    along, turned = moves @ g, changes @ g
    products = moves @ changes.mT
    curved = torch.diagonal(products, dim1=1, dim2=2)
    upper = products.triu() + torch.diag_embed((curved == 0).double())
    v = torch.linalg.solve_triangular(upper, along, upper=True)
    inner = curved[..., None] * v + scale * (changes @ (changes.mT @ v) - turned)
    w = torch.linalg.solve_triangular(upper.mT, inner, upper=False)
    return -(scale * (g - changes.mT @ v) + moves.mT @ w)[..., 0].to(gradient.dtype)
