"""A Task read from a file of rows whose columns a TaskSpec names. Every mistake is one BadInput sentence.

Rows are numbered from 1 in messages, a header not counted. A position counts tokens as the tokeniser returns them, so a
beginning-of-sequence token that it adds is position 0.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.behaviours import Given, behaviour_of, check_keys, is_column
from probekit.inputs.columns import LEAST_ROWS, PAIR, Columns, as_list, check_free, missing, read_columns
from probekit.inputs.copies import merged, numbered
from probekit.inputs.positions import Place, parse_places, token_spans
from probekit.inputs.text import Encoder, Prompt, Template, render_chat
from probekit.records import digest
from probekit.spec import BehaviourEntry, TaskSpec
from probekit.task import MAX_OUTCOMES, Behaviour, Feature, Task, find_constant

Rows = list[tuple[int, Any]]  # (row of the file, value) for each place that is read


def read_file_task(spec: TaskSpec, base: Path, encoder: Encoder | None = None) -> Task:
    """Read `spec.file` (relative to `base`) into a Task.

    encoder: the model's tokenizer with its policies; None where token ids are read. A label or feature that is a list
    has one value for each position of its row; a single one holds at all of them. Raises BadInput.
    """
    asked_columns(spec)  # what is wrong whatever the file holds is told first
    check_bos(spec, "as_is" if encoder is None else encoder.bos)
    source, places = spec.source, parse_places(spec.position)
    columns = read_rows(spec, base)
    domain = columns.names(spec.domain, "domain") if spec.domain else ["all"] * len(columns)
    _check_ids(columns, spec.id)
    audit: dict[str, Any] = {"source": source}
    examples = (
        _Examples([columns.integers(i, spec.tokens, "token ids") for i in range(len(columns))])
        if spec.tokens
        else _read_text(spec, source, columns, encoder, audit)
    )
    kept = _cut(examples.tokens, spec.truncate, columns, encoder, audit)
    positions, rules = _positions(places, columns, examples, kept, audit)
    labels = {entry.name: _label(entry, columns, positions) for entry in spec.behaviours if is_column(entry)}
    row_example = np.repeat(np.arange(len(columns)), [len(p) for p in positions])
    if len(labels) == len(spec.behaviours):  # what the model does is not known yet
        _check_varies(labels, columns, np.array(domain, dtype=np.str_)[row_example])
    tokens = [ids[:n] for ids, n in zip(examples.tokens, kept, strict=True)]
    read = Given(examples.prompts, tokens, [len(ids) for ids in examples.tokens], not spec.source_is_chat)
    behaviours = [behaviour_of(entry, labels, columns, row_example, encoder, read) for entry in spec.behaviours]
    return Task(
        name=columns.name,
        tokens=tokens,
        positions=positions,
        group=_groups(spec, columns, domain, audit),
        domain=np.array(domain, dtype=np.str_),
        behaviours=behaviours,
        features={entry.name: _feature(entry.name, entry.column, columns, positions) for entry in spec.features},
        labels=labels,
        fingerprint=_fingerprint(spec, columns.path, tokens, positions),
        spans=_kept_spans(examples, kept),
        audit=audit,
        rules=rules,
    )  # fmt: skip


def read_rows(spec: TaskSpec, base: Path) -> Columns:
    """The file's cells that are asked for, one row per example: of a task of pairs each row of the file is two."""
    asked, text = asked_columns(spec)
    path = base / str(spec.file)
    named = set(_named(spec)[0])
    check_free(path, {name: columns for name, columns in _made(spec).items() if name in named})
    columns = read_columns(path, asked, text)
    if spec.n_examples:
        columns = columns.first(spec.n_examples, None if spec.domain in _made(spec) else spec.domain)
    return columns.paired(spec.pair, spec.members) if spec.pair else columns


def _made(spec: TaskSpec) -> dict[str, tuple[str, ...]]:
    """Columns that a task of pairs makes, and those of the file that they come from."""
    return {**spec.members, PAIR: spec.pair} if spec.pair else {}


def _fingerprint(spec: TaskSpec, path: Path, tokens: Sequence[NDArray], positions: Sequence[NDArray]) -> str:
    """Digest of the file's bytes, of every option that decides what is read from them, and of what came of it."""
    options = spec.model_dump(mode="json", exclude={"file", "testbed", "n_positions"})
    made = hashlib.sha256()
    for row in (*tokens, *positions):
        made.update(len(row).to_bytes(8, "little") + np.ascontiguousarray(row, dtype="<i8").tobytes())
    return digest(
        {"bytes": hashlib.sha256(path.read_bytes()).hexdigest(), "options": options, "tokens": made.hexdigest()}
    )


def _check_unique(entries: Sequence, what: str) -> None:
    twice = [name for name, n in Counter(entry.name for entry in entries).items() if n > 1]
    if twice:
        raise BadInput(f"the task names the {what} '{twice[0]}' twice: give each a name of its own.")


def check_bos(spec: TaskSpec, bos: str) -> None:
    """Raise BadInput for a policy that would not be followed: token ids are read as they are."""
    if spec.tokens is not None and bos != "as_is":
        raise BadInput(
            f"bos = '{bos}' is a policy for text, and this task reads token ids from column '{spec.tokens}': leave it "
            "out; the ids have a BOS or they have none."
        )


def asked_columns(spec: TaskSpec) -> tuple[dict[str, str], list[str]]:
    """(column of the file -> what it was asked as, for messages; columns that are text whatever they look like).

    Raises BadInput for what is wrong with a file's task whatever its file holds.
    """
    asked, text = _named(spec)
    made = _made(spec)
    if spec.members and not spec.pair:
        raise BadInput(
            "`members` are those of a `pair`, which this task does not have: name `pair`, two columns of texts."
        )
    taken = {PAIR, *(spec.pair or ()), *chain(*spec.members.values())}
    for name, columns in spec.members.items():
        if name in taken:
            raise BadInput(f"`members` makes a column '{name}', and the task has one: name it otherwise.")
        if name not in asked:
            raise BadInput(
                f"`members` makes a column '{name}', which nothing in the task asks for: ask for it, or leave it out."
            )
        asked |= dict.fromkeys(columns, f"'{name}' of `members`")
        text += [column for column in columns if name in text]
    return {name: role for name, role in asked.items() if name not in made}, [name for name in text if name not in made]


def _named(spec: TaskSpec) -> tuple[dict[str, str], list[str]]:
    if spec.file is None:
        raise BadInput("the task names no file: give `file`, or a `testbed` instead.")
    if spec.n_positions is not None:
        raise BadInput("n_positions is for testbeds: a file is read where `position` says, or at the last token.")
    if not spec.behaviours:
        raise BadInput("the task names no behaviours: there is nothing to explain; add [[task.behaviours]].")
    _check_unique(spec.behaviours, "behaviour")
    _check_unique(spec.features, "feature")
    for entry in spec.behaviours:
        check_keys(entry)
        if entry.difference and spec.pair is None:
            raise BadInput(
                f"behaviour '{entry.name}' is a difference between members of a pair: name `pair`, two columns."
            )
    places = parse_places(spec.position)
    asked: dict[str, str] = {}
    for entry in spec.behaviours:
        for column in (entry.column, entry.answers, entry.correct, entry.wrong, entry.completion):
            if column is not None:
                asked[column] = f"'{entry.name}'"
    asked |= {entry.column: f"'{entry.name}'" for entry in spec.features}
    asked |= {place.name: "position" for place in places if place.kind in ("column", "mask")}
    text: dict[str, str] = {}
    for name, where in spec.spans.items():
        if isinstance(where, str):
            text[where] = f"span '{name}'"
        else:
            asked |= dict.fromkeys(where, f"span '{name}'")
    for entry in spec.behaviours:  # what is scored is text, whatever it looks like
        scored = (entry.completion, entry.correct, entry.wrong) if entry.whole or entry.completion else ()
        text |= {column: f"'{entry.name}'" for column in scored if column is not None}
    for template in templates(spec):
        text |= dict.fromkeys(template.fields, "a field of the template")
    for role in ("text", "tokens", "messages", "id", "group", "domain"):
        if (column := getattr(spec, role)) is not None:
            text[column] = role
    text |= {column: PAIR for column in spec.pair or ()}
    return asked | text, list(text)


# Examples


class _Examples:
    """Tokens of each row, uncut, and the tokens of every stretch of text that has a name.

    prompts: what they were made from, where that is text.
    """

    def __init__(
        self, tokens: list[NDArray[np.int64]], spans: list[dict[str, NDArray[np.int64]]] | None = None,
        prompts: list[Prompt] | None = None,
    ):  # fmt: skip
        self.tokens, self.spans, self.prompts = tokens, spans, prompts


def templates(spec: TaskSpec) -> list[Template]:
    """The template of the text, or one per turn of the chat. Raises BadInput for one that cannot be read."""
    texts = [spec.template] if spec.template is not None else [turn.content for turn in spec.chat or ()]
    return [Template.parse(text) for text in texts]


def _read_text(
    spec: TaskSpec, source: str, columns: Columns, encoder: Encoder | None, audit: dict[str, Any]
) -> _Examples:
    """Render, tokenise and find the stretches that have names."""
    if encoder is None:
        raise BadInput(f"`{source}` makes text and the model has no tokeniser: name a `tokens` column instead.")
    prompts = _prompts(spec, columns, encoder, audit)
    for i, prompt in enumerate(prompts):
        if spec.spans:
            prompts[i] = replace(prompt, marks=prompt.marks | _spans(spec, columns, i, prompt.text))
    try:
        tokenised = encoder.encode([prompt.text for prompt in prompts], special=not spec.source_is_chat)
    except BadInput:
        empty = next(i for i, prompt in enumerate(prompts) if not len(_encoded(encoder, prompt, spec)))
        raise BadInput(f"{columns.row(empty)}: the text has no tokens: drop the row.") from None
    audit |= {
        "bos": encoder.bos,
        "n_bos": {str(n): int(count) for n, count in zip(*np.unique(tokenised.n_bos, return_counts=True), strict=True)},
        "n_bos_added": int(np.maximum(tokenised.shift, 0).sum()),
        "n_bos_removed": int(np.maximum(-tokenised.shift, 0).sum()),
    }
    if tokenised.offsets is None:
        return _Examples(tokenised.tokens, prompts=prompts)
    found = [token_spans(prompt, offsets) for prompt, offsets in zip(prompts, tokenised.offsets, strict=True)]
    audit["n_spans_inside_a_token"] = sum(n_split for _, n_split in found)
    return _Examples(tokenised.tokens, [spans for spans, _ in found], prompts)


def _encoded(encoder: Encoder, prompt: Prompt, spec: TaskSpec) -> NDArray[np.int64]:
    try:
        return encoder.encode([prompt.text], special=not spec.source_is_chat).tokens[0]
    except BadInput:
        return np.zeros(0, np.int64)


def _prompts(spec: TaskSpec, columns: Columns, encoder: Encoder, audit: dict[str, Any]) -> list[Prompt]:
    if spec.text is not None:
        return [Prompt(text) for text in _texts(columns, spec.text)]
    if spec.pair is not None:
        return [Prompt(text) for text in pair_texts(columns, spec.pair)]
    pieces = templates(spec)
    values = {name: _field(columns, name) for template in pieces for name in template.fields}
    filled = [[template.fill({name: values[name][i] for name in template.fields}) for template in pieces]
              for i in range(len(columns))]  # fmt: skip
    if spec.template is not None:
        for i, (prompt,) in enumerate(filled):
            if not prompt.text:
                raise BadInput(f"{columns.row(i)} leaves the template empty: fill its fields in or drop the row.")
        return [prompt for (prompt,) in filled]
    roles = [turn.role for turn in spec.chat or ()]
    if spec.chat == ():
        raise BadInput("`chat` has no turns: give at least one {role, content}.")
    out, n_prompts, n_hidden = [], 0, 0
    for i, turns in enumerate(filled):
        chat = list(zip(roles, turns, strict=True)) if spec.chat else _messages(columns, i, spec.messages or "")
        wanted = chat[-1][0] != "assistant" if spec.generation_prompt is None else spec.generation_prompt
        try:
            prompt = render_chat(chat, lambda messages, wanted=wanted: encoder.chat(messages, wanted))
        except BadInput as error:
            raise BadInput(f"{columns.row(i)}: {error}") from None
        n_prompts, n_hidden = n_prompts + wanted, n_hidden + (not prompt.marks)
        out.append(replace(prompt, closed=not wanted))
    audit |= {
        "chat_template": hashlib.sha256(str(encoder.tokenizer.chat_template).encode()).hexdigest()[:16],
        "n_generation_prompts": n_prompts,
        "n_chats_with_rewritten_turns": n_hidden,
    }
    return out


def _texts(columns: Columns, column: str) -> list[str]:
    for i, text in enumerate(columns.values[column]):
        if missing(text) or text == "":
            raise BadInput(f"{columns.row(i)} has an empty text in column '{column}': fill it in or drop the row.")
    return columns.present_as(str, column, f"the text column '{column}'", "a string")


def pair_texts(columns: Columns, members: Sequence[str]) -> list[str]:
    """Each row's own member of its pair."""
    both = {name: _texts(columns, name) for name in members}
    return [both[name][i] for i, name in enumerate(columns.values[PAIR])]


def _field(columns: Columns, column: str) -> list[str]:
    """A template's field: texts and numbers, as they are written."""
    where = f"column '{column}', a field of the template"
    return [str(value) for value in columns.present_as(str | int | float, column, where, "a text or a number")]


def _messages(columns: Columns, i: int, column: str) -> list[tuple[str, Prompt]]:
    """A chat's turns: a list of {role, content}, in CSV as JSON."""
    value = columns.present(column)[i]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            value = None
    turns = as_list(value)
    good = turns and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )
    if not turns or not good:
        raise BadInput(
            f"{columns.row(i)} has no chat in column '{column}': give a list of messages (in CSV as JSON), each with a "
            "`role` and a `content` that are texts."
        )
    return [(turn["role"], Prompt(turn["content"])) for turn in turns]


def _spans(spec: TaskSpec, columns: Columns, i: int, text: str) -> dict[str, list[tuple[int, int]]]:
    """Characters of the spans that the spec names; a row whose cells are empty has none."""
    marks = {}
    for name, where in spec.spans.items():
        cells = [columns.values[column][i] for column in ([where] if isinstance(where, str) else where)]
        if any(missing(cell) for cell in cells):
            continue
        if isinstance(where, str):
            n = text.count(str(cells[0])) if cells[0] else 0
            if n != 1:
                raise BadInput(
                    f"{columns.row(i)}: the text of span '{name}', {str(cells[0])[:40]!r}, is there {n} times: it must "
                    "stand in the text exactly once; give columns of its first and last-plus-one character."
                )
            start = text.index(str(cells[0]))
            marks[f"span:{name}"] = [(start, start + len(str(cells[0])))]
            continue
        if spec.source != "text":
            raise BadInput(
                f"span '{name}' counts characters, which only a `text` column has for certain: name a field or a turn."
            )
        start, stop = (columns.integers(i, column, "characters", single=True).tolist() for column in where)
        if len(start) != 1 or len(stop) != 1 or not start[0] < stop[0] <= len(text):
            raise BadInput(
                f"{columns.row(i)}: span '{name}' runs from {start} to {stop} in a text of {len(text)} characters: "
                "give its first and last-plus-one character."
            )
        marks[f"span:{name}"] = [(start[0], stop[0])]
    return marks


def _cut(
    tokens: Sequence[NDArray], how: str, columns: Columns, encoder: Encoder | None, audit: dict[str, Any]
) -> list[int]:
    """How many tokens of each row the model gets."""
    lengths = [len(ids) for ids in tokens]
    for i, n in enumerate(lengths):
        if not n:
            raise BadInput(f"{columns.row(i)} has no tokens: fill them in or drop the row.")
    if encoder is None or encoder.n_ctx is None:
        return lengths
    long = [i for i, n in enumerate(lengths) if n > encoder.n_ctx]
    if long and how == "refuse":
        raise BadInput(
            f"{columns.row(long[0])} has {lengths[long[0]]} tokens and {encoder.name} reads {encoder.n_ctx} "
            f'({len(long)} such rows): shorten them, or set truncate = "right" to read their beginning.'
        )
    audit["n_truncated"] = len(long)
    return [min(n, encoder.n_ctx) for n in lengths]


def _kept_spans(examples: _Examples, kept: Sequence[int]) -> dict[str, list[NDArray[np.int64]]]:
    """Name -> tokens of its stretches in each example, without what was cut off."""
    if examples.spans is None:
        return {}
    names = dict.fromkeys(name for spans in examples.spans for name in spans)
    nothing = np.zeros((0, 2), np.int64)
    return {name: [np.minimum(spans.get(name, nothing), n) for spans, n in zip(examples.spans, kept, strict=True)]
            for name in names}  # fmt: skip


def _positions(
    places: Sequence[Place], columns: Columns, examples: _Examples, kept: Sequence[int], audit: dict[str, Any]
) -> tuple[list[NDArray[np.int64]], dict[str, NDArray[np.bool_]]]:
    """(positions, which rows each of several rules names): rule after rule, a token that several name read once."""
    if examples.spans is None and any(place.kind == "mark" for place in places):
        marked = next(place.text for place in places if place.kind == "mark")
        raise BadInput(
            f"position '{marked}' needs text and a fast tokenizer, which says the characters of each token: use "
            "column:<name> or mask:<name>."
        )
    positions, named = [], {place.text: [] for place in places}
    for i, (ids, n_kept) in enumerate(zip(examples.tokens, kept, strict=True)):
        spans = examples.spans[i] if examples.spans else {}
        found = {place.text: place.at(columns, i, len(ids), spans, n_kept) for place in places}
        positions.append(np.array(list(dict.fromkeys(chain(*found.values()))), dtype=np.int64))
        for name, at in found.items():
            named[name].append(np.isin(positions[-1], at))
    rules = {name: np.concatenate(parts) for name, parts in named.items()}
    audit["positions"] = {name: int(rows.sum()) for name, rows in rules.items()}
    audit["n_named_twice"] = sum(audit["positions"].values()) - sum(map(len, positions))
    return positions, rules if len(rules) > 1 else {}


def _check_ids(columns: Columns, column: str | None) -> None:
    first: dict[str, int] = {}
    for row, name in zip(columns.numbers, columns.names(column, "id") if column else (), strict=False):
        if first.setdefault(name, row) != row:
            raise BadInput(
                f"{columns.path} has the id '{name}' in rows {first[name]} and {row}: drop one, or name them "
                "differently."
            )


def groups_of(spec: TaskSpec, columns: Columns, domain: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """Group number of each row, in order of first appearance, and what is to be told of texts in several groups.

    Without a column each row of the file is a group. Groups that are copies of each other are one unless asked
    otherwise (inputs/copies.py).
    """
    names = columns.names(spec.group, "group") if spec.group else [str(number) for number in columns.numbers]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    group = np.array([number[name] for name in names], dtype=np.int64)
    known: dict[str, int] = {}
    input_ = np.array([known.setdefault(text, len(known)) for text in _inputs(spec, columns)], dtype=np.int64)
    return merged(group, input_, numbered(np.array(domain)), spec.copies)


def _inputs(spec: TaskSpec, columns: Columns) -> list[str]:
    """What each row reads, as it is written in the file."""
    if spec.pair is not None:
        return [str(columns.values[name][i]) for i, name in enumerate(columns.values[PAIR])]
    named = [spec.text, spec.tokens, spec.messages, *chain(*(template.fields for template in templates(spec)))]
    cells = zip(*(columns.values[name] for name in dict.fromkeys(named) if name is not None), strict=True)
    return [repr([as_list(value) or value for value in row]) for row in cells] or [""] * len(columns)


def _groups(spec: TaskSpec, columns: Columns, domain: list[str], audit: dict[str, Any]) -> NDArray[np.int64]:
    """Group number of each row; what became of copies is in the audit."""
    group, told = groups_of(spec, columns, domain)
    if told:
        audit["copies"] = told
    # The first domain is the seen one, which is always split.
    n_groups = len(np.unique(group[np.array(domain) == domain[0]]))
    if n_groups < LEAST_ROWS:
        what = f"column '{spec.group}' has {n_groups} groups" if spec.group else f"there are {n_groups} rows"
        raise BadInput(
            f"{columns.path}: {what} in domain '{domain[0]}', so a side of the split would be empty: give "
            f"{LEAST_ROWS} or more."
        )
    return group


# Labels


def _per_place(column: str, columns: Columns, positions: Sequence[NDArray]) -> Rows:
    """The column's value at every place that is read: a list has one for each, anything else holds at all of them."""
    out: Rows = []
    for i, (value, places) in enumerate(zip(columns.present(column), positions, strict=True)):
        listed = as_list(value)
        if listed is not None and len(listed) != len(places):
            raise BadInput(
                f"{columns.row(i)} has {len(listed)} values in column '{column}' and is read at {len(places)} "
                "positions: give one for each, or a single one for all."
            )
        out += [(i, each) for each in ([value] * len(places) if listed is None else listed)]
    for i, value in out:
        columns.check_present(i, column, value)
    return [(i, value.item() if isinstance(value, np.generic) else value) for i, value in out]


def _classes(name: str, column: str, columns: Columns, rows: Rows) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(class at each place [n], class names): numbers in order of size, all else by name."""
    for i, value in rows:
        if isinstance(value, float | list | dict | np.ndarray):
            raise BadInput(f"{columns.row(i)} has {value!r} for '{name}' in column '{column}': give a class, as a word "
                           "or an integer.")  # fmt: skip
    values = [value for _, value in rows]
    numbers = all(isinstance(value, int) for value in values)
    known = sorted(set(values)) if numbers else sorted({str(value) for value in values})
    number = {value: i for i, value in enumerate(known)}
    labels = np.array([number[value if numbers else str(value)] for value in values], dtype=np.int64)
    return labels, tuple(str(value) for value in known)


def _label(entry: BehaviourEntry, columns: Columns, positions: Sequence[NDArray]) -> Behaviour:
    """A label column as a law: classes one-hot; a column of fractions is the probability of the second outcome."""
    assert entry.column is not None  # as `check_keys` saw
    rows = _per_place(entry.column, columns, positions)
    if entry.kind == "value":
        return _number(entry.name, entry.column, columns, rows)
    if any(isinstance(value, float) for _, value in rows):
        return _fractions(entry.name, entry.column, columns, rows)
    labels, names = _classes(entry.name, entry.column, columns, rows)
    if len(names) > MAX_OUTCOMES:
        # Reduced before it is spread out: one-hot rows of a column of ids would be as wide as the file is long.
        counts = np.bincount(labels)
        kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_OUTCOMES])
        new = np.full(len(names), MAX_OUTCOMES)
        new[kept] = np.arange(MAX_OUTCOMES)
        law = np.eye(MAX_OUTCOMES + 1, dtype=np.float32)[new[labels]]
        covered = float(counts[kept].sum() / len(labels))
        return Behaviour(entry.name, law, (*(names[i] for i in kept), "rest"), covered)
    return Behaviour(entry.name, np.eye(len(names), dtype=np.float32)[labels], names)


def _check_varies(labels: Mapping[str, Behaviour], columns: Columns, domain: NDArray[np.str_]) -> None:
    try:
        find_constant(labels, domain, list(dict.fromkeys(domain.tolist())))
    except BadInput as error:
        raise BadInput(f"{columns.path}: {error}") from None


def _fractions(name: str, column: str, columns: Columns, rows: Rows) -> Behaviour:
    for i, value in rows:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadInput(
                f"{columns.row(i)} has {value!r} for '{name}' in column '{column}': give classes, or numbers in "
                "[0, 1], or ask for kind value."
            )
    second = np.array([value for _, value in rows], dtype=np.float32)
    return Behaviour(name, np.stack([1 - second, second], axis=1), ("0", "1"))


def _number(name: str, column: str, columns: Columns, rows: Rows) -> Behaviour:
    for i, value in rows:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(
                f"{columns.row(i)} has {value!r} for '{name}' in column '{column}': a behaviour of kind value takes "
                "numbers; for classes ask for kind label."
            )
    return Behaviour.number(name, np.array([value for _, value in rows]))


def _feature(name: str, column: str, columns: Columns, positions: Sequence[NDArray]) -> Feature:
    labels, classes = _classes(name, column, columns, _per_place(column, columns, positions))
    if len(classes) < 2:
        only = ", ".join(classes)
        raise BadInput(
            f"{columns.path}: feature '{name}' has one class ('{only}') in column '{column}': give rows of another too."
        )
    if len(classes) > MAX_OUTCOMES:
        raise BadInput(
            f"{columns.path}: feature '{name}' has {len(classes)} classes in column '{column}': give at most "
            f"{MAX_OUTCOMES}."
        )
    return Feature(name, labels[:, None], classes, (name,))
