"""The ridge chosen over several inner folds, then refitted on all their rows: selection nested inside training."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.core import LAMBDAS, Readout, Rows, fit_path, fit_readout

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
    total = sum(_losses(take(whole, a), take(whole, b), variance, asked) for a, b in inner)
    assert isinstance(total, Tensor)
    best = total.argmin(0)  # 0: the floor itself
    ridge = torch.tensor([math.inf, *asked], dtype=whole.z.dtype, device=whole.z.device)[best]
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


def take(rows: Rows, at: Int[Tensor, " n"]) -> Rows:
    """Some of the rows."""
    return Rows(rows.z[at], rows.law[..., at], None if rows.offset is None else rows.offset[..., at])


def _losses(fit: Rows, select: Rows, variance: Tensor, lambdas: Sequence[float]) -> Float[Tensor, "n_lambda t"]:
    """Held-out bits of the floor and of every ridge; a ridge that has no minimum within reach counts as infinite."""
    k, t, _ = fit.law.shape
    floor = Readout(
        fit.z.new_zeros(k, t, fit.z.shape[1]), fit.z.new_zeros(k, t), fit.z.new_ones(t), fit.z.new_full((t,), math.inf)
    )
    out, current = [select.bits(floor).mean(-1)], None
    for ridge in lambdas:
        try:
            current = fit_readout(fit.z, fit.law, fit.offset, variance, ridge, current)
        except FitError:
            if current is None:
                raise
            break
        out.append(select.bits(current).mean(-1))
    out += [torch.full_like(out[0], math.inf)] * (len(lambdas) + 1 - len(out))
    return torch.stack(out)
