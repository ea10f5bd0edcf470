"""Leaving groups of rows out of a ridge regression without a second fit.

By Woodbury's identity a group's held-out residuals are (1 - H_gg)^-1 times the fitted ones, with H_gg its block of the
hat matrix.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.streamed.moments import Moments, blocks_of
from probekit.fit.streamed.source import Source


def leave_group_out(
    source: Source, y: Float[Tensor, "n t"], group: Int[Tensor, " n"], ridges: Sequence[float]
) -> Float[Tensor, "l n t"]:
    """Predictions of every row by the ridge regression of all other groups, exact, without refitting.

    The penalty stays n * ridge of all rows. Rows of a group may lie anywhere; all of them are held in float64. Raises
    BadInput for fewer than two groups, and FitError where the others cannot decide a group's coordinates (no ridge,
    fewer rows than coordinates).
    """
    if len(group) != source.n or len(group.unique()) < 2:
        raise BadInput(f"leaving groups out needs a group for each of {source.n} rows, and at least two groups.")
    moments = Moments.of(source, y)
    values, vectors = torch.linalg.eigh(moments.xx)
    order = torch.argsort(group, stable=True)
    x = torch.empty(source.n, source.d, dtype=torch.float64, device=y.device)
    for start, rows in blocks_of(source):
        x[start : start + len(rows)] = rows
    x = (x - moments.x_mean) @ vectors
    targets = y.double() - moments.y_mean
    out = torch.empty(len(ridges), *y.shape, dtype=torch.float64, device=y.device)
    sizes = torch.unique(group, return_counts=True)[1].tolist()
    one = x.new_tensor(1 / source.n)
    for i, ridge in enumerate(ridges):
        inverse = 1 / (source.n * (values.clamp_min(0) + ridge)).clamp_min(1e-300)
        coefficients = inverse[:, None] * (x.T @ targets)
        for at in order.split(sizes):
            rows = x[at]
            residual = targets[at] - rows @ coefficients
            # The centred rows carry the intercept's share, 1 / n each, apart.
            left = torch.eye(len(at), dtype=x.dtype, device=x.device) - (rows * inverse) @ rows.T - one
            solved, failed = torch.linalg.solve_ex(left, residual)
            if bool(failed != 0) or not bool(torch.isfinite(solved).all()):
                raise FitError(f"a group of {len(at)} rows cannot be left out of {source.n} without a larger ridge.")
            out[i, at] = y[at].double() - solved
    return out
