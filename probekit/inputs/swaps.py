"""Swaps: texts that differ from those of a task in one field, made of the task's own columns."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, nearest
from probekit.inputs.filetask import read_rows, task_of
from probekit.inputs.prompts import templates
from probekit.inputs.text import Encoder
from probekit.spec import TaskSpec
from probekit.task import Task


def swapped_task(spec: TaskSpec, base: Path, encoder: Encoder | None, column: str, pairs: NDArray[np.int64]) -> Task:
    """The task whose example i is example pairs[i, 0], with what example pairs[i, 1] has in a column of the file.

    pairs [m, 2]. It is read, and answers, by the same rules; each example is a group of its own. Raises BadInput.
    """
    check_swap(spec, column)
    bare = {"domain": None, "id": None, "features": ()}
    columns = read_rows(spec, base).swapped(column, pairs[:, 0].tolist(), pairs[:, 1].tolist())
    return task_of(spec.model_copy(update=bare), columns, encoder, split=False)


def check_swap(spec: TaskSpec, column: str) -> None:
    """Raise BadInput for a column that is no field of the text, so that nothing would change."""
    fields = list(dict.fromkeys(name for template in templates(spec) for name in template.fields))
    if column not in fields:
        near = nearest(column, fields)
        hint = f" Did you mean '{near}'?" if near else ""
        said = ", ".join(fields) or "none: it comes from a `template` or `chat`"
        raise BadInput(f"swap names '{column}', which is no field of the text.{hint} Its fields are {said}.")
