"""Run by the other package's own Python: fits what lies in a folder and leaves its weights and seconds there."""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch


def main(folder: Path) -> None:
    """Read x.npy [site, n, d] and y.npy [site, n]; write weight.npy, bias.npy and seconds.json."""
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    x, y = (torch.from_numpy(np.load(folder / name)) for name in ("x.npy", "y.npy"))
    fit = importlib.import_module("probekit.fitters.batch.logistic").fit_logistic_batch
    fit(x[:, :64, :4], y[:, :64], max_iter=1)  # what is done once per process is not timed
    started = time.perf_counter()
    found = fit(x, y, c_param=asked["c"], tol=asked["tol"], normalize=False)
    seconds = time.perf_counter() - started
    np.save(folder / "weight.npy", np.asarray(found.weights, dtype=np.float32))
    np.save(folder / "bias.npy", np.asarray(found.biases, dtype=np.float32))
    (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
