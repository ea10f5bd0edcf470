"""Rows in blocks, and the coordinates in which class logits have no constant."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SLACK = 0.05  # of the tolerance: a rise of the objective so small is rounding, and harmless
BLOCK_ENTRIES = 2**16  # logits per block: a block's arrays stay in the cache of one core


@dataclass(frozen=True)
class Blocks:
    """Rows in an order that never changes, cut without copying."""

    z: Float[Tensor, "n r"]
    step: int

    @classmethod
    def of(cls, z: Float[Tensor, "n r"], outputs: int) -> "Blocks":
        """Blocks for problems of so many outputs per row."""
        return cls(z, max(512, min(65_536, BLOCK_ENTRIES // outputs)))

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.z)

    @property
    def r(self) -> int:
        """Coordinates."""
        return self.z.shape[1]

    @property
    def sizes(self) -> list[int]:
        """Rows of each block."""
        return [min(self.step, self.n - a) for a in range(0, self.n, self.step)]

    def blocks(self) -> Iterator[Float[Tensor, "b r"]]:
        """Blocks in the order of `sizes`."""
        yield from self.z.split(self.step)


def class_basis(n_outcomes: int, like: Tensor) -> tuple[Float[Tensor, "outcome q"], Float[Tensor, "q q"]]:
    """An orthonormal basis of the vectors over classes that sum to zero, and its rows as differences to the last."""
    centred = torch.eye(n_outcomes, dtype=torch.float64) - 1 / n_outcomes
    basis = torch.linalg.qr(centred[:, : n_outcomes - 1])[0]
    return basis.to(like), (basis[:-1] - basis[-1]).to(like)


@dataclass
class LogitBlocks:
    """What is known of every row, per block: differences of logits, their change along the step, laws p [q, t, b].

    mass [t, b] of the law, None where all of it is 1; offset: differences of the floor's logits, or None.
    """

    mass: list[Tensor] | None
    offset: list[Tensor] | None
    logits: list[Tensor]
    change: list[Tensor]
    p: list[Tensor]

    @classmethod
    def of(cls, law: Tensor, offset: Tensor | None, sizes: list[int]) -> "LogitBlocks":
        n_outcomes, t, _ = law.shape
        mass = [part.sum(0) for part in law.split(sizes, -1)]
        whole = all(bool(((part - 1).abs() < 1e-6).all()) for part in mass)
        beside = None
        if offset is not None:
            beside = [(part[:-1] - part[-1]).contiguous() for part in offset.split(sizes, -1)]
        shapes = [(n_outcomes - 1, t, size) for size in sizes]
        return cls(None if whole else mass, beside, *([law.new_zeros(shape) for shape in shapes] for _ in range(3)))

    def take(self, kept: Tensor) -> "LogitBlocks":
        """The same of some targets."""

        def of(parts: list[Tensor]) -> list[Tensor]:
            return [part.index_select(-2, kept) for part in parts]

        return LogitBlocks(
            None if self.mass is None else of(self.mass), None if self.offset is None else of(self.offset),
            of(self.logits), of(self.change), of(self.p),
        )  # fmt: skip


def law_of(logits: Tensor, p: Tensor, mass: Tensor | None) -> Tensor:
    """Write the law of differences of logits into p [q, t, b]; the sum over rows of the log of the total, [t].

    The sum is in float64: what the law takes off it later is nearly as large, and what is left decides on steps.
    """
    if len(logits) == 1:
        torch.sigmoid(logits, out=p)
        total = torch.nn.functional.softplus(logits[0])
        return (total if mass is None else total * mass).sum(-1, dtype=torch.float64)
    top = logits.amax(0).clamp_min_(0)
    torch.sub(logits, top, out=p).exp_()
    total = p.sum(0).add_(torch.exp(-top))
    p /= total
    total.log_().add_(top)
    return (total if mass is None else total * mass).sum(-1, dtype=torch.float64)
