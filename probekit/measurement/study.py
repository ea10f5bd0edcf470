"""Study: what all cells of one set of observations share: what is asked, splits and floors, permutations, records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, nearest
from probekit.fit.frame import Frames
from probekit.fit.readers import Side, Site
from probekit.hookpoint import HookPoint
from probekit.inputs.given import Brought
from probekit.levels import Hypothesis, check_stated
from probekit.measurement.outcome import Coordinates, Figures
from probekit.measurement.setting import Pool, Pooling, Setting, control_task, prepare_settings, read_inputs
from probekit.metrics.classes import splits_with_classes, unmeasurable_over, unseen
from probekit.metrics.permutations import permutation_plan
from probekit.metrics.ratios import Estimate
from probekit.metrics.splits import Split
from probekit.records import Record
from probekit.spec import ReadSpec, TransferSpec
from probekit.task import Observations, constants, find_constant

Made = TypeVar("Made")
NOTHING_BESIDE = Figures()
NULL_ROWS = 20_000  # test rows of whole groups that permutations are drawn on


class Seeds(NamedTuple):
    """probe: starts and restarts; data: splits, permutations and bootstrap; model: training, of several models."""

    probe: int
    data: int
    model: int


class Study:
    """Observations and what is asked of them. Pools and plans are made once, for all sites."""

    def __init__(
        self,
        observations: Observations,
        read: ReadSpec,
        transfer: TransferSpec | None = None,
        hypotheses: Sequence[Hypothesis] = (),
        seeds: tuple[int, int, int] = (0, 0, 0),
        n_bootstrap: int = 2_000,
        deleted: Mapping[str, Observations | None] | None = None,
        keeps_examples: bool = False,
        given: Sequence[Brought] = (),
    ) -> None:
        """deleted: by span, what was seen without it; None where this is what was read. keeps_examples: whether
        anybody will ask for single rows or readers, as of a run folder, so that pairs and answers are looked for.
        given: directions of a user's own.
        """
        for name, seed in (("seed_probe", seeds[0]), ("seed_data", seeds[1])):
            if not isinstance(seed, int | np.integer) or seed < 0:
                raise BadInput(f"{name} is {seed!r}: give a whole number from 0 on.")
        if n_bootstrap < 1 or n_bootstrap % 1:
            raise BadInput(f"an interval is drawn from at least one bootstrap sample; n_bootstrap is {n_bootstrap}.")
        self.observations = observations
        self.read = read
        self.transfer = transfer
        self.hypotheses = tuple(hypotheses)
        self.seeds = Seeds(*seeds)
        self.n_bootstrap = n_bootstrap
        self.deleted = dict(deleted or {})
        self.keeps_examples = keeps_examples
        self.given = tuple(given)
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._splits: dict[tuple[str, str], list[Split]] = {}
        self._poolings: dict[str, Pooling] = {}
        self._why_not: dict[tuple[str, str], str] = {}
        self._plans: dict[tuple[str, str, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._frames = Frames()  # which behaviours of one hook point share
        self._once: dict[tuple, Any] = {}
        # Several rules of positions are looked at together, by whoever takes them apart.
        look = constants if observations.rules else find_constant
        if transfer is not None:
            self._check_groups()
        self._check_hypotheses()
        self.constant = look(observations.behaviours, observations.domain, self.domains)

    @cached_property
    def domains(self) -> list[str]:
        """The seen domain, then those that transfer is asked for."""
        known = self.observations.domains
        if self.transfer is None:
            return known[:1]
        asked = list(self.transfer.domains) or known
        for name in asked:
            if name not in known:
                near = nearest(name, known)
                raise BadInput(
                    f"transfer asks for domain '{name}', did you mean '{near}'? There are {', '.join(known)}."
                )
        return [known[0], *(name for name in asked if name != known[0])]

    def _check_groups(self) -> None:
        """What a group shows in one domain would be tested in another."""
        observations = self.observations
        for i, first in enumerate(self.domains):
            for second in self.domains[i + 1 :]:
                at = [self.index(name) for name in (first, second)]
                shared = np.intersect1d(observations.group[at[0]], observations.group[at[1]])
                if len(shared):
                    row, other = (int(rows[observations.group[rows] == shared[0]][0]) for rows in at)
                    raise BadInput(
                        f"transfer asks for domains without a common group; group {shared[0]} is in '{first}' (row "
                        f"{row}) and in '{second}' (row {other}), one of {len(shared)}: a reader would be tested on "
                        "groups that it was fitted on, so give each domain groups of its own."
                    )

    def _check_hypotheses(self) -> None:
        for stated in self.hypotheses:
            if not isinstance(stated, Hypothesis):
                raise BadInput(f"hypotheses has {stated!r:.40}: state each with `Hypothesis.of` or `Hypothesis.load`.")
        check_stated(self.hypotheses, self.observations.behaviours, self.observations.features)
        for hypothesis in self.hypotheses:
            of = self.observations.behaviours.get(hypothesis.behaviour)
            if of is not None and of.is_value:
                raise BadInput(
                    f"hypothesis '{hypothesis.name}' speaks of '{of.name}', which is a number: a rule gives laws over "
                    "outcomes; state it of a label or of what the model answers."
                )

    @property
    def home(self) -> str:
        """The seen domain."""
        return self.domains[0]

    @property
    def n_folds(self) -> int:
        """Outer folds."""
        return self.folds[0]

    @cached_property
    def folds(self) -> tuple[int, int]:
        """(outer, inner) folds: those that are asked for, or that suit the rows of the seen domain."""
        return self.read.folds_of(len(self.index(self.home)))

    def hypotheses_for(self, behaviour: str) -> list[Hypothesis]:
        """Those that are stated for this behaviour, or for none in particular; of a number none can be."""
        if self.observations.behaviours[behaviour].is_value:
            return []
        return [h for h in self.hypotheses if h.behaviour in ("", behaviour)]

    def given_at(self, hook: str) -> dict[str, NDArray[np.float32]]:
        """A user's own directions [d, k] at a hook point, by source."""
        return {one.source: one.directions[hook] for one in self.given if hook in one.directions}

    def index(self, domain: str) -> NDArray[np.int64]:
        """Rows of the observations in a domain."""
        return np.flatnonzero(self.observations.domain == domain)

    def splits(self, domain: str, unit: str = "group") -> list[Split]:
        """The split of each fold, as positions in `index`. Raises BadInput where a domain has too few groups."""
        key = domain, "row" if unit == "row" else "group"
        if key not in self._splits:
            index = self.index(domain)
            kept_together = index if unit == "row" else self.observations.group[index]
            laws = [behaviour.law[index] for behaviour in self.observations.behaviours.values()]
            try:
                found = splits_with_classes(kept_together, laws, self.seeds.data, *self.folds)
            except BadInput as error:
                raise BadInput(f"domain '{domain}': {error}") from None
            self._splits[key] = found
        return self._splits[key]

    def pooling(self, behaviour: str) -> Pooling:
        """A behaviour after classes that are rare on a fit side of the seen domain became one. Raises BadInput."""
        if behaviour not in self._poolings:
            index, splits = self.index(self.home), self.splits(self.home)
            sides = [index[split.fit] for split in splits]
            self._poolings[behaviour] = Pooling.of(self.observations.behaviours[behaviour], sides, index)
        return self._poolings[behaviour]

    def unmeasurable(self, behaviour: str, domain: str) -> str:
        """Why a behaviour cannot be fitted and judged in a domain, with what would mend it; empty where it can."""
        key = behaviour, domain
        if key not in self._why_not:
            index, pooling = self.index(domain), self.pooling(behaviour)
            known = pooling.behaviour
            self._why_not[key] = unmeasurable_over(
                known.law[index], known.outcomes, self.observations.group[index], pooling.n,
                lambda: self.splits(domain),
            )  # fmt: skip
        return self._why_not[key]

    def unseen(self, behaviour: str, fitted: str, tested: str) -> str:
        """Why what is fitted in one domain cannot be judged in another: a class that it never saw; empty where it did.

        Of every fold.
        """
        known, at, there = self.pooling(behaviour).behaviour, self.index(fitted), self.index(tested)
        if known.is_value:
            return ""
        test = known.law[there[np.concatenate([split.test for split in self.splits(tested)])]]
        every = (unseen(known.law[at[split.fit]], test, known.outcomes) for split in self.splits(fitted))
        return next(filter(None, every), "")

    def pool(self, behaviour: str, domain: str, unit: str = "group") -> Pool:
        """All folds of a behaviour in a domain. unit: `group`; `row` splits groups; `task` has random labels."""
        key = behaviour, domain, unit
        if key not in self._pools:
            observations, splits = self.observations, self.splits(domain, unit)
            known = self.pooling(behaviour)
            if unit == "task":
                settings = control_task(observations, known, domain, splits, self.seeds)
            else:
                floors = self.read.floors if "strong" in self.read.floors else ("strong", *self.read.floors)
                asked = ("strong",) if unit == "row" else floors
                read = {name: self.once(("reads", domain, name), partial(read_inputs, observations, domain, name))
                        for name in asked}  # fmt: skip
                settings = prepare_settings(observations, known, domain, splits, asked, self.seeds.probe, unit, read)
            self._pools[key] = Pool.of(settings, self.n_bootstrap, self.seeds.data)
        return self._pools[key]

    def once(self, key: tuple, make: Callable[[], Made]) -> Made:
        """What all sites, and behaviours where the key names none, have in common."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    def setting(self, behaviour: str, domain: str, fold: int = 0, unit: str = "group") -> Setting:
        """One fold of a behaviour in a domain."""
        return self.pool(behaviour, domain, unit).settings[fold]

    def site(self, setting: Setting, x: Tensor) -> Site:
        """The activations of a setting ready for fitting. Raises FitError."""
        return self.prepare(setting, x, [setting.training(x)])[0]

    def prepare(self, setting: Setting, x: Tensor, training: Sequence[tuple[Side, Side, Side]]) -> list[Site]:
        """Sides of the same rows of x in a setting, to fit, to select and to calibrate on. Raises FitError."""
        n = 2 if setting.inner else 1
        framed, beside = ([side.x for side in training[0][some]] for some in (slice(n), slice(n, 2)))
        few = self.n_folds > 2 and len(setting.index) <= x.shape[1]  # of many rows each fold does less by itself
        among = partial(_among, setting, x, n) if few else None
        framed = self._frames.of(*framed, beside=beside, among=among)
        return Site.prepare(training, self.seeds.probe, self.read.lambdas, setting.inner, framed)

    def plan(self, setting: Setting) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Test rows and their permutations, the same at every site, so that sites move together; or no permutation."""
        key = setting.behaviour.name, setting.domain, setting.fold
        if key not in self._plans:
            group = setting.group[setting.split.test]
            rows = whole_groups(group, NULL_ROWS, self.seeds.data)
            constant = self.pool(*key[:2]).constant_within_groups()
            several = len(np.unique(group)) < len(group)
            seed = self.seeds.data + setting.fold
            try:
                plan = permutation_plan(group[rows], self.read.n_permutations, seed, constant and several)
            except BadInput:
                # No two whole groups of one size to exchange: there is no p-value, and everything else can be measured.
                plan = np.empty((0, len(rows)), dtype=np.int64)
            self._plans[key] = rows, plan
        return self._plans[key]

    def untold(self, at: Coordinates, reason: str, note: str) -> tuple[Coordinates, Estimate]:
        """What `record` makes an NA of, where no fold has rows to count: all of the test domain are."""
        rows = self.index(at.test_domain)
        n_groups = len(np.unique(self.observations.group[rows]))
        return replace(at, fit_domain=at.fit_domain or self.home), Estimate.missing(reason, note, len(rows), n_groups)

    def record(
        self, at: Coordinates, estimate: Estimate, note: str = "", raw: float | None = None,
        beside: Figures = NOTHING_BESIDE,
    ) -> Record:  # fmt: skip
        """The estimate as a Record with its provenance; NA has no interval. raw: the value before a refit."""
        pooled = self._poolings.get(at.behaviour)
        note = "; ".join(filter(None, (note, estimate.note, pooled.note if pooled else "", self.observations.note)))
        value, low, high = (None,) * 3 if estimate.na_reason else (estimate.value, estimate.low, estimate.high)
        return Record(
            model=self.observations.model, revision=self.observations.revision, task=self.observations.task,
            position=self.observations.place, layer=HookPoint.parse(at.hook).layer,
            seed_probe=self.seeds.probe, seed_data=self.seeds.data, seed_model=self.seeds.model,
            behaviour=at.behaviour, fit_domain=at.fit_domain, test_domain=at.test_domain, metric=at.metric, arm=at.arm,
            hook=at.hook, level=at.level, source=at.source, k=at.k if at.rank is None else at.rank,
            parameters=at.parameters, floor=at.floor, control=at.control,
            value=value, low=low, high=high, raw=raw, bits=estimate.bits, floor_bits=estimate.floor_bits,
            ceiling_bits=estimate.ceiling_bits, p99_bits=estimate.p99_bits, worst_group=estimate.worst_group,
            n=estimate.n, groups=estimate.groups, na_reason=estimate.na_reason, note=note, **vars(beside),
        )  # fmt: skip


def _among(setting: Setting, x: Tensor, sides: int) -> tuple[Tensor, Tensor]:
    """All rows of a setting, and which of them its first sides are."""
    at = np.concatenate([setting.split.fit, setting.split.select][:sides])
    return x[torch.from_numpy(setting.index)].float(), torch.from_numpy(at)


def whole_groups(group: NDArray, most: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most about `most` rows of whole groups, drawn at random; all rows when there are fewer."""
    if len(group) <= most:
        return np.arange(len(group))
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 14]).permutation(len(counts))
    kept = order[: max(1, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))]
    return np.flatnonzero(np.isin(code, kept))
