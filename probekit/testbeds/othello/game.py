"""Othello on an n x n board, vectorised over games: one uint64 bitboard for the mover, one for the opponent.

Bit `row * size + column` is a square. The board is always seen from the player to move. A game ends here at its first
pass: it is *truncated*, never selected by what would have happened later, so that the law of the next move given the
moves so far is exactly uniform over the legal ones.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
_DIRECTIONS = [(dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0)]


@dataclass(frozen=True)
class Geometry:
    """Constants of a board size: squares that are played on, and their token numbers (centre squares have none)."""

    size: int

    @property
    def n_squares(self) -> int:
        return self.size * self.size

    @property
    def centre(self) -> tuple[int, int, int, int]:
        """The four occupied squares at the start: (upper left, upper right, lower left, lower right)."""
        a = (self.size // 2 - 1) * self.size + self.size // 2 - 1
        return a, a + 1, a + self.size, a + self.size + 1

    @property
    def playable(self) -> NDArray[np.int64]:
        """Square of each token: [n_squares - 4]."""
        return np.array([s for s in range(self.n_squares) if s not in self.centre])

    @property
    def token_of(self) -> NDArray[np.int64]:
        """Token of each square, -1 at the centre: [n_squares]."""
        table = np.full(self.n_squares, -1)
        table[self.playable] = np.arange(self.n_squares - 4)
        return table

    @property
    def n_moves(self) -> int:
        return self.n_squares - 4

    @property
    def edge(self) -> NDArray[np.bool_]:
        """True at the squares of the rim: [n_squares]."""
        r, c = np.divmod(np.arange(self.n_squares), self.size)
        return (r == 0) | (c == 0) | (r == self.size - 1) | (c == self.size - 1)

    def name(self, square: int) -> str:
        """Human name of a square: column letter and row number, `a1` at the upper left."""
        row, column = divmod(int(square), self.size)
        return f"{chr(ord('a') + column)}{row + 1}"

    def start(self, n_games: int) -> tuple[Bits, Bits]:
        """Opening position, black to move: (own, opp), each [n_games]."""
        ul, ur, ll, lr = self.centre
        own = np.full(n_games, (1 << ur) | (1 << ll), dtype=np.uint64)
        opp = np.full(n_games, (1 << ul) | (1 << lr), dtype=np.uint64)
        return own, opp


@cache
def _steps(size: int) -> list[tuple[int, np.uint64]]:
    """For each of the 8 directions: the shift of the bit number and the mask of squares that may take the step."""
    rows, columns = np.divmod(np.arange(size * size), size)
    steps = []
    for dr, dc in _DIRECTIONS:
        inside = (rows + dr >= 0) & (rows + dr < size) & (columns + dc >= 0) & (columns + dc < size)
        mask = sum(1 << int(s) for s in np.flatnonzero(inside))
        steps.append((dr * size + dc, np.uint64(mask)))
    return steps


def _shift(bits: Bits, by: int, mask: np.uint64) -> Bits:
    moved = bits & mask
    return moved << np.uint64(by) if by > 0 else moved >> np.uint64(-by)


def legal_moves(own: Bits, opp: Bits, size: int) -> Bits:
    """Squares on which the mover may play: any shape in, the same shape out."""
    empty = ~(own | opp)
    legal = np.zeros_like(own)
    for by, mask in _steps(size):
        run = _shift(own, by, mask) & opp
        for _ in range(size - 3):
            run |= _shift(run, by, mask) & opp
        legal |= _shift(run, by, mask) & empty
    return legal


def flips(own: Bits, opp: Bits, move: Bits, size: int) -> Bits:
    """Discs turned by playing the single bit `move`: zero where the move is illegal."""
    turned = np.zeros_like(own & move)
    for by, mask in _steps(size):
        run = _shift(move, by, mask) & opp
        for _ in range(size - 3):
            run |= _shift(run, by, mask) & opp
        closed = (_shift(run, by, mask) & own) != 0
        turned |= np.where(closed, run, np.uint64(0))
    return turned


def play(own: Bits, opp: Bits, move: Bits, size: int) -> tuple[Bits, Bits]:
    """Board after `move`, seen by the next player: (own, opp). An illegal move places its disc and turns nothing."""
    turned = flips(own, opp, move, size)
    return opp & ~turned, own | turned | move


def unpack(bits: Bits, n_squares: int) -> NDArray[np.bool_]:
    """Bitboards to booleans: [...] -> [..., n_squares]."""
    return ((bits[..., None] >> np.arange(n_squares, dtype=np.uint64)) & np.uint64(1)).astype(bool)


@dataclass(frozen=True)
class Games:
    """Games padded to one length. Column t is the state *after* move t, seen by the player who moves next.

    moves [n, n_moves] token of move t, -1 after the end; own, opp, legal [n, n_moves] bitboards; live [n, n_moves]
    is True where move t was played and a next move exists, that is where the next-move law is defined.
    """

    size: int
    moves: NDArray[np.int64]
    own: Bits
    opp: Bits
    legal: Bits
    live: NDArray[np.bool_]

    @property
    def n_played(self) -> NDArray[np.int64]:
        """Moves in each game: [n]."""
        return (self.moves >= 0).sum(1)

    def law(self) -> NDArray[np.float32]:
        """Exact next-move law of random play, zero where not live: [n, n_moves, n_moves]."""
        allowed = unpack(self.legal, self.size**2)[..., Geometry(self.size).playable] & self.live[..., None]
        return (allowed / np.maximum(allowed.sum(-1, keepdims=True), 1)).astype(np.float32)


def _most_flips(own: Bits, opp: Bits, legal: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Restrict legal moves [n, n_squares] to those that turn most discs."""
    square = np.left_shift(np.uint64(1), np.arange(size * size, dtype=np.uint64))
    turned = flips(own[:, None], opp[:, None], np.broadcast_to(square, legal.shape), size)
    n_turned = np.where(legal, unpack(turned, size * size).sum(-1), -1)
    return legal & (n_turned == n_turned.max(1, keepdims=True))


def generate(
    n_games: int, rng: np.random.Generator, size: int = 6, greedy_from: int | None = None, n_illegal: int = 0
) -> Games:
    """Play `n_games` to the board's end or their first pass.

    greedy_from: from this move on (counted from 1) play the move that turns most discs, ties at random.
    n_illegal: that many moves, at random places in moves 3..12, go to an empty square where the mover may not play;
    the disc stays, nothing turns, and play goes on legally from a board that no play reaches.
    """
    geo = Geometry(size)
    own, opp = geo.start(n_games)
    alive = np.ones(n_games, dtype=bool)
    illegal_at = np.zeros((n_games, geo.n_moves), dtype=bool)
    if n_illegal:
        at = rng.random((n_games, 10)).argsort(1)[:, :n_illegal] + 2
        np.put_along_axis(illegal_at, at, True, axis=1)
    columns: dict[str, list] = {"moves": [], "own": [], "opp": [], "legal": [], "live": []}
    playable = unpack(np.array(sum(1 << int(s) for s in geo.playable), dtype=np.uint64), geo.n_squares)
    legal = legal_moves(own, opp, size)
    for turn in range(geo.n_moves):
        alive = alive & (legal != 0)
        choice = unpack(legal, geo.n_squares)
        if greedy_from is not None and turn + 1 >= greedy_from:
            choice = _most_flips(own, opp, choice, size)
        if n_illegal:
            # A disc can only be misplaced while an empty unplayable square exists; where none does, play legally.
            wrong = unpack(np.invert(own | opp | legal), geo.n_squares) & playable
            use = illegal_at[:, turn] & wrong.any(1)
            choice = np.where(use[:, None], wrong, choice)
        square = (rng.random(choice.shape) * choice).argmax(1)
        move = np.where(alive, np.left_shift(np.uint64(1), square.astype(np.uint64)), np.uint64(0))
        after = play(own, opp, move, size)
        own, opp = np.where(alive, after[0], own), np.where(alive, after[1], opp)
        legal = np.where(alive, legal_moves(own, opp, size), np.uint64(0))
        columns["moves"].append(np.where(alive, geo.token_of[square], -1))
        columns["own"].append(own)
        columns["opp"].append(opp)
        columns["legal"].append(legal)
        columns["live"].append(alive & (legal != 0))
    return Games(size=size, **{name: np.stack(values, axis=1) for name, values in columns.items()})
