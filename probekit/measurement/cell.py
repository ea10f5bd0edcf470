"""A cell: every level fitted beside the floor at one hook point for one behaviour, and scored on test rows.

Within a cell every outer fold is fitted anew; a number is made once, from the test rows of all folds together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.readers import Reader, fit_level
from probekit.inputs.given import Brought
from probekit.levels import Hypothesis, Level
from probekit.measurement.alone import keep_alone
from probekit.measurement.collector import Collector
from probekit.measurement.controls import ON_WEAK, measure_controls, measure_deleted
from probekit.measurement.deletion import Deletions, strong_floor
from probekit.measurement.diagnostics import (
    keep_beside,
    measure_code_length,
    measure_falling,
    measure_limit,
    measure_shares,
)
from probekit.measurement.examples import keep_examples
from probekit.measurement.fold import WEAK, Fold
from probekit.measurement.hypotheses import Decoder, Decoders, measure_hypotheses
from probekit.measurement.outcome import Coordinates, Decoded, Outcome
from probekit.measurement.setting import Said
from probekit.measurement.sites import SiteRow, across_sites
from probekit.measurement.study import Study
from probekit.measurement.transfer import measure_transfer
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Ratio, estimates
from probekit.spec import ReadSpec, TransferSpec
from probekit.task import Observations, check_names, find_constant, named

BLOCK = 4_096  # rows that are looked at together


class Measurement(Study):
    """A study whose cells are measured one at a time."""

    def read_cell(
        self, hook: str, behaviour: str, x: Float[Tensor, "n d"], twin: Float[Tensor, "n d"] | None,
        deleted: Mapping[str, Tensor] | None = None,
    ) -> Outcome:  # fmt: skip
        """Read, controls, decomposition, transfer and hypotheses of one behaviour at one hook point.

        x: activations of all rows of the observations; twin: those of the randomly initialised network; deleted: those
        of the same rows without a span, by its name.
        """
        _check_finite(x, hook)
        if twin is not None:
            _check_finite(twin, f"{hook} of the random twin")
        if len(x) != len(self.observations):
            raise BadInput(f"'{hook}' has {len(x)} rows for {len(self.observations)} observations.")
        if behaviour in self.constant:
            return self._nothing_to_read(hook, behaviour, "small_denominator", self.constant[behaviour])
        if why := self.unmeasurable(behaviour, self.home):
            said = why if len(self.domains) == 1 else f"domain '{self.home}', where readers are fitted, has {why}"
            return self._nothing_to_read(hook, behaviour, "too_few_rows", said)
        seen = {span: None if found is None else (found, (deleted or {})[span]) for span, found in self.deleted.items()}
        cell = Collector(self, hook, behaviour, Deletions(seen))
        for fold in range(self.n_folds):
            self._read_fold(cell, fold, x, twin)
        return cell.finish()

    def feature_cell(self, hook: str, feature: str, x: Float[Tensor, "n d"]) -> Outcome:
        """Accuracy of reading a named feature off a site, linear and by MLP, mean over its targets (first fold)."""
        _check_finite(x, hook)
        decoder = self._decoders.get(hook, feature, self.home, 0, x)
        rows = decoder.index[decoder.split.test]
        labels = self.observations.features[feature].labels[rows]
        clusters = Clusters.of(self.observations.group[rows], self.n_bootstrap, self.seeds.data)
        predicted = self._predictions(feature, decoder, x)
        ratios = [Ratio((classes == labels).mean(1), np.ones(len(rows))) for classes in predicted.values()]
        outcome = Outcome(kept=Decoded(feature, decoder.directions.numpy()))
        for (level, source), estimate in zip(predicted, estimates(ratios, clusters), strict=True):
            at = Coordinates(
                level, source, metric="accuracy", behaviour=f"feature:{feature}", hook=hook,
                fit_domain=self.home, test_domain=self.home,
            )  # fmt: skip
            outcome.add(self.record(at, estimate.without_tail()), estimate, clusters)
        return outcome

    def selected(self, behaviour: str, outcomes: Mapping[str, Outcome]) -> tuple[Outcome, list[SiteRow]]:
        """What can only be said of all hook points together: (records at selected sites, rows of the table `sites`).

        outcomes: hook -> read cell of this behaviour, or as much of it as a run kept.
        """
        return across_sites(self, behaviour, outcomes)

    def nothing_to_explain(self, behaviour: str, asked: Sequence[Coordinates]) -> Outcome:
        """NA at each of these coordinates, `test_domain` among them, of a behaviour that is the same at every row."""
        said = "small_denominator", self.constant[behaviour]
        return Outcome([self.record(*self.untold(replace(at, behaviour=behaviour), *said)) for at in asked])

    @cached_property
    def _decoders(self) -> Decoders:
        return Decoders(self)

    def _nothing_to_read(self, hook: str, behaviour: str, reason: str, note: str) -> Outcome:
        levels = [*self.read.levels, *(f"hypothesis:{h.name}" for h in self.hypotheses_for(behaviour))]
        asked = [
            Coordinates(level, "", None, "read", "", control, "strong", behaviour, hook, domain, domain)
            for domain in self.domains
            for level in levels
            for control in ("", *(f"deleted:{span}" for span in self.deleted if level != "prior"))
        ]
        return Outcome([self.record(*self.untold(at, reason, note)) for at in asked])

    def _predictions(self, feature: str, decoder: Decoder, x: Tensor) -> dict[tuple[str, str], NDArray[np.int64]]:
        """Classes of the test rows' targets by (level, source): [n_test, n_targets] each."""
        labels = self.observations.features[feature].labels
        at = decoder.index[decoder.split.test]
        out = {("linear", "behaviour"): decoder.predict(x[torch.from_numpy(at)])}
        if any(Level.parse(name).family == "nonlinear" for name in self.read.levels):
            out["nonlinear", "mlp"] = decoder.predict_nonlinear(x, at, self.seeds.probe)
        majority = np.array([np.bincount(column).argmax() for column in labels[decoder.index[decoder.split.fit]].T])
        return out | {("prior", ""): np.broadcast_to(majority, labels[at].shape)}

    def _read_fold(self, cell: Collector, n: int, x: Tensor, twin: Tensor | None) -> None:
        """The walk over one outer fold in the seen domain: what is fitted here is what every step uses."""
        setting = self.setting(cell.behaviour, self.home, n)
        try:
            fold = Fold.of(cell, setting, x, twin)
        except FitError as error:
            for name in self.read.levels:
                cell.missing(setting, Coordinates(name), "not_converged", str(error))
            return
        readers = [*_read_levels(fold), *_read_given(fold)]
        cell.keep_linear(n, float(fold.site.rows[1].bits(fold.site.linear).mean()))
        measure_controls(fold)
        weak = _read_weak_scale(fold)
        if self.read.falls:
            measure_falling(fold, readers)
        for control, gone in fold.without.at(setting):
            measure_deleted(fold, control, gone, readers, weak)
        if self.read.extrapolate:
            measure_limit(fold)
        if self.read.online_orders:
            measure_code_length(fold)
        if self.read.decomposition:
            measure_shares(fold)
        measure_hypotheses(fold, self._decoders, readers)
        if self.transfer and len(self.domains) > 1:
            try:
                measure_transfer(fold, readers)
            except FitError as error:
                at = Coordinates("linear", metric="transfer", arm="raw")
                cell.missing(setting, at, "not_converged", str(error))


def _read_levels(fold: Fold) -> Iterator[Reader]:
    """Every level that is asked for, scored."""
    read, setting = fold.study.read, fold.setting
    for level in map(Level.parse, read.levels):
        if level.family == "hypothesis":
            continue
        note = ""
        if level.family == "baseline":
            floor = setting.floors["strong"][0]
            note = f"{floor.family} reader of {', '.join(floor.blocks) or 'nothing'}"
        try:
            for reader in fit_level(fold.site, level, read.simple_ks if level.family == "simple" else read.ks):
                fold.cell.score(setting, reader, Said.by(reader, fold.test), fold.fitted, note=note)
                keep_beside(fold, reader)
                keep_examples(fold, reader)
                yield reader
        except FitError as error:
            fold.cell.missing(setting, Coordinates(level.name), "not_converged", str(error))


def _read_given(fold: Fold) -> Iterator[Reader]:
    """A user's own directions, scored like those of a level."""
    try:
        for reader in fold.given():
            fold.cell.score(fold.setting, reader, Said.by(reader, fold.test), fold.fitted)
            keep_beside(fold, reader)
            keep_examples(fold, reader)
            yield reader
    except FitError as error:
        for source in fold.study.given_at(fold.cell.hook):
            fold.cell.missing(fold.setting, Coordinates("directions", source), "not_converged", str(error))


def _read_weak_scale(fold: Fold) -> list[Reader]:
    """The readers on the weak floor's scale: `linear`, where it could be fitted, and the strong floor."""
    if WEAK not in fold.alike:
        return []
    cell, setting, readers = fold.cell, fold.setting, []
    try:
        reader = next(fit_level(fold.site_of(WEAK), Level("linear"), ()))
        said = Said.by(reader, setting.side(fold.x, "test", WEAK))
        cell.score(setting, reader, said, fold.fitted, floor="weak")
        readers.append(reader)
    except FitError as error:
        cell.missing(setting, Coordinates("linear", floor="weak"), "not_converged", str(error))
    keep_alone(fold, readers[0] if readers else None)
    strong = strong_floor(setting)
    cell.score(setting, strong, Said.by(strong, fold.test), fold.fitted, floor="weak", note=ON_WEAK)
    return [*readers, strong]


def measurements_of(
    observations: Observations,
    deleted: Mapping[str, Observations],
    read: ReadSpec,
    transfer: TransferSpec | None = None,
    hypotheses: Sequence[Hypothesis] = (),
    seeds: tuple[int, int, int] = (0, 0, 0),
    n_bootstrap: int = 2_000,
    keeps_examples: bool = False,
    given: Sequence[Brought] = (),
) -> dict[str, Measurement]:
    """A Measurement of each place that is measured apart; groups are split alike at all of them.

    deleted: by span, what was seen without it. keeps_examples, given: as in Study. Raises BadInput.
    """
    check_names("a domain", observations.domains)
    seen = observations.domain == observations.domains[0]
    most = max(int((seen & named(observations.rules, (place,), len(seen))).sum()) for place in observations.places)
    outer, inner = read.folds_of(most)  # the same everywhere
    read = read.model_copy(update={"outer_folds": outer, "inner_folds": inner})
    out = {}
    for place in observations.places:
        without = {span: seen.at(place) if place in seen.places else None for span, seen in deleted.items()}
        asked = read, transfer, hypotheses, seeds, n_bootstrap, without, keeps_examples, given
        out[place] = Measurement(observations.at(place), *asked)
    find_constant(observations.behaviours, observations.domain, out[observations.places[0]].domains)
    return out


def to_tensor(values: Any) -> Float[Tensor, "n d"]:
    """A site's rows as a tensor, without a copy where there is none to make."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def read_at(observations: Observations, place: str) -> slice | Tensor:
    """Index of the rows that are read at `place`; a slice, which copies nothing, where that is all of them."""
    rows = named(observations.rules, (place,), len(observations))
    return slice(None) if rows.all() else torch.from_numpy(np.flatnonzero(rows))


def _check_finite(x: Tensor, hook: str) -> None:
    # In the precision in which rows are read; a sum is cheaper, and only infinities of both signs or an overflow tell
    # less.
    if all(bool(torch.isfinite(rows.float().sum())) for rows in x.split(BLOCK)):
        return
    bad = torch.cat([~torch.isfinite(rows.float()).all(1) for rows in x.split(BLOCK)])
    if bool(bad.any()):
        raise BadInput(
            f"the activations of '{hook}' are not finite in {int(bad.sum())} rows, first row {int(bad.nonzero()[0])}."
        )
