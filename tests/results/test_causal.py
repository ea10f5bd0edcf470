"""What a model runs on, from records: a row per direction set, dose and number of sites; in words and drawn."""

import json

import pandas as pd
import pytest
from rich.cells import cell_len

from probekit.errors import BadInput
from probekit.records import Record
from probekit.results import causal, effects, figures, looks, tables, text
from tests.synthetic_run import CAUSAL_HOOKS, CAUSAL_SOURCES, causal_records

LAST = CAUSAL_HOOKS[-1]


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame([record.row() for record in causal_records()])


def test_a_row_per_site_and_direction_set_with_its_controls(frame):
    table = tables.table("causal", frame, hook=LAST).set_index(["level", "source", "k"])
    assert set(table["site"]) == {"L11 resid_post"} and len(table) == 2 * len(CAUSAL_SOURCES) + 2
    own = table.loc[("directions", "behaviour", 1)]
    # value and interval as in causal_records: kept 1 - .5 - .02, random of equal k, nothing kept
    assert own[["kept", "kept_low", "kept_high", "random_kept", "nothing"]].tolist() == pytest.approx(
        [0.48, 0.45, 0.51, 1.0, 1.02]
    )
    assert own["erased"] == pytest.approx(0.2 * 0.48) and own["random_erased"] == pytest.approx(0.2)
    assert own["n"] == 384 and own["groups"] == 128
    assert set(tables.table("causal", frame)["hook"]) == set(CAUSAL_HOOKS)
    with pytest.raises(BadInput, match="no replaced hook"):
        tables.table("causal", frame, hook="blocks.3.hook_resid_pst")


def test_read_is_of_what_the_directions_were_fitted_to(frame):
    table = tables.table("causal", frame, hook=LAST).set_index(["level", "source", "k"])
    assert table.loc[("directions", "behaviour", 4), "read"] == pytest.approx(0.9 - 0.6 - 0.2)
    # of the label, not of the behaviour that was replaced; by the reader of the same source
    assert table.loc[("directions", "label:truth", 4), "read"] == pytest.approx(0.05)
    assert table.loc[("direction", "label:truth:lda", 1), "read"] == pytest.approx(0.05)
    assert table.loc[("directions", "label:truth", 4), "read_low"] == pytest.approx(0.02)
    unread = [source for source in CAUSAL_SOURCES if source in ("pca", "das") or source.startswith("given:")]
    assert len(unread) == 3 and table.loc[("directions", unread[0], 1) :, :].size
    assert all(pd.isna(table.loc[("directions", source, 1), "read"]) for source in unread)


def test_what_was_not_measured_is_missing_and_a_hypothesis_needs_no_k(frame):
    table = tables.table("causal", frame, hook=LAST)
    stated = table[table["level"] == "hypothesis:rules"].iloc[0]
    assert (
        stated["alike"] == pytest.approx(0.6)
        and pd.isna(stated["kept"])
        and stated["label"] == "hypothesis: rules (true)"
    )
    lda = table[table["label"] == "direction (lda) of truth"].iloc[0]
    assert pd.isna(lda["alike"]) and pd.isna(lda["interchanged"]) and lda["kept"] == pytest.approx(0.93)


@pytest.mark.parametrize(
    ("level", "source", "k", "label", "fitted"),
    [("directions", "behaviour", 4, "directions, k=4", "answer"), ("direction", "lda", 1, "direction (lda)", "answer"),
     ("directions", "label:truth", 1, "directions of truth, k=1", "truth"),
     ("direction", "label:truth:lda", 1, "direction (lda) of truth", "truth"),
     ("directions", "given:mine", 3, "mine, k=3", "given: mine"), ("directions", "pca", 4, "PCA, k=4", "nothing (PCA)"),
     ("directions", "das", 2, "directions (das), k=2", "answer, by interchange"),
     ("hypothesis:rules", "true", None, "hypothesis: rules (true)", "answer")],
)  # fmt: skip
def test_sources_have_names_of_their_own(level, source, k, label, fitted):
    assert causal.label_of(level, source, k) == label
    assert causal.fitted_to(source, "answer") == fitted


@pytest.mark.parametrize("width", [80, 120])
def test_words_hold_the_width_and_tell_every_set_apart(frame, width):
    for table, said in (
        (tables.table("causal", frame, hook=LAST), lambda t: text.causal_text(t, "answer", width)),
        (tables.table("steering", frame, hook=LAST), lambda t: text.steering_text(t, width)),
    ):
        assert max(map(cell_len, said(table).splitlines())) <= width
    rows = text.causal_text(tables.table("causal", frame, hook=LAST), "answer", 80).split("swap\n")[1].splitlines()[:12]
    assert len({line[:17] for line in rows}) == 12 and any(line.startswith("of truth, k=4") for line in rows)
    assert rows[1].split()[-9:] == [".25", ".48", "1.00", ".38", ".53", ".10", ".20", ".12", ".43"]


def test_names_of_users_are_no_control_characters(frame):
    named = frame.assign(source=frame["source"].replace(CAUSAL_SOURCES[-1], "given:a\x1b[31mb"))
    assert "\x1b" not in text.causal_text(tables.table("causal", named), "answer", 80)


def test_a_row_per_direction_and_dose_beside_random_ones(frame):
    table = tables.table("steering", frame, hook=LAST)
    assert list(table["label"].unique()) == ["directions, k=1", "directions (das), k=1", "directions of truth, k=1"]
    assert table["dose"].tolist() == [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0] * 3
    row = table[(table["source"] == "das") & (table["dose"] == 2)].iloc[0]
    told = row[["effect", "effect_low", "effect_high", "random_effect", "unrelated"]].tolist()
    assert told == pytest.approx([3.2, 3.1, 3.3, 0.16, 0.08]) and row["note"] == "raises True; a dose is 1.7"
    said = text.steering_text(table, 80)
    assert " ".join(said.split()).startswith(
        "answer at L11 resid_post: 384 test rows of 128 groups, a direction added; a dose of 1 is"
    )
    assert "directions of truth, k=1: raises True; a dose is 1.7\n" in said and "3.20 [3.10, 3.30]" in said
    narrow = text.steering_text(table, 60)
    assert "3.20 [3.10, 3.30]" not in narrow and "3.20" in narrow
    # without unrelated texts there is no column of them
    bare = tables.table("steering", frame[~frame["arm"].str.startswith("unrelated")], hook=LAST)
    assert "unrelated  random" not in text.steering_text(bare, 80)
    with pytest.raises(BadInput, match="no steered hook"):
        tables.table("steering", frame, hook="blocks.1.hook_resid_post")


def test_the_site_is_the_selected_one_where_it_was_edited(frame):
    assert causal.default_site(frame) == CAUSAL_HOOKS[1] == causal.default_site(frame, metric="steer")
    at = {"behaviour": "answer", "fit_domain": "all", "test_domain": "all", "hook": LAST, "value": 0.1}
    chosen = pd.DataFrame([Record(metric="selected", level="linear", source="logistic", **at).row()])
    more = pd.concat([frame, chosen], ignore_index=True)
    assert causal.default_site(more) == LAST == causal.default_site(more, "answer", "steer")
    assert causal.default_site(frame[frame["metric"] == "read"]) == ""


# ------------------------------------------------------------------------------------------------------------- figures


def test_every_set_is_a_point_of_what_is_read_and_what_is_kept(frame):
    table = tables.table("read_against_replace", frame)
    made = effects.read_against_replace(frame)
    drawn = {
        (x, y) for trace in made.data if trace.mode.startswith("markers") for x, y in zip(trace.x, trace.y, strict=True)
    }
    read = table[table["read"].notna() & table["kept"].notna()]
    assert {(row.read, row.kept) for row in read.itertuples()} <= drawn
    points = sum(len(trace.x) for trace in made.data if trace.mode.startswith("markers"))
    assert points == len(table) == len(CAUSAL_HOOKS) * (2 * len(CAUSAL_SOURCES) + 1 + 3)
    diagonal = next(trace for trace in made.data if trace.mode == "lines")
    assert tuple(diagonal.x) == tuple(diagonal.y)
    grey = [trace for trace in made.data if trace.marker.line.color == looks.PALETTES["light"]["band"]]
    assert [trace.name for trace in grey] == ["random directions", "nothing kept (k = 0)"]
    assert set(grey[1].x) == {1.0} and set(grey[1].y) == {1.02}


def test_what_was_not_read_stands_apart_and_nothing_is_called_read_that_was_not(frame):
    made = effects.read_against_replace(frame)
    names = {trace.name: trace for trace in made.data if trace.name}
    assert min(names["answer, by interchange: directions (das)"].x) > 1.12 < min(names["PCA"].x)
    assert "no reader of it was fitted" in names["PCA"].customdata[0]
    assert max(names["truth: directions"].x) < 1
    apart = [set(trace.x) for name, trace in names.items() if min(trace.x) > 1.12]
    assert len(apart) == 3 and len(set.union(*apart)) == 3
    read = frame[~frame["source"].isin(["pca", "das", CAUSAL_SOURCES[-1]])]
    assert "misread" not in str(effects.read_against_replace(read).layout.xaxis.ticktext)
    assert "misread" in str(made.layout.xaxis.ticktext)


def test_few_points_have_names_beside_them(frame):
    made = effects.read_against_replace(frame, hook=LAST)
    assert {text for trace in made.data if trace.text for text in trace.text} - {""} == {"k=1", "k=4"}
    named = [
        (x, y) for trace in made.data for x, y, text in zip(trace.x, trace.y, trace.text or (), strict=False) if text
    ]
    apart = [abs(a[0] - b[0]) >= 0.05 or abs(a[1] - b[1]) >= 0.06 for i, a in enumerate(named) for b in named[:i]]
    assert len(named) > 2 and all(apart)  # no name covers another one
    assert not any(trace.text for trace in effects.read_against_replace(frame).data)


def test_what_is_na_is_said_and_not_drawn(frame):
    gone = (frame["arm"] == "single:random") & (frame["source"] == "pca") & (frame["hook"] == LAST)
    lost = frame.assign(value=frame["value"].mask(gone), na_reason=frame["na_reason"].mask(gone, "small_denominator"))
    table = tables.table("read_against_replace", lost)
    assert table.loc[table["kept"].isna(), "na_reason"].tolist() == ["small_denominator"] * 2
    made = effects.read_against_replace(lost)
    assert "2 not measured" in made.layout.title.subtitle.text


def test_steering_draws_each_direction_beside_the_random_band(frame):
    made = figures.figure("steering", frame, hook=LAST)
    das = [trace for trace in made.data if trace.name == "directions (das), k=1"]
    assert len(das) == 3 and list(das[0].x) == [-4, -2, -1, 1, 2, 4] and das[0].y[-1] == pytest.approx(6.4)
    assert sum(bool(trace.showlegend) for trace in das) == 1
    band = next(trace for trace in made.data if trace.fill == "toself")
    # as wide as the random directions of all sets together: they have lengths of their own
    assert max(band.y) == pytest.approx(1.6 * 0.05 * 4 + 0.1)
    assert "L7 resid_post" in figures.figure("steering", frame).layout.title.subtitle.text


def test_roll_out_counts_the_sites_that_are_kept(frame):
    table = tables.table("roll_out", frame)
    own = table[table["source"] == "behaviour"]
    assert own["n_sites"].tolist() == [1, 2, 3] and own["kept"].tolist() == pytest.approx([0.3, 0.6, 0.9])
    assert set(table.loc[table["control"] != "", "label"]) == {"random, k=4", "nothing, k=0"}
    made = figures.figure("roll_out", frame)
    line = next(trace for trace in made.data if trace.name == "directions, k=4" and trace.fill is None)
    assert list(line.x) == [1, 2, 3]
    with pytest.raises(BadInput, match="no k of roll-out"):
        tables.table("roll_out", frame, k=3)


@pytest.mark.parametrize("kind", ["read_against_replace", "steering", "roll_out"])
@pytest.mark.parametrize("template", ["light", "dark"])
def test_names_are_text_and_missing_numbers_leave_no_nan(frame, kind, template):
    drawn = json.loads(figures.figure(kind, frame, template=template).to_json())
    assert "<i>axis" not in json.dumps(drawn) and drawn["data"]
    said = figures.figure(kind, frame[frame["metric"] == "read"], template=template)
    assert not said.data and "To fill it" in said.layout.annotations[0].text
