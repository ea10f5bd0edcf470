"""Store: activations on disk, content-addressed, verified at every read, free of pickle.

    <root>/STORE.json
    <root>/entries/<kk>/<key>/<group>/spec.json     names, widths, row ranges: fixed when the group is created
                                      shards/       <start>-<stop>.safetensors, all names of the group for those rows
                                      MANIFEST.json the seal: present means complete
    <root>/tmp/  quarantine/

A file is written whole under another name, synced and linked into place: the first writer wins and nothing is ever
overwritten. An accepted read is bit-exact; anything else raises StoreError. What is missing is written on resume.
"""

import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from probekit.errors import BadInput, StoreError
from probekit.records import canonical, digest

FORMAT = {"format": "probekit-store", "version": 1}
SHARD_BYTES = 256 * 2**20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_KEY = re.compile(r"[0-9a-f]{16,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_JSON_CAP = 16 * 2**20

Range = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """What one name of a group holds for every row. dtype is a safetensors code, such as F32."""

    width: int
    dtype: str = "F32"


class Store:
    """Entries under `root`, made when it does not exist. Raises StoreError when the folder holds something else."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        marker = self.root / "STORE.json"
        try:
            for name in ("entries", "tmp", "quarantine"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                self._publish(marker, canonical(FORMAT).encode())
        except OSError as error:
            raise StoreError(f"the store {self.root} cannot be used ({error.strerror}): give another folder.") from None
        if _read_json(marker) != FORMAT:
            raise StoreError(f"{self.root} is no store of this version: {marker} differs; give another folder.")

    def names(self, key: str) -> dict[str, Path]:
        """Every name that is complete under `key`, and the folder of its group."""
        found = {}
        for folder in sorted(self._entry(key).glob("*/MANIFEST.json")):
            for name in _manifest(folder.parent, key)["shapes"]:
                found.setdefault(name, folder.parent)
        return found

    def has(self, key: str, names: Sequence[str]) -> bool:
        """Whether all `names` are complete under `key`."""
        return set(names) <= set(self.names(key))

    def write(
        self, key: str, spec: Mapping[str, Any], arrays: Mapping[str, Tensor], rows: Tensor, note: Any = None
    ) -> None:
        """Write whole arrays [n_rows, width] as one sealed group; rows [n_rows, 3] says example, position, token."""
        shapes = {name: Shape(array.shape[1], _code(name, array)) for name, array in arrays.items()}
        ranges = row_ranges(len(rows), shapes)
        group = self.group(key, spec, shapes, ranges)
        for start, stop in group.missing():
            group.write(start, stop, {n: a[start:stop] for n, a in arrays.items()}, rows[start:stop])
        group.seal(note)

    def spec_of(self, key: str, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        """The spec of the group of exactly these names, finished or not; None when it was never begun."""
        folder = self._entry(key) / digest(_plain(shapes))
        return _group_spec(folder, key)["spec"] if (folder / "spec.json").exists() else None

    def group(self, key: str, spec: Mapping[str, Any], shapes: Mapping[str, Shape], ranges: Sequence[Range]) -> "Group":
        """Open the group of exactly these names for writing, creating it with `ranges` or keeping the ranges it has.

        spec: JSON values that explain the key to people; they decide nothing.
        """
        for name in shapes:
            if not _NAME.fullmatch(name):
                raise BadInput(f"'{name}' cannot be stored: names are letters, digits, '.', '_' and '-'.")
        plain = _plain(shapes)
        folder = self._entry(key) / digest(plain)
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        path = folder / "spec.json"
        if not path.exists():
            body = {"key": key, "shapes": plain, "ranges": [list(r) for r in ranges], "spec": dict(spec)}
            self._publish(path, _signed(body))
        return Group(self, key, folder, _group_spec(folder, key))

    def read(self, key: str, name: str) -> Tensor:
        """All rows of one name, [n_rows, width], in the stored dtype. Raises StoreError unless every byte is right."""
        folder = self.names(key).get(name)
        if folder is None:
            raise StoreError(f"the store has no complete '{name}' under {key}: capture it first.")
        return self._read(key, folder, name)

    def rows(self, key: str, name: str) -> Tensor:
        """The row ids beside `name`: [n_rows, 3] example, position, token."""
        folder = self.names(key).get(name)
        if folder is None:
            raise StoreError(f"the store has no complete '{name}' under {key}: capture it first.")
        return self._read(key, folder, "__rows__")

    def note(self, key: str, name: str) -> Any:
        """What was given to `seal` with the group of `name`."""
        folder = self.names(key).get(name)
        if folder is None:
            raise StoreError(f"the store has no complete '{name}' under {key}: capture it first.")
        return _manifest(folder, key)["note"]

    def _read(self, key: str, folder: Path, name: str) -> Tensor:
        manifest = _manifest(folder, key)
        shapes = _shapes(manifest["shapes"])
        shape = shapes[name]
        out = torch.empty(manifest["shards"][-1]["stop"] if manifest["shards"] else 0, shape.width,
                          dtype=DTYPES[shape.dtype])  # fmt: skip
        for shard in manifest["shards"]:
            start, stop = shard["start"], shard["stop"]
            with _Shard.open(folder / "shards" / _shard_name(start, stop), shapes, stop - start) as opened:
                if opened.size != shard["size"] or opened.digests != shard["digests"]:
                    raise StoreError(
                        f"{opened.path} is not the file its manifest names: quarantine or delete the entry."
                    )
                opened.load(name, out[start:stop])
        return out

    def _entry(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(f"'{key}' is no key of the store: keys are 16 to 64 hexadecimal digits.")
        return self.root / "entries" / key[:2] / key

    def _publish(self, path: Path, payload: bytes) -> bool:
        """Write, sync, link into place. False when another writer was first; its file stays."""
        temporary = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o444)
            try:
                if payload:
                    os.posix_fallocate(handle, 0, len(payload))  # a full disk shows now, not at the last byte
                view = memoryview(payload)
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            _sync_folder(path.parent)
            return True
        except OSError as error:
            raise StoreError(
                f"{path} could not be written ({error.strerror}; {len(payload):,} bytes): free space or give another "
                "folder; what is complete stays and the same command resumes."
            ) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _quarantine(self, path: Path) -> None:
        path.rename(self.root / "quarantine" / f"{path.name}-{secrets.token_hex(4)}")
        _sync_folder(path.parent)


class Group:
    """A group open for writing. Shards may come in any order and from several processes; `seal` ends it."""

    def __init__(self, store: Store, key: str, folder: Path, body: Mapping[str, Any]) -> None:
        self.store, self.key, self.folder = store, key, folder
        self.ranges: list[Range] = [(a, b) for a, b in body["ranges"]]
        self._shapes = _shapes(body["shapes"])

    @property
    def sealed(self) -> bool:
        return (self.folder / "MANIFEST.json").exists()

    def missing(self) -> list[Range]:
        """Row ranges without a valid shard. A damaged shard is moved to quarantine and counts as missing."""
        lost = []
        for start, stop in self.ranges:
            path = self._path(start, stop)
            if not path.exists():
                lost.append((start, stop))
                continue
            try:
                self._check(start, stop)
            except StoreError:
                if self.sealed:
                    raise
                self.store._quarantine(path)
                lost.append((start, stop))
        return lost

    def write(self, start: int, stop: int, arrays: Mapping[str, Tensor], rows: Tensor) -> None:
        """Write the shard of rows start to stop: arrays [stop - start, width] for every name of the group.

        Raises StoreError for a value that is not finite, naming row and name, and for arrays that do not fit.
        """
        if (start, stop) not in self.ranges:
            raise StoreError(f"rows {start}-{stop} are no range of the group; its ranges were fixed when it was made.")
        arrays = {**arrays, "__rows__": rows}
        if set(arrays) != set(self._shapes):
            raise StoreError(f"a shard holds {', '.join(sorted(self._shapes))}; found {', '.join(sorted(arrays))}.")
        for name, array in arrays.items():
            shape = self._shapes[name]
            if tuple(array.shape) != (stop - start, shape.width) or _code(name, array) != shape.dtype:
                raise StoreError(
                    f"'{name}' must be {shape.dtype} [{stop - start}, {shape.width}]; found {array.dtype} "
                    f"{list(array.shape)}."
                )
            _check_finite(name, array, start)
        self.store._publish(self._path(start, stop), _encode(arrays))

    def seal(self, note: Any = None) -> None:
        """Check that the shards tile all rows and publish the manifest. note: JSON values to keep beside them."""
        if self.sealed:
            return
        end, shards = 0, []
        for start, stop in self.ranges:
            if start != end:
                raise StoreError(f"{self.folder}: rows {end} to {start} are in no shard.")
            end = stop
            size, digests = self._check(start, stop)
            shards.append({"start": start, "stop": stop, "size": size, "digests": digests})
        body = {
            **FORMAT, "key": self.key, "shapes": {n: [s.width, s.dtype] for n, s in self._shapes.items()},
            "shards": shards, "note": note,
        }  # fmt: skip
        body["shapes"].pop("__rows__")
        self.store._publish(self.folder / "MANIFEST.json", _signed(body))

    def _check(self, start: int, stop: int) -> tuple[int, dict[str, str]]:
        with _Shard.open(self._path(start, stop), self._shapes, stop - start) as shard:
            for name, shape in self._shapes.items():
                shard.load(name, torch.empty(stop - start, shape.width, dtype=DTYPES[shape.dtype]))
            return shard.size, shard.digests

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / "shards" / _shard_name(start, stop)


def row_ranges(
    n_rows: int, shapes: Mapping[str, Shape], most_rows: int | None = None, most_bytes: int = SHARD_BYTES
) -> list[Range]:
    """Tile [0, n_rows) so that a shard of all `shapes` stays below `most_bytes` and `most_rows`."""
    per_row = 24 + sum(s.width * DTYPES[s.dtype].itemsize for s in shapes.values())
    step = max(1, min(most_bytes // per_row, most_rows or n_rows))
    return [(start, min(n_rows, start + step)) for start in range(0, n_rows, step)]


# Files ---------------------------------------------------------------------------------------------------------------


@dataclass
class _Shard:
    """One safetensors file, its header checked: exactly the expected names, dtypes and shapes, tiling the file."""

    path: Path
    file: BufferedReader
    size: int
    base: int
    offsets: dict[str, Range]
    digests: dict[str, str]

    @classmethod
    @contextmanager
    def open(cls, path: Path, shapes: Mapping[str, Shape], n: int) -> Iterator["_Shard"]:
        with _open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size, _JSON_CAP):
                raise StoreError(f"{path} is cut short or no safetensors file.")
            header = _parse(file.read(length), path)
            metadata = header.pop("__metadata__", None)
            if set(header) != set(shapes) or not isinstance(metadata, dict) or set(metadata) != set(shapes):
                raise StoreError(f"{path} does not hold what its group says.")
            end, offsets = 0, {}
            for name in sorted(shapes):  # the order in which `_encode` lays them out
                shape = shapes[name]
                n_bytes = n * shape.width * DTYPES[shape.dtype].itemsize
                expected = {"dtype": shape.dtype, "shape": [n, shape.width], "data_offsets": [end, end + n_bytes]}
                if header[name] != expected:
                    raise StoreError(f"{path}: '{name}' is not laid out as its group says.")
                offsets[name] = (end, end + n_bytes)
                end += n_bytes
            if size != 8 + length + end:
                raise StoreError(f"{path} has {size} bytes in place of {8 + length + end}.")
            yield cls(path, file, size, 8 + length, offsets, metadata)

    def load(self, name: str, out: Tensor) -> None:
        """Fill `out`, a contiguous block of rows, and verify digest and finiteness."""
        view = out.view(-1).view(torch.uint8).numpy()
        begin, end = self.offsets[name]
        self.file.seek(self.base + begin)
        if self.file.readinto(view.data) != end - begin:
            raise StoreError(f"{self.path} is cut short.")
        if blake3(view.data).hexdigest() != self.digests[name]:
            raise StoreError(f"{self.path}: the bytes of '{name}' have changed since they were written.")
        _check_finite(name, out, 0)


def _encode(arrays: Mapping[str, Tensor]) -> bytes:
    """A safetensors file with the digest of each tensor in its metadata, names in sorted order."""
    header: dict[str, Any] = {"__metadata__": {}}
    parts, end = [], 0
    for name in sorted(arrays):
        payload = arrays[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        header["__metadata__"][name] = blake3(payload).hexdigest()
        header[name] = {"dtype": _code(name, arrays[name]), "shape": list(arrays[name].shape),
                        "data_offsets": [end, end + len(payload)]}  # fmt: skip
        end += len(payload)
        parts.append(payload)
    text = canonical(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the payload to 8 bytes
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _check_finite(name: str, array: Tensor, first_row: int) -> None:
    if array.is_floating_point():
        bad = ~torch.isfinite(array).all(1)
        if bad.any():
            raise StoreError(f"'{name}' has a value that is not finite in row {first_row + int(bad.nonzero()[0])}.")


def _code(name: str, array: Tensor) -> str:
    if array.dtype not in _CODES or array.ndim != 2:
        raise StoreError(f"'{name}' cannot be stored as {array.dtype} {list(array.shape)}: two axes of "
                         f"{', '.join(str(d) for d in _CODES)}.")  # fmt: skip
    return _CODES[array.dtype]


def _plain(shapes: Mapping[str, Shape]) -> dict[str, list]:
    return {name: [shape.width, shape.dtype] for name, shape in sorted(shapes.items())}


def _shapes(plain: Mapping[str, Sequence]) -> dict[str, Shape]:
    return {**{name: Shape(width, dtype) for name, (width, dtype) in plain.items()}, "__rows__": Shape(3, "I64")}


def _shard_name(start: int, stop: int) -> str:
    return f"{start:012d}-{stop:012d}.safetensors"


def _group_spec(folder: Path, key: str) -> dict[str, Any]:
    body = _read_signed(folder / "spec.json")
    _check_body(body, folder / "spec.json", key, {"key", "shapes", "ranges", "spec"})
    if not all(_is_range(r) for r in body["ranges"]):
        raise StoreError(f"{folder / 'spec.json'} has no valid row ranges.")
    return body


def _manifest(folder: Path, key: str) -> dict[str, Any]:
    path = folder / "MANIFEST.json"
    body = _read_signed(path)
    _check_body(body, path, key, {*FORMAT, "key", "shapes", "shards", "note"})
    if {k: body[k] for k in FORMAT} != FORMAT:
        raise StoreError(f"{path} is of another version of the store.")
    end = 0
    for shard in body["shards"]:
        good = isinstance(shard, dict) and set(shard) == {"start", "stop", "size", "digests"}
        if not good or not _is_range([shard["start"], shard["stop"]]):
            raise StoreError(f"{path} lists a shard that is none.")
        if shard["start"] != end:
            raise StoreError(f"{path}: its shards do not tile the rows.")
        end = shard["stop"]
    return body


def _check_body(body: Any, path: Path, key: str, fields: set[str]) -> None:
    """Strict shape of a JSON file, so that a damaged one is a StoreError and never a KeyError."""
    if not isinstance(body, dict) or set(body) != fields or body["key"] != key or path.parent.parent.name != key:
        raise StoreError(f"{path} is not the file that its place says.")
    shapes = body["shapes"]
    good = isinstance(shapes, dict) and all(
        _NAME.fullmatch(n) and isinstance(s, list) and len(s) == 2 and isinstance(s[0], int) and s[1] in DTYPES
        for n, s in shapes.items()
    )
    good = good and isinstance(body.get("shards", body.get("ranges")), list)
    if not good or digest(shapes) != path.parent.name:
        raise StoreError(f"{path} does not describe the group it lies in.")


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value) and 0 <= value[0] < value[1]
    )


def _signed(body: Mapping[str, Any]) -> bytes:
    return canonical({**body, "digest": digest(body, 64)}).encode()


def _read_signed(path: Path) -> Any:
    body = _read_json(path)
    if not isinstance(body, dict) or body.pop("digest", None) != digest(body, 64):
        raise StoreError(f"{path} has changed since it was written.")
    return body


def _read_json(path: Path) -> Any:
    with _open_regular(path) as file:
        return _parse(file.read(_JSON_CAP + 1), path)


def _parse(text: bytes, path: Path) -> Any:
    def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        if len(text) > _JSON_CAP:
            raise ValueError("too long")
        return json.loads(text, object_pairs_hook=strict)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged ({error}).") from None


@contextmanager
def _open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open for reading; links, pipes and the like are refused."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from None
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StoreError(f"{path} is no regular file.")
        yield file


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
