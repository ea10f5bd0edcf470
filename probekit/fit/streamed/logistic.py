"""Multinomial regression over rows that do not lie in memory: a source read in blocks, upcast block by block.

Peak memory is bounded by `memory` beside the laws, which the caller holds; it does not grow with the number of rows. A
first fit on evenly spaced rows gives the start and the Hessian that the fit of all rows is preconditioned with, so that
a handful of passes over the source reach the certificate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.frame import fit_frame
from probekit.fit.path import LAMBDAS, walk
from probekit.fit.readout import TOLERANCE, Readout, cross_entropy
from probekit.fit.solvers.blocks import Resident, class_basis
from probekit.fit.solvers.lbfgs import STALLED, Precondition, minimise
from probekit.fit.streamed.source import NOT_FINITE, RUN, Source

MEMORY = 2**30  # bytes
BLOCK_BYTES = 2**22  # of one upcast block: what a core's share of the cache holds
SAMPLE_PER_WIDTH = (3, 32)  # least and most rows per coordinate of the sample, whose Hessian is the preconditioner
SAMPLE_SHARE = 16  # one row in so many is sampled, between the two
UNIT_ROWS = 32_768  # at least, where there are so many: the unit of a ridge should not hang on a draw


@dataclass(frozen=True)
class RawReadout:
    """A readout of x - mean, for raw activations; see `Readout` for its parts."""

    mean: Float[Tensor, " d"]
    readout: Readout

    def logits(
        self, x: Float[Tensor, "n d"], offset: Float[Tensor, "outcome t n"] | None = None
    ) -> Float[Tensor, "outcome t n"]:
        """Logits of rows, outcomes first."""
        return self.readout.logits(x.float() - self.mean, offset)


@dataclass(frozen=True)
class _Streamed:
    """Blocks of a source, upcast and centred; weights may live in rotated coordinates."""

    source: Source
    mean: Tensor
    rotation: Tensor | None
    step: int

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def r(self) -> int:
        return self.source.d if self.rotation is None else self.rotation.shape[1]

    @property
    def sizes(self) -> list[int]:
        return [min(self.step, self.n - start) for start in range(0, self.n, self.step)]

    def blocks(self) -> Iterator[Tensor]:
        space = torch.empty(min(self.step, self.n), self.source.d, device=self.mean.device)
        for start in range(0, self.n, self.step):
            rows = self.source.read(start, min(self.n, start + self.step))
            # One copy, written over by the next block.
            yield space[: len(rows)].copy_(rows).sub_(self.mean)

    def inward(self, weight: Tensor) -> Tensor:
        return weight if self.rotation is None else weight @ self.rotation.T

    def outward(self, gradient: Tensor) -> Tensor:
        return gradient if self.rotation is None else gradient @ self.rotation.to(gradient.dtype)


@torch.no_grad()
def fit_streamed(
    source: Source,
    law: Float[Tensor, "outcome t n"],
    offset: Float[Tensor, "outcome t n"] | None = None,
    ridge: float = 1e-3,
    unit: float | None = None,
    memory: int = MEMORY,
    tolerance: float = TOLERANCE,
    start: RawReadout | None = None,
) -> RawReadout:
    """The readout of `fit_readout` for rows read in blocks; ridge is the penalty were activations divided by `unit`.

    unit: the root of the median variance over directions when left out, as in `fit_frame`. memory: bytes for everything
    but law and offset, on whose device everything is computed; what one target needs per row (12 bytes per class but
    one) must fit in half of it. Raises FitError when a certificate is not reached, and BadInput for a memory too small.
    """
    problem = _Streaming.of(source, law, offset, unit, memory, tolerance)
    targets = torch.arange(law.shape[1], device=law.device)
    return RawReadout(problem.mean, problem.solve(ridge, targets, None if start is None else start.readout))


@torch.no_grad()
def fit_streamed_path(
    fit: Source,
    law: Float[Tensor, "outcome t n"],
    select: Source,
    select_law: Float[Tensor, "outcome t m"],
    offset: Float[Tensor, "outcome t n"] | None = None,
    select_offset: Float[Tensor, "outcome t m"] | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    memory: int = MEMORY,
    tolerance: float = TOLERANCE,
) -> RawReadout:
    """The readout of the ridge, per target, that does best on the selection rows: `fit_path` for rows read in blocks.

    From the floor itself (infinite ridge) down to the smallest ridge that has a minimum within reach, each started from
    the one before, until the loss of every target has risen. Both offsets are given or neither. Raises what
    `fit_streamed` raises.
    """
    if (offset is None) != (select_offset is None):
        raise BadInput("a floor's logits were given for one of fit and selection rows: give both or neither.")
    if select.n != select_law.shape[2] or select.d != fit.d:
        raise BadInput(
            f"selection rows are {select.n} x {select.d}, but their law has {select_law.shape[2]} rows and rows to fit "
            f"are {fit.d} wide."
        )
    problem = _Streaming.of(fit, law, offset, None, memory, tolerance)
    n_outcomes, t, _ = law.shape
    held_out = _HeldOut(problem, select, select_law, select_offset)
    return RawReadout(problem.mean, walk(held_out, Readout.nothing(n_outcomes, t, fit.d, problem.mean), lambdas))


def _coordinates(rows: Tensor, turned: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Mean, and the rotation and variance of a frame without its unit where one is wanted.

    Else every variance is told as 1: a single binary target is preconditioned by its Hessian alone.
    """
    if not turned:
        return (torch.ones_like(rows[:, 0]) @ rows) / len(rows), None, torch.ones_like(rows[0])
    frame = fit_frame(rows)
    scale = frame.length
    return frame.mean, frame.rotation / scale, (frame.variance / scale**2).clamp_min(1e-12)


@dataclass(frozen=True)
class _Streaming:
    """All targets of a source: all rows, streamed or in memory, and the sample with its numbers `seen`.

    A readout of it sees x - mean. unit: by which a ridge takes activations to be divided; at_once: targets that fit
    into memory together.
    """

    streamed: _Streamed
    whole: Tensor | None
    sample: Tensor
    seen: Tensor
    variance: Tensor
    unit: float
    law: Tensor
    offset: Tensor | None
    at_once: int
    tolerance: float

    @classmethod
    def of(
        cls, source: Source, law: Tensor, offset: Tensor | None, unit: float | None, memory: int, tolerance: float
    ) -> "_Streaming":
        """Read the sample, and all rows where they fit into its room. Raises BadInput and FitError."""
        n_outcomes, t, n = law.shape
        if n != source.n:
            raise BadInput(f"the law has {n} rows, the source {source.n}.")
        per_target = 12 * (n_outcomes - 1) * n
        at_once = memory // 2 // max(per_target, 1)
        if n_outcomes < 2 or at_once < 1:
            raise BadInput(
                f"{n:,} rows with {n_outcomes} outcomes need {2 * per_target / 2**20:,.0f} MiB for one target; "
                f"memory is {memory / 2**20:,.0f} MiB, and a law needs two outcomes."
            )
        least, widest = (rows * source.d for rows in SAMPLE_PER_WIDTH)
        room = memory // 4 // (4 * source.d)
        most = max(RUN, min(room, max(least, min(widest, n // SAMPLE_SHARE))))
        rows = source.sample(most).to(law.device)
        if not bool(torch.isfinite(rows.sum())) and not bool(torch.isfinite(rows).all()):
            raise FitError(NOT_FINITE)
        mean, rotation, variance = _coordinates(rows, (n_outcomes - 1) * t > 1)
        rows -= mean
        blocks = max(64, min(65_536, BLOCK_BYTES // (4 * source.d)))
        # Where all rows fit into the room of a sample they are upcast once.
        whole = rows if len(rows) == n else None
        if whole is None and n <= room:
            whole = torch.sub(source.read(0, n).to(law.device), mean).to(mean.dtype)
        seen = torch.cat([torch.arange(*run) for run in source.runs(most)]).to(law.device)
        unit = _unit(source, mean) if unit is None else unit
        streamed = _Streamed(source, mean, rotation, blocks)
        return cls(streamed, whole, rows, seen, variance, unit, law, offset, at_once, tolerance)

    @property
    def mean(self) -> Tensor:
        return self.streamed.mean

    def solve(self, ridge: float, targets: Tensor, start: Readout | None) -> Readout:
        """Readouts of some targets; start: theirs. Raises FitError."""
        rotation = self.streamed.rotation
        ridges = torch.full((len(targets),), ridge, dtype=self.sample.dtype, device=self.sample.device)
        known = None if start is None else _inner(start, rotation)
        parts = []
        for at in torch.arange(len(targets), device=targets.device).split(self.at_once):
            begin = None if known is None else known[:, at]
            parts.append(self._solve(targets[at], ridges[at] * self.unit**2, begin))
        w = torch.cat(parts, 1)
        weight = w[..., :-2] if rotation is None else w[..., :-2] @ rotation.T
        return Readout(weight.contiguous(), w[..., -2].clone(), w[0, :, -1].clone(), ridges)

    def _solve(self, targets: Tensor, ridges: Tensor, start: Tensor | None) -> Tensor:
        """Parameters of as many targets as fit into memory, from the sample's to those of all rows."""
        law, offset = self.law[:, targets], None if self.offset is None else self.offset[:, targets]
        n_outcomes, t, n = law.shape
        outputs = (n_outcomes - 1) * t
        metric = None
        if self.streamed.rotation is None:
            metric = _Metric(self.sample, n_outcomes, float(ridges[0]), self.whole is not None)
        common = self.variance, ridges
        if start is None and n >= 4 * len(self.sample) >= 32 * self.sample.shape[1]:
            turned = self.sample if self.streamed.rotation is None else self.sample @ self.streamed.rotation
            beside = None if offset is None else offset[..., self.seen]
            rows = Resident.of(turned, outputs)
            start, _ = minimise(rows, law[..., self.seen], beside, *common, None, 10 * self.tolerance, metric)
        if self.whole is None:
            found = minimise(self.streamed, law, offset, *common, start, self.tolerance, metric, one_pass=True)
        else:
            turned = self.whole if self.streamed.rotation is None else self.whole @ self.streamed.rotation
            found = minimise(Resident.of(turned, outputs), law, offset, *common, start, self.tolerance, metric)
        w, certificate = found
        if not bool((certificate <= STALLED * self.tolerance).all()):
            raise FitError(
                f"a linear readout of {n} rows x {self.sample.shape[1]} coordinates did not converge: its decrement is "
                f"{float(certificate.max()):.1e} nats, asked {self.tolerance:.0e}. Use a larger ridge."
            )
        return w


@dataclass(frozen=True)
class _HeldOut:
    """Rows to fit and rows held out, both read in blocks, as a problem for `walk`: one ridge at a time."""

    problem: _Streaming
    source: Source
    law: Tensor
    offset: Tensor | None

    @property
    def t(self) -> int:
        return self.law.shape[1]

    def at_once(self, m: int) -> int:
        return 1

    def fit(self, ridges: Sequence[float], targets: Tensor, start: Readout | None) -> tuple[Readout, Tensor]:
        try:
            found, reached = self.problem.solve(ridges[0], targets, start), True
        except FitError:
            if start is None:
                raise
            found, reached = start, False
        return found, torch.full((1, len(targets)), reached, device=targets.device)

    def bits(self, found: Readout, targets: Tensor) -> Float[Tensor, "1 m"]:
        readout = RawReadout(self.problem.mean, found)
        step = max(64, BLOCK_BYTES // (4 * self.source.d))
        total = torch.zeros(1, len(targets), dtype=torch.float64, device=targets.device)
        for first in range(0, self.source.n, step):
            at = slice(first, min(self.source.n, first + step))
            beside = None if self.offset is None else self.offset[:, targets, at]
            logits = readout.logits(self.source.read(at.start, at.stop).to(targets.device), beside)
            total += cross_entropy(logits, self.law[:, targets, at]).sum(-1)
        return total / self.source.n


@dataclass
class _Metric:
    """The inverse Hessian of one binary target, taken on rows that lie in memory.

    even: every row with the mean curvature, so that one moment serves throughout. That costs steps, each of them a pass
    over the rows, which are cheap where all rows lie in memory.
    """

    rows: Tensor
    n_outcomes: int
    ridge: float
    even: bool
    moment: Tensor | None = None
    known: tuple[float, Precondition] | None = None

    def __call__(self, w: Tensor) -> Precondition:
        mix = float(class_basis(self.n_outcomes, w)[1][0, 0])
        v = mix * w[0, 0]
        # The floor moves the law of each row, but hardly the mean of its curvature.
        p = torch.sigmoid(self.rows @ v[:-2] + v[-2])
        weight = (mix**2 * p * (1 - p)).clamp_min(1e-6) / len(self.rows)
        if not self.even:
            return _inverse(self._weighted(weight), self.ridge)
        mean = float(weight.sum())
        # A ridge that is off by the same factor matters in directions alone that hardly count.
        if self.known is None or not 0.25 < mean / self.known[0] < 4:
            if self.moment is None:
                self.moment = self._weighted(torch.full_like(weight, 1 / len(weight)))
            self.known = mean, _inverse(mean * self.moment, self.ridge)
        taken, inverse = self.known
        return lambda gradient: inverse(gradient) * (taken / mean)

    def _weighted(self, weight: Tensor) -> Float[Tensor, "d1 d1"]:
        """Second moment of the rows and a one, each row with its weight."""
        d = self.rows.shape[1]
        moment = torch.zeros(d + 1, d + 1, dtype=weight.dtype, device=weight.device)
        step = max(64, -(-d // 8))
        for part, weights in zip(self.rows.split(8_192), weight.split(8_192), strict=True):
            weighed = part * weights[:, None]
            for start in range(0, d, step):
                moment[start : min(d, start + step), start:d].addmm_(
                    weighed[:, start : start + step].T, part[:, start:]
                )
            moment[:d, d] += weighed.sum(0)
        moment[d, d] = weight.sum()
        return moment.triu() + moment.triu(1).T


def _inverse(hessian: Float[Tensor, "d1 d1"], ridge: float) -> Precondition:
    """Solves with a Hessian of weights and bias, the ridge on the weights added; its diagonal where it is singular."""
    diagonal = hessian.diagonal()
    diagonal[:-1] += ridge
    # Scaled to a unit diagonal, so that a coordinate a thousand times the rest costs no digits.
    scale = diagonal.clamp_min(1e-20).rsqrt()
    hessian = hessian * scale * scale[:, None]
    hessian.diagonal().add_(1e-6)
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed != 0):
        return lambda gradient: gradient * scale**2

    def apply(gradient: Tensor) -> Tensor:
        turned = torch.cholesky_solve((gradient.view(-1) * scale)[:, None], factor)
        return (turned[:, 0] * scale).view_as(gradient)

    return apply


def _unit(source: Source, mean: Tensor) -> float:
    """Root of the median variance over directions, on rows enough that it is right to a few percent."""
    runs = source.runs(max(UNIT_ROWS, SAMPLE_PER_WIDTH[1] * source.d))
    step = max(64, BLOCK_BYTES // (4 * source.d))
    moment = torch.zeros(source.d, source.d, dtype=torch.float64, device=mean.device)
    total = torch.zeros(source.d, dtype=torch.float64, device=mean.device)
    for first, last in runs:
        for start in range(first, last, step):
            rows = source.read(start, min(last, start + step)).to(mean) - mean
            moment += (rows.T @ rows).double()
            total += rows.sum(0)
    n = sum(last - first for first, last in runs)
    if not bool(torch.isfinite(moment).all()):
        raise FitError(NOT_FINITE)
    values = torch.linalg.eigvalsh(moment / n - torch.outer(total, total) / n**2)
    return math.sqrt(max(float(values[values > float(values[-1]) * 1e-12].median()), 1e-30))


def _inner(start: Readout, rotation: Tensor | None) -> Float[Tensor, "outcome t r2"]:
    """A known readout as parameters of the problem."""
    weight = start.weight if rotation is None else start.weight @ rotation
    out = torch.zeros(*weight.shape[:2], weight.shape[2] + 2, dtype=weight.dtype, device=weight.device)
    out[..., :-2], out[..., -2], out[0, :, -1] = weight, start.bias, start.scale
    return out
