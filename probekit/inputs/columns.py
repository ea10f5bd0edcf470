"""Columns: the cells of a file of rows that were asked for, and sentences that say where one is wrong.

A file is CSV, TSV, JSON (a list of objects), JSONL or Parquet; all but the last may be packed by gzip or Zstandard.
Cells of a CSV or TSV are text, whatever they look like: who needs a number there parses it.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os.path import isfile  # which says no to a name that no path can have
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from probekit.errors import BadInput, check_texts, nearest
from probekit.inputs.words import INTEGER, KINDS, NUMBER, Written, as_number, missing, word

HEADER_BYTES = 2**24  # of a CSV, that its names are looked for in; the first row must lie within them
PACKED = {".gz": "gzip", ".zst": "zstd"}
SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Cells, each to its end: between quotation marks, which are doubled inside, or without one in front.
_CELLS = {
    kind: re.compile(rb'(?:(?:"(?:[^"]++|"")*+"|[^"\r\n%b][^\r\n%b]*+|)(?:%b|\r\n?|\n|\Z))*+' % ((mark.encode(),) * 3))
    for kind, mark in SEPARATORS.items()
}
PAIR = "pair"  # the column that a file of pairs is given
LEAST_ROWS = 3  # fit, selection and test sides each need a group


@dataclass(frozen=True)
class Columns:
    """Values by column, in the order of the file. numbers: of each row in the file, from 1, a header not counted.

    dropped: how many rows were left out for want of a value, by the column that lacks it.
    """

    path: Path
    values: Mapping[str, list]
    numbers: Sequence[int]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return _unpacked(self.path).stem

    @property
    def typed(self) -> bool:
        """Whether numbers and truth values are told from text, which CSV and TSV cannot."""
        return kind_of(self.path) not in SEPARATORS

    def is_empty(self, value: object) -> bool:
        """Whether a cell is an empty text: any that nothing is written in, of files that cannot say that it lacks."""
        return isinstance(value, str | None) and not value and (value is not None or not self.typed)

    def row(self, i: int) -> str:
        """Row `i` in words, for a sentence."""
        return f"{self.path} row {self.numbers[i]}"

    def check_present(self, i: int, column: str, value: object) -> None:
        """Raise BadInput where a value of row `i` is missing."""
        if missing(value):
            raise BadInput(
                f"{self.row(i)} has no value in column '{column}': fill it in, drop the row, or leave such rows out "
                'with missing = "drop".'
            )

    def present(self, column: str) -> list:
        """The column's values, none missing."""
        for i, value in enumerate(self.values[column]):
            self.check_present(i, column, value)
        return self.values[column]

    def present_as(self, kinds: type | UnionType, column: str, where: str, give: str) -> list:
        """The column's values, none missing and each one of `kinds`; where, give: two parts of the sentence if not."""
        for i, value in enumerate(self.present(column)):
            if not isinstance(value, kinds):
                raise BadInput(f"{self.row(i)} has a {type(value).__name__} in {where}: give {give}.")
        return self.values[column]

    def cells(self, column: str) -> list[tuple[int, Any]]:
        """(row, value) of every cell; of a list each of its values."""
        return [(i, each) for i, value in enumerate(self.present(column))
                for each in (self.items(i, column) if as_list(value) is not None else [value])]  # fmt: skip

    def items(self, i: int, column: str) -> list:
        """The values of a list in row `i`, as Python's own, none missing."""
        items = [item.item() if isinstance(item, np.generic) else item for item in self.values[column][i]]
        for item in items:
            self.check_present(i, column, item)
        return items

    def check_one_type(self, cells: Iterable[tuple[int, Any]], column: str) -> None:
        """Raise BadInput where words (row, value) are of several types: 1 and "1" would be one, and one a token id."""
        first: dict[type, int] = {}
        for i, value in cells:
            first.setdefault(type(value), i)
        if len(first) > 1:
            (one, at), (other, there) = list(first.items())[:2]
            raise BadInput(
                f"{self.path} has values of two types in column '{column}', {KINDS[one]} in row {self.numbers[at]} and "
                f"{KINDS[other]} in row {self.numbers[there]}: write all of them in one way."
            )

    def words(self, cells: Sequence[tuple[int, Any]], column: str, what: str, give: str) -> list[str]:
        """Cells (row, value) as they are written. what: they were asked as; give: what they can be. Raises BadInput."""
        for i, value in cells:
            # NumPy drops zeros at the end of a name.
            if type(value) not in KINDS or (isinstance(value, str) and (value.isspace() or "\0" in value)):
                raise BadInput(f"{self.row(i)} has {value!r:.40} {what}: give {give}.")
        self.check_one_type(cells, column)
        return [word(value) for _, value in cells]

    def names(self, column: str, what: str) -> list[str]:
        """The column as names. what: what it was asked as."""
        where, give = f"the {what} column '{column}'", "a name or number"
        cells = list(enumerate(self.present_as(str | int | bool, column, where, give)))
        return self.words(cells, column, f"in {where}", give)

    def as_numbers(self, cells: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Cells whose text says a number as that number; in a file that has types nothing is changed."""
        if self.typed:
            return cells
        return [(i, value if (said := as_number(value)) is None else said) for i, value in cells]

    def as_fractions(self, cells: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Cells of a file without types as numbers where all are, and one is written with a point: else as they are."""
        told = [value for _, value in cells if isinstance(value, str)]
        if self.typed or not all(map(NUMBER.fullmatch, told)) or all(map(INTEGER.fullmatch, told)):
            return cells
        return self.as_numbers(cells)

    def integers(self, i: int, column: str, what: str, single: bool = False) -> np.ndarray:
        """Row `i` of a column of integers from 0 on: a list, or numbers separated by spaces. what: `token ids`, ...

        single: a number by itself is a list of one.
        """
        value = self.values[column][i]
        self.check_present(i, column, value)
        value = [value] if single and not isinstance(value, str | list | np.ndarray) else value
        if isinstance(value, str):
            parts = value.split()
            value = [int(part) for part in parts] if all(map(INTEGER.fullmatch, parts)) else ["no number"]
        try:
            found = np.array(value)
        except (ValueError, OverflowError):
            found = np.array(["no number"])
        if found.shape == (0,):
            return found.astype(np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu" or found.astype(np.int64).min() < 0:
            raise BadInput(
                f"{self.row(i)} has {str(self.values[column][i])[:40]!r} in column '{column}': give {what}, integers "
                "from 0 on, as a list or separated by spaces."
            )
        return found.astype(np.int64)

    def first(self, n: int, per: str | None) -> "Columns":
        """The first `n` rows of each value of the column `per`, or of all."""
        seen: Counter = Counter()
        keep = []
        for row, domain in enumerate(self.values[per] if per else ["all"] * len(self)):
            seen[str(domain)] += 1
            if seen[str(domain)] <= n:
                keep.append(row)
        return self._rows(keep)

    def without_missing(
        self, needed: Iterable[str], pieces: Collection[str] = (), bare: Iterable[Sequence[str]] = ()
    ) -> "Columns":
        """Without the rows that lack a value in one of the `needed` columns, and with how many those are.

        pieces: those of them that are pieces of a text and nothing else, of which an empty one says something. bare:
        columns that together are all of a text, which one of them has to be there for.
        """
        lacks: dict[int, str] = {}
        for column in needed:
            for row, value in enumerate(self.values[column]):
                empty = column in pieces and self.is_empty(value)
                if not empty and (missing(value) or any(map(missing, as_list(value) or ()))):
                    lacks.setdefault(row, column)
        for columns in bare:
            for row in range(len(self)):
                if all(self.is_empty(self.values[column][row]) for column in columns):
                    lacks.setdefault(row, columns[0])
        kept = [row for row in range(len(self)) if row not in lacks]
        if not kept:
            raise BadInput(f"{self.path} has no row with a value in every column that is asked for: fill some in.")
        return replace(self._rows(kept), dropped=Counter(lacks.values()))

    def _rows(self, kept: Sequence[int]) -> "Columns":
        values = {name: [values[row] for row in kept] for name, values in self.values.items()}
        return replace(self, values=values, numbers=[self.numbers[row] for row in kept])

    def swapped(self, column: str, rows: Sequence[int], donors: Sequence[int]) -> "Columns":
        """These rows, each with another row's cell in one column."""
        own = self._rows(rows)
        return replace(own, values={**own.values, column: [self.values[column][i] for i in donors]})

    def paired(self, members: Sequence[str], own: Mapping[str, Sequence[str]]) -> "Columns":
        """Each row once for each of `members`, two columns, with the column `pair`, which says for whose sake.

        own: columns that are made, and the two that they come from, one for each member.
        """
        values = {name: [value for value in values for _ in members] for name, values in self.values.items()}
        for name, columns in own.items():
            both = zip(*(self.values[column] for column in columns), strict=True)
            values[name] = [cell for row in both for cell in row]
        numbers = [number for number in self.numbers for _ in members]
        return replace(self, values=values | {PAIR: list(members) * len(self)}, numbers=numbers)


def as_list(value: Any) -> list | None:
    """A cell that holds several values as a list; None for a single one."""
    return list(value) if isinstance(value, list | tuple | np.ndarray) else None


def read_columns(path: Path, asked: Mapping[str, str]) -> Columns:
    """The columns that `asked` names (column -> what for)."""
    readers = dict.fromkeys(SEPARATORS, _read_csv) | dict.fromkeys(OBJECTS, _read_json) | {".parquet": _read_parquet}
    with _reading(path, tuple(readers)) as kind:
        values, n_rows = readers[kind](path, asked)
    if not n_rows:
        raise BadInput(f"{path} has no rows: give a file with at least {LEAST_ROWS} of them.")
    return Columns(path, values, range(1, n_rows + 1))


def check_columns(path: Path, asked: Mapping[str, str]) -> None:
    """Raise BadInput where the file lacks a column that `asked` names; no more is read than that takes."""
    _require(path, _names(path, asked), asked)


def check_free(path: Path, made: Mapping[str, Sequence[str]]) -> None:
    """Raise BadInput where the file has a column that a task of pairs makes. made: its name and what it comes from."""
    for name, columns in made.items():
        if name in _names(path, {name: "made"}):
            which = " and ".join(f"'{column}'" for column in columns)
            raise BadInput(
                f"{path} has a column '{name}', and this task of pairs makes one of that name, of {which}: rename it."
            )


def _names(path: Path, asked: Mapping[str, str]) -> list[str]:
    """Names of the file's columns, of a file of objects as far as needed to see those that `asked` names."""
    readers = dict.fromkeys(SEPARATORS, _names_of_csv) | dict.fromkeys(OBJECTS, _names_of_json)
    readers |= {".parquet": _names_of_parquet}
    with _reading(path, tuple(readers)) as kind:
        return readers[kind](path, asked)


@contextmanager
def _reading(path: Path, known: Sequence[str]) -> Iterator[str]:
    """The kind of file that is to be read; what the library that reads it says becomes one sentence."""
    kind = kind_of(path)
    if kind not in known or (kind == ".parquet" and path.suffix.lower() in PACKED):
        packed = f"all but .parquet also packed, in {' or '.join(PACKED)}"
        raise BadInput(f"{path} is not read: known files end in {', '.join(known)}, {packed}; convert it to one.")
    if not isfile(path):
        raise BadInput(f"no file {path}: give a path relative to the spec file, or an absolute one.")
    if not path.stat().st_size:
        raise BadInput(f"{path} is empty: give a file with at least {LEAST_ROWS} rows.")
    try:
        yield kind
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(f"{path} cannot be read as {kind[1:]}: {first}; repair or convert it.") from None


def kind_of(path: Path) -> str:
    """How a file's name ends, whatever packs it: `.csv` of rows.csv.gz."""
    return _unpacked(path).suffix.lower()


def _unpacked(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def _bytes(path: Path) -> io.BufferedReader | io.BytesIO:
    """What a file holds, unpacked."""
    if path.suffix.lower() not in PACKED:
        return path.open("rb")
    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, PACKED[path.suffix.lower()]) as unpacked:
        return io.BytesIO(unpacked.read())


def _require(path: Path, names: Sequence[str], asked: Mapping[str, str]) -> None:
    for column, role in asked.items():
        if column not in names:
            near = nearest(column, names)
            hint = f"did you mean '{near}'?" if near else "it has none."
            raise BadInput(f"{path} has no column '{column}' (asked for as {role}): {hint}")
        if list(names).count(column) > 1:
            raise BadInput(f"{path} has the column '{column}' twice (asked for as {role}): rename one of them.")


def _read_csv(path: Path, asked: Mapping[str, str]) -> tuple[dict[str, list], int]:
    # Nothing is guessed: `007` and `1` and `true` are texts. An empty cell is missing, `NA` is a word.
    types = dict.fromkeys(asked, pa.string())
    convert = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    with _bytes(path) as file:
        _check_quotes(path, file.read())
        return _from_table(path, csv.read_csv(file, *_how(path, file, 2**31 - 1), convert), asked)


def _check_quotes(path: Path, text: bytes) -> None:
    """Raise BadInput for a cell that does not end with its closing quotation mark.

    A reader would leave the marks out, or take the rows behind an open one for a part of the cell.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    found = _CELLS[kind_of(path)].match(text) if b'"' in text else None
    if found and found.end() < len(text):
        line = 1 + text.count(b"\n", 0, found.end())
        raise BadInput(
            f"{path} line {line} has a cell that begins with a quotation mark and does not end with one: put quotation "
            "marks around the whole cell, and double those in it."
        )


def _how(path: Path, file: io.BufferedReader | io.BytesIO, most: int) -> tuple[csv.ReadOptions, csv.ParseOptions]:
    """A row must lie within two blocks, and a text may be longer than the default of 1 MiB: the file is one block."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    read = csv.ReadOptions(block_size=min(size + 1024, most))
    return read, csv.ParseOptions(delimiter=SEPARATORS[kind_of(path)], newlines_in_values=True)


def _read_parquet(path: Path, asked: Mapping[str, str]) -> tuple[dict[str, list], int]:
    with parquet.ParquetFile(path) as file:
        _require(path, file.schema_arrow.names, asked)
        return _from_table(path, file.read(columns=list(asked)), asked)


def _from_table(path: Path, table: pa.Table, asked: Mapping[str, str]) -> tuple[dict[str, list], int]:
    _require(path, table.column_names, asked)
    columns = {}
    for name in asked:
        column = table.column(name)
        nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        # Lists come as arrays: a list of Python integers per row would be ten times the memory.
        columns[name] = list(column.to_numpy()) if nested else column.to_pylist()
    return columns, table.num_rows


def _names_of_csv(path: Path, asked: Mapping[str, str]) -> list[str]:
    with _bytes(path) as file, csv.open_csv(file, *_how(path, file, HEADER_BYTES)) as opened:
        return opened.schema.names


def _names_of_parquet(path: Path, asked: Mapping[str, str]) -> list[str]:
    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names


def _names_of_json(path: Path, asked: Mapping[str, str]) -> list[str]:
    """Names of the first rows, as far as needed to see those asked for: a row may leave out what is empty."""
    names: dict[str, None] = {}
    for row in OBJECTS[kind_of(path)](path):
        names.update(dict.fromkeys(row))
        if asked.keys() <= names.keys():
            break
    return list(names)


def _read_json(path: Path, asked: Mapping[str, str]) -> tuple[dict[str, list], int]:
    rows, names = [], {}
    for number, row in enumerate(OBJECTS[kind_of(path)](path), 1):
        names.update(dict.fromkeys(row))
        rows.append({column: row.get(column) for column in asked})
        for column, value in rows[-1].items():
            check_texts(value, f"{path} row {number}, column '{column}',")
    if rows:
        _require(path, list(names), asked)
    return {column: [row[column] for row in rows] for column in asked}, len(rows)


def _objects_by_line(path: Path) -> Iterator[dict[str, Any]]:
    with _bytes(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                where = f"{path} line {number}"
                row = _parsed(line, where, "write one object per line")
                if not isinstance(row, dict):
                    raise BadInput(f"{where} is a {type(row).__name__}: write one JSON object per line.")
                yield row


def _objects_in_a_list(path: Path) -> Iterator[dict[str, Any]]:
    with _bytes(path) as file:
        found = _parsed(file.read(), str(path), "write a list of objects; one per line is .jsonl")
    if not isinstance(found, list):
        raise BadInput(f"{path} holds a {type(found).__name__}: write a list of objects, one for each row.")
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise BadInput(f"{path} row {number} is a {type(row).__name__}: write a list of objects.")
        yield row


def _parsed(text: bytes, where: str, instead: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"), parse_float=Written, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} cannot be read as UTF-8 ({error.reason}): save the file as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply" if deep else str(error)
        raise BadInput(f"{where} is not JSON ({reason}): {instead}.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, which has each name once: JSON would take the last value of several without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"it has '{twice}' twice")
    return found


OBJECTS = {".json": _objects_in_a_list, ".jsonl": _objects_by_line}
