"""The capture bench: a model of GPT-2's smallest size with random weights, captured to disk beside its bare forward.

One capture runs over all sequences and is one entry of the store, in 11 blocks of sequences, each a shard. Between
blocks it is paused, and the same sequences go through the bare forward (the same backend in the same batches, nothing
kept), in each second pair before the capture's turn. So every block gives a ratio, and the whole costs two forwards.
TransformerLens' `run_with_cache`, which keeps in memory what it is asked for and forgets it, joins every third pair.
What of a block's last batch is still being written then is written beside the others. What a capture does once (its
key, the audit, the files at the end) is in no block: it is in the row of totals, and a row of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.activations.capture import capture
from probekit.activations.passes import Step
from probekit.errors import BadInput, ProbekitError
from probekit.hookpoint import HookPoint
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.model.reading import batches, most_tokens
from probekit.proofs.bench import Row
from probekit.storage.store import SHARD_BYTES
from probekit.task import Task

CASES = ("all", "bridge", "last", "stop", "memory")
BATCH_TOKENS = 4096
N_BLOCKS = 11  # at least
OURS = "capture"
SPARE = 64 * 2**20  # bytes that a capture may take beyond the bare forward and two batches


@dataclass(frozen=True)
class CaptureSize:
    """By case: what it runs over, (sequences, tokens in each). rounds: how often."""

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int
    runs: dict[str, tuple[int, int]]
    rounds: int = 1


FULL = CaptureSize(
    12, 768, 12, 50257,
    {"all": (512, 128), "bridge": (64, 128), "last": (512, 128), "stop": (256, 32), "memory": (64, 128)},
)  # fmt: skip
QUICK = CaptureSize(4, 32, 4, 60, dict.fromkeys(CASES, (6, 16)))
Note = Callable[[str, dict[str, Any]], None]
Other = Callable[[Task], object]


def capture_bench(size: CaptureSize, folder: Path, case: str, note: Note) -> Iterator[Row]:
    """Rows of one case; `note` gets ("blocks", seconds and processor seconds of each) or ("peaks", one of `memory`).

    Per capture: its blocks beside those of each other, then its totals, then what it does once, beside the whole bare
    forward. ratio: peer over ours, the median over blocks or of the totals. bound_ratio: our time over that of the bare
    forward, in `stop` over the share of it that the layers up to there are. gap: largest distance of a row of
    activations from the peer's, in units of its length; 0 where the peer keeps nothing. `memory` has no rows.
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
    names = [HookPoint.within(i, "hook_resid_post").name for i in range(layers)]
    task = made_task(size.d_vocab, n, length, every=case in ("all", "bridge"))
    backend = "bridge" if case == "bridge" else "hf"
    bare = f"bare forward, {backend}"
    asked = {f"resid_post of {layers} layers, {'last token' if case == 'last' else 'all positions'}": (names, 1.0)}
    if case == "stop":
        last = sorted({layers // 4, layers // 2, layers})
        asked = {f"resid_post of layer {i - 1} alone, last token": (names[i - 1 : i], i / layers) for i in last}
    others: dict[str, Other] = {bare: lambda part: bare_forward(model, part, backend)}
    peer, gap = "TransformerLens run_with_cache", 0.0
    if case == "all":
        others[peer] = lambda part: _run_with_cache(model, part, names)
        few = made_task(size.d_vocab, min(n, 1 + BATCH_TOKENS // (4 * length)), length, every=True)
        gap = _gap(model, few, names)
    for what, (wanted, share) in asked.items():
        work = partial(capture, model, task, wanted, store=store, batch_tokens=BATCH_TOKENS, backend=backend)
        blocks: list[dict[str, float]] = []
        once = 0.0
        for _ in range(size.rounds):
            rmtree(store, ignore_errors=True)
            turns = _Turns(task, 4 * len(wanted) * size.d_model, others, note)
            turns.run(work)
            blocks, once = blocks + turns.blocks, once + turns.once
        rmtree(store, ignore_errors=True)
        what += f", {n} x {length} tokens"
        for other in others:
            both = [block for block in blocks if other in block]
            mine, theirs = (statistics.median(block[name] for block in both) for name in (OURS, other))
            ratio = statistics.median(block[other] / block[OURS] for block in both)
            bound = statistics.median(block[OURS] / block[bare] for block in both) / share
            yield Row(f"{what}: a block", other, mine, theirs, ratio, gap * (other == peer), bound)
        theirs = sum(block[bare] for block in blocks)
        for part, mine in (("in all", once + sum(block[OURS] for block in blocks)), ("done once", once)):
            yield Row(f"{what}: {part}", bare, mine, theirs, theirs / mine, 0.0, mine / theirs / share)


class _Turns:
    """One capture and the others, block by block. blocks: seconds of each by who ran it; once: ours outside of them.

    Seconds of the processor, which other processes do not lengthen, leave out waiting for the disk. The others' are
    those of their own thread, ours all the rest: the writer's thread too and, in the first block, what is done once.
    """

    def __init__(self, task: Task, row_bytes: int, others: Mapping[str, Other], note: Note) -> None:
        n, rows = len(task.tokens), len(task.positions[0])
        step = max(1, min(-(-n // N_BLOCKS), SHARD_BYTES // (rows * (row_bytes + 24))))  # a shard holds a block
        self._parts, self._rows = [_part(task, at, at + step) for at in range(0, n, step)], step * rows
        self._others, self._note = others, note
        self.blocks: list[dict[str, float]] = [{} for _ in self._parts]
        self._busy: list[dict[str, float]] = [{} for _ in self._parts]
        self.once, self._at, self._since, self._busy_since = 0.0, 0, 0.0, 0.0

    def run(self, work: Callable[..., object]) -> None:
        """work: a capture that lacks only `shard_rows` and `progress`."""
        self._since, self._busy_since = time.perf_counter(), time.process_time()
        work(shard_rows=self._rows, progress=self._progress)
        self.once += time.perf_counter() - self._since

    def _progress(self, now: Step) -> None:
        i, seconds, busy = self._at, time.perf_counter() - self._since, time.process_time() - self._busy_since
        self._busy_since += busy
        if OURS not in self.blocks[0]:
            self.once, seconds = seconds - now.seconds, now.seconds
        for kept, more in ((self.blocks[i], seconds), (self._busy[i], busy)):
            kept[OURS] = kept.get(OURS, 0.0) + more
        if now.rows >= min(now.n_rows, (i + 1) * self._rows):
            self._at += 1
            for turn in (i, i + 1) if i % 2 == 0 else ():  # so that each goes first in half of the pairs
                self._aside(turn)
            self._tell(i)
        self._since = time.perf_counter()

    def _aside(self, i: int) -> None:
        for k, (name, run) in enumerate(self._others.items()):
            if i < len(self._parts) and (k == 0 or i % 3 == 0):
                began, own = time.perf_counter(), time.thread_time()
                run(self._parts[i])
                self.blocks[i][name], self._busy[i][name] = time.perf_counter() - began, time.thread_time() - own
                self._busy_since += self._busy[i][name]  # but not what the writer did meanwhile

    def _tell(self, i: int) -> None:
        self._note("blocks", {name: {"seconds": self.blocks[i][name], "processor": self._busy[i][name]}
                              for name in self.blocks[i]})  # fmt: skip


def made_task(d_vocab: int, n: int, length: int, every: bool) -> Task:
    """n sequences of random tokens, read at every position or at the last one."""
    numbers = np.random.default_rng(0).integers(0, d_vocab, (n, length))
    where = np.arange(length) if every else np.array([length - 1])
    return Task(name="bench", tokens=list(numbers), positions=[where] * n, group=np.arange(n),
                domain=np.array(["seen"] * n), behaviours=(), floor_inputs={})  # fmt: skip


def _part(task: Task, start: int, stop: int) -> Task:
    """Some of its examples."""
    cut = slice(start, stop)
    return replace(task, tokens=task.tokens[cut], positions=task.positions[cut], group=task.group[cut],
                   domain=task.domain[cut])  # fmt: skip


def bare_forward(model: Model, task: Task, backend: str) -> None:
    """Every batch of a capture run through the model, logits at one position, and nothing kept."""
    for ids in in_batches(model, task):
        with model.hooked({}, backend):
            model.forward(ids, torch.ones_like(ids), ids.new_zeros(1), backend=backend)


def in_batches(model: Model, task: Task) -> Iterator[Tensor]:
    """Token ids [examples, tokens] of the batches that a capture of equally long examples is run in."""
    for examples in batches(np.asarray([len(row) for row in task.tokens]), most_tokens(model, BATCH_TOKENS)):
        yield torch.from_numpy(np.stack([task.tokens[i] for i in np.sort(examples)]))


def _run_with_cache(model: Model, task: Task, names: list[str]) -> None:
    for ids in in_batches(model, task):
        with torch.inference_mode():
            model.bridge.module.run_with_cache(ids, names_filter=names)
        model.bridge.clear()


def _gap(model: Model, task: Task, names: list[str]) -> float:
    """Between what is captured of the first batch and what TransformerLens has in its cache."""
    found, largest = capture(model, task, names, store=None, batch_tokens=BATCH_TOKENS), 0.0
    first = next(in_batches(model, task))
    with torch.inference_mode():
        _, cache = model.bridge.module.run_with_cache(first, names_filter=names)
    for name in names:
        theirs = cache[name].flatten(0, 1)
        gap = (found.sites[name][: len(theirs)] - theirs).norm(dim=1) / theirs.norm(dim=1)
        largest = max(largest, float(gap.max()))
    return largest


def _save(size: CaptureSize, folder: Path) -> None:
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


def _memory(size: CaptureSize, checkpoint: Path, store: Path) -> Iterator[dict[str, Any]]:
    """Peak resident memory above that before, each in a process of its own, beside what a capture may take."""
    if not Path("/proc/self/clear_refs").exists():
        raise BadInput("peak memory is read off /proc, which this system does not have.")
    n, length = size.runs["memory"]
    bare = _process(checkpoint, store, size.d_vocab, (n, length), "bare")["peak"]
    yield {"what": "bare forward, hf", "sequences": n, "peak_mib": bare / 2**20}
    for what in ("all", "last"):
        for n_sequences in (n, 2 * n, 4 * n):
            found = _process(checkpoint, store, size.d_vocab, (n_sequences, length), what)
            yield {"what": f"capture, {what}", "sequences": n_sequences, "peak_mib": found["peak"] / 2**20,
                   "allowed_mib": (bare + 2 * found["batch"] + SPARE) / 2**20}  # fmt: skip


def _process(checkpoint: Path, store: Path, d_vocab: int, run: tuple[int, int], what: str) -> dict[str, int]:
    rmtree(store, ignore_errors=True)
    asked = {"checkpoint": str(checkpoint), "store": str(store), "run": run, "what": what, "d_vocab": d_vocab,
             "threads": torch.get_num_threads()}  # fmt: skip
    room = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("capture_process.py")), json.dumps(asked)],
        capture_output=True, encoding="utf-8", errors="replace", env={**os.environ, "PYTHONPATH": room},
    )  # fmt: skip
    rmtree(store, ignore_errors=True)
    if done.returncode:
        raise ProbekitError(f"the capture of {run[0]} sequences failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
