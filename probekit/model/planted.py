"""Planted: a transformer whose weights were set by hand, with the face of a Hugging Face model that `Model` runs."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from probekit.errors import BadInput


class PlantedNetwork(torch.nn.Module):
    """Wraps a TransformerLens-native model: logits at the positions asked for, no key-value cache, no hidden states."""

    def __init__(self, bridge: Any, config: Any) -> None:
        super().__init__()
        self.native, self.config = bridge.original_model, config
        self._bridge = [bridge]  # a list, so that its weights are not registered a second time

    @property
    def bridge(self) -> Any:
        return self._bridge[0]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        logits_to_keep: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> SimpleNamespace:
        """Logits as `.logits` [b, kept, d_vocab]; `.hidden_states` is None."""
        if past_key_values is not None:
            raise TypeError("a planted model has no key-value cache")
        logits = self.native(input_ids, attention_mask=attention_mask)
        return SimpleNamespace(
            logits=logits if logits_to_keep is None else logits[:, logits_to_keep], hidden_states=None
        )

    def get_input_embeddings(self) -> Any:
        """What holds the token embeddings: `.weight` is [d_vocab, d_model]."""
        return self.native.tok_embed

    def get_output_embeddings(self) -> Any:
        """What holds the unembedding: `.weight` is [d_vocab, d_model]."""
        return self.native.head

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy in weights by their native names, all others 0. Raises BadInput for an unknown name or another shape."""
        own = {name.replace("_original_component.", ""): value for name, value in self.native.named_parameters()}
        for name, value in weights.items():
            if name not in own or own[name].shape != value.shape:
                found = list(own[name].shape) if name in own else "no such weight"
                raise BadInput(f"weight '{name}' has shape {list(value.shape)}; the model has {found}.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(weights.get(name, torch.zeros_like(value)))


def native(config: Any, seed: int) -> PlantedNetwork:
    """TransformerLens's own small model with random weights, in the shape of `config`."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import boot

    shape = TransformerBridgeConfig(
        d_model=config.hidden_size, d_head=config.head_dim, n_heads=config.num_attention_heads,
        n_layers=config.num_hidden_layers, n_ctx=config.max_position_embeddings, d_vocab=config.vocab_size,
        d_mlp=config.intermediate_size, act_fn="relu", normalization_type=None, seed=seed,
    )  # fmt: skip
    return PlantedNetwork(boot(shape), config)
