"""A one-hidden-layer reader on top of given logits: the `nonlinear` level, and the MLP of the floor.

Stated once: width 256, GELU, Adam 2e-3 with weight decay 1e-3 (decoupled) and a linear schedule, batches of 512, at
most 30 epochs (600 steps when that is more); the epoch with the lowest selection loss is kept, looked at every epoch (4
steps when that is more), and training stops after 4 epochs (200 steps when that is more) without a better one. The last
layer starts at zero, so that epoch 0 is exactly the logits it stands on and the result is never worse on selection.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import BadInput
from probekit.fit.frame import room
from probekit.fit.readout import Rows

WIDTH = 256
RATE = 2e-3
DECAY = 1e-3
BETAS = 0.9, 0.999
BATCH = 512
EPOCHS = 30
PATIENCE = 4
MIN_STEPS = 600  # small data: a parity needs some hundred steps before its loss moves at all
MIN_PATIENCE = 200
RISE = 0.05  # of the lowest loss, and a hundredth of a bit: held-out rows that lose so much more are being overfitted
LOOK = 4  # steps at least between two looks at the rows that decide


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
    mean = torch.stack([rows.z.mean(0, keepdim=True) for rows in fits])
    scale = torch.stack([rows.z.std(0, correction=0, keepdim=True) for rows in fits])
    # Inputs are scaled by one number beyond a floor: whitening would blow up directions that hold only rounding.
    scale = torch.maximum(scale, 0.05 * scale.amax(2, keepdim=True).clamp_min(1e-6))
    train, held_out = (_Batch.of(rows, mean, scale) for rows in (fits, selects))
    weights = _initial(train, width, generators)
    adam = _Adam(weights)
    n_steps = max(1, n // BATCH)
    epochs = max(epochs, -(-min_steps // n_steps))
    patience = max(PATIENCE, -(-MIN_PATIENCE // n_steps))
    every = max(1, LOOK // n_steps)
    best = [[w[i].clone() for w in weights] for i in range(len(fits))]
    kept, lowest = [0] * len(fits), held_out.bits(weights)
    over = [False] * len(fits)
    for epoch in range(1, epochs + 1):
        order = torch.stack([torch.randperm(n, generator=g) for g in generators]).to(mean.device)
        for i in range(n_steps):
            done = (epoch - 1) * n_steps + i
            rate = RATE * max(0.05, 1 - done / (epochs * n_steps))
            adam.step(rate, train.slopes(order[:, i * BATCH : (i + 1) * BATCH], weights))
        if epoch % every:
            continue
        for i, bits in enumerate(held_out.bits(weights)):
            # A site that has stopped improving waits for the others, and keeps what it had.
            if not over[i] and bits < lowest[i]:
                best[i], kept[i], lowest[i] = [w[i].clone() for w in weights], epoch, bits
            over[i] |= epoch - kept[i] >= patience or bits > (1 + RISE) * lowest[i] + RISE / 5
        if all(over):
            break
    return [
        Mlp(mean[i, 0], scale[i, 0], one[0], one[1][0], one[2], one[3][0], one[4], epochs=kept[i])
        for i, one in enumerate(best)
    ]


@dataclass(frozen=True)
class _Batch:
    """The same rows of several sites, one below the other: standardised inputs, behaviour, and the logits below."""

    inputs: Float[Tensor, "b n r"]
    law: Float[Tensor, "b n outcome t"]
    base: Float[Tensor, "b n outcome t"]

    @classmethod
    def of(cls, sites: Sequence[Rows], mean: Tensor, scale: Tensor) -> "_Batch":
        b, (n, r) = len(sites), sites[0].z.shape
        inputs = room(b * n, r, sites[0].z).view(
            b, n, r
        )  # beside the rows themselves, so in a file where they are many
        for own, rows, centre, unit in zip(inputs, sites, mean, scale, strict=True):
            torch.sub(rows.z, centre, out=own).div_(unit)
        parts = (lambda r: r.law, lambda r: r.beside)
        law, base = (
            rearrange([part(r) for r in sites], "b outcome t n -> b n outcome t").contiguous() for part in parts
        )
        return cls(inputs, law, base)

    def bits(self, weights: Sequence[Tensor]) -> list[float]:
        """Mean cross-entropy of every site."""
        logits = _logits(weights, _hidden(weights, self.inputs)[1], self.base)
        if self.law.shape[2] == 1:  # a number: see fit/gaussian.py
            lost = 0.5 * (self.law - logits)[:, :, 0] ** 2
        else:
            lost = torch.logsumexp(logits, 2) * self.law.sum(2) - (self.law * logits).sum(2)
        return (lost.mean((1, 2)) / math.log(2)).tolist()

    def slopes(self, at: Int[Tensor, "b m"], weights: Sequence[Tensor]) -> list[Tensor]:
        """The slope of bits of some rows of each site, summed over sites and targets, at every weight."""
        b, n = self.law.shape[:2]
        places = (at + n * torch.arange(b, device=at.device)[:, None]).flatten()
        inputs, law, base = (part.flatten(0, 1)[places].unflatten(0, at.shape) for part in
                             (self.inputs, self.law, self.base))  # fmt: skip
        below, hidden = _hidden(weights, inputs)
        logits = _logits(weights, hidden, base)
        said = logits if law.shape[2] == 1 else torch.softmax(logits, 2) * law.sum(2, keepdim=True)
        residual = (said - law) / (at.shape[1] * math.log(2))
        trust = (residual * base).sum((1, 2))
        residual = residual.flatten(2)
        inward = torch.ops.aten.gelu_backward(residual @ weights[2].mT, below)
        return [inputs.mT @ inward, inward.sum(1, keepdim=True), hidden.mT @ residual,
                residual.sum(1, keepdim=True), trust]  # fmt: skip


class _Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), which the trust in the logits below is spared.

    Written out, since the library's own loads a compiler, which takes longer than most fits.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights, self.n = weights, 0
        self.first = [torch.zeros_like(weight) for weight in weights]
        self.second = [torch.zeros_like(weight) for weight in weights]

    def step(self, rate: float, slopes: Sequence[Tensor]) -> None:
        """Move all weights, in place."""
        self.n += 1
        bias, spread = 1 - BETAS[0] ** self.n, 1 - BETAS[1] ** self.n
        for i, (weight, slope) in enumerate(zip(self.weights, slopes, strict=True)):
            if i < len(self.weights) - 1:
                weight.mul_(1 - rate * DECAY)
            self.first[i].lerp_(slope, 1 - BETAS[0])
            self.second[i].mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
            weight.addcdiv_(self.first[i], (self.second[i] / spread).sqrt_().add_(1e-8), value=-rate / bias)


def _initial(train: _Batch, width: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
    """Inner weights and bias, outer weights and bias, and the trust in the logits below, of every site."""
    b, _, n_outcomes, t = train.law.shape
    r, device = train.inputs.shape[2], train.inputs.device
    inner = torch.stack([torch.randn(r, width, generator=g) for g in generators]) / max(r, 1) ** 0.5
    return [
        inner.to(device),
        torch.zeros(b, 1, width, device=device),
        torch.zeros(b, width, n_outcomes * t, device=device),
        torch.zeros(b, 1, n_outcomes * t, device=device),
        torch.ones(b, t, device=device),
    ]


def _hidden(weights: Sequence[Tensor], z: Float[Tensor, "b m r"]) -> tuple[Tensor, Tensor]:
    """The hidden layer before and after its nonlinearity, [b, m, width]."""
    below = torch.baddbmm(weights[1], z, weights[0])
    return below, torch.nn.functional.gelu(below)


def _logits(weights: Sequence[Tensor], hidden: Float[Tensor, "b m width"], base: Tensor) -> Tensor:
    _, _, outer, outer_bias, trust = weights
    return trust[:, None, None] * base + torch.baddbmm(outer_bias, hidden, outer).view_as(base)
