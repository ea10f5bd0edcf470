"""Cells: the units of work that a job consists of, and the digests under which a run folder knows them."""

from dataclasses import asdict, dataclass
from typing import Any

from probekit.records import digest
from probekit.task import ALL

CELL_VERSION = 8  # raised when what a cell computes changes meaning, so that old cells are not taken for new ones


@dataclass(frozen=True)
class Cell:
    """One unit of work. what: behaviour or feature; hooks: one, or all of a chain; domain: for `replace` alone.

    place: the rule of positions whose rows are measured, where there are several. split: which of the `repeats`.
    """

    kind: str
    what: str
    hooks: tuple[str, ...]
    domain: str = ""
    place: str = ALL
    split: int = 0

    @property
    def label(self) -> str:
        """For people: what is being measured."""
        several = f"all {len(self.hooks)} hook points" if self.kind == "selected" else f"chain of {len(self.hooks)}"
        hook = self.hooks[0] if len(self.hooks) == 1 else several
        return " ".join(filter(None, (self.kind, self.what, "at", hook, self.domain, said_place(self.place),
                                     f"split {self.split + 1}" if self.split else "")))  # fmt: skip

    def id(self, inputs: str) -> str:
        """Digest of the cell and of everything that its numbers depend on."""
        return digest({"version": CELL_VERSION, "inputs": inputs, **_parts(self)})


def _parts(cell: Cell) -> dict[str, Any]:
    """What tells cells apart; place and split only where there are several, so that they are no part of older ids."""
    return {name: value for name, value in asdict(cell).items() if (name, value) not in (("place", ALL), ("split", 0))}


def said_place(place: str) -> str:
    """For people, where several rules of positions are measured apart."""
    return "" if place == ALL else f"read at {place}"
