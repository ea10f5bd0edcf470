"""Workers: processes of this machine that measure side by side, and which workers an engine has."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from traceback import format_exception
from typing import Any, Literal, get_args

import torch

from probekit.errors import BadInput, ProbekitError
from probekit.jobs.engines import Answer, Begin, Crew, Lost, Ready, measured

Engine = Literal["serial", "local", "ray"]


def crew_of(
    engine: str = "local", n_workers: int = 1, *, address: str | None = None, device: str = "cpu"
) -> AbstractContextManager[Crew | None]:
    """Workers for `run_job` and `run_sweep`, in a `with` block, for as long as it lasts; None: this process alone.

    engine: `serial`, this process; `local`, processes of this machine where there are several; `ray`, actors of a Ray
    cluster, even if it is one, each on `threads` of its cores and, for a cuda device, a GPU of its own. address: of a
    cluster that runs (`auto` finds the one of this machine); without one a cluster is started here, with a token that
    nobody else has. Raises BadInput for an engine that there is not or a number that it cannot have, MissingExtra where
    Ray is not installed.

    >>> import probekit as pk
    >>> with pk.crew_of("local", 2) as crew:
    ...     crew.size
    2
    >>> pk.crew_of("serial", 2)
    Traceback (most recent call last):
    probekit.errors.BadInput: the engine serial is one process; found 2 workers: leave them out, or say local or ray.
    """
    if engine not in get_args(Engine):
        raise BadInput(f"no engine '{engine}': say {', '.join(get_args(Engine))}.")
    if n_workers < 1:
        raise BadInput(f"a job needs at least one worker; found {n_workers}.")
    if address is not None and engine != "ray":
        raise BadInput(f"an address of a Ray cluster came with the engine {engine}: say ray.")
    if engine == "serial" and n_workers > 1:
        raise BadInput(
            f"the engine serial is one process; found {n_workers} workers: leave them out, or say local or ray."
        )
    if engine == "ray":
        if device == "auto":
            raise BadInput("the device auto is all GPUs of one machine, and an actor has one of its own: say cuda.")
        from probekit.jobs.cluster import RayWorkers

        n_gpus = 1 if device.startswith("cuda") else 0
        return Crew(n_workers, RayWorkers(n_workers, threads_of(n_workers), n_gpus, address))
    return Crew(n_workers, LocalWorkers(threads_of(n_workers))) if n_workers > 1 else nullcontext()


def device_here(engine: str | Crew, device: str) -> str:
    """Where the process that watches holds a model: on no GPU where it runs nothing, since it may be a machine without.

    >>> from probekit.jobs.workers import device_here
    >>> device_here("ray", "cuda"), device_here("local", "cuda")
    ('cpu', 'cuda')
    """
    elsewhere = engine.workers.elsewhere if isinstance(engine, Crew) else engine == "ray"
    return "cpu" if elsewhere else device


def threads_of(n_workers: int) -> int:
    """Threads of each worker: together no more than there are cores, and no more than this process has."""
    return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // n_workers))


class Desk:
    """What a worker measures at, whatever engine it is of: the station of the job that it is at work on."""

    def __init__(self, number: int) -> None:
        self._number, self._station = number, None

    def prepare(self, begin: Begin) -> Answer:
        """Make a station in place of the one that is there."""
        self._station = None
        try:
            self._station = begin(self._number)
            return Ready()
        except ProbekitError as error:
            return error
        except Exception as error:  # a fault of ours, which has to be seen over there
            return RuntimeError("".join(format_exception(error)))

    def measure(self, key: str, unit: Any) -> Answer:
        """Measure and keep a unit at the station."""
        assert self._station is not None
        try:
            return measured(self._station, key, unit)
        except ProbekitError as error:
            return error
        except Exception as error:
            return RuntimeError("".join(format_exception(error)))

    def leave(self) -> None:
        """Let go of the station, and so of the run folder."""
        self._station = None


class LocalWorkers:
    """Processes of this machine, spawned, each on so many threads."""

    elsewhere = False

    def __init__(self, threads: int) -> None:
        self._threads, self._context = threads, get_context("spawn")
        self._workers: dict[int, tuple[Connection, BaseProcess]] = {}

    def hire(self, worker: int) -> None:
        """Start a process."""
        mine, its = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(worker, self._threads, its), daemon=True)
        process.start()
        its.close()  # so that either end hears when the other one dies
        self._workers[worker] = mine, process

    def prepare(self, worker: int, begin: Begin) -> None:
        """Through its pipe."""
        self._send(worker, ("prepare", begin))

    def hand(self, worker: int, key: str, unit: Any) -> None:
        """Likewise."""
        self._send(worker, ("measure", key, unit))

    def leave(self, worker: int) -> None:
        """Likewise; it answers nothing."""
        self._send(worker, ("leave",))

    def hear(self) -> Sequence[tuple[int, Answer]]:
        """What the pipes have, within a second."""
        by_connection = {connection: number for number, (connection, _) in self._workers.items()}
        out: list[tuple[int, Answer]] = []
        for connection in wait(by_connection, timeout=1.0):
            assert isinstance(connection, Connection)
            number = by_connection[connection]
            try:
                out.append((number, connection.recv()))
            except (EOFError, OSError):
                code = self._end(number)
                out.append((number, Lost(f"with exit code {code} (-9: killed, mostly for want of memory)")))
        return out

    def dismiss(self, worker: int) -> None:
        """Terminated."""
        self._workers[worker][1].terminate()
        self._end(worker)

    def close(self) -> None:
        """All at once, since each takes a moment."""
        for connection, process in self._workers.values():
            connection.close()
            process.terminate()
        for _, process in self._workers.values():
            process.join()
        self._workers.clear()

    def _send(self, worker: int, message: tuple) -> None:
        with suppress(BrokenPipeError):  # a worker that has died is heard of next
            self._workers[worker][0].send(message)

    def _end(self, worker: int) -> int | None:
        connection, process = self._workers.pop(worker)
        connection.close()
        process.join(5)
        return process.exitcode


def _serve(number: int, threads: int, connection: Connection) -> None:
    """A worker: measures what it is handed until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the one that watches ends us
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(threads)
    desk = Desk(number)
    with suppress(EOFError, BrokenPipeError):
        connection.send(Ready())
        while True:
            what, *given = connection.recv()
            answer = getattr(desk, what)(*given)
            if answer is not None:
                connection.send(answer)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, in the middle of a unit too: nobody waits for it any more.

    A driver that was killed leaves its run folder to the next one, which must not find it held by an orphan.
    """
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
