"""Simple functions on k directions, the directions fitted jointly with the function.

A linear fit cannot find the directions of an XOR, so every class starts from several places: the linear readout's
leading directions, the spectrum of E[(law - floor) z z^T] (which finds even functions), a mixture, and random draws.
Thresholds start from searched cells too (fit/pursuit.py): their loss has a local optimum for every way to cut.
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
from probekit.fit.pursuit import best_cuts, find_cells

RESTARTS = 4
WIDEST = 4  # linear and even directions that the search is given
SEARCHED = 3  # further starts of thresholds, from searched cells
HANDICAP = 1e-3  # nats by which a searched start must be better than the others
RECUT = 2  # plain and searched starts whose cuts are chosen anew once Adam is done
RECUT_ROWS = 16_384
CUTS = {"one_threshold": 1, "two_thresholds": 2}
STEEPNESS = 2.0, 16.0  # of soft thresholds, at the first step and at the last
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
    if kind in CUTS:
        cuts = shape["cuts"]  # [restart, k, 1 or 2]
        gap = s[..., None] - cuts[:, None]
        cells = (gap > 0).to(s.dtype) if steepness is None else torch.sigmoid(steepness * gap)
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


class EvenSpectrum:
    """Spectra of E[(law - floor) z z^T], z white, for the leading mixtures of outcomes, each found when first asked."""

    def __init__(self, rows: Rows, variance: Float[Tensor, " r"]) -> None:
        n_class, t, n = rows.law.shape
        guess = rows.law.mean(-1, keepdim=True) if rows.offset is None else torch.softmax(rows.offset, 0)
        residual = (rows.law - guess).reshape(n_class * t, n)
        residual = residual - residual.mean(-1, keepdim=True)
        _, size, mix = torch.linalg.svd(residual[:, : 4 * BATCH] @ residual[:, : 4 * BATCH].T)
        # Laws sum to one: the last mixture of all says nothing.
        self.weights = mix[: max(1, int((size > 1e-6 * size[0]).sum()))] @ residual
        self.rows, self.variance = rows, variance
        self.found: list[tuple[Tensor, Tensor]] = []

    def directions(self, k: int) -> Float[Tensor, "r k"]:
        """Leading eigenvectors, by absolute value, pooled over the first k mixtures, or two."""
        z, scale = self.rows.z, self.variance.rsqrt()
        for weight in self.weights[len(self.found) : max(k, 2)]:
            moment = (z * weight[:, None]).T @ z / len(z)
            self.found.append(tuple(torch.linalg.eigh(moment * scale * scale[:, None])))
        leading = []
        for values, vectors in self.found[: max(k, 2)]:
            size, order = values.abs().sort(descending=True)
            leading.append(vectors[:, order[:k]] * size[:k])
        return torch.linalg.svd(torch.cat(leading, 1), full_matrices=False)[0][:, :k]


def _starts(whitened: Tensor, spectrum: EvenSpectrum, linear: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Directions to start from, whitened coordinates, unit columns: [restart, r, k]."""
    r = whitened.shape[1]
    draw = torch.randn(RESTARTS, r, k, generator=generator).to(whitened.device)
    even = spectrum.directions(k)
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
    wide = spectrum.directions(k + 1) if r > k else torch.cat([even, even[:, :1]], 1)
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
    spectrum: EvenSpectrum | None = None,
) -> Simple:
    """Fit one class on k directions; the restart with the lowest selection loss is kept.

    linear: directions of the linear readout, leading first, in frame coordinates. seed decides restarts and batches.
    spectrum: of `fit`, where several classes or k share it.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = variance.sqrt()
    whitened = fit.z / spread
    n_class, t, n = fit.law.shape
    known = spread[:, None] * linear
    spectrum = spectrum or EvenSpectrum(fit, variance)
    parameters = {"directions": _starts(whitened, spectrum, known, k, generator)}
    parameters |= _initial_shape(kind, k, generator, fit.z.device)
    width = n_features(kind, k)
    parameters["out"] = 0.1 * torch.randn(RESTARTS, width, n_class * t, generator=generator).to(fit.z.device)
    bias = torch.log(fit.law.mean(-1).clamp_min(1e-6)).flatten() if fit.offset is None else torch.zeros(n_class * t)
    parameters["bias"] = bias.to(fit.z.device).repeat(RESTARTS, 1)
    if kind in CUTS:
        tried = torch.cat([known[:, :WIDEST], spectrum.directions(min(WIDEST, whitened.shape[1]))], 1)
        cells = find_cells(fit, whitened, tried, k, CUTS[kind], SEARCHED, generator)
        parameters["directions"] = torch.cat([parameters["directions"], cells.directions])
        parameters["cuts"] = torch.cat([parameters["cuts"], cells.cuts])
        parameters["out"] = torch.cat([parameters["out"], cells.steps.flatten(1, 2)])
        parameters["bias"] = torch.cat([parameters["bias"], parameters["bias"][:1] + cells.base])
    parameters["scale"] = torch.ones(len(parameters["bias"]), 1, t, 1, device=fit.z.device)
    for value in parameters.values():
        value.requires_grad_()
    optimiser = torch.optim.Adam(parameters.values(), lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 2 * (1 - i / STEPS)))
    order = torch.randperm(n, generator=generator).to(fit.z.device)
    mixed = Rows(whitened[order], fit.law[..., order], None if fit.offset is None else fit.offset[..., order])
    for step in range(STEPS):
        start = (step * BATCH) % n if n > BATCH else 0
        at = slice(start, start + BATCH)
        steepness = STEEPNESS[0] * (STEEPNESS[1] / STEEPNESS[0]) ** (step / STEPS)
        some = Rows(mixed.z[at], mixed.law[..., at], None if mixed.offset is None else mixed.offset[..., at])
        moving = parameters | {"directions": _unit(parameters["directions"])}
        loss = _losses(kind, moving, some, steepness).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return _best_restart(
        kind, {name: value.detach() for name, value in parameters.items()}, fit, select, spread, lambdas
    )


def _best_restart(kind, parameters: dict[str, Tensor], fit: Rows, select: Rows, spread: Tensor, lambdas) -> Simple:
    """The restart with the lowest selection loss, its readout refitted by the convex core."""
    parameters["directions"] = _unit(parameters["directions"])
    at_select = Rows(select.z / spread, select.law, select.offset)
    rough = _losses(kind, parameters, at_select).mean(1)
    if kind in CUTS:
        # Adam sees soft thresholds: the most promising of both sorts get the best hard ones along their directions.
        plain, searched = rough[:RESTARTS].argsort()[:RECUT], RESTARTS + rough[RESTARTS:].argsort()[:RECUT]
        best = torch.cat([plain, searched])
        parameters = _recut(kind, {name: value[best] for name, value in parameters.items()}, fit, spread)
        rough = _losses(kind, parameters, at_select).mean(1)
        # What a search found lies less exactly along its directions, which a shift would show.
        rough[RECUT:] += HANDICAP
    i = int(rough.argmin())
    directions = parameters["directions"][i] / spread[:, None]
    shape = {name: parameters[name][i] for name in ("cuts", "inner", "inner_bias") if name in parameters}
    best = Simple(kind, directions, shape, _EMPTY)
    seen = [Rows(best.features(rows.z), rows.law, rows.offset) for rows in (fit, select)]
    return replace(best, readout=fit_path(seen[0], seen[1], lambdas=lambdas))


def _logits(
    kind: str, parameters: dict[str, Tensor], rows: Rows, steepness: float | None = None
) -> Float[Tensor, "s k t n"]:
    """Logits of whitened rows under every restart."""
    directions = parameters["directions"]
    # One product for all restarts: a batch of them would copy the rows for each.
    flat = directions.transpose(0, 1).reshape(directions.shape[1], -1)
    s = (rows.z @ flat).view(-1, len(directions), directions.shape[2]).transpose(0, 1).contiguous()
    logits = (_features(kind, s, parameters, steepness) @ parameters["out"] + parameters["bias"][:, None]).mT
    logits = logits.reshape(len(s), *rows.law.shape)
    return logits if rows.offset is None else logits + parameters["scale"] * rows.offset


def _losses(
    kind: str, parameters: dict[str, Tensor], rows: Rows, steepness: float | None = None
) -> Float[Tensor, "s t"]:
    """Mean cross-entropy of each restart and target, in nats."""
    logits = _logits(kind, parameters, rows, steepness)
    return (torch.logsumexp(logits, 1) * rows.law.sum(0) - (rows.law * logits).sum(1)).mean(-1)


def _recut(kind: str, parameters: dict[str, Tensor], fit: Rows, spread: Tensor) -> dict[str, Tensor]:
    """Each direction's cuts and cells chosen anew beside the others', kept where the fit rows gain."""
    step = -(-len(fit.z) // RECUT_ROWS)
    offset = None if fit.offset is None else fit.offset[..., ::step]
    rows = Rows(fit.z[::step] / spread, fit.law[..., ::step], offset)
    n_class, t, n = rows.law.shape
    law, c = rows.law.reshape(n_class * t, n).T.contiguous(), CUTS[kind]
    for j in range(parameters["directions"].shape[-1]):
        before = _losses(kind, parameters, rows).sum(1)
        changed = {name: value.clone() for name, value in parameters.items()}
        changed["out"][:, j * c : (j + 1) * c] = 0
        beside = torch.softmax(_logits(kind, changed, rows), 1) * rows.law.sum(0)
        for i, floor in enumerate(beside.reshape(-1, n_class * t, n)):
            s = rows.z @ parameters["directions"][i, :, j]
            cuts, cells = best_cuts(s, law, floor.T.contiguous(), c)
            changed["cuts"][i, j], changed["out"][i, j * c : (j + 1) * c] = cuts, cells.diff(dim=0)
            changed["bias"][i] += cells[0]
        better = _losses(kind, changed, rows).sum(1) < before
        for name, value in parameters.items():
            value[better] = changed[name][better]
    return parameters


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
