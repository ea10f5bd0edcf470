"""Keys: what went into the model, digested; two captures share rows only if all of it is equal."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.model.audit import Backend, choose_backend, library_versions
from probekit.model.model import Model
from probekit.records import digest
from probekit.storage.memory import Memory
from probekit.storage.store import Store
from probekit.task import Task

KEY_VERSION = 3  # raise when the meaning of a stored row changes


def activation_key(model: Model, task: Task, backend: str) -> str:
    """Digest of all that went into the model and decides its activations; hook names are not part of it."""
    return digest(capture_spec(model, task, backend)["parts"], 32)


def capture_spec(model: Model, task: Task, backend: str) -> dict[str, Any]:
    """`parts`, which the key is the digest of; around them what explains a key to people and decides nothing.

    backend: `bridge` or `hf`. They agree up to rounding and are told apart, so that no entry holds rows of both.
    """
    versions = library_versions()
    parts = {
        "key_version": KEY_VERSION,
        "weights_and_config": model.fingerprint,
        "mode": "plain",
        "dtype": str(model.dtype),
        "tokens": digest_rows(task.tokens),  # ids without padding; the mask follows from the lengths
        "positions": digest_rows(task.positions),
        "padding": "right",
        "n_rows": int(sum(len(p) for p in task.positions)),
        # libraries have changed the meaning of the same call between minor versions
        "libraries": {name: ".".join(v.split(".")[:2]) for name, v in versions.items()},
    }
    names = {"model": model.name, "revision": model.revision, "task": task.name}
    return _through(names | {"versions": versions, "parts": parts}, model, backend)


def has_rows(model: Model, task: Task, store: Store | str | Path) -> bool:
    """Whether a store has any finished activations of a model over a task."""
    where = store if isinstance(store, Store) else Store(store)
    return any(where.names(activation_key(model, task, backend)) for backend in ("hf", "bridge"))


def _through(description: dict[str, Any], model: Model, backend: str) -> dict[str, Any]:
    return description | {"parts": description["parts"] | {"backend": backend, "attention": model.attention(backend)}}


def digest_rows(rows: Sequence[Sequence[int] | NDArray]) -> str:
    hasher = hashlib.sha256()
    for row in rows:
        values = np.ascontiguousarray(row, dtype="<i8")
        hasher.update(len(values).to_bytes(8, "little"))
        hasher.update(values.tobytes())
    return hasher.hexdigest()


def places_of_answers(task: Task) -> str:
    """Digest of the places that behaviours are read at, "" where these are the rows' own."""
    return "" if task.answer is None else digest_rows([task.answer])


def settle(
    model: Model, task: Task, asked: str, names: Sequence[str], stored: Sequence[str], store: Store | Memory
) -> tuple[Backend, dict[str, Any]]:
    """The backend and its `capture_spec`, for hook points `names` and laws kept under `stored`.

    What is complete in the store settles it: there the two forwards were compared before.
    """
    description, wanted = capture_spec(model, task, "bridge"), {*names, *stored}
    for backend in {"auto": ("hf", "bridge"), "hf": ("hf",)}.get(asked, ()):
        found = _through(description, model, backend)
        if wanted <= set(store.names(digest(found["parts"], 32))):
            return Backend(backend), found
    chosen = choose_backend(model, asked, names, task.tokens)
    return chosen, _through(description, model, chosen.name)
