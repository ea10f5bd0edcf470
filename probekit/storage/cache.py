"""Cache: a store looked after. What it holds, whether it is whole, why a key is not there, what goes for want of room.

Reads names, sizes and digests without torch. Nothing is deleted that is pinned or that a running capture has open.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probekit.errors import BadInput, StoreError
from probekit.storage.files import changing, is_held, make_folders, publish, sync_folder
from probekit.storage.shards import KEY, NAME, NOTES, PART, Shard, layouts, open_root, read_manifest, read_spec


@dataclass(frozen=True)
class Entry:
    """One group of one key. state: complete, partial (a capture that was not finished) or damaged, with the problem.

    used: when it was last read or written, in seconds since 1970, which decides only what gc deletes first.
    """

    key: str
    group: str
    state: str
    problem: str
    names: tuple[str, ...]
    n_rows: int
    n_bytes: int
    spec: Mapping[str, Any]
    pins: tuple[str, ...]
    used: float
    path: Path

    def row(self) -> dict[str, Any]:
        """What `probekit cache ls --json` prints."""
        model, task = self.spec.get("model"), self.spec.get("task")
        return {"key": self.key, "group": self.group, "state": self.state, "problem": self.problem,
                "model": model, "task": task, "n_rows": self.n_rows, "names": list(self.names), "bytes": self.n_bytes,
                "pins": list(self.pins), "used": self.used}  # fmt: skip


@dataclass(frozen=True)
class Why:
    """nearest: the key in the store whose parts differ least from those asked for; None for an empty store.

    differences: (part, asked for, stored), of the key first, then of what is only said beside it.
    """

    key: str
    present: bool
    nearest: str | None
    differences: tuple[tuple[str, Any, Any], ...]


def entries(root: Path) -> list[Entry]:
    """Every group, by key. A group that cannot be understood is listed as damaged, not raised."""
    open_root(root)
    return [_entry(root, folder) for folder in sorted((root / "entries").glob("*/*/*")) if folder.is_dir()]


def verify(root: Path, deep: bool = False) -> list[Entry]:
    """Every group with its spec, manifest, sizes and headers compared; `deep` reads and verifies every byte too."""
    return [_verified(entry, deep) for entry in entries(root)]


def why(root: Path, key: str, spec: Mapping[str, Any]) -> Why:
    """What tells `key`, explained by spec["parts"], from the entry that comes closest."""
    here = _flat(spec)
    best: tuple[int, int, str, tuple] | None = None
    for entry in entries(root):
        if entry.state == "damaged":
            continue
        there = _flat(entry.spec)
        common = [*here, *(n for n in there if n.startswith("parts."))]
        names = [n for n in dict.fromkeys(common) if here.get(n) != there.get(n)]
        decisive = [n for n in names if n.startswith("parts.")]
        rest = [n for n in names if not n.startswith("parts.")]
        found = tuple((n, here.get(n), there.get(n)) for n in decisive + rest)
        score = (len(decisive) if entry.key != key else -1, len(rest), entry.key, found)
        best = score if best is None or score[:3] < best[:3] else best
    if best is None:
        return Why(key, False, None, ())
    return Why(key, best[2] == key, best[2], best[3])


def pin(root: Path, key: str, label: str = "user") -> None:
    """Keep an entry from gc, for as long as any label holds it: a person's, or the name of a run that refers to it."""
    if not NAME.fullmatch(label):
        raise BadInput(f"a pin's label is letters, digits, '.', '_' and '-'; found '{label}'.")
    _key_folder(root, key)
    make_folders(root, root / "pins" / key)
    make_folders(root, root / "tmp")
    publish(root / "tmp", root / "pins" / key / label, label.encode())


def unpin(root: Path, key: str, label: str = "user") -> None:
    """Take a pin away."""
    path = root / "pins" / key / label
    if not KEY.fullmatch(key) or not NAME.fullmatch(label) or not path.exists():
        raise BadInput(f"{key} has no pin '{label}'; it has {', '.join(_pins(root, key)) or 'none'}.")
    with changing(path):
        path.unlink()
    sync_folder(path.parent)


def release(root: Path, label: str) -> list[str]:
    """Take every pin of this label away, as when its run was deleted; the keys that it held."""
    open_root(root)
    if not NAME.fullmatch(label):
        raise BadInput(f"a pin's label is letters, digits, '.', '_' and '-'; found '{label}'.")
    held = sorted(path.parent.name for path in (root / "pins").glob(f"*/{label}") if KEY.fullmatch(path.parent.name))
    if not held:
        raise BadInput(f"nothing in the store {root} is pinned by '{label}': `probekit cache ls` lists the pins.")
    for key in held:
        unpin(root, key, label)
    return held


def remove(root: Path, key: str) -> list[Entry]:
    """Delete an entry, all of its groups. Raises BadInput when it is pinned, is in use or is not there."""
    _key_folder(root, key)
    found = [entry for entry in entries(root) if entry.key == key]
    if found and found[0].pins:
        labels = ", ".join(found[0].pins)
        raise BadInput(f"{key} is pinned by {labels}: `probekit cache pin {key[:12]} --off --label NAME` lets it go.")
    for entry in found:
        if not _delete(root, entry.path):
            raise BadInput(f"{key} is being written by another process: stop that first.")
    return found


def gc(root: Path, budget: int, dry_run: bool = False) -> tuple[list[Entry], int]:
    """Delete what was least recently used until at most `budget` bytes remain; the groups deleted, the bytes left.

    What a crash left behind and what is in quarantine goes first and in any case. Pinned entries and those that a
    process has open stay, even when that is more than the budget.
    """
    if budget < 0:
        raise BadInput(f"a budget is a number of bytes that is not negative; found {budget}.")
    found = sorted(entries(root), key=lambda entry: (entry.used, entry.key, entry.group))
    if not dry_run:
        _sweep(root)
    remaining, deleted = sum(entry.n_bytes for entry in found), []
    for entry in found:
        if remaining <= budget:
            break
        if not entry.pins and (_free(entry.path) if dry_run else _delete(root, entry.path)):
            deleted.append(entry)
            remaining -= entry.n_bytes
    return deleted, remaining


def left_behind(root: Path) -> int:
    """Bytes that stopped captures left and nobody writes to: resuming goes on from them, gc removes them."""
    found = 0
    for folder in (root / "quarantine", root / "tmp"):
        for path in folder.rglob("*") if folder.is_dir() else []:
            with suppress(FileNotFoundError):
                found += 0 if path.is_dir() or _has_writer(path) else path.lstat().st_size
    return found


def _has_writer(path: Path) -> bool:
    """Whether a file in `tmp` is being written; the notes of a shard that is begun go with the shard."""
    return is_held(path.with_suffix(PART) if path.suffix == NOTES else path)


def parse_bytes(text: str) -> int:
    """`200GB`, `1.5 TiB`, `500000`. Raises BadInput for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise BadInput(f"a size is a number with KB, MB, GB, TB, KiB, ... behind it; found '{text}'.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


# Reading -------------------------------------------------------------------------------------------------------------


def _entry(root: Path, folder: Path) -> Entry:
    body, problem = {"shapes": {}, "ranges": [], "spec": {}}, ""
    sealed = os.path.lexists(folder / "MANIFEST.json")
    try:
        body = read_spec(folder)
        if sealed:
            manifest = read_manifest(folder)
            if any(manifest[name] != body[name] for name in ("key", "shapes", "ranges")):
                raise StoreError(f"{folder}: spec.json and MANIFEST.json say different things: make the entry again.")
    except StoreError as error:
        problem = str(error)
    files = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
    marks = [os.lstat(p).st_mtime for p in (folder / "MANIFEST.json", folder / "shards") if os.path.lexists(p)]
    key = folder.parent.name
    return Entry(
        key=key,
        group=folder.name,
        state="damaged" if problem else "complete" if sealed else "partial",
        problem=problem,
        names=tuple(body["shapes"]),
        n_rows=body["ranges"][-1][1] if body["ranges"] else 0,
        n_bytes=sum(found.st_size for found in files),
        spec=body["spec"] if isinstance(body["spec"], dict) else {},
        pins=_pins(root, key),
        used=max(marks, default=0.0),
        path=folder,
    )


def _verified(entry: Entry, deep: bool) -> Entry:
    if entry.state == "damaged":
        return entry
    try:
        sealed = entry.state == "complete"
        body = read_manifest(entry.path) if sealed else read_spec(entry.path)
        expected = layouts(entry.path, body)
        facts = body["facts"] if sealed else [None] * len(expected)
        for layout, said in zip(expected, facts, strict=True):
            if not sealed and not os.path.lexists(entry.path / "shards" / layout.file_name):
                continue
            with Shard.open(entry.path / "shards", layout, said) as shard:
                if deep:
                    shard.check()
        known = {layout.file_name for layout in expected}
        strays = sorted(p.name for p in (entry.path / "shards").iterdir() if p.name not in known)
        strays += sorted({p.name for p in entry.path.iterdir()} - {"spec.json", "MANIFEST.json", "shards"})
        if strays:
            raise StoreError(f"{entry.path} holds {strays[0]}, which is no part of it: take it away.")
    except (StoreError, OSError) as error:
        return replace(entry, state="damaged", problem=str(error))
    return entry


def _flat(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in spec.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out


def _pins(root: Path, key: str) -> tuple[str, ...]:
    folder = root / "pins" / key
    return tuple(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else ()


def _key_folder(root: Path, key: str) -> Path:
    open_root(root)
    folder = root / "entries" / key[:2] / key
    if not KEY.fullmatch(key) or not folder.is_dir():
        raise BadInput(f"the store {root} has no entry '{key}': `probekit cache ls` lists them.")
    return folder


# Deleting ------------------------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether nobody else has `path` open for writing; holds others off meanwhile."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(handle)


def _free(folder: Path) -> bool:
    with _locked(folder) as free:
        return free


def _delete(root: Path, folder: Path) -> bool:
    """Move a group away in one step, so that it is there as a whole or not at all, then delete it."""
    with _locked(folder) as free:
        if not free:
            return False
        make_folders(root, root / "tmp")
        gone = root / "tmp" / f"deleted-{secrets.token_hex(8)}"
        with changing(folder):
            os.rename(folder, gone)
        sync_folder(gone.parent)
        sync_folder(folder.parent)
        with changing(gone):
            shutil.rmtree(gone)
    return True


def _sweep(root: Path) -> None:
    """Delete quarantined shards, and whatever in tmp has no living writer."""
    for folder in (root / "quarantine", root / "tmp"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _has_writer(path):
                continue
            with changing(path), suppress(FileNotFoundError), _locked(path) as free:
                if free and path.is_dir():
                    shutil.rmtree(path)
                elif free:
                    path.unlink()
