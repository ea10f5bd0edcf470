"""Commands that open run folders: `ls`, `show`, `figure`, `judge`. They never load a model."""

from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer

from probekit.cli.dashboard import dashboard
from probekit.cli.out import JsonOption, RootOption, print_json, reporting, rows
from probekit.errors import BadInput

_RUN_HELP = "A run folder, a run's name, or 'latest'."
PositionOption = Annotated[
    str | None, typer.Option(help="A rule of positions, of a run with several; the first one when left out.")
]


def register(app: typer.Typer) -> None:
    """Add the reading commands to `app`."""
    for name, command in (("ls", ls), ("show", show), ("figure", figure), ("judge", judge), ("dashboard", dashboard)):
        app.command(name)(command)


def ls(
    root: Annotated[Path, typer.Argument(help="Folder that holds the run folders.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs, the latest first, with how far each has come."""
    with reporting("ls", as_json):
        from probekit.storage.runs import list_runs

        found = [
            {
                "run": run.name,
                "state": run.state,
                "done": run.status.get("done"),
                "total": run.status.get("total"),
                "failed": len(run.status.get("failed", [])),
                "model": (run.spec.get("model") or {}).get("name") or (run.spec.get("task") or {}).get("testbed"),
                "updated": run.status.get("updated"),
                "problem": run.problem,
                "reason": run.reason,
                "path": str(run.path),
            }
            for run in list_runs(root)
        ]
        if as_json:
            print_json("ls", True, found)
            return
        if not found:
            typer.echo(f"No runs under {root}. Start one with `probekit run SPEC`.")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*("run", "state", "cells", "failed", "model", "updated (UTC)", "reason"))
        for row in found:
            cells = f"{row['done']}/{row['total']}" if row["total"] else "?"
            updated = str(row["updated"] or "").split("+")[0].replace("T", " ")
            reason = shorten(row["reason"], 90, placeholder=" ...")
            shown = (row["run"], row["state"], cells, str(row["failed"] or ""), row["model"] or "", updated, reason)
            table.add_row(*(Text(str(cell), overflow="fold") for cell in shown))
        Console().print(table)
        for row in found:
            if row["state"] == "damaged":
                typer.echo(row["problem"])


def show(
    run: Annotated[str, typer.Argument(help=_RUN_HELP)],
    table: Annotated[str, typer.Option("--table", help="Which table; `leak_map` prints as a grid.")] = "leak_map",
    behaviour: Annotated[str | None, typer.Option(help="The first one that has a value when left out.")] = None,
    domain: Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")] = None,
    position: PositionOption = None,
    metric: Annotated[str | None, typer.Option(help="read or replace.")] = None,
    k: Annotated[str | None, typer.Option("--k", help="One k for the levels that have several, or 'all'.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Also show a run that is not finished.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Show what a run found: FBU with its interval per hook point and level, or another table."""
    with reporting("show", as_json):
        from probekit.results import selection as selection_of
        from probekit.results import tables
        from probekit.results import text as text_of
        from probekit.storage.runs import find_run, open_run

        found = open_run(find_run(run, root), partial=partial)
        if as_json:
            extra = {"run": found.name, "problem": found.problem, "manifest": found.manifest}
            print_json("show", not found.problem, rows(found.records), **extra)
            return
        chosen = _given(behaviour=behaviour, domain=domain, position=position, metric=metric, k=_k(k))
        frame = tables.table(table, found.records, **chosen)
        if csv:
            typer.echo(text_of.to_csv(frame), nl=False)
            return
        from rich.console import Console

        console = Console()
        if found.problem:
            typer.echo(found.problem, err=True)
        if frame.empty:
            typer.echo(f"{found.name} holds nothing for {table.replace('_', ' ')}.")
            return
        if table == "leak_map":
            first = frame.iloc[0]
            shown, places = str(first["position"]), selection_of.positions(found.records, first["behaviour"])
            where = f"{first['fit_domain']}, read at {shown}" if len(places) > 1 else first["fit_domain"]
            title = f"{found.name}: FBU of {first['behaviour']}, {where} (0 explains all, 1 adds nothing)"
            console.print(text_of.leak_text(frame, title))
            behaviours, domains = selection_of.behaviours(found.records), selection_of.domains(found.records)
            told = {"behaviour": first["behaviour"], "domain": domain, "position": position}
            without = tables.deletion(found.records, **_given(**told))
            if len(without):
                console.print(text_of.deletion_text(without, "as fitted on whole texts, with a span deleted"))
            known = f"behaviours: {', '.join(behaviours)}; domains: {', '.join(domains)}"
            several = f"; positions: {', '.join(places)} (--position)" if len(places) > 1 else ""
            console.print(known + several, markup=False)
            if said := tables.extraction(found.records):
                console.print(said, markup=False, highlight=False)
        elif table == "deletion":
            console.print(text_of.deletion_text(frame, f"{found.name}: with a span deleted"))
        else:
            console.print(text_of.to_text(frame, f"{found.name}: {table.replace('_', ' ')}"))


def figure(
    kind: Annotated[str, typer.Argument(help="frontier, leak_map, decomposition, layer_curves, transfer_matrix, ...")],
    run: Annotated[str, typer.Argument(help=_RUN_HELP)],
    out: Annotated[Path | None, typer.Option(help="FILE.html, .png or .svg; RUN-KIND.html when left out.")] = None,
    behaviour: Annotated[str | None, typer.Option(help="The first one that has a value when left out.")] = None,
    domain: Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")] = None,
    hook: Annotated[str | None, typer.Option(help="Hook point, for the figures of one.")] = None,
    level: Annotated[str | None, typer.Option(help="Level, for the figures of one.")] = None,
    position: PositionOption = None,
    metric: Annotated[str | None, typer.Option(help="read or replace.")] = None,
    arm: Annotated[str | None, typer.Option(help="chain:matched, linear_first, refit, ...")] = None,
    k: Annotated[str | None, typer.Option("--k", help="One k for the levels that have several, or 'all'.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Light ink on a dark ground.")] = False,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write one figure of a run to a file. HTML is self-contained; PNG and SVG need a Chrome or Chromium."""
    with reporting("figure", as_json):
        from probekit.results import figures
        from probekit.storage.runs import find_run, open_run

        found = open_run(find_run(run, root))
        picked = {"behaviour": behaviour, "domain": domain, "hook": hook, "level": level, "position": position}
        chosen = _given(**picked, metric=metric, arm=arm, k=_k(k))
        made = figures.figure(kind, found.records, template="dark" if dark else "light", **chosen)
        path = out or Path(f"{found.name}-{kind}.html")
        try:
            figures.write_figure(made, path)
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}.") from None
        if as_json:
            print_json("figure", True, [{"kind": kind, "run": found.name, "path": str(path)}])
        else:
            typer.echo(str(path))


def judge(
    run: Annotated[str, typer.Argument(help=_RUN_HELP)],
    claim: Annotated[
        str | None, typer.Option("--claim", help="One claim; all that fit what is selected when left out.")
    ] = None,
    behaviour: Annotated[str | None, typer.Option(help="The first one that has a value when left out.")] = None,
    domain: Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")] = None,
    hook: Annotated[str | None, typer.Option(help="The one chosen on selection rows when left out.")] = None,
    level: Annotated[str, typer.Option(help="Level that the claim is about.")] = "linear",
    source: Annotated[str | None, typer.Option(help="Source of directions, where there are several.")] = None,
    k: Annotated[str | None, typer.Option("--k", help="One k, for the levels that have several.")] = None,
    position: PositionOption = None,
    margin: Annotated[float, typer.Option("--margin", help="FBU below which nothing is said to leak.")] = 0.1,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Judge claims: each a conjunction of measures, passed or failed by an equivalence test at a declared margin."""
    with reporting("judge", as_json):
        from probekit.results import claims
        from probekit.results import selection as selection_of
        from probekit.results import text as text_of
        from probekit.storage.runs import find_run, open_run

        found = open_run(find_run(run, root))
        if not selection_of.behaviours(found.records):
            raise BadInput(f"{found.name} holds no records of a behaviour: there is nothing to judge.")
        behaviour = behaviour or selection_of.default_behaviour(found.records)
        chosen = _k(k)
        if isinstance(chosen, str):
            raise BadInput("a claim is about one k: give --k a number.")
        at = {"behaviour": behaviour, "level": level, "domain": domain, "position": position}
        if hook is None:
            hook = claims.selected_hook(found.records, **at)
        asked = list(claims.CLAIMS) if claim is None else [claim]
        losses = found.losses_of(*found.records.loc[found.records["hook"] == hook, "id"])
        selection = {**at, "hook": hook, "source": source, "k": chosen, "margin": margin}
        judged, left_out = claims.judge_each(found.records, losses, asked, **selection)
        if as_json:
            told = [{"claim": name, **row} for name, frame in judged.items() for row in rows(frame)]
            where = {"run": found.name, "behaviour": behaviour, "hook": hook, "level": level}
            print_json("judge", True, told, **where, left_out=left_out)
            return
        from rich.console import Console

        console = Console()
        where = (hook or "all sites") + (f", read at {position}" if position else "")
        console.print(f"{found.name}: {behaviour}, {level} at {where}, margin {margin:g}", markup=False)
        for name, frame in judged.items():
            console.print(text_of.to_text(claims.to_read(frame), f"{name}: {frame['verdict'].iloc[-1]}"))
        for name, why in left_out.items():
            typer.echo(f"'{name}' is left out: {why}")


def _k(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if not text.isdigit():
        raise BadInput(f"--k is a number or 'all'; found '{text}'.")
    return int(text)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
