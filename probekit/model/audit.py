"""The extraction audit: is what a loaded model gives at its hook points what their names promise?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.model.reading import pad_right

if TYPE_CHECKING:
    from probekit.model.model import Model

BACKENDS = ("auto", "bridge", "hf")
LIBRARIES = ("torch", "transformers", "transformer-lens")
# Differences in logits below this share of their largest size are rounding: they decide whether a fast path is exact.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2}
STREAM = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
LEAST_LENGTH = 1e-3  # of the median row: what is shorter may be nothing but rounding
# What is added to the stream behind a place within its block, up to hook_resid_post.
_ADDED = {"hook_resid_pre": ("hook_attn_out", "hook_mlp_out"), "hook_resid_mid": ("hook_mlp_out",)}
N_PLACES = 16  # of each example read in the audit: enough to see a difference, too few to cost time or memory


@dataclass(frozen=True)
class Backend:
    """Which forward is run, `bridge` or `hf`. parity: how far the two are apart, None when nothing was compared.

    reason: why it is not `hf`, where that was left open.
    """

    name: str
    parity: float | None = None
    reason: str = ""


def choose_backend(model: "Model", asked: str, names: Sequence[str], tokens: Sequence[NDArray[Any]]) -> Backend:
    """`bridge`, or `hf` where every one of `names` has a place in the library's own forward and both forwards agree.

    They agree when at each place read, in up to 2 of the examples, activations (and logits, up to a constant) differ by
    at most TOLERANCE of their length. Raises BadInput where `hf` is asked for and that is not so.
    """
    if asked not in BACKENDS:
        raise BadInput(f"backend is one of {', '.join(BACKENDS)}; found '{asked}'.")
    if asked == "bridge":
        return Backend("bridge")
    lost = [name for name in names if name not in (model.plain_names or ())]
    parity = None
    if model.plain_names is None:
        reason = "it has no plain forward"
    elif lost:
        reason = f"the plain forward has no place for '{lost[0]}'"
    else:
        parity, limit = _parity(model, names, sample(tokens)), TOLERANCE[model.dtype]
        if parity <= limit:
            return Backend("hf", parity)
        reason = f"the plain forward differs from the bridge by {parity:.2g} where {limit:.2g} is allowed"
    if asked == "hf":
        raise BadInput(f"{model.name}: backend 'hf' was asked for, but {reason}: use 'bridge' or 'auto'.")
    return Backend("bridge", parity, reason)


def sample(tokens: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The longest example and one of middle length, cut to half of it where it is longer: padding always shows."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    longest, other = np.asarray(tokens[order[-1]]), np.asarray(tokens[order[(len(order) - 1) // 2]])
    return [longest] if len(longest) < 2 or len(order) < 2 else [longest, other[: len(longest) // 2]]


def check_model(
    model: "Model",
    tokens: Sequence[NDArray[Any]],
    names: Sequence[str] = (),
    backend: Backend = Backend("bridge"),
) -> dict[str, Any]:
    """The extraction audit of `names` and the residual stream, as plain JSON values, from forwards over `sample`.

    Distances are the largest over rows, in units of a row's length: `invariance` of a padded example from itself alone,
    `hf_parity` of resid_post from the library's own hidden states. One token of some models is thousands of times as
    long as the others, beside which nothing else would count. `residual_identity`: the largest absolute difference of
    the blocks' sums. None: not applicable.
    """
    tokens = sample(tokens)
    places = _places(tokens)
    known = set(model.widths if backend.name == "bridge" else model.plain_names or ())
    stream = [n for n in model.hook_names if HookPoint.parse(n).part in STREAM and n in known]
    asked = list(dict.fromkeys([*stream, *names]))
    batch = model.read(tokens, asked, places, batch_tokens=sum(map(len, tokens)) * len(tokens), backend=backend)
    # the last one is the shorter, and padded in the batch
    single = model.read(tokens[-1:], asked, places[-1:], backend=backend)
    lengths = [single[name].double().norm(dim=1) for name in asked]
    least = LEAST_LENGTH * float(torch.cat(lengths).median()) if lengths else 0.0
    difference = {name: _apart(batch[name][-len(places[-1]) :], single[name], least) for name in asked}
    refused = {}
    for name in stream:
        if HookPoint.parse(name).layer in (0, model.n_layers - 1):
            try:
                model.check_writable(name)
            except BadInput as error:
                refused[name] = str(error)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.weights.values() if p.is_floating_point()})
    return {
        "backend": backend.name,
        "backend_parity": backend.parity,
        "backend_parity_limit": TOLERANCE[model.dtype],
        "backend_reason": backend.reason,
        "attention": model.attention(backend.name),
        "n_examples": len(tokens),
        "n_hooks_fired_once": len(asked),
        "n_not_finite": 0,  # read refuses such values, so a finished audit has seen none
        "invariance": max(difference.values(), default=0.0),
        "invariance_limit": 10 * TOLERANCE[model.dtype],
        "hf_parity": _hf_parity(model, tokens[-1], places[-1], single),
        "residual_identity": _residual_identity(model, batch),
        "not_writable": refused,
        "dtypes": dtypes,
        "padding": "right",
        "bos": model.bos,
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Exact versions of the libraries that decide activations."""
    return {name: version(name) for name in LIBRARIES}


def _places(tokens: Sequence[NDArray[Any]]) -> list[NDArray[np.int64]]:
    """Up to N_PLACES positions of each example, both ends among them."""
    return [np.unique(np.linspace(0, len(t) - 1, N_PLACES).astype(np.int64)) for t in tokens]


def _apart(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], least: float = 0.0) -> float:
    """Largest distance between two rows, in units of the second's length: one loud row must not hide the others.

    least: a shorter one counts as this long.
    """
    gap, size = (first.double() - second.double()).norm(dim=1), second.double().norm(dim=1)
    return float((gap / size.clamp_min(max(least, torch.finfo(torch.float32).tiny))).max()) if len(gap) else 0.0


def _parity(model: "Model", names: Sequence[str], tokens: Sequence[NDArray[Any]]) -> float:
    found = []
    for backend in (Backend("hf"), Backend("bridge")):
        logits: dict[int, Tensor] = {}

        def keep(values: Tensor, rows: NDArray[np.int64], logits: dict[int, Tensor] = logits) -> None:
            logits.update(zip(rows.tolist(), values, strict=True))

        values = model.read(tokens, names, _places(tokens), on_logits=keep, backend=backend)
        rows = torch.stack([logits[i] for i in sorted(logits)])
        found.append([*values.values(), rows - rows.mean(1, keepdim=True)])  # softmax ignores a constant
    return max(_apart(ours, theirs) for ours, theirs in zip(*found, strict=True))


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
            float((sum(seen[block.beside(t)].double() for t in terms) - seen[block.beside(total)]).abs().max())
            for block in (HookPoint.within(i, total) for i in range(model.n_layers))
            if all(block.beside(part) in seen for part in (*terms, total))
        ]
        found[name] = max(gaps) if gaps else None
    return found


def _hf_parity(
    model: "Model", row: NDArray[np.integer], places: NDArray[np.int64], seen: Mapping[str, Tensor]
) -> float | None:
    """resid_post of layers 0 to L-2 against hidden states 1 to L-1; the last one lies behind the final norm.

    Some architectures (Mamba) list what each block gives, and not what the first one gets: there, 0 to L-2.
    """
    names = [HookPoint.within(i, "hook_resid_post").name for i in range(model.n_layers - 1)]
    states = _hidden_states(model, row) if names and all(name in seen for name in names) else []
    if len(states) != model.n_layers + 1:
        return None
    before, first = seen.get(HookPoint.within(0, "hook_resid_pre").name), states[0][places]
    shift = 1 if before is None or _apart(before, first) <= _apart(seen[names[0]], first) else 0
    return max(_apart(seen[name], states[i + shift][places]) for i, name in enumerate(names))


def _hidden_states(model: "Model", row: NDArray[np.integer]) -> list[Float[Tensor, "pos d_model"]]:
    """The library's own hidden states of one example, from its own forward; none where the model has none."""
    if model.plain is None:
        return []
    ids, mask = pad_right(model, [row])
    with model.lock, torch.inference_mode():
        found = model.plain.hf(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True,
                               logits_to_keep=1).hidden_states  # fmt: skip
    return [state[0].cpu() for state in found or ()]


def why_not_writable(model: "Model", hook: HookPoint) -> str:
    """'' when a write at the last of 4 tokens changes the forward pass as its name promises, otherwise the reason.

    The residual stream after a write must be the written value plus what the layers above add; `hook_resid_mid`
    fails, being the input of the MLP branch alone.
    """
    before, plain = _watched(model, hook, None)
    scale = float(before[hook.name].abs().max()) or 1.0
    delta = torch.from_numpy(np.random.default_rng(2).standard_normal(model.widths[hook.name])).to(plain)
    after, moved = _watched(model, hook, lambda rows: rows + (3 * scale * delta).to(rows.dtype).reshape(rows.shape[1:]))
    if not float((moved - plain).abs().max()) > 0:
        return "a large write there changes no logit."
    limit = 10 * TOLERANCE[model.dtype] * max(1.0, float(after[hook.name].abs().max()))
    parts, end = [hook.beside(part) for part in _ADDED.get(hook.part, ())], hook.beside("hook_resid_post")
    if parts and all(name in after for name in (*parts, end)):

        def gap(seen: dict[str, Tensor]) -> float:
            total = seen[hook.name] + sum(seen[name] for name in parts)
            return float((seen[end] - total).abs().max())

        # a model whose blocks do not add up even unedited (scaled residuals) cannot be judged this way
        if gap(before) <= limit < gap(after):
            return "the write reaches one branch only and misses the skip path; write at hook_resid_pre or _post."
    above = HookPoint.within((hook.layer or 0) + 1, "hook_resid_pre").name
    passed_on = hook.part != "hook_resid_post" or above not in after
    if not passed_on and not float((after[above] - after[hook.name]).abs().max()) <= limit:
        return "the next block does not receive what was written."
    return ""


def _watched(
    model: "Model", hook: HookPoint, edit: Callable[[Tensor], Tensor] | None
) -> tuple[dict[str, Tensor], Tensor]:
    """The last token's activations in and behind the block of `hook`, and its logits, with `edit` there or without."""
    numbers = np.random.default_rng(1).integers(0, model.d_vocab, (2, min(4, model.n_ctx)))
    tokens = torch.from_numpy(numbers).to(model.device)
    above = HookPoint.within((hook.layer or 0) + 1, "hook_resid_pre").name
    names = [*(hook.beside(part) for part in STREAM), above, hook.name]
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[Tensor], Tensor]:
        def function(output: Tensor) -> Tensor:
            output = output.clone()
            if edit and name == hook.name:
                output[:, -1] = edit(output[:, -1])
            seen[name] = output[:, -1].flatten(1).double()
            return output

        return function

    with model.hooked({name: watch(name) for name in dict.fromkeys(names) if name in model.widths}):
        logits = model.forward(tokens, torch.ones_like(tokens))[:, -1].double()
    return seen, logits
