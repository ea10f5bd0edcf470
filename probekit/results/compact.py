"""The compact map: a row per site and as many levels as a width holds, in short names. Text for terminals, and HTML."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from probekit.errors import printable
from probekit.results.selection import level_rank, na_words, site_label
from probekit.results.text import fitted, folded, number

if TYPE_CHECKING:
    from rich.text import Text

SCALE = "share unexplained: 0 explains all, 1 adds nothing to the input"
UNEMBEDDING = "* the unembedding reads this site: linear there is the unembedding, no finding"
_GAP = 2
_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
_SHORT = {
    "prior": "prior", "baseline": "floor", "neurons": "neurons", "direction": "direct.", "directions": "dirs",
    "simple:one_threshold": "1 thr.", "simple:two_thresholds": "2 thr.", "simple:quadratic": "quadr.",
    "simple:bilinear": "bilin.", "simple:cubic": "cubic", "simple:mlp16": "mlp16", "linear": "linear",
    "nonlinear": "nonlin.",
}  # fmt: skip
_SOURCES = {"mean_difference": "mean", "logistic": "logit", "lda": "LDA"}
# Background and ink of a cell, by the share that is explained: what leaks least stands out, what misleads is orange.
_SHADES = (
    (0.2, "white", "#08519c"), (0.4, "white", "#3182bd"), (0.6, "black", "#6baed6"), (0.8, "black", "#bdd7e7"),
    (1.05, "", ""), (float("inf"), "black", "#fdae6b"),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One level at one k from one source. head, below: the two lines of its heading. rank: which to leave out last."""

    head: str
    below: str
    rank: tuple
    order: tuple

    @property
    def name(self) -> str:
        return f"{self.head} {self.below}".strip()


# Of the linear reader where the behaviour is certain: what papers report, to its right.
_BESIDE = {
    Column(head, "linear", (0, level_rank("linear"), True, head), (0, level_rank("linear"), True, head)): name
    for head, name in (("AUROC", "auroc"), ("acc.", "accuracy"), ("R²", "r2"))
}


@dataclass(frozen=True)
class Grid:
    """A map ready to be shown: sites in forward order, columns by level, and the record's row of each cell."""

    sites: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Mapping[str, Any]]
    marked: str = ""  # the site that the unembedding reads

    @classmethod
    def of(cls, rows: pd.DataFrame, unembedding: str = "") -> "Grid":
        """From the rows of `leak_map` or `replace_map`; the first record of a place is the one that is shown."""
        cells: dict[tuple[str, Column], Mapping[str, Any]] = {}
        for row in rows.sort_values("site_order", kind="stable").to_dict("records"):
            cells.setdefault((row["site"], _column(row)), row)
        of_linear = [(site, row) for (site, column), row in cells.items() if column.head == "linear"]
        for site, row in of_linear:
            told = {beside: row[name] for beside, name in _BESIDE.items() if pd.notna(row.get(name))}
            cells |= {(site, beside): {"value": value, "plain": True} for beside, value in told.items()}
        sites = tuple(dict.fromkeys(site for site, _ in cells))
        columns = sorted({column for _, column in cells}, key=lambda column: column.order)
        levels = [column for column in columns if column.head not in ("prior", "floor")]
        marked = site_label(unembedding) if unembedding else ""
        return cls(sites, tuple(levels or columns), cells, marked if marked in sites else "")

    def text(self, width: int, intervals: bool = False) -> "Text":
        """Lines of at most `width` cells."""
        from rich.cells import cell_len
        from rich.text import Text

        most = max(8, width // 3)
        names = {site: fitted(printable(site), most - 1) + ("*" if site == self.marked else "") for site in self.sites}
        left = min(most, max((cell_len(name) for name in names.values()), default=4))
        marks = {reason: _MARKS[min(i, 8)] for i, reason in enumerate(self._reasons(self.columns))}
        told = {place: _cell(row, marks, intervals) for place, row in self.cells.items()}
        widths = {
            column: max(cell_len(column.head), cell_len(column.below),
                        *(len(told[site, column]) for site in self.sites if (site, column) in told))
            for column in self.columns
        }  # fmt: skip
        shown = _fitting(self.columns, widths, width - left)
        lines = [Text(" " * left + "".join(_right(getattr(column, part), widths[column]) for column in shown), "bold")
                 for part in ("head", "below")]  # fmt: skip
        for site in self.sites:
            line = Text(names[site] + " " * (left - cell_len(names[site])))
            for column in shown:
                cell, style = told.get((site, column), ""), _shade(self.cells.get((site, column)))
                line.append(" " * (_GAP + widths[column] - len(cell)))
                line.append(cell, style)
            lines.append(line)
        lines += [folded(said, width, "dim") for said in self._legend(shown, marks)]
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def blocks(self, width: int) -> "list[Text]":
        """Every column with its interval, as many side by side as fit, the others below."""
        n = max(1, (width - width // 3) // (_GAP + len("1.00 [1.00, 1.00]")))
        parts = (self.columns[i : i + n] for i in range(0, len(self.columns), n))
        return [replace(self, columns=part).text(width, intervals=True) for part in parts]

    def html(self) -> str:
        """A table of every column, shaded alike; names from data are escaped."""
        head = "".join(f"<th>{escape(column.head)}<br>{escape(column.below)}</th>" for column in self.columns)
        marks = {reason: _MARKS[min(i, 8)] for i, reason in enumerate(self._reasons(self.columns))}
        body = []
        for site in self.sites:
            cells = []
            for column in self.columns:
                row = self.cells.get((site, column))
                style = f' style="{_css(row)}"' if _css(row) else ""
                full = escape(_cell(row, marks, True), quote=True) if row else ""
                cells.append(f'<td{style} title="{full}">{escape(_cell(row, marks, False)) if row else ""}</td>')
            mark = "*" if site == self.marked else ""
            body.append(f"<tr><th>{escape(printable(site))}{mark}</th>{''.join(cells)}</tr>")
        said = "<br>".join(escape(line) for line in self._legend(self.columns, marks))
        return (
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table><small>{said}</small>"
        )

    def _reasons(self, columns: Sequence[Column]) -> list[str]:
        """Why cells of these columns are NA, in the order in which they are met."""
        rows = (self.cells.get((site, column)) for site in self.sites for column in columns)
        return list(dict.fromkeys(str(row["na_reason"]) for row in rows if row and pd.isna(row["value"])))

    def _of_floor(self) -> str:
        """What AUROC and accuracy are to be compared with."""
        row = next((row for (_, column), row in self.cells.items() if column.head == "floor"), {})
        told = [f"{column.head} {number(row.get(name))}" for column, name in _BESIDE.items() if pd.notna(row.get(name))]
        return f"the input alone: {', '.join(told)}" if told else ""

    def _legend(self, shown: Sequence[Column], marks: Mapping[str, str]) -> list[str]:
        lines = [SCALE, self._of_floor()]
        lines += [UNEMBEDDING] if self.marked else []
        seen = self._reasons(shown)
        lines += ["; ".join(f"NA{marks[reason]} {na_words(reason)}" for reason in seen)]
        hidden = [column.name for column in self.columns if column not in shown]
        lines += [f"not shown for want of width: {', '.join(hidden)}"] if hidden else []
        return [line for line in lines if line]


def _column(row: Mapping[str, Any]) -> Column:
    level, source, k = row["level"], row["source"], row["k"]
    at_k = "" if pd.isna(k) else f"k={int(k)}"
    order = (level_rank(level), source == "pca", source, -1 if pd.isna(k) else int(k))
    if row.get("control") == "random_directions":
        head = ("none", "k=0") if at_k == "k=0" else ("random", at_k)
        return Column(*head, (1, *order), (1, *order))
    if level.startswith("hypothesis:"):  # its k is the rank of what was decoded, which differs from site to site
        order = order[:3]
        return Column(fitted(printable(level.partition(":")[2]), 9), source, (2, *order), (0, *order))
    if source.startswith(("label:", "given:")):  # fitted to something else, whose name says more than the level
        name = source.split(":")[1]
        return Column(fitted(printable(name), 9), at_k, (5, *order), (0, *order))
    if level == "direction":
        return Column(
            _SHORT[level], _SOURCES.get(source, source), (6 if source == "logistic" else 9, *order), (0, *order)
        )
    if source == "pca":
        return Column("PCA", at_k, (8, *order), (0, *order))
    first = {"linear": 0, "nonlinear": 3, "directions": 4, "neurons": 7}.get(level, 5)
    return Column(_SHORT.get(level, level), at_k, (first, *order), (0, *order))


def _fitting(columns: Sequence[Column], widths: Mapping[Column, int], room: int) -> list[Column]:
    """The columns of lowest rank that fit, in their order; always one."""
    kept: list[Column] = []
    for column in sorted(columns, key=lambda column: column.rank):
        needed = widths[column] + _GAP
        if needed <= room or not kept:
            kept.append(column)
            room -= needed
    return [column for column in columns if column in kept]


def _cell(row: Mapping[str, Any], marks: Mapping[str, str], intervals: bool) -> str:
    if pd.isna(row["value"]):
        return f"NA{marks.get(str(row['na_reason']), '')}"
    if not intervals or row.get("plain") or pd.isna(row["low"]) or pd.isna(row["high"]):
        return number(row["value"])
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def _shaded(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None or row.get("plain") or pd.isna(row["value"]):
        return "", ""
    return next((ink, ground) for most, ink, ground in _SHADES if row["value"] <= most)


def _shade(row: Mapping[str, Any] | None) -> str:
    ink, ground = _shaded(row)
    return f"{ink} on {ground}" if ground else ""


def _css(row: Mapping[str, Any] | None) -> str:
    ink, ground = _shaded(row)
    return f"color:{ink};background:{ground}" if ground else ""


def _right(text: str, width: int) -> str:
    from rich.cells import cell_len

    return " " * (_GAP + width - cell_len(text)) + text
