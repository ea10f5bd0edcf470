"""Replace: runs the model with an abstraction kept or erased at some tokens, the rest or that part taken from donors.

An abstraction is a subspace per hook point (directions of any source and level), or a hypothesis whose value donors
must share. The edit is installed at one site, or at all sites of the chain at once; in the chain each edit keeps what
the already edited network computed, so that errors compound as they would. metrics/replace.py has the formulas.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations
from probekit.errors import BadInput
from probekit.fit.erasure import Eraser, fit_eraser
from probekit.measurement.abstractions import nothing
from probekit.measurement.cases import ROUNDING, Cases
from probekit.measurement.outcome import Coordinates, Outcome
from probekit.measurement.setting import Setting
from probekit.measurement.study import Study
from probekit.metrics.ratios import Ratio, estimates
from probekit.metrics.replace import fbu_mean, fbu_replace, necessity
from probekit.model.branching import At, Edit
from probekit.model.interventions import Abstraction, interchange, keep_only
from probekit.model.model import Model
from probekit.spec import ReplaceSpec
from probekit.task import Task

ROLL_OUT = "roll_out"
Change = Callable[[Tensor, Tensor, Tensor], Tensor]  # activation, basis, what it gets: [n, d], [d, k], [n, d] or [d]


@dataclass(frozen=True)
class Treatment:
    """One thing done to every case: a change at each hook point, with donors [n, m], or with the mean when None."""

    abstraction: Abstraction
    change: Change
    donors: NDArray[np.int64] | None = None
    eraser: Eraser | None = None

    @property
    def n_branches(self) -> int:
        return 1 if self.donors is None else self.donors.shape[1]


class Replacement:
    """Replace cells of one model and task, sharing cases and donors."""

    def __init__(self, model: Model, task: Task, activations: Activations, study: Study, spec: ReplaceSpec) -> None:
        self.model, self.task, self.activations = model, task, activations
        self.study, self.spec = study, spec
        self._sites: dict[str, Float[Tensor, "n d"]] = {}
        self._drawn: tuple[tuple[str, str], Cases] | None = None

    def cell(
        self, behaviour: str, domain: str, hooks: Sequence[str], name: str, abstractions: Sequence[Abstraction],
        arms: Sequence[str] | None = None,
    ) -> Outcome:  # fmt: skip
        """Arms of the abstractions at `hooks` together. name: the hook of the records; arms: all that the spec has."""
        arms = arms_of(self.spec, len(hooks)) if arms is None else arms
        if behaviour not in self.activations.laws:
            raise BadInput(
                f"replace needs a behaviour of the model's own output; '{behaviour}' is a label of the data."
            )
        outcome = Outcome()
        if why := self.study.unmeasurable(behaviour, domain):
            return self._untold(behaviour, domain, name, abstractions, arms, why)
        setting = self.study.setting(behaviour, domain)
        cases = self._cases(setting)
        planned = [(a, arm, t) for a in abstractions for arm in arms if (t := self._treatment(a, arm, cases, hooks))]
        site = self._site_erased(hooks, arms, cases)
        done = self._run(behaviour, setting, cases, hooks, [t for _, _, t in planned] + list(site.values()))
        erased = dict(zip(site, done[len(planned) :], strict=True))
        for (abstraction, arm, _), laws in zip(planned, done, strict=False):
            told = _ratios(arm, cases, laws, erased)
            for estimate, kind in zip(estimates(told.values(), cases.clusters), told, strict=True):
                at = self._at(abstraction, arm + kind, behaviour, name, domain)
                outcome.add(self.study.record(at, estimate), estimate, cases.clusters)
        return outcome

    def _at(self, abstraction: Abstraction, arm: str, behaviour: str, hook: str, domain: str) -> Coordinates:
        return Coordinates(
            abstraction.level, abstraction.source, abstraction.k, "replace", arm, abstraction.control,
            behaviour=behaviour, hook=hook, fit_domain=self.study.home, test_domain=domain,
        )  # fmt: skip

    def _untold(
        self, behaviour: str, domain: str, name: str, abstractions: Sequence[Abstraction], arms: Sequence[str], why: str
    ) -> Outcome:
        """NA for every abstraction in every arm."""
        outcome = Outcome()
        for abstraction, arm in product(abstractions, arms):
            at = self._at(abstraction, arm, behaviour, name, domain)
            outcome.records.append(self.study.record(*self.study.untold(at, "too_few_rows", why)))
        return outcome

    def _site(self, hook: str) -> Float[Tensor, "n d"]:
        if hook not in self._sites:
            self._sites[hook] = self.activations.sites[hook].float()
        return self._sites[hook]

    def _cases(self, setting: Setting) -> Cases:
        key = setting.behaviour.name, setting.domain
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, Cases.of(self.task, self.study, setting, self.spec.rows, self.spec.donors)
        return self._drawn[1]

    # What is done -------------------------------------------------------------------------------------------------

    def _treatment(self, a: Abstraction, arm: str, cases: Cases, hooks: Sequence[str]) -> Treatment | None:
        """What an arm does with an abstraction; None where it means nothing for it."""
        kind, _, how = arm.partition(":")
        if a.features and how != "matched":
            return None  # a stated hypothesis names no part of an activation: donors agree on its features
        match kind, how:
            case ("single" | "chain" | "roll_out", "random" | ""):
                return Treatment(a, keep_only, cases.random(self.spec.donors, self._seed))
            case "single" | "chain", "matched":
                donors = self._matched(a, cases, hooks)
                return None if donors is None else Treatment(a, keep_only, donors)
            case "single" | "chain", "mean":
                return Treatment(a, keep_only)
            case _, _ if a.is_empty:
                return None  # nothing is there to erase
            case "necessity", "resample":
                return Treatment(a, exchanged, cases.random(self.spec.donors, self._seed))
            case "necessity", "mean":
                return Treatment(a, exchanged)
            case "necessity", "leace":
                eraser = self._eraser(a, hooks[0])
                return None if eraser is None else Treatment(a, keep_only, eraser=eraser)
        raise BadInput(f"no such arm of replace: '{arm}'.")

    def _site_erased(self, hooks: Sequence[str], arms: Sequence[str], cases: Cases) -> dict[str, Treatment]:
        """All of the site erased, by donors and by the mean, as far as necessity is asked for."""
        if not any(arm.startswith("necessity") for arm in arms):
            return {}
        none = nothing(hooks, {hook: self._site(hook).shape[1] for hook in hooks})
        drawn = cases.random(self.spec.donors, self._seed)
        return {"resample": Treatment(none, keep_only, drawn), "mean": Treatment(none, keep_only)}

    @property
    def _seed(self) -> int:
        return self.study.seeds.data

    def _matched(self, a: Abstraction, cases: Cases, hooks: Sequence[str]) -> NDArray[np.int64] | None:
        """Donors with nearly the same value of the abstraction; None where it has none."""
        if a.is_empty:
            return None
        if a.features:
            return cases.matched(self._labels(a.features), self.spec.donors, self._seed)
        values = np.concatenate([(self._site(hook) @ a.bases[hook]).numpy() for hook in hooks], 1)
        # what a readout of float32 activations can differ by without meaning anything
        rounding = max(ROUNDING * float(self._site(hook).norm(dim=1).mean()) for hook in hooks)
        return cases.matched(values, self.spec.donors, self._seed, rounding)

    def _labels(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Labels of features at every row, one-hot."""
        parts = []
        for name in names:
            feature = self.study.observations.features[name]
            one_hot = np.eye(len(feature.classes), dtype=np.float32)[feature.labels]
            parts.append(one_hot.reshape(len(one_hot), -1))
        return np.concatenate(parts, 1)

    def _eraser(self, a: Abstraction, hook: str) -> Eraser | None:
        """What takes away all that is linear in the label of the directions, from the fit rows; told once a source."""
        seen = self.study.observations
        if not a.label or a.level not in ("directions",) or a.k != 1:
            return None
        setting = self.study.setting(a.label if a.label in seen.behaviours else next(iter(seen.behaviours)),
                                     self.study.home)  # fmt: skip
        rows = setting.rows("fit")
        concept = self._labels([a.label]) if a.label in seen.features else seen.behaviours[a.label].law
        found = fit_eraser(self._site(hook)[torch.from_numpy(rows)], torch.from_numpy(np.array(concept[rows])))
        return found if found.k else None

    # What becomes of it -------------------------------------------------------------------------------------------

    def _run(
        self, behaviour: str, setting: Setting, cases: Cases, hooks: Sequence[str], treatments: Sequence[Treatment]
    ) -> list[NDArray[np.float64]]:
        """Laws of the edited network, of each treatment: [n, m, outcome]."""
        law, n_outcomes = self.activations.laws[behaviour], setting.behaviour.law.shape[1]
        out = [np.empty((len(cases.rows), t.n_branches, n_outcomes)) for t in treatments]
        for batch in cases.batches():
            trunk = self.model.trunk(cases.texts.some(batch), hooks)
            for laws, treatment in zip(out, treatments, strict=True):
                edits = {hook: self._edit(hook, treatment, cases, batch) for hook in hooks}
                for found in trunk.branch(edits, treatment.n_branches):
                    case = batch[found.text.numpy()]
                    edited = law(found.logits.float().cpu(), cases.rows.last[case])
                    laws[case, found.branch.numpy()] = setting.pooling.law(edited.double().numpy())
        return out

    def _edit(self, hook: str, treatment: Treatment, cases: Cases, batch: NDArray[np.int64]) -> Edit:
        basis, site = treatment.abstraction.bases[hook], self._site(hook)
        mean = site[torch.from_numpy(cases.pool.last)].mean(0)

        def edit(act: Float[Tensor, "n d"], at: At) -> Float[Tensor, "n d"]:
            if treatment.eraser is not None:
                return treatment.eraser(act)
            donors = treatment.donors
            given = mean.expand(len(act), -1) if donors is None else site[cases.given(donors, batch, at)]
            return treatment.change(act, basis.to(act), given.to(act))

        return edit


def arms_of(spec: ReplaceSpec, n_hooks: int) -> list[str]:
    """The arms that are asked of a single site, or of a chain."""
    at_one = [arm for arm in spec.arms if not arm.startswith("chain:") and arm != ROLL_OUT]
    return at_one if n_hooks == 1 else [arm for arm in spec.arms if arm.startswith("chain:")]


def exchanged(act: Float[Tensor, "n d"], basis: Float[Tensor, "d k"], given: Float[Tensor, "n d"]) -> Tensor:
    """The part within the subspace is that of what is given, a donor or the mean."""
    return interchange(act, given, basis)


def _ratios(arm: str, cases: Cases, laws: NDArray, erased: dict[str, NDArray]) -> dict[str, Ratio]:
    """What an arm says, and where a mixture over donors is told, the mean over donors beside it."""
    kind, _, how = arm.partition(":")
    if kind == "necessity":
        site = erased["resample" if how == "resample" else "mean"]
        return {"": necessity(cases.law, laws, site)}
    if how == "mean":
        return {"": fbu_mean(cases.law, laws[:, 0], cases.floor, cases.ceiling)}
    mixed, single = fbu_replace(cases.law, laws, cases.floor, cases.ceiling)
    return {"": mixed} if arm == ROLL_OUT else {"": mixed, ":pair": single}
