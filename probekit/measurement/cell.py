"""A cell: every level fitted beside the floor at one hook point for one behaviour, and scored on test rows.

`Measurement` holds what all cells share (floors, splits, bootstrap weights). Within a cell every outer fold is fitted
anew; a number is made once, from the test rows of all folds together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, FitError, TooFewRows
from probekit.fit.readers import Reader, Site, decompose, fit_level, random_readers
from probekit.fit.readout import calibrate, cross_entropy, fit_calibration
from probekit.hookpoint import HookPoint
from probekit.levels import Hypothesis, Level
from probekit.measurement.collector import Collector, Outcome, with_losses
from probekit.measurement.deletion import Deleted, Deletions, log_odds, strong_floor
from probekit.measurement.diagnostics import (
    NULL_ROWS,
    control_task,
    effective_fit_rows,
    fits_of_three_sizes,
    online_code,
    permuted_gains,
    whole_groups,
)
from probekit.measurement.hypotheses import Decoder, Mixture, OtherOutcomes
from probekit.measurement.setting import Pool, Setting, bits_of, moved_logits, prepare_settings
from probekit.measurement.sites import Site as SiteOfTable
from probekit.measurement.sites import across_sites
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.permutations import permutation_plan, permute_groups, permute_within
from probekit.metrics.ratios import Estimate, Ratio, estimates, fbu
from probekit.metrics.rows import refusal
from probekit.metrics.splits import check_rows, split_by_group
from probekit.records import Record
from probekit.spec import ReadSpec, TransferSpec
from probekit.task import Behaviour, Observations, constants, find_constant, named

PLATT_LABELS = 50
ON_WEAK = "the strong floor on the weak scale"


class Measurement:
    """Measures the cells of one set of observations. Settings and decoded features are made once and reused."""

    def __init__(
        self,
        observations: Observations,
        read: ReadSpec,
        transfer: TransferSpec | None = None,
        hypotheses: Sequence[Hypothesis] = (),
        seeds: tuple[int, int, int] = (0, 0, 0),
        n_bootstrap: int = 2_000,
        deleted: Mapping[str, Observations | None] | None = None,
    ) -> None:
        """deleted: by span, what was seen without it; None where this is what was read."""
        if n_bootstrap < 1:
            raise BadInput(f"an interval is drawn from at least one bootstrap sample; n_bootstrap is {n_bootstrap}.")
        self.deleted = dict(deleted or {})
        self.observations = observations
        self.read = read
        self.transfer = transfer
        self.hypotheses = tuple(hypotheses)
        self.seeds = seeds
        self.n_bootstrap = n_bootstrap
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._plans: dict[tuple[str, str, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._decoders: dict[tuple[str, str, str, int], Decoder] = {}
        # Several rules of positions are looked at together, by whoever takes them apart.
        look = constants if observations.rules else find_constant
        self.constant = look(observations.behaviours, observations.domain, self.domains)

    @cached_property
    def domains(self) -> list[str]:
        """The seen domain, then those that transfer is asked for."""
        known = self.observations.domains
        if self.transfer is None:
            return known[:1]
        asked = list(self.transfer.domains) or known
        for name in asked:
            if name not in known:
                raise BadInput(f"transfer asks for domain '{name}'; the task has {', '.join(known)}.")
        return [known[0], *(name for name in asked if name != known[0])]

    @property
    def n_folds(self) -> int:
        """Outer folds."""
        return self.read.outer_folds

    def pool(self, behaviour: str, domain: str, unit: str = "group") -> Pool:
        """All folds of a behaviour in a domain. unit: `group`; `row` splits groups; `task` has random labels."""
        key = behaviour, domain, unit
        if key not in self._pools:
            observations, folds = self.observations, (self.read.outer_folds, self.read.inner_folds)
            known = observations.behaviours[behaviour]
            if unit == "task":
                settings = control_task(observations, known, domain, self.seeds[:2], folds)
            else:
                floors = self.read.floors if "strong" in self.read.floors else ("strong", *self.read.floors)
                apart = np.arange(len(observations)) if unit == "row" else None
                asked = ("strong",) if unit == "row" else floors
                settings = prepare_settings(observations, known, domain, asked, self.seeds[:2], folds, apart)
            self._pools[key] = Pool.of(settings, self.n_bootstrap, self.seeds[1])
        return self._pools[key]

    def setting(self, behaviour: str, domain: str, fold: int = 0) -> Setting:
        """One fold of a behaviour in a domain."""
        return self.pool(behaviour, domain).settings[fold]

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
            levels = [*self.read.levels, *(f"hypothesis:{h.name}" for h in self._hypotheses_for(behaviour))]
            places = [
                {"hook": hook, "level": level, "fit_domain": domain, "test_domain": domain, "control": control}
                for domain in self.domains
                for level in levels
                for control in ("", *(f"deleted:{span}" for span in self.deleted if level != "prior"))
            ]
            return self.nothing_to_explain(behaviour, places)
        told = {span: None if seen is None else (seen, (deleted or {})[span]) for span, seen in self.deleted.items()}
        without = Deletions(told)
        spans = {span: partial(without.why_not, span) for span in told}
        pool = partial(self.pool, behaviour)
        cell = Collector(hook, behaviour, self.domains[0], self.n_folds, pool, self.record, spans)
        for fold in range(self.n_folds):
            self._read_fold(cell, fold, x, twin, without)
        return cell.finish()

    def nothing_to_explain(self, behaviour: str, places: Sequence[dict[str, Any]]) -> Outcome:
        """NA at each of these coordinates, `test_domain` among them, of a behaviour that is the same at every row."""
        records = []
        for coordinates in places:
            at = self.observations.domain == coordinates["test_domain"]
            n, groups = int(at.sum()), len(np.unique(self.observations.group[at]))
            nothing = Estimate.missing("small_denominator", self.constant[behaviour], n, groups)
            place = _Place(self.observations.behaviours[behaviour], self.domains[0])
            records.append(self.record(place, nothing, **({"metric": "read"} | coordinates)))
        return Outcome(records)

    def feature_cell(self, hook: str, feature: str, x: Float[Tensor, "n d"]) -> Outcome:
        """Accuracy of reading a named feature off a site, linear and by MLP, mean over its targets (first fold)."""
        _check_finite(x, hook)
        outcome = Outcome()
        domain = self.domains[0]
        decoder = self._decoder(hook, feature, domain, 0, x)
        index, split = decoder.index, decoder.split
        labels = self.observations.features[feature].labels
        clusters = Clusters.of(self.observations.group[index[split.test]], self.n_bootstrap, self.seeds[1])
        at = index[split.test]
        predictions = [("linear", "behaviour", decoder.predict(x[torch.from_numpy(at)]))]
        if any(Level.parse(name).family == "nonlinear" for name in self.read.levels):
            predictions.append(("nonlinear", "mlp", decoder.predict_nonlinear(x, at, self.seeds[0])))
        majority = np.array([np.bincount(column).argmax() for column in labels[index[split.fit]].T])
        predictions.append(("prior", "", np.broadcast_to(majority, labels[at].shape)))
        ratios = [Ratio((predicted == labels[at]).mean(1), np.ones(len(at))) for *_, predicted in predictions]
        for (level, source, _), estimate in zip(predictions, estimates(ratios, clusters), strict=True):
            record = self.record(
                _feature_setting(feature, domain), estimate, hook=hook, level=level, source=source, metric="accuracy"
            )
            outcome.add(replace(record, p99_bits=None, worst_group=None), estimate, clusters)
        weight = decoder.readout.weight  # [class, target, r]
        raw = torch.einsum("ktr,dr->dkt", weight - weight.mean(0), decoder.frame.rotation)
        outcome.tensors[feature] = raw.flatten(1).numpy()
        return outcome

    def selected(self, behaviour: str, outcomes: Mapping[str, Outcome]) -> "tuple[Outcome, list[dict]]":
        """What can only be said of all hook points together: (records at selected sites, rows of the table `sites`).

        outcomes: hook -> read cell of this behaviour, or as much of it as a run kept.
        """
        if behaviour in self.constant:
            return Outcome(), []
        domain = self.domains[0]
        pool = self.pool(behaviour, domain)
        parts = [
            SiteOfTable(hook, record, losses, outcome.tensors)
            for hook, outcome in outcomes.items()
            for record, losses in with_losses(outcome)
            if record.metric == "read" and record.control == "" and record.floor == "strong"
            and record.test_domain == domain
        ]  # fmt: skip
        rows, best = across_sites(parts, pool.clusters, pool.fold_of_group)
        outcome = Outcome()
        for part, chosen, estimate in best:
            hooks = [chosen.count(hook) for hook in chosen]
            hook = chosen[int(np.argmax(hooks))]
            note = "chosen on selection rows" + ("" if len(set(chosen)) == 1 else f" of each fold: {', '.join(chosen)}")
            record = self.record(
                pool.settings[0], estimate, metric="selected", hook=hook, level=part.level, source=part.source,
                k=part.k, parameters=part.parameters, note=note,
            )  # fmt: skip
            outcome.add(replace(record, p99_bits=None, worst_group=None), estimate, pool.clusters)
        return outcome, [{"behaviour": behaviour, "domain": domain, **row} for row in rows]

    def record(self, setting: "Setting | _Place", estimate: Estimate, **coordinates: Any) -> Record:
        """A Record from an estimate; coordinates not given are those of the observations and the setting."""
        hook = HookPoint.parse(coordinates.get("hook", ""))
        given = {
            "model": self.observations.model,
            "revision": self.observations.revision,
            "task": self.observations.task,
            "behaviour": setting.behaviour.name,
            "fit_domain": setting.domain,
            "test_domain": setting.domain,
            "layer": hook.layer,
            "position": self.observations.place,
            "seed_probe": self.seeds[0],
            "seed_data": self.seeds[1],
            "seed_model": self.seeds[2],
        }
        note = "; ".join(filter(None, (coordinates.pop("note", ""), estimate.note)))
        figures = {name: getattr(estimate, name) for name in _FIGURES}
        if estimate.na_reason:
            figures |= {"value": None, "low": None, "high": None}
        return Record(**(given | coordinates), **figures, note=note)

    # ------------------------------------------------------------------------------------------------- one outer fold

    def _read_fold(self, cell: Collector, fold: int, x: Tensor, twin: Tensor | None, without: Deletions) -> None:
        seen = self.setting(cell.behaviour, self.domains[0], fold)
        try:
            site = self._site(seen, x)
        except FitError as error:
            for name in self.read.levels:
                cell.missing(seen, name, "not_converged", str(error))
            return
        sites = {seen.domain: site}
        effective = effective_fit_rows(seen, site)
        readers = list(self._read_levels(cell, seen, site, x, effective))
        linear_bits = site.rows[1].bits(site.linear).mean()
        cell.keep("select_bits", fold, np.array([float(linear_bits)]))
        self._controls(cell, seen, site, x, twin, effective)
        weak = self._weak_floor(cell, seen, x)
        for control, there in without.at(seen):
            self._deleted(cell, control, there, x, readers, weak)
        if self.read.extrapolate:
            self._extrapolate(cell, seen, x, site.d)
        if self.read.online_orders:
            self._online(cell, seen, x)
        if self.read.decomposition:
            self._decompose(cell, seen, site, x, effective)
        for hypothesis in self._hypotheses_for(cell.behaviour):
            level = f"hypothesis:{hypothesis.name}"
            try:
                self._hypothesis(cell, hypothesis, x, fold, readers, without)
            except OtherOutcomes as error:
                # Stated for no behaviour in particular, it may simply not speak of this one.
                if hypothesis.behaviour:
                    raise BadInput(str(error)) from None
                cell.missing(seen, level, "not_defined", str(error))
            except FitError as error:
                cell.missing(seen, level, "not_converged", str(error))
        if self.transfer and len(self.domains) > 1:
            try:
                self._transfer(cell, x, fold, sites, readers, without)
            except FitError as error:
                cell.missing(seen, "linear", "not_converged", str(error), metric="transfer", arm="raw")

    def _site(self, setting: Setting, x: Tensor, floor: str = "strong") -> Site:
        check_rows(len(setting.split.fit), x.shape[1])
        return setting.site(x, self.seeds[0], self.read.lambdas, floor)

    def _read_levels(
        self, cell: Collector, setting: Setting, site: Site, x: Tensor, effective: float
    ) -> Iterator[Reader]:
        test = setting.side(x, "test")
        for name in self.read.levels:
            level = Level.parse(name)
            if level.family == "hypothesis":
                continue
            reason, note = _refused(effective, x.shape[1], level.family)
            if reason:
                cell.missing(setting, level.name, reason, note)
                continue
            if level.family == "baseline":
                floor = setting.floors["strong"][0]
                note = f"{floor.family} reader of {', '.join(floor.blocks) or 'nothing'}"
            try:
                ks = self.read.simple_ks if level.family == "simple" else self.read.ks
                for reader in fit_level(site, level, ks):
                    cell.score(setting, reader, bits_of(reader.bits(test)), note=note)
                    self._beside(cell, setting, site, reader, x)
                    yield reader
            except FitError as error:
                cell.missing(setting, level.name, "not_converged", str(error))

    def _beside(self, cell: Collector, setting: Setting, site: Site, reader: Reader, x: Tensor) -> None:
        """What is kept of a reader beside its loss: directions, selection loss, losses under permutation, AUROC."""
        key = f"{reader.level}/{reader.source}/{reader.k}"
        if reader.directions is not None and reader.source != "pca" and setting.fold == 0:
            cell.tensors["|".join((reader.level, reader.source, str(reader.k)))] = reader.directions.numpy()
        cell.keep(f"select/{key}", setting.fold, np.array([float(reader.bits(site.select).mean())]))
        if self.read.n_permutations and reader.level not in ("prior", "baseline"):
            rows, plan = self._plan(setting)
            if len(plan):
                gains = permuted_gains(reader, setting.at(x, setting.split.test[rows]), plan)
                cell.keep(f"null/{key}", setting.fold, gains)
        if reader.source == "mean_difference":
            self._auroc(cell, setting, setting, site, reader, x)

    def _plan(self, setting: Setting) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Test rows and their permutations, the same at every site, so that sites move together; or no permutation."""
        key = setting.behaviour.name, setting.domain, setting.fold
        if key not in self._plans:
            group = setting.group[setting.split.test]
            rows = whole_groups(group, NULL_ROWS, self.seeds[1])
            constant = self.pool(*key[:2]).constant_within_groups()
            several = len(np.unique(group)) < len(group)
            seed = self.seeds[1] + setting.fold
            try:
                plan = permutation_plan(group[rows], self.read.n_permutations, seed, constant and several)
            except BadInput:
                # No two whole groups of one size to exchange: there is no p-value, and everything else can be measured.
                plan = np.empty((0, len(rows)), dtype=np.int64)
            self._plans[key] = rows, plan
        return self._plans[key]

    def _auroc(self, cell: Collector, home: Setting, there: Setting, site: Site, reader: Reader, x: Tensor) -> None:
        """AUROC of the mean difference, where the behaviour is one of two outcomes for certain."""
        law = there.behaviour.law[there.rows("test")]
        if law.shape[1] != 2 or np.minimum(law[:, 0], law[:, 1]).max() > 1e-6 or np.ptp(law[:, 1]) == 0:
            return
        assert reader.directions is not None
        direction = reader.directions[:, 0] / reader.directions.norm()
        # Directions of folds are scored together: in units of their own fit rows, and pointing to the second outcome.
        fitted = home.side(x, "fit").x @ direction
        second = home.law[1, 0, torch.from_numpy(home.split.fit)]
        sign = 1.0 if float(((fitted - fitted.mean()) * second).mean()) >= 0 else -1.0
        score = sign * (there.side(x, "test").x @ direction - fitted.mean()) / fitted.std().clamp_min(1e-12)
        rows = {"score": score.double().numpy(), "label": (law[:, 1] > 0.5).astype(np.float64)}
        cell.put(
            there, "auroc", rows, metric="auroc", fit_domain=home.domain, level=reader.level, source=reader.source, k=1
        )

    def _controls(
        self, cell: Collector, setting: Setting, site: Site, x: Tensor, twin: Tensor | None, effective: float
    ) -> None:
        asked = self.read.controls
        enough = not _refused(effective, x.shape[1], "linear")[0]
        if "row_split" in asked and len(np.unique(setting.group)) < len(setting.group):
            # What is refused beside whole groups is what rows alone would tempt to report.
            level = "linear" if "linear" in self.read.levels else "direction"
            self._control_levels(cell, self._twin_setting(setting, "row"), x, "row_split", (level,))
        if not enough:
            return
        if "control_task" in asked and self.observations.types is not None:
            self._control_levels(cell, self._twin_setting(setting, "task"), x, "control_task", ("linear",))
        test = setting.side(x, "test")
        if "random_directions" in asked:
            try:
                for reader in random_readers(site, self.read.ks, self.seeds[0]):
                    cell.score(setting, reader, bits_of(reader.bits(test)), control="random_directions")
            except FitError as error:
                cell.missing(
                    setting, "directions", "not_converged", str(error), source="random", control="random_directions"
                )
        if "permuted" in asked:
            # Activations move against (behaviour, floor) inside each group, so that the floor stays what it is.
            permutation, within = permute_within(setting.group, self.seeds[1])
            if within and self.pool(cell.behaviour, setting.domain).constant_within_groups():
                permutation, within = permute_groups(setting.group, self.seeds[1]), False
            shuffled = x.clone()
            shuffled[torch.from_numpy(setting.index)] = x[torch.from_numpy(setting.index[permutation])]
            control = "permuted_in_group" if within else "permuted_groups"
            self._control_levels(cell, setting, shuffled, control, ("linear",))
        if "random_twin" in asked and twin is not None:
            self._control_levels(cell, setting, twin, "random_twin", ("directions", "linear"))

    def _twin_setting(self, setting: Setting, unit: str) -> Setting:
        return self.pool(setting.behaviour.name, setting.domain, unit).settings[setting.fold]

    def _control_levels(
        self, cell: Collector, setting: Setting, x: Tensor, control: str, levels: Sequence[str]
    ) -> None:
        test = setting.side(x, "test")
        unit = {"row_split": "row", "control_task": "task"}.get(control, "group")
        try:
            site = self._site(setting, x)
            for name in levels:
                for reader in fit_level(site, Level(name), self.read.ks):
                    if reader.source != "pca":
                        cell.score(setting, reader, bits_of(reader.bits(test)), control=control, unit=unit)
        except FitError as error:
            cell.missing(setting, "linear", "not_converged", str(error), control=control)

    def _weak_floor(self, cell: Collector, setting: Setting, x: Tensor) -> list[Reader]:
        """The readers on the weak scale: `linear`, where it could be fitted, and the strong floor."""
        if "weak" not in self.read.floors:
            return []
        strong, readers = strong_floor(setting), []
        try:
            site = self._site(setting, x, "weak")
            reader = next(fit_level(site, Level("linear"), ()))
            bits = bits_of(reader.bits(setting.side(x, "test", "weak")))
            cell.score(setting, reader, bits, floor="weak")
            readers.append(reader)
        except FitError as error:
            cell.missing(setting, "linear", "not_converged", str(error), floor="weak")
        cell.score(setting, strong, setting.floor_bits("strong"), floor="weak", note=ON_WEAK)
        return [*readers, strong]

    def _deleted(
        self, cell: Collector, control: str, there: Deleted, x: Tensor, readers: Sequence[Reader],
        weak: Sequence[Reader],
    ) -> None:  # fmt: skip
        """Every reader on the test rows with a span deleted. On the weak scale also as an AUROC of its log odds."""
        setting = there.setting
        known = [reader for reader in readers if reader.level != "prior"]
        if all(reader.level != "baseline" for reader in known):
            known.append(strong_floor(setting))
        for reader in known:
            cell.score(setting, reader, there.bits(reader), control=control)
        for reader in weak:
            # The strong floor's own logits are its offset, whatever scale it is told on.
            own = "strong" if reader.level == "baseline" else "weak"
            note = ON_WEAK if reader.level == "baseline" else ""
            cell.score(setting, reader, there.bits(reader, own), floor="weak", control=control, note=note)
            sides = {"": setting.side(x, "test", own), control: there.sides[own]}
            for told, side in sides.items():
                if (rows := log_odds(reader, side)) is not None:
                    cell.put(
                        setting, "auroc", rows, metric="auroc", level=reader.level, source=reader.source, k=None,
                        floor="weak", control=told, note="of the log odds",
                    )  # fmt: skip

    def _extrapolate(self, cell: Collector, setting: Setting, x: Tensor, d: int) -> None:
        for name in ("direction", "linear"):
            if name not in self.read.levels:
                continue
            try:
                sizes, found = fits_of_three_sizes(setting, x, d, Level(name), self.seeds[0], self.read.lambdas)
            except (FitError, BadInput) as error:
                reason = "too_few_rows" if isinstance(error, TooFewRows) else "not_defined"
                reason = "not_converged" if isinstance(error, FitError) else reason
                cell.missing(setting, name, reason, str(error), metric="extrapolated")
                continue
            for (level, source), bits in found.items():
                rows = {f"bits{i}": loss for i, loss in enumerate(bits)} | cell.ends(setting)
                sized = {f"size{i}": np.full(len(bits[0]), size / d) for i, size in enumerate(sizes)}
                k = 1 if level == "direction" else None
                cell.put(setting, "extrapolated", rows | sized, metric="extrapolated", level=level, source=source, k=k)

    def _online(self, cell: Collector, setting: Setting, x: Tensor) -> None:
        """In the first fold: all folds would send nearly the same rows."""
        if setting.fold:
            return
        for name in self.read.levels:
            level = Level.parse(name)
            if level.family in ("prior", "baseline", "nonlinear", "hypothesis"):
                continue
            k = max(self.read.simple_ks if level.family == "simple" else self.read.ks)
            rows, found = online_code(setting, x, level, k, self.seeds[0], self.read.lambdas, self.read.online_orders)
            clusters = Clusters.of(setting.group[rows], self.n_bootstrap, self.seeds[1])
            at = torch.from_numpy(rows)
            floor = bits_of(cross_entropy(setting.floors["strong"][1][..., at], setting.law[..., at]))
            ratios = [fbu(bits, floor, setting.ceiling[rows]) for bits in found.values()]
            note = f"mean of {self.read.online_orders} orders"
            for (told, source, at_k), estimate in zip(found, estimates(ratios, clusters), strict=True):
                cell.add(
                    setting, estimate, clusters, metric="code_length", level=told, source=source, k=at_k, note=note
                )

    def _decompose(self, cell: Collector, setting: Setting, site: Site, x: Tensor, effective: float) -> None:
        read = self.read
        if _refused(effective, x.shape[1], "linear")[0]:
            return
        try:
            found = decompose(site, setting.side(x, "test"), read.decomposition_k, read.decomposition_simple)
        except FitError as error:
            cell.missing(setting, "absent", "not_converged", str(error), metric="decomposition", arm="linear_first")
            return
        ends = cell.ends(setting)
        for order, steps in found.items():
            before = ends["floor"]
            for name, after in [*((name, bits_of(step)) for name, step in steps), ("absent", ends["ceiling"])]:
                level = f"simple:{read.decomposition_simple}" if name == "simple" else name
                k = {"direction": 1, "directions": read.decomposition_k, "simple": read.decomposition_k}.get(name)
                rows = {"before": before, "after": after} | ends
                cell.put(setting, "share", rows, metric="decomposition", arm=order, level=level, k=k)
                before = after

    def _hypotheses_for(self, behaviour: str) -> list[Hypothesis]:
        return [h for h in self.hypotheses if h.behaviour in ("", behaviour)]

    def _hypothesis(
        self, cell: Collector, hypothesis: Hypothesis, x: Tensor, fold: int, readers: Sequence[Reader],
        without: Deletions,
    ) -> None:  # fmt: skip
        """The stated hypothesis with decoded and with true features, frozen on the seen domain, in every domain."""
        seen = self.setting(cell.behaviour, self.domains[0], fold)
        linear = next((reader for reader in readers if reader.level == "linear"), None)
        level = f"hypothesis:{hypothesis.name}"
        for source in ("decoded", "true"):
            frozen = self._mixture(hypothesis, source, cell.hook, x, seen)
            told: dict[str, Any] = {"level": level, "source": source}
            extra = {"k": frozen.k, "parameters": frozen.parameters}
            note = f"eps {frozen.eps:.2g}; rule source {hypothesis.source_hash}"
            moved = {"fit_domain": seen.domain, "metric": "transfer", "arm": "raw"}
            for domain in self.domains:
                there = self.setting(cell.behaviour, domain, fold)
                bits, ends = frozen.bits(there, x), cell.ends(there)
                own = frozen if domain == seen.domain else self._mixture(hypothesis, source, cell.hook, x, there)
                direct = own.bits(there, x)
                cell.put(there, "fbu", {"bits": direct} | ends, extra=extra, note=note, **told)
                for control, gone in without.at(there):
                    rows = {"bits": own.bits_without(gone)} | ends
                    cell.put(there, "fbu", rows, extra=extra, note=note, control=control, **told)
                if own is not frozen:
                    cell.put(there, "transfer", {"moved": bits, "direct": direct} | ends, extra=extra, **moved, **told)
                    for control, gone in without.at(there, seen):
                        rows = {"moved": frozen.bits_without(gone), "direct": direct} | ends
                        cell.put(there, "transfer", rows, extra=extra, control=control, **moved, **told)
                if linear is not None and self.transfer is not None:
                    logits = moved_logits(linear, seen, there, x, self.observations, "test")
                    rows = {"first": bits, "second": bits_of(cross_entropy(logits, there.test_law))}
                    cell.put(
                        there, "difference", rows, fit_domain=seen.domain, metric="crossing", arm="raw",
                        note="bits above linear, both frozen on the seen domain", **told,
                    )  # fmt: skip

    def _mixture(self, hypothesis: Hypothesis, source: str, hook: str, x: Tensor, setting: Setting) -> Mixture:
        decoders = {
            name: None if source == "true" else self._decoder(hook, name, setting.domain, setting.fold, x)
            for name in hypothesis.features
        }
        return Mixture.fit(hypothesis, decoders, self.observations, setting, x)

    def _decoder(self, hook: str, feature: str, domain: str, fold: int, x: Tensor) -> Decoder:
        key = hook, feature, domain, fold
        if key not in self._decoders:
            if any(known[0] != hook for known in self._decoders):
                self._decoders.clear()
            if feature not in self.observations.features:
                known = ", ".join(self.observations.features) or "none"
                raise BadInput(f"no feature '{feature}' in the task: it has {known}.")
            some = next((name for name in self.observations.behaviours if name not in self.constant), None)
            if some is not None and self.n_folds > 1:
                setting = self.setting(some, domain, fold)
                index, split = setting.index, setting.split
            else:
                index = np.flatnonzero(self.observations.domain == domain)
                split = split_by_group(self.observations.group[index], self.seeds[1])
            labels = self.observations.features[feature]
            self._decoders[key] = Decoder.fit(labels, index, split, x, self.read.lambdas[::2])
        return self._decoders[key]

    def _transfer(
        self, cell: Collector, x: Tensor, fold: int, sites: dict[str, Site], readers: Sequence[Reader],
        without: Deletions,
    ) -> None:  # fmt: skip
        """Every asked level fitted in each domain and applied in every other one."""
        assert self.transfer is not None
        levels = [level for level in map(Level.parse, self.transfer.levels) if level.family != "hypothesis"]
        names = {level.name for level in levels}
        fitted: dict[str, list[Reader]] = {}
        for domain in self.domains:
            setting = self.setting(cell.behaviour, domain, fold)
            if domain == self.domains[0]:
                fitted[domain] = [reader for reader in readers if reader.level in names]
                read_already = {reader.level for reader in fitted[domain]}
                for level in levels:
                    if level.name not in read_already:
                        fitted[domain] += fit_level(sites[domain], level, self.read.ks)
                continue
            sites[domain] = self._site(setting, x)
            test = setting.side(x, "test")
            fitted[domain] = []
            for level in [Level("prior"), Level("baseline"), *levels]:
                for reader in fit_level(sites[domain], level, self.read.ks):
                    cell.score(setting, reader, bits_of(reader.bits(test)))
                    fitted[domain].append(reader)
            for control, there in without.at(setting):
                self._deleted(cell, control, there, x, fitted[domain], ())
        for a in self.domains:
            for b in self.domains:
                if a != b:
                    self._transfer_pair(cell, x, fold, (a, b), sites[a], fitted, without)

    def _transfer_pair(
        self, cell: Collector, x: Tensor, fold: int, pair: tuple[str, str], site: Site,
        fitted: dict[str, list[Reader]], without: Deletions,
    ) -> None:  # fmt: skip
        a, b = pair
        here, there = self.setting(cell.behaviour, a, fold), self.setting(cell.behaviour, b, fold)
        direct = {(r.level, r.source, r.k): r for r in fitted[b]}
        test, deleted = there.side(x, "test"), list(without.at(there, here))
        for reader in fitted[a]:
            same = direct.get((reader.level, reader.source, reader.k))
            if same is None or reader.level in ("prior", "baseline"):
                continue
            if reader.source == "mean_difference":
                self._auroc(cell, here, there, site, reader, x)
            best = bits_of(same.bits(test))
            raw = moved_logits(reader, here, there, x, self.observations, "test")
            fit_rows = moved_logits(reader, here, there, x, self.observations, "fit")
            fit_law = there.law[..., torch.from_numpy(there.split.fit)]
            few = np.random.default_rng([self.seeds[1], 8]).permutation(len(there.split.fit))[:PLATT_LABELS]
            thetas = {
                "raw": None, "refit": fit_calibration(fit_rows, fit_law),
                "platt50": fit_calibration(fit_rows[..., few], fit_law[..., few]),
            }  # fmt: skip
            told = {"level": reader.level, "source": reader.source, "k": reader.k, "fit_domain": a}
            texts = {"": (raw, test.law, lambda bits: bits)} | {
                control: (gone.logits(reader), gone.sides["strong"].law, gone.missed) for control, gone in deleted
            }
            for control, (logits, law, missed) in texts.items():
                values = {
                    arm: missed(bits_of(cross_entropy(logits if theta is None else calibrate(logits, theta), law)))
                    for arm, theta in thetas.items()
                }
                for arm, bits in values.items():
                    rows = {"moved": bits, "direct": best, "raw": values["raw"]} | cell.ends(there)
                    cell.put(
                        there, "transfer", rows, metric="transfer", arm=arm, control=control,
                        extra={"parameters": reader.parameters}, **told,
                    )  # fmt: skip


def _refused(effective: float, d: int, level: str) -> tuple[str, str]:
    """(reason, note) of what the rows allow a level; both empty when they are enough."""
    if level in ("prior", "baseline"):
        return "", ""
    found = refusal(effective, d, level == "direction")
    return "too_few_rows" if found.verdict == "refused" else "", "" if found.verdict == "enough" else found.sentence


@dataclass(frozen=True)
class _Place:
    """Just enough of a setting to place a record of a feature."""

    behaviour: Any
    domain: str


def _feature_setting(feature: str, domain: str) -> _Place:
    return _Place(Behaviour(f"feature:{feature}", np.ones((0, 1), np.float32), ("",)), domain)


_FIGURES = (
    "value",
    "low",
    "high",
    "bits",
    "floor_bits",
    "ceiling_bits",
    "p99_bits",
    "worst_group",
    "n",
    "groups",
    "na_reason",
)


def _check_finite(x: Tensor, hook: str) -> None:
    x = x.float()  # the precision in which they are read
    if bool(torch.isfinite(x.sum())):  # cheaper, and only infinities of both signs or an overflow tell less
        return
    bad = ~torch.isfinite(x).all(1)
    if bool(bad.any()):
        raise BadInput(
            f"the activations of '{hook}' are not finite in {int(bad.sum())} rows, first row {int(bad.nonzero()[0])}."
        )


def measurements_of(
    observations: Observations, deleted: Mapping[str, Observations], *arguments: Any
) -> dict[str, Measurement]:
    """A Measurement of each place that is measured apart; groups are split alike at all of them.

    deleted: by span, what was seen without it. arguments: those of `Measurement` in between. Raises BadInput.
    """
    out = {}
    for place in observations.places:
        without = {span: seen.at(place) if place in seen.places else None for span, seen in deleted.items()}
        out[place] = Measurement(observations.at(place), *arguments, deleted=without)
    find_constant(observations.behaviours, observations.domain, out[observations.places[0]].domains)
    return out


def to_tensor(values: Any) -> Float[Tensor, "n d"]:
    """A site's rows as a tensor, without a copy where there is none to make."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def read_at(observations: Observations, place: str) -> slice | Tensor:
    """Index of the rows that are read at `place`; a slice, which copies nothing, where that is all of them."""
    rows = named(observations.rules, (place,), len(observations))
    return slice(None) if rows.all() else torch.from_numpy(np.flatnonzero(rows))
