"""Generation: what a model writes next, token by token, by our own loop, so that a draw depends on its seed alone."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import BadInput

if TYPE_CHECKING:
    from probekit.model import Model


def generate(
    model: "Model", tokens: Int[Tensor, "b t"], n_tokens: int, draws: Float[Tensor, "b m n"] | None = None,
    temperature: float = 1.0,
) -> Int[Tensor, "b m n"]:  # fmt: skip
    """`n_tokens` after each of B rows of equal length. After an end-of-sequence token a row repeats it.

    draws: uniform numbers in [0, 1), one per row, sample and step, by which tokens are drawn from the law at
    `temperature`; None takes the likeliest token, once (m = 1). Raises BadInput for rows that outgrow the context.
    """
    b, length = tokens.shape
    if length + n_tokens - 1 > model.n_ctx:
        raise BadInput(
            f"{n_tokens} tokens after {length} are more than the {model.n_ctx} that {model.name} reads: ask for fewer, "
            "or shorten the text."
        )
    m = 1 if draws is None else draws.shape[1]
    ends = torch.tensor(_ends(model), dtype=torch.long, device=model.device)
    ids = tokens.to(model.device).repeat_interleave(m, 0)
    ended = torch.zeros(b * m, dtype=torch.bool, device=model.device)
    state = _State(model, tokens.to(model.device), m)
    for step in range(n_tokens):
        at = None if draws is None else draws[..., step].reshape(-1).to(model.device)
        new = _pick(state.logits, at, temperature)
        new = torch.where(ended, ids[:, -1], new)
        ids = torch.cat([ids, new[:, None]], 1)
        ended |= torch.isin(new, ends)
        if step + 1 < n_tokens:
            state.feed(ids)
    return ids[:, length:].reshape(b, m, n_tokens).cpu()


class _State:
    """The logits after the last token, from a cache of keys and values where the model has one that is exact."""

    def __init__(self, model: "Model", tokens: Tensor, m: int) -> None:
        from transformers import DynamicCache

        self.model = model
        model.prefix(tokens[:1])  # settles by trial, on first use, whether a cache reproduces the plain forward
        self.cache = None if model._method == "full" else DynamicCache(config=model._hf.config)
        self.logits = self._run(tokens, tokens).repeat_interleave(m, 0)
        if self.cache is not None and m > 1:
            self.cache.batch_repeat_interleave(m)

    def feed(self, ids: Tensor) -> None:
        """One token further."""
        self.logits = self._run(ids, ids if self.cache is None else ids[:, -1:])

    def _run(self, ids: Tensor, new: Tensor) -> Tensor:
        given = {}
        if self.cache is not None:
            place = torch.arange(ids.shape[1] - new.shape[1], ids.shape[1], device=ids.device).expand(len(ids), -1)
            given = {"past_key_values": self.cache, "use_cache": True, "position_ids": place}
        with self.model._hooked({}):
            keep = torch.tensor([new.shape[1] - 1], device=ids.device)
            logits = self.model._forward(new, torch.ones_like(ids), keep, **given)[:, -1].float()
        if not torch.isfinite(logits).all():
            raise BadInput(f"{self.model.name} gives logits that are not finite while it writes: use another dtype.")
        return logits


def _pick(logits: Tensor, draws: Tensor | None, temperature: float) -> Tensor:
    if draws is None:
        return logits.argmax(-1)
    # In float64: a cumulative sum over a large vocabulary in float32 ends short of 1.
    law = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    return torch.searchsorted(law, (draws.double() * law[:, -1])[:, None], right=True)[:, 0].clamp_max(law.shape[1] - 1)


def _ends(model: "Model") -> list[int]:
    """End-of-sequence tokens, by the tokenizer and by the checkpoint's own settings of generation."""
    settings = getattr(model._hf, "generation_config", None)
    asked = getattr(settings, "eos_token_id", None)
    own = getattr(model.tokenizer, "eos_token_id", None)
    known = [*(asked if isinstance(asked, list) else [asked]), own]
    return sorted({int(token) for token in known if token is not None})
