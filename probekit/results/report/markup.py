"""Markup: HTML and SVG in which text is text. Whatever is no `Markup` is escaped, names and examples too."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from probekit.errors import printable
from probekit.results.looks import PALETTES

STYLE = Path(__file__).with_name("style.css")
# Nothing is loaded and no script runs, whatever a name in the page says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
EMPTY = ("meta", "link", "br", "hr", "line", "path", "rect", "circle")


class Markup(str):
    """Text that is markup already; made by the functions below alone."""

    __slots__ = ()


def el(tag: str, *inside: object, **attributes: object) -> Markup:
    """An element. inside: markup as it is, everything else as escaped text; a list or generator is taken apart.

    attributes: `class_` for class, `_` for `-`; one that is None is left out.
    """
    told = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(_text(value), quote=True)}"'
                   for name, value in attributes.items() if value is not None)  # fmt: skip
    if tag in EMPTY and not inside:
        return Markup(f"<{tag}{told}/>")
    return Markup(f"<{tag}{told}>{joined(inside)}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one behind the other: markup as it is, the rest escaped, None left out."""
    out = []
    for part in parts:
        if isinstance(part, Markup):
            out.append(part)
        elif isinstance(part, str) or not isinstance(part, Iterable):
            out.append("" if part is None else escape(_text(part)))
        else:
            out.append(joined(part))
    return Markup("".join(out))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], class_: str = "") -> Markup:
    """A table in a box of its own, which scrolls where it is too wide for the page."""
    return el("div", plain_table(head, rows, class_), class_="wide")


def plain_table(head: Sequence[object], rows: Iterable[Sequence[object]], class_: str = "") -> Markup:
    """A table with its heading."""
    top = el("thead", el("tr", [el("th", cell) for cell in head]))
    body = el("tbody", [el("tr", [el("td", cell) for cell in row]) for row in rows])
    return el("table", top, body, class_=class_ or None)


def document(title: str, *inside: object) -> str:
    """A whole page, which loads nothing."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", Markup(STYLE.read_text(encoding="utf-8") + in_the_dark())),
    )
    return "<!doctype html>\n" + el("html", head, el("body", el("main", *inside)), lang="en") + "\n"


def in_the_dark() -> str:
    """Rules by which a page's figures, drawn in the colours of light paper, take those of dark paper in a dark scheme.

    The drawing itself stays as it is, so that one taken out of the page stands alone. Boards keep their light ground.
    """
    light, dark = PALETTES["light"], PALETTES["dark"]
    pairs = {light[name]: dark[name] for name in light} | {"#fff": dark["paper"]}
    rules = "".join(f"  figure:not(.board) svg [{what}=\"{one}\"] {{ {what}: {other}; }}\n"
                    for one, other in pairs.items() for what in ("fill", "stroke"))  # fmt: skip
    return f"@media screen and (prefers-color-scheme: dark) {{\n{rules}}}\n"


def _text(value: object) -> str:
    """Text without characters that a page would hide or act on; line breaks stay."""
    return "\n".join(map(printable, str(value).split("\n")))
