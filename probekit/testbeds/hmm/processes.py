"""Hidden Markov processes: how tokens are made, what can be known of the hidden state, and what is said of it cheaply.

A belief is the law of the hidden state given the tokens so far. The forward algorithm gives it exactly, in double
precision; `Process.told` has it in a few coordinates. Three processes differ in what a belief is to the next token:

- `mess3` (Marzen and Crutchfield 2017; Shai et al. 2024, arXiv 2405.15943): the next token's law is an affine map of
  the belief and the other way round, so that what is read may be either.
- `turns`: two coins of hidden sides take turns at being shown. The next token tells of one of them, so that the law
  says nothing of what is believed of the other.
- `triangle`: three hidden signs, of which pairs are compared. What is known of two pairs tells of the third. Belief
  propagation, whose messages say what each sign is by itself, passes nothing round the loop (`local`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from probekit.errors import BadInput

LENGTH = 16  # tokens of a sequence
Update = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Process:
    """A hidden Markov process. moves [token, state, state]: P(token, next state | state); start [state].

    shown [state, k]: what a state has along each coordinate that beliefs are told in, from -1 to 1; names: of these.
    local: coordinates [n, length, k] by the cheaper account for tokens [n, length], None where there is none.
    law_of [k + 1, token]: the next token's law as an affine map of the coordinates, the last row for 1.
    """

    name: str
    moves: Float[NDArray, "token state state"]
    start: Float[NDArray, " state"]
    shown: Float[NDArray, "state k"]
    names: tuple[str, ...]
    local: Update | None = field(default=None, repr=False)

    @property
    def n_tokens(self) -> int:
        """Tokens that there are."""
        return len(self.moves)

    def draw(self, n: int, rng: np.random.Generator, length: int = LENGTH) -> Int[NDArray, "n length"]:
        """Sequences of tokens, from the start."""
        states = self.moves.shape[1]
        state = rng.choice(states, size=n, p=self.start)
        flat = np.cumsum(self.moves.transpose(1, 0, 2).reshape(states, -1), axis=1)
        out = np.empty((n, length), dtype=np.int64)
        for t in range(length):
            at = (rng.random(n)[:, None] * flat[state][:, -1:] > flat[state]).sum(1)
            out[:, t], state = np.divmod(at, states)
        return out

    def beliefs(self, tokens: Int[NDArray, "n length"]) -> Float[NDArray, "n length state"]:
        """The exact law of the state behind each token given all up to it (the forward algorithm).

        >>> import numpy as np
        >>> from probekit.testbeds.hmm import PROCESSES
        >>> PROCESSES["mess3"].beliefs(np.array([[0, 0, 0]]))[0].argmax(-1).tolist()
        [0, 0, 0]
        """
        return self._filtered(tokens, np.broadcast_to(self.start, (len(tokens), len(self.start))))

    def _filtered(self, tokens: NDArray[np.int64], belief: NDArray[np.float64]) -> NDArray[np.float64]:
        out = []
        for column in tokens.T:
            belief = np.einsum("ni,nij->nj", belief, self.moves[column])
            belief = belief / belief.sum(1, keepdims=True)
            out.append(belief)
        return np.stack(out, 1)

    def law(self, belief: Float[NDArray, "... state"]) -> Float[NDArray, "... token"]:
        """Of the next token."""
        return belief @ self.moves.sum(2).T

    def told(self, belief: Float[NDArray, "... state"]) -> Float[NDArray, "... k"]:
        """A belief in coordinates: what each of them is expected to be."""
        return belief @ self.shown

    def law_of(self, told: Float[NDArray, "... k"]) -> Float[NDArray, "... token"]:
        """Of the next token, from coordinates: the stated rule. Coordinates beyond their range are brought into it."""
        given = np.concatenate([np.clip(told, -1, 1), np.ones((*told.shape[:-1], 1))], -1)
        law = np.maximum(given @ self._rule, 1e-6)
        return law / law.sum(-1, keepdims=True)

    @property
    def _rule(self) -> NDArray[np.float64]:
        """[k + 1, token]: exact, since every state's law is affine in what it has along the coordinates."""
        ones = np.ones((len(self.shown), 1))
        return np.linalg.pinv(np.concatenate([self.shown, ones], 1)) @ self.moves.sum(2).T

    def recent(self, tokens: Int[NDArray, "n length"], k: int) -> Float[NDArray, "n length state"]:
        """The belief of one who saw where it is and the last k tokens alone: no reader of k-grams can know more.

        Raises BadInput for a negative k.
        """
        if k < 0:
            raise BadInput(f"the last {k} tokens are asked for: give 0 or more.")
        step, prior, out = self.moves.sum(0), [self.start], []
        for _ in range(tokens.shape[1]):
            prior.append(prior[-1] @ step)
        for t in range(tokens.shape[1]):
            first = max(0, t + 1 - k)
            before = np.broadcast_to(prior[first], (len(tokens), len(self.start)))
            out.append(self._filtered(tokens[:, first : t + 1], before)[:, -1] if t + 1 > first else before)
        return np.stack(out, 1)


def mess3(sure: float = 0.85, moved: float = 0.05) -> Process:
    """Three states, which stay but for `moved` to either other; the token is the new state's with chance `sure`."""
    stay = np.full((3, 3), moved) + (1 - 3 * moved) * np.eye(3)
    seen = np.full((3, 3), (1 - sure) / 2) + (sure - (1 - sure) / 2) * np.eye(3)
    moves = np.stack([stay * seen[:, token] for token in range(3)])
    angle = 2 * np.pi * np.arange(3) / 3
    return Process("mess3", moves, np.full(3, 1 / 3), np.stack([np.cos(angle), np.sin(angle)], 1), ("x", "y"))


def turns(sure: float = 0.85, moved: float = 0.04) -> Process:
    """Two coins, each turned over with chance `moved` a step; shown by turns, rightly with chance `sure`.

    The coordinates are the side of the coin that is shown next, and of the one that is not.
    """
    sides = np.array([(a, b, turn) for turn in (0, 1) for a in (0, 1) for b in (0, 1)])
    moves = np.zeros((2, 8, 8))
    for i, (a, b, turn) in enumerate(sides):
        seen = (a, b)[turn]
        for j, (c, d, after) in enumerate(sides):
            if after != turn:
                chance = np.where(a == c, 1 - moved, moved) * np.where(b == d, 1 - moved, moved)
                moves[seen, i, j], moves[1 - seen, i, j] = sure * chance, (1 - sure) * chance
    signs = 2.0 * sides[:, :2] - 1
    shown = np.take_along_axis(signs, np.stack([sides[:, 2], 1 - sides[:, 2]], 1), 1)
    return Process("turns", moves, np.where(sides[:, 2] == 0, 0.25, 0.0), shown, ("next", "silent"))


# Signs of three pairs that three signs can have: their product is 1.
RELATIONS = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)], dtype=np.float64)


def triangle(sure: float = 0.9, anew: float = 0.04) -> Process:
    """Three signs, all drawn anew with chance `anew` a step; a token tells of one pair whether its signs are alike.

    Each of three pairs is as likely to be told of; what is told is right with chance `sure`. Tokens are 2 pair + (1 if
    alike). The state is which pairs are alike, since nothing tells of the signs themselves.
    """
    stay = (1 - anew) * np.eye(4) + anew / 4
    moves = np.stack([
        stay * np.where(RELATIONS[:, pair] == (2 * alike - 1), sure, 1 - sure)[:, None] / 3
        for pair in range(3) for alike in (0, 1)
    ])  # fmt: skip

    def local(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Every pair by what was told of it alone.

        Between tokens nothing is known to be forgotten but a share `anew`. At each token loopy belief propagation on
        the three signs: no sign is known by itself, so that its messages are even, and no pair hears of another.
        """
        known, out = np.zeros((len(tokens), 3)), []
        for column in tokens.T:
            pair, said = column // 2, (2 * (column % 2) - 1) * (2 * sure - 1)
            before = known[np.arange(len(known)), pair]
            known = known.copy()
            known[np.arange(len(known)), pair] = (before + said) / (1 + before * said)
            known = (1 - anew) * known
            out.append(known)
        return np.stack(out, 1)

    names = ("first pair", "second pair", "third pair")
    return Process("triangle", moves, np.full(4, 0.25), RELATIONS, names, local)


PROCESSES = {one.name: one for one in (mess3(), turns(), triangle())}
