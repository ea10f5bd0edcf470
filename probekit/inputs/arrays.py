"""Bring your own activations: arrays, .npy and safetensors files as sites and observations, without any model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.task import TEXT, Behaviour, Feature, Observations, reduce_law


def as_activations(
    activations: Any,
    behaviour: Any,
    floor: Any,
    groups: Any,
    domains: Any,
    features: Mapping[str, Any] | None,
    types: Any = None,
) -> tuple[Mapping[str, Any], Observations]:
    """(sites, observations) of whatever `measure` was given; a captured object passes through as it is."""
    if hasattr(activations, "observations"):
        if behaviour is not None or floor is not None or groups is not None or domains is not None:
            raise BadInput("captured activations bring their own behaviour, floor, groups and domains: leave them out.")
        return activations.sites, activations.observations
    sites = _sites(activations)
    shapes: dict[str, tuple[int, ...]] = {name: tuple(getattr(values, "shape", ())) for name, values in sites.items()}
    n = next(iter(shapes.values()))[0] if next(iter(shapes.values())) else 0
    for name, values in sites.items():
        if len(shapes[name]) != 2 or shapes[name][0] != n or 0 in shapes[name]:
            raise BadInput(
                f"activations '{name}' have shape {shapes[name]}: all need [n, d], with one n and no side 0."
            )
        if isinstance(values, np.ndarray) and values.dtype.kind not in "fiub":
            raise BadInput(f"activations '{name}' are of type {values.dtype}: numbers are needed.")
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
        types=None if types is None else _column(types, n, "types", np.arange(n)),
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
        law = _numbers(f"behaviour '{name}'", array)
        if (law < 0).any():
            raise BadInput(f"behaviour '{name}' is no probability law: it has negative entries.")
        return reduce_law(name, law, [str(i) for i in range(array.shape[1])])
    if array.shape != (n,):
        raise BadInput(
            f"behaviour '{name}' has shape {array.shape} for {n} rows: give labels [n] or a law [n, n_outcomes]."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"behaviour '{name}' has labels that are not finite, the first at row {_first_bad(array)}.")
    classes, code = np.unique(array, return_inverse=True)
    if len(classes) > n // 2:
        raise BadInput(
            f"behaviour '{name}' has {len(classes)} classes in {n} rows: labels must repeat; give a law, or of numbers "
            f"Behaviour.number('{name}', values)."
        )
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


def _sites(activations: Any) -> Mapping[str, Any]:
    if isinstance(activations, str | Path):
        return _load(Path(activations))
    if isinstance(activations, Mapping):
        if not activations:
            raise BadInput("no activations: the mapping of hook names to arrays is empty.")
        return {str(name): _numpy(v) if not isinstance(v, str | Path) else _only(v) for name, v in activations.items()}
    return {"activations": _numpy(activations)}


def _only(path: str | Path) -> NDArray:
    arrays = _load(Path(path))
    if len(arrays) != 1:
        raise BadInput(f"{path} holds {len(arrays)} arrays where one is needed: give the file itself as activations.")
    return next(iter(arrays.values()))


def _load(path: Path) -> Mapping[str, Any]:
    """Arrays of a .npy or .safetensors file, by name."""
    if not path.is_file():
        raise BadInput(f"no activations file {path}.")
    if path.suffix == ".npy":
        try:
            # Copy on write: nothing can reach the file, and torch takes no read-only arrays.
            return {path.stem: np.load(path, mmap_mode="c", allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise BadInput(f"{path} is no plain .npy array: {error}.") from None
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise BadInput(f"{path} is no valid safetensors file: {error}.") from None
        if not arrays:
            raise BadInput(f"{path} holds no tensors.")
        return arrays
    raise BadInput(f"{path.name}: activations are read from .npy and .safetensors files.")


def _numpy(values: Any) -> NDArray:
    """An array; bfloat16 tensors pass through float32, since NumPy has no such type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if not values.dtype.is_floating_point or values.element_size() < 4 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise BadInput(f"an array is needed, all rows of one length: {str(error).rstrip('.')}.") from None


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


def _block(name: str, values: Any, n: int) -> NDArray[np.float32] | NDArray[np.object_]:
    array = _numpy(values)
    if name == TEXT and array.dtype.kind in "OU" and array.shape == (n,):
        return array.astype(object)  # what each row reads, of which a floor takes the n-grams
    array = _numbers(f"floor block '{name}'", array)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n:
        raise BadInput(f"floor block '{name}' has shape {array.shape} for {n} rows of activations.")
    return array


def _numbers(what: str, array: NDArray) -> NDArray[np.float32]:
    """As float32; text, and anything not finite, is refused with its row."""
    if array.dtype.kind not in "fiub":
        words = "one-hot columns for words; texts are a floor's block `text`"
        raise BadInput(f"{what} is of type {array.dtype}: numbers are needed ({words}).")
    if not np.isfinite(array).all():
        raise BadInput(f"{what} is not finite, first at row {_first_bad(array)}.")
    return array.astype(np.float32)


def _first_bad(array: NDArray) -> int:
    return int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0])
