"""Training of transformers on hidden Markov processes: all networks of one stack side by side, on fresh sequences.

`python -m probekit.testbeds.hmm.train` makes the bundled file anew; what is trained already is kept, so that it goes on
where it was stopped. The target is the exact law of the next token, whose gradient is that of the token drawn from it
in expectation, with less variance; networks of `taught` are given the law of the cheaper account instead.
"""

import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.testbeds.hmm.networks import Transformers, untrained
from probekit.testbeds.hmm.processes import PROCESSES, Process
from probekit.testbeds.training import gathered

log = logging.getLogger(__name__)
SEEDS, STEPS, BATCH, RATE, WARM, COOL = 6, 2000, 64, 4e-3, 100, 0.4
EARLY = (60, 150)  # steps at which networks of the triangle are kept on their way
FILE = Path(__file__).with_name("networks.safetensors")


@dataclass(frozen=True)
class HmmLesson:
    """What one training gives. first: the first seed; local: whether the law of the cheaper account is taught."""

    name: str
    process: str
    first: int
    local: bool = False
    early: tuple[int, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its networks."""
        return tuple(range(self.first, self.first + SEEDS))


STACKS = {
    one.name: one
    for one in (
        HmmLesson("mess3", "mess3", 100),
        HmmLesson("turns", "turns", 200),
        HmmLesson("triangle", "triangle", 300, early=EARLY),
        HmmLesson("taught", "triangle", 400, local=True),
    )
}


def target(process: Process, tokens: NDArray[np.int64], local: bool) -> NDArray[np.float64]:
    """The law [n, length, token] that is taught: of the exact belief, or of the cheaper account."""
    if local and process.local is not None:
        return process.law_of(process.local(tokens))
    return process.law(process.beliefs(tokens))


def train(stack: HmmLesson, steps: int = STEPS) -> dict[str, Transformers]:
    """Trained networks by name, with `@step` of those on their way."""
    process, rng = PROCESSES[stack.process], np.random.default_rng([stack.first, 61])
    free = {name: part.requires_grad_() for name, part in untrained(process, stack.seeds).parameters.items()}
    nets, kept = Transformers(free), {}
    optimizer = torch.optim.Adam(free.values(), lr=RATE, betas=(0.9, 0.98))
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARM, (steps - step + 1) / (COOL * steps))
        tokens = process.draw(BATCH, rng)
        law = torch.from_numpy(target(process, tokens, stack.local)).float()
        told = nets.logits(torch.from_numpy(tokens)).log_softmax(-1)
        loss = -(law * told).sum(-1).mean() * nets.n  # each network has a gradient of its own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            log.debug("%s, step %d: %.4f nats", stack.name, step, float(loss.detach()) / nets.n)
        if step in stack.early or step == steps:
            name = stack.name if step == steps else f"{stack.name}@{step}"
            kept[name] = Transformers({key: part.detach().clone() for key, part in free.items()})
    return kept


def make(folder: Path, file: Path = FILE, steps: int = STEPS) -> None:
    """Train what `folder` lacks, a file for each stack, and put all of them into one, in half precision."""
    gathered(folder, file, {name: partial(_packed, stack, steps) for name, stack in STACKS.items()})


def _packed(stack: HmmLesson, steps: int) -> dict[str, Tensor]:
    return {f"{name}/{key}": part.half().contiguous() for name, nets in train(stack, steps).items()
            for key, part in nets.parameters.items()}  # fmt: skip


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(message)s")
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "training/hmm"))
