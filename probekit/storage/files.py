"""Files: published whole or not at all, read with their size and digest checked, JSON without surprises.

A file is written whole under another name, synced and linked into place: the first writer wins and nothing is ever
overwritten.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, RunError, StoreError
from probekit.records import canonical, digest

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_JSON = 64 * 2**20  # bytes of a manifest, spec or status that a reader is willing to parse


def fsync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_PRIMITIVE = (str, int, float, bool, type(None))  # exact types: a NumPy float is a float too, and is converted


def plain_json(value: Any) -> Any:
    """The value with NumPy scalars and arrays, tuples and paths turned into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): item if type(item) in _PRIMITIVE else plain_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple | set):
        return [item if type(item) in _PRIMITIVE else plain_json(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def to_json(value: Any, what: str) -> str:
    try:
        return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} cannot be written as JSON: {error}.") from None


def read_json(path: Path) -> dict:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise RunError(f"{path} is broken: {path.stat().st_size} bytes is more than a reader parses.")
        value = json.loads(path.read_text())
    except OSError:
        raise RunError(f"{path} is missing or unreadable.") from None
    except (ValueError, RecursionError):
        raise RunError(f"{path} is broken: it is not JSON.") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} is broken: it is not a JSON object.")
    return value


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


_JSON_CAP = 64 * 2**20
Bytes = NDArray[np.uint8]


# Files ---------------------------------------------------------------------------------------------------------------


class Temporary:
    """A file of `size` bytes under a name of its own until `publish`. `drop` in any case: a published file stays.

    It is locked while its writer lives, so that `probekit cache gc` can tell what a crash left behind.
    """

    def __init__(self, root: Path, final: Path, size: int) -> None:
        self.final, self.size = final, size
        self._path = root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        with self._reporting():
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self.handle = os.open(self._path, flags, 0o444)
        try:
            with self._reporting():
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.posix_fallocate(self.handle, 0, size)  # a full disk shows now, not at the last byte
        except BaseException:
            self.drop()
            raise

    def write(self, data: memoryview | bytes, at: int) -> None:
        view = memoryview(data)
        with self._reporting():
            while view:
                n = os.pwrite(self.handle, view, at)
                view, at = view[n:], at + n

    def publish(self) -> bool:
        """Sync, link into place, sync the folder. False when another writer was first; its file stays.

        A sync that fails is not tried again: the system may have dropped the pages and would answer that all is well.
        """
        with self._reporting():
            os.fsync(self.handle)
            try:
                os.link(self._path, self.final)
            except FileExistsError:
                return False
            sync_folder(self.final.parent)
            return True

    def drop(self) -> None:
        with suppress(OSError):
            os.close(self.handle)
        with suppress(OSError):  # what stays behind is not locked, and gc removes it
            os.unlink(self._path)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.final} could not be written ({error.strerror}): it needs {self.size:,} bytes and "
                f"{_free(self.final)} are free; make room or give another folder, then the same command resumes."
            ) from None


def publish(root: Path, final: Path, payload: bytes) -> bool:
    """Publish a small file. False when it was there already."""
    file = Temporary(root, final, len(payload))
    try:
        file.write(payload, 0)
        return file.publish()
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


def sync_folder(folder: Path) -> None:
    with changing(folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """What the system refuses becomes a StoreError about `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written to ({error.strerror}): give another folder.") from None


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


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
    if len(text) > _JSON_CAP:
        raise StoreError(f"a group's manifest would have {len(text):,} bytes of {_JSON_CAP:,}: use larger shards.")
    return text


def read_signed(path: Path) -> dict[str, Any]:
    """What `signed` wrote. Raises StoreError unless the file is that, byte for byte."""
    with open_regular(path) as handle:
        text = read_exactly(handle, min(os.fstat(handle).st_size, _JSON_CAP + 1), 0, path)
    body = parse_json(text, path)
    try:
        same = isinstance(body, dict) and body.pop("digest", None) == digest(body, 64) and signed(body) == text
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise StoreError(f"{path} has changed since it was written: `probekit cache rm` its entry and make it again.")
    return body


def parse_json(text: bytes, path: Path) -> Any:
    try:
        if len(text) > _JSON_CAP:
            raise ValueError("too long")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged ({error}): `probekit cache rm` its entry and make it again.") from None


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
