"""The fit bench: the fit engine beside its peers, every one at the loosest setting that reaches the common loss."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from probekit.errors import FitError, ProbekitError
from probekit.fit.readout import cross_entropy
from probekit.proofs.bench import Row, few
from probekit.proofs.bench.few import FewSize, few_bench
from probekit.proofs.bench.levels import level_rows
from probekit.proofs.bench.peers import (
    EPOCHS,
    LENS,
    NAMESAKE,
    OURS,
    SCIKIT,
    Namesake,
    Peer,
    Solver,
    adam,
    ours,
    quietly,
    scikit_learn,
)
from probekit.proofs.bench.peers import transformer_lens as lens
from probekit.proofs.bench.problems import Problem, captured, drawn

REACHED = 5e-4  # bits from the converged held-out loss, so that any two are within .001 of each other
ITERATIONS = 20  # of the bound: two products of 2 n d outputs each
CASES = ("targets", "sites", "levels", "few")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How large the two problems are. sampled: targets or sites that a peer which loops over them is
    timed on, per repeat."""

    targets: tuple[int, int, int]  # n, held out, targets
    sites: tuple[int, int, int, int]  # n, held out, d, sites
    levels: tuple[int, tuple[int, ...], int]  # n, each d, sets of levels
    few: FewSize
    ridge: float | None  # None: 1 / n, which is scikit-learn's C = 1
    repeats: int
    sampled: int


FULL = Size((50_000, 10_000, 64), (10_000, 5_000, 768, 8), (50_000, (256, 768), 3), few.FULL, None, 3, 1)
QUICK = Size((1_500, 500, 4), (600, 400, 24, 2), (1_200, (8,), 1), few.QUICK, 0.1, 1, 2)


def fit_bench(size: Size, cache: Path, install: bool, say: Say, cases: Sequence[str] = CASES) -> Iterator[Row]:
    """Rows of the bench; what is left out, and why, is told to `say`. cache: where a peer may be installed."""
    if "few" in cases:
        yield from few_bench(size.few)
    if set(cases) <= {"few"}:
        return
    n, n_held_out, n_targets = size.targets
    targets = captured(n, n_held_out, n_targets, size.ridge or 1 / n)
    n, n_held_out, d, n_sites = size.sites
    sites = drawn(n, n_held_out, d, n_sites, size.ridge or 1 / n, targets.sites[0].fit)
    problems = {"targets": targets, "sites": sites}
    for problem in (problems[name] for name in cases if name in problems):
        for peer in _peers(cache, install, say):
            if peer.binary_only and problem.n_class > 2:
                say(f"{peer.name} is left out of '{problem.case}': it fits binary targets only")
                continue
            try:
                yield _compare(problem.inputs(peer.inputs), peer, size)
            except ProbekitError as error:
                say(f"{peer.name} is left out of '{problem.case}': {error}")
    if "levels" in cases:
        n, widths, n_sets = size.levels
        for d in widths:
            yield from level_rows(drawn(n, 1, d, 1, size.ridge or 1 / n, targets.sites[0].fit), n_sets)


def _peers(cache: Path, install: bool, say: Say) -> Iterator[Peer]:
    yield Peer("scikit-learn", "raw", scikit_learn, len(SCIKIT), loops=True)
    yield Peer("scikit-learn, StandardScaler", "scaled", scikit_learn, len(SCIKIT), loops=True)
    yield Peer("scikit-learn, our whitening", "whitened", scikit_learn, len(SCIKIT), loops=True)
    yield Peer("torch Adam", "scaled", adam, len(EPOCHS))
    yield Peer("transformer_lens", "raw", lens, len(LENS), loops=True, binary_only=True)
    try:
        yield Peer("probekit 0.4 (PyPI)", "scaled", Namesake(cache, install), len(NAMESAKE), binary_only=True)
    except ProbekitError as error:
        say(f"probekit 0.4 (PyPI) is left out: {error}")


def _compare(problem: Problem, peer: Peer, size: Size) -> Row:
    """Ours and a peer in turn, both at the loosest setting that reaches the converged held-out loss."""
    converged = _bits(problem, _strictest(problem))
    strict = _loosest(ours, problem, converged, len(OURS))
    parts = _parts(problem, peer, size)
    asked = _loosest(peer.solve, parts[0][0], _part(converged, parts[0]), peer.settings)
    times, gaps = [], []
    for repeat in range(size.repeats):
        part = parts[repeat % len(parts)]
        found, seconds = quietly(ours, problem, strict)
        theirs, peer_seconds = quietly(peer.solve, part[0], asked)
        share = problem.outputs * len(problem.sites) / (part[0].outputs * len(part[0].sites))
        times.append((seconds, peer_seconds * share))
        gaps.append(float((_bits(part[0], theirs) - _part(_bits(problem, found), part)).abs().mean()))
    n, d = problem.sites[0].fit.shape
    bound = len(problem.sites) * _bound(n, d, problem.outputs)
    seconds, peer_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in times)
    return Row(problem.case, peer.name, seconds, peer_seconds, ratio, max(gaps), seconds / bound)


def _strictest(problem: Problem) -> list[Tensor]:
    """Our logits at the strictest tolerance that float32 reaches."""
    for strictness in reversed(range(len(OURS))):
        try:
            return quietly(ours, problem, strictness)[0]
        except FitError:
            if not strictness:
                raise
    raise AssertionError("a tolerance is always tried")


Part = tuple[Problem, list[tuple[int, int]]]


def _parts(problem: Problem, peer: Peer, size: Size) -> list[Part]:
    """What a peer is timed on: everything, or for a loop an evenly spaced sample of targets or sites per repeat.

    Each comes with the (site, target) of its losses.
    """
    n_targets, n_sites = problem.sites[0].fit_labels.shape[1], len(problem.sites)
    many = max(n_targets, n_sites)
    if not peer.loops or many <= size.sampled:
        return [(problem, [(i, j) for i in range(n_sites) for j in range(n_targets)])]
    out = []
    for repeat in range(size.repeats):
        at = [int((repeat / size.repeats + i) * many / size.sampled) for i in range(size.sampled)]
        if n_sites > 1:
            out.append((replace(problem, sites=tuple(problem.sites[i] for i in at)), [(i, 0) for i in at]))
        else:
            out.append((replace(problem, sites=(problem.sites[0].targets(at),)), [(0, j) for j in at]))
    return out


def _part(bits: Tensor, part: Part) -> Tensor:
    """Losses [site, target] of a whole problem, as those of one of its parts."""
    return torch.stack([bits[i, j] for i, j in part[1]]).view(len(part[0].sites), -1)


def _bits(problem: Problem, logits: list[Tensor]) -> Tensor:
    """Held-out bits [site, target]."""
    out = []
    for site, found in zip(problem.sites, logits, strict=True):
        law = torch.nn.functional.one_hot(site.held_out_labels, problem.n_class).permute(2, 1, 0).float()
        out.append(cross_entropy(found, law).mean(-1))
    return torch.stack(out)


def _loosest(solve: Solver, problem: Problem, converged: Tensor, most: int) -> int:
    """The loosest setting at which every target's loss is that of converged fits; the strictest if none is."""
    for strictness in range(most):
        bits = _bits(problem, quietly(solve, problem, strictness)[0])
        if float((bits - converged).abs().max()) <= REACHED:
            return strictness
    return most - 1


def _bound(n: int, d: int, outputs: int) -> float:
    """Seconds of the matrix products of 20 iterations, forward and back, at the best of three rates."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(n, d, generator=generator), torch.randn(outputs, d, generator=generator)
    out, back = torch.empty(outputs, n), torch.empty(outputs, d)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        torch.mm(weight, x.T, out=out)
        torch.mm(out, x, out=back)
        best = min(best, time.perf_counter() - started)
    return ITERATIONS * best
