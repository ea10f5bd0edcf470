"""Carried: what carries over between the models of a sweep, task by task and seed by seed, kept beside their runs."""

import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.activations.capture import capture
from probekit.errors import BadInput, ProbekitError, RunError
from probekit.hookpoint import HookPoint
from probekit.jobs.across import transfer_across
from probekit.jobs.job import Job
from probekit.jobs.sweep import Sweep, SweptJob, finished_in, model_label
from probekit.records import digest
from probekit.spec import AcrossSpec, JobSpec
from probekit.storage.files import put
from probekit.task import ALL, Observations

if TYPE_CHECKING:
    from probekit.model.model import Model

log = logging.getLogger(__name__)
ACROSS = "across"  # folder beside the runs


def read_across(folder: Path | str) -> pd.DataFrame:
    """What `[across]` of a sweep has found so far, one record per row, of the folder of its runs.

    Columns are those of `pk.transfer_across`, of which `fit_domain` and `test_domain` name the two models, with
    `fit_hook` and `test_hook`, where each of them was read, and `depth`. Raises RunError where there is nothing.

    >>> import probekit as pk
    >>> pk.read_across("elsewhere")
    Traceback (most recent call last):
    probekit.errors.RunError: elsewhere has nothing across models: give its sweep an [across] table and run it again.
    """
    files = sorted((Path(folder) / ACROSS).glob("*.parquet"))
    if not files:
        raise RunError(f"{folder} has nothing across models: give its sweep an [across] table and run it again.")
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def carry_over(sweep: Sweep, base: Path, folder: Path, store: Path | str, device: str) -> Iterator[SweptJob]:
    """Compare the models of every task and seed whose runs in `folder` are all finished; what is there already stays.

    One that cannot be compared costs itself alone.
    """
    runs = finished_in(folder)
    assert sweep.across is not None
    for several in _tasks(sweep):
        if any(job.name not in runs for jobs in several.values() for job in jobs):
            continue  # a part of the sweep that is measured elsewhere, or has failed, which its jobs say
        seen: dict[str, _Seen] = {}
        for at in range(len(next(iter(several.values())))):
            jobs = {label: jobs[at] for label, jobs in several.items()}
            first = next(iter(jobs.values()))
            key = digest([sweep.across.model_dump(mode="json"), *(runs[job.name] for job in jobs.values())])
            path, told = folder / ACROSS / f"{key}.parquet", partial(SweptJob, first.name, across=True)
            if path.exists():
                yield told("done")
                continue
            try:
                seen = seen or {label: _Seen.of(job, sweep.across, base, store, device) for label, job in jobs.items()}
                found = _carried(seen, first, sweep.across)
            except ProbekitError as error:
                yield told("failed", error=str(error))
                continue
            path.parent.mkdir(exist_ok=True)
            put(path, _bytes_of(found), RunError)
            yield told("done")


def _tasks(sweep: Sweep) -> list[dict[str, list[JobSpec]]]:
    """For each task that is asked of all models the jobs of each model, by what it is called: one for each seed."""
    found: dict[str, dict[str, dict[str, JobSpec]]] = {}
    for job in sweep.jobs:
        told = job.model_dump(mode="json", include={"task", "backend", "seed_probe"})
        drawn = job.seed_data if job.task.testbed else None  # which examples a testbed gives
        of_model = found.setdefault(digest([told, drawn]), {}).setdefault(model_label(job.model), {})
        of_model.setdefault(str(job.seed_data), job)  # of a grid the first: what it varies is not asked here
    return [{label: list(jobs.values()) for label, jobs in task.items()} for task in found.values()]


@dataclass(frozen=True)
class _Seen:
    """Rows of one model that its run has captured. sites: depth -> (hook point, activations [n, d]); parts: rule of
    positions -> its rows within the first domain."""

    sites: Mapping[float, tuple[str, NDArray]]
    observations: Observations
    parts: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, spec: JobSpec, asked: AcrossSpec, base: Path, store: Path | str, device: str) -> "_Seen":
        job = Job.load(spec, base, device)
        hooks = {depth: hook_at(job.model, depth) for depth in asked.depths}
        found = capture(job.model, job.task, list(hooks.values()), store=store, backend=spec.backend)
        seen = found.observations
        sites = {depth: (hook, found.sites[hook].float().numpy()) for depth, hook in hooks.items()}
        every = seen.domain == seen.domains[0]
        read = {rule: np.flatnonzero(mask & every) for rule, mask in seen.rules.items()} or {ALL: np.flatnonzero(every)}
        return cls(sites, seen, read)

    def same_rows(self, other: "_Seen", rule: str) -> bool:
        """Whether another model was read at the same examples, in the same order, so many times each."""
        ours, theirs = (one.observations.example[one.parts.get(rule, [])] for one in (self, other))
        return np.array_equal(ours, theirs)


def hook_at(model: "Model", depth: float) -> str:
    """The residual stream after this share of a model's blocks, at least one."""
    after = max(1, round(depth * model.n_layers))
    return HookPoint.within(after - 1, "hook_resid_post").name


def anchors_of(group: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Rows of so many whole groups [n], which align models and are measured by nothing."""
    groups = np.unique(group)
    drawn = np.random.default_rng(seed).permutation(groups)[: max(1, round(share * len(groups)))]
    return np.isin(group, drawn)


def _carried(seen: Mapping[str, _Seen], spec: JobSpec, asked: AcrossSpec) -> pd.DataFrame:
    first, out = next(iter(seen.values())), []
    for rule, rows in first.parts.items():
        if not all(first.same_rows(one, rule) for one in seen.values()):
            raise BadInput(
                f"{spec.name}: models are compared on the same rows, and their tokens give other ones: read at a "
                "position that each text has once, such as last."
            )
        group = first.observations.group[rows]
        shared: dict[str, Any] = {
            "anchors": anchors_of(group, asked.anchors, spec.seed_data), "groups": group, "seed": spec.seed_data,
            "floor": {name: block[rows] for name, block in first.observations.floor_inputs.items()},
            "levels": asked.levels, "ks": asked.ks, "alignments": asked.alignments,
        }  # fmt: skip
        for name, behaviour in _answers(seen, rule).items():
            for depth in asked.depths:
                x = {label: one.sites[depth][1][one.parts[rule]] for label, one in seen.items()}
                found = transfer_across(x, behaviour=behaviour, **shared)
                hooks = {
                    f"{side}_hook": [seen[label].sites[depth][0] for label in found[f"{side}_domain"]]
                    for side in ("fit", "test")
                }
                told = {"task": first.observations.task, "behaviour": name, "position": rule, "depth": depth}
                out.append(found.assign(**told, **hooks))
    if not out:
        raise BadInput(f"{spec.name}: no behaviour has the same outcomes in all models: compare labels of the task.")
    return pd.concat(out, ignore_index=True)


def _answers(seen: Mapping[str, _Seen], rule: str) -> dict[str, Any]:
    """Behaviours whose outcomes all models share: a law [n, n_outcomes] for all, or one for each."""
    out: dict[str, Any] = {}
    for name in next(iter(seen.values())).observations.behaviours:
        told = {label: one.observations.behaviours[name] for label, one in seen.items()}
        laws = {label: told[label].law[one.parts[rule]] for label, one in seen.items()}
        first = next(iter(laws.values()))
        if len({one.outcomes for one in told.values()}) > 1 or next(iter(told.values())).is_value:
            log.warning("'%s' is not compared across models: its outcomes are numbers, or others in each.", name)
        else:
            out[name] = first if all(np.array_equal(first, law) for law in laws.values()) else laws
    return out


def _bytes_of(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()
