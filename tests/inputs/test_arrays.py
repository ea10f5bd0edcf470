"""Arrays in, observations out: labels, laws, columns and files, with nothing lost on the way."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import probekit as pk
from probekit.errors import BadInput
from probekit.inputs.arrays import as_activations, as_behaviour, as_feature, without_missing

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
LABELS = np.arange(12) % 3


def observe(activations=X, behaviour=LABELS, floor=None, groups=None, domains=None, features=None):
    return as_activations(activations, behaviour, floor, groups, domains, features)


@given(st.lists(st.integers(-3, 3), min_size=14, max_size=40).filter(lambda v: len(set(v)) > 1))
def test_labels_become_one_hot_laws_and_back(labels):
    behaviour = as_behaviour("b", labels, len(labels))
    assert (behaviour.law.sum(1) == 1).all()
    assert [int(behaviour.outcomes[i]) for i in behaviour.law.argmax(1)] == labels


@pytest.mark.parametrize(
    "labels",
    [list("aab" * 4), np.array([True, False, False] * 4), torch.arange(12) % 2, torch.arange(12) % 2 == 0, LABELS / 2],
    ids=["text", "bool", "tensor", "bool tensor", "float"],
)
def test_labels_of_any_type(labels):
    behaviour = as_behaviour("b", labels, 12)
    code = np.unique(np.asarray(labels), return_inverse=True)[1]
    assert np.array_equal(behaviour.law.argmax(1), code)
    assert np.array_equal(as_feature("f", labels, 12).labels[:, 0], code)


def test_a_law_stays_as_it_is_and_a_large_one_is_reduced():
    law = np.random.default_rng(1).dirichlet(np.ones(5), 12)
    kept = as_behaviour("b", law, 12)
    assert np.allclose(kept.law, law)
    assert (kept.outcomes, kept.covered) == (("0", "1", "2", "3", "4"), 1.0)
    wide = np.random.default_rng(2).dirichlet(np.full(200, 0.05), 12)
    reduced = as_behaviour("b", wide, 12)
    assert reduced.law.shape == (12, 65)
    assert reduced.outcomes[-1] == "rest"
    assert np.allclose(reduced.law.sum(1), 1, atol=1e-5)
    assert reduced.covered == pytest.approx(np.sort(wide.mean(0))[-64:].sum(), abs=1e-5)
    assert np.allclose(reduced.law[:, 0], wide[:, int(reduced.outcomes[0])])
    few = as_behaviour("b", np.eye(200)[[3, 150, 7] * 4], 12)
    assert (few.outcomes, few.covered) == (("3", "7", "150", "rest"), 1.0)
    assert np.array_equal(few.law, np.eye(4)[[0, 2, 1] * 4])


def test_features_share_classes_over_targets():
    labels = np.array([["mine", "empty"], ["yours", "mine"], ["empty", "empty"]])
    feature = as_feature("board", labels, 3)
    assert feature.classes == ("empty", "mine", "yours")
    assert feature.targets == ("0", "1")
    assert np.array_equal(np.array(feature.classes)[feature.labels], labels)


def test_columns_have_defaults_and_names_of_any_type():
    _, observations = observe()
    assert observations.group.tolist() == list(range(12)), "every row its own group"
    assert observations.domains == ["all"]
    assert observations.floor_inputs == {}
    assert len(observations) == 12
    _, observations = observe(
        groups=[f"game {i // 4}" for i in range(12)],
        domains=["late"] * 5 + ["early"] * 7,
        floor=LABELS,
        features={"f": LABELS},
    )
    assert observations.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert observations.domains == ["late", "early"], "in order of first appearance"
    assert observations.floor_inputs["input"].shape == (12, 1)
    assert observations.features["f"].labels.shape == (12, 1)


def test_several_sites_behaviours_and_floor_blocks():
    sites, observations = observe({"a": X, "b": torch.tensor(X)}, {"p": LABELS, "q": LABELS % 2}, {"u": X, "v": LABELS})
    assert list(sites) == ["a", "b"]
    assert np.array_equal(sites["a"], sites["b"])
    assert [len(b.outcomes) for b in observations.behaviours.values()] == [3, 2]
    assert {name: block.shape for name, block in observations.floor_inputs.items()} == {"u": (12, 3), "v": (12, 1)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_any_precision_keep_their_values(dtype):
    tensor = torch.tensor(X).to(dtype).requires_grad_()
    sites, _ = observe(tensor)
    assert np.array_equal(sites["activations"].astype(np.float64), tensor.detach().double().numpy())


def test_files_hold_what_arrays_hold(tmp_path):
    np.save(tmp_path / "resid.npy", X)
    save_file({"first": X, "second": 2 * X}, tmp_path / "sites.safetensors")
    sites, _ = observe(str(tmp_path / "resid.npy"))
    assert list(sites) == ["resid"]
    assert np.array_equal(sites["resid"], X)
    sites, _ = observe(tmp_path / "sites.safetensors")
    assert sorted(sites) == ["first", "second"]
    assert np.array_equal(np.asarray(sites["second"]), 2 * X)
    sites, _ = observe({"blocks.0.hook_resid_post": tmp_path / "resid.npy"})
    assert np.array_equal(sites["blocks.0.hook_resid_post"], X)


def test_a_file_measures_as_its_array_does(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    np.save(tmp_path / "activations.npy", x)
    run = {
        "behaviour": x[:, 0] > 0, "levels": ("linear",), "controls": (), "decomposition": False, "n_bootstrap": 200,
    }  # fmt: skip
    assert pk.measure(tmp_path / "activations.npy", **run).equals(pk.measure(x, **run))
    for n in (0, -1):
        with pytest.raises(BadInput, match=f"at least one bootstrap sample; n_bootstrap is {n}"):
            pk.measure(x, **run | {"n_bootstrap": n})


def test_broken_files_are_one_sentence(tmp_path):
    for name, content, message in (
        ("missing.npy", None, "no activations file"),
        ("text.csv", b"1,2", "read from .npy, .npz and .safetensors"),
        ("torn.npy", b"\x93NUMPY\x01\x00", "no plain .npy array"),
        ("torn.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{", "no valid safetensors"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=message) as caught:
            observe(tmp_path / name)
        assert str(caught.value).count("\n") == 0


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="no plain .npy array"):
        observe(tmp_path / "objects.npy")


def test_an_empty_npy_is_one_sentence(tmp_path):
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(BadInput):
        observe(tmp_path / "empty.npy")


def test_safetensors_without_a_tensor_is_one_sentence(tmp_path):
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(BadInput):
        observe(tmp_path / "none.safetensors")


def test_captured_activations_bring_their_own_behaviour():
    captured = SimpleNamespace(sites={"a": X}, observations=observe()[1])
    sites, observations = as_activations(captured, None, None, None, None, None)
    assert sites["a"] is X
    assert observations is captured.observations
    with pytest.raises(BadInput, match="bring their own"):
        as_activations(captured, LABELS, None, None, None, None)


def test_a_frame_names_outcomes_and_targets():
    law = pd.DataFrame(np.eye(3)[LABELS], columns=["red", "green", "blue"])
    for frame in (law, pa.Table.from_pandas(law)):
        assert as_behaviour("b", frame, 12).outcomes == ("red", "green", "blue")
    board = pd.DataFrame({"a1": LABELS == 0, "b2": LABELS == 1})
    assert as_feature("f", board, 12).targets == ("a1", "b2")


def test_what_is_made_already_takes_the_name_that_it_is_given():
    made = as_behaviour("old", LABELS, 12)
    _, observations = observe(behaviour={"new": made}, features={"f": as_feature("old", LABELS, 12)})
    assert observations.behaviours["new"].name == "new" and observations.features["f"].name == "f"
    assert list(observe(behaviour=made)[1].behaviours) == ["old"], "a single one keeps its own"


def test_numbers_of_a_feature_are_those_of_its_classes():
    for label in (-1, 2):
        wrong = pk.Feature("f", np.full((12, 1), label), ("a", "b"), ("x",))
        with pytest.raises(BadInput, match="feature 'f' has labels that are no numbers of its 2 classes"):
            as_feature("f", wrong, 12)


@given(st.integers(2**24, 2**62), st.sampled_from(["torch", "list", "numpy"]))
def test_ids_of_any_size_stay_apart(first, container):
    """As 32-bit floats neighbours from 2**24 on are one."""
    ids = np.arange(first, first + 12)
    given = {"torch": torch.from_numpy(ids), "list": ids.tolist(), "numpy": ids}[container]
    assert observe(groups=given)[1].group.tolist() == list(range(12))


def test_two_arrays_without_names_are_twins(tmp_path):
    """And of a file and an array too; names that are given have to agree."""
    x = np.random.default_rng(4).normal(size=(200, 3))
    np.save(tmp_path / "random.npy", x[:, ::-1])
    run = {"behaviour": x[:, 0] > 0, "levels": ("linear",), "decomposition": False, "controls": ("random_twin",),
           "n_bootstrap": 200, "n_permutations": 0, "floors": ("strong",), "falls": False,
           "outer_folds": 1}  # fmt: skip
    frame = pk.measure(x, twin=tmp_path / "random.npy", **run)
    assert "random_twin" in set(frame["control"])


CONTAINERS = {
    "list": lambda values: list(values),
    "masked": lambda values: np.ma.array([0 if v is None else v for v in values], mask=[v is None for v in values]),
    "object": lambda values: np.array(values, dtype=object),
    "pandas": lambda values: pd.Series(values),
    "nullable": lambda values: pd.array(values, dtype="Int64"),
    "arrow": lambda values: pa.array(values),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_rows_that_lack_a_value_are_left_out_when_asked(container):
    """The number is that of the other rows; by default the first such row is named."""
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(400, 3)), np.arange(400) // 2
    label = (x[:, 0] > 0).astype(int)
    quick = {"levels": ("linear",), "controls": (), "decomposition": False, "extrapolate": False, "falls": False,
             "n_permutations": 0, "n_bootstrap": 200, "outer_folds": 2}  # fmt: skip
    holes = CONTAINERS[container]([None if i in (7, 50) else int(v) for i, v in enumerate(label)])
    y = x.copy()
    y[50, 1] = np.nan
    y[90] = np.nan
    with pytest.raises(BadInput, match="row 7"):
        pk.measure(x, behaviour=holes, groups=group, **quick)
    found = pk.measure({"site": y}, behaviour=holes, groups=group, missing="drop", **quick)
    keep = np.setdiff1d(np.arange(400), (7, 50, 90))
    other = pk.measure({"site": x[keep]}, behaviour=label[keep], groups=group[keep], **quick)
    assert found["value"].to_numpy() == pytest.approx(other["value"].to_numpy(), nan_ok=True)
    note = "3 of 400 rows are left out: 2 without a value in activations 'site' and 2 without a value in behaviour"
    assert found["note"].str.contains(note, regex=False).all()


def test_what_is_dropped_may_stand_anywhere_and_nothing_is_dropped_unasked(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    label = pk.Behaviour("b", np.eye(2, dtype=np.float32)[(x[:, 0] > 0).astype(int)], ("no", "yes"))
    np.save(tmp_path / "x.npy", x)
    given = {"floor": {"text": [None if i == 3 else f"t{i}" for i in range(300)]},
             "domains": ["a" if i != 5 else None for i in range(300)],
             "features": {"f": [float("nan") if i == 9 else i % 2 for i in range(300)]}}  # fmt: skip
    told, note = without_missing("drop", activations=str(tmp_path / "x.npy"), behaviour=label, twin=None, **given)
    assert note.startswith("3 of 300 rows are left out: 1 without a value in floor 'text' and 1 without a value in dom")
    assert [len(told["activations"]["x"]), len(told["behaviour"].law), len(told["features"]["f"])] == [297] * 3
    assert told["twin"] is None
    whole = {"activations": x, "behaviour": label, "twin": None}
    assert without_missing("drop", **whole) == (whole, "")
    assert without_missing("refuse", **whole | given)[1] == ""
    with pytest.raises(BadInput, match="missing is 'omit': say refuse, or drop"):
        without_missing("omit", **whole)
