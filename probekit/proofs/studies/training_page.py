"""What docs/studies/training.md shows, made from its findings: when each level is there, in what order, one picture."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from probekit.proofs.studies.beds import OTHELLO, WORLD
from probekit.proofs.studies.courses import BEHAVIOUR, RANDOM, RULE
from probekit.proofs.studies.drawn import StepPanel, begun, words
from probekit.proofs.studies.training import MARGIN, MARGINS, METRICS, Mean, TrainingFindings, onset
from probekit.results.text import number
from probekit.testbeds.variants.checkpoints import KINDS

TITLES = {
    "learned": "The networks as they learn: answers that are right, of inputs that were not trained on",
    "onsets": f"Step from which on a level explains {number(MARGIN, 1)} of what there is",
    "order": "Order, as a ratio of steps (below 1: earlier), a network each",
    "plain": "Share left unexplained or lost, plain networks",
    OTHELLO: "The same in the Othello network",
    WORLD: "The same in the network of the tiny world",
}
SAID = {"read": "readable", "replace": "used", "transfer": "transferable"}
SHOWN = {"neurons": "red", "directions": "blue", "simple:quadratic": "orange", RULE: "purple", BEHAVIOUR: "ink",
         RANDOM: "green"}  # fmt: skip
# what comes first? (metric, level) over (metric, level); * is the row's own level
ORDERS = {
    "used / readable": (("replace", "*"), ("read", "*")),
    "transferable / used": (("transfer", "*"), ("replace", "*")),
    "transferable / readable": (("transfer", "*"), ("read", "*")),
    "readable / right": (("read", "*"), ("read", BEHAVIOUR)),
    "used / right": (("replace", "*"), ("read", BEHAVIOUR)),
}
NEVER, START = "never", "from the start"


def family(level: str) -> str:
    """`directions` of `directions 8`."""
    return level.split(" ")[0]


def kinds(found: TrainingFindings) -> list[str]:
    """Those that were measured, in order."""
    measured = set(found.frame["kind"])
    return [kind for kind in (*KINDS, OTHELLO, WORLD) if kind in measured]


def levels(found: TrainingFindings, kind: str) -> list[str]:
    """Levels of a kind that are shown, in order."""
    there = found.frame.loc[found.frame["kind"] == kind, "level"].unique()
    return sorted((one for one in there if family(one) in SHOWN), key=lambda one: list(SHOWN).index(family(one)))


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(found: TrainingFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text."""
    made = {"learned": _learned(found), "onsets": _onsets(found), "order": _orders(found)}
    return made | {kind: _values(found, kind, "value") for kind in ("plain", OTHELLO, WORLD) if kind in kinds(found)}


def page_tables(found: TrainingFindings) -> dict[str, pd.DataFrame]:
    """The same, with all kinds, their intervals, and changes from step to step, for which a terminal has no room."""
    made = tables(found) | {"margins": _margins(found)}
    for kind in kinds(found):
        made[kind] = _values(found, kind, "value")
        made[f"{kind} intervals"] = _values(found, kind, "interval")
        made[f"{kind} changes"] = _values(found, kind, "change")
    return made


def _learned(found: TrainingFindings) -> pd.DataFrame:
    told, rows = pd.DataFrame(found.learned), []
    for kind in kinds(found):
        for step, some in told[told["kind"] == kind].groupby("step"):
            right = some["accuracy"]
            rows.append({"network": kind, "step": int(step), "n": len(some), "right": number(right.mean()),
                         "least": number(right.min()), "most": number(right.max()),
                         "loss (bits)": number(some["loss"].mean())})  # fmt: skip
    return pd.DataFrame(rows)


def _values(found: TrainingFindings, kind: str, what: str) -> pd.DataFrame:
    frame, rows = found.frame, []
    for metric in METRICS:
        mine = frame[(frame["kind"] == kind) & (frame["metric"] == metric)]
        for level in levels(found, kind):
            some = mine[mine["level"] == level].sort_values("step")
            if len(some) and (what == "value" or family(level) in ("directions", RULE, BEHAVIOUR, RANDOM)):
                rows.append({"": SAID[metric], "level": level} | _cells(some.to_dict("records"), what))
    return pd.DataFrame(rows)


def _cells(rows: list[dict[str, Any]], what: str) -> dict[str, str]:
    if what == "value":
        return {str(row["step"]): number(row["value"]) for row in rows}
    if what == "interval":
        return {str(row["step"]): _interval(row, "value", "low", "high") for row in rows}
    return {f"{before['step']} to {row['step']}": _interval(row, "change", "change_low", "change_high")
            for before, row in pairwise(rows)}  # fmt: skip


def _interval(row: Mapping[str, Any], *names: str) -> str:
    value, low, high = (number(row.get(name)) for name in names)
    return value if low == "NA" else f"{value} [{low}, {high}]"


def begun_of(
    found: TrainingFindings, kind: str, metric: str, level: str, margin: float = MARGIN
) -> dict[int, float | None]:
    """Network -> the step from which on the level is there, None where it never is; empty where it is not measured."""
    return found.begun.get((kind, metric, level, margin), {})


def _onsets(found: TrainingFindings) -> pd.DataFrame:
    return pd.DataFrame([
        {"network": kind, "level": level}
        | {said: _begins(found, kind, metric, level) for metric, said in SAID.items()}
        for kind in kinds(found) for level in levels(found, kind)
    ])  # fmt: skip


def _begins(found: TrainingFindings, kind: str, metric: str, level: str) -> str:
    told = begun_of(found, kind, metric, level)
    if not told:
        return ""
    there = [value for value in told.values() if value is not None]
    if not there:
        return NEVER
    if len(told) == 1:
        return f"{there[0]:.0f}{_ends(found, kind, metric, level)}"
    counted = "" if len(there) == len(told) else f" ({len(there)} of {len(told)})"
    if min(there) == 0:
        return (START if max(there) == 0 else f"{START} to {max(there):.0f}") + counted
    return _steps(Mean.of(np.array(there)), 0) + counted


def _ends(found: TrainingFindings, kind: str, metric: str, level: str) -> str:
    """Of one network alone: where both ends of the intervals over its rows begin, if they do."""
    frame = found.frame
    some = frame[(frame["kind"] == kind) & (frame["metric"] == metric) & (frame["level"] == level)].sort_values("step")
    first, last = (onset(some["step"].to_numpy(), some[end].to_numpy(dtype=float)) for end in ("low", "high"))
    return "" if first is None or last is None else f" [{first:.0f}, {last:.0f}]"


def _steps(mean: Mean, digits: int) -> str:
    value, low, high = (None if one is None else number(one, digits) for one in (mean.value, mean.low, mean.high))
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def ratios(found: TrainingFindings, kind: str, level: str, order: str, margin: float = MARGIN) -> Mean | None:
    """One of ORDERS of a level over the networks in which both begin, and not at once; None below two of them."""
    (first, second) = (
        begun_of(found, kind, metric, level if which == "*" else which, margin) for metric, which in ORDERS[order]
    )
    both = [(a, b) for a, b in ((first[i], second.get(i)) for i in first) if a and b]
    return Mean.of(np.array([a / b for a, b in both])) if both else None


def _orders(found: TrainingFindings) -> pd.DataFrame:
    rows = []
    for kind in kinds(found):
        for level in levels(found, kind):
            told = {order: ratios(found, kind, level, order) for order in ORDERS}
            if family(level) not in (BEHAVIOUR, RANDOM) and any(told.values()):
                said = {order: "" if one is None else _steps(one, 2) for order, one in told.items()}
                rows.append({"network": kind, "level": level} | said)
    return pd.DataFrame(rows)


def _margins(found: TrainingFindings) -> pd.DataFrame:
    rows = []
    for kind in kinds(found):
        for level in levels(found, kind):
            for margin in MARGINS:
                told = {order: ratios(found, kind, level, order, margin) for order in ORDERS}
                if family(level) == "directions" and any(told.values()):
                    said = {order: "" if one is None else _steps(one, 2) for order, one in told.items()}
                    rows.append({"network": kind, "level": level, "explains": number(margin)} | said)
    return pd.DataFrame(rows)


# The picture ----------------------------------------------------------------------------------------------------------

WIDE, HIGH, GAP, TOP = 250, 170, 60, 120


def picture_of(found: TrainingFindings) -> str:
    """A panel per kind and metric: lines over steps, and the share of right answers behind them."""
    shown = kinds(found)
    width, height = 60 + len(METRICS) * (WIDE + GAP), TOP + len(shown) * (HIGH + GAP)
    told = "Share left unexplained (readable, used) or lost (transferable), by step. Dotted: answers that are right."
    parts = [
        *begun(width, height),
        words(20, 28, "When is it there? Levels over the training of the networks that they are read in", size=18),
        words(20, 50, told, "soft"),
    ]
    for i, (name, colour) in enumerate(SHOWN.items()):
        parts.append(words(20 + 160 * i, 76, f"— {name}", colour))
    for i, kind in enumerate(shown):
        for j, metric in enumerate(METRICS):
            parts += _drawn(found, kind, metric, 50 + j * (WIDE + GAP), TOP + i * (HIGH + GAP))
    return "\n".join([*parts, "</svg>\n"])


def _drawn(found: TrainingFindings, kind: str, metric: str, left: float, top: float) -> Iterator[str]:
    frame, learned = found.frame, pd.DataFrame(found.learned)
    mine = frame[(frame["kind"] == kind) & (frame["metric"] == metric)]
    panel = StepPanel(left, top, WIDE, HIGH, sorted(int(one) for one in mine["step"].unique()))
    yield from panel.frame(f"{kind}: {SAID[metric]}")
    right = learned[learned["kind"] == kind].groupby("step")["accuracy"].mean()
    yield from panel.line(list(right.items()), "soft", "2 4", 2)
    for level in levels(found, kind):
        some = mine[mine["level"] == level].sort_values("step").astype({"value": float, "low": float, "high": float})
        colour = SHOWN[family(level)]
        yield from panel.band(list(some[["step", "low", "high"]].itertuples(index=False, name=None)), colour)
        yield from panel.line(list(some[["step", "value"]].itertuples(index=False, name=None)), colour)
