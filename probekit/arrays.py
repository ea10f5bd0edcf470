"""Bring your own activations: arrays, .npy and safetensors files as sites and observations, without any model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.records import digest
from probekit.task import Behaviour, Feature, Observations, reduce_law


def as_activations(
    activations: Any, behaviour: Any, floor: Any, groups: Any, domains: Any, features: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Observations]:
    """(sites, observations) of whatever `measure` was given; a captured object passes through as it is."""
    if hasattr(activations, "observations"):
        if behaviour is not None or floor is not None or groups is not None or domains is not None:
            raise BadInput("captured activations bring their own behaviour, floor, groups and domains: leave them out.")
        return activations.sites, activations.observations
    sites = _sites(activations)
    n = len(next(iter(sites.values())))
    for name, values in sites.items():
        if getattr(values, "ndim", 0) != 2 or len(values) != n or n == 0:
            raise BadInput(f"activations '{name}' have shape {tuple(values.shape)}: all need [n, d] with one n ({n}).")
    if behaviour is None:
        raise BadInput("activations from arrays need behaviour=: labels [n], a law [n, n_outcomes], or {name: either}.")
    laws = behaviour if isinstance(behaviour, Mapping) else {"behaviour": behaviour}
    blocks = floor if isinstance(floor, Mapping) else {} if floor is None else {"input": floor}
    observations = Observations(
        example=np.arange(n),
        position=np.zeros(n, dtype=np.int64),
        group=_column(groups, n, "groups", np.arange(n)),
        domain=_domain(domains, n),
        behaviours={name: as_behaviour(name, values, n) for name, values in laws.items()},
        features={name: as_feature(name, values, n) for name, values in (features or {}).items()},
        floor_inputs={name: _block(name, values, n) for name, values in blocks.items()},
    )
    return sites, observations


def as_behaviour(name: str, values: Any, n: int) -> Behaviour:
    """Labels [n] become one-hot laws; floats [n, n_outcomes] are laws already."""
    if isinstance(values, Behaviour):
        return values
    array = _numpy(values)
    if array.ndim == 2:
        if len(array) != n:
            raise BadInput(f"behaviour '{name}' has {len(array)} rows for {n} rows of activations.")
        return reduce_law(name, array.astype(np.float32), [str(i) for i in range(array.shape[1])])
    if array.shape != (n,):
        raise BadInput(f"behaviour '{name}' has shape {array.shape} for {n} rows: give labels [n] or a law [n, n_outcomes].")
    classes, code = np.unique(array, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(f"behaviour '{name}' has one class ('{classes[0]}'): there is nothing to explain.")
    if len(classes) > n // 2:
        raise BadInput(f"behaviour '{name}' has {len(classes)} classes in {n} rows: labels must repeat; give a law instead.")
    return Behaviour(name, np.eye(len(classes), dtype=np.float32)[code], tuple(str(c) for c in classes))


def as_feature(name: str, values: Any, n: int) -> Feature:
    """Labels [n] or [n, n_targets] of any type, numbered by sorted class."""
    if isinstance(values, Feature):
        return values
    array = _numpy(values)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n:
        raise BadInput(f"feature '{name}' has shape {array.shape} for {n} rows: give labels [n] or [n, n_targets].")
    classes, code = np.unique(array, return_inverse=True)
    targets = tuple(str(i) for i in range(array.shape[1]))
    return Feature(name, code.reshape(array.shape).astype(np.int64), tuple(str(c) for c in classes), targets)


def fingerprint(sites: Mapping[str, Any]) -> str:
    """Digest of arrays' bytes, for provenance."""
    import hashlib

    return digest({name: hashlib.sha256(np.ascontiguousarray(_numpy(v))).hexdigest() for name, v in sites.items()})


def _sites(activations: Any) -> Mapping[str, Any]:
    if isinstance(activations, str | Path):
        return _load(Path(activations))
    if isinstance(activations, Mapping):
        if not activations:
            raise BadInput("no activations: the mapping of hook names to arrays is empty.")
        return {str(name): _numpy(v) if not isinstance(v, str | Path) else _only(v) for name, v in activations.items()}
    return {"activations": _numpy(activations)}


def _only(path: str | Path) -> NDArray:
    return next(iter(_load(Path(path)).values()))


def _load(path: Path) -> Mapping[str, Any]:
    """Arrays of a .npy or .safetensors file, by name."""
    if not path.is_file():
        raise BadInput(f"no activations file {path}.")
    if path.suffix == ".npy":
        try:
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        except ValueError as error:
            raise BadInput(f"{path} is no plain .npy array: {error}.") from None
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(f"{path} is no valid safetensors file: {error}.") from None
    raise BadInput(f"{path.name}: activations are read from .npy and .safetensors files.")


def _numpy(values: Any) -> NDArray:
    """An array; bfloat16 tensors pass through float32, since NumPy has no such type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if not values.dtype.is_floating_point or values.element_size() < 4 else values).numpy()
    return np.asarray(values)


def _column(values: Any, n: int, name: str, default: NDArray) -> NDArray[np.int64]:
    if values is None:
        return default
    array = _numpy(values)
    if array.shape != (n,):
        raise BadInput(f"{name} has shape {array.shape} for {n} rows of activations.")
    return np.unique(array, return_inverse=True)[1]


def _domain(values: Any, n: int) -> NDArray[np.str_]:
    if values is None:
        return np.full(n, "all")
    array = _numpy(values)
    if array.shape != (n,):
        raise BadInput(f"domains has shape {array.shape} for {n} rows of activations.")
    return array.astype(str)


def _block(name: str, values: Any, n: int) -> NDArray[np.float32]:
    array = _numpy(values).astype(np.float32)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n:
        raise BadInput(f"floor block '{name}' has shape {array.shape} for {n} rows of activations.")
    return array
