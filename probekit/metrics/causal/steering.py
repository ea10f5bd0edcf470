"""Steering: what adding a direction does to an answer. Pure functions of laws before and after."""

import numpy as np
from numpy.typing import NDArray

TINY = 1e-12
STILL = 1e-3  # bits of log-odds: an answer that moves by less has not moved


def log_odds(law: NDArray, target: int) -> NDArray[np.float64]:
    """log2 of the chance of an outcome over that of all others, [...] of laws [..., outcome]."""
    chance = np.clip(law[..., target].astype(np.float64), TINY, 1 - TINY)
    return np.log2(chance) - np.log2(1 - chance)


def target_of(readout: NDArray, law: NDArray) -> tuple[int, int]:
    """(the outcome whose log-odds go most with a readout [n] over laws [n, outcome], the sign with which they do)."""
    centred = readout - readout.mean()
    slopes = []
    for outcome in range(law.shape[1]):
        odds = log_odds(law, outcome)
        spread = float(np.sqrt((centred**2).sum() * ((odds - odds.mean()) ** 2).sum()))
        slopes.append(float(centred @ (odds - odds.mean())) / spread if spread > 0 else 0.0)
    # of two outcomes both go alike with it: the first one is told
    target = int(np.argmax(np.abs(np.round(slopes, 9))))
    return target, 1 if slopes[target] >= 0 else -1


def moved(law: NDArray, steered: NDArray, target: int) -> NDArray[np.float64]:
    """Bits by which the log-odds of the target rise: law [n, outcome], steered [n, dose, outcome] -> [n, dose]."""
    return log_odds(steered, target) - log_odds(law, target)[:, None]


def moved_share(law: NDArray, steered: NDArray, target: int) -> NDArray[np.float64]:
    """By how much the share of the target rises: law [n, outcome], steered [n, dose, outcome] -> [n, dose]."""
    return steered[..., target].astype(np.float64) - law[:, None, target].astype(np.float64)


def wrong_way(effect: NDArray, doses: NDArray) -> NDArray[np.float64]:
    """1 where an example moved against its dose by more than STILL: effect [n, dose], doses [dose] -> [n, dose]."""
    return (effect * np.sign(doses) < -STILL).astype(np.float64)
