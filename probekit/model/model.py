"""Model: a language model with its tokenizer, read and edited at hook points, one caller at a time."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, UnknownHook, nearest
from probekit.hookpoint import HookPoint, expand
from probekit.inputs.folders import model_folder
from probekit.inputs.text import BOS, Encoder, Tokenised
from probekit.model.audit import STREAM, TOLERANCE, Backend, choose_backend
from probekit.model.forward import Plain
from probekit.model.loading import check_weights, first_line, load_tokenizer, load_weights, plain_config
from probekit.model.planted import Planted
from probekit.model.reading import Batch, Room, Skip, stream
from probekit.records import canonical

Edit = Callable[[Tensor], Tensor]
OnLogits = Callable[[Tensor, NDArray[np.int64]], None]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


# Left out: square maps, whose width changes with the length, and the unembedding, which runs at few positions only.
_NO_ROWS = ("hook_attn_scores", "hook_pattern", "hook_unembed", "unembed.hook_in")


@dataclass(frozen=True)
class Prefix:
    """Everything before the last token of B rows of equal length, run once. tokens: [B, T] with the last token."""

    tokens: Int[Tensor, "b t"]
    cache: Any
    method: str


def load_model(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    bos: str = "as_is",
) -> "Model":
    """Load a bundled testbed, a folder in Hugging Face format, or a model of the hub by name.

    A folder needs config.json and safetensors weights; a tokenizer is optional. revision: of a hub model. dtype:
    float32 or bfloat16. device: cpu, cuda, cuda:1 ... bos: as_is, exactly_one or none. Raises BadInput when it cannot
    be had.

    >>> import probekit as pk
    >>> model = pk.load_model("othello-6x6")
    >>> model.name, model.d_vocab
    ('othello-6x6', 33)
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype is one of {', '.join(DTYPES)}; found '{dtype}'.")
    if bos not in BOS:
        raise BadInput(f"bos is one of {', '.join(BOS)}; found '{bos}'.")
    name = str(name_or_folder)
    folder = model_folder(name)
    if folder:
        check_weights(folder)
    source = str(folder) if folder else name
    hf = load_weights(name, source, folder is not None, revision, DTYPES[dtype])
    tokenizer = load_tokenizer(source, folder, revision)
    shown = Path(name).name if folder else name
    hf = hf.to(device).eval()
    return Model(hf, name=shown, source=source, revision=revision or "", bos=bos, tokenizer=tokenizer)


def plant_model(weights: Mapping[str, Tensor], *, n_heads: int, n_ctx: int, name: str) -> "Model":
    """A transformer with hand-set weights: pre-norm blocks without the norm, ReLU, one MLP width.

    weights: by the names of TransformerLens's native model (`tok_embed.weight`, `layers.0.attn.v.weight`,
    `layers.0.mlp.fc_in.bias`, `head.weight`, ...), each [out, in]; those left out are 0.
    """
    from transformers import PretrainedConfig

    d_vocab, d_model = weights["tok_embed.weight"].shape
    shape: dict[str, Any] = {
        "architectures": ["Planted"], "attn_implementation": "eager", "pad_token_id": 0,
        "vocab_size": d_vocab, "hidden_size": d_model, "num_attention_heads": n_heads, "max_position_embeddings": n_ctx,
        "num_hidden_layers": 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("layers.")),
        "head_dim": weights["layers.0.attn.v.weight"].shape[0] // n_heads,
        "intermediate_size": weights["layers.0.mlp.fc_in.weight"].shape[0],
    }  # fmt: skip
    config = PretrainedConfig(**shape)
    hf = _native(config, 0)
    hf.set_weights(weights)
    return Model(hf, name=name)


class Model:
    """A causal language model behind named hook points, in evaluation mode, its weights as they were stored.

    name, revision: as asked for. bos: policy of `tokenise`. tokenizer: None when the checkpoint has none.
    widths: hook point -> number of values per token. hook_names: the hook points, in forward order.
    """

    def __init__(
        self, hf: Any, *, name: str, source: str = "./model", revision: str = "", bos: str = "as_is",
        tokenizer: Any = None,
    ) -> None:  # fmt: skip
        self.name, self.revision, self.bos, self.tokenizer = name, revision, bos, tokenizer
        self._source = source  # a path or a hub name: a bare name may be an alias of another model to TransformerLens
        self.lock = threading.RLock()
        # Bridging renames the submodules, so the weights are listed under their own names first.
        self._weights = {**dict(hf.named_parameters()), **dict(hf.named_buffers())}
        self._config = copy.deepcopy(hf.config)
        self._plain = None if isinstance(hf, Planted) else Plain(hf.eval())
        self._bridge = hf.bridge if isinstance(hf, Planted) else _bridge(hf, source)
        self._hf = hf.eval() if isinstance(hf, Planted) else self._bridge.original_model.eval()
        for parameter in self._hf.parameters():
            parameter.requires_grad_(False)
        text = self._config.get_text_config()
        self.n_layers = int(self._bridge.cfg.n_layers)
        self.d_model = int(self._bridge.cfg.d_model)
        self.n_ctx = int(getattr(text, "max_position_embeddings", None) or self._bridge.cfg.n_ctx)
        self.d_vocab = int(self._hf.get_output_embeddings().weight.shape[0])
        self.architecture = str((self._config.architectures or [type(hf).__name__])[0])
        pad = text.pad_token_id
        self._pad = pad if isinstance(pad, int) and 0 <= pad < self.d_vocab else 0
        self._method: str | None = None  # of `prefix`, settled by trial on first use
        self._write_test: dict[str, str] = {}
        self._points, self.widths = self._find_hooks()
        if self._plain:
            self._plain.locate(self._bridge, self._points)
            found = self._trial(self._plain.places, self._plain.attach, "hf")
            self._plain.places = {n: p for n, p in self._plain.places.items() if found.get(n) == self.widths[n]}
        self.hook_names = [hook.name for hook in sorted(map(HookPoint.parse, self.widths), key=lambda h: h.order)]

    @property
    def device(self) -> torch.device:
        return next(self._hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights themselves: the configuration's word for it can be wrong."""
        return next(p.dtype for p in self._hf.parameters() if p.is_floating_point())

    def attention(self, backend: str = "bridge") -> str:
        """The attention implementation that runs: eager through the bridge, whose hooks on patterns need it."""
        hf = self._plain if backend == "hf" and self._plain is not None else None
        return hf.attention if hf else str(self._hf.config._attn_implementation)

    @property
    def fingerprint(self) -> str:
        """Digest of the weights in memory and the configuration, 32 hexadecimal digits. Computed anew at each call."""
        from blake3 import blake3

        hasher = blake3(canonical(plain_config(self._config)).encode())
        for name in sorted(self._weights):
            value = self._weights[name].detach()
            hasher.update(canonical([name, str(value.dtype), list(value.shape)]).encode())
            hasher.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return hasher.hexdigest()[:32]

    def random_twin(self, seed: int) -> "Model":
        """The same architecture, tokenizer and dtype with the library's own random initialisation."""
        name = f"{self.name}@random{seed}"
        if isinstance(self._hf, Planted):
            return Model(_native(copy.deepcopy(self._config), seed), name=name)
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            hf = AutoModelForCausalLM.from_config(copy.deepcopy(self._config), attn_implementation="eager")
        hf = hf.to(device=self.device, dtype=self.dtype).eval()
        return Model(hf, name=name, source=self._source, bos=self.bos, tokenizer=self.tokenizer)

    def hooks(self, asked: str | HookPoint | Sequence[str | HookPoint]) -> list[HookPoint]:
        """Resolve hook names and patterns in forward order; raises UnknownHook."""
        asked = [asked] if isinstance(asked, str | HookPoint) else asked
        return expand([str(hook) for hook in asked], self.hook_names, self.name)

    def token_names(self, ids: Sequence[int]) -> list[str]:
        """Names of token ids: the tokenizer's pieces, or the numbers where there is no tokenizer."""
        if self.tokenizer is None:
            return [str(i) for i in ids]
        pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
        return [str(i) if piece is None else str(piece) for i, piece in zip(ids, pieces, strict=True)]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Input embeddings of token ids: [n, d]."""
        table = self._hf.get_input_embeddings().weight
        return table[torch.from_numpy(ids).to(table.device)].detach().float().cpu().numpy()

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer with the model's BOS policy and context length. Raises BadInput without a tokenizer."""
        return Encoder(self.tokenizer, self.bos, self.n_ctx, self.name)

    def tokenise(self, texts: Sequence[str]) -> Tokenised:
        """Tokenise with the model's BOS policy (`Encoder.encode`); rows beyond the context length are cut and counted.

        Raises BadInput without a tokenizer, for an empty row, or without a BOS when one is asked.
        """
        made = self.encoder.encode(texts)
        offsets = made.offsets and [rows[: self.n_ctx] for rows in made.offsets]
        n_truncated = sum(len(ids) > self.n_ctx for ids in made.tokens)
        cut = [ids[: self.n_ctx] for ids in made.tokens]
        return replace(made, tokens=cut, offsets=offsets, n_truncated=n_truncated)

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
        self.check_tokens(tokens, positions)
        if isinstance(backend, str):
            backend = choose_backend(self, backend, names, tokens)
        out = {name: torch.empty(sum(map(len, positions)), self.widths[name], dtype=self.dtype) for name in names}

        def keep(batch: Batch) -> None:
            index = torch.from_numpy(batch.rows)
            for name, values in batch.values.items():
                out[name][index] = values
            if on_logits and batch.logits is not None:
                on_logits(batch.logits, batch.rows)

        self.stream(tokens, names, positions, keep, with_logits=on_logits is not None, batch_tokens=batch_tokens,
                    backend=backend.name)  # fmt: skip
        return out

    def stream(
        self,
        tokens: Sequence[NDArray[Any]],
        names: Sequence[str],
        positions: Sequence[NDArray[Any]],
        each: Callable[[Batch], None],
        *,
        with_logits: bool = False,
        batch_tokens: int = 4096,
        backend: str = "bridge",
        room: Room | None = None,
        skip: Skip | None = None,
    ) -> int:
        """`read`, batch by batch: see `reading.stream`. backend is `bridge` or `hf`; nothing is compared here."""
        self.check_readable(names)
        self.check_tokens(tokens, positions)
        return stream(self, tokens, names, positions, each, with_logits=with_logits, batch_tokens=batch_tokens,
                      backend=backend, room=room, skip=skip)  # fmt: skip

    def check_readable(self, names: Sequence[str]) -> None:
        """Raise UnknownHook for a name that the model does not have."""
        for name in names:
            if name not in self.widths:
                raise UnknownHook(self._unknown(name))

    @property
    def plain_names(self) -> frozenset[str] | None:
        """The hook points that the library's plain forward can give too; None where the model has no such forward."""
        return None if self._plain is None else frozenset(self._plain.places)

    def hidden_states(self, row: NDArray[np.integer]) -> list[Float[Tensor, "pos d_model"]]:
        """The library's own hidden states of one example, from its plain forward; none where the model has none."""
        if self._plain is None:
            return []
        ids, mask = self._pad_right([row])
        with self.lock, torch.inference_mode():
            found = self._plain.hf(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True,
                                   logits_to_keep=1).hidden_states  # fmt: skip
        return [state[0].cpu() for state in found or ()]

    def prefix(self, tokens: Int[Tensor, "b t"]) -> Prefix:
        """Run all but the last token of B rows of equal length, once, for `run_last`.

        How (`method`) is found by trial at first use: `shared` keeps one key-value cache per row and lets all repeats
        attend to it, `repeated` copies that cache (sliding windows), `full` runs whole sequences (models whose cache
        does not reproduce the plain forward).
        """
        tokens = torch.as_tensor(tokens).to(self.device)
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.n_ctx or not tokens.numel():
            raise BadInput(f"a prefix needs tokens [b, t] with t from 1 to {self.n_ctx}; found {list(tokens.shape)}.")
        with self.lock, torch.inference_mode():
            if self._method is None:
                self._method = self._try_methods()
            return self._prefix(tokens, self._method)

    def run_last(
        self, prefix: Prefix, last_token: Int[Tensor, " b"] | None, edits: Mapping[str, Edit], n_repeat: int = 1
    ) -> Float[Tensor, "b_m d_vocab"]:
        """Logits after the last token of each row, run `n_repeat` times with `edits` at that token alone.

        edits: hook point -> function from activations [b * n_repeat, width] to the same shape; row i of the batch owns
        rows i * n_repeat to (i + 1) * n_repeat. An edit sees what the already edited layers below produced. last_token:
        None for the one given to `prefix`. Memory grows with b * n_repeat: the caller chooses b.
        Raises UnknownHook, and BadInput for a hook that cannot be written or an edit of the wrong shape.
        """
        for name in edits:
            self.check_writable(name)
        last = prefix.tokens[:, -1] if last_token is None else torch.as_tensor(last_token).to(self.device)
        if last.shape != prefix.tokens[:, -1].shape or n_repeat < 1:
            raise BadInput(
                f"run_last needs one last token per row ({len(prefix.tokens)}) and n_repeat of at least 1; "
                f"found {list(last.shape)} and {n_repeat}."
            )
        with self.lock, torch.inference_mode():
            logits = self._run_last(prefix, last, edits, n_repeat)
        if not torch.isfinite(logits).all():
            raise BadInput(f"the edits at {', '.join(edits) or 'no hook'} give logits that are not finite.")
        return logits

    def check_writable(self, hook: HookPoint | str) -> None:
        """Raise BadInput when writing at `hook` would not change the forward pass as its name promises.

        The residual stream after a write must be the written value plus what the layers above add; `hook_resid_mid`
        fails, being the input of the MLP branch alone. Tried once per hook, then remembered.
        """
        name = str(hook)
        if name not in self.widths:
            raise UnknownHook(self._unknown(name))
        if name not in self._write_test:
            self._write_test[name] = self._try_write(HookPoint.parse(name))
        if self._write_test[name]:
            raise BadInput(f"{self.name}: '{name}' can be read but not written: {self._write_test[name]}")

    # Forward passes -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _hooked(
        self, functions: Mapping[str, Callable[[Tensor], Tensor | None]], backend: str = "bridge"
    ) -> Iterator[None]:
        """Install one function per hook point for one forward, under the lock, and check that each fired once."""
        fired = dict.fromkeys(functions, 0)

        def counted(name: str, function: Callable) -> Callable:
            def call(output: Tensor) -> Tensor | None:
                fired[name] += 1
                return function(output)

            return call

        with self.lock, torch.inference_mode():
            self._check_clean()
            handles = []
            try:
                for name, function in functions.items():
                    handles.append(self._attach(name, counted(name, function), backend))
                yield
            finally:
                for handle in handles:
                    handle.remove()
                self._clear_patterns()
            wrong = [f"'{name}' {n} times" for name, n in fired.items() if n != 1]
            if wrong:
                raise BadInput(f"{self.name}: each hook must fire once per forward; fired: {', '.join(wrong)}.")

    def _attach(self, name: str, function: Callable, backend: str) -> Any:
        if backend == "hf" and self._plain is not None:
            return self._plain.attach(name, function)
        return self._points[name].register_forward_hook(lambda module, args, output: function(output))

    def _forward(
        self, ids: Tensor, mask: Tensor, keep: Tensor | None = None, *, backend: str = "bridge", **kwargs: Any
    ) -> Tensor:
        if keep is not None:
            kwargs["logits_to_keep"] = keep
        hf = self._plain.hf if backend == "hf" and self._plain is not None else self._hf
        return hf(input_ids=ids, attention_mask=mask, **({"use_cache": False} | kwargs)).logits

    def _check_clean(self) -> None:
        if self._hf.training:
            raise BadInput(f"{self.name} is in training mode: call eval() first.")
        if any(_attached(point) != own for point, own in self._own_hooks):
            raise BadInput(f"{self.name} has a hook attached by other code: remove it first.")

    def _clear_patterns(self) -> None:
        # Fused-QKV bridges keep each layer's attention pattern alive after a forward.
        for block in self._bridge.blocks:
            attention = getattr(block, "attn", None)
            if attention is not None and getattr(attention, "_pattern", None) is not None:
                attention._pattern = None

    def _pad_right(self, rows: Sequence[NDArray[np.integer]]) -> tuple[Tensor, Tensor]:
        """(ids, mask), both [n, longest]."""
        lengths = np.asarray([len(row) for row in rows])
        mask = np.arange(lengths.max())[None] < lengths[:, None]
        ids = np.full(mask.shape, self._pad, np.int64)
        ids[mask] = np.concatenate(rows)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask.astype(np.int64)).to(self.device)

    def check_tokens(self, tokens: Sequence[NDArray], positions: Sequence[NDArray]) -> None:
        """Raise BadInput for an example that is no row of token ids of this model, or a position outside of it."""
        if not len(tokens) or len(tokens) != len(positions):
            raise BadInput(f"read needs one array of positions per example; found {len(positions)} for {len(tokens)}.")
        for i, (row, places) in enumerate(zip(tokens, positions, strict=True)):
            row, places = np.asarray(row), np.asarray(places)
            if row.ndim != 1 or not 0 < len(row) <= self.n_ctx or row.dtype.kind not in "iu":
                raise BadInput(
                    f"example {i} must be 1 to {self.n_ctx} token ids (whole numbers); found {row.dtype} {row.shape}."
                )
            if row.min() < 0 or row.max() >= self.d_vocab:
                raise BadInput(f"example {i} has token id {max(row.max(), -row.min())}; {self.name} knows 0 to "
                               f"{self.d_vocab - 1}.")  # fmt: skip
            if len(places) and (places.min() < 0 or places.max() >= len(row)):
                raise BadInput(f"example {i} has {len(row)} tokens; positions are 0 to {len(row) - 1}, counted "
                               f"from the front; found {int(places.min())} to {int(places.max())}.")  # fmt: skip

    def _unknown(self, name: str) -> str:
        point = HookPoint.parse(name)
        if point.layer is not None and point.layer >= self.n_layers:
            return f"{self.name} has no hook point '{name}': it has {self.n_layers} layers (0-{self.n_layers - 1})."
        near = nearest(name, self.hook_names)
        return f"{self.name} has no hook point '{name}'. Did you mean '{near}'?"

    def _find_hooks(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The bridge's points that hold one row per token, one name each, and their widths."""
        known = dict(self._bridge.hook_dict)
        # the classical name (hook_resid_post) comes later in the registry than the module's own (hook_out)
        names = {id(point): name for name, point in known.items()}
        points = {name: known[name] for name in names.values() if not name.endswith(_NO_ROWS)}
        widths = self._trial(points, lambda name, function: points[name].register_forward_hook(
            lambda module, args, output: function(output)), "bridge")  # fmt: skip
        # The bridge itself routes some places through hooks (BERT's MLP): only what comes later is foreign.
        self._own_hooks = [(point, _attached(point)) for point in known.values()]
        return {name: points[name] for name in widths}, widths

    def _trial(self, names: Iterable[str], attach: Callable[[str, Callable], Any], backend: str) -> dict[str, int]:
        """Widths of the places that fire once in a forward on [2, 5] tokens, with one row for each."""
        shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}

        def note(name: str) -> Callable[[Any], None]:
            return lambda output: shapes[name].append(tuple(output.shape) if isinstance(output, Tensor) else ())

        handles = [attach(name, note(name)) for name in shapes]
        ids = torch.zeros(2, min(5, self.n_ctx), dtype=torch.long, device=self.device)
        try:
            with torch.inference_mode():
                # one kept position: what lies behind the choice of logits has no row for the other tokens
                self._forward(ids, torch.ones_like(ids), ids.new_zeros(1), backend=backend)
        finally:
            for handle in handles:
                handle.remove()
            self._clear_patterns()
        once = {name: seen[0] for name, seen in shapes.items() if len(seen) == 1}
        return {name: int(np.prod(s[2:])) for name, s in once.items() if len(s) >= 3 and s[:2] == tuple(ids.shape)}

    # Editing the last position ---------------------------------------------------------------------------------------

    def _try_methods(self) -> str:
        """The fastest method whose unedited logits equal the plain forward's on a trial batch."""
        length = min(self.n_ctx, 24)
        numbers = np.random.default_rng(0).integers(0, self.d_vocab, (2, length))
        tokens = torch.from_numpy(numbers).to(self.device)
        truth = self._forward(tokens, torch.ones_like(tokens))[:, -1].float().repeat_interleave(3, 0)
        limit = TOLERANCE[self.dtype] * max(1.0, float(truth.abs().max()))
        for method in ("shared", "repeated"):
            try:
                prefix = self._prefix(tokens, method)
                if prefix.method == method:
                    found = self._run_last(prefix, tokens[:, -1], {}, 3).float()
                    if float((found - truth).abs().max()) <= limit:
                        return method
            except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
                continue  # an architecture without this kind of cache: the next method is slower and more general
        return "full"

    def _prefix(self, tokens: Tensor, method: str) -> Prefix:
        if method == "full" or tokens.shape[1] == 1:
            return Prefix(tokens, None, "full")
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        cache = DynamicCache(config=self._hf.config)
        first = tokens[:, :-1]
        with self._hooked({}):
            self._forward(first, torch.ones_like(first), first.new_zeros(1), past_key_values=cache, use_cache=True)
        # A sliding window forgets keys, so its mask has another width than the one that `shared` builds.
        if method == "shared" and any(type(layer) is not DynamicLayer for layer in cache.layers):
            return Prefix(tokens, cache, "repeated")
        return Prefix(tokens, cache, method)

    def _run_last(self, prefix: Prefix, last: Tensor, edits: Mapping[str, Edit], m: int) -> Tensor:
        b, n = len(last), prefix.tokens.shape[1] - 1
        functions = {name: self._rowwise(name, edit, b * m, prefix.method == "full") for name, edit in edits.items()}
        with self._hooked(functions):
            if prefix.method == "full":
                ids = torch.cat([prefix.tokens[:, :-1], last[:, None]], 1).repeat_interleave(m, 0)
                return self._forward(ids, torch.ones_like(ids), torch.tensor([n], device=ids.device))[:, -1]
            if prefix.method == "repeated":
                cache = copy.deepcopy(prefix.cache)
                cache.batch_repeat_interleave(m)
                ids = last.repeat_interleave(m, 0)[:, None]
                mask = ids.new_ones(b * m, n + 1)
                place = torch.full_like(ids, n)
                return self._forward(ids, mask, None, position_ids=place, past_key_values=cache, use_cache=True)[:, -1]
            # All repeats of a row form one sequence of queries at one and the same position; each sees the prefix and
            # itself. Keys and values of the prefix are then read once per row, not once per repeat.
            from transformers import DynamicCache

            cache = DynamicCache(config=self._hf.config)
            for i, layer in enumerate(prefix.cache.layers):
                cache.update(layer.keys, layer.values, i)
            hidden = torch.cat([last.new_zeros(m, n), 1 - torch.eye(m, dtype=last.dtype, device=last.device)], 1)
            mask = torch.zeros(m, n + m, dtype=self.dtype, device=last.device)
            mask = mask.masked_fill(hidden.bool(), torch.finfo(self.dtype).min)[None, None].expand(b, 1, -1, -1)
            ids = last[:, None].expand(b, m)
            place = torch.full_like(ids, n)
            logits = self._forward(ids, mask, None, position_ids=place, past_key_values=cache, use_cache=True)
            return logits.reshape(b * m, -1)

    def _rowwise(self, name: str, edit: Edit, n: int, at_last: bool) -> Callable[[Tensor], Tensor]:
        def apply(output: Tensor) -> Tensor:
            rows = output[:, -1] if at_last else output
            old = rows.reshape(n, self.widths[name])
            new = edit(old)
            if new.shape != old.shape:
                raise BadInput(f"the edit at '{name}' returned {list(new.shape)} for {list(old.shape)}.")
            new = new.to(output.dtype).reshape(rows.shape)
            return torch.cat([output[:, :-1], new[:, None]], 1) if at_last else new

        return apply

    # The write test --------------------------------------------------------------------------------------------------

    def _try_write(self, hook: HookPoint) -> str:
        """'' when a write at the last of 4 tokens takes full effect, otherwise the reason why it does not."""
        numbers = np.random.default_rng(1).integers(0, self.d_vocab, (2, min(4, self.n_ctx)))
        tokens = torch.from_numpy(numbers).to(self.device)
        block = f"blocks.{hook.layer}."
        watched = [n for n in (*(block + p for p in STREAM), f"blocks.{(hook.layer or 0) + 1}.hook_resid_pre",
                               hook.name) if n in self.widths]  # fmt: skip

        def run(edit: Edit | None) -> tuple[dict[str, Tensor], Tensor]:
            seen: dict[str, Tensor] = {}

            def watch(name: str) -> Callable:
                def function(output: Tensor) -> Tensor | None:
                    output = output.clone()
                    if edit and name == hook.name:
                        output[:, -1] = edit(output[:, -1])
                    seen[name] = output[:, -1].flatten(1).double()
                    return output

                return function

            with self._hooked({name: watch(name) for name in dict.fromkeys(watched)}):
                logits = self._forward(tokens, torch.ones_like(tokens))[:, -1].double()
            return seen, logits

        before, plain = run(None)
        scale = float(before[hook.name].abs().max()) or 1.0
        delta = torch.from_numpy(np.random.default_rng(2).standard_normal(self.widths[hook.name])).to(plain)
        after, moved = run(lambda rows: rows + (3 * scale * delta).to(rows.dtype).reshape(rows.shape[1:]))
        if not float((moved - plain).abs().max()) > 0:
            return "a large write there changes no logit."
        parts = {"hook_resid_pre": ("hook_attn_out", "hook_mlp_out"), "hook_resid_mid": ("hook_mlp_out",)}.get(
            hook.part
        )
        limit = 10 * TOLERANCE[self.dtype] * max(1.0, float(after[hook.name].abs().max()))
        if parts and all(block + p in after for p in (*parts, "hook_resid_post")):

            def gap(seen: dict[str, Tensor]) -> float:
                total = seen[hook.name] + sum(seen[block + p] for p in parts)
                return float((seen[block + "hook_resid_post"] - total).abs().max())

            # a model whose blocks do not add up even unedited (scaled residuals) cannot be judged this way
            if gap(before) <= limit < gap(after):
                return "the write reaches one branch only and misses the skip path; write at hook_resid_pre or _post."
        above = f"blocks.{(hook.layer or 0) + 1}.hook_resid_pre"
        passed_on = hook.part != "hook_resid_post" or above not in after or _gap(after, above, hook.name) <= limit
        if not passed_on:
            return "the next block does not receive what was written."
        return ""


def _attached(point: Any) -> list[int]:
    return [*point._forward_hooks, *point._forward_pre_hooks]


def _gap(seen: Mapping[str, Tensor], first: str, second: str) -> float:
    return float((seen[first] - seen[second]).abs().max())


def _native(config: Any, seed: int) -> Planted:
    """TransformerLens's own small model with random weights, in the shape of `config`."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import boot

    shape = TransformerBridgeConfig(
        d_model=config.hidden_size, d_head=config.head_dim, n_heads=config.num_attention_heads,
        n_layers=config.num_hidden_layers, n_ctx=config.max_position_embeddings, d_vocab=config.vocab_size,
        d_mlp=config.intermediate_size, act_fn="relu", normalization_type=None, seed=seed,
    )  # fmt: skip
    return Planted(boot(shape), config)


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
