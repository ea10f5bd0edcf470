"""Examples: the rows behind a run's numbers, picked from its folder as frames."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from probekit.errors import BadInput, RunError
from probekit.metrics.bootstrap import Clusters
from probekit.results.selection import (
    at_position,
    check_known,
    check_one_run,
    check_selection,
    default_behaviour,
    lowest_seeds,
)

MOST = 10  # rows or pairs that are shown
N_BOOTSTRAP = 1_000  # for intervals of a bin


@runtime_checkable
class KeepsRows(Protocol):
    """A run folder that was opened (`probekit.open_run`)."""

    @property
    def name(self) -> str: ...

    @property
    def records(self) -> Any: ...  # a frame: what is a cached property is none to pyright

    def table(self, name: str) -> pd.DataFrame: ...

    def rows(
        self, *, hook: str | None = None, behaviour: str | None = None, position: str | None = None,
        level: str | None = None, source: str | None = None, k: int | None = None,
    ) -> pd.DataFrame: ...  # fmt: skip


def examples(
    run: KeepsRows, *, behaviour: str | None = None, hook: str | None = None, position: str | None = None,
    level: str = "linear", source: str | None = None, k: int | None = None, most: int = MOST,
) -> pd.DataFrame:  # fmt: skip
    """The test rows that one reader misses most, the worst first: `missed_bits`, what the model did, and the text.

    bits, floor_bits, ceiling_bits: of the row; outcome, probability: the model's likeliest; position: the token that is
    read. `attrs` tells n, the rows that were tested, and means of missed bits of the reader and of the input alone.
    Of a law, in runs that keep it, also said and confidence: the reader's likeliest and how probable it finds that;
    agreed: how probable the model does.
    """
    records = run.records
    behaviour, position = _asked(records, behaviour, position)
    hook = hook or _selected(records, behaviour, position, level)
    rows = _one_reader(run.rows(hook=hook, behaviour=behaviour, position=position, level=level), source, k)
    if "ceiling_bits" not in rows:
        raise BadInput(
            f"{run.name} is not finished: what its rows are is told when it is; `probekit run SPEC` goes on."
        )
    missed = rows["bits"].astype(float) - rows["ceiling_bits"]
    attrs = {"n": len(rows), "missed": float(missed.mean()),
             "floor_missed": float((rows["floor_bits"] - rows["ceiling_bits"]).mean())}  # fmt: skip
    worst = rows.assign(missed_bits=missed).sort_values("missed_bits", ascending=False, kind="stable").head(most)
    told = worst.merge(run.table("texts"), how="left", on=["example", "position"])
    columns = ["hook", "behaviour", "rule", "level", "source", "k", "missed_bits", "bits", "floor_bits", "ceiling_bits",
               "outcome", "probability", "domain", "group", "example", "position", "text"]  # fmt: skip
    columns += [name for name in ("said", "confidence", "agreed") if name in told]
    found = told[columns].reset_index(drop=True)
    found.attrs.update(attrs)
    return found


def added_bits(rows: pd.DataFrame) -> pd.Series:
    """What a reader adds at each row to the input alone, in bits: `floor_bits` less `bits`; below 0 it misleads there.

    rows: as `Run.rows` or `examples` gives them. Over all test rows their sum is 1 less the unexplained share, times
    the sum of what the floor leaves (`floor_bits` less `ceiling_bits`): so an example's sum, or a token's, is its part
    of what the reader explains (docs/method.md section 1).

    >>> rows = pd.DataFrame({"floor_bits": [1.0, 0.5], "bits": [0.25, 0.75], "ceiling_bits": [0.0, 0.0]})
    >>> added_bits(rows).tolist()
    [0.75, -0.25]
    """
    return rows["floor_bits"].astype(float) - rows["bits"].astype(float)


def reliability(rows: pd.DataFrame, *, bins: int = 10, seed: int = 0) -> pd.DataFrame:
    """How often a reader is right when it is so sure: rows in bins of equal width of its confidence, lowest first.

    rows: as `Run.rows` or `examples` gives them, with confidence, agreed and group. confidence: its mean in the bin;
    value: the mean probability that the behaviour gives to what is said, with its 95 % interval over groups (NA below
    two groups); n, groups. `attrs` tells gap: the mean distance of the two, weighted by rows. Empty without rows.
    """
    known = rows[rows["confidence"].notna() & rows["agreed"].notna()]
    at = np.minimum((known["confidence"].to_numpy(dtype=float) * bins).astype(int), bins - 1)
    out = []
    for one in np.unique(at):
        part = known[at == one]
        agreed, clusters = (
            part["agreed"].to_numpy(dtype=float),
            Clusters.of(part["group"].to_numpy(), N_BOOTSTRAP, seed),
        )
        drawn = (clusters.weights @ clusters.sums(agreed)) / (clusters.weights @ clusters.sizes)
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(clusters.names) > 1 else (np.nan, np.nan)
        out.append({"bin": one / bins, "confidence": float(part["confidence"].mean()), "value": float(agreed.mean()),
                    "low": float(low), "high": float(high), "n": len(part), "groups": len(clusters.names)})  # fmt: skip
    found = pd.DataFrame(out, columns=["bin", "confidence", "value", "low", "high", "n", "groups"])
    far = (found["confidence"] - found["value"]).abs()
    found.attrs["gap"] = float((far * found["n"]).sum() / found["n"].sum()) if len(found) else float("nan")
    return found


def squares(kept: pd.DataFrame, row: Mapping[str, Any] | pd.Series) -> pd.DataFrame:
    """What the features of a hypothesis are at a row of `examples` and were decoded to at its hook point.

    kept: the run's table `features`. A row per feature and target: feature, target, is, decoded. Empty where none was
    decoded there.
    """
    names = ["feature", "target", "is", "decoded"]
    here = kept[(kept["example"] == row["example"]) & (kept["position"] == row["position"])
                & (kept["hook"] == row["hook"]) & (kept["rule"] == row["rule"])].drop_duplicates("feature")  # fmt: skip
    parts = [
        pd.DataFrame({"feature": one["feature"], "target": one["targets"], "is": one["classes"][one["is"]],
                      "decoded": one["classes"][one["decoded"]]})
        for _, one in here.iterrows()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def counterexamples(
    run: KeepsRows, *, behaviour: str | None = None, hook: str | None = None, position: str | None = None,
    level: str = "linear", k: int | None = None, most: int = MOST,
) -> pd.DataFrame:  # fmt: skip
    """Pairs of test rows that a reader cannot tell apart and the model treats differently, the clearest first.

    Of `linear`, or of the directions that were fitted to the behaviour (level `directions`, with k). distance,
    percentile: of their readouts; divergence_bits: of their laws; ratio: over two random rows; `_a` and `_b`: what each
    of the two is. `attrs` tells alike_bits and random_bits: the mean divergence of all pairs that are read alike, and
    of random ones.
    """
    records = run.records
    behaviour, position = _asked(records, behaviour, position)
    alike, found = (_of_behaviour(_kept(run, name), behaviour, position) for name in ("alike", "counterexamples"))
    check_known("level", level, list(alike["level"].unique()))
    hook = _known_hook(hook, alike, _selected(records, behaviour, position, level))
    told = _one_reader(alike[(alike["hook"] == hook) & (alike["level"] == level)], None, k)
    if told.empty:
        raise BadInput(f"{run.name} has no pairs of {level} at {hook}: `probekit show` says why it was not read.")
    one = told.iloc[0]
    found = found[(found["hook"] == hook) & (found["level"] == level)]
    found = found[found["k"].fillna(-1) == (-1 if pd.isna(one["k"]) else one["k"])].head(most).reset_index(drop=True)
    found.attrs.update({name: one[name] for name in ("hook", "behaviour", "rule", "level", "k")})
    found.attrs.update({name: float(one[name]) for name in ("n_alike", "alike_bits", "random_bits")})
    return found


def plausible(
    run: KeepsRows, *, behaviour: str | None = None, hook: str | None = None, position: str | None = None,
    domain: str | None = None, most: int = MOST,
) -> pd.DataFrame:  # fmt: skip
    """Rows of which `linear` is confident, which it answers consistently, and wrongly: the surest of each domain.

    said, confidence: its likeliest outcome and the probability of that; outcome: the model's. consistent_with: the
    other row of a `pair`, rows of its `group` that should be answered alike, or `none`, where consistency could not be
    asked for. `plausible_rates` says how often.
    """
    rows, _ = _plausible(run, "plausible", behaviour, hook, position, domain)
    return rows.groupby("domain", sort=False).head(most).reset_index(drop=True)


def plausible_rates(
    run: KeepsRows, *, behaviour: str | None = None, hook: str | None = None, position: str | None = None,
    domain: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """How often, by domain: `rate` with its 95 % interval over groups, of n rows.

    confident, consistent: shares of rows; wrong_of_confident: of those that it is confident of, how many are wrong.
    """
    return _plausible(run, "plausible_rates", behaviour, hook, position, domain)[0].reset_index(drop=True)


KINDS: Mapping[str, Callable[..., pd.DataFrame]] = {
    "examples": examples, "counterexamples": counterexamples, "plausible": plausible,
    "plausible_rates": plausible_rates,
}  # fmt: skip


def rows_table(kind: str, run: object, **selection: Any) -> pd.DataFrame:
    """A table of KINDS. Raises BadInput for records, which hold no rows, and for an unknown selection."""
    if not isinstance(run, KeepsRows):
        raise BadInput(
            f"{kind} are rows, which a run folder keeps and its records do not: give what `probekit.open_run` opens."
        )
    check_selection(kind, KINDS[kind], selection)
    return KINDS[kind](run, **selection)


def _plausible(
    run: KeepsRows, name: str, behaviour: str | None, hook: str | None, position: str | None, domain: str | None
) -> tuple[pd.DataFrame, str]:
    records = run.records
    behaviour, position = _asked(records, behaviour, position)
    rates = _of_behaviour(_kept(run, "plausible_rates"), behaviour, position)
    if rates.empty:
        raise BadInput(
            f"{run.name} has no answers of linear on {behaviour}: it was not read, or it is a number, which is not "
            "right or wrong."
        )
    hook = _known_hook(hook, rates, _selected(records, behaviour, position, "linear"))
    found = rates if name == "plausible_rates" else _of_behaviour(_kept(run, name), behaviour, position)
    if domain is not None:
        check_known("domain", domain, list(rates["domain"].unique()))
        found = found[found["domain"] == domain]
    return found[found["hook"] == hook], hook


def _asked(records: pd.DataFrame, behaviour: str | None, position: str | None) -> tuple[str, str]:
    """The behaviour and the rule of positions that are meant where they are left out, as in every table."""
    check_one_run(records)
    if behaviour is not None:
        check_known("behaviour", behaviour, list(records["behaviour"].unique()))
    behaviour = behaviour or default_behaviour(records)
    rows = at_position(records[records["behaviour"] == behaviour], position)
    return behaviour, rows["position"].iloc[0] if len(rows) else "all"


def _selected(records: pd.DataFrame, behaviour: str, position: str, level: str) -> str:
    """The hook point that selection rows prefer for a level, else for `linear`, else the last one read."""
    rows = lowest_seeds(records[(records["behaviour"] == behaviour) & (records["position"] == position)])
    rows = rows[(rows["control"] == "") & (rows["hook"] != "")]
    chosen = rows[(rows["metric"] == "selected") & rows["value"].notna()]
    for name in (level, "linear"):
        if (chosen["level"] == name).any():
            return str(chosen[chosen["level"] == name]["hook"].iloc[0])
    read = rows[(rows["metric"] == "read") & (rows["level"] == level)]
    return str(read["hook"].iloc[-1]) if len(read) else ""


def _kept(run: KeepsRows, name: str) -> pd.DataFrame:
    try:
        return run.table(name)
    except RunError as error:
        raise BadInput(
            f"{error} It was made before runs kept single rows: run its spec again under another name."
        ) from None


def _of_behaviour(table: pd.DataFrame, behaviour: str, position: str) -> pd.DataFrame:
    return table[(table["behaviour"] == behaviour) & (table["rule"] == position)]


def _known_hook(hook: str | None, table: pd.DataFrame, chosen: str) -> str:
    known = list(table["hook"].unique())
    if hook is not None:
        check_known("hook", hook, known)
    return hook or (chosen if chosen in known or not known else str(known[-1]))


def _one_reader(rows: pd.DataFrame, source: str | None, k: int | None) -> pd.DataFrame:
    """Rows of one source and k: those asked for, else `behaviour` where it is one, and 4 or the middle one."""
    sources = list(rows["source"].unique())
    if source is not None:
        check_known("source", source, sources)
    rows = rows[rows["source"] == (source or ("behaviour" if "behaviour" in sources else (sources or [""])[0]))]
    ks = sorted(int(one) for one in rows["k"].dropna().unique())
    if k is not None and k not in ks:
        raise BadInput(f"nothing was read at k = {k}; there is {', '.join(map(str, ks)) or 'no k of this level'}.")
    chosen = k if k is not None else 4 if 4 in ks else ks[(len(ks) - 1) // 2] if ks else None
    return rows if chosen is None else rows[rows["k"] == chosen]
