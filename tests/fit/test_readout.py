"""The convex core: scikit-learn and SciPy as outside judges, and laws whose best readout is known."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from probekit.errors import FitError
from probekit.fit.frame import fit_frame
from probekit.fit.path import LAMBDAS, fit_path
from probekit.fit.platt import fit_platt
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import TOLERANCE, OpenRidge, Rows, calibrate, cross_entropy, entropy, fit_readout, smoothed
from probekit.levels import Level


def one_hot(labels, k: int) -> torch.Tensor:
    """Labels [n] as laws [k, 1, n]."""
    return torch.nn.functional.one_hot(torch.as_tensor(labels), k).T[:, None].float().contiguous()


def linear_labels(x: np.ndarray, k: int, rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    """Labels drawn from a random multinomial readout of standardised x."""
    z = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    p = softmax(gain * z @ rng.normal(size=(x.shape[1], k)) / math.sqrt(x.shape[1]), axis=1)
    return (p.cumsum(1) > rng.random((len(x), 1))).argmax(1)


def scipy_bits(z, law, offset, ridge: float, free: bool) -> float:
    """Mean bits of the minimiser that SciPy finds in float64; `free`: the offset's coefficient is fitted too."""
    z, y, o = np.asarray(z, float), np.asarray(law, float)[:, 0], np.asarray(offset, float)[:, 0]
    k, n = y.shape
    r = z.shape[1]

    def logits(theta):
        return theta[: k * r].reshape(k, r) @ z.T + theta[k * r : -1, None] + (theta[-1] if free else 1.0) * o

    def objective(theta):
        a = logits(theta)
        residual = (softmax(a, 0) - y) / n
        w = theta[: k * r]
        gradient = np.concatenate([(residual @ z).ravel() + ridge * w, residual.sum(1), [(residual * o).sum() * free]])
        return (logsumexp(a, 0) - (y * a).sum(0)).mean() + ridge / 2 * (w**2).sum(), gradient

    theta = np.zeros(k * r + k + 1)
    theta[-1] = 1.0
    found = minimize(
        objective, theta, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-9}
    )
    a = logits(found.x)
    return float((logsumexp(a, 0) - (y * a).sum(0)).mean() / math.log(2))


def plain(rng, n, k):
    x = rng.normal(size=(n, 12))
    return x, linear_labels(x, k, rng, 2.0)


def one_dimension(rng, n, k):
    x = rng.normal(size=(n, 1))
    return x, linear_labels(x, k, rng, 2.0)


def wide(rng, n, k):
    x = rng.normal(size=(120, 90))  # half of the rows are held out: 60 are fitted
    return x, linear_labels(x, k, rng, 2.0)


def ill_conditioned(rng, n, k):
    x = rng.normal(size=(n, 12)) @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    y = linear_labels(x, k, rng, 3.0)
    x[:, 0] *= 1000
    return x, y


def separable(rng, n, k):
    x = rng.normal(size=(n, 6))
    return x, (x @ rng.normal(size=(6, k))).argmax(1)


def duplicated(rng, n, k):
    x = rng.normal(size=(n, 6))
    return np.concatenate([x, x[:, :3], x], 1), linear_labels(x, k, rng, 2.0)


def constant(rng, n, k):
    x = rng.normal(size=(n, 6))
    y = linear_labels(x, k, rng, 2.0)
    x[:, 2] = 7.0
    return x, y


def off_centre(rng, n, k):
    x = rng.normal(size=(n, 6))
    return x + 100.0, linear_labels(x, k, rng, 2.0)


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize(
    "make",
    [plain, one_dimension, wide, ill_conditioned, separable, duplicated, constant, off_centre],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("ridge", [1e-1, 1e-2])
def test_agrees_with_scikit_learn(make, k, ridge):
    x, y = make(np.random.default_rng(k), 1600, k)
    half = len(x) // 2
    fit, held_out = slice(0, half), slice(half, None)
    assert len(np.unique(y[fit])) == k
    tensor = torch.tensor(x, dtype=torch.float32)
    frame = fit_frame(tensor[fit])
    scale = 1 / float(frame.rotation[:, 0].norm())
    ours = fit_readout(frame.apply(tensor[fit]), one_hot(y[fit], k), None, frame.variance, ridge)
    bits = Rows(frame.apply(tensor[held_out]), one_hot(y[held_out], k)).bits(ours).mean()
    # Binary scikit-learn has one weight vector where this model has two of half its size: half the penalty.
    judge = scikit_learn(x[fit] - x[fit].mean(0), y[fit], half * ridge * scale**2 / (2 if k == 2 else 1))
    log_law = judge.predict_log_proba(x[held_out] - x[fit].mean(0))
    theirs = -log_law[np.arange(half), y[held_out]].mean() / math.log(2)
    # With more coordinates than rows, held-out loss magnifies what is left of the fit loss above its minimum.
    assert float(bits) == pytest.approx(theirs, abs=5e-3 if make is wide else 1e-3)


def scikit_learn(x, y, strength: float) -> LogisticRegression:
    return LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-10, max_iter=500).fit(x, y)


@pytest.mark.parametrize("ridge", [1e-4, 1e-5, 1e-6])
def test_the_certificate_bounds_the_distance_to_the_minimum(ridge):
    x, y = separable(np.random.default_rng(10), 300, 10)
    frame = fit_frame(torch.tensor(x, dtype=torch.float32))
    z = frame.apply(torch.tensor(x, dtype=torch.float32))
    judge = scikit_learn(z.double().numpy(), y, 300 * ridge)

    def objective(weight, bias):
        logits = z.double().numpy() @ weight.T + bias
        return (logsumexp(logits, 1) - logits[np.arange(300), y]).mean() + ridge / 2 * (weight**2).sum()

    ours = fit_readout(z, one_hot(y, 10), None, frame.variance, ridge)
    found = objective(ours.weight[:, 0].double().numpy(), ours.bias[:, 0].double().numpy())
    assert found - objective(judge.coef_, judge.intercept_) < 50 * TOLERANCE  # nats; what an accepted stall may cost


def test_minimum_over_soft_laws_is_the_law_itself_when_it_is_linear():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(600, 5, generator=g)
    law = torch.softmax((z @ torch.randn(5, 4, generator=g) + torch.randn(4, generator=g)).T[:, None], 0)
    readout = fit_readout(z, law, None, z.var(0), 1e-7)
    assert torch.allclose(torch.softmax(readout.logits(z), 0), law, atol=5e-3)
    missed = cross_entropy(readout.logits(z), law) - entropy(law)
    assert -1e-6 < float(missed.mean()) < 1e-4  # float32 rounds on both sides of zero
    # and hard labels drawn from the same law cost its entropy, not less
    assert float(entropy(law).mean()) > 0.3


def test_many_targets_at_once_equal_one_at_a_time():
    g = torch.Generator().manual_seed(1)
    z = torch.randn(400, 6, generator=g)
    # Targets of very different curvature: near-deterministic, noisy, constant.
    gains = torch.tensor([8.0, 1.0, 0.1, 0.0])
    law = torch.softmax(torch.einsum("nr,rkt->ktn", z, torch.randn(6, 3, 4, generator=g) * gains), 0)
    offset = torch.randn(3, 4, 400, generator=g)
    ridge = torch.tensor([1e-4, 1e-3, 1e-2, 1e-1])
    together = fit_readout(z, law, offset, z.var(0), ridge)
    for i in range(4):
        one = fit_readout(z, law[:, [i]], offset[:, [i]], z.var(0), ridge[[i]])
        alone = Rows(z, law[:, [i]], offset[:, [i]]).bits(one).mean()
        assert float(Rows(z, law, offset).bits(together)[i].mean()) == pytest.approx(float(alone), abs=1e-4)
        assert float(together.scale[i]) == pytest.approx(float(one.scale[0]), abs=5e-3)
        assert torch.allclose(together.weight[:, i], one.weight[:, 0], atol=2e-2)
    path = fit_path(Rows(z, law, offset), Rows(z, law, offset))
    for i in range(4):
        one = fit_path(Rows(z, law[:, [i]], offset[:, [i]]), Rows(z, law[:, [i]], offset[:, [i]]))
        assert float(path.ridge[i]) == float(one.ridge[0])


def test_a_floor_that_is_noise_to_complete_activations_is_ignored():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(500, 4))
    truth = z @ rng.normal(size=(4, 3))
    law = softmax(truth, axis=1).T[:, None]
    # A reader of the input that knows the law up to its own large nonlinear mistakes.
    offset = (truth + 4 * np.sign(np.sin(40 * rng.random((500, 3))))).T[:, None]
    ceiling = float(-(law * np.log2(law)).sum(0).mean())
    rows = Rows(*(torch.tensor(a, dtype=torch.float32) for a in (z, law, offset)))
    readout = fit_readout(rows.z, rows.law, rows.offset, rows.z.var(0), 1e-6)
    ours = float(rows.bits(readout).mean())
    absorbed = scipy_bits(z, law, offset, 1e-6, free=False)
    assert absorbed - ceiling > 0.2, "held at 1 the floor's mistakes cannot be cancelled"
    assert ours - ceiling < 1e-3
    assert abs(float(readout.scale[0])) < 0.02


def test_the_offset_coefficient_is_the_minimiser():
    rng = np.random.default_rng(3)
    z, hidden = rng.normal(size=(400, 3)), rng.normal(size=400)
    logits = np.stack([z[:, 0] + 1.5 * hidden, -z[:, 1], np.zeros(400)])
    law = softmax(logits, 0)[:, None]
    offset = np.stack([3.0 * hidden, np.zeros(400), np.zeros(400)])[:, None]
    rows = Rows(*(torch.tensor(a, dtype=torch.float32) for a in (z, law, offset)))
    readout = fit_readout(rows.z, rows.law, rows.offset, rows.z.var(0), 1e-6)
    assert float(readout.scale[0]) == pytest.approx(0.5, abs=5e-3)
    for ridge in (1e-1, 1e-3):
        ours = float(rows.bits(fit_readout(rows.z, rows.law, rows.offset, rows.z.var(0), ridge)).mean())
        assert ours == pytest.approx(scipy_bits(z, law, offset, ridge, free=True), abs=1e-3)


def test_an_unconverged_readout_is_never_returned():
    g = torch.Generator().manual_seed(4)
    z = torch.randn(200, 8, generator=g)
    law = one_hot((z[:, 0] > 0).long(), 2)
    with pytest.raises(FitError, match="did not converge"):
        fit_readout(z, law, None, z.var(0), 1e-6, tolerance=1e-30)


@pytest.mark.parametrize("where", ["activations", "floor", "law"])
def test_nan_is_no_convergence(where):
    g = torch.Generator().manual_seed(4)
    z, law = torch.randn(200, 8, generator=g), one_hot(torch.arange(200) % 2, 2)
    offset = torch.zeros_like(law)
    {"activations": z.T, "floor": offset, "law": law}[where][0, ..., 5] = torch.nan
    with pytest.raises(FitError):
        fit_readout(z, law, offset, torch.ones(8), 1e-2)


def test_path_keeps_the_ridge_that_does_best_on_selection():
    g = torch.Generator().manual_seed(5)
    z = torch.randn(200, 40, generator=g)
    label = ((z[:, 0] + torch.randn(200, generator=g)) > 0).long()
    fit, select = Rows(z[:100], one_hot(label[:100], 2)), Rows(z[100:], one_hot(label[100:], 2))
    chosen = fit_path(fit, select)
    losses = {
        ridge: float(select.bits(fit_readout(fit.z, fit.law, None, fit.z.var(0), ridge)).mean()) for ridge in LAMBDAS
    }
    losses[math.inf] = 1.0  # no floor is given: one bit
    assert float(select.bits(chosen).mean()) == pytest.approx(min(losses.values()), abs=1e-3)
    assert losses[1e-6] > min(losses.values()) + 0.3, "the least ridge overfits here"


def test_whole_result_is_invariant_to_rotation_shift_and_scale():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(600, 8)) * np.geomspace(1, 30, 8)
    y = linear_labels(x, 3, rng, 2.0)
    law, offset = one_hot(y, 3), torch.tensor(rng.normal(size=(3, 1, 600)), dtype=torch.float32)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    results = []
    for values in (x, 5 * x @ turn + 3):
        tensor = torch.tensor(values, dtype=torch.float32)
        parts = slice(0, 300), slice(300, 450), slice(450, 600)
        sides = [Side(tensor[s], law[..., s], offset[..., s]) for s in parts]
        site = Site.prepare([(*sides[:2], None)], seed=0)[0]
        results.append([
            float(reader.bits(sides[2]).mean())
            for name in ("prior", "baseline", "direction", "directions", "linear")
            for reader in fit_level(site, Level(name), (1, 2))
        ])  # fmt: skip
    assert results[0] == pytest.approx(results[1], abs=2e-3)
    assert results[0][-1] < results[0][0] - 0.1


def test_frame_is_a_rotation_of_known_variance(monkeypatch):
    g = torch.Generator().manual_seed(7)
    x = torch.randn(500, 6, generator=g) * torch.tensor([1000.0, 3, 2, 1, 0.5, 0.1]) + 20
    monkeypatch.setattr("probekit.fit.frame.MOMENT_BLOCK", 64)
    monkeypatch.setattr("probekit.fit.frame.CENTRED", 64)
    frame = fit_frame(x)
    parts = fit_frame(x[:130], x[130:])
    assert torch.allclose(parts.variance, frame.variance, rtol=1e-5)
    assert torch.allclose(parts.mean, frame.mean)
    z = frame.apply(x)
    assert torch.allclose(frame.apply(x[:130], x[130:]), z, rtol=1e-4, atol=1e-4)
    gram = frame.rotation.T @ frame.rotation
    assert torch.allclose(gram / gram[0, 0], torch.eye(6), atol=1e-5)
    assert torch.allclose(torch.cov(z.T, correction=0), torch.diag(frame.variance), atol=2e-3)
    assert torch.allclose(z.var(0, correction=0), frame.variance, rtol=2e-3)
    assert frame.variance.median() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("seed", [59, 75, 86])
def test_a_few_texts_in_many_columns_have_a_frame(seed):
    """LAPACK's divide and conquer gives up on their covariances: a template filled in eight ways has such columns."""
    rng = np.random.default_rng(seed)
    texts, columns = rng.integers(0, 3, (8, 26)), rng.choice(840, 26, replace=False)
    x = np.zeros((120, 840), np.float32)
    x[:, columns] = texts[rng.integers(0, 8, 120)]
    frame = fit_frame(torch.from_numpy(x))
    z = frame.apply(torch.from_numpy(x))
    assert z.shape[1] == np.linalg.matrix_rank(x - x.mean(0)) == 7
    assert torch.allclose(torch.cov(z.T, correction=0), torch.diag(frame.variance), atol=1e-3)


def test_a_thousandfold_dimension_does_not_hide_the_others():
    g = torch.Generator().manual_seed(8)
    x = torch.randn(1200, 4, generator=g)
    truth = 4 * x[:, 1] - 3 * x[:, 2]
    law = torch.softmax(torch.stack([truth, -truth])[:, None], 0)
    missed = []
    for gain in (1.0, 1000.0):
        x[:, 0] *= gain
        frame = fit_frame(x[:800])
        fit, select = (Rows(frame.apply(x[s]), law[..., s]) for s in (slice(0, 800), slice(800, 1200)))
        bits = select.bits(fit_path(fit, select, frame.variance)) - entropy(select.law)
        missed.append(float(bits.mean()))
    assert missed[0] < 0.002
    assert missed[1] < 0.02, missed


def test_calibration_recovers_temperature_and_intercepts():
    g = torch.Generator().manual_seed(9)
    truth = torch.randn(3, 2, 4000, generator=g)
    law = torch.softmax(truth, 0)
    temperature, shift = torch.tensor([4.0, 0.5]), torch.tensor([[1.0, -2.0, 1.0], [0.0, 0.5, -0.5]])
    wrong = truth * temperature[:, None] + shift.T[..., None]
    theta = fit_platt(wrong, law)
    assert torch.allclose(theta[:, 0].exp(), 1 / temperature, rtol=1e-2)
    intercepts = theta[:, 1:] - theta[:, 1:].mean(1, keepdim=True)
    assert torch.allclose(intercepts, -shift / temperature[:, None], atol=1e-2)
    missed = cross_entropy(calibrate(wrong, theta), law) - entropy(law)
    assert float(missed.mean()) < 1e-3
    assert float((cross_entropy(wrong, law) - entropy(law)).mean()) > 0.2
    # what is calibrated already stays as it is, and hard labels do as well as laws
    assert torch.allclose(calibrate(truth, fit_platt(truth, law)), truth, atol=1e-2)
    drawn = torch.distributions.Categorical(probs=law.permute(1, 2, 0)).sample().T
    hard = torch.nn.functional.one_hot(drawn, 3).permute(2, 1, 0).float()
    assert float((cross_entropy(calibrate(wrong, fit_platt(wrong, hard)), law) - entropy(law)).mean()) < 5e-3


def test_an_outcome_that_never_occurs_is_rare_where_its_intercept_would_have_no_end(monkeypatch):
    """Of ten outcomes eight have no row: at a small ridge the solver may not arrive, by the rounding of the machine."""
    known = OpenRidge.solve
    g = torch.Generator().manual_seed(1)
    for arrives in (True, False) * 3:
        z, law = 10 * torch.randn(40, 60, generator=g), torch.zeros(10, 1, 40)
        law[0, 0] = torch.sigmoid(z[:, 0])
        law[1, 0] = 1 - law[0, 0]
        asked = []

        def solve(self, ridges, start, tolerance, arrives=arrives, asked=asked):
            found, certificate = known(self, ridges, start, tolerance)
            asked.append(self.rows.law)
            return found, certificate if arrives or len(asked) > 1 else certificate + 1

        with monkeypatch.context() as patched:
            patched.setattr(OpenRidge, "solve", solve)
            said = fit_readout(z, law, None, z.var(0), 1e-6).logits(z)
        assert torch.isfinite(said).all() and said.softmax(0)[2:].sum(0).max() < 0.05
        assert float((cross_entropy(said, law) - entropy(law)).mean()) < 0.05  # what occurs is fitted as before
        if not arrives:  # it is then fitted beside a row that knows nothing
            assert torch.equal(asked[-1], smoothed(law))
            least = scipy_bits(z, smoothed(law), torch.zeros(10, 1, 40), 1e-6, free=False)
            assert float(cross_entropy(said, smoothed(law)).mean()) == pytest.approx(least, abs=2e-3)
