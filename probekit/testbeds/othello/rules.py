"""The stated hypothesis about an Othello-GPT: it knows the board, applies the rules, and spreads evenly."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from probekit.testbeds.othello.game import Geometry, legal_moves, unpack

MINE, YOURS, EMPTY = 0, 1, 2


def legal_uniform(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """From `mine_yours` [n, n_squares] to the even law over legal moves [n, n_moves + 1]; zeros where none is legal.

    The last outcome is `rest`: whatever is not a move.
    """
    board = features["mine_yours"]
    size = int(board.shape[1] ** 0.5)
    bit = np.left_shift(np.uint64(1), np.arange(size * size, dtype=np.uint64))
    own, opp = ((board == player) @ bit for player in (MINE, YOURS))
    legal = unpack(legal_moves(own, opp, size), size * size)[:, Geometry(size).playable]
    law = legal / np.maximum(legal.sum(1, keepdims=True), 1)
    return np.concatenate([law, np.zeros((len(law), 1))], axis=1).astype(np.float32)
