"""Figures: what is drawn is what the table says, in both themes, with little and with much to draw."""

import json

import plotly.graph_objects as go
import pytest

from probekit.errors import BadInput, MissingExtra
from probekit.records import CONTROLS
from probekit.results import curves, figures, looks, maps, tables
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
    with pytest.raises(BadInput, match=r"\.html, \.png or \.svg"):
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
