"""What a run found in one to three sentences, made from its records alone, and what to be wary of.

The site and level of the first sentence are those that selection rows prefer (records of metric `selected`), never the
largest of the test values, and never the site that the unembedding reads: a linear reader there is the unembedding.
Where they prefer that one, it is the site they like best of the others (`select_bits` of the run's table `sites`).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from dataclasses import dataclass, field

import pandas as pd

from probekit.errors import printable
from probekit.levels import WHOLE
from probekit.metrics.bootstrap import FEW_CLUSTERS
from probekit.results.selection import (
    at_domain,
    default_behaviour,
    level_rank,
    na_words,
    one_domain,
    pick,
    site_label,
    unembedding,
)
from probekit.results.tables import spread
from probekit.results.text import number, value_text

_FUNCTIONS = {
    "one_threshold": "one threshold", "two_thresholds": "two thresholds", "quadratic": "a quadratic",
    "bilinear": "a bilinear function", "cubic": "a cubic", "mlp16": "a small MLP",
}  # fmt: skip


HALF = 0.5  # of the probability, below which answers are told to be few


@dataclass(frozen=True)
class Headline:
    """sentences: one to three, for people. warnings: what to be wary of, a sentence each; often none."""

    sentences: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unembedding: str = field(default="", repr=False)

    def __str__(self) -> str:
        return " ".join((*self.sentences, *self.warnings))


def headline(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> Headline:
    """The headline of one behaviour, fitted and tested in one domain, read at one rule of positions."""
    behaviour = behaviour or default_behaviour(frame)
    if not behaviour:
        return Headline(("Nothing was measured: there are no records of a behaviour.",), _failed(frame))
    rows = pick(frame, behaviour=behaviour, metric=("read", "selected"), position=position)
    domain = one_domain(rows, domain)
    rows = at_domain(rows, domain, seen=True)
    read = rows[(rows["metric"] == "read") & (rows["hook"] != "")]
    last = unembedding(frame, behaviour)
    answers = _told_of(frame).get(behaviour) or {}
    warnings = (*_little_mass(answers), *_missing(read), *_few(read), *_failed(frame))
    where = f"{printable(behaviour)} of {printable(_first(rows, 'model') or 'the model')}"
    if read.empty:
        return Headline((f"{where}: nothing was read.",), warnings, last)
    n, groups = int(read["n"].max()), int(read["groups"].max())
    where += f", {_count(n, 'test row')} of {_count(groups, 'group')}"
    where += f" ({printable(domain)})" if domain else ""
    if read["value"].notna().sum() == 0:
        reason = na_words(read["na_reason"].mode().iloc[0])
        said = (f"{where}: no value at any site ({reason}).", _agrees(answers).strip())
        return Headline(tuple(filter(None, said)), warnings, last)
    splits = spread(frame, behaviour=behaviour, domain=domain or None, position=position)
    sentences = (
        f"{where}: {_chosen(rows, read, last, splits)}.",
        _readable(read, last),
        _floor(read) + _agrees(answers),
    )
    return Headline(tuple(filter(None, sentences)), warnings, last)


def level_words(level: str, source: str = "", k: int | None = None) -> str:
    """A level as the subject of a sentence: `a linear reader`, `4 directions`, `a quadratic of 4 directions`."""
    family, _, member = level.partition(":")
    n = 1 if k is None else k
    directions = f"{n} direction{'s' * (n != 1)}"
    if family == "simple":
        return f"{_FUNCTIONS.get(member, member)} of {directions}"
    if family == "hypothesis":
        return f"the hypothesis '{printable(member)}'"
    if family == "directions" and source == "pca":
        return f"{n} principal component{'s' * (n != 1)}"
    told = {"neurons": f"{n} neuron{'s' * (n != 1)}", "directions": directions, "direction": "one direction",
            "baseline": "the floor", "prior": "the mean law"}  # fmt: skip
    return told.get(family, f"a {family} reader")


def leaves(who: str) -> str:
    """The verb behind `level_words`: 4 directions leave, one leaves."""
    several = (who[0].isdigit() and not who.startswith("1 ")) or who.startswith("two ")
    return "leave" if several else "leaves"


def finding(
    frame: pd.DataFrame, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None
) -> pd.Series | None:
    """The record that the first sentence is of: what the rule prefers, where selection rows prefer it; None without.

    Of a run that read one site alone the record there. Never what the unembedding reads.
    """
    behaviour = behaviour or default_behaviour(frame)
    if not behaviour:
        return None
    rows = pick(frame, behaviour=behaviour, metric=("read", "selected"), position=position)
    rows = at_domain(rows, domain, seen=True)
    read = rows[(rows["metric"] == "read") & (rows["hook"] != "")]
    return _preferred(rows, read, unembedding(frame, behaviour))[0]


def _preferred(rows: pd.DataFrame, read: pd.DataFrame, last: str) -> tuple[pd.Series | None, bool, bool]:
    """(the record of the finding, whether selection rows chose it, whether they prefer the unembedding for linear)."""
    selected = rows[(rows["metric"] == "selected") & rows["value"].notna()]
    if selected.empty and read["hook"].nunique() == 1:
        only = read[read["value"].notna() & ~read["level"].isin(["prior", "baseline"])]
        return min((row for _, row in only.iterrows()), key=preference, default=None), False, False
    at_last = selected[(selected["hook"] == last) & (last != "")]
    left = selected.drop(index=at_last.index)
    if len(at_last):  # principal components are fitted to no behaviour: what they leave is not what can be read there
        left = left[left["source"] != "pca"]
    instead = [before(read, last, level) for level in WHOLE if level in set(at_last["level"])]
    known = [*(row for _, row in left.iterrows()), *(row for row in instead if row is not None)]
    return min(known, key=preference, default=None), True, "linear" in set(at_last["level"])


def before(read: pd.DataFrame, last: str, level: str) -> pd.Series | None:
    """The record of a level at the site that selection rows prefer of those before the unembedding's.

    As a record of metric `selected`, which it is in all but name. With several folds the mean of what they miss
    chooses. None where the run kept nothing of its selection rows, or read no other site.
    """
    if "select_bits" not in read:
        return None
    known = (read["level"] == level) & (read["hook"] != last) & read["value"].notna()
    bits = read["select_bits"].where(known)
    if bits.isna().all():
        return None
    row = read.loc[bits.idxmin()].copy()
    row["metric"] = "selected"
    return row


def _chosen(rows: pd.DataFrame, read: pd.DataFrame, last: str, splits: pd.DataFrame) -> str:
    """What the level preferred by rule leaves at the site that selection rows prefer for it."""
    row, by_selection, at_last = _preferred(rows, read, last)
    instead = at_last and row is not None and row["level"] == "linear"  # the best of what is left
    aside = "; for a linear reader they prefer the unembedding, which is no finding" if at_last and not instead else ""
    if row is None:
        return "no site was chosen on selection rows" + (" but the unembedding's, which is no finding" * at_last)
    preferred = ", the site that selection rows prefer," if by_selection else ""
    preferred = ", the site before the unembedding's that selection rows prefer," if instead else preferred
    what = level_words(row["level"], row["source"], None if pd.isna(row["k"]) else int(row["k"]))
    scale = "0 explains all, 1 adds nothing to the input"
    at = f"{printable(site_label(row['hook']))}{preferred}"
    if preferred and _folds_differ(read, row):
        at = f"the site that selection rows prefer in each fold, most often {printable(site_label(row['hook']))},"
    beside = f"{_over_splits(row, splits)}{aside}{_more_rows(read, row)}"
    return f"{what} at {at} {leaves(what)} {value_text(row)} unexplained ({scale}){beside}"


def _of_reader(frame: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """What a frame says of the reader of a row at its site."""
    same = frame[(frame["hook"] == row["hook"]) & (frame["level"] == row["level"]) & (frame["source"] == row["source"])]
    return same[same["k"].isna() if pd.isna(row["k"]) else same["k"] == row["k"]]


def _folds_differ(read: pd.DataFrame, row: pd.Series) -> bool:
    """Whether the value is of several sites: it is not that of the site which its record names."""
    same = _of_reader(read, row)
    return len(same) == 1 and abs(float(same["value"].iloc[0]) - float(row["value"])) > 1e-6


def _over_splits(row: pd.Series, splits: pd.DataFrame) -> str:
    """The spread over splits of the rows of the reader at that site, where the run has several."""
    same = _of_reader(splits, row)
    if same.empty:
        return ""
    told = same.iloc[0]
    return f", {number(told['lowest'])} to {number(told['highest'])} over {int(told['splits'])} splits of the rows"


def _more_rows(read: pd.DataFrame, row: pd.Series) -> str:
    """What a value of few rows bounds: more of them could only have explained more."""
    here = read[(read["hook"] == row["hook"]) & (read["level"] == row["level"]) & read["n_fit"].notna()]
    falling = here[here["falls_low"] > 0]
    if falling.empty:
        return ""
    told = falling.iloc[0]
    fell = f"{number(told['falls'])} [{number(told['falls_low'])}, {number(told['falls_high'])}]"
    least = f"; so at least {number(1 - row['value'])} is explained" if row["value"] < 1 else ""
    return f"{least}, more with more rows: the second half of {int(told['n_fit']):,} fit rows brought {fell}"


def preference(row: pd.Series) -> tuple:
    """The rule of the headline, which looks at no value.

    `linear`, `nonlinear`, then the richest; more directions before fewer, the behaviour's own before components.
    """
    rank, name = level_rank(row["level"])
    first = ("linear", "nonlinear").index(row["level"]) if row["level"] in ("linear", "nonlinear") else 2
    k = 0 if pd.isna(row["k"]) else int(row["k"])
    return first, -rank, name, row["source"] == "pca", -k, row["source"]


def _readable(read: pd.DataFrame, last: str) -> str:
    """Where along the network the behaviour becomes readable; the curve's own band decides, where the run has one."""
    for level in ("linear", "nonlinear"):
        curve = read[(read["level"] == level) & (read["hook"] != last) & read["value"].notna()]
        if curve["hook"].nunique() >= 2:
            break
    else:
        return ""
    who = level_words(level)
    high = curve["band_high"].fillna(curve["high"]) if "band_high" in curve else curve["high"]
    found = curve[high < 1]
    if found.empty:
        return f"No site is readable for {who}: every interval reaches 1."
    half = curve[high < 0.5]
    start = found.iloc[0]
    said = f"{who[0].upper()}{who[1:]} first explains something at {_at(start)}"
    if half.empty:
        likely = curve[curve["value"] < 0.5]
        if len(likely):
            return f"{said} and, though its interval reaches half, more than half first at {_at(likely.iloc[0])}."
        return f"{said} and more than half nowhere" + (" before the unembedding." if last else ".")
    return (
        f"{said}."
        if half.iloc[0]["hook"] == start["hook"]
        else f"{said} and more than half first at {_at(half.iloc[0])}."
    )


def _at(row: pd.Series) -> str:
    return f"{printable(site_label(row['hook']))} ({number(row['value'])} unexplained)"


def _floor(read: pd.DataFrame) -> str:
    """What the input alone explains: in bits, or of a number's variance."""
    known = read[read["floor_bits"].notna() & read["ceiling_bits"].notna()]
    if known.empty:
        return ""
    left = float((known["floor_bits"] - known["ceiling_bits"]).iloc[0])
    number_read = known[(known["level"] == "baseline") & known["r2"].notna()]
    if len(number_read):
        return f"The input alone explains {number(number_read['r2'].iloc[0])} of the number's variance (R²)."
    aside = ""
    floor = known[(known["level"] == "baseline") & known["auroc"].notna()]
    if len(floor):
        aside = f" (AUROC {number(floor['auroc'].iloc[0])})"
    prior = known[(known["level"] == "prior") & known["bits"].notna()]
    if prior.empty:
        return f"The input alone{aside} leaves {left:.2f} bits to explain."
    missed = float((prior["bits"] - prior["ceiling_bits"]).iloc[0])
    return (
        f"The input alone{aside} explains {missed - left:.2f} of the {missed:.2f} bits that the mean law misses; "
        f"{left:.2f} are left to explain."
    )


def _told_of(frame: pd.DataFrame) -> dict[str, dict]:
    """What the run's manifest says of each behaviour's outcomes."""
    return ((frame.attrs.get("manifest") or {}).get("provenance") or {}).get("behaviours") or {}


def _agrees(answers: dict) -> str:
    """How often the model's likeliest answer is a label of the same names."""
    told = [
        f"{share:.0%} of rows it is the label {printable(name)}" for name, share in answers.get("agrees", {}).items()
    ]
    return f" The model's own answer: in {', in '.join(told)}." if told else ""


def _little_mass(answers: dict) -> tuple[str, ...]:
    if not answers.get("likeliest") or answers["covered_mass"] >= HALF:
        return ()
    return (
        f"The answers asked for hold {answers['covered_mass']:.1%} of the probability; most rows would go on with "
        f"'{printable(answers['likeliest'])}'.",
    )


def _missing(read: pd.DataFrame) -> tuple[str, ...]:
    empty = read[read["value"].isna()]
    if empty.empty:
        return ()
    counts = empty["na_reason"].map(na_words).value_counts()
    why = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    return (f"{len(empty)} of {_count(len(read), 'cell')} {'is' if len(empty) == 1 else 'are'} NA: {why}.",)


def _few(read: pd.DataFrame) -> tuple[str, ...]:
    groups = int(read["groups"].max()) if len(read) else 0
    few = 0 < groups < FEW_CLUSTERS
    return (f"Only {_count(groups, 'group')}: below {FEW_CLUSTERS} the intervals are too short.",) if few else ()


def _failed(frame: pd.DataFrame) -> tuple[str, ...]:
    failed = ((frame.attrs.get("manifest") or {}).get("cells") or {}).get("failed") or []
    if not failed:
        return ()
    first = printable(str(failed[0].get("error", "")))
    return (f"{_count(len(failed), 'cell')} failed: {first[:160].rstrip('.')}.",)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _first(rows: pd.DataFrame, column: str) -> str:
    return next((str(value) for value in rows[column].unique() if value), "")
