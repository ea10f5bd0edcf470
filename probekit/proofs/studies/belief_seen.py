"""What the study of beliefs sees of one network: its stream and laws on sequences of its own, and what is read."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.frame import Frame, fit_frame
from probekit.fit.path import fit_path
from probekit.fit.readers import Site, fit_level
from probekit.fit.readout import Readout, Rows
from probekit.levels import Hypothesis, Level
from probekit.measurement.across import SharedRows
from probekit.measurement.hypotheses import Mixture
from probekit.measurement.setting import Setting, bits_of
from probekit.metrics.ratios import Ratio, fbu, transfer
from probekit.records import digest
from probekit.task import VALUE, Behaviour, Feature, Observations
from probekit.testbeds.hmm import PROCESSES, Plant, Process, Transformers, load_transformers, process_of
from probekit.testbeds.hmm.networks import untrained
from probekit.testbeds.hmm.train import STACKS

LAW, ROW = "law", "row"
EXACT, LOCAL, RECENT = "exact", "pair by pair", "last two"
GRAMS = 2  # last tokens that the floor sees together
PLACES = (5, 7, 9, 11, 13)  # that rows are read behind; of `turns`, the same coin is next behind all of them
SHORT, LONG = (5, 7), (11, 13)
RIDGES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
PLANT, FOUR = "plant ", "last four"
PLANTS = {f"{PLANT}{account}": account for account in (EXACT, LOCAL, RECENT, FOUR)}  # of the triangle
UNTRAINED = "untrained"


@dataclass(frozen=True)
class BeliefSize:
    """networks: of each name. rows: sequences of each, a quarter of them to test; scrubbed: of these, with donors."""

    networks: int = 6
    rows: int = 4000
    scrubbed: int = 250
    donors: int = 16


@dataclass(frozen=True)
class BeliefCell:
    """One network: the i-th of a name."""

    name: str
    network: int
    size: BeliefSize
    seed: int

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["belief", 1, asdict(self)])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.name} {self.network}"


Told = tuple[str, int, str, Ratio]  # what, layer, arm, and the ratio over test rows


# What was seen of one network ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One network, sequences drawn for it alone, and at each the place that is read.

    accounts: coordinates [n, length, k] of the hidden state by name; seed: of its splits and donors.
    """

    process: Process
    nets: Transformers | Plant
    twin: Transformers | None
    tokens: NDArray[np.int64]
    place: NDArray[np.int64]
    accounts: dict[str, NDArray[np.float64]]
    size: BeliefSize
    seed: int

    @classmethod
    def of(cls, cell: BeliefCell) -> "Seen":
        """Sequences are the network's own, so that an interval over networks is one over sequences too."""
        planted = cell.name in PLANTS
        process = PROCESSES["triangle"] if planted else process_of(cell.name)
        seed = int(np.random.default_rng([cell.seed, *cell.name.encode(), cell.network]).integers(2**31))
        rng = np.random.default_rng([seed, 71])
        tokens, place = process.draw(cell.size.rows, rng), rng.choice(PLACES, size=cell.size.rows)
        if planted:
            account = PLANTS[cell.name]
            nets = Plant(process, lambda some: _planted(process, some)[account], seed=seed)
            return cls(process, nets, None, tokens, place, accounts_of(process, tokens), cell.size, seed)
        twin = untrained(process, (STACKS[cell.name.split("@")[0]].first + cell.network,))
        nets = load_transformers(cell.name).one(cell.network)
        return cls(process, nets, twin, tokens, place, accounts_of(process, tokens), cell.size, seed)

    @property
    def n(self) -> int:
        """Sequences."""
        return len(self.tokens)

    def at_place(self, per_place: NDArray, later: int = 0) -> NDArray:
        """Of [n, length, ...] what belongs to the place that is read, or so many later."""
        return per_place[np.arange(self.n), self.place + later]

    @torch.no_grad()
    def stream(self, layer: int, nets: Transformers | None = None) -> Float[Tensor, "n length d"]:
        """Behind so many blocks, of the network or of another one."""
        return (nets or self.nets).upto(torch.from_numpy(self.tokens), layer)[0]

    @cached_property
    def laws(self) -> NDArray[np.float64]:
        """What the network says behind every place: [n, length, token]."""
        with torch.no_grad():
            return self.nets.logits(torch.from_numpy(self.tokens))[0].double().softmax(-1).numpy()

    @cached_property
    def observations(self) -> Observations:
        """The law, and each coordinate of the exact belief as a number; a context is a group."""
        length, n_tokens = self.tokens.shape[1], self.process.n_tokens
        read = np.where(np.arange(length) <= self.place[:, None], self.tokens, -1)
        group = np.unique(read, axis=0, return_inverse=True)[1].reshape(-1)
        last = self.at_place(self.tokens) + n_tokens * self.at_place(self.tokens, -1)
        told = self.at_place(self.accounts[EXACT]).astype(np.float32)
        names = tuple(map(str, range(n_tokens)))
        behaviours = {LAW: Behaviour(LAW, self.at_place(self.laws).astype(np.float32), names)}
        behaviours |= {name: Behaviour(name, told[:, [j]], VALUE) for j, name in enumerate(self.process.names[:2])}
        inputs = {"position": np.eye(length)[self.place], "grams": np.eye(n_tokens**GRAMS)[last]}
        rows = np.arange(self.n)
        return Observations(rows, self.place, group.astype(np.int64), np.full(self.n, "all"), behaviours,
                            {ROW: Feature(ROW, rows[:, None], (ROW,), (ROW,))}, inputs)  # fmt: skip

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """Split and floor of each behaviour; the split is one."""
        out = {}
        for name in self.observations.behaviours:
            rows = SharedRows.of(self.observations, name, self.seed)
            rows = replace(rows, split=replace(rows.split, inner=()))  # ridges chosen on one side: folds say the same
            out[name] = rows.setting(self.observations, name, self.seed)
        return out

    @property
    def setting(self) -> Setting:
        """Of the law."""
        return self.settings[LAW]

    @property
    def layers(self) -> range:
        """Blocks behind which the stream is read and edited."""
        return range(1, self.nets.depth + 1)


def accounts_of(process: Process, tokens: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """What is known of the hidden state [n, length, k]: exactly, of the last tokens alone, and by the cheaper way."""
    out = {EXACT: process.told(process.beliefs(tokens)), RECENT: process.told(process.recent(tokens, GRAMS))}
    return out | ({LOCAL: process.local(tokens)} if process.local is not None else {})


def _planted(process: Process, tokens: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The same, and what no account that is asked about says: more tokens than the floor sees, and not all."""
    return accounts_of(process, tokens) | {FOUR: process.told(process.recent(tokens, 4))}


# What it says, and what can be read ---------------------------------------------------------------------------------


def outputs(seen: Seen) -> Iterator[Told]:
    """FBU of the rule on each account, as it is: does the network say what follows from it?"""
    for account, told in seen.accounts.items():
        bits = _ruled(seen, seen.process.law_of(seen.at_place(told)))
        yield "says", 0, account, fbu(bits, *seen.setting.ends())


def _ruled(seen: Seen, law: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of test rows under a stated law [n, token], mixed with the floor as any hypothesis is."""
    stated = Hypothesis("belief", (ROW,), lambda features: law[features[ROW][:, 0]])  # pyright: ignore[reportArgumentType]
    nowhere = torch.empty(seen.n, 0)
    return Mixture.fit(stated, {ROW: None}, seen.observations, seen.setting, nowhere).bits(seen.setting, nowhere)


def read(seen: Seen) -> Iterator[Told]:
    """FBU at each layer: of the law by any line, of the rule on decoded accounts, of each coordinate of the belief."""
    setting = seen.setting
    ends = setting.ends()
    for layer in seen.layers:
        x = _rows_of(seen, layer)
        site = Site.prepare([setting.training(x)], seen.seed, RIDGES)[0]
        reader = next(iter(fit_level(site, Level.parse("linear"), (1,))))
        yield "read", layer, "linear", fbu(bits_of(reader.bits(setting.side(x, "test"))), *ends)
        for account in seen.accounts:
            decoder = AccountRead.fit(seen, x, account)
            yield (
                "read",
                layer,
                f"rule on decoded {account}",
                fbu(_ruled(seen, seen.process.law_of(decoder.told)), *ends),
            )
            if account == EXACT:
                yield "r2", layer, EXACT, decoder.left_of_variance(seen)
                for arm in ("raw", "refit"):
                    yield "longer", layer, arm, _longer(seen, x, arm)
        yield from _coordinates(seen, layer, x, "network")
        if seen.twin is not None:
            yield from _coordinates(seen, layer, _rows_of(seen, layer, seen.twin), UNTRAINED)


def _rows_of(seen: Seen, layer: int, nets: Transformers | None = None) -> Float[Tensor, "n d"]:
    rows = torch.arange(seen.n), torch.from_numpy(seen.place)
    return seen.stream(layer, nets)[rows].contiguous()


def _coordinates(seen: Seen, layer: int, x: Float[Tensor, "n d"], whose: str) -> Iterator[Told]:
    """FBU of each coordinate of the exact belief, a number, beside the floor."""
    for name in seen.process.names[:2]:  # a third pair is like the others
        setting = seen.settings[name]
        site = Site.prepare([setting.training(x)], seen.seed, RIDGES)[0]
        reader = next(iter(fit_level(site, Level.parse("linear"), (1,))))
        bits = bits_of(reader.bits(setting.side(x, "test")))
        yield "coordinate", layer, f"{name}, {whose}", fbu(bits, *setting.ends())


@dataclass(frozen=True)
class AccountRead:
    """An account as a line reads it off the stream, beside nothing: told [n, k] of all rows."""

    account: str
    frame: Frame
    readout: Readout
    told: NDArray[np.float64]

    @classmethod
    def fit(cls, seen: Seen, x: Float[Tensor, "n d"], account: str, places: tuple[int, ...] = PLACES) -> "AccountRead":
        """From fit rows behind some places; the ridge of each coordinate is chosen on such rows of the select side."""
        wanted = torch.from_numpy(seen.at_place(seen.accounts[account])).float()
        fit, select = (side[np.isin(seen.place[side], places)] for side in (seen.setting.split.fit,
                                                                           seen.setting.split.select))  # fmt: skip
        frame = fit_frame(x[fit])
        rows = [Rows(frame.apply(x[side]), wanted[side].T[None].contiguous()) for side in (fit, select)]
        readout = fit_path(rows[0], rows[1], frame.variance, RIDGES)
        return cls(account, frame, readout, readout.logits(frame.apply(x))[0].T.double().numpy())

    @property
    def directions(self) -> Float[Tensor, "d k"]:
        """Orthonormal directions of the stream that span what the lines look along."""
        return torch.linalg.qr(self.frame.back(self.readout.weight[0].T))[0]

    def left_of_variance(self, seen: Seen) -> Ratio:
        """1 - R2 of all coordinates on test rows: what a reader is mostly told by, and beside no floor."""
        test = seen.setting.split.test
        wanted = seen.at_place(seen.accounts[self.account])[test]
        missed = ((wanted - self.told[test]) ** 2).sum(1)
        return Ratio(missed, ((wanted - wanted.mean(0)) ** 2).sum(1), of_reader=False)


def _longer(seen: Seen, x: Float[Tensor, "n d"], arm: str) -> Ratio:
    """T of the rule on decoded beliefs, from short contexts to long ones; refit: each coordinate scaled and shifted."""
    direct, moved = (AccountRead.fit(seen, x, EXACT, places).told for places in (LONG, SHORT))
    if arm == "refit":
        fit = seen.setting.split.fit[np.isin(seen.place[seen.setting.split.fit], LONG)]
        wanted = seen.at_place(seen.accounts[EXACT])
        lines = [np.polyfit(said[fit], true[fit], 1) for said, true in zip(moved.T, wanted.T, strict=True)]
        moved = np.stack([np.polyval(line, said) for line, said in zip(lines, moved.T, strict=True)], 1)
    lost = [_ruled(seen, seen.process.law_of(told)) for told in (moved, direct)]
    at = np.isin(seen.place[seen.setting.split.test], LONG)
    return transfer(lost[0][at], lost[1][at], *(end[at] for end in seen.setting.ends()))
