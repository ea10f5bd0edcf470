"""Faults for the store: a scenario to interrupt, and machines that kill it, refuse its calls, or cut the power.

The scenario writes two groups, three shards each, in batches that come out of order. What it must end in is known.
"""

import errno
import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from probekit.errors import StoreError
from probekit.storage import cache
from probekit.storage.shards import Shape
from probekit.storage.store import Store, row_ranges

KEY = "0123456789abcdef"
N = 10
ROWS = torch.stack([torch.arange(N), torch.arange(N) % 3, torch.arange(N) * 7], 1)
GROUPS = (("a", "b.c"), ("d",))


def arrays_of(seed: int = 0, scale: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(N, width * scale, generator=g) for name, width in (("a", 3), ("b.c", 2), ("d", 1))}
    return made | {"b.c": made["b.c"].bfloat16()}


ARRAYS = arrays_of()


def shapes_of(arrays: dict[str, Tensor]) -> dict[str, Shape]:
    return {n: Shape(a.shape[1], "BF16" if a.dtype == torch.bfloat16 else "F32") for n, a in arrays.items()}


def capture(root: Path, arrays: dict[str, Tensor], acknowledged: Callable[[str], None] = lambda what: None) -> None:
    """What a capture does with the store; safe to call again after any interruption."""
    store = Store(root)
    for names in GROUPS:
        if store.has(KEY, names):
            continue
        asked = {name: arrays[name] for name in names}
        shapes = shapes_of(asked)
        group = store.group(KEY, {"parts": {"n_rows": N}}, shapes, row_ranges(N, shapes, 4))
        for start, stop in group.missing():
            with group.shard(start, stop) as shard:
                middle = (start + stop) // 2
                for a, b in ((middle, stop), (start, middle)):
                    shard.put(a, {name: array[a:b] for name, array in asked.items()}, ROWS[a:b])
            acknowledged(f"{names[0]}:{start}")
        group.seal({"audit": 1})
        acknowledged(names[0])


def same(found: Tensor, truth: Tensor) -> bool:
    return found.dtype == truth.dtype and torch.equal(
        found.reshape(-1).view(torch.uint8), truth.reshape(-1).view(torch.uint8)
    )


def read_all(root: Path, arrays: dict[str, Tensor], signed_again: bool = False) -> set[str]:
    """Names of which all could be read: whole, row by row, the row ids and the note.

    AssertionError when something was accepted that is not exact; a note that is `signed_again` may be another.
    """
    refused = set()
    for name, truth in arrays.items():
        for what in ("read", "gather", "rows", "note"):
            try:
                store = Store(root)
                if what == "read":
                    assert same(store.read(KEY, name), truth), f"{name} was read and is wrong"
                elif what == "gather":
                    for row in range(N):
                        assert same(store.gather(KEY, name, torch.tensor([row])), truth[[row]]), f"row {row} of {name}"
                elif what == "rows":
                    assert same(store.rows(KEY, name), ROWS), f"row ids of {name}"
                else:
                    assert store.note(KEY, name) == {"audit": 1} or signed_again
            except StoreError:
                refused.add(name)
    return set(arrays) - refused


def recovers(root: Path, arrays: dict[str, Tensor]) -> set[str]:
    """The invariant: what is accepted is exact, and resuming reaches all of it. Returns what was accepted at first."""
    accepted = read_all(root, arrays)
    capture(root, arrays)
    assert read_all(root, arrays) == set(arrays), "resuming did not reach the state"
    assert all(entry.state == "complete" for entry in cache.verify(root, deep=True))
    cache.gc(root, 10**15)
    assert not any((root / "tmp").iterdir())
    return accepted


def clean(root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    return root


def forked(work: Callable[[], None]) -> int:
    """Start `work` in a child; its exit code is 0 done, 3 StoreError, 1 anything else."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except StoreError:
        code = 3
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Calls that fail -----------------------------------------------------------------------------------------------------

MUTATING = ("open", "pwrite", "posix_fallocate", "fsync", "link", "unlink", "mkdir", "rename", "replace", "fchmod")


@contextmanager
def at_each_call(handle: Callable[[str, Callable, tuple, dict], object]) -> Iterator[None]:
    """Put `handle(name, real, args, kwargs)` in place of every system call that changes something on disk."""
    real = {name: getattr(os, name) for name in MUTATING}

    def wrapped(name: str) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            if name == "open" and not args[1] & os.O_CREAT:  # pyright: ignore[reportOperatorIssue]
                return real["open"](*args, **kwargs)
            return handle(name, real[name], args, kwargs)

        return call

    try:
        for name in MUTATING:
            setattr(os, name, wrapped(name))
        yield
    finally:
        for name in MUTATING:
            setattr(os, name, real[name])


def count_calls(work: Callable[[], None]) -> list[str]:
    made: list[str] = []

    def note(name: str, real: Callable, args: tuple, kwargs: dict) -> object:
        made.append(name)
        return real(*args, **kwargs)

    with at_each_call(note):
        work()
    return made


@contextmanager
def failing(at: int, how: str) -> Iterator[None]:
    """Call number `at` is killed `before` or `after`, is `short` (writes half its bytes), or fails with an errno."""
    counter = itertools.count()

    def fault(name: str, real: Callable, args: tuple, kwargs: dict) -> object:
        if next(counter) != at:
            return real(*args, **kwargs)
        if how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "after":
            with suppress(FileExistsError, FileNotFoundError):  # calls that fail in any case
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "short":
            if name == "pwrite":
                args = (args[0], memoryview(args[1])[: max(1, len(memoryview(args[1])) // 2)], args[2])
            return real(*args, **kwargs)
        raise OSError(getattr(errno, how), os.strerror(getattr(errno, how)))

    with at_each_call(fault):
        yield


# Power loss ----------------------------------------------------------------------------------------------------------


class Recorder:
    """Every effect on disk in order, and which of them a sync has made certain.

    Until its file is synced a write may be lost, whole or in part; until its folder is synced an entry may be lost,
    each on its own and in any combination: more than any file system really loses.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[tuple] = []  # (kind, place, ...); place is an inode for data and a folder for entries
        self.acknowledged: list[tuple[int, str]] = []
        self._inodes: dict[str, int] = {}
        self._open: dict[int, int | str] = {}
        self._count = itertools.count()

    def _name(self, path: object) -> str:
        return os.path.relpath(os.fspath(path), self.root)  # pyright: ignore[reportArgumentType]

    def _entry(self, kind: str, path: str, *more: object) -> None:
        self.events.append((kind, os.path.dirname(path) or ".", path, *more))

    def acknowledge(self, what: str) -> None:
        self.acknowledged.append((len(self.events), what))

    @contextmanager
    def recording(self, lose: str = "") -> Iterator[None]:
        """lose: `file` or `folder` takes those syncs out of the product."""
        opened, closed = os.open, os.close

        def handle(name: str, real: Callable, args: tuple, kwargs: dict) -> object:
            if name == "open":
                found, path = real(*args, **kwargs), self._name(args[0])
                self._open[found] = self._inodes[path] = next(self._count)
                self._entry("link", path, self._inodes[path])
                return found
            if name == "fsync":
                place = self._open[args[0]]
                if lose == ("folder" if isinstance(place, str) else "file"):
                    return None
                self.events.append(("sync", place))
                return real(*args, **kwargs)
            result = real(*args, **kwargs)
            if name == "pwrite":
                self.events.append(("data", self._open[args[0]], args[2], bytes(args[1])))
            elif name == "posix_fallocate":
                self.events.append(("size", self._open[args[0]], args[2]))
            elif name == "mkdir":
                self._entry("mkdir", self._name(args[0]))
            elif name == "link":
                path = self._name(args[1])
                self._inodes[path] = self._inodes[self._name(args[0])]
                self._entry("link", path, self._inodes[path])
            elif name == "unlink":
                self._entry("unlink", self._name(args[0]))
            elif name in ("rename", "replace"):
                old, path = self._name(args[0]), self._name(args[1])
                self._inodes[path] = self._inodes[old]
                self._entry("link", path, self._inodes[path])
                self._entry("unlink", old)
            return result

        with at_each_call(handle):
            wrapped = os.open

            def open_(path: object, flags: int, *args: object, **kwargs: object) -> int:
                found = wrapped(path, flags, *args, **kwargs)  # pyright: ignore[reportArgumentType, reportCallIssue]
                if flags & os.O_DIRECTORY:
                    self._open[found] = self._name(path)
                return found

            os.open = open_  # pyright: ignore[reportAttributeAccessIssue]
            yield
        os.open, os.close = opened, closed

    def lost(self, at: int, rng: random.Random, n_random: int) -> Iterator[dict[int, str]]:
        """What may be missing when the power goes after `at` events: event -> `lost` or `torn`."""
        synced: dict[object, int] = {}
        for i, event in enumerate(self.events[:at]):
            if event[0] == "sync":
                synced[event[1]] = i
        pending = [i for i, e in enumerate(self.events[:at]) if e[0] != "sync" and synced.get(e[1], -1) < i]
        yield {}
        yield dict.fromkeys(pending, "lost")
        for i in pending:
            yield {i: "lost"}
            yield {j: "lost" for j in pending if j != i}
            if self.events[i][0] == "data":
                yield {i: "torn"}
        for _ in range(n_random if len(pending) > 1 else 0):
            yield {i: rng.choice(("lost", "torn")) for i in pending if rng.random() < 0.5}

    def tree(self, at: int, lost: dict[int, str]) -> dict[str, bytes | None]:
        """The files (and folders, None) that are there after the power came back."""
        data: dict[int, bytearray] = {}
        entries: dict[str, int | None] = {}
        for i, event in enumerate(self.events[:at]):
            if lost.get(i) == "lost":
                continue
            kind, place = event[:2]
            if kind == "size":
                data.setdefault(place, bytearray()).extend(bytes(max(0, event[2] - len(data.get(place, b"")))))
            elif kind == "data":
                part = event[3][: len(event[3]) // 2] if lost.get(i) == "torn" else event[3]
                content = data.setdefault(place, bytearray())
                content.extend(bytes(max(0, event[2] + len(part) - len(content))))
                content[event[2] : event[2] + len(part)] = part
            elif kind == "link":
                entries[event[2]] = event[3]
            elif kind == "mkdir":
                entries[event[2]] = None
            elif kind == "unlink":
                entries.pop(event[2], None)

        def reachable(path: str) -> bool:
            parent = os.path.dirname(path)
            return not parent or (parent in entries and entries[parent] is None and reachable(parent))

        return {
            path: None if inode is None else bytes(data.get(inode, b""))
            for path, inode in entries.items()
            if reachable(path)
        }


def put_tree(root: Path, tree: dict[str, bytes | None]) -> None:
    clean(root).mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def get_tree(root: Path) -> dict[str, bytes | None]:
    """What `put_tree` makes: folders as None, other than files and folders as a word that no file contains."""

    def content(path: Path) -> bytes | None:
        if path.is_dir() and not path.is_symlink():
            return None
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b"neither file nor folder"

    return {str(path.relative_to(root)): content(path) for path in sorted(root.rglob("*"))}


def power_losses(root: Path, n_random: int, every: int = 1, lose: str = "") -> int:
    """Cut the power after every event, in all the ways that `Recorder.lost` knows; the number of different states."""
    arrays, rng = arrays_of(), random.Random(0)
    clean(root).mkdir(parents=True)
    recorder = Recorder(root)
    with recorder.recording(lose):
        capture(root, arrays, recorder.acknowledge)
    assert recorder.tree(len(recorder.events), {}) == get_tree(root), "the recorder missed something"
    seen = set()
    for at in range(0, len(recorder.events) + 1, every):
        promised = {what for when, what in recorder.acknowledged if when <= at}
        for lost in recorder.lost(at, rng, n_random):
            tree = recorder.tree(at, lost)
            mark = hash((tuple(sorted(tree.items(), key=lambda item: item[0])), tuple(sorted(promised))))
            if mark in seen:
                continue
            seen.add(mark)
            put_tree(root, tree)
            kept = {path.name for path in root.glob("entries/*/*/*/shards/*")}
            missing = [p for p in promised if ":" in p and f"{int(p.split(':')[1]):012d}" not in {k[:12] for k in kept}]
            assert not missing, f"shard {missing} was acknowledged and is gone"
            accepted = recovers(root, arrays)
            sealed = {n for names in GROUPS if names[0] in promised for n in names}
            assert sealed <= accepted, f"{sealed - accepted} was sealed and is gone"
    return len(seen)
