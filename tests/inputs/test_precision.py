"""What differs from row to row outlives single precision, or it is said that it had been lost before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import probekit as pk
from probekit.inputs.precision import Narrowing

rng = np.random.default_rng(0)
LABEL = rng.integers(0, 2, 600)
X = rng.normal(size=(600, 3))
X[:, 0] += 2 * LABEL
QUICK = {"levels": ("linear",), "controls": (), "decomposition": False, "extrapolate": False, "falls": False,
         "n_permutations": 0, "n_bootstrap": 200, "floors": ("strong",)}  # fmt: skip


def read(x, **given):
    """The linear reader's record."""
    frame = pk.measure(x, behaviour=LABEL, **QUICK, **given)
    return frame[frame["metric"] == "read"].iloc[0]


def test_usual_numbers_are_only_cast():
    for x in (X, X.astype(np.float32), X.astype(np.float16), np.arange(12).reshape(4, 3), X > 0):
        narrow = Narrowing.of("x", x)
        assert np.array_equal(narrow(x), x.astype(narrow(x).dtype)) and not narrow.told
    same = X.astype(np.float32)
    assert Narrowing.of("x", same)(same) is same


@given(st.floats(-1e12, 1e12), st.integers(-280, 280))
def test_an_offset_and_a_scale_leave_what_differs(offset, power):
    """To 1e-3 of the spread, or less where the offset has eaten the digits of double precision."""
    scale = 10.0**power
    found = Narrowing.of("x", (X + offset) * scale)((X + offset) * scale).astype(np.float64)
    centred, known = found - found.mean(0), X - X.mean(0)
    unit = centred.std(0).mean() / known.std(0).mean()
    assert np.allclose(centred / unit, known, atol=1e-3)
    assert 1e-13 < unit < 1e13


def test_columns_that_do_not_vary_are_no_trouble():
    x = np.c_[X, np.full(600, 1e300), np.zeros(600)]
    found = Narrowing.of("x", x)(x)
    assert np.isfinite(found).all() and (found[:, 3:] == found[0, 3:]).all()


def test_activations_far_from_nothing_are_read():
    """Cast as they are, they lose the signal."""
    known = read(X)
    lost = (X + 1e9).astype(np.float32)
    assert read(lost).value > 0.95 or read(lost).na_reason, "what a cast does"
    assert read(X + 1e9).value == pytest.approx(known.value, abs=1e-3)
    assert not read(X + 1e9).note


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e-15, 1e25, 1e200])
def test_a_scale_changes_nothing(scale):
    assert read(X * scale).value == pytest.approx(read(X).value, abs=1e-3)


def test_a_scale_of_single_precision_changes_nothing():
    for scale in (1e-25, 1e25):
        assert read((X * scale).astype(np.float32)).value == pytest.approx(read(X).value, abs=1e-3)


def test_a_floor_far_from_nothing_is_heard():
    """A time stamp that gives the behaviour away leaves nothing to explain."""
    draw = np.random.default_rng(7)
    noise = draw.normal(size=600) * 20
    near, far = (read(X, floor=offset + 20 * LABEL + noise) for offset in (0, 1.7e9))
    assert near.floor_bits < 0.9
    assert far.floor_bits == pytest.approx(near.floor_bits, abs=0.02)


def test_a_loud_column_of_a_floor_drowns_no_other():
    draw = np.random.default_rng(7)
    told = read(X, floor=np.c_[draw.normal(size=600) * 1e9, LABEL])
    assert told.floor_bits < 0.05
    assert read(X, floor={"time": draw.normal(size=600) * 1e9, "flag": LABEL}).floor_bits < 0.05


def test_what_was_lost_before_is_said():
    draw = np.random.default_rng(7)
    lost = (X + 1e7).astype(np.float32)
    assert "column 0 of activations came as float32 around 1e+07" in read(lost).note
    assert "column 0 of floor block 'input' came as float32" in read(X, floor=(1e8 + LABEL).astype(np.float32)).note
    faint = np.c_[X, 1e9 * draw.normal(size=600)]
    assert "3 columns of activations, such as 0, spread less than a millionth of column 3" in read(faint).note
    assert not read(X).note
