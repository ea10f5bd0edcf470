"""Statistics of a model's activations in one pass that keeps none of them, for what needs sums over rows alone.

Nothing is written: means, covariances and cross-moments with targets are all that is held, whatever the number of rows.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations, Sites
from probekit.errors import BadInput
from probekit.fit.moments import BLOCK, Accumulator, Moments
from probekit.hookpoint import HookPoint
from probekit.model.audit import choose_backend
from probekit.model.model import Model
from probekit.model.reading import Batch, most_tokens
from probekit.task import Task


def stream_statistics(
    model: Model,
    task: Task,
    hooks: str | HookPoint | Sequence[str | HookPoint],
    labels: str | NDArray,
    *,
    rows: NDArray[np.bool_] | None = None,
    batch_tokens: int = 4096,
    backend: str = "auto",
) -> dict[str, Moments]:
    """Moments of each hook point's activations with the labels, hook points in forward order, in one pass.

    From them `mean_difference`, `lda`, `ridge` and `leace` follow. labels: the name of a label or of a feature of one
    target in the task; or a class number, or a row of numbers, for each of the task's rows. Classes become one-hot
    targets. rows: those to use, such as the fit side of a split; all when None. Memory holds (width + targets)^2
    numbers per hook point beside the model, however many rows there are. Raises UnknownHook, and BadInput for labels
    that do not fit. Erasers are those of Belrose et al. 2023 (LEACE).

    >>> import numpy as np
    >>> import probekit as pk
    >>> model, task = pk.load_model("othello-6x6"), pk.load_task("othello-6x6", n_examples=8, n_positions=2)
    >>> even = task.row_position % 2
    >>> found = pk.stream_statistics(model, task, "blocks.0.hook_resid_post", even)
    >>> found["blocks.0.hook_resid_post"].mean_difference().shape
    torch.Size([128, 2])
    """
    names = [hook.name for hook in model.hooks(hooks)]
    y = _targets(task, labels)
    n = sum(map(len, task.positions))
    used = np.ones(n, dtype=bool) if rows is None else np.asarray(rows)
    if len(y) != n or used.shape != (n,) or used.dtype != bool:
        raise BadInput(
            f"task '{task.name}' has {n} rows; found {len(y)} labels and rows of shape {used.shape}, {used.dtype}."
        )
    sums = {name: Accumulator() for name in names}

    def each(batch: Batch) -> None:
        at = np.flatnonzero(used[batch.rows])
        targets = y[torch.from_numpy(batch.rows[at])]
        parts = {name: Accumulator() for name in names}
        for name, part in parts.items():
            part.update(batch.values[name][torch.from_numpy(at)], targets)
        for name, part in parts.items():  # all or nothing: a batch that memory has no room for is done again
            sums[name].merge(part)

    chosen = choose_backend(model, backend, names, task.tokens).name
    most = most_tokens(model, batch_tokens)
    model.stream(task.tokens, names, task.positions, each, batch_tokens=most, backend=chosen)
    return {name: found.moments() for name, found in sums.items()}


def row_statistics(
    rows: Activations | NDArray | Mapping[str, NDArray], labels: NDArray, *, used: NDArray[np.bool_] | None = None
) -> dict[str, Moments]:
    """Moments of rows that are on disk, with labels, however many there are: memory holds a block of them at a time.

    rows: what `capture` returned; or an array [n, d], such as `np.load(file, mmap_mode="r")`, or several by name.
    labels: a class number, or a row of numbers, for each row. used [n]: those to take, such as the fit side of a split.
    From what is returned `mean_difference`, `lda`, `ridge` and `leace` follow; other readers need several passes over
    rows in memory (`measure`). The array alone is named `rows`. Raises BadInput for lengths that differ.

    >>> import numpy as np
    >>> import probekit as pk
    >>> x = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    >>> found = pk.row_statistics(x, (x[:, 1] > 0).astype(int))["rows"]
    >>> found.n, int(found.mean_difference()[:, 1].argmax())
    (500, 1)
    """
    y = _given_targets(labels)
    take = np.ones(len(y), dtype=bool) if used is None else np.asarray(used)
    named = rows if isinstance(rows, Mapping) else {"rows": rows} if isinstance(rows, np.ndarray) else rows.sites
    out = {}
    for name in named:
        sums, start = Accumulator(), 0
        for block in _blocks(named, name, len(y)):
            stop = start + len(block)
            if stop > len(y) or len(take) != len(y):
                break
            kept = torch.from_numpy(np.flatnonzero(take[start:stop]))
            sums.update(block[kept], y[start:stop][kept])
            start = stop
        if start != len(y) or len(take) != len(y):
            raise BadInput(f"'{name}' has other rows than the {len(y)} labels and {len(take)} marks of those to use.")
        out[name] = sums.moments()
    return out


def _blocks(named: Mapping[str, Any], name: str, n: int) -> Iterator[Tensor]:
    """Rows of one array, a block at a time; of a file that is mapped, pages that were read are let go of."""
    if isinstance(named, Sites):
        yield from named.blocks(name, n, BLOCK)
        return
    array = named[name]
    for start in range(0, len(array), BLOCK):
        part = array[start : start + BLOCK]
        yield part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
        mapped = getattr(array, "base", None)
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)


def _targets(task: Task, labels: str | NDArray) -> Float[Tensor, "n t"]:
    """One-hot targets of classes, or numbers as they are."""
    if not isinstance(labels, str):
        return _given_targets(labels)
    if labels in task.labels:
        return torch.from_numpy(task.labels[labels].law).double()
    feature = task.features.get(labels)
    if feature is not None and feature.labels.shape[1] == 1:
        return torch.nn.functional.one_hot(torch.from_numpy(feature.labels[:, 0]), len(feature.classes)).double()
    known = ", ".join([*task.labels, *(f.name for f in task.features.values() if f.labels.shape[1] == 1)])
    raise BadInput(f"task '{task.name}' has no label or feature of one target '{labels}'; it has {known or 'none'}.")


def _given_targets(labels: NDArray) -> Float[Tensor, "n t"]:
    given = np.asarray(labels)
    if given.ndim == 1 and given.dtype.kind in "iub" and len(given) and int(given.min()) >= 0:
        return torch.nn.functional.one_hot(torch.from_numpy(given.astype(np.int64))).double()
    if given.ndim == 2 and given.dtype.kind in "fiub":
        return torch.from_numpy(given.astype(np.float64))
    raise BadInput(
        f"labels are class numbers [n] or numbers [n, n_targets]; found {given.dtype} of shape {given.shape}."
    )
