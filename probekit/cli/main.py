"""Commands that make run folders (`run`, `plan`, `demo`, `testbed`), and the entry point: errors become exit codes."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.audit import audit
from probekit.cli.bench import bench
from probekit.cli.cache import cache
from probekit.cli.calibrate import calibrate
from probekit.cli.floors import floors
from probekit.cli.notify import notifying
from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, resume_command, rows
from probekit.cli.reading import register
from probekit.cli.steer import steer
from probekit.cli.study import study
from probekit.cli.sweeps import Staff, plan_many, run_many, schema, tried
from probekit.cli.takeaway import register as register_takeaway
from probekit.errors import BadInput, Interrupted, ProbekitError
from probekit.jobs.progress import progress

if TYPE_CHECKING:
    from probekit.proofs.demo import Xor
    from probekit.storage.runs import Run


app = typer.Typer(
    name="probekit",
    help="How much of a network's behaviour does an abstraction of it leave unexplained? (FBU: 0 all explained, "
    "1 no better than reading the input alone.)",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
testbed = typer.Typer(help="Train and export the bundled models.", no_args_is_help=True)
app.add_typer(testbed, name="testbed")
app.add_typer(bench, name="bench")
app.add_typer(cache, name="cache")
register(app)
register_takeaway(app)
app.command("calibrate")(calibrate)
app.command("study")(study)
app.command("floors")(floors)
app.command("audit")(audit)
app.command("schema")(schema)
app.command("steer")(steer)

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that run folders are written to.")]
StoreOption = Annotated[Path, typer.Option("--store", help="Folder that activations are kept in.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ..., or auto: over all GPUs.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Processes that measure side by side; each holds the model.")
]
EngineOption = Annotated[
    str, typer.Option("--engine", help="`serial`, this process; `local`, processes of this machine; `ray`, a cluster.")
]
AddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="Of a Ray cluster that runs, or `auto`; else one is started here.")
]
SpecArgument = Annotated[Path, typer.Argument(help="A job in TOML.")]
DEMO_SPEC = Path(__file__).parents[1] / "jobs" / "demo.toml"
STORE = Path("cached_activations")


def main() -> None:
    """Entry point: a ProbekitError is one sentence on stderr and its exit code; anything else is a bug and shows so."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal has no letters for is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        app()
    except Interrupted as error:
        typer.echo(f"probekit: {error}\nresume: {resume_command()}", err=True)
        raise SystemExit(error.exit_code) from None
    except ProbekitError as error:
        typer.echo(f"probekit: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("probekit: stopped.", err=True)
        raise SystemExit(Interrupted.exit_code) from None


@app.command()
def run(
    spec: SpecArgument,
    runs: RunsOption = Path("runs"),
    store: StoreOption = STORE,
    device: DeviceOption = "cpu",
    workers: WorkersOption = 1,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    shard: Annotated[
        str, typer.Option("--shard", help="Of a file of many jobs: which of how many parts, as 0/8.")
    ] = "0/1",
    notify_command: Annotated[
        str | None, typer.Option("--notify-command", help="Run at the end, with PROBEKIT_RUN, _STATE and _ERROR set.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a job, or each job of a file of many; a stopped one resumes, a finished one is shown."""
    with reporting("run", as_json), notifying(notify_command) as ending:
        from probekit.jobs.sweep import read_spec
        from probekit.spec import JobSpec

        asked, staff = read_spec(spec), Staff(engine, workers, ray_address)
        if not isinstance(asked, JobSpec):
            run_many(asked, spec.parent, runs, store, device, staff, shard, as_json, ending)
            return
        if shard != "0/1":
            raise BadInput(f"--shard is '{shard}' and {spec} is one job: it is for files with models, tasks or seeds.")
        found, failed = _measure("run", spec, runs, store, device, as_json, staff)
        ending.run, ending.state = found.path, "failed cells" if failed else "complete"
    if failed:
        raise typer.Exit(1)


@app.command()
def plan(
    spec: SpecArgument,
    runs: RunsOption = Path("runs"),
    probe: Annotated[
        bool, typer.Option("--probe", help="Load each model and run one batch, for time, memory and disk.")
    ] = False,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Say what a job, or each job of a file of many, would measure, without loading a model; makes no files."""
    with reporting("plan", as_json):
        from dataclasses import asdict

        from probekit.jobs.plan import forecast_of, plan_rows, text_of
        from probekit.jobs.sweep import read_spec
        from probekit.spec import JobSpec

        job = read_spec(spec)
        if not isinstance(job, JobSpec):
            plan_many(job, spec.parent, runs, device if probe else None, as_json)
            return
        planned, text, told = plan_rows(job, spec.parent), text_of(job), forecast_of(job, spec.parent)
        trials = tried([job], spec.parent, device) if probe else []
        if as_json:
            print_json("plan", True, planned, spec=job.id, text=text, forecast=asdict(told) if told else None,
                       probe=[asdict(one) for one in trials])  # fmt: skip
            return
        several = len({row["position"] for row in planned}) > 1
        columns = ["kind", "what", "hooks", "sites", "levels", *(["position"] if several else [])]
        cells = [["?" if row[name] is None else row[name] for name in columns] for row in planned]
        screen = console()
        screen.print(plain_table(columns, cells, f"{job.name} (spec {job.id})"))
        if text:
            screen.print(f"text: {text['source']} of {text['file']}, read at {', '.join(text['positions'])}")
        for line in (*(told.lines() if told else ()), *(line for one in trials for line in one.lines())):
            screen.print(line)
        if job.budget.minutes or job.budget.gigabytes:
            from probekit.jobs.budget import line_of, needs_of

            screen.print(line_of(needs_of(job, spec.parent), job.budget))


@app.command()
def demo(
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Stop after the table.")] = False,
    runs: RunsOption = Path("runs"),
    store: StoreOption = STORE,
    device: DeviceOption = "cpu",
    port: Annotated[int, typer.Option(help="Of the leakboard.")] = 8501,
    as_json: JsonOption = False,
) -> None:
    """A ten-second case that fools three usual methods, then the bundled Othello-GPT; ends in the leakboard."""
    with reporting("demo", as_json):
        xor = None if as_json else _print_xor()
        found, failed = _measure("demo", DEMO_SPEC, runs, store, device, as_json)
        if xor and not failed:
            from probekit.proofs.demo import closing

            for i, sentence in enumerate(closing(xor, found.records), 1):
                console().print(f"{i}. {sentence}")
    if failed:
        raise typer.Exit(1)
    if not no_serve and not as_json:
        from probekit.cli.dashboard import dashboard

        dashboard(runs, port=port)


@testbed.command("train")
def train(
    name: Annotated[str, typer.Argument(help="othello-6x6, othello-8x8, tiny-world-s, tiny-world-m or tiny-world-l.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints; a stopped training resumes from it.")],
    steps: Annotated[int | None, typer.Option(help="The recipe's when left out.")] = None,
    until: Annotated[int | None, typer.Option(help="Stop at this step of them; the same command goes on.")] = None,
    seed: Annotated[int, typer.Option(help="Decides weights and games, or stories.")] = 0,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train a bundled model again, from its recipe."""
    with reporting("testbed train", as_json):
        from dataclasses import replace

        from probekit.testbeds import trainer_of

        trainer = trainer_of(name)
        chosen = replace(trainer.recipe(name), seed=seed, **({} if steps is None else {"steps": steps}))
        kept = []
        for row in trainer.train(chosen, out, device, until=until):
            kept.append(row)
            figures = "  ".join(f"{key} {value:.4f}" for key, value in row.items() if key != "step")
            typer.echo(f"step {row['step']}/{chosen.steps}  {figures}", err=True)
        if as_json:
            print_json("testbed train", True, kept, out=str(out))


@testbed.command("games")
def games(
    file: Annotated[Path, typer.Argument(help="The CSV that is written.")],
    n: Annotated[int, typer.Option("--n", min=20, help="Games; three rows each.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Decides the games.")] = 0,
) -> None:
    """Write Othello games as a CSV, to try a file of one's own with: `game`, `moves`, `ahead`."""
    from probekit.testbeds.othello.task import write_games

    write_games(file, n, seed=seed)
    typer.echo(str(file))


@testbed.command("pairs")
def pairs(
    file: Annotated[Path, typer.Argument(help="The CSV that is written.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Pairs of each of five phenomena.")] = 200,
    seed: Annotated[int, typer.Option(help="Decides the pairs.")] = 0,
) -> None:
    """Write minimal pairs of English as a CSV: `beginning`, the word that may follow (`right`), one that may not."""
    from probekit.testbeds.pairs import write_pairs

    write_pairs(file, n, seed)
    typer.echo(str(file))


@testbed.command("export")
def export(
    training: Annotated[Path, typer.Argument(help="A training folder.")],
    folder: Annotated[Path, typer.Argument(help="Where the model, its card and its checkpoints' losses go.")],
) -> None:
    """Write the last checkpoint of a training in Hugging Face format, with a model card made from its figures."""
    from probekit.testbeds import trainer_of
    from probekit.testbeds.training import name_of

    typer.echo(str(trainer_of(name_of(training)).export(training, folder)))


def _measure(
    command: str, spec: Path, runs: Path, store: Path, device: str, as_json: bool, staff: Staff | None = None
) -> "tuple[Run, list[dict]]":
    """Measure a job and show what it found; returns it and its failed cells."""
    found = _run(spec, runs, store, device, staff or Staff())
    failed = _failed(found)
    if as_json:
        print_json(command, not failed, rows(found.records), run=str(found.path), failed=failed)
    else:
        _print_run(found)
    return found, failed


def _run(spec: Path, runs: Path, store: Path, device: str, staff: Staff) -> "Run":
    from probekit.jobs.plan import forecast_of, plan_rows
    from probekit.spec import JobSpec

    # A mistake, or what no number will be had of, is told before torch is loaded and anything is captured.
    job = JobSpec.read_toml(spec)
    plan_rows(job, spec.parent)
    told = forecast_of(job, spec.parent)
    for note in told.notes if told else ():
        console(err=True).print(f"note: {note}")
    from probekit.jobs.runner import run_job

    with staff.crew(device) as crew, progress() as say:
        return run_job(spec, root=runs, store=store, device=device, engine=crew or "serial", progress=say)


def _failed(found: "Run") -> list[dict]:
    return (found.manifest or {}).get("cells", {}).get("failed", [])


def _print_xor() -> "Xor":
    console().print("A behaviour, s1 XOR s2, that two directions decide exactly. What do usual methods say of it?")
    from probekit.proofs.demo import measure_xor  # takes seconds: torch

    found = measure_xor()
    told = found.table()
    console().print(plain_table(list(told.columns), told.itertuples(index=False)))
    return found


def _print_run(found: "Run") -> None:
    from probekit.results.headline import headline
    from probekit.results.sampled import sampled_names
    from probekit.results.selection import behaviours, default_behaviour
    from probekit.results.summary import summary

    screen, records = console(), found.records
    screen.print(summary(records))
    told = (default_behaviour(records), *sampled_names(records))  # of which the summary speaks
    for behaviour in [name for name in behaviours(records) if name not in told][:5]:
        screen.print(headline(records, behaviour=behaviour).sentences[0])
    for failure in _failed(found):
        console(err=True).print(f"failed: {failure['error']}")
    typer.echo(f"run: {found.path}")  # a path stays in one piece, to be copied
    screen.print(f"look: probekit show {found.name}, or probekit dashboard")
