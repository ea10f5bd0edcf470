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
from einops import rearrange, repeat
from jaxtyping import Float, Int
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
    """Fitted weights on standardised inputs, and the coefficient of the logits below (`trust`, see fit/readout.py).

    epochs: the one that was kept, 0 when nothing helped.
    """

    mean: Float[Tensor, " r"]
    scale: Float[Tensor, " r"]
    inner: Float[Tensor, "r width"]
    inner_bias: Float[Tensor, " width"]
    outer: Float[Tensor, "width outcome_t"]
    outer_bias: Float[Tensor, " outcome_t"]
    trust: Float[Tensor, " t"]
    epochs: int

    def logits(self, z: Float[Tensor, "n r"], base: Float[Tensor, "outcome t n"]) -> Float[Tensor, "outcome t n"]:
        """trust * base plus the network's contribution."""
        hidden = torch.nn.functional.gelu(((z - self.mean) / self.scale) @ self.inner + self.inner_bias)
        return self.trust[:, None] * base + rearrange(
            hidden @ self.outer + self.outer_bias, "n (outcome t) -> outcome t n", t=len(self.trust)
        )

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
    n = len(fits[0].z)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    z = torch.stack([rows.z for rows in fits])
    mean, scale = z.mean(1, keepdim=True), z.std(1, correction=0, keepdim=True)
    # Inputs are scaled by one number beyond a floor: whitening would blow up directions that hold only rounding.
    scale = torch.maximum(scale, 0.05 * scale.amax(2, keepdim=True).clamp_min(1e-6))
    train, held_out = (_Batch.of(rows, mean, scale) for rows in (fits, selects))
    weights = _initial(train, width, generators)
    groups = [{"params": weights[:-1], "weight_decay": DECAY}, {"params": weights[-1:], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    n_steps = max(1, n // BATCH)
    epochs = max(epochs, -(-min_steps // n_steps))
    patience = max(PATIENCE, -(-MIN_PATIENCE // n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: max(0.05, 1 - i / (epochs * n_steps)))
    best = [[w[i].detach().clone() for w in weights] for i in range(len(fits))]
    kept, lowest = [0] * len(fits), held_out.bits(weights)
    for epoch in range(1, epochs + 1):
        order = torch.stack([torch.randperm(n, generator=g) for g in generators]).to(z.device)
        for i in range(n_steps):
            loss = train.loss(order[:, i * BATCH : (i + 1) * BATCH], weights)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        for i, bits in enumerate(held_out.bits(weights)):
            # A site that has stopped improving waits for the others, and keeps what it had.
            if epoch - kept[i] <= patience and bits < lowest[i]:
                best[i], kept[i], lowest[i] = [w[i].detach().clone() for w in weights], epoch, bits
        if all(epoch - last >= patience for last in kept):
            break
    return [
        Mlp(mean[i, 0], scale[i, 0], one[0], one[1][0], one[2], one[3][0], one[4], epochs=kept[i])
        for i, one in enumerate(best)
    ]


@dataclass(frozen=True)
class _Batch:
    """The same rows of several sites: standardised inputs, behaviour, and the logits below."""

    inputs: Float[Tensor, "b n r"]
    law: Float[Tensor, "b outcome t n"]
    base: Float[Tensor, "b outcome t n"]

    @classmethod
    def of(cls, sites: Sequence[Rows], mean: Tensor, scale: Tensor) -> "_Batch":
        inputs = (torch.stack([rows.z for rows in sites]) - mean) / scale
        law, base = (torch.stack([part(rows) for rows in sites]) for part in (lambda r: r.law, lambda r: r.beside))
        return cls(inputs, law, base)

    def bits(self, weights: Sequence[Tensor]) -> list[float]:
        """Mean cross-entropy of every site."""
        with torch.no_grad():
            found = _logits(weights, self.inputs, self.base)
            return [float(cross_entropy(one, theirs).mean()) for one, theirs in zip(found, self.law, strict=True)]

    def loss(self, at: Int[Tensor, "b m"], weights: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Bits of some rows of each site, summed over sites."""
        _, n_outcomes, t, _ = self.law.shape
        rows = torch.gather(self.inputs, 1, repeat(at, "b m -> b m r", r=self.inputs.shape[2]))
        beside = repeat(at, "b m -> b outcome t m", outcome=n_outcomes, t=t)
        found, law = _logits(weights, rows, torch.gather(self.base, 3, beside)), torch.gather(self.law, 3, beside)
        return (torch.logsumexp(found, 1) * law.sum(1) - (law * found).sum(1)).mean(-1).sum() / math.log(2)


def _initial(train: _Batch, width: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
    """Inner weights and bias, outer weights and bias, and the trust in the logits below, of every site."""
    b, n_outcomes, t, _ = train.law.shape
    r, device = train.inputs.shape[2], train.inputs.device
    inner = torch.stack([torch.randn(r, width, generator=g) for g in generators]) / max(r, 1) ** 0.5
    weights = [
        inner.to(device),
        torch.zeros(b, 1, width, device=device),
        torch.zeros(b, width, n_outcomes * t, device=device),
        torch.zeros(b, 1, n_outcomes * t, device=device),
        torch.ones(b, t, device=device),
    ]
    return [w.requires_grad_() for w in weights]


def _logits(weights: Sequence[Tensor], z: Float[Tensor, "b m r"], base: Tensor) -> Float[Tensor, "b outcome t m"]:
    inner, inner_bias, outer, outer_bias, trust = weights
    hidden = torch.nn.functional.gelu(torch.baddbmm(inner_bias, z, inner))
    return trust[:, None, :, None] * base + torch.baddbmm(outer_bias, hidden, outer).mT.reshape(base.shape)
