"""Surface: what an input-only reader may see of a task, without any network. These are the default floor's inputs."""

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.task import TEXT, Task

Embed = Callable[[NDArray[np.int64]], NDArray[np.float32]]  # token ids [n] -> their input embeddings [n, d]
Decode = Callable[[NDArray[np.int64]], str]  # token ids [n] -> the text that they stand for
_MAX_TEXTS, _N_DECODED = 20_000, 400
_MAX_POSITIONS, _MAX_VOCAB, _N_HASHED, _N_LAST, _N_BAG = 64, 64, 256, 3, 512
_N_EMBEDDING, _N_SWEEPS, _AT_ONCE = 128, 6, 4096
# Words with the blanks in front of them, as tokenizers cut: put together again they are the text.
_WORD = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


def surface_features(
    task: Task, d_vocab: int, embed: Embed | None = None, like: Task | None = None, decode: Decode | None = None
) -> dict[str, NDArray]:
    """What an input-only reader may see at each row: the tokens up to and including it, without any network.

    position: one-hot when all positions lie below 64, else position and its logarithm. length: number of tokens seen
    and its logarithm, scaled to at most 1. last_tokens: the last 3, one-hot up to 64 tokens, else hashed to 256 columns
    each. bag: counts of the task's 512 most frequent tokens. embedding (`embed` given, more than 64 tokens): the mean
    of the input embeddings seen, and the last one, both on their 128 principal directions. Each [n_rows, width]
    float32. text (`decode` given, at most 20,000 rows): the last 400 tokens seen, as strings [n_rows]; what is made of
    them is learnt where a floor is fitted. like: the task whose columns these are, so that a reader fitted there can be
    applied here.
    """
    if not len(task.row_position):
        raise BadInput(f"task '{task.name}' reads no position: give at least one per example.")
    like = like or task
    blocks: dict[str, NDArray] = {
        **_places(task, like),
        "last_tokens": _last_tokens(task, d_vocab),
        "bag": _bag(task, like, d_vocab),
    }
    if embed is not None and d_vocab > _MAX_VOCAB:
        blocks["embedding"] = _embedding(task, like, embed)
    if decode is not None and len((like or task).row_position) <= _MAX_TEXTS:
        blocks[TEXT] = _texts(task, decode)
    return blocks


def word_features(texts: Sequence[str]) -> dict[str, NDArray]:
    """The same of whole texts without any model: words and marks stand for tokens, and there are no embeddings.

    So last_tokens are the last 3 words, bag the 512 most frequent ones, and text the last 400. Raises BadInput for a
    text without a word.

    >>> {name: block.shape for name, block in word_features(["Paris is big.", "So is Rome"]).items()}
    {'position': (2, 4), 'length': (2, 2), 'last_tokens': (2, 21), 'bag': (2, 7), 'text': (2,)}
    """
    words = [_WORD.findall(text) for text in texts]
    for i, found in enumerate(words):
        if not found:
            raise BadInput(f"text {i} is empty: there is nothing that could be read of it.")
    known = sorted({word for found in words for word in found})
    number = {word: i for i, word in enumerate(known)}
    task = Task(
        name="texts",
        tokens=[np.array([number[word] for word in found]) for found in words],
        positions=[np.array([len(found) - 1]) for found in words],
        group=np.arange(len(words)),
        domain=np.full(len(words), "all"),
        behaviours=(),
    )
    return surface_features(task, len(known), decode=lambda ids: "".join(known[i] for i in ids))


def _texts(task: Task, decode: Decode) -> NDArray[np.object_]:
    out = np.empty(len(task.row_position), dtype=object)
    for row, (i, at) in enumerate(zip(task.row_example, task.row_position, strict=True)):
        out[row] = decode(np.asarray(task.tokens[i], np.int64)[max(0, int(at) + 1 - _N_DECODED) : int(at) + 1])
    return out


def _flat(task: Task) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(t, np.int64) for t in task.tokens])


def _places(task: Task, like: Task) -> dict[str, NDArray[np.float32]]:
    longest = int(like.row_position.max()) + 1
    position = np.minimum(task.row_position.astype(np.int64), longest - 1)
    seen = np.stack([(position + 1) / longest, np.log1p(position) / max(1.0, np.log(longest))], 1)
    where = np.eye(longest)[position] if longest <= _MAX_POSITIONS else np.stack([position, np.log1p(position)], 1)
    return {"position": where.astype(np.float32), "length": seen.astype(np.float32)}


def _last_tokens(task: Task, d_vocab: int) -> NDArray[np.float32]:
    position, example, flat = task.row_position.astype(np.int64), task.row_example, _flat(task)
    width = d_vocab if d_vocab <= _MAX_VOCAB else _N_HASHED
    starts = np.concatenate([[0], np.cumsum([len(t) for t in task.tokens])])
    last = np.zeros((len(position), _N_LAST * width), np.float32)
    for back in range(_N_LAST):
        rows = np.flatnonzero(position >= back)
        token = flat[starts[example[rows]] + position[rows] - back]
        # Fibonacci hashing: neighbours in the vocabulary, often variants of one word, fall far apart
        column = token if width == d_vocab else (token * 2654435769 % 2**32) >> 24
        last[rows, back * width + column] = 1
    return last


def _bag(task: Task, like: Task, d_vocab: int) -> NDArray[np.float32]:
    counts = np.bincount(_flat(like), minlength=d_vocab)
    top = np.sort(np.argsort(-counts, kind="stable")[: min(_N_BAG, int((counts > 0).sum()))])
    place = np.full(d_vocab, -1)
    place[top] = np.arange(len(top))
    bag = np.zeros((len(task.row_position), len(top)), np.float32)
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
    return bag


def _embedding(task: Task, like: Task, embed: Embed) -> NDArray[np.float32]:
    """[n_rows, 2 r]; each half has a mean squared norm of about 1 over the tokens of `like`."""
    known, counts = np.unique(_flat(like), return_counts=True)
    mean, directions = _principal(known, counts / counts.sum(), embed)
    used = np.unique(_flat(task))
    table = np.concatenate([(embed(part) - mean) @ directions for part in _parts(used)])
    at_home = (
        np.concatenate([(embed(part) - mean) @ directions for part in _parts(known)]) if like is not task else table
    )
    table /= np.sqrt(np.average((at_home**2).sum(1), weights=counts)) or 1.0
    r = directions.shape[1]
    out = np.empty((len(task.row_position), 2 * r), np.float32)
    row = 0
    for tokens, positions in zip(task.tokens, task.positions, strict=True):
        seen = table[np.searchsorted(used, tokens)]
        out[row : row + len(positions), :r] = (np.cumsum(seen, 0) / np.arange(1, len(seen) + 1)[:, None])[positions]
        out[row : row + len(positions), r:] = seen[positions]
        row += len(positions)
    return out


def _principal(
    tokens: NDArray[np.int64], weight: NDArray[np.float64], embed: Embed
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted mean [d] of the tokens' embeddings and their leading directions [d, r], by subspace iteration.

    A few thousand embeddings are held at a time; d x d numbers never are.
    """
    shares = np.split(weight, range(_AT_ONCE, len(weight), _AT_ONCE))
    mean = sum(share @ embed(part) for part, share in zip(_parts(tokens), shares, strict=True))
    mean = np.asarray(mean, np.float32)
    if len(mean) <= _N_EMBEDDING:
        return mean, np.eye(len(mean), dtype=np.float32)

    def covariance_times(q: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = np.zeros_like(q)
        for part, share in zip(_parts(tokens), shares, strict=True):
            centred = (embed(part) - mean).astype(np.float64)
            moved += centred.T @ (share[:, None] * (centred @ q))
        return moved

    q = np.random.default_rng(0).standard_normal((len(mean), min(len(mean), _N_EMBEDDING + 16)))
    for _ in range(_N_SWEEPS):
        q, _ = np.linalg.qr(covariance_times(q))
    _, rotation = np.linalg.eigh(q.T @ covariance_times(q))
    return mean, (q @ rotation[:, ::-1][:, :_N_EMBEDDING]).astype(np.float32)


def _parts(tokens: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(tokens), _AT_ONCE):
        yield tokens[start : start + _AT_ONCE]
