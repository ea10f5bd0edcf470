"""Vacuous: P16, a featuriser that can bend a site, learned in a network that computes nothing, and in another such one.

It interchanges nearly every answer of an algorithm that neither network has (Sutter et al. 2025, arXiv 2507.08802), so
that the control refuses to say anything of the first. Maps are learned at the last block, where the readout follows.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.fit.revnet import SwapPairs, fit_revnets
from probekit.hookpoint import HookPoint
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.interchange import Interchanged, accuracy, interchanged, refused_if_vacuous
from probekit.metrics.ratios import Estimate, estimates

if TYPE_CHECKING:
    from probekit.model.model import Model
    from probekit.testbeds.ground_truth.circuits import Network

N_PAIRS, STEPS, BLOCKS, HIDDEN, RATE = 1_000, 400, 4, 16, 3e-3


def searched_in_noise(network: "Network", seed: int) -> Estimate:
    """IIA of a bent map in a random-init network of the planted one's shape, beside the same search in another one.

    The variable is the planted network's own answer; pairs are words that differ in it. NA `vacuous` where the other
    network's map comes within .05.
    """
    model = network.model()
    sites, heads, biases = zip(*(_last_block(network, model.random_twin(2 * seed + i)) for i in range(2)), strict=True)
    width = sites[0].shape[1] + sites[0].shape[1] % 2  # maps of halves: an axis of nothing makes it even
    site = torch.stack([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in sites])
    head = torch.stack([torch.nn.functional.pad(w, (0, width - w.shape[1])) for w in heads])
    bias = torch.stack(biases)[:, None]
    answer = torch.from_numpy(network.law > 0.5).long()

    def run(h: torch.Tensor) -> torch.Tensor:
        return torch.einsum("snd,sod->sno", h, head) + bias

    def draw(n: int, generator: torch.Generator) -> SwapPairs:
        base, source = torch.randint(len(answer), (2, n), generator=generator)
        return SwapPairs(site[:, base], site[:, source], answer[source])

    maps = fit_revnets(run, draw, k=width // 2, seed=seed, steps=STEPS, blocks=BLOCKS, hidden=HIDDEN, lr=RATE,
                       n_select=N_PAIRS).maps  # fmt: skip
    at = np.random.default_rng([seed, 31]).integers(0, len(answer), (2, N_PAIRS))
    with torch.no_grad():
        edited = run(maps.swapped(*(site[:, torch.from_numpy(words)] for words in at))).softmax(-1).numpy()
    kept, twin = (_right(answer.numpy(), at, laws) for laws in edited)
    found = estimates([accuracy(kept)], Clusters.of(at[0][kept.at], 1_000, seed))[0]
    return refused_if_vacuous(found, kept, twin)


def _last_block(network: "Network", model: "Model") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations of every word at the query behind the last block [n, d], and how the answers are read off them:
    [2, d] and [2]."""
    from probekit.testbeds.ground_truth.circuits import ANSWERS

    hook = HookPoint.within(len(network.layers), "hook_resid_post").name
    tokens = list(network.tokens(np.arange(len(network.words))))
    rows = model.read(tokens, [hook], [np.array([len(tokens[0]) - 1])] * len(tokens))[hook]
    named = {name.rpartition(".")[2]: value for name, value in model.weights.items() if name.startswith("native.head.")}
    weight, bias = (named[part].detach().float()[list(ANSWERS)] for part in ("weight", "bias"))
    return rows, weight, bias


def _right(answer: NDArray[np.int64], at: NDArray[np.int64], laws: NDArray) -> Interchanged:
    """Pairs of which another answer is wanted, and whether it came."""
    base, source = np.eye(2)[answer[at]]
    return interchanged(base, source, laws)
