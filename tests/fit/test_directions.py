"""Directions: planted subspaces, scikit-learn and SciPy as judges."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression

from probekit.fit.directions import (
    fit_low_rank,
    fit_rank_curve,
    lda,
    mean_difference,
    pca,
    pick_neurons,
    random_directions,
    residual_moment,
)
from probekit.fit.frame import fit_frame
from probekit.fit.path import fit_path
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import Rows, entropy, fit_readout
from probekit.levels import Level


def tensor(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def one_hot(label, k: int = 2) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(label), k).T[:, None].float().contiguous()


def planted_rank(rank: int, seed: int, n: int = 2000, d: int = 12, k: int = 6):
    """Activations of uneven variance and a law whose logits look along `rank` directions: (x, directions, law)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.geomspace(0.3, 3, d) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    directions = np.linalg.qr(rng.normal(size=(d, rank)))[0]
    logits = x @ directions @ rng.normal(size=(rank, k))
    return tensor(x), directions, torch.softmax(tensor(logits).T[:, None], 0)


def low_rank_on_raw(x, law, k: int):
    frame = fit_frame(x)
    rows = Rows(frame.apply(x), law)
    full = fit_readout(rows.z, law, None, frame.variance, 1e-6)
    return (frame.rotation @ fit_low_rank(rows, full, frame.variance, k)).numpy(), rows, full, frame


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_recovers_the_planted_subspace(rank):
    x, truth, law = planted_rank(rank, rank)
    found = low_rank_on_raw(x, law, rank)[0]
    assert np.rad2deg(subspace_angles(found, truth).max()) < 1.0
    cumulative = law[:, 0].T.cumsum(1)
    drawn = (cumulative < torch.rand(len(x), 1, generator=torch.Generator().manual_seed(rank))).sum(1).clamp_max(5)
    noisy = low_rank_on_raw(x, one_hot(drawn, 6), rank)[0]
    # Labels drawn from the law: along quiet dimensions 2000 rows leave some doubt, loud ones weigh in what is read.
    gaps = subspace_angles(x.numpy() @ noisy, x.numpy() @ truth)
    assert np.rad2deg(gaps.max()) < 18
    # Naive: the leading directions of variance are not those of the behaviour.
    assert np.rad2deg(subspace_angles(PCA(rank).fit(x.numpy()).components_.T, truth).max()) > 30


def test_joint_refinement_beats_truncation_of_the_full_readout():
    """A rank-k model is not the truncated full one: outcomes that are rare or saturated weigh less."""
    x, _, law = planted_rank(4, 5)
    law = torch.softmax(6 * torch.log(law), 0)
    _, rows, full, frame = low_rank_on_raw(x, law, 1)
    spread = frame.variance.sqrt()[:, None]
    weight = (full.weight - full.weight.mean(0))[:, 0].T
    truncated = torch.linalg.svd(spread * weight, full_matrices=False)[0][:, :1] / spread
    losses = []
    for directions in (fit_low_rank(rows, full, frame.variance, 1), truncated):
        seen = Rows(rows.z @ directions, law)
        losses.append(float(seen.bits(fit_path(seen, seen)).mean()))
    assert losses[0] < losses[1] - 0.005


def test_losses_never_rise_with_k_on_fit_rows():
    x, _, law = planted_rank(5, 6, n=600, k=8)
    _, rows, full, frame = low_rank_on_raw(x, law, 1)
    bits = []
    for k in range(1, 8):
        seen = Rows(rows.z @ fit_low_rank(rows, full, frame.variance, k), law)
        bits.append(float(seen.bits(fit_path(seen, seen)).mean()))
    assert (np.diff(bits) < 2e-3).all()
    assert bits[0] > bits[4] + 0.1
    assert bits[4] == pytest.approx(float(entropy(law).mean()), abs=2e-3)
    assert bits[6] == pytest.approx(float(rows.bits(full).mean()), abs=2e-3)


def test_the_rank_curve_is_as_good_as_every_rank_alone():
    x, truth, law = planted_rank(3, 13, n=900, k=7)
    _, rows, full, frame = low_rank_on_raw(x, law, 1)
    ks = (1, 2, 3, 5, 6, 40)
    curve = fit_rank_curve(rows, full, frame.variance, ks)
    assert list(curve) == [1, 2, 3, 5, 6], "seven outcomes have six contrasts"
    bits = {}
    for k, directions in curve.items():
        assert torch.allclose(directions.T @ directions, torch.eye(k), atol=1e-4)
        alone = fit_low_rank(rows, full, frame.variance, k)
        losses = []
        for found in (directions, alone):
            seen = Rows(rows.z @ found, law)
            losses.append(float(seen.bits(fit_path(seen, seen)).mean()))
        assert losses[0] < losses[1] + 2e-3, k
        bits[k] = losses[0]
    assert (np.diff(list(bits.values())) < 1e-3).all(), "no rank loses to a smaller one"
    assert bits[1] > bits[3] + 0.05
    assert bits[6] == pytest.approx(float(rows.bits(full).mean()), abs=2e-3)
    assert np.rad2deg(subspace_angles((frame.rotation @ curve[3]).numpy(), truth).max()) < 1.0


def test_a_rank_curve_beside_a_floor_that_knows_it_all_still_looks_somewhere():
    x, _, law = planted_rank(2, 14, n=400)
    frame = fit_frame(x)
    rows = Rows(frame.apply(x), law, torch.log(law))
    readout = fit_path(rows, rows, frame.variance, (1e6,))
    curve = fit_rank_curve(rows, readout, frame.variance, (1, 2))
    assert all(bool(torch.isfinite(directions).all()) for directions in curve.values())


def test_mean_difference_and_lda_under_correlated_noise():
    rng = np.random.default_rng(7)
    label = rng.integers(0, 2, 4000)
    noise = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6))
    x = np.outer(2 * label - 1, rng.normal(size=6)) + noise
    frame = fit_frame(tensor(x))
    rows = Rows(frame.apply(tensor(x)), one_hot(label))

    def angle(found, judge):
        return np.rad2deg(subspace_angles((frame.rotation @ found).numpy(), judge[:, None])[0])

    means = x[label == 1].mean(0) - x[label == 0].mean(0)
    fisher = LinearDiscriminantAnalysis(solver="eigen").fit(x, label).coef_[0]
    assert angle(mean_difference(rows), means) < 0.5
    assert angle(lda(rows, 6, shrinkage=1e-6), fisher) < 1
    assert angle(lda(rows, 6, frame.variance), fisher) < angle(mean_difference(rows), fisher) / 2
    assert float(lda(rows, 6, frame.variance).norm()) == pytest.approx(1, abs=1e-5)

    readouts = []
    for direction in (mean_difference(rows), lda(rows, 6, frame.variance)):
        seen = Rows(rows.z @ direction, rows.law)
        readouts.append(float(seen.bits(fit_path(seen, seen)).mean()))
    assert readouts[1] < readouts[0] - 0.1, "noise along the mean difference misleads it and not LDA"


def test_moment_is_what_the_floor_leaves():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(3000, 5))
    law = torch.softmax(tensor(np.stack([2 * x[:, 0] + x[:, 1], np.zeros(3000)]))[:, None], 0)
    offset = tensor(np.stack([2 * x[:, 0], np.zeros(3000)]))[:, None]
    before = residual_moment(Rows(tensor(x), law))[:, 0].abs()
    after = residual_moment(Rows(tensor(x), law, offset))[:, 0].abs()
    assert int(before.argmax()) == 0
    assert int(after.argmax()) == 1


def test_pca_spans_what_scikit_learn_spans():
    x, _, _ = planted_rank(2, 9)
    frame = fit_frame(x + 5)
    for k in (1, 3, 12):
        ours = (frame.rotation @ pca(frame, k)).numpy()
        assert subspace_angles(ours, PCA(k).fit(x.numpy()).components_.T).max() < 1e-3


def picked(x, rows: Rows, k: int) -> torch.Tensor:
    """Neurons of raw activations x [n, d]; the activations of `rows` do not count."""
    frame = fit_frame(tensor(x))
    return pick_neurons(frame, residual_moment(Rows(frame.apply(tensor(x)), rows.law, rows.offset)), (k,))[k]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_planted_neurons_are_found_whatever_their_scale(k):
    rng = np.random.default_rng(10 + k)
    x = rng.normal(size=(1500, 30)) * rng.permutation(np.geomspace(0.01, 100, 30)) + rng.normal(size=30)
    planted = np.argsort(x.std(0))[rng.permutation(15)[:k]]  # among the quieter half
    score = ((x - x.mean(0)) / x.std(0))[:, planted].sum(1)
    law = one_hot((score > 0).astype(int))
    rows = Rows(tensor(x), law, torch.zeros_like(law))
    found = picked(x, rows, k)
    assert set(found.tolist()) == set(planted.tolist())
    # Naive: the raw mean difference picks the loudest coordinates.
    gap = np.abs(x[score > 0].mean(0) - x[score <= 0].mean(0))
    assert set(np.argsort(-gap)[:k].tolist()) != set(planted.tolist())


def test_neurons_are_those_the_floor_does_not_know():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(2000, 6))
    law = torch.softmax(tensor(np.stack([3 * x[:, 4] + x[:, 2], np.zeros(2000)]))[:, None], 0)
    known = tensor(np.stack([3 * x[:, 4], np.zeros(2000)]))[:, None]
    rows = [Rows(tensor(x), law, offset) for offset in (None, known)]
    assert [picked(x, r, 1).tolist() for r in rows] == [[4], [2]]


@pytest.mark.parametrize("n_class", [2, 3])
def test_neurons_are_the_best_of_all_subsets(n_class):
    """Least squares over every subset, of classes spread over coordinates of correlated noise; greedy does worse."""
    worse = 0
    for seed in range(4):
        rng = np.random.default_rng(20 + seed)
        label = rng.integers(0, n_class, 800)
        noise = rng.normal(size=(800, 9)) @ rng.normal(size=(9, 9)) + 0.3 * rng.normal(size=(800, 9))
        x = 2 * rng.choice([-1, 1], (n_class, 9))[label] + noise + 3
        target = np.eye(n_class)[label]

        def gain(at: Sequence[int], x=x, target=target) -> float:
            explained = LinearRegression().fit(x[:, at], target).predict(x[:, at])
            return float(((explained - target.mean(0)) ** 2).sum())

        greedy: list[int] = []
        for k in (1, 2, 3):
            greedy.append(max(set(range(9)) - set(greedy), key=lambda j: gain([*greedy, j])))
            best = max(combinations(range(9), k), key=lambda at: gain(list(at)))
            found = picked(x, Rows(tensor(x), one_hot(label, n_class)), k)
            assert set(found.tolist()) == set(best), k
            worse += gain(greedy) < gain(list(best)) - 1e-6
    assert worse >= 2


def test_a_copy_is_not_taken_and_what_takes_off_noise_is():
    """s + noise, a fainter copy of it, and the noise alone, which says nothing by itself: naive ranks take the copy."""
    rng = np.random.default_rng(13)
    s, noise, other = rng.integers(0, 2, 2000) * 2 - 1.0, rng.normal(size=2000), rng.normal(size=(2000, 4))
    x = np.concatenate([np.stack([s + noise, s + noise + 0.3 * other[:, 0], 50 * noise], 1), other[:, 1:]], 1)
    x = np.concatenate([x, np.full((2000, 1), 5.0), x[:, :1] + x[:, 2:3]], 1)
    law = one_hot((s > 0).astype(int))
    rows = Rows(tensor(x), law)
    assert picked(x, rows, 1).tolist() == [0]
    assert set(picked(x, rows, 2).tolist()) <= {0, 2, 7}, "with the noise, or with the sum that contains it"
    found = picked(x, rows, 8).tolist()
    assert sorted(found) == list(range(8)) and 6 in found[6:], "what is constant or a sum of others comes last"
    alone = [abs(np.corrcoef(column, s)[0, 1]) if column.std() else 0.0 for column in x.T]
    assert np.argsort(alone)[::-1][1] == 1


def test_random_directions_are_orthonormal_and_nested():
    wide = random_directions(20, 8, 3)
    assert torch.allclose(wide.T @ wide, torch.eye(8), atol=1e-5)
    assert torch.allclose(wide[:, :3], random_directions(20, 3, 3), atol=1e-6)
    assert not torch.equal(wide, random_directions(20, 8, 4))
    # a line of them has mean square 1 / d along any axis
    along = torch.stack([random_directions(10, 1, seed)[0, 0] ** 2 for seed in range(300)])
    assert float(along.mean()) == pytest.approx(0.1, abs=0.03)


def test_readers_look_where_they_say_they_do():
    """Every reader with directions gives the same law when activations move in their complement."""
    x, truth, law = planted_rank(1, 12, n=900, d=6, k=3)
    offset = torch.zeros_like(law)
    sides = [Side(x[p], law[..., p], offset[..., p]) for p in (slice(0, 500), slice(500, 700), slice(700, 900))]
    site = Site.prepare([(*sides[:2], None)], seed=0)[0]
    g = torch.Generator().manual_seed(0)
    seen = 0
    for name in ("neurons", "direction", "directions", "simple:two_thresholds", "simple:mlp16"):
        for reader in fit_level(site, Level.parse(name), (1, 2)):
            assert reader.directions is not None
            basis = torch.linalg.qr(reader.directions)[0]
            moved = torch.randn(200, 6, generator=g)
            moved = sides[2].x + moved - moved @ basis @ basis.T
            before, after = (torch.softmax(reader.logits(h, sides[2].offset), 0) for h in (sides[2].x, moved))
            # A hard cell may flip within rounding of its threshold.
            assert float((before - after).abs().flatten(0, 1).amax(0).quantile(0.98)) < 1e-3, (name, reader.source)
            if reader.source in ("logistic", "behaviour") and reader.k == 1:
                assert np.rad2deg(subspace_angles(reader.directions.numpy(), truth)[0]) < 3
            seen += 1
    assert seen == 2 + 3 + 4 + 2 + 2
