"""Surface: what an input-only reader may see of a task, without any network. These are the default floor's inputs."""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.task import Task

_MAX_POSITIONS, _MAX_VOCAB, _N_HASHED, _N_LAST, _N_BAG = 64, 64, 256, 3, 512


def surface_features(task: Task, d_vocab: int) -> dict[str, NDArray[np.float32]]:
    """What an input-only reader may see at each row: the tokens up to and including it, without any network.

    position: one-hot when all positions lie below 64, else position and its logarithm. length: number of tokens seen
    and its logarithm, scaled to at most 1. last_tokens: the last 3, one-hot up to 64 tokens, else hashed to 256 columns
    each. bag: counts of the task's 512 most frequent tokens. Each [n_rows, width] float32.
    """
    position = task.row_position.astype(np.int64)
    example = task.row_example
    if not len(position):
        raise BadInput(f"task '{task.name}' reads no position: give at least one per example.")
    longest = int(position.max()) + 1
    seen = np.stack([(position + 1) / longest, np.log1p(position) / max(1.0, np.log(longest))], 1)
    where = np.eye(longest)[position] if longest <= _MAX_POSITIONS else np.stack([position, np.log1p(position)], 1)

    width = d_vocab if d_vocab <= _MAX_VOCAB else _N_HASHED
    starts = np.concatenate([[0], np.cumsum([len(t) for t in task.tokens])])
    flat = np.concatenate([np.asarray(t, np.int64) for t in task.tokens])
    last = np.zeros((len(position), _N_LAST * width), np.float32)
    for back in range(_N_LAST):
        rows = np.flatnonzero(position >= back)
        token = flat[starts[example[rows]] + position[rows] - back]
        # Fibonacci hashing: neighbours in the vocabulary, often variants of one word, fall far apart
        column = token if width == d_vocab else (token * 2654435769 % 2**32) >> 24
        last[rows, back * width + column] = 1

    counts = np.bincount(flat, minlength=d_vocab)
    top = np.sort(np.argsort(-counts, kind="stable")[: min(_N_BAG, int((counts > 0).sum()))])
    place = np.full(d_vocab, -1)
    place[top] = np.arange(len(top))
    bag = np.zeros((len(position), len(top)), np.float32)
    row = 0
    for tokens, positions in zip(task.tokens, task.positions, strict=True):
        columns = place[np.asarray(tokens, np.int64)]
        counted = np.zeros(len(top), np.float32)
        done = 0
        for at in np.argsort(positions, kind="stable"):
            stop = int(positions[at]) + 1
            new = columns[done:stop]
            counted += np.bincount(new[new >= 0], minlength=len(top))
            bag[row + at], done = counted, stop
        row += len(positions)
    return {"position": where.astype(np.float32), "length": seen.astype(np.float32), "last_tokens": last, "bag": bag}
