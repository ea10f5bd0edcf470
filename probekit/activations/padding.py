"""Padding: rows that an engine computed behind pads which it let the model attend to, as a mask would not have."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.inputs.requests import Request
from probekit.model.audit import Backend
from probekit.model.model import Model

MANY = 64  # pads, up to which every number is tried; beyond it, what fills a text up to another's length or a block's
BLOCKS = (128, 256, 512)
IN_VAIN = 3  # requests without a match, after which no other is tried
NEARER = 0.5  # of what a row is nearest to otherwise


class Padded:
    """Looks for one number of pads in front of a request, of one token, that explains its rows.

    spread: hook -> standard deviation over rows [d], in which distances are told. near: the largest distance at which a
    row is said to hold something. lengths: of all requests, up to which a batch may have been filled.
    """

    def __init__(
        self, model: Model, hooks: Sequence[str], spread: Mapping[str, Float[Tensor, " d"]], near: float,
        lengths: Sequence[int], backend: Backend,
    ) -> None:  # fmt: skip
        self._model, self._hooks, self._spread, self._near, self._backend = model, hooks, spread, near, backend
        self._lengths, self._pads = sorted(set(lengths)), pads_of(model)

    def name(self, rows: pd.DataFrame, seen: Sequence[Request], sure: float, verdict: str) -> None:
        """Give `verdict` to rows, in place, that are nearer to what pads in front make than to all else.

        rows: a line for each row and layer: request, layer, position, verdict, holds, and `best`, how far it is from
        what it is nearest to. sure: what is nearer than this needs no other explanation.
        """
        in_vain = 0
        for request in seen:
            mine = rows[rows["request"] == request.name]
            if in_vain == IN_VAIN or not (mine["best"] > sure).any():
                continue
            found = self._explained(request, mine, sure)
            in_vain += not found
            for at, holds in found.items():
                rows.loc[at, ["verdict", "holds"]] = verdict, holds

    def _explained(self, request: Request, mine: pd.DataFrame, sure: float) -> dict[int, str]:
        """Index in the frame -> words, of the rows that one number of pads explains; nothing where few are."""
        best = mine["best"].to_numpy().reshape(len(self._hooks), -1)  # [layers, rows]
        probe = int(best[-1].argmax())  # the row that is told least, in the deepest layer
        for pad, n, shift in self._candidates(request, probe, float(best[-1, probe])):
            text = np.concatenate([np.full(n, pad), request.tokens])
            at = shift + np.arange(len(request.states))
            read = self._model.read([text], self._hooks, [at], backend=self._backend)
            apart = np.stack([self._apart(request.states[:, i], read[hook], hook)
                              for i, hook in enumerate(self._hooks)])  # fmt: skip
            better = (apart <= self._near) & (apart < NEARER * best)
            if better.sum() > 0.5 * (best > sure).sum():
                self._pads = [pad, *(other for other in self._pads if other != pad)]
                told = f"{n} pad{'s' * (n > 1)} attended to, token {pad}"
                return dict.fromkeys(mine.index[better.ravel()].tolist(), told)
        return {}

    def _candidates(self, request: Request, probe: int, best: float) -> Iterator[tuple[int, int, int]]:
        """(pad, how many, first row of the padded text that the file holds) that fit one row, the nearest first."""
        n, last = len(request.tokens), len(self._hooks) - 1
        counts = {*range(1, MANY + 1), *(length - n for length in self._lengths), *(-n % size for size in BLOCKS)}
        counts = sorted(k for k in counts if k > 0 and (self._model.n_ctx is None or n + k <= self._model.n_ctx))
        hook, row = self._hooks[last], request.states[probe, last][None]
        for pad in self._pads:
            texts = [np.concatenate([np.full(k, pad), request.tokens]) for k in counts]
            places = [np.array([probe, k + probe]) for k in counts]  # pads left in front, and pads taken away again
            read = self._model.read(texts, [hook], places, backend=self._backend)[hook]
            apart = self._apart(np.repeat(row, len(read), 0), read, hook).reshape(-1, 2)
            fits = (apart <= self._near) & (apart < NEARER * best)
            for i, aside in sorted(zip(*np.nonzero(fits), strict=True), key=lambda one: apart[one])[:3]:
                yield pad, counts[i], counts[i] * int(aside)

    def _apart(self, rows: NDArray, known: Tensor, hook: str) -> NDArray[np.float64]:
        gap = (torch.from_numpy(rows) - known.float()).abs() / self._spread[hook]
        return gap.median(1).values.numpy().astype(np.float64)


def pads_of(model: Model) -> list[int]:
    """Tokens that an engine may have filled up with."""
    told = [getattr(model.tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "bos", "unk")]
    known = [model.pad_token, *(token for token in told if isinstance(token, int)), 0]
    return [token for token in dict.fromkeys(known) if 0 <= token < model.d_vocab]
