"""Kept: what studies share. Texts as a CSV file, a job of their own run on them, and findings as JSON."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from probekit.hookpoint import HookPoint, spread
from probekit.jobs.runner import run_job
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.spec import JobSpec
from probekit.storage.runs import Run


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Rows below their columns; returns how many there are."""
    made = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *made])
    return len(made)


def write_json(path: Path, told: Mapping[str, Any], listed: Sequence[str]) -> None:
    """An object whose members `listed` are lists with one row per line, so that a change can be read."""
    members = [
        f"{json.dumps(name)}: " + ("[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if name in listed else
                                   json.dumps(value))
        for name, value in told.items()
    ]  # fmt: skip
    path.write_text("{\n" + ",\n".join(members) + "\n}\n", encoding="utf-8")


def job_of(path: Path, model: str | Path, sites: Sequence[HookPoint]) -> JobSpec:
    """The job of a study, of this model and at these hook points."""
    asked = JobSpec.read_toml(path).model_dump(mode="json", exclude_unset=True)
    asked["model"]["name"] = str(Path(model).resolve())
    asked["read"]["hooks"] = [hook.name for hook in sites]
    return JobSpec.check(asked, "study")


def run_study(
    path: Path, model: str | Path, folder: Path, n_sites: int, device: str, first: Sequence[HookPoint] = (), **how: Any
) -> tuple[Model, JobSpec, Run]:
    """A job on the texts in `folder`: (model, job, run). first: hook points before `n_sites` layers, evenly spread.

    how: further arguments of `run_job`.
    """
    loaded = load_model(model, device=device)
    spec = job_of(path, model, [*first, *spread(loaded.n_layers, n_sites)])
    return loaded, spec, run_job(spec, base=folder, model=loaded, **how)
