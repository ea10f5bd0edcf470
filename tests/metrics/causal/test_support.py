"""Support: the planted illusion is flagged and the direction that is used is not; natural edits raise nothing."""

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.interchange import interchanged
from probekit.metrics.causal.support import Support, illusion_gap, support, within
from probekit.metrics.ratios import estimates
from probekit.testbeds.ground_truth.circuits import SITE, dormant


class Dormant:
    """P5: every pair of states, what its later layer reads, and what a swap of a direction does."""

    def __init__(self, seed: int):
        self.network = dormant(seed)
        n = len(self.network.words)
        base, source = (part.ravel() for part in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        self.natural = np.tile(self.network.site, (8, 1))[np.random.default_rng(seed).permutation(8 * n)]
        self.base, self.source = self.network.site[base], self.network.site[source]
        law = np.stack([1 - self.network.law, self.network.law], 1)
        self.laws = law[base], law[source]
        self.reads = self.network.layers[0].read

    def edited(self, basis):
        return self.base + (self.source - self.base) @ basis @ basis.T

    def swapped(self, basis):
        n = len(self.network.words)
        p = self.network.run(self.edited(basis).reshape(n, n, -1)).ravel()
        return interchanged(*self.laws, np.stack([1 - p, p], 1))

    def basis(self, name: str):
        return self.network.keeps[name][SITE]


@pytest.mark.parametrize("seed", range(4))
def test_the_planted_illusion_is_flagged_and_the_used_direction_is_not(seed):
    case = Dormant(seed)
    told = {
        name: support(case.natural, case.base, case.edited(case.basis(name)), case.reads)
        for name in ("u", "e_c", "e_r")
    }
    assert told["u"].flags == ("dormant", "far")
    assert told["u"].dormant == pytest.approx(1)
    assert told["e_c"].flags == () and told["e_c"].dormant == pytest.approx(0, abs=1e-9)
    assert told["e_r"].flags == ()  # nothing reads it, so nothing is noticed


def test_without_what_is_read_a_copy_left_behind_counts_half():
    case = Dormant(1)
    told = {name: support(case.natural, case.base, case.edited(case.basis(name))) for name in ("u", "e_c")}
    assert told["u"].dormant == pytest.approx(0.75) and "dormant" in told["u"].flags
    assert told["e_c"].dormant == pytest.approx(0.5) and "dormant" not in told["e_c"].flags


@pytest.mark.parametrize(("name", "gap"), [("u", 1), ("e_c", 0)])
def test_the_illusion_gap_is_what_unread_directions_did(name, gap):
    """Accuracy alone takes both for whole: 1 and 1."""
    case = Dormant(2)
    basis = case.basis(name)
    kept, inside = case.swapped(basis), case.swapped(within(basis, case.reads))
    assert kept.accuracy == 1
    told = estimates([illusion_gap(kept, inside)], Clusters.of(kept.at, 300, 0))[0]
    assert told.value == pytest.approx(gap)


def test_what_cannot_be_read_is_an_empty_subspace():
    case = Dormant(0)
    assert within(case.basis("e_r"), case.reads).shape[1] == 0
    inside = within(np.eye(case.natural.shape[1]), case.reads)
    assert inside.shape[1] == 2 and inside.T @ inside == pytest.approx(np.eye(2))


def natural_rows(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.logspace(0.5, -0.5, d) @ np.linalg.qr(rng.normal(size=(d, d)))[0]


def test_swaps_between_natural_rows_raise_nothing_and_far_ones_do():
    d = 20
    rows = natural_rows(4000, d, 0)
    natural, base, source = rows[:2000], rows[2000:3000], rows[3000:]
    plain = support(natural, base, source)
    assert plain.flags == () and 0.002 < plain.far < 0.03
    axes = np.linalg.eigh(np.cov(natural.T))[1][:, [2, 9, 19]]  # rows vary along each of them by itself
    assert support(natural, base, base + (source - base) @ axes @ axes.T).flags == ()
    assert "far" in support(natural, base, base + 3 * (source - base)).flags


def test_distances_are_honest_with_few_rows():
    """A covariance of as many rows as coordinates has seen its own rows: to it, all others are far."""
    rows = natural_rows(1500, 40, 3)
    natural, base, source = rows[:160], rows[500:1000], rows[1000:]
    centre, cov = natural.mean(0), np.cov(natural.T)
    inverse = np.linalg.inv(cov)
    far = [np.einsum("nd,de,ne->n", part - centre, inverse, part - centre) for part in (natural, source)]
    naive = float((far[1] > np.quantile(far[0], 0.99)).mean())
    assert naive > 0.1
    assert support(natural, base, source).far < 0.08


def test_a_gap_between_fitted_and_held_out_pairs_is_flagged():
    assert Support(0, 0, 0.3).flags == ("gap",)
    assert Support(0, 0, 0.05).flags == Support(0, 0).flags == ()


def test_an_edit_that_moves_nothing_is_not_dormant():
    rows = natural_rows(100, 5, 4)
    assert support(rows, rows[:50], rows[:50]).flags == ()


def test_rows_that_do_not_fit_are_said():
    rows = natural_rows(10, 3, 5)
    with pytest.raises(BadInput, match=r"\[rows, d\] each"):
        support(rows, rows, rows[:5])
    with pytest.raises(BadInput, match="3 natural rows"):
        support(rows[:3], rows, rows)
