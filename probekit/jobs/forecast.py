"""Forecast: what a file holds and what its job will cost and cannot measure, known before a model is loaded."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probekit.inputs.columns import Columns, as_list
from probekit.inputs.filetask import check_rows, domain_names, read_rows, told_of
from probekit.inputs.folders import width_of
from probekit.inputs.labels import classes_of
from probekit.inputs.positions import Place, parse_places
from probekit.inputs.prompts import plain_prompts
from probekit.inputs.text import told_time
from probekit.jobs.costs import EditedRuns, ModelSize, PricedTask, bytes_of, edited_runs, seconds_of
from probekit.metrics.classes import pool_rare, pooled, splits_with_classes, unmeasurable_over
from probekit.metrics.splits import Split
from probekit.records import SAMPLED
from probekit.spec import JobSpec, TaskSpec

SURE = 16  # fit rows per coordinate, from which a value is also extrapolated to the limit of many rows


@dataclass(frozen=True)
class Forecast:
    """texts: rows of the file that are read, of pairs two each. groups: of the first domain, which readers are fitted
    in, as fit_rows are.

    classes: behaviour -> class -> rows, of labels. tokens: of all texts without what a template of chats adds; None
    where no tokenizer is at hand. passes: of the model over all texts. folds: outer and inner. notes: sentences on what
    will be NA, or will have to be read with care. told: on the file itself, which the run says too. edited: runs with
    activations edited, of replace, steer and compose. seconds: of the passes, at least; n_bytes: of the activations
    that are read, about; None where the model's config does not tell.
    """

    texts: int
    groups: int
    domains: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    tokens: int | None
    passes: int
    folds: tuple[int, int]
    fit_rows: int
    notes: tuple[str, ...]
    told: tuple[str, ...]
    edited: tuple[EditedRuns, ...] = ()
    seconds: float | None = None
    n_bytes: int | None = None

    def lines(self) -> Iterator[str]:
        """For people."""
        named = ", ".join(f"{n:,} {name}" for name, n in self.domains.items())
        yield f"file: {self.texts:,} texts, {named}" if len(self.domains) > 1 else f"file: {self.texts:,} texts"
        for behaviour, counts in self.classes.items():
            told = [f"{name} {n:,}" for name, n in list(counts.items())[:6]]
            yield f"{behaviour}: {', '.join(told)}" + (f" and {len(counts) - 6} more" if len(counts) > 6 else "")
        tokens = "" if self.tokens is None else f" over about {self.tokens:,} tokens"
        yield f"model: {self.passes} forward pass{'es' * (self.passes > 1)} of every text{tokens}"
        outer, inner = self.folds
        yield (
            f"readers: fitted on about {self.fit_rows:,} rows of {self.groups:,} groups, {outer} outer x {inner} inner "
            f"fold{'s' * (outer * inner > 1)}"
        )
        yield from (one.line() for one in self.edited)
        yield from (f"note: {note}" for note in self.told + self.notes)


def forecast(spec: JobSpec, base: Path, config: Mapping[str, Any], folder: Path | None) -> Forecast:
    """Of a job on a file. config, folder: of its model where it is local. Raises BadInput for what is wrong in it."""
    task = spec.task
    columns = read_rows(task, base)
    group, copies = check_rows(task, columns)  # as the task numbers them: splits depend on it
    _check_clock(task, folder)
    domain = np.array(domain_names(columns, task.domain))
    home = domain == domain[0]
    group = group[home]
    folds = spec.read.folds_of(int(home.sum()))
    found = {b.name: classes_of(b, columns) for b in task.behaviours if b.kind == "label"}
    # one class for each row is all that can be counted without knowing what is read
    labels = {name: classes for name, classes in found.items() if classes is not None and len(classes) == len(columns)}
    laws = {name: _law(np.array(classes)[home]) for name, classes in labels.items()}
    splits = splits_with_classes(group, [law for law, _ in laws.values()], spec.seed_data, *folds)
    width, fit_rows = width_of(config), round(np.mean([len(s.fit) for s in splits]))
    notes = [why for name, known in laws.items() if (why := _why_not(name, *known, group, splits))]
    notes += [copies] if copies else []
    if width is not None and fit_rows < SURE * width:
        notes.append(
            f"{width} coordinates and {fit_rows:,} fit rows: what a reader explains is at least what is told, and is "
            f"not extrapolated (that takes {SURE} rows per coordinate)"
        )
    tokens = _tokens(spec, columns, folder)
    at_end = task.answer is None and task.position in (None, "last", ("last",))
    size = ModelSize.of(config, None if tokens is None else tokens / max(1, len(columns)), at_end)
    kinds = {b.name: "logprob" if b.whole else b.kind for b in task.behaviours}
    n_drawn = 0 if task.sampled is None else task.sampled.n
    kinds |= {f"{SAMPLED}{i + 1}": "logit_diff" for i in range(n_drawn)}
    passes = (n_drawn > 0) + spec.wants_twin + (1 + _n_scored(task, columns)) * (1 + len(spec.read.delete))
    whole = len(columns) if tokens is None else tokens
    rows = sum(_rows_at(place, len(columns), whole) for place in parse_places(task.position))
    asked = PricedTask(kinds, _ranks(task, laws), len(set(domain.tolist())), max(1, len(parse_places(task.position))))
    return Forecast(
        len(columns), len(set(group.tolist())), Counter(domain.tolist()),
        {name: Counter(classes) for name, classes in labels.items()}, tokens,
        passes, folds, fit_rows, tuple(notes),
        tuple(told_of(task, columns)), tuple(edited_runs(spec, size, asked)),
        None if tokens is None else seconds_of(size, passes * len(columns)),
        bytes_of(spec, config, rows, 1 + spec.wants_twin + len(spec.read.delete)),
    )  # fmt: skip


def _rows_at(place: Place, n: int, n_tokens: int) -> int:
    """How many rows of n examples a rule reads, about: of spans that end in `all` no more than all tokens."""
    if place.kind == "sample":
        return min(n * int(place.name), n_tokens)
    return n_tokens if "all" in (place.kind, place.which) else n


def _ranks(task: TaskSpec, laws: Mapping[str, tuple[np.ndarray, list[str]]]) -> dict[str, int]:
    """How many directions a linear readout of each behaviour has at most, where its outcomes are known."""
    known = {name: len(classes) for name, (_, classes) in laws.items()}
    for entry in task.behaviours:
        outcomes = entry.tokens or entry.sets
        if entry.kind == "logit_diff":
            known[entry.name] = 2
        elif outcomes and entry.kind == "choice":
            known[entry.name] = len(outcomes)
    return {name: max(1, n - 1) for name, n in known.items()}


def _n_scored(task: TaskSpec, columns: Columns) -> int:
    """Texts and answers behind them that are scored, of each row; what is scored alike is scored once."""
    asked: dict[tuple, int] = {}
    for entry in task.behaviours:
        if entry.kind == "logprob":
            asked[(entry.completion,)] = 1
        elif entry.whole:
            listed = as_list(columns.values[entry.answers][0]) if entry.answers else entry.tokens
            asked[entry.tokens, entry.answers, entry.correct, entry.wrong] = 2 if entry.correct else len(listed or ())
    return sum(asked.values())


def _law(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Labels as a law, and its classes."""
    classes, code = np.unique(values.astype(str), return_inverse=True)
    return np.eye(len(classes), dtype=np.float32)[code], classes.tolist()


def _why_not(name: str, law: np.ndarray, classes: list[str], group: np.ndarray, splits: Sequence[Split]) -> str:
    place, n = pool_rare(law, [split.fit for split in splits])
    law, outcomes = pooled(law, classes, place) if n else (law, classes)
    if why := unmeasurable_over(law, outcomes, group, n, lambda: splits):
        return f"behaviour '{name}' will be NA: {why}"
    return f"{n} classes of '{name}' with few rows will be one, `{outcomes[-1]}`" if n else ""


def _check_clock(task: TaskSpec, folder: Path | None) -> None:
    """Raise BadInput for a chat whose template asks for the time, where a local model's own files say so."""
    if folder is None or not task.source_is_chat:
        return
    own, card = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        template = own.read_text(encoding="utf-8") if own.is_file() else (
            json.loads(card.read_text(encoding="utf-8")).get("chat_template"))  # fmt: skip
    except (OSError, ValueError, AttributeError):
        return  # what is wrong with it is told where it is loaded
    if isinstance(template, str):
        told_time(template, task.clock, folder.name)


def _tokens(spec: JobSpec, columns: Columns, folder: Path | None) -> int | None:
    """Counted by the tokenizer's own file, which opens in a blink; None for chats, whose template needs the library."""
    task = spec.task
    if task.tokens is not None:
        return sum(len(columns.integers(i, task.tokens, "token ids")) for i in range(len(columns)))
    if task.source_is_chat or folder is None or not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    texts = [prompt.text for prompt in plain_prompts(task, columns)]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # What its owner padded or cut when it was saved is in the file, and is not done to the texts that a model gets.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return sum(len(found.ids) for found in tokenizer.encode_batch(texts))
