"""Transfer: every asked level fitted in each domain and applied in every other one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations, product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.platt import fit_platt
from probekit.fit.readers import Reader, fit_level
from probekit.fit.readout import calibrate, cross_entropy
from probekit.levels import Level
from probekit.measurement.controls import measure_deleted
from probekit.measurement.diagnostics import measure_auroc
from probekit.measurement.fold import Fold
from probekit.measurement.outcome import Coordinates, ReaderName
from probekit.measurement.setting import Said, bits_of, moved_logits, thinned
from probekit.metrics.ratios import transfer
from probekit.records import SOURCE_PREFIXES

PLATT_LABELS = 50
ARMS = ("raw", "refit", "platt50")
# Fit rows per coordinate below which readers of two domains are compared from as many rows, unless they have them but
# for this factor.
MANY_PER_COORDINATE, ALIKE = 20, 1.1
AS_MANY = "readers of both domains are fitted on as many rows"


def measure_transfer(home: Fold, readers: Sequence[Reader]) -> None:
    """home: a fold of the seen domain; readers: those fitted there. Raises FitError."""
    study = home.study
    assert study.transfer is not None
    levels = [level for level in map(Level.parse, study.transfer.levels) if level.family != "hypothesis"]
    folds, fitted = {study.home: home}, {study.home: _fitted_at_home(home, readers, levels)}
    few = {name: why for name in study.domains[1:] if (why := study.unmeasurable(home.cell.behaviour, name))}
    for domain in study.domains[1:]:
        if domain in few:
            continue
        setting = home.in_domain(domain)
        folds[domain] = replace(home, setting=setting, site=study.site(setting, home.x))
        fitted[domain] = _read_there(folds[domain], levels)
    for domain, why in few.items():
        _read_on_few(list(folds.values()), domain, fitted, levels, why)
    n_fit = {name: len(fold.setting.split.fit) for name, fold in folds.items()}

    @cache  # pairs of domains ask for the same
    def of_as_many_rows(domain: str, n: int) -> tuple[Fold, Sequence[Reader]]:
        return _of_as_many_rows(folds[domain], n, fitted[domain], levels)

    for a, b in product(folds, folds):
        for reader in fitted[a]:
            # where it was fitted, too; at home that is known by now
            if reader.source == "mean_difference" and not a == b == study.home:
                measure_auroc(folds[a], folds[b].setting, reader)
    for a, b in permutations(folds, 2):
        if why := study.unseen(home.cell.behaviour, a, b):
            for at in (_moved(reader, folds[a], arm) for reader in fitted[a] for arm in ARMS):
                if at.level not in ("prior", "baseline"):
                    home.cell.missing(folds[b].setting, at, "too_few_rows", f"domain '{a}': {why}")
            continue
        here, moving = of_as_many_rows(a, n_fit[b])
        there, direct = of_as_many_rows(b, n_fit[a])
        note = "" if here is folds[a] and there is folds[b] else AS_MANY
        _move(here, there, moving, {ReaderName.of(reader): reader for reader in direct}, note)


def _of_as_many_rows(
    fold: Fold, fewer: int, readers: Sequence[Reader], levels: Sequence[Level]
) -> tuple[Fold, Sequence[Reader]]:
    """The readers, fitted anew on fewer groups where the other domain has fewer fit rows, and few of them.

    Else T would tell how many rows either domain has: a reader of few coordinates' worth of rows is still learning.
    """
    n = len(fold.setting.split.fit)
    if fewer * ALIKE >= n or fewer >= MANY_PER_COORDINATE * fold.site.d:
        return fold, readers
    setting = thinned(fold.setting, fewer / n, fold.study.seeds.data)
    if setting is None:
        return fold, readers
    thin = replace(fold, setting=setting, site=fold.study.site(setting, fold.x))
    return thin, [reader for level in levels for reader in _fitted(thin, level)]


def _fitted_at_home(home: Fold, readers: Sequence[Reader], levels: Sequence[Level]) -> list[Reader]:
    """The asked levels: those that were read already, and the others fitted now."""
    names = {level.name for level in levels}
    out = [reader for reader in readers if reader.level in names]
    read_already = {reader.level for reader in out if not reader.source.startswith(SOURCE_PREFIXES)}
    for level in levels:
        if level.name not in read_already:
            out += fit_level(home.site, level, home.study.read.ks)
    return out


def _fitted(fold: Fold, level: Level) -> Iterator[Reader]:
    """A level's readers; a user's own directions are of the level `directions`."""
    yield from fit_level(fold.site, level, fold.study.read.ks)
    if level.family == "directions":
        yield from fold.given()


def _read_there(fold: Fold, levels: Sequence[Level]) -> list[Reader]:
    """The asked levels fitted and read in another domain, on whole texts and without spans."""
    out = []
    for level in (Level("prior"), Level("baseline"), *levels):
        for reader in _fitted(fold, level):
            fold.cell.score(fold.setting, reader, Said.by(reader, fold.test), fold.fitted)
            out.append(reader)
    for control, gone in fold.without.at(fold.setting):
        measure_deleted(fold, control, gone, out)
    return out


def _read_on_few(
    folds: Sequence[Fold], domain: str, fitted: Mapping[str, Sequence[Reader]], levels: Sequence[Level], why: str
) -> None:
    """A domain with too few rows to fit: T is NA, and what was fitted elsewhere is read beside its own floor."""
    cell = folds[0].cell
    for level in (Level("prior"), Level("baseline"), *levels):
        cell.untold(Coordinates(level.name, fit_domain=domain, test_domain=domain), "too_few_rows", why)
    try:
        there = folds[0].in_domain(domain)
    except (BadInput, FitError):
        there = None  # too few groups even for a floor
    for fold in folds:
        for reader in fitted[fold.setting.domain]:
            if reader.level in ("prior", "baseline"):
                continue
            to = replace(_moved(reader, fold, "raw"), test_domain=domain)
            cell.untold(to, "too_few_rows", f"domain '{domain}' has {why}")
            back = replace(to, fit_domain=domain, test_domain=fold.setting.domain)
            cell.untold(back, "too_few_rows", f"domain '{domain}' has {why}")
            if there is not None:
                logits = moved_logits(reader, fold.setting, there, fold.x, fold.study.observations, "test")
                said, note = Said.of(logits, there.test_law), "moved to where rows are too few to fit"
                cell.score(there, reader, said, fold.fitted, note=note, fit_domain=fold.setting.domain)


def _move(here: Fold, there: Fold, fitted: Sequence[Reader], direct: Mapping[ReaderName, Reader], note: str) -> None:
    """Readers of one domain on the test rows of another, beside those that were fitted there (`direct`)."""
    test, deleted = there.test, list(there.without.at(there.setting, here.setting))
    for reader in fitted:
        same = direct.get(ReaderName.of(reader))
        if same is None or reader.level in ("prior", "baseline"):
            continue
        best = bits_of(same.bits(test))
        raw = moved_logits(reader, here.setting, there.setting, here.x, here.study.observations, "test")
        thetas = _calibrations(reader, here, there)
        texts = {"": (raw, test.law, lambda bits: bits)} | {
            control: (gone.logits(reader), gone.sides["strong"].law, gone.missed) for control, gone in deleted
        }
        for control, (logits, law, missed) in texts.items():
            as_fitted = missed(bits_of(cross_entropy(logits, law)))
            for arm, theta in thetas.items():
                bits = as_fitted
                if theta is not None:
                    bits = missed(bits_of(cross_entropy(calibrate(logits, theta), law)))
                rows = (bits, best, *there.setting.ends())
                at = _moved(reader, here, arm, control)
                there.cell.put(there.setting, at, transfer, rows, raw=as_fitted, note=note)


def _calibrations(reader: Reader, here: Fold, there: Fold) -> dict[str, Float[Tensor, "t outcome1"] | None]:
    """By arm: as fitted, after a calibration on all fit rows of the other domain, and on a few of them.

    An arm whose calibration does not converge is NA and costs no other.
    """
    setting = there.setting
    logits = moved_logits(reader, here.setting, setting, here.x, here.study.observations, "fit")
    law = setting.law[..., torch.from_numpy(setting.split.fit)]
    few = np.random.default_rng([here.study.seeds.data, 8]).permutation(len(setting.split.fit))[:PLATT_LABELS]
    thetas: dict[str, Float[Tensor, "t outcome1"] | None] = {"raw": None}
    for arm, rows in (("refit", slice(None)), ("platt50", few)):
        try:
            thetas[arm] = fit_platt(logits[..., rows], law[..., rows])
        except FitError as error:
            there.cell.missing(setting, _moved(reader, here, arm), "not_converged", str(error))
    return thetas


def _moved(reader: Reader, here: Fold, arm: str, control: str = "") -> Coordinates:
    return Coordinates(
        reader.level, reader.source, reader.k, "transfer", arm, control, fit_domain=here.setting.domain,
        parameters=reader.parameters,
    )  # fmt: skip
