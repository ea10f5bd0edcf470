"""Plants of foresight: which inputs a model is bad at, and whether what a description says of an input tells (P20).

The activations here are the description: numbers that are known of an input before any model runs. Outcome 1 of the law
is a bad answer, one input in eight. Truths are `leak` of a ranking at a budget of a tenth (metrics.foresight): 0 where
the bad inputs lead, 1 where the ranking is chance.
"""

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.bootstrap import Clusters
from probekit.metrics.foresight import foresight
from probekit.testbeds.ground_truth.case import SEEN, UNSEEN, Case, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.waiting import on, planted, signs

BUDGET, BASE = 0.1, 0.125  # the budget lies below the share of bad rows, so that the best ranking is right in all
CONFIDENCE = "confidence"  # extra: how sure the model is of its answer, which takes a run
Array = NDArray[np.float64]


def _plant(
    p: Parameters, generator: np.random.Generator, s: Array, described: Array, domain: NDArray[np.str_]
) -> Planted:
    """Bad where the three signs `s` are all positive. The model is surest where it is wrong, and that is no secret."""
    bad = (s > 0).all(1)
    sure = np.where(bad, 0.99, generator.uniform(0.5, 0.95, len(s)))
    told = on(np.where(bad, 1.0, -1.0))
    return planted(p, generator, s, described, p.rotation[: described.shape[1]], told, domain=domain,
                   extra={CONFIDENCE: sure})  # fmt: skip


def _domains(n: int, n_domains: int) -> NDArray[np.str_]:
    return np.repeat([SEEN, UNSEEN][: max(2, n_domains)], n)


def knows_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P20a: the description has the three things that make an input hard."""
    domain = _domains(n, n_domains)
    s = signs(generator, len(domain), 3)
    return _plant(p, generator, s, s, domain)


def lacks_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P20b: the description has three other things."""
    domain = _domains(n, n_domains)
    return _plant(p, generator, signs(generator, len(domain), 3), signs(generator, len(domain), 3), domain)


def partial_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P20c: the description has two of the three."""
    domain = _domains(n, n_domains)
    s = signs(generator, len(domain), 3)
    return _plant(p, generator, s, np.column_stack([s[:, :2], signs(generator, len(s), 1)]), domain)


def passing_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P20d: the description has three things that go with the hard ones where seen, and nowhere else."""
    domain = _domains(n, n_domains)
    s = signs(generator, len(domain), 3)
    described = np.where((domain == SEEN)[:, None], s, signs(generator, len(s), 3))
    return _plant(p, generator, s, described, domain)


def _leak(score: Array, bad: NDArray[np.bool_]) -> float:
    told = foresight({"naive": score}, bad, Clusters.of(np.arange(len(bad)), 2, 0), BUDGET)
    return float(told.rankings["naive"]["leak"].value or 0.0)


def own_confidence(planted: Planted) -> tuple[str, float]:
    """P20a, P20c: the answers that the model is least sure of, where it is confidently wrong."""
    there = planted.domain == UNSEEN
    return "the model's own confidence", _leak(
        -planted.extra[CONFIDENCE][there].astype(np.float64), planted.law[there, 1] > 0.5
    )


def in_sample(planted: Planted) -> tuple[str, float]:
    """P20b: a ranking of the very rows that it was learned on."""
    from sklearn.ensemble import ExtraTreesClassifier

    seen = planted.domain == SEEN
    x, bad = planted.activations[seen], planted.law[seen, 1] > 0.5
    trees = ExtraTreesClassifier(20, random_state=0).fit(x, bad)
    return "ranking of rows it was learned on", _leak(trees.predict_proba(x)[:, 1].astype(np.float64), bad)


def held_out_where_seen(planted: Planted) -> tuple[str, float]:
    """P20d: held-out rows of the seen domain, taken as what to expect of the unseen one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    seen = planted.domain == SEEN
    x, bad = planted.activations[seen], planted.law[seen, 1] > 0.5
    chances = cross_val_predict(LogisticRegression(max_iter=5_000), x, bad, cv=5, method="predict_proba")
    return "held-out rows where seen", _leak(np.asarray(chances, dtype=np.float64)[:, 1], bad)


def _truth(value: float, kind, domain: str = UNSEEN) -> Truth:
    return Truth("foresight", "hypothesis:described", lambda p: value, kind, source="features", test_domain=domain)


# Of the top tenth, drawn evenly from the quarter of inputs where both known signs are positive, half are bad.
HALF = 1 - (0.5 - BASE) / (1 - BASE)
KNOWN, LACKING, HALF_KNOWN, GONE = _truth(0.0, "zero"), _truth(1.0, "one"), _truth(HALF, "interior"), _truth(1.0, "one")
FORESEEN = tuple(
    Case(name, what, fools, truths, naive, truths[0], plant=plant, n_bits=3, domains=2, nuisance=False)
    for name, what, fools, truths, naive, plant in (
        ("P20a", "a description that has what makes an input hard, and a model that is confidently wrong there",
         "the model's own confidence", (KNOWN,), own_confidence, knows_plant),
        ("P20b", "a description that lacks it", "a ranking of the rows that it was learned on", (LACKING,), in_sample,
         lacks_plant),
        ("P20c", "a description that has two of three parts of it", "the model's own confidence", (HALF_KNOWN,),
         own_confidence, partial_plant),
        ("P20d", "a description that has what goes with it where seen only", "held-out rows where seen",
         (GONE, _truth(0.0, "zero", SEEN)), held_out_where_seen, passing_plant),
    )
)  # fmt: skip
