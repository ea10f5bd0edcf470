"""probekit: how much of a network's behaviour does an abstraction of it leave unexplained?

The public names, resolved when first used: importing this package costs nothing and loads neither torch nor pandas.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probekit.activations.activations import Activations
    from probekit.activations.capture import capture, capture_without
    from probekit.activations.foreign import ForeignAudit, audit_requests
    from probekit.activations.statistics import row_statistics, stream_statistics
    from probekit.errors import (
        BadInput,
        FitError,
        Interrupted,
        MissingExtra,
        OutOfTime,
        OverBudget,
        ProbekitError,
        RunError,
        RunHeld,
        RunOver,
        StoreError,
        TooFewRows,
        UnknownHook,
    )
    from probekit.fit.badness import Predictor
    from probekit.hookpoint import HookPoint
    from probekit.inputs.places import rows_at
    from probekit.inputs.requests import Requests, read_requests
    from probekit.inputs.saved import SavedReader, load_reader
    from probekit.inputs.spans import delete_span
    from probekit.jobs.across import transfer_across
    from probekit.jobs.carried import read_across
    from probekit.jobs.foresight import Ranking, foresee
    from probekit.jobs.measure import measure
    from probekit.jobs.probe import probe
    from probekit.jobs.runner import run_job
    from probekit.jobs.sweep import Sweep, run_sweep
    from probekit.jobs.takeaway import save_reader
    from probekit.jobs.workers import crew_of
    from probekit.levels import Hypothesis, Level
    from probekit.measurement.ladder import Ladder, Rung, ladder
    from probekit.model.loading import load_model
    from probekit.records import Record
    from probekit.results.claims import CLAIMS, Claim, Need, judge
    from probekit.results.compare import compare
    from probekit.results.figures import figure
    from probekit.results.summary import summary
    from probekit.results.tables import table
    from probekit.spec import JobSpec
    from probekit.storage.runs import open_run, read_run, read_runs
    from probekit.task import Behaviour, BehaviourSpec, Feature, Observations, Task
    from probekit.testbeds import load_task

    __version__: str

__all__ = [
    "CLAIMS",
    "Activations",
    "BadInput",
    "Behaviour",
    "BehaviourSpec",
    "Claim",
    "Feature",
    "FitError",
    "ForeignAudit",
    "HookPoint",
    "Hypothesis",
    "Interrupted",
    "JobSpec",
    "Ladder",
    "Level",
    "MissingExtra",
    "Need",
    "Observations",
    "OutOfTime",
    "OverBudget",
    "Predictor",
    "ProbekitError",
    "Ranking",
    "Record",
    "Requests",
    "RunError",
    "RunHeld",
    "RunOver",
    "Rung",
    "SavedReader",
    "StoreError",
    "Sweep",
    "Task",
    "TooFewRows",
    "UnknownHook",
    "audit_requests",
    "capture",
    "capture_without",
    "compare",
    "crew_of",
    "delete_span",
    "figure",
    "foresee",
    "judge",
    "ladder",
    "load_model",
    "load_reader",
    "load_task",
    "measure",
    "open_run",
    "probe",
    "read_across",
    "read_requests",
    "read_run",
    "read_runs",
    "row_statistics",
    "rows_at",
    "run_job",
    "run_sweep",
    "save_reader",
    "stream_statistics",
    "summary",
    "table",
    "transfer_across",
]
_HOME = {
    "CLAIMS": "results.claims",
    "Activations": "activations.activations",
    "BadInput": "errors",
    "Behaviour": "task",
    "BehaviourSpec": "task",
    "Claim": "results.claims",
    "Feature": "task",
    "FitError": "errors",
    "ForeignAudit": "activations.foreign",
    "HookPoint": "hookpoint",
    "Hypothesis": "levels",
    "Interrupted": "errors",
    "JobSpec": "spec",
    "Ladder": "measurement.ladder",
    "Level": "levels",
    "MissingExtra": "errors",
    "Need": "results.claims",
    "Observations": "task",
    "OutOfTime": "errors",
    "OverBudget": "errors",
    "Predictor": "fit.badness",
    "ProbekitError": "errors",
    "Ranking": "jobs.foresight",
    "Record": "records",
    "Requests": "inputs.requests",
    "RunError": "errors",
    "RunHeld": "errors",
    "RunOver": "errors",
    "Rung": "measurement.ladder",
    "SavedReader": "inputs.saved",
    "StoreError": "errors",
    "Sweep": "jobs.sweep",
    "Task": "task",
    "TooFewRows": "errors",
    "UnknownHook": "errors",
    "audit_requests": "activations.foreign",
    "capture": "activations.capture",
    "capture_without": "activations.capture",
    "compare": "results.compare",
    "crew_of": "jobs.workers",
    "delete_span": "inputs.spans",
    "figure": "results.figures",
    "foresee": "jobs.foresight",
    "judge": "results.claims",
    "ladder": "measurement.ladder",
    "load_model": "model.loading",
    "load_reader": "inputs.saved",
    "load_task": "testbeds",
    "measure": "jobs.measure",
    "open_run": "storage.runs",
    "probe": "jobs.probe",
    "read_across": "jobs.carried",
    "read_requests": "inputs.requests",
    "read_run": "storage.runs",
    "read_runs": "storage.runs",
    "row_statistics": "activations.statistics",
    "rows_at": "inputs.places",
    "run_job": "jobs.runner",
    "run_sweep": "jobs.sweep",
    "save_reader": "jobs.takeaway",
    "stream_statistics": "activations.statistics",
    "summary": "results.summary",
    "table": "results.tables",
    "transfer_across": "jobs.across",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version("abstraction-probekit")
    if name not in _HOME:
        raise AttributeError(f"module 'probekit' has no attribute '{name}'")
    value = getattr(import_module(f"probekit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
