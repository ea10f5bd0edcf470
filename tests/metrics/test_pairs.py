"""Counterexample pairs: found where an abstraction is blind, none where it sees all, and not by nearness alone."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.neighbors import NearestNeighbors

from probekit.errors import BadInput
from probekit.metrics.pairs import counterexample_pairs, divergence


def bits_of(n, seed=0):
    """Two fair bits, a readout of the first one with a little noise, groups of three rows."""
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 2, size=(n, 2))
    readout = 2.0 * bits[:, :1] - 1 + 0.1 * draw.normal(size=(n, 1))
    return bits, readout, np.arange(n) // 3


def law_of(labels):
    return np.eye(2)[labels]


def test_a_reader_of_one_bit_of_an_xor_is_blind_to_the_other():
    bits, readout, group = bits_of(1_500)
    law = law_of(bits[:, 0] ^ bits[:, 1])
    found = counterexample_pairs([readout], law, group, seed=0)
    assert len(found.first) == 20
    assert (bits[found.first, 0] == bits[found.second, 0]).all(), "what is read is the same"
    assert (bits[found.first, 1] != bits[found.second, 1]).all(), "what is hidden is not"
    assert (found.divergence == pytest.approx(1.0)) and (found.percentile <= 5).all()
    assert found.alike == pytest.approx(0.5, abs=0.05) == found.random, "alike rows differ as random ones do"
    assert found.ratio == pytest.approx(found.divergence / found.random)
    # The whole of it, read at once, leaves no such pair.
    both = np.concatenate([readout, 2.0 * bits[:, 1:] - 1], axis=1)
    assert len(counterexample_pairs([both], law, group, seed=0).first) == 0
    assert len(counterexample_pairs([readout, both[:, 1:]], law, group, seed=0).first) == 0


def test_a_sealed_direction_has_no_pair_and_says_so():
    bits, readout, group = bits_of(1_500)
    found = counterexample_pairs([readout], law_of(bits[:, 0]), group, seed=0)
    assert len(found.first) == 0 and found.n_alike > 500
    assert found.alike == 0 and found.random == pytest.approx(0.5, abs=0.05)


def test_nearest_neighbours_without_random_pairs_are_fooled():
    """A sealed readout with rows far out, each with its law: such a row's nearest neighbour is not near."""
    draw = np.random.default_rng(1)
    readout = np.concatenate([0.01 * draw.normal(size=400), np.arange(1, 41)])[:, None]
    labels = np.concatenate([np.zeros(400, int), np.arange(40) % 2])
    law, group = law_of(labels), np.arange(440)
    near = NearestNeighbors(n_neighbors=1).fit(readout).kneighbors(return_distance=False)[:, 0]
    naive = divergence(law, np.stack([np.arange(440), near], axis=1))
    assert (naive == 1).sum() >= 38, "by nearness alone, nearly every row far out seems to contradict its reader"
    assert len(counterexample_pairs([readout], law, group, seed=0).first) == 0


def test_a_difference_that_two_random_rows_have_as_well_is_none():
    """Laws that all differ a little: nearness alone would list the noise of the model."""
    draw = np.random.default_rng(2)
    readout = np.repeat([-1.0, 1.0], 300)[:, None] + 0.1 * draw.normal(size=(600, 1))
    share = np.clip(0.5 + 0.4 * np.sign(readout) + 0.02 * draw.normal(size=(600, 1)), 0, 1)
    law = np.concatenate([share, 1 - share], axis=1)
    found = counterexample_pairs([readout], law, np.arange(600), seed=0)
    assert len(found.first) == 0 and 0 < found.alike < 0.02 * found.random


def test_a_group_is_never_paired_with_itself_and_with_another_once():
    bits, readout, _ = bits_of(600)
    law = law_of(bits[:, 0] ^ bits[:, 1])
    group = np.arange(600) // 150  # four groups: six pairs of them
    found = counterexample_pairs([readout], law, group, seed=0)
    paired = [tuple(sorted(pair)) for pair in zip(group[found.first], group[found.second], strict=True)]
    assert len(found.first) == 6 and all(a != b for a, b in paired) and len(set(paired)) == 6
    assert len({*found.first, *found.second}) == 12, "no row is in two pairs"
    assert len(counterexample_pairs([readout], law, np.zeros(600), seed=0).first) == 0, "one group has no pairs"


def test_rows_that_read_exactly_alike_are_found_among_ties():
    bits, _, group = bits_of(1_500)
    exact = bits[:, :1].astype(float)
    found = counterexample_pairs([exact], law_of(bits[:, 0] ^ bits[:, 1]), group, seed=0)
    assert len(found.first) == 20 and (found.distance == 0).all() and (found.percentile == 0).all()


def test_divergence_is_that_of_scipy_and_of_numbers_what_a_wrong_one_costs():
    draw = np.random.default_rng(3)
    law = draw.dirichlet(np.full(5, 0.3), size=40)
    pairs = draw.integers(0, 40, size=(60, 2))
    judge = [jensenshannon(law[a], law[b], base=2) ** 2 for a, b in pairs]
    assert divergence(law, pairs) == pytest.approx(np.nan_to_num(judge), abs=1e-9)
    numbers = np.array([[0.0], [1.0], [3.0]])
    assert divergence(numbers, np.array([[0, 1], [0, 2]])) == pytest.approx([0.5 / np.log(2), 4.5 / np.log(2)])


def test_a_number_has_pairs_too():
    bits, readout, group = bits_of(900)
    found = counterexample_pairs([readout], 1.0 * (bits[:, :1] ^ bits[:, 1:]), group, seed=0)
    assert len(found.first) == 20 and (bits[found.first, 1] != bits[found.second, 1]).all()


def test_more_rows_than_are_searched_name_rows_of_the_whole():
    bits, readout, group = bits_of(9_000)
    found = counterexample_pairs([readout], law_of(bits[:, 0] ^ bits[:, 1]), group, seed=0)
    assert found.first.max() > 2_000 and (bits[found.first, 1] != bits[found.second, 1]).all()
    again = counterexample_pairs([readout], law_of(bits[:, 0] ^ bits[:, 1]), group, seed=0)
    assert (again.first == found.first).all()


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(BadInput, match="readouts, law and group have 3, 2, 3: give as many"):
        counterexample_pairs([np.zeros((3, 1))], np.zeros((2, 2)), np.zeros(3), seed=0)
    none = counterexample_pairs([np.zeros((0, 1))], np.zeros((0, 2)), np.zeros(0), seed=0)
    assert len(none.first) == 0 and np.isnan(none.random)
