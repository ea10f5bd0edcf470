"""What other libraries hold, as rows: each held to the model's own reading of the same tokens, one text at a time."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import checkpoints
import probekit as pk
from probekit.errors import BadInput

TEXTS = ([5, 9, 12, 7, 21], [6, 8], [30, 11, 4])
HOOKS = [f"blocks.{i}.hook_resid_post" for i in range(3)]
AT = -2  # the last but one of each text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the library's own network, its folder, what the model reads at AT by hook name)."""
    folder = checkpoints.write(tmp_path_factory.mktemp("places") / "llama", "llama")
    model = pk.load_model(folder)
    tokens = [np.array(ids) for ids in TEXTS]
    return model.plain.hf, folder, model.read(tokens, HOOKS, [np.array([len(ids) + AT]) for ids in TEXTS])


def padded(side):
    """(token ids, attention mask) [texts, places], padded on one side."""
    ids, mask = np.full((3, 5), 3), np.zeros((3, 5), dtype=int)
    for i, text in enumerate(TEXTS):
        where = slice(5 - len(text), 5) if side == "left" else slice(0, len(text))
        ids[i, where], mask[i, where] = text, 1
    return torch.tensor(ids), torch.tensor(mask)


def near(found, expected):
    assert found.shape == tuple(expected.shape) and float(np.abs(found - expected.numpy()).max()) < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_of_hugging_face(made, side):
    hf, _, expected = made
    ids, mask = padded(side)
    place = (mask.cumsum(1) - 1).clamp_min(0)  # which the library takes for granted to be told
    with torch.no_grad():
        states = hf(ids, attention_mask=mask, position_ids=place, output_hidden_states=True).hidden_states
    found = pk.rows_at(states, AT, mask=mask)
    assert list(found) == ["layer 0", "layer 1", "layer 2", "layer 3"]
    near(found["layer 1"], expected[HOOKS[0]])
    near(found["layer 2"], expected[HOOKS[1]])
    assert np.abs(found["layer 3"] - expected[HOOKS[2]].numpy()).max() > 0.1, "it is behind the final norm"
    naive = states[1][:, AT].numpy()  # a fixed place of the array: right for texts that are padded in front alone
    assert (np.abs(naive - expected[HOOKS[0]].numpy()).max() > 0.1) == (side == "right")


def test_a_cache_of_transformer_lens(made):
    from transformer_lens.model_bridge import TransformerBridge

    _, folder, expected = made
    ids, mask = padded("right")
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids, attention_mask=mask)
        _, one = bridge.run_with_cache(ids[:1], remove_batch_dim=True)
    found = pk.rows_at(cache, AT, mask=mask, names="blocks.*.hook_resid_post")
    assert list(found) == HOOKS
    for hook in HOOKS:
        near(found[hook], expected[hook])
    near(pk.rows_at(one, AT, names=HOOKS)[HOOKS[1]], expected[HOOKS[1]][:1])
    with pytest.raises(BadInput, match=r"'blocks.0.attn.hook_pattern' has shape \(3, 4, 5, 5\): rows are taken from"):
        pk.rows_at(cache, names="*hook_pattern", mask=mask)
    with pytest.raises(BadInput, match="did you mean 'blocks.[0-2].hook_resid_post'"):
        pk.rows_at(cache, names="blocks.*.hook_residpost", mask=mask)


def test_what_nnsight_saves(made):
    from nnsight import NNsight
    from transformers import AutoModelForCausalLM

    _, folder, expected = made
    theirs = NNsight(AutoModelForCausalLM.from_pretrained(folder))
    ids, mask = padded("right")
    with theirs.trace(ids, attention_mask=mask):
        saved = theirs.model.layers[1].output.save()
    near(pk.rows_at({HOOKS[1]: saved}, AT, mask=mask)[HOOKS[1]], expected[HOOKS[1]])
    alone = []
    for text in TEXTS:
        with theirs.trace(torch.tensor([text])):
            kept = theirs.model.layers[1].output.save()
        alone.append(kept)
    near(pk.rows_at({HOOKS[1]: alone}, AT)[HOOKS[1]], expected[HOOKS[1]])


def test_files_and_folders(tmp_path):
    mask = padded("right")[1]
    whole = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    rows = whole[np.arange(3), [3, 0, 1]]
    np.savez(tmp_path / "a.npz", mid=whole, rows=rows)
    found = pk.rows_at(tmp_path / "a.npz", AT, mask=mask, names="mid")
    assert np.array_equal(found["mid"], rows)
    assert np.array_equal(pk.rows_at(tmp_path / "a.npz", names="rows")["rows"], rows)
    x = np.random.default_rng(1).normal(size=(400, 3)).astype("float32")
    np.savez(tmp_path / "b.npz", rows=x)
    asked = {"behaviour": {"sign": x[:, 0] > 0}, "levels": ("linear",), "decomposition": False}
    records = pk.measure(tmp_path / "b.npz", **asked)
    assert records.query("level == 'linear' and control == ''")["value"].min() < 0.2
    (tmp_path / "requests").mkdir()
    for i, text in enumerate(TEXTS):
        tensors = {"token_ids": np.array(text), "hidden_states": whole[i, : len(text), None]}
        save_file(tensors, tmp_path / "requests" / f"r{i}.safetensors")
    assert np.array_equal(pk.rows_at(tmp_path / "requests", AT)["layer 0"], rows)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    for name in ("bad", "pickled"):
        with pytest.raises(BadInput, match=f"{name}.npz is no .npz file of plain arrays"):
            pk.rows_at(tmp_path / f"{name}.npz")


def test_every_token_and_a_place_for_each_text():
    whole, mask = np.arange(30.0).reshape(3, 5, 2), padded("left")[1]
    every = pk.rows_at(whole, "all", mask=mask)["activations"]
    assert np.array_equal(every, whole[mask.numpy().astype(bool)])
    each = pk.rows_at(whole, [0, 1, -3], mask=mask)["activations"]
    assert np.array_equal(each, np.stack([whole[0, 0], whole[1, 4], whole[2, 2]]))
    half = torch.tensor(whole, dtype=torch.bfloat16)[:1]
    assert pk.rows_at({"x": half})["x"].tolist() == [[8.0, 9.0]]


WHOLE, MASK = np.zeros((3, 5, 2)), np.ones((3, 5), dtype=int)


@pytest.mark.parametrize(
    ("source", "asked", "told"),
    [
        (WHOLE, {}, "3 texts of 5 places, some of which may be padding: give the attention mask"),
        (WHOLE, {"mask": MASK.T}, r"has shape \(3, 5, 2\) and mask \(5, 3\): both begin with"),
        (WHOLE, {"mask": MASK * 2}, "give the attention mask, a 0 or 1"),
        (WHOLE, {"mask": MASK * 0}, "mask has no token of text 0"),
        (WHOLE, {"mask": MASK, "position": 5}, "text 0 has no place 5: it has 5 tokens"),
        (WHOLE, {"mask": MASK, "position": [0, 1]}, "for 3 texts: give a whole number"),
        (WHOLE, {"mask": MASK, "position": "last"}, "position is 'last'"),
        (WHOLE[0], {"mask": MASK}, "rows that have no places: leave mask out"),
        ([WHOLE[0], WHOLE[1, :2]], {}, "may be layers or texts"),
        ((WHOLE, WHOLE[:, :2]), {}, "may be layers or texts"),
        (((WHOLE,), (WHOLE,)), {}, "one for each step of generate"),
        ({"x": [WHOLE[0], WHOLE]}, {}, r"text 1 of 'x' has shape \(3, 5, 2\)"),
        ({"x": [WHOLE[0]]}, {"mask": MASK}, "a list of texts, which have no padding"),
        (3, {}, "activations are a int: give hidden_states"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(source, asked, told):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput, match=told) as error:
            pk.rows_at(source, **asked)
    assert "\n" not in str(error.value)
