"""Fewer rows than coordinates: everything linear lives in the span of the rows, exactly and without d x d numbers."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf as judge_shrinkage
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from torch.utils._python_dispatch import TorchDispatchMode

from probekit.fit.directions import lda, ledoit_wolf, random_directions
from probekit.fit.frame import fit_frame, frame_of, moments
from probekit.fit.path import fit_nested
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import Rows, fit_readout, log_prior
from probekit.levels import Level


def plant(n: int, d: int, seed: int = 0):
    """Rows of unequal spread around a far mean; a label that one direction decides, but for noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.geomspace(3, 0.1, d) + 2
    score = (x[:, :20] - 2) @ rng.standard_normal(20)
    label = (score / score.std() + 0.5 * rng.standard_normal(n) > 0).astype(int)
    law = torch.nn.functional.one_hot(torch.from_numpy(label), 2).T[:, None].float().contiguous()
    return x, label, torch.from_numpy(x).float(), law


def sides(x, law, *cuts: tuple[int, int]) -> list[Side]:
    return [Side(x[a:b], law[..., a:b], torch.zeros(len(law), 1, b - a)) for a, b in cuts]


def grouped(n: int, folds: int = 3):
    """Pairs of positions, five rows a group."""
    fold = (torch.arange(n) // 5) % folds
    return [(torch.nonzero(fold != i).flatten(), torch.nonzero(fold == i).flatten()) for i in range(folds)]


def nats(logits, label) -> float:
    return log_loss(label, torch.softmax(logits, 0)[1, 0].double().numpy(), labels=[0, 1])


def test_the_frame_of_few_rows_is_the_one_of_their_covariance():
    _, _, x, _ = plant(40, 60)
    few, wide = fit_frame(x), frame_of(*moments(x))
    assert few.rotation.shape == (60, 39)
    assert torch.allclose(few.variance, wide.variance, rtol=1e-4)
    assert torch.allclose(few.apply(x).abs(), wide.apply(x).abs(), atol=1e-3)
    z = few.apply(x).double()
    assert torch.allclose(z.T @ z / 40, torch.diag(few.variance.double()), atol=1e-3 * float(few.variance[0]))


@pytest.mark.parametrize("ridge", [10.0, 0.1, 1e-2])
def test_ridge_logistic_is_scikit_learns(ridge):
    x, label, rows, law = plant(120, 300)
    fit = slice(80)
    frame = fit_frame(rows[fit])
    found = fit_readout(frame.apply(rows[fit]), law[..., fit], None, frame.variance, ridge, tolerance=1e-7)
    # A ridge on both outcomes' weights is half of it on their difference, per row, in the frame's unit.
    unit = 1 / float(frame.rotation[:, 0].norm())
    judge = LogisticRegression(C=2 / (80 * ridge * unit**2), tol=1e-10, max_iter=20_000).fit(x[:80], label[:80])
    for part in (slice(80), slice(80, None)):
        assert nats(found.logits(frame.apply(rows[part])), label[part]) == pytest.approx(
            log_loss(label[part], judge.predict_proba(x[part])), abs=1e-4
        )


def test_the_penalty_over_grouped_folds_is_scikit_learns():
    x, label, rows, law = plant(160, 300, seed=1)
    inner, ridges = grouped(120), (100.0, 10.0, 1.0, 0.1, 1e-2, 1e-3)
    frame = fit_frame(rows[:120])
    found = fit_nested(Rows(frame.apply(rows[:120]), law[..., :120]), 80, inner, frame.variance, ridges, 1e-7)
    unit = 1 / float(frame.rotation[:, 0].norm())
    asked = {"Cs": [2 / (120 * ridge * unit**2) for ridge in ridges], "cv": [(a.numpy(), b.numpy()) for a, b in inner]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # defaults that will change, none of which matters here
        judge = LogisticRegressionCV(**asked, scoring="neg_log_loss", tol=1e-10, max_iter=20_000).fit(
            x[:120], label[:120]
        )
    # There the penalty of a fold is per row of all rows, here per row of the fold: the same ridge but for two thirds.
    assert float(found.ridge) == pytest.approx(2 / (120 * unit**2 * np.ravel(judge.C_)[0]))
    assert nats(found.logits(frame.apply(rows[120:])), label[120:]) == pytest.approx(
        log_loss(label[120:], judge.predict_proba(x[120:])), abs=1e-4
    )


def test_as_many_rows_more_or_less_as_coordinates_change_nothing():
    """At n = d + 5 both routes to the frame exist, and lead to the same reader."""
    _, label, rows, law = plant(105, 100)
    spanned = fit_frame(torch.cat([rows, torch.zeros(105, 20)], 1))  # twenty idle coordinates: fewer rows than those
    plain = fit_frame(rows)
    assert spanned.rotation.shape[1] == plain.rotation.shape[1] == 100
    logits = []
    for frame, x in ((spanned, torch.cat([rows, torch.zeros(105, 20)], 1)), (plain, rows)):
        z = frame.apply(x)
        logits.append(fit_readout(z, law, None, frame.variance, 1e-2, tolerance=1e-7).logits(z))
    assert nats(logits[0], label) == pytest.approx(nats(logits[1], label), abs=1e-5)


def test_shrinkage_is_scikit_learns():
    for n, d in ((60, 200), (200, 60)):
        x, _, rows, law = plant(n, d)
        frame = fit_frame(rows)
        z = frame.apply(rows)
        covariance, part = judge_shrinkage(x)
        assert ledoit_wolf(z, frame.variance, d) == pytest.approx(part, abs=1e-4)
        means = x[law[1, 0].numpy() == 1].mean(0) - x[law[1, 0].numpy() == 0].mean(0)
        judge = np.linalg.solve(covariance, means)
        found = (frame.rotation @ lda(Rows(z, law), frame.variance, d))[:, 0].double().numpy()
        assert abs(judge @ found) / np.linalg.norm(judge) / np.linalg.norm(found) > 1 - 1e-4


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_every_level_reads_few_rows_and_nothing_is_of_d_by_d():
    n, d = 120, 1_500
    _, _, x, law = plant(n, d, seed=2)
    x[:, :5] += 4 * law[1, 0][:, None]
    with Largest() as seen:
        fit, select, test = sides(x, law, (0, 60), (60, 90), (90, 120))
        site = Site.prepare(fit, select, 0, inner=grouped(90))
        levels = ("prior", "baseline", "neurons", "direction", "directions", "simple:two_thresholds", "linear")
        readers = [reader for name in levels for reader in fit_level(site, Level.parse(name), (1, 4))]
        bits = {f"{r.level} {r.source} {r.k}": float(r.bits(test).mean()) for r in readers}
        random_directions(d, 4, 0)
    assert site.d == 89
    assert all(np.isfinite(list(bits.values())))
    assert bits["linear behaviour None"] < bits["baseline  None"] - 0.05, "something is there to be read"
    assert seen.numbers < d * d / 2


def test_random_directions_of_more_begin_with_those_of_fewer():
    few, more = random_directions(40, 2, 3), random_directions(40, 5, 3)
    assert torch.allclose(more[:, :2], few, atol=1e-6)
    assert torch.allclose(more.T @ more, torch.eye(5), atol=1e-5)


def test_an_outcome_that_no_row_has_is_rare_and_not_impossible():
    law = torch.nn.functional.one_hot(torch.zeros(50, dtype=torch.long), 4).T[:, None].float()
    prior = torch.exp(log_prior(law))
    assert prior[:, 0].tolist() == pytest.approx([50.25 / 51, *[0.25 / 51] * 3])


def test_an_outcome_that_a_fold_lacks_costs_what_a_rare_one_does():
    """Without a prior its intercept runs off, and one such test row costs as many bits as the solver has patience."""
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((200, 8))).float()
    label = torch.from_numpy(rng.integers(0, 2, 200))
    label[190:] = 2
    law = torch.nn.functional.one_hot(label, 3).T[:, None].float().contiguous()
    fit, select = sides(x, law, (0, 100), (100, 150))
    found = fit_readout(x[:100], law[..., :100], None, torch.ones(8), 1e-2, tolerance=1e-7)
    naive = Rows(x[150:], law[..., 150:]).bits(found)[0, 40:].mean()
    site = Site.prepare(fit, select, 0)
    assert torch.allclose(site.whole.law.sum(0), torch.ones(1, 150), atol=1e-5)
    seen = fit_readout(x[:100], site.rows[0].law, None, torch.ones(8), 1e-2, tolerance=1e-7)
    ours = Rows(x[150:], law[..., 150:]).bits(seen)[0, 40:].mean()
    assert ours == pytest.approx(np.log2(3 * 151), abs=2) and float(naive) > float(ours) + 3
