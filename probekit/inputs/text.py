"""Text: templates and chats as prompts, with every field's characters; prompts as tokens under a policy for BOS."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.records import canonical

Marks = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Prompt:
    """A text, and first and last-plus-one character of each stretch that has a name.

    closed: whether it ends with a turn of a chat that is over, so that nothing goes on from it.
    """

    text: str
    marks: Marks = field(default_factory=dict)
    closed: bool = False


@dataclass(frozen=True)
class Template:
    """Pieces of a text: (literal, False) or (name of a field, True)."""

    parts: tuple[tuple[str, bool], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """`Q: {question}`; a literal brace is doubled. Raises BadInput for anything that is no plain field."""
        parts = []
        try:
            for literal, name, spec, conversion in Formatter().parse(text):
                if literal:
                    parts.append((literal, False))
                if name is None:
                    continue
                if not name or spec or conversion or name.isdigit():
                    raise BadInput(
                        f"template {text!r} has the field '{{{name}{':' + spec if spec else ''}}}': a field is the "
                        "name of a column in braces, and a literal brace is doubled."
                    )
                parts.append((name, True))
        except ValueError as error:
            raise BadInput(f"template {text!r} cannot be read ({error}): a literal brace is doubled.") from None
        return cls(tuple(parts))

    @property
    def fields(self) -> list[str]:
        """Columns that it is filled from, each once."""
        return list(dict.fromkeys(name for name, is_field in self.parts if is_field))

    def fill(self, values: Mapping[str, str]) -> Prompt:
        """The text with every field's value, and where each stands."""
        text, marks = "", Marks()
        for part, is_field in self.parts:
            piece = values[part] if is_field else part
            if is_field:
                marks.setdefault(f"field:{part}", []).append((len(text), len(text) + len(piece)))
            text += piece
        return Prompt(text, marks)


def render_chat(turns: Sequence[tuple[str, Prompt]], render: Callable[[list[dict[str, str]]], str]) -> Prompt:
    """The chat as `render` writes it, with the turns' own marks and `role:<role>` around each turn's content.

    Where the content ends up is found by rendering once more with a sign at both ends of every mark. A chat template
    that changes what a turn says (cuts a thought out of it, quotes it) leaves no marks. Blanks at both ends of a turn
    are no part of its mark, since most templates drop them.
    """
    text = render([{"role": role, "content": prompt.text} for role, prompt in turns])
    written = text + "".join(prompt.text for _, prompt in turns)
    sign = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in written)
    signed, order = [], []
    for turn, (role, prompt) in enumerate(turns):
        start = len(prompt.text) - len(prompt.text.lstrip())
        stop = len(prompt.text.rstrip()) or start
        here = [(f"role:{role}", start, stop)]
        here += [(name, min(max(a, start), stop), min(max(b, start), stop))
                 for name, places in prompt.marks.items() for a, b in places]  # fmt: skip
        content, done = "", 0
        for place, i, end in sorted(
            (place, i, end) for i, mark in enumerate(here) for end, place in enumerate(mark[1:])
        ):
            content += prompt.text[done:place] + sign
            done = place
            order.append((here[i][0], (turn, i), end))
        signed.append({"role": role, "content": content + prompt.text[done:]})
    pieces = render(signed).split(sign)
    if "".join(pieces) != text or len(pieces) != len(order) + 1:
        return Prompt(text)
    found: dict[tuple[int, int], list] = {}
    position = 0
    for piece, (name, mark, end) in zip(pieces, order, strict=False):
        position += len(piece)
        found.setdefault(mark, [name, 0, 0])[1 + end] = position
    marks = Marks()
    for name, start, stop in sorted(found.values(), key=lambda mark: mark[1:]):
        marks.setdefault(name, []).append((start, stop))
    return Prompt(text, marks)


BOS, EOS = ("exactly_one", "none", "as_is"), ("as_is", "none")
_AT_ONCE = 1000  # texts per call of the tokenizer: its answers take many times the memory of the ids
ASKS = re.compile(r"strftime_now\s*\(")  # how a chat template asks for the time
CLOCK = re.compile(ASKS.pattern + r"""\s*(["'])(.*?)\1\s*\)""")


def told_time(template: str, time: datetime | None, name: str) -> str:
    """A chat template of `name`, told the time wherever it asks for it. Raises BadInput where that is not known."""
    if time is not None:
        template = CLOCK.sub(lambda call: repr(time.strftime(call[2])), template)
    if ASKS.search(template):
        todo = f'set chat_time = "{datetime.now().date()}" in [task]' if time is None else (
            "it does so in a way that `chat_time` does not answer; give the tokenizer another one")  # fmt: skip
        raise BadInput(
            f"{name}'s chat template writes the time into every prompt (strftime_now), so that nothing captured today "
            f"would be found again tomorrow: {todo}."
        )
    return template


@dataclass(frozen=True)
class Tokenised:
    """Token ids per text, unpadded. shift: by how much a token's index moved against the tokenizer's own output.

    n_bos: leading BOS tokens per row as they now stand. n_behind: special tokens that the tokenizer puts behind each
    text, as they now stand.
    offsets: per text, first and last-plus-one character of each token [n, 2], both 0 for a token that stands for no
    text; None where the tokenizer cannot tell (a slow one).
    """

    tokens: list[NDArray[np.int64]]
    shift: NDArray[np.int64]
    n_bos: NDArray[np.int64]
    n_behind: NDArray[np.int64]
    offsets: list[NDArray[np.int64]] | None = None


def check_around(bos: str, eos: str) -> None:
    """Raise BadInput for a policy that there is none of."""
    for name, asked, known in (("bos", bos, BOS), ("eos", eos, EOS)):
        if asked not in known:
            raise BadInput(f"{name} is one of {', '.join(known)}; found '{asked}'.")


class Encoder:
    """A tokenizer under a policy for what stands around a text. n_ctx: the longest row it reads, None for any."""

    def __init__(
        self, tokenizer: Any, bos: str = "as_is", n_ctx: int | None = None, name: str = "the model", eos: str = "as_is"
    ) -> None:
        if tokenizer is None:
            raise BadInput(f"{name} has no tokenizer: give token ids in place of text.")
        check_around(bos, eos)
        self.tokenizer, self.bos, self.eos, self.n_ctx, self.name = tokenizer, bos, eos, n_ctx, name
        if bos == "exactly_one" and tokenizer.bos_token_id is None:
            raise BadInput(f"{name}'s tokenizer has no BOS token: use bos = 'as_is' or 'none'.")

    @property
    def has_offsets(self) -> bool:
        """Whether characters can be mapped to tokens: only fast tokenizers can."""
        return bool(self.tokenizer.is_fast)

    @property
    def fingerprint(self) -> str:
        """Digest of the vocabulary: what turns ids back into text."""
        return hashlib.sha256(canonical(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()[:16]

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that are no text: ends of a sequence or of a turn, and the like."""
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(added | set(self.tokenizer.all_special_ids)) - {self.tokenizer.unk_token_id}

    def encode(self, texts: Sequence[str], special: bool = True) -> Tokenised:
        """Tokenise under the policy.

        bos: exactly_one: leading BOS tokens become one, or one is put in front; none: leading ones are removed; as_is:
        what the tokenizer gives. eos: none: special tokens that it puts behind a text are removed. special: whether it
        adds its own special tokens; False for rendered chats, whose template has put them there. Raises BadInput for a
        text without tokens.
        """
        tokens, offsets = [], []
        counts: dict[str, list[int]] = {"shift": [], "n_bos": [], "n_behind": []}
        bos = self.tokenizer.bos_token_id
        for ids, places in self._raw(texts, special):
            lead = next((i for i, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0
            behind = self._n_behind(ids[lead:], places[lead:]) if special else 0
            if behind and self.eos == "none":
                ids, places, behind = ids[:-behind], places[:-behind], 0
            keep = {"exactly_one": 1, "none": 0, "as_is": lead}[self.bos]
            if not keep and not ids[lead:]:
                raise BadInput(f"text {len(tokens)} gives no tokens: leave it out.")
            tokens.append(np.asarray([bos] * keep + ids[lead:], np.int64))
            offsets.append(np.asarray([(0, 0)] * keep + places[lead:], np.int64).reshape(-1, 2))
            for count, n in zip(counts.values(), (keep - lead, keep, behind), strict=True):
                count.append(n)
        made = {name: np.asarray(count, np.int64) for name, count in counts.items()}
        return Tokenised(tokens, **made, offsets=offsets if self.has_offsets else None)

    def _n_behind(self, ids: Sequence[int], places: Sequence[tuple[int, int]]) -> int:
        """How many special tokens at the end are no part of the text; of a slow tokenizer all that are special."""
        back = zip(reversed(ids), reversed(places), strict=True)
        return next((n for n, (token, (start, stop)) in enumerate(back) if stop > start or token not in self.special),
                    len(ids))  # fmt: skip

    def following(
        self, texts: Sequence[str], tokens: Sequence[NDArray[np.int64]], more: Sequence[str], special: bool = True
    ) -> list[NDArray[np.int64] | None]:
        """Ids of each piece of `more` behind its text, as the two are tokenised together.

        tokens: those of each text by itself, as `encode` gives them, without what is put behind it. None where what
        follows changes these, so that no token ends where the text does. A tokenizer that makes nothing of a blank
        behind the text (one of whole words) is given one where the two would run into each other.
        """
        found = self._behind(texts, tokens, more, special)
        lost = [i for i, ids in enumerate(found) if ids is None]
        blank = self._own([texts[i] + " " for i in lost], special)
        apart = [i for i, ids in zip(lost, blank, strict=True) if np.array_equal(ids, tokens[i])]
        spaced = ([texts[i] for i in apart], [tokens[i] for i in apart], [" " + more[i] for i in apart])
        for i, ids in zip(apart, self._behind(*spaced, special), strict=True):
            found[i] = ids
        return found

    def _behind(
        self, texts: Sequence[str], tokens: Sequence[NDArray[np.int64]], more: Sequence[str], special: bool
    ) -> list[NDArray[np.int64] | None]:
        both = self._own([text + piece for text, piece in zip(texts, more, strict=True)], special)
        return [
            ids[len(before) :] if len(ids) > len(before) and np.array_equal(ids[: len(before)], before) else None
            for before, ids in zip(tokens, both, strict=True)
        ]

    def _own(self, texts: Sequence[str], special: bool) -> list[NDArray[np.int64]]:
        """Ids of each text as `encode` gives them, without what is put behind it."""
        made = self.encode(texts, special)
        return [ids[: len(ids) - n] for ids, n in zip(made.tokens, made.n_behind, strict=True)]

    def answer(self, text: str) -> list[int]:
        """Ids of a piece of text as it stands, with nothing put around it."""
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def chat(self, messages: Sequence[Mapping[str, str]], generation_prompt: bool, time: datetime | None = None) -> str:
        """Messages {role, content} as the tokenizer's own chat template writes them; BadInput has its reason.

        time: what a template that asks for the time is told.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(f"{self.name}'s tokenizer has no chat template: use `template` or `text`.")
        try:
            template = told_time(self.tokenizer.get_chat_template(), time, self.name)
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], chat_template=template, tokenize=False,
                add_generation_prompt=generation_prompt,
            )  # fmt: skip
        except BadInput:
            raise
        except Exception as error:
            # A chat template is a program of the tokenizer's makers and raises whatever it likes (jinja2, KeyError).
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            raise BadInput(f"{self.name}'s chat template refuses these messages ({reason}).") from None
        return str(rendered)

    def _raw(self, texts: Sequence[str], special: bool):
        """(ids, offsets) of each text."""
        for start in range(0, len(texts), _AT_ONCE):
            got = self.tokenizer(
                list(texts[start : start + _AT_ONCE]), add_special_tokens=special, verbose=False,
                return_offsets_mapping=self.has_offsets,
            )  # fmt: skip
            ids = got["input_ids"]
            yield from zip(ids, got["offset_mapping"] if self.has_offsets else map(_nowhere, ids), strict=True)


def _nowhere(ids: Sequence[int]) -> list[tuple[int, int]]:
    return [(0, 0)] * len(ids)
