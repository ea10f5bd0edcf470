"""Commands that open run folders: `ls`, `show`, `figure`, `judge`. They never load a model."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.cli.dashboard import dashboard
from probekit.cli.out import JsonOption, RootOption, console, plain_table, print_json, reporting, rows
from probekit.errors import BadInput, printable

if TYPE_CHECKING:
    from probekit.storage.runs import Run

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
        from probekit.storage.runs import list_runs, list_sweeps

        sweeps = list_sweeps(root)
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
            print_json("ls", True, found, sweeps=sweeps)
            return
        for name, n in sweeps.items():
            typer.echo(f"{name} holds {n} runs of a sweep: `probekit ls {root / name}` lists them.")
        if not found:
            if not sweeps:
                typer.echo(f"No runs under {root}. Start one with `probekit run SPEC`.")
            return
        lines = []
        for row in found:
            cells = f"{row['done']}/{row['total']}" if row["total"] else "?"
            cells += f", {row['failed']} failed" if row["failed"] else ""
            updated = str(row["updated"] or "").split("+")[0].replace("T", " ")
            reason = shorten(row["reason"], 90, placeholder=" ...")
            what = "\n".join(filter(None, (row["model"] or "", reason)))
            lines.append((row["run"], row["state"], cells, updated, what))
        console().print(plain_table(("run", "state", "cells", "updated (UTC)", "what"), lines))
        for row in found:
            if row["state"] == "damaged":
                console().print(row["problem"])


def show(
    run: Annotated[str, typer.Argument(help=_RUN_HELP)],
    table: Annotated[
        str | None,
        typer.Option("--table", help="One table in full: leak_map, frontier, examples, counterexamples, ..."),
    ] = None,
    behaviour: Annotated[str | None, typer.Option(help="The first one that has a value when left out.")] = None,
    domain: Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")] = None,
    position: PositionOption = None,
    metric: Annotated[str | None, typer.Option(help="read, replace, steer or compose.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of replace: donors 'matched' or 'random'.")] = None,
    k: Annotated[str | None, typer.Option("--k", help="One k for the levels that have several, or 'all'.")] = None,
    hook: Annotated[
        str | None, typer.Option("--hook", help="Hook point: of replace and steer, or for the tables of one.")
    ] = None,
    level: Annotated[str | None, typer.Option(help="Level, for the tables of one; linear when left out.")] = None,
    most: Annotated[int | None, typer.Option("--most", help="Rows of examples, counterexamples, plausible.")] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="95 % intervals in the map.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="The map in full, every level with its interval.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Also show a run that is not finished.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the table to FILE.csv, .parquet or .tex.")
    ] = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Show what a run found: a few sentences and a map of sites and levels; in full with --wide or --table."""
    with reporting("show", as_json):
        from probekit.results.examples import KINDS as ROW_KINDS
        from probekit.storage.runs import find_run, open_run

        found = open_run(find_run(run, root), partial=partial)
        chosen = given(behaviour=behaviour, domain=domain, position=position, metric=metric, arm=arm, k=k_of(k),
                        hook=hook, level=level, most=most)  # fmt: skip
        if out is not None:
            _write_table(table or "leak_map", found, chosen, out)
            return
        if table is not None and table in ROW_KINDS:
            _show_rows(table, found, chosen, csv, as_json)
            return
        if as_json:
            extra = {"run": found.name, "problem": found.problem, "manifest": found.manifest}
            print_json("show", not found.problem, rows(found.records), **extra)
            return
        if found.problem:
            console(err=True).print(found.problem)
        _show_found(found, table, chosen, csv, wide=wide, intervals=intervals)


def _show_found(
    run: "Run", table: str | None, chosen: dict[str, Any], csv: bool, *, wide: bool, intervals: bool
) -> None:
    """The summary and its map, or a table in full where one is asked for."""
    from probekit.results.summary import summary

    screen, metric = console(), chosen.get("metric")
    if table is None and metric == "steer":
        table = _at_one_site(run.records, chosen, csv)
    site = chosen.pop("hook", None) if table is None and metric == "replace" else None
    if table is None and (more := chosen.keys() & {"hook", "level", "most"}):
        raise BadInput(f"--{min(more)} is for the tables of one hook point, level or row: give --table as well.")
    if table is None and not wide and not csv and metric != "compose":
        screen.print(summary(run.records, **chosen, intervals=intervals))
        if metric == "replace":
            _print_site(run.records, site, chosen, screen)
        _print_beside(run.records, chosen)
        return
    maps = {"replace": "replace_map", "compose": "composition"}
    _show_table(table or maps.get(metric or "", "leak_map"), run, chosen, csv)


def _write_table(kind: str, run: "Run", chosen: dict[str, Any], path: Path) -> None:
    """A table as a file, in the format that its ending names."""
    from probekit.results import tables
    from probekit.results.report.files import write_table

    try:
        write_table(tables.table(kind, run, **chosen), path, caption=f"{run.name}: {kind.replace('_', ' ')}")
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}.") from None
    typer.echo(str(path))


def _show_table(kind: str, run: "Run", chosen: dict[str, Any], csv: bool) -> None:
    """A table in full, for people or as CSV."""
    from probekit.results import tables
    from probekit.results import text as text_of

    if kind in ("replace_map", "composition"):
        chosen.pop("metric", None)
    frame = tables.table(kind, run.records, **chosen)
    if csv:
        typer.echo(text_of.to_csv(frame).encode(), nl=False)  # UTF-8 whatever the terminal prefers
        return
    _print_table(kind, frame, run, chosen)


def _at_one_site(records: Any, chosen: dict[str, Any], every: bool) -> str:
    """The table of what was steered, at one site unless every one is asked for; what is chosen is changed to that."""
    from probekit.results.causal import default_site

    chosen.pop("metric")
    if not every and (site := chosen.get("hook") or default_site(records, chosen.get("behaviour"), "steer")):
        chosen["hook"] = site
    return "steering"


def _print_table(kind: str, frame: Any, run: "Run", chosen: dict[str, Any]) -> None:
    """A table that is no single row's, as wide as the terminal."""
    from probekit.results import text as text_of

    screen = console()
    if frame.empty:
        ask = "" if kind != "steering" else " A [steer] section in the spec asks for it."
        screen.print(f"{run.name} holds nothing for {kind.replace('_', ' ')}.{ask}")
    elif kind in ("leak_map", "replace_map"):
        _print_map(run.name, run.records, frame, chosen)
    elif kind == "composition":
        _print_composition(run.name, run.records, frame, chosen)
    elif kind == "steering":
        screen.print(text_of.steering_text(frame, screen.width), highlight=False)
    elif kind == "causal":
        screen.print(text_of.causal_text(frame, str(frame["behaviour"].iloc[0]), screen.width), highlight=False)
    elif kind == "deletion":
        screen.print(text_of.deletion_text(frame, f"{run.name}: with a span deleted"))
    else:
        screen.print(text_of.to_text(frame, f"{run.name}: {kind.replace('_', ' ')}"))


def _show_rows(kind: str, run: "Run", chosen: dict[str, Any], csv: bool, as_json: bool) -> None:
    """A table of single rows: in words, or as every other table is printed."""
    from probekit.results import text as text_of
    from probekit.results.examples import rows_table
    from probekit.results.rowtext import in_words

    if as_json:
        print_json("show", not run.problem, rows(rows_table(kind, run, **chosen)), run=run.name, table=kind)
    elif csv:
        typer.echo(text_of.to_csv(rows_table(kind, run, **chosen)).encode(), nl=False)
    else:
        screen = console()
        screen.print(in_words(kind, run, screen.width, **chosen))


def _print_site(records: Any, hook: str | None, chosen: dict[str, Any], screen: Any) -> None:
    """One replaced site in full: every direction set kept and erased, with what stands beside it."""
    from probekit.results.causal import causal, default_site
    from probekit.results.selection import default_behaviour
    from probekit.results.text import causal_text

    at = {name: value for name, value in chosen.items() if name in ("behaviour", "domain", "position")}
    behaviour = at.get("behaviour") or default_behaviour(records)
    if site := hook or default_site(records, behaviour):
        screen.print()
        screen.print(causal_text(causal(records, **at, hook=site), behaviour, screen.width), highlight=False)


def _print_map(run: str, records: Any, frame: Any, chosen: dict[str, Any]) -> None:
    """Every column of a map with its interval, in blocks."""
    from probekit.results.compact import Grid

    screen = console()
    first = frame.iloc[0]
    where = printable(f"{first['behaviour']}, {first['fit_domain']}")
    where += "" if first["position"] == "all" else f", read at {printable(first['position'])}"
    title = f"{run}: unexplained share of {where} (0 explains all, 1 adds nothing to the input)"
    screen.print(title, style="bold")
    for block in Grid.of(frame).blocks(screen.width):
        screen.print(block, end="\n\n")
    _print_beside(records, chosen)


def _print_composition(run: str, records: Any, frame: Any, chosen: dict[str, Any]) -> None:
    """Whether the parts add up at each hook point, and the assumptions of analysis by parts."""
    from probekit.results import parts
    from probekit.results.selection import site_label

    screen = console()
    screen.print(f"{run}: do the parts of {frame['source'].iloc[0]} add up?", style="bold")
    for block in parts.composition_text(frame):
        screen.print(block, end="\n\n")
    for said in parts.screens(records, **chosen):
        screen.print(f"{site_label(said.hook)}, {said.sentence}")


def _print_beside(records: Any, chosen: dict[str, Any]) -> None:
    """What is told under either map: readers on texts without a span, and how activations were extracted."""
    from probekit.results import selection, tables
    from probekit.results import text as text_of

    at = {name: value for name, value in chosen.items() if name in ("behaviour", "domain", "position")}
    without = tables.deletion(records, **{"behaviour": selection.default_behaviour(records) or None, **at})
    if len(without):
        console().print(text_of.deletion_text(without, "as fitted on whole texts, with a span deleted"))
    if said := tables.extraction(records):
        console().print(said, style="dim")


def figure(
    kind: Annotated[str, typer.Argument(help="frontier, leak_map, decomposition, layer_curves, transfer_matrix, ...")],
    run: Annotated[str, typer.Argument(help=_RUN_HELP)],
    out: Annotated[
        Path | None, typer.Option(help="FILE.html, .png, .svg or .pdf; RUN-KIND.html when left out.")
    ] = None,
    behaviour: Annotated[str | None, typer.Option(help="The first one that has a value when left out.")] = None,
    domain: Annotated[str | None, typer.Option(help="Fitted on this domain; the first one when left out.")] = None,
    hook: Annotated[str | None, typer.Option(help="Hook point, for the figures of one.")] = None,
    level: Annotated[str | None, typer.Option(help="Level, for the figures of one.")] = None,
    position: PositionOption = None,
    metric: Annotated[str | None, typer.Option(help="read or replace.")] = None,
    arm: Annotated[str | None, typer.Option(help="chain:matched, linear_first, refit, ...")] = None,
    k: Annotated[str | None, typer.Option("--k", help="One k for the levels that have several, or 'all'.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Light ink on a dark ground.")] = False,
    style: Annotated[
        str, typer.Option(help="screen; slide: 16 : 9 in large type; paper: 8 pt, a column wide, no title.")
    ] = "screen",
    reported: Annotated[Path | None, typer.Option(help="A TOML file of published numbers, of layer_curves.")] = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write one figure of a run to a file. HTML is self-contained; PNG, SVG and PDF need a Chrome or Chromium."""
    with reporting("figure", as_json):
        from probekit.results import figures
        from probekit.results.reported import read_reported
        from probekit.storage.runs import find_run, open_run

        found = open_run(find_run(run, root))
        picked = {"behaviour": behaviour, "domain": domain, "hook": hook, "level": level, "position": position}
        chosen = given(**picked, metric=metric, arm=arm, k=k_of(k))
        published = () if reported is None else read_reported(reported)
        template = "dark" if dark else "light"
        made = figures.figure(kind, found.records, template=template, reported=published, **chosen)
        path = out or Path(f"{found.name}-{kind}.html")
        try:
            figures.write_figure(made, path, style)
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
        chosen = k_of(k)
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
        screen = console()
        where = (hook or "all sites") + (f", read at {position}" if position else "")
        screen.print(f"{found.name}: {printable(behaviour)}, {level} at {printable(where)}, margin {margin:g}")
        for name, frame in judged.items():
            screen.print(text_of.to_text(claims.to_read(frame), f"{name}: {frame['verdict'].iloc[-1]}"))
        for name, why in left_out.items():
            screen.print(f"'{name}' is left out: {why}")


def k_of(text: str | None) -> int | str | None:
    """--k as a number, "all", or None where it was left out."""
    if text is None or text == "all":
        return text
    if not text.isdigit():
        raise BadInput(f"--k is a number or 'all'; found '{text}'.")
    return int(text)


def given(**options: Any) -> dict[str, Any]:
    """The options that were not left out."""
    return {name: value for name, value in options.items() if value is not None}
