"""Branching: texts run once, then again and again from the first edited token and the first edited block on.

A `Trunk` is what all edits of a batch of texts have in common: keys and values of the tokens before the first edited
one, and the residual stream where the first edited block begins. A branch is one edit of one text. Texts may differ in
length, edited places from text to text, and logits are read at another place than the edited ones.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.model.audit import TOLERANCE
from probekit.model.reading import most_tokens, pad_right

if TYPE_CHECKING:
    from probekit.model.model import Model

MOST_COLUMNS = 256  # of branches that are one sequence: attention between them is computed and thrown away
MOST_LOGITS = 2**25  # numbers of one forward's logits
MOST_TOKENS = 4096  # of one forward over whole texts


@dataclass(frozen=True)
class At:
    """Which edited tokens a call is about, each [n]: the text, which of its branches, and which of its places."""

    text: Int[Tensor, " n"]
    branch: Int[Tensor, " n"]
    place: Int[Tensor, " n"]


@dataclass(frozen=True)
class Branched:
    """What some branches say: logits [n, d_vocab] of which text and which of its branches, each [n]."""

    text: Int[Tensor, " n"]
    branch: Int[Tensor, " n"]
    logits: Float[Tensor, "n d_vocab"]


Edit = Callable[[Float[Tensor, "n width"], At], Float[Tensor, "n width"]]
Edits = Mapping[str, Edit]


@dataclass(frozen=True)
class EditedTexts:
    """Texts to be edited. tokens: ids of B texts, unpadded. places: of each the tokens that are edited, ascending.

    read [B]: the token whose logits are wanted; no edited one lies behind it. Raises BadInput.
    """

    tokens: Sequence[NDArray[np.int64]]
    places: Sequence[NDArray[np.int64]]
    read: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.places) == len(self.read):
            raise BadInput(
                f"texts to edit need places and a token to read for each; found {len(self.tokens)} texts, "
                f"{len(self.places)} and {len(self.read)}."
            )
        for i, (ids, places, read) in enumerate(zip(self.tokens, self.places, self.read, strict=True)):
            if not len(places) or places[0] < 0 or (np.diff(places) <= 0).any() or read >= len(ids):
                raise BadInput(
                    f"text {i} of {len(ids)} tokens is edited at {list(places)} and read at {read}: name one or more "
                    "of its tokens, in order."
                )
            if places[-1] > read:
                raise BadInput(
                    f"text {i} is read at token {read} and edited at {int(places[-1])}, which lies behind it, so "
                    "nothing can change: read it at the edited token, or later."
                )

    def __len__(self) -> int:
        return len(self.tokens)

    def some(self, at: Sequence[int] | NDArray[np.int64]) -> "EditedTexts":
        """The texts at these places."""
        return EditedTexts([self.tokens[i] for i in at], [self.places[i] for i in at], self.read[np.asarray(at)])

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The first edited token of each: [B]."""
        return np.array([places[0] for places in self.places])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens up to the one that is read, [B]."""
        return self.read + 1


class Trunk:
    """A batch of texts, run once. hooks: where edits are to come, some of them or all together. grad: whether gradients
    flow from the logits to what is written. tokens: those whose logits are wanted; all others are told as 0."""

    def __init__(
        self, model: "Model", texts: EditedTexts, hooks: Sequence[str], way: "Way", grad: bool = False,
        tokens: Int[Tensor, " k"] | None = None,
    ) -> None:  # fmt: skip
        self._tokens = None if tokens is None or 2 * len(tokens) > model.d_vocab else tokens.to(model.device)
        self.model, self.texts, self.way, self.grad = model, texts, way, grad
        device = model.device
        self.width = int((texts.read - texts.first).max()) + 1  # columns of one branch
        self.n_before = int(texts.first.max())
        self._pad = torch.from_numpy(self.width - 1 - (texts.read - texts.first)).to(device)
        self._cut = [ids[:length] for ids, length in zip(texts.tokens, texts.lengths, strict=True)]
        self.entries: dict[int, Tensor] = {}
        self.keys: list[tuple[Tensor, Tensor]] = []
        if way.branches:
            self._run(sorted({HookPoint.parse(name).entry for name in hooks} - {0}))

    def _run(self, entries: Sequence[int]) -> None:
        """One forward over the whole texts."""
        from transformers import DynamicCache

        ids, mask = pad_right(self.model, self._cut)
        column = (torch.from_numpy(self.texts.read).to(ids.device)[:, None] - self.width + 1) + torch.arange(
            self.width, device=ids.device
        )
        at = torch.arange(len(ids), device=ids.device)[:, None], column.clamp_min(0)

        def keep(entry: int) -> Callable[[Tensor], None]:
            def take(output: Tensor) -> None:
                self.entries[entry] = output[at]

            return take

        # what enters a block is what the block below it ended with, and behind the last one there is no block
        names = {HookPoint.within(entry - 1, "hook_resid_post").name: keep(entry) for entry in entries}
        cache = DynamicCache() if self.n_before else None
        given: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        with self.model.hooked(names, self.way.backend, grad=self.grad):
            self.model.forward(ids, mask, ids.new_zeros(1), backend=self.way.backend, **given)
        if cache is not None:
            filled: list[Any] = cache.layers
            self.keys = [(layer.keys[:, :, : self.n_before], layer.values[:, :, : self.n_before]) for layer in filled]

    def some(self, at: Int[Tensor, " n"]) -> "Trunk":
        """The same of the texts at these places; one may come several times."""
        part = copy.copy(self)
        part.texts, on = self.texts.some(at.numpy()), at.to(self.model.device)
        part._pad, part._cut = self._pad[on], [self._cut[i] for i in at.tolist()]
        part.entries = {layer: entry[on] for layer, entry in self.entries.items()}
        part.keys = [(keys[on], values[on]) for keys, values in self.keys]
        for name in ("_ids", "_position"):  # of the texts that there were
            part.__dict__.pop(name, None)
        return part

    def branch(self, edits: Edits, n_branches: int = 1) -> Iterator[Branched]:
        """Logits of `n_branches` of every text, some at a time, with `edits` at its places.

        An edit sees what the edits below it made. Raises BadInput for one that gives another shape, or logits that are
        not finite.
        """
        b = len(self.texts)
        columns = self.width if self.way.branches else int(self.texts.lengths.max())
        room = min(MOST_LOGITS // (self.model.d_vocab * b), most_tokens(self.model, MOST_TOKENS) // (b * columns))
        step = max(1, min(room, MOST_COLUMNS // columns) if self.way.branches else room)
        for start in range(0, n_branches, step):
            some = torch.arange(start, min(start + step, n_branches))
            run = self._branches if self.way.branches else self._whole
            logits = self._widened(run(edits, some))
            if not self.grad and not torch.isfinite(logits).all():
                raise BadInput(f"the edits at {', '.join(edits) or 'no hook'} give logits that are not finite.")
            yield Branched(torch.arange(b).repeat_interleave(len(some)), some.repeat(b), logits)

    def logits(self, edits: Edits, n_branches: int = 1) -> Float[Tensor, "b m d_vocab"]:
        """The same of all branches together, on the CPU in float32: the caller chooses how many texts there are."""
        out = torch.empty(len(self.texts), n_branches, self.model.d_vocab)
        for some in self.branch(edits, n_branches):
            out[some.text, some.branch] = some.logits.float().cpu()
        return out

    def _branches(self, edits: Edits, some: Int[Tensor, " m"]) -> Float[Tensor, "b_m d_vocab"]:
        """Branches of a text as one sequence of queries; each sees what comes before it in the text, and itself."""
        from transformers import DynamicCache

        b, m, width, device = len(self.texts), len(some), self.width, self.model.device
        cache = DynamicCache() if self.keys else None
        for i, (keys, values) in enumerate(self.keys):
            assert cache is not None
            cache.update(keys, values, i)
        given: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        layer = min((HookPoint.parse(name).entry for name in edits), default=0)
        stream = self.entries[layer].repeat(1, m, 1) if layer else None
        seen = self._visible(m)
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=device)
        mask = mask.masked_fill(~seen, torch.finfo(self.model.dtype).min)
        keep = torch.arange(1, m + 1, device=device) * width - 1
        hooks = {name: self._hook(name, edit, some) for name, edit in edits.items()}
        first = HookPoint.within(layer - 1, "hook_resid_post").name
        if stream is not None and first in hooks:  # of a block that is not run
            stream = hooks.pop(first)(stream)
        forward = self.model.backend(self.way.backend)
        narrow = forward.narrowed(self._tokens)
        with forward.entering(layer, stream), narrow, self.model.hooked(hooks, self.way.backend, grad=self.grad):
            logits = forward.run(self._ids.repeat(1, m), mask, keep, position_ids=self._position.repeat(1, m), **given)
        return logits.reshape(b * m, -1)

    def _widened(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n d_vocab"]:
        if self._tokens is None:
            return logits
        return logits.new_zeros(len(logits), self.model.d_vocab).index_copy(1, self._tokens, logits)

    @cached_property
    def _ids(self) -> Int[Tensor, "b width"]:
        """Tokens of a branch, ending with the one that is read."""
        rows = [ids[first:] for ids, first in zip(self._cut, self.texts.first, strict=True)]
        ids = np.stack([np.pad(row, (self.width - len(row), 0), constant_values=self.model.pad_token) for row in rows])
        return torch.from_numpy(ids.astype(np.int64)).to(self.model.device)

    @cached_property
    def _position(self) -> Int[Tensor, "b width"]:
        read = torch.from_numpy(self.texts.read).to(self.model.device)[:, None]
        return (read - self.width + 1 + torch.arange(self.width, device=read.device)).clamp_min(0)

    def _visible(self, m: int) -> Bool[Tensor, "b 1 query key"]:
        """What each column of m branches may attend to: the text before, and its own branch up to itself."""
        device, width = self.model.device, self.width
        column = torch.arange(width, device=device)
        real = column >= self._pad[:, None]  # [b, width]
        own = (column[:, None] >= column) & real[:, None, :] | torch.eye(width, dtype=torch.bool, device=device)
        same = torch.eye(m, dtype=torch.bool, device=device)
        own = (same[None, :, None, :, None] & own[:, None, :, None, :]).reshape(len(own), m * width, m * width)
        first = torch.from_numpy(self.texts.first).to(device)
        before = torch.arange(self.n_before, device=device) < first[:, None]
        before = before[:, None].expand(-1, m * width, -1)
        return torch.cat([before, own], -1)[:, None]

    def _whole(self, edits: Edits, some: Int[Tensor, " m"]) -> Float[Tensor, "b_m d_vocab"]:
        """Every branch a text of its own, from its first token and from the first block on."""
        ids, mask = pad_right(self.model, self._cut)
        m = len(some)
        kept, column = np.unique(self.texts.read, return_inverse=True)
        hooks = {name: self._hook(name, edit, some) for name, edit in edits.items()}
        narrow = self.model.backend(self.way.backend).narrowed(self._tokens)
        with narrow, self.model.hooked(hooks, self.way.backend, grad=self.grad):
            logits = self.model.forward(
                ids.repeat_interleave(m, 0), mask.repeat_interleave(m, 0), torch.from_numpy(kept).to(ids.device),
                backend=self.way.backend,
            )  # fmt: skip
        at = torch.from_numpy(column).to(ids.device).repeat_interleave(m)
        return logits[torch.arange(len(logits), device=ids.device), at]

    def _hook(self, name: str, edit: Edit, some: Int[Tensor, " m"]) -> Callable[[Tensor], Tensor]:
        """The edit as a hook on the edited places of every branch."""
        counts, m = [len(p) for p in self.texts.places], len(some)
        text = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        order = torch.cat([torch.arange(n) for n in counts])
        token = torch.from_numpy(np.concatenate(self.texts.places))
        at = At(text.repeat(m), some.repeat_interleave(len(text)), order.repeat(m))
        nth, token, device = torch.arange(m).repeat_interleave(len(text)), token.repeat(m), self.model.device
        if self.way.branches:
            column = token - torch.from_numpy(self.texts.read)[at.text] + self.width - 1 + nth * self.width
            where = at.text.to(device), column.to(device)
        else:
            where = (at.text * m + nth).to(device), token.to(device)

        return writing(name, edit, where, at)


def writing(
    name: str, edit: Edit, where: tuple[Int[Tensor, " n"], Int[Tensor, " n"]], at: At
) -> Callable[[Tensor], Tensor]:
    """The edit as a hook on activations [batch, token, ...]: where: row and token of each edited one.

    It raises BadInput for an edit that gives another shape.
    """

    def apply(output: Tensor) -> Tensor:
        old = output[where].flatten(1)
        new = edit(old, at)
        if new.shape != old.shape:
            raise BadInput(f"the edit at '{name}' returned {list(new.shape)} for {list(old.shape)}.")
        return output.index_put(where, new.to(output.dtype).reshape(-1, *output.shape[2:]))

    return apply


@dataclass(frozen=True)
class Way:
    """How edited texts are run. backend: whose forward. branches: from the trunk on, or every branch as a whole."""

    backend: str
    branches: bool


def way_of(model: "Model", names: Sequence[str], longest: int) -> Way:
    """The fastest way whose edited logits equal those of hooks in whole texts, found by trial once for each hook point.

    longest: tokens; a model whose attention slides over a window shorter than that is run as a whole.
    """
    slides = longest > _window(model)
    for name in names:
        if name not in model.trials.ways:
            model.trials.ways[name] = _try(model, name)
    ways = [model.trials.ways[name] for name in names]
    backend = "hf" if ways and all(way.backend == "hf" for way in ways) else "bridge"
    return Way(backend, bool(ways) and all(way.branches for way in ways) and not slides)


def _window(model: "Model") -> int:
    """Tokens that every layer's attention sees."""
    config = model.bridge.hf.config
    window = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "sliding_window", None)
    return window if isinstance(window, int) else model.n_ctx


def _try(model: "Model", name: str) -> Way:
    """The fastest way for an edit at one hook point, on two texts of different lengths."""
    longest = min(_window(model), 12)
    drawn = np.random.default_rng(0).integers(0, model.d_vocab, (2, longest))
    short = max(1, longest - 3)
    places = [np.arange(longest // 2, max(longest // 2 + 1, longest - 2)), np.array([short - 1])]
    texts = EditedTexts([drawn[0], drawn[1][:short]], places, np.array([longest - 1, short - 1]))
    factor = torch.linspace(0.5, 2.0, model.widths[name], device=model.device)

    def edit(act: Tensor, at: At) -> Tensor:
        return act * factor.to(act.dtype) * (1 + at.branch.to(act.device)[:, None])

    def logits(way: Way) -> Tensor:
        return Trunk(model, texts, [name], way).logits({name: edit}, 2)

    truth = logits(Way("bridge", False))
    limit = TOLERANCE[model.dtype] * max(1.0, float(truth.abs().max()))
    backends = ("hf", "bridge") if name in (model.plain_names or ()) else ("bridge",)
    for way in (Way(backend, branches) for branches in (True, False) for backend in backends):
        # an architecture without this kind of cache or mask: another way is slower and more general
        with contextlib.suppress(TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError, BadInput):
            if float((logits(way) - truth).abs().max()) <= limit:
                return way
    return Way("bridge", False)
