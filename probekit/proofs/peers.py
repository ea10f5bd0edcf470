"""Peers: what scikit-learn says of the same rows, on the same splits and as it is usually asked."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from probekit.metrics.auroc import auroc
from probekit.metrics.splits import Split

NEARLY_NOTHING = 1e-12  # inverse penalty of a reader that is left with the prior
MAX_ITERATIONS = 1_000
LEAST_CHANCE = 1e-12


def peer_figures(
    x: Float[np.ndarray, "n d"], label: NDArray[np.int64], splits: Sequence[Split], ridges: Sequence[float]
) -> tuple[float, float | None]:
    """LogisticRegressionCV over the folds of each split: (bits per test row, AUROC of its log odds if there are two).

    Fitted on fit and select rows, its penalty chosen over the split's inner folds among these ridges, in units of the
    median variance, and one that leaves the prior. In the span of the rows, since a ridge looks nowhere else.
    """
    from sklearn.linear_model import LogisticRegressionCV

    bits, odds, told = [], [], []
    two = len(np.unique(label)) == 2
    for split in splits:
        both = np.sort(np.concatenate([split.fit, split.select]))
        centre = x[both].mean(0, dtype=np.float64)
        _, spread, axes = np.linalg.svd(x[both] - centre, full_matrices=False)
        seen = spread > spread[0] * 1e-6
        unit = np.median(spread[seen]) / len(both) ** 0.5
        z = (x - centre) @ axes[seen].T / unit
        # Two outcomes share one ridge on the difference of their weights, which is half of it.
        tried: Any = [NEARLY_NOTHING, *((2 if two else 1) / (len(both) * np.array(ridges)))]
        folds = [tuple(np.searchsorted(both, rows) for rows in pair) for pair in split.inner]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of defaults that will change, and of steps at penalties nobody chooses
            judge = LogisticRegressionCV(
                Cs=tried, cv=folds, scoring="neg_log_loss", tol=1e-6, max_iter=MAX_ITERATIONS
            ).fit(z[both], label[both])
        chance = np.maximum(judge.predict_proba(z[split.test]), LEAST_CHANCE)
        place = np.searchsorted(judge.classes_, label[split.test])
        bits.append(-np.log2(chance[np.arange(len(place)), place]))
        odds.append(np.log(chance[:, -1] / chance[:, 0]))
        told.append(label[split.test])
    area = auroc(np.concatenate(odds), (np.concatenate(told) == label.max()).astype(np.int64)) if two else None
    return float(np.concatenate(bits).mean()), area


def usual_value(layers: Sequence[Float[np.ndarray, "n d"]], label: NDArray[np.int64], seed: int) -> float:
    """FBU as it is usually got: default penalty, rows split at random, the layer that does best on the test rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(label)), test_size=0.25, random_state=seed, stratify=label)
    prior = np.bincount(label[train], minlength=int(label.max()) + 1) / len(train)
    floor = -np.log2(np.maximum(prior, LEAST_CHANCE))[label[test]].mean()
    found = []
    for x in layers:
        judge = LogisticRegression(max_iter=MAX_ITERATIONS).fit(x[train], label[train])
        chance = np.maximum(judge.predict_proba(x[test]), LEAST_CHANCE)
        bits = -np.log2(chance[np.arange(len(test)), np.searchsorted(judge.classes_, label[test])]).mean()
        found.append((float(judge.score(x[test], label[test])), float(bits / floor)))
    return max(found)[1]
