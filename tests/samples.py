"""Small tasks and token lists that several tests share."""

import numpy as np

from probekit.task import Behaviour, Task


def task_of(behaviours=(), n=9, n_ids=30, **changes):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(4, n_ids, size) for size in rng.integers(3, 20, n)]
    positions = [rng.permutation(len(t))[: 1 + i % 3] for i, t in enumerate(tokens)]
    n_rows = sum(map(len, positions))
    label = Behaviour("truth", np.eye(2, dtype=np.float32)[np.arange(n_rows) % 2], ("no", "yes"))
    fields = {"name": "t", "tokens": tokens, "positions": positions, "group": np.arange(n) % 4,
              "domain": np.array(["seen"] * (n - 2) + ["new"] * 2), "behaviours": tuple(behaviours),
              "labels": {"truth": label}}  # fmt: skip
    return Task(**(fields | changes))


def ragged(lengths=(7, 20, 12), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 30, n) for n in lengths]
