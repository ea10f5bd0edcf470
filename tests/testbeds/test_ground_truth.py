"""Ground truth: every stated number meets another calculation: scikit-learn, brute force, an integral, the model."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp, ndtr
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from probekit import records
from probekit.errors import BadInput
from probekit.testbeds.ground_truth import CASES, SEEN, UNSEEN, draw, noise_sites
from probekit.testbeds.ground_truth.circuits import (
    ANSWERS,
    SITE,
    chain,
    dormant,
    interchange_accuracy,
    mean_ablation_rise,
    resampling_rise,
)
from probekit.testbeds.ground_truth.exact import (
    auroc,
    auroc_leak,
    binary_entropy,
    interaction_share,
    orders,
    sign_bits,
    states,
)
from probekit.testbeds.ground_truth.readable import (
    FRAME,
    REVERSED,
    coarse_law,
    expansion,
    frame_states,
    spurious_transfer,
)
from probekit.testbeds.ground_truth.wide import widened

ARRAYS = [name for name, case in CASES.items() if case.plant]
NETWORKS = [name for name, case in CASES.items() if case.network and name != "P16"]
MEASURED = {
    "read", "replace", "transfer", "decomposition", "crossing", "accuracy", "selected", "extrapolated", "code_length",
    "auroc", "compose", "feedback", "foresight",
}  # fmt: skip


def plain(name, **more):
    """Parameters of a plain draw."""
    return draw(name, 10, **({"d": 16} | more)).parameters


def truth(name, level, k=None, arm="", metric="read", parameters=None, **more):
    """The one truth with these coordinates, for a plain draw unless parameters are given."""
    asked = {"metric": metric, "level": level, "k": k, "arm": arm} | more
    found = [t for t in CASES[name].truths if all(getattr(t, key) == value for key, value in asked.items())]
    assert len(found) == 1, found
    return found[0].value(plain(name) if parameters is None else parameters)


def entropy(law):
    return -(law * np.log2(np.where(law > 0, law, 1))).sum(-1)


def fbu_of(law, bits, weights=None):
    w = np.full(len(law), 1 / len(law)) if weights is None else weights
    ceiling = w @ entropy(law)
    return (bits - ceiling) / (entropy(w @ law) - ceiling)


def log_law(fitted, x):
    """log2 of the predicted law; scikit-learn's own takes the logarithm of what has already become 0."""
    score = fitted.decision_function(x)
    logits = np.stack([np.zeros(len(x)), score], 1) if score.ndim == 1 else score
    return (logits - logsumexp(logits, axis=1, keepdims=True)) / math.log(2)


def judge(x, law, weights=None, penalty=1e9):
    """FBU of scikit-learn's logistic regression on rows x: each outcome of a row enters with its probability."""
    w = np.full(len(law), 1 / len(law)) if weights is None else weights
    rows, outcomes = np.nonzero(law > 0)
    mass = w[rows] * law[rows, outcomes]
    fitted = LogisticRegression(C=penalty, tol=1e-8, max_iter=20_000).fit(x[rows], outcomes, mass * len(rows))
    return fbu_of(law, -(mass * log_law(fitted, x)[rows, outcomes]).sum(), w)


# What every case must have ------------------------------------------------------------------------------------------


def test_every_measure_of_leak_has_a_ground_truth():
    """A metric added to the vocabulary is a leak measure until this set says otherwise: then it needs a truth."""
    leaks = set(records.METRICS) - {"steer"}  # bits of log-odds; its truth is in tests/measurement/causal
    assert leaks <= MEASURED, "a new metric needs a case that is wired, and its place in MEASURED"
    wired = {t.metric for case in CASES.values() for t in case.truths if not t.waits}
    assert wired == MEASURED & set(records.METRICS)


def test_what_waits_says_for_what(monkeypatch):
    waiting = [t for t in CASES["P12"].truths if t.metric == "attack"]
    assert waiting and all(t.waits == "attack" for t in waiting)
    monkeypatch.setattr("probekit.testbeds.ground_truth.case.METRICS", (*records.METRICS, "attack"))
    monkeypatch.setattr("probekit.testbeds.ground_truth.case.ARMS", (*records.ARMS, "auroc"))
    assert {t.arm: t.waits for t in waiting} == {"auroc": "", "budget": "attack:budget"}


@pytest.mark.parametrize("name", list(CASES))
def test_kinds_say_what_the_values_are(name):
    case = CASES[name]
    assert case.truths and case.planted and case.fools and case.tiers
    assert case.missed in case.truths or {t.kind for t in case.truths} == {"na"}  # of a refusal no method is off
    arrays = (
        [plain(name), *(draw(name, 10, d=10, seed=s, varied=True).parameters for s in range(6))] if case.plant else []
    )
    networks = [case.network(seed) for seed in range(6)] if case.network else []
    for t in case.truths:
        for parameters in networks if t.tier == 2 else arrays:
            value = t.value(parameters)
            if value is None and name == "P4a" and parameters.setting["g_s"] > 3:
                continue  # beside a loud spurious sign the limit of many rows is no sample's truth
            if value is None and t.arm == "iia" and t.kind != "na":
                continue  # a random direction brings nearly every answer, too
            told = {
                "zero": value is not None and abs(value) < 2e-3, "one": value is not None and abs(value - 1) < 1e-4,
                "positive": value is not None and value > 0.02, "interior": value is not None, "na": value is None,
            }  # fmt: skip
            assert told[t.kind], (t, value)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_naive_method_is_fooled(name, seed):
    case = CASES[name]
    planted = draw(name, 3000, d=10, seed=seed, varied=seed > 0)
    told, value = case.naive(planted)
    right = case.missed.value(planted.parameters)
    assert told and right is not None and abs(value - right) >= 0.2, (told, value, right)


@pytest.mark.parametrize(
    ("name", "seed"), [("P16", 0), *((n, s) for n in NETWORKS if not CASES[n].plant for s in range(4))]
)
def test_the_naive_method_is_fooled_by_a_network(name, seed):
    case = CASES[name]
    network = case.network(seed)
    told, value = case.naive(network)
    right = case.missed.value(network)
    assert told and right is not None and abs(value - right) >= 0.2, (told, value, right)


# Draws --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P18", "P19"])
def test_draws_follow_the_case(name):
    planted = draw(name, 4000, d=8, seed=2)
    n_bits = CASES[name].n_bits
    assert planted.activations.shape == (4000, 8) and set(np.unique(planted.signs)) == {-1.0, 1.0}
    assert planted.signs.shape == (4000, n_bits) and np.allclose(planted.law.sum(1), 1)
    # the signs are linearly there, along orthogonal directions of equal gain, and no coordinate holds one
    solved, *_ = np.linalg.lstsq(planted.signs, planted.activations, rcond=None)
    assert np.allclose(solved @ solved.T, 9 * np.eye(n_bits), atol=0.3)
    assert (abs(solved) < 2.9).all()
    assert np.array_equal(draw(name, 4000, d=8, seed=2).activations, planted.activations)
    assert not np.array_equal(draw(name, 4000, d=8, seed=3).activations, planted.activations)


@pytest.mark.parametrize("name", ARRAYS)
def test_varied_draws_return_what_was_drawn(name):
    case = CASES[name]
    n_domains = 1 if case.waits else 2
    drawn = [draw(name, 400, d=10, seed=seed, varied=True, domains=n_domains) for seed in range(12)]
    for planted in drawn:
        p = planted.parameters
        assert planted.activations.shape[1] == 10 + p.n_nuisance == len(p.rotation)
        assert np.allclose(p.rotation @ p.rotation.T, np.eye(len(p.rotation)))
        assert np.isfinite(planted.activations).all() and np.allclose(planted.law.sum(1), 1, atol=1e-6)
        assert set(planted.domain) == {SEEN, UNSEEN} - ({UNSEEN} if case.waits else set())
        assert len(planted.group) == len(planted.law) == 400 * n_domains
        if p.n_nuisance and name not in ("P10", "P11"):
            loud = planted.activations @ p.rotation[-p.n_nuisance :].T
            assert np.allclose(loud.std(0), np.hypot(p.nuisance, p.noise), rtol=0.2)
    assert {planted.parameters.n_nuisance for planted in drawn} == ({0, 5, 10} if case.nuisance else {0})
    if case.noisy_labels:
        assert {planted.parameters.label_noise for planted in drawn} == {0.0, 0.05, 0.1}


@pytest.mark.parametrize("name", ["P1", "P4a", "P9", "P10", "P18"])
def test_a_wide_plant_is_the_plant_among_noise_as_loud_as_its_own(name):
    narrow = draw(name, 300, 8, seed=4)
    wide = widened(narrow, 96, seed=4)
    seen = narrow.domain == narrow.domain[0]
    assert wide.activations.shape == (300, 96) and set(wide.domain) == {narrow.domain[0]}
    assert np.array_equal(wide.law, narrow.law[seen]) and np.array_equal(wide.group, narrow.group[seen])
    # In some eight directions the rows are what they were, and in all others they are noise.
    found, _, axes = np.linalg.svd(narrow.activations[seen].T @ wide.activations, full_matrices=False)
    frame = found @ axes
    assert np.allclose(frame @ frame.T, np.eye(8), atol=1e-4)
    rest = wide.activations - wide.activations @ frame.T @ frame
    noise = narrow.parameters.noise
    assert np.allclose(wide.activations @ frame.T, narrow.activations[seen], atol=4 * noise)
    assert (rest**2).sum() / (300 * 88) == pytest.approx(noise**2, rel=0.1)
    assert not np.array_equal(wide.activations, widened(narrow, 96, seed=5).activations)


def test_label_noise_is_in_the_law():
    planted = next(p for p in (draw("P2", 50, seed=s, varied=True) for s in range(30)) if p.parameters.label_noise)
    eta = planted.parameters.label_noise
    one_hot = np.eye(2)[(planted.signs.prod(1) < 0).astype(int)]
    assert np.allclose(planted.law, (1 - 2 * eta) * one_hot + eta, atol=1e-6)
    many = draw("P19", 20_000)
    assert np.bincount(many.labels()[many.signs[:, 0] > 0]) / (many.signs > 0).sum() == pytest.approx(
        [0.1, 0.9], abs=0.01
    )


def test_the_unseen_domain_differs_where_nothing_is_planted():
    planted = draw("P1", 2000, d=8, domains=2)
    means = [planted.activations[planted.domain == name].mean(0) for name in (SEEN, UNSEEN)]
    shift = planted.parameters.rotation @ (means[1] - means[0])
    assert abs(shift[0]) < 0.3 and shift[1] == pytest.approx(3, abs=0.1)


def test_draws_refuse_what_is_not_planted():
    with pytest.raises(BadInput, match="Did you mean 'P2'"):
        draw("P2x", 10)
    with pytest.raises(BadInput, match="at least that, found 2"):
        draw("P3", 10, d=2)


# The cube: brute force ----------------------------------------------------------------------------------------------


def separable(points, on):
    """Whether a plane separates the points marked `on` from the others, by linear programming."""
    design = np.where(on, 1, -1)[:, None] * np.column_stack([points, np.ones(len(points))])
    return linprog(np.zeros(design.shape[1]), -design, -np.ones(len(design)), bounds=(None, None)).status == 0


@pytest.mark.parametrize(("n_bits", "n_halfspaces"), [(1, 4), (2, 14), (3, 104)])
def test_all_halfspaces_of_the_cube_are_met(n_bits, n_halfspaces):
    points = states(n_bits)
    by_lp = {
        on for on in itertools.product((False, True), repeat=len(points)) if separable(points, np.array(on))
    }  # fmt: skip
    by_order = {tuple(np.array(o) >= cut) for o in orders(n_bits) for cut in range(len(points) + 1)}
    assert by_lp == by_order and len(by_lp) == n_halfspaces


def best_thresholds(law, n_thresholds):
    """Least FBU of a law per cell, cells cut along any of many random directions."""
    points = states(int(np.log2(len(law))))
    least = np.inf
    for direction in np.random.default_rng(0).normal(size=(400, points.shape[1])):
        order = np.argsort(points @ direction)
        for cuts in itertools.combinations(range(1, len(law)), n_thresholds):
            cells = np.split(law[order], cuts)
            least = min(least, sum(len(c) / len(law) * entropy(c.mean(0)) for c in cells))
    return fbu_of(law, least)


@pytest.mark.parametrize("name", ["P2", "P3", "P18"])
@pytest.mark.parametrize("eta", [0.0, 0.1])
@pytest.mark.parametrize(("level", "n"), [("simple:one_threshold", 1), ("simple:two_thresholds", 2)])
def test_threshold_truths_by_brute_force(name, eta, level, n):
    seed = next(s for s in range(40) if draw(name, 1, seed=s, varied=True).parameters.label_noise == eta)
    planted = draw(name, 2000, seed=seed, varied=True)
    law = np.array([planted.law[(planted.signs == row).all(1)][0] for row in states(CASES[name].n_bits)])
    assert truth(name, level, 1, parameters=planted.parameters) == pytest.approx(best_thresholds(law, n), abs=1e-6)


def test_the_figures_of_the_cube():
    assert truth("P2", "simple:one_threshold", 1) == pytest.approx(0.689, abs=5e-4)
    assert truth("P3", "simple:one_threshold", 1) == pytest.approx(0.811, abs=5e-4)
    assert truth("P3", "simple:two_thresholds", 1) == pytest.approx(0.406, abs=5e-4)
    for level in ("simple:two_thresholds", "simple:quadratic"):
        assert truth("P2", level, 1) == pytest.approx(0, abs=1e-4)
    assert truth("P18", "linear") == pytest.approx(0.5, abs=1e-4)
    # two thresholds do better than either half of the union: they cut one half short
    assert truth("P18", "simple:two_thresholds", 1) == pytest.approx(0.422, abs=5e-4)


@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P18", "P19"])
@pytest.mark.parametrize("varied", [False, True])
def test_linear_truths_by_scikit_learn(name, varied):
    planted = draw(name, 20_000, seed=5, varied=varied)
    found = judge(planted.activations, planted.law.astype(float), penalty=1e3)
    assert truth(name, "linear", parameters=planted.parameters) == pytest.approx(found, abs=0.01)


def test_polynomial_truths_by_scikit_learn():
    """On drawn activations, along the directions that the cases name; the noise between corners costs nothing."""
    for name, level, k, degree in (("P2", "simple:quadratic", 1, 2), ("P3", "simple:cubic", 1, 3)):
        planted = draw(name, 20_000, seed=3, varied=True)
        p = planted.parameters
        z = planted.activations @ (p.rotation[: len(p.gains)] / np.array(p.gains)[:, None]).sum(0)
        found = judge(np.vander(z, degree + 1)[:, :-1], planted.law.astype(float), penalty=1e4)
        assert truth(name, level, k, parameters=p) == pytest.approx(found, abs=0.005)
    planted = draw("P18", 20_000, seed=3, varied=True)
    p = planted.parameters
    s = planted.activations @ (p.rotation[:3] / np.array(p.gains)[:, None]).T
    z, t = s[:, 0] + s[:, 1], s[:, 2]
    found = judge(np.stack([z, t, z**2, t**2, z * t], 1), planted.law.astype(float), penalty=1e4)
    assert truth("P18", "simple:quadratic", 2, parameters=p) == pytest.approx(found, abs=0.005)


def test_no_quadratic_of_any_directions_reads_parity_of_three():
    """The loss is convex in a quadratic's coefficients and its gradient at the prior is 0."""
    s = states(3)
    on = (s.prod(1) < 0) * 1.0
    for i, j in itertools.product(range(3), repeat=2):
        assert (on - 0.5) @ (s[:, i] * s[:, j]) == 0 == (on - 0.5) @ s[:, i]
    assert truth("P3", "simple:quadratic", 2) == pytest.approx(1, abs=1e-6)

    # nor does a search over two directions
    def loss(flat):
        z = s @ flat[:6].reshape(3, 2)
        logit = np.column_stack([np.ones(8), z, z**2, z.prod(1)]) @ flat[6:]
        return np.logaddexp(0, np.where(on > 0, -logit, logit)).mean() / math.log(2)

    starts = np.random.default_rng(0).normal(size=(5, 12))
    assert min(minimize(loss, start, method="BFGS").fun for start in starts) > 1 - 1e-6


def test_parity_of_three_by_auroc_and_by_accuracy():
    """Three scoring rules, three verdicts: the best line has 0 by log-score, .125 by AUROC, .5 by accuracy."""
    s = states(3)
    on = (s.prod(1) < 0) * 1.0
    best = max(auroc(order, on, 1 - on) for order in orders(3))
    tied = [roc_auc_score(on, s @ w) for w in itertools.product((-2, -1, 0, 1, 2), repeat=3)]
    assert auroc_leak(max(best, *tied)) == pytest.approx(0.875)
    assert judge(s, np.stack([1 - on, on], 1)) == pytest.approx(1)
    right = max(((np.array(o) >= cut) == on).mean() for o in orders(3) for cut in range(9))
    assert 1 - (right - 0.5) / 0.5 == 0.5
    planted = draw("P3", 40_000, seed=1)
    fitted = LogisticRegression().fit(planted.activations, planted.law[:, 1])
    score = fitted.decision_function(planted.activations)
    assert auroc_leak(roc_auc_score(planted.law[:, 1], score)) == pytest.approx(1, abs=0.03)


def test_pairs_in_value_space_and_over_ablations():
    """Value space: the product of three. Over uniform subsets of parts, one that needs all of them."""
    s = states(3)
    assert interaction_share(s.prod(1), 3, 2) == pytest.approx(
        truth("P3", "directions", arm="pair_value", metric="compose", keep="all")
    )
    needs_all = (s > 0).all(1) * 1.0
    found = interaction_share(needs_all, 3, 2)
    assert found == pytest.approx(truth("P3", "directions", arm="pair_ablation", metric="compose"))
    assert found == pytest.approx(0.143, abs=5e-4)
    pairs = np.column_stack([s, *(s[:, i] * s[:, j] for i, j in ((0, 1), (0, 2), (1, 2)))])
    assert found == pytest.approx(1 - LinearRegression().fit(pairs, needs_all).score(pairs, needs_all))
    xor = states(2).prod(1)
    assert interaction_share(xor, 2, 1) == 1 and interaction_share(xor, 2, 2) == 0


# Noise that matters: integrals and big samples ----------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, 4.0])
def test_bits_left_of_a_sign_by_integration(a):
    found = quad(lambda z: math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * np.logaddexp(0, -2 * a * (a + z)), -12, 12)
    assert sign_bits(a) == pytest.approx(found[0] / math.log(2), abs=1e-8)


@pytest.mark.parametrize(("g_s", "leak"), [(3.0, 0.251), (30.0, 0.837), (100.0, 0.949), (1000.0, 0.995)])
def test_spurious_figures_and_samples(g_s, leak):
    p = plain("P4a", d=4)
    p = replace(p, setting={"g_c": 3.0, "g_s": g_s})
    planted = CASES["P4a"].plant(p, np.random.default_rng(1), 60_000, 3)
    x, y = planted.activations, planted.signs[:, 0] > 0
    seen, unseen, back = (planted.domain == name for name in (SEEN, UNSEEN, REVERSED))
    direction = x[seen & y].mean(0) - x[seen & ~y].mean(0)
    score = x @ (direction / np.linalg.norm(direction))
    found = {
        name: auroc_leak(roc_auc_score(y[rows], score[rows])) for name, rows in ((UNSEEN, unseen), (REVERSED, back))
    }
    for domain, value in found.items():
        exact = truth("P4a", "direction", 1, "", "auroc", p, test_domain=domain)
        assert exact == pytest.approx(value, abs=0.015)
    assert truth("P4a", "direction", 1, "", "auroc", p, test_domain=UNSEEN) == pytest.approx(leak, abs=6e-4)
    # in bits: refitted, and as Bayes has it where seen
    law = np.stack([~y, y], 1).astype(float)
    moved = judge(score[unseen, None] / g_s, law[unseen], penalty=1e6)
    direct = judge(x[unseen] / np.array([1, 1, 1, 1]), law[unseen], penalty=1e3)
    assert truth("P4a", "linear", parameters=p, test_domain=UNSEEN) == pytest.approx(direct, abs=2e-3)
    refit = spurious_transfer(p)
    assert (truth("P4a", "direction", 1, "refit", "transfer", p) is None) == (g_s > 3)
    assert refit == pytest.approx((moved - direct) / (1 - direct), abs=0.01)
    logit = 2 * math.hypot(3, g_s) * score[unseen]
    raw = np.logaddexp(0, np.where(y[unseen], -logit, logit)).mean() / math.log(2)
    # a slope of 2 |w| turns the direction's sampling error into bits
    assert spurious_transfer(p, refit=False) == pytest.approx((raw - direct) / (1 - direct), rel=0.04)


def test_spurious_alone_says_nothing_where_it_is_gone():
    planted = draw("P4b", 20_000, d=8, seed=1)
    unseen = planted.domain == UNSEEN
    assert judge(planted.activations[unseen], planted.law[unseen].astype(float), penalty=1e3) == pytest.approx(
        truth("P4b", "linear", test_domain=UNSEEN), abs=0.005
    )
    seen = planted.domain == SEEN
    found = judge(planted.activations[seen], planted.law[seen].astype(float), penalty=1e3)
    assert truth("P4b", "linear", test_domain=SEEN) == pytest.approx(found, abs=2e-3)


@pytest.mark.parametrize("seed", [0, 4])
def test_neurons_of_a_spread_sign_by_scikit_learn(seed):
    planted = draw("P6a", 40_000, d=8, seed=seed, varied=seed > 0)
    p, x, law = planted.parameters, planted.activations, planted.law.astype(float)
    for k in (1, 2):
        best = min(
            judge(x[:, chosen], law) for chosen in map(list, itertools.combinations(range(min(8, x.shape[1])), k))
        )
        found = truth("P6a", "neurons", k, parameters=p)
        assert found <= best + 0.01 and (x.shape[1] > 8 or found == pytest.approx(best, abs=0.01))
    assert truth("P6a", "linear", parameters=p) == pytest.approx(judge(x, law), abs=1e-3)
    y = planted.signs[:, 0] > 0
    direction = x[y].mean(0) - x[~y].mean(0)
    assert judge((x @ direction)[:, None], law) == pytest.approx(truth("P6a", "direction", 1, parameters=p), abs=1e-3)
    right = accuracy_score(y, x @ direction > 0)
    assert truth("P6a", "linear", metric="accuracy", parameters=p) == pytest.approx(right, abs=1e-3)
    assert truth("P6a", "linear", metric="accuracy", parameters=p) == pytest.approx(ndtr(4.0))


@pytest.mark.parametrize(("n", "leak"), [(3, 0.811), (5, 0.896), (7, 0.928), (9, 0.945)])
def test_majority_of_neurons(n, leak):
    seed = next(s for s in range(60) if draw("P6c", 1, d=9, seed=s, varied=True).parameters.setting["n"] == n)
    planted = draw("P6c", 40_000, d=9, seed=seed, varied=True)
    p = planted.parameters
    found = truth("P6c", "neurons", 1, parameters=p)
    assert found == pytest.approx(leak, abs=6e-4)
    agree = 0.5 + math.comb(n - 1, (n - 1) // 2) / 2**n
    assert found == pytest.approx(entropy(np.array([agree, 1 - agree])))
    x, law = planted.activations, planted.law.astype(float)
    neurons = abs(p.rotation[:n]).argmax(1)  # each bit lies along one
    assert np.allclose(abs(p.rotation[range(n), neurons]), 1)
    assert judge(x[:, neurons[:1]], law) == pytest.approx(found, abs=0.01)
    assert judge(x[:, neurons[:2]], law) == pytest.approx(truth("P6c", "neurons", 2, parameters=p), abs=0.01)
    total = (x[:, neurons] / (np.array(p.gains) * p.rotation[range(n), neurons])).sum(1)
    assert judge(total[:, None], law) == pytest.approx(truth("P6c", "linear", parameters=p), abs=2e-3)


@pytest.mark.parametrize(("p", "leak", "area"), [(0.5, 0.517, 0.945), (0.1, 0.247, 0.995), (0.02, 0.058, 0.9999)])
def test_superposition_figures(p, leak, area):
    parameters = replace(plain("P9"), setting={"p": p})
    x, law, chance = frame_states(parameters)
    assert np.allclose(FRAME.T @ FRAME, 2 * np.eye(3)) and np.allclose((FRAME**2).sum(1), 1)
    gaps = np.linalg.norm(x[:, None] - x, axis=-1) + 9 * np.eye(64)
    assert gaps.min() > 0.5  # all 64 sums differ: Bayes has nothing left
    assert truth("P9", "linear", parameters=parameters) == pytest.approx(leak, abs=6e-4)
    assert truth("P9", "linear", parameters=parameters) == pytest.approx(judge(x, law, chance), abs=1e-5)
    on = law[:, 1] > 0
    fitted = LogisticRegression(C=1e9, tol=1e-8, max_iter=9999).fit(x, on, chance * 64)
    score = fitted.decision_function(x)
    assert roc_auc_score(on, score, sample_weight=chance) == pytest.approx(area, abs=5e-4)
    assert auroc(score, chance * on, chance * ~on) == pytest.approx(roc_auc_score(on, score, sample_weight=chance))
    linear = LinearRegression().fit(x, on, chance)
    assert r2_score(on, linear.predict(x), sample_weight=chance) == pytest.approx(3 / 6)
    assert truth("P9", "directions", arm="cross_talk", metric="compose") == pytest.approx(5**-0.5)


def test_superposition_depends_on_the_signs_of_the_frame():
    """At p = .1 other signs of the six diagonals give other values: the frame must be fixed, and its signs with it."""
    from probekit.testbeds.ground_truth.exact import softmax_fbu

    parameters = plain("P9", seed=0)
    found = []
    on = (states(6) + 1) / 2
    chance = np.where(on > 0, 0.1, 0.9).prod(1)
    for flips in itertools.product((1, -1), repeat=5):
        frame = FRAME * np.array((1, *flips))[:, None]
        found.append(softmax_fbu(on @ frame, frame_states(parameters)[1], chance))
    assert min(found) == pytest.approx(0.085, abs=5e-4) and max(found) == pytest.approx(0.277, abs=5e-4)


# Types, expansions, ceilings, crossing ------------------------------------------------------------------------------


@pytest.mark.parametrize("varied", [False, True])
def test_types_are_separable_and_say_nothing_of_new_ones(varied):
    planted = draw("P10", 400, d=6, seed=2, varied=varied)
    width = planted.activations.shape[1]
    names, first = np.unique(planted.group, return_index=True)
    assert len(names) == width + 1
    assert separable(planted.activations[first], planted.law[first, 1] > 0)
    for name in names:
        assert len(np.unique(planted.law[planted.group == name], axis=0)) == 1
    # leave a type out, averaged over all labellings: no ridge does better than the prior, a large one meets it
    places = np.random.default_rng(3).normal(size=(5, 4))
    for ridge, worst in ((1.0, 2.0), (1e-6, 1.0005)):
        bits = []
        for labels in itertools.product((0, 1), repeat=5):
            for out in range(5):
                rest = np.delete(np.arange(5), out)
                y = np.array(labels)[rest]
                if len(set(y)) == 2:
                    fitted = LogisticRegression(C=ridge, fit_intercept=False).fit(places[rest], y)
                    bits.append(-log_law(fitted, places[[out]])[0, labels[out]])
        assert 1 - 1e-9 <= np.mean(bits) < worst
    assert truth("P10", "linear", arm="given_many_types") == 1


@pytest.mark.parametrize("d", [4, 8, 16, 32])
def test_a_wide_expansion_makes_every_function_linear(d):
    x, law = expansion(plain("P11", d=d))
    m = int(np.log2(len(x)))
    assert len(x) <= d and m >= 2
    with_bias = np.column_stack([x, np.ones(len(x))])
    assert np.linalg.matrix_rank(with_bias) == min(2**m, d + 1)
    assert np.linalg.matrix_rank(with_bias[:, [*range(len(x) // 2 - 1), -1]]) == min(2**m, len(x) // 2)
    assert separable(x, law[:, 1] > 0) and not separable(states(m), law[:, 1] > 0)
    planted = draw("P11", 300, d=d)
    assert planted.twin is not None and np.array_equal(planted.twin, planted.activations)


def test_a_noisy_behaviour_has_a_ceiling():
    planted = draw("P19", 20_000, d=8)
    assert entropy(planted.law[0].astype(float)) == pytest.approx(0.469, abs=5e-4)
    assert judge(planted.activations, planted.law.astype(float), penalty=1e3) == pytest.approx(
        truth("P19", "linear"), abs=2e-3
    )


@pytest.mark.parametrize("seed", [0, 3])
def test_the_coarse_rule_loses_where_seen_and_wins_elsewhere(seed):
    planted = draw("coarse", 100_000, d=4, seed=seed, varied=seed > 0)
    p, x, law = planted.parameters, planted.activations, planted.law.astype(float)
    seen = planted.domain == SEEN
    rows, outcomes = np.nonzero(law[seen] > 0)
    fitted = LogisticRegression(C=1e6).fit(x[seen][rows], outcomes, law[seen][rows, outcomes])
    for domain, sign in ((SEEN, 1), (UNSEEN, -1)):
        at = planted.domain == domain
        fine = -(law[at] * log_law(fitted, x[at])).sum(1).mean()
        rule = coarse_law(planted.signs[at], p)
        coarse = -(law[at] * np.log2(rule)).sum(1).mean()
        stated = CASES["coarse"].hypothesis(p).rule({"s1": planted.features["s1"][at]})
        assert np.allclose(stated, rule, atol=1e-6)
        value = truth("coarse", "hypothesis:coarse", None, "raw", "crossing", p, test_domain=domain)
        assert value == pytest.approx(coarse - fine, abs=0.01) and sign * value > 0.1
        assert planted.law[at].mean(0) == pytest.approx([0.5, 0.5], abs=0.01)


# Pure noise ---------------------------------------------------------------------------------------------------------


def icc_of(values, group):
    """One-way analysis of variance: the share of variance that lies between groups, for groups of equal size."""
    names, size = np.unique(group, return_counts=True)
    means = np.array([values[group == name].mean() for name in names])
    within = np.mean([values[group == name].var(ddof=1) for name in names])
    between = size[0] * means.var(ddof=1)
    return (between - within) / (between + (size[0] - 1) * within)


@pytest.mark.parametrize("icc", [0.0, 0.1, 0.5])
def test_pure_noise_is_alike_within_groups_and_knows_nothing(icc):
    x, y, group = noise_sites(3, 400, 10, 4, icc, seed=1)
    assert x.shape == (3, 4000, 4) and x.dtype == np.float32 and set(y) == {0, 1}
    assert np.array_equal(np.bincount(group), np.full(400, 10))
    assert np.mean([icc_of(x[site, :, i], group) for site in range(3) for i in range(4)]) == pytest.approx(
        icc, abs=0.02
    )
    assert np.mean([icc_of(noise_sites(1, 400, 10, 1, icc, s)[1], group) for s in range(8)]) == pytest.approx(
        icc, abs=0.02
    )
    assert x.std() == pytest.approx(1, abs=0.03) and y.mean() == pytest.approx(0.5, abs=0.05)
    flat = np.concatenate([x[0], x[1], y[:, None]], 1)
    off = np.corrcoef(flat.T) - np.eye(9)
    assert abs(off).max() < 4 / math.sqrt(4000 / (1 + 9 * icc))
    again = noise_sites(3, 400, 10, 4, icc, seed=1)
    assert np.array_equal(again[0], x) and not np.array_equal(noise_sites(3, 400, 10, 4, icc, seed=2)[0], x)


def test_pure_noise_refuses_an_impossible_correlation():
    with pytest.raises(BadInput, match="found 1.5"):
        noise_sites(1, 4, 4, 2, 1.5, 0)


# Networks -----------------------------------------------------------------------------------------------------------


def last_place(network):
    return network.words.shape[1]


def logits_of(network, model, hooks=(SITE,)):
    """(activations at the query, logit of the second answer against the first) of every word."""
    tokens = list(network.tokens(np.arange(len(network.words))))
    found = {}

    def note(logits, rows):
        found.update({int(i): float(v[ANSWERS[1]] - v[ANSWERS[0]]) for i, v in zip(rows, logits, strict=True)})

    sites = model.read(tokens, hooks, [np.array([last_place(network)])] * len(tokens), on_logits=note)
    return sites, np.array([found[i] for i in range(len(tokens))])


def edited(network, model, edits):
    """P(second answer) of every word after edits: hook -> (word -> what to do to [n_repeat, d]); as many repeats."""
    import torch

    from probekit.model.branching import EditedTexts

    out, last = [], np.array([last_place(network)])
    for i in range(len(network.words)):
        trunk = model.trunk(EditedTexts(list(network.tokens(np.array([i]))), [last], last), list(edits))
        made = {hook: edit(i) for hook, edit in edits.items()}
        every = {hook: lambda act, at, edit=edit: edit(act) for hook, edit in made.items()}
        logits = trunk.logits(every, len(network.words))[0]
        out.append(torch.sigmoid((logits[:, ANSWERS[1]] - logits[:, ANSWERS[0]]).double()).numpy())
    return np.array(out)


def bits_of(network, n):
    """The first n bits that are spelt, as +-1."""
    return 2.0 * network.words[:, :n] - 1


BEHAVES = {
    "P1": lambda net: bits_of(net, 1)[:, 0],
    "P2": lambda net: -bits_of(net, 2).prod(1),
    "P3": lambda net: -bits_of(net, 3).prod(1),
    "P5": lambda net: bits_of(net, 1)[:, 0],
    "P6b": lambda net: np.sign(bits_of(net, 3).sum(1)),
    "P7": lambda net: -bits_of(net, 3).prod(1),
    "P8": lambda net: bits_of(net, 1)[:, 0],
    "P17": lambda net: bits_of(net, 1)[:, 0],
    "specificity": lambda net: -bits_of(net, 2).prod(1),
    "chain": lambda net: bits_of(net, 1)[:, 0],
}


@pytest.fixture(scope="module")
def planted_models():
    """(name, seed) -> (network, model), each built once."""
    import functools

    @functools.cache
    def made(name, seed):
        network = CASES[name].network(seed)
        return network, network.model()

    return made


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_relu_forms_are_exact_in_the_library(planted_models, name, seed):
    """On every word, the model's logit is one size, signed by the behaviour; the stream is the stated sum."""
    network, model = planted_models(name, seed)
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(len(network.layers) + 1)]
    sites, logit = logits_of(network, model, hooks)
    for hook, stream in zip(hooks, network.natural, strict=True):
        assert np.allclose(sites[hook].numpy(), stream, atol=1e-5)
    assert np.allclose(logit, abs(logit[0]) * BEHAVES[name](network), atol=1e-4)
    assert np.allclose(1 / (1 + np.exp(-logit)), network.law, atol=1e-5)
    assert 0.6 < max(network.law) < 0.999 and network.available > 0.05
    # rotated: no neuron of the stream is silent, and neither is any a direction of its own
    assert (abs(network.embed) > 1e-6).all() and (abs(network.embed) < 0.999 * np.linalg.norm(network.embed[0])).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_replacement_by_enumeration_is_what_the_model_does(planted_models, name):
    """Every word with every donor, edited inside the transformer."""
    import torch

    network, model = planted_models(name, 1)
    for keep, bases in network.keeps.items():
        natural = {hook: network.natural[int(hook.split(".")[1])] for hook in bases}

        def edit(hook, basis, natural=natural):
            donor = torch.from_numpy(natural[hook]).float()
            inside = torch.from_numpy(basis @ basis.T).float()
            return lambda i: lambda act: donor + (act - donor) @ inside

        found = edited(network, model, {hook: edit(hook, basis) for hook, basis in bases.items()})
        assert np.allclose(found, network.replaced(keep), atol=1e-4), keep


@pytest.mark.parametrize("name", ["P2", "P17", "chain"])
def test_replace_cells_find_the_truth(planted_models, name):
    """Through capture and `Replacement`, as a job would run it, with the donors drawn at random."""
    from probekit import capture
    from probekit.measurement.causal.replacement import Replacement
    from probekit.measurement.cell import Measurement
    from probekit.spec import ReadSpec, ReplaceSpec

    network, model = planted_models(name, 3)
    task = network.task(1500, seed=1)
    hooks = sorted({hook for at in network.hooks.values() for hook in at})
    activations = capture(model, task, hooks, store=None)
    assert set(activations.observations.floor_inputs) == set()
    measurement = Measurement(activations.observations, ReadSpec(floors=("strong",)), n_bootstrap=200)
    spec = ReplaceSpec(rows=300, donors=16, arms=("single:random", "chain:random"))
    cells = Replacement(model, task, activations, measurement, spec)
    for keep, at in network.hooks.items():
        hook = at[0] if len(at) == 1 else ""
        for record in cells.cell("answer", "seen", at, hook, [network.abstraction(keep)]).records:
            exact = network.fbu(keep, record.arm)
            assert record.value == pytest.approx(exact, abs=max(0.05, 0.07 * exact)), (keep, record.arm)


def test_errors_that_cancel_leave_the_mean_behaviour_unchanged():
    network = CASES["P17"].network(0)
    after = network.replaced("s1 and one spelling")
    p, e = network.setting["p"], network.setting["e"]
    first, second = bits_of(network, 2).T > 0
    for s1 in (False, True):
        rows = first == s1
        assert after[rows].mean() == pytest.approx(network.law[rows].mean())
        for way in (False, True):  # half of the donors spell it otherwise
            half = after[rows & (second == way)].mean()
            assert half - network.law[rows].mean() == pytest.approx((e if way else -e) / 2)
    q = np.array([p + e / 2, p - e / 2])
    lost = (p * np.log2(p / q) + (1 - p) * np.log2((1 - p) / (1 - q))).mean()
    assert network.fbu("s1 and one spelling", "single:random") == pytest.approx(lost / (1 - binary_entropy(p)))
    assert network.fbu("s1 and one spelling", "single:random:pair") > 2 * lost / (1 - binary_entropy(p))


@pytest.mark.parametrize("angle", [5, 14, 16, 30, 45, 60, 74, 76, 85])
def test_an_inert_and_a_dormant_direction_make_an_illusion(angle):
    """IIA 1 between 15 and 75 degrees, though neither does anything by itself."""
    network = dormant(2, angle)
    assert interchange_accuracy(network, "u") == (1.0 if 15 < angle < 75 else 0.0)
    assert interchange_accuracy(network, "e_r") == interchange_accuracy(network, "e_d") == 0
    assert interchange_accuracy(network, "e_c") == 1
    assert network.site.std(0).max() > 0 and np.ptp(network.site @ network.keeps["e_d"][SITE]) < 1e-9


def test_a_backup_is_heard_only_where_the_first_is_silent(planted_models):
    """Mean ablation in the model itself changes nothing, resampling all; the backup's own form is bump(a, c)."""
    import torch

    network, model = planted_models("P8", 1)
    assert mean_ablation_rise(network, "a") == pytest.approx(0, abs=1e-9)
    assert resampling_rise(network, "a") == pytest.approx(1)
    basis = torch.from_numpy(network.keeps["a"][SITE]).float()
    silent = edited(network, model, {SITE: lambda i: lambda act: act - act @ basis @ basis.T})
    assert np.allclose(silent, network.law[:, None], atol=1e-4)
    relu = lambda v: max(v, 0.0)  # noqa: E731
    bump = lambda a, c: relu(a + 1 + 2 * (c - 1)) - 2 * relu(a + 2 * (c - 1)) + relu(a - 1 + 2 * (c - 1))  # noqa: E731
    for a, c in itertools.product((-1, 0, 1), (-1, 1)):
        stream = np.linalg.norm(network.embed[0]) * (a * basis[:, 0].numpy() + c * network.keeps["c"][SITE][:, 0])
        logit = np.log(1 / (1 / network.run(np.tile(stream, (len(network.words), 1)))[0] - 1))
        size = abs(np.log(1 / network.law[0] - 1))
        assert logit == pytest.approx(size * (a + bump(a, c) - bump(-a, -c)), abs=1e-6)
        assert a + bump(a, c) - bump(-a, -c) == (a or c)


def test_one_of_three_copies_moves_a_third_and_changes_no_answer():
    network = CASES["P6b"].network(0)
    answer = network.law > 0.5
    for place in range(3):
        copy = network.embed[place] / np.linalg.norm(network.embed[place])
        x, y = network.site[:, None], network.site[None]
        assert ((network.run(x + ((y - x) @ copy)[..., None] * copy) > 0.5) == answer[:, None]).all()
    read = network.layers[0].read[:, 0]
    part = (2.0 * network.words - 1)[:, :3] * (network.embed[:3] @ read)
    assert np.allclose(part[:, 0] / part.sum(1), 1 / 3)


def test_parity_by_three_heads_is_synergy():
    network = CASES["P7"].network(0)
    value = np.log(network.law / (1 - network.law))
    assert interaction_share(value, 3, 2) == pytest.approx(1)  # no single and no pair has a share
    total = 0.0
    for place in range(3):
        keeps = {"bit": {SITE: (network.embed[[place]] / np.linalg.norm(network.embed[place])).T}}
        total += resampling_rise(replace(network, keeps=keeps), "bit")
    assert (
        total
        == pytest.approx(3.0)
        == truth("P7", "directions", arm="leave_one_out", metric="compose", parameters=network)
    )


def sets_of_parts(network, keep, mean=False):
    """Log-odds of the state's own answer with each set of directions kept, over all donors: [n_states, 2^m]."""
    columns = network.keeps[keep][SITE].T
    x, y = network.site[:, None], network.site.mean(0)[None, None] if mean else network.site[None]
    sign = np.where(network.law > 0.5, 1, -1)[:, None]
    out = []
    for kept in itertools.product((False, True), repeat=len(columns)):
        basis = columns[~np.array(kept)].T
        p = network.run(x + (y - x) @ basis @ basis.T)
        out.append((sign * np.log(p / (1 - p))).mean(1))
    return np.stack(out, 1)


@pytest.mark.parametrize(
    ("name", "keep"), [("P1", "both"), ("P2", "both"), ("P3", "all"), ("P7", "all"), ("P8", "both")]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_true_of_parts_by_enumeration(name, keep, seed):
    network = CASES[name].network(seed)
    stated = {t.arm: t.value(network) for t in CASES[name].truths if t.metric == "compose" and t.keep == keep}
    m = network.keeps[keep][SITE].shape[1]

    def share(order):  # rows do not differ but for noise bits, which nothing reads
        return np.mean([interaction_share(row, m, order) for row in v])

    v = sets_of_parts(network, keep)
    without, alone = ([2**m - 1 - 2**i for i in range(m)], [2**i for i in range(m)])
    lost, gained = v[:, [-1]] - v[:, without], v[:, alone] - v[:, [0]]
    silent = sets_of_parts(network, keep, mean=True)
    found = {
        "additive_ablation": share(1), "pair_ablation": share(2), "pair_ablation:loss": share(2),
        "leave_one_out": lost.sum() / (v[:, -1] - v[:, 0]).sum(),
        "alone": ((lost - gained) ** 2).sum() / (lost**2 + gained**2).sum(),
        "leave_one_out:mean": (silent[:, [-1]] - silent[:, without]).sum() / (silent[:, -1] - silent[:, 0]).sum(),
    }  # fmt: skip
    found["leave_one_out:loss"] = found["leave_one_out"]
    checked = set(found) & set(stated)
    assert checked
    for arm in checked:
        assert found[arm] == pytest.approx(stated[arm], abs=1e-6), arm
    p, on = network.law, network.site @ network.keeps[keep][SITE] > 0
    cells = (on @ 2 ** np.arange(m)[::-1]).astype(int)
    f = np.array([p[cells == cell].mean() if (cells == cell).any() else 0.5 for cell in range(2**m)])
    for order, arm in ((1, "additive_value"), (2, "pair_value")):
        if arm in stated:
            assert interaction_share(f, m, order) == pytest.approx(stated[arm], abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_chain_loses_its_share_at_every_hop(seed):
    network = chain(seed)
    share = network.setting["share"]
    size = float(np.log(network.law.max() / network.law.min()))  # of the logit; the law's two chances mirror each other
    p = network.law.max()
    for n in range(1, 5):
        left = (1 - share) ** n
        opposed = 1 / (1 + math.exp(-size * (2 * left - 1)))  # donors with the other bit, half of them
        q = (p + opposed) / 2
        lost = p * math.log2(p / q) + (1 - p) * math.log2((1 - p) / (1 - q))
        assert network.fbu(f"last {n}", "chain:random") == pytest.approx(lost / (1 - binary_entropy(p)))


def test_a_planted_model_refuses_other_weights_and_has_a_twin(planted_models):
    import torch

    from probekit.model.loading import plant_model

    _, model = planted_models("P2", 0)
    weights = {"tok_embed.weight": torch.zeros(5, 4), "layers.0.attn.v.weight": torch.zeros(4, 4),
               "layers.0.mlp.fc_in.weight": torch.zeros(3, 4)}  # fmt: skip
    with pytest.raises(BadInput, match="has shape \\[3\\]; the model has \\[4\\]"):
        plant_model({**weights, "layers.0.attn.v.bias": torch.zeros(3)}, n_heads=1, n_ctx=3, name="x")
    with pytest.raises(BadInput, match="no such weight"):
        plant_model({**weights, "layers.0.attn.w": torch.zeros(3)}, n_heads=1, n_ctx=3, name="x")
    twin = model.random_twin(5)
    assert twin.name == "planted-P2-0@random5" and twin.hook_names == model.hook_names
    assert twin.fingerprint == model.random_twin(5).fingerprint != model.fingerprint
    assert CASES["P2"].network(0).model().fingerprint == model.fingerprint
    with pytest.raises(BadInput, match="cannot be used|one branch only|changes no logit"):
        model.check_writable("blocks.1.hook_resid_mid")


# What waits ---------------------------------------------------------------------------------------------------------


def test_an_attack_flips_a_tilted_probe_at_its_budget():
    planted = draw("P12", 4000, d=6, seed=1, varied=True)
    p, probe, read_in = planted.parameters, planted.extra["probe"], planted.extra["read_in"]
    budget = truth("P12", "direction", 1, "budget", "attack", p)
    s = planted.signs[:, 0]
    # noise-free: no move of that length off the read-in reaches further than the one straight at the threshold
    moves = np.random.default_rng(0).normal(size=(5000, len(probe)))
    moves -= np.outer(moves @ read_in, read_in)
    moves /= np.linalg.norm(moves, axis=1, keepdims=True)
    margin = p.gains[0] * read_in @ probe
    assert margin + 0.999 * budget * (moves @ probe).min() > 0
    away = probe - (probe @ read_in) * read_in
    away /= np.linalg.norm(away)
    assert margin - 0.999 * budget * away @ probe > 0 > margin - 1.001 * budget * away @ probe
    attacked = planted.activations - 2 * budget * s[:, None] * away
    assert np.allclose(attacked @ read_in, planted.activations @ read_in)
    assert auroc_leak(roc_auc_score(s > 0, attacked @ probe)) == pytest.approx(truth(
        "P12", "direction", 1, "auroc", "attack", p), abs=0.01)  # fmt: skip
    reached = -s * (planted.activations @ probe) / (away @ probe)
    assert abs(reached).mean() == pytest.approx(budget, rel=0.01)


def test_models_that_agree_by_rotation_by_code_and_by_nuisance():
    from scipy.linalg import orthogonal_procrustes

    from probekit.metrics.alignment import linear_cka as cka

    clone = draw("P13a", 3000, d=8, seed=1)
    turn, _ = orthogonal_procrustes(clone.extra["second"], clone.activations)
    y = clone.signs[:, 0] > 0
    direction = clone.activations[y].mean(0) - clone.activations[~y].mean(0)
    assert roc_auc_score(y, clone.extra["second"] @ turn @ direction) > 0.999
    assert abs(roc_auc_score(y, clone.extra["second"] @ direction) - 0.5) < 0.05

    code = draw("P13b", 3000, d=8, seed=1)
    second, middle = code.extra["second"].astype(float), code.extra["intermediate"]
    on = np.stack([middle < 0, middle > 0], 1).astype(float)
    assert judge(code.activations, on, penalty=1e3) < 1e-3  # one model holds it, the other does not
    assert judge(second, on, penalty=1e3) == pytest.approx(1, abs=0.02)
    assert judge(second, code.law.astype(float), penalty=1e3) < 1e-3
    assert cka(code.activations, second) == pytest.approx(0.8, abs=0.01)

    shared = draw("P13c", 3000, d=8, seed=1)
    assert cka(shared.activations, shared.extra["second"]) == pytest.approx(1.0, abs=1e-3)
    assert judge(shared.extra["second"], shared.law.astype(float)) == pytest.approx(1, abs=0.01)
    assert judge(shared.activations, shared.law.astype(float), penalty=1e3) < 1e-2


def test_a_distractor_is_consistent_and_not_true():
    planted = draw("P14", 4000, d=8, seed=1)
    distractor = planted.extra["distractor"]
    told, loss = CASES["P14"].naive(planted)
    assert told == "CCS loss" and loss < 1e-6
    y = planted.signs[:, 0] > 0
    assert roc_auc_score(y, planted.activations @ distractor) == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(planted.activations @ distractor, planted.extra["negated"] @ distractor)[0, 1] < -0.99
    assert judge(planted.activations, planted.law.astype(float), penalty=1e3) < 1e-2


@pytest.mark.parametrize("seed", [0, 1])
def test_teacher_forcing_sees_one_answer_of_those_that_change(seed):
    planted = draw("P15", 200, d=4, seed=seed, varied=True)
    answers, free, forced = (planted.extra[name] for name in ("answers", "free", "forced"))
    start, length = int(planted.parameters.setting["t0"]), int(planted.parameters.setting["T"])
    assert (free[:, start:] != answers[:, start:]).all() and (free[:, :start] == answers[:, :start]).all()
    missed = 1 - (forced != answers).sum() / (free != answers).sum()
    assert missed == pytest.approx(1 - 1 / (length - start))
    assert missed == pytest.approx(truth("P15", "directions", 1, metric="feedback", parameters=planted.parameters))
