"""The command `probekit bench`: speed as ratios within one run; its rows have the same keys in every bench."""

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli_reading import JsonOption, print_json, reporting
from probekit.errors import BadInput

bench = typer.Typer(help="Compare with peers side by side, in ratios measured within one run.", no_args_is_help=True)

CACHE = Path.home() / ".cache" / "probekit" / "bench"


@bench.callback()
def benches() -> None:
    """Compare with peers side by side, in ratios measured within one run."""


@bench.command("fit")
def fit(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small problems: shows agreement, says nothing of speed.")
    ] = False,
    install: Annotated[
        bool, typer.Option("--install/--no-install", help="Fetch peers from the package index where they are missing.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Folder for environments of peers whose names clash.")] = CACHE,
    case: Annotated[
        str, typer.Option(help="`targets` (many at one site), `sites` (one at each of many), or `all`.")
    ] = "all",
    threads: Annotated[int, typer.Option(min=1, help="Of all that is timed.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """The fit engine beside scikit-learn, Adam, TransformerLens and the namesake on the package index."""
    with reporting("bench fit", as_json):
        import torch
        from threadpoolctl import threadpool_limits  # comes with scikit-learn

        if case not in ("targets", "sites", "all"):
            raise BadInput(f"no case '{case}' in this bench: targets, sites, or all.")
        from probekit.bench.fit import FULL, QUICK, fit_bench

        cases = ("targets", "sites") if case == "all" else (case,)
        skipped: list[str] = []

        def say(text: str) -> None:
            if text not in skipped:
                skipped.append(text)
                typer.echo(text, err=True)

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                found = []
                for row in fit_bench(QUICK if quick else FULL, cache, install, say, cases):
                    found.append(row.row())
                    figures = " ".join(
                        f"{key} {value:.4g}" for key, value in row.row().items() if isinstance(value, float)
                    )
                    typer.echo(f"{row.case}: {row.peer}: {figures}", err=True)
        finally:
            torch.set_num_threads(before)
        if as_json:
            print_json("bench fit", True, found, skipped=skipped, threads=threads)
            return
        _print(found)


@bench.command("store")
def store(
    folder: Annotated[Path | None, typer.Option(help="With room for 1 GB; removed afterwards.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small: shows agreement, says nothing of speed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The store beside raw reads and writes of the same numbers; bound_ratio is our time over theirs."""
    with reporting("bench store", as_json):
        import tempfile

        from probekit.bench.store import FULL, QUICK, store_bench

        with tempfile.TemporaryDirectory(dir=folder) as own:
            found = [row.row() for row in store_bench(QUICK if quick else FULL, Path(own) / "bench")]
        if as_json:
            print_json("bench store", True, found)
            return
        _print(found)


@bench.command("stream")
def stream(
    largest: Annotated[
        int, typer.Option("--rows", min=1_000, help="Of the largest fit; others have fewer.")
    ] = 1_000_000,
    width: Annotated[int, typer.Option(min=8, help="Coordinates.")] = 1_024,
    memory: Annotated[int, typer.Option(min=1, help="MiB that a fit may use.")] = 1_024,
    folder: Annotated[Path | None, typer.Option(help="With room for the rows; removed afterwards.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of all that is timed.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """A fit over rows on disk: time and peak memory from few rows to many."""
    with reporting("bench stream", as_json):
        import torch

        from probekit.bench.stream import stream_bench

        sizes = sorted({max(1_000, int(largest * share)) for share in (0.01, 0.03, 0.1, 0.3, 1)})
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found, peaks = [], []
            for row, peak in stream_bench(sizes, width, memory * 2**20, folder):
                found.append(row.row())
                peaks.append(peak)
        finally:
            torch.set_num_threads(before)
        if as_json:
            print_json("bench stream", True, found, peaks=peaks, threads=threads)
            return
        _print(found)
        for peak in peaks:
            typer.echo(f"n {peak['n']:>10,}: {peak['peak_mib']:.0f} MiB above what was resident before")


def _print(found: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("case", "peer", "ours s", "peer s", "ratio", "gap, bit", "x bound")
    table = Table(*columns, title="Peer over ours; ratio above 1: ours is faster")
    for row in found:
        figures = [f"{row[key]:.3g}" for key in ("ours_seconds", "peer_seconds", "ratio", "gap", "bound_ratio")]
        table.add_row(row["case"], row["peer"], *figures)
    Console(width=150).print(table)
