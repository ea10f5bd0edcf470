"""What sums over rows alone decide: mean differences, discriminants, ridge regression and erasers, from one pass.

Rows come in batches and need not be kept. Every batch is centred on its own mean and merged in float64 (Chan, Golub and
LeVeque 1983), so that nothing cancels however far from zero activations lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import BadInput, FitError

BLOCK = 4_096  # rows that are centred together


@dataclass(frozen=True)
class Ridge:
    """prediction = x @ weight + bias; weight [ridge, d, t], bias [ridge, t], one of each per asked ridge."""

    weight: Float[Tensor, "l d t"]
    bias: Float[Tensor, "l t"]

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "l n t"]:
        """Predictions of every ridge."""
        return x.to(self.weight) @ self.weight + self.bias[:, None]


@dataclass(frozen=True)
class Discriminant:
    """Logits x @ weight + bias of classes that share a covariance; weight [d, t], bias [t], the log share in it."""

    weight: Float[Tensor, "d t"]
    bias: Float[Tensor, " t"]

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n t"]:
        """Log of each class's probability, up to a constant per row."""
        return x.to(self.weight) @ self.weight + self.bias


@dataclass(frozen=True)
class Eraser:
    """x - left @ right @ (x - mean): no linear readout of the erased targets does better than their mean any more."""

    mean: Float[Tensor, " d"]
    left: Float[Tensor, "d k"]
    right: Float[Tensor, "k d"]

    def __call__(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Erase, in the dtype of the statistics; the result has that of x."""
        wide = x.to(self.mean)
        return (wide - (wide - self.mean) @ self.right.T @ self.left.T).to(x.dtype)


@dataclass(frozen=True)
class Moments:
    """Means and central second moments of activations x [n, d] and targets y [n, t], in float64.

    xx [d, d] = E[(x - mean)(x - mean)^T], xy [d, t] likewise; yy [t] the variance of each target. Targets of classes
    are one-hot, or laws.
    """

    n: int
    x_mean: Float[Tensor, " d"]
    y_mean: Float[Tensor, " t"]
    xx: Float[Tensor, "d d"]
    xy: Float[Tensor, "d t"]
    yy: Float[Tensor, " t"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], y: Float[Tensor, "n t"]) -> "Moments":
        """One pass over the rows. Raises FitError for values that are not finite."""
        sums = Accumulator()
        for rows, targets in zip(x.split(BLOCK), y.split(BLOCK), strict=True):
            sums.update(rows, targets)
        return sums.moments()

    def mean_difference(self) -> Float[Tensor, "d t"]:
        """Mean of each class minus the mean of the rest, in the units of x. Raises FitError for a class of no rows."""
        share = self._share()
        # E[(x - mean) y] is this difference times the product of both shares.
        return self.xy / (share * (1 - share))

    def lda(self, shrinkage: float = 0.0) -> Discriminant:
        """Linear discriminant of the classes (Fisher 1936), with their pooled covariance and their shares as prior.

        shrinkage: the part of the covariance that is replaced by its mean variance. Raises BadInput where the targets
        are not the classes of one question, and FitError for a class of no rows or a covariance that is singular.
        """
        share = self._share()
        if abs(float(share.sum()) - 1) > 1e-6:
            raise BadInput(f"a discriminant needs targets that sum to 1; their means sum to {float(share.sum()):.4g}.")
        centres = self.xy / share
        within = self.xx - (centres * share) @ centres.T
        eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
        within = (1 - shrinkage) * within + shrinkage * within.diagonal().mean() * eye
        # Scaled to a unit diagonal, so that it is singular or not whatever the units of the coordinates.
        scale = within.diagonal().clamp_min(1e-300).rsqrt()
        factor, failed = torch.linalg.cholesky_ex(within * scale * scale[:, None])
        if bool(failed != 0) or float(factor.diagonal().min()) < 1e-7:
            raise FitError(
                f"the covariance of {len(within)} coordinates is singular: use a shrinkage above {shrinkage}."
            )
        means = centres + self.x_mean[:, None]
        weight = scale[:, None] * torch.cholesky_solve(scale[:, None] * centres, factor)
        return Discriminant(weight, share.log() - 0.5 * ((means + self.x_mean[:, None]) * weight).sum(0))

    def ridge(self, ridges: Sequence[float]) -> Ridge:
        """Minimise E[(y - x w - b)^2] + ridge |w|^2 for every ridge by one decomposition.

        ridge is scikit-learn's alpha / n.
        """
        values, vectors = torch.linalg.eigh(self.xx)
        strength = torch.tensor(list(ridges), dtype=torch.float64, device=values.device)[:, None]
        # Without a ridge, what has no variance gets no weight.
        bent = values.clamp_min(0) + strength
        least = values[-1].clamp_min(0) * 1e-12
        scale = torch.where(bent > least, 1 / bent.clamp_min(1e-300), torch.zeros_like(bent))
        weight = vectors @ (scale[..., None] * (vectors.T @ self.xy))
        return Ridge(weight, self.y_mean - (self.x_mean[:, None] * weight).sum(1))

    def leace(self, tolerance: float = 1e-9) -> Eraser:
        """The least change of x, in its own covariance, after which no linear readout knows the targets.

        Belrose et al. 2023, theorem 4.3. tolerance: singular values of the whitened cross-covariance below it are 0, in
        units where it is a correlation with a target as it is.
        """
        values, vectors = torch.linalg.eigh(self.xx)
        kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
        root, vectors = values[kept].sqrt(), vectors[:, kept]
        u, size, _ = torch.linalg.svd((vectors / root).T @ self.xy, full_matrices=False)
        u = u[:, size > tolerance]
        return Eraser(self.x_mean, (vectors * root) @ u, (u.T / root) @ vectors.T)

    def _share(self) -> Float[Tensor, " t"]:
        if not bool(((self.y_mean > 0) & (self.y_mean < 1)).all()):
            raise FitError(f"each class needs rows of its own and others; mean targets are {self.y_mean.tolist()}.")
        return self.y_mean


class Accumulator:
    """Sums over rows that come in batches, in any order; what two have seen of different rows can be merged.

    It holds (d + t)^2 numbers, however many rows it has seen.
    """

    def __init__(self) -> None:
        self.n, self.d = 0, 0
        self.mean, self.scatter = torch.empty(0), torch.empty(0)

    def update(self, x: Float[Tensor, "b d"], y: Float[Tensor, "c t"]) -> None:
        """Take in the rows of a batch, targets on whatever device they are. Raises BadInput for lengths that differ."""
        if len(x) != len(y):
            raise BadInput(f"a batch of {len(x)} rows came with {len(y)} targets.")
        if not len(x):
            return
        rows = torch.cat([x.double(), y.to(x.device).double()], 1)
        mean = rows.mean(0)
        rows -= mean
        self._begin(x.shape[1], mean)
        self.scatter.addmm_(rows.T, rows)
        self._shift(len(x), mean)

    def merge(self, other: "Accumulator") -> None:
        """Take in what another one has seen."""
        if other.n:
            self._begin(other.d, other.mean)
            self.scatter += other.scatter
            self._shift(other.n, other.mean)

    def moments(self) -> Moments:
        """What was seen so far. Raises FitError for no rows, or values that are not finite."""
        if not self.n:
            raise FitError("moments of no rows are not defined: at least one batch is needed.")
        if not bool(torch.isfinite(self.scatter).all()):
            raise FitError("moments were asked of activations that are not finite.")
        d, both = self.d, self.scatter / self.n
        mean = self.mean.clone()
        return Moments(self.n, mean[:d], mean[d:], both[:d, :d], both[:d, d:], both[d:, d:].diagonal().clone())

    def _begin(self, d: int, mean: Tensor) -> None:
        if not self.n:
            self.d, self.mean = d, torch.zeros_like(mean)
            self.scatter = mean.new_zeros(len(mean), len(mean))
        elif d != self.d or len(mean) != len(self.mean):
            found = f"{self.d} coordinates and {len(self.mean) - self.d} targets"
            raise BadInput(f"batches so far had {found}; this one has {d} and {len(mean) - d}.")

    def _shift(self, n: int, mean: Tensor) -> None:
        """Account for the distance between the means of what was known and what came."""
        delta, share = mean - self.mean, n / (self.n + n)
        self.scatter.addr_(delta, delta, alpha=self.n * share)
        self.mean += share * delta
        self.n += n
