"""The study of hierarchical equality: what interchange says of small networks, and what it says of random ones.

Sutter, Minder, Hofmann and Pimentel (2025), arXiv 2507.08802, learn rotations of each layer of an MLP so that half of
it carries a variable of an algorithm. `measure_equality` trains such networks, learns the subspaces, and sets beside
the accuracy what replace says: the share of the network's own behaviour that is lost when each part of the abstraction
comes from another input that agrees on it. Their second map, which may bend a layer, is measured in `bending`.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from probekit.fit.das import fit_das, interchanged_laws
from probekit.fit.directions import random_directions
from probekit.jobs.engines import Progress
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.interchange import VACUOUS
from probekit.metrics.causal.replace import fbu_replace, kl_bits
from probekit.metrics.ratios import Estimate, Ratio, estimates, fbu
from probekit.proofs.blocks import block_study
from probekit.proofs.studies.bending import RANDOM_MAP, RANDOM_NET, TRAINED, BendingSize, Bent, bend
from probekit.proofs.studies.kept import Stored, figures, interval, listed
from probekit.records import digest
from probekit.results.text import number
from probekit.testbeds.equality import LAYERS, WIDTH, EqualityNets, Variable, draw_donors, draw_swaps, train, untrained

RANK = WIDTH // 2
DONORS = 16
# Mean accuracy of ten networks, of rotations with half of the layer for a variable (their Standard_DAS, |8|).
PUBLISHED: dict[Variable, tuple[float, ...]] = {
    "both": (0.842, 0.614, 0.498),
    "left": (0.821, 0.613, 0.499),
    "first": (0.500, 0.499, 0.499),
}
NAMES = {"both": "both equalities", "left": "left equality", "first": "identity of the first vector"}
WHERE = (TRAINED, RANDOM_MAP, RANDOM_NET)
# The same of invertible maps of ten blocks (their RevNet), for both equalities and for the left one; and of five
# random networks, for the left one (their kept results, `TrainingProgression/L10HS16-24`, before the first step).
PUBLISHED_BENT = {TRAINED: (0.998, 0.999, 0.999), RANDOM_NET: (0.567, 0.506, 0.495)}
ROTATION, REVNET = "rotation", "revnet"
FINE = 7  # digits of bits, since a random network has few
DIGITS = 3  # that are shown, as many as were published
TITLES = {
    "accuracy": "Hierarchical equality: interchange accuracy of learned subspaces, of all pairs",
    "leak": "Hierarchical equality: share of the behaviour lost when each part comes from an input that agrees on it",
    "bent": "Hierarchical equality, left: interchange accuracy of maps that may bend a layer",
    "bending": "Hierarchical equality, left: share lost with them, and rows that they move far out",
}


@dataclass(frozen=True)
class EqualitySize:
    """How much is measured. pairs: those that a subspace is fitted on; a quarter of that select it, as many test it.

    steps, starts: of a search; scrubbed: inputs whose law is measured with DONORS donors each. bending: of the maps
    that are no rotations.
    """

    networks: int = 10
    train_steps: int = 20 * 1024
    pairs: int = 20_000
    steps: int = 400
    starts: int = 3
    scrubbed: int = 1000
    bending: BendingSize = field(default_factory=BendingSize)


@dataclass(frozen=True)
class EqualityFindings(Stored):
    """What the page speaks of. right: accuracy of each trained network.

    rows: one per map, variable, layer, measure and one of WHERE, with a value and its interval. measure: `iia`, `fbu`;
    of a map that bends also `bits` that are lost, `available` bits, and `far` (`Bent`).
    """

    networks: int
    right: tuple[float, ...]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Measured:
    """One subspace in one network: whether each held-out pair is right, and what its rows lose under replacement."""

    right: NDArray[np.float64]
    lost: Ratio


@dataclass(frozen=True)
class MapCell:
    """What is measured at one go: one kind of map, for a variable at a layer, in every network."""

    kind: str
    variable: Variable
    layer: int
    size: EqualitySize
    seed: int

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["equality", asdict(self)])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.kind} {self.variable} L{self.layer}"


def measure_equality(
    root: Path, size: EqualitySize | None = None, seed: int = 0, progress: Progress | None = None
) -> EqualityFindings:
    """Train networks, learn a map for each variable at each layer of each, and of as many random networks.

    The network is the unit: intervals are over networks, each of which has all its pairs. What is done lies in a folder
    below `root`: Interrupted on Ctrl-C, and the same call goes on.
    """
    size = size or EqualitySize()
    layers = range(1, LAYERS + 1)
    cells = [MapCell(ROTATION, variable, layer, size, seed) for variable in get_args(Variable) for layer in layers]
    cells += [MapCell(REVNET, "left", layer, size, seed) for layer in layers]
    spec = {"equality": 2, "size": asdict(size), "seed": seed}
    _, frame = block_study("equality", spec, cells, _measure_cell, root=root, progress=progress)
    _, right = _networks(size.networks, size.train_steps, seed)
    return EqualityFindings(size.networks, tuple(round(float(a), 4) for a in right), listed(frame))


@cache
def _networks(n: int, steps: int, seed: int) -> tuple[EqualityNets, Tensor]:
    """Trained networks and their accuracy; made once in a process."""
    return train(untrained(n, seed), seed, steps)


def _measure_cell(cell: MapCell) -> pd.DataFrame:
    size = cell.size
    start, made = untrained(size.networks, cell.seed), _networks(size.networks, size.train_steps, cell.seed)[0]
    found: dict[str, list[Any]] = {where: [] for where in WHERE}
    if cell.kind == REVNET:
        found |= bend(made, start, cell.layer, _seed_of(cell.seed, cell.layer, 3), size.bending)
    else:
        of = get_args(Variable).index(cell.variable)
        for net in range(size.networks):
            drawn = (cell.seed, net, cell.layer, of)
            for where, one in _measured(made.one(net), start.one(net), cell.variable, cell.layer, drawn, size):
                found[where].append(one)
    return pd.DataFrame([
        {"map": cell.kind, "variable": cell.variable, "layer": cell.layer, "where": where, "measure": name}
        | _figures(told, FINE if name in ("bits", "available") else 4)
        for where, of_networks in found.items()
        for name, told in _pooled(of_networks).items()
    ])  # fmt: skip


def _seed_of(*drawn: int) -> int:
    return int(np.random.default_rng(drawn).integers(2**31))


def _measured(
    net: EqualityNets, twin: EqualityNets, variable: Variable, layer: int, drawn: tuple[int, ...], size: EqualitySize
) -> Iterator[tuple[str, _Measured]]:
    """The subspaces of a network, of a random one, and a random subspace, on the same pairs and donors."""
    seed = _seed_of(*drawn)
    for where, one in (("trained", net), ("random_twin", twin)):
        basis, right = _learned(one, variable, layer, seed, size)
        yield where, _Measured(right, _scrubbed(one, basis, variable, layer, seed, size))
    basis = random_directions(WIDTH, RANK, seed)
    pairs = _Pairs.of(net, variable, layer, seed, size)
    yield "random_subspace", _Measured(pairs.right(basis), _scrubbed(net, basis, variable, layer, seed, size))


@dataclass(frozen=True)
class _Pairs:
    """Activations of pairs at a layer of one network, and what is wanted of them."""

    net: EqualityNets
    layer: int
    base: Float[Tensor, "n 16"]
    source: Float[Tensor, "n 16"]
    wanted: Float[Tensor, "n 2"]
    n_fit: int

    @classmethod
    def of(cls, net: EqualityNets, variable: Variable, layer: int, seed: int, size: EqualitySize) -> "_Pairs":
        """The first are to fit, the next to select, the last to test."""
        drawn = draw_swaps(variable, size.pairs + 2 * (size.pairs // 4), torch.Generator().manual_seed(seed))
        wanted = one_hot(drawn.wanted.long(), 2).float()
        base, source = (net.upto(x, layer)[0] for x in (drawn.base, drawn.source))
        return cls(net, layer, base, source, wanted, size.pairs)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Numbers of the pairs that select and of those that test."""
        middle = self.n_fit + self.n_fit // 4
        return {"select": torch.arange(self.n_fit, middle), "test": torch.arange(middle, len(self.base))}

    def run(self, h: Tensor, rows: Tensor) -> Tensor:
        return self.net.after(h, self.layer)[0]

    def right(self, basis: Tensor) -> NDArray[np.float64]:
        """Whether each test pair has the label that is wanted."""
        test = self.parts["test"]
        laws = interchanged_laws(self.run, basis, self.base, self.source, test, len(test))
        return (laws.argmax(1) == self.wanted[test].argmax(1)).double().numpy()


def _learned(
    net: EqualityNets, variable: Variable, layer: int, seed: int, size: EqualitySize
) -> tuple[Float[Tensor, "16 k"], NDArray[np.float64]]:
    pairs = _Pairs.of(net, variable, layer, seed, size)
    asked = {"k": RANK, "seed": seed, "steps": size.steps, "batch": 512, "n_starts": size.starts}
    found = fit_das(pairs.run, pairs.base, pairs.source, pairs.wanted, **pairs.parts, **asked)
    return found.basis, pairs.right(found.basis)


def _scrubbed(net: EqualityNets, basis: Tensor, variable: Variable, layer: int, seed: int, size: EqualitySize) -> Ratio:
    """What is lost of a network's own law with the subspace and its complement from donors that agree on them."""
    drawn = draw_donors(variable, size.scrubbed, DONORS, torch.Generator().manual_seed(seed + 1))
    rest, own = (net.upto(x.flatten(0, 1), layer)[0] for x in (drawn.of_rest, drawn.of_variable))
    edited = net.after(rest + (own - rest) @ basis @ basis.T, layer)[0].double().softmax(-1)
    law = net.after(drawn.x, 0)[0].double().softmax(-1).numpy()
    floor = kl_bits(law, law.mean(0, keepdims=True))  # the prior, beyond the network's own entropy
    mixed, _ = fbu_replace(law, edited.unflatten(0, (-1, DONORS)).numpy(), floor, np.zeros(len(law)))
    return mixed


def _pooled(found: Sequence[_Measured | Bent]) -> dict[str, Estimate]:
    """Accuracy and FBU over networks, each a group; of maps that bend also bits per row, and rows that are far out."""
    lost, available = (np.concatenate([getattr(one.lost, name) for one in found]) for name in ("missed", "available"))

    def over(ratio: Ratio) -> Estimate:
        net = np.repeat(np.arange(len(found)), len(ratio.missed) // len(found))
        return estimates([ratio], Clusters.of(net, 2000, 0))[0]

    def mean(rows: NDArray[np.float64]) -> Estimate:
        return over(Ratio(rows, np.ones(len(rows)), of_reader=False))

    told = {"iia": mean(np.concatenate([one.right for one in found])),
            "fbu": over(fbu(lost, available, np.zeros(len(lost))))}  # fmt: skip
    far = [one.far for one in found if isinstance(one, Bent)]
    return told | ({"bits": mean(lost), "available": mean(available), "far": mean(np.array(far))} if far else {})


def _figures(told: Estimate, digits: int) -> dict[str, Any]:
    return figures(told, digits) | {"n": told.n, "networks": told.groups}


def tables(found: EqualityFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text: a row per variable and layer."""
    frame = found.frame
    rotated, bent = (_Told(frame[frame["map"] == kind]) for kind in (ROTATION, REVNET))
    accuracies, leaks = [], []
    for variable, layer in ((v, layer) for v in NAMES for layer in range(1, LAYERS + 1)):
        place = {"variable": NAMES[variable], "layer": layer}
        iia, lost = ([rotated.cell(variable, layer, where, measure) for where in WHERE] for measure in ("iia", "fbu"))
        accuracies.append({
            **place, "published": number(PUBLISHED[variable][layer - 1], DIGITS), "found": iia[0],
            "random subspace": iia[1], "random networks": iia[2], "verdict": rotated.verdict(variable, layer),
        })  # fmt: skip
        leaks.append(place | dict(zip(("found", "random subspace", "random networks"), lost, strict=True)))
    return {"accuracy": pd.DataFrame(accuracies), "leak": pd.DataFrame(leaks), **_bent_tables(bent)}


def _bent_tables(told: "_Told") -> dict[str, pd.DataFrame]:
    accuracies, leaks = [], []
    for layer in range(1, LAYERS + 1):
        published = {where: number(of[layer - 1], DIGITS) for where, of in PUBLISHED_BENT.items()}
        iia, lost, far = (
            [told.cell("left", layer, where, measure) for where in WHERE] for measure in ("iia", "fbu", "far")
        )
        accuracies.append({
            "layer": layer, "published": published[TRAINED], "found": iia[0], "before the search": iia[1],
            "published, random": published[RANDOM_NET], "random networks": iia[2],
            "verdict": told.verdict("left", layer),
        })  # fmt: skip
        bits = [1000 * told.rows["left", layer, RANDOM_NET, name]["value"] for name in ("bits", "available")]
        leaks.append({
            "layer": layer, "found": lost[0], "before the search": lost[1], "random networks": lost[2],
            "their millibits": f"{bits[0]:.2f} of {bits[1]:.2f}", "far": far[0], "far before": far[1],
        })  # fmt: skip
    return {"bent": pd.DataFrame(accuracies), "bending": pd.DataFrame(leaks)}


class _Told:
    """The rows of one kind of map, found by their place."""

    def __init__(self, frame: pd.DataFrame) -> None:
        by = ("variable", "layer", "where", "measure")
        self.rows = {tuple(row[name] for name in by): row for row in frame.to_dict("records")}

    def cell(self, *place: Any) -> str:
        return interval(self.rows[place], DIGITS)

    def verdict(self, variable: str, layer: int) -> str:
        ours, theirs = (self.rows[variable, layer, where, "iia"]["value"] for where in (TRAINED, RANDOM_NET))
        return "stands" if ours - theirs > VACUOUS else "vacuous"
