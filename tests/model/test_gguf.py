"""GGUF files: written here from a tiny Llama by the package `gguf`, loaded, and held to the same weights in memory."""

import importlib.util
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

import checkpoints
import probekit as pk
from probekit.errors import BadInput, MissingExtra
from probekit.inputs.folders import beside
from probekit.inputs.gguf import config_of_head, read_head
from probekit.jobs.job import Job
from probekit.jobs.plan import config_of, forecast_of, plan_rows
from probekit.model.audit import check_model
from probekit.model.loading import load_model

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
TEXT = "the capital of france is paris"


def rotated(weight, n_heads):
    """Rows as the format keeps those of queries and keys: pairs that are turned together lie side by side."""
    shape = (n_heads, 2, len(weight) // n_heads // 2, *weight.shape[1:])
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, hf, tokenizer, kind):
    """The file of a Llama, its MLPs packed as `kind`; the weights in `hf` become what the file gives back."""
    config, state = hf.config, {name: value.numpy() for name, value in hf.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if tokenizer is not None:
        inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokenizer.convert_ids_to_tokens(range(config.vocab_size)))
        writer.add_token_types([3 if i < 4 else 1 for i in range(config.vocab_size)])
        writer.add_token_merges([" ".join(pair) for pair in inner["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(3)
        writer.add_add_bos_token(True)
        writer.add_chat_template(checkpoints.CHAT)
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, value in state.items():
        stem = name.removesuffix(".weight")
        if stem in whole:
            writer.add_tensor(f"{whole[stem]}.weight", value)
            continue
        _, _, layer, part = stem.split(".", 3)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
            value = rotated(value, heads)
        if part.startswith("mlp."):
            packed = gguf.quants.quantize(value, kind)
            hf.state_dict()[name].copy_(torch.from_numpy(gguf.quants.dequantize(packed, kind).copy()))
            writer.add_tensor(f"blk.{layer}.{names[part]}.weight", packed, raw_dtype=kind)
        else:
            writer.add_tensor(f"blk.{layer}.{names[part]}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, LlamaForCausalLM]:
    """The GGUF file, a folder of the same weights, and those weights in memory."""
    base, tokenizer = tmp_path_factory.mktemp("gguf"), checkpoints.pieces()
    hf = checkpoints.build("llama", len(tokenizer))
    (base / "packed").mkdir()
    write_gguf(base / "packed" / "tiny.gguf", hf, tokenizer, gguf.GGMLQuantizationType.Q8_0)
    hf.save_pretrained(base / "plain")
    tokenizer.save_pretrained(base / "plain")
    return base / "packed" / "tiny.gguf", base / "plain", hf


@pytest.fixture(scope="module")
def model(made):
    return load_model(made[0])


def test_a_gguf_file_gives_what_its_weights_give(made, model, capfd):
    file, _, hf = made
    assert (model.name, model.source, model.dtype) == ("tiny.gguf", str(file), torch.float32)
    assert model.encoder.encode([TEXT]).tokens[0][0] == 1  # the file's word on a BOS counts
    tokens = model.encoder.encode([TEXT, "one two three"]).tokens
    with torch.no_grad():
        states = [hf(torch.tensor([row.tolist()]), output_hidden_states=True).hidden_states for row in tokens]
    for backend in ("bridge", "hf"):
        found = model.read(tokens, ["blocks.1.hook_resid_post"], [np.arange(len(t)) for t in tokens], backend=backend)
        expected = torch.cat([state[2][0] for state in states])
        assert float(expected.abs().max()) > 0.1
        torch.testing.assert_close(found["blocks.1.hook_resid_post"], expected, atol=1e-4, rtol=1e-4)


def test_it_says_the_same_words_as_its_tokenizer_in_a_folder(made, model):
    plain = load_model(made[1])
    texts = [TEXT, "she sold the red car", "eight nine ten"]
    ours, theirs = model.encoder.encode(texts).tokens, plain.encoder.encode(texts).tokens
    assert [t.tolist() for t in ours] == [t.tolist() for t in theirs]
    assert model.tokenizer.chat_template == plain.tokenizer.chat_template


def test_it_is_a_model_like_any_other(made, model, tmp_path, capfd):
    """Audited, saved and loaded again with one fingerprint, its twin without its weights, nothing printed."""
    again = load_model(made[0])
    assert capfd.readouterr() == ("", "")
    assert again.fingerprint == model.fingerprint
    tokens = model.encoder.encode([TEXT, "one two"]).tokens
    audit = check_model(model, tokens)
    assert audit["hf_parity"] < 1e-5 and audit["invariance"] < audit["invariance_limit"]
    twin = model.random_twin(0)
    assert twin.fingerprint != model.fingerprint and twin.widths == model.widths
    again.plain.hf.save_pretrained(tmp_path / "saved")
    again.tokenizer.save_pretrained(tmp_path / "saved")
    assert load_model(tmp_path / "saved").fingerprint == model.fingerprint
    assert load_model(made[0], dtype="bfloat16").dtype == torch.bfloat16


def test_a_folder_with_one_gguf_file_means_that_file(made, model, tmp_path):
    assert load_model(made[0].parent).fingerprint == model.fingerprint
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(made[0], tmp_path / name)
    with pytest.raises(BadInput, match=r"holds 2 GGUF files \(a.gguf, b.gguf\): name one of them"):
        load_model(tmp_path)
    with pytest.raises(BadInput, match="no model file .*c.gguf"):
        load_model("c.gguf")


def test_a_spec_names_the_file_beside_itself(made):
    assert beside("tiny.gguf", made[0].parent) == str(made[0])
    with pytest.raises(BadInput, match="no model file"):
        config_of("other.gguf", made[0].parent)
    base = made[0].parent
    (base / "rows.csv").write_text("text,label\n" + "".join(f"the red car {i},{i % 2}\n" for i in range(40)))
    behaviour = {"name": "label", "kind": "label", "column": "label"}
    asked = {"name": "job", "model": {"name": "tiny.gguf"}, "read": {"hooks": ["blocks.*.hook_resid_post"]},
             "task": {"file": "rows.csv", "text": "text", "behaviours": [behaviour]}}  # fmt: skip
    spec = pk.JobSpec.check(asked, "here")
    assert [row["sites"] for row in plan_rows(spec, base)] == [3]
    told = forecast_of(spec, base)
    assert told is not None and told.texts == 40 and any("32 coordinates" in note for note in told.notes)
    assert Job.load(spec, base).model.fingerprint == load_model(made[0]).fingerprint


def test_the_head_says_layers_and_width_as_the_library_does(made):
    head = read_head(made[0])
    assert config_of_head(head) == {"num_hidden_layers": 3, "hidden_size": 32, "max_position_embeddings": 48}
    fields = gguf.GGUFReader(made[0]).fields
    keys = {key: value for key, value in fields.items() if not key.startswith("GGUF.")}
    assert set(head) == set(keys)
    for key, field in keys.items():
        told = field.contents()
        assert head[key] == (len(told) if isinstance(told, list) else told), key


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b"GGML" + p.read_bytes()[4:]), "does not begin as GGUF"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: os.truncate(p, 1500), "damaged"),
        (lambda p: os.truncate(p, p.stat().st_size - 9000), "cannot be loaded"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"llama", b"lmala")), "cannot be loaded"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"blk.2.ffn_up", b"blk.7.ffn_up")), "lacks 1 weights"),
        (lambda p: p.write_bytes(p.read_bytes()[:4] + struct.pack("<I", 9) + p.read_bytes()[8:]), "GGUF 2 and 3"),
    ],
)
def test_damaged_files_are_told_in_one_sentence(made, tmp_path, damage, message):
    copy = tmp_path / "copy.gguf"
    shutil.copy(made[0], copy)
    damage(copy)
    with pytest.raises(BadInput, match=message) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value) and "copy.gguf" in str(caught.value)


def test_without_the_package_it_is_told_what_to_install(made, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(MissingExtra, match="pip install 'gguf"):
        load_model(made[0])


def test_a_file_without_a_tokenizer_reads_token_ids(tmp_path):
    hf = checkpoints.build("llama", 60)
    write_gguf(tmp_path / "bare.gguf", hf, None, gguf.GGMLQuantizationType.Q8_0)
    model = load_model(tmp_path / "bare.gguf")
    assert model.tokenizer is None and model.d_vocab == 60


def test_a_job_runs_on_it(made, tmp_path):
    """`pk.probe` from the file's path: the task, the run and the job that it saves."""
    rows = "".join(f"{'the red car' if i % 2 else 'a blue bicycle'} {i % 7},{i % 2},{i % 40}\n" for i in range(160))
    (tmp_path / "rows.csv").write_text("text,label,group\n" + rows)
    found = pk.probe(str(made[0]), tmp_path / "rows.csv", text="text", label="label", group="group", progress=False,
                     root=tmp_path / "runs", store=tmp_path / "store", hooks=["blocks.0.hook_resid_post"])  # fmt: skip
    assert found.run.manifest["provenance"]["model"]["name"] == "tiny.gguf"
    assert not found.run.manifest["cells"]["failed"]
