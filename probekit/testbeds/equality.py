"""Hierarchical equality: are two pairs of vectors alike in being equal or not? And small networks that learn it.

The task is that of Geiger et al. (2023), arXiv 2303.02536; networks and training are those of Sutter et al. (2025),
arXiv 2507.08802: four vectors of four numbers in [-.5, .5], three layers of 16 ReLUs, Adam at .001 in batches of 1024,
the weights of the best accuracy on rows of their own, until 1024 steps have found none better. Networks are stacked and
trained side by side, on fresh rows at every step, which they share, instead of the same million over again.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SIZE, WIDTH, LAYERS = 4, 16, 3
RATE, BATCH = 1e-3, 1024
STEPS, PATIENCE, LOOK = 20 * 1024, 1024, 16
EVAL_ROWS = 10_000
Variable = Literal["both", "left", "first"]


@dataclass(frozen=True)
class EqualityNets:
    """s networks side by side: weights [s, inward, outward] and biases [s, 1, outward] of the layers and the head."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def one(self, i: int) -> "EqualityNets":
        """The i-th of them, still as a stack."""
        return EqualityNets(tuple(w[i : i + 1] for w in self.weights), tuple(b[i : i + 1] for b in self.biases))

    def upto(self, x: Float[Tensor, "... n 16"], layer: int) -> Float[Tensor, "s n 16"]:
        """What layer 1, 2 or 3 gives for inputs [n, 16], the same for all, or [s, n, 16]."""
        x = x.expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights[:layer], self.biases[:layer], strict=True):
            x = torch.relu(torch.baddbmm(bias, x, weight))
        return x

    def after(self, h: Float[Tensor, "... n 16"], layer: int) -> Float[Tensor, "s n 2"]:
        """Logits of "not alike" and "alike" from what a layer gave, or from inputs for layer 0."""
        h = h.expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights[layer:-1], self.biases[layer:-1], strict=True):
            h = torch.relu(torch.baddbmm(bias, h, weight))
        return torch.baddbmm(self.biases[-1], h, self.weights[-1])


def untrained(n_networks: int, seed: int = 0) -> EqualityNets:
    """Networks as they start, uniform within 1 / sqrt(WIDTH); each has a generator of its own."""
    drawn = []
    for i in range(n_networks):
        generator = torch.Generator().manual_seed(1000 * seed + i)
        shapes = [(rows, out) for out in [WIDTH] * LAYERS + [2] for rows in (WIDTH, 1)]
        drawn.append([(2 * torch.rand(*shape, generator=generator) - 1) / WIDTH**0.5 for shape in shapes])
    parts = [torch.stack(same) for same in zip(*drawn, strict=True)]
    return EqualityNets(tuple(parts[::2]), tuple(parts[1::2]))


def draw_inputs(same: Bool[Tensor, "*s n 2"], generator: torch.Generator) -> Float[Tensor, "*s n 16"]:
    """Four vectors a row; the second is the first, and the fourth the third, where `same` says so."""
    x = torch.rand(*same.shape[:-1], 4, SIZE, generator=generator) - 0.5
    for pair in (0, 1):
        x[..., 2 * pair + 1, :] = torch.where(same[..., pair, None], x[..., 2 * pair, :], x[..., 2 * pair + 1, :])
    return x.flatten(-2)


def draw_same(*shape: int, generator: torch.Generator) -> Bool[Tensor, "*s n 2"]:
    """Whether the left and the right pair are equal, evenly: [*shape, 2]."""
    return torch.randint(0, 2, (*shape, 2), generator=generator).bool()


def alike(same: Bool[Tensor, "*s n 2"]) -> Bool[Tensor, "*s n"]:
    """The label."""
    return same[..., 0] == same[..., 1]


def train(start: EqualityNets, seed: int = 0, steps: int = STEPS) -> tuple[EqualityNets, Float[Tensor, " s"]]:
    """Trained networks, and their accuracy on fresh rows. Each is kept where it was best, and stops by itself."""
    generator = torch.Generator().manual_seed(seed + 7)
    n = len(start.weights[0])
    parameters = [part.clone().requires_grad_() for part in (*start.weights, *start.biases)]
    nets = EqualityNets(tuple(parameters[: LAYERS + 1]), tuple(parameters[LAYERS + 1 :]))
    held_out = draw_same(EVAL_ROWS, generator=generator)
    rows = draw_inputs(held_out, generator)
    kept, best, idle = [part.detach().clone() for part in parameters], torch.zeros(n), torch.zeros(n)
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for i in range(steps):
        same = draw_same(BATCH, generator=generator)
        logits = nets.after(draw_inputs(same, generator), 0)
        label = alike(same).long().expand(n, -1)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten())
        optimizer.zero_grad()
        (n * loss).backward()  # the mean over stacked networks, times their number: each has its own gradient
        optimizer.step()
        if i % LOOK == LOOK - 1:
            with torch.no_grad():
                found = accuracy(nets, rows, alike(held_out))
            better = (found > best) & (idle < PATIENCE)
            for old, new in zip(kept, parameters, strict=True):
                old[better] = new.detach()[better]
            best, idle = torch.where(better, found, best), torch.where(better, 0, idle + LOOK)
            if bool((idle >= PATIENCE).all()):
                break
    made = EqualityNets(tuple(kept[: LAYERS + 1]), tuple(kept[LAYERS + 1 :]))
    fresh = draw_same(EVAL_ROWS, generator=generator)
    return made, accuracy(made, draw_inputs(fresh, generator), alike(fresh))


def accuracy(nets: EqualityNets, x: Float[Tensor, "... n 16"], label: Bool[Tensor, "... n"]) -> Float[Tensor, " s"]:
    """Share of rows that each network calls right."""
    return ((nets.after(x, 0).argmax(-1) == 1) == label).float().mean(-1)


# Interchange ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swaps:
    """Pairs of inputs [n, 16], and the label [n] of the base once a variable has the source's value."""

    base: Float[Tensor, "n 16"]
    source: Float[Tensor, "n 16"]
    wanted: Bool[Tensor, " n"]


def draw_swaps(variable: Variable, n: int, generator: torch.Generator) -> Swaps:
    """Pairs for one variable of an algorithm: `left` equality, `both` equalities, or the `first` vector itself.

    With the second equality in the complement of the first one's subspace, setting it from a source is the same as
    setting the first from the base: so `both` asks of a subspace what `left` asks, on other rows.
    """
    same = draw_same(n, generator=generator)
    base = draw_inputs(same, generator)
    if variable in ("left", "both"):
        other = draw_same(n, generator=generator)
        return Swaps(base, draw_inputs(other, generator), other[:, 0] == same[:, 1])
    # The source's first vector is the base's second one in half of the pairs.
    other, hit = draw_same(n, generator=generator), torch.rand(n, generator=generator) < 0.5
    source = draw_inputs(other, generator).unflatten(1, (4, SIZE))
    first = torch.where(hit[:, None], base.unflatten(1, (4, SIZE))[:, 1], source[:, 0])
    second = torch.where(other[:, :1], first, source[:, 1])
    return Swaps(base, torch.cat([first, second, source[:, 2:].flatten(1)], 1), hit == same[:, 1])


@dataclass(frozen=True)
class Sources:
    """Inputs [n, 16] whose laws are to be kept, and for each m donors [n, m, 16] of either part of an abstraction."""

    x: Float[Tensor, "n 16"]
    of_variable: Float[Tensor, "n m 16"]
    of_rest: Float[Tensor, "n m 16"]


def draw_donors(variable: Variable, n: int, m: int, generator: torch.Generator) -> Sources:
    """Inputs that agree with x in the variable, and inputs that agree with it in all else that the algorithm uses."""
    same = draw_same(n, generator=generator)
    x = draw_inputs(same, generator)
    many = same[:, None].expand(-1, m, -1)
    if variable in ("left", "both"):
        parts = [many.clone(), draw_same(n, m, generator=generator)], [draw_same(n, m, generator=generator), many]
        told = [torch.stack([left[..., 0], right[..., 1]], -1) for left, right in parts]
        return Sources(x, draw_inputs(told[0], generator), draw_inputs(told[1], generator))
    whole = x[:, None].expand(-1, m, -1)
    fresh = draw_inputs(draw_same(n, m, generator=generator), generator)
    hit = torch.rand(n, m, 1, generator=generator) < 0.5
    second = torch.where(hit, whole[..., :SIZE], fresh[..., SIZE : 2 * SIZE])
    of_first = torch.cat([whole[..., :SIZE], second, fresh[..., 2 * SIZE :]], -1)
    return Sources(x, of_first, torch.cat([fresh[..., :SIZE], whole[..., SIZE:]], -1))
