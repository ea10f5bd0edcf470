"""Benches: the same problem solved by this package and by its peers side by side, in ratios measured within one run."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One peer on one case. ratio: peer over ours, the median over repeats; gap: between held-out bits, the
    mean over targets of its size, in the repeat where it is largest.

    bound_ratio: our time over that of the matrix products alone, at the rate measured at that very shape.
    """

    case: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    ratio: float
    gap: float
    bound_ratio: float

    def row(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)
