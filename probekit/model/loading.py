"""Loading: a model from a name, a folder or hand-set weights. Safetensors alone; no remote code is run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probekit.errors import BadInput, first_line
from probekit.inputs.folders import model_folder
from probekit.inputs.text import BOS
from probekit.model.model import Model
from probekit.model.planted import native

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load_model(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    bos: str = "as_is",
) -> Model:
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
        _check_weights(folder)
    source = str(folder) if folder else name
    hf = _load_weights(name, source, folder is not None, revision, DTYPES[dtype])
    tokenizer = _load_tokenizer(source, folder, revision)
    shown = Path(name).name if folder else name
    hf = hf.to(device).eval()
    return Model(hf, name=shown, source=source, revision=revision or "", bos=bos, tokenizer=tokenizer)


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


def _load_weights(name: str, source: str, local: bool, revision: str | None, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        if local:
            raise BadInput(f"{name}: config.json cannot be used ({first_line(error)}).") from None
        raise BadInput(
            f"'{name}' is no folder and no bundled testbed, and the Hugging Face hub did not give it "
            f"({first_line(error)}): check the name and the network, or give a local folder."
        ) from None
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a library prints nothing
    try:
        hf, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            source, config=config, revision=revision, dtype=dtype, attn_implementation="eager", use_safetensors=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise BadInput(f"{name} cannot be loaded as a causal language model ({first_line(error)}).") from None
    finally:
        if shown:
            logging.enable_progress_bar()
    # The library fills what is missing with random numbers and only warns.
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise BadInput(f"{name} lacks {len(lacking)} weights that its config.json asks for, such as '{lacking[0]}'.")
    return hf


def _load_tokenizer(source: str, folder: Path | None, revision: str | None) -> Any:
    """The checkpoint's tokenizer, or None: without its files the library would make up an empty one."""
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
    if folder and not any((folder / file).is_file() for file in files):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if folder:
            raise BadInput(f"the tokenizer in {folder} cannot be loaded ({first_line(error)}).") from None
        return None
