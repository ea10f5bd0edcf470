"""What is asked of a reader beside its loss: chance, the limit of many rows, the length of its code, memorised types.

Functions of one setting and one site; `measurement` decides which are run and pools them over folds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.readers import Reader, Side, Site, fit_level
from probekit.fit.readout import cross_entropy
from probekit.levels import Level
from probekit.measurement.setting import Setting, bits_of, prepare_settings
from probekit.metrics.rows import effective_rows, icc, nested_rows, online_blocks
from probekit.task import Behaviour, Observations

NULL_ROWS = 20_000  # test rows of whole groups that permutations are drawn on
NULL_ELEMENTS = 2**24  # logits held at once while they are
ICC_COORDINATES = 32  # of the frame, largest variance first, behind the effective number of rows
SELECT_EVERY = 5  # one group in five of what an online code has seen chooses its ridge


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
        moved = own[:, 0][:, some] + fixed  # [k, permutation, n]
        out.append(cross_entropy(moved, side.law.expand_as(moved)).double().sum(-1))
    return -torch.cat(out).cpu().numpy()


def whole_groups(group: NDArray, most: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most about `most` rows of whole groups, drawn at random; all rows when there are fewer."""
    if len(group) <= most:
        return np.arange(len(group))
    _, code, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 14]).permutation(len(counts))
    kept = order[: max(1, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))]
    return np.flatnonzero(np.isin(code, kept))


def effective_fit_rows(setting: Setting, site: Site) -> float:
    """Fit rows divided by the design effect of the score, 1 + (m - 1) icc(behaviour) icc(activation) (Moulton 1986).

    The intra-group correlations are means over outcomes, weighted by their spread, and over leading frame coordinates.
    """
    rows = setting.rows("fit")
    group = setting.group[setting.split.fit]
    if len(np.unique(group)) == len(group):
        return float(len(rows))
    law = setting.behaviour.law[rows].astype(np.float64)
    weight = law.var(0)
    behaviour = np.average([max(0.0, icc(column, group)) for column in law.T], weights=weight + 1e-12)
    z = site.rows[0].z[:, :ICC_COORDINATES].double().cpu().numpy()
    activation = np.mean([max(0.0, icc(column, group)) for column in z.T])
    return effective_rows(group, float(behaviour * activation))


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
        site = Site.prepare(setting.at(x, fit[rows]), select, seed, lambdas, calibrate)
        for reader in fit_level(site, level, ()):
            out.setdefault((reader.level, reader.source), []).append(bits_of(reader.bits(test)))
    return np.array([len(rows) for rows in subsets]), out


def online_code(
    setting: Setting, x: Float[Tensor, "n d"], level: Level, k: int, seed: int, lambdas: Sequence[float], orders: int
) -> tuple[NDArray[np.int64], dict[tuple[str, str, int | None], NDArray[np.float64]]]:
    """Prequential code of the behaviour beside the floor: (rows, {reader: bits of each row, mean of orders}).

    Voita and Titov (2020): each block of whole groups is coded by a reader fitted on the blocks before it. What cannot
    be fitted yet (fewer than 2 d rows) is coded by the floor. Training rows only.
    """
    rows = np.sort(np.concatenate([setting.split.fit, setting.split.select, setting.split.calibrate]))
    group = setting.group[rows]
    floor = bits_of(cross_entropy(*_floor_and_law(setting, rows)))
    total: dict[tuple[str, str, int | None], NDArray[np.float64]] = {}
    for order in range(orders):
        blocks = online_blocks(group, seed + order)
        coded: dict[tuple[str, str, int | None], NDArray[np.float64]] = {}
        for i in range(1, len(blocks)):
            seen = np.concatenate(blocks[:i])
            readers = _online_readers(setting, x, rows[seen], level, k, seed + order, lambdas)
            block = setting.at(x, rows[blocks[i]])
            for reader in readers:
                key = reader.level, reader.source, reader.k
                coded.setdefault(key, floor.copy())[blocks[i]] = bits_of(reader.bits(block))
        for key, bits in coded.items():
            total[key] = total.get(key, np.zeros(len(rows))) + bits / orders
    return rows, total


def _online_readers(
    setting: Setting, x: Tensor, seen: NDArray, level: Level, k: int, seed: int, lambdas: Sequence[float]
) -> Iterator[Reader]:
    names, code = np.unique(setting.group[seen], return_inverse=True)
    chooses = (np.random.default_rng([seed, 15]).permutation(len(names)) % SELECT_EVERY == 0)[code]
    if (~chooses).sum() < 2 * x.shape[1] or not chooses.any():
        return
    try:
        site = Site.prepare(setting.at(x, seen[~chooses]), setting.at(x, seen[chooses]), seed, lambdas)
        yield from (reader for reader in fit_level(site, level, (k,)) if reader.source != "pca")
    except FitError:
        # Coded by the floor, as any block is that no reader could be fitted for.
        return


def _floor_and_law(setting: Setting, rows: NDArray) -> tuple[Tensor, Tensor]:
    at = torch.from_numpy(rows)
    return setting.floors["strong"][1][..., at], setting.law[..., at]


def control_task(
    observations: Observations,
    behaviour: Behaviour,
    domain: str,
    seeds: tuple[int, int],
    folds: tuple[int, int],
) -> list[Setting]:
    """The same rows with a random label for each type, drawn from the behaviour's mean law (Hewitt and Liang 2019).

    Beside the floor `prior`: a floor that knows the type would leave nothing to memorise.
    """
    assert observations.types is not None
    at = observations.domain == domain
    law = behaviour.law[at].mean(0).astype(np.float64)
    names, code = np.unique(observations.types, return_inverse=True)
    drawn = np.random.default_rng([seeds[1], 16]).choice(len(law), size=len(names), p=law / law.sum())
    drawn[: len(law)] = np.arange(len(law))[: len(drawn)]  # no outcome without a type
    labels = np.eye(len(law), dtype=np.float32)[drawn[code]]
    bare = replace(observations, floor_inputs={})
    return prepare_settings(bare, replace(behaviour, law=labels), domain, ("strong",), seeds, folds)
