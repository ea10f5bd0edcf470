"""Plants that generate: each answer is an input of the next one, so that an edit comes back (P15)."""

import numpy as np

from probekit.testbeds.ground_truth.case import SEEN, UNSEEN, Case, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.exact import binary_law


def feedback_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P15: y_t = y_(t-1) XOR x_t, generated. extra: answers [n, T] `free` and `forced` after y_t0 was turned over.

    Free: each answer is the next one's input. Forced: each input is the answer that was given unpatched.
    """
    length, patched, many = int(p.setting["T"]), int(p.setting["t0"]), n * n_domains
    x = generator.integers(0, 2, size=(many, length))
    y = x.cumsum(1) % 2
    free, forced = y.copy(), y.copy()
    for t in range(patched, length):
        before = free[:, t - 1] if t else np.zeros(many, int)
        free[:, t] = before ^ x[:, t] ^ (t == patched)
        before = y[:, t - 1] if t else np.zeros(many, int)
        forced[:, t] = before ^ x[:, t] ^ (t == patched)
    s = 2.0 * y - 1
    h = p.gains[0] * s[:, -1:] @ p.rotation[:1] + p.noise * generator.normal(size=(many, len(p.rotation)))
    domain = np.repeat([SEEN, UNSEEN][: max(1, n_domains)], n)
    extra = {"answers": y, "free": free, "forced": forced}
    law = binary_law(np.where(s[:, -1] > 0, 1.0, 0.0))
    return Planted(h.astype(np.float32), law.astype(np.float32), s, p, domain, np.arange(many), extra=extra)


def teacher_forcing(planted: Planted) -> tuple[str, float]:
    """P15: share of the answers from the patch on that change when all inputs are the unpatched answers."""
    start = int(planted.parameters.setting["t0"])
    changed = planted.extra["forced"][:, start:] != planted.extra["answers"][:, start:]
    return "effect under teacher forcing", float(changed.mean())


FED_BACK = Truth("feedback", "directions", lambda p: 1 - 1 / (p.setting["T"] - p.setting["t0"]), "interior", 1)
GENERATED = (
    Case(
        "P15",
        "an XOR chain that is generated, one answer turned over",
        "teacher forcing",
        (FED_BACK,),
        teacher_forcing,
        FED_BACK,
        plant=feedback_plant,
        nuisance=False,
        choices={"T": (12.0, 16.0), "t0": (4.0, 2.0)},
    ),
)
