"""The stream bench: one binary target over rows on disk, time and peak memory as the number of rows grows.

The peer is reading and upcasting the rows once, which nothing that uses all of them can do without.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from probekit.errors import BadInput, ProbekitError
from probekit.proofs.bench import Row

N_HELD_OUT = 4_096
CHUNK = 16_384
LOUD, QUIET = 28.0, 0.05  # deviations of the first and last direction, those of the bundled model's residual stream


def stream_bench(
    sizes: Sequence[int], d: int, memory: int, folder: Path | None
) -> Iterator[tuple[Row, dict[str, float]]]:
    """A row per number of rows, and beside it {n, peak_mib}: peak resident memory above that before the fit.

    bound_ratio is for 20 passes over memory at the rate of one matrix-vector product each way. gap: held-out bits above
    those of the largest fit. folder: where 2 n d bytes have room for a while.
    """
    if not Path("/proc/self/status").exists():
        raise BadInput("peak memory is read off /proc, which this system does not have.")
    with TemporaryDirectory(prefix="probekit-bench-", dir=folder) as name:
        path = Path(name) / "rows"
        _draw(path, max(sizes), d)
        found = [(n, _run(path, n, d, memory)) for n in sizes]
    best = found[-1][1]["bits"]
    for n, one in found:
        case = f"1 binary target, n {n}, d {d}, BF16 on disk"
        ours, read = one["seconds"], one["read_seconds"]
        row = Row(case, "reading once", ours, read, read / ours, one["bits"] - best, ours / one["bound_seconds"])
        yield row, {"n": n, "peak_mib": one["peak_bytes"] / 2**20}


def _draw(path: Path, n: int, d: int) -> None:
    """Rows, then the held-out rows, in one file, and their labels beside it."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(torch.tensor(LOUD).log10().item(), torch.tensor(QUIET).log10().item(), d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    truth = torch.randn(d, generator=generator) * (3 / d**0.5)
    labels = bytearray()
    with path.open("wb") as file:
        for start in range(0, n + N_HELD_OUT, CHUNK):
            h = torch.randn(min(CHUNK, n + N_HELD_OUT - start), d, generator=generator)
            labels += (h @ truth + torch.randn(len(h), generator=generator) > 0).to(torch.uint8).numpy().tobytes()
            file.write(((h * spread) @ turn + 1).bfloat16().view(torch.int16).numpy().tobytes())
    path.with_name("labels").write_bytes(labels)


def _run(path: Path, n: int, d: int, memory: int) -> dict[str, float]:
    script = Path(__file__).with_name("stream_process.py")
    asked = {"path": str(path), "n": n, "d": d, "memory": memory, "threads": torch.get_num_threads(),
             "held_out": N_HELD_OUT}  # fmt: skip
    (path.with_name("asked.json")).write_text(json.dumps(asked), encoding="utf-8")
    room = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": room}
    done = subprocess.run(
        [sys.executable, str(script), str(path.parent)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise ProbekitError(f"the fit of {n} rows failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(path.with_name("found.json").read_text(encoding="utf-8"))
