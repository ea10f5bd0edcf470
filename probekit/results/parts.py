"""Parts: what composes in a run, as a frame, in words, and as the assumptions of analysis by parts, tested.

The assumptions are those under which a whole may be studied by its parts (Leveson 2011, Engineering a Safer World): a
part can be set by itself, parts do not hang together, each does in the whole what it does alone, and what they do
together is a sum over pairs, or over parts.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from probekit.hookpoint import HookPoint
from probekit.metrics.equivalence import check_margin, equivalence_of_interval
from probekit.results.selection import at_domain, na_words, pick, site_label

if TYPE_CHECKING:
    from rich.table import Table

MARGIN = 0.1
# Arm -> what it is, and what its plain values mean.
WORDS: Mapping[str, tuple[str, str]] = {
    "additive_value": ("not additive: values", "0: a sum over parts"),
    "pair_value": ("not pairwise: values", "0: a sum over pairs"),
    "dependence": ("parts tell each other", "0: independent"),
    "additive_ablation": ("not additive: sets", "0: a sum over parts"),
    "pair_ablation": ("not pairwise: sets", "0: a sum over pairs"),
    "leave_one_out": ("leave-one-out", "1: adds, 0: backups"),
    "leave_one_out:mean": ("leave-one-out, mean", "1: adds, 0: backups"),
    "alone": ("alone differs", "0: the same"),
    "self_repair:resample": ("self-repair", "0: none, 1: all"),
    "self_repair:mean": ("self-repair, mean", "0: none, 1: all"),
    "self_repair:resample:norm_held": ("  last norm held", "0: none, 1: all"),
    "self_repair:mean:norm_held": ("  mean, last norm held", "0: none, 1: all"),
    "cross_talk": ("cross-talk", "0: separate"),
}
_COLUMNS = ["behaviour", "fit_domain", "position", "hook", "layer", "site", "source", "k", "arm", "what", "means",
            "value", "low", "high", "raw", "na_reason", "n", "groups", "note", "id"]  # fmt: skip
_SCREENS = {
    "separation": ("cross_talk", "setting one part moves another by {} of what it moves itself by"),
    "independence": ("dependence", "the parts tell {} of each other's values"),
    "alone as in the whole": ("alone", "what a part does alone and in the whole differs by {}"),
    "pairwise": ("pair_value", "sums over pairs of parts miss {} of the behaviour that the parts tell"),
    "additivity": ("additive_value", "sums over parts miss {} of the behaviour that the parts tell"),
}
_VERDICTS = {"within": "passed", "outside": "failed", "undecided": "undecided"}


@dataclass(frozen=True, kw_only=True)
class Screen:
    """One assumption at one hook point. value, low, high: of the record with this `id`, 0 where the assumption holds.

    verdict: passed, failed or undecided by an equivalence test of 0 at `margin`, on the 95 % interval; or NA.
    """

    assumption: str
    hook: str
    arm: str
    value: float | None
    low: float | None
    high: float | None
    margin: float
    verdict: str
    reason: str
    id: str

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        if self.value is None:
            return f"{self.assumption}: NA ({self.reason})."
        ends = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        told = _SCREENS[self.assumption][1].format(f"{self.value:.2f}{ends}")
        return f"{self.assumption}: {self.verdict} at a margin of {self.margin:g}: {told}."


def composition(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> pd.DataFrame:
    """A row per hook point and arm, in forward order: `what` it is, what plain values mean, value, interval and NA.

    raw: with what noise alone would be left in.
    """
    rows = pick(frame, behaviour=behaviour, metric="compose", position=position)
    rows = at_domain(rows, domain, seen=True).copy()
    arms = list(WORDS)
    plain = rows["arm"].str.removesuffix(":loss")
    loss = rows["arm"].str.endswith(":loss")
    rows["site"] = rows["hook"].map(site_label)
    rows["what"] = [WORDS[arm][0] + ", loss" * at for arm, at in zip(plain, loss, strict=True)]
    rows["means"] = plain.map(lambda arm: WORDS[arm][1])
    rows["order"] = [
        (HookPoint.parse(hook).order, arms.index(arm), at)
        for hook, arm, at in zip(rows["hook"], plain, loss, strict=True)
    ]
    return rows.sort_values("order", ignore_index=True)[_COLUMNS]


def composition_text(frame: pd.DataFrame) -> "list[Table]":
    """`composition` for a terminal of 80 columns: a table for each hook point."""
    from rich.table import Table

    from probekit.results.text import as_is, narrow, number, value_text

    out = []
    for site, rows in frame.groupby("site", sort=False):
        told = f"{site}, {int(rows['k'].iloc[0])} parts" if pd.notna(rows["k"].iloc[0]) else str(site)
        table = Table(title=as_is(told, "table.title"), **narrow())
        for heading, width in (("what", 24), ("value [95 %]", 24), ("raw", 5), ("read as", 19)):
            table.add_column(heading, overflow="fold", min_width=width)
        for _, row in rows.iterrows():
            raw = "" if pd.isna(row["raw"]) else number(row["raw"])
            table.add_row(*map(as_is, (row["what"], value_text(row), raw, row["means"])))
        out.append(table)
    return out


def screens(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    position: str | None = None,
    margin: float = MARGIN,
) -> list[Screen]:
    """The five assumptions at each hook point where parts were composed, in forward order.

    Raises BadInput for a margin that is none, or what the records do not have.
    """
    check_margin(margin, 0.05)
    rows = composition(frame, behaviour=behaviour, domain=domain, position=position)
    out = []
    for hook in rows["hook"].unique():
        here = rows[rows["hook"] == hook].set_index("arm")
        for assumption, (arm, _) in _SCREENS.items():
            if arm in here.index:
                out.append(_screen(assumption, hook, arm, here.loc[arm], margin))
    return out


def _screen(assumption: str, hook: str, arm: str, row: pd.Series, margin: float) -> Screen:
    told = {name: None if pd.isna(row[name]) else float(row[name]) for name in ("value", "low", "high")}
    verdict, reason = "NA", na_words(row["na_reason"])
    if told["value"] is not None and told["low"] is not None and told["high"] is not None:
        found = equivalence_of_interval(told["value"], told["low"], told["high"], margin)
        verdict, reason = _VERDICTS[found.verdict], ""
    return Screen(
        assumption=assumption, hook=hook, arm=arm, **told, margin=margin, verdict=verdict, reason=reason, id=row["id"]
    )
