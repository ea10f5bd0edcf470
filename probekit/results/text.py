"""Numbers, tables and findings in words, for terminals and files."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from probekit.results.selection import at_domain, levels, pick, site_label, vocabulary
from probekit.results.tables import layer_curves

if TYPE_CHECKING:
    from rich.table import Table


def selected_site(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> str:
    """One line on the hook point that selection rows prefer for the richest linear level read, and its p_max; or ''."""
    rows = at_domain(pick(frame, behaviour=behaviour, metric="selected", position=position), domain, seen=True)
    if rows.empty:
        return ""
    found = levels(rows, "selected")
    row = rows[rows["level"] == ("linear" if "linear" in found else found[-1])].iloc[0]
    text = f"Chosen on selection rows for {vocabulary(row['level'])}: {site_label(row['hook'])}, FBU {value_text(row)}."
    curve = layer_curves(frame, behaviour=behaviour, domain=domain, position=position, level=row["level"], k="all")
    here = curve[(curve["control"] == "") & (curve["hook"] == row["hook"]) & (curve["source"] == row["source"])]
    here = here[here["k"].fillna(-1) == (-1 if pd.isna(row["k"]) else row["k"])]
    if here.empty or pd.isna(here["p_max"].iloc[0]):
        return text
    return f"{text} p_max {here['p_max'].iloc[0]:.3g}: chance of a gain this large at any site under permutation."


def deletion_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """`deletion` for the terminal: what each reader left unexplained before and after, in FBU, bits and AUROC.

    Rows of another domain than the one fitted on hold T in place of FBU, after one temperature and intercepts.
    """
    from rich.table import Table
    from rich.text import Text

    moved = frame["metric"] == "transfer"
    arms = frame["arm"].where(~frame["level"].str.startswith("hypothesis:"), "refit")  # a hypothesis moves as it is
    value = "FBU, or T elsewhere," if moved.any() else "FBU"
    columns = {"behaviour": "behaviour"} if frame["behaviour"].nunique() > 1 else {}
    columns |= {"span": "deleted"} | ({"test_domain": "domain"} if moved.any() else {})
    columns |= {"site": "site", "label": "level", "floor": "floor"}
    table = Table(*columns.values(), f"{value} whole", f"{value} deleted [95 %]", "bits", "AUROC", title=title)
    for _, row in frame[~moved | (arms == "refit")].iterrows():
        whole = "NA" if pd.isna(row["whole"]) else f"{row['whole']:.2f}"
        bits = "" if pd.isna(row["bits"]) else f"{row['bits_whole']:.2f} -> {row['bits']:.2f}"
        area = "" if pd.isna(row["auroc"]) else f"{row['auroc_whole']:.2f} -> {row['auroc']:.2f}"
        cells = (*(row[name] for name in columns), whole, value_text(row), bits, area)
        table.add_row(*(Text(str(cell), overflow="fold") for cell in cells))
    return table


# ------------------------------------------------------------------------------------------------------------- as text


def number(value: object) -> str:
    """Two digits without the leading zero, as in print: .23, -.03, 1.02. Nothing is clipped; missing is NA."""
    if value is None or pd.isna(value):  # type: ignore[arg-type]
        return "NA"
    text = f"{float(value):.2f}"  # type: ignore[arg-type]
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def value_text(row: Mapping[str, Any] | pd.Series, sep: str = " ") -> str:
    """`.23 [.20, .26]`, or `NA` with its reason in words."""
    if pd.isna(row["value"]):
        return f"NA{sep}({NA_WORDS.get(str(row['na_reason']), 'no reason recorded')})"
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return number(row["value"])
    return f"{number(row['value'])}{sep}[{number(row['low'])}, {number(row['high'])}]"


NA_WORDS = {
    "small_denominator": "nothing to explain",
    "too_few_rows": "too few rows",
    "absent_in_test_domain": "absent there",
    "not_converged": "not converged",
    "not_defined": "not defined",
    "failed": "failed",
}


def to_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """A rich table of any frame made here. Long cells are folded, never cut."""
    from rich.table import Table
    from rich.text import Text

    columns = (
        "behaviour", "feature", "fit_domain", "test_domain", "site", "label", "k", "situation", "metric", "floor",
        "control", "position",
    )  # fmt: skip
    shown = [name for name in columns if name in frame and frame[name].astype(str).nunique() > 1]
    if "situation" in shown:
        shown.remove("test_domain")
    if not {"value", "na_reason"} <= set(frame.columns) or "low" not in frame:
        table = Table(*map(str, frame.columns), title=title or None)
        for row in frame.itertuples(index=False):
            table.add_row(*(Text("" if pd.isna(cell) else str(cell), overflow="fold") for cell in row))
        return table
    table = Table(title=title or None)
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold")
    table.add_column("value [95 %]", overflow="fold", min_width=16)
    bits = ["bits", "floor_bits", "ceiling_bits", "n"]
    for name in bits:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold", min_width=5)
    for _, row in frame.iterrows():
        cells = ["" if pd.isna(row[name]) else str(row[name]) for name in shown]
        figures = ["" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in bits[:-1]]
        table.add_row(*(Text(cell, overflow="fold") for cell in [*cells, value_text(row), *figures, str(row["n"])]))
    return table


def leak_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """`leak_map` as a grid for the terminal: a row per site, the last layer on top, a column per level."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, show_lines=True)
    table.add_column("site", overflow="fold", no_wrap=False)
    columns = list(frame.sort_values("level_order", kind="stable")["label"].unique())
    for label in columns:
        table.add_column(label, overflow="fold", justify="right")
    for site in reversed(list(frame.sort_values("site_order", kind="stable")["site"].unique())):
        cells = []
        for label in columns:
            rows = frame[(frame["site"] == site) & (frame["label"] == label)]
            cells.append(Text(value_text(rows.iloc[0], "\n") if len(rows) else "", overflow="fold"))
        table.add_row(Text(site), *cells)
    return table


def to_csv(frame: pd.DataFrame) -> str:
    """CSV text. A text cell that a spreadsheet would run as a formula gets a leading apostrophe."""
    safe = frame.rename(columns=_defused)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]) and not pd.api.types.is_bool_dtype(safe[name]):
            safe[name] = safe[name].map(_defused)
    return safe.to_csv(index=False)


def _defused(cell: object) -> object:
    return "'" + cell if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
