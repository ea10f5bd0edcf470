"""Checkpoints: some networks that add, as they learn it, with their losses from the first step to the last.

`python -m probekit.testbeds.variants.checkpoints` trains them and makes the bundled file anew; CARD.md says how.
"""

import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from probekit.errors import BadInput, unknown
from probekit.testbeds.training import write_atomically
from probekit.testbeds.variants.networks import VARIANTS, Networks, Table, Variant, untrained
from probekit.testbeds.variants.train import held_out_of, nats_of, train

log = logging.getLogger(__name__)
FILE = Path(__file__).with_name("checkpoints.safetensors")
KEPT = (50, 150, 250, 350, 450, 600, 900, 1500)  # steps whose weights are stored; those of step 0 are drawn again
LOOKED = tuple(range(50, KEPT[-1] + 1, 50))  # steps whose losses are
KINDS = {
    one.name: (one, n)
    for one, n in (
        (replace(VARIANTS["plain"], first=200), 5),
        (replace(VARIANTS["narrow"], first=200), 5),
        # too little of the table: it is learned by heart, and no step brings the others
        (replace(VARIANTS["narrow"], name="never", changed="what is seen", share=0.3, first=210), 3),
    )
}


@dataclass(frozen=True)
class Checkpoints:
    """Networks of one kind as they learn, s side by side, at the steps [m] of their losses, 0 included.

    loss: mean bits of the pairs that each was not trained on; unseen, trained: share of these pairs, and of those it
    was trained on, that it adds rightly; [m, s] each. stored: weights by step.
    """

    variant: Variant
    steps: tuple[int, ...]
    loss: Float[Tensor, "m s"]
    unseen: Float[Tensor, "m s"]
    trained: Float[Tensor, "m s"]
    stored: dict[int, dict[str, Tensor]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the networks."""
        return self.variant.seeds(self.loss.shape[1])

    def at(self, step: int) -> Networks:
        """The networks as they were behind a step: 0, or one of KEPT. Raises BadInput for another one."""
        if step and step not in self.stored:
            raise BadInput(f"no weights of step {step}: there are those of 0, {', '.join(map(str, self.stored))}.")
        start = untrained(self.variant, self.seeds)
        return replace(start, parameters={**start.parameters, **self.stored[step]}) if step else start


@cache
def load_checkpoints(name: str, file: Path = FILE) -> Checkpoints:
    """The bundled networks of a kind: `plain`, `narrow`, or `never`, which learns by heart alone. Raises BadInput.

    >>> from probekit.testbeds.variants.checkpoints import load_checkpoints
    >>> course = load_checkpoints("plain")
    >>> bool(course.unseen[0].max() < 0.1), bool(course.unseen[-1].min() > 0.99)
    (True, True)
    """
    if name not in KINDS:
        raise unknown("checkpoints of", name, KINDS, "There are")
    parts = {key: part.float() for key, part in load_file(file).items() if key.split("/")[0].split("@")[0] == name}
    stored: dict[int, dict[str, Tensor]] = {step: {} for step in KEPT}
    for key, part in parts.items():
        if "@" in key:
            place, weight = key.split("/")
            stored[int(place.split("@")[1])][weight] = part
    loss, unseen, trained = (parts[f"{name}/{one}"] for one in ("loss", "unseen", "trained"))
    return Checkpoints(KINDS[name][0], (0, *LOOKED), loss, unseen, trained, stored)


def learn(variant: Variant, n: int) -> Checkpoints:
    """Train n networks to the last step of KEPT."""
    table, seeds = Table.make(), variant.seeds(n)
    rows = torch.stack([table.trained(variant.share, seed) for seed in seeds])
    _, by_step = train(variant, seeds, KEPT[-1], to_the_end=True, early=LOOKED)
    figures = [
        _figures(untrained(variant, seeds), table, rows),
        *(_figures(by_step[s].networks, table, rows) for s in LOOKED),
    ]
    loss, unseen, trained = (torch.stack(one) for one in zip(*figures, strict=True))
    stored = {
        step: {name: by_step[step].networks.parameters[name] for name in by_step[step].networks.trained}
        for step in KEPT
    }
    return Checkpoints(variant, (0, *LOOKED), loss, unseen, trained, stored)


@torch.no_grad()
def _figures(nets: Networks, table: Table, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(bits, share right) of pairs held out, and share right of the others, [s] each."""
    right = (nets.logits(table.a, table.b).argmax(-1) == table.sum).float()
    return held_out_of(nats_of(nets, table), rows) / math.log(2), held_out_of(right, rows), held_out_of(right, ~rows)


def make(file: Path = FILE) -> None:
    """Train all kinds and write the bundled file."""
    write_atomically(
        file, dict(part for name, (variant, n) in KINDS.items() for part in _packed(name, learn(variant, n)))
    )


def _packed(name: str, course: Checkpoints) -> Iterator[tuple[str, Tensor]]:
    log.info("%s: %s of unseen pairs are right", name, [round(v, 4) for v in course.unseen[-1].tolist()])
    for step, weights in course.stored.items():
        for weight, part in weights.items():
            yield f"{name}@{step}/{weight}", part.half().contiguous()
    for figure in ("loss", "unseen", "trained"):
        yield f"{name}/{figure}", getattr(course, figure).contiguous()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
