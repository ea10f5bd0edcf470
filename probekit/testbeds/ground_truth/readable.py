"""Tier 1: generators of (activations, behaviour) that are read, and moved between domains, with exact truths.

h = sum_i gain_i s_i e_i + noise, with independent fair signs s_i and orthonormal e_i drawn per seed, so that no neuron
is special. What a family leaves unexplained is a function of the law on the corners of the sign cube alone.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from probekit.levels import Hypothesis
from probekit.testbeds.ground_truth import naive
from probekit.testbeds.ground_truth.case import SEEN, SOFT_NOISE, UNSEEN, Case, Kind, Parameters, Planted, Truth
from probekit.testbeds.ground_truth.exact import (
    auroc_leak,
    binary_law,
    entropy,
    gaussian_bits,
    sign_bits,
    softmax_fbu,
    states,
    subset_amplitude,
    threshold_fbu,
)

Array = NDArray[np.float64]
Law = Callable[[Array, Parameters], Array]
Score = Callable[[Array, Array], float]
REVERSED = "reversed"
# Unit vectors of a tight frame, 6 in 3 dimensions: the diagonals of an icosahedron, one sign of each.
_GOLDEN = (1 + 5**0.5) / 2
_AXES = ((0, 1, _GOLDEN), (0, 1, -_GOLDEN), (1, _GOLDEN, 0), (1, -_GOLDEN, 0), (_GOLDEN, 0, 1), (-_GOLDEN, 0, 1))
FRAME = np.array(_AXES) / np.linalg.norm(_AXES[0])


# Laws ----------------------------------------------------------------------------------------------------------------


def _flipped(on: NDArray[np.bool_], eta: float) -> Array:
    """(1 - 2 eta) one-hot + eta."""
    return binary_law(np.where(on, 1 - eta, eta))


def first(s: Array, p: Parameters) -> Array:
    """B = s1."""
    return _flipped(s[:, 0] > 0, p.label_noise)


def parity(s: Array, p: Parameters) -> Array:
    """B = the product of all signs is negative; XOR of two."""
    return _flipped(s.prod(1) < 0, p.label_noise)


def majority(s: Array, p: Parameters) -> Array:
    """B = most signs are positive."""
    return _flipped(s.sum(1) > 0, p.label_noise)


def union(s: Array, p: Parameters) -> Array:
    """B = (s1 XOR s2, s3): four outcomes; label noise flips either part by itself."""
    return np.einsum("na,nb->nab", parity(s[:, :2], p), first(s[:, 2:], p)).reshape(len(s), 4)


def noisy(s: Array, p: Parameters) -> Array:
    """B ~ Bernoulli(q) where s1 is positive, else Bernoulli(1 - q)."""
    return _flipped(s[:, 0] > 0, 1 - p.setting["q"])


# Generators ----------------------------------------------------------------------------------------------------------


def _plant(
    p: Parameters, generator: np.random.Generator, s: Array, law: Array, domain: NDArray[np.str_], **more
) -> Planted:
    """Activations of signs [n, m]: planted directions, noise everywhere, nuisance; a shift in the unseen domain."""
    n, m, width = len(s), len(p.gains), len(p.rotation)
    x = (s[:, :m] * np.array(p.gains)) @ p.rotation[:m] + p.noise * generator.normal(size=(n, width)) @ p.rotation
    if p.n_nuisance:
        x += p.nuisance * generator.normal(size=(n, p.n_nuisance)) @ p.rotation[width - p.n_nuisance :]
    if width > m:  # where nothing is planted
        x += np.where(domain == UNSEEN, p.gains[0], 0.0)[:, None] * p.rotation[m]
    return Planted(
        x.astype(np.float32), law.astype(np.float32), s, p, domain,
        **{"group": np.arange(n), "features": {"signs": (s > 0).astype(np.int64)}} | more,
    )  # fmt: skip


def _domains(n: int, n_domains: int) -> NDArray[np.str_]:
    return np.repeat([SEEN, UNSEEN, REVERSED][:n_domains], n)


def signs_plant(law: Law, n_bits: int) -> Callable[[Parameters, np.random.Generator, int, int], Planted]:
    """A plant of fair signs, and a behaviour that is a function of them."""

    def plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
        s = (generator.integers(0, 2, size=(n * n_domains, n_bits)) * 2 - 1).astype(np.float64)
        return _plant(p, generator, s, law(s, p), _domains(n, n_domains))

    return plant


def majority_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P6c: n signs, one neuron each, decide by majority."""
    s = (generator.integers(0, 2, size=(n * n_domains, len(p.gains))) * 2 - 1).astype(np.float64)
    return _plant(p, generator, s, majority(s, p), _domains(n, n_domains))


def spurious_plant(causal: bool) -> Callable[[Parameters, np.random.Generator, int, int], Planted]:
    """P4: signs (c, s), equal where seen, independent where unseen, opposite where reversed; B = c."""

    def plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
        domain = _domains(n, max(2, n_domains))
        s = (generator.integers(0, 2, size=(len(domain), 2)) * 2 - 1).astype(np.float64)
        s[:, 1] = np.where(domain == SEEN, s[:, 0], np.where(domain == REVERSED, -s[:, 0], s[:, 1]))
        gains = np.array([p.setting["g_c"] if causal else 0.0, p.setting["g_s"]])
        x = (s * gains) @ p.rotation[:2] + generator.normal(size=(len(s), len(p.rotation)))
        if p.n_nuisance:
            loud = p.rotation[len(p.rotation) - p.n_nuisance :]
            x += p.nuisance * generator.normal(size=(len(s), p.n_nuisance)) @ loud
        return Planted(
            x.astype(np.float32), first(s, p).astype(np.float32), s, p, domain, np.arange(len(s)),
            features={"cause": (s[:, :1] > 0).astype(np.int64)},
        )  # fmt: skip

    return plant


def frame_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P9: six features, each on with probability p, along a tight frame in three dimensions; B = the first is on."""
    on = generator.random((n * n_domains, 6)) < p.setting["p"]
    x = on @ (p.gains[0] * FRAME) @ p.rotation[:3] + p.noise * generator.normal(size=(len(on), len(p.rotation)))
    if p.n_nuisance:
        loud = p.rotation[len(p.rotation) - p.n_nuisance :]
        x += p.nuisance * generator.normal(size=(len(on), p.n_nuisance)) @ loud
    s = np.where(on, 1.0, -1.0)
    law = first(s, p).astype(np.float32)
    features = {"on": on.astype(np.int64)}
    return Planted(x.astype(np.float32), law, s, p, _domains(n, n_domains), np.arange(len(on)), features)


def types_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P10: V = d + 1 types at random places, each with a random label; the type is the group."""
    width = len(p.rotation)
    n_types = width + 1
    places = p.gains[0] * generator.normal(size=(n_types, width))
    label = generator.permuted(np.arange(n_types) % 2)
    of = generator.integers(0, n_types, size=n * n_domains)
    x = places[of] + p.noise * generator.normal(size=(len(of), width))
    law = _flipped(label[of] > 0, 0.0)
    signs = label[of, None] * 2.0 - 1
    return Planted(x.astype(np.float32), law.astype(np.float32), signs, p, _domains(n, n_domains), of)


def expansion(p: Parameters) -> tuple[Array, Array]:
    """P11: (activations [2^m, width] of a random ReLU layer on m bits, law [2^m, 2] of a random function of them).

    m is the largest with 2^m <= width / 2, since square random systems are too badly conditioned for any fit to solve,
    and at least 2, since every function of one bit is linear.
    """
    generator = np.random.default_rng([p.seed, 24])
    width = len(p.rotation)
    points = states(max(2, int(np.log2(width)) - 1))
    x = np.maximum(p.gains[0] * points @ generator.normal(size=(points.shape[1], width))
                   + generator.normal(size=width), 0)  # fmt: skip
    while True:
        on = generator.permuted(np.arange(len(points)) % 2) > 0
        if softmax_fbu(points, _flipped(on, 0.0)) > 0.2:  # what the bits themselves give away linearly is no test
            return x, _flipped(on, 0.0)


def expansion_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """P11: rows of `expansion`, which is its own random-init baseline."""
    x, law = expansion(p)
    at = generator.integers(0, len(x), size=n * n_domains)
    rows = x[at].astype(np.float32)
    s = states(int(np.log2(len(x))))[at]
    return Planted(rows, law[at].astype(np.float32), s, p, _domains(n, n_domains), np.arange(len(at)), twin=rows)


def coarse_plant(p: Parameters, generator: np.random.Generator, n: int, n_domains: int) -> Planted:
    """The coarse rule: where seen, s1 and a bystander s2 decide; where unseen, s1 alone, and as often as before."""
    domain = _domains(n, max(2, n_domains))
    s = (generator.integers(0, 2, size=(len(domain), 2)) * 2 - 1).astype(np.float64)
    law = np.where((domain == SEEN)[:, None], _finer_law(s, p), coarse_law(s, p))
    return _plant(p, generator, s, law, domain, features={"s1": (s[:, :1] > 0).astype(np.int64)})


def _finer_law(s: Array, p: Parameters) -> Array:
    return binary_law(expit(p.setting["a"] * s[:, 0] + p.setting["b"] * s[:, 1]))


def coarse_law(s: Array, p: Parameters) -> Array:
    """P(B | s1) of the coarse rule, the bystander averaged over: the hypothesis that is stated about it."""
    a, b = p.setting["a"], p.setting["b"]
    up = (expit(a + b) + expit(a - b)) / 2
    return binary_law(np.where(s[:, 0] > 0, up, 1 - up))


def coarse_hypothesis(p: Parameters) -> Hypothesis:
    """The coarse rule as a stated hypothesis over the feature `s1`."""

    def rule(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        return coarse_law(np.where(features["s1"] > 0, 1.0, -1.0), p).astype(np.float32)

    return Hypothesis.of("coarse", ("s1",), rule)


# Truths --------------------------------------------------------------------------------------------------------------


def _value(constant: float) -> Callable[[Parameters], float]:
    return lambda p: constant


def _on(law: Law, n_bits: int, score: Score) -> Callable[[Parameters], float]:
    return lambda p: score(states(n_bits), law(states(n_bits), p))


def _linear(s: Array, law: Array) -> float:
    return softmax_fbu(s, law)


def _one_threshold(s: Array, law: Array) -> float:
    return threshold_fbu(law, 1)


def _two_thresholds(s: Array, law: Array) -> float:
    return threshold_fbu(law, 2)


def _powers_of_sum(degree: int) -> Score:
    """A polynomial of the one direction s1 + s2 + ...: an upper bound that is met where it is 0."""
    return lambda s, law: softmax_fbu(np.vander(s.sum(1), degree + 1)[:, :-1], law)


def _quadratic(s: Array, law: Array) -> float:
    """The best quadratic of all directions: no fewer can do better."""
    products = [s[:, i] * s[:, j] for i in range(s.shape[1]) for j in range(i)]
    return softmax_fbu(np.column_stack([s, *products]), law)


def _union_quadratic(s: Array, law: Array) -> float:
    """P18's witness for two directions: s1 + s2 and s3."""
    z, t = s[:, 0] + s[:, 1], s[:, 2]
    return softmax_fbu(np.stack([z, t, z**2, t**2, z * t], 1), law)


def _bilinear(s: Array, law: Array) -> float:
    return softmax_fbu(np.stack([*s.T, s[:, 0] * s[:, 1]], 1), law)


def _moved(levels: dict[str, int | None], value: float | None = 0.0) -> tuple[Truth, ...]:
    """Transfer to the unseen domain, after one temperature and the intercepts."""
    kind: Kind = "na" if value is None else "zero"
    return tuple(
        Truth("transfer", level, lambda p: value, kind, k, "refit", test_domain=UNSEEN) for level, k in levels.items()
    )


def _shares(simple: float, **shares: float) -> tuple[Truth, ...]:
    """Decomposition, linear first: what each class adds. Classes not named add nothing."""
    found = {"direction": 0.0, "directions": 0.0, "linear": 0.0, "nonlinear": 0.0, "absent": 0.0} | shares
    found["simple:quadratic"] = simple
    ks = {"direction": 1, "directions": 4, "simple:quadratic": 4}
    kinds: dict[float, Kind] = {0.0: "zero", 1.0: "one"}
    return tuple(
        Truth("decomposition", level, _value(share), kinds.get(share, "interior"), ks.get(level), "linear_first")
        for level, share in found.items()
    )


def _score_amplitudes(p: Parameters) -> Array:
    """P4a: margins c z of the mean-difference score z where s = c and where s = -c, in units of its noise."""
    c, s = p.setting["g_c"] ** 2, p.setting["g_s"] ** 2
    return np.array([c + s, c - s]) / (c + s) ** 0.5


def spurious_auroc_leak(p: Parameters) -> float:
    """P4a: AUROC leak of the seen domain's mean difference where s is independent of c."""
    same, other = _score_amplitudes(p)
    between = (same + other) / 2  # a positive and a negative row with equal s
    area = ndtr(2**0.5 * between) / 2 + ndtr(2**0.5 * same) / 4 + ndtr(2**0.5 * other) / 4
    return auroc_leak(float(area))


def _reversed_auroc_leak(p: Parameters) -> float:
    return auroc_leak(float(ndtr(2**0.5 * _score_amplitudes(p)[1])))


def spurious_transfer(p: Parameters, refit: bool = True) -> float:
    margins = _score_amplitudes(p)
    slope = None if refit else 2 * float(margins[0])
    moved = gaussian_bits(margins, np.array([0.5, 0.5]), slope)
    direct = sign_bits(p.setting["g_c"])
    return (moved - direct) / (1 - direct)


def _when_faint(value: Callable[[Parameters], float]) -> Callable[[Parameters], float | None]:
    """Only beside a faint spurious sign: where a loud one is independent of the behaviour, the mean difference of any
    sample is that sign's sampling noise, so that the limit of many rows is no sample's truth."""
    return lambda p: value(p) if p.setting["g_s"] <= p.setting["g_c"] else None


def _spurious_raw(p: Parameters) -> float:
    return spurious_transfer(p, refit=False)


def frame_states(p: Parameters) -> tuple[Array, Array, Array]:
    """P9: (activations [64, 3], law of the first feature, probability of each of the 64 states)."""
    on = (states(6) + 1) / 2
    chance = np.where(on > 0, p.setting["p"], 1 - p.setting["p"]).prod(1)
    return on @ FRAME, first(states(6), p), chance


def _frame_linear(p: Parameters) -> float:
    return softmax_fbu(*frame_states(p))


def _neurons(k: int) -> Callable[[Parameters], float]:
    """The best k coordinates of one planted direction in Gaussian noise."""
    return lambda p: sign_bits(subset_amplitude(p.gains[0] * p.rotation[0], p.covariance, k))


def _whole(p: Parameters) -> float:
    mean = p.gains[0] * p.rotation[0]
    return sign_bits(float(np.sqrt(mean @ np.linalg.solve(p.covariance, mean))))


def _majority_neurons(k: int) -> Callable[[Parameters], float]:
    return lambda p: softmax_fbu(states(len(p.gains))[:, :k], majority(states(len(p.gains)), p))


def _majority_sum(p: Parameters) -> float:
    s = states(len(p.gains))
    return softmax_fbu(s.sum(1, keepdims=True), majority(s, p))


def _coarse_reader(p: Parameters) -> float:
    """Bits per example of the coarse rule, the same in both domains."""
    return float(entropy(coarse_law(states(2), p)).mean())


def _crossing(domain: str) -> Callable[[Parameters], float]:
    """Bits of the coarse rule above those of the linear reader, both as they were where seen."""

    def value(p: Parameters) -> float:
        finer = _finer_law(states(2), p)
        happens = finer if domain == SEEN else coarse_law(states(2), p)
        return _coarse_reader(p) + float((happens * np.log2(finer)).sum(1).mean())

    return value


READ_P1 = Truth("read", "direction", _on(first, 1, _linear), "zero", 1)
READ_P2 = Truth("read", "linear", _on(parity, 2, _linear), "one")
READ_P3 = Truth("read", "linear", _on(parity, 3, _linear), "one")
READ_P6A = Truth("read", "direction", _whole, "zero", 1, source="mean_difference")
READ_P6C = Truth("read", "direction", _majority_sum, "zero", 1)
READ_P9 = Truth("read", "linear", _frame_linear, "interior")
READ_P10 = Truth("read", "linear", _value(1.0), "one", arm="given_many_types")
READ_P11 = Truth("read", "linear", _value(1.0), "one", arm="given_twin")
READ_P18 = Truth("read", "simple:quadratic", _on(union, 3, _union_quadratic), "zero", 2)
READ_P19 = Truth("read", "direction", _on(noisy, 1, _linear), "zero", 1)
MOVED_P4A = Truth(
    "transfer",
    "direction",
    _when_faint(spurious_transfer),
    "interior",
    1,
    "refit",
    "mean_difference",
    test_domain=UNSEEN,
)
RANKED_P4A = Truth("auroc", "direction", spurious_auroc_leak, "interior", 1, "", "mean_difference", test_domain=UNSEEN)
READ_P4B = Truth("read", "linear", _value(1.0), "one", fit_domain=UNSEEN, test_domain=UNSEEN)
CROSSED = Truth(
    "crossing", "hypothesis:coarse", _crossing(UNSEEN), "interior", arm="raw", source="true", test_domain=UNSEEN
)
READABLE = (
    Case(
        "P1",
        "a sealed direction: B = s1",
        "the logit lens half-way, and a neuron where other things vary",
        (
            READ_P1,
            Truth("read", "directions", _on(first, 1, _linear), "zero", 1),
            Truth("read", "linear", _on(first, 1, _linear), "zero"),
            Truth("read", "nonlinear", _value(0.0), "zero"),
            Truth("read", "simple:one_threshold", _value(0.0), "zero", 1),
            Truth("read", "prior", _value(1.0), "one"),
            Truth("selected", "linear", _on(first, 1, _linear), "zero"),
            Truth("auroc", "direction", _value(0.0), "zero", 1, source="mean_difference"),
            Truth("read", "lens", _value(1.0), "one"),
            Truth("accuracy", "linear", _value(1.0), "one", source="behaviour"),
            *_moved({"direction": 1, "linear": None}),
            *_shares(0.0, direction=1.0),
        ),
        naive.lens,
        READ_P1,
        plant=signs_plant(first, 1),
        noisy_labels=True,
    ),
    Case(
        "P2",
        "XOR: B = s1 s2",
        "accuracy, linear erasure, linear probes",
        (
            READ_P2,
            Truth("read", "direction", _on(parity, 2, _linear), "one", 1),
            Truth("read", "simple:one_threshold", _on(parity, 2, _one_threshold), "interior", 1),
            Truth("read", "simple:two_thresholds", _on(parity, 2, _two_thresholds), "zero", 1),
            Truth("read", "simple:quadratic", _on(parity, 2, _powers_of_sum(2)), "zero", 1),
            Truth("read", "simple:bilinear", _on(parity, 2, _bilinear), "zero", 2),
            Truth("read", "nonlinear", _value(0.0), "zero"),
            # -h has the law of h: no direction can rank the outcomes.
            Truth("auroc", "direction", _value(1.0), "one", 1, source="mean_difference"),
            Truth("code_length", "linear", _value(1.0), "one"),
            *_moved({"linear": None}, None),
            *_moved({"simple:two_thresholds": 1, "simple:quadratic": 1}),
            *_shares(1.0),
            Truth("compose", "directions", _value(1.0), "one", arm="additive_value"),
            Truth("compose", "directions", _value(0.0), "zero", arm="pair_value"),
            Truth("compose", "directions", _value(0.0), "zero", arm="dependence"),
        ),
        naive.threshold_accuracy,
        READ_P2,
        plant=signs_plant(parity, 2),
        n_bits=2,
        noisy_labels=True,
    ),
    Case(
        "P3",
        "parity of three",
        "accuracy, pairs, uniform ablation subsets",
        (
            READ_P3,
            Truth("read", "simple:quadratic", _on(parity, 3, _quadratic), "one", 2),
            Truth("read", "simple:cubic", _on(parity, 3, _powers_of_sum(3)), "zero", 1),
            Truth("read", "simple:one_threshold", _on(parity, 3, _one_threshold), "interior", 1),
            Truth("read", "simple:two_thresholds", _on(parity, 3, _two_thresholds), "interior", 1),
            Truth("read", "nonlinear", _value(0.0), "zero"),
            *_shares(0.0, nonlinear=1.0),
            Truth("compose", "directions", _value(1.0), "one", arm="pair_value"),
        ),
        naive.threshold_accuracy,
        READ_P3,
        plant=signs_plant(parity, 3),
        n_bits=3,
        noisy_labels=True,
    ),
    Case(
        "P4a",
        "a spurious sign beside the causal one: equal where seen, independent where unseen; B = c",
        "cross-validation where it was fitted",
        (
            MOVED_P4A,
            Truth(
                "transfer",
                "direction",
                _when_faint(_spurious_raw),
                "positive",
                1,
                "raw",
                "mean_difference",
                test_domain=UNSEEN,
            ),
            RANKED_P4A,
            Truth(
                "auroc", "direction", _reversed_auroc_leak, "positive", 1, "", "mean_difference", test_domain=REVERSED
            ),
            Truth("read", "linear", lambda p: sign_bits(float(np.hypot(p.setting["g_c"], p.setting["g_s"]))), "zero"),
            Truth(
                "read",
                "linear",
                lambda p: sign_bits(p.setting["g_c"]),
                "interior",
                fit_domain=UNSEEN,
                test_domain=UNSEEN,
            ),
            Truth(
                "accuracy",
                "linear",
                lambda p: float(ndtr(np.hypot(p.setting["g_c"], p.setting["g_s"]))),
                "interior",
                source="behaviour",
            ),
        ),
        naive.cross_validation,
        RANKED_P4A,
        plant=spurious_plant(True),
        n_bits=2,
        choices={"g_c": (3.0,), "g_s": (3.0, 30.0, 100.0, 1000.0)},
        noise=1.0,
        domains=2,
    ),
    Case(
        "P4b",
        "a spurious sign alone, which is gone where unseen",
        "anything that prints a number",
        (
            READ_P4B,
            Truth("read", "linear", lambda p: sign_bits(p.setting["g_s"]), "zero"),
            Truth("transfer", "linear", lambda p: None, "na", None, "refit", test_domain=UNSEEN),
            Truth("transfer", "direction", lambda p: None, "na", 1, "refit", "mean_difference", test_domain=UNSEEN),
        ),
        naive.cross_validation,
        READ_P4B,
        plant=spurious_plant(False),
        n_bits=2,
        choices={"g_s": (4.0, 6.0, 30.0)},
        noise=1.0,
        domains=2,
    ),
    Case(
        "P6a",
        "a sign spread evenly over all coordinates, in noise that hides it from each",
        "sparse probes, neuron ablation",
        (
            READ_P6A,
            Truth("read", "linear", _whole, "zero"),
            Truth("read", "neurons", _neurons(1), "positive", 1),
            Truth("read", "neurons", _neurons(2), "positive", 2),
            Truth("accuracy", "linear", lambda p: float(ndtr(p.gains[0] / p.noise)), "interior", source="behaviour"),
        ),
        naive.top_neuron,
        READ_P6A,
        plant=signs_plant(first, 1),
        frame="spread",
        gain=4.0,
        noise=1.0,
    ),
    Case(
        "P6c",
        "the majority of n independent bits, one neuron each",
        "reports of a top neuron",
        (
            READ_P6C,
            Truth("read", "linear", _majority_sum, "zero"),
            Truth("read", "simple:one_threshold", _value(0.0), "zero", 1),
            Truth("read", "neurons", _majority_neurons(1), "interior", 1),
            Truth("read", "neurons", _majority_neurons(2), "interior", 2),
        ),
        naive.top_neuron,
        READ_P6C,
        plant=majority_plant,
        n_bits=0,
        choices={"n": (3, 5, 7, 9)},
        frame="axes",
        noise=0.1,
    ),
    Case(
        "P9",
        "superposition: six sparse features in three dimensions, B = the first is on",
        "R^2 and AUROC, in opposite directions",
        (
            READ_P9,
            Truth("read", "direction", _frame_linear, "interior", 1, source="logistic"),
            Truth("extrapolated", "linear", _frame_linear, "interior"),
            # All 64 sums differ, so that the best reader of all has nothing left; a small MLP is not that reader.
            Truth("read", "bayes", _value(0.0), "zero"),
            Truth("compose", "directions", _value(float(abs(FRAME[0] @ FRAME[1]))), "interior", arm="cross_talk"),
        ),
        naive.superposition,
        READ_P9,
        plant=frame_plant,
        parts=lambda p: FRAME @ p.rotation[:3],
        n_bits=3,
        choices={"p": (0.5, 0.1, 0.02)},
        noise=0.05,
    ),
    Case(
        "P10",
        "a random label for each of d + 1 types",
        "splits by row",
        (
            READ_P10,
            # d + 1 groups are fewer than can be resampled: NA is the right answer.
            Truth("read", "linear", lambda p: None, "na"),
            Truth("read", "linear", _value(0.0), "zero", control="row_split"),
        ),
        naive.row_split,
        READ_P10,
        plant=types_plant,
        noise=0.05,
    ),
    Case(
        "P11",
        "a random ReLU expansion of m bits, of width at least 2^m, and any function of them",
        "probing without a random-init baseline",
        (
            READ_P11,
            Truth("read", "linear", lambda p: softmax_fbu(*expansion(p)), "zero"),
            Truth("read", "linear", lambda p: softmax_fbu(*expansion(p)), "zero", control="random_twin"),
        ),
        naive.without_twin,
        READ_P11,
        plant=expansion_plant,
        noise=0.0,
    ),
    Case(
        "P18",
        "a union: B = (s1 XOR s2, s3)",
        "decompositions in one order",
        (
            READ_P18,
            Truth("read", "linear", _on(union, 3, _linear), "interior"),
            Truth("read", "direction", _on(union, 3, _linear), "interior", 1),
            Truth("read", "directions", _on(union, 3, _linear), "interior", 2),
            Truth("read", "simple:one_threshold", _on(union, 3, _one_threshold), "interior", 1),
            Truth("read", "simple:two_thresholds", _on(union, 3, _two_thresholds), "interior", 1),
            Truth("read", "nonlinear", _value(0.0), "zero"),
            *_shares(0.5, direction=0.5),
        ),
        naive.linear_probe,
        READ_P18,
        plant=signs_plant(union, 3),
        n_bits=3,
        noisy_labels=True,
    ),
    Case(
        "P19",
        "a noisy behaviour: B ~ Bernoulli(q) or (1 - q) by s1",
        "scores without the model's own entropy",
        (
            READ_P19,
            Truth("read", "linear", _on(noisy, 1, _linear), "zero"),
            Truth("read", "nonlinear", _value(0.0), "zero"),
            *_moved({"direction": 1, "linear": None}),
            *_shares(0.0, direction=1.0),
        ),
        naive.without_ceiling,
        READ_P19,
        plant=signs_plant(noisy, 1),
        choices={"q": (0.9, 0.8, 0.85)},
        noise=SOFT_NOISE,
    ),
    Case(
        "coarse",
        "a rule by s1 that holds everywhere, beside a bystander that helps only where it was seen",
        "the reader that is best where it was fitted",
        (
            CROSSED,
            Truth("crossing", "hypothesis:coarse", _crossing(SEEN), "interior", arm="raw", source="true"),
            Truth("read", "linear", lambda p: softmax_fbu(states(2), _finer_law(states(2), p)), "zero"),
        ),
        naive.seen_difference,
        CROSSED,
        plant=coarse_plant,
        n_bits=2,
        hypothesis=coarse_hypothesis,
        choices={"a": (1.5, 1.2), "b": (1.5, 2.0)},
        noise=SOFT_NOISE,
        domains=2,
    ),
)
