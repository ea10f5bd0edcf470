"""Figures with a line or bar per level: curves over layers, frontier, decomposition, ontology, calibration."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.results.looks import (
    BLUE,
    CONTROL_DASH,
    CONTROL_WORDS,
    GREEN,
    ORANGE,
    PALETTES,
    PURPLE,
    RED,
    SIMPLE_MARKERS,
    SKY,
    Template,
    add_ribbon,
    control_words,
    dash_of,
    dress,
    empty_figure,
    error_bars,
    escape,
    faded,
    fbu_axis,
    frame_of_kind,
    hover_text,
    look_of,
    site_axis,
    subtitle_of,
)
from probekit.results.reported import Reported, beside
from probekit.results.text import number

TOGETHER = "95 % of a whole curve at once"


def decomposition(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Stacked shares of the explainable bits by site, in the order chosen by `arm`."""
    table = frame_of_kind("decomposition", frame, selection)
    if table["value"].notna().sum() == 0:
        return empty_figure(
            "No decomposition was measured for this behaviour.",
            "[read] decomposition = true in the spec, then probekit run SPEC",
            template,
        )
    ink = PALETTES[template]
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    figure = go.Figure()
    fills = {
        "direction": (SKY, ""),
        "directions": (BLUE, "/"),
        "linear": (RED, "\\"),
        "nonlinear": (PURPLE, "x"),
        "absent": (ink["band"], "."),
    }
    for label, part in table.groupby("label", sort=False):
        level = part["level"].iloc[0]
        colour, shape = fills.get(level, (GREEN if level.startswith("simple:") else ORANGE, "-"))
        x = part["site"].map({site: i for i, site in enumerate(sites)})
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=str(label),
                stackgroup="shares",
                mode="lines" if len(sites) > 1 else "markers+lines",
                line={"width": 1, "color": ink["paper"]},
                fillcolor=faded(colour, 0.82 if level != "absent" else 0.25),
                fillpattern={
                    "shape": shape,
                    "fgcolor": faded(ink["paper"], 0.75),
                    "size": 7,
                    "solidity": 0.25,
                    "fillmode": "replace",
                    "bgcolor": faded(colour, 0.82 if level != "absent" else 0.25),
                }
                if shape
                else None,
                **_hover(part),
            )
        )
    order = "linear classes first" if table["arm"].iloc[0] == "linear_first" else "simple functions first"
    note = "a share is clearly below 0: see the table" if table["flag"].any() else ""
    dress(
        figure,
        template,
        "Which class of description carries the bits?",
        subtitle_of(table, order),
        height=500,
        note=note,
    )
    site_axis(figure, sites)
    figure.update_yaxes(title_text="share of the explainable bits", range=[min(0.0, float(table["value"].min())), 1.0])
    figure.update_layout(hovermode="x unified" if len(sites) <= 30 else "closest", legend_traceorder="normal")
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
    _add_controls(figure, replace, read, ink["band"])
    for name in dict.fromkeys(own["vocabulary"]):
        _add_vocabulary(figure, own, name, read[read["control"] == ""], max(map(int, several), default=1), template)
    _add_key(figure, ink)
    arm = replace["arm"].iloc[0]
    place = "at all sites" if arm.startswith("chain") else f"at {replace['site'].iloc[0]}"
    donors = "donors matched on the abstraction" if "matched" in arm else "random donors"
    dress(
        figure,
        template,
        "How much does a description explain for its complexity?",
        subtitle_of(replace, f"replaced {place}, {donors}"),
        height=580,
        note=fbu_axis(figure, own["value"], most=3.0),
    )
    ticks = sorted({int(k) for k in own["k"].dropna()} & several) or [1]
    figure.update_xaxes(
        type="log",
        title_text="complexity k (directions, neurons or named features kept; log scale)",
        tickvals=ticks,
        ticktext=[str(k) for k in ticks],
    )
    font = {"size": 12, "color": ink["soft"]}
    place_of_key = {"x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
    figure.update_layout(
        margin={"r": 20}, legend2={"orientation": "h", **place_of_key, "font": font, "itemclick": False}
    )
    return figure


def _add_controls(figure: go.Figure, replace: pd.DataFrame, read: pd.DataFrame, colour: str) -> None:
    """What the same procedure finds in an untrained twin, and for random directions."""
    # The twin's own behaviour hardly depends on its input, so nothing can be replaced in it: its band is what its
    # activations let one read of the trained model's behaviour.
    twin = replace[replace["control"] == "random_twin"]
    twin = read[(read["control"] == "random_twin") & read["k"].notna()] if twin.empty else twin
    _band(figure, twin, colour, CONTROL_WORDS["random_twin"])
    random = replace[replace["control"] == "random_directions"]
    _band(figure, random, colour, CONTROL_WORDS["random_directions"], "dashdot")


def _add_vocabulary(
    figure: go.Figure, own: pd.DataFrame, name: str, read: pd.DataFrame, top: int, template: Template
) -> None:
    """One vocabulary's lines: read thin, replaced where it was seen and where it was not. top: the largest k."""
    rows = own[own["vocabulary"] == name]
    level, source = rows["level"].iloc[0], rows["source"].iloc[0]
    colour, marker = look_of(level, source, template, ambiguous=own.loc[own["level"] == level, "source"].nunique() > 1)
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
                **_hover(thin, "read"),
            )
        )
    for situation, dash in (("seen", "solid"), ("unseen", "dash")):
        part = rows[rows["situation"] == situation]
        if part.empty:
            continue
        if level.startswith("hypothesis:") or part["k"].isna().all():
            _stated(figure, part, name, situation, colour, marker, top)
            continue
        inside = colour if situation == "seen" else PALETTES[template]["paper"]
        figure.add_trace(
            go.Scatter(
                x=part["k"],
                y=part["value"],
                name=name,
                legendgroup=name,
                showlegend=situation == "seen",
                mode="lines+markers",
                line={"color": colour, "width": 2.4, "dash": dash},
                marker={"symbol": marker, "size": 8, "color": inside, "line": {"color": colour, "width": 1.6}},
                error_y=error_bars(part, colour) if situation == "seen" else None,
                **_hover(part, situation),
            )
        )


def _add_key(figure: go.Figure, ink: Mapping[str, str]) -> None:
    """The line of the floor, and what solid, dashed and thin lines mean."""
    floor = {"color": ink["soft"], "width": 1.2, "dash": "dot"}
    figure.add_hline(y=1, line=floor)
    label = "the floor, at 1: the best input-only reader"
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=label, line=floor))
    for dash, width, label in (("solid", 2.4, "seen"), ("dash", 2.4, "unseen"), ("solid", 1, "read only")):
        line = {"color": ink["ink"], "dash": dash, "width": width}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=label, legend="legend2", line=line))


def _hover(rows: pd.DataFrame, *words: str) -> dict[str, Any]:
    """What stands beside the pointer at each row of a trace."""
    return {
        "customdata": [hover_text(row, *words) for _, row in rows.iterrows()],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


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
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    at = {site: i for i, site in enumerate(sites)}
    figure = go.Figure()
    _add_thin(figure, shown[shown["control"] != ""], at, ink["band"])
    own = shown[(shown["control"] == "") & (shown["level"] != "baseline")]
    for label, part in own.groupby("label", sort=False):
        level, source = part["level"].iloc[0], part["source"].iloc[0]
        colour, marker = look_of(
            level, source, template, ambiguous=own.loc[own["level"] == level, "source"].nunique() > 1
        )
        x = part["site"].map(at)
        together = part.assign(low=part["band_low"], high=part["band_high"])
        add_ribbon(figure, x, together, colour, TOGETHER, 0.08, TOGETHER)
        add_ribbon(figure, x, part, colour, str(label))
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=str(label),
                legendgroup=str(label),
                mode="lines+markers" if len(sites) <= 24 else "lines",
                line={"color": colour, "width": 2.2, "dash": dash_of(marker) if len(sites) > 24 else "solid"},
                marker={"symbol": marker, "size": 8, "line": {"color": colour, "width": 1}},
                **_hover(part),
            )
        )
    _add_reported(figure, frame, table, reported, at, ink["ink"])
    figure.add_hline(y=1, line={"color": ink["soft"], "width": 1.2, "dash": "dot"})
    dress(
        figure,
        template,
        "At which layer does the behaviour become readable?"
        if table["metric"].iloc[0] == "read"
        else "At which layer does the model run on it?",
        subtitle_of(table),
        height=560,
        note=fbu_axis(figure, own["value"]),
    )
    site_axis(figure, sites)
    figure.update_layout(margin={"b": 170})
    return figure


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


def _add_thin(figure: go.Figure, controls: pd.DataFrame, at: Mapping[str, int], colour: str) -> None:
    """Controls as thin lines over sites. at: site -> its place on the axis."""
    for control, rows in controls.groupby("control", sort=False):
        for label, part in rows.groupby("label", sort=False):
            figure.add_trace(
                go.Scatter(
                    x=part["site"].map(at),
                    y=part["value"],
                    mode="lines",
                    name=f"{control_words(str(control)).split(' (')[0]}: {label}",
                    line={"color": colour, "width": 1.3, "dash": CONTROL_DASH.get(str(control), "4px,2px")},
                    customdata=[hover_text(r, f"control: {control_words(r['control'])}") for _, r in part.iterrows()],
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )


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
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    at = {site: i for i, site in enumerate(sites)}
    palette = [
        (PALETTES[template]["blue"], "circle"),
        (ORANGE, "square"),
        (GREEN, "triangle-up"),
        (RED, "diamond"),
        (PURPLE, "x"),
        (SKY, "star"),
    ]
    features = list(dict.fromkeys(shown["feature"]))
    figure = go.Figure()
    for (feature, level, control), part in shown.groupby(["feature", "level", "control"], sort=False):
        colour, marker = palette[features.index(feature) % len(palette)]
        dash = "dot" if control else "solid" if level == "linear" else "dash"
        name = f"{feature.replace('_', ' / ')}, {control_words(control).split(' (')[0] if control else level}"
        x = part["site"].map(at)
        if not control:
            add_ribbon(figure, x, part, colour, name)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=name,
                legendgroup=name,
                mode="lines+markers" if len(sites) <= 24 and not control else "lines",
                line={"color": colour, "width": 1.4 if control else 2.2, "dash": dash},
                marker={"symbol": marker if level == "linear" else f"{marker}-open", "size": 8, "color": colour},
                **_hover(part),
            )
        )
    dress(
        figure,
        template,
        "Is the feature linear, or only in the right words?",
        ", ".join(f.replace("_", " / ") for f in features) + f" ({shown['fit_domain'].iloc[0]})",
        height=500,
    )
    low = min(0.5, float(shown["value"].min()))
    figure.update_yaxes(title_text="accuracy on held-out groups", range=[low - 0.02, 1.015], tickformat=".0%")
    site_axis(figure, sites)
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
    looks = {
        "strong": (PALETTES[template]["blue"], "circle", "solid", "strong floor: the best input-only reader"),
        "weak": (ORANGE, "square", "dash", "weak floor: position alone"),
    }
    return _one_reader(table, shown, "floor", looks, "How much would a weak floor have claimed?", template)


def by_position(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """FBU by site of one level, a curve with its interval per rule of positions."""
    table = frame_of_kind("by_position", frame, selection)
    shown = table[table["value"].notna()]
    if shown.empty:
        return empty_figure("This level was not read at any hook point.", "probekit run SPEC", template)
    styles = ((PALETTES[template]["blue"], "solid"), (ORANGE, "dash"), (GREEN, "dot"), (PURPLE, "longdash"),
              (RED, "dashdot"), (SKY, "longdashdot"))  # fmt: skip
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
    sites = list(table.sort_values("site_order", kind="stable")["site"].unique())
    at = {site: i for i, site in enumerate(sites)}
    figure = go.Figure()
    for value, part in shown.groupby(column, sort=False):
        colour, marker, dash, name = looks[str(value)]
        x = part["site"].map(at)
        add_ribbon(figure, x, part, colour, name)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=part["value"],
                name=name,
                legendgroup=name,
                mode="lines+markers" if len(sites) <= 24 else "lines",
                line={"color": colour, "width": 2.2, "dash": dash},
                marker={"symbol": marker, "size": 8},
                customdata=[hover_text(r, f"{column}: {value}") for _, r in part.iterrows()],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    dress(
        figure,
        template,
        title,
        subtitle_of(table, str(table["label"].iloc[0])),
        height=440,
        note=fbu_axis(figure, shown["value"]),
    )
    site_axis(figure, sites)
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
    looks = [(ink["blue"], "circle"), (ORANGE, "square"), (GREEN, "triangle-up"), (PURPLE, "diamond"),
             (RED, "hexagram"), (SKY, "star"), (ink["ink"], "pentagon")]  # fmt: skip
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
    hover = _hover(part, situation)
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
            error_y=error_bars(part, colour),
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


def _band(figure: go.Figure, rows: pd.DataFrame, colour: str, name: str, dash: str = "dot") -> None:
    """A control as a shaded band over k: what the same procedure finds where there is nothing to find."""
    rows = rows[rows["situation"] == "seen"] if "situation" in rows else rows
    if rows.empty:
        return
    by_k = rows.groupby("k").agg(low=("low", "min"), high=("high", "max"), value=("value", "mean")).reset_index()
    add_ribbon(figure, by_k["k"], by_k, colour, name)
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
