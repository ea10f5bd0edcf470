"""Readout: multinomial logistic regression beside a floor, many targets at once; every fit is certified.

The floor's logits enter with a fitted coefficient, one number per target. Held at 1, a rich floor would be noise that a
linear readout of complete activations cannot cancel: a family must be able to ignore what it is given (the optional
ignorance of Xu et al. 2020), or conditioning on more information would make readers worse.

Arrays keep the outcomes first ([outcome, target, n]): a softmax over a short last axis costs more than the matrix
products.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.gaussian import Normal, half_square, is_value
from probekit.fit.solvers.blocks import Blocks
from probekit.fit.solvers.lbfgs import STALLED, minimise
from probekit.fit.solvers.newton import Products, minimise_newton, newton_is_cheaper

NEWTON_ENTRIES = 2**22  # logits of all ridges and targets that Newton's method holds at once
TOLERANCE = 2e-6  # nats: half the squared Newton decrement at the solution
LOGITS = 16  # free logits of a row beyond which a tolerance grows with their number: so does what rows cannot tell


@dataclass(frozen=True)
class Readout:
    """logits = scale * offset + z @ weight + bias; an infinite ridge is the floor alone."""

    weight: Float[Tensor, "outcome t r"]
    bias: Float[Tensor, "outcome t"]
    scale: Float[Tensor, " t"]
    ridge: Float[Tensor, " t"]

    @classmethod
    def nothing(cls, n_outcomes: int, t: int, r: int, like: Tensor) -> "Readout":
        """What adds nothing to the floor: an infinite ridge."""
        return cls(
            like.new_zeros(n_outcomes, t, r),
            like.new_zeros(n_outcomes, t),
            like.new_ones(t),
            like.new_full((t,), math.inf),
        )

    @classmethod
    def interleave(cls, parts: Sequence["Readout"], blocks: int) -> "Readout":
        """The targets of all parts, each of which lists so many blocks: the first block of all of them comes first."""

        def together(name: str, axis: int) -> Tensor:
            return torch.cat([getattr(one, name).unflatten(axis, (blocks, -1)) for one in parts], axis + 1).flatten(
                axis, axis + 1
            )

        return cls(together("weight", 1), together("bias", 1), together("scale", 0), together("ridge", 0))

    def take(self, targets: Int[Tensor, " m"]) -> "Readout":
        """Some of the targets, in the order given."""
        return Readout(self.weight[:, targets], self.bias[:, targets], self.scale[targets], self.ridge[targets])

    def put(self, targets: Int[Tensor, " m"], other: "Readout") -> "Readout":
        """The same with other readouts in the place of some targets."""
        return Readout(
            self.weight.index_copy(1, targets, other.weight), self.bias.index_copy(1, targets, other.bias),
            self.scale.index_copy(0, targets, other.scale), self.ridge.index_copy(0, targets, other.ridge),
        )  # fmt: skip

    def logits(
        self, z: Float[Tensor, "n r"], offset: Float[Tensor, "outcome t n"] | None = None
    ) -> Float[Tensor, "outcome t n"]:
        """Logits of rows, outcomes first."""
        n_outcomes, t, r = self.weight.shape
        out = (self.weight.reshape(n_outcomes * t, r) @ z.T).reshape(n_outcomes, t, -1) + self.bias[..., None]
        return out if offset is None else out + self.scale[:, None] * offset


def cross_entropy(logits: Float[Tensor, "outcome t n"], law: Float[Tensor, "outcome t n"]) -> Float[Tensor, "t n"]:
    """-sum_k law log softmax(logits), in bits, per target and row; of a number as in fit/gaussian.py."""
    if is_value(law):
        return half_square(logits, law) / math.log(2)
    return (torch.logsumexp(logits, 0) * law.sum(0) - (law * logits).sum(0)) / math.log(2)


def entropy(law: Float[Tensor, "outcome t n"]) -> Float[Tensor, "t n"]:
    """Entropy of each law in bits; a number that is known leaves nothing to be missed."""
    if is_value(law):
        return torch.zeros_like(law[0])
    return -torch.special.xlogy(law, law).sum(0) / math.log(2)


def log_prior(law: Float[Tensor, "outcome t n"]) -> Float[Tensor, "outcome t"]:
    """Log of the mean law, beside one more row that knows nothing: an outcome that no row has is rare, not impossible.

    A Dirichlet prior of total weight 1, the rule of Krichevsky and Trofimov (1981) for two outcomes. Of a number, the
    mean.
    """
    if is_value(law):
        return law.mean(-1) if law.shape[-1] else law.new_zeros(law.shape[:2])
    n_outcomes, _, n = law.shape
    mass = law.sum(-1) + 1 / n_outcomes
    return torch.log(mass / mass.sum(0)) if n else torch.zeros_like(mass)


def smoothed(law: Float[Tensor, "outcome t n"]) -> Float[Tensor, "outcome t n"]:
    """Laws beside which one row more, spread evenly over outcomes, is shared out to all rows."""
    n_outcomes, _, n = law.shape
    return (law + law.sum(0) / (n * n_outcomes)) * (n / (n + 1))


def tolerated(tolerance: float, n_outcomes: int) -> float:
    """The certificate that is asked for, with so many outcomes."""
    return tolerance * max(1.0, (n_outcomes - 1) / LOGITS)


@dataclass(frozen=True)
class Rows:
    """What a readout is fitted or tested on: z [n, r], law and offset [outcome, target, n]."""

    z: Float[Tensor, "n r"]
    law: Float[Tensor, "outcome t n"]
    offset: Float[Tensor, "outcome t n"] | None = None

    @property
    def beside(self) -> Float[Tensor, "outcome t n"]:
        """The floor's logits, zeros where there is none."""
        return torch.zeros_like(self.law) if self.offset is None else self.offset

    def along(self, directions: Float[Tensor, "r k"]) -> "Rows":
        """The same rows seen along directions alone."""
        return Rows(self.z @ directions, self.law, self.offset)

    def bits(self, readout: Readout) -> Float[Tensor, "t n"]:
        """Cross-entropy of each row under a readout."""
        return cross_entropy(readout.logits(self.z, self.offset), self.law)


def take(rows: Rows, at: Int[Tensor, " n"] | slice) -> Rows:
    """Some of the rows."""
    return Rows(rows.z[at], rows.law[..., at], None if rows.offset is None else rows.offset[..., at])


@torch.no_grad()
def fit_readout(
    z: Float[Tensor, "n r"],
    law: Float[Tensor, "outcome t n"],
    offset: Float[Tensor, "outcome t n"] | None,
    variance: Float[Tensor, " r"],
    ridge: float | Float[Tensor, " t"],
    start: Readout | None = None,
    tolerance: float = TOLERANCE,
) -> Readout:
    """Minimise mean cross-entropy (nats) + ridge / 2 |weight|^2, all targets at once.

    A law's mass over classes weighs its row. Each target has its own steps and certificate (half the squared Newton
    decrement, nats). An outcome that no row has pulls its intercept to minus infinity, where the solvers may not
    arrive: the target is then fitted beside one more row that knows nothing, as `log_prior` is. Raises FitError when
    one does not reach its certificate: what has not converged is not returned.
    """
    per_target = torch.as_tensor(ridge, dtype=z.dtype, device=z.device).expand(law.shape[1])
    if is_value(law):
        return fit_value(normal_of(Rows(z, law, offset)), per_target)
    setup, tolerance = OpenRidge.of(Rows(z, law, offset), variance), tolerated(tolerance, len(law))
    found, certificate = setup.solve(per_target[None], start, tolerance)
    if not bool((certificate <= STALLED * tolerance).all()):
        endless = (law.sum(-1) == 0).any(0) & ~(certificate[0] <= STALLED * tolerance)
        if bool(endless.any()):
            told = torch.where(endless[:, None], smoothed(law), law)
            near = fit_readout(z, told, offset, variance, 100 * per_target)  # from where the way is short
            return fit_readout(z, told, offset, variance, ridge, near, tolerance)
        raise FitError(
            f"a linear readout of {len(z)} rows x {z.shape[1]} coordinates did not converge: its decrement is "
            f"{float(certificate.max()):.1e} nats, asked {tolerance:.0e}. Use a larger ridge."
        )
    return found


def fit_value(normal: Normal, ridge: Float[Tensor, " t"]) -> Readout:
    """The readout of least squared error plus ridge, of numbers; of an infinite ridge the floor itself."""
    weight, bias, scale = (part[0].float() for part in normal.solve(ridge[None]))
    known = torch.isfinite(ridge)
    return Readout(weight[None], torch.where(known, bias, 0.0)[None], torch.where(known, scale, 1.0), ridge.clone())


def normal_of(rows: Rows) -> Normal:
    """Normal equations of numbers. Raises FitError where something is not finite."""
    check_finite(rows.z, rows.law, rows.offset)
    return Normal.of(rows.z, rows.law[0], rows.beside[0])


@dataclass(frozen=True)
class OpenRidge:
    """A problem whose ridges are still open, and what its solver needs to be made once."""

    rows: Rows
    variance: Float[Tensor, " r"]
    products: Products | None

    @classmethod
    def of(cls, rows: Rows, variance: Float[Tensor, " r"] | None = None) -> "OpenRidge":
        """Raises FitError where something is not finite."""
        check_finite(rows.z, rows.law, rows.offset)
        if variance is None:
            variance = rows.z.var(0, correction=0).clamp_min(1e-12)
        return cls(rows, variance, Products.of(rows.z, variance) if newton_is_cheaper(rows.z, len(rows.law)) else None)

    def take(self, targets: Int[Tensor, " m"]) -> "OpenRidge":
        """The same problem of some targets."""
        rows = self.rows
        if len(targets) == rows.law.shape[1]:
            return self
        offset = None if rows.offset is None else rows.offset[:, targets]
        return replace(self, rows=Rows(rows.z, rows.law[:, targets], offset))

    def cut(self, at: Int[Tensor, " m"]) -> "OpenRidge":
        """The same problem on some of the rows."""
        rows = take(self.rows, at)
        return replace(self, rows=rows, products=None if self.products is None else Products.of(rows.z, self.variance))

    def weighed(self, weights: Float[Tensor, "c n"]) -> "OpenRidge":
        """Copies of every target, one after the other, in each of which the rows have weights of their own."""
        rows = self.rows
        law = (rows.law[:, None] * weights[:, None]).flatten(1, 2)
        offset = None if rows.offset is None else rows.offset.repeat(1, len(weights), 1)
        return replace(self, rows=Rows(rows.z, law, offset))

    def solve(
        self, ridges: Float[Tensor, "l t"], start: Readout | None, tolerance: float
    ) -> tuple[Readout, Float[Tensor, "l t"]]:
        """Readouts of all targets at every ridge, ridges one after the other, and their certificates (nats).

        start: readouts of all targets, at one ridge.
        """
        z, law, offset = self.rows.z, self.rows.law, self.rows.offset
        (n_outcomes, t, n), times = law.shape, len(ridges)
        known = None if start is None else _pack(start)
        if self.products is not None:
            chunk, found = max(1, NEWTON_ENTRIES // (n * times * (n_outcomes - 1))), []
            for at in torch.arange(t, device=z.device).split(chunk):
                beside = None if offset is None else offset[:, at]
                begin = None if known is None else known[:, at]
                found.append(minimise_newton(self.products, law[:, at], beside, ridges[:, at], begin, tolerance))
            w, certificate = (torch.cat(parts, -1 - (i == 0)) for i, parts in enumerate(zip(*found, strict=True)))
            # Where not even the largest ridge is reached, the solver over blocks does better or says why.
            if bool((certificate[0] <= STALLED * tolerance).all()):
                return _unpack(w.flatten(1, 2), ridges.flatten()), certificate
        if times > 1:
            law, offset = law.repeat(1, times, 1), None if offset is None else offset.repeat(1, times, 1)
            known = None if known is None else known.repeat(1, times, 1)
        rows = Blocks.of(z, (n_outcomes - 1) * t * times)
        w, certificate = minimise(rows, law, offset, self.variance, ridges.flatten(), known, tolerance)
        return _unpack(w, ridges.flatten()), certificate.view(times, t)


def check_finite(z: Tensor, law: Tensor, offset: Tensor | None) -> None:
    """Raise FitError where something is not."""
    for name, given in (("activations", z), ("law", law), ("floor's logits", offset)):
        # A sum is finite unless an entry is not, or the sum overflows, which the slower question tells apart.
        if given is not None and not bool(torch.isfinite(given.sum())) and not bool(torch.isfinite(given).all()):
            raise FitError(f"a linear readout was given {name} that are not finite.")


def _pack(readout: Readout) -> Float[Tensor, "outcome t r2"]:
    n_outcomes, t, r = readout.weight.shape
    out = torch.zeros(n_outcomes, t, r + 2, dtype=readout.weight.dtype, device=readout.weight.device)
    out[..., :-2], out[..., -2], out[0, :, -1] = readout.weight, readout.bias, readout.scale
    return out


def _unpack(w: Float[Tensor, "outcome t r2"], ridge: Float[Tensor, " t"]) -> Readout:
    return Readout(w[..., :-2].contiguous(), w[..., -2].contiguous(), w[0, :, -1].clone(), ridge.clone())


def calibrate(logits: Float[Tensor, "outcome t n"], theta: Float[Tensor, "t outcome1"]) -> Float[Tensor, "outcome t n"]:
    """Apply a fitted temperature and intercepts."""
    return theta[:, 0].exp()[:, None] * logits + theta[:, 1:].T[..., None]
