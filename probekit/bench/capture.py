"""The capture bench: a model of GPT-2's smallest size with random weights, captured to disk beside its bare forward.

Bare is the same backend on the same batches, nothing kept; TransformerLens' `run_with_cache` keeps in memory what it is
asked for and forgets it. All are taken in turn within a round.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.bench import Row
from probekit.capture import capture
from probekit.errors import BadInput, ProbekitError
from probekit.model import Model, load_model
from probekit.task import Task

CASES = ("all", "bridge", "last", "stop", "memory")
BATCH_TOKENS = 4096
# glibc keeps freed blocks below a size that it raises as it goes: what is not given back would count as held.
UNCACHED = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
SPARE = 64 * 2**20  # bytes that a capture may take beyond the bare forward and two batches


@dataclass(frozen=True)
class Size:
    """By case: what it runs over, (sequences, tokens in each), and how often."""

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int
    runs: dict[str, tuple[int, int]]
    n_rounds: dict[str, int]


FULL = Size(
    12, 768, 12, 50257,
    {"all": (512, 128), "bridge": (64, 128), "last": (256, 32), "stop": (256, 32), "memory": (64, 128)},
    {"all": 3, "bridge": 3, "last": 11, "stop": 3},
)  # fmt: skip
QUICK = Size(4, 32, 4, 60, dict.fromkeys(CASES, (6, 16)), dict.fromkeys(CASES, 1))


Note = Callable[[str, dict[str, Any]], None]


def capture_bench(size: Size, folder: Path, case: str, note: Note) -> Iterator[Row]:
    """Rows of one case; `note` gets ("rounds", seconds and processor seconds of each) or ("peaks", one of `memory`).

    ratio: peer over ours. bound_ratio: our time over that of the bare forward, in `stop` over the share of it that the
    layers up to there are. gap: largest distance of a row of activations from the peer's, in units of its length; 0
    where the peer keeps nothing. `memory` has no rows.
    """
    if case not in CASES:
        raise BadInput(f"no case '{case}' in this bench: {', '.join(CASES)}.")
    checkpoint, store, (n, length) = folder / "model", folder / "store", size.runs[case]
    if not checkpoint.exists():
        _save(size, checkpoint)
    if case == "memory":
        for peak in _memory(size, checkpoint, store):
            note("peaks", peak)
        return
    model, layers = load_model(checkpoint), size.n_layers
    names = [f"blocks.{i}.hook_resid_post" for i in range(layers)]
    task, backend = (
        made_task(size.d_vocab, n, length, every=case in ("all", "bridge")),
        "bridge" if case == "bridge" else "hf",
    )
    bare = f"bare forward, {backend}"
    asked = {f"resid_post of {layers} layers, {'last token' if case == 'last' else 'all positions'}": (names, 1.0)}
    if case == "stop":
        last = sorted({layers // 4, layers // 2, layers})
        asked = {f"resid_post of layer {i - 1} alone, last token": (names[i - 1 : i], i / layers) for i in last}
    works: dict[str, Callable[[], object]] = {bare: partial(bare_forward, model, task, backend)}
    for what, (wanted, _) in asked.items():
        works[what] = partial(capture, model, task, wanted, store=store, batch_tokens=BATCH_TOKENS, backend=backend)
    peer, gap = "TransformerLens run_with_cache", 0.0
    if case == "all":
        works[peer] = partial(_run_with_cache, model, task, names)
        gap = _gap(model, made_task(size.d_vocab, min(n, BATCH_TOKENS // length), length, every=True), names)
    rounds = _rounds(size.n_rounds[case], works, store, note)
    for what, (_, share) in asked.items():
        bound = statistics.median(one[what] / (share * one[bare]) for one in rounds)
        for other in [name for name in works if name not in asked]:
            mine, theirs = (statistics.median(one[name] for one in rounds) for name in (what, other))
            ratio = statistics.median(one[other] / one[what] for one in rounds)
            yield Row(f"{what}, {n} x {length} tokens", other, mine, theirs, ratio, gap * (other == peer), bound)


def _rounds(n: int, works: Mapping[str, Callable[[], object]], store: Path, note: Note) -> list[dict[str, float]]:
    """Seconds of each work in each round, another one going first each time.

    Seconds of the processor, which other processes do not lengthen, leave out waiting for the disk: they are beside.
    """
    names, out = list(works), []
    for i in range(n):
        seconds, busy = {}, {}
        for name in names[i % len(names) :] + names[: i % len(names)]:
            rmtree(store, ignore_errors=True)
            started, began = time.perf_counter(), time.process_time()
            works[name]()
            seconds[name], busy[name] = time.perf_counter() - started, time.process_time() - began
        out.append(seconds)
        note("rounds", {name: {"seconds": seconds[name], "processor": busy[name]} for name in names})
    rmtree(store, ignore_errors=True)
    return out


def made_task(d_vocab: int, n: int, length: int, every: bool) -> Task:
    """n sequences of random tokens, read at every position or at the last one."""
    numbers = np.random.default_rng(0).integers(0, d_vocab, (n, length))
    where = np.arange(length) if every else np.array([length - 1])
    return Task(name="bench", tokens=list(numbers), positions=[where] * n, group=np.arange(n),
                domain=np.array(["seen"] * n), behaviours=(), floor_inputs={})  # fmt: skip


def bare_forward(model: Model, task: Task, backend: str) -> None:
    """Every batch of a capture run through the model, logits at one position, and nothing kept."""
    for ids in _batches(task):
        with model._hooked({}, backend):
            model._forward(ids, torch.ones_like(ids), ids.new_zeros(1), backend=backend)


def _batches(task: Task) -> Iterator[Tensor]:
    per_batch = max(1, BATCH_TOKENS // len(task.tokens[0]))
    for start in range(0, len(task.tokens), per_batch):
        yield torch.from_numpy(np.stack(task.tokens[start : start + per_batch]))


def _run_with_cache(model: Model, task: Task, names: list[str]) -> None:
    for ids in _batches(task):
        with torch.inference_mode():
            model._bridge.run_with_cache(ids, names_filter=names)
        model._clear_patterns()


def _gap(model: Model, task: Task, names: list[str]) -> float:
    """Between what is captured of one batch and what TransformerLens has in its cache."""
    found, largest = capture(model, task, names, store=None, batch_tokens=BATCH_TOKENS), 0.0
    with torch.inference_mode():
        _, cache = model._bridge.run_with_cache(next(_batches(task)), names_filter=names)
    for name in names:
        theirs = cache[name].flatten(0, 1)
        largest = max(largest, float(((found.sites[name] - theirs).norm(dim=1) / theirs.norm(dim=1)).max()))
    return largest


def _save(size: Size, folder: Path) -> None:
    from safetensors.torch import save_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size.d_vocab, n_embd=size.d_model, n_layer=size.n_layers, n_head=size.n_heads,
        n_positions=1024, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = GPT2LMHeadModel(config)
    config.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"))


def _memory(size: Size, checkpoint: Path, store: Path) -> Iterator[dict[str, Any]]:
    """Peak resident memory above that before, each in a process of its own, beside what a capture may take."""
    if not Path("/proc/self/clear_refs").exists():
        raise BadInput("peak memory is read off /proc, which this system does not have.")
    n, length = size.runs["memory"]
    per_batch = max(1, BATCH_TOKENS // length)
    bare = _process(checkpoint, store, size.d_vocab, (n, length), "bare")
    yield {"what": "bare forward, hf", "sequences": n, "peak_mib": bare / 2**20}
    for what, rows in (("all", length), ("last", 1)):
        batch = per_batch * rows * size.n_layers * size.d_model * 4
        for n_sequences in (n, 2 * n, 4 * n):
            peak = _process(checkpoint, store, size.d_vocab, (n_sequences, length), what)
            yield {"what": f"capture, {what}", "sequences": n_sequences, "peak_mib": peak / 2**20,
                   "allowed_mib": (bare + 2 * batch + SPARE) / 2**20}  # fmt: skip


def _process(checkpoint: Path, store: Path, d_vocab: int, run: tuple[int, int], what: str) -> int:
    rmtree(store, ignore_errors=True)
    asked = {"checkpoint": str(checkpoint), "store": str(store), "run": run, "what": what, "d_vocab": d_vocab,
             "threads": torch.get_num_threads()}  # fmt: skip
    room = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("capture_process.py")), json.dumps(asked)],
        capture_output=True, text=True, env={**os.environ, **UNCACHED, "PYTHONPATH": room},
    )  # fmt: skip
    rmtree(store, ignore_errors=True)
    if done.returncode:
        raise ProbekitError(f"the capture of {run[0]} sequences failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.splitlines()[-1])
