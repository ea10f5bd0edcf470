"""Measure: activations and observations in, Records out. Fits every level beside the floor and scores it on test rows.

`measure` is the researcher's entry; `Measurement` holds what all sites share (floors, splits, bootstrap weights) and
measures one cell (a hook point and a behaviour) at a time, which is what the runner schedules.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.core import Readout, Rows, calibrate, cross_entropy, entropy, fit_calibration, fit_frame, fit_path
from probekit.fit.mlp import fit_mlp
from probekit.fit.readers import Reader, Side, Site, decompose, fit_level, random_readers
from probekit.floor import Floor, fit_floor
from probekit.hookpoint import HookPoint
from probekit.levels import Hypothesis, Level
from probekit.metrics.read import Estimate, fbu, ratio, shares
from probekit.metrics.transfer import difference, transfer
from probekit.records import Losses, Record
from probekit.spec import ReadSpec, TransferSpec, validate
from probekit.stats import Clusters, Split, check_rows, permute_groups, permute_within, split_by_group
from probekit.task import Behaviour, Feature, Observations

if TYPE_CHECKING:
    import pandas as pd

EPSILONS = np.concatenate([[0.0], np.geomspace(1e-5, 1.0, 60)])  # mixing weights tried for a hypothesis
PLATT_LABELS = 50
N_WORST = 20  # rows per cell that are kept for the table of worst examples
FEATURE_EPOCHS, FEATURE_STEPS = (
    10,
    150,
)  # of the MLP that reads features: many targets at once, and only their accuracy is asked
TINY = 1e-30


@dataclass(frozen=True)
class Setting:
    """One behaviour in one domain: rows, split, floors and bootstrap weights. Everything but the activations.

    index [n]: rows of the observations; law, floors' logits [class, 1, n] follow it; ceiling [n] bits. split holds
    positions in `index`; clusters belong to the test rows.
    """

    behaviour: Behaviour
    domain: str
    index: NDArray[np.int64]
    group: NDArray[np.int64]
    split: Split
    law: Float[Tensor, "k 1 n"]
    ceiling: NDArray[np.float64]
    floors: Mapping[str, tuple[Floor, Float[Tensor, "k 1 n"]]]
    clusters: Clusters

    def side(self, x: Float[Tensor, "n_all d"], which: str, floor: str = "strong") -> Side:
        """Activations, law and floor logits of `fit`, `select` or `test`."""
        at = torch.from_numpy(getattr(self.split, which))
        rows = torch.from_numpy(self.index)[at]
        return Side(x[rows].float(), self.law[..., at], self.floors[floor][1][..., at])

    def floor_bits(self, floor: str = "strong") -> NDArray[np.float64]:
        """The floor's bits on test rows."""
        at = torch.from_numpy(self.split.test)
        return _rows(cross_entropy(self.floors[floor][1][..., at], self.law[..., at]))

    @property
    def test_ceiling(self) -> NDArray[np.float64]:
        return self.ceiling[self.split.test]


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
                    [str(name) for name in clusters.names],
                    estimate.numerator.tolist(),
                    estimate.denominator.tolist(),
                    clusters.sizes.tolist(),
                )
            )


def prepare_setting(
    observations: Observations,
    behaviour: Behaviour,
    domain: str,
    floors: Sequence[str],
    seeds: tuple[int, int],
    n_bootstrap: int,
) -> Setting:
    """Split a domain's rows by group and fit its floors. seeds: (probe, data)."""
    seed_probe, seed_data = seeds
    index = np.flatnonzero(observations.domain == domain)
    group = observations.group[index]
    try:
        split = split_by_group(group, seed_data)
    except BadInput as error:
        raise BadInput(f"domain '{domain}': {error}") from None
    law = torch.from_numpy(np.ascontiguousarray(behaviour.law[index].T[:, None]))
    inputs = {name: block[index] for name, block in observations.floor_inputs.items()}
    fitted = {name: fit_floor(name, inputs, law, group, split, seed_probe) for name in floors}
    return Setting(
        behaviour=behaviour,
        domain=domain,
        index=index,
        group=group,
        split=split,
        law=law,
        ceiling=_rows(entropy(law)),
        floors=fitted,
        clusters=Clusters.of(group[split.test], n_bootstrap, seed_data),
    )


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
    ) -> None:
        self.observations = observations
        self.read = read
        self.transfer = transfer
        self.hypotheses = tuple(hypotheses)
        self.seeds = seeds
        self.n_bootstrap = n_bootstrap
        self._settings: dict[tuple[str, str], Setting] = {}
        self._decoders: dict[tuple[str, str, str], Decoder] = {}
        for domain in observations.domains:
            for behaviour in observations.behaviours.values():
                _check_classes(behaviour, domain, observations.domain == domain)

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

    def setting(self, behaviour: str, domain: str) -> Setting:
        """The prepared setting of a behaviour in a domain."""
        key = behaviour, domain
        if key not in self._settings:
            self._settings[key] = prepare_setting(
                self.observations,
                self.observations.behaviours[behaviour],
                domain,
                self.read.floors if "strong" in self.read.floors else ("strong", *self.read.floors),
                self.seeds[:2],
                self.n_bootstrap,
            )
        return self._settings[key]

    def read_cell(
        self, hook: str, behaviour: str, x: Float[Tensor, "n d"], twin: Float[Tensor, "n d"] | None
    ) -> Outcome:
        """Read, controls, decomposition, transfer and hypotheses of one behaviour at one hook point.

        x: activations of all rows of the observations; twin: those of the randomly initialised network.
        """
        _check_finite(x, hook)
        cell = _Cell(self, hook, behaviour)
        seen = self.setting(behaviour, self.domains[0])
        if twin is not None:
            _check_finite(twin, f"{hook} of the random twin")
        if len(x) != len(self.observations):
            raise BadInput(f"'{hook}' has {len(x)} rows for {len(self.observations)} observations.")
        try:
            site = self._site(seen, x)
        except FitError as error:
            for name in self.read.levels:
                cell.missing(seen, name, "not_converged", str(error))
            return cell.outcome
        sites = {seen.domain: site}
        readers = list(self._read_levels(cell, seen, site, x))
        cell.outcome.tensors["select_bits"] = site.rows[1].bits(site.linear).mean(-1).numpy()
        cell.outcome.tensors |= _worst_rows(readers, seen, x)
        self._controls(cell, seen, site, x, twin)
        self._weak_floor(cell, seen, x)
        if self.read.decomposition:
            self._decompose(cell, seen, site, x)
        for hypothesis in self._hypotheses_for(behaviour):
            level = f"hypothesis:{hypothesis.name}"
            try:
                self._hypothesis(cell, hypothesis, x, readers)
            except _OtherOutcomes as error:
                # Stated for no behaviour in particular, it may simply not speak of this one.
                if hypothesis.behaviour:
                    raise BadInput(str(error)) from None
                cell.missing(seen, level, "not_defined", str(error))
            except FitError as error:
                cell.missing(seen, level, "not_converged", str(error))
        if self.transfer and len(self.domains) > 1:
            try:
                self._transfer(cell, x, sites, readers)
            except FitError as error:
                cell.missing(seen, "linear", "not_converged", str(error), metric="transfer", arm="raw")
        return cell.outcome

    def feature_cell(self, hook: str, feature: str, x: Float[Tensor, "n d"]) -> Outcome:
        """Accuracy of reading a named feature off a site, linear and by MLP, mean over its targets."""
        _check_finite(x, hook)
        outcome = Outcome()
        domain = self.domains[0]
        decoder = self._decoder(hook, feature, domain, x)
        index, split = decoder.index, decoder.split
        labels = self.observations.features[feature].labels
        clusters = Clusters.of(self.observations.group[index[split.test]], self.n_bootstrap, self.seeds[1])
        at = index[split.test]
        predictions = [("linear", "behaviour", decoder.predict(x[torch.from_numpy(at)]))]
        if any(Level.parse(name).family == "nonlinear" for name in self.read.levels):
            predictions.append(("nonlinear", "mlp", decoder.predict_nonlinear(x, at, self.seeds[0])))
        majority = np.array([np.bincount(column).argmax() for column in labels[index[split.fit]].T])
        predictions.append(("prior", "", np.broadcast_to(majority, labels[at].shape)))
        for level, source, predicted in predictions:
            right = (predicted == labels[at]).mean(1)
            estimate = ratio(right, np.ones(len(right)), clusters)
            record = self.record(
                _feature_setting(feature, domain), estimate, hook=hook, level=level, source=source, metric="accuracy"
            )
            outcome.add(replace(record, p99_bits=None, worst_group=None), estimate, clusters)
        weight = decoder.readout.weight  # [class, target, r]
        raw = torch.einsum("ktr,dr->dkt", weight - weight.mean(0), decoder.frame.rotation)
        outcome.tensors[feature] = raw.flatten(1).numpy()
        return outcome

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
            "seed_probe": self.seeds[0],
            "seed_data": self.seeds[1],
            "seed_model": self.seeds[2],
        }
        note = "; ".join(filter(None, (coordinates.pop("note", ""), estimate.note)))
        figures = {name: getattr(estimate, name) for name in _FIGURES}
        if estimate.na_reason:
            figures |= {"value": None, "low": None, "high": None}
        return Record(**(given | coordinates), **figures, note=note)

    def _site(self, setting: Setting, x: Tensor, floor: str = "strong") -> Site:
        fit, select = (setting.side(x, which, floor) for which in ("fit", "select"))
        check_rows(len(fit.x), fit.x.shape[1], "linear")
        return Site.prepare(fit, select, self.seeds[0], self.read.lambdas)

    def _read_levels(self, cell: "_Cell", setting: Setting, site: Site, x: Tensor) -> Iterator[Reader]:
        test = setting.side(x, "test")
        for name in self.read.levels:
            level = Level.parse(name)
            if level.family == "hypothesis":
                continue
            reason = check_rows(len(site.fit.x), site.fit.x.shape[1], level.family)
            if reason:
                cell.missing(setting, level.name, reason)
                continue
            try:
                ks = self.read.simple_ks if level.family == "simple" else self.read.ks
                for reader in fit_level(site, level, ks):
                    cell.score(setting, reader, _rows(reader.bits(test)))
                    if reader.directions is not None and reader.source != "pca":
                        parts = [reader.level, reader.source, str(reader.k)]
                        cell.outcome.tensors["|".join(parts)] = reader.directions.numpy()
                    yield reader
            except FitError as error:
                cell.missing(setting, level.name, "not_converged", str(error))

    def _controls(self, cell: "_Cell", setting: Setting, site: Site, x: Tensor, twin: Tensor | None) -> None:
        test = setting.side(x, "test")
        enough = not check_rows(len(site.fit.x), site.fit.x.shape[1], "linear")
        if not enough:
            return
        if "random_directions" in self.read.controls:
            try:
                for reader in random_readers(site, self.read.ks, self.seeds[0]):
                    cell.score(setting, reader, _rows(reader.bits(test)), control="random_directions")
            except FitError as error:
                cell.missing(
                    setting, "directions", "not_converged", str(error), source="random", control="random_directions"
                )
        if "permuted" in self.read.controls:
            # Activations move against (behaviour, floor) inside each group, so that the floor stays what it is.
            permutation, within = permute_within(setting.group, self.seeds[1])
            if within and _constant_within(setting):
                permutation, within = permute_groups(setting.group, self.seeds[1]), False
            shuffled = x.clone()
            shuffled[torch.from_numpy(setting.index)] = x[torch.from_numpy(setting.index[permutation])]
            control = "permuted_in_group" if within else "permuted_groups"
            self._control_levels(cell, setting, shuffled, control, ("linear",))
        if "random_twin" in self.read.controls and twin is not None:
            self._control_levels(cell, setting, twin, "random_twin", ("directions", "linear"))

    def _control_levels(self, cell: "_Cell", setting: Setting, x: Tensor, control: str, levels: Sequence[str]) -> None:
        test = setting.side(x, "test")
        try:
            site = self._site(setting, x)
            for name in levels:
                for reader in fit_level(site, Level(name), self.read.ks):
                    if reader.source != "pca":
                        cell.score(setting, reader, _rows(reader.bits(test)), control=control)
        except FitError as error:
            cell.missing(setting, "linear", "not_converged", str(error), control=control)

    def _weak_floor(self, cell: "_Cell", setting: Setting, x: Tensor) -> None:
        if "weak" not in self.read.floors:
            return
        try:
            reader = next(fit_level(self._site(setting, x, "weak"), Level("linear"), ()))
            bits = _rows(reader.bits(setting.side(x, "test", "weak")))
            cell.score(setting, reader, bits, floor="weak")
        except FitError as error:
            cell.missing(setting, "linear", "not_converged", str(error), floor="weak")
        strong = Reader("baseline", "", None, setting.floors["strong"][0].parameters, lambda x, offset: offset)
        cell.score(
            setting, strong, setting.floor_bits("strong"), floor="weak", note="the strong floor on the weak scale"
        )

    def _decompose(self, cell: "_Cell", setting: Setting, site: Site, x: Tensor) -> None:
        read = self.read
        if check_rows(len(site.fit.x), site.fit.x.shape[1], "linear"):
            return
        try:
            found = decompose(site, setting.side(x, "test"), read.decomposition_k, read.decomposition_simple)
        except FitError as error:
            cell.missing(setting, "absent", "not_converged", str(error), metric="decomposition", arm="linear_first")
            return
        for order, steps in found.items():
            bits = [_rows(step) for _, step in steps]
            estimates = shares(bits, setting.floor_bits(), setting.test_ceiling, setting.clusters)
            for name, estimate in zip([name for name, _ in steps] + ["absent"], estimates, strict=True):
                level = f"simple:{read.decomposition_simple}" if name == "simple" else name
                k = {"direction": 1, "directions": read.decomposition_k, "simple": read.decomposition_k}.get(name)
                cell.add(setting, estimate, metric="decomposition", arm=order, level=level, k=k)

    def _hypotheses_for(self, behaviour: str) -> list[Hypothesis]:
        return [h for h in self.hypotheses if h.behaviour in ("", behaviour)]

    def _hypothesis(self, cell: "_Cell", hypothesis: Hypothesis, x: Tensor, readers: list[Reader]) -> None:
        """The stated hypothesis with decoded and with true features, frozen on the seen domain, in every domain."""
        behaviour = cell.behaviour
        seen = self.setting(behaviour, self.domains[0])
        linear = next((reader for reader in readers if reader.level == "linear"), None)
        level = f"hypothesis:{hypothesis.name}"
        for source in ("decoded", "true"):
            frozen = self._mixture(hypothesis, source, cell.hook, x, seen)
            for domain in self.domains:
                there = self.setting(behaviour, domain)
                bits = frozen.bits(there, x)
                parameters = frozen.parameters
                note = f"eps {frozen.eps:.2g}; rule source {hypothesis.source_hash}"
                if domain == seen.domain:
                    estimate = fbu(bits, there.floor_bits(), there.test_ceiling, there.clusters)
                    cell.add(there, estimate, level=level, source=source, k=frozen.k, parameters=parameters, note=note)
                else:
                    direct = self._mixture(hypothesis, source, cell.hook, x, there).bits(there, x)
                    estimate = fbu(direct, there.floor_bits(), there.test_ceiling, there.clusters)
                    cell.add(there, estimate, level=level, source=source, k=frozen.k, parameters=parameters, note=note)
                    moved = transfer(bits, direct, there.floor_bits(), there.test_ceiling, there.clusters)
                    cell.add(
                        there,
                        moved,
                        fit_domain=seen.domain,
                        metric="transfer",
                        arm="raw",
                        level=level,
                        source=source,
                        k=frozen.k,
                    )
                if linear is not None and self.transfer is not None:
                    finer = _rows(
                        cross_entropy(
                            _moved_logits(linear, seen, there, x, self.observations, "test"), _test_law(there)
                        )
                    )
                    cell.add(
                        there, difference(bits, finer, there.clusters), fit_domain=seen.domain, metric="crossing",
                        arm="raw", level=level, source=source, note="bits above linear, both frozen on the seen domain",
                    )  # fmt: skip

    def _mixture(self, hypothesis: Hypothesis, source: str, hook: str, x: Tensor, setting: Setting) -> "_Mixture":
        decoders = {
            name: None if source == "true" else self._decoder(hook, name, setting.domain, x)
            for name in hypothesis.features
        }
        parameters = sum(d.parameters for d in decoders.values() if d is not None) + 1
        k = sum(d.rank for d in decoders.values() if d is not None) or None
        mixture = _Mixture(hypothesis, decoders, self.observations, setting, 1.0, parameters, k)
        losses = [float(mixture.at(eps).bits(setting, x, "select").mean()) for eps in EPSILONS]
        return mixture.at(float(EPSILONS[int(np.argmin(losses))]))

    def _decoder(self, hook: str, feature: str, domain: str, x: Tensor) -> "Decoder":
        key = hook, feature, domain
        if key not in self._decoders:
            if any(known[0] != hook for known in self._decoders):
                self._decoders.clear()
            if feature not in self.observations.features:
                known = ", ".join(self.observations.features) or "none"
                raise BadInput(f"no feature '{feature}' in the task: it has {known}.")
            index = np.flatnonzero(self.observations.domain == domain)
            split = split_by_group(self.observations.group[index], self.seeds[1])
            self._decoders[key] = Decoder.fit(
                self.observations.features[feature], index, split, x, self.read.lambdas[::2]
            )
        return self._decoders[key]

    def _transfer(self, cell: "_Cell", x: Tensor, sites: dict[str, Site], readers: list[Reader]) -> None:
        """Every asked level fitted in each domain and applied in every other one."""
        assert self.transfer is not None
        levels = [Level.parse(name) for name in self.transfer.levels]
        fitted: dict[str, list[Reader]] = {}
        for domain in self.domains:
            setting = self.setting(cell.behaviour, domain)
            if domain == self.domains[0]:
                names = {level.name for level in levels}
                fitted[domain] = [reader for reader in readers if reader.level in names]
                missing = names - {reader.level for reader in fitted[domain]} - {"hypothesis"}
                for level in levels:
                    if level.name in missing and level.family != "hypothesis":
                        fitted[domain] += fit_level(sites[domain], level, self.read.ks)
                continue
            sites[domain] = self._site(setting, x)
            test = setting.side(x, "test")
            fitted[domain] = []
            for level in [Level("prior"), Level("baseline"), *levels]:
                if level.family != "hypothesis":
                    for reader in fit_level(sites[domain], level, self.read.ks):
                        cell.score(setting, reader, _rows(reader.bits(test)))
                        fitted[domain].append(reader)
        for a in self.domains:
            for b in self.domains:
                if a != b:
                    self._transfer_pair(cell, x, a, b, fitted)

    def _transfer_pair(self, cell: "_Cell", x: Tensor, a: str, b: str, fitted: dict[str, list[Reader]]) -> None:
        here, there = self.setting(cell.behaviour, a), self.setting(cell.behaviour, b)
        direct = {(r.level, r.source, r.k): r for r in fitted[b]}
        law = _test_law(there)
        for reader in fitted[a]:
            same = direct.get((reader.level, reader.source, reader.k))
            if same is None or reader.level in ("prior", "baseline"):
                continue
            best = _rows(same.bits(there.side(x, "test")))
            raw = _moved_logits(reader, here, there, x, self.observations, "test")
            fit_rows = _moved_logits(reader, here, there, x, self.observations, "fit")
            fit_law = there.law[..., torch.from_numpy(there.split.fit)]
            few = np.random.default_rng([self.seeds[1], 8]).permutation(len(there.split.fit))[:PLATT_LABELS]
            arms = {
                "raw": raw,
                "refit": calibrate(raw, fit_calibration(fit_rows, fit_law)),
                "platt50": calibrate(raw, fit_calibration(fit_rows[..., few], fit_law[..., few])),
            }
            values = {arm: _rows(cross_entropy(logits, law)) for arm, logits in arms.items()}
            for arm, bits in values.items():
                estimate = transfer(bits, best, there.floor_bits(), there.test_ceiling, there.clusters)
                record = self.record(
                    there, estimate, metric="transfer", arm=arm, hook=cell.hook, level=reader.level,
                    source=reader.source, k=reader.k, parameters=reader.parameters, fit_domain=a,
                )  # fmt: skip
                cell.outcome.add(replace(record, raw=float(values["raw"].mean())), estimate, there.clusters)


@dataclass
class _Cell:
    """Where the records of one (hook, behaviour) are collected."""

    measurement: Measurement
    hook: str
    behaviour: str
    outcome: Outcome = field(default_factory=Outcome)

    def add(self, setting: Setting, estimate: Estimate, **coordinates: Any) -> None:
        coordinates = {"metric": "read", "hook": self.hook, **coordinates}
        self.outcome.add(self.measurement.record(setting, estimate, **coordinates), estimate, setting.clusters)

    def score(
        self, setting: Setting, reader: Reader, bits: NDArray, *, floor: str = "strong", note: str = "", **more
    ) -> None:
        """FBU of a reader's test bits."""
        estimate = fbu(bits, setting.floor_bits(floor), setting.test_ceiling, setting.clusters)
        self.add(
            setting, estimate, level=reader.level, source=reader.source, k=reader.k, parameters=reader.parameters,
            floor=floor, note=note or reader.note, **more,
        )  # fmt: skip

    def missing(self, setting: Setting, level: str, reason: str, note: str = "", **more: Any) -> None:
        """An NA record with its reason."""
        n, groups = len(setting.split.test), len(setting.clusters.names)
        nothing = Estimate(None, None, None, None, None, None, None, None, n, groups, reason, note)
        self.add(setting, nothing, level=level, **more)


@dataclass(frozen=True)
class Decoder:
    """Linear readouts of a feature's targets at a site, fitted in one domain. rank: directions that they look along."""

    index: NDArray[np.int64]
    split: Split
    frame: Any
    readout: Readout
    rows: tuple[Rows, Rows]
    rank: int

    @classmethod
    def fit(cls, feature: Feature, index: NDArray, split: Split, x: Tensor, lambdas: Sequence[float]) -> "Decoder":
        """All targets at once; the ridge of each target is chosen on the selection rows (every second of the path)."""
        sides = [torch.from_numpy(index[side]) for side in (split.fit, split.select)]
        frame = fit_frame(x[sides[0]].float())
        n_class = len(feature.classes)
        rows = []
        for side in sides:
            labels = torch.from_numpy(feature.labels)[side]
            law = torch.nn.functional.one_hot(labels, n_class).permute(2, 1, 0).float().contiguous()
            rows.append(Rows(frame.apply(x[side]), law))
        readout = fit_path(rows[0], rows[1], frame.variance, lambdas)
        weight = readout.weight - readout.weight.mean(0)
        rank = int(torch.linalg.matrix_rank(weight.flatten(0, 1), rtol=1e-4))
        return cls(index, split, frame, readout, (rows[0], rows[1]), rank)

    @property
    def parameters(self) -> int:
        k, t, r = self.readout.weight.shape
        return (k - 1) * t * (r + 1)

    def predict(self, x: Float[Tensor, "n d"]) -> NDArray[np.int64]:
        """Most likely class of each target: [n, n_targets]."""
        return self.readout.logits(self.frame.apply(x)).argmax(0).T.numpy()

    def predict_nonlinear(self, x: Tensor, at: NDArray, seed: int) -> NDArray[np.int64]:
        """The same by an MLP on top of the linear logits."""
        stacked = [Rows(r.z, r.law, self.readout.logits(r.z)) for r in self.rows]
        mlp = fit_mlp(*stacked, seed=seed, epochs=FEATURE_EPOCHS, min_steps=FEATURE_STEPS)
        z = self.frame.apply(x[torch.from_numpy(at)])
        return mlp.logits(z, self.readout.logits(z)).argmax(0).T.numpy()


def _worst_rows(readers: Sequence[Reader], setting: Setting, x: Tensor) -> dict[str, NDArray]:
    """Rows of the observations that the linear reader misses most, and by how many bits: means hide them."""
    linear = next((reader for reader in readers if reader.level == "linear"), None)
    if linear is None:
        return {}
    missed = _rows(linear.bits(setting.side(x, "test"))) - setting.test_ceiling
    worst = np.argsort(-missed)[:N_WORST]
    return {"worst_rows": setting.index[setting.split.test[worst]], "worst_bits": missed[worst]}


class _OtherOutcomes(Exception):
    """A rule gave a law over other outcomes than the behaviour's."""


@dataclass(frozen=True)
class _Mixture:
    """q = (1 - eps) rule(features) + eps floor, all fitted in `home`; where the rule allows nothing, the floor."""

    hypothesis: Hypothesis
    decoders: Mapping[str, Decoder | None]
    observations: Observations
    home: Setting
    eps: float
    parameters: int
    k: int | None
    cache: dict = field(default_factory=dict)

    def at(self, eps: float) -> "_Mixture":
        return replace(self, eps=eps)

    def bits(self, there: Setting, x: Tensor, which: str = "test") -> NDArray[np.float64]:
        """Bits per row of `there`'s side, with home's decoders, floor and eps."""
        key = there.domain, which
        if key not in self.cache:
            rows = there.index[getattr(there.split, which)]
            features = {
                name: self.observations.features[name].labels[rows]
                if decoder is None
                else decoder.predict(x[torch.from_numpy(rows)])
                for name, decoder in self.decoders.items()
            }
            rule = np.asarray(self.hypothesis.rule(features), dtype=np.float64)
            law = there.behaviour.law[rows].astype(np.float64)
            if rule.shape != law.shape:
                raise _OtherOutcomes(
                    f"hypothesis '{self.hypothesis.name}' returned a law of shape {rule.shape} for behaviour "
                    f"'{there.behaviour.name}' of shape {law.shape}: one column per outcome is needed."
                )
            floor = torch.softmax(_floor_logits(self.home, there, self.observations, which), 0)[:, 0].T.double().numpy()
            self.cache[key] = np.where(rule.sum(1, keepdims=True) > 0, rule, floor), floor, law
        rule, floor, law = self.cache[key]
        q = (1 - self.eps) * rule + self.eps * floor
        return -(law * np.log2(np.maximum(q, TINY))).sum(1)


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


def _rows(bits: Float[Tensor, "1 n"]) -> NDArray[np.float64]:
    return bits[0].double().cpu().numpy()


def _test_law(setting: Setting) -> Tensor:
    return setting.law[..., torch.from_numpy(setting.split.test)]


def _floor_logits(home: Setting, there: Setting, observations: Observations, which: str) -> Tensor:
    """Home's floor on the rows of `there`'s side: its honest logits where the two are one."""
    at = getattr(there.split, which)
    if home.domain == there.domain:
        return home.floors["strong"][1][..., torch.from_numpy(at)]
    inputs = {name: block[there.index[at]] for name, block in observations.floor_inputs.items()}
    return home.floors["strong"][0].logits(inputs, len(at))


def _moved_logits(
    reader: Reader, home: Setting, there: Setting, x: Tensor, observations: Observations, which: str
) -> Tensor:
    rows = torch.from_numpy(there.index[getattr(there.split, which)])
    return reader.logits(x[rows].float(), _floor_logits(home, there, observations, which))


def _constant_within(setting: Setting) -> bool:
    """Whether all rows of a group behave alike, so that moving rows inside it is no control."""
    law = setting.behaviour.law[setting.index]
    _, first, code = np.unique(setting.group, return_index=True, return_inverse=True)
    return bool(np.abs(law - law[first][code]).max() < 1e-6)


def _check_finite(x: Tensor, hook: str) -> None:
    bad = ~torch.isfinite(x.float()).all(1)  # in the precision in which they are read
    if bool(bad.any()):
        raise BadInput(
            f"the activations of '{hook}' are not finite in {int(bad.sum())} rows, first row {int(bad.nonzero()[0])}."
        )


def _check_classes(behaviour: Behaviour, domain: str, rows: NDArray[np.bool_]) -> None:
    law = behaviour.law[rows]
    if len(law) and float(law.mean(0).max()) > 1 - 1e-9:
        only = behaviour.outcomes[int(law.mean(0).argmax())]
        raise BadInput(
            f"behaviour '{behaviour.name}' has one class ('{only}') in domain '{domain}': there is nothing to explain. "
            "Give rows of at least two."
        )


def measure(
    activations: Any,
    *,
    behaviour: Any = None,
    floor: Any = None,
    groups: Any = None,
    domains: Any = None,
    features: Mapping[str, Any] | None = None,
    twin: Any = None,
    hypotheses: Sequence[Hypothesis] = (),
    transfer: Sequence[str] = ("linear",),
    seed_probe: int = 0,
    seed_data: int = 0,
    n_bootstrap: int = 2_000,
    progress: Callable[[str], None] | None = None,
    **read: Any,
) -> "pd.DataFrame":
    """FBU of every level at every site: one record per row.

    activations: what `capture` returned; or, without any model, an array [n, d] or {hook name: array [n, d]} (NumPy,
    torch, a .npy or .safetensors path), with behaviour: labels [n], a law [n, n_outcomes] or {name: either};
    floor: inputs [n, width] of the input-only reader, or {block: array}; groups, domains [n]; features {name: labels}.
    twin: activations of a randomly initialised network on the same rows. transfer: levels moved between domains.
    read: any key of a spec's [read] table (levels, ks, controls, decomposition, lambdas, floors).
    Raises BadInput in one sentence for anything that cannot be measured.
    """
    import pandas as pd

    from probekit.arrays import as_activations

    sites, observations = as_activations(activations, behaviour, floor, groups, domains, features)
    twins = as_activations(twin, behaviour, floor, groups, domains, features)[0] if twin is not None else {}
    spec = validate(ReadSpec, {"hooks": tuple(sites), **read}, "measure")
    for name in spec.levels:
        Level.parse(name)
    moving = TransferSpec(levels=tuple(transfer)) if len(observations.domains) > 1 else None
    measurement = Measurement(observations, spec, moving, hypotheses, (seed_probe, seed_data, 0), n_bootstrap)
    records: list[Record] = []
    for hook in sites:
        x = to_tensor(sites[hook])
        other = to_tensor(twins[hook]) if hook in twins else None
        for feature in observations.features if spec.features is None else spec.features:
            records += measurement.feature_cell(hook, feature, x).records
        for name in observations.behaviours:
            if progress:
                progress(f"{hook} {name}")
            records += measurement.read_cell(hook, name, x, other).records
    return pd.DataFrame([record.row() for record in records])


def to_tensor(values: Any) -> Float[Tensor, "n d"]:
    """A site's rows as a tensor, without a copy where there is none to make."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
