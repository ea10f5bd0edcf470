"""Figures with a line or bar per level: curves over layers, frontier, decomposition, ontology, calibration."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportOperatorIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.results.looks import (
    CONTROL_DASH,
    CONTROL_WORDS,
    DASHES,
    HUES,
    MARKERS,
    PALETTES,
    SIMPLE_MARKERS,
    Places,
    Template,
    about,
    add_gaps,
    add_ribbon,
    control_words,
    dress,
    empty_figure,
    error_bars,
    escape,
    faded,
    fbu_axis,
    frame_of_kind,
    hover_text,
    label_ends,
    look_of,
    site_axis,
    subtitle_of,
)
from probekit.results.reported import Reported, beside
from probekit.results.selection import unembedding
from probekit.results.text import number

TOGETHER = "95 % of a whole curve at once"
NEAR = 0.4  # doublings of k, below which two names on an axis would lie on each other


def decomposition(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Stacked shares of the explainable bits, a bar per site, in the order chosen by `arm`."""
    table = frame_of_kind("decomposition", frame, selection)
    if table["value"].notna().sum() == 0:
        return empty_figure(
            "No decomposition was measured for this behaviour.",
            "[read] decomposition = true in the spec, then probekit run SPEC",
            template,
        )
    ink = PALETTES[template]
    places = Places.of(table)
    figure = go.Figure()
    fills = {
        "direction": (ink["sky"], ""),
        "directions": (ink["blue"], "/"),
        "linear": (ink["red"], "\\"),
        "nonlinear": (ink["purple"], "x"),
        "absent": (ink["band"], "."),
    }
    for label, part in table.groupby("label", sort=False):
        level = part["level"].iloc[0]
        colour, shape = fills.get(level, (ink["green"] if level.startswith("simple:") else ink["orange"], "-"))
        fill = faded(colour, 0.82 if level != "absent" else 0.25)  # of the ground too: hatching alone is of the paper
        part = places.spread(part)
        hatched = {"shape": shape, "bgcolor": fill, "fgcolor": faded(ink["paper"], 0.75), "size": 7, "solidity": 0.25}
        marker = {"color": fill, "line": {"width": 0}, "pattern": hatched}
        shown = {"name": str(label), "width": 0.86, "marker": marker} | row_hover(part)
        figure.add_trace(go.Bar(x=part["x"], y=part["value"], **shown))
    order = "linear classes first" if table["arm"].iloc[0] == "linear_first" else "simple functions first"
    note = "a share is clearly below 0: see the table" if table["flag"].any() else ""
    figure.update_yaxes(title_text="share of the explainable bits", range=[min(0.0, float(table["value"].min())), 1.0])
    _dressed(figure, table, table[table["value"].notna()], template, "Which class of description carries the bits?",
             subtitle_of(table, order), height=500, note=note)  # fmt: skip
    figure.update_layout(barmode="relative", hovermode="closest", legend_traceorder="normal")
    return figure


def frontier(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Complexity against FBU under replace, a line per vocabulary; read thin, unseen dashed, random twin as a band."""
    table = frame_of_kind("frontier", frame, selection)
    replace = table[(table["metric"] == "replace") & table["value"].notna()]
    if replace.empty:
        return empty_figure(
            "Nothing was replaced for this behaviour, so what the model runs on is not known.",
            "a [replace] section in the spec, then probekit run SPEC",
            template,
        )
    ink = PALETTES[template]
    read = table[(table["metric"] == "read") & table["value"].notna()]
    own = replace[replace["control"] == ""]
    several = set(replace.loc[replace["k"].notna() & ~replace["level"].str.startswith("hypothesis:"), "k"])
    figure = go.Figure()
    table = table.assign(at=[np.nan if pd.isna(k) else place_of_k(int(k)) for k in table["k"]])
    replace, read, own = (table.loc[part.index] for part in (replace, read, own))
    _add_controls(figure, replace, read, ink["band"])
    looks, top = _told_apart(own, template), max(map(int, several), default=1)
    for name, look in looks.items():
        _add_vocabulary(figure, own, name, read[read["control"] == ""], top, template, look)
    _add_key(figure, ink)
    arm = replace["arm"].iloc[0]
    place = "at all sites" if arm.startswith("chain") else f"at {replace['site'].iloc[0]}"
    donors = "donors matched on the abstraction" if "matched" in arm else "random donors"
    thin = f"thin: read at {read['site'].iloc[0]} alone" if len(read) else ""
    if arm.startswith("chain") and thin:
        thin += ", which is another site than all of them and no like for like"
    dress(
        figure,
        template,
        "How much does a description explain for its complexity?",
        ", ".join(filter(None, (subtitle_of(replace, f"replaced {place}, {donors}"), thin))),
        height=580,
        note=fbu_axis(figure, own["value"], most=3.0),
        about=about(table[table["metric"] == "replace"]),
    )
    ticks = _apart(sorted({int(k) for k in several}), sorted({int(k) for k in replace["k"].dropna()})) or [1]
    figure.update_xaxes(
        title_text="complexity k (directions, neurons or named features kept; doublings are equally far apart)",
        tickvals=[place_of_k(int(k)) for k in ticks],
        ticktext=[str(k) for k in ticks],
    )
    font = {"size": 12, "color": ink["soft"]}
    place_of_key = {"x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
    figure.update_layout(
        margin={"r": 20, "t": figure.layout.margin.t + 22},
        legend2={"orientation": "h", **place_of_key, "font": font, "itemclick": False},
    )
    return figure


def place_of_k(k: int) -> float:
    """Where a k stands on the axis: doublings are equally far apart, and 0, nothing kept, has a place one before 1."""
    return float(np.log2(k)) if k >= 1 else -1.0


def _apart(first: Sequence[int], others: Sequence[int]) -> list[int]:
    """Values of k that have a name on the axis: `first`, and of the others those that stand apart."""
    kept: list[int] = []
    for k in (*first, *others):
        if all(abs(place_of_k(k) - place_of_k(one)) >= NEAR for one in kept):
            kept.append(k)
    return sorted(kept)


def _add_controls(figure: go.Figure, replace: pd.DataFrame, read: pd.DataFrame, colour: str) -> None:
    """What the same procedure finds in an untrained twin, and for random directions."""
    # The twin's own behaviour hardly depends on its input, so nothing can be replaced in it: its band is what its
    # activations let one read of the trained model's behaviour.
    twin = replace[replace["control"] == "random_twin"]
    twin = read[(read["control"] == "random_twin") & read["k"].notna()] if twin.empty else twin
    _band(figure, twin, colour, CONTROL_WORDS["random_twin"])
    random = replace[replace["control"] == "random_directions"]
    _band(figure, random, colour, CONTROL_WORDS["random_directions"], "dashdot")


def _told_apart(own: pd.DataFrame, template: Template) -> dict[str, tuple[str, str]]:
    """Colour and marker of each vocabulary; one whose usual colour is taken gets the next free one."""
    found: dict[str, tuple[str, str]] = {}
    for name, part in own.groupby("vocabulary", sort=False):
        level, source = part["level"].iloc[0], part["source"].iloc[0]
        several = own.loc[own["level"] == level, "source"].nunique() > 1
        colour, marker = look_of(level, source, template, ambiguous=several)
        colours, markers = ({look[i] for look in found.values()} for i in (0, 1))
        if not level.startswith("hypothesis:"):  # these are marks of their own, with no line
            hues = (PALETTES[template][hue] for hue in HUES)
            colour = next((hue for hue in (colour, *hues) if hue not in colours), colour)
        found[str(name)] = colour, next((one for one in (marker, *MARKERS) if one not in markers), marker)
    return found


def _add_vocabulary(
    figure: go.Figure, own: pd.DataFrame, name: str, read: pd.DataFrame, top: int, template: Template,
    look: tuple[str, str],
) -> None:  # fmt: skip
    """One vocabulary's lines: read thin, replaced where it was seen and where it was not. top: the largest k."""
    rows = own[own["vocabulary"] == name]
    level, source = rows["level"].iloc[0], rows["source"].iloc[0]
    colour, marker = look
    thin = read[(read["level"] == level) & (read["source"] == source) & read["k"].notna()]
    if len(thin) > 1:
        of = {"x": thin["at"], "legendgroup": name, "showlegend": False, "opacity": 0.65}
        figure.add_trace(_trace(thin, f"{name}, read", "lines", (colour, 1.0, "solid"), "read", **of))
    for situation, dash in (("seen", "solid"), ("unseen", "dash")):
        part = rows[rows["situation"] == situation]
        if part.empty:
            continue
        if level.startswith("hypothesis:") or part["k"].isna().all():
            _stated(figure, part, name, situation, colour, marker, top)
            continue
        seen = situation == "seen"
        inside = colour if seen else PALETTES[template]["paper"]
        mark = {"symbol": marker, "size": 8, "color": inside, "line": {"color": colour, "width": 1.6}}
        of = {"x": part["at"], "showlegend": seen, "error_y": error_bars(part, colour) if seen else None}
        figure.add_trace(_trace(part, name, "lines+markers", (colour, 2.4, dash), situation, marker=mark, **of))


def _add_key(figure: go.Figure, ink: Mapping[str, str]) -> None:
    """The line of the floor, and what solid, dashed and thin lines mean."""
    floor = {"color": ink["soft"], "width": 1.2, "dash": "dot"}
    figure.add_hline(y=1, line=floor)
    label = "the floor, at 1: the best input-only reader"
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=label, line=floor))
    for dash, width, label in (("solid", 2.4, "seen"), ("dash", 2.4, "unseen"), ("solid", 1, "read only")):
        line = {"color": ink["ink"], "dash": dash, "width": width}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=label, legend="legend2", line=line))


def row_hover(rows: pd.DataFrame, *words: str) -> dict[str, Any]:
    """What stands beside the pointer at each row of a trace."""
    known = rows["value"].notna()
    return {
        "customdata": [
            hover_text(row, *words) if told else "" for told, (_, row) in zip(known, rows.iterrows(), strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _trace(
    part: pd.DataFrame, name: str, mode: str, line: tuple[str, float, str], *words: str, x: Any = None, **more: Any
) -> go.Scatter:
    """Values of rows by x, or by their column `x`, in one group with their interval. line: colour, width and dash.

    words: for the pointer; more: of the trace, in place of these too.
    """
    of = {"legendgroup": name, "line": dict(zip(("color", "width", "dash"), line, strict=True))} | more
    at = part["x"] if x is None else x
    return go.Scatter(x=at, y=part["value"], name=name, mode=mode, **of, **row_hover(part, *words))


def _dressed(
    figure: go.Figure,
    table: pd.DataFrame,
    shown: pd.DataFrame,
    template: Template,
    title: str,
    subtitle: str,
    **more: Any,
) -> None:
    """The house look of a figure along the network, with hatching where `shown` has no value. more: of `dress`."""
    places = Places.of(table)
    dress(figure, template, title, subtitle, about=about(table), **more)
    site_axis(figure, places)
    add_gaps(figure, places, shown, template)


def layer_curves(
    frame: pd.DataFrame, *, template: Template = "light", reported: Sequence[Reported] = (), **selection: Any
) -> go.Figure:
    """FBU by site, a curve with its interval per level, controls as thin grey lines; published numbers as open marks.

    The lighter ribbon, where the run has one, covers the whole curve at once.
    """
    table = frame_of_kind("layer_curves", frame, selection)
    shown = table[table["value"].notna() & (table["level"] != "prior")]
    if shown.empty:
        return empty_figure(
            "No level has been read at any hook point for this behaviour.", "probekit run SPEC", template
        )
    ink = PALETTES[template]
    places = Places.of(table)
    figure = go.Figure()
    _add_thin(figure, shown[shown["control"] != ""], places, ink["band"])
    own = shown[(shown["control"] == "") & (shown["level"] != "baseline")]
    ends = []
    for label, look in _distinct(own, template).items():
        part = places.spread(own[own["label"] == label])
        _add_curve(figure, part, label, look, few=len(places) <= 24)
        ends.append((part["value"].dropna().iloc[-1], label, look.colour))
    at = {name: i for i, name in enumerate(places.names)}
    _add_reported(figure, frame, table, reported, at, ink["ink"])
    figure.add_hline(y=1, line={"color": ink["soft"], "width": 1.2, "dash": "dot"})
    read = table["metric"].iloc[0] == "read"
    asked = "does the behaviour become readable" if read else "does the model run on it"
    note = fbu_axis(figure, own["value"])
    _dressed(figure, table, own, template, f"At which layer {asked}?", subtitle_of(table), height=560, note=note)
    last = unembedding(frame, table["behaviour"].iloc[0]) if read else ""
    if last in places.hooks:  # where a curve falls to 0 and nothing is found
        said = {"annotation_text": "unembedding", "annotation_position": "top left",
                "annotation_font": {"size": 12, "color": ink["soft"]}}  # fmt: skip
        figure.add_vline(
            x=list(places.hooks).index(last), line={"color": ink["soft"], "width": 1, "dash": "dash"}, **said
        )
    figure.update_layout(margin={"b": 170})
    label_ends(figure, ends)
    return figure


@dataclass(frozen=True)
class _Look:
    """How one curve is told from all others: by colour, marker and dash together, and by no two of them alone."""

    colour: str
    marker: str
    dash: str


def _distinct(own: pd.DataFrame, template: Template) -> dict[str, _Look]:
    """A look for each curve; where a level has its colour taken, the next dash tells the two apart."""
    found: dict[str, _Look] = {}
    for label, part in own.groupby("label", sort=False):
        level, source = part["level"].iloc[0], part["source"].iloc[0]
        several = own.loc[own["level"] == level, "source"].nunique() > 1
        colour, marker = look_of(level, source, template, ambiguous=several)
        taken = {(look.colour, look.dash) for look in found.values()}
        hues = [colour, *(PALETTES[template][hue] for hue in HUES)]
        free = ((hue, dash) for dash in DASHES for hue in hues if (hue, dash) not in taken)
        first = next((dash for dash in DASHES if (colour, dash) not in taken), None)
        colour, dash = (colour, first) if first else next(free, (colour, DASHES[0]))
        markers = {look.marker for look in found.values()}
        marker = next((one for one in (marker, *MARKERS) if one not in markers), marker)
        found[str(label)] = _Look(colour, marker, dash)
    return found


def _add_curve(figure: go.Figure, part: pd.DataFrame, label: str, look: _Look, *, few: bool) -> None:
    """One level over sites with its intervals; a site without a value breaks the line."""
    together = part.assign(low=part["band_low"], high=part["band_high"])
    add_ribbon(figure, part["x"], together, look.colour, TOGETHER, 0.08, TOGETHER)
    add_ribbon(figure, part["x"], part, look.colour, label)
    mark = {"symbol": look.marker, "size": 8 if few else 4, "line": {"color": look.colour, "width": 1}}
    # with markers: a site between two without a value is a point and no line
    figure.add_trace(_trace(part, label, "lines+markers", (look.colour, 2.2, look.dash), marker=mark))


def _add_reported(
    figure: go.Figure, frame: pd.DataFrame, table: pd.DataFrame, reported: Sequence[Reported], at: Mapping[str, int],
    colour: str,
) -> None:  # fmt: skip
    """Published shares, open and with how far they are from ours on hover. AUROC and accuracy are on another scale."""
    shares = [one for one in reported if one.metric == "fbu"]
    told = beside(frame, shares, behaviour=str(table["behaviour"].iloc[0]))
    for source, part in told[told["where"].isin(at.keys())].groupby("source", sort=False):
        figure.add_trace(
            go.Scatter(
                x=part["where"].map(at),
                y=part["value"],
                name=f"{source} (published)",
                mode="markers",
                marker={"symbol": "circle-open", "size": 12, "line": {"color": colour, "width": 2}, "color": colour},
                customdata=[
                    f"<b>{escape(row['source'])}</b><br>{escape(row['where'])}: {number(row['value'])} published, "
                    f"{escape(row['here'])} here<br>apart: {escape(row['said'])}"
                    for row in part.to_dict("records")
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )


def _add_thin(figure: go.Figure, controls: pd.DataFrame, places: Places, colour: str) -> None:
    """Controls as thin lines over sites."""
    for control, rows in controls.groupby("control", sort=False):
        words, line = control_words(str(control)), (colour, 1.3, CONTROL_DASH.get(str(control), "4px,2px"))
        for label, part in rows.groupby("label", sort=False):
            name = f"{words.split(' (')[0]}: {label}"
            told = _trace(places.spread(part), name, "lines", line, f"control: {words}", legendgroup=None)
            figure.add_trace(told)


def ontology(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Accuracy by site of the readers of each named feature: solid linear, dashed nonlinear, dotted untrained twin."""
    table = frame_of_kind("ontology", frame, selection)
    shown = table[table["value"].notna()]
    if shown.empty:
        return empty_figure(
            "No named feature was read as a target.",
            '[read] features = ["..."] in the spec, then probekit run SPEC',
            template,
        )
    ink = PALETTES[template]
    places = Places.of(table)
    palette = [
        (ink["blue"], "circle"),
        (ink["orange"], "square"),
        (ink["green"], "triangle-up"),
        (ink["red"], "diamond"),
        (ink["purple"], "x"),
        (ink["sky"], "star"),
    ]
    features = list(dict.fromkeys(shown["feature"]))
    figure = go.Figure()
    for (feature, level, control), part in shown.groupby(["feature", "level", "control"], sort=False):
        colour, marker = palette[features.index(feature) % len(palette)]
        dash = "dot" if control else "solid" if level == "linear" else "dash"
        name = f"{feature.replace('_', ' / ')}, {control_words(control).split(' (')[0] if control else level}"
        part = places.spread(part)
        if not control:
            add_ribbon(figure, part["x"], part, colour, name)
        mode = "lines+markers" if len(places) <= 24 and not control else "lines"
        mark = {"symbol": marker if level == "linear" else f"{marker}-open", "size": 8, "color": colour}
        figure.add_trace(_trace(part, name, mode, (colour, 1.4 if control else 2.2, dash), marker=mark))
    low = min(0.5, float(shown["value"].min()))
    figure.update_yaxes(title_text="accuracy on held-out groups", range=[low - 0.02, 1.015], tickformat=".0%")
    said = ", ".join(f.replace("_", " / ") for f in features) + f" ({shown['fit_domain'].iloc[0]})"
    _dressed(figure, table, shown, template, "Is the feature linear, or only in the right words?", said, height=500)
    figure.update_layout(margin={"b": 150})
    return figure


def floor_switch(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """The same reader on the strong floor and on the weak one; the gap is what the input alone gave away."""
    table = frame_of_kind("floor_switch", frame, selection)
    shown = table[table["value"].notna()]
    if shown["floor"].nunique() < 2:
        return empty_figure(
            "This level was not scored on both floors.",
            "probekit run SPEC with a weak floor beside the strong one",
            template,
        )
    ink = PALETTES[template]
    looks = {
        "strong": (ink["blue"], "circle", "solid", "strong floor: the best input-only reader"),
        "weak": (ink["orange"], "square", "dash", "weak floor: position alone"),
    }
    return _one_reader(table, shown, "floor", looks, "How much would a weak floor have claimed?", template)


def by_position(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """FBU by site of one level, a curve with its interval per rule of positions."""
    table = frame_of_kind("by_position", frame, selection)
    shown = table[table["value"].notna()]
    if shown.empty:
        return empty_figure("This level was not read at any hook point.", "probekit run SPEC", template)
    ink = PALETTES[template]
    styles = ((ink["blue"], "solid"), (ink["orange"], "dash"), (ink["green"], "dot"), (ink["purple"], "longdash"),
              (ink["red"], "dashdot"), (ink["sky"], "longdashdot"))  # fmt: skip
    looks = {}
    for i, name in enumerate(shown["position"].unique()):
        colour, dash = styles[i % len(styles)]
        looks[name] = colour, SIMPLE_MARKERS[i % len(SIMPLE_MARKERS)], dash, f"read at {name}"
    return _one_reader(table, shown, "position", looks, "At which token does it become readable?", template)


def _one_reader(
    table: pd.DataFrame, shown: pd.DataFrame, column: str, looks: Mapping[str, tuple[str, str, str, str]],
    title: str, template: Template,
) -> go.Figure:  # fmt: skip
    """One level by site, a curve per value of `column`. looks: colour, marker, dash and name of each."""
    places = Places.of(table)
    figure = go.Figure()
    for value, part in shown.groupby(column, sort=False):
        colour, marker, dash, name = looks[str(value)]
        part = places.spread(part)
        add_ribbon(figure, part["x"], part, colour, name)
        mode, mark = "lines+markers" if len(places) <= 24 else "lines", {"symbol": marker, "size": 8}
        figure.add_trace(_trace(part, name, mode, (colour, 2.2, dash), f"{column}: {value}", marker=mark))
    said, note = subtitle_of(table, str(table["label"].iloc[0])), fbu_axis(figure, shown["value"])
    _dressed(figure, table, shown, template, title, said, height=440, note=note)
    return figure


def calibration(frame: pd.DataFrame, *, template: Template = "light") -> go.Figure:
    """Truth against estimate, one point per truth of the table `calibration`; what is not accepted has an open marker.

    Crosses are what each case's naive method says of the truth that it misses.
    """
    shown = frame[frame["truth"].notna() & frame["estimate"].notna()]
    if shown.empty:
        return empty_figure("Nothing was calibrated yet.", "probekit calibrate --seeds 10", template)
    ink = PALETTES[template]
    figure = go.Figure()
    most = float(max(1.15, shown["truth"].max() * 1.05))
    line = {"color": ink["band"], "width": 1.2}
    figure.add_trace(
        go.Scatter(x=[-1, most], y=[-1, most], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    )
    symbols = ("circle", "square", "triangle-up", "diamond", "hexagram", "star", "pentagon")
    looks = list(zip((ink[hue] for hue in HUES), symbols, strict=True))
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
            customdata=[f"{escape(str(r['case']))}: {escape(str(r['naive_method']))}" for _, r in fooled.iterrows()],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    accepted = f"{int(frame['passed'].sum())} of {len(frame)} truths accepted, up to {int(frame['seeds'].max())} seeds"
    dress(figure, template, "Does the instrument find what is known?", accepted, height=560)
    low = float(min(0, shown["truth"].min(), shown["estimate"].min())) - 0.05
    figure.update_xaxes(title_text="truth", range=[low, most])
    figure.update_yaxes(title_text="estimate, mean over seeds", range=[low, most])
    return figure


def _calibration_hover(row: pd.Series) -> str:
    parts = [str(row[name]) for name in ("case", "metric", "level", "keep", "arm", "control") if row.get(name)]
    found = f"truth {row['truth']:.3f}, found {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return "<br>".join([escape(" ".join(parts)), found, escape(str(row["why"])) if row["why"] else "accepted"])


def _stated(
    figure: go.Figure, part: pd.DataFrame, name: str, situation: str, colour: str, marker: str, top: int
) -> None:
    """A hypothesis is one point at its k; without a k, a level line, since it claims no complexity."""
    seen = situation == "seen"
    if part["k"].isna().all():
        both, line = part.iloc[[0, 0]], (colour, 1.6, "dashdot" if seen else "dot")
        of = {"x": [0, place_of_k(top)], "showlegend": seen}
        figure.add_trace(_trace(both, name, "lines", line, situation, **of))
        return
    symbol = marker if seen or marker.endswith("-open") else f"{marker}-open"
    mark = {"symbol": symbol, "size": 15, "color": colour, "line": {"width": 1.6, "color": colour}}
    of = {"x": part["at"], "showlegend": seen, "error_y": error_bars(part, colour), "marker": mark}
    figure.add_trace(_trace(part, name, "markers", (colour, 1.6, "solid"), situation, **of))


def _band(figure: go.Figure, rows: pd.DataFrame, colour: str, name: str, dash: str = "dot") -> None:
    """A control as a shaded band over k: what the same procedure finds where there is nothing to find."""
    rows = rows[rows["situation"] == "seen"] if "situation" in rows else rows
    if rows.empty:
        return
    by_k = rows.groupby("at").agg(low=("low", "min"), high=("high", "max"), value=("value", "mean")).reset_index()
    add_ribbon(figure, by_k["at"], by_k, colour, name)
    figure.add_trace(
        go.Scatter(
            x=by_k["at"],
            y=by_k["value"],
            mode="lines",
            name=name,
            legendgroup=name,
            hoverinfo="skip",
            line={"color": colour, "width": 1.3, "dash": dash},
        )
    )
