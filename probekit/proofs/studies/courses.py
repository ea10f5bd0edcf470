"""Courses: networks as they learn, and what can be fitted, kept and carried on at each step, on rows that all share.

A reader says what can be read of the right answer, whatever the network says. A description is kept in the network,
all else taken from other inputs, and is asked for what the network itself says. The floor of the right answer is one
and the same at every step; of the network's own answers each step has its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.measurement.across import Asked, SharedRows, Subject, frozen
from probekit.measurement.outcome import ReaderName
from probekit.measurement.setting import Setting, bits_of
from probekit.metrics.causal.replace import fbu_replace, match_donors, random_donors
from probekit.metrics.causal.training import TrainingCurve
from probekit.metrics.ratios import Ratio, fbu, transfer
from probekit.task import Behaviour, Observations

ANSWER, OWN = "answer", "own"  # behaviours: the right answer; what the network says
BEHAVIOUR, RULE, RANDOM, SITE = (
    "behaviour",
    "rule",
    "random",
    "all",
)  # beside levels of readers: SITE keeps the activation whole
N_DONORS = 16
TINY = 1e-12
Run = Callable[[NDArray[np.int64], Float[Tensor, "n m d"]], Float[Tensor, "n m outcome"]]


@dataclass(frozen=True)
class Snapshot:
    """A network at one step. x: activations by site, [n, d] each; law [n, outcome]: what it says.

    run: what it says of rows [n] with activations [n, m, d] at the site that is edited in place of its own.
    """

    x: Mapping[str, Float[Tensor, "n d"]]
    law: NDArray[np.float32]
    run: Run


@dataclass(frozen=True)
class Course:
    """One network as it learns. steps: of its snapshots, ascending; curve: its losses on such rows as are tested.

    seen: its rows, with the right ANSWER; rows: their split. asked: what is fitted at each site; edited: the site where
    activations are replaced. value [n, k]: what the stated rule says of each row, on which donors are matched, or None,
    where the directions of its decoders are kept instead.
    """

    kind: str
    network: int
    steps: tuple[int, ...]
    curve: TrainingCurve
    seen: Observations
    rows: SharedRows
    asked: Mapping[str, Asked]
    edited: str
    value: NDArray[np.float64] | None
    at: Callable[[int], Snapshot]

    @cached_property
    def setting(self) -> Setting:
        """Floor and ceiling of the right answer."""
        return self.rows.setting(self.seen, ANSWER, self.seed)

    @property
    def seed(self) -> int:
        """That of fits and draws."""
        return self.asked[self.edited].seed

    @property
    def group(self) -> NDArray[np.int64]:
        """Of each test row."""
        return self.setting.group[self.setting.split.test]

    def stages(self) -> "Iterator[Stage]":
        """Every snapshot with what is fitted on it, in order."""
        return (Stage(self, step, self.at(step)) for step in self.steps)

    @cached_property
    def donors(self) -> Mapping[str, NDArray[np.int64]]:
        """Rows that stand in for each test row, [n_test, N_DONORS]: any, or such as the rule says the same of."""
        setting = self.setting
        pool, at = np.arange(len(self.seen)), setting.split.test
        group, pool_group = setting.group[at], setting.group[pool]
        drawn = {"any": random_donors(group, pool_group, N_DONORS, self.seed)}
        if self.value is not None:
            drawn[RULE] = match_donors(self.value[at], self.value[pool], group, pool_group, N_DONORS, self.seed)
        return drawn


@dataclass(frozen=True)
class Stage:
    """A course at one step."""

    course: Course
    step: int
    snapshot: Snapshot

    @cached_property
    def subjects(self) -> Mapping[str, Subject]:
        """What is fitted at each site, for the right answer."""
        course = self.course
        found = {s: Subject.on(course.setting, self.snapshot.x[s], course.seen, a) for s, a in course.asked.items()}
        return {
            site: replace(one, readers={key: reader for key, reader in one.readers.items() if key.source != "pca"})
            for site, one in found.items()
        }

    @cached_property
    def own(self) -> Setting:
        """Floor and ceiling of what the network itself says."""
        course = self.course
        outcomes = course.rows.pooling.before
        seen = replace(course.seen, behaviours={OWN: Behaviour(OWN, self.snapshot.law, outcomes)})
        return course.rows.setting(seen, OWN, course.seed)

    @property
    def test(self) -> NDArray[np.int64]:
        """Rows that are tested."""
        return self.course.setting.split.test

    @cached_property
    def right(self) -> NDArray[np.float64]:
        """What is right of each test row, [n_test, outcome]."""
        return self.course.seen.behaviours[ANSWER].law[self.test].astype(np.float64)

    def loss(self, law: NDArray[np.floating]) -> NDArray[np.float64]:
        """Bits that the right answer costs under laws [n_test, outcome], or [n_test, m, outcome]: then their mean."""
        bits = -np.einsum("n...o,no->n...", np.log2(np.maximum(law.astype(np.float64), TINY)), self.right)
        return bits if bits.ndim == 1 else bits.mean(1)

    @property
    def accuracy(self) -> float:
        """Share of test rows whose likeliest answer is right."""
        best = self.snapshot.law[self.test].argmax(1)
        return float((self.right[np.arange(len(best)), best] > 0).mean())

    # Read, used, carried on ------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Ratio]:
        """FBU of the right answer, by level: readers of this step's activations, and what the network itself says."""
        ends, told = self.course.setting.ends(), {}
        for one in self.subjects.values():
            told |= {
                named(key): fbu(bits_of(r.bits(one.setting.side(one.x, "test"))), *ends)
                for key, r in one.readers.items()
            }
            for mixture in one.mixtures.values():
                told[RULE] = fbu(mixture.bits(one.setting, one.x), *ends)
        return told | {BEHAVIOUR: fbu(self.loss(self.snapshot.law[self.test]), *ends)}

    def carried(self, last: "Stage") -> dict[str, Ratio | None]:
        """T of what is fitted here, frozen, on the same rows at the last step; coordinates are what they were."""
        told: dict[str, Ratio | None] = {}
        for site, one in self.subjects.items():
            there = last.subjects[site]
            for moved in frozen(one, there, there.x, "identity"):
                told[RULE if moved.name.k is None else named(moved.name)] = moved.ratio
        own, end = (self.loss(stage.snapshot.law[self.test]) for stage in (self, last))
        return told | {BEHAVIOUR: transfer(own, end, *self.course.setting.ends())}

    def used(self) -> dict[str, Ratio]:
        """FBU of what the network says with a description alone kept of an activation."""
        own, law = self.own, self.snapshot.law[self.test].astype(np.float64)
        pooled = self.course.rows.pooling.law
        return {
            name: fbu_replace(pooled(law), pooled(edited), *own.ends())[0] for name, edited in self.replaced().items()
        }

    def replaced(self, mean: bool = False) -> dict[str, NDArray[np.float64]]:
        """What the network says with a description alone kept, by level: [n_test, N_DONORS, outcome].

        mean: all else is what it is on average, [n_test, 1, outcome]; without RULE, which is a matter of donors.

        Of RANDOM as many random directions as `directions` has; of RULE the donors that the rule says the same of, or
        what its decoders look at.
        """
        said = {name: self.alone(basis, mean) for name, basis in self.bases()}
        if RULE in self.course.donors and not mean:
            x = self.snapshot.x[self.course.edited]
            said[RULE] = self._run(x[torch.from_numpy(self.course.donors[RULE])])
        return said

    def bases(self) -> Iterator[tuple[str, Float[Tensor, "d k"]]]:
        """Of every level where it looks, as orthonormal directions at the edited site."""
        one = self.subjects[self.course.edited]
        for key, reader in one.readers.items():
            if reader.directions is not None:
                yield named(key), _orthonormal(reader.directions)
                if key.level == "directions":
                    yield f"{RANDOM} {key.k}", self.drawn(reader.directions.shape[1])
        if self.course.value is None:
            for mixture in one.mixtures.values():
                found = [one.directions for one in mixture.decoders.values() if one is not None]
                yield RULE, _orthonormal(torch.cat(found, 1))

    def drawn(self, k: int) -> Float[Tensor, "d k"]:
        """As many random directions at the edited site."""
        shape = self.snapshot.x[self.course.edited].shape[1], k
        return _orthonormal(torch.from_numpy(np.random.default_rng([self.course.seed, 60]).standard_normal(shape)))

    def alone(self, basis: Float[Tensor, "d k"], mean: bool = False) -> NDArray[np.float64]:
        """What the network says with what lies along the basis alone kept, as `replaced` has it."""
        return self._run(self._kept(basis, mean))

    def _kept(self, basis: Float[Tensor, "d k"], mean: bool = False) -> Float[Tensor, "n m d"]:
        """Activations of test rows with all but what lies along the basis from donors, or as on average."""
        x = self.snapshot.x[self.course.edited].double()
        own, given = x[torch.from_numpy(self.test)][:, None], x[torch.from_numpy(self.course.donors["any"])]
        given = x.mean(0).expand(len(own), 1, -1) if mean else given
        return (given + (own - given) @ basis @ basis.T).float()

    def _run(self, x: Float[Tensor, "n m d"]) -> NDArray[np.float64]:
        return self.snapshot.run(self.test, x).double().numpy()

    def zeroed(self) -> NDArray[np.float64]:
        """What the network says with nothing at the edited site: [n_test, outcome]."""
        x = self.snapshot.x[self.course.edited]
        return self._run(torch.zeros(len(self.test), 1, x.shape[1]))[:, 0]


def named(reader: ReaderName) -> str:
    """`directions 8`: a level and its k."""
    return f"{reader.level} {reader.k}"


def _orthonormal(directions: Float[Tensor, "d k"]) -> Float[Tensor, "d r"]:
    """What they span."""
    left, size, _ = torch.linalg.svd(directions.double(), full_matrices=False)
    return left[:, size > 1e-6 * size.max()]
