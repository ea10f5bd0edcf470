"""Engines: where units of work run. Here: this process, or several on this machine."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def in_processes(work: Callable[..., T], *units: Sequence[Any], n_workers: int = 1) -> Iterator[T]:
    """`work(*unit)` of every unit, in order, as each is done. Processes have one thread; Ctrl-C drops what waits.

    work: a function that can be found by its name, since processes start afresh.
    """
    if n_workers == 1:
        yield from map(work, *units)
        return
    with ProcessPoolExecutor(n_workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        try:
            yield from pool.map(work, *units)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
