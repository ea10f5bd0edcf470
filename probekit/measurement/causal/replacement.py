"""Replace: runs the model with an abstraction kept or erased at some tokens, the rest or that part taken from donors.

An abstraction is a subspace per hook point (directions of any source and level), or a hypothesis whose value donors
must share. The edit is installed at one site, or at all sites of the chain at once; in the chain each edit keeps what
the already edited network computed, so that errors compound as they would. metrics/causal/replace.py has the formulas.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations
from probekit.activations.laws import AMONG_ANSWERS
from probekit.errors import BadInput
from probekit.fit.moments import Eraser, Moments
from probekit.measurement.causal.abstractions import nothing
from probekit.measurement.causal.cases import ROUNDING, CaseRows, Cases, Donors, Lately, RowsAt
from probekit.measurement.outcome import Coordinates, Outcome
from probekit.measurement.setting import Setting
from probekit.measurement.study import Study
from probekit.metrics.bootstrap import Clusters, Crossed
from probekit.metrics.causal.interchange import (
    Interchanged,
    interchange_leak,
    interchanged,
    odds_leak,
    refused_if_vacuous,
)
from probekit.metrics.causal.replace import fbu_mean, fbu_replace, kl_bits, necessity
from probekit.metrics.causal.support import illusion_gap
from probekit.metrics.causal.training import TrainingCurve, compute_equivalent
from probekit.metrics.ratios import Estimate, crossed_estimates, estimates
from probekit.model.branching import Edit
from probekit.model.interventions import Abstraction, interchange, keep_only, placebo, project
from probekit.model.model import Model
from probekit.spec import ReplaceSpec
from probekit.task import Task

ROLL_OUT, INTERCHANGED = "roll_out", "iia"
RANDOM, PLACEBO, READ = "random_directions", "placebo", "read"  # READ: what of a subspace is read where it stands
Change = Callable[[Tensor, Tensor, Tensor], Tensor]  # activation, basis, what it gets: [n, d], [d, k], [n, d] or [d]


@dataclass(frozen=True)
class Treatment:
    """One thing done to every case: a change at each hook point, with donors, or with the mean when None."""

    abstraction: Abstraction
    change: Change
    donors: Donors | None = None
    eraser: Eraser | None = None

    @property
    def run(self) -> tuple[int, ...]:
        """Equal where the same is done to the network."""
        return id(self.abstraction), id(self.change), id(self.donors), id(self.eraser)

    @property
    def n_branches(self) -> int:
        return 1 if self.donors is None else self.donors.n


class Replacement:
    """Replace cells of one model and task, sharing cases and donors.

    made: gives activations of texts that differ from an example in one field, for pairs of examples (whose text, whose
    field) [m, 2]; with it answers are interchanged with those, and not with any other text's. curves: of behaviours,
    the losses of the model's own checkpoints.
    """

    def __init__(
        self, model: Model, task: Task, activations: Activations, study: Study, spec: ReplaceSpec,
        made: Callable[[NDArray[np.int64]], Activations] | None = None,
        curves: Mapping[str, TrainingCurve] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.task, self.activations = model, task, activations
        self.study, self.spec, self.made, self.curves = study, spec, made, curves or {}
        self.site = RowsAt(activations)
        self.lately = Lately()
        self.fitted: Mapping[int, float] = {}  # of each rank that was learned last: accuracy on the pairs learned from
        self.exchanges: Mapping[tuple[str, int, str], Interchanged] = {}  # of the last cell: source, k, control

    def cell(
        self, behaviour: str, domain: str, hooks: Sequence[str], name: str, abstractions: Sequence[Abstraction],
        arms: Sequence[str] | None = None, twin: Mapping[int, Interchanged] | None = None,
    ) -> Outcome:  # fmt: skip
        """Arms of the abstractions at `hooks` together. name: the hook of the records; arms: all that the spec has.

        twin: of each rank what a subspace that was learned in a random network does there.
        """
        arms = arms_of(self.spec, len(hooks)) if arms is None else arms
        if behaviour not in self.activations.laws:
            raise BadInput(
                f"replace needs a behaviour of the model's own output; '{behaviour}' is a label of the data."
            )
        outcome = Outcome()
        if why := self.study.unmeasurable(behaviour, domain):
            return self._untold(behaviour, domain, name, abstractions, arms, why)
        setting, cases = self.cases(behaviour, domain)
        planned = [
            (a, arm, t) for a in abstractions for arm in arms if (t := self._treatment(behaviour, a, arm, cases, hooks))
        ]
        site = self._site_erased(behaviour, hooks, arms, cases)
        # what necessity and interchange are told from is one run
        alike = {t.run: t for t in [t for _, _, t in planned] + list(site.values())}
        made = dict(zip(alike, self._run(behaviour, setting, cases, hooks, list(alike.values())), strict=True))
        laws = Laws({key: made[t.run] for key, t in site.items()}, {
            a.k: made[t.run] for a, arm, t in planned if a.control == RANDOM and arm == INTERCHANGED}, {
            (a.source, a.k): made[t.run] for a, arm, t in planned if not a.control and arm == INTERCHANGED},
            twin or {})  # fmt: skip
        self.exchanges = laws.done
        for abstraction, arm, treatment in planned:
            donors = treatment.donors
            wanted = wanted_of(self.study, abstraction, setting, cases, donors) if arm == INTERCHANGED else None
            told = _ratios(arm, cases, made[treatment.run], laws, abstraction, wanted, donors)
            if behaviour in self.curves and arm.endswith((":random", ":matched")):
                lost = kl_bits(cases.law[:, None], made[treatment.run]).mean(1)
                found = compute_equivalent(self.curves[behaviour], lost, cases.clusters)
                told.append((found, (":compute", cases.clusters)))
            for estimate, (kind, clusters) in told:
                at = self.at(abstraction, arm + kind, behaviour, name, domain)
                outcome.add(self.study.record(at, estimate), estimate, clusters)
        return outcome

    def at(self, abstraction: Abstraction, arm: str, behaviour: str, hook: str, domain: str) -> Coordinates:
        return Coordinates(
            abstraction.level, abstraction.source, abstraction.k, "replace", arm,
            "" if abstraction.control == READ else abstraction.control,
            behaviour=behaviour, hook=hook, fit_domain=self.study.home, test_domain=domain,
        )  # fmt: skip

    def _untold(
        self, behaviour: str, domain: str, name: str, abstractions: Sequence[Abstraction], arms: Sequence[str], why: str
    ) -> Outcome:
        """NA for every abstraction in every arm."""
        outcome = Outcome()
        for abstraction, arm in product(abstractions, arms):
            at = self.at(abstraction, arm, behaviour, name, domain)
            outcome.records.append(self.study.record(*self.study.untold(at, "too_few_rows", why)))
        return outcome

    def cases(self, behaviour: str, domain: str) -> tuple[Setting, Cases]:
        """The first fold of a behaviour in a domain, and what is run of it."""
        setting = self.study.setting(behaviour, domain)
        return setting, self._cases(setting)

    def _cases(self, setting: Setting) -> Cases:
        made = partial(Cases.of, self.task, self.study, setting, self.spec.rows, self.spec.donors)
        return self.lately("cases", (setting.behaviour.name, setting.domain), made)

    # What is done -------------------------------------------------------------------------------------------------

    def _treatment(
        self, behaviour: str, a: Abstraction, arm: str, cases: Cases, hooks: Sequence[str]
    ) -> Treatment | None:
        """What an arm does with an abstraction; None where it means nothing for it."""
        kind, _, how = arm.partition(":")
        if a.control not in ("", RANDOM):  # what stands beside a learned subspace, which was learned for one arm
            change = swerved if a.control == PLACEBO else exchanged
            return Treatment(a, change, self.counterfactuals(behaviour, cases)) if kind == INTERCHANGED else None
        if a.rule is not None:  # one variable of a stated hypothesis
            return Treatment(a, exchanged, self._random(cases)) if kind == INTERCHANGED else None
        if a.features and how != "matched":
            return None  # a stated hypothesis names no part of an activation: donors agree on its features
        match kind, how:
            case ("single" | "chain" | "roll_out", "random" | ""):
                return Treatment(a, keep_only, self._random(cases))
            case "single" | "chain", "matched":
                donors = self._matched(a, cases, hooks)
                return None if donors is None else Treatment(a, keep_only, donors)
            case "single" | "chain", "mean":
                return Treatment(a, keep_only)
            case _, _ if a.is_empty:
                return None  # nothing is there to erase
            case "necessity", "resample":
                return Treatment(a, exchanged, self._random(cases))
            case "iia", "":
                return Treatment(a, exchanged, self.counterfactuals(behaviour, cases))
            case "necessity", "mean":
                return Treatment(a, exchanged)
            case "necessity", "leace":
                eraser = eraser_of(self.study, a, self.site(hooks[0]))
                return None if eraser is None else Treatment(a, keep_only, eraser=eraser)
        raise BadInput(f"no such arm of replace: '{arm}'.")

    def _site_erased(
        self, behaviour: str, hooks: Sequence[str], arms: Sequence[str], cases: Cases
    ) -> dict[str, Treatment]:
        """All of the site erased, by donors and by the mean, as far as necessity is asked for."""
        if not any(arm.startswith(("necessity", INTERCHANGED)) for arm in arms):
            return {}
        none = nothing(hooks, {hook: self.site(hook).shape[1] for hook in hooks})
        out = {"resample": Treatment(none, keep_only, self._random(cases)), "mean": Treatment(none, keep_only)}
        if INTERCHANGED in arms:
            out[INTERCHANGED] = Treatment(none, keep_only, self.counterfactuals(behaviour, cases))
        return out

    def _random(self, cases: Cases) -> Donors:
        """The same donors for every abstraction, so that they are compared on the same pairs."""
        return self.lately("donors", cases, lambda: cases.random(self.spec.donors, self._seed, self.site))

    def counterfactuals(self, behaviour: str, cases: Cases) -> Donors:
        """Who an answer is interchanged with: texts made for each case, or any donor."""
        if self.made is None:
            return self._random(cases)

        def made() -> Donors:
            drawn = cases.random(self.spec.swaps, self._seed + 1, self.site).index
            return self.made_of(behaviour, cases.rows, cases.pool.some(drawn.reshape(-1)), drawn.shape)

        return self.lately("counterfactuals", cases, made)

    def made_of(self, behaviour: str, rows: CaseRows, other: CaseRows, shape: tuple[int, ...]) -> Donors:
        """Texts of cases, each with the field of another one: other has as many for each case as `shape` says."""
        assert self.made is not None
        example = self.task.row_example
        found = self.made(np.stack([np.repeat(example[rows.last], shape[1]), example[other.last]], 1))
        seen = found.observations
        cases = CaseRows.of(np.arange(len(seen)), seen.example, seen.example, seen.position, other.group[seen.example])
        law = seen.behaviours[behaviour].law.astype(np.float64)
        pooled = self.study.pooling(behaviour).law(law)[cases.last]
        return Donors(np.arange(len(cases)).reshape(shape), cases, pooled, lambda hook: found.sites[hook].float())

    @property
    def _seed(self) -> int:
        return self.study.seeds.data

    def _matched(self, a: Abstraction, cases: Cases, hooks: Sequence[str]) -> Donors | None:
        """Donors with nearly the same value of the abstraction; None where it has none."""
        if a.is_empty:
            return None
        if a.features:
            return cases.matched(one_hot(self.study, a.features), self.spec.donors, self._seed, self.site)
        values = np.concatenate([(self.site(hook) @ a.bases[hook]).numpy() for hook in hooks], 1)
        # what a readout of float32 activations can differ by without meaning anything
        rounding = max(ROUNDING * float(self.site(hook).norm(dim=1).mean()) for hook in hooks)
        return cases.matched(values, self.spec.donors, self._seed, self.site, rounding)

    # What becomes of it -------------------------------------------------------------------------------------------

    def _run(
        self, behaviour: str, setting: Setting, cases: Cases, hooks: Sequence[str], treatments: Sequence[Treatment]
    ) -> list[NDArray[np.float64]]:
        """Laws of the edited network, of each treatment: [n, m, outcome]."""

        def edits(treatment: Treatment, batch: NDArray[np.int64]) -> dict[str, Edit]:
            return {hook: self._edit(hook, treatment, cases, batch) for hook in hooks}

        asked = [(t.n_branches, partial(edits, t)) for t in treatments]
        return self._laws(behaviour, setting, cases, hooks, asked)

    def run_edits(
        self, behaviour: str, setting: Setting, cases: Cases, hook: str, edits: Sequence[Edit], n_branches: int
    ) -> list[NDArray[np.float64]]:
        """Laws with each edit of every case, which is told the case as the text: [n, n_branches, outcome] each."""

        def of_batch(edit: Edit, batch: NDArray[np.int64]) -> dict[str, Edit]:
            return {hook: lambda act, at: edit(act, replace(at, text=torch.from_numpy(batch)[at.text]))}

        asked = [(n_branches, partial(of_batch, edit)) for edit in edits]
        return self._laws(behaviour, setting, cases, [hook], asked)

    def _laws(
        self, behaviour: str, setting: Setting, cases: Cases, hooks: Sequence[str],
        asked: Sequence[tuple[int, Callable[[NDArray[np.int64]], dict[str, Edit]]]],
    ) -> list[NDArray[np.float64]]:  # fmt: skip
        """asked: how many branches, and the edits of a batch of cases."""
        law, n_outcomes = self.activations.laws[behaviour], setting.behaviour.law.shape[1]
        wanted = self.answers(behaviour)
        out = [np.empty((len(cases.rows), n, n_outcomes)) for n, _ in asked]

        def run(batch: NDArray[np.int64]) -> None:
            trunk = self.model.trunk(cases.texts.some(batch), hooks, tokens=wanted)
            for laws, (n_branches, edits) in zip(out, asked, strict=True):
                for found in trunk.branch(edits(batch), n_branches):
                    case = batch[found.text.numpy()]
                    edited = law(found.logits.float().cpu(), cases.rows.last[case])
                    laws[case, found.branch.numpy()] = setting.pooling.law(edited.double().numpy())

        cases.each_batch(run)
        return out

    def answers(self, behaviour: str) -> Tensor | None:
        """The tokens that a law is among, where it looks at no others: late edits cost most in the unembedding."""
        spec = next((b for b in self.activations.behaviours if b.name == behaviour), None)
        if spec is None or spec.kind not in AMONG_ANSWERS:
            return None
        named = spec.tokens if spec.row_tokens is None else np.unique(spec.row_tokens).tolist()
        return None if named is None else torch.tensor(sorted(set(named)))

    def _edit(self, hook: str, treatment: Treatment, cases: Cases, batch: NDArray[np.int64]) -> Edit:
        if treatment.eraser is not None:
            eraser = treatment.eraser
            return lambda act, at: eraser(act)
        basis, donors = treatment.abstraction.bases[hook], treatment.donors
        if donors is None:
            mean = self.site(hook)[torch.from_numpy(cases.pool.last)].mean(0)
            return lambda act, at: treatment.change(act, basis.to(act), mean.expand(len(act), -1).to(act))
        theirs = donors.site(hook)
        return lambda act, at: treatment.change(act, basis.to(act), theirs[cases.given(donors, batch, at)].to(act))


def one_hot(study: Study, names: Sequence[str]) -> NDArray[np.float32]:
    """Labels of features at every row of the observations: [n, sum of classes and targets]."""
    parts = []
    for name in names:
        feature = study.observations.features[name]
        labels = np.eye(len(feature.classes), dtype=np.float32)[feature.labels]
        parts.append(labels.reshape(len(labels), -1))
    return np.concatenate(parts, 1)


def wanted_of(
    study: Study, a: Abstraction, setting: Setting, cases: Cases, donors: Donors | None
) -> NDArray[np.float64] | None:
    """What an interchange is to bring, [n, m, outcome]: the donor's law, or what the rule of a hypothesis says.

    Where a rule says nothing, the base's own law, which makes it no pair.
    """
    if donors is None or a.rule is None:
        return None if donors is None else donors.law[donors.index]
    base, given = np.repeat(cases.rows.last, donors.n), donors.rows.last[donors.index].reshape(-1)
    seen = study.observations.features
    law = a.rule({name: seen[name].labels[given if name == a.label else base] for name in a.variables})
    law = setting.pooling.law(np.asarray(law, dtype=np.float64)).reshape(*donors.index.shape, -1)
    return np.where(law.sum(2, keepdims=True) > 0, law, cases.law[:, None])


def eraser_of(study: Study, a: Abstraction, x: Float[Tensor, "n d"]) -> Eraser | None:
    """What takes away all that is linear in the label of the directions, from the fit rows; told once for a source."""
    seen = study.observations
    if not a.label or a.level != "directions" or a.k != 1:
        return None
    known = a.label if a.label in seen.behaviours else next(iter(seen.behaviours))
    rows = study.setting(known, study.home).rows("fit")
    concept = one_hot(study, [a.label]) if a.label in seen.features else seen.behaviours[a.label].law
    found = Moments.of(x[torch.from_numpy(rows)], torch.from_numpy(np.array(concept[rows]))).leace()
    return found if found.left.shape[1] else None


def arms_of(spec: ReplaceSpec, n_hooks: int) -> list[str]:
    """The arms that are asked of a single site, or of a chain."""
    at_one = [arm for arm in spec.arms if not arm.startswith("chain:") and arm != ROLL_OUT]
    return at_one if n_hooks == 1 else [arm for arm in spec.arms if arm.startswith("chain:")]


def exchanged(act: Float[Tensor, "n d"], basis: Float[Tensor, "d k"], given: Float[Tensor, "n d"]) -> Tensor:
    """The part within the subspace is that of what is given, a donor or the mean."""
    return interchange(act, given, basis)


def swerved(act: Float[Tensor, "n d"], both: Float[Tensor, "d k2"], given: Float[Tensor, "n d"]) -> Tensor:
    """As far moved as an exchange within the first half of `both` would, in directions of the other half."""
    own, other = both.chunk(2, dim=1)
    return placebo(act, exchanged(act, own, given), project(given - act, other))


@dataclass(frozen=True)
class Laws:
    """What an arm is compared with: all of the site from donors (`resample`) or at its mean, random directions of each
    k exchanged, and each source and k itself, [n, m, outcome] each. twin: of a k that was learned in a random network.

    done: what each exchange did, by source, k and control, filled as they are told.
    """

    site: Mapping[str, NDArray[np.float64]]
    random: Mapping[int, NDArray[np.float64]]
    own: Mapping[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    twin: Mapping[int, Interchanged] = field(default_factory=dict)
    done: dict[tuple[str, int, str], Interchanged] = field(default_factory=dict)


Told = tuple[Estimate, tuple[str, Clusters]]  # and what the arm's name ends in, and what group sums are over


def _ratios(
    arm: str, cases: Cases, laws: NDArray[np.float64], beside: Laws, a: Abstraction,
    wanted: NDArray[np.float64] | None, donors: Donors | None,
) -> list[Told]:  # fmt: skip
    """What an arm says, and where a mixture over donors is told, the mean over donors beside it."""
    kind, _, how = arm.partition(":")
    if kind == INTERCHANGED:
        if a.control == RANDOM or wanted is None or donors is None or a.k not in beside.random:
            return []
        return _interchanged(cases, laws, beside, a, wanted, donors)
    if kind == "necessity":
        told = {"": necessity(cases.law, laws, beside.site["resample" if how == "resample" else "mean"])}
    elif how == "mean":
        told = {"": fbu_mean(cases.law, laws[:, 0], cases.floor, cases.ceiling)}
    else:
        mixed, single = fbu_replace(cases.law, laws, cases.floor, cases.ceiling)
        told = {"": mixed} if arm == ROLL_OUT else {"": mixed, ":pair": single}
    return [
        (one, (kind, cases.clusters)) for one, kind in zip(estimates(told.values(), cases.clusters), told, strict=True)
    ]


def _interchanged(
    cases: Cases, laws: NDArray[np.float64], beside: Laws, a: Abstraction, wanted: NDArray[np.float64], donors: Donors
) -> list[Told]:
    """Whether the answer follows the donor's part, over pairs of which another answer than the case's is wanted."""
    base, source = np.repeat(cases.law, donors.n, 0), wanted.reshape(-1, laws.shape[2])
    mine, site, random, own = (
        interchanged(base, source, edited.reshape(len(base), -1))
        for edited in (laws, beside.site[INTERCHANGED], beside.random[a.k], beside.own.get((a.source, a.k), laws))
    )
    beside.done[a.source, a.k, a.control] = mine
    first = np.repeat(cases.rows.group, donors.n)[mine.at]
    second = donors.rows.group[donors.index].reshape(-1)[mine.at]
    if len(mine.at) < 2:
        why = f"{len(mine.at)} of {len(base)} pairs ask for another answer than the text's own: interchange needs two"
        none = Estimate.missing("small_denominator", why, len(base), len(cases.clusters.names))
        return [(none, (kind, cases.clusters)) for kind in ("", ":odds")]
    clusters = Clusters.of(first, len(cases.clusters.weights), 0)
    ratios = {"": interchange_leak(mine, site, random), ":odds": odds_leak(mine, site, random)}
    said = (
        f"IIA {mine.accuracy:.3f}, of all of the site {site.accuracy:.3f}, of random directions {random.accuracy:.3f}"
    )
    if a.control == READ:
        ratios, said = (
            {":illusion": illusion_gap(own, mine)},
            f"IIA {own.accuracy:.3f}, of what is read {mine.accuracy:.3f}",
        )
    found = crossed_estimates(ratios.values(), clusters, Crossed.of(first, second))
    if a.source == "das" and not a.control and a.k in beside.twin:
        found = [refused_if_vacuous(one, mine, beside.twin[a.k]) for one in found]
    return [(replace(one, note="; ".join(filter(None, (said, one.note)))), (kind, clusters))
            for one, kind in zip(found, ratios, strict=True)]  # fmt: skip
