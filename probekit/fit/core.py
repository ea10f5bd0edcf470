"""The numerical core of every linear readout: multinomial logistic regression beside a floor, many targets at once.

The floor's logits enter with a fitted coefficient, one number per target. Held at 1, a rich floor would be noise that a
linear readout of complete activations cannot cancel: a family must be able to ignore what it is given (the optional
ignorance of Xu et al. 2020), or conditioning on more information would make readers worse.

A *frame* rotates a site's activations once into the eigenbasis of their covariance; there the Hessian of the loss is
nearly diagonal, so that quasi-Newton with a diagonal start takes tens of steps whatever the spectrum. Arrays keep the
class axis first ([k_class, target, n]): a softmax over a short last axis costs more than the matrix products.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.solver import STALLED, Products, Resident, minimise, minimise_newton, newton_is_cheaper

LAMBDAS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
BATCH_ENTRIES = 2**22  # logits of all ridges and targets that Newton's method holds at once
TOLERANCE = 2e-6  # nats: half the squared Newton decrement at the solution


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

    def along(self, x: Float[Tensor, "n d"], directions: Float[Tensor, "d k"]) -> Float[Tensor, "n k"]:
        """Rows along raw directions `rotation @ v` as `apply(x) @ v` would have them, without rotating every row."""
        return (x.float() - self.mean) @ directions


def fit_frame(x: Float[Tensor, "n d"], block: int = 4_096) -> Frame:
    """Mean and eigenbasis by one streamed pass in float64; scaled so that the median variance over directions is 1.

    The median, because a ridge is meant for the typical direction: real models have a few coordinates a thousand times
    as large as the rest, and beside their mean everything else would be regularised away.
    """
    mean, moment = _moments(x, block)
    if not bool(torch.isfinite(moment).all()):
        raise FitError(f"activations of {len(x)} rows x {x.shape[1]} coordinates are not all finite.")
    values, vectors = _eigh(moment)
    # Below float64 resolution of the largest direction an eigenvector is rounding noise, not a direction.
    kept = torch.nonzero(values > (float(values[-1]) * 1e-12)).flatten().flip(0)
    if len(kept) == 0 or float(values[-1]) <= 0:
        kept = torch.tensor([x.shape[1] - 1], device=x.device)
    unit = values[kept].median().clamp_min(1e-30).sqrt()
    return Frame(mean.float(), (vectors[:, kept] / unit).float(), (values[kept] / unit**2).clamp_min(1e-12).float())


def _eigh(moment: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues, ascending, and eigenvectors. Divide and conquer fails on one in a hundred matrices of low rank."""
    try:
        return torch.linalg.eigh(moment)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        values, vectors = scipy.linalg.eigh(moment.cpu().numpy(), driver="ev")
        return torch.from_numpy(values).to(moment.device), torch.from_numpy(vectors).to(moment.device)


def _moments(x: Float[Tensor, "n d"], block: int) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance in float64, one pass over the rows, shifted by an early mean so that nothing cancels."""
    n, d = x.shape
    shift = x[:block].double().mean(0)
    total = torch.zeros(d, dtype=torch.float64, device=x.device)
    moment = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    panels = list(range(0, d, max(64, -(-d // 8))))
    for rows in x.split(block):
        centred = rows.double() - shift
        total += centred.sum(0)
        # The upper triangle in panels: nearly half of the work of the whole.
        for start, stop in zip(panels, [*panels[1:], d], strict=True):
            moment[start:stop, start:].addmm_(centred[:, start:stop].T, centred[:, start:])
    moment = moment.triu() + moment.triu(1).T
    delta = total / n
    return shift + delta, moment / n - torch.outer(delta, delta)


@dataclass(frozen=True)
class Readout:
    """logits = scale * offset + z @ weight + bias; weight [class, target, r], bias [class, target], others [target]."""

    weight: Float[Tensor, "k t r"]
    bias: Float[Tensor, "k t"]
    scale: Float[Tensor, " t"]
    ridge: Float[Tensor, " t"]

    @classmethod
    def nothing(cls, k: int, t: int, r: int, like: Tensor) -> "Readout":
        """What adds nothing to the floor: an infinite ridge."""
        return cls(like.new_zeros(k, t, r), like.new_zeros(k, t), like.new_ones(t), like.new_full((t,), math.inf))

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


@torch.no_grad()
def fit_readout(
    z: Float[Tensor, "n r"],
    law: Float[Tensor, "k t n"],
    offset: Float[Tensor, "k t n"] | None,
    variance: Float[Tensor, " r"],
    ridge: float | Float[Tensor, " t"],
    start: Readout | None = None,
    tolerance: float = TOLERANCE,
) -> Readout:
    """Minimise mean cross-entropy (nats) + ridge / 2 |weight|^2, all targets at once.

    A law's mass over classes weighs its row. Each target has its own steps and certificate (half the squared Newton
    decrement, nats). Raises FitError when one does not reach it: an unconverged readout is never returned.
    """
    _check_finite(z, law, offset)
    return _solve(_Setup.of(z, law, offset, variance), ridge, start, tolerance)


@dataclass(frozen=True)
class _Setup:
    """A problem whose ridge is still open, and what its solver needs to be made once."""

    z: Tensor
    law: Tensor
    offset: Tensor | None
    variance: Tensor
    products: Products | None

    @classmethod
    def of(cls, z: Tensor, law: Tensor, offset: Tensor | None, variance: Tensor) -> "_Setup":
        small = newton_is_cheaper(z, len(law))
        return cls(z, law, offset, variance, Products.of(z, variance) if small else None)

    def take(self, targets: Tensor) -> "_Setup":
        """The same problem of some targets."""
        offset = None if self.offset is None else self.offset[:, targets]
        return _Setup(self.z, self.law[:, targets], offset, self.variance, self.products)


def _solve(setup: _Setup, ridge: float | Tensor, start: Readout | None, tolerance: float) -> Readout:
    k, t, n = setup.law.shape
    per_target = torch.as_tensor(ridge, dtype=setup.z.dtype, device=setup.z.device).expand(t)
    if k == 1:  # one outcome: nothing to fit
        return replace(Readout.nothing(k, t, setup.z.shape[1], setup.z), ridge=per_target.clone())
    known = None if start is None else _pack(start)
    if setup.products is not None:
        w, certificate = minimise_newton(setup.products, setup.law, setup.offset, per_target[None], known, tolerance)
        if bool((certificate <= STALLED * tolerance).all()):
            return _unpack(w[:, 0], per_target)
    rows = Resident.of(setup.z, (k - 1) * t)
    w, certificate = minimise(rows, setup.law, setup.offset, setup.variance, per_target, known, tolerance)
    if not bool((certificate <= STALLED * tolerance).all()):
        raise FitError(
            f"a linear readout of {n} rows x {setup.z.shape[1]} coordinates did not converge: its decrement is "
            f"{float(certificate.max()):.1e} nats, asked {tolerance:.0e}. Use a larger ridge."
        )
    return _unpack(w, per_target)


def _check_finite(z: Tensor, law: Tensor, offset: Tensor | None) -> None:
    for name, given in (("activations", z), ("law", law), ("floor's logits", offset)):
        # A sum is finite unless an entry is not, or the sum overflows, which the slower question tells apart.
        if given is not None and not bool(torch.isfinite(given.sum())) and not bool(torch.isfinite(given).all()):
            raise FitError(f"a linear readout was given {name} that are not finite.")


def _pack(readout: Readout) -> Float[Tensor, "k t r2"]:
    k, t, r = readout.weight.shape
    out = torch.zeros(k, t, r + 2, dtype=readout.weight.dtype, device=readout.weight.device)
    out[..., :-2], out[..., -2], out[0, :, -1] = readout.weight, readout.bias, readout.scale
    return out


def _unpack(w: Float[Tensor, "k t r2"], ridge: Float[Tensor, " t"]) -> Readout:
    return Readout(w[..., :-2].contiguous(), w[..., -2].contiguous(), w[0, :, -1].clone(), ridge.clone())


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

    def along(self, directions: Float[Tensor, "r k"]) -> "Rows":
        """The same rows seen along directions alone."""
        return Rows(self.z @ directions, self.law, self.offset)

    def bits(self, readout: Readout) -> Float[Tensor, "t n"]:
        """Cross-entropy of each row under a readout."""
        return cross_entropy(readout.logits(self.z, self.offset), self.law)


@torch.no_grad()
def fit_path(
    fit: Rows,
    select: Rows,
    variance: Float[Tensor, " r"] | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    tolerance: float = TOLERANCE,
) -> Readout:
    """The readout of the ridge, per target, that does best on the selection rows.

    The path starts at the floor itself (infinite ridge), which a reader must be able to fall back on. Small problems
    solve all ridges at once; others go from large to small, each target until its selection loss rises.
    """
    if variance is None:
        variance = fit.z.var(0, correction=0).clamp_min(1e-12)
    _check_finite(fit.z, fit.law, fit.offset)
    setup = _Setup.of(fit.z, fit.law, fit.offset, variance)
    k, t, _ = fit.law.shape
    floor = Readout.nothing(k, t, fit.z.shape[1], fit.z)
    if k == 1:
        return floor
    path = _path_at_once if setup.products is not None else _path_in_turn
    return path(setup, select, floor, sorted(lambdas, reverse=True), tolerance)


def _path_at_once(setup: _Setup, select: Rows, best: Readout, lambdas: Sequence[float], tolerance: float) -> Readout:
    """Every ridge by Newton's method."""
    t = setup.law.shape[1]
    found = _newton_path(setup, lambdas, tolerance)
    if found is None:
        # Not even the largest ridge: the block solver says why, or does better.
        return _path_in_turn(setup, select, best, lambdas, tolerance)
    # All ridges are scored as if they were targets of their own.
    together, reached = found
    times = len(lambdas)
    beside = None if select.offset is None else select.offset.repeat(1, times, 1)
    repeated = Rows(select.z, select.law.repeat(1, times, 1), beside)
    bits = repeated.bits(together).mean(-1).view(-1, t)
    # The smallest ridges of nearly separable data may have no minimum within reach.
    bits = torch.where(reached, bits, math.inf)
    lowest, which = bits.min(0)
    at = which * t + torch.arange(t, device=which.device)
    return better(best, _pick(together, at), lowest < select.bits(best).mean(-1))


def _newton_path(setup: _Setup, lambdas: Sequence[float], tolerance: float) -> tuple[Readout, Tensor] | None:
    """Readouts of all ridges, largest first, as targets one after the other, and which were reached [ridge, target].

    One batch in chunks of targets that keep it small; None where not even the largest ridge was reached.
    """
    k, t, n = setup.law.shape
    ridges = torch.tensor(lambdas, dtype=setup.z.dtype, device=setup.z.device)
    chunk = max(1, BATCH_ENTRIES // (n * len(lambdas) * (k - 1)))
    found = []
    for targets in torch.arange(t, device=setup.z.device).split(chunk):
        part = setup.take(targets)
        assert part.products is not None
        found.append(minimise_newton(part.products, part.law, part.offset, ridges, None, tolerance))
    w, certificate = (torch.cat(parts, -1 - (i == 0)) for i, parts in enumerate(zip(*found, strict=True)))
    reached = certificate <= STALLED * tolerance
    return (_unpack(w.flatten(1, 2), ridges.repeat_interleave(t)), reached) if bool(reached[0].all()) else None


@torch.no_grad()
def ridge_path(
    fit: Rows, variance: Float[Tensor, " r"], lambdas: Sequence[float], tolerance: float = TOLERANCE
) -> Iterator[Readout]:
    """Readouts of all targets at each ridge, largest first, as far as there is a minimum within reach.

    Small problems solve all at once; others one when it is asked for, from the one before. Raises FitError where not
    even the largest ridge has a minimum within reach.
    """
    _check_finite(fit.z, fit.law, fit.offset)
    setup = _Setup.of(fit.z, fit.law, fit.offset, variance)
    asked, t = sorted(lambdas, reverse=True), fit.law.shape[1]
    found = _newton_path(setup, asked, tolerance) if setup.products is not None and len(fit.law) > 1 else None
    if found is not None:
        together, reached = found
        for i in range(len(asked)):
            if not bool(reached[i].all()):
                return
            yield _pick(together, slice(i * t, (i + 1) * t))
        return
    current: Readout | None = None
    for ridge in asked:
        try:
            current = _solve(setup, ridge, current, tolerance)
        except FitError:
            # The smallest ridges of nearly separable data may have no minimum within reach.
            if current is None:
                raise
            return
        yield current


def _pick(readout: Readout, targets: Tensor | slice) -> Readout:
    return Readout(readout.weight[:, targets], readout.bias[:, targets], readout.scale[targets], readout.ridge[targets])


def _path_in_turn(setup: _Setup, select: Rows, best: Readout, lambdas: Sequence[float], tolerance: float) -> Readout:
    """Warm-started from ridge to ridge; a target whose selection loss has risen leaves the path."""
    t = setup.law.shape[1]
    best_bits = last = select.bits(best).mean(-1)
    alive = torch.arange(t, device=setup.z.device)
    current: Readout | None = None
    for i, ridge in enumerate(lambdas):
        part = setup if len(alive) == t else setup.take(alive)
        try:
            current = _solve(part, ridge, current, tolerance)
        except FitError:
            # The smallest ridges of nearly separable data may have no minimum within reach: the path ends before them.
            if current is None:
                raise
            break
        seen = select if len(alive) == t else Rows(
            select.z, select.law[:, alive], None if select.offset is None else select.offset[:, alive]
        )  # fmt: skip
        bits = last.clone()
        bits[alive] = seen.bits(current).mean(-1)
        gained = bits < best_bits
        whole = Readout(*(getattr(best, name).clone() for name in ("weight", "bias", "scale", "ridge")))
        whole.weight[:, alive], whole.bias[:, alive] = current.weight, current.bias
        whole.scale[alive], whole.ridge[alive] = current.scale, current.ridge
        best, best_bits = better(best, whole, gained), torch.minimum(bits, best_bits)
        if i >= 2:
            going = bits[alive] < last[alive]
            alive = alive[going]
            if not len(alive):
                break
            current = Readout(current.weight[:, going], current.bias[:, going], current.scale[going],
                              current.ridge[going])  # fmt: skip
        last = bits
    return best


def better(first: Readout, second: Readout, which: Tensor) -> Readout:
    """The second readout where `which` [target] says so."""
    return Readout(
        torch.where(which[:, None], second.weight, first.weight),
        torch.where(which, second.bias, first.bias),
        torch.where(which, second.scale, first.scale),
        torch.where(which, second.ridge, first.ridge),
    )


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
