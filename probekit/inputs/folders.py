"""Folders: which folder a model's name means, a bundled testbed's or one in Hugging Face format. Opens no weights."""

import re
from pathlib import Path

from probekit.errors import BadInput

_TESTBEDS = Path(__file__).parents[1] / "testbeds"


def beside(name: str, base: Path) -> str:
    """A model's name as a spec in the folder `base` means it: a folder there before anything else.

    Raises BadInput where only the current directory has such a folder: what a spec means does not depend on where it is
    run from.
    """
    local, here = base / name, Path.cwd() / name
    if local.is_dir():
        return str(local)
    if here.is_dir() and not Path(name).is_absolute() and bundled_folder(name) is None:
        raise BadInput(
            f"no model folder {local}: a spec names folders relative to itself. There is {here}; if that one is meant, "
            "give its whole path."
        )
    return name


def model_folder(name: str) -> Path | None:
    """The folder of a bundled or local model, None for a name of the hub; raises BadInput for a path that is none."""
    return bundled_folder(name) or local_folder(name)


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled model such as `othello-6x6`, or None."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return None
    return next((c.parent for c in sorted(_TESTBEDS.glob(f"*/{name}/config.json"))), None)


def local_folder(name: str) -> Path | None:
    """The folder that `name` means, or None for a name of the hub; raises BadInput for a path that is no model."""
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise BadInput(
                f"no model folder {name}: give a folder, a bundled testbed or a name of the Hugging Face hub."
            )
        return None
    if not path.is_dir():
        raise BadInput(f"{name} is a file: give the folder that holds config.json and the weights.")
    if not (path / "config.json").is_file():
        raise BadInput(f"{name} has no config.json: give a folder in Hugging Face format.")
    if not any(path.glob("*.safetensors")):
        raise BadInput(f"{name} has no safetensors weights: save the model with save_pretrained; pickles are not read.")
    return path
