"""Every figure by its name, and figures as files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.errors import BadInput, MissingExtra, nearest
from probekit.results.curves import by_position, decomposition, floor_switch, frontier, layer_curves, ontology
from probekit.results.effects import read_against_replace, roll_out, steering
from probekit.results.looks import CONFIG, PALETTES
from probekit.results.maps import leak_map, transfer_matrix

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


def figure(kind: str, frame: pd.DataFrame, *, template: str = "light", **selection: Any) -> go.Figure:
    """A plotly figure by name, never shown.

    kind: a key of KINDS: leak_map, decomposition, frontier, layer_curves, transfer_matrix, ontology, floor_switch,
    by_position, read_against_replace, steering, roll_out. template: light or dark. selection: as of `table`. Raises
    BadInput that names the nearest.

    >>> import probekit as pk
    >>> made = pk.figure("leak_map", pk.read_run("runs/othello"), behaviour="next_move")
    >>> type(made).__name__
    'Figure'
    """
    if kind not in KINDS:
        near = nearest(kind, KINDS)
        raise BadInput(f"no figure '{kind}'. Did you mean '{near}'? There is {', '.join(KINDS)}.")
    if template not in PALETTES:
        raise BadInput(f"a figure's template is light or dark; found '{template}'.")
    return KINDS[kind](frame, template=template, **selection)


def write_figure(made: go.Figure, path: Path) -> None:
    """Write HTML (self-contained, works offline), PNG or SVG, by the file's ending.

    Raises BadInput for another ending, MissingExtra when the browser that draws PNG and SVG is not there.
    """
    ending = path.suffix.lower()
    if ending == ".html":
        path.write_text(made.to_html(include_plotlyjs=True, config=CONFIG), encoding="utf-8")
        return
    if ending not in (".png", ".svg"):
        raise BadInput(f"a figure is written as .html, .png or .svg; found '{path.name}'.")
    try:
        path.write_bytes(made.to_image(format=ending[1:], width=1000, scale=2 if ending == ".png" else 1))
    except (
        Exception
    ) as error:  # kaleido raises its own, choreographer's and asyncio's; all mean that Chrome did not draw
        raise MissingExtra(
            f"{ending[1:].upper()} needs kaleido and a Chrome or Chromium that starts ({type(error).__name__}); "
            "`pip install kaleido` and a browser, or write .html, which needs neither."
        ) from None
