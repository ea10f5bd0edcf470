"""Ladder: a stack of descriptions, each stated over the one below, from what is read at a site up to behaviour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.measurement.hypotheses import EPSILONS, TINY
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.classes import entropy_bits
from probekit.metrics.ladder import Leap, Leaps, leaps
from probekit.metrics.splits import Split

Law = NDArray[np.floating]


@dataclass(frozen=True)
class Rung:
    """One description. name; law: its true value of every row, as a law [n, n_targets, n_classes], one-hot where sure;
    told: from the law of the rung below [m, ...] to the law of this one [m, n_targets, n_classes], zeros where it rules
    nothing; None for the lowest, which is told from a site by `read`.

    >>> import numpy as np
    >>> import probekit as pk
    >>> law = np.eye(2)[[0, 1, 1]][:, None]
    >>> pk.Rung("its opposite", law[..., ::-1], lambda below: below[..., ::-1]).told(law).shape
    (3, 1, 2)
    """

    name: str
    law: Law
    told: Callable[[Law], Law] | None = None


@dataclass(frozen=True)
class Ladder:
    """What climbing a stack leaves. names: rungs from the bottom, the first is the site where there is one; leaps: FBU
    by (from, to); eps: how much of the floor each chain was mixed with.

    >>> import numpy as np
    >>> import probekit as pk
    >>> from probekit.metrics.bootstrap import Clusters
    >>> from probekit.metrics.ladder import leaps
    >>> bits = {(0, 1): np.full(60, 0.5)}
    >>> told = leaps(bits, {1: (np.ones(60), np.zeros(60))}, Clusters.of(np.arange(60), 200, 0))
    >>> float(pk.Ladder(("site", "bit"), told).leaps.left[0, 1].value)
    0.5
    """

    names: tuple[str, ...]
    leaps: Leaps
    eps: Mapping[Leap, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chain:
    """Rung `to`, told through all rungs from `start`, and its floor."""

    told: Law
    floor: Law
    truth: Law
    eps: float = 1.0

    def bits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cross-entropy of (1 - eps) told + eps floor, summed over targets: [n]."""
        told, floor, truth = (np.asarray(part[rows], dtype=np.float64) for part in (self.told, self.floor, self.truth))
        told = np.where(told.sum(2, keepdims=True) > 0, told, floor)
        mixed = (1 - self.eps) * told + self.eps * floor
        return -(truth * np.log2(np.maximum(mixed, TINY))).sum((1, 2))

    def fitted(self, rows: NDArray[np.int64]) -> "_Chain":
        """With the eps that loses least on `rows`, at least one in as many and two: never 0."""
        least = 1 / (len(rows) + 2)
        tried = [replace(self, eps=float(eps)) for eps in (least, *EPSILONS[least < EPSILONS])]
        return min(tried, key=lambda chain: float(chain.bits(rows).mean()))


def ladder(
    rungs: Sequence[Rung],
    group: NDArray,
    split: Split,
    *,
    read: Law | None = None,
    floors: Mapping[str, Law] | None = None,
    test: NDArray[np.int64] | None = None,
    n_bootstrap: int = 2_000,
    seed: int = 0,
) -> Ladder:
    """FBU of each rung told from the true value of every lower one, and from what is read at a site (docs/method.md
    section 3).

    rungs: from the lowest up; group [n]; split: eps is fitted on its `select` rows and what is told on its `test` rows,
    or on `test`, such as rows of an unseen domain. read [n, n_targets, n_classes]: the lowest rung as read at a site,
    which is then rung 0. floors: name of a rung -> what an input-only reader says of it; the mean law of the `fit` rows
    where there is none. Raises BadInput for laws that do not fit each other.

    >>> import numpy as np
    >>> import probekit as pk
    >>> from probekit.metrics.splits import split_by_group
    >>> bit = np.random.default_rng(0).integers(0, 2, 400)
    >>> law = np.eye(2)[bit][:, None]
    >>> stack = [pk.Rung("bit", law), pk.Rung("its opposite", law[..., ::-1], lambda below: below[..., ::-1])]
    >>> found = pk.ladder(stack, np.arange(400), split_by_group(np.arange(400), 0), n_bootstrap=200)
    >>> found.leaps.left[0, 1].value < 0.05
    True
    """
    if len(rungs) < 2 or any(rung.told is None for rung in rungs[1:]):
        raise BadInput("a ladder needs two rungs at least, and `told` of every rung but the lowest: give it.")
    rows = split.test if test is None else test
    stack = list(rungs) if read is None else [Rung("site", np.asarray(read)), replace(rungs[0], told=_same), *rungs[1:]]
    bits: dict[Leap, NDArray] = {}
    eps: dict[Leap, float] = {}
    ends = {}
    for j, rung in enumerate(stack[1:], 1):
        truth = np.asarray(rung.law, dtype=np.float64)
        mean = np.broadcast_to(truth[split.fit].mean(0), truth.shape)
        floor = np.asarray((floors or {}).get(rung.name, mean), dtype=np.float64)
        if floor.shape != truth.shape or len(truth) != len(group):
            raise BadInput(
                f"rung '{rung.name}' has laws of shape {truth.shape} for {len(group)} rows and a floor of shape "
                f"{floor.shape}: one law per row and target is needed."
            )
        ends[j] = (
            _Chain(floor, floor, truth).bits(rows),
            entropy_bits(truth[rows].reshape(len(rows), -1)),
        )  # of all targets together
        for i in range(j):
            chain = _Chain(_climbed(stack, i, j), floor, truth).fitted(split.select)
            bits[i, j], eps[i, j] = chain.bits(rows), chain.eps
    found = leaps(bits, ends, Clusters.of(np.asarray(group)[rows], n_bootstrap, seed))
    return Ladder(tuple(rung.name for rung in stack), found, eps)


def _same(below: Law) -> Law:
    return below


def _climbed(stack: Sequence[Rung], i: int, j: int) -> Law:
    """Rung j told from the true value of rung i, through every rung between."""
    law = stack[i].law
    for below, rung in zip(stack[i:j], stack[i + 1 : j + 1], strict=True):
        law = np.asarray(rung.told(law) if rung.told else law)
        if law.shape != np.shape(rung.law):
            raise BadInput(
                f"rung '{rung.name}' is told as {law.shape} from '{below.name}', its value has the shape "
                f"{np.shape(rung.law)}: one law per row and target is needed."
            )
    return law
