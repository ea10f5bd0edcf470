"""Collector: the test rows of one hook point and behaviour, gathered over folds until each number can be made once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from probekit.fit.readers import Reader
from probekit.measurement.deletion import Deletions
from probekit.measurement.outcome import (
    Alone,
    Answers,
    Coordinates,
    DecodedRows,
    Figures,
    Kept,
    Outcome,
    ReaderName,
    RowBits,
    Scores,
    Told,
)
from probekit.measurement.setting import Fitted, Said, Setting
from probekit.measurement.study import Study
from probekit.metrics.auroc import auroc, auroc_interval, auroc_leak, auroc_rows
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.pairs import CounterexamplePairs
from probekit.metrics.ratios import Estimate, Ratio, estimates, fbu
from probekit.records import Record

FALLS = "falls"  # in place of a metric: how much a read value still falls, which its record tells beside it
AUROC_WITHIN = 0.05  # half an interval, for rows per class below which an AUROC is marked
MOST_DECODED = 2_000  # test rows of a fold whose decoded features are kept
MOST_SCORED, N_WORST = 50_000, 20  # of more test rows than that, only so many are kept: those that are missed most


@dataclass(frozen=True)
class Separation:
    """Scores of the test rows and whether each shows the second outcome [n]: what an AUROC is made of."""

    score: NDArray[np.float64]
    label: NDArray[np.float64]

    def estimate(self, clusters: Clusters) -> Estimate:
        """1 - (A - 1/2) / (1/2) with its interval; marked where too few rows are of the rarer class."""
        value, low, high = auroc_interval(self.score, self.label, clusters)
        leaks = auroc_leak(value), auroc_leak(high), auroc_leak(low)
        fewest = int(min(self.label.sum(), len(self.label) - self.label.sum()))
        asked = auroc_rows(AUROC_WITHIN)
        note = f"{fewest} rows of the rarer class, {asked} of each tell it to +-{AUROC_WITHIN:g}"
        n, groups = len(self.score), len(clusters.names)
        return Estimate(*leaks, None, None, None, None, None, n, groups, note=note if fewest < asked else "")


@dataclass
class _Score:
    """One number in the making: where it stands, its formula, and the formula's arguments from each fold so far."""

    coordinates: Coordinates
    formula: Callable[..., Ratio] | type[Separation]
    setting: Setting  # of the first fold that came
    notes: list[str] = field(default_factory=list)
    folds: dict[int, tuple[NDArray, ...]] = field(default_factory=dict)
    raw: dict[int, NDArray] = field(default_factory=dict)
    fitted: dict[int, Fitted] = field(default_factory=dict)
    said: dict[int, Said] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[NDArray, ...]:
        """Everything that came, the folds one after the other as in their pool."""
        folds = [self.folds[fold] for fold in sorted(self.folds)]
        return tuple(np.concatenate(parts, -1) for parts in zip(*folds, strict=True))

    @property
    def ratio(self) -> Ratio:
        """What all rows give, before anything is resampled."""
        made = self.formula(*self.rows)
        assert isinstance(made, Ratio)
        return made

    def beside(self, falls: Estimate | None) -> Figures:
        """What is told beside the value, of all folds together."""
        at, fitted = self.coordinates, list(self.fitted.values())
        figures = Figures()
        if fitted:
            rank = max(one.rank for one in fitted)
            k = 0 if at.level in ("prior", "baseline") else at.k if at.rank is None else at.rank
            figures = Figures(
                round(float(np.mean([one.n for one in fitted]))), float(np.mean([one.effective for one in fitted])),
                rank if k is None else k,
            )  # fmt: skip
        if falls is not None and not falls.na_reason:
            figures = replace(figures, falls=falls.value, falls_low=falls.low, falls_high=falls.high)
        said = list(self.said.values())
        return replace(figures, auroc=_auroc(said), accuracy=_accuracy(said), r2=_r2(said))

    @property
    def mean_raw(self) -> float | None:
        return float(np.concatenate([self.raw[fold] for fold in sorted(self.raw)]).mean()) if self.raw else None


@dataclass
class Collector:
    """Collects the rows of one (hook, behaviour) over folds, and makes records of them."""

    study: Study
    hook: str
    behaviour: str
    without: Deletions
    _scores: dict[Coordinates, _Score] = field(default_factory=dict)
    _missing: dict[str, Record] = field(default_factory=dict)
    _outcome: Outcome = field(default_factory=Outcome)
    _directions: dict[ReaderName, NDArray] = field(default_factory=dict)
    _select: dict[ReaderName, dict[int, float]] = field(default_factory=dict)
    _null: dict[ReaderName, dict[int, NDArray]] = field(default_factory=dict)
    _linear: dict[int, float] = field(default_factory=dict)
    _pairs: dict[ReaderName, dict[int, CounterexamplePairs]] = field(default_factory=dict)
    _answers: dict[str, dict[int, Answers]] = field(default_factory=dict)
    _alone: dict[ReaderName, Alone] = field(default_factory=dict)
    _decoded: dict[str, dict[int, DecodedRows]] = field(default_factory=dict)

    def put(
        self, setting: Setting, at: Coordinates, formula: Callable[..., Ratio] | type[Separation],
        rows: tuple[NDArray, ...], *, raw: NDArray | None = None, note: str = "", fitted: Fitted | None = None,
        said: Said | None = None,
    ) -> None:  # fmt: skip
        """Rows of one fold: the formula's arguments, the last axis over test rows. raw [n]: losses told beside it.

        fitted, said: what accuracy and the number of rows are told from.
        """
        at = self._complete(setting, at)
        score = self._scores.setdefault(at, _Score(at, formula, setting))
        score.folds[setting.fold] = rows
        if raw is not None:
            score.raw[setting.fold] = raw
        if fitted is not None:
            score.fitted[setting.fold] = fitted
        if said is not None:
            score.said[setting.fold] = replace(said, bits=rows[0])  # not held twice
        if note and note not in score.notes:
            score.notes.append(note)

    def score(
        self, setting: Setting, reader: Reader, said: Said, fitted: Fitted | None, *, floor: str = "strong",
        control: str = "", note: str = "", fit_domain: str = "",
    ) -> None:  # fmt: skip
        """FBU of what a reader says of the test rows. fitted: what it was fitted on."""
        at = Coordinates(
            reader.level, reader.source, reader.k, floor=floor, control=control, fit_domain=fit_domain,
            parameters=reader.parameters,
        )  # fmt: skip
        rows = (said.bits, *setting.ends(floor))
        self.put(setting, at, fbu, rows, note=reader.note or note, fitted=fitted, said=said)

    def add(self, setting: Setting, at: Coordinates, estimate: Estimate, clusters: Clusters, note: str = "") -> None:
        """A finished estimate."""
        self._outcome.add(self.study.record(self._complete(setting, at), estimate, note), estimate, clusters)

    def missing(self, setting: Setting, at: Coordinates, reason: str, note: str = "") -> None:
        """An NA record with its reason."""
        nothing = Estimate.missing(reason, note, len(setting.split.test), setting.n_test_groups)
        record = self.study.record(self._complete(setting, at), nothing)
        self._missing.setdefault(record.id, record)

    def untold(self, at: Coordinates, reason: str, note: str) -> None:
        """An NA record of a domain whose rows no fold has; `at` names both domains."""
        record = self.study.record(
            *self.study.untold(replace(at, behaviour=self.behaviour, hook=self.hook), reason, note)
        )
        self._missing.setdefault(record.id, record)

    def keep_directions(self, reader: Reader) -> None:
        """Where a reader looks, for cells that keep only that."""
        assert reader.directions is not None
        self._directions[ReaderName.of(reader)] = reader.directions.numpy()

    def keep_select(self, fold: int, reader: Reader, bits: float) -> None:
        """A reader's mean bits on the selection rows of a fold."""
        self._select.setdefault(ReaderName.of(reader), {})[fold] = bits

    def keep_null(self, fold: int, reader: Reader, gains: NDArray[np.float64]) -> None:
        """A reader's gains on a fold's test rows, as observed and under each permutation."""
        self._null.setdefault(ReaderName.of(reader), {})[fold] = gains

    def keep_pairs(self, fold: int, reader: Reader, pairs: CounterexamplePairs) -> None:
        """Test rows of a fold that a reader cannot tell apart and the model treats differently."""
        self._pairs.setdefault(ReaderName.of(reader), {})[fold] = pairs

    def keep_answers(self, setting: Setting, said: NDArray[np.int64], confidence: NDArray[np.float64]) -> None:
        """The likeliest outcome of the test rows of a setting by `linear`, and its probability."""
        self._answers.setdefault(setting.domain, {})[setting.fold] = Answers(setting.rows("test"), said, confidence)

    def keep_alone(self, reader: Reader, alone: Alone) -> None:
        """A reader of the activations alone, to be taken away."""
        self._alone[ReaderName.of(reader)] = alone

    def keep_decoded(self, fold: int, feature: str, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """What a feature was decoded to at test rows of a fold: of very many, at the first ones."""
        first = slice(MOST_DECODED)
        self._decoded.setdefault(feature, {})[fold] = DecodedRows(rows[first], labels[first].astype(np.int8))

    def keep_linear(self, fold: int, bits: float) -> None:
        """Mean bits of the site's own linear readout on the selection rows of a fold."""
        self._linear[fold] = bits

    def finish(self) -> Outcome:
        """One record for each number, from the rows of all folds; NA where a fold is missing."""
        partial, found = set(), self._estimates()
        for at, score in self._scores.items():
            if at.metric == FALLS:
                continue
            estimate = found.get(at)
            if estimate is None:
                note = f"fitted in {len(score.folds)} of {self.study.n_folds} folds"
                estimate = Estimate.missing("not_converged", note)
                partial.add((at.metric, at.level, at.control, at.floor))
            raw = None if estimate.value is None or estimate.na_reason else score.mean_raw
            beside = score.beside(found.get(replace(at, metric=FALLS)) if at.metric == "read" else None)
            record = self.study.record(score.coordinates, estimate, "; ".join(score.notes), raw, beside)
            self._outcome.add(record, estimate, self._pool_clusters(score.setting))
        for record in self._missing.values():
            if (record.metric, record.level, record.control, record.floor) not in partial:
                self._outcome.records.append(record)
        self._outcome.records += self._never_deleted()
        self._outcome.kept = self._kept()
        return self._outcome

    def _complete(self, setting: Setting, at: Coordinates) -> Coordinates:
        return replace(
            at, behaviour=self.behaviour, hook=self.hook, fit_domain=at.fit_domain or setting.domain,
            test_domain=setting.domain,
        )  # fmt: skip

    def _pool_clusters(self, setting: Setting) -> Clusters:
        return self.study.pool(self.behaviour, setting.domain, setting.unit).clusters

    def _estimates(self) -> dict[Coordinates, Estimate]:
        """Of every score that all folds gave rows to; those of one pool are resampled together."""
        out: dict[Coordinates, Estimate] = {}
        together: dict[tuple[str, str], list[_Score]] = {}
        for at, score in self._scores.items():
            if len(score.folds) < self.study.n_folds:
                continue
            if score.formula is Separation:
                out[at] = Separation(*score.rows).estimate(self._pool_clusters(score.setting))
            else:
                together.setdefault((score.setting.domain, score.setting.unit), []).append(score)
        for scores in together.values():
            # One after the other, so that the rows of only one are held.
            found = estimates((score.ratio for score in scores), self._pool_clusters(scores[0].setting))
            out |= {score.coordinates: estimate for score, estimate in zip(scores, found, strict=True)}
        return out

    def _never_deleted(self) -> list[Record]:
        """NA, with the reason, beside every number that was not measured without a span."""
        known = {record.id for record in self._outcome.records}
        out = []
        for record in self._outcome.records:
            if record.control or record.metric not in ("read", "transfer") or record.level == "prior":
                continue
            for span in self.without.seen:
                why = self.without.why_not(span, record.test_domain)
                made = replace(
                    record, control=f"deleted:{span}", value=None, low=None, high=None, raw=None, bits=None,
                    p99_bits=None, worst_group=None, falls=None, falls_low=None, falls_high=None, auroc=None,
                    accuracy=None, r2=None, note=why or record.note,
                    na_reason="not_defined" if why else record.na_reason or "not_converged",
                )  # fmt: skip
                if made.id not in known:
                    out.append(made)
        return out

    def _kept(self) -> Kept:
        """What all folds gave; means hide rows, so what the linear reader says of each is kept too."""
        n_folds = self.study.n_folds
        select = {name: _in_order(folds) for name, folds in self._select.items() if len(folds) == n_folds}
        null = {name: _in_order(folds) for name, folds in self._null.items() if len(folds) == n_folds}
        linear = _in_order(self._linear) if len(self._linear) == n_folds else None
        pairs = {name: CounterexamplePairs.together(list(folds.values())) for name, folds in self._pairs.items()
                 if len(folds) == n_folds}  # fmt: skip
        return Kept(self._directions, select, null, linear, self._row_scores(), self._row_bits(), pairs,
                    self._all_answers(), self._alone, self._all_decoded())  # fmt: skip

    def _all_decoded(self) -> dict[str, DecodedRows]:
        """Of all folds, one after the other."""
        return {feature: DecodedRows(*(np.concatenate(column) for column in zip(*folds.values(), strict=True)))
                for feature, folds in self._decoded.items()}  # fmt: skip

    def _all_answers(self) -> Answers | None:
        """Of the domains that all folds have."""
        whole = [folds for folds in self._answers.values() if len(folds) == self.study.n_folds]
        parts = [answers for folds in whole for answers in folds.values()]
        return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else None

    def _row_bits(self) -> RowBits | None:
        """Of every reader that all folds of the seen domain fitted."""
        home = self.study.home
        read = {at: score for at, score in self._scores.items()
                if (at.metric, at.control, at.floor, at.arm) == ("read", "", "strong", "")
                and at.fit_domain == at.test_domain == home and len(score.folds) == self.study.n_folds}  # fmt: skip
        if not read:
            return None
        settings = self.study.pool(self.behaviour, home).settings
        rows = np.concatenate([setting.rows("test") for setting in settings])
        order = np.argsort(rows)
        names = [ReaderName(at.level, at.source, at.k if at.rank is None else at.rank) for at in read]
        bits = (score.rows[0][order].astype(np.float32) for score in read.values())
        told = {name: _told(score.said, order) for name, score in zip(names, read.values(), strict=True)}
        return RowBits(
            rows[order], dict(zip(names, bits, strict=True)), {k: v for k, v in told.items() if v is not None}
        )

    def _row_scores(self) -> Scores | None:
        home = self.study.home
        at = Coordinates("linear", "behaviour", None, behaviour=self.behaviour, hook=self.hook,
                         fit_domain=home, test_domain=home)  # fmt: skip
        if at not in self._scores:
            return None
        score = self._scores[at]
        said = self._scores.get(
            replace(at, floor="weak"), score
        ).said  # alone where it was read so, as published probes
        settings = {fold: self.study.setting(self.behaviour, home, fold) for fold in sorted(score.folds)}
        rows = np.concatenate([setting.rows("test") for setting in settings.values()])
        missed = np.concatenate([fbu(*score.folds[fold]).missed for fold in settings])
        odds = np.concatenate([_odds(said.get(fold), len(settings[fold].split.test)) for fold in settings])
        if settings and (first := next(iter(settings.values()))).behaviour.is_value:
            odds = first.pooling.zero + first.pooling.unit * odds
        order = np.argsort(-missed)
        order = order if len(order) <= MOST_SCORED else order[:N_WORST]
        return Scores(rows[order], missed[order], odds[order])


def _told(said: Mapping[int, Said], order: NDArray[np.int64]) -> Told | None:
    """What was said of the rows of all folds, in this order; None of a number, and of what says no law."""
    folds = [said[fold] for fold in sorted(said)]
    if not folds or any(one.answer is None or one.sure is None or one.agreed is None for one in folds):
        return None
    return Told(
        *(np.concatenate([getattr(one, name) for one in folds])[order] for name in ("answer", "sure", "agreed"))
    )


def _accuracy(said: Iterable[Said]) -> float | None:
    """Share of rows of all folds whose likeliest outcome is right; None where the behaviour is not certain."""
    right = [one.right for one in said if one.right is not None]
    return float(np.concatenate(right).mean()) if right else None


def _r2(said: Sequence[Said]) -> float | None:
    """Share of a number's variance over the rows of all folds that is explained; None of a law, or a constant."""
    if not said or any(one.value is None for one in said):
        return None
    value = np.concatenate([one.value for one in said if one.value is not None])
    missed = 2 * np.log(2) * np.concatenate([one.bits for one in said]).mean()  # bits of half a squared error in nats
    return float(1 - missed / value.var()) if value.var() > 0 else None


def _odds(said: Said | None, n: int) -> NDArray[np.float64]:
    return np.full(n, np.nan) if said is None or said.odds is None else said.odds


def _auroc(said: Iterable[Said]) -> float | None:
    """AUROC of the log odds over the rows of all folds; None where there are not two outcomes, or not both."""
    told = [(one.odds, one.second) for one in said if one.odds is not None and one.second is not None]
    if not told:
        return None
    odds, second = (np.concatenate(parts) for parts in zip(*told, strict=True))
    return auroc(odds, second) if second.any() and not second.all() else None


def _in_order(folds: Mapping[int, NDArray] | Mapping[int, float]) -> NDArray[np.float64]:
    return np.stack([np.asarray(folds[fold]) for fold in sorted(folds)])
