"""The study of leaps: rungs by hand, weights that were planted, and a small run of the bundled network."""

import numpy as np
import pytest

from probekit.proofs.studies import ladder_words
from probekit.proofs.studies.ladder import (
    KINDS,
    RUNGS,
    LadderFindings,
    LadderSize,
    edge_of,
    kinds,
    legal_of,
    measure_ladder,
    moves_of,
    tables,
    weights_of,
)
from probekit.testbeds.othello.game import Geometry, generate, unpack
from probekit.testbeds.othello.task import SEEN, othello_task
from probekit.testbeds.tinyworld.task import questions_of
from probekit.testbeds.tinyworld.world import PLACES


def legal_sets(n):
    games = generate(n, np.random.default_rng(0))
    return unpack(games.legal[games.live], 36)[:, Geometry(6).playable]


def test_kinds_of_squares_by_hand():
    names = [Geometry(6).name(square) for square in Geometry(6).playable.tolist()]
    told = dict(zip(names, np.array(KINDS)[kinds()], strict=True))
    assert told["a1"] == told["f6"] == "corner" and told["b2"] == told["a2"] == told["e6"] == "beside a corner"
    assert told["a3"] == told["d6"] == "edge" and told["c2"] == told["b3"] == "middle"
    assert sorted(np.unique(kinds(), return_counts=True)[1].tolist()) == [4, 8, 8, 12]


def test_the_legal_set_is_the_task_s_and_its_law_is_the_rule():
    task = othello_task(6, 20, 3, 0)
    board = np.eye(3)[task.features["mine_yours"].labels]
    legal = legal_of(board)
    assert (legal.sum(2) == 1).all() and legal[..., 0].any(1).all()
    even = moves_of(legal, np.ones(len(KINDS)))
    assert np.allclose(even.sum(2), 1) and np.allclose(even[:, 0, :-1].max(1) * legal[..., 0].sum(1), 1)
    assert np.allclose(edge_of(even).sum(2), 1)
    assert (moves_of(np.stack([np.zeros((1, 32)), np.ones((1, 32))], 2), np.ones(4)) == 0).all()  # nothing is ruled


def test_planted_weights_are_found():
    legal, weight = legal_sets(400), np.array([2.0, 0.5, 1.0, 0.5])
    law = moves_of(np.stack([legal, ~legal], 2), weight)[:, 0]
    assert weights_of(legal, law) == pytest.approx(weight, rel=1e-3)


@pytest.fixture(scope="module")
def found():
    return measure_ladder(LadderSize(games=60, positions=3, pairs=60), seed=1)


def test_a_small_run(found, tmp_path):
    found.write(tmp_path / "l.json")
    assert LadderFindings.read(tmp_path / "l.json") == found
    frame = found.frame
    here = frame[(frame["domain"] == SEEN) & (frame["what"] == "left")]
    told = {(r["from"], r["to"]): r["value"] for r in here[here["layer"].isna()].to_dict("records")}
    assert told["squares", "legal set"] < 0.02  # the rules, exactly
    assert told["next move", "edge"] < 0.05  # a sum, exactly
    assert 0 < told["legal set", "next move"] < 0.4
    assert told["squares", "next move"] == pytest.approx(told["legal set", "next move"], abs=1e-6)
    assert tables(found)["given"]["rung"].tolist() == list(RUNGS)


def test_a_layer_from_a_like_board_changes_less_than_from_any(found):
    frame = found.frame[found.frame["what"] == "replace"]
    top = frame[frame["layer"] == frame["layer"].max()].set_index("from")["value"]
    assert top["next move"] < 0.5 * top["any"] and top["next move"] < top["squares"] + 0.3


def test_the_facts_of_the_tiny_world_are_told_by_its_entities_exactly():
    asked = questions_of(100, 3, 0)
    entities = ladder_words.entities_of(asked)
    assert (entities.sum(2) == 1).all()
    facts = ladder_words.facts_of(entities)
    assert [PLACES[i] for i in facts[:, 0].argmax(1)] == [q.truth for q in asked]
    assert [PLACES[i] for i in facts[:, 1].argmax(1)] == [q.belief for q in asked]
    assert np.allclose(facts.sum(2), 1) and any(q.truth != q.belief for q in asked)
    assert ladder_words.answer_of(facts).shape == (len(asked), 1, len(PLACES) + 1)
    unnamed = entities.copy()
    unnamed[:, 30:] = np.eye(11)[10]  # nobody is named: nothing is told
    assert (ladder_words.facts_of(unnamed) == 0).all()


def test_of_the_tiny_world_the_answer_is_what_is_thought(found):
    frame = found.frame[(found.frame["domain"] == "stories") & (found.frame["what"] == "left")]
    told = {(r["from"], r["to"]): r["value"] for r in frame[frame["layer"].isna()].to_dict("records")}
    assert told["entities", "facts"] < 0.02 and told["facts", "answer"] < 0.5
    read = frame[frame["from"] == "directions"].set_index(["to", "layer"])["value"]
    assert read["answer", 3] < read["answer", 0]
    assert tables(found)["words given"]["rung"].tolist() == list(ladder_words.RUNGS)
