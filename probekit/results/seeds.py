"""Seeds: jobs of a sweep that differ in nothing but their seed, as one line with the spread over seeds."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportIndexIssue=false

import re
from collections.abc import Sequence

import pandas as pd

from probekit.errors import BadInput, nearest
from probekit.hookpoint import HookPoint
from probekit.results.selection import default_behaviour
from probekit.results.text import number

_OWN = re.compile(r"(?:-s\d+)?-[0-9a-f]{8}$")  # what run folders of one job of a sweep end in: seed and digest


def job_of(run: str) -> str:
    """A run's name without its seed and digest.

    >>> from probekit.results.seeds import job_of
    >>> job_of("sizes-small-s3-0123abcd"), job_of("sizes-small-4567cdef")
    ('sizes-small', 'sizes-small')
    """
    return _OWN.sub("", run)


def over_seeds(
    frame: pd.DataFrame, *, behaviour: str | None = None, level: str = "linear", k: int | None = None
) -> pd.DataFrame:
    """Mean, least and largest share unexplained over the seeds of each job, in the order of the frame of `read_runs`.

    Columns: job, behaviour, hook, site, level, source, k, fit_domain, position, seeds, mean, least, most. behaviour:
    each job's first with a value when left out. k: of a level that has several; all of them when left out.
    Raises BadInput where nothing was read at the level.
    """
    rows = frame[(frame["metric"] == "read") & (frame["control"] == "") & (frame["floor"] == "strong")
                 & (frame["fit_domain"] == frame["test_domain"])].assign(job=frame["run"].map(job_of))  # fmt: skip
    asked = {job: behaviour or default_behaviour(part) for job, part in rows.groupby("job", sort=False)}
    rows = rows[rows["behaviour"] == rows["job"].map(asked)]
    found = rows[(rows["level"] == level) & ((rows["k"] == k) if k is not None else True)]
    if found.empty:
        near = nearest(level, rows["level"].unique())
        raise BadInput(f"no run was read at level '{level}'" + (f": did you mean '{near}'?" if near else "."))
    keys = ["job", "behaviour", "hook", "level", "source", "k", "fit_domain", "position"]
    grouped = found.groupby(keys, sort=False, dropna=False)
    told = grouped["value"].agg(seeds="count", mean="mean", least="min", most="max").reset_index()
    return told.assign(site=[HookPoint.parse(hook).short for hook in told["hook"]])


def seed_lines(table: pd.DataFrame) -> tuple[list[str], list[list[str]], str]:
    """(heading, lines, what all jobs' names begin with): a job a line, a site a column, `mean [least, most]` there."""
    jobs = list(dict.fromkeys(table["job"]))
    words = [job.split("-") for job in jobs]
    n_alike = next((i for i, some in enumerate(zip(*words, strict=False)) if len(set(some)) > 1), 0)
    before = "".join(f"{word}-" for word in words[0][:n_alike]) if len(jobs) > 1 else ""
    sites = sorted(dict.fromkeys(table["hook"]), key=lambda hook: HookPoint.parse(hook).order)
    several = [name for name in ("behaviour", "source", "k", "fit_domain", "position") if table[name].nunique() > 1]
    lines = []
    for at, part in table.groupby(["job", *several], sort=False, dropna=False):
        cells = {row["hook"]: _cell(row) for row in part.to_dict("records")}
        lines.append([str(at[0]).removeprefix(before), *map(str, at[1:]), *(cells.get(site, "") for site in sites)])
    return ["job", *several, *(HookPoint.parse(site).short for site in sites)], lines, before


def _cell(row: dict) -> str:
    if not row["seeds"]:
        return "NA"
    spread = f" [{number(row['least'])}, {number(row['most'])}]" if row["seeds"] > 1 else ""
    return f"{number(row['mean'])}{spread}"


def has_seeds(runs: Sequence[str]) -> bool:
    """Whether several of the runs are one job at several seeds."""
    return len({job_of(run) for run in runs}) < len(set(runs))
