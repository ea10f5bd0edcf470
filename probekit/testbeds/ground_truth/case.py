"""Case: a plant, what is true of it, and whom it fools. Truth: one number that the case states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probekit.levels import Hypothesis
from probekit.records import ARMS, LEVEL_PREFIXES, LEVELS, METRICS

SEEN, UNSEEN = "seen", "unseen"
# Of the activations where the law is not one-hot: finite logits carry the noise into the law, at a cost in its square.
SOFT_NOISE = 0.05
Frame = Literal["rotated", "axes", "spread"]
Kind = Literal["zero", "one", "interior", "positive", "na"]


@dataclass(frozen=True)
class Parameters:
    """What was drawn for one seed; truths are functions of it.

    d: dimensions before n_nuisance more were added, whose values are Gaussian with standard deviation `nuisance`.
    gains: length of each planted direction. noise: standard deviation in every direction. label_noise: eta of the law
    (1 - 2 eta) one-hot + eta. setting: numbers that only this case has. rotation [width, width]: its first rows are the
    planted directions, its last n_nuisance rows the nuisance.
    """

    seed: int
    d: int
    gains: tuple[float, ...]
    noise: float
    rotation: NDArray[np.float64]
    label_noise: float = 0.0
    n_nuisance: int = 0
    nuisance: float = 0.0
    setting: Mapping[str, float] = field(default_factory=dict)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Of the activations around their plant: [width, width]."""
        loud = self.rotation[len(self.rotation) - self.n_nuisance :]
        return self.noise**2 * np.eye(len(self.rotation)) + self.nuisance**2 * loud.T @ loud


@dataclass(frozen=True)
class Planted:
    """Drawn data: activations [n, width], law [n, n_outcomes] (one-hot where deterministic), signs [n, n_bits].

    domain, group [n]; features: named labels [n, n_targets]; twin: activations of the random-init baseline; extra:
    arrays that only this case has.
    """

    activations: NDArray[np.float32]
    law: NDArray[np.float32]
    signs: NDArray[np.float64]
    parameters: Parameters
    domain: NDArray[np.str_]
    group: NDArray[np.int64]
    features: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    twin: NDArray[np.float32] | None = None
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def labels(self, seed: int = 0) -> NDArray[np.int64]:
        """One outcome per row, drawn from its law: [n]."""
        u = np.random.default_rng([seed, 23]).random((len(self.law), 1))
        return (u > self.law.cumsum(1, dtype=np.float64)[:, :-1]).sum(1)


@dataclass(frozen=True)
class Truth:
    """One number: the value that `metric` must find for a level (with k, arm, source, domains) on this plant.

    value: from the drawn parameters (a `Network` where something is replaced); None where NA is the right answer.
    kind: what is claimed when no label noise is drawn; `positive` claims only that the value is above 0. floor: the
    input-only reader that the value is relative to; `prior` where the input is the plant itself. control: of records.
    keep: name of the abstraction that is kept, for `replace`; for `compose` its directions are the parts.
    """

    metric: str
    level: str
    value: Callable[[Any], float | None]
    kind: Kind
    k: int | None = None
    arm: str = ""
    source: str = ""
    fit_domain: str = SEEN
    test_domain: str = SEEN
    floor: str = "prior"
    control: str = ""
    keep: str = ""

    @property
    def waits(self) -> str:
        """What the package cannot measure yet, as `metric`, `metric:arm` or `metric:level`; empty when it can."""
        if self.metric not in METRICS:
            return self.metric
        if self.arm not in ARMS:
            return f"{self.metric}:{self.arm}"
        return "" if self.level in LEVELS or self.level.startswith(LEVEL_PREFIXES) else f"{self.metric}:{self.level}"

    @property
    def tier(self) -> int:
        """2 for what needs a network to be run, 1 for arrays."""
        return 2 if self.keep else 1


@dataclass(frozen=True)
class Case:
    """A ground truth of docs/method.md section 6.

    naive: a usual method, computed from what was drawn -> (its name, its value on the truth's scale); it is off from
    `missed` by .2 or more. plant: parameters, generator, rows per domain, number of domains -> data. network: seed ->
    planted transformer. hypothesis: the one that a truth at a level `hypothesis:` is about. choices: values that each
    setting can take, the plain one first. noisy_labels, nuisance: whether label noise and further dimensions may be
    drawn. frame: planted directions rotated, along axes, or spread evenly over all coordinates. noise, gain: the case's
    own, where its truths need them. domains: the fewest that it makes sense with. parts: unit vectors [m, width] that
    are composed, the planted directions when None.
    """

    name: str
    planted: str
    fools: str
    truths: tuple[Truth, ...]
    naive: Callable[[Any], tuple[str, float]]
    missed: Truth
    plant: Callable[[Parameters, np.random.Generator, int, int], Planted] | None = None
    network: Callable[[int], Any] | None = None
    hypothesis: Callable[[Parameters], Hypothesis] | None = None
    n_bits: int = 1
    choices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    noisy_labels: bool = False
    nuisance: bool = True
    frame: Frame = "rotated"
    noise: float | None = None
    gain: float | None = None
    domains: int = 1
    parts: Callable[[Parameters], NDArray[np.float64]] | None = None

    @property
    def tiers(self) -> tuple[int, ...]:
        """1 where there are arrays to read, 2 where there is a network to edit."""
        return tuple(tier for tier, there in ((1, self.plant), (2, self.network)) if there)

    @property
    def waits(self) -> str:
        """What every truth of the case waits for; empty when at least one can be measured."""
        missing = [truth.waits for truth in self.truths]
        return missing[0] if all(missing) else ""
