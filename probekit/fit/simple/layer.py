"""The convex last layer of a simple function, from where descent on fewer rows left it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.path import fit_path
from probekit.fit.readout import Readout, Rows

TOLERANCE = 2e-5  # nats of the certificate: a function's directions are known far less well
STEPS = 12
HALVINGS = 6
NEAR = 1e-6  # curvature added to every coefficient's, towards where it is: a floor may be a constant


def refit_layer(fit: Rows, select: Rows, start: Readout, lambdas: Sequence[float]) -> Readout:
    """The readout of few features, on all rows, of the ridge that does best on the selection rows.

    start: a readout that is nearly there, such as one of some of the rows.
    """
    found = _newton(fit, select, start, lambdas) if fit.law.shape[:2] == (2, 1) else None
    return _path(fit, select, lambdas) if found is None else found


def _path(fit: Rows, select: Rows, lambdas: Sequence[float]) -> Readout:
    """The whole path, in the features' eigenbasis: a ridge means the same there, and collinear ones cost no steps."""
    centred = (fit.z - fit.z.mean(0)).double()
    moments, axes = (part.to(fit.z) for part in torch.linalg.eigh(centred.T @ centred / len(centred)))
    readout = fit_path(fit.along(axes), select.along(axes), moments.clamp_min(1e-12), lambdas, TOLERANCE)
    return replace(readout, weight=readout.weight @ axes.T)


def _newton(fit: Rows, select: Rows, start: Readout, lambdas: Sequence[float]) -> Readout | None:
    """Of one binary law: every step is taken for all ridges by the same Hessian, and that of the best one is kept.

    Coefficients are of the difference of the two logits: features, a one, and the floor's own difference. None where
    it has not converged, as it may not where rows are nearly separable.
    """
    x, held_out = _columns(fit), _columns(select)
    mass, told, n = fit.law.sum(0)[0], fit.law[0, 0], len(x)
    f = fit.z.shape[1]
    ridges = torch.tensor(sorted(lambdas, reverse=True), dtype=torch.float64, device=x.device)
    # Weights of both outcomes are half the difference, up to sign: so is the ridge on it.
    penalties = torch.zeros(len(ridges), x.shape[1], dtype=torch.float64, device=x.device)
    penalties[:, :f] = ridges[:, None] / 2
    near = NEAR * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    here = torch.cat([start.weight[0, 0] - start.weight[1, 0], (start.bias[0] - start.bias[1]), start.scale])
    here = here[: x.shape[1]].double()

    def objective(at: Tensor, logits: Tensor, penalty: Tensor) -> Tensor:
        return _nats(logits, mass, told) + 0.5 * (penalty * at**2).sum()

    logits = x @ here.to(x)
    for _ in range(STEPS):
        law = torch.sigmoid(logits)
        slope = (x.T @ (law * mass - told)).double() / n
        curvature = ((x * (law * (1 - law) * mass)[:, None]).T @ x).double() / n + near
        slopes = slope + penalties * here
        hessians = curvature + torch.diag_embed(penalties)
        steps = -torch.linalg.solve(hessians, slopes)
        lost = _nats((here + steps).to(x) @ held_out.T, select.law.sum(0)[0], select.law[0, 0])
        best = int(lost.argmin())
        step, penalty = steps[best], penalties[best]
        decrement = -0.5 * float(step @ slopes[best])
        before, length = objective(here, logits, penalty), 1.0
        for _ in range(HALVINGS):
            moved = here + length * step
            logits = x @ moved.to(x)
            if bool(objective(moved, logits, penalty) <= before + TOLERANCE):
                break
            length /= 2
        here = moved
        if decrement <= TOLERANCE:
            half = here[: f + 1].to(x) / 2
            both = torch.stack([half, -half])
            scale = here[f + 1 :].to(x) if fit.offset is not None else torch.ones_like(start.scale)
            return Readout(both[:, None, :f].contiguous(), both[:, f:], scale, ridges[best : best + 1].to(x))
    return None


def _columns(rows: Rows) -> Float[Tensor, "n c"]:
    parts = [rows.z, torch.ones_like(rows.z[:, :1])]
    if rows.offset is not None:
        parts.append((rows.offset[0] - rows.offset[1]).T)
    return torch.cat(parts, 1)


def _nats(logits: Float[Tensor, "*l n"], mass: Float[Tensor, " n"], told: Float[Tensor, " n"]) -> Float[Tensor, "*l"]:
    """Mean cross-entropy of a binary law from differences of its logits."""
    return (torch.nn.functional.softplus(logits) * mass - told * logits).mean(-1)
