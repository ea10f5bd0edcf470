"""Rows and pairs as frames and in words: of the site that selection rows prefer, readable at 80 columns."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

import probekit as pk
from probekit.errors import BadInput, RunError
from probekit.results import boards, examples
from probekit.results.examples import reliability, squares
from probekit.results.rowtext import differing, in_words
from rows_by_hand import LONG, SITES, rows_by_hand


@dataclasses.dataclass
class Folder:
    """What a run folder gives, made by hand."""

    records: pd.DataFrame
    kept: dict[str, pd.DataFrame]
    bits: pd.DataFrame
    name: str = "by-hand"

    def table(self, name):
        if name not in self.kept:
            raise RunError(f"by-hand has no table '{name}'; it has none.")
        return self.kept[name]

    def rows(self, *, hook=None, behaviour=None, position=None, level=None, source=None, k=None) -> pd.DataFrame:
        asked = {"hook": hook, "behaviour": behaviour, "rule": position, "level": level}
        keep = [self.bits[name] == value for name, value in asked.items() if value is not None]
        return self.bits.loc[np.logical_and.reduce(keep)]


@pytest.fixture(scope="module")
def run():
    records, frames, bits = rows_by_hand()
    return Folder(pd.DataFrame([record.row() for record in records]), frames, bits)


def test_the_site_that_selection_rows_prefer_is_shown(run):
    for kind in ("examples", "counterexamples", "plausible", "plausible_rates"):
        assert set(pk.table(kind, run)["hook"]) == {SITES[0]}, kind
    assert set(pk.table("examples", run, hook=SITES[1])["hook"]) == {SITES[1]}


def test_the_rows_that_are_missed_most_come_first(run):
    found = pk.table("examples", run, most=3)
    assert found["missed_bits"].tolist() == pytest.approx([3.8, 3.7, 3.6]) and found["example"].tolist() == [39, 38, 37]
    assert found.attrs["n"] == 40 and found.attrs["missed"] == pytest.approx(1.85)
    assert found["text"].isna().tolist() == [True, False, False], "a text that was not kept costs no row"
    assert "(no text)" in in_words("examples", run, 80, most=1)


def test_a_reader_is_chosen_as_everywhere(run):
    assert len(pk.table("counterexamples", run)) == 2
    one = pk.table("counterexamples", run, level="directions", k=1)
    assert one["text_a"].tolist() == ["[red] car"] and one.attrs["alike_bits"] == 0.3
    assert len(pk.table("counterexamples", run, level="directions", k=2)) == 0
    with pytest.raises(BadInput, match="nothing was read at k = 3; there is 1, 2"):
        pk.table("counterexamples", run, level="directions", k=3)


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("examples", {"behaviour": "answers"}, "Did you mean 'answer'"),
        ("counterexamples", {"level": "linaer"}, "no level 'linaer'. Did you mean 'linear'"),
        ("counterexamples", {"hook": "blocks.0.hook_resid_pots"}, "Did you mean 'blocks.0.hook_resid_post'"),
        ("plausible", {"domain": "awya"}, "Did you mean 'away'"),
        ("plausible", {"level": "linear"}, "plausible has no selection 'level'"),
        ("plausible", {"behaviour": "other"}, "has no answers of linear on other"),
        ("exampels", {}, "Did you mean 'examples'"),
    ],
)  # fmt: skip
def test_selection_is_never_silent(run, kind, asked, said):
    with pytest.raises(BadInput) as raised:
        pk.table(kind, run, **asked)
    assert said in str(raised.value)


def test_records_hold_no_rows_and_a_run_has_every_other_table(run):
    with pytest.raises(BadInput, match="give what `probekit.open_run` opens"):
        pk.table("counterexamples", run.records)
    assert pk.table("leak_map", run)["site"].tolist() == pk.table("leak_map", run.records)["site"].tolist()
    older = Folder(run.records, {}, run.bits)
    with pytest.raises(BadInput, match="made before runs kept single rows"):
        pk.table("counterexamples", older)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("kind", examples.KINDS)
def test_no_line_is_too_wide_or_controls_the_terminal(run, kind, width):
    lines = in_words(kind, run, width).split("\n")
    assert len(lines) >= 2 and max(map(cell_len, lines)) <= width
    assert not any(ord(c) < 32 or ord(c) == 127 for line in lines for c in line)


def test_a_pair_is_told_with_what_differs(run):
    said = " ".join(in_words("counterexamples", run, 80).split())
    assert "the capital of [france] is" in said and "the capital of [spain] is" in said
    assert "Rows that are read alike differ in behaviour by .30 bit on average" in said
    assert "'yes' (.98)" in said and "2.2 times what two random rows do" in said
    assert "example 1, group ga" in said and "read more alike than 99.6 % of random pairs" in said


def test_a_sealed_reader_is_said_to_be_one(run):
    kept = run.kept | {"alike": run.kept["alike"].assign(alike_bits=0.01),
                       "counterexamples": run.kept["counterexamples"].head(0)}  # fmt: skip
    said = " ".join(in_words("counterexamples", dataclasses.replace(run, kept=kept), 80).split())
    assert "No pair that is read alike differs as much as two random rows do" in said
    assert "So what is read decides nearly all of it." in said


def test_answers_are_told_with_their_rates(run):
    said = " ".join(in_words("plausible", run, 80).split())
    assert "home: .02 [.00, .10] of 40 rows in 20 groups; wrong .30 of confident; consistent .90" in said
    assert (
        "says 'yes' (.97); behaviour 'no' (.80), 'yes' (.20)" in said
        and "consistent with the other row of its pair" in said
    )
    alone = run.kept | {"plausible_rates": run.kept["plausible_rates"].assign(consistent_with="none"),
                        "plausible": run.kept["plausible"].head(0)}  # fmt: skip
    said = " ".join(in_words("plausible", dataclasses.replace(run, kept=alone), 80).split())
    assert "Whether they are consistent cannot be told" in said and "consistent .90" not in said
    assert "None of the test rows is such an answer." in said


def test_what_two_texts_share_is_cut_first():
    first, second = differing(LONG, LONG.replace("word100", "other"), 140)
    assert "[word100]" in first and "[other]" in second and "…" in first and len(first) <= 140
    assert first.startswith("word0 ") and first.endswith("word199")
    assert differing("one two three", "four five six", 80) == ("one two three", "four five six")
    assert differing("he ran", "he ran home", 80) == ("he ran", "he ran [home]")


def test_a_reader_that_is_as_sure_as_it_is_right_lies_on_the_line():
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.5, 1.0, 4_000)
    right = (draw.random(4_000) < sure).astype(float)
    rows = pd.DataFrame({"confidence": sure, "agreed": right, "group": np.arange(4_000) // 4})
    honest = reliability(rows)
    assert honest["n"].sum() == 4_000 and list(honest["bin"]) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert honest.attrs["gap"] < 0.02
    assert ((honest["low"] <= honest["confidence"]) & (honest["confidence"] <= honest["high"])).sum() >= 4
    boastful = reliability(rows.assign(confidence=(1 + sure) / 2))
    assert boastful.attrs["gap"] > 0.1 and (boastful["value"] < boastful["confidence"]).all()
    assert reliability(rows.iloc[:0]).empty
    # One law that is spread evenly: to be right half of the time is what it should be sure of.
    even = reliability(rows.assign(confidence=0.5, agreed=0.5))
    assert even["value"].tolist() == [0.5] and even.attrs["gap"] == 0


def test_a_board_shows_what_is_there_and_frames_what_was_decoded_wrongly():
    targets = [f"{x}{y}" for y in (1, 2) for x in "ab"]
    row = {"hook": "h", "rule": "all", "example": 3, "position": 5}
    labels = {"is": [0, 1, 2, 2], "decoded": [0, 0, 2, 2], "classes": ["mine", "yours", "empty"], "targets": targets}
    kept = pd.DataFrame([row | {"feature": "mine_yours"} | labels])
    kept = kept.map(lambda one: np.array(one) if isinstance(one, list) else one)
    found = squares(kept, row)
    assert list(found["is"]) == ["mine", "yours", "empty", "empty"] and boards.n_wrong(found) == 1
    drawn = boards.board_svg(found, {"a2": "×"})
    assert drawn.count("<rect") == 8 and drawn.count("<circle") == 4 and drawn.count('stroke-width="2.5"') == 1
    assert "×" in drawn and boards.board_svg(found.iloc[:3]) == ""  # three squares are no board
    assert squares(kept, row | {"position": 6}).empty
