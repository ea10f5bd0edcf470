"""The ridge chosen over several inner folds, then refitted on all their rows: selection nested inside training."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.fit.core import LAMBDAS, Readout, Rows, cross_entropy, fit_path, fit_readout, ridge_path

PATIENCE = 3  # ridges, the floor among them, before a rise of the loss ends a path

Pair = tuple[Int[Tensor, " _"], Int[Tensor, " _"]]  # pairs differ in their sizes


def fit_nested(
    fit: Rows,
    select: Rows,
    inner: Sequence[Pair] = (),
    variance: Float[Tensor, " r"] | None = None,
    lambdas: Sequence[float] = LAMBDAS,
) -> Readout:
    """Without `inner` the path of `fit`, chosen on `select`. With it, the ridge that does best on average over pairs.

    inner: positions in the rows of fit and then select. The readout is then fitted on all of these rows, per target
    with its own ridge; infinite ridge is the floor itself.
    """
    if not inner:
        return fit_path(fit, select, variance, lambdas)
    whole = join(fit, select)
    if variance is None:
        variance = whole.z.var(0, correction=0).clamp_min(1e-12)
    asked = sorted(lambdas, reverse=True)
    ridge = torch.tensor([math.inf, *asked], dtype=whole.z.dtype, device=whole.z.device)[
        _losses(whole, inner, variance, asked).argmin(0)
    ]
    known = torch.isfinite(ridge)
    fitted = fit_readout(whole.z, whole.law, whole.offset, variance, torch.where(known, ridge, asked[0]))
    return Readout(
        torch.where(known[:, None], fitted.weight, 0.0),
        torch.where(known, fitted.bias, 0.0),
        torch.where(known, fitted.scale, 1.0),
        ridge,
    )


def join(fit: Rows, select: Rows) -> Rows:
    """Rows of both sides, one after the other."""
    offset = None
    if fit.offset is not None and select.offset is not None:
        offset = torch.cat([fit.offset, select.offset], -1)
    return Rows(torch.cat([fit.z, select.z]), torch.cat([fit.law, select.law], -1), offset)


def take(rows: Rows, at: Int[Tensor, " n"] | slice) -> Rows:
    """Some of the rows."""
    return Rows(rows.z[at], rows.law[..., at], None if rows.offset is None else rows.offset[..., at])


def _losses(whole: Rows, inner: Sequence[Pair], variance: Tensor, lambdas: Sequence[float]) -> Float[Tensor, "l t"]:
    """Held-out bits over all pairs of the floor and of ridges, largest first, until they have risen for every target.

    A ridge that has no minimum within reach in some pair ends the path too.
    """
    held_out = [take(whole, b) for _, b in inner]
    paths = [ridge_path(take(whole, a), variance, lambdas) for a, _ in inner]
    out = [_sum([cross_entropy(rows.beside, rows.law).mean(-1) for rows in held_out])]
    for readouts in zip(*paths, strict=False):
        out.append(_sum([rows.bits(one).mean(-1) for rows, one in zip(held_out, readouts, strict=True)]))
        if len(out) > PATIENCE and bool((out[-1] > out[-2]).all()):
            break
    return torch.stack(out)


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)
