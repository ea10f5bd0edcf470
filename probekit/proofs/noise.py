"""Noise study: how often the kit calls a site informative when no site knows anything.

A unit is a cell of the grid and ten seeds; its rows go into a run folder, so that a stopped study resumes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from probekit.errors import BadInput
from probekit.inputs.arrays import as_activations
from probekit.jobs.engines import Progress
from probekit.measurement.cell import Measurement
from probekit.proofs.blocks import block_study, seed_blocks
from probekit.records import digest
from probekit.spec import ReadSpec
from probekit.storage.runs import Run
from probekit.testbeds.ground_truth import noise_sites

SITES = (12, 48)
D, GROUP_ROWS = 16, 4  # coordinates, rows per group
N_PERMUTATIONS = 99
ALPHA = 0.05
SEEDS_PER_UNIT = 10
GRID = tuple((rows, icc) for rows in (2, 10, 20, 50) for icc in (0.1, 0.5))
LINEAR_FROM = 20  # fit rows per coordinate; below only the mean difference is read (docs/method.md section 7.5)
COLUMNS = ("rows_per_coordinate", "icc", "level", "sites", "seeds", "rate", "limit", "naive_rate", "passed")
VERSION = 1


@dataclass(frozen=True)
class NoiseUnit:
    """Seeds of one cell of the grid."""

    rows_per_coordinate: int
    icc: float
    seeds: tuple[int, ...]

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["noise", VERSION, self.rows_per_coordinate, self.icc, list(self.seeds)])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.rows_per_coordinate} rows per coordinate, icc {self.icc}"


def false_positives(
    rows_per_coordinate: int, icc: float, seeds: Sequence[int], sites: Sequence[int] = SITES
) -> Iterator[dict[str, Any]]:
    """On pure noise, whether any of the first `sites` sites is called informative: one row per seed.

    rows_per_coordinate: fit rows over coordinates. naive: the best site by its own p-value, without max-T.
    """
    level = "linear" if rows_per_coordinate >= LINEAR_FROM else "direction"
    n_groups = max(8, int(np.ceil(2 * rows_per_coordinate * D / GROUP_ROWS)))
    read = ReadSpec(
        levels=(level,), controls=(), decomposition=False, floors=("strong",), extrapolate=False,
        n_permutations=N_PERMUTATIONS, outer_folds=1, inner_folds=1, falls=False,
    )  # fmt: skip
    for seed in seeds:
        activations, behaviour, group = noise_sites(max(sites), n_groups, GROUP_ROWS, D, icc, seed)
        observations = as_activations(activations[0], behaviour, None, group, None, None)[1]
        measurement = Measurement(observations, read, seeds=(seed, seed, 0), n_bootstrap=200)
        outcomes = {
            f"site {i}": measurement.read_cell(f"site {i}", "behaviour", torch.from_numpy(x), None)
            for i, x in enumerate(activations)
        }
        row: dict[str, Any] = {"rows_per_coordinate": rows_per_coordinate, "icc": icc, "seed": seed, "level": level}
        for few in sites:
            some = dict(list(outcomes.items())[:few])
            table = measurement.selected("behaviour", some)[1]
            mine = [r for r in table if r.source in ("mean_difference", "behaviour")]
            row[f"any_of_{few}"] = min(r.p_max for r in mine if r.p_max is not None) <= ALPHA
            row[f"naive_{few}"] = min(r.p_site for r in mine if r.p_site is not None) <= ALPHA
        yield row


def noise_study(
    seeds: int = 200, *, root: Path | str = "runs", n_workers: int = 1, progress: Progress | None = None
) -> tuple[Run, pd.DataFrame]:
    """False positives over a grid of fit rows per coordinate and intra-group correlations, for 12 and 48 sites.

    rate: share of seeds in which any site is called informative; accepted up to 5 % + 2 SE. naive_rate: the same by the
    best site's own p-value. Raises BadInput for fewer than one seed; Interrupted on Ctrl-C, and the same call resumes.
    """
    if seeds < 1:
        raise BadInput(f"a study of false positives needs at least one seed; found {seeds}.")
    planned = [NoiseUnit(rows, icc, block) for block in seed_blocks(seeds, SEEDS_PER_UNIT) for rows, icc in GRID]
    spec = {"noise": VERSION, "grid": [list(cell) for cell in GRID], "seeds": seeds}
    told = {"root": root, "n_workers": n_workers, "progress": progress}
    return block_study("noise", spec, planned, _count_unit, _rates, **told)


def _count_unit(unit: NoiseUnit) -> pd.DataFrame:
    return pd.DataFrame(list(false_positives(unit.rows_per_coordinate, unit.icc, unit.seeds, SITES)))


def _rates(rows: pd.DataFrame) -> pd.DataFrame:
    cells: dict[tuple, list[dict]] = {}
    for row in rows.to_dict("records"):
        cells.setdefault((row["rows_per_coordinate"], row["icc"], row["level"]), []).append(row)
    out = []
    for where, cell in sorted(cells.items()):
        limit = ALPHA + 2 * float(np.sqrt(ALPHA * (1 - ALPHA) / len(cell)))
        for n_sites in SITES:
            rate, naive = (float(np.mean([row[f"{how}_{n_sites}"] for row in cell])) for how in ("any_of", "naive"))
            figures = (*where, n_sites, len(cell), rate, limit, naive, rate <= limit)
            out.append(dict(zip(COLUMNS, figures, strict=True)))
    return pd.DataFrame(out, columns=list(COLUMNS))
