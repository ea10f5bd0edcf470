"""Containers: what an array of any kind holds, as a plain NumPy array, or one sentence that says why not.

Every array that a user gives passes through here. Integers stay integers and words stay words; nothing is read under a
mask; what is missing is missing in every container alike, and is told with its row, from 0.
"""

import datetime
import enum
import uuid
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, first_line

NAMED = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64, uuid.UUID, enum.Enum)
NUMBERS = ("an integer", "a number", "yes or no")
BLOCK = 2**14  # rows that are looked at together
EXACT = 2**53  # integers from here on that a float cannot tell from their neighbours


def missing(value: object) -> bool:
    """Whether a cell holds no value: None, NaN, NaT, a masked one, or the NA of pandas."""
    if isinstance(value, str | bytes):
        return False
    return value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType") or _is_nan(value)


def _is_nan(value: Any) -> bool:
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # no single value
        return False


def plain(what: str, values: Any) -> NDArray:
    """Booleans, integers, floats or words as NumPy has them, in this machine's byte order; words may be objects.

    values: anything that holds values in rows: lists, NumPy, torch, pandas, Arrow, SciPy's sparse matrices, masked
    arrays; a column of rows of one length becomes [n, d]. what: the argument, for messages. Raises BadInput for a value
    that is missing (but for a NaN among floats), for types that are mixed, and for what is no array.
    """
    try:
        array = _opened(what, values)
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError) as error:
        kind = f"{type(values).__module__.partition('.')[0]}.{type(values).__name__}"
        raise BadInput(f"{what} is a {kind} that cannot be read as an array: {first_line(error)}.") from None
    if array.dtype.kind in "Mm":
        _refuse_missing(what, np.isnat(array))
        array = array.astype(str)
    if array.dtype.kind == "S":
        array = array.astype(object)
    if array.dtype.kind == "O":
        array = _of_cells(what, array.astype(object))
    if array.dtype.kind not in "biufcUO":
        raise BadInput(f"{what} is of type {array.dtype}: give one array of numbers or of words for each.")
    if array.dtype.kind in "fc" and array.dtype.itemsize > 8 * (1 + (array.dtype.kind == "c")):
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # torch reads neither backwards nor what it may not write to
    return array.copy() if min(array.strides, default=0) < 0 or not array.flags.writeable else array


def names(what: str, values: Any, shape: tuple[int, ...]) -> NDArray:
    """What tells rows apart: labels, groups, domains, types; booleans, integers, floats or words. Raises BadInput.

    shape: what is needed; the lengths of later axes are free where they are -1.
    """
    array = plain(what, values)
    check_shape(what, array, shape)
    if array.dtype.kind == "c":
        raise BadInput(f"{what} is of type {array.dtype}: give words, integers or real numbers.")
    if array.dtype.kind == "f":
        _refuse_missing(what, np.isnan(array))
        _check_finite(what, array)
    return array


def numbers(what: str, values: Any, instead: str = "numbers are needed") -> NDArray:
    """Finite booleans, integers or floats, as precise as they come. Raises BadInput with the first row that is not.

    instead: what to give in place of anything else.
    """
    array = plain(what, values)
    check_numbers(what, array, instead)
    _check_finite(what, array)
    return array


def check_numbers(what: str, array: NDArray, instead: str = "numbers are needed") -> None:
    """Raise BadInput where an array holds anything else."""
    if array.dtype.kind not in "biuf":
        held = "words" if array.dtype.kind in "UO" else array.dtype
        raise BadInput(f"{what} is of type {held}: {instead}.")


def check_shape(what: str, array: NDArray, shape: tuple[int, ...], give: str = "one value for each row") -> None:
    """Raise BadInput where an array has another shape; -1 stands for any length but 0."""
    fits = len(array.shape) == len(shape) and all(
        a == b or (b < 0 < a) for a, b in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise BadInput(f"{what} has shape {array.shape} for {shape[0]} rows of activations: give {give}.")


def first_row(bad: NDArray[np.bool_]) -> int:
    """The first row with anything bad in it."""
    return int(np.flatnonzero(bad.reshape(len(bad), -1).any(1))[0])


def lacking(values: Any) -> NDArray[np.bool_]:
    """Which rows of a container lack a value: None, NaN, NaT, NA, or a masked one; of what is no array none."""
    values = values.to_pandas() if hasattr(values, "to_pandas") else values
    bad: Any
    if hasattr(values, "isna"):
        bad = np.asarray(values.isna())
    elif isinstance(values, np.ma.MaskedArray):
        bad = np.ma.getmaskarray(values) | _lacks(values.data)
    else:
        bad = _lacks(_opened("values", values))
    return bad.reshape(len(bad), -1).any(1) if bad.ndim else np.zeros(0, dtype=bool)


def _lacks(array: NDArray) -> NDArray[np.bool_]:
    if array.dtype.kind in "fc":
        return np.isnan(array)
    if array.dtype.kind in "Mm":
        return np.isnat(array)
    if array.dtype.kind != "O":
        return np.zeros(array.shape, dtype=bool)
    cells = [bool(lacking(cell).any()) if isinstance(cell, list | tuple | np.ndarray) else missing(cell)
             for cell in array.ravel()]  # fmt: skip
    return np.array(cells, dtype=bool).reshape(array.shape)


def some_rows(values: Any, rows: NDArray[np.int64]) -> Any:
    """The same kind of container, of some rows."""
    if isinstance(values, list | tuple):
        return [values[i] for i in rows.tolist()]
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if hasattr(values, "to_pylist"):
        return values.take(rows)
    return (values.tocsr() if hasattr(values, "tocsr") else values)[rows]


def _check_finite(what: str, array: NDArray) -> None:
    # In blocks, since rows may lie on disk and be more than memory holds.
    blocks = (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))
    if array.dtype.kind == "f" and not all(np.isfinite(block).all() for block in blocks):
        raise BadInput(f"{what} is not finite, first at row {first_row(~np.isfinite(array))}.")


def _refuse_missing(what: str, bad: NDArray[np.bool_]) -> None:
    if bad.any():
        raise BadInput(f"{what} has no value at row {first_row(bad)}: fill it in or leave the row out.")


def _opened(what: str, values: Any) -> NDArray:
    """The array inside a container; of lists and objects the cells as they are."""
    if hasattr(values, "detach"):
        return _of_tensor(values)
    if isinstance(values, np.ma.MaskedArray):
        if values.ndim:
            _refuse_missing(what, np.ma.getmaskarray(values))
        return values.data
    if isinstance(values, list | tuple):
        return _of_list(values)
    if hasattr(values, "to_pylist") and getattr(values, "null_count", 0):
        return _of_list(values.to_pylist())  # Arrow's own arrays make floats of integers among which one is missing
    array = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return array.astype(object) if array.dtype.kind == "T" else array


def _of_tensor(values: Any) -> NDArray:
    """Integers stay what they are; a float that NumPy has not (bfloat16) passes through float32."""
    if values.is_nested:
        raise ValueError("its rows have several lengths")
    values = values.detach().cpu()
    values = values if str(values.layout) == "torch.strided" else values.to_dense()
    if values.dtype.is_floating_point and values.element_size() < 4:
        values = values.float()
    return values.resolve_conj().resolve_neg().numpy()


def _of_list(values: Any) -> NDArray:
    """Cells of a list; lists of lists of one length at once."""
    if values and isinstance(values[0], list | tuple):
        try:
            array = np.asarray(values)
            return array if array.dtype.kind in "biuf" else np.array(values, dtype=object)
        except ValueError:  # ragged, of which more is said later
            pass
    cells = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        cells[i] = value
    return cells


def _of_cells(what: str, cells: NDArray[np.object_]) -> NDArray:
    """Objects as what they all are."""
    if not cells.ndim:
        raise BadInput(f"{what} is a {type(cells.item()).__name__}: give an array, with one value or row for each row.")
    if cells.ndim == 1 and len(cells) and any(getattr(v, "shape", ()) or isinstance(v, list | tuple) for v in cells):
        return _stacked(what, cells)
    flat = [_unwrapped(value) for value in cells.ravel()]
    width = max(1, len(flat) // max(1, len(cells)))
    kinds: dict[str, int] = {}
    for i, value in enumerate(flat):
        if missing(value):
            raise BadInput(f"{what} has no value at row {i // width}: fill it in or leave the row out.")
        kinds.setdefault(_kind(what, i // width, value), i)
    # integers among floats are floats, and so are columns of numbers of several types
    together = NUMBERS if cells.ndim > 1 else NUMBERS[:2]
    exact = all(abs(int(v)) < EXACT for v in flat if isinstance(v, Integral))
    if len(kinds) > 1 and exact and not set(kinds) - set(together):
        kinds = {"a number": 0}
    if len(kinds) > 1:
        (one, i), (other, j) = list(kinds.items())[:2]
        raise BadInput(
            f"{what} mixes types: row {i // width} has {one} ({flat[i]!r:.40}) and row {j // width} {other} "
            f"({flat[j]!r:.40}): give all as one of them."
        )
    try:
        return _typed(next(iter(kinds), "a number"), flat).reshape(cells.shape)
    except UnicodeDecodeError:
        raise BadInput(f"{what} holds bytes that are no UTF-8: decode them, and give words.") from None


def _typed(kind: str, flat: list[Any]) -> NDArray:
    if kind in ("a number", "yes or no"):
        return np.array(flat, dtype=np.float64 if kind == "a number" else np.bool_)
    if kind == "an integer":
        low, high = min(flat), max(flat)
        for dtype in (np.int64, np.uint64):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return np.array(flat, dtype=dtype)
    made = np.empty(len(flat), dtype=object)  # words keep all their characters, and integers all their digits
    made[:] = flat if kind == "an integer" else [v.decode() if isinstance(v, bytes) else str(v) for v in flat]
    return made


def _stacked(what: str, cells: NDArray[np.object_]) -> NDArray:
    """A column of rows as [n, d]."""
    rows = [plain(f"row {i} of {what}", cell) for i, cell in enumerate(cells)]
    for i, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise BadInput(
                f"{what} has rows of several lengths: row 0 has shape {rows[0].shape} and row {i} {row.shape}; give "
                "all rows one length."
            )
    return np.stack(rows)


def _unwrapped(value: Any) -> Any:
    """What a scalar of NumPy or torch stands for."""
    single = hasattr(value, "item") and getattr(value, "shape", None) == ()
    # `item` makes an integer of a time, and leaves what is longer than a double as it is
    return value.item() if single and not isinstance(value, np.datetime64 | np.timedelta64) else value


def _kind(what: str, row: int, value: Any) -> str:
    if isinstance(value, bool):
        return "yes or no"
    if isinstance(value, str | bytes):
        return "a word"
    if isinstance(value, Integral):
        return "an integer"
    if isinstance(value, Real) or hasattr(value, "as_tuple"):  # a Decimal is none of Python's reals
        return "a number"
    if isinstance(value, NAMED):
        return "a name"
    raise BadInput(f"{what} holds a {type(value).__name__} at row {row}: give words or numbers.")
