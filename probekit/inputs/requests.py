"""Requests: hidden states that a serving engine wrote, one safetensors file for each request, as rows of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.tensors import open_tensors

IDS = ("token_ids", "input_ids", "prompt_token_ids", "tokens")
_WHOLE, _FLOATS = ("I64", "I32", "I16", "U32", "U16"), ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Request:
    """One file. tokens [n]; states [n_rows, n_layers, d]: a row for each token, or for all but the last, which was
    written and never read."""

    name: str
    tokens: NDArray[np.int64]
    states: NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """What the head of a file says: names of its two tensors, how many tokens, the shape and type of the states."""

    path: Path
    ids: str
    states: str
    n_tokens: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def orders(self) -> tuple[str, ...]:
        """Which axes of the states can be the tokens': `tokens` where they are the first, `layers` the second."""
        if len(self.shape) == 2:
            return ("tokens",) if self._fits(self.shape[0]) else ()
        return tuple(name for name, n in zip(("tokens", "layers"), self.shape, strict=False) if self._fits(n))

    def _fits(self, n: int) -> bool:
        return n in (self.n_tokens, self.n_tokens - 1) and n > 0

    def n_layers(self, order: str) -> int:
        return 1 if len(self.shape) == 2 else self.shape[1 if order == "tokens" else 0]

    def n_rows(self, order: str) -> int:
        return self.shape[0 if order == "tokens" else 1]


@dataclass(frozen=True)
class Requests(Sequence[Request]):
    """Files of a folder, in order of their names, opened when asked for. order: which axis of the states comes first.

    >>> import probekit as pk
    >>> pk.read_requests("nowhere")
    Traceback (most recent call last):
    probekit.errors.BadInput: no folder nowhere: give one that holds a safetensors file for each request.
    """

    folder: Path
    heads: tuple[Head, ...]
    order: str

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, i: int) -> Request:  # pyright: ignore[reportIncompatibleMethodOverride]
        head = self.heads[i]
        with open_tensors(head.path, "pt") as file:  # NumPy has no name for numbers of 16 bits with a long exponent
            ids, states = (file.get_tensor(name) for name in (head.ids, head.states))
        states = states.float().numpy()
        states = states[:, None] if states.ndim == 2 else states if self.order == "tokens" else states.swapaxes(0, 1)
        return Request(head.path.stem, ids.numpy().astype(np.int64), states)

    @property
    def names(self) -> list[str]:
        return [head.path.stem for head in self.heads]

    @property
    def n_layers(self) -> int:
        return self.heads[0].n_layers(self.order)

    @property
    def d(self) -> int:
        return self.heads[0].shape[-1]

    @property
    def dtypes(self) -> list[str]:
        return sorted({head.dtype.lower() for head in self.heads})

    @property
    def n_rows(self) -> list[int]:
        """Rows of each request."""
        return [head.n_rows(self.order) for head in self.heads]

    def rows(self, position: int = -1) -> dict[str, NDArray[np.float32]]:
        """Rows of one place in every request, `layer i` -> [n_requests, d], as `measure` takes them.

        Raises BadInput where a request is too short.
        """
        short = next((name for name, n in zip(self.names, self.n_rows, strict=True) if not -n <= position < n), None)
        if short is not None:
            raise BadInput(f"request {short} has no row {position}: it has {self.n_rows[self.names.index(short)]}.")
        found = np.stack([request.states[position] for request in self], 1)
        return {f"layer {i}": layer for i, layer in enumerate(found)}


def read_requests(folder: str | Path, order: str = "") -> Requests:
    """Requests of a folder; their heads are read, the states are not.

    Each file has token ids [n] (`token_ids`, `input_ids` or the only integers) and hidden states, [tokens, layers, d],
    [layers, tokens, d] or [tokens, d]. order: `tokens` or `layers`, whichever comes first; inferred where it is left
    out. Raises BadInput where a file is none of this, or files do not agree, or both orders fit all of them.

    >>> import probekit as pk
    >>> requests = pk.read_requests("captures")
    >>> requests.names, requests.order, requests.n_layers, requests[0].states.shape[1:]
    (['r0', 'r1', 'r2'], 'tokens', 6, (6, 128))
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}: give one that holds a safetensors file for each request.")
    if order not in ("", "tokens", "layers"):
        raise BadInput(f"order is '{order}': say tokens or layers, whichever the states' first axis is.")
    heads = tuple(_head(path) for path in sorted(folder.glob("*.safetensors")))
    if not heads:
        raise BadInput(f"{folder} holds no .safetensors files: give a folder with one for each request.")
    order = _order(heads, order)
    first = heads[0]
    for head in heads:
        if (head.n_layers(order), head.shape[-1]) != (first.n_layers(order), first.shape[-1]):
            raise BadInput(
                f"{head.path.name} holds {head.n_layers(order)} layers of {head.shape[-1]}, {first.path.name} "
                f"{first.n_layers(order)} of {first.shape[-1]}: give the files of one model and one list of layers."
            )
    return Requests(folder, heads, order)


def _order(heads: Sequence[Head], asked: str) -> str:
    """The order that fits every file."""
    fits = {name for name in ("tokens", "layers") if all(name in head.orders for head in heads)}
    found = fits & {asked} if asked else fits
    if len(found) == 1:
        return found.pop()
    if not fits:
        bad = next((h for h in heads if not h.orders), heads[0])
        raise BadInput(
            f"{bad.path.name}: {bad.n_tokens} token ids and states of shape {list(bad.shape)}: one of its first two "
            "axes is to have a row for each token, the same one in every file."
        )
    if asked:
        raise BadInput(f"{heads[0].path.name}: its states of shape {list(heads[0].shape)} do not begin with {asked}.")
    raise BadInput(
        f"{heads[0].path.name}: {heads[0].n_tokens} token ids and states of shape {list(heads[0].shape)}, and both "
        "first axes fit the tokens in every file: say order 'tokens' or 'layers'."
    )


def _head(path: Path) -> Head:
    with open_tensors(path, "np") as file:
        parts: Mapping[str, Any] = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    whole = [name for name, (dtype, shape) in shapes.items() if dtype in _WHOLE and len(shape) == 1]
    named = [name for name in IDS if name in whole] or whole
    floats = [name for name, (dtype, shape) in shapes.items() if dtype in _FLOATS and len(shape) in (2, 3)]
    states = ["hidden_states"] if "hidden_states" in floats else floats
    if len(named) == 0 or (len(named) > 1 and named[0] not in IDS) or len(states) != 1:
        held = ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in shapes.items()) or "nothing"
        raise BadInput(f"{path.name} holds {held}: token ids [n] (token_ids) and hidden_states are asked for.")
    dtype, shape = shapes[states[0]]
    return Head(path, named[0], states[0], shapes[named[0]][1][0], shape, dtype)
