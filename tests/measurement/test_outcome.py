"""What a cell leaves to others, and its names in a run folder."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from probekit.measurement.outcome import (
    Alone,
    Coordinates,
    Decoded,
    Kept,
    ReaderName,
    Scores,
    decoded_of,
    kept_of,
    to_tensors,
)

LINEAR, PAIR, SIMPLE = (
    ReaderName("linear", "behaviour", None), ReaderName("directions", "behaviour", 2),
    ReaderName("simple:quadratic", "joint", 12),
)  # fmt: skip
KEPT = Kept(
    directions={PAIR: np.ones((5, 2), np.float32), SIMPLE: np.zeros((5, 12), np.float32)},
    select={LINEAR: np.array([0.25, 0.5]), PAIR: np.array([1.0, 2.0])},
    null={LINEAR: np.arange(8.0).reshape(2, 4)},
    linear=np.array([0.25, 0.5]), alone={
        LINEAR: Alone(np.ones((5, 3), np.float32), np.zeros(3), np.zeros(1), np.zeros((0, 0), np.float32)),
        ReaderName("directions", "given:mine.0", 2): Alone(
            np.ones((2, 3), np.float32), np.ones(3), np.ones(1), np.eye(5, 2, dtype=np.float32)),
    }, scores=Scores(np.array([7, 3]), np.array([9.0, 4.0]), np.array([-1.5, np.nan])),
)  # fmt: skip


def same(a, b):
    """Whether two of a kind have equal fields, arrays included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, tuple):
        return type(a) is type(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("kept", [KEPT, Kept(), Kept(directions=KEPT.directions)])
def test_what_is_written_comes_back(kept):
    back = kept_of(load(save(to_tensors(kept))) if to_tensors(kept) else {})
    assert same(vars(back), vars(kept))
    assert back.is_empty == (kept.directions == {})


def test_a_feature_is_stored_under_its_own_name_whatever_that_is():
    for name in ("square", "select_bits", "a|b|3", "select/x"):
        decoded = Decoded(name, np.eye(3))
        stored = load(save(to_tensors(decoded)))
        assert list(stored) == [name] and same(vars(decoded_of(name, stored)), vars(decoded))


def test_names_of_older_run_folders_are_read():
    """As they were written before names were typed: two separators, selection bits as a column."""
    bits = np.array([[0.5], [0.75]])
    older = {
        "directions|behaviour|2": np.ones((5, 2)), "select/simple:quadratic/joint/12": bits, "select_bits": bits,
        "null/linear/behaviour/None": np.zeros((2, 4)), "select/prior//None": bits,
    }  # fmt: skip
    kept = kept_of(older | {"worst_rows": np.array([1]), "worst_bits": np.array([2.0])})  # which no reader asks for
    assert set(kept.directions) == {PAIR} and set(kept.null) == {LINEAR}
    assert kept.select[SIMPLE].tolist() == [0.5, 0.75] and kept.select[ReaderName("prior", "", None)] is not None
    assert same(to_tensors(kept), older)


def test_fitted_numbers_that_differ_between_folds_tell_no_two_numbers_apart():
    assert Coordinates("linear", parameters=3, rank=1) == Coordinates("linear", parameters=4, rank=2)
    assert Coordinates("linear") != Coordinates("linear", control="row_split")
