"""The demo's opening table, beside scikit-learn and concept-erasure as outside judges."""

import numpy as np
import pytest
import torch

from probekit.proofs.demo import best_threshold_accuracy, erase_linearly, measure_xor
from probekit.testbeds.ground_truth import draw


@pytest.fixture(scope="module")
def xor():
    return measure_xor()


def test_three_usual_methods_are_fooled_and_functions_of_directions_are_not(xor):
    assert xor.accuracy == pytest.approx(0.75, abs=0.02)
    assert xor.linear == pytest.approx(1.0, abs=0.02)
    assert xor.changed < 0.02
    assert xor.after == pytest.approx(0.0, abs=0.03)
    assert xor.one_threshold == pytest.approx(0.689, abs=0.03)
    assert xor.two_thresholds == pytest.approx(0.0, abs=0.03)
    assert xor.quadratic == pytest.approx(0.0, abs=0.03)
    assert len(xor.table()) == 7


def test_no_line_reads_the_planted_behaviour_but_its_parts_are_plain():
    from sklearn.linear_model import LogisticRegression

    planted = draw("P2", 6000, d=16)
    label = planted.law[:, 1] > 0.5
    x, held_out = planted.activations[:4000], planted.activations[4000:]
    judge = LogisticRegression().fit(x, label[:4000])
    assert judge.score(held_out, label[4000:]) < 0.56
    for bit in planted.signs.T:
        assert LogisticRegression().fit(x, bit[:4000]).score(held_out, bit[4000:]) > 0.999


def judged(x, label):
    """LEACE by the authors' own code, without shrinkage."""
    from concept_erasure import LeaceEraser

    # double precision, so that what is compared is the formula
    a, b = torch.from_numpy(x).double(), torch.from_numpy(label).double()
    eraser = LeaceEraser.fit(a, b[:, None], shrinkage=False, svd_tol=1e-9, constrain_cov_trace=False)
    return eraser(a).numpy()


def test_erasure_agrees_with_concept_erasure_on_a_label_that_is_not_balanced():
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(3000, 12)) @ generator.normal(size=(12, 12)) + 1.5).astype(np.float32)
    score = x @ generator.normal(size=12)
    label = (score > np.quantile(score, 0.8)).astype(np.float32)
    assert label.mean() == pytest.approx(0.2, abs=0.01)
    erased, truth = erase_linearly(x, label), judged(x, label)
    assert np.allclose(erased, truth, atol=1e-3 * x.std())
    change = [np.abs(other - x).std() / x.std() for other in (erased, truth)]
    assert change[0] == pytest.approx(change[1], rel=1e-3) and change[1] > 0.1


def test_after_erasure_a_line_learns_nothing_and_before_it_did():
    from sklearn.linear_model import LogisticRegression

    planted = draw("P1", 4000, d=8)
    label = planted.law[:, 1]
    erased = erase_linearly(planted.activations, label)
    assert LogisticRegression().fit(planted.activations, label).score(planted.activations, label) > 0.99
    # the class-conditional means are equal, which is what keeps every line at chance in log-score
    gap = erased[label > 0.5].mean(0) - erased[label < 0.5].mean(0)
    assert abs(gap).max() < 1e-3
    weights = LogisticRegression(C=100).fit(erased, label).coef_
    assert abs(weights).max() < 1e-2


def test_erasure_leaves_the_behaviour_of_the_table_alone():
    planted = draw("P2", 6000, d=16)
    assert np.array_equal(erase_linearly(planted.activations, planted.law[:, 1]), planted.activations)
    # without the test of significance the authors' code removes the sampling noise: a change of the same order
    moved = judged(planted.activations, planted.law[:, 1])
    assert np.abs(moved - planted.activations).std() / planted.activations.std() < 0.5


def test_best_threshold_sees_either_side_and_no_more_than_there_is():
    generator = np.random.default_rng(1)
    signs = generator.integers(0, 2, size=(2000, 2)) * 2.0 - 1
    x = (signs @ np.eye(2, 5)).astype(np.float32)
    both, neither = (signs.sum(1) > 1).astype(np.float32), (signs.sum(1) <= 1).astype(np.float32)
    assert best_threshold_accuracy(x, both, signs) == 1.0
    assert best_threshold_accuracy(x, neither, signs) == 1.0
    xor = (signs.prod(1) < 0).astype(np.float32)
    assert best_threshold_accuracy(x, xor, signs) == pytest.approx(0.75, abs=0.02)
