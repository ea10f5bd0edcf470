"""Floor: the best *input-only* reader of a named family and budget, cross-fitted so that its logits are honest offsets.

Strong floor: linear readout of all input blocks, where the rows are text also of its n-grams (fit/wording.py), and an
MLP of width 256 on top of it (fit/mlp.py states its budget) where rows that it has not seen gain by it. Weak floor:
linear readout of the position alone.

Each row gets its logits from one member: rows of the fit fold from the one that did not see their group, all others
from one drawn by their inputs. So the floor that a probe is fitted beside is the floor that it is tested beside: a mean
of members for the test rows alone would be sharper. All logits are given one temperature and intercepts, those of the
cross-fitted fit rows, if those to select and to calibrate on gain: no probe earns bits by recalibrating the floor.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.frame import Frame, frame_rows
from probekit.fit.mlp import Mlp, fit_mlp
from probekit.fit.path import LAMBDAS, beyond, fit_path
from probekit.fit.platt import fit_platt
from probekit.fit.readout import Readout, Rows, calibrate, cross_entropy, log_prior
from probekit.fit.wording import Wording
from probekit.metrics.splits import Split, folds_by_group
from probekit.task import TEXT

N_FOLDS = 4
WEAK_BLOCKS = ("position",)
LEADING = 256  # coordinates that an MLP reads where text gives thousands


@dataclass(frozen=True)
class Member:
    """One cross-fitted reader: a linear readout, and an MLP on top of it in the `mlp` family.

    wording: columns of the text, learnt on the rows of the fit, where the floor reads text; the MLP then sees the
    leading coordinates alone.
    """

    frame: Frame
    linear: Readout
    mlp: Mlp | None
    wording: Wording | None = None

    def logits(self, inputs: "Inputs") -> Float[Tensor, "outcome t n"]:
        """Logits of input rows."""
        z = self.coordinates(inputs)
        base = self.linear.logits(z)
        return base if self.mlp is None else self.mlp.logits(self.leading(z), base)

    def coordinates(self, inputs: "Inputs") -> Float[Tensor, "n r"]:
        """Inputs in the member's frame."""
        return self.frame.apply(inputs.columns(self.wording))

    def leading(self, z: Float[Tensor, "n r"]) -> Float[Tensor, "n m"]:
        """What the MLP reads of them."""
        return z if self.wording is None else z[:, :LEADING]


@dataclass(frozen=True)
class Floor:
    """A fitted floor. family: `prior` (no input blocks), `linear` or `mlp`; blocks: the inputs that it reads.

    theta: temperature and intercepts of all members, None where they did not help, and for the prior.
    """

    name: str
    family: str
    blocks: tuple[str, ...]
    members: tuple[Member, ...]
    prior: Float[Tensor, "outcome t"]
    theta: Float[Tensor, "t outcome1"] | None = None

    def logits(self, inputs: Mapping[str, NDArray], n: int) -> Float[Tensor, "outcome t n"]:
        """Calibrated logits for `n` rows of input blocks, each by one member: which one is a digest of its inputs."""
        if not self.members:
            return self.prior[..., None].expand(*self.prior.shape, n).contiguous()
        rows = Inputs.of(inputs, self.blocks)
        return self.calibrated(self.by_member(rows, rows.member(len(self.members))))

    def by_member(self, inputs: "Inputs", member: Int[Tensor, " n"]) -> Float[Tensor, "outcome t n"]:
        """Logits of each row by the member named for it, as they were fitted."""
        out = torch.empty(*self.prior.shape, len(member))
        for i, one in enumerate(self.members):
            rows = torch.nonzero(member == i).flatten()
            if len(rows):
                out[..., rows] = one.logits(inputs.rows(rows.numpy()))
        return out

    def calibrated(self, logits: Float[Tensor, "outcome t n"]) -> Float[Tensor, "outcome t n"]:
        """Members' logits with the floor's temperature and intercepts."""
        return logits if self.theta is None else calibrate(logits, self.theta)

    @property
    def parameters(self) -> int:
        """Fitted numbers in one member."""
        if not self.members:
            return self.prior.numel()
        member = self.members[0]
        return (
            member.linear.weight.numel() + member.linear.bias.numel() + (member.mlp.n_parameters if member.mlp else 0)
        )


@dataclass(frozen=True)
class Inputs:
    """What a floor reads of rows: numbers [n, f], and texts where the block `text` is among its blocks."""

    x: Float[Tensor, "n f"]
    texts: NDArray[np.object_] | None

    @classmethod
    def of(cls, inputs: Mapping[str, NDArray], blocks: tuple[str, ...]) -> "Inputs":
        texts = np.asarray(inputs[TEXT], dtype=object) if TEXT in blocks else None
        numbers = tuple(name for name in blocks if name != TEXT)
        return cls(stack(inputs, numbers) if numbers or texts is None else torch.empty(len(texts), 0), texts)

    def rows(self, at: NDArray[np.int64]) -> "Inputs":
        """Some of them."""
        return Inputs(self.x[at], None if self.texts is None else self.texts[at])

    def columns(self, wording: Wording | None) -> Float[Tensor, "n f"]:
        """Numbers, then the text's own columns."""
        if wording is None or self.texts is None:
            return self.x
        return torch.cat([self.x, wording.columns(self.texts.tolist())], 1)

    def member(self, n_members: int) -> Int[Tensor, " n"]:
        """A member for each row, as good as drawn at random, and the same one wherever the same inputs come again."""
        rows, texts = self.x.numpy(), [""] * len(self.x) if self.texts is None else self.texts.tolist()
        digests = [zlib.crc32(text.encode(), zlib.crc32(row.tobytes())) for row, text in zip(rows, texts, strict=True)]
        return torch.tensor(digests, dtype=torch.long) % n_members


def stack(inputs: Mapping[str, NDArray], blocks: tuple[str, ...]) -> Float[Tensor, "n f"]:
    """Input blocks side by side."""
    return torch.from_numpy(np.concatenate([np.asarray(inputs[name], dtype=np.float32) for name in blocks], axis=1))


def fit_floor(
    name: str, inputs: Mapping[str, NDArray], law: Float[Tensor, "outcome t n"], group: NDArray, split: Split, seed: int
) -> tuple[Floor, Float[Tensor, "outcome t n"]]:
    """Fit the named floor (`strong` or `weak`); returns it and its honest logits for every row.

    inputs: blocks [n, width], and `text`, strings [n]; law: behaviour of every row. With no block it is the prior.
    """
    blocks = tuple(inputs) if name == "strong" else tuple(b for b in inputs if b in WEAK_BLOCKS)
    prior = log_prior(law[..., split.fit])
    if not blocks:
        floor = Floor(name, "prior", (), (), prior)
        return floor, floor.logits(inputs, law.shape[-1])
    rows = Inputs.of(inputs, blocks)
    fold = folds_by_group(group[split.fit], N_FOLDS, seed)
    n_members = int(fold.max()) + 1
    # With a single group there is nothing to leave out; the one model then sees all fit rows.
    insides = [split.fit[fold != i] if n_members > 1 else split.fit for i in range(n_members)]
    members = tuple(_fit_linear(rows, law, inside, split.select) for inside in insides)
    floor = Floor(name, "linear", blocks, members, prior)
    if name == "strong":
        deep = partial(_fit_stacked, inputs=rows, law=law, select=split.select)
        first = deep(members[0], inside=insides[0], seed=seed)
        # Early stopping has seen the select rows, so that others say whether the MLP knows more. One member tells.
        if _gains(members[0], first, rows, law, split):
            others = [deep(one, inside=inside, seed=seed + i)
                      for i, (one, inside) in enumerate(zip(members, insides, strict=True)) if i]  # fmt: skip
            floor = Floor(name, "mlp", blocks, (first, *others), prior)
    member = rows.member(n_members)
    member[torch.from_numpy(split.fit)] = torch.from_numpy(fold)
    logits = floor.by_member(rows, member)
    floor = replace(floor, theta=_fit_theta(logits, law, split))
    return floor, floor.calibrated(logits)


def _gains(member: Member, stacked: Member, inputs: Inputs, law: Tensor, split: Split) -> bool:
    """Whether the MLP does better on the rows to calibrate on, which it has not seen; else on those to select."""
    at = split.calibrate if len(split.calibrate) else split.select
    linear, deep = (cross_entropy(one.logits(inputs.rows(at)), law[..., at]).mean() for one in (member, stacked))
    return bool(deep < linear)


def _fit_linear(inputs: Inputs, law: Tensor, inside: NDArray, select: NDArray) -> Member:
    fitted, texts = inputs.rows(inside), inputs.texts
    wording = None if texts is None else Wording.of(texts[inside].tolist())
    x = fitted.columns(wording)
    frame, z = frame_rows(x)
    fit = Rows(z, law[..., inside])
    held_out = Rows(frame.apply(inputs.rows(select).columns(wording)), law[..., select])
    lambdas = LAMBDAS if wording is None else beyond(LAMBDAS)
    return Member(frame, fit_path(fit, held_out, frame.variance, lambdas), None, wording)


def _fit_stacked(member: Member, inputs: Inputs, law: Tensor, inside: NDArray, select: NDArray, seed: int) -> Member:
    """The linear member with an MLP on top of it."""
    rows = []
    for side in (inside, select):
        z = member.coordinates(inputs.rows(side))
        rows.append(Rows(member.leading(z), law[..., side], member.linear.logits(z)))
    return replace(member, mlp=fit_mlp(*rows, seed=seed))


def _fit_theta(
    logits: Float[Tensor, "outcome t n"], law: Float[Tensor, "outcome t n"], split: Split
) -> Float[Tensor, "t outcome1"] | None:
    """Temperature and intercepts of the fit rows, by members that did not see them, if other rows gain.

    A probe learns the floor's coefficient and its intercepts from the very same rows, where there is nothing left to be
    learnt; were they learnt elsewhere, or always applied, a probe of noise would earn bits by undoing them.
    """
    theta = fit_platt(logits[..., split.fit], law[..., split.fit])
    apart = np.concatenate([split.select, split.calibrate])
    kept = _bits(calibrate(logits, theta), law, apart) < _bits(logits, law, apart)
    return theta if kept else None


def _bits(logits: Tensor, law: Tensor, side: NDArray) -> float:
    return float(cross_entropy(logits[..., side], law[..., side]).mean())
