"""Trial: one batch run through a job's model, for the time, memory and disk that all will take. Makes no files."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from probekit.errors import printable
from probekit.jobs.budget import room_of
from probekit.jobs.job import Job
from probekit.jobs.progress import time_left, told_bytes
from probekit.model.audit import choose_backend
from probekit.model.model import Model
from probekit.model.reading import Batch, batches, most_tokens
from probekit.spec import JobSpec

BATCH_TOKENS = 4096  # as a capture has it


@dataclass(frozen=True)
class Trial:
    """What one batch of a job's longest texts took, and what follows from it.

    n_tokens, n_rows: of the whole task. n_passes: of the model over all of it. peak_bytes: of this process so far, or
    of the GPU. site_bytes: of the rows of the widest hook point in float32. disk_bytes: what the store will hold of
    activations.
    """

    model: str
    load_seconds: float
    tokens_per_second: float
    n_tokens: int
    n_rows: int
    n_passes: int
    peak_bytes: int
    site_bytes: int
    disk_bytes: int

    @property
    def seconds(self) -> float:
        """Of all forward passes, without the readers."""
        return self.n_tokens * self.n_passes / self.tokens_per_second

    def lines(self) -> list[str]:
        """For people."""
        passes = f"{self.n_passes} forward pass{'es' * (self.n_passes > 1)}"
        return [
            f"tried: {printable(self.model)} loads in {time_left(self.load_seconds)} and runs "
            f"{self.tokens_per_second:,.0f} tokens/s here: {passes} of {self.n_tokens:,} tokens take about "
            f"{time_left(self.seconds)}, without readers and edits",
            f"memory: {told_bytes(self.peak_bytes)} at the peak of a batch; a site's {self.n_rows:,} rows take "
            f"{told_bytes(self.site_bytes)} more while it is read; disk: {told_bytes(self.disk_bytes)} of activations",
        ]


def try_batch(spec: JobSpec, base: Path, device: str = "cpu", model: Model | None = None) -> tuple[Trial, Model]:
    """Load a job and run one batch of its longest texts; returns what it took and the model, for the next job of it.

    model: the one that the spec names, where it is loaded already. Raises BadInput as the run would.
    """
    begun = time.monotonic()
    job = Job.load(spec, base, device, model)
    loading, task, model = time.monotonic() - begun, job.task, job.model
    names = [hook.name for hook in model.hooks(spec.read.hooks)]
    lengths = np.array([len(tokens) for tokens in task.tokens])
    most = most_tokens(model, BATCH_TOKENS)
    some = np.sort(batches(lengths, most)[0])
    tokens, places = [task.tokens[i] for i in some], [task.positions[i] for i in some]
    backend = choose_backend(model, spec.backend, names, task.tokens).name
    asked = {"batch_tokens": most, "backend": backend, "with_logits": any(b.kind != "label" for b in task.behaviours)}
    answer = None if task.answer is None else task.answer[some]
    seconds = 0.0
    for _ in range(2):  # the first one also pays for what is made once
        begun = time.monotonic()
        model.stream(tokens, names, places, _take, answer=answer, **asked)
        seconds = time.monotonic() - begun
    widths = [model.widths[name] for name in names]
    n_rows = sum(map(len, task.positions))
    n_passes = 1 + spec.wants_twin + len(job.deleted)
    found = Trial(
        model.name, loading, float(lengths[some].sum()) / max(seconds, 1e-9), int(lengths.sum()), n_rows, n_passes,
        _peak(model), n_rows * max(widths) * 4, room_of(spec, model, task, len(job.deleted)),
    )  # fmt: skip
    return found, model


def _take(batch: Batch) -> None:
    """What a capture copies away before the next batch."""
    for values in batch.values.values():
        values.cpu()


def _peak(model: Model) -> int:
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(model.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
