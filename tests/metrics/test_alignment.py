"""Alignment: what was done to rows is undone, the classes lie in one another, and outside judges say the same."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import RidgeCV

from probekit.errors import BadInput
from probekit.metrics.alignment import ALIGNMENTS, fit_alignment, linear_cka


def rows(seed: int = 0, n: int = 200, d: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(np.arange(1, d + 1)) + rng.normal(size=d)


def turned(x: np.ndarray, how: str, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    d = x.shape[1]
    turn = {
        "identity": np.eye(d),
        "permutation": 2.5 * np.eye(d)[rng.permutation(d)],
        "procrustes": 0.3 * np.linalg.qr(rng.normal(size=(d, d)))[0],
        "affine": rng.normal(size=(d, d + 2)),
    }[how]
    return x @ turn + (how != "identity") * rng.normal(size=turn.shape[1])


@pytest.mark.parametrize("how", ALIGNMENTS)
def test_what_was_done_to_anchors_is_found_and_holds_for_other_rows(how):
    x = rows()
    to = turned(x, how)
    found = fit_alignment(how, x[:150], to[:150])
    assert np.allclose(found.apply(x[150:]), to[150:], atol=1e-3)
    assert found.left(x[150:], to[150:]) < 1e-6


def test_a_smaller_class_does_not_undo_what_a_larger_one_did():
    x = rows(n=2000)
    left = {how: fit_alignment(how, x, turned(x, "procrustes")).left(x, turned(x, "procrustes")) for how in ALIGNMENTS}
    assert left["procrustes"] < 1e-9 > left["affine"] - 1e-9
    assert left["identity"] > 1 and left["permutation"] > 0.3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(0, 3))
def test_the_classes_lie_in_one_another(seed, d, more):
    rng = np.random.default_rng(seed)
    x, to = rng.normal(size=(60, d)) + 1, rng.normal(size=(60, d + more))
    asked = ALIGNMENTS if not more else ALIGNMENTS[1:]
    left = [fit_alignment(how, x, to).left(x, to) for how in asked]
    # The ridge of the last one is chosen for other rows: it may give up what does not carry over to them.
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(left[:-1]))
    assert left[-1] <= 1 + 1e-9


def test_scipy_and_scikit_learn_say_the_same():
    rng = np.random.default_rng(2)
    x, to = rows(3), turned(rows(3), "affine") + rng.normal(size=(200, 8))
    centred, wanted = x - x.mean(0), to - to.mean(0)
    square = np.pad(centred, ((0, 0), (0, 2)))
    turn, scale = orthogonal_procrustes(square, wanted)
    judged = scale / (centred**2).sum() * square @ turn
    assert np.allclose(fit_alignment("procrustes", x, to).apply(x) - to.mean(0), judged, atol=1e-8)

    size = float((np.linalg.svd(centred, compute_uv=False) ** 2).mean())
    judge = RidgeCV(alphas=np.geomspace(1e-8, 1e2, 21) * size).fit(x, to)
    assert np.allclose(fit_alignment("affine", x, to).turn, judge.coef_.T, atol=0.02)


def test_noise_is_not_aligned():
    rng = np.random.default_rng(4)
    x, to = rng.normal(size=(2, 80, 30))
    found = fit_alignment("affine", x[:40], to[:40])
    assert found.left(x[40:], to[40:]) < 1.2  # a fit without a ridge is at about 4


def test_a_rotated_clone_has_a_cka_of_1_and_independent_rows_have_none():
    x = rows(n=4000)
    assert linear_cka(x, turned(x, "procrustes")) == pytest.approx(1)
    assert linear_cka(x, rows(9, n=4000)) < 0.01


@pytest.mark.parametrize(
    ("name", "n", "other", "said"),
    [
        ("procrustes", 5, 6, "needs as many anchors, and there are 5"),
        ("identity", 50, 4, "rows of 6 coordinates are no rows of 4"),
        ("procrustis", 50, 6, "Did you mean 'procrustes'"),
    ],
)
def test_what_cannot_be_aligned_is_refused_in_a_sentence(name, n, other, said):
    with pytest.raises(BadInput, match=said):
        fit_alignment(name, rows(n=n), rows(n=n, d=other))
