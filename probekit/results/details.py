"""Figures of one thing in detail: a site by k, missed bits of single rows, how sure a reader is."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportOperatorIssue=false

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.results.curves import place_of_k, row_hover
from probekit.results.examples import reliability as binned
from probekit.results.looks import (
    DASHES,
    HUES,
    MARKERS,
    PALETTES,
    Template,
    dress,
    error_bars,
    faded,
    fbu_axis,
    label_ends,
)
from probekit.results.selection import vocabulary
from probekit.results.tables import leak_map
from probekit.results.text import number, value_text


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
    # of many every other one, from the last on: in a narrow column they would cover each other
    names = [str(k) if len(ticks) <= 4 or (len(ticks) - i) % 2 else "" for i, k in enumerate(ticks)]
    figure.update_xaxes(title_text="k", tickvals=[place_of_k(k) for k in ticks], ticktext=names)
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


def reliability(rows: pd.DataFrame, *, template: Template = "light", about: str = "") -> go.Figure | None:
    """How often a reader is right when it is so sure: on the dotted line it says what is so; None without such rows.

    rows: as `examples` gives them. A marker is a bin of rows, larger with more of them; its interval is over groups.
    """
    table = binned(rows) if "confidence" in rows else pd.DataFrame()
    if table.empty:
        return None
    ink = PALETTES[template]
    line = {"color": ink["soft"], "width": 1.2, "dash": "dot"}
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False))
    size = 8 + 14 * np.sqrt(table["n"] / table["n"].max())
    figure.add_trace(go.Scatter(
        x=table["confidence"], y=table["value"], mode="markers", name="rows it is so sure of",
        marker={"size": size, "color": faded(ink["blue"], 0.8), "line": {"width": 1.4, "color": ink["blue"]}},
        error_y=error_bars(table, ink["blue"]), showlegend=False,
        customdata=[f"sure: {number(row['confidence'])}<br><b>so: {value_text(row)}</b><br>{row['n']:,} rows in "
                    f"{row['groups']:,} groups" for _, row in table.iterrows()],
        hovertemplate="%{customdata}<extra></extra>",
    ))  # fmt: skip
    dress(figure, template, "Is it right as often as sure?",
          f"{int(table['n'].sum()):,} test rows; off by {number(table.attrs['gap'])} on average", height=380, room=60,
          about=about)  # fmt: skip
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    words = ["0", ".25", ".50", ".75", "1"]
    figure.update_xaxes(title_text="how sure the reader is", range=[-0.03, 1.03], tickvals=ticks, ticktext=words)
    figure.update_yaxes(title_text="how often it is so", range=[-0.03, 1.06], tickvals=ticks, ticktext=words)
    figure.update_layout(margin={"b": 64})
    return figure
