"""What the fit bench solves: board squares off a real capture, and one binary target at each of several sites.

Real activations have a spectrum that falls by orders of magnitude, which is what makes first-order solvers slow. The
second problem is drawn with the spectrum of the capture, stretched to the width asked for.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

HOOKS = ("blocks.2.hook_resid_post", "blocks.5.hook_resid_post")
N_POSITIONS = 30


@dataclass(frozen=True)
class BenchSite:
    """Rows to fit and rows held out: activations [n, d], labels [n, t]."""

    fit: Float[Tensor, "n d"]
    held_out: Float[Tensor, "m d"]
    fit_labels: Int[Tensor, "n t"]
    held_out_labels: Int[Tensor, "m t"]

    def inputs(self, kind: str) -> "BenchSite":
        """As they are; every coordinate divided by its deviation; or whitened, all of it learnt on the fit rows."""
        mean = self.fit.mean(0)
        if kind == "raw":
            return self
        if kind == "scaled":
            turn = torch.diag(1 / self.fit.std(0, correction=0).clamp_min(1e-6))
        else:
            values, vectors = torch.linalg.eigh(torch.cov(self.fit.double().T, correction=0))
            kept = values > 1e-10 * values[-1]
            turn = (vectors[:, kept] / values[kept].sqrt()).float()
        return replace(self, fit=(self.fit - mean) @ turn, held_out=(self.held_out - mean) @ turn)

    def targets(self, at: list[int]) -> "BenchSite":
        """The same rows with some of the targets."""
        return replace(self, fit_labels=self.fit_labels[:, at], held_out_labels=self.held_out_labels[:, at])


@dataclass(frozen=True)
class Problem:
    """mean cross-entropy (nats) + ridge / 2 |weight|^2 at each site, weights as scikit-learn counts them."""

    case: str
    sites: tuple[BenchSite, ...]
    n_class: int
    ridge: float
    kind: str = "raw"

    @property
    def outputs(self) -> int:
        """Logits per row and site."""
        return self.n_class * self.sites[0].fit_labels.shape[1]

    def inputs(self, kind: str) -> "Problem":
        """The problem in other coordinates, where the same ridge means something else."""
        return replace(self, sites=tuple(site.inputs(kind) for site in self.sites), kind=kind)


def captured(n: int, n_held_out: int, n_targets: int, ridge: float, seed: int = 0) -> Problem:
    """Squares of the board, three classes each, read off two layers side by side of the bundled Othello model."""
    from probekit.activations.capture import capture
    from probekit.model.loading import load_model
    from probekit.testbeds import load_testbed

    n_games = -(-(n + n_held_out) // (2 * (N_POSITIONS - 2)))
    task = load_testbed("othello-6x6", n_examples=n_games, n_positions=N_POSITIONS, seed=seed).task
    found = capture(load_model("othello-6x6"), task, HOOKS, store=None)
    rows = np.flatnonzero(found.observations.domain == found.observations.domains[0])
    # Whole games are held out: rows lie game by game.
    rows = torch.from_numpy(rows[: n + n_held_out])
    x = torch.cat([found.sites[name] for name in HOOKS], 1)[rows]
    features = found.observations.features
    labels = torch.from_numpy(np.concatenate([features[name].labels for name in ("mine_yours", "black_white")], 1))[
        rows
    ]
    counts = torch.stack([(labels[:n] == c).sum(0) for c in range(3)]).amin(0)
    # The squares in the middle are never empty.
    kept = torch.nonzero(counts > min(100, n // 50)).flatten()[:n_targets]
    site = BenchSite(x[:n], x[n:], labels[:n, kept], labels[n:, kept])
    return Problem(f"{len(kept)} targets x 3 classes, n {n}, d {x.shape[1]}", (site,), 3, ridge)


def drawn(
    n: int, n_held_out: int, d: int, n_sites: int, ridge: float, like: Float[Tensor, "m d0"], seed: int = 0
) -> Problem:
    """One noisy binary target at each site; activations in a random rotation with the spectrum of `like`."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.linalg.eigvalsh(torch.cov(like.double().T)).flip(0).clamp_min(1e-12).sqrt()
    at = torch.linspace(0, len(values) - 1, d)
    spread = torch.from_numpy(np.exp(np.interp(at, np.arange(len(values)), values.log()))).float()
    sites = []
    for _ in range(n_sites):
        h = torch.randn(n + n_held_out, d, generator=generator)
        score = h @ torch.randn(d, generator=generator) * (3 / d**0.5)
        label = (score + torch.randn(len(h), generator=generator) > 0).long()[:, None]
        x = (h * spread) @ torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
        sites.append(BenchSite(x[:n], x[n:], label[:n], label[n:]))
    return Problem(f"{n_sites} sites x 1 binary target, n {n}, d {d}", tuple(sites), 2, ridge)
