"""Prompts: templates filled from columns and chats rendered by a tokenizer, with every field's characters known.

A mark is a named stretch of characters: `field:<name>` where a column's value stands, `role:<name>` where the content
of a chat turn does. A name may have several, in the order of the text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter

from probekit.errors import BadInput

Marks = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Prompt:
    """A text, and first and last-plus-one character of each stretch that has a name."""

    text: str
    marks: Marks = field(default_factory=dict)


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
