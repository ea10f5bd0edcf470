"""Story: a run as three sentences, where, why, how far to trust it, what is new, and which choices would change it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from probekit.errors import BadInput, printable
from probekit.results.headline import Headline, finding, headline, level_words
from probekit.results.selection import (
    FEATURE,
    at_domain,
    at_position,
    default_behaviour,
    lowest_seeds,
    pick,
    site_label,
)
from probekit.results.tables import decomposition
from probekit.results.text import number, value_text
from probekit.results.trust import Check, counted, trust

HALF = 0.5


@dataclass(frozen=True)
class Panel:
    """One field of the strip. name: where, why, trust or since. fill: what makes it, where it says nothing."""

    name: str
    title: str
    said: str
    fill: str = ""


@dataclass(frozen=True)
class Change:
    """A choice of the analyst. now, other: what is concluded with the choice as made and with the other one.

    reverses: whether the conclusion is another one; None where it was not measured, with `fill`.
    """

    choice: str
    now: str
    other: str
    reverses: bool | None
    said: str
    fill: str = ""


@dataclass(frozen=True)
class Story:
    """What a run is about. sentences and warnings are the headline's; found: the record of the first, or None."""

    run: str
    behaviour: str
    headline: Headline
    strip: tuple[Panel, ...]
    changes: tuple[Change, ...]
    checks: tuple[Check, ...]
    found: pd.Series | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.headline.sentences


def story(
    run: Any, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    previous: Any = None,
) -> Story:  # fmt: skip
    """The story of one behaviour of a run as `open_run` opens it, or of records.

    previous: the run before it, of the same model and task, or None where there is none (`storage.runs.run_before`).
    Raises BadInput for what the records do not have.
    """
    frame = run if isinstance(run, pd.DataFrame) else run.records
    behaviour = behaviour or default_behaviour(frame)
    at = {"behaviour": behaviour or None, "domain": domain, "position": position}
    found = finding(frame, **at)
    checks = trust(frame, **at, problem=getattr(run, "problem", ""))
    strip = (_where(found), _why(frame, found, at), _trust(checks), _since(run, previous, at))
    changes = tuple(_changes(frame, found, at)) if found is not None else ()
    name = getattr(run, "name", "") or (str(frame["run"].iloc[0]) if len(frame) else "")
    return Story(name, behaviour, headline(frame, **at), strip, changes, tuple(checks), found)


def conclusion(low: float, high: float) -> str:
    """What an interval of a share unexplained allows to be said."""
    if pd.isna(high) or high >= 1:
        return "nothing is shown to be explained" if pd.isna(low) or low <= 1 else "it misleads"
    return "more than half is explained" if high < HALF else "something is explained"


# ------------------------------------------------------------------------------------------------------------ the strip


def _where(found: pd.Series | None) -> Panel:
    if found is None:
        return Panel("where", "nowhere yet", "No site but the unembedding's was chosen on selection rows.",
                     '[read] hooks = ["blocks.*.hook_resid_post"]')  # fmt: skip
    who = level_words(found["level"], found["source"], None if pd.isna(found["k"]) else int(found["k"]))
    how = "chosen on selection rows" if found["metric"] == "selected" else "the only site read"
    return Panel("where", site_label(found["hook"]), f"{who}: {value_text(found)} unexplained; {how}.")


def _why(frame: pd.DataFrame, found: pd.Series | None, at: dict[str, Any]) -> Panel:
    """Where the bits go at the site of the finding."""
    shares = decomposition(frame, **at)
    shares = shares[shares["value"].notna()]
    if found is None and shares["hook"].nunique() > 1:
        return Panel("why", "at no one site", "It differs from site to site, and none was chosen: the decomposition "
                     "has them all.")  # fmt: skip
    here = shares[shares["hook"] == found["hook"]] if found is not None else shares
    if here.empty:
        return Panel("why", "not shared out", "Where the bits go was not measured at this site.",
                     "[read] decomposition = true")  # fmt: skip
    parts = [f"{number(row['value'])} {row['label']}" for row in here.to_dict("records")]
    absent = here[here["level"] == "absent"]["value"]
    left = f"{number(absent.iloc[0])} is not at this site" if len(absent) else "where the bits go"
    return Panel("why", left, f"Of what the input leaves open: {', '.join(parts)}.")


def _trust(checks: list[Check]) -> Panel:
    failed = [check for check in checks if check.state == "failed"]
    said = (
        f"Look at {', '.join(f'{check.name} ({check.about})' for check in failed)}."
        if failed
        else "Nothing that was checked failed."
    )
    return Panel("trust", counted(checks), said)


def _since(run: Any, previous: Any, at: dict[str, Any]) -> Panel:
    from probekit.results.compare import compare

    if previous is None or isinstance(run, pd.DataFrame):
        return Panel("since", "the first run", "No earlier run of this model and task is in the folder.")
    fill = f"probekit compare {previous.name} {run.name}"
    try:
        found = compare(previous, run, **at, most=0)
    except BadInput as error:
        return Panel("since", "not comparable", printable(str(error)), fill)
    different = list(found.comparable.loc[found.comparable["verdict"] == "different", "what"])
    title = f"{', '.join(different)} changed" if different else "same inputs"
    return Panel("since", title, found.sentences[found.first is None], fill)


# -------------------------------------------------------------------------------------------- what would change this


def _changes(frame: pd.DataFrame, found: pd.Series, at: dict[str, Any]) -> Iterator[Change]:
    rows = pick(frame, behaviour=at["behaviour"], metric="read", floor=None, control=None, position=at["position"])
    rows = at_domain(rows, at["domain"], seen=True)
    here = rows[rows["hook"] == found["hook"]]
    yield _floor(here, found)
    yield _split(here, found)
    yield from _unseen(frame, found, at)
    yield _ontology(frame, found, at)


def _pair(here: pd.DataFrame, found: pd.Series, column: str, other: str) -> tuple[pd.Series, pd.Series] | None:
    """The same reader as made and with the other choice: the finding's own level, else `linear`, else any."""
    plain = here[(here["control"] == "") & (here["floor"] == "strong") & here["value"].notna()]
    away = here[(here[column] == other) & here["value"].notna() & ~here["level"].isin(["prior", "baseline"])]
    away = away[away["control"] == ""] if column == "floor" else away
    ranked = sorted((row for _, row in away.iterrows()),
                    key=lambda row: (row["level"] != found["level"], row["level"] != "linear"))  # fmt: skip
    for row in ranked:
        same = plain[(plain["level"] == row["level"]) & (plain["source"] == row["source"])]
        same = same[same["k"].isna() if pd.isna(row["k"]) else same["k"] == row["k"]]
        if len(same):
            return same.iloc[0], row
    return None


def _told(choice: str, now: pd.Series, other: pd.Series, instead: str, so: str) -> Change:
    first, second = (conclusion(row["low"], row["high"]) for row in (now, other))
    who = level_words(now["level"], now["source"], None if pd.isna(now["k"]) else int(now["k"]))
    said = f"{who} at {site_label(now['hook'])}: {value_text(now)} as measured, {value_text(other)} {instead}. {so}"
    return Change(choice, first, second, first != second, said)


def _floor(here: pd.DataFrame, found: pd.Series) -> Change:
    pair = _pair(here, found, "floor", "weak")
    if pair is None:
        now = conclusion(found["low"], found["high"])
        return Change("floor", now, "", None, "A weak floor was not read beside it.",
                      '[read] floors = ["strong", "weak"]')  # fmt: skip
    return _told("floor", *pair, "with a floor that knows the position alone",
                 "The difference is in the input, not in the network.")  # fmt: skip


def _split(here: pd.DataFrame, found: pd.Series) -> Change:
    pair = _pair(here, found, "control", "row_split")
    if pair is None:
        return Change("split", conclusion(found["low"], found["high"]), "", None,
                      "What rows of one group on both sides would have claimed was not read.",
                      '[read] controls = ["row_split", ...]')  # fmt: skip
    return _told("split", *pair, "with rows of a group on both sides", "The difference would be remembered groups.")


def _unseen(frame: pd.DataFrame, found: pd.Series, at: dict[str, Any]) -> Iterator[Change]:
    """T of the finding's reader, or of `linear` at its site, in each situation that it was not fitted on."""
    now = conclusion(found["low"], found["high"])
    rows = pick(frame, behaviour=at["behaviour"], metric="transfer", position=at["position"], arm="refit")
    rows = at_domain(rows, at["domain"], seen=False)
    rows = rows[(rows["hook"] == found["hook"]) & rows["value"].notna()]
    own = rows[rows["level"] == found["level"]]
    rows = own if len(own) else rows[rows["level"] == "linear"]
    if rows.empty:
        task = ((frame.attrs.get("manifest") or {}).get("spec") or {}).get("task") or {}
        yield Change("seen or unseen", now, "", None, "It was not tried on situations that it was not fitted on.",
                     '[task] domain = "COLUMN", and [transfer]' if task.get("file") and not task.get("domain")
                     else "[transfer]")  # fmt: skip
        return
    for _, row in rows.drop_duplicates("test_domain").iterrows():
        lost, kept = row["low"] > HALF, row["high"] < HALF
        other = "it is mostly lost" if lost else "it mostly carries over" if kept else "how much is lost is open"
        who = level_words(row["level"], row["source"], None if pd.isna(row["k"]) else int(row["k"]))
        said = (
            f"{who} at {site_label(row['hook'])}, moved to {printable(row['test_domain'])}: T {value_text(row)} "
            "(0 carries over, 1 is no better than the input there)."
        )
        yield Change("seen or unseen", now, other, bool(lost), said)


def _ontology(frame: pd.DataFrame, found: pd.Series, at: dict[str, Any]) -> Change:
    """Whether the words in which features are named make them look absent."""
    now = conclusion(found["low"], found["high"])
    rows = frame[(frame["metric"] == "accuracy") & frame["behaviour"].str.startswith(FEATURE)]
    rows = at_domain(at_position(lowest_seeds(rows), at["position"]), None, seen=True)
    rows = rows[(rows["hook"] == found["hook"]) & (rows["control"] == "") & rows["value"].notna()]
    both = [
        (name.removeprefix(FEATURE), part.set_index("level")) for name, part in rows.groupby("behaviour", sort=False)
    ]
    both = [(name, part) for name, part in both if {"linear", "nonlinear"} <= set(part.index)]
    if not both:
        return Change("ontology", now, "", None, "No features were read linearly and nonlinearly at this site.",
                      "[[task.features]]")  # fmt: skip
    told, hidden = [], []
    for name, part in both:
        linear, richer = part.loc["linear"], part.loc["nonlinear"]
        told.append(f"{printable(name)} {number(linear['value'])} linearly, {number(richer['value'])} nonlinearly")
        hidden += [name] if linear["high"] < richer["low"] else []
    other = f"{', '.join(map(printable, hidden))} would look less present than it is" if hidden else "the same"
    said = (
        f"Features at {site_label(found['hook'])}, accuracy: {'; '.join(told)}. What is not linear in one "
        "naming may be in another."
    )
    return Change("ontology", now, other, bool(hidden) and len(hidden) < len(both), said)
