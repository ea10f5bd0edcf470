"""Numbers, tables and findings in words, for terminals and files."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from probekit.errors import printable
from probekit.results.selection import at_domain, levels, na_words, pick, site_label, unembedding, vocabulary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


def selected_site(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> str:
    """One line on the hook point that selection rows prefer for the richest linear level read, and its p_max; or ''.

    Where that is the unembedding's, it says so, since it is no finding.
    """
    from probekit.results.tables import layer_curves  # some of whose tables are told in words, too

    rows = at_domain(pick(frame, behaviour=behaviour, metric="selected", position=position), domain, seen=True)
    if rows.empty:
        return ""
    found = levels(rows, "selected")
    row = rows[rows["level"] == ("linear" if "linear" in found else found[-1])].iloc[0]
    chosen = f"{site_label(row['hook'])}, {value_text(row)} unexplained"
    text = f"Chosen on selection rows for {vocabulary(row['level'])}: {chosen}."
    text += " There the unembedding reads, which is no finding." * (row["hook"] == unembedding(frame, row["behaviour"]))
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

    moved = frame["metric"] == "transfer"
    arms = frame["arm"].where(~frame["level"].str.startswith("hypothesis:"), "refit")  # a hypothesis moves as it is
    value = "FBU, or T elsewhere," if moved.any() else "FBU"
    columns = {"behaviour": "behaviour"} if frame["behaviour"].nunique() > 1 else {}
    columns |= {"span": "deleted"} | ({"test_domain": "domain"} if moved.any() else {})
    columns |= {"site": "site", "label": "level", "floor": "floor"}
    headings = (*columns.values(), f"{value} whole", f"{value} deleted [95 %]", "bits", "AUROC")
    table = Table(title=as_is(title, "table.title"))
    for heading in headings:
        table.add_column(as_is(heading))
    for _, row in frame[~moved | (arms == "refit")].iterrows():
        whole = "NA" if pd.isna(row["whole"]) else f"{row['whole']:.2f}"
        bits = "" if pd.isna(row["bits"]) else f"{row['bits_whole']:.2f} -> {row['bits']:.2f}"
        area = "" if pd.isna(row["auroc"]) else f"{row['auroc_whole']:.2f} -> {row['auroc']:.2f}"
        cells = (*(row[name] for name in columns), whole, value_text(row), bits, area)
        table.add_row(*map(as_is, cells))
    return table


# ------------------------------------------------------------------------------------------------------------- as text


def number(value: Any, digits: int = 2) -> str:
    """Two digits without the leading zero, as in print: .23, -.03, 1.02. Nothing is clipped; missing is NA."""
    if value is None or pd.isna(value):
        return "NA"
    text = f"{float(value):.{digits}f}"
    text = text.removeprefix("-") if not text.strip("-0.") else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, ended by a line break."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, ["---"] * len(columns), *rows))


def terminal_width() -> int:
    """Columns of the terminal: COLUMNS where it is set, what the terminal says, 80 where there is none."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def screen(width: int, **given: Any) -> "Console":
    """A console that prints text from data as it is: no markup, no emoji, no control characters."""
    from rich.console import Console
    from rich.text import Text

    class Screen(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(_shown(text), **how)

    return Screen(width=width, highlight=False, markup=False, emoji=False, **given)


def rendered(shown: "RenderableType", width: int | None = None) -> str:
    """What rich would print, as plain text of at most `width` columns, without colour."""
    console = screen(width or terminal_width(), file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as caught:
        console.print(shown)
    return "\n".join(line.rstrip() for line in caught.get().splitlines())


def as_is(value: object, style: str = "") -> "Text":
    """What is written, a name of the user's too: no markup, no control of the terminal, folded where it is too long."""
    from rich.text import Text

    return Text(_shown(str(value)), style, overflow="fold")


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def folded(text: str, width: int, style: str = "") -> "Text":
    """Text broken at spaces, or inside a word that is wider than the line."""
    from rich.text import Text

    console = screen(width, file=io.StringIO(), color_system=None, legacy_windows=False)
    return Text("\n").join(Text(text, style, overflow="fold").wrap(console, width))


def fitted(name: str, width: int) -> str:
    """A name in `width` cells: what is too long loses its middle."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(name) <= width:
        return name
    tail = (width - 1) // 2
    end = name[-tail:] if tail else ""
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(name, width - 1 - cell_len(end)).rstrip() + "…" + end


def beside_value(row: Mapping[str, Any] | pd.Series) -> str:
    """Told beside a value of `leak_map`: AUROC and accuracy, or R²; the fit rows and what half of them brought."""
    probe = [f"{name} {number(row[key])}" for name, key in (("AUROC", "auroc"), ("accuracy", "accuracy"), ("R²", "r2"))
             if pd.notna(row[key])]  # fmt: skip
    whose = "" if row["level"] in ("prior", "baseline") else "as a probe of this layer alone: "
    said = [f"{whose}{', '.join(probe)}"] if probe else []
    if pd.notna(row["n_fit"]) and row["n_fit"]:
        fell = f"[{number(row['falls_low'])}, {number(row['falls_high'])}]"
        brought = "" if pd.isna(row["falls"]) else f", the second half of which brought {number(row['falls'])} {fell}"
        said.append(f"{int(row['n_fit']):,} fit rows{brought}")
    return "; ".join(said)


def value_text(row: Mapping[str, Any] | pd.Series, sep: str = " ") -> str:
    """`.23 [.20, .26]`, or `NA` with its reason in words."""
    if pd.isna(row["value"]):
        return f"NA{sep}({na_words(row['na_reason'])})"
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return number(row["value"])
    return f"{number(row['value'])}{sep}[{number(row['low'])}, {number(row['high'])}]"


def gap_text(row: Mapping[str, Any] | pd.Series) -> str:
    """A difference with its interval, in as many digits as show that it is not 0: `-.012 [-.021, -.004]`."""
    if pd.isna(row["difference"]):
        return "NA"
    parts = [row["difference"]] + ([] if pd.isna(row["low"]) else [row["low"], row["high"]])
    least = min((abs(part) for part in parts if part), default=1.0)
    digits = next((n for n in (2, 3, 4) if least >= 0.5 * 10.0**-n), 4) if row["verdict"] in ("better", "worse") else 2
    said = [number(part, digits) for part in parts]
    return said[0] if len(said) == 1 else f"{said[0]} [{said[1]}, {said[2]}]"


def told_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that tell rows of a table apart, in the order in which they are shown."""
    columns = (
        "behaviour", "feature", "fit_domain", "test_domain", "site", "label", "k", "situation", "metric", "floor",
        "control", "position",
    )  # fmt: skip
    shown = [name for name in columns if name in frame and frame[name].astype(str).nunique() > 1]
    return [name for name in shown if name != "test_domain" or "situation" not in shown]


def to_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """A rich table of any frame made here. Long cells are folded, never cut."""
    from rich.table import Table

    shown = told_columns(frame)
    if not {"value", "na_reason"} <= set(frame.columns) or "low" not in frame:
        table = Table(title=as_is(title, "table.title") if title else None, **narrow())
        for heading in frame.columns:
            table.add_column(as_is(heading))
        for row in frame.itertuples(index=False):
            table.add_row(*(as_is("" if pd.isna(cell) else cell) for cell in row))
        return table
    table = Table(title=as_is(title, "table.title") if title else None, **narrow())
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold")
    table.add_column("value [95 %]", overflow="fold", min_width=16)
    bits = {"bits": "bits", "floor_bits": "floor", "ceiling_bits": "ceiling", "n": "n"}
    for heading in bits.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        cells = ["" if pd.isna(row[name]) else str(row[name]) for name in shown]
        figures = ["" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in list(bits)[:-1]]
        table.add_row(*map(as_is, [*cells, value_text(row), *figures, row["n"]]))
    return table


def narrow() -> dict[str, Any]:
    """No frame between cells and little air, so that a table of many columns fits a narrow terminal."""
    from rich.box import SIMPLE_HEAD

    return {"box": SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0), "title_justify": "left"}


def to_csv(frame: pd.DataFrame) -> str:
    """CSV text. A text cell that a spreadsheet would run as a formula gets a leading apostrophe."""
    safe = frame.rename(columns=_defused)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]) and not pd.api.types.is_bool_dtype(safe[name]):
            safe[name] = safe[name].map(_defused)
    return safe.to_csv(index=False)


def _defused(cell: object) -> object:
    return "'" + cell if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


CAUSAL_HEADS = {"read": "read", "kept": "kept", "random_kept": "random", "alike": "alike", "kept_mean": "mean",
          "erased": "erased", "random_erased": "random", "erased_mean": "mean", "erased_leace": "LEACE",
          "interchanged": "swap"}  # fmt: skip
_CELL = 7  # columns of a number
CAUSAL_LEGEND = (
    "read: unexplained by a reader of these directions (of the label, where one is named). kept: unexplained when only "
    "they are kept, the rest from any donor; alike: from donors with nearly the same value; mean: from the mean. "
    "erased: what is still done without them, of what the site does: 0 none of it, 1 they can go. swap: exchanged "
    "with a donor's that answers otherwise: 0 the answer follows as it does with all of the site, 1 no more than with "
    "random directions. random: the same of random directions of equal k."
)


def causal_text(table: pd.DataFrame, behaviour: str, width: int) -> str:
    """Lines of at most `width` cells, from 80 on: a block for each site; columns without any number are left out."""
    from rich.cells import cell_len

    out = []
    for site, rows in table.groupby("site", sort=False):
        shown = [name for name in CAUSAL_HEADS if name in rows and rows[name].notna().any()]
        left = max(16, min(width - _CELL * len(shown), int(rows["label"].str.len().max())))
        first = rows.iloc[0]
        nothing = "" if pd.isna(first["nothing"]) else f"; nothing kept (k=0) leaves {number(first['nothing'])}"
        out.append(folded(f"{printable(behaviour)} at {site}: {first['n']:,} test rows of {first['groups']:,} groups"
                          f"{nothing}", width))  # fmt: skip
        out.append(" " * left + "".join(f"{CAUSAL_HEADS[name]:>{_CELL}}" for name in shown))
        for row in rows.to_dict("records"):
            cells = ["-" if pd.isna(row[name]) else number(row[name]) for name in shown]
            label = printable(row["label"])
            if cell_len(label) > left:
                label = fitted(label.removeprefix("directions ").removeprefix("direction "), left)
            out.append(label + " " * (left - cell_len(label)) + "".join(f"{cell:>{_CELL}}" for cell in cells))
        out += [folded(said, width) for said in _trained(rows)]
        learned: pd.DataFrame = rows[rows["source"] == "das"] if "in_twin" in rows else rows.head(0)
        out += [folded(_beside_learned(row), width) for row in learned.to_dict("records")]
        out.append("")
    return _lines([*out, folded(CAUSAL_LEGEND, width)])


def _trained(rows: pd.DataFrame) -> Iterable[str]:
    """How much training each set, kept alone with one donor's rest, is worth; nothing without a curve."""
    if "trained" not in rows or rows["trained"].isna().all():
        return
    told = [f"{printable(row['label'])} {_share(row)}" for row in rows.to_dict("records") if pd.notna(row["trained"])]
    yield f"As good as the model was after this share of its training: {'; '.join(told)}."


def _share(row: Mapping[str, Any]) -> str:
    """A share that may be tiny, with its interval."""
    return f"{row['trained']:.2g} [{row['trained_low']:.2g}, {row['trained_high']:.2g}]"


_BESIDE = {
    "in_twin": "{} by the same search in a random network", "shuffled": "{} by one for shuffled answers",
    "placebo": "{} moved as far in random directions", "illusion": "illusion gap {}",
    "dormant": "{} of the move along what hardly varies", "far": "{} of edited rows beyond natural ones",
    "gap": "{} more right on the pairs that it was learned from",
}  # fmt: skip


def _beside_learned(row: Mapping[str, Any]) -> str:
    """What stands beside the exchange of a learned subspace, in words."""
    why = row["interchanged_why"]
    own = f"NA ({na_words(why)})" if why else number(row["interchanged"])
    told = [said.format(number(row[name])) for name, said in _BESIDE.items() if pd.notna(row[name])]
    return (
        f"Exchange of {printable(row['label'])} leaves {own}; beside it: {', '.join(told) or 'nothing was measured'}."
    )


STEERING_LEGEND = (
    "effect: bits by which the log-odds of the named outcome rise, with its 95 % interval. share: by how much its "
    "share of what is written does. wrong: share of texts that move against the dose. unrelated: bits of KL of the "
    "next token after texts of something else. random: the same of random directions of equal length; as large as it "
    "is, an effect is one of length alone."
)
_STEERING_HEADS = (("dose", "dose"), ("effect", "effect"), ("random_effect", "random"), ("share", "share"),
                   ("random_share", "random"), ("wrong", "wrong"),
                   ("random_wrong", "random"), ("unrelated", "unrelated"), ("random_unrelated", "random"))  # fmt: skip


def steering_text(table: pd.DataFrame, width: int) -> str:
    """Lines of at most `width` cells, from 60 on: a block for each direction of each site, a line per dose."""
    out: list[object] = []
    for (behaviour, site), here in table.groupby(["behaviour", "site"], sort=False):
        first = here.iloc[0]
        said = f"{behaviour} at {site}: {first['n']:,} test rows of {first['groups']:,} groups, a direction added"
        out += [folded(printable(f"{said}; a dose of 1 is one standard deviation of its readout."), width), ""]
        for label, rows in here.groupby("label", sort=False):
            out.append(folded(printable(f"{label}: {rows['note'].iloc[0]}"), width))
            out += [*_in_columns(rows, width), ""]
    return _lines([*out, folded(STEERING_LEGEND, width)])


def _lines(parts: Iterable[object]) -> str:
    return "\n".join(line.rstrip() for part in parts for line in str(part).split("\n"))


def _in_columns(rows: pd.DataFrame, width: int) -> list[str]:
    """Doses under headings; without intervals where these do not fit."""
    shown = [(name, head) for name, head in _STEERING_HEADS if name == "dose" or rows[name].notna().any()]
    for told in (("effect", "random_effect", "share", "random_share"), ("effect", "share"), ()):
        columns = [[head, *(_dosed(row, name, name in told) for row in rows.to_dict("records"))]
                   for name, head in shown]  # fmt: skip
        widths = [max(map(len, cells)) for cells in columns]
        if sum(widths) + 2 * len(widths) - 2 <= width:
            break
    return ["  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True))
            for line in zip(*columns, strict=True)]  # fmt: skip


def _dosed(row: Mapping[str, Any], name: str, interval: bool) -> str:
    if name == "dose":
        return f"{row['dose']:+g}"
    if pd.isna(row[name]):
        return "-"
    told = interval and pd.notna(row[f"{name}_low"]) and pd.notna(row[f"{name}_high"])
    between = f" [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]" if told else ""
    return number(row[name]) + between
