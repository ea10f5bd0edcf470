"""The study of beliefs: does a transformer run on what can be known of a hidden state, or on something cheaper?

Networks read tokens of hidden Markov processes whose exact beliefs are computed beside them. Of each network is asked
whether the rule "the next token's law is that of the belief" explains what it says; what of the belief can be read at
each layer, beside what the last tokens give away; and what is lost when the belief is put into another sequence's
stream. The same is asked of cheaper accounts, and of plants whose answer is known.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.jobs.engines import Progress
from probekit.metrics.bootstrap import Crossed
from probekit.metrics.causal.replace import kl_bits
from probekit.metrics.ratios import MIN_DENOMINATOR, too_little
from probekit.proofs.blocks import block_study
from probekit.proofs.studies.belief_edits import edited
from probekit.proofs.studies.belief_seen import (
    LOCAL,
    PLACES,
    PLANTS,
    BeliefCell,
    BeliefSize,
    Seen,
    outputs,
    read,
)
from probekit.proofs.studies.kept import Stored, listed
from probekit.testbeds.hmm import PROCESSES, stored_names


@dataclass(frozen=True)
class BeliefFindings(Stored):
    """What the page speaks of. ladder: bits that readers of the last k tokens lose, by process.

    rows: one per name of networks, measure (what), layer and arm, with value, an interval over networks, and bits.
    """

    networks: int
    rows: tuple[dict[str, Any], ...]
    ladder: tuple[dict[str, Any], ...]


def measure_belief(
    root: Path, size: BeliefSize | None = None, seed: int = 0, progress: Progress | None = None
) -> BeliefFindings:
    """Measure every network, those on their way and plants. The network is the unit of each interval.

    What is done lies in a folder below `root`: Interrupted on Ctrl-C, and the same call goes on.
    """
    size = size or BeliefSize()
    cells = [BeliefCell(name, i, size, seed) for name in (*stored_names(), *PLANTS) for i in range(size.networks)]
    spec = {"belief": 1, "size": asdict(size), "seed": seed}
    _, frame = block_study("belief", spec, cells, measure_cell, pooled, root=root, progress=progress)
    return BeliefFindings(size.networks, listed(frame), tuple(ladder(seed)))


def measure_cell(cell: BeliefCell) -> pd.DataFrame:
    """A row per measure of one network: what is missed and what there is, summed over its test rows."""
    seen = Seen.of(cell)
    told = [*outputs(seen), *read(seen), *edited(seen)]
    return pd.DataFrame([
        {"name": cell.name, "network": cell.network, "what": what, "layer": layer, "arm": arm,
         "missed": float(ratio.missed.mean()), "available": float(ratio.available.mean())}
        for what, layer, arm, ratio in told
    ])  # fmt: skip


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Networks of a name together: Student's t of the linearised ratio over networks, NA where there is too little."""
    out = []
    for place, mine in rows.groupby(["name", "what", "layer", "arm"], sort=False):
        missed, available = mine["missed"].to_numpy(), mine["available"].to_numpy()
        n = np.arange(len(mine))
        row = dict(zip(("name", "what", "layer", "arm"), place, strict=True)) | {"networks": len(mine)}
        row |= {"missed": round(float(missed.mean()), 5), "available": round(float(available.mean()), 5)}
        too_few = too_little(available, np.ones(len(mine))) if len(mine) > 1 else available[0] < MIN_DENOMINATOR
        if too_few:
            out.append(row | {"value": None, "low": None, "high": None, "na_reason": "small_denominator"})
            continue
        told = (missed.sum() / available.sum(), *Crossed.of(n, n).interval(missed, available))
        out.append(row | {k: round(float(v), 4) + 0.0 for k, v in zip(("value", "low", "high"), told, strict=True)}
                   | {"na_reason": ""})  # fmt: skip
    return pd.DataFrame(out)


def ladder(seed: int, n: int = 20_000) -> Iterator[dict[str, Any]]:
    """Bits above the exact law, behind the places read, of accounts that know less: by process."""
    for name, process in PROCESSES.items():
        tokens = process.draw(n, np.random.default_rng([seed, 72]))
        law, at = process.law(process.beliefs(tokens)), list(PLACES)
        row: dict[str, Any] = {"process": name, "entropy": _mean(-(law * np.log2(law)).sum(-1)[:, at])}
        row |= {f"last {k}": _mean(kl_bits(law, process.law(process.recent(tokens, k)))[:, at]) for k in range(6)}
        local = None if process.local is None else process.law_of(process.local(tokens))
        yield row | {LOCAL: None if local is None else _mean(kl_bits(law, local)[:, at])}


def _mean(values: NDArray) -> float:
    return round(float(values.mean()), 4)
