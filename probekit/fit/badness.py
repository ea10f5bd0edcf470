"""Badness: where a model errs, learned from what a description says of seen inputs, then frozen."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.foresight import FEW

FOLDS = 3
PENALTIES = (0.01, 1.0)  # C of the logistic regressions that are tried


@dataclass(frozen=True)
class Predictor:
    """A frozen reader of descriptions. kind: what was chosen; n_fit, n_bad: rows it was fitted on; digest: of them.

    It sees what a description says of an input, and never the model: `scores` can be made before the model is run.

    >>> import numpy as np
    >>> import probekit as pk
    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> pk.Predictor.fit(x, x[:, 0] > 1, np.arange(300)).scores(x).shape
    (300,)
    """

    kind: str
    n_fit: int
    n_bad: int
    digest: str
    _fitted: Any

    @classmethod
    def fit(cls, described: NDArray, bad: NDArray[np.bool_], group: NDArray, seed: int = 0) -> "Predictor":
        """From seen rows: described [n, p] numbers, bad [n], group [n], kept on one side of every fold.

        Logistic regressions and boosted trees are tried; the one of the highest average precision on groups left out is
        fitted on all rows. Raises BadInput with fewer than 8 bad rows, 8 good ones or 3 groups, or another length.

        >>> import numpy as np
        >>> import probekit as pk
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> predictor = pk.Predictor.fit(x, x[:, 0] > 1, np.arange(300))
        >>> bool(predictor.scores(np.array([[2.0, 0.0]]))[0] > predictor.scores(np.array([[0.0, 2.0]]))[0])
        True
        """
        x, bad = np.asarray(described, dtype=np.float64), np.asarray(bad, dtype=np.bool_)
        n_groups = len(np.unique(group))
        if x.ndim != 2 or not len(x) == len(bad) == len(group):
            raise BadInput(
                f"described is one row of numbers per answer: found {x.shape} for {len(bad)} of {len(group)}."
            )
        if min(bad.sum(), (~bad).sum()) < FEW or n_groups < FOLDS:
            raise BadInput(
                f"where a model errs is learned from {FEW} bad rows, {FEW} good ones and {FOLDS} groups at least; "
                f"found {int(bad.sum())}, {int((~bad).sum())} and {n_groups}: give more seen rows, or a milder "
                "notion of bad."
            )
        made = _candidates(seed)
        kind = max(made, key=lambda name: _left_out(made[name], x, bad, np.asarray(group), seed))
        fitted = made[kind]().fit(x, bad)
        told = sha256(np.ascontiguousarray(x).tobytes() + bad.tobytes() + f"{x.shape}{kind}{seed}".encode()).hexdigest()
        return cls(kind, len(x), int(bad.sum()), told, fitted)

    def scores(self, described: NDArray) -> NDArray[np.float64]:
        """How bad the model is expected to be at each row of [n, p]: [n], the worst highest."""
        return self._fitted.predict_proba(np.asarray(described, dtype=np.float64))[:, 1].astype(np.float64)


def _candidates(seed: int) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = {
        f"logistic, C {c:g}": lambda c=c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2_000))
        for c in PENALTIES
    }
    return linear | {
        "boosted trees": lambda: HistGradientBoostingClassifier(
            max_iter=150, learning_rate=0.06, max_leaf_nodes=15, l2_regularization=1.0, early_stopping=False,  # pyright: ignore[reportArgumentType]
            random_state=seed,
        )
    }  # fmt: skip


def _left_out(make: Any, x: NDArray, bad: NDArray[np.bool_], group: NDArray, seed: int) -> float:
    """Mean average precision on groups left out; folds that lack either kind of row do not count."""
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedGroupKFold

    found = []
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fit, test in folds.split(x, bad, group):
        if bad[test].any() and bad[fit].any() and not bad[fit].all():
            found.append(average_precision_score(bad[test], make().fit(x[fit], bad[fit]).predict_proba(x[test])[:, 1]))
    return float(np.mean(found)) if found else 0.0
