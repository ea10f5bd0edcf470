"""Prompts: rows of a file as texts and chats, and where in them what has a name stands."""

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, check_text
from probekit.inputs.columns import PAIR, Columns, as_list
from probekit.inputs.positions import Place, token_spans
from probekit.inputs.text import Encoder, Prompt, Template, render_chat
from probekit.inputs.words import missing, word
from probekit.spec import TaskSpec


def templates(spec: TaskSpec) -> list[Template]:
    """The template of the text, or one per turn of the chat. Raises BadInput for one that cannot be read."""
    texts = [spec.template] if spec.template is not None else [turn.content for turn in spec.chat or ()]
    return [Template.parse(text) for text in texts]


def prompts_of(spec: TaskSpec, columns: Columns, encoder: Encoder, audit: dict[str, Any]) -> list[Prompt]:
    """What the model reads of each row, of a source that is no token ids; how chats were made is in the audit."""
    if not spec.source_is_chat:
        return plain_prompts(spec, columns)
    out, n_prompts, n_hidden = [], 0, 0
    for i, chat in enumerate(chats(spec, columns)):
        wanted = chat[-1][0] != "assistant" if spec.generation_prompt is None else spec.generation_prompt
        try:
            prompt = render_chat(chat, lambda messages, wanted=wanted: encoder.chat(messages, wanted, spec.clock))
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


def plain_prompts(spec: TaskSpec, columns: Columns) -> list[Prompt]:
    """What the model reads of each row, of a source that is no chat and no token ids."""
    if spec.text is not None:
        return [Prompt(text) for text in _texts(columns, spec.text)]
    if spec.pair is not None:
        both = {name: _texts(columns, name) for name in spec.pair}
        return [Prompt(both[name][i]) for i, name in enumerate(columns.values[PAIR])]
    filled = [prompt for (prompt,) in _filled(spec, columns)]
    for i, prompt in enumerate(filled):
        if not prompt.text:
            raise BadInput(f"{columns.row(i)} leaves the template empty: fill its fields in or drop the row.")
    return filled


def _filled(spec: TaskSpec, columns: Columns) -> list[list[Prompt]]:
    """Each row's templates with their fields filled in."""
    pieces = templates(spec)
    values = {name: _field(columns, name) for template in pieces for name in template.fields}
    return [[template.fill({name: values[name][i] for name in template.fields}) for template in pieces]
            for i in range(len(columns))]  # fmt: skip


def chats(spec: TaskSpec, columns: Columns) -> list[list[tuple[str, Prompt]]]:
    """Each row's turns: (role, what it says)."""
    if spec.messages is not None:
        return [_messages(columns, i, spec.messages) for i in range(len(columns))]
    if not spec.chat:
        raise BadInput("`chat` has no turns: give at least one {role, content}.")
    roles = [turn.role for turn in spec.chat]
    return [list(zip(roles, turns, strict=True)) for turns in _filled(spec, columns)]


def _texts(columns: Columns, column: str) -> list[str]:
    for i, text in enumerate(columns.values[column]):
        if missing(text):
            raise BadInput(
                f"{columns.row(i)} has an empty text in column '{column}': fill it in, drop the row, or leave such "
                'rows out with missing = "drop".'
            )
    return columns.present_as(str, column, f"the text column '{column}'", "a string")


def _field(columns: Columns, column: str) -> list[str]:
    """A template's field: texts and numbers, as they are written. A text may be empty."""
    give = f"in column '{column}', a field of the template: give a text or a number"
    cells = ["" if columns.is_empty(value) else value for value in columns.values[column]]
    for i, value in enumerate(cells):
        if not isinstance(value, str):
            columns.check_present(i, column, value)
        if not isinstance(value, str | int | float):
            raise BadInput(f"{columns.row(i)} has a {type(value).__name__} {give}.")
    return [word(value) for value in cells]


def _messages(columns: Columns, i: int, column: str) -> list[tuple[str, Prompt]]:
    """A chat's turns: a list of {role, content}, in CSV as JSON."""
    value = columns.present(column)[i]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
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
    for turn in turns:  # JSON in a CSV is text until here
        check_text(turn["role"] + turn["content"], f"{columns.row(i)}, column '{column}',")
    return [(turn["role"], Prompt(turn["content"])) for turn in turns]


def named_marks(spec: TaskSpec, columns: Columns, i: int, text: str) -> dict[str, list[tuple[int, int]]]:
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


def opened(
    encoder: Encoder, text: str, rule: str, plain: bool, time: datetime | None = None
) -> tuple[NDArray[np.int64], int]:
    """(ids of one text that a model is to go on from, the first token that a rule of positions names in it).

    plain: as it stands, and what the tokenizer puts behind a text is left out; otherwise it is the user's turn of a
    chat, the assistant's being opened behind it. time: what a chat template that asks for it is told. Raises BadInput.
    """
    check_text(text, "the prompt")
    place, asked = Place.parse(rule), Prompt(text)
    if place.kind in ("column", "mask"):
        raise BadInput(f"a prompt has no columns, and '{rule}' names one: write last, all or role:user:first, say.")
    if not plain:
        asked = render_chat([("user", asked)], lambda turns: encoder.chat(turns, True, time))
    made = encoder.encode([asked.text], special=plain)
    ids = made.tokens[0][: len(made.tokens[0]) - int(made.n_behind[0])]
    spans = {} if made.offsets is None else token_spans(asked, made.offsets[0])[0]
    only = Columns(Path("the prompt,"), {}, [1])  # a rule asks for a file's row, to speak of it
    return ids, min(place.at(only, 0, len(ids), spans, len(ids)))
