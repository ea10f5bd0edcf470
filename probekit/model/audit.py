"""The extraction audit: is what a loaded model gives at its hook points what their names promise?"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.hookpoint import HookPoint

if TYPE_CHECKING:
    from probekit.model import Model

LIBRARIES = ("torch", "transformers", "transformer-lens")
# Differences in logits below this share of their largest size are rounding: they decide whether a fast path is exact.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2}
STREAM = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")


def check_model(model: "Model", tokens: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """The extraction audit, as plain JSON values, from a forward over a few examples (up to 4 are used).

    Differences are maxima of absolute values: `invariance` of one padded batch against single examples, `hf_parity` of
    resid_post against the library's own hidden states, `residual_identity` of the blocks' sums. None: not applicable.
    """
    tokens = [np.asarray(t) for t in tokens[:4]]
    everywhere = [np.arange(len(t)) for t in tokens]
    stream = [n for n in model.hook_names if HookPoint.parse(n).part in STREAM]
    batch = model.read(tokens, stream, everywhere, batch_tokens=sum(map(len, tokens)) * len(tokens))
    single = [model.read([t], stream, [p]) for t, p in zip(tokens, everywhere, strict=True)]
    difference = {n: float((batch[n] - torch.cat([s[n] for s in single])).abs().max()) for n in stream}
    scale = max((float(values.abs().max()) for values in batch.values()), default=1.0)
    refused = {}
    for name in stream:
        if HookPoint.parse(name).layer in (0, model.n_layers - 1):
            try:
                model.check_writable(name)
            except BadInput as error:
                refused[name] = str(error)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model._weights.values() if p.is_floating_point()})
    return {
        "n_examples": len(tokens),
        "n_hooks_fired_once": len(stream),
        "n_not_finite": 0,  # read refuses such values, so a finished audit has seen none
        "invariance": max(difference.values(), default=0.0),
        "invariance_limit": 10 * TOLERANCE[model.dtype] * scale,
        "hf_parity": _hf_parity(model, tokens[0]),
        "residual_identity": _residual_identity(model, batch),
        "not_writable": refused,
        "dtypes": dtypes,
        "attention": model.attention,
        "padding": "right",
        "bos": model.bos,
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Exact versions of the libraries that decide activations."""
    return {name: version(name) for name in LIBRARIES}


def _residual_identity(model: "Model", seen: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Largest |pre + attn - mid| and |mid + mlp - post| over layers; without a mid, |pre + attn + mlp - post|."""
    sums = {
        "pre + attn = mid": ("hook_resid_pre", "hook_attn_out", "hook_resid_mid"),
        "mid + mlp = post": ("hook_resid_mid", "hook_mlp_out", "hook_resid_post"),
        "pre + attn + mlp = post": ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"),
    }
    found: dict[str, float | None] = {}
    for name, (*terms, total) in sums.items():
        gaps = [
            float((sum(seen[f"blocks.{i}.{t}"].double() for t in terms) - seen[f"blocks.{i}.{total}"]).abs().max())
            for i in range(model.n_layers)
            if all(f"blocks.{i}.{part}" in seen for part in (*terms, total))
        ]
        found[name] = max(gaps) if gaps else None
    return found


def _hf_parity(model: "Model", row: NDArray[np.integer]) -> float | None:
    """resid_post of layers 0 to L-2 against hidden states 1 to L-1; the last one lies behind the final norm."""
    names = [f"blocks.{i}.hook_resid_post" for i in range(model.n_layers - 1)]
    if not names or any(name not in model.widths for name in names):
        return None
    ids, mask = model._pad_right([row])
    with model._hooked({}):
        states = model._hf(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
    if not states or len(states) != model.n_layers + 1:
        return None
    ours = model.read([row], names, [np.arange(len(row))])
    return max(float((ours[name] - states[i + 1][0].cpu()).abs().max()) for i, name in enumerate(names))
