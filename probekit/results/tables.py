"""Tables: what a run found, as plain frames. Pure functions from the frame of records to a frame that a figure, a page,
a terminal or a spreadsheet shows.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from probekit.hookpoint import HookPoint
from probekit.metrics.bootstrap import FEW_CLUSTERS
from probekit.results.causal import causal, read_against_replace, roll_out, steering
from probekit.results.examples import KINDS as ROW_KINDS
from probekit.results.examples import KeepsRows, rows_table
from probekit.results.parts import composition
from probekit.results.sampled import sampled
from probekit.results.selection import (
    FEATURE,
    ORDERS,
    REPLACE_ARMS,
    TRANSFER_ARMS,
    at_arm,
    at_domain,
    at_k,
    at_position,
    behaviours,
    check_known,
    check_one_run,
    check_selection,
    default_behaviour,
    hooks,
    level_rank,
    levels,
    lowest_seeds,
    na_words,
    one_domain,
    one_level,
    pick,
    positions,
    shown_k,
    site_label,
    unembedding,
    vocabulary,
)

_FIGURES = ["value", "low", "high", "na_reason", "bits", "floor_bits", "ceiling_bits", "p99_bits", "worst_group", "n",
            "groups", "n_fit", "falls", "falls_low", "falls_high", "auroc", "accuracy", "r2", "note", "id"]  # fmt: skip
_USUAL = ("auroc", "accuracy", "r2")  # what papers report of a probe
TOGETHER = ("band_low", "band_high", "p_max")  # of a level's curve over all hook points, where the run has them
_WHERE = ["behaviour", "fit_domain", "test_domain", "hook", "layer", "site", "level", "source", "k", "label"]


def leak(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    metric: str = "read",
    arm: str | None = None,
    floor: str = "strong",
    position: str | None = None,
    control: str = "",
) -> pd.DataFrame:
    """One row per hook, level and k in the seen domain: FBU, interval and the absolute bits behind it.

    auroc, accuracy, r2: of a reader that is told nothing of the input but its position, as published probes are, where
    the run has the weak floor; else of the reader beside the floor.
    """
    rows = pick(frame, behaviour=behaviour, metric=metric, floor=floor, position=position, control=control)
    rows = at_domain(rows, domain, seen=True)
    rows = rows[rows["arm"] == at_arm(rows, arm)] if metric == "replace" else rows
    if metric == "read" and floor == "strong":
        weak = pick(frame, behaviour=behaviour, metric=metric, floor="weak", position=position, control=control)
        rows = _alone(rows, weak)
    return _tidy(rows)


def _alone(rows: pd.DataFrame, weak: pd.DataFrame) -> pd.DataFrame:
    """The rows with AUROC, accuracy and R2 of the same readers beside the weak floor, where these were measured."""
    known = (weak["level"] != "baseline") & (weak["fit_domain"] == weak["test_domain"])
    known &= weak["accuracy"].notna() | weak["r2"].notna()
    keys = ["fit_domain", "hook", "level", "source", "k"]
    told = weak[known].drop_duplicates(keys)[[*keys, *_USUAL]]
    if told.empty:
        return rows
    both = rows.merge(told, how="left", on=keys, suffixes=("", "_alone")).set_index(rows.index)
    found = both["accuracy_alone"].notna() | both["r2_alone"].notna()
    return rows.assign(**{name: both[f"{name}_alone"].where(found, both[name]) for name in _USUAL})


def leak_map(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    metric: str = "read",
    arm: str | None = None,
    floor: str = "strong",
    position: str | None = None,
    k: int | str | None = None,
    control: str = "",
) -> pd.DataFrame:
    """The rows of `leak` with one column label per level: the levels that have a k at one k, or at all with k="all".

    arm: of replace, one site at a time, from donors that are alike where that was measured, when left out.
    """
    if metric == "replace" and arm is None:
        there = [one for one in REPLACE_ARMS if one.startswith("single:") and (frame["arm"] == one).any()]
        preferred = ("single:matched", "single:random", *there)
        arm = next((one for one in preferred if one in there), None)
    rows = leak(
        frame,
        behaviour=behaviour,
        domain=domain,
        metric=metric,
        arm=arm,
        floor=floor,
        position=position,
        control=control,
    )
    rows = at_k(rows, shown_k(frame, rows, metric) if k is None else k)
    return rows[rows["hook"] != ""].reset_index(drop=True)


def replace_map(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    arm: str | None = None,
    position: str | None = None,
    k: int | str | None = None,
) -> pd.DataFrame:
    """What is unexplained when only the abstraction is kept: one site at a time and, as "all sites", in the chain.

    arm: where donors come from, `matched` or `random`, with or without the place (`single:matched`); matched when left
    out. Beside each kept subspace stand random directions of the same k and k = 0, nothing kept, which is the same
    under every choice of donors and so taken from `random` where `matched` has none.
    """
    rows = pick(frame, behaviour=behaviour, metric="replace", position=position, control=("", "random_directions"))
    rows = at_domain(rows, domain, seen=True)
    how = at_arm(rows, arm if arm is None or ":" in arm else _arm_of(rows, arm)).partition(":")[2]
    mine = rows[rows["arm"].isin([f"single:{how}", f"chain:{how}"])]
    nothing = rows[(rows["k"] == 0) & (rows["control"] != "") & rows["arm"].isin(["single:random", "chain:random"])]
    both: list[pd.DataFrame] = [mine[~mine.index.isin(nothing.index)], nothing]
    tidy = _tidy(pd.concat(both) if len(nothing) else mine)
    beside = (tidy["k"] == 0) & (tidy["control"] != "")
    chosen = at_k(tidy[~beside], shown_k(frame, mine, "replace") if k is None else k)
    shown: list[pd.DataFrame] = [chosen, tidy.loc[beside]]
    found = pd.concat(shown) if beside.any() else chosen
    found["site_order"] = found["site_order"].where(found["hook"] != "", len(tidy))  # the chain below its sites
    return found.sort_values(["site_order", "level_order", "source", "k"], ignore_index=True)


def _arm_of(rows: pd.DataFrame, how: str) -> str:
    """The arm that was measured with donors drawn in this way."""
    return next((arm for arm in rows["arm"].unique() if arm.partition(":")[2] == how), how)


def decomposition(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    arm: str = "linear_first",
    position: str | None = None,
) -> pd.DataFrame:
    """Shares of the explainable bits per site and class, in the order in which `arm` adds them. They sum to 1."""
    check_known("order", arm, ORDERS)
    rows = pick(frame, behaviour=behaviour, metric="decomposition", position=position, arm=arm)
    tidy = _tidy(at_domain(rows, domain, seen=True))
    first = ["direction", "directions", "linear" if arm == "linear_first" else "simple:"]

    def rank(level: str) -> tuple[int, tuple[int, str]]:
        family = "simple:" if level.startswith("simple:") else level
        return first.index(family) if family in first else len(first), level_rank(level)

    tidy["label"] = [_SHARES.get(level, vocabulary(level)) for level in tidy["level"]]
    # Half the width of a 95 % interval is two standard errors; only a clearly negative share says something is wrong.
    tidy["flag"] = tidy["value"] < -(tidy["high"] - tidy["low"]) / 2
    tidy["class_order"] = tidy["level"].map({level: i for i, level in enumerate(sorted(set(tidy["level"]), key=rank))})
    return tidy.sort_values(["site_order", "class_order"], ignore_index=True)


_SHARES = {"direction": "one direction", "directions": "k directions", "linear": "linear in all of it",
           "nonlinear": "nonlinear in all of it", "absent": "not at this site"}  # fmt: skip


def frontier(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    arm: str | None = None,
    hook: str | None = None,
    floor: str = "strong",
    position: str | None = None,
) -> pd.DataFrame:
    """FBU against k per vocabulary, with `situation` (seen, unseen), `metric` (replace, read) and `control`.

    Unseen is the plain mean over the other domains, with the outermost limits as its interval. For a single-site arm
    `hook` defaults to the middle site in forward order. The read rows are those of the same hook, seen domain
    only, the random twin's beside them; of a chain those of the last site before the unembedding's.
    """
    rows = pick(frame, behaviour=behaviour, metric=("replace", "read"), floor=floor, position=position, control=None)
    replace = rows[rows["metric"] == "replace"]
    arm = at_arm(replace, arm)
    replace = replace[replace["arm"] == arm]
    sites = hooks(replace, "replace")
    if arm.startswith("chain"):
        named = behaviour or default_behaviour(frame)
        known = [one for one in hooks(rows, "read") if one != unembedding(frame, named)] or hooks(rows, "read")
        read_hook = hook or (known or [None])[-1]
    else:
        if hook is not None:
            check_known("hook", hook, sites or hooks(rows, "read"))
        read_hook = hook or (sites[len(sites) // 2] if sites else None)
        replace = replace[replace["hook"] == (read_hook or "")]
    fitted = one_domain(replace if len(replace) else rows, domain)
    replace = replace[replace["fit_domain"] == fitted]
    read = rows[(rows["metric"] == "read") & (rows["hook"] == read_hook) & ~rows["level"].isin(["prior", "baseline"])]
    read = read[(read["fit_domain"] == fitted) & (read["test_domain"] == fitted)]
    read = read[read["control"].isin(["", "random_twin"])]
    seen = replace[replace["test_domain"] == fitted].assign(situation="seen")
    far = _mean_over_domains(replace[replace["test_domain"] != fitted]).assign(situation="unseen")
    tidy = _tidy(pd.concat([part for part in (seen, far, read.assign(situation="seen")) if len(part)] or [seen]))
    tidy["vocabulary"] = [vocabulary(*pair) for pair in zip(tidy["level"], tidy["source"], strict=True)]
    return tidy.sort_values(["metric", "level_order", "source", "situation", "k"], ignore_index=True)


def layer_curves(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    metric: str = "read",
    arm: str | None = None,
    floor: str = "strong",
    position: str | None = None,
    k: int | str | None = None,
    level: Sequence[str] | str | None = None,
) -> pd.DataFrame:
    """FBU by site, one curve per level at one k, and the controls of those levels (`control` not empty).

    band_low, band_high: the 95 % band of a whole curve at once; p_max: the chance under permutation of a gain this
    large at any site. Missing where the run did not ask for them.
    """
    rows = pick(frame, behaviour=behaviour, metric=metric, floor=floor, position=position, control=None)
    rows = at_domain(rows, domain, seen=True)
    rows = rows[rows["arm"] == at_arm(rows, arm)] if metric == "replace" else rows
    if level is not None:
        wanted = [level] if isinstance(level, str) else list(level)
        for name in wanted:
            check_known("level", name, levels(rows, metric))
        rows = rows[rows["level"].isin(wanted)]
    rows = rows.assign(**{name: float("nan") for name in TOGETHER if name not in rows})
    tidy = at_k(_tidy(rows[rows["hook"] != ""], TOGETHER), shown_k(frame, rows, metric) if k is None else k)
    return tidy.sort_values(["control", "level_order", "source", "site_order"], ignore_index=True)


def transfer_matrix(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    arm: str = "refit",
    hook: str | None = None,
    level: str | None = None,
    position: str | None = None,
) -> pd.DataFrame:
    """T from every domain to every domain, for one level at one hook (the middle one unless said)."""
    check_known("transfer arm", arm, TRANSFER_ARMS)
    rows = pick(frame, behaviour=behaviour, metric="transfer", position=position, arm=arm)
    sites = hooks(rows, "transfer")
    if hook is not None:
        check_known("hook", hook, sites)
    hook = hook or (sites[len(sites) // 2] if sites else "")
    rows = rows[rows["hook"] == hook]
    found = levels(rows, "transfer")
    if level is not None:
        check_known("level", level, found)
    return _tidy(rows[rows["level"] == (level or (found[-1] if found else ""))])


def crossing(frame: pd.DataFrame, *, behaviour: str | None = None, position: str | None = None) -> pd.DataFrame:
    """Does the coarser level lose where both were fitted and win elsewhere? Differences in bits per example."""
    return _tidy(pick(frame, behaviour=behaviour, metric="crossing", position=position))


def ontology(frame: pd.DataFrame, *, domain: str | None = None, position: str | None = None) -> pd.DataFrame:
    """Accuracy of linear and nonlinear readers of each named feature, by site, with the control network's."""
    check_one_run(frame)
    rows = frame[(frame["metric"] == "accuracy") & frame["behaviour"].str.startswith(FEATURE)]
    rows = at_domain(at_position(lowest_seeds(rows), position), domain, seen=True)
    tidy = _tidy(rows)
    tidy["feature"] = tidy["behaviour"].str.removeprefix(FEATURE)
    return tidy.sort_values(["control", "feature", "level_order", "site_order"], ignore_index=True)


def by_position(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    floor: str = "strong",
    level: str | None = None,
    k: int | None = None,
) -> pd.DataFrame:
    """FBU by site of one level at every rule of positions: the same groups are tested at each, so curves compare."""
    behaviour = behaviour or default_behaviour(frame)
    parts = [_tidy(frame.head(0))]
    for name in positions(frame, behaviour):
        rows = pick(frame, behaviour=behaviour, metric="read", floor=floor, position=name)
        rows = at_domain(rows[rows["level"] == one_level(rows, level, levels(rows))], domain, seen=True)
        tidy = at_k(_tidy(rows), shown_k(frame, rows) if k is None else k)
        parts.append(tidy.drop_duplicates("site"))  # one source of it, the first
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def floor_switch(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    level: str | None = None,
    position: str | None = None,
) -> pd.DataFrame:
    """FBU by site of one level on the strong floor and on the weak one: what a weak floor would have claimed."""
    rows = pick(frame, behaviour=behaviour, metric="read", floor=None, position=position)
    both = [name for name in levels(rows) if rows.loc[rows["level"] == name, "floor"].nunique() == 2]
    level = one_level(rows, level, both)
    tidy = _tidy(at_domain(rows[rows["level"] == level], domain, seen=True))
    first = tidy.drop_duplicates(["floor", "site"])  # one source and k of it, the first
    return first.sort_values(["floor", "site_order"], ignore_index=True)


def group_leakage(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> pd.DataFrame:
    """By site, what a split by row would have claimed beyond whole groups: `gap` = FBU by group less FBU by row.

    The hack index of docs/method.md section 7.1. Rows as measured by whole groups, with `value_by_row` and `gap`; sites
    and levels that have no `row_split` control are left out.
    """
    rows = pick(frame, behaviour=behaviour, metric="read", position=position, control=None)
    rows = at_domain(rows, domain, seen=True)
    same = ["hook", "level", "source", "k"]
    by_row = rows.loc[rows["control"] == "row_split", [*same, "value"]].rename(columns={"value": "value_by_row"})
    tidy = _tidy(rows[rows["control"] == ""]).merge(by_row.drop_duplicates(same), on=same, how="inner")
    tidy["gap"] = tidy["value"] - tidy["value_by_row"]
    return tidy.sort_values(["site_order", "level_order"], ignore_index=True)


def deletion(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> pd.DataFrame:
    """What each reader fitted in a domain leaves on whole texts and with a span deleted: `whole`, `value`, and `fall`.

    One row per behaviour (all of them when none is named), hook point, level, floor and span, FBU of where it was
    fitted, and for each other domain and arm (metric `transfer`) its T there; `auroc_whole` and `auroc` where they were
    measured.
    """
    selection = {"metric": ("read", "auroc", "transfer"), "floor": None, "control": None, "position": position}
    names = [behaviour] if behaviour else behaviours(frame) or [None]
    picked = [pick(frame, behaviour=name, **selection) for name in names]
    found = pd.concat([one[one["fit_domain"] == one_domain(one, domain)] for one in picked])
    found = found[(found["metric"] == "transfer") | (found["test_domain"] == found["fit_domain"])]
    keys = ["behaviour", "arm", "test_domain", "hook", "level", "source", "k", "floor"]
    known = {_key(key): figures for *key, figures in zip(
        found["metric"], *(found[name] for name in keys), found["control"],
        zip(found["value"], found["bits"], strict=True), strict=True)}  # fmt: skip

    def of(row: pd.Series, metric: str, control: str) -> tuple[float, float]:
        nothing = (float("nan"), float("nan"))
        if (metric, control, row["level"], row["floor"]) == ("read", "", "baseline", "strong"):
            nothing = (float("nan") if pd.isna(row["value"]) else 1.0, row["floor_bits"])  # by definition, read or not
        return known.get(_key((metric, *(row[name] for name in keys), control)), nothing)

    tidy = _tidy(found[found["metric"] != "auroc"])
    tidy = tidy.loc[tidy["control"].str.startswith("deleted:")].reset_index(drop=True)
    each = [row for _, row in tidy.iterrows()]
    tidy["span"] = tidy["control"].str.removeprefix("deleted:")
    tidy["whole"] = [of(row, row["metric"], "")[0] for row in each]
    tidy["bits_whole"] = [of(row, row["metric"], "")[1] for row in each]
    tidy["fall"] = tidy["value"].astype(float) - tidy["whole"].astype(float)
    # Stored as a leak on a base of 1/2.
    tidy["auroc_whole"] = [1 - of(row, "auroc", "")[0] / 2 for row in each]
    tidy["auroc"] = [1 - of(row, "auroc", row["control"])[0] / 2 for row in each]
    tidy["behaviour_order"] = tidy["behaviour"].map({name: i for i, name in enumerate(names)})
    order = ["behaviour_order", "span", "metric", "test_domain", "arm", "floor", "level_order", "site_order"]
    return tidy.sort_values(order, ignore_index=True).drop(columns="behaviour_order")


def _key(parts: Any) -> tuple:
    """A row's coordinates with one kind of missing value, which is equal to itself."""
    return tuple(None if pd.isna(part) else part for part in parts)


def layers(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    level: str = "linear",
    k: int | None = None,
    position: str | None = None,
) -> pd.DataFrame:
    """One row per site for one level, with what papers report beside FBU: AUROC and accuracy, the floor's own included.

    floor_auroc, floor_accuracy: of the input alone, on the same test rows. n_fit: rows that it was fitted on. falls:
    how much more it left unexplained when fitted on half of the groups. mark: why a value is NA, or what it must be
    read with.
    """
    rows = leak(frame, behaviour=behaviour, domain=domain, position=position)
    last = unembedding(frame, behaviour or default_behaviour(frame))
    floors = rows[rows["level"] == "baseline"].set_index("hook")
    if len(rows):
        check_known("level", level, [name for name in rows["level"].unique() if name not in ("prior", "baseline")])
    rows = rows[rows["level"] == level]
    rows = at_k(rows, shown_k(frame, rows) if k is None else k).drop_duplicates("hook").reset_index(drop=True)
    for name in _USUAL:
        rows[f"floor_{name}"] = rows["hook"].map(floors[name]) if len(floors) else float("nan")
    rows["mark"] = [_mark(row, row["hook"] == last and level == "linear") for _, row in rows.iterrows()]
    columns = ["site", "value", "low", "high", *_USUAL, *(f"floor_{name}" for name in _USUAL), "bits", "floor_bits",
               "ceiling_bits", "falls", "falls_low", "falls_high", "n_fit", "n", "groups", "mark",
               "level", "k", "behaviour", "position", "hook"]  # fmt: skip
    return rows[columns]


def spread(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> pd.DataFrame:
    """How much values of the seen domain move between splits of the rows (`repeats`): a row per site and reader.

    splits: how many have a value; mean, sd, lowest and highest of them. Splits share their rows, so that sd is smaller
    than that over new rows, which the interval is of.
    """
    check_one_run(frame)
    if behaviour is not None:
        check_known("behaviour", behaviour, list(frame["behaviour"].unique()))
    behaviour = behaviour or default_behaviour(frame)
    rows = frame[(frame["behaviour"] == behaviour) & (frame["metric"] == "read") & (frame["control"] == "")]
    rows = at_domain(at_position(rows[rows["floor"] == "strong"], position), domain, seen=True)
    rows = rows[~rows["level"].isin(["prior", "baseline"]) & rows["value"].notna()]
    keys = ["hook", "level", "source", "k"]
    found = rows.assign(k=rows["k"].fillna(-1)).groupby(keys, sort=False)["value"]
    told = found.agg(splits="size", mean="mean", sd="std", lowest="min", highest="max").reset_index()
    first = _tidy(lowest_seeds(rows))[["site", "label", "value", *keys]]
    first["k"] = first["k"].fillna(-1)
    both = first.merge(told[told["splits"] > 1], on=keys)
    return both.drop(columns="k").assign(k=both["k"].where(both["k"] >= 0).astype("Int64"))


def _mark(row: pd.Series, at_last: bool) -> str:
    if pd.isna(row["value"]):
        return f"NA: {na_words(row['na_reason'])}"
    few = 0 < row["groups"] < FEW_CLUSTERS
    return "; ".join(
        filter(None, ["the unembedding" if at_last else "", f"only {row['groups']} groups" if few else ""])
    )


# What a control says where it stands beside a cell: near 1 there is nothing to find but what the cell found.
NULLS = ("random_twin", "random_directions", "permuted_in_group", "permuted_groups", "control_task")


_LADDER = ("direction", "directions", "neurons")  # beside which random directions of the same k stand


def controls_of(frame: pd.DataFrame, cell: pd.Series) -> pd.DataFrame:
    """The controls of one cell: of its level, k and arm at its site; of a set of directions also random ones.

    cell: a row of `leak_map`. A hypothesis and a simple function have those of their own level only.
    """
    same = ("metric", "behaviour", "hook", "fit_domain", "test_domain", "floor", "position", "arm")
    rows = frame[frame["control"] != ""]
    for name in same:
        rows = rows[rows[name] == cell[name]]
    rows = lowest_seeds(rows)
    drawn = (rows["control"] == "random_directions") & (cell["level"] in _LADDER)
    own = (rows["level"] == cell["level"]) & rows["source"].isin(["", cell["source"]])
    of_k = rows["k"].isna() if pd.isna(cell["k"]) else rows["k"].isna() | (rows["k"] == cell["k"])
    return _tidy(rows[(own | drawn) & of_k])


def like_control(frame: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """Ids of the cells whose interval reaches that of a control which finds nothing where there is nothing.

    cells: rows of `leak_map` with values, of one behaviour, domain and position.
    """
    if cells.empty:
        return []
    first = cells.iloc[0]
    rows = frame[frame["control"].isin(NULLS) & frame["low"].notna()]
    for name in ("metric", "behaviour", "fit_domain", "test_domain", "floor", "position", "arm"):
        rows = rows[rows[name] == first[name]]
    least: dict[tuple, float] = {}  # of each reader, the lowest limit that a control of it has
    for hook, level, source, k, control, low in lowest_seeds(rows)[
        ["hook", "level", "source", "k", "control", "low"]
    ].itertuples(index=False):
        drawn = control == "random_directions"
        key = (hook, "drawn" if drawn else level, "" if drawn else source, None if pd.isna(k) else int(k))
        least[key] = min(low, least.get(key, low))
    found = []
    for row in cells[cells["high"].notna()].to_dict("records"):
        ks = {None, None if pd.isna(row["k"]) else int(row["k"])}
        beside = [least.get((row["hook"], row["level"], source, k)) for source in {"", row["source"]} for k in ks]
        if row["level"] in _LADDER:
            beside += [least.get((row["hook"], "drawn", "", k)) for k in ks]
        if any(low is not None and low <= row["high"] for low in beside):
            found.append(str(row["id"]))
    return found


def provenance(frame: pd.DataFrame) -> pd.DataFrame:
    """Section, key and value of everything in the manifest that `frame` was read with; values as text."""
    manifest = frame.attrs.get("manifest") or {}
    rows: list[tuple[str, str, str]] = []
    for key in ("run", "schema_version", "spec_hash", "digest", "n_records", "n_losses"):
        if key in manifest:
            rows.append(("run", key, str(manifest[key])))
    cells = manifest.get("cells", {})
    rows += [("cells", key, str(cells[key])) for key in ("total", "ok", "torn_lines") if key in cells]
    rows += [("failed cells", str(cell["cell"]), str(cell["error"])) for cell in cells.get("failed", [])]
    rows += [("files", name, f"{entry['bytes']} bytes, sha256 {entry['sha256']}")
             for name, entry in manifest.get("files", {}).items()]  # fmt: skip
    for section in ("spec", "provenance"):
        rows += [(section, path, text) for path, text in _leaves(manifest.get(section, {}))]
    return pd.DataFrame(rows, columns=["section", "key", "value"])


def extraction(frame: pd.DataFrame) -> str:
    """The extraction audit of a run in one line; empty where nothing was extracted from a model."""
    audit = ((frame.attrs.get("manifest") or {}).get("provenance") or {}).get("audit") or {}
    if not isinstance(audit, dict) or "backend_parity" not in audit:
        return ""
    parity, limit, hidden = audit["backend_parity"], audit["backend_parity_limit"], audit["hf_parity"]
    cut = (audit.get("task") or {}).get("n_truncated")
    parts = [
        f"{audit['backend']} ({audit['attention']}, {'/'.join(audit['dtypes'])})",
        "" if parity is None else f"bridge and plain forward {parity:.1g} apart ({limit:.0e} allowed)",
        "" if hidden is None else f"hidden states {hidden:.1g} away",
        f"batch against single {audit['invariance']:.1g} ({audit['invariance_limit']:.1g} allowed)",
        f"{audit['n_hooks_fired_once']} hooks fired once",
        f"{audit['n_not_finite']} values not finite",
        f"{audit['n_sequences']:,} sequences, {audit['n_at_context_limit']} at the context limit",
        "" if cut is None else f"{cut} truncated",
        "" if audit["n_without_bos"] is None else f"{audit['n_without_bos']} without BOS",
        "" if audit["n_with_two_bos"] is None else f"{audit['n_with_two_bos']} with two",
    ]
    return "extraction: " + "; ".join(filter(None, parts))


KINDS: Mapping[str, Callable[..., pd.DataFrame]] = {
    "leak": leak, "leak_map": leak_map, "replace_map": replace_map, "decomposition": decomposition,
    "frontier": frontier, "layer_curves": layer_curves, "transfer_matrix": transfer_matrix, "crossing": crossing,
    "ontology": ontology, "by_position": by_position, "floor_switch": floor_switch, "group_leakage": group_leakage,
    "causal": causal, "read_against_replace": read_against_replace, "steering": steering, "roll_out": roll_out,
    "composition": composition, "deletion": deletion, "layers": layers, "spread": spread, "provenance": provenance,
    "sampled": sampled,
}  # fmt: skip


def table(kind: str, frame: "pd.DataFrame | KeepsRows", **selection: Any) -> pd.DataFrame:
    """A table by name, as a frame.

    kind: a key of KINDS: leak_map, frontier, decomposition, layer_curves, transfer, deletion, by_position ... frame:
    records, or a run as `open_run` opens it, which the tables of single rows need: examples, counterexamples, plausible
    and plausible_rates. selection: behaviour, domain, position, metric, k, hook, level, arm, as far as the table has
    them. Raises BadInput that names the nearest for an unknown kind or selection.

    >>> import probekit as pk
    >>> leak = pk.table("leak_map", pk.read_run("runs/othello"), behaviour="next_move")
    >>> {"site", "label", "value", "low", "high", "floor_bits"} <= set(leak.columns)
    True
    """
    check_known("table", kind, (*KINDS, *ROW_KINDS))
    if kind in ROW_KINDS:
        return rows_table(kind, frame, **selection)
    frame = frame if isinstance(frame, pd.DataFrame) else frame.records
    check_selection(kind, KINDS[kind], selection)
    return KINDS[kind](frame, **selection)


def _tidy(rows: pd.DataFrame, more: Sequence[str] = ()) -> pd.DataFrame:
    """Rows in forward order with `site`, `site_order`, `level_order`, `label` (level, source if needed) and `more`."""
    rows = rows.copy()
    sites = sorted(rows["hook"].unique(), key=lambda hook: HookPoint.parse(hook).order)
    steps = sorted(rows["level"].unique(), key=level_rank)
    rows["site"] = rows["hook"].map({hook: site_label(hook) for hook in sites})
    rows["site_order"] = rows["hook"].map({hook: i for i, hook in enumerate(sites)})
    rows["level_order"] = rows["level"].map({level: i for i, level in enumerate(steps)})
    plain = rows[rows["source"] != ""]  # what is NA for want of a fit names none
    plain = plain[plain["control"] == ""] if "control" in rows else plain
    ambiguous = {level for level, group in plain.groupby("level") if group["source"].nunique() > 1}
    rows["label"] = [
        vocabulary(level, source if level in ambiguous else "")
        for level, source in zip(rows["level"], rows["source"], strict=True)
    ]
    extra = [
        name for name in ("metric", "arm", "control", "floor", "situation", "parameters", "position") if name in rows
    ]
    columns = [*_WHERE, *extra, *_FIGURES, *more, "site_order", "level_order"]
    return rows.sort_values(["site_order", "level_order", "source", "k"], ignore_index=True)[columns]


def _mean_over_domains(rows: pd.DataFrame) -> pd.DataFrame:
    """Plain mean of each figure over test domains; the interval spans them, since domains are few and no sample."""
    if rows.empty:
        return rows
    keys = ["hook", "level", "source", "control", "arm"]
    made = []
    for _, group in rows.groupby([*keys, rows["k"].fillna(-1)], sort=False):
        row = group.iloc[0].copy()
        for name in ("value", "bits", "floor_bits", "ceiling_bits"):
            row[name] = group[name].mean()
        row["low"], row["high"], row["n"] = group["low"].min(), group["high"].max(), group["n"].sum()
        row["test_domain"] = ", ".join(group["test_domain"].unique())
        row["id"] = group["id"].iloc[0] if len(group) == 1 else ""
        row["na_reason"] = "" if pd.notna(row["value"]) else row["na_reason"]
        made.append(row)
    return pd.DataFrame(made).astype(rows.dtypes.to_dict())


def _leaves(value: object, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [leaf for i, item in enumerate(value) for leaf in _leaves(item, f"{path}[{i}]")]
    return [(path, ", ".join(map(str, value)) if isinstance(value, list) else str(value))]
