"""Ground truth: plants whose answer is known, what is true of each, and whom it fools (docs/method.md section 6).

Tier 1 draws activations and behaviour (`readable`), answers that feed back (`generated`), rows of two networks at
once (`paired`) or descriptions of inputs (`foreseen`); tier 2 is networks with hand-set weights (`circuits`) or without
any training (`untrained`); `waiting` are plants that nothing here can measure yet; `noise` knows nothing at all.
Truths are relative to the floor `prior`, since the input is the plant itself.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, unknown
from probekit.testbeds.ground_truth.case import SEEN, SOFT_NOISE, UNSEEN, Case, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.circuits import NETWORKS, PLANTED, Network
from probekit.testbeds.ground_truth.foreseen import FORESEEN
from probekit.testbeds.ground_truth.generated import GENERATED
from probekit.testbeds.ground_truth.noise import noise_sites
from probekit.testbeds.ground_truth.paired import PAIRED
from probekit.testbeds.ground_truth.readable import READABLE
from probekit.testbeds.ground_truth.untrained import UNTRAINED
from probekit.testbeds.ground_truth.waiting import WAITING

__all__ = [
    "CASES",
    "SEEN",
    "UNSEEN",
    "Case",
    "Network",
    "Parameters",
    "Planted",
    "Truth",
    "draw",
    "find_case",
    "noise_sites",
    "settle",
]
CASES = {
    case.name: replace(case, network=NETWORKS[case.name][0], truths=case.truths + NETWORKS[case.name][1])
    if case.name in NETWORKS
    else case
    for case in (*READABLE, *PLANTED, *UNTRAINED, *GENERATED, *PAIRED, *FORESEEN, *WAITING)
}


def find_case(name: str) -> Case:
    """A case by name; BadInput names the nearest."""
    if name not in CASES:
        raise unknown("planted case", name, CASES, "Cases:")
    return CASES[name]


def draw(
    name: str,
    n: int,
    d: int = 8,
    seed: int = 0,
    gain: float = 3.0,
    noise: float = 0.3,
    *,
    varied: bool = False,
    domains: int = 1,
) -> Planted:
    """Draw n rows per domain of a tier 1 case in d dimensions.

    varied: draw gains, label noise, the case's settings and 0, d / 2 or d further nuisance dimensions per seed, too. A
    case whose truths need a gain or noise of its own keeps it. The truths of what was drawn are
    `truth.value(planted.parameters)`. Raises BadInput for an unknown case, one without arrays, or too few dimensions.
    """
    case = find_case(name)
    if case.plant is None:
        raise BadInput(f"{name} is a network, not arrays: it has no rows to draw. See `CASES['{name}'].network`.")
    parameters = settle(case, d, seed, gain, noise, varied)
    generator = np.random.default_rng([seed, 20])
    width = len(parameters.rotation)
    parameters = replace(parameters, rotation=_frame(case, parameters, generator, width))
    return case.plant(parameters, generator, n, max(domains, case.domains))


def settle(
    case: Case, d: int, seed: int = 0, gain: float = 3.0, noise: float = 0.3, varied: bool = False
) -> Parameters:
    """The parameters of a draw but for the rotation, which is the identity here."""
    generator = np.random.default_rng([seed, 21])
    setting = {key: values[int(generator.integers(len(values))) if varied else 0]
               for key, values in case.choices.items()}  # fmt: skip
    n_bits = case.n_bits or int(setting["n"])
    if d < n_bits:
        raise BadInput(f"{case.name} plants {n_bits} bits: d must be at least that, found {d}.")
    gain, noise = case.gain or gain, noise if case.noise is None else case.noise
    gains = gain * generator.uniform(2 / 3, 4 / 3, n_bits) if varied and case.gain is None else np.full(n_bits, gain)
    n_nuisance = int(generator.choice([0, d // 2, d])) if varied and case.nuisance else 0
    eta = float(generator.choice([0.0, 0.05, 0.1])) if varied and case.noisy_labels else 0.0
    noise = min(noise, SOFT_NOISE) if eta else noise
    return Parameters(
        seed, d, tuple(gains.tolist()), noise, np.eye(d + n_nuisance), eta, n_nuisance,
        float(gain * generator.uniform(0.3, 1.0)), setting,
    )  # fmt: skip


def _frame(case: Case, p: Parameters, generator: np.random.Generator, width: int) -> NDArray[np.float64]:
    """Orthonormal rows: planted directions first, nuisance last."""
    rotation = np.linalg.qr(generator.normal(size=(width, width)))[0]
    if case.frame == "rotated":
        return rotation
    signs = generator.integers(0, 2, width) * 2.0 - 1
    if case.frame == "axes":
        return np.eye(width)[generator.permutation(width)] * signs[:, None]
    # The first row even over all coordinates, the others a random completion of it.
    basis = np.linalg.qr(np.column_stack([signs, rotation[:, 1:]]))[0].T
    return np.vstack([signs / width**0.5, basis[1:]])
