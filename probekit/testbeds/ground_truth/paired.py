"""Plants of two networks on the same inputs, what carries over between them, and whom kernel alignment fools (P13).

What carries over from the first to the second (extra `second`) is told by `probekit.jobs.across`.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.alignment import linear_cka
from probekit.testbeds.ground_truth.case import SEEN, UNSEEN, Case, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.exact import auroc_leak
from probekit.testbeds.ground_truth.waiting import on, planted, signs

SECOND, INTERMEDIATE = "second", "intermediate"  # extra: the other network's rows; a label that only the first one has


def clone_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P13a: extra `second` is the same model turned, so that each direction becomes its neighbour."""
    s = signs(generator, n * n_domains, 1)
    one = planted(p, generator, s, s, p.rotation[:1], on(s[:, 0]), domain=_domains(n, n_domains))
    turn = p.rotation.T @ np.roll(p.rotation, -1, 0)
    second = (one.activations @ turn).astype(np.float32)
    return replace(one, extra={SECOND: second, "turn": turn})


def code_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P13b: both models hold three bits and their product; on the way, one holds s1 s2 and the other s2 s3."""
    s = signs(generator, n * n_domains, 3)
    shared = np.column_stack([s, s.prod(1)])
    own = [np.column_stack([shared, s[:, i] * s[:, i + 1]]) for i in (0, 1)]
    other = np.linalg.qr(generator.normal(size=p.rotation.shape))[0]
    noise = p.noise * generator.normal(size=(len(s), len(other)))
    second = (p.gains[0] * own[1] @ other[:5] + noise).astype(np.float32)
    extra = {SECOND: second, INTERMEDIATE: own[0][:, 4], "second_rows": other[:5]}
    return planted(p, generator, s, own[0], p.rotation[:5], on(s.prod(1)), domain=_domains(n, n_domains), extra=extra)


def shared_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P13c: both models hold the same loud things; one of them the feature, too."""
    s = signs(generator, n * n_domains, 1)
    loud = 30 * generator.normal(size=(len(s), 2)) @ p.rotation[1:3]
    one = planted(p, generator, s, s, p.rotation[:1], on(s[:, 0]), domain=_domains(n, n_domains))
    second = loud + p.noise * generator.normal(size=(len(s), len(p.rotation)))
    first = (one.activations + loud).astype(np.float32)
    return replace(one, activations=first, extra={SECOND: second.astype(np.float32)})


def _domains(n: int, n_domains: int) -> NDArray[np.str_]:
    return np.repeat([SEEN, UNSEEN][:n_domains], n)


def raw_transfer(planted: Planted) -> tuple[str, float]:
    """P13a: the direction of one model asked of the other as it is."""
    from sklearn.metrics import roc_auc_score

    y = planted.signs[:, 0] > 0
    direction = planted.activations[y].mean(0) - planted.activations[~y].mean(0)
    return "raw transfer", auroc_leak(float(roc_auc_score(y, planted.extra["second"] @ direction)))


def alignment(planted: Planted) -> tuple[str, float]:
    """P13b, P13c: what kernel alignment leaves."""
    return "1 - CKA", 1 - linear_cka(planted.activations, planted.extra["second"])


OTHER = f"label:{INTERMEDIATE}"
CLONED = Truth("transfer", "direction", lambda p: 0.0, "zero", 1, "models:procrustes")
CODED = Truth("transfer", "direction", lambda p: 1.0, "one", 1, "models:refit", source=OTHER)
ABSENT = Truth("transfer", "linear", lambda p: 1.0, "one", None, "models:refit")
PAIRED = (
    Case(
        "P13a",
        "a rotated clone",
        "raw transfer",
        (
            CLONED,
            Truth("transfer", "direction", lambda p: 1.0, "one", 1, "models:identity", source="mean_difference"),
            Truth("transfer", "linear", lambda p: 0.0, "zero", None, "models:affine"),
            Truth("transfer", "linear", lambda p: 0.0, "zero", None, "models:refit"),
        ),
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
        (
            CODED,
            Truth("transfer", "direction", lambda p: None, "na", 1, "models:procrustes", source=OTHER),
            Truth("transfer", "linear", lambda p: 0.0, "zero", None, "models:procrustes"),
            Truth("transfer", "linear", lambda p: 0.0, "zero", None, "models:refit"),
        ),
        alignment,
        CODED,
        plant=code_plant,
        nuisance=False,
        n_bits=5,
        noise=0.05,
    ),
    Case(
        "P13c",
        "a shared nuisance, and a feature that one of two networks lacks",
        "kernel alignment, 1.0",
        (
            ABSENT,
            Truth("transfer", "linear", lambda p: None, "na", None, "models:procrustes"),
            Truth("transfer", "linear", lambda p: None, "na", None, "models:affine"),
        ),
        alignment,
        ABSENT,
        plant=shared_plant,
        nuisance=False,
        n_bits=3,
    ),
)
