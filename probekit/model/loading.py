"""Loading: a model from a name, a folder, a GGUF file or hand-set weights. No pickles, and no remote code is run."""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.errors import BadInput, MissingExtra, first_line
from probekit.inputs.folders import adapter_base, adapter_folder, is_gguf, model_folder
from probekit.inputs.gguf import read_head
from probekit.inputs.text import check_around
from probekit.model.adapters import fetch_adapter, merge_adapter, without_adapter
from probekit.model.model import Model
from probekit.model.planted import native

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


# The files of a checkpoint decide which of hundreds of programs reads them, and each raises what it likes. Whatever
# that is, the files cannot be used.
def load_model(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    bos: str = "as_is",
    eos: str = "as_is",
) -> Model:
    """Load a bundled testbed, a folder in Hugging Face format, a GGUF file, or a model of the hub by name.

    A folder needs config.json and safetensors weights, or one GGUF file; a tokenizer is optional. A GGUF file takes the
    package `gguf`; its weights are unpacked to dtype, so that memory is that of any other model. adapter: a folder or
    hub name of low-rank changes, which the package `peft` adds to the weights, as it does with an adapter beside the
    weights and with a folder that holds nothing but one; the model is then called `<model>+<adapter>`. revision: of a
    hub model. dtype: float32 or bfloat16. device: cpu, cuda, cuda:1 ..., or auto, over all GPUs of the machine for a
    model that one has no room for, which is read and not edited. bos: as_is, exactly_one or none. eos: as_is or none.
    Raises BadInput when it cannot be had, MissingExtra for a checkpoint that takes a package that is not there.

    >>> import probekit as pk
    >>> model = pk.load_model("othello-6x6")
    >>> model.name, model.d_vocab
    ('othello-6x6', 33)
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype is one of {', '.join(DTYPES)}; found '{dtype}'.")
    check_around(bos, eos)
    name = str(name_or_folder)
    folder = model_folder(name)
    shown, source = (folder.name, str(folder)) if folder else (name, name)
    if folder and is_gguf(folder):
        hf, tokenizer = _load_gguf(folder, DTYPES[dtype])
    else:
        hf = _load_weights(name, folder, revision, DTYPES[dtype])
        tokenizer = _load_tokenizer(source, folder, revision)
    if adapter is not None:
        hf, shown = _with_adapter(hf, str(adapter), name, folder), f"{shown}+{Path(adapter).name}"
    hf = (spread(hf, name) if device == "auto" else hf.to(device)).eval()
    asked = {"revision": revision or "", "bos": bos, "eos": eos, "adapter": str(adapter or "")}
    return Model(hf, name=shown, source=source, tokenizer=tokenizer, **asked)


def spread(hf: Any, name: str, device_map: Mapping[str, Any] | None = None) -> Any:
    """The network over all GPUs, block by block, by the package `accelerate`; as it is on a machine without any.

    device_map: module -> device, found by their free memory when None. Raises BadInput where they have no room for it:
    weights that come and go with each batch would be slower than a smaller dtype or another machine.
    """
    if device_map is None and not torch.cuda.is_available():
        return hf
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtra("a model over several GPUs takes a package: pip install accelerate.")
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if device_map is None:
        whole: dict[str, Any] = {"no_split_module_classes": sorted(hf._no_split_modules or ())}
        device_map = infer_auto_device_map(hf, max_memory=get_balanced_memory(hf, **whole), **whole)
    if left := {"cpu", "disk"} & set(map(str, device_map.values())):
        n, size = torch.cuda.device_count(), sum(p.nbytes for p in hf.parameters()) / 1e9
        raise BadInput(
            f"{name} has {size:.0f} GB of weights, and {n} GPUs have no room for all of them (some would be on the "
            f"{left.pop()}): use dtype bfloat16, or more GPUs."
        )
    return dispatch_model(hf, dict(device_map))


def plant_model(weights: Mapping[str, Tensor], *, n_heads: int, n_ctx: int, name: str) -> Model:
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
    hf = native(config, 0)
    hf.set_weights(weights)
    return Model(hf, name=name)


def _check_weights(folder: Path) -> None:
    """Raise BadInput for a shard whose header cannot be read."""
    from safetensors import SafetensorError, safe_open

    for shard in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(shard, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{shard} is damaged ({error}): fetch or save it again.") from None


def _load_gguf(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The network and tokenizer (None where there is none) of a GGUF file, as plain floats of `dtype`."""
    head = read_head(file)
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra(f"{file} is a GGUF file, which takes a package to read: pip install 'gguf>=0.17'.")
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    # Where its kernels are installed the library would leave weights packed, which nothing here could read or edit.
    packing = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": packing(dequantize=True)} if packing else {}
    try:
        with (
            _read_once(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # its bar of progress knows no other way to be quiet
            config = AutoConfig.from_pretrained(file.parent, **where)
            hf, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                file.parent, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True,
                **where, **unpack,
            )  # fmt: skip
            has_tokens = "tokenizer.ggml.tokens" in head
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where) if has_tokens else None
    except Exception as error:
        raise BadInput(f"{file} cannot be loaded as a causal language model ({first_line(error)}).") from None
    _check_complete(str(file), info)
    return _unpacked(hf, dtype), tokenizer


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Parse a GGUF file once: the library does so for the config, the weights and the tokenizer, token by token.

    Names of tensors are told once as well, which it does for every module of the network anew.
    """
    import gguf

    class Plain(gguf.GGUFReader):
        """Cuts tokens out of a plain array: each cut of a memory map is told of its file, at several times the cost."""

        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = mapped.view(np.ndarray)

    known, before = dict[str, Any](), (gguf.GGUFReader, gguf.get_tensor_name_map)

    def read(path: Any, *args: Any) -> Any:
        if str(path) not in known:
            known[str(path)] = Plain(path, *args)
        return known[str(path)]

    gguf.GGUFReader, gguf.get_tensor_name_map = read, cache(before[1])  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before


def _unpacked(hf: Any, dtype: torch.dtype) -> Any:
    """The model without what says that its file had packed weights: to be saved, copied and compared as any other."""
    for owner, name in ((hf.config, "quantization_config"), (hf, "hf_quantizer"), (hf, "quantization_method")):
        if name in vars(owner):
            delattr(owner, name)
    hf.is_quantized = False
    hf.config.architectures = [type(hf).__name__]  # which a GGUF file does not name
    return hf.to(dtype)


def _load_weights(name: str, folder: Path | None, revision: str | None, dtype: torch.dtype) -> Any:
    """The network of a folder, or of the hub's `name`, with the adapter that belongs to it."""
    base = adapter_base(folder) if folder else None
    if folder is None or base is None:
        if folder:
            _check_weights(folder)
        return _load_plain(name, str(folder or name), folder is not None, revision, dtype)
    if base == str(folder):
        _check_weights(folder)
        with without_adapter(folder) as whole:
            return merge_adapter(_load_plain(name, str(whole), True, None, dtype), folder)
    other = model_folder(base)
    if other is not None and adapter_base(other) is not None:
        raise BadInput(f"the adapter in {folder} changes {base}, which has an adapter too: merge that one first.")
    return merge_adapter(_load_weights(base, other, None, dtype), folder)


def _with_adapter(hf: Any, adapter: str, name: str, folder: Path | None) -> Any:
    """The network with an adapter of another folder or of the hub. Raises BadInput for a second one."""
    if folder is not None and not is_gguf(folder) and adapter_base(folder) is not None:
        raise BadInput(f"{name} has an adapter already, so that {adapter} would be a second one: merge that one first.")
    return merge_adapter(hf, adapter_folder(adapter) or fetch_adapter(adapter))


def _load_plain(name: str, source: str, local: bool, revision: str | None, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # as many programs read these files as there are architectures: see `load_model`
        if local:
            raise BadInput(f"{name}: config.json cannot be used ({first_line(error)}).") from None
        raise BadInput(
            f"'{name}' is no folder and no bundled testbed, and the Hugging Face hub did not give it "
            f"({first_line(error)}): check the name and the network, or give a local folder."
        ) from None
    if not local and find_adapter_config_file(source, revision=revision) is not None:
        raise BadInput(f"the hub's {name} has an adapter: download it, and give the folder it is then in.")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a library prints nothing
    try:
        hf, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            source, config=config, revision=revision, dtype=dtype, attn_implementation="eager", use_safetensors=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,  # told below
        )  # fmt: skip
    except ImportError as error:
        # A checkpoint of packed weights says which package unpacks them; what follows the first line is a traceback.
        packed = (getattr(config, "quantization_config", None) or {}).get("quant_method", "an unknown method")
        raise MissingExtra(
            f"{name} has weights packed by {packed}, which take a package that is not installed "
            f"({first_line(error)}): install it, or give a checkpoint that is not packed."
        ) from None
    except Exception as error:
        raise BadInput(f"{name} cannot be loaded as a causal language model ({first_line(error)}).") from None
    finally:
        if shown:
            logging.enable_progress_bar()
    _check_complete(name, info)
    return hf


def _check_complete(name: str, info: Mapping[str, Any]) -> None:
    """Raise BadInput for weights that are not there: the library fills them with random numbers and only warns.

    Those that are there and have no place are told.
    """
    unused = sorted(info["unexpected_keys"])
    if unused:
        said = "%s: weights of the checkpoint that have no place in the model: %d, such as '%s'."
        log.warning(said, name, len(unused), unused[0])
    for key, found, asked in sorted(info["mismatched_keys"]):
        sizes = (" x ".join(map(str, shape)) for shape in (found, asked))
        raise BadInput(f"{name}: weight '{key}' is {next(sizes)}, and its configuration asks for {next(sizes)}.")
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise BadInput(f"{name} lacks {len(lacking)} weights that its configuration asks for, such as '{lacking[0]}'.")


def _load_tokenizer(source: str, folder: Path | None, revision: str | None) -> Any:
    """The checkpoint's tokenizer, or None: without its files the library would make up an empty one."""
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
    if folder and not any((folder / file).is_file() for file in files):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:
        if folder:
            raise BadInput(f"the tokenizer in {folder} cannot be loaded ({first_line(error)}).") from None
        return None
