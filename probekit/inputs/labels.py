"""Labels: columns of a file as behaviours and features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.columns import Columns, as_list
from probekit.inputs.words import as_number, in_order
from probekit.spec import BehaviourEntry, FeatureEntry
from probekit.task import MAX_OUTCOMES, Behaviour, Feature, find_constant

Rows = list[tuple[int, Any]]  # (row of the file, value) for each place that is read


def per_place(column: str, columns: Columns, positions: Sequence[NDArray]) -> Rows:
    """The column's value at every place that is read: a list has one for each, anything else holds at all of them."""
    out: Rows = []
    for i, (value, places) in enumerate(zip(columns.present(column), positions, strict=True)):
        several = None if as_list(value) is None else columns.items(i, column)
        if several is not None and len(several) != len(places):
            raise BadInput(
                f"{columns.row(i)} has {len(several)} values in column '{column}' and is read at {len(places)} "
                "positions: give one for each, or a single one for all."
            )
        out += [(i, each) for each in ([value] * len(places) if several is None else several)]
    return out


def _words(entry: BehaviourEntry | FeatureEntry, columns: Columns, rows: Rows) -> list[str]:
    """Classes as they are written."""
    where = f"for '{entry.name}' in column '{entry.column}'"
    return columns.words(rows, str(entry.column), where, "a class, as a word or an integer")


def classes_of(entry: BehaviourEntry | FeatureEntry, columns: Columns) -> list[str] | None:
    """The class of each row, of a list each of its own; None of a column of fractions. Raises BadInput."""
    cells = columns.as_fractions(columns.cells(str(entry.column)))
    return None if any(isinstance(value, float) for _, value in cells) else _words(entry, columns, cells)


def _classes(
    entry: BehaviourEntry | FeatureEntry, columns: Columns, rows: Rows
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(class at each place [n], class names): integers in order of size, all else by name."""
    words = _words(entry, columns, rows)
    known = {name: i for i, name in enumerate(in_order(words))}
    return np.array([known[name] for name in words], dtype=np.int64), tuple(known)


def label(entry: BehaviourEntry, columns: Columns, rows: Rows) -> Behaviour:
    """A label column as a law: classes one-hot; a column of fractions is the probability of the second outcome."""
    if entry.kind == "value":
        return _number(entry, columns, columns.as_numbers(rows))
    rows = columns.as_fractions(rows)
    if any(isinstance(value, float) for _, value in rows):
        return _fractions(entry, columns, rows)
    labels, names = _classes(entry, columns, rows)
    if len(names) > MAX_OUTCOMES:
        # Reduced before it is spread out: one-hot rows of a column of ids would be as wide as the file is long.
        counts = np.bincount(labels)
        kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_OUTCOMES])
        new = np.full(len(names), MAX_OUTCOMES)
        new[kept] = np.arange(MAX_OUTCOMES)
        law = np.eye(MAX_OUTCOMES + 1, dtype=np.float32)[new[labels]]
        covered = float(counts[kept].sum() / len(labels))
        return Behaviour(entry.name, law, (*(names[i] for i in kept), "rest"), covered)
    return Behaviour(entry.name, np.eye(len(names), dtype=np.float32)[labels], names)


def check_varies(labels: Mapping[str, Behaviour], columns: Columns, domain: NDArray[np.str_]) -> None:
    try:
        find_constant(labels, domain, list(dict.fromkeys(domain.tolist())))
    except BadInput as error:
        raise BadInput(f"{columns.path}: {error}") from None


def _fractions(entry: BehaviourEntry, columns: Columns, rows: Rows) -> Behaviour:
    for i, value in rows:
        if not 0 <= (-1 if (said := _plain(value)) is None else said) <= 1:
            raise BadInput(
                f"{columns.row(i)} has {value!r} for '{entry.name}' in column '{entry.column}': give classes, or "
                "numbers in [0, 1], or ask for kind value."
            )
    second = np.array([value for _, value in rows], dtype=np.float32)
    return Behaviour(entry.name, np.stack([1 - second, second], axis=1), ("0", "1"))


def _number(entry: BehaviourEntry, columns: Columns, rows: Rows) -> Behaviour:
    for i, value in rows:
        if _plain(value) is None:
            raise BadInput(
                f"{columns.row(i)} has {value!r:.40} for '{entry.name}' in column '{entry.column}': a behaviour of "
                "kind value takes numbers that are finite; for classes ask for kind label."
            )
    return Behaviour.number(entry.name, np.array([value for _, value in rows], dtype=np.float64))


def _plain(value: Any) -> float | None:
    """The number that a value is, where it is no text."""
    return None if isinstance(value, str) else as_number(value)


def feature(entry: FeatureEntry, columns: Columns, rows: Rows) -> Feature:
    labels, classes = _classes(entry, columns, columns.as_fractions(rows))
    if len(classes) < 2:
        only = ", ".join(classes)
        raise BadInput(
            f"{columns.path}: feature '{entry.name}' has one class ('{only}') in column '{entry.column}': give rows of "
            "another too."
        )
    if len(classes) > MAX_OUTCOMES:
        raise BadInput(
            f"{columns.path}: feature '{entry.name}' has {len(classes)} classes in column '{entry.column}': give at "
            f"most {MAX_OUTCOMES}."
        )
    return Feature(entry.name, labels[:, None], classes, (entry.name,))
