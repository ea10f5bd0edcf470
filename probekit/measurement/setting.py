"""Setting: one behaviour in one domain and one outer fold; everything that a measurement shares but the activations.

A Pool puts the test rows of all folds together: each row is scored once, by readers that never saw its group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.fit.floor import Floor, Inputs, blocks_of, fit_floor
from probekit.fit.frame import rows_of
from probekit.fit.gaussian import is_value
from probekit.fit.path import Pair
from probekit.fit.readers import Reader, Side, Site
from probekit.fit.readout import cross_entropy, entropy
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.classes import LEAST_ROWS, REST, pool_rare, pooled, pooled_law
from probekit.metrics.rows import effective_rows, iccs
from probekit.metrics.splits import Split
from probekit.task import Behaviour, Observations

TRAINING = ("fit", "select", "calibrate")
CERTAIN = 1e-6  # a law that is less than this from 1 is a label
ICC_COORDINATES = 32  # of the frame, largest variance first, behind the effective number of rows


@dataclass(frozen=True)
class Pooling:
    """A behaviour after its rare classes became one, in every domain and for every law of it alike.

    before: its outcomes as they were; place: where each went (`pool_rare`); n: how many are one now; joined: those of
    them that are not rare, and make the pool large enough. zero, unit: of a number, the mean and standard deviation of
    the rows that it is fitted on, in which it is told from here on.
    """

    behaviour: Behaviour
    before: tuple[str, ...]
    place: NDArray[np.int64]
    n: int
    joined: tuple[str, ...] = ()
    zero: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(
        cls, behaviour: Behaviour, fit_sides: Sequence[NDArray[np.int64]], seen: NDArray[np.int64] | None = None
    ) -> "Pooling":
        """fit_sides: rows of the observations on the fit side of each fold of the seen domain; seen: all its rows."""
        if behaviour.is_value:
            fitted = behaviour.law[np.unique(np.concatenate(fit_sides)), 0].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                zero, unit = float(fitted.mean()), float(fitted.std())
            if not 0 < unit < np.inf:  # squares that no double holds, unless nothing differs
                far = float(np.abs(fitted).max()) or 1.0
                zero, unit = far * float((fitted / far).mean()), far * float((fitted / far).std()) or 1.0
            law = ((behaviour.law.astype(np.float64) - zero) / unit).astype(np.float32)
            only = np.zeros(1, dtype=np.int64)
            return cls(replace(behaviour, law=law), behaviour.outcomes, only, 0, (), zero, unit)
        place, n = pool_rare(behaviour.law, fit_sides, seen)
        if not n:
            return cls(behaviour, behaviour.outcomes, place, n)
        law, outcomes = pooled(behaviour.law, behaviour.outcomes, place)
        fewest = np.min([behaviour.law[side].sum(axis=0) for side in fit_sides], axis=0)
        joined = np.flatnonzero((place == place.max()) & (fewest >= LEAST_ROWS))
        names = tuple(behaviour.outcomes[int(i)] for i in joined)
        return cls(replace(behaviour, law=law, outcomes=outcomes), behaviour.outcomes, place, n, names)

    def law(self, law: NDArray) -> NDArray:
        """Another law over the outcomes as they were, pooled alike, or a number in these units: [..., n_outcomes]."""
        if self.behaviour.is_value:
            return (law - self.zero) / self.unit
        return pooled_law(law, self.place) if self.n else law

    @property
    def note(self) -> str:
        """What records say of it."""
        if not self.joined:
            return f"{self.n} classes with fewer than {LEAST_ROWS} fit rows are one, `{REST}`" if self.n else ""
        pool = [name for name, at in zip(self.before, self.place, strict=True) if at == self.place.max()]
        rare, joined = (
            ", ".join(f"'{name}'" for name in pool if (name in self.joined) is kept) for kept in (False, True)
        )
        return f"{rare} with fewer than {LEAST_ROWS} fit rows and the next rarest, {joined}, are one, `{REST}`"


@dataclass(frozen=True)
class Setting:
    """Rows, split and floors.

    pooling: of the behaviour. index [n]: rows of the observations; law, floors' logits [outcome, 1, n] follow it;
    ceiling [n] bits. split holds positions in `index`. group [n] is the unit of the test. unit: `group`; `row` where
    groups are split too; `task` where labels are a control task's.
    """

    behaviour: Behaviour
    pooling: Pooling
    domain: str
    fold: int
    index: NDArray[np.int64]
    group: NDArray[np.int64]
    split: Split
    law: Float[Tensor, "outcome 1 n"]
    ceiling: NDArray[np.float64]
    floors: Mapping[str, tuple[Floor, Float[Tensor, "outcome 1 n"]]]
    unit: str = "group"

    def rows(self, which: str) -> NDArray[np.int64]:
        """Rows of the observations on one side."""
        return self.index[getattr(self.split, which)]

    def side(self, x: Float[Tensor, "n_all d"], which: str, floor: str = "strong") -> Side:
        """Activations, law and floor logits of `fit`, `select`, `calibrate` or `test`."""
        return self.at(x, getattr(self.split, which), floor)

    def at(self, x: Float[Tensor, "n_all d"], positions: NDArray[np.int64], floor: str = "strong") -> Side:
        """The same for any positions in `index`."""
        at = torch.from_numpy(positions)
        rows = torch.from_numpy(self.index)[at]
        return Side(rows_of(x, rows), self.law[..., at], self.floors[floor][1][..., at])

    def training(self, x: Float[Tensor, "n_all d"]) -> tuple[Side, Side, Side]:
        """The sides that readers are fitted on, beside the strong floor."""
        fit, select, calibrate = (self.side(x, which) for which in TRAINING)
        return fit, select, calibrate

    @cached_property
    def inner(self) -> tuple[Pair, ...]:
        """The split's inner pairs as positions in the rows of fit and then select."""
        place = np.empty(len(self.index), dtype=np.int64)
        both = np.concatenate([self.split.fit, self.split.select])
        place[both] = np.arange(len(both))
        return tuple((torch.from_numpy(place[a]), torch.from_numpy(place[b])) for a, b in self.split.inner)

    def floor_bits(self, floor: str = "strong") -> NDArray[np.float64]:
        """The floor's bits on test rows."""
        return self._floor_bits[floor]

    @cached_property
    def _floor_bits(self) -> dict[str, NDArray[np.float64]]:
        at = torch.from_numpy(self.split.test)
        return {name: bits_of(cross_entropy(said[..., at], self.test_law)) for name, (_, said) in self.floors.items()}

    def ends(self, floor: str = "strong") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both ends of the scale on test rows: the floor's bits and the ceiling's."""
        return self.floor_bits(floor), self.test_ceiling

    @cached_property
    def test_ceiling(self) -> NDArray[np.float64]:
        """The ceiling's bits on test rows."""
        return self.ceiling[self.split.test]

    @cached_property
    def test_law(self) -> Float[Tensor, "outcome 1 n_test"]:
        return self.law[..., torch.from_numpy(self.split.test)]

    @cached_property
    def n_test_groups(self) -> int:
        """Groups with test rows."""
        return len(np.unique(self.group[self.split.test]))


def thinned(setting: Setting, share: float, seed: int) -> Setting | None:
    """The setting with a share of its fit groups, and of the select groups where these are fitted on too.

    None where too few groups are left.
    """
    split = setting.split
    fit = _some_groups(setting.group, split.fit, share, seed)
    select = _some_groups(setting.group, split.select, share, seed) if split.inner else split.select
    both = np.concatenate([fit, select])
    inner = tuple(tuple(rows[np.isin(rows, both)] for rows in pair) for pair in split.inner)
    if not (len(fit) and len(select)) or any(not len(rows) for pair in inner for rows in pair):
        return None
    return replace(setting, split=replace(split, fit=fit, select=select, inner=inner))


def _some_groups(group: NDArray, rows: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    names, code = np.unique(group[rows], return_inverse=True)
    return rows[(np.random.default_rng([seed, 17]).permutation(len(names)) < int(share * len(names)))[code]]


def prepare_settings(
    observations: Observations,
    pooling: Pooling,
    domain: str,
    splits: Sequence[Split],
    floors: Sequence[str],
    seed: int,
    unit: str = "group",
    read: Mapping[str, Inputs] | None = None,
) -> list[Setting]:
    """Fit the floors of each outer fold of a domain. splits: of its rows; unit: as in Setting.

    read: what each floor reads of its rows (`read_inputs`), where that is known already, as of another behaviour.
    """
    behaviour, index = pooling.behaviour, np.flatnonzero(observations.domain == domain)
    group = observations.group[index]
    kept_together = index if unit == "row" else group
    # Rows sum to 1 but for rounding, or for what a caller's own law was allowed: fits take it for 1.
    whole = behaviour.law[index]
    whole = whole if behaviour.is_value else whole / whole.sum(1, keepdims=True)
    law = torch.from_numpy(np.ascontiguousarray(whole.T[:, None]))
    read = read or {name: read_inputs(observations, domain, name) for name in floors}  # once for all folds
    ceiling = bits_of(entropy(law))
    out = []
    for fold, split in enumerate(splits):
        fitted = {name: fit_floor(name, read[name], law, kept_together, split, seed + fold) for name in floors}
        out.append(Setting(behaviour, pooling, domain, fold, index, group, split, law, ceiling, fitted, unit))
    return out


def read_inputs(observations: Observations, domain: str, floor: str) -> Inputs:
    """What the named floor reads of the rows of a domain, whatever the behaviour."""
    inputs = {name: block[observations.domain == domain] for name, block in observations.floor_inputs.items()}
    return Inputs.of(inputs, blocks_of(floor, inputs))


def control_task(
    observations: Observations,
    pooling: Pooling,
    domain: str,
    splits: Sequence[Split],
    seeds: tuple[int, int, int],
) -> list[Setting]:
    """The same rows with a random label for each type, drawn from the behaviour's mean law (Hewitt and Liang 2019).

    A number is drawn from those of the rows.

    Beside the floor `prior`: a floor that knows the type would leave nothing to memorise. seeds: probe, data, model.
    """
    assert observations.types is not None
    at = observations.domain == domain
    behaviour = pooling.behaviour
    names, code = np.unique(observations.types, return_inverse=True)
    draw = np.random.default_rng([seeds[1], 16])
    if behaviour.is_value:
        labels = draw.choice(behaviour.law[at, 0], size=len(names))[code][:, None]
    else:
        law = behaviour.law[at].mean(0).astype(np.float64)
        drawn = draw.choice(len(law), size=len(names), p=law / law.sum())
        drawn[: len(law)] = np.arange(len(law))[: len(drawn)]  # no outcome without a type
        labels = np.eye(len(law), dtype=np.float32)[drawn[code]]
    bare = replace(observations, floor_inputs={})
    return prepare_settings(
        bare, replace(pooling, behaviour=replace(behaviour, law=labels)), domain, splits, ("strong",), seeds[0], "task"
    )


@dataclass(frozen=True)
class Pool:
    """The test rows of every fold, one after the other, with the bootstrap over their groups.

    fold_of_group [n_groups] follows `clusters.names`.
    """

    settings: tuple[Setting, ...]
    clusters: Clusters
    fold_of_group: NDArray[np.int64]

    @classmethod
    def of(cls, settings: Sequence[Setting], n_bootstrap: int, seed: int) -> "Pool":
        """Draw the bootstrap weights once, for every number measured on these rows."""
        groups = np.concatenate([s.group[s.split.test] for s in settings])
        clusters = Clusters.of(groups, n_bootstrap, seed)
        fold = np.empty(len(clusters.names), dtype=np.int64)
        fold[clusters.code] = np.repeat([s.fold for s in settings], [len(s.split.test) for s in settings])
        return cls(tuple(settings), clusters, fold)

    def constant_within_groups(self) -> bool:
        """Whether all rows of a group behave alike, so that moving rows inside it changes nothing."""
        first = self.settings[0]
        law = first.behaviour.law[first.index]
        _, start, code = np.unique(first.group, return_index=True, return_inverse=True)
        return bool(np.abs(law - law[start][code]).max() < 1e-6)


def effective_fit_rows(setting: Setting, site: Site) -> float:
    """Fit rows divided by the design effect of the score, 1 + (m - 1) icc(behaviour) icc(activation) (Moulton 1986).

    The intra-group correlations are means over outcomes, weighted by their spread, and over leading frame coordinates.
    """
    rows = setting.rows("fit")
    group = setting.group[setting.split.fit]
    if len(np.unique(group)) == len(group):
        return float(len(rows))
    law = setting.behaviour.law[rows].astype(np.float64)
    behaviour = np.average(np.maximum(0.0, iccs(law, group)), weights=law.var(0) + 1e-12)
    z = site.rows[0].z[:, :ICC_COORDINATES].double().cpu().numpy()
    activation = np.mean(np.maximum(0.0, iccs(z, group)))
    return effective_rows(group, float(behaviour * activation))


@dataclass(frozen=True)
class Fitted:
    """What readers of a site are fitted on: rows, what they are worth, and the rank of the span that they fill."""

    n: int
    effective: float
    rank: int

    @classmethod
    def of(cls, setting: Setting, site: Site) -> "Fitted":
        return cls(len(setting.split.fit), effective_fit_rows(setting, site), site.d)


@dataclass(frozen=True)
class Said:
    """What a reader says of rows: its bits and, where the behaviour is certain, whether it is right, each [n].

    odds [n]: log odds of the second of two outcomes, which is the one where `second` [n] is 1. Of a behaviour that is
    a number, `value` [n] is it, and odds what is said of it, in units of the setting. Of a law, `answer` [n] is the
    likeliest outcome, `sure` [n] its probability, and `agreed` [n] what the behaviour gives to it.
    """

    bits: NDArray[np.float64]
    right: NDArray[np.bool_] | None = None
    odds: NDArray[np.float64] | None = None
    second: NDArray[np.bool_] | None = None
    value: NDArray[np.float64] | None = None
    answer: NDArray[np.int16] | None = None
    sure: NDArray[np.float32] | None = None
    agreed: NDArray[np.float32] | None = None

    @classmethod
    def by(cls, reader: Reader, side: Side) -> "Said":
        return cls.of(reader.logits(side.x, side.offset), side.law)

    @classmethod
    def of(cls, logits: Float[Tensor, "outcome 1 n"], law: Float[Tensor, "outcome 1 n"]) -> "Said":
        """Of the reader's logits, beside its floor."""
        bits = bits_of(cross_entropy(logits, law))
        if is_value(law):
            said, value = (part[0, 0].double().cpu().numpy() for part in (logits, law))
            return cls(bits, odds=said, value=value)
        sure, answer = torch.softmax(logits[:, 0], 0).max(0)
        agreed = law[:, 0].gather(0, answer[None])[0]
        told = {"answer": answer.cpu().numpy().astype(np.int16), "sure": sure.float().cpu().numpy(),
                "agreed": agreed.float().cpu().numpy()}  # fmt: skip
        if float(law.max(0).values.min()) <= 1 - CERTAIN:
            return cls(bits, **told)
        right = (logits.argmax(0) == law.argmax(0))[0].cpu().numpy()
        if len(law) != 2:
            return cls(bits, right, **told)
        odds = (logits[1, 0] - logits[0, 0]).double().cpu().numpy()
        return cls(bits, right, odds, (law[1, 0] > 0.5).cpu().numpy(), **told)


def floor_logits(home: Setting, there: Setting, observations: Observations, which: str) -> Float[Tensor, "outcome 1 n"]:
    """Home's floor on the rows of `there`'s side: its honest logits where the two are one."""
    at = getattr(there.split, which)
    if home.domain == there.domain:
        return home.floors["strong"][1][..., torch.from_numpy(at)]
    inputs = {name: block[there.index[at]] for name, block in observations.floor_inputs.items()}
    return home.floors["strong"][0].logits(inputs, len(at))


def moved_logits(
    reader: Reader, home: Setting, there: Setting, x: Tensor, observations: Observations, which: str
) -> Float[Tensor, "outcome 1 n"]:
    """What a reader fitted at home says in another domain, beside home's floor."""
    rows = torch.from_numpy(there.rows(which))
    return reader.logits(rows_of(x, rows), floor_logits(home, there, observations, which))


def bits_of(bits: Float[Tensor, "1 n"]) -> NDArray[np.float64]:
    """Per-row bits of the one target that a behaviour has."""
    return bits[0].double().cpu().numpy()
