"""Compare: is one run better than another? What is comparable first, then differences with intervals, then examples.

B less A of what is unexplained: below 0, B explains more. Where both runs tested the same rows of a group, groups are
drawn once for both, so that what makes a group hard cancels; else each run is drawn for itself, and that is said
(docs/method.md section 7.7).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.errors import BadInput, RunError, printable
from probekit.levels import WHOLE
from probekit.metrics.bands import band_of
from probekit.metrics.bootstrap import FEW_CLUSTERS, Clusters, Differences
from probekit.results.comparable import alike_groups, comparability
from probekit.results.examples import KeepsRows, examples
from probekit.results.headline import before, leaves, level_words, preference
from probekit.results.selection import (
    at_domain,
    at_k,
    behaviours,
    check_known,
    default_behaviour,
    na_words,
    pick,
    shown_k,
    site_label,
    unembedding,
    vocabulary,
)
from probekit.results.tables import leak
from probekit.results.text import gap_text, number

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

N_BOOTSTRAP = 2_000
MOST_CHANGED = 10
SELECTED = "chosen site"  # on selection rows, which may be another one in each run
BEFORE = "chosen site before the unembedding"  # where they prefer the unembedding: the site they like next
UNEMBEDDED = "the unembedding"  # no finding, whatever it says
VERDICTS = ("better", "worse", "equal", "cannot tell", "NA")
CELLS = ("site", "label", "metric", "arm", "hook", "level", "source", "k", "a", "a_low", "a_high", "b", "b_low",
         "b_high", "difference", "low", "high", "band_low", "band_high", "verdict", "how", "groups", "reason", "id_a",
         "id_b", "chosen_a", "chosen_b")  # fmt: skip
_KEYS = ["arm", "hook", "level", "source", "k"]


@runtime_checkable
class Comparable(KeepsRows, Protocol):
    """A run folder that was opened (`probekit.open_run`): its rows, and the group sums behind its records."""

    def losses_of(self, *record_ids: str) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side: `str` and `print` give text, a notebook shows HTML.

    a, b: names of the runs. sentences: the answer in words. comparable: a row per thing that should be the same: what,
    a, b, verdict (equal, different, unknown), means. cells: a row per site and level (columns `CELLS`): A and B over
    the same groups, each with the interval that its run has, the difference B - A with its own and with the band that
    holds for all cells at once, and the verdict (`VERDICTS`). only: sites and levels that one run alone has. changed:
    rows that changed the most; empty where the runs did not keep them, for the reason `unchanged`. first: the cell of
    the first sentence, or None.
    """

    a: str
    b: str
    sentences: tuple[str, ...]
    comparable: pd.DataFrame
    cells: pd.DataFrame
    only: pd.DataFrame
    changed: pd.DataFrame = field(repr=False)
    unchanged: str = ""
    first: pd.Series | None = field(default=None, repr=False)

    def __str__(self) -> str:
        from probekit.results.text import rendered

        return rendered(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from probekit.results.sidetext import side_by_side

        yield from side_by_side(self, options.max_width)

    def _repr_html_(self) -> str:
        from probekit.results.sidetext import side_by_side_html

        return side_by_side_html(self)


def compare(
    a: Any,
    b: Any,
    *,
    behaviour: str | None = None,
    domain: str | None = None,
    metric: str = "read",
    arm: str | None = None,
    position: str | None = None,
    k: int | str | None = None,
    most: int = MOST_CHANGED,
    seed: int = 0,
) -> Comparison:
    """Is run `b` better than run `a`? Paired by group where both tested the same rows.

    a, b: runs as `open_run` opens them, or what `probe` found. behaviour: the first that both have when left out;
    domain, position: the first. metric: `read`, or `replace`, whose pairs share donors: its difference is taken from
    both intervals. k: one k for the levels that have several, or "all". most: rows of `changed`. Intervals are over
    groups, with readers as fitted, as those of each run are. Raises BadInput for runs that have nothing in common.

    >>> import probekit as pk
    >>> run = pk.open_run("runs/othello")
    >>> same = pk.compare(run, run, behaviour="next_move")
    >>> float(same.cells["difference"].abs().max()), set(same.cells["verdict"])
    (0.0, {'equal'})
    """
    a, b = (_comparable(run) for run in (a, b))
    if metric not in ("read", "replace"):
        raise BadInput(f"runs are compared by what is read or replaced; found metric '{metric}'.")
    behaviour = _common(a, b, behaviour)
    at = {"behaviour": behaviour, "domain": domain, "position": position}
    told = comparability(a.records, b.records, behaviour)
    both, only = _matched(a.records, b.records, at, metric, arm, k)
    cells = _differences(a, b, both, metric, behaviour, seed)
    unembedded = {unembedding(run.records, behaviour) for run in (a, b)} - {""} if metric == "read" else set()
    for name in ("hook", "chosen_a", "chosen_b"):
        at_last = cells[name].isin(unembedded) & (cells["level"] == "linear") & (cells["verdict"] != "NA")
        cells.loc[at_last, "reason"] = UNEMBEDDED
    first = _first(cells, unembedded)
    changed, why = _changed(a, b, first, behaviour, position, most)
    answer = " ".join(filter(None, (_answer(a.name, b.name, first), _at_each(cells, first))))
    sentences = (answer, _counts(cells, len(only)), _caution(told), _how(cells))
    sentences = tuple(filter(None, sentences))
    return Comparison(a.name, b.name, sentences, told, cells, only, changed, why, first)


def across(runs: Sequence[Any], **selection: Any) -> pd.DataFrame:
    """Several runs on one axis: rows of `compare(first, run)` for each, in the order given, with the column `run`.

    value, low, high: of the run itself; difference and its interval: less the first run's, 0 for that run. selection:
    as of `compare`. model, revision: of the run. Raises BadInput for fewer than two, and for two of one name.
    """
    if len(runs) < 2:
        raise BadInput(f"runs are compared from two on; found {len(runs)}.")
    names = [_comparable(run).name for run in runs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"two of the runs are named {twice}: they could not be told apart; give each of them once.")
    first, parts = runs[0], []
    for run in runs:
        found = compare(first, run, **selection, most=0).cells
        told = _comparable(run).records.iloc[0]
        of_run = found.drop(columns=["a", "a_low", "a_high"]).rename(
            columns={"b": "value", "b_low": "low", "b_high": "high", "low": "difference_low", "high": "difference_high"}
        )
        parts.append(of_run.assign(run=_comparable(run).name, model=told["model"], revision=told["revision"]))
    return pd.concat(parts, ignore_index=True)


def changed_rows(
    a: Comparable, b: Comparable, *, behaviour: str | None = None, hook: str | None = None, level: str = "linear",
    source: str | None = None, k: int | None = None, position: str | None = None, most: int = MOST_CHANGED,
) -> pd.DataFrame:  # fmt: skip
    """Test rows of both runs whose missed bits changed the most; `change` is B - A, below 0 where B misses less.

    hook: the one that selection rows of A prefer when left out. A row is known by its group and text, where texts are
    kept. `attrs`: n, the rows of both; mean_a and mean_b, their missed bits; better, worse: how many moved by half a
    bit. Rows that did not change are left out. Raises BadInput where rows were not kept or none is of both.
    """
    every = int(1e9)
    parts = {}
    for side, run in (("a", a), ("b", b)):
        parts[side] = examples(run, behaviour=behaviour, hook=hook, position=position, level=level, source=source, k=k,
                               most=every)  # fmt: skip
        hook = hook or str(parts[side]["hook"].iloc[0])
    keys = ["group", "text"] if all(part["text"].notna().all() for part in parts.values()) else ["group", "example"]
    sides = {
        side: part.sort_values(["example", "position"], kind="stable").assign(
            copy=lambda t: t.groupby([*keys, "position"]).cumcount()
        )
        for side, part in parts.items()
    }
    figures = ["missed_bits", "outcome", "probability"]
    both = sides["a"].merge(sides["b"][[*keys, "position", "copy", *figures]], on=[*keys, "position", "copy"],
                            suffixes=("_a", "_b"))  # fmt: skip
    if both.empty:
        raise BadInput(f"{a.name} and {b.name} tested no row in common.")
    both["change"] = both["missed_bits_b"] - both["missed_bits_a"]
    columns = ["change", *(f"{name}_{side}" for name in figures for side in "ab"), "group", "domain", "example",
               "position", "text", "hook", "behaviour", "rule", "level", "source", "k"]  # fmt: skip
    order = both["change"].abs().sort_values(ascending=False, kind="stable").index
    found = both.loc[order[both.loc[order, "change"] != 0], columns].head(most).reset_index(drop=True)
    found.attrs = {
        "n": len(both), "mean_a": float(both["missed_bits_a"].mean()), "mean_b": float(both["missed_bits_b"].mean()),
        "better": int((both["change"] <= -0.5).sum()), "worse": int((both["change"] >= 0.5).sum()),
    }  # fmt: skip
    return found


# --------------------------------------------------------------------------------------------------------- what is met


def _comparable(given: Any) -> Comparable:
    run = getattr(given, "run", given)
    if not isinstance(run, Comparable):
        raise BadInput(f"{given!r:.80} is no run: give what `probekit.open_run` opens, or what `probe` found.")
    return run


def _common(a: Comparable, b: Comparable, behaviour: str | None) -> str:
    known = [behaviours(run.records) for run in (a, b)]
    shared = [name for name in known[0] if name in known[1]]
    if behaviour is not None:
        for names in known:
            check_known("behaviour", behaviour, names)
        return behaviour
    if not shared:
        there = " and ".join(f"{run.name} has {', '.join(names)}" for run, names in zip((a, b), known, strict=True))
        raise BadInput(f"the runs measured no behaviour in common: {there}.")
    first = default_behaviour(a.records)
    return first if first in shared else shared[0]


def _matched(
    first: pd.DataFrame, second: pd.DataFrame, at: Mapping[str, Any], metric: str, arm: str | None, k: int | str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(cells of both runs, one row each with the figures of A and of B; cells of one run alone)."""
    sides, at_last = {}, set()
    if metric == "read":
        at_last = _of_seen(first, at)[3] | _of_seen(second, at)[3]
    for side, frame in (("a", first), ("b", second)):
        rows = leak(frame, **at, metric=metric, arm=arm)
        rows = rows[~rows["level"].isin(["prior", "baseline"])]
        chosen = _chosen(frame, at, at_last) if metric == "read" else rows.head(0)
        parts = [part for part in (chosen, rows) if len(part)]
        sides[side] = (pd.concat(parts) if parts else rows).drop_duplicates(["metric", *_KEYS])
    keys = ["metric", *_KEYS]
    figures = ["value", "low", "high", "na_reason", "n", "groups", "id", "chosen"]
    for side in sides:
        sides[side]["chosen"] = sides[side].get("chosen", "")
    both = sides["a"].merge(sides["b"][[*keys, *figures]], on=keys, suffixes=("_a", "_b"), how="inner")
    wanted = shown_k(first, sides["a"], metric) if k is None else k
    both = at_k(both, wanted if wanted in set(both["k"].dropna()) else "all") if len(both) else both
    alone = []
    for side, other in (("a", "b"), ("b", "a")):
        rest = sides[side].merge(sides[other][keys], on=keys, how="left", indicator=True)
        rest = rest[rest["_merge"] == "left_only"]
        alone.append(rest[["site", "label", "k", "value", "low", "high", "na_reason"]].assign(run=side))
    return both.reset_index(drop=True), pd.concat([part for part in alone if len(part)] or alone[:1], ignore_index=True)


def _of_seen(frame: pd.DataFrame, at: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame, str, set[str]]:
    """(what was read, what was chosen, the unembedding's site, levels that selection rows prefer to read there)."""
    rows = pick(frame, behaviour=at["behaviour"], metric=("read", "selected"), position=at["position"])
    rows = at_domain(rows, at["domain"], seen=True)
    read, chosen = rows[(rows["metric"] == "read") & (rows["hook"] != "")], rows[rows["metric"] == "selected"]
    last = unembedding(frame, at["behaviour"])
    return read, chosen, last, set(chosen.loc[(chosen["hook"] == last) & (last != ""), "level"])


def _chosen(frame: pd.DataFrame, at: Mapping[str, Any], at_last: set[str]) -> pd.DataFrame:
    """What is read at the site that selection rows prefer, which may be another in each run; rows as of `leak`.

    Of the levels `at_last`, for which one of the runs prefers the unembedding, also what is read at the site that is
    liked best of the others, as of an arm `before`.
    """
    read, rows, last, _ = _of_seen(frame, at)
    if rows.empty:
        return rows
    several = {level for level, part in rows.groupby("level") if part["source"].nunique() > 1}
    following = [one for level in WHOLE if level in at_last and (one := before(read, last, level)) is not None]
    parts = [rows.assign(site=SELECTED, arm="")]
    if following:
        parts.append(pd.DataFrame(following).astype(read.dtypes).assign(site=BEFORE, arm="before")[parts[0].columns])
    rows = pd.concat(parts)
    label = [vocabulary(level, source if level in several else "")
             for level, source in zip(rows["level"], rows["source"], strict=True)]  # fmt: skip
    return rows.assign(label=label, chosen=rows["hook"], hook="")


# -------------------------------------------------------------------------------------------------------- what differs


def _differences(
    a: Comparable, b: Comparable, both: pd.DataFrame, metric: str, behaviour: str, seed: int
) -> pd.DataFrame:
    """`CELLS` of matched rows."""
    cells = both.rename(columns={f"{name}_{side}": f"{side}_{name}" for name in ("low", "high") for side in "ab"})
    cells = cells.rename(columns={"value_a": "a", "value_b": "b"})
    for name in ("difference", "low", "high", "band_low", "band_high"):
        cells[name] = float("nan")
    for name in ("verdict", "how", "reason"):
        cells[name] = ""
    cells["groups"] = cells[["groups_a", "groups_b"]].min(axis=1)
    known = cells["a"].notna() & cells["b"].notna()
    why = {side: cells[f"na_reason_{side}"].map(na_words) for side in "ab"}
    for i in cells.index[~known]:
        told = [f"{side.upper()}: {why[side][i]}" for side in "ab" if pd.isna(cells.loc[i, side])]
        cells.loc[i, ["verdict", "reason"]] = ["NA", "; ".join(told)]
    sums = {side: _sums(run, cells.loc[known, f"id_{side}"]) for side, run in (("a", a), ("b", b))}
    # rows that are replaced share donors, too: groups are not all that pairs have in common
    same = alike_groups(a, b, behaviour) if metric == "read" else None
    for found in _pools(cells[known], sums, same, seed) if metric == "read" else ():
        for name, values in found.items():
            cells.loc[values.index, name] = values
    left = known & (cells["how"] == "")
    for i in cells.index[left]:
        cells.loc[i, ["difference", "low", "high", "how"]] = _from_intervals(cells.loc[i], metric)
    cells.loc[known, "verdict"] = [_verdict(row) for _, row in cells[known].iterrows()]
    return cells.reindex(columns=list(CELLS))


def _sums(run: Comparable, ids: pd.Series) -> dict[str, pd.DataFrame]:
    losses = run.losses_of(*ids.unique()) if len(ids) else pd.DataFrame({"record": []})
    return {str(record): rows.set_index("group") for record, rows in losses.groupby("record")}


def _pools(
    cells: pd.DataFrame, sums: Mapping[str, Mapping[str, pd.DataFrame]], same: Callable[[str], bool] | None, seed: int
) -> list[dict[str, pd.Series]]:
    """Differences of all cells that have the same groups, with their band, once for each such set of groups."""
    pools: dict[tuple, list[Any]] = {}
    for i, row in cells.iterrows():
        one, other = sums["a"].get(row["id_a"]), sums["b"].get(row["id_b"])
        if one is None or other is None:
            continue
        shared = _shared(one, other, same)
        key = ("paired", *shared) if shared else ("unpaired", *one.index, "|", *other.index)
        pools.setdefault(key, []).append((i, one, other))
    out = []
    for (how, *names), members in pools.items():
        index = [i for i, _, _ in members]
        if how == "paired":
            first, second = (_stacked([member[side].loc[names] for member in members]) for side in (1, 2))
            found = Differences.paired(first, second, _weights(len(names), seed))
        else:
            first, second = (_stacked([member[side] for member in members]) for side in (1, 2))
            weights = _weights(first[0].shape[1], seed), _weights(second[0].shape[1], seed + 1)
            found = Differences.unpaired(first, second, weights)
        out.append(_told(found, first, second, index, how, len(names)))
    return out


def _shared(one: pd.DataFrame, other: pd.DataFrame, same: Callable[[str], bool] | None) -> list[str]:
    """Groups that both tested on the same rows: at least half of the fewer groups, else none are taken."""
    if same is None:
        return []
    both = one["n"].eq(other["n"].reindex(one.index))
    names = [name for name in one.index[both] if same(name)]
    return names if len(names) >= max(2, min(len(one), len(other)) / 2) else []


def _stacked(parts: Sequence[pd.DataFrame]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return tuple(np.stack([part[name].to_numpy(np.float64) for part in parts]) for name in ("numerator", "denominator"))


def _weights(n_groups: int, seed: int) -> NDArray[np.float32]:
    return Clusters.of(np.arange(n_groups), N_BOOTSTRAP, seed).weights


def _told(
    found: Differences, first: tuple[NDArray, NDArray], second: tuple[NDArray, NDArray], index: list, how: str, n: int
) -> dict[str, pd.Series]:
    """Columns of a pool of cells; values of A and B over the groups that the difference is of."""
    low, high = zip(*found.intervals(), strict=True)
    band = band_of(found.value, found.drawn, found.left_out)
    columns: dict[str, Any] = {"difference": found.value, "low": low, "high": high, "band_low": band[0],
                               "band_high": band[1], "how": [how] * len(index)}  # fmt: skip
    if how == "paired":
        columns |= {side: sums[0].sum(1) / sums[1].sum(1) for side, sums in (("a", first), ("b", second))}
        columns["groups"] = [n] * len(index)
    return {name: pd.Series(values, index=index) for name, values in columns.items()}


def _from_intervals(row: pd.Series, metric: str) -> list[Any]:
    """Difference of two values whose intervals are all that is known: their half-widths are added in squares."""
    difference = float(row["b"]) - float(row["a"])
    if row[["a_low", "a_high", "b_low", "b_high"]].isna().any():
        return [difference, float("nan"), float("nan"), "no interval"]
    if row["id_a"] == row["id_b"] and row["a"] == row["b"] and row["a_low"] == row["b_low"]:
        return [difference, difference, difference, "the same record"]
    down = np.hypot(row["b"] - row["b_low"], row["a_high"] - row["a"])
    up = np.hypot(row["b_high"] - row["b"], row["a"] - row["a_low"])
    return [difference, difference - down, difference + up, "from both intervals"]


def _verdict(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return "cannot tell"
    if row["difference"] == 0 and row["low"] == 0 and row["high"] == 0:
        return "equal"
    return "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "cannot tell"


def _first(cells: pd.DataFrame, unembedded: set[str]) -> pd.Series | None:
    """The cell of the answer, in which no test value had a say: what the rule prefers where selection rows prefer it.

    Never where the unembedding reads. None where nothing was chosen in both runs, and there are several sites.
    """
    known = cells[cells["verdict"] != "NA"]
    chosen = known[known["metric"] == "selected"]
    chosen = chosen[~chosen["chosen_a"].isin(unembedded) & ~chosen["chosen_b"].isin(unembedded)]
    if chosen.empty and known["hook"].nunique() == 1:
        chosen = known
    return min((one for _, one in chosen.iterrows()), key=preference) if len(chosen) else None


def _changed(
    a: Comparable, b: Comparable, first: pd.Series | None, behaviour: str, position: str | None, most: int
) -> tuple[pd.DataFrame, str]:
    """Rows that changed at the cell of the answer, where A has it; or none with the reason."""
    if not most:
        return pd.DataFrame(), "no rows were asked for."
    of = {"level": "linear"}
    if first is not None:
        k = None if pd.isna(first["k"]) else int(first["k"])
        of = {"hook": first["chosen_a"] or first["hook"], "level": first["level"], "source": first["source"], "k": k}
    try:
        return changed_rows(a, b, behaviour=behaviour, position=position, most=most, **of), ""
    except (BadInput, RunError) as error:
        return pd.DataFrame(), str(error)


# ------------------------------------------------------------------------------------------------------------ in words


def _answer(a: str, b: str, row: pd.Series | None) -> str:
    a, b = printable(a), printable(b)
    if row is None:
        return f"No site was chosen on selection rows in both {a} (A) and {b} (B), but where the unembedding reads."
    who = level_words(row["level"], row["source"], None if pd.isna(row["k"]) else int(row["k"]))
    word = {"better": "is better than", "worse": "is worse than", "equal": "equals"}.get(row["verdict"])
    verdict = f"{b} (B) {word} {a} (A)" if word else f"It cannot be told whether {b} (B) is better than {a} (A)"
    sites = [site_label(row[f"chosen_{side}"] or row["hook"]) for side in "ab"]
    where = sites[0] if sites[0] == sites[1] else f"{sites[0]} in A and {sites[1]} in B"
    if row["metric"] == "selected":
        where += ", where selection rows prefer to read it" + " before the unembedding" * (row["site"] == BEFORE) + ","
    return (
        f"{verdict}: {who} at {where} {leaves(who)} {number(row['a'])} unexplained in A and {number(row['b'])} in B; "
        f"B - A is {gap_text(row)}."
    )


def _at_each(cells: pd.DataFrame, row: pd.Series | None) -> str:
    """Where the runs prefer different sites, what differs at each of the two."""
    if row is None or row["chosen_a"] == row["chosen_b"]:
        return ""
    same = (cells["metric"] == "read") & (cells["level"] == row["level"]) & (cells["source"] == row["source"])
    same &= cells["k"].fillna(-1) == (-1 if pd.isna(row["k"]) else row["k"])
    said = []
    for hook in (row["chosen_a"], row["chosen_b"]):
        here = cells[same & (cells["hook"] == hook) & cells["difference"].notna()]
        site = site_label(hook)
        said.append(f"at {site} {gap_text(here.iloc[0])}" if len(here) else f"{site} has no value in both")
    return f"At one site in both: {', '.join(said)}."


def _counts(cells: pd.DataFrame, n_only: int) -> str:
    """How many cells say what, each by itself and all at once."""
    known = cells[(cells["metric"] != "selected") & (cells["verdict"] != "NA") & (cells["reason"] != UNEMBEDDED)]
    if known.empty:
        return "The runs have no cell in common that has a value in both."
    counts = {word: int((known["verdict"] == word).sum()) for word in VERDICTS}
    left_out = f" {n_only} more {'is' if n_only == 1 else 'are'} of one run alone." if n_only else ""
    if counts["equal"] == len(known):
        return f"All {len(known)} cells of both are equal, number for number.{left_out}"
    sure = int(((known["band_high"] < 0) | (known["band_low"] > 0)).sum())
    said = f"Of {len(known)} cells of both, B is better at {counts['better']}, worse at {counts['worse']}"
    said += f", equal at {counts['equal']}" if counts["equal"] else ""
    said += f"; {counts['cannot tell']} cannot be told" if counts["cannot tell"] else ""
    said += f". {sure} of them hold when all cells are looked at at once" if known["band_low"].notna().any() else ""
    return f"{said}.{left_out}"


def _caution(told: pd.DataFrame) -> str:
    different, unknown = (list(told.loc[told["verdict"] == word, "what"]) for word in ("different", "unknown"))
    if not different and not unknown:
        return "Everything that should be the same is: model, data, floor, readers and code."
    said = f"Different: {', '.join(different)}." if different else "Nothing is known to differ."
    return said + (f" Unknown: {', '.join(unknown)}." if unknown else "")


def _how(cells: pd.DataFrame) -> str:
    hows = set(cells["how"]) - {""}
    parts = []
    if "paired" in hows:
        n = int(cells.loc[cells["how"] == "paired", "groups"].min())
        few = f", fewer than {FEW_CLUSTERS}: intervals are too short" if n < FEW_CLUSTERS else ""
        parts.append(f"paired over {n:,} groups tested alike in both{few}")
    if "unpaired" in hows:
        parts.append("unpaired, since nothing shows that both tested the same rows")
    if "from both intervals" in hows:
        parts.append("taken from both intervals, as if the runs shared no row")
    return f"Differences are {'; '.join(parts)}." if parts else ""
