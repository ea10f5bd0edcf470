"""The study of metrics: who tells right accounts of a mechanism from wrong ones, our metrics or an outside score?

On systems of the benchmark of Méloux et al. (2026), arXiv 2607.00267, rebuilt here, and on plants of our own, each with
a right account and wrong ones. Ours count every state (`accounts`); their score, CAE, is asked of its own package.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.jobs.engines import Progress
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Estimate, Ratio, estimates
from probekit.proofs.studies.accounts import dormant, erased, follows, kept
from probekit.proofs.studies.cae import cae
from probekit.proofs.studies.kept import Stored, interval
from probekit.results.text import number
from probekit.testbeds.ground_truth.systems import SYSTEMS, Proposal, System, plants

RIGHT = "right"
# Which way a wrong account is worse, of the measures that decide; `erased` is beside them.
OURS = {"kept": 1, "apart": 1, "follows": -1, "dormant": 1}
THEIRS = {"down": 1, "up": 1}
TITLES = {
    "systems": "Right and wrong accounts of small systems, and who tells them apart",
    "plants": "Right and wrong accounts of plants, and who tells them apart",
}


@dataclass(frozen=True)
class MetricsSize:
    """seeds: of plants and of what is drawn; interventions: that a score is asked to draw."""

    seeds: int = 20
    interventions: int = 300


@dataclass(frozen=True)
class MetricsFindings(Stored):
    """What the page speaks of. seeds: how many.

    rows: one per system, account, measure and what it is told beside, with a value and its interval over seeds.
    measure: `kept`, `apart`, `erased`, `follows`, `dormant` (`accounts`), and the four scores of `cae`. beside: empty,
    or RIGHT for the value less that of the right account of the same seed. of: `systems` or `plants`.
    """

    seeds: int
    rows: tuple[dict[str, Any], ...]


def measure_metrics(size: MetricsSize | None = None, progress: Progress | None = None) -> MetricsFindings:
    """Measure every account of every system at every seed. The seed is the unit of the intervals.

    Raises MissingExtra without the package that is asked for its score.
    """
    size = size or MetricsSize()
    found: dict[tuple[str, str, str], list[dict[str, float | None]]] = {}
    for seed in range(size.seeds):
        if progress:
            progress("accounts", seed, size.seeds)
        for of, system in _systems(seed):
            for account, claim in ((RIGHT, system.right), *system.wrong.items()):
                found.setdefault((of, system.name, account), []).append(_measured(claim, seed, size))
    rows = [
        row
        for (of, system, account), told in found.items()
        for row in _rows(told, found[of, system, RIGHT], {"of": of, "system": system, "account": account})
    ]
    return MetricsFindings(size.seeds, tuple(rows))


def _systems(seed: int) -> Iterator[tuple[str, System]]:
    for system in SYSTEMS:
        yield "systems", system
    for system in plants(seed):
        yield "plants", system


def _measured(claim: Proposal, seed: int, size: MetricsSize) -> dict[str, float | None]:
    # Coordinates of a site have no axes of their own, so that it says nothing what each by itself would do.
    apart = None if claim.account.soft else kept(claim, apart=True)
    ours = {"kept": kept(claim), "apart": apart, "erased": erased(claim), "follows": follows(claim),
            "dormant": float(dormant(claim)) if claim.account.soft else None}  # fmt: skip
    return ours | cae(claim, seed, size.interventions)


def _rows(told: list[dict], right: list[dict], place: dict[str, str]) -> Iterator[dict[str, Any]]:
    for measure in told[0]:
        if told[0][measure] is None:
            continue
        values, others = (np.array([one[measure] for one in some], float) for some in (told, right))
        yield {**place, "measure": measure, "beside": "", **_figures(_over_seeds(values))}
        if place["account"] != RIGHT and right[0][measure] is not None:
            yield {**place, "measure": measure, "beside": RIGHT, **_figures(_over_seeds(values - others))}


def _over_seeds(values: NDArray[np.float64]) -> Estimate:
    ratio = Ratio(values, np.ones(len(values)), of_reader=False)
    return estimates([ratio], Clusters.of(np.arange(len(values)), 2000, 0))[0]


def _figures(told: Estimate) -> dict[str, Any]:
    return {name: round(getattr(told, name), 4) + 0.0 for name in ("value", "low", "high")}  # no -0


def tables(found: MetricsFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text: the right account of each system, and below it the wrong ones."""
    frame = found.frame
    by = ["system", "account", "measure", "beside"]
    told = {tuple(row[name] for name in by): row for row in frame.to_dict("records")}
    shown = {"systems": ("kept", "apart", "follows"), "plants": ("kept", "follows", "dormant")}
    made: dict[str, pd.DataFrame] = {}
    for of, ours in shown.items():
        rows = []
        for system, account in frame[frame["of"] == of][by[:2]].drop_duplicates().itertuples(index=False):
            row = {"account": system if account == RIGHT else f"not: {account}"}
            row |= {measure: _cell(told[system, account, measure, ""]) for measure in ours}
            row["CAE"] = _cell(told[system, account, "down", ""])
            for who, measures in (("ours tell", OURS), ("CAE tells", THEIRS)):
                apart = account != RIGHT and separates(told, system, account, measures)
                row[who] = "" if account == RIGHT else "yes" if apart else "no"
            rows.append(row)
        made[of] = pd.DataFrame(rows)
    return made


def separates(told: dict[tuple, dict[str, Any]], system: str, account: str, measures: dict[str, int]) -> bool:
    """Whether some measure of a wrong account is worse than the right one's, its interval over seeds included."""
    for measure, way in measures.items():
        row = told.get((system, account, measure, RIGHT))
        if row is not None and min(way * row["low"], way * row["high"]) > 0:
            return True
    return False


def _cell(row: dict[str, Any]) -> str:
    if row["low"] == row["high"]:
        return number(row["value"])
    return interval(row)
