"""A one-hidden-layer reader on top of given logits: the `nonlinear` level, and the MLP of the floor.

Stated once: width 256, GELU, Adam 2e-3 with weight decay 1e-3 (decoupled) and a linear schedule, batches of 512, at
most 30 epochs (600 steps when that is more); the epoch with the lowest selection loss is kept, and training stops
after 4 epochs (200 steps when that is more) without a better one. The last layer starts at zero, so that epoch 0 is
exactly the logits it stands on and the result is never worse on selection.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import BadInput
from probekit.fit.readout import Rows, cross_entropy

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
    return fit_mlps([fit], [select], [seed], width, epochs, min_steps)[0]


def fit_mlps(
    fits: Sequence[Rows],
    selects: Sequence[Rows],
    seeds: Sequence[int],
    width: int = WIDTH,
    epochs: int = EPOCHS,
    min_steps: int = MIN_STEPS,
) -> list[Mlp]:
    """One reader per site, all trained in one batch; each is the one that `fit_mlp` gives for its site and seed.

    Sites need the same numbers of rows, coordinates, classes and targets. Raises BadInput when they differ.
    """
    shapes = {(tuple(rows.z.shape), tuple(rows.law.shape)) for rows in fits}
    if len(shapes) != 1 or len({tuple(rows.z.shape) for rows in selects}) != 1:
        raise BadInput(f"sites fitted in one batch need the same shapes; found {sorted(shapes)}.")
    n_class, t, n = fits[0].law.shape
    r, device = fits[0].z.shape[1], fits[0].z.device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    z = torch.stack([rows.z for rows in fits])
    mean, scale = z.mean(1, keepdim=True), z.std(1, correction=0, keepdim=True)
    # Inputs are scaled by one number beyond a floor: whitening would blow up directions that hold only rounding.
    scale = torch.maximum(scale, 0.05 * scale.amax(2, keepdim=True).clamp_min(1e-6))
    inputs, law, base = (z - mean) / scale, torch.stack([rows.law for rows in fits]), _bases(fits)
    select_inputs = (torch.stack([rows.z for rows in selects]) - mean) / scale
    select_law, select_base = torch.stack([rows.law for rows in selects]), _bases(selects)
    inner = torch.stack([torch.randn(r, width, generator=g) for g in generators]) / max(r, 1) ** 0.5
    b = len(fits)
    weights = [
        inner.to(device),
        torch.zeros(b, 1, width, device=device),
        torch.zeros(b, width, n_class * t, device=device),
        torch.zeros(b, 1, n_class * t, device=device),
        torch.ones(b, t, device=device),
    ]
    for w in weights:
        w.requires_grad_()
    groups = [{"params": weights[:-1], "weight_decay": DECAY}, {"params": weights[-1:], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    n_steps = max(1, n // BATCH)
    epochs = max(epochs, -(-min_steps // n_steps))
    patience = max(PATIENCE, -(-MIN_PATIENCE // n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: max(0.05, 1 - i / (epochs * n_steps)))

    def logits(z: Tensor, base: Tensor) -> Tensor:
        inner, inner_bias, outer, outer_bias, trust = weights
        hidden = torch.nn.functional.gelu(torch.baddbmm(inner_bias, z, inner))
        return trust[:, None, :, None] * base + torch.baddbmm(outer_bias, hidden, outer).mT.reshape(base.shape)

    def selection() -> list[float]:
        with torch.no_grad():
            found = logits(select_inputs, select_base)
            return [float(cross_entropy(one, theirs).mean()) for one, theirs in zip(found, select_law, strict=True)]

    best = [[w[i].detach().clone() for w in weights] for i in range(b)]
    kept, lowest = [0] * b, selection()
    for epoch in range(1, epochs + 1):
        order = torch.stack([torch.randperm(n, generator=g) for g in generators]).to(device)
        for i in range(n_steps):
            at = order[:, i * BATCH : (i + 1) * BATCH]
            rows = torch.gather(inputs, 1, at[..., None].expand(-1, -1, r))
            beside = at[:, None, None].expand(-1, n_class, t, -1)
            found, theirs = logits(rows, torch.gather(base, 3, beside)), torch.gather(law, 3, beside)
            loss = (torch.logsumexp(found, 1) * theirs.sum(1) - (theirs * found).sum(1)).mean(-1).sum() / math.log(2)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        for i, bits in enumerate(selection()):
            # A site that has stopped improving waits for the others, and keeps what it had.
            if epoch - kept[i] <= patience and bits < lowest[i]:
                best[i], kept[i], lowest[i] = [w[i].detach().clone() for w in weights], epoch, bits
        if all(epoch - last >= patience for last in kept):
            break
    return [
        Mlp(mean[i, 0], scale[i, 0], one[0], one[1][0], one[2], one[3][0], one[4], epochs=kept[i])
        for i, one in enumerate(best)
    ]


def _bases(sites: Sequence[Rows]) -> Float[Tensor, "b k t n"]:
    """The logits below, zeros where there are none."""
    return torch.stack([rows.beside for rows in sites])
