"""Continuation: what a model writes after each place that is read, counted by rules and kept in the store."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.keys import places_of_answers
from probekit.errors import BadInput, FitError
from probekit.model.generation import WhileWriting, generate, manner
from probekit.model.model import Model
from probekit.model.reading import batches, halving
from probekit.records import digest
from probekit.storage.shards import Shape
from probekit.storage.store import row_ranges
from probekit.task import Behaviour, BehaviourSpec, Generation, Task

SHARD_ROWS = 1024  # at most this much writing is lost by an interruption


def stored_as(generation: Generation, model: Model, backend: str = "bridge", task: Task | None = None) -> str:
    """Name in the store: the digest of everything beside the activations' key that decides what is counted.

    The key names the backend too; but below a key of `hf` there is also what was once written through the bridge.
    """
    match = [[name, list(rule) if isinstance(rule, tuple) else rule] for name, rule in generation.match]
    drawn = [generation.samples, generation.temperature, generation.seed] if generation.samples else None
    asked = {"kind": "generation", "match": match, "n_tokens": generation.n_tokens, "drawn": drawn}
    behind = {} if task is None or task.answer is None else {"behind": places_of_answers(task)}
    written = {} if backend == "bridge" else {"written": backend}
    return "behaviour." + digest(asked | behind | written | {"tokenizer": model.encoder.fingerprint})


def continuation(
    model: Model, task: Task, spec: BehaviourSpec, store: Any, key: str, description: Mapping[str, Any], rows: Tensor,
    backend: str = "bridge", batch_tokens: int = 4096, progress: Callable[[int, int], None] | None = None,
) -> Behaviour:  # fmt: skip
    """The share of a row's continuations that each outcome has: one-hot for the likeliest one.

    store, key, description, rows: where `capture` keeps what it finds. backend: the forward that writes, the key's.
    Raises BadInput for a row that leaves no room to write.
    """
    made = spec.generation
    if made is None:
        raise BadInput(f"behaviour '{spec.name}' of kind generation needs `generation`: rules and a number of tokens.")
    lengths = task.row_answer + 1
    if len(lengths) and lengths.max() + made.n_tokens - 1 > model.n_ctx:
        raise BadInput(
            f"behaviour '{spec.name}' writes {made.n_tokens} tokens after up to {int(lengths.max())} and {model.name} "
            f"reads {model.n_ctx}: ask for fewer, or shorten the texts."
        )
    name, shape = stored_as(made, model, backend, task), Shape(len(made.outcomes))
    if name not in store.names(key):
        group = store.group(key, dict(description), {name: shape}, row_ranges(len(rows), {name: shape}, SHARD_ROWS))
        for start, stop in group.missing():
            law = written_law(model, task, made, np.arange(start, stop), batch_tokens, backend)
            with group.shard(start, stop) as stream:
                stream.put(start, {name: torch.from_numpy(law)}, rows[start:stop])
            if progress:
                progress(stop, len(rows))
        group.seal()
    return Behaviour(spec.name, store.read(key, name).numpy(), made.outcomes)


def written_law(
    model: Model, task: Task, made: Generation, rows: NDArray[np.int64], batch_tokens: int = 4096,
    backend: str = "bridge", edited: Callable[[NDArray[np.int64]], WhileWriting] | None = None,
    hooks: Sequence[str] = (),
) -> NDArray[np.float32]:  # fmt: skip
    """The share of what is written behind the answer of each of these rows that counts as each outcome: [n, outcome].

    edited: of places in `rows` that are written together what is done meanwhile, at `hooks`. A row has the draws of its
    number, edited or not. Raises BadInput, or FitError of an edited text, where a single one does not fit in memory.
    """
    example, position = task.row_example[rows], task.row_answer[rows]
    law = np.zeros((len(rows), len(made.outcomes)), np.float32)
    # Without padding rows of one length go together, the longest first.
    length = np.zeros_like(position) if manner(model, backend, hooks).padded else position
    alike = [np.flatnonzero(length == at) for at in np.unique(length)[::-1]]
    size = (position + 1 + made.n_tokens) * max(1, made.samples)
    waiting = [part[i].tolist() for part in alike for i in batches(size[part], batch_tokens)]

    def run(batch: Sequence[int]) -> Tensor:
        tokens = [task.tokens[int(example[i])][: int(position[i]) + 1] for i in batch]
        # A generator per row: what is drawn does not depend on the rows beside it.
        draws = [np.random.default_rng([made.seed, int(rows[i])]).random((made.samples, made.n_tokens)) for i in batch]
        given = torch.from_numpy(np.stack(draws)) if made.samples else None
        while_writing = None if edited is None else edited(np.array(batch, dtype=np.int64))
        return generate(model, tokens, made.n_tokens, given, made.temperature, backend, while_writing)

    def alone(i: int) -> str:
        return (f"writing after one example of {int(position[i]) + 1} tokens, {max(1, made.samples)} times at once: "
                "shorten it, or ask for fewer samples.")  # fmt: skip

    for batch, written in halving(waiting, run, alone, BadInput if edited is None else FitError):
        for i, samples in zip(batch, written.tolist(), strict=True):
            for ids in samples:
                text = model.tokenizer.decode(ids, skip_special_tokens=True)
                law[i, made.outcome(text)] += 1 / len(samples)
    return law
