"""Newton's method for small multinomial problems, many at once."""

import math
from dataclasses import dataclass

import torch
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
        total = law_of(flat, p.view_as(flat), mass.expand(n_ridge, t, n).reshape(-1, n)).view(n_ridge, t)
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
