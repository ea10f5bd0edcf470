"""The two solvers behind every linear readout: L-BFGS over blocks of rows, and Newton for small problems.

Both minimise mean cross-entropy (nats) plus ridge / 2 |weight|^2 for all targets at once, each target with its own step
and certificate. Logits are kept as differences to the last class, which saves one matrix product of every n_class; the
parameters live in an orthonormal basis of what sums to zero over classes, so that a ridge means the same.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

HISTORY = 8
MAX_ITERATIONS = 300
REFRESH = 3  # the iteration after which curvature is taken again: by then laws are far from where they started
STALLED = 50  # times the tolerance: what is still a solution when float32 carries the line search no further
SLACK = 0.05  # of the tolerance: a rise of the objective so small is rounding, and harmless
NEWTON_WORK = 8_000_000  # rows x products of coordinates x products of classes, up to which Newton is cheaper
BLOCK_ENTRIES = 2**16  # logits per block: a block's arrays stay in the cache of one core

Precondition = Callable[[Tensor], Tensor]


@runtime_checkable
class RowBlocks(Protocol):
    """Rows [n, r] given block by block, in an order that never changes."""

    @property
    def n(self) -> int:
        """Rows."""
        ...

    @property
    def r(self) -> int:
        """Coordinates of the problem."""
        ...

    def blocks(self) -> Iterator[Float[Tensor, "b d"]]:
        """Blocks in the order of `sizes`; d is the width in which they are kept."""
        ...

    @property
    def sizes(self) -> list[int]:
        """Rows of each block."""
        ...

    def inward(self, weight: Float[Tensor, "m r"]) -> Float[Tensor, "m d"]:
        """Weights on the coordinates of the problem as weights on the blocks."""
        ...

    def outward(self, gradient: Float[Tensor, "m d"]) -> Float[Tensor, "m r"]:
        """The transpose of `inward`, for sums over rows."""
        ...


@dataclass(frozen=True)
class Resident:
    """Rows that lie in memory, cut without copying."""

    z: Float[Tensor, "n r"]
    step: int

    @classmethod
    def of(cls, z: Float[Tensor, "n r"], outputs: int) -> "Resident":
        """Blocks for problems of so many outputs per row."""
        return cls(z, max(512, min(65_536, BLOCK_ENTRIES // outputs)))

    @property
    def n(self) -> int:
        return len(self.z)

    @property
    def r(self) -> int:
        return self.z.shape[1]

    @property
    def sizes(self) -> list[int]:
        return [min(self.step, self.n - a) for a in range(0, self.n, self.step)]

    def blocks(self) -> Iterator[Tensor]:
        yield from self.z.split(self.step)

    def inward(self, weight: Tensor) -> Tensor:
        return weight

    def outward(self, gradient: Tensor) -> Tensor:
        return gradient


def class_basis(n_class: int, like: Tensor) -> tuple[Float[Tensor, "k q"], Float[Tensor, "q q"]]:
    """An orthonormal basis of the vectors over classes that sum to zero, and its rows as differences to the last."""
    centred = torch.eye(n_class, dtype=torch.float64) - 1 / n_class
    basis = torch.linalg.qr(centred[:, : n_class - 1])[0]
    return basis.to(like), (basis[:-1] - basis[-1]).to(like)


@dataclass
class Cells:
    """What is known of every row, per block: differences of logits, their change along the step, laws p [q, t, b].

    mass [t, b] of the law, None where all of it is 1; offset: differences of the floor's logits, or None.
    """

    mass: list[Tensor] | None
    offset: list[Tensor] | None
    logits: list[Tensor]
    change: list[Tensor]
    p: list[Tensor]

    @classmethod
    def of(cls, law: Tensor, offset: Tensor | None, sizes: list[int]) -> "Cells":
        k, t, _ = law.shape
        mass = [part.sum(0) for part in law.split(sizes, -1)]
        whole = all(bool(((part - 1).abs() < 1e-6).all()) for part in mass)
        beside = None
        if offset is not None:
            beside = [(part[:-1] - part[-1]).contiguous() for part in offset.split(sizes, -1)]
        shapes = [(k - 1, t, size) for size in sizes]
        return cls(None if whole else mass, beside, *([law.new_zeros(shape) for shape in shapes] for _ in range(3)))

    def take(self, kept: Tensor) -> "Cells":
        """The same cells of some targets."""

        def of(parts: list[Tensor]) -> list[Tensor]:
            return [part.index_select(-2, kept) for part in parts]

        return Cells(
            None if self.mass is None else of(self.mass), None if self.offset is None else of(self.offset),
            of(self.logits), of(self.change), of(self.p),
        )  # fmt: skip


def minimise(
    rows: RowBlocks,
    law: Float[Tensor, "k t n"],
    offset: Float[Tensor, "k t n"] | None,
    variance: Float[Tensor, " r"],
    ridge: Float[Tensor, " t"],
    start: Float[Tensor, "k t r2"] | None,
    tolerance: float,
    metric: Callable[[Tensor], Precondition] | None = None,
    one_pass: bool = False,
) -> tuple[Float[Tensor, "k t r2"], Float[Tensor, " t"]]:
    """Parameters [class, target, weights + bias + offset's coefficient], and each target's certificate in nats.

    A certificate is half the squared Newton decrement in the metric of the preconditioner at the solution; the caller
    decides what to do with one above `tolerance`. variance: of each coordinate, which must be nearly uncorrelated
    unless `metric` makes the preconditioner of weights and bias from the parameters in the class basis. one_pass: steps
    of length one, each in a single pass over the rows, instead of two passes and the exact length.
    """
    return _Descent(rows, law, offset, variance, ridge, start, tolerance, metric, one_pass).run()


class _Descent:
    """The state of one minimisation; targets leave it when their certificate holds."""

    def __init__(self, rows, law, offset, variance, ridge, start, tolerance, metric, one_pass) -> None:
        k, t, _ = law.shape
        self.rows, self.tolerance, self.metric, self.one_pass = rows, tolerance, metric, one_pass
        self.basis, self.mix = class_basis(k, variance)
        self.cells = Cells.of(law, offset, rows.sizes)
        self.variance = torch.cat([variance, torch.ones_like(variance[:1])])
        self.target = torch.arange(t, device=law.device)
        self.w = torch.zeros(k - 1, t, rows.r + 2, dtype=variance.dtype, device=law.device)
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
        self.taken: tuple[float, Precondition] | None = None
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
            length = torch.ones_like(slope) if self.one_pass else -slope / self._bend_along(step).clamp_min(1e-20)
            taken, w, unseen = torch.zeros_like(length), self.w, step if self.one_pass else None
            short = taken > 0
            for _ in range(12):
                moved = w + length[:, None] * step
                new, after = self._descend(moved, length - taken, unseen)
                taken, unseen = length, None
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
        self.target, self.cells = self.target[kept], self.cells.take(kept)
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
        """The second derivative of the objective along a step; leaves the change of all logits in the cells."""
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
        weight = self.rows.inward(differences[..., :-2].reshape(q * t, -1))
        bias, scale = differences[..., -2, None], step[0, :, -1, None]

        still = not bool(weight.any())  # the start of most problems, which needs no product

        def move(i: int, x: Tensor) -> None:
            change = self.cells.change[i]
            if still:
                change.zero_()
            else:
                torch.mm(weight, x.T, out=change.view(q * t, -1))
            change += bias
            if self.cells.offset is not None:
                change.addcmul_(scale.expand_as(change), self.cells.offset[i])

        return move

    def _bend(self, i: int) -> Tensor:
        p, change = self.cells.p[i], self.cells.change[i]
        mean = p * change
        total = mean[0] if len(p) == 1 else mean.sum(0)
        if self.cells.mass is None:
            return (
                mean.mul_(change).sum(-1).sum(0) - total.square_().sum(-1)
                if len(p) > 1
                else ((mean * change).sum(-1)[0] - total.square_().sum(-1))
            )
        return (((mean * change).sum(0) - total**2) * self.cells.mass[i]).sum(-1)

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
            if self.cells.offset is not None:
                beside = self.cells.offset[i]
                rest[..., 1] += (part.view(-1, *beside.shape) * beside).sum(-1).view(rest.shape[:2])
        return torch.cat([self.rows.outward(raw).view(*rest.shape[:2], -1), rest], -1) / self.rows.n

    def _descend(self, w: Tensor, length: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Move the logits along their change; the objective per target, and its gradient, where that leads.

        With a step its change is found in the same pass over the rows.
        """
        self.w = w
        cells, law = self.cells, self.law
        value = torch.zeros(len(self.target), dtype=torch.float64, device=w.device)
        move = None if step is None else self._along(step)

        def laws(i: int, x: Tensor) -> Tensor:
            if move is not None:
                move(i, x)
            logits, p = cells.logits[i], cells.p[i]
            logits.addcmul_(length[:, None].expand_as(logits), cells.change[i])
            mass = None if cells.mass is None else cells.mass[i]
            value.add_(_law(logits, p, mass))
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
        value = value + 0.5 * (self.penalty * w**2).sum((0, 2))
        return value, out.to(w.dtype) + self.penalty * w

    def _class_curvature(self) -> tuple[Tensor, Tensor | None]:
        """E[diag p - p p^T] over classes in the basis of parameters [t, q, q], and the offset's own curvature [t]."""
        q, t, n = len(self.w), len(self.target), self.rows.n
        outer = torch.zeros(t, q, q, dtype=self.w.dtype, device=self.w.device)
        mean = torch.zeros(q, t, dtype=self.w.dtype, device=self.w.device)
        spread = torch.zeros(t, dtype=self.w.dtype, device=self.w.device)
        for i, p in enumerate(self.cells.p):
            weighed = p if self.cells.mass is None else p * self.cells.mass[i]
            mean += weighed.sum(-1)
            outer += (weighed * p).sum(-1).T[..., None] if q == 1 else weighed.transpose(0, 1) @ p.permute(1, 2, 0)
            if self.cells.offset is not None:
                o = self.cells.offset[i]
                spread += ((weighed * o**2).sum(0) - (weighed * o).sum(0) * (p * o).sum(0)).sum(-1)
        curvature = (torch.diag_embed(mean.T) - outer) / n
        return self.mix.T @ curvature @ self.mix, None if self.cells.offset is None else spread / n

    def _precondition(self) -> Precondition:
        """Inverse of the Hessian were the classes' curvature the same at all rows, or what `metric` makes of it."""
        curvature, spread = self._class_curvature()
        beside = None if spread is None else 1 / spread.clamp_min(1e-4)
        if self.metric is not None:
            mean = float(curvature.mean())
            # Dear to take: an earlier one stands while the mean curvature is about what it was.
            if self.taken is None or not 0.6 < mean / self.taken[0] < 1.6:
                self.taken = mean, self.metric(self.w)
            inner = self.taken[1]
        else:
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


def _law(logits: Tensor, p: Tensor, mass: Tensor | None) -> Tensor:
    """Write the law of differences of logits into p [q, t, b]; the sum over rows of the log of the total, [t]."""
    if len(logits) == 1:
        torch.sigmoid(logits, out=p)
        total = torch.nn.functional.softplus(logits[0])
        return (total if mass is None else total * mass).sum(-1)
    top = logits.amax(0).clamp_min_(0)
    torch.sub(logits, top, out=p).exp_()
    total = p.sum(0).add_(torch.exp(-top))
    p /= total
    total.log_().add_(top)
    return (total if mass is None else total * mass).sum(-1)


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


@dataclass(frozen=True)
class Products:
    """Rows [n, r + 1], standardised and with a one, and the products of their coordinates, for Newton's method."""

    rows: Float[Tensor, "n c"]
    pairs: Float[Tensor, "c2 n"]
    scale: Float[Tensor, " r"]

    @classmethod
    def of(cls, z: Float[Tensor, "n r"], variance: Float[Tensor, " r"]) -> "Products":
        n = len(z)
        scale = variance.clamp_min(1e-12).sqrt()
        rows = torch.cat([z / scale, torch.ones(n, 1, dtype=z.dtype, device=z.device)], 1)
        columns = rows.T.contiguous()
        return cls(rows, (columns[:, None] * columns).view(-1, n), scale)


def newton_is_cheaper(z: Float[Tensor, "n r"], n_class: int) -> bool:
    """Whether so few rows and coordinates make Newton's method the faster one."""
    n, r = z.shape
    q = n_class - 1
    return n * (r + 1) ** 2 * (q * (q + 1) // 2) <= NEWTON_WORK and q * (r + 1) <= 128


def minimise_newton(
    products: Products,
    law: Float[Tensor, "k t n"],
    offset: Float[Tensor, "k t n"] | None,
    ridge: Float[Tensor, " l"] | Float[Tensor, "l t"],
    start: Float[Tensor, "k t r2"] | None,
    tolerance: float,
) -> tuple[Float[Tensor, "k l t r2"], Float[Tensor, "l t"]]:
    """As `minimise`, for every ridge at once; the certificate is the true Newton decrement, by the exact Hessian.

    Everything that differs between ridges and targets is one batch, so that a whole path costs some ten steps.
    """
    k, t, n = law.shape
    ridge = ridge[:, None].expand(-1, t) if ridge.ndim == 1 else ridge
    q, n_ridge, c = k - 1, len(ridge), products.rows.shape[1]
    width = q * c + (offset is not None)
    free, mass = law[:-1], law.sum(0)
    beside, shift = None, law.new_zeros(q, t)
    if offset is not None:
        # Centred: a floor that is nearly constant is otherwise nearly an intercept, and float32 sees only their sum.
        beside = offset[:-1] - offset[-1]
        shift = beside.mean(-1)
        beside = beside - shift[..., None]
    # In differences v = mix @ u a ridge on u is v^T (mix mix^T)^-1 v, and mix mix^T = 1 + 11^T.
    metric = torch.eye(q, dtype=torch.float64, device=law.device) - 1 / k
    stiff = torch.cat([1 / products.scale.double() ** 2, torch.zeros(1, dtype=torch.float64, device=law.device)])
    penalty = torch.zeros(n_ridge, t, width, width, dtype=torch.float64, device=law.device)
    block = torch.einsum("ij,ab->iajb", metric, torch.diag(stiff)).reshape(q * c, q * c)
    penalty[..., : q * c, : q * c] = ridge.double()[..., None, None] * block
    w = torch.zeros(n_ridge, t, width, dtype=torch.float64, device=law.device)
    if offset is not None:
        w[..., -1] = 1.0
        w[..., c - 1 : q * c : c] = shift.T.double()
    if start is not None:
        v = (start[:-1] - start[-1])[..., :-1].double()
        v[..., :-1] *= products.scale.double()
        w[..., : q * c] = v.transpose(0, 1).reshape(t, q * c)
        if offset is not None:
            w[..., -1] = start[0, :, -1].double()
            w[..., c - 1 : q * c : c] += (start[0, :, -1] * shift).T.double()
    elif offset is None:
        prior = (law.mean(-1) / mass.mean(-1).clamp_min(1e-12)).clamp_min(1e-4).log()
        w[..., c - 1 :: c] = (prior[:-1] - prior[-1]).T.double()

    def logits_of(w: Tensor) -> Tensor:
        weight = w[..., : q * c].reshape(n_ridge, t, q, c).permute(2, 0, 1, 3).to(law.dtype)
        out = (weight.reshape(-1, c) @ products.rows.T).view(q, n_ridge, t, n)
        return (
            out
            if beside is None
            else out.addcmul_(w[..., -1, None].to(law.dtype).expand(q, -1, -1, -1), beside[:, None])
        )

    def value_of(w: Tensor, logits: Tensor, p: Tensor) -> Tensor:
        flat = logits.view(q, n_ridge * t, n)
        total = _law(flat, p.view_as(flat), mass.expand(n_ridge, t, n).reshape(-1, n)).view(n_ridge, t)
        data = (total - (free[:, None] * logits).sum((0, 3))).double() / n
        return data + 0.5 * (w * (penalty @ w[..., None])[..., 0]).sum(-1)

    def derivatives(w: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        residual = p * mass - free[:, None]
        gradient = torch.zeros_like(w)
        sums = (residual.view(-1, n) @ products.rows).view(q, n_ridge, t, c)
        gradient[..., : q * c] = sums.permute(1, 2, 0, 3).reshape(n_ridge, t, q * c).double() / n
        hessian = torch.zeros_like(penalty)
        inner = hessian[..., : q * c, : q * c].view(n_ridge, t, q * c, q * c)
        for i in range(q):
            for j in range(i, q):
                weight = (p[i] * ((1.0 if i == j else 0.0) - p[j]) * mass).view(-1, n)
                both = (weight @ products.pairs.T).view(n_ridge, t, c, c).double() / n
                inner[..., i * c : (i + 1) * c, j * c : (j + 1) * c] = both
                inner[..., j * c : (j + 1) * c, i * c : (i + 1) * c] = both
        if beside is not None:
            o = beside[:, None]
            turned = p * (o - (p * o).sum(0)) * mass
            cross = (turned.reshape(-1, n) @ products.rows).view(q, n_ridge, t, c).permute(1, 2, 0, 3)
            cross = cross.reshape(n_ridge, t, q * c).double() / n
            hessian[..., -1, :-1] = hessian[..., :-1, -1] = cross
            # The same floor on its curvature as in the block solver: a constant floor has no coefficient of its own.
            hessian[..., -1, -1] = ((turned * o).sum((0, 3)).double() / n).clamp_min(1e-6)
            gradient[..., -1] = (residual * o).sum((0, 3)).double() / n
        return gradient + (penalty @ w[..., None])[..., 0], hessian + penalty

    logits = logits_of(w)
    p = torch.empty_like(logits)
    value = value_of(w, logits, p)
    jitter = 1e-7 * torch.eye(width, dtype=torch.float64, device=law.device)
    certificate = torch.full((n_ridge, t), math.inf, dtype=torch.float64, device=law.device)
    alive = torch.ones_like(certificate, dtype=torch.bool)
    for _ in range(60):
        gradient, hessian = derivatives(w, p)
        factor, failed = torch.linalg.cholesky_ex(hessian + jitter)
        step = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        slope = (gradient * step).sum(-1)
        certificate = torch.where(failed == 0, -0.5 * slope, math.inf)
        alive &= (certificate > tolerance) & (failed == 0)
        if not bool(alive.any()):
            break
        length, short = alive.double(), ~alive
        for _ in range(20):
            moved = w + length[..., None] * step
            logits = logits_of(moved)
            new = value_of(moved, logits, p)
            short = alive & ~(new <= value + 1e-4 * length * slope + 2e-7 * value.abs() + SLACK * tolerance)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 4, length)
        else:
            # float32 carries these no further; the law is taken again where they stay.
            alive &= ~short
            moved = torch.where(short[..., None], w, moved)
            new = value_of(moved, logits_of(moved), p)
        w, value = moved, new
    v = torch.zeros(k, n_ridge, t, c + 1, dtype=law.dtype, device=law.device)
    free_w = w[..., : q * c].reshape(n_ridge, t, q, c).permute(2, 0, 1, 3).to(law.dtype)
    v[:-1, ..., :-1] = free_w
    v[:-1, ..., -2] -= w[..., -1].to(law.dtype) * shift[:, None]
    v[..., : c - 1] /= products.scale
    v = v - v.mean(0)
    v[..., -1] = 0
    v[0, ..., -1] = w[..., -1].to(law.dtype) if offset is not None else 1.0
    return v, certificate.to(law.dtype)
