"""The abstraction card: what is known of how one behaviour of one model can be described, as JSON and as a page."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Mapping
from typing import Any

import pandas as pd

from probekit.results.compare import Comparable
from probekit.results.report.markup import document, el, table
from probekit.results.selection import behaviours, default_behaviour, pick, unembedding
from probekit.results.story import Story, story
from probekit.results.tables import decomposition, leak
from probekit.results.text import value_text

CARD_VERSION = 1
_FIGURES = ("value", "low", "high", "bits", "floor_bits", "ceiling_bits", "n", "groups", "auroc", "accuracy", "r2",
            "na_reason", "id")  # fmt: skip
_WHERE = ("hook", "level", "source", "k")


def card(
    run: Comparable, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> dict[str, Any]:
    """The card of one behaviour: plain values, so that `json.dumps` of it is the file; what is missing is None.

    finding: the record that the rule picks, never the unembedding's. levels: each level where selection rows prefer
    it, where the run chose; else at the finding's site. replaced, transferred: the same of these metrics.
    changes: choices of the analyst and whether they reverse the conclusion. trust: every check. Raises BadInput for
    what the run does not have.
    """
    frame = run.records
    behaviour = behaviour or default_behaviour(frame)
    at = {"behaviour": behaviour or None, "domain": domain, "position": position}
    told = story(run, **at)
    manifest = frame.attrs.get("manifest") or {}
    provenance = manifest.get("provenance") or {}
    rows = pick(frame, behaviour=behaviour or None, metric=("selected", "replace", "transfer"), position=position)
    by_metric = {metric: rows[rows["metric"] == metric] for metric in ("selected", "replace", "transfer")}
    return {
        "card_version": CARD_VERSION,
        "run": run.name,
        "digest": manifest.get("digest"),
        "spec_hash": manifest.get("spec_hash"),
        "model": provenance.get("model") or {"name": _first(frame, "model"), "revision": _first(frame, "revision")},
        "task": provenance.get("task") or {"name": _first(frame, "task")},
        "behaviour": behaviour,
        "outcomes": (provenance.get("behaviours") or {}).get(behaviour),
        "floors": {name: floor for name, floor in (provenance.get("floors") or {}).items()
                   if name.startswith(f"{behaviour} ")},
        "sentences": [*told.sentences, *told.headline.warnings],
        "unembedding": unembedding(frame, behaviour),
        "finding": None if told.found is None else _record(told.found),
        "levels": [_record(row) for _, row in by_metric["selected"].iterrows()] or _at_finding(frame, told, at),
        "decomposition": _shares(frame, told, at),
        "replaced": [_record(row, "arm") for _, row in by_metric["replace"].iterrows()],
        "transferred": [_record(row, "arm", "fit_domain", "test_domain")
                        for _, row in by_metric["transfer"].iterrows()],
        "changes": [{"choice": one.choice, "now": one.now, "other": one.other, "reverses": one.reverses,
                     "said": one.said, "fill": one.fill} for one in told.changes],
        "trust": [{"about": one.about, "check": one.name, "state": one.state, "said": one.said, "fill": one.fill}
                  for one in told.checks],
        "versions": provenance.get("packages") or {},
        "cell_version": provenance.get("cell_version"),
    }  # fmt: skip


def cards(run: Comparable) -> list[dict[str, Any]]:
    """The card of every behaviour that a run measured."""
    return [card(run, behaviour=name) for name in behaviours(run.records)]


def card_page(told: Mapping[str, Any]) -> str:
    """A card as a page that loads nothing."""
    model, task = told["model"], told["task"]
    name = " ".join(str(part) for part in (model.get("name"), model.get("revision")) if part)
    facts = [
        ("model", name), ("weights", model.get("fingerprint") or "not recorded"),
        ("task", " ".join(str(task[key]) for key in ("name", "fingerprint") if task.get(key))),
        ("unembedding reads", told["unembedding"] or "no site that was read"), ("run", told["run"]),
        ("digest", told["digest"] or "not sealed"),
    ]  # fmt: skip
    levels_ = [(row["level"], row["source"], "" if row["k"] is None else row["k"], row["hook"], value_text(_gaps(row)))
               for row in told["levels"]]  # fmt: skip
    checks = [(row["state"], f"{row['about']}: {row['check']}", row["said"]) for row in told["trust"]]
    changes = [(row["choice"], "not measured" if row["reverses"] is None else "yes" if row["reverses"] else "no",
                row["said"]) for row in told["changes"]]  # fmt: skip
    return document(
        f"{told['behaviour']} of {name}",
        el("h1", f"{told['behaviour']} of {name}"),
        [el("p", sentence) for sentence in told["sentences"]],
        table(("", ""), facts),
        el("h2", "Each level where selection rows prefer to read it"),
        table(("level", "source", "k", "hook point", "unexplained"), levels_),
        el("h2", "Where the bits go") if told["decomposition"] else None,
        table(("class", "share"), [(row["level"], value_text(_gaps(row))) for row in told["decomposition"]])
        if told["decomposition"] else None,
        el("h2", "What would change this"), table(("choice", "reverses", ""), changes),
        el("h2", "How far to trust it"), table(("", "what", "found"), checks),
    )  # fmt: skip


def _record(row: pd.Series, *more: str) -> dict[str, Any]:
    return {name: _plain(row[name]) for name in (*_WHERE, *more, *_FIGURES)}


def _plain(value: Any) -> Any:
    """A figure as JSON has it."""
    if isinstance(value, str):
        return value
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def _gaps(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a card as `value_text` reads one."""
    return {key: float("nan") if row.get(key) is None and key != "na_reason" else row.get(key)
            for key in ("value", "low", "high", "na_reason")}  # fmt: skip


def _first(frame: pd.DataFrame, column: str) -> str | None:
    return str(frame[column].iloc[0]) or None if len(frame) else None


def _at_finding(frame: pd.DataFrame, told: Story, at: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every level at the site of the finding; nothing without one."""
    if told.found is None:
        return []
    rows = leak(frame, **at)
    return [_record(row) for _, row in rows[rows["hook"] == told.found["hook"]].iterrows()]


def _shares(frame: pd.DataFrame, told: Story, at: Mapping[str, Any]) -> list[dict[str, Any]]:
    if told.found is None:
        return []
    rows = decomposition(frame, **at)
    return [_record(row) for _, row in rows[rows["hook"] == told.found["hook"]].iterrows()]
