"""Which ridge: a path from the floor down, chosen on rows held out, or over inner folds.

For few outputs reading the rows costs more than the arithmetic, so that these are solved together: inner folds are
targets of one problem, in which rows held out weigh nothing, and so are the ridges of a stretch of the path.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.gaussian import Normal, choose, is_value
from probekit.fit.readout import (
    TOLERANCE,
    OpenRidge,
    Readout,
    Rows,
    fit_readout,
    fit_value,
    normal_of,
    take,
    tolerated,
)
from probekit.fit.solvers.lbfgs import STALLED

LAMBDAS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LARGER = (100.0, 10.0)  # of the largest ridge: what few rows per coordinate may want
PATIENCE = 2  # ridges that a target takes whatever they bring; from then on a rise of its loss ends its path
STRETCH = 4  # ridges that Newton's method solves together at most
BEGIN = 3  # those that a path begins with, which nearly every one takes; then one by one, since tiny ridges can be slow
OUTPUTS = 64  # logits per row up to which reading rows costs more than what is done with them
AT_ONCE = 2**23  # logits of all rows that are held at once
Pair = tuple[Int[Tensor, " _"], Int[Tensor, " _"]]  # pairs differ in their sizes


def beyond(lambdas: Sequence[float]) -> tuple[float, ...]:
    """Ridges for few rows per coordinate, which can be told apart, or nearly so, whatever they say."""
    return (*(factor * max(lambdas) for factor in LARGER), *lambdas)


def walk(problem: "_Problem", floor: Readout, lambdas: Sequence[float]) -> Readout:
    """Of every target the readouts, in all their copies, of the ridge that loses least on rows held out.

    floor: what adds nothing to the floor, where the path starts (infinite ridge), which a reader must be able to fall
    back on. From the largest ridge down, each target until its loss rises or a stretch ends at a ridge that has no
    minimum within reach, as the smallest of nearly separable rows. Raises FitError where the largest has none.
    """
    t, copies = problem.t, floor.weight.shape[1] // problem.t
    best, alive = floor, torch.arange(t, device=floor.weight.device)
    lowest = problem.bits(floor, alive)[0].clone()
    last = lowest.clone()
    waiting, tried = sorted(lambdas, reverse=True), 0
    start: Readout | None = None
    while waiting and len(alive):
        size, m = problem.at_once(len(alive), tried), len(alive)
        ridges, waiting = waiting[:size], waiting[size:]
        found, reached = problem.fit(ridges, alive, start)
        if start is None and not bool(reached[0].all()):
            raise FitError(f"a linear readout has no minimum within reach at ridge {ridges[0]:g}. Use a larger one.")
        bits = problem.bits(found, alive)
        going = torch.ones_like(alive, dtype=torch.bool)
        for i in range(len(ridges)):
            gained = going & reached[i] & (bits[i] < lowest[alive])
            best = best.put(_places(alive[gained], copies, t), found.take(_places(gained, copies, m, i)))
            lowest[alive] = torch.where(gained, bits[i], lowest[alive])
            going &= ~reached[i] | (bits[i] < last[alive]) | (tried < PATIENCE)
            last[alive] = torch.where(reached[i], bits[i], last[alive])
            tried += 1
        going &= reached[-1]
        start = found.take(_places(going, copies, m, len(ridges) - 1))
        alive = alive[going]
    return best


def _places(targets: Tensor, copies: int, m: int, ridge: int = 0) -> Int[Tensor, " _"]:
    """Where the copies of some of m targets stand in a set of readouts; targets: numbers, or a mask."""
    if targets.dtype == torch.bool:
        targets = torch.nonzero(targets).flatten()
    copy = torch.arange(copies, device=targets.device) + ridge * copies
    return (copy[:, None] * m + targets).flatten()


@torch.no_grad()
def fit_path(
    fit: Rows,
    select: Rows,
    variance: Float[Tensor, " r"] | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    tolerance: float = TOLERANCE,
) -> Readout:
    """The readout of the ridge, per target, that does best on the selection rows, from the floor itself on."""
    if is_value(fit.law):
        normal = normal_of(fit)
        return fit_value(normal, _ridge_of_value([normal], [select], lambdas))
    n_outcomes, t, _ = fit.law.shape
    floor = Readout.nothing(n_outcomes, t, fit.z.shape[1], fit.z)
    setup = OpenRidge.of(fit, variance)
    return walk(_Problem(setup, None, (select,), tolerated(tolerance, n_outcomes)), floor, lambdas)


@torch.no_grad()
def fit_nested(
    whole: Rows,
    n_fit: int,
    inner: Sequence[Pair] = (),
    variance: Float[Tensor, " r"] | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    tolerance: float = TOLERANCE,
) -> Readout:
    """Without `inner`, `fit_path` of the first n_fit rows, chosen on the others.

    With it the ridge that does best on average over pairs of positions, to fit and to be held out, then fitted on all
    rows. Infinite ridge is the floor itself.
    """
    n_outcomes, t, _ = whole.law.shape
    if not inner:
        fit, select = take(whole, slice(n_fit)), take(whole, slice(n_fit, None))
        return fit_path(fit, select, variance, lambdas, tolerance)
    if is_value(whole.law):
        fits, held_out = ([take(whole, pair[side]) for pair in inner] for side in (0, 1))
        return fit_value(normal_of(whole), _ridge_of_value(list(map(normal_of, fits)), held_out, lambdas))
    r = whole.z.shape[1]
    setup, chosen = _over_folds(whole, inner, variance, lambdas, tolerance)
    ridge = chosen.ridge[:t]
    known = torch.isfinite(ridge)
    floor = Readout.nothing(n_outcomes, t, r, whole.z)
    if not bool(known.any()):
        return floor
    targets = torch.nonzero(known).flatten()
    # The folds' own readouts lie around the one of all rows.
    shape = len(inner), t
    weight, bias = (part.unflatten(1, shape).mean(1) for part in (chosen.weight, chosen.bias))
    start = Readout(weight, bias, chosen.scale.view(shape).mean(0), ridge)
    offset = None if whole.offset is None else whole.offset[:, targets]
    asked = whole.z, whole.law[:, targets], offset, setup.variance, ridge[targets]
    try:
        found = fit_readout(*asked, start.take(targets), tolerance)
    except FitError:
        # Of rows that nearly any readout tells apart, so sure a start hardly bends: the way from nothing is shorter.
        found = fit_readout(*asked, None, tolerance)
    return floor.put(targets, found)


@torch.no_grad()
def fit_apart(
    whole: Rows,
    pairs: Sequence[Pair],
    variance: Float[Tensor, " r"] | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    tolerance: float = TOLERANCE,
) -> list[Readout]:
    """For each pair of positions, to fit and to be held out, a readout of the first; all have one ridge.

    It is the one that does best on average over what is held out, so that every row has a say in it.
    """
    t = whole.law.shape[1]
    if is_value(whole.law):
        fits, held_out = ([take(whole, pair[side]) for pair in pairs] for side in (0, 1))
        normals = [normal_of(rows) for rows in fits]
        ridge = _ridge_of_value(normals, held_out, lambdas)
        return [fit_value(normal, ridge) for normal in normals]
    _, chosen = _over_folds(whole, pairs, variance, lambdas, tolerance)
    return [chosen.take(torch.arange(i * t, (i + 1) * t, device=whole.z.device)) for i in range(len(pairs))]


def _over_folds(
    whole: Rows, pairs: Sequence[Pair], variance: Tensor | None, lambdas: Sequence[float], tolerance: float
) -> "tuple[OpenRidge, Readout]":
    """The problem of all rows, and the readouts of the ridge that does best on average, one copy per pair."""
    n_outcomes, t, _ = whole.law.shape
    setup = OpenRidge.of(whole, variance)
    folds = torch.zeros(len(pairs), len(whole.z), dtype=whole.law.dtype, device=whole.law.device)
    for weight, (inside, _) in zip(folds, pairs, strict=True):
        # The mean over rows inside is a mean over all rows in which the others weigh nothing.
        weight[inside] = len(whole.z) / len(inside)
    held_out = tuple(take(whole, outside) for _, outside in pairs)
    problem = _Problem(setup, folds, held_out, tolerated(tolerance, n_outcomes))
    nothing = Readout.nothing(n_outcomes, len(pairs) * t, whole.z.shape[1], whole.z)
    return setup, walk(problem, nothing, lambdas)


def _ridge_of_value(normals: Sequence[Normal], held_out: Sequence[Rows], lambdas: Sequence[float]) -> Tensor:
    """[t]: of numbers the ridge that does best over pairs of rows to fit and held out."""
    return choose(normals, [(rows.z, rows.law[0], rows.beside[0]) for rows in held_out], lambdas)


@dataclass(frozen=True)
class _Problem:
    """Readouts at given ridges, and what they lose on rows held out.

    Each of t targets may be fitted in several copies, one per fold. A set of readouts lists ridges, in each of them
    copies, and in each of these the targets asked for. folds [copy, n]: what each row weighs in each copy, None for one
    copy of even weights; held_out: of each copy.
    """

    setup: OpenRidge
    folds: Tensor | None
    held_out: tuple[Rows, ...]
    tolerance: float

    @property
    def t(self) -> int:
        """Targets."""
        return self.setup.rows.law.shape[1]

    def at_once(self, m: int, tried: int) -> int:
        """Ridges that are best solved together, for m targets, after so many were."""
        outputs = self._outputs(m) * (len(self.held_out) if self._together(m) else 1)
        room = AT_ONCE // (outputs * len(self.setup.rows.z))
        if self.setup.products is not None:
            return max(1, min(STRETCH, room))
        return 1 if tried else max(1, min(BEGIN, room, OUTPUTS // outputs))

    def _outputs(self, m: int) -> int:
        return (len(self.setup.rows.law) - 1) * m

    def _together(self, m: int) -> bool:
        """Whether all folds are one problem; else each is solved on rows cut out for it."""
        outputs = self._outputs(m) * len(self.held_out)
        fits = outputs * len(self.setup.rows.z) <= AT_ONCE
        return fits and (outputs <= OUTPUTS or self.setup.products is not None)

    def fit(
        self, ridges: Sequence[float], targets: Int[Tensor, " m"], start: Readout | None
    ) -> tuple[Readout, Bool[Tensor, "l m"]]:
        """Readouts, and which have a minimum within reach; start: those of one ridge."""
        m, copies, setup = len(targets), len(self.held_out), self.setup.take(targets)
        asked = torch.tensor(ridges, dtype=setup.variance.dtype, device=targets.device)[:, None].expand(-1, m)
        if self.folds is None:
            found, certificate = setup.solve(asked, start, self.tolerance)
        elif self._together(m):
            found, certificate = setup.weighed(self.folds).solve(asked.repeat(1, copies), start, self.tolerance)
        else:
            parts = []
            for i, weight in enumerate(self.folds):
                here = setup.cut(torch.nonzero(weight).flatten())
                begin = None if start is None else start.take(torch.arange(i * m, (i + 1) * m, device=targets.device))
                parts.append(here.solve(asked, begin, self.tolerance))
            found = Readout.interleave([one for one, _ in parts], len(ridges))
            certificate = torch.cat([one for _, one in parts], 1)
        return found, (certificate <= STALLED * self.tolerance).view(len(ridges), copies, m).all(1)

    def bits(self, found: Readout, targets: Int[Tensor, " m"]) -> Float[Tensor, "l m"]:
        """Mean loss on rows held out."""
        m, copies = len(targets), len(self.held_out)
        times = found.weight.shape[1] // (copies * m)
        places = torch.arange(times * copies * m, device=targets.device).view(times, copies, m)
        total = torch.zeros(times, m, dtype=found.weight.dtype, device=targets.device)
        for rows, at in zip(self.held_out, places.unbind(1), strict=True):
            some = targets.repeat(times)
            beside = None if rows.offset is None else rows.offset[:, some]
            total += Rows(rows.z, rows.law[:, some], beside).bits(found.take(at.flatten())).mean(-1).view(times, m)
        return total / copies
