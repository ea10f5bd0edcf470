"""Controls: what fills `Record.control`, beside which a value means something. Each step is of one fold."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.readers import Reader, fit_level, random_readers
from probekit.levels import Level
from probekit.measurement.collector import Fold, Separation
from probekit.measurement.deletion import Deleted, log_odds, strong_floor
from probekit.measurement.outcome import Coordinates
from probekit.measurement.setting import Fitted, Said, Setting
from probekit.metrics.permutations import permute_groups, permute_within

ON_WEAK = "the strong floor on the weak scale"


def measure_controls(fold: Fold) -> None:
    """Every control that the study asks for."""
    read, setting = fold.study.read, fold.setting
    if "row_split" in read.controls and len(np.unique(setting.group)) < len(setting.group):
        level = "linear" if "linear" in read.levels else "direction"
        _fit_anew(fold, fold.of_unit("row"), fold.x, "row_split", (level,))
    if "control_task" in read.controls and fold.study.observations.types is not None:
        _fit_anew(fold, fold.of_unit("task"), fold.x, "control_task", ("linear",))
    if "random_directions" in read.controls:
        _random_directions(fold)
    if "permuted" in read.controls:
        _permuted(fold)
    if "random_twin" in read.controls and fold.twin is not None:
        _fit_anew(fold, setting, fold.twin, "random_twin", ("directions", "linear"))


def measure_deleted(
    fold: Fold, control: str, there: Deleted, readers: Sequence[Reader], weak: Sequence[Reader] = ()
) -> None:
    """Every reader on the test rows with a span deleted. On the weak scale also as an AUROC of its log odds."""
    cell, setting = fold.cell, there.setting
    known = [reader for reader in readers if reader.level != "prior"]
    if all(reader.level != "baseline" for reader in known):
        known.append(strong_floor(setting))
    for reader in known:
        cell.score(setting, reader, there.said(reader), fold.fitted, control=control)
    for reader in weak:
        # The strong floor's own logits are its offset, whatever scale it is told on.
        own = "strong" if reader.level == "baseline" else "weak"
        note = ON_WEAK if reader.level == "baseline" else ""
        said = there.said(reader, own)
        cell.score(setting, reader, said, fold.fitted, floor="weak", control=control, note=note)
        for name, side in (("", setting.side(fold.x, "test", own)), (control, there.sides[own])):
            if (found := log_odds(reader, side)) is not None:
                at = Coordinates(reader.level, reader.source, None, "auroc", control=name, floor="weak")
                cell.put(setting, at, Separation, found, note="of the log odds")


def _random_directions(fold: Fold) -> None:
    try:
        for reader in random_readers(fold.site, fold.study.read.ks, fold.study.seeds.probe):
            said = Said.by(reader, fold.test)
            fold.cell.score(fold.setting, reader, said, fold.fitted, control="random_directions")
    except FitError as error:
        at = Coordinates("directions", "random", control="random_directions")
        fold.cell.missing(fold.setting, at, "not_converged", str(error))


def _permuted(fold: Fold) -> None:
    """Activations move against (behaviour, floor) inside each group, so that the floor stays what it is."""
    setting, seed = fold.setting, fold.study.seeds.data
    permutation, within = permute_within(setting.group, seed)
    if within and fold.study.pool(fold.cell.behaviour, setting.domain).constant_within_groups():
        permutation, within = permute_groups(setting.group, seed), False
    shuffled = fold.x.clone()
    shuffled[torch.from_numpy(setting.index)] = fold.x[torch.from_numpy(setting.index[permutation])]
    _fit_anew(fold, setting, shuffled, "permuted_in_group" if within else "permuted_groups", ("linear",))


def _fit_anew(fold: Fold, setting: Setting, x: Tensor, control: str, levels: Sequence[str]) -> None:
    """Levels fitted to other activations, or on other rows or labels, than those of the fold."""
    study, test = fold.study, setting.side(x, "test")
    try:
        site = study.site(setting, x)
        fitted = Fitted.of(setting, site)
        for name in levels:
            for reader in fit_level(site, Level(name), study.read.ks):
                if reader.source != "pca":
                    fold.cell.score(setting, reader, Said.by(reader, test), fitted, control=control)
    except FitError as error:
        fold.cell.missing(setting, Coordinates("linear", control=control), "not_converged", str(error))
