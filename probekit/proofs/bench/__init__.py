"""Benches: the same problem solved by this package and by its peers side by side, in ratios measured within one run."""

import time
from collections.abc import Callable
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

    @classmethod
    def of(cls, case: str, peer: str, ours: float, theirs: float, gap: float, bound: float) -> "Row":
        """From seconds of ours, of the peer, and of the bound."""
        return cls(case, peer, ours, theirs, theirs / ours, gap, ours / bound)

    def row(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def timed(work: Callable[..., Any], *given: Any, clock: Callable[[], float] = time.perf_counter) -> tuple[Any, float]:
    """(what it gives, seconds). clock: `time.process_time` for seconds that other programs do not stretch."""
    began = clock()
    return work(*given), clock() - began
