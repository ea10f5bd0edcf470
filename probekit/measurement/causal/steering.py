"""Steering: a direction is added at the edited tokens, in several doses, and what the answer does is measured.

Beside each direction stand random ones of the same length, and what the same dose does to texts of something else.
Where the behaviour is what the model writes, the dose stays on while it writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.continuation import written_law
from probekit.measurement.causal.cases import ROUNDING, Cases
from probekit.measurement.causal.replacement import Replacement
from probekit.measurement.outcome import Coordinates, Outcome
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.steering import moved, moved_share, target_of, wrong_way
from probekit.metrics.ratios import Ratio, estimates
from probekit.model.branching import At, Edit, EditedTexts
from probekit.model.generation import WhileWriting, writer_of
from probekit.model.interventions import Abstraction
from probekit.records import Record
from probekit.task import BehaviourSpec

# What a truth, a sentiment or a name has nothing to do with. Only where the model has a tokenizer.
UNRELATED = (
    "The train leaves at seven and stops in every village along the river.",
    "She opened the window, and the smell of fresh bread filled the room.",
    "To make the sauce, chop two onions and let them turn brown in butter.",
    "The committee will meet again on Thursday to look at the remaining plans.",
    "Rain fell on the tin roof all night long, and nobody slept.",
    "Please leave your shoes at the door and take a number from the machine.",
    "The second chapter describes how the bridge was built and who paid for it.",
    "A small dog ran across the field and disappeared between the trees.",
    "He counted the coins twice, put them back in the jar and sighed.",
    "Our offices are closed during the holidays and open again in January.",
    "The lamp on the table had a green shade and a long brass chain.",
    "After the storm the beach was covered with wood, rope and broken shells.",
    "You can borrow up to five books at a time and keep them for a month.",
    "The old clock in the hall has been ten minutes late for years.",
    "They painted the kitchen yellow because the morning light is weak there.",
    "Water the plants in the evening, when the sun is behind the house.",
)


@dataclass(frozen=True)
class Dosed:
    """A unit direction [d] at one hook point, how much of it a dose is, and which outcome it is to raise."""

    abstraction: Abstraction
    unit: Float[Tensor, " d"]
    size: float
    target: int


class Steering:
    """Steering cells of what can be replaced: the same cases, the same sites."""

    def __init__(self, replacement: Replacement, doses: Sequence[float], written: bool = True) -> None:
        """written: of what a model writes, whether each of its tokens has the dose, too."""
        self.replacement, self.doses, self.written = replacement, np.array(doses, dtype=np.float64), written
        self.model, self.study = replacement.model, replacement.study

    def cell(self, behaviour: str, domain: str, hook: str, abstractions: Sequence[Abstraction]) -> Outcome:
        """What each single direction does at one hook point: records of metric `steer`, an arm for each dose.

        `effect`: bits by which the log-odds of its outcome rise, or `share`, of what is written, by how much the share
        of its outcome does; `wrong`: share of examples that move against the dose; `unrelated`: KL in bits of the next
        token after texts of something else.
        """
        outcome = Outcome()
        if self.study.unmeasurable(behaviour, domain):
            return outcome
        setting, cases = self.replacement.cases(behaviour, domain)
        writes = next((b for b in self.replacement.task.behaviours if b.name == behaviour and b.generation), None)
        single = [a for a in abstractions if a.k == 1 and not a.control and not a.level.startswith("hypothesis:")]
        found = [(a, self._dosed(a, hook, cases, writes is not None)) for a in single]
        for a in (a for a, one in found if one is None):
            outcome.records += self._undosed(a, "share" if writes else "effect", behaviour, hook, domain)
        dosed = [(one, control) for _, one in found if one is not None for control in ("", "random_directions")]
        edits = [self._edit(one, len(cases.rows), bool(control)) for one, control in dosed]
        if writes is None:
            steered = self.replacement.run_edits(behaviour, setting, cases, hook, edits, len(self.doses))
        else:
            steered = [setting.pooling.law(self._writing(writes, cases, hook, edit)) for edit in edits]
        elsewhere = self._moved_elsewhere(hook, dosed)
        for i, ((one, control), laws) in enumerate(zip(dosed, steered, strict=True)):
            name, rise = ("effect", moved) if writes is None else ("share", moved_share)
            effect = rise(cases.law, laws, one.target)
            told = {name: (effect, cases.clusters), "wrong": (wrong_way(effect, self.doses), cases.clusters)}
            if elsewhere:
                told["unrelated"] = elsewhere[i], Clusters.of(np.arange(len(UNRELATED)), self.study.n_bootstrap, 0)
            note = f"raises {setting.behaviour.outcomes[one.target]}; a dose is {one.size:.3g}"
            for name, (values, clusters) in told.items():
                ratios = [Ratio(column, np.ones(len(values))) for column in values.T]
                for dose, estimate in zip(self.doses, estimates(ratios, clusters), strict=True):
                    at = Coordinates(
                        one.abstraction.level, one.abstraction.source, 1, "steer", f"{name}:{dose:+g}", control,
                        behaviour=behaviour, hook=hook, fit_domain=self.study.home, test_domain=domain,
                    )  # fmt: skip
                    outcome.add(self.study.record(at, estimate, note), estimate, clusters)
        return outcome

    def _writing(
        self, behaviour: BehaviourSpec, cases: Cases, hook: str, edit: Edit
    ) -> Float64[np.ndarray, "n dose outcome"]:
        """The law of what is written behind each case under each dose. A row's draws are those that it had unedited."""
        model, n = self.model, len(self.doses)
        case, dose = np.repeat(np.arange(len(cases.rows)), n), np.tile(np.arange(n), len(cases.rows))
        first, table = cases.texts.first, _edited(cases.texts)

        def edited(batch: NDArray[np.int64]) -> WhileWriting:
            text, branch = torch.from_numpy(case[batch]), torch.from_numpy(dose[batch])

            def dosed(act: Tensor, at: At) -> Tensor:
                mine = text[at.text]
                new = edit(act, At(mine, branch[at.text], at.place))
                if self.written:
                    return new
                here = table[mine, at.place.clamp_max(table.shape[1] - 1)]
                return torch.where(here.to(act.device)[:, None], new, act)

            return WhileWriting({hook: dosed}, first[case[batch]])

        assert behaviour.generation is not None
        law = written_law(
            model, self.replacement.task, behaviour.generation, cases.rows.last[case], backend=writer_of(model, [hook]),
            edited=edited, hooks=[hook],
        )  # fmt: skip
        return law.astype(np.float64).reshape(len(cases.rows), n, -1)

    def _undosed(self, a: Abstraction, name: str, behaviour: str, hook: str, domain: str) -> list[Record]:
        """NA for every dose of a direction that does not vary."""
        asked = (
            Coordinates(a.level, a.source, 1, "steer", f"{name}:{dose:+g}", "", behaviour=behaviour, hook=hook,
                        fit_domain=self.study.home, test_domain=domain)
            for dose in self.doses
        )  # fmt: skip
        why = "activations do not vary along it, so that there is no dose of it"
        return [self.study.record(*self.study.untold(at, "not_defined", why)) for at in asked]

    def _dosed(self, abstraction: Abstraction, hook: str, cases: Cases, counted: bool) -> Dosed | None:
        """A dose is a standard deviation of the readout over fit rows, of the sign that raises its outcome.

        counted: whether laws are shares of few texts, which have no log-odds at 0 and 1. None of a direction that does
        not vary there.
        """
        unit = abstraction.bases[hook][:, 0]
        readout = (self.replacement.site(hook)[torch.from_numpy(cases.pool.last)] @ unit).double().numpy()
        law = cases.pool_law
        target, sign = target_of(readout, (law + 1) / (1 + law.shape[1]) if counted else law)
        size = float(readout.std())
        # what a readout of float32 activations can differ by without meaning anything
        if not size > ROUNDING * float(self.replacement.site(hook).norm(dim=1).mean()):
            return None
        return Dosed(abstraction, sign * unit, size, target)

    def _edit(self, dosed: Dosed, n: int, random: bool) -> Edit:
        """Doses along the direction, or for every text along a random one."""
        doses = torch.from_numpy(self.doses * dosed.size)
        drawn = np.random.default_rng([self.study.seeds.probe, 35]).normal(size=(n, len(dosed.unit)))
        units = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))

        def edit(act: Tensor, at: At) -> Tensor:
            along = units[at.text] if random else dosed.unit.double()[None]
            return act + (doses[at.branch, None] * along).to(act)

        return edit

    def _unrelated(self) -> EditedTexts | None:
        if self.model.tokenizer is None:
            return None
        tokens = self.model.encoder.encode(list(UNRELATED), special=True).tokens
        last = np.array([len(ids) - 1 for ids in tokens])
        return EditedTexts(tokens, list(last[:, None]), last)

    def _moved_elsewhere(self, hook: str, dosed: Sequence[tuple[Dosed, str]]) -> list[NDArray[np.float64]]:
        """KL in bits of the next-token law after texts of something else, [n_texts, dose], the dose at the last token.

        Nothing where there is no tokenizer to write them with.
        """
        texts = self._unrelated()
        if texts is None:
            return []
        trunk = self.model.trunk(texts, [hook])
        before = trunk.logits({hook: lambda act, at: act})[:, 0].double().log_softmax(-1)
        out = []
        for one, control in dosed:
            edit, bits = self._edit(one, len(texts), bool(control)), np.empty((len(texts), len(self.doses)))
            for found in trunk.branch({hook: edit}, len(self.doses)):
                after, p = found.logits.double().cpu().log_softmax(-1), before[found.text]
                bits[found.text.numpy(), found.branch.numpy()] = (p.exp() * (p - after)).sum(-1).numpy() / np.log(2)
            out.append(bits)
        return out


def _edited(texts: EditedTexts) -> Bool[Tensor, "text place"]:
    """Whether each token from the first edited one of a text on is an edited one; none is behind the last of them."""
    back = [places - places[0] for places in texts.places]
    table = torch.zeros(len(texts), max(int(one[-1]) for one in back) + 2, dtype=torch.bool)
    for i, one in enumerate(back):
        table[i, torch.from_numpy(one)] = True
    return table
