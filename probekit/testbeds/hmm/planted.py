"""Planted: what a network would look like that runs on one account of the hidden state and on nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.testbeds.hmm.networks import WIDTH
from probekit.testbeds.hmm.processes import Process


@dataclass(frozen=True)
class Plant:
    """One network with the face of `Transformers`, of one block: its stream is an affine map of an account, and noise.

    account: tokens [n, t] -> coordinates [n, t, k]; its law is the process's rule on what the stream holds of them.
    noise: standard deviation of the stream outside the account's own directions.
    """

    process: Process
    account: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    noise: float = 0.3
    seed: int = 0
    depth: int = 1
    n: int = 1

    def one(self, i: int) -> "Plant":
        """Itself."""
        return self

    @property
    def _frame(self) -> Float[Tensor, "d d"]:
        drawn = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return torch.linalg.qr(drawn)[0]

    def upto(self, tokens: Int[Tensor, "n t"], layer: int) -> Float[Tensor, "1 n t d"]:
        """The stream behind each place, whichever the block."""
        told = torch.from_numpy(self.account(tokens.numpy()))
        k = told.shape[-1]
        # Noise of a sequence is its own, as often as it is run: drawn from its tokens.
        key = (tokens * torch.arange(1, tokens.shape[1] + 1) * 7919).cumsum(1)
        phase = torch.arange(1, WIDTH - k + 1, dtype=torch.float64) * 0.61803
        noise = self.noise * 2**0.5 * torch.sin(key[..., None].double() * phase + phase)
        return (torch.cat([told, noise], -1) @ self._frame.T)[None].float() + 0.5

    def after(self, h: Float[Tensor, "1 n t d"], layer: int) -> Float[Tensor, "1 n t token"]:
        """Log-probabilities of the next token: the rule on the account's coordinates in the stream."""
        k = self.process.shown.shape[1]
        told = ((h.double() - 0.5) @ self._frame)[..., :k].numpy()
        return torch.from_numpy(np.log(self.process.law_of(told))).float()

    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "1 n t token"]:
        """Of the next token behind every place."""
        return self.after(self.upto(tokens, 0), 0)
