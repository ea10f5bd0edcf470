"""Scratch: large arrays that live for a while, in memory or, where it has little left, in files without a name.

What is in such a file is the system's to write out and to read again, as of any file that is mapped, so that a site of
any number of rows is measured in the memory that there is. The file is gone with the array, or with the process.
"""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from probekit.errors import BadInput
from probekit.storage.files import free_bytes, free_memory

SHARE = 16  # an array that takes more than one of so many parts of free memory goes to a file
LEAST = 2**24  # bytes below which none does, whatever is free


def empty(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """An array of this shape whose values are not set, in a file of the system's temporary folder where it is large.

    Raises BadInput where neither memory nor that folder has room for it.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes <= LEAST:  # without a look at what is free, which takes longer than most small arrays
        return np.empty(shape, dtype)
    free = free_memory()
    if free is None or n_bytes <= free / SHARE:
        return np.empty(shape, dtype)
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=folder, prefix="probekit-") as file:
        try:  # room that is only promised would kill the process where it turns out not to be there
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            raise BadInput(
                f"rows that memory has no room for take {n_bytes:,} bytes of {folder}, which has "
                f"{free_bytes(Path(folder)):,} left ({error.strerror}): make room, let TMPDIR name a folder on a "
                "larger disk, or take fewer rows."
            ) from None
        return np.asarray(np.memmap(file, dtype, "r+", shape=tuple(shape)))
