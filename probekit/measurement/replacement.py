"""Replace: runs the model with only the abstraction kept at a token, the rest taken from donors.

An abstraction here is a subspace per hook point (directions of any source and level), or a hypothesis whose value
donors must share. The edit is installed at one site, or at all sites of the chain at once; in the chain each edit keeps
what the already edited network computed, so that errors compound as they would. metrics/replace.py has the formulas.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations
from probekit.errors import BadInput
from probekit.fit.directions import random_directions
from probekit.measurement.outcome import Coordinates, Kept, Outcome
from probekit.measurement.setting import Pooling, Setting
from probekit.measurement.study import Study
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import estimates
from probekit.metrics.replace import fbu_replace, match_donors, random_donors
from probekit.model.editing import Prefix
from probekit.model.interventions import Abstraction, keep_only, orthonormal
from probekit.model.model import Model
from probekit.spec import ReplaceSpec
from probekit.task import Task

ROUNDING = 1e-5  # of the activations' norm
POOL = 2_000  # donors are drawn from at most this many rows of the fit side


@dataclass(frozen=True)
class _Rows:
    """The rows that are run in one domain, their clusters, and the pool that donors come from (observation rows)."""

    rows: NDArray[np.int64]
    pool: NDArray[np.int64]
    group: NDArray
    pool_group: NDArray
    law: NDArray[np.float64]
    pooling: Pooling
    floor: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    clusters: Clusters


class Replacement:
    """Replace cells of one model and task, sharing rows, donors and prefixes."""

    def __init__(self, model: Model, task: Task, activations: Activations, study: Study, spec: ReplaceSpec) -> None:
        self.model, self.task, self.activations = model, task, activations
        self.study, self.spec = study, spec
        self._example, self._position = task.row_example, task.row_position
        self._sites: dict[str, Float[Tensor, "n d"]] = {}
        self._drawn: tuple[tuple[str, str], _Rows, list[tuple[NDArray[np.int64], Prefix]]] | None = None

    def cell(
        self, behaviour: str, domain: str, hooks: Sequence[str], name: str, abstractions: Sequence[Abstraction]
    ) -> Outcome:
        """All arms of the abstractions at `hooks` together (one hook: a single site). name: the hook of the records."""
        if behaviour not in self.activations.laws:
            raise BadInput(
                f"replace needs a behaviour of the model's own output; '{behaviour}' is a label of the data."
            )
        outcome = Outcome()
        if why := self.study.unmeasurable(behaviour, domain):
            return self._untold(behaviour, domain, name, abstractions, why)
        setting = self.study.setting(behaviour, domain)
        rows, prefixes = self._prepared(setting)
        where = "chain" if len(hooks) > 1 else "single"
        for abstraction in abstractions:
            for donors, arm in self._donors(abstraction, rows, hooks, where):
                edited = self._run(behaviour, rows, prefixes, hooks, abstraction, donors)
                ratios = fbu_replace(rows.law, edited, rows.floor, rows.ceiling)
                for estimate, kind in zip(estimates(ratios, rows.clusters), ("", ":pair"), strict=True):
                    at = Coordinates(
                        abstraction.level, abstraction.source, abstraction.k, "replace", arm + kind,
                        abstraction.control, behaviour=behaviour, hook=name, fit_domain=self.study.home,
                        test_domain=domain,
                    )  # fmt: skip
                    outcome.add(self.study.record(at, estimate), estimate, rows.clusters)
        return outcome

    def _untold(self, behaviour: str, domain: str, name: str, abstractions: Sequence[Abstraction], why: str) -> Outcome:
        """NA for every abstraction in every arm that is asked for at one hook point, or at all."""
        outcome = Outcome()
        arms = [arm for arm in self.spec.arms if arm.startswith("single" if name else "chain")]
        for abstraction, arm in product(abstractions, arms):
            at = Coordinates(
                abstraction.level, abstraction.source, abstraction.k, "replace", arm,
                abstraction.control, behaviour=behaviour, hook=name, fit_domain=self.study.home, test_domain=domain,
            )  # fmt: skip
            outcome.records.append(self.study.record(*self.study.untold(at, "too_few_rows", why)))
        return outcome

    def _site(self, hook: str) -> Float[Tensor, "n d"]:
        if hook not in self._sites:
            self._sites[hook] = self.activations.sites[hook].float()
        return self._sites[hook]

    def _prepared(self, setting: Setting) -> tuple[_Rows, list[tuple[NDArray[np.int64], Prefix]]]:
        """Rows of a setting and, per position, what comes before their last token, run once for all abstractions."""
        key = setting.behaviour.name, setting.domain
        if self._drawn is None or self._drawn[0] != key:
            rows = self._rows(setting)
            positions = self._position[rows.rows]
            prefixes = []
            for at in np.split(np.arange(len(rows.rows)), np.flatnonzero(np.diff(positions)) + 1):
                examples = self._example[rows.rows[at]]
                tokens = np.stack([self.task.tokens[i][: positions[at[0]] + 1] for i in examples])
                prefixes.append((at, self.model.prefix(torch.from_numpy(tokens))))
            self._drawn = key, rows, prefixes
        return self._drawn[1], self._drawn[2]

    def _rows(self, setting: Setting) -> _Rows:
        """Test rows to run (drawn once per domain) and the donor pool; the first token has no prefix to run."""
        generator = np.random.default_rng([self.study.seeds.data, 6])
        test = setting.split.test
        ordered = generator.permutation(len(test))[: self.spec.rows]
        # Rows of one position run together.
        picked = ordered[np.argsort(self._position[setting.index[test[ordered]]], kind="stable")]
        rows = setting.index[test[picked]]
        pool = setting.index[generator.permutation(setting.split.fit)[:POOL]]
        if len(rows) < 2 or len(pool) <= self.spec.donors:
            raise BadInput(f"domain '{setting.domain}' has {len(pool)} rows to draw {self.spec.donors} donors from.")
        observations = self.study.observations
        return _Rows(
            rows=rows,
            pool=pool,
            group=observations.group[rows],
            pool_group=observations.group[pool],
            law=setting.behaviour.law[rows].astype(np.float64),
            pooling=setting.pooling,
            floor=setting.floor_bits()[picked],
            ceiling=setting.test_ceiling[picked],
            clusters=Clusters.of(observations.group[rows], self.study.n_bootstrap, self.study.seeds.data),
        )

    def _donors(
        self, abstraction: Abstraction, rows: _Rows, hooks: Sequence[str], where: str
    ) -> Iterator[tuple[NDArray[np.int64], str]]:
        """(pool positions [n, donor], arm) for each asked arm; a hypothesis is only ever matched on its features."""
        for arm in self.spec.arms:
            edited, how = arm.split(":")
            if edited != where:
                continue
            if how == "random":
                if not abstraction.features:
                    yield random_donors(rows.group, rows.pool_group, self.spec.donors, self.study.seeds.data), arm
                continue
            values, pool = self._values(abstraction, rows, hooks)
            if values.shape[1]:
                seed, rounding = self.study.seeds.data, 0.0 if abstraction.features else self._rounding(hooks)
                donors = self.spec.donors
                yield match_donors(values, pool, rows.group, rows.pool_group, donors, seed, rounding), arm

    def _rounding(self, hooks: Sequence[str]) -> float:
        """What a readout of float32 activations can differ by without meaning anything."""
        return max(ROUNDING * float(self._site(hook).norm(dim=1).mean()) for hook in hooks)

    def _values(self, abstraction: Abstraction, rows: _Rows, hooks: Sequence[str]) -> tuple[NDArray, NDArray]:
        """The abstraction's value at rows and pool: readouts over all hooks, or the features' labels, one-hot."""
        if abstraction.features:
            parts = []
            for name in abstraction.features:
                feature = self.study.observations.features[name]
                one_hot = np.eye(len(feature.classes), dtype=np.float32)[feature.labels]
                # Classes that never occur would be divided by a zero spread.
                parts.append(one_hot.reshape(len(one_hot), -1))
            every = np.concatenate(parts, 1)
            return every[rows.rows], every[rows.pool]
        projected = [
            [(self._site(hook)[torch.from_numpy(at)] @ abstraction.bases[hook]).numpy() for hook in hooks]
            for at in (rows.rows, rows.pool)
        ]
        return np.concatenate(projected[0], 1), np.concatenate(projected[1], 1)

    def _run(
        self,
        behaviour: str,
        rows: _Rows,
        prefixes: Sequence[tuple[NDArray[np.int64], Prefix]],
        hooks: Sequence[str],
        abstraction: Abstraction,
        donors: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Laws of the edited network: [n, donor, outcome]."""
        law = self.activations.laws[behaviour]
        n_donors = donors.shape[1]
        out = []
        for at, prefix in prefixes:
            given = torch.from_numpy(rows.pool[donors[at]].ravel())
            edits = {hook: self._edit(hook, abstraction, given) for hook in hooks}
            logits = self.model.run_last(prefix, None, edits, n_repeat=n_donors)
            repeated = np.repeat(rows.rows[at], n_donors)
            edited = law(logits.float().cpu(), repeated).double().numpy().reshape(len(at), n_donors, -1)
            out.append(rows.pooling.law(edited))
        return np.concatenate(out)

    def _edit(self, hook: str, abstraction: Abstraction, given: Tensor):
        basis = abstraction.bases[hook]
        donor = self._site(hook)[given]

        def edit(act: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
            on = basis.to(act.device, act.dtype), donor.to(act.device, act.dtype)
            return on[1] if basis.shape[1] == 0 else keep_only(act, *on)

        return edit


def abstractions_at(
    hooks: Sequence[str],
    found: Mapping[str, Kept],
    sites: Mapping[str, int],
    spec: ReplaceSpec,
    frames: Mapping[str, Float[Tensor, "d r"]],
    seed: int,
) -> Iterator[Abstraction]:
    """The subspaces of a spec at the given hooks, from the directions that the read cells left behind.

    found: hook -> what its read cell kept; sites: hook -> d; frames: hook -> principal directions [d, r].
    With several hooks an abstraction is kept only where every hook has it.
    """
    empty = {hook: torch.zeros(sites[hook], 0) for hook in hooks}
    yield Abstraction("directions", "random", 0, empty, "random_directions")
    first = found[hooks[0]].directions
    for reader in first:
        level, source, k = reader
        if k is None or source not in ("behaviour", "joint", "beam"):
            continue
        # The largest rank that exists stands for every larger k that is asked.
        top = max(other.k or 0 for other in first if other[:2] == reader[:2])
        asked = level in spec.levels and (k in spec.ks or (k == top < max(spec.ks)))
        if asked and all(reader in found[hook].directions for hook in hooks):
            bases = {hook: orthonormal(torch.from_numpy(np.array(found[hook].directions[reader]))) for hook in hooks}
            yield Abstraction(level, source, k, bases)
    for k in spec.ks:
        if k < min(sites[hook] for hook in hooks):
            yield Abstraction("directions", "pca", k, {hook: orthonormal(frames[hook][:, :k]) for hook in hooks})
            draw = {hook: random_directions(sites[hook], k, seed + i) for i, hook in enumerate(hooks)}
            yield Abstraction("directions", "random", k, draw, "random_directions")
