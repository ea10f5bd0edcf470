"""Kept: what studies share. Texts as a CSV file, a job of their own run on them, and findings as JSON."""

# pyright: reportGeneralTypeIssues=false

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from probekit.hookpoint import HookPoint, spread
from probekit.jobs.runner import run_job
from probekit.metrics.ratios import Estimate
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.results.text import number
from probekit.spec import JobSpec
from probekit.storage.runs import Run

Found = TypeVar("Found", bound="Stored")


@dataclass(frozen=True)
class Stored:
    """Findings of a study: the numbers that its page speaks of. Tuples of rows are lists in its file."""

    @classmethod
    def read(cls: type[Found], path: Path) -> Found:
        """From a JSON file."""
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})

    def write(self, path: Path) -> None:
        """One row per line, so that a change can be read."""
        told = asdict(self)
        rows = [name for name, value in told.items() if isinstance(value, tuple) and all(map(_is_row, value))]
        write_json(path, told, rows)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The member `rows`."""
        return pd.DataFrame(vars(self)["rows"])


def _is_row(value: object) -> bool:
    return isinstance(value, dict)


def listed(frame: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """The rows of a frame, with None for what is missing."""
    return tuple(frame.astype(object).where(frame.notna(), None).to_dict("records"))


def figures(told: Estimate, digits: int = 4) -> dict[str, Any]:
    """Value, limits and why there is none, as they are kept: rounded, without a minus before 0."""
    found = {name: getattr(told, name) for name in ("value", "low", "high")}
    rounded = {name: None if value is None else round(value, digits) + 0.0 for name, value in found.items()}
    return rounded | {"na_reason": told.na_reason}


def interval(row: Mapping[str, Any] | pd.Series, digits: int = 2) -> str:
    """`value [low, high]` of a row; the value alone where it has no limits, NA with its reason where there is none."""
    if row["value"] is None or pd.isna(row["value"]):
        return f"NA ({row['na_reason']})" if row.get("na_reason") else "NA"
    value, low, high = (number(row[name], digits) for name in ("value", "low", "high"))
    return value if low == "NA" else f"{value} [{low}, {high}]"


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
