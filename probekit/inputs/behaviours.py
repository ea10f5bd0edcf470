"""Answers: from the behaviours of a spec, written in words, to tokens. Every mistake is one BadInput sentence."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.columns import Columns, as_list
from probekit.inputs.context import OF_ANSWERS, Given, differ, following, place_tokens
from probekit.inputs.text import Encoder
from probekit.spec import BehaviourEntry
from probekit.task import NO_MATCH, Behaviour, BehaviourSpec, Generation, Scoring

_TAKES: Mapping[str, tuple[tuple[str, ...], ...]] = {  # kind -> keys that it may be given, in the alternatives it has
    "label": (("column",),),
    "groups": (("sets",),),
    "generation": (("match", "n_tokens"),),
    "choice": (("tokens",), ("answers",)),
    "logit_diff": (("tokens",), ("correct", "wrong")),
    "value": (("column",), ("tokens",), ("correct", "wrong")),
    "law": (("tokens",),),
    "argmax": (("tokens",),),
    "logprob": (("completion",),),
}
_KEYS = ("tokens", "sets", "column", "answers", "correct", "wrong", "match", "n_tokens", "completion")
_OF_GENERATION = ("samples", "temperature", "seed")


def behaviour_of(
    entry: BehaviourEntry, labels: Mapping[str, Behaviour], columns: Columns, encoder: Encoder | None, read: Given
) -> BehaviourSpec:
    """A behaviour with its tokens resolved, behind the places that are read. labels: those of `label` behaviours."""
    given = check_keys(entry)
    if entry.kind == "logprob" or entry.whole:
        return _scored(entry, given, columns, encoder, read)
    if is_column(entry):
        return BehaviourSpec(entry.name, "label", outcomes=labels[entry.name].outcomes)
    if entry.kind == "groups":
        return BehaviourSpec(entry.name, "groups", sets=_sets(entry, columns, encoder, read))
    if entry.kind == "generation":
        return BehaviourSpec(entry.name, "generation", generation=_generation(entry, encoder))
    if given in (("answers",), ("correct", "wrong")):
        answers = answer_cells(entry, columns, read.prompts is not None)
        tokens = place_tokens(f"behaviour '{entry.name}'", answers, columns, encoder, read, entry.first_token)
        names = given if len(given) > 1 else tuple(f"answer {i + 1}" for i in range(tokens.shape[1]))
        return BehaviourSpec(entry.name, entry.kind, outcomes=names, row_tokens=tokens)
    least, most = {"logit_diff": (2, 2), "value": (2, 2), "choice": (2, math.inf)}.get(entry.kind, (0, math.inf))
    n_tokens = len(entry.tokens or ())
    if not least <= n_tokens <= most or entry.tokens == ():
        asked = "exactly 2" if most == 2 else f"at least {max(least, 1)}"
        raise BadInput(f"behaviour '{entry.name}' of kind {entry.kind} takes {asked} tokens; found {n_tokens}.")
    if entry.tokens is None:
        return BehaviourSpec(entry.name, entry.kind)
    outcomes = tuple(str(token) for token in entry.tokens)
    ids = _behind_all(entry, entry.tokens, columns, encoder, read)
    if len(ids) == 1:
        return BehaviourSpec(entry.name, entry.kind, tokens=tuple(ids[0].tolist()), outcomes=outcomes)
    return BehaviourSpec(entry.name, entry.kind, outcomes=outcomes, row_tokens=ids)


def _behind_all(
    entry: BehaviourEntry, answers: Sequence[int | str], columns: Columns, encoder: Encoder | None, read: Given
) -> NDArray[np.int64]:
    """The tokens of answers that all rows have: [1, k] where they are the same behind every place, else [n_places, k].

    Raises BadInput where they differ in a behaviour that has the same outcomes for all rows.
    """
    where = f"behaviour '{entry.name}'"
    ids = place_tokens(where, [answers] * len(columns), columns, encoder, read, entry.first_token)
    odd = np.argwhere(ids != ids[:1])
    if not len(odd):
        return ids[:1]
    if entry.kind not in OF_ANSWERS:
        n, j = odd[0].tolist()
        one, other = (columns.row(int(read.example[place])) for place in (0, n))
        raise BadInput(
            f"{where} of kind {entry.kind} has the same outcomes for all rows, and {answers[j]!r} is token {ids[0, j]} "
            f"behind {one} and {ids[n, j]} behind {other}: let the texts end alike, before a blank or behind it."
        )
    return ids


def is_column(entry: BehaviourEntry) -> bool:
    """Whether a behaviour is a column of the file, and nothing that the model does."""
    return entry.kind == "label" or (entry.kind == "value" and entry.column is not None)


def check_keys(entry: BehaviourEntry) -> tuple[str, ...]:
    """Which of the alternatives of its kind an entry gives; raises BadInput for keys that do not belong together."""
    choices = _TAKES[entry.kind]
    given = tuple(key for key in _KEYS if getattr(entry, key) is not None)
    where = f"behaviour '{entry.name}' of kind {entry.kind}"
    taken = " or ".join(" and ".join(f"`{key}`" for key in keys) for keys in choices)
    for key in given:
        if not any(key in keys for keys in choices):
            raise BadInput(f"{where} takes no `{key}`: it takes {taken}.")
    if given and given not in choices:
        raise BadInput(f"{where} takes {taken}; found {' and '.join(f'`{key}`' for key in given)}.")
    if entry.kind != "generation":
        for key in _OF_GENERATION:
            if key in entry.model_fields_set:
                raise BadInput(f"{where} takes no `{key}`: it belongs to kind generation.")
    if entry.whole and (entry.kind not in OF_ANSWERS or entry.column is not None or entry.first_token):
        raise BadInput(
            f"{where} takes no `whole`: it is for answers of {', '.join(OF_ANSWERS)}, without `first_token`."
        )
    if entry.per_token and not (entry.kind == "logprob" or entry.whole):
        raise BadInput(f"{where} takes no `per_token`: it is for logprob, and for whole answers (whole = true).")
    if entry.difference and entry.kind != "logprob":
        raise BadInput(f"{where} takes no `difference`: it is for logprob.")
    if entry.first_token and not (entry.tokens or entry.answers or entry.correct):
        raise BadInput(f"{where} takes no `first_token` without answers: leave it out.")
    if not given and entry.kind in ("label", "generation", "value"):
        raise BadInput(f"{where} needs {taken}.")
    return given


def _sets(entry: BehaviourEntry, columns: Columns, encoder: Encoder | None, read: Given) -> dict[str, tuple[int, ...]]:
    if not entry.sets or not all(entry.sets.values()):
        raise BadInput(f"behaviour '{entry.name}' of kind groups takes `sets`, each with at least one token.")
    sets = {name: tuple(dict.fromkeys(int(_behind_all(entry, [token], columns, encoder, read)[0, 0])
                                      for token in tokens)) for name, tokens in entry.sets.items()}  # fmt: skip
    owner: dict[int, str] = {}
    for name, ids in sets.items():
        for token in ids:
            if owner.setdefault(token, name) != name:
                raise BadInput(
                    f"behaviour '{entry.name}' has token {token} in the sets '{owner[token]}' and '{name}': its mass "
                    "would be counted twice; keep it in one."
                )
    return sets


def _generation(entry: BehaviourEntry, encoder: Encoder | None) -> Generation:
    where = f"behaviour '{entry.name}' of kind generation"
    if encoder is None:
        raise BadInput(f"{where} reads text and the model has no tokeniser: use `choice` with token ids.")
    if not entry.match or not entry.n_tokens:
        raise BadInput(f"{where} needs `n_tokens` and a `match` with at least one outcome.")
    for outcome, rule in entry.match.items():
        if outcome == NO_MATCH:
            raise BadInput(f"{where} names the outcome '{NO_MATCH}', which is what meets no rule: name it otherwise.")
        if isinstance(rule, str):
            try:
                re.compile(rule)
            except re.error as error:
                raise BadInput(
                    f"{where}: the rule {rule!r} of '{outcome}' is no regular expression ({error}): give one, or a "
                    "list of beginnings."
                ) from None
        elif not rule or not all(rule):
            raise BadInput(f"{where}: '{outcome}' has an empty beginning, which every text has: give a word.")
    return Generation(tuple(entry.match.items()), entry.n_tokens, entry.samples, entry.temperature, entry.seed)


def _scored(
    entry: BehaviourEntry, given: tuple[str, ...], columns: Columns, encoder: Encoder | None, read: Given
) -> BehaviourSpec:
    """Of texts by themselves, or of what follows them."""
    where = f"behaviour '{entry.name}'"
    minus = np.arange(len(columns)) ^ 1 if entry.difference else None  # the members of a pair stand side by side
    if entry.kind == "logprob" and not given:
        for i, ids in enumerate(read.tokens):
            if len(ids) < 2:
                raise BadInput(
                    f"{columns.row(i)} has one token, and {where} scores a text from its second one on: drop the row, "
                    'or set bos = "exactly_one" in [model].'
                )
        return BehaviourSpec(entry.name, "logprob", scoring=Scoring(None, entry.per_token, minus))
    asked = answer_cells(entry, columns, read.prompts is not None)
    least, most = {"logit_diff": (2, 2), "value": (2, 2), "choice": (2, math.inf)}.get(entry.kind, (1, 1))
    if not least <= len(asked[0]) <= most:
        number = "exactly 2" if most == 2 else f"at least {least}"
        raise BadInput(f"{where} of kind {entry.kind} takes {number} answers; found {len(asked[0])}.")
    answers = _behind(where, asked, columns, encoder, read)
    for i, row in enumerate(answers):
        differ(f"{columns.row(i)}, {where},", [str(a) for a in asked[i]], [tuple(ids.tolist()) for ids in row])
    names = entry.tokens or (given if len(given) > 1 else [f"answer {i + 1}" for i in range(len(asked[0]))])
    outcomes = tuple(map(str, names)) if entry.kind in ("choice", "logit_diff") else None
    return BehaviourSpec(entry.name, entry.kind, outcomes=outcomes, scoring=Scoring(answers, entry.per_token, minus))


def answer_cells(entry: BehaviourEntry, columns: Columns, of_text: bool) -> Sequence[Sequence]:
    """Each row's answers: the same for all rows, a column of lists, or one in each of several columns.

    Texts, or a token's id, or where the task reads ids all ids of a completion; of a file without types texts, and ids
    where the task reads ids. Raises BadInput.
    """
    if not of_text and entry.completion is not None:
        return [[columns.integers(i, entry.completion, "token ids")] for i in range(len(columns))]
    if not of_text and entry.whole:
        raise BadInput(
            f"behaviour '{entry.name}' scores answers behind a text, and this task reads token ids: ask for kind "
            "logprob with a `completion`, a column of ids."
        )
    if entry.tokens is not None:
        _check_answers(f"behaviour '{entry.name}'", entry.tokens, entry)
        return [entry.tokens] * len(columns)
    parts = [_of_column(entry, name, columns, of_text) for name in answer_columns(entry)]
    return [list(chain(*row)) for row in zip(*parts, strict=True)]


def answer_columns(entry: BehaviourEntry) -> list[str]:
    """The columns of the file that hold answers."""
    return [name for name in (entry.answers, entry.correct, entry.wrong, entry.completion) if name is not None]


def _of_column(entry: BehaviourEntry, column: str, columns: Columns, of_text: bool) -> list[list]:
    """Answers of each row in one column."""
    if column == entry.answers:
        rows = _lists(column, columns)
    elif of_text or columns.typed:
        rows = [[answer] for answer in columns.present(column)]
    else:
        ids = (columns.integers(i, column, "a token id", single=True).tolist() for i in range(len(columns)))
        rows = [found if len(found) == 1 else [found] for found in ids]
    for i, row in enumerate(rows):
        _check_answers(f"{columns.row(i)}, behaviour '{entry.name}',", row, entry)
    columns.check_one_type([(i, answer) for i, row in enumerate(rows) for answer in row], column)
    return rows


def _check_answers(where: str, answers: Sequence, entry: BehaviourEntry) -> None:
    whole = entry.whole or entry.completion is not None
    for answer in answers:
        if type(answer) not in ((str,) if whole else (str, int)) or answer == "":
            give = "a text that is not empty" if whole else "a text or a token id"
            raise BadInput(f"{where} has the answer {answer!r:.40}: give {give}.")


def _lists(column: str, columns: Columns) -> list[list]:
    out: list[list] = []
    for i, cell in enumerate(columns.present(column)):
        answers = None if as_list(cell) is None else columns.items(i, column)
        if answers is None or len(answers) < 2 or (out and len(answers) != len(out[0])):
            asked = f"{len(out[0])}, as in the first row" if out else "at least 2"
            found = "no list" if answers is None else f"{len(answers)} answers"
            raise BadInput(f"{columns.row(i)} has {found} in column '{column}': give a list of {asked}.")
        out.append(answers)
    return out


def _behind(
    where: str, asked: Sequence[Sequence], columns: Columns, encoder: Encoder | None, read: Given
) -> list[list[NDArray[np.int64]]]:
    """Token ids of each row's answers where they stand: behind all that the model is given of the row."""
    for i, (ids, n) in enumerate(zip(read.tokens, read.n_uncut, strict=True)):
        if n > len(ids):
            raise BadInput(f"{columns.row(i)} was cut, so that nothing of {where} can follow it: drop the row.")
        if read.prompts is not None and read.prompts[i].closed:
            raise BadInput(
                f"{columns.row(i)} ends with a turn that is over, so that nothing of {where} can follow it: set "
                "generation_prompt = true."
            )
    out: list[list[NDArray[np.int64]]] = [[] for _ in asked]
    for j in range(len(asked[0])):
        more = [row[j] for row in asked]
        if read.prompts is not None:
            assert encoder is not None  # which made the tokens
            last = np.array([len(ids) - 1 for ids in read.tokens])
            more = following(where, more, np.arange(len(more)), last, columns, encoder, read)
        for i, ids in enumerate(more):
            if not len(ids):
                raise BadInput(f"{columns.row(i)}, {where}: no token follows the text: give one, or drop the row.")
            n, most = len(read.tokens[i]), None if encoder is None else encoder.n_ctx
            if most is not None and n + len(ids) - 1 > most:
                raise BadInput(
                    f"{columns.row(i)} has {n} tokens and {len(ids)} behind them ({where}), and the model reads {most}"
                    ": shorten them."
                )
            out[i].append(ids)
    return out
