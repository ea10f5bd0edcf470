"""What measuring costs: forwards, readers, moments of rows on disk at several sizes, and what follows for larger ones.

Seconds are the processor's. Each case tells what one size says of the others by a stated rule, and how far that is off.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from probekit.activations.statistics import row_statistics
from probekit.fit.moments import BLOCK
from probekit.jobs.measure import measure
from probekit.jobs.progress import repeated, time_left, told_bytes
from probekit.model.model import Model
from probekit.proofs.bench import Row

LEFT, SQUARES = 512, 12  # megabytes of private memory that a reader of rows on disk is given, and so many d x d beside
TOKENS, LENGTH, MIDDLE = 512, 64, 1  # of a batch; of a text; the size by which the others' times are told
LEAN = {"levels": ("linear",), "outer_folds": 1, "inner_folds": 1, "controls": (), "n_permutations": 0,
        "decomposition": False, "extrapolate": False, "n_bootstrap": 200}  # fmt: skip


def forwards(models: Sequence[tuple[int, int]], note: Callable[[dict[str, Any]], None]) -> Iterator[Row]:
    """A batch with every block read, in seconds of the processor, beside its multiplications at the rate of a product.

    gap: between the time of a model and what that of the middle one says of it, by parameters and tokens alone.
    """
    found = []
    for d, n_layers in models:
        weights, seconds, rate = _forward(d, n_layers)
        found.append((weights, seconds, rate))
        note({"model": f"{n_layers} x {d}", "parameters": weights, "tokens": TOKENS, "cpu_seconds": seconds,
              "gflops_of_a_product": rate / 1e9, "efficiency": 2 * weights * TOKENS / seconds / rate})  # fmt: skip
    for weights, seconds, rate in found:
        middle = found[MIDDLE]
        told, alone = middle[1] * weights / middle[0], 2 * weights * TOKENS / rate
        yield Row(f"forward, {weights / 1e6:.1f} M weights", "its multiplications alone", seconds, alone,
                  alone / seconds, abs(told / seconds - 1), seconds / alone)  # fmt: skip


def _forward(d: int, n_layers: int) -> tuple[int, float, float]:
    """(weights that multiply each token, seconds of a batch, multiplications and additions of a product in a second).

    Of the processor, not of the clock, and the least of several: others may be at work on it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=d, num_hidden_layers=n_layers, num_attention_heads=d // 64,
                         intermediate_size=4 * d, vocab_size=1_024, max_position_embeddings=LENGTH)  # fmt: skip
    hf = LlamaForCausalLM(config)
    weights = sum(p.numel() for name, p in hf.named_parameters() if "embed" not in name and "lm_head" not in name)
    model, square = Model(hf, name=f"{n_layers} x {d}"), torch.ones(d, d)
    tokens = [np.arange(LENGTH) + i for i in range(TOKENS // LENGTH)]
    names = [hook.name for hook in model.hooks("blocks.*.hook_resid_post")]
    many = torch.ones(TOKENS, d)

    def run() -> None:
        places = [np.arange(LENGTH)] * len(tokens)
        model.stream(tokens, names, places, lambda batch: None, batch_tokens=TOKENS, backend="hf")

    product = min(processor_seconds(lambda: many @ square) for _ in range(50))
    return weights, min(processor_seconds(run) for _ in range(5)), 2 * TOKENS * d * d / product


def processor_seconds(work: Callable[[], object]) -> float:
    """Of the processor, not of the clock: others may be at work on it."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def moments(path: Path, n: int, d: int, note: Callable[[dict[str, Any]], None]) -> Row:
    """Moments of rows on disk beside one read of the file; gap: of the mean difference, relative, from what it is."""
    label, reading = _written(path, n, d)
    begun, spent = time.monotonic(), time.process_time()
    with _peak(_resident) as peak:
        found = row_statistics(np.load(path, mmap_mode="r"), label)["rows"]
    seconds, spent = time.monotonic() - begun, time.process_time() - spent
    note({"rows": n, "width": d, "file_mb": path.stat().st_size / 2**20, "peak_mb": peak[0], "seconds": seconds,
          "cpu_seconds": spent})  # fmt: skip
    path.unlink()
    gap = abs(float(found.mean_difference()[0, 1]) - 1)
    return Row(f"moments, {n:,} x {d:,}", "one read of the file", seconds, reading, reading / seconds, gap,
               seconds / reading)  # fmt: skip


def on_disk(path: Path, n: int, d: int, note: Callable[[dict[str, Any]], None]) -> Row:
    """A linear reader of rows on disk in so much private memory and no more, beside one read of the file.

    That is LEFT megabytes, and SQUARES squares of the width in float64, in which its rows are turned.

    gap: what it leaves unexplained, from what no reader can explain of two classes a standard deviation apart.
    """
    label, reading = _written(path, n, d)
    asked = {"behaviour": label, "groups": np.arange(n) // 20, **LEAN}
    measure(np.random.default_rng(1).standard_normal((400, 8), dtype=np.float32), behaviour=label[:400],
            groups=np.arange(400) // 20, **LEAN)  # fmt: skip
    begun, spent = time.monotonic(), time.process_time()
    left = LEFT + round(SQUARES * 8 * d * d / 2**20)
    with _limited(left), _peak(_private) as peak:
        found = measure(np.load(path, mmap_mode="r+"), **asked)
    seconds, spent = time.monotonic() - begun, time.process_time() - spent
    read = found[(found.level == "linear") & (found.metric == "read") & (found.control == "")]
    gap = float(read.value.iloc[0]) - _least_unexplained()
    note({"reader_rows": n, "width": d, "file_mb": path.stat().st_size / 2**20, "private_mb": peak[0],
          "left_mb": left, "seconds": seconds, "cpu_seconds": spent, "gap": gap})  # fmt: skip
    path.unlink()
    return Row(f"linear reader on disk, {n:,} x {d:,}", "one read of the file", seconds, reading, reading / seconds,
               abs(gap), seconds / reading)  # fmt: skip


def _written(path: Path, n: int, d: int) -> tuple[np.ndarray, float]:
    """Rows of two classes in half precision on disk, a standard deviation apart in one coordinate: (classes, seconds of
    one read)."""
    generator = np.random.default_rng(0)
    label = np.arange(n) % 2
    with path.open("wb") as opened:  # no suffix is added to a name
        np.lib.format.write_array_header_1_0(opened, {"descr": "<f2", "fortran_order": False, "shape": (n, d)})
        for start in range(0, n, BLOCK):
            part = generator.standard_normal((min(BLOCK, n - start), d), dtype=np.float32)
            part[:, 0] += label[start : start + BLOCK]
            opened.write(part.astype("<f2").tobytes())
    begun = time.monotonic()
    with path.open("rb") as read:
        while read.read(2**24):
            pass
    return label, time.monotonic() - begun


def _least_unexplained() -> float:
    """Bits that remain of a class that is known from one coordinate, N(0, 1) or N(1, 1), equally often."""
    at = np.linspace(-8, 9, 20_001)
    density = [np.exp(-((at - mean) ** 2) / 2) / np.sqrt(2 * np.pi) for mean in (0, 1)]
    share = density[1] / (density[0] + density[1])
    lost = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    return float(np.trapezoid(lost * (density[0] + density[1]) / 2, at))


@contextmanager
def _limited(megabytes: int) -> Iterator[None]:
    """So much private memory beyond what the process has: whoever asks for more gets a MemoryError."""
    import resource  # of Unix alone

    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = _told("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (int((held + megabytes) * 2**20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def _peak(held: Callable[[], float]) -> Iterator[list[float]]:
    """Megabytes of memory that the block takes at most beyond what there was."""
    gc.collect()
    before, out = held(), [0.0]

    def look() -> None:
        out[0] = max(out[0], held() - before)

    with repeated(look, 0.01):
        yield out


def _resident() -> float:
    """Files that are mapped included."""
    return _told("VmRSS")


def _private() -> float:
    """Without files, which are the system's to drop."""
    return _told("RssAnon")


def _told(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def readers(problems: Sequence[tuple[int, int]], note: Callable[[dict[str, Any]], None]) -> Iterator[Row]:
    """A linear reader of two classes on one split, beside the product X^T X; gap: of the rule."""
    found = []
    for n, d in problems:
        x, label = _two_classes(n, d)
        asked = {"behaviour": label, "groups": np.arange(n) // 4, **LEAN}
        # the least of three: the first one also loads what optimisers load when first used
        spent = min(processor_seconds(partial(measure, x, **asked)) for _ in range(3))
        product = processor_seconds(lambda x=x: x.T @ x)
        found.append((n, d, spent, product))
        note({"fit_rows": n, "width": d, "cpu_seconds": spent})
    rule = reader_rule([(n, d, spent) for n, d, spent, _ in found])
    for n, d, spent, product in found:
        told = rule(n, d)
        yield Row(f"linear reader, {n:,} x {d:,}", "X^T X", spent, product, product / spent, abs(told / spent - 1),
                  spent / product)  # fmt: skip


def reader_rule(found: Sequence[tuple[int, int, float]]) -> Callable[[int, int], float]:
    """Seconds of a reader of n rows and width d: n d (a + b d), a and b from two of (rows, width, seconds)."""
    (_, narrow, _), (_, wide, _) = two = found[MIDDLE], found[-1]
    low, high = (seconds / n / d for n, d, seconds in two)
    b = 0.0 if wide == narrow else max(0.0, (high - low) / (wide - narrow))
    a = low - b * narrow
    return lambda n, d: n * d * (a + b * d)


def _two_classes(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, d), dtype=np.float32)
    return x, x[:, 0] + generator.standard_normal(n) > 0


# The page ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Large:
    """A sweep over a large model, and the machine that it is run on: what docs/scale.md tells the cost of.

    gpu: multiplications and additions that a GPU does in a second on paper, achieved: the share of it that a forward
    gets; device `auto` runs one GPU at a time. disk: bytes written in a second by the store, measured (reliability.md).
    """

    parameters: float = 70e9
    layers: int = 80
    width: int = 8_192
    texts: int = 10_000
    length: int = 128
    behaviours: int = 10
    seeds: int = 5
    gpu: float = 990e12
    achieved: float = 0.4
    disk: float = 1.95e9
    cores: int = 64

    @property
    def cells(self) -> int:
        """Of one level at every site."""
        return self.layers * self.behaviours * self.seeds


def tables(stored: Mapping[str, Any], large: Large | None = None) -> dict[str, pd.DataFrame]:
    """Tables of docs/scale.md by name, from a stored run of the bench (`rows` and `cells`)."""
    found = stored["cells"]
    counted = [one for one in found if "cells_per_second" in one]
    names = {"engine": "engine", "cells": "cells", "cells_per_second": "cells a second",
             "driver_cpu_ms": "driver, ms a cell",
             "seal_ms": "sealing it, ms a cell"}  # fmt: skip
    gaps = {row["case"]: row["gap"] for row in stored["rows"]}
    costs = [(f"forward of {one['tokens']} tokens, {one['parameters'] / 1e6:.1f} M weights ({one['model']})",
              one["cpu_seconds"], gaps[f"forward, {one['parameters'] / 1e6:.1f} M weights"])
             for one in found if "parameters" in one]  # fmt: skip
    costs += [(case, one["cpu_seconds"], gaps[case]) for one in found if "fit_rows" in one
              for case in [f"linear reader, {one['fit_rows']:,} x {one['width']:,}"]]  # fmt: skip
    rows = [one for one in found if "peak_mb" in one]
    return {
        "engines": pd.DataFrame([[_said(one[key]) for key in names] for one in counted], columns=list(names.values())),
        "costs": pd.DataFrame([[case, f"{seconds:.3g} s", f"{gap:.0%}"] for case, seconds, gap in costs],
                              columns=["measured", "of one core", "rule is off by"]),
        "disk": pd.DataFrame([[f"{one['reader_rows']:,} x {one['width']:,}", f"{one['file_mb']:,.0f} MB",
                               f"{2 * one['file_mb']:,.0f} MB", f"{one['private_mb']:,.0f} MB",
                               f"{one['left_mb']:,} MB", f"{one['gap']:.4f}", time_left(one["cpu_seconds"])]
                              for one in found if "reader_rows" in one],
                             columns=["rows", "file", "in float32", "private memory at most", "allowed",
                                      "above the truth", "of one core"]),
        "rows": pd.DataFrame([[f"{one['rows']:,} x {one['width']:,}", f"{one['file_mb']:,.0f} MB",
                               f"{one['peak_mb']:,.0f} MB", f"{one['cpu_seconds']:.3g} s"] for one in rows],
                             columns=["rows", "file", "memory at most", "of one core"]),
        "large": _large(found, large or Large()),
    }  # fmt: skip


def _large(found: Sequence[Mapping[str, Any]], of: Large) -> pd.DataFrame:
    rule = reader_rule([(one["fit_rows"], one["width"], one["cpu_seconds"]) for one in found if "fit_rows" in one])
    driver = next(one for one in reversed(found) if one.get("engine") == "serial")
    tokens = of.texts * of.length
    n_bytes = of.texts * of.layers * of.width * 2
    fit = rule(of.texts, of.width)
    all_tokens = n_bytes * of.length
    steps = [
        ("forward", f"2 x weights x {tokens:,} tokens", 2 * of.parameters * tokens / (of.gpu * of.achieved), ""),
        ("write, last token", "texts x layers x width x 2 bytes", n_bytes / of.disk, told_bytes(n_bytes)),
        ("write, every token", f"the same x {of.length}", all_tokens / of.disk, told_bytes(all_tokens)),
        ("read each site for each seed", f"{of.seeds} x what was written", of.seeds * n_bytes / of.disk, ""),
        ("readers, one split", f"{of.cells:,} cells x {time_left(fit)} of a core", of.cells * fit / of.cores, ""),
        ("driver", f"{of.cells:,} cells x {driver['driver_cpu_ms']:.2g} ms",
         of.cells * driver["driver_cpu_ms"] / 1e3, ""),
    ]  # fmt: skip
    return pd.DataFrame([[step, how, time_left(seconds), size] for step, how, seconds, size in steps],
                        columns=["step", "how much", "time", "on disk"])  # fmt: skip


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
