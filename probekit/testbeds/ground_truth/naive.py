"""Naive methods: what is usually done, computed from what was drawn, each off by .2 or more from its case's truth.

All return (name of the method, value on the truth's scale). Fits are scikit-learn's, on all rows unless said otherwise.
"""

import numpy as np
from numpy.typing import NDArray

from probekit.testbeds.ground_truth.case import SEEN, Planted
from probekit.testbeds.ground_truth.exact import entropy

Array = NDArray[np.floating]


def _logistic(x: Array, y: NDArray[np.int64]):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1e3, max_iter=5_000).fit(x, y)


def _bits(probabilities: Array, y: NDArray[np.int64]) -> float:
    return float(-np.log2(np.maximum(probabilities[np.arange(len(y)), y], 1e-12)).mean())


def _entropy_of(y: NDArray[np.int64]) -> float:
    return float(entropy(np.bincount(y) / len(y)))


def _leak(
    x: Array, y: NDArray[np.int64], x_test: Array | None = None, y_test: NDArray[np.int64] | None = None
) -> float:
    """Bits of a logistic regression over those of the labels' prior."""
    model = _logistic(x, y)
    x_test, y_test = (x, y) if x_test is None or y_test is None else (x_test, y_test)
    return _bits(model.predict_proba(x_test), y_test) / _entropy_of(y_test)


def lens(planted: Planted) -> tuple[str, float]:
    """P1: project on the direction that the unembedding reads at the end, where nothing has been written yet."""
    p = planted.parameters
    outward = np.random.default_rng([p.seed, 25]).normal(size=len(p.rotation))
    outward -= outward @ p.rotation[0] * p.rotation[0]
    return "logit lens", _leak((planted.activations @ outward)[:, None], planted.labels())


def threshold_accuracy(planted: Planted) -> tuple[str, float]:
    """P2, P3: leak by accuracy of the best threshold on the sum of the signs."""
    label = planted.law.argmax(1)
    value = planted.signs.sum(1)
    right = [(label == (value > cut)).mean() for cut in np.unique(value)[:-1]]
    most = max(float(label.mean()), 1 - float(label.mean()))
    best = max(max(right), 1 - min(right))
    return "accuracy of the best threshold", float(1 - (best - most) / (1 - most))


def cross_validation(planted: Planted) -> tuple[str, float]:
    """P4: five folds of the seen domain, taken as what to expect of the unseen one."""
    from sklearn.model_selection import cross_val_predict

    seen = planted.domain == SEEN
    x, y = planted.activations[seen], planted.law[seen].argmax(1)
    from sklearn.linear_model import LogisticRegression

    chances = cross_val_predict(LogisticRegression(C=1.0, max_iter=5_000), x, y, cv=5, method="predict_proba")
    return "cross-validation where seen", _bits(np.asarray(chances), y) / _entropy_of(y)


def top_neuron(planted: Planted) -> tuple[str, float]:
    """P6: the single coordinate that does best."""
    y = planted.labels()
    x = planted.activations
    best = int(np.argmax([abs(np.corrcoef(x[:, i], y)[0, 1]) for i in range(x.shape[1])]))
    return "top neuron", _leak(x[:, [best]], y)


def superposition(planted: Planted) -> tuple[str, float]:
    """P9: AUROC says too little is missing where features are dense, R^2 says too much where they are sparse."""
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import roc_auc_score

    x, y = planted.activations, planted.labels()
    if planted.parameters.setting["p"] > 0.3:
        return "AUROC", float(2 * (1 - roc_auc_score(y, _logistic(x, y).decision_function(x))))
    return "R^2", float(1 - LinearRegression().fit(x, y).score(x, y))


def row_split(planted: Planted) -> tuple[str, float]:
    """P10: rows of one type on both sides."""
    half = len(planted.activations) // 2
    x, y = planted.activations, planted.labels()
    return "split by row", _leak(x[:half], y[:half], x[half:], y[half:])


def without_twin(planted: Planted) -> tuple[str, float]:
    """P11: a probe with no random-init baseline."""
    return "probe without a random-init baseline", _leak(_standard(planted.activations), planted.labels())


def linear_probe(planted: Planted) -> tuple[str, float]:
    """P18: all that a linear probe misses is taken for missing."""
    y = planted.law.argmax(1)  # of the likeliest outcome, since a probe knows no law
    return "linear probe", _leak(_standard(planted.activations), y)


def without_ceiling(planted: Planted) -> tuple[str, float]:
    """P19: bits on drawn outcomes over the prior's, the behaviour's own entropy counted as missed."""
    return "bits without the ceiling", _leak(planted.activations, planted.labels())


def seen_difference(planted: Planted) -> tuple[str, float]:
    """The coarse rule: how the two readers compare where they were fitted, taken for how they compare elsewhere."""
    seen = planted.domain == SEEN
    y = planted.labels()
    fine = _bits(_logistic(planted.activations[seen], y[seen]).predict_proba(planted.activations[seen]), y[seen])
    coarse = _bits(_logistic(planted.signs[seen][:, :1], y[seen]).predict_proba(planted.signs[seen][:, :1]), y[seen])
    return "difference where seen", coarse - fine


def _standard(x: NDArray[np.float32]) -> Array:
    deviation = x.std(0)
    return (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
