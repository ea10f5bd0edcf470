"""Captures: what jobs read of their models, run by this process or by a crew before the first cell is measured."""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probekit.activations.activations import Activations
from probekit.activations.capture import capture, capture_without
from probekit.activations.passes import Step
from probekit.errors import BadInput, FitError, StoreError, first_line
from probekit.jobs.budget import TimeLimit, capture_key, check_room
from probekit.jobs.engines import Crew, Ended, Progress, Station, work_off
from probekit.jobs.job import Job, load_model_of
from probekit.jobs.progress import told_bytes
from probekit.jobs.sweep import model_key
from probekit.model.model import Model
from probekit.records import digest
from probekit.spec import JobSpec
from probekit.storage.files import free_bytes, free_memory
from probekit.task import Task, find_constant

if TYPE_CHECKING:
    from probekit.storage.store import Store

log = logging.getLogger(__name__)
ROOM = 3.3  # times a site's rows in float32: what reading it takes at its peak, measured at two sizes (docs/scale.md)

Captures = tuple[Activations, Activations | None, dict[str, Activations]]  # of the model, its twin, without each span


def captures_of(job: Job, store: "Store | Path | str", progress: Progress | None = None) -> Captures:
    """All that a job reads, of which only what the store lacks is run."""
    spec, say = job.spec, progress or (lambda what, done, total, left=None: None)

    def telling(what: str) -> Callable[[Step], None]:
        return lambda step: say(f"{what}, {step.tokens_per_second:,.0f} tokens/s", step.tokens, step.n_tokens)

    def captured(model: Model, task: Task, what: str) -> Activations:
        return capture(model, task, spec.read.hooks, store=store, progress=telling(what), backend=spec.backend)

    activations = captured(job.model, job.task, "capture")
    # The twin's activations are read for what the trained network does: nobody asks what the twin does.
    unasked = replace(job.task, behaviours=())
    twin = captured(job.model.random_twin(spec.seed_probe), unasked, "capture random twin") if spec.wants_twin else None
    deleted = {}
    for span in job.deleted:
        told = {"filler": spec.read.filler, "store": store, "progress": telling(f"capture without {span}")}
        deleted[span] = capture_without(job.model, job.task, span, activations, **told)
    return activations, twin, deleted


_LAST: dict[str, Model] = {}  # of a worker: jobs that follow each other often run one model


def model_of(spec: JobSpec, base: Path, device: str) -> Model:
    """A worker's model, kept until it is asked for another one."""
    key = digest([model_key(spec), str(base), device])
    if key not in _LAST:
        _LAST.clear()  # let go of one before the next is loaded
        _LAST[key] = load_model_of(spec, base, device)
    return _LAST[key]


def check_labels(job: Job) -> None:
    """Refuse, before anything is captured, a job whose behaviours are known already and leave nothing to explain."""
    task = job.task
    labels = {b.name: task.labels[b.column or b.name] for b in task.behaviours if b.kind == "label"}
    if len(labels) == len(task.behaviours):
        domain = np.asarray(task.domain)[task.row_example]
        domains = list(dict.fromkeys(task.domain.tolist()))
        find_constant(labels, domain, domains if job.spec.transfer else domains[:1])


def check_memory(job: Job, n_workers: int) -> None:
    """Refuse, before anything is captured, a job whose sites neither memory nor scratch files have room for."""
    n, memory, folder = sum(map(len, job.task.positions)), free_memory(), Path(tempfile.gettempdir())
    free = None if memory is None else memory + free_bytes(folder)
    width = max((job.model.widths[hook] for cell in job.cells() for hook in cell.hooks), default=0)
    needed = ROOM * n * width * 4 * n_workers
    if free is not None and needed > free:
        by = f" by {n_workers} workers, each of which holds one," if n_workers > 1 else ""
        raise BadInput(
            f"reading sites of {n:,} rows x {width:,}{by} takes {told_bytes(needed)}, and memory and {folder} have "
            f"{told_bytes(free)}: let TMPDIR name a folder on a larger disk, or take fewer rows or workers."
        )


# By a crew ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """What jobs are relative to, wherever a worker is: their files' folder, the store and the device."""

    base: Path
    store: Path
    device: str

    def whole(self) -> "Home":
        """With paths that mean the same on another machine."""
        return Home(self.base.resolve(), self.store.resolve(), self.device)


@dataclass(frozen=True)
class Pass:
    """A unit of work: what one job reads, and with it all jobs of the same capture key."""

    spec: JobSpec

    @property
    def label(self) -> str:
        return f"capture {self.spec.name}"


@dataclass(frozen=True)
class Passed:
    """Sink of passes: what was captured is in the store; errors: those that could not be, by key."""

    errors: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> set[str]:
        return set()

    def keep(self, key: str, unit: Pass, found: None, seconds: float) -> None:
        """Nothing: the store has it."""

    def fail(self, key: str, unit: Pass, error: Exception) -> str:
        """It costs the jobs that read it, and no others."""
        self.errors[key] = str(error) if isinstance(error, FitError) else f"{type(error).__name__}: {first_line(error)}"
        return self.errors[key]

    def note(self, told: Ended) -> None:
        """The same of one that failed in a worker."""
        if told.error:
            self.errors[told.key] = told.error


def captured_by(
    crew: Crew, jobs: Sequence[JobSpec], home: Home, progress: Progress | None = None, minutes: float | None = None
) -> dict[str, str]:
    """Have a crew capture what jobs read, several models and files side by side: capture key -> why it could not be.

    What it has captured once is not asked of it again. Passes over one file by one model follow each other, since they
    may read the same rows, which are then run once. minutes: after which a pass stops; what is whole stays in the
    store. Workers of this machine are only called up for more than one pass, since they share its cores. Raises
    Interrupted when the minutes are spent and KeyboardInterrupt on Ctrl-C, without waiting for passes at work.
    """
    home = home.whole()
    units: dict[str, Pass] = {}
    for job in jobs:
        if ((key := capture_key(job)), home) not in crew.captured:
            units.setdefault(key, Pass(job))
    turns, phases = Counter[str](), list[dict[str, Pass]]()
    for key, unit in units.items():
        task = unit.spec.task
        same = digest([model_key(unit.spec), task.testbed, task.file, task.text])
        if turns[same] == len(phases):
            phases.append({})
        phases[turns[same]][key] = unit
        turns[same] += 1
    if not phases or not (crew.workers.elsewhere or len(phases[0]) > 1):
        return {}
    sink, begin = Passed(), partial(_begin_passes, home, minutes)
    work_off(phases, Station(lambda unit: None, sink), crew=crew, begin=begin, progress=progress, patient=False)
    crew.captured.update((key, home) for key in units if key not in sink.errors)
    for key, error in sink.errors.items():
        log.warning("%s failed: %s", units[key].label, error)
    return sink.errors


def _begin_passes(home: Home, minutes: float | None, number: int) -> Station:
    return Station(partial(_pass, home, TimeLimit(minutes).watching(None)), Passed())


# What one job asks beside its captures, and others of the same captures do not, is no reason for these to be without.
_BESIDE = {"replace": None, "compose": None, "steer": None, "hypotheses": (), "directions": ()}


def _pass(home: Home, progress: Progress | None, unit: Pass) -> None:
    spec = unit.spec.model_copy(update=_BESIDE)
    try:
        job = Job.load(spec, home.base, home.device, model_of(spec, home.base, home.device))
        check_labels(job)
        check_room(spec, job.model, job.task, len(job.deleted))
        captures_of(job, home.store, progress)
    except (BadInput, StoreError) as error:  # of this unit, and no reason to end the others
        raise FitError(str(error)) from error


def lost_of(job: JobSpec, lost: Mapping[str, str]) -> str | None:
    """Why what a job reads could not be captured, if it could not."""
    return lost.get(capture_key(job))
