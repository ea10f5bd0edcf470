"""Tensors: a safetensors file that is open, or one sentence on why it cannot be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probekit.errors import BadInput


@contextmanager
def open_tensors(path: Path, framework: str = "np", what: str = "") -> Iterator[Any]:
    """What `safetensors.safe_open` gives; framework: `np`, or `pt`, which also has numbers of 16 bits (bfloat16).

    what: what is read, for the sentence of the BadInput that a file that is none raises.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework) as file:
            yield file
    except SafetensorError as error:
        raise BadInput(f"{what and what + ': '}{path} is no valid safetensors file: {error}.") from None
