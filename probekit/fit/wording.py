"""Wording: the columns that a linear reader of text itself gets, so that a floor knows what n-grams give away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

COLUMNS, MANY_ROWS, FEWER_COLUMNS = 4_096, 4_096, 1_024  # of each kind; from so many rows on; then of each kind
# One ridge is meant for all columns. Numbers beside a text, such as a one-hot of its last tokens, vary several times as
# much as the TF-IDF of either kind, whose rows have length one, and drown what it says: their variance is held to this.
QUIET = 0.1
# A word is whatever stands between spaces or marks, single letters and marks included; text may have no words.
KINDS = (
    {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"},
    {"ngram_range": (1, 3), "analyzer": "char"},
)


@dataclass(frozen=True)
class Grams:
    """How often each row of text has each n-gram, of words and of characters: a sparse [n, terms] and terms of each.

    Counted once, whatever is then learnt on some of the rows.
    """

    counts: tuple[Any, ...]
    terms: tuple[NDArray[np.object_], ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Grams":
        from sklearn.feature_extraction.text import CountVectorizer

        counters = [CountVectorizer(**kind) for kind in KINDS]
        # One row more, that is not kept: without any text there would be no vocabulary.
        counts = tuple(counter.fit_transform([*texts, "."])[:-1] for counter in counters)
        return cls(counts, tuple(counter.get_feature_names_out() for counter in counters))

    def rows(self, at: NDArray[np.int64]) -> "Grams":
        """Some of the rows."""
        return Grams(tuple(counts[at] for counts in self.counts), self.terms)


@dataclass(frozen=True)
class Wording:
    """Word 1-2-grams and character 1-3-grams of rows of text, the commonest ones, by TF-IDF.

    Few rows get more columns than many: their reader works in the span of the rows. terms, weighings: of either kind.
    loudness: by what numbers beside the text are multiplied.
    """

    terms: tuple[NDArray[np.object_], ...]
    weighings: tuple[Any, ...]
    loudness: Float[Tensor, " numbers"]

    @classmethod
    def of(
        cls, grams: Grams, numbers: Float[Tensor, "n numbers"] | None = None, widths: Sequence[int] = ()
    ) -> "Wording":
        """Which n-grams there are, and how rare each is, in these rows alone; widths: of the blocks of numbers."""
        from sklearn.feature_extraction.text import TfidfTransformer

        terms, weighings = [], []
        for counts, names in zip(grams.counts, grams.terms, strict=True):
            n, total = counts.shape[0], np.asarray(counts.sum(0)).ravel()
            commonest = np.argsort(-total, kind="stable")[: COLUMNS if n < MANY_ROWS else FEWER_COLUMNS]
            kept = np.sort(commonest[: max(1, int((total[commonest] > 0).sum()))])
            terms.append(names[kept])
            weighings.append(TfidfTransformer(sublinear_tf=True).fit(counts[:, kept]))
        return cls(tuple(terms), tuple(weighings), _loudness(numbers, widths))

    def columns(self, grams: Grams) -> Float[Tensor, "n f"]:
        """Rows of length one for each of both kinds."""
        parts = []
        for counts, names, known, weighing in zip(grams.counts, grams.terms, self.terms, self.weighings, strict=True):
            place = np.minimum(np.searchsorted(names, known), len(names) - 1)
            found = names[place] == known
            seen = counts[:, place]
            if not found.all():
                seen = seen.multiply(found).tocsr()  # a term that these rows lack has no column among theirs
                seen.eliminate_zeros()
            parts.append(torch.from_numpy(weighing.transform(seen).astype(np.float32).toarray()))
        return torch.cat(parts, 1)


def _loudness(numbers: Float[Tensor, "n numbers"] | None, widths: Sequence[int]) -> Float[Tensor, " numbers"]:
    """What leaves each block of numbers a total variance of QUIET at most."""
    if numbers is None or not widths:
        return torch.empty(0)
    total = torch.stack([block.sum() for block in numbers.var(0, correction=0).split(list(widths))])
    return (QUIET / total.clamp_min(QUIET)).sqrt().repeat_interleave(torch.tensor(widths))
