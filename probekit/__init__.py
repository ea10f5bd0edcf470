"""probekit: how much of a network's behaviour does an abstraction of it leave unexplained?

The public names, resolved when first used: importing this package costs nothing and loads neither torch nor pandas.
"""

import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probekit.capture import Activations, capture, capture_without
    from probekit.claims import CLAIMS, Claim, Need, judge
    from probekit.errors import (
        BadInput,
        FitError,
        Interrupted,
        MissingExtra,
        ProbekitError,
        RunError,
        StoreError,
        TooFewRows,
        UnknownHook,
    )
    from probekit.figures import figure
    from probekit.hookpoint import HookPoint
    from probekit.levels import Hypothesis, Level
    from probekit.measurement import measure
    from probekit.model import load_model
    from probekit.onepass import stream_statistics
    from probekit.records import Record
    from probekit.rundir import open_run, read_run
    from probekit.runner import run_job
    from probekit.spans import delete_span
    from probekit.spec import JobSpec
    from probekit.tables import table
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
    "HookPoint",
    "Hypothesis",
    "Interrupted",
    "JobSpec",
    "Level",
    "MissingExtra",
    "Need",
    "Observations",
    "ProbekitError",
    "Record",
    "RunError",
    "StoreError",
    "Task",
    "TooFewRows",
    "UnknownHook",
    "capture",
    "capture_without",
    "delete_span",
    "figure",
    "judge",
    "load_model",
    "load_task",
    "measure",
    "open_run",
    "read_run",
    "run_job",
    "stream_statistics",
    "table",
]

_HOME = {
    "CLAIMS": "claims",
    "Activations": "capture",
    "BadInput": "errors",
    "Behaviour": "task",
    "BehaviourSpec": "task",
    "Claim": "claims",
    "Feature": "task",
    "FitError": "errors",
    "HookPoint": "hookpoint",
    "Hypothesis": "levels",
    "Interrupted": "errors",
    "JobSpec": "spec",
    "Level": "levels",
    "MissingExtra": "errors",
    "Need": "claims",
    "Observations": "task",
    "ProbekitError": "errors",
    "Record": "records",
    "RunError": "errors",
    "StoreError": "errors",
    "Task": "task",
    "TooFewRows": "errors",
    "UnknownHook": "errors",
    "capture": "capture",
    "capture_without": "capture",
    "delete_span": "spans",
    "figure": "figures",
    "judge": "claims",
    "load_model": "model",
    "load_task": "testbeds",
    "measure": "measurement",
    "open_run": "rundir",
    "read_run": "rundir",
    "run_job": "runner",
    "stream_statistics": "onepass",
    "table": "tables",
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


class _Package(ModuleType):
    """Importing the module `probekit.capture` binds it to the name of the function `capture`: the function stays."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
