"""The study of variants: one task, learned by networks that differ in one thing each. What of one holds in the other?

A plain network is described at several levels, from single neurons to the rule that it follows; each description is
frozen and taken to a variant of it that ran on the same inputs. The task is a sum, or hierarchical equality. Controls
give the same answers and have no reason to compute them alike, so that what carries over to them as well is forced by
the task.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probekit.jobs.engines import Progress
from probekit.levels import Hypothesis, Level
from probekit.measurement.across import Asked, Carried, Pair, SharedRows, Subject, estimate_over, measure_pair
from probekit.measurement.outcome import ReaderName
from probekit.measurement.setting import bits_of
from probekit.metrics.ratios import fbu
from probekit.proofs.blocks import block_study
from probekit.proofs.studies.kept import Stored, figures, listed
from probekit.records import digest
from probekit.task import Behaviour, Feature, Observations
from probekit.testbeds.variants import (
    EQUALITY,
    NOT_TRAINED,
    PARTIAL,
    PRIME,
    VARIANTS,
    Table,
    load_variants,
    rows_of,
    stored_names,
    variant_of,
)

SITES = {"first": 0, "last": -1}  # layers, by their place in the network
PLAIN = "plain"
PLAINS = {"sum": PLAIN, "equality": "equal-plain"}  # of each problem
READ = {"neurons": 16, "directions": 8, "simple:quadratic": 4}  # levels and their k
RULE = "hypothesis:adds"
BEHAVIOUR = "behaviour"
LAW = "answer"
RIDGES = (1e-1, 1e-2, 1e-3)
COMPARED = tuple(name for name in VARIANTS if name not in NOT_TRAINED)
EQUAL = tuple(name for name in EQUALITY if name not in NOT_TRAINED)
ANCHORED = 0.25  # of the pairs, which align and do nothing else
STAYS = 0.1  # of what there is to explain: a description that loses less has carried over
# A row of the page's figure: what it is called, the site, the level of a reader, and what of it is moved. The rule
# reads two numbers, which are there behind the first layer; all else looks for their sum, which is behind the last.
ROWS: dict[str, tuple[str, str, str]] = {
    "neurons": ("last", "neurons", "permutation"),
    "directions, turned": ("last", "directions", "procrustes"),
    "directions, any affine map": ("last", "directions", "affine"),
    "simple function, any affine map": ("last", "simple:quadratic", "affine"),
    "function, on its own directions": ("last", "directions", "function"),
    "form, fitted again": ("last", "directions", "refit"),
    "stated rule, on its own features": ("first", RULE, "function"),
    "behaviour": ("first", BEHAVIOUR, "identity"),
}
LOW, HIGH = ("neurons", "directions, turned"), ("form, fitted again", "stated rule, on its own features", "behaviour")
GONE = 0.9  # of what a level explains at home: a network where more is lost has next to nothing that T could be of


@dataclass(frozen=True)
class VariantsSize:
    """pairs: of networks, for each variant. spread: whether networks that generalise more or less are measured."""

    pairs: int = 5
    spread: bool = True


@dataclass(frozen=True)
class VariantsFindings(Stored):
    """What the page speaks of. learned: accuracy on held-out pairs by name; spread: `scattered`.

    rows: one per variant, site, level and what of it was moved (arm), with T, its interval over pairs and CKA.
    """

    pairs: int
    learned: dict[str, list[float]]
    rows: tuple[dict[str, Any], ...]
    spread: tuple[dict[str, Any], ...]

    @property
    def scattered(self) -> pd.DataFrame:
        """A row per network and level: its accuracy on held-out pairs, what the level leaves, and T from plain."""
        return pd.DataFrame(self.spread)


@dataclass(frozen=True)
class VariantCell:
    """kind: `pairs` of one variant with plain networks at a site; `spread`: networks that are more or less right."""

    kind: Literal["pairs", "spread"]
    name: str
    site: str
    size: VariantsSize
    seed: int

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["variants", 1, asdict(self)])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.kind} {self.name} {self.site}"


def measure_variants(
    root: Path, size: VariantsSize | None = None, seed: int = 0, progress: Progress | None = None
) -> VariantsFindings:
    """Measure every variant beside plain networks, and networks of many accuracies. The pair of networks is the unit.

    What is done lies in a folder below `root`: Interrupted on Ctrl-C, and the same call goes on.
    """
    size = size or VariantsSize()
    cells = [VariantCell("pairs", name, site, size, seed) for site in SITES for name in (*COMPARED, *EQUAL)]
    if size.spread:
        cells += [VariantCell("spread", name, "first", size, seed) for name in spread_names()]
    spec = {"variants": 1, "size": asdict(size), "seed": seed}
    _, frame = block_study("variants", spec, cells, measure_cell, root=root, progress=progress)
    of_spread = frame["accuracy"].notna() if "accuracy" in frame else pd.Series(False, index=frame.index)
    rows, spread = (listed(frame[mask].dropna(axis="columns", how="all")) for mask in (~of_spread, of_spread))
    learned = {name: [round(float(v), 4) for v in load_variants(name).held_out] for name in stored_names()}
    return VariantsFindings(size.pairs, learned, rows, spread)


def spread_names() -> list[str]:
    """Networks that are right about more or fewer of the pairs that they were not trained on."""
    return [PLAIN, *(name for name in stored_names() if "@" in name), *PARTIAL]


def adds(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """The stated rule: the sum of the two numbers, modulo the prime."""
    return np.eye(PRIME, dtype=np.float32)[features["numbers"].sum(1) % PRIME]


def alike(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """The rule of the other task: yes where both pairs are equal, or neither."""
    return np.eye(2, dtype=np.float32)[(features["equal"][:, 0] == features["equal"][:, 1]).astype(np.int64)]


RULES = {
    "sum": Hypothesis.of("adds", ("numbers",), adds),
    "equality": Hypothesis.of("alike", ("equal",), alike),
}


def asked_of(problem: str, site: str, seed: int) -> Asked:
    """What is fitted on every network at a site: the rule where its features are, more readers where the answer is."""
    levels = tuple((Level.parse(name), (k,)) for name, k in READ.items() if site == "last" or name == "directions")
    rules = (RULES[problem],) if site == "first" else ()
    return Asked(levels, hypotheses=rules, lambdas=RIDGES, seed=seed)


# Networks -------------------------------------------------------------------------------------------------------------


@cache
def _anchors(problem: str, seed: int) -> NDArray[np.bool_]:
    pair = rows_of(problem).pair.numpy()
    names = np.unique(pair)
    return np.isin(pair, np.random.default_rng([seed, 52]).permutation(names)[: round(ANCHORED * len(names))])


@dataclass(frozen=True)
class _Network:
    """One network: what a layer of it gives [n, d] and its law [n, answers], on all rows."""

    x: torch.Tensor
    seen: Observations

    @classmethod
    def of(cls, name: str, i: int, site: str) -> "_Network":
        problem, found = variant_of(name).problem, load_variants(name)
        table = rows_of(problem)
        with torch.no_grad():
            net = found.networks.one(i)
            x = net.hidden(*table.inputs)[SITES[site]][0]
            law = net.logits(*table.inputs)[0].double().softmax(-1).float().numpy()
        n = len(x)
        seen = Observations(
            np.arange(n), np.zeros(n, dtype=np.int64), table.pair.numpy(), np.full(n, "all"),
            {LAW: Behaviour(LAW, law, tuple(map(str, range(law.shape[1]))))}, {one.name: one for one in _told(problem)},
            model=name,
        )  # fmt: skip
        return cls(x, seen)


def _told(problem: str) -> Iterator[Feature]:
    """What the rule of a problem is of."""
    table = rows_of(problem)
    if isinstance(table, Table):
        numbers = torch.stack([table.a, table.b], 1).numpy()
        yield Feature("numbers", numbers, tuple(map(str, range(PRIME))), ("a", "b"))
    else:
        yield Feature("equal", table.same.long().numpy(), ("no", "yes"), ("left", "right"))


@cache
def _fitted(name: str, i: int, site: str, home: int, seed: int) -> Subject:
    """A network with all that is fitted on it, on the split of the plain network `home`; each made once."""
    problem = variant_of(name).problem
    one, kept = _Network.of(name, i, site), ~_anchors(problem, seed)
    found = Subject.of(
        one.x[torch.from_numpy(kept)], one.seen.rows(kept), LAW, _rows(problem, home, site, seed),
        asked_of(problem, site, seed),
    )  # fmt: skip
    return replace(found, readers={key: reader for key, reader in found.readers.items() if key.source != "pca"})


@cache
def _rows(problem: str, home: int, site: str, seed: int) -> SharedRows:
    seen = _Network.of(PLAINS[problem], home, site).seen
    found = SharedRows.of(seen.rows(~_anchors(problem, seed)), LAW, seed)
    return replace(found, split=replace(found.split, inner=()))  # ridges chosen on one side: folds say the same


def _pair(name: str, i: int, home: int, site: str, seed: int) -> Pair:
    """The plain network `home`, taken to the i-th network of a name."""
    problem = variant_of(name).problem
    plain = PLAINS[problem]
    first, second = _fitted(plain, home, site, home, seed), _fitted(name, i, site, home, seed)
    at = torch.from_numpy(_anchors(problem, seed))
    anchors = tuple(_Network.of(who, which, site).x[at] for who, which in ((plain, home), (name, i)))
    found = measure_pair(first, second, anchors, asked_of(problem, site, seed))
    return replace(found, moved=[*found.moved, _of_behaviour(first, second)])


def _of_behaviour(first: Subject, second: Subject) -> Carried:
    """The plain network's own law, taken for what the other answers: its FBU."""
    test = torch.from_numpy(first.setting.split.test)
    law, said = (one.setting.law[:, 0, test].double() for one in (second, first))
    bits = -(law * said.clamp_min(1e-12).log2()).sum(0).numpy()
    return Carried(ReaderName(BEHAVIOUR, "", None), "identity", fbu(bits, *second.setting.ends()))


# Cells ----------------------------------------------------------------------------------------------------------------


def homes_of(name: str, n: int) -> list[tuple[int, int]]:
    """(plain network, network of a name) pairs; no network is in two, and all add rightly."""
    plain, able = load_variants(PLAINS[variant_of(name).problem]).able, load_variants(name).able
    if name in PLAINS.values():
        return list(zip(plain[:n], plain[n : 2 * n], strict=False))
    return list(zip(plain[:n], able[:n], strict=False))


def measure_cell(cell: VariantCell) -> pd.DataFrame:
    """The rows of one cell; rows of networks that generalise more or less have an `accuracy`."""
    if cell.kind == "spread":
        return pd.DataFrame(list(_scatter(cell)))
    pairs = [_pair(cell.name, i, home, cell.site, cell.seed) for home, i in homes_of(cell.name, cell.size.pairs)]
    place = {"variant": cell.name, "site": cell.site}
    if len(pairs) < 2:
        return pd.DataFrame([place | {"level": "", "arm": "", "na_reason": "not_trained", "pairs": len(pairs)}])
    told = {
        name: round(float(np.mean([pair.told.get(name, np.nan) for pair in pairs])), 3) for name in ("cka", "affine")
    }
    return pd.DataFrame([
        place | {"level": moved.name.level, "arm": moved.arm} | figures(found) | {"pairs": len(pairs)} | told
        for moved, found, _ in estimate_over(pairs, cell.seed)
    ])  # fmt: skip


def _scatter(cell: VariantCell) -> Iterator[dict[str, Any]]:
    """Of each network what every level leaves in it, and T from a plain network of another seed."""
    plain, found = load_variants(PLAIN).able, load_variants(cell.name)
    for i in range(len(found.held_out)):
        home = next(one for one in plain[i % cell.size.pairs :] if one != i or not cell.name.startswith(PLAIN))
        pair, there = _pair(cell.name, i, home, cell.site, cell.seed), _fitted(cell.name, i, cell.site, home, cell.seed)
        own = dict(_left(there))
        for moved, told, _ in estimate_over([pair], cell.seed, 1):
            row = {"name": cell.name, "network": i, "accuracy": round(float(found.held_out[i]), 4),
                   "level": moved.name.level, "arm": moved.arm}  # fmt: skip
            yield row | {
                "left": own.get(moved.name.level),
                "moved": None if told.value is None else round(told.value, 4),
            }


def _left(there: Subject) -> Iterator[tuple[str, float]]:
    """FBU of every level in the network itself."""
    floor, ceiling = there.setting.ends()
    for key, reader in there.readers.items():
        yield key.level, _share(bits_of(reader.bits(there.setting.side(there.x, "test"))), floor, ceiling)
    for name, mixture in there.mixtures.items():
        yield f"hypothesis:{name}", _share(mixture.bits(there.setting, there.x), floor, ceiling)


def _share(bits: NDArray, floor: NDArray, ceiling: NDArray) -> float:
    ratio = fbu(bits, floor, ceiling)
    return round(float(ratio.missed.sum() / ratio.available.sum()), 4)
