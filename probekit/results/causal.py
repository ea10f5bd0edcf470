"""What a model runs on at a site: every direction set kept and erased, beside nothing kept, random directions, and
what is read.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Mapping

import pandas as pd

from probekit.hookpoint import HookPoint
from probekit.results.selection import (
    at_domain,
    check_known,
    default_behaviour,
    hooks,
    level_rank,
    lowest_seeds,
    pick,
    site_label,
    vocabulary,
)

LABEL, GIVEN = "label:", "given:"
# column -> arm of replace. Each has its interval and, `random_...`, the same of random directions of equal k.
COLUMNS = {
    "kept": "single:random", "alike": "single:matched", "kept_mean": "single:mean", "erased": "necessity:resample",
    "erased_mean": "necessity:mean", "erased_leace": "necessity:leace", "interchanged": "iia",
}  # fmt: skip


def causal(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    hook: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row per site and direction set: `read`, and each of COLUMNS with `_low`, `_high` and `random_` beside it.

    nothing: `kept` with k = 0, what is lost when all of the site comes from donors. source: `behaviour`, `pca`, the
    label (`label:truth`) that directions were fitted to, or who gave them (`given:mine`). hook: one site.
    """
    rows = pick(frame, behaviour=behaviour, metric="replace", position=position, control=("", "random_directions"))
    rows = at_domain(rows[rows["hook"] != ""], domain, seen=True)
    if hook is not None:
        check_known("replaced hook", hook, hooks(rows, "replace"))
        rows = rows[rows["hook"] == hook]
    read = lowest_seeds(frame[(frame["metric"] == "read") & (frame["floor"] == "strong") & (frame["control"] == "")])
    read = read[(read["fit_domain"] == read["test_domain"]) & read["position"].isin(rows["position"])]
    out = []
    for site in hooks(rows, "replace"):
        here = rows[rows["hook"] == site]
        random = here[here["control"] != ""]
        own = here[here["control"] == ""]
        names = own[["level", "source", "k"]].drop_duplicates().itertuples(index=False)
        for level, source, k in sorted(names, key=lambda name: (level_rank(name[0]), name[1], name[2])):
            mine = own[(own["level"] == level) & (own["source"] == source) & (own["k"] == k)]
            row = {"hook": site, "site": site_label(site), "level": level, "source": source, "k": k}
            row |= {
                "label": _label(level, source, int(k)),
                "read": _read(read, site, str(here["behaviour"].iloc[0]), row),
            }
            row |= _figures(mine, "") | _figures(random[random["k"] == k], "random_")
            row["nothing"] = _value(random[(random["k"] == 0) & (random["arm"] == "single:random")], "value")
            out.append(row | {"n": int(mine["n"].max()), "groups": int(mine["groups"].max())})
    return pd.DataFrame(out)


def _figures(rows: pd.DataFrame, before: str) -> dict[str, float | None]:
    told = {}
    for name, arm in COLUMNS.items():
        at = rows[rows["arm"] == arm]
        told |= {before + name: _value(at, "value"), f"{before}{name}_low": _value(at, "low"),
                 f"{before}{name}_high": _value(at, "high")}  # fmt: skip
    return told


def _value(rows: pd.DataFrame, name: str) -> float | None:
    return float(rows[name].iloc[0]) if len(rows) and pd.notna(rows[name].iloc[0]) else None


def _read(read: pd.DataFrame, hook: str, behaviour: str, row: Mapping[str, object]) -> float | None:
    """What a reader of the same directions leaves unexplained of what they were fitted to."""
    source = str(row["source"])
    if source.startswith(LABEL):
        behaviour, _, source = source.removeprefix(LABEL).partition(":")
    at = read[(read["hook"] == hook) & (read["behaviour"] == behaviour) & (read["level"] == row["level"])]
    return _value(at[(at["source"] == (source or "behaviour")) & (at["k"] == row["k"])], "value")


def _label(level: str, source: str, k: int) -> str:
    """`directions of truth, k=1`, `direction (lda) of truth`, `mine, k=3`, `PCA, k=4`."""
    at_k = f", k={int(k)}" if level != "direction" else ""
    if source == "pca":
        return f"PCA{at_k}"
    if source.startswith(GIVEN):
        return f"{source.removeprefix(GIVEN)}{at_k}"
    of, how = "", source
    if source.startswith(LABEL):
        name, _, how = source.removeprefix(LABEL).partition(":")
        of = f" of {name}"
    return vocabulary(level, how if level == "direction" else "") + of + at_k


def default_site(frame: pd.DataFrame, behaviour: str | None = None) -> str:
    """The replaced site that selection rows prefer for reading, or the middle one of those that were replaced."""
    rows = frame[frame["behaviour"] == (behaviour or default_behaviour(frame))]
    replaced = hooks(rows, "replace")
    chosen = rows[(rows["metric"] == "selected") & (rows["level"] == "linear")]["hook"]
    preferred = [hook for hook in chosen if hook in replaced]
    order = sorted(replaced, key=lambda hook: HookPoint.parse(hook).order)
    return preferred[0] if preferred else order[len(order) // 2] if order else ""
