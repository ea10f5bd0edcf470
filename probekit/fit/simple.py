"""Simple functions on k directions, the directions fitted jointly with the function, for growing k in one path.

Every k starts from several places (fit/starts.py): directions of the linear readout, of even and of odd functions,
searched cells for thresholds, and what was found for the k before it with new directions beside. All starts move
together (fit/descent.py), first within the few directions that they span, then the best of them freely; rows held out
say when to stop, so that a larger k falls back on a smaller one rather than on noise. The last layer is then refitted
by the convex core. Families, stated once:

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

from probekit.fit.core import Readout, Rows, cross_entropy
from probekit.fit.descent import descend
from probekit.fit.path import LAMBDAS, fit_path, take
from probekit.fit.pursuit import best_cuts
from probekit.fit.starts import Region

CUTS = {"one_threshold": 1, "two_thresholds": 2}
POWERS = {"bilinear": 1, "quadratic": 2, "cubic": 3}
HIDDEN = 16
# Within the span of the starts: steepness of soft thresholds, iterations, and how many starts go on.
STAGES = {True: ((2.0, 8, 6), (6.0, 8, 4), (16.0, 8, 3), (40.0, 8, 2)), False: ((None, 6, 4), (None, 8, 2))}
FREE = 8, 12  # iterations beyond that span: of the best starts on some rows, and of the best of these on all
FREE_ROWS = 4_096
RECUT_ROWS = 8_192
PATIENCE = 2
LEAN = 3e-3  # nats per e-fold of squared length
GAIN = 1e-3  # bits on the selection rows that are no gain
BREATH = 1e-2  # of the first guess of the last layer: a ridge relative to the features' own variance


Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Simple:
    """A fitted simple function: directions [r, k] in frame coordinates, the class's own parameters, and the readout."""

    kind: str
    directions: Float[Tensor, "r k"]
    shape: Parameters
    readout: Readout

    def features(self, z: Float[Tensor, "n r"]) -> Float[Tensor, "n f"]:
        """What the readout sees."""
        return self.features_along(z @ self.directions)

    def features_along(self, s: Float[Tensor, "n k"]) -> Float[Tensor, "n f"]:
        """What the readout sees of rows along the directions."""
        return _features(self.kind, s[None], {name: value[None] for name, value in self.shape.items()}, None)[0]

    def bits(self, rows: Rows) -> Float[Tensor, "t n"]:
        """Cross-entropy of rows under the fitted function."""
        return cross_entropy(self.logits(rows), rows.law)

    def logits(self, rows: Rows) -> Float[Tensor, "k t n"]:
        """Logits of rows, the offset included."""
        return self.readout.logits(self.features(rows.z), rows.offset)


def n_features(kind: str, k: int) -> int:
    """Width of what the readout sees, for k directions."""
    if kind == "mlp16":
        return HIDDEN
    return k * CUTS[kind] if kind in CUTS else POWERS[kind] * k + k * (k - 1) // 2


def _features(kind: str, s: Tensor, shape: Parameters, steepness: float | None) -> Tensor:
    """Features of projections s [start, n, k]; thresholds are soft while `steepness` is given, hard when None."""
    k = s.shape[-1]
    if kind in CUTS:
        gap = s[..., None] - shape["cuts"][:, None]  # cuts [start, k, 1 or 2]
        cells = (gap > 0).to(s.dtype) if steepness is None else torch.sigmoid(steepness * gap)
        return cells.flatten(-2)
    if kind == "mlp16":
        return torch.relu(s @ shape["inner"] + shape["inner_bias"][:, None])
    i, j = torch.triu_indices(k, k, 1, device=s.device)
    return torch.cat([*(s**power for power in range(1, POWERS[kind] + 1)), s[..., i] * s[..., j]], -1)


def fit_simples(
    kind: str,
    ks: Sequence[int],
    fit: Rows,
    select: Rows,
    region: Region,
    lambdas: Sequence[float] = LAMBDAS,
) -> dict[int, Simple]:
    """One class on each number of directions in ks, smallest first, in one path; region: of these very rows.

    Once PATIENCE of them in a row have gained nothing on the selection rows, the rest are the last one, wider.
    """
    out = {}
    before: Parameters | None = None
    lowest, idle = math.inf, 0
    for k in sorted(set(ks)):
        ended = idle >= PATIENCE
        before = _widened(kind, k, before, region) if before and ended else _fitted(kind, k, before, region)
        directions = before["directions"][0] / region.spread[:, None]
        shape = {name: before[name][0] for name in ("cuts", "inner", "inner_bias") if name in before}
        found = Simple(kind, directions, shape, _own_readout(before, fit))
        seen = [Rows(found.features(rows.z), rows.law, rows.offset) for rows in (fit, select)]
        bits = float(seen[1].bits(found.readout).mean())
        if not ended:
            # Stopped early, the layer that was fitted with its directions may hold out better than any ridge.
            refitted = fit_path(seen[0], seen[1], lambdas=lambdas)
            again = float(seen[1].bits(refitted).mean())
            if again < bits + GAIN:
                found, bits = replace(found, readout=refitted), again
                before |= _outputs_of(refitted)
        if select.offset is not None and not _tells(cross_entropy(select.offset, select.law), found.bits(select)):
            found = replace(found, readout=Readout.nothing(*found.readout.weight.shape, like=found.readout.weight))
        idle = 0 if bits < lowest - GAIN else idle + 1
        lowest = min(lowest, bits)
        out[k] = found
    return out


def _tells(floor_bits: Float[Tensor, "t n"], bits: Float[Tensor, "t n"]) -> bool:
    """Whether rows held out gain more than one standard error beyond the floor.

    Stops and starts were chosen on these rows, so that where there is nothing to find the lowest of many losses is
    below the floor's by chance (the one-standard-error rule, Breiman et al. 1984).
    """
    gain = (floor_bits - bits).mean(0)
    return float(gain.mean()) > float(gain.std()) / math.sqrt(len(gain))


def _own_readout(parameters: Parameters, rows: Rows) -> Readout:
    n_class, t, _ = rows.law.shape
    out, scale = parameters["out"][0], parameters["scale"][0, 0, :, 0]
    weight = out.T.reshape(n_class, t, -1).contiguous()
    return Readout(weight, parameters["bias"][0].view(n_class, t), scale, torch.zeros_like(scale))


def _outputs_of(readout: Readout) -> Parameters:
    weight, bias, scale = readout.weight.flatten(0, 1).T, readout.bias.flatten(), readout.scale[:, None]
    return {"out": weight[None], "bias": bias[None], "scale": scale[None, None]}


def _fitted(kind: str, k: int, before: Parameters | None, region: Region) -> Parameters:
    """Parameters of the best function of k directions, whitened, with one start; before: those of a smaller k."""
    near = region.near
    pack, points = _starts(kind, k, region)
    for steepness, steps, kept in STAGES[kind in CUTS]:
        losses = [_losses_of(kind, pack, rows, steepness) for rows in near]
        points, seen = descend(losses[0], points, steps, losses[1])
        directions = region.basis @ pack.unpack(points)["directions"]
        points = points[(seen + _lean(directions, region.spread)).argsort()[:kept]]
    inside = pack.unpack(points)
    pack = _Pack.of(kind, k, len(region.basis), near[0])
    points = pack.pack(inside | {"directions": region.basis @ inside["directions"]})
    if before is not None:
        points = torch.cat([points, pack.pack(_widened(kind, k, before, region))])
    some = take(region.far[0], slice(FREE_ROWS))
    fewer, losses, held_out = (_losses_of(kind, pack, rows, steepness) for rows in (some, *region.far))
    moved, seen = descend(fewer, points, FREE[0], held_out)
    moved, seen = descend(losses, moved[seen.argsort()[:1]], FREE[1], held_out)
    if kind in CUTS:
        # Descent sees soft thresholds, which hard ones need not follow: both ends of the path get the best hard cuts.
        hard = [_recut(kind, pack.unpack(point[None]), region.far[0]) for point in (*moved, *points)]
        moved = torch.cat([pack.pack(parameters) for parameters in hard])
        seen = _losses(kind, pack.unpack(moved), region.far[1])
    return pack.unpack(moved[(seen + _lean(pack.unpack(moved)["directions"], region.spread)).argsort()[:1]])


def _lean(directions: Float[Tensor, "s r k"], spread: Float[Tensor, " r"]) -> Float[Tensor, " s"]:
    """What leaning on quiet coordinates costs a start, in nats.

    Rows that are told apart with room to spare do not say how, and a coordinate that hardly varied where a function was
    fitted may vary a great deal elsewhere: of directions as good as each other the shortest on activations is kept.
    """
    return LEAN * ((_unit(directions) / spread[:, None]) ** 2).mean((1, 2)).log()


def _starts(kind: str, k: int, region: Region) -> tuple["_Pack", Float[Tensor, "s p"]]:
    """Starts for k directions in the basis, packed."""
    generator = torch.Generator().manual_seed(region.seed + k)
    near, stages = region.near[0], STAGES[kind in CUTS]
    pack = _Pack.of(kind, k, region.basis.shape[1], near)
    directions = region.fresh(k)
    drawn = {"directions": directions} | _initial_shape(kind, k, len(directions), generator, near.z)
    starts = [_with_outputs(kind, drawn, near, stages[0][0])]
    if kind in CUTS:
        cells = region.cells(CUTS[kind])
        searched = {"directions": cells.directions[..., :k], "cuts": cells.cuts[:, :k]}
        starts.append(_with_outputs(kind, searched, near, stages[-1][0]))
    return pack, torch.cat([pack.pack(start) for start in starts])


def _initial_shape(kind: str, k: int, m: int, generator: torch.Generator, like: Tensor) -> Parameters:
    """Cuts, or the hidden layer, of m starts."""
    if kind == "one_threshold":
        return {"cuts": 0.3 * torch.randn(m, k, 1, generator=generator).to(like)}
    if kind == "two_thresholds":
        return {"cuts": torch.tensor([-0.7, 0.7]).repeat(m, k, 1).to(like)}
    if kind == "mlp16":
        inner = torch.randn(m, k, HIDDEN, generator=generator).to(like)
        return {"inner": inner, "inner_bias": torch.randn(m, HIDDEN, generator=generator).to(like)}
    return {}


def _with_outputs(kind: str, start: Parameters, rows: Rows, steepness: float | None) -> Parameters:
    """A start with a last layer: half a ridge step from the floor, its curvature taken to be the same at all rows."""
    _, t, n = rows.law.shape
    features = _features(kind, _project(kind, rows.z, start["directions"]), start, steepness)
    mean = features.mean(1, keepdim=True)
    features = features - mean
    mass = rows.law.sum(0)
    prior = (rows.law.mean(-1, keepdim=True) / mass.mean(-1)[:, None]).expand_as(rows.law)
    guess = prior if rows.offset is None else torch.softmax(rows.offset, 0)
    residual = (rows.law - guess * mass).flatten(0, 1)
    curvature = (guess * (1 - guess) * mass).flatten(0, 1).mean(-1).clamp_min(1e-3)
    gram = features.mT @ features / n
    own = torch.diagonal(gram, dim1=1, dim2=2)
    out = torch.linalg.solve(gram + torch.diag_embed(BREATH * own + 1e-5), features.mT @ residual.T / n) / (
        2 * curvature
    )
    bias = torch.zeros_like(curvature) if rows.offset is not None else prior[..., 0].clamp_min(1e-6).log().flatten()
    scale = torch.ones(len(out), 1, t, 1).to(out)
    return start | {"out": out, "bias": bias - (mean @ out)[:, 0], "scale": scale}


def _widened(kind: str, k: int, before: Parameters, region: Region) -> Parameters:
    """The function of fewer directions on k of them, the new ones without weight: where the residual changes."""
    old = before["directions"]
    k0 = old.shape[-1]
    some = take(region.far[0], slice(len(region.near[0].z)))
    new = region.basis @ region.beside(_logits(kind, before, some)[0], k - k0)
    wide = before | {"directions": torch.cat([old, old.norm(dim=1).mean() * new[None]], 2)}
    shape = _initial_shape(kind, k, 1, torch.Generator().manual_seed(region.seed), new)
    if kind == "mlp16":
        return wide | {"inner": torch.cat([before["inner"], torch.zeros_like(shape["inner"][:, k0:])], 1)}
    if kind in CUTS:
        wide["cuts"] = torch.cat([before["cuts"], shape["cuts"][:, k0:]], 1)
        places = torch.arange(k0 * CUTS[kind])
    else:
        pairs = torch.triu_indices(k, k, 1)
        both_old = torch.nonzero((pairs < k0).all(0)).flatten()
        powers = [power * k + torch.arange(k0) for power in range(POWERS[kind])]
        places = torch.cat([*powers, POWERS[kind] * k + both_old])
    out = before["out"]
    wide["out"] = out.new_zeros(1, n_features(kind, k), out.shape[2])
    wide["out"][:, places.to(out.device)] = out
    return wide


@dataclass(frozen=True)
class _Pack:
    """Which parameters a class has, and their places in one row of numbers per start."""

    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, kind: str, k: int, q: int, rows: Rows) -> "_Pack":
        n_class, t, _ = rows.law.shape
        shapes: dict[str, tuple[int, ...]] = {"directions": (q, k)}
        if kind in CUTS:
            shapes["cuts"] = (k, CUTS[kind])
        if kind == "mlp16":
            shapes |= {"inner": (k, HIDDEN), "inner_bias": (HIDDEN,)}
        shapes |= {"out": (n_features(kind, k), n_class * t), "bias": (n_class * t,), "scale": (1, t, 1)}
        return cls(shapes)

    def pack(self, parameters: Parameters) -> Float[Tensor, "s p"]:
        return torch.cat([parameters[name].flatten(1) for name in self.shapes], 1)

    def unpack(self, points: Float[Tensor, "s p"]) -> Parameters:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), points.split(sizes, 1), strict=True)
        return {name: part.view(-1, *shape) for (name, shape), part in parts}


def _project(kind: str, z: Float[Tensor, "n q"], directions: Float[Tensor, "s q k"]) -> Float[Tensor, "s n k"]:
    """Rows along every start's directions; those of thresholds are of length one, since a cut has no scale."""
    if kind in CUTS:
        directions = _unit(directions)
    # One product for all starts: a batch of them would copy the rows for each.
    flat = directions.transpose(0, 1).flatten(1)
    return (z @ flat).view(len(z), len(directions), -1).transpose(0, 1).contiguous()


def _logits(kind: str, parameters: Parameters, rows: Rows, steepness: float | None = None) -> Float[Tensor, "s k t n"]:
    """Logits of rows under every start."""
    return _logits_of(kind, _project(kind, rows.z, parameters["directions"]), parameters, rows, steepness)


def _logits_of(kind: str, s: Float[Tensor, "s n k"], parameters: Parameters, rows: Rows, steepness: float | None):
    features = _features(kind, s, parameters, steepness)
    logits = (features @ parameters["out"] + parameters["bias"][:, None]).mT.reshape(-1, *rows.law.shape)
    return logits if rows.offset is None else logits + parameters["scale"] * rows.offset


def _losses(kind: str, parameters: Parameters, rows: Rows, steepness: float | None = None) -> Float[Tensor, " s"]:
    """Mean cross-entropy of every start in nats, summed over targets."""
    return _nats(_logits(kind, parameters, rows, steepness), rows)


def _nats(logits: Float[Tensor, "s k t n"], rows: Rows) -> Float[Tensor, " s"]:
    return (torch.logsumexp(logits, 1) * rows.law.sum(0) - (rows.law * logits).sum(1)).mean(-1).sum(1)


def _losses_of(kind: str, pack: _Pack, rows: Rows, steepness: float | None):
    return lambda points: _losses(kind, pack.unpack(points), rows, steepness)


def _recut(kind: str, parameters: Parameters, rows: Rows) -> Parameters:
    """Each direction's cuts and cells of one start chosen anew beside the others', kept where the rows gain."""
    parameters = parameters | {"directions": _unit(parameters["directions"])}
    rows = take(rows, slice(RECUT_ROWS))
    law, c = rows.law.flatten(0, 1).T.contiguous(), CUTS[kind]
    s = _project(kind, rows.z, parameters["directions"])
    lowest = _nats(_logits_of(kind, s, parameters, rows, None), rows)
    for j in range(s.shape[-1]):
        changed = {name: value.clone() for name, value in parameters.items()}
        changed["out"][:, j * c : (j + 1) * c] = 0
        beside = torch.softmax(_logits_of(kind, s, changed, rows, None)[0], 0) * rows.law.sum(0)
        cuts, cells = best_cuts(s[0, :, j], law, beside.flatten(0, 1).T.contiguous(), c)
        changed["cuts"][0, j], changed["out"][0, j * c : (j + 1) * c] = cuts, cells.diff(dim=0)
        changed["bias"][0] += cells[0]
        loss = _nats(_logits_of(kind, s, changed, rows, None), rows)
        if bool(loss < lowest):
            parameters, lowest = changed, loss
    return parameters


def _unit(directions: Tensor) -> Tensor:
    return directions / directions.norm(dim=-2, keepdim=True).clamp_min(1e-12)
