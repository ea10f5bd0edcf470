"""Units: what a calibration measures, a case at a number of rows with a seed, and how wide its activations are."""

from collections.abc import Sequence
from dataclasses import dataclass

from probekit.records import digest
from probekit.testbeds.ground_truth import CASES, Case, Truth, find_case

SMALL, LARGE = 2_000, 20_000  # rows: intervals are judged at the first, values at the second


D, D_LARGE = 8, 9  # coordinates before nuisance; of cases that draw how many bits they plant, up to nine


HEAVY = ("nonlinear", "decomposition", "code_length")  # levels and metrics measured in one seed of ten, at SMALL only


VERSION = 2


@dataclass(frozen=True)
class Unit:
    """One measurement. heavy: with the levels that cost most; tier 2 units run a network."""

    case: str
    tier: int
    n: int
    seed: int
    heavy: bool

    @property
    def id(self) -> str:
        """Name of the unit's line in the run folder."""
        return digest(["calibrate", VERSION, self.case, self.tier, self.n, self.seed, self.heavy])

    @property
    def label(self) -> str:
        """What a progress line says."""
        return f"{self.case} n {self.n} seed {self.seed}"


def units(only: Sequence[str] = (), seeds: int = 100, sizes: Sequence[int] = (SMALL, LARGE)) -> list[Unit]:
    """What a calibration measures, first seeds first, so that a stopped one has some of everything."""
    cases = [find_case(name) for name in only] or [case for case in CASES.values() if not case.waits]
    out = []
    for seed in range(seeds):
        for case in cases:
            for n in sizes:
                heavy = seed % 10 == 0 and n == min(sizes)
                tiers = [tier for tier in case.tiers if any(t.tier == tier and not t.waits for t in case.truths)]
                out += [Unit(case.name, tier, n, seed, heavy) for tier in tiers if tier == 1 or n == min(sizes)]
    return out


def width_of(case: Case) -> int:
    return D if case.n_bits else D_LARGE


def is_heavy(truth: Truth) -> bool:
    return truth.level in HEAVY or truth.metric in HEAVY
