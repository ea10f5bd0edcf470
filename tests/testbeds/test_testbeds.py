"""Testbeds: the Othello task keeps its promises, planted truths meet an independent calculation, the model its card."""

import re

import numpy as np
import pytest

from probekit import capture, load_task
from probekit.errors import BadInput
from probekit.inputs.folders import bundled_folder
from probekit.model.loading import load_model
from probekit.testbeds import NAMES, load_testbed
from probekit.testbeds.othello.game import Geometry, generate, legal_moves, play, unpack
from probekit.testbeds.othello.rules import EMPTY, MINE, YOURS, legal_uniform
from probekit.testbeds.othello.task import AFTER_ILLEGAL, LAST_MOVES, behaviours, othello_task

GEO = Geometry(6)


@pytest.fixture(scope="module")
def bundled():
    return load_testbed("othello-6x6", n_examples=300, n_positions=5, seed=3)


@pytest.fixture(scope="module")
def boards(bundled):
    """The boards after each read position, replayed here move by move: (own, opp), with the moves that were illegal."""
    task = bundled.task
    n, longest = len(task.tokens), max(map(len, task.tokens))
    moves = np.full((n, longest), -1)
    for i, tokens in enumerate(task.tokens):
        moves[i, : len(tokens)] = tokens
    own, opp = GEO.start(n)
    after, wrong = [], np.zeros((n, longest), dtype=bool)
    for t in range(longest):
        bit = np.left_shift(np.uint64(1), GEO.playable[moves[:, t]].astype(np.uint64))
        wrong[:, t] = (moves[:, t] >= 0) & ((legal_moves(own, opp, 6) & bit) == 0)
        own, opp = play(own, opp, bit, 6)
        after.append((own, opp))
    after = np.array(after)  # what follows a game's last move is never looked at
    own, opp = after[task.row_position, :, task.row_example].T
    return own, opp, [np.flatnonzero(row) for row in wrong]


def test_every_row_has_a_next_move_and_groups_are_games(bundled, boards):
    task = bundled.task
    own, opp, _ = boards
    assert len(own) == len(task.row_example)
    assert (legal_moves(own, opp, 6) != 0).all()
    assert len(np.unique(task.group)) == len(task.tokens)
    for moves, positions in zip(task.tokens, task.positions, strict=True):
        assert 1 <= len(positions) <= 5 and (np.diff(positions) > 0).all()
        assert positions[-1] == len(moves) - 1  # nothing after the last read position is run
        assert moves.min() >= 0 and len(set(moves)) == len(moves)


def test_the_board_features_are_the_replayed_board(bundled, boards):
    own, opp, _ = boards
    mine = bundled.task.features["mine_yours"].labels
    assert (np.where(unpack(own, 36), MINE, np.where(unpack(opp, 36), YOURS, EMPTY)) == mine).all()


def test_black_white_is_mine_yours_turned_by_the_parity_of_the_turn(bundled):
    task = bundled.task
    mine, black = (task.features[name] for name in ("mine_yours", "black_white"))
    assert mine.classes == ("mine", "yours", "empty") and black.classes == ("black", "white", "empty")
    white_to_move = (task.row_position % 2 == 0)[:, None]  # black made move 0
    turned = np.where((mine.labels != EMPTY) & white_to_move, 1 - mine.labels, mine.labels)
    assert (turned == black.labels).all()
    assert (turned != mine.labels).any() and 0.3 < white_to_move.mean() < 0.7


def test_the_rule_on_the_true_board_is_the_exact_law(bundled, boards):
    own, opp, _ = boards
    (rules,) = bundled.hypotheses
    assert rules.features == ("mine_yours",) and rules.behaviour == "next_move_law"
    law = rules.rule({"mine_yours": bundled.task.features["mine_yours"].labels})
    legal = unpack(legal_moves(own, opp, 6), 36)[:, GEO.playable]
    assert law.shape == (len(own), 33)
    assert np.allclose(law[:, :32], legal / legal.sum(1, keepdims=True)) and (law[:, 32] == 0).all()
    # the same through the generator's own law
    games = generate(50, np.random.default_rng(5))
    at = np.nonzero(games.live)
    labels = np.where(unpack(games.own[at], 36), MINE, np.where(unpack(games.opp[at], 36), YOURS, EMPTY))
    assert np.allclose(legal_uniform({"mine_yours": labels})[:, :32], games.law()[at])


def test_a_board_without_a_legal_move_gets_no_law():
    empty = np.full((2, 36), EMPTY)
    empty[1, 0] = MINE
    assert (legal_uniform({"mine_yours": empty}) == 0).all()


def test_floor_inputs_hold_the_moves_and_nothing_else(bundled):
    task = bundled.task
    inputs, position, example = task.floor_inputs, task.row_position, task.row_example
    assert set(inputs) == {"position", "bag_by_mover", "last_moves"}
    assert (inputs["position"].argmax(1) == position).all() and (inputs["position"].sum(1) == 1).all()
    bag = inputs["bag_by_mover"].reshape(-1, 2, 32)
    assert (bag.sum((1, 2)) == position + 1).all() and bag.max() == 1
    assert (bag[:, 0].sum(1) - bag[:, 1].sum(1) == (position + 1) % 2).all()  # the last mover has one more, or as many
    last = inputs["last_moves"].reshape(-1, LAST_MOVES, 32)
    for row in range(0, len(position), 97):
        moves = task.tokens[example[row]][: position[row] + 1]
        assert bag[row].sum(0).nonzero()[0].tolist() == sorted(moves)
        assert bag[row, 0].nonzero()[0].tolist() == sorted(moves[::-2])
        for back in range(LAST_MOVES):
            expected = [moves[-1 - back]] if back < len(moves) else []
            assert last[row, back].nonzero()[0].tolist() == expected


def test_behaviours_name_all_squares_and_the_edge():
    law, edge = behaviours(6)
    assert law.tokens == tuple(range(32)) and len(law.outcomes) == 32
    assert law.outcomes[0] == "a1" and "c3" not in law.outcomes and law.outcomes[-1] == "f6"
    names = {law.outcomes[token] for token in edge.sets["edge"]}
    assert names == {c + r for c in "abcdef" for r in "123456" if c in "af" or r in "16"}
    assert len(names) == 20


def test_domains_are_what_they_say(bundled, boards):
    task = bundled.task
    *_, illegal = boards
    n_illegal = np.array([len(wrong) for wrong in illegal])
    # a game that ends before every place that was drawn for it gives no row
    count = {domain: int((task.domain == domain).sum()) for domain in np.unique(task.domain)}
    assert 590 <= count["random_play"] <= 600 and 290 <= count["greedy_play"] <= 300
    assert count["impossible_boards"] == 300
    assert list(dict.fromkeys(task.domain)) == ["random_play", "greedy_play", "impossible_boards"]
    assert (n_illegal[task.domain != "impossible_boards"] == 0).all()
    assert (n_illegal[task.domain == "impossible_boards"] == 2).all()
    for domain, positions, wrong in zip(task.domain, task.positions, illegal, strict=True):
        if domain == "impossible_boards":
            assert positions[0] >= AFTER_ILLEGAL - 1 > wrong[-1] - 1 and wrong[0] >= 2 and positions[0] >= wrong[-1]


def test_greedy_games_turn_the_most_discs(bundled):
    task = bundled.task
    for i in np.flatnonzero(task.domain == "greedy_play")[:20]:
        own, opp = GEO.start(1)
        for t, token in enumerate(task.tokens[i]):
            after = {}
            legal = np.flatnonzero(unpack(legal_moves(own, opp, 6), 36)[0])
            for square in legal:
                bit = np.left_shift(np.uint64(1), np.array([square], dtype=np.uint64))
                after[square] = play(own, opp, bit, 6)
            lost = {square: int(unpack(opp, 36).sum() - unpack(b[0], 36).sum()) for square, b in after.items()}
            chosen = GEO.playable[token]
            if t >= 3:  # moves are counted from 1, and the fourth is the first greedy one
                assert lost[chosen] == max(lost.values())
            own, opp = after[chosen]


def test_default_sizes_hold_two_thousand_games_per_unseen_domain_and_seeds_decide_the_task():
    task = load_testbed("othello-6x6").task
    count = dict(zip(*np.unique(task.domain, return_counts=True), strict=True))
    assert count["greedy_play"] >= 2000 and count["impossible_boards"] >= 2000
    assert count["random_play"] >= 3900
    small = [othello_task(6, 40, 5, seed) for seed in (0, 0, 1)]
    assert small[0].fingerprint == small[1].fingerprint != small[2].fingerprint
    assert all(np.array_equal(a, b) for a, b in zip(small[0].tokens, small[1].tokens, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(small[0].tokens, small[2].tokens, strict=False))


def test_unknown_testbeds_name_the_nearest():
    with pytest.raises(BadInput, match="Did you mean 'othello-6x6'"):
        load_testbed("othelo-6x6")
    with pytest.raises(BadInput, match="no task 'othello'"):
        load_task("othello")
    assert NAMES[:2] == ("othello-6x6", "tiny-world-s")


def test_a_file_of_texts_asks_for_the_model_that_reads_them(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,ids,truth\n" + "".join(f"a b,1 2,{i % 2}\n" for i in range(8)))
    behaviours = [{"name": "truth", "kind": "label", "column": "truth"}]
    with pytest.raises(BadInput, match="`text` makes text, which a model's tokenizer reads: give model="):
        load_task(tmp_path / "rows.csv", text="prompt", behaviours=behaviours)
    assert len(load_task(tmp_path / "rows.csv", tokens="ids", behaviours=behaviours).tokens) == 8


# The bundled model ----------------------------------------------------------------------------------------------------

FOLDER = bundled_folder("othello-6x6")


@pytest.mark.skipif(FOLDER is None, reason="no bundled model in this tree")
def test_the_bundled_model_plays_legally_and_its_card_says_so():
    import torch

    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 8e6
    model = load_model("othello-6x6")
    games = generate(300, np.random.default_rng(2**31))
    tokens = [moves[:n] for moves, n in zip(games.moves, games.n_played, strict=True)]
    positions = [np.flatnonzero(live) for live in games.live]
    logits = torch.zeros(int(games.live.sum()), model.d_vocab)
    model.read(tokens, ["blocks.0.hook_resid_post"], positions,
               on_logits=lambda values, rows: logits.__setitem__(torch.from_numpy(rows), values))  # fmt: skip
    legal = games.law()[games.live] > 0
    law = logits.softmax(1).numpy()[:, :32]
    top = np.take_along_axis(legal, logits.numpy().argmax(1)[:, None].clip(max=31), 1)[:, 0]
    assert top.mean() >= 0.99
    mass = float((law * legal).sum(1).mean())
    assert mass >= 0.92
    card = " ".join((FOLDER / "CARD.md").read_text().split())
    stated = re.search(r"legal top-1 \*\*([\d.]+)\*\*, probability on legal moves \*\*([\d.]+)\*\*", card)
    assert stated
    assert float(stated[1]) == pytest.approx(top.mean(), abs=0.01)
    assert float(stated[2]) == pytest.approx(mass, abs=0.01)


@pytest.mark.skipif(FOLDER is None, reason="no bundled model in this tree")
def test_captured_othello_behaviour_is_the_models_own_law():
    task = load_task("othello-6x6", n_examples=20, n_positions=2, seed=1)
    seen = capture(load_model("othello-6x6"), task, "blocks.5.hook_resid_post", store=None).observations
    law, edge = (seen.behaviours[name].law for name in ("next_move_law", "edge_mass"))
    assert law.shape[1] == 33 and np.allclose(law.sum(1), 1, atol=1e-4)
    rim = GEO.edge[GEO.playable]
    assert np.allclose(edge[:, 0], law[:, :32][:, rim].sum(1), atol=1e-4)
    in_play = seen.domain == "random_play"
    rule = legal_uniform({"mine_yours": seen.features["mine_yours"].labels})
    assert ((rule > 0) * law)[in_play].sum(1).mean() > 0.9
