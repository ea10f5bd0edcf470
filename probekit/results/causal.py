"""What a model runs on: every direction set kept, erased and added in doses, beside nothing kept, random directions and
what is read of it.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
}  # fmt: skip
ROLL_OUT = "roll_out"
STEERED = ("effect", "wrong", "unrelated")
_CONTROLS = ("", "random_directions")


@dataclass(frozen=True)
class _Set:
    """One direction set at one replaced site: its own records, those of random directions of equal k, and of k = 0."""

    at: Mapping[str, object]
    own: pd.DataFrame
    random: pd.DataFrame
    nothing: pd.DataFrame


def _sets(rows: pd.DataFrame) -> Iterator[_Set]:
    """Every direction set of the sites in forward order, levels from the poorest to the richest."""
    order = {hook: i for i, hook in enumerate(hooks(rows, "replace"))}
    for site, i in order.items():
        here = rows[rows["hook"] == site]
        control, own = here[here["control"] != ""], here[here["control"] == ""]
        names = own[["level", "source", "k"]].drop_duplicates().itertuples(index=False)
        for level, source, k in sorted(names, key=lambda name: (level_rank(name[0]), name[1], _rank(name[2]))):
            of_k = own["k"].isna() if pd.isna(k) else own["k"] == k
            at = {
                "behaviour": here["behaviour"].iloc[0], "fit_domain": here["fit_domain"].iloc[0],
                "position": here["position"].iloc[0], "hook": site, "site": site_label(site), "site_order": i,
                "level": level, "source": source, "k": None if pd.isna(k) else int(k),
                "label": label_of(level, source, k),
            }  # fmt: skip
            mine = own[(own["level"] == level) & (own["source"] == source) & of_k]
            yield _Set(at, mine, control[control["k"] == k], control[control["k"] == 0])


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
        row["nothing"] = _value(one.nothing[one.nothing["arm"] == "single:random"], "value")
        out.append(row | {"n": int(one.own["n"].max()), "groups": int(one.own["groups"].max())})
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
        for control in (one.random, one.nothing):
            for k in control["k"].unique():
                if (site, k) not in told:
                    told.add((site, k))
                    label = f"random, k={int(k)}" if k else "nothing, k=0"
                    at = dict(one.at) | {"level": "directions", "source": "random", "k": int(k), "label": label}
                    floor = {"read": 1.0, "read_low": None, "read_high": None}
                    out.append(_point(control, "random_directions", at, _read_random(read, at) if k else floor))
    return pd.DataFrame(out)


def _point(
    rows: pd.DataFrame, control: str, at: Mapping[str, object], read: Mapping[str, float | None]
) -> dict[str, object]:
    first = rows.iloc[0]
    told = {"control": control, "fitted_to": "" if control else fitted_to(str(at["source"]), str(at["behaviour"]))}
    kept = {"kept": _value(rows, "value"), "kept_low": _value(rows, "low"), "kept_high": _value(rows, "high")}
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

    effect: bits by which the log-odds of the outcome rise that `note` names; wrong: share of examples that move against
    the dose; unrelated: KL in bits of the next token of texts of something else. Each with `_low` and `_high`, and
    `random_` of random directions. hook: one site.
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
                at = part[part["what"] == name]
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


def _figures(rows: pd.DataFrame, before: str) -> dict[str, float | None]:
    told = {}
    for name, arm in COLUMNS.items():
        at = rows[rows["arm"] == arm]
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
    return {name: _value(rows, "value") for name, rows in told.items()} | {"interchanged_why": why}


def _value(rows: pd.DataFrame, name: str) -> float | None:
    return float(rows[name].iloc[0]) if len(rows) and pd.notna(rows[name].iloc[0]) else None


def _all_read(frame: pd.DataFrame, replaced: pd.DataFrame) -> pd.DataFrame:
    """What readers leave unexplained where they were fitted, at the positions of what was replaced."""
    read = lowest_seeds(frame[(frame["metric"] == "read") & (frame["floor"] == "strong")])
    read = read[read["control"].isin(_CONTROLS) & (read["fit_domain"] == read["test_domain"])]
    return read[read["fit_domain"].isin(replaced["fit_domain"]) & read["position"].isin(replaced["position"])]


def _read(read: pd.DataFrame, at: Mapping[str, object]) -> dict[str, float | None]:
    """What a reader of the same directions leaves unexplained of what they were fitted to."""
    source, behaviour = str(at["source"]), str(at["behaviour"])
    if source.startswith(LABEL):
        behaviour, _, source = source.removeprefix(LABEL).partition(":")
    here = read[(read["hook"] == at["hook"]) & (read["behaviour"] == behaviour) & (read["level"] == at["level"])]
    here = here[(here["control"] == "") & (here["source"] == (source or "behaviour")) & (here["k"] == at["k"])]
    return _interval(here)


def _read_random(read: pd.DataFrame, at: Mapping[str, object]) -> dict[str, float | None]:
    """What a reader of random directions of equal k leaves unexplained of the behaviour."""
    here = read[(read["hook"] == at["hook"]) & (read["behaviour"] == at["behaviour"]) & (read["k"] == at["k"])]
    return _interval(here[here["control"] == "random_directions"])


def _interval(rows: pd.DataFrame) -> dict[str, float | None]:
    return {"read": _value(rows, "value"), "read_low": _value(rows, "low"), "read_high": _value(rows, "high")}


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
