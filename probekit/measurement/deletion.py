"""Deletion: how far readers that were fitted on whole texts fall on the same texts without a named span.

Nothing is fitted again. What is missed on the deleted text is told in units of what there was to explain on the whole
one, so that a reader of the span alone goes from 0 to 1 or beyond, and one that never looked at it stays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.fit.readers import Reader, Side
from probekit.fit.readout import entropy
from probekit.measurement.setting import Said, Setting, bits_of
from probekit.task import Observations


@dataclass(frozen=True)
class Deletions:
    """What was seen of each deleted span at one hook point: observations and activations.

    None where the span is what is read.
    """

    seen: Mapping[str, tuple[Observations, Float[Tensor, "n d"]] | None]

    def why_not(self, span: str, domain: str) -> str:
        """Why nothing can be told of a domain's rows without the span; empty where something can."""
        found = self.seen[span]
        if found is None:
            return f"what is read here belongs to '{span}'"
        touched = found[0].touched
        if touched is not None and not touched[found[0].domain == domain].any():
            return f"no text of domain '{domain}' has '{span}'"
        return ""

    def at(self, setting: Setting, home: Setting | None = None) -> "Iterator[tuple[str, Deleted]]":
        """(control, test rows) of each span that can be deleted in the setting's domain; floors are those of `home`."""
        for span, found in self.seen.items():
            if found is not None and not self.why_not(span, setting.domain):
                yield f"deleted:{span}", Deleted.of(setting, home or setting, *found)


@dataclass(frozen=True)
class Deleted:
    """The test rows of a setting with a span deleted. A label stays what it was; what the model does is asked anew.

    rows: of the observations; x: activations of all of them.
    """

    setting: Setting
    rows: NDArray[np.int64]
    x: Float[Tensor, "n d"]
    sides: Mapping[str, Side]  # by floor: what it says here was fitted on whole texts

    @classmethod
    def of(cls, setting: Setting, home: Setting, observations: Observations, x: Float[Tensor, "n d"]) -> "Deleted":
        """observations, x: of the deleted task, all rows. Raises BadInput when they are not rows of the same task."""
        rows = setting.rows("test")
        behaviour = observations.behaviours.get(setting.behaviour.name)
        if behaviour is None or behaviour.outcomes != setting.pooling.before or len(x) != len(observations):
            raise BadInput(
                f"the text with a span deleted has other outcomes of '{setting.behaviour.name}' than the whole one: "
                "make it with `capture_without`."
            )
        law = torch.from_numpy(np.ascontiguousarray(setting.pooling.law(behaviour.law[rows]).T[:, None]))
        inputs = {name: block[rows] for name, block in observations.floor_inputs.items()}
        seen = x[torch.from_numpy(rows)].float()
        floors = {name: floor.logits(inputs, len(rows)) for name, (floor, _) in home.floors.items()}
        return cls(setting, rows, x, {name: Side(seen, law, logits) for name, logits in floors.items()})

    @property
    def law(self) -> NDArray[np.float64]:
        """What is done without the span [n_test, n_outcomes]."""
        return self.sides["strong"].law[:, 0].T.double().numpy()

    def logits(self, reader: Reader, floor: str = "strong") -> Float[Tensor, "outcome 1 n"]:
        """What a reader says here."""
        return reader.logits(self.sides[floor].x, self.sides[floor].offset)

    def said(self, reader: Reader, floor: str = "strong") -> Said:
        """What a reader says here; its bits plus the ceiling of the whole text, comparable with those there."""
        said = Said.by(reader, self.sides[floor])
        return replace(said, bits=self.missed(said.bits))

    def missed(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bits of these rows less their own ceiling, plus that of the whole text."""
        return bits - bits_of(entropy(self.sides["strong"].law)) + self.setting.test_ceiling


def log_odds(reader: Reader, side: Side) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Scores and labels for an AUROC, where the behaviour is one of two outcomes for certain; else None."""
    law = side.law[:, 0].double().numpy()
    if len(law) != 2 or np.minimum(*law).max() > 1e-6 or np.ptp(law[1]) == 0:
        return None
    logits = reader.logits(side.x, side.offset)[:, 0].double()
    return (logits[1] - logits[0]).numpy(), (law[1] > 0.5).astype(np.float64)


def strong_floor(setting: Setting) -> Reader:
    """The strong floor as a reader of nothing but its own logits."""
    return Reader("baseline", "", None, setting.floors["strong"][0].parameters, lambda x, offset: offset)
