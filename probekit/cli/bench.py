"""The command `probekit bench`: speed as ratios within one run; its rows have the same keys in every bench."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting
from probekit.errors import BadInput

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
    with reporting("bench fit", as_json):
        from probekit.proofs.bench.fit import CASES, FULL, QUICK, fit_bench

        if case not in (*CASES, "all"):
            raise BadInput(f"no case '{case}' in this bench: {', '.join(CASES)}, or all.")
        cases = CASES if case == "all" else (case,)
        skipped: list[str] = []

        def say(text: str) -> None:
            if text not in skipped:
                skipped.append(text)
                typer.echo(text, err=True)

        found = []
        with _threads(threads):
            for row in fit_bench(QUICK if quick else FULL, cache, install, say, cases):
                found.append(row.row())
                figures = " ".join(f"{key} {value:.4g}" for key, value in row.row().items() if isinstance(value, float))
                typer.echo(f"{row.case}: {row.peer}: {figures}", err=True)
        _tell("bench fit", found, as_json, skipped=skipped, threads=threads)


@bench.command("store")
def store(
    folder: FolderOption = None,
    quick: QuickOption = False,
    as_json: JsonOption = False,
) -> None:
    """The store beside raw reads and writes of the same numbers; bound_ratio is our time over theirs."""
    with reporting("bench store", as_json):
        import tempfile

        from probekit.proofs.bench.store import FULL, QUICK, store_bench

        with tempfile.TemporaryDirectory(dir=folder) as own:
            found = [row.row() for row in store_bench(QUICK if quick else FULL, Path(own) / "bench")]
        _tell("bench store", found, as_json)


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
    with reporting("bench capture", as_json):
        import tempfile
        from dataclasses import replace

        from probekit.proofs.bench.capture import CASES, FULL, QUICK, capture_bench

        size = QUICK if quick else FULL
        runs = {name: (sequences or n, tokens or length) for name, (n, length) in size.runs.items()}
        size = replace(size, runs=runs, rounds=rounds)
        found: list[dict] = []
        beside: dict[str, list[dict]] = {"peaks": [], "blocks": []}

        def note(kind: str, one: dict) -> None:
            _noting(beside[kind])(one)

        with tempfile.TemporaryDirectory(dir=folder) as own, _threads(threads):
            for one in CASES if case == "each" else (case,):
                for row in capture_bench(size, Path(own), one, note):
                    found.append(row.row())
        _tell("bench capture", found, as_json, **beside, threads=threads)


@bench.command("job")
def job(
    model: Annotated[Path, typer.Argument(help="A folder in Hugging Face format, or a GGUF file.")],
    folder: FolderOption = None,
    quick: QuickOption = False,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """A whole job on a real model beside its forward passes and the usual script; bound_ratio is over the forwards."""
    with reporting("bench job", as_json):
        import tempfile

        from probekit.proofs.bench.job import FULL, QUICK, job_bench

        with tempfile.TemporaryDirectory(dir=folder) as own, _threads(threads):
            size, say = QUICK if quick else FULL, lambda text: typer.echo(text, err=True)
            found = [row.row() for row in job_bench(model, size, Path(own), say)]
        _tell("bench job", found, as_json, threads=threads)


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
    with reporting("bench sweep", as_json):
        import tempfile

        from probekit.proofs.bench.sweep import CASES, FULL, QUICK, sweep_bench

        if case not in (*CASES, "each"):
            raise BadInput(f"no case '{case}' in this bench: {', '.join(CASES)}, or each.")
        cells: list[dict] = []
        with tempfile.TemporaryDirectory(dir=folder) as own:
            asked = CASES if case == "each" else (case,)
            found = [row.row() for row in sweep_bench(QUICK if quick else FULL, Path(own), asked, _noting(cells))]
        _tell("bench sweep", found, as_json, cells=cells)


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
    with reporting("bench replace", as_json):
        import tempfile

        from probekit.proofs.bench.replace import CASES, FULL, QUICK, replace_bench

        found: list[dict] = []
        blocks: list[dict] = []
        with tempfile.TemporaryDirectory(dir=folder) as own, _threads(threads):
            for one in CASES if case == "each" else (case,):
                found += [row.row() for row in replace_bench(QUICK if quick else FULL, Path(own), one, _noting(blocks))]
        _tell("bench replace", found, as_json, blocks=blocks, threads=threads)


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


def _tell(command: str, found: list[dict], as_json: bool, **beside: Any) -> None:
    if as_json:
        print_json(command, True, found, **beside)
        return
    _print(found)
    for peak in beside.get("peaks", ()):
        console().print(", ".join(f"{what} {_short(value)}" for what, value in peak.items()))


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
