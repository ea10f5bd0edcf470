"""Othello against a slow reference that plays square by square, and training that resumes to the same bits."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from probekit.errors import BadInput, Interrupted
from probekit.testbeds.othello.game import Games, Geometry, flips, generate, legal_moves, play, unpack

MINE, YOURS, EMPTY = 1, -1, 0


# The reference: a board is {(row, column): colour}, black 1 and white -1; written from the rules and not from game.py.


class Board:
    def __init__(self, size: int):
        a, b = size // 2 - 1, size // 2
        self.size, self.mover = size, 1
        self.discs = {(a, a): -1, (b, b): -1, (a, b): 1, (b, a): 1}

    def turned(self, row: int, column: int, colour: int) -> set[tuple[int, int]]:
        if (row, column) in self.discs:
            return set()
        out = set()
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                line, r, c = [], row + dr, column + dc
                while (dr or dc) and self.discs.get((r, c)) == -colour:
                    line.append((r, c))
                    r, c = r + dr, c + dc
                if line and self.discs.get((r, c)) == colour:
                    out.update(line)
        return out

    def legal(self) -> dict[int, int]:
        """Square -> discs it turns, for the mover."""
        n = self.size
        found = {r * n + c: len(self.turned(r, c, self.mover)) for r in range(n) for c in range(n)}
        return {square: count for square, count in found.items() if count}

    def put(self, square: int) -> None:
        place = divmod(square, self.size)
        for disc in self.turned(*place, self.mover):
            self.discs[disc] = self.mover
        self.discs[place] = self.mover
        self.mover = -self.mover

    def seen_by_mover(self) -> list[int]:
        n = self.size
        return [self.discs.get(divmod(square, n), EMPTY) * self.mover for square in range(n * n)]


def observed(games: Games, game: int, t: int) -> list[int]:
    own, opp = (unpack(board[game, [t]], games.size**2)[0].astype(int) for board in (games.own, games.opp))
    return (own - opp).tolist()


def replay(games: Games, game: int):
    """(t, board before move t, square, whether it was legal, board after), checked square by square on the way."""
    geometry, board = Geometry(games.size), Board(games.size)
    for t in range(int(games.n_played[game])):
        square = int(geometry.playable[games.moves[game, t]])
        legal = board.legal()
        yield t, square, legal
        board.put(square)
        assert observed(games, game, t) == board.seen_by_mover()
        after = set(np.flatnonzero(unpack(games.legal[game, [t]], games.size**2)[0]))
        assert after == set(board.legal())
        assert games.live[game, t] == bool(after)


@pytest.mark.parametrize(("size", "n_games"), [(4, 60), (6, 60), (8, 20)])
def test_every_board_and_every_legal_move_is_the_reference_s(size, n_games):
    games = generate(n_games, np.random.default_rng(1), size)
    for game in range(n_games):
        for _, square, legal in replay(games, game):
            assert square in legal


@pytest.mark.parametrize("size", [4, 6, 8])
def test_a_game_is_cut_at_its_first_pass_and_nothing_follows(size):
    games = generate(300, np.random.default_rng(2), size)
    played = games.moves >= 0
    n = games.n_played
    assert (played == (np.arange(games.moves.shape[1]) < n[:, None])).all()
    assert (games.live == (np.arange(games.moves.shape[1]) < n[:, None] - 1)).all()
    last = np.arange(300), n - 1
    # At the end the mover cannot move, whether or not the board is full; on a full board nobody can.
    assert (legal_moves(games.own[last], games.opp[last], size) == 0).all()
    cut = n < games.moves.shape[1]
    assert cut.any()
    if size != 4:
        assert not cut.all()


@pytest.mark.parametrize("size", [6, 8])
def test_the_law_is_uniform_over_the_legal_moves_and_zero_after_the_end(size):
    games = generate(100, np.random.default_rng(3), size)
    law = games.law()
    np.testing.assert_allclose(law.sum(-1), games.live, atol=1e-6)
    n_legal = (law > 0).sum(-1)
    np.testing.assert_allclose(law.max(-1)[games.live], 1 / n_legal[games.live], rtol=1e-6)
    # The move that was played has mass: the law is of the *next* move.
    game, t = np.nonzero(games.live)
    assert (law[game, t, games.moves[game, t + 1]] > 0).all()


def test_moves_are_drawn_evenly():
    first = generate(8_000, np.random.default_rng(4)).moves[:, 0]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 4
    assert abs(counts - 2_000).max() < 5 * np.sqrt(8_000 * 0.25 * 0.75)


def test_the_greedy_domain_turns_most_discs_from_its_move_on_and_only_then():
    games = generate(60, np.random.default_rng(5), greedy_from=11)
    lazy = 0
    for game in range(60):
        for t, square, legal in replay(games, game):
            if t + 1 >= 11:
                assert legal[square] == max(legal.values())
            else:
                lazy += legal[square] < max(legal.values())
    assert lazy > 20


def test_the_greedy_domain_breaks_ties_at_random():
    games = generate(200, np.random.default_rng(6), greedy_from=1)
    assert len(np.unique(games.moves[:, 0])) == 4  # all four openings turn one disc


def test_the_illegal_domain_has_two_illegal_moves_and_boards_that_play_does_not_reach():
    games = generate(80, np.random.default_rng(7), n_illegal=2)
    counts = []
    for game in range(80):
        illegal = [t for t, square, legal in replay(games, game) if square not in legal]
        counts.append(len(illegal))
        assert all(2 <= t <= 11 for t in illegal)
        # An illegal disc turns nothing, so that the board gains one disc and no other changes side.
        for t in illegal:
            before, after = (np.array(observed(games, game, s)) for s in (t - 1, t))
            assert (before != -after).sum() == 1
    # A game may end before its second illegal move; hardly any does.
    assert max(counts) == 2
    assert np.mean(counts) > 1.8


def test_one_seed_gives_one_set_of_games_and_another_seed_another():
    for options in ({}, {"greedy_from": 11}, {"n_illegal": 2}, {"size": 8}):
        a, b, c = (generate(30, np.random.default_rng(seed), **options) for seed in (8, 8, 9))
        for name in ("moves", "own", "opp", "legal", "live"):
            assert (getattr(a, name) == getattr(b, name)).all()
        assert (a.moves != c.moves).any()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([4, 6, 8]))
def test_playing_only_adds_a_disc_and_only_flips_what_flips_says(seed, size):
    rng = np.random.default_rng(seed)
    games = generate(4, rng, size)
    game, t = np.nonzero(games.live)
    own, opp, legal = games.own[game, t], games.opp[game, t], games.legal[game, t]
    assert ((own & opp) == 0).all()
    # Any one legal move of each board: its lowest bit.
    move = legal & (~legal + np.uint64(1))
    turned = flips(own, opp, move, size)
    new_own, new_opp = play(own, opp, move, size)
    assert ((turned & ~opp) == 0).all()
    assert (turned != 0).all()
    assert (new_opp == (own | move | turned)).all()
    assert (new_own == (opp & ~turned)).all()
    # A square that is not legal turns nothing.
    assert (flips(own, opp, ~(own | opp | legal) & np.uint64(1), size) == 0).all()


@pytest.mark.parametrize("size", [4, 6, 8])
def test_tokens_and_squares_are_one_to_one_away_from_the_centre(size):
    geometry = Geometry(size)
    assert geometry.token_of[geometry.playable].tolist() == list(range(geometry.n_moves))
    assert sorted(np.flatnonzero(geometry.token_of < 0)) == sorted(geometry.centre)
    assert geometry.edge.sum() == 4 * size - 4
    assert (geometry.name(0), geometry.name(size * size - 1)) == ("a1", f"{'abcdefgh'[size - 1]}{size}")


# Training

TINY = {"size": 4, "n_layers": 1, "n_heads": 2, "d_model": 16, "n_games": 8, "steps": 6, "warmup": 2}


@pytest.fixture
def tiny():
    from probekit.testbeds.othello.train import Recipe

    return Recipe(**TINY)


def run(recipe, out, stop_at: int | None = None) -> list[dict]:
    """Train; with `stop_at` as if the user had stopped it when that many steps were done."""
    from probekit.testbeds.othello import train as module

    if stop_at is None:
        return list(module.train(recipe, out, fast=False))
    drawn, real = [], module._batch

    def interrupted(recipe, n_games, seed, device):
        drawn.append(seed)
        if seed == stop_at:
            raise KeyboardInterrupt
        return real(recipe, n_games, seed, device)

    module._batch = interrupted
    try:
        with pytest.raises(Interrupted, match=f"stopped at step {stop_at} of {recipe.steps}"):
            list(module.train(recipe, out, fast=False))
    finally:
        module._batch = real
    return []


def weights(out) -> dict[str, np.ndarray]:
    return load_file(out / "state.safetensors")


def test_a_run_that_was_stopped_resumes_to_the_same_bits(tmp_path, tiny):
    rows = run(tiny, tmp_path / "whole")
    run(tiny, tmp_path / "parts", stop_at=2)
    run(tiny, tmp_path / "parts", stop_at=5)
    resumed = run(tiny, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert any(name.startswith("optimiser.1.") for name in whole)
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name
    assert [row["step"] for row in rows] == [row["step"] for row in resumed] == [6]
    assert rows[-1]["loss_bits"] == resumed[-1]["loss_bits"]


def test_the_steps_before_the_stop_matter(tmp_path, tiny):
    run(tiny, tmp_path / "a")
    run(replace(tiny, seed=1), tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert any((a[name] != b[name]).any() for name in a if name.startswith("model."))


def test_a_finished_run_keeps_its_model_and_metrics_and_does_nothing_more(tmp_path, tiny):
    run(tiny, tmp_path)
    assert (tmp_path / "model-6" / "model.safetensors").is_file()
    before = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(before.splitlines()[-1])
    assert row["excess_bits"] > 0
    assert 0 <= row["legal_mass"] <= 1
    assert run(tiny, tmp_path) == []
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert not list(tmp_path.glob("*.part"))


def test_another_recipe_in_the_same_folder_is_refused(tmp_path, tiny):
    run(tiny, tmp_path)
    with pytest.raises(BadInput, match="holds a run of another recipe"):
        run(replace(tiny, adam_lr=1e-4), tmp_path)


def test_steps_may_grow_until_the_cool_down_and_no_longer(tmp_path, tiny):
    long = replace(tiny, steps=20)
    run(long, tmp_path / "early", stop_at=3)
    run(replace(long, steps=30), tmp_path / "early", stop_at=4)
    run(tiny, tmp_path / "late")
    with pytest.raises(BadInput, match="cool-down has begun"):
        run(replace(tiny, steps=12), tmp_path / "late")


def test_the_learning_rate_warms_up_stays_and_cools_down_to_zero(tiny):
    recipe = replace(tiny, steps=1_000, warmup=100, cooldown=0.4)
    rates = [recipe.rate(step) for step in range(1_000)]
    assert rates[0] == 0.01
    assert rates[99:601] == [1.0] * 502
    assert rates[601:] == sorted(rates[601:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 400)


@pytest.mark.parametrize("steps", [1, 50, 51, 14_000])
def test_kept_steps_end_with_the_last(tiny, steps):
    kept = replace(tiny, steps=steps).kept_steps()
    assert kept == sorted(set(kept))
    assert kept[-1] == steps
    assert steps != 14_000 or 10 <= len(kept) <= 14


def test_building_a_model_leaves_the_global_generator_alone(tiny):
    import torch

    from probekit.testbeds.othello.train import build_model

    before = torch.get_rng_state()
    a, b, c = (build_model(tiny, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_training_that_is_to_stop_on_the_way_goes_on_as_if_it_had_not(tmp_path, tiny):
    """Its rates are those of all steps, so that its checkpoints are those of the whole training."""
    from safetensors.torch import load_file

    from probekit.testbeds.othello.train import train

    assert not list(train(tiny, tmp_path / "twice", fast=False, until=4)) and (tmp_path / "twice").is_dir()
    for out in ("once", "twice"):
        run(tiny, tmp_path / out)
    once, twice = (load_file(tmp_path / out / "model-6" / "model.safetensors") for out in ("once", "twice"))
    assert all(np.array_equal(once[name], twice[name]) for name in once)
