"""Figures with a coloured cell per number: the leak map and the transfer matrix."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.results import text as text_of
from probekit.results.looks import (
    PALETTES,
    Places,
    Template,
    about,
    arm_words,
    contrast,
    dress,
    empty_figure,
    escape,
    frame_of_kind,
    hover_text,
    site_ticks,
    subtitle_of,
    wrapped,
)
from probekit.results.selection import NA_WORDS, na_words, site_label, unembedding
from probekit.results.tables import like_control

TURNED = 7  # labels of columns above which they stand slanted, each on one line
_SVG_CELLS = 3000  # beyond it the click layer is drawn by WebGL


def leak_map(
    frame: pd.DataFrame, *, template: Template = "light", chosen: tuple[str, str] | None = None, **selection: Any
) -> go.Figure:
    """Heat map of FBU by site and level, layer 0 at the bottom. Trace "cells" takes the clicks: id, hook, label.

    Sites that were skipped or failed keep their row, hatched; the unembedding's is named so; what does not differ from
    its control has a dot. chosen: hook and label of the cell to outline.
    """
    table = frame_of_kind("leak_map", frame, selection)
    if table.empty:
        if selection.get("metric") == "replace":
            said = (
                "No single site was replaced for this behaviour, so there is no map of it; the frontier has all sites."
            )
            return empty_figure(said, 'arms = ["single:random"] in [replace]', template)
        return empty_figure(
            "No level has been read at any hook point for this behaviour.", "probekit run SPEC", template
        )
    ink = PALETTES[template]
    places = Places.of(table)
    labels = list(table.sort_values("level_order", kind="stable")["label"].unique())
    cells = table.drop_duplicates(["hook", "label"]).assign(
        x=lambda t: t["label"].map({label: i for i, label in enumerate(labels)}), y=lambda t: t["hook"].map(places.at)
    )
    height = _map_height(len(places))
    row = (height - 190) / len(places)
    figure = go.Figure()
    _add_colours(figure, cells, len(places), len(labels), row)
    _add_click_layer(figure, cells, row, ink["ink"])
    known = cells[cells["value"].notna()]
    if row >= 17 and len(labels) <= 16:
        _add_numbers(figure, known, row)
    _add_missing(figure, cells, places, len(labels), row, ink["soft"])
    _add_like_control(figure, known[known["id"].isin(like_control(frame, known))], row, ink["ink"])
    dress(figure, template, "Where does each level leak?" if table["metric"].iloc[0] == "read" else
          "What is lost when only this is kept?", subtitle_of(table), height=height, about=about(table),
          room=max(56, min(96, (map_width(len(labels)) - 40) // 7)))  # fmt: skip
    figure.update_layout(clickmode="event+select", hovermode="closest", hoverdistance=-1, dragmode=False)
    last = unembedding(frame, table["behaviour"].iloc[0]) if table["metric"].iloc[0] == "read" else ""
    _map_axes(figure, places, labels, height, ink["na"], last)
    return figure if chosen is None else outlined(figure, chosen, template)


def _add_colours(figure: go.Figure, table: pd.DataFrame, n_sites: int, n_labels: int, row: float) -> None:
    """The heat map itself. row: height of a cell in pixels."""
    values = table.pivot(index="y", columns="x", values="value").reindex(index=range(n_sites), columns=range(n_labels))
    bar = _colour_bar("unexplained", "0 explains all", "1 adds nothing")
    gaps = {"xgap": 1.5, "ygap": 1.5 if row > 12 else 0.4}
    figure.add_trace(_heat(values, bar, name="unexplained", hoverinfo="skip", **gaps))


def _heat(values: pd.DataFrame, colour_bar: Mapping[str, Any], **more: Any) -> go.Heatmap:
    """Values on the scale of all maps."""
    scale = {"zmin": SCALE[0], "zmax": SCALE[1], "colorscale": COLOURS, "colorbar": colour_bar}
    return go.Heatmap(z=values.to_numpy(dtype=float), **scale, **more)


def _marks(x: Any, y: Any, name: str, marker: Mapping[str, Any], **more: Any) -> go.Scatter:
    """Markers in cells, which a click elsewhere does not fade."""
    return go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, unselected={"marker": {"opacity": 1}}, **more)


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
    """The values in whichever ink is the better one on their colour; a click elsewhere does not fade them."""
    inks = known["value"].map(ink_on)
    for ink in ("#ffffff", "#000000"):
        part = known[inks == ink]
        figure.add_trace(
            go.Scatter(
                x=part["x"],
                y=part["y"],
                mode="text",
                text=[text_of.number(v) for v in part["value"]],
                hoverinfo="skip",
                textfont={"size": 12 if row >= 24 else 10, "color": ink},
                selected={"textfont": {"color": ink}},
                unselected={"textfont": {"color": ink}},
                showlegend=False,
                name="values",
            )
        )


def _add_missing(
    figure: go.Figure, cells: pd.DataFrame, places: Places, n_labels: int, row: float, colour: str
) -> None:
    """A stroke in every cell without a value, and the reason; sites that nothing was measured at among them."""
    missing = cells[cells["value"].isna()]
    points = [(x, y, na_words(why)) for x, y, why in zip(missing["x"], missing["y"], missing["na_reason"], strict=True)]
    told = set(cells["hook"])
    points += [(x, y, places.reasons[hook]) for hook, y in places.at.items() if hook not in told
               for x in range(n_labels)]  # fmt: skip
    if not points:
        return
    x, y, why = zip(*points, strict=True)
    stroke = {"symbol": "line-ne", "size": max(6, min(row * 0.7, 22)), "line": {"width": 1.5, "color": colour}}
    hover = [f"<b>{escape(site_label(places.hooks[int(at)]))}</b>: {escape(reason)}"
             for at, reason in zip(y, why, strict=True)]  # fmt: skip
    told = {"hovertext": hover, "hoverinfo": "text", "showlegend": True}
    figure.add_trace(_marks(x, y, "NA: " + ", ".join(dict.fromkeys(why)), stroke, **told))


def _add_like_control(figure: go.Figure, cells: pd.DataFrame, row: float, colour: str) -> None:
    """A dot in the corner of every cell whose interval reaches that of its control; in the legend in the page's ink."""
    if cells.empty:
        return
    name, key = "no better than its control", {"symbol": "circle", "size": 7, "color": colour}
    figure.add_trace(_marks([None], [None], name, key, legendgroup="control-key"))
    quiet = {"legendgroup": "control", "showlegend": False, "hoverinfo": "skip"}
    for ink, part in cells.groupby(cells["value"].map(ink_on)):
        dot = {"symbol": "circle", "size": 5, "color": ink, "line": {"width": 1, "color": "#808080"}}
        figure.add_trace(_marks(part["x"] + 0.36, part["y"] + (0.3 if row >= 17 else 0), name, dot, **quiet))


def outlined(figure: go.Figure, chosen: tuple[str, str], template: Template = "light") -> go.Figure:
    """The map with a frame around the cell of a hook and label, added in place; as it was where there is none."""
    for cells in figure.select_traces({"name": "cells"}):
        for x, y, (_, *told) in zip(cells.x, cells.y, cells.customdata, strict=True):
            if tuple(told) == chosen:
                box = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
                line = {"color": PALETTES[template]["ink"], "width": 3}
                figure.add_shape(type="rect", **box, line=line, name="chosen")
    return figure


# Cividis from 0 to 1, and hues of their own for what lies beyond: above 1 a description misleads, below 0 it does
# better than the model's own law, which is noise or a bug and must not look like 0.
SCALE = (-0.25, 1.5)
_CIVIDIS = ("#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78", "#948e77", "#aea371", "#c8b866",
            "#e5cf52", "#fee838")  # fmt: skip
_BELOW, _ABOVE = ("#2a1050", "#a5379b"), ("#f08a3c", "#b3261e")


def _colours() -> list[list[Any]]:
    def at(value: float) -> float:
        return (value - SCALE[0]) / (SCALE[1] - SCALE[0])

    inner = [[at(i / 10), colour] for i, colour in enumerate(_CIVIDIS)]
    edge = 1e-4  # the hue changes at once, at half of the last digit that is printed
    below = [[0.0, _BELOW[1]], [at(-0.005) - edge, _BELOW[0]], [at(-0.005), _CIVIDIS[0]]]
    above = [[at(1.005), _CIVIDIS[-1]], [at(1.005) + edge, _ABOVE[0]], [1.0, _ABOVE[1]]]
    return [*below, *inner, *above]


COLOURS = _colours()


def colour_at(value: float) -> str:
    """The colour of a value on the map's scale, as #rrggbb."""
    place = (min(max(value, SCALE[0]), SCALE[1]) - SCALE[0]) / (SCALE[1] - SCALE[0])
    (left, first), (right, second) = next(
        (low, high) for low, high in pairwise(COLOURS) if low[0] <= place <= high[0]
    )  # fmt: skip
    share = 0.0 if right == left else (place - left) / (right - left)
    parts = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in parts)


def ink_on(value: float) -> str:
    """White or black, whichever is easier to read on the colour of a value."""
    colour = colour_at(value)
    return "#ffffff" if contrast(colour, "#ffffff") >= contrast(colour, "#000000") else "#000000"


def _map_axes(
    figure: go.Figure, places: Places, labels: list[str], height: int, background: str, last: str
) -> None:  # fmt: skip
    names = [f"{name} (unembedding)" if hook == last else name for hook, name in zip(places.hooks, places.names,
                                                                                    strict=True)]  # fmt: skip
    shown, site_text, site_title = site_ticks(places.names, 14 if len(places) <= 14 else int((height - 190) / 30))
    if len(places) <= 14:
        site_text = [escape(name).replace(" (", "<br>(") for name in names]
    # Turned labels stand on one line each and need more room above than wrapped ones.
    turned = len(labels) > TURNED
    above = (
        figure.layout.margin.t - 12 + (130 if turned else 13 * max(wrapped(one).count("<br>") + 1 for one in labels))
    )
    figure.update_layout(plot_bgcolor=background, margin={"t": above, "b": 56, "r": 12}, height=height + above - 134)
    figure.update_xaxes(
        side="top",
        tickvals=list(range(len(labels))),
        ticktext=[escape(label) if turned else wrapped(label) for label in labels],
        showgrid=False,
        range=[-0.5, len(labels) - 0.5],
        ticks="",
        tickangle=-50 if turned else 0,
        tickfont={"size": 11},
    )
    figure.update_yaxes(
        title_text=site_title.replace("in forward order", "input at the bottom"),
        tickvals=shown,
        ticktext=site_text,
        showgrid=False,
        range=[-0.5, len(places) - 0.5],
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
    for name in names:  # what is fitted where it is applied loses nothing, by definition
        grid.loc[name, name] = 0.0 if pd.isna(grid.loc[name, name]) else grid.loc[name, name]
    figure = go.Figure()
    _add_pairs(figure, table, grid, names)
    _add_gaps(figure, table, grid, names, ink["soft"])
    first = table.iloc[0]
    dress(
        figure,
        template,
        "Does it carry over to situations it was not fitted on?",
        f"{first['behaviour']}, {first['label']} at {first['site']}, {arm_words(first['arm'])}. T = (applied from "
        "elsewhere - fitted here) / (floor here - fitted here), in bits: 0 loses nothing, 1 is the floor",
        height=max(460, min(1000, 56 * len(names) + 270)),
        about=about(table),
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
    text = [["" if pd.isna(v) else text_of.number(v) for v in line] for line in grid.to_numpy(dtype=float)]
    hover = {
        (r["fit_domain"], r["test_domain"]): hover_text(
            r, f"fitted on {r['fit_domain']}, applied to {r['test_domain']}"
        )
        for _, r in table.iterrows()
    }
    same, none = "0 by definition: fitted where it is applied", "not measured"
    told = [[hover.get((a, b), same if a == b else none) for b in names] for a in names]
    shown = {"text": text, "texttemplate": "%{text}" if len(names) <= 20 else None, "hoverongaps": True,
             "customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}  # fmt: skip
    figure.add_trace(_heat(grid, _colour_bar("T", "0 carries over", "1 is lost"), xgap=2, ygap=2, **shown))


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


def map_width(columns: int) -> int:
    """Pixels that a map of so many columns wants."""
    return 220 + (44 if columns > TURNED else 66) * columns


def _map_height(rows: int) -> int:
    return max(420, 190 + (36 if rows <= 12 else 22 if rows <= 32 else 11) * rows)


def _colour_bar(title: str, least: str, most: str) -> dict[str, Any]:
    """The scale beside a map; least, most: what 0 and 1 mean."""
    return {
        "title": {"text": title, "side": "top", "font": {"size": 12}}, "thickness": 12, "len": 0.9, "outlinewidth": 0,
        "tickvals": [-0.2, 0, 0.25, 0.5, 0.75, 1, 1.45],
        "ticktext": ["below 0", least, ".25", ".50", ".75", most, "misleads"], "tickfont": {"size": 11},
    }  # fmt: skip
