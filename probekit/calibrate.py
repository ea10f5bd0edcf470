"""Calibrate: the kit measured on plants whose answer is known, judged by the acceptance rule of measurement.md 6.

A unit is one case, one number of rows and one seed; its records go into a run folder like any other, so that a stopped
calibration resumes and the page reads it. Truths are computed again from what the seed draws, never stored.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probekit.engines import work_off
from probekit.errors import BadInput
from probekit.measurement import Measurement, measure
from probekit.records import Losses, Record, digest
from probekit.rundir import Run, RunWriter, open_run
from probekit.spec import ReadSpec, ReplaceSpec
from probekit.testbeds.ground_truth import CASES, SEEN, UNSEEN, Case, Truth, draw, find_case, settle

SMALL, LARGE = 2_000, 20_000  # rows: intervals are judged at the first, values at the second
D, D_LARGE = 8, 9  # coordinates before nuisance; of cases that draw how many bits they plant, up to nine
ZERO = 0.02  # upper limit for a truth of 0, at LARGE
OFF, ERROR = 0.03, 0.02  # |estimate - truth| and standard error for other truths, at LARGE
SHARE = 0.9  # of seeds
SAME = 1e-3  # an interval covers a truth that lies this near to it: sure behaviour has intervals of no width
NAIVE = 0.2  # a naive method is off by at least this
HEAVY = ("nonlinear", "decomposition", "code_length")  # levels and metrics measured in one seed of ten, at SMALL only
VERSION = 1

Estimator = Callable[[Case, int, int, bool], list[Record]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Unit:
    """One measurement. heavy: with the levels that cost most; tier 2 units run a network."""

    case: str
    tier: int
    n: int
    seed: int
    heavy: bool

    @property
    def id(self) -> str:
        """Name of the unit's line in the run folder."""
        return digest(["calibrate", VERSION, self.case, self.tier, self.n, self.seed, self.heavy])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.case} n {self.n} seed {self.seed}"


def units(only: Sequence[str] = (), seeds: int = 100, sizes: Sequence[int] = (SMALL, LARGE)) -> list[Unit]:
    """What a calibration measures, first seeds first, so that a stopped one has some of everything."""
    cases = [find_case(name) for name in only] or [case for case in CASES.values() if not case.waits]
    out = []
    for seed in range(seeds):
        for case in cases:
            for n in sizes:
                heavy = seed % 10 == 0 and n == min(sizes)
                tiers = [tier for tier in case.tiers if any(t.tier == tier and not t.waits for t in case.truths)]
                out += [Unit(case.name, tier, n, seed, heavy) for tier in tiers if tier == 1 or n == min(sizes)]
    return out


def calibrate(
    only: Sequence[str] = (),
    seeds: int = 100,
    sizes: Sequence[int] = (SMALL, LARGE),
    *,
    root: Path | str = "runs",
    n_workers: int = 1,
    estimator: Estimator | None = None,
    progress: Progress | None = None,
) -> tuple[Run, pd.DataFrame]:
    """Measure every wired truth of the cases; returns the run folder and one row per truth (see `judge`).

    only: names of cases, all when empty. sizes: rows; intervals are judged at the smallest, values at the largest.
    n_workers: processes. estimator: what is put in place of the kit's own `estimate`, to see a broken one turn red.
    Raises BadInput for an unknown case; Interrupted on Ctrl-C, and the same call resumes.
    """
    if seeds < 1 or not sizes or min(sizes) < 200:
        raise BadInput(
            f"a calibration needs at least one seed and 200 rows; found {seeds} seeds and {list(sizes)} rows."
        )
    planned = units(only, seeds, sizes)
    if not planned:
        raise BadInput(f"nothing of {', '.join(only)} is measured yet: it waits for its metric (docs/calibration.md).")
    cases = list(dict.fromkeys(unit.case for unit in planned))
    spec = {"calibration": VERSION, "cases": cases, "seeds": seeds, "sizes": list(sizes)}
    writer = RunWriter.open(Path(root), f"calibration-{digest(spec, 8)}", spec, len(planned))
    if not writer.complete:

        def keep(unit: Unit, records: list[Record], seconds: float) -> None:
            writer.write_cell(unit.id, records, list[Losses](), seconds=seconds)

        work = partial(_measure_unit, estimator=estimator or estimate)
        work_off(work, planned, writer, keep, n_workers, progress)
        rows = judge(planned, {cell: records for cell, (records, _) in writer.finished().items()})
        writer.write_table("calibration", rows)
        writer.finish({"calibration": spec})
    run = open_run(writer.path)
    return run, run.table("calibration")


def _measure_unit(unit: Unit, estimator: Estimator) -> tuple[Unit, list[Record], float]:
    begun, case = time.monotonic(), CASES[unit.case]
    tier_2 = unit.tier == 2
    records = replaced(case, unit.n, unit.seed) if tier_2 else estimator(case, unit.n, unit.seed, unit.heavy)
    told = {"task": f"ground_truth:{unit.case}:{unit.tier}", "revision": f"n={unit.n}", "seed_data": unit.seed}
    kept = {record.id: record for record in (replace(record, **told) for record in records)}
    return unit, list(kept.values()), time.monotonic() - begun


def estimate(case: Case, n: int, seed: int, heavy: bool = True) -> list[Record]:
    """The kit's records of a tier 1 case: every level that a truth names, on what the seed draws."""
    truths = [truth for truth in case.truths if truth.tier == 1 and not truth.waits and (heavy or not _is_heavy(truth))]
    moved = [level for level in dict.fromkeys(truth.level for truth in truths if truth.metric == "transfer" or
             truth.test_domain != SEEN) if not level.startswith("hypothesis:")]  # fmt: skip
    domains = {truth.test_domain for truth in truths} | ({UNSEEN} if moved else set())
    planted = draw(case.name, n, _width(case), seed, varied=True, domains=len(domains | {SEEN}))
    metrics = {truth.metric for truth in truths}
    levels = [truth.level for truth in truths if truth.metric not in ("decomposition", "accuracy")]
    levels = [level for level in dict.fromkeys(levels) if not level.startswith("hypothesis:")]
    if "crossing" in metrics and "linear" not in levels:
        levels.append("linear")
    ks = {truth.k for truth in truths if truth.k and not truth.level.startswith("simple:")} or {1}
    simple_ks = {
        truth.k for truth in truths if truth.k and truth.metric != "decomposition" and truth.level.startswith("simple:")
    }
    sites = {"planted": planted.activations}
    if "selected" in metrics:
        generator = np.random.default_rng([seed, 30])
        sites["noise"] = generator.normal(size=planted.activations.shape).astype(np.float32)
    wants_features = "accuracy" in metrics or case.hypothesis is not None
    frame = measure(
        sites,
        behaviour={"behaviour": planted.law},
        groups=planted.group,
        domains=planted.domain if len(np.unique(planted.domain)) > 1 else None,
        features=planted.features if wants_features else None,
        twin=None if planted.twin is None else {"planted": planted.twin},
        hypotheses=[case.hypothesis(planted.parameters)] if case.hypothesis else [],
        transfer=moved or ("linear",),
        seed_probe=seed,
        seed_data=seed,
        n_bootstrap=1_000,
        levels=tuple(levels) or ("linear",),
        ks=tuple(sorted(ks)),
        simple_ks=tuple(sorted(simple_ks)) or (1,),
        controls=tuple({truth.control for truth in truths} & {"random_twin", "row_split"}),
        decomposition="decomposition" in metrics,
        floors=("strong",),
        n_permutations=0,
        extrapolate="extrapolated" in metrics,
        online_orders=2 if "code_length" in metrics else 0,
    )
    return [_record(row) for row in frame.to_dict("records")]


def replaced(case: Case, n: int, seed: int) -> list[Record]:
    """Records of a tier 2 case: the planted transformer run with each stated abstraction kept, at n / 5 rows."""
    from probekit.capture import capture
    from probekit.replacement import Replacement

    assert case.network is not None
    network = case.network(seed)
    model, task = network.model(), network.task(n, seed)
    hooks = sorted({hook for at in network.hooks.values() for hook in at})
    activations = capture(model, task, hooks, store=None)
    measurement = Measurement(
        activations.observations, ReadSpec(floors=("strong",)), seeds=(seed, seed, 0), n_bootstrap=1_000
    )
    cells = Replacement(model, task, activations, measurement, ReplaceSpec(rows=n // 5))
    out = []
    for keep in dict.fromkeys(truth.keep for truth in case.truths if truth.keep and not truth.waits):
        at = network.hooks[keep]
        found = cells.cell("answer", SEEN, at, at[0] if len(at) == 1 else "", [network.abstraction(keep)]).records
        out += [replace(record, note=f"keep {keep}", position=keep) for record in found]
    return out


# ------------------------------------------------------------------------------------------------------------ judging


COLUMNS = (
    "case", "metric", "level", "k", "arm", "source", "control", "domains", "keep", "kind", "truth", "estimate", "low",
    "high", "coverage", "bias", "se", "naive_method", "naive_value", "naive_error", "seeds", "passed", "why",
)  # fmt: skip
_SOURCES = {"direction": "logistic", "directions": "behaviour", "linear": "behaviour", "nonlinear": "mlp"}


def judge(planned: Sequence[Unit], records: dict[str, list[Record]]) -> pd.DataFrame:
    """One row per truth: means over seeds at the largest size, coverage at the smallest, and whether it is accepted.

    A truth of 0: upper limit at most .02 above it, in 9 seeds of 10. Another: the interval covers it in 9 of 10 at the
    smallest size; at the largest it is off by at most .03, with a standard error of at most .02, in 9 of 10 (times the
    truth where that is above 1). The case's
    naive method has to be off by .2 or more. records: unit id -> its records.
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
        if _is_heavy(truth) and not unit.heavy:
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
        "seeds": len({unit.seed for unit in mine if unit.heavy or not _is_heavy(truth)}),
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
    near = np.mean(np.abs(off) <= OFF * slack)
    if near < SHARE:
        return False, f"within {OFF * slack:.2f} in {near:.0%}"
    if np.mean(error <= ERROR * slack) < SHARE:
        return False, f"standard error {np.median(error):.3f}"
    # The interval of a code holds the draw of rows, not the cost of learning, which is part of what it measures.
    if np.mean(covered) < SHARE and large[0][2].metric != "code_length":
        return False, f"interval covers in {np.mean(covered):.0%}"
    return True, ""


def _width(case: Case) -> int:
    return D if case.n_bits else D_LARGE


def _drawn(case: Case, unit: Unit) -> Any:
    """What the unit's seed draws: a network, or a plant's parameters (the same ones for a draw of few rows)."""
    if unit.tier == 2 and case.network:
        return case.network(unit.seed)
    if case.plant is None:
        return settle(case, _width(case), unit.seed, varied=True)
    return draw(case.name, 64, _width(case), unit.seed, varied=True).parameters


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


def _is_heavy(truth: Truth) -> bool:
    return truth.level in HEAVY or truth.metric in HEAVY


def _naive(case: Case, mine: Sequence[Unit]) -> tuple[str, float, float]:
    """(name, mean value, mean distance from what it misses) of the naive method, over a few seeds."""
    values, errors, name = [], [], ""
    for unit in mine[:5]:
        network = case.network(unit.seed) if case.network else None
        given: Any = network
        if case.plant is not None:
            given = draw(case.name, unit.n, _width(case), unit.seed, varied=True)
        name, value = case.naive(given)
        exact = case.missed.value(network if case.plant is None or case.missed.tier == 2 else given.parameters)
        values.append(value)
        errors.append(abs(value - (exact or 0.0)))
    return name, float(np.mean(values)), float(np.mean(errors))


def _record(row: dict[str, Any]) -> Record:
    names = {f.name for f in fields(Record)}
    plain: dict[str, Any] = {
        key: None if isinstance(value, float) and np.isnan(value) else value
        for key, value in row.items()
        if key in names
    }
    for name in ("k", "parameters", "layer"):
        plain[name] = None if plain[name] is None else int(plain[name])
    return Record(**plain)
