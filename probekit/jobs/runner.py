"""`run_job`: the cells of a job measured into a run folder. Stops and resumes between cells."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from traceback import format_exception

import numpy as np

from probekit.activations.activations import Activations
from probekit.activations.capture import DEFAULT_STORE, capture, capture_without
from probekit.activations.passes import Step
from probekit.errors import BadInput, FitError, Interrupted, ProbekitError, StoreError
from probekit.jobs.job import Cell, Job
from probekit.jobs.manifest import manifest_of
from probekit.jobs.work import Work, tensor_name
from probekit.measurement.cell import measurements_of
from probekit.model.model import Model
from probekit.spec import JobSpec
from probekit.storage.cache import pin
from probekit.storage.runs import Run, open_run
from probekit.storage.runwriter import RunWriter
from probekit.task import Task, find_constant

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


def run_job(
    spec: JobSpec | Path | str,
    *,
    root: Path | str = "runs",
    store: Path | str = DEFAULT_STORE,
    base: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Run:
    """Measure a job into `root/<run>` and return the finished run. A stopped job resumes; a finished one is returned.

    spec: a JobSpec, or the path of a TOML file, to which other paths in it are relative (else to `base`). store: folder
    that activations are kept in. progress(what, done, total) is called as cells finish. Raises BadInput for anything
    wrong with the request, Interrupted on Ctrl-C with every finished cell kept.

    >>> import probekit as pk
    >>> asked = {"name": "bad", "task": {"testbed": "othello-6x6"}, "model": {"name": "./nowhere"}}
    >>> pk.run_job(pk.JobSpec.check(asked, "here"), root="elsewhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    probekit.errors.BadInput: no model folder ./nowhere...
    """
    if not isinstance(spec, JobSpec):
        base = Path(spec).parent if base is None else base
        spec = JobSpec.read_toml(Path(spec))
    job = Job.load(spec, base or Path(), device)
    cells = job.cells()
    _check_labels(job)
    writer = RunWriter.open(Path(root), job.run, spec.model_dump(mode="json"), len(cells))
    if writer.complete:
        return open_run(writer.path)
    try:
        _measure_cells(job, cells, writer, store, progress)
    except (KeyboardInterrupt, Interrupted):
        writer.interrupt()
        done = f"{len(writer.done)} of {len(cells)} cells are kept in {writer.path}"
        raise Interrupted(f"stopped; {done}; the same command resumes.") from None
    except ProbekitError as error:
        writer.fail(str(error))
        raise
    return open_run(writer.path)


def _measure_cells(
    job: Job, cells: list[Cell], writer: RunWriter, store: Path | str, progress: Progress | None
) -> None:
    inputs = job.inputs
    started = time.monotonic()
    say = progress or (lambda what, done, total: None)
    spec = job.spec

    backend = spec.model.backend if spec.model else "auto"

    def telling(what: str) -> Callable[[Step], None]:
        return lambda step: say(f"{what}, {step.tokens_per_second:,.0f} tokens/s", step.tokens, step.n_tokens)

    def captured(model: Model, task: Task, what: str) -> Activations:
        return capture(model, task, spec.read.hooks, store=store, progress=telling(what), backend=backend)

    activations = captured(job.model, job.task, "capture")
    wants_twin = "random_twin" in spec.read.controls and (spec.model is None or spec.model.twin)
    # The twin's activations are read for what the trained network does: nobody asks what the twin does.
    unasked = replace(job.task, behaviours=())
    twin = captured(job.model.random_twin(spec.seed_probe), unasked, "capture random twin") if wants_twin else None
    deleted = {}
    for span in job.deleted:
        told = {"filler": spec.read.filler, "store": store, "progress": telling(f"capture without {span}")}
        deleted[span] = capture_without(job.model, job.task, span, activations, **told)
    timings = {"capture": time.monotonic() - started}
    seeds = (spec.seed_probe, spec.seed_data, 0)
    transfer = spec.transfer if len(activations.observations.domains) > 1 else None
    texts = {span: found.observations for span, found in deleted.items()}
    asked = spec.read, transfer, job.hypotheses, seeds, spec.n_bootstrap
    measurements = measurements_of(activations.observations, texts, *asked)
    # Not before it is known that something can be measured: what a refused run captured may go.
    for found in filter(None, (activations, twin, *deleted.values())):
        pin_for_run(Path(store), found.observations.fingerprint, writer.path.name)
    work = Work(job, activations, twin, measurements, writer, deleted)
    for i, cell in enumerate(cells):
        say(cell.label, i, len(cells))
        key = cell.id(inputs)
        if key in writer.done:
            continue
        begun = time.monotonic()
        try:
            outcome = work.measure(cell)
        except (BadInput, StoreError, Interrupted):
            raise
        except (FitError, RuntimeError, ArithmeticError, ValueError, MemoryError) as error:
            # One cell that cannot be measured must not cost the others; its error is kept and the exit code says so.
            said = f"{cell.label}: {type(error).__name__}: {error}"
            kept = writer.write_log("".join([f"{said}\n", *format_exception(error)]))
            todo = f"all else is measured; the traceback is in {kept}; remove that folder and run again to retry it"
            log.warning("failed: %s; %s.", said.rstrip("."), todo)
            writer.write_cell(key, [], [], error=said, seconds=0.0)
            continue
        if outcome.tensors:
            writer.write_tensors(tensor_name(cell), outcome.tensors)
        seconds = time.monotonic() - begun
        timings[cell.label] = seconds
        writer.write_cell(key, outcome.records, outcome.losses, seconds=seconds)
    say("done", len(cells), len(cells))
    timings["all"] = time.monotonic() - started
    writer.write_table("worst_examples", work.worst_examples(cells))
    writer.write_table("sites", work.sites(cells))
    writer.finish(manifest_of(job, activations, measurements, timings, work.selected(cells)))


def _check_labels(job: Job) -> None:
    """Refuse, before anything is captured, a job whose behaviours are known already and leave nothing to explain."""
    task = job.task
    labels = {b.name: task.labels[b.column or b.name] for b in task.behaviours if b.kind == "label"}
    if len(labels) == len(task.behaviours):
        domain = np.asarray(task.domain)[task.row_example]
        domains = list(dict.fromkeys(task.domain.tolist()))
        find_constant(labels, domain, domains if job.spec.transfer else domains[:1])


def pin_for_run(store: Path, key: str, run: str) -> None:
    """Keep an entry for as long as the run refers to it, under the run's name: gc never deletes what is pinned."""
    try:
        pin(store, key, run)
    except StoreError as error:
        # A store that is shared read-only cannot be marked, and this user's gc cannot delete from it either.
        log.warning("%s is not pinned: %s", key, error)
