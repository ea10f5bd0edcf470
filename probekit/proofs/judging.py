"""Judging: whether what was measured agrees with what is true, and by how much a usual method misses it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from probekit.proofs.units import LARGE, Unit, is_heavy, width_of
from probekit.records import Record
from probekit.testbeds.ground_truth import CASES, Case, Truth, draw, settle

ZERO = 0.02  # upper limit for a truth of 0, at LARGE
OFF, ERROR = 0.03, 0.02  # |estimate - truth| and standard error for other truths, at LARGE
SHARE = 0.9  # of seeds
SAME = 1e-3  # an interval covers a truth that lies this near to it: sure behaviour has intervals of no width
NAIVE = 0.2  # a naive method is off by at least this


COLUMNS = (
    "case", "metric", "level", "k", "arm", "source", "control", "domains", "keep", "kind", "truth", "estimate", "low",
    "high", "coverage", "bias", "se", "naive_method", "naive_value", "naive_error", "seeds", "passed", "why",
)  # fmt: skip
_SOURCES = {"direction": "logistic", "directions": "behaviour", "linear": "behaviour", "nonlinear": "mlp"}


def judge(planned: Sequence[Unit], records: dict[str, list[Record]]) -> pd.DataFrame:
    """One row per truth: means over seeds at the largest size, coverage at the smallest, and whether it is accepted.

    A truth of 0: upper limit at most .02 above it, in 9 seeds of 10. Another: the interval covers it in 9 of 10 at the
    smallest size; at the largest it is off by at most .03, with a standard error of at most .02, in 9 of 10 (times the
    truth where that is above 1). A necessity of 1 is a loss of 0 seen from the other side, and judged so: lower limit
    at most .02 below it. The case's naive method has to be off by .2 or more. records: unit id -> its records.
    """
    rows = []
    for name in dict.fromkeys(unit.case for unit in planned):
        case = CASES[name]
        mine = [unit for unit in planned if unit.case == name and unit.id in records]
        drawn = {unit.id: _drawn(case, unit) for unit in mine}
        method, value, error = _naive(case, [unit for unit in mine if unit.n == min(u.n for u in mine)])
        for truth in case.truths:
            if not truth.waits:
                row = _judge(case, truth, [unit for unit in mine if unit.tier == truth.tier], drawn, records)
                if row is not None:
                    if error < NAIVE:
                        row |= {"passed": False, "why": row["why"] or f"the naive method is off by {error:.2f} only"}
                    rows.append(row | {"naive_method": method, "naive_value": value, "naive_error": error})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _judge(
    case: Case, truth: Truth, mine: Sequence[Unit], drawn: dict[str, Any], records: dict[str, list[Record]]
) -> dict[str, Any] | None:
    found = []  # (n, exact, record)
    for unit in mine:
        if is_heavy(truth) and not unit.heavy:
            continue
        record, exact = _match(truth, records[unit.id]), truth.value(drawn[unit.id])
        if (record is None and truth.metric == "auroc") or (exact is None and truth.kind != "na"):
            continue  # not stated for what was drawn: an AUROC for noisy labels, a limit that no sample comes near
        found.append((unit.n, exact, record))
    if not found:
        return None
    row = {
        "case": case.name, "metric": truth.metric, "level": truth.level, "k": truth.k, "arm": truth.arm,
        "source": truth.source, "control": truth.control, "keep": truth.keep, "kind": truth.kind,
        "domains": " to ".join(dict.fromkeys((truth.fit_domain, truth.test_domain))),
        "seeds": len({unit.seed for unit in mine if unit.heavy or not is_heavy(truth)}),
    }  # fmt: skip
    if truth.kind == "na":
        share = float(np.mean([record is not None and record.value is None for _, _, record in found]))
        return row | {
            "coverage": share,
            "passed": share >= SHARE,
            "why": "" if share >= SHARE else "a number was given",
        }
    least, most = min(n for n, _, _ in found), max(n for n, _, _ in found)
    valued = [(n, float(e), r) for n, e, r in found if e is not None and r is not None and r.value is not None]
    absent = len(found) - len(valued)
    small, large = ([t for t in valued if t[0] == n] for n in (least, most))
    if not small or not large:
        reasons = {"no record" if r is None else r.na_reason for _, _, r in found}
        return row | {"passed": False, "why": f"no value: {', '.join(sorted(reasons))}"}
    covered = [r.low - SAME <= exact <= r.high + SAME for _, exact, r in small]
    # A truth above 1 is judged in its own units.
    unit = np.array([max(1.0, abs(exact)) for _, exact, _ in large])
    off = np.array([r.value - exact for _, exact, r in large])
    error = np.array([(r.high - r.low) / 3.92 for _, _, r in large])
    verdict, why = _accepted(truth.kind, large, covered, off / unit, error / unit, judged_large=most >= LARGE)
    if absent > (1 - SHARE) * len(found):
        verdict, why = False, f"NA in {absent} of {len(found)}"
    return row | {
        "truth": float(np.mean([exact for _, exact, _ in large])),
        "estimate": float(np.mean([r.value for _, _, r in large])),
        "low": float(np.mean([r.low for _, _, r in large])), "high": float(np.mean([r.high for _, _, r in large])),
        "coverage": float(np.mean(covered)), "bias": float(off.mean()), "se": float(np.median(error)),
        "passed": verdict, "why": why,
    }  # fmt: skip


def _accepted(
    kind: str, large: Sequence[tuple[int, float, Record]], covered: Sequence[bool], off: np.ndarray, error: np.ndarray,
    judged_large: bool,
) -> tuple[bool, str]:  # fmt: skip
    """(accepted, why not). With fewer rows than LARGE, limits are as much wider as standard errors are."""
    slack = 1.0 if judged_large else float(np.sqrt(LARGE / large[0][0]))
    if kind == "positive":
        share = np.mean([(r.low or 0.0) > 0 for _, _, r in large])
        return bool(share >= SHARE), "" if share >= SHARE else f"above 0 in {share:.0%}"
    if kind == "zero":
        share = np.mean([(r.high or 0.0) - exact <= ZERO * slack for _, exact, r in large])
        return bool(share >= SHARE), "" if share >= SHARE else f"upper limit within {ZERO * slack:.2f} in {share:.0%}"
    if kind == "one" and large[0][2].arm.startswith("necessity"):
        # What is lost is never below 0, so that the interval of a network that loses next to nothing lies below 1.
        share = np.mean([exact - (r.low or 0.0) <= ZERO * slack for _, exact, r in large])
        return bool(share >= SHARE), "" if share >= SHARE else f"lower limit within {ZERO * slack:.2f} in {share:.0%}"
    near = np.mean(np.abs(off) <= OFF * slack)
    if near < SHARE:
        return False, f"within {OFF * slack:.2f} in {near:.0%}"
    if np.mean(error <= ERROR * slack) < SHARE:
        return False, f"standard error {np.median(error):.3f}"
    # The interval of a code holds the draw of rows, not the cost of learning, which is part of what it measures.
    if np.mean(covered) < SHARE and large[0][2].metric != "code_length":
        return False, f"interval covers in {np.mean(covered):.0%}"
    return True, ""


def _drawn(case: Case, unit: Unit) -> Any:
    """What the unit's seed draws: a network, or a plant's parameters (the same ones for a draw of few rows)."""
    if unit.tier == 2 and case.network:
        return case.network(unit.seed)
    if case.plant is None:
        return settle(case, width_of(case), unit.seed, varied=True)
    return draw(case.name, 64, width_of(case), unit.seed, varied=True).parameters


def _match(truth: Truth, records: Sequence[Record]) -> Record | None:
    """The record that speaks of a truth; without a named source the level's most capable one."""
    source = truth.source or _SOURCES.get(truth.level, "")
    for record in records:
        if (
            record.metric == truth.metric
            and record.level == truth.level
            and record.arm == truth.arm
            and record.control == truth.control
            and (truth.k is None or truth.metric == "replace" or record.k == truth.k)
            and (record.fit_domain in (truth.fit_domain, "all") and record.test_domain in (truth.test_domain, "all"))
            and (not truth.keep or record.position == truth.keep)
            and (
                truth.metric in ("decomposition", "replace", "crossing") or not source or record.source in (source, "")
            )
            and (truth.metric != "crossing" or record.source == truth.source)
            and record.hook != "noise"
        ):
            return record
    return None


def _naive(case: Case, mine: Sequence[Unit]) -> tuple[str, float, float]:
    """(name, mean value, mean distance from what it misses) of the naive method, over a few seeds."""
    values, errors, name = [], [], ""
    for unit in mine[:5]:
        network = case.network(unit.seed) if case.network else None
        given: Any = network
        if case.plant is not None:
            given = draw(case.name, unit.n, width_of(case), unit.seed, varied=True)
        name, value = case.naive(given)
        exact = case.missed.value(network if case.plant is None or case.missed.tier == 2 else given.parameters)
        values.append(value)
        errors.append(abs(value - (exact or 0.0)))
    return name, float(np.mean(values)), float(np.mean(errors))
