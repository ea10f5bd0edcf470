"""Floor: the best *input-only* reader of a named family and budget, cross-fitted so that its logits are honest offsets.

Strong floor: linear readout of all input blocks, where the rows are text also of its n-grams (fit/wording.py), and an
MLP of width 256 on top of it (fit/mlp.py states its budget) where rows that it has not seen gain by it. Weak floor:
linear readout of the position alone. Text is read with numbers beside it that are quiet enough to leave it heard.

Each row gets its logits from one member: rows of the fit fold from the one that did not see their group, all others
from one drawn by their inputs. So the floor that a probe is fitted beside is the floor that it is tested beside: a mean
of members for the test rows alone would be sharper. All logits are given one temperature and intercepts, those of the
cross-fitted fit rows, if those to select and to calibrate on gain: no probe earns bits by recalibrating the floor.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.frame import Frame, frame_rows
from probekit.fit.gaussian import is_value
from probekit.fit.mlp import Mlp, fit_mlp
from probekit.fit.path import LAMBDAS, beyond, fit_apart, fit_path
from probekit.fit.platt import fit_platt
from probekit.fit.readout import Readout, Rows, calibrate, cross_entropy, log_prior, smoothed
from probekit.fit.wording import Grams, Wording
from probekit.metrics.classes import LEAST_MASS
from probekit.metrics.splits import Split, folds_by_group
from probekit.task import TEXT

N_FOLDS, N_TEXT_FOLDS = 4, 8  # members; those of text share one frame, so that more of them cost little
WEAK_BLOCKS = ("position",)
LEADING = 256  # coordinates that an MLP reads where text gives thousands
KEPT_BYTES = 2**28  # of rows of text in their frames, which all behaviours of the same rows share


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
        return self.said(self.frame.apply(inputs.columns(self.wording)))

    def said(self, z: Float[Tensor, "n r"]) -> Float[Tensor, "outcome t n"]:
        """Logits of rows in the member's frame."""
        base = self.linear.logits(z)
        return base if self.mlp is None else self.mlp.logits(self.leading(z), base)

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
        member, out = rows.member(len(self.members)), torch.empty(*self.prior.shape, n)
        for i, one in enumerate(self.members):
            mine = torch.nonzero(member == i).flatten()
            if len(mine):
                out[..., mine] = one.logits(rows.rows(mine.numpy()))
        return self.calibrated(out)

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
    """What a floor reads of rows: numbers [n, f], and texts with their n-grams where `text` is among its blocks."""

    blocks: tuple[str, ...]
    x: Float[Tensor, "n f"]
    texts: NDArray[np.object_] | None = None
    grams: Grams | None = None
    widths: tuple[int, ...] = ()
    known: dict[bytes, tuple[Wording | None, Frame, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, inputs: Mapping[str, NDArray], blocks: tuple[str, ...]) -> "Inputs":
        n = len(next(iter(inputs.values()), ()))
        numbers = tuple(name for name in blocks if name != TEXT)
        x = stack(inputs, numbers) if numbers else torch.empty(n, 0)
        if TEXT not in blocks:
            return cls(blocks, x)
        texts = np.asarray(inputs[TEXT], dtype=object)
        return cls(blocks, x, texts, Grams.of(texts.tolist()), tuple(inputs[name].shape[1] for name in numbers))

    def rows(self, at: NDArray[np.int64]) -> "Inputs":
        """Some of them."""
        if self.texts is None or self.grams is None:
            return Inputs(self.blocks, self.x[at])
        return Inputs(self.blocks, self.x[at], self.texts[at], self.grams.rows(at), self.widths)

    def learn(self) -> Wording | None:
        """What these rows say of the columns that their text gets, None where there is no text."""
        return None if self.grams is None else Wording.of(self.grams, self.x, self.widths)

    def columns(self, wording: Wording | None) -> Float[Tensor, "n f"]:
        """Numbers, then the text's own columns."""
        if wording is None or self.grams is None:
            return self.x
        return torch.cat([self.x * wording.loudness, wording.columns(self.grams)], 1)

    def framed(self, fitted: NDArray[np.int64]) -> tuple[Wording | None, Frame, Float[Tensor, "n r"]]:
        """What some rows say of the columns of text, the frame of these rows, and all rows in it; kept up to a size."""
        key = fitted.tobytes()
        if key in self.known:
            return self.known[key]
        some, asked = self.rows(fitted), np.setdiff1d(np.arange(len(self.x)), fitted)
        wording = some.learn()
        frame, inside = frame_rows(some.columns(wording))
        z = inside.new_empty(len(self.x), inside.shape[1])
        z[fitted], z[asked] = inside, frame.apply(self.rows(asked).columns(wording))
        found = wording, frame, z
        if sum(map(_n_bytes, (*self.known.values(), found))) <= KEPT_BYTES:
            self.known[key] = found
        return found

    def member(self, n_members: int) -> Int[Tensor, " n"]:
        """A member for each row, as good as drawn at random, and the same one wherever the same inputs come again."""
        rows, texts = self.x.numpy(), [""] * len(self.x) if self.texts is None else self.texts.tolist()
        digests = [zlib.crc32(text.encode(), zlib.crc32(row.tobytes())) for row, text in zip(rows, texts, strict=True)]
        return torch.tensor(digests, dtype=torch.long) % n_members


def _n_bytes(framed: tuple[Wording | None, Frame, Tensor]) -> int:
    _, frame, z = framed
    return sum(part.numel() * part.element_size() for part in (frame.turn, z, *frame.span))


def blocks_of(name: str, inputs: Mapping[str, NDArray]) -> tuple[str, ...]:
    """The blocks that the named floor reads."""
    return tuple(inputs) if name == "strong" else tuple(block for block in inputs if block in WEAK_BLOCKS)


def stack(inputs: Mapping[str, NDArray], blocks: tuple[str, ...]) -> Float[Tensor, "n f"]:
    """Input blocks side by side."""
    return torch.from_numpy(np.concatenate([np.asarray(inputs[name], dtype=np.float32) for name in blocks], axis=1))


def fit_floor(
    name: str, inputs: "Mapping[str, NDArray] | Inputs", law: Float[Tensor, "outcome t n"], group: NDArray,
    split: Split, seed: int,
) -> tuple[Floor, Float[Tensor, "outcome t n"]]:  # fmt: skip
    """Fit the named floor (`strong` or `weak`); returns it and its honest logits for every row.

    inputs: blocks [n, width], and `text`, strings [n], or what the floor reads of them, for several splits; law:
    behaviour of every row. With no block it is the prior.
    """
    rows = inputs if isinstance(inputs, Inputs) else Inputs.of(inputs, blocks_of(name, inputs))
    blocks, prior = rows.blocks, log_prior(law[..., split.fit])
    if not blocks:
        floor = Floor(name, "prior", (), (), prior)
        return floor, floor.logits({}, law.shape[-1])
    if rows.grams is not None:
        return _fit_text(name, rows, law, group, split, seed)
    fold = folds_by_group(group[split.fit], N_FOLDS, seed)
    n_members = int(fold.max()) + 1
    speaks = rows.member(n_members)
    speaks[torch.from_numpy(split.fit)] = torch.from_numpy(fold)
    logits, family, members = torch.empty(*prior.shape, law.shape[-1]), "linear", list[Member]()
    for i in range(n_members):
        # With a single group there is nothing to leave out; the one model then sees all fit rows.
        inside = split.fit[fold != i] if n_members > 1 else split.fit
        mine = torch.nonzero(speaks == i).flatten()
        member, z = _fit_linear(rows, law, inside, np.concatenate([split.select, split.calibrate, mine.numpy()]), split)
        if name == "strong" and (not i or family == "mlp"):
            laws = _lent(law, inside), law[..., split.select]
            sides = [Rows(z[side], one, member.linear.logits(z[side]))
                     for side, one in zip((inside, split.select), laws, strict=True)]  # fmt: skip
            deep = replace(member, mlp=fit_mlp(*sides, seed=seed + i))
            # Early stopping has seen the select rows, so that others say whether the MLP knows more. One member tells.
            if i or _gains(member, deep, z, law, split):
                member, family = deep, "mlp"
        members.append(member)
        logits[..., mine] = member.said(z[mine])
    theta = _fit_theta(logits, law, split)
    floor = Floor(name, family, blocks, tuple(members), prior, theta)
    return floor, floor.calibrated(logits)


def _fit_linear(
    inputs: Inputs, law: Tensor, inside: NDArray, asked: NDArray, split: Split
) -> tuple[Member, Float[Tensor, "n r"]]:
    """The linear member of the rows `inside`, and these and the rows asked for in its frame; others are left at 0."""
    frame, z_inside = frame_rows(inputs.x[inside])
    asked = np.setdiff1d(asked, inside)
    z = torch.zeros(law.shape[-1], z_inside.shape[1])
    z[inside], z[asked] = z_inside, frame.apply(inputs.x[asked])
    fit, held_out = Rows(z[inside], _lent(law, inside)), Rows(z[split.select], law[..., split.select])
    return Member(frame, fit_path(fit, held_out, frame.variance), None), z


def _fit_text(
    name: str, rows: Inputs, law: Float[Tensor, "outcome t n"], group: NDArray, split: Split, seed: int
) -> tuple[Floor, Float[Tensor, "outcome t n"]]:
    """The floor where there is text: thousands of columns for few rows, none of which is spared to choose a ridge.

    Members are fitted on rows to fit and to select alike, less those that they speak for, in one frame, and with the
    one ridge that does best on what they leave out: one that was chosen on the rows to select alone followed their
    noise, often up to an infinite ridge, where the text told a tenth of a bit.
    """
    both = np.sort(np.concatenate([split.fit, split.select]))
    fold = folds_by_group(group[both], N_TEXT_FOLDS, seed)
    n_members = int(fold.max()) + 1
    speaks = rows.member(n_members)
    speaks[torch.from_numpy(both)] = torch.from_numpy(fold)
    wording, frame, z = rows.framed(both)
    left = torch.from_numpy(fold)
    pairs = [(torch.nonzero(left != i).flatten(), torch.nonzero(left == i).flatten()) for i in range(n_members)]
    # what one part lacks is lent to all rows, since their readouts are one problem
    short = any(_lacks(law, both[fold != i]) for i in range(n_members))
    told = smoothed(law[..., both]) if short else law[..., both]
    readouts = fit_apart(Rows(z[both], told), pairs, frame.variance, beyond(LAMBDAS))
    linear = [Member(frame, readout, None, wording) for readout in readouts]
    said = _all_said(linear, speaks, z, law)
    members = _deepened(linear, said, speaks, z, law, split, seed)
    family, logits = ("linear", said) if members is linear else ("mlp", _all_said(members, speaks, z, law))
    theta, prior = _fit_theta(logits, law, split), log_prior(law[..., split.fit])
    floor = Floor(name, family, rows.blocks, tuple(members), prior, theta)
    return floor, floor.calibrated(logits)


def _all_said(
    members: Sequence[Member], speaks: Int[Tensor, " n"], z: Float[Tensor, "n r"], law: Float[Tensor, "outcome t n"]
) -> Float[Tensor, "outcome t n"]:
    """Logits of every row, by the member that speaks for it."""
    out = torch.empty_like(law)
    for i, member in enumerate(members):
        mine = torch.nonzero(speaks == i).flatten()
        out[..., mine] = member.said(z[mine])
    return out


def _deepened(
    linear: list[Member], said: Tensor, speaks: Tensor, z: Tensor, law: Tensor, split: Split, seed: int
) -> list[Member]:
    """The members with an MLP each, or as they are where the first one gains nothing on rows that it has not seen.

    An MLP is fitted beside what members say of rows that they left out, and stopped early on rows to select.
    """
    out = []
    for i, member in enumerate(linear):
        sides = [at[speaks[at].numpy() != i] for at in (split.fit, split.select)]
        if not all(map(len, sides)):
            return linear
        laws = _lent(law, sides[0]), law[..., sides[1]]
        beside = [Rows(member.leading(z[at]), one, said[..., at]) for at, one in zip(sides, laws, strict=True)]
        out.append(replace(member, mlp=fit_mlp(*beside, seed=seed + i)))
        if not i and not _gains(member, out[0], z, law, split):
            return linear
    return out


def _lacks(law: Float[Tensor, "outcome t n"], part: NDArray) -> bool:
    """Whether some rows have none of an outcome that others have, whose intercept would run off to minus infinity."""
    if is_value(law):
        return False
    return bool(((law[..., part].sum(-1) < LEAST_MASS) & (law.sum(-1) >= LEAST_MASS)).any())


def _lent(law: Float[Tensor, "outcome t n"], part: NDArray) -> Float[Tensor, "outcome t m"]:
    """The law of some rows, with a row's worth lent to what they lack."""
    return smoothed(law[..., part]) if _lacks(law, part) else law[..., part]


def _gains(member: Member, stacked: Member, z: Tensor, law: Tensor, split: Split) -> bool:
    """Whether the MLP does better on the rows to calibrate on, which it has not seen; else on those to select."""
    at = split.calibrate if len(split.calibrate) else split.select
    linear, deep = (cross_entropy(one.said(z[at]), law[..., at]).mean() for one in (member, stacked))
    return bool(deep < linear)


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
