"""Small transformers that read tokens of a hidden Markov process, stacked so that many run side by side.

Tokens and places are looked up and added; then come blocks, each attention and then a layer of ReLUs, which read the
stream through a layer norm without weights of its own; a last norm, and one logit for each token.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from probekit.testbeds.hmm.processes import LENGTH, Process

WIDTH, HEADS, HIDDEN, DEPTH = 32, 4, 64, 3


@dataclass(frozen=True)
class Transformers:
    """s networks side by side. parameters: each with a first axis of s."""

    parameters: Mapping[str, Tensor]

    @property
    def depth(self) -> int:
        """Blocks of each."""
        return sum(name.startswith("attend") for name in self.parameters)

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.parameters["token"])

    def one(self, i: int) -> "Transformers":
        """The i-th of them, still as a stack."""
        return Transformers({name: part[i : i + 1] for name, part in self.parameters.items()})

    def upto(self, tokens: Int[Tensor, "n t"], layer: int) -> Float[Tensor, "s n t d"]:
        """The stream behind so many blocks, of sequences that all networks share."""
        start = self.parameters["token"][:, tokens] + self.parameters["place"][:, None, : tokens.shape[1]]
        return self._through(start, 0, layer)

    def after(self, h: Float[Tensor, "s n t d"], layer: int) -> Float[Tensor, "s n t token"]:
        """Logits of the next token behind every place, from the stream behind `layer` blocks."""
        told = _normed(self._through(h, layer, self.depth))
        return _mapped(told, self.parameters["out"]) + self.parameters["out_bias"][:, None, None]

    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "s n t token"]:
        """Of the next token behind every place."""
        return self.after(self.upto(tokens, 0), 0)

    def _through(self, h: Tensor, first: int, last: int) -> Tensor:
        for layer in range(first, last):
            h = h + self._attended(_normed(h), layer)
            inner = torch.relu(
                _mapped(_normed(h), self.parameters[f"into{layer}"]) + self.parameters[f"bias{layer}"][:, None, None]
            )
            h = h + _mapped(inner, self.parameters[f"from{layer}"])
        return h

    def _attended(self, x: Tensor, layer: int) -> Tensor:
        s, n, t, d = x.shape
        parts = (
            _mapped(x, self.parameters[f"attend{layer}"]).view(s * n, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        )
        told = scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return _mapped(told.transpose(1, 2).reshape(s, n, t, d), self.parameters[f"merge{layer}"])


def _normed(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])


def _mapped(x: Float[Tensor, "s n t a"], matrix: Float[Tensor, "s a b"]) -> Float[Tensor, "s n t b"]:
    return torch.bmm(x.flatten(1, 2), matrix).unflatten(1, x.shape[1:3])


def untrained(process: Process, seeds: tuple[int, ...], depth: int = DEPTH) -> Transformers:
    """Networks as they start, each drawn from its own seed."""
    made = [_draw(process.n_tokens, seed, depth) for seed in seeds]
    return Transformers({name: torch.stack([one[name] for one in made]) for name in made[0]})


def _draw(n_tokens: int, seed: int, depth: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, size: float) -> Tensor:
        return size * torch.randn(*shape, generator=generator)

    out = {"token": drawn(n_tokens, WIDTH, size=0.5), "place": drawn(LENGTH, WIDTH, size=0.5)}
    for layer in range(depth):
        out[f"attend{layer}"] = drawn(WIDTH, 3 * WIDTH, size=WIDTH**-0.5)
        out[f"merge{layer}"] = drawn(WIDTH, WIDTH, size=0.5 * WIDTH**-0.5)
        out[f"into{layer}"] = drawn(WIDTH, HIDDEN, size=(2 / WIDTH) ** 0.5)
        out[f"bias{layer}"] = torch.zeros(HIDDEN)
        out[f"from{layer}"] = drawn(HIDDEN, WIDTH, size=0.5 * HIDDEN**-0.5)
    out["out"], out["out_bias"] = drawn(WIDTH, n_tokens, size=WIDTH**-0.5), torch.zeros(n_tokens)
    return out
