"""What can only be said of all sites of a behaviour together: simultaneous bands, max-T, the site that was selected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from probekit.measurement.outcome import Coordinates, Kept, Outcome, ReaderName
from probekit.measurement.setting import Pool
from probekit.measurement.study import Study
from probekit.metrics.bands import best_site, max_t, simultaneous_band
from probekit.metrics.ratios import Estimate
from probekit.records import Losses, Record


@dataclass(frozen=True)
class SiteRow:
    """A row of the table `sites`: a record beside what is said of its reader's whole curve over hook points."""

    behaviour: str
    domain: str
    record: str
    hook: str
    level: str
    source: str
    k: int | None
    value: float | None
    low: float | None
    high: float | None
    band_low: float
    band_high: float
    p_max: float | None
    p_site: float | None
    select_bits: float
    chosen: float


SITE_COLUMNS = tuple(column.name for column in fields(SiteRow))


@dataclass(frozen=True)
class Candidate:
    """One reader at one hook point: its record with group sums, and what the cell kept of it.

    select [n_folds] is None where a reader has no selection loss of its own; null [n_folds, 1 + n_permutations].
    """

    record: Record
    losses: Losses
    select: NDArray | None
    null: NDArray | None


def across_sites(study: Study, behaviour: str, outcomes: Mapping[str, Outcome]) -> tuple[Outcome, list[SiteRow]]:
    """(records at the sites that were selected, rows of the table `sites`) of one behaviour.

    outcomes: hook -> read cell of this behaviour, or as much of it as a run kept. Bands and p-values are of one level
    over its sites; `p_max` has the family-wise error of all of them.
    """
    outcome, rows = Outcome(), list[SiteRow]()
    if behaviour in study.constant:
        return outcome, rows
    pool = study.pool(behaviour, study.home)
    for candidates in _curves(study, outcomes):
        # What has no selection loss of its own (a stated hypothesis) is not searched over sites; a floor is at none.
        reader = ReaderName.of(candidates[0].record)
        select = [candidate.select for candidate in candidates if candidate.select is not None]
        if reader.level in ("prior", "baseline") or len(select) < len(candidates):
            continue
        chosen, estimate, some = _read_curve(behaviour, candidates, np.stack(select, axis=1), pool)
        rows += some
        hooks = [candidates[int(i)].record.hook for i in chosen]
        hook = hooks[int(np.argmax([hooks.count(one) for one in hooks]))]
        folds = "" if len(set(hooks)) == 1 else f" of each fold: {', '.join(hooks)}"
        at = Coordinates(
            *reader, "selected", behaviour=behaviour, hook=hook, fit_domain=study.home, test_domain=study.home,
            parameters=candidates[0].record.parameters,
        )  # fmt: skip
        record = study.record(at, estimate, f"chosen on selection rows{folds}")
        outcome.add(record, estimate, pool.clusters)
    return outcome, rows


def _curves(study: Study, outcomes: Mapping[str, Outcome]) -> list[list[Candidate]]:
    """The hook points of each reader, of those that were read on whole texts beside the strong floor."""
    curves: dict[ReaderName, list[Candidate]] = {}
    for outcome in outcomes.values():
        assert isinstance(outcome.kept, Kept)
        for record, losses in outcome.with_losses():
            plain = record.metric == "read" and record.control == "" and record.floor == "strong"
            if plain and record.test_domain == study.home:
                name = ReaderName.of(record)
                kept = outcome.kept.select.get(name), outcome.kept.null.get(name)
                curves.setdefault(name, []).append(Candidate(record, losses, *kept))
    return list(curves.values())


def _read_curve(
    behaviour: str, candidates: Sequence[Candidate], select: NDArray, pool: Pool
) -> tuple[NDArray, Estimate, list[SiteRow]]:
    """(the site of each fold, the estimate there, a row for each site); select [n_folds, n_sites]."""
    weights = pool.clusters.weights
    numerator = np.array([candidate.losses.numerator for candidate in candidates])
    denominator = np.array([candidate.losses.denominator for candidate in candidates])
    low, high = simultaneous_band(numerator, denominator, weights)
    p_max, p_site = _p_values(candidates)
    chosen, value, lowest, highest = best_site(select, numerator, denominator, pool.fold_of_group, weights)
    rows = [
        SiteRow(
            behaviour=behaviour, domain=record.test_domain, record=record.id, hook=record.hook, level=record.level,
            source=record.source, k=record.k, value=record.value, low=record.low, high=record.high,
            band_low=float(low[i]), band_high=float(high[i]), p_max=p_max[i], p_site=p_site[i],
            select_bits=float(select[:, i].mean()), chosen=float((chosen == i).mean()),
        )
        for i, record in enumerate(candidate.record for candidate in candidates)
    ]  # fmt: skip
    at = chosen[pool.fold_of_group], np.arange(numerator.shape[1])
    first = candidates[0].record
    estimate = Estimate(
        value, lowest, highest, None, first.floor_bits, first.ceiling_bits, None, None, first.n, first.groups,
        numerator=numerator[at], denominator=denominator[at],
    )  # fmt: skip
    return chosen, estimate, rows


def _p_values(candidates: Sequence[Candidate]) -> tuple[list[float | None], list[float | None]]:
    """Max-T over sites of the gain in bits; None where no permutations were asked for."""
    null = [candidate.null for candidate in candidates if candidate.null is not None]
    if len(null) < len(candidates):
        return [None] * len(candidates), [None] * len(candidates)
    gains = np.stack([np.asarray(gain).sum(0) for gain in null], axis=1)
    adjusted, raw = max_t(gains[0], gains[1:])
    return adjusted.tolist(), raw.tolist()
