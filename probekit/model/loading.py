"""Checkpoints: from a name or a folder to a model and its tokenizer. Safetensors alone; no remote code is run."""

import json
from pathlib import Path
from typing import Any

import torch

from probekit.errors import BadInput


def check_weights(folder: Path) -> None:
    """Raise BadInput for a shard whose header cannot be read."""
    from safetensors import SafetensorError, safe_open

    for shard in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(shard, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{shard} is damaged ({error}): fetch or save it again.") from None


def load_weights(name: str, source: str, local: bool, revision: str | None, dtype: torch.dtype) -> Any:
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


def load_tokenizer(source: str, folder: Path | None, revision: str | None) -> Any:
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


def plain_config(config: Any) -> dict[str, Any]:
    """The configuration without what says where it came from."""
    dropped = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    return json.loads(json.dumps({k: v for k, v in config.to_dict().items() if k not in dropped}, default=str))


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
