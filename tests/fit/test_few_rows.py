"""Fewer rows than coordinates: everything linear lives in the span of the rows, exactly and without d x d numbers."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf as judge_shrinkage
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss, roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode

from probekit.fit.directions import lda, ledoit_wolf, pick_neurons, random_directions, residual_moment
from probekit.fit.frame import fit_frame, frame_of, frame_rows, moments
from probekit.fit.path import fit_nested
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import Rows, cross_entropy, fit_readout, log_prior
from probekit.fit.simple.starts import Core
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
        own = frame.variance.double()
        assert ledoit_wolf(z, float((own**2).sum()), float(own.sum()), d) == pytest.approx(part, abs=1e-4)
        means = x[law[1, 0].numpy() == 1].mean(0) - x[law[1, 0].numpy() == 0].mean(0)
        judge = np.linalg.solve(covariance, means)
        found = (frame.rotation @ lda(Rows(z, law), d, frame.variance))[:, 0].double().numpy()
        assert abs(judge @ found) / np.linalg.norm(judge) / np.linalg.norm(found) > 1 - 1e-4
        turned = torch.linalg.qr(torch.randn(z.shape[1], z.shape[1], generator=torch.Generator().manual_seed(0)))[0]
        again = frame.rotation @ (turned @ lda(Rows(z @ turned, law), d))  # coordinates that are correlated
        assert abs(float(again[:, 0].double() @ torch.from_numpy(found))) / np.linalg.norm(found) > 0.999 * float(
            again.double().norm()
        )


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
        site = Site.prepare([(fit, select, None)], 0, inner=grouped(90))[0]
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
    site = Site.prepare([(fit, select, None)], 0)[0]
    assert torch.allclose(site.whole.law.sum(0), torch.ones(1, 150), atol=1e-5)
    seen = fit_readout(x[:100], site.rows[0].law, None, torch.ones(8), 1e-2, tolerance=1e-7)
    ours = Rows(x[150:], law[..., 150:]).bits(seen)[0, 40:].mean()
    assert ours == pytest.approx(np.log2(3 * 151), abs=2) and float(naive) > float(ours) + 3


def test_axes_that_are_made_when_asked_for_are_those_that_rows_are_turned_by():
    _, _, x, _ = plant(40, 60)
    frame, z = frame_rows(x[:25], x[25:])
    directions = torch.randn(39, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(frame.apply(x), z, atol=1e-4), "its own rows need no product"
    assert torch.allclose(frame.rotation @ directions, frame.back(directions), rtol=1e-4, atol=1e-5)
    assert torch.allclose(frame.along(x, frame.back(directions)), z @ directions, rtol=1e-3, atol=1e-3)
    assert torch.allclose(frame.rotation.norm(dim=0), torch.full((39,), frame.length), rtol=1e-4)
    assert torch.allclose(frame.spread @ frame.spread.T, torch.cov(x.T, correction=0), atol=1e-4)


def test_neurons_of_few_rows_are_those_of_their_covariance():
    _, _, x, law = plant(100, 120, seed=3)
    few, wide = fit_frame(x), frame_of(*moments(x))
    gradient = [residual_moment(Rows(frame.apply(x), law)) for frame in (few, wide)]
    found = [pick_neurons(frame, g, (1, 4, 12)) for frame, g in zip((few, wide), gradient, strict=True)]
    assert all(set(found[0][k].tolist()) == set(found[1][k].tolist()) for k in (1, 4, 12))


def test_neurons_past_the_beam_come_from_those_that_gain_most(monkeypatch):
    _, _, x, law = plant(300, 60, seed=4)
    frame = fit_frame(x)
    gradient = residual_moment(Rows(frame.apply(x), law))
    whole = pick_neurons(frame, gradient, (8, 20))
    monkeypatch.setattr("probekit.fit.directions.CANDIDATES", 40)
    some = pick_neurons(frame, gradient, (8, 20))
    assert some[8].tolist() == whole[8].tolist()
    assert len(set(some[20].tolist())) == 20 and set(whole[8].tolist()) <= set(some[20].tolist())
    assert len(set(some[20].tolist()) & set(whole[20].tolist())) >= 17, "what hardly gains at first may do so later"


@pytest.mark.parametrize("d", [512, 2_048])
def test_functions_of_two_loud_directions_are_found_in_more_coordinates_than_rows(d):
    """An XOR along two directions, five times as loud as noise: joint fits of all coordinates find nothing (1 bit)."""
    rng = np.random.default_rng(0)
    s = rng.choice([-1, 1], (1_000, 2))
    x = 5 * s @ np.linalg.qr(rng.standard_normal((d, 2)))[0].T + rng.standard_normal((1_000, d))
    law = torch.nn.functional.one_hot(torch.from_numpy((s.prod(1) > 0).astype(int)), 2).T[:, None].float().contiguous()
    fit, select, test = sides(torch.from_numpy(x).float(), law, (0, 550), (550, 750), (750, 1_000))
    site = Site.prepare([(fit, select, None)], 0, inner=grouped(750))[0]
    assert site.n_loudest == 68
    bits = {kind: [float(reader.bits(test).mean()) for reader in fit_level(site, Level.parse(f"simple:{kind}"), (2,))]
            for kind in ("two_thresholds", "quadratic", "mlp16")}  # fmt: skip
    assert all(value < 0.1 for (value,) in bits.values()), bits
    linear = next(fit_level(site, Level("linear"), ()))
    assert float(linear.bits(test).mean()) > 0.95


def test_the_core_holds_the_loudest_coordinates_and_the_linear_directions():
    generator = torch.Generator().manual_seed(0)
    variance, linear = torch.logspace(2, -2, 40), torch.randn(40, 2, generator=generator)
    rows = Rows(torch.randn(30, 40, generator=generator) * variance.sqrt(), torch.ones(1, 1, 30))
    core = Core.of((rows, rows), variance, linear, 10)
    assert len(core.variance) == 12
    assert torch.allclose(core.back(core.linear), linear, atol=1e-4)
    seen = core.rows[0].z
    assert torch.allclose(seen @ core.linear, rows.z @ linear, rtol=1e-3, atol=1e-3)
    assert core.axes is not None
    covariance = core.axes.T @ (variance[:, None] * core.axes)
    assert torch.allclose(covariance, torch.diag(core.variance), atol=1e-3)
    assert Core.of((rows, rows), variance, linear, 38).axes is None


def test_many_classes_of_few_rows_are_read_as_by_scikit_learn():
    rng = np.random.default_rng(5)
    centre, label = rng.standard_normal((30, 80)), np.arange(600) % 30
    x = 0.5 * centre[label] + rng.standard_normal((600, 80))
    law = torch.nn.functional.one_hot(torch.from_numpy(label), 30).T[:, None].float().contiguous()
    rows = torch.from_numpy(x).float()
    frame = fit_frame(rows[:400])
    found = fit_readout(frame.apply(rows[:400]), law[..., :400], None, frame.variance, 1e-2)
    judge = LogisticRegression(C=1 / (400 * 1e-2 * frame.length**-2), tol=1e-10, max_iter=20_000).fit(
        x[:400], label[:400]
    )
    said = torch.softmax(found.logits(frame.apply(rows[400:])), 0)[:, 0].T.double().numpy()
    assert log_loss(label[400:], said / said.sum(1, keepdims=True)) == pytest.approx(
        log_loss(label[400:], judge.predict_proba(x[400:])), abs=2e-3
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_of_one_per_cent_is_read_as_by_an_outside_judge(seed):
    """Ten rows of a thousand in 600 coordinates: as many bits and as good an order as scikit-learn's."""
    rng = np.random.default_rng(seed)
    label = (rng.permutation(2_000) < 20).astype(int)
    x = rng.standard_normal((2_000, 600))
    x[:, :3] += 3 * label[:, None]
    law = torch.nn.functional.one_hot(torch.from_numpy(label), 2).T[:, None].float().contiguous()
    rows = torch.from_numpy(x).float()
    order = np.concatenate([rng.permutation(np.flatnonzero(label == c)) for c in (0, 1)])
    first, second = order[::2], order[1::2]  # a thousand each, ten of them of the class
    first = rng.permutation(first)
    beside = log_prior(law[..., first])[..., None]

    def side(at) -> Side:
        return Side(rows[at], law[..., at], beside.expand(-1, -1, len(at)).contiguous())

    fold = np.empty(len(first), int)
    for c in (0, 1):
        at = np.flatnonzero(label[first] == c)
        fold[at] = np.arange(len(at)) % 3
    inner = [
        (torch.from_numpy(np.flatnonzero(fold != i)), torch.from_numpy(np.flatnonzero(fold == i))) for i in range(3)
    ]
    site = Site.prepare([(side(first[:700]), side(first[700:]), None)], 0, inner=inner)[0]
    found = next(fit_level(site, Level("linear"), ()))
    logits = found.logits(rows[second], beside.expand(-1, -1, 1_000))
    odds = (logits[1, 0] - logits[0, 0]).double().numpy()
    lost, floor = (cross_entropy(part, law[..., second]).mean() for part in (logits, side(second).offset))
    assert float(lost / floor) < 1.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        judge = LogisticRegressionCV(
            Cs=np.logspace(-6, 1, 8).tolist(), cv=[(a.numpy(), b.numpy()) for a, b in inner], scoring="neg_log_loss",
            max_iter=20_000,
        ).fit(x[first], label[first])  # fmt: skip
    assert roc_auc_score(label[second], odds) == pytest.approx(
        roc_auc_score(label[second], judge.decision_function(x[second])), abs=0.03
    )
    theirs = log_loss(label[second], judge.predict_proba(x[second])) / np.log(2)
    assert float(lost) < theirs + 0.01 * float(floor) + 0.002
