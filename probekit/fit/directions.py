"""Directions: where a readout may look. Named sources of k directions at a site, and the reduced-rank fit.

A direction set is a matrix [d, k] in the site's own coordinates; features are x @ directions. Sources: `behaviour`
(supervised, reduced-rank multinomial), `mean_difference`, `lda`, `logistic` (k = 1), `pca`, `random`, and `beam` (of
neurons).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probekit.fit.frame import Frame
from probekit.fit.gaussian import is_value
from probekit.fit.readout import Readout, Rows
from probekit.fit.solvers.descent import descend

BEAM, BEAM_K = 16, 8  # sets of neurons that are grown at once, and up to which size
CANDIDATES = 1_024  # neurons that are looked at beyond it
QUIET = 1e-12  # of all variance, which every axis has at least where a covariance is inverted
NOTHING_LEFT = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a coordinate's variance, beyond rounding
MAX_STEPS, NO_GAIN = 60, 1e-6  # of the joint L-BFGS over directions and weights, from a start that is nearly optimal


def residual_moment(rows: Rows) -> Float[Tensor, "r outcome_t"]:
    """E[z (law - floor's law)^T]: where one gradient step from the floor would look; the mean difference, for laws."""
    return ((_residual(rows) @ rows.z) / len(rows.z)).T


def _residual(rows: Rows) -> Float[Tensor, "outcome_t n"]:
    if is_value(rows.law):
        residual = rows.law - rows.beside
    else:
        guess = rows.law.mean(-1, keepdim=True) if rows.offset is None else torch.softmax(rows.offset, 0)
        residual = rows.law - guess * rows.law.sum(0)
    return (residual - residual.mean(-1, keepdim=True)).flatten(0, 1)


def mean_difference(rows: Rows) -> Float[Tensor, "r 1"]:
    """Leading direction of E[h p^T], in frame coordinates."""
    return torch.linalg.svd(residual_moment(rows), full_matrices=False)[0][:, :1]


def lda(
    rows: Rows, d: int, variance: Float[Tensor, " r"] | None = None, shrinkage: float | None = None
) -> Float[Tensor, "r 1"]:
    """The same direction after whitening, with the covariance shrunk towards its mean variance over d coordinates.

    d: coordinates of the site, of which the rows may span fewer. variance: that of the rows' own coordinates, where
    these are uncorrelated on them. Rows that are to choose anything must have no part in the whitening: they would lie
    closer together in it than other rows do. shrinkage: its part in the covariance, that of Ledoit and Wolf when left
    out.
    """
    z = (rows.z - rows.z.mean(0)).double()
    moment = residual_moment(rows).double()
    if variance is not None:
        own = variance.double().clamp_min(0)
        part = ledoit_wolf(z, float((own**2).sum()), float(own.sum()), d) if shrinkage is None else shrinkage
        root = ((1 - part) * own + part * own.sum() / d).sqrt().clamp_min(1e-12)[:, None]
        leading = torch.linalg.svd(moment / root, full_matrices=False)[0][:, :1] / root
    else:
        covariance = z.T @ z / len(z)
        total = float(covariance.diagonal().sum())
        part = ledoit_wolf(z, float((covariance**2).sum()), total, d) if shrinkage is None else shrinkage
        covariance.mul_(1 - part).diagonal().add_(max(part * total / d, QUIET * total))
        # Any root of the covariance whitens it: the triangular one takes a fifteenth of the time of eigenvectors.
        root = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(root, moment, upper=False)
        leading = torch.linalg.svd(white, full_matrices=False)[0][:, :1]
        leading = torch.linalg.solve_triangular(root.T, leading, upper=True)
    return (leading / leading.norm()).to(rows.z)


def ledoit_wolf(z: Float[Tensor, "n r"], square: float, total: float, d: int) -> float:
    """How far a covariance is to be shrunk towards its mean variance (Ledoit and Wolf 2004), in [0, 1].

    z: centred rows in r of d coordinates; in the others they do not vary. square, total: of their covariance the sum of
    its squared entries, and its trace.
    """
    spread = square - total**2 / d
    noise = (float(((z.double() ** 2).sum(1) ** 2).mean()) - square) / len(z)
    return min(max(noise, 0.0) / spread, 1.0) if spread > 0 else 1.0


def random_directions(d: int, k: int, seed: int) -> Float[Tensor, "d k"]:
    """k orthonormal directions, uniform over subspaces; the first k' < k of them are the draw for k'."""
    generator = torch.Generator().manual_seed(seed)
    # One by one: more of them begin with the same ones, and nothing of d x d is made.
    drawn = torch.stack([torch.randn(d, generator=generator) for _ in range(k)], 1)
    return torch.linalg.qr(drawn)[0]


def pick_neurons(
    frame: Frame, gradient: Float[Tensor, "r outcome_t"], ks: Sequence[int]
) -> dict[int, Int[Tensor, " k"]]:
    """The k coordinates that together gain most, to second order at the floor, for every k; they need not be nested.

    gradient: `residual_moment` of the rows of the frame. What a set gains is the sum of its score statistics, squared
    gradient over variance, each after what those before it explain (orthogonal least squares, Chen, Billings and Luo
    1989); sets grow in a beam, since the best pair need not contain the best neuron, and past BEAM_K singly, by the
    CANDIDATES that then gain most. Ties go to the lower number; coordinates that are constant, or sums of those taken,
    come last.
    """
    spread = frame.spread
    left = (frame.back(gradient) / frame.length**2).double()[None]  # [set, d, outcome_t]
    own = (spread.double() ** 2).sum(1)[None]  # [set, d]
    least = NOTHING_LEFT[spread.dtype] * own[0]
    taken = own.new_zeros(1, 0, spread.shape[1])  # orthonormal, a row per pick
    picked, gained = torch.empty(1, 0, dtype=torch.long, device=own.device), own.new_zeros(1)
    names, known = torch.arange(own.shape[1], device=own.device), list[Tensor]()
    out: dict[int, Tensor] = {}
    for i in range(max(ks)):
        if i == BEAM_K and len(names) > CANDIDATES:
            # What was picked is left out of them: nothing of it is left to be gained.
            gain = ((left[0] ** 2).sum(1) / own[0].clamp_min(1e-300)).masked_fill(own[0] <= least, -1.0)
            some = gain.index_fill(0, picked[0], -2.0).topk(CANDIDATES).indices.sort().values
            names, spread, left, own, least = names[some], spread[some], left[:1, some], own[:1, some], least[some]
            known, picked, gained, taken = [picked[0]], picked[:1, :0], gained[:1], taken[:1]
        gain = torch.where(own > least, (left**2).sum(2) / own.clamp_min(1e-300), -1.0)
        gain.scatter_(1, picked, -2.0)
        at = _best_sets(picked, gained[:, None] + gain, BEAM if i < BEAM_K else 1)
        parent, new = at // own.shape[1], at % own.shape[1]
        rows = torch.arange(len(at), device=at.device)
        if len(own) > 1 or len(at) > 1:  # a set that grows by itself needs no copy
            left, own, taken = left[parent], own[parent], taken[parent]
        fresh = own[rows, new] > least[new]
        gained = gained[parent] + torch.where(fresh, gain[parent, new], 0.0)
        rest = spread[new].double()
        rest = rest - torch.einsum("sim,si->sm", taken, torch.einsum("sim,sm->si", taken, rest))
        rest = torch.where(fresh[:, None], rest / rest.norm(dim=1, keepdim=True).clamp_min(1e-300), 0.0)
        column = (rest.to(spread) @ spread.T).double()
        root = torch.where(fresh, own[rows, new], 1.0).sqrt()[:, None]
        left = left - column[..., None] * (left[rows, new] / root)[:, None]
        own, taken = own - column**2, torch.cat([taken, rest[:, None]], 1)
        picked = torch.cat([picked[parent], new[:, None]], 1)
        if i + 1 in ks:
            out[i + 1] = torch.cat([*known, names[picked[0]]])
    return out


def _best_sets(picked: Int[Tensor, "s i"], total: Float[Tensor, "s d"], width: int) -> Int[Tensor, " _"]:
    """The extensions, numbered set by set, of the largest totals, every set of coordinates once, best first."""
    if width == 1 and len(total) == 1 and picked.shape[1] < total.shape[1]:
        return total.argmax(1)  # the first of equal ones; what is picked stands below all else
    # A set is reached from at most as many others as it has members.
    flat, most = total.flatten(), width * (picked.shape[1] + 1)
    high = torch.nonzero(flat >= flat.topk(min(most, len(flat))).values[-1]).flatten()
    order = high[flat[high].sort(descending=True, stable=True).indices]
    seen: set[frozenset[int]] = set()
    kept: list[int] = []
    for at in order[:most].tolist():
        members = frozenset([*picked[at // total.shape[1]].tolist(), at % total.shape[1]])
        if len(members) > picked.shape[1] and members not in seen:
            seen.add(members)
            kept.append(at)
            if len(kept) == width:
                break
    return torch.tensor(kept, device=total.device)


def fit_low_rank(rows: Rows, full: Readout, variance: Float[Tensor, " r"], k: int) -> Float[Tensor, "r k"]:
    """Orthonormal directions of a rank-k multinomial: weight = directions @ coefficients, all fitted jointly.

    Starts from the best rank-k approximation of the full readout in logit variance, then L-BFGS on both factors with
    the full readout's ridge. Returns the directions; their coefficients are refitted by the convex core.
    """
    n_outcomes, t, _ = full.weight.shape
    weight = _contrasts(full)
    ridge = torch.where(torch.isfinite(full.ridge), full.ridge, torch.ones_like(full.ridge))
    if not bool(weight.any()):
        weight = residual_moment(rows)  # the floor alone did best: this is where an infinite ridge looks
    spread = variance.sqrt()
    u, s, v = torch.linalg.svd(spread[:, None] * weight, full_matrices=False)
    most = min(len(s), n_free(full.weight))
    k = min(k, most)
    # The factors live in the whitened frame, where the loss bends alike in every direction.
    left, right = u[:, :k] * s[:k].sqrt(), s[:k].sqrt()[:, None] * v[:k]
    bias = full.bias.reshape(n_outcomes * t)
    if k < most and n_outcomes > 1:  # a full rank is the full readout
        left = _refine(rows, [left, right, bias, full.scale], spread, ridge.repeat(n_outcomes))[0]
    return torch.linalg.qr(left / spread[:, None])[0]


def fit_rank_curve(
    rows: Rows, full: Readout, variance: Float[Tensor, " r"], ks: Sequence[int]
) -> dict[int, Float[Tensor, "r k"]]:
    """`fit_low_rank` for every k in one path: each starts from the factors of the k before it.

    What is added is the leading direction of what the full readout has beyond them, in logit variance. Keys are the k
    that exist, the largest possible one standing for all beyond it. Each is orthonormal; they need not be nested.
    """
    n_outcomes, t, r = full.weight.shape
    target = _contrasts(full)
    ridge = torch.where(torch.isfinite(full.ridge), full.ridge, torch.ones_like(full.ridge)).repeat(n_outcomes)
    if not bool(target.any()):
        target = residual_moment(rows)
    spread = variance.sqrt()
    target = spread[:, None] * target
    most = min(r, n_free(full.weight))
    left, right = target[:, :0], target[:0]
    factors = [left, right, full.bias.reshape(n_outcomes * t), full.scale]
    out: dict[int, Tensor] = {}
    for k in sorted({min(k, most) for k in ks}):
        # Beyond what is left of the full readout, any direction will do: the refinement turns it.
        u, s, v = torch.linalg.svd(target - factors[0] @ factors[1], full_matrices=False)
        new = k - factors[0].shape[1]
        factors[0] = torch.cat([factors[0], u[:, :new] * s[:new].sqrt()], 1)
        factors[1] = torch.cat([factors[1], s[:new].sqrt()[:, None] * v[:new]])
        if k == most:
            out[k] = torch.linalg.qr(torch.linalg.svd(target, full_matrices=False)[0][:, :k] / spread[:, None])[0]
            break
        factors = _refine(rows, factors, spread, ridge)
        out[k] = torch.linalg.qr(factors[0] / spread[:, None])[0]
    return out


def n_free(weight: Float[Tensor, "outcome t _"]) -> int:
    """Outputs of a readout that are free: of a law all but one."""
    n_outcomes, t, _ = weight.shape
    return max(n_outcomes - 1, 1) * t


def _contrasts(full: Readout) -> Float[Tensor, "r outcome_t"]:
    """A readout's weights: of a law only their differences between outcomes count."""
    weight = full.weight if is_value(full.weight) else full.weight - full.weight.mean(0)
    return rearrange(weight, "outcome t r -> r (outcome t)")


def _refine(rows: Rows, start: list[Tensor], spread: Tensor, ridge: Tensor) -> list[Tensor]:
    """Move left and right factor, the bias and the floor's coefficient downhill together."""
    factored = _Factored(rows, rows.z / spread, spread, ridge, [part.shape for part in start])
    point = torch.cat([part.flatten() for part in start])[None]
    return factored.parts(descend(factored, point, MAX_STEPS, lambda x: factored(x)[0], NO_GAIN)[0])


@dataclass(frozen=True)
class _Factored:
    """Losses of weight = left @ right on whitened rows, for `descend`: nats, summed over targets, and the ridge."""

    rows: Rows
    whitened: Float[Tensor, "n r"]
    spread: Float[Tensor, " r"]
    ridge: Float[Tensor, " outcome_t"]
    shapes: list[torch.Size]

    def parts(self, x: Float[Tensor, "1 p"]) -> list[Tensor]:
        """Left and right factor, bias, and the floor's coefficient."""
        parts = x[0].split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, x: Float[Tensor, "1 p"]) -> tuple[Float[Tensor, " 1"], Callable[[], Float[Tensor, "1 p"]]]:
        left, right, bias, scale = self.parts(x)
        law, beside, n = self.rows.law, self.rows.offset, len(self.whitened)
        seen = self.whitened @ left
        logits = torch.addmm(bias[:, None], right.T, seen.T).view_as(law)
        if beside is not None:
            logits = logits + scale[:, None] * beside
        mass, total = law.sum(0), torch.logsumexp(logits, 0)
        weight = (left @ right) / self.spread[:, None]
        value = ((total * mass).sum() - (law * logits).sum()) / n + 0.5 * (self.ridge * weight**2).sum()

        def slope() -> Tensor:
            residual = ((torch.exp(logits - total) * mass - law) / n).flatten(0, 1)
            pull = self.ridge * weight / self.spread[:, None]
            floor = torch.zeros_like(scale) if beside is None else (residual.view_as(law) * beside).sum((0, 2))
            parts = (
                self.whitened.T @ (residual.T @ right.T) + pull @ right.T,
                (residual @ seen).T + left.T @ pull,
                residual.sum(1),
                floor,
            )
            return torch.cat([part.flatten() for part in parts])[None]

        return value[None], slope


def pca(frame: Frame, k: int) -> Float[Tensor, "r k"]:
    """The k directions of largest variance: the first k frame coordinates."""
    return torch.eye(len(frame.variance), k, device=frame.mean.device)
