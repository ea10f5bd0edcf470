"""Plants whose measure does not exist yet: their construction and what will be true of them (P12, P14).

Each truth says what it waits for; when the package learns to measure it, it is asked like any other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.testbeds.ground_truth.case import SEEN, Case, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.exact import auroc_leak, binary_law

Array = NDArray[np.float64]


def planted(
    p: Parameters, generator: np.random.Generator, s: Array, features: Array, rows: Array, law: Array, **more
) -> Planted:
    """Activations gain * features [n, m] @ rows [m, width] + noise."""
    x = p.gains[0] * features @ rows + p.noise * generator.normal(size=(len(s), len(p.rotation)))
    told: dict[str, Any] = {"domain": np.full(len(s), SEEN), **more}
    return Planted(x.astype(np.float32), law.astype(np.float32), s, p, group=np.arange(len(s)), **told)


def signs(generator: np.random.Generator, n: int, n_bits: int) -> Array:
    return (generator.integers(0, 2, size=(n, n_bits)) * 2 - 1).astype(np.float64)


def on(sign: Array) -> Array:
    return binary_law(np.where(sign > 0, 1.0, 0.0))


def tilted_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P12: the model reads s along e_1; the probe looks at an angle theta to it. extra: `probe`, `read_in` [width]."""
    s = signs(generator, n, 1)
    turn = np.deg2rad(p.setting["theta"])
    probe = np.cos(turn) * p.rotation[0] + np.sin(turn) * p.rotation[1]
    extra = {"probe": probe, "read_in": p.rotation[0]}
    return planted(p, generator, s, s, p.rotation[:1], on(s[:, 0]), extra=extra)


def attack_budget(p: Parameters) -> float:
    """P12: the shortest move that leaves the read-in alone and takes the probe to its threshold, |w h| / (|w| sin)."""
    return p.gains[0] / float(np.tan(np.deg2rad(p.setting["theta"])))


def contrast_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P14: statements and their negations (extra `negated`); truth turns over, and so does a louder distractor."""
    s = signs(generator, n, 2)
    rows = np.stack([p.rotation[0], 4 * p.rotation[1]])
    one = planted(p, generator, s, s, rows, on(s[:, 0]))
    negated = planted(p, generator, s, -s, rows, on(s[:, 0])).activations
    return Planted(**{**one.__dict__, "extra": {"negated": negated, "distractor": p.rotation[1]}})


def clean_auroc(planted: Planted) -> tuple[str, float]:
    """P12: how well the probe separates what nobody has attacked."""
    from sklearn.metrics import roc_auc_score

    score = planted.activations @ planted.extra["probe"]
    return "clean AUROC", auroc_leak(float(roc_auc_score(planted.signs[:, 0] > 0, score)))


def ccs_loss(planted: Planted) -> tuple[str, float]:
    """P14: consistency and confidence of the most salient contrast (Burns et al. 2022)."""
    from scipy.special import expit

    x, negated = planted.activations, planted.extra["negated"]
    direction = np.linalg.svd(x - negated - (x - negated).mean(0), full_matrices=False)[2][0]
    up, down = expit(4 * (x @ direction)), expit(4 * (negated @ direction))
    return "CCS loss", float(((up - (1 - down)) ** 2 + np.minimum(up, down) ** 2).mean())


ATTACKED = Truth("attack", "direction", lambda p: 2.0, "positive", 1, "auroc")
DISTRACTED = Truth("read", "direction", lambda p: 1.0, "one", 1, "auroc", source="random")
WAITING = (
    Case(
        "P12",
        "a probe at an angle to what the model reads",
        "clean AUROC",
        (ATTACKED, Truth("attack", "direction", attack_budget, "positive", 1, "budget")),
        clean_auroc,
        ATTACKED,
        plant=tilted_plant,
        nuisance=False,
        n_bits=2,
        choices={"theta": (45.0, 30.0, 60.0)},
    ),
    Case(
        "P14",
        "a distractor that turns over with negation, as truth does",
        "the loss of contrast-consistent search",
        (DISTRACTED, Truth("consistency", "direction", lambda p: 0.0, "zero", 1, source="random")),
        ccs_loss,
        DISTRACTED,
        plant=contrast_plant,
        nuisance=False,
        n_bits=2,
    ),
)
