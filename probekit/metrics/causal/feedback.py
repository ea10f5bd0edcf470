"""Feedback: how much of an edit's effect on what a model generates passes through what it has generated itself."""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.ratios import Ratio


def feedback_leak(answers: NDArray, free: NDArray, forced: NDArray, start: int) -> Ratio:
    """1 - changes under teacher forcing / changes when the model runs on its own answers, from the edit on.

    answers [n, T]: as generated without the edit; free [n, T]: generated with an edit at place `start`, each answer
    being the next one's input; forced [n, T]: the same edit while the inputs are `answers`. 0 where the edit works
    without feedback; 1 - 1 / (T - start) of a chain of XOR, each of whose answers hangs on the one before. Raises
    BadInput for shapes that differ, or a place that was not generated.
    """
    answers, free, forced = (np.asarray(given) for given in (answers, free, forced))
    if answers.ndim != 2 or not answers.shape == free.shape == forced.shape:
        found = ", ".join(str(list(given.shape)) for given in (answers, free, forced))
        raise BadInput(f"answers without an edit, free and forced are [n, T] alike; found {found}.")
    if not 0 <= start < answers.shape[1]:
        raise BadInput(f"the edit is at one of {answers.shape[1]} generated places; found {start}.")
    changed = [(given != answers)[:, start:].mean(1) for given in (free, forced)]
    return Ratio(changed[0] - changed[1], changed[0], of_reader=False)
