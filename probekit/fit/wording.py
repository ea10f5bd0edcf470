"""Wording: the columns that a linear reader of text itself gets, so that a floor knows what n-grams give away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

COLUMNS, MANY_ROWS, FEWER_COLUMNS = 4_096, 4_096, 1_024  # of each kind; from so many rows on; then of each kind


@dataclass(frozen=True)
class Wording:
    """Word 1-2-grams and character 1-3-grams of rows of text, the commonest ones, by TF-IDF.

    Few rows get more columns than many: their reader works in the span of the rows.
    """

    words: Any
    characters: Any

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Wording":
        """Which n-grams there are, and how rare each is, in these rows alone."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        most = COLUMNS if len(texts) < MANY_ROWS else FEWER_COLUMNS
        # A word is whatever stands between spaces or marks, single letters and marks included; text may have no words.
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", max_features=most, sublinear_tf=True)
        characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), max_features=most, sublinear_tf=True)
        # A stop where nothing else is, so that rows without any text leave a vocabulary of one.
        seen = [text if text.strip() else "." for text in texts]
        return cls(words.fit(seen), characters.fit(seen))

    def columns(self, texts: Sequence[str]) -> Float[Tensor, "n f"]:
        """Rows of length one for each of both kinds."""
        parts = [kind.transform(list(texts)).toarray() for kind in (self.words, self.characters)]
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
