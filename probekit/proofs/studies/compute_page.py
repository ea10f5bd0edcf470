"""What docs/studies/compute.md shows, made from its findings: one loss on four scales, known steps, one picture."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from probekit.measurement.across import LEAST_SEEDS
from probekit.proofs.studies.beds import OTHELLO, WORLD
from probekit.proofs.studies.compute import FLOORS, GENERAL, STEP, ComputeFindings
from probekit.proofs.studies.drawn import INK, begun, words
from probekit.proofs.studies.training import Mean
from probekit.results.text import number

TITLES = {
    "explained": "With a description alone kept: loss in bits, what is recovered of it under three floors, compute",
    "ends": "Losses in bits that the scales end at",
    "known": "An earlier step in place of the network: its share of compute, and what is said of it",
}
BEYOND, BETTER = "worse than its first step", "better than at its end"
SCALES = (*FLOORS, "compute")


def kinds(found: ComputeFindings) -> list[str]:
    """Those that were measured, in order."""
    return [kind for kind in (*GENERAL, OTHELLO, WORLD) if kind in set(found.frame["kind"])]


def told(found: ComputeFindings, kind: str, level: str) -> dict[str, dict[str, float | None]]:
    """scale -> value, low, high and n, over the networks of a kind; value None where no network has one.

    Of several networks the mean, of compute the geometric one, with the interval of Student's t over LEAST_SEEDS or
    more; of one network its own interval, over groups of rows.
    """
    frame = found.frame
    some = frame[(frame["kind"] == kind) & (frame["level"] == level)]
    return {scale: _over(some, scale) for scale in SCALES}


def _over(some: pd.DataFrame, scale: str) -> dict[str, float | None]:
    known = some[some[scale].notna()]
    values = known[scale].to_numpy(dtype=float)
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0, "gained": some["own"].mean() - some["loss"].mean()}
    if len(some) == 1:
        return {"value": values[0], **{end: known[f"{scale}_{end}"].iloc[0] for end in ("low", "high")}, "n": 1}
    if scale == "compute" and (values > 0).all():
        mean = Mean.of(values)
        return {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
    middle, n = float(values.mean()), len(values)
    width = float(values.std(ddof=1) / np.sqrt(n) * stdtrit(n - 1, 0.975)) if n >= LEAST_SEEDS else None
    return {"value": middle, "low": None if width is None else middle - width,
            "high": None if width is None else middle + width, "n": n}  # fmt: skip


def _cell(one: Mapping[str, float | None], networks: int, digits: int = 2) -> str:
    if one["value"] is None:
        return BETTER if (one["gained"] or 0) > 0 else BEYOND
    counted = "" if one["n"] == networks else f" ({one['n']} of {networks})"
    value, low, high = (number(one[part], digits) for part in ("value", "low", "high"))
    return (value if one["low"] is None else f"{value} [{low}, {high}]") + counted


def levels(found: ComputeFindings, kind: str) -> list[str]:
    """Descriptions of a kind, the ones that leave least to be recovered last; earlier steps are not among them."""
    frame = found.frame
    loss = frame[frame["kind"] == kind].groupby("level")["loss"].mean().sort_values(ascending=False)
    return [one for one in loss.index if not one.startswith(STEP)]


def tables(found: ComputeFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text."""
    return {"explained": _explained(found), "ends": _ends(found), "known": _known(found)}


def _explained(found: ComputeFindings) -> pd.DataFrame:
    frame, rows = found.frame, []
    for kind in kinds(found):
        for level in levels(found, kind):
            some = frame[(frame["kind"] == kind) & (frame["level"] == level)]
            cells = {scale: _cell(one, len(some), 3 if scale == "compute" else 2)
                     for scale, one in told(found, kind, level).items()}  # fmt: skip
            rows.append({"network": kind, "kept": level, "loss": number(some["loss"].mean())} | cells)
    return pd.DataFrame(rows)


def _ends(found: ComputeFindings) -> pd.DataFrame:
    means = found.frame.groupby("kind")[["own", *(f"{floor}_bits" for floor in FLOORS)]].mean()
    return pd.DataFrame([
        {"network": kind, "its own": number(means.loc[kind, "own"])}
        | {said: number(means.loc[kind, f"{floor}_bits"]) for floor, said in FLOORS.items()} for kind in kinds(found)
    ])  # fmt: skip


def _known(found: ComputeFindings) -> pd.DataFrame:
    rows = []
    for kind in kinds(found):
        some = found.frame[found.frame["kind"] == kind]
        steps = [one for one in some["level"].unique() if one.startswith(STEP)]
        for level in sorted(steps, key=lambda one: int(one.split()[1])):
            part = some[some["level"] == level]
            true, said = int(level.split()[1]) / part["last"].iloc[0], told(found, kind, level)
            cells = {"compute": _cell(said["compute"], len(part), 3), "zero": _cell(said["zero"], len(part))}
            place = {"network": kind, "in its place": level, "loss": number(part["loss"].mean())}
            rows.append(place | {"true": number(true, 3)} | cells)
    return pd.DataFrame(rows)


# The picture ----------------------------------------------------------------------------------------------------------

LEFT, WIDE, ROW, TOP = 250, 520, 30, 110
NAMES = {**FLOORS, "compute": "share of training compute"}
MARKS = {"zero": "red", "prior": "orange", "input": "blue", "compute": "ink"}
DRAWN = (OTHELLO, "plain")


def picture_of(found: ComputeFindings) -> str:
    """A row per description, a mark per scale: one and the same loss, recovered from three floors, and as compute."""
    drawn = [
        (kind, level) for kind in DRAWN if kind in kinds(found) for level in levels(found, kind)
        if (told(found, kind, level)["zero"]["value"] or 0) > 0
    ]  # fmt: skip
    width, height = LEFT + WIDE + 40, TOP + ROW * (len(drawn) + 2) + 40
    parts = [
        *begun(width, height),
        words(20, 28, "One loss, three floors: how much of a network is recovered?", size=18),
        words(20, 50, "Share recovered with a description alone kept; what is below 0 is not drawn.", "soft"),
    ]
    for i, (scale, colour) in enumerate(MARKS.items()):
        parts.append(words(20 + 195 * i, 76, f"{'○' if scale == 'compute' else '●'} {NAMES[scale]}", colour))
    before, y = "", TOP
    for kind, level in drawn:
        if kind != before:
            parts.append(words(20, y + 4, kind, size=15))
            before, y = kind, y + ROW
        parts += _row(found, kind, level, y)
        y += ROW
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(words(LEFT + tick * WIDE, y + 12, number(tick), "soft", "middle", 12))
    return "\n".join([*parts, "</svg>\n"])


def _row(found: ComputeFindings, kind: str, level: str, y: float) -> list[str]:
    frame = found.frame
    loss = frame[(frame["kind"] == kind) & (frame["level"] == level)]["loss"].mean()
    parts = [words(LEFT - 20, y + 4, f"{level} ({number(loss)} bits)", anchor="end", size=13),
             f'<path d="M{LEFT} {y}h{WIDE}" stroke="{INK["grid"]}"/>']  # fmt: skip
    for scale, one in told(found, kind, level).items():
        parts += _mark(scale, one, y)
    return parts


def _mark(scale: str, one: Mapping[str, Any], y: float) -> list[str]:
    if one["value"] is None or one["value"] < 0:
        return []
    x, low, high = (LEFT + WIDE * float(np.clip(one[end] if one[end] is not None else one["value"], 0, 1.03))
                    for end in ("value", "low", "high"))  # fmt: skip
    look = f'fill="{INK["paper"]}" stroke-width="2"' if scale == "compute" else f'fill="{INK[MARKS[scale]]}"'
    return [
        f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="{INK[MARKS[scale]]}" stroke-width="2" stroke-opacity="0.5"/>',
        f'<circle cx="{x:.1f}" cy="{y}" r="5" {look} stroke="{INK[MARKS[scale]]}"><title>{scale}: '
        f"{number(one['value'], 3)}</title></circle>",
    ]
