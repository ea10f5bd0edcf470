"""Scoring: log-probabilities that a model gives to whole texts, and to answers behind them, kept in the store.

One forward per text or answer, of which only the logits of the scored positions are asked for, and a bounded number of
them at a time. An example has one value, which is stored at each of its rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.keys import digest_rows
from probekit.activations.laws import ENTRIES_AT_ONCE
from probekit.activations.passes import Progress, Steps, ranges_by_example
from probekit.errors import BadInput
from probekit.model.model import Model
from probekit.model.reading import halving, pad_right
from probekit.records import digest
from probekit.storage.shards import Range, Shape
from probekit.task import Behaviour, BehaviourSpec, Scoring, Task

SHARD_ROWS = 1024  # at most this much scoring is lost by an interruption
MOST_LOGITS = 2**24, 2**27  # entries that one forward gives, on a CPU and on an accelerator


@dataclass(frozen=True)
class _Piece:
    """What is run: ids [n], of which those from `start` on are each followed by one of `targets` [n - start]."""

    ids: NDArray[np.int64]
    start: int
    targets: NDArray[np.int64]


def stored_as(scoring: Scoring) -> str:
    """Name in the store. Sums are stored, so that means over tokens and differences share the rows."""
    answers = scoring.answers
    texts = None if answers is None else [digest_rows(row) for row in answers]
    return "behaviour." + digest({"kind": "scoring", "answers": texts})


def check_scoring(model: Model, task: Task, spec: BehaviourSpec) -> Scoring:
    """What a behaviour asks to be scored. Raises BadInput where it cannot be."""
    scoring, where = spec.scored, f"behaviour '{spec.name}' ({spec.kind})"
    n, counts = len(task.tokens), [len(positions) for positions in task.positions]
    if scoring.minus is not None:
        minus = np.asarray(scoring.minus)
        if minus.shape != (n,) or minus.min() < 0 or minus.max() >= n or not min(np.asarray(counts)[minus]):
            raise BadInput(f"{where} takes off the value of another example for each of its {n}, one that is read.")
    if scoring.answers is None:
        if spec.kind != "logprob":
            raise BadInput(f"{where} needs `answers` for each example.")
        short = next((i for i, tokens in enumerate(task.tokens) if len(tokens) < 2), None)
        if short is not None:
            raise BadInput(
                f"{where}: example {short} has one token, and a text is scored from its second one on: drop it, or put "
                "a BOS in front."
            )
        return scoring
    k = {len(row) for row in scoring.answers}
    fits = {"logprob": k == {1}, "logit_diff": k == {2}, "value": k == {2}, "choice": len(k) == 1 and min(k) >= 2}
    if len(scoring.answers) != n or not fits.get(spec.kind, False):
        raise BadInput(f"{where} has {len(scoring.answers)} rows of {sorted(k)} answers for {n} examples.")
    if len(spec.outcomes or ()) not in (0, *k) and spec.kind != "logprob":
        raise BadInput(f"{where} has {max(k)} answers and {len(spec.outcomes or ())} names for them.")
    for i, (tokens, answers) in enumerate(zip(task.tokens, scoring.answers, strict=True)):
        for answer in answers:
            if not len(answer) or answer.min() < 0 or answer.max() >= model.d_vocab:
                raise BadInput(f"{where}: an answer of example {i} is no token ids of {model.name}.")
            if len(tokens) + len(answer) - 1 > model.n_ctx:
                raise BadInput(
                    f"{where}: example {i} has {len(tokens)} tokens and an answer of {len(answer)} behind them, and "
                    f"{model.name} reads {model.n_ctx}: shorten it."
                )
    return scoring


def scored(
    model: Model, task: Task, spec: BehaviourSpec, store: Any, key: str, description: Mapping[str, Any], rows: Tensor,
    backend: str = "bridge", batch_tokens: int = 4096, progress: Progress | None = None,
) -> Behaviour:  # fmt: skip
    """Of kind logprob a number, in nats; of value the first answer's less the second's; of choice and logit_diff the
    law among answers that are whole texts.

    spec: one that `check_scoring` passed. store, key, description, rows: where `capture` keeps what it finds. backend:
    the forward that scores, the key's. Raises BadInput for logits that are not finite.
    """
    scoring = spec.scored
    name, k = stored_as(scoring), 1 if scoring.answers is None else len(scoring.answers[0])
    shape = {name: Shape(k + 1)}
    if name not in store.names(key):
        example = task.row_example
        group = store.group(key, dict(description), shape, ranges_by_example(example, shape, SHARD_ROWS))
        open_ranges, steps = group.missing(), Steps(progress)

        def pieces(span: Range) -> list[_Piece]:
            return [p for i in np.unique(example[slice(*span)]).tolist() for p in _pieces(task, scoring, i)]

        steps.expect((1, len(piece.ids)) for span in open_ranges for piece in pieces(span))
        for start, stop in open_ranges:
            place = np.unique(example[start:stop], return_inverse=True)[1]
            found = _score(model, pieces((start, stop)), backend, batch_tokens, steps)
            table = np.concatenate([found[:, 0].reshape(-1, k), found[::k, 1:]], 1)[place]
            with group.shard(start, stop) as stream:
                stream.put(start, {name: torch.from_numpy(table.astype(np.float32))}, rows[start:stop])
        group.seal()
    return _behaviour(model, task, spec, scoring, store.read(key, name).double().numpy())


def _behaviour(
    model: Model, task: Task, spec: BehaviourSpec, scoring: Scoring, table: NDArray[np.float64]
) -> Behaviour:
    """table [n_rows, k + 1]: sums of log-probabilities, and the token that is likeliest where they begin."""
    example, sums = task.row_example, table[:, :-1]
    answers = scoring.answers
    sizes = [[len(a) for a in row] for row in answers] if answers is not None else [[len(t) - 1] for t in task.tokens]
    values = sums / np.array(sizes)[example] if scoring.per_token else sums
    if spec.kind == "logprob":
        if scoring.minus is not None:
            first = np.searchsorted(example, np.arange(len(task.tokens)))
            values = values - values[first[scoring.minus]][example]
        return Behaviour.number(spec.name, values[:, 0])
    if spec.kind == "value":
        return Behaviour.number(spec.name, values[:, 0] - values[:, 1])
    assert answers is not None
    law = np.exp(values - values.max(1, keepdims=True))
    # An answer that goes on from another one is part of it: its mass would be counted twice.
    apart = np.array([[not any(_begins(other, a) for other in row) for a in row] for row in answers])
    mass = (np.exp(sums) * apart[example]).sum(1)
    token = int(torch.from_numpy(table[:, -1]).long().mode().values)
    names = spec.outcomes or tuple(f"answer {i + 1}" for i in range(sums.shape[1]))
    return Behaviour(spec.name, (law / law.sum(1, keepdims=True)).astype(np.float32), tuple(names), float(mass.mean()),
                     model.token_names([token])[0])  # fmt: skip


def _begins(short: NDArray[np.int64], long: NDArray[np.int64]) -> bool:
    return len(short) < len(long) and np.array_equal(short, long[: len(short)])


def _pieces(task: Task, scoring: Scoring, i: int) -> list[_Piece]:
    """One for each answer of an example; the last token of a text is scored and not read."""
    tokens = np.asarray(task.tokens[i], np.int64)
    if scoring.answers is None:
        return [_Piece(tokens[:-1], 0, tokens[1:])]
    return [_Piece(np.concatenate([tokens, answer[:-1]]), len(tokens) - 1, answer) for answer in scoring.answers[i]]


def _score(
    model: Model, pieces: Sequence[_Piece], backend: str, batch_tokens: int, steps: Steps
) -> NDArray[np.float64]:
    """[n, 2]: the sum of each piece's log-probabilities and the likeliest token at its start."""
    out = np.empty((len(pieces), 2))
    most = MOST_LOGITS[model.device.type != "cpu"] // model.d_vocab

    def run(batch: Sequence[int]) -> NDArray[np.float64]:
        return _run(model, [pieces[i] for i in batch], backend, max(1, most // len(batch)))

    def alone(i: int) -> str:
        return f"one text of {len(pieces[i].ids)} tokens is scored: shorten it."

    for batch, found in halving(_batches(pieces, batch_tokens, most), run, alone):
        out[batch] = found
        steps.add(len(batch), sum(len(pieces[i].ids) for i in batch))
    return out


def _batches(pieces: Sequence[_Piece], batch_tokens: int, most: int) -> list[list[int]]:
    """Pieces of similar length, longest first: up to `batch_tokens` tokens, and `most` positions that give logits."""
    batches: list[list[int]] = []
    longest = first = 0
    for i in sorted(range(len(pieces)), key=lambda i: (-len(pieces[i].ids), -pieces[i].start)):
        start, n = pieces[i].start, len(batches[-1]) + 1 if batches else 0
        if batches and n * longest <= batch_tokens and n * (longest - min(first, start)) <= most:
            batches[-1].append(i)
            first = min(first, start)
        else:
            batches.append([i])
            longest, first = len(pieces[i].ids), start
    return batches


def _run(model: Model, pieces: Sequence[_Piece], backend: str, n_columns: int) -> NDArray[np.float64]:
    """`_score` of one batch, `n_columns` positions of all its rows at a time: a long text takes several forwards."""
    ids, mask = pad_right(model, [piece.ids for piece in pieces])
    out = np.zeros((len(pieces), 2))
    for columns in torch.arange(min(piece.start for piece in pieces), ids.shape[1]).split(n_columns):
        first, stop = int(columns[0]), int(columns[-1]) + 1
        with model.hooked({}, backend):
            logits = model.forward(ids, mask, columns.to(ids.device), backend=backend)
            for i, piece in enumerate(pieces):
                a, b = max(first, piece.start), min(stop, len(piece.ids))
                if a >= b:
                    continue
                targets = torch.from_numpy(piece.targets[a - piece.start : b - piece.start]).to(logits.device)
                out[i, 0] += _summed(logits[i, a - first : b - first], targets)
                if a == piece.start:
                    out[i, 1] = int(logits[i, a - first].argmax())
        if not np.isfinite(out[:, 0]).all():
            raise BadInput(f"{model.name} gives logits that are not finite while it scores: use another dtype.")
    return out


def _summed(logits: Tensor, targets: Tensor) -> float:
    """Sum of the log-probabilities of `targets` [n] by logits [n, d_vocab], in float32 and a few rows at a time."""
    total = 0.0
    size = max(1, ENTRIES_AT_ONCE // logits.shape[1])
    for part, wanted in zip(logits.split(size), targets.split(size), strict=True):
        part = part.float()
        found = part.gather(1, wanted[:, None])[:, 0] - torch.logsumexp(part, 1)
        total += float(found.double().sum())
    return total
