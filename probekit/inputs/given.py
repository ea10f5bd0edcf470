"""Given: directions that a user brings, from arrays, files or a function, checked before anything is captured.

A row of a file is a direction: [k, d], or [d] for a single one. No file can run code; a function is the user's own, and
its source is hashed.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os.path import isfile  # which says no to a name that no path can have
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.containers import numbers
from probekit.errors import BadInput, nearest
from probekit.inputs.saved import is_reader, load_reader
from probekit.inputs.tensors import open_tensors
from probekit.levels import function_of, load_function
from probekit.spec import DIRECTIONS_NAME, DirectionsEntry

# Of a direction's length, what those before it leave of it, below which it says nothing new: behind it single precision
# has no digits left.
DEPENDENT = 1e-5


@dataclass(frozen=True)
class Brought:
    """Directions of one name, by hook point: [d, k], the first k' of them orthonormal columns that span the user's.

    digest: of the numbers as they came, and of the source of the function that made them.
    """

    name: str
    directions: Mapping[str, NDArray[np.float32]]
    digest: str

    @classmethod
    def of(cls, name: str, brought: Mapping[str, Any], source: str = "") -> "Brought":
        """brought: hook point -> [k, d] or [d]; source: hash of the function that gave them. Raises BadInput."""
        if not re.fullmatch(DIRECTIONS_NAME, name):
            raise BadInput(f"directions are named '{name}': give a name of letters, digits, '.', '_' and '-'.")
        if not brought:
            raise BadInput(f"directions '{name}' are of no hook point: give at least one.")
        told, found = hashlib.sha256(source.encode()), {}
        for hook, values in sorted(brought.items()):
            rows = _rows(_what(name, hook), values)
            told.update(f"{hook} {rows.shape} ".encode() + np.ascontiguousarray(rows, "<f8").tobytes())
            found[hook] = _columns(_what(name, hook), rows)
        return cls(name, found, told.hexdigest()[:16])

    @property
    def source(self) -> str:
        """As records name it."""
        return f"given:{self.name}"

    def check(self, hook: str, width: int) -> None:
        """Raise BadInput where directions of a hook point have not the width of its activations."""
        d, k = self.directions[hook].shape
        if d != width:
            turned = f", so it looks transposed: give its {width} rows as columns" if k == width else ""
            raise BadInput(
                f"{_what(self.name, hook)} are {k} of width {d}, and activations there have width {width}: a row is a "
                f"direction, [k, {width}]{turned}."
            )

    def spelt(self, hooks: Iterable[str]) -> "Brought":
        """The same with a pattern of hook points spelt out as those of `hooks` that it matches.

        >>> brought = Brought.of("mine", {"blocks.*.hook_resid_post": [[1.0, 0.0]]})
        >>> list(brought.spelt(["blocks.0.hook_resid_post", "blocks.0.hook_resid_pre"]).directions)
        ['blocks.0.hook_resid_post']
        """
        known = list(hooks)
        found = {name: basis for hook, basis in self.directions.items()
                 for name in ([one for one in known if fnmatchcase(one, hook)] if "*" in hook else [hook])}  # fmt: skip
        return Brought(self.name, found or self.directions, self.digest)

    def among(self, hooks: Iterable[str]) -> "Brought":
        """What there is of it at hook points that are read. Raises BadInput where there is nothing."""
        known = list(hooks)
        found = {hook: basis for hook, basis in self.directions.items() if hook in known}
        if not found:
            hook = next(iter(self.directions))
            raise BadInput(
                f"directions '{self.name}' are of {', '.join(self.directions)}, which is not read: did you mean "
                f"'{nearest(hook, known)}'?"
            )
        return Brought(self.name, found, self.digest)


def read_given(entry: DirectionsEntry, base: Path, run: bool = True) -> Brought | None:
    """What an entry of a job names, relative to `base`. run: whether a function is called; None where one is not."""
    what = f"directions '{entry.name}'"
    if ".py:" in entry.file:
        if entry.hook or entry.tensor or entry.rows:
            raise BadInput(f"{what} come from a function, which names its hook points: leave hook, tensor, rows out.")
        if not run:
            function_of(what, entry.file, base)
            return None
        function, source = load_function(what, entry.file, base)
        made = function()
        if not isinstance(made, Mapping):
            raise BadInput(f"{what}: {entry.file} returned a {type(made).__name__}: return {{hook: array [k, d]}}.")
        return Brought.of(entry.name, {str(hook): values for hook, values in made.items()}, source)
    brought = read_directions(what, base / entry.file, entry.hook, entry.tensor)
    if entry.rows is not None:
        brought = {hook: _picked(_what(entry.name, hook), values, entry.rows) for hook, values in brought.items()}
    return Brought.of(entry.name, {hook: _whole(values) for hook, values in brought.items()})


def read_directions(what: str, path: Path, hook: str | None = None, tensor: str | None = None) -> dict[str, Any]:
    """hook -> what can be cut like an array, of a .npy or .safetensors file, or a saved reader. Raises BadInput."""
    if not isfile(path):
        raise BadInput(f"{what}: there is no file {path}: name a .npy or .safetensors file, or file.py:function.")
    if path.suffix == ".npy":
        if hook is None or tensor is not None:
            raise BadInput(f"{what} come from {path.name}, which names no hook point: give `hook`, and no `tensor`.")
        try:
            return {hook: np.load(path, mmap_mode="r", allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise BadInput(f"{what}: {path} is no plain .npy array: {error}.") from None
    if path.suffix != ".safetensors":
        raise BadInput(f"{what} come from {path.name}: directions are read from .npy and .safetensors files.")
    if is_reader(path):
        reader = load_reader(path)
        if hook not in (None, reader.card["hook"]) or tensor is not None:
            raise BadInput(f"{what}: {path.name} is a reader of {reader.card['hook']}: leave hook and tensor out.")
        return {reader.card["hook"]: reader.directions}
    return _of_safetensors(what, path, hook, tensor)


def read_rows_of_directions(
    path: Path, hook: str | None, tensor: str | None = None, rows: tuple[int, ...] | None = None
) -> dict[str, NDArray[np.float64]]:
    """hook -> [k, d] of a file of `read_directions`, as long as they are there; rows: some of them. Raises BadInput."""
    what = f"directions of {path.name}"
    found = read_directions(what, path, hook, tensor)
    if rows is not None:
        found = {name: _picked(what, values, rows) for name, values in found.items()}
    return {name: _rows(what, _whole(values)) for name, values in found.items()}


def _of_safetensors(what: str, path: Path, hook: str | None, tensor: str | None) -> dict[str, Any]:
    """Tensors by hook point; with `hook` the one that is named, or the only one."""
    with open_tensors(path, what=what) as file:
        names = sorted(file.keys())
        if not names:
            raise BadInput(f"{what}: {path} holds no tensors.")
        if hook is None:
            if tensor is not None:
                raise BadInput(f"{what} name the tensor '{tensor}' and no hook point: give `hook`.")
            return {name: file.get_slice(name) for name in names}
        wanted = tensor or (hook if hook in names else names[0])
        if wanted not in names:
            raise BadInput(f"{what}: {path} has no tensor '{wanted}': did you mean '{nearest(wanted, names)}'?")
        if tensor is None and hook not in names and len(names) > 1:
            raise BadInput(f"{what}: {path} holds {', '.join(names[:8])}: say which with `tensor`.")
        return {hook: file.get_slice(wanted)}


def brought_directions(directions: Any, hooks: Iterable[str]) -> list[Brought]:
    """Directions as `measure` takes them: name -> {hook: array}, or an array or a path where one hook is read.

    Raises BadInput.
    """
    if not isinstance(directions, Mapping):
        raise BadInput(f"directions is a {type(directions).__name__}: give {{name: array [k, d] or {{hook: array}}}}.")
    read = list(hooks)
    out = []
    for name, values in directions.items():
        what, only = f"directions '{name}'", read[0] if len(read) == 1 else None
        if isinstance(values, str | Path):
            path = Path(values)
            one = only if path.suffix == ".npy" else None
            values = {hook: _whole(part) for hook, part in read_directions(what, path, one).items()}
        elif not isinstance(values, Mapping):
            if only is None:
                raise BadInput(f"{what} are one array for {len(read)} hook points: give {{hook: array [k, d]}}.")
            values = {only: values}
        out.append(Brought.of(str(name), {str(hook): part for hook, part in values.items()}))
    return out


def _whole(values: Any) -> NDArray:
    return values if isinstance(values, np.ndarray) else values[:]


def _what(name: str, hook: str) -> str:
    return f"directions '{name}' of {hook}"


def _rows(what: str, values: Any) -> NDArray[np.float64]:
    """[k, d], finite, none of them zero."""
    array = numbers(what, values).astype(np.float64)
    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2 or not rows.size:
        raise BadInput(f"{what} have shape {array.shape}: give [k, d], a direction in each row, or [d].")
    zero = ~rows.any(1)
    if zero.any():
        raise BadInput(f"{what} have nothing but zeros in row {int(zero.argmax())}: leave it out.")
    return rows


def _columns(what: str, rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Orthonormal columns [d, k], the first k' of which span the first k' rows."""
    k, d = rows.shape
    if k > d:
        raise BadInput(
            f"{what} are {k} of width {d}, more than there can be: a row is a direction, so it looks transposed."
        )
    unit = rows / np.abs(rows).max(1, keepdims=True)  # squares of 1e200 are no numbers
    turned, left = np.linalg.qr((unit / np.linalg.norm(unit, axis=1, keepdims=True)).T)
    size = np.diag(left)
    if (np.abs(size) < DEPENDENT).any():
        row = int((np.abs(size) < DEPENDENT).argmax())
        raise BadInput(f"{what} are dependent: row {row} lies in the span of those before it; leave it out.")
    return (turned * np.sign(size)).astype(np.float32)


def _picked(what: str, values: Any, rows: tuple[int, ...]) -> NDArray:
    """Some rows of a large array, of which the others are not read."""
    shape = tuple(getattr(values, "shape", None) or values.get_shape())
    if len(shape) != 2:
        raise BadInput(f"{what}: rows are picked from an array [n, d]; this one has shape {shape}.")
    for row in rows:
        if not 0 <= row < shape[0]:
            wide = f", or of the {shape[1]} columns of what is transposed" if row < shape[1] else ""
            raise BadInput(f"{what}: there is no row {row}: it has {shape[0]}, from 0 on{wide}.")
    return np.concatenate([np.asarray(values[row : row + 1]) for row in rows])
