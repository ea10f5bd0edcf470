"""Selection: which records a table or figure is of, and the names of what is shown.

What is not selected is taken by one rule, the same everywhere: the first behaviour that has any value (`deletion` lists
all), its first domain, the position "all" (else the first), the lowest seeds. Nothing here picks by how large a value
is: that would be selecting on the test set.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from probekit.errors import BadInput, nearest, unknown
from probekit.hookpoint import HookPoint
from probekit.records import ARMS, LEVELS

ORDERS = ("linear_first", "simple_first")
TRANSFER_ARMS = ("refit", "raw", "platt50")
REPLACE_ARMS = tuple(arm for arm in ARMS if arm.startswith(("single:", "chain:")))
FEATURE = "feature:"
_LEVEL_ORDER = (
    "prior", "baseline", "neurons", "direction", "directions", "simple:", "linear", "nonlinear", "hypothesis:",
    "absent",
)  # fmt: skip


NA_WORDS = {
    "small_denominator": "nothing to explain",
    "too_few_rows": "too few rows",
    "absent_in_test_domain": "absent there",
    "vacuous": "as in a random network",
    "not_converged": "not converged",
    "not_defined": "not defined",
    "failed": "failed",
}


def na_words(reason: object) -> str:
    """Why a value is NA, for people."""
    return NA_WORDS.get(str(reason), "no reason recorded")


# ------------------------------------------------------------------------------------------------- what there is to see


def behaviours(frame: pd.DataFrame) -> list[str]:
    """The behaviours measured, in the order written; features read as targets are left out."""
    return [name for name in frame["behaviour"].unique() if not name.startswith(FEATURE)]


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
    return sorted(frame.loc[frame["metric"] == metric, "level"].unique(), key=level_rank)


def ks(frame: pd.DataFrame, metric: str = "read") -> list[int]:
    """Values of k of the levels measured at several, ascending."""
    rows = frame[(frame["metric"] == metric) & (frame["control"] == "") & _several(frame)]
    return sorted(int(k) for k in rows["k"].dropna().unique())


def default_k(frame: pd.DataFrame, metric: str = "read") -> int | None:
    """4 where it was measured, else the middle one: small enough to be an abstraction."""
    found = ks(frame, metric)
    return None if not found else 4 if 4 in found else found[(len(found) - 1) // 2]


def shown_k(frame: pd.DataFrame, rows: pd.DataFrame, metric: str = "read") -> int | None:
    """The default k of the behaviours that are shown: one of two outcomes has fewer than one of many."""
    return default_k(frame[frame["behaviour"].isin(rows["behaviour"])], metric)


def site_label(hook: str) -> str:
    """`blocks.3.hook_resid_post` -> `L3 resid_post`; "" is every site at once."""
    return HookPoint.parse(hook).short if hook else "all sites"


def left_out(known: Sequence[str]) -> list[str]:
    """Hook points that lie between those known, of the same kind and at their usual distance, and are not among them.

    Of layers 0, 2, 4 and 8 it is 6: the distance of most neighbours is what was asked for. Of 0, 7, 14 and 22 it is
    none: a last layer a little further on was asked for as such.
    """
    by_part: dict[str, list[int]] = {}
    for point in map(HookPoint.parse, known):
        if point.layer is not None:
            by_part.setdefault(point.part, []).append(point.layer)
    found = []
    for part, layers in by_part.items():
        ordered = sorted(layers)
        steps = [b - a for a, b in pairwise(ordered)]
        step = min(steps, key=lambda n: (-steps.count(n), n), default=1)
        wide = [(a, b) for a, b in pairwise(ordered) if (b - a) % step == 0]
        between = {layer for a, b in wide for layer in range(a + step, b, step)}
        found += [HookPoint.within(layer, part).name for layer in sorted(between)]
    return found


_NO_LAW = ("label", "value", "logprob")  # kinds of behaviours that no unembedding gives


def unembedding(frame: pd.DataFrame, behaviour: str) -> str:
    """The hook point that the unembedding reads, where a linear reader is the unembedding; "" where there is none.

    The last layer's `resid_post`, or what comes after it. How many layers the model has is in the manifest; where that
    does not say, the last layer measured is taken for the last, if more than one was. A label that is no output of the
    model is not what the unembedding computes, answers of several tokens are so in part alone, and a number is not read
    as a law is.
    """
    manifest = frame.attrs.get("manifest") or {}
    told = (manifest.get("spec") or {}).get("task")
    listed = told.get("behaviours") if isinstance(told, Mapping) else None
    # A spec that no job has read may be of any shape, and a page lists its run all the same.
    asked = [b for b in listed or () if isinstance(b, Mapping) and b.get("name") == behaviour]
    if any(b.get("kind") in _NO_LAW or b.get("whole") for b in asked):
        return ""
    points = [HookPoint.parse(hook) for hook in hooks(frame[frame["behaviour"] == behaviour])]
    layers = {point.layer for point in points} - {None}
    model = (manifest.get("provenance") or {}).get("model") or {}
    n_layers = model.get("n_layers") or (max(layers) + 1 if len(layers) > 1 else None)
    if not points or n_layers is None:
        return ""
    last = points[-1]
    after = last.layer is None and last.order[0] == float("inf") and "hook_" in last.name
    return last.name if after or (last.layer == n_layers - 1 and last.part == "hook_resid_post") else ""


def vocabulary(level: str, source: str = "") -> str:
    """What a reader may speak in, for legends: the level and, if given, where its directions came from."""
    name = level.replace("simple:", "simple: ").replace("hypothesis:", "hypothesis: ").replace("_", " ")
    source = "decoded" if source == "features" else source  # one thing has one name, read or kept
    return f"{name} ({source.replace('_', ' ')})" if source else name


def check_selection(kind: str, function: Callable[..., object], selection: Mapping[str, object]) -> None:
    """Raise BadInput for a selection that `function` does not take, naming the nearest that it does."""
    allowed = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in selection:
        if name not in allowed:
            near = nearest(name, allowed, 0.5)
            hint = f"Did you mean '{near}'? " if near else ""
            raise BadInput(f"{kind} has no selection '{name}'. {hint}It takes {', '.join(allowed) or 'none'}.")


# ----------------------------------------------------------------------------------------------------------- selection


def check_known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise unknown(what, name, known) if known else BadInput(f"no {what} '{name}'. There is none of that kind here.")


def check_one_run(frame: pd.DataFrame) -> None:
    """Raise BadInput for records of several runs, which a table or figure would mix."""
    runs = [str(name) for name in frame["run"].unique()]
    if len(runs) > 1:
        raise BadInput(
            f"records of the runs {', '.join(runs)} are given together: select one, frame['run'] == '{runs[0]}'."
        )


def pick(
    frame: pd.DataFrame,
    *,
    behaviour: str | None,
    metric: str | Sequence[str],
    position: str | None,
    floor: str | None = "strong",
    control: str | Sequence[str] | None = "",
    arm: str | None = None,
) -> pd.DataFrame:
    """Rows of one behaviour, at one position, with the lowest seeds; None for floor, control or arm takes them all."""
    check_one_run(frame)
    if behaviour is not None:
        check_known("behaviour", behaviour, list(frame["behaviour"].unique()))
    rows = frame[frame["behaviour"] == (behaviour or default_behaviour(frame))]
    rows = rows[rows["metric"].isin([metric] if isinstance(metric, str) else list(metric))]
    for column, wanted in (("floor", floor), ("control", control), ("arm", arm)):
        if wanted is not None:
            rows = rows[rows[column].isin([wanted] if isinstance(wanted, str) else list(wanted))]
    return at_position(lowest_seeds(rows), position)


def one_level(rows: pd.DataFrame, level: str | None, among: Sequence[str]) -> str:
    """The level asked for; without one `linear`, or the richest of `among`."""
    if level is not None:
        check_known("level", level, levels(rows))
        return level
    return "linear" if "linear" in among else among[-1] if among else ""


def lowest_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    for seed in ("seed_model", "seed_data", "seed_probe"):
        rows = rows[rows[seed] == rows[seed].min()] if len(rows) else rows
    return rows


def at_position(rows: pd.DataFrame, position: str | None) -> pd.DataFrame:
    found = list(rows["position"].unique())
    if position is None:
        position = "all" if "all" in found or not found else found[0]
    elif found:
        check_known("position", position, found)
    return rows[rows["position"] == position]


def one_domain(rows: pd.DataFrame, domain: str | None) -> str:
    found = list(rows["fit_domain"].unique())
    if domain is not None and found:
        check_known("domain", domain, found)
    return domain or (found[0] if found else "")


def at_domain(rows: pd.DataFrame, domain: str | None, *, seen: bool) -> pd.DataFrame:
    fitted = one_domain(rows, domain)
    return rows[(rows["fit_domain"] == fitted) & ((rows["test_domain"] == fitted) == seen)]


def at_arm(rows: pd.DataFrame, arm: str | None) -> str:
    """The arm asked for, or the first measured of: the chain before one site, matched before random donors."""
    found = list(rows["arm"].unique())
    if arm is not None:
        if found:
            check_known("arm", arm, found)
        return arm
    preferred = ("chain:matched", "chain:random", "single:matched", "single:random")
    return next((name for name in preferred if name in found), found[0] if found else "")


def at_k(tidy: pd.DataFrame, k: int | str | None) -> pd.DataFrame:
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


def level_rank(level: str) -> tuple[int, str]:
    prefix = next((p for p in ("simple:", "hypothesis:") if level.startswith(p)), level)
    return (_LEVEL_ORDER.index(prefix) if prefix in _LEVEL_ORDER else len(LEVELS) + 9, level)
