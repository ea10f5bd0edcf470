"""Reading: examples in batches of similar length, rows gathered inside the hooks, halved where memory runs out."""

import gc
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, ProbekitError

if TYPE_CHECKING:
    from probekit.model.model import Model

Room = Callable[[int], Mapping[str, Tensor]]
Skip = Callable[[NDArray[np.int64], int], bool]
T = TypeVar("T")
Some = TypeVar("Some", Sequence[int], NDArray[np.int64])
OnLogits = Callable[[Tensor, NDArray[np.int64]], None]

# glibc's malloc keeps freed blocks below 32 MiB for the next tensor. Larger ones go back to the system, and getting new
# pages for every operation takes a fifth of a forward's time. Smaller ones also leave smaller holes between them.
_WIDEST = 12 * 2**20


@dataclass(frozen=True)
class Batch:
    """What one forward gave. rows [n]: places among all rows asked for, ascending. n_tokens: without padding.

    values: hook point -> [n, width] on the CPU, in the buffers that it was gathered into. logits: [n, d_vocab] or None.
    """

    rows: NDArray[np.int64]
    values: dict[str, Tensor]
    logits: Tensor | None
    n_tokens: int


class _Enough(Exception):
    """Raised by the last hook that was waited for: what lies above it need not be computed."""


def stream(
    model: "Model", tokens: Sequence[NDArray[Any]], names: Sequence[str], positions: Sequence[NDArray[Any]],
    each: Callable[[Batch], None], *, with_logits: bool, batch_tokens: int, backend: str, room: Room | None = None,
    skip: Skip | None = None, answer: NDArray[np.int64] | None = None,
) -> int:  # fmt: skip
    """Call `each` with every batch, longest examples first; returns the tokens per batch that memory had room for.

    answer [n_examples]: the token whose logits its rows get; None: each row those at its own position.
    room: gives buffers [at least n, width] for n rows, when a batch begins; it is asked again when the batch failed.
    skip: asked of each batch's rows and number of tokens; True leaves it out, and the others are what they would be.
    A batch that runs out of memory, in the forward or in `each`, is halved, and so is every later one. Without logits
    the forward ends behind the last hook. Raises BadInput when a single example does not fit, or a value is not finite.
    """
    starts = np.concatenate([[0], np.cumsum([len(p) for p in positions])]).astype(np.int64)
    lengths = np.asarray([len(t) for t in tokens])
    waiting = batches(lengths, batch_tokens)[::-1]
    while waiting:
        examples = waiting.pop()
        failed = False
        rows = np.concatenate([np.arange(*starts[i : i + 2].tolist()) for i in np.sort(examples)])
        if skip is not None and skip(rows, int(lengths[examples].sum())):
            continue
        try:
            some = np.sort(examples)
            each(_run_batch(model, tokens, names, positions, starts, some, with_logits, backend, room, answer))
        except Exception as error:
            if not out_of_memory(error):
                raise
            failed = True
        if failed:  # outside the except block: inside it the traceback keeps the tensors alive
            gc.collect()
            longest = int(lengths[examples[0]])
            if len(examples) == 1:
                raise BadInput(f"out of memory on one example of {longest} tokens: shorten it, or read fewer hooks.")
            # no later example is longer, so none would have fitted a larger batch
            batch_tokens = longest * (len(examples) // 2)
            rest = np.concatenate([examples, *waiting[::-1]])
            waiting = [rest[i] for i in batches(lengths[rest], batch_tokens)[::-1]]
    return batch_tokens


def gather(
    model: "Model", tokens: Sequence[NDArray[Any]], names: Sequence[str], positions: Sequence[NDArray[Any]],
    on_logits: OnLogits | None, batch_tokens: int, backend: str,
) -> dict[str, Float[Tensor, "n_rows width"]]:  # fmt: skip
    """All rows of every hook point, in the order of `positions`: `Model.read`."""
    out = {name: torch.empty(sum(map(len, positions)), model.widths[name], dtype=model.dtype) for name in names}

    def keep(batch: Batch) -> None:
        index = torch.from_numpy(batch.rows)
        for name, values in batch.values.items():
            out[name][index] = values
        if on_logits and batch.logits is not None:
            on_logits(batch.logits, batch.rows)

    stream(model, tokens, names, positions, keep, with_logits=on_logits is not None, batch_tokens=batch_tokens,
           backend=backend)  # fmt: skip
    return out


def check_tokens(model: "Model", tokens: Sequence[NDArray], positions: Sequence[NDArray]) -> None:
    """Raise BadInput for an example that is no row of token ids of this model, or a position outside of it."""
    if not len(tokens) or len(tokens) != len(positions):
        raise BadInput(f"read needs one array of positions per example; found {len(positions)} for {len(tokens)}.")
    for i, (row, places) in enumerate(zip(tokens, positions, strict=True)):
        row, places = np.asarray(row), np.asarray(places)
        if row.ndim != 1 or not 0 < len(row) <= model.n_ctx or row.dtype.kind not in "iu":
            raise BadInput(
                f"example {i} must be 1 to {model.n_ctx} token ids (whole numbers); found {row.dtype} {row.shape}."
            )
        if row.min() < 0 or row.max() >= model.d_vocab:
            raise BadInput(f"example {i} has token id {max(row.max(), -row.min())}; {model.name} knows 0 to "
                           f"{model.d_vocab - 1}.")  # fmt: skip
        if len(places) and (places.min() < 0 or places.max() >= len(row)):
            raise BadInput(f"example {i} has {len(row)} tokens; positions are 0 to {len(row) - 1}, counted "
                           f"from the front; found {int(places.min())} to {int(places.max())}.")  # fmt: skip


def pad_right(model: "Model", rows: Sequence[NDArray[np.integer]]) -> tuple[Tensor, Tensor]:
    """(ids, mask), both [n, longest]."""
    lengths = np.asarray([len(row) for row in rows])
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    ids = np.full(mask.shape, model.pad_token, np.int64)
    ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids).to(model.device), torch.from_numpy(mask.astype(np.int64)).to(model.device)


def _run_batch(model, tokens, names, positions, starts, examples, with_logits, backend, room, answer) -> Batch:
    ids, mask = pad_right(model, [tokens[i] for i in examples])
    counts = [len(positions[i]) for i in examples]
    place = np.concatenate([np.asarray(positions[i], np.int64) for i in examples])
    rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in examples])
    n, length = len(rows), ids.shape[1]
    flat = torch.from_numpy(np.repeat(np.arange(len(examples)) * length, counts) + place).to(model.device)
    buffers = {name: torch.empty(n, model.widths[name], dtype=model.dtype) for name in names} if room is None else (
        room(n))  # fmt: skip
    waited = set(names)

    def gather(name: str) -> Callable[[Tensor], None]:
        def take(output: Tensor) -> None:
            values, out = output.reshape(len(examples) * length, -1), buffers[name][:n]
            if values.device == out.device == flat.device:
                torch.index_select(values, 0, flat, out=out)
            else:
                out.copy_(values[flat.to(values.device)])
            waited.discard(name)
            if not waited and not with_logits:
                raise _Enough

        return take

    # Only the positions that are read get logits: a full [batch, pos, d_vocab] can be gigabytes.
    said = place if answer is None else np.repeat(answer[examples], counts)
    kept, column = np.unique(said, return_inverse=True)
    keep = torch.from_numpy(kept if with_logits else np.zeros(1, np.int64)).to(model.device)
    logits = None
    try:
        with model.hooked({name: gather(name) for name in names}, backend):
            logits = model.forward(ids, mask, keep, backend=backend)
    except _Enough as stopped:  # its frames hold the activations of the batch, and one another
        traceback.clear_frames(stopped.__traceback__)
    values = {name: buffers[name][:n] for name in names}
    for name, found in values.items():
        _refuse_not_finite(found, rows, f"{model.name} gives a value that is not finite at '{name}',")
    if with_logits and logits is not None:
        example = torch.from_numpy(np.repeat(np.arange(len(examples)), counts)).to(logits.device)
        logits = logits[example, torch.from_numpy(column.astype(np.int64)).to(logits.device)].float().cpu()
        _refuse_not_finite(logits, rows, f"{model.name} gives logits that are not finite at")
    return Batch(rows, values, logits if with_logits else None, int(sum(len(tokens[i]) for i in examples)))


def _refuse_not_finite(values: Tensor, rows: NDArray[np.int64], what: str) -> None:
    if torch.isfinite(values.sum()):  # one pass and no copy; a sum that overflows is looked at value by value
        return
    good = torch.isfinite(values).all(1)
    if not good.all():
        raise BadInput(f"{what} row {int(rows[int((~good).nonzero()[0])])}: use another dtype.")


def most_tokens(model: "Model", batch_tokens: int) -> int:
    """Tokens to run at once: `batch_tokens`, on a CPU fewer where the widest activation would take more than 12 MiB."""
    if model.device.type != "cpu":
        return batch_tokens
    return min(batch_tokens, max(1, _WIDEST // (max(model.widths.values()) * model.dtype.itemsize)))


def batches(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Examples grouped longest first, so that memory runs out at once or never; padding counts towards the budget."""
    order = np.argsort(-lengths, kind="stable")
    groups, at = [], 0
    while at < len(order):
        size = max(1, int(budget // max(1, lengths[order[at]])))
        groups.append(order[at : at + size])
        at += size
    return groups


def halving(
    waiting: Sequence[Some], run: Callable[[Some], T], alone: Callable[[int], str],
    error: type[ProbekitError] = BadInput,
) -> Iterator[tuple[Some, T]]:  # fmt: skip
    """Each batch with what `run` gives for it; one that runs out of memory is halved.

    Raises `error` where a single one does not fit. alone: what was done with it, and what to do.
    """
    stack = list(waiting)[::-1]
    while stack:
        batch, found = stack.pop(), None
        try:
            found = run(batch)
        except Exception as problem:
            if not out_of_memory(problem):
                raise
        if found is None:  # outside the except block: inside it the traceback keeps the tensors alive
            gc.collect()
            if len(batch) == 1:
                raise error(f"out of memory while {alone(int(batch[0]))}")
            half = len(batch) // 2
            stack += [batch[half:], batch[:half]]
            continue
        yield batch, found


def out_of_memory(error: Exception) -> bool:
    """Memory runs out in three shapes: torch's own error, numpy's, and a plain RuntimeError of the CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
