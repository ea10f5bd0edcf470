"""Claims: conjunctions of declared margins over measures, each passed or failed by an equivalence test.

Reading side: frames of records in, a table of verdicts out. Metrics are never averaged and no maximum is taken over
them (docs/method.md section 5): a measure that a claim needs and that is NA makes the claim NA.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probekit.errors import BadInput
from probekit.metrics.bootstrap import FEW_CLUSTERS, Clusters
from probekit.metrics.equivalence import Equivalence, check_margin, equivalence, equivalence_of_interval
from probekit.results.selection import (
    at_position,
    check_known,
    check_one_run,
    default_k,
    domains,
    hooks,
    levels,
    lowest_seeds,
    na_words,
)
from probekit.results.text import number, value_text

N_BOOTSTRAP = 2_000
COLUMNS = ("measure", "metric", "arm", "test_domain", "value", "low", "high", "margin", "far", "smallest_detectable",
           "p", "verdict", "reason", "id")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Need:
    """One measure that a claim needs, and how near or far its value has to be.

    metric, arm, control, source: coordinates of the record; of what is kept the arm is said without its place
    (`random`), which follows from the site. unseen: one value for every test domain other than the fitted one. far
    False: the value is within the margin of 0 (0 explains everything); far True: it is shown to lie above the margin,
    as a control should. margin None: the one that the claim is judged with.

    >>> import probekit as pk
    >>> pk.Need(name="transfer", metric="transfer", arm="refit", unseen=True).far
    False
    """

    name: str
    metric: str
    arm: str = ""
    control: str = ""
    source: str | None = None
    unseen: bool = False
    far: bool = False
    margin: float | None = None


@dataclass(frozen=True)
class Claim:
    """Something said about an abstraction: all of `needs` have to hold (docs/method.md section 5).

    learned: those that have to hold besides where its directions were learned by exchange (source `das`), whose success
    may be that of the search.

    `CLAIMS` has those that are judged by name.

    >>> import probekit as pk
    >>> claim = pk.Claim("read at 5 %", (pk.Need(name="read", metric="read", margin=0.05),))
    >>> [need.name for need in pk.CLAIMS["predicts the unseen"].needs]
    ['read', 'transfer']
    """

    name: str
    needs: tuple[Need, ...]
    learned: tuple[Need, ...] = ()


_READ = Need(name="read", metric="read")
CLAIMS: Mapping[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim("predicts in distribution", (_READ,)),
        Claim("predicts the unseen", (_READ, Need(name="transfer", metric="transfer", arm="refit", unseen=True))),
        Claim("the model uses it", (
            Need(name="sufficiency", metric="replace", arm="random"),
            Need(name="necessity", metric="replace", arm="necessity:resample"),
            Need(name="random directions", metric="replace", arm="random", control="random_directions",
                 source="random", far=True),
        ), (
            Need(name="interchange", metric="replace", arm="iia"),
            Need(name="random network", metric="replace", arm="iia", control="random_twin", far=True),
            Need(name="shuffled answers", metric="replace", arm="iia", control="shuffled_counterfactuals", far=True),
            Need(name="placebo", metric="replace", arm="iia", control="placebo", far=True),
        )),
    )
}  # fmt: skip


def judge(
    records: pd.DataFrame,
    losses: pd.DataFrame | None,
    claim: Claim | str,
    *,
    behaviour: str,
    hook: str,
    level: str,
    k: int | None = None,
    source: str | None = None,
    domain: str | None = None,
    position: str | None = None,
    floor: str = "strong",
    margin: float = 0.1,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per measure that the claim needs (one per unseen domain), then the claim's own.

    records: as `read_run` returns them; losses: the group sums behind them (`Run.losses`), None or without a record's
    sums for a test on its interval alone. Columns `COLUMNS`; value, low and high are the record's, with its 95 %
    interval; far: a control, which has to lie above the margin; p is that of the two one-sided tests at the margin (of
    lying above it, for a control). A measure is passed | failed | undecided | NA. The claim holds when all pass (each
    at alpha: an intersection-union test needs no correction, Berger 1982), fails when one is shown to fail at alpha
    over their number, is NA when one is NA.
    Raises BadInput for a selection that the records do not have, or that leaves more than one record.

    >>> import probekit as pk
    >>> run = pk.open_run("runs/othello")
    >>> at = {"behaviour": "next_move", "hook": "blocks.5.hook_resid_post", "level": "linear"}
    >>> pk.judge(run.records, run.losses, "predicts in distribution", **at, margin=0.1)["measure"].tolist()
    ['read', 'claim: predicts in distribution']
    """
    check_margin(margin, alpha)
    check_one_run(records)
    if isinstance(claim, str):
        check_known("claim", claim, list(CLAIMS))
        claim = CLAIMS[claim]
    if not claim.needs:
        raise BadInput(f"the claim '{claim.name}' needs no measure: there is nothing to judge.")
    check_known("behaviour", behaviour, list(records["behaviour"].unique()))
    rows = records[records["behaviour"] == behaviour]
    rows = at_position(lowest_seeds(rows[rows["floor"] == floor]), position)
    if (rows["hook"] != hook).all():
        check_known("hook", hook, list(dict.fromkeys([*hooks(rows, "read"), *hooks(rows, "replace")])))
    found = domains(rows)
    if domain is not None:
        check_known("domain", domain, found)
    domain = domain or found[0]
    metrics = [need.metric for need in (*claim.needs, *claim.learned)]
    check_known("level", level, sorted({name for metric in {"read", *metrics} for name in levels(rows, metric)}))
    at_level = rows[(rows["hook"] == hook) & (rows["level"] == level)]
    source = _source(at_level[at_level["metric"].isin(metrics) & (at_level["control"] == "")], source, level)
    k = _k(rows, at_level, k, level)

    judged: list[dict] = []
    failing: list[float] = []
    at = {"hook": hook, "level": level, "k": k, "source": source, "domain": domain}
    for need in (*claim.needs, *(claim.learned if source == "das" else ())):
        for place in _places(rows, need, domain):
            row, p_fails = _judge_need(need, rows, losses, **at, place=place, margin=margin, alpha=alpha, seed=seed)
            judged.append(row)
            if p_fails is not None:
                failing.append(p_fails)
    verdict, reason = _together(judged, failing, alpha)
    judged.append(_row(f"claim: {claim.name}", margin=margin, verdict=verdict, reason=reason))
    return pd.DataFrame(judged, columns=list(COLUMNS))


def judge_each(
    records: pd.DataFrame, losses: pd.DataFrame | None, names: Sequence[str], **selection: Any
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """({claim: what `judge` says}, {claim: why the selection does not fit it}), selection being the rest of `judge`'s.

    Raises BadInput, with every reason, when it fits none.
    """
    judged, left_out = {}, {}
    for name in names:
        try:
            judged[name] = judge(records, losses, name, **selection)
        except BadInput as error:
            left_out[name] = str(error)
    if not judged:
        raise BadInput(" ".join(dict.fromkeys(left_out.values())))
    return judged, left_out


def to_read(judged: pd.DataFrame) -> pd.DataFrame:
    """What `judge` returned without the claim's own row, for people: measure, verdict, FBU, margin, detectable, why."""
    rows = judged.iloc[:-1].to_dict("records")
    return pd.DataFrame(
        {
            "measure": [row["measure"] for row in rows],
            "verdict": [row["verdict"] for row in rows],
            "FBU [95 %]": ["NA" if pd.isna(row["value"]) else value_text(row) for row in rows],
            "margin": [f"{'above' if row['far'] else 'within'} {number(row['margin'])}" for row in rows],
            "detectable": [_least(row["smallest_detectable"]) for row in rows],
            "why": [row["reason"] for row in rows],
        }
    )


def _least(value: float) -> str:
    return "" if pd.isna(value) else number(value) if value >= 0.005 else "< .01"


def selected_hook(
    records: pd.DataFrame, *, behaviour: str, level: str, domain: str | None = None, position: str | None = None
) -> str:
    """The hook point that selection rows preferred for a level; the last one read where nothing was selected.

    A claim about a hook point that was picked by its test rows would be a claim about luck. Raises BadInput for a
    behaviour or level that the records do not have.
    """
    check_known("behaviour", behaviour, list(records["behaviour"].unique()))
    rows = records[records["behaviour"] == behaviour]
    domain = domain or domains(rows)[0]
    rows = at_position(lowest_seeds(rows[(rows["fit_domain"] == domain) & (rows["control"] == "")]), position)
    check_known("level", level, levels(rows, "read"))
    chosen = rows[(rows["metric"] == "selected") & (rows["level"] == level) & rows["value"].notna()]
    if len(chosen):
        return str(chosen.sort_values("value")["hook"].iloc[0])
    return hooks(rows[rows["level"] == level], "read")[-1]


def _places(rows: pd.DataFrame, need: Need, domain: str) -> list[str]:
    """Test domains in which a need is judged: the fitted one, or each of the unseen; "" where none was measured."""
    if not need.unseen:
        return [domain]
    at = (rows["metric"] == need.metric) & (rows["fit_domain"] == domain) & (rows["test_domain"] != domain)
    return list(rows.loc[at, "test_domain"].unique()) or [""]


def _judge_need(
    need: Need,
    rows: pd.DataFrame,
    losses: pd.DataFrame | None,
    *,
    hook: str,
    level: str,
    k: int | None,
    source: str,
    domain: str,
    place: str,
    margin: float,
    alpha: float,
    seed: int,
) -> tuple[dict, float | None]:
    """The row of one measure in one test domain, and the p-value of its failing where it has a value."""
    margin = margin if need.margin is None else need.margin
    kept = need.metric == "replace" and not need.arm.startswith(("necessity:", "iia", "roll_out"))
    place_of_edit = ("single:" if hook else "chain:") if kept else ""
    at = {"metric": need.metric, "arm": place_of_edit + need.arm, "test_domain": place}
    name = f"{need.name} to {place}" if need.unseen and place else need.name
    wanted = {**at, "fit_domain": domain, "control": need.control, "hook": hook}
    wanted["level"] = "directions" if need.source == "random" else level
    record = _one(rows, wanted, need.source or source, k, name)
    if record is not None and record["na_reason"] == "absent_in_test_domain":
        # The level adds nothing in that domain even when fitted there, so that nothing could carry over: read says so.
        wanted |= {"metric": "read", "arm": "", "fit_domain": place}
        at |= {"metric": "read", "arm": ""}
        name = f"read in {place}"
        record = _one(rows, wanted, need.source or source, k, name)
    row = {**at, "margin": margin, "far": need.far}
    if record is None:
        return _row(name, **row, verdict="NA", reason="not measured"), None
    row |= {"id": record["id"]}
    if pd.isna(record["value"]):
        reason = na_words(record["na_reason"])
        return _row(name, **row, verdict="NA", reason=reason), None
    test, reason = _test(record, losses, margin, alpha, seed)
    # A control has to be far on the side of explaining nothing, so that its question is one-sided.
    p_passes, p_fails = (test.p_at_most, test.p_at_least) if need.far else (test.p, test.p_outside)
    verdict = "passed" if p_passes <= alpha else "failed" if p_fails <= alpha else "undecided"
    figures = {name: float(record[name]) for name in ("value", "low", "high")}
    row |= {"smallest_detectable": test.smallest_detectable, "p": p_passes, "verdict": verdict, "reason": reason}
    return _row(name, **row, **figures), p_fails


def _test(
    record: pd.Series, losses: pd.DataFrame | None, margin: float, alpha: float, seed: int
) -> tuple[Equivalence, str]:
    """The equivalence test of a record with a value, and a remark on what it rests on."""
    value = float(record["value"])
    few = f"fewer than {FEW_CLUSTERS} clusters" if record["groups"] < FEW_CLUSTERS else ""
    sums = None if losses is None else losses[losses["record"] == record["id"]]
    if sums is not None and len(sums) >= 2:
        numerator, denominator = sums["numerator"].to_numpy(np.float64), sums["denominator"].to_numpy(np.float64)
        if np.isclose(numerator.sum(), value * denominator.sum(), rtol=1e-6, atol=1e-9):
            weights = Clusters.of(np.arange(len(sums)), N_BOOTSTRAP, seed).weights
            return equivalence(numerator, denominator, weights, margin, alpha=alpha), few
        few = "; ".join(filter(None, ("its group sums give another value: tested on its interval", few)))
    if pd.isna(record["low"]) or pd.isna(record["high"]):
        nan = float("nan")
        return Equivalence("undecided", value, nan, nan, margin, 1.0, 1.0, 1.0, 1.0, nan), "has no interval"
    low, high = float(record["low"]), float(record["high"])
    return equivalence_of_interval(value, low, high, margin, alpha=alpha), few


def _together(judged: list[dict], p_fails: list[float], alpha: float) -> tuple[str, str]:
    """The claim's verdict from its measures, and the reason in words."""
    named = {
        verdict: [f"{row['measure']} ({row['reason']})" if row["reason"] and verdict == "NA" else row["measure"]
                  for row in judged if row["verdict"] == verdict]
        for verdict in ("NA", "failed", "undecided")
    }  # fmt: skip
    said = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in named.items() if names)
    if named["NA"]:
        return "NA", said
    if p_fails and min(p_fails) <= alpha / len(p_fails) and named["failed"]:
        return "fails", said
    return ("undecided" if named["failed"] or named["undecided"] else "holds"), said


def _one(rows: pd.DataFrame, wanted: dict[str, str], source: str, k: int | None, name: str) -> pd.Series | None:
    """The record with these coordinates, or None. One without source or k (of a level that failed) stands for all."""
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    rows = rows[rows["source"].isin([source, ""])]
    rows = rows[rows["k"].isna()] if k is None else rows[rows["k"].isna() | (rows["k"] == k)]
    if len(rows) > 1:
        varies = [
            column for column in ("source", "k", "unit", "model", "task") if rows[column].nunique(dropna=False) > 1
        ]
        raise BadInput(
            f"{name} has {len(rows)} records that differ in {', '.join(varies) or 'nothing that can be selected'}: "
            "give records of one run, with one of each."
        )
    return rows.iloc[0] if len(rows) else None


def _source(rows: pd.DataFrame, source: str | None, level: str) -> str:
    found = [name for name in rows["source"].unique() if name]
    if source is not None:
        check_known("source", source, found)
        return source
    if len(found) > 1:
        raise BadInput(f"{level} was measured from {', '.join(found)}: say which source the claim is about.")
    return found[0] if found else ""


def _k(rows: pd.DataFrame, at_level: pd.DataFrame, k: int | None, level: str) -> int | None:
    """The k asked for; without one, that of the level where it has one, else what tables show."""
    found = sorted(int(value) for value in at_level["k"].dropna().unique())
    if k is not None:
        if k not in found:
            listed = ", ".join(map(str, found)) or "no k at all"
            raise BadInput(f"{level} was not measured at k = {k}; there is {listed}.")
        return k
    shown = default_k(rows)
    return None if not found else found[0] if len(found) == 1 or shown not in found else shown


def _row(measure: str, **figures: object) -> dict:
    empty = dict.fromkeys(COLUMNS, "") | dict.fromkeys(
        ("value", "low", "high", "margin", "smallest_detectable", "p"), float("nan")
    )
    return empty | {"measure": measure, "far": False} | figures
