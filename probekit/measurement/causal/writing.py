"""Writing: what a model writes while a direction is added, or erased, beside random directions of the same length.

An edit begins at one token of a prompt and stays on while the model writes, or is made at that token alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.fit.directions import random_directions
from probekit.model.branching import At, Edit
from probekit.model.generation import WhileWriting, ends_of, generate, writer_of
from probekit.model.interventions import orthonormal
from probekit.model.model import Model

ADDED, ERASED, UNEDITED = "added", "erased", "unedited"


@dataclass(frozen=True)
class EditedText:
    """What was written after one prompt. how: UNEDITED, ADDED or ERASED. dose: times the direction, of ADDED.

    control: '' or `random_directions`. ids: with the token that ends it, if one does. surprise: bits per token that the
    unedited model needs for it, which says how far the edit leads from what the model would write.
    """

    prompt: int
    how: str
    dose: float | None
    control: str
    ids: tuple[int, ...]
    text: str
    surprise: float

    def row(self) -> dict[str, Any]:
        """For tables and JSON."""
        told = {name: getattr(self, name) for name in ("prompt", "how", "dose", "control", "text", "surprise")}
        return told | {"tokens": len(self.ids)}


@dataclass(frozen=True)
class Along:
    """Directions [d, k] at hook points, of the length that they came in, beside random ones of the same lengths.

    first: the first edited token of each prompt; on: whether all behind it are edited, the written ones included.
    """

    at: Mapping[str, Float[Tensor, "d k"]]
    first: NDArray[np.int64]
    on: bool = True
    seed: int = 0

    def random(self) -> dict[str, Float[Tensor, "d k"]]:
        """Uniform directions, orthogonal to one another, of the same lengths."""
        drawn = (random_directions(len(along), along.shape[1], self.seed + i)
                 for i, along in enumerate(self.at.values()))  # fmt: skip
        return {hook: units * along.norm(dim=0) for units, (hook, along) in zip(drawn, self.at.items(), strict=True)}


def steered_texts(
    model: Model, prompts: Sequence[NDArray[np.int64]], directions: Along, doses: Sequence[float], n_tokens: int
) -> list[EditedText]:
    """What is written after each prompt with each dose of one direction added, of a random one beside it.

    A dose of 0 is the unedited model. Raises BadInput for several directions at a hook point, or what cannot be edited.
    """
    if any(along.shape[1] != 1 for along in directions.at.values()):
        raise BadInput("one direction is added at a hook point: pick it, or erase them all.")
    mine, random = directions.at, directions.random()
    asked = [(ADDED if dose else UNEDITED, dose, control) for dose in dict.fromkeys(doses)
             for control in ("", "random_directions") if dose or not control]  # fmt: skip
    moves = {
        hook: torch.stack([dose * (random if control else mine)[hook][:, 0] for _, dose, control in asked])
        for hook in mine
    }
    edits = {hook: _adding(move) for hook, move in moves.items()}
    return _written(model, prompts, directions, asked, edits, n_tokens)


def ablated_texts(
    model: Model, prompts: Sequence[NDArray[np.int64]], directions: Along, n_tokens: int
) -> list[EditedText]:
    """What is written after each prompt unedited, with the directions' span erased, and with a random one of its rank.

    Raises BadInput for what cannot be edited.
    """
    asked = [(UNEDITED, None, ""), (ERASED, None, ""), (ERASED, None, "random_directions")]
    random = directions.random()
    edits = {}
    for hook, along in directions.at.items():
        mine = orthonormal(along)
        edits[hook] = _erasing(torch.stack([0 * mine, mine, orthonormal(random[hook])[:, : mine.shape[1]]]))
    return _written(model, prompts, directions, asked, edits, n_tokens)


def lengths_at(model: Model, prompts: Sequence[NDArray[np.int64]], directions: Along) -> dict[str, float]:
    """Mean length of the activations that are edited in the prompts, by hook point: what a dose may be held against."""
    places = [np.arange(first, len(ids) if directions.on else first + 1)
              for ids, first in zip(prompts, directions.first.tolist(), strict=True)]  # fmt: skip
    read = model.read(prompts, list(directions.at), places)
    return {hook: float(values.float().norm(dim=1).mean()) for hook, values in read.items()}


def _adding(moves: Float[Tensor, "row d"]) -> Edit:
    def edit(act: Tensor, at: At) -> Tensor:
        return act + moves[at.text].to(act)

    return edit


def _erasing(bases: Float[Tensor, "row d k"]) -> Edit:
    def edit(act: Tensor, at: At) -> Tensor:
        basis = bases[at.text].to(act)
        return act - (basis @ (basis.mT @ act[:, :, None]))[:, :, 0]

    return edit


def _written(
    model: Model, prompts: Sequence[NDArray[np.int64]], directions: Along,
    asked: Sequence[tuple[str, float | None, str]], edits: Mapping[str, Edit], n_tokens: int,
) -> list[EditedText]:  # fmt: skip
    """Every condition of a prompt is a row of one batch: rows of one length, which any forward can write after."""
    backend, ends, out = writer_of(model, tuple(edits)), ends_of(model), []
    for number, (ids, first) in enumerate(zip(prompts, directions.first.tolist(), strict=True)):
        edited = WhileWriting(edits, np.full(len(asked), first), directions.on)
        found = generate(model, [ids] * len(asked), n_tokens, backend=backend, edited=edited)[:, 0].tolist()
        kept = [row[: next((i + 1 for i, token in enumerate(row) if token in ends), n_tokens)] for row in found]
        for (how, dose, control), row, bits in zip(asked, kept, _surprises(model, ids, kept, backend), strict=True):
            text = model.tokenizer.decode(row, skip_special_tokens=True)
            out.append(EditedText(number, how, dose, control, tuple(row), text, bits))
    return out


def _surprises(model: Model, ids: NDArray[np.int64], written: Sequence[list[int]], backend: str) -> list[float]:
    """Bits per token of what was written, by the unedited model."""
    both = [np.concatenate([ids, row]).astype(np.int64) for row in written]
    places = [np.arange(len(ids) - 1, len(row) - 1) for row in both]
    token = torch.from_numpy(np.concatenate([row[len(ids) :] for row in both]))
    bits = np.zeros(len(token))

    def keep(logits: Tensor, rows: NDArray[np.int64]) -> None:
        law = logits.double().log_softmax(-1)
        bits[rows] = -law.gather(1, token[torch.from_numpy(rows)][:, None])[:, 0].numpy() / np.log(2)

    model.read(both, [], places, on_logits=keep, backend=backend)
    return [float(part.mean()) for part in np.split(bits, np.cumsum([len(row) for row in written])[:-1])]
