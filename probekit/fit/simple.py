"""Simple functions on k directions, the directions fitted jointly with the function.

A linear fit cannot find the directions of an XOR, so every class starts from several places: the linear readout's
leading directions, the spectrum of E[(law - floor) z z^T] (which finds even functions), a mixture, and random draws.
Adam moves directions and function together; the last layer is then refitted by the convex core. Families, stated once:

    one_threshold, two_thresholds   each direction is cut into 2 or 3 cells, one vector of logits per cell
    quadratic                       z_i and all products z_i z_j, i <= j
    bilinear                        z_i and products of different directions
    cubic                           z_i, z_i^2, z_i^3 and products of different directions
    mlp16                           one hidden layer of 16 ReLU units
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.fit.core import LAMBDAS, Readout, Rows, cross_entropy, fit_path

RESTARTS = 4
STEPS = 160
BATCH = 1_024
RATE = 0.03
HIDDEN = 16
MAX_K = 8  # beyond it a class of all products is no longer a simple function


@dataclass(frozen=True)
class Simple:
    """A fitted simple function: directions [r, k] in frame coordinates, the class's own parameters, and the readout."""

    kind: str
    directions: Float[Tensor, "r k"]
    shape: dict[str, Tensor]
    readout: Readout

    def features(self, z: Float[Tensor, "n r"]) -> Float[Tensor, "n f"]:
        """What the readout sees."""
        s = (z @ self.directions)[None]
        return _features(self.kind, s, {name: value[None] for name, value in self.shape.items()}, None)[0]

    def bits(self, rows: Rows) -> Float[Tensor, "t n"]:
        """Cross-entropy of rows under the fitted function."""
        return cross_entropy(self.logits(rows), rows.law)

    def logits(self, rows: Rows) -> Float[Tensor, "k t n"]:
        """Logits of rows, the offset included."""
        return self.readout.logits(self.features(rows.z), rows.offset)


def n_features(kind: str, k: int) -> int:
    """Width of what the readout sees, for k directions."""
    pairs = k * (k - 1) // 2
    return {
        "one_threshold": k, "two_thresholds": 2 * k, "quadratic": 2 * k + pairs, "bilinear": k + pairs,
        "cubic": 3 * k + pairs, "mlp16": HIDDEN,
    }[kind]  # fmt: skip


def _features(kind: str, s: Tensor, shape: dict[str, Tensor], steepness: float | None) -> Tensor:
    """Features of projections s [restart, n, k]; thresholds are soft while `steepness` is given, hard when None."""
    k = s.shape[-1]
    if kind in ("one_threshold", "two_thresholds"):
        cuts = shape["cuts"]  # [restart, k, 1 or 2]
        gap = s[..., None] - cuts[:, None]
        cells = torch.sigmoid(steepness * gap) if steepness else (gap > 0).to(s.dtype)
        return cells.flatten(-2)
    if kind == "mlp16":
        return torch.relu(s @ shape["inner"] + shape["inner_bias"][:, None])
    i, j = torch.triu_indices(k, k, 1, device=s.device)
    pairs = s[..., i] * s[..., j]
    if kind == "bilinear":
        return torch.cat([s, pairs], -1)
    if kind == "quadratic":
        return torch.cat([s, s**2, pairs], -1)
    return torch.cat([s, s**2, s**3, pairs], -1)


def _even_directions(rows: Rows, whitened: Tensor, k: int) -> Tensor:
    """Leading eigenvectors, by absolute value, of E[(law - floor) z z^T], pooled over outcomes."""
    n_class, t, n = rows.law.shape
    guess = rows.law.mean(-1, keepdim=True) if rows.offset is None else torch.softmax(rows.offset, 0)
    residual = (rows.law - guess).reshape(n_class * t, n)
    residual = residual - residual.mean(-1, keepdim=True)
    _, _, mix = torch.linalg.svd(residual[:, : 4 * BATCH] @ residual[:, : 4 * BATCH].T)
    found = []
    for direction in mix[: max(k, 2)]:
        weighted = whitened * (direction @ residual)[:, None]
        values, vectors = torch.linalg.eigh(weighted.T @ whitened / n)
        found.append(
            vectors[:, values.abs().argsort(descending=True)[:k]] * values.abs().sort(descending=True).values[:k]
        )
    u, _, _ = torch.linalg.svd(torch.cat(found, 1), full_matrices=False)
    return u[:, :k]


def _starts(rows: Rows, whitened: Tensor, linear: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Directions to start from, whitened coordinates, unit columns: [restart, r, k]."""
    r = whitened.shape[1]
    draw = torch.randn(RESTARTS, r, k, generator=generator).to(whitened.device)
    even = _even_directions(rows, whitened, k)
    if linear.shape[1] < k:
        linear = torch.cat([linear, draw[-1][:, : k - linear.shape[1]] / math.sqrt(r)], 1)
    if even.shape[1] < k:
        even = torch.cat([even, draw[-2][:, : k - even.shape[1]] / math.sqrt(r)], 1)
    half = k // 2
    draw[0] = linear[:, :k]
    draw[1] = even
    draw[2] = torch.cat([linear[:, : k - half], even[:, :half]], 1)
    # Summed even directions: a threshold or cubic on one direction needs s1 + s2, a quadratic does not care.
    turned = torch.linalg.qr(torch.randn(k + 1, k + 1, generator=generator))[0].to(whitened.device)
    wide = _even_directions(rows, whitened, k + 1) if r > k else torch.cat([even, even[:, :1]], 1)
    draw[3] = (wide @ turned[: wide.shape[1]])[:, :k]
    return draw / draw.norm(dim=1, keepdim=True).clamp_min(1e-12)


def fit_simple(
    kind: str,
    k: int,
    fit: Rows,
    select: Rows,
    variance: Float[Tensor, " r"],
    linear: Float[Tensor, "r k0"],
    seed: int,
    lambdas: Sequence[float] = LAMBDAS,
) -> Simple:
    """Fit one class on k directions; the restart with the lowest selection loss is kept.

    linear: directions of the linear readout, leading first, in frame coordinates. seed decides restarts and batches.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = variance.sqrt()
    whitened = fit.z / spread
    n_class, t, n = fit.law.shape
    parameters = {"directions": _starts(fit, whitened, spread[:, None] * linear, k, generator)}
    parameters |= _initial_shape(kind, k, generator, fit.z.device)
    width = n_features(kind, k)
    parameters["out"] = 0.1 * torch.randn(RESTARTS, width, n_class * t, generator=generator).to(fit.z.device)
    bias = torch.log(fit.law.mean(-1).clamp_min(1e-6)).flatten() if fit.offset is None else torch.zeros(n_class * t)
    parameters["bias"] = bias.to(fit.z.device).repeat(RESTARTS, 1)
    parameters["scale"] = torch.ones(RESTARTS, 1, t, 1, device=fit.z.device)
    for value in parameters.values():
        value.requires_grad_()
    optimiser = torch.optim.Adam(parameters.values(), lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 * (1 - i / STEPS)))
    order = torch.randperm(n, generator=generator).to(fit.z.device)
    for step in range(STEPS):
        at = order[(step * BATCH) % n :][:BATCH] if n > BATCH else order
        steepness = 2.0 * 8.0 ** (step / STEPS)
        s = whitened[at] @ _unit(parameters["directions"])
        logits = (_features(kind, s, parameters, steepness) @ parameters["out"] + parameters["bias"][:, None]).mT
        logits = logits.reshape(RESTARTS, n_class, t, len(at))
        if fit.offset is not None:
            logits = logits + parameters["scale"] * fit.offset[..., at]
        law = fit.law[..., at]
        loss = (torch.logsumexp(logits, 1) * law.sum(0) - (law * logits).sum(1)).mean(-1).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return _best_restart(
        kind, {name: value.detach() for name, value in parameters.items()}, fit, select, spread, lambdas
    )


def _best_restart(kind, parameters: dict[str, Tensor], fit: Rows, select: Rows, spread: Tensor, lambdas) -> Simple:
    """The restart with the lowest selection loss, its readout refitted by the convex core."""
    directions = _unit(parameters["directions"]) / spread[:, None]
    shape = {name: parameters[name] for name in ("cuts", "inner", "inner_bias") if name in parameters}
    n_class, t, _ = select.law.shape
    with torch.no_grad():
        features = _features(kind, select.z @ directions, shape, None)
        logits = (features @ parameters["out"] + parameters["bias"][:, None]).mT.reshape(RESTARTS, n_class, t, -1)
        logits = logits if select.offset is None else logits + parameters["scale"] * select.offset
        rough = (torch.logsumexp(logits, 1) * select.law.sum(0) - (select.law * logits).sum(1)).mean((-1, -2))
    i = int(rough.argmin())
    best = Simple(kind, directions[i], {name: value[i] for name, value in shape.items()}, _EMPTY)
    seen = [Rows(best.features(rows.z), rows.law, rows.offset) for rows in (fit, select)]
    return replace(best, readout=fit_path(seen[0], seen[1], lambdas=lambdas))


_EMPTY = Readout(torch.zeros(0, 0, 0), torch.zeros(0, 0), torch.zeros(0), torch.zeros(0))


def _unit(directions: Tensor) -> Tensor:
    return directions / directions.norm(dim=-2, keepdim=True).clamp_min(1e-12)


def _initial_shape(kind: str, k: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    if kind == "one_threshold":
        return {"cuts": 0.5 * torch.randn(RESTARTS, k, 1, generator=generator).to(device)}
    if kind == "two_thresholds":
        return {"cuts": torch.tensor([-0.7, 0.7]).repeat(RESTARTS, k, 1).to(device)}
    if kind == "mlp16":
        inner = torch.randn(RESTARTS, k, HIDDEN, generator=generator).to(device)
        return {"inner": inner, "inner_bias": torch.randn(RESTARTS, HIDDEN, generator=generator).to(device)}
    return {}
