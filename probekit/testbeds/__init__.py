"""Bundled models and tasks whose answer is known, or at least can be known: each is a model, a task and its truths."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from probekit.errors import BadInput, unknown
from probekit.inputs.folders import bundled_folder

if TYPE_CHECKING:
    from probekit.levels import Hypothesis
    from probekit.model.model import Model
    from probekit.task import Task

log = logging.getLogger(__name__)

NAMES = ("othello-6x6", *(f"tiny-world-{size}" for size in "sml" if bundled_folder(f"tiny-world-{size}")))

TINY_WORLD = "tiny-world-"


def described(name: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Kinds of a bundled task's behaviours by name, and names of its features, without making it."""
    check_name(name)
    if name.startswith(TINY_WORLD):
        kinds = {"answer": "law", "truth": "label", "belief": "label"}
        return kinds, ("truth", "belief", "family", "subject")
    return {"next_move_law": "law", "edge_mass": "groups"}, ("mine_yours", "black_white")


def trainer_of(name: str) -> ModuleType:
    """The module with the recipe of a bundled model and its training, by the name of either."""
    from probekit.testbeds.othello import train as othello
    from probekit.testbeds.tinyworld import train as tinyworld

    return tinyworld if name.startswith(TINY_WORLD) else othello


@dataclass(frozen=True)
class Bundled:
    """A testbed's task and the hypotheses that are stated about it."""

    task: "Task"
    hypotheses: tuple["Hypothesis", ...]


def check_name(name: str) -> None:
    """Raise BadInput, naming the nearest, for a testbed that is not bundled."""
    if name not in NAMES:
        raise unknown("testbed", name, NAMES, "Bundled:")


def load_testbed(name: str, n_examples: int | None = None, n_positions: int | None = None, seed: int = 0) -> Bundled:
    """Generate a bundled task. n_examples per domain (the seen domain gets twice that), n_positions per example."""
    check_name(name)
    if name.startswith(TINY_WORLD):
        from probekit.testbeds.tinyworld.task import hypotheses, tinyworld_task

        made = tinyworld_task(name.removeprefix(TINY_WORLD), n_examples or 1_500, n_positions or 3, seed)
        return Bundled(made, hypotheses())
    from probekit.testbeds.othello.task import hypothesis, othello_task

    size = int(name.rsplit("x", 1)[1])
    return Bundled(othello_task(size, n_examples or 2_000, n_positions or 5, seed), (hypothesis(size),))


def load_task(source: str | Path, *, model: "Model | None" = None, seed: int = 0, **columns) -> "Task":
    """A bundled task by name (`n_examples=`, `n_positions=`), or a file of rows.

    For a file, `columns` are the keys of a spec's [task] table: text, template, chat, messages, pair or tokens, group,
    domain, position, missing, behaviours (or "sampled:200"), features (docs/spec.md). model: whose tokenizer, BOS
    policy and context length the text is for. seed: of a bundled task. Raises BadInput in one sentence, with the row
    where there is one.

    >>> import probekit as pk
    >>> label = {"name": "ahead", "kind": "label", "column": "ahead"}
    >>> task = pk.load_task("games.csv", tokens="moves", group="game", behaviours=[label])
    >>> len(task.tokens) == len(task.group) > 20
    True
    """
    if str(source) in NAMES:
        return load_testbed(str(source), seed=seed, **columns).task
    from probekit.inputs.filetask import read_file_task
    from probekit.spec import TaskSpec, validate

    path = Path(source)
    if not path.suffix:
        known = ", ".join(NAMES)
        raise BadInput(
            f"no task '{source}': give a CSV, TSV, JSON, JSONL or Parquet file, or a bundled testbed ({known})."
        )
    spec = validate(TaskSpec, {"file": path.name, **columns}, "load_task")
    if model is None and spec.tokens is None:
        raise BadInput(f"`{spec.source}` makes text, which a model's tokenizer reads: give model= or a tokens= column.")
    encoder = None if model is None or model.tokenizer is None else model.encoder
    task = read_file_task(spec, path.parent, encoder)
    if spec.sampled is not None:
        from probekit.model.sampled import with_sampled

        if model is None:
            raise BadInput(f"{spec.sampled.n} behaviours are to be sampled of what a model does: give model=.")
        task = with_sampled(task, model, spec.sampled.n, spec.sampled.seed, spec.sampled.size)
    for said in task.audit["told"]:
        log.warning("%s: %s", path, said)
    return task
