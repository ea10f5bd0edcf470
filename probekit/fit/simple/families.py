"""Families of simple functions, many of one kind at once: features along directions, losses, and slopes written out.

Rows come last ([start, feature, n]): products with a few directions and cells of a few cuts are then contiguous, which
costs a fraction of what rows first do. Logits are differences to the last outcome, one for a binary law. The weights of
the last layer live in an orthonormal basis of what sums to zero over outcomes, so that descent sees no outcome as
special. Families, stated once:

    one_threshold, two_thresholds   each direction is cut into 2 or 3 cells, one vector of logits per cell
    quadratic                       z_i and all products z_i z_j, i <= j
    bilinear                        z_i and products of different directions
    cubic                           z_i, z_i^2, z_i^3 and products of different directions
    mlp16                           one hidden layer of 16 ReLU units
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.readout import Rows

CUTS = {"one_threshold": 1, "two_thresholds": 2}
POWERS = {"bilinear": 1, "quadratic": 2, "cubic": 3}
HIDDEN = 16
Parameters = dict[str, Tensor]


def n_features(kind: str, k: int) -> int:
    """Width of what the readout sees, for k directions."""
    if kind == "mlp16":
        return HIDDEN
    return k * CUTS[kind] if kind in CUTS else POWERS[kind] * k + k * (k - 1) // 2


def features_of(
    kind: str, s: Float[Tensor, "s k n"], shape: Parameters, steepness: float | None = None
) -> Float[Tensor, "s f n"]:
    """Features of projections; thresholds are soft while `steepness` is given, hard when None."""
    if kind in CUTS:
        gap = s[:, :, None] - shape["cuts"][..., None]  # cuts [start, k, 1 or 2]
        return ((gap > 0).to(s.dtype) if steepness is None else gap.mul_(steepness).sigmoid_()).flatten(1, 2)
    if kind == "mlp16":
        return torch.baddbmm(shape["inner_bias"][..., None], shape["inner"].mT, s).relu_()
    powers = (s**power for power in range(1, POWERS[kind] + 1))
    return torch.cat([*powers, *(s[:, i, None] * s[:, i + 1 :] for i in range(s.shape[1] - 1))], 1)


def _features_slope(
    kind: str, s: Tensor, shape: Parameters, steepness: float | None, features: Tensor, slope: Float[Tensor, "s f n"]
) -> tuple[Float[Tensor, "s k n"], Parameters]:
    """From the slope with respect to features, which may be overwritten: that to projections, and to the shape."""
    if kind in CUTS:
        assert steepness is not None, "hard thresholds have no slope"
        rise = torch.addcmul(features, features, features, value=-1).mul_(slope).mul_(steepness)
        each = rise.view(*shape["cuts"].shape, -1)
        return each.sum(2), {"cuts": -each.sum(3)}
    if kind == "mlp16":
        slope = slope.mul_(features > 0)
        return shape["inner"] @ slope, {"inner": s @ slope.mT, "inner_bias": slope.sum(2)}
    k, top = s.shape[1], POWERS[kind]
    out = slope[:, :k].clone()
    for power in range(2, top + 1):
        out.addcmul_(slope[:, (power - 1) * k : power * k], s ** (power - 1), value=power)
    start = top * k
    for i in range(k - 1):
        pairs = slope[:, start : start + k - 1 - i]
        out[:, i] += (pairs * s[:, i + 1 :]).sum(1)
        out[:, i + 1 :].addcmul_(pairs, s[:, i, None])
        start += k - 1 - i
    return out, {}


@dataclass(frozen=True)
class Contrasts:
    """Outcomes without what a law does not see: basis [outcome, q], orthonormal, of what sums to zero.

    Axes of outcomes and targets are flattened together, outcomes first.
    """

    basis: Float[Tensor, "outcome q"]

    @classmethod
    def of(cls, law: Float[Tensor, "outcome t n"]) -> "Contrasts":
        eye = torch.eye(len(law), dtype=law.dtype, device=law.device)
        return cls(torch.linalg.qr(torch.cat([torch.ones_like(eye[:, :1]), eye[:, :-1]], 1))[0][:, 1:])

    def along(self, values: Float[Tensor, "*b outcome_t"]) -> Float[Tensor, "*b qt"]:
        """Contrasts of values of every outcome."""
        return _turned(self.basis.T, values)

    def back(self, contrasts: Float[Tensor, "*b qt"]) -> Float[Tensor, "*b outcome_t"]:
        """Values of every outcome, which sum to zero."""
        return _turned(self.basis, contrasts)

    @property
    def differences(self) -> Float[Tensor, "q q"]:
        """From contrasts to differences to the last outcome."""
        return self.basis[:-1] - self.basis[-1]


def _turned(matrix: Tensor, values: Tensor) -> Tensor:
    """A matrix along outcomes, the slower of the two axes that the last one of `values` holds."""
    if matrix.shape == (1, 1):  # of a binary law, whose one contrast has no other to be mixed with
        return matrix[0] * values
    return (matrix @ values.unflatten(-1, (matrix.shape[1], -1))).flatten(-2)


@dataclass(frozen=True)
class Pack:
    """Which parameters a family has, and their places in one row of numbers per start."""

    kind: str
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, kind: str, k: int, q: int, rows: Rows) -> "Pack":
        """For k directions among q coordinates of these rows."""
        n_outcomes, t, _ = rows.law.shape
        shapes: dict[str, tuple[int, ...]] = {"directions": (q, k)}
        if kind in CUTS:
            shapes["cuts"] = (k, CUTS[kind])
        if kind == "mlp16":
            shapes |= {"inner": (k, HIDDEN), "inner_bias": (HIDDEN,)}
        free = (n_outcomes - 1) * t
        return cls(kind, shapes | {"out": (n_features(kind, k), free), "bias": (free,), "scale": (t,)})

    @cached_property
    def sizes(self) -> list[int]:
        """Numbers of each parameter."""
        return [math.prod(shape) for shape in self.shapes.values()]

    def pack(self, parameters: Parameters) -> Float[Tensor, "s p"]:
        """One row of numbers per start."""
        return torch.cat([parameters[name].flatten(1) for name in self.shapes], 1)

    def unpack(self, points: Float[Tensor, "s p"]) -> Parameters:
        """The inverse of `pack`."""
        starts = points.shape[0]
        parts = zip(self.shapes.items(), points.split(self.sizes, 1), strict=True)
        return {name: part.view(starts, *shape) for (name, shape), part in parts}


@dataclass(frozen=True)
class FamilyLoss:
    """Mean cross-entropy of rows in nats, summed over targets, of every start; of hard thresholds where no steepness.

    free [qt, n], mass [t, n]: the law of all outcomes but the last, and of all together, over the number of rows.
    """

    pack: Pack
    rows: Rows
    steepness: float | None
    turn: Float[Tensor, "q q"]
    free: Float[Tensor, "qt n"]
    mass: Float[Tensor, "t n"]
    beside: Float[Tensor, "q t n"] | None

    @classmethod
    def of(cls, pack: Pack, rows: Rows, steepness: float | None = None) -> "FamilyLoss":
        n = rows.law.shape[2]
        free, mass = (rows.law[:-1] / n).flatten(0, 1), rows.law.sum(0) / n
        beside = None if rows.offset is None else rows.offset[:-1] - rows.offset[-1]
        return cls(pack, rows, steepness, Contrasts.of(rows.law).differences, free, mass, beside)

    def __call__(self, points: Float[Tensor, "s p"]) -> tuple[Float[Tensor, " s"], Callable[[], Float[Tensor, "s p"]]]:
        """Losses of points, and what gives their slopes when it is called, which costs as much again."""
        kind, given = self.pack.kind, self.pack.unpack(points)
        used = unit(given["directions"]) if kind in CUTS else given["directions"]
        s = project(self.rows.z, used)
        features = features_of(kind, s, given, self.steepness)
        weight = _turned(self.turn, given["out"])
        logits = self._logits(given, weight, features)
        law, total, value = self._law(logits)

        def slope() -> Tensor:
            residual = law.mul_((self.mass / total)[:, None]).flatten(1, 2).sub_(self.free)
            out = {
                "out": _turned(self.turn.T, features @ residual.mT),
                "bias": _turned(self.turn.T, residual.sum(2)),
                "scale": torch.zeros_like(given["scale"]),
            }
            if self.beside is not None:
                each = zip(residual.view_as(law).unbind(2), self.beside.unbind(1), strict=True)
                out["scale"] = torch.stack([rows.flatten(1) @ beside.flatten() for rows, beside in each], 1)
            along, shape = _features_slope(kind, s, given, self.steepness, features, weight @ residual)
            directions = (along.flatten(0, 1) @ self.rows.z).view(*along.shape[:2], -1).mT
            if kind in CUTS:
                length = given["directions"].norm(dim=1, keepdim=True).clamp_min(1e-12)
                directions = (directions - used * (used * directions).sum(1, keepdim=True)) / length
            return self.pack.pack(out | shape | {"directions": directions})

        return value, slope

    def values(self, points: Float[Tensor, "s p"]) -> Float[Tensor, " s"]:
        """Losses alone."""
        return self(points)[0]

    def logits(self, parameters: Parameters) -> Float[Tensor, "s outcome t n"]:
        """Logits of the rows, zero for the last outcome."""
        s = project(self.rows.z, unit(parameters["directions"]) if self.pack.kind in CUTS else parameters["directions"])
        features = features_of(self.pack.kind, s, parameters, self.steepness)
        logits = self._logits(parameters, _turned(self.turn, parameters["out"]), features)
        return torch.cat([logits, torch.zeros_like(self.mass).expand(len(s), 1, -1, -1)], 1)

    def _logits(self, parameters: Parameters, weight: Tensor, features: Tensor) -> Float[Tensor, "s q t n"]:
        bias = _turned(self.turn, parameters["bias"])
        logits = torch.baddbmm(bias[..., None], weight.mT, features).unflatten(1, (self.turn.shape[0], -1))
        return logits if self.beside is None else logits.addcmul_(parameters["scale"][:, None, :, None], self.beside)

    def _law(self, logits: Float[Tensor, "s q t n"]) -> tuple[Tensor, Tensor, Float[Tensor, " s"]]:
        """Laws of all outcomes but the last times their totals, these totals [s, t, n], and losses."""
        told = logits.flatten(1) @ self.free.flatten()
        if self.turn.shape[0] == 1:
            law, log_total = torch.sigmoid(logits), torch.nn.functional.softplus(logits[:, 0])
            total = torch.ones_like(log_total)
        else:
            top = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1).amax(1)
            law = (logits - top[:, None]).exp_()
            total = law.sum(1) + torch.exp(-top)
            log_total = total.log() + top
        return law, total, log_total.flatten(1) @ self.mass.flatten() - told


def project(z: Float[Tensor, "n q"], directions: Float[Tensor, "s q k"]) -> Float[Tensor, "s k n"]:
    """Rows along every start's directions, in one product for all starts."""
    return (directions.mT.flatten(0, 1) @ z.T).view(directions.shape[0], -1, z.shape[0])


def unit(directions: Tensor) -> Tensor:
    """Directions of length one, as a threshold sees them: a cut has no scale."""
    return directions / directions.norm(dim=-2, keepdim=True).clamp_min(1e-12)
