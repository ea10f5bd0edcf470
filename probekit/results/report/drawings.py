"""Drawings: figures of a report as SVG that stands alone, each with what it shows in its own title."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from probekit.results.looks import FONT, PALETTES, look_of
from probekit.results.report.markup import Markup, el
from probekit.results.selection import NA_WORDS
from probekit.results.text import fitted, number

INK, SOFT, GRID = (PALETTES["light"][name] for name in ("ink", "soft", "grid"))
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 2")
LEFT, RIGHT, TOP, BOTTOM = 52, 214, 62, 52  # round the plot: numbers, names of curves, titles, names of places
WIDTH, HEIGHT, EDGE = 860, 380, 19  # the first EDGE columns are left out, so that titles stand where text does


@dataclass(frozen=True)
class Curve:
    """One line. points: (place, value, low, high); a place without a value breaks the line. ground: a control."""

    name: str
    colour: str
    dash: str
    points: tuple[tuple[int, float, float, float], ...]
    ground: bool = False


def curves(
    lines: Sequence[Curve], places: Sequence[str], title: str, below: str, gaps: Sequence[tuple[int, str]] = (),
    marks: Sequence[tuple[str, float, float, float, int]] = (),
) -> Markup:  # fmt: skip
    """Lines with their intervals over places in order, each named at its end.

    title, below: the two lines over the figure. gaps: places without any value, and why. marks: published numbers:
    name, value, low, high and place, drawn open.
    """
    known = [point[1] for line in lines for point in line.points if pd.notna(point[1])] + [mark[1] for mark in marks]
    most = max(1.12, min(max(known, default=1.0) + 0.05, 1.5))
    plot = _Plot(len(places), most)
    parts = [*_frame(plot, places), *(_gap(plot, place, why) for place, why in gaps)]
    for line in lines:
        parts += _line(plot, line)
    parts += [part for mark in marks for part in _mark(plot, *mark)]
    parts += _names(plot, lines)
    return _svg(HEIGHT, title, below, parts)


def bar(shares: Sequence[tuple[str, float]], title: str, below: str) -> Markup:
    """Shares that sum to 1 as one bar, each named under it; one that is negative is named alone."""
    colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#c9c5bc")
    total, x, parts = sum(max(0.0, value) for _, value in shares) or 1.0, 20.0, []
    for i, (name, value) in enumerate(shares):
        colour = colours[min(i, 4)] if i < len(shares) - 1 else colours[-1]
        wide = max(0.0, value) / total * (WIDTH - 40)
        parts.append(el("rect", x=f"{x:.1f}", y=70, width=f"{wide:.1f}", height=30, fill=colour))
        at, row = 20 + (i % 3) * 275, 126 + (i // 3) * 22
        parts.append(el("rect", x=at, y=row - 10, width=11, height=11, fill=colour))
        parts.append(_text(at + 17, row, f"{number(value)} {name}", 13))
        x += wide
    return _svg(126 + 22 * ((len(shares) + 2) // 3), title, below, parts)


def curve_of(part: pd.DataFrame, place: str, name: str, *, index: int, control: str = "") -> Curve:
    """A line from rows of a table: `place` is the column of places, value, low and high the figures."""
    first = part.iloc[0]
    colour, _ = look_of(first["level"], first["source"], "light", ambiguous=bool(index))
    points = tuple(
        (int(row[place]), *(float("nan") if pd.isna(row[key]) else float(row[key]) for key in ("value", "low", "high")))
        for row in part.sort_values(place).to_dict("records")
    )
    return Curve(name, SOFT if control else colour, DASHES[4] if control else DASHES[index % 4], points, bool(control))


@dataclass(frozen=True)
class _Plot:
    n: int
    most: float

    def x(self, place: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (0.5 if self.n == 1 else place / (self.n - 1) * 0.96 + 0.02)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(value, -0.05), self.most) / self.most)


def _frame(plot: _Plot, places: Sequence[str]) -> Iterator[Markup]:
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = plot.y(tick)
        yield el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke=GRID,
                 stroke_width=1.6 if tick == 1 else 1)  # fmt: skip
        yield _text(LEFT - 8, y + 4, {0: "0", 1: "1"}.get(tick, number(tick)), 12, anchor="end", colour=SOFT)
    step = max(1, -(-len(places) // 9))
    for i in range(0, len(places), step):
        name = fitted(places[i], 16)
        yield _text(plot.x(i), HEIGHT - BOTTOM + 20, name, 12, anchor="middle", colour=SOFT)


def _gap(plot: _Plot, place: int, why: str) -> Markup:
    """A hatched column where nothing has a value, with the reason beside the hatching."""
    wide = min(26.0, (WIDTH - LEFT - RIGHT) / max(1, plot.n) * 0.8)
    x, top, low = plot.x(place) - wide / 2, plot.y(1), plot.y(0)
    lines = [el("line", x1=f"{x:.1f}", x2=f"{x + wide:.1f}", y1=f"{y + wide:.1f}", y2=f"{y:.1f}", stroke=SOFT,
                stroke_width=0.8) for y in range(int(top), int(low - wide) + 1, 9)]  # fmt: skip
    told = el("title", NA_WORDS.get(why, why))
    return el("g", told, lines, _text(plot.x(place), low - 4, NA_WORDS.get(why, why), 10, anchor="middle", colour=SOFT))


def _line(plot: _Plot, line: Curve) -> Iterator[Markup]:
    pieces: list[list[tuple]] = [[]]
    for before, point in zip((None, *line.points), line.points, strict=False):
        broken = pd.isna(point[1]) or (before is not None and point[0] - before[0] > 1)
        pieces += [[]] if broken and pieces[-1] else []
        pieces[-1] += [] if pd.isna(point[1]) else [point]
    for piece in pieces:
        shaded = [point for point in piece if pd.notna(point[2]) and pd.notna(point[3])]
        if len(shaded) > 1 and not line.ground:
            there = [f"{plot.x(p[0]):.1f},{plot.y(p[3]):.1f}" for p in shaded]
            back = [f"{plot.x(p[0]):.1f},{plot.y(p[2]):.1f}" for p in reversed(shaded)]
            yield el("path", d=f"M{' L'.join([*there, *back])}Z", fill=line.colour, fill_opacity=0.14)
        if len(piece) > 1:
            d = "M" + " L".join(f"{plot.x(p[0]):.1f},{plot.y(p[1]):.1f}" for p in piece)
            yield el("path", d=d, fill="none", stroke=line.colour, stroke_width=2, stroke_dasharray=line.dash or None)
        for point in piece:
            x, y = f"{plot.x(point[0]):.1f}", plot.y(point[1])
            if len(shaded) < 2 and pd.notna(point[2]):
                yield el("line", x1=x, x2=x, y1=f"{plot.y(point[2]):.1f}", y2=f"{plot.y(point[3]):.1f}",
                         stroke=line.colour, stroke_width=1.4)  # fmt: skip
            said = f"{line.name}: {number(point[1])} [{number(point[2])}, {number(point[3])}]"
            yield el("circle", el("title", said), cx=x, cy=f"{y:.1f}", r=3, fill=line.colour)


def _mark(plot: _Plot, name: str, value: float, low: float, high: float, place: int) -> Iterator[Markup]:
    """A published number: open, so that it is not taken for one of this run."""
    x, y = plot.x(place), plot.y(value)
    if pd.notna(low) and pd.notna(high):
        yield el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{plot.y(low):.1f}", y2=f"{plot.y(high):.1f}", stroke=INK,
                 stroke_width=1.2)  # fmt: skip
    said = el("title", f"{name}: {number(value)}")
    yield el("circle", said, cx=f"{x:.1f}", cy=f"{y:.1f}", r=6, fill="#fff", stroke=INK, stroke_width=1.8)


def _names(plot: _Plot, lines: Sequence[Curve]) -> Iterator[Markup]:
    """Names at the ends of their lines, moved apart where they would lie on each other.

    A line that ends before the last place has its name there: one to the margin would look like more of the line.
    """
    ends = []
    for line in lines:
        known = [point for point in line.points if pd.notna(point[1])]
        if known and known[-1][0] < plot.n - 1:
            yield _text(
                plot.x(known[-1][0]) + 8, plot.y(known[-1][1]) - 8, fitted(line.name, 32), 12, colour=line.colour
            )
        elif known:
            y = plot.y(known[-1][1])
            ends.append([y, plot.x(known[-1][0]), y, line])
    ends.sort(key=lambda end: end[0])
    for i, end in enumerate(ends):
        end[0] = max(end[0], ends[i - 1][0] + 16) if i else max(end[0], TOP + 6)
    over = max(0.0, ends[-1][0] - (HEIGHT - BOTTOM)) if ends else 0.0
    for y, from_x, from_y, line in ends:
        y -= over
        x = WIDTH - RIGHT + 12
        yield el("line", x1=f"{from_x + 4:.1f}", x2=x - 3, y1=f"{from_y:.1f}", y2=f"{y:.1f}", stroke=line.colour,
                 stroke_width=0.7, stroke_opacity=0.6)  # fmt: skip
        yield _text(x, y + 4, fitted(line.name, 32), 12, colour=INK if not line.ground else SOFT)


def _text(
    x: float, y: float, words: str, size: int, *, anchor: str = "start", colour: str = INK, bold: bool = False
) -> Markup:
    return el("text", words, x=f"{x:.1f}", y=f"{y:.1f}", font_size=size, text_anchor=anchor, fill=colour,
              font_weight=600 if bold else None)  # fmt: skip


def _svg(height: int, title: str, below: str, parts: Sequence[Markup]) -> Markup:
    return el(
        "svg", el("title", title), _text(20, 24, fitted(title, 104), 17, bold=True),
        _text(20, 45, fitted(below, 130), 13, colour=SOFT), parts,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"{EDGE} 0 {WIDTH - EDGE} {height}", role="img", font_family=FONT,
    )  # fmt: skip
