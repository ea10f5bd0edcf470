"""Bending: invertible maps of the layers of equality networks, learned for the left equality, and what they lose.

A map that may bend a layer finds a variable where no rotation does (`probekit.fit.revnet`). So it is measured three
times: in trained networks, in as many random ones by the same search, and in the trained ones before the search.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.revnet import RevNets, SwapPairs, fit_revnets, untrained_maps
from probekit.metrics.causal.replace import fbu_replace, kl_bits
from probekit.metrics.causal.support import support
from probekit.metrics.ratios import Ratio
from probekit.testbeds.equality import WIDTH, EqualityNets, draw_donors, draw_swaps

RANK = WIDTH // 2
RATE, BATCH = 3e-3, 1024
# In the words that rotations are kept under: a map before the search is what a random subspace is to them.
TRAINED, RANDOM_MAP, RANDOM_NET = "trained", "random_subspace", "random_twin"


@dataclass(frozen=True)
class BendingSize:
    """How much is measured. blocks, hidden, steps: of a map; test: pairs; scrubbed, donors: inputs and their donors."""

    blocks: int = 10
    hidden: int = 16
    steps: int = 1200
    test: int = 5000
    scrubbed: int = 1000
    donors: int = 16


@dataclass(frozen=True)
class Bent:
    """One map in one network.

    right [n]: whether each pair is; lost: FBU under replacement, with bits per row; far: share of edited rows that lie
    where next to none of the layer's own do (`Support.far`).
    """

    right: NDArray[np.float64]
    lost: Ratio
    far: float


def bend(
    trained: EqualityNets, random: EqualityNets, layer: int, seed: int, size: BendingSize
) -> dict[str, list[Bent]]:
    """Maps of one layer, those of all networks side by side: where -> one for each network.

    Interchange is as in the study of rotations, so the half of the left equality is at once that of both: what is not
    the first half is the second.
    """
    both = _stacked(trained, random)
    draw, size_of = partial(_pairs, both, layer), {"blocks": size.blocks, "hidden": size.hidden}
    found = fit_revnets(
        lambda h: both.after(h, layer), draw, k=RANK, seed=seed, steps=size.steps, lr=RATE, batch=BATCH, **size_of
    )
    n = len(trained.weights[0])
    generator = torch.Generator().manual_seed(seed + 1)
    start = untrained_maps(draw(BATCH, generator).base, RANK, generator=generator, **size_of)
    asked = [(TRAINED, trained, found.maps, 0), (RANDOM_MAP, trained, start, 0), (RANDOM_NET, random, found.maps, n)]
    return {
        where: [_measured(nets.one(i), maps.one(first + i), layer, seed + 2 + i, size) for i in range(n)]
        for where, nets, maps, first in asked
    }


def _pairs(nets: EqualityNets, layer: int, n: int, generator: torch.Generator) -> SwapPairs:
    drawn = draw_swaps("left", n, generator)
    with torch.no_grad():
        base, source = (nets.upto(x, layer) for x in (drawn.base, drawn.source))
    return SwapPairs(base, source, drawn.wanted.long())


def _measured(net: EqualityNets, maps: RevNets, layer: int, seed: int, size: BendingSize) -> Bent:
    """One map of one network on fresh pairs, and its network's own law with either part from donors that agree."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        pairs = _pairs(net, layer, size.test, generator)
        edited = maps.swapped(pairs.base, pairs.source)
        right = net.after(edited, layer)[0].argmax(-1) == pairs.wanted
        natural = torch.cat([pairs.base, pairs.source], 1)[0]
        far = support(natural.numpy(), pairs.base[0].numpy(), edited[0].numpy()).far
        return Bent(right.double().numpy(), _scrubbed(net, maps, layer, generator, size), far)


def _scrubbed(net: EqualityNets, maps: RevNets, layer: int, generator: torch.Generator, size: BendingSize) -> Ratio:
    drawn = draw_donors("left", size.scrubbed, size.donors, generator)
    rest, own = (net.upto(x.flatten(0, 1), layer) for x in (drawn.of_rest, drawn.of_variable))
    edited = _laws(net.after(maps.swapped(rest, own), layer)[0]).reshape(size.scrubbed, size.donors, -1)
    law = _laws(net.after(drawn.x, 0)[0])
    floor = kl_bits(law, law.mean(0, keepdims=True))  # the prior, beyond the network's own entropy
    return fbu_replace(law, edited, floor, np.zeros(len(law)))[0]


def _laws(logits: Float[Tensor, "n 2"]) -> NDArray[np.float64]:
    return logits.double().softmax(-1).numpy()


def _stacked(one: EqualityNets, other: EqualityNets) -> EqualityNets:
    weights, biases = (
        tuple(torch.cat(pair) for pair in zip(getattr(one, name), getattr(other, name), strict=True))
        for name in ("weights", "biases")
    )
    return EqualityNets(weights, biases)
