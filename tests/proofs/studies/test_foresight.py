"""The study of foresight: nothing of the network's answers is in a ranking, and what is bad is counted by hand."""

import numpy as np
import pytest

from probekit.jobs.foresight import Ranking
from probekit.proofs.studies import foresight, foresight_words
from probekit.proofs.studies.foresight import (
    BAD,
    OWN,
    RANKINGS,
    REFERENCES,
    Described,
    ForesightFindings,
    ForesightSize,
    judged,
    measure_foresight,
    misread,
    picture_of,
    tables,
)
from probekit.testbeds.othello.task import SEEN, UNSEEN, othello_task
from probekit.testbeds.tinyworld.world import TOKEN, Question


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A small run: the folder, and what it found. So few games that nothing is learned of illegal moves."""
    root = tmp_path_factory.mktemp("foresight")
    return root, measure_foresight(root, ForesightSize(games=60, positions=4), seed=1)


def test_what_is_bad_by_hand():
    legal = np.array([[True, False, True], [False, True, True], [True, True, False]])
    law = np.array([[0.9, 0.05, 0.05, 0.0], [0.6, 0.2, 0.2, 0.0], [0.5, 0.3, 0.15, 0.05]])
    found = judged(law, legal)
    assert found["illegal"].tolist() == [False, True, False] and found["loose"].tolist() == [False, True, True]
    assert set(found) == set(BAD)


def test_a_board_that_is_read_rightly_has_no_illegal_move():
    task = othello_task(6, 10, 3, 0)
    part = Described.of(task, np.asarray(task.domain) == SEEN)
    never, often = (misread(np.full(part.replayed.board.shape, c), part.replayed, 0) for c in (0.0, 0.3))
    assert (never == 0).all() and often.mean() > 0.1 and (often <= 1).all()
    assert len(part.names) == len(part.rules) == len(part.words) and len(set(part.names)) == len(part.names)


def test_rankings_are_sealed_before_the_network_answers(told):
    root, found = told
    assert {row["domain"] for row in found.sealed} == {SEEN, *UNSEEN}
    for row in found.sealed:
        assert row["written"] < row["began"]
        ranking = Ranking.open(root / "foresight-0" / f"{row['domain']}-{row['bad']}", row["digest"])
        assert set(ranking.scores) == set(RANKINGS) and ranking.bad.any()


def test_no_answer_of_the_network_on_ranked_games_is_in_a_ranking(told, monkeypatch, tmp_path):
    """With the answers on ranked games turned over, the sealed scores stay what they were."""
    root, _ = told
    real = foresight.judged
    monkeypatch.setattr(foresight._Answers, "bad", lambda self, kind: ~real(self.law, self.part.replayed.legal)[kind])
    again = measure_foresight(tmp_path, ForesightSize(games=60, positions=4), seed=1)
    for row in again.sealed:
        name = f"{row['domain']}-{row['bad']}"
        one, other = (Ranking.open(folder / "foresight-0" / name) for folder in (root, tmp_path))
        assert all(np.array_equal(one.scores[ranking], other.scores[ranking]) for ranking in RANKINGS)
        assert np.array_equal(one.bad, ~other.bad)


def test_tables_say_what_is_stored_and_findings_round_trip(told, tmp_path):
    found = told[1]
    found.write(tmp_path / "f.json")
    again = ForesightFindings.read(tmp_path / "f.json")
    assert again == found
    made = tables(again)
    assert made["recall"]["ranking"].tolist() == ["chance", *_sorted(made), *REFERENCES]
    assert made["recall"].set_index("ranking").loc["chance"].tolist() == [".05"] * 3
    assert set(made["less"]["less"]) == {*RANKINGS, *REFERENCES} - {OWN}
    picture = picture_of(again)
    shown = [r for r in found.rows if r["domain"] in UNSEEN and r["measure"] == "recall" and r["less"] == "" and
             r["budget"] == foresight.BUDGET and r["ranking"] != "chance" and r["value"] is not None]  # fmt: skip
    assert picture.count("<circle") == len(shown) > 0
    # what the rules say of a position finds more than chance in greedy play, which it never saw
    row = next(r for r in found.rows if (r["domain"], r["bad"], r["ranking"], r["measure"], r["less"], r["budget"])
               == (UNSEEN[0], "loose", OWN, "recall", "", 0.2))  # fmt: skip
    assert row["low"] > 0.2


def _sorted(made):
    return [name for name in made["recall"]["ranking"] if name in RANKINGS]


def test_what_the_world_says_of_a_question_by_hand():
    words = "in the attic is anna . to the barn goes anna . where is anna ? barn . where is anna ?"
    ids = np.array([TOKEN[word] for word in words.split()])
    where = (1, *[-1] * 19)
    q = Question("person", len(ids) - 1, "anna", "", "barn", "barn", "barn", False, where, (-1,) * 10, False)
    told = dict(zip(range(14), foresight_words.described(ids, q), strict=True))
    assert [told[i] for i in range(3)] == [1, 0, 0] and told[3] == len(ids) - 1 and told[4] == 2
    assert told[5] == 5 and told[6] == 13 and told[7] == 2  # the barn: named twice, first and last so many words ago
    assert told[8] == 7 and told[9] == 3 and told[10] == 0  # anna; no other place was named since
    assert told[11] == 1 and told[12] == told[13] == 0


def test_a_false_and_a_close_answer_by_hand():
    law = np.zeros((3, 11))
    law[0, :2], law[1, :2], law[2, :2] = (0.9, 0.1), (0.9, 0.1), (0.55, 0.45)
    found = foresight_words.judged(law, np.array([0, 1, 0]))
    assert found["false"].tolist() == [False, True, False] and found["close"].tolist() == [False, False, True]
    assert set(found) == set(foresight_words.BAD)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return foresight_words.measure_words(tmp_path_factory.mktemp("words"), ForesightSize(games=350), seed=1)


def test_of_the_tiny_world_rankings_are_sealed_first_and_find_more_than_chance(words):
    places = {(domain, kind) for domain in foresight_words.DOMAINS for kind in foresight_words.BAD}
    assert {(row["domain"], row["bad"]) for row in words.sealed} <= places  # of few bad rows nothing is learned
    assert all(row["written"] < row["began"] for row in words.sealed)
    row = next(r for r in words.rows if (r["domain"], r["bad"], r["ranking"], r["measure"], r["less"], r["budget"])
               == ("rare_pairs", "false", OWN, "recall", "", 0.2))  # fmt: skip
    assert row["value"] > 0.3
    assert set(foresight_words.tables(words)["words recall"]["ranking"]) == {
        "chance",
        *foresight_words.RANKINGS,
        *REFERENCES,
    }
