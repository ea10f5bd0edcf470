"""Controls: what fills `Record.control`, beside which a value means something. Each step is of one fold."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.frame import rows_of
from probekit.fit.readers import Reader, fit_level, random_readers
from probekit.levels import Level
from probekit.measurement.collector import Separation
from probekit.measurement.deletion import Deleted, log_odds, strong_floor
from probekit.measurement.fold import MOVED, Fold
from probekit.measurement.outcome import Coordinates
from probekit.measurement.setting import Fitted, Said, Setting

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
    if fold.moved is not None:
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
        brought = fold.study.given_at(fold.cell.hook).values()
        ks = [*fold.study.read.ks, *(directions.shape[1] for directions in brought)]
        for reader in random_readers(fold.site, ks, fold.study.seeds.probe):
            said = Said.by(reader, fold.test)
            fold.cell.score(fold.setting, reader, said, fold.fitted, control="random_directions")
    except FitError as error:
        at = Coordinates("directions", "random", control="random_directions")
        fold.cell.missing(fold.setting, at, "not_converged", str(error))


def _permuted(fold: Fold) -> None:
    assert fold.moved is not None
    cell, setting, test, control = fold.cell, fold.setting, fold.test, fold.moved.control
    try:
        reader = next(fit_level(fold.site_of(MOVED), Level("linear"), ()))
    except FitError as error:
        cell.missing(setting, Coordinates("linear", control=control), "not_converged", str(error))
        return
    moved = replace(test, x=rows_of(test.x, torch.from_numpy(fold.moved.rows["test"])))
    cell.score(setting, reader, Said.by(reader, moved), fold.fitted, control=control)


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
