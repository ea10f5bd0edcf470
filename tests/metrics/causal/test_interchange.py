"""Interchange: accuracy by hand and on planted networks, leaks with intervals, what a random network does as well."""

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters, Crossed
from probekit.metrics.causal.interchange import (
    Interchanged,
    accuracy,
    interchange_leak,
    interchanged,
    odds_leak,
    refused_if_vacuous,
)
from probekit.metrics.ratios import Estimate, crossed_estimates, estimates
from probekit.testbeds.ground_truth.circuits import SITE, dormant, interchange_accuracy


def sure(answers, n_outcomes=3) -> np.ndarray:
    return np.eye(n_outcomes)[np.asarray(answers)] * 0.8 + 0.1


def rights(values) -> Interchanged:
    values = np.asarray(values, dtype=float)
    return Interchanged(np.arange(len(values)), values, 4 * values - 2)


def test_only_pairs_whose_answers_differ_count():
    found = interchanged(sure([0, 0, 1, 2]), sure([0, 1, 2, 0]), sure([2, 1, 1, 0]))
    assert found.at.tolist() == [1, 2, 3]
    assert found.right.tolist() == [1, 0, 1]
    assert found.odds == pytest.approx(np.log2(9) * np.array([1, -1, 1]))
    assert found.accuracy == pytest.approx(2 / 3)


def test_a_tie_is_shared_and_certainty_is_finite():
    base, source = np.array([[1.0, 0], [0, 1]]), np.array([[0, 1.0], [1, 0]])
    found = interchanged(base, source, np.array([[0.5, 0.5], [1, 0]]))
    assert found.right.tolist() == [0.5, 1]
    assert np.isfinite(found.odds).all() and found.odds[1] > 30


def test_no_pair_that_differs_is_no_accuracy():
    assert np.isnan(interchanged(sure([0]), sure([0]), sure([1])).accuracy)


@pytest.mark.parametrize(("keep", "leak"), [("e_c", 0), ("u", 0), ("e_r", 1), ("e_d", 1)])
def test_planted_directions_have_the_accuracy_that_enumeration_gives(keep, leak):
    network = dormant(2)
    n = len(network.words)
    base, source = (part.ravel() for part in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    law = np.stack([1 - network.law, network.law], 1)

    def swapped(basis):
        h, other = network.site[base], network.site[source]
        p = network.run((h + (other - h) @ basis @ basis.T).reshape(n, n, -1)).ravel()
        return interchanged(law[base], law[source], np.stack([1 - p, p], 1))

    kept, site = swapped(network.keeps[keep][SITE]), swapped(np.eye(network.site.shape[1]))
    nothing = swapped(np.zeros((network.site.shape[1], 1)))
    assert kept.accuracy == interchange_accuracy(network, keep) == 1 - leak
    clusters, crossed = Clusters.of(base[kept.at], 400, 0), Crossed.of(base[kept.at], source[kept.at])
    told = crossed_estimates([interchange_leak(kept, site, nothing)], clusters, crossed)[0]
    assert told.value == pytest.approx(leak)
    assert kept.odds.mean() == pytest.approx(site.odds.mean() if leak == 0 else nothing.odds.mean(), rel=1e-6)


def test_the_leak_of_a_site_that_brings_nothing_is_refused():
    dead = rights(np.zeros(100))
    told = estimates([interchange_leak(rights(np.zeros(100)), dead, dead)], Clusters.of(np.arange(100), 300, 0))[0]
    assert (told.value, told.na_reason) == (None, "small_denominator")


def test_leaks_by_answers_and_by_odds_differ_where_answers_turn_late():
    """Half-way odds turn no answer: nothing by accuracy, half by odds."""
    n = 200
    at = np.arange(n)
    site, half, random = (
        Interchanged(at, np.full(n, r), np.full(n, o)) for r, o in ((1.0, 4.0), (0.0, 0.0), (0.0, -4.0))
    )
    by = [make(half, site, random) for make in (interchange_leak, odds_leak)]
    assert [e.value for e in estimates(by, Clusters.of(at, 300, 0))] == [1, 0.5]


@pytest.mark.parametrize(("theirs", "refused"), [(0.60, False), (0.68, True), (0.70, True), (0.9, True)])
def test_what_a_random_network_does_as_well_is_vacuous(theirs, refused):
    kept, twin = rights(np.arange(100) < 70), rights(np.arange(100) < 100 * theirs)
    leak = estimates([accuracy(kept)], Clusters.of(np.arange(100), 300, 0))[0]
    told = refused_if_vacuous(leak, kept, twin)
    if refused:
        assert (told.value, told.na_reason) == (None, "vacuous")
        assert f"{theirs:.3f}" in told.note and "0.700" in told.note and told.n == 100
    else:
        assert told is leak


def test_a_reason_that_is_there_stays():
    missing = Estimate.missing("small_denominator")
    assert refused_if_vacuous(missing, rights([1, 1]), rights([1, 1])) is missing


def test_shared_donors_widen_the_interval_of_a_leak():
    """Few donors, each right or wrong as a whole: bases alone say that much more is known than is."""
    rng = np.random.default_rng(0)
    base, donor = np.repeat(np.arange(60), 25), np.tile(np.arange(25), 60)
    good = rng.random(25) < 0.6
    kept = rights((rng.random(1500) < np.where(good[donor], 0.95, 0.1)).astype(float))
    n = np.arange(1500)
    site, random = (Interchanged(n, np.full(1500, v), np.full(1500, v)) for v in (1.0, 0.0))
    leak, clusters = interchange_leak(kept, site, random), Clusters.of(base, 500, 0)
    alone, both = estimates([leak], clusters)[0], crossed_estimates([leak], clusters, Crossed.of(base, donor))[0]
    assert alone.value == both.value
    assert both.high - both.low > 4 * (alone.high - alone.low)


def test_laws_and_pairs_that_do_not_fit_are_said():
    with pytest.raises(BadInput, match=r"\[n, outcome\] each"):
        interchanged(sure([0]), sure([0, 1]), sure([0]))
    with pytest.raises(BadInput, match="different pairs"):
        interchange_leak(rights([1]), rights([1, 0]), rights([1]))
