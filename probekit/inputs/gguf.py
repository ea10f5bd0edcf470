"""GGUF: what the head of such a file says of its model, read without its weights and without a library.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Lists, such as the vocabulary, are walked over.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

from probekit.errors import BadInput

# value type -> how it is packed; 8 is a text and 9 a list
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
# as config.json of a Llama calls what a plan speaks of
_NAMES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "context_length": "max_position_embeddings",
}


def read_head(path: Path) -> dict[str, Any]:
    """The keys of a GGUF file and their values; a list's value is its length. Raises BadInput for a damaged file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            magic, version, _, n_keys = struct.unpack_from("<4sIQQ", raw)
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError("it does not begin as GGUF 2 and 3 do")
            place, found = 24, {}
            for _ in range(n_keys):
                key, place = _text(raw, place)
                (kind,) = struct.unpack_from("<I", raw, place)
                found[key], place = _value(raw, place + 4, kind)
            return found
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise BadInput(f"{path} is damaged or no GGUF file ({error}): fetch or make it again.") from None


def config_of_head(head: dict[str, Any]) -> dict[str, Any]:
    """What a config.json would say of layers, width and context."""
    kind = head.get("general.architecture", "")
    return {name: head[f"{kind}.{key}"] for key, name in _NAMES.items() if f"{kind}.{key}" in head}


def _text(raw: mmap.mmap, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", raw, place)
    stop = place + 8 + length
    if stop > len(raw):
        raise ValueError("it ends within a text")
    return raw[place + 8 : stop].decode("utf-8", "replace"), stop


def _value(raw: mmap.mmap, place: int, kind: int) -> tuple[Any, int]:
    if kind == _TEXT:
        return _text(raw, place)
    if kind != _LIST:
        packed = struct.Struct("<" + _NUMBERS[kind])
        return packed.unpack_from(raw, place)[0], place + packed.size
    kind, length = struct.unpack_from("<IQ", raw, place)
    place += 12
    if kind in _NUMBERS:
        return length, place + length * struct.calcsize(_NUMBERS[kind])
    for _ in range(length):
        _, place = _value(raw, place, kind)
    return length, place
