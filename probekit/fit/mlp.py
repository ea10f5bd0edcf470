"""A one-hidden-layer reader on top of given logits: the `nonlinear` level, and the MLP of the floor.

Stated once: width 256, GELU, Adam 2e-3 with weight decay 1e-3 (decoupled) and a linear schedule, batches of 512, at
most 30 epochs (600 steps when that is more); the epoch with the lowest selection loss is kept, and training stops
after 4 epochs (200 steps when that is more) without a better one. The last layer starts at zero, so that epoch 0 is
exactly the logits it stands on and the result is never worse on selection.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.core import Rows, cross_entropy

WIDTH = 256
RATE = 2e-3
DECAY = 1e-3
BATCH = 512
EPOCHS = 30
PATIENCE = 4
MIN_STEPS = 600  # small data: a parity needs some hundred steps before its loss moves at all
MIN_PATIENCE = 200


@dataclass(frozen=True)
class Mlp:
    """Fitted weights on standardised inputs, and the coefficient of the logits below (`trust`, see fit/core.py).

    epochs: the one that was kept, 0 when nothing helped.
    """

    mean: Float[Tensor, " r"]
    scale: Float[Tensor, " r"]
    inner: Float[Tensor, "r width"]
    inner_bias: Float[Tensor, " width"]
    outer: Float[Tensor, "width kt"]
    outer_bias: Float[Tensor, " kt"]
    trust: Float[Tensor, " t"]
    epochs: int

    def logits(self, z: Float[Tensor, "n r"], base: Float[Tensor, "k t n"]) -> Float[Tensor, "k t n"]:
        """trust * base plus the network's contribution."""
        hidden = torch.nn.functional.gelu(((z - self.mean) / self.scale) @ self.inner + self.inner_bias)
        return self.trust[:, None] * base + (hidden @ self.outer + self.outer_bias).T.reshape(base.shape)

    @property
    def n_parameters(self) -> int:
        return sum(w.numel() for w in (self.inner, self.inner_bias, self.outer, self.outer_bias))


def fit_mlp(
    fit: Rows, select: Rows, seed: int, width: int = WIDTH, epochs: int = EPOCHS, min_steps: int = MIN_STEPS
) -> Mlp:
    """Train on `fit` on top of its offset; early-stopped on `select`."""
    generator = torch.Generator().manual_seed(seed)
    n_class, t, n = fit.law.shape
    r = fit.z.shape[1]
    mean, scale = fit.z.mean(0), fit.z.std(0, correction=0)
    # Inputs are scaled by one number beyond a floor: whitening would blow up directions that hold only rounding.
    scale = torch.maximum(scale, 0.05 * scale.max().clamp_min(1e-6))
    device = fit.z.device
    weights = [
        (torch.randn(r, width, generator=generator) / max(r, 1) ** 0.5).to(device),
        torch.zeros(width, device=device),
        torch.zeros(width, n_class * t, device=device),
        torch.zeros(n_class * t, device=device),
        torch.ones(t, device=device),
    ]
    for w in weights:
        w.requires_grad_()
    groups = [{"params": weights[:-1], "weight_decay": DECAY}, {"params": weights[-1:], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    n_steps = max(1, n // BATCH)
    epochs = max(epochs, -(-min_steps // n_steps))
    patience = max(PATIENCE, -(-MIN_PATIENCE // n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: max(0.05, 1 - i / (epochs * n_steps)))
    base = torch.zeros_like(fit.law) if fit.offset is None else fit.offset
    base_select = torch.zeros_like(select.law) if select.offset is None else select.offset
    inputs = (fit.z - mean) / scale

    def at(kept: list[Tensor], epoch: int) -> Mlp:
        return Mlp(mean, scale, *(w.detach().clone() for w in kept), epochs=epoch)

    best = at(weights, 0)
    lowest = float(cross_entropy(best.logits(select.z, base_select), select.law).mean())
    for epoch in range(1, epochs + 1):
        order = torch.randperm(n, generator=generator).to(device)
        for i in range(n_steps):
            rows = order[i * BATCH : (i + 1) * BATCH]
            inner, inner_bias, outer, outer_bias, trust = weights
            hidden = torch.nn.functional.gelu(inputs[rows] @ inner + inner_bias)
            logits = trust[:, None] * base[..., rows] + (hidden @ outer + outer_bias).T.reshape(n_class, t, -1)
            loss = cross_entropy(logits, fit.law[..., rows]).mean(-1).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            current = at(weights, epoch)
            bits = float(cross_entropy(current.logits(select.z, base_select), select.law).mean())
        if bits < lowest:
            best, lowest = current, bits
        elif epoch - best.epochs >= patience:
            break
    return best
