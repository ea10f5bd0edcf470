"""`summary`: a frame of records as its headline and compact map, for a terminal, a notebook and `print`."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from probekit.errors import printable
from probekit.results.compact import Grid
from probekit.results.headline import Headline, headline
from probekit.results.sampled import sampled_names, sampled_sentences
from probekit.results.selection import behaviours, default_behaviour, domains, positions
from probekit.results.tables import leak_map, replace_map
from probekit.results.text import folded, rendered

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class Summary:
    """What was found: `str` and `print` give text as wide as the terminal, a notebook shows HTML.

    headline: sentences and warnings. grid: the map. title: what the map is of. others: what else is in the records.
    sampled: of behaviours that nobody picked.
    """

    headline: Headline
    grid: Grid
    title: str
    others: tuple[str, ...] = ()
    intervals: bool = False
    sampled: tuple[str, ...] = ()

    def __str__(self) -> str:
        return rendered(self)

    def __repr__(self) -> str:
        return str(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        width = options.max_width
        yield folded(" ".join(self.headline.sentences), width)
        for said in self.headline.warnings:
            yield folded(f"Beware: {said}", width, "yellow")
        if self.grid.sites:
            yield folded(f"\n{self.title}", width, "bold")
            yield self.grid.text(width, self.intervals)
        for said in self.sampled:
            yield folded(said, width)
        for said in self.others:
            yield folded(said, width, "dim")

    def _repr_html_(self) -> str:
        said = f"<p>{escape(' '.join(self.headline.sentences))}</p>"
        said += "".join(f"<p><b>Beware:</b> {escape(warning)}</p>" for warning in self.headline.warnings)
        shown = f"<p><b>{escape(self.title)}</b></p>{self.grid.html()}" if self.grid.sites else ""
        shown += "".join(f"<p>{escape(line)}</p>" for line in self.sampled)
        return f"<div>{said}{shown}{''.join(f'<p><small>{escape(other)}</small></p>' for other in self.others)}</div>"


def summary(
    records: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    position: str | None = None,
    metric: str = "read",
    arm: str | None = None,
    k: int | str | None = None,
    intervals: bool = False,
) -> Summary:
    """The headline of one behaviour and its map over sites and levels.

    records: a frame as `measure`, `read_run` or `Run.records` give it. behaviour: the first that has a value when left
    out; domain, position: the first. metric: `read`, or `replace` for the map of what the model runs on; arm: donors
    `matched` or `random`, of replace. k: one k for the levels that have several, or "all". intervals: 95 % intervals in
    the map. Raises BadInput for what the records do not have.

    >>> import probekit as pk
    >>> found = pk.summary(pk.read_run("runs/othello"), behaviour="next_move")
    >>> "unexplained" in str(found) and "floor" not in found.title
    True
    """
    behaviour = behaviour or default_behaviour(records)
    named = behaviour or None
    if metric == "replace":
        rows = replace_map(records, behaviour=named, domain=domain, arm=arm, position=position, k=k)
    else:
        rows = leak_map(records, behaviour=named, domain=domain, metric=metric, position=position, k=k)
    told = headline(records, behaviour=named, domain=domain, position=position)
    grid = Grid.of(rows, told.unembedding if metric == "read" else "")
    return Summary(told, grid, _title(rows, metric), _others(records, rows, behaviour, metric), intervals,
                   sampled_sentences(records, domain, position) if metric == "read" else ())  # fmt: skip


def _title(rows: pd.DataFrame, metric: str) -> str:
    if rows.empty:
        return ""
    first = rows.iloc[0]
    where = f"{printable(first['behaviour'])}, {printable(first['fit_domain'])}"
    where += "" if first["position"] == "all" else f", read at {printable(first['position'])}"
    if metric != "replace":
        return f"Unexplained share of {where}"
    donors = sorted({arm.partition(":")[2] for arm in rows["arm"].unique() if arm.partition(":")[2]})
    said = donors[0] if donors else ""
    return f"Unexplained share of {where}, when only this is kept ({said} donors; all sites: kept at every one at once)"


def _others(records: pd.DataFrame, rows: pd.DataFrame, behaviour: str, metric: str) -> tuple[str, ...]:
    """What else the records hold that this is not of."""
    shown = rows.iloc[0] if len(rows) else None
    places = positions(records, behaviour)
    lists: list[tuple[str, Sequence[str]]] = [
        ("behaviour", [name for name in behaviours(records) if name not in (behaviour, *sampled_names(records))]),
        ("domain", [name for name in domains(records, behaviour) if shown is None or name != shown["fit_domain"]]),
        ("position", [name for name in places if shown is None or name != shown["position"]]),
        ("metric", [m for m in ("replace", "compose") if metric == "read" and m in set(records["metric"])]),
    ]
    said = "; ".join(f"{what} {', '.join(map(printable, names))}" for what, names in lists if names)
    return (f"also measured: {said}",) if said else ()
