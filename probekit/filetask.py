"""A Task read from a CSV, JSONL or Parquet file whose columns a TaskSpec names. Every mistake is one BadInput sentence.

Rows are numbered from 1 in messages, a header not counted. A position counts tokens as the tokeniser returns them, so a
beginning-of-sequence token that it adds is position 0.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from probekit.errors import BadInput
from probekit.records import digest
from probekit.spec import BehaviourEntry, TaskSpec
from probekit.task import MAX_OUTCOMES, Behaviour, BehaviourSpec, Feature, Task

Tokeniser = Callable[[list[str]], Sequence[NDArray]]
Columns = dict[str, list]

MIN_GROUPS = 3  # fit, selection and test sides each need one


def read_file_task(spec: TaskSpec, base: Path, tokeniser: Tokeniser | None = None) -> Task:
    """Read `spec.file` (relative to `base`) into a Task with one position per row of the file.

    tokeniser maps texts to arrays of token ids, under the policy for special tokens that the model is run with; it may
    be None when a token column is named. Raises BadInput.
    """
    if spec.file is None:
        raise BadInput("the task names no file: give `file`, or a `testbed` instead.")
    if spec.n_positions is not None:
        raise BadInput("n_positions is for testbeds: a file is read at its `position` column, or at the last token.")
    if (spec.text is None) == (spec.tokens is None):
        found = "neither" if spec.text is None else "both"
        raise BadInput(f"a file task has either a `text` or a `tokens` column; found {found}: name one of them.")
    path = base / spec.file
    columns, n_rows = _read_columns(path, _asked(spec))
    columns, n_rows = _cap(columns, n_rows, spec)
    domain = _strings(columns, spec.domain, "domain", path) or ["all"] * n_rows
    _check_ids(columns, spec.id, path)
    tokens = (
        _texts(columns, spec.text, tokeniser, path) if spec.text else _token_lists(columns, spec.tokens or "", path)
    )
    labels = {entry.name: _label(entry, columns, path) for entry in spec.behaviours if entry.kind == "label"}
    return Task(
        name=path.stem,
        tokens=tokens,
        positions=_positions(columns, spec.position, tokens, path),
        group=_groups(columns, spec.group, domain, path),
        domain=np.array(domain, dtype=np.str_),
        behaviours=[_behaviour(entry, labels, tokeniser) for entry in _unique(spec.behaviours, "behaviour")],
        features={entry.name: _feature(entry.name, entry.column, columns, path)
                  for entry in _unique(spec.features, "feature")},
        labels=labels,
        fingerprint=_fingerprint(spec, path),
    )  # fmt: skip


def _fingerprint(spec: TaskSpec, path: Path) -> str:
    """Digest of the file's bytes and of every option that decides what is read from them; its place does not matter."""
    options = spec.model_dump(mode="json", exclude={"file", "testbed", "n_positions"})
    return digest({"bytes": hashlib.sha256(path.read_bytes()).hexdigest(), "options": options})


def _unique(entries: Sequence, what: str) -> Sequence:
    if what == "behaviour" and not entries:
        raise BadInput("the task names no behaviours: there is nothing to explain; add [[task.behaviours]].")
    twice = [name for name, n in Counter(entry.name for entry in entries).items() if n > 1]
    if twice:
        raise BadInput(f"the task names the {what} '{twice[0]}' twice: give each a name of its own.")
    return entries


# Columns


def _asked(spec: TaskSpec) -> dict[str, str]:
    """Column -> what it was asked as, for messages."""
    asked = {}
    for entry in (*spec.behaviours, *spec.features):
        if entry.column is not None:
            asked[entry.column] = f"'{entry.name}'"
    for role in ("text", "tokens", "id", "group", "domain", "position"):
        if (column := getattr(spec, role)) is not None:
            asked[column] = role
    return asked


def _read_columns(path: Path, asked: Mapping[str, str]) -> tuple[Columns, int]:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path} is not read: known files end in {', '.join(readers)}; convert it to one of these.")
    if not path.is_file():
        raise BadInput(f"no file {path}: give a path relative to the spec file, or an absolute one.")
    if not path.stat().st_size:
        raise BadInput(f"{path} is empty: give a file with at least {MIN_GROUPS} rows.")
    try:
        columns, n_rows = reader(path, asked)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(f"{path} cannot be read as {path.suffix[1:]}: {first}; repair or convert it.") from None
    if not n_rows:
        raise BadInput(f"{path} has no rows: give a file with at least {MIN_GROUPS} of them.")
    return columns, n_rows


def _require(path: Path, names: Sequence[str], asked: Mapping[str, str]) -> None:
    for column, role in asked.items():
        if column not in names:
            near = get_close_matches(column, names, n=1, cutoff=0.0)
            hint = f"did you mean '{near[0]}'?" if near else "it has none."
            raise BadInput(f"{path} has no column '{column}' (asked for as {role}): {hint}")
        if list(names).count(column) > 1:
            raise BadInput(f"{path} has the column '{column}' twice (asked for as {role}): rename one of them.")


def _read_csv(path: Path, asked: Mapping[str, str]) -> tuple[Columns, int]:
    # A row must lie within two blocks, and a text may be longer than the default of 1 MiB: the file is one block.
    read = csv.ReadOptions(block_size=min(path.stat().st_size + 1024, 2**31 - 1))
    parse = csv.ParseOptions(newlines_in_values=True)
    # A text such as `12` or a group such as `007` stays what it is; an empty cell is missing, `NA` is a word.
    as_text = {column: pa.string() for column, role in asked.items() if not role.startswith("'") and role != "position"}
    convert = csv.ConvertOptions(column_types=as_text, null_values=[""], strings_can_be_null=True)
    return _from_table(path, csv.read_csv(path, read, parse, convert), asked)


def _read_parquet(path: Path, asked: Mapping[str, str]) -> tuple[Columns, int]:
    with parquet.ParquetFile(path) as file:
        _require(path, file.schema_arrow.names, asked)
        return _from_table(path, file.read(columns=list(asked)), asked)


def _from_table(path: Path, table: pa.Table, asked: Mapping[str, str]) -> tuple[Columns, int]:
    _require(path, table.column_names, asked)
    columns = {}
    for name in asked:
        column = table.column(name)
        nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        # Lists come as arrays: a list of Python integers per row would be ten times the memory.
        columns[name] = list(column.to_numpy()) if nested else column.to_pylist()
    return columns, table.num_rows


def _read_jsonl(path: Path, asked: Mapping[str, str]) -> tuple[Columns, int]:
    rows, names = [], {}
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise BadInput(f"{path} line {number} is not JSON ({reason}): write one object per line.") from None
        if not isinstance(row, dict):
            raise BadInput(f"{path} line {number} is a {type(row).__name__}: write one JSON object per line.")
        names.update(dict.fromkeys(row))
        rows.append({column: row.get(column) for column in asked})
    if rows:
        _require(path, list(names), asked)
    return {column: [row[column] for row in rows] for column in asked}, len(rows)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _cap(columns: Columns, n_rows: int, spec: TaskSpec) -> tuple[Columns, int]:
    """The first `n_examples` rows of each domain."""
    if spec.n_examples is None:
        return columns, n_rows
    seen: Counter = Counter()
    keep = []
    for row, domain in enumerate(columns[spec.domain] if spec.domain else ["all"] * n_rows):
        seen[str(domain)] += 1
        if seen[str(domain)] <= spec.n_examples:
            keep.append(row)
    return {name: [values[row] for row in keep] for name, values in columns.items()}, len(keep)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _present(columns: Columns, column: str, path: Path) -> list:
    """The column's values, none missing."""
    values = columns[column]
    for row, value in enumerate(values, 1):
        if _missing(value):
            raise BadInput(f"{path} row {row} has no value in column '{column}': fill it in or drop the row.")
    return values


# Examples


def _strings(columns: Columns, column: str | None, what: str, path: Path) -> list[str]:
    """The column as names; empty when none is named."""
    if column is None:
        return []
    values = _present(columns, column, path)
    for row, value in enumerate(values, 1):
        if not isinstance(value, str | int | bool):
            raise BadInput(
                f"{path} row {row} has a {type(value).__name__} in the {what} column '{column}': give a name or number."
            )
    return [str(value) for value in values]


def _check_ids(columns: Columns, column: str | None, path: Path) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(_strings(columns, column, "id", path), 1):
        if first.setdefault(name, row) != row:
            raise BadInput(
                f"{path} has the id '{name}' in rows {first[name]} and {row}: drop one, or name them differently."
            )


def _groups(columns: Columns, column: str | None, domain: list[str], path: Path) -> NDArray[np.int64]:
    """Group number of each row, in order of first appearance; a row without a group column is its own group."""
    names = _strings(columns, column, "group", path) or [str(row) for row in range(len(domain))]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    # The first domain is the seen one, which is always split.
    n_groups = len({name for name, where in zip(names, domain, strict=True) if where == domain[0]})
    if n_groups < MIN_GROUPS:
        what = f"column '{column}' has {n_groups} groups" if column else f"there are {n_groups} rows"
        raise BadInput(
            f"{path}: {what} in domain '{domain[0]}', so a side of the split would be empty: give {MIN_GROUPS} or more."
        )
    return np.array([number[name] for name in names], dtype=np.int64)


def _texts(columns: Columns, column: str, tokeniser: Tokeniser | None, path: Path) -> list[NDArray[np.int64]]:
    if tokeniser is None:
        raise BadInput(f"column '{column}' holds text and the model has no tokeniser: name a `tokens` column instead.")
    for row, text in enumerate(columns[column], 1):
        if _missing(text) or text == "":
            raise BadInput(f"{path} row {row} has an empty text in column '{column}': fill it in or drop the row.")
        if not isinstance(text, str):
            raise BadInput(
                f"{path} row {row} has a {type(text).__name__} in the text column '{column}': give a string."
            )
    tokens = [np.asarray(ids, dtype=np.int64) for ids in tokeniser(columns[column])]
    for row, ids in enumerate(tokens, 1):
        if not len(ids):
            raise BadInput(f"{path} row {row}: the text in column '{column}' has no tokens: drop the row.")
    return tokens


def _token_lists(columns: Columns, column: str, path: Path) -> list[NDArray[np.int64]]:
    tokens = []
    for row, value in enumerate(_present(columns, column, path), 1):
        try:
            ids = np.array([int(part) for part in value.split()] if isinstance(value, str) else value)
        except (ValueError, OverflowError):
            ids = np.array(["no number"])
        if ids.shape == (0,):
            raise BadInput(f"{path} row {row} has no tokens in column '{column}': fill them in or drop the row.")
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.astype(np.int64).min() < 0:
            shown = str(value)[:40]
            raise BadInput(
                f"{path} row {row} has {shown!r} in column '{column}': give token ids, integers from 0 on, as a list "
                "or separated by spaces."
            )
        tokens.append(ids.astype(np.int64))
    return tokens


def _positions(columns: Columns, column: str | None, tokens: list, path: Path) -> list[NDArray[np.int64]]:
    """One position per example: the column's, or the last token's."""
    if column is None:
        return [np.array([len(ids) - 1]) for ids in tokens]
    positions = []
    for row, (value, ids) in enumerate(zip(_present(columns, column, path), tokens, strict=True), 1):
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"{path} row {row} has position {value!r} in column '{column}': give an integer from 0 on.")
        if not 0 <= value < len(ids):
            raise BadInput(
                f"{path} row {row} has position {value} and {len(ids)} tokens: positions run from 0 to {len(ids) - 1}."
            )
        positions.append(np.array([value]))
    return positions


# Labels


def _classes(name: str, column: str, columns: Columns, path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(class of each row [n], class names): numbers in order of size, all else by name."""
    values = _present(columns, column, path)
    for row, value in enumerate(values, 1):
        if isinstance(value, float | list | dict | np.ndarray):
            raise BadInput(f"{path} row {row} has {value!r} for '{name}' in column '{column}': give a class, as a word "
                           "or an integer.")  # fmt: skip
    numbers = all(isinstance(value, int) for value in values)
    known = sorted(set(values)) if numbers else sorted({str(value) for value in values})
    if len(known) < 2:
        raise BadInput(f"{path}: '{name}' has one class ('{known[0]}') in column '{column}': give rows of another too.")
    number = {value: i for i, value in enumerate(known)}
    labels = np.array([number[value if numbers else str(value)] for value in values], dtype=np.int64)
    return labels, tuple(str(value) for value in known)


def _label(entry: BehaviourEntry, columns: Columns, path: Path) -> Behaviour:
    """A label column as a law: classes one-hot; a column of fractions is the probability of the second outcome."""
    if entry.column is None:
        raise BadInput(f"the label behaviour '{entry.name}' names no column: give `column`.")
    values = _present(columns, entry.column, path)
    if any(isinstance(value, float) for value in values):
        return _fractions(entry.name, entry.column, values, path)
    labels, names = _classes(entry.name, entry.column, columns, path)
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


def _fractions(name: str, column: str, values: list, path: Path) -> Behaviour:
    for row, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadInput(
                f"{path} row {row} has {value!r} for '{name}' in column '{column}': give classes, or numbers in [0, 1]."
            )
    second = np.array(values, dtype=np.float32)
    if second.min() == second.max():
        raise BadInput(
            f"{path}: '{name}' is {values[0]} in every row of column '{column}': there is nothing to explain."
        )
    return Behaviour(name, np.stack([1 - second, second], axis=1), ("0", "1"))


def _feature(name: str, column: str, columns: Columns, path: Path) -> Feature:
    labels, classes = _classes(name, column, columns, path)
    if len(classes) > MAX_OUTCOMES:
        raise BadInput(
            f"{path}: feature '{name}' has {len(classes)} classes in column '{column}': give at most {MAX_OUTCOMES}."
        )
    return Feature(name, labels[:, None], classes, (name,))


# Behaviours read off the model


def _behaviour(entry: BehaviourEntry, labels: Mapping[str, Behaviour], tokeniser: Tokeniser | None) -> BehaviourSpec:
    used = {"groups": ("sets",), "label": ("column",)}.get(entry.kind, ("tokens",))
    for key in ("tokens", "sets", "column"):
        if getattr(entry, key) is not None and key not in used:
            raise BadInput(f"behaviour '{entry.name}' of kind {entry.kind} takes no `{key}`: it takes `{used[0]}`.")
    if entry.kind == "label":
        return BehaviourSpec(entry.name, "label", outcomes=labels[entry.name].outcomes, column=entry.column)
    if entry.kind == "groups":
        return BehaviourSpec(entry.name, "groups", sets=_sets(entry, tokeniser))
    least, most = {"logit_diff": (2, 2), "choice": (2, math.inf)}.get(entry.kind, (0, math.inf))
    n_tokens = len(entry.tokens or ())
    if not least <= n_tokens <= most or entry.tokens == ():
        asked = "exactly 2" if most == 2 else f"at least {max(least, 1)}"
        raise BadInput(f"behaviour '{entry.name}' of kind {entry.kind} takes {asked} tokens; found {n_tokens}.")
    if entry.tokens is None:
        return BehaviourSpec(entry.name, entry.kind)
    ids = _token_ids(entry.name, entry.tokens, tokeniser)
    return BehaviourSpec(entry.name, entry.kind, tokens=ids, outcomes=tuple(str(token) for token in entry.tokens))


def _sets(entry: BehaviourEntry, tokeniser: Tokeniser | None) -> dict[str, tuple[int, ...]]:
    if not entry.sets or not all(entry.sets.values()):
        raise BadInput(f"behaviour '{entry.name}' of kind groups takes `sets`, each with at least one token.")
    sets = {name: tuple(dict.fromkeys(_token_ids(entry.name, tokens, tokeniser, unique=False)))
            for name, tokens in entry.sets.items()}  # fmt: skip
    owner: dict[int, str] = {}
    for name, ids in sets.items():
        for token in ids:
            if owner.setdefault(token, name) != name:
                raise BadInput(
                    f"behaviour '{entry.name}' has token {token} in the sets '{owner[token]}' and '{name}': its mass "
                    "would be counted twice; keep it in one."
                )
    return sets


def _token_ids(
    name: str, tokens: Sequence[int | str], tokeniser: Tokeniser | None, unique: bool = True
) -> tuple[int, ...]:
    """Token ids; a string must be exactly one token."""
    ids = []
    for token in tokens:
        if isinstance(token, str):
            ids.append(_one_token(name, token, tokeniser))
        elif token < 0:
            raise BadInput(f"behaviour '{name}' names token {token}: token ids are integers from 0 on.")
        else:
            ids.append(token)
    twice = [token for token, n in Counter(ids).items() if n > 1]
    if unique and twice:
        raise BadInput(f"behaviour '{name}' names token {twice[0]} twice: drop one.")
    return tuple(ids)


def _one_token(name: str, text: str, tokeniser: Tokeniser | None) -> int:
    if tokeniser is None:
        raise BadInput(f"behaviour '{name}' names the token {text!r} and the model has no tokeniser: give its number.")
    # Whatever the tokeniser puts around every text (a beginning-of-sequence token) is not part of this one.
    around = _encode("", tokeniser)
    ids = _encode(text, tokeniser)
    before = 0
    while before < min(len(around), len(ids)) and around[before] == ids[before]:
        before += 1
    after = len(around) - before
    if after and ids[-after:] == around[before:]:
        ids = ids[:-after]
    ids = ids[before:]
    if len(ids) != 1:
        raise BadInput(
            f"behaviour '{name}' needs one token and {text!r} is {len(ids)} ({ids}): choose a text of exactly one "
            "token, often one that begins with a space."
        )
    return ids[0]


def _encode(text: str, tokeniser: Tokeniser) -> list[int]:
    try:
        return [int(token) for token in tokeniser([text])[0]]
    except BadInput:
        if text:
            raise
        return []  # a tokeniser that adds nothing to a text may refuse the empty one
