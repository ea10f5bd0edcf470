"""Saved: a reader that was taken away from a run, as a file of numbers with a card, and what it says without the kit.

The file is safetensors: `weight` [d, outcome] and `bias` [outcome] in double precision, for raw activations; of readers
that look along directions also `directions` [k, d]. Its metadata holds the card as JSON under `probekit_reader`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import isfile  # which says no to a name that no path can have
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.containers import numbers
from probekit.errors import BadInput
from probekit.inputs.tensors import open_tensors
from probekit.storage.files import put

CARD = "probekit_reader"


@dataclass(frozen=True)
class SavedReader:
    """A linear reader of raw activations: x [n, d] -> x @ weight + bias, natural logarithms up to a constant.

    card: what it is and where it comes from, among it hook, outcomes, model, position, floor, threshold and numbers.
    along [k, d]: where it looks; None where it reads all of the activation. Of a number there is one outcome, and
    logits are that number. Without the kit the same is

        with safetensors.safe_open(path, "np") as file:
            card = json.loads(file.metadata()["probekit_reader"])
            logits = x.astype("float64") @ file.get_tensor("weight") + file.get_tensor("bias")

    >>> import numpy as np
    >>> import probekit as pk
    >>> reader = pk.SavedReader(np.array([[0.0, 3.0], [0.0, 4.0]]), np.zeros(2), {"outcomes": ["no", "yes"]})
    >>> reader.direction, reader.probabilities(np.array([0.0, 0.0])).tolist()
    (array([0.6, 0.8]), [0.5, 0.5])
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    card: Mapping[str, Any]
    along: NDArray[np.float64] | None = None

    def logits(self, x: Any) -> NDArray[np.float64]:
        """[n, d] or [d] -> [n, outcome] or [outcome]. Raises BadInput for activations of another width."""
        rows = numbers("activations", x).astype(np.float64)
        d = len(self.weight)
        if rows.ndim not in (1, 2) or rows.shape[-1] != d:
            raise BadInput(
                f"activations have shape {rows.shape}; this reader of {self.card['hook']} reads [n, {d}]: give those "
                "of the model that its card names."
            )
        return rows @ self.weight + self.bias

    def probabilities(self, x: Any) -> NDArray[np.float64]:
        """[n, outcome], rows sum to 1. Raises BadInput for a reader of a number, which has none."""
        if self.card["outcomes"] is None:
            raise BadInput(f"'{self.card['behaviour']}' is a number, which has no probabilities: ask for logits.")
        logits = self.logits(x)
        size = np.exp(logits - logits.max(-1, keepdims=True))
        return size / size.sum(-1, keepdims=True)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Where it looks, [k, d]; of a reader of all of the activation each outcome's weights less the first one's."""
        if self.along is not None:
            return self.along
        return self.weight.T if self.weight.shape[1] == 1 else (self.weight[:, 1:] - self.weight[:, :1]).T

    @property
    def direction(self) -> NDArray[np.float64]:
        """The unit direction [d] along which the odds of the second of two outcomes rise, or a number; the card's
        threshold `along` is where these odds are even. Raises BadInput where there are more outcomes.
        """
        told = self.weight[:, -1] - (self.weight[:, 0] if self.weight.shape[1] == 2 else 0)
        if self.weight.shape[1] > 2 or not told.any():
            raise BadInput(f"this reader of {self.weight.shape[1]} outcomes has no single direction: ask `directions`.")
        return told / np.linalg.norm(told)

    def check(self, model: Any) -> None:
        """Raise BadInput where a model at hand is not the one whose activations it reads. model: from `load_model`."""
        told = self.card["model"]
        if model.fingerprint != told["fingerprint"]:
            raise BadInput(
                f"this reader was fitted to {told['name']} ({told['fingerprint'][:16]}), and the model at hand is "
                f"{model.name} ({model.fingerprint[:16]}): other weights have other directions; load that one."
            )

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        from safetensors.numpy import save

        tensors = {"weight": self.weight, "bias": self.bias}
        tensors |= {} if self.along is None else {"directions": self.along}
        made = {name: np.ascontiguousarray(values, np.float64) for name, values in tensors.items()}
        payload = save(made, {CARD: json.dumps(self.card, allow_nan=False, ensure_ascii=False)})
        put(path, payload, BadInput)


def is_reader(path: Path) -> bool:
    """Whether a safetensors file has a reader's card. Raises BadInput for a file that is none."""
    return CARD in _opened(path)[0]


def load_reader(path: Path | str) -> SavedReader:
    """Open a reader that `save_reader` wrote; it needs NumPy alone. Raises BadInput for a file that is none.

    >>> import probekit as pk
    >>> pk.load_reader("nowhere.safetensors")
    Traceback (most recent call last):
    probekit.errors.BadInput: no reader nowhere.safetensors: give a file that `save_reader` wrote.
    """
    path = Path(path)
    if not isfile(path):
        raise BadInput(f"no reader {path}: give a file that `save_reader` wrote.")
    told, tensors = _opened(path)
    if CARD not in told:
        raise BadInput(f"{path} has no reader's card: give a file that `save_reader` wrote.")
    try:
        card = json.loads(told[CARD])
        reader = SavedReader(tensors["weight"], tensors["bias"], card, tensors.get("directions"))
        hook, outcomes, width = card["hook"], card["outcomes"], len(reader.bias)
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path} is a damaged reader ({error}): save it again.") from None
    fits = reader.weight.ndim == 2 and reader.weight.shape[1] == width == len(outcomes or [""])
    if not fits or not isinstance(hook, str):
        raise BadInput(f"{path} is a damaged reader (weights {reader.weight.shape} for {outcomes}): save it again.")
    return reader


def _opened(path: Path) -> tuple[dict[str, str], dict[str, NDArray[np.float64]]]:
    """Metadata and, where there is a card in it, the tensors."""
    with open_tensors(path) as file:
        told = file.metadata() or {}
        names = sorted(file.keys()) if CARD in told else []
        return told, {name: file.get_tensor(name) for name in names}
