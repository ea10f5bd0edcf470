"""Training of variants: all networks of one variant side by side, each on rows of its own.

`python -m probekit.testbeds.variants.train` makes the bundled file anew; what is trained already is kept, so that it
goes on where it was stopped.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.testbeds.training import gathered
from probekit.testbeds.variants.networks import (
    EQUAL,
    EQUALITY,
    NOT_TRAINED,
    PARTIAL,
    VARIANTS,
    Networks,
    Table,
    Variant,
    Vectors,
    rows_of,
    untrained,
)

log = logging.getLogger(__name__)
BATCH = 512  # rows of a step
RATE, BETAS, STEPS, LOOK = {"sum": 0.01, "equality": 0.003}, (0.9, 0.98), 3000, 50
ENOUGH, LONGER = 0.996, 300  # of rows held out, and the steps after which a stack stops once all of it has them
FIXED_STEPS = 1200  # of networks that are trained on few rows, which may never get there
EARLY = (300, 500)  # steps at which plain networks are kept on their way
SEEDS, NEEDED = 6, 5  # networks of a stack, and how many have to be right for it to stop
PLAIN_SEEDS, PLAIN_NEEDED = 12, 10
EQUAL_SEEDS = 11  # one more may fail
HARD, HARD_SEEDS, HARD_NEEDED = ("sparse",), 8, 6  # where a right network need not stay one
SLOW = {"hashed": 6000}  # steps of what takes longer than STEPS
PARTIAL_SEEDS = 5
ON_THE_WAY = 6  # plain networks that are kept as they learn
FILE = Path(__file__).with_name("networks.safetensors")


@dataclass(frozen=True)
class Trained:
    """Networks as they were kept, and their accuracy on the table: on trained rows and on those held out [s] each.

    Where nothing was held out, `held_out` is that of all rows. losses: mean nats of held-out rows, a look each [looks,
    s], every LOOK steps.
    """

    networks: Networks
    fitted: Float[Tensor, " s"]
    held_out: Float[Tensor, " s"]
    losses: Float[Tensor, "looks s"]


def train(
    variant: Variant,
    seeds: tuple[int, ...],
    steps: int = STEPS,
    *,
    needed: int = 0,
    to_the_end: bool = False,
    early: tuple[int, ...] = (),
) -> tuple[Trained, dict[int, Trained]]:
    """Train a stack; each network is kept where it lost least on rows held out, or where it ended if `to_the_end`.

    needed: networks that have to be right before the stack stops, all when 0. early: steps at which copies are kept.
    """
    table, start = rows_of(variant.problem), untrained(variant, seeds)
    rows = torch.stack([table.trained(variant.share, seed) for seed in seeds])
    free = {name: start.parameters[name].clone().requires_grad_() for name in start.trained}
    nets = Networks(variant, {**start.parameters, **free}, start.fixed)
    optimizer = torch.optim.AdamW(free.values(), lr=RATE[variant.problem], weight_decay=variant.decay, betas=BETAS)
    kept, best, losses, on_the_way = {}, torch.full((len(seeds),), torch.inf), [], {}
    ends, needed = steps, needed or len(seeds)
    generator = torch.Generator().manual_seed(seeds[0])
    least = int(rows.sum(1).min())  # a draw of pairs may hold a few rows more than another
    own = torch.stack([torch.nonzero(mine).flatten()[torch.randperm(int(mine.sum()), generator=generator)[:least]]
                       for mine in rows])  # fmt: skip
    for step in range(1, steps + 1):
        if variant.share:  # some of its own rows for each network, drawn with replacement
            at = own.gather(1, torch.randint(0, own.shape[1], (len(seeds), BATCH), generator=generator))
            inputs, answer = [part[at] for part in table.inputs], table.answer[at]
        else:
            fresh = Vectors.draw(len(seeds), BATCH, generator=generator)
            inputs, answer = fresh.inputs, fresh.answer
        logits = nets.logits(*inputs)
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten())
        loss = nats * len(seeds)  # each network has a gradient of its own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in early:
            on_the_way[step] = _measured(_copy(nets), table, rows, losses)
        if step % LOOK:
            continue
        found = held_out_of(nats_of(nets, table), rows)
        losses.append(found)
        better = torch.ones_like(best, dtype=torch.bool) if to_the_end else found < best
        for name, part in free.items():
            kept[name] = part.detach().clone() if name not in kept else kept[name]
            kept[name][better] = part.detach()[better]
        best = torch.where(better, found, best)
        if not to_the_end and step < ends - LONGER:
            so_far = _measured(_copy(nets), table, rows, losses)
            right = (so_far.held_out >= ENOUGH) & (so_far.fitted >= ENOUGH)
            log.debug("%s, step %d: %d are right", variant.name, step, int(right.sum()))
            if int(right.sum()) >= needed:
                ends = step + LONGER
        if step >= ends:
            break
    made = Networks(variant, {**start.parameters, **kept}, start.fixed)
    return _measured(made, table, rows, losses), on_the_way


@torch.no_grad()
def nats_of(nets: Networks, table: Table | Vectors) -> Float[Tensor, "s n"]:
    """Loss of every network at every row of the table."""
    logits = nets.logits(*table.inputs)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), table.answer.repeat(len(logits)), reduction="none"
    ).view(len(logits), -1)


def held_out_of(values: Tensor, rows: Tensor) -> Float[Tensor, " s"]:
    """Mean over rows that were not trained on; over all where there are none."""
    out = torch.where(rows.all(1, keepdim=True), True, ~rows)
    return (values * out).sum(1) / out.sum(1)


def _copy(nets: Networks) -> Networks:
    return Networks(nets.variant, {name: part.detach().clone() for name, part in nets.parameters.items()}, nets.fixed)


def _measured(nets: Networks, table: Table | Vectors, rows: Tensor, losses: list[Tensor]) -> Trained:
    with torch.no_grad():
        right = (nets.logits(*table.inputs).argmax(-1) == table.answer).float()
    told = torch.stack(losses) if losses else torch.empty(0, len(rows))
    seen = rows if bool(rows.any()) else ~rows  # of fresh rows each is as good as another
    return Trained(nets, (right * seen).sum(1) / seen.sum(1), held_out_of(right, rows), told)


# The bundled file -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """What one training gives: networks of `variant`, `n` of them, and copies on their way at the steps `early`.

    needed, steps: as in `train`.
    """

    variant: Variant
    n: int = SEEDS
    needed: int = NEEDED
    steps: int = STEPS
    early: tuple[int, ...] = ()

    def run(self) -> dict[str, Trained]:
        """Trained networks by name: the variant's own, with `@step` of those on their way."""
        seeds = self.variant.seeds(self.n)
        if self.variant.name in PARTIAL:
            return {self.variant.name: train(self.variant, seeds, FIXED_STEPS, to_the_end=True)[0]}
        made, on_the_way = train(self.variant, seeds, self.steps, needed=self.needed, early=self.early)
        return {self.variant.name: made, **{f"{self.variant.name}@{at}": one for at, one in on_the_way.items()}}


def stacks() -> list[Stack]:
    """All that is trained."""
    plain = Stack(VARIANTS["plain"], PLAIN_SEEDS, PLAIN_NEEDED, STEPS, EARLY)
    others = [
        Stack(one, HARD_SEEDS, HARD_NEEDED) if name in HARD else Stack(one, steps=SLOW.get(name, STEPS))
        for name, one in VARIANTS.items()
        if name != "plain" and name not in NOT_TRAINED
    ]
    equal = [
        Stack(one, EQUAL_SEEDS if name == EQUAL.name else SEEDS)
        for name, one in EQUALITY.items()
        if name not in NOT_TRAINED
    ]
    return [plain, *others, *(Stack(one, PARTIAL_SEEDS) for one in PARTIAL.values()), *equal]


def make(folder: Path, file: Path = FILE) -> None:
    """Train what `folder` lacks, a file for each stack, and put all of them into one."""
    gathered(folder, file, {stack.variant.name: partial(_trained, stack) for stack in stacks()})


def _trained(stack: Stack) -> dict[str, Tensor]:
    return {key: part for name, one in stack.run().items() for key, part in _packed(name, one)}


def _packed(name: str, made: Trained) -> Iterator[tuple[str, Tensor]]:
    """Weights in half precision, under `name/weight`; what is drawn from a seed is drawn again."""
    log.info("%s: %s of rows held out are right", name, [round(v, 4) for v in made.held_out.tolist()])
    n = ON_THE_WAY if "@" in name else len(made.held_out)
    for weight in made.networks.trained:
        yield f"{name}/{weight}", made.networks.parameters[weight][:n].half().contiguous()
    yield f"{name}/fitted", made.fitted[:n].contiguous()
    yield f"{name}/held_out", made.held_out[:n].contiguous()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(message)s")
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "training/variants"))
