"""Folders: which folder a model's name means, a bundled testbed's or one in Hugging Face format, or which GGUF file.

Opens no weights.
"""

import json
import re
from collections.abc import Mapping
from os.path import exists, isdir, isfile  # which say no to a name that no path can have
from pathlib import Path
from typing import Any

from probekit.errors import BadInput, first_line

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LAYER_KEYS = ("n_layer", "num_hidden_layers", "num_layers")
_WIDTH_KEYS = ("n_embd", "hidden_size", "d_model")
_TESTBEDS = Path(__file__).parents[1] / "testbeds"


def beside(name: str, base: Path) -> str:
    """A model's name as a spec in the folder `base` means it: a folder or GGUF file there before anything else.

    Raises BadInput where only the current directory has such a one: what a spec means does not depend on where it is
    run from.
    """
    local, here = base / name, Path.cwd() / name
    if _may_be_model(local):
        return str(local)
    if _may_be_model(here) and not Path(name).is_absolute() and bundled_folder(name) is None:
        raise BadInput(
            f"no model {_kind(local)} {local}: a spec names models relative to itself. There is {here}; if that one is "
            "meant, give its whole path."
        )
    return name


def n_layers_of(config: Mapping[str, Any]) -> int | None:
    """How many blocks a model's config.json says it has; None where it does not."""
    return next((config[key] for key in _LAYER_KEYS if isinstance(config.get(key), int)), None)


def width_of(config: Mapping[str, Any]) -> int | None:
    """How wide its residual stream is."""
    return next((config[key] for key in _WIDTH_KEYS if isinstance(config.get(key), int)), None)


def model_folder(name: str) -> Path | None:
    """The folder of a bundled or local model, or its GGUF file; None for a name of the hub.

    Raises BadInput for a path that is no model.
    """
    return bundled_folder(name) or local_folder(name)


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled model such as `othello-6x6`, or None."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return None
    return next((c.parent for c in sorted(_TESTBEDS.glob(f"*/{name}/config.json"))), None)


def local_folder(name: str) -> Path | None:
    """The folder or GGUF file that `name` means, None for a name of the hub; raises BadInput for a path that is none.

    A folder without safetensors that holds one GGUF file means that file.
    """
    path = Path(name).expanduser()
    if not exists(path):
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or _kind(path) == "file":
            raise BadInput(
                f"no model {_kind(path)} {name}: give a folder, a GGUF file, a bundled testbed or a name of the "
                "Hugging Face hub."
            )
        return None
    if not isdir(path):
        if is_gguf(path):
            return path
        raise BadInput(f"{name} is a file: give the folder that holds config.json and the weights, or a GGUF file.")
    if (path / ADAPTER).is_file():  # `adapter_base` says what it changes: the weights beside it, or a model it names
        return path
    if any(path.glob("*.safetensors")):
        if not (path / "config.json").is_file():
            raise BadInput(f"{name} has no config.json: give a folder in Hugging Face format.")
        return path
    packed = sorted(filter(is_gguf, path.iterdir()))
    if len(packed) > 1:
        names = ", ".join(file.name for file in packed)
        raise BadInput(f"{name} holds {len(packed)} GGUF files ({names}): name one of them.")
    if packed:
        return packed[0]
    if not (path / "config.json").is_file():
        raise BadInput(f"{name} has no config.json: give a folder in Hugging Face format or with one GGUF file.")
    raise BadInput(f"{name} has no safetensors weights: save the model with save_pretrained; pickles are not read.")


def adapter_base(folder: Path) -> str | None:
    """What the adapter in a folder changes: the folder itself where it holds whole weights, else what it names.

    None where there is no adapter. Raises BadInput for one that cannot be read.
    """
    if not (folder / ADAPTER).is_file():
        return None
    if not (folder / ADAPTER_WEIGHTS).is_file():
        # Not left out: a model that an adapter belongs to is another one without it. Older peft wrote `.bin`, a pickle,
        # which could run code.
        raise BadInput(
            f"{folder} has {ADAPTER} and no {ADAPTER_WEIGHTS}: save the adapter again; pickles are not read."
        )
    if (folder / "config.json").is_file() and any(
        file.name != ADAPTER_WEIGHTS for file in folder.glob("*.safetensors")
    ):
        return str(folder)
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{folder / ADAPTER} cannot be used ({first_line(error)}).") from None
    if not base or not isinstance(base, str):
        raise BadInput(f"{folder / ADAPTER} names no model (base_model_name_or_path): put the whole weights beside it.")
    return base


def adapter_folder(name: str) -> Path | None:
    """The folder of an adapter, None for a name of the hub. Raises BadInput for a path that holds none."""
    path = Path(name).expanduser()
    if not exists(path):
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise BadInput(
                f"no adapter folder {name}: give a folder that peft wrote, or a name of the hub, owner/name."
            )
        return None
    if not (path / ADAPTER).is_file():
        raise BadInput(f"{name} has no {ADAPTER}: give a folder that peft's save_pretrained wrote.")
    adapter_base(path)  # it raises where weights are a pickle, which is never opened, and where there are none
    return path


def is_gguf(path: Path) -> bool:
    """Whether a file is called a GGUF file."""
    return _kind(path) == "file" and isfile(path)


def _may_be_model(path: Path) -> bool:
    return isdir(path) or is_gguf(path)


def _kind(path: Path) -> str:
    """What a name means, whether it is there or not."""
    return "file" if path.suffix == ".gguf" else "folder"
