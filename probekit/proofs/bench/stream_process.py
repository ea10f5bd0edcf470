"""Run in a process of its own, so that peak memory is that of one fit: streams rows on disk, writes what it took."""

import json
import sys
import time
from pathlib import Path

import torch

from probekit.fit.readout import cross_entropy
from probekit.fit.streamed.logistic import fit_streamed
from probekit.fit.streamed.source import Source

ITERATIONS = 20


def resident(what: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what + ":")))


def main(folder: Path) -> None:
    """Read asked.json, rows and labels; write found.json."""
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    n, d, m = asked["n"], asked["d"], asked["held_out"]
    torch.set_num_threads(asked["threads"])
    source = Source.file(folder / "rows", n, d, "BF16")
    size = (folder / "labels").stat().st_size
    label = torch.frombuffer(bytearray((folder / "labels").read_bytes()), dtype=torch.uint8)
    law = torch.stack([1 - label[:n].float(), label[:n].float()])[:, None]
    space = torch.empty(1_024, d)

    def read_once() -> float:
        started = time.perf_counter()
        for start in range(0, n, len(space)):
            rows = source.read(start, min(n, start + len(space)))
            space[: len(rows)].copy_(rows)
        return time.perf_counter() - started

    read_once()
    read_seconds = read_once()
    weight, out, back = torch.randn(1, d), torch.empty(1, len(space)), torch.empty(1, d)
    started = time.perf_counter()
    for _ in range(50):
        torch.mm(weight, space.T, out=out)
        torch.mm(out, space, out=back)
    bound = (time.perf_counter() - started) / 50 / len(space) * n * ITERATIONS
    torch.linalg.eigvalsh(torch.eye(d))
    before = resident("VmRSS")
    started = time.perf_counter()
    found = fit_streamed(source, law, memory=asked["memory"])
    seconds = time.perf_counter() - started
    peak = resident("VmHWM") - before
    whole = Source.file(folder / "rows", size, d, "BF16")
    held_out = label[size - m :].long()
    theirs = torch.nn.functional.one_hot(held_out, 2).T[:, None].float()
    bits = float(cross_entropy(found.logits(whole.read(size - m, size)), theirs).mean())
    what = {"seconds": seconds, "read_seconds": read_seconds, "bound_seconds": bound, "peak_bytes": peak, "bits": bits}
    (folder / "found.json").write_text(json.dumps(what), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
