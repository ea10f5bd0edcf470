"""What a cell gives: records, the group sums behind them, and arrays worth keeping under names that are typed.

Only `to_tensors` and the functions that read them back know how the arrays are named in a run folder.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probekit.fit.readers import Reader
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.pairs import CounterexamplePairs
from probekit.metrics.ratios import Estimate
from probekit.records import Losses, Record


@dataclass(frozen=True)
class Coordinates:
    """Where a number stands, as in a Record. Empty behaviour, hook and domains are those of the cell and its rows.

    parameters and rank (told as k: directions that a hypothesis' decoders look along) may differ between folds, of
    which the first one's are told: they tell no numbers apart.
    """

    level: str
    source: str = ""
    k: int | None = None
    metric: str = "read"
    arm: str = ""
    control: str = ""
    floor: str = "strong"
    behaviour: str = ""
    hook: str = ""
    fit_domain: str = ""
    test_domain: str = ""
    parameters: int | None = field(default=None, compare=False)
    rank: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Figures:
    """What stands beside a value in a Record; None where it is not told."""

    n_fit: int | None = None
    n_fit_effective: float | None = None
    d_read: int | None = None
    falls: float | None = None
    falls_low: float | None = None
    falls_high: float | None = None
    auroc: float | None = None
    accuracy: float | None = None
    r2: float | None = None


class ReaderName(NamedTuple):
    """What a curve over sites has in common."""

    level: str
    source: str
    k: int | None

    @classmethod
    def of(cls, named: Reader | Record) -> "ReaderName":
        return cls(named.level, named.source, named.k)

    @classmethod
    def parse(cls, text: str, separator: str) -> "ReaderName":
        """The inverse of `joined`; no level, source or k holds a separator."""
        level, source, k = text.split(separator)
        return cls(level, source, None if k == "None" else int(k))

    def joined(self, separator: str) -> str:
        return separator.join((self.level, self.source, str(self.k)))


class Scores(NamedTuple):
    """What is said of rows [n] of the observations: missed bits, most first, and log odds of the second outcome, or the
    number that is said, in units of its own.

    missed: beside the strong floor. odds: of a reader of the activations alone (beside the weak floor) where there is
    one, NaN where there are not two outcomes, or none is certain.
    """

    rows: NDArray[np.int64]
    missed: NDArray[np.float64]
    odds: NDArray[np.float64]


class Told(NamedTuple):
    """What a reader says of rows [n]: its likeliest outcome, how probable that is, and to the behaviour."""

    answer: NDArray[np.int16]
    confidence: NDArray[np.float32]
    agreed: NDArray[np.float32]


class RowBits(NamedTuple):
    """Bits that each reader leaves at each test row of the seen domain: rows [n] of the observations, ascending.

    bits [n] by reader, beside the strong floor, in single precision; told: what it says of them, where that is a law.
    """

    rows: NDArray[np.int64]
    bits: Mapping[ReaderName, NDArray[np.float32]]
    told: Mapping[ReaderName, Told] = {}


class DecodedRows(NamedTuple):
    """What a feature was decoded to at a site: test rows [n] of the observations, class numbers [n, n_targets]."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int8]


class Answers(NamedTuple):
    """What `linear` says of test rows [n] of every domain that all folds have: the likeliest outcome and its
    probability, which is how confident it is.
    """

    rows: NDArray[np.int64]
    said: NDArray[np.int64]
    confidence: NDArray[np.float64]


class Alone(NamedTuple):
    """A linear reader of the activations alone, of the first fold: x @ along @ weight + bias, on raw activations.

    weight [m, outcome] with m = k, or d where `along` [d, k] is empty; bias [outcome], in double precision, holds the
    mean of what the weak floor says of test rows. left [1]: how far that floor's part spreads over them, in the units
    of the logits: what is left out where it reads positions, 0 where it is the prior.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float64]
    left: NDArray[np.float64]
    along: NDArray[np.float32]


@dataclass(frozen=True)
class Kept:
    """Arrays of a read cell that other cells and tables are made from.

    directions [d, k]: where a reader of the first fold looks; select [n_folds]: its bits on the selection rows;
    null [n_folds, 1 + n_permutations]: its gains in bits, as observed and under each permutation; linear [n_folds]:
    bits of the site's own linear readout on the selection rows, None where a fold lacks one. scores: what `linear` says
    of test rows that it never saw. rows: what every reader leaves at them, which a run folder keeps in a file of its
    own. pairs: test rows that a reader cannot tell apart and the model treats differently. answers: what `linear` says.
    alone: readers that can be taken away. decoded: what a hypothesis' features were decoded to, by feature.
    """

    directions: Mapping[ReaderName, NDArray] = field(default_factory=dict)
    select: Mapping[ReaderName, NDArray] = field(default_factory=dict)
    null: Mapping[ReaderName, NDArray] = field(default_factory=dict)
    linear: NDArray | None = None
    scores: "Scores | None" = None
    rows: RowBits | None = None
    pairs: Mapping[ReaderName, CounterexamplePairs] = field(default_factory=dict)
    answers: Answers | None = None
    alone: Mapping[ReaderName, Alone] = field(default_factory=dict)
    decoded: Mapping[str, DecodedRows] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether no fold of the cell gave anything, or there is no such cell."""
        return not to_tensors(self)


@dataclass(frozen=True)
class Decoded:
    """Directions [d, n_class x n_target] that a feature is decoded along, of a feature cell."""

    feature: str
    directions: NDArray


@dataclass
class Outcome:
    """The outcome of one cell."""

    records: list[Record] = field(default_factory=list)
    losses: list[Losses] = field(default_factory=list)
    kept: Kept | Decoded = field(default_factory=Kept)

    def add(self, record: Record, estimate: Estimate, clusters: Clusters) -> None:
        """Keep a record and, where it has a value, its group sums."""
        self.records.append(record)
        if record.value is not None and estimate.numerator is not None and estimate.denominator is not None:
            self.losses.append(
                Losses(
                    record.id,
                    clusters.labels,
                    estimate.numerator.tolist(),
                    estimate.denominator.tolist(),
                    clusters.sizes.tolist(),
                )
            )

    def with_losses(self) -> Iterator[tuple[Record, Losses]]:
        """The records that have group sums, with them."""
        losses = {loss.record: loss for loss in self.losses}
        for record in self.records:
            if record.id in losses:
                yield record, losses[record.id]


# ---------------------------------------------------------------------------------------------- names in a run folder

SELECT, NULL, LINEAR, SCORES = "select/", "null/", "select_bits", "scores/"
PAIRS, ALIKE, ANSWERS, ALONE, DECODED = "pairs/", "alike/", "answers/", "alone/", "decoded/"
_OF_PAIR = ("first", "second", "distance", "percentile", "divergence", "ratio")


def to_tensors(kept: Kept | Decoded) -> dict[str, NDArray]:
    """What is kept of a cell, as a run folder names it; empty where nothing is."""
    if isinstance(kept, Decoded):
        return {kept.feature: kept.directions}
    scores = {} if kept.scores is None else {SCORES + name: v for name, v in kept.scores._asdict().items()}
    return (
        {name.joined("|"): directions for name, directions in kept.directions.items()}
        | {SELECT + name.joined("/"): bits[:, None] for name, bits in kept.select.items()}
        | {NULL + name.joined("/"): gains for name, gains in kept.null.items()}
        | ({} if kept.linear is None else {LINEAR: kept.linear[:, None]})
        | scores
        | {PAIRS + name.joined("/"): np.stack([getattr(p, part) for part in _OF_PAIR], 1).astype(np.float64)
           for name, p in kept.pairs.items()}
        | {ALIKE + name.joined("/"): np.array([p.n_alike, p.alike, p.random]) for name, p in kept.pairs.items()}
        | ({} if kept.answers is None else {ANSWERS + name: v for name, v in kept.answers._asdict().items()})
        | {f"{ALONE}{part}/{name.joined('/')}": v for name, one in kept.alone.items()
           for part, v in one._asdict().items()}
        | {f"{DECODED}{part}/{name}": v for name, one in kept.decoded.items() for part, v in one._asdict().items()}
    )  # fmt: skip


def kept_of(tensors: Mapping[str, NDArray]) -> Kept:
    """The inverse of `to_tensors` for a read cell."""
    directions, select, null, scores, pairs, answers = {}, {}, {}, {}, {}, {}
    alone: dict[ReaderName, dict[str, NDArray]] = {}
    decoded: dict[str, dict[str, NDArray]] = {}
    for name, values in tensors.items():
        if name.startswith(SELECT):
            select[ReaderName.parse(name.removeprefix(SELECT), "/")] = values[:, 0]
        elif name.startswith(NULL):
            null[ReaderName.parse(name.removeprefix(NULL), "/")] = values
        elif name.startswith(SCORES):
            scores[name.removeprefix(SCORES)] = values
        elif name.startswith(ANSWERS):
            answers[name.removeprefix(ANSWERS)] = values
        elif name.startswith(ALONE):
            part, _, reader = name.removeprefix(ALONE).partition("/")
            alone.setdefault(ReaderName.parse(reader, "/"), {})[part] = values
        elif name.startswith(DECODED):
            part, _, feature = name.removeprefix(DECODED).partition("/")
            decoded.setdefault(feature, {})[part] = values
        elif name.startswith(PAIRS):
            reader = name.removeprefix(PAIRS)
            pairs[ReaderName.parse(reader, "/")] = _pairs_of(values, tensors[ALIKE + reader])
        elif "|" in name:
            directions[ReaderName.parse(name, "|")] = values
    linear = tensors[LINEAR][:, 0] if LINEAR in tensors else None
    told = Scores(**scores) if scores else None
    said = Answers(**answers) if answers else None
    readers = {name: Alone(**parts) for name, parts in alone.items()}
    parts = {name: DecodedRows(**one) for name, one in decoded.items()}
    return Kept(directions, select, null, linear, told, pairs=pairs, answers=said, alone=readers, decoded=parts)


def _pairs_of(columns: NDArray, told: NDArray) -> CounterexamplePairs:
    first, second = columns[:, :2].astype(np.int64).T
    distance, percentile, bits, ratio = columns[:, 2:].T
    n_alike, alike, random = told.tolist()
    return CounterexamplePairs(first, second, distance, percentile, bits, ratio, int(n_alike), alike, random)


def decoded_of(feature: str, tensors: Mapping[str, NDArray]) -> Decoded:
    """The inverse of `to_tensors` for the cell of a feature."""
    return Decoded(feature, tensors[feature])
