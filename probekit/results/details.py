"""Figures of one thing in detail: a site by k, missed bits of single rows, differences between runs."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportOperatorIssue=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.results.curves import place_of_k, row_hover
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
    faded,
    fbu_axis,
    label_ends,
    site_axis,
)
from probekit.results.selection import vocabulary
from probekit.results.tables import leak_map
from probekit.results.text import gap_text, number

_VERDICTS = {
    "better": ("blue", "triangle-down"),
    "worse": ("red", "triangle-up"),
    "equal": ("band", "circle-open"),
    "cannot tell": ("band", "circle"),
}  # of B, as `compare` gives them: colour and marker


def by_k(frame: pd.DataFrame, *, hook: str, template: Template = "light", **selection: Any) -> go.Figure | None:
    """FBU at one site against k, a line per vocabulary that has several, random directions in grey; None without."""
    table = leak_map(frame, **selection, k="all")
    ink = PALETTES[template]
    own = table[(table["hook"] == hook) & table["k"].notna() & table["value"].notna()]
    own = own.assign(kind=[vocabulary(*pair) for pair in zip(own["level"], own["source"], strict=True)])
    own = own[own.groupby("kind")["k"].transform("nunique") > 1]
    if own.empty:
        return None
    null = leak_map(frame, **selection, k="all", control="random_directions")
    null = null[(null["hook"] == hook) & null["value"].notna()].drop_duplicates("k")
    figure = go.Figure()
    ends = []
    parts = [(kind, part) for kind, part in own.groupby("kind", sort=False)]
    for i, (kind, part) in enumerate([*parts, *([("random directions", null)] if len(null) > 1 else [])]):
        colour = ink["band"] if kind == "random directions" else ink[HUES[i % len(HUES)]]
        x = part["k"].map(lambda k: place_of_k(int(k)))
        figure.add_trace(go.Scatter(
            x=x, y=part["value"], name=str(kind), legendgroup=str(kind), mode="lines+markers",
            line={"color": colour, "width": 2, "dash": DASHES[i % len(DASHES)]},
            marker={"symbol": MARKERS[i % len(MARKERS)], "size": 8}, error_y=error_bars(part, colour),
            **row_hover(part),
        ))  # fmt: skip
        ends.append((float(part["value"].iloc[-1]), str(kind), colour))
    values = pd.concat([own["value"], null["value"]])
    dress(figure, template, "What do more directions explain?", f"at {own['site'].iloc[0]}", height=360, room=60,
          note=fbu_axis(figure, values))  # fmt: skip
    ticks = sorted({int(k) for k in own["k"]})
    figure.update_xaxes(title_text="k", tickvals=[place_of_k(k) for k in ticks], ticktext=[str(k) for k in ticks])
    figure.update_yaxes(title_text="unexplained")
    figure.update_layout(margin={"b": 60})
    label_ends(figure, ends)
    return figure


def missed_bits(
    rows: pd.DataFrame, *, template: Template = "light", title: str = "How are missed bits shared out?", about: str = ""
) -> go.Figure:
    """Histogram of missed bits of test rows, with its tail: mean, 99th percentile and the floor's mean as lines.

    rows: as `Run.rows` gives them, with bits, floor_bits and ceiling_bits. The counts are on a root scale, so that a
    tail of a few rows is seen beside the many.
    """
    ink = PALETTES[template]
    missed = (rows["bits"] - rows["ceiling_bits"]).to_numpy(dtype=float)
    floor = float((rows["floor_bits"] - rows["ceiling_bits"]).mean())
    edges = np.histogram_bin_edges(missed, bins=40)
    counts, _ = np.histogram(missed, edges)
    middle = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(
        go.Bar(
            x=middle, y=np.sqrt(counts), width=edges[1] - edges[0], name="test rows",
            marker={"color": faded(ink["blue"], 0.8), "line": {"width": 1, "color": ink["paper"]}},
            customdata=[f"{low:.2f} to {high:.2f} bits missed<br><b>{count:,} rows</b>"
                        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)],
            hovertemplate="%{customdata}<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    told = (("mean", float(missed.mean()), "ink", "solid"), ("99th percentile", float(np.quantile(missed, 0.99)), "red",
             "dash"), ("mean of the input alone", floor, "band", "dot"))  # fmt: skip
    for name, at, hue, dash in told:
        line = {"color": ink[hue], "width": 2, "dash": dash}
        figure.add_vline(x=at, line=line)
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=f"{name}: {number(at)}"))
    dress(figure, template, title, f"{len(rows):,} test rows", height=400, about=about)
    most = int(counts.max()) if len(counts) else 1
    ticks = sorted({round(most * share) for share in (0, 0.01, 0.1, 0.25, 0.5, 1)})
    figure.update_xaxes(title_text="bits missed beyond what the model leaves open")
    figure.update_yaxes(title_text="rows (root scale)", tickvals=[tick**0.5 for tick in ticks],
                        ticktext=[f"{tick:,}" for tick in ticks])  # fmt: skip
    figure.update_layout(margin={"b": 96}, bargap=0)
    return figure


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
