"""Figures of what a model runs on: read against kept, doses of a direction, sites kept one after another."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.results import text as text_of
from probekit.results.causal import default_site
from probekit.results.looks import (
    HUES,
    PALETTES,
    Template,
    about,
    add_ribbon,
    dress,
    empty_figure,
    error_bars,
    escape,
    faded,
    fbu_axis,
    frame_of_kind,
    subtitle_of,
)

_STRIP = (1.17, 1.33)  # where the sets stand that no reader was fitted to, or of which one misleads
_READ = 1.12  # FBU of reading that the axis shows
_NAMED = 14  # points that have a name beside them without hiding each other
_CROWD = (0.16, 0.05, 0.06)  # how near two points are, read (by site, by k) and kept, whose names cover each other
_MOST = 1.5  # FBU that the axes show
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "pentagon", "star", "triangle-down", "hexagram")
_DASHES = ("solid", "dash", "dot", "longdash", "dashdot", "longdashdot")


def read_against_replace(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """Every direction set as a point: what its reader leaves unexplained, and what the model that keeps it alone does.

    On the diagonal the model runs on as much as can be read; above it what is read is not what it runs on. Grey:
    random directions and k = 0. Sets without a reader of their own stand in a strip of theirs.
    """
    table = frame_of_kind("read_against_replace", frame, selection)
    shown = table[table["kept"].notna()] if len(table) else table
    if shown.empty:
        return empty_figure(
            "Nothing was replaced at one site alone, so that no site has a point.",
            '[replace] arms = ["single:random"] in the spec, then probekit run SPEC',
            template,
        )
    ink = PALETTES[template]
    shown = _placed(_by_kind(shown))
    own, control = shown[shown["control"] == ""], shown[shown["control"] != ""]
    figure = go.Figure()
    line = {"color": ink["soft"], "width": 1.2, "dash": "dot"}
    figure.add_trace(go.Scatter(x=[-1, 1], y=[-1, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False))
    for k0, name, symbol in ((False, "random directions", "cross-thin"), (True, "nothing kept (k = 0)", "line-ew")):
        part = control[(control["k"] == 0) == k0]
        if len(part):
            mark = {"symbol": symbol, "size": 9, "line": {"width": 1.6, "color": ink["band"]}}
            figure.add_trace(_points(part, name, ink["band"], mark))
    looks, named = _looks(own, template), _apart(own) if len(own) <= _NAMED else own.index[:0]
    for (fitted, kind), part in own.groupby(["fitted_to", "kind"], sort=False):
        colour, symbol = looks[fitted, kind]
        mark = {"symbol": symbol, "size": 10, "color": faded(colour, 0.8), "line": {"width": 1.4, "color": colour}}
        figure.add_trace(_points(part, _of(fitted, kind), colour, mark, named))
    place = f"at {shown['site'].iloc[0]}" if shown["site"].nunique() == 1 else f"{shown['site'].nunique()} sites"
    lost = len(table) - len(shown)
    dress(
        figure, template, "Does the model run on what can be read?",
        subtitle_of(shown, f"{place}, kept with random donors"), height=600,
        note=fbu_axis(figure, shown["kept"], most=_MOST) or (f"{lost} not measured: see the table" if lost else ""),
        about=about(table),
    )  # fmt: skip
    _frame_of_points(figure, shown, ink)
    return figure


def _by_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """With `kind`: the label without its k and without what it was fitted to."""
    kinds = [label.partition(", k=")[0].partition(" of ")[0] for label in rows["label"]]
    return rows.assign(kind=kinds)


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    """With `x`: what is read, or a place in the strip, side by side for each kind."""
    x = rows["read"].astype(float)
    out = x.isna() | (x > _READ)
    kinds = list(dict.fromkeys(zip(rows.loc[out, "fitted_to"], rows.loc[out, "kind"], strict=True)))
    for i, (fitted, kind) in enumerate(kinds):
        left, right = _STRIP
        at = left + (right - left) * (i + 0.5) / len(kinds)
        x = x.mask(out & (rows["fitted_to"] == fitted) & (rows["kind"] == kind), at)
    return rows.assign(x=x, stripped=out)


def _of(fitted: str, kind: str) -> str:
    return kind if kind == "PCA" or fitted.startswith("given: ") else f"{fitted}: {kind}"


def _looks(own: pd.DataFrame, template: Template) -> dict[tuple[str, str], tuple[str, str]]:
    """Colour by what a set was fitted to, marker by level and source."""
    colours = [PALETTES[template][hue] for hue in HUES]
    pairs = own[["fitted_to", "kind"]].drop_duplicates()
    first = own["behaviour"].iloc[0] if len(own) else ""
    fitted = sorted(dict.fromkeys(pairs["fitted_to"]), key=lambda name: name != first)
    kinds = list(dict.fromkeys(pairs["kind"]))
    return {
        (f, kind): (colours[fitted.index(f) % len(colours)], _SYMBOLS[kinds.index(kind) % len(_SYMBOLS)])
        for f, kind in pairs.itertuples(index=False)
    }


def _apart(own: pd.DataFrame) -> pd.Index:
    """The points beside which a name can stand without covering another one's: the first of each crowd."""
    kept: list[Any] = []
    wide, high = _CROWD[own["site"].nunique() == 1], _CROWD[2]
    for i, row in own.iterrows():
        near = own.loc[kept]
        if not ((abs(near["x"] - row["x"]) < wide) & (abs(near["kept"] - row["kept"]) < high)).any():
            kept.append(i)
    return pd.Index(kept)


def _points(
    rows: pd.DataFrame, name: str, colour: str, mark: Mapping[str, Any], named: pd.Index | None = None
) -> go.Scatter:
    """Points with both intervals; those in `named` have a name beside them."""
    one_site = rows["site"].nunique() == 1
    words = [f"k={int(k)}" if one_site and pd.notna(k) else escape(site)
             for k, site in zip(rows["k"], rows["site"], strict=True)]  # fmt: skip
    shown = [] if named is None else [word if i in named else "" for i, word in zip(rows.index, words, strict=True)]
    return go.Scatter(
        x=rows["x"], y=rows["kept"], name=name, marker=dict(mark),
        mode="markers+text" if any(shown) else "markers", text=shown if any(shown) else None, textposition="top right",
        textfont={"size": 11, "color": colour}, cliponaxis=False,
        error_x=_bars(rows, "read", colour), error_y=_bars(rows, "kept", colour),
        customdata=[_point_hover(row) for _, row in rows.iterrows()], hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _bars(rows: pd.DataFrame, name: str, colour: str) -> dict[str, Any]:
    told = {"value": rows[name], "low": rows[f"{name}_low"], "high": rows[f"{name}_high"]}
    bars = error_bars(pd.DataFrame(told).astype(float), colour)
    return bars | {"color": faded(colour, 0.35), "thickness": 1}


def _point_hover(row: pd.Series) -> str:
    def said(name: str) -> str:
        return text_of.value_text({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"],
                                   "na_reason": row["na_reason"]})  # fmt: skip

    fitted = f", fitted to {row['fitted_to']}" if row["fitted_to"] else ""
    read = "no reader of it was fitted" if pd.isna(row["read"]) else f"read: {said('read')}"
    lines = [f"<b>{escape(str(row['site']))}</b>, {escape(str(row['label']) + fitted)}", escape(read),
             f"<b>kept: {escape(said('kept'))}</b>", f"n = {row['n']} in {row['groups']} groups"]  # fmt: skip
    return "<br>".join(lines)


def _frame_of_points(figure: go.Figure, shown: pd.DataFrame, ink: Mapping[str, str]) -> None:
    """Axes of one scale, the strip of what was not read, and words for the two sides of the diagonal."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    text = ["0", ".25", ".50", ".75", "1"]
    strip = bool(shown["stripped"].any())
    if strip:
        line = {"color": ink["soft"], "width": 1, "dash": "dot"}
        figure.add_vline(x=(_READ + _STRIP[0]) / 2, line=line)
        ticks, text = [*ticks, sum(_STRIP) / 2], [*text, "not read,<br>or misread"]
    low = float(shown["read"].min()) if shown["read"].notna().any() else 0.0
    figure.update_xaxes(
        title_text="unexplained when it is read (of what the directions were fitted to)",
        range=[min(-0.04, max(low, -0.3) - 0.04), 1.36 if strip else _READ], tickvals=ticks, ticktext=text,
    )  # fmt: skip
    figure.update_yaxes(title_text="unexplained when it alone is kept (of the behaviour)")
    font = {"size": 12, "color": ink["soft"]}
    for x, y, anchor, words in ((0.0, 1.03, "left", "read here, but not what the model runs on"),
                                (1.0, 0.01, "right", "run on more than it is read")):  # fmt: skip
        side = shown["x"].between(0.6, 1.1) if anchor == "right" else shown["x"].between(-0.05, 0.5)
        if (side & (abs(shown["kept"] - y) < _CROWD[2])).any():
            continue  # points stand there, and the caption says the same
        figure.add_annotation(x=x, y=y, xanchor=anchor, yanchor="bottom", text=words, showarrow=False, font=font)


def steering(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """What each direction does to its outcome by dose, random ones as a band; beside it what moves the wrong way.

    One site: the one given as `hook`, else the one that selection rows prefer.
    """
    if selection.get("hook") is None and (site := default_site(frame, selection.get("behaviour"), "steer")):
        selection = selection | {"hook": site}
    table = frame_of_kind("steering", frame, selection)
    if table.empty:
        return empty_figure(
            "Nothing was steered for this behaviour.", "a [steer] section in the spec, then probekit run SPEC", template
        )
    ink = PALETTES[template]
    panels = {"effect": "log-odds, bits", "share": "share of texts", "wrong": "wrong way", "unrelated": "KL elsewhere"}
    panels = {what: words for what, words in panels.items() if table[what].notna().any()}
    figure = make_subplots(rows=1, cols=len(panels), horizontal_spacing=0.1, subplot_titles=list(panels.values()))
    figure.update_annotations(font={"size": 13, "color": ink["soft"]})
    for column, what in enumerate(panels, 1):
        _add_random(figure, table, what, column, ink["band"])
        for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
            look = _SYMBOLS[i % len(_SYMBOLS)], ink[HUES[i % len(HUES)]], _DASHES[i // len(HUES) % len(_DASHES)]
            figure.add_trace(_dosed(rows, str(label), what, look, first=column == 1), row=1, col=column)
    place = f"at {table['site'].iloc[0]}, {int(table['n'].iloc[0]):,} test rows"
    dress(figure, template, "Does the answer follow a dose?", subtitle_of(table, place), height=500, about=about(table))
    axis = figure.layout.xaxis
    quiet = {"gridcolor": axis.gridcolor, "linecolor": axis.linecolor, "zeroline": False, "automargin": True,
             "tickfont": {"size": 12, "color": ink["ink"]}}  # fmt: skip
    figure.update_xaxes(**quiet)
    figure.update_yaxes(**quiet)
    middle = {"text": "dose, standard deviations", "font": {"size": 13, "color": ink["soft"]}, "standoff": 10}
    figure.update_xaxes(title=middle, row=1, col=(len(panels) + 1) // 2)
    for column, what in enumerate(panels, 1):
        figure.update_yaxes(tickformat=".0%" if what in ("wrong", "share") else "", row=1, col=column)
    return figure


def _dosed(rows: pd.DataFrame, label: str, what: str, look: tuple[str, str, str], *, first: bool) -> go.Scatter:
    """One direction by dose. look: marker, colour and dash; first: in the panel that the legend is told of."""
    symbol, colour, dash = look
    return go.Scatter(
        x=rows["dose"], y=rows[what], name=label, legendgroup=label, showlegend=first, mode="lines+markers",
        line={"color": colour, "width": 2.2, "dash": dash}, marker={"symbol": symbol, "size": 8},
        error_y=_bars(rows, what, colour), customdata=[_dose_hover(row, what) for _, row in rows.iterrows()],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _add_random(figure: go.Figure, table: pd.DataFrame, what: str, column: int, colour: str) -> None:
    """Random directions of equal length as one band: every direction's dose has its own length."""
    rows = table[table[f"random_{what}"].notna()]
    if rows.empty:
        return
    told = {"low": (f"random_{what}_low", "min"), "high": (f"random_{what}_high", "max"),
            "value": (f"random_{what}", "mean")}  # fmt: skip
    by_dose = rows.groupby("dose").agg(**told).reset_index()
    band = go.Figure()
    add_ribbon(band, by_dose["dose"], by_dose, colour, "random directions")
    line = {"color": colour, "width": 1.3, "dash": "dashdot"}
    middle = go.Scatter(
        x=by_dose["dose"], y=by_dose["value"], name="random directions of equal length", mode="lines", line=line,
        hoverinfo="skip", legendgroup="random directions", showlegend=column == 1,
    )  # fmt: skip
    for trace in (*band.data, middle):
        figure.add_trace(trace, row=1, col=column)


def _dose_hover(row: pd.Series, what: str) -> str:
    def said(name: str) -> str:
        return text_of.value_text({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"],
                                   "na_reason": ""})  # fmt: skip

    lines = [f"<b>{escape(str(row['label']))}</b>, dose {row['dose']:+g}", escape(str(row["note"])),
             f"<b>{what}: {said(what)}</b>"]  # fmt: skip
    if pd.notna(row[f"random_{what}"]):
        lines.append(f"random directions: {said(f'random_{what}')}")
    return "<br>".join([*lines, f"n = {row['n']} in {row['groups']} groups"])


def _dash(rows: pd.DataFrame) -> str:
    return "solid" if not rows["control"].iloc[0] else "dashdot" if rows["k"].iloc[0] else "dot"


def roll_out(frame: pd.DataFrame, *, template: Template = "light", **selection: Any) -> go.Figure:
    """FBU against the number of sites at which a direction set alone is kept: does the error compound?"""
    table = frame_of_kind("roll_out", frame, selection)
    shown = table[table["kept"].notna()] if len(table) else table
    if shown.empty:
        return empty_figure(
            "Nothing was kept at one site after another for this behaviour.",
            'the arm "roll_out" in [replace] of the spec, then probekit run SPEC',
            template,
        )
    ink = PALETTES[template]
    figure = go.Figure()
    for i, (label, rows) in enumerate(shown.groupby("label", sort=False)):
        control = rows["control"].iloc[0] != ""
        colour = ink["band"] if control else ink[HUES[i % len(HUES)]]
        part = rows.assign(value=rows["kept"], low=rows["kept_low"], high=rows["kept_high"])
        add_ribbon(figure, part["n_sites"], part, colour, str(label), 0.08 if control else 0.16)
        figure.add_trace(go.Scatter(
            x=part["n_sites"], y=part["value"], name=str(label), legendgroup=str(label),
            mode="lines" if control else "lines+markers",
            line={"color": colour, "width": 1.3 if control else 2.2, "dash": _dash(rows)},
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 8},
            customdata=[f"<b>{escape(str(r['label']))}</b><br>kept up to {escape(str(r['site']))}<br>"
                        f"<b>{text_of.value_text(r)}</b><br>n = {r['n']} in {r['groups']} groups"
                        for _, r in part.iterrows()],
            hovertemplate="%{customdata}<extra></extra>",
        ))  # fmt: skip
    dress(figure, template, "Does the error compound over sites?", subtitle_of(shown, "kept with random donors"),
          height=480, note=fbu_axis(figure, shown["kept"]), about=about(table))  # fmt: skip
    most = int(shown["n_sites"].max())
    step = -(-most // 20)
    figure.update_xaxes(title_text="hook points at which it alone is kept, from the first one on",
                        tickvals=list(range(1, most + 1, step)))  # fmt: skip
    return figure
