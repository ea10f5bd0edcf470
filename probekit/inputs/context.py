"""Context: what follows a place that is read, as tokens. What an answer is there depends on the text in front of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.columns import Columns
from probekit.inputs.text import Encoder, Prompt

LONG, SURE = 512, 128  # tokens in front of a place beyond which the last ones are looked at, and that have to agree


@dataclass(frozen=True)
class Given:
    """What the model is given of each row: prompts (None where token ids are read) and tokens, cut where they must be.

    n_uncut: tokens before that. ends: of each row the last-plus-one character of each token, None where nobody knows.
    special: whether the tokenizer puts tokens of its own around a text.
    """

    prompts: Sequence[Prompt] | None
    tokens: Sequence[NDArray[np.int64]]
    n_uncut: Sequence[int]
    ends: Sequence[NDArray[np.int64]] | None = None
    special: bool = True

    def until(self, i: int, position: int) -> str | None:
        """The text of row i up to and with the token at a position; None where nobody knows."""
        assert self.prompts is not None
        if position == self.n_uncut[i] - 1:
            return self.prompts[i].text
        return None if self.ends is None else self.prompts[i].text[: int(self.ends[i][: position + 1].max())]


def following(
    where: str, answers: Sequence[str], example: NDArray[np.int64], position: NDArray[np.int64], columns: Columns,
    encoder: Encoder, read: Given,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """Ids of one answer for each place, as the text up to there and the answer are tokenised together.

    example, position [n]: the places. Raises BadInput, naming the row, where a token goes across the end of the text,
    so that no token of the answer's own follows it.
    """
    asked: dict[tuple[str, bytes], int] = {}  # the same text in front of the same answer is looked at once
    at = np.empty(len(answers), np.int64)
    texts, tokens, more, first = list[str](), list[NDArray[np.int64]](), list[str](), list[int]()
    for n, (answer, i, p) in enumerate(zip(answers, example.tolist(), position.tolist(), strict=True)):
        ids = read.tokens[i][: p + 1]
        at[n] = asked.setdefault((answer, ids.tobytes()), len(asked))
        if at[n] == len(texts):
            text = read.until(i, p)
            texts.append(str(encoder.tokenizer.decode(ids)) if text is None else text)
            tokens.append(ids)
            more.append(answer)
            first.append(n)
    found = encoder.following(texts, tokens, more, read.special)
    for n, (ids, text) in zip(first, zip(found, texts, strict=True), strict=True):
        if ids is None:
            raise BadInput(
                f"{columns.row(int(example[n]))}, {where}: {answers[n]!r} begins inside a token of the text, which "
                f"ends in {text[-12:]!r}: let the text end before a blank, and the answer begin with it."
            )
    return [ids for ids in (found[k] for k in at.tolist()) if ids is not None]
