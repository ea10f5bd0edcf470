"""Files: published whole or not at all, read with their size and digest checked, JSON without surprises.

A file is written whole under another name, synced and linked into place: the first writer wins and nothing is ever
overwritten.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, ProbekitError, RunError, StoreError
from probekit.records import canonical, digest

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_JSON = 64 * 2**20  # bytes of a manifest, spec or status that a reader is willing to parse
_PLAIN = (str, int, bool, type(None))  # exact types; a float may be NaN, and NumPy's is a float too
_REMEDY = {
    StoreError: "`probekit cache rm` its entry and make it again",
    RunError: "remove the folder and run its spec again",
}


def plain_json(value: Any, *, printed: bool = False) -> Any:
    """The value with NumPy scalars and arrays, tuples and paths turned into what JSON has.

    printed: for people's tools, where a number that is missing or not finite is null, and what JSON has no word for is
    text; a file keeps neither, and `to_json` refuses it.
    """
    if isinstance(value, Mapping):
        return {str(key): item if type(item) in _PLAIN else plain_json(item, printed=printed)
                for key, item in value.items()}  # fmt: skip
    if isinstance(value, np.ndarray):
        return plain_json(value.tolist(), printed=printed)
    if isinstance(value, list | tuple | set):
        return [item if type(item) in _PLAIN else plain_json(item, printed=printed) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if not printed or type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)  # pandas says missing in two ways


def to_json(value: Any, what: str) -> str:
    try:
        return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} cannot be written as JSON: {error}.") from None


def read_json(path: Path) -> dict:
    """The JSON object of a run's file. Raises RunError in one sentence."""
    try:
        size = path.stat().st_size
        value = parse_json(path.read_bytes() if size <= _MAX_JSON else bytes(_MAX_JSON + 1), path, RunError)
    except OSError:
        raise RunError(f"{path} is missing or unreadable.") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} is broken: it is not a JSON object.")
    return value


def parse_json(text: bytes, path: Path, error: type[ProbekitError]) -> Any:
    """What the bytes of `path` say; `error` is raised when that is no JSON, or longer than a reader parses."""
    try:
        if len(text) > _MAX_JSON:
            raise ValueError(f"more than the {_MAX_JSON:,} bytes that a reader parses")
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is broken ({problem}): {_REMEDY[error]}.") from None


def sha256_of(path: Path) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def check_name(name: str) -> str:
    if not RUN_NAME.fullmatch(name):
        raise BadInput(f"'{name}' is no plain name: letters, digits and ._- only, at most 100, no leading dot or dash.")
    return name


def inside(root: Path, name: str) -> Path:
    path = root / check_name(name)
    if path.is_symlink() or path.resolve().parent != root.resolve():
        raise BadInput(f"{path} leads out of {root}: a run is a plain folder in it.")
    return path


Bytes = NDArray[np.uint8]


# Files ---------------------------------------------------------------------------------------------------------------


class Temporary:
    """A file of `size` bytes under a name of its own in `folder` until `publish`. `drop` in any case: a published file
    stays. error: what is raised when the system refuses.

    It is locked while its writer lives, so that `probekit cache gc` can tell what a crash left behind.
    name: one that a later writer of the same file finds again, with what was written; `path` is then that, and is
    another where a living writer has it.
    """

    def __init__(
        self, folder: Path, final: Path, size: int, error: type[ProbekitError] = StoreError, name: str = ""
    ) -> None:
        self.final, self.size, self._error, self.is_sound = final, size, error, True
        self.path = folder / (name or f".{os.getpid()}-{secrets.token_hex(8)}")
        if name and self._take_over():
            return
        if name:
            self.path = folder / f".{os.getpid()}-{secrets.token_hex(8)}"
        with self._reporting():
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self.handle = os.open(self.path, flags, 0o600)
        try:
            with self._reporting():
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.posix_fallocate(self.handle, 0, size)  # a full disk shows now, not at the last byte
        except BaseException:
            self.drop()
            raise

    def _take_over(self) -> bool:
        """Open the file of this name, what is there included; False when a living writer has it or it is not ours."""
        with self._reporting():
            try:
                self.handle = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except PermissionError:  # being published; what else refuses is told of the other name
                return False
        try:
            with self._reporting():
                try:
                    fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(self.handle)
                    return False
                found = os.fstat(self.handle)
                # Its writer may have published it and let go of the name between our opening and our locking: then it
                # has one link again, the final one, and the name is nobody's or another writer's.
                if not self._is_named(found):
                    os.close(self.handle)
                    return False
                if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:  # published by a writer that died then
                    self.drop()
                    return False
                if found.st_size != self.size:
                    os.ftruncate(self.handle, 0)
                os.posix_fallocate(self.handle, 0, self.size)
        except BaseException:
            self.drop()
            raise
        return True

    def _is_named(self, found: os.stat_result) -> bool:
        """Whether the name still stands for the file that is open; only who holds its lock takes the name away."""
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)

    def sync(self) -> None:
        """Bring what was written to the disk.

        A sync that fails is not tried again: the system may have dropped the pages and would answer that all is well.
        """
        with self._reporting():
            self.is_sound = False
            os.fsync(self.handle)
            self.is_sound = True

    def write(self, data: memoryview | bytes, at: int) -> None:
        view = memoryview(data)
        with self._reporting():
            while view:
                n = os.pwrite(self.handle, view, at)
                view, at = view[n:], at + n

    def replace(self) -> None:
        """Sync and move over what is there under the final name: for notes, which say the same in other words."""
        self.sync()
        with self._reporting():
            os.replace(self.path, self.final)

    def publish(self) -> bool:
        """Sync, link into place, sync the folder. False when another writer was first; its file stays."""
        with self._reporting():
            os.fchmod(self.handle, 0o444)
        self.sync()
        with self._reporting():
            try:
                os.link(self.path, self.final)
            except FileExistsError:
                return False
            sync_folder(self.final.parent, self._error)
            return True

    def drop(self, keep: bool = False) -> None:
        """Let go of the file; it stays under its own name only to be taken over."""
        if not keep:
            with suppress(OSError):  # what stays behind is not locked, and gc removes it
                os.unlink(self.path)
        with suppress(OSError):
            os.close(self.handle)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(
                f"{self.final} could not be written ({error.strerror}): it needs {self.size:,} bytes and "
                f"{_free(self.final)} are free; make room or give another folder, then the same command resumes."
            ) from None


def publish(folder: Path, final: Path, payload: bytes, error: type[ProbekitError] = StoreError) -> bool:
    """Publish a small file, made in `folder` first. False when it was there already."""
    file = Temporary(folder, final, len(payload), error)
    try:
        file.write(payload, 0)
        return file.publish()
    finally:
        file.drop()


def put(path: Path, payload: bytes, error: type[ProbekitError] = StoreError) -> None:
    """Write a small file whole or not at all, over what is there."""
    file = Temporary(path.parent, path, len(payload), error)
    try:
        file.write(payload, 0)
        file.replace()
    finally:
        file.drop()


def make_folders(root: Path, folder: Path) -> None:
    """Make `folder` below `root`; every folder on the way is synced, also one that another process has just made."""
    made = [folder, *folder.parents]
    made = made[: made.index(root)][::-1]
    with changing(root):
        for part in made:
            with suppress(FileExistsError):
                os.mkdir(part)
    for part in made:  # after all are made: the first sync then does the work of the others
        sync_folder(part.parent)


def sync_folder(folder: Path, error: type[ProbekitError] = StoreError) -> None:
    with changing(folder, error):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def changing(path: Path, error: type[ProbekitError] = StoreError) -> Iterator[None]:
    """What the system refuses becomes an `error` about `path`."""
    try:
        yield
    except OSError as problem:
        raise error(f"{path} cannot be written to ({problem.strerror}): give another folder.") from None


# Locks ---------------------------------------------------------------------------------------------------------------


def take_lock(path: Path) -> int | None:
    """A handle that locks `path` until it is closed, or its process ends; None while another one holds it.

    Tried for a second: a reader that asks whether it `is_held` holds it for a moment itself.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    for _ in range(20):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:  # a file system without locks: nobody can be told apart, and nobody is refused
            return handle
    os.close(handle)
    return None


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on `path`. Also of a folder that may only be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


# Store files ---------------------------------------------------------------------------------------------------------


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def free_memory() -> int | None:
    """Bytes that this process can still be given, what the system holds of files included; None where nothing says.

    The least of what the machine has, what a scheduler's control group lets it have, and its own limit (`ulimit -d`).
    """
    left = [left for left in (_of_machine(), _of_group(Path("/sys/fs/cgroup")), _of_process()) if left is not None]
    return min(left, default=None)


def _of_machine() -> int | None:
    try:
        return _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, KeyError, ValueError):
        return None


def _of_group(root: Path) -> int | None:
    """Of the control group and all that it lies in; files that it holds are the system's to drop."""
    left = []
    try:
        name = next(
            line[3:]
            for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
        folder = root / name.strip("/")
        for at in (folder, *folder.parents):
            most = at / "memory.max"
            if most.exists() and (limit := most.read_text(encoding="ascii").strip()) != "max":
                held = dict(line.split() for line in (at / "memory.stat").read_text(encoding="ascii").splitlines())
                left.append(
                    int(limit)
                    - int((at / "memory.current").read_text(encoding="ascii"))
                    + int(held.get("inactive_file", 0))
                )
            if at == root:
                break
    except (OSError, StopIteration, ValueError):
        return None
    return max(0, min(left)) if left else None


def _of_process() -> int | None:
    try:
        import resource  # of Unix alone

        most = resource.getrlimit(resource.RLIMIT_DATA)[0]
        unlimited = most == resource.RLIM_INFINITY
        return None if unlimited else max(0, most - _kilobytes(Path("/proc/self/status"), "VmData"))
    except (ImportError, OSError, KeyError, ValueError):
        return None


def _kilobytes(path: Path, name: str) -> int:
    """A line of such a file of the system's, in bytes."""
    told = dict(line.split(":", 1) for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return int(told[name].split()[0]) * 1024


def _free(path: Path) -> str:
    try:
        return f"{free_bytes(path.parent):,}"
    except OSError:
        return "an unknown number"


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """A handle for reading; links, pipes and the like are refused."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StoreError(f"{path} is no regular file.")
        yield handle
    finally:
        os.close(handle)


def signed(body: Mapping[str, Any]) -> bytes:
    """The canonical JSON of `body` with its digest."""
    text = canonical({**body, "digest": digest(body, 64)}).encode()
    if len(text) > _MAX_JSON:
        raise StoreError(f"a group's manifest would have {len(text):,} bytes of {_MAX_JSON:,}: use larger shards.")
    return text


def read_signed(path: Path) -> dict[str, Any]:
    """What `signed` wrote. Raises StoreError unless the file is that, byte for byte."""
    with open_regular(path) as handle:
        text = read_exactly(handle, min(os.fstat(handle).st_size, _MAX_JSON + 1), 0, path)
    body = parse_json(text, path, StoreError)
    try:
        same = isinstance(body, dict) and body.pop("digest", None) == digest(body, 64) and signed(body) == text
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise StoreError(f"{path} has changed since it was written: `probekit cache rm` its entry and make it again.")
    return body


def read_exactly(handle: int, n: int, at: int, path: Path) -> bytes:
    """Exactly n bytes."""
    out = np.empty(n, np.uint8)
    read_into(handle, out, at, path)
    return out.tobytes()


def read_into(handle: int, out: Bytes, at: int, path: Path) -> None:
    view = out.data
    try:
        while view:
            n = os.preadv(handle, [view], at)
            if not n:
                raise StoreError(f"{path} is cut short.")
            view, at = view[n:], at + n
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from None
