"""Drawn: what the plain SVG pictures of studies share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from probekit.results.looks import PALETTES
from probekit.results.text import number

INK = PALETTES["light"]


def begun(width: int, height: int) -> list[str]:
    """The head of a picture and its paper."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        "font-family=\"'Source Sans 3', 'Helvetica Neue', Arial, sans-serif\" font-size=\"14\">",
        f'<rect width="{width}" height="{height}" fill="{INK["paper"]}"/>',
    ]


def words(
    x: float, y: float, said: str, colour: str = "ink", anchor: str = "start", size: int = 14, turned: bool = False
) -> str:
    """A line of text; colour: of INK; turned: upwards."""
    turn = f' transform="rotate(-90 {x:.0f} {y:.0f})"' if turned else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK[colour]}" text-anchor="{anchor}" font-size="{size}"{turn}>'
            f"{escape(said)}</text>")  # fmt: skip


@dataclass(frozen=True)
class StepPanel:
    """Shares from 0 to `most` over the logarithm of steps, 0 at the left edge. left, top: its corner in the picture."""

    left: float
    top: float
    width: float
    height: float
    steps: Sequence[int]
    most: float = 1.5

    def x(self, step: float) -> float:
        """Where a step lies."""
        first, last = (np.log(self.steps[i]) for i in (1, -1))
        if step <= 0:
            return self.left
        gap = 0.12 * self.width
        return self.left + gap + (self.width - gap) * float((np.log(step) - first) / (last - first))

    def y(self, share: float) -> float:
        """Where a share lies; what is above `most` lies at the edge."""
        return self.top + self.height * (1 - float(np.clip(share, 0, self.most)) / self.most)

    def frame(self, title: str) -> Iterator[str]:
        """Axes with their numbers, and a line where nothing is explained."""
        bottom = self.top + self.height
        yield words(self.left, self.top - 8, title)
        edge = f"M{self.left} {self.top}V{bottom}H{self.left + self.width}"
        yield f'<path d="{edge}" fill="none" stroke="{INK["soft"]}"/>'
        yield f'<path d="M{self.left} {self.y(1):.1f}h{self.width}" stroke="{INK["grid"]}"/>'
        for tick in (0, 0.5, 1):
            yield words(self.left - 6, self.y(tick) + 4, number(tick, 1), "soft", "end", 12)
        for step in (0, self.steps[1], self.steps[len(self.steps) // 2], self.steps[-1]):
            yield words(self.x(step), bottom + 16, str(step), "soft", "middle", 12)

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, dashes: str = "", width: float = 2
    ) -> Iterator[str]:
        """(step, share) joined; colour: of INK. What is not known is left out."""
        known = [(self.x(step), self.y(share)) for step, share in points if np.isfinite(share)]
        if len(known) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in known)
            yield (f'<path d="{path}" fill="none" stroke="{INK[colour]}" stroke-width="{width}" '
                   f'stroke-dasharray="{dashes or "none"}"/>')  # fmt: skip

    def band(self, points: Sequence[tuple[float, float, float]], colour: str) -> Iterator[str]:
        """(step, low, high) as a shade."""
        known = [one for one in points if np.isfinite(one[1])]
        if len(known) > 1:
            edge = [(step, high) for step, _, high in known] + [(step, low) for step, low, _ in reversed(known)]
            path = "M" + "L".join(f"{self.x(step):.1f} {self.y(share):.1f}" for step, share in edge) + "Z"
            yield f'<path d="{path}" fill="{INK[colour]}" fill-opacity="0.15"/>'
