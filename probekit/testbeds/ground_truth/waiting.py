"""Plants whose measure does not exist yet: their construction and what will be true of them (P12 to P14).

Each truth says what it waits for; when the package learns to measure it, it is asked like any other.
"""

import numpy as np
from numpy.typing import NDArray

from probekit.testbeds.ground_truth.case import SEEN, Case, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.exact import auroc_leak, binary_law

Array = NDArray[np.float64]


def _planted(
    p: Parameters, generator: np.random.Generator, s: Array, features: Array, rows: Array, law: Array, **more
) -> Planted:
    """Activations gain * features [n, m] @ rows [m, width] + noise."""
    x = p.gains[0] * features @ rows + p.noise * generator.normal(size=(len(s), len(p.rotation)))
    domain = np.full(len(s), SEEN)
    return Planted(x.astype(np.float32), law.astype(np.float32), s, p, domain, np.arange(len(s)), **more)


def _signs(generator: np.random.Generator, n: int, n_bits: int) -> Array:
    return (generator.integers(0, 2, size=(n, n_bits)) * 2 - 1).astype(np.float64)


def _on(sign: Array) -> Array:
    return binary_law(np.where(sign > 0, 1.0, 0.0))


def tilted_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P12: the model reads s along e_1; the probe looks at an angle theta to it. extra: `probe`, `read_in` [width]."""
    s = _signs(generator, n, 1)
    turn = np.deg2rad(p.setting["theta"])
    probe = np.cos(turn) * p.rotation[0] + np.sin(turn) * p.rotation[1]
    extra = {"probe": probe, "read_in": p.rotation[0]}
    return _planted(p, generator, s, s, p.rotation[:1], _on(s[:, 0]), extra=extra)


def attack_budget(p: Parameters) -> float:
    """P12: the shortest move that leaves the read-in alone and takes the probe to its threshold, |w h| / (|w| sin)."""
    return p.gains[0] / float(np.tan(np.deg2rad(p.setting["theta"])))


def clone_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P13a: extra `second` is the same model turned, so that each direction becomes its neighbour."""
    s = _signs(generator, n, 1)
    planted = _planted(p, generator, s, s, p.rotation[:1], _on(s[:, 0]))
    turn = p.rotation.T @ np.roll(p.rotation, -1, 0)
    second = (planted.activations @ turn).astype(np.float32)
    return Planted(**{**planted.__dict__, "extra": {"second": second, "turn": turn}})


def code_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P13b: both models hold three bits and their product; on the way, one holds s1 s2 and the other s2 s3."""
    s = _signs(generator, n, 3)
    shared = np.column_stack([s, s.prod(1)])
    own = [np.column_stack([shared, s[:, i] * s[:, i + 1]]) for i in (0, 1)]
    other = np.linalg.qr(generator.normal(size=p.rotation.shape))[0]
    noise = p.noise * generator.normal(size=(n, len(other)))
    second = (p.gains[0] * own[1] @ other[:5] + noise).astype(np.float32)
    extra = {"second": second, "intermediate": own[0][:, 4], "second_rows": other[:5]}
    return _planted(p, generator, s, own[0], p.rotation[:5], _on(s.prod(1)), extra=extra)


def shared_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P13c: both models hold the same loud things; one of them the feature, too."""
    s = _signs(generator, n, 1)
    loud = 30 * generator.normal(size=(n, 2)) @ p.rotation[1:3]
    first = p.gains[0] * s @ p.rotation[:1] + loud + p.noise * generator.normal(size=(n, len(p.rotation)))
    second = loud + p.noise * generator.normal(size=(n, len(p.rotation)))
    law, domain = _on(s[:, 0]).astype(np.float32), np.full(n, SEEN)
    extra = {"second": second.astype(np.float32)}
    return Planted(first.astype(np.float32), law, s, p, domain, np.arange(n), extra=extra)


def contrast_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P14: statements and their negations (extra `negated`); truth turns over, and so does a louder distractor."""
    s = _signs(generator, n, 2)
    rows = np.stack([p.rotation[0], 4 * p.rotation[1]])
    planted = _planted(p, generator, s, s, rows, _on(s[:, 0]))
    negated = _planted(p, generator, s, -s, rows, _on(s[:, 0])).activations
    return Planted(**{**planted.__dict__, "extra": {"negated": negated, "distractor": p.rotation[1]}})


# Naive methods -----------------------------------------------------------------------------------------------------


def clean_auroc(planted: Planted) -> tuple[str, float]:
    """P12: how well the probe separates what nobody has attacked."""
    from sklearn.metrics import roc_auc_score

    score = planted.activations @ planted.extra["probe"]
    return "clean AUROC", auroc_leak(float(roc_auc_score(planted.signs[:, 0] > 0, score)))


def raw_transfer(planted: Planted) -> tuple[str, float]:
    """P13a: the direction of one model asked of the other as it is."""
    from sklearn.metrics import roc_auc_score

    y = planted.signs[:, 0] > 0
    direction = planted.activations[y].mean(0) - planted.activations[~y].mean(0)
    return "raw transfer", auroc_leak(float(roc_auc_score(y, planted.extra["second"] @ direction)))


def cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019)."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def alignment(planted: Planted) -> tuple[str, float]:
    """P13b, P13c: what kernel alignment leaves."""
    return "1 - CKA", 1 - cka(planted.activations, planted.extra["second"])


def ccs_loss(planted: Planted) -> tuple[str, float]:
    """P14: consistency and confidence of the most salient contrast (Burns et al. 2022)."""
    from scipy.special import expit

    x, negated = planted.activations, planted.extra["negated"]
    direction = np.linalg.svd(x - negated - (x - negated).mean(0), full_matrices=False)[2][0]
    up, down = expit(4 * (x @ direction)), expit(4 * (negated @ direction))
    return "CCS loss", float(((up - (1 - down)) ** 2 + np.minimum(up, down) ** 2).mean())


# Cases --------------------------------------------------------------------------------------------------------------

ATTACKED = Truth("attack", "direction", lambda p: 2.0, "positive", 1, "auroc")
CLONED = Truth("transfer", "direction", lambda p: 0.0, "zero", 1, "models:procrustes")
CODED = Truth("transfer", "direction", lambda p: 1.0, "one", 1, "models:procrustes", source="features")
ABSENT = Truth("transfer", "linear", lambda p: 1.0, "one", None, "models:procrustes")
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
        "P13a",
        "a rotated clone",
        "raw transfer",
        (CLONED, Truth("transfer", "direction", lambda p: 1.0, "one", 1, "models:identity")),
        raw_transfer,
        CLONED,
        plant=clone_plant,
        nuisance=False,
        n_bits=2,
    ),
    Case(
        "P13b",
        "the same function by another code",
        "kernel alignment, .80",
        (CODED, Truth("transfer", "linear", lambda p: 0.0, "zero", None, "models:procrustes")),
        alignment,
        CODED,
        plant=code_plant,
        nuisance=False,
        n_bits=5,
        noise=0.05,
    ),
    Case(
        "P13c",
        "a shared nuisance, and a feature that one of two models lacks",
        "kernel alignment, 1.0",
        (ABSENT, Truth("transfer", "linear", lambda p: 1.0, "one", None, "models:affine")),
        alignment,
        ABSENT,
        plant=shared_plant,
        nuisance=False,
        n_bits=3,
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
