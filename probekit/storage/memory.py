"""A store that lives as long as its Activations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from probekit.storage.shards import Range, Shape

CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}


class Memory:
    """A store that lives as long as its Activations."""

    def __init__(self) -> None:
        self._groups: list[_MemoryGroup] = []

    def names(self, key: str) -> dict[str, "_MemoryGroup"]:
        return {name: group for group in self._groups for name in group.arrays}

    def spec_of(self, key: str, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
        return next((g.spec for g in self._groups if set(g.arrays) == set(shapes)), None)

    def group(self, key: str, spec: Mapping[str, Any], shapes: Mapping[str, Shape], ranges: Sequence[Range]):
        self._groups.append(_MemoryGroup(dict(spec), shapes, ranges))
        return self._groups[-1]

    def read(self, key: str, name: str) -> Tensor:
        return self.names(key)[name].arrays[name]

    def note(self, key: str, name: str) -> Any:
        return self.names(key)[name].note


class _MemoryGroup:
    def __init__(self, spec: dict[str, Any], shapes: Mapping[str, Shape], ranges: Sequence[Range]) -> None:
        codes = {code: dtype for dtype, code in CODES.items()}
        n = ranges[-1][1] if ranges else 0
        self.spec, self.ranges, self.note = spec, ranges, None
        self.arrays = {name: torch.empty(n, s.width, dtype=codes[s.dtype]) for name, s in shapes.items()}

    def missing(self) -> Sequence[Range]:
        return self.ranges

    def is_begun(self, start: int, stop: int) -> bool:
        return False

    @contextmanager
    def shard(self, start: int, stop: int) -> Iterator["_MemoryGroup"]:
        yield self

    def put(self, at: int, arrays: Mapping[str, Tensor], rows: Tensor) -> None:
        for name, array in arrays.items():
            self.arrays[name][at : at + len(rows)] = array

    def seal(self, note: Any = None) -> None:
        self.note = note
