"""Figures of runs side by side: two and their difference by site, more of them on one axis or a field each."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportOperatorIssue=false

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.results.looks import (
    DASHES,
    HUES,
    MARKERS,
    PALETTES,
    Places,
    Template,
    add_gaps,
    dress,
    error_bars,
    escape,
    fbu_axis,
    label_ends,
    site_axis,
)
from probekit.results.selection import site_label
from probekit.results.text import gap_text, number, value_text

_VERDICTS = {
    "better": ("blue", "triangle-down"),
    "worse": ("red", "triangle-up"),
    "equal": ("band", "circle-open"),
    "cannot tell": ("band", "circle"),
}  # of B, as `compare` gives them: colour and marker


def differences(
    cells: pd.DataFrame, *, a: str, b: str, template: Template = "light", about: str = ""
) -> go.Figure:  # fmt: skip
    """B - A by site of one level, with 95 % intervals and the verdict as colour and marker; below 0 B is better.

    cells: rows of `compare` of one level, source and k.
    """
    ink = PALETTES[template]
    places = Places.of(cells.assign(value=cells["difference"], na_reason=""))
    figure = go.Figure()
    known = cells[cells["difference"].notna()]
    for verdict, part in known.groupby("verdict", sort=False):
        hue, marker = _VERDICTS.get(str(verdict), ("band", "x"))
        told = part.assign(value=part["difference"])
        figure.add_trace(
            go.Scatter(
                x=part["hook"].map(places.at), y=part["difference"], mode="markers", name=f"B {verdict}"
                if verdict in ("better", "worse") else str(verdict),
                marker={"symbol": marker, "size": 11, "color": ink[hue], "line": {"width": 1.6, "color": ink[hue]}},
                error_y=error_bars(told, ink[hue]),
                customdata=[f"<b>{escape(str(row['site']))}</b><br>A {number(row['a'])}, B {number(row['b'])}<br>"
                            f"<b>B - A {gap_text(row)}</b><br>{escape(str(row['how']))}" for _, row in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": ink["soft"], "width": 1.2, "dash": "dot"})
    dress(figure, template, "Is B better than A?", f"A is {a}, B is {b}: {known['label'].iloc[0]}", height=420,
          about=about)  # fmt: skip
    ends = known[["low", "high", "difference"]].to_numpy(dtype=float)
    most = max(0.05, float(np.nanmax(np.abs(ends)))) * 1.1
    figure.update_yaxes(title_text="B - A, unexplained (below 0: B is better)", range=[-most, most])
    site_axis(figure, places)
    add_gaps(figure, places, known, template)
    return figure


def over_runs(table: pd.DataFrame, runs: Sequence[str], *, template: Template = "light") -> go.Figure:
    """One site of several runs, a marker each with its interval: a scan of checkpoints, seeds, sizes or models.

    table: rows of `across` of one level at one hook point. The first of `runs` is the one that all are held against.
    """
    ink = PALETTES[template]
    part = _in_order(table)
    first = part["run"] == runs[0]
    figure = go.Figure(go.Scatter(
        x=list(range(len(part))), y=part["value"], mode="markers", name="runs", showlegend=False,
        marker={"size": 11, "color": [ink["red"] if one else ink["blue"] for one in first]},
        error_y=error_bars(part, ink["blue"]),
        customdata=[f"<b>{escape(str(row['run']))}</b><br>{value_text(row)}" for _, row in part.iterrows()],
        hovertemplate="%{customdata}<extra></extra>",
    ))  # fmt: skip
    for value in part.loc[first, "value"]:
        figure.add_hline(y=float(value), line={"color": ink["soft"], "width": 1.2, "dash": "dot"})
    names = _short(part)
    longest = max(map(len, names))
    dress(figure, template, "What changes from run to run?",
          f"{part['label'].iloc[0]} at {part['site'].iloc[0]}, {_same(part)}", height=400 + 5 * min(longest, 24),
          note=fbu_axis(figure, part["value"]))  # fmt: skip
    figure.update_xaxes(tickvals=list(range(len(part))), ticktext=[escape(name) for name in names],
                        tickangle=-40 if longest * len(part) > 90 else 0)  # fmt: skip
    figure.update_yaxes(title_text="unexplained")
    figure.update_layout(margin={"b": 60})
    return figure


def multiples(table: pd.DataFrame, runs: Sequence[str], *, template: Template = "light") -> go.Figure:
    """Several runs along the network, a field each, with the first one in grey in all of them.

    table: rows of `across` of one level, source and k.
    """
    ink = PALETTES[template]
    one_each = _in_order(table.drop_duplicates("run"))
    there, names = list(one_each["run"]), _short(one_each)
    places = Places.of(table.assign(na_reason=""))
    wide = min(4, len(there))
    deep = -(-len(there) // wide)
    figure = make_subplots(rows=deep, cols=wide, shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.03,
                           vertical_spacing=0.14 / deep,
                           subplot_titles=[escape(one[:26]) for one in names])  # fmt: skip
    base = places.spread(table[table["run"] == runs[0]])
    for i, run in enumerate(there):
        at = {"row": i // wide + 1, "col": i % wide + 1}
        grey = {"color": ink["soft"], "width": 1.4, "dash": "dot"}
        figure.add_trace(go.Scatter(x=base["x"], y=base["value"], mode="lines", line=grey, hoverinfo="skip",
                                    showlegend=False), **at)  # fmt: skip
        part = places.spread(table[table["run"] == run])
        figure.add_trace(
            go.Scatter(
                x=part["x"], y=part["value"], mode="lines+markers", showlegend=False, name=run,
                line={"color": ink["blue"], "width": 2}, marker={"size": 5}, error_y=error_bars(part, ink["blue"]),
                customdata=["" if pd.isna(value) else f"<b>{escape(run)}</b><br>{number(value)}"
                            for value in part["value"]],
                hovertemplate="%{customdata}<extra></extra>",
            ),
            **at,
        )  # fmt: skip
    dress(figure, template, "How do the runs differ along the network?",
          f"{table['label'].iloc[0]}; {_same(table)}; grey: {runs[0]}", height=190 + 190 * deep,
          note=fbu_axis(figure, table["value"].dropna()))  # fmt: skip
    ticks = [0, len(places.hooks) - 1]
    ends = [escape(site_label(places.hooks[i]).split()[0]) for i in ticks]
    axis = figure.layout.yaxis
    figure.update_xaxes(gridcolor=ink["grid"], linecolor=ink["soft"], tickvals=ticks, tickfont={"size": 11},
                        ticktext=ends, zeroline=False)  # fmt: skip
    figure.update_yaxes(gridcolor=ink["grid"], linecolor=ink["soft"], range=axis.range, tickvals=axis.tickvals,
                        ticktext=axis.ticktext, zeroline=False, title_text="", tickfont={"size": 11})  # fmt: skip
    figure.update_annotations(font={"size": 12, "color": ink["ink"]})
    figure.update_layout(margin={"b": 40, "t": figure.layout.margin.t + 20})
    return figure


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows, one of each run, in the order of what tells the runs apart: step500 stands before step3000."""

    def natural(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    keys = [natural(name) for name in _short(table)]
    return table.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def _same(table: pd.DataFrame) -> str:
    """The model, where all runs are of one."""
    models = list(table["model"].unique())
    return f"model {models[0]}" if len(models) == 1 else f"{len(models)} models"


def _short(table: pd.DataFrame) -> list[str]:
    """What tells runs apart in few letters: the revision or the model where these do, else the name."""
    for column in ("revision", "model"):
        told = [str(value) for value in table[column]]
        if all(told) and len(set(told)) == len(told) > 1:
            return told
    names = [str(name) for name in table["run"]]
    parts = [name.split("-") for name in names]
    shared = 0
    while len(names) > 1 and all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ["-".join(part[shared:]) for part in parts]


def several(table: pd.DataFrame, runs: Sequence[str], *, template: Template = "light") -> go.Figure:
    """Several runs on one axis, a line per run of one level. table: rows of `across` of one level, source and k."""
    ink = PALETTES[template]
    places = Places.of(table.assign(na_reason=""))
    figure = go.Figure()
    ends = []
    for i, run in enumerate(runs):
        part = places.spread(table[table["run"] == run])
        colour = ink[HUES[i % len(HUES)]]
        figure.add_trace(
            go.Scatter(
                x=part["x"], y=part["value"], name=run, legendgroup=run, mode="lines+markers",
                line={"color": colour, "width": 2.2, "dash": DASHES[i % len(DASHES)]},
                marker={"symbol": MARKERS[i % len(MARKERS)], "size": 8}, error_y=error_bars(part, colour),
                customdata=["" if pd.isna(value) else f"<b>{escape(run)}</b><br>{number(value)}"
                            for value in part["value"]],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
        if part["value"].notna().any():
            ends.append((float(part["value"].dropna().iloc[-1]), run, colour))
    dress(figure, template, "How do the runs differ along the network?", str(table["label"].iloc[0]), height=440,
          note=fbu_axis(figure, table["value"].dropna()))  # fmt: skip
    site_axis(figure, places)
    label_ends(figure, ends)
    return figure
