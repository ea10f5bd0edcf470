"""Generation: what a model writes next, token by token, by our own loop, so that a draw depends on its seed alone.

Activations may be edited meanwhile: at one token of each row, or from it on, where each token that is written is edited
when it is read in its turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.model.audit import TOLERANCE
from probekit.model.branching import At, Edits, writing

if TYPE_CHECKING:
    from probekit.model.model import Model


@dataclass(frozen=True)
class Manner:
    """How a forward writes: with a cache of keys and values, and with shorter rows padded on the left, or without."""

    cached: bool
    padded: bool


@dataclass(frozen=True)
class WhileWriting:
    """Edits of B rows and of what is written after them.

    edits: hook point -> edit, which is told of each edited token its row (`At.text`) and how many edited ones came
    before it there (`At.place`). first [B]: the first edited token of each row. on: whether all tokens behind it are
    edited too, those that are written included; otherwise it is edited alone.
    """

    edits: Edits
    first: NDArray[np.int64]
    on: bool = True

    def check(self, model: "Model", rows: Sequence[Tensor], backend: str) -> None:
        """Raise BadInput for a hook point that cannot be written, and for a token that a row does not have."""
        for name in self.edits:
            model.check_writable(name)
            if backend == "hf" and model.plain is not None and name not in model.plain.places:
                raise BadInput(f"{model.name}'s plain forward has no '{name}': write with the bridge.")
        if len(self.first) != len(rows):
            raise BadInput(f"{len(rows)} rows are edited from {len(self.first)} tokens on: give one for each.")
        for i, (row, first) in enumerate(zip(rows, self.first.tolist(), strict=True)):
            if not 0 <= first < len(row):
                raise BadInput(f"row {i} is edited from token {first} on, and has {len(row)}: tokens count from 0.")

    def hooks(self, text: Int[Tensor, " n"], token: Int[Tensor, "n t"]) -> dict[str, Callable[[Tensor], Tensor]]:
        """For one forward on columns that are these tokens of these rows; below 0 where a row is padded."""
        place = token - torch.from_numpy(self.first)[text][:, None]
        row, column = torch.nonzero((place >= 0) if self.on else (place == 0), as_tuple=True)
        if not len(row):
            return {}
        at = At(text[row], torch.zeros_like(row), place[row, column])
        return {name: writing(name, edit, (row, column), at) for name, edit in self.edits.items()}


def writer_of(model: "Model", hooks: Sequence[str]) -> str:
    """The backend to write with under edits at these hook points: `hf` where it does what the bridge does, else that.

    Found by trial on first use.
    """
    alike = model.plain is not None and all(name in model.plain.places for name in hooks)
    return "hf" if alike and _manner(model, "hf", hooks) is not None else "bridge"


def manner(model: "Model", backend: str, hooks: Sequence[str] = ()) -> Manner:
    """Found by trial on first use: the cheapest manner whose logits are those of each row run alone.

    Only the library's plain forward (`hf`) is padded: the bridge's attention has been silently wrong on such rows.
    hooks: those that are edited meanwhile.
    """
    return _manner(model, backend, hooks) or Manner(False, False)


def _manner(model: "Model", backend: str, hooks: Sequence[str] = ()) -> Manner | None:
    """The same under edits at hook points, where logits are to be those of the bridge; None where none are."""
    backend = backend if model.plain is not None else "bridge"
    key = " ".join([backend, *hooks])
    if key not in model.trials.manners:
        model.check_clean()
        padded = (True, False) if backend == "hf" else (False,)
        tried = [Manner(cached, p) for cached in (True, False) for p in padded]
        # the plainest one is right by definition, but for edits in another forward than the bridge
        last = tried.pop() if backend == "bridge" or not hooks else None
        model.trials.manners[key] = next((how for how in tried if _holds(model, how, backend, hooks)), last)
    return model.trials.manners[key]


def generate(
    model: "Model", tokens: Sequence[NDArray | Tensor] | Int[Tensor, "b t"], n_tokens: int,
    draws: Float[Tensor, "b m n"] | None = None, temperature: float = 1.0, backend: str = "bridge",
    edited: WhileWriting | None = None,
) -> Int[Tensor, "b m n"]:  # fmt: skip
    """`n_tokens` after each of B rows, of equal length unless the `manner` of the backend is padded.

    After an end-of-sequence token a row repeats it. draws: uniform numbers in [0, 1), one per row, sample and step, by
    which tokens are drawn from the law at `temperature`; None takes the likeliest token, once (m = 1). backend:
    `bridge`, or `hf` for the library's plain forward. edited: what is done to activations meanwhile. Raises BadInput
    for rows that outgrow the context.
    """
    rows = [torch.as_tensor(row).long() for row in tokens]
    b, length = len(rows), max(map(len, rows))
    if length + n_tokens - 1 > model.n_ctx:
        raise BadInput(
            f"{n_tokens} tokens after {length} are more than the {model.n_ctx} that {model.name} reads: ask for fewer, "
            "or shorten the text."
        )
    if edited is not None:
        edited.check(model, rows, backend)
    how = _manner(model, backend, () if edited is None else tuple(edited.edits))
    if how is None:
        raise BadInput(f"{model.name}'s plain forward does other things than the bridge under these edits: use that.")
    if not how.padded and min(map(len, rows)) < length:
        raise BadInput(f"{model.name} writes after rows of one length only by its {backend} forward: sort them first.")
    m = 1 if draws is None else draws.shape[1]
    ends = torch.tensor(ends_of(model), dtype=torch.long, device=model.device)
    state = _State(model, rows, m, backend, how, edited)
    ended = torch.zeros(b * m, dtype=torch.bool, device=model.device)
    for step in range(n_tokens):
        at = None if draws is None else draws[..., step].reshape(-1).to(model.device)
        new = _pick(state.logits, at, temperature)
        new = torch.where(ended, state.ids[:, -1], new)
        ended |= torch.isin(new, ends)
        state.feed(new, last=step + 1 == n_tokens)
    return state.ids[:, length:].reshape(b, m, n_tokens).cpu()


class _State:
    """Rows as they grow, each `m` times, and the logits after their last token."""

    def __init__(
        self, model: "Model", rows: Sequence[Tensor], m: int, backend: str, how: Manner,
        edited: WhileWriting | None = None,
    ) -> None:  # fmt: skip
        from transformers import DynamicCache

        self.model, self.backend, self.how, self.edited = model, backend, how, edited
        longest = max(map(len, rows))
        # On the left, so that every row goes on at one and the same column.
        ids = torch.stack(
            [torch.nn.functional.pad(row, (longest - len(row), 0), value=model.pad_token) for row in rows]
        )
        self.n_pad = torch.tensor([longest - len(row) for row in rows])
        mask = torch.arange(longest) >= self.n_pad[:, None]
        self.ids, self.mask, self.text = ids.to(model.device), mask.long().to(model.device), torch.arange(len(rows))
        self.cache = DynamicCache(config=model.bridge.hf.config) if how.cached else None
        self.logits = self._run(self.ids).repeat_interleave(m, 0)
        self.ids, self.mask = self.ids.repeat_interleave(m, 0), self.mask.repeat_interleave(m, 0)
        self.text = self.text.repeat_interleave(m)
        if self.cache is not None and m > 1:
            self.cache.batch_repeat_interleave(m)

    def feed(self, new: Int[Tensor, " b_m"], last: bool = False) -> None:
        """One token further; nothing is asked of the model behind the last one."""
        self.ids = torch.cat([self.ids, new[:, None]], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(new)[:, None]], 1)
        if not last:
            self.logits = self._run(self.ids if self.cache is None else self.ids[:, -1:])

    def _run(self, new: Tensor) -> Tensor:
        given: dict[str, Any] = {} if self.cache is None else {"past_key_values": self.cache, "use_cache": True}
        if self.how.cached or self.how.padded:
            given["position_ids"] = (self.mask.cumsum(1) - 1).clamp_min(0)[:, -new.shape[1] :]
        column = torch.arange(self.ids.shape[1] - new.shape[1], self.ids.shape[1])
        token = column - self.n_pad[self.text][:, None]
        hooks = {} if self.edited is None else self.edited.hooks(self.text, token)
        with self.model.hooked(hooks, self.backend):
            keep = torch.tensor([new.shape[1] - 1], device=new.device)
            logits = self.model.forward(new, self.mask, keep, backend=self.backend, **given)[:, -1].float()
        if not torch.isfinite(logits).all():
            raise BadInput(f"{self.model.name} gives logits that are not finite while it writes: use another dtype.")
        return logits


def _holds(model: "Model", how: Manner, backend: str, hooks: Sequence[str] = ()) -> bool:
    """Whether logits after two rows, and after one token more, are those of the plain forward on each row alone.

    hooks: with an edit there from the middle of each row on, and then those of the bridge.
    """
    longest = max(1, min(model.n_ctx - 1, 24))
    drawn = np.random.default_rng(0).integers(0, model.d_vocab, (2, longest + 1))
    short = max(1, longest // 2) if how.padded else longest
    rows = [torch.from_numpy(drawn[0]), torch.from_numpy(drawn[1, : short + 1])]
    first = np.array([longest // 2, short // 2])
    edited = WhileWriting(dict.fromkeys(hooks, _turned), first) if hooks else None
    try:
        state = _State(model, [row[:-1] for row in rows], 1, backend, how, edited)
        found = [state.logits]
        state.feed(torch.stack([row[-1] for row in rows]).to(model.device))
        found.append(state.logits)
    # an architecture without this kind of cache, or without positions to be told
    except (BadInput, TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
        return False
    judge = "bridge" if hooks else backend
    for logits, cut in zip(found, (-1, None), strict=True):
        for i, row in enumerate(rows):
            ids = row[None, :cut].to(model.device)
            whole = {} if edited is None else edited.hooks(torch.tensor([i]), torch.arange(ids.shape[1])[None])
            # the row stands first in a batch of its own
            with model.hooked(whole, judge):
                truth = model.forward(ids, torch.ones_like(ids), backend=judge)[0, -1].float()
            limit = TOLERANCE[model.dtype] * max(1.0, float(truth.abs().max()))
            if not float((logits[i] - truth).abs().max()) <= limit:  # NaN holds nothing
                return False
    return True


def _turned(act: Tensor, at: At) -> Tensor:
    """An edit of activations [n, width] that leaves their length, and that a mistake about hook or token would show."""
    place = torch.arange(act.shape[1]) + 1 + at.place[:, None]
    return act.gather(1, (place % act.shape[1]).to(act.device))


def _pick(logits: Tensor, draws: Tensor | None, temperature: float) -> Tensor:
    if draws is None:
        return logits.argmax(-1)
    # In float64: a cumulative sum over a large vocabulary in float32 ends short of 1.
    law = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    return torch.searchsorted(law, (draws.double() * law[:, -1])[:, None], right=True)[:, 0].clamp_max(law.shape[1] - 1)


def ends_of(model: "Model") -> list[int]:
    """End-of-sequence tokens, by the tokenizer and by the checkpoint's own settings of generation."""
    settings = getattr(model.bridge.hf, "generation_config", None)
    asked = getattr(settings, "eos_token_id", None)
    own = getattr(model.tokenizer, "eos_token_id", None)
    known = [*(asked if isinstance(asked, list) else [asked]), own]
    return sorted({int(token) for token in known if token is not None})
