"""Rows and pairs of a run in words, for somebody who sees such a table for the first time."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from textwrap import wrap
from typing import Any

import pandas as pd

from probekit.errors import printable
from probekit.results.examples import KINDS, KeepsRows, plausible, plausible_rates, rows_table
from probekit.results.selection import check_selection, site_label, vocabulary
from probekit.results.text import fitted, number

SEEN = 0.005  # of a probability, below which it reads .00
LINES = 2  # of a text that is shown
COMMON = 0.5  # share of words that two texts must have in common, else what differs is not marked
SEALED = 0.1  # of what two random rows differ by: rows that are read alike and differ by less are treated alike


def in_words(kind: str, run: KeepsRows, width: int, **selection: Any) -> str:
    """A table of KINDS as lines of at most `width` columns, each text in a few."""
    lines: Iterable[str]
    if kind in ("plausible", "plausible_rates"):
        check_selection(kind, KINDS[kind], selection)
        which = {name: value for name, value in selection.items() if name != "most"}
        rows = plausible(run, **selection) if kind == "plausible" else None
        lines = _plausible_lines(run.name, rows, plausible_rates(run, **which), width)
    else:
        found = rows_table(kind, run, **selection)
        lines = (_examples_lines if kind == "examples" else _pairs_lines)(run.name, found, width)
    return "\n".join(lines)


def _examples_lines(name: str, found: pd.DataFrame, width: int) -> Iterator[str]:
    first = found.iloc[0]
    of = _where(first, _reader(first))
    mean, alone = number(found.attrs["missed"]), number(found.attrs["floor_missed"])
    yield from wrap(
        f"{name}: the {len(found)} test rows, of {found.attrs['n']:,}, that {of} misses most. Missed bits are what its "
        f"guess costs beyond what the model leaves open itself: {mean} a row on average, {alone} from the input alone.",
        width,
    )
    for i, (_, row) in enumerate(found.iterrows(), 1):
        alone = number(row["floor_bits"] - row["ceiling_bits"])
        yield ""
        yield from _entry(
            f"{i:>2}  {number(row['missed_bits'])} bits missed (input alone {alone}); behaviour {_did(row)}", width
        )
        yield from _shown_text(row["text"], width)
        yield from _entry(f"    {_place(row, True)}", width)


def _pairs_lines(name: str, found: pd.DataFrame, width: int) -> Iterator[str]:
    told = found.attrs
    yield from wrap(f"{name}: pairs of test rows that {_where(told, _reader(told))} cannot tell apart.", width)
    both = zip(found["text_a"].astype(str), found["text_b"].astype(str), strict=True)
    marked = any(common(*texts) >= COMMON for texts in both)
    yield from wrap(verdict(told, len(found)), width)
    if marked:
        yield from wrap("A word in [brackets] is not in the other text.", width)
    for i, (_, pair) in enumerate(found.iterrows(), 1):
        ratio = f", {pair['ratio']:.1f} times what two random rows do" if pair["ratio"] >= 1 else ""
        nearer = f"read more alike than {100 - pair['percentile']:.1f} % of random pairs"
        yield ""
        yield from _entry(f"{i:>2}  behaviour differs by {_bits(pair['divergence_bits'])}{ratio}; {nearer}", width)
        sides = [pair.filter(regex=f"_{side}$").rename(lambda name: name[:-2]) for side in "ab"]
        texts = differing(*(str(side["text"]) for side in sides), LINES * (width - 6))
        for name, side, text in zip("AB", sides, texts, strict=True):
            yield from _entry(f"    {name} behaviour {_did(side)}; {_place(side, False)}", width)
            yield from _shown_text(text, width)


def verdict(told: Mapping[str, Any], n: int) -> str:
    """What all pairs say together, before single ones are looked at."""
    alike, usual = told["alike_bits"], told["random_bits"]
    if pd.isna(alike) or not told["n_alike"]:
        return "No two rows are read alike: the nearest are as far apart as rows are by chance."
    said = f"Rows that are read alike differ in behaviour by {_bits(alike)} on average, any two rows by {_bits(usual)}."
    if n == 0:
        said += " No pair that is read alike differs as much as two random rows do."
    if alike <= SEALED * usual:
        return said + " So what is read decides nearly all of it."
    return said


def _plausible_lines(run: str, rows: pd.DataFrame | None, rates: pd.DataFrame, width: int) -> Iterator[str]:
    first = rates.iloc[0]
    consistent = {"pair": ", consistent with the other row of its pair", "group": ", consistent within its group"}
    how = consistent.get(first["consistent_with"], "")
    lead = (
        f"{run}: answers of {_where(first, 'linear')} that are confident{how}, and wrong: the behaviour is hardly so. "
    )
    lead += "Confident: as its top fifth is, where it was fitted."
    if not how:
        lead += " Whether they are consistent cannot be told: there are no pairs of rows that should be answered alike."
    yield from wrap(lead, width)
    for _, one in rates.iterrows():
        name = printable(one["domain"])
        sure = "" if pd.isna(one["wrong_of_confident"]) else f"; wrong {number(one['wrong_of_confident'])} of confident"
        agree = f"; consistent {number(one['consistent'])}" if how else ""
        yield from _entry(
            f"  {name}: {number(one['rate'])} [{number(one['low'])}, {number(one['high'])}] of {int(one['n']):,} rows "
            f"in {int(one['groups']):,} groups{sure}{agree}", width,
        )  # fmt: skip
    if rows is None:
        return
    for i, (_, row) in enumerate(rows.iterrows(), 1):
        also = f", {_name(row['said'])} ({number(row['said_probability'])})" if row["said_probability"] >= SEEN else ""
        says = f"says {_name(row['said'])} ({number(row['confidence'])}); behaviour {_did(row)}{also}"
        yield ""
        yield from _entry(f"{i:>2}  {says}; {printable(row['domain'])}, {_place(row, True)}", width)
        yield from _shown_text(row["text"], width)
    if rows.empty:
        yield "None of the test rows is such an answer."


def differing(first: str, second: str, most: int) -> tuple[str, str]:
    """Two texts with the words in [brackets] that the other one lacks, in at most `most` columns each.

    What both share is cut first, in its middle. Where little is shared nothing is marked.
    """
    words = first.split(), second.split()
    same = SequenceMatcher(None, *words, autojunk=False)
    if common(first, second) < COMMON:
        return fitted(" ".join(words[0]), most), fitted(" ".join(words[1]), most)
    for around in (10_000, 12, 6, 3, 1):
        said = _marked(words[0], [(a, b, tag) for tag, a, b, _, _ in same.get_opcodes()], around)
        other = _marked(words[1], [(a, b, tag) for tag, _, _, a, b in same.get_opcodes()], around)
        if max(len(said), len(other)) <= most:
            break
    return fitted(said, most), fitted(other, most)


def common(first: str, second: str) -> float:
    """Share of the words of two texts that they have in common, in the same order."""
    return SequenceMatcher(None, first.split(), second.split(), autojunk=False).ratio()


def _marked(words: list[str], parts: Iterable[tuple[int, int, str]], around: int) -> str:
    out: list[str] = []
    for start, stop, tag in parts:
        some = words[start:stop]
        if tag != "equal":
            out += [f"[{' '.join(some)}]"] if some else []
        else:
            out += some if len(some) <= 2 * around + 1 else [*some[:around], "…", *some[-around:]]
    return " ".join(out)


def _where(row: Mapping[str, Any] | pd.Series, reader: str) -> str:
    at = "" if row["rule"] == "all" else f", read at {printable(row['rule'])}"
    return f"{reader} at {site_label(row['hook'])} ({printable(row['behaviour'])}{at})"


def _reader(row: Mapping[str, Any] | pd.Series) -> str:
    return vocabulary(row["level"]) + ("" if pd.isna(row["k"]) else f", k={int(row['k'])},")


def _did(row: pd.Series) -> str:
    sure = "" if pd.isna(row["probability"]) else f" ({number(row['probability'])})"
    return f"{_name(row['outcome'])}{sure}"


def _name(outcome: object) -> str:
    return f"'{printable(str(outcome))}'"


def _bits(value: float) -> str:
    return f"{number(value)} bit"


def _place(row: pd.Series, token: bool) -> str:
    read = f", token {int(row['position'])}" if token else ""
    return f"example {int(row['example'])}{read}, group {printable(str(row['group']))}"


def _entry(text: str, width: int) -> list[str]:
    """One line, folded under itself where it is too long."""
    return wrap(text, width, subsequent_indent="    ", replace_whitespace=False, drop_whitespace=True) or [""]


def _shown_text(text: object, width: int) -> list[str]:
    """A text in at most LINES lines, its middle left out where it is longer, blanks as one."""
    plain = printable(" ".join(("" if pd.isna(text) else str(text)).split()))
    lines = wrap(fitted(plain, LINES * (width - 6) - 2), width - 6) or ["(no text)"]
    return [f"      {line}" for line in lines]
