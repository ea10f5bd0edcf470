"""Across: what was fitted on one network, asked of another one that ran on the same inputs.

A reader of the first is frozen and given rows of the second: aligned from anchors without a label, or by its own
directions there. Beside it stands how much less the same form explains when it is fitted in the second afresh.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.platt import fit_platt
from probekit.fit.readers import Reader, Site, fit_level
from probekit.fit.readout import calibrate, cross_entropy
from probekit.levels import Hypothesis, Level
from probekit.measurement.hypotheses import Decoder, Mixture
from probekit.measurement.outcome import ReaderName
from probekit.measurement.setting import Pooling, Setting, bits_of, prepare_settings
from probekit.metrics.alignment import ALIGNMENTS, fit_alignment, linear_cka
from probekit.metrics.bootstrap import Clusters, Crossed
from probekit.metrics.classes import splits_with_classes
from probekit.metrics.ratios import Estimate, Ratio, estimates, transfer
from probekit.metrics.splits import Split
from probekit.spec import ReadSpec
from probekit.task import Observations

LEAST_SEEDS = 5  # pairs of networks below which no interval is told
FUNCTION, REFIT = "function", "refit"  # arms beside those of ALIGNMENTS
PREFIX = "models:"


@dataclass(frozen=True)
class Asked:
    """levels: of readers, each with its ks. alignments: of ALIGNMENTS. hypotheses: rules. seed: of splits and fits."""

    levels: tuple[tuple[Level, tuple[int, ...]], ...]
    alignments: tuple[str, ...] = ALIGNMENTS
    hypotheses: tuple[Hypothesis, ...] = ()
    lambdas: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """One network with all that was fitted on it. x [n, d]: its rows; mixtures: of the stated hypotheses."""

    x: Float[Tensor, "n d"]
    setting: Setting
    observations: Observations
    readers: Mapping[ReaderName, Reader]
    mixtures: Mapping[str, Mixture]

    @classmethod
    def of(
        cls, x: Float[Tensor, "n d"], observations: Observations, behaviour: str, rows: "SharedRows", asked: Asked
    ) -> "Subject":
        """Raises FitError where a reader has none."""
        return cls.on(rows.setting(observations, behaviour, asked.seed), x, observations, asked)

    @classmethod
    def on(cls, setting: Setting, x: Float[Tensor, "n d"], observations: Observations, asked: Asked) -> "Subject":
        """The same where floors are known: networks that are asked for one and the same answer share them."""
        site = Site.prepare([setting.training(x)], asked.seed, asked.lambdas, setting.inner)[0]
        readers = {ReaderName.of(r): r for level, ks in asked.levels for r in fit_level(site, level, ks)}
        mixtures = {}
        for hypothesis in asked.hypotheses:
            decoders = {
                name: Decoder.fit(observations.features[name], setting.index, setting.split, x, asked.lambdas)
                for name in hypothesis.features
            }
            mixtures[hypothesis.name] = Mixture.fit(hypothesis, decoders, observations, setting, x)
        return cls(x, setting, observations, readers, mixtures)

    @property
    def offset(self) -> Float[Tensor, "outcome 1 n"]:
        """Logits of its floor."""
        return self.setting.floors["strong"][1]


@dataclass(frozen=True)
class SharedRows:
    """The split of rows that networks share, and the behaviour of the first, whose rare classes are pooled in all."""

    split: Split
    pooling: Pooling

    @classmethod
    def of(cls, observations: Observations, behaviour: str, seed: int) -> "SharedRows":
        """Of the first network. Raises BadInput where there are too few groups."""
        told = observations.behaviours[behaviour]
        inner = ReadSpec().folds_of(len(observations))[1]
        split = splits_with_classes(observations.group, [told.law], seed, inner=inner)[0]
        return cls(split, Pooling.of(told, [split.fit], np.arange(len(observations))))

    def setting(self, observations: Observations, behaviour: str, seed: int) -> Setting:
        """Floors and laws of one network."""
        told = observations.behaviours[behaviour]
        law, outcomes = self.pooling.law(told.law).astype(told.law.dtype), self.pooling.behaviour.outcomes
        pooling = replace(self.pooling, behaviour=replace(told, law=law, outcomes=outcomes))
        return prepare_settings(observations, pooling, observations.domains[0], [self.split], ("strong",), seed)[0]


@dataclass(frozen=True)
class Carried:
    """One number of one pair of networks, before anything is resampled: its place, its losses, or why it has none.

    arm: one of ALIGNMENTS, FUNCTION or REFIT. raw: losses before one temperature and intercepts; parameters: of the
    reader.
    """

    name: ReaderName
    arm: str
    ratio: Ratio | None
    raw: Ratio | None = None
    parameters: int | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """Two networks on the same rows. group [n_test]; told: CKA, and by alignment the variance of A that it misses."""

    moved: Sequence[Carried]
    group: NDArray[np.int64]
    told: Mapping[str, float] = field(default_factory=dict)


def measure_pair(first: Subject, second: Subject, anchors: tuple[Tensor, Tensor], asked: Asked) -> Pair:
    """What was fitted on the first network, in the second. anchors: rows of both that only align, [m, d] each."""
    at, to = (one.numpy() for one in reversed(anchors))
    test = torch.from_numpy(second.setting.split.test)
    told = {"cka": linear_cka(first.x[test].numpy(), second.x[test].numpy())}
    moved: list[Carried] = []
    for name in asked.alignments:
        try:
            alignment = fit_alignment(name, at, to)
        except BadInput as error:
            moved += _undefined(first, name, str(error))
            continue
        told[name] = alignment.left(second.x[test].numpy(), first.x[test].numpy())
        aligned = torch.from_numpy(alignment.apply(second.x.numpy())).float()
        moved += frozen(first, second, aligned, name)
    moved += _by_function(first, second, anchors)
    moved += _refitted(first, second)
    return Pair(moved, second.setting.group[second.setting.split.test], told)


def _undefined(first: Subject, arm: str, why: str) -> Iterator[Carried]:
    for name in [*first.readers, *(ReaderName(f"hypothesis:{one}", "decoded", None) for one in first.mixtures)]:
        yield Carried(name, arm, None, reason="not_defined", note=why)


def frozen(first: Subject, second: Subject, aligned: Float[Tensor, "n d"], arm: str) -> Iterator[Carried]:
    """T of readers and hypotheses of the first on rows of the second in the first's coordinates."""
    for name, reader in first.readers.items():
        yield _compared(first, second, name, reader, aligned, arm)
    for name, mixture in first.mixtures.items():
        yield _hypothesis(second, name, mixture, aligned, arm)


def _compared(
    first: Subject, second: Subject, name: ReaderName, reader: Reader, rows: Float[Tensor, "n d"], arm: str
) -> Carried:
    """T of a frozen reader on rows in the first's coordinates, after one temperature and intercepts, and before."""
    there = second.setting
    test, fit = (torch.from_numpy(side) for side in (there.split.test, there.split.fit))
    direct = bits_of(second.readers[name].bits(there.side(second.x, "test")))
    said = reader.logits(rows, first.offset)
    before = bits_of(cross_entropy(said[..., test], there.test_law))
    raw = transfer(before, direct, *there.ends())
    try:
        theta = fit_platt(said[..., fit], there.law[..., fit])
    except FitError as error:
        return Carried(name, arm, None, raw, reader.parameters, "not_converged", str(error))
    after = bits_of(cross_entropy(calibrate(said[..., test], theta), there.test_law))
    return Carried(name, arm, transfer(after, direct, *there.ends()), raw, reader.parameters)


def _hypothesis(second: Subject, name: str, frozen: Mixture, rows: Float[Tensor, "n d"], arm: str) -> Carried:
    there, own = second.setting, second.mixtures[name]
    frozen = replace(frozen, _cache={})  # which knows rows of one network alone
    ratio = transfer(frozen.bits(there, rows), own.bits(there, second.x), *there.ends())
    return Carried(ReaderName(f"hypothesis:{name}", "decoded", None), arm, ratio, ratio, frozen.parameters)


def _by_function(first: Subject, second: Subject, anchors: tuple[Tensor, Tensor]) -> Iterator[Carried]:
    """The first's frozen function of k coordinates, on those that the second's own directions give.

    The two sets of k coordinates are aligned from anchors by an affine map: what a set of directions spans has no axes
    of its own. Of a stated rule, features are decoded by the second's own decoders, and the rest is the first's.
    """
    for name, reader in first.readers.items():
        own = second.readers.get(name)
        if reader.directions is None or own is None or own.directions is None:
            continue
        here, there = anchors[0].double() @ reader.directions.double(), anchors[1].double() @ own.directions.double()
        alignment = fit_alignment("affine", there.numpy(), here.numpy())
        code = alignment.apply((second.x.double() @ own.directions.double()).numpy())
        # Rows that the first's directions see as this code; the reader looks nowhere else.
        back = torch.linalg.pinv(reader.directions.double())
        yield _compared(first, second, name, reader, (torch.from_numpy(code) @ back).float(), FUNCTION)
    for name, mixture in first.mixtures.items():
        decoders = second.mixtures[name].decoders
        yield _hypothesis(second, name, replace(mixture, decoders=decoders), second.x, FUNCTION)


def _refitted(first: Subject, second: Subject) -> Iterator[Carried]:
    """How much less the same form explains when it is fitted in the second: share of what it explains in the first."""
    (floor, _), (floor_there, ceiling) = first.setting.ends(), second.setting.ends()
    told = [(name, reader.parameters, *(bits_of(one.readers[name].bits(one.setting.side(one.x, "test")))
             for one in (first, second))) for name, reader in first.readers.items()]  # fmt: skip
    told += [(ReaderName(f"hypothesis:{name}", "decoded", None), mixture.parameters,
              *(one.mixtures[name].bits(one.setting, one.x) for one in (first, second)))
             for name, mixture in first.mixtures.items()]  # fmt: skip
    for name, parameters, here, there in told:
        gained, again = floor - here, floor_there - there
        ratio = Ratio(gained - again, gained, there, floor_there, ceiling, too_little="small_denominator")
        yield Carried(name, REFIT, ratio, None, parameters)


def estimate_over(
    pairs: Sequence[Pair], seed: int, n_bootstrap: int = 2_000
) -> list[tuple[Carried, Estimate, float | None]]:
    """Each number of all pairs of networks together: (its place, the estimate, its value before calibration).

    The pair of networks is the unit, and fewer than LEAST_SEEDS have no interval; that of one pair alone is over its
    groups of rows. An interval over pairs is Student's t of the linearised ratio, since five are too few to resample.
    """
    alone = len(pairs) == 1
    unit = pairs[0].group if alone else np.concatenate([np.full(len(p.group), i) for i, p in enumerate(pairs)])
    clusters, crossed = Clusters.of(unit, n_bootstrap, seed), Crossed.of(unit, unit)
    out = []
    for same in zip(*(pair.moved for pair in pairs), strict=True):
        bad = next((one for one in same if one.ratio is None), None)
        if bad is not None:
            out.append((bad, Estimate.missing(bad.reason, bad.note, len(unit), len(clusters.names)), None))
            continue
        ratio = _together([one.ratio for one in same if one.ratio is not None])
        raw = [one.raw for one in same if one.raw is not None]
        found = estimates([ratio], clusters)[0]
        if not alone and not found.na_reason:
            few = len(pairs) < LEAST_SEEDS
            low, high = (None, None) if few else crossed.interval(ratio.missed, ratio.available)
            note = f"{len(pairs)} pairs of networks: no interval below {LEAST_SEEDS}" if few else ""
            found = replace(found, low=low, high=high, note=note)
        out.append((same[0], found, _value(_together(raw)) if raw and not found.na_reason else None))
    return out


def _together(ratios: Sequence[Ratio]) -> Ratio:
    parts = {name: [getattr(one, name) for one in ratios] for name in ("missed", "available", "bits", "floor_bits",
             "ceiling_bits")}  # fmt: skip
    whole = {name: None if some[0] is None else np.concatenate(some) for name, some in parts.items()}
    return replace(ratios[0], **whole)


def _value(ratio: Ratio) -> float:
    return float(ratio.missed.sum() / ratio.available.sum())
