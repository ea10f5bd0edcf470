"""Minimal pairs of English from a grammar of our own: one beginning, a word that may follow and one that may not.

In the manner of BLiMP (Warstadt et al. 2020), whose sentences are not used: each pair differs in one word, and what
decides it stands earlier in the sentence. A second pool of behaviours that nobody picked for the network at hand.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

NOUNS = (("dog", "dogs"), ("teacher", "teachers"), ("car", "cars"), ("friend", "friends"), ("book", "books"),
         ("doctor", "doctors"), ("house", "houses"), ("king", "kings"))  # fmt: skip
PEOPLE = (("man", "himself"), ("woman", "herself"), ("boy", "himself"), ("girl", "herself"), ("king", "himself"),
          ("queen", "herself"), ("father", "himself"), ("mother", "herself"))  # fmt: skip
LIKES = ("likes", "sees", "knows", "wants", "needs", "helps")
HURT = ("hurt", "saw", "helped", "asked", "told", "washed")
VERBS = (("eat", "ate", "eaten"), ("see", "saw", "seen"), ("take", "took", "taken"), ("write", "wrote", "written"),
         ("know", "knew", "known"), ("break", "broke", "broken"), ("give", "gave", "given"))  # fmt: skip
WHERE = ("near", "behind", "beside", "with", "and not")
COLUMNS = ("phenomenon", "beginning", "right", "wrong", "group")
Row = tuple[str, str, str, str]  # beginning, right, wrong, what could be memorised


class _Draw:
    """Words, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng([seed, 33])

    def of(self, some: tuple):
        """One of them."""
        return some[int(self.generator.integers(len(some)))]


def _are(draw: _Draw, many: int) -> tuple[str, str]:
    return (" are", " is") if many else (" is", " are")


def _agreement(draw: _Draw) -> Row:
    noun, other = draw.of(NOUNS), draw.of(NOUNS)
    many = int(draw.generator.integers(2))
    return f"The {noun[many]} {draw.of(WHERE)} the {other[1 - many]}", *_are(draw, many), noun[0]


def _clause(draw: _Draw) -> Row:
    noun, (person, _), many = draw.of(NOUNS), draw.of(PEOPLE), int(draw.generator.integers(2))
    return f"The {noun[many]} that the {person} {draw.of(LIKES)}", *_are(draw, many), noun[0]


def _determiner(draw: _Draw) -> Row:
    noun, (person, _), many = draw.of(NOUNS), draw.of(PEOPLE), int(draw.generator.integers(2))
    word = draw.of(("these", "those", "many", "two") if many else ("this", "that", "a", "one"))
    return f"The {person} {draw.of(LIKES)} {word}", f" {noun[many]}", f" {noun[1 - many]}", noun[0]


def _reflexive(draw: _Draw) -> Row:
    (person, own), (other, _) = draw.of(PEOPLE), draw.of(PEOPLE)
    wrong = "himself" if own == "herself" else "herself"
    return f"The {person} that the {other} {draw.of(LIKES)} {draw.of(HURT)}", f" {own}", f" {wrong}", person


def _participle(draw: _Draw) -> Row:
    verb, (person, _), has = draw.of(VERBS), draw.of(PEOPLE), int(draw.generator.integers(2))
    noun = draw.of(NOUNS)[int(draw.generator.integers(2))]
    beginning = f"The {person} beside the {noun} {'has' if has else 'never'}"
    return beginning, f" {verb[1 + has]}", f" {verb[2 - has]}", verb[0]


PHENOMENA: dict[str, Callable[[_Draw], Row]] = {
    "agreement": _agreement, "clause": _clause, "determiner": _determiner, "reflexive": _reflexive,
    "participle": _participle,
}  # fmt: skip


def minimal_pairs(n: int, seed: int = 0) -> list[tuple[str, ...]]:
    """n different pairs of each phenomenon as far as there are that many, rows of COLUMNS.

    right, wrong: what may follow the beginning and what may not, with the blank in front. group: the word that could be
    memorised, of the phenomenon.

    >>> from probekit.testbeds.pairs import minimal_pairs
    >>> rows = minimal_pairs(20)
    >>> len(rows), sorted({row[0] for row in rows})
    (100, ['agreement', 'clause', 'determiner', 'participle', 'reflexive'])
    """
    out: list[tuple[str, ...]] = []
    for i, (name, make) in enumerate(PHENOMENA.items()):
        draw, found = _Draw(seed + 1_000 * i), {}
        for _ in range(20 * n):
            beginning, right, wrong, group = make(draw)
            found.setdefault((beginning, right), (name, beginning, right, wrong, f"{name}: {group}"))
            if len(found) == n:
                break
        out += found.values()
    return out


def write_pairs(file: Path, n: int, seed: int = 0) -> None:
    """Write them as a CSV. A job reads `beginning` as its text, and `right` against `wrong` as a `logit_diff`."""
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows([COLUMNS, *minimal_pairs(n, seed)])
