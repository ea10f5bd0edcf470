"""Capture: run a model over a task, its activations streaming into the store, its behaviour reduced in the same pass.

Rows follow the task's order exactly. The key is what went into the model, so a second call with the same inputs reads
the store and runs nothing, and a call that was interrupted goes on where it stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from probekit.activations.activations import Activations, Sites
from probekit.activations.continuation import continuation
from probekit.activations.keys import settle
from probekit.activations.laws import Reduction
from probekit.activations.passes import SHARD_ROWS, CapturePass, Progress, telling_of_writing
from probekit.activations.scoring import check_scoring, scored
from probekit.errors import BadInput, Interrupted
from probekit.hookpoint import HookPoint
from probekit.inputs.context import one_token
from probekit.inputs.spans import delete_span
from probekit.inputs.surface import Decode, surface_features
from probekit.model.model import Model
from probekit.model.reading import check_tokens, out_of_memory
from probekit.storage.memory import Memory
from probekit.storage.store import Store
from probekit.task import Behaviour, Observations, Task

DEFAULT_STORE = "cached_activations"


def capture(
    model: Model,
    task: Task,
    hooks: str | HookPoint | Sequence[str | HookPoint],
    *,
    store: Store | str | Path | None = DEFAULT_STORE,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
    shard_rows: int = SHARD_ROWS,
    backend: str = "auto",
) -> Activations:
    """Activations and behaviour of `model` at every row of `task`.

    hooks: names or patterns such as `blocks.*.hook_resid_post`. store: a store or its folder; None keeps all in memory.
    batch_tokens: padded tokens per forward, at most: on a CPU it is fewer where the widest activation would take more
    than 12 MiB. progress gets a `Step` after each batch. backend: `bridge`, `hf` (the library's plain forward, under
    the same names and a key of its own) or `auto`, `hf` where `choose_backend` finds both alike for every hook asked.
    Behaviours over a vocabulary of more than 65 tokens need one more pass over the logits, to find the outcomes of
    largest mean mass; those that score whole texts take a forward for each text or answer. Without behaviours of
    the model's own output the forward ends behind the last missing hook. Raises UnknownHook, BadInput for a task that
    does not fit the model, StoreError, and Interrupted on Ctrl-C: finished shards are kept and the same call resumes.

    >>> import probekit as pk
    >>> model, task = pk.load_model("othello-6x6"), pk.load_task("othello-6x6", n_examples=4, n_positions=2)
    >>> acts = pk.capture(model, task, ["blocks.0.hook_resid_pre", "blocks.*.hook_resid_post"], store=None)
    >>> len(acts.sites), acts.observations.behaviours["next_move_law"].law.shape[1]
    (7, 33)
    """
    names = [hook.name for hook in model.hooks(hooks)]
    _check_task(model, task)
    check_tokens(model, task.tokens, task.positions)
    reductions = [
        Reduction.of(spec, model, task)
        for spec in task.behaviours
        if spec.kind not in ("label", "generation") and not spec.is_scored
    ]
    for spec in task.behaviours:
        if spec.is_scored:
            check_scoring(model, task, spec)
    where = Memory() if store is None else store if isinstance(store, Store) else Store(store)
    try:
        chosen, described = settle(model, task, backend, names, [law.stored_as for law in reductions], where)
        run = CapturePass(model, task, where, chosen, described | {"batch_tokens": batch_tokens}, shard_rows)
        run.fill(names, reductions, progress)
        kept = where, run.key, run.spec, run.rows, chosen.name
        written = {spec.name: continuation(model, task, spec, *kept, batch_tokens, telling_of_writing(spec, progress))
                   for spec in task.behaviours if spec.kind == "generation"}  # fmt: skip
        written |= {spec.name: scored(model, task, spec, *kept, run.batch_tokens, progress)
                    for spec in task.behaviours if spec.is_scored}  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("capture was stopped; finished shards are kept and the same call resumes.") from None
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise BadInput(f"{model.name} ran out of memory on what cannot be halved: shorten the texts.") from None
    settled = {law.spec.name: run.settled(law) for law in reductions}
    behaviours = {name: behaviour for name, (_, behaviour) in settled.items()} | written
    return Activations(
        Sites(where, run.key, names),
        _observations(model, task, behaviours, run.key),
        run.audit(names),
        {name: law.law for name, (law, _) in settled.items()},
        [settled[spec.name][0].fixed() if spec.name in settled else spec for spec in task.behaviours],
    )


def capture_without(
    model: Model, task: Task, span: str, whole: Activations, *, filler: int | str | None = None, **how: Any
) -> Activations:
    """What `whole`, the capture of `task`, would have been without the tokens of a named span (`spans.delete_span`).

    The same hook points, outcomes and columns of the floor's inputs, so that what was fitted on whole texts can be
    applied; of several rules of positions, those that do not read the span. filler: a token in place of each deleted
    one. how: `store` and other arguments of `capture`. Raises what `capture` and `delete_span` raise.

    >>> import numpy as np
    >>> import probekit as pk
    >>> texts, last = [np.array([13, 9, 10, 17]), np.array([8, 7, 23, 2])], [np.array([3]), np.array([3])]
    >>> first = {"field:opening": [np.array([[0, 1]]), np.array([[0, 1]])]}
    >>> group, domain = np.arange(2), np.array(["all", "all"])
    >>> task = pk.Task("opened", texts, last, group, domain, (pk.BehaviourSpec("next"),), spans=first)
    >>> model = pk.load_model("othello-6x6")
    >>> whole = pk.capture(model, task, "blocks.0.hook_resid_post", store=None)
    >>> pk.capture_without(model, task, "opening", whole, store=None).observations.position
    array([2, 2])
    """
    encoder = model.encoder if model.tokenizer is not None else None
    deleted = delete_span(task, span, None if filler is None else one_token("`filler`", filler, encoder))
    whole = whole.at(*deleted.rules) if deleted.rules else whole
    inputs = surface_features(seen_of(deleted), model.d_vocab, model.embed, seen_of(task), decode_of(model))
    asked = replace(deleted, behaviours=whole.behaviours, floor_inputs=inputs)
    found = capture(model, asked, list(whole.sites), **({"backend": whole.audit["backend"]} | how))
    changed = [not np.array_equal(before, after) for before, after in zip(task.tokens, deleted.tokens, strict=True)]
    touched = np.array(changed)[found.observations.example]
    return replace(found, observations=replace(found.observations, touched=touched))


def _observations(model: Model, task: Task, behaviours: Mapping[str, Behaviour], key: str) -> Observations:
    """What was seen at every row of the task. behaviours: of the model's own; the task's labels join them."""
    example = task.row_example
    labels = {spec.name: task.labels[spec.column or spec.name] for spec in task.behaviours if spec.kind == "label"}
    found = {**behaviours, **labels}
    inputs = task.floor_inputs
    if inputs is None:
        inputs = surface_features(seen_of(task), model.d_vocab, model.embed, decode=decode_of(model))
    return Observations(
        example=example,
        position=task.row_position.astype(np.int64),
        group=np.asarray(task.group)[example],
        domain=np.asarray(task.domain)[example],
        behaviours={spec.name: found[spec.name] for spec in task.behaviours},
        features=task.features,
        floor_inputs=inputs,
        task=task.name,
        model=model.name,
        revision=model.revision,
        fingerprint=key,
        types=np.array([task.tokens[i][at] for i, at in zip(example, task.row_position, strict=True)], dtype=np.int64),
        rules=task.rules,
        note=str(task.audit.get("copies", "")),
    )


def seen_of(task: Task) -> Task:
    """The task read where the model's own behaviours are, up to which an input-only reader of them may see its text."""
    if task.answer is None:
        return task
    places = [np.full(len(positions), at) for positions, at in zip(task.positions, task.answer, strict=True)]
    return replace(task, positions=places)


def decode_of(model: Model) -> Decode | None:
    """Token ids back to text, without a tokenizer's own marks; None for a model of bare ids."""
    if model.tokenizer is None:
        return None
    return lambda ids: str(model.tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def _check_task(model: Model, task: Task) -> None:
    n = len(task.tokens)
    if not n or not len(task.positions) == len(task.group) == len(task.domain) == n:
        raise BadInput(
            f"task '{task.name}' needs positions, group and domain for each of its {n} examples; found "
            f"{len(task.positions)}, {len(task.group)} and {len(task.domain)}."
        )
    if task.answer is not None:
        check_tokens(model, task.tokens, list(task.answer[:, None]))
    if not sum(len(p) for p in task.positions):
        raise BadInput(f"task '{task.name}' reads no position: give at least one per example.")
    for rule, rows in task.rules.items():
        if len(rows) != len(task.row_position) or len(np.unique(task.row_example[rows])) < n:
            # else splits by group would differ between rules, and so would what is compared
            raise BadInput(f"task '{task.name}': the rule '{rule}' must name at least one row of each example ({n}).")
    for spec in task.behaviours:
        if spec.kind == "label" and (spec.column or spec.name) not in task.labels:
            raise BadInput(
                f"behaviour '{spec.name}' reads label '{spec.column or spec.name}', which task '{task.name}' lacks; "
                f"it has {', '.join(task.labels) or 'none'}."
            )
    if len({spec.name for spec in task.behaviours}) < len(task.behaviours):
        raise BadInput(f"task '{task.name}' names two behaviours alike.")
