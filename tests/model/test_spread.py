"""A model over several devices: the same numbers through stages, and a plain word where there is no room."""

import numpy as np
import pytest
import torch

from probekit.errors import BadInput


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_model_over_several_stages_reads_what_it_reads_on_one_device(checkpoint, tiny, dtype):
    """Stages on one processor: what hands activations from one to the next is there, and changes nothing."""
    from accelerate import dispatch_model
    from transformers import AutoModelForCausalLM

    from probekit.model.loading import load_model
    from probekit.model.model import Model

    folder, exact = checkpoint("gpt2"), tiny("gpt2")
    plain = exact if dtype == torch.float32 else load_model(folder, dtype="bfloat16")
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
    parts = ["wte", "wpe", "drop", *(f"h.{i}" for i in range(plain.n_layers)), "ln_f"]
    where = dict.fromkeys([*(f"transformer.{part}" for part in parts), "lm_head"], "cpu")
    hf = dispatch_model(hf, where, main_device="cpu", force_hooks=True)
    staged = Model(hf, name="staged", source=str(folder))
    hooked = [module for module in staged.plain.hf.modules() if hasattr(module, "_hf_hook")]
    assert len(hooked) > plain.n_layers and staged.fingerprint == plain.fingerprint
    tokens, places = [np.array([1, 2, 3, 4]), np.array([3, 2])], [np.array([1, 3]), np.array([1])]
    names = [name for name in plain.hook_names if "resid" in name or "mlp_out" in name]
    for backend in ("bridge", "hf"):
        found = staged.read(tokens, names, places, backend=backend)
        for name, expected in plain.read(tokens, names, places, backend=backend).items():
            assert found[name].dtype == dtype and torch.equal(found[name], expected), (backend, name)
        for name, expected in exact.read(tokens, names, places, backend=backend).items():  # eight bits of each number
            assert (found[name].float() - expected).abs().max() < 0.03 * expected.abs().max(), (backend, name)
    assert staged.random_twin(3).fingerprint == plain.random_twin(3).fingerprint


def test_weights_that_no_gpu_has_room_for_are_refused(checkpoint):
    from transformers import AutoModelForCausalLM

    from probekit.model.loading import spread

    hf = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    with pytest.raises(
        BadInput, match=r"GPUs have no room for all of them \(some would be on the disk\): use dtype bf"
    ):
        spread(hf, "large", {"": "disk"})
