"""Sampled behaviours: what a level leaves unexplained of each of many contrasts that nobody picked, as a distribution.

A level that explains the behaviours that its author thought of may miss others. How large its share is of the median
contrast, of the worst tenth, and which those are, is told without choosing any.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.errors import printable
from probekit.records import SAMPLED
from probekit.results.selection import at_domain, at_position, behaviours, level_rank, lowest_seeds, site_label
from probekit.results.text import number

TENTH = 0.1
_QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
_DRAWS = 2_000
_KEYS = ["metric", "arm", "hook", "level", "source", "k"]


def sampled_names(frame: pd.DataFrame) -> list[str]:
    """Names of the behaviours that were sampled."""
    return [name for name in behaviours(frame) if name.startswith(SAMPLED)]


def sampled(
    frame: pd.DataFrame,
    *,
    domain: str | None = None,
    position: str | None = None,
    metric: str = "read",
    arm: str | None = None,
    k: int | str | None = None,
    most: int = 5,
) -> pd.DataFrame:
    """One row per hook point, level and k: FBU over all sampled behaviours, and the worst of them.

    n: behaviours with a value; n_na: without, or of which the level says nothing. mean with its interval over
    behaviours (low, high: percentiles of a bootstrap that draws behaviours, 95 %), q10 to q90, worst_decile: the mean
    of the worst tenth, rounded up; worst: names of the `most` worst, each with its value. Behaviours share rows, so
    that the interval says how another draw of behaviours would differ on the same text, and nothing of other texts.

    >>> import pandas as pd
    >>> from probekit.results.sampled import tail
    >>> tail([0.1, 0.2, 0.9, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    0.6
    """
    rows = frame[frame["behaviour"].isin(sampled_names(frame)) & (frame["metric"] == metric)]
    rows = rows[(rows["floor"] == "strong") & (rows["control"] == "")]
    rows = at_domain(at_position(lowest_seeds(rows), position), domain, seen=True)
    rows = rows if arm is None else rows[rows["arm"] == arm]
    rows = rows if k in (None, "all") else rows[rows["k"].isna() | (rows["k"] == int(k))]
    out, n_asked = [], rows["behaviour"].nunique()
    for found, group in rows.groupby(_KEYS, sort=False, dropna=False):
        key = tuple(found)  # pyright: ignore[reportArgumentType]
        known: pd.DataFrame = group[group["value"].notna()]  # pyright: ignore[reportAssignmentType]
        values = known.sort_values("value", ascending=False, kind="stable")
        told = _told(values["value"].to_numpy(dtype=float))
        worst = [f"{name.removeprefix(SAMPLED)} {number(value)}"
                 for name, value in zip(values["behaviour"][:most], values["value"][:most], strict=True)]  # fmt: skip
        out.append(dict(zip(_KEYS, key, strict=True)) | {"site": site_label(str(key[2])), "n": len(values)}
                   | {"n_na": n_asked - len(values)} | told | {"worst": "; ".join(worst)})  # fmt: skip
    columns = [*_KEYS, "site", "n", "n_na", "mean", "low", "high", *_QUANTILES, "worst_decile", "worst"]
    made = pd.DataFrame(out, columns=columns)
    # What is NA for want of a fit has no source: it is counted beside those that have one.
    return made[made["n"] > 0].reset_index(drop=True) if (made["n"] > 0).any() else made


def tail(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The mean of the largest tenth, rounded up to whole values: never of none."""
    worst = sorted(map(float, values), reverse=True)[: math.ceil(TENTH * len(values))]
    return float(np.mean(worst)) if worst else float("nan")


def _told(values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(["mean", "low", "high", *_QUANTILES, "worst_decile"], float("nan"))
    drawn = np.random.default_rng([len(values), 41]).integers(len(values), size=(_DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    told = {"mean": float(values.mean()), "low": float(low), "high": float(high)}
    told |= {name: float(np.quantile(values, at)) for name, at in _QUANTILES.items()}
    return told | {"worst_decile": tail(values)}


def sampled_sentences(frame: pd.DataFrame, domain: str | None = None, position: str | None = None) -> tuple[str, ...]:
    """What is said of sampled behaviours beside a map: of the richest linear reader, where it explains most of them."""
    names = sampled_names(frame)
    if not names:
        return ()
    rows = sampled(frame, domain=domain, position=position).dropna(subset="mean")
    linear = rows[rows["level"] == "linear"]
    rows = linear if len(linear) else rows
    if rows.empty:
        return (f"{len(names):,} sampled behaviours: none has a value.",)
    best = rows.assign(rank=rows["level"].map(level_rank)).sort_values(["median", "rank"]).iloc[0]
    return (
        f"{int(best['n']):,} sampled behaviours, {best['level'].replace('_', ' ')} at {printable(best['site'])}, where "
        f"it leaves least: median {number(best['median'])}, middle half {number(best['q25'])} to "
        f"{number(best['q75'])}, worst tenth {number(best['worst_decile'])}.",
        f"Worst: {printable(best['worst'])}. All levels: `--table sampled`.",
    )
