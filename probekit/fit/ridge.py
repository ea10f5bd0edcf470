"""What sums over rows alone decide: ridge regression, discriminants and mean differences, from one streamed pass.

Leaving a group of rows out of a ridge regression needs no second fit: by Woodbury's identity its held-out residuals are
(1 - H_gg)^-1 times the fitted ones, with H_gg the group's block of the hat matrix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.stream import NOT_FINITE, Source

BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Moments:
    """Means and central second moments of activations x [n, d] and targets y [n, t], in float64.

    xx [d, d] = E[(x - mean)(x - mean)^T], xy [d, t] likewise; yy [t] the variance of each target.
    """

    n: int
    x_mean: Float[Tensor, " d"]
    y_mean: Float[Tensor, " t"]
    xx: Float[Tensor, "d d"]
    xy: Float[Tensor, "d t"]
    yy: Float[Tensor, " t"]

    @classmethod
    def of(cls, source: Source, y: Float[Tensor, "n t"]) -> "Moments":
        """One pass over the rows. Raises FitError for values that are not finite, BadInput for lengths that differ."""
        if len(y) != source.n:
            raise BadInput(f"targets have {len(y)} rows, the source {source.n}.")
        d, t = source.d, y.shape[1]
        shift: Tensor | None = None
        both = torch.zeros(d + t, d + t, dtype=torch.float64, device=y.device)
        total = torch.zeros(d + t, dtype=torch.float64, device=y.device)
        for start, x in _blocks(source):
            rows = torch.cat([x.to(y.device), y[start : start + len(x)].double()], 1)
            # Shifted by an early mean, so that the moments of what lies far from zero do not cancel.
            shift = rows.mean(0) if shift is None else shift
            rows = rows - shift
            both += rows.T @ rows
            total += rows.sum(0)
        if shift is None or not bool(torch.isfinite(both).all()):
            raise FitError(NOT_FINITE)
        delta = total / source.n
        both = both / source.n - torch.outer(delta, delta)
        mean = shift + delta
        return cls(source.n, mean[:d], mean[d:], both[:d, :d], both[:d, d:], both[d:, d:].diagonal().clone())


@dataclass(frozen=True)
class Ridge:
    """prediction = x @ weight + bias; weight [ridge, d, t], bias [ridge, t], one of each per asked ridge."""

    weight: Float[Tensor, "l d t"]
    bias: Float[Tensor, "l t"]

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "l n t"]:
        """Predictions of every ridge."""
        return x.to(self.weight) @ self.weight + self.bias[:, None]


def fit_ridge(moments: Moments, ridges: Sequence[float]) -> Ridge:
    """Minimise E[(y - x w - b)^2] + ridge |w|^2 for every ridge by one decomposition.

    ridge is scikit-learn's alpha / n.
    """
    values, vectors = torch.linalg.eigh(moments.xx)
    turned = vectors.T @ moments.xy
    strength = torch.tensor(list(ridges), dtype=torch.float64, device=values.device)[:, None]
    # Without a ridge, what has no variance gets no weight.
    bent = values.clamp_min(0) + strength
    least = values[-1].clamp_min(0) * 1e-12
    scale = torch.where(bent > least, 1 / bent.clamp_min(1e-300), torch.zeros_like(bent))
    weight = vectors @ (scale[..., None] * turned)
    return Ridge(weight, moments.y_mean - (moments.x_mean[:, None] * weight).sum(1))


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
    for start, rows in _blocks(source):
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


def discriminant(moments: Moments, shrinkage: float = 1e-3) -> tuple[Float[Tensor, "d t"], Float[Tensor, "d t"]]:
    """Mean-difference and linear-discriminant direction of each one-hot target against the rest, unit columns.

    The discriminant uses the covariance within the two classes, shrunk towards its mean variance.
    """
    share = moments.y_mean.clamp(1e-12, 1 - 1e-12)
    weight = share * (1 - share)
    # E[(x - mean) y] is the difference of the two class means, times the product of their shares.
    difference = moments.xy / weight
    d = len(moments.xx)
    eye = torch.eye(d, dtype=moments.xx.dtype, device=moments.xx.device)
    fisher = torch.empty_like(difference)
    for i in range(difference.shape[1]):
        within = moments.xx - weight[i] * torch.outer(difference[:, i], difference[:, i])
        within = within + shrinkage * within.diagonal().mean() * eye
        fisher[:, i] = torch.linalg.solve(within, difference[:, i])
    return difference / difference.norm(dim=0), fisher / fisher.norm(dim=0)


def _blocks(source: Source) -> Iterator[tuple[int, Float[Tensor, "b d"]]]:
    """First row and rows of each block, in float64."""
    step = max(64, BLOCK_BYTES // (8 * source.d))
    for start in range(0, source.n, step):
        yield start, source.read(start, min(source.n, start + step)).double()
