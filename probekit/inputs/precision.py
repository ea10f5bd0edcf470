"""Precision: a user's numbers in single precision, with what differs from row to row kept.

Readers and floors compute in float32, which keeps seven digits. A column that lies a thousand times its spread from 0
would lose some of them, and numbers of 1e-20 or 1e25 square to nothing or to infinity: so columns are moved and scaled
in float64 before they are cast. Readers do not care; scales are powers of two, which round nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.storage import scratch

BLOCK = 2**22  # numbers that are looked at in float64 at a time
FAR = 2.0**10  # spreads from 0 beyond which a column is moved there
USUAL = 2.0**40  # spreads between its inverse and it, of activations, are left as they are
LOUD = 2.0**10  # spread of a floor's column beyond which it is scaled, or others beside it would not be heard
COARSE = 2.0**-6  # of its spread, that a column is rounded to, from which it is told
FAINT = 1e-6  # of the largest spread, below which a column is not told from rounding (fit/frame.py)


@dataclass(frozen=True)
class Narrowing:
    """x -> (x - shift) * factor as float32. shift [d], 0 where nothing is moved; factor: [1] or [d].

    told: what has been lost before, or is not seen, in a sentence; empty where nothing is.
    """

    shift: NDArray[np.float64]
    factor: NDArray[np.float64]
    told: str = ""

    @classmethod
    def of(cls, what: str, x: NDArray, floor: bool = False) -> "Narrowing":
        """What suits the columns of x [n, d]. floor: columns are scaled one by one, as those of a floor may be."""
        with np.errstate(all="ignore"):  # what is not finite is told where it is read
            mean, spread = _moments(x)
        wide = x.dtype.kind in "iu" or x.dtype.itemsize > 4
        shift = np.where((np.abs(mean) > FAR * spread) & wide, mean, 0.0)
        loudest = float(spread.max(initial=0))
        if floor and loudest > 1 / LOUD:
            factor = np.where(spread > LOUD, _halvings(spread), 1.0)
        else:
            usual = LOUD if floor else USUAL
            factor = _halvings(np.array([1.0 if 1 / usual < loudest < usual else loudest]))
        return cls(shift, factor, _told(what, x, mean, spread, floor))

    def __call__(self, x: NDArray) -> NDArray:
        """The same numbers where nothing needs to be done, else float32."""
        if not self.shift.any() and (self.factor == 1).all() and x.dtype in (np.float32, np.float16):
            return x
        out = scratch.empty(x.shape, np.float32)
        with np.errstate(all="ignore"):
            for at, rows in _blocks(x):
                out[at] = (rows - self.shift) * self.factor
        return out


def _blocks(x: NDArray) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    step = max(1, BLOCK // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        yield slice(start, start + step), x[start : start + step].astype(np.float64)


def _moments(x: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column, of whatever size; those that are not finite are told elsewhere."""
    low, high = (np.nan_to_num(side(0).astype(np.float64)) for side in (x.min, x.max))
    unit = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
    first, total, square = x[0].astype(np.float64), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _, rows in _blocks(x):
        away = (rows - first) / unit
        total, square = total + away.sum(0), square + (away**2).sum(0)
    mean = total / len(x)
    return np.nan_to_num(first + unit * mean), np.nan_to_num(unit * np.sqrt(np.maximum(square / len(x) - mean**2, 0)))


def _halvings(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of two that brings each spread near 1; 1 where there is none."""
    known = np.where(spread > 0, spread, 1.0)
    return np.exp2(-np.round(np.log2(known)).clip(-1000, 1000))


def _told(what: str, x: NDArray, mean: NDArray, spread: NDArray, floor: bool) -> str:
    varies = spread > 0
    if x.dtype.kind == "f":
        coarse = np.abs(mean) * np.finfo(x.dtype).eps > np.where(varies, COARSE * spread, 1.0)
        if coarse.any():
            j = int(np.argmax(coarse))
            return (
                f"column {j} of {what} came as {x.dtype} around {mean[j]:.3g} with a spread of {spread[j]:.2g}, of "
                "which few digits are left: give it in double precision, or less its mean"
            )
    faint = varies & (spread < FAINT * spread.max(initial=0))
    if not floor and faint.any():
        return (
            f"{int(faint.sum())} columns of {what}, such as {int(np.argmax(faint))}, spread less than a millionth of "
            f"column {int(np.argmax(spread))} and are not told from rounding beside it: bring them to one scale"
        )
    return ""
