"""Forwards: two ways to run the same weights, the bridge's and the library's own, with hooks under the same names.

The bridge (TransformerLens) names every place. The library's own forward has fast attention, and holds the places that
stand before or after one of its modules. They are found by the identity of that module, so no architecture is listed.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probekit.errors import BadInput, first_line
from probekit.hookpoint import HookPoint
from probekit.model.planted import PlantedNetwork

Place = tuple[str, Literal["in", "out"]]

# Left out: square maps, whose width changes with the length, and the unembedding, which runs at few positions only.
_NO_ROWS = ("hook_attn_scores", "hook_pattern", "hook_unembed", "unembed.hook_in")


class Forward:
    """A causal language model, `hf`, that is run and watched at named places."""

    hf: Any
    _as_tuple: bool | None = None  # how a block gives the stream, found out once

    @property
    def attention(self) -> str:
        """The attention implementation that runs."""
        return str(self.hf.config._attn_implementation)

    def run(self, ids: Tensor, mask: Tensor, keep: Tensor | None = None, **given: Any) -> Tensor:
        """Logits [n, kept, d_vocab]: at the positions `keep`, or at all. given: a cache and its positions."""
        if keep is not None and len({p.device for p in (self.hf.get_input_embeddings().weight, self._last)}) > 1:
            # an index on the first device cannot pick rows on the last one
            return self.run(ids, mask, **given)[:, keep.cpu()]
        kept = {} if keep is None else {"logits_to_keep": keep}
        return self.hf(input_ids=ids, attention_mask=mask, **({"use_cache": False} | kept | given)).logits

    @property
    def _last(self) -> Tensor:
        return self.hf.get_output_embeddings().weight

    def attach(self, name: str, function: Callable[[Any], Any]) -> Any:
        """Call `function` with the activation at `name` in every forward until the handle's `remove`."""
        raise NotImplementedError

    def block(self, layer: int) -> torch.nn.Module:
        """The module that is one block. Raises AttributeError where there is none."""
        raise NotImplementedError

    @contextlib.contextmanager
    def entering(self, layer: int, stream: Tensor | None) -> Iterator[None]:
        """Run no block below `layer`, which gets `stream` [b, pos, d_model] in their place."""
        if self._as_tuple is None and layer:
            self._as_tuple = self._gives_tuples()
        given = (stream,) if self._as_tuple else stream
        blocks = [self.block(i) for i in range(layer)]
        try:
            for block in blocks:  # past `__setattr__`, by which a bridged block would hand it to the library's own
                vars(block)["forward"] = lambda *args, **kwargs: given
            yield
        finally:
            for block in blocks:
                vars(block).pop("forward", None)

    @contextlib.contextmanager
    def narrowed(self, tokens: Tensor | None) -> Iterator[None]:
        """Compute logits of these token ids alone, in their order; of all when None."""
        if tokens is None:
            yield
            return
        head = self.hf.get_output_embeddings()
        weight, bias = head.weight[tokens], getattr(head, "bias", None)
        bias = None if bias is None else bias[tokens]
        vars(head)["forward"] = lambda x: torch.nn.functional.linear(x, weight, bias)
        try:
            yield
        finally:
            vars(head).pop("forward", None)

    def _gives_tuples(self) -> bool:
        seen: list[bool] = []
        handle = self.block(0).register_forward_hook(lambda *call: seen.append(isinstance(call[-1], tuple)))
        ids = torch.zeros(1, 1, dtype=torch.long, device=next(self.hf.parameters()).device)
        try:
            with torch.inference_mode():
                self.run(ids, torch.ones_like(ids))
        finally:
            handle.remove()
            self.clear()
        return seen[0]

    def clear(self) -> None:
        """Let go of what a forward leaves behind."""

    def widths(self, names: Iterable[str], n_ctx: int) -> dict[str, int]:
        """Widths of the places that fire once in a forward on [2, 5] tokens, with one row for each."""
        shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}

        def note(name: str) -> Callable[[Any], None]:
            return lambda output: shapes[name].append(tuple(output.shape) if isinstance(output, Tensor) else ())

        handles = [self.attach(name, note(name)) for name in shapes]
        ids = torch.zeros(2, min(5, n_ctx), dtype=torch.long, device=next(self.hf.parameters()).device)
        try:
            with torch.inference_mode():
                # one kept position: what lies behind the choice of logits has no row for the other tokens
                self.run(ids, torch.ones_like(ids), ids.new_zeros(1))
        finally:
            for handle in handles:
                handle.remove()
            self.clear()
        once = {name: seen[0] for name, seen in shapes.items() if len(seen) == 1}
        return {name: int(np.prod(s[2:])) for name, s in once.items() if len(s) >= 3 and s[:2] == tuple(ids.shape)}


class Bridge(Forward):
    """TransformerLens's forward of `hf`, whose modules it replaces.

    module: the bridge itself. points: hook point -> what holds its hooks. sizes: hook point -> values per token.
    """

    def __init__(self, hf: Any, name: str, n_ctx: int | None) -> None:
        self.module = hf.bridge if isinstance(hf, PlantedNetwork) else _bridge(hf, name)
        self.hf = (hf if isinstance(hf, PlantedNetwork) else self.module.original_model).eval()
        for parameter in self.hf.parameters():
            parameter.requires_grad_(False)
        self.n_ctx = int(n_ctx or self.module.cfg.n_ctx)
        known = dict(self.module.hook_dict)
        # the classical name (hook_resid_post) comes later in the registry than the module's own (hook_out)
        names = {id(point): name for name, point in known.items()}
        self.points = {name: known[name] for name in names.values() if not name.endswith(_NO_ROWS)}
        self.sizes = self.widths(self.points, self.n_ctx)
        self.points = {name: self.points[name] for name in self.sizes}
        # The bridge itself routes some places through hooks (BERT's MLP): only what comes later is foreign.
        self._own_hooks = [(point, _attached(point)) for point in known.values()]

    def attach(self, name: str, function: Callable[[Any], Any]) -> Any:
        return self.points[name].register_forward_hook(lambda module, args, output: function(output))

    def block(self, layer: int) -> torch.nn.Module:
        return self.module.blocks[layer]

    def foreign_hooks(self) -> bool:
        """Whether other code has attached hooks, which would change what is read."""
        return any(_attached(point) != own for point, own in self._own_hooks)

    def clear(self) -> None:
        # Fused-QKV bridges keep each layer's attention pattern alive after a forward.
        for block in self.module.blocks:
            attention = getattr(block, "attn", None)
            if attention is not None and getattr(attention, "_pattern", None) is not None:
                attention._pattern = None


class Plain(Forward):
    """The library's own forward, sharing every weight with `hf`; to be made before `hf` is bridged.

    places: hook point -> the module's path in the library's model, and whether its first input or its output is meant.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = copy.deepcopy(hf, {id(t): t for t in (*hf.parameters(), *hf.buffers())})
        with contextlib.suppress(ValueError):  # Gemma 2, say, whose soft cap it lacks, has an eager forward only
            self.hf.set_attn_implementation("sdpa")
        self._paths = {id(module): path for path, module in hf.named_modules()}
        self.places: dict[str, Place] = {}

    def locate(self, bridge: Bridge) -> None:
        """Find the places of the bridge's hook points, now that there is one: those that hold as many values."""
        sides: dict[int, Place] = {}
        for module in bridge.module.modules():
            path = self._paths.get(id(getattr(module, "original_component", None)))
            if path is not None:
                sides[id(getattr(module, "hook_in", None))] = (path, "in")
                sides[id(getattr(module, "hook_out", None))] = (path, "out")
        self.places = {name: sides[id(point)] for name, point in bridge.points.items() if id(point) in sides}
        found = self.widths(self.places, bridge.n_ctx)
        self.places = {name: place for name, place in self.places.items() if found.get(name) == bridge.sizes[name]}

    def attach(self, name: str, function: Callable[[Any], Any]) -> Any:
        path, side = self.places[name]
        module = self.hf.get_submodule(path)
        if side == "in":

            def before(module: torch.nn.Module, args: tuple, kwargs: dict) -> Any:
                new = function(args[0] if args else kwargs.get("hidden_states"))
                if new is None:
                    return None
                return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: torch.nn.Module, args: tuple, output: Any) -> Any:
            if not isinstance(output, tuple):
                return function(output)
            new = function(output[0])
            return None if new is None else (new, *output[1:])

        return module.register_forward_hook(after)

    def read_in(self, name: str) -> Tensor | None:
        """What reads a hook point [d, r] where that is one matrix, which reads fewer directions than there are."""
        path, side = self.places.get(name, ("", "out"))
        module = self.hf.get_submodule(path)
        weight = getattr(module, "weight", None)
        if side != "in" or weight is None or weight.ndim != 2:
            return None
        reads = weight if type(module).__name__ == "Conv1D" else weight.T  # GPT-2's own is written the other way
        return reads.detach() if reads.shape[1] < reads.shape[0] else None

    def block(self, layer: int) -> torch.nn.Module:
        path, side = self.places[HookPoint.within(layer, "hook_resid_pre").name]
        if side != "in":
            raise AttributeError(f"no module of its own is block {layer}")
        return self.hf.get_submodule(path)


def _attached(point: Any) -> list[int]:
    return [*point._forward_hooks, *point._forward_pre_hooks]


def _bridge(hf: Any, name: str) -> Any:
    """Wrap a Hugging Face model. The bridge gets a placeholder tokenizer: tokenising is done here, by our own rules."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    placeholder = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<none>": 0}, unk_token="<none>")),
        unk_token="<none>", eos_token="<none>", pad_token="<none>",
    )  # fmt: skip
    try:
        return TransformerBridge.boot_transformers(
            name, hf_model=hf, tokenizer=placeholder, dtype=hf.dtype, device=str(hf.device)
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise BadInput(f"TransformerLens does not know {name}'s architecture ({first_line(error)}).") from None
