"""Abstractions: which subspaces are kept or erased at a site, where they come from, and what stands beside each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.directions import random_directions
from probekit.measurement.outcome import Kept, ReaderName
from probekit.model.interventions import Abstraction, orthonormal
from probekit.spec import ReplaceSpec

SUPERVISED = ("behaviour", "joint", "beam", "mean_difference", "lda", "logistic")
DEPENDENT = 1e-4  # directions of decoded features whose size is below this share of the largest say nothing new


@dataclass(frozen=True)
class Found:
    """Directions that the other cells of a run left behind, by hook point.

    kept: behaviour -> what its read cell kept. decoded: feature -> the directions [d, m] that it is decoded along.
    frames: principal directions [d, r]. given: name -> directions [d, k] that a user brought. learned: what was learned
    by exchanging it there, and what stated hypotheses speak of.
    """

    kept: Mapping[str, Mapping[str, Kept]]
    frames: Mapping[str, Float[Tensor, "d r"]]
    decoded: Mapping[str, Mapping[str, NDArray]] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Float[Tensor, "d k"]]] = field(default_factory=dict)
    learned: Sequence[Abstraction] = ()


def nothing(hooks: Sequence[str], widths: Mapping[str, int]) -> Abstraction:
    """k = 0: what is lost when all of the site comes from donors."""
    return Abstraction("directions", "random", 0, {hook: torch.zeros(widths[hook], 0) for hook in hooks},
                       "random_directions")  # fmt: skip


def abstractions_at(
    hooks: Sequence[str], behaviour: str, found: Found, spec: ReplaceSpec, seed: int
) -> Iterator[Abstraction]:
    """The subspaces of a spec at the given hooks, after `nothing`, and behind them random ones of every k among them.

    With several hooks an abstraction is kept only where every hook has it.
    """
    widths = {hook: len(found.frames[hook]) for hook in hooks}
    yield nothing(hooks, widths)
    ks = set()
    for abstraction in (*_supervised(hooks, behaviour, found, spec), *found.learned):
        ks.add(abstraction.k)
        yield abstraction
    least = min(widths.values())
    for k in spec.ks:
        if k < least:
            ks.add(k)
            yield Abstraction("directions", "pca", k, {h: orthonormal(found.frames[h][:, :k]) for h in hooks})
    for k in sorted(ks):
        if 0 < k < least:
            yield random_at(hooks, widths, k, seed)


def random_at(hooks: Sequence[str], widths: Mapping[str, int], k: int, seed: int) -> Abstraction:
    """Random directions at each hook point."""
    draw = {hook: random_directions(widths[hook], k, seed + i) for i, hook in enumerate(hooks)}
    return Abstraction("directions", "random", k, draw, "random_directions")


def _supervised(hooks: Sequence[str], behaviour: str, found: Found, spec: ReplaceSpec) -> Iterator[Abstraction]:
    """Of the behaviour itself, of labels, of features, and those that were given."""
    for name, kept in found.kept.items():
        first = kept[hooks[0]].directions
        for reader in first:
            if _asked(reader, first, spec) and all(reader in kept[hook].directions for hook in hooks):
                bases = {hook: orthonormal(torch.from_numpy(np.array(kept[hook].directions[reader]))) for hook in hooks}
                source = reader.source if name == behaviour else _of_label(name, reader)
                yield Abstraction(reader.level, source, reader.k or 0, bases, label=name)
    for name, decoded in found.decoded.items():
        bases = {hook: orthonormal(torch.from_numpy(decoded[hook]), DEPENDENT) for hook in hooks}
        rank = max(basis.shape[1] for basis in bases.values())
        if rank < min(len(basis) for basis in bases.values()):
            yield Abstraction("directions", f"label:{name}", rank, bases, label=name)
    for name, given in found.given.items():
        if all(hook in given for hook in hooks):
            bases = {hook: orthonormal(given[hook]) for hook in hooks}
            rank = max(basis.shape[1] for basis in bases.values())
            if rank < min(len(basis) for basis in bases.values()):  # all of the space is no abstraction
                yield Abstraction("directions", f"given:{name}", rank, bases)


def _asked(reader: ReaderName, known: Mapping[ReaderName, NDArray], spec: ReplaceSpec) -> bool:
    level, source, k = reader
    if level not in spec.levels or k is None or source not in SUPERVISED:
        return False
    if level == "direction":
        return True
    # The largest rank that exists stands for every larger k that is asked.
    top = max(other.k or 0 for other in known if other[:2] == reader[:2])
    return k in spec.ks or (k == top < max(spec.ks))


def _of_label(name: str, reader: ReaderName) -> str:
    return f"label:{name}" if reader.source == "behaviour" else f"label:{name}:{reader.source}"
