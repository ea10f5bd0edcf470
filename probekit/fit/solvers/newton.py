"""Newton's method for small multinomial problems, many at once."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probekit.fit.solvers.blocks import SLACK, law_of

NEWTON_WORK = 8_000_000  # rows x products of coordinates x products of classes, up to which Newton is cheaper


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


def newton_is_cheaper(z: Float[Tensor, "n r"], n_outcomes: int) -> bool:
    """Whether so few rows and coordinates make Newton's method the faster one."""
    n, r = z.shape
    q = n_outcomes - 1
    return n * (r + 1) ** 2 * (q * (q + 1) // 2) <= NEWTON_WORK and q * (r + 1) <= 128


def minimise_newton(
    products: Products,
    law: Float[Tensor, "outcome t n"],
    offset: Float[Tensor, "outcome t n"] | None,
    ridge: Float[Tensor, " l"] | Float[Tensor, "l t"],
    start: Float[Tensor, "outcome t r2"] | None,
    tolerance: float,
) -> tuple[Float[Tensor, "outcome l t r2"], Float[Tensor, "l t"]]:
    """As `minimise`, for every ridge at once; the certificate is the true Newton decrement, by the exact Hessian.

    Everything that differs between ridges and targets is one batch, so that a whole path costs some ten steps.
    """
    ridge = ridge[:, None].expand(-1, law.shape[1]) if ridge.ndim == 1 else ridge
    problem = _Problem.of(products, law, offset, ridge)
    w = problem.start(offset is not None, start)
    logits = problem.logits(w)
    p = torch.empty_like(logits)
    value = problem.value(w, logits, p)
    jitter = 1e-7 * torch.eye(problem.width, dtype=torch.float64, device=law.device)
    certificate = torch.full(ridge.shape, math.inf, dtype=torch.float64, device=law.device)
    alive = torch.ones_like(certificate, dtype=torch.bool)
    for _ in range(60):
        gradient, hessian = problem.derivatives(w, p)
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
            logits = problem.logits(moved)
            new = problem.value(moved, logits, p)
            short = alive & ~(new <= value + 1e-4 * length * slope + 2e-7 * value.abs() + SLACK * tolerance)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 4, length)
        else:
            # float32 carries these no further; the law is taken again where they stay.
            alive &= ~short
            moved = torch.where(short[..., None], w, moved)
            new = problem.value(moved, problem.logits(moved), p)
        w, value = moved, new
    return problem.parameters(w), certificate.to(law.dtype)


@dataclass(frozen=True)
class _Problem:
    """Targets at several ridges, as functions of w [l, t, width]: weights and bias per difference of outcomes, scale.

    free: the law of all outcomes but the last; beside: the floor's logits as differences to the last, centred, and
    shift, what was taken off; penalty: of w.
    """

    products: Products
    law: Float[Tensor, "outcome t n"]
    mass: Float[Tensor, "t n"]
    beside: Float[Tensor, "q t n"] | None
    shift: Float[Tensor, "q t"]
    penalty: Float[Tensor, "l t width width"]

    @classmethod
    def of(cls, products: Products, law: Tensor, offset: Tensor | None, ridge: Tensor) -> "_Problem":
        n_outcomes, t, _ = law.shape
        q, c = n_outcomes - 1, products.rows.shape[1]
        width = q * c + (offset is not None)
        beside, shift = None, law.new_zeros(q, t)
        if offset is not None:
            # Centred: a floor that is nearly constant is else nearly an intercept, and float32 sees only their sum.
            beside = offset[:-1] - offset[-1]
            shift = beside.mean(-1)
            beside = beside - shift[..., None]
        # In differences v = mix @ u a ridge on u is v^T (mix mix^T)^-1 v, and mix mix^T = 1 + 11^T.
        metric = torch.eye(q, dtype=torch.float64, device=law.device) - 1 / n_outcomes
        stiff = torch.cat([1 / products.scale.double() ** 2, torch.zeros(1, dtype=torch.float64, device=law.device)])
        penalty = torch.zeros(*ridge.shape, width, width, dtype=torch.float64, device=law.device)
        block = torch.einsum("ij,ab->iajb", metric, torch.diag(stiff)).reshape(q * c, q * c)
        penalty[..., : q * c, : q * c] = ridge.double()[..., None, None] * block
        return cls(products, law, law.sum(0), beside, shift, penalty)

    @property
    def free(self) -> Tensor:
        return self.law[:-1]

    @property
    def width(self) -> int:
        return self.penalty.shape[-1]

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Differences of outcomes, ridges, targets, rows, and coordinates with the one."""
        q, t, n = self.free.shape
        return q, len(self.penalty), t, n, self.products.rows.shape[1]

    def start(self, floor: bool, known: Float[Tensor, "outcome t r2"] | None) -> Float[Tensor, "l t width"]:
        """Where to begin: at a known solution, at the floor, or at the mean law."""
        q, n_ridge, t, _, c = self.sizes
        w = torch.zeros(n_ridge, t, self.width, dtype=torch.float64, device=self.law.device)
        if floor:
            w[..., -1] = 1.0
            w[..., c - 1 : q * c : c] = self.shift.T.double()
        if known is not None:
            v = (known[:-1] - known[-1])[..., :-1].double()
            v[..., :-1] *= self.products.scale.double()
            w[..., : q * c] = rearrange(v, "q t c -> t (q c)")
            if floor:
                w[..., -1] = known[0, :, -1].double()
                w[..., c - 1 : q * c : c] += (known[0, :, -1] * self.shift).T.double()
        elif not floor:
            prior = (self.law.mean(-1) / self.mass.mean(-1).clamp_min(1e-12)).clamp_min(1e-4).log()
            w[..., c - 1 :: c] = (prior[:-1] - prior[-1]).T.double()
        return w

    def logits(self, w: Float[Tensor, "l t width"]) -> Float[Tensor, "q l t n"]:
        """Differences of logits to the last outcome."""
        q, n_ridge, t, n, c = self.sizes
        weight = rearrange(w[..., : q * c], "l t (q c) -> q l t c", q=q).to(self.law.dtype)
        out = (weight.reshape(-1, c) @ self.products.rows.T).view(q, n_ridge, t, n)
        if self.beside is None:
            return out
        return out.addcmul_(w[..., -1, None].to(self.law.dtype).expand(q, -1, -1, -1), self.beside[:, None])

    def value(self, w: Tensor, logits: Tensor, p: Tensor) -> Float[Tensor, "l t"]:
        """The objective; writes the laws of these logits into p."""
        q, n_ridge, t, n, _ = self.sizes
        flat = logits.view(q, n_ridge * t, n)
        mass = self.mass.expand(n_ridge, t, n).reshape(-1, n)
        total = law_of(flat, p.view_as(flat), mass).view(n_ridge, t)
        data = (total - (self.free[:, None] * logits).sum((0, 3))).double() / n
        return data + 0.5 * (w * (self.penalty @ w[..., None])[..., 0]).sum(-1)

    def derivatives(self, w: Tensor, p: Tensor) -> tuple[Float[Tensor, "l t width"], Float[Tensor, "l t width width"]]:
        """Gradient and Hessian where the laws are p."""
        q, n_ridge, t, n, c = self.sizes
        rows, mass = self.products.rows, self.mass
        residual = p * mass - self.free[:, None]
        gradient = torch.zeros_like(w)
        sums = (residual.view(-1, n) @ rows).view(q, n_ridge, t, c)
        gradient[..., : q * c] = rearrange(sums, "q l t c -> l t (q c)").double() / n
        hessian = torch.zeros_like(self.penalty)
        inner = hessian[..., : q * c, : q * c].view(n_ridge, t, q * c, q * c)
        for i in range(q):
            for j in range(i, q):
                weight = (p[i] * ((1.0 if i == j else 0.0) - p[j]) * mass).view(-1, n)
                both = (weight @ self.products.pairs.T).view(n_ridge, t, c, c).double() / n
                inner[..., i * c : (i + 1) * c, j * c : (j + 1) * c] = both
                inner[..., j * c : (j + 1) * c, i * c : (i + 1) * c] = both
        if self.beside is not None:
            o = self.beside[:, None]
            turned = p * (o - (p * o).sum(0)) * mass
            cross = (turned.reshape(-1, n) @ rows).view(q, n_ridge, t, c)
            cross = rearrange(cross, "q l t c -> l t (q c)").double() / n
            hessian[..., -1, :-1] = hessian[..., :-1, -1] = cross
            # The same floor on its curvature as in the block solver: a constant floor has no coefficient of its own.
            hessian[..., -1, -1] = ((turned * o).sum((0, 3)).double() / n).clamp_min(1e-6)
            gradient[..., -1] = (residual * o).sum((0, 3)).double() / n
        return gradient + (self.penalty @ w[..., None])[..., 0], hessian + self.penalty

    def parameters(self, w: Float[Tensor, "l t width"]) -> Float[Tensor, "outcome l t r2"]:
        """Weights, bias and scale of every outcome, on coordinates that are not standardised."""
        q, n_ridge, t, _, c = self.sizes
        v = torch.zeros(q + 1, n_ridge, t, c + 1, dtype=self.law.dtype, device=self.law.device)
        v[:-1, ..., :-1] = rearrange(w[..., : q * c], "l t (q c) -> q l t c", q=q).to(self.law.dtype)
        if self.beside is not None:
            v[:-1, ..., -2] -= w[..., -1].to(self.law.dtype) * self.shift[:, None]
        v[..., : c - 1] /= self.products.scale
        v = v - v.mean(0)
        v[..., -1] = 0
        v[0, ..., -1] = w[..., -1].to(self.law.dtype) if self.beside is not None else 1.0
        return v
