"""Files of requests: which axis is which, and what is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import probekit as pk


def file(folder, name, n, shape, **more):
    folder.mkdir(exist_ok=True)
    states = torch.arange(float(np.prod(shape))).reshape(shape)
    tensors = {"token_ids": torch.arange(n), "hidden_states": states} | more
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / f"{name}.safetensors")
    return folder


def test_shapes_say_the_order(tmp_path):
    """A square file says nothing, and another one of the folder does."""
    file(tmp_path / "a", "one", 5, (5, 3, 8))
    file(tmp_path / "a", "two", 3, (3, 3, 8))
    found = pk.read_requests(tmp_path / "a")
    assert (found.order, found.n_layers, found.d, found.n_rows, found.names) == ("tokens", 3, 8, [5, 3], ["one", "two"])
    swapped = pk.read_requests(file(tmp_path / "b", "one", 5, (3, 5, 8)))
    assert swapped.order == "layers" and swapped[0].states.shape == (5, 3, 8)
    assert swapped[0].states[4, 2, 0] == (2 * 5 + 4) * 8
    flat = pk.read_requests(file(tmp_path / "c", "one", 5, (5, 8)))
    assert flat[0].states.shape == (5, 1, 8) and flat[0].tokens.tolist() == [0, 1, 2, 3, 4]


def test_rows_are_what_measure_takes(tmp_path):
    folder = tmp_path / "many"
    for i, n in enumerate([5, 6, 7]):
        file(folder, f"r{i}", n, (n, 2, 4))
    rows = pk.read_requests(folder).rows()
    assert list(rows) == ["layer 0", "layer 1"] and rows["layer 1"].shape == (3, 4)
    assert rows["layer 1"][2, 0] == (6 * 2 + 1) * 4
    with pytest.raises(pk.BadInput, match="request r0 has no row 6: it has 5"):
        pk.read_requests(folder).rows(6)


def test_numbers_of_sixteen_bits_are_read(tmp_path):
    states = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = pk.read_requests(file(tmp_path / "bf", "one", 4, (4, 2, 8), hidden_states=states))
    assert found.dtypes == ["bf16"] and np.array_equal(found[0].states, states.float().numpy())


@pytest.mark.parametrize(
    ("shape", "more", "told"),
    [
        ((5, 5, 8), {}, "both first axes fit"),
        ((7, 9, 8), {}, "a row for each token"),
        ((5, 3, 8), {"token_ids": None}, "token ids .* are asked for"),
        ((5, 3, 8), {"hidden_states": None}, "hidden_states are asked for"),
        ((5, 3, 8), {"hidden_states": None, "a": torch.ones(5, 3, 8), "b": torch.ones(5, 3, 8)}, "b F32"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, shape, more, told):
    with pytest.raises(pk.BadInput, match=told):
        pk.read_requests(file(tmp_path / "bad", "one", 5, shape, **more))


def test_files_of_a_folder_agree(tmp_path):
    file(tmp_path / "a", "one", 5, (5, 3, 8))
    file(tmp_path / "a", "two", 6, (6, 4, 8))
    with pytest.raises(pk.BadInput, match="two.safetensors holds 4 layers of 8, one.safetensors 3 of 8"):
        pk.read_requests(tmp_path / "a")
    with pytest.raises(pk.BadInput, match="do not begin with layers"):
        pk.read_requests(file(tmp_path / "b", "one", 5, (5, 3, 8)), order="layers")
    with pytest.raises(pk.BadInput, match="say tokens or layers"):
        pk.read_requests(tmp_path / "b", order="rows")
    (tmp_path / "b" / "one.safetensors").write_bytes(b"no")
    with pytest.raises(pk.BadInput, match="no valid safetensors"):
        pk.read_requests(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(pk.BadInput, match=r"holds no \.safetensors"):
        pk.read_requests(tmp_path / "c")
