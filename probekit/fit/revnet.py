"""RevNet: an invertible map of a site, learned so that swapping a part of what it gives brings the source's answer.

The rich map of Sutter et al. (2025), arXiv 2507.08802: blocks of two additive couplings (Gomez et al. 2017, arXiv
1707.04585), each a layer of ReLUs that reads one half of the coordinates and adds to the other. Where `das` may turn a
site, this may bend it, so that it finds what no subspace holds, and aligns networks that hold nothing: whatever it
finds is to be set beside the same search in a random network. Maps of several networks are learned side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from probekit.errors import BadInput

# From edited activations [s, n, d] of s networks to logits [s, n, outcome].
Run = Callable[[Tensor], Tensor]
WARM = 0.05  # share of the steps in which the rate rises; from the middle on it falls to 0
LOOK = 50  # steps between two looks at the pairs that decide which map is kept
LEAST = 1e-6  # of a site's spread: activations that do not vary are not divided by it


@dataclass(frozen=True)
class SwapPairs:
    """Activations [s, n, d] of bases and sources in s networks, and the outcome [n] that a swap is to bring."""

    base: Float[Tensor, "s n d"]
    source: Float[Tensor, "s n d"]
    wanted: Int[Tensor, " n"]


Draw = Callable[[int, torch.Generator], SwapPairs]


@dataclass(frozen=True)
class RevNets:
    """s invertible maps [s, n, d] -> [s, n, d], of which the first k coordinates carry the variable.

    centre [s, 1, d], scale [s, 1, 1]: activations are told in units of their spread. read [c, s, d / 2, hidden], bias
    [c, s, 1, hidden], write [c, s, hidden, d / 2], shift [c, s, 1, d / 2]: the couplings, in the order in which they
    are applied; even ones add to the first half.
    """

    k: int
    centre: Float[Tensor, "s 1 d"]
    scale: Float[Tensor, "s 1 1"]
    read: Float[Tensor, "c s h m"]
    bias: Float[Tensor, "c s 1 m"]
    write: Float[Tensor, "c s m h"]
    shift: Float[Tensor, "c s 1 h"]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What is learned."""
        return self.read, self.bias, self.write, self.shift

    def with_parameters(self, *learned: Tensor) -> "RevNets":
        """The same maps with other weights."""
        return RevNets(self.k, self.centre, self.scale, *learned)

    def one(self, i: int) -> "RevNets":
        """The i-th map, still as a stack."""
        return RevNets(
            self.k, self.centre[i : i + 1], self.scale[i : i + 1], *(w[:, i : i + 1] for w in self.parameters)
        )

    def __call__(self, h: Float[Tensor, "s n d"]) -> Float[Tensor, "s n d"]:
        """What the maps give."""
        halves = list(((h - self.centre) / self.scale).chunk(2, -1))
        for c, weights in enumerate(zip(*self._unbound, strict=True)):
            halves[c % 2] = halves[c % 2] + _layer(halves[1 - c % 2], *weights)
        return torch.cat(halves, -1)

    def inverse(self, z: Float[Tensor, "s n d"]) -> Float[Tensor, "s n d"]:
        """The activations that the maps give `z` for."""
        halves = list(z.chunk(2, -1))
        couplings = list(enumerate(zip(*self._unbound, strict=True)))
        for c, weights in reversed(couplings):
            halves[c % 2] = halves[c % 2] - _layer(halves[1 - c % 2], *weights)
        return self.centre + self.scale * torch.cat(halves, -1)

    def swapped(self, base: Float[Tensor, "s n d"], source: Float[Tensor, "s n d"]) -> Float[Tensor, "s n d"]:
        """`base` with the variable of `source`: inverted are the source's first k coordinates and the base's rest."""
        told = self(torch.cat([source, base], 1))
        n = source.shape[1]
        return self.inverse(torch.cat([told[:, :n, : self.k], told[:, n:, self.k :]], -1))

    @property
    def _unbound(self) -> tuple[tuple[Tensor, ...], ...]:
        return tuple(part.unbind(0) for part in self.parameters)


@dataclass(frozen=True)
class FoundMaps:
    """Learned maps. select_loss [s]: nats per pair that decided; n_steps [s]: those after which each was kept."""

    maps: RevNets
    select_loss: tuple[float, ...]
    n_steps: tuple[int, ...]


def fit_revnets(
    run: Run,
    draw: Draw,
    *,
    k: int,
    seed: int = 0,
    blocks: int = 10,
    hidden: int = 16,
    steps: int = 2000,
    lr: float = 1e-3,
    batch: int = 1024,
    n_select: int = 5000,
) -> FoundMaps:
    """Maps of s networks, each by itself, whose swaps bring what is wanted of fresh pairs, as fixed pairs decide.

    run: gradients are asked of the activations. draw: fresh pairs of as many rows as it is asked for, the same pairs of
    inputs for all networks. Adam; of each network the map of lowest loss on `n_select` pairs at any look is kept, and
    the untrained map among them. The same for the same seed. Raises BadInput for what does not fit together.
    """
    generator = torch.Generator().manual_seed(seed)
    select = draw(n_select, generator)
    s, _, d = select.base.shape
    if d % 2 or not 1 <= k < d or min(blocks, hidden, steps, batch) < 1:
        raise BadInput(f"an even site is cut into 1 to {d - 1} coordinates and the rest; found d = {d}, k = {k}.")
    maps = untrained_maps(select.base, k, blocks, hidden, generator)
    learned = [part.requires_grad_() for part in maps.parameters]
    maps = maps.with_parameters(*learned)
    kept, lowest, at = [part.detach().clone() for part in learned], _losses(run, maps, select), torch.zeros(s)
    optimizer = torch.optim.Adam(learned, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / (WARM * steps), 2 - 2 * i / steps)
    )
    for i in range(steps):
        loss = _loss(run, maps, draw(batch, generator)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if i % LOOK == LOOK - 1 or i == steps - 1:
            seen = _losses(run, maps, select)
            better = seen < lowest
            for old, new in zip(kept, learned, strict=True):
                old[:, better] = new.detach()[:, better]
            lowest, at = torch.where(better, seen, lowest), torch.where(better, i + 1, at)
    return FoundMaps(maps.with_parameters(*kept), tuple(lowest.tolist()), tuple(int(step) for step in at))


def untrained_maps(
    like: Float[Tensor, "s n d"], k: int, blocks: int, hidden: int, generator: torch.Generator
) -> RevNets:
    """Maps as they start, weights uniform within 1 / sqrt(inputs), one draw for each network of `like`."""
    s, _, d = like.shape
    half, c = d // 2, 2 * blocks
    shapes = ((half, half, hidden), (half, 1, hidden), (hidden, hidden, half), (hidden, 1, half))
    drawn = [(2 * torch.rand(c, s, *shape, generator=generator) - 1) / into**0.5 for into, *shape in shapes]
    centre = like.mean(1, keepdim=True)
    spread = (like - centre).square().mean((1, 2), keepdim=True).sqrt()
    return RevNets(k, centre, torch.where(spread > LEAST, spread, 1.0), *drawn)


def _layer(x: Tensor, read: Tensor, bias: Tensor, write: Tensor, shift: Tensor) -> Tensor:
    return torch.baddbmm(shift, torch.relu(torch.baddbmm(bias, x, read)), write)


def _loss(run: Run, maps: RevNets, pairs: SwapPairs) -> Float[Tensor, " s"]:
    """Cross-entropy of each network's law of the edited pairs to what is wanted."""
    logits = run(maps.swapped(pairs.base, pairs.source))
    wanted = pairs.wanted.expand(len(logits), -1)
    return cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").unflatten(0, wanted.shape).mean(1)


def _losses(run: Run, maps: RevNets, pairs: SwapPairs) -> Float[Tensor, " s"]:
    with torch.no_grad():
        return _loss(run, maps, pairs)
