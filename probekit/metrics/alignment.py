"""Alignment: rows of one network in the coordinates of another, from anchors that both have seen and no label.

The four classes lie in one another: as it is, renumbered, turned, any affine map. The middle two may also shift, and
stretch all coordinates alike; all are those of least squared error on the anchors.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import svd
from scipy.optimize import linear_sum_assignment

from probekit.errors import BadInput, unknown

AlignmentName = Literal["identity", "permutation", "procrustes", "affine"]
ALIGNMENTS: tuple[AlignmentName, ...] = get_args(AlignmentName)
RIDGES = np.geomspace(1e-8, 1e2, 21)  # of the affine map, in units of the mean variance of what it reads
Rows = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class Alignment:
    """(x - centre) @ turn + offset: rows [n, d_from] as rows [n, d_to]. name: one of ALIGNMENTS."""

    name: str
    centre: NDArray[np.float64]
    turn: NDArray[np.float64]
    offset: NDArray[np.float64]

    def apply(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Rows [n, d_from] in the other's coordinates: [n, d_to]."""
        return (x.astype(np.float64) - self.centre) @ self.turn + self.offset

    def left(self, x: NDArray[np.floating], to: NDArray[np.floating]) -> float:
        """Share of the variance of rows `to` that the aligned rows miss: 0 where they are the same."""
        around = to.astype(np.float64) - to.mean(0, dtype=np.float64)
        return float(((to - self.apply(x)) ** 2).sum() / (around**2).sum())


def check_alignment(name: str) -> None:
    """Raise BadInput for another class, naming the nearest."""
    if name not in ALIGNMENTS:
        raise unknown("alignment", name, ALIGNMENTS, "Alignments:")


def fit_alignment(name: str, x: NDArray[np.floating], to: NDArray[np.floating]) -> Alignment:
    """The alignment of a class that brings anchors x [m, d_from] nearest to the same anchors elsewhere, to [m, d_to].

    `identity` needs one width; `permutation` leaves coordinates without a partner out, and `procrustes` what is beyond
    the narrower one. The ridge of `affine` is that of least error on anchors left out one by one (Golub, Heath and
    Wahba 1979). Raises BadInput for another class, other rows, and a Procrustes fit of fewer anchors than coordinates.
    """
    check_alignment(name)
    if len(x) != len(to) or len(x) < 2:
        raise BadInput(f"an alignment needs the same anchors of both networks; found {len(x)} and {len(to)} rows.")
    (m, d_from), d_to = x.shape, to.shape[1]
    if name == "identity":
        if d_from != d_to:
            raise BadInput(f"rows of {d_from} coordinates are no rows of {d_to} as they are: align by another class.")
        return Alignment(name, np.zeros(d_from), np.eye(d_from), np.zeros(d_to))
    if name == "procrustes" and m < max(d_from, d_to):
        raise BadInput(
            f"a Procrustes alignment of {max(d_from, d_to)} coordinates needs as many anchors, and there are {m}: give "
            "more, or align by permutation."
        )
    centre, offset = x.mean(0, dtype=np.float64), to.mean(0, dtype=np.float64)
    around, wanted = x - centre, to - offset
    match name:
        case "permutation":
            turn = _stretched(around, wanted, _permutation(around.T @ wanted))
        case "procrustes":
            left, _, right = svd(around.T @ wanted, full_matrices=False)
            turn = _stretched(around, wanted, left @ right)
        case _:
            turn = _ridge(around, wanted)
    return Alignment(name, centre, turn, offset)


def _permutation(together: NDArray[np.float64]) -> NDArray[np.float64]:
    """Which coordinate becomes which, so that what goes together sums to most: zeros and ones [d_from, d_to]."""
    turn = np.zeros_like(together)
    turn[linear_sum_assignment(-together)] = 1.0
    return turn


def _stretched(x: NDArray[np.float64], to: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    turned = x @ turn
    square = float((turned**2).sum())
    return turn * (float((turned * to).sum()) / square if square > 0 else 0.0)


def _ridge(x: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine map of the ridge with least generalised cross-validation error, one for all coordinates."""
    left, size, right = svd(x, full_matrices=False)
    seen = left.T @ to
    best, found = np.inf, np.zeros((x.shape[1], to.shape[1]))
    beyond = float((to**2).sum() - (seen**2).sum())  # what no map explains
    for ridge in RIDGES * max(float((size**2).mean()), np.finfo(float).tiny):
        kept = size**2 / (size**2 + ridge)
        missed = beyond + float((((1 - kept)[:, None] * seen) ** 2).sum())
        free = len(x) - 1 - float(kept.sum())
        if free > 0 and missed / free**2 < best:
            best = missed / free**2
            found = right.T @ ((size / (size**2 + ridge))[:, None] * seen)
    return found


def linear_cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Linear centred kernel alignment of rows [n, d] and [n, d'] (Kornblith et al. 2019): 1 for a rotated clone.

    A diagnostic of the loud, and no measure of what carries over: two networks that share a loud nuisance have 1.
    """
    x, y = (rows.astype(np.float64) - rows.mean(0, dtype=np.float64) for rows in (x, y))
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))
