"""L-BFGS for many multinomial targets at once, with a certificate for each."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.solvers.blocks import SLACK, Blocks, LogitBlocks, class_basis, law_of

HISTORY = 8
MAX_ITERATIONS = 300
REFRESH = 3  # the iteration after which curvature is taken again: by then laws are far from where they started
STALLED = 50  # times the tolerance: what is still a solution when float32 carries the line search no further
Precondition = Callable[[Tensor], Tensor]


def minimise(
    rows: Blocks,
    law: Float[Tensor, "outcome t n"],
    offset: Float[Tensor, "outcome t n"] | None,
    variance: Float[Tensor, " r"],
    ridge: Float[Tensor, " t"],
    start: Float[Tensor, "outcome t r2"] | None,
    tolerance: float,
) -> tuple[Float[Tensor, "outcome t r2"], Float[Tensor, " t"]]:
    """Parameters [outcome, target, weights + bias + offset's coefficient], and each target's certificate in nats.

    A certificate is half the squared Newton decrement in the metric of the preconditioner at the solution; the caller
    decides what to do with one above `tolerance`. variance: of each coordinate; they must be nearly uncorrelated.
    """
    return _Descent(rows, law, offset, variance, ridge, start, tolerance).run()


class _Descent:
    """The state of one minimisation; targets leave it when their certificate holds."""

    def __init__(self, rows, law, offset, variance, ridge, start, tolerance) -> None:
        n_outcomes, t, _ = law.shape
        self.rows, self.tolerance = rows, tolerance
        self.basis, self.mix = class_basis(n_outcomes, variance)
        self.known = LogitBlocks.of(law, offset, rows.sizes)
        self.variance = torch.cat([variance, torch.ones_like(variance[:1])])
        self.target = torch.arange(t, device=law.device)
        self.w = torch.zeros(n_outcomes - 1, t, rows.r + 2, dtype=variance.dtype, device=law.device)
        self.w[0, :, -1] = 1.0
        if start is not None:
            self.w = torch.einsum("kq,ktr->qtr", self.basis, start)
            self.w[0, :, -1] = start[0, :, -1]
        elif offset is None:
            prior = (law.mean(-1) / law.sum(0).mean(-1).clamp_min(1e-12)).clamp_min(1e-4).log()
            self.w[..., -2] = self.basis.T @ prior
        self.penalty = torch.zeros(t, rows.r + 2, dtype=variance.dtype, device=law.device)
        self.penalty[:, :-2] = ridge[:, None]
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.law: tuple[Tensor, ...] | None = law[:-1].split(rows.sizes, -1)
        self.moment = torch.empty(0)
        self.solution = self.w.clone()
        self.certificate = torch.full((t,), math.inf, dtype=variance.dtype, device=law.device)

    def run(self) -> tuple[Tensor, Tensor]:
        length = torch.ones(len(self.target), dtype=self.w.dtype, device=self.w.device)
        value, gradient = self._descend(self.w, length, self.w)
        precondition = self._precondition()
        restarted = False
        for i in range(MAX_ITERATIONS):
            step, slope, certificate = self._step(gradient, precondition)
            closing = certificate <= self.tolerance
            # Curvature at the solution decides, which near separable data is far less than at the start; it is taken
            # for many targets together.
            if 4 * int(closing.sum()) >= len(self.target) or i == REFRESH:
                precondition = self._precondition()
                step, slope, certificate = self._step(gradient, precondition)
                closing = certificate <= self.tolerance
            if 4 * int(closing.sum()) >= len(self.target):
                self._keep(certificate)
                if bool(closing.all()):
                    break
                kept = torch.nonzero(~closing).flatten()
                self._drop(kept)
                value, gradient = value[kept], gradient[:, kept]
                precondition = self._precondition()
                step, slope, _ = self._step(gradient, precondition)
            length = -slope / self._bend_along(step).clamp_min(1e-20)
            taken, w = torch.zeros_like(length), self.w
            short = taken > 0
            for _ in range(12):
                moved = w + length[:, None] * step
                new, after = self._descend(moved, length - taken)
                taken = length
                # Differences below rounding of the objective carry no information about the step.
                short = ~(new <= value + 1e-4 * length * slope + 2e-7 * value.abs() + SLACK * self.tolerance)
                if not bool(short.any()):
                    break
                length = torch.where(short, length / 4, length)
            else:
                # float32 carries some targets no further. They try once more from the plain direction; then what they
                # have is kept, with its certificate.
                value, gradient, precondition = new, after, self._precondition()
                if restarted:
                    self._keep(self._step(gradient, precondition)[2])
                    kept = torch.nonzero(~short).flatten()
                    if not len(kept):
                        break
                    self._drop(kept)
                    value, gradient, precondition = value[kept], gradient[:, kept], self._precondition()
                restarted, self.pairs = True, []
                continue
            s, y = moved - w, after - gradient
            rho = (s * y).sum((0, 2))
            rho = torch.where(rho > 1e-20, 1 / rho.clamp_min(1e-20), torch.zeros_like(rho))
            self.pairs = [*self.pairs[1 - HISTORY :], (s, y, rho)]
            value, gradient = new, after
        else:
            self._keep(self._step(gradient, self._precondition())[2])
        out = torch.einsum("kq,qtr->ktr", self.basis, self.solution)
        out[..., -1] = 0
        out[0, :, -1] = self.solution[0, :, -1]
        return out, self.certificate

    def _keep(self, certificate: Tensor) -> None:
        """Write down the present parameters of the targets at work."""
        self.solution[:, self.target] = self.w
        self.certificate[self.target] = certificate

    def _drop(self, kept: Tensor) -> None:
        """Go on with some targets alone."""
        self.target, self.known = self.target[kept], self.known.take(kept)
        self.w, self.penalty, self.moment = self.w[:, kept], self.penalty[kept], self.moment[:, kept]
        self.pairs = [(s[:, kept], y[:, kept], rho[kept]) for s, y, rho in self.pairs]

    def _step(self, gradient: Tensor, precondition: Precondition) -> tuple[Tensor, Tensor, Tensor]:
        """The next step, the slope along it, and half the squared decrement.

        The decrement is the larger of two: in the metric of the preconditioner, and in the one that the last steps have
        learnt, which knows directions of little curvature that the first does not.
        """
        plain = precondition(gradient)
        step = lbfgs_direction(gradient, self.pairs, precondition)
        slope = (gradient * step).sum((0, 2))
        decrement = (gradient * plain).sum((0, 2))
        certificate = 0.5 * torch.maximum(decrement, -slope)
        downhill = slope < 0
        return torch.where(downhill[:, None], step, -plain), torch.where(downhill, slope, -decrement), certificate

    def _bend_along(self, step: Tensor) -> Tensor:
        """The second derivative of the objective along a step; leaves the change of all logits in `known`."""
        move = self._along(step)
        bend = torch.zeros(len(self.target), dtype=torch.float64, device=step.device)
        for i, x in enumerate(self.rows.blocks()):
            move(i, x)
            bend += self._bend(i)
        return (bend / self.rows.n + (self.penalty * step**2).sum((0, 2))).to(step.dtype)

    def _along(self, step: Tensor) -> Callable[[int, Tensor], None]:
        """Writes the change along a step of the logits of one block."""
        q, t, _ = step.shape
        differences = torch.tensordot(self.mix, step, 1)
        weight = differences[..., :-2].reshape(q * t, -1)
        bias, scale = differences[..., -2, None], step[0, :, -1, None]

        still = not bool(weight.any())  # the start of most problems, which needs no product

        def move(i: int, x: Tensor) -> None:
            change = self.known.change[i]
            if still:
                change.zero_()
            else:
                torch.mm(weight, x.T, out=change.view(q * t, -1))
            change += bias
            if self.known.offset is not None:
                change.addcmul_(scale.expand_as(change), self.known.offset[i])

        return move

    def _bend(self, i: int) -> Tensor:
        p, change = self.known.p[i], self.known.change[i]
        mean = p * change
        total = mean[0] if len(p) == 1 else mean.sum(0)
        if self.known.mass is None:
            return (
                mean.mul_(change).sum(-1).sum(0) - total.square_().sum(-1)
                if len(p) > 1
                else ((mean * change).sum(-1)[0] - total.square_().sum(-1))
            )
        return (((mean * change).sum(0) - total**2) * self.known.mass[i]).sum(-1)

    def _sums(self, part_of: Callable[[int, Tensor], Tensor]) -> Tensor:
        """E[a (z, 1, offset)] over all rows of what is given per block, a [m, t, b]: [m, t, r + 2], in float64."""
        raw = rest = torch.empty(0)
        for i, x in enumerate(self.rows.blocks()):
            part = part_of(i, x)
            if not i:
                rest = torch.zeros(*part.shape[:2], 2, dtype=torch.float64, device=x.device)
                raw = torch.zeros(len(part) * part.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
            # Float64 between blocks: laws and labels nearly cancel at the solution.
            raw += part.view(len(raw), -1) @ x
            rest[..., 0] += part.sum(-1)
            if self.known.offset is not None:
                beside = self.known.offset[i]
                rest[..., 1] += (part.view(-1, *beside.shape) * beside).sum(-1).view(rest.shape[:2])
        return torch.cat([raw.view(*rest.shape[:2], -1), rest], -1) / self.rows.n

    def _descend(self, w: Tensor, length: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Move the logits along their change; the objective per target, and its gradient, where that leads.

        step: along which their change is not known yet, as at the start; it is found in the same pass over the rows.
        """
        self.w = w
        known, law = self.known, self.law
        value = torch.zeros(len(self.target), dtype=torch.float64, device=w.device)
        move = None if step is None else self._along(step)

        def laws(i: int, x: Tensor) -> Tensor:
            if move is not None:
                move(i, x)
            logits, p = known.logits[i], known.p[i]
            logits.addcmul_(length[:, None].expand_as(logits), known.change[i])
            mass = None if known.mass is None else known.mass[i]
            value.add_(law_of(logits, p, mass))
            expected = p if mass is None else p * mass
            return expected if law is None else torch.cat([expected, law[i]])

        sums = self._sums(laws)
        if law is not None:
            # The law enters by its moments alone, which the first pass takes along.
            sums, self.moment = sums.split(len(w))
            self.law = None
        gradient = sums - self.moment
        differences = torch.tensordot(self.mix, w, 1)
        differences[..., -1] = w[0, :, -1]
        value = value / self.rows.n - (self.moment * differences).sum((0, 2))
        out = torch.tensordot(self.mix.T.double(), gradient, 1)
        out[..., -1] = 0
        out[0, :, -1] = gradient[..., -1].sum(0)
        value = value + 0.5 * (self.penalty * w**2).sum((0, 2), dtype=torch.float64)
        return value, out.to(w.dtype) + self.penalty * w

    def _class_curvature(self) -> tuple[Tensor, Tensor | None]:
        """E[diag p - p p^T] over classes in the basis of parameters [t, q, q], and the offset's own curvature [t]."""
        q, t, n = len(self.w), len(self.target), self.rows.n
        outer = torch.zeros(t, q, q, dtype=self.w.dtype, device=self.w.device)
        mean = torch.zeros(q, t, dtype=self.w.dtype, device=self.w.device)
        spread = torch.zeros(t, dtype=self.w.dtype, device=self.w.device)
        for i, p in enumerate(self.known.p):
            weighed = p if self.known.mass is None else p * self.known.mass[i]
            mean += weighed.sum(-1)
            outer += (weighed * p).sum(-1).T[..., None] if q == 1 else weighed.transpose(0, 1) @ p.permute(1, 2, 0)
            if self.known.offset is not None:
                o = self.known.offset[i]
                spread += ((weighed * o**2).sum(0) - (weighed * o).sum(0) * (p * o).sum(0)).sum(-1)
        curvature = (torch.diag_embed(mean.T) - outer) / n
        return self.mix.T @ curvature @ self.mix, None if self.known.offset is None else spread / n

    def _precondition(self) -> Precondition:
        """Inverse of the Hessian were the classes' curvature the same at all rows."""
        curvature, spread = self._class_curvature()
        beside = None if spread is None else 1 / spread.clamp_min(1e-4)
        inner = _kronecker(curvature, self.variance, self.penalty[:, :-1])

        def precondition(gradient: Tensor) -> Tensor:
            out = torch.zeros_like(gradient)
            out[..., :-1] = inner(gradient[..., :-1])
            if beside is not None:
                out[0, :, -1] = beside * gradient[0, :, -1]
            return out

        return precondition


def _kronecker(curvature: Tensor, variance: Tensor, penalty: Tensor) -> Precondition:
    """(curvature x diag(variance) + penalty)^-1, per target: curvature [t, q, q], variance [c], penalty [t, c]."""
    if curvature.shape[-1] == 1:
        scale = 1 / (curvature[:, 0].clamp_min(1e-6) * variance + penalty)
        return lambda gradient: gradient * scale
    values, vectors = torch.linalg.eigh(curvature)
    scale = 1 / (values.T.clamp_min(1e-6)[..., None] * variance + penalty)  # [q, t, c]

    def apply(gradient: Tensor) -> Tensor:
        turned = torch.bmm(vectors.mT, gradient.transpose(0, 1)) * scale.transpose(0, 1)
        return torch.bmm(vectors, turned).transpose(0, 1)

    return apply


def lbfgs_direction(
    gradient: Float[Tensor, "q t c"], pairs: list[tuple[Tensor, Tensor, Tensor]], precondition: Precondition
) -> Float[Tensor, "q t c"]:
    """Two-loop recursion with scalars per target; pairs: steps, changes of the gradient, 1 over their products."""
    q, alphas = gradient.clone(), []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum((0, 2))
        alphas.append(alpha)
        q -= alpha[:, None] * y
    q = precondition(q)
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - rho * (y * q).sum((0, 2)))[:, None] * s
    return -q
