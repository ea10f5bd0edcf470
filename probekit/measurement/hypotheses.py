"""A stated hypothesis at a site: its features decoded by linear readouts, its rule, and the weight eps of the floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.containers import first_row, numbers
from probekit.errors import BadInput, FitError
from probekit.fit.frame import Frame, fit_frame
from probekit.fit.mlp import fit_mlp
from probekit.fit.path import fit_path
from probekit.fit.readers import Reader
from probekit.fit.readout import Readout, Rows, cross_entropy
from probekit.levels import Hypothesis
from probekit.measurement.deletion import Deleted
from probekit.measurement.fold import Fold
from probekit.measurement.outcome import Coordinates
from probekit.measurement.setting import Setting, bits_of, floor_logits, moved_logits
from probekit.measurement.study import Study
from probekit.metrics.ratios import difference, fbu, transfer
from probekit.metrics.splits import Split
from probekit.task import Feature, Observations

EPSILONS = np.geomspace(1e-5, 1.0, 60)  # mixing weights tried, of those above the least
# Of the MLP that reads features: many targets at once, and only their accuracy is asked.
FEATURE_EPOCHS, FEATURE_STEPS = 10, 150
TINY = 1e-30


@dataclass(frozen=True)
class Decoder:
    """Linear readouts of a feature's targets at a site, fitted in one domain. rank: directions that they look along."""

    index: NDArray[np.int64]
    split: Split
    frame: Frame
    readout: Readout
    rows: tuple[Rows, Rows]
    rank: int

    @classmethod
    def fit(cls, feature: Feature, index: NDArray, split: Split, x: Tensor, lambdas: Sequence[float]) -> "Decoder":
        """All targets at once; the ridge of each target is chosen on the selection rows."""
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
        """Fitted numbers of all targets, the over-complete class counted once less."""
        k, t, r = self.readout.weight.shape
        return (k - 1) * t * (r + 1)

    @property
    def directions(self) -> Float[Tensor, "d kt"]:
        """Where the readouts look, as directions on raw activations: of every class and target."""
        weight = self.readout.weight  # [class, target, r]
        return torch.einsum("ktr,dr->dkt", weight - weight.mean(0), self.frame.rotation).flatten(1)

    def predict(self, x: Float[Tensor, "n d"]) -> NDArray[np.int64]:
        """Most likely class of each target: [n, n_targets]."""
        return self.readout.logits(self.frame.apply(x)).argmax(0).T.numpy()

    def predict_nonlinear(self, x: Tensor, at: NDArray, seed: int) -> NDArray[np.int64]:
        """The same by an MLP on top of the linear logits."""
        stacked = [Rows(r.z, r.law, self.readout.logits(r.z)) for r in self.rows]
        mlp = fit_mlp(*stacked, seed=seed, epochs=FEATURE_EPOCHS, min_steps=FEATURE_STEPS)
        z = self.frame.apply(x[torch.from_numpy(at)])
        return mlp.logits(z, self.readout.logits(z)).argmax(0).T.numpy()


class Decoders:
    """Decoders of the last hook point that was asked for, each fitted once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._hook = ""
        self._found: dict[tuple[str, str, int], Decoder] = {}

    def get(self, hook: str, feature: str, domain: str, fold: int, x: Float[Tensor, "n d"]) -> Decoder:
        """A feature's decoder, on the rows that behaviours are read on. Raises BadInput."""
        if hook != self._hook:
            self._hook, self._found = hook, {}
        key = feature, domain, fold
        if key not in self._found:
            study, features = self.study, self.study.observations.features
            if feature not in features:
                raise BadInput(f"no feature '{feature}' in the task: it has {', '.join(features) or 'none'}.")
            index, split = study.index(domain), study.splits(domain)[fold]
            self._found[key] = Decoder.fit(features[feature], index, split, x, study.read.lambdas[::2])
        return self._found[key]


class OtherOutcomes(Exception):
    """A rule gave a law over other outcomes than the behaviour's."""


@dataclass(frozen=True)
class Mixture:
    """q = (1 - eps) rule(features) + eps floor, all fitted in `home`; where the rule allows nothing, the floor.

    decoders: per feature its decoder, or None for the true labels.
    """

    hypothesis: Hypothesis
    decoders: Mapping[str, Decoder | None]
    observations: Observations
    home: Setting
    eps: float = 1.0
    _cache: dict = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        hypothesis: Hypothesis,
        decoders: Mapping[str, Decoder | None],
        observations: Observations,
        home: Setting,
        x: Float[Tensor, "n d"],
    ) -> "Mixture":
        """eps is the weight with the lowest loss on home's selection rows, and never 0.

        The least is what the rule of succession gives a rule that was never wrong: 1 / (rows + 2). With 0, one test row
        that the rule excludes would cost all bits that a float can hold.
        """
        mixture = cls(hypothesis, decoders, observations, home)
        least = 1 / (len(home.split.select) + 2)
        tried = [least, *EPSILONS[least < EPSILONS]]
        losses = [float(replace(mixture, eps=eps).bits(home, x, "select").mean()) for eps in tried]
        return replace(mixture, eps=float(tried[int(np.argmin(losses))]))

    @property
    def parameters(self) -> int:
        """Those of the decoders, and eps."""
        return sum(d.parameters for d in self.decoders.values() if d is not None) + 1

    @property
    def k(self) -> int | None:
        """Directions that the decoders look along; None with true features."""
        return sum(d.rank for d in self.decoders.values() if d is not None) or None

    def bits(self, there: Setting, x: Float[Tensor, "n d"], which: str = "test") -> NDArray[np.float64]:
        """Bits per row of `there`'s side, with home's decoders, floor and eps."""
        key = there.domain, there.fold, which
        if key not in self._cache:
            rows = there.rows(which)
            logits = floor_logits(self.home, there, self.observations, which)
            self._cache[key] = self._parts(rows, x, logits, there.behaviour.law[rows].astype(np.float64))
        return self._mixed(*self._cache[key])

    def bits_without(self, deleted: Deleted) -> NDArray[np.float64]:
        """The same with a span deleted: features are decoded from what is left, true ones stay what they were."""
        parts = self._parts(deleted.rows, deleted.x, deleted.sides["strong"].offset, deleted.law)
        return deleted.missed(self._mixed(*parts))

    def _parts(
        self, rows: NDArray[np.int64], x: Tensor, floor_logits: Tensor, law: NDArray[np.float64]
    ) -> tuple[NDArray, NDArray, NDArray]:
        """(the rule's law, or the floor's where it allows nothing; the floor's; the behaviour's), each [n, outcome]."""
        features = {
            name: self.observations.features[name].labels[rows]
            if decoder is None
            else decoder.predict(x[torch.from_numpy(rows)])
            for name, decoder in self.decoders.items()
        }
        what = f"the law of hypothesis '{self.hypothesis.name}'"
        rule = numbers(what, self.hypothesis.rule(features)).astype(np.float64)
        pooling = self.home.pooling
        shape = len(law), len(pooling.before)
        if rule.shape != shape:
            raise OtherOutcomes(
                f"hypothesis '{self.hypothesis.name}' returned a law of shape {rule.shape} for behaviour "
                f"'{self.home.behaviour.name}' of shape {shape}: one column per outcome is needed."
            )
        whole = rule.sum(1)
        bad = (rule < 0).any(1) | ((whole != 0) & (abs(whole - 1) > 1e-3))
        if bad.any():
            raise BadInput(f"{what} is none at row {rows[first_row(bad)]}: give probabilities that sum to 1, or all 0.")
        rule = pooling.law(rule)
        floor = torch.softmax(floor_logits.double(), 0)[:, 0].T.numpy()
        return np.where(rule.sum(1, keepdims=True) > 0, rule, floor), floor, law

    def _mixed(self, rule: NDArray, floor: NDArray, law: NDArray) -> NDArray[np.float64]:
        q = (1 - self.eps) * rule + self.eps * floor
        return -(law * np.log2(np.maximum(q, TINY))).sum(1)


# -------------------------------------------------------------------------------------------------------------- steps


def measure_hypotheses(fold: Fold, decoders: Decoders, readers: Sequence[Reader]) -> None:
    """Every hypothesis that speaks of the behaviour, with decoded and with true features, in every domain.

    fold: of the seen domain, where everything is fitted. readers: those fitted there, of which `linear` is compared.
    """
    for hypothesis in fold.study.hypotheses_for(fold.cell.behaviour):
        at = Coordinates(level=f"hypothesis:{hypothesis.name}")
        try:
            for source in ("decoded", "true"):
                _measure(fold, decoders, hypothesis, replace(at, source=source), readers)
        except OtherOutcomes as error:
            # Stated for no behaviour in particular, it may simply not speak of this one.
            if hypothesis.behaviour:
                raise BadInput(str(error)) from None
            fold.cell.missing(fold.setting, at, "not_defined", str(error))
        except FitError as error:
            fold.cell.missing(fold.setting, at, "not_converged", str(error))


def _measure(
    fold: Fold, decoders: Decoders, hypothesis: Hypothesis, at: Coordinates, readers: Sequence[Reader]
) -> None:
    cell, study, seen, x = fold.cell, fold.study, fold.setting, fold.x
    linear = next((reader for reader in readers if reader.level == "linear"), None)
    frozen = _mixture(fold, decoders, hypothesis, at.source, seen)
    if study.keeps_examples:
        rows = seen.rows("test")
        for name, decoder in frozen.decoders.items():
            if decoder is not None:
                cell.keep_decoded(seen.fold, name, rows, decoder.predict(x[torch.from_numpy(rows)]))
    at = replace(at, parameters=frozen.parameters, rank=frozen.k)
    moved = replace(at, metric="transfer", arm="raw", fit_domain=seen.domain)
    crossing = replace(moved, metric="crossing", parameters=None, rank=None)
    note = f"eps {frozen.eps:.2g}; rule source {hypothesis.source_hash}"
    for domain in study.domains:
        if why := study.unmeasurable(cell.behaviour, domain):
            for one in (replace(at, fit_domain=domain), moved):
                cell.untold(replace(one, test_domain=domain), "too_few_rows", why)
            continue
        there = fold.in_domain(domain)
        bits, ends = frozen.bits(there, x), there.ends()
        own = frozen if domain == seen.domain else _mixture(fold, decoders, hypothesis, at.source, there)
        direct = own.bits(there, x)
        fitted = fold.fitted if there is seen else None
        cell.put(there, at, fbu, (direct, *ends), note=note, fitted=fitted)
        for control, gone in fold.without.at(there):
            cell.put(there, replace(at, control=control), fbu, (own.bits_without(gone), *ends), note=note)
        if own is not frozen:
            cell.put(there, moved, transfer, (bits, direct, *ends))
            for control, gone in fold.without.at(there, seen):
                rows = (frozen.bits_without(gone), direct, *ends)
                cell.put(there, replace(moved, control=control), transfer, rows)
        if linear is not None and study.transfer is not None:
            logits = moved_logits(linear, seen, there, x, study.observations, "test")
            rows = (bits, bits_of(cross_entropy(logits, there.test_law)))
            cell.put(there, crossing, difference, rows, note="bits above linear, both frozen on the seen domain")


def _mixture(fold: Fold, decoders: Decoders, hypothesis: Hypothesis, source: str, home: Setting) -> Mixture:
    """The hypothesis fitted on the rows of `home`, with features as decoded there or as they are."""
    by_feature = {
        name: None if source == "true" else decoders.get(fold.cell.hook, name, home.domain, home.fold, fold.x)
        for name in hypothesis.features
    }
    return Mixture.fit(hypothesis, by_feature, fold.study.observations, home, fold.x)
