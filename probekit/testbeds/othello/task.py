"""The Othello task: next-move behaviour, the board in two ontologies, and two domains that training never showed."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probekit.levels import Hypothesis
from probekit.records import digest
from probekit.task import BehaviourSpec, Feature, Task
from probekit.testbeds.othello.game import Games, Geometry, generate, unpack
from probekit.testbeds.othello.rules import EMPTY, MINE, YOURS, legal_uniform

SEEN = "random_play"
UNSEEN = ("greedy_play", "impossible_boards")
LAST_MOVES = 3
AFTER_ILLEGAL = 12  # moves 3 to 12 may be the illegal ones, so boards from here on hold both


def othello_task(size: int, n_games: int, n_positions: int, seed: int) -> Task:
    """Twice `n_games` random games and `n_games` of each unseen domain, read at `n_positions` random moves of each.

    A row is a position after which a legal move exists. group = game. Floor inputs: bag of moves by mover, the last
    three moves, and the position.
    """
    geo = Geometry(size)
    parts = [
        (SEEN, generate(2 * n_games, np.random.default_rng([seed, 10]), size), 0),
        (UNSEEN[0], generate(n_games, np.random.default_rng([seed, 11]), size, greedy_from=4), 0),
        (UNSEEN[1], generate(2 * n_games, np.random.default_rng([seed, 12]), size, n_illegal=2), AFTER_ILLEGAL - 1),
    ]
    columns: dict[str, list] = {
        name: [] for name in ("tokens", "positions", "domain", "own", "opp", "inputs", "row_pos")
    }
    generator = np.random.default_rng([seed, 13])
    for domain, games, first in parts:
        game, column = _sample(games, n_positions, first, generator)
        enough = np.isin(game, np.unique(game)[: 2 * n_games if domain == SEEN else n_games])
        game, column = game[enough], column[enough]
        at = np.split(column, np.flatnonzero(np.diff(game)) + 1)
        for i, positions in zip(np.unique(game), at, strict=True):
            # Nothing after the last position is ever read, so nothing after it is run.
            columns["tokens"].append(games.moves[i, : positions[-1] + 1])
            columns["positions"].append(positions)
            columns["domain"].append(domain)
        columns["own"].append(games.own[game, column])
        columns["opp"].append(games.opp[game, column])
        columns["inputs"].append(_floor_inputs(games, game, column))
        columns["row_pos"].append(column)
    own, opp = (unpack(np.concatenate(columns[side]), geo.n_squares) for side in ("own", "opp"))
    turn = np.concatenate(columns["row_pos"]) % 2  # black moves first: after an odd column it is black's turn
    inputs = {name: np.concatenate([part[name] for part in columns["inputs"]]) for name in columns["inputs"][0]}
    squares = tuple(geo.name(s) for s in range(geo.n_squares))
    return Task(
        name=f"othello-{size}x{size}",
        tokens=columns["tokens"],
        positions=columns["positions"],
        group=np.arange(len(columns["tokens"])),
        domain=np.array(columns["domain"]),
        behaviours=behaviours(size),
        features={
            "mine_yours": Feature("mine_yours", _labels(own, opp), ("mine", "yours", "empty"), squares),
            "black_white": Feature(
                "black_white", _labels(*_by_colour(own, opp, turn)), ("black", "white", "empty"), squares
            ),
        },
        floor_inputs=inputs,
        fingerprint=digest({"task": "othello", "size": size, "games": n_games, "positions": n_positions, "seed": seed}),
    )


def behaviours(size: int) -> tuple[BehaviourSpec, ...]:
    """The next-move law over all squares, and the total probability of the edge."""
    geo = Geometry(size)
    names = tuple(geo.name(s) for s in geo.playable.tolist())
    edge = tuple(int(t) for t in range(geo.n_moves) if geo.edge[geo.playable[t]])
    return (
        BehaviourSpec("next_move_law", "law", tokens=tuple(range(geo.n_moves)), outcomes=names),
        BehaviourSpec("edge_mass", "groups", sets={"edge": edge}),
    )


def hypothesis(size: int) -> Hypothesis:
    """Decode the board, apply the rules, spread the law evenly over the legal moves."""
    return Hypothesis.of("rules", ("mine_yours",), legal_uniform, behaviour="next_move_law")


def _sample(games: Games, n_positions: int, first: int, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
    """(game, column), in order: the live ones of `n_positions` columns from `first` on, drawn blindly per game.

    Drawing among live columns instead would favour games that end early, which is selection by what happens later.
    """
    key = generator.random(games.live.shape)
    key[:, :first] = np.inf
    game, column = np.nonzero((key.argsort(1).argsort(1) < n_positions) & games.live)
    return game, column


def _labels(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(first, MINE, np.where(second, YOURS, EMPTY))


def _by_colour(own: NDArray, opp: NDArray, turn: NDArray) -> tuple[NDArray, NDArray]:
    black_to_move = (turn == 1)[:, None]
    return np.where(black_to_move, own, opp), np.where(black_to_move, opp, own)


def _floor_inputs(games: Games, game: NDArray, column: NDArray) -> dict[str, NDArray[np.float32]]:
    """Blocks of the input-only reader for rows (game, column)."""
    n_moves = Geometry(games.size).n_moves
    moves = games.moves[game]
    one_hot = np.eye(n_moves + 1, dtype=np.float32)[:, :n_moves]  # token -1 is a row of zeros
    played = np.arange(moves.shape[1])[None] <= column[:, None]
    mover = (column[:, None] - np.arange(moves.shape[1])[None]) % 2  # 0: the one who has just moved
    bags = [np.einsum("rt,rtm->rm", (played & (mover == side)).astype(np.float32), one_hot[moves]) for side in (0, 1)]
    rows = np.arange(len(moves))
    last = [
        np.where(column[:, None] >= i, one_hot[moves[rows, np.maximum(column - i, 0)]], 0) for i in range(LAST_MOVES)
    ]
    return {
        "position": np.eye(n_moves, dtype=np.float32)[column],
        "bag_by_mover": np.concatenate(bags, 1),
        "last_moves": np.concatenate(last, 1).astype(np.float32),
    }


def write_games(path: Path, n_games: int, per_game: int = 3, size: int = 6, seed: int = 0) -> None:
    """Write a CSV of random games cut after a random move, `per_game` rows to each: `game`, `moves` and `ahead`.

    moves: token ids, separated by spaces. ahead: `yes` where the player to move has more discs than the other.
    """
    generator = np.random.default_rng([seed, 15])
    games = generate(n_games, generator, size)
    n_squares = Geometry(size).n_squares
    ahead = unpack(games.own, n_squares).sum(-1) > unpack(games.opp, n_squares).sum(-1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["game", "moves", "ahead"])
        for game, column in zip(*_sample(games, per_game, 0, generator), strict=True):
            moves = " ".join(map(str, games.moves[game, : column + 1]))
            writer.writerow([game, moves, "yes" if ahead[game, column] else "no"])
