"""Floor: the best *input-only* reader of a named family and budget, cross-fitted so that its logits are honest offsets.

Strong floor: linear readout of all input blocks, and an MLP of width 256 on top of it (fit/mlp.py states its budget),
whichever does better on the selection fold. Weak floor: linear readout of the position alone. Rows of the fit fold get
logits from models that did not see their group; all other rows get the mean logits of those models. Without this, a
probe would be fitted beside an overfitted floor and tested beside an honest one. All logits are then given one
temperature and intercepts, fitted once on the selection rows, so that no probe earns bits by recalibrating the floor.
(Two calibrations would put fit and test rows on different scales wherever the floor knows next to nothing.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.frame import Frame, fit_frame
from probekit.fit.mlp import Mlp, fit_mlp
from probekit.fit.path import LAMBDAS, fit_path
from probekit.fit.platt import fit_platt
from probekit.fit.readout import Readout, Rows, calibrate, cross_entropy
from probekit.metrics.splits import Split, folds_by_group

N_FOLDS = 4
WEAK_BLOCKS = ("position",)


@dataclass(frozen=True)
class Member:
    """One cross-fitted reader: a linear readout, and an MLP on top of it in the `mlp` family."""

    frame: Frame
    linear: Readout
    mlp: Mlp | None

    def logits(self, x: Float[Tensor, "n f"]) -> Float[Tensor, "outcome t n"]:
        """Logits of input rows."""
        z = self.frame.apply(x)
        base = self.linear.logits(z)
        return base if self.mlp is None else self.mlp.logits(z, base)


@dataclass(frozen=True)
class Floor:
    """A fitted floor. family: `prior` (no input blocks), `linear` or `mlp`; blocks: the inputs that it reads.

    theta: temperature and intercepts of the members' mean, None for the prior.
    """

    name: str
    family: str
    blocks: tuple[str, ...]
    members: tuple[Member, ...]
    prior: Float[Tensor, "outcome t"]
    theta: Float[Tensor, "t outcome1"] | None = None

    def logits(self, inputs: Mapping[str, NDArray], n: int) -> Float[Tensor, "outcome t n"]:
        """Calibrated mean logits of the members for `n` rows of input blocks."""
        if not self.members:
            return self.prior[..., None].expand(*self.prior.shape, n).contiguous()
        x = stack(inputs, self.blocks)
        mean = torch.stack([member.logits(x) for member in self.members]).mean(0)
        return mean if self.theta is None else calibrate(mean, self.theta)

    @property
    def parameters(self) -> int:
        """Fitted numbers in one member."""
        if not self.members:
            return self.prior.numel()
        member = self.members[0]
        return (
            member.linear.weight.numel() + member.linear.bias.numel() + (member.mlp.n_parameters if member.mlp else 0)
        )


def stack(inputs: Mapping[str, NDArray], blocks: tuple[str, ...]) -> Float[Tensor, "n f"]:
    """Input blocks side by side."""
    return torch.from_numpy(np.concatenate([np.asarray(inputs[name], dtype=np.float32) for name in blocks], axis=1))


def fit_floor(
    name: str, inputs: Mapping[str, NDArray], law: Float[Tensor, "outcome t n"], group: NDArray, split: Split, seed: int
) -> tuple[Floor, Float[Tensor, "outcome t n"]]:
    """Fit the named floor (`strong` or `weak`); returns it and its honest logits for every row.

    inputs: blocks [n, width]; law: behaviour of every row. With no input block the floor is the prior.
    """
    blocks = tuple(inputs) if name == "strong" else tuple(b for b in inputs if b in WEAK_BLOCKS)
    prior = torch.log(law[..., split.fit].mean(-1).clamp_min(1e-9))
    if not blocks:
        floor = Floor(name, "prior", (), (), prior)
        return floor, floor.logits(inputs, law.shape[-1])
    x = stack(inputs, blocks)
    fold = folds_by_group(group[split.fit], N_FOLDS, seed)
    families = ("linear", "mlp") if name == "strong" else ("linear",)
    best: tuple[Floor, Tensor] | None = None
    lowest = float("inf")
    linear: list[tuple[Frame, Readout]] = []
    for i in range(int(fold.max()) + 1):
        # With a single group there is nothing to leave out; the one model then sees all fit rows.
        inside = split.fit[fold != i] if fold.max() > 0 else split.fit
        frame = fit_frame(x[inside])
        rows = [Rows(frame.apply(x[side]), law[..., side]) for side in (inside, split.select)]
        linear.append((frame, fit_path(rows[0], rows[1], frame.variance, LAMBDAS)))
    for family in families:
        members = []
        for i, (frame, readout) in enumerate(linear):
            mlp = None
            if family == "mlp":
                sides = [split.fit[fold != i] if fold.max() > 0 else split.fit, split.select]
                rows = []
                for side in sides:
                    z = frame.apply(x[side])
                    rows.append(Rows(z, law[..., side], readout.logits(z)))
                mlp = fit_mlp(*rows, seed=seed + i)
            members.append(Member(frame, readout, mlp))
        floor = Floor(name, family, blocks, tuple(members), prior)
        logits = floor.logits(inputs, len(x))
        bits = float(cross_entropy(logits[..., split.select], law[..., split.select]).mean())
        if bits < lowest:
            theta = fit_platt(logits[..., split.calibrate], law[..., split.calibrate])
            for i, member in enumerate(members):
                held_out = split.fit[fold == i]
                logits[..., held_out] = member.logits(x[held_out])
            best, lowest = (replace(floor, theta=theta), calibrate(logits, theta)), bits
    assert best is not None
    return best
