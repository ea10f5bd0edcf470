"""`run_job`: the cells of a job measured into a run folder. Stops and resumes between cells."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from probekit.activations.activations import Activations
from probekit.activations.capture import DEFAULT_STORE
from probekit.activations.keys import has_rows
from probekit.errors import FitError, StoreError
from probekit.hookpoint import HookPoint
from probekit.jobs.between import angles_between
from probekit.jobs.budget import TimeLimit, check_budget, check_room
from probekit.jobs.captures import Home, captured_by, captures_of, check_labels, check_memory, model_of
from probekit.jobs.cells import Cell
from probekit.jobs.engines import Crew, Folder, Progress, Station, stopping, work_off
from probekit.jobs.examples import Examples, rows_by_reader, scores_of, worst_of
from probekit.jobs.job import Job
from probekit.jobs.manifest import manifest_of
from probekit.jobs.progress import Pace, beating
from probekit.jobs.work import Work, tensor_name
from probekit.jobs.workers import crew_of, device_here
from probekit.measurement.cell import measurements_of
from probekit.measurement.outcome import Kept, Outcome, to_tensors
from probekit.model.model import Model
from probekit.records import SAMPLED, Losses, Record
from probekit.results.headline import HALF
from probekit.spec import JobSpec
from probekit.storage.cache import pin
from probekit.storage.listing import keep_line, line_of
from probekit.storage.runs import Run, open_run
from probekit.storage.runwriter import RunWriter

log = logging.getLogger(__name__)


def run_job(
    spec: JobSpec | Path | str,
    *,
    root: Path | str = "runs",
    store: Path | str = DEFAULT_STORE,
    base: Path | None = None,
    device: str = "cpu",
    model: Model | None = None,
    n_workers: int = 1,
    engine: str | Crew = "local",
    progress: Progress | None = None,
) -> Run:
    """Measure a job into `root/<run>` and return the finished run. A stopped job resumes; a finished one is returned.

    spec: a JobSpec, or the path of a TOML file, to which other paths in it are relative (else to `base`). store: folder
    that activations are kept in. model: the one that the spec names, where it is loaded already. progress(what, done,
    total) is called as cells finish. n_workers: processes that measure cells side by side, each with its own copy of
    the model, `cores // n_workers` threads and one site's activations in memory; they read what this process has
    captured, or an actor of a Ray cluster. A number may differ in its last bits between numbers of threads, never
    between engines or numbers of workers with the same (OMP_NUM_THREADS=1). engine: `serial`, `local` or `ray`, or a
    crew from `pk.crew_of`, whose workers are there already. Raises BadInput for anything wrong with the request,
    FitError where an actor could not capture what it reads, Interrupted on Ctrl-C and when the minutes of its budget
    are spent, with every finished cell kept.

    >>> import probekit as pk
    >>> asked = {"name": "bad", "task": {"testbed": "othello-6x6"}, "model": {"name": "./nowhere"}}
    >>> pk.run_job(pk.JobSpec.check(asked, "here"), root="elsewhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    probekit.errors.BadInput: no model folder ./nowhere...
    """
    if not isinstance(spec, JobSpec):
        base = Path(spec).parent if base is None else base
        spec = JobSpec.read_toml(Path(spec))
    base, limit = base or Path(), TimeLimit(spec.budget.minutes)
    progress = limit.watching(progress)
    staff = nullcontext(engine) if isinstance(engine, Crew) else crew_of(engine, n_workers, device=device)
    job = Job.load(spec, base, device_here(engine, device), model)
    cells = {cell.id(job.inputs): cell for cell in job.cells()}
    check_labels(job)
    for said in job.task.audit.get("told", ()):
        log.warning("%s: %s", job.task.name, said)
    if spec.budget.minutes is not None and not (Path(root) / job.run).exists():
        check_budget(spec, base, captured=has_rows(job.model, job.task, store))
    check_room(spec, job.model, job.task, len(job.deleted))
    writer = RunWriter.open(Path(root), job.run, spec.model_dump(mode="json"), len(cells))
    if writer.complete:
        return open_run(writer.path)
    with stopping(writer), staff as crew, beating(writer, progress) as say:
        begun, home = time.monotonic(), Home(base, Path(store), device)
        check_memory(job, crew.size if crew else 1)
        if crew and crew.workers.elsewhere and (lost := captured_by(crew, [spec], home, say, limit.left)):
            raise FitError(next(iter(lost.values())))
        work = _work(job, writer, store, say)
        _warn_of_answers(work.activations)
        timings = {"capture": time.monotonic() - begun}
        sink = Folder(writer, _write, lost=partial(_lost, work))
        # on another machine, or in another folder, a path means the same only if it is whole
        begin = partial(_begin, spec, base.resolve(), device, Path(store).resolve(), writer.path.resolve(), len(cells))
        pace = Pace([cell for key, cell in cells.items() if key not in sink.done], crew.size if crew else 1)
        here = Station(work.measure, sink)
        work_off(_phases(cells), here, crew=crew, begin=begin, progress=say, pace=pace)
        timings |= {cells[key].label: seconds for key, seconds in sink.seconds.items()}
        timings["all"] = time.monotonic() - begun
        _finish(work, cells, timings)
    run = open_run(writer.path)
    keep_line(run, line_of(run))
    return run


def _work(job: Job, writer: RunWriter, store: Path | str, progress: Progress | None) -> Work:
    """Everything that cells need, captured where the store lacks it."""
    spec = job.spec
    activations, twin, deleted = captures_of(job, store, progress)
    transfer = spec.transfer if len(activations.observations.domains) > 1 else None
    texts = {span: found.observations for span, found in deleted.items()}
    asked = spec.read, transfer, job.hypotheses, spec.seeds, spec.n_bootstrap
    measurements = measurements_of(activations.observations, texts, *asked, keeps_examples=True, given=job.given)
    # Not before it is known that something can be measured: what a refused run captured may go.
    for found in filter(None, (activations, twin, *deleted.values())):
        pin_for_run(Path(store), found.observations.fingerprint, writer.path.name)
    return Work(job, activations, twin, measurements, writer, deleted)


def _warn_of_answers(activations: Activations) -> None:
    """Before anything is read from the network: whether the answers asked for are what the model would say."""
    for behaviour in activations.observations.behaviours.values():
        # What was sampled is no question that somebody has put.
        if not behaviour.name.startswith(SAMPLED) and behaviour.likeliest and behaviour.covered < HALF:
            log.warning(
                "behaviour '%s': its answers hold %.1f%% of the probability; most rows would go on with %r.",
                behaviour.name, 100 * behaviour.covered, behaviour.likeliest,
            )  # fmt: skip


def _begin(spec: JobSpec, base: Path, device: str, store: Path, path: Path, n_cells: int, number: int) -> Station:
    """What a worker measures with: the job loaded again, what the first process captured read from the store."""
    asked = spec.model_dump(mode="json")
    writer = RunWriter.open(path.parent, path.name, asked, n_cells, worker=str(number))
    work = _work(Job.load(spec, base, device, model_of(spec, base, device)), writer, store, None)
    return Station(work.measure, Folder(writer, _write, lost=partial(_lost, work)))


def _phases(cells: Mapping[str, Cell]) -> list[dict[str, Cell]]:
    """What is kept of features and readers is what the others read; what was learned is steered along."""
    order = {"feature": 0, "read": 0, "steer": 2}
    return [{key: cell for key, cell in cells.items() if order.get(cell.kind, 1) == at} for at in range(3)]


def _write(writer: RunWriter, key: str, cell: Cell, outcome: Outcome) -> tuple[list[Record], list[Losses]]:
    if tensors := to_tensors(outcome.kept):
        writer.write_tensors(tensor_name(cell), tensors)
    if isinstance(outcome.kept, Kept) and outcome.kept.rows is not None:
        writer.write_rows(tensor_name(cell), rows_by_reader(cell, outcome.kept.rows))
    return outcome.records, outcome.losses


def _lost(work: Work, cell: Cell) -> list[Record]:
    """What is kept of a site that could not be read: in each domain a record that says so."""
    if cell.kind != "read":
        return []
    study, levels = work.measurements[cell.place], work.job.spec.read.levels
    seen, hook = study.observations, cell.hooks[0]
    at = {
        "model": seen.model, "revision": seen.revision, "task": seen.task, "position": seen.place, "hook": hook,
        "layer": HookPoint.parse(hook).layer, "seed_probe": study.seeds.probe, "seed_data": study.seeds.data,
        "seed_model": study.seeds.model, "level": "linear" if "linear" in levels else levels[-1],
    }  # fmt: skip
    return [
        Record(behaviour=cell.what, metric="read", fit_domain=name, test_domain=name, na_reason="failed", **at)
        for name in seen.domains
    ]


def _finish(work: Work, planned: Mapping[str, Cell], timings: dict[str, float]) -> None:
    cells = list(planned.values())
    scores = scores_of(cells, work.kept, work.measurements)
    work.writer.write_table("scores", scores)
    examples = Examples(work.measurements, {cell: work.shown(cell) for cell in cells if cell.kind == "read"}, work.job)
    worst = worst_of(scores, work.job.task, work.measurements)
    told = [examples.text(int(one), int(at)) for one, at in zip(worst["example"], worst["position"], strict=True)]
    work.writer.write_table("worst_examples", worst.assign(text=told))
    for name, table in examples.tables():
        work.writer.write_table(name, table)
    work.writer.write_table("sites", work.sites(cells))
    if len(angles := angles_between(cells, work.kept)):
        work.writer.write_table("angles", angles)
    made = manifest_of(work.job, work.activations, work.measurements, timings, work.selected(cells))
    work.writer.finish(made, [key for phase in _phases(planned) for key in phase])


def pin_for_run(store: Path, key: str, run: str) -> None:
    """Keep an entry for as long as the run refers to it, under the run's name: gc never deletes what is pinned."""
    try:
        pin(store, key, run)
    except StoreError as error:
        # A store that is shared read-only cannot be marked, and this user's gc cannot delete from it either.
        log.warning("%s is not pinned: %s", key, error)
