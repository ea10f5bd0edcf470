"""Peers of the fit engine: each solves a problem as its users would, and says how long it took.

A solver takes (problem, strictness) and gives held-out logits per site, [class, target, row], and seconds. Strictness
counts from 0, the loosest setting; the bench takes the first one that reaches the common held-out loss.
"""

import json
import os
import subprocess
import sys
import time
import venv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from probekit.errors import ProbekitError
from probekit.fit.frame import fit_frame
from probekit.fit.readout import fit_readout
from probekit.proofs.bench.problems import Problem

Solved = tuple[list[Tensor], float]
Solver = Callable[[Problem, int], Solved]
OURS = (1e-3, 3e-4, 1e-4, 1e-5, 2e-6, 2e-7)  # tolerances
SCIKIT = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LENS = (1e-2, 1e-4, 1e-6, 1e-9, 1e-12)  # accepted Newton decrements
NAMESAKE = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
EPOCHS = (3, 10, 30, 100)
ADAM_RATE, ADAM_BATCH = 1e-2, 1_024
NAMESAKE_VERSION = "0.4.0"


@dataclass(frozen=True)
class Peer:
    """inputs: the coordinates that it is given. settings: how many strictnesses it has.

    loops: it fits one target of one site at a time.
    """

    name: str
    inputs: str
    solve: Solver
    settings: int
    loops: bool = False
    binary_only: bool = False


def ours(problem: Problem, strictness: int) -> Solved:
    """This package: one fit of all targets per site, the frame included unless the rows come whitened."""
    tolerance = OURS[strictness]
    # scikit-learn's binary model has one weight vector where ours has two of half its size.
    ridge = problem.ridge * (2 if problem.n_class == 2 else 1)
    out, seconds = [], 0.0
    for site in problem.sites:
        law = torch.nn.functional.one_hot(site.fit_labels, problem.n_class).permute(2, 1, 0).float().contiguous()
        started = time.perf_counter()
        if problem.kind == "whitened":  # rows that are already in a frame: solver against solver
            readout = fit_readout(site.fit, law, None, torch.ones(site.fit.shape[1]), ridge, tolerance=tolerance)
            seconds += time.perf_counter() - started
            out.append(readout.logits(site.held_out))
            continue
        frame = fit_frame(site.fit)
        scale = frame.length
        readout = fit_readout(frame.apply(site.fit), law, None, frame.variance, ridge * scale**2, tolerance=tolerance)
        seconds += time.perf_counter() - started
        out.append(readout.logits(frame.apply(site.held_out)))
    return out, seconds


def scikit_learn(problem: Problem, strictness: int) -> Solved:
    """A loop over sites and targets, as people write it; iterations are not limited, so that it does converge."""
    from sklearn.linear_model import LogisticRegression

    out, seconds = [], 0.0
    for site in problem.sites:
        x, held_out = site.fit.numpy(), site.held_out.numpy()
        logits = []
        for label in site.fit_labels.T.numpy():
            model = LogisticRegression(C=1 / (len(x) * problem.ridge), tol=SCIKIT[strictness], max_iter=20_000)
            started = time.perf_counter()
            model.fit(x, label)
            seconds += time.perf_counter() - started
            score = torch.from_numpy(model.decision_function(held_out)).float()
            logits.append(torch.stack([torch.zeros_like(score), score]) if score.ndim == 1 else score.T)
        out.append(torch.stack(logits, 1))
    return out, seconds


def adam(problem: Problem, strictness: int) -> Solved:
    """A linear layer, all targets and sites at once, Adam with a rate that falls to zero; strictness is epochs."""
    x = torch.stack([site.fit for site in problem.sites])
    labels = torch.stack([site.fit_labels for site in problem.sites])
    n_sites, n, d = x.shape
    k, t = problem.n_class, labels.shape[2]
    generator = torch.Generator().manual_seed(0)
    ridge = problem.ridge * (2 if k == 2 else 1)
    started = time.perf_counter()
    weight = torch.zeros(n_sites, d, k * t, requires_grad=True)
    bias = torch.zeros(n_sites, 1, k * t, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=ADAM_RATE)
    n_steps = max(1, n // ADAM_BATCH)
    total = EPOCHS[strictness] * n_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 1 - i / total)
    for _ in range(EPOCHS[strictness]):
        order = torch.randperm(n, generator=generator)
        for i in range(n_steps):
            at = order[i * ADAM_BATCH : (i + 1) * ADAM_BATCH]
            logits = torch.baddbmm(bias, x[:, at], weight).view(n_sites, len(at), k, t)
            loss = torch.nn.functional.cross_entropy(logits.permute(0, 2, 1, 3).flatten(0, 0), labels[:, at])
            # The mean over rows, summed over targets and sites, as each had a loss of its own.
            loss = loss * n_sites * t + 0.5 * ridge * (weight**2).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        held_out = torch.stack([site.held_out for site in problem.sites])
        logits = torch.baddbmm(bias, held_out, weight).view(n_sites, -1, k, t)
    return list(logits.permute(0, 2, 3, 1)), seconds


def transformer_lens(problem: Problem, strictness: int) -> Solved:
    """fit_sparse_probe(k=d). It splits the rows it is given itself and wants some of each class held out."""
    from transformer_lens.tools.analysis import fit_sparse_probe

    out, seconds = [], 0.0
    for site in problem.sites:
        # Rows enough that what it fits on is as many as everybody else has.
        extra = max(4, len(site.fit) // 100)
        x = torch.cat([site.fit, site.held_out[:extra]])
        label = torch.cat([site.fit_labels, site.held_out_labels[:extra]])[:, 0]
        started = time.perf_counter()
        found = fit_sparse_probe(
            x, label, k=x.shape[1], test_fraction=extra / len(x), class_weight=None, l2_strength=problem.ridge,
            decrement_tolerance=LENS[strictness],
        )  # fmt: skip
        seconds += time.perf_counter() - started
        weight = torch.zeros(x.shape[1])
        weight[found.selected_features] = found.coefficients.float()
        score = site.held_out @ weight + float(found.intercept)
        out.append(torch.stack([torch.zeros_like(score), score])[:, None])
    return out, seconds


class Namesake:
    """The PyPI package `probekit` 0.4, in a process and an environment of its own, because of its name.

    Raises ProbekitError, with the reason, where it cannot be installed.
    """

    def __init__(self, cache: Path, install: bool) -> None:
        self.folder = cache / f"probekit-{NAMESAKE_VERSION}"
        self.python = self.folder / "bin" / "python"
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if self.ready:
            return
        if not install:
            raise ProbekitError(f"probekit {NAMESAKE_VERSION} of the package index is not installed in {self.folder}")
        venv.create(self.folder, with_pip=True)
        lender = next(path for path in sys.path if path.endswith("site-packages"))
        site = next(self.folder.glob("lib/python*/site-packages"))
        # torch and scikit-learn are those of this environment; a package of its own name comes first.
        (site / "lender.pth").write_text(lender + "\n", encoding="utf-8")
        asked = [str(self.python), "-m", "pip", "install", "--quiet", "--no-deps", f"probekit=={NAMESAKE_VERSION}"]
        done = subprocess.run(
            asked, capture_output=True, encoding="utf-8", errors="replace", env=self.environment, cwd=self.folder
        )
        if done.returncode or not self.ready:
            reason = (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
            raise ProbekitError(f"probekit {NAMESAKE_VERSION} could not be installed: {reason}")

    @property
    def ready(self) -> bool:
        """Whether the other package is what its environment imports."""
        if not self.python.exists():
            return False
        code = "import probekit.fitters.batch.logistic"
        return not subprocess.run(
            [str(self.python), "-c", code], capture_output=True, env=self.environment, cwd=self.folder
        ).returncode

    def __call__(self, problem: Problem, strictness: int) -> Solved:
        """Newton for all sites in one batch."""
        with TemporaryDirectory(prefix="probekit-bench-") as name:
            folder = Path(name)
            np.save(folder / "x.npy", np.stack([site.fit.numpy() for site in problem.sites]))
            np.save(folder / "y.npy", np.stack([site.fit_labels[:, 0].numpy() for site in problem.sites]))
            asked = {"c": 1 / (len(problem.sites[0].fit) * problem.ridge), "tol": NAMESAKE[strictness],
                     "threads": torch.get_num_threads()}  # fmt: skip
            (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
            script = Path(__file__).with_name("namesake_process.py")
            command = [str(self.python), str(script), str(folder)]
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", env=self.environment, cwd=self.folder
            )
            if done.returncode:
                raise ProbekitError(f"probekit {NAMESAKE_VERSION} failed: {done.stderr.strip().splitlines()[-1]}")
            weight, bias = (torch.from_numpy(np.load(folder / f"{part}.npy")) for part in ("weight", "bias"))
            seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
        out = []
        for i, site in enumerate(problem.sites):
            score = site.held_out @ weight[i] + bias[i]
            out.append(torch.stack([torch.zeros_like(score), score])[:, None])
        return out, float(seconds)


def quietly(solve: Solver, problem: Problem, strictness: int) -> Solved:
    """Solve without the warnings of peers that are stopped early on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve(problem, strictness)
