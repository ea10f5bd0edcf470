"""Runs: folders of records opened for reading, without torch."""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from glob import glob, has_magic
from os.path import isdir  # which says no to a name that no path can have
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from probekit.errors import BadInput, RunError, nearest
from probekit.levels import WHOLE
from probekit.records import SCHEMA_VERSION, Record, digest
from probekit.storage.files import RUN_NAME, check_name, is_held, read_json, sha256_of
from probekit.storage.lines import (
    CELLS,
    LOCK,
    LOSSES,
    MANIFEST,
    OUTCOMES,
    RECORDS,
    ROW_SCHEMA,
    ROWS,
    SITES,
    TESTED,
    TOGETHER,
    record_frame,
    scan_lines,
)

# complete: sealed and intact; running: a process holds it; stopped: by a person or a kill; failed: it could not go on;
# damaged: not what its manifest says, or no run folder.
SWEEP = "sweep.json"  # in the folder of a sweep's runs
State = Literal["complete", "running", "stopped", "failed", "damaged"]

_TEXT = ("model", "behaviour", "metric", "control", "floor", "arm", "level", "source", "hook", "position", "fit_domain",
         "test_domain", "na_reason")  # fmt: skip
_NUMBERS = ("k", "value", "low", "high", "groups", "seed_model", "seed_data", "seed_probe")
_BY_DEFAULT = {f.name: f.default for f in fields(Record)}
# Columns of `Run.outline`: their type, and what stands where a file is older than the column.
OUTLINE: dict[str, tuple[type, Any]] = {"id": (object, "")}
OUTLINE |= {name: (object, _BY_DEFAULT[name]) for name in _TEXT}
OUTLINE |= {name: (float, _BY_DEFAULT[name]) for name in _NUMBERS}


class Sealed(dict):
    """A manifest beside records: never changed, so that it is shared where pandas would copy it at every selection."""

    def __deepcopy__(self, memo: dict) -> "Sealed":
        return self


@dataclass(frozen=True)
class Run:
    """A run folder, read. `problem` is empty for a complete and intact one, else one sentence; `state` is for programs.

    Frames are loaded on first use and checked against the manifest's digests then.
    """

    path: Path
    manifest: dict | None
    status: dict
    state: State
    problem: str = ""
    torn: int = 0

    @property
    def name(self) -> str:
        return self.path.name

    def __repr__(self) -> str:
        done, total = self.status.get("done", "?"), self.status.get("total", "?")
        state = "complete" if self.manifest else self.problem or "unfinished"
        return f"<Run {self.path}: {state[:200]}, {done} of {total} cells>"

    def _repr_html_(self) -> str:
        """The headline and the map of its records, in a notebook."""
        from html import escape

        from probekit.results.summary import summary

        said = f"<p><b>{escape(self.name)}</b> {escape(self.problem[:400])}</p>"
        try:
            return said + summary(self.records)._repr_html_()
        except RunError as error:
            return f"{said}<p>{escape(str(error))}</p>"

    @property
    def reason(self) -> str:
        """Why a run is damaged, could not go on or lacks cells; empty for one that is whole or was only stopped."""
        if self.state == "damaged":
            return self.problem
        failed = [str(cell["error"]) for cell in self.status["failed"]]
        others = f" ({len(failed) - 1} more)" if len(failed) > 1 else ""
        return str(self.status.get("error", "")) or "".join([*failed[:1], others])

    @property
    def spec(self) -> dict:
        """What was asked; empty when even that is unreadable."""
        if self.manifest:
            return self.manifest["spec"]
        try:
            return read_json(self.path / "spec.json")
        except RunError:
            return {}

    @property
    def fingerprint(self) -> str:
        """Changes whenever what can be read changes: the key that a page caches on."""
        if self.manifest:
            return self.manifest["digest"]
        sizes = {f.name: f.stat().st_size for f in sorted(self.path.glob("cells-*.jsonl"))}
        return digest({"path": str(self.path), "lines": sizes, "problem": self.problem})

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per record: `id`, the fields of Record, `seed` (the probe's). Numbers missing are NaN or NA.

        With the run's table `sites` also what is said of a record's whole curve: band_low, band_high, p_max,
        and of its selection rows: select_bits.
        """
        if self.manifest is None:
            table = self._lines[0]
        else:
            table = self._parquet(RECORDS)
        frame = self._framed(table)
        if SITES in self.tables:
            together = self.table(SITES).reindex(columns=["record", *TOGETHER]).rename(columns={"record": "id"})
            together = together.astype({"id": str} | dict.fromkeys(TOGETHER, "float64")).drop_duplicates("id")
            frame = self._marked(frame.merge(together, how="left", on="id"))
        return frame

    def outline(self) -> pd.DataFrame:
        """The few records that a list of many runs needs of each, controls left out, and of each the columns OUTLINE.

        What was chosen on selection rows, of each behaviour and site one value, and those of readers of all of it; all
        of `read` where nothing was chosen.
        """
        if self.manifest is None:
            table = self._lines[0]
        else:
            with self._as_parquet(self.path / RECORDS):
                file = pq.ParquetFile(pa.BufferReader(self._checked(self.path / RECORDS)))
                table = file.read([name for name in OUTLINE if name in file.schema_arrow.names], use_threads=False)
        told = self._parquet(f"tables/{SITES}.parquet") if SITES in self.tables else None
        return self._marked(_outlined(table, told).assign(run=self.name))

    def _framed(self, table: pa.Table) -> pd.DataFrame:
        frame = record_frame(table)
        frame["run"] = self.name
        return self._marked(frame)

    def _marked(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame.attrs.update(path=str(self.path), manifest=None if self.manifest is None else Sealed(self.manifest))
        return frame

    @cached_property
    def losses(self) -> pd.DataFrame:
        """record, group, numerator, denominator, n: sums per group, all records. See `losses_of` for a few."""
        return (self._lines[1] if self.manifest is None else self._parquet(LOSSES)).to_pandas()

    def losses_of(self, *record_ids: str) -> pd.DataFrame:
        """The losses of these records only, through DuckDB: a drill-down does not load the whole file."""
        con = self._view
        sql = 'select * from losses where record in (select unnest($ids)) order by record, "group"'
        return con.cursor().execute(sql, {"ids": list(record_ids)}).df()

    @cached_property
    def cells(self) -> pd.DataFrame:
        """cell, ok, error, seconds: one row per unit of work."""
        return (self._lines[2] if self.manifest is None else self._parquet(CELLS)).to_pandas()

    @property
    def tables(self) -> list[str]:
        """Names of the example tables."""
        if self.manifest is None:
            return sorted(f.stem for f in (self.path / "tables").glob("*.parquet") if RUN_NAME.fullmatch(f.stem))
        return sorted(Path(name).stem for name in self.manifest["files"] if name.startswith("tables/"))

    def table(self, name: str) -> pd.DataFrame:
        """An example table by name."""
        if name not in self.tables:
            listed = ", ".join(self.tables) or "none"
            raise RunError(f"{self.path} has no table '{name}'; it has {listed}.")
        return self._parquet(f"tables/{name}.parquet").to_pandas()

    def rows(
        self, *, hook: str | None = None, behaviour: str | None = None, position: str | None = None,
        level: str | None = None, source: str | None = None, k: int | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Bits of each test row of the seen domain: the rows behind a record of `read`, whose mean bits are its `bits`.

        One row per reader (level, source, k) and row: `bits`, beside `floor_bits` and `ceiling_bits` of the same row,
        and what it is: row, example, position, group, domain. Where the behaviour is a law also `said`, the likeliest
        outcome of the reader, its `confidence` in it, and `agreed`, the probability that it has. position: a rule of
        positions, the column `rule`. What is left out is not selected by; only files and readers that are asked for are
        read. Raises BadInput where nothing is, RunError for a file that is broken.

        >>> import probekit as pk
        >>> run = pk.open_run("runs/othello")
        >>> "bits" in run.rows(hook="blocks.3.hook_resid_post", behaviour="next_move", level="linear")
        True
        """
        where = {"hook": hook, "behaviour": behaviour, "rule": position, "level": level, "source": source, "k": k}
        asked = {name: value for name, value in where.items() if value is not None}
        parts = [part for name in self._row_files for part in self._rows_in(name, asked)]
        if not parts:
            said = ", ".join(f"{name} {value}" for name, value in asked.items()) or "any reader"
            raise BadInput(
                f"{self.name} keeps no bits per row of {said}: `run.records` lists what was read; a run that was made "
                "before rows were kept has none, and its spec can be run again."
            )
        frame = pa.concat_tables(parts).to_pandas()
        frame["k"] = frame["k"].astype("Int64")
        if TESTED not in self.tables:  # while it is measured
            return frame
        return self._named(frame).merge(self.table(TESTED), how="left", on=["behaviour", "rule", "row"])

    def _named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """With the names of what is said in place of their numbers."""
        if OUTCOMES not in self.tables or "said" not in frame:
            return frame.drop(columns=["said", "confidence", "agreed"], errors="ignore")
        names = self.table(OUTCOMES).rename(columns={"at": "said"})
        named = frame.astype({"said": "Int64"}).merge(
            names.astype({"said": "Int64"}), how="left", on=["behaviour", "rule", "said"]
        )
        return named.assign(said=named["outcome"]).drop(columns="outcome")

    @property
    def _row_files(self) -> list[str]:
        if self.manifest is None:
            return sorted(f"{ROWS}/{f.name}" for f in (self.path / ROWS).glob("*.parquet"))
        return sorted(name for name in self.manifest["files"] if name.startswith(f"{ROWS}/"))

    def _rows_in(self, name: str, asked: dict[str, Any]) -> list[pa.Table]:
        """Row groups of a file, a reader each, whose statistics have what is asked; others are not read."""
        with self._as_parquet(self.path / name):
            file = pq.ParquetFile(self.path / name)
            at = [i for i in range(file.num_row_groups) if _holds(file.metadata.row_group(i), asked)]
            if not at:
                return []
            return [pq.ParquetFile(pa.BufferReader(self._checked(self.path / name))).read_row_groups(at)]

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """Directions or probes written under `name`."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.path / "directions" / f"{check_name(name)}.safetensors"
        try:
            return load(self._checked(path))
        except SafetensorError:
            raise RunError(f"{path} is not a safetensors file.") from None

    @cached_property
    def _lines(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        return scan_lines(self.path).tables()

    @cached_property
    def _view(self) -> Any:
        import duckdb

        con = duckdb.connect(":memory:")
        if self.manifest is None:
            con.register("lines", self._lines[1])
            con.execute("create table losses as select * from lines")  # what is registered is hidden from cursors
        else:
            path = self.path / LOSSES
            self._checked(path)
            con.execute(f"set allowed_paths = [{_quoted(str(path.resolve()))}]")  # settings take no parameters
            con.read_parquet(str(path.resolve())).create_view("losses")
        con.execute("set enable_external_access = false")
        con.execute("set lock_configuration = true")
        return con

    def _parquet(self, name: str) -> pa.Table:
        path = self.path / name
        with self._as_parquet(path):
            return pq.read_table(pa.BufferReader(self._checked(path)))

    @staticmethod
    @contextmanager
    def _as_parquet(path: Path) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError):
            raise RunError(f"{path} is not readable as Parquet; remove the folder and run its spec again.") from None

    def _checked(self, path: Path) -> bytes:
        """The bytes of a file, compared with the manifest's digest when there is one."""
        if path.is_symlink() or not path.is_file():
            raise RunError(f"{path} is missing.")
        data = path.read_bytes()
        if self.manifest is not None:
            entry = self.manifest["files"].get(path.relative_to(self.path).as_posix())
            if entry is None:
                raise RunError(f"{path} is not part of its run: the manifest does not name it.")
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise RunError(
                    f"{path} does not match its manifest's digest; remove the folder and run its spec again."
                )
        return data


def _outlined(table: pa.Table, sites: pa.Table | None) -> pd.DataFrame:
    """Of records those that a list needs (`Run.outline`), with the bits of selection rows where `sites` has them.

    Text is kept as plain objects: of so few rows pandas takes longest over types of its own.
    """
    table = table.filter(pc.field("metric").isin(["read", "selected"]) & (pc.field("control") == ""))
    chosen = pc.equal(table["metric"], "selected")
    if pc.any(chosen).as_py():
        valued = table.filter(pc.and_(pc.is_valid(table["value"]), pc.invert(chosen)))
        first = valued.group_by(["behaviour", "hook"], use_threads=False).aggregate([("id", "first")])
        shown = pc.is_in(table["id"], first["id_first"].combine_chunks())
        table = table.filter(pc.or_(pc.or_(chosen, pc.is_in(table["level"], pa.array(WHOLE))), shown))
    known = set(table.column_names)
    columns = {
        name: pd.Series(table[name].to_pylist() if name in known else [default] * len(table), dtype=kind)
        for name, (kind, default) in OUTLINE.items()
    }
    if sites is not None and "select_bits" in sites.column_names:
        bits = dict(zip(sites["record"].to_pylist(), sites["select_bits"].to_pylist(), strict=True))
        columns["select_bits"] = pd.Series([bits.get(one) for one in columns["id"]], dtype=float)
    return pd.DataFrame(columns)


def open_run(path: Path | str, *, partial: bool = False) -> Run:
    """Open a run folder. Raises RunError, in one sentence, for one that is missing, unfinished or broken.

    With `partial` only a missing folder raises: an unfinished or broken one comes back with `problem` set, and with
    what can be read of it.

    >>> import probekit as pk
    >>> run = pk.open_run("runs/othello")
    >>> run.name, len(run.records) > 100
    ('othello', True)
    """
    path = Path(path)
    if not isdir(path):
        raise RunError(f"no run folder {path}; `probekit ls` lists the runs.")
    status = _status_of(path)
    try:
        manifest = _manifest_of(path)
    except RunError as error:
        if partial:
            return Run(path, None, status, "damaged", str(error))
        raise
    run = Run(path, manifest, status, "complete") if manifest is not None else _unfinished(path, status)
    if run.problem and not partial:
        raise RunError(run.problem)
    return run


def is_being_measured(path: Path) -> bool:
    """Whether a process holds the run folder."""
    return any(is_held(lock) for lock in path.glob(f"{LOCK}*"))


def _unfinished(path: Path, status: dict) -> Run:
    if not (path / "spec.json").is_file():
        problem = f"{path} is not a run folder: it has neither a manifest nor a spec.json."
        return Run(path, None, status, "damaged", problem)
    scan, total = scan_lines(path), status.get("total")
    count = f"{len(scan.ok)} of {total} cells are" if total else f"{len(scan.ok)} cells are"
    failed = f" and {len(scan.failed)} failed" if scan.failed else ""
    if is_being_measured(path):
        state, todo = "running", "a process is at work on it."
    else:
        state, todo = "failed" if status["state"] == "failed" else "stopped", "`probekit run SPEC` goes on from there."
    return Run(path, None, status, state, f"{path} is not finished: {count} done{failed}; {todo}", scan.torn)


def read_run(path: Path | str) -> pd.DataFrame:
    """The records of a complete run, one to a row; `attrs` has its path and manifest. Raises RunError as open_run does.

    >>> import probekit as pk
    >>> records = pk.read_run("runs/othello")
    >>> headline = records.query("metric == 'read' and control == '' and floor == 'strong' and level == 'linear'")
    >>> bool((headline["low"] <= headline["value"]).all())
    True
    """
    return open_run(path).records


def read_runs(
    paths: str | Path | Iterable[str | Path], root: Path | str = "runs", *, unfinished: str = "refuse"
) -> pd.DataFrame:
    """The records of several complete runs, one below the other; the column `run` tells them apart.

    paths: run folders or names of runs under `root`, or one text, which may be a pattern: `"runs/gpt2-*"`. The folder
    of a sweep stands for the runs in it. unfinished: `refuse` raises RunError for a run that is unfinished or damaged,
    `drop` leaves it out. `attrs` has the manifest of each run by name, and why others were left out: `left_out`. Raises
    BadInput for a pattern that finds nothing and for two runs of one name. Figures and tables are of one run:
    `frame[frame["run"] == name]`.

    >>> import probekit as pk
    >>> two = pk.read_runs(["runs/othello"])
    >>> len(two) == len(pk.read_run("runs/othello"))
    True
    """
    runs, left_out = open_runs(paths, root, unfinished)
    frame = pd.concat([run.records for run in runs], ignore_index=True)
    frame.attrs = {"manifests": {run.name: run.manifest for run in runs}, "left_out": left_out}
    return frame


def open_runs(
    paths: str | Path | Iterable[str | Path], root: Path | str = "runs", unfinished: str = "refuse"
) -> tuple[list[Run], dict[str, str]]:
    """(complete runs of different names, why others were left out, by name), as `read_runs` describes."""
    if unfinished not in ("refuse", "drop"):
        raise BadInput(f"unfinished is '{unfinished}': say refuse, or drop to leave such runs out.")
    asked = [paths] if isinstance(paths, str | Path) else list(paths)
    folders = [folder for path in asked for folder in find_runs(str(path), root)]
    if not folders:
        raise BadInput(f"no runs under {', '.join(map(str, asked)) or 'an empty list'}: `probekit ls` lists the runs.")
    try:
        found = [open_run(folder, partial=unfinished == "drop") for folder in folders]
    except RunError as error:
        if len(folders) == 1:
            raise
        raise RunError(f"{error} Of several runs unfinished='drop' reads the others.") from None
    runs, left_out = [run for run in found if not run.problem], {run.name: run.problem for run in found if run.problem}
    if not runs:
        raise RunError(f"none of {len(found)} runs is complete; the first: {found[0].problem}")
    names = Counter(run.name for run in runs)
    if twice := next((name for name, n in names.items() if n > 1), None):
        raise BadInput(f"two of the runs are named {twice}: they could not be told apart; give each of them once.")
    return runs, left_out


def find_runs(path: str, root: Path | str = "runs") -> list[Path]:
    """Run folders that a pattern finds, as a path or a name under `root`; without a pattern, what `find_run` finds.

    The folder of a sweep stands for those in it. An empty list where a pattern finds none.
    """
    if not has_magic(path):
        return _runs_of(_find(path, root))
    both = ([Path(one) for one in sorted(glob(some))] for some in (path, str(Path(root) / path)))
    here, below = ([folder for one in some for folder in _runs_of(one) if is_run_folder(folder)] for some in both)
    return here or below


def _runs_of(folder: Path) -> list[Path]:
    """The run folders of a sweep's; another one is itself."""
    if is_run_folder(folder) or not (folder / SWEEP).is_file():
        return [folder]
    return sorted(filter(is_run_folder, folder.iterdir()))


def is_run_folder(path: Path) -> bool:
    """Whether a folder is meant to hold a run, whole or not."""
    plain = path.is_dir() and not path.is_symlink() and RUN_NAME.fullmatch(path.name)
    return bool(plain) and any((path / name).exists() for name in ("spec.json", MANIFEST, "status.json"))


def _opened(folder: Path) -> Run:
    return open_run(folder, partial=True)


def list_runs(root: Path | str = "runs", opened: Callable[[Path], Run] = _opened) -> list[Run]:
    """Every run folder under `root`, complete or not, the latest first. A root that does not exist holds no runs.

    opened: how a folder is opened, for a page that keeps what it has read.
    """
    root = Path(root)
    if not isdir(root):
        return []
    runs = [opened(folder) for folder in root.iterdir() if is_run_folder(folder)]
    return sorted(runs, key=lambda run: (run.status.get("updated", ""), run.name), reverse=True)


def list_sweeps(root: Path | str = "runs") -> dict[str, int]:
    """Folders in the folder of runs that hold runs themselves, those of many jobs, and how many each."""
    if not isdir(root):
        return {}
    folders = [one for one in sorted(Path(root).iterdir()) if one.is_dir() and not is_run_folder(one)]
    counted = {one.name: sum(is_run_folder(run) for run in one.iterdir()) for one in folders}
    return {name: n for name, n in counted.items() if n}


def run_before(run: Run) -> Run | None:
    """The latest complete run beside this one that was finished before it, of the same model and task; else None.

    One whose task has the same digest before one that has the same name alone.
    """
    model, task = _asked_of(run)
    if not model or not task:
        return None
    when = run.status.get("updated", "")
    earlier = [one for one in list_runs(run.path.parent) if one.manifest and one.status.get("updated", "") < when]
    same = [one for one in earlier if _asked_of(one)[0] == model and _asked_of(one)[1].get("name") == task.get("name")]
    alike = [one for one in same if _asked_of(one)[1].get("fingerprint") == task.get("fingerprint")]
    return next(iter([*alike, *same]), None)


def _asked_of(run: Run) -> tuple[str, dict]:
    """The model's name and what is known of the task, where the manifest tells them."""
    told = (run.manifest or {}).get("provenance", {})
    return str((told.get("model") or {}).get("name") or ""), told.get("task") or {}


def find_run(name: str, root: Path | str = "runs") -> Path:
    """A run by path, by its name under `root` or in a sweep there, or the most recent one of all for "latest"."""
    found = _find(name, root)
    if not is_run_folder(found) and (inside := list_runs(found)):
        raise RunError(
            f"{found} is the folder of a sweep of {len(inside)} runs: name one of them, such as {inside[0].name}; "
            f"`probekit ls {found}` lists them and `probekit compare {found}` tells them together."
        )
    return found


def _find(name: str, root: Path | str) -> Path:
    """The same, or the folder of a sweep. Folders of sweeps are looked into where the name is no path."""
    plain = RUN_NAME.fullmatch(name)
    if name != "latest":
        if plain and isdir(Path(root) / name):
            return Path(root) / name
        if isdir(name):
            return Path(name)
    folders = [Path(root), *(Path(root) / sweep for sweep in list_sweeps(root))]
    if name == "latest":
        runs = [run for folder in folders for run in list_runs(folder)]
        if not runs:
            raise RunError(f"no runs under {root}; start one with `probekit run SPEC`.")
        return max(runs, key=lambda run: (run.status.get("updated", ""), run.name)).path
    if inside := [folder / name for folder in folders if plain and isdir(folder / name)]:
        return inside[0]
    near = nearest(name, [run.name for folder in folders for run in list_runs(folder)], cutoff=0.4)
    hint = f" Did you mean '{near}'?" if near else " `probekit ls` lists the runs."
    raise RunError(f"no run '{name}', neither a folder nor a name under {root}.{hint}")


def _status_of(path: Path) -> dict:
    try:
        status = read_json(path / "status.json")
    except RunError:
        return {"state": "unknown", "failed": []}
    good = isinstance(status.get("state"), str) and isinstance(status.get("updated", ""), str)
    failed = status.setdefault("failed", [])
    good = good and isinstance(failed, list) and all(isinstance(cell, dict) and "error" in cell for cell in failed)
    return status if good else {"state": "unknown", "failed": []}


def _manifest_of(path: Path) -> dict | None:
    """The manifest, checked strictly: schema, its own digest, and every file's presence and size. None without one."""
    file = path / MANIFEST
    if not file.exists():
        return None
    manifest = read_json(file)
    types = {"schema_version": int, "run": str, "spec": dict, "spec_hash": str, "files": dict, "cells": dict,
             "provenance": dict, "digest": str}  # fmt: skip
    for key, kind in types.items():
        if not isinstance(manifest.get(key), kind):
            raise RunError(
                f"{file} is broken: '{key}' is missing or of another type; remove the folder and run its spec again."
            )
    if manifest["schema_version"] > SCHEMA_VERSION:
        raise RunError(
            f"{path} was written with record schema {manifest['schema_version']} and this probekit reads up to "
            f"{SCHEMA_VERSION}; upgrade probekit."
        )
    if manifest["digest"] != digest({key: value for key, value in manifest.items() if key != "digest"}, 64):
        raise RunError(f"{file} is broken: it does not match its own digest; remove the folder and run its spec again.")
    for name in (RECORDS, LOSSES, CELLS, "spec.json"):
        if name not in manifest["files"]:
            raise RunError(f"{file} is broken: it names no {name}; remove the folder and run its spec again.")
    for name, entry in manifest["files"].items():
        sealed = path / name
        if not all(RUN_NAME.fullmatch(part) for part in Path(name).parts):
            raise RunError(f"{file} is broken: it names '{name}', which is no plain file name.")
        if sealed.is_symlink() or not sealed.is_file():
            raise RunError(f"{path} is broken: {name} is missing; remove the folder and run its spec again.")
        if sealed.stat().st_size != entry["bytes"]:
            raise RunError(
                f"{path} is broken: {name} has {sealed.stat().st_size} bytes and the manifest says {entry['bytes']}; "
                "remove the folder and run its spec again."
            )
    if sha256_of(path / "spec.json") != manifest["files"]["spec.json"]["sha256"]:
        raise RunError(f"{path} is broken: spec.json is not the manifest's; remove the folder and run its spec again.")
    return manifest


def _holds(group: Any, asked: Mapping[str, Any]) -> bool:
    """Whether a row group, which is of one reader, is of the one that is asked for."""
    for name, value in asked.items():
        told = group.column(ROW_SCHEMA.get_field_index(name)).statistics
        if told is None or not told.has_min_max or told.min != value:
            return False
    return True


def _quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
