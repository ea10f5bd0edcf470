"""Shards: the store's files, their layout and what their bytes must be. Neither torch nor a pickle is needed.

A shard is a safetensors file with a digest for every 16 KiB block, so that a few rows are verified without reading the
rest. Its header is decided by what it must hold, to the byte.
"""

import math
import mmap
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from probekit.errors import StoreError
from probekit.records import canonical, digest
from probekit.storage.files import (
    Bytes,
    Temporary,
    open_regular,
    parse_json,
    read_exactly,
    read_into,
    read_signed,
    signed,
)

FORMAT = {"format": "probekit-store", "version": 2}
BLOCK_BYTES = 16 * 2**10  # what reading a single row costs, against 8 bytes of digest
ROWS, DIGESTS = "__rows__", "__digests__"  # row ids (example, position, token), and the digests of all blocks
ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "I64": 8}
KEY = re.compile(r"[0-9a-f]{16,64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FACT = re.compile(r"[0-9a-f]{32} \d[0-9.e+-]{0,22}")
_CHUNK_BLOCKS = 64  # verified together, while they are in the processor's cache
_YOUNG_NS = 2 * 10**9  # coarser than the clock of any file system
_GATHERED_BLOCKS = 1024  # held at once while some of their rows are copied out
_EXPONENT = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "BF16": 0xFF << 7}
Range = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """What one name of a group holds for every row. dtype is a safetensors code, such as F32."""

    width: int
    dtype: str = "F32"

    @property
    def row_bytes(self) -> int:
        return self.width * ITEM_BYTES[self.dtype]

    @property
    def block_rows(self) -> int:
        return max(1, BLOCK_BYTES // self.row_bytes)


# The shape of a shard ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the shard of rows start to stop of a group: a function of what it must hold, no choice.

    owner: key/group, part of the header, so that a shard that is moved elsewhere is refused.
    """

    owner: str
    start: int
    stop: int
    shapes: Mapping[str, Shape]

    @property
    def file_name(self) -> str:
        return f"{self.start:012d}-{self.stop:012d}.safetensors"

    @property
    def n(self) -> int:
        return self.stop - self.start

    @cached_property
    def blocks(self) -> dict[str, Range]:
        """Places of a name's blocks in the table of digests."""
        out, end = {}, 0
        for name in sorted(self.shapes):
            begin, end = end, end - (-self.n // self.shapes[name].block_rows)
            out[name] = (begin, end)
        return out

    @cached_property
    def offsets(self) -> dict[str, Range]:
        """Byte ranges behind the header. Large items first, so that every value is aligned."""
        n_blocks = max(end for _, end in self.blocks.values())
        sizes = {DIGESTS: 8 * n_blocks} | {name: self.n * s.row_bytes for name, s in self.shapes.items()}
        order = sorted(sizes, key=lambda name: (-8 if name == DIGESTS else -ITEM_BYTES[self.shapes[name].dtype], name))
        out, end = {}, 0
        for name in order:
            begin, end = end, end + sizes[name]
            out[name] = (begin, end)
        return out

    @cached_property
    def base(self) -> int:
        """Length of the header. It is known before the digests are: room is left for the widest."""
        widest = {name: "f" * 32 + " " + "9" * 23 for name in self.shapes}
        return -(-(8 + len(self._text(widest))) // 64) * 64

    @cached_property
    def size(self) -> int:
        return self.base + max(end for _, end in self.offsets.values())

    def header(self, facts: Mapping[str, str]) -> bytes:
        """The one header that a shard with these digests may have."""
        text = self._text(facts)
        return (self.base - 8).to_bytes(8, "little") + text + b" " * (self.base - 8 - len(text))

    def _text(self, facts: Mapping[str, str]) -> bytes:
        header: dict[str, Any] = {
            name: {"dtype": s.dtype, "shape": [self.n, s.width], "data_offsets": list(self.offsets[name])}
            for name, s in self.shapes.items()
        }
        begin, end = self.offsets[DIGESTS]
        header[DIGESTS] = {"dtype": "I64", "shape": [(end - begin) // 8], "data_offsets": [begin, end]}
        return canonical({**header, "__metadata__": {**facts, "__shard__": f"{self.owner}/{self.file_name}"}}).encode()


def fact(table: NDArray[np.uint64], largest: float) -> str:
    """What a header says of a name: the digest of its blocks' digests, and the largest magnitude."""
    return f"{xxh3_128_hexdigest(table.tobytes())} {largest!r}"


def _is_fact(value: Any) -> bool:
    return isinstance(value, str) and _FACT.fullmatch(value) is not None


def block_digests(data: Bytes, block_bytes: int) -> list[int]:
    view = data.data
    return [xxh3_64_intdigest(view[at : at + block_bytes]) for at in range(0, len(view), block_bytes)]


def magnitude(data: Bytes, dtype: str) -> float:
    """Largest absolute value; infinite or NaN when a value is. Whole numbers are not looked at."""
    if dtype == "I64" or not len(data):
        return 0.0
    # The bits of floats of one sign order like whole numbers, so two maxima without a copy find it.
    n_bytes = ITEM_BYTES[dtype]
    mask = (1 << (8 * n_bytes - 1)) - 1
    bits = max(int(data.view(f"i{n_bytes}").max()), int(data.view(f"u{n_bytes}").max()) & mask)
    if bits >= _EXPONENT[dtype]:
        return float("nan")
    if dtype == "BF16":
        bits, n_bytes = bits << 16, 4
    return float(np.array([bits], f"u{n_bytes}").view(f"f{n_bytes}")[0])


def refuse_not_finite(name: str, data: Bytes, shape: Shape, first_row: int) -> None:
    """Raise StoreError with the first row that holds NaN or infinity, if there is one."""
    for i in range(0, len(data), shape.row_bytes):
        if math.isnan(magnitude(data[i : i + shape.row_bytes], shape.dtype)):
            row = first_row + i // shape.row_bytes
            raise StoreError(f"'{name}' has a value that is not finite in row {row}: nothing of its shard is used.")


# Writing and reading a shard -----------------------------------------------------------------------------------------


SAVED_EVERY = 10.0  # seconds: about as much work is lost by a kill
PART, NOTES = ".part", ".rows"  # a shard that is begun, and which of its rows are there


def part_name(root: Path, final: Path) -> str:
    """The name in `tmp` under which a shard is begun and found again."""
    return f"{digest(final.relative_to(root).as_posix(), 32)}{PART}"


class ShardWriter:
    """A shard being written aside, in batches in any order, every row once. `commit` publishes; `drop` in any case.

    Every ten seconds what was written is brought to the disk, and which rows these are beside it, with digests: a later
    writer of the same shard begins with them. `kept` says which rows it has; when they come again they are left out.
    """

    def __init__(self, root: Path, folder: Path, layout: Layout) -> None:
        self.layout, final = layout, folder / layout.file_name
        name = part_name(root, final)
        self._file = Temporary(root / "tmp", final, layout.size, name=name)
        self._notes = self._file.path.with_suffix(NOTES) if self._file.path.name == name else None
        n_blocks = max(end for _, end in layout.blocks.values())
        self._table, self._known = np.zeros(n_blocks, np.uint64), np.zeros(n_blocks, bool)
        self._seen = np.zeros(layout.n, bool)
        self._largest = dict.fromkeys(layout.shapes, 0.0)
        self._written: list[tuple[int, int, dict[str, int]]] = []  # first row, rows, digest of each name
        self._saved, self._is_noted, self._published = time.monotonic(), False, False
        self._begin_with_what_is_there()
        self.kept = self._seen.copy()

    def _begin_with_what_is_there(self) -> None:
        """Rows that an earlier writer noted, as far as their bytes are still those."""
        if self._notes is None or not self._notes.exists():
            return
        try:
            noted = read_signed(self._notes)["written"]
            for first, n, digests in noted:
                data = {name: self._bytes_of(name, first, n) for name in self.layout.shapes}
                if {name: xxh3_64_intdigest(part.data) for name, part in data.items()} == digests:
                    self._put(first, n, data, write=False)
        except (StoreError, KeyError, TypeError, ValueError):
            pass  # notes that cannot be understood are of no use, and the rows are written again
        self._is_noted = True

    def _bytes_of(self, name: str, first: int, n: int) -> Bytes:
        shape = self.layout.shapes[name]
        at = self.layout.base + self.layout.offsets[name][0] + first * shape.row_bytes
        return np.frombuffer(read_exactly(self._file.handle, n * shape.row_bytes, at, self._file.path), np.uint8)

    def put(self, at: int, arrays: Mapping[str, Bytes]) -> None:
        """The bytes of rows at, at + 1, ... of every name, `at` counted from the start of all rows."""
        first, n = at - self.layout.start, len(arrays[ROWS]) // self.layout.shapes[ROWS].row_bytes
        there = self._seen[first : first + n] & ~self.kept[first : first + n]
        if not 0 <= first <= first + n <= self.layout.n or there.any():
            raise StoreError(f"rows {at} to {at + n} are not in this shard or were written before: each comes once.")
        edges = np.flatnonzero(np.diff(self.kept[first : first + n], prepend=True, append=True))
        for a, b in edges.reshape(-1, 2).tolist():  # what was kept is left out
            widths = {name: shape.row_bytes for name, shape in self.layout.shapes.items()}
            self._put(first + a, b - a, {n: data[a * widths[n] : b * widths[n]] for n, data in arrays.items()})
        if time.monotonic() - self._saved >= SAVED_EVERY:
            self._save()

    def _put(self, first: int, n: int, arrays: Mapping[str, Bytes], write: bool = True) -> None:
        for name, data in arrays.items():
            shape = self.layout.shapes[name]
            step = shape.block_rows
            begin = self.layout.offsets[name][0] + self.layout.base
            # Blocks that lie in this batch as a whole are digested from memory, before they touch the file.
            inner = -(-first // step) * step
            cuts = [first, *range(inner, first + n, step * _CHUNK_BLOCKS), first + n] if inner < first + n else [first]
            for a, b in zip(cuts, [*cuts[1:], first + n], strict=True):
                if a < b:
                    self._digest(name, a, b, data[(a - first) * shape.row_bytes : (b - first) * shape.row_bytes])
            if write:
                self._file.write(data.data, begin + first * shape.row_bytes)
        self._seen[first : first + n] = True
        self._written.append((first, n, {name: xxh3_64_intdigest(data.data) for name, data in arrays.items()}))

    def _save(self) -> None:
        """Note what was written, once it is on the disk, in place of the notes before."""
        if self._notes is not None:
            self._file.sync()
            fresh = Temporary(self._notes.parent, self._notes, 1)
            try:
                fresh.write(signed({"written": self._written}), 0)
                fresh.replace()
            finally:
                fresh.drop()
            self._is_noted = True
        self._saved = time.monotonic()

    def _digest(self, name: str, a: int, b: int, data: Bytes) -> None:
        """Look at rows a to b: finite, the largest, and the digest of every whole block."""
        shape = self.layout.shapes[name]
        largest = magnitude(data, shape.dtype)
        if math.isnan(largest):
            refuse_not_finite(name, data, shape, self.layout.start + a)
        self._largest[name] = max(self._largest[name], largest)
        if a % shape.block_rows:
            return
        begin = self.layout.blocks[name][0] + a // shape.block_rows
        found = block_digests(data, shape.block_rows * shape.row_bytes)
        whole = len(found) if b % shape.block_rows == 0 or b == self.layout.n else len(found) - 1
        self._table[begin : begin + whole] = found[:whole]
        self._known[begin : begin + whole] = True

    def commit(self) -> dict[str, str]:
        """Digest the blocks that several batches share, write table and header, publish; the facts of the header."""
        if not self._seen.all():
            row = self.layout.start + int(np.flatnonzero(~self._seen)[0])
            raise StoreError(f"row {row} of a shard was never written: a shard is published whole or not at all.")
        layout, facts = self.layout, {}
        for name, (begin, end) in layout.blocks.items():
            shape = layout.shapes[name]
            block = shape.block_rows * shape.row_bytes
            from_, to = (layout.base + offset for offset in layout.offsets[name])
            for i in np.flatnonzero(~self._known[begin:end]).tolist():
                at = from_ + i * block
                data = read_exactly(self._file.handle, min(block, to - at), at, self._file.final)
                self._table[begin + i] = xxh3_64_intdigest(data)
            facts[name] = fact(self._table[begin:end], self._largest[name])
        self._file.write(self._table.tobytes(), layout.base + layout.offsets[DIGESTS][0])
        self._file.write(layout.header(facts), 0)
        self._published = True  # or another writer's file is there, and this one is of no use
        return facts if self._file.publish() else {}

    def drop(self) -> None:
        """Let go of the file; what is noted of one that was not published stays, for the next writer."""
        keep = self._is_noted and self._file.is_sound and not self._published
        if self._notes is not None and self._is_noted and not keep:
            with suppress(OSError):
                os.unlink(self._notes)
        self._file.drop(keep)


@dataclass(frozen=True)
class Shard:
    """A published shard whose size and header are what they must be. Its values are verified as they are read."""

    path: Path
    layout: Layout
    facts: Mapping[str, str]
    handle: int

    @classmethod
    @contextmanager
    def open(cls, folder: Path, layout: Layout, facts: Mapping[str, str] | None = None) -> Iterator["Shard"]:
        """facts: what the manifest says; None takes the file's own word, which its bytes must then bear out."""
        path = folder / layout.file_name
        with open_regular(path) as handle:
            size = os.fstat(handle).st_size
            if size != layout.size:
                raise StoreError(f"{path} has {size:,} bytes in place of {layout.size:,}: `probekit cache verify`.")
            header = read_exactly(handle, layout.base, 0, path)
            if facts is None:
                found = parse_json(header[8:], path, StoreError)
                found = found.get("__metadata__") if isinstance(found, dict) else None
                facts = {n: f for n, f in found.items() if _is_fact(f)} if isinstance(found, dict) else {}
            if set(facts) != set(layout.shapes) or layout.header(facts) != header:
                raise StoreError(f"{path} is not the file that its group names: `probekit cache verify`.")
            yield cls(path, layout, facts, handle)

    def identity(self, name: str) -> tuple | None:
        """Same identity, same bytes: any write changes it. None for a file too young for its clock to tell."""
        found = os.fstat(self.handle)
        if time.time_ns() - found.st_ctime_ns < _YOUNG_NS:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, name, self.facts[name]

    def read(self, name: str, out: Bytes, verify: bool = True) -> None:
        """Fill `out`, all rows of a name, and verify it."""
        if verify:
            self._verify(name, out, read=True)
        else:
            read_into(self.handle, out, self.layout.base + self.layout.offsets[name][0], self.path)

    def map(self, name: str, verify: bool = True) -> Bytes:
        """All rows of a name where they lie, verified: pages of the file until they are written to, then private."""
        begin, end = (self.layout.base + offset for offset in self.layout.offsets[name])
        skip = begin % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(self.handle, end - begin + skip, access=mmap.ACCESS_COPY, offset=begin - skip)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path} cannot be mapped ({error}).") from None
        out = np.frombuffer(mapped, np.uint8)[skip:]
        if verify:
            self._verify(name, out, read=False)
        return out

    def gather(self, name: str, rows: NDArray[np.int64], out: Bytes) -> None:
        """Fill `out` [len(rows), row bytes] with rows counted from this shard's first, and verify their blocks."""
        shape = self.layout.shapes[name]
        table, step = self._digests(name), shape.block_rows
        begin, end = (self.layout.base + offset for offset in self.layout.offsets[name])
        size = step * shape.row_bytes
        blocks, block_of = np.unique(rows // step, return_inverse=True)
        for i in blocks.tolist():  # the disk works on all of them while the first are verified
            os.posix_fadvise(self.handle, begin + i * size, size, os.POSIX_FADV_WILLNEED)
        for first in range(0, len(blocks), _GATHERED_BLOCKS):
            part = blocks[first : first + _GATHERED_BLOCKS]
            buffer = np.empty(len(part) * size, np.uint8)
            for j, i in enumerate(part.tolist()):
                data = buffer[j * size : j * size + min(size, end - begin - i * size)]
                read_into(self.handle, data, begin + i * size, self.path)
                if xxh3_64_intdigest(data.data) != table[i]:
                    raise self._changed(name)
            places = np.flatnonzero((block_of >= first) & (block_of < first + len(part)))
            inside = (block_of[places] - first) * step + rows[places] % step
            out[places] = buffer.reshape(-1, shape.row_bytes)[inside]
        if math.isnan(magnitude(out.reshape(-1), shape.dtype)):
            for place in range(len(rows)):
                refuse_not_finite(name, out[place], shape, self.layout.start + int(rows[place]))

    def check(self) -> None:
        """Verify every byte."""
        for name, shape in self.layout.shapes.items():
            self.read(name, np.empty(self.layout.n * shape.row_bytes, np.uint8))

    def _verify(self, name: str, data: Bytes, read: bool) -> None:
        shape, largest = self.layout.shapes[name], 0.0
        table = self._digests(name)
        block, begin = shape.block_rows * shape.row_bytes, self.layout.base + self.layout.offsets[name][0]
        for i in range(0, len(table), _CHUNK_BLOCKS):
            part = data[i * block : (i + _CHUNK_BLOCKS) * block]
            if read:
                read_into(self.handle, part, begin + i * block, self.path)
            if block_digests(part, block) != table[i : i + _CHUNK_BLOCKS]:
                raise self._changed(name)
            found = magnitude(part, shape.dtype)
            if math.isnan(found):
                refuse_not_finite(name, part, shape, self.layout.start + i * shape.block_rows)
            largest = max(largest, found)
        if repr(largest) != self.facts[name].split(" ")[1]:
            raise self._changed(name)

    def _digests(self, name: str) -> list[int]:
        """The digests of a name's blocks, themselves verified."""
        (first, last), at = self.layout.blocks[name], self.layout.base + self.layout.offsets[DIGESTS][0]
        table = read_exactly(self.handle, 8 * (last - first), at + 8 * first, self.path)
        if xxh3_128_hexdigest(table) != self.facts[name].split(" ")[0]:
            raise self._changed(name)
        return np.frombuffer(table, "<u8").tolist()

    def _changed(self, name: str) -> StoreError:
        return StoreError(
            f"{self.path}: the bytes of '{name}' have changed since they were written; `probekit cache rm` the entry "
            "and make it again."
        )


# Groups --------------------------------------------------------------------------------------------------------------


def group_name(shapes: Mapping[str, Shape]) -> str:
    return digest(plain(shapes))


def plain(shapes: Mapping[str, Shape]) -> dict[str, list]:
    return {name: [shape.width, shape.dtype] for name, shape in sorted(shapes.items())}


def read_spec(folder: Path) -> dict[str, Any]:
    """spec.json of a group: key, shapes, ranges, spec."""
    body = read_signed(folder / "spec.json")
    _check_body(body, folder / "spec.json", {"key", "shapes", "ranges", "spec"})
    return body


def read_manifest(folder: Path) -> dict[str, Any]:
    """MANIFEST.json of a group: key, shapes, ranges, facts (one dictionary per range), note."""
    path = folder / "MANIFEST.json"
    body = read_signed(path)
    _check_body(body, path, {*FORMAT, "key", "shapes", "ranges", "facts", "note"})
    facts = body["facts"]
    if {name: body[name] for name in FORMAT} != FORMAT or not isinstance(facts, list):
        raise StoreError(f"{path} is of another version of the store: make the entry again.")
    expected = {ROWS, *body["shapes"]}
    good = all(isinstance(f, dict) and set(f) == expected and all(map(_is_fact, f.values())) for f in facts)
    if len(facts) != len(body["ranges"]) or not good:
        raise StoreError(f"{path} does not say what each of its shards holds: make the entry again.")
    return body


def layouts(folder: Path, body: Mapping[str, Any]) -> list[Layout]:
    """The layout of every shard of a group, from its spec or manifest."""
    shapes = {name: Shape(width, dtype) for name, (width, dtype) in body["shapes"].items()} | {ROWS: Shape(3, "I64")}
    owner = f"{body['key']}/{folder.name}"
    return [Layout(owner, start, stop, shapes) for start, stop in body["ranges"]]


def _check_body(body: Mapping[str, Any], path: Path, fields: set[str]) -> None:
    """Strict shape of a JSON file, so that a wrong one is a StoreError and never a KeyError."""
    shapes: Any = body.get("shapes")
    good = set(body) == fields and body["key"] == path.parent.parent.name and isinstance(shapes, dict)
    good = good and all(
        NAME.fullmatch(n) and isinstance(s, list) and len(s) == 2 and type(s[0]) is int and 0 < s[0] < 2**31
        and isinstance(s[1], str) and s[1] in ITEM_BYTES
        for n, s in shapes.items()
    )  # fmt: skip
    if not good or digest(shapes) != path.parent.name:
        raise StoreError(f"{path} does not describe the group that it lies in: make the entry again.")
    end = 0
    for span in body["ranges"] if isinstance(body["ranges"], list) else [None]:
        if not (isinstance(span, list) and [type(v) for v in span] == [int, int] and end == span[0] < span[1] < 10**12):
            raise StoreError(f"{path}: its row ranges do not tile the rows: make the entry again.")
        end = span[1]


def open_root(root: Path) -> None:
    """Raise StoreError unless `root` is a store of this version."""
    marker = root / "STORE.json"
    with open_regular(marker) as handle:
        text = read_exactly(handle, min(os.fstat(handle).st_size, 4096), 0, marker)
    if text != canonical(FORMAT).encode():
        raise StoreError(
            f"{root} is no store of this version ({marker} differs): delete it, which costs time only, or give another "
            "folder."
        )
