"""Context: what follows a place that is read, as tokens. What an answer is there depends on the text in front of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.columns import Columns
from probekit.inputs.text import Encoder, Prompt

OF_ANSWERS = ("choice", "logit_diff", "value")  # kinds of behaviours among answers, which may be other ones in each row


@dataclass(frozen=True)
class Given:
    """What the model is given of each row: prompts (None where token ids are read) and tokens, cut where they must be.

    n_uncut: tokens before that. example, position [n_places]: row and token of each place that is read. ends: of each
    row the last-plus-one character of each token, None where nobody knows. special: whether the tokenizer puts tokens
    of its own around a text.
    """

    prompts: Sequence[Prompt] | None
    tokens: Sequence[NDArray[np.int64]]
    n_uncut: Sequence[int]
    example: NDArray[np.int64]
    position: NDArray[np.int64]
    ends: Sequence[NDArray[np.int64]] | None = None
    special: bool = True

    def until(self, i: int, position: int, encoder: Encoder) -> str:
        """The text of row i up to and with the token at a position."""
        assert self.prompts is not None
        text, ids = self.prompts[i].text, self.tokens[i][: position + 1]
        if position == self.n_uncut[i] - 1:
            return text
        if self.ends is None:
            return str(encoder.tokenizer.decode(ids.tolist(), skip_special_tokens=True))
        return text[: int(self.ends[i][: position + 1].max())]


def place_tokens(
    where: str, answers: Sequence[Sequence[int | str]], columns: Columns, encoder: Encoder | None, read: Given,
    first: bool = False,
) -> NDArray[np.int64]:  # fmt: skip
    """One token for each of a row's answers behind each place: [n_places, k]. answers: of each row, ids or texts.

    first: whether an answer of several tokens stands for its first one. Raises BadInput, naming the row.
    """
    out = np.empty((len(read.example), len(answers[0])), np.int64)
    known: dict[int | str, int] = {}  # of answers that are the same whatever stands in front of them
    for j in range(out.shape[1]):
        asked = [row[j] for row in answers]
        text = np.array([isinstance(answer, str) and bool(answer) and read.prompts is not None for answer in asked])
        for i in np.flatnonzero(~text).tolist():
            if asked[i] not in known:
                known[asked[i]] = one_token(f"{columns.row(i)}, {where},", asked[i], encoder, first)
        out[:, j] = np.array([known.get(answer, -1) for answer in asked])[read.example]
        at = np.flatnonzero(text[read.example])
        if not len(at):
            continue
        assert encoder is not None  # which made the tokens
        words = [str(asked[i]) for i in read.example[at].tolist()]
        found = following(where, words, read.example[at], read.position[at], columns, encoder, read)
        for n, word, ids in zip(at.tolist(), words, found, strict=True):
            out[n, j] = _one(f"{columns.row(int(read.example[n]))}, {where},", word, ids.tolist(), first)
    for n in np.unique(out, axis=0, return_index=True)[1].tolist():
        i = int(read.example[n])
        differ(f"{columns.row(i)}, {where},", answers[i], out[n].tolist())
    return out


def one_token(where: str, token: int | str, encoder: Encoder | None, first: bool = False) -> int:
    """A token's id; a string must be exactly one token by itself, or be meant by its first."""
    if isinstance(token, int):
        if not 0 <= token < 2**31:
            raise BadInput(f"{where} names token {str(token)[:20]}: token ids are integers from 0 on.")
        return token
    if encoder is None:
        raise BadInput(f"{where} names the token {token!r} and the model has no tokeniser: give its number.")
    ids = encoder.answer(token)
    _check_known(where, token, ids, encoder)
    return _one(where, token, ids, first)


def _check_known(where: str, answer: str, ids: Sequence[int], encoder: Encoder) -> None:
    if encoder.tokenizer.unk_token_id in ids:
        raise BadInput(f"{where} has {answer!r}, which {encoder.name}'s tokenizer has no token for: name another one.")


def _one(where: str, token: str, ids: Sequence[int], first: bool) -> int:
    if len(ids) != 1 and not (first and ids):
        raise BadInput(
            f"{where} needs one token and {token!r} is {len(ids)} ({ids}): choose a text of exactly one token, often "
            f"one that begins with a space, or set first_token = true; {', '.join(OF_ANSWERS)} also take whole = "
            "true, which scores all of its tokens."
        )
    return ids[0]


def following(
    where: str, answers: Sequence[str], example: NDArray[np.int64], position: NDArray[np.int64], columns: Columns,
    encoder: Encoder, read: Given,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """Ids of one answer for each place, as the text up to there and the answer are tokenised together.

    example, position [n]: the places. Raises BadInput, naming the row, where a token goes across the end of the text,
    so that no token of the answer's own follows it.
    """
    number: dict[tuple[str, bytes], int] = {}  # the same answer behind the same tokens is looked at once
    places, at = list[int](), np.empty(len(answers), np.int64)
    for n, (answer, i, p) in enumerate(zip(answers, example.tolist(), position.tolist(), strict=True)):
        at[n] = number.setdefault((answer, read.tokens[i][: p + 1].tobytes()), len(number))
        if at[n] == len(places):
            places.append(n)
    texts = [read.until(int(example[n]), int(position[n]), encoder) for n in places]
    tokens = [read.tokens[example[n]][: position[n] + 1] for n in places]
    found = encoder.following(texts, tokens, [answers[n] for n in places], read.special)
    for n, ids, text in zip(places, found, texts, strict=True):
        if ids is None:
            raise BadInput(
                f"{columns.row(int(example[n]))}, {where}: {answers[n]!r} begins inside a token of the text, which "
                f"ends in {text[-12:]!r}: let the text end before a blank, and the answer begin with it."
            )
        _check_known(f"{columns.row(int(example[n]))}, {where},", answers[n], ids.tolist(), encoder)
    return [ids for ids in (found[k] for k in at.tolist()) if ids is not None]


def differ(where: str, answers: Sequence[int | str], ids: Sequence[int | tuple[int, ...]]) -> None:
    """Raise BadInput where two answers are the same tokens."""
    twice = [token for token, n in Counter(ids).items() if n > 1]
    if twice:
        same = " and ".join(repr(answer) for answer, i in zip(answers, ids, strict=True) if i == twice[0])
        raise BadInput(f"{where} names token {twice[0]} twice ({same}): the model cannot tell them apart; drop one.")
