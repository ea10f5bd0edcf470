"""Writing: batches on their way into the store in a thread of their own, while the model computes the next one.

There are two sets of buffers, one being filled and one being written, so that memory does not grow with the rows.
"""

import mmap
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from itertools import pairwise
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import StoreError


@runtime_checkable
class BatchSink(Protocol):
    """A group of a store: `shard` is entered with a range of rows and gives what batches are put into.

    is_begun: whether it may have rows of this range that a capture left behind, as `kept` of the shard then says.
    """

    def is_begun(self, start: int, stop: int) -> bool: ...

    def shard(self, start: int, stop: int) -> AbstractContextManager[Any]: ...


class Writer:
    """To be used in a `with` block, which ends when all is written. An error of the thread is raised by the next call.

    widths: hook point -> number of values per row, for `room`. ids: [n_rows, 3], written beside the rows. A block that
    ends with an error leaves finished shards behind and drops the open one.
    """

    def __init__(self, widths: Mapping[str, int], dtype: torch.dtype, ids: Int[Tensor, "n_rows 3"], pinned: bool):
        self._widths, self._dtype, self._ids, self._pinned = widths, dtype, ids, pinned
        self._thread = ThreadPoolExecutor(1, "probekit-writer")
        self._sets: list[dict[str, Tensor]] = [{}, {}]
        self._written: list[Future | None] = [None, None]  # when a set of buffers may be filled again
        self._jobs: list[Future] = []
        self._turn = 0
        self._open = ExitStack()  # touched by the thread alone until it has ended
        self._streams: list[tuple[Any, Sequence[str]]] = []

    def room(self, n: int, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Buffers with room for n rows. Waits until the batch before the last one is written; the same until `put`."""
        self._check()
        before = self._written[self._turn]
        if before is not None:
            _result(before)
        held = self._sets[self._turn]
        for name in names:
            if name not in held or len(held[name]) < n:
                held.pop(name, None)  # freed before its successor is asked for
                held[name] = self._buffer(n, self._widths[name])
        return held

    def begin(self, start: int, stop: int, sinks: Mapping[BatchSink, Sequence[str]]) -> NDArray[np.bool_]:
        """Open the shards of rows start to stop; the names of each sink are what it is given of every batch.

        Returns which of these rows all sinks have already, and need not be put.
        """
        opened = self._submit(self._begin, start, stop, dict(sinks))
        if not any(sink.is_begun(start, stop) for sink in sinks):
            return np.zeros(stop - start, bool)
        _result(opened)
        return np.logical_and.reduce([stream.kept if sink.is_begun(start, stop) else np.zeros(stop - start, bool)
                                      for sink, (stream, _) in zip(sinks, self._streams, strict=True)])  # fmt: skip

    def put(self, rows: NDArray[np.int64], arrays: Mapping[str, Tensor]) -> None:
        """Write a batch: rows [n] ascending, arrays [n, width], views of what `room` gave among them."""
        self._written[self._turn] = self._submit(self._put, rows, dict(arrays))
        self._turn = 1 - self._turn

    def end(self) -> None:
        """Publish the shards that are open."""
        self._submit(self._end)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._thread.shutdown(wait=True)
        try:
            if kind is None:
                for job in self._jobs:
                    _result(job)
        except BaseException:
            self._open.__exit__(*sys.exc_info())
            raise
        self._open.__exit__(kind, error, trace)

    def _buffer(self, n: int, width: int) -> Tensor:
        if self._pinned:
            return torch.empty(n, width, dtype=self._dtype, pin_memory=True)
        # Pages of their own, which the system gets back at the end: malloc keeps what lies between a forward's tensors.
        try:
            pages = mmap.mmap(-1, n * width * self._dtype.itemsize, access=mmap.ACCESS_COPY)
        except OSError:
            raise MemoryError from None
        return torch.frombuffer(pages, dtype=self._dtype).view(n, width)

    def _submit(self, function: Any, *args: Any) -> Future:
        self._check()
        self._jobs.append(self._thread.submit(function, *args))
        return self._jobs[-1]

    def _check(self) -> None:
        """Raise what went wrong in the thread; forget what went well."""
        while self._jobs and self._jobs[0].done():
            _result(self._jobs.pop(0))

    def _begin(self, start: int, stop: int, sinks: dict[BatchSink, Sequence[str]]) -> None:
        self._streams = [(self._open.enter_context(sink.shard(start, stop)), names) for sink, names in sinks.items()]

    def _put(self, rows: NDArray[np.int64], arrays: dict[str, Tensor]) -> None:
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for a, b in pairwise(cuts):
            first = int(rows[a])
            for stream, names in self._streams:
                stream.put(first, {name: arrays[name][a:b] for name in names}, self._ids[first : first + b - a])

    def _end(self) -> None:
        self._streams = []
        self._open.close()


def _result(job: Future) -> None:
    try:
        job.result()
    except MemoryError:  # not to be taken for the model's, which is answered by smaller batches
        raise StoreError("out of memory while activations were written: free some, then the same call resumes.") from (
            None
        )
