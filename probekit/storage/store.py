"""Store: activations on disk, content-addressed, verified at every read.

    <root>/STORE.json                                   format and version, never changed
    <root>/entries/<kk>/<key>/<group>/spec.json         names, widths, row ranges: fixed when the group is created
                                      shards/           <start>-<stop>.safetensors, all names of the group, those rows
                                      MANIFEST.json     the seal: present means complete
    <root>/tmp/  quarantine/  pins/

An accepted read is bit-exact; anything else raises StoreError. What is missing is written on resume. `shards` says how.
"""

import fcntl
import os
import secrets
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, StoreError
from probekit.records import canonical
from probekit.storage import scratch
from probekit.storage.files import changing, free_bytes, make_folders, publish, signed, sync_folder
from probekit.storage.shards import (
    FORMAT,
    KEY,
    NAME,
    NOTES,
    ROWS,
    Layout,
    Range,
    Shape,
    Shard,
    ShardWriter,
    group_name,
    layouts,
    open_root,
    part_name,
    plain,
    read_manifest,
    read_spec,
)

SHARD_BYTES = 256 * 2**20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class Store:
    """Entries under `root`, made when it does not exist. Raises StoreError when the folder holds something else.

    Reading writes nothing that has to succeed, so that a store in a read-only folder can be shared.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._used: set[Path] = set()
        self._verified: set[tuple] = set()  # bytes that this object has verified, and that nothing touched since
        if not os.path.lexists(self.root / "STORE.json"):
            with suppress(OSError):  # the next line says what is wrong
                os.makedirs(self.root, exist_ok=True)
            make_folders(self.root, self.root / "tmp")
            publish(self.root / "tmp", self.root / "STORE.json", canonical(FORMAT).encode())
        open_root(self.root)

    def names(self, key: str) -> dict[str, Path]:
        """Every name that is complete under `key`, and the folder of its group."""
        found: dict[str, Path] = {}
        for path in sorted(self._entry(key).glob("*/MANIFEST.json")):
            for name in read_manifest(path.parent)["shapes"]:
                found.setdefault(name, path.parent)
        return found

    def has(self, key: str, names: Sequence[str]) -> bool:
        """Whether all `names` are complete under `key`."""
        return set(names) <= set(self.names(key))

    def write(
        self, key: str, spec: Mapping[str, Any], arrays: Mapping[str, Tensor], rows: Tensor, note: Any = None
    ) -> None:
        """Write whole arrays [n_rows, width] as one sealed group; rows [n_rows, 3] says example, position, token."""
        shapes = {name: Shape(array.shape[1], _code(name, array)) for name, array in arrays.items()}
        group = self.group(key, spec, shapes, row_ranges(len(rows), shapes))
        for start, stop in group.missing():
            group.write(start, stop, {n: a[start:stop] for n, a in arrays.items()}, rows[start:stop])
        group.seal(note)

    def spec_of(self, key: str, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """The spec of the group of exactly these names, finished or not; None when it was never begun."""
        folder = self._entry(key) / group_name(shapes)
        return read_spec(folder)["spec"] if (folder / "spec.json").exists() else None

    def group(self, key: str, spec: Mapping[str, Any], shapes: Mapping[str, Shape], ranges: Sequence[Range]) -> "Group":
        """Open the group of exactly these names for writing, creating it with `ranges` or keeping the ranges it has.

        spec: JSON values that explain the key to people; they decide nothing. `parts` in it is what `why` compares.
        """
        for name in shapes:
            if not NAME.fullmatch(name):
                raise BadInput(f"'{name}' cannot be stored: names are letters, digits, '.', '_' and '-'.")
        folder = self._entry(key) / group_name(shapes)
        make_folders(self.root, folder / "shards")
        make_folders(self.root, self.root / "tmp")
        body = {"key": key, "shapes": plain(shapes), "ranges": [list(r) for r in ranges], "spec": dict(spec)}
        if not (folder / "spec.json").exists():
            publish(self.root / "tmp", folder / "spec.json", signed(body))
        return Group(self, folder)

    def read(self, key: str, name: str) -> Tensor:
        """All rows of one name, [n_rows, width], in the stored dtype. Raises StoreError unless every byte is right.

        A single shard is not copied: the tensor is a private view of the file, which takes memory once it is read.
        """
        return self._read(self._complete(key, name), name)

    def gather(self, key: str, name: str, rows: Tensor) -> Tensor:
        """Some rows of one name, in the order asked for: only the blocks they lie in are read, and those are verified.

        rows: [n] int64. Raises BadInput for a row that is not there.
        """
        folder = self._complete(key, name)
        shards = _shards(folder)
        n_rows = shards[-1][0].stop if shards else 0
        asked = rows.numpy().astype(np.int64, copy=False)
        if asked.ndim != 1 or (len(asked) and not 0 <= asked.min() <= asked.max() < n_rows):
            raise BadInput(f"rows of '{name}' are 0 to {n_rows - 1}; asked for {_ends(asked)}.")
        shape = Shape(*read_manifest(folder)["shapes"][name])
        out = _empty(len(asked), shape)
        for layout, facts in shards:
            places = np.flatnonzero((asked >= layout.start) & (asked < layout.stop))
            if len(places):
                with Shard.open(folder / "shards", layout, facts) as shard:
                    part = np.empty((len(places), shape.row_bytes), np.uint8)
                    shard.gather(name, asked[places] - layout.start, part)
                    out.reshape(-1, shape.row_bytes)[places] = part
        return _tensor(out, shape)

    def check(self, key: str) -> None:
        """Open every shard of every complete group: sizes and headers. Raises StoreError for one that is not right."""
        for folder in set(self.names(key).values()):
            _check(folder)

    def rows(self, key: str, name: str) -> Tensor:
        """The row ids beside `name`: [n_rows, 3] example, position, token."""
        return self._read(self._complete(key, name), ROWS)

    def note(self, key: str, name: str) -> Any:
        """What was given to `seal` with the group of `name`."""
        return read_manifest(self._complete(key, name))["note"]

    def _complete(self, key: str, name: str) -> Path:
        folder = self.names(key).get(name)
        if folder is None:
            raise StoreError(f"the store has no complete '{name}' under {key}: capture it first.")
        if folder not in self._used:
            self._used.add(folder)
            with suppress(OSError):  # a read-only store has no order of last use, and needs none
                os.utime(folder / "MANIFEST.json")
        return folder

    def _read(self, folder: Path, name: str) -> Tensor:
        shards = _check(folder)  # sizes and headers first: what is asked for memory then exists on disk
        shape = Shape(3, "I64") if name == ROWS else Shape(*read_manifest(folder)["shapes"][name])
        out = _empty(shards[-1][0].stop if len(shards) > 1 else 0, shape)
        for layout, facts in shards:
            with Shard.open(folder / "shards", layout, facts) as shard:
                identity = shard.identity(name)
                seen = identity is not None and identity in self._verified
                if len(shards) == 1:
                    out = shard.map(name, verify=not seen)
                else:
                    part = out[layout.start * shape.row_bytes : layout.stop * shape.row_bytes]
                    shard.read(name, part, verify=not seen)
                if identity is not None:
                    self._verified.add(identity)
        return _tensor(out, shape)

    def _entry(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise StoreError(f"'{key}' is no key of the store: keys are 16 to 64 hexadecimal digits.")
        return self.root / "entries" / key[:2] / key


class Group:
    """A group open for writing. Shards may come in any order and from several processes; `seal` ends it.

    While it is open the folder is locked against `probekit cache gc`; the lock goes with the process.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_SH)
            same = os.path.samestat(os.fstat(handle), os.stat(folder))
        except FileNotFoundError:
            same = False
        if not same:
            raise StoreError(f"{folder} was deleted while it was being opened: start the same command again.")
        body = read_spec(folder)
        self.ranges: list[Range] = [(a, b) for a, b in body["ranges"]]
        self._body = body
        self._layouts: dict[Range, Layout] = {(x.start, x.stop): x for x in layouts(folder, body)}
        self._facts: dict[Range, Mapping[str, str]] = {}  # of shards that this object wrote or verified

    @property
    def sealed(self) -> bool:
        return (self.folder / "MANIFEST.json").exists()

    def missing(self) -> list[Range]:
        """Row ranges without a valid shard. A damaged shard is moved to quarantine and counts as missing.

        Raises StoreError when the disk has no room for what is missing.
        """
        lost = []
        for span, layout in self._layouts.items():
            path = self.folder / "shards" / layout.file_name
            if not os.path.lexists(path):
                lost.append(span)
                continue
            try:
                self._verify(layout)
            except StoreError:
                if self.sealed:
                    raise
                self._quarantine(path)
                lost.append(span)
        needed, free = sum(self._layouts[span].size for span in lost), free_bytes(self.folder)
        if needed > free:
            raise StoreError(
                f"{self.store.root} has {free:,} bytes free and this capture needs {needed:,} more: make room, or give "
                "another folder; what is complete stays."
            )
        return lost

    def is_begun(self, start: int, stop: int) -> bool:
        """Whether an earlier writer of the shard of these rows noted some of them: see `Stream.kept`."""
        final = self.folder / "shards" / self._layouts[start, stop].file_name
        return (self.store.root / "tmp" / part_name(self.store.root, final)).with_suffix(NOTES).exists()

    @contextmanager
    def shard(self, start: int, stop: int) -> Iterator["Stream"]:
        """Write the shard of rows start to stop in batches; it is published when the block ends without an error."""
        if (start, stop) not in self._layouts:
            raise StoreError(f"rows {start}-{stop} are no range of the group; its ranges were fixed when it was made.")
        writer = ShardWriter(self.store.root, self.folder / "shards", self._layouts[start, stop])
        try:
            yield Stream(writer)
            facts = writer.commit()
        finally:
            writer.drop()
        if facts:
            self._facts[start, stop] = facts

    def write(self, start: int, stop: int, arrays: Mapping[str, Tensor], rows: Tensor) -> None:
        """Write the shard of rows start to stop: arrays [stop - start, width] for every name of the group.

        Raises StoreError for a value that is not finite, naming row and name, and for arrays that do not fit.
        """
        with self.shard(start, stop) as stream:
            stream.put(start, arrays, rows)

    def seal(self, note: Any = None) -> None:
        """Check that the shards tile all rows and publish the manifest. note: JSON values to keep beside them."""
        if self.sealed:
            return
        for span, layout in self._layouts.items():
            if span in self._facts:
                with Shard.open(self.folder / "shards", layout, self._facts[span]):
                    pass
            else:
                self._verify(layout)
        sync_folder(self.folder / "shards")  # another process may have linked some and not yet synced
        names = {name: self._body[name] for name in ("key", "shapes", "ranges")}
        facts = [dict(self._facts[span]) for span in self._layouts]
        publish(
            self.store.root / "tmp",
            self.folder / "MANIFEST.json",
            signed({**FORMAT, **names, "facts": facts, "note": note}),
        )

    def _verify(self, layout: Layout) -> None:
        with Shard.open(self.folder / "shards", layout) as shard:
            shard.check()
            self._facts[layout.start, layout.stop] = dict(shard.facts)

    def _quarantine(self, path: Path) -> None:
        target = self.store.root / "quarantine"
        make_folders(self.store.root, target)
        with changing(path):
            os.rename(path, target / f"{path.name}-{secrets.token_hex(4)}")
        sync_folder(target)
        sync_folder(path.parent)


class Stream:
    """Batches on their way into one shard, in any order, every row once."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows of the shard an earlier writer left behind, and need not come again."""
        return self._writer.kept

    def put(self, at: int, arrays: Mapping[str, Tensor], rows: Tensor) -> None:
        """Rows at, at + 1, ... of every name of the group: arrays [n, width], rows [n, 3]."""
        arrays, shapes = {**arrays, ROWS: rows}, self._writer.layout.shapes
        if set(arrays) != set(shapes):
            raise StoreError(f"a shard holds {', '.join(sorted(shapes))}; found {', '.join(sorted(arrays))}.")
        for name, array in arrays.items():
            shape = shapes[name]
            if tuple(array.shape) != (len(rows), shape.width) or _code(name, array) != shape.dtype:
                raise StoreError(
                    f"'{name}' must be {shape.dtype} [{len(rows)}, {shape.width}]; found {array.dtype} "
                    f"{list(array.shape)}."
                )
        if len(rows):
            self._writer.put(at, {name: _bytes(array) for name, array in arrays.items()})


def row_ranges(
    n_rows: int, shapes: Mapping[str, Shape], most_rows: int | None = None, most_bytes: int = SHARD_BYTES
) -> list[Range]:
    """Tile [0, n_rows) so that a shard of all `shapes` stays below `most_bytes` and `most_rows`."""
    per_row = 24 + sum(shape.row_bytes for shape in shapes.values())
    step = max(1, min(most_bytes // per_row, most_rows or n_rows))
    return [(start, min(n_rows, start + step)) for start in range(0, n_rows, step)]


def _shards(folder: Path) -> list[tuple[Layout, dict[str, str]]]:
    body = read_manifest(folder)
    return list(zip(layouts(folder, body), body["facts"], strict=True))


def _empty(n: int, shape: Shape) -> NDArray[np.uint8]:
    """Room for n rows, by NumPy: it asks for large pages, and torch's small ones cost more to touch than to fill."""
    return scratch.empty((n * shape.row_bytes,), np.uint8)


def _tensor(data: NDArray[np.uint8], shape: Shape) -> Tensor:
    if not len(data):
        return torch.empty(0, shape.width, dtype=DTYPES[shape.dtype])
    return torch.from_numpy(data).view(DTYPES[shape.dtype]).view(-1, shape.width)


def _check(folder: Path) -> list[tuple[Layout, dict[str, str]]]:
    shards = _shards(folder)
    for layout, facts in shards:
        with Shard.open(folder / "shards", layout, facts):
            pass
    return shards


def _bytes(array: Tensor) -> NDArray[np.uint8]:
    return array.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _ends(asked: NDArray[np.int64]) -> str:
    return f"{asked.min()} to {asked.max()}" if asked.ndim == 1 else f"an array with {asked.ndim} axes"


def _code(name: str, array: Tensor) -> str:
    if array.dtype not in _CODES or array.ndim != 2:
        raise StoreError(f"'{name}' cannot be stored as {array.dtype} {list(array.shape)}: two axes of "
                         f"{', '.join(str(d) for d in _CODES)}.")  # fmt: skip
    return _CODES[array.dtype]
