"""Whether an interchange works by what the network naturally does, or by pushing it where it never is.

The illusion of Makelov, Lange and Nanda (2023), arXiv 2311.17030: a direction that is written and not read, plus one
that is read and never written, swaps an answer although neither takes part in it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.causal.interchange import Interchanged
from probekit.metrics.ratios import Ratio

DORMANT = 0.01  # natural variance along an axis, of the squared displacement there
MOST = 0.6  # of the squared displacement. A bit and its copy, one of which is moved, have half of it off their line
FAR = 0.99  # quantile of natural rows beyond which an edited row is far
OFTEN = 0.1  # of edited rows, of which 1 % are far by chance
GAP = 0.1  # of accuracy, between the pairs that a subspace was fitted on and those held out
ROUNDING = 1e-12  # of the natural variance: a displacement whose square is less is what single precision leaves
RANK = 1e-6  # of the largest singular value: less does not count as a direction


@dataclass(frozen=True)
class Support:
    """Signs that edited activations lie where natural ones do not.

    dormant: share of the squared displacement along axes whose natural variance is below DORMANT of it. far: share of
    edited rows whose Mahalanobis distance is beyond that of FAR of natural rows. gap: accuracy on the pairs that the
    subspace was fitted on, less that on held-out pairs; None where it was not fitted.
    """

    dormant: float
    far: float
    gap: float | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Which of the three are raised, by name; none is a proof, and none of them is an all-clear."""
        raised = {"dormant": self.dormant > MOST, "far": self.far > OFTEN, "gap": (self.gap or 0.0) > GAP}
        return tuple(name for name, up in raised.items() if up)


def support(
    natural: NDArray, base: NDArray, edited: NDArray, reads: NDArray | None = None, gap: float | None = None
) -> Support:
    """Flags of an edit that turned `base` into `edited` [n, d], beside natural activations [n_rows, d] of that site.

    reads [d, r]: what is read there, where that is known (the rows of a read-in matrix, or gradients of the answer): an
    edit is then judged by what of it can be noticed. Without it everything counts, and a bit that is moved without its
    copy is called far. Half of the natural rows, every other one, say how far apart rows are, and the others how far
    natural ones go: rows that a covariance was fitted on look nearer than they are. Raises BadInput for fewer than 4.
    """
    if natural.ndim != 2 or base.shape != edited.shape or natural.shape[1] != base.shape[1]:
        found = f"{natural.shape}, {base.shape} and {edited.shape}"
        raise BadInput(f"natural, base and edited activations of one site are [rows, d] each; found {found}.")
    if len(natural) < 4:
        raise BadInput(f"{len(natural)} natural rows say nothing about where rows lie: give many times their width.")
    view = np.eye(natural.shape[1]) if reads is None else _span(reads)
    natural, base, edited = (rows.astype(np.float64) @ view for rows in (natural, base, edited))
    return Support(_dormant(natural, edited - base), _far(natural, edited), gap)


def within(basis: NDArray, reads: NDArray) -> NDArray[np.float64]:
    """What of a subspace [d, k] can be read at all: an orthonormal basis of its projection onto `reads` [d, r].

    [d, k'], with k' below k where some direction is not read; k' is 0 where none is.
    """
    view = _span(reads)
    return _span(view @ (view.T @ basis.astype(np.float64)), 1.0)


def illusion_gap(kept: Interchanged, inside: Interchanged) -> Ratio:
    """IIA of a subspace less that of what of it can be read (`within`): above 0, what is not read did some of it.

    Only where there is an explicit read-in matrix: everything is read of a residual stream, and the gap is 0 there.
    """
    if not np.array_equal(kept.at, inside.at):
        raise BadInput("interchanges of different pairs are compared: give laws of the same bases and sources.")
    return Ratio(kept.right - inside.right, np.ones(len(kept.right)), of_reader=False)


def _dormant(natural: NDArray, moved: NDArray) -> float:
    """Share of the squared displacement that lies along principal axes with (nearly) no natural variance."""
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(natural.T)))
    energy = ((moved @ axes) ** 2).mean(0)
    total = float(energy.sum())
    if total <= ROUNDING * float(np.abs(variance).sum()):
        return 0.0  # nothing of the edit can be noticed
    return float(energy[variance < DORMANT * energy].sum() / total)


def _far(natural: NDArray, edited: NDArray) -> float:
    """Share of edited rows that lie farther out than FAR of the natural rows."""
    centre, rest = natural[::2], natural[1::2]
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(centre.T)))
    # Axes of no variance would be infinitely far; with few rows the smallest are underestimated, for both alike.
    scale = np.sqrt(np.maximum(variance, 1e-6 * max(float(variance[-1]), 1e-30)))
    out, limit = (
        (((rows - centre.mean(0)) @ axes / scale) ** 2).sum(1) for rows in (edited, rest)
    )  # fmt: skip
    return float((out > np.quantile(limit, FAR) * (1 + 1e-6) + 1e-9).mean())


def _span(directions: NDArray, size: float | None = None) -> NDArray[np.float64]:
    """An orthonormal basis of what columns span; `size`: what they are measured by, instead of the largest."""
    if not np.isfinite(directions).all():
        raise BadInput("directions must be finite to span a subspace.")
    u, length, _ = np.linalg.svd(directions.astype(np.float64), full_matrices=False)
    return u[:, length > RANK * (length[:1].max(initial=1e-300) if size is None else size)]
