"""Run in a process of its own, so that peak memory is that of one capture: writes what it found to standard output."""

import json
import sys
from pathlib import Path

import torch

from probekit.activations.capture import capture
from probekit.model.loading import load_model
from probekit.proofs.bench.capture import BATCH_TOKENS, bare_forward, in_batches, made_task

HOOKS = "blocks.*.hook_resid_post"


def resident(what: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what + ":")))


def main(asked: dict) -> dict[str, int]:
    """peak: bytes by which resident memory rose at its highest, once the model was loaded and had run one sequence.

    batch: bytes of the activations asked for in one batch.
    """
    torch.set_num_threads(asked["threads"])
    vocab, (n, length), every = asked["d_vocab"], asked["run"], asked["what"] == "all"
    model = load_model(asked["checkpoint"])
    bare_forward(model, made_task(vocab, 1, length, every=False), "hf")
    task = made_task(vocab, n, length, every)
    rows = len(next(in_batches(model, task))) * len(task.positions[0])
    batch = rows * sum(model.widths[hook.name] for hook in model.hooks(HOOKS)) * model.dtype.itemsize
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    if asked["what"] == "bare":
        bare_forward(model, task, "hf")
    else:
        capture(model, task, HOOKS, store=asked["store"], batch_tokens=BATCH_TOKENS, backend="hf")
    return {"peak": resident("VmHWM") - before, "batch": batch}


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(json.loads(sys.argv[1])))}\n")
