"""Edits of the study of beliefs: another belief put into the stream of a network, and what the network then says.

The belief of a sequence is put into the stream of a donor: h' = h of the donor + A (belief of the row - that of the
donor), with A by least squares from beliefs to the stream, at every place of a layer. What else the stream holds is the
donor's. If the network runs on that account there, its law is that of the row.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.directions import random_directions
from probekit.metrics.causal.replace import fbu_replace, kl_bits, random_donors
from probekit.metrics.ratios import Ratio
from probekit.proofs.studies.belief_seen import EXACT, LOCAL, AccountRead, Seen, Told

NOTHING, RANDOM, READ = "nothing", "random directions", "directions that read exact"
ALL, SILENT, NEXT_ALONE = "all", "silent", "exact, next coin alone"


class RowDonors(NamedTuple):
    """Test rows [m], and donors [m, donors] of other contexts behind the same place."""

    row: NDArray[np.int64]
    donor: NDArray[np.int64]

    @classmethod
    def of(cls, seen: Seen) -> "RowDonors":
        """Rows in order of their place; donors are test rows too."""
        split, group = seen.setting.split, seen.observations.group
        rows, donors = [], []
        share = seen.size.scrubbed / len(split.test)
        for place in np.unique(seen.place):
            pool = split.test[seen.place[split.test] == place]
            mine = pool[: max(2, round(share * len(pool)))]
            rows.append(mine)
            donors.append(pool[random_donors(group[mine], group[pool], seen.size.donors, seen.seed)])
        return cls(np.concatenate(rows), np.concatenate(donors))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Row and donor of every pair, [m * donors] each."""
        return torch.from_numpy(self.row).repeat_interleave(self.donor.shape[1]), torch.from_numpy(self.donor).flatten()


class Embedded(NamedTuple):
    """How the stream of a layer moves with an account: A [length, k, d], a map for each place."""

    told: Float[Tensor, "n length k"]
    moved: Float[Tensor, "length k d"]

    @classmethod
    def of(cls, seen: Seen, h: Float[Tensor, "n length d"], account: str, n: int | None = None) -> "Embedded":
        """By least squares on fit rows; of the first n coordinates alone."""
        told = torch.from_numpy(seen.accounts[account])[..., :n]
        fit = torch.from_numpy(seen.setting.split.fit)
        x, y = (part[fit].double().transpose(0, 1) for part in (told, h))
        x, y = (part - part.mean(1, keepdim=True) for part in (x, y))
        return cls(told, torch.linalg.pinv(x, rtol=1e-6) @ y)

    def shift(self, towards: Float[Tensor, "m length k"]) -> Float[Tensor, "m length d"]:
        """What moves the stream by so much of the account."""
        return torch.einsum("mtk,tkd->mtd", towards, self.moved).float()

    def between(self, row: Tensor, donor: Tensor) -> Float[Tensor, "m length d"]:
        """What brings donors' streams to the rows' account."""
        return self.shift(self.told[row] - self.told[donor])


def edited(seen: Seen) -> Iterator[Told]:
    """Every edit at every layer."""
    pairs = RowDonors.of(seen)
    for layer in seen.layers:
        h = seen.stream(layer)
        yield from _replaced(seen, layer, h, pairs)
        yield from _set(seen, layer, h, pairs.row)
        if SILENT in seen.process.names:
            yield from _exchanged(seen, layer, h, pairs)


@torch.no_grad()
def _laws(seen: Seen, layer: int, h: Float[Tensor, "m length d"]) -> NDArray[np.float64]:
    """[m, length, token]"""
    return seen.nets.after(h[None], layer)[0].double().softmax(-1).numpy()


def _ends(seen: Seen, row: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """The floor's bits and the ceiling's, of test rows."""
    test = {row: i for i, row in enumerate(seen.setting.split.test.tolist())}
    at = [test[one] for one in row.tolist()]
    floor, ceiling = (end[at] for end in seen.setting.ends())
    return floor, ceiling


def _replaced(seen: Seen, layer: int, h: Float[Tensor, "n length d"], pairs: RowDonors) -> Iterator[Told]:
    """FBU with each account of the row in donors' streams; nothing kept, random directions and those that read."""
    row, donor = pairs.both
    floor, ceiling = _ends(seen, pairs.row)
    own = seen.at_place(seen.laws)[pairs.row]
    shifts: dict[str, Callable[[], Any]] = {
        name: lambda name=name: Embedded.of(seen, h, name).between(row, donor) for name in seen.accounts
    }
    if SILENT in seen.process.names:
        shifts[NEXT_ALONE] = lambda: Embedded.of(seen, h, EXACT, 1).between(row, donor)
    decoder = AccountRead.fit(seen, h[torch.arange(seen.n), torch.from_numpy(seen.place)].contiguous(), EXACT)
    k = decoder.directions.shape[1]
    bases = {READ: decoder.directions, RANDOM: random_directions(h.shape[2], k, seen.seed), NOTHING: None}
    for name, basis in bases.items():
        shifts[name] = lambda basis=basis: 0.0 if basis is None else (h[row] - h[donor]) @ basis @ basis.T
    place = torch.from_numpy(seen.place)[row].numpy()
    for name, shift in shifts.items():
        laws = _laws(seen, layer, h[donor] + shift())[np.arange(len(row)), place]
        yield "kept", layer, name, fbu_replace(own, laws.reshape(*pairs.donor.shape, -1), floor, ceiling)[0]


def _set(seen: Seen, layer: int, h: Float[Tensor, "n length d"], row: NDArray[np.int64]) -> Iterator[Told]:
    """The row's own account exchanged for its other one: what is left of the way to the law of that one."""
    if LOCAL not in seen.accounts:
        return
    place, at = seen.place[row], np.arange(len(row))
    own = seen.laws[row, place]
    for here, there in ((EXACT, LOCAL), (LOCAL, EXACT)):
        wanted = seen.process.law_of(seen.accounts[there][row, place])
        moved = Embedded.of(seen, h, here)
        step = torch.from_numpy(seen.accounts[there][row] - seen.accounts[here][row])
        laws = _laws(seen, layer, h[torch.from_numpy(row)] + moved.shift(step))[at, place]
        yield "set", layer, f"{here} to {there}", Ratio(kl_bits(wanted, laws), kl_bits(wanted, own), of_reader=False)


def _exchanged(seen: Seen, layer: int, h: Float[Tensor, "n length d"], pairs: RowDonors) -> Iterator[Told]:
    """One coordinate of the belief exchanged at the place that is read alone: how far the law moves, there and next.

    In units of what the floor leaves there. At the next place the belief of the silent coin is what counts; `all`: the
    whole stream of the place is the donor's.
    """
    row, donor = (torch.from_numpy(some) for some in (pairs.row, pairs.donor[:, 0].copy()))
    place, at = torch.from_numpy(seen.place)[row], torch.arange(len(row))
    moved = Embedded.of(seen, h, EXACT)
    towards = moved.told[donor] - moved.told[row]
    whole = h[row].clone()
    whole[at, place] = h[donor, place]
    laws = {ALL: _laws(seen, layer, whole)}
    for j, name in enumerate(seen.process.names):
        one = torch.zeros_like(towards)
        one[..., j] = towards[..., j]
        some = h[row].clone()
        some[at, place] += moved.shift(one)[at, place]
        laws[name] = _laws(seen, layer, some)
    floor, ceiling = _ends(seen, pairs.row)
    for later, when in ((0, "now"), (1, "then")):
        behind = (at.numpy(), place.numpy() + later)
        clean = seen.laws[row.numpy()][behind]
        for name, law in laws.items():
            yield "exchanged", layer, f"{name}, {when}", Ratio(kl_bits(clean, law[behind]), floor - ceiling)
