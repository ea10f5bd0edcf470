"""Sweep: one file for models, tasks, seeds and a grid of keys, as jobs that are planned, split, stopped and resumed."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from probekit.errors import (
    BadInput,
    Interrupted,
    OutOfTime,
    OverBudget,
    ProbekitError,
    RunError,
    RunHeld,
    RunOver,
    nearest,
)
from probekit.jobs.budget import SPENT, TimeLimit, check_together
from probekit.records import digest
from probekit.spec import AcrossSpec, BudgetSpec, JobSpec, ModelSpec, read_table, validate
from probekit.storage.files import put, to_json
from probekit.storage.runs import SWEEP, Run, list_runs

if TYPE_CHECKING:
    from probekit.jobs.engines import Crew, Progress
    from probekit.model.model import Model

KEYS = ("models", "tasks", "seeds", "grid", "combine", "across")
LISTS = {"revisions": "revision", "adapters": "adapter"}  # of a model of a sweep: a list in place of one
State = Literal["done", "failed cells", "failed", "elsewhere"]


@dataclass(frozen=True)
class Sweep:
    """Jobs that one file asks for, those of one model side by side. id: digest of all that it says.

    `models` and `tasks` are lists of what `[model]` and `[task]` are, `seeds` a list of `seed_data`, `[grid]` maps keys
    such as `"read.ks"` to lists of values. A model may have `revisions` and `adapters`, lists, and is then one model
    for each. combine: `all`, every combination, or `zip`, the values of the grid one by one. All other keys are those
    of a job, and every job has them. budget: of all jobs together. across: what is compared between the models, if so.

    >>> import probekit as pk
    >>> asked = {"name": "sizes", "models": [{"name": "a"}, {"name": "b"}], "task": {"file": "x.csv", "text": "t"}}
    >>> sweep = pk.Sweep.check(asked | {"seeds": [0, 1]}, "here")
    >>> [job.name for job in sweep.jobs]
    ['sizes-a-s0', 'sizes-a-s1', 'sizes-b-s0', 'sizes-b-s1']
    """

    name: str
    jobs: tuple[JobSpec, ...]
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    across: AcrossSpec | None = None

    @classmethod
    def read_toml(cls, path: Path) -> "Sweep":
        """Read and check a file; one without any of the keys of a sweep is one job. Raises BadInput."""
        return cls.check(read_table(path), str(path))

    @classmethod
    def check(cls, raw: Mapping[str, Any], where: str) -> "Sweep":
        """Validate a plain dictionary read from `where`."""
        _check_keys(raw, where)
        if not is_sweep(raw):
            job = JobSpec.check(dict(raw), where)
            return cls(job.name, (job,), job.budget)
        for one, several in (("model", "models"), ("task", "tasks")):
            if one in raw and several in raw:
                raise BadInput(f"{where} has [{one}] and [[{several}]]: give one of them.")
        named = _jobs_of(raw, where)
        jobs = [JobSpec.check(job, where) for job in named]
        names = Counter(job.name for job in jobs)
        if twice := next((name for name, n in names.items() if n > 1), None):
            raise BadInput(
                f"{where}: two jobs would be named {twice}: give tasks that share a file a name of their own."
            )
        across = None if raw.get("across") is None else validate(AcrossSpec, raw["across"], f"{where}: across")
        if across and len({model_label(job.model) for job in jobs}) < 2:
            raise BadInput(f"{where}: [across] compares models, and there is one: give two or more [[models]].")
        return cls(str(raw.get("name")), tuple(jobs), jobs[0].budget, across)

    @cached_property
    def id(self) -> str:
        return digest([job.id for job in self.jobs])

    @property
    def folder(self) -> str:
        """Name of the folder that its runs are in."""
        return f"{self.name}-{self.id[:8]}"

    def shard(self, i: int, n: int) -> tuple[JobSpec, ...]:
        """Jobs of the i-th of n parts, which follow each other. Raises BadInput outside 0 to n - 1."""
        if not 0 <= i < n:
            raise BadInput(f"shard {i}/{n}: the first of n is 0, the last n - 1.")
        return self.jobs[len(self.jobs) * i // n : len(self.jobs) * (i + 1) // n]


@dataclass(frozen=True)
class SweptJob:
    """What became of a job: its run folder's name where there is one, and why there is none.

    across: of a comparison of models, which has no run folder; `job` is then the first one of those compared.
    """

    job: str
    state: State
    run: str = ""
    error: str = ""
    across: bool = False


def is_sweep(raw: Mapping[str, Any]) -> bool:
    """Whether a table has any key that a job has not."""
    return any(key in raw for key in KEYS)


def read_spec(path: Path) -> "JobSpec | Sweep":
    """A job or a sweep from a TOML file. Raises BadInput."""
    raw = read_table(path)
    _check_keys(raw, str(path))
    return Sweep.check(raw, str(path)) if is_sweep(raw) else JobSpec.check(raw, str(path))


def but_for_seeds(job: JobSpec) -> str:
    """Equal for jobs that differ in their names and seeds alone: what is known of one is known of the others."""
    return job.model_copy(update={"name": "", "seed_data": 0, "seed_probe": 0}).model_dump_json()


def model_key(job: JobSpec) -> str:
    """Equal for jobs that run one and the same model."""
    return digest([job.model.model_dump(mode="json") if job.model else None, job.task.testbed])


def run_sweep(
    sweep: Sweep, base: Path, *, root: Path | str = "runs", store: Path | str = "cached_activations",
    device: str = "cpu", n_workers: int = 1, engine: "str | Crew" = "local", progress: "Progress | None" = None,
    shard: tuple[int, int] = (0, 1), told: Callable[[SweptJob], object] | None = None,
) -> list[SweptJob]:  # fmt: skip
    """Measure the jobs of a sweep, one model loaded for those that follow each other, into `root/<sweep>/<run>`.

    shard: (i, n), the i-th of n parts, for several machines on one folder. A job that fails is noted with
    its error in `failed-<job>.json` of the folder and the rest go on; one that another process is measuring is left to
    it. The same call resumes: finished cells stay as they are, what failed is tried again. told: called after each job.
    engine: as for `run_job`; its workers stay from one job to the next, and keep the model that they have loaded. They
    first capture what the jobs read, several models and files side by side.
    Raises BadInput for a shard that there is not and for jobs that need more room than the budget has, Interrupted on
    Ctrl-C and when its minutes are spent or too few for the next job, with every finished cell kept.

    >>> from pathlib import Path
    >>> import probekit as pk
    >>> sweep = pk.Sweep.check({"name": "one", "task": {"testbed": "othello-6x6"}}, "here")
    >>> pk.run_sweep(sweep, Path(), shard=(2, 2))
    Traceback (most recent call last):
    probekit.errors.BadInput: shard 2/2: the first of n is 0, the last n - 1.
    """
    from probekit.jobs.engines import Crew
    from probekit.jobs.workers import crew_of

    mine, limit = sweep.shard(*shard), TimeLimit(sweep.budget.minutes)
    check_together(mine, base, sweep.budget)
    staff = nullcontext(engine) if isinstance(engine, Crew) else crew_of(engine, n_workers, device=device)
    folder = Path(root) / sweep.folder
    folder.mkdir(parents=True, exist_ok=True)
    listed = {"name": sweep.name, "id": sweep.id, "jobs": [job.name for job in sweep.jobs]}
    put(folder / SWEEP, to_json(listed, SWEEP).encode(), RunError)
    out: list[SweptJob] = []
    loaded: tuple[str, Model] | None = None
    with staff as crew, _stopped(len(mine)):
        asked = {"root": folder, "store": store, "base": base, "device": device, "engine": crew or "serial"}
        lost = _captured_ahead(crew, mine, asked, limit, progress) if crew else {}
        for i, job in enumerate(mine):
            begun = f"job {i + 1} of {len(mine)}, {job.name}"
            if progress:
                progress(begun, i, len(mine))
            if limit.left == 0:
                raise OutOfTime(f"stopped, since {SPENT}; {i} of {len(mine)} jobs are over; the same command resumes.")
            if why := lost.get(job.name):
                outcome = SweptJob(job.name, "failed", error=why)
            else:
                loaded, outcome = _one(job, limit.left, loaded, asked | {"progress": _within(begun, progress)})
            _note(outcome, folder)
            out.append(outcome)
            if told:
                told(outcome)
        out = _again(out, folder)
        if sweep.across:
            from probekit.jobs.carried import carry_over

            for outcome in carry_over(sweep, base, folder, store, device):
                out.append(outcome)
                if told:
                    told(outcome)
    return out


def runs_by_job(folder: Path) -> dict[str, Run]:
    """The runs in the folder of a sweep, by the names of their jobs."""
    return {run.name.rpartition("-")[0]: run for run in list_runs(folder)}


def finished_in(folder: Path) -> dict[str, str]:
    """Names of the runs that are complete, by those of their jobs."""
    return {job: run.name for job, run in runs_by_job(folder).items() if run.state == "complete"}


def _again(outcomes: list[SweptJob], folder: Path) -> list[SweptJob]:
    """With jobs that another process was measuring done, where they have ended meanwhile."""
    if all(one.state != "elsewhere" for one in outcomes):
        return outcomes
    done = finished_in(folder)
    return [
        SweptJob(one.job, "done", done[one.job]) if one.state == "elsewhere" and one.job in done else one
        for one in outcomes
    ]


def _captured_ahead(
    crew: "Crew", jobs: Sequence[JobSpec], asked: Mapping[str, Any], limit: TimeLimit, progress: "Progress | None"
) -> dict[str, str]:
    """What jobs that are not finished read, captured by a crew side by side: name of a job -> why it could not be."""
    from probekit.jobs.captures import Home, captured_by, lost_of

    finished = finished_in(asked["root"])
    todo = [job for job in jobs if job.name not in finished]
    home = Home(asked["base"], Path(asked["store"]), asked["device"])
    lost = captured_by(crew, todo, home, _within(f"captures for {len(todo)} jobs", progress), limit.left)
    return {job.name: why for job in todo if (why := lost_of(job, lost))}


@contextmanager
def _stopped(n: int) -> Iterator[None]:
    """Ctrl-C outside of a job, too, says that what is finished is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped between the {n} jobs; what is finished is kept; the same command resumes."
        ) from None


def _note(outcome: SweptJob, folder: Path) -> None:
    """Keep the error of a job that failed, and none of one that did not."""
    noted = folder / f"failed-{outcome.job}.json"
    if outcome.state == "failed":
        put(noted, to_json({"job": outcome.job, "error": outcome.error}, noted.name).encode(), RunError)
    else:
        noted.unlink(missing_ok=True)


def _one(
    job: JobSpec, minutes: float | None, loaded: "tuple[str, Model] | None", asked: Mapping[str, Any]
) -> "tuple[Any, SweptJob]":
    """Measure one job, within the minutes that are left, with the model that is loaded if it is that one."""
    from probekit.jobs.job import load_model_of
    from probekit.jobs.runner import run_job
    from probekit.jobs.workers import device_here

    key = model_key(job)
    try:
        if loaded is None or loaded[0] != key:
            loaded = None  # let go of one before the next is loaded
            loaded = key, load_model_of(job, asked["base"], device_here(asked["engine"], asked["device"]))
        left = job.model_copy(update={"budget": job.budget.model_copy(update={"minutes": minutes})})
        try:
            run = run_job(left, model=loaded[1], **asked)
        except RunOver:  # another driver ended it while this one made ready to
            run = run_job(left, model=loaded[1], **asked)
    except Interrupted:
        raise
    except OverBudget as error:
        if error.minutes and error.minutes <= (job.budget.minutes or 0):  # another call, with all of it, may do it
            raise OutOfTime(f"stopped, since too little of the budget is left: {error}") from None
        return loaded, SweptJob(job.name, "failed", error=str(error))
    except RunHeld as error:
        return loaded, SweptJob(job.name, "elsewhere", error=str(error))
    except ProbekitError as error:
        return loaded, SweptJob(job.name, "failed", error=str(error))
    failed = (run.manifest or {}).get("cells", {}).get("failed", [])
    return loaded, SweptJob(job.name, "failed cells" if failed else "done", run.name)


def _within(begun: str, progress: "Progress | None") -> "Progress | None":
    if progress is None:
        return None
    return lambda what, done, total, left=None: progress(f"{begun}: {what}", done, total, left)


def _check_keys(raw: Mapping[str, Any], where: str) -> None:
    """Raise BadInput for a key that is neither a job's nor a sweep's, with the nearest of both."""
    known = (*JobSpec.model_fields, *KEYS)
    if odd := next((key for key in raw if key not in known), None):
        raise BadInput(f"{where}: unknown key '{odd}'. Did you mean '{nearest(str(odd), known)}'?")


# From one table to many -------------------------------------------------------------------------------------------


def _jobs_of(raw: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A table for each job, with a name that says what it has of its own."""
    common = {key: value for key, value in raw.items() if key not in (*KEYS, "name", "model", "task")}
    models = [one for model in _tables(raw, "model", "models", where) for one in _versions(model, where)]
    tasks = _tables(raw, "task", "tasks", where)
    seeds = _list(raw.get("seeds", [raw.get("seed_data")]), "seeds", where)
    out = []
    for model, task, cell, seed in product(models, tasks, _cells(raw, where), seeds):
        job = deepcopy(common)
        if model:
            job["model"] = dict(model)
        if task:
            job["task"] = {key: value for key, value in task.items() if key != "name"}
        for key, value in cell.items():
            _put(job, key, value, where)
        if seed is not None:
            job["seed_data"] = seed
        own = [str(raw.get("name"))]
        if len(models) > 1:
            own.append(model_label(model))
        if len(tasks) > 1:
            own.append(_short(str(task.get("name") or task.get("file") or task.get("testbed"))))
        own += [f"{key.split('.')[-1]}-{_said(value)}" for key, value in cell.items()]
        out.append(job | {"name": _name([*own, f"s{seed}"] if len(seeds) > 1 else own)})
    return out


def model_label(model: Mapping[str, Any] | ModelSpec | None) -> str:
    """What a model is called within the name of its jobs: its name, revision and adapter."""
    told = model.model_dump() if isinstance(model, ModelSpec) else model or {}
    parts = [_short(str(told.get("name"))), *([str(told["revision"])] if told.get("revision") else [])]
    parts += [_short(str(told["adapter"]))] if (told.get("adapter") or "none") != "none" else []
    return "-".join(parts)


def _tables(raw: Mapping[str, Any], one: str, several: str, where: str) -> list[dict[str, Any]]:
    if several not in raw:
        return [raw.get(one, {})]
    found = _list(raw[several], several, where)
    if any(not isinstance(table, dict) for table in found):
        raise BadInput(f"{where}: {several} is a list of tables, as [[{several}]] makes it.")
    return found


def _versions(model: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """A table for each of the revisions and adapters that a model's table lists."""
    asked = {key: _list(model[key], f"models.{key}", where) for key in LISTS if key in model}
    for key in asked:
        if LISTS[key] in model:
            raise BadInput(f"{where}: a model has both `{LISTS[key]}` and `{key}`: give one of them.")
    plain = {key: value for key, value in model.items() if key not in LISTS}
    return [plain | dict(zip(map(LISTS.__getitem__, asked), one, strict=True)) for one in product(*asked.values())]


def _list(value: Any, what: str, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadInput(f"{where}: {what} is a list with at least one entry.")
    return value


def _cells(raw: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """key -> value, for each entry of the grid."""
    grid, combine = raw.get("grid", {}), raw.get("combine", "all")
    if combine not in ("all", "zip"):
        raise BadInput(f"{where}: combine is '{combine}': say all, every combination, or zip, one by one.")
    if not isinstance(grid, dict):
        raise BadInput(f"{where}: grid is a table of keys and lists of values.")
    flat = dict(_flat(grid, where))
    if combine == "zip" and len({len(values) for values in flat.values()}) > 1:
        sizes = ", ".join(f"{key} {len(values)}" for key, values in flat.items())
        raise BadInput(f"{where}: lists that are combined one by one have the same length; found {sizes}.")
    rows = zip(*flat.values(), strict=True) if combine == "zip" and flat else product(*flat.values())
    return [dict(zip(flat, row, strict=True)) for row in rows]


def _flat(table: Mapping[str, Any], where: str, before: str = "") -> Iterator[tuple[str, list[Any]]]:
    """`{"read": {"ks": [..]}}` and `{"read.ks": [..]}` alike."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, where, f"{before}{key}.")
        else:
            yield before + key, _list(value, f"grid.{before}{key}", where)


def _put(job: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    table = job
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadInput(f"{where}: grid.{key} is within a list: only keys of tables can be varied.")
    table[last] = value


def _short(name: str) -> str:
    """The last part of a path, without what says its format."""
    return re.sub(r"\.(gguf|csv|tsv|jsonl|json|parquet)(\.gz|\.zst)?$", "", Path(name).name) or name


def _said(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _name(parts: Sequence[str]) -> str:
    """Letters that a folder may have; a long one ends in a digest of itself."""
    found = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts)).strip("_-")
    return found if len(found) <= 80 else f"{found[:70]}-{digest(found, 8)}"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a file: a job's, with the keys of a sweep beside them.

    >>> from probekit.jobs.sweep import json_schema
    >>> sorted(json_schema()["properties"]["models"])
    ['description', 'items', 'type']
    """
    found = JobSpec.model_json_schema()
    parts, known = found["properties"], found["$defs"]
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    more = {
        key: names | {"description": f"A list in place of `{one}`: a model for each."} for key, one in LISTS.items()
    }
    name = {"name": {"type": "string", "description": "What its jobs are called by."}}
    for one, several, own, what in (
        ("ModelSpec", "models", more, "Each task is asked of each of them."),
        ("TaskSpec", "tasks", name, "Each is asked of each model."),
    ):
        table = known[one] | {"properties": known[one]["properties"] | own}  # strict, so that nothing is put beside it
        parts[several] = {"type": "array", "items": table, "description": what}
    parts["seeds"] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "seed_data of each."}
    parts["grid"] = {"type": "object", "description": 'Keys, as `"read.ks"`, and the values that each takes.'}
    parts["across"] = AcrossSpec.model_json_schema()
    parts["combine"] = {"enum": ["all", "zip"], "default": "all", "description": "How lists of the grid are combined."}
    found["required"] = ["name"]
    return found
