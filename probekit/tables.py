"""Tables: what a run found, as plain frames. Pure functions from the frame of records to a frame that a figure, a page,
a terminal or a spreadsheet shows.

Every function takes the frame that `read_run` returns and a selection. What is not selected is taken by one rule, the
same everywhere: the first behaviour that has any value (`deletion` lists all), its first domain, the position "all"
(else the first), the lowest seeds. Nothing here picks by how large a value is: that would be selecting on the test set.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd

from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.records import ARMS, LEVELS

if TYPE_CHECKING:
    from rich.table import Table

ORDERS = ("linear_first", "simple_first")
TRANSFER_ARMS = ("refit", "raw", "platt50")
REPLACE_ARMS = tuple(arm for arm in ARMS if arm.startswith(("single:", "chain:")))
_FEATURE = "feature:"
_LEVEL_ORDER = (
    "prior", "baseline", "neurons", "direction", "directions", "simple:", "linear", "nonlinear", "hypothesis:",
    "absent",
)  # fmt: skip
_FIGURES = ["value", "low", "high", "na_reason", "bits", "floor_bits", "ceiling_bits", "p99_bits", "worst_group", "n",
            "groups", "note", "id"]  # fmt: skip
TOGETHER = ("band_low", "band_high", "p_max")  # of a level's curve over all hook points, where the run has them
_WHERE = ["behaviour", "fit_domain", "test_domain", "hook", "layer", "site", "level", "source", "k", "label"]


# ------------------------------------------------------------------------------------------------- what there is to see


def behaviours(frame: pd.DataFrame) -> list[str]:
    """The behaviours measured, in the order written; features read as targets are left out."""
    return [name for name in frame["behaviour"].unique() if not name.startswith(_FEATURE)]


def default_behaviour(frame: pd.DataFrame) -> str:
    """The first behaviour with a value, so that one with nothing to explain hides no other; else the first, else ""."""
    valued = behaviours(frame[frame["value"].notna() & (frame["control"] == "")])
    return next(iter(valued or behaviours(frame)), "")


def domains(frame: pd.DataFrame, behaviour: str | None = None) -> list[str]:
    """The domains that something was fitted on."""
    rows = frame if behaviour is None else frame[frame["behaviour"] == behaviour]
    return list(rows["fit_domain"].unique())


def positions(frame: pd.DataFrame, behaviour: str | None = None) -> list[str]:
    """The rules of positions that were measured apart, in the order written; "all" alone where there is one."""
    rows = frame if behaviour is None else frame[frame["behaviour"] == behaviour]
    return list(rows["position"].unique())


def hooks(frame: pd.DataFrame, metric: str = "read", arm: str | None = None) -> list[str]:
    """Hook points with records of this metric, in forward order; "" (all sites at once) is left out."""
    rows = frame[(frame["metric"] == metric) & (frame["hook"] != "")]
    rows = rows if arm is None else rows[rows["arm"] == arm]
    return sorted(rows["hook"].unique(), key=lambda hook: HookPoint.parse(hook).order)


def levels(frame: pd.DataFrame, metric: str = "read") -> list[str]:
    """Levels measured under this metric, from the poorest to the richest."""
    return sorted(frame.loc[frame["metric"] == metric, "level"].unique(), key=_level_rank)


def ks(frame: pd.DataFrame, metric: str = "read") -> list[int]:
    """Values of k of the levels measured at several, ascending."""
    rows = frame[(frame["metric"] == metric) & (frame["control"] == "") & _several(frame)]
    return sorted(int(k) for k in rows["k"].dropna().unique())


def default_k(frame: pd.DataFrame, metric: str = "read") -> int | None:
    """4 where it was measured, else the middle one: small enough to be an abstraction."""
    found = ks(frame, metric)
    return None if not found else 4 if 4 in found else found[(len(found) - 1) // 2]


def _shown_k(frame: pd.DataFrame, rows: pd.DataFrame, metric: str = "read") -> int | None:
    """The default k of the behaviours that are shown: one of two outcomes has fewer than one of many."""
    return default_k(frame[frame["behaviour"].isin(rows["behaviour"])], metric)


def site_label(hook: str) -> str:
    """`blocks.3.hook_resid_post` -> `3 resid_post`; "" is every site at once."""
    if not hook:
        return "all sites"
    point = HookPoint.parse(hook)
    part = point.part.replace("hook_", "")
    return part if point.layer is None else f"{point.layer} {part}"


def vocabulary(level: str, source: str = "") -> str:
    """What a reader may speak in, for legends: the level and, if given, where its directions came from."""
    name = level.replace("simple:", "simple: ").replace("hypothesis:", "hypothesis: ").replace("_", " ")
    return f"{name} ({source.replace('_', ' ')})" if source else name


# -------------------------------------------------------------------------------------------------------------- tables


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
    """One row per hook, level and k in the seen domain: FBU, interval and the absolute bits behind it."""
    rows = _pick(frame, behaviour=behaviour, metric=metric, floor=floor, position=position, control=control)
    rows = _at_domain(rows, domain, seen=True)
    rows = rows[rows["arm"] == _arm(rows, arm)] if metric == "replace" else rows
    return _tidy(rows)


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
    """The rows of `leak` with one column label per level: the levels that have a k at one k, or at all with k="all"."""
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
    rows = _at_k(rows, _shown_k(frame, rows, metric) if k is None else k)
    return rows[rows["hook"] != ""].reset_index(drop=True)


def decomposition(
    frame: pd.DataFrame,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    arm: str = "linear_first",
    position: str | None = None,
) -> pd.DataFrame:
    """Shares of the explainable bits per site and class, in the order in which `arm` adds them. They sum to 1."""
    _known("order", arm, ORDERS)
    rows = _pick(frame, behaviour=behaviour, metric="decomposition", position=position, arm=arm)
    tidy = _tidy(_at_domain(rows, domain, seen=True))
    first = ["direction", "directions", "linear" if arm == "linear_first" else "simple:"]

    def rank(level: str) -> tuple[int, tuple[int, str]]:
        family = "simple:" if level.startswith("simple:") else level
        return first.index(family) if family in first else len(first), _level_rank(level)

    tidy["label"] = [_SHARES.get(level, vocabulary(level)) for level in tidy["level"]]
    # Half the width of a 95 % interval is two standard errors; only a clearly negative share says something is wrong.
    tidy["flag"] = tidy["value"] < -(tidy["high"] - tidy["low"]) / 2
    tidy["class_order"] = tidy["level"].map({level: i for i, level in enumerate(sorted(set(tidy["level"]), key=rank))})
    return tidy.sort_values(["site_order", "class_order"], ignore_index=True)


_SHARES = {"direction": "one direction", "directions": "k directions", "linear": "linear, all of h",
           "nonlinear": "nonlinear, all of h", "absent": "not at this site"}  # fmt: skip


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
    only, the random twin's beside them.
    """
    rows = _pick(frame, behaviour=behaviour, metric=("replace", "read"), floor=floor, position=position, control=None)
    replace = rows[rows["metric"] == "replace"]
    arm = _arm(replace, arm)
    replace = replace[replace["arm"] == arm]
    sites = hooks(replace, "replace")
    if arm.startswith("chain"):
        read_hook = hook or (hooks(rows, "read") or [None])[-1]
    else:
        if hook is not None:
            _known("hook", hook, sites or hooks(rows, "read"))
        read_hook = hook or (sites[len(sites) // 2] if sites else None)
        replace = replace[replace["hook"] == (read_hook or "")]
    fitted = _domain(replace if len(replace) else rows, domain)
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
    rows = _pick(frame, behaviour=behaviour, metric=metric, floor=floor, position=position, control=None)
    rows = _at_domain(rows, domain, seen=True)
    rows = rows[rows["arm"] == _arm(rows, arm)] if metric == "replace" else rows
    if level is not None:
        wanted = [level] if isinstance(level, str) else list(level)
        for name in wanted:
            _known("level", name, levels(rows, metric))
        rows = rows[rows["level"].isin(wanted)]
    rows = rows.assign(**{name: float("nan") for name in TOGETHER if name not in rows})
    tidy = _at_k(_tidy(rows[rows["hook"] != ""], TOGETHER), _shown_k(frame, rows, metric) if k is None else k)
    return tidy.sort_values(["control", "level_order", "source", "site_order"], ignore_index=True)


def selected_site(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> str:
    """One line on the hook point that selection rows prefer for the richest linear level read, and its p_max; or ''."""
    rows = _at_domain(_pick(frame, behaviour=behaviour, metric="selected", position=position), domain, seen=True)
    if rows.empty:
        return ""
    found = levels(rows, "selected")
    row = rows[rows["level"] == ("linear" if "linear" in found else found[-1])].iloc[0]
    text = f"Chosen on selection rows for {vocabulary(row['level'])}: {site_label(row['hook'])}, FBU {value_text(row)}."
    curve = layer_curves(frame, behaviour=behaviour, domain=domain, position=position, level=row["level"], k="all")
    here = curve[(curve["control"] == "") & (curve["hook"] == row["hook"]) & (curve["source"] == row["source"])]
    here = here[here["k"].fillna(-1) == (-1 if pd.isna(row["k"]) else row["k"])]
    if here.empty or pd.isna(here["p_max"].iloc[0]):
        return text
    return f"{text} p_max {here['p_max'].iloc[0]:.3g}: chance of a gain this large at any site under permutation."


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
    _known("transfer arm", arm, TRANSFER_ARMS)
    rows = _pick(frame, behaviour=behaviour, metric="transfer", position=position, arm=arm)
    sites = hooks(rows, "transfer")
    if hook is not None:
        _known("hook", hook, sites)
    hook = hook or (sites[len(sites) // 2] if sites else "")
    rows = rows[rows["hook"] == hook]
    found = levels(rows, "transfer")
    if level is not None:
        _known("level", level, found)
    return _tidy(rows[rows["level"] == (level or (found[-1] if found else ""))])


def crossing(frame: pd.DataFrame, *, behaviour: str | None = None, position: str | None = None) -> pd.DataFrame:
    """Does the coarser level lose where both were fitted and win elsewhere? Differences in bits per example."""
    return _tidy(_pick(frame, behaviour=behaviour, metric="crossing", position=position))


def ontology(frame: pd.DataFrame, *, domain: str | None = None, position: str | None = None) -> pd.DataFrame:
    """Accuracy of linear and nonlinear readers of each named feature, by site, with the control network's."""
    rows = frame[(frame["metric"] == "accuracy") & frame["behaviour"].str.startswith(_FEATURE)]
    rows = _at_domain(_at_position(_lowest_seeds(rows), position), domain, seen=True)
    tidy = _tidy(rows)
    tidy["feature"] = tidy["behaviour"].str.removeprefix(_FEATURE)
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
        rows = _pick(frame, behaviour=behaviour, metric="read", floor=floor, position=name)
        rows = _at_domain(rows[rows["level"] == _one_level(rows, level, levels(rows))], domain, seen=True)
        tidy = _at_k(_tidy(rows), _shown_k(frame, rows) if k is None else k)
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
    rows = _pick(frame, behaviour=behaviour, metric="read", floor=None, position=position)
    both = [name for name in levels(rows) if rows.loc[rows["level"] == name, "floor"].nunique() == 2]
    level = _one_level(rows, level, both)
    tidy = _tidy(_at_domain(rows[rows["level"] == level], domain, seen=True))
    first = tidy.drop_duplicates(["floor", "site"])  # one source and k of it, the first
    return first.sort_values(["floor", "site_order"], ignore_index=True)


def group_leakage(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> pd.DataFrame:
    """By site, what a split by row would have claimed beyond whole groups: `gap` = FBU by group less FBU by row.

    The hack index of measurement.md section 7.1. Rows as measured by whole groups, with `value_by_row` and `gap`; sites
    and levels that have no `row_split` control are left out.
    """
    rows = _pick(frame, behaviour=behaviour, metric="read", position=position, control=None)
    rows = _at_domain(rows, domain, seen=True)
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
    picked = [_pick(frame, behaviour=name, **selection) for name in names]
    found = pd.concat([one[one["fit_domain"] == _domain(one, domain)] for one in picked])
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


def deletion_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """`deletion` for the terminal: what each reader left unexplained before and after, in FBU, bits and AUROC.

    Rows of another domain than the one fitted on hold T in place of FBU, after one temperature and intercepts.
    """
    from rich.table import Table
    from rich.text import Text

    moved = frame["metric"] == "transfer"
    arms = frame["arm"].where(~frame["level"].str.startswith("hypothesis:"), "refit")  # a hypothesis moves as it is
    value = "FBU, or T elsewhere," if moved.any() else "FBU"
    columns = {"behaviour": "behaviour"} if frame["behaviour"].nunique() > 1 else {}
    columns |= {"span": "deleted"} | ({"test_domain": "domain"} if moved.any() else {})
    columns |= {"site": "site", "label": "level", "floor": "floor"}
    table = Table(*columns.values(), f"{value} whole", f"{value} deleted [95 %]", "bits", "AUROC", title=title)
    for _, row in frame[~moved | (arms == "refit")].iterrows():
        whole = "NA" if pd.isna(row["whole"]) else f"{row['whole']:.2f}"
        bits = "" if pd.isna(row["bits"]) else f"{row['bits_whole']:.2f} -> {row['bits']:.2f}"
        area = "" if pd.isna(row["auroc"]) else f"{row['auroc_whole']:.2f} -> {row['auroc']:.2f}"
        cells = (*(row[name] for name in columns), whole, value_text(row), bits, area)
        table.add_row(*(Text(str(cell), overflow="fold") for cell in cells))
    return table


def _key(parts: Any) -> tuple:
    """A row's coordinates with one kind of missing value, which is equal to itself."""
    return tuple(None if pd.isna(part) else part for part in parts)


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
    "leak": leak, "leak_map": leak_map, "decomposition": decomposition, "frontier": frontier,
    "layer_curves": layer_curves, "transfer_matrix": transfer_matrix, "crossing": crossing, "ontology": ontology,
    "by_position": by_position, "floor_switch": floor_switch, "group_leakage": group_leakage, "deletion": deletion,
    "provenance": provenance,
}  # fmt: skip


def table(kind: str, frame: pd.DataFrame, **selection: Any) -> pd.DataFrame:
    """A table by name: `table("frontier", read_run("runs/x"), behaviour="next_move")`."""
    _known("table", kind, tuple(KINDS))
    check_selection(kind, KINDS[kind], selection)
    return KINDS[kind](frame, **selection)


def check_selection(kind: str, function: Callable[..., object], selection: Mapping[str, object]) -> None:
    """Raise BadInput for a selection that `function` does not take, naming the nearest that it does."""
    allowed = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in selection:
        if name not in allowed:
            near = get_close_matches(name, allowed, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise BadInput(f"{kind} has no selection '{name}'. {hint}It takes {', '.join(allowed) or 'none'}.")


# ------------------------------------------------------------------------------------------------------------- as text


def number(value: object) -> str:
    """Two digits without the leading zero, as in print: .23, -.03, 1.02. Nothing is clipped; missing is NA."""
    if value is None or pd.isna(value):  # type: ignore[arg-type]
        return "NA"
    text = f"{float(value):.2f}"  # type: ignore[arg-type]
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def value_text(row: Mapping[str, Any] | pd.Series, sep: str = " ") -> str:
    """`.23 [.20, .26]`, or `NA` with its reason in words."""
    if pd.isna(row["value"]):
        return f"NA{sep}({NA_WORDS.get(str(row['na_reason']), 'no reason recorded')})"
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return number(row["value"])
    return f"{number(row['value'])}{sep}[{number(row['low'])}, {number(row['high'])}]"


NA_WORDS = {
    "small_denominator": "nothing to explain",
    "too_few_rows": "too few rows",
    "absent_in_test_domain": "absent there",
    "not_converged": "not converged",
    "not_defined": "not defined",
    "failed": "failed",
}


def to_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """A rich table of any frame made here. Long cells are folded, never cut."""
    from rich.table import Table
    from rich.text import Text

    columns = (
        "behaviour", "feature", "fit_domain", "test_domain", "site", "label", "k", "situation", "metric", "floor",
        "control", "position",
    )  # fmt: skip
    shown = [name for name in columns if name in frame and frame[name].astype(str).nunique() > 1]
    if "situation" in shown:
        shown.remove("test_domain")
    if not {"value", "na_reason"} <= set(frame.columns) or "low" not in frame:
        table = Table(*map(str, frame.columns), title=title or None)
        for row in frame.itertuples(index=False):
            table.add_row(*(Text("" if pd.isna(cell) else str(cell), overflow="fold") for cell in row))
        return table
    table = Table(title=title or None)
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold")
    table.add_column("value [95 %]", overflow="fold", min_width=16)
    bits = ["bits", "floor_bits", "ceiling_bits", "n"]
    for name in bits:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold", min_width=5)
    for _, row in frame.iterrows():
        cells = ["" if pd.isna(row[name]) else str(row[name]) for name in shown]
        figures = ["" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in bits[:-1]]
        table.add_row(*(Text(cell, overflow="fold") for cell in [*cells, value_text(row), *figures, str(row["n"])]))
    return table


def leak_text(frame: pd.DataFrame, title: str = "") -> "Table":
    """`leak_map` as a grid for the terminal: a row per site, the last layer on top, a column per level."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, show_lines=True)
    table.add_column("site", overflow="fold", no_wrap=False)
    columns = list(frame.sort_values("level_order", kind="stable")["label"].unique())
    for label in columns:
        table.add_column(label, overflow="fold", justify="right")
    for site in reversed(list(frame.sort_values("site_order", kind="stable")["site"].unique())):
        cells = []
        for label in columns:
            rows = frame[(frame["site"] == site) & (frame["label"] == label)]
            cells.append(Text(value_text(rows.iloc[0], "\n") if len(rows) else "", overflow="fold"))
        table.add_row(Text(site), *cells)
    return table


def to_csv(frame: pd.DataFrame) -> str:
    """CSV text. A text cell that a spreadsheet would run as a formula gets a leading apostrophe."""
    safe = frame.rename(columns=_defused)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]) and not pd.api.types.is_bool_dtype(safe[name]):
            safe[name] = safe[name].map(_defused)
    return safe.to_csv(index=False)


def _defused(cell: object) -> object:
    return "'" + cell if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


# ----------------------------------------------------------------------------------------------------------- selection


def _known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"Did you mean '{near[0]}'? There is {', '.join(known)}." if near else "There is none of that kind here."
        raise BadInput(f"no {what} '{name}'. {hint}")


def _pick(
    frame: pd.DataFrame,
    *,
    behaviour: str | None,
    metric: str | Sequence[str],
    position: str | None,
    floor: str | None = "strong",
    control: str | None = "",
    arm: str | None = None,
) -> pd.DataFrame:
    """Rows of one behaviour, at one position, with the lowest seeds; None for floor, control or arm takes them all."""
    if behaviour is not None:
        _known("behaviour", behaviour, list(frame["behaviour"].unique()))
    rows = frame[frame["behaviour"] == (behaviour or default_behaviour(frame))]
    rows = rows[rows["metric"].isin([metric] if isinstance(metric, str) else list(metric))]
    for column, wanted in (("floor", floor), ("control", control), ("arm", arm)):
        rows = rows if wanted is None else rows[rows[column] == wanted]
    return _at_position(_lowest_seeds(rows), position)


def _one_level(rows: pd.DataFrame, level: str | None, among: Sequence[str]) -> str:
    """The level asked for; without one `linear`, or the richest of `among`."""
    if level is not None:
        _known("level", level, levels(rows))
        return level
    return "linear" if "linear" in among else among[-1] if among else ""


def _lowest_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    for seed in ("seed_model", "seed_data", "seed_probe"):
        rows = rows[rows[seed] == rows[seed].min()] if len(rows) else rows
    return rows


def _at_position(rows: pd.DataFrame, position: str | None) -> pd.DataFrame:
    found = list(rows["position"].unique())
    if position is None:
        position = "all" if "all" in found or not found else found[0]
    elif found:
        _known("position", position, found)
    return rows[rows["position"] == position]


def _domain(rows: pd.DataFrame, domain: str | None) -> str:
    found = list(rows["fit_domain"].unique())
    if domain is not None and found:
        _known("domain", domain, found)
    return domain or (found[0] if found else "")


def _at_domain(rows: pd.DataFrame, domain: str | None, *, seen: bool) -> pd.DataFrame:
    fitted = _domain(rows, domain)
    return rows[(rows["fit_domain"] == fitted) & ((rows["test_domain"] == fitted) == seen)]


def _arm(rows: pd.DataFrame, arm: str | None) -> str:
    """The arm asked for, or the first measured of: the chain before one site, matched before random donors."""
    found = list(rows["arm"].unique())
    if arm is not None:
        if found:
            _known("arm", arm, found)
        return arm
    preferred = ("chain:matched", "chain:random", "single:matched", "single:random")
    return next((name for name in preferred if name in found), found[0] if found else "")


def _at_k(tidy: pd.DataFrame, k: int | str | None) -> pd.DataFrame:
    """Rows at this k of the levels measured at several; the others stay. Labels get the k."""
    several = _several(tidy) & tidy["k"].notna()
    if k != "all":
        if k is not None and several.any() and int(k) not in set(tidy.loc[several, "k"]):
            found = ", ".join(str(v) for v in sorted(set(tidy.loc[several, "k"])))
            raise BadInput(f"nothing was measured at k = {k}; there is {found}, or 'all'.")
        tidy = tidy[~several | (tidy["k"] == (None if k is None else int(k)))].copy()
        several = _several(tidy) & tidy["k"].notna()
    tidy["label"] = [
        f"{label}, k={number_of}" if many else label
        for label, number_of, many in zip(tidy["label"], tidy["k"], several, strict=True)
    ]
    return tidy


def _several(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of a level that is measured at several k."""
    return rows["level"].isin(["neurons", "directions"]) | rows["level"].str.startswith("simple:")


def _level_rank(level: str) -> tuple[int, str]:
    prefix = next((p for p in ("simple:", "hypothesis:") if level.startswith(p)), level)
    return (_LEVEL_ORDER.index(prefix) if prefix in _LEVEL_ORDER else len(LEVELS) + 9, level)


def _tidy(rows: pd.DataFrame, more: Sequence[str] = ()) -> pd.DataFrame:
    """Rows in forward order with `site`, `site_order`, `level_order`, `label` (level, source if needed) and `more`."""
    rows = rows.copy()
    sites = sorted(rows["hook"].unique(), key=lambda hook: HookPoint.parse(hook).order)
    steps = sorted(rows["level"].unique(), key=_level_rank)
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
