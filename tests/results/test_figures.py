"""Figures: what is drawn is what the table says, in both themes, with little and with much to draw."""

import json
import math
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go
import pytest

from probekit.errors import BadInput, MissingExtra
from probekit.records import CONTROLS
from probekit.results import curves, details, figures, looks, maps, tables
from probekit.results.selection import left_out
from probekit.storage.runs import read_run
from tests.synthetic_run import BEHAVIOURS, shared_run


@pytest.fixture(scope="module")
def frame():
    return read_run(shared_run())


@pytest.fixture(scope="module")
def deep():
    return read_run(shared_run(80))


@pytest.mark.parametrize("template", ["light", "dark"])
@pytest.mark.parametrize("kind", list(figures.KINDS))
def test_every_figure_draws_and_names_its_axes(frame, kind, template):
    made = figures.figure(kind, frame, template=template)
    assert isinstance(made, go.Figure) and made.data
    assert made.layout.title.text.endswith("?")
    assert made.layout.paper_bgcolor == looks.PALETTES[template]["paper"]
    assert "NaN" not in json.dumps(json.loads(made.to_json()))


@pytest.mark.parametrize("kind", list(figures.KINDS))
def test_eighty_layers_keep_few_ticks(deep, kind):
    made = figures.figure(kind, deep)
    ticks = [t for axis in (made.layout.xaxis, made.layout.yaxis) for t in [axis.tickvals or ()]]
    assert all(len(t) <= 42 for t in ticks)


@pytest.mark.parametrize("kind", list(figures.KINDS))
def test_nothing_measured_is_said_in_one_sentence(frame, kind):
    made = figures.figure(kind, frame.head(0))
    assert not made.data and "To fill it" in made.layout.annotations[0].text


def test_the_map_has_layer_zero_at_the_bottom_a_fixed_scale_and_clickable_cells(frame):
    made = maps.leak_map(frame, behaviour=BEHAVIOURS[1])
    heat = next(trace for trace in made.data if trace.type == "heatmap")
    assert (heat.zmin, heat.zmax) == maps.SCALE and min(made.layout.yaxis.range) < 0
    assert made.layout.yaxis.ticktext[0] == "L0 resid_pre"
    cells = next(trace for trace in made.data if trace.name == "cells")
    table = tables.leak_map(frame, behaviour=BEHAVIOURS[1])
    assert {row[0] for row in cells.customdata} == set(table["id"])
    assert any(trace.name.startswith("NA") and len(trace.x) == 2 for trace in made.data)


def test_the_frontier_tells_vocabularies_apart_without_colour(frame):
    made = curves.frontier(frame)
    lines = [t for t in made.data if t.mode == "lines+markers" and t.line.dash == "solid"]
    assert len({t.marker.symbol for t in lines}) == len(lines) == 3
    assert any(t.line.dash == "dash" for t in made.data if t.mode == "lines+markers")
    assert made.layout.xaxis.ticktext[:2] == ("1", "2") and made.layout.xaxis.tickvals[:2] == (0, 1)
    assert any(t.name == looks.CONTROL_WORDS["random_twin"] for t in made.data)


def test_every_control_has_words_and_a_line_of_its_own(frame):
    named = set(CONTROLS) - {""}
    assert set(looks.CONTROL_WORDS) == set(looks.CONTROL_DASH) == named
    assert len(set(looks.CONTROL_DASH.values())) == len(named)
    made = curves.layer_curves(frame, level="linear")
    drawn = {t.name: t.line.dash for t in made.data if t.name}
    assert drawn["rows of a group on both sides: linear"] == looks.CONTROL_DASH["row_split"]
    assert drawn["random label per type: linear"] == looks.CONTROL_DASH["control_task"]
    assert drawn["without field:tag: linear"] not in {"solid", *looks.CONTROL_DASH.values()}
    # what is no reading of the behaviour by whole groups is in no curve of its own name
    (own,) = [t for t in made.data if t.name == "linear"]
    plain = frame.query("metric == 'read' and level == 'linear' and control == '' and floor == 'strong'")
    here = plain[(plain["behaviour"] == BEHAVIOURS[0]) & (plain["fit_domain"] == plain["test_domain"])]
    assert set(own.y) <= set(here["value"])


def test_the_band_of_a_whole_curve_is_drawn_where_the_run_has_one(frame):
    made = curves.layer_curves(frame, level="linear")
    (light,) = [t for t in made.data if t.name == curves.TOGETHER]
    table = tables.layer_curves(frame, level="linear").query("control == '' and band_low.notna()")
    assert len(table) == 7 and (table["band_low"] < table["low"]).all()
    assert list(light.y) == [*table["band_high"], *table["band_low"][::-1]]
    both = curves.layer_curves(frame)
    assert sum(bool(t.showlegend) for t in both.data if t.name == curves.TOGETHER) == 1
    without = curves.layer_curves(frame.drop(columns=list(tables.TOGETHER)), level="linear")
    assert all(t.name != curves.TOGETHER for t in without.data) and len(without.data) == len(made.data) - 1


def test_a_curve_that_falls_to_nothing_at_the_unembedding_is_marked_there_and_one_of_a_label_is_not(frame):
    made = curves.layer_curves(frame, level="linear")
    (mark,) = [note for note in made.layout.annotations if note.text == "unembedding"]
    sites = list(tables.layer_curves(frame, level="linear")["site"].unique())
    assert mark.x == sites.index("L5 resid_post")
    spec = {"task": {"behaviours": [{"name": BEHAVIOURS[0], "kind": "label"}]}}
    told = frame.copy()
    told.attrs = {**frame.attrs, "manifest": {"spec": spec}}
    assert all(note.text != "unembedding" for note in curves.layer_curves(told, level="linear").layout.annotations)
    kept = curves.layer_curves(frame, metric="replace")
    assert all(note.text != "unembedding" for note in kept.layout.annotations)


def test_names_beside_curves_that_every_run_has_are_whole():
    figure = go.Figure().update_layout(height=560, yaxis_range=[0, 1], margin={"t": 90, "b": 170})
    usual = ["directions (behaviour), k=4", "hypothesis: rules (decoded)"]
    looks.label_ends(figure, [(0.2 * i, name, "#000000") for i, name in enumerate(usual)])
    assert [note.text for note in figure.layout.annotations] == usual


def test_every_class_of_the_decomposition_can_be_seen_through_its_hatching(frame):
    made = figures.figure("decomposition", frame)
    hatched = [bar.marker for bar in made.data if bar.type == "bar" and bar.marker.pattern.shape]
    assert len(hatched) >= 4 and all(marker.pattern.bgcolor == marker.color for marker in hatched)


def test_values_far_outside_are_counted_not_hidden(frame):
    wild = frame.copy()
    wild.loc[wild["level"] == "neurons", ["value", "low", "high"]] = [7.0, 6.0, 8.0]
    made = curves.layer_curves(wild)
    assert "outside this window" in made.layout.title.subtitle.text
    assert max(made.layout.yaxis.range) <= 1.5


def test_text_from_data_is_no_markup(frame):
    nasty = frame.assign(
        behaviour=frame["behaviour"].str.replace(BEHAVIOURS[0], "<a href='http://x'>b</a>", regex=False)
    )
    text = curves.frontier(nasty).to_json()
    assert "<a href" not in text and "\\u003ca href" not in text


def test_unknown_kinds_and_templates(frame):
    with pytest.raises(BadInput, match="Did you mean 'frontier'"):
        figures.figure("fronteer", frame)
    with pytest.raises(BadInput, match="light or dark"):
        figures.figure("frontier", frame, template="sepia")
    with pytest.raises(BadInput, match="Did you mean 'behaviour'"):
        figures.figure("frontier", frame, behavior="x")


def test_writing(frame, tmp_path, monkeypatch):
    made = curves.frontier(frame)
    figures.write_figure(made, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "cdn.plot.ly" not in text.split("<script", 1)[0] and len(text) > 1_000_000
    with pytest.raises(BadInput, match=r"\.html, \.png, \.svg or \.pdf"):
        figures.write_figure(made, tmp_path / "a.docx")

    def no_chrome(*args, **options):
        raise RuntimeError("no browser")

    monkeypatch.setattr(go.Figure, "to_image", no_chrome)
    with pytest.raises(MissingExtra, match="Chrome"):
        figures.write_figure(made, tmp_path / "a.png")


@pytest.mark.parametrize("kind", figures.KINDS)
def test_names_are_text_in_every_figure(frame, kind):
    """Of behaviours, domains, features and levels: in titles, legends, ticks and hover texts."""
    nasty = frame.copy()
    for column in ("behaviour", "fit_domain", "test_domain", "hook"):
        nasty[column] = nasty[column].where(nasty[column] == "", nasty[column] + "<b>x</b>")
    nasty["control"] = nasty["control"].where(~nasty["control"].str.startswith("deleted:"), "deleted:<b>x</b>")
    nasty["level"] = nasty["level"].where(~nasty["level"].str.startswith("hypothesis:"), "hypothesis:<b>x</b>")
    made = figures.figure(kind, nasty)
    said = [part for trace in made.data for part in (trace.name, trace.text if isinstance(trace.text, str) else "")]
    said += [made.layout.title.text, made.layout.title.subtitle.text, made.layout.xaxis.title.text]
    said += [*(made.layout.xaxis.ticktext or ()), *(made.layout.yaxis.ticktext or ())]
    assert made.data and not [part for part in said if part and "<b>x" in part]
    assert any("&lt;b&gt;x" in part for part in said if part)


def test_domains_that_look_like_numbers_have_places_of_their_own(frame):
    """Plotly takes `1` and `01` for one number."""
    names = dict(zip(frame["fit_domain"].unique(), ["1", "01", "2019", "2019-01-01"], strict=False))
    made = figures.figure("transfer_matrix", frame.replace({"fit_domain": names, "test_domain": names}))
    assert made.data[0].x is None and list(made.layout.xaxis.ticktext)[:2] == ["1", "01"]
    assert len(made.layout.xaxis.tickvals) == len(set(made.layout.yaxis.ticktext)) == made.data[0].z.shape[0]


def gapped(frame):
    """Layer 2 failed, layer 3 was left out."""
    kept = frame[frame["layer"] != 3].copy()
    lost = kept["layer"] == 2
    kept.loc[lost, ["value", "low", "high"]] = float("nan")
    kept.loc[lost, "na_reason"] = "failed"
    return kept


def test_sites_without_a_value_keep_their_place_hatched_and_no_line_crosses_them(frame):
    made = curves.layer_curves(gapped(frame), level="linear")
    assert list(made.layout.xaxis.ticktext)[3:5] == ["L2<br>resid_post", "L3<br>resid_post"]
    (hatch,) = [trace for trace in made.data if trace.type == "bar"]
    assert list(hatch.x) == [3, 4] and hatch.marker.pattern.shape
    assert "failed" in hatch.hovertext[0] and "not measured" in hatch.hovertext[1]
    assert hatch.name == "no value: failed, not measured"
    (line,) = [trace for trace in made.data if trace.name == "linear"]
    at = dict(zip(line.x, line.y, strict=True))
    assert math.isnan(at[3]) and math.isnan(at[4]) and not math.isnan(at[5]) and not line.connectgaps
    ribbons = [
        trace
        for trace in made.data
        if trace.type == "scatter" and trace.fill == "toself" and trace.legendgroup == "linear"
    ]
    assert [sorted(set(trace.x)) for trace in ribbons] == [[0, 1, 2], [5, 6]]
    whole = curves.layer_curves(frame, level="linear")
    assert not [trace for trace in whole.data if trace.type == "bar"]


@pytest.mark.parametrize("kind", ["decomposition", "floor_switch", "ontology", "by_position"])
def test_every_axis_of_sites_keeps_their_places(frame, kind):
    whole, holes = figures.figure(kind, frame), figures.figure(kind, gapped(frame))
    assert len(holes.layout.xaxis.tickvals) == len(whole.layout.xaxis.tickvals)
    (hatch,) = [trace for trace in holes.data if trace.type == "bar" and (trace.name or "").startswith("no value")]
    assert len(hatch.x) == 2


def test_the_map_has_a_row_for_every_site_with_the_reason(frame):
    made = maps.leak_map(gapped(frame))
    assert list(made.layout.yaxis.ticktext)[3:5] == ["L2 resid_post", "L3 resid_post"]
    (missing,) = [trace for trace in made.data if (trace.name or "").startswith("NA")]
    assert {3, 4} <= set(missing.y) and missing.name == "NA: failed, not measured"


def test_what_lies_below_0_or_above_1_has_a_hue_of_its_own():
    assert maps.colour_at(-0.14) != maps.colour_at(0.0) != maps.colour_at(-0.01)
    assert maps.colour_at(1.2) != maps.colour_at(1.0)
    assert maps.colour_at(0.5) != maps.colour_at(1.5) == maps.colour_at(9.0)


@pytest.mark.parametrize("template", ["light", "dark"])
def test_all_lines_and_letters_stand_out_from_their_paper(template):
    ink = looks.PALETTES[template]
    for name in (*looks.HUES, "ink", "soft", "band"):
        assert looks.contrast(ink[name], ink["paper"]) >= 4.5, name


def test_a_dozen_levels_are_told_apart_and_named_where_they_end(frame):
    made = curves.layer_curves(frame)
    lines = [trace for trace in made.data if trace.type == "scatter" and trace.mode.startswith("lines")]
    own = [trace for trace in lines if trace.line.width == 2.2]
    assert len(own) == 8
    assert len({(trace.line.color, trace.line.dash) for trace in own}) == len(own)
    assert len({trace.marker.symbol for trace in own}) == len(own)
    ends = [note for note in made.layout.annotations if note.name == "end"]
    assert len(ends) == len(own) and not any(trace.showlegend for trace in own)
    low, high = made.layout.yaxis.range
    pixels = (made.layout.height - made.layout.margin.t - made.layout.margin.b) / (high - low)
    heights = sorted(note.y * pixels for note in ends)
    assert min(b - a for a, b in pairwise(heights)) >= 14


def test_a_figure_says_what_it_shows(frame):
    for kind in figures.KINDS:
        under = figures.figure(kind, frame).layout.title.subtitle.text
        for said in ("run synthetic", "model othello", "test rows of"):
            assert said in under, kind
    kept = figures.figure("leak_map", frame, metric="replace", arm="single:matched")
    assert "replace, one site, donors alike in it" in kept.layout.title.subtitle.text


def test_the_frontier_keeps_k_0_and_says_when_it_compares_other_sites(frame):
    nothing = frame[(frame["control"] == "random_directions") & (frame["metric"] == "replace") & (frame["k"] == 1)]
    made = curves.frontier(pd.concat([frame, nothing.assign(k=0, value=1.0, low=0.95, high=1.05)], ignore_index=True))
    assert made.layout.xaxis.ticktext[:2] == ("0", "1")
    band = next(trace for trace in made.data if trace.name == looks.CONTROL_WORDS["random_directions"])
    assert min(band.x) == curves.place_of_k(0) < curves.place_of_k(1)
    assert "another site" in made.layout.title.subtitle.text
    assert "another site" not in curves.frontier(frame, arm="single:random").layout.title.subtitle.text


def test_the_diagonal_of_transfer_is_0_by_definition_and_t_is_said(frame):
    away = frame[~((frame["metric"] == "transfer") & (frame["fit_domain"] == frame["test_domain"]))]
    made = maps.transfer_matrix(away)
    heat = made.data[0]
    assert [heat.z[i][i] for i in range(3)] == [0, 0, 0]
    assert "by definition" in heat.customdata[0][0] and "T = (" in made.layout.title.subtitle.text


def test_cells_like_their_control_have_a_dot_and_the_chosen_one_a_frame(frame):
    table = tables.leak_map(frame)
    like = tables.like_control(frame, table[table["value"].notna()])
    named = table[table["id"].isin(like)]
    assert set(named["site"]) <= {"L0 resid_pre", "L0 resid_post"} and "linear" in set(named["level"])
    made = maps.leak_map(frame, chosen=("blocks.2.hook_resid_post", "linear"))
    dots = [trace for trace in made.data if trace.legendgroup == "control"]
    assert sum(len(trace.x) for trace in dots) == len(like)
    (frame_of_cell,) = [shape for shape in made.layout.shapes if shape.name == "chosen"]
    assert frame_of_cell.y0 == 2.5 and "unembedding" in made.layout.yaxis.ticktext[-1]


def test_controls_of_a_cell_are_of_its_own_level(frame):
    table = tables.leak_map(frame)
    linear = table[(table["level"] == "linear") & (table["site"] == "L3 resid_post")].iloc[0]
    assert set(tables.controls_of(frame, linear)["control"]) >= {"random_twin", "row_split", "control_task"}
    stated = table[table["level"].str.startswith("hypothesis:") & (table["site"] == "L3 resid_post")].iloc[0]
    assert tables.controls_of(frame, stated).empty
    some = table[(table["level"] == "directions") & (table["site"] == "L3 resid_post")].iloc[0]
    assert set(tables.controls_of(frame, some)["control"]) == {"random_directions"}


def test_a_map_of_what_is_replaced_takes_single_sites_when_no_arm_is_named(frame):
    assert set(tables.table("leak_map", frame, metric="replace")["arm"]) == {"single:matched"}
    chained = frame[~frame["arm"].str.startswith("single:")]
    made = figures.figure("leak_map", chained, metric="replace")
    assert "No single site was replaced" in made.layout.annotations[0].text.replace("<br>", " ")


def test_a_slide_is_16_to_9_and_all_of_its_type_is_larger(frame):
    plain, slide = (maps.leak_map(frame, behaviour="next_move") for _ in range(2))
    slide = looks.enlarged(slide)
    assert slide.layout.height / looks.SLIDE["width"] == pytest.approx(9 / 16, abs=0.001)
    sizes = [[trace.textfont.size for trace in one.data if trace.name == "values"] for one in (plain, slide)]
    assert sizes[0] and [size * 1.5 for size in sizes[0]] == sizes[1]
    bar = slide.data[0].colorbar
    assert min(bar.tickfont.size, bar.title.font.size, slide.layout.xaxis.tickfont.size) >= 15


def test_details_draw_a_site_by_k_single_rows_and_differences(frame):
    made = details.by_k(frame, hook="blocks.3.hook_resid_post")
    assert {"neurons", "random directions"} <= {trace.name for trace in made.data}
    assert details.by_k(frame[frame["k"].isna()], hook="blocks.3.hook_resid_post") is None
    rows = pd.DataFrame({"bits": [1.0, 1.2, 5.0], "ceiling_bits": 0.5, "floor_bits": 1.5})
    hist = details.missed_bits(rows)
    assert sum(count**2 for count in hist.data[0].y) == pytest.approx(3)
    assert {"mean: 1.90", "mean of the input alone: 1.00"} <= {trace.name for trace in hist.data}


def test_left_out_layers_lie_at_the_usual_distance():
    def at(*layers):
        return [f"blocks.{layer}.hook_resid_post" for layer in layers]

    assert left_out(at(0, 2, 4, 8)) == at(6)
    assert (
        left_out(at(0, 7, 14, 22))
        == left_out(at(0, 1, 2))
        == left_out(at(5))
        == left_out([])
        == left_out(at(3, 7, 11))
        == []
    )
    assert left_out([*at(0, 1, 3), "hook_embed"]) == at(2)
