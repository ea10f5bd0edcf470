"""Statistics of a model's activations in one pass that keeps none of them, for what needs sums over rows alone.

Nothing is written: means, covariances and cross-moments with targets are all that is held, whatever the number of rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.fit.moments import Accumulator, Moments
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


def _targets(task: Task, labels: str | NDArray) -> Float[Tensor, "n t"]:
    """One-hot targets of classes, or numbers as they are."""
    if not isinstance(labels, str):
        given = np.asarray(labels)
        if given.ndim == 1 and given.dtype.kind in "iub" and len(given) and int(given.min()) >= 0:
            return torch.nn.functional.one_hot(torch.from_numpy(given.astype(np.int64))).double()
        if given.ndim == 2 and given.dtype.kind in "fiub":
            return torch.from_numpy(given.astype(np.float64))
        raise BadInput(
            f"labels are class numbers [n] or numbers [n, n_targets]; found {given.dtype} of shape {given.shape}."
        )
    if labels in task.labels:
        return torch.from_numpy(task.labels[labels].law).double()
    feature = task.features.get(labels)
    if feature is not None and feature.labels.shape[1] == 1:
        return torch.nn.functional.one_hot(torch.from_numpy(feature.labels[:, 0]), len(feature.classes)).double()
    known = ", ".join([*task.labels, *(f.name for f in task.features.values() if f.labels.shape[1] == 1)])
    raise BadInput(f"task '{task.name}' has no label or feature of one target '{labels}'; it has {known or 'none'}.")
