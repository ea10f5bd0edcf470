"""Comparable: what two runs have to share before a difference means anything, as far as their manifests tell."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from probekit.errors import RunError
from probekit.results.examples import KeepsRows
from probekit.spec import BehaviourEntry

_MEANS = {
    "model": "the models are compared",
    "weights": "the networks are compared",
    "revision": "checkpoints are compared",
    "data": "one of them may have had the easier rows",
    "behaviour": "it is not the same question",
    "floor": "what the input alone explains is another zero",
    "ceiling": "the model's own answers are surer in one of them",
    "readers": "readers are compared, too",
    "splits": "rows lie on other sides of the split",
    "cell version": "what a number means may have changed",
    "package": "the code differs",
}
# Keys of [read] that decide which cells there are, and not what is in one.
_ONLY_WHICH = ("hooks", "levels", "ks", "simple_ks", "controls", "decomposition", "extrapolate", "falls", "features",
               "floors", "n_permutations", "online_orders", "delete", "filler")  # fmt: skip


def comparability(first: pd.DataFrame, second: pd.DataFrame, behaviour: str) -> pd.DataFrame:
    """A row per thing that should be the same: `what`, `a`, `b`, `verdict` (equal, different, unknown), `means`.

    first, second: records as `Run.records` gives them, whose `attrs` have the manifest; without one all is unknown but
    the model. means: what a difference would mean.
    """
    told = [_told(frame, behaviour) for frame in (first, second)]
    rows = []
    for what, means in _MEANS.items():
        values = [one.get(what) for one in told]
        unknown = any(value is None for value in values)
        verdict = "unknown" if unknown else "equal" if values[0] == values[1] else "different"
        said = ["not recorded" if value is None else _said(value) for value in values]
        if what in ("readers", "behaviour") and verdict == "different" and all(isinstance(v, Mapping) for v in values):
            said = list(_only_different(*values))
        elif what == "readers":
            said = ["as [read] of its spec says" if value is not None else "not recorded" for value in values]
        rows.append({"what": what, "a": said[0], "b": said[1], "verdict": verdict, "means": means})
    return pd.DataFrame(rows)


def alike_groups(a: KeepsRows, b: KeepsRows, behaviour: str) -> Callable[[str], bool] | None:
    """Whether a group has the same rows in both runs; None where nothing tells.

    Groups of one name are the same where the task's digest is (or the run's), or where both runs kept the texts of the
    rows that they tested and these are equal. A group that only happens to have the same name is not the same group.
    """
    tasks = [_of(run.records, "task", "fingerprint") for run in (a, b)]
    sealed = [(run.records.attrs.get("manifest") or {}).get("digest") for run in (a, b)]
    if any(one is not None and one == other for one, other in (tasks, sealed)):
        names = [_groups(run, behaviour) for run in (a, b)]
        if names[0] is None or names[1] is None:
            return lambda group: True
        return _same(names[0], names[1])
    texts = [_texts(run, behaviour) for run in (a, b)]
    if texts[0] is None or texts[1] is None:
        return None
    return _same(texts[0], texts[1])


def _same(first: Mapping[str, tuple], second: Mapping[str, tuple]) -> Callable[[str], bool]:
    return lambda group: group in first and first[group] == second.get(group)


def _tested(run: KeepsRows, behaviour: str) -> pd.DataFrame | None:
    try:
        tested = run.table("tested_rows")
    except RunError:
        return None
    tested = tested[tested["behaviour"] == behaviour]
    return tested if len(tested) else None


def _groups(run: KeepsRows, behaviour: str) -> dict[str, tuple] | None:
    """The places tested in each group."""
    tested = _tested(run, behaviour)
    if tested is None:
        return None
    return {str(name): tuple(sorted(zip(rows["example"], rows["position"], strict=True)))
            for name, rows in tested.groupby("group")}  # fmt: skip


def _texts(run: KeepsRows, behaviour: str) -> dict[str, tuple] | None:
    """The texts tested in each group; None where one is missing."""
    tested = _tested(run, behaviour)
    try:
        texts = run.table("texts")
    except RunError:
        return None
    if tested is None:
        return None
    told = tested.merge(texts, how="left", on=["example", "position"])
    if told["text"].isna().any():
        return None
    return {str(name): tuple(sorted(rows["text"])) for name, rows in told.groupby("group")}


def _of(frame: pd.DataFrame, *path: str) -> Any:
    found: Any = (frame.attrs.get("manifest") or {}).get("provenance") or {}
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _told(frame: pd.DataFrame, behaviour: str) -> dict[str, Any]:
    """What a run says of each thing; None or absent where it does not."""
    manifest = frame.attrs.get("manifest") or {}
    spec, told = manifest.get("spec") or {}, manifest.get("provenance") or {}
    first = frame.iloc[0] if len(frame) else {}
    task, model, packages = (told.get(name) or {} for name in ("task", "model", "packages"))
    floors = {key.removeprefix(f"{behaviour} "): entry for key, entry in (told.get("floors") or {}).items()
              if key.startswith(f"{behaviour} ")}  # fmt: skip
    strong = {key: entry for key, entry in floors.items() if key.endswith("strong") and "bits" in entry}
    read = spec.get("read") or {}
    return {
        "model": first.get("model") or None,
        "weights": str(model["fingerprint"])[:12] if model.get("fingerprint") else None,
        "revision": model.get("revision") if "revision" in model else None,
        "data": _data(task),
        "behaviour": _asked(spec, behaviour),
        "floor": [f"{e['family']} on {', '.join(e['blocks'])}: {e['bits']:.4f} bits" for e in strong.values()] or None,
        "ceiling": [f"{e['ceiling_bits']:.4f} bits" for e in strong.values()] or None,
        "readers": {key: value for key, value in read.items() if key not in _ONLY_WHICH} or None,
        "splits": told.get("seeds"),
        "cell version": told.get("cell_version"),
        "package": packages.get("abstraction-probekit"),
    }


def _data(task: Mapping[str, Any]) -> str | None:
    if "fingerprint" not in task:
        return None
    return f"{task.get('name', '')} ({task.get('n_rows', '?')} rows, {task['fingerprint'][:8]})"


def _asked(spec: Mapping[str, Any], behaviour: str) -> Any:
    """What the spec says of a behaviour, defaults left out; of a testbed's own, the testbed."""
    task, usual = spec.get("task") or {}, BehaviourEntry.model_fields
    named = [{key: value for key, value in entry.items() if key not in usual or value != usual[key].default}
             for entry in task.get("behaviours") or () if entry.get("name") == behaviour]  # fmt: skip
    return named[0] if named else f"{behaviour} of {task['testbed']}" if task.get("testbed") else None


def _said(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items() if one not in (None, "", [], {}))
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return str(value) if value != "" else "none"


def _only_different(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    """The keys in which two tables differ."""
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    one, other = (", ".join(f"{key} {_said(side.get(key))}" for key in keys) for side in (first, second))
    return one, other
