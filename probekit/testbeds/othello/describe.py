"""What the rules of Othello say of a sequence of moves before a network reads it: the board, and how it came about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.testbeds.othello.game import Bits, Geometry, flips, legal_moves, play, unpack

RECENT = 3  # moves back, within which a square is said to have changed just now
COLUMNS = (
    "moves", "legal moves", "own discs", "discs", "turned last", "turned before", "own corners", "corners", "edges",
    "times turned, mean", "times turned, most", "age, mean", "alone", "tempting",
    "lines, least", "lines, mean", "lines, longest", "turned by legal moves", "shaken, sum", "shaken, most",
)  # fmt: skip


@dataclass(frozen=True)
class Replayed:
    """Rows replayed by the rules. own, opp [n] bitboards, seen by who moves next; times [n, n_squares]: how often the
    disc of a square was turned; age [n, n_squares]: moves since the square last changed; turned [n, 2]: discs turned by
    the last two moves; position [n]: moves played, less one.
    """

    size: int
    own: Bits
    opp: Bits
    times: NDArray[np.int64]
    age: NDArray[np.int64]
    turned: NDArray[np.int64]
    position: NDArray[np.int64]

    @property
    def board(self) -> NDArray[np.int64]:
        """0 the mover's, 1 the other's, 2 empty, of each square: [n, n_squares]."""
        own, opp = (unpack(side, self.size**2) for side in (self.own, self.opp))
        return np.where(own, 0, np.where(opp, 1, 2))

    @property
    def legal(self) -> NDArray[np.bool_]:
        """Legal moves, by token: [n, n_moves]."""
        geo = Geometry(self.size)
        return unpack(legal_moves(self.own, self.opp, self.size), geo.n_squares)[:, geo.playable]


def replay(tokens: Sequence[NDArray], positions: Sequence[NDArray], size: int = 6) -> Replayed:
    """Play every sequence by the rules, an illegal move too, and keep the state after each position asked for.

    tokens: moves of each game; positions: of each game, in order. Rows follow them. The same boards as the games were
    made with:

    >>> import numpy as np
    >>> from probekit.testbeds.othello.game import generate
    >>> games = generate(3, np.random.default_rng(0))
    >>> told = replay(list(games.moves[:, :9]), [np.array([2, 8])] * 3)
    >>> bool((told.own == games.own[:, [2, 8]].ravel()).all()), told.board.shape
    (True, (6, 36))
    """
    geo, n = Geometry(size), len(tokens)
    own, opp = geo.start(n)
    times, changed = (np.zeros((n, geo.n_squares), dtype=np.int64) for _ in range(2))
    last = np.zeros((n, 2), dtype=np.int64)
    length = max(len(ids) for ids in tokens)
    moves = np.full((n, length), -1)
    for i, ids in enumerate(tokens):
        moves[i, : len(ids)] = ids
    kept = [[] for _ in range(length)]
    for i, at in enumerate(positions):
        for t in at:
            kept[int(t)].append(i)
    parts: dict[str, list] = {name: [] for name in ("own", "opp", "times", "age", "turned", "position", "row")}
    for t in range(length):
        live = moves[:, t] >= 0
        square = geo.playable[np.maximum(moves[:, t], 0)]
        bit = np.where(live, np.left_shift(np.uint64(1), square.astype(np.uint64)), np.uint64(0))
        over = unpack(flips(own, opp, bit, size), geo.n_squares)
        after = play(own, opp, bit, size)
        own, opp = np.where(live, after[0], own), np.where(live, after[1], opp)
        times += over
        changed[over] = t
        changed[np.flatnonzero(live), square[live]] = t
        last = np.where(live[:, None], np.stack([over.sum(1), last[:, 0]], 1), last)
        rows = np.array(kept[t], dtype=np.int64)
        values = (own[rows], opp[rows], times[rows], t - changed[rows], last[rows], np.full(len(rows), t), rows)
        for name, value in zip(parts, values, strict=True):
            parts[name].append(value)
    every = {name: np.concatenate(value) for name, value in parts.items()}
    order = np.lexsort((every["position"], every.pop("row")))
    return Replayed(size, **{name: value[order] for name, value in every.items()})


def described(replayed: Replayed) -> NDArray[np.float64]:
    """Numbers that the rules give of each row, before any network: [n, len(COLUMNS)].

    alone: discs without a neighbour, which legal play never makes; tempting: empty squares beside a disc of the other's
    where the mover may not play; lines: directions in which a legal move turns discs; shaken: of the discs that a legal
    move would turn, those that changed within three moves.
    """
    size, geo = replayed.size, Geometry(replayed.size)
    own, opp = (unpack(side, geo.n_squares) for side in (replayed.own, replayed.opp))
    disc, legal = own | opp, unpack(legal_moves(replayed.own, replayed.opp, size), geo.n_squares)
    near = _neighbours(size)
    turns = _turned_by(replayed)  # [n, square played, n_squares]
    shaken = (turns & (replayed.age < RECENT)[:, None] & disc[:, None]).sum(2)
    count, lines = turns.sum(2), _lines(turns, size)
    some = np.maximum(legal.sum(1), 1)
    corner = np.zeros(geo.n_squares, dtype=bool)
    corner[[0, size - 1, size * (size - 1), size * size - 1]] = True
    discs = np.maximum(disc.sum(1), 1)
    told = [
        replayed.position + 1, legal.sum(1), own.sum(1), disc.sum(1), replayed.turned[:, 0], replayed.turned[:, 1],
        (own & corner).sum(1), (disc & corner).sum(1), (disc & geo.edge).sum(1),
        (replayed.times * disc).sum(1) / discs, replayed.times.max(1), (replayed.age * disc).sum(1) / discs,
        (disc & ~(disc @ near)).sum(1), (~disc & (opp @ near) & ~legal).sum(1),
        np.where(legal, lines, 9).min(1), (lines * legal).sum(1) / some, np.where(legal, count, 0).max(1),
        (count * legal).sum(1) / some, (shaken * legal).sum(1), np.where(legal, shaken, 0).max(1),
    ]  # fmt: skip
    return np.column_stack(told).astype(np.float64)


def _neighbours(size: int) -> NDArray[np.bool_]:
    row, column = np.divmod(np.arange(size * size), size)
    apart = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))
    return apart == 1


def _turned_by(replayed: Replayed) -> NDArray[np.bool_]:
    """Discs that playing on each square would turn: [n, n_squares, n_squares]."""
    n_squares = replayed.size**2
    bit = np.left_shift(np.uint64(1), np.arange(n_squares, dtype=np.uint64))
    free = (~(replayed.own | replayed.opp))[:, None] & bit
    over = flips(replayed.own[:, None], replayed.opp[:, None], free, replayed.size)
    return unpack(over, n_squares)


def _lines(turns: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """In how many directions each move turns discs: those that lie beside the move, counted: [n, n_squares]."""
    return (turns & _neighbours(size)[None]).sum(2)
