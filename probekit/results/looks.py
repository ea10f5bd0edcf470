"""What all figures share: templates, colours, marks, axes, hover texts, escaped names."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from probekit.hookpoint import HookPoint
from probekit.results import tables
from probekit.results import text as text_of
from probekit.results.selection import left_out, na_words, site_label

Template = Literal["light", "dark"]
UNEXPLAINED = "unexplained (0 explains all, 1 adds nothing)"
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
          "toImageButtonOptions": {"format": "png", "scale": 2}}  # fmt: skip
SLIDE = {"format": "png", "scale": 2, "width": 1351, "height": 760}  # 16 : 9, of a figure that `enlarged` made
FONT = "'Source Sans', 'Source Sans 3', 'Source Sans Pro', 'Helvetica Neue', Arial, sans-serif"
# Okabe-Ito hues, darker or lighter until each is at least 4.5 : 1 on its paper, as thin lines and as letters.
PALETTES = {
    "light": {
        "blue": "#0072B2",
        "orange": "#8F6400",
        "sky": "#1B3A8A",
        "green": "#007A5A",
        "yellow": "#5F7000",
        "red": "#B84A00",
        "purple": "#9C4A7E",
        "paper": "#fcfbf8",
        "ink": "#22252a",
        "soft": "#6b6f76",
        "grid": "#e6e3dc",
        "na": "#e9e6df",
        "band": "#6b6f76",
    },
    "dark": {
        "blue": "#4FA3DC",
        "orange": "#E69F00",
        "sky": "#93A9F0",
        "green": "#2FC296",
        "yellow": "#F0E442",
        "red": "#F07B3F",
        "purple": "#DB94BC",
        "paper": "#15171b",
        "ink": "#e8e6e1",
        "soft": "#9b9fa7",
        "grid": "#2b2f36",
        "na": "#24272d",
        "band": "#9b9fa7",
    },
}
HUES = ("blue", "red", "green", "purple", "orange", "sky", "yellow")  # in the order in which they are given out


# What a vocabulary looks like everywhere: colour and marker. "ink" is the text colour of the template.
_LOOKS = {
    "prior": ("band", "line-ew-open"),
    "baseline": ("band", "circle-open"),
    "neurons": ("orange", "square"),
    "direction": ("sky", "circle"),
    "directions": ("blue", "circle"),
    "linear": ("red", "diamond"),
    "nonlinear": ("purple", "x"),
    "absent": ("band", "circle-open"),
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "diamond", "square", "x", "triangle-up", "star", "pentagon", "triangle-down", "hexagram", "cross",
           "bowtie", "hourglass", "circle-open", "diamond-open", "square-open", "triangle-up-open")  # fmt: skip
SIMPLE_MARKERS = ("triangle-up", "triangle-down", "pentagon", "hexagram", "bowtie", "hourglass")
_SOURCE_LOOKS = {
    "pca": ("purple", "diamond-tall"),
    "random": ("band", "cross-thin-open"),
    "lda": ("green", "circle-open"),
    "mean_difference": ("sky", "circle-open"),
    "joint": ("green", "pentagon"),
}
CONTROL_WORDS = {
    "random_twin": "random twin (same architecture, untrained)",
    "random_directions": "random directions",
    "permuted_in_group": "labels permuted within groups",
    "permuted_groups": "labels permuted between groups",
    "row_split": "rows of a group on both sides",
    "control_task": "random label per type",
    "shuffled_counterfactuals": "learned to bring shuffled answers",
    "placebo": "moved as far in another direction",
}


def control_words(control: str) -> str:
    """What a control is, in words."""
    if control.startswith("deleted:"):
        return f"without {control.removeprefix('deleted:')} (as fitted on whole texts)"
    return CONTROL_WORDS[control]


_READINGS = {
    "random_twin": "near 1: training put it there; near the cell: any network of this shape shows it of its input",
    "random_directions": "near 1: it takes these directions; near the cell: as many random ones do",
    "permuted_in_group": "should be near 1: what it finds below that is chance",
    "permuted_groups": "should be near 1: what it finds below that is chance",
    "row_split": "equal to the cell: no group leaks; lower: groups were remembered, and the cell is the honest value",
    "control_task": "near 1: the reader does not memorise types; near the cell: it could have",
    "shuffled_counterfactuals": "near 1: the search needs right answers; near the cell: it brings any",
    "placebo": "near 1: the direction counts; near the cell: any move of that size does it",
}


def control_reading(control: str) -> str:
    """What a control says where it stands beside a cell: each is read in its own way."""
    if control.startswith("deleted:"):
        return "near the cell: it is not read from there; near 1 or above: it was"
    return _READINGS[control]


CONTROL_DASH = {
    "random_twin": "dot",
    "random_directions": "dashdot",
    "permuted_in_group": "longdash",
    "permuted_groups": "longdashdot",
    "row_split": "2px,7px",
    "control_task": "9px,3px,2px,3px,2px,3px",
    "shuffled_counterfactuals": "4px,4px",
    "placebo": "12px,3px",
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
    """The table behind a figure; `attrs` has the run, the model and the kind, for the line that says what is shown."""
    table = tables.table(kind, frame, **selection)
    named = {name: str(frame[name].iloc[0]) for name in ("run", "model") if len(frame) and name in frame}
    table.attrs.update(named, kind=kind)
    return table


_METRICS = {
    "read_against_replace": "read and replace",
    "steering": "steer",
    "roll_out": "replace",
    "frontier": "replace and read",
}
_ARMS = {
    "single": "one site", "chain": "all sites", "random": "random donors", "matched": "donors alike in it",
    "mean": "the mean for donors", "pair": "per donor", "necessity": "erased", "resample": "donors",
    "iia": "exchanged", "refit": "after one temperature and intercepts", "raw": "as fitted",
    "platt50": "after 50 labels", "roll_out": "one site after another",
}  # fmt: skip


def arm_words(arm: str) -> str:
    """What was edited and how, in words: `single:random` is `one site, random donors`."""
    return ", ".join(_ARMS.get(part, part) for part in arm.split(":") if part)


def about(table: pd.DataFrame) -> str:
    """Run, model, metric, rows and groups of a table of `frame_of_kind`, so that a figure stands alone in a slide."""
    told = table.attrs
    metric = _METRICS.get(told.get("kind", "")) or (table["metric"].iloc[0] if "metric" in table else "")
    arms = table["arm"].unique() if metric == "replace" and "arm" in table else []
    how = f", {arm_words(str(arms[0]))}" if len(arms) == 1 else ""
    model = told.get("model", "")
    parts = [f"run {told['run']}" if told.get("run") else "", f"model {model}" if model else "",
             f"{metric}{how}", _counted(table)]  # fmt: skip
    return " · ".join(part for part in parts if part)


def _counted(table: pd.DataFrame) -> str:
    """`2,000 test rows of 400 groups`; a range where sites differ."""
    known = table[table["n"].fillna(0) > 0]
    if known.empty:
        return ""
    said = []
    for name in ("n", "groups"):
        least, most = int(known[name].min()), int(known[name].max())
        said.append(f"{least:,}" if least == most else f"{least:,} to {most:,}")
    return f"{said[0]} test rows of {said[1]} groups"


def dress(
    figure: go.Figure, template: Template, title: str, subtitle: str, *, height: int, note: str = "", about: str = "",
    room: int = 96,
) -> None:  # fmt: skip
    """The house look: paper ground, title as a question on the left, what is shown under it, legend below.

    about: run, model, metric and rows, under the subtitle. room: letters of it on a line. Called when all traces with
    names from data are in place: these, title and subtitle are shown as they are written.
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
    head = wrap(title, int(room * 0.58))
    under = [line for part in (subtitle, about, note) for line in wrap(part, room)]
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        font={"family": FONT, "size": 13, "color": ink["ink"]},
        paper_bgcolor=ink["paper"],
        plot_bgcolor=ink["paper"],
        xaxis=axis,
        yaxis=axis,
        title={
            "text": "<br>".join(map(escape, head)),
            "x": 0.012,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 18},
            "font": {"size": 19, "color": ink["ink"]},
            "subtitle": {"text": "<br>".join(map(escape, under)), "font": {"size": 13, "color": ink["soft"]}},
        },
        margin={"l": 80, "r": 30, "t": 44 + 24 * len(head) + 17 * len(under), "b": 120},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": ink["soft"], "activecolor": ink["ink"], "orientation": "v"},
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


def enlarged(made: go.Figure, by: float = 1.5) -> go.Figure:
    """A figure in larger type and 16 : 9, for a room: every letter and the room for it grow alike."""
    told = made.layout
    sizes = {"font": {"size": told.font.size * by}, "height": 760}
    made.update_layout(**sizes, legend_font_size=12 * by, title_font_size=19 * by, title_subtitle_font_size=13 * by)
    made.update_layout(margin={side: (told.margin[side] or 40) * by for side in "ltrb"})
    for axis in ("xaxis", "yaxis"):
        made.update_layout({axis: {"tickfont": {"size": 12 * by}, "title": {"font": {"size": 13 * by}}}})
    for note in told.annotations:
        note.font.size = (note.font.size or 12) * by
    for trace in made.select_traces({"type": "scatter"}):
        if trace.line.width:  # none of a ribbon's edge
            trace.line.width *= by
        if trace.textfont.size:
            trace.textfont.size *= by
    for trace in made.select_traces({"type": "heatmap"}):
        bar = trace.colorbar
        bar.update(tickfont_size=(bar.tickfont.size or 12) * by, title_font_size=(bar.title.font.size or 12) * by)
    return made


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
        colour, marker = "green", SIMPLE_MARKERS[SIMPLE.index(name) % 6 if name in SIMPLE else 0]
    elif ambiguous and source in _SOURCE_LOOKS:
        colour, marker = _SOURCE_LOOKS[source]
    else:
        colour, marker = _LOOKS.get(level, ("yellow", "asterisk"))
    return PALETTES[template][colour], marker


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
    """The interval as a shaded band; nothing where no interval was measured, and none across what has no value.

    A name is told once, in the legend.
    """
    known = part["low"].notna() & part["high"].notna()
    for _, run in part[known].groupby((~known).cumsum()[known]):
        if len(run) < 2:
            continue
        at = x.loc[run.index]
        figure.add_trace(
            go.Scatter(
                x=[*at, *at[::-1]],
                y=[*run["high"], *run["low"][::-1]],
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


@dataclass(frozen=True)
class Places:
    """Hook points along an axis in forward order. One that failed or was left out keeps its place, with the reason."""

    hooks: tuple[str, ...]
    reasons: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.hooks)

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Places":
        """Those of a table, and those that lie between them at their usual distance."""
        known = [hook for hook in table["hook"].unique() if hook]
        between = left_out(known)
        reasons = dict.fromkeys(between, "not measured")
        for hook, rows in table[table["value"].isna()].groupby("hook", sort=False):
            reasons[str(hook)] = na_words(rows["na_reason"].iloc[0])
        ordered = sorted([*known, *between], key=lambda hook: HookPoint.parse(hook).order)
        chain = [""] if (table["hook"] == "").any() else []
        return cls((*ordered, *chain), reasons)

    @property
    def at(self) -> dict[str, int]:
        return {hook: i for i, hook in enumerate(self.hooks)}

    @property
    def names(self) -> list[str]:
        return [site_label(hook) for hook in self.hooks]

    def spread(self, part: pd.DataFrame) -> pd.DataFrame:
        """One curve's rows with their places `x`, an empty row wherever one of its kind of site has no value."""
        rows = part.drop_duplicates("hook").set_index("hook")
        kinds = {HookPoint.parse(hook).part for hook in rows.index}
        asked = [hook for hook in self.hooks if HookPoint.parse(hook).part in kinds]
        return rows.reindex(asked).rename_axis("hook").reset_index().assign(x=lambda t: t["hook"].map(self.at))


def add_gaps(figure: go.Figure, places: Places, shown: pd.DataFrame, template: Template) -> None:
    """Hatch the places that have no value of `shown`, with the reason. Called when the vertical axis has its range."""
    empty = [hook for hook in places.hooks if hook not in set(shown["hook"])]
    if not empty:
        return
    ink = PALETTES[template]
    low, high = figure.layout.yaxis.range
    said = [places.reasons.get(hook, "not measured at this level") for hook in empty]
    figure.add_trace(
        go.Bar(
            x=[places.at[hook] for hook in empty],
            y=[high - low] * len(empty),
            base=[low] * len(empty),
            width=1,
            name="no value: " + ", ".join(dict.fromkeys(said)),
            marker={"color": "rgba(0,0,0,0)", "line": {"width": 0},
                    "pattern": {"shape": "/", "fgcolor": ink["soft"], "size": 7, "solidity": 0.12}},
            hovertext=[f"<b>{escape(site_label(hook))}</b>: {escape(why)}"
                       for hook, why in zip(empty, said, strict=True)],
            hoverinfo="text",
        )
    )  # fmt: skip


NAMED = (
    28  # letters of a name beside a curve: `directions (behaviour), k=4` and `hypothesis: rules (decoded)` are whole
)


def label_ends(figure: go.Figure, ends: Sequence[tuple[float, str, str]]) -> None:
    """A name at the right end of each curve in its colour, pushed apart where they would lie on each other.

    ends: value, name and colour. The legend keeps what has no such name.
    """
    low, high = figure.layout.yaxis.range
    tall = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    apart = (high - low) * 15 / tall
    at = low
    named = sorted(ends)
    top = high - apart * (len(named) - 1)
    for i, (value, name, colour) in enumerate(named):
        at = min(max(value, at), top + apart * i)
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=4, y=at, yanchor="middle", showarrow=False,
            text=escape(text_of.fitted(name, NAMED)), font={"size": 12, "color": colour}, name="end",
        )  # fmt: skip
        at += apart
    widest = max((len(text_of.fitted(name, NAMED)) for _, name, _ in named), default=0)
    figure.update_layout(margin={"r": 46 + 7 * widest})  # beside them stands the bar of tools
    told = {escape(name) for _, name, _ in named}
    figure.for_each_trace(lambda trace: trace.update(showlegend=False), lambda trace: trace.name in told)


def site_axis(figure: go.Figure, places: Places) -> None:
    shown, text, title = site_ticks(places.names, 8)
    figure.update_xaxes(
        title_text=title,
        tickvals=shown,
        ticktext=[t.replace(" ", "<br>", 1) for t in text],
        tickangle=0,
        range=[-0.6, len(places) - 0.4],
        showgrid=False,
    )


def site_ticks(sites: Sequence[str], room: int) -> tuple[list[int], list[str], str]:
    """Which sites to label, with what, and the axis title: full names while there is room, else round layer numbers."""
    if len(sites) <= room:
        return list(range(len(sites))), list(map(escape, sites)), "hook point, in forward order"
    parts = [site.split(" ", 1) for site in sites]
    if not all(part[0].startswith("L") and part[0][1:].isdigit() for part in parts):
        shown = list(range(0, len(sites), -(-len(sites) // room)))
        return shown, [escape(sites[i]) for i in shown], "hook point, in forward order"
    usual = max({part[-1] for part in parts}, key=[part[-1] for part in parts].count)
    found = [(i, int(part[0][1:])) for i, part in enumerate(parts) if part[-1] == usual]
    step = next((s for s in (1, 2, 4, 5, 10, 20, 25, 50) if len(found) / s <= 2 * room), 100)
    ticks = [(i, layer) for i, layer in found if layer % step == 0]
    return [i for i, _ in ticks], [str(layer) for _, layer in ticks], f"layer ({escape(usual)})"


def wrapped(label: str) -> str:
    """A name on as many short lines as it needs."""
    words = label.replace(": ", ":\n").replace(" (", "\n(").replace(", k=", "\nk=")
    return "<br>".join(line for part in words.split("\n") for line in wrap(escape(part), 12, break_long_words=False))


def faded(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def contrast(first: str, second: str) -> float:
    """Contrast of two colours `#rrggbb`, 1 to 21, as WCAG 2 defines it."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
