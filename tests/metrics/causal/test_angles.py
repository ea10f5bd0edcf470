"""Angles: beside SciPy, planted ones, and what chance makes by another road."""

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.stats import beta, kstest, ortho_group

from probekit.errors import BadInput
from probekit.metrics.causal.angles import angles, chance_cosines


@pytest.mark.parametrize(("d", "k", "m"), [(5, 1, 1), (20, 3, 7), (20, 7, 3), (8, 5, 6), (300, 4, 4)])
def test_degrees_agree_with_scipy(d, k, m):
    rng = np.random.default_rng(d + k)
    a, b = rng.normal(size=(d, k)), rng.normal(size=(d, m))
    assert angles(a, b, 50).degrees == pytest.approx(np.rad2deg(np.sort(subspace_angles(a, b))), abs=1e-7)


@pytest.mark.parametrize("planted", [1e-7, 0.01, 30, 60, 89.999])
def test_a_planted_angle_is_found_however_small_it_is(planted):
    q = ortho_group.rvs(9, random_state=1)
    turn = np.deg2rad(planted)
    a, b = q[:, :2], np.stack([q[:, 0], np.cos(turn) * q[:, 1] + np.sin(turn) * q[:, 4]], 1)
    found = angles(a @ np.array([[1, 2], [0, 3.0]]), b, 50)
    assert found.degrees == pytest.approx([0, planted], rel=1e-6, abs=1e-6)
    assert found.overlap == pytest.approx((1 + np.cos(turn) ** 2) / 2)


@pytest.mark.parametrize(("d", "k", "m"), [(12, 1, 1), (60, 1, 5), (12, 9, 1)])
def test_chance_is_a_beta_where_one_of_them_is_a_line(d, k, m):
    drawn = chance_cosines(d, k, m, 4000, 3)[:, 0] ** 2
    r = max(k, m)
    assert kstest(drawn, beta(r / 2, (d - r) / 2).cdf).pvalue > 0.01
    rng = np.random.default_rng(0)
    found = angles(rng.normal(size=(d, k)), rng.normal(size=(d, m)))
    assert found.p == pytest.approx(beta(r / 2, (d - r) / 2).sf(found.overlap))


@pytest.mark.parametrize(("d", "k", "m"), [(10, 2, 3), (7, 4, 5), (6, 6, 2), (30, 6, 6)])
def test_chance_is_what_subspaces_drawn_in_full_make(d, k, m):
    """(7, 4, 5): they always share a plane, whose angles are 0."""
    rng = np.random.default_rng(5)
    plain = np.array(
        [
            np.cos(np.sort(subspace_angles(np.linalg.qr(rng.normal(size=(d, k)))[0], np.eye(d)[:, :m])))
            for _ in range(1500)
        ]
    )
    ours = chance_cosines(d, k, m, 1500, 0)
    assert ours.mean(0) == pytest.approx(plain.mean(0), abs=0.02)
    assert ours.std(0) == pytest.approx(plain.std(0), abs=0.02)
    assert (ours**2).mean() == pytest.approx(max(k, m) / d, abs=0.01)


def test_a_small_angle_of_lines_says_more_than_that_of_rich_subspaces():
    """The naive reading of a smallest angle: 30 degrees are rare for lines of 64 coordinates, not for ranks of 20."""
    rng = np.random.default_rng(6)
    q = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    turned = np.cos(np.pi / 6) * q[:, :1] + np.sin(np.pi / 6) * q[:, 1:2]
    line, rich = angles(q[:, :1], turned), angles(rng.normal(size=(64, 20)), rng.normal(size=(64, 20)))
    assert line.degrees[0] == pytest.approx(30) and line.p < 1e-6
    assert rich.degrees[0] < 35 and rich.p > 0.01
    assert rich.chance_degrees[0][0] < rich.degrees[0] < rich.chance_degrees[0][2]


def test_p_is_uniform_by_chance_and_small_for_shared_directions():
    rng = np.random.default_rng(7)
    p = [angles(rng.normal(size=(16, 3)), rng.normal(size=(16, 4)), 400, seed).p for seed in range(150)]
    assert kstest(p, "uniform").pvalue > 0.01
    a = rng.normal(size=(16, 3))
    shared = angles(a, np.concatenate([a[:, :2], rng.normal(size=(16, 2))], 1), 400)
    assert shared.p == pytest.approx(1 / 401)


def test_it_reads_as_a_sentence():
    told = str(angles(np.eye(8)[:, :2], np.eye(8)[:, 1:4]))
    assert told.startswith("smallest angle 0.0 degrees where chance has ") and "ranks 2 and 3 of 8" in told


def test_the_whole_site_holds_everything():
    found = angles(np.eye(4)[:, :2], np.eye(4))
    assert found.overlap == pytest.approx(1) and found.p == 1


@pytest.mark.parametrize("bad", [np.zeros((4, 1)), np.full((4, 1), np.nan)])
def test_what_has_no_direction_is_said(bad):
    with pytest.raises(BadInput, match="finite and not all 0"):
        angles(np.eye(4)[:, :1], bad)


def test_subspaces_of_two_sites_are_said():
    with pytest.raises(BadInput, match=r"found \(4, 4\) and \(5, 5\)"):
        angles(np.eye(4), np.eye(5))
