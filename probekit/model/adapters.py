"""Adapters: low-rank changes of weights that lie beside a checkpoint, or name one, merged into it by peft."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probekit.errors import BadInput, MissingExtra, first_line
from probekit.inputs.folders import ADAPTER, ADAPTER_WEIGHTS


@contextlib.contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """The same folder without its adapter, for which the library would take other weights than those beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in folder.iterdir():
            if file.name not in (ADAPTER, ADAPTER_WEIGHTS):
                (Path(scratch) / file.name).symlink_to(file.resolve())
        yield Path(scratch)


def fetch_adapter(name: str) -> Path:
    """The folder that a hub's adapter is downloaded to. Raises BadInput where it cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[ADAPTER, ADAPTER_WEIGHTS]))
    except Exception as error:  # of the network, the name, the cache: the library has no one class for them
        raise BadInput(
            f"the adapter '{name}' is no folder, and the Hugging Face hub did not give it ({first_line(error)}): check "
            "the name and the network, or give a local folder."
        ) from None
    if not (folder / ADAPTER).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise BadInput(
            f"the hub's {name} holds no {ADAPTER} with {ADAPTER_WEIGHTS}: name an adapter; no pickle is read."
        )
    return folder


def merge_adapter(hf: Any, folder: Path) -> Any:
    """The model with the folder's adapter added to its weights.

    Raises MissingExtra without peft, and BadInput for an adapter that does not fit, or not as a whole.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError:
        raise MissingExtra(
            f"{folder} has an adapter ({ADAPTER}), which takes a package to be merged: pip install 'peft>=0.17'."
        ) from None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            asked = set(file.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of the library that will change, and of what is found below
            changed = PeftModel.from_pretrained(hf, str(folder))
            found = set(get_peft_model_state_dict(changed))
            merged = changed.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, NotImplementedError, SafetensorError) as error:
        raise BadInput(f"the adapter in {folder} cannot be merged ({first_line(error)}).") from None
    if asked != found:
        odd = sorted(asked ^ found)
        raise BadInput(f"the adapter in {folder} does not fit the model: {len(odd)} weights, such as '{odd[0]}'.")
    return merged
