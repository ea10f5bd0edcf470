"""What a list of many runs says of each: one line, which a complete run keeps beside its files.

A list of hundreds of runs then opens no table of any. What is kept is no part of what is sealed: it names the manifest
and the table of records that it was made of, and is made again when either is another.
"""

# pyright: reportArgumentType=false

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from probekit.errors import ProbekitError, RunError
from probekit.results.headline import finding
from probekit.results.selection import default_behaviour, site_label, vocabulary
from probekit.results.text import value_text
from probekit.storage.files import put, read_json
from probekit.storage.lines import RECORDS
from probekit.storage.runs import Run

LISTED = "listed.json"
RULE = 1  # raised when lines are made in another way, so that kept ones are made again


@dataclass(frozen=True)
class Line:
    """The finding of a run's first behaviour, or why there is none. value: with its interval; where: level and site;
    groups: of test rows.
    """

    model: str = ""
    behaviour: str = ""
    value: str = ""
    where: str = ""
    groups: int = 0
    wrong: str = ""


def line_of(run: Run) -> Line:
    """The line of a run, made of its records. One that cannot be read says why."""
    model = model_of(run.spec)
    try:
        frame = run.outline()
        behaviour = default_behaviour(frame)
        row = finding(frame, behaviour=behaviour or None) if behaviour else None
    except ProbekitError as error:
        return Line(model=model, wrong=str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of a manifest that no job has written
        return Line(model=model, wrong=f"it cannot be listed ({type(error).__name__}: {error})")
    if row is None:
        return Line(model=model, behaviour=behaviour, where="only the unembedding was chosen" if behaviour else "")
    where = f"{vocabulary(row['level'])} at {site_label(row['hook'])}"
    return Line(str(row["model"]) or model, behaviour, value_text(row), where, int(row["groups"]))


def kept_line(run: Run) -> Line | None:
    """The line that a complete run keeps, read without opening its records; None where it has none, or an older one."""
    try:
        told = read_json(run.path / LISTED)
        return Line(**told["line"]) if told["of"] == _made_of(run) else None
    except (RunError, OSError, KeyError, TypeError):
        return None


def keep_line(run: Run, line: Line) -> None:
    """Keep the line of a complete run beside its files, where the folder can be written to."""
    with suppress(RunError, OSError):
        if run.manifest is not None and not line.wrong:
            put(run.path / LISTED, json.dumps({"of": _made_of(run), "line": asdict(line)}).encode(), RunError)


def _made_of(run: Run) -> list[Any]:
    """What decides the line, as JSON gives it back."""
    records = (run.path / RECORDS).stat()
    sealed = run.manifest["digest"] if run.manifest is not None else ""
    return [RULE, sealed, records.st_size, records.st_mtime_ns]


def model_of(spec: Mapping[str, Any]) -> str:
    """The model that a spec names, whatever shape the spec has: it is a file that anybody may have written."""
    model, task = spec.get("model"), spec.get("task")
    if isinstance(model, str):
        return model
    for part, key in ((model, "name"), (task, "testbed")):
        if isinstance(part, Mapping) and isinstance(part.get(key), str):
            return part[key]
    return ""
