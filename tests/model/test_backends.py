"""The two forwards that activations can come from, and outside judges: Hugging Face's hidden states, and nnsight."""

import functools

import numpy as np
import pytest
import torch

import checkpoints
from probekit.activations.capture import capture
from probekit.activations.keys import activation_key
from probekit.errors import BadInput
from probekit.model.audit import TOLERANCE, Backend, check_model, choose_backend, sample
from probekit.model.model import Model
from probekit.storage.store import Store
from probekit.task import BehaviourSpec
from samples import ragged, task_of

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers", "gemma2": "model.layers",
          "bert": "bert.encoder.layer"}  # fmt: skip
ATTENTION = {"gpt2": "attn", "llama": "self_attn", "neox": "attention", "gemma2": "post_attention_layernorm"}
DTYPES = (torch.float32, torch.bfloat16)
PARTS = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")


@functools.cache
def model_of(architecture, dtype):
    return Model(checkpoints.build(architecture, 42).to(dtype), name=architecture)


def judge_of(architecture, dtype):
    """The library's own model, never bridged and with eager attention."""
    hf = checkpoints.build(architecture, 42).to(dtype)
    hf.set_attn_implementation("eager")
    return hf


def stream_names(model):
    return [name for name in model.hook_names if name.startswith("blocks.") and name.split(".", 2)[2] in PARTS]


def rows_apart(found, truth):
    """Largest distance of two rows in units of the second's length."""
    return float(((found - truth).double().norm(dim=1) / truth.double().norm(dim=1)).max())


def traced(hf, architecture, row):
    """nnsight's view: outputs of every block and of every attention, by our names."""
    from nnsight import NNsight

    wrapped, ids, saved = NNsight(hf), torch.as_tensor(row)[None], {}
    blocks = wrapped
    for part in BLOCKS[architecture].split("."):
        blocks = getattr(blocks, part)
    with torch.no_grad(), wrapped.trace(input_ids=ids, attention_mask=torch.ones_like(ids)):
        for i in range(checkpoints.N_LAYERS):
            if architecture in ATTENTION:
                saved[f"blocks.{i}.hook_attn_out"] = getattr(blocks[i], ATTENTION[architecture]).output.save()
            saved[f"blocks.{i}.hook_resid_post"] = blocks[i].output.save()
    return {name: (value[0] if isinstance(value, tuple) else value)[0] for name, value in saved.items()}


# nnsight on BERT, whose blocks have a submodule of that name
@pytest.mark.filterwarnings("ignore:Module '.*' has a submodule named 'output':UserWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", BLOCKS)
def test_bridge_plain_hidden_states_and_nnsight_agree(architecture, dtype):
    model, hf, tokens = model_of(architecture, dtype), judge_of(architecture, dtype), ragged()
    where, names = [np.arange(len(t)) for t in tokens], stream_names(model)
    assert len(names) == checkpoints.N_LAYERS * (4 if architecture == "neox" else 5)
    backends = {name: model.read(tokens, names, where, backend=Backend(name)) for name in ("bridge", "hf")}
    limit = 1e-5 if dtype == torch.float32 else TOLERANCE[dtype]
    start = 0
    for row in tokens:
        here = slice(start, start + len(row))
        start += len(row)
        ids = torch.as_tensor(row)[None]
        with torch.no_grad():
            states = hf(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        judges = [traced(hf, architecture, row)]
        judges.append({f"blocks.{i}.hook_resid_post": states[i + 1][0] for i in range(checkpoints.N_LAYERS - 1)})
        for judge in judges:
            for name, truth in judge.items():
                for backend, found in backends.items():
                    assert rows_apart(found[name][here], truth) <= limit, (backend, name)
    for name in names:
        assert rows_apart(backends["hf"][name], backends["bridge"][name]) <= limit, name


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox"])
def test_f14_single_is_left_padded_is_right_padded(architecture, dtype, record_property):
    """Every token of 3 sequences at every block, on both backends, against the library's left-padded batch."""
    model, hf, tokens = model_of(architecture, dtype), judge_of(architecture, dtype), ragged((3, 17, 9))
    where, names = [np.arange(len(t)) for t in tokens], [f"blocks.{i}.hook_resid_post" for i in range(2)]
    longest = max(map(len, tokens))
    ids = torch.from_numpy(np.stack([np.r_[np.full(longest - len(t), 3), t] for t in tokens]))
    mask = torch.from_numpy(np.stack([np.arange(longest) >= longest - len(t) for t in tokens])).long()
    with torch.no_grad():
        states = hf(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0),
                    output_hidden_states=True).hidden_states  # fmt: skip
    limit, checked = 1e-5 if dtype == torch.float32 else TOLERANCE[dtype], 0
    for backend in (Backend("bridge"), Backend("hf")):
        right = model.read(tokens, names, where, backend=backend)
        alone = [model.read([t], names, [p], backend=backend) for t, p in zip(tokens, where, strict=True)]
        for i, name in enumerate(names):
            left = torch.cat([states[i + 1][j, longest - len(t) :] for j, t in enumerate(tokens)])
            single = torch.cat([one[name] for one in alone])
            assert rows_apart(right[name], left) <= limit
            assert rows_apart(right[name], single) <= limit
            checked += len(left)
    assert checked == 2 * 2 * 29
    record_property("rows", checked)


def test_the_naive_left_padded_batch_is_caught():
    """Without position ids the same comparison fails: it is no tautology."""
    hf, row = judge_of("gpt2", torch.float32), ragged()[0]
    ids = torch.as_tensor(np.r_[[3] * 5, row])[None]
    mask = (torch.arange(ids.shape[1]) >= 5).long()[None]
    with torch.no_grad():
        naive = hf(input_ids=ids, attention_mask=mask, position_ids=torch.arange(ids.shape[1])[None],
                   output_hidden_states=True).hidden_states[1][0, 5:]  # fmt: skip
    truth = model_of("gpt2", torch.float32).read([row], ["blocks.0.hook_resid_post"], [np.arange(len(row))])
    assert rows_apart(truth["blocks.0.hook_resid_post"], naive) > 0.1


@pytest.mark.parametrize("architecture", BLOCKS)
def test_every_place_of_the_plain_forward_holds_what_the_bridge_says(architecture):
    """All names with a place but those that the bridge takes from somewhere else: BERT's MLP, which parity refuses."""
    model, tokens = model_of(architecture, torch.float32), ragged((7, 20))
    where = [np.arange(len(t)) for t in tokens]
    names = sorted(model.plain_names or ())
    assert len(names) > 40
    both = [model.read(tokens, names, where, backend=Backend(b)) for b in ("hf", "bridge")]
    wrong = {name for name in names if rows_apart(both[0][name], both[1][name]) > 1e-4}
    routed = {f"blocks.{i}.mlp.hook_{side}" for i in range(3) for side in ("in", "out")}
    assert wrong == (routed if architecture == "bert" else set())


def test_auto_takes_the_plain_forward_only_where_it_holds():
    model, tokens = model_of("gpt2", torch.float32), ragged()
    good = choose_backend(model, "auto", ["blocks.0.hook_resid_post"], tokens)
    assert good.name == "hf" and good.parity is not None and good.parity < 1e-5 and not good.reason
    lost = choose_backend(model, "auto", ["blocks.0.hook_resid_post", "blocks.0.attn.hook_q"], tokens)
    assert lost == Backend("bridge", None, "the plain forward has no place for 'blocks.0.attn.hook_q'")
    bert = model_of("bert", torch.float32)
    apart = choose_backend(bert, "auto", ["blocks.0.mlp.hook_out"], tokens)
    assert apart.name == "bridge" and apart.parity is not None and apart.parity > 1 and "differs" in apart.reason


def test_other_weights_under_the_plain_forward_are_noticed():
    """A plain forward that is not the bridge's model: what parity is there for."""
    model = Model(checkpoints.build("llama", 42), name="split")
    assert model.plain is not None
    model.plain.hf.get_submodule("model.layers.1.mlp.down_proj").weight = torch.nn.Parameter(
        model.plain.hf.get_submodule("model.layers.1.mlp.down_proj").weight * 1.01
    )
    names, tokens = [f"blocks.{i}.hook_resid_post" for i in range(3)], ragged()
    assert choose_backend(model, "auto", names, tokens).name == "bridge"
    assert choose_backend(model, "auto", names[:1], tokens).name == "bridge", "the logits show it"
    with pytest.raises(BadInput, match="differs from the bridge"):
        choose_backend(model, "hf", names, tokens)


def test_attention_that_runs():
    """SDPA where the architecture has it; Gemma 2's soft cap leaves eager. The bridge is eager, and stays so."""
    for architecture, plain in (("gpt2", "sdpa"), ("llama", "sdpa"), ("neox", "sdpa"), ("gemma2", "eager")):
        model = model_of(architecture, torch.float32)
        assert (model.attention("hf"), model.attention("bridge")) == (plain, "eager")
        assert check_model(model, ragged(), (), Backend("hf"))["attention"] == plain


def test_weights_are_shared():
    model = model_of("llama", torch.float32)
    assert model.plain is not None
    ours = {p.data_ptr() for p in model.plain.hf.parameters()}
    assert ours == {p.data_ptr() for name, p in model.weights.items() if isinstance(p, torch.nn.Parameter)}


def test_the_forward_ends_behind_the_last_hook():
    model, ran = model_of("gpt2", torch.float32), []
    handles = [model.plain.hf.get_submodule(f"transformer.h.{i}").register_forward_hook(lambda *_, i=i: ran.append(i))
               for i in range(3)]  # fmt: skip
    handles += [block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
                for i, block in enumerate(model.bridge.module.blocks)]  # fmt: skip
    try:
        for backend in ("hf", "bridge"):
            for layer in range(3):
                names = [f"blocks.{layer}.hook_resid_pre", "blocks.0.hook_resid_post"][: 1 + (layer > 0)]
                ran.clear()
                model.read(ragged(), names, [np.arange(3)] * 3, backend=Backend(backend))
                assert max(ran, default=-1) == (layer if backend == "bridge" else layer - 1)
            ran.clear()
            model.read(ragged(), names, [np.arange(3)] * 3, on_logits=lambda *_: None, backend=Backend(backend))
            assert max(ran) == 2, "logits need all of it"
    finally:
        for handle in handles:
            handle.remove()


def test_entries_of_two_backends_are_kept_apart(tmp_path):
    model, task = model_of("llama", torch.float32), task_of([BehaviourSpec("next")])
    hooks = "blocks.*.hook_resid_post"
    found = {name: capture(model, task, hooks, store=tmp_path, backend=name) for name in ("bridge", "hf", "auto")}
    keys = {name: got.observations.fingerprint for name, got in found.items()}
    assert keys["auto"] == keys["hf"] == activation_key(model, task, "hf")
    assert keys["bridge"] == activation_key(model, task, "bridge") != keys["hf"]
    for name in found["hf"].sites:
        assert rows_apart(found["hf"].sites[name], found["bridge"].sites[name]) < 1e-4
    audit = found["auto"].audit
    assert (audit["backend"], audit["attention"]) == ("hf", "sdpa")
    assert 0 <= audit["backend_parity"] <= audit["backend_parity_limit"] == 1e-4
    assert (found["bridge"].audit["backend"], found["bridge"].audit["backend_parity"]) == ("bridge", None)
    said = capture(model, task, "blocks.0.ln1.hook_scale", store=tmp_path)
    assert (
        said.audit["backend"] == "bridge" and "no place for 'blocks.0.ln1.hook_scale'" in said.audit["backend_reason"]
    )
    assert set(Store(tmp_path).names(keys["bridge"])) >= {"blocks.0.ln1.hook_scale", *found["bridge"].sites}


def test_auto_reads_what_is_there_without_running(tmp_path, monkeypatch):
    model, task = model_of("llama", torch.float32), task_of([BehaviourSpec("next")])
    first = capture(model, task, "blocks.0.hook_resid_post", store=tmp_path, backend="bridge")
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
        again = capture(model, task, "blocks.0.hook_resid_post", store=tmp_path)
    assert again.observations.fingerprint == first.observations.fingerprint
    assert again.audit == first.audit


def test_the_sample_is_always_padded():
    for lengths in ((7, 7, 7), (1, 20), (5,), (1, 1), (3, 9, 9, 12)):
        rows = sample(ragged(lengths))
        assert len(rows[0]) == max(lengths)
        if len(lengths) > 1 and max(lengths) > 1:
            assert len(rows[1]) < len(rows[0])
