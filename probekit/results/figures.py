"""Every figure by its name, and figures as files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.errors import BadInput, MissingExtra, unknown
from probekit.results.curves import by_position, decomposition, floor_switch, frontier, layer_curves, ontology
from probekit.results.effects import read_against_replace, roll_out, steering
from probekit.results.looks import CONFIG, PALETTES, enlarged, on_paper
from probekit.results.maps import leak_map, transfer_matrix
from probekit.results.reported import Reported

KINDS: Mapping[str, Callable[..., go.Figure]] = {
    "leak_map": leak_map,
    "decomposition": decomposition,
    "frontier": frontier,
    "layer_curves": layer_curves,
    "transfer_matrix": transfer_matrix,
    "ontology": ontology,
    "floor_switch": floor_switch,
    "by_position": by_position,
    "read_against_replace": read_against_replace,
    "steering": steering,
    "roll_out": roll_out,
}


ENDINGS = (".html", ".png", ".svg", ".pdf")
STYLES = ("screen", "slide", "paper")


def figure(
    kind: str, frame: pd.DataFrame, *, template: str = "light", reported: Sequence[Reported] = (), **selection: Any
) -> go.Figure:
    """A plotly figure by name, never shown.

    kind: a key of KINDS: leak_map, decomposition, frontier, layer_curves, transfer_matrix, ontology, floor_switch,
    by_position, read_against_replace, steering, roll_out. template: light or dark. reported: published numbers, drawn
    as open marks in layer_curves (`results.reported`). selection: as of `table`. Raises BadInput that names the
    nearest.

    >>> import probekit as pk
    >>> made = pk.figure("leak_map", pk.read_run("runs/othello"), behaviour="next_move")
    >>> type(made).__name__
    'Figure'
    """
    if kind not in KINDS:
        raise unknown("figure", kind, KINDS)
    if template not in PALETTES:
        raise BadInput(f"a figure's template is light or dark; found '{template}'.")
    if reported and kind != "layer_curves":
        raise BadInput(f"published numbers are drawn in layer_curves; found '{kind}'.")
    more = {"reported": reported} if reported else {}
    return KINDS[kind](frame, template=template, **more, **selection)


def write_figure(made: go.Figure, path: Path, style: str = "screen") -> None:
    """Write HTML (self-contained, works offline), PNG, SVG or PDF, by the file's ending.

    style: `screen`, `slide` in large type and 16 : 9, or `paper` for a column of a paper (`looks.on_paper`). A PNG has
    two pixels for each, on paper four. Raises BadInput for another ending or style,
    MissingExtra when the browser that draws all but HTML is not there.
    """
    if style not in STYLES:
        raise BadInput(f"a figure's style is {', '.join(STYLES[:-1])} or {STYLES[-1]}; found '{style}'.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise BadInput(f"a figure is written as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}; found '{path.name}'.")
    paper = style == "paper"
    made, width = (on_paper(made), None) if paper else (made, 1000)  # on paper the figure says how wide it is
    if style == "slide":
        made = enlarged(made)
        width = round(float(made.to_dict()["layout"]["height"]) * 16 / 9)
    if ending == ".html":
        path.write_text(made.to_html(include_plotlyjs=True, config=CONFIG), encoding="utf-8")
        return
    scale = 1 if ending != ".png" else 4 if paper else 2  # 4: about 400 dots per inch of a column
    try:
        path.write_bytes(made.to_image(format=ending[1:], width=width, scale=scale))
    except (
        Exception
    ) as error:  # kaleido raises its own, choreographer's and asyncio's; all mean that Chrome did not draw
        raise MissingExtra(
            f"{ending[1:].upper()} needs kaleido and a Chrome or Chromium that starts ({type(error).__name__}); "
            "`pip install kaleido` and a browser (Debian: `apt install chromium`), or write .html, which needs neither."
        ) from None
