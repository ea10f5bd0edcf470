"""Answers: from the behaviours of a spec, written in words, to tokens. Every mistake is one BadInput sentence."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.columns import Columns, as_list
from probekit.inputs.text import Encoder
from probekit.spec import BehaviourEntry
from probekit.task import NO_MATCH, Behaviour, BehaviourSpec, Generation

_TAKES: Mapping[str, tuple[tuple[str, ...], ...]] = {  # kind -> keys that it may be given, in the alternatives it has
    "label": (("column",),),
    "groups": (("sets",),),
    "generation": (("match", "n_tokens"),),
    "choice": (("tokens",), ("answers",)),
    "logit_diff": (("tokens",), ("correct", "wrong")),
    "value": (("column",), ("tokens",), ("correct", "wrong")),
    "law": (("tokens",),),
    "argmax": (("tokens",),),
}
_KEYS = ("tokens", "sets", "column", "answers", "correct", "wrong", "match", "n_tokens")
_OF_GENERATION = ("samples", "temperature", "seed")


def behaviour_of(
    entry: BehaviourEntry, labels: Mapping[str, Behaviour], columns: Columns, row_example: NDArray[np.int64],
    encoder: Encoder | None,
) -> BehaviourSpec:  # fmt: skip
    """A behaviour with its tokens resolved. labels: those of `label` behaviours; row_example: row of `columns` read."""
    given = check_keys(entry)
    if is_column(entry):
        return BehaviourSpec(entry.name, "label", outcomes=labels[entry.name].outcomes)
    if entry.kind == "groups":
        return BehaviourSpec(entry.name, "groups", sets=_sets(entry, encoder))
    if entry.kind == "generation":
        return BehaviourSpec(entry.name, "generation", generation=_generation(entry, encoder))
    if given in (("answers",), ("correct", "wrong")):
        tokens = _row_answers(entry, given, columns, encoder)[row_example]
        names = given if len(given) > 1 else tuple(f"answer {i + 1}" for i in range(tokens.shape[1]))
        return BehaviourSpec(entry.name, entry.kind, outcomes=names, row_tokens=tokens)
    least, most = {"logit_diff": (2, 2), "value": (2, 2), "choice": (2, math.inf)}.get(entry.kind, (0, math.inf))
    n_tokens = len(entry.tokens or ())
    if not least <= n_tokens <= most or entry.tokens == ():
        asked = "exactly 2" if most == 2 else f"at least {max(least, 1)}"
        raise BadInput(f"behaviour '{entry.name}' of kind {entry.kind} takes {asked} tokens; found {n_tokens}.")
    if entry.tokens is None:
        return BehaviourSpec(entry.name, entry.kind)
    where = f"behaviour '{entry.name}'"
    ids = tuple(one_token(where, token, encoder, entry.first_token) for token in entry.tokens)
    _differ(where, entry.tokens, ids)
    return BehaviourSpec(entry.name, entry.kind, tokens=ids, outcomes=tuple(str(token) for token in entry.tokens))


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
    if entry.first_token and not (entry.tokens or entry.answers or entry.correct):
        raise BadInput(f"{where} takes no `first_token` without answers: leave it out.")
    if not given and entry.kind in ("label", "generation", "value"):
        raise BadInput(f"{where} needs {taken}.")
    return given


def _sets(entry: BehaviourEntry, encoder: Encoder | None) -> dict[str, tuple[int, ...]]:
    if not entry.sets or not all(entry.sets.values()):
        raise BadInput(f"behaviour '{entry.name}' of kind groups takes `sets`, each with at least one token.")
    where = f"behaviour '{entry.name}'"
    sets = {name: tuple(dict.fromkeys(one_token(where, token, encoder) for token in tokens))
            for name, tokens in entry.sets.items()}  # fmt: skip
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


def _row_answers(
    entry: BehaviourEntry, given: tuple[str, ...], columns: Columns, encoder: Encoder | None
) -> NDArray[np.int64]:
    """Token ids of each row of the file's answers: [n, k]."""
    names = [str(getattr(entry, key)) for key in given]
    cells = [columns.present(name) for name in names]
    known: dict[int | str, int] = {}
    out: list[list[int]] = []
    for i in range(len(columns)):
        if len(names) == 1:
            answers = as_list(cells[0][i])
            if answers is None or len(answers) < 2 or (out and len(answers) != len(out[0])):
                asked = f"{len(out[0])}, as in the first row" if out else "at least 2"
                found = "no list" if answers is None else f"{len(answers)} answers"
                raise BadInput(f"{columns.row(i)} has {found} in column '{names[0]}': give a list of {asked}.")
        else:
            answers = [cell[i] for cell in cells]
        where = f"{columns.row(i)}, behaviour '{entry.name}',"
        plain = [int(a) if isinstance(a, int | np.integer) and not isinstance(a, bool) else a for a in answers]
        for answer in plain:
            if not isinstance(answer, int | str) or isinstance(answer, bool):
                raise BadInput(f"{where} has the answer {answer!r}: give a text or a token id.")
            if answer not in known:
                known[answer] = one_token(where, answer, encoder, entry.first_token)
        ids = [known[answer] for answer in plain]
        _differ(where, plain, ids)
        out.append(ids)
    return np.array(out, dtype=np.int64)


def one_token(where: str, token: int | str, encoder: Encoder | None, first: bool = False) -> int:
    """A token's id; a string must be exactly one token, or be meant by its first."""
    if isinstance(token, int):
        if token < 0:
            raise BadInput(f"{where} names token {token}: token ids are integers from 0 on.")
        return token
    if encoder is None:
        raise BadInput(f"{where} names the token {token!r} and the model has no tokeniser: give its number.")
    ids = encoder.answer(token)
    if len(ids) != 1 and not (first and ids):
        raise BadInput(
            f"{where} needs one token and {token!r} is {len(ids)} ({ids}): choose a text of exactly one token, often "
            "one that begins with a space, or set first_token = true."
        )
    return ids[0]


def _differ(where: str, tokens: Sequence[int | str], ids: Sequence[int]) -> None:
    twice = [token for token, n in Counter(ids).items() if n > 1]
    if twice:
        same = " and ".join(repr(token) for token, i in zip(tokens, ids, strict=True) if i == twice[0])
        raise BadInput(f"{where} names token {twice[0]} twice ({same}): the model cannot tell them apart; drop one.")
