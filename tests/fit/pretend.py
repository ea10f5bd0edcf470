"""A device that is none: tensors that say they are on CUDA and are computed on the processor.

It refuses what an accelerator refuses, an operation on tensors of two devices and arrays of NumPy made without a copy
to the processor, so that code which forgets a device fails on machines that have none. As a program it fits what
tests/test_device.py asks for and prints the losses: the pretended device is registered with torch for good, which a
process with other tests in it should not see. Gradients by torch itself are beyond it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend()
DEVICE = torch.device("privateuseone", 0)
aten = torch.ops.aten
INDEXING = aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default
MIXED = aten.copy_.default, aten._to_copy.default


class Pretended(torch.Tensor):
    """A tensor of the pretended device; held: where its numbers are."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Pretended":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Pretended:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    from_, into = (one.held if isinstance(one, Pretended) else one for one in (source, to))
    into.copy_(from_)
    return to


# What `torch.tensor(..., device=DEVICE)` asks for, past all modes.
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


class _Everywhere(TorchDispatchMode):
    """Makes tensors for whoever asks for the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    here = [one for one in tensors if isinstance(one, Pretended)]
    there = [one for one in tensors if not isinstance(one, Pretended) and one.ndim]
    # An index may be on the processor, but not on another device than what is indexed.
    strays = func in INDEXING and not isinstance(args[0], Pretended)
    if here and there and (func not in (*MIXED, *INDEXING) or strays):
        raise RuntimeError(f"{func}: {len(here)} tensors on {DEVICE} and {len(there)} on the processor")
    wanted = kwargs.get("device")
    pretends = bool(here) if wanted is None else torch.device(wanted).type == DEVICE.type
    if func is aten.copy_.default:
        pretends = isinstance(args[0], Pretended)
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    known = {id(one.held): one for one in here}
    args, kwargs = tree_map(lambda a: a.held if isinstance(a, Pretended) else a, (args, kwargs))
    out = func(*args, **kwargs)

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not pretends:
            return value
        return known.get(id(value)) if id(value) in known else Pretended(value)

    return tree_map(wrap, out)


@contextmanager
def pretending() -> Iterator[None]:
    """Within it `to(DEVICE)` and `device=DEVICE` give tensors of the pretended device."""
    with _Everywhere():
        yield


if __name__ == "__main__":
    from test_device import fitted, refusals

    with pretending():
        sys.stdout.write(json.dumps({"refused": refusals(DEVICE), "bits": fitted(DEVICE)}))
