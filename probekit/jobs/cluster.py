"""Cluster: workers as actors of a Ray cluster, one that runs or one that is started here. The only importer of ray.

What is sent to them is paths, names and units; what they measure they write into the run folder themselves, so that all
machines of the cluster need the folder of runs, the store, the task's file and the model under the same paths.
"""

import os
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from probekit.errors import BadInput, FitError, MissingExtra, first_line
from probekit.jobs.engines import Answer, Begin, Lost, Ready
from probekit.jobs.workers import Desk

STORE_BYTES = 100_000_000  # of Ray's own store: nothing large is passed through it
PATIENCE = 300  # seconds without any worker after which the cluster is said to have no room for one


class RayWorkers:
    """Actors of a Ray cluster, each on `threads` CPUs and `n_gpus` GPUs.

    address: of a cluster that runs; None: one is started, with room for `size` of them.
    """

    elsewhere = True

    def __init__(self, size: int, threads: int, n_gpus: int, address: str | None) -> None:
        self._set = _set_for(address)
        try:
            import ray
        except ImportError:
            self._set.close()
            raise MissingExtra("the engine ray needs Ray: pip install 'abstraction-probekit[ray]'.") from None
        self._ray, self._size, self._threads, self._n_gpus = ray, size, threads, n_gpus
        self._ours, self._heard = False, time.monotonic()
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        self._at_work = set[int]()
        self._address = address
        if address is not None:
            self._connect()  # what is wrong with an address is told before anything is captured

    def hire(self, worker: int) -> None:
        """An actor, on whichever node has room; it waits where none has."""
        self._connect()
        how = {"num_cpus": self._threads, "num_gpus": self._n_gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._actors[worker] = self._ray.remote(Actor).options(**how).remote(worker, self._threads)
        self._asked[self._actors[worker].ready.remote()] = worker

    def prepare(self, worker: int, begin: Begin) -> None:
        """A call whose arguments are the job's spec and paths."""
        self._asked[self._actors[worker].prepare.remote(begin)] = worker

    def hand(self, worker: int, key: str, unit: Any) -> None:
        """A call whose answer is small: what is measured goes into the run folder there."""
        self._at_work.add(worker)
        self._asked[self._actors[worker].measure.remote(key, unit)] = worker

    def hear(self) -> Sequence[tuple[int, Answer]]:
        """Answers that are there within a second. Raises FitError where the cluster has no room for any worker."""
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=1.0)
        now = time.monotonic()
        if ready or self._at_work:  # a unit takes what it takes
            self._heard = now
        elif now - self._heard > PATIENCE:
            room = {name: n for name, n in self._ray.cluster_resources().items() if name in ("CPU", "GPU")}
            raise FitError(
                f"no worker could be started in {PATIENCE} s: each asks for {self._threads} CPUs and {self._n_gpus} "
                f"GPUs, and the cluster has {room}; add nodes, then the same command resumes."
            )
        return [self._answer(ref) for ref in ready]

    def leave(self, worker: int) -> None:
        """A call that nobody waits for."""
        self._actors[worker].leave.remote()

    def dismiss(self, worker: int) -> None:
        """Killed; also one that cannot be reached must not write what another one is given."""
        self._at_work.discard(worker)
        self._ray.kill(self._actors.pop(worker))
        self._asked = {ref: number for ref, number in self._asked.items() if number != worker}

    def close(self) -> None:
        """All actors, and the cluster if it is ours; another one is only left."""
        for worker in list(self._actors):
            self.dismiss(worker)
        if self._ours:
            self._ray.shutdown()
            self._ours = False
        self._set.close()

    def _answer(self, ref: Any) -> tuple[int, Answer]:
        worker = self._asked.pop(ref)
        self._at_work.discard(worker)
        try:
            return worker, self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self.dismiss(worker)
            return worker, Lost(f"by itself or with its node ({first_line(error)})")
        except self._ray.exceptions.RayError as error:
            return worker, RuntimeError(str(error))

    def _connect(self) -> None:
        """To the cluster of the address, the one that this process is connected to already, or one of our own."""
        if self._ray.is_initialized():
            return
        asked: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            asked |= {"num_cpus": self._size * self._threads, "include_dashboard": False,
                      "object_store_memory": STORE_BYTES}  # fmt: skip
        else:
            asked |= {"address": self._address}
        try:
            self._ray.init(**asked)
        except (ConnectionError, ValueError, RuntimeError, self._ray.exceptions.RayError) as error:
            where = f"at {self._address} cannot be used" if self._address else "could not be started here"
            raise BadInput(
                f"a Ray cluster {where} ({first_line(error)}): give the address of one that runs, and its token in "
                "RAY_AUTH_TOKEN if it asks for one."
            ) from None
        self._ours, self._heard = True, time.monotonic()
        if self._address is None and os.environ.get("RAY_AUTH_MODE") != "token":
            self.close()  # it would obey whoever can reach it
            raise BadInput("Ray was imported before and would ask for no token: set RAY_AUTH_MODE=token before that.")


class Actor:
    """A worker on some node: measures what it is handed until it is killed."""

    def __init__(self, number: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._desk = Desk(number)

    def ready(self) -> Ready:
        return Ready()

    def prepare(self, begin: Begin) -> Answer:
        return self._desk.prepare(begin)

    def measure(self, key: str, unit: Any) -> Answer:
        return self._desk.measure(key, unit)

    def leave(self) -> None:
        self._desk.leave()


_TOKEN = secrets.token_hex(32)  # one for the process, since Ray reads it once


def _set_for(address: str | None) -> ExitStack:
    """Variables that Ray reads when it is imported and that what it starts inherits; closing takes them away again."""
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address is None:
        wanted |= {"RAY_AUTH_TOKEN": _TOKEN}
        if "ray" not in sys.modules:  # else it has read it, and asks for a token by default
            wanted |= {"RAY_AUTH_MODE": "token"}
    before = {name: os.environ.get(name) for name in (*wanted, "RAY_AUTH_MODE")}
    os.environ.update({name: value for name, value in wanted.items() if name not in os.environ})
    out = ExitStack()
    for name, value in before.items():
        out.callback(os.environ.pop, name, None) if value is None else out.callback(os.environ.__setitem__, name, value)
    return out
