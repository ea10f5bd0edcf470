"""Capture: run a model over a task, its activations streaming into the store, its behaviour reduced in the same pass.

Rows follow the task's order exactly. The key is what went into the model, so a second call with the same inputs reads
the store and runs nothing, and a call that was interrupted goes on where it stopped.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.answers import one_token
from probekit.continuation import continuation
from probekit.errors import BadInput, Interrupted
from probekit.hookpoint import HookPoint
from probekit.laws import Rule
from probekit.model import (
    Backend,
    Batch,
    Model,
    check_model,
    choose_backend,
    library_versions,
    most_tokens,
    out_of_memory,
)
from probekit.records import digest
from probekit.shards import Range, Shape
from probekit.spans import delete_span
from probekit.store import Store, row_ranges
from probekit.surface import surface_features
from probekit.task import MAX_OUTCOMES, Behaviour, BehaviourSpec, Observations, Task, named
from probekit.writing import Writer

DEFAULT_STORE = "cached_activations"
KEY_VERSION = 3  # raise when the meaning of a stored row changes
SHARD_ROWS = 8192  # at most this much work is lost by an interruption
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}


@dataclass(frozen=True)
class Step:
    """How far a capture is: rows and tokens that were run, of those to be run, in `seconds`."""

    rows: int
    n_rows: int
    tokens: int
    n_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        return (self.n_tokens - self.tokens) / max(self.tokens_per_second, 1e-9)


Progress = Callable[[Step], None]


class Sites(Mapping[str, Tensor]):
    """Hook point -> activations [n_rows, width], read and verified one at a time when asked for, never kept."""

    def __init__(self, store: "Store | _Memory", key: str, names: Sequence[str]) -> None:
        self._store, self._key, self._names = store, key, tuple(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._store.read(self._key, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Activations:
    """sites: hook point -> [n_rows, width] in forward order. audit: what `check_model` found, and counts of tokens.

    laws: for each behaviour read off one forward pass, the function from logits [n, d_vocab] and the rows they are
    for [n] to its law [n, k]. behaviours: as they were asked, with the outcomes that large laws were found to have.
    """

    sites: Mapping[str, Tensor]
    observations: Observations
    audit: dict[str, Any]
    laws: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    behaviours: Sequence[BehaviourSpec] = ()

    def at(self, *places: str) -> "Activations":
        """The rows that any of these rules of positions names."""
        read = named(self.observations.rules, places, len(self.observations))
        rows = np.flatnonzero(read)

        def of_these(law: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda logits, at=None: law(logits) if at is None else law(logits, rows[at])

        return replace(
            self,
            sites=_Some(self.sites, torch.from_numpy(rows)),
            observations=self.observations.at(*places),
            laws={name: of_these(law) for name, law in self.laws.items()},
            behaviours=tuple(spec.rows(read) for spec in self.behaviours),
        )


class _Some(Mapping[str, Tensor]):
    """Some of the rows of every site, taken when asked for."""

    def __init__(self, sites: Mapping[str, Tensor], rows: Tensor) -> None:
        self._sites, self._rows = sites, rows

    def __getitem__(self, name: str) -> Tensor:
        return self._sites[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


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
    largest mean mass. Without behaviours of the model's own output the forward ends behind the last missing hook.
    Raises UnknownHook, BadInput for a task that does not fit the model, StoreError, and Interrupted on Ctrl-C: finished
    shards are kept and the same call resumes.
    """
    names = [hook.name for hook in model.hooks(hooks)]
    _check_task(task)
    model.check_tokens(task.tokens, task.positions)
    rules = [Rule.of(spec, model, task) for spec in task.behaviours if spec.kind not in ("label", "generation")]
    where = _Memory() if store is None else store if isinstance(store, Store) else Store(store)
    try:
        chosen, said = _settle(model, task, backend, names, rules, where)
        run = _Run(model, task, where, chosen, said | {"batch_tokens": batch_tokens}, shard_rows)
        run.fill(names, rules, progress)
        kept = where, run.key, run.spec, run.rows, chosen.name
        written = {spec.name: continuation(model, task, spec, *kept, batch_tokens, _writing(spec, progress))
                   for spec in task.behaviours if spec.kind == "generation"}  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("capture was stopped; finished shards are kept and the same call resumes.") from None
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise BadInput(f"{model.name} ran out of memory on what cannot be halved: shorten the texts.") from None
    key = run.key
    sites = Sites(where, key, names)
    settled = {rule.spec.name: run.settled(rule) for rule in rules}
    behaviours = {name: behaviour for name, (_, behaviour) in settled.items()} | written
    for spec in task.behaviours:
        if spec.kind == "label":
            behaviours[spec.name] = task.labels[spec.column or spec.name]
    example = task.row_example
    observations = Observations(
        example=example,
        position=task.row_position.astype(np.int64),
        group=np.asarray(task.group)[example],
        domain=np.asarray(task.domain)[example],
        behaviours={spec.name: behaviours[spec.name] for spec in task.behaviours},
        features=task.features,
        floor_inputs=surface_features(task, model.d_vocab, model.embed)
        if task.floor_inputs is None
        else task.floor_inputs,
        task=task.name,
        model=model.name,
        revision=model.revision,
        fingerprint=key,
        types=np.array([task.tokens[i][at] for i, at in zip(example, task.row_position, strict=True)], dtype=np.int64),
        rules=task.rules,
    )
    laws = {name: rule.law for name, (rule, _) in settled.items()}
    asked = [settled[spec.name][0].fixed() if spec.name in settled else spec for spec in task.behaviours]
    return Activations(sites, observations, run.audit(names), laws, asked)


def capture_without(
    model: Model, task: Task, span: str, whole: Activations, *, filler: int | str | None = None, **how: Any
) -> Activations:
    """What `whole`, the capture of `task`, would have been without the tokens of a named span (`spans.delete_span`).

    The same hook points, outcomes and columns of the floor's inputs, so that what was fitted on whole texts can be
    applied; of several rules of positions, those that do not read the span. filler: a token in place of each deleted
    one. how: `store` and other arguments of `capture`.
    """
    encoder = model.encoder if model.tokenizer is not None else None
    deleted = delete_span(task, span, None if filler is None else one_token("`filler`", filler, encoder))
    whole = whole.at(*deleted.rules) if deleted.rules else whole
    inputs = surface_features(deleted, model.d_vocab, model.embed, like=task)
    asked = replace(deleted, behaviours=whole.behaviours, floor_inputs=inputs)
    found = capture(model, asked, list(whole.sites), **({"backend": whole.audit["backend"]} | how))
    changed = [not np.array_equal(before, after) for before, after in zip(task.tokens, deleted.tokens, strict=True)]
    touched = np.array(changed)[found.observations.example]
    return replace(found, observations=replace(found.observations, touched=touched))


def activation_key(model: Model, task: Task, backend: str) -> str:
    """Digest of all that went into the model and decides its activations; hook names are not part of it."""
    return digest(capture_spec(model, task, backend)["parts"], 32)


def capture_spec(model: Model, task: Task, backend: str) -> dict[str, Any]:
    """`parts`, which the key is the digest of; around them what explains a key to people and decides nothing.

    backend: `bridge` or `hf`. They agree up to rounding and are told apart, so that no entry holds rows of both.
    """
    versions = library_versions()
    parts = {
        "key_version": KEY_VERSION,
        "weights_and_config": model.fingerprint,
        "mode": "plain",
        "dtype": str(model.dtype),
        "tokens": _digest_rows(task.tokens),  # ids without padding; the mask follows from the lengths
        "positions": _digest_rows(task.positions),
        "padding": "right",
        "n_rows": int(sum(len(p) for p in task.positions)),
        # libraries have changed the meaning of the same call between minor versions
        "libraries": {name: ".".join(v.split(".")[:2]) for name, v in versions.items()},
    }
    said = {"model": model.name, "revision": model.revision, "task": task.name, "versions": versions, "parts": parts}
    return _through(said, model, backend)


def _through(said: dict[str, Any], model: Model, backend: str) -> dict[str, Any]:
    return said | {"parts": said["parts"] | {"backend": backend, "attention": model.attention(backend)}}


def _digest_rows(rows: Sequence[Sequence[int] | NDArray]) -> str:
    hasher = hashlib.sha256()
    for row in rows:
        values = np.ascontiguousarray(row, dtype="<i8")
        hasher.update(len(values).to_bytes(8, "little"))
        hasher.update(values.tobytes())
    return hasher.hexdigest()


# Running -------------------------------------------------------------------------------------------------------------


def _settle(
    model: Model, task: Task, asked: str, names: Sequence[str], rules: Sequence[Rule], store: "Store | _Memory"
) -> tuple[Backend, dict[str, Any]]:
    """The backend and its `capture_spec`. What is complete in the store settles it: there they were compared before."""
    said, wanted = capture_spec(model, task, "bridge"), {*names, *(rule.stored_as for rule in rules)}
    for backend in {"auto": ("hf", "bridge"), "hf": ("hf",)}.get(asked, ()):
        found = _through(said, model, backend)
        if wanted <= set(store.names(digest(found["parts"], 32))):
            return Backend(backend), found
    chosen = choose_backend(model, asked, names, task.tokens)
    return chosen, _through(said, model, chosen.name)


class _Run:
    """One capture: what is missing in the store, found out and filled."""

    def __init__(self, model: Model, task: Task, store: "Store | _Memory", backend: Backend, spec: dict[str, Any],
                 shard_rows: int) -> None:  # fmt: skip
        self.model, self.task, self.store, self.backend, self.spec = model, task, store, backend, spec
        self.key, self.shard_rows = digest(spec["parts"], 32), shard_rows
        self.batch_tokens = most_tokens(model, spec["batch_tokens"])
        self.example, self.position = task.row_example, task.row_position
        token = np.asarray([task.tokens[e][p] for e, p in zip(self.example, self.position, strict=True)], np.int64)
        self.rows = torch.from_numpy(np.stack([self.example, self.position, token], 1).astype(np.int64))

    def fill(self, names: Sequence[str], rules: Sequence[Rule], progress: Progress | None) -> None:
        """Bring every hook point and every behaviour into the store."""
        complete = self.store.names(self.key)
        missing = [name for name in names if name not in complete]
        unread = list({rule.stored_as: rule for rule in rules if rule.stored_as not in complete}.values())
        if not missing and not unread:
            return
        audit = self._check(missing) if missing else None
        shapes = {name: Shape(self.model.widths[name], _CODES[self.model.dtype]) for name in missing}
        # one set of ranges for all that is new, so that one pass fills it
        ranges = self._ranges(shapes | {rule.stored_as: Shape(rule.width) for rule in unread})
        sites = self.store.group(self.key, self.spec, shapes, ranges) if missing else None
        steps = _Steps(progress)
        rules = self._find_outcomes(unread, ranges, steps)
        laws = {}
        for rule in rules:
            kept = [group[0] for group in rule.groups or ()] if rule.spec.kind != "groups" else None
            laws[rule] = self.store.group(
                self.key, self.spec | {"kept": kept}, {rule.stored_as: Shape(rule.width)}, ranges
            )
        open_ranges: dict[Range, list[Rule | None]] = {}
        for rule, group in [(None, sites), *laws.items()]:
            for span in group.missing() if group else ():
                open_ranges.setdefault(span, []).append(rule)
        steps.expect(self._size(span) for span in open_ranges)
        widths, pinned = {name: shape.width for name, shape in shapes.items()}, self.model.device.type == "cuda"
        with Writer(widths, self.model.dtype, self.rows, pinned) as writer:
            for span, asked in sorted(open_ranges.items(), key=lambda item: item[0]):
                sinks = {sites: missing} if sites and None in asked else {}
                sinks |= {laws[rule]: [rule.stored_as] for rule in asked if rule}
                self._pass(writer, span, missing if None in asked else [], sinks, [r for r in asked if r], steps)
        if sites:
            sites.seal(audit)
        for group in laws.values():
            group.seal()

    def settled(self, rule: Rule) -> tuple[Rule, Behaviour]:
        """The rule with the outcomes that were found, and the stored law under its own name and outcome names.

        Of a large vocabulary, tokens that are kept and have no mass at any row are no outcomes: they count as `rest`.
        """
        law = self.store.read(self.key, rule.stored_as)
        if rule.groups is None:
            kept, occurs = self._kept(rule) or (), law.sum(0) > 0
            occurs[-1] = True  # where a replaced network's other tokens go
            found = [token for token, some in zip(kept, occurs[:-1].tolist(), strict=True) if some]
            rule, law = rule.keeping(found, self.model), law[:, occurs]
        assert rule.names is not None
        reduced = rule.spec.kind in ("law", "argmax") and rule.names[-1] == "rest" and rule.spec.tokens is None
        covered = float(1 - law[:, -1].mean()) if reduced else 1.0
        return rule, Behaviour(rule.spec.name, law.numpy(), rule.names, covered)

    def audit(self, names: Sequence[str]) -> dict[str, Any]:
        """The audit kept with the first site, and what can be counted in the tokens."""
        tokenizer = self.model.tokenizer
        bos = tokenizer.bos_token_id if tokenizer is not None else None
        lead = [next((i for i, t in enumerate(row) if t != bos), len(row)) for row in self.task.tokens]
        lengths = [len(row) for row in self.task.tokens]
        counts = {
            "n_rows": len(self.rows),
            "n_sequences": len(lengths),
            "n_tokens": int(sum(lengths)),
            "longest": int(max(lengths)),
            "n_at_context_limit": int(sum(n == self.model.n_ctx for n in lengths)),  # they may have been cut to it
            "n_without_bos": int(sum(n == 0 for n in lead)) if bos is not None else None,
            "n_with_two_bos": int(sum(n > 1 for n in lead)) if bos is not None else None,
            "mask_digest": _digest_rows([lengths])[:16],  # each row of the mask is as many ones as it has tokens
        }
        return {"backend": self.backend.name, **(self.store.note(self.key, names[0]) if names else {}), **counts}

    def _pass(self, writer: Writer, span: Range, names: Sequence[str], sinks: Mapping[Any, Sequence[str]],
              rules: Sequence[Rule], steps: "_Steps") -> None:  # fmt: skip
        """Run the rows of one range and write them to `sinks`, activations and laws from the same forward."""
        writer.begin(*span, sinks)

        def each(batch: Batch) -> None:
            at, logits = span[0] + batch.rows, batch.logits
            laws = {rule.stored_as: rule.law(logits, at) for rule in rules if logits is not None}
            writer.put(at, batch.values | laws)
            steps.add(len(batch.rows), batch.n_tokens)

        self._read(span, names, each, with_logits=bool(rules), room=lambda n: writer.room(n, names))
        writer.end()

    def _read(self, span: Range, names: Sequence[str], each: Callable[[Batch], None], **how: Any) -> None:
        start, stop = span
        examples, first = np.unique(self.example[start:stop], return_index=True)
        positions = np.split(self.position[start:stop], first[1:])
        tokens = [self.task.tokens[e] for e in examples]
        # what memory has had no room for once is not tried again in the next range
        self.batch_tokens = self.model.stream(tokens, names, positions, each, batch_tokens=self.batch_tokens,
                                              backend=self.backend.name, **how)  # fmt: skip

    def _size(self, span: Range) -> tuple[int, int]:
        """Rows and tokens of a range."""
        examples = np.unique(self.example[slice(*span)])
        return span[1] - span[0], int(sum(len(self.task.tokens[e]) for e in examples))

    def _ranges(self, shapes: Mapping[str, Shape]) -> list[Range]:
        """The store's row ranges, but ending where an example does: one on both sides would be run twice."""
        n = len(self.rows)
        step = row_ranges(n, shapes, self.shard_rows)[0][1]
        ends = np.append(np.flatnonzero(np.diff(self.example)) + 1, n)
        out, start = [], 0
        while start < n:
            fitting = ends[(ends > start) & (ends <= start + step)]
            out.append((start, int(fitting[-1]) if len(fitting) else min(n, start + step)))
            start = out[-1][1]
        return out

    def _find_outcomes(self, rules: Sequence[Rule], ranges: Sequence[Range], steps: "_Steps") -> list[Rule]:
        """Settle the outcomes of laws over a large vocabulary: one pass over the logits for all of them together."""
        kept = {rule: self._kept(rule) for rule in rules if rule.groups is None}
        mass = {rule: torch.zeros(rule.d_vocab, dtype=torch.float64) for rule, found in kept.items() if found is None}

        def add(batch: Batch) -> None:
            assert batch.logits is not None
            found = [rule.mass(batch.logits) for rule in mass]  # all or nothing: a batch may have to be done again
            for total, part in zip(mass.values(), found, strict=True):
                total += part
            steps.add(len(batch.rows), batch.n_tokens)

        if mass:
            steps.expect(self._size(span) for span in ranges)
            for span in ranges:
                self._read(span, [], add, with_logits=True)
        for rule, total in mass.items():
            kept[rule] = sorted(torch.argsort(total, descending=True, stable=True)[:MAX_OUTCOMES].tolist())
        return [rule.keeping(kept[rule] or (), self.model) if rule.groups is None else rule for rule in rules]

    def _kept(self, rule: Rule) -> list[int] | None:
        """Outcomes fixed by an earlier call: near ties must not fall differently when a capture is resumed."""
        spec = self.store.spec_of(self.key, {rule.stored_as: Shape(rule.width)})
        return spec["kept"] if spec else None

    def _check(self, names: Sequence[str]) -> dict[str, Any]:
        """The audit on a few sequences; a batch that changes its rows' values is refused."""
        audit = check_model(self.model, self.task.tokens, names, self.backend)
        if audit["invariance"] > audit["invariance_limit"]:
            raise BadInput(
                f"{self.model.name} gives other activations in a padded batch than alone (difference "
                f"{audit['invariance']:.3g}): its attention ignores the mask, so it cannot be read in batches."
            )
        return audit


def _writing(spec: BehaviourSpec, progress: Progress | None) -> Callable[[int, int], None] | None:
    """Progress of a generation, in tokens written."""
    if progress is None or spec.generation is None:
        return None
    each, started = spec.generation.n_tokens * max(1, spec.generation.samples), time.monotonic()
    return lambda done, n: progress(Step(done, n, done * each, n * each, time.monotonic() - started))


class _Steps:
    """Counts what was run and reports it."""

    def __init__(self, progress: Progress | None) -> None:
        self._report, self._started = progress, time.monotonic()
        self._done, self._expected = np.zeros(2, np.int64), np.zeros(2, np.int64)

    def expect(self, sizes: Iterable[tuple[int, int]]) -> None:
        self._expected += np.sum([*sizes, (0, 0)], axis=0)

    def add(self, rows: int, tokens: int) -> None:
        self._done += (rows, tokens)
        if self._report:
            (done, run), (n_rows, n_tokens) = self._done.tolist(), self._expected.tolist()
            self._report(Step(done, n_rows, run, n_tokens, time.monotonic() - self._started))


class _Memory:
    """A store that lives as long as its Activations."""

    def __init__(self) -> None:
        self._groups: list[_MemoryGroup] = []

    def names(self, key: str) -> dict[str, "_MemoryGroup"]:
        return {name: group for group in self._groups for name in group.arrays}

    def spec_of(self, key: str, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        return next((g.spec for g in self._groups if set(g.arrays) == set(shapes)), None)

    def group(self, key: str, spec: Mapping[str, Any], shapes: Mapping[str, Shape], ranges: Sequence[Range]):
        self._groups.append(_MemoryGroup(dict(spec), shapes, ranges))
        return self._groups[-1]

    def read(self, key: str, name: str) -> Tensor:
        return self.names(key)[name].arrays[name]

    def note(self, key: str, name: str) -> Any:
        return self.names(key)[name].note


class _MemoryGroup:
    def __init__(self, spec: dict[str, Any], shapes: Mapping[str, Shape], ranges: Sequence[Range]) -> None:
        codes = {code: dtype for dtype, code in _CODES.items()}
        n = ranges[-1][1] if ranges else 0
        self.spec, self.ranges, self.note = spec, ranges, None
        self.arrays = {name: torch.empty(n, s.width, dtype=codes[s.dtype]) for name, s in shapes.items()}

    def missing(self) -> Sequence[Range]:
        return self.ranges

    @contextmanager
    def shard(self, start: int, stop: int) -> Iterator["_MemoryGroup"]:
        yield self

    def put(self, at: int, arrays: Mapping[str, Tensor], rows: Tensor) -> None:
        for name, array in arrays.items():
            self.arrays[name][at : at + len(rows)] = array

    def seal(self, note: Any = None) -> None:
        self.note = note


def _check_task(task: Task) -> None:
    n = len(task.tokens)
    if not n or not len(task.positions) == len(task.group) == len(task.domain) == n:
        raise BadInput(
            f"task '{task.name}' needs positions, group and domain for each of its {n} examples; found "
            f"{len(task.positions)}, {len(task.group)} and {len(task.domain)}."
        )
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
