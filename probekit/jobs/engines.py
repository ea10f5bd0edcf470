"""Engines: where units of work run, in this process or in several on this machine, and the one loop over them all.

Every unit that the sink lacks is measured and kept. Several processes each have a sink of their own; this one watches.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from traceback import format_exception
from typing import Any, Protocol, runtime_checkable

import torch

from probekit.errors import BadInput, FitError, Interrupted, OutOfTime, ProbekitError, StoreError
from probekit.jobs.budget import SPENT
from probekit.records import Losses, Record
from probekit.storage.runwriter import RunWriter

log = logging.getLogger(__name__)
# What one unit may raise without costing the others.
_COSTS_ITSELF = (FitError, RuntimeError, ArithmeticError, ValueError, MemoryError)


@runtime_checkable
class Progress(Protocol):
    """Told what is being done, how much of how much is done and, where it is known, the seconds left of this phase."""

    def __call__(self, what: str, done: int, total: int, left: float | None = None) -> None: ...


@runtime_checkable
class Clock(Protocol):
    """Tells from the units that have ended how many seconds the others will take; None before it can."""

    def finished(self, unit: Any, seconds: float) -> None: ...

    def left(self) -> float | None: ...


@runtime_checkable
class Labelled(Protocol):
    """A unit of work; what a progress line says of it."""

    @property
    def label(self) -> str: ...


@runtime_checkable
class Sink(Protocol):
    """Where what was measured goes: names of the units it has, `keep` for one more, `fail` for one that raised."""

    @property
    def done(self) -> set[str]: ...

    def keep(self, key: str, unit: Any, found: Any, seconds: float) -> None: ...

    def fail(self, key: str, unit: Any, error: Exception) -> str: ...

    def note(self, told: "Ended") -> None:
        """Take note of a unit that another process kept."""
        ...


@dataclass(frozen=True)
class Station:
    """A place where units are measured one after another, and the sink that is filled there."""

    measure: Callable[[Any], Any]
    sink: Sink


@dataclass(frozen=True)
class Ended:
    """A unit that was measured. error: why it failed, else empty."""

    key: str
    error: str
    seconds: float


Units = Mapping[str, Labelled]  # by the name under which a sink knows them
Begin = Callable[[int], Station]  # makes the station of the worker of this number, in that worker's process


def work_off(
    phases: Sequence[Units], here: Station, *, n_workers: int = 1, begin: Begin | None = None,
    progress: Progress | None = None, pace: Clock | None = None,
) -> None:  # fmt: skip
    """Measure every unit that the sink lacks, one phase after another: units of a phase may run side by side.

    here: this process's station, which measures when it is alone, and else only takes note. begin: makes the others;
    it is found by its name and its arguments are pickled, since processes start afresh.
    """
    say = progress or (lambda what, done, total, left=None: None)
    kept, total = here.sink.done, sum(map(len, phases))
    lacking = [{key: unit for key, unit in phase.items() if key not in kept} for phase in phases]
    n_done = total - sum(map(len, lacking))
    with _Workers(begin, n_workers) if begin and n_workers > 1 and any(lacking) else nullcontext() as workers:
        for units in lacking:
            ended = partial(_tell, pace, units)
            for unit, n_ended in workers.each(units, here.sink, ended) if workers else _each(units, here, ended):
                say(unit.label, n_done + n_ended, total, pace.left() if pace else None)
            n_done += len(units)
    say("done", total, total)


def _tell(pace: Clock | None, units: Units, ended: "Ended") -> None:
    if pace:
        pace.finished(units[ended.key], ended.seconds)


def _each(units: Units, here: Station, told: "Callable[[Ended], None]") -> Iterator[tuple[Labelled, int]]:
    """Every unit before it is measured, and how many were."""
    for i, (key, unit) in enumerate(units.items()):
        yield unit, i
        told(_measured(here, key, unit))


def _measured(station: Station, key: str, unit: Any) -> Ended:
    """Measure one unit and keep it; one that cannot be measured must not cost the others."""
    begun = time.monotonic()
    try:
        found = station.measure(unit)
    except (BadInput, StoreError, Interrupted):
        raise
    except _COSTS_ITSELF as error:
        return Ended(key, station.sink.fail(key, unit, error), 0.0)
    seconds = time.monotonic() - begun
    station.sink.keep(key, unit, found, seconds)
    return Ended(key, "", seconds)


@dataclass(frozen=True)
class Folder:
    """Keeps what is measured in a run folder. write: puts what belongs beside a unit's line, gives what is in the line.

    lost: records of a unit that failed, which say so, so that a reader of the run sees what is not there. strict: a
    unit that raises ends the run, as where a table is made of all of them.
    """

    writer: RunWriter
    write: Callable[[RunWriter, str, Any, Any], tuple[Sequence[Record], Sequence[Losses]]]
    strict: bool = False
    lost: Callable[[Any], Sequence[Record]] = lambda unit: ()
    seconds: dict[str, float] = field(default_factory=dict)  # of the units that were measured since it was opened

    @property
    def done(self) -> set[str]:
        return self.writer.done

    def keep(self, key: str, unit: Any, found: Any, seconds: float) -> None:
        records, losses = self.write(self.writer, key, unit, found)
        self.writer.write_cell(key, records, losses, seconds=seconds)
        self.seconds[key] = seconds

    def fail(self, key: str, unit: Any, error: Exception) -> str:
        """Its error is kept in the folder and the exit code says so."""
        if self.strict:
            raise error
        said = f"{unit.label}: {type(error).__name__}: {error}"
        kept = self.writer.write_log("".join([f"{said}\n", *format_exception(error)]))
        todo = f"all else is measured; the traceback is in {kept}; remove that folder and run again to retry it"
        log.warning("failed: %s; %s.", said.rstrip("."), todo)
        self.writer.write_cell(key, self.lost(unit), [], error=said, seconds=0.0)
        return said

    def note(self, told: Ended) -> None:
        self.writer.count(told.key, told.error or None)
        if not told.error:
            self.seconds[told.key] = told.seconds


@contextmanager
def stopping(writer: RunWriter) -> Iterator[None]:
    """Ctrl-C in the block becomes Interrupted, with what was written kept; another end is noted in the folder."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        writer.interrupt()
        done = f"{len(writer.done)} of {writer.n_cells} cells are kept in {writer.path}"
        if isinstance(stop, OutOfTime):
            raise OutOfTime(f"stopped, since {SPENT}; {done}; the same command resumes.") from None
        raise Interrupted(f"stopped; {done}; the same command resumes.") from None
    except ProbekitError as error:
        writer.fail(str(error))
        raise


# Several processes ---------------------------------------------------------------------------------------------------


class _Workers:
    """Processes that are handed one unit after another. Leaving the block ends them, in the middle of a unit too."""

    def __init__(self, begin: Begin, n: int) -> None:
        context, threads = get_context("spawn"), threads_of(n)
        self._processes: dict[Connection, BaseProcess] = {}
        for number in range(1, n + 1):
            mine, its = context.Pipe()
            process = context.Process(target=_serve, args=(begin, number, threads, its), daemon=True)
            process.start()
            its.close()  # so that either end hears when the other one dies
            self._processes[mine] = process
        self._free = list(self._processes)

    def each(self, units: Units, sink: Sink, told: Callable[[Ended], None]) -> Iterator[tuple[Labelled, int]]:
        """Every unit as it is handed out, and how many have ended; ends when all of them have."""
        busy, n_ended = set[Connection](), 0
        for key, unit in units.items():
            if not self._free:
                n_ended += self._hear(busy, sink, told)
            worker = self._free.pop()
            worker.send((key, unit))
            busy.add(worker)
            yield unit, n_ended
        while busy:
            self._hear(busy, sink, told)

    def _hear(self, busy: set[Connection], sink: Sink, told: Callable[[Ended], None]) -> int:
        """Wait until a busy worker has ended its unit; how many have."""
        ready = [connection for connection in wait(busy) if isinstance(connection, Connection)]
        for connection in ready:
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                process = self._processes[connection]
                process.join(5)
                raise FitError(
                    f"a worker ended with exit code {process.exitcode} (-9: killed, mostly for want of memory): what "
                    "is measured is kept; run the same command again, with fewer workers."
                ) from None
            if isinstance(answer, BaseException):
                raise answer
            sink.note(answer)
            told(answer)
            busy.remove(connection)
            self._free.append(connection)
        return len(ready)

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        for process in self._processes.values():
            process.join()


def threads_of(n_workers: int) -> int:
    """Threads of each worker: together no more than there are cores, and no more than this process has."""
    return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // n_workers))


def _serve(begin: Begin, number: int, threads: int, connection: Connection) -> None:
    """A worker: measures what it is handed until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the one that watches ends us
    torch.set_num_threads(threads)
    station = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            key, unit = connection.recv()
            try:
                station = station or begin(number)
                answer: Ended | Exception = _measured(station, key, unit)
            except ProbekitError as error:
                answer = error
            except Exception as error:  # a fault of ours, which has to be seen over there
                answer = RuntimeError("".join(format_exception(error)))
            connection.send(answer)
