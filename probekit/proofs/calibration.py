"""Calibration: every wired truth of the ground-truth models, measured over seeds in a run folder."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probekit.errors import BadInput
from probekit.jobs.engines import Folder, Progress, Station, stopping, work_off
from probekit.jobs.measure import measure
from probekit.measurement.cell import Measurement
from probekit.proofs.judging import judge
from probekit.proofs.units import LARGE, SMALL, VERSION, Unit, is_heavy, units, width_of
from probekit.records import Losses, Record, digest
from probekit.spec import ReadSpec, ReplaceSpec
from probekit.storage.runs import Run, open_run
from probekit.storage.runwriter import RunWriter
from probekit.testbeds.ground_truth import CASES, SEEN, UNSEEN, Case, draw

Estimator = Callable[[Case, int, int, bool], list[Record]]


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
    name, wanted = f"calibration-{digest(spec, 8)}", {unit.id: unit for unit in planned}
    begin = partial(_begin, Path(root), name, spec, len(wanted), estimator or estimate)
    writer = RunWriter.open(Path(root), name, spec, len(wanted))
    if not writer.complete:
        with stopping(writer):
            work_off([wanted], _station(writer, estimator or estimate), n_workers=n_workers, begin=begin,
                     progress=progress)  # fmt: skip
        rows = judge(planned, {cell: records for cell, (records, _) in writer.finished().items()})
        writer.write_table("calibration", rows)
        writer.finish({"calibration": spec})
    run = open_run(writer.path)
    return run, run.table("calibration")


def _begin(root: Path, name: str, spec: dict, n_cells: int, estimator: Estimator, number: int) -> Station:
    return _station(RunWriter.open(root, name, spec, n_cells, worker=str(number)), estimator)


def _station(writer: RunWriter, estimator: Estimator) -> Station:
    def write(writer: RunWriter, key: str, unit: Unit, records: list[Record]) -> tuple[list[Record], list[Losses]]:
        return records, []

    return Station(partial(_measure_unit, estimator=estimator), Folder(writer, write, strict=True))


def _measure_unit(unit: Unit, estimator: Estimator) -> list[Record]:
    case = CASES[unit.case]
    tier_2 = unit.tier == 2
    records = replaced(case, unit.n, unit.seed) if tier_2 else estimator(case, unit.n, unit.seed, unit.heavy)
    told = {"task": f"ground_truth:{unit.case}:{unit.tier}", "revision": f"n={unit.n}", "seed_data": unit.seed}
    kept = {record.id: record for record in (replace(record, **told) for record in records)}
    return list(kept.values())


def estimate(case: Case, n: int, seed: int, heavy: bool = True) -> list[Record]:
    """The kit's records of a tier 1 case: every level that a truth names, on what the seed draws."""
    truths = [truth for truth in case.truths if truth.tier == 1 and not truth.waits and (heavy or not is_heavy(truth))]
    moved = [level for level in dict.fromkeys(truth.level for truth in truths if truth.metric == "transfer" or
             truth.test_domain != SEEN) if not level.startswith("hypothesis:")]  # fmt: skip
    domains = {truth.test_domain for truth in truths} | ({UNSEEN} if moved else set())
    planted = draw(case.name, n, width_of(case), seed, varied=True, domains=len(domains | {SEEN}))
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
        outer_folds=1,
        inner_folds=1,
        falls=False,
        extrapolate="extrapolated" in metrics,
        online_orders=2 if "code_length" in metrics else 0,
    )
    return [_record(row) for row in frame.to_dict("records")]


def replaced(case: Case, n: int, seed: int) -> list[Record]:
    """Records of a tier 2 case: the planted transformer run with each stated abstraction kept, at n / 5 rows."""
    from probekit.activations.capture import capture
    from probekit.measurement.replacement import Replacement

    assert case.network is not None
    network = case.network(seed)
    model, task = network.model(), network.task(n, seed)
    hooks = sorted({hook for at in network.hooks.values() for hook in at})
    activations = capture(model, task, hooks, store=None)
    measurement = Measurement(
        activations.observations,
        ReadSpec(floors=("strong",), outer_folds=1, inner_folds=1),
        seeds=(seed, seed, 0),
        n_bootstrap=1_000,
    )
    cells = Replacement(model, task, activations, measurement, ReplaceSpec(rows=n // 5))
    out = []
    for keep in dict.fromkeys(truth.keep for truth in case.truths if truth.keep and not truth.waits):
        at = network.hooks[keep]
        found = cells.cell("answer", SEEN, at, at[0] if len(at) == 1 else "", [network.abstraction(keep)]).records
        out += [replace(record, note=f"keep {keep}", position=keep) for record in found]
    return out


def _record(row: dict[str, Any]) -> Record:
    names = {f.name for f in fields(Record)}
    plain: dict[str, Any] = {
        key: None if isinstance(value, float) and np.isnan(value) else value
        for key, value in row.items()
        if key in names
    }
    for name in ("k", "parameters", "layer", "n_fit", "d_read"):  # a frame has no integer that is missing
        plain[name] = None if plain[name] is None else int(plain[name])
    return Record(**plain)
