"""Bring your own activations: arrays, .npy and safetensors files as sites and observations, without any model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from probekit.containers import check_numbers, check_shape, first_row, lacking, names, numbers, plain, some_rows
from probekit.errors import BadInput, first_line
from probekit.inputs.precision import Narrowing
from probekit.inputs.tensors import open_tensors
from probekit.task import TEXT, Behaviour, Feature, Observations, reduce_law


def as_activations(
    activations: Any,
    behaviour: Any,
    floor: Any,
    groups: Any,
    domains: Any,
    features: Any,
    types: Any = None,
) -> tuple[Mapping[str, Any], Observations]:
    """(sites, observations) of whatever `measure` was given; a captured object passes through as it is."""
    if hasattr(activations, "observations"):
        given = {"behaviour": behaviour, "floor": floor, "groups": groups, "domains": domains, "features": features,
                 "types": types}  # fmt: skip
        if any(value is not None for value in given.values()):
            raise BadInput(
                "captured activations bring their own behaviour, floor, groups, domains, features and types: leave "
                f"{' and '.join(name for name, value in given.items() if value is not None)} out."
            )
        return activations.sites, activations.observations
    _check_order(activations=activations, behaviour=behaviour, floor=floor, groups=groups, domains=domains,
                 features=features, types=types)  # fmt: skip
    sites = as_sites(activations)
    n = len(next(iter(sites.values())))
    if behaviour is None:
        raise BadInput("activations from arrays need behaviour=: labels [n], a law [n, n_outcomes], or {name: either}.")
    alone = behaviour.name if isinstance(behaviour, Behaviour) else "behaviour"
    laws = _named("behaviour", behaviour if isinstance(behaviour, Mapping) else {alone: behaviour})
    if not laws:
        raise BadInput("behaviour is an empty mapping: give {name: labels [n] or a law [n, n_outcomes]}.")
    blocks = _named("floor", floor if isinstance(floor, Mapping) else {} if floor is None else {"input": floor})
    read = {name: _block(name, values, n) for name, values in blocks.items()}
    observations = Observations(
        example=np.arange(n),
        position=np.zeros(n, dtype=np.int64),
        group=np.arange(n) if groups is None else _numbered("groups", groups, n),
        domain=np.full(n, "all") if domains is None else names("domains", domains, (n,)).astype(str),
        behaviours={name: as_behaviour(name, values, n) for name, values in laws.items()},
        features={
            name: as_feature(name, values, n)
            for name, values in _named("features", {} if features is None else features).items()
        },
        floor_inputs={name: block for name, (block, _) in read.items()},
        types=None if types is None else _numbered("types", types, n),
        note="; ".join(filter(None, (told for _, told in read.values()))),
    )
    return sites, observations


def without_missing(how: str, **given: Any) -> tuple[dict[str, Any], str]:
    """What `measure` was given, without the rows that lack a value anywhere, and how many these were, with what.

    how: `drop`, or `refuse` to leave all as it is. given: containers of any kind, files, or mappings of names to
    either; None stays None. Raises BadInput for another word, and for what was captured.
    """
    if how == "refuse":
        return given, ""
    if how != "drop" or hasattr(given["activations"], "observations"):
        raise BadInput(f"missing is '{how}': say refuse, or drop for arrays that are no captured activations.")
    opened = {what: _opened(values) for what, values in given.items() if values is not None}
    bad: dict[str, NDArray[np.bool_]] = {}
    for what, parts in opened.items():
        for name, values in parts.items():
            if not isinstance(values, Behaviour | Feature):
                bad[f"{what} '{name}'" if name else what] = lacking(values)
    n = max(map(len, bad.values()), default=0)
    if any(len(rows) != n for rows in bad.values()):
        return given, ""  # which is told where shapes are
    keep = np.flatnonzero(~np.any(list(bad.values()), axis=0)) if bad else np.arange(n)
    if len(keep) == n:
        return given, ""
    counts = " and ".join(f"{int(rows.sum()):,} without a value in {what}" for what, rows in bad.items() if rows.any())
    made = {what: {name: _some(values, keep) for name, values in parts.items()} for what, parts in opened.items()}
    alone = {what: parts.get("", parts) for what, parts in made.items()}
    return given | alone, f"{n - len(keep):,} of {n:,} rows are left out: {counts}"


def _opened(values: Any) -> dict[str, Any]:
    """Containers by name, of one alone by no name; files are opened."""
    if isinstance(values, str | Path):
        return dict(load_arrays(Path(values)))
    if isinstance(values, Mapping):
        return {str(name): _only(one) if isinstance(one, str | Path) else one for name, one in values.items()}
    return {"": values}


def _some(values: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(values, Behaviour):
        return replace(values, law=values.law[rows])
    return replace(values, labels=values.labels[rows]) if isinstance(values, Feature) else some_rows(values, rows)


def as_sites(activations: Any) -> Mapping[str, NDArray]:
    """Activations by hook name, each [n, d] of one n, of an array, a file or {hook name: either}. Raises BadInput."""
    sites = _sites(activations)
    if not sites:
        raise BadInput("no activations: the mapping of hook names to arrays is empty.")
    first = next(iter(sites.values()))
    for name, values in sites.items():
        if values.ndim != 2 or len(values) != len(first) or 0 in values.shape:
            raise BadInput(
                f"activations '{name}' have shape {values.shape}: all need [n, d], with one n and no side 0."
            )
        check_numbers(f"activations '{name}'", values)
    return sites


def as_behaviour(name: str, values: Any, n: int) -> Behaviour:
    """Labels [n] become one-hot laws; floats [n, n_outcomes] are laws already, whose columns may have names."""
    if isinstance(values, Behaviour):
        check_shape(f"behaviour '{name}'", values.law, (n, len(values.outcomes)), "one for each row")
        return replace(values, name=name)
    what = f"behaviour '{name}'"
    array = plain(what, values)
    if array.ndim == 2 and array.shape[1] > 1:
        check_shape(what, array, (n, -1), "labels [n] or a law [n, n_outcomes]")
        law = numbers(what, array)
        if (law < 0).any():
            raise BadInput(f"{what} is no probability law: it has negative entries, first at row {first_row(law < 0)}.")
        return reduce_law(name, law.astype(np.float32), _columns(values, array.shape[1]))
    check_shape(what, array, (n,), "labels [n] or a law [n, n_outcomes]")
    classes, code = np.unique(names(what, array, (n,)), return_inverse=True)
    if len(classes) > n // 2:
        raise BadInput(
            f"{what} has {len(classes)} classes in {n} rows: labels must repeat; give a law, or of numbers "
            f"Behaviour.number('{name}', values)."
        )
    return Behaviour(name, np.eye(len(classes), dtype=np.float32)[code], tuple(str(c) for c in classes))


def as_feature(name: str, values: Any, n: int) -> Feature:
    """Labels [n] or [n, n_targets] of any type, numbered by sorted class."""
    what = f"feature '{name}'"
    if isinstance(values, Feature):
        check_shape(what, values.labels, (n, -1), "labels [n, n_targets]")
        if ((values.labels < 0) | (values.labels >= len(values.classes))).any():
            raise BadInput(f"{what} has labels that are no numbers of its {len(values.classes)} classes, from 0 on.")
        return replace(values, name=name)
    array = plain(what, values)
    array = array[:, None] if array.ndim == 1 else array
    check_shape(what, array, (n, -1), "labels [n] or [n, n_targets]")
    classes, code = np.unique(names(what, array, (n, -1)), return_inverse=True)
    targets = tuple(_columns(values, array.shape[1]))
    return Feature(name, code.reshape(array.shape).astype(np.int64), tuple(str(c) for c in classes), targets)


def _columns(values: Any, n: int) -> list[str]:
    """Names of the n columns of a frame or an Arrow table; numbers where they have none."""
    return [str(name) for name in getattr(values, "column_names", getattr(values, "columns", range(n)))]


def _check_order(**given: Any) -> None:
    """Raise BadInput where the indices of pandas tell that the same rows come in two orders; they are read by place."""
    known: list[tuple[str, Any]] = []
    for what, values in given.items():
        for one in values.values() if isinstance(values, Mapping) else [values]:
            index: Any = getattr(one, "index", None)
            if not hasattr(index, "equals"):
                continue
            for other, before in known[:1]:
                if not index.equals(before) and len(index) == len(before) and set(index) == set(before):
                    row = int(np.argmax(np.asarray(index != before)))
                    raise BadInput(
                        f"{other} and {what} have one index in two orders: row {row} is {before[row]} in the first "
                        f"and {index[row]} in the second; sort one as the other, or give .to_numpy() of both."
                    )
            known.append((what, index))


def _named(what: str, given: Any) -> dict[str, Any]:
    """The same with names that are text."""
    if not isinstance(given, Mapping):
        raise BadInput(f"{what} is a {type(given).__name__}: give a mapping of names to arrays.")
    made = {str(name): values for name, values in given.items()}
    if len(made) < len(given):
        raise BadInput(f"{what} has names that are written alike, of {', '.join(made)}: give each one of its own.")
    return made


def _sites(activations: Any) -> Mapping[str, NDArray]:
    if isinstance(activations, str | Path):
        loaded = load_arrays(Path(activations))
        return {name: plain(f"'{name}' of {activations}", values) for name, values in loaded.items()}
    if isinstance(activations, Mapping):
        named = _named("activations", activations)
        return {name: plain(f"activations '{name}'", _only(v) if isinstance(v, str | Path) else v)
                for name, v in named.items()}  # fmt: skip
    return {"activations": plain("activations", activations)}


def _only(path: str | Path) -> NDArray:
    arrays = load_arrays(Path(path))
    if len(arrays) != 1:
        raise BadInput(f"{path} holds {len(arrays)} arrays where one is needed: give the file itself as activations.")
    return next(iter(arrays.values()))


def load_arrays(path: Path) -> Mapping[str, Any]:
    """Arrays of a .npy, .npz or .safetensors file, by name. Raises BadInput."""
    if not path.is_file():
        raise BadInput(f"no activations file {path}.")
    if path.suffix == ".npy":
        try:
            # Copy on write: nothing can reach the file, and torch takes no read-only arrays.
            return {path.stem: np.load(path, mmap_mode="c", allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise BadInput(f"{path} is no plain .npy array: {error}.") from None
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (ValueError, OSError, BadZipFile, EOFError) as error:
            raise BadInput(f"{path} is no .npz file of plain arrays: {first_line(error)}.") from None
        if not arrays:
            raise BadInput(f"{path} holds no arrays.")
        return arrays
    if path.suffix == ".safetensors":
        with open_tensors(path, "pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not arrays:
            raise BadInput(f"{path} holds no tensors.")
        return arrays
    raise BadInput(f"{path.name}: activations are read from .npy, .npz and .safetensors files.")


def _numbered(what: str, values: Any, n: int) -> NDArray[np.int64]:
    return np.unique(names(what, values, (n,)), return_inverse=True)[1]


def _block(name: str, values: Any, n: int) -> tuple[NDArray[np.float32] | NDArray[np.object_], str]:
    """A floor's block [n, width], or the texts of `text` [n], and what was lost of it before."""
    what = f"floor block '{name}'"
    array = plain(what, values)
    if name == TEXT:
        check_shape(what, array, (n,), "one text for each row, and numbers under another name")
        if array.dtype.kind not in "UO":
            raise BadInput(f"{what} is of type {array.dtype}: it holds strings; give numbers under another name.")
        return array.astype(object), ""  # what each row reads, of which a floor takes the n-grams
    array = numbers(what, array, "numbers are needed (one-hot columns for words; texts are a floor's block `text`)")
    array = array[:, None] if array.ndim == 1 else array
    check_shape(what, array, (n, -1), "one value or one row of values for each, and leave out what has none")
    narrow = Narrowing.of(what, array, floor=True)
    return narrow(array).astype(np.float32, copy=False), narrow.told
