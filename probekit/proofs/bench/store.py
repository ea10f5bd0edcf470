"""The store bench: the store beside raw reads and writes of the same numbers, taken in turn, on the same disk.

Raw is one unstructured file: no digest, no check, no header, and half of it there after a crash.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from torch import Tensor

from probekit.proofs.bench import Row
from probekit.storage.shards import Shape
from probekit.storage.store import Store, row_ranges

KEY = "0" * 32


@dataclass(frozen=True)
class StoreSize:
    """rows: of one hook point. gathered: rows read one by one. shards: of the store with many."""

    rows: int
    width: int
    gathered: int
    shards: int
    repeats: int


FULL = StoreSize(100_000, 768, 2_000, 50, 11)
QUICK = StoreSize(2_000, 64, 50, 5, 3)


def store_bench(size: StoreSize, folder: Path) -> Iterator[Row]:
    """Rows of the bench; `folder` is made, and deleted in the end. ratio: peer over ours. gap: values that differ.

    bound_ratio: our time over that of the peer, since no store can be faster than raw by more than luck.
    """
    if folder.exists():
        raise FileExistsError(folder)
    folder.mkdir(parents=True)
    try:
        yield from _rows(size, folder)
    finally:
        rmtree(folder)


def _rows(size: StoreSize, folder: Path) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size.rows, size.width, generator=generator)
    ids = torch.zeros(size.rows, 3, dtype=torch.long)
    raw = folder / "raw"
    rows = torch.from_numpy(np.random.default_rng(0).choice(size.rows, size.gathered, replace=False))
    many = -(-size.rows // size.shards)
    megabytes = f"{x.nbytes / 1e6:.0f} MB"
    kinds = {"default shards": None, "one shard": size.rows, f"{size.shards} shards": many}
    folders = {kind: folder / kind.replace(" ", "-") for kind in kinds}

    def compare(
        case: str, peer: str, ours: Callable, theirs: Callable, truth: Tensor | None = None, before: Callable = _nothing
    ) -> Row:
        return _compare(case, peer, size.repeats, ours, theirs, truth, before)

    def mapped() -> np.ndarray:
        return np.memmap(raw, np.float32, "r", shape=tuple(x.shape))

    for kind, step in kinds.items():
        path = folders[kind]
        yield compare(f"write {megabytes}, {kind}", "np.tofile and fsync", partial(_write, path, x, ids, step),
                      partial(_tofile, raw, x), before=partial(_delete, path, raw))  # fmt: skip
    _write(path, x, ids, step)
    _tofile(raw, x)
    for kind, path in folders.items():
        if not path.exists():
            _write(path, x, ids, kinds[kind])
        _age(path)
        store = Store(path)
        peer, cold = "np.array(np.memmap)", partial(_drop, path, raw)
        first = partial(_read, path)
        yield compare(f"warm first read, {kind}", peer, first, lambda: np.array(mapped()), x)
        yield compare(f"warm read again, {kind}", peer, partial(store.read, KEY, "x"), lambda: np.array(mapped()), x)
        yield compare(f"cold read, {kind}", peer, first, lambda: np.array(mapped()), x, cold)
        case, peer = f"gather of {size.gathered} rows, {kind}", "np.memmap[rows]"
        ours = partial(store.gather, KEY, "x", rows)
        yield compare(f"cold {case}", peer, ours, lambda: mapped()[rows.numpy()], x[rows], cold)
        yield compare(f"warm {case}", peer, ours, lambda: mapped()[rows.numpy()], x[rows])
    path = folders[f"{size.shards} shards"]
    yield compare(f"open, {size.shards} shards", "os.stat of each shard", lambda: Store(path).check(KEY),
                  lambda: [os.stat(shard) for shard in path.rglob("*.safetensors")])  # fmt: skip


def _compare(
    case: str, peer: str, repeats: int, ours: Callable, theirs: Callable, truth: Tensor | None, before: Callable
) -> Row:
    """Ours and the peer in turn, who goes first changing each time; `before` is done untimed before each."""
    times, gap = [], 0.0
    for i in range(repeats + 1):
        seconds = {}
        for work in (ours, theirs) if i % 2 else (theirs, ours):
            before()
            started = time.perf_counter()
            found = work()
            seconds[work] = time.perf_counter() - started
            if truth is not None:
                gap = max(gap, float((torch.as_tensor(found) != truth).float().mean()))
            del found
        if i:  # the first round finds the memory and the disk as somebody else left them
            times.append((seconds[ours], seconds[theirs]))
    mine, peers = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    return Row(case, peer, mine, peers, ratio, gap, statistics.median(a / b for a, b in times))


def _nothing() -> None:
    """Before a read that may find its file in memory."""


def _read(path: Path) -> Tensor:
    """By a store that has verified nothing yet."""
    return Store(path).read(KEY, "x")


def _write(folder: Path, x: Tensor, ids: Tensor, most_rows: int | None) -> None:
    shapes = {"x": Shape(x.shape[1])}
    most_bytes = 10**12 if most_rows else 256 * 2**20
    group = Store(folder).group(KEY, {}, shapes, row_ranges(len(x), shapes, most_rows, most_bytes))
    for start, stop in group.missing():
        group.write(start, stop, {"x": x[start:stop]}, ids[start:stop])
    group.seal()


def _tofile(path: Path, x: Tensor) -> None:
    with path.open("wb") as file:
        x.numpy().tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _delete(folder: Path, raw: Path) -> None:
    rmtree(folder, ignore_errors=True)
    raw.unlink(missing_ok=True)


def _age(folder: Path) -> None:
    """Wait until the store may remember what it has verified: its files must be two seconds old."""
    youngest = max(path.stat().st_ctime for path in folder.rglob("*.safetensors"))
    time.sleep(max(0.0, youngest + 2.1 - time.time()))


def _drop(folder: Path, raw: Path) -> None:
    """Out of the page cache, as far as the system lets go of it."""
    for file in [*folder.rglob("*.safetensors"), raw]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
