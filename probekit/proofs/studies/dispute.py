"""What docs/dispute.md shows: a claim each, the figures that bear on it, and a verdict by a rule that is stated.

Nothing is measured here: figures are those of docs/studies, which their own commands remake.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportOptionalOperand=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from probekit.proofs.studies import compute_page, ladder, sizes, variants_page
from probekit.proofs.studies.beds import OTHELLO
from probekit.proofs.studies.belief import BeliefFindings
from probekit.proofs.studies.belief_edits import READ
from probekit.proofs.studies.belief_page import by_place
from probekit.proofs.studies.belief_seen import EXACT
from probekit.proofs.studies.compute import ComputeFindings
from probekit.proofs.studies.drawn import INK, begun, words
from probekit.proofs.studies.foresight import BUDGET, OWN, ForesightFindings
from probekit.proofs.studies.training import TrainingFindings
from probekit.proofs.studies.variants import VariantsFindings
from probekit.records import SAMPLED
from probekit.results.text import number
from probekit.testbeds.variants import CONTROLS, EQUALITY

HOLDS, FAILS, PART, OPEN = "holds", "does not hold", "holds in part", "open"
LITTLE, MUCH, HALF = 0.1, 0.9, 0.5


@dataclass(frozen=True)
class Mark:
    """A figure with its interval, which is None where there is none."""

    label: str
    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, label: str, row: Any) -> "Mark":
        """From a row that has the three by name."""
        low, high = (None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high"))
        return cls(label, float(row["value"]), low, high)

    def __str__(self) -> str:
        known = "" if self.low is None else f" [{number(self.low)}, {number(self.high)}]"
        return f"{self.label} {number(self.value)}{known}"


@dataclass(frozen=True)
class Disputed:
    """study: the page it is of; scale: what the figures are shares of; rule: when it holds; verdict: what came out."""

    study: str
    claim: str
    scale: str
    rule: str
    verdict: str
    marks: tuple[Mark, ...]


def claims(folder: Path) -> list[Disputed]:
    """All claims, from the numbers in docs/studies."""

    def read(findings: Any, name: str) -> Any:
        return findings.read(folder / f"{name}.json")

    return [
        _variants(read(VariantsFindings, "variants")),
        _spread(read(VariantsFindings, "variants")),
        _sizes(read(sizes.SizesFindings, "sizes")),
        _ladder(read(ladder.LadderFindings, "ladder")),
        _compute(read(ComputeFindings, "compute")),
        _belief(read(BeliefFindings, "belief")),
        _training(read(TrainingFindings, "training")),
        _foresight(read(ForesightFindings, "foresight")),
    ]


def _judged(holds: bool, fails: bool) -> str:
    return HOLDS if holds else FAILS if fails else OPEN


def _variants(found: VariantsFindings) -> Disputed:
    told = variants_page.cells(found) | variants_page.cells(found, family=EQUALITY)
    form, turned = "form, fitted again", "directions, any affine map"
    said = [variants_page.verdict(row) for (v, name), row in told.items()
            if name == form and variants_page.short(v) not in CONTROLS]  # fmt: skip
    shown = [("another seed, its directions", "plain", turned), ("another activation, its directions", "gelu", turned),
             ("another seed, the form", "plain", form), ("another activation, the form", "gelu", form),
             ("half the width, the form", "narrow", form),
             ("a table by heart, the form", "memorised", form),
             ("another task: another seed, its directions", "equal-plain", turned),
             ("the same, rows by heart", "equal-memorised", turned)]  # fmt: skip
    part = said.count("stays") > len(said) / 2 and "lost" not in said
    return Disputed("variants", "Change the parts, and the same high level is learned",
                 "lost from one network to another",
                 f"in all variants at most {number(LITTLE)} is lost; in part: in most, and in none for sure more",
                 HOLDS if set(said) == {"stays"} else PART if part else FAILS,
                 tuple(Mark.of(label, told[v, name]) for label, v, name in shown if (v, name) in told))  # fmt: skip


def _spread(found: VariantsFindings) -> Disputed:
    rows = []
    for row in variants_page.correlations(found):
        if row["of"] == "left in the network" and row["rho"] != "NA":
            low, high = (float(one) for one in row["interval"].strip("[]").split(","))
            rows.append(Mark(f"{row['level']}, rank correlation", float(row["rho"]), low, high))
    return Disputed("variants", "Networks that generalise leak less", "rank correlation with unseen pairs done rightly",
                 "all correlations are below 0", _judged(all(one.high < 0 for one in rows),
                                                          all(one.low > 0 for one in rows)), tuple(rows))  # fmt: skip


def _sizes(found: sizes.SizesFindings) -> Disputed:
    frame = found.frame
    some = frame[frame["behaviour"].str.startswith(SAMPLED) & (frame["metric"] == "read") & frame["value"].notna()]
    marks = []
    for what, said in (("simple", "a simple function"), ("rule", "the stated rule")):
        for size in dict.fromkeys(some["size"]):
            values = some[(some["what"] == what) & (some["size"] == size)]["value"].to_numpy(dtype=float)
            width = int(found.networks[size]["width"])
            marks.append(Mark(f"{said}, width {width}", *sizes.over_contrasts(values)))
    grown = {(row["metric"], row["what"]): row["verdict"] for row in sizes.grows(found)}
    said = grown.get(("read", "simple"), OPEN)  # of one size alone nothing is said
    return Disputed("sizes", "The larger the network, the more directions and simple functions leak",
                    "left unexplained", "a simple function of one direction leaves more in the largest than in the "
                    "smallest network", _judged(said == "grows", said == "falls"), tuple(marks))  # fmt: skip


def _ladder(found: ladder.LadderFindings) -> Disputed:
    frame = found.frame
    k = ladder.best_layer(frame)
    at = frame[(frame["domain"] == ladder.SEEN) & (frame["from"] == ladder.SITE) & (frame["layer"] == k)]
    marks = tuple(Mark.of(f"{to}, from directions", at[(at["what"] == "left") & (at["to"] == to)].iloc[0])
                  for to in ladder.RUNGS)  # fmt: skip
    return Disputed("ladder", "Descriptions stacked on descriptions lose until nothing is left", "left unexplained",
                 f"more than {number(MUCH)} of the last rung is left; not: less than {number(HALF)}",
                 _judged(marks[-1].low > MUCH, marks[-1].high < HALF), marks)  # fmt: skip


def _compute(found: ComputeFindings) -> Disputed:
    told = compute_page.told(found, OTHELLO, "rule")
    names = {"zero": "loss recovered, from zero", "prior": "from what is likely anyhow",
             "input": "from the input alone", "compute": "share of the training compute"}  # fmt: skip
    marks = tuple(Mark.of(said, told[scale]) for scale, said in names.items())
    return Disputed("compute", "What recovers nearly all of the loss explains little of the training compute",
                 "of Othello, with its decoded board kept",
                 f"from zero more than {number(MUCH)} is recovered, and compute is below {number(LITTLE)}",
                 _judged(marks[0].low > MUCH and marks[3].high < LITTLE,
                         marks[3].low > LITTLE), marks)  # fmt: skip


def _belief(found: BeliefFindings) -> Disputed:
    rows, last = by_place(found), 3
    marks, verdicts = [], []
    for name in ("turns", "triangle"):
        read = Mark.of(f"{name}, a line reads it", rows[name, "read", last, f"rule on decoded {EXACT}"])
        along = Mark.of(f"{name}, kept where the line looks", rows[name, "kept", last, READ])
        marks += [read, along, Mark.of(f"{name}, kept as computed", rows[name, "kept", last, EXACT])]
        verdicts.append(_judged(along.high < 2 * LITTLE, along.low > 2 * LITTLE))
    verdict = verdicts[0] if len(set(verdicts)) == 1 else OPEN
    return Disputed("belief", "What a line reads is what the network runs on", "of the network's law lost",
                 f"with the read directions alone kept, at most {number(2 * LITTLE)} of the law is lost",
                 verdict, tuple(marks))  # fmt: skip


def _training(found: TrainingFindings) -> Disputed:
    frame = pd.DataFrame(found.rows)
    level = next(one for one in frame["level"].unique() if one.startswith("directions 8"))
    plain = frame[(frame["kind"] == "plain") & (frame["level"] == level)]
    steps = sorted(plain["step"].unique())
    marks = []
    for metric, said in (("read", "readable"), ("replace", "used"), ("transfer", "as at the end")):
        for step in steps[len(steps) // 3 :: 2][:2]:
            row = plain[(plain["metric"] == metric) & (plain["step"] == step)].iloc[0]
            marks.append(Mark.of(f"{said}, step {step}", row))
    onset = pd.DataFrame(found.onsets)
    mine = onset[(onset["kind"] == "plain") & (onset["level"] == level)].pivot_table(
        index="network", columns="metric", values="onset"
    )
    later = (mine["read"] > mine["replace"]).to_numpy()
    return Disputed("training", "A network runs on directions before they can be read",
                 "left unexplained (read, used) or lost (transfer)", "in all networks they are used first",
                 _judged(bool(later.all()), bool((~later).all())), tuple(marks))  # fmt: skip


def _foresight(found: ForesightFindings) -> Disputed:
    frame = found.frame
    at = frame[(frame["domain"] == "impossible_boards") & (frame["bad"] == "loose") & (frame["budget"] == BUDGET)]
    recall = at[(at["measure"] == "recall") & (at["less"] == "")].set_index("ranking")
    names = {OWN: "the description", "moves": "a classifier of the moves", "text": "a classifier of the text",
             "confidence": "its own confidence, once run",
             "confidence, learned": "the same, learned, once run"}  # fmt: skip
    marks = tuple(Mark.of(said, recall.loc[name]) for name, said in names.items())
    less = at[(at["measure"] == "recall") & (at["ranking"] == OWN) & (at["less"] == "moves")].iloc[0]
    return Disputed("foresight", "A description says where the network will err, on boards unseen and before it runs",
                 f"of bad positions on impossible boards among the first {BUDGET:.0%}",
                 "the description finds more than a classifier of the moves",
                 _judged(bool(less["low"] > 0), bool(less["high"] < 0)), marks)  # fmt: skip


def tables(found: Sequence[Disputed]) -> dict[str, pd.DataFrame]:
    """Of docs/dispute.md: a row per claim, with its rule and its figures."""
    return {
        "verdicts": pd.DataFrame([
            {"claim": f"[{one.claim}](studies/{one.study}.md)", "it holds if": one.rule,
             "verdict": f"**{one.verdict}**"} for one in found
        ]),
        "figures": pd.DataFrame([
            {"claim": one.claim, "figures": f"{one.scale}: {'; '.join(map(str, one.marks))}"} for one in found
        ]),
    }  # fmt: skip


WIDE, SIDE, SCALE, ROW, HEAD, COLUMNS = 560, 250, 230, 20, 64, 2
COLOURS = {HOLDS: "blue", FAILS: "red", PART: "orange", OPEN: "soft"}


def picture_of(found: Sequence[Disputed]) -> str:
    """A panel per claim: its figures with their intervals from 0 to 1, and the verdict."""
    height = max(HEAD + ROW * len(one.marks) + 40 for one in found)
    rows = -(-len(found) // COLUMNS)
    parts = [*begun(WIDE * COLUMNS + 20, height * rows + 60), words(20, 34, "The dispute, measured", size=20)]
    for i, one in enumerate(found):
        parts += _panel(one, 20 + WIDE * (i % COLUMNS), 60 + height * (i // COLUMNS))
    return "\n".join([*parts, "</svg>\n"])


def _panel(one: Disputed, left: float, top: float) -> Iterator[str]:
    least = -1.0 if any((mark.low or mark.value) < -0.25 for mark in one.marks) else 0.0
    colour, at = INK[COLOURS[one.verdict]], left + SIDE

    def x(value: float) -> float:
        return at + SCALE * (min(1.0, max(least, value)) - least) / (1 - least)

    yield words(left, top + 14, one.claim, size=14 if len(one.claim) < 85 else 12)
    yield words(left, top + 34, one.verdict, COLOURS[one.verdict], size=13)
    yield words(left + 110, top + 34, one.scale, "soft", size=12)
    bottom = top + HEAD - 16 + ROW * len(one.marks)
    for tick in dict.fromkeys((least, 0.0, 0.5, 1.0)):
        yield f'<path d="M{x(tick):.1f} {top + HEAD - 20}V{bottom}" stroke="{INK["grid"]}"/>'
        yield words(x(tick), bottom + 15, f"{tick:g}", "soft", "middle", 11)
    for i, mark in enumerate(one.marks):
        y = top + HEAD + ROW * i
        low, high = (mark.value if end is None else end for end in (mark.low, mark.high))
        yield words(at - 10, y + 4, mark.label, anchor="end", size=12)
        yield f'<path d="M{x(low):.1f} {y}H{x(high):.1f}" stroke="{colour}" stroke-width="2"/>'
        yield (f'<circle cx="{x(mark.value):.1f}" cy="{y}" r="4" fill="{colour}"><title>{escape(str(mark))}</title>'
               "</circle>")  # fmt: skip
        yield words(at + SCALE + 12, y + 4, number(mark.value), "soft", size=12)
