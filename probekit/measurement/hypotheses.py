"""A stated hypothesis at a site: its features decoded by linear readouts, its rule, and the weight eps of the floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.frame import Frame, fit_frame
from probekit.fit.mlp import fit_mlp
from probekit.fit.path import fit_path
from probekit.fit.readout import Readout, Rows
from probekit.levels import Hypothesis
from probekit.measurement.deletion import Deleted
from probekit.measurement.setting import Setting, floor_logits
from probekit.metrics.splits import Split
from probekit.task import Feature, Observations

EPSILONS = np.concatenate([[0.0], np.geomspace(1e-5, 1.0, 60)])  # mixing weights tried


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

    def predict(self, x: Float[Tensor, "n d"]) -> NDArray[np.int64]:
        """Most likely class of each target: [n, n_targets]."""
        return self.readout.logits(self.frame.apply(x)).argmax(0).T.numpy()

    def predict_nonlinear(self, x: Tensor, at: NDArray, seed: int) -> NDArray[np.int64]:
        """The same by an MLP on top of the linear logits."""
        stacked = [Rows(r.z, r.law, self.readout.logits(r.z)) for r in self.rows]
        mlp = fit_mlp(*stacked, seed=seed, epochs=FEATURE_EPOCHS, min_steps=FEATURE_STEPS)
        z = self.frame.apply(x[torch.from_numpy(at)])
        return mlp.logits(z, self.readout.logits(z)).argmax(0).T.numpy()


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
        """eps is the one of EPSILONS with the lowest loss on home's selection rows."""
        mixture = cls(hypothesis, decoders, observations, home)
        losses = [float(replace(mixture, eps=eps).bits(home, x, "select").mean()) for eps in EPSILONS]
        return replace(mixture, eps=float(EPSILONS[int(np.argmin(losses))]))

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
        """(the rule's law, or the floor's where it allows nothing; the floor's; the behaviour's), each [n, k]."""
        features = {
            name: self.observations.features[name].labels[rows]
            if decoder is None
            else decoder.predict(x[torch.from_numpy(rows)])
            for name, decoder in self.decoders.items()
        }
        rule = np.asarray(self.hypothesis.rule(features), dtype=np.float64)
        if rule.shape != law.shape:
            raise OtherOutcomes(
                f"hypothesis '{self.hypothesis.name}' returned a law of shape {rule.shape} for behaviour "
                f"'{self.home.behaviour.name}' of shape {law.shape}: one column per outcome is needed."
            )
        floor = torch.softmax(floor_logits, 0)[:, 0].T.double().numpy()
        return np.where(rule.sum(1, keepdims=True) > 0, rule, floor), floor, law

    def _mixed(self, rule: NDArray, floor: NDArray, law: NDArray) -> NDArray[np.float64]:
        q = (1 - self.eps) * rule + self.eps * floor
        return -(law * np.log2(np.maximum(q, TINY))).sum(1)
