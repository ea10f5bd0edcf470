"""Editing: a model run again and again on the same texts, with edits of activations at the last token alone."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.model.audit import STREAM, TOLERANCE

if TYPE_CHECKING:
    from probekit.model.model import Model

Edit = Callable[[Tensor], Tensor]

# What is added to the stream behind a place within its block, up to hook_resid_post.
_ADDED = {"hook_resid_pre": ("hook_attn_out", "hook_mlp_out"), "hook_resid_mid": ("hook_mlp_out",)}


@dataclass(frozen=True)
class Prefix:
    """Everything before the last token of B rows of equal length, run once. tokens: [B, T] with the last token."""

    tokens: Int[Tensor, "b t"]
    cache: Any
    method: str


def run_prefix(model: "Model", tokens: Int[Tensor, "b t"]) -> Prefix:
    """Run all but the last token of B rows of equal length, once, for `run_last`.

    How (`method`) is found by trial at first use: `shared` keeps one key-value cache per row and lets all repeats
    attend to it, `repeated` copies that cache (sliding windows), `full` runs whole sequences (models whose cache
    does not reproduce the plain forward).
    """
    tokens = torch.as_tensor(tokens).to(model.device)
    if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= model.n_ctx or not tokens.numel():
        raise BadInput(f"a prefix needs tokens [b, t] with t from 1 to {model.n_ctx}; found {list(tokens.shape)}.")
    with model.lock, torch.inference_mode():
        if model.trials.prefix_method is None:
            model.trials.prefix_method = _fastest_method(model)
        return _prefix(model, tokens, model.trials.prefix_method)


def run_last(
    model: "Model", prefix: Prefix, last_token: Int[Tensor, " b"] | None, edits: Mapping[str, Edit], n_repeat: int = 1
) -> Float[Tensor, "b_m d_vocab"]:
    """Logits after the last token of each row, run `n_repeat` times with `edits` at that token alone.

    edits: hook point -> function from activations [b * n_repeat, width] to the same shape; row i of the batch owns
    rows i * n_repeat to (i + 1) * n_repeat. An edit sees what the already edited layers below produced. last_token:
    None for the one given to `run_prefix`. Memory grows with b * n_repeat: the caller chooses b.
    Raises UnknownHook, and BadInput for a hook that cannot be written or an edit of the wrong shape.
    """
    for name in edits:
        model.check_writable(name)
    last = prefix.tokens[:, -1] if last_token is None else torch.as_tensor(last_token).to(model.device)
    if last.shape != prefix.tokens[:, -1].shape or n_repeat < 1:
        raise BadInput(
            f"run_last needs one last token per row ({len(prefix.tokens)}) and n_repeat of at least 1; "
            f"found {list(last.shape)} and {n_repeat}."
        )
    with model.lock, torch.inference_mode():
        logits = _run_last(model, prefix, last, edits, n_repeat)
    if not torch.isfinite(logits).all():
        raise BadInput(f"the edits at {', '.join(edits) or 'no hook'} give logits that are not finite.")
    return logits


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


def _watched(model: "Model", hook: HookPoint, edit: Edit | None) -> tuple[dict[str, Tensor], Tensor]:
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


def _fastest_method(model: "Model") -> str:
    """The fastest method whose unedited logits equal the plain forward's on a trial batch."""
    length = min(model.n_ctx, 24)
    numbers = np.random.default_rng(0).integers(0, model.d_vocab, (2, length))
    tokens = torch.from_numpy(numbers).to(model.device)
    truth = model.forward(tokens, torch.ones_like(tokens))[:, -1].float().repeat_interleave(3, 0)
    limit = TOLERANCE[model.dtype] * max(1.0, float(truth.abs().max()))
    for method in ("shared", "repeated"):
        try:
            prefix = _prefix(model, tokens, method)
            if prefix.method == method:
                found = _run_last(model, prefix, tokens[:, -1], {}, 3).float()
                if float((found - truth).abs().max()) <= limit:
                    return method
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            continue  # an architecture without this kind of cache: the next method is slower and more general
    return "full"


def _prefix(model: "Model", tokens: Tensor, method: str) -> Prefix:
    if method == "full" or tokens.shape[1] == 1:
        return Prefix(tokens, None, "full")
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=model.bridge.hf.config)
    first = tokens[:, :-1]
    with model.hooked({}):
        model.forward(first, torch.ones_like(first), first.new_zeros(1), past_key_values=cache, use_cache=True)
    # A sliding window forgets keys, so its mask has another width than the one that `shared` builds.
    if method == "shared" and any(type(layer) is not DynamicLayer for layer in cache.layers):
        return Prefix(tokens, cache, "repeated")
    return Prefix(tokens, cache, method)


def _run_last(model: "Model", prefix: Prefix, last: Tensor, edits: Mapping[str, Edit], m: int) -> Tensor:
    n_rows, whole = len(last) * m, prefix.method == "full"
    with model.hooked({name: _rowwise(name, edit, n_rows, model.widths[name], whole) for name, edit in edits.items()}):
        if whole:
            ids = torch.cat([prefix.tokens[:, :-1], last[:, None]], 1).repeat_interleave(m, 0)
            end = torch.tensor([prefix.tokens.shape[1] - 1], device=ids.device)
            return model.forward(ids, torch.ones_like(ids), end)[:, -1]
        return (_run_repeated if prefix.method == "repeated" else _run_shared)(model, prefix, last, m)


def _run_repeated(model: "Model", prefix: Prefix, last: Tensor, m: int) -> Tensor:
    """Every repeat with a cache of its own."""
    n = prefix.tokens.shape[1] - 1
    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(m)
    ids = last.repeat_interleave(m, 0)[:, None]
    mask = ids.new_ones(len(ids), n + 1)
    place = torch.full_like(ids, n)
    return model.forward(ids, mask, position_ids=place, past_key_values=cache, use_cache=True)[:, -1]


def _run_shared(model: "Model", prefix: Prefix, last: Tensor, m: int) -> Tensor:
    """All repeats of a row as one sequence of queries at one and the same position; each sees the prefix and itself.

    Keys and values of the prefix are then read once per row, not once per repeat.
    """
    from transformers import DynamicCache

    b, n = len(last), prefix.tokens.shape[1] - 1
    cache = DynamicCache(config=model.bridge.hf.config)
    for i, layer in enumerate(prefix.cache.layers):
        cache.update(layer.keys, layer.values, i)
    hidden = torch.cat([last.new_zeros(m, n), 1 - torch.eye(m, dtype=last.dtype, device=last.device)], 1)
    mask = torch.zeros(m, n + m, dtype=model.dtype, device=last.device)
    mask = mask.masked_fill(hidden.bool(), torch.finfo(model.dtype).min)[None, None].expand(b, 1, -1, -1)
    ids = last[:, None].expand(b, m)
    place = torch.full_like(ids, n)
    logits = model.forward(ids, mask, position_ids=place, past_key_values=cache, use_cache=True)
    return logits.reshape(b * m, -1)


def _rowwise(name: str, edit: Edit, n: int, width: int, at_last: bool) -> Callable[[Tensor], Tensor]:
    """The edit as a hook: on n rows of their own, or on the last token of n sequences."""

    def apply(output: Tensor) -> Tensor:
        rows = output[:, -1] if at_last else output
        old = rows.reshape(n, width)
        new = edit(old)
        if new.shape != old.shape:
            raise BadInput(f"the edit at '{name}' returned {list(new.shape)} for {list(old.shape)}.")
        new = new.to(output.dtype).reshape(rows.shape)
        return torch.cat([output[:, :-1], new[:, None]], 1) if at_last else new

    return apply
