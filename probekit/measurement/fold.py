"""Fold: one outer fold of a cell in one domain, which is what every step of the measurement is handed.

Three things are fitted on the rows of the fold that differ from it only in what a row shows or weighs: readers beside
the weak floor, readers of moved activations, and readers of half of the groups. So all linear readouts are one problem.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.readers import Reader, Side, Site, given_readers
from probekit.measurement.collector import Collector
from probekit.measurement.deletion import Deletions
from probekit.measurement.setting import TRAINING, Fitted, Setting, thinned
from probekit.measurement.study import Made, Study
from probekit.metrics.permutations import permute_groups, permute_within

STRONG, WEAK, MOVED, HALF = "strong", "weak", "moved", "half"
Training = tuple[Side, Side, Side]  # the sides of TRAINING


@dataclass(frozen=True)
class Moved:
    """How activations move against (behaviour, floor): by side of the split, whose activations each row is given.

    They move inside each group, so that the floor stays what it is; where a behaviour is the same all over a group they
    are exchanged between groups. control: as records name it.
    """

    control: str
    rows: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, study: Study, setting: Setting) -> "Moved":
        seed, split = study.seeds.data, setting.split
        within = permute_within(setting.group, seed)[1]
        whole = within and study.pool(setting.behaviour.name, setting.domain).constant_within_groups()
        rows = {}
        for which in (*TRAINING, "test"):
            group = setting.group[getattr(split, which)]
            rows[which] = permute_groups(group, seed) if whole else permute_within(group, seed)[0]
        return cls("permuted_in_group" if within and not whole else "permuted_groups", rows)


@dataclass(frozen=True)
class Fold:
    """The rows of one outer fold and what they share, the site, and where numbers go.

    x: activations of all rows of the observations; twin: those of the randomly initialised network. alike: what is
    fitted on the same rows, by name; beside: their sites, where they could be fitted together.
    """

    study: Study
    cell: Collector
    setting: Setting
    site: Site
    x: Float[Tensor, "n d"]
    twin: Float[Tensor, "n d"] | None = None
    moved: Moved | None = None
    alike: Mapping[str, Training] = field(default_factory=dict)
    beside: Mapping[str, Site] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cell: Collector, setting: Setting, x: Float[Tensor, "n d"], twin: Float[Tensor, "n d"] | None = None
    ) -> "Fold":
        """With all sites fitted. Raises FitError where that of the fold itself has none."""
        study = cell.study
        moved = _once(study, setting, Moved.of) if "permuted" in study.read.controls else None
        alike = {STRONG: setting.training(x)}
        alike |= _alike(study, setting, alike[STRONG], moved)
        try:
            sites = dict(zip(alike, study.prepare(setting, x, list(alike.values())), strict=True))
        except FitError:
            # One of them has no readout, and must not cost the others: each is fitted when it is asked for.
            sites = {STRONG: study.prepare(setting, x, [alike[STRONG]])[0]}
        return cls(study, cell, setting, sites[STRONG], x, twin, moved, alike, sites)

    def site_of(self, name: str) -> Site:
        """The site of what is fitted on the same rows. Raises FitError."""
        return (
            self.beside[name]
            if name in self.beside
            else self.study.prepare(self.setting, self.x, [self.alike[name]])[0]
        )

    def half(self) -> Site | None:
        """The site of half of the groups, None where these are too few. Raises FitError."""
        if HALF in self.alike or not self.setting.behaviour.is_value:
            return self.site_of(HALF) if HALF in self.alike else None
        # A number has no mass that rows could be weighed by: it is fitted on the rows themselves.
        thin = _once(self.study, self.setting, _thinned)
        return None if thin is None else self.study.prepare(thin, self.x, [thin.training(self.x)])[0]

    @property
    def without(self) -> Deletions:
        """The same rows with spans deleted."""
        return self.cell.without

    @cached_property
    def test(self) -> Side:
        """Test rows beside the strong floor."""
        return self.setting.side(self.x, "test")

    @cached_property
    def fitted(self) -> Fitted:
        """What readers of the site were fitted on."""
        return Fitted.of(self.setting, self.site)

    def given(self) -> Iterator[Reader]:
        """Readers along a user's own directions at this hook point, fitted on the fold's rows. Raises FitError."""
        for name, directions in self.study.given_at(self.cell.hook).items():
            yield from given_readers(self.site, name, torch.from_numpy(directions), self.study.read.ks)

    def in_domain(self, domain: str) -> Setting:
        """The same fold of the same behaviour in another domain."""
        return self.study.setting(self.cell.behaviour, domain, self.setting.fold)

    def of_unit(self, unit: str) -> Setting:
        """The same fold of another pool: `row` or `task`."""
        return self.study.setting(self.cell.behaviour, self.setting.domain, self.setting.fold, unit)


def _once(study: Study, setting: Setting, make: Callable[[Study, Setting], Made]) -> Made:
    """What is made of a setting alone, for all sites."""
    key = make, setting.behaviour.name, setting.domain, setting.unit, setting.fold
    return study.once(key, lambda: make(study, setting))


def _thinned(study: Study, setting: Setting) -> Setting | None:
    return thinned(setting, 0.5, study.seeds.data)


def _alike(study: Study, setting: Setting, strong: Training, moved: Moved | None) -> Iterator[tuple[str, Training]]:
    """What else is asked for of the same rows."""
    if WEAK in study.read.floors:
        offsets = (setting.floors[WEAK][1][..., torch.from_numpy(getattr(setting.split, one))] for one in TRAINING)
        fit, select, calibrate = (replace(side, offset=offset) for side, offset in zip(strong, offsets, strict=True))
        yield WEAK, (fit, select, calibrate)
    if moved is not None:
        rows = (torch.from_numpy(moved.rows[which]) for which in TRAINING)
        fit, select, calibrate = (
            replace(side, law=side.law[..., at], offset=side.offset[..., at])
            for side, at in zip(strong, rows, strict=True)
        )
        yield MOVED, (fit, select, calibrate)
    asked = study.read.falls and "linear" in study.read.levels and not setting.behaviour.is_value
    half = _once(study, setting, _thinned) if asked else None
    if half is not None:
        # A row that is left out weighs nothing, and the others more, so that the mean over rows stays a mean over them.
        names = ("fit", "select") if setting.split.inner else ("fit",)
        kept = [np.isin(getattr(setting.split, one), getattr(half.split, one)) for one in names]
        more = sum(map(len, kept)) / sum(int(side.sum()) for side in kept)
        weights = [torch.from_numpy(side * more).float() for side in kept]
        fit, *select = (replace(side, law=side.law * w) for side, w in zip(strong, weights, strict=False))
        yield HALF, (fit, select[0] if select else strong[1], strong[2])
