"""Run in a process of its own, so that peak memory is that of one capture: writes its bytes to standard output."""

import json
import sys
from pathlib import Path

import torch

from probekit.bench.capture import BATCH_TOKENS, bare_forward, made_task
from probekit.bench.stream_process import resident
from probekit.capture import capture
from probekit.model import load_model


def main(asked: dict) -> int:
    """Bytes by which resident memory rose at its highest, once the model was loaded and had run one sequence."""
    torch.set_num_threads(asked["threads"])
    vocab, (n, length) = asked["d_vocab"], asked["run"]
    model = load_model(asked["checkpoint"])
    bare_forward(model, made_task(vocab, 1, length, every=False), "hf")
    task = made_task(vocab, n, length, every=asked["what"] == "all")
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    if asked["what"] == "bare":
        bare_forward(model, task, "hf")
    else:
        capture(model, task, "blocks.*.hook_resid_post", store=asked["store"], batch_tokens=BATCH_TOKENS, backend="hf")
    return resident("VmHWM") - before


if __name__ == "__main__":
    sys.stdout.write(f"{main(json.loads(sys.argv[1]))}\n")
