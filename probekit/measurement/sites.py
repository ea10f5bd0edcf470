"""What can only be said of all sites of a behaviour together: simultaneous bands, max-T, the site that was selected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.bands import best_site, max_t, simultaneous_band
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Estimate
from probekit.records import Losses, Record

SITE_COLUMNS = (
    "behaviour", "domain", "record", "hook", "level", "source", "k", "value", "low", "high", "band_low", "band_high",
    "p_max", "p_site", "select_bits", "chosen",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One record of a read cell with its group sums and the cell's tensors: select/<key> and null/<key> by fold."""

    hook: str
    record: Record
    losses: Losses
    tensors: Mapping[str, NDArray]

    @property
    def key(self) -> str:
        """Level, source and k: what a curve over sites has in common."""
        return f"{self.record.level}/{self.record.source}/{self.record.k}"


def across_sites(
    parts: Sequence[Site], clusters: Clusters, fold_of_group: NDArray
) -> tuple[list[dict], list[tuple[Record, list[str], Estimate]]]:
    """(a row for each record, (a record of the level, the hook of each fold, the estimate there) for each level).

    Bands and p-values are of one level over its sites; `p_max` has the family-wise error of all of them.
    """
    rows, best = [], []
    for key in dict.fromkeys(part.key for part in parts):
        mine = [part for part in parts if part.key == key]
        # What has no selection loss of its own (a stated hypothesis) is not searched over sites; a floor is at none.
        if mine[0].record.level in ("prior", "baseline") or any(f"select/{key}" not in part.tensors for part in mine):
            continue
        numerator = np.array([part.losses.numerator for part in mine])
        denominator = np.array([part.losses.denominator for part in mine])
        low, high = simultaneous_band(numerator, denominator, clusters.weights)
        p_max, p_site = _p_values(mine, key)
        select = np.stack([np.asarray(part.tensors[f"select/{key}"])[:, 0] for part in mine], axis=1)
        chosen, value, lowest, highest = best_site(select, numerator, denominator, fold_of_group, clusters.weights)
        for i, part in enumerate(mine):
            rows.append(
                {
                    "record": part.record.id, "hook": part.hook, "level": part.record.level,
                    "source": part.record.source, "k": part.record.k, "value": part.record.value,
                    "low": part.record.low, "high": part.record.high, "band_low": float(low[i]),
                    "band_high": float(high[i]), "p_max": p_max[i], "p_site": p_site[i],
                    "select_bits": float(select[:, i].mean()), "chosen": float((chosen == i).mean()),
                }
            )  # fmt: skip
        at = chosen[fold_of_group], np.arange(numerator.shape[1])
        first = mine[0].record
        estimate = Estimate(
            value, lowest, highest, None, first.floor_bits, first.ceiling_bits, None, None, first.n, first.groups,
            numerator=numerator[at], denominator=denominator[at],
        )  # fmt: skip
        best.append((first, [mine[int(i)].hook for i in chosen], estimate))
    return rows, best


def _p_values(mine: Sequence[Site], key: str) -> tuple[list[float | None], list[float | None]]:
    """Max-T over sites of the gain in bits; None where no permutations were asked for."""
    if any(f"null/{key}" not in part.tensors for part in mine):
        return [None] * len(mine), [None] * len(mine)
    gains = np.stack([np.asarray(part.tensors[f"null/{key}"]).sum(0) for part in mine], axis=1)
    adjusted, raw = max_t(gains[0], gains[1:])
    return adjusted.tolist(), raw.tolist()
