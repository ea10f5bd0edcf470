"""Figures: a table in, a `go.Figure` out, never shown here. The only importer of plotly.

Colours are Okabe-Ito (cividis for the map) and never alone: a dash, a marker or a pattern says the same. FBU axes keep
[0, 1] in view; what lies far outside is counted in a note and stays in the table.
"""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from probekit import tables
from probekit.errors import BadInput, MissingExtra

Template = Literal["light", "dark"]

FBU = "FBU (0 explains all, 1 adds nothing)"
TOGETHER = "95 % of a whole curve at once"
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
FONT = "'Source Sans', 'Source Sans 3', 'Source Sans Pro', 'Helvetica Neue', Arial, sans-serif"

_SVG_CELLS = 3000  # beyond it the click layer is drawn by WebGL
_PALETTES = {
    "light": {
        "blue": "#0072B2",
        "paper": "#fcfbf8",
        "ink": "#22252a",
        "soft": "#6b6f76",
        "grid": "#e6e3dc",
        "na": "#e9e6df",
        "band": "#8a8d93",
    },
    "dark": {
        "blue": "#2F8FD0",  # Okabe-Ito blue is too dark for a thin line on this ground
        "paper": "#15171b",
        "ink": "#e8e6e1",
        "soft": "#9b9fa7",
        "grid": "#2b2f36",
        "na": "#24272d",
        "band": "#8a8d93",
    },
}
_ORANGE, _SKY, _GREEN, _YELLOW, _BLUE, _RED, _PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
# What a vocabulary looks like everywhere: colour and marker. "ink" is the text colour of the template.
_LOOKS = {
    "prior": ("band", "line-ew-open"),
    "baseline": ("band", "circle-open"),
    "neurons": (_ORANGE, "square"),
    "direction": (_SKY, "circle"),
    "directions": ("blue", "circle"),
    "linear": (_RED, "diamond"),
    "nonlinear": (_PURPLE, "x"),
    "absent": ("band", "circle-open"),
}
_SIMPLE_MARKERS = ("triangle-up", "triangle-down", "pentagon", "hexagram", "bowtie", "hourglass")
_SOURCE_LOOKS = {
    "pca": (_PURPLE, "diamond-tall"),
    "random": ("band", "cross-thin-open"),
    "lda": (_GREEN, "circle-open"),
    "mean_difference": (_SKY, "circle-open"),
    "joint": (_GREEN, "pentagon"),
}
CONTROL_WORDS = {
    "random_twin": "random twin (same architecture, untrained)",
    "random_directions": "random directions",
    "permuted_in_group": "labels permuted within groups",
    "permuted_groups": "labels permuted between groups",
    "row_split": "rows of a group on both sides",
    "control_task": "random label per type",
}


def control_words(control: str) -> str:
    """What a control is, in words."""
    if control.startswith("deleted:"):
        return f"without {control.removeprefix('deleted:')} (as fitted on whole texts)"
    return CONTROL_WORDS[control]


_CONTROL_DASH = {
    "random_twin": "dot",
    "random_directions": "dashdot",
    "permuted_in_group": "longdash",
    "permuted_groups": "longdashdot",
    "row_split": "2px,7px",
    "control_task": "9px,3px,2px,3px,2px,3px",
}


# ------------------------------------------------------------------------------------------------------------- figures


def leak_map(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Heat map of FBU by site and level, layer 0 at the bottom. Trace "cells" takes the clicks: id, hook, label."""
    table = _table("leak_map", frame, selection)
    if table.empty:
        return _empty("No level has been read at any hook point for this behaviour.", "probekit run SPEC", template)
    ink = _PALETTES[template]
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    labels = list(table.sort_values("level_order", kind="stable")["label"].unique())
    table = table.drop_duplicates(["site", "label"]).assign(
        x=lambda t: t["label"].map({label: i for i, label in enumerate(labels)}),
        y=lambda t: t["site"].map({site: i for i, site in enumerate(sites)}),
    )
    values = table.pivot(index="y", columns="x", values="value").reindex(
        index=range(len(sites)), columns=range(len(labels))
    )
    height = _map_height(len(sites))
    row = (height - 190) / len(sites)
    show_text = row >= 17 and len(labels) <= 16
    figure = go.Figure(
        go.Heatmap(
            z=values.to_numpy(dtype=float),
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            xgap=1.5,
            ygap=1.5 if row > 12 else 0.4,
            hoverinfo="skip",
            name="FBU",
            colorbar={
                "title": {"text": "FBU", "side": "top"},
                "thickness": 12,
                "len": 0.8,
                "outlinewidth": 0,
                "tickvals": [0, 0.25, 0.5, 0.75, 1],
                "ticktext": ["0 explains all", ".25", ".50", ".75", "1 adds nothing"],
            },
        )
    )
    # Square markers that cover the cells, fully transparent: a click on a heat map itself selects nothing in the page.
    cells = go.Scattergl if len(table) > _SVG_CELLS else go.Scatter
    figure.add_trace(
        cells(
            x=table["x"],
            y=table["y"],
            mode="markers",
            name="cells",
            showlegend=False,
            marker={"symbol": "square", "size": max(6, min(row, 40)), "opacity": 0, "color": ink["ink"]},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            customdata=table[["id", "hook", "label"]].to_numpy(),
            hovertemplate="%{hovertext}<extra></extra>",
            hovertext=[_hover(r) for _, r in table.iterrows()],
        )
    )
    known = table[table["value"].notna()]
    if show_text:
        # Half-way up cividis is where white stops and black starts to be the better ink.
        figure.add_trace(
            go.Scatter(
                x=known["x"],
                y=known["y"],
                mode="text",
                text=[tables.number(v) for v in known["value"]],
                hoverinfo="skip",
                textfont={
                    "size": 12 if row >= 24 else 10,
                    "color": ["#ffffff" if v < 0.5 else "#000000" for v in known["value"]],
                },
                showlegend=False,
                name="values",
            )
        )
    missing = table[table["value"].isna()]
    if len(missing):
        figure.add_trace(
            go.Scatter(
                x=missing["x"],
                y=missing["y"],
                mode="markers",
                name="NA: not a number, the reason is shown on hover",
                marker={
                    "symbol": "line-ne",
                    "size": max(6, min(row * 0.7, 22)),
                    "line": {"width": 1.5, "color": ink["soft"]},
                },
                hoverinfo="skip",
                showlegend=True,
            )
        )
    shown, site_text, site_title = _site_ticks(sites, 14 if len(sites) <= 14 else int((height - 190) / 30))
    _dress(figure, template, "Where does each level leak?", _subtitle(table), height=height)
    figure.update_layout(clickmode="event+select", hovermode="closest", hoverdistance=-1, dragmode=False)
    # Turned labels stand on one line each and need more room above than wrapped ones.
    figure.update_layout(plot_bgcolor=ink["na"], margin={"t": 132 if len(labels) <= 13 else 218, "b": 56})
    figure.update_layout(height=height if len(labels) <= 13 else height + 86)
    figure.update_xaxes(
        side="top",
        tickvals=list(range(len(labels))),
        ticktext=[_wrap(label) if len(labels) <= 13 else _escape(label) for label in labels],
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
    return figure


def decomposition(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Stacked shares of the explainable bits by site, in the order chosen by `arm`."""
    table = _table("decomposition", frame, selection)
    if table["value"].notna().sum() == 0:
        return _empty(
            "No decomposition was measured for this behaviour.",
            "[read] decomposition = true in the spec, then probekit run SPEC",
            template,
        )
    ink = _PALETTES[template]
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    figure = go.Figure()
    fills = {
        "direction": (_SKY, ""),
        "directions": (_BLUE, "/"),
        "linear": (_RED, "\\"),
        "nonlinear": (_PURPLE, "x"),
        "absent": (ink["band"], "."),
    }
    for label, part in table.groupby("label", sort=False):
        level = part["level"].iloc[0]
        colour, shape = fills.get(level, (_GREEN if level.startswith("simple:") else _ORANGE, "-"))
        x = part["site"].map({site: i for i, site in enumerate(sites)})
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=str(label),
                stackgroup="shares",
                mode="lines" if len(sites) > 1 else "markers+lines",
                line={"width": 1, "color": ink["paper"]},
                fillcolor=_alpha(colour, 0.82 if level != "absent" else 0.25),
                fillpattern={
                    "shape": shape,
                    "fgcolor": _alpha(ink["paper"], 0.75),
                    "size": 7,
                    "solidity": 0.25,
                    "fillmode": "replace",
                    "bgcolor": _alpha(colour, 0.82 if level != "absent" else 0.25),
                }
                if shape
                else None,
                customdata=[_hover(r) for _, r in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    order = "linear classes first" if table["arm"].iloc[0] == "linear_first" else "simple functions first"
    note = "a share is clearly below 0: see the table" if table["flag"].any() else ""
    _dress(
        figure, template, "Which class of description carries the bits?", _subtitle(table, order), height=500, note=note
    )
    _site_axis(figure, sites)
    figure.update_yaxes(title_text="share of the explainable bits", range=[min(0.0, float(table["value"].min())), 1.0])
    figure.update_layout(hovermode="x unified" if len(sites) <= 30 else "closest", legend_traceorder="normal")
    return figure


def frontier(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Complexity against FBU under replace, a line per vocabulary; read thin, unseen dashed, random twin as a band."""
    table = _table("frontier", frame, selection)
    replace = table[(table["metric"] == "replace") & table["value"].notna()]
    if replace.empty:
        return _empty(
            "Nothing was replaced for this behaviour, so what the model runs on is not known.",
            "a [replace] section in the spec, then probekit run SPEC",
            template,
        )
    ink = _PALETTES[template]
    read = table[(table["metric"] == "read") & table["value"].notna()]
    several = set(replace.loc[replace["k"].notna() & ~replace["level"].str.startswith("hypothesis:"), "k"])
    top = max([int(k) for k in several] or [1])
    figure = go.Figure()
    # The twin's own behaviour hardly depends on its input, so nothing can be replaced in it: its band is what its
    # activations let one read of the trained model's behaviour.
    twin = replace[replace["control"] == "random_twin"]
    twin = read[(read["control"] == "random_twin") & read["k"].notna()] if twin.empty else twin
    _band(figure, twin, ink["band"], CONTROL_WORDS["random_twin"])
    read = read[read["control"] == ""]
    _band(
        figure,
        replace[replace["control"] == "random_directions"],
        ink["band"],
        CONTROL_WORDS["random_directions"],
        "dashdot",
    )
    own = replace[replace["control"] == ""]
    names = list(dict.fromkeys(own["vocabulary"]))
    for name in names:
        rows = own[own["vocabulary"] == name]
        level, source = rows["level"].iloc[0], rows["source"].iloc[0]
        colour, marker = _look(
            level, source, template, ambiguous=own.loc[own["level"] == level, "source"].nunique() > 1
        )
        thin = read[(read["level"] == level) & (read["source"] == source) & read["k"].notna()]
        if len(thin) > 1:
            figure.add_trace(
                go.Scatter(
                    x=thin["k"],
                    y=thin["value"],
                    mode="lines",
                    line={"color": colour, "width": 1},
                    opacity=0.65,
                    name=f"{name}, read",
                    legendgroup=name,
                    showlegend=False,
                    customdata=[_hover(r, "read") for _, r in thin.iterrows()],
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
        for situation, dash in (("seen", "solid"), ("unseen", "dash")):
            part = rows[rows["situation"] == situation]
            if part.empty:
                continue
            if level.startswith("hypothesis:") or part["k"].isna().all():
                _stated(figure, part, name, situation, colour, marker, top)
                continue
            figure.add_trace(
                go.Scatter(
                    x=part["k"],
                    y=part["value"],
                    name=name,
                    legendgroup=name,
                    showlegend=situation == "seen",
                    mode="lines+markers",
                    line={"color": colour, "width": 2.4, "dash": dash},
                    marker={
                        "symbol": marker,
                        "size": 8,
                        "color": colour if situation == "seen" else ink["paper"],
                        "line": {"color": colour, "width": 1.6},
                    },
                    error_y=_error(part, colour) if situation == "seen" else None,
                    customdata=[_hover(r, situation) for _, r in part.iterrows()],
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
    figure.add_hline(y=1, line={"color": ink["soft"], "width": 1.2, "dash": "dot"})
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="lines",
            name="the floor, at 1: the best input-only reader",
            line={"color": ink["soft"], "width": 1.2, "dash": "dot"},
        )
    )
    for dash, width, label in (("solid", 2.4, "seen"), ("dash", 2.4, "unseen"), ("solid", 1, "read only")):
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="lines",
                name=label,
                legend="legend2",
                line={"color": ink["ink"], "dash": dash, "width": width},
            )
        )
    arm = replace["arm"].iloc[0]
    place = "at all sites" if arm.startswith("chain") else f"at {replace['site'].iloc[0]}"
    donors = "donors matched on the abstraction" if "matched" in arm else "random donors"
    _dress(
        figure,
        template,
        "How much does a description explain for its complexity?",
        _subtitle(replace, f"replaced {place}, {donors}"),
        height=580,
        note=_fbu_axis(figure, own["value"], most=3.0),
    )
    ticks = sorted({int(k) for k in own["k"].dropna()} & several) or [1]
    figure.update_xaxes(
        type="log",
        title_text="complexity k (directions, neurons or named features kept; log scale)",
        tickvals=ticks,
        ticktext=[str(k) for k in ticks],
    )
    figure.update_layout(
        margin={"r": 20},
        legend2={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": 12, "color": ink["soft"]},
            "itemclick": False,
        },
    )
    return figure


def layer_curves(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """FBU by site, a curve with its interval per level, controls as thin grey lines.

    The lighter ribbon, where the run has one, covers the whole curve at once.
    """
    table = _table("layer_curves", frame, selection)
    shown = table[table["value"].notna() & (table["level"] != "prior")]
    if shown.empty:
        return _empty("No level has been read at any hook point for this behaviour.", "probekit run SPEC", template)
    ink = _PALETTES[template]
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    at = {site: i for i, site in enumerate(sites)}
    figure = go.Figure()
    for control, rows in shown[shown["control"] != ""].groupby("control", sort=False):
        for label, part in rows.groupby("label", sort=False):
            figure.add_trace(
                go.Scatter(
                    x=part["site"].map(at),
                    y=part["value"],
                    mode="lines",
                    name=f"{control_words(str(control)).split(' (')[0]}: {label}",
                    line={"color": ink["band"], "width": 1.3, "dash": _CONTROL_DASH.get(str(control), "4px,2px")},
                    customdata=[_hover(r, f"control: {control_words(r['control'])}") for _, r in part.iterrows()],
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
    own = shown[(shown["control"] == "") & (shown["level"] != "baseline")]
    for label, part in own.groupby("label", sort=False):
        level, source = part["level"].iloc[0], part["source"].iloc[0]
        colour, marker = _look(
            level, source, template, ambiguous=own.loc[own["level"] == level, "source"].nunique() > 1
        )
        x = part["site"].map(at)
        together = part.assign(low=part["band_low"], high=part["band_high"])
        _ribbon(figure, x, together, colour, TOGETHER, 0.08, TOGETHER)
        _ribbon(figure, x, part, colour, str(label))
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=str(label),
                legendgroup=str(label),
                mode="lines+markers" if len(sites) <= 24 else "lines",
                line={"color": colour, "width": 2.2, "dash": _dash(marker) if len(sites) > 24 else "solid"},
                marker={"symbol": marker, "size": 8, "line": {"color": colour, "width": 1}},
                customdata=[_hover(r) for _, r in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.add_hline(y=1, line={"color": ink["soft"], "width": 1.2, "dash": "dot"})
    _dress(
        figure,
        template,
        "At which layer does the behaviour become readable?"
        if table["metric"].iloc[0] == "read"
        else "At which layer does the model run on it?",
        _subtitle(table),
        height=560,
        note=_fbu_axis(figure, own["value"]),
    )
    _site_axis(figure, sites)
    figure.update_layout(margin={"b": 170})
    return figure


def transfer_matrix(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """T for every pair of domains, fitted on by applied to: 0 carries over, 1 is no better than the floor."""
    table = _table("transfer_matrix", frame, selection)
    if table.empty or table["fit_domain"].nunique() + table["test_domain"].nunique() < 3:
        return _empty(
            "Nothing was transferred between domains for this behaviour.",
            "a [transfer] section in the spec, then probekit run SPEC",
            template,
        )
    ink = _PALETTES[template]
    names = list(dict.fromkeys([*table["fit_domain"], *table["test_domain"]]))
    grid = table.drop_duplicates(["fit_domain", "test_domain"]).pivot(
        index="fit_domain", columns="test_domain", values="value"
    )
    grid = grid.reindex(index=names, columns=names)
    values = grid.to_numpy(dtype=float)
    height = max(430, min(1000, 56 * len(names) + 230))
    text = [["" if pd.isna(v) else tables.number(v) for v in line] for line in values]
    hover = {
        (r["fit_domain"], r["test_domain"]): _hover(r, f"fitted on {r['fit_domain']}, applied to {r['test_domain']}")
        for _, r in table.iterrows()
    }
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[_wrap(n) for n in names],
            y=names,
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
            colorbar={
                "title": {"text": "T", "side": "top"},
                "thickness": 12,
                "len": 0.8,
                "outlinewidth": 0,
                "tickvals": [0, 0.25, 0.5, 0.75, 1],
                "ticktext": ["0 carries over", ".25", ".50", ".75", "1 is lost"],
            },
        )
    )
    gaps = [(a, b) for a in names for b in names if pd.isna(grid.loc[a, b])]
    if gaps:
        reasons = {(r["fit_domain"], r["test_domain"]): r["na_reason"] for _, r in table.iterrows()}
        figure.add_trace(
            go.Scatter(
                x=[_wrap(b) for _, b in gaps],
                y=[a for a, _ in gaps],
                mode="markers+text",
                name="NA: not a number, the reason in the cell",
                marker={"symbol": "line-ne", "size": 26, "line": {"width": 1.5, "color": ink["soft"]}},
                text=[tables.NA_WORDS.get(str(reasons.get(pair)), "not measured") for pair in gaps],
                textposition="bottom center",
                textfont={"color": ink["soft"], "size": 11},
                hoverinfo="skip",
            )
        )
    arm = {"refit": "after one temperature and the intercepts", "raw": "as fitted", "platt50": "after 50 labels"}
    first = table.iloc[0]
    _dress(
        figure,
        template,
        "Does it carry over to situations it was not fitted on?",
        f"{first['behaviour']}, {first['label']} at {first['site']}, {arm[first['arm']]}",
        height=height,
    )
    figure.update_layout(plot_bgcolor=ink["na"], margin={"b": 90})
    figure.update_xaxes(
        title_text="applied to", showgrid=False, ticks="", constrain="domain", tickangle=0 if len(names) <= 8 else -45
    )
    figure.update_yaxes(title_text="fitted on", showgrid=False, ticks="", autorange="reversed")
    return figure


def ontology(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Accuracy by site of the readers of each named feature: solid linear, dashed nonlinear, dotted untrained twin."""
    table = _table("ontology", frame, selection)
    shown = table[table["value"].notna()]
    if shown.empty:
        return _empty(
            "No named feature was read as a target.",
            '[read] features = ["..."] in the spec, then probekit run SPEC',
            template,
        )
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    at = {site: i for i, site in enumerate(sites)}
    palette = [
        (_PALETTES[template]["blue"], "circle"),
        (_ORANGE, "square"),
        (_GREEN, "triangle-up"),
        (_RED, "diamond"),
        (_PURPLE, "x"),
        (_SKY, "star"),
    ]
    features = list(dict.fromkeys(shown["feature"]))
    figure = go.Figure()
    for (feature, level, control), part in shown.groupby(["feature", "level", "control"], sort=False):
        colour, marker = palette[features.index(feature) % len(palette)]
        dash = "dot" if control else "solid" if level == "linear" else "dash"
        name = f"{feature.replace('_', ' / ')}, {control_words(control).split(' (')[0] if control else level}"
        x = part["site"].map(at)
        if not control:
            _ribbon(figure, x, part, colour, name)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=name,
                legendgroup=name,
                mode="lines+markers" if len(sites) <= 24 and not control else "lines",
                line={"color": colour, "width": 1.4 if control else 2.2, "dash": dash},
                marker={"symbol": marker if level == "linear" else f"{marker}-open", "size": 8, "color": colour},
                customdata=[_hover(r) for _, r in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    _dress(
        figure,
        template,
        "Is the feature linear, or only in the right words?",
        ", ".join(f.replace("_", " / ") for f in features) + f" ({shown['fit_domain'].iloc[0]})",
        height=500,
    )
    low = min(0.5, float(shown["value"].min()))
    figure.update_yaxes(title_text="accuracy on held-out groups", range=[low - 0.02, 1.015], tickformat=".0%")
    _site_axis(figure, sites)
    figure.update_layout(margin={"b": 150})
    return figure


def floor_switch(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """The same reader on the strong floor and on the weak one; the gap is what the input alone gave away."""
    table = _table("floor_switch", frame, selection)
    shown = table[table["value"].notna()]
    if shown["floor"].nunique() < 2:
        return _empty(
            "This level was not scored on both floors.",
            "probekit run SPEC with a weak floor beside the strong one",
            template,
        )
    looks = {
        "strong": (_PALETTES[template]["blue"], "circle", "solid", "strong floor: the best input-only reader"),
        "weak": (_ORANGE, "square", "dash", "weak floor: position alone"),
    }
    return _one_reader(table, shown, "floor", looks, "How much would a weak floor have claimed?", template)


def by_position(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """FBU by site of one level, a curve with its interval per rule of positions."""
    table = _table("by_position", frame, selection)
    shown = table[table["value"].notna()]
    if shown.empty:
        return _empty("This level was not read at any hook point.", "probekit run SPEC", template)
    styles = ((_PALETTES[template]["blue"], "solid"), (_ORANGE, "dash"), (_GREEN, "dot"), (_PURPLE, "longdash"),
              (_RED, "dashdot"), (_SKY, "longdashdot"))  # fmt: skip
    looks = {}
    for i, name in enumerate(shown["position"].unique()):
        colour, dash = styles[i % len(styles)]
        looks[name] = colour, _SIMPLE_MARKERS[i % len(_SIMPLE_MARKERS)], dash, f"read at {_escape(str(name))}"
    return _one_reader(table, shown, "position", looks, "At which token does it become readable?", template)


def _one_reader(
    table: pd.DataFrame, shown: pd.DataFrame, column: str, looks: Mapping[str, tuple[str, str, str, str]],
    title: str, template: Template,
) -> go.Figure:  # fmt: skip
    """One level by site, a curve per value of `column`. looks: colour, marker, dash and name of each."""
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    at = {site: i for i, site in enumerate(sites)}
    figure = go.Figure()
    for value, part in shown.groupby(column, sort=False):
        colour, marker, dash, name = looks[str(value)]
        x = part["site"].map(at)
        _ribbon(figure, x, part, colour, name)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=name,
                legendgroup=name,
                mode="lines+markers" if len(sites) <= 24 else "lines",
                line={"color": colour, "width": 2.2, "dash": dash},
                marker={"symbol": marker, "size": 8},
                customdata=[_hover(r, f"{column}: {value}") for _, r in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    _dress(
        figure,
        template,
        title,
        _subtitle(table, str(table["label"].iloc[0])),
        height=440,
        note=_fbu_axis(figure, shown["value"]),
    )
    _site_axis(figure, sites)
    return figure


def calibration(frame: pd.DataFrame, *, template: Template = "light") -> go.Figure:
    """Truth against estimate, one point per truth of the table `calibration`; what is not accepted has an open marker.

    Crosses are what each case's naive method says of the truth that it misses.
    """
    shown = frame[frame["truth"].notna() & frame["estimate"].notna()]
    if shown.empty:
        return _empty("Nothing was calibrated yet.", "probekit calibrate --seeds 10", template)
    ink = _PALETTES[template]
    figure = go.Figure()
    most = float(max(1.15, shown["truth"].max() * 1.05))
    line = {"color": ink["band"], "width": 1.2}
    figure.add_trace(
        go.Scatter(x=[-1, most], y=[-1, most], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    )
    looks = [(ink["blue"], "circle"), (_ORANGE, "square"), (_GREEN, "triangle-up"), (_PURPLE, "diamond"),
             (_RED, "hexagram"), (_SKY, "star"), (ink["ink"], "pentagon")]  # fmt: skip
    for i, (metric, part) in enumerate(shown.groupby("metric", sort=False)):
        colour, symbol = looks[i % len(looks)]
        symbols = [symbol if passed else f"{symbol}-open" for passed in part["passed"]]
        figure.add_trace(
            go.Scatter(
                x=part["truth"], y=part["estimate"], name=str(metric), mode="markers",
                marker={"symbol": symbols, "color": colour, "size": 9, "line": {"width": 2, "color": colour}},
                error_y={
                    "type": "data", "symmetric": False, "array": part["high"] - part["estimate"],
                    "arrayminus": part["estimate"] - part["low"], "color": colour, "thickness": 1,
                },
                customdata=[_calibration_hover(row) for _, row in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    fooled = frame.drop_duplicates("case")
    fooled = fooled[fooled["naive_value"].notna()]
    figure.add_trace(
        go.Scatter(
            x=fooled["naive_value"] + fooled["naive_error"].where(fooled["naive_value"] < 0.5, -fooled["naive_error"]),
            y=fooled["naive_value"], name="naive method", mode="markers",
            marker={"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": ink["soft"]}},
            customdata=[f"{_escape(str(r['case']))}: {_escape(str(r['naive_method']))}" for _, r in fooled.iterrows()],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    accepted = f"{int(frame['passed'].sum())} of {len(frame)} truths accepted, up to {int(frame['seeds'].max())} seeds"
    _dress(figure, template, "Does the instrument find what is known?", accepted, height=560)
    low = float(min(0, shown["truth"].min(), shown["estimate"].min())) - 0.05
    figure.update_xaxes(title_text="truth", range=[low, most])
    figure.update_yaxes(title_text="estimate, mean over seeds", range=[low, most])
    return figure


def _calibration_hover(row: pd.Series) -> str:
    parts = [str(row[name]) for name in ("case", "metric", "level", "keep", "arm", "control") if row.get(name)]
    found = f"truth {row['truth']:.3f}, found {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return "<br>".join([_escape(" ".join(parts)), found, _escape(str(row["why"])) if row["why"] else "accepted"])


KINDS: Mapping[str, Callable[..., go.Figure]] = {
    "leak_map": leak_map,
    "decomposition": decomposition,
    "frontier": frontier,
    "layer_curves": layer_curves,
    "transfer_matrix": transfer_matrix,
    "ontology": ontology,
    "floor_switch": floor_switch,
    "by_position": by_position,
}


def figure(kind: str, frame: pd.DataFrame, *, template: str = "light", **selection: Any) -> go.Figure:
    """A figure by name: `figure("frontier", read_run("runs/x"), behaviour="next_move")`."""
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1, cutoff=0.0)[0]
        raise BadInput(f"no figure '{kind}'. Did you mean '{near}'? There is {', '.join(KINDS)}.")
    if template not in _PALETTES:
        raise BadInput(f"a figure's template is light or dark; found '{template}'.")
    return KINDS[kind](frame, template=template, **selection)


def message(sentence: str, template: Template = "light") -> go.Figure:
    """A figure that holds one sentence."""
    return _empty(sentence, "", template)


def write_figure(made: go.Figure, path: Path) -> None:
    """Write HTML (self-contained, works offline), PNG or SVG, by the file's ending.

    Raises BadInput for another ending, MissingExtra when the browser that draws PNG and SVG is not there.
    """
    ending = path.suffix.lower()
    if ending == ".html":
        path.write_text(made.to_html(include_plotlyjs=True, config=CONFIG))
        return
    if ending not in (".png", ".svg"):
        raise BadInput(f"a figure is written as .html, .png or .svg; found '{path.name}'.")
    try:
        path.write_bytes(made.to_image(format=ending[1:], width=1000, scale=2 if ending == ".png" else 1))
    except (
        Exception
    ) as error:  # kaleido raises its own, choreographer's and asyncio's; all mean that Chrome did not draw
        raise MissingExtra(
            f"{ending[1:].upper()} needs kaleido and a Chrome or Chromium that starts ({type(error).__name__}); "
            "`pip install kaleido` and a browser, or write .html, which needs neither."
        ) from None


# ---------------------------------------------------------------------------------------------------------- the drawing


def _table(kind: str, frame: pd.DataFrame, selection: Mapping[str, Any]) -> pd.DataFrame:
    return tables.table(kind, frame, **selection)


def _dress(figure: go.Figure, template: Template, title: str, subtitle: str, *, height: int, note: str = "") -> None:
    """The house look: paper ground, title as a question on the left, one quiet line under it, legend below."""
    ink = _PALETTES[template]
    axis = {
        "gridcolor": ink["grid"],
        "linecolor": ink["soft"],
        "zeroline": False,
        "tickfont": {"size": 12, "color": ink["ink"]},
        "title": {"font": {"size": 13, "color": ink["soft"]}, "standoff": 14},
        "automargin": True,
    }
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        font={"family": FONT, "size": 13, "color": ink["ink"]},
        paper_bgcolor=ink["paper"],
        plot_bgcolor=ink["paper"],
        xaxis=axis,
        yaxis=axis,
        title={
            "text": title,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 18},
            "font": {"size": 19, "color": ink["ink"]},
            "subtitle": {"text": subtitle, "font": {"size": 13, "color": ink["soft"]}},
        },
        margin={"l": 80, "r": 30, "t": 96, "b": 120},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 0.01,
            "yref": "container",
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 12},
        },
        hoverlabel={
            "bgcolor": ink["paper"],
            "bordercolor": ink["soft"],
            "font": {"color": ink["ink"], "family": FONT, "size": 12},
            "align": "left",
        },
    )
    if note:
        figure.add_annotation(
            text=note,
            x=1,
            xref="paper",
            y=1,
            yref="paper",
            yshift=18,
            xanchor="right",
            showarrow=False,
            font={"size": 12, "color": ink["soft"]},
        )


def _empty(missing: str, command: str, template: Template) -> go.Figure:
    ink = _PALETTES[template]
    made = go.Figure()
    _dress(made, template, "", "", height=320)
    text = _escape(missing) + (
        f"<br><span style='color:{ink['soft']}'>To fill it: {_escape(command)}</span>" if command else ""
    )
    made.add_annotation(
        text=text, x=0.5, y=0.55, xref="paper", yref="paper", showarrow=False, font={"size": 16}, align="center"
    )
    made.update_xaxes(visible=False)
    made.update_yaxes(visible=False)
    made.update_layout(
        margin={"t": 30, "b": 30, "l": 30, "r": 30},
        shapes=[
            {
                "type": "rect",
                "xref": "paper",
                "yref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 0,
                "y1": 1,
                "line": {"color": ink["grid"], "width": 1, "dash": "dash"},
            }
        ],
    )
    return made


def _subtitle(table: pd.DataFrame, extra: str = "") -> str:
    first = table.iloc[0]
    several = table["position"].nunique() > 1 or first["position"] == "all"
    place = "" if several else f"read at {first['position']}"
    words = [str(first["behaviour"]).replace("_", " "), f"fitted on {first['fit_domain']}", place, extra]
    return _escape(", ".join(word for word in words if word))


def _hover(row: pd.Series, extra: str = "") -> str:
    """Everything that a number needs to be believed, in six lines."""
    lines = [
        f"<b>{_escape(str(row['site']))}</b>, {_escape(str(row['vocabulary' if 'vocabulary' in row else 'label']))}"
    ]
    lines += [_escape(extra)] if extra else []
    if pd.notna(row["k"]) and "k=" not in str(row["label"]):
        lines.append(f"k = {row['k']}")
    lines.append(f"<b>{_escape(tables.value_text(row))}</b>")
    if pd.notna(row["bits"]):
        lines.append(f"{row['bits']:.3f} bits; floor {row['floor_bits']:.3f}, ceiling {row['ceiling_bits']:.3f}")
    if pd.notna(row["p99_bits"]):
        lines.append(f"missed bits: 99th percentile {row['p99_bits']:.2f}, worst group {row['worst_group']:.2f}")
    lines.append(f"n = {row['n']} in {row['groups']} groups")
    return "<br>".join(lines)


def _escape(text: str) -> str:
    """Plotly reads a little HTML in texts; names from data must not be read as such."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _look(level: str, source: str, template: Template, *, ambiguous: bool) -> tuple[str, str]:
    """Colour and marker of a vocabulary; where one level has several sources, the less usual ones get their own."""
    if level.startswith("hypothesis:"):
        colour, marker = ("ink", "star-diamond" if source == "true" else "star")
    elif level.startswith("simple:"):
        from probekit.levels import SIMPLE

        name = level.removeprefix("simple:")
        colour, marker = _GREEN, _SIMPLE_MARKERS[SIMPLE.index(name) % 6 if name in SIMPLE else 0]
    elif ambiguous and source in _SOURCE_LOOKS:
        colour, marker = _SOURCE_LOOKS[source]
    else:
        colour, marker = _LOOKS.get(level, (_YELLOW, "asterisk"))
    return _PALETTES[template].get(colour, colour), marker


def _dash(marker: str) -> str:
    """Where there is no room for markers, a dash tells the curves apart."""
    order = ("circle", "square", "diamond", "star", "x", "circle-open")
    dashes = ("solid", "dash", "solid", "longdash", "dashdot", "dot")
    return dashes[order.index(marker)] if marker in order else "dash"


def _stated(
    figure: go.Figure, part: pd.DataFrame, name: str, situation: str, colour: str, marker: str, top: int
) -> None:
    """A hypothesis is one point at its k; without a k, a level line, since it claims no complexity."""
    hover = {
        "customdata": [_hover(r, situation) for _, r in part.iterrows()],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    shared = {"name": name, "legendgroup": name, "showlegend": situation == "seen"}
    if part["k"].isna().all():
        figure.add_trace(
            go.Scatter(
                x=[1, top],
                y=[part["value"].iloc[0]] * 2,
                mode="lines",
                line={"color": colour, "width": 1.6, "dash": "dashdot" if situation == "seen" else "dot"},
                **shared,
                **(hover | {"customdata": hover["customdata"][:1] * 2}),
            )
        )
        return
    hollow = situation == "unseen" and not marker.endswith("-open")
    figure.add_trace(
        go.Scatter(
            x=part["k"],
            y=part["value"],
            mode="markers",
            error_y=_error(part, colour),
            marker={
                "symbol": f"{marker}-open" if hollow else marker,
                "size": 15,
                "color": colour,
                "line": {"width": 1.6, "color": colour},
            },
            **shared,
            **hover,
        )
    )


def _error(part: pd.DataFrame, colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": part["high"] - part["value"],
        "arrayminus": part["value"] - part["low"],
        "color": _alpha(colour, 0.55),
        "thickness": 1.2,
        "width": 0,
    }


def _ribbon(
    figure: go.Figure, x: pd.Series, part: pd.DataFrame, colour: str, group: str, alpha: float = 0.16, name: str = ""
) -> None:
    """The interval as a shaded band; nothing where no interval was measured. A name is told once, in the legend."""
    part = part[part["low"].notna() & part["high"].notna()]
    if len(part) < 2:
        return
    x = x.loc[part.index]
    figure.add_trace(
        go.Scatter(
            x=[*x, *x[::-1]],
            y=[*part["high"], *part["low"][::-1]],
            fill="toself",
            fillcolor=_alpha(colour, alpha),
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            name=name or None,
            showlegend=bool(name) and all(trace.name != name for trace in figure.data),
            legendgroup=group,
        )
    )


def _band(figure: go.Figure, rows: pd.DataFrame, colour: str, name: str, dash: str = "dot") -> None:
    """A control as a shaded band over k: what the same procedure finds where there is nothing to find."""
    rows = rows[rows["situation"] == "seen"] if "situation" in rows else rows
    if rows.empty:
        return
    by_k = rows.groupby("k").agg(low=("low", "min"), high=("high", "max"), value=("value", "mean")).reset_index()
    _ribbon(figure, by_k["k"], by_k, colour, name)
    figure.add_trace(
        go.Scatter(
            x=by_k["k"],
            y=by_k["value"],
            mode="lines",
            name=name,
            legendgroup=name,
            hoverinfo="skip",
            line={"color": colour, "width": 1.3, "dash": dash},
        )
    )


def _fbu_axis(figure: go.Figure, values: pd.Series, most: float = 1.5) -> str:
    """[0, 1] always in view, room for what misleads up to `most`; returns a note on what lies beyond, else ''."""
    low, high = float(values.min()), float(values.max())
    figure.update_yaxes(title_text=FBU, range=[min(-0.03, max(low, -0.3) - 0.03), max(1.12, min(high + 0.05, most))])
    step = 0.25 if min(high, most) <= 1.5 else 0.5
    ticks = [i * step for i in range(-1, int(most / step) + 1)]
    text = [f"{tick:.2f}".replace("0.", ".", 1) if tick % 1 else f"{tick:.0f}" for tick in ticks]
    figure.update_yaxes(tickvals=ticks, ticktext=text)
    beyond = int(((values > most) | (values < -0.3)).sum())
    return f"{beyond} value{'s lie' if beyond > 1 else ' lies'} outside this window: see the table" if beyond else ""


def _site_axis(figure: go.Figure, sites: Sequence[str]) -> None:
    shown, text, title = _site_ticks(sites, 14)
    figure.update_xaxes(
        title_text=title,
        tickvals=shown,
        ticktext=[t.replace(" ", "<br>", 1) for t in text],
        tickangle=0,
        range=[-0.25, len(sites) - 0.75],
        showgrid=False,
    )


def _site_ticks(sites: Sequence[str], room: int) -> tuple[list[int], list[str], str]:
    """Which sites to label, with what, and the axis title: full names while there is room, else round layer numbers."""
    if len(sites) <= room:
        return list(range(len(sites))), list(sites), "hook point, in forward order"
    parts = [site.split(" ", 1) for site in sites]
    if not all(part[0].isdigit() for part in parts):
        shown = list(range(0, len(sites), -(-len(sites) // room)))
        return shown, [sites[i] for i in shown], "hook point, in forward order"
    usual = max({part[-1] for part in parts}, key=[part[-1] for part in parts].count)
    found = [(i, int(part[0])) for i, part in enumerate(parts) if part[-1] == usual]
    step = next((s for s in (1, 2, 4, 5, 10, 20, 25, 50) if len(found) / s <= room), 100)
    ticks = [(i, layer) for i, layer in found if layer % step == 0]
    return [i for i, _ in ticks], [str(layer) for _, layer in ticks], f"layer ({usual})"


def _map_height(rows: int) -> int:
    return max(420, 190 + (36 if rows <= 12 else 22 if rows <= 32 else 11) * rows)


def _wrap(label: str) -> str:
    """A name on as many short lines as it needs."""
    words = label.replace(": ", ":\n").replace(" (", "\n(").replace(", k=", "\nk=")
    return "<br>".join(line for part in words.split("\n") for line in wrap(_escape(part), 12, break_long_words=False))


def _alpha(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
