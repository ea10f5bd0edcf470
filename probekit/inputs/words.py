"""Words: cells as the classes, names and numbers that they are written as, and names that look alike."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
SAY_MISSING = {"nan", "na", "n/a", "<na>", "nat", "none", "null"}  # what programs write where nothing is
KINDS = {str: "a text", bool: "a truth value", int: "a number"}  # of cells that are words


class Written(float):
    """A number of a JSON file that is still the text there: 1.50 is not 1.5 in a template."""

    text: str

    def __new__(cls, text: str) -> "Written":
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


def missing(value: object) -> bool:
    """Whether a cell is empty: null, NaN or an empty text."""
    return value in (None, "") if isinstance(value, str | None) else isinstance(value, float) and math.isnan(value)


def word(value: str | bool | int | float) -> str:
    """A cell as its file writes it: `true` of a truth value, 1.50 of a number in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_number(value: object) -> float | None:
    """The number that a cell is, or that its text says; None where it says none, and for what is not finite."""
    if isinstance(value, str):
        value = float(value) if NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the largest float
        return None


def in_order(words: Iterable[str]) -> list[str]:
    """Classes, each once: integers by size, all else by name."""
    once = set(words)
    if all(map(INTEGER.fullmatch, once)):
        return sorted(once, key=lambda name: (int(name), name))
    return sorted(once)


def alike(words: Iterable[str]) -> list[list[tuple[str, int]]]:
    """Names that differ by blanks, case, leading zeros, what nobody sees or how a letter is composed: how often each.

    Those that are most frequent stand first.
    """
    sets: dict[str, list[tuple[str, int]]] = {}
    for name, n in Counter(words).most_common():
        sets.setdefault(_bare(name), []).append((name, n))
    return [found for found in sets.values() if len(found) > 1]


def say_missing(words: Iterable[str]) -> list[tuple[str, int]]:
    """Names that other programs write where nothing is, such as `NaN`, and how often each stands there."""
    return [(name, n) for name, n in Counter(words).most_common() if name.strip().casefold() in SAY_MISSING]


def _bare(name: str) -> str:
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    bare = " ".join(seen.casefold().split())
    return str(int(bare)) if INTEGER.fullmatch(bare) else bare


def listed(found: Sequence[tuple[str, int]], most: int = 4) -> str:
    """`'yes' (20 rows) and ' yes' (1)`, the first few of them."""
    told = [f"{name[:40]!r} ({n:,})" for name, n in found[:most]]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(told) + more
