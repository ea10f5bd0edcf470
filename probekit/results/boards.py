"""Boards: features with a target for each square of a grid, drawn as they are and as they were decoded at a site."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false

import re
from collections.abc import Sequence

import pandas as pd

from probekit.results.looks import PALETTES, Template

SIDE = 26  # pixels of a square
_SQUARE = re.compile(r"([a-z])([1-9][0-9]?)")


def grid(targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(column, row) of every target, where they are the squares of a whole board, as in a1 to f6; else empty."""
    found = [_SQUARE.fullmatch(str(name)) for name in targets]
    if not found or not all(found):
        return {}
    at = {one[0]: (ord(one[1]) - ord("a"), int(one[2]) - 1) for one in found if one}
    columns, rows = (len(set(side)) for side in zip(*at.values(), strict=True))
    return at if columns > 1 and columns * rows == len(at) else {}


def board_svg(squares: pd.DataFrame, marks: dict[str, str] | None = None, template: Template = "light") -> str:
    """One feature as two boards side by side: what it is, and what was decoded, wrong squares framed; "" for no board.

    squares: rows of `examples.squares` of one feature. The first class is drawn as a full disc, the second as a ring,
    others as nothing. marks: square -> a letter written into it on the first board, such as the move that is played.
    """
    at = grid(list(squares["target"]))
    if not at:
        return ""
    ink, classes = PALETTES[template], _classes(squares)
    columns, rows = (max(side) + 1 for side in zip(*at.values(), strict=True))
    wide = columns * SIDE
    out = []
    for i, shown in enumerate(("is", "decoded")):
        left = 14 + i * (wide + 30)
        out += [_text(left + (x + 0.5) * SIDE, 10, chr(ord("a") + x), ink["soft"]) for x in range(columns)]
        out += [_text(left - 8, 16 + (y + 0.68) * SIDE, str(y + 1), ink["soft"]) for y in range(rows)]
        for row in squares.to_dict("records"):
            x, y = at[row["target"]]
            wrong = shown == "decoded" and row["decoded"] != row["is"]
            out.append(_square(left + x * SIDE, 16 + y * SIDE, classes.get(row[shown]), wrong, ink))
            if shown == "is" and (letter := (marks or {}).get(row["target"])):
                out.append(_text(left + (x + 0.5) * SIDE, 16 + (y + 0.77) * SIDE, letter, ink["red"], 20))
    size = f'width="{2 * wide + 48}" height="{rows * SIDE + 22}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{"".join(out)}</svg>'


def n_wrong(squares: pd.DataFrame) -> int:
    """Squares that were decoded to another class than theirs."""
    return int((squares["is"] != squares["decoded"]).sum())


def _classes(squares: pd.DataFrame) -> dict[str, str]:
    """How each class is drawn: names that say nothing is there are drawn as nothing."""
    names = sorted({*squares["is"], *squares["decoded"]} - {"empty", "none"})
    return dict(zip(names, ("disc", "ring"), strict=False))


def _square(x: float, y: float, what: str | None, wrong: bool, ink: dict[str, str]) -> str:
    frame = f'stroke="{ink["red"] if wrong else ink["paper"]}" stroke-width="{2.5 if wrong else 1}"'
    inset = 1.5 if wrong else 0.5
    side = SIDE - 2 * inset
    out = f'<rect x="{x + inset}" y="{y + inset}" width="{side}" height="{side}" fill="{ink["na"]}" {frame}/>'
    if what is not None:
        fill = ink["ink"] if what == "disc" else "none"
        out += f'<circle cx="{x + SIDE / 2}" cy="{y + SIDE / 2}" r="{SIDE * 0.3}" fill="{fill}" stroke="{ink["ink"]}" '
        out += 'stroke-width="2"/>'
    return out


def _text(x: float, y: float, said: str, colour: str, size: int = 11) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{size}" fill="{colour}">{said}</text>'
