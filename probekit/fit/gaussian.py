"""Gaussian: a readout of a number beside what a floor predicts, solved at every ridge from one decomposition.

The number is the one outcome of its `law`, the prediction that of the logits. What a row loses is the cross-entropy of
a Gaussian of variance 1 around the prediction, less its constant: half the squared error, in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.fit.frame import MOMENT_BLOCK, eigh, moments

ALL_SAID = 1e-9  # of what the floor says, the part beyond the coordinates below which its coefficient is not told apart


def is_value(law: Float[Tensor, "outcome t n"]) -> bool:
    """Whether rows show a number, and no law over outcomes."""
    return len(law) == 1


@dataclass(frozen=True)
class Normal:
    """The normal equations of t numbers on the same rows, in the coordinates in which those of the rows are diagonal.

    mean: of coordinates [r], numbers [t] and floors [t]. own [r]: eigenvalues of the covariance; axes [r, r]. Products
    with what the numbers (`told`) and the floors (`beside`) say [r, t]; `square` and `both` [t]: of floors with
    themselves and with the numbers. Means over rows, in float64.
    """

    mean: tuple[Tensor, Tensor, Tensor]
    own: Float[Tensor, " r"]
    axes: Float[Tensor, "r r"]
    told: Float[Tensor, "r t"]
    beside: Float[Tensor, "r t"]
    square: Float[Tensor, " t"]
    both: Float[Tensor, " t"]

    @classmethod
    def of(cls, z: Float[Tensor, "n r"], y: Float[Tensor, "t n"], floor: Float[Tensor, "t n"]) -> "Normal":
        n, t = len(z), len(y)
        sides = torch.cat([y, floor]).double()
        means = sides.mean(1)
        sides = sides - means[:, None]
        z_mean, moment = moments(z)
        cross = torch.zeros(z.shape[1], 2 * t, dtype=torch.float64, device=z.device)
        for rows, some in zip(z.split(MOMENT_BLOCK), sides.split(MOMENT_BLOCK, 1), strict=True):
            cross.addmm_((rows.double() - z_mean).T, some.T, alpha=1 / n)
        own, axes = eigh(moment)
        told, beside = (axes.T @ cross).split(t, 1)
        number, said = sides.split(t)
        square, both = (said**2).mean(1), (said * number).mean(1)
        return cls((z_mean, means[:t], means[t:]), own.clamp_min(0), axes, told, beside, square, both)

    def solve(self, ridges: Float[Tensor, "l t"]) -> tuple[Tensor, Tensor, Tensor]:
        """weight [l, t, r], bias [l, t] and the floor's coefficient [l, t] of least error plus ridge / 2 |weight|^2.

        The coefficient has no penalty (fit/readout.py says why it is fitted); it is 1 where coordinates say all that
        the floor does.
        """
        bends = self.own[:, None] + ridges.double()[:, None]  # [l, r, t]
        through = self.beside / bends
        left = self.square - (through * self.beside).sum(1)
        free = left > ALL_SAID * self.square
        scale = torch.where(free, (self.both - (through * self.told).sum(1)) / left.clamp_min(1e-300), 1.0)
        weight = torch.einsum("rq,lqt->ltr", self.axes, (self.told - scale[:, None] * self.beside) / bends)
        z_mean, y_mean, floor_mean = self.mean
        return weight, y_mean - scale * floor_mean - weight @ z_mean, scale


def half_square(said: Float[Tensor, "1 t n"], value: Float[Tensor, "1 t n"]) -> Float[Tensor, "t n"]:
    """What a prediction of a number loses, in nats."""
    return 0.5 * ((value - said) ** 2)[0]


def choose(
    normals: Sequence[Normal],
    held_out: Sequence[tuple[Float[Tensor, "_ r"], Float[Tensor, "t _"], Float[Tensor, "t _"]]],
    lambdas: Sequence[float],
) -> Float[Tensor, " t"]:
    """The ridge per number that loses least on rows held out, mean of folds; infinite where the floor alone does best.

    held_out: of each fold coordinates, numbers, and what the floor says.
    """
    t = len(normals[0].square)
    asked = torch.tensor(sorted(lambdas, reverse=True), dtype=torch.float64, device=normals[0].own.device)
    lost = torch.zeros(1 + len(asked), t, dtype=torch.float64, device=asked.device)
    for normal, (z, y, floor) in zip(normals, held_out, strict=True):
        weight, bias, scale = normal.solve(asked[:, None].expand(-1, t))
        lost[0] += ((y - floor) ** 2).double().mean(1)
        parts = z.split(MOMENT_BLOCK), y.split(MOMENT_BLOCK, 1), floor.split(MOMENT_BLOCK, 1)
        for rows, number, said in zip(*parts, strict=True):
            found = torch.einsum("ltr,nr->ltn", weight, rows.double()) + bias[..., None] + scale[..., None] * said
            lost[1:] += ((number - found) ** 2).sum(2) / len(z)
    best: Int[Tensor, " t"] = lost.argmin(0)
    return torch.where(best > 0, asked[(best - 1).clamp_min(0)], torch.inf).float()
