"""What must not matter to a number, and what must: one small plant, given in every way that means the same.

Three classes, told by five coordinates that are turned and mixed with noise, a floor that tells a little, two rows to a
group. Each test gives the plant in another way, or takes something away from it.
"""

import functools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

import probekit as pk

N, D = 360, 5
EXACT, NEAR, ANOTHER_DRAW = 1e-9, 2e-3, 0.15  # of a value: the same fit; a fit of the same rows; of other rows
rng = np.random.default_rng(0)
LABEL = np.repeat(rng.permutation(np.arange(N // 2) % 3), 2)
X = rng.normal(size=(N, D)) + 2 * np.eye(D)[LABEL] @ ortho_group.rvs(D, random_state=1)
X = X.astype(np.float16).astype(np.float64)  # what every type of floats can hold
FLOOR = np.round(rng.normal(size=(N, 2)) + (LABEL == 0)[:, None], 2).astype(np.float32)
GROUP = np.arange(N) // 2
QUICK = {"levels": ("prior", "baseline", "direction", "linear"), "ks": (1,), "controls": (), "decomposition": False,
         "extrapolate": False, "falls": False, "n_permutations": 0, "n_bootstrap": 200, "floors": ("strong",),
         "outer_folds": 2, "inner_folds": 2}  # fmt: skip
PLANT = {"activations": X, "behaviour": LABEL, "groups": GROUP}


def read(**given) -> pd.DataFrame:
    """Records of the readers, by level and source."""
    arguments = PLANT | QUICK | given
    frame = pk.measure(arguments.pop("activations"), **arguments)
    return frame[frame["metric"] == "read"].set_index(["hook", "behaviour", "level", "source"])


@functools.cache
def known(floor: bool = False) -> pd.DataFrame:
    """The plant as it is."""
    return read(floor=FLOOR) if floor else read()


def assert_same(found: pd.DataFrame, within: float, expected: pd.DataFrame | None = None) -> None:
    expected = known() if expected is None else expected
    assert set(found["na_reason"]) == {""} and len(found) == len(expected)
    for column in ("value", "low", "high", "floor_bits", "bits") if within < ANOTHER_DRAW else ("value", "floor_bits"):
        assert np.allclose(found[column].to_numpy(), expected[column].to_numpy(), rtol=0, atol=within), column


def test_the_plant_can_be_told_from_nothing_and_from_everything():
    value = known()["value"].xs("linear", level="level").item()
    assert 0.15 < value < 0.6
    assert known(True)["floor_bits"].max() < known()["floor_bits"].min() - 0.1


# ------------------------------------------------------------------------------------------------ what must not matter

CONTAINERS = {
    "list": list, "tuple": tuple, "torch": torch.tensor, "series": pd.Series,
    "shuffled index": lambda v: pd.Series(v, index=np.random.default_rng(5).permutation(len(v))),
    "categorical": pd.Categorical,
    "nullable": lambda v: pd.Series(v, dtype="Int64"), "arrow": pa.array,
    "pandas arrow": lambda v: pd.Series(pa.array(v)),
    "object": lambda v: v.astype(object),
    "int8": lambda v: v.astype(np.int8) if v.max() < 100 else v.astype(np.int16),
    "uint64": lambda v: v.astype(np.uint64), "float": lambda v: v.astype(np.float64),
    "big-endian": lambda v: v.astype(">i4"),
    "backwards": lambda v: v[::-1].copy()[::-1], "strided": lambda v: np.stack([v, v], 1)[:, 0],
    "masked": np.ma.masked_array, "read-only": lambda v: np.broadcast_to(v, (1, N))[0],
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_container_of_labels_and_groups(container):
    assert_same(read(behaviour=CONTAINERS[container](LABEL), groups=CONTAINERS[container](GROUP)), EXACT)


ROWS = {
    "list": lambda x: x.tolist(), "list of rows": list,
    "list of tensors": lambda x: [torch.tensor(row) for row in x],
    "frame": pd.DataFrame, "column of rows": lambda x: pd.Series(list(x)),
    "torch": torch.tensor,
    "needs gradients": lambda x: torch.tensor(x).requires_grad_(), "arrow": lambda x: pa.array(list(x)),
    "object": lambda x: x.astype(object), "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble), "big-endian": lambda x: x.astype(">f8"),
    "torch half": lambda x: torch.tensor(x).half(), "columns first": np.asfortranarray,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "mirrored": lambda x: x[:, ::-1].copy()[:, ::-1], "strided": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "masked": np.ma.masked_array, "transposed tensor": lambda x: torch.tensor(x.T.copy()).T,
    "mapping": lambda x: {"activations": x},
}  # fmt: skip


@pytest.mark.parametrize("container", ROWS)
def test_the_container_and_type_of_activations(container):
    assert_same(read(activations=ROWS[container](X)), EXACT)


@pytest.mark.parametrize(
    "container", ["list", "frame", "torch", "object", "float32", "big-endian", "columns first", "masked"]
)
def test_the_container_and_type_of_a_floor(container):
    assert_same(read(floor=ROWS[container](FLOOR)), EXACT, known(True))


def test_sparse_rows_are_rows():
    x = np.where(X > 1, X, 0.0)
    from scipy.sparse import csr_array

    expected = read(activations=x)
    assert_same(read(activations=csr_array(x)), EXACT, expected)
    assert_same(read(activations=torch.tensor(x).to_sparse()), EXACT, expected)


def test_files_of_any_byte_order(tmp_path):
    for name, x in {
        "plain": X,
        "swapped": X.astype(">f4"),
        "columns": np.asfortranarray(X),
        "backwards": X[::-1],
    }.items():
        np.save(tmp_path / f"{name}.npy", x)
        order = slice(None, None, -1) if name == "backwards" else slice(None)
        found = read(activations=tmp_path / f"{name}.npy", behaviour=LABEL[order], groups=GROUP[order])
        assert_same(found, NEAR if name == "backwards" else EXACT)


@settings(max_examples=4)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows(random):
    order = np.array(random.sample(range(N), N))
    assert_same(read(activations=X[order], behaviour=LABEL[order], groups=GROUP[order]), NEAR)


def test_the_order_of_rows_beside_a_floor():
    draw = np.random.default_rng(7)
    order = draw.permutation(N)
    found = read(activations=X[order], behaviour=LABEL[order], groups=GROUP[order], floor=FLOOR[order])
    assert_same(found, 0.03, known(True))  # an MLP in the floor draws its batches by place


@pytest.mark.parametrize(
    "name", [lambda g: g + 2**60, lambda g: [f"g{i:03}" for i in g], lambda g: g / 7, lambda g: g - 1000]
)
def test_the_names_of_groups_of_the_same_order(name):
    assert_same(read(groups=name(GROUP)), EXACT)


def test_other_names_of_groups_are_another_draw():
    draw = np.random.default_rng(7)
    assert_same(read(groups=draw.permutation(N // 2)[GROUP]), ANOTHER_DRAW)


@pytest.mark.parametrize(
    "name", [[7, 8, 9], [2, 0, 1], ["a", "b", "c"], ["no", "yes", "later"], [0.5, 0.25, 1e300], list("\0 é")]
)
def test_the_names_and_order_of_classes(name):
    assert_same(read(behaviour=np.array(name, dtype=object)[LABEL]), NEAR)


@pytest.mark.parametrize(
    "name", [lambda v: v, lambda v: v == 1, lambda v: np.where(v == 1, "yes", "no"), lambda v: v == 1.0]
)
def test_two_classes_of_any_type(name):
    label = (LABEL == 1).astype(int)
    expected = read(behaviour=label)
    assert_same(read(behaviour=name(label)), NEAR, expected)
    assert np.allclose(read(behaviour=name(label))["auroc"], expected["auroc"], atol=NEAR)


def test_labels_are_their_one_hot_law():
    assert_same(read(behaviour=np.eye(3)[LABEL]), EXACT)
    named = read(behaviour=pd.DataFrame(np.eye(3)[LABEL], columns=["a", "b", "c"]))
    assert_same(named, EXACT)


@settings(max_examples=6)
@given(st.floats(-30, 30), st.floats(-12, 12), st.booleans())
def test_the_scale_and_origin_of_activations(power, place, negative):
    scale = 10.0**power * (-1 if negative else 1)
    offset = np.sign(place) * 10.0 ** abs(place)
    assert_same(read(activations=(X + offset) * scale), NEAR)


def test_the_scale_and_origin_of_a_floor():
    """Which member of the floor speaks for a row is drawn by its bytes, so that it is another draw."""
    for moved in (FLOOR.astype(np.float64) * 1e-20, FLOOR.astype(np.float64) + 1.7e9, FLOOR.astype(np.float64) * 1e20):
        assert_same(read(floor=moved), ANOTHER_DRAW, known(True))


@settings(max_examples=3)
@given(st.integers(0, 2**32 - 1))
def test_the_axes_of_activations(seed):
    assert_same(read(activations=X @ ortho_group.rvs(D, random_state=seed)), NEAR)


def test_coordinates_that_say_nothing():
    draw = np.random.default_rng(7)
    assert_same(read(activations=np.c_[X, np.zeros(N), np.full(N, 1e30)]), NEAR)
    assert_same(read(activations=X[:, draw.permutation(D)]), NEAR)


def test_what_else_is_measured():
    both = read(activations={"a": X, "b": X[:, :2]}, behaviour={"p": LABEL, "q": GROUP % 2})
    assert_same(both.loc[("a", "p")], EXACT)
    features = read(features={"f": LABEL == 1}, types=LABEL)
    assert_same(features, EXACT)


def test_numbers_in_other_units():
    draw = np.random.default_rng(7)
    value = X[:, 0] + draw.normal(size=N)
    expected = read(behaviour=pk.Behaviour.number("y", value))
    for scale, offset in ((1e-12, 0), (1e12, 0), (1, 1e6), (-1, 0)):
        found = read(behaviour=pk.Behaviour.number("y", value * scale + offset))
        assert np.allclose(found["value"], expected["value"], atol=NEAR)


# ---------------------------------------------------------------------------------------------------- what must matter


def linear(**given) -> pd.Series:
    return read(**given).xs("linear", level="level").iloc[0]


def test_shuffled_labels_leave_nothing_to_read():
    draw = np.random.default_rng(7)
    shuffled = np.repeat(draw.permutation(LABEL[::2]), 2)
    assert linear(behaviour=shuffled).value == pytest.approx(1, abs=0.07)


def test_shuffled_activations_leave_nothing_to_read():
    draw = np.random.default_rng(7)
    assert linear(activations=X[draw.permutation(N)]).value == pytest.approx(1, abs=0.07)


def test_what_the_floor_says_is_no_merit_of_the_reader():
    told = linear(activations=FLOOR, floor=FLOOR)
    assert told.value == pytest.approx(1, abs=0.1)
    assert linear(activations=FLOOR).value < 0.9, "without the floor the same reader seems to know something"


def test_a_floor_that_says_all_leaves_nothing_to_explain():
    found = read(floor=np.eye(3)[LABEL])
    assert set(found["na_reason"]) == {"small_denominator"}


def test_what_only_groups_share_is_no_knowledge():
    """Each group of ten has a fingerprint and a class: rows of it on both sides would give the class away."""
    draw = np.random.default_rng(7)
    group = np.arange(N) // 10
    label = draw.permutation(np.arange(N // 10) % 2)[group]
    x = draw.normal(size=(N // 10, 30))[group] + 0.3 * draw.normal(size=(N, 30))
    assert linear(activations=x, behaviour=label, groups=group).value > 0.85
    assert linear(activations=x, behaviour=label, groups=None).value < 0.6


def test_more_noise_explains_less():
    draw = np.random.default_rng(7)
    noisy = [linear(activations=X + size * draw.normal(size=X.shape)).value for size in (0, 1, 4)]
    assert noisy[0] + 0.05 < noisy[1] < noisy[2] - 0.05


def test_the_seed_of_the_split_is_another_draw_and_no_other_answer():
    assert_same(read(seed_data=1), ANOTHER_DRAW)
    assert not np.allclose(read(seed_data=1)["value"], known()["value"], atol=EXACT)
