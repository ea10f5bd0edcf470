"""The numerical core of every linear readout: multinomial logistic regression beside a floor, many targets at once.

The floor's logits enter with a fitted coefficient, one number per target. Held at 1, a rich floor would be noise that a
linear readout of complete activations cannot cancel: a family must be able to ignore what it is given (the optional
ignorance of Xu et al. 2020), or conditioning on more information would make readers worse.

A *frame* rotates a site's activations once into the eigenbasis of their covariance; there the Hessian of the loss is
nearly diagonal, so that quasi-Newton with a diagonal start takes tens of steps whatever the spectrum. Arrays keep the
class axis first ([k_class, target, n]): a softmax over a short last axis costs more than the matrix products.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import FitError

LAMBDAS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
HISTORY = 8
MAX_ITERATIONS = 300
TOLERANCE = 2e-6  # nats: half the squared Newton decrement, in the metric of the preconditioner


@dataclass(frozen=True)
class Frame:
    """An affine change of coordinates z = (x - mean) @ rotation, estimated on the fit rows alone.

    mean [d]; rotation [d, r], orthogonal up to one scale, so that a ridge penalty means the same in both coordinates;
    variance [r] of each z, largest first; r < d only where the activations are exactly degenerate.
    """

    mean: Float[Tensor, " d"]
    rotation: Float[Tensor, "d r"]
    variance: Float[Tensor, " r"]

    def apply(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
        """Rotate rows of activations."""
        return (x.float() - self.mean) @ self.rotation


def fit_frame(x: Float[Tensor, "n d"], block: int = 65_536) -> Frame:
    """Mean and eigenbasis by one streamed pass in float64; scaled so that the median variance over directions is 1.

    The median, because a ridge is meant for the typical direction: real models have a few coordinates a thousand times
    as large as the rest, and beside their mean everything else would be regularised away.
    """
    n, d = x.shape
    mean = torch.zeros(d, dtype=torch.float64, device=x.device)
    for rows in x.split(block):
        mean += rows.double().sum(0) / n
    moment = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    for rows in x.split(block):
        centred = rows.double() - mean
        moment += centred.T @ centred / n
    values, vectors = torch.linalg.eigh(moment)
    # Below float64 resolution of the largest direction an eigenvector is rounding noise, not a direction.
    kept = torch.nonzero(values > (float(values[-1]) * 1e-12)).flatten().flip(0)
    if len(kept) == 0 or float(values[-1]) <= 0:
        kept = torch.tensor([d - 1], device=x.device)
    unit = values[kept].median().clamp_min(1e-30).sqrt()
    return Frame(mean.float(), (vectors[:, kept] / unit).float(), (values[kept] / unit**2).clamp_min(1e-12).float())


@dataclass(frozen=True)
class Readout:
    """logits = scale * offset + z @ weight + bias; weight [class, target, r], bias [class, target], others [target]."""

    weight: Float[Tensor, "k t r"]
    bias: Float[Tensor, "k t"]
    scale: Float[Tensor, " t"]
    ridge: Float[Tensor, " t"]

    def logits(self, z: Float[Tensor, "n r"], offset: Float[Tensor, "k t n"] | None = None) -> Float[Tensor, "k t n"]:
        """Logits of rows, class axis first."""
        k, t, r = self.weight.shape
        out = (self.weight.reshape(k * t, r) @ z.T).reshape(k, t, -1) + self.bias[..., None]
        return out if offset is None else out + self.scale[:, None] * offset


def cross_entropy(logits: Float[Tensor, "k t n"], law: Float[Tensor, "k t n"]) -> Float[Tensor, "t n"]:
    """-sum_k law log softmax(logits), in bits, per target and row."""
    return (torch.logsumexp(logits, 0) * law.sum(0) - (law * logits).sum(0)) / math.log(2)


def entropy(law: Float[Tensor, "k t n"]) -> Float[Tensor, "t n"]:
    """Entropy of each law in bits."""
    return -torch.special.xlogy(law, law).sum(0) / math.log(2)


def fit_readout(
    z: Float[Tensor, "n r"],
    law: Float[Tensor, "k t n"],
    offset: Float[Tensor, "k t n"] | None,
    variance: Float[Tensor, " r"],
    ridge: float | Float[Tensor, " t"],
    start: Readout | None = None,
    tolerance: float = TOLERANCE,
) -> Readout:
    """Minimise mean cross-entropy (nats) + ridge / 2 |weight|^2, all targets at once, by preconditioned L-BFGS.

    Each target has its own curvature pairs, Newton step along its direction, and certificate. Raises FitError when
    one does not reach it: an unconverged readout is never returned.
    """
    for name, given in (("activations", z), ("law", law), ("floor's logits", offset)):
        if given is not None and not bool(torch.isfinite(given).all()):
            raise FitError(f"a linear readout was given {name} that are not finite.")
    problem = _Problem.of(z, law, offset, ridge)
    w = problem.start(start)
    logits = problem.times(w)
    value = problem.objective(w, logits)
    p = torch.softmax(logits, 0)
    precondition = problem.precondition(p, variance)
    gradient = problem.gradient(w, p)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(MAX_ITERATIONS):
        decrement = 0.5 * (gradient**2 * precondition).sum((0, 2))
        open_ = ~(decrement <= tolerance)
        if not open_.any():
            # The certificate is taken with the curvature at the solution, which near separable data is far less than
            # the one at the start.
            precondition = problem.precondition(p, variance)
            decrement = 0.5 * (gradient**2 * precondition).sum((0, 2))
            open_ = ~(decrement <= tolerance)
            if not open_.any():
                return problem.readout(w)
        step = _direction(gradient, pairs, precondition)
        slope = (gradient * step).sum((0, 2))
        step = torch.where((slope < 0)[:, None], step, -precondition * gradient) * open_[:, None]
        slope = (gradient * step).sum((0, 2))
        change = problem.times(step)
        bend = ((p * change**2).sum(0) - (p * change).sum(0) ** 2).mean(-1) + (problem.penalty * step**2).sum((0, 2))
        length = torch.where(open_, -slope / bend.clamp_min(1e-20), torch.zeros_like(slope))
        for _ in range(30):
            trial = logits + length[:, None] * change
            moved = w + length[:, None] * step
            new = problem.objective(moved, trial)
            # Differences below rounding of the objective carry no information about the step.
            short = new > value + 1e-4 * length * slope + 2e-7 * value.abs().clamp_min(1e-3)
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        else:
            break
        p = torch.softmax(trial, 0)
        after = problem.gradient(moved, p)
        s, y = moved - w, after - gradient
        rho = (s * y).sum((0, 2))
        rho = torch.where(rho > 1e-20, 1 / rho.clamp_min(1e-20), torch.zeros_like(rho))
        pairs = [*pairs[1 - HISTORY :], (s, y, rho)]
        w, logits, value, gradient = moved, trial, new, after
    # Near the limit of float32 the line search may stall a hair above the certificate: that is still a solution.
    decrement = 0.5 * (gradient**2 * precondition).sum((0, 2))
    if bool((decrement <= 50 * tolerance).all()):
        return problem.readout(w)
    raise FitError(
        f"a linear readout of {len(z)} rows x {z.shape[1]} coordinates did not converge: its decrement is "
        f"{float(decrement.max()):.1e} nats, asked {tolerance:.0e}. Use a larger ridge."
    )


@dataclass(frozen=True)
class _Problem:
    """One convex problem over w [class, target, r + 2]: weights, bias, in class 0 also the floor's coefficient."""

    rows: Float[Tensor, "n r1"]
    law: Float[Tensor, "k t n"]
    mass: Float[Tensor, "t n"]
    offset: Float[Tensor, "k t n"] | None
    penalty: Float[Tensor, "t r2"]

    @classmethod
    def of(cls, z: Tensor, law: Tensor, offset: Tensor | None, ridge: float | Tensor) -> "_Problem":
        n, r = z.shape
        t = law.shape[1]
        per_target = torch.as_tensor(ridge, dtype=z.dtype, device=z.device).expand(t)
        penalty = torch.zeros(t, r + 2, dtype=z.dtype, device=z.device)
        penalty[:, :r] = per_target[:, None]
        rows = torch.cat([z, torch.ones(n, 1, dtype=z.dtype, device=z.device)], 1)
        return cls(rows, law, law.sum(0), offset, penalty)

    def start(self, known: Readout | None) -> Tensor:
        """The floor itself, or a fitted readout."""
        k, t, _ = self.law.shape
        w = torch.zeros(k, t, self.penalty.shape[1], dtype=self.rows.dtype, device=self.rows.device)
        w[0, :, -1] = 1.0
        if known is not None:
            w[..., :-2], w[..., -2], w[0, :, -1] = known.weight, known.bias, known.scale
        return w

    def readout(self, w: Tensor) -> Readout:
        return Readout(
            w[..., :-2].contiguous(), w[..., -2].contiguous(), w[0, :, -1].clone(), self.penalty[:, 0].clone()
        )

    def times(self, w: Tensor) -> Tensor:
        """Logits [class, target, n] of parameters or of a step."""
        k, t, r2 = w.shape
        out = (w[..., :-1].reshape(k * t, r2 - 1) @ self.rows.T).reshape(k, t, -1)
        return out if self.offset is None else out + w[0, :, -1, None] * self.offset

    def objective(self, w: Tensor, logits: Tensor) -> Tensor:
        data = (torch.logsumexp(logits, 0) * self.mass - (self.law * logits).sum(0)).mean(-1)
        return data + 0.5 * (self.penalty * w**2).sum((0, 2))

    def gradient(self, w: Tensor, p: Tensor) -> Tensor:
        k, t, n = self.law.shape
        residual = p * self.mass - self.law
        out = self.penalty * w
        out[..., :-1] += (residual.reshape(k * t, n) @ self.rows).reshape(k, t, -1) / n
        if self.offset is not None:
            out[0, :, -1] = (residual * self.offset).sum(0).mean(-1)
        return out

    def precondition(self, p: Tensor, variance: Tensor) -> Tensor:
        """Inverse of the Hessian's diagonal where coordinates are uncorrelated, at the starting point."""
        curvature = (p * (1 - p)).mean(-1).clamp_min(1e-6)  # [k, t]
        out = torch.ones(*curvature.shape, self.penalty.shape[1], dtype=p.dtype, device=p.device)
        out[..., :-2] = curvature[..., None] * variance
        out[..., -2] = curvature
        out = out + self.penalty
        if self.offset is not None:
            spread = (p * self.offset**2).sum(0) - (p * self.offset).sum(0) ** 2
            out[0, :, -1] = spread.mean(-1).clamp_min(1e-4)
        return 1 / out


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], precondition: Tensor) -> Tensor:
    """Two-loop recursion with one set of scalars per target."""
    q, alphas = gradient.clone(), []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum((0, 2))
        alphas.append(alpha)
        q -= alpha[:, None] * y
    q = q * precondition
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - rho * (y * q).sum((0, 2)))[:, None] * s
    return -q


@dataclass(frozen=True)
class Rows:
    """What a readout is fitted or tested on: z [n, r], law and offset [class, target, n]."""

    z: Float[Tensor, "n r"]
    law: Float[Tensor, "k t n"]
    offset: Float[Tensor, "k t n"] | None = None

    @property
    def beside(self) -> Float[Tensor, "k t n"]:
        """The floor's logits, zeros where there is none."""
        return torch.zeros_like(self.law) if self.offset is None else self.offset

    def bits(self, readout: Readout) -> Float[Tensor, "t n"]:
        """Cross-entropy of each row under a readout."""
        return cross_entropy(readout.logits(self.z, self.offset), self.law)


def fit_path(
    fit: Rows, select: Rows, variance: Float[Tensor, " r"] | None = None, lambdas: Sequence[float] = LAMBDAS
) -> Readout:
    """The readout of the ridge, per target, that does best on the selection rows.

    Warm-started from large to small; the path starts at the floor itself (infinite ridge), which a reader must be able
    to fall back on, and ends where no target gains from a smaller ridge any more.
    """
    if variance is None:
        variance = fit.z.var(0, correction=0).clamp_min(1e-12)
    k, t, _ = fit.law.shape
    like = {"dtype": fit.z.dtype, "device": fit.z.device}
    best = Readout(
        torch.zeros(k, t, fit.z.shape[1], **like), torch.zeros(k, t, **like), torch.ones(t, **like),
        torch.full((t,), math.inf, **like),
    )  # fmt: skip
    best_bits = last = select.bits(best).mean(-1)
    current: Readout | None = None
    for i, ridge in enumerate(sorted(lambdas, reverse=True)):
        try:
            current = fit_readout(fit.z, fit.law, fit.offset, variance, ridge, current)
        except FitError:
            # The smallest ridges of nearly separable data may have no minimum within reach: the path ends before them.
            if current is None:
                raise
            break
        bits = select.bits(current).mean(-1)
        better = bits < best_bits
        best = Readout(
            torch.where(better[:, None], current.weight, best.weight),
            torch.where(better, current.bias, best.bias),
            torch.where(better, current.scale, best.scale),
            torch.where(better, current.ridge, best.ridge),
        )
        best_bits = torch.minimum(bits, best_bits)
        if i >= 2 and not (bits < last).any():
            break
        last = bits
    return best


def fit_calibration(logits: Float[Tensor, "k t n"], law: Float[Tensor, "k t n"]) -> Float[Tensor, "t k1"]:
    """One temperature and the intercepts (Platt 1999, for laws): [target, 1 + class], to be given to `calibrate`."""
    k, t, _ = logits.shape
    out = []
    for i in range(t):
        # A single coordinate shared by all classes: the logits themselves, with weight exp(a) on each.
        theta = torch.zeros(1 + k, dtype=torch.float64, device=logits.device, requires_grad=True)
        x, y = logits[:, i].double(), law[:, i].double()
        optimiser = torch.optim.LBFGS([theta], max_iter=100, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def closure(theta=theta, x=x, y=y, optimiser=optimiser):
            optimiser.zero_grad()
            fitted = theta[0].exp() * x + theta[1:, None]
            loss = (torch.logsumexp(fitted, 0) - (y * fitted).sum(0)).mean() + 1e-6 * (theta**2).sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        out.append(theta.detach().float())
    return torch.stack(out)


def calibrate(logits: Float[Tensor, "k t n"], theta: Float[Tensor, "t k1"]) -> Float[Tensor, "k t n"]:
    """Apply a fitted temperature and intercepts."""
    return theta[:, 0].exp()[:, None] * logits + theta[:, 1:].T[..., None]
