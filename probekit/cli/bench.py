"""The command `probekit bench`: speed as ratios within one run; its rows have the same keys in every bench."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting
from probekit.errors import BadInput

if TYPE_CHECKING:
    from probekit.proofs.bench import Row

bench = typer.Typer(help="Compare with peers side by side, in ratios measured within one run.", no_args_is_help=True)
CACHE = Path.home() / ".cache" / "probekit" / "bench"
QuickOption = Annotated[bool, typer.Option("--quick", help="Small: shows agreement, says nothing of speed.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Of all that is timed.")]
FolderOption = Annotated[Path | None, typer.Option(help="With room for what is written; removed afterwards.")]


@bench.callback()
def benches() -> None:
    """Compare with peers side by side, in ratios measured within one run."""


@bench.command("fit")
def fit(
    quick: QuickOption = False,
    install: Annotated[
        bool, typer.Option("--install/--no-install", help="Fetch peers from the package index where they are missing.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Folder for environments of peers whose names clash.")] = CACHE,
    case: Annotated[
        str,
        typer.Option(
            help="`targets` (many at one site), `sites` (one at each of many), `levels`, `few` (rows), or `all`."
        ),
    ] = "all",
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """The fit engine beside scikit-learn, Adam, TransformerLens and the namesake on the package index."""
    skipped: list[str] = []

    def say(text: str) -> None:
        if text not in skipped:
            skipped.append(text)
            typer.echo(text, err=True)

    with _benched("fit", as_json, None, threads, skipped=skipped) as (_, found):
        from probekit.proofs.bench.fit import CASES, FULL, QUICK, fit_bench

        for row in fit_bench(QUICK if quick else FULL, cache, install, say, _asked(case, CASES, "all")):
            found.append(row)
            figures = " ".join(f"{key} {value:.4g}" for key, value in row.row().items() if isinstance(value, float))
            typer.echo(f"{row.case}: {row.peer}: {figures}", err=True)


@bench.command("store")
def store(
    folder: FolderOption = None,
    quick: QuickOption = False,
    as_json: JsonOption = False,
) -> None:
    """The store beside raw reads and writes of the same numbers; bound_ratio is our time over theirs."""
    with _benched("store", as_json, folder) as (own, found):
        from probekit.proofs.bench.store import FULL, QUICK, store_bench

        found += store_bench(QUICK if quick else FULL, own / "bench")


@bench.command("capture")
def capture(
    folder: FolderOption = None,
    quick: QuickOption = False,
    case: Annotated[
        str,
        typer.Option(help="`all` positions, the same by `bridge`, `last` token, `stop` early, `memory`, or `each`."),
    ] = "each",
    sequences: Annotated[int | None, typer.Option(min=1, help="In place of what the cases have.")] = None,
    tokens: Annotated[int | None, typer.Option(min=2, max=1024, help="Per sequence, likewise.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each capture is made, 11 blocks each time.")] = 1,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Capture to disk beside the bare forward and TransformerLens; bound_ratio is our time over the bare forward's."""
    beside: dict[str, list[dict]] = {"peaks": [], "blocks": []}

    def note(kind: str, one: dict) -> None:
        _noting(beside[kind])(one)

    with _benched("capture", as_json, folder, threads, **beside) as (own, found):
        from dataclasses import replace

        from probekit.proofs.bench.capture import CASES, FULL, QUICK, capture_bench

        size = QUICK if quick else FULL
        runs = {name: (sequences or n, tokens or length) for name, (n, length) in size.runs.items()}
        for one in CASES if case == "each" else (case,):
            found += capture_bench(replace(size, runs=runs, rounds=rounds), own, one, note)


@bench.command("job")
def job(
    model: Annotated[Path, typer.Argument(help="A folder in Hugging Face format, or a GGUF file.")],
    folder: FolderOption = None,
    quick: QuickOption = False,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """A whole job on a real model beside its forward passes and the usual script; bound_ratio is over the forwards."""
    with _benched("job", as_json, folder, threads) as (own, found):
        from probekit.proofs.bench.job import FULL, QUICK, job_bench

        found += job_bench(model, QUICK if quick else FULL, own, lambda text: typer.echo(text, err=True))


@bench.command("sweep")
def sweep(
    folder: FolderOption = None,
    quick: QuickOption = False,
    case: Annotated[
        str,
        typer.Option(
            help="Cells by `serial`, `local`, `ray`; `jobs`, `rows`, `disk`, `forwards`, `readers`; or `each`."
        ),
    ] = "each",
    as_json: JsonOption = False,
) -> None:
    """Simulated cells through each engine beside the synced lines that they leave; bound_ratio is ours over theirs."""
    cells: list[dict] = []
    with _benched("sweep", as_json, folder, cells=cells) as (own, found):
        from probekit.proofs.bench.sweep import CASES, FULL, QUICK, sweep_bench

        asked = _asked(case, CASES, "each")
        found += sweep_bench(QUICK if quick else FULL, own, asked, _noting(cells))


@bench.command("replace")
def replace(
    folder: FolderOption = None,
    quick: QuickOption = False,
    case: Annotated[
        str, typer.Option(help="What is edited: the `last` token, one in the `middle`, or `all`; `das`; or `each`.")
    ] = "each",
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Interchange beside whole texts with hooks, pyvene and TransformerLens; bound_ratio counts blocks that are run."""
    blocks: list[dict] = []
    with _benched("replace", as_json, folder, threads, blocks=blocks) as (own, found):
        from probekit.proofs.bench.replace import CASES, FULL, QUICK, replace_bench

        for one in CASES if case == "each" else (case,):
            found += replace_bench(QUICK if quick else FULL, own, one, _noting(blocks))


@contextmanager
def _benched(
    name: str, as_json: bool, folder: Path | None = None, threads: int | None = None, **beside: Any
) -> "Iterator[tuple[Path, list[Row]]]":
    """A folder that is removed afterwards, and a list for the rows of a bench, which are printed at the end.

    threads: of all that is timed, if they are asked for. beside: what is told next to the rows.
    """
    with reporting(f"bench {name}", as_json):
        found: list[Row] = []
        with TemporaryDirectory(dir=folder) as own, _threads(threads) if threads else nullcontext():
            yield Path(own), found
        told = [row.row() for row in found]
        if as_json:
            print_json(f"bench {name}", True, told, **beside, **({"threads": threads} if threads else {}))
            return
        _print(told)
        for peak in beside.get("peaks", ()):
            console().print(", ".join(f"{what} {_short(value)}" for what, value in peak.items()))


def _asked(case: str, cases: tuple[str, ...], every: str) -> tuple[str, ...]:
    if case not in (*cases, every):
        raise BadInput(f"no case '{case}' in this bench: {', '.join(cases)}, or {every}.")
    return cases if case == every else (case,)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """n threads for torch and for what scikit-learn calls, the number before afterwards."""
    import torch
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n):
            yield
    finally:
        torch.set_num_threads(before)


def _noting(kept: list[dict]) -> Callable[[dict], None]:
    """Keeps what a bench counts beside its rows, and says it."""

    def note(one: dict) -> None:
        kept.append(one)
        typer.echo(", ".join(f"{what} {_short(value)}" for what, value in one.items()), err=True)

    return note


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{what} {_short(one)}" for what, one in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print(found: list[dict]) -> None:
    columns = ("case", "peer", "ours s", "peer s", "ratio", "gap, bit", "x bound")
    names = ("ours_seconds", "peer_seconds", "ratio", "gap", "bound_ratio")
    cells = [(row["case"], row["peer"], *(f"{row[name]:.3g}" for name in names)) for row in found]
    console().print(plain_table(columns, cells, "Peer over ours; ratio above 1: ours is faster"))
