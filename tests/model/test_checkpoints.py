"""Checkpoints as people have them: packed weights, adapters beside whole weights and by themselves."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import checkpoints
import probekit as pk
from probekit.errors import BadInput, MissingExtra
from probekit.model import loading

HOOK = "blocks.2.hook_resid_post"
TOKENS = [np.array([5, 9, 12, 7])]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole checkpoint, an adapter by itself that names it, and the adapter beside a copy of the weights."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters")
    checkpoints.write(folder / "whole", "llama")
    hf = AutoModelForCausalLM.from_pretrained(folder / "whole")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # peft's use of the library
        changed = get_peft_model(hf, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        for name, weight in changed.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
        changed.save_pretrained(folder / "adapter")
    checkpoints.write(folder / "both", "llama")
    for file in (folder / "adapter").glob("adapter_*"):
        (folder / "both" / file.name).write_bytes(file.read_bytes())
    with torch.inference_mode():
        states = changed(torch.from_numpy(TOKENS[0])[None], output_hidden_states=True).hidden_states
    return folder, states[3 - 1][0]  # what block 1 gives: the last one lies behind the final norm


def read(folder):
    model = pk.load_model(folder)
    return model, model.read(TOKENS, ["blocks.1.hook_resid_post"], [np.arange(4)])["blocks.1.hook_resid_post"]


def test_an_adapter_is_part_of_the_model(made):
    """As peft itself runs it, unmerged."""
    folder, states = made
    plain, without = read(folder / "whole")
    assert float((without - states).norm(dim=1).min()) > 0.1
    for name in ("both", "adapter"):
        model, found = read(folder / name)
        assert found == pytest.approx(states, abs=1e-4)
        assert model.fingerprint != plain.fingerprint, "the store's key tells them apart"
    assert read(folder / "both")[0].fingerprint == read(folder / "adapter")[0].fingerprint


def test_an_adapter_that_cannot_be_merged_is_not_left_out(made, tmp_path, monkeypatch):
    folder, _ = made

    def copy(name, **changed):
        (tmp_path / name).mkdir()
        for file in (folder / "adapter").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        card = tmp_path / name / "adapter_config.json"
        card.write_text(json.dumps(json.loads(card.read_text()) | changed))
        return tmp_path / name

    with pytest.raises(BadInput, match="cannot be merged"):
        pk.load_model(copy("elsewhere", target_modules=["no_such_layer"]))
    with pytest.raises(BadInput, match="does not fit the model: 6 weights, such as"):
        pk.load_model(copy("fewer", target_modules=["q_proj"]))
    with pytest.raises(BadInput, match="names no model"):
        pk.load_model(copy("nameless", base_model_name_or_path=None))
    with pytest.raises(BadInput, match="has an adapter too: merge that one first"):
        pk.load_model(copy("twice", base_model_name_or_path=str(folder / "both")))
    for pickled in (copy("pickled"), shutil.copytree(folder / "both", tmp_path / "beside")):
        (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
        with pytest.raises(BadInput, match=r"has adapter_config.json and no adapter_model.safetensors: .* not read"):
            pk.load_model(pickled)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtra, match="takes a package to be merged: pip install 'peft"):
        pk.load_model(folder / "both")


def test_an_adapter_of_the_hub_is_not_left_out(made, monkeypatch):
    monkeypatch.setattr("transformers.utils.peft_utils.find_adapter_config_file", lambda name, **how: "there")
    with pytest.raises(BadInput, match="the hub's some/model has an adapter: download it"):
        loading._load_plain("some/model", str(made[0] / "whole"), False, None, torch.float32)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "quanto", "hqq", "torchao"])
def test_packed_weights_say_what_they_take(tmp_path, method):
    more = {"bitsandbytes": {"load_in_4bit": True}, "gptq": {"bits": 4}, "awq": {"bits": 4}}
    checkpoints.write(tmp_path, "llama")
    checkpoints.rewrite_config(tmp_path, quantization_config={"quant_method": method} | more.get(method, {}))
    with pytest.raises(MissingExtra) as error:
        pk.load_model(tmp_path)
    said = str(error.value)
    assert f"has weights packed by {method}, which take a package that is not installed" in said
    assert "\n" not in said and len(said) < 400 and error.value.exit_code == 3


MISTAKES = [
    (
        {"num_hidden_layers": "three"},
        "config.json cannot be used (Validation error for field 'num_hidden_layers': Type",
    ),
    ({"num_attention_heads": 5}, "The hidden size (32) is not a multiple of the number of attention heads (5)"),
    ({"dtype": "nope"}, "config.json cannot be used"),
    ({"vocab_size": 12}, "weight 'lm_head.weight' is 42 x 32, and its configuration asks for 12 x 32."),
    ({"num_hidden_layers": 4}, "lacks 9 weights that its configuration asks for, such as 'model.layers.3.input_lay"),
    ({"model_type": "nope"}, "does not recognize this architecture"),
]


@pytest.mark.parametrize(("changes", "words"), MISTAKES)
def test_a_configuration_that_cannot_be_is_one_sentence(tmp_path, changes, words):
    checkpoints.write(tmp_path, "llama")
    checkpoints.rewrite_config(tmp_path, **changes)
    with pytest.raises(BadInput) as error:
        pk.load_model(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("held", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"version": "1.0", "model": {"type": "Nope"}}'])
def test_a_file_of_a_checkpoint_that_cannot_be_read_is_one_sentence(tmp_path, name, held):
    checkpoints.write(tmp_path, "llama")
    (tmp_path / name).write_bytes(held)
    if name == "tokenizer_config.json" and held.endswith(b"}"):  # a card without a word in it takes nothing away
        assert pk.load_model(tmp_path).tokenizer is not None
        return
    with pytest.raises(BadInput) as error:
        pk.load_model(tmp_path)
    assert "\n" not in str(error.value) and "cannot be" in str(error.value)


def test_weights_without_a_place_are_told(tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    checkpoints.write(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    pk.load_model(tmp_path)
    assert "have no place in the model: 1, such as 'model.layers.0.self_attn.q_norm.weight'." in caplog.text


def test_an_adapter_beside_any_base_is_what_peft_merges(made):
    """As peft's own merged checkpoint runs in the library; the base it was trained on may lie elsewhere."""
    from peft import PeftModel

    folder, _ = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf = AutoModelForCausalLM.from_pretrained(folder / "whole")
        merged = PeftModel.from_pretrained(hf, str(folder / "adapter")).merge_and_unload()
    with torch.inference_mode():
        expected = merged(torch.from_numpy(TOKENS[0])[None], output_hidden_states=True).hidden_states[2][0]
    shutil.copytree(folder / "whole", folder / "moved", dirs_exist_ok=True)
    model = pk.load_model(folder / "moved", adapter=folder / "adapter")
    found = model.read(TOKENS, ["blocks.1.hook_resid_post"], [np.arange(4)])["blocks.1.hook_resid_post"]
    assert float((found - expected).abs().max()) < 1e-5
    assert (model.name, model.adapter) == ("moved+adapter", str(folder / "adapter"))
    assert model.fingerprint == read(folder / "adapter")[0].fingerprint != read(folder / "whole")[0].fingerprint
    with pytest.raises(BadInput, match="has an adapter already, so that .* would be a second one"):
        pk.load_model(folder / "both", adapter=folder / "adapter")


def test_adapters_that_cannot_be_had_are_one_sentence(made, tmp_path, monkeypatch):
    folder, _ = made
    with pytest.raises(BadInput, match="no adapter folder ./nowhere"):
        pk.load_model(folder / "whole", adapter="./nowhere")
    with pytest.raises(BadInput, match="has no adapter_config.json: give a folder that peft's save_pretrained wrote"):
        pk.load_model(folder / "whole", adapter=folder / "whole")
    with pytest.raises(BadInput, match="the adapter 'some/adapter' is no folder, and the Hugging Face hub did not"):
        pk.load_model(folder / "whole", adapter="some/adapter")  # there is no network
    there = lambda name, allow_patterns: str(folder / "adapter")  # noqa: E731
    monkeypatch.setattr("huggingface_hub.snapshot_download", there)
    assert (
        pk.load_model(folder / "whole", adapter="some/adapter").fingerprint == read(folder / "adapter")[0].fingerprint
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path))
    with pytest.raises(BadInput, match="the hub's some/adapter holds no adapter_config.json"):
        pk.load_model(folder / "whole", adapter="some/adapter")
