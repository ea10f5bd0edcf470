"""What docs/studies/belief.md shows, made from its findings: tables, verdicts, a picture."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator
from typing import Any

import pandas as pd

from probekit.proofs.studies.belief import BeliefFindings
from probekit.proofs.studies.belief_edits import ALL, NEXT_ALONE, NOTHING, RANDOM, READ, SILENT
from probekit.proofs.studies.belief_seen import EXACT, LOCAL, PLANT, RECENT, UNTRAINED
from probekit.proofs.studies.drawn import INK, begun, words
from probekit.proofs.studies.kept import interval
from probekit.results.text import number
from probekit.testbeds.hmm import TAUGHT

# Of what there is to explain: an account that leaves less, its interval included, is run on. An edit is allowed more
# than a rule, since that a belief moves the stream along lines is itself a claim.
LEAVES = {"says": 0.1, "kept": 0.2}
ACCOUNTS = (EXACT, LOCAL, RECENT)
TITLES = {
    "ladder": "Bits a token above the exact law, of readers who know less",
    "says": f"Left of what networks say by each account, stated (run on: at most {number(LEAVES['says'], 1)})",
    "kept": "Lost with an account of the row in the stream of another sequence (run on: at most "
    f"{number(LEAVES['kept'], 1)})",
    "read": "Left when a layer is read, beside the floor",
    "set": "Left of the way to the other account's law once its account stands in the stream",
    "coordinates": "Each coordinate of the exact belief, read beside the floor; the same in networks never trained",
    "silent": "How far the law moves when a coordinate is exchanged at one place: now, and behind the next token",
}
Rows = dict[tuple[str, str, int, str], dict[str, Any]]


def by_place(found: BeliefFindings) -> Rows:
    """(name, what, layer, arm) -> its row of the frame."""
    return {(row["name"], row["what"], row["layer"], row["arm"]): row for row in found.rows}


def verdict(rows: Rows, name: str, what: str, layer: int) -> str:
    """The one account that a network runs on; `several`, `neither`, or `open` where an interval decides nothing."""
    told = {one: rows[name, what, layer, one] for one in ACCOUNTS if (name, what, layer, one) in rows}
    if any(row["value"] is None for row in told.values()):
        return "NA"
    stays = [one for one, row in told.items() if row["high"] <= LEAVES[what]]
    lost = [one for one, row in told.items() if row["low"] > LEAVES[what]]
    if len(stays) + len(lost) < len(told):
        return "open"
    return stays[0] if len(stays) == 1 else "several" if stays else "neither"


def names(found: BeliefFindings) -> list[str]:
    """Of networks, in the order in which they were measured."""
    return list(dict.fromkeys(row["name"] for row in found.rows))


def layers(found: BeliefFindings, name: str) -> list[int]:
    """Those at which networks of a name were read."""
    return sorted({row["layer"] for row in found.rows if row["name"] == name and row["layer"]})


def tables(found: BeliefFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text."""
    rows = by_place(found)
    made = {
        "ladder": pd.DataFrame([{k: v if isinstance(v, str) else _bits(v) for k, v in row.items()}
                                for row in found.ladder]),
        "says": pd.DataFrame([
            {"networks": name} | {one: _cell(rows.get((name, "says", 0, one))) for one in ACCOUNTS}
            | {"run on": verdict(rows, name, "says", 0)} for name in names(found)
        ]),
    }  # fmt: skip
    kept = (NOTHING, RANDOM, RECENT, LOCAL, EXACT, READ)
    read = {"any line": "linear", **{f"rule, {one} decoded": f"rule on decoded {one}" for one in ACCOUNTS}}
    places = [(name, layer) for name in names(found) for layer in layers(found, name)]
    made["kept"] = pd.DataFrame([
        {"networks": name, "layer": layer} | {one: _cell(rows.get((name, "kept", layer, one))) for one in kept}
        | {"run on": verdict(rows, name, "kept", layer)} for name, layer in places
    ])  # fmt: skip
    made["read"] = pd.DataFrame([
        {"networks": name, "layer": layer}
        | {title: _cell(rows.get((name, "read", layer, arm))) for title, arm in read.items()}
        | {"1 - R2": _cell(rows[name, "r2", layer, EXACT]), "T, longer": _cell(rows[name, "longer", layer, "raw"]),
           "refit": _cell(rows[name, "longer", layer, "refit"])}
        for name, layer in places
    ])  # fmt: skip
    made["coordinates"] = pd.DataFrame(list(_coordinates(rows, places)))
    made["set"] = pd.DataFrame([
        {"networks": name, "layer": layer}
        | {f"{a} to {b}": _cell(rows[name, "set", layer, f"{a} to {b}"]) for a, b in ((EXACT, LOCAL), (LOCAL, EXACT))}
        for name, layer in places if (name, "set", layer, f"{EXACT} to {LOCAL}") in rows
    ])  # fmt: skip
    made["silent"] = pd.DataFrame([
        {"networks": name, "layer": layer}
        | {f"{which}, {when}": _cell(rows.get((name, "exchanged", layer, f"{which}, {when}")))
           for when in ("now", "then") for which in ("next", SILENT, ALL)}
        | {f"kept: {one}": _cell(rows[name, "kept", layer, one]) for one in (EXACT, NEXT_ALONE)}
        for name, layer in places if (name, "exchanged", layer, f"{SILENT}, now") in rows
    ])  # fmt: skip
    return made


def _coordinates(rows: Rows, places: list[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    for name, layer in places:
        mine = [arm for who, what, at, arm in rows if (who, what, at) == (name, "coordinate", layer)]
        for arm in mine:
            coordinate, whose = arm.split(", ")
            if whose != UNTRAINED:
                twin = rows.get((name, "coordinate", layer, f"{coordinate}, {UNTRAINED}"))
                yield {"networks": name, "layer": layer, "coordinate": coordinate,
                       "left": _cell(rows[name, "coordinate", layer, arm]), UNTRAINED: _cell(twin)}  # fmt: skip


def _bits(value: float | None) -> str:
    return "" if value is None else number(value, 3)


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else "NA" if row["value"] is None else interval(row)


PANEL, GAP, TOP, LEFT = 190, 50, 110, 60
LINES = {("kept", EXACT): ("blue", ""), ("kept", LOCAL): ("orange", ""), ("kept", RECENT): ("soft", ""),
         ("read", f"rule on decoded {EXACT}"): ("blue", "4 4")}  # fmt: skip
WORDS = ("exact belief kept", "pair by pair kept", "last two tokens kept", "exact belief read")


def picture_of(found: BeliefFindings) -> str:
    """Share lost or left by layer, a panel for each kind of network, as an SVG."""
    rows = by_place(found)
    shown = [name for name in names(found) if "@" not in name and not name.startswith(PLANT)]
    shown.sort(key=lambda name: name == TAUGHT)  # a control, behind those that it is one of
    width, height = LEFT + len(shown) * (PANEL + GAP), TOP + PANEL + 60
    asked = "Which account of the past, put into another sequence's stream, carries the law?"
    parts = [*begun(width, height), words(20, 28, asked, size=18)]
    for i, (said, (colour, dash)) in enumerate(zip(WORDS, LINES.values(), strict=True)):
        x = 20 + 210 * i
        parts.append(f'<path d="M{x} 55h24" stroke="{INK[colour]}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(words(x + 30, 60, said, "soft"))
    for j, name in enumerate(shown):
        parts += _panel(rows, name, layers(found, name), LEFT + j * (PANEL + GAP))
    below = (
        "Up: share of the law lost (kept) or left (read), 0 to 1. Across: blocks that are behind. "
        f"Bars: 95 % over {found.networks} networks."
    )
    return "\n".join([*parts, words(LEFT, height - 12, below, "soft"), "</svg>\n"])


def _panel(rows: Rows, name: str, at: list[int], left: float) -> Iterator[str]:
    yield words(left, TOP - 12, name)
    bottom = TOP + PANEL
    yield f'<path d="M{left} {TOP}V{bottom}H{left + PANEL}" fill="none" stroke="{INK["soft"]}"/>'
    for tick in (0, 0.5, 1):
        yield words(left - 6, bottom - tick * PANEL / 1.2 + 5, number(tick, 1), "soft", "end", 12)
    x = {layer: left + PANEL * (i + 0.5) / len(at) for i, layer in enumerate(at)}
    for layer in at:
        yield words(x[layer], bottom + 18, str(layer), "soft", "middle", 12)
    for (what, arm), (colour, dash) in LINES.items():
        mine = [(layer, rows.get((name, what, layer, arm))) for layer in at]
        dots = [(x[layer], *(_height(row[part], bottom) for part in ("value", "low", "high")))
                for layer, row in mine if row is not None and row["value"] is not None]  # fmt: skip
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b, _, _ in dots)
        if path:
            yield (f'<path d="M{path}" fill="none" stroke="{INK[colour]}" stroke-width="2" '
                   f'stroke-dasharray="{dash}"/>')  # fmt: skip
        for a, b, low, high in dots:
            yield f'<path d="M{a:.1f} {low:.1f}V{high:.1f}" stroke="{INK[colour]}"/>'
            yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{INK[colour]}"/>'


def _height(value: float, bottom: float) -> float:
    return bottom - min(max(value, 0), 1.2) * PANEL / 1.2
