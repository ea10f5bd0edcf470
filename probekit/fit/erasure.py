"""Erasure: the least change of activations after which no linear reader learns anything of a concept (LEACE)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.frame import eigh

NOTHING = 1e-9  # of the largest variance, below which a coordinate does not vary


@dataclass(frozen=True)
class Eraser:
    """h -> h - away @ (onto @ (h - mean)). mean [d], onto [k, d], away [d, k]; k is what the concept takes up."""

    mean: Float[Tensor, " d"]
    onto: Float[Tensor, "k d"]
    away: Float[Tensor, "d k"]

    @property
    def k(self) -> int:
        return len(self.onto)

    def __call__(self, act: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        mean, onto, away = (part.to(act) for part in (self.mean, self.onto, self.away))
        return act - (act - mean) @ onto.mT @ away.mT


def fit_eraser(x: Float[Tensor, "n d"], concept: Float[Tensor, "n m"]) -> Eraser:
    """Least-squares concept erasure (Belrose et al. 2023, arXiv 2306.03819, Theorem 4.3).

    concept: numbers or one-hot labels of each row. With W the inverse square root of the covariance of x, what is taken
    away is W^+ P W (x - mean), P the projection onto the columns of W cov(x, concept). Fitted in double precision.
    """
    z, labels = (values.double() - values.double().mean(0) for values in (x, concept))
    variance, axes = eigh(z.T @ z / len(z))
    kept = variance > NOTHING * variance.max()
    root, axes = variance[kept].sqrt(), axes[:, kept]
    moved = (axes.T @ (z.T @ labels) / len(z)) / root[:, None]
    u, size, _ = torch.linalg.svd(moved, full_matrices=False)
    # what rounding leaves of a concept that is not there at all must not be taken for it
    most = labels.square().mean(0).sum().sqrt()
    u = u[:, size > 1e-6 * most]
    return Eraser(x.double().mean(0), (axes / root @ u).T, axes * root @ u)
