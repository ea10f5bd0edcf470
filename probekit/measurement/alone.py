"""Alone: linear readers of the activations alone, beside the weak floor, kept so that they can be taken away."""

from collections.abc import Iterator

import torch

from probekit.errors import FitError
from probekit.fit.readers import Affine, Reader, Site, fit_level, given_readers
from probekit.levels import Level
from probekit.measurement.fold import WEAK, Fold
from probekit.measurement.outcome import Alone
from probekit.measurement.setting import Setting

LOOKING = ("direction", "directions")


def keep_alone(fold: Fold, linear: Reader | None) -> None:
    """Of the first fold, where the study keeps what is asked for later: `linear`, and readers along directions.

    linear: beside the weak floor. A level that cannot be fitted is not kept, and costs no other.
    """
    if fold.setting.fold or not fold.study.keeps_examples:
        return
    if linear is not None:
        fold.cell.keep_alone(linear, _alone(fold.setting, linear))
    try:
        for reader in _looking(fold, fold.site_of(WEAK)):
            fold.cell.keep_alone(reader, _alone(fold.setting, reader))
    except FitError:
        return  # the level's own record says why, on the strong floor


def _looking(fold: Fold, site: Site) -> Iterator[Reader]:
    """Readers along directions that were found with the behaviour, or given."""
    read = fold.study.read
    for name in read.levels:
        if name not in LOOKING:
            continue
        for reader in fit_level(site, Level(name), read.ks):
            if reader.source == "pca":  # the last ones of their level, and nobody's finding
                break
            yield reader
    for source, directions in fold.study.given_at(fold.cell.hook).items():
        yield from given_readers(site, source, torch.from_numpy(directions), read.ks)


def _alone(setting: Setting, reader: Reader) -> Alone:
    """Weights that see raw activations, and a bias that holds the centre and the floor's mean part, in float64."""
    found = reader.affine
    assert found is not None
    part = _floor_part(setting, found)
    weight = found.weight[:, 0].T.double()
    across = weight if found.along is None else found.along.double() @ weight
    bias = found.bias[:, 0].double() + part.mean(1) - found.centre.double() @ across
    if setting.behaviour.is_value:
        weight, bias, part = (setting.pooling.unit * one for one in (weight, bias, part))
        bias = bias + setting.pooling.zero
    # a constant of all outcomes says nothing
    spread = (part if setting.behaviour.is_value else part - part.mean(0)).std(1, correction=0).max()
    along = torch.empty(0, 0) if found.along is None else found.along
    return Alone(weight.float().numpy(), bias.numpy(), spread[None].numpy(), along.contiguous().numpy())


def _floor_part(setting: Setting, found: Affine) -> torch.Tensor:
    """What the weak floor adds on test rows [outcome, n]: on fit rows it is cross-fitted, and not the same anywhere."""
    offset = setting.floors[WEAK][1][:, 0, torch.from_numpy(setting.split.test)].double()
    return found.scale[0].double() * offset
