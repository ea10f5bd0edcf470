"""Engines: where units of work run. Here: this process, or several on this machine."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from probekit.errors import Interrupted
from probekit.storage.runwriter import RunWriter

T = TypeVar("T")


@runtime_checkable
class Labelled(Protocol):
    """A unit of work: the cell that it becomes in a run folder, and what a progress line says of it."""

    @property
    def id(self) -> str: ...

    @property
    def label(self) -> str: ...


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


def work_off(
    work: Callable[[Any], tuple[Any, T, float]],
    planned: Sequence[Labelled],
    writer: RunWriter,
    keep: Callable[[Any, T, float], None],
    n_workers: int,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Do every planned unit that the run folder lacks; `keep` writes what `work` gives: unit, result, seconds.

    Raises Interrupted on Ctrl-C, with what was written kept.
    """
    say = progress or (lambda what, done, total: None)
    left = [unit for unit in planned if unit.id not in writer.done]
    kept = len(planned) - len(left)
    say(f"{kept} units are kept", kept, len(planned))
    try:
        for i, found in enumerate(in_processes(work, left, n_workers=n_workers), kept + 1):
            keep(*found)
            say(found[0].label, i, len(planned))
    except KeyboardInterrupt:
        writer.interrupt()
        done = f"{len(writer.done)} of {len(planned)} units are kept in {writer.path}"
        raise Interrupted(f"stopped; {done}; the same command resumes.") from None
    say("done", len(planned), len(planned))
