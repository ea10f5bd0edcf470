"""Collector: the test rows of one hook point and behaviour, gathered over folds until each number can be made once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.fit.readers import Reader
from probekit.measurement.setting import Pool, Setting
from probekit.metrics.auroc import auroc_interval, auroc_leak, auroc_rows
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Estimate, Ratio, difference, estimates, fbu, share, transfer
from probekit.metrics.rows import at_infinity
from probekit.records import Losses, Record

AUROC_WITHIN = 0.05  # half an interval, for rows per class below which an AUROC is marked
N_WORST = 20  # rows per cell that are kept for the table of worst examples


@dataclass
class Outcome:
    """What a cell gives: records, the group sums behind them, and tensors worth keeping."""

    records: list[Record] = field(default_factory=list)
    losses: list[Losses] = field(default_factory=list)
    tensors: dict[str, NDArray] = field(default_factory=dict)

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


def with_losses(outcome: Outcome) -> Iterator[tuple[Record, Losses]]:
    losses = {loss.record: loss for loss in outcome.losses}
    for record in outcome.records:
        if record.id in losses:
            yield record, losses[record.id]


@dataclass
class _Score:
    """One number in the making: what is computed, where it stands, and the test rows of each fold that has come."""

    kind: str
    setting: Setting
    unit: str
    coordinates: dict[str, Any]
    extra: dict[str, Any]
    notes: list[str]
    folds: dict[int, dict[str, NDArray]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, NDArray]:
        """Everything that came, the folds one after the other as in their pool."""
        folds = [self.folds[fold] for fold in sorted(self.folds)]
        return {name: np.concatenate([rows[name] for rows in folds]) for name in folds[0]}


@dataclass
class Collector:
    """Collects the rows of one (hook, behaviour) over folds, and makes records of them.

    home: the seen domain. pool: (domain, unit of splitting) -> the folds that rows come from. record: a Record from a
    setting, an estimate and further coordinates. spans: what readers are also tried without, each with the function
    that says why that cannot be told in a domain.
    """

    hook: str
    behaviour: str
    home: str
    n_folds: int
    pool: Callable[[str, str], Pool]
    record: Callable[..., Record]
    spans: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    tensors: dict[str, NDArray] = field(default_factory=dict)
    _scores: dict[tuple, _Score] = field(default_factory=dict)
    _kept: dict[str, dict[int, NDArray]] = field(default_factory=dict)
    _outcome: Outcome = field(default_factory=Outcome)
    _missing: dict[str, Record] = field(default_factory=dict)

    def keep(self, name: str, fold: int, values: NDArray) -> None:
        """Numbers of one fold that end in the cell's tensors: [n_folds, ...]."""
        self._kept.setdefault(name, {})[fold] = values

    def ends(self, setting: Setting, floor: str = "strong") -> dict[str, NDArray]:
        """Both ends of the scale on a setting's test rows."""
        return {"floor": setting.floor_bits(floor), "ceiling": setting.test_ceiling}

    def put(
        self, setting: Setting, kind: str, rows: dict[str, NDArray], *, unit: str = "group", note: str = "",
        extra: Mapping[str, Any] | None = None, **coordinates: Any,
    ) -> None:  # fmt: skip
        """Rows of one fold. extra: coordinates that may differ between folds, of which the first fold's are told."""
        coordinates = {"metric": "read", "hook": self.hook, **coordinates}
        key = (setting.domain, *sorted((name, str(value)) for name, value in coordinates.items()))
        score = self._scores.setdefault(key, _Score(kind, setting, unit, coordinates, dict(extra or {}), []))
        score.folds[setting.fold] = rows
        if note and note not in score.notes:
            score.notes.append(note)

    def score(
        self, setting: Setting, reader: Reader, bits: NDArray, *, floor: str = "strong", note: str = "",
        unit: str = "group", **more: Any,
    ) -> None:  # fmt: skip
        """FBU of a reader's test bits."""
        self.put(
            setting, "fbu", {"bits": bits} | self.ends(setting, floor), unit=unit, note=reader.note or note,
            extra={"parameters": reader.parameters}, level=reader.level, source=reader.source, k=reader.k, floor=floor,
            **more,
        )  # fmt: skip

    def add(self, setting: Setting, estimate: Estimate, clusters: Clusters, **coordinates: Any) -> None:
        """A finished estimate."""
        self._outcome.add(self.record(setting, estimate, hook=self.hook, **coordinates), estimate, clusters)

    def missing(self, setting: Setting, level: str, reason: str, note: str = "", **more: Any) -> None:
        """An NA record with its reason."""
        nothing = Estimate.missing(reason, note, len(setting.split.test), setting.n_test_groups)
        record = self.record(setting, nothing, **{"metric": "read", "hook": self.hook, "level": level} | more)
        self._missing.setdefault(record.id, record)

    def finish(self) -> Outcome:
        """One record for each number, from the rows of all folds; NA where a fold is missing."""
        partial, found = set(), self._estimates()
        for key, score in self._scores.items():
            told = {"note": "; ".join(score.notes)} | score.extra | score.coordinates
            estimate = found.get(key)
            if estimate is None:
                note = f"fitted in {len(score.folds)} of {self.n_folds} folds"
                estimate = Estimate.missing("not_converged", note)
                partial.add((told["metric"], told["level"], told.get("control", ""), told.get("floor", "strong")))
            record = self.record(score.setting, estimate, **told)
            if "raw" in score.folds[score.setting.fold] and record.value is not None:
                record = replace(record, raw=float(score.rows["raw"].mean()))
            self._outcome.add(record, estimate, self.pool(score.setting.domain, score.unit).clusters)
        for record in self._missing.values():
            if (record.metric, record.level, record.control, record.floor) not in partial:
                self._outcome.records.append(record)
        self._outcome.records += self._never_deleted()
        for name, folds in self._kept.items():
            if len(folds) == self.n_folds:
                self.tensors[name] = np.stack([folds[fold] for fold in range(self.n_folds)])
        self.tensors |= self._worst_rows()
        self._outcome.tensors = self.tensors
        return self._outcome

    def _estimates(self) -> dict[tuple, Estimate]:
        """Of every score that all folds gave rows to; those of one pool are resampled together."""
        out: dict[tuple, Estimate] = {}
        together: dict[tuple[str, str], dict[tuple, _Score]] = {}
        for key, score in self._scores.items():
            place = score.setting.domain, score.unit
            if len(score.folds) == self.n_folds and score.kind == "auroc":
                out[key] = _auroc_leak(self.pool(*place).clusters, **score.rows)
            elif len(score.folds) == self.n_folds:
                together.setdefault(place, {})[key] = score
        for place, scores in together.items():
            ratios = (_RATIOS[score.kind](**score.rows) for score in scores.values())
            for (key, score), estimate in zip(
                scores.items(), estimates(ratios, self.pool(*place).clusters), strict=True
            ):
                out[key] = replace(estimate, **_OF_NO_ROW) if score.kind == "extrapolated" else estimate
        return out

    def _never_deleted(self) -> list[Record]:
        """NA, with the reason, beside every number that was not measured without a span."""
        known = {record.id for record in self._outcome.records}
        out = []
        for record in self._outcome.records:
            if record.control or record.metric not in ("read", "transfer") or record.level == "prior":
                continue
            for span, why_not in self.spans.items():
                why = why_not(record.test_domain)
                nothing = {"na_reason": "not_defined", "note": why} if why else (
                    {"na_reason": record.na_reason or "not_converged"})  # fmt: skip
                figures = dict.fromkeys(("value", "low", "high", "raw", "bits", "p99_bits", "worst_group"))
                made = replace(record, control=f"deleted:{span}", **figures, **nothing)
                if made.id not in known:
                    out.append(made)
        return out

    def _worst_rows(self) -> dict[str, NDArray]:
        """Rows of the observations that the linear reader misses most, and by how many bits: means hide them."""
        for score in self._scores.values():
            told = score.coordinates
            plain = told["metric"] == "read" and not told.get("control") and told.get("floor") == "strong"
            if plain and told["level"] == "linear" and score.setting.domain == self.home:
                settings = self.pool(self.home, "group").settings
                at = np.concatenate([settings[fold].rows("test") for fold in sorted(score.folds)])
                missed = np.concatenate(
                    [score.folds[fold]["bits"] - score.folds[fold]["ceiling"] for fold in sorted(score.folds)]
                )
                worst = np.argsort(-missed)[:N_WORST]
                return {"worst_rows": at[worst], "worst_bits": missed[worst]}
        return {}


# From rows to estimates


def _extrapolated(floor: NDArray, ceiling: NDArray, **rows: NDArray) -> Ratio:
    """S_inf beside the same floor and ceiling; sizes are means over folds, in rows per coordinate."""
    bits = np.stack([rows[name] for name in rows if name.startswith("bits")])
    sizes = np.array([rows[f"size{i}"].mean() for i in range(len(bits))])
    return Ratio(at_infinity(bits, sizes, 1) - ceiling, floor - ceiling, floor_bits=floor, ceiling_bits=ceiling)


def _auroc_leak(clusters: Clusters, score: NDArray, label: NDArray) -> Estimate:
    value, low, high = auroc_interval(score, label, clusters)
    leaks = auroc_leak(value), auroc_leak(high), auroc_leak(low)
    fewest, asked = int(min(label.sum(), len(label) - label.sum())), auroc_rows(AUROC_WITHIN)
    note = f"{fewest} rows of the rarer class, {asked} of each tell it to +-{AUROC_WITHIN:g}" if fewest < asked else ""
    return Estimate(*leaks, None, None, None, None, None, len(score), len(clusters.names), note=note)


_RATIOS: Mapping[str, Callable[..., Ratio]] = {
    "fbu": fbu,
    "share": share,
    "transfer": lambda moved, direct, floor, ceiling, raw=None: transfer(moved, direct, floor, ceiling),
    "difference": difference,
    "extrapolated": _extrapolated,
}


# No reader has the losses that a limit is made of, so that nothing is told of their tail and no group sum is kept.
_OF_NO_ROW = {"p99_bits": None, "worst_group": None, "numerator": None, "denominator": None}
