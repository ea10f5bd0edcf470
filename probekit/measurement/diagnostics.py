"""What fills `Record.metric` beside `read`: AUROC, the limit of many rows, code length, shares of nested classes.

Each step is of one fold; the collector pools them. Also what sites are compared by: selection bits and permutations.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, FitError, TooFewRows
from probekit.fit.readers import Reader, Side, Site, decompose, fit_level
from probekit.fit.readout import cross_entropy
from probekit.levels import Level
from probekit.measurement.collector import FALLS, Separation
from probekit.measurement.fold import Fold
from probekit.measurement.outcome import Coordinates, ReaderName
from probekit.measurement.setting import Setting, bits_of
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.classes import LEAST_ROWS
from probekit.metrics.ratios import Ratio, estimates, fbu, share
from probekit.metrics.rows import at_infinity, falling, nested_rows, online_blocks

NULL_ELEMENTS = 2**24  # logits held at once while activations are permuted
SELECT_EVERY = 5  # one group in five of what an online code has seen chooses its ridge


def keep_beside(fold: Fold, reader: Reader) -> None:
    """What is kept of a reader beside its loss: directions, selection loss, losses under permutation; its AUROC."""
    cell, setting = fold.cell, fold.setting
    if reader.directions is not None and reader.source != "pca" and setting.fold == 0:
        cell.keep_directions(reader)
    cell.keep_select(setting.fold, reader, float(reader.bits(fold.site.select).mean()))
    if fold.study.read.n_permutations and reader.level not in ("prior", "baseline"):
        rows, plan = fold.study.plan(setting)
        if len(plan):
            gains = permuted_gains(reader, setting.at(fold.x, setting.split.test[rows]), plan)
            cell.keep_null(setting.fold, reader, gains)
    if reader.source == "mean_difference":
        measure_auroc(fold, setting, reader)


def measure_auroc(fold: Fold, there: Setting, reader: Reader) -> None:
    """AUROC on the test rows of `there` of two directions of the fold, where the behaviour is surely one of two.

    The reader's, E[h (p - floor)], and the difference of class means: the same beside a floor that is the prior, and
    not beside one that knows more.
    """
    home, x = fold.setting, fold.x
    law = there.behaviour.law[there.rows("test")]
    if law.shape[1] != 2 or np.minimum(law[:, 0], law[:, 1]).max() > 1e-6 or np.ptp(law[:, 1]) == 0:
        return
    assert reader.directions is not None
    fit, test = home.side(x, "fit"), there.side(x, "test").x
    second = home.law[1, 0, torch.from_numpy(home.split.fit)]
    means = fit.x.T @ (second / second.sum() - (1 - second) / (1 - second).sum())
    for source, along, note in (
        (reader.source, reader.directions[:, 0], "along E[h (p - floor)]"),
        ("class_means", means, "along the difference of class means"),
    ):
        # Directions of folds are scored together: in units of their own fit rows, and pointing to the second outcome.
        direction = along / along.norm().clamp_min(1e-12)  # of a site that says the same everywhere it has no length
        fitted = fit.x @ direction
        sign = 1.0 if float(((fitted - fitted.mean()) * second).mean()) >= 0 else -1.0
        score = sign * (test @ direction - fitted.mean()) / fitted.std().clamp_min(1e-12)
        at = Coordinates(reader.level, source, 1, "auroc", fit_domain=home.domain)
        rows = score.double().numpy(), (law[:, 1] > 0.5).astype(np.float64)
        fold.cell.put(there, at, Separation, rows, note=note)


def measure_falling(fold: Fold, readers: Sequence[Reader]) -> None:
    """How much `linear` still falls: fitted again on half of the groups, on the same test rows."""
    setting = fold.setting
    known = next((reader for reader in readers if reader.level == "linear"), None)
    try:
        half = fold.half() if known is not None else None
        if known is None or half is None:
            return
        found = next(fit_level(half, Level("linear"), ()))
    except FitError:
        return  # the value itself stands; only what is told beside it is missing
    rows = (bits_of(found.bits(fold.test)), bits_of(known.bits(fold.test)), *setting.ends())
    fold.cell.put(setting, Coordinates(known.level, known.source, metric=FALLS), falling, rows)


def measure_limit(fold: Fold) -> None:
    """`direction` and `linear` in the limit of many fit rows, from fits of three sizes."""
    study, setting, d = fold.study, fold.setting, fold.site.d
    for name in ("direction", "linear"):
        if name not in study.read.levels:
            continue
        try:
            sizes, found = fits_of_three_sizes(setting, fold.x, d, Level(name), study.seeds.probe, study.read.lambdas)
        except (FitError, BadInput) as error:
            reason = "too_few_rows" if isinstance(error, TooFewRows) else "not_defined"
            reason = "not_converged" if isinstance(error, FitError) else reason
            fold.cell.missing(setting, Coordinates(name, metric="extrapolated"), reason, str(error))
            continue
        for (level, source), bits in found.items():
            at = Coordinates(level, source, 1 if level == "direction" else None, "extrapolated")
            sized = np.repeat(sizes[:, None] / d, len(bits[0]), axis=1)
            fold.cell.put(setting, at, in_the_limit, (np.stack(bits), sized, *setting.ends()))


def in_the_limit(bits: NDArray, sizes: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """S_inf beside the floor and ceiling [n]: bits [3, n] of fits of sizes [3, n], in rows per coordinate.

    Sizes are the same for all rows of a fold, and their means over folds are what counts.
    """
    limit = at_infinity(bits, np.array([size.mean() for size in sizes]), 1)
    return Ratio(limit - ceiling, floor - ceiling, floor_bits=floor, ceiling_bits=ceiling, of_reader=False)


def measure_code_length(fold: Fold) -> None:
    """The online code of every level, in the first fold: all folds would send nearly the same rows."""
    study, setting, read = fold.study, fold.setting, fold.study.read
    if setting.fold:
        return
    for level in map(Level.parse, read.levels):
        if level.family in ("prior", "baseline", "nonlinear", "hypothesis"):
            continue
        k = max(read.simple_ks if level.family == "simple" else read.ks)
        rows, found = online_code(setting, fold.x, level, k, study.seeds.probe, read.lambdas, read.online_orders)
        clusters = Clusters.of(setting.group[rows], study.n_bootstrap, study.seeds.data)
        floor = bits_of(cross_entropy(*_floor_and_law(setting, rows)))
        ratios = [fbu(bits, floor, setting.ceiling[rows]) for bits in found.values()]
        for name, estimate in zip(found, estimates(ratios, clusters), strict=True):
            at = Coordinates(name.level, name.source, name.k, "code_length")
            fold.cell.add(setting, at, estimate, clusters, f"mean of {read.online_orders} orders")


def measure_shares(fold: Fold) -> None:
    """Decomposition: what each class takes as nested models go from the floor to the ceiling, in both orders."""
    read, setting = fold.study.read, fold.setting
    if setting.behaviour.is_value:
        at = Coordinates("absent", metric="decomposition", arm="linear_first")
        fold.cell.missing(setting, at, "not_defined", "shares of classes are told of laws, and this is a number")
        return
    try:
        found = decompose(fold.site, fold.test, read.decomposition_k, read.decomposition_simple)
    except FitError as error:
        at = Coordinates("absent", metric="decomposition", arm="linear_first")
        fold.cell.missing(setting, at, "not_converged", str(error))
        return
    floor, ceiling = setting.ends()
    for order, steps in found.items():
        before = floor
        for name, after in [*((name, bits_of(step)) for name, step in steps), ("absent", ceiling)]:
            level = f"simple:{read.decomposition_simple}" if name == "simple" else name
            k = {"direction": 1, "directions": read.decomposition_k, "simple": read.decomposition_k}.get(name)
            at = Coordinates(level, "", k, "decomposition", order)
            fold.cell.put(setting, at, share, (before, after, floor, ceiling))
            before = after


# ---------------------------------------------------------------------------------------------- what the steps ask for


def permuted_gains(reader: Reader, side: Side, plan: NDArray[np.int64]) -> NDArray[np.float64]:
    """-bits summed over rows, as observed and with activations moved between rows: [1 + n_permutations].

    The reader is frozen. Its logits are a part that follows the row (the floor's) and one that moves with the
    activations, so that no permutation needs a forward pass: plan [n_permutations, n] (`permutation_plan`).
    """
    own = reader.logits(side.x, torch.zeros_like(side.offset))
    fixed = reader.logits(side.x, side.offset) - own
    rows = max(1, NULL_ELEMENTS // own.numel())
    out = [cross_entropy(fixed + own, side.law).double().sum()[None]]
    for some in torch.from_numpy(plan).split(rows):
        moved = own[:, 0][:, some] + fixed  # [outcome, permutation, n]
        out.append(cross_entropy(moved, side.law.expand_as(moved)).double().sum(-1))
    return -torch.cat(out).cpu().numpy()


def fits_of_three_sizes(
    setting: Setting, x: Float[Tensor, "n d"], d: int, level: Level, seed: int, lambdas: Sequence[float]
) -> tuple[NDArray[np.int64], dict[tuple[str, str], list[NDArray[np.float64]]]]:
    """Test bits of a level fitted on a quarter, half and all of the fit rows: (sizes, {(level, source): three}).

    With the fewest rows allowed, 16 d, these are 4 d, 8 d and 16 d; more rows lie nearer to the limit. Raises
    TooFewRows where there are not enough.
    """
    fit = setting.split.fit
    most = max(16, len(fit) // d)
    subsets = nested_rows(setting.group[fit], d, seed, (most // 4, most // 2, most))
    test = setting.side(x, "test")
    select, calibrate = setting.side(x, "select"), setting.side(x, "calibrate")
    out: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for rows in subsets:
        site = Site.prepare([(setting.at(x, fit[rows]), select, calibrate)], seed, lambdas)[0]
        for reader in fit_level(site, level, ()):
            out.setdefault((reader.level, reader.source), []).append(bits_of(reader.bits(test)))
    return np.array([len(rows) for rows in subsets]), out


def online_code(
    setting: Setting, x: Float[Tensor, "n d"], level: Level, k: int, seed: int, lambdas: Sequence[float], orders: int
) -> tuple[NDArray[np.int64], dict[ReaderName, NDArray[np.float64]]]:
    """Prequential code of the behaviour beside the floor: (rows, {reader: bits of each row, mean of orders}).

    Voita and Titov (2020): each block of whole groups is coded by a reader fitted on the blocks before it. What cannot
    be fitted yet is coded by the floor. Training rows only.
    """
    rows = np.sort(np.concatenate([setting.split.fit, setting.split.select, setting.split.calibrate]))
    group = setting.group[rows]
    floor = bits_of(cross_entropy(*_floor_and_law(setting, rows)))
    total: dict[ReaderName, NDArray[np.float64]] = {}
    for order in range(orders):
        blocks = online_blocks(group, seed + order)
        coded: dict[ReaderName, NDArray[np.float64]] = {}
        for i in range(1, len(blocks)):
            seen = np.concatenate(blocks[:i])
            readers = _online_readers(setting, x, rows[seen], level, k, seed + order, lambdas)
            block = setting.at(x, rows[blocks[i]])
            for reader in readers:
                coded.setdefault(ReaderName.of(reader), floor.copy())[blocks[i]] = bits_of(reader.bits(block))
        for name, bits in coded.items():
            total[name] = total.get(name, np.zeros(len(rows))) + bits / orders
    return rows, total


def _online_readers(
    setting: Setting, x: Tensor, seen: NDArray, level: Level, k: int, seed: int, lambdas: Sequence[float]
) -> Iterator[Reader]:
    names, code = np.unique(setting.group[seen], return_inverse=True)
    chooses = (np.random.default_rng([seed, 15]).permutation(len(names)) % SELECT_EVERY == 0)[code]
    if not chooses.any() or (~chooses).sum() < LEAST_ROWS:  # as few as no class is read from
        return
    try:
        site = Site.prepare([(setting.at(x, seen[~chooses]), setting.at(x, seen[chooses]), None)], seed, lambdas)[0]
        yield from (reader for reader in fit_level(site, level, (k,)) if reader.source != "pca")
    except FitError:
        # Coded by the floor, as any block is that no reader could be fitted for.
        return


def _floor_and_law(setting: Setting, rows: NDArray) -> tuple[Tensor, Tensor]:
    at = torch.from_numpy(rows)
    return setting.floors["strong"][1][..., at], setting.law[..., at]
