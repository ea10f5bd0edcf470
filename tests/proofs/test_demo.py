"""The demo's opening table, beside scikit-learn and concept-erasure as outside judges."""

import numpy as np
import pandas as pd
import pytest
import torch

from probekit.proofs.demo import Xor, best_threshold_accuracy, closing, erase_linearly, measure_xor
from probekit.records import Record
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


def records():
    """What the demo's job writes, as far as its sentences speak of it: seven sites, the middle one layer 2."""
    sites = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(6))]
    linear, decoded = (1.0, 0.86, 0.84, 0.80, 0.70, 0.35, 0.0), (1.0, 0.6, 0.46, 0.3, 0.17, 0.24, 0.58)
    at = {"fit_domain": "play", "test_domain": "play", "ceiling_bits": 2.0, "n": 90, "groups": 45}
    law = at | {"behaviour": "next_move_law", "metric": "read"}
    out = []
    for i, hook in enumerate(sites):
        here = law | {"hook": hook}
        out.append(Record(**here, level="linear", value=linear[i], floor_bits=3.0))
        out.append(Record(**here, level="linear", value=linear[i], floor="weak", floor_bits=4.0))
        out.append(Record(**here, level="hypothesis:rules", source="decoded", value=decoded[i], floor_bits=3.0))
        for name, accuracy in (("mine_yours", 0.9 + i / 100), ("black_white", 0.7 + i / 100)):
            read = at | {"behaviour": f"feature:{name}", "metric": "accuracy", "hook": hook}
            out.append(Record(**read, level="linear", value=accuracy))
            out.append(Record(**read, level="linear", value=0.6, control="random_twin"))
    kept = law | {"metric": "replace", "level": "directions", "source": "behaviour", "k": 32, "floor_bits": 3.0}
    out.append(Record(**kept, arm="chain:matched", value=0.85, low=0.75, high=1.05))
    return pd.DataFrame([record.row() for record in out])


XOR = Xor(0.754, 1.0, 0.0, 0.0, 0.7, 0.001, 0.0)


def test_the_three_sentences_are_of_the_runs_own_figures():
    fooled, board, then = closing(XOR, records())
    assert "right in 75% of rows" in fooled and "leaves 1.00 unexplained" in fooled and "leave .00" in fooled
    assert "at L2 resid_post a line reads mine, yours or empty of a square with 93% accuracy" in board
    assert "black or white with 73%" in board and "leave .30 of the next move" in board
    assert "a linear reader of the same site .80, and none before the unembedding less than .35" in board
    assert "of the 2.00 bits that a weak floor" in board and "50% are in the moves" in board
    assert "32 directions" in then and ".85 [.75, 1.05]" in then


def test_what_is_not_so_is_not_said():
    frame = records()
    frame.loc[frame["level"] == "hypothesis:rules", "value"] = 0.5
    frame = frame[frame["metric"] != "replace"]
    _, board, then = closing(XOR, frame)
    assert "leave .50" in board and "none before the unembedding" not in board
    assert "directions" not in then
