"""Examples: the rows behind a run's numbers, as the tables that its folder keeps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from probekit.activations.capture import decode_of
from probekit.errors import FitError
from probekit.jobs.cells import Cell
from probekit.jobs.job import Job
from probekit.measurement.cell import Measurement
from probekit.measurement.collector import N_WORST
from probekit.measurement.outcome import Kept, RowBits
from probekit.metrics.pairs import CounterexamplePairs
from probekit.metrics.plausible import Answered, answered, rate
from probekit.storage.lines import OUTCOMES, TESTED
from probekit.task import Task

MOST_TEXTS = 20_000  # rows; of more, only those that a table shows are told in words
HEAD, TAIL = 100, 300  # tokens of a text that is longer than both, from its beginning and to the place that is read
N_PLAUSIBLE = 20  # rows of each domain
OMITTED = " … "

Places = Mapping[str, Measurement]  # by the rule of positions that is measured apart


def rows_by_reader(cell: Cell, rows: RowBits) -> Iterator[Mapping[str, Any]]:
    """What a run folder keeps of each reader of a read cell (`RunWriter.write_rows`)."""
    where = {"hook": cell.hooks[0], "behaviour": cell.what, "rule": cell.place}
    at = rows.rows.astype(np.int32)
    for reader, bits in rows.bits.items():
        told = rows.told.get(reader)
        said = {} if told is None else {"said": told.answer, "confidence": told.confidence, "agreed": told.agreed}
        yield {**where, **reader._asdict(), "row": at, "bits": bits, **said}


@dataclass
class Tested:
    """The rows behind the cells of a run. kept: what it keeps of each read cell."""

    places: Places
    kept: Mapping[Cell, Kept]

    def tested_rows(self) -> pd.DataFrame:
        """The test rows of each behaviour and place: which they are, what the model did, and what floor and ceiling
        leave at them, in bits.
        """
        parts = []
        for behaviour, place in dict.fromkeys((cell.what, cell.place) for cell in self.kept):
            measurement = self.places[place]
            home = measurement.home
            if behaviour in measurement.constant or measurement.unmeasurable(behaviour, home):
                continue
            try:
                settings = measurement.pool(behaviour, home).settings
            except FitError:  # no floor: every cell of it has failed, and says so
                continue
            for setting in settings:
                at = setting.rows("test")
                floor, ceiling = (bits.astype(np.float32) for bits in setting.ends())
                did = zip(*(_did(measurement, behaviour, row)[:2] for row in at.tolist()), strict=True)
                told = dict(zip(("outcome", "probability"), did, strict=True))
                parts.append(pd.DataFrame(
                    {"behaviour": behaviour, "rule": place, "row": at.astype(np.int32), **self._where(measurement, at),
                     "fold": setting.fold, **told, "floor_bits": floor, "ceiling_bits": ceiling}))  # fmt: skip
        return _table(parts, _TESTED)

    def outcomes(self) -> pd.DataFrame:
        """The names of what readers of each behaviour say, by number."""
        parts = [pd.DataFrame({name: [] for name in _OUTCOMES})]
        for behaviour, place in dict.fromkeys((cell.what, cell.place) for cell in self.kept):
            if self.places[place].observations.behaviours[behaviour].is_value:
                continue
            names = list(self.places[place].pooling(behaviour).behaviour.outcomes)
            parts.append(
                pd.DataFrame({"at": range(len(names)), "outcome": names}).assign(behaviour=behaviour, rule=place)
            )
        return _table(parts, _OUTCOMES)

    def _where(self, measurement: Measurement, rows: np.ndarray) -> dict[str, np.ndarray]:
        seen = measurement.observations
        return {"example": seen.example[rows], "position": seen.position[rows],
                "group": seen.group[rows].astype(str), "domain": seen.domain[rows].astype(str)}  # fmt: skip


@dataclass
class Examples(Tested):
    """A job's rows in words, and the tables made of them."""

    job: Job
    _texts: dict[tuple[int, int], str] = field(default_factory=dict, repr=False)

    def text(self, example: int, position: int) -> str:
        """What is read at a place: its example's text up to and including it; ids where there is no tokenizer."""
        if (example, position) not in self._texts:
            tokens = np.asarray(self.job.task.tokens[example], np.int64)[: position + 1]
            decode = decode_of(self.job.model) or self._named
            parts = [tokens] if len(tokens) <= HEAD + TAIL else [tokens[:HEAD], tokens[-TAIL:]]
            self._texts[example, position] = OMITTED.join(map(decode, parts))
        return self._texts[example, position]

    def _named(self, ids: np.ndarray) -> str:
        """Tokens of a model without a tokenizer: by names that a behaviour of the task has for them, else as ids."""
        names: dict[int, str] = {}
        for told in self.job.task.behaviours:
            if told.kind == "law" and told.tokens and told.outcomes and len(told.tokens) == len(told.outcomes):
                names |= dict(zip(told.tokens, told.outcomes, strict=True))
        return " ".join(names.get(one, str(one)) for one in ids.tolist())

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """All of them by name; `texts` comes last, since it holds what the others show."""
        tested = self.tested_rows()
        yield TESTED, tested
        yield "counterexamples", self.counterexamples()
        yield "alike", self.alike()
        rows, rates = self.plausible()
        yield "plausible", rows
        yield "plausible_rates", rates
        yield OUTCOMES, self.outcomes()
        if len(features := self.features()):
            yield "features", features
        yield "texts", self.texts(tested)

    def texts(self, tested: pd.DataFrame) -> pd.DataFrame:
        """example, position and text of the test rows; of very many, of those alone that were asked for."""
        places = tested[["example", "position"]].drop_duplicates()
        if len(places) <= MOST_TEXTS:
            for example, position in places.itertuples(index=False):
                self.text(int(example), int(position))
        keys = sorted(self._texts)
        columns = {"example": [key[0] for key in keys], "position": [key[1] for key in keys]}
        return pd.DataFrame(columns | {"text": [self._texts[key] for key in keys]})

    def counterexamples(self) -> pd.DataFrame:
        """Pairs of test rows that a reader cannot tell apart and the model treats differently, the clearest first."""
        parts = []
        for where, cell, pairs in self._pairs():
            measurement = self.places[cell.place]
            sides: dict[str, Any] = {}
            for side, rows in (("a", pairs.first), ("b", pairs.second)):
                columns = self._where(measurement, rows) | {"text": self._told(measurement, rows)}
                did = [_did(measurement, cell.what, row) for row in rows.tolist()]
                columns |= {name: [one[i] for one in did] for i, name in enumerate(("outcome", "probability", "law"))}
                sides |= {f"{name}_{side}": values for name, values in columns.items()}
            outcomes = [list(measurement.pooling(cell.what).behaviour.outcomes)] * len(pairs.first)
            figures = {"distance": pairs.distance, "percentile": pairs.percentile,
                       "divergence_bits": pairs.divergence, "ratio": pairs.ratio}  # fmt: skip
            parts.append(pd.DataFrame(
                {"rank": np.arange(1, len(pairs.first) + 1)} | figures | sides | {"outcomes": outcomes}
            ).assign(**where))  # fmt: skip
        return _table(parts, _COUNTEREXAMPLES)

    def features(self) -> pd.DataFrame:
        """What each feature of a hypothesis is at test rows and was decoded to at each site: a class of each target.

        classes, targets: their names, in the order of the numbers in `is` and `decoded`.
        """
        parts = []
        for cell, kept in self.kept.items():
            seen = self.places[cell.place].observations
            for name, (rows, labels) in kept.decoded.items():
                feature = seen.features[name]
                columns = {"example": seen.example[rows], "position": seen.position[rows], "decoded": labels.tolist(),
                           "is": feature.labels[rows].tolist(), "classes": [list(feature.classes)] * len(rows),
                           "targets": [list(feature.targets)] * len(rows)}  # fmt: skip
                where = {"hook": cell.hooks[0], "behaviour": cell.what, "rule": cell.place, "feature": name}
                parts.append(pd.DataFrame(columns).assign(**where))
        return _table(parts, _FEATURES)

    def alike(self) -> pd.DataFrame:
        """How differently the model treats rows that a reader cannot tell apart, and any two rows, in bits: means."""
        found = [
            where | {"n_pairs": len(pairs.first), "n_alike": pairs.n_alike, "alike_bits": pairs.alike,
                     "random_bits": pairs.random}
            for where, _, pairs in self._pairs()
        ]  # fmt: skip
        return _table([pd.DataFrame(found)], _ALIKE)

    def plausible(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What `linear` is sure of, says consistently and gets wrong: rows, the surest first, and rates by domain."""
        rows, rates = [], []
        for cell, kept in self.kept.items():
            if kept.answers is None:
                continue
            measurement = self.places[cell.place]
            at, said, confidence = kept.answers
            seen, behaviour = measurement.observations, measurement.pooling(cell.what).behaviour
            law, domain = behaviour.law[at], seen.domain[at]
            pair = seen.example[at] // 2 if self.job.spec.task.pair is not None else None
            found = answered(confidence, said, law, seen.group[at], domain == measurement.home, pair)
            where = {"hook": cell.hooks[0], "behaviour": cell.what, "rule": cell.place}
            for name in dict.fromkeys(domain.tolist()):
                here = np.flatnonzero((domain == name) & found.asked)
                if not len(here):
                    continue
                rates.append(where | {"domain": name} | self._rates(found, here, seen.group[at]))
                shown = here[found.plausible[here]]
                shown = shown[np.argsort(-confidence[shown], kind="stable")][:N_PLAUSIBLE]
                names = np.array(behaviour.outcomes, dtype=object)
                told = {"consistent_with": found.with_what, "said": names[said[shown]],
                        "confidence": confidence[shown], "said_probability": law[shown, said[shown]],
                        "outcome": names[law[shown].argmax(1)], "probability": law[shown].max(1),
                        "text": self._told(measurement, at[shown])}  # fmt: skip
                rows.append(pd.DataFrame(self._where(measurement, at[shown]) | told).assign(**where))
        return _table(rows, _PLAUSIBLE), _table([pd.DataFrame(rates)], _RATES)

    def _rates(self, found: Answered, here: np.ndarray, group: np.ndarray) -> dict[str, Any]:
        spec = self.job.spec
        told = rate(found.plausible[here], group[here], spec.n_bootstrap, spec.seed_data)
        sure = found.confident[here]
        wrong = float(found.wrong[here][sure].mean()) if sure.any() else float("nan")
        return {"consistent_with": found.with_what, "rate": told.value, "low": told.low, "high": told.high,
                "n": told.n, "groups": told.groups, "confident": float(sure.mean()),
                "consistent": float(found.consistent[here].mean()), "wrong_of_confident": wrong}  # fmt: skip

    def _pairs(self) -> Iterator[tuple[dict[str, Any], Cell, CounterexamplePairs]]:
        for cell, kept in self.kept.items():
            for reader, pairs in kept.pairs.items():
                where = {"hook": cell.hooks[0], "behaviour": cell.what, "rule": cell.place, **reader._asdict()}
                yield where, cell, pairs

    def _told(self, measurement: Measurement, rows: np.ndarray) -> list[str]:
        seen = measurement.observations
        return [self.text(int(seen.example[row]), int(seen.position[row])) for row in rows]


def _did(measurement: Measurement, behaviour: str, row: int) -> tuple[str, float, list[float]]:
    """What the model did at a row: the likeliest outcome, its probability, the law; of a number only what it is."""
    plain = measurement.observations.behaviours[behaviour]
    if plain.is_value:
        return f"{plain.law[row, 0]:.6g}", float("nan"), [float(plain.law[row, 0])]
    pooled = measurement.pooling(behaviour).behaviour
    law = pooled.law[row]
    best = int(law.argmax())
    return pooled.outcomes[best], float(law[best]), law.tolist()


_CELL = ("hook", "behaviour", "rule")
_READER = (*_CELL, "level", "source", "k")
_ROW = ("example", "position", "group", "domain")
_SIDE = (*_ROW, "text", "outcome", "probability", "law")
_TESTED = ("behaviour", "rule", "row", *_ROW, "fold", "outcome", "probability", "floor_bits", "ceiling_bits")
_COUNTEREXAMPLES = (*_READER, "rank", "distance", "percentile", "divergence_bits", "ratio",
                   *(f"{name}_{side}" for side in "ab" for name in _SIDE), "outcomes")  # fmt: skip
_OUTCOMES = ("behaviour", "rule", "at", "outcome")
_FEATURES = (*_CELL, "feature", "example", "position", "is", "decoded", "classes", "targets")
_ALIKE = (*_READER, "n_pairs", "n_alike", "alike_bits", "random_bits")
_PLAUSIBLE = (
    *_CELL,
    *_ROW,
    "consistent_with",
    "said",
    "confidence",
    "said_probability",
    "outcome",
    "probability",
    "text",
)
_RATES = (*_CELL, "domain", "consistent_with", "rate", "low", "high", "n", "groups", "confident", "consistent",
         "wrong_of_confident")  # fmt: skip


def _table(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """The parts that have rows, in these columns; empty with these columns where none has."""
    kinds = {"k": "Int64"} if "k" in columns else {}  # missing or not, so that parts can be joined
    some = [part.reindex(columns=columns).astype(kinds) for part in parts if len(part)]
    return pd.concat(some, ignore_index=True) if some else pd.DataFrame({name: [] for name in columns})


def scores_of(
    cells: Sequence[Cell], kept: Callable[[Cell], Kept], measurements: Mapping[str, Measurement]
) -> pd.DataFrame:
    """What `linear` says of each test row at each site: log odds of the second of two outcomes, or the number.

    kept: what a cell left behind.
    """
    names = ["hook", "behaviour", "rule", "row", "domain", "group", "example", "position", "missed_bits", "log_odds",
             "number"]  # fmt: skip
    parts = [pd.DataFrame({name: [] for name in names})]
    for cell in cells:
        scores = kept(cell).scores if cell.kind == "read" else None
        if scores is None:
            continue
        at, seen = scores.rows, measurements[cell.place].observations
        where = {"hook": cell.hooks[0], "behaviour": cell.what, "rule": cell.place, "row": at}
        rows = {"domain": seen.domain[at], "group": seen.group[at].astype(str), "example": seen.example[at],
                "position": seen.position[at]}  # fmt: skip
        told, other = ("number", "log_odds") if seen.behaviours[cell.what].is_value else ("log_odds", "number")
        said = {"missed_bits": scores.missed, told: scores.odds, other: np.nan}
        parts.append(pd.DataFrame(where | rows | said, columns=names))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def worst_of(scores: pd.DataFrame, task: Task, measurements: Mapping[str, Measurement]) -> pd.DataFrame:
    """The test rows that `linear` misses most at each site, with the likeliest outcome and what was read."""
    worst = scores.groupby(["behaviour", "rule", "hook"], sort=False).head(N_WORST).drop(columns=["log_odds", "number"])
    outcome, tokens = [], []
    columns = [worst[name].tolist() for name in ("rule", "behaviour", "row", "example", "position")]
    for rule, behaviour, row, example, position in zip(*columns, strict=True):
        found = measurements[rule].observations.behaviours[behaviour]
        law = found.law[row]
        outcome.append(f"{law[0]:.6g}" if found.is_value else found.outcomes[int(law.argmax())])
        tokens.append(" ".join(str(int(t)) for t in task.tokens[example][: position + 1]))
    return worst.assign(outcome=outcome, tokens=tokens).drop(columns="row")
