"""Spans: a task with a named stretch of its text taken away, to ask whether a reader only ever read that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.task import Task


def delete_span(task: Task, span: str, filler: int | None = None) -> Task:
    """The task without the tokens of every stretch called `span`, or with the token `filler` in place of each of them.

    span: a name of `task.spans` such as `field:tag`, or what stands behind its colon where only one has it. Positions
    move with their tokens; of several rules of positions, those that read the span are left out. Raises BadInput where
    nothing would be deleted, or what is read by every rule.

    >>> import numpy as np
    >>> import probekit as pk
    >>> texts, last = [np.array([8, 3, 1, 4]), np.array([8, 1, 5])], [np.array([3]), np.array([2])]
    >>> tag = {"field:tag": [np.array([[0, 1]]), np.array([[0, 1]])]}
    >>> group, domain = np.arange(2), np.array(["all", "all"])
    >>> task = pk.Task("tagged", texts, last, group, domain, (pk.BehaviourSpec("next"),), spans=tag)
    >>> pk.delete_span(task, "tag").tokens
    [array([3, 1, 4]), array([1, 5])]
    """
    name = find_span(task.spans, span)
    gone = [_covered(len(tokens), spans) for tokens, spans in zip(task.tokens, task.spans[name], strict=True)]
    n_deleted = int(sum(mask.sum() for mask in gone))
    if not n_deleted:
        raise BadInput(f"the span '{name}' is empty in every row of task '{task.name}': there is nothing to delete.")
    if task.answer is not None and any(mask[at] for mask, at in zip(gone, task.answer, strict=True)):
        raise BadInput(
            f"the model's answers in task '{task.name}' are read at a token of '{name}': it cannot be deleted."
        )
    lost = np.concatenate([mask[positions] for mask, positions in zip(gone, task.positions, strict=True)])
    if lost.any():
        left = [rule for rule, rows in task.rules.items() if not lost[rows].any()]
        if left:
            return delete_span(task.at(*left), name, filler)
        row = int(lost.argmax())
        raise BadInput(
            f"task '{task.name}' is read at token {task.row_position[row]} of its example {task.row_example[row] + 1}, "
            f"which belongs to '{name}': read it elsewhere, behind what is deleted."
        )
    audit = {
        "span": name, "filler": filler, "n_tokens_deleted": n_deleted,
        "n_examples_changed": int(sum(mask.any() for mask in gone)),
    }  # fmt: skip
    made = replace(task, name=f"{task.name} without {name}", audit={**task.audit, "deleted": audit}, spans={})
    if filler is not None:
        return replace(made, tokens=[np.where(mask, filler, t) for t, mask in zip(task.tokens, gone, strict=True)])
    tokens = [np.asarray(t)[~mask] for t, mask in zip(task.tokens, gone, strict=True)]
    moved = [np.asarray(p) - np.cumsum(mask)[p] for p, mask in zip(task.positions, gone, strict=True)]
    if task.answer is not None:
        made = replace(made, answer=np.array([at - np.cumsum(m)[at] for at, m in zip(task.answer, gone, strict=True)]))
    return replace(made, tokens=tokens, positions=moved)


def find_span(spans: Mapping[str, Sequence[NDArray[np.int64]]], name: str) -> str:
    """A span by its full name, or by what stands behind the colon; raises BadInput, naming those that there are."""
    found = [name] if name in spans else [known for known in spans if known.partition(":")[2] == name]
    if len(found) != 1:
        known = ", ".join(spans) or "none: they come from templates, chats and `spans`"
        what = "several" if found else "no"
        raise BadInput(f"there is {what} span '{name}' in the task; its spans are {known}.")
    return found[0]


def _covered(n_tokens: int, spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(n_tokens, dtype=np.bool_)
    for start, stop in spans:
        mask[start:stop] = True
    return mask
