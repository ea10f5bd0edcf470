"""Projection pursuit for cells: a search over directions for the thresholds that tell most, where the joint fit starts.

A threshold's loss has a local optimum for every way of cutting the rows, and most gradients lead to the nearest. Here
directions are scored by what their best cuts gain, found exactly over quantiles of the projection, and the best are
varied. The search stays within the few coordinates that it is given (fit/starts.py).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from probekit.fit.readout import Rows

BINS = 32
FINE = 64  # bins of the last search for cuts, before it looks at rows
ROUNDS = 3
POPULATION = 128
ELITE = 16
SPREADS = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05)  # of the variation in each round, relative to a unit direction
ALIKE = 0.97  # cosine from which two directions are one
ENTRIES = 2**23  # numbers of one chunk of candidates


@dataclass(frozen=True)
class CellStarts:
    """Starts for `k` thresholded directions: unit directions [start, q, k] and their cuts [start, k, c]."""

    directions: Float[Tensor, "s q k"]
    cuts: Float[Tensor, "s k c"]


def find_cells(
    rows: Rows, known: Float[Tensor, "q m"], k: int, n_cuts: int, n_starts: int, generator: torch.Generator
) -> CellStarts:
    """Starts whose first directions differ; each further direction is the best beside those before it.

    rows: in the few whitened coordinates that are searched. known: directions worth trying, such as those of the linear
    readout and of even functions. The first k' < k directions of a start are its answer for k'.
    """
    n_outcomes = len(rows.law)
    n = len(rows.z) // BINS * BINS or len(rows.z)
    law = rows.law[..., :n].flatten(0, 1).T
    guess = rows.law.mean(-1, keepdim=True) / rows.law.sum(0).mean(-1)[:, None] if rows.offset is None else (
        torch.softmax(rows.offset[..., :n], 0)
    )  # fmt: skip
    floor = (guess * rows.law[..., :n].sum(0)).flatten(0, 1).T.contiguous()
    scored = _Scored(rows.z[:n], law.contiguous(), n_cuts)
    pool = _search(scored, floor, known.T, generator)
    found = [_stepwise(scored, floor, pool, first % len(pool), k, n_outcomes) for first in range(n_starts)]
    directions, cuts = (torch.stack(parts) for parts in zip(*found, strict=True))
    return CellStarts(directions.mT, cuts)


def best_cuts(
    s: Float[Tensor, " n"], law: Float[Tensor, "n outcome_t"], floor: Float[Tensor, "n outcome_t"], n_cuts: int
) -> tuple[Float[Tensor, " c"], Float[Tensor, "c1 outcome_t"]]:
    """Cuts of one projection that gain most beside the laws of a floor, and the logits that each cell adds.

    Found over FINE bins, then each cut in turn over the rows around it.
    """
    n, wide = law.shape
    order = _argsort(s)
    s = s[order]
    both, width = torch.cat([law, floor], 1), -(-n // FINE)
    edges = torch.arange(0, n, width, device=s.device)
    coarse = _before(embedding_bag(order, both, edges, mode="sum").double())

    def before(first: int, last: int) -> Tensor:
        """Sums of law and floor before each place from the first to the last."""
        start = first // width
        inner = _before(both[order[start * width : last]].double())
        return (coarse[start] + inner)[first - start * width :]

    _, bins = _best_bins(coarse[None], wide, n_cuts)
    cuts = (width * bins[0]).tolist()
    for _ in range(ROUNDS if n_cuts > 1 else 1):
        known = list(cuts)
        for i in range(n_cuts):
            low, high = ([0, *cuts, n][j] for j in (i, i + 2))
            first = max(low + 1, cuts[i] - 2 * width)
            near = before(first, min(high - 1, cuts[i] + 2 * width))
            left, right = near - before(low, low), before(high, high) - near
            cuts[i] = first + int((_told(left.float(), wide) + _told(right.float(), wide)).argmax())
        if cuts == known:
            break
    sums = torch.cat([before(cut, cut) for cut in (0, *cuts, n)]).diff(dim=0)
    at = torch.tensor(cuts, device=s.device)
    return (s[at - 1] + s[at]) / 2, ((sums[:, :wide] + 0.5) / (sums[:, wide:] + 0.5)).log().float()


def _before(sums: Float[Tensor, "*m b c"]) -> Float[Tensor, "*m b1 c"]:
    """Sums before each edge of bins, from those within them."""
    return torch.nn.functional.pad(sums.cumsum(-2), (0, 0, 1, 0))


def _best_bins(before: Tensor, wide: int, n_cuts: int) -> tuple[Tensor, Tensor]:
    """Largest gain over cuts, and where they are, from sums of law and floor before each edge [m, bins + 1, 2 wide]."""
    inner, whole = before[:, 1:-1], before[:, -1:]
    left, right = _told(inner, wide), _told(whole - inner, wide)
    if n_cuts == 1:
        gain, at = (left + right).max(1)
        return gain, at[:, None] + 1
    first, last = torch.triu_indices(inner.shape[1], inner.shape[1], 1, device=before.device)
    gain, at = (left[:, first] + _told(inner[:, last] - inner[:, first], wide) + right[:, last]).max(1)
    return gain, torch.stack([first[at], last[at]], 1) + 1


@dataclass(frozen=True)
class _Scored:
    """Rows y [n, q] of the search and their laws [n, wide]."""

    y: Tensor
    law: Tensor
    n_cuts: int

    def best(self, candidates: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Gain in nats per row of each candidate's [m, q] best cuts, and these cuts as numbers of bins [m, c]."""
        n, wide = self.law.shape
        n_bins = min(BINS, n)
        step = max(1, ENTRIES // max(n * wide, n_bins**2 * wide))
        both = torch.cat([self.law, floor], 1)
        gains, cuts = [], []
        for part in candidates.split(step):
            order = _argsort(part @ self.y.T)
            # Sums of rows in bags, without a copy of the rows in every candidate's order.
            binned = embedding_bag(order.view(-1, n // n_bins), both, mode="sum").view(len(part), n_bins, -1)
            gain, at = _best_bins(_before(binned), wide, self.n_cuts)
            cuts.append(at)
            gains.append(gain / n)
        return torch.cat(gains), torch.cat(cuts)

    def values(self, direction: Tensor, bins: Tensor) -> Tensor:
        """Values of one direction [q] at which its bins [c] begin."""
        s = (self.y @ direction).sort().values
        at = bins * (len(s) // min(BINS, len(s)))
        return (s[at - 1] + s[at]) / 2


def _argsort(s: Tensor) -> Tensor:
    """Order along the last axis. NumPy sorts rows of floats in a fifth of the time that torch takes on a processor."""
    return torch.from_numpy(np.argsort(s.numpy(), axis=-1)) if s.device.type == "cpu" else s.argsort(-1)


def _told(sums: Tensor, wide: int) -> Tensor:
    """Sum of law log(law / floor) over rows of one cell, from sums [..., law and floor]: what its own law gains."""
    logs = sums.clamp_min(1e-9).log_()
    return ((logs[..., :wide] - logs[..., wide:]) * sums[..., :wide]).sum(-1)


def _search(scored: _Scored, floor: Tensor, known: Tensor, generator: torch.Generator) -> Float[Tensor, "m q"]:
    """Directions of largest gain, best first, no two alike: the known ones, random ones, and variations of the best."""
    q = scored.y.shape[1]

    def draw(m: int) -> Tensor:
        return torch.randn(m, q, generator=generator).to(known) / q**0.5

    pool = torch.cat([known, torch.eye(q).to(known), draw(POPULATION)])
    for spread in (*SPREADS, None):
        pool = pool / pool.norm(dim=1, keepdim=True).clamp_min(1e-12)
        order = scored.best(pool, floor)[0].argsort(descending=True)
        kept: list[int] = []
        alike = (pool @ pool.T).abs() > ALIKE
        for i in order.tolist():
            if len(kept) < ELITE and not any(bool(alike[i, j]) for j in kept):
                kept.append(i)
        pool = pool[kept]
        if spread is not None:
            parents = pool.repeat(POPULATION // len(pool), 1)
            pool = torch.cat([pool, parents + spread * draw(len(parents))])
    return pool


def _stepwise(
    scored: _Scored, floor: Tensor, pool: Tensor, first: int, k: int, n_outcomes: int
) -> tuple[Float[Tensor, "outcome q"], Float[Tensor, "k c"]]:
    """k directions from the pool, each the best beside those before it, and their cuts."""
    n, wide = scored.law.shape
    mass = scored.law.view(n, n_outcomes, -1).sum(1, keepdim=True)
    directions, cuts = [], []
    for i in range(k):
        gain, bins = scored.best(pool if i else pool[first : first + 1], floor)
        best = int(gain.argmax())
        at = best if i else first
        value = scored.values(pool[at], bins[best])
        cell = (scored.y @ pool[at] > value[:, None]).sum(0)
        sums = [torch.zeros(len(value) + 1, wide).to(floor).index_add_(0, cell, rows) for rows in (scored.law, floor)]
        floor = floor * ((sums[0] + 0.5) / (sums[1] + 0.5))[cell]
        floor = (floor.view(n, n_outcomes, -1) * (mass / floor.view(n, n_outcomes, -1).sum(1, keepdim=True))).view(
            n, wide
        )
        directions.append(pool[at])
        cuts.append(value)
    return torch.stack(directions), torch.stack(cuts)
