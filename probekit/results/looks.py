"""What all figures share: templates, colours, marks, axes, hover texts, escaped names."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from probekit.results import tables
from probekit.results import text as text_of

Template = Literal["light", "dark"]
UNEXPLAINED = "unexplained (0 explains all, 1 adds nothing)"
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
FONT = "'Source Sans', 'Source Sans 3', 'Source Sans Pro', 'Helvetica Neue', Arial, sans-serif"
PALETTES = {
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
ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
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
    "neurons": (ORANGE, "square"),
    "direction": (SKY, "circle"),
    "directions": ("blue", "circle"),
    "linear": (RED, "diamond"),
    "nonlinear": (PURPLE, "x"),
    "absent": ("band", "circle-open"),
}
SIMPLE_MARKERS = ("triangle-up", "triangle-down", "pentagon", "hexagram", "bowtie", "hourglass")
_SOURCE_LOOKS = {
    "pca": (PURPLE, "diamond-tall"),
    "random": ("band", "cross-thin-open"),
    "lda": (GREEN, "circle-open"),
    "mean_difference": (SKY, "circle-open"),
    "joint": (GREEN, "pentagon"),
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


CONTROL_DASH = {
    "random_twin": "dot",
    "random_directions": "dashdot",
    "permuted_in_group": "longdash",
    "permuted_groups": "longdashdot",
    "row_split": "2px,7px",
    "control_task": "9px,3px,2px,3px,2px,3px",
}


COLUMN, PAGE, POINTS = 322, 672, 8  # of paper: 85 and 178 mm in pixels of 1/96 inch, and the size of letters
_TO_PIXELS = 96 / 72


def on_paper(made: go.Figure) -> go.Figure:
    """The same figure for a column of a paper: 8 pt letters, white ground, no title, since a caption says it.

    A map of more than six columns, or a figure of several plots, is as wide as the page. What is given stays as it is.
    """
    figure = go.Figure(made)
    size = round(POINTS * _TO_PIXELS, 1)
    maps = [trace for trace in figure.data if trace.type == "heatmap" and trace.z is not None]
    several = sum(name.startswith(("xaxis", "yaxis")) for name in figure.layout.to_plotly_json()) > 2
    wide = several or any(trace.z.shape[1] > 6 for trace in maps)
    figure.update_layout(
        width=PAGE if wide else COLUMN, title=None, paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", autosize=False,
        font={"size": size}, legend={"font": {"size": size}, "y": 0, "yanchor": "bottom", "tracegroupgap": 0},
    )  # fmt: skip
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(tickfont={"size": size}, title={"font": {"size": size}, "standoff": 6})
    figure.update_annotations(font={"size": size})
    figure.update_traces(textfont={"size": size}, selector={"mode": "text"})
    figure.update_traces(marker={"size": 5}, line={"width": 1.4}, selector={"mode": "lines+markers"})
    figure.update_traces(colorbar={"title": {"font": {"size": size}}}, selector={"type": "heatmap"})
    figure.for_each_xaxis(_narrow_ticks)
    names = {trace.name for trace in figure.data if trace.showlegend is not False and trace.name and trace not in maps}
    below = 19 * len(names)
    figure.update_layout(
        margin={"l": 40, "r": 8, "t": 128 if maps else 16, "b": 12 if maps else 48 + below},
        height=max(220, int(figure.layout.height * (0.75 if wide else 0.5))) + below,
    )
    return figure


def _narrow_ticks(axis: Any) -> None:
    """Names under narrow places: what all of them share goes into the axis title, what is long is turned."""
    names = [str(name).split("<br>") for name in axis.ticktext or ()]
    if len(names) > 1 and all(len(name) == 2 for name in names) and len({name[1] for name in names}) == 1:
        said = (axis.title.text or "").replace("hook point", f"hook point ({names[0][1]})")
        axis.update(ticktext=[name[0] for name in names], title={"text": said})
    elif any(len(name) > 1 for name in names):
        axis.update(ticktext=[" ".join(name) for name in names], tickangle=-50)


def message(sentence: str, template: Template = "light") -> go.Figure:
    """A figure that holds one sentence."""
    return empty_figure(sentence, "", template)


# ---------------------------------------------------------------------------------------------------------- the drawing


def frame_of_kind(kind: str, frame: pd.DataFrame, selection: Mapping[str, Any]) -> pd.DataFrame:
    return tables.table(kind, frame, **selection)


def dress(figure: go.Figure, template: Template, title: str, subtitle: str, *, height: int, note: str = "") -> None:
    """The house look: paper ground, title as a question on the left, one quiet line under it, legend below.

    Called when all traces with names from data are in place: these, title and subtitle are shown as they are written.
    """
    for trace in figure.data:
        trace.name = None if trace.name is None else escape(trace.name)
    ink = PALETTES[template]
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
            "text": escape(title),
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 18},
            "font": {"size": 19, "color": ink["ink"]},
            "subtitle": {"text": escape(subtitle), "font": {"size": 13, "color": ink["soft"]}},
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
            text=note, x=1, xref="paper", y=1, yref="paper", yshift=18, xanchor="right", showarrow=False,
            font={"size": 12, "color": ink["soft"]},
        )  # fmt: skip


def empty_figure(missing: str, command: str, template: Template) -> go.Figure:
    ink = PALETTES[template]
    made = go.Figure()
    dress(made, template, "", "", height=320)
    text = "<br>".join(wrap(escape(missing), 44, break_long_words=False))
    if command:
        fill = "<br>".join(wrap(f"To fill it: {escape(command)}", 44, break_long_words=False))
        text += f"<br><span style='color:{ink['soft']}'>{fill}</span>"
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


def subtitle_of(table: pd.DataFrame, extra: str = "") -> str:
    first = table.iloc[0]
    several = table["position"].nunique() > 1 or first["position"] == "all"
    place = "" if several else f"read at {first['position']}"
    words = [str(first["behaviour"]).replace("_", " "), f"fitted on {first['fit_domain']}", place, extra]
    return ", ".join(word for word in words if word)


def hover_text(row: pd.Series, extra: str = "") -> str:
    """Everything that a number needs to be believed, in six lines."""
    lines = [f"<b>{escape(str(row['site']))}</b>, {escape(str(row['vocabulary' if 'vocabulary' in row else 'label']))}"]
    lines += [escape(extra)] if extra else []
    if pd.notna(row["k"]) and "k=" not in str(row["label"]):
        lines.append(f"k = {row['k']}")
    lines.append(f"<b>{escape(text_of.value_text(row))}</b>")
    if pd.notna(row["bits"]):
        lines.append(f"{row['bits']:.3f} bits; floor {row['floor_bits']:.3f}, ceiling {row['ceiling_bits']:.3f}")
    if pd.notna(row["p99_bits"]):
        lines.append(f"missed bits: 99th percentile {row['p99_bits']:.2f}, worst group {row['worst_group']:.2f}")
    lines.append(f"n = {row['n']} in {row['groups']} groups")
    return "<br>".join(lines)


def escape(text: str) -> str:
    """Plotly reads a little HTML in texts; names from data must not be read as such."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def look_of(level: str, source: str, template: Template, *, ambiguous: bool) -> tuple[str, str]:
    """Colour and marker of a vocabulary; where one level has several sources, the less usual ones get their own."""
    if level.startswith("hypothesis:"):
        colour, marker = ("ink", "star-diamond" if source == "true" else "star")
    elif level.startswith("simple:"):
        from probekit.levels import SIMPLE

        name = level.removeprefix("simple:")
        colour, marker = GREEN, SIMPLE_MARKERS[SIMPLE.index(name) % 6 if name in SIMPLE else 0]
    elif ambiguous and source in _SOURCE_LOOKS:
        colour, marker = _SOURCE_LOOKS[source]
    else:
        colour, marker = _LOOKS.get(level, (YELLOW, "asterisk"))
    return PALETTES[template].get(colour, colour), marker


def dash_of(marker: str) -> str:
    """Where there is no room for markers, a dash tells the curves apart."""
    order = ("circle", "square", "diamond", "star", "x", "circle-open")
    dashes = ("solid", "dash", "solid", "longdash", "dashdot", "dot")
    return dashes[order.index(marker)] if marker in order else "dash"


def error_bars(part: pd.DataFrame, colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": part["high"] - part["value"],
        "arrayminus": part["value"] - part["low"],
        "color": faded(colour, 0.55),
        "thickness": 1.2,
        "width": 0,
    }


def add_ribbon(
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
            fillcolor=faded(colour, alpha),
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            name=name or None,
            showlegend=bool(name) and all(trace.name != name for trace in figure.data),
            legendgroup=group,
        )
    )


def fbu_axis(figure: go.Figure, values: pd.Series, most: float = 1.5) -> str:
    """[0, 1] always in view, room for what misleads up to `most`; returns a note on what lies beyond, else ''."""
    low, high = float(values.min()), float(values.max())
    figure.update_yaxes(
        title_text=UNEXPLAINED, range=[min(-0.03, max(low, -0.3) - 0.03), max(1.12, min(high + 0.05, most))]
    )
    step = 0.25 if min(high, most) <= 1.5 else 0.5
    ticks = [i * step for i in range(-1, int(most / step) + 1)]
    text = [f"{tick:.2f}".replace("0.", ".", 1) if tick % 1 else f"{tick:.0f}" for tick in ticks]
    figure.update_yaxes(tickvals=ticks, ticktext=text)
    beyond = int(((values > most) | (values < -0.3)).sum())
    return f"{beyond} value{'s lie' if beyond > 1 else ' lies'} outside this window: see the table" if beyond else ""


def site_axis(figure: go.Figure, sites: Sequence[str]) -> None:
    shown, text, title = site_ticks(sites, 14)
    figure.update_xaxes(
        title_text=title,
        tickvals=shown,
        ticktext=[t.replace(" ", "<br>", 1) for t in text],
        tickangle=0,
        range=[-0.25, len(sites) - 0.75],
        showgrid=False,
    )


def site_ticks(sites: Sequence[str], room: int) -> tuple[list[int], list[str], str]:
    """Which sites to label, with what, and the axis title: full names while there is room, else round layer numbers."""
    if len(sites) <= room:
        return list(range(len(sites))), list(map(escape, sites)), "hook point, in forward order"
    parts = [site.split(" ", 1) for site in sites]
    if not all(part[0].isdigit() for part in parts):
        shown = list(range(0, len(sites), -(-len(sites) // room)))
        return shown, [escape(sites[i]) for i in shown], "hook point, in forward order"
    usual = max({part[-1] for part in parts}, key=[part[-1] for part in parts].count)
    found = [(i, int(part[0])) for i, part in enumerate(parts) if part[-1] == usual]
    step = next((s for s in (1, 2, 4, 5, 10, 20, 25, 50) if len(found) / s <= room), 100)
    ticks = [(i, layer) for i, layer in found if layer % step == 0]
    return [i for i, _ in ticks], [str(layer) for _, layer in ticks], f"layer ({escape(usual)})"


def wrapped(label: str) -> str:
    """A name on as many short lines as it needs."""
    words = label.replace(": ", ":\n").replace(" (", "\n(").replace(", k=", "\nk=")
    return "<br>".join(line for part in words.split("\n") for line in wrap(escape(part), 12, break_long_words=False))


def faded(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
