"""Drawing: what the plain pictures of studies share. Each is one SVG file of words, boxes and dots."""

from html import escape

from probekit.results.looks import PALETTES

INK = PALETTES["light"]


def begun(width: int, height: int) -> list[str]:
    """The first lines of a picture of this size; `</svg>` ends it."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        "font-family=\"'Source Sans 3', 'Helvetica Neue', Arial, sans-serif\" font-size=\"14\">",
        f'<rect width="{width}" height="{height}" fill="{INK["paper"]}"/>',
    ]


def words(x: float, y: float, said: str, colour: str = "ink", anchor: str = "start", size: int = 14) -> str:
    """Text at a place; colour: a name of INK."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK[colour]}" text-anchor="{anchor}" font-size="{size}">'
            f"{escape(said)}</text>")  # fmt: skip
