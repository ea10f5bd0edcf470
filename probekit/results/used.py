"""Does the model use it? One sentence from what was replaced, beside random directions of the same number."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import pandas as pd

from probekit.results.causal import default_site
from probekit.results.headline import leaves, level_words
from probekit.results.looks import arm_words
from probekit.results.selection import REPLACE_ARMS, at_domain, default_behaviour, pick, site_label
from probekit.results.text import value_text

PREFERRED = (
    "chain:matched",
    "chain:random",
    "single:matched",
)  # what is replaced, in the order in which it is looked at
UNKNOWN = (
    "Used or not is not known: no directions were kept alone ([replace] in the spec). What is read may be there and "
    "never be used."
)
MOSTLY = 0.5  # unexplained, below which more than half is carried by what is kept


def used(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> str:
    """What is left of a behaviour when directions alone are kept, and what that says of their use by the model.

    Of the most directions that were kept, the behaviour's own before others, at all sites where they were; at one site,
    that which selection rows prefer. Only what explains more than as many random directions is said to be used. Where
    nothing was replaced it says so: what is read may be there and never be used.

    >>> import probekit as pk
    >>> from probekit.results.used import used
    >>> used(pk.open_run("runs/othello").records).split(":")[0]
    'Mostly used'
    """
    behaviour = behaviour or default_behaviour(frame)
    rows = pick(frame, behaviour=behaviour, metric="replace", position=position, control=None)
    rows = at_domain(rows, domain, seen=True)
    rows = rows[rows["arm"].isin(REPLACE_ARMS) & rows["value"].notna()]
    arms = [arm for arm in (*PREFERRED, *REPLACE_ARMS) if (rows["arm"] == arm).any()]
    own = rows[(rows["control"] == "") & (rows["level"] == "directions") & (rows["k"] > 0)]
    arm = next((arm for arm in arms if (own["arm"] == arm).any()), "")
    if not arm:
        return UNKNOWN
    own, where = own[own["arm"] == arm], ""
    if arm.startswith("single"):
        site = default_site(frame, behaviour)
        site = site if (own["hook"] == site).any() else own["hook"].iloc[0]
        own, where = own[own["hook"] == site], f" at {site_label(site)}"
    row = min((one for _, one in own.iterrows()), key=lambda one: (one["source"] != "behaviour", -one["k"]))
    beside = rows[(rows["control"] == "random_directions") & (rows["k"] == row["k"]) & (rows["arm"] == arm)]
    beside = beside[beside["hook"] == row["hook"]]
    who = level_words(row["level"], row["source"], int(row["k"]))
    random = f", as many random ones {value_text(beside.iloc[0])}" if len(beside) else ""
    told = f"kept alone{where} ({arm_words(arm)}), {who} {leaves(who)} {value_text(row)} unexplained{random}"
    return f"{_verdict(row, beside.iloc[0] if len(beside) else None)}: {told}."


def _verdict(row: pd.Series, beside: pd.Series | None) -> str:
    if beside is None:
        return "Used or not cannot be told beside no random directions"
    if not row["high"] < min(1.0, beside["low"]):
        return "Not shown to be used"
    return "Mostly used" if row["high"] < MOSTLY else "Used in part"
