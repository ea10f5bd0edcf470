"""Variants: many small networks of two tasks, alike but for one thing each, and controls with equal answers.

CARD.md beside the weights says how they were trained and how well they do.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.testbeds.training import names_in, parts_of
from probekit.testbeds.variants.networks import (
    CONTROLS,
    EQUALITY,
    NOT_TRAINED,
    PARTIAL,
    PRIME,
    VARIANTS,
    Networks,
    Table,
    Variant,
    Vectors,
    rows_of,
    untrained,
)

__all__ = ["CONTROLS", "ENOUGH", "EQUALITY", "FILE", "NOT_TRAINED", "PARTIAL", "PRIME", "VARIANTS", "Bundle",
           "Networks", "Table", "Variant", "Vectors", "load_variants", "rows_of", "stored_names",
           "variant_of"]  # fmt: skip
FILE = Path(__file__).with_name("networks.safetensors")
ENOUGH = 0.995  # of the rows that a network was not trained on, below which it has not learned its task


@dataclass(frozen=True)
class Bundle:
    """Trained networks of one name, a seed each, and the share of pairs [s] that they add rightly.

    fitted: of the pairs they were trained on; held_out: of the others, or of all where there are none.
    """

    networks: Networks
    fitted: Float[Tensor, " s"]
    held_out: Float[Tensor, " s"]

    @property
    def able(self) -> list[int]:
        """The seeds that add rightly in ENOUGH of the pairs held out."""
        return torch.nonzero(self.held_out >= ENOUGH).flatten().tolist()


def stored_names(file: Path = FILE) -> list[str]:
    """Names of what is stored: of VARIANTS, PARTIAL, EQUALITY, and `plain@200` for networks on their way at a step."""
    return names_in(file)


def variant_of(name: str) -> Variant:
    """What the networks of a stored name are made of."""
    return (VARIANTS | PARTIAL | EQUALITY)[name.split("@")[0]]


def load_variants(name: str, file: Path = FILE) -> Bundle:
    """Trained networks by name. Raises BadInput for another one, naming the nearest.

    >>> from probekit.testbeds.variants import Table, load_variants
    >>> table, found = Table.make(), load_variants("gelu")
    >>> right = found.networks.logits(table.a, table.b).argmax(-1) == table.sum
    >>> bool((right.float().mean(1) > 0.99).all())
    True
    """
    mine, variant = parts_of(name, file), variant_of(name)
    fitted, held_out = mine.pop("fitted"), mine.pop("held_out")
    start = untrained(variant, variant.seeds(len(fitted)))
    return Bundle(Networks(variant, {**start.parameters, **mine}, start.fixed), fitted, held_out)
