"""What the rules say of moves: boards as the games had them, illegal moves included, and columns counted by hand."""

import numpy as np
import pytest

from probekit.testbeds.othello.describe import COLUMNS, described, replay
from probekit.testbeds.othello.game import Geometry, generate, unpack
from probekit.testbeds.othello.task import othello_task


@pytest.mark.parametrize("n_illegal", [0, 2])
def test_a_replay_is_the_game(n_illegal):
    games = generate(40, np.random.default_rng(1), n_illegal=n_illegal)
    game, column = np.nonzero(games.live)
    tokens = [games.moves[i, :n] for i, n in enumerate(games.n_played)]
    positions = [column[game == i] for i in range(40)]
    told = replay(tokens, positions)
    assert np.array_equal(told.own, games.own[game, column]) and np.array_equal(told.opp, games.opp[game, column])
    geo = Geometry(6)
    assert np.array_equal(told.legal, unpack(games.legal[game, column], 36)[:, geo.playable])


def test_rows_are_those_of_the_task():
    task = othello_task(6, 20, 3, 0)
    told = replay(task.tokens, task.positions)
    assert np.array_equal(told.board, task.features["mine_yours"].labels)
    assert described(told).shape == (len(told.own), len(COLUMNS))


def test_the_first_move_by_hand():
    """Black plays, one disc is turned; white has three replies, each of one line and one disc, all just changed but
    for the one in the middle of the old row."""
    games = generate(1, np.random.default_rng(0))
    told = dict(zip(COLUMNS, described(replay([games.moves[0, :1]], [np.array([0])]))[0], strict=True))
    assert (told["moves"], told["legal moves"], told["own discs"], told["discs"]) == (1, 3, 1, 5)
    assert (told["turned last"], told["turned before"], told["times turned, most"], told["alone"]) == (1, 0, 1, 0)
    assert (told["lines, least"], told["lines, mean"], told["turned by legal moves"]) == (1, 1, 1)
    assert told["corners"] == told["edges"] - told["edges"] == 0


def test_a_disc_alone_is_one_that_no_legal_play_makes():
    far = np.array([0])  # a1, which touches nothing at the start
    told = dict(zip(COLUMNS, described(replay([far], [np.array([0])]))[0], strict=True))
    assert told["alone"] == 1 and told["turned last"] == 0
    legal = described(replay(*_legal(50)))
    assert (legal[:, COLUMNS.index("alone")] == 0).all() and (legal[:, COLUMNS.index("turned last")] > 0).all()


def _legal(n):
    games = generate(n, np.random.default_rng(3))
    return [games.moves[i, :k] for i, k in enumerate(games.n_played)], [np.arange(k) for k in games.n_played]
