"""Model: a language model with its tokenizer, read and edited at hook points, one caller at a time."""

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, UnknownHook
from probekit.hookpoint import HookPoint, expand, unknown
from probekit.inputs.text import Encoder
from probekit.model import reading
from probekit.model.audit import Backend, choose_backend, why_not_writable
from probekit.model.branching import EditedTexts, Trunk, Way, way_of
from probekit.model.forward import Bridge, Forward, Plain
from probekit.model.planted import PlantedNetwork, native
from probekit.model.reading import Batch, OnLogits, Room, Skip
from probekit.records import canonical


@dataclass
class Trials:
    """What was found out about a model by trying, and is not tried again.

    ways: how edits at a hook point are run. refusals: hook point -> why it cannot be written, '' where it can. manners:
    how each forward writes.
    """

    ways: dict[str, Way] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    manners: dict[str, Any] = field(default_factory=dict)


class Model:
    """A causal language model behind named hook points, in evaluation mode, its weights as they were stored.

    name, revision, adapter: as asked for. source: the folder or hub name behind it. bos, eos: policy of the `encoder`.
    tokenizer: None when the checkpoint has none. widths: hook point -> number of values per token. hook_names: the hook
    points, in forward order. bridge, plain: its two forwards; plain is None for planted weights. weights: by the names
    of the checkpoint.
    """

    def __init__(
        self, hf: Any, *, name: str, source: str = "./model", revision: str = "", bos: str = "as_is",
        eos: str = "as_is", tokenizer: Any = None, adapter: str = "",
    ) -> None:  # fmt: skip
        self.name, self.revision, self.bos, self.eos, self.tokenizer = name, revision, bos, eos, tokenizer
        self.adapter = adapter
        self.source = source  # a path or a hub name: a bare name may be an alias of another model to TransformerLens
        self.lock = threading.RLock()
        # Bridging renames the submodules, so the weights are listed under their own names first.
        self.weights = {**dict(hf.named_parameters()), **dict(hf.named_buffers())}
        self._config = copy.deepcopy(hf.config)
        text = self._config.get_text_config()
        self.plain = None if isinstance(hf, PlantedNetwork) else Plain(hf.eval())
        self.bridge = Bridge(hf, source, getattr(text, "max_position_embeddings", None))
        if self.plain:
            self.plain.locate(self.bridge)
        self.n_layers = int(self.bridge.module.cfg.n_layers)
        self.d_model = int(self.bridge.module.cfg.d_model)
        self.n_ctx = self.bridge.n_ctx
        self.d_vocab = int(self.bridge.hf.get_output_embeddings().weight.shape[0])
        pad = text.pad_token_id
        self.pad_token = pad if isinstance(pad, int) and 0 <= pad < self.d_vocab else 0
        self.widths = self.bridge.sizes
        self.hook_names = [hook.name for hook in sorted(map(HookPoint.parse, self.widths), key=lambda h: h.order)]
        self.trials = Trials()

    # What it is -----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        size = f"{self.n_layers} layers, width {self.d_model}, {self.d_vocab:,} tokens"
        return f"<Model {self.name}: {size}, {len(self.hook_names)} hook points>"

    @property
    def device(self) -> torch.device:
        return next(self.bridge.hf.parameters()).device

    @property
    def is_spread(self) -> bool:
        """Whether its weights are on several devices: it is read, and not edited."""
        return len({parameter.device for parameter in self.bridge.hf.parameters()}) > 1

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights themselves: the configuration's word for it can be wrong."""
        return next(p.dtype for p in self.bridge.hf.parameters() if p.is_floating_point())

    def attention(self, backend: str = "bridge") -> str:
        """The attention implementation that runs: eager through the bridge, whose hooks on patterns need it."""
        return self.backend(backend).attention

    @property
    def fingerprint(self) -> str:
        """Digest of the weights in memory and the configuration, 32 hexadecimal digits. Computed anew at each call."""
        from blake3 import blake3

        hasher = blake3(canonical(_plain_config(self._config)).encode())
        for name in sorted(self.weights):
            value = self.weights[name].detach()
            hasher.update(canonical([name, str(value.dtype), list(value.shape)]).encode())
            hasher.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return hasher.hexdigest()[:32]

    def random_twin(self, seed: int) -> "Model":
        """The same architecture, tokenizer and dtype with the library's own random initialisation."""
        name = f"{self.name}@random{seed}"
        if self.plain is None:
            return Model(native(copy.deepcopy(self._config), seed), name=name)
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            hf = AutoModelForCausalLM.from_config(copy.deepcopy(self._config), attn_implementation="eager")
        hf = hf.to(dtype=self.dtype).eval()
        placed = getattr(self.bridge.hf, "hf_device_map", None) if self.is_spread else None
        if placed:
            from accelerate import dispatch_model

            hf = dispatch_model(hf, placed)
        else:
            hf = hf.to(self.device)
        return Model(hf, name=name, source=self.source, bos=self.bos, eos=self.eos, tokenizer=self.tokenizer)

    def hooks(self, asked: str | HookPoint | Sequence[str | HookPoint]) -> list[HookPoint]:
        """Resolve hook names and patterns in forward order; raises UnknownHook."""
        asked = [asked] if isinstance(asked, str | HookPoint) else asked
        return expand([str(hook) for hook in asked], self.hook_names, self.name)

    def check_readable(self, names: Sequence[str]) -> None:
        """Raise UnknownHook for a name that the model does not have."""
        for name in names:
            if name not in self.widths:
                raise UnknownHook(unknown(name, self.hook_names, self.name))

    @property
    def plain_names(self) -> frozenset[str] | None:
        """The hook points that the library's own forward can give too; None where the model has no such forward."""
        return None if self.plain is None else frozenset(self.plain.places)

    # Its tokens -----------------------------------------------------------------------------------------------------

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer with the model's BOS policy and context length. Raises BadInput without a tokenizer."""
        return Encoder(self.tokenizer, self.bos, self.n_ctx, self.name, self.eos)

    def token_names(self, ids: Sequence[int]) -> list[str]:
        """Names of token ids: the tokenizer's pieces, or the numbers where there is no tokenizer."""
        if self.tokenizer is None:
            return [str(i) for i in ids]
        pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
        return [str(i) if piece is None else str(piece) for i, piece in zip(ids, pieces, strict=True)]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Input embeddings of token ids: [n, d]."""
        table = self.bridge.hf.get_input_embeddings().weight
        return table[torch.from_numpy(ids).to(table.device)].detach().float().cpu().numpy()

    # Reading and editing ---------------------------------------------------------------------------------------------

    def read(
        self,
        tokens: Sequence[NDArray[Any]],
        hooks: Sequence[HookPoint | str],
        positions: Sequence[NDArray[Any]],
        *,
        on_logits: OnLogits | None = None,
        batch_tokens: int = 4096,
        backend: str | Backend = "bridge",
    ) -> dict[str, Float[Tensor, "n_rows width"]]:
        """Activations at `positions` of each example, one row per (example, position) in the order given.

        tokens: unpadded ids. hooks: exact names. on_logits gets (logits [n, d_vocab], rows [n]) for each batch, rows
        being indices into the result. Results lie on the CPU in the model's dtype, and values with two dimensions per
        token (hook_z of some models) are flattened. Batches hold examples of similar length, longest first, up to
        `batch_tokens` tokens; one that runs out of memory is halved. backend: `bridge`; `hf`, the library's plain
        forward with the same names; `auto`, that one where `choose_backend` finds both alike on some of the examples;
        or what it said.
        Raises UnknownHook, and BadInput for bad tokens or positions, a hook that did not fire exactly once, or a value
        that is not finite.
        """
        names = [str(hook) for hook in hooks]
        self.check_readable(names)
        reading.check_tokens(self, tokens, positions)
        if isinstance(backend, str):
            backend = choose_backend(self, backend, names, tokens)
        return reading.gather(self, tokens, names, positions, on_logits, batch_tokens, backend.name)

    def stream(
        self, tokens: Sequence[NDArray[Any]], names: Sequence[str], positions: Sequence[NDArray[Any]],
        each: Callable[[Batch], None], *, with_logits: bool = False, batch_tokens: int = 4096, backend: str = "bridge",
        room: Room | None = None, skip: Skip | None = None, answer: NDArray[np.int64] | None = None,
    ) -> int:  # fmt: skip
        """`read`, batch by batch: see `reading.stream`. backend is `bridge` or `hf`; nothing is compared here."""
        self.check_readable(names)
        reading.check_tokens(self, tokens, positions)
        return reading.stream(self, tokens, names, positions, each, with_logits=with_logits, batch_tokens=batch_tokens,
                              backend=backend, room=room, skip=skip, answer=answer)  # fmt: skip

    def trunk(
        self, texts: EditedTexts, hooks: Sequence[str], grad: bool = False, tokens: Int[Tensor, " k"] | None = None
    ) -> Trunk:
        """A batch of texts run once, to be edited at `hooks` again and again: see `branching.Trunk`.

        Raises UnknownHook, and BadInput for a hook point that cannot be written.
        """
        for name in hooks:
            self.check_writable(name)
        with self.lock:
            return Trunk(self, texts, hooks, way_of(self, hooks, int(texts.lengths.max())), grad, tokens)

    def check_writable(self, hook: HookPoint | str) -> None:
        """Raise BadInput when a write at `hook` would not do what its name promises: see `audit.why_not_writable`."""
        name = str(hook)
        self.check_readable([name])
        if name not in self.trials.refusals:
            self.trials.refusals[name] = why_not_writable(self, HookPoint.parse(name))
        if self.trials.refusals[name]:
            raise BadInput(f"{self.name}: '{name}' can be read but not written: {self.trials.refusals[name]}")

    # Forward passes, one at a time -----------------------------------------------------------------------------------

    def backend(self, name: str) -> Forward:
        """The forward of that name, `bridge` or `hf`: a model of planted weights has the bridge's alone."""
        return self.plain if name == "hf" and self.plain is not None else self.bridge

    def forward(
        self, ids: Tensor, mask: Tensor, keep: Tensor | None = None, *, backend: str = "bridge", **given: Any
    ) -> Tensor:
        """Logits of one forward (`Forward.run`)."""
        return self.backend(backend).run(ids, mask, keep, **given)

    @contextlib.contextmanager
    def hooked(
        self, functions: Mapping[str, Callable[[Tensor], Tensor | None]], backend: str = "bridge", grad: bool = False
    ) -> Iterator[None]:
        """Install one function per hook point for one forward, under the lock, and check that each fired once.

        grad: whether gradients flow through what the functions give; the weights have none.
        """
        fired = dict.fromkeys(functions, 0)

        def counted(name: str, function: Callable) -> Callable:
            def call(output: Tensor) -> Tensor | None:
                fired[name] += 1
                return function(output)

            return call

        with self.lock, torch.inference_mode(not grad):
            self.check_clean()
            handles = []
            try:
                for name, function in functions.items():
                    handles.append(self.backend(backend).attach(name, counted(name, function)))
                yield
            finally:
                for handle in handles:
                    handle.remove()
                self.bridge.clear()
            wrong = [f"'{name}' {n} times" for name, n in fired.items() if n != 1]
            if wrong:
                raise BadInput(f"{self.name}: each hook must fire once per forward; fired: {', '.join(wrong)}.")

    def check_clean(self) -> None:
        """Raise BadInput in training mode, and for hooks that other code has attached."""
        if self.bridge.hf.training:
            raise BadInput(f"{self.name} is in training mode: call eval() first.")
        if self.bridge.foreign_hooks():
            raise BadInput(f"{self.name} has a hook attached by other code: remove it first.")


def _plain_config(config: Any) -> dict[str, Any]:
    """The configuration without what says where it came from."""
    dropped = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    return json.loads(json.dumps({k: v for k, v in config.to_dict().items() if k not in dropped}, default=str))
