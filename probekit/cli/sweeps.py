"""What `run` and `plan` do with a file of many jobs, and `probekit schema`, for editors that complete one."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from probekit.cli.notify import Ending
from probekit.cli.out import console, plain_table, print_json
from probekit.errors import BadInput
from probekit.jobs.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from probekit.jobs.engines import Crew
    from probekit.jobs.sweep import Sweep, SweptJob
    from probekit.jobs.trial import Trial
    from probekit.spec import JobSpec


@dataclass(frozen=True)
class Staff:
    """Who measures, as asked on the command line."""

    engine: str = "local"
    workers: int = 1
    address: str | None = None

    def crew(self, device: str) -> "AbstractContextManager[Crew | None]":
        """For a `with` block. Raises BadInput and MissingExtra."""
        from probekit.jobs.workers import crew_of  # takes seconds: torch

        return crew_of(self.engine, self.workers, address=self.address, device=device)


def run_many(
    sweep: "Sweep",
    base: Path,
    runs: Path,
    store: Path,
    device: str,
    staff: Staff,
    shard: str,
    as_json: bool,
    ending: Ending,
) -> None:
    """Measure the jobs of a sweep and say what became of each; exit code 1 where something failed."""
    from probekit.jobs.plan import plan_rows

    i, n = shard_of(shard)
    from probekit.jobs.sweep import but_for_seeds, run_sweep

    for job in {but_for_seeds(job): job for job in sweep.shard(i, n)}.values():
        plan_rows(job, base)  # a mistake is told before anything is measured

    screen = console(err=True)

    def told(outcome: "SweptJob") -> None:
        why = f": {outcome.error}" if outcome.error else ""
        screen.print(f"{_called(outcome)}: {outcome.state}{why}", soft_wrap=True)

    with staff.crew(device) as crew, progress() as say:
        found = run_sweep(sweep, base, root=runs, store=store, device=device, engine=crew or "serial", shard=(i, n),
                          progress=say, told=told)  # fmt: skip
    bad = [outcome for outcome in found if outcome.state in ("failed", "failed cells")]
    folder = runs / sweep.folder
    ending.run, ending.state = folder, "failed cells" if bad else "complete"
    if as_json:
        listed = [{"job": _called(o), "state": o.state, "run": o.run or None, "error": o.error or None} for o in found]
        print_json("run", not bad, listed, sweep=str(folder))
    else:
        _print_outcomes(found, folder)
    if bad:
        raise typer.Exit(1)


def _called(outcome: "SweptJob") -> str:
    return f"across models, {outcome.job}" if outcome.across else outcome.job


def _print_outcomes(found: "list[SweptJob]", folder: Path) -> None:
    screen = console()
    jobs, compared = ([o for o in found if o.across is across] for across in (False, True))
    for what, some in ((f"{len(jobs)} jobs in {folder}", jobs), (f"{len(compared)} comparisons of models", compared)):
        if some:
            counts = Counter(o.state for o in some)
            told = (f"{counts[s]} {s}" for s in ("done", "failed cells", "failed", "elsewhere") if counts[s])
            screen.print(f"{what}: {', '.join(told)}")
    for outcome in found:
        if outcome.state != "done":
            screen.print(f"  {_called(outcome)}: {outcome.error or outcome.state}")
    looks = [f"probekit compare {folder}", f"probekit dashboard {folder}", f'pk.read_runs("{folder}")']
    for look in looks + ([f'pk.read_across("{folder}")'] if compared else []):
        typer.echo(f"  {look}")  # a path stays in one piece, to be copied


def tried(jobs: "Sequence[JobSpec]", base: Path, device: str) -> "list[Trial]":
    """One batch of each job; a model is loaded once for those that follow each other."""
    from probekit.jobs.sweep import model_key
    from probekit.jobs.trial import try_batch

    out, model, key = [], None, ""
    for job in jobs:
        if model_key(job) != key:
            model, key = None, model_key(job)  # let go of one before the next is loaded
        found, model = try_batch(job, base, device, model)
        out.append(found)
    return out


def plan_many(sweep: "Sweep", base: Path, runs: Path, probe_on: str | None, as_json: bool) -> None:
    """What the jobs of a sweep would measure, and which are done. probe_on: the device of a batch of each model."""
    from probekit.jobs.budget import line_of, needs_from, together
    from probekit.jobs.plan import forecast_of, plan_rows
    from probekit.jobs.sweep import but_for_seeds, model_key, runs_by_job

    folder = runs / sweep.folder
    states = {job: run.state for job, run in runs_by_job(folder).items()}
    rows, known = [], {}
    for job in sweep.jobs:
        key = but_for_seeds(job)
        if key not in known:  # a file is read once for all the seeds of a job
            known[key] = plan_rows(job, base), forecast_of(job, base)
        planned, cost = known[key]
        tokens = cost.tokens * cost.passes if cost and cost.tokens is not None else None
        sites = sum(row["sites"] or 0 for row in planned) or None
        notes = list(cost.notes) if cost else []
        rows.append({"job": job.name, "state": states.get(job.name, "to do"), "sites": sites,
                     "tokens": tokens, "notes": notes})  # fmt: skip
    firsts: dict[str, JobSpec] = {}
    for job in sweep.jobs:
        firsts.setdefault(model_key(job), job)
    trials = {job.name: one for job, one in zip(firsts.values(), tried([*firsts.values()], base, probe_on),
                                                strict=True)} if probe_on else {}  # fmt: skip
    if as_json:
        print_json("plan", True, rows, sweep=sweep.id, folder=str(folder),
                   probe=[{"job": name, **asdict(one)} for name, one in trials.items()])  # fmt: skip
        return
    screen = console()
    cells = _by_seeds(sweep, rows)
    screen.print(plain_table(["job", "state", "sites", "tokens"], cells, f"{sweep.name}: {len(rows)} jobs in {folder}"))
    counts = [row["tokens"] for row in rows if row["tokens"] is not None]
    shared = f"at most {sum(counts):,} tokens to run: jobs that differ in seeds share them"
    told = (
        shared if len(counts) == len(rows) else "how many tokens is known where models and their tokenizers are local"
    )
    screen.print(f"{len(firsts)} model{'s' * (len(firsts) > 1)}; {told}.")
    if sweep.across:
        screen.print("then models are compared, task by task and seed by seed: [across].")
    needs = together([(job, needs_from(known[but_for_seeds(job)][1])) for job in sweep.jobs])
    if sweep.budget.minutes or sweep.budget.gigabytes:
        screen.print(line_of(needs, sweep.budget, several=True))
    elif needs.capture is not None:
        screen.print(f"needs {needs.said()}, readers not counted.")
    for name, one in trials.items():
        for line in one.lines():
            screen.print(f"{name}: {line}")
    for note, names in _noted(rows).items():
        screen.print(f"note: {note} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})")


def _by_seeds(sweep: "Sweep", rows: "Sequence[dict]") -> list[list[str]]:
    """A line for each job, or for all of them that differ in their seeds alone: `capitals-s0..4`, `2 done, 3 to do`."""
    from probekit.jobs.sweep import but_for_seeds

    lines: dict[str, list[dict]] = {}
    for job, row in zip(sweep.jobs, rows, strict=True):
        lines.setdefault(but_for_seeds(job), []).append(row)
    out = []
    for several in lines.values():
        first, last = several[0], several[-1]
        counts = Counter(row["state"] for row in several)
        state = first["state"] if len(counts) == 1 else ", ".join(f"{n} {name}" for name, n in counts.items())
        name = first["job"] if len(several) == 1 else f"{first['job']}..{last['job'].rpartition('-s')[2]}"
        costs = ("?" if first[key] is None else f"{first[key]:,}" for key in ("sites", "tokens"))
        out.append([name, state, *costs])
    return out


def _noted(rows: list[dict]) -> dict[str, list[str]]:
    """Each note once, with the jobs that it is of."""
    out: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            out.setdefault(note, []).append(row["job"])
    return out


def shard_of(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8). Raises BadInput."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal()):
        raise BadInput(f"--shard is '{text}': give which of how many, as 0/8.")
    return int(first), int(last)


def schema() -> None:
    """Print the JSON Schema of a job's file, for editors that complete and check it."""
    from probekit.jobs.sweep import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))
