"""Places: rows of what other libraries hold, one place of every text, as `measure` takes them. No torch of our own."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.containers import check_numbers, plain
from probekit.errors import BadInput, nearest
from probekit.inputs.arrays import load_arrays
from probekit.inputs.requests import Requests, read_requests


def rows_at(
    source: Any,
    position: int | str | Sequence[int] | NDArray = -1,
    *,
    mask: Any = None,
    names: str | Sequence[str] = "*",
) -> dict[str, NDArray]:
    """Activations by name, each [n_rows, d], of whatever holds them: one place of every text.

    source: Hugging Face's `hidden_states` (`layer i`, behind i blocks; its last one is behind the final norm), a
    TransformerLens cache, a mapping of names to arrays [texts, places, d], to [texts, d] or to lists of [places, d],
    as nnsight saves them; a file (.npz, .npy, .safetensors), or a folder of requests. mask: the attention mask
    [texts, places], 1 where a token is; needed for several texts in one array. position: of each text, counted among
    its tokens, negative from its end; a number, one for each text, or `all`, text after text. names: patterns of those
    that are taken. Raises BadInput for shapes that could be read in two ways, and for what is no row.

    >>> import numpy as np
    >>> import probekit as pk
    >>> states = tuple(np.arange(12.0).reshape(2, 3, 2) + layer for layer in (0, 100))
    >>> padded_in_front = np.array([[0, 1, 1], [1, 1, 1]])
    >>> found = pk.rows_at(states, -2, mask=padded_in_front)
    >>> found["layer 0"].tolist(), list(found)
    ([[2.0, 3.0], [8.0, 9.0]], ['layer 0', 'layer 1'])
    """
    source = _opened(source)
    if isinstance(source, Requests):
        if mask is not None or not isinstance(position, int):
            raise BadInput("requests have no padding and are read at one number: leave mask out, give a number.")
        return _taken(source.rows(position), names)
    arrays = _taken(_named(source), names)
    kept = None if mask is None else _mask(mask)
    return {name: _rows(f"'{name}'", value, position, kept) for name, value in arrays.items()}


def _opened(source: Any) -> Any:
    if isinstance(source, str | Path):
        path = Path(source)
        return read_requests(path) if path.is_dir() else dict(load_arrays(path))
    return source


def _named(source: Any) -> dict[str, Any]:
    """Arrays, or lists of them, by name."""
    if isinstance(source, Mapping) or (hasattr(source, "items") and hasattr(source, "keys")):
        found = {str(name): value for name, value in source.items()}
        if getattr(source, "has_batch_dim", True) is False:  # a cache of TransformerLens of one text
            found = {name: value[None] for name, value in found.items()}
        return found
    if isinstance(source, tuple | list):
        if any(isinstance(layer, tuple | list) for layer in source):
            raise BadInput("hidden states are a tuple of tuples, one for each step of generate(): give one step's.")
        shapes = [tuple(getattr(layer, "shape", ())) for layer in source]
        if not source or any(len(shape) != 3 or shape != shapes[0] for shape in shapes):
            few = ", ".join(map(str, shapes[:3]))
            raise BadInput(
                f"a list of arrays of shapes {few} may be layers or texts: of layers all are [texts, places, d]; give "
                "a list of texts by name, as {name: list}."
            )
        return {f"layer {i}": layer for i, layer in enumerate(source)}
    if hasattr(source, "shape"):
        return {"activations": source}
    raise BadInput(
        f"activations are a {type(source).__name__}: give hidden_states, a cache, {{name: array}} or a file."
    )


def _taken(found: Mapping[str, Any], names: str | Sequence[str]) -> dict[str, Any]:
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            near = nearest(pattern, found)
            raise BadInput(
                f"no activations '{pattern}' among {len(found)}" + (f": did you mean '{near}'?" if near else ".")
            )
    return {name: value for name, value in found.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _mask(mask: Any) -> NDArray[np.bool_]:
    array = plain("mask", mask)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise BadInput(
            f"mask has shape {array.shape}, of type {array.dtype}: give the attention mask, a 0 or 1 for each place of "
            "each text [texts, places]."
        )
    empty = np.flatnonzero(~array.any(1))
    if len(empty):
        raise BadInput(f"mask has no token of text {empty[0]}: leave that text out.")
    return array.astype(bool)


def _rows(what: str, value: Any, position: Any, mask: NDArray[np.bool_] | None) -> NDArray:
    if isinstance(value, tuple | list) and value and hasattr(value[0], "shape"):
        texts = [_text(f"text {i} of {what}", one) for i, one in enumerate(value)]
        if mask is not None:
            raise BadInput(f"{what} is a list of texts, which have no padding: leave mask out.")
    else:
        array = plain(what, value)
        check_numbers(what, array)
        if array.ndim == 2:
            if mask is not None:
                raise BadInput(f"{what} has shape {array.shape}, rows that have no places: leave mask out.")
            return array
        if array.ndim != 3 or 0 in array.shape:
            raise BadInput(f"{what} has shape {array.shape}: rows are taken from [texts, places, d]; leave it out by "
                           "`names`, or bring its heads side by side.")  # fmt: skip
        if mask is None and len(array) > 1:
            n, places, _ = array.shape
            raise BadInput(
                f"{what} has shape {array.shape}, {n} texts of {places} places, some of which may be padding: give the "
                f"attention mask [{n}, {places}] as mask, of ones where nothing is padded."
            )
        if mask is not None and mask.shape != array.shape[:2]:
            raise BadInput(f"{what} has shape {array.shape} and mask {mask.shape}: both begin with [texts, places].")
        texts = [text if mask is None else text[mask[i]] for i, text in enumerate(array)]
    return _picked(what, texts, position)


def _text(what: str, value: Any) -> NDArray:
    """[places, d] of one text."""
    array = plain(what, value)
    check_numbers(what, array)
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise BadInput(f"{what} has shape {array.shape}: each text of a list is [places, d], or [1, places, d].")
    return array


def _picked(what: str, texts: Sequence[NDArray], position: Any) -> NDArray:
    if isinstance(position, str):
        if position != "all":
            raise BadInput(f"position is '{position}': give a number, one for each text, or 'all'.")
        return np.concatenate(texts)
    at = np.asarray(position)
    if at.dtype.kind not in "iu" or at.ndim > 1 or (at.ndim and len(at) != len(texts)):
        raise BadInput(
            f"position has shape {at.shape}, of type {at.dtype}, for {len(texts)} texts: give a whole number, or one "
            "for each text."
        )
    out = []
    for i, (text, one) in enumerate(zip(texts, np.broadcast_to(at, len(texts)).tolist(), strict=True)):
        if not -len(text) <= one < len(text):
            raise BadInput(f"{what}: text {i} has no place {one}: it has {len(text)} tokens.")
        out.append(text[one])
    return np.stack(out)
