"""Simple functions on k directions, the directions fitted jointly with the function, for growing k in one path.

Every k starts from several places (fit/starts.py): directions of the linear readout, of even and of odd functions,
searched cells for thresholds, and what was found for the k before it with new directions beside. All starts move
together (fit/descent.py), first within the few directions that they span, then the best of them freely; rows held out
say when to stop, so that a larger k falls back on a smaller one rather than on noise. The last layer is then refitted
by the convex core.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probekit.fit.path import LAMBDAS
from probekit.fit.readout import Readout, Rows, cross_entropy, take
from probekit.fit.simple.families import (
    CUTS,
    HIDDEN,
    POWERS,
    Contrasts,
    FamilyLoss,
    Pack,
    Parameters,
    features_of,
    n_features,
    project,
    unit,
)
from probekit.fit.simple.layer import refit_layer
from probekit.fit.simple.pursuit import best_cuts
from probekit.fit.simple.starts import Region
from probekit.fit.solvers.descent import descend

# Within the span of the starts: steepness of soft thresholds, iterations, and how many starts go on.
# Continuous features lie close to a cut, and ask for the steepest: at 40 a band is .015 above its truth at any n.
STAGES = {
    True: ((2.0, 8, 6), (6.0, 8, 4), (16.0, 8, 3), (40.0, 8, 2), (100.0, 8, 2)),
    False: ((None, 6, 4), (None, 8, 2)),
}
# Iterations beyond that span: of the best starts on some rows, and of the best of these on all.
FREE = {True: (8, 16), False: (8, 12)}
FREE_ROWS = 4_096
RECUT_ROWS = 8_192
PATIENCE = 2
LEAN = 3e-3  # nats per e-fold of squared length
GAIN = 1e-3  # bits on the selection rows that are no gain
BREATH = 1e-2  # of the first guess of the last layer: a ridge relative to the features' own variance


@dataclass(frozen=True)
class Simple:
    """A fitted simple function: directions [r, k] in frame coordinates, the class's own parameters, and the readout."""

    kind: str
    directions: Float[Tensor, "r k"]
    shape: Parameters
    readout: Readout

    def features(self, z: Float[Tensor, "n r"]) -> Float[Tensor, "n f"]:
        """What the readout sees."""
        return self._features(project(z, self.directions[None]))

    def features_along(self, s: Float[Tensor, "n k"]) -> Float[Tensor, "n f"]:
        """What the readout sees of rows along the directions."""
        return self._features(s.T[None])

    def _features(self, s: Float[Tensor, "1 k n"]) -> Float[Tensor, "n f"]:
        shape = {name: value[None] for name, value in self.shape.items()}
        return features_of(self.kind, s, shape)[0].T.contiguous()

    def bits(self, rows: Rows) -> Float[Tensor, "t n"]:
        """Cross-entropy of rows under the fitted function."""
        return cross_entropy(self.logits(rows), rows.law)

    def logits(self, rows: Rows) -> Float[Tensor, "outcome t n"]:
        """Logits of rows, the offset included."""
        return self.readout.logits(self.features(rows.z), rows.offset)


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
        seen, held_out = (Rows(found.features(rows.z), rows.law, rows.offset) for rows in (fit, select))
        bits = float(held_out.bits(found.readout).mean())
        if not ended:
            # Stopped early, the layer that was fitted with its directions may hold out better than any ridge.
            refitted = refit_layer(seen, held_out, found.readout, lambdas)
            again = float(held_out.bits(refitted).mean())
            if again < bits + GAIN:
                found, bits = replace(found, readout=refitted), again
                before |= _outputs_of(refitted, fit)
        told = held_out.bits(found.readout)
        if select.offset is not None and not tells(cross_entropy(select.offset, select.law), told):
            found = replace(found, readout=Readout.nothing(*found.readout.weight.shape, like=found.readout.weight))
        idle = 0 if bits < lowest - GAIN else idle + 1
        lowest = min(lowest, bits)
        out[k] = found
    return out


def tells(floor_bits: Float[Tensor, "t n"], bits: Float[Tensor, "t n"]) -> bool:
    """Whether rows held out gain more than one standard error beyond the floor.

    Stops and starts were chosen on these rows, so that where there is nothing to find the lowest of many losses is
    below the floor's by chance (the one-standard-error rule, Breiman et al. 1984).
    """
    gain = (floor_bits - bits).mean(0)
    return float(gain.mean()) > float(gain.std()) / math.sqrt(len(gain))


def _own_readout(parameters: Parameters, rows: Rows) -> Readout:
    n_outcomes, t, _ = rows.law.shape
    back = Contrasts.of(rows.law).back
    scale = parameters["scale"][0]
    weight = rearrange(back(parameters["out"][0]), "f (outcome t) -> outcome t f", t=t).contiguous()
    return Readout(weight, back(parameters["bias"][0]).view(n_outcomes, t), scale, torch.zeros_like(scale))


def _outputs_of(readout: Readout, rows: Rows) -> Parameters:
    along = Contrasts.of(rows.law).along
    weight, bias = along(readout.weight.flatten(0, 1).T), along(readout.bias.flatten())
    return {"out": weight[None], "bias": bias[None], "scale": readout.scale[None]}


def _fitted(kind: str, k: int, before: Parameters | None, region: Region) -> Parameters:
    """Parameters of the best function of k directions, whitened, with one start; before: those of a smaller k."""
    near = region.near
    pack, points = _starts(kind, k, region)
    for steepness, steps, kept in STAGES[kind in CUTS]:
        losses, held_out = (FamilyLoss.of(pack, rows, steepness) for rows in near)
        points, seen = descend(losses, points, steps, held_out.values)
        directions = region.basis @ pack.unpack(points)["directions"]
        points = points[(seen + _lean(directions, region.spread)).argsort()[:kept]]
    inside = pack.unpack(points)
    pack = Pack.of(kind, k, len(region.basis), near[0])
    points = pack.pack(inside | {"directions": region.basis @ inside["directions"]})
    n_inside = len(points)
    if before is not None:
        points = torch.cat([points, pack.pack(_widened(kind, k, before, region))])
    some = take(region.far[0], slice(FREE_ROWS))
    fewer, losses, held_out = (FamilyLoss.of(pack, rows, steepness) for rows in (some, *region.far))
    moved, seen = descend(fewer, points, FREE[kind in CUTS][0], held_out.values)
    moved, seen = descend(losses, moved[seen.argsort()[:1]], FREE[kind in CUTS][1], held_out.values)
    if kind in CUTS:
        # Descent sees soft thresholds, which hard ones need not follow: both ends of the path get the best hard cuts.
        hard = [_recut(kind, pack.unpack(point[None]), region.far[0]) for point in (*moved, *points[:n_inside])]
        moved = torch.cat([pack.pack(parameters) for parameters in hard])
        seen = FamilyLoss.of(pack, region.far[1]).values(moved)
    return pack.unpack(moved[(seen + _lean(pack.unpack(moved)["directions"], region.spread)).argsort()[:1]])


def _lean(directions: Float[Tensor, "s r k"], spread: Float[Tensor, " r"]) -> Float[Tensor, " s"]:
    """What leaning on quiet coordinates costs a start, in nats.

    Rows that are told apart with room to spare do not say how, and a coordinate that hardly varied where a function was
    fitted may vary a great deal elsewhere: of directions as good as each other the shortest on activations is kept.
    """
    return LEAN * ((unit(directions) / spread[:, None]) ** 2).mean((1, 2)).log()


def _starts(kind: str, k: int, region: Region) -> tuple[Pack, Float[Tensor, "s p"]]:
    """Starts for k directions in the basis, packed."""
    generator = torch.Generator().manual_seed(region.seed + k)
    near, stages = region.near[0], STAGES[kind in CUTS]
    pack = Pack.of(kind, k, region.basis.shape[1], near)
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
    contrasts = Contrasts.of(rows.law)
    s = project(rows.z, unit(start["directions"]) if kind in CUTS else start["directions"])
    features = features_of(kind, s, start, steepness)
    mean = features.mean(2, keepdim=True)
    features = features - mean
    mass = rows.law.sum(0)
    prior = (rows.law.mean(-1, keepdim=True) / mass.mean(-1)[:, None]).expand_as(rows.law)
    guess = prior if rows.offset is None else torch.softmax(rows.offset, 0)
    residual = (rows.law - guess * mass).flatten(0, 1)
    curvature = (guess * (1 - guess) * mass).flatten(0, 1).mean(-1).clamp_min(1e-3)
    gram = features @ features.mT / n
    own = torch.diagonal(gram, dim1=1, dim2=2)
    ridge = torch.diag_embed(BREATH * own + 1e-5)
    out = contrasts.along(torch.linalg.solve(gram + ridge, features @ residual.T / n) / (2 * curvature))
    bias = torch.zeros_like(curvature) if rows.offset is not None else prior[..., 0].clamp_min(1e-6).log().flatten()
    scale = torch.ones(len(out), t).to(out)
    return start | {"out": out, "bias": contrasts.along(bias) - (mean.mT @ out)[:, 0], "scale": scale}


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


def _logits(kind: str, parameters: Parameters, rows: Rows) -> Float[Tensor, "s outcome t n"]:
    """Logits of rows under every start; thresholds are hard."""
    return FamilyLoss.of(Pack.of(kind, parameters["directions"].shape[2], rows.z.shape[1], rows), rows).logits(
        parameters
    )


def _recut(kind: str, parameters: Parameters, rows: Rows) -> Parameters:
    """Each direction's cuts and cells of one start chosen anew beside the others', kept where the rows gain."""
    c, contrasts = CUTS[kind], Contrasts.of(rows.law)
    parameters = parameters | {"directions": unit(parameters["directions"])}
    rows = take(rows, slice(RECUT_ROWS))
    law, mass = rows.law.flatten(0, 1).T.contiguous(), rows.law.sum(0)
    s = project(rows.z, parameters["directions"])

    def told(j: int, start: Parameters) -> Tensor:
        """What one direction's cells add to the logits [c, t, n]."""
        cells = (s[0, j] > start["cuts"][0, j][:, None]).to(s)
        out = contrasts.back(start["out"][0, j * c : (j + 1) * c])
        return (out.T @ cells).view_as(rows.law)

    logits = contrasts.back(parameters["bias"][0]).view(len(rows.law), -1, 1)
    logits = logits + parameters["scale"][0][:, None] * rows.beside
    for j in range(s.shape[1]):
        logits = logits + told(j, parameters)
    lowest = cross_entropy(logits, rows.law).mean()
    for j in range(s.shape[1]):
        others = logits - told(j, parameters)
        beside = torch.softmax(others, 0) * mass
        cuts, cells = best_cuts(s[0, j], law, beside.flatten(0, 1).T.contiguous(), c)
        changed = {name: value.clone() for name, value in parameters.items()}
        cells = contrasts.along(cells)
        changed["cuts"][0, j], changed["out"][0, j * c : (j + 1) * c] = cuts, cells.diff(dim=0)
        changed["bias"][0] += cells[0]
        anew = others + told(j, changed) + contrasts.back(cells[0]).view(len(rows.law), -1, 1)
        loss = cross_entropy(anew, rows.law).mean()
        if bool(loss < lowest):
            parameters, lowest, logits = changed, loss, anew
    return parameters
