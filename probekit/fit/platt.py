"""Calibration on rows of its own: one temperature and the intercepts (Platt 1999, for laws), kept only if it helps.

A small set of rows cannot say much about many intercepts, so all carry a Gaussian prior: of variance 1 for the
log-temperature, of 2 / K for each of K intercepts. In few rows they stay near 0, in many the prior weighs nothing.
Of a number it is a factor, which is kept positive, and a constant, with a Gaussian prior of variance 1 around 1 and 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.gaussian import is_value

MAX_STEPS = 60
LEAST_FACTOR = 1e-3  # of a number's prediction: one that is of no use
TOLERANCE = 1e-10  # nats: half the squared Newton decrement


def fit_platt(logits: Float[Tensor, "outcome t n"], law: Float[Tensor, "outcome t n"]) -> Float[Tensor, "t outcome1"]:
    """log-temperature and intercepts per target, for `calibrate`: the posterior mode, by a damped Newton method.

    Minimises mean cross-entropy (nats) + (t^2 + K / 2 |intercepts|^2) / 2n. Raises FitError when it does not converge.
    """
    if is_value(law):
        return torch.stack([_line(x.double(), y.double()) for x, y in zip(logits[0], law[0], strict=True)]).float()
    return torch.stack([_newton(logits[:, i].double(), law[:, i].double()) for i in range(logits.shape[1])]).float()


def _line(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, " 2"]:
    """Logarithm of the factor, and the constant."""
    seen = torch.stack([x, torch.ones_like(x)])
    prior = torch.tensor([1.0, 0.0], dtype=x.dtype, device=x.device)
    factor, constant = torch.linalg.solve(seen @ seen.T + torch.eye(2).to(seen), seen @ y + prior)
    if factor < LEAST_FACTOR:
        factor, constant = x.new_tensor(LEAST_FACTOR), (y - LEAST_FACTOR * x).sum() / (len(x) + 1)
    return torch.stack([factor.log(), constant])


def _newton(x: Float[Tensor, "outcome n"], law: Float[Tensor, "outcome n"]) -> Float[Tensor, " outcome1"]:
    n_outcomes, n = x.shape
    # A law in single precision sums to 1 but for rounding, and a gradient that takes it for 1 is then never 0.
    law = law / law.sum(0)
    # Only differences between classes count; centring keeps the curvature of the temperature free of the rest.
    x = x - x.mean(0)
    theta = torch.zeros(n_outcomes + 1, dtype=x.dtype, device=x.device)
    precision = torch.full_like(theta, n_outcomes / 2)
    precision[0] = 1

    def loss(at: Tensor) -> Tensor:
        fitted = at[0].exp() * x + at[1:, None]
        return (torch.logsumexp(fitted, 0) - (law * fitted).sum(0)).mean() + (precision * at**2).sum() / (2 * n)

    value = loss(theta)
    for _ in range(MAX_STEPS):
        scaled = theta[0].exp() * x
        p = torch.softmax(scaled + theta[1:, None], 0)
        residual = (p - law) / n
        along = (p * scaled).sum(0)  # mean of the temperature's derivative under p
        gradient = torch.cat([(residual * scaled).sum()[None], residual.sum(1)]) + precision * theta / n
        hessian = torch.empty(n_outcomes + 1, n_outcomes + 1, dtype=x.dtype, device=x.device)
        hessian[1:, 1:] = torch.diag(p.mean(1)) - p @ p.T / n
        hessian[0, 1:] = hessian[1:, 0] = (p * (scaled - along)).mean(1)
        hessian[0, 0] = ((p * scaled**2).sum(0) - along**2).mean()
        hessian = hessian + torch.diag(precision) / n
        # The rest of the temperature's second derivative, without which steps overshoot where little is left of the
        # logits; it may be negative, and is left out where it would make the curvature so.
        full = hessian.clone()
        full[0, 0] += (residual * scaled).sum()
        definite = int(torch.linalg.cholesky_ex(full).info) == 0
        step = -torch.linalg.solve(full if definite else hessian, gradient)
        decrement = -0.5 * float(gradient @ step)
        if decrement < TOLERANCE:
            return theta
        length = 1.0
        while float(new := loss(theta + length * step)) > float(value) - 1e-4 * length * 2 * decrement + 1e-14:
            length /= 2
            if length < 1e-6:
                return theta
        theta, value = theta + length * step, new
    raise FitError(f"a calibration on {n} rows did not converge.")
