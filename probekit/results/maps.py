"""Figures with a coloured cell per number: the leak map and the transfer matrix."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.results import text as text_of
from probekit.results.looks import (
    PALETTES,
    Template,
    dress,
    empty_figure,
    escape,
    frame_of_kind,
    hover_text,
    site_ticks,
    subtitle_of,
    wrapped,
)
from probekit.results.selection import NA_WORDS

_SVG_CELLS = 3000  # beyond it the click layer is drawn by WebGL


# ------------------------------------------------------------------------------------------------------------- figures


def leak_map(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Heat map of FBU by site and level, layer 0 at the bottom. Trace "cells" takes the clicks: id, hook, label."""
    table = frame_of_kind("leak_map", frame, selection)
    if table.empty:
        return empty_figure(
            "No level has been read at any hook point for this behaviour.", "probekit run SPEC", template
        )
    ink = PALETTES[template]
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    labels = list(table.sort_values("level_order", kind="stable")["label"].unique())
    table = table.drop_duplicates(["site", "label"]).assign(
        x=lambda t: t["label"].map({label: i for i, label in enumerate(labels)}),
        y=lambda t: t["site"].map({site: i for i, site in enumerate(sites)}),
    )
    height = _map_height(len(sites))
    row = (height - 190) / len(sites)
    figure = go.Figure()
    _add_colours(figure, table, len(sites), len(labels), row)
    _add_click_layer(figure, table, row, ink["ink"])
    if row >= 17 and len(labels) <= 16:
        _add_numbers(figure, table[table["value"].notna()], row)
    _add_missing(figure, table[table["value"].isna()], row, ink["soft"])
    dress(figure, template, "Where does each level leak?", subtitle_of(table), height=height)
    figure.update_layout(clickmode="event+select", hovermode="closest", hoverdistance=-1, dragmode=False)
    _map_axes(figure, sites, labels, height, ink["na"])
    return figure


def _add_colours(figure: go.Figure, table: pd.DataFrame, n_sites: int, n_labels: int, row: float) -> None:
    """The heat map itself. row: height of a cell in pixels."""
    values = table.pivot(index="y", columns="x", values="value").reindex(index=range(n_sites), columns=range(n_labels))
    figure.add_trace(
        go.Heatmap(
            z=values.to_numpy(dtype=float),
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            xgap=1.5,
            ygap=1.5 if row > 12 else 0.4,
            hoverinfo="skip",
            name="unexplained",
            colorbar=_colour_bar("unexplained", "0 explains all", "1 adds nothing"),
        )
    )


def _add_click_layer(figure: go.Figure, table: pd.DataFrame, row: float, colour: str) -> None:
    """Square markers over the cells, fully transparent: a click on a heat map itself selects nothing in the page."""
    cells = go.Scattergl if len(table) > _SVG_CELLS else go.Scatter
    figure.add_trace(
        cells(
            x=table["x"],
            y=table["y"],
            mode="markers",
            name="cells",
            showlegend=False,
            marker={"symbol": "square", "size": max(6, min(row, 40)), "opacity": 0, "color": colour},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            customdata=table[["id", "hook", "label"]].to_numpy(),
            hovertemplate="%{hovertext}<extra></extra>",
            hovertext=[hover_text(r) for _, r in table.iterrows()],
        )
    )


def _add_numbers(figure: go.Figure, known: pd.DataFrame, row: float) -> None:
    figure.add_trace(
        go.Scatter(
            x=known["x"],
            y=known["y"],
            mode="text",
            text=[text_of.number(v) for v in known["value"]],
            hoverinfo="skip",
            textfont={
                "size": 12 if row >= 24 else 10,
                # Half-way up cividis is where white stops and black starts to be the better ink.
                "color": ["#ffffff" if v < 0.5 else "#000000" for v in known["value"]],
            },
            showlegend=False,
            name="values",
        )
    )


def _add_missing(figure: go.Figure, missing: pd.DataFrame, row: float, colour: str) -> None:
    if missing.empty:
        return
    figure.add_trace(
        go.Scatter(
            x=missing["x"],
            y=missing["y"],
            mode="markers",
            name="NA: not a number, the reason is shown on hover",
            marker={"symbol": "line-ne", "size": max(6, min(row * 0.7, 22)), "line": {"width": 1.5, "color": colour}},
            hoverinfo="skip",
            showlegend=True,
        )
    )


def _map_axes(figure: go.Figure, sites: list[str], labels: list[str], height: int, background: str) -> None:
    shown, site_text, site_title = site_ticks(sites, 14 if len(sites) <= 14 else int((height - 190) / 30))
    # Turned labels stand on one line each and need more room above than wrapped ones.
    figure.update_layout(plot_bgcolor=background, margin={"t": 132 if len(labels) <= 13 else 218, "b": 56})
    figure.update_layout(height=height if len(labels) <= 13 else height + 86)
    figure.update_xaxes(
        side="top",
        tickvals=list(range(len(labels))),
        ticktext=[wrapped(label) if len(labels) <= 13 else escape(label) for label in labels],
        showgrid=False,
        range=[-0.5, len(labels) - 0.5],
        ticks="",
        tickangle=0 if len(labels) <= 13 else -50,
    )
    figure.update_yaxes(
        title_text=site_title.replace("in forward order", "input at the bottom"),
        tickvals=shown,
        ticktext=site_text,
        showgrid=False,
        range=[-0.5, len(sites) - 0.5],
        ticks="",
    )


def transfer_matrix(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """T for every pair of domains, fitted on by applied to: 0 carries over, 1 is no better than the floor."""
    table = frame_of_kind("transfer_matrix", frame, selection)
    if table.empty or table["fit_domain"].nunique() + table["test_domain"].nunique() < 3:
        return empty_figure(
            "Nothing was transferred between domains for this behaviour.",
            "a [transfer] section in the spec, then probekit run SPEC",
            template,
        )
    ink = PALETTES[template]
    names = list(dict.fromkeys([*table["fit_domain"], *table["test_domain"]]))
    grid = table.drop_duplicates(["fit_domain", "test_domain"]).pivot(
        index="fit_domain", columns="test_domain", values="value"
    )
    grid = grid.reindex(index=names, columns=names)
    figure = go.Figure()
    _add_pairs(figure, table, grid, names)
    _add_gaps(figure, table, grid, names, ink["soft"])
    arm = {"refit": "after one temperature and the intercepts", "raw": "as fitted", "platt50": "after 50 labels"}
    first = table.iloc[0]
    dress(
        figure,
        template,
        "Does it carry over to situations it was not fitted on?",
        f"{first['behaviour']}, {first['label']} at {first['site']}, {arm[first['arm']]}",
        height=max(430, min(1000, 56 * len(names) + 230)),
    )
    figure.update_layout(plot_bgcolor=ink["na"], margin={"b": 90})
    # Places are numbers, and names their labels: as places `2019` would be a number, `1` and `01` one.
    ticks = {"tickvals": list(range(len(names))), "showgrid": False, "ticks": ""}
    figure.update_xaxes(
        title_text="applied to", ticktext=list(map(wrapped, names)), constrain="domain",
        tickangle=0 if len(names) <= 8 else -45, **ticks,
    )  # fmt: skip
    figure.update_yaxes(title_text="fitted on", ticktext=list(map(escape, names)), autorange="reversed", **ticks)
    return figure


def _add_pairs(figure: go.Figure, table: pd.DataFrame, grid: pd.DataFrame, names: list[str]) -> None:
    values = grid.to_numpy(dtype=float)
    text = [["" if pd.isna(v) else text_of.number(v) for v in line] for line in values]
    hover = {
        (r["fit_domain"], r["test_domain"]): hover_text(
            r, f"fitted on {r['fit_domain']}, applied to {r['test_domain']}"
        )
        for _, r in table.iterrows()
    }
    figure.add_trace(
        go.Heatmap(
            z=values,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            xgap=2,
            ygap=2,
            text=text,
            texttemplate="%{text}" if len(names) <= 20 else None,
            hoverongaps=True,
            customdata=[[hover.get((a, b), "not measured") for b in names] for a in names],
            hovertemplate="%{customdata}<extra></extra>",
            colorbar=_colour_bar("T", "0 carries over", "1 is lost"),
        )
    )


def _add_gaps(figure: go.Figure, table: pd.DataFrame, grid: pd.DataFrame, names: Sequence[str], colour: str) -> None:
    """The reason in every cell that has no number."""
    gaps = [(a, b) for a in grid.index for b in grid.columns if pd.isna(grid.loc[a, b])]
    if gaps:
        reasons = {(r["fit_domain"], r["test_domain"]): r["na_reason"] for _, r in table.iterrows()}
        figure.add_trace(
            go.Scatter(
                x=[names.index(b) for _, b in gaps],
                y=[names.index(a) for a, _ in gaps],
                mode="markers+text",
                name="NA: not a number, the reason in the cell",
                marker={"symbol": "line-ne", "size": 26, "line": {"width": 1.5, "color": colour}},
                text=[NA_WORDS.get(str(reasons.get(pair)), "not measured") for pair in gaps],
                textposition="bottom center",
                textfont={"color": colour, "size": 11},
                hoverinfo="skip",
            )
        )


def _map_height(rows: int) -> int:
    return max(420, 190 + (36 if rows <= 12 else 22 if rows <= 32 else 11) * rows)


def _colour_bar(title: str, least: str, most: str) -> dict[str, Any]:
    """The scale from 0 to 1 beside a map; least, most: what its ends mean."""
    return {
        "title": {"text": title, "side": "top"}, "thickness": 12, "len": 0.8, "outlinewidth": 0,
        "tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": [least, ".25", ".50", ".75", most],
    }  # fmt: skip
