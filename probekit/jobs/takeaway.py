"""Takeaway: a reader that a run found, written as a file that is applied without the kit."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Mapping
from importlib import metadata
from os.path import isdir  # which says no to a name that no path can have
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.errors import BadInput, nearest
from probekit.inputs.saved import SavedReader
from probekit.jobs.cells import Cell, said_place
from probekit.jobs.work import tensor_name
from probekit.measurement.outcome import Alone, ReaderName, kept_of
from probekit.storage.runs import Run, open_run
from probekit.task import ALL

LEVELS = ("linear", "directions", "direction")
NUMBERS = ("value", "low", "high", "auroc", "accuracy", "r2", "n_fit", "n", "groups")


def save_reader(
    run: Any,
    path: Path | str,
    *,
    hook: str,
    behaviour: str | None = None,
    level: str = "linear",
    k: int | None = None,
    source: str | None = None,
    position: str = ALL,
) -> SavedReader:
    """Write a linear reader of the activations alone that a run fitted, and return it as `load_reader` gives it.

    run: a finished run, its folder, or what `probe` found. path: ends in .safetensors. level: `linear`, `directions`
    (of `k`) or `direction`. source: as records name it, such as `given:mine`; when absent `behaviour`, or
    `mean_difference` of a `direction`. position: the rule, of a run that measured several apart. The reader is the one
    of the first fold, fitted beside the weak floor; with one position nothing is left out of it. Its numbers are those
    of the readers of all folds, on rows that each never saw. Raises BadInput for what the run did not keep.

    >>> import probekit as pk
    >>> pk.save_reader("runs/gone", "truth.safetensors", hook="blocks.3.hook_resid_post")
    Traceback (most recent call last):
    probekit.errors.BadInput: runs/gone is no run: give a finished run, its folder, or what `probe` found.
    """
    run, path, behaviour = _run_of(run), Path(path), behaviour or getattr(run, "behaviour", None)
    if path.suffix != ".safetensors" or not isdir(path.parent):
        raise BadInput(f"a reader is written into a folder that is there, as .safetensors; found '{path}'.")
    if level not in LEVELS:
        raise BadInput(f"there is no linear reader of level '{level}': take {', '.join(LEVELS)}.")
    behaviour = behaviour or _only(run, position)
    source = source or ("mean_difference" if level == "direction" else "behaviour")
    k = 1 if level == "direction" else k
    cell = Cell("read", behaviour, (hook,), place=position)
    name, alone = _alone(run, cell, level, source, k)
    weight = alone.weight.astype(np.float64)
    along = alone.along.astype(np.float64) if alone.along.size else None
    card = _card(run, cell, name, float(alone.left[0]))
    full = weight if along is None else along @ weight
    card["threshold"] = _threshold(full, alone.bias)
    reader = SavedReader(full, alone.bias, card, None if along is None else np.ascontiguousarray(along.T))
    reader.save(path)
    return reader


def _run_of(given: Any) -> Run:
    if isinstance(given, str | Path):
        if not isdir(given):
            raise BadInput(f"{given} is no run: give a finished run, its folder, or what `probe` found.")
        return open_run(given)
    run = getattr(given, "run", given)
    if not isinstance(run, Run) or run.manifest is None:
        raise BadInput(f"{run!r:.80} is no finished run: give one, its folder, or what `probe` found.")
    return run


def _only(run: Run, position: str) -> str:
    """The behaviour of a run that read a single one."""
    records = run.records
    known = list(records.loc[(records["metric"] == "read") & (records["position"] == position), "behaviour"].unique())
    if len(known) != 1:
        raise BadInput(f"{run.name} read {', '.join(known) or 'nothing there'}: say which with behaviour=.")
    return known[0]


def _alone(run: Run, cell: Cell, level: str, source: str, k: int | None) -> tuple[ReaderName, Alone]:
    """What a run kept. Raises BadInput with what there is instead."""
    records, hook = run.records, cell.hooks[0]
    read = records[records["metric"] == "read"]
    for what, asked in (("behaviour", cell.what), ("position", cell.place), ("hook", hook)):
        known = list(read[what].unique())
        if asked not in known:
            raise BadInput(f"{run.name} read no {what} '{asked}': did you mean '{nearest(asked, known)}'?")
    stored = f"directions/{tensor_name(cell)}.safetensors"
    kept = kept_of(run.tensors(tensor_name(cell))).alone if stored in _manifest(run)["files"] else {}
    if not kept:
        raise BadInput(
            f"{run.name} keeps no reader of '{cell.what}' at {hook}: it was made before readers were kept, "
            "`read.floors` lacks 'weak', or nothing could be fitted there; run its spec again."
        )
    found = [name for name in kept if name.level == level and name.source == source]
    if k is None and len(found) == 1:
        k = found[0].k
    name = ReaderName(level, source, k)
    if name not in kept:
        there = ", ".join(" ".join(map(str, filter(None, (n.level, n.source, n.k and f"k={n.k}"))))
                          for n in sorted(kept, key=str))  # fmt: skip
        raise BadInput(f"{run.name} keeps no reader {level} {source} k={k} at {hook}: there are {there}.")
    return name, kept[name]


def _card(run: Run, cell: Cell, name: ReaderName, left: float) -> dict[str, Any]:
    told, place = _manifest(run)["provenance"], said_place(cell.place)
    at = f"{cell.what} {place}".strip()
    spec, outcomes = run.spec, told["outcomes"][at]
    here = run.records
    here = here[(here["behaviour"] == cell.what) & (here["position"] == cell.place) & (here["floor"] == "weak")]
    home = str(here["fit_domain"].iloc[0])  # the seen domain alone has a weak floor
    floor = told["floors"].get(f"{cell.what} {home} {place}".strip() + " weak", {})
    return {
        "format": 1,
        "hook": cell.hooks[0],
        "behaviour": cell.what,
        "outcomes": outcomes,
        "level": name.level, "source": name.source, "k": name.k,
        "model": told["model"] | {"dtype": (spec.get("model") or {}).get("dtype", "float32")},
        "position": cell.place if cell.place != ALL else spec["task"].get("position") or "last",
        "task": told["task"],
        "reads": "raw activations, as the model has them: what was subtracted and scaled is in weight and bias",
        "says": "natural log odds of outcomes, up to a constant of each row" if outcomes else "a number",
        "floor": {
            "name": "weak", "family": floor.get("family", ""), "blocks": floor.get("blocks", []), "left_out": left,
            "said": "the floor is a constant, which is in the bias" if left < 1e-6 else
            "the floor differs from row to row; its mean is in the bias, and the rest, which spreads by `left_out` in "
            "the logits, is left out",
        },
        "numbers": _numbers(run, cell, name),
        "fitted": "on the first fold's rows; numbers are those of the readers of all folds, on rows they never saw",
        "run": run.name, "inputs": told["inputs"],
        "probekit": metadata.version("abstraction-probekit"),
    }  # fmt: skip


def _numbers(run: Run, cell: Cell, name: ReaderName) -> list[dict[str, Any]]:
    """What the run says of the reader, beside each floor and in each domain that it was read in."""
    rows = run.records
    asked = {"metric": "read", "behaviour": cell.what, "hook": cell.hooks[0], "position": cell.place, "control": "",
             "level": name.level, "source": name.source}  # fmt: skip
    for column, value in asked.items():
        rows = rows[rows[column] == value]
    rows = rows[
        (rows["fit_domain"] == rows["test_domain"]) & (rows["k"].isna() if name.k is None else rows["k"] == name.k)
    ]
    columns = ["floor", "test_domain", *NUMBERS, "na_reason"]
    return [
        {column: None if pd.isna(value) else getattr(value, "item", lambda value=value: value)()
         for column, value in row.items()}
        for row in rows[columns].to_dict("records")
    ]  # fmt: skip


def _threshold(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> dict[str, float] | None:
    """Where two outcomes are even: in log odds of the second, and along the unit `direction` in which these rise.

    None of more outcomes, or of a number.
    """
    if len(bias) != 2:
        return None
    size = float(np.linalg.norm(weight[:, 1] - weight[:, 0]))
    return {"log_odds": 0.0} | ({"along": float(bias[0] - bias[1]) / size} if size > 0 else {})


def _manifest(run: Run) -> Mapping[str, Any]:
    assert run.manifest is not None
    return run.manifest
