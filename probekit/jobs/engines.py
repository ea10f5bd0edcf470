"""Engines: one loop over units of work, which are measured in this process or by a crew of workers beside it.

Every unit that the sink lacks is measured and kept. Workers each have a sink of their own; this process watches.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from traceback import format_exception
from typing import Any, Protocol, runtime_checkable

from probekit.errors import BadInput, FitError, Interrupted, OutOfTime, ProbekitError, StoreError
from probekit.jobs.budget import SPENT
from probekit.jobs.stopping import Stop, heeding
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


@dataclass(frozen=True)
class Ready:
    """A worker has started, or has made its station, and waits."""


@dataclass(frozen=True)
class Lost:
    """A worker has died. why: what is known of its end."""

    why: str


Units = Mapping[str, Labelled]  # by the name under which a sink knows them
Begin = Callable[[int], Station]  # makes the station of the worker of this number, in that worker's process
Answer = Ready | Ended | Lost | Exception


@runtime_checkable
class Workers(Protocol):
    """Workers beside this process, whatever machine they are on, known by their numbers.

    elsewhere: whether they may be on other machines, so that a model is better run there than in this process.
    """

    elsewhere: bool

    def hire(self, worker: int) -> None:
        """Start a worker of a number that no other one had, which will tell that it is `Ready`."""
        ...

    def prepare(self, worker: int, begin: Begin) -> None:
        """Have a worker make a station, in place of the one it has; it tells when it is `Ready`."""
        ...

    def hand(self, worker: int, key: str, unit: Any) -> None:
        """Have a worker measure a unit at its station."""
        ...

    def hear(self) -> Sequence[tuple[int, Answer]]:
        """Wait for what workers have to tell, or for a moment."""
        ...

    def leave(self, worker: int) -> None:
        """Have a worker let go of its station."""
        ...

    def dismiss(self, worker: int) -> None:
        """End a worker, in the middle of a unit too."""
        ...

    def close(self) -> None:
        """End all of them, and what was started for them."""
        ...


def work_off(
    phases: Sequence[Units], here: Station, *, crew: "Crew | None" = None, begin: Begin | None = None,
    progress: Progress | None = None, pace: Clock | None = None, patient: bool = True,
) -> None:  # fmt: skip
    """Measure every unit that the sink lacks, one phase after another: units of a phase may run side by side.

    here: this process's station, which measures when it is alone, and else only takes note. crew: who else measures.
    begin: makes their stations; it is found by its name and its arguments are sent, since processes start afresh.
    Raises KeyboardInterrupt after a Ctrl-C, when what was being measured is kept. patient: whether a crew's units are
    waited for then, as those are that leave nothing when they are ended.
    """
    say = progress or (lambda what, done, total, left=None: None)
    kept, total = here.sink.done, sum(map(len, phases))
    lacking = [{key: unit for key, unit in phase.items() if key not in kept} for phase in phases]
    n_done = total - sum(map(len, lacking))
    shared = crew.at(begin, here.sink) if crew and begin and any(lacking) else nullcontext()
    with heeding() as stop, shared as shares:
        for units in lacking:
            ended = partial(_tell, pace, units)
            turns = shares.each(units, ended, stop, patient) if shares else _each(units, here, ended, stop)
            for unit, n_ended in turns:
                say(unit.label, n_done + n_ended, total, pace.left() if pace else None)
            n_done += len(units)
    say("done", total, total)


def _tell(pace: Clock | None, units: Units, ended: "Ended") -> None:
    if pace:
        pace.finished(units[ended.key], ended.seconds)


def _each(units: Units, here: Station, told: "Callable[[Ended], None]", stop: Stop) -> Iterator[tuple[Labelled, int]]:
    """Every unit before it is measured, and how many were."""
    for i, (key, unit) in enumerate(units.items()):
        stop.check()
        yield unit, i
        told(measured(here, key, unit))
    stop.check()


def measured(station: Station, key: str, unit: Any) -> Ended:
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


# Several workers -----------------------------------------------------------------------------------------------------

ATTEMPTS = 3  # workers that one unit may cost, or that may die in a row before they have measured anything


class Crew:
    """Up to `size` workers, for as long as a `with` block lasts. They are started when there is something to measure.

    They outlive a job, so that a worker which has loaded a model has it for the next job of the same.
    """

    def __init__(self, size: int, workers: Workers) -> None:
        self.size, self.workers = size, workers
        self.hired, self.free = set[int](), set[int]()  # free: those that are ready and have no station
        self.late = set[int]()  # those whose station of an earlier job is not ready yet
        self.captured = set[Hashable]()  # what it has brought into a store
        self._n_hired = 0

    def hire(self) -> None:
        """One more."""
        self._n_hired += 1
        self.hired.add(self._n_hired)
        self.workers.hire(self._n_hired)

    def lose(self, worker: int) -> None:
        """Strike one off that has died."""
        for known in (self.hired, self.free, self.late):
            known.discard(worker)

    @contextmanager
    def at(self, begin: Begin, sink: Sink) -> "Iterator[_Shares]":
        """Work on one job; afterwards nobody holds on to its sink any more."""
        shares = _Shares(self, begin, sink)
        try:
            yield shares
        finally:
            for worker in shares.busy:  # only where the block was left by an error
                self.workers.dismiss(worker)
                self.lose(worker)
            for worker in (*shares.ready, *shares.preparing):
                self.workers.leave(worker)
            self.free.update(shares.ready)
            self.late.update(shares.preparing)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.close()
        for known in (self.hired, self.free, self.late):
            known.clear()


class _Shares:
    """Units shared out among a crew. A worker that dies is replaced, and its unit is measured by another one."""

    def __init__(self, crew: Crew, begin: Begin, sink: Sink) -> None:
        self._crew, self._begin, self._sink = crew, begin, sink
        self.preparing, self.ready, self.busy = set[int](), list[int](), dict[int, str]()
        self._deaths, self._in_row = Counter[str](), 0

    def each(
        self, units: Units, told: Callable[[Ended], None], stop: Stop, patient: bool
    ) -> Iterator[tuple[Labelled, int]]:
        """Every unit as it is handed out, and how many have ended; ends when all of them have."""
        waiting, n_ended = deque(units), 0
        while waiting or self.busy:
            while waiting and self.ready:
                worker, key = self.ready.pop(), waiting.popleft()
                self.busy[worker] = key
                self._crew.workers.hand(worker, key, units[key])
                yield units[key], n_ended
            self._call_up(len(waiting))
            for worker, answer in self._crew.workers.hear():
                for ended in self._take(worker, answer, units, waiting):
                    told(ended)
                    n_ended += 1
            if stop.asked:
                if not patient:
                    stop.check()
                waiting.clear()  # what is being measured is kept before this ends
        stop.check()

    def _call_up(self, n: int) -> None:
        """Have no more workers prepared than there are units for."""
        crew = self._crew
        while len(crew.hired) < min(crew.size, n + len(self.busy)):
            crew.hire()
        while crew.free and len(self.preparing) < n:
            worker = crew.free.pop()
            self.preparing.add(worker)
            crew.workers.prepare(worker, self._begin)

    def _take(self, worker: int, answer: Answer, units: Units, waiting: deque[str]) -> Iterator[Ended]:
        """What an answer means; units that have ended by it."""
        if isinstance(answer, Lost):
            yield from self._bury(worker, answer, units, waiting)
        elif worker in self._crew.late or (isinstance(answer, Ready) and worker not in self.preparing):
            self._crew.late.discard(worker)
            self._crew.free.add(worker)
        elif isinstance(answer, Ready):
            self.preparing.remove(worker)
            self.ready.append(worker)
            self._in_row = 0
        elif isinstance(answer, Ended):
            del self.busy[worker]
            self.ready.append(worker)
            self._sink.note(answer)
            yield answer
        else:
            raise answer

    def _bury(self, worker: int, lost: Lost, units: Units, waiting: deque[str]) -> Iterator[Ended]:
        """Give a dead worker's unit to another one, or give it up."""
        self._crew.lose(worker)
        self.preparing.discard(worker)
        key = self.busy.pop(worker, None)
        log.warning("worker %d died %s; another one takes its place.", worker, lost.why)
        if key is None:
            self._in_row += 1
            if self._in_row == ATTEMPTS:
                raise FitError(
                    f"{ATTEMPTS} workers died one after another before they measured anything, the last one {lost.why}"
                    ": what is measured is kept; run the same command again, with fewer workers."
                )
            if worker in self.ready:
                self.ready.remove(worker)
            return
        self._deaths[key] += 1
        if self._deaths[key] < ATTEMPTS:
            waiting.appendleft(key)
            return
        error = FitError(f"{ATTEMPTS} workers died of it, the last one {lost.why}")
        yield Ended(key, self._sink.fail(key, units[key], error), 0.0)
