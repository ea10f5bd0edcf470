"""The numerical core of every linear readout: multinomial logistic regression with an offset, many targets at once.

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

LAMBDAS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
HISTORY = 8
MAX_ITERATIONS = 200
TOLERANCE = 1e-7  # nats: half the squared Newton decrement, in the metric of the preconditioner


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
    """Mean and eigenbasis by one streamed pass in float64; scaled so that the mean variance over coordinates is 1."""
    n, d = x.shape
    mean = torch.zeros(d, dtype=torch.float64, device=x.device)
    for rows in x.split(block):
        mean += rows.double().sum(0) / n
    moment = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    for rows in x.split(block):
        centred = rows.double() - mean
        moment += centred.T @ centred / n
    scale = moment.diagonal().mean().clamp_min(1e-30).sqrt()
    values, vectors = torch.linalg.eigh(moment / scale**2)
    # Below float32 resolution of the largest direction an eigenvector is rounding noise, not a direction.
    kept = torch.nonzero(values > max(float(values[-1]) * 1e-12, 1e-12)).flatten().flip(0)
    if len(kept) == 0:
        kept = torch.tensor([d - 1], device=x.device)
    return Frame(mean.float(), (vectors[:, kept] / scale).float(), values[kept].clamp_min(1e-12).float())


@dataclass(frozen=True)
class Readout:
    """logits = offset + z @ weight + bias: weight [class, target, r], bias [class, target], ridge [target]."""

    weight: Float[Tensor, "k t r"]
    bias: Float[Tensor, "k t"]
    ridge: Float[Tensor, " t"]

    def logits(self, z: Float[Tensor, "n r"], offset: Float[Tensor, "k t n"] | None = None) -> Float[Tensor, "k t n"]:
        """Logits of rows, class axis first."""
        k, t, r = self.weight.shape
        out = (self.weight.reshape(k * t, r) @ z.T).reshape(k, t, -1) + self.bias[..., None]
        return out if offset is None else out + offset


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
    k, t, n = law.shape
    r = z.shape[1]
    ridge = torch.as_tensor(ridge, dtype=z.dtype, device=z.device).expand(t)
    rows = torch.cat([z, torch.ones(n, 1, dtype=z.dtype, device=z.device)], 1)
    penalty = torch.cat([ridge[:, None].expand(t, r), torch.zeros(t, 1, dtype=z.dtype, device=z.device)], 1)
    w = torch.zeros(k, t, r + 1, dtype=z.dtype, device=z.device)
    if start is not None:
        w = torch.cat([start.weight, start.bias[..., None]], -1).clone()
    logits = _times(w, rows) + (0 if offset is None else offset)
    mass = law.sum(0)

    def objective(at: Tensor, logits: Tensor) -> Tensor:
        data = (torch.logsumexp(logits, 0) * mass - (law * logits).sum(0)).mean(-1)
        return data + 0.5 * (penalty * at**2).sum((0, 2))

    value = objective(w, logits)
    p = torch.softmax(logits, 0)
    curvature = (p * (1 - p)).mean(-1).clamp_min(1e-4)  # [k, t]
    one = torch.ones(1, dtype=z.dtype, device=z.device)
    precondition = 1 / (curvature[..., None] * torch.cat([variance, one]) + penalty)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    gradient = _gradient(p, law, rows, penalty, w)
    for _ in range(MAX_ITERATIONS):
        decrement = 0.5 * (gradient**2 * precondition).sum((0, 2))
        open_ = decrement > tolerance
        if not open_.any():
            return Readout(w[..., :-1].contiguous(), w[..., -1].contiguous(), ridge.clone())
        step = _direction(gradient, pairs, precondition)
        slope = (gradient * step).sum((0, 2))
        step = torch.where((slope < 0)[:, None], step, -precondition * gradient) * open_[:, None]
        slope = (gradient * step).sum((0, 2))
        change = _times(step, rows)
        bend = ((p * change**2).sum(0) - (p * change).sum(0) ** 2).mean(-1) + (penalty * step**2).sum((0, 2))
        length = torch.where(open_, -slope / bend.clamp_min(1e-20), torch.zeros_like(slope))
        for _ in range(30):
            trial = logits + length[:, None] * change
            moved = w + length[:, None] * step
            new = objective(moved, trial)
            # Differences below rounding of the objective carry no information about the step.
            short = new > value + 1e-4 * length * slope + 2e-7 * value.abs().clamp_min(1e-3)
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        else:
            break
        p = torch.softmax(trial, 0)
        after = _gradient(p, law, rows, penalty, moved)
        s, y = moved - w, after - gradient
        rho = (s * y).sum((0, 2))
        pairs = [*pairs[1 - HISTORY :], (s, y, torch.where(rho > 1e-20, 1 / rho.clamp_min(1e-20), torch.zeros_like(rho)))]
        w, logits, value, gradient = moved, trial, new, after
    # Near the limit of float32 the line search may stall a hair above the certificate: that is still a solution.
    decrement = 0.5 * (gradient**2 * precondition).sum((0, 2))
    if bool((decrement <= 50 * tolerance).all()):
        return Readout(w[..., :-1].contiguous(), w[..., -1].contiguous(), ridge.clone())
    raise FitError(
        f"a linear readout of {n} rows x {r} coordinates did not converge: its decrement is {float(decrement.max()):.1e} "
        f"nats, asked {tolerance:.0e}. Use a larger ridge."
    )


def _times(w: Tensor, rows: Tensor) -> Tensor:
    k, t, r = w.shape
    return (w.reshape(k * t, r) @ rows.T).reshape(k, t, -1)


def _gradient(p: Tensor, law: Tensor, rows: Tensor, penalty: Tensor, w: Tensor) -> Tensor:
    k, t, n = law.shape
    residual = p * law.sum(0) - law
    return (residual.reshape(k * t, n) @ rows).reshape(w.shape) / n + penalty * w


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

    def bits(self, readout: Readout) -> Float[Tensor, "t n"]:
        """Cross-entropy of each row under a readout."""
        return cross_entropy(readout.logits(self.z, self.offset), self.law)


def fit_path(
    fit: Rows, select: Rows, variance: Float[Tensor, " r"] | None = None, lambdas: Sequence[float] = LAMBDAS
) -> Readout:
    """The readout of the ridge, per target, that does best on the selection rows; warm-started from large to small."""
    if variance is None:
        variance = fit.z.var(0, correction=0).clamp_min(1e-12)
    best: Readout | None = None
    best_bits = torch.full((fit.law.shape[1],), math.inf, device=fit.z.device)
    current: Readout | None = None
    for ridge in sorted(lambdas, reverse=True):
        current = fit_readout(fit.z, fit.law, fit.offset, variance, ridge, current)
        bits = select.bits(current).mean(-1)
        better = bits < best_bits
        if best is None:
            best = current
        else:
            best = Readout(
                torch.where(better[:, None], current.weight, best.weight),
                torch.where(better, current.bias, best.bias),
                torch.where(better, current.ridge, best.ridge),
            )
        best_bits = torch.minimum(bits, best_bits)
    assert best is not None
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
