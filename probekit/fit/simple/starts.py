"""Where joint fits of directions and functions start: the few directions along which a law changes at all.

A linear fit cannot find the directions of an XOR. Beside its own directions there are those of even functions, the
spectrum of E[(law - floor) z z^T], and those of odd ones, local maxima of the third moment; what they span is searched
first, on few rows, before a fit may leave it.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.readout import Rows, take
from probekit.fit.simple.pursuit import CellStarts, find_cells

SMALL = 2_048  # rows for starts: enough to tell good ones from bad
LARGE = 8_192  # rows that directions are fitted on
MOMENT_ROWS = 4_096
EVEN = 9  # directions of even functions in the span that is searched
THIRD = 4
POWERS = 12  # iterations towards directions of the third moment
KNOWN = 4  # linear and even directions that the search for cells is given
SEARCHED = 3  # starts from it
MAX_K = 8  # beyond it a class of all products is no longer a simple function


@dataclass(frozen=True)
class Core:
    """The coordinates that joint fits look at: all of the frame, or the loudest, with the linear readout's directions.

    Few rows fit anything along as many coordinates as there are rows, and whichever are quiet only cost time. axes
    [r, q]: of the core in the frame, None where it is the frame; variance [q]; linear [q, l]: directions of the
    linear readout; rows: to fit, and what decides.
    """

    axes: Float[Tensor, "r q"] | None
    variance: Float[Tensor, " q"]
    linear: Float[Tensor, "q l"]
    rows: tuple[Rows, Rows]

    @classmethod
    def of(cls, rows: tuple[Rows, Rows], variance: Float[Tensor, " r"], linear: Float[Tensor, "r l"], m: int) -> "Core":
        """Of the m loudest of r coordinates."""
        r, n_linear = linear.shape
        if m + n_linear >= r:
            return cls(None, variance, linear, rows)
        # What the directions have beyond the loudest, uncorrelated with these and with each other.
        quiet, turn = torch.linalg.qr(linear[m:] * variance[m:, None].sqrt())
        beyond = quiet / variance[m:, None].sqrt()
        length = beyond.norm(dim=0).clamp_min(1e-12)
        axes = torch.block_diag(torch.eye(m).to(linear), beyond / length)
        inside = torch.cat([linear[:m], length[:, None] * turn])
        return cls(axes, torch.cat([variance[:m], 1 / length**2]), inside, (rows[0].along(axes), rows[1].along(axes)))

    def back(self, directions: Float[Tensor, "q k"]) -> Float[Tensor, "r k"]:
        """Directions in the core as directions in the frame."""
        return directions if self.axes is None else self.axes @ directions


@dataclass(frozen=True)
class Region:
    """What joint fits at one site share. `near` rows are in coordinates of the basis, `far` ones in whitened ones.

    spread [r]: by which frame coordinates are divided to be white; basis [r, q], orthonormal in whitened coordinates;
    linear, even, third: directions in it. Each pair of rows is what is fitted and what decides.
    """

    spread: Float[Tensor, " r"]
    basis: Float[Tensor, "r q"]
    linear: Float[Tensor, "q l"]
    even: Float[Tensor, "q e"]
    third: Float[Tensor, "q m"]
    near: tuple[Rows, Rows]
    far: tuple[Rows, Rows]
    seed: int
    found: dict[int, CellStarts] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, fit: Rows, select: Rows, variance: Float[Tensor, " r"], linear: Float[Tensor, "r l"], seed: int
    ) -> "Region":
        """linear: directions of the linear readout, leading first, in frame coordinates. seed decides what is drawn."""
        generator = torch.Generator().manual_seed(seed)
        spread = variance.sqrt()
        order = torch.randperm(len(fit.z), generator=generator)[:LARGE].to(fit.z.device)
        every = -(-len(select.z) // (LARGE // 2))
        far = _whitened(take(fit, order), spread), _whitened(take(select, slice(0, None, every)), spread)
        mixtures = _mixtures(far[0])
        known = spread[:, None] * linear
        known = known / known.norm(dim=0).clamp_min(1e-12)
        parts = known, _even(far[0].z, mixtures, EVEN), _third(far[0].z, mixtures, generator)
        r, wide = len(variance), torch.cat(parts, 1)
        # Where the span is nearly everything, everything is searched.
        whole = r <= wide.shape[1] + KNOWN
        basis = torch.eye(r).to(wide) if whole else torch.linalg.qr(wide)[0]
        some = take(far[0], slice(SMALL)), take(far[1], slice(2 * SMALL))
        near = some[0].along(basis), some[1].along(basis)
        linear, even, third = (basis.T @ part for part in parts)
        return cls(spread, basis, linear, even, third, near, far, seed)

    def fresh(self, k: int) -> Float[Tensor, "s q k"]:
        """Directions to start from, unit columns: linear, even, turned even, third with linear, and a mixture."""
        generator = torch.Generator().manual_seed(self.seed + k)
        q = len(self.even)

        def fill(known: Tensor, m: int) -> Tensor:
            drawn = torch.randn(q, m, generator=generator).to(known) / math.sqrt(q)
            return torch.cat([known[:, :m], drawn[:, min(m, known.shape[1]) :]], 1)

        # Summed even directions: a threshold or cubic on one direction needs s1 + s2, a quadratic does not care.
        turn = torch.linalg.qr(torch.randn(k + 1, k + 1, generator=generator))[0].to(self.even)
        mixed = torch.cat([fill(self.linear, k - k // 2), fill(self.even, k // 2)], 1)
        starts = torch.stack([
            fill(self.linear, k), fill(self.even, k), (fill(self.even, k + 1) @ turn)[:, :k],
            torch.cat([fill(self.third, 1), fill(self.linear, k - 1)], 1),
            mixed if k > 1 else fill(self.third[:, 1:], 1),
        ])  # fmt: skip
        return starts / starts.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def beside(self, logits: Float[Tensor, "outcome t n"], m: int) -> Float[Tensor, "q m"]:
        """m directions along which what fitted logits of the near rows miss changes: even and linear ones in turn."""
        rows = self.near[0]
        residual = (rows.law - torch.softmax(logits, 0) * rows.law.sum(0)).flatten(0, 1)
        residual = residual - residual.mean(-1, keepdim=True)
        linear = torch.linalg.svd(residual @ rows.z, full_matrices=False)[2].T
        even = _even(rows.z, torch.linalg.svd(residual @ residual.T)[2][:1] @ residual, len(self.even))
        in_turn = torch.stack([even[:, : linear.shape[1]], linear[:, : even.shape[1]]], 2).flatten(1)
        return torch.cat([in_turn, even[:, linear.shape[1] :]], 1)[:, :m]

    def cells(self, n_cuts: int) -> CellStarts:
        """Searched starts for thresholds, of as many directions as any k asks for; searched once."""
        if n_cuts not in self.found:
            generator = torch.Generator().manual_seed(self.seed)
            known = torch.cat([self.linear[:, :KNOWN], self.even[:, :KNOWN]], 1)
            self.found[n_cuts] = find_cells(self.near[0], known, MAX_K, n_cuts, SEARCHED, generator)
        return self.found[n_cuts]


def _whitened(rows: Rows, spread: Float[Tensor, " r"]) -> Rows:
    return Rows(rows.z / spread, rows.law, rows.offset)


def _mixtures(rows: Rows) -> Float[Tensor, "m n"]:
    """What the floor misses, per row: in the leading mixtures of outcomes and targets, all that say anything."""
    guess = rows.law.mean(-1, keepdim=True) if rows.offset is None else torch.softmax(rows.offset, 0)
    residual = (rows.law - guess * rows.law.sum(0)).flatten(0, 1)
    residual = residual - residual.mean(-1, keepdim=True)
    _, size, mix = torch.linalg.svd(residual[:, :MOMENT_ROWS] @ residual[:, :MOMENT_ROWS].T)
    # Laws sum to one: the last mixture of all says nothing.
    return mix[: max(1, int((size > 1e-6 * size[0]).sum()))] @ residual


def _even(z: Float[Tensor, "n q"], mixtures: Float[Tensor, "m n"], k: int) -> Float[Tensor, "q k"]:
    """Leading eigenvectors, by absolute value, of E[residual z z^T], pooled over the first k mixtures, or two."""
    leading = []
    for weight in mixtures[: max(k, 2)]:
        values, vectors = torch.linalg.eigh((z * weight[:, None]).T @ z / len(z))
        size, order = values.abs().sort(descending=True)
        leading.append(vectors[:, order[:k]] * size[:k])
    return torch.linalg.svd(torch.cat(leading, 1), full_matrices=False)[0][:, :k]


def _third(z: Float[Tensor, "n q"], mixtures: Float[Tensor, "m n"], generator: torch.Generator) -> Float[Tensor, "q v"]:
    """THIRD local maxima of |E[residual (z v)^3]| over unit v, by power iteration; the leading mixtures share them."""
    z = z[:MOMENT_ROWS]
    weights = mixtures[:2, : len(z)].T
    weights = weights.repeat(1, -(-THIRD // weights.shape[1]))[:, :THIRD]
    v = torch.randn(z.shape[1], THIRD, generator=generator).to(z)
    for _ in range(POWERS):
        v = v / v.norm(dim=0).clamp_min(1e-12)
        s = z @ v
        # The Hermite part of degree three: a law that changes in the mean alone attracts nothing.
        v = z.T @ (weights * (s**2 - 1)) / len(z) - 2 * v * (weights * s).mean(0)
    return v / v.norm(dim=0).clamp_min(1e-12)
