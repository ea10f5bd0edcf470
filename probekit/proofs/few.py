"""Few rows: plants and noise read from fewer rows than coordinates, beside scikit-learn on the same splits.

A unit is a plant at a number of rows and coordinates with a seed; its rows go into a run folder, so that a stopped
study resumes. What is judged is said in docs/calibration.md; a value of few rows may be anything but too good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.inputs.arrays import as_activations
from probekit.jobs.engines import Progress
from probekit.measurement.cell import Measurement
from probekit.proofs.blocks import block_study, seed_blocks
from probekit.proofs.peers import peer_figures, usual_value
from probekit.records import digest
from probekit.spec import ReadSpec
from probekit.storage.runs import Run
from probekit.testbeds.ground_truth import CASES, draw, noise_sites
from probekit.testbeds.ground_truth.wide import widened

Array = NDArray[np.float64]
NOISE = "noise"
# Beside `linear`, the level that a plant's truth needs; and the numbers of directions of either.
PLANTS = {"P1": (), "P2": ("simple:quadratic",), "P4a": (), "P9": (), "P10": (), "P18": ("simple:quadratic",),
          "P19": (), NOISE: ()}  # fmt: skip
TRUTHS = {("P2", "simple:quadratic"): 1, ("P18", "simple:quadratic"): 2}
ROWS, WIDTHS = (200, 1_000, 4_000), (512, 4_096)
D_PLANT = 8  # coordinates that hold a plant; of P10, one fewer than it has types
ROWS_PER_TYPE = 10
N_NOISE_SITES = 3  # that the usual method may choose from
RARELY = 10  # of so many seeds one also has what costs minutes: the largest size, and scikit-learn up to another
LARGEST, LARGEST_PEER = 4_000 * 4_096, 200 * 4_096
PENALTIES = tuple(np.geomspace(1e2, 1e-4, 13).tolist())  # the peer's: most of the kit's, and those half-way
N_PERMUTATIONS = 99
SEEDS_PER_UNIT = 5
VERSION = 1

COVERED, SAME, ALPHA = 0.95, 1e-3, 0.05
READABLE = 0.9  # limit above which scores rank nothing but noise, so that no two methods rank alike
OFF_NOISE, OFF_PEER, OFF_PEER_AUROC, OFF_USUAL = 0.02, 0.01, 0.005, 0.2
FIGURES = ("limit", "value", "low", "high", "p", "peer", "peer_auroc", "usual")
COLUMNS = ("case", "level", "k", "d", "n", "seeds", "limit", "value", "low", "high", "below", "p", "peer", "peer_auroc",
           "usual", "passed", "why")  # fmt: skip


@dataclass(frozen=True)
class FewUnit:
    """Seeds of one plant at one size."""

    case: str
    n: int
    d: int
    seeds: tuple[int, ...]

    @property
    def id(self) -> str:
        """Name of the unit's line and table in the run folder."""
        return digest(["few", VERSION, self.case, self.n, self.d, list(self.seeds)])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.case} n {self.n} d {self.d}"


def few_study(
    seeds: int = 100, only: Sequence[str] = (), sizes: Sequence[int] = ROWS, widths: Sequence[int] = WIDTHS, *,
    root: Path | str = "runs", n_workers: int = 1, progress: Progress | None = None,
) -> tuple[Run, pd.DataFrame]:  # fmt: skip
    """Plants and noise at every number of rows and coordinates; returns the run folder and `judge_few` of its rows.

    only: of PLANTS, all when empty. Raises BadInput for an unknown plant or sizes that cannot be split; Interrupted on
    Ctrl-C, and the same call resumes.
    """
    for name in only:
        if name not in PLANTS:
            raise BadInput(f"'{name}' is not read from few rows: choose among {', '.join(PLANTS)}.")
    if seeds < 1 or not sizes or min(sizes) < 100 or not widths or min(widths) < max(sizes) // ROWS_PER_TYPE:
        least = max(sizes, default=0) // ROWS_PER_TYPE
        raise BadInput(
            f"a study of few rows needs one seed, 100 rows and {least} coordinates at least; found {seeds} seeds, rows "
            f"{list(sizes)} and coordinates {list(widths)}."
        )
    cases = list(dict.fromkeys(only)) or list(PLANTS)
    blocks = seed_blocks(seeds, SEEDS_PER_UNIT)
    planned = [FewUnit(case, n, d, some) for block in blocks for n in sorted(sizes) for d in widths
               if (some := block if n * d < LARGEST else _rare(block)) for case in cases]  # fmt: skip
    spec = {"few": VERSION, "cases": cases, "sizes": sorted(sizes), "widths": list(widths), "seeds": seeds}
    told = {"root": root, "n_workers": n_workers, "progress": progress}
    return block_study("few", spec, planned, _measure_unit, judge_few, **told)


def _rare(seeds: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(seed for seed in seeds if seed % RARELY == 0)


def _measure_unit(unit: FewUnit) -> pd.DataFrame:
    return pd.DataFrame([row for seed in unit.seeds for row in read_few(unit.case, unit.n, unit.d, seed)])


def read_few(case: str, n: int, d: int, seed: int) -> list[dict[str, Any]]:
    """One row per level: its limit and what was found; in a few seeds beside the peer and the usual method."""
    x, law, group, limits = _drawn(case, n, d, seed)
    read = ReadSpec(
        levels=tuple(level for level, _ in limits), ks=(1,), simple_ks=tuple({k for _, k in limits if k} or {1}),
        controls=(), decomposition=False, floors=("strong",), extrapolate=False, falls=False,
        n_permutations=N_PERMUTATIONS if case == NOISE else 0, outer_folds=5, inner_folds=3,
    )  # fmt: skip
    observations = as_activations(x, {"behaviour": law}, None, group, None, None)[1]
    study = Measurement(observations, read, seeds=(seed, seed, 0), n_bootstrap=1_000)
    outcome = study.read_cell("site", "behaviour", torch.from_numpy(x), None)
    p = {row.level: row.p_max for row in study.selected("behaviour", {"site": outcome})[1]} if case == NOISE else {}
    certain = bool((law.max(1) == 1).all())
    asked = bool(_rare((seed,))) and n * d <= LARGEST_PEER and certain
    rows = []
    for record in outcome.records:
        at = record.level, record.k if record.level.startswith("simple:") else None
        if record.metric != "read" or at not in limits:
            continue
        row = {
            "case": case, "level": at[0], "k": at[1] or 0, "n": n, "d": d, "seed": seed, "limit": limits[at],
            "value": record.value, "low": record.low, "high": record.high, "p": p.get(record.level),
            "peer": None, "peer_auroc": None, "usual": None,
        }  # fmt: skip
        if asked and record.level == "linear" and record.value is not None:
            label, scale = law.argmax(1), record.floor_bits or 1.0
            bits, area = peer_figures(x, label, study.splits(study.home), PENALTIES)
            row["peer"] = bits / scale - record.value
            row["peer_auroc"] = None if area is None or record.auroc is None else area - record.auroc
            noise = [np.random.default_rng([seed, 32, i]).standard_normal(x.shape, np.float32)
                     for i in range(N_NOISE_SITES)]  # fmt: skip
            row["usual"] = usual_value([x, *noise], label, seed)
        rows.append(row)
    return rows


def _drawn(case: str, n: int, d: int, seed: int) -> tuple[Any, Any, Any, dict[tuple[str, int | None], float]]:
    """(activations [n, d], law, group, the limit of each (level, k) in many rows)."""
    if case == NOISE:
        sites, label, group = noise_sites(1, n, 1, d, 0.0, seed)
        return sites[0], np.eye(2, dtype=np.float32)[label], group, {("linear", None): 1.0}
    narrow = n // ROWS_PER_TYPE - 1 if case == "P10" else D_PLANT
    planted = widened(draw(case, n, narrow, seed), d, seed)
    limits: dict[tuple[str, int | None], float] = {}
    for level in ("linear", *PLANTS[case]):
        k = TRUTHS.get((case, level))
        truth = next(t for t in CASES[case].truths if t.metric == "read" and t.level == level and t.k == k
                     and t.kind != "na" and not t.control)  # fmt: skip
        limit = truth.value(planted.parameters)
        assert limit is not None
        limits[level, k] = float(limit)
    return planted.activations, planted.law, planted.group, limits


def judge_few(rows: pd.DataFrame) -> pd.DataFrame:
    """What was read, by plant, level and size: means over seeds, and whether they are accepted.

    Accepted: the limit lies below the upper limit in 95 % of seeds (`below`); the mean value falls with n but for two
    standard errors; noise is within .02 of 1 and its p-value at most .05 in no more than 5 % of seeds + 2 SE (`p`);
    scikit-learn's value is in the mean at most .01 off (`peer`) and, where there is something to rank, its AUROC .005.
    A last row says how far the usual method is off at its worst.
    """
    cells: dict[tuple, dict[int, list[dict]]] = {}
    for row in rows.to_dict("records"):
        cells.setdefault((row["case"], row["level"], row["k"], row["d"]), {}).setdefault(row["n"], []).append(row)
    out = []
    for (case, level, k, d), sizes in cells.items():
        before = None
        for n, cell in sorted(sizes.items()):
            figures = {name: np.array([row[name] for row in cell], dtype=float) for name in FIGURES}
            at = {"case": case, "level": level, "k": k, "d": d, "n": n, "seeds": len(cell)}
            out.append(at | _judged(figures, before, is_noise=case == NOISE))
            before = figures["value"]
    return pd.DataFrame([*out, *_usual(rows.to_dict("records"))], columns=list(COLUMNS))


def _usual(rows: Sequence[dict]) -> list[dict[str, Any]]:
    """The row of the usual method, where it was asked: how far it is off at its worst."""
    asked = [row for row in rows if row["usual"] is not None and np.isfinite(row["usual"])]
    if not asked:
        return []
    worst = max(asked, key=lambda row: abs(row["usual"] - row["limit"]))
    off = abs(worst["usual"] - worst["limit"])
    told = {name: worst[name] for name in ("case", "k", "d", "n", "limit", "usual")}
    why = "" if off >= OFF_USUAL else f"off by {off:.2f} only: this shows nothing"
    return [told | {"level": "usual", "seeds": len({row["seed"] for row in asked}), "passed": not why, "why": why}]


def _judged(cell: dict[str, Array], before: Array | None, is_noise: bool) -> dict[str, Any]:
    """One row: figures of each seed [n_seeds], and the values of the same level with fewer rows."""
    value, n = cell["value"], len(cell["value"])
    if absent := int(np.isnan(value).sum()):
        return {"passed": False, "why": f"NA in {absent} of {n}"}
    below = float((cell["limit"] <= cell["high"] + SAME).mean())
    p = None if np.isnan(cell["p"]).all() else float((cell["p"] <= ALPHA).mean())
    peer, peer_auroc, usual = (_mean(cell[name]) for name in ("peer", "peer_auroc", "usual"))
    allowed = ALPHA + 2 * float(np.sqrt(ALPHA * (1 - ALPHA) / n))
    ranked = cell["limit"][0] < READABLE
    wrong = {
        f"the limit is below the upper limit in {below:.0%}": below < COVERED,
        f"noise is {value.mean():.3f}": is_noise and abs(value.mean() - 1) > OFF_NOISE,
        f"p at most {ALPHA} in {p or 0.0:.0%}, allowed {allowed:.0%}": p is not None and p > allowed,
        f"value rises from {0.0 if before is None else before.mean():.3f} with more rows": _rises(before, value),
        f"scikit-learn is off by {peer or 0.0:.3f}": abs(peer or 0.0) > OFF_PEER,
        f"scikit-learn's AUROC is off by {peer_auroc or 0.0:.4f}": ranked and abs(peer_auroc or 0.0) > OFF_PEER_AUROC,
    }
    why = "; ".join(said for said, is_so in wrong.items() if is_so)
    means = {name: float(cell[name].mean()) for name in ("limit", "value", "low", "high")}
    beside = {"below": below, "p": p, "peer": peer, "peer_auroc": peer_auroc, "usual": usual}
    return means | beside | {"passed": not why, "why": why}


def _mean(values: Array) -> float | None:
    """Over the seeds that have one."""
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _rises(few: Array | None, many: Array) -> bool:
    """Whether the mean is higher with many rows than with few, beyond two standard errors of the difference."""
    if few is None:
        return False
    error = np.sqrt(sum(values.var(ddof=1) / len(values) if len(values) > 1 else 0.0 for values in (few, many)))
    return bool(many.mean() - few.mean() > 2 * error + SAME)
