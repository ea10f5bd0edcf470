"""Positions: where in each example a model is read, as rules that are resolved to token indices row by row.

    last                                the last token
    all                                 every token
    sample:<n>                          n tokens of each example, drawn evenly; all of a shorter one
    column:<name>                       a column with an index, or a list of them
    mask:<name>                         a column with a 0 or 1 for each token
    field:<name> role:<name> span:<name>   the last token of a template's field, a chat turn's content, a named span

Marks of the last line may end in `:first`, `:last` or `:all`, and have a number (`role:user[0]`, `[-1]`) where a name
stands for several stretches; without one every stretch is read. A word alone is the name of a column.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, nearest
from probekit.inputs.columns import Columns
from probekit.inputs.text import Prompt

MARKS = ("field", "role", "span")
DRAWN = 61  # what the draw of tokens is seeded with, beside the example
_MARK = re.compile(r"(?P<mark>(?:field|role|span):.+?)(?:\[(?P<nth>-?\d+)\])?(?::(?P<which>first|last|all))?")
Spans = Mapping[str, NDArray[np.int64]]  # name -> first and last-plus-one token of each stretch [m, 2]


@dataclass(frozen=True)
class Place:
    """One rule. kind: last, all, sample, column, mask or mark; name: the number, the column or the mark; nth: which
    stretch of several.
    """

    text: str
    kind: str
    name: str = ""
    nth: int | None = None
    which: str = "last"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Parse a rule; raises BadInput for one without a name."""
        kind, colon, name = text.partition(":")
        if text in ("last", "all"):
            return cls(text, text)
        if kind == "sample":
            if not (name.isdecimal() and int(name)):
                raise BadInput(f"position '{text}' draws no number of tokens: write sample:4, or another one.")
            return cls(text, kind, name)
        if colon and kind in ("column", "mask", *MARKS):
            found = _MARK.fullmatch(text)
            if not name or (kind in MARKS and found is None):
                raise BadInput(f"position '{text}' names nothing: write {kind}:<name>.")
            if found is None:
                return cls(text, kind, name)
            if "]:" in found["mark"]:
                raise BadInput(f"position '{text}' ends in neither :first, :last nor :all: write one of them, or none.")
            return cls(
                text, "mark", found["mark"], int(found["nth"]) if found["nth"] else None, found["which"] or "last"
            )
        if colon:
            near = nearest(kind, ("sample", "column", "mask", *MARKS))
            raise BadInput(
                f"position '{text}' is no rule: there is last, all, sample:, column:, mask:, field:, role: and span:. "
                f"Did you mean '{near}:{name}'?"
            )
        return cls(text, "column", text)

    def at(self, columns: Columns, i: int, n_tokens: int, spans: Spans, n_kept: int) -> list[int]:
        """Token indices of example `i`, which has `n_tokens`, of which the model gets the first `n_kept`.

        Raises BadInput for a stretch that is not there or reaches beyond what is kept.
        """
        match self.kind:
            case "last":
                return [n_kept - 1]
            case "all":
                return list(range(n_kept))
            case "sample":
                # By the example's place in the file alone, so that every model, domain and rerun reads the same ones.
                drawn = np.random.default_rng([DRAWN, i]).permutation(n_kept)[: int(self.name)]
                return sorted(drawn.tolist())
            case "column":
                return self._indices(columns, i, n_tokens, n_kept)
            case "mask":
                return self._masked(columns, i, n_tokens, n_kept)
        return self._marked(columns, i, spans, n_kept)

    def _indices(self, columns: Columns, i: int, n_tokens: int, n_kept: int) -> list[int]:
        found = columns.integers(i, self.name, "positions", single=True).tolist()
        if not found:
            raise BadInput(f"{columns.row(i)} names no position in column '{self.name}': name one, or drop the row.")
        for index in found:
            if index >= n_tokens:
                raise BadInput(
                    f"{columns.row(i)} has position {index} and {n_tokens} tokens: positions run from 0 to "
                    f"{n_tokens - 1}."
                )
            if index >= n_kept:
                raise _cut(columns, i, f"position {index}", n_kept)
        twice = [index for index, n in Counter(found).items() if n > 1]
        if twice:
            raise BadInput(f"{columns.row(i)} names position {twice[0]} twice in column '{self.name}': drop one.")
        return found

    def _masked(self, columns: Columns, i: int, n_tokens: int, n_kept: int) -> list[int]:
        value = columns.values[self.name][i]
        if isinstance(value, list | np.ndarray) and len(value) and all(isinstance(v, bool | np.bool_) for v in value):
            mask = np.asarray(value, dtype=np.int64)
        else:
            mask = columns.integers(i, self.name, "a mask")
        if len(mask) != n_tokens or mask.max(initial=0) > 1:
            raise BadInput(
                f"{columns.row(i)} has a mask of {len(mask)} numbers, the largest {mask.max(initial=0)}, in column "
                f"'{self.name}' for {n_tokens} tokens: give a 0 or 1 for each token."
            )
        found = np.flatnonzero(mask).tolist()
        if not found:
            raise BadInput(f"{columns.row(i)} has a mask of zeros in column '{self.name}': mark a token, or drop it.")
        if found[-1] >= n_kept:
            raise _cut(columns, i, f"position {found[-1]}", n_kept)
        return found

    def _marked(self, columns: Columns, i: int, spans: Spans, n_kept: int) -> list[int]:
        stretches = spans.get(self.name, np.zeros((0, 2), np.int64))
        if not -len(stretches) <= (self.nth or 0) < len(stretches):
            known = ", ".join(f"{name} ({len(found)})" for name, found in spans.items()) or "nothing that has a name"
            # where the turns of a chat cannot be found in what its template made of them, none has a name
            hidden = self.name.startswith("role:") and not any(name.startswith("role:") for name in spans)
            raise BadInput(
                f"{columns.row(i)} has no '{self.name}{'' if self.nth is None else f'[{self.nth}]'}': it has {known}."
                + (" A chat template that rewrites its turns hides them." if hidden else "")
            )
        chosen = stretches if self.nth is None else stretches[self.nth : (self.nth + 1) or None]
        found = []
        for start, stop in chosen.tolist():
            if start == stop:
                raise BadInput(f"{columns.row(i)}: '{self.name}' is empty, so that no token stands for it.")
            if stop > n_kept:
                raise _cut(columns, i, f"'{self.name}'", n_kept)
            found += {"first": [start], "last": [stop - 1], "all": list(range(start, stop))}[self.which]
        return list(dict.fromkeys(found))


def parse_places(position: str | Sequence[str] | None) -> list[Place]:
    """The rules of a spec's `position`; the last token when there is none. Raises BadInput."""
    texts = ["last"] if position is None else [position] if isinstance(position, str) else list(position)
    if not texts or len(set(texts)) < len(texts):
        raise BadInput("`position` is a rule or a list of different rules, such as 'last' or 'field:question'.")
    return [Place.parse(text) for text in texts]


def token_spans(prompt: Prompt, offsets: NDArray[np.int64]) -> tuple[dict[str, NDArray[np.int64]], int]:
    """(tokens that stand for each mark's characters, how many marks end inside a token that says more than blanks).

    offsets: characters of each token [n, 2]. A mark without a token (an empty field) is an empty range.
    """
    spans, n_split = {}, 0
    covers = offsets[:, 1] > offsets[:, 0]
    for name, marks in prompt.marks.items():
        found = []
        for start, stop in marks:
            tokens = np.flatnonzero(covers & (offsets[:, 0] < stop) & (offsets[:, 1] > start))
            if not len(tokens):
                found.append((0, 0))
                continue
            first, last = int(tokens[0]), int(tokens[-1])
            outside = prompt.text[offsets[first, 0] : start] + prompt.text[stop : offsets[last, 1]]
            n_split += bool(outside.strip())
            found.append((first, last + 1))
        spans[name] = np.array(found, dtype=np.int64).reshape(-1, 2)
    return spans, n_split


def _cut(columns: Columns, i: int, what: str, n_kept: int) -> BadInput:
    return BadInput(
        f"{columns.row(i)}: {what} lies beyond the {n_kept} tokens that are left after truncation: shorten the row, or "
        "drop it."
    )
