"""The choice of a ridge: against scikit-learn's cross-validation, against folds in turn, and where there is none."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

import probekit.fit.path as path
from probekit.errors import FitError
from probekit.fit.directions import mean_difference
from probekit.fit.frame import fit_frame
from probekit.fit.path import LAMBDAS, fit_apart, fit_nested, fit_path
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import Readout, Rows, cross_entropy, fit_readout, take
from probekit.levels import Level


def draw(n: int, d: int, k: int, t: int, gain: float = 2.0, steep: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations whose deviations fall by twice `steep` decades, and drawn labels: (x [n, d], law [k, t, n])."""
    g = torch.Generator().manual_seed(0)
    h = torch.randn(n, d, generator=g)
    logits = gain * h @ torch.randn(d, k * t, generator=g) / d**0.5
    label = (logits.view(n, k, t) - torch.log(-torch.log(torch.rand(n, k, t, generator=g)))).argmax(1)
    x = (h * torch.logspace(steep, -steep, d)) @ torch.linalg.qr(torch.randn(d, d, generator=g))[0] + 1.0
    return x, torch.nn.functional.one_hot(label, k).permute(2, 1, 0).float().contiguous()


def halves(x: torch.Tensor, law: torch.Tensor, offset: torch.Tensor | None = None) -> tuple[Rows, Rows]:
    rows = Rows(x, law, offset)
    return take(rows, slice(0, len(x) // 2)), take(rows, slice(len(x) // 2, None))


def join(fit: Rows, select: Rows) -> Rows:
    offset = None if fit.offset is None or select.offset is None else torch.cat([fit.offset, select.offset], -1)
    return Rows(torch.cat([fit.z, select.z]), torch.cat([fit.law, select.law], -1), offset)


def pairs(n: int, folds: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Folds of unequal sizes, so that what a row weighs differs between them."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split([int(n * (i / folds) ** 1.3) for i in range(1, folds)])
    return [(torch.cat([*parts[:i], *parts[i + 1 :]]), parts[i]) for i in range(folds)]


def in_turn(whole: Rows, inner, variance, lambdas=LAMBDAS) -> torch.Tensor:
    """Held-out bits [1 + ridge, target], fold by fold and ridge by ridge, each fitted on rows cut out; no early end."""
    k, t, _ = whole.law.shape
    floor = Readout.nothing(k, t, whole.z.shape[1], whole.z)
    out = torch.zeros(1 + len(lambdas), t)
    for inside, outside in inner:
        rows, held_out = take(whole, inside), take(whole, outside)
        out[0] += held_out.bits(floor).mean(-1) / len(inner)
        for i, ridge in enumerate(lambdas):
            found = fit_readout(rows.z, rows.law, rows.offset, variance, ridge)
            out[1 + i] += held_out.bits(found).mean(-1) / len(inner)
    return out


@pytest.mark.parametrize("narrow", [False, True], ids=["at once", "fold by fold"])
@pytest.mark.parametrize(("n", "d", "k", "t"), [(600, 4, 2, 1), (900, 60, 2, 1), (700, 40, 3, 3), (240, 90, 2, 2)])
def test_folds_solved_together_are_the_folds_in_turn(n, d, k, t, narrow, monkeypatch):
    """Newton's method and the solver over blocks; a floor beside; and folds too large to be solved together."""
    if narrow:
        monkeypatch.setattr(path, "AT_ONCE", n * t * (k - 1) * 3)
    x, law = draw(n, d, k, t)
    frame = fit_frame(x)
    offset = torch.randn(k, t, n, generator=torch.Generator().manual_seed(1)) + 0.5 * law
    fit, select = halves(frame.apply(x), law, offset)
    whole, inner = join(fit, select), pairs(n, 4)
    found = fit_nested(whole, len(fit.z), inner, frame.variance)
    losses = in_turn(whole, inner, frame.variance)
    ridges = torch.tensor([math.inf, *LAMBDAS])
    for j in range(t):
        chosen = int(torch.nonzero(ridges == found.ridge[j]))
        # A path ends at the first rise; ridges that differ by less than a certificate are one.
        assert float(losses[chosen, j]) < float(losses[:, j].min()) + 5e-4
        alone = fit_readout(whole.z, whole.law[:, [j]], offset[:, [j]], frame.variance, float(found.ridge[j]))
        gap = whole.bits(found)[j].mean() - Rows(whole.z, whole.law[:, [j]], offset[:, [j]]).bits(alone).mean()
        assert abs(float(gap)) < 3e-4, "fitted on the rows of all folds"


@pytest.mark.parametrize("d", [5, 50])
def test_the_ridge_and_the_readout_are_those_of_scikit_learn(d):
    """LogisticRegressionCV on the same folds, and on one split; rows few enough for a middle ridge to hold out best."""
    n = 8 * d + 60
    x, law = draw(n, d, 2, 1, gain=1.0, steep=0.1)
    frame = fit_frame(x)
    fit, select = halves(frame.apply(x), law)
    whole = join(fit, select)
    label = whole.law[1, 0].numpy()
    lambdas = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3)
    fifths = list(torch.arange(n).view(-1, 5).T)
    folds = [(torch.cat([b for b in fifths if b is not a]), a) for a in fifths]
    for inner in (folds, [tuple(torch.arange(n).split(n // 2))]):
        cut = [(a.numpy(), b.numpy()) for a, b in inner]
        # One weight vector w is ours of w / 2 and -w / 2: C counts rows of a fold.
        strengths = [2 / (len(cut[0][0]) * ridge) for ridge in lambdas]
        judge = LogisticRegressionCV(
            Cs=strengths, cv=cut, scoring="neg_log_loss", tol=1e-8, max_iter=5_000,
            l1_ratios=(0.0,), use_legacy_attributes=False,
        ).fit(whole.z.numpy(), label)  # fmt: skip
        expected = lambdas[strengths.index(float(judge.C_))]
        one_split = len(inner) == 1
        ours = fit_path(fit, select, frame.variance, lambdas) if one_split else (
            fit_nested(whole, len(fit.z), inner, frame.variance, lambdas))  # fmt: skip
        assert float(ours.ridge[0]) == pytest.approx(expected)
        assert expected not in (lambdas[0], lambdas[-1])
        rows = fit if one_split else whole
        again = LogisticRegression(C=2 / (len(rows.z) * expected), tol=1e-8, max_iter=5_000)
        again.fit(rows.z.numpy(), rows.law[1, 0].numpy())
        difference = ours.weight[1, 0] - ours.weight[0, 0]
        torch.testing.assert_close(difference, torch.tensor(again.coef_[0]).float(), atol=0.02, rtol=0.02)


def test_behaviour_that_is_chance_keeps_the_floor_in_every_fold():
    x, _ = draw(400, 20, 2, 1)
    g = torch.Generator().manual_seed(3)
    law = torch.nn.functional.one_hot(torch.randint(2, (400, 2), generator=g), 2).permute(2, 1, 0).float()
    law[:, 1] = draw(400, 20, 2, 1)[1][:, 0]
    frame = fit_frame(x)
    fit, select = halves(frame.apply(x), law, torch.zeros(2, 2, 400))
    found = fit_nested(join(fit, select), 200, pairs(400, 5), frame.variance)
    assert math.isinf(float(found.ridge[0])) and not bool(found.weight[:, 0].any())
    assert math.isfinite(float(found.ridge[1])) and bool(found.weight[:, 1].any())
    # Naive: without the floor on its path the reader of chance costs bits.
    loose = fit_readout(fit.z, fit.law, None, frame.variance, 1e-4)
    assert float(select.bits(loose)[0].mean()) > 1.02


@pytest.mark.parametrize(("n", "d", "k", "t"), [(400, 40, 2, 1), (400, 30, 3, 2), (240, 90, 2, 1)])
def test_readouts_apart_have_the_one_ridge_that_all_rows_left_out_prefer(n, d, k, t):
    x, law = draw(n, d, k, t)
    frame = fit_frame(x)
    whole, parts = Rows(frame.apply(x), law), pairs(n, 3)
    found, losses = fit_apart(whole, parts, frame.variance), in_turn(whole, parts, frame.variance)
    ridges = torch.tensor([math.inf, *LAMBDAS])
    for j in range(t):
        (ridge,) = {float(one.ridge[j]) for one in found}
        assert float(losses[int(torch.nonzero(ridges == ridge)), j]) < float(losses[:, j].min()) + 5e-4
        for one, (inside, outside) in zip(found, parts, strict=True):
            rows = take(whole, inside)
            alone = fit_readout(rows.z, rows.law[:, [j]], None, frame.variance, ridge)
            left_out = Rows(whole.z[outside], whole.law[:, [j]][..., outside])
            gap = take(whole, outside).bits(one)[j].mean() - left_out.bits(alone).mean()
            assert abs(float(gap)) < 1e-3, "of the rows inside alone"


def test_readouts_apart_of_a_number_are_least_squares_of_the_rows_inside():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 10, generator=g)
    law = (x[:, :1].T + 0.5 * torch.randn(1, 300, generator=g))[None]
    frame = fit_frame(x)
    whole, parts = Rows(frame.apply(x), law, torch.zeros_like(law)), pairs(300, 3)
    for one, (inside, outside) in zip(fit_apart(whole, parts, frame.variance), parts, strict=True):
        design = torch.cat([whole.z, torch.ones(300, 1)], 1)
        judge = torch.linalg.lstsq(design[inside], law[0, 0, inside][:, None]).solution
        said = one.logits(whole.z[outside], torch.zeros_like(law[..., outside]))[0, 0]
        assert torch.allclose(said, (design[outside] @ judge)[:, 0], atol=0.1)
        assert float(((said - law[0, 0, outside]) ** 2).mean()) < 0.4


@pytest.mark.parametrize("folds", [0, 4])
@pytest.mark.parametrize("d", [3, 60])
def test_separable_rows_end_their_path_before_ridges_without_a_minimum(d, folds):
    g = torch.Generator().manual_seed(4)
    x = torch.randn(800, d, generator=g)
    law = torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2).T[:, None].float().contiguous()
    frame = fit_frame(x)
    fit, select = halves(frame.apply(x), law)
    found = fit_nested(join(fit, select), 400, pairs(800, folds) if folds else (), frame.variance, (*LAMBDAS, 1e-12))
    assert float(select.bits(found).mean()) < 0.25
    assert bool(torch.isfinite(found.weight).all())


def test_a_largest_ridge_without_a_minimum_is_an_error(monkeypatch):
    x, law = draw(300, 30, 2, 1)
    fit, select = halves(fit_frame(x).apply(x), law)
    monkeypatch.setattr(path, "STALLED", 0.0)
    with pytest.raises(FitError, match="no minimum within reach at ridge 1"):
        fit_path(fit, select)


@pytest.mark.parametrize("seed", range(3))
def test_over_inner_folds_noise_is_not_followed(seed):
    """Directions, neurons and functions that knew the rows held out by a fold would win there whatever they say."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3_000, 48, generator=g)
    law = torch.nn.functional.one_hot(torch.randint(5, (3_000,), generator=g), 5).T[:, None].float()
    law = law.contiguous()
    offset = law.mean(-1, keepdim=True).log().expand_as(law).contiguous()
    fit, select, test = (Side(x[at], law[..., at], offset[..., at]) for at in (
        slice(0, 1_000), slice(1_000, 1_500), slice(1_500, None)))  # fmt: skip
    site = Site.prepare([(fit, select, None)], 0, inner=pairs(1_500, 5))[0]
    floor = float(cross_entropy(test.offset, test.law).mean())
    for name in ("neurons", "direction", "directions", "simple:two_thresholds", "simple:quadratic", "linear"):
        for reader in fit_level(site, Level.parse(name), (1, 4)):
            assert float(reader.bits(test).mean()) < floor + 0.01, (name, reader.source, reader.k)
    # Naive: a direction of all rows, whose ridge folds of the same rows choose.
    leading = mean_difference(site.whole)
    seen = Rows(site.whole.z @ leading, site.whole.law, site.whole.offset)
    chosen = fit_nested(seen, 1_000, site.inner)
    assert math.isfinite(float(chosen.ridge[0])), "it takes noise for a finding"
