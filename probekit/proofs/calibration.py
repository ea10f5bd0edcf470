"""Calibration: every wired truth of the ground-truth models, measured over seeds in a run folder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from probekit.errors import BadInput
from probekit.fit.directions import random_directions
from probekit.hookpoint import HookPoint
from probekit.jobs.engines import Folder, Progress, Station
from probekit.jobs.measure import measure
from probekit.measurement.across import PREFIX
from probekit.measurement.cell import Measurement
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.compose import binned, cross_talk, dependence, value_leak
from probekit.metrics.causal.feedback import feedback_leak
from probekit.metrics.ratios import Ratio, estimates
from probekit.model.interventions import Abstraction
from probekit.model.model import Model
from probekit.proofs.across import paired, record_of
from probekit.proofs.blocks import unit_study
from probekit.proofs.foresight import foreseen
from probekit.proofs.judging import judge
from probekit.proofs.units import LARGE, SMALL, VERSION, Unit, is_heavy, units, width_of
from probekit.records import Losses, Record
from probekit.spec import ComposeSpec, ReadSpec, ReplaceSpec
from probekit.storage.runs import Run
from probekit.storage.runwriter import RunWriter
from probekit.task import Task
from probekit.testbeds.ground_truth import CASES, SEEN, UNSEEN, Case, Planted, Truth, draw
from probekit.testbeds.ground_truth.circuits import Network

Estimator = Callable[[Case, int, int, bool], list[Record]]
OTHER_PLACES = "positions"
OF_ARRAYS = ("compose", "feedback")  # metrics that no reader is fitted for


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

    def close(writer: RunWriter) -> pd.DataFrame:
        return judge(planned, {cell: records for cell, (records, _) in writer.finished().items()})

    told = {"root": root, "n_workers": n_workers, "progress": progress}
    return unit_study("calibration", spec, planned, partial(_station, estimator or estimate), close, **told)


def _station(estimator: Estimator, writer: RunWriter) -> Station:
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
    arms = [truth.arm or truth.metric for truth in truths if truth.metric in OF_ARRAYS]
    if any(truth.arm.startswith(PREFIX) for truth in truths):
        return paired(case.name, truths, n, width_of(case), seed)
    if any(truth.metric == "foresight" for truth in truths):
        return foreseen(case.name, truths, n, width_of(case), seed)
    out = of_arrays(case, draw(case.name, n, width_of(case), seed, varied=True), arms) if arms else []
    truths = [truth for truth in truths if truth.metric not in OF_ARRAYS]
    return out + (_read(case, truths, n, seed) if truths else [])


def of_arrays(case: Case, planted: Planted, arms: Sequence[str]) -> list[Record]:
    """What composes, or is fed back, by the arrays alone: parts are read along their directions, and told apart."""
    p, seed, x = planted.parameters, planted.parameters.seed, planted.activations.astype(np.float64)
    directions = case.parts(p) if case.parts else p.rotation[: len(p.gains)]
    ratios: dict[str, Ratio] = {}
    if {"additive_value", "pair_value", "dependence"} & set(arms):
        codes = np.stack([binned(x @ direction) for direction in directions], 1)
        for order, arm in enumerate(("additive_value", "pair_value"), 1):
            ratios[arm] = value_leak(planted.law, codes, planted.group, order, seed).ratio
        ratios["dependence"] = dependence(codes, planted.group, seed)
    if "cross_talk" in arms:
        donor = x[np.random.default_rng([seed, 35]).permutation(len(x))]
        ratios["cross_talk"] = cross_talk(abs(((donor - x) @ directions.T)[..., None] * (directions @ directions.T)))
    if "feedback" in arms:
        answers, free, forced = (planted.extra[name] for name in ("answers", "free", "forced"))
        ratios["feedback"] = feedback_leak(answers, free, forced, int(p.setting["t0"]))
    clusters = Clusters.of(planted.group, 1_000, seed)
    return [
        Record(
            behaviour="behaviour", fit_domain=SEEN, test_domain=SEEN, metric="compose" if arm != "feedback" else arm,
            arm=arm if arm != "feedback" else "", level="directions", k=len(directions), value=found.value,
            low=found.low, high=found.high, n=found.n, groups=found.groups, na_reason=found.na_reason, note=found.note,
        )
        for arm, found in ((arm, estimates([ratios[arm]], clusters)[0]) for arm in arms)
    ]  # fmt: skip


def _read(case: Case, truths: Sequence[Truth], n: int, seed: int) -> list[Record]:
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
    return [record_of(row) for row in frame.to_dict("records")]


def replaced(case: Case, n: int, seed: int) -> list[Record]:
    """Records of a tier 2 case: the planted transformer run with each stated abstraction kept, at n / 5 rows.

    Of an abstraction that composes each direction is a part.
    """
    import torch

    from probekit.activations.capture import capture
    from probekit.measurement.causal.composition import Composition, Part, Parts
    from probekit.measurement.causal.replacement import INTERCHANGED, ROLL_OUT, Replacement
    from probekit.proofs.vacuous import searched_in_noise

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
    parts_of = Composition(model, task, activations, measurement, ComposeSpec(k=2, rows=n // 5, donors=16))
    held = {hook: torch.from_numpy(basis).float() for hook, basis in network.held.items()}
    out = []
    for keep, composed in dict.fromkeys((t.keep, t.metric == "compose") for t in case.truths if t.keep and not t.waits):
        at = network.hooks[keep]
        hook = at[0] if len(at) == 1 else ""
        if any(truth.level == "nonlinear" for truth in case.truths if truth.keep == keep):
            told = replace(cells.at(network.abstraction(keep), INTERCHANGED, "answer", hook, SEEN), level="nonlinear")
            found = [measurement.record(told, searched_in_noise(network, seed))]
        elif composed:
            bases = {hook: torch.from_numpy(basis).float() for hook, basis in network.keeps[keep].items()}
            parts = [Part(f"{i}", hook, v[:, None]) for hook, basis in bases.items() for i, v in enumerate(basis.T)]
            found = parts_of.cell("answer", SEEN, Parts("features", tuple(parts), held or None), hook).records
        else:
            kept = [network.abstraction(keep)]
            found = cells.cell("answer", SEEN, at, hook, [*kept, *_beside(kept[0], seed)] if hook else kept).records
            found = [record for record in found if not record.control]
            asked = {truth.arm for truth in case.truths if truth.keep == keep}
            if ROLL_OUT in asked:
                found += cells.cell("answer", SEEN, at, at[-1], kept, [ROLL_OUT]).records
            if OTHER_PLACES in asked:
                found.append(_other_places(network, model, task, measurement, n // 5))
        out += [replace(record, note=f"keep {keep}; {record.note}", position=keep) for record in found]
    return out


def _beside(kept: Abstraction, seed: int) -> list[Abstraction]:
    """Random directions of the same k, which an interchange is held against."""
    draws = {hook: random_directions(len(basis), basis.shape[1], seed) for hook, basis in kept.bases.items()}
    full = any(basis.shape[1] >= len(basis) for basis in kept.bases.values())
    return [] if full else [replace(kept, source="random", control="random_directions", bases=draws)]


def _other_places(network: Network, model: Model, task: Task, measurement: Measurement, n_rows: int) -> Record:
    """One copy of the first bit kept where it is spelt, the other places that spell it taken from one donor."""
    from probekit.activations.capture import capture
    from probekit.measurement.causal.abstractions import nothing
    from probekit.measurement.causal.replacement import Replacement

    copies = [i for i in range(1, network.words.shape[1]) if (network.words[:, i] == network.words[:, 0]).all()]
    hook = HookPoint.within(0, "hook_resid_pre").name
    n = len(task.tokens)
    moved = replace(task, positions=[np.array(copies)] * n, answer=np.full(n, network.words.shape[1]))
    seen = capture(model, moved, [hook], store=None)
    study = Measurement(seen.observations, measurement.read, seeds=measurement.seeds, n_bootstrap=1_000)
    cells = Replacement(model, moved, seen, study, ReplaceSpec(rows=n_rows))
    kept = nothing([hook], {hook: seen.sites[hook].shape[1]})
    found = cells.cell("answer", SEEN, [hook], hook, [kept], ["single:random"]).records[0]
    return replace(found, arm=OTHER_PLACES, source="features", control="", k=1)
