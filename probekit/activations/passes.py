"""Passes: what a store lacks, found out and filled batch by batch, hook points and behaviours of one forward."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.activations.keys import digest_rows
from probekit.activations.laws import Reduction
from probekit.activations.writing import Writer
from probekit.errors import BadInput
from probekit.model.audit import Backend, check_model
from probekit.model.model import Model
from probekit.model.reading import Batch, most_tokens
from probekit.records import digest
from probekit.storage.memory import CODES, Memory
from probekit.storage.shards import Range, Shape
from probekit.storage.store import Store, row_ranges
from probekit.task import MAX_OUTCOMES, Behaviour, BehaviourSpec, Task

SHARD_ROWS = 8192  # of what one file holds; an interruption costs less: see `shards.SAVED_EVERY`


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


class CapturePass:
    """One capture: what is missing in the store, found out and filled."""

    def __init__(self, model: Model, task: Task, store: "Store | Memory", backend: Backend, spec: dict[str, Any],
                 shard_rows: int) -> None:  # fmt: skip
        self.model, self.task, self.store, self.backend, self.spec = model, task, store, backend, spec
        self.key, self.shard_rows = digest(spec["parts"], 32), shard_rows
        self.batch_tokens = most_tokens(model, spec["batch_tokens"])
        self.example, self.position = task.row_example, task.row_position
        token = np.asarray([task.tokens[e][p] for e, p in zip(self.example, self.position, strict=True)], np.int64)
        self.rows = torch.from_numpy(np.stack([self.example, self.position, token], 1).astype(np.int64))

    def fill(self, names: Sequence[str], reductions: Sequence[Reduction], progress: Progress | None) -> None:
        """Bring every hook point and every behaviour into the store."""
        complete = self.store.names(self.key)
        missing = [name for name in names if name not in complete]
        unread = list(
            {reduction.stored_as: reduction for reduction in reductions if reduction.stored_as not in complete}.values()
        )
        if not missing and not unread:
            return
        audit = self._check(missing) if missing else None
        shapes = {name: Shape(self.model.widths[name], CODES[self.model.dtype]) for name in missing}
        # one set of ranges for all that is new, so that one pass fills it
        ranges = ranges_by_example(
            self.example,
            shapes | {reduction.stored_as: Shape(reduction.stored_width) for reduction in unread},
            self.shard_rows,
        )
        sites = self.store.group(self.key, self.spec, shapes, ranges) if missing else None
        steps = Steps(progress)
        reductions = self._find_outcomes(unread, ranges, steps)
        laws = {}
        for reduction in reductions:
            kept = [group[0] for group in reduction.groups or ()] if reduction.spec.kind != "groups" else None
            laws[reduction] = self.store.group(
                self.key, self.spec | {"kept": kept}, {reduction.stored_as: Shape(reduction.stored_width)}, ranges
            )
        open_ranges: dict[Range, list[Reduction | None]] = {}
        for reduction, group in [(None, sites), *laws.items()]:
            for span in group.missing() if group else ():
                open_ranges.setdefault(span, []).append(reduction)
        steps.expect(self._size(span) for span in open_ranges)
        widths, pinned = {name: shape.width for name, shape in shapes.items()}, self.model.device.type == "cuda"
        with Writer(widths, self.model.dtype, self.rows, pinned) as writer:
            for span, asked in sorted(open_ranges.items(), key=lambda item: item[0]):
                sinks = {sites: missing} if sites and None in asked else {}
                sinks |= {laws[reduction]: [reduction.stored_as] for reduction in asked if reduction}
                self._pass(writer, span, missing if None in asked else [], sinks, [r for r in asked if r], steps)
        if sites:
            sites.seal(audit)
        for group in laws.values():
            group.seal()

    def settled(self, reduction: Reduction) -> tuple[Reduction, Behaviour]:
        """The reduction with the outcomes that were found, and the stored law under its own name and outcome names.

        Of a large vocabulary, tokens that are kept and have no mass at any row are no outcomes: they count as `rest`.
        """
        law = self.store.read(self.key, reduction.stored_as)
        if reduction.groups is None:
            kept, occurs = self._kept(reduction) or (), law.sum(0) > 0
            occurs[-1] = True  # where a replaced network's other tokens go
            found = [token for token, some in zip(kept, occurs[:-1].tolist(), strict=True) if some]
            reduction, law = reduction.keeping(found, self.model), law[:, occurs]
        assert reduction.names is not None
        if reduction.among_answers:
            law, (mass, likeliest) = law[:, : reduction.width], law[:, reduction.width :].T
            token = int(likeliest.long().mode().values)
            return reduction, Behaviour(reduction.spec.name, law.numpy(), reduction.names, float(mass.double().mean()),
                                        self.model.token_names([token])[0])  # fmt: skip
        reduced = (
            reduction.spec.kind in ("law", "argmax") and reduction.names[-1] == "rest" and reduction.spec.tokens is None
        )
        covered = float(1 - law[:, -1].mean()) if reduced else 1.0
        return reduction, Behaviour(reduction.spec.name, law.numpy(), reduction.names, covered)

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
            "mask_digest": digest_rows([lengths])[:16],  # each row of the mask is as many ones as it has tokens
        }
        return {"backend": self.backend.name, **(self.store.note(self.key, names[0]) if names else {}), **counts}

    def _pass(self, writer: Writer, span: Range, names: Sequence[str], sinks: Mapping[Any, Sequence[str]],
              reductions: Sequence[Reduction], steps: "Steps") -> None:  # fmt: skip
        """Run the rows of one range and write them to `sinks`, activations and laws from the same forward."""
        kept = writer.begin(*span, sinks)

        def skip(rows: NDArray[np.int64], n_tokens: int) -> bool:
            if not kept[rows].all():
                return False
            steps.add(len(rows), n_tokens)
            return True

        def each(batch: Batch) -> None:
            at, logits = span[0] + batch.rows, batch.logits
            laws = {reduction.stored_as: reduction.stored(logits, at) for reduction in reductions if logits is not None}
            writer.put(at, batch.values | laws)
            steps.add(len(batch.rows), batch.n_tokens)

        self._read(span, names, each, with_logits=bool(reductions), room=lambda n: writer.room(n, names), skip=skip)
        writer.end()

    def _read(self, span: Range, names: Sequence[str], each: Callable[[Batch], None], **how: Any) -> None:
        start, stop = span
        examples, first = np.unique(self.example[start:stop], return_index=True)
        positions = np.split(self.position[start:stop], first[1:])
        tokens = [self.task.tokens[e] for e in examples]
        answer = None if self.task.answer is None else self.task.answer[examples]
        # what memory has had no room for once is not tried again in the next range
        self.batch_tokens = self.model.stream(tokens, names, positions, each, batch_tokens=self.batch_tokens,
                                              backend=self.backend.name, answer=answer, **how)  # fmt: skip

    def _size(self, span: Range) -> tuple[int, int]:
        """Rows and tokens of a range."""
        examples = np.unique(self.example[slice(*span)])
        return span[1] - span[0], int(sum(len(self.task.tokens[e]) for e in examples))

    def _find_outcomes(
        self, reductions: Sequence[Reduction], ranges: Sequence[Range], steps: "Steps"
    ) -> list[Reduction]:
        """Settle the outcomes of laws over a large vocabulary: one pass over the logits for all of them together."""
        kept = {reduction: self._kept(reduction) for reduction in reductions if reduction.groups is None}
        mass = {
            reduction: torch.zeros(reduction.d_vocab, dtype=torch.float64)
            for reduction, found in kept.items()
            if found is None
        }

        def add(batch: Batch) -> None:
            assert batch.logits is not None
            found = [
                reduction.mass(batch.logits) for reduction in mass
            ]  # all or nothing: a batch may have to be done again
            for total, part in zip(mass.values(), found, strict=True):
                total += part
            steps.add(len(batch.rows), batch.n_tokens)

        if mass:
            steps.expect(self._size(span) for span in ranges)
            for span in ranges:
                self._read(span, [], add, with_logits=True)
        for reduction, total in mass.items():
            kept[reduction] = sorted(torch.argsort(total, descending=True, stable=True)[:MAX_OUTCOMES].tolist())
        return [
            reduction.keeping(kept[reduction] or (), self.model) if reduction.groups is None else reduction
            for reduction in reductions
        ]

    def _kept(self, reduction: Reduction) -> list[int] | None:
        """Outcomes fixed by an earlier call: near ties must not fall differently when a capture is resumed."""
        spec = self.store.spec_of(self.key, {reduction.stored_as: Shape(reduction.stored_width)})
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


def ranges_by_example(example: NDArray[np.int64], shapes: Mapping[str, Shape], most_rows: int) -> list[Range]:
    """The store's row ranges, but ending where an example does: one on both sides would be run twice.

    example [n_rows]: of each row.
    """
    n = len(example)
    step = row_ranges(n, shapes, most_rows)[0][1]
    ends = np.append(np.flatnonzero(np.diff(example)) + 1, n)
    out, start = [], 0
    while start < n:
        fitting = ends[(ends > start) & (ends <= start + step)]
        out.append((start, int(fitting[-1]) if len(fitting) else min(n, start + step)))
        start = out[-1][1]
    return out


def telling_of_writing(spec: BehaviourSpec, progress: Progress | None) -> Callable[[int, int], None] | None:
    """Progress of a generation, in tokens written."""
    if progress is None or spec.generation is None:
        return None
    each, started = spec.generation.n_tokens * max(1, spec.generation.samples), time.monotonic()
    return lambda done, n: progress(Step(done, n, done * each, n * each, time.monotonic() - started))


class Steps:
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
