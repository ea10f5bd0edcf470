"""Any container gives the values that it holds; what is missing, mixed or no array is one sentence with its row."""

import datetime
import decimal
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from probekit.containers import names, numbers, plain
from probekit.errors import BadInput

BIG = 2**53  # from here on floats merge neighbours
INTEGERS = {
    "list": list, "tuple": tuple, "numpy": np.array, "object": lambda v: np.array(v, dtype=object),
    "torch": torch.tensor, "list of tensors": lambda v: [torch.tensor(one) for one in v],
    "list of scalars": lambda v: list(np.array(v)), "series": pd.Series, "index": pd.Index,
    "shuffled index": lambda v: pd.Series(v, index=range(len(v))[::-1]),
    "nullable": lambda v: pd.Series(v, dtype="Int64"),
    "pandas arrow": lambda v: pd.Series(v, dtype="int64[pyarrow]"), "categorical": pd.Categorical,
    "arrow": pa.array, "chunked": lambda v: pa.chunked_array([v[:1], v[1:]]),
    "dictionary": lambda v: pa.array(v).dictionary_encode(), "masked": np.ma.masked_array,
    "big-endian": lambda v: np.array(v, dtype=">i8"), "backwards": lambda v: np.array(v[::-1])[::-1],
    "read-only": lambda v: np.broadcast_to(np.array(v), (1, len(v)))[0],
}  # fmt: skip
WORDS = {
    "list": list, "object": lambda v: np.array(v, dtype=object), "numpy": np.array, "series": pd.Series,
    "string": lambda v: pd.Series(v, dtype="string"), "arrow string": lambda v: pd.Series(v, dtype="string[pyarrow]"),
    "categorical": lambda v: pd.Series(v, dtype="category"), "arrow": pa.array,
    "dictionary": lambda v: pa.array(v).dictionary_encode(), "bytes": lambda v: np.char.encode(np.array(v), "utf-8"),
    "StringDType": lambda v: np.array(v, dtype=np.dtypes.StringDType()),
}  # fmt: skip


@pytest.mark.parametrize("container", INTEGERS)
def test_integers_stay_integers(container):
    """Neighbours above 2**53 are one number as floats."""
    values = [BIG, BIG + 1, BIG + 2, -1]
    assert len(np.unique(np.array(values, dtype=np.float64))) < 4, "what a float does to them"
    found = names("groups", INTEGERS[container](values), (4,))
    assert found.tolist() == values and found.dtype.isnative and min(found.strides) > 0


@pytest.mark.parametrize("values", [[2**63 + 1, 2**63, 5], [2**80, 2**80 + 1, -3]], ids=["64 bits", "more"])
def test_hashes_stay_what_they_are(values):
    assert np.unique(names("groups", values, (3,))).tolist() == sorted(values)


@pytest.mark.parametrize("container", WORDS)
def test_words_stay_words(container):
    values = ["no", "nó", "007", "nan", ""]
    assert names("labels", WORDS[container](values), (5,)).tolist() == values


def test_words_keep_what_numpy_would_cut():
    assert len(np.unique(["a", "a\0"])) == 1, "what NumPy does to them"
    assert len(np.unique(names("labels", ["a", "a\0"], (2,)))) == 2


@given(st.lists(st.one_of(st.integers(), st.integers(-3, 3)), min_size=1, max_size=20))
def test_any_integers_are_told_apart(values):
    assert len(np.unique(names("x", values, (len(values),)))) == len(set(values))


@given(st.lists(st.text(max_size=4), min_size=1, max_size=20))
def test_any_words_are_told_apart(values):
    assert len(np.unique(names("x", values, (len(values),)))) == len(set(values))


NAN = float("nan")
HOLES = {
    "None": ["a", None], "NaN among words": ["a", NAN], "NaN": [1.0, NAN],
    "float32 NaN": np.array([1, NAN], np.float32),
    "NA": pd.Series(["a", None], dtype="string"), "nullable integers": pd.Series([1, None], dtype="Int64"),
    "category": pd.Series(["a", None], dtype="category"), "arrow": pa.array([1, None]),
    "NaT": [pd.Timestamp(0), pd.NaT],
    "datetimes": np.array(["2020-01-01", "NaT"], dtype="M8[D]"), "mask": np.ma.masked_array([1, 2], [False, True]),
    "masked words": np.ma.masked_array(["a", "b"], [False, True]), "tensor": torch.tensor([1.0, NAN]),
    "Decimal": [decimal.Decimal(1), decimal.Decimal("nan")],
    "arrow integers": pd.Series([1, None], dtype="int64[pyarrow]"),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_what_is_missing_is_told_with_its_row(hole):
    with pytest.raises(BadInput, match="^groups has no value at row 1: fill it in or leave the row out.$"):
        names("groups", HOLES[hole], (2,))


def test_nothing_is_read_under_a_mask():
    x = np.ma.masked_array(np.zeros((3, 2)), [[0, 0], [0, 0], [0, 1]])
    with pytest.raises(BadInput, match="x has no value at row 2"):
        numbers("x", x)
    assert numbers("x", np.ma.masked_array([1, 2])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "a"], r"row 0 has an integer \(1\) and row 1 a word \('a'\)"),
        (["a", "b", 2.5], r"row 0 has a word \('a'\) and row 2 a number \(2.5\)"),
        ([True, 1], r"row 0 has yes or no \(True\) and row 1 an integer \(1\)"),
        ([0.5, BIG + 1], "row 0 has a number"),
        (pd.Series([1, "a"]), "row 0 has an integer"),
    ],
)
def test_mixed_types_are_shown(values, said):
    with pytest.raises(BadInput, match=f"mixes types: {said}"):
        names("labels", values, (len(values),))


def test_integers_among_floats_are_floats():
    assert names("x", [1, 2.5], (2,)).tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([uuid.UUID(int=1), uuid.UUID(int=2)], [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]),
        ([datetime.date(2020, 1, 1)], ["2020-01-01"]),
        (np.array(["2020-01-01"], dtype="M8[D]"), ["2020-01-01"]),
        ([decimal.Decimal("1.5")], [1.5]),
        ([np.longdouble(1)], [1.0]),
        (np.array([1], dtype=np.longdouble), [1.0]),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (range(3), [0, 1, 2]),
    ],
)
def test_what_else_has_a_clear_meaning(values, held):
    assert plain("x", values).tolist() == held


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [3, 4]], [np.array([1, 2]), np.array([3, 4])], [torch.tensor([1, 2]), torch.tensor([3, 4])],
        pd.Series([[1, 2], [3, 4]]), pd.DataFrame([[1, 2], [3, 4]]), pa.array([[1, 2], [3, 4]]),
        scipy.sparse.csr_matrix([[1, 2], [3, 4]]), scipy.sparse.coo_array([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]]).to_sparse(), np.array([[1, 2], [3, 4]], dtype=object),
        np.asfortranarray([[1, 2], [3, 4]]),
    ],
    ids=lambda rows: type(rows).__name__,
)  # fmt: skip
def test_rows_in_any_container(rows):
    assert numbers("x", rows).tolist() == [[1, 2], [3, 4]]
    torch.from_numpy(numbers("x", rows))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1, 2], [3]], r"rows of several lengths: row 0 has shape \(2,\) and row 1 \(1,\)"),
        ([1, [2]], "holds? |rows of several lengths"),
        (torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=torch.jagged), "several lengths"),
        ({1, 2}, "is a set: give an array"),
        (iter([1]), "is a list_iterator: give an array"),
        ([{}], "holds a dict at row 0"),
        (np.zeros(2, dtype=[("a", "f4")]), "is of type"),
        (torch.zeros(2, device="meta"), "cannot be read as an array"),
        (None, "is a NoneType"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_what_is_no_array_is_one_sentence(values, said):
    with pytest.raises(BadInput, match=said) as caught:
        plain("x", values)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_numbers_are_no_words_and_no_complex_ones():
    for values, held in (
        (["1", "2"], "words"),
        (np.zeros(2, dtype=complex), "complex128"),
        (torch.zeros(2) * 1j, "complex64"),
    ):
        with pytest.raises(BadInput, match=f"x is of type {held}: numbers are needed"):
            numbers("x", values)
    with pytest.raises(BadInput, match="x is of type complex128"):
        names("x", np.zeros(2, dtype=complex), (2,))
    with pytest.raises(BadInput, match="x is not finite, first at row 1"):
        numbers("x", [0.0, np.inf])
