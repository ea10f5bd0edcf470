"""Published numbers beside a run's own: a small TOML file says source, value and where; how far apart they are is told.

[[reported]]
source = "Smith et al. 2024, table 3"
value = 0.93
where = "blocks.14.hook_resid_post"   # or a layer: 14
metric = "auroc"                      # fbu (what is unexplained), auroc or accuracy
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from probekit.errors import BadInput, nearest
from probekit.hookpoint import HookPoint
from probekit.results.selection import default_behaviour, site_label
from probekit.results.tables import leak
from probekit.results.text import number, value_text

METRICS = {"fbu": "value", "auroc": "auroc", "accuracy": "accuracy"}
_KEYS = {"source": str, "value": (int, float), "where": (str, int), "metric": str, "level": str, "behaviour": str,
         "low": (int, float), "high": (int, float)}  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """One published number. hook: where it is of; behaviour: "" for any."""

    source: str
    value: float
    hook: str
    metric: str = "fbu"
    level: str = "linear"
    behaviour: str = ""
    low: float = float("nan")
    high: float = float("nan")

    def is_of(self, behaviour: str) -> bool:
        return self.behaviour in ("", behaviour)


def read_reported(path: Path | str) -> tuple[Reported, ...]:
    """The published numbers of a file. Raises BadInput, in one sentence, for a file that is none."""
    path = Path(path)
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no TOML: {error}.") from None
    entries = told.get("reported")
    if not isinstance(entries, list) or not entries or set(told) != {"reported"}:
        raise BadInput(
            f"{path} has one or more [[reported]] tables and nothing else; found {', '.join(told) or 'none'}."
        )
    return tuple(_entry(entry, f"{path}, [[reported]] {i}") for i, entry in enumerate(entries, 1))


def beside(frame: pd.DataFrame, reported: Iterable[Reported], *, behaviour: str | None = None) -> pd.DataFrame:
    """A row per published number of a behaviour, with ours beside it: `ours`, `low`, `high`, `apart`, `here`, `said`.

    apart: published less ours; low and high are the interval of ours, where it has one. said: in words, with whether
    the published number lies inside that interval.
    """
    behaviour = behaviour or default_behaviour(frame)
    rows = leak(frame, behaviour=behaviour or None)
    out = [_beside(rows, one) for one in reported if one.is_of(behaviour)]
    columns = ["source", "where", "metric", "level", "value", "ours", "low", "high", "apart", "here", "said"]
    return pd.DataFrame(out, columns=columns)


def _beside(rows: pd.DataFrame, one: Reported) -> dict[str, Any]:
    nan, column = float("nan"), METRICS[one.metric]
    at = {"source": one.source, "where": site_label(one.hook), "metric": one.metric, "level": one.level,
          "value": one.value}  # fmt: skip
    here = rows[(rows["hook"] == one.hook) & (rows["level"] == one.level) & rows[column].notna()]
    if here.empty:
        return at | {"ours": nan, "low": nan, "high": nan, "apart": nan, "here": "not measured", "said": ""}
    row = here.iloc[0]
    ours, known = float(row[column]), one.metric == "fbu" and pd.notna(row["low"])
    low, high = (float(row["low"]), float(row["high"])) if known else (nan, nan)
    inside = (
        "; inside our interval" if known and low <= one.value <= high else "; outside our interval" if known else ""
    )
    said = f"{number(one.value - ours)}{inside}"
    here_said = value_text(row) if known else number(ours)
    return at | {"ours": ours, "low": low, "high": high, "apart": one.value - ours, "here": here_said, "said": said}


def _entry(entry: Any, place: str) -> Reported:
    if not isinstance(entry, dict):
        raise BadInput(f"{place} is no table.")
    for key, value in entry.items():
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            raise BadInput(f"{place} has no key '{key}'. Did you mean '{near}'? There is {', '.join(_KEYS)}.")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise BadInput(f"{place}: {key} is of another type; found {value!r}.")
    if lacking := [key for key in ("source", "value", "where") if key not in entry]:
        raise BadInput(f"{place} lacks {', '.join(lacking)}.")
    if (metric := entry.get("metric", "fbu")) not in METRICS:
        raise BadInput(f"{place}: metric is one of {', '.join(METRICS)}; found '{metric}'.")
    rest = {key: float(entry[key]) if key in ("low", "high") else entry[key]
            for key in ("metric", "level", "behaviour", "low", "high") if key in entry}  # fmt: skip
    return Reported(entry["source"], float(entry["value"]), _hook(entry["where"]), **rest)


def _hook(where: str | int) -> str:
    """A hook point's full name; a number, or `L14`, is the residual stream behind that layer."""
    text = str(where).removeprefix("L")
    return HookPoint.within(int(text), "hook_resid_post").name if text.isdigit() else str(where)
