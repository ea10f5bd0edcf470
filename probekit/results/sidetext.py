"""A comparison in words: for terminals from 80 columns on, and as HTML."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from probekit.errors import printable
from probekit.results.report.markup import el, plain_table
from probekit.results.text import as_is, fitted, folded, gap_text, narrow, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from probekit.results.compare import Comparison

MEANING = (
    "A, B: share unexplained, over the same groups where these are paired; B - A below 0: B explains more. Intervals "
    "are 95 % of each cell alone; * marks what holds for all cells at once."
)


def side_by_side(found: "Comparison", width: int, every: bool = False) -> "Iterator[RenderableType]":
    """What is told first, then what is comparable, the cells and the rows that changed.

    every: all cells; else those of whole sites and what was chosen, and how many more there are.
    """
    yield folded(" ".join(found.sentences), width)
    yield ""
    yield _table("what is compared", ("", "A", "B", ""), comparable_rows(found.comparable), width)
    if len(found.cells):
        yield ""
        head = ("site", "level", "A", "B", "B - A [95 %]", "")
        shown = found.cells if every else usual_cells(found.cells)
        yield _table("cells", head, cell_rows(shown), width, figures=(2, 3))
        more = len(found.cells) - len(shown)
        yield folded(MEANING + (f" {more} more cells with --wide." if more else ""), width, "dim")
    yield ""
    if found.changed.empty:
        why = f"No examples side by side: {found.unchanged}" if found.unchanged else "No row that both tested changed."
        yield folded(printable(why), width, "dim")
        return
    told = found.changed.attrs
    said = (
        f"Of {told['n']:,} rows tested in both, B misses at least half a bit less on {told['better']:,} and more on "
        f"{told['worse']:,}. Those that changed the most:"
    )
    yield folded(said, width)
    for i, row in enumerate(found.changed.to_dict("records"), 1):
        yield folded(f"{i:>2}  {changed_words(row)}", width)
        yield as_is(f"      {fitted(_plain(row['text']), width - 6)}")


def side_by_side_html(found: "Comparison") -> str:
    """The same as HTML; names and texts are escaped."""
    parts: list[object] = [el("p", sentence) for sentence in found.sentences]
    parts.append(plain_table(("", f"A: {found.a}", f"B: {found.b}", ""), comparable_rows(found.comparable)))
    if len(found.cells):
        parts.append(plain_table(("site", "level", "A", "B", "B - A [95 %]", ""), cell_rows(found.cells)))
        parts.append(el("p", el("small", MEANING)))
    if len(found.changed):
        rows = [(changed_words(row), _plain(row["text"])) for row in found.changed.to_dict("records")]
        parts.append(plain_table(("changed the most", "text"), rows))
    return el("div", parts)


def usual_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """What was chosen, and what is read off all of a site; every cell where there is none of these."""
    usual = (cells["metric"] == "selected") | cells["level"].isin(["linear", "nonlinear"])
    return cells[usual] if usual.any() else cells


def comparable_rows(told: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """what, A, B, verdict; B is left empty where both are equal."""
    return [
        (row["what"], row["a"], "" if row["verdict"] == "equal" else row["b"],
         row["verdict"] + (f": {row['means']}" if row["verdict"] == "different" else ""))
        for row in told.to_dict("records")
    ]  # fmt: skip


def cell_rows(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """site, level, A, B, difference with its interval, verdict."""
    out = []
    for row in cells.to_dict("records"):
        at_once = row["band_high"] < 0 or row["band_low"] > 0
        verdict = row["verdict"] + ("*" if at_once else "")
        verdict += f" ({row['reason']})" if row["reason"] and row["verdict"] != "NA" else ""
        said = row["reason"] if row["verdict"] == "NA" else gap_text(row)
        out.append((row["site"], row["label"], number(row["a"]), number(row["b"]), said, verdict))
    return out


def across_rows(table: pd.DataFrame, runs: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """(heading, lines) of what `across` gives: a line per site and level that all runs have, a column per run."""
    marks = {"better": "+", "worse": "-", "equal": "=", "cannot tell": " ", "NA": ""}
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.to_dict("records"):
        said = number(row["value"]) + ("" if row["run"] == runs[0] else marks[row["verdict"]])
        lines.setdefault((row["site"], row["label"]), {})[row["run"]] = said
    whole = [(*where, *(cells[run] for run in runs)) for where, cells in lines.items() if len(cells) == len(set(runs))]
    return ["site", "level", *runs], whole


def changed_words(row: dict) -> str:
    """What became of one row."""
    way = "less" if row["change"] < 0 else "more"
    did = f"'{row['outcome_a']}'" + ("" if row["outcome_a"] == row["outcome_b"] else f", then '{row['outcome_b']}'")
    return printable(
        f"{number(abs(row['change']))} bits {way} missed ({number(row['missed_bits_a'])} to "
        f"{number(row['missed_bits_b'])}); behaviour {did}; group {row['group']}"
    )


def _table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], width: int, figures: Sequence[int] = ()
) -> "Table":
    from rich.table import Table

    table = Table(title=as_is(title, "table.title"), **narrow())
    for i, name in enumerate(head):
        table.add_column(as_is(name), overflow="fold", justify="right" if i in figures else "left")
    for row in rows:
        table.add_row(*(as_is(fitted(printable(cell), width)) for cell in row))
    return table


def _plain(text: object) -> str:
    return printable(" ".join(("(no text)" if pd.isna(text) else str(text)).split()))
