"""The model adapter on four tiny architectures, and each silent trap of the library with the naive way failing it."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch

import checkpoints
from probekit.errors import BadInput, UnknownHook
from probekit.inputs.folders import bundled_folder
from probekit.model.audit import check_model
from probekit.model.loading import load_model
from samples import ragged

STREAM = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


def at(*positions):
    """One position per example."""
    return [np.array([p]) for p in positions]


def plain(checkpoint, architecture):
    """The library's own model, never bridged: the outside judge."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint(architecture), attn_implementation="eager").eval()


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_reads_equal_the_library_row_by_row(tiny, checkpoint, architecture):
    model, judge = tiny(architecture), plain(checkpoint, architecture)
    tokens, positions = ragged(), [np.array([6, 0]), np.array([19, 3, 3]), np.array([11])]
    logits = torch.full((6, model.d_vocab), torch.nan)
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"]
    out = model.read(tokens, names, positions, on_logits=lambda values, rows: logits.__setitem__(rows, values))
    assert list(out) == names  # exactly the requested keys, no alias beside them
    assert out["blocks.1.attn.hook_z"].shape == (6, 32)
    with torch.no_grad():
        alone = [judge(input_ids=torch.as_tensor(t)[None], output_hidden_states=True) for t in tokens]
    states = [torch.cat([a.hidden_states[layer + 1][0, p] for a, p in zip(alone, positions, strict=True)])
              for layer in (0, 1)]  # fmt: skip
    truth = torch.cat([a.logits[0, p] for a, p in zip(alone, positions, strict=True)])
    assert torch.allclose(out["blocks.0.hook_resid_post"], states[0], atol=1e-5)
    assert torch.allclose(out["blocks.1.hook_resid_post"], states[1], atol=1e-5)
    assert torch.allclose(logits, truth, atol=1e-5)


def test_resid_mid_can_be_read_but_not_written(tiny):
    for architecture in ("gpt2", "llama", "gemma2"):
        with pytest.raises(BadInput, match="one branch only"):
            tiny(architecture).check_writable("blocks.1.hook_resid_mid")
    for architecture in checkpoints.ARCHITECTURES:
        for part in STREAM:
            for layer in range(3):
                tiny(architecture).check_writable(f"blocks.{layer}.{part}")


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_the_audit(tiny, architecture):
    audit = check_model(tiny(architecture), ragged())
    assert json.loads(json.dumps(audit)) == audit
    assert audit["invariance"] < audit["invariance_limit"]
    assert audit["hf_parity"] < 1e-5
    assert audit["dtypes"] == ["float32"]
    assert audit["attention"] == "eager"
    identity = audit["residual_identity"]
    assert all(gap is None or gap < 1e-4 for gap in identity.values())
    # attention and MLP of NeoX read the same input: there is no place between them
    assert (identity["pre + attn = mid"] is None) == (architecture == "neox")
    assert bool(audit["not_writable"]) == (architecture != "neox")


@pytest.mark.parametrize("architecture", ["mamba", "llama"])
def test_hidden_states_are_compared_with_the_place_that_they_are(tiny, architecture, monkeypatch):
    """Mamba's begin with what its first block gives; whatever the library lists, another layer's rows are far away."""
    model = tiny(architecture)
    assert check_model(model, ragged())["hf_parity"] < 1e-5
    read = model.read

    def moved(tokens, names, *rest, **how):
        found = read(tokens, names, *rest, **how)
        return found | {"blocks.1.hook_resid_post": found["blocks.0.hook_resid_post"]}

    monkeypatch.setattr(model, "read", moved)
    assert check_model(model, ragged())["hf_parity"] > 0.01


class TestSilentTraps:
    """What the library does without a word, and that this adapter does not."""

    def test_unknown_hook_beside_a_known_one(self, tiny):
        model, tokens = tiny("gpt2"), ragged()
        names = ["blocks.0.hook_resid_post", "blocks.0.hook_resid_pots"]
        with torch.inference_mode():
            _, cache = model.bridge.module.run_with_cache(torch.as_tensor(tokens[0])[None], names_filter=names)
        assert not any("pots" in name for name in cache)  # dropped in silence
        with pytest.raises(UnknownHook, match="Did you mean 'blocks.0.hook_resid_post'"):
            model.read(tokens, names, at(0, 0, 0))
        with pytest.raises(UnknownHook, match="it has 3 layers"):
            model.hooks("blocks.3.hook_resid_post")

    def test_left_padding_without_a_mask(self, tiny):
        model, row = tiny("gpt2"), ragged()[0]
        left = torch.as_tensor(np.r_[[3, 3, 3], row])[None]
        with torch.inference_mode():
            naive = model.bridge.module(left)[0, -1]
        ours = torch.zeros(2, model.d_vocab)
        model.read([row, np.arange(4, 24)], [], at(len(row) - 1, 19),
                   on_logits=lambda values, rows: ours.__setitem__(rows, values))  # fmt: skip
        with torch.inference_mode():
            truth = model.bridge.module(torch.as_tensor(row)[None])[0, -1]
        assert torch.allclose(ours[0], truth, atol=1e-5)
        assert not torch.allclose(naive, truth, atol=1e-2)

    def test_positions_are_not_pads(self, tiny):
        with pytest.raises(BadInput, match="positions are 0 to 6"):
            tiny("gpt2").read(ragged(), ["blocks.0.hook_resid_post"], at(7, 0, 0))
        with pytest.raises(BadInput, match="counted from the front"):
            tiny("gpt2").read(ragged(), ["blocks.0.hook_resid_post"], at(-1, 0, 0))

    def test_patterns_are_let_go(self, tiny):
        model = tiny("gpt2")
        with torch.inference_mode():
            model.bridge.module(torch.as_tensor(ragged()[0])[None])
        assert any(getattr(b.attn, "_pattern", None) is not None for b in model.bridge.module.blocks)  # kept alive
        model.read(ragged(), ["blocks.0.hook_resid_post"], at(0, 0, 0))
        assert all(getattr(b.attn, "_pattern", None) is None for b in model.bridge.module.blocks)

    def test_two_threads(self, tiny):
        model, tokens = tiny("gpt2"), [ragged((9,), seed) for seed in range(8)]
        truth = [model.read(t, ["blocks.2.hook_resid_post"], [np.arange(9)]) for t in tokens]
        wrong = []

        def work(which):
            for _ in range(5):
                got = model.read(tokens[which], ["blocks.2.hook_resid_post"], [np.arange(9)])
                if not torch.equal(got["blocks.2.hook_resid_post"], truth[which]["blocks.2.hook_resid_post"]):
                    wrong.append(which)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_foreign_hooks_and_training_mode(self, tiny):
        model = tiny("gpt2")
        handle = model.bridge.points["blocks.0.hook_resid_post"].register_forward_hook(lambda *a: None)
        with pytest.raises(BadInput, match="attached by other code"):
            model.read(ragged(), [], at(0, 0, 0))
        handle.remove()
        model.bridge.hf.train()
        with pytest.raises(BadInput, match="training mode"):
            model.read(ragged(), [], at(0, 0, 0))
        model.bridge.hf.eval()

    def test_second_bos(self, checkpoint):
        texts = ["<bos> the red car", "the red car"]
        for policy, counts, shift in (
            ("exactly_one", [1, 1], [0, 1]),
            ("none", [0, 0], [-1, 0]),
            ("as_is", [1, 0], [0, 0]),
        ):
            got = load_model(checkpoint("gpt2"), bos=policy).encoder.encode(texts)
            assert got.n_bos.tolist() == counts
            assert got.shift.tolist() == shift
            assert [sum(t == 1 for t in row) for row in got.tokens] == counts

    def test_values_that_are_not_finite(self, checkpoint):
        model = load_model(checkpoint("gpt2"))
        weight = model.weights["transformer.h.1.mlp.c_proj.weight"]
        with torch.no_grad():
            weight.data[0, 0] = torch.inf
        with pytest.raises(BadInput, match=r"not finite at 'blocks.1.hook_mlp_out', row"):
            model.read(ragged(), ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"], at(0, 0, 0))


def test_memory_runs_out_in_three_shapes(tiny, monkeypatch):
    model, tokens = tiny("llama"), ragged((5, 9, 7))
    where = [np.arange(len(t)) for t in tokens]
    truth = model.read(tokens, ["blocks.1.hook_resid_post"], where)["blocks.1.hook_resid_post"]
    forward, sizes = model.forward, []
    for error in (torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("[enforce] DefaultCPUAllocator: can't")):

        def tight(ids, *args, error=error, **kwargs):
            sizes.append(len(ids))
            if len(ids) > 2:
                raise error
            return forward(ids, *args, **kwargs)

        monkeypatch.setattr(model, "forward", tight)
        found = model.read(tokens, ["blocks.1.hook_resid_post"], where)["blocks.1.hook_resid_post"]
        assert torch.allclose(found, truth, atol=1e-5)
        assert max(sizes) == 3

        def never(ids, *args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(model, "forward", never)
        with pytest.raises(BadInput, match="one example of 9 tokens"):
            model.read(tokens, [], where)

    def broken(*args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        model.read(tokens, [], where)


def test_fingerprint_is_of_the_weights_in_memory(checkpoint):
    first, second = load_model(checkpoint("gpt2")), load_model(checkpoint("gpt2"))
    assert first.fingerprint == second.fingerprint
    with torch.no_grad():
        next(iter(second.weights.values())).data.view(-1)[0] += 1e-3  # behind autograd's back, too
    assert first.fingerprint != second.fingerprint
    assert load_model(checkpoint("gpt2"), dtype="bfloat16").fingerprint != first.fingerprint


def test_random_twin(tiny):
    model = tiny("llama")
    twin, again, other = model.random_twin(0), model.random_twin(0), model.random_twin(1)
    assert twin.fingerprint == again.fingerprint
    assert len({model.fingerprint, twin.fingerprint, other.fingerprint}) == 3
    assert twin.widths == model.widths


def test_bfloat16_stays_bfloat16(checkpoint):
    model = load_model(checkpoint("llama"), dtype="bfloat16")
    assert (
        model.read(ragged(), ["blocks.0.hook_resid_post"], at(0, 0, 0))["blocks.0.hook_resid_post"].dtype
        == torch.bfloat16
    )
    assert check_model(model, ragged())["dtypes"] == ["bfloat16", "float32"]  # rotary frequencies stay in float32


def test_hooks_are_named_once_and_in_forward_order(tiny):
    names = tiny("gpt2").hook_names
    parts = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out",
             "hook_resid_post")  # fmt: skip
    assert [n for n in names if n in {f"blocks.1.{p}" for p in parts}] == [f"blocks.1.{p}" for p in parts]
    assert "blocks.1.hook_out" not in names
    assert not any("pattern" in n for n in names)


class TestLoading:
    def test_without_a_tokenizer(self, tmp_path):
        for architecture in ("gpt2", "llama"):
            model = load_model(checkpoints.write(tmp_path / architecture, architecture, with_tokenizer=False))
            assert model.tokenizer is None
            assert model.token_names([1, 2]) == ["1", "2"]
            with pytest.raises(BadInput, match="no tokenizer"):
                _ = model.encoder

    def test_bundled_names(self):
        assert bundled_folder("../errors") is None
        assert bundled_folder("no-such-testbed") is None

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda p: (p / "config.json").unlink(), "no config.json"),
            (lambda p: (p / "config.json").write_text("{"), "config.json cannot be used"),
            (lambda p: (p / "model.safetensors").unlink(), "no safetensors weights"),
            (lambda p: (p / "model.safetensors").write_bytes(b"x" * 99), "is damaged"),
            (lambda p: os.truncate(p / "model.safetensors", 5000), "is damaged"),
            (lambda p: checkpoints.rewrite_config(p, n_layer=4), "lacks .* weights"),
            (lambda p: checkpoints.rewrite_config(p, model_type="nonsense"), "config.json cannot be used"),
            (lambda p: shutil.rmtree(p), "no model folder"),
        ],
    )  # fmt: skip
    def test_damaged_folders(self, checkpoint, tmp_path, damage, message):
        folder = tmp_path / "m"
        shutil.copytree(checkpoint("gpt2"), folder)
        damage(folder)
        with pytest.raises(BadInput, match=message) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)

    def test_names_that_cannot_be_had(self):
        with pytest.raises(BadInput, match="hub did not give it"):
            load_model("nobody/no-such-model")
        with pytest.raises(BadInput, match="dtype is one of"):
            load_model("x", dtype="float16")
        with pytest.raises(BadInput, match="bos is one of"):
            load_model("x", bos="maybe")
        with pytest.raises(BadInput, match="is a file"):
            load_model(__file__)

    def test_bad_tokens(self, tiny):
        for bad, message in (
            ([99], "token id 99"),
            ([-1], "token id 1"),
            ([1.5], "whole numbers"),
            ([], "1 to 48"),
            ([4] * 49, "1 to 48"),
        ):
            with pytest.raises(BadInput, match=message):
                tiny("gpt2").read([np.asarray(bad)], [], at(0))
        with pytest.raises(BadInput, match="one array of positions per example"):
            tiny("gpt2").read(ragged(), [], at(0))


def test_a_mask_that_is_ignored_shows_beside_a_token_a_thousand_times_as_loud(tiny, monkeypatch):
    """Real models have one, at which a difference of the others is nothing."""
    model = tiny("llama")
    read = model.read

    def padded(tokens, names, *rest, **how):
        found = read(tokens, names, *rest, **how)
        for values in found.values():
            values[0] *= 1e4  # the first token of the longest
            if len(tokens) > 1:
                values[-1] += 0.1 * values[-1].norm() / values.shape[1] ** 0.5
        return found

    monkeypatch.setattr(model, "read", padded)
    audit = check_model(model, ragged())
    assert audit["invariance"] > 50 * audit["invariance_limit"]
