"""Between: angles of the directions that read and those that were learned to mediate, beside chance, for each site."""

from collections.abc import Callable, Sequence

import pandas as pd

from probekit.jobs.cells import Cell
from probekit.measurement.outcome import Kept
from probekit.metrics.causal.angles import angles

COLUMNS = ("behaviour", "rule", "hook", "reads", "mediates", "degrees", "chance_degrees", "chance_low", "chance_high",
           "overlap", "p", "said")  # fmt: skip


def angles_between(cells: Sequence[Cell], kept_of: Callable[[Cell], Kept]) -> pd.DataFrame:
    """A row per site, per set of directions fitted to a behaviour or label, and per learned one.

    kept_of: what a cell left behind.
    """
    rows = []
    learned = {cell: kept_of(cell) for cell in cells if cell.kind == "replace"}
    wanted = {(cell.hooks[0], cell.place) for cell, found in learned.items() if found.directions}
    read = {(c.what, c.hooks[0], c.place): kept_of(c) for c in cells
            if c.kind == "read" and (c.hooks[0], c.place) in wanted}  # fmt: skip
    for cell, found in learned.items():
        for mediator, second in found.directions.items():
            for (behaviour, hook, rule), kept in read.items():
                if (hook, rule) != (cell.hooks[0], cell.place):
                    continue
                for name, first in kept.directions.items():
                    if name.level not in ("direction", "directions") or name.source in ("pca", "random"):
                        continue
                    told = angles(first, second, n_draws=500)
                    low, middle, high = told.chance_degrees[0]
                    rows.append((
                        cell.what, rule, hook, f"{behaviour}: {name.level} ({name.source}), k={name.k}",
                        f"{mediator.source}, k={mediator.k}", float(told.degrees[0]), float(middle), float(low),
                        float(high), told.overlap, told.p, str(told),
                    ))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))
