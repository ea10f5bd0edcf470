"""Trust: what a run was checked for, one list: passed, failed or not measured, each with what fills it.

Reading side: a frame of records and the manifest it was read with. A check says what was found, and where it was not
made, the lines of a spec or the command that make it.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from probekit.errors import printable
from probekit.metrics.bootstrap import FEW_CLUSTERS
from probekit.results.headline import finding, leaves, level_words
from probekit.results.selection import at_domain, default_behaviour, na_words, pick, site_label, unembedding
from probekit.results.text import number, value_text

State = Literal["passed", "failed", "not measured"]
STATES: tuple[State, ...] = ("failed", "not measured", "passed")  # in the order of what is to be looked at
FALLS = 0.05  # of FBU, by which a value may still fall with more rows before it says so
P_MAX = 0.05
CALIBRATION = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Check:
    """One thing that was checked. said: a sentence. fill: the command or spec lines that make or repair it, or ""."""

    about: str
    name: str
    state: State
    said: str
    fill: str = ""


@dataclass(frozen=True)
class _Asked:
    """What all checks look at: records of one behaviour read in its own domain, the finding, the manifest."""

    frame: pd.DataFrame
    read: pd.DataFrame  # every control and floor, seen domain
    found: pd.Series | None
    last: str
    manifest: Mapping[str, Any]
    problem: str

    @property
    def told(self) -> Mapping[str, Any]:
        return self.manifest.get("provenance") or {}

    @property
    def plain(self) -> pd.DataFrame:
        rows = self.read
        return rows[(rows["control"] == "") & (rows["floor"] == "strong") & (rows["hook"] != "")]

    def at_finding(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows at the site of the finding, or the last one read before the unembedding."""
        sites = [hook for hook in rows["hook"].unique() if hook not in ("", self.last)]
        hook = self.found["hook"] if self.found is not None else sites[-1] if sites else ""
        return rows[rows["hook"] == hook]


def trust(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    problem: str = "",
) -> list[Check]:  # fmt: skip
    """Every check of one behaviour, in a fixed order; `STATES` has the order of what is to be looked at first.

    frame: records as `Run.records` gives them, whose `attrs` have the manifest. problem: of an unfinished or broken
    run.
    """
    behaviour = behaviour or default_behaviour(frame) or None
    rows = pick(frame, behaviour=behaviour, metric="read", floor=None, control=None, position=position)
    at = {"behaviour": behaviour, "domain": domain, "position": position}
    asked = _Asked(frame, at_domain(rows, domain, seen=True), finding(frame, **at), unembedding(frame, behaviour or ""),
                   frame.attrs.get("manifest") or {}, problem)  # fmt: skip
    parts: tuple[Callable[[_Asked], Iterator[Check]], ...] = (
        _whole, _audit, _texts, _controls, _rows, _selection, _floors, _questions, _calibration,
    )  # fmt: skip
    return [check for part in parts for check in part(asked)]


def trust_frame(checks: list[Check]) -> pd.DataFrame:
    """The same as a table: about, check, state, said, fill; what failed first."""
    rows = [{"about": c.about, "check": c.name, "state": c.state, "said": c.said, "fill": c.fill} for c in checks]
    order = {state: i for i, state in enumerate(STATES)}
    found = pd.DataFrame(rows, columns=["about", "check", "state", "said", "fill"])
    return found.sort_values("state", key=lambda s: s.map(order), kind="stable", ignore_index=True)


def counted(checks: list[Check]) -> str:
    """`9 passed, 1 failed, 4 not measured`."""
    return ", ".join(
        f"{sum(c.state == state for c in checks)} {state}" for state in ("passed", "failed", "not measured")
    )


def _whole(asked: _Asked) -> Iterator[Check]:
    cells = asked.manifest.get("cells") or {}
    if asked.problem:
        yield Check("run", "finished", "failed", printable(asked.problem), "probekit run SPEC")
    elif not asked.manifest:
        yield Check("run", "finished", "not measured", "There is no manifest: these records are of no finished run.",
                    "probekit run SPEC")  # fmt: skip
    else:
        said = f"Sealed: {cells.get('ok', '?')} of {cells.get('total', '?')} cells, every file as its digest says."
        yield Check("run", "finished", "passed", said)
    failed = cells.get("failed") or []
    if failed:
        first = printable(str(failed[0].get("error", "")))[:200]
        yield Check("run", "failed cells", "failed", f"{len(failed)} failed: {first}", "probekit run SPEC")
    elif asked.manifest:
        yield Check("run", "failed cells", "passed", "No cell failed.")
    empty = asked.plain[asked.plain["value"].isna()]
    if len(asked.plain):
        why = ", ".join(f"{n} {reason}" for reason, n in empty["na_reason"].map(na_words).value_counts().items())
        said = f"{len(empty)} of {len(asked.plain)} values are NA: {why}." if len(empty) else "Every cell has a value."
        yield Check("run", "values", "failed" if len(empty) else "passed", said)


def _audit(asked: _Asked) -> Iterator[Check]:
    audit = asked.told.get("audit") or {}
    if "invariance" not in audit:
        yield Check("activations", "extraction", "not measured",
                    "The activations are not of a model that was run here: nothing is known of how they were made.",
                    "probekit run SPEC, with a [model]")  # fmt: skip
        return
    fired, bad = audit.get("n_hooks_fired_once") or 0, audit.get("n_not_finite") or 0
    yield Check("activations", "hooks", "passed" if fired else "failed", f"{fired} hook points fired once per pass.")
    yield Check("activations", "finite", "failed" if bad else "passed", f"{bad} values are not finite.")
    yield _within("batch against single", audit, "invariance", "A row alone and in a batch differ by")
    if audit.get("backend_parity") is None:
        yield Check("activations", "two forwards", "not measured", "One forward alone was run.", 'backend = "auto"')
    else:
        yield _within("two forwards", audit, "backend_parity", "The library's forward and the plain one differ by")


def _within(name: str, audit: Mapping[str, Any], key: str, said: str) -> Check:
    value, limit = float(audit[key]), float(audit.get(f"{key}_limit") or 0)
    return Check(
        "activations", name, "passed" if value <= limit else "failed", f"{said} {value:.1g} ({limit:.1g} allowed)."
    )


def _texts(asked: _Asked) -> Iterator[Check]:
    audit = asked.told.get("audit") or {}
    task = audit.get("task") or {}
    if "n_sequences" in audit:
        cut = (task.get("n_truncated") or 0) + (audit.get("n_at_context_limit") or 0)
        yield Check("texts", "whole", "failed" if cut else "passed",
                    f"{cut} of {audit['n_sequences']:,} texts are cut off or fill the context.",
                    'truncate = "refuse"' if cut else "")  # fmt: skip
        odd = (audit.get("n_without_bos") or 0) + (audit.get("n_with_two_bos") or 0)
        known = audit.get("n_without_bos") is not None or audit.get("n_with_two_bos") is not None
        said = f"{odd} texts lack a first token or have two." if known else "The model has no first token to count."
        yield Check("texts", "first token", "failed" if odd else "passed", said,
                    '[model] bos = "exactly_one"' if odd else "")  # fmt: skip
    copies = printable(str(task.get("copies", "")))
    if copies:
        yield Check("texts", "duplicates", "failed", copies[:300], '[task] copies = "merge", or a group column')
    elif task:
        yield Check("texts", "duplicates", "passed", "No text is in two groups.")
    else:
        yield Check(
            "texts", "duplicates", "not measured", "The task is no file: nobody looked for copies in two groups."
        )


_CONTROLS = {
    "random_twin": ("random twin", "random_twin", "the same read off an untrained network leaves"),
    "random_directions": ("random directions", "random_directions", "random directions leave"),
    "permuted_in_group": ("permuted labels", "permuted", "with labels permuted it leaves"),
    "permuted_groups": ("permuted labels", "permuted", "with labels permuted between groups it leaves"),
    "control_task": ("control task", "control_task", "a random label per type leaves"),
}


def _controls(asked: _Asked) -> Iterator[Check]:
    """Each control beside the same level at the site of the finding, with its own reading."""
    done = set()
    for control, (name, _, said) in _CONTROLS.items():
        rows = asked.at_finding(asked.read[(asked.read["control"] == control) & asked.read["value"].notna()])
        pairs = [(mine, row) for _, row in rows.iterrows() if (mine := _beside(asked, row)) is not None]
        if not pairs or name in done:
            continue
        done.add(name)
        mine, row = min(pairs, key=lambda pair: _nearness(asked, pair[0]))
        good = float(mine["high"]) < float(row["low"])
        who = level_words(mine["level"], mine["source"], None if pd.isna(mine["k"]) else int(mine["k"]))
        text = f"At {site_label(row['hook'])} {who} {leaves(who)} {value_text(mine)}; {said} {value_text(row)}."
        text += "" if good else " The two are not told apart."
        yield Check("controls", name, "passed" if good else "failed", text)
    for name, key in {name: key for name, key, _ in _CONTROLS.values()}.items():
        if name not in done:
            yield Check("controls", name, "not measured", "It was not read where the finding is.",
                        f'[read] controls = ["{key}", ...]')  # fmt: skip


def _beside(asked: _Asked, row: pd.Series) -> pd.Series | None:
    """The value that a control is held against: the same level at the same site, at the same k or the next smaller one.

    A behaviour of few outcomes has fewer directions of its own than random ones are drawn.
    """
    same = asked.plain[(asked.plain["hook"] == row["hook"]) & (asked.plain["level"] == row["level"])]
    same = same[same["k"].isna() if pd.isna(row["k"]) else same["k"] <= row["k"]]
    same = same[same["value"].notna()].sort_values("k", ascending=False, kind="stable")
    named = same[same["source"] == row["source"]]
    chosen = named if len(named) else same[same["source"] != "pca"]
    return chosen.iloc[0] if len(chosen) else None


def _nearness(asked: _Asked, mine: pd.Series) -> tuple:
    """The finding's own level before `linear`, that before others."""
    level = None if asked.found is None else asked.found["level"]
    return mine["level"] != level, mine["level"] != "linear", mine["level"]


def _rows(asked: _Asked) -> Iterator[Check]:
    here = asked.at_finding(asked.plain[~asked.plain["level"].isin(["prior", "baseline"])])
    if here.empty:
        return
    groups, n = int(here["groups"].max()), int(here["n"].max())
    few = groups < FEW_CLUSTERS
    said = f"{n:,} test rows in {groups:,} groups" + (
        f": below {FEW_CLUSTERS} intervals are too short." if few else "."
    )
    yield Check("rows", "groups", "failed" if few else "passed", said, "more groups in [task]" if few else "")
    if groups == n:
        yield Check("rows", "what could be memorised", "not measured",
                    "Every row is a group of its own: nothing says what rows have in common.",
                    '[task] group = "COLUMN"')  # fmt: skip
    falls = here[here["falls"].notna()]
    if falls.empty:
        yield Check("rows", "enough to fit", "not measured", "No reader was fitted on half of the rows as well.",
                    "[read] falls = true")  # fmt: skip
        return
    row = falls.iloc[0]
    still = float(row["falls_low"]) > FALLS
    who = level_words(row["level"], row["source"], None if pd.isna(row["k"]) else int(row["k"]))
    said = (
        f"At {site_label(row['hook'])} the second half of {int(row['n_fit']):,} fit rows brought {who} "
        f"{number(row['falls'])} [{number(row['falls_low'])}, {number(row['falls_high'])}]"
    )
    said += ": with more it would explain more." if still else "."
    yield Check("rows", "enough to fit", "failed" if still else "passed", said, "more rows in [task]" if still else "")


def _selection(asked: _Asked) -> Iterator[Check]:
    sites = asked.plain["hook"].nunique()
    if asked.found is None:
        yield Check("selection", "site", "not measured", "No site but the unembedding's was chosen on selection rows.",
                    '[read] hooks = ["blocks.*.hook_resid_post"]')  # fmt: skip
        return
    chosen = asked.found["metric"] == "selected"
    said = (
        f"{site_label(asked.found['hook'])} was chosen of {sites} on rows that no value is of." if chosen
        else "One site was read: nothing was chosen."
    )  # fmt: skip
    yield Check("selection", "site", "passed", said)
    here = asked.at_finding(asked.plain)
    tested = here[here["p_max"].notna()] if "p_max" in here else here.head(0)
    if tested.empty:
        yield Check("selection", "all sites at once", "not measured",
                    "No p-value corrects for having looked at every site.", "[read] n_permutations = 199")  # fmt: skip
        return
    mine = tested[tested["level"] == asked.found["level"]]
    row = (mine if len(mine) else tested).iloc[0]
    good = float(row["p_max"]) <= P_MAX
    said = f"A gain as large at any of {sites} sites has the chance p_max {row['p_max']:.3g} under permutation."
    yield Check("selection", "all sites at once", "passed" if good else "failed", said)


def _floors(asked: _Asked) -> Iterator[Check]:
    known = asked.plain[asked.plain["floor_bits"].notna() & asked.plain["ceiling_bits"].notna()]
    if len(known):
        left = float((known["floor_bits"] - known["ceiling_bits"]).iloc[0])
        yield Check("floor", "strong floor", "passed", f"The best reader of the input alone leaves {left:.2f} bits.")
    else:
        yield Check("floor", "strong floor", "not measured", "Nothing says what the input alone explains.", "floor=")
    weak = asked.read[(asked.read["floor"] == "weak") & asked.read["value"].notna()]
    if weak.empty:
        yield Check("floor", "weak floor beside it", "not measured",
                    "What a weak floor would have credited to the network is not known.",
                    '[read] floors = ["strong", "weak"]')  # fmt: skip
    else:
        yield Check(
            "floor", "weak floor beside it", "passed", "Read beside both floors: the story says what it changes."
        )
    seeds = asked.frame["seed_data"].nunique() if len(asked.frame) else 0
    if seeds > 1:
        yield Check("floor", "other splits", "passed", f"Read on {seeds} splits of the rows.")
    else:
        yield Check("floor", "other splits", "not measured", "One split of the rows was read.", "repeats = 3")


def _questions(asked: _Asked) -> Iterator[Check]:
    """The questions that reading alone does not answer."""
    behaviour = asked.read["behaviour"].iloc[0] if len(asked.read) else ""
    rows = asked.frame[(asked.frame["behaviour"] == behaviour) & asked.frame["value"].notna()]
    for metric, name, fill, said in (
        ("replace", "does the model run on it", "[replace]", "The model was run with only this kept."),
        ("transfer", "does it carry over", "[transfer]", "Readers were moved to situations they were not fitted on."),
    ):
        if (rows["metric"] == metric).any():
            yield Check("questions", name, "passed", said)
        else:
            yield Check("questions", name, "not measured", "It was read and no more.", fill)


def _calibration(_: _Asked) -> Iterator[Check]:
    told = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    said = (
        f"The instrument: {told['accepted']} of {told['truths']} known truths accepted over {told['units']:,} units at "
        f"commit {told['commit']}; {told['page']} names the others."
    )
    yield Check("instrument", "calibration", "passed", said, told["command"])
