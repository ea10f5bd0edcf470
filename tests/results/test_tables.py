"""Tables: the right rows, nothing rounded away, nothing that a spreadsheet would run."""

import io
import math

import pandas as pd
import pytest
from rich.console import Console

from probekit.errors import BadInput
from probekit.results import selection, tables
from probekit.results import text as text_of
from probekit.results.figures import figure
from probekit.storage.runs import read_run
from tests.synthetic_run import BEHAVIOURS, DOMAINS, KS, shared_run


@pytest.fixture(scope="module")
def frame():
    return read_run(shared_run())


def printed(table, width=100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_leak_map_has_one_cell_per_site_and_label_in_forward_order(frame):
    table = tables.leak_map(frame)
    assert not table.duplicated(["site", "label"]).any()
    assert table["site"].drop_duplicates().tolist() == ["L0 resid_pre", *(f"L{i} resid_post" for i in range(6))]
    assert set(table.loc[table["level"] == "directions", "k"]) == {4}
    assert table["label"].drop_duplicates().tolist()[:2] == ["prior", "baseline"]
    every = tables.leak_map(frame, k="all")
    assert {f"neurons, k={k}" for k in KS} <= set(every["label"])
    assert (table["value"] > 1.5).any(), "what misleads is not clipped"


def test_the_k_that_is_shown_is_one_of_the_behaviour_shown(frame):
    """Two outcomes have one direction, whatever is asked; a default of both together may be neither's."""
    first, second = BEHAVIOURS
    levelled = frame["k"].notna() & (
        frame["level"].isin(["neurons", "directions"]) | frame["level"].str.contains("simple")
    )
    both = frame[~levelled | (frame["k"] == frame["behaviour"].map({first: KS[-1], second: KS[0]}))]
    for behaviour, k in ((first, KS[-1]), (second, KS[0])):
        shown = tables.leak_map(both, behaviour=behaviour)
        assert set(shown.loc[shown["level"] == "directions", "k"]) == {k}


def test_selection_is_never_silent(frame):
    with pytest.raises(BadInput, match="Did you mean 'next_move'"):
        tables.table("leak_map", frame, behaviour="nextmove")
    with pytest.raises(BadInput, match=r"no level 'linear'\. There is none of that kind here\."):
        tables.table("transfer_matrix", frame[frame["metric"] == "read"], level="linear")
    with pytest.raises(BadInput, match="Did you mean 'frontier'"):
        tables.table("fronteer", frame)
    with pytest.raises(BadInput, match="no selection 'behavior'. Did you mean 'behaviour'"):
        tables.table("leak", frame, behavior="x")
    with pytest.raises(BadInput, match="k = 3"):
        tables.table("leak_map", frame, k=3)
    with pytest.raises(BadInput, match="domain"):
        tables.table("leak", frame, domain="mars")


def test_a_behaviour_without_any_value_hides_no_other(frame):
    """Its control may have one. Named, or alone, it is shown with its reasons all the same."""
    first, second = BEHAVIOURS
    empty = frame.copy()
    gone = (empty["behaviour"] == first) & (empty["control"] == "")
    empty.loc[gone, ["value", "low", "high"]] = float("nan")
    empty.loc[gone, "na_reason"] = "small_denominator"
    assert (selection.default_behaviour(frame), selection.default_behaviour(empty)) == (first, second)
    for kind in ("leak_map", "decomposition", "frontier", "by_position", "floor_switch", "group_leakage"):
        assert set(tables.table(kind, empty)["behaviour"]) == {second}, kind
        assert set(tables.table(kind, frame)["behaviour"]) == {first}, kind
        assert set(tables.table(kind, empty, behaviour=first)["behaviour"]) <= {first}, kind
    assert "pass or play" in figure("leak_map", empty).layout.title.subtitle.text
    assert set(tables.leak_map(empty[empty["behaviour"] == first])["behaviour"]) == {first}
    assert selection.default_behaviour(frame.head(0)) == ""


@pytest.mark.parametrize("arm", selection.ORDERS)
def test_shares_sum_to_one(frame, arm):
    shares = tables.decomposition(frame, arm=arm)
    assert shares.groupby("site")["value"].sum().between(0.95, 1.05).all()
    order = shares.drop_duplicates("level").sort_values("class_order")["level"].tolist()
    linear, simple = order.index("linear"), order.index("simple:quadratic")
    assert (linear < simple) == (arm == "linear_first")
    assert order[-1] == "absent"


def test_frontier_separates_seen_from_unseen_and_keeps_controls(frame):
    table = tables.frontier(frame)
    replace = table[table["metric"] == "replace"]
    assert set(replace["situation"]) == {"seen", "unseen"}
    assert set(replace["control"]) == {"", "random_twin", "random_directions"}
    own = replace[(replace["vocabulary"] == "directions (behaviour)") & (replace["control"] == "")]
    seen, unseen = (own[own["situation"] == s].set_index("k")["value"] for s in ("seen", "unseen"))
    assert (seen[[8, 16, 32]] < unseen[[8, 16, 32]]).all()
    raw = frame[(frame["metric"] == "replace") & (frame["arm"] == "chain:matched") & (frame["level"] == "neurons")]
    raw = raw[(raw["behaviour"] == BEHAVIOURS[0]) & (raw["k"] == 8)]
    raw = raw[(raw["fit_domain"] == DOMAINS[0]) & (raw["test_domain"] != DOMAINS[0])]
    row = table[(table["level"] == "neurons") & (table["k"] == 8) & (table["situation"] == "unseen")]
    assert len(raw) == 2 and math.isclose(row["value"].item(), raw["value"].mean())


def test_a_single_site_frontier_is_about_one_site(frame):
    table = tables.frontier(frame, arm="single:random", hook="blocks.2.hook_resid_post")
    assert set(table["hook"]) == {"blocks.2.hook_resid_post"}


def test_floor_switch_and_ontology(frame):
    floors = tables.floor_switch(frame).pivot(index="site", columns="floor", values="value")
    assert (floors["weak"] < floors["strong"] + 0.02).all()
    accuracy = tables.ontology(frame)
    last = accuracy[(accuracy["site"] == "L5 resid_post") & (accuracy["control"] == "")].set_index(["feature", "level"])
    assert last.loc[("mine_yours", "linear"), "value"] > 0.95
    assert last.loc[("black_white", "linear"), "value"] < 0.8


def test_transfer_keeps_the_reason_for_na(frame):
    table = tables.transfer_matrix(frame)
    assert len(table) == 9
    assert table[table["value"].isna()]["na_reason"].tolist() == ["absent_in_test_domain"]


def test_every_table_survives_an_empty_frame(frame):
    for kind in tables.KINDS:
        assert tables.table(kind, frame.head(0)).empty or kind == "provenance"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.234, ".23"), (-0.031, "-.03"), (1.024, "1.02"), (-0.001, ".00"), (0.0, ".00"), (12.0, "12.00"), (None, "NA"),
     (float("nan"), "NA")],
)  # fmt: skip
def test_numbers_read_as_in_print(value, text):
    assert text_of.number(value) == text


def test_value_text():
    row = {"value": 1.3, "low": 1.2, "high": 1.4, "na_reason": ""}
    assert text_of.value_text(row) == "1.30 [1.20, 1.40]"
    assert text_of.value_text(row | {"value": None, "na_reason": "small_denominator"}) == "NA (nothing to explain)"


def test_nothing_is_cut_in_a_narrow_terminal(frame):
    text = printed(text_of.to_text(tables.leak_map(frame)), width=90)
    assert "…" not in text and "1.60" in text
    na = tables.leak(frame, behaviour=BEHAVIOURS[1])
    assert "NA" in printed(text_of.to_text(na[na["value"].isna()]), 200)


def test_csv_is_safe_for_spreadsheets(frame):
    nasty = pd.DataFrame({"=x": ["=1+1", "+1", "-1", "@a", "\t=1", "fine"], "n": [-1.5, 2, 3, 4, 5, 6]})
    lines = text_of.to_csv(nasty).splitlines()
    assert lines[0] == "'=x,n" and lines[1] == "'=1+1,-1.5" and lines[-1] == "fine,6.0"
    assert all(line.startswith("'") for line in lines[:-1])
    assert len(text_of.to_csv(tables.provenance(frame)).splitlines()) > 20


def test_the_selected_site_is_told_with_its_p_max(frame):
    line = text_of.selected_site(frame, behaviour=BEHAVIOURS[0])
    assert line.startswith("Chosen on selection rows for linear: L5 resid_post, .")
    assert "p_max 0.005" in line and "There the unembedding reads, which is no finding." in line
    assert "p_max" not in text_of.selected_site(frame.drop(columns="p_max"))
    assert text_of.selected_site(frame[frame["metric"] != "selected"]) == ""


@pytest.mark.parametrize("kind", ["leak", "leak_map", "floor_switch", "frontier"])
def test_no_table_mixes_other_splits_and_tasks_into_what_was_read(frame, kind):
    table = tables.table(kind, frame)
    if "control" in table:
        assert not set(table["control"]) & {"row_split", "control_task", "deleted:field:tag"}
    assert set(table.get("metric", ["read"])) <= {"read", "replace"}
    assert not table.duplicated([c for c in ("hook", "level", "source", "k", "floor", "control", "metric", "situation")
                                 if c in table]).any()  # fmt: skip


def test_deletion_is_what_whole_texts_had_and_the_others_lack(frame):
    found = tables.deletion(frame)
    assert len(found) and set(found["span"]) == {"field:tag"}
    for row in found.itertuples():
        at = frame[
            (frame["hook"] == row.hook) & (frame["behaviour"] == row.behaviour) & (frame["source"] == row.source)
        ]
        at = at[(at["metric"] == "read") & (at["level"] == row.level) & (at["test_domain"] == row.test_domain)]
        whole = at.loc[(at["control"] == "") & (at["floor"] == row.floor), "value"].item()
        without = at.loc[at["control"] == "deleted:field:tag", "value"].item()
        assert (row.whole, row.value, row.fall) == pytest.approx((whole, without, without - whole))


def test_deletion_lists_every_behaviour_unless_one_is_named(frame):
    found = tables.deletion(frame)
    assert list(dict.fromkeys(found["behaviour"])) == selection.behaviours(frame) == ["next_move", "pass_or_play"]
    for name, rows in found.groupby("behaviour"):
        alone = tables.deletion(frame, behaviour=name)
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), alone, check_dtype=False)
    shown = printed(text_of.deletion_text(found), 160).splitlines()
    assert any("behaviour" in line for line in shown[:3])
    assert sum("pass_or_play" in line for line in shown) == len(found) / 2
    assert "behaviour" not in printed(text_of.deletion_text(alone))


def test_deletion_knows_the_floor_on_whole_texts_though_it_was_not_read(frame):
    at = frame[frame["control"] == "deleted:field:tag"].head(1).assign(level="baseline", source="")
    row = tables.deletion(at).iloc[0]
    assert (row["whole"], row["bits_whole"], row["fall"]) == (1, row["floor_bits"], pytest.approx(row["value"] - 1))
    assert "nan" not in printed(text_of.deletion_text(tables.deletion(at)))


def test_a_source_is_named_only_beside_another(frame):
    read = frame[(frame["level"] == "linear") & (frame["behaviour"] == "next_move")]
    first = read.index[0]
    failed = read.assign(source=read["source"].where(read.index != first, ""))
    assert set(tables.leak(failed)["label"]) == {"linear"}


def test_group_leakage_is_what_a_split_by_row_would_have_claimed(frame):
    found = tables.group_leakage(frame)
    assert len(found) and (found["level"] == "linear").all()
    for row in found.itertuples():
        at = frame[(frame["hook"] == row.hook) & (frame["behaviour"] == row.behaviour) & (frame["level"] == "linear")]
        at = at[(at["metric"] == "read") & (at["floor"] == "strong") & (at["test_domain"] == row.test_domain)]
        by_row = at.loc[at["control"] == "row_split", "value"].item()
        whole = at.loc[(at["control"] == "") & (at["source"] == row.source), "value"].item()
        assert (row.value_by_row, row.gap) == pytest.approx((by_row, whole - by_row))


def test_the_extraction_in_one_line(frame):
    said = tables.extraction(frame)
    assert "hf (sdpa, float32)" in said and "6e-07 apart (1e-04 allowed)" in said
    assert "30 hooks fired once; 0 values not finite" in said and "3 at the context limit; 0 without BOS" in said
    assert tables.extraction(frame.head(0)) == said, "it belongs to the run, not to the rows"
    bare = frame.head(1)
    bare.attrs = {}
    assert tables.extraction(bare) == ""
