"""Source: rows on disk as blocks, whatever their number."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import BadInput

NOT_FINITE = "a linear readout was given activations that are not finite."
RUN = 128  # consecutive rows that a sample takes at a time: reading single rows is slow
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@dataclass(frozen=True)
class Source:
    """Rows [n, d] that are read on demand.

    read(start, stop) gives rows in the dtype they are stored in; what it gave may be overwritten by the next call.
    """

    n: int
    d: int
    read: Callable[[int, int], Tensor]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> "Source":
        """Rows of a tensor, which may itself be memory-mapped; its pages then count as resident while they are warm."""
        return cls(len(x), x.shape[1], lambda start, stop: x[start:stop])

    @classmethod
    def file(cls, path: str | Path, n: int, d: int, dtype: str, offset: int = 0) -> "Source":
        """Rows lying one after the other in a file from byte `offset` on; dtype: F64, F32, BF16 or F16.

        The file is read, not mapped, so that memory stays bounded. Raises BadInput when it is too short.
        """
        if dtype not in DTYPES:
            raise BadInput(f"rows of type '{dtype}' cannot be read: {', '.join(DTYPES)}.")
        width = d * DTYPES[dtype].itemsize
        path = Path(path)
        found = path.stat().st_size if path.is_file() else -1
        if found < offset + n * width:
            raise BadInput(f"{path} was to hold {n} x {d} {dtype} from byte {offset} on; found {max(found, 0)} bytes.")

        space = [torch.empty(0, dtype=torch.uint8)]

        def read(start: int, stop: int) -> Tensor:
            if len(space[0]) < (stop - start) * width:
                space[0] = torch.empty((stop - start) * width, dtype=torch.uint8)
            out = space[0][: (stop - start) * width]
            with path.open("rb", buffering=0) as file:
                file.seek(offset + start * width)
                view, done = out.numpy().data, 0
                while done < len(view):
                    got = file.readinto(view[done:])
                    if not got:
                        raise BadInput(f"{path} ends before row {stop}: it was changed while it was read.")
                    done += got
            return out.view(DTYPES[dtype]).view(stop - start, d)

        return cls(n, d, read)

    def sample(self, most: int) -> Float[Tensor, "m d"]:
        """At most so many rows in runs evenly spaced over all of them, upcast, in order."""
        runs = self.runs(most)
        out, at = torch.empty(sum(stop - start for start, stop in runs), self.d), 0
        for start, stop in runs:
            rows = self.read(start, stop)
            if not at:
                out = out.to(rows.device)
            out[at : at + len(rows)] = rows
            at += len(rows)
        return out

    def runs(self, most: int) -> list[tuple[int, int]]:
        """The runs of `sample`."""
        if most >= self.n:
            return [(0, self.n)]
        n_runs = max(1, most // RUN)
        starts = torch.linspace(0, self.n - min(RUN, self.n), n_runs).long().tolist()
        return [(start, min(self.n, start + RUN)) for start in starts]
