"""A Task read from a file of rows whose columns a TaskSpec names. Every mistake is one BadInput sentence.

Rows are numbered from 1 in messages, a header not counted. A position counts tokens as the tokeniser returns them, so a
beginning-of-sequence token that it adds is position 0.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, check_text, printable
from probekit.inputs.behaviours import answer_cells, answer_columns, behaviour_of, check_keys, is_column
from probekit.inputs.columns import LEAST_ROWS, PAIR, Columns, as_list, check_free, read_columns
from probekit.inputs.context import Given
from probekit.inputs.copies import merged, numbered
from probekit.inputs.labels import check_varies, classes_of, feature, label, per_place
from probekit.inputs.positions import Place, parse_places, token_spans
from probekit.inputs.prompts import chats, named_marks, plain_prompts, prompts_of, templates
from probekit.inputs.text import Encoder, Prompt
from probekit.inputs.words import alike, listed, say_missing
from probekit.records import digest
from probekit.spec import TaskSpec
from probekit.task import Task


def read_file_task(spec: TaskSpec, base: Path, encoder: Encoder | None = None) -> Task:
    """Read `spec.file` (relative to `base`) into a Task.

    encoder: the model's tokenizer with its policies; None where token ids are read. A label or feature that is a list
    has one value for each position of its row; a single one holds at all of them. Raises BadInput.
    """
    asked_columns(spec)  # what is wrong whatever the file holds is told first
    check_bos(spec, "as_is" if encoder is None else encoder.bos)
    return task_of(spec, read_rows(spec, base), encoder)


def task_of(spec: TaskSpec, columns: Columns, encoder: Encoder | None = None, split: bool = True) -> Task:
    """`read_file_task` of a file's cells. split: whether they are data to be split; else each row is a group."""
    source, places = spec.source, parse_places(spec.position)
    domain = domain_names(columns, spec.domain)
    _check_ids(columns, spec.id)
    audit: dict[str, Any] = {
        "source": source,
        "n_dropped": sum(columns.dropped.values()),
        "told": told_of(spec, columns),
    }
    examples = (
        _Examples([columns.integers(i, spec.tokens, "token ids") for i in range(len(columns))])
        if spec.tokens
        else _read_text(spec, source, columns, encoder, audit)
    )
    kept = _cut(examples.tokens, spec.truncate, columns, encoder, audit)
    positions, rules = _positions(places, columns, examples, kept, audit)
    answer = _answers(spec, columns, examples, kept)
    labels = {entry.name: label(entry, columns, per_place(str(entry.column), columns, positions))
              for entry in spec.behaviours if is_column(entry)}  # fmt: skip
    row_example = np.repeat(np.arange(len(columns)), [len(p) for p in positions])
    if len(labels) == len(spec.behaviours) and spec.sampled is None:  # what the model does is not known yet
        check_varies(labels, columns, np.array(domain, dtype=np.str_)[row_example])
    tokens = [ids[:n] for ids, n in zip(examples.tokens, kept, strict=True)]
    said = positions if answer is None else list(answer[:, None])
    _check_behind(spec, columns, examples, said, encoder)
    read = Given(
        examples.prompts, tokens, [len(ids) for ids in examples.tokens], row_example,
        np.concatenate(positions) if answer is None else answer[row_example], examples.ends, not spec.source_is_chat,
    )  # fmt: skip
    behaviours = [behaviour_of(entry, labels, columns, encoder, read) for entry in spec.behaviours]
    group, copies = groups_of(spec, columns, domain) if split else (np.arange(len(columns)), "")
    audit |= {"copies": copies} if copies else {}
    return Task(
        name=columns.name,
        tokens=tokens,
        positions=positions,
        group=group,
        domain=np.array(domain, dtype=np.str_),
        behaviours=behaviours,
        features={entry.name: feature(entry, columns, per_place(entry.column, columns, positions))
                  for entry in spec.features},
        labels=labels,
        fingerprint=_fingerprint(spec, columns.path, tokens, positions),
        spans=_kept_spans(examples, kept),
        audit=audit,
        rules=rules,
        answer=answer,
    )  # fmt: skip


def read_rows(spec: TaskSpec, base: Path) -> Columns:
    """The file's cells that are asked for, one row per example: of a task of pairs each row of the file is two."""
    asked, path = asked_columns(spec), base / str(spec.file)
    check_text(path.name, "the name of the task's file")  # which records have
    named = set(_named(spec))
    check_free(path, {name: columns for name, columns in _made(spec).items() if name in named})
    columns = read_columns(path, asked)
    if spec.missing == "drop":
        # A row may lack a span, unless its column is read as something else too.
        asked = asked_columns(spec.model_copy(update={"spans": {}}))
        pieces = asked.keys() - asked_columns(spec.model_copy(update={"spans": {}, "template": None, "chat": None}))
        bare = [made.fields for made in templates(spec) if all(is_field for _, is_field in made.parts)]
        columns = columns.without_missing(asked, pieces, filter(None, bare))
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


def asked_columns(spec: TaskSpec) -> dict[str, str]:
    """Column of the file -> what it was asked as, for messages.

    Raises BadInput for what is wrong with a file's task whatever its file holds.
    """
    asked, made = _named(spec), _made(spec)
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
    return {name: role for name, role in asked.items() if name not in made}


def _named(spec: TaskSpec) -> dict[str, str]:
    if spec.file is None:
        raise BadInput("the task names no file: give `file`, or a `testbed` instead.")
    if spec.n_positions is not None:
        raise BadInput("n_positions is for testbeds: a file is read where `position` says, or at the last token.")
    if not spec.behaviours and spec.sampled is None:
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
        columns = answer_columns(entry) if entry.column is None else [entry.column]
        asked |= dict.fromkeys(columns, f"'{entry.name}'")
    asked |= {entry.column: f"'{entry.name}'" for entry in spec.features}
    places += [] if spec.answer is None else [Place.parse(spec.answer)]
    asked |= {place.name: "position" for place in places if place.kind in ("column", "mask")}
    for name, where in spec.spans.items():
        asked |= dict.fromkeys([where] if isinstance(where, str) else where, f"span '{name}'")
    for template in templates(spec):
        asked |= dict.fromkeys(template.fields, "a field of the template")
    for role in ("text", "tokens", "messages", "id", "group", "domain"):
        if (column := getattr(spec, role)) is not None:
            asked[column] = role
    return asked | dict.fromkeys(spec.pair or (), PAIR)


# What can be seen in the rows without a model


def check_rows(spec: TaskSpec, columns: Columns) -> tuple[NDArray[np.int64], str]:
    """Raise BadInput for what is wrong in the rows whatever the model makes of them. Reading the task finds it too.

    Returns what `groups_of` does, which takes most of the time.
    """
    domain = domain_names(columns, spec.domain)
    _check_ids(columns, spec.id)
    groups = groups_of(spec, columns, domain)
    labels = {entry.name: label(entry, columns, columns.cells(str(entry.column)))
              for entry in spec.behaviours if is_column(entry)}  # fmt: skip
    if (
        len(labels) == len(spec.behaviours)
        and spec.sampled is None
        and all(len(b.law) == len(columns) for b in labels.values())
    ):
        check_varies(labels, columns, np.array(domain, dtype=np.str_))
    for entry in spec.features:
        feature(entry, columns, columns.cells(entry.column))
    for entry in spec.behaviours:
        answer_cells(entry, columns, spec.tokens is None)
    for place in parse_places(spec.position):
        for i in range(len(columns)) if place.kind == "column" else ():
            columns.integers(i, place.name, "positions", single=True)
    if spec.tokens is not None:
        for i in range(len(columns)):
            columns.integers(i, spec.tokens, "token ids")
    elif spec.source_is_chat:
        chats(spec, columns)
    else:
        for i, prompt in enumerate(plain_prompts(spec, columns)):
            named_marks(spec, columns, i, prompt.text)
    return groups


def told_of(spec: TaskSpec, columns: Columns) -> list[str]:
    """Sentences on what was done with the file, or is in it, that may not be what its owner thinks."""
    told = []
    if columns.dropped:
        lacking = " and ".join(f"{n:,} without a value in column '{name}'" for name, n in columns.dropped.items())
        told.append(f"{sum(columns.dropped.values()):,} of the file's rows left out: {lacking}")
    named = {f"the {role} column '{column}'": columns.names(column, role)
             for role, column in (("group", spec.group), ("domain", spec.domain)) if column}  # fmt: skip
    labels = [("behaviour", entry) for entry in spec.behaviours if entry.kind == "label"]
    for what, entry in [*labels, *(("feature", entry) for entry in spec.features)]:
        if (classes := classes_of(entry, columns)) is not None:
            named[f"{what} '{entry.name}'"] = classes
        elif what == "behaviour":
            told.append(f"behaviour '{entry.name}' has fractions: each is read as the probability of `1` against `0`")
    for entry in spec.behaviours if spec.tokens is None else ():
        for name in answer_columns(entry):
            if any(isinstance(answer, int) for _, answer in columns.cells(name)):
                told.append(f"behaviour '{entry.name}' takes the numbers in column '{name}' as token ids")
    for name, values in columns.values.items():
        if n := sum("\ufffd" in value for value in values if isinstance(value, str)):
            told.append(
                f"column '{name}' has a \ufffd in {n:,} of its cells, which programs write for a letter that they lack"
            )
    for what, names in named.items():
        if sets := alike(names):
            more = f" (and {len(sets) - 1:,} more such sets)" if len(sets) > 1 else ""
            told.append(f"{what} has names that look alike and are told apart: {listed(sets[0])}{more}")
        if found := say_missing(names):
            told.append(f"{what} has names that may stand for a missing value and are names here: {listed(found)}")
    return list(map(printable, told))


# Examples


@dataclass(frozen=True)
class _Examples:
    """Tokens of each row, uncut, and of every stretch of text that has a name its first and last-plus-one token.

    prompts: what they were made from, where that is text. n_behind: special tokens that were put behind each.
    ends: the last-plus-one character of each token, where they are known.
    """

    tokens: list[NDArray[np.int64]]
    spans: list[dict[str, NDArray[np.int64]]] | None = None
    prompts: list[Prompt] | None = None
    n_behind: NDArray[np.int64] | None = None
    ends: list[NDArray[np.int64]] | None = None


def _read_text(
    spec: TaskSpec, source: str, columns: Columns, encoder: Encoder | None, audit: dict[str, Any]
) -> _Examples:
    """Render, tokenise and find the stretches that have names."""
    if encoder is None:
        raise BadInput(f"`{source}` makes text and the model has no tokeniser: name a `tokens` column instead.")
    prompts = prompts_of(spec, columns, encoder, audit)
    for i, prompt in enumerate(prompts):
        if spec.spans:
            prompts[i] = replace(prompt, marks=prompt.marks | named_marks(spec, columns, i, prompt.text))
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
    audit["n_with_special_behind"] = int((tokenised.n_behind > 0).sum())
    spans = ends = None
    if tokenised.offsets is not None:
        ends = [offsets[:, 1] for offsets in tokenised.offsets]
        found = [token_spans(prompt, offsets) for prompt, offsets in zip(prompts, tokenised.offsets, strict=True)]
        audit["n_spans_inside_a_token"] = sum(n_split for _, n_split in found)
        spans = [marks for marks, _ in found]
    around = zip(tokenised.n_bos.tolist(), tokenised.n_behind.tolist(), strict=True)
    said = [ids[n : len(ids) - m].tolist() for ids, (n, m) in zip(tokenised.tokens, around, strict=True)]
    if spec.source_is_chat:  # a turn's end is no part of what the turn says
        said = [_of_turns(ids, marks) for ids, marks in zip(tokenised.tokens, spans or (), strict=False)]
    _tell_of_control(said, encoder, audit)
    return _Examples(tokenised.tokens, spans, prompts, tokenised.n_behind, ends)


def _of_turns(ids: NDArray[np.int64], spans: Mapping[str, NDArray[np.int64]]) -> list[int]:
    """The tokens of what the turns of a chat say."""
    turns = (span for name, found in spans.items() if name.startswith("role:") for span in found.tolist())
    return [token for start, stop in turns for token in ids[start:stop].tolist()]


def _tell_of_control(said: Sequence[Sequence[int]], encoder: Encoder, audit: dict[str, Any]) -> None:
    """Count the texts that contain special tokens, which end a text or a turn for the model."""
    held = [[token for token in ids if token in encoder.special] for ids in said]
    n = audit["n_with_control_tokens"] = sum(map(bool, held))
    if n:
        token = encoder.tokenizer.convert_ids_to_tokens(next(filter(None, held))[0])
        texts = "text contains" if n == 1 else "texts contain"
        audit["told"].append(
            f"{n:,} {texts} tokens that {encoder.name}'s tokenizer takes for control, such as {token!r}: the model "
            "sees them as such, and not as the letters that they are written with"
        )


def _check_behind(
    spec: TaskSpec, columns: Columns, examples: _Examples, positions: Sequence[NDArray], encoder: Encoder | None
) -> None:
    """Raise BadInput where what the model does is asked for behind a special token that ends the text."""
    asked = [entry for entry in spec.behaviours if not (is_column(entry) or entry.kind == "logprob")]
    asked += [entry for entry in spec.behaviours if entry.completion is not None]
    if examples.n_behind is None or encoder is None or not asked:
        return
    for i, (ids, n, places) in enumerate(zip(examples.tokens, examples.n_behind.tolist(), positions, strict=True)):
        whole = any(entry.whole or entry.completion for entry in asked)
        if n and (whole or places.max() >= len(ids) - n):
            raise BadInput(
                f"{columns.row(i)} is read behind {encoder.tokenizer.convert_ids_to_tokens(int(ids[-n]))!r}, which "
                f"{encoder.name}'s tokenizer puts at the end of each text, and behaviour '{asked[0].name}' is what "
                'follows the text: set eos = "none" in [model].'
            )


def _encoded(encoder: Encoder, prompt: Prompt, spec: TaskSpec) -> NDArray[np.int64]:
    try:
        return encoder.encode([prompt.text], special=not spec.source_is_chat).tokens[0]
    except BadInput:
        return np.zeros(0, np.int64)


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


def _answers(spec: TaskSpec, columns: Columns, examples: _Examples, kept: Sequence[int]) -> NDArray[np.int64] | None:
    """The token of each row behind which the model's own behaviours are read, where a rule of its own names it."""
    if spec.answer is None:
        return None
    place = Place.parse(spec.answer)
    if examples.spans is None and place.kind == "mark":
        raise BadInput(
            f"`answer` '{place.text}' needs text and a fast tokenizer: use last, column:<name> or mask:<name>."
        )
    out = []
    for i, (ids, n_kept) in enumerate(zip(examples.tokens, kept, strict=True)):
        found = place.at(columns, i, len(ids), examples.spans[i] if examples.spans else {}, n_kept)
        if len(found) != 1:
            raise BadInput(
                f"{columns.row(i)}: `answer` '{place.text}' names {len(found)} tokens, and an answer is read behind "
                f"one: write '{place.text}:last', say."
            )
        out += found
    return np.array(out, dtype=np.int64)


def _check_ids(columns: Columns, column: str | None) -> None:
    first: dict[str, int] = {}
    for row, name in zip(columns.numbers, columns.names(column, "id") if column else (), strict=False):
        if first.setdefault(name, row) != row:
            raise BadInput(
                f"{columns.path} has the id '{name}' in rows {first[name]} and {row}: drop one, or name them "
                "differently."
            )


def domain_names(columns: Columns, column: str | None) -> list[str]:
    """Name of each row's situation."""
    return columns.names(column, "domain") if column else ["all"] * len(columns)


def groups_of(spec: TaskSpec, columns: Columns, domain: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """Group number of each row, in order of first appearance, and what is to be told of texts in several groups.

    Without a column each row of the file is a group. Groups that are copies of each other are one unless asked
    otherwise (inputs/copies.py). Raises BadInput where too few are left to be split.
    """
    names = columns.names(spec.group, "group") if spec.group else [str(number) for number in columns.numbers]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    group = np.array([number[name] for name in names], dtype=np.int64)
    known: dict[str, int] = {}
    input_ = np.array([known.setdefault(text, len(known)) for text in _inputs(spec, columns)], dtype=np.int64)
    group, told = merged(group, input_, numbered(np.array(domain)), spec.copies, few=spec.tokens is not None)
    # The first domain is the seen one, which is always split.
    n_groups = len(np.unique(group[np.array(domain) == domain[0]]))
    if n_groups < LEAST_ROWS:
        what = f"column '{spec.group}' has {n_groups} groups" if spec.group else f"there are {n_groups} rows"
        why = f" ({told})" if told else ""
        raise BadInput(
            f"{columns.path}: {what} in domain '{domain[0]}'{why}, so a side of the split would be empty: give "
            f"{LEAST_ROWS} or more."
        )
    return group, told


def _inputs(spec: TaskSpec, columns: Columns) -> list[str]:
    """What each row reads, as it is written in the file."""
    if spec.pair is not None:
        return [str(columns.values[name][i]) for i, name in enumerate(columns.values[PAIR])]
    named = [spec.text, spec.tokens, spec.messages, *chain(*(template.fields for template in templates(spec)))]
    cells = zip(*(columns.values[name] for name in dict.fromkeys(named) if name is not None), strict=True)
    return [repr([as_list(value) or value for value in row]) for row in cells] or [""] * len(columns)
