"""What a model runs on: every direction set kept, erased and added in doses, beside nothing kept, random directions and
what is read of it.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from probekit.results.selection import (
    at_domain,
    check_known,
    default_behaviour,
    default_k,
    hooks,
    ks,
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
    "trained": "single:random:compute",
}  # fmt: skip
# column -> arm and control of what stands beside a subspace that was learned by exchange
BESIDE = {
    "in_twin": ("iia", "random_twin"), "shuffled": ("iia", "shuffled_counterfactuals"), "placebo": ("iia", "placebo"),
    "illusion": ("iia:illusion", ""), "dormant": ("iia:dormant", ""), "far": ("iia:far", ""),
    "gap": ("iia:gap", ""),
}  # fmt: skip
ROLL_OUT = "roll_out"
STEERED = ("effect", "share", "wrong", "unrelated")
_CONTROLS = ("", "random_directions")


Rows = Mapping[str, Mapping[str, Any]]  # the first record of each arm


@dataclass(frozen=True)
class _Set:
    """One direction set at one replaced site: its own records, those of random directions of equal k, and of k = 0."""

    at: Mapping[str, object]
    own: Rows
    random: Rows
    nothing: Rows


def _sets(rows: pd.DataFrame) -> Iterator[_Set]:
    """Every direction set of the sites in forward order, levels from the poorest to the richest."""
    # Plain rows and dictionaries: a run of 80 layers has thousands of sets, and a frame takes a millisecond to filter.
    here: dict[str, list[dict]] = {}
    for row in rows.to_dict("records"):
        here.setdefault(row["hook"], []).append(row)
    for i, site in enumerate(hooks(rows, "replace")):
        own: dict[tuple, dict[str, dict]] = {}
        control: dict[int | None, dict[str, dict]] = {}
        for row in here[site]:
            k = _k(row)
            arms = control.setdefault(k, {}) if row["control"] else own.setdefault((row["level"], row["source"], k), {})
            arms.setdefault(row["arm"], row)
        first = here[site][0]
        for level, source, k in sorted(own, key=lambda name: (level_rank(name[0]), name[1], _rank(name[2]))):
            at = {
                "behaviour": first["behaviour"], "fit_domain": first["fit_domain"], "position": first["position"],
                "hook": site, "site": site_label(site), "site_order": i, "level": level, "source": source, "k": k,
                "label": label_of(level, source, k),
            }  # fmt: skip
            random = {} if k is None else control.get(k, {})
            yield _Set(at, own[level, source, k], random, control.get(0, {}))


def _k(row: Mapping[str, Any]) -> int | None:
    return None if pd.isna(row["k"]) else int(row["k"])


def _rank(k: object) -> int:
    return -1 if pd.isna(k) else int(k)


def _replaced(
    frame: pd.DataFrame, behaviour: str | None, domain: str | None, position: str | None, hook: str | None,
    control: tuple[str, ...] = _CONTROLS,
) -> pd.DataFrame:  # fmt: skip
    """Records of replace at one site each, of random directions too."""
    rows = pick(frame, behaviour=behaviour, metric="replace", position=position, control=control)
    rows = at_domain(rows[(rows["hook"] != "") & (rows["arm"] != ROLL_OUT)], domain, seen=True)
    if hook is not None:
        check_known("replaced hook", hook, hooks(rows, "replace"))
        rows = rows[rows["hook"] == hook]
    return rows


def causal(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    hook: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row per site and direction set: `read`, and each of COLUMNS with `_low`, `_high` and `random_` beside it.

    nothing: `kept` with k = 0, what is lost when all of the site comes from donors. source: `behaviour`, `pca`, the
    label (`label:truth`) that directions were fitted to, or who gave them (`given:mine`). hook: one site. Where
    subspaces were learned by exchange each of BESIDE says what the same search does where nothing can be found.
    """
    rows = _replaced(frame, behaviour, domain, position, hook)
    learned = _replaced(frame, behaviour, domain, position, hook, ("", *(control for _, control in BESIDE.values())))
    learned = learned[learned["source"] == "das"]
    read = _all_read(frame, rows)
    out = []
    for one in _sets(rows):
        row = dict(one.at) | _read(read, one.at)
        row |= _figures(one.own, "") | _figures(one.random, "random_")
        if len(learned):
            row |= _beside(learned, one.at)
        row["nothing"] = _value(one.nothing.get(COLUMNS["kept"]), "value")
        counted = {name: max(int(at[name]) for at in one.own.values()) for name in ("n", "groups")}
        out.append(row | counted)
    return pd.DataFrame(out)


def read_against_replace(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    hook: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row per site and direction set: what a reader of it leaves unexplained, and the model that keeps it alone.

    read: FBU of what the directions were fitted to (`fitted_to`), missing where no reader of them was fitted. kept: FBU
    of the behaviour when the rest of the site comes from random donors; both with `_low` and `_high`. control: '' or
    `random_directions`, k = 0 among those, of which reading leaves the floor, 1 by definition.
    """
    rows = _replaced(frame, behaviour, domain, position, hook)
    rows = rows[rows["arm"] == COLUMNS["kept"]]
    read = _all_read(frame, rows)
    out, told = [], set()
    for one in _sets(rows):
        site = one.at["hook"]
        out.append(_point(one.own, "", one.at, _read(read, one.at)))
        for control, k in ((one.random, one.at["k"]), (one.nothing, 0)):
            if control and (site, k) not in told:
                told.add((site, k))
                label = f"random, k={k}" if k else "nothing, k=0"
                at = dict(one.at) | {"level": "directions", "source": "random", "k": k, "label": label}
                floor = {"read": 1.0, "read_low": None, "read_high": None}
                out.append(_point(control, "random_directions", at, _read_random(read, at) if k else floor))
    return pd.DataFrame(out)


def _point(rows: Rows, control: str, at: Mapping[str, object], read: Mapping[str, float | None]) -> dict[str, object]:
    first = rows[COLUMNS["kept"]]
    told = {"control": control, "fitted_to": "" if control else fitted_to(str(at["source"]), str(at["behaviour"]))}
    kept = {"kept": _value(first, "value"), "kept_low": _value(first, "low"), "kept_high": _value(first, "high")}
    return dict(at) | told | dict(read) | kept | {name: first[name] for name in ("na_reason", "n", "groups")}


def fitted_to(source: str, behaviour: str) -> str:
    """What the directions of a source were fitted to, in words."""
    if source.startswith(LABEL):
        return source.removeprefix(LABEL).partition(":")[0]
    if source.startswith(GIVEN):
        return f"given: {source.removeprefix(GIVEN)}"
    return {"pca": "nothing (PCA)", "das": f"{behaviour}, by interchange"}.get(source, behaviour)


def steering(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    hook: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row per site, direction and dose, in standard deviations of the readout; beside each random ones as long.

    effect: bits by which the log-odds of the outcome rise that `note` names; share: of what the model writes, by how
    much the share of that outcome does; wrong: share of examples that move against the dose; unrelated: KL in bits of
    the next token of texts of something else. Each with `_low` and `_high`, and `random_` of random directions. hook:
    one site.
    """
    rows = pick(frame, behaviour=behaviour, metric="steer", position=position, control=_CONTROLS)
    rows = at_domain(rows, domain, seen=True)
    if hook is not None:
        check_known("steered hook", hook, hooks(rows, "steer"))
        rows = rows[rows["hook"] == hook]
    what = rows["arm"].str.partition(":")
    rows = rows.assign(what=what[0], dose=what[2].astype(float)) if len(rows) else rows.assign(what="", dose=0.0)
    order = {site: i for i, site in enumerate(hooks(rows, "steer"))}
    out = []
    for (site, level, source, dose), here in rows.groupby(["hook", "level", "source", "dose"], sort=False):
        own = here[here["control"] == ""]
        if own.empty:
            continue
        first = own.iloc[0]
        row = {name: first[name] for name in ("behaviour", "fit_domain", "position", "hook", "level", "source", "k")}
        row |= {"site": site_label(site), "site_order": order[site], "label": label_of(level, source, first["k"])}
        row |= {"dose": dose, "note": first["note"]}
        for before, part in (("", own), ("random_", here[here["control"] != ""])):
            for name in STEERED:
                at = next(iter(part[part["what"] == name].to_dict("records")), None)
                row |= {before + name + end: _value(at, column)
                        for end, column in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
        out.append(row | {"n": int(first["n"]), "groups": int(first["groups"])})
    table = pd.DataFrame(out)
    return table if table.empty else table.sort_values(["site_order", "level", "source", "dose"], ignore_index=True)


def roll_out(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    k: int | str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row per direction set and number of sites (`n_sites`) at which it alone is kept: the first ones, up to `site`.

    kept: FBU of the behaviour, with `_low` and `_high`; does the error compound? control: '' or `random_directions`,
    k = 0 among those. k: one of those measured, or 'all'; the middle one when left out, as everywhere.
    """
    rows = pick(frame, behaviour=behaviour, metric="replace", position=position, control=_CONTROLS, arm=ROLL_OUT)
    rows = at_domain(rows, domain, seen=True)
    order = {site: i for i, site in enumerate(hooks(rows, "replace"))}
    k = default_k(rows, "replace") if k is None else k
    if k != "all" and k is not None:
        check_known("k of roll-out", str(k), [str(n) for n in ks(rows, "replace")])
        rows = rows[~rows["level"].isin(["directions", "neurons"]) | rows["k"].isin([0, int(k)])]
    out = []
    for _, row in rows.iterrows():
        at = {name: row[name] for name in ("behaviour", "fit_domain", "position", "hook", "level", "source", "k",
                                           "control", "na_reason", "n", "groups")}  # fmt: skip
        label = label_of(row["level"], row["source"], row["k"]) if not row["control"] else (
            f"random, k={int(row['k'])}" if row["k"] else "nothing, k=0")  # fmt: skip
        at |= {"site": site_label(row["hook"]), "site_order": order[row["hook"]], "n_sites": order[row["hook"]] + 1}
        kept = {"kept": row["value"], "kept_low": row["low"], "kept_high": row["high"]}
        out.append(at | {"label": label} | kept)
    table = pd.DataFrame(out)
    return (
        table if table.empty else table.sort_values(["control", "level", "source", "k", "n_sites"], ignore_index=True)
    )


def _figures(rows: Rows, before: str) -> dict[str, float | None]:
    told = {}
    for name, arm in COLUMNS.items():
        at = rows.get(arm)
        told |= {before + name: _value(at, "value"), f"{before}{name}_low": _value(at, "low"),
                 f"{before}{name}_high": _value(at, "high")}  # fmt: skip
    return told


def _beside(learned: pd.DataFrame, at: Mapping[str, object]) -> dict[str, object]:
    """Of a learned subspace what stands beside it, and why its own exchange has no value; else nothing."""
    same = learned[(learned["hook"] == at["hook"]) & (learned["k"] == at["k"])] if at["source"] == "das" else (
        learned.iloc[:0])  # fmt: skip
    told = {name: same[(same["arm"] == arm) & (same["control"] == of)] for name, (arm, of) in BESIDE.items()}
    own = same[(same["arm"] == "iia") & (same["control"] == "")]
    why = own["na_reason"].iloc[0] if len(own) else ""
    return {name: _value(_first(rows), "value") for name, rows in told.items()} | {"interchanged_why": why}


def _first(rows: pd.DataFrame) -> Mapping[str, Any] | None:
    return rows.iloc[0].to_dict() if len(rows) else None


def _value(row: Mapping[str, Any] | None, name: str) -> float | None:
    return float(row[name]) if row is not None and pd.notna(row[name]) else None


def _all_read(frame: pd.DataFrame, replaced: pd.DataFrame) -> dict[tuple, dict]:
    """What readers leave unexplained where they were fitted, at the positions of what was replaced.

    By hook point, behaviour, control, level, source and k; of random directions without level and source.
    """
    read = lowest_seeds(frame[(frame["metric"] == "read") & (frame["floor"] == "strong")])
    read = read[read["control"].isin(_CONTROLS) & (read["fit_domain"] == read["test_domain"])]
    read = read[read["fit_domain"].isin(replaced["fit_domain"]) & read["position"].isin(replaced["position"])]
    found: dict[tuple, dict] = {}
    for row in read[read["hook"].isin(replaced["hook"])].to_dict("records"):
        whose = ("", "") if row["control"] else (row["level"], row["source"])
        found.setdefault((row["hook"], row["behaviour"], row["control"], *whose, _k(row)), row)
    return found


def _read(read: Mapping[tuple, dict], at: Mapping[str, object]) -> dict[str, float | None]:
    """What a reader of the same directions leaves unexplained of what they were fitted to."""
    source, behaviour = str(at["source"]), str(at["behaviour"])
    if source.startswith(LABEL):
        behaviour, _, source = source.removeprefix(LABEL).partition(":")
    key = (at["hook"], behaviour, "", at["level"], source or "behaviour", at["k"])
    return _interval(None if at["k"] is None else read.get(key))


def _read_random(read: Mapping[tuple, dict], at: Mapping[str, object]) -> dict[str, float | None]:
    """What a reader of random directions of equal k leaves unexplained of the behaviour."""
    return _interval(read.get((at["hook"], at["behaviour"], "random_directions", "", "", at["k"])))


def _interval(row: Mapping[str, Any] | None) -> dict[str, float | None]:
    return {"read": _value(row, "value"), "read_low": _value(row, "low"), "read_high": _value(row, "high")}


def label_of(level: str, source: str, k: object) -> str:
    """`directions of truth, k=1`, `direction (lda) of truth`, `mine, k=3`, `PCA, k=4`."""
    at_k = "" if level == "direction" or pd.isna(k) else f", k={int(k)}"
    if source == "pca":
        return f"PCA{at_k}"
    if source.startswith(GIVEN):
        return f"{source.removeprefix(GIVEN)}{at_k}"
    of, how = "", source
    if source.startswith(LABEL):
        name, _, how = source.removeprefix(LABEL).partition(":")
        of = f" of {name}"
    named = level == "direction" or source == "das" or level.startswith("hypothesis:")
    return vocabulary(level, how if named else "") + of + at_k


def default_site(frame: pd.DataFrame, behaviour: str | None = None, metric: str = "replace") -> str:
    """The replaced or steered site that selection rows prefer for reading, or the middle one of those."""
    rows = frame[frame["behaviour"] == (behaviour or default_behaviour(frame))]
    edited = hooks(rows[rows["arm"] != ROLL_OUT], metric)
    chosen = rows[(rows["metric"] == "selected") & (rows["level"] == "linear")]["hook"]
    preferred = [hook for hook in chosen if hook in edited]
    return preferred[0] if preferred else edited[len(edited) // 2] if edited else ""
