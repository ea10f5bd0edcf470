"""Vacuity: what stands beside a subspace that was learned by exchange, lest its success be that of the search.

The same search in a randomly initialised network and for answers shuffled among the pairs, as large a move in random
directions, what of the subspace is read at all, and how far the exchange leads off support.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from probekit.errors import FitError
from probekit.fit.directions import random_directions
from probekit.measurement.causal.abstractions import random_at
from probekit.measurement.causal.cases import Cases
from probekit.measurement.causal.learned import learn, unlearned
from probekit.measurement.causal.replacement import INTERCHANGED, PLACEBO, READ, Replacement, exchanged
from probekit.measurement.outcome import Outcome
from probekit.measurement.setting import Setting
from probekit.metrics.causal.interchange import Interchanged
from probekit.metrics.causal.support import Support, support, within
from probekit.metrics.ratios import Estimate
from probekit.model.interventions import Abstraction
from probekit.records import Record

TWIN, SHUFFLED = "random_twin", "shuffled_counterfactuals"
OTHER = 101  # seeds between the random directions of an exchange and those of its placebo


class InTwin(Replacement):
    """The same cases in a randomly initialised network, whose own answers they then have."""

    def _cases(self, setting: Setting) -> Cases:
        cases = super()._cases(setting)

        def said() -> Cases:
            own = self.activations.observations.behaviours[setting.behaviour.name].law
            if own.shape[1] != len(setting.pooling.place):
                raise FitError("the random network's law has other outcomes")
            law = setting.pooling.law(own.astype(np.float64))
            return replace(cases, law=law[cases.rows.last], pool_law=law[cases.pool.last])

        return self.lately("said", cases, said)


@dataclass(frozen=True)
class Beside:
    """What a cell tells beside learned subspaces. abstractions: exchanged in the same cell. outcome: what was told
    elsewhere. twin: of each rank what a subspace that was learned in a random network does there."""

    abstractions: list[Abstraction] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    twin: dict[int, Interchanged] = field(default_factory=dict)


def beside_learned(
    replacement: Replacement, twin: InTwin | None, learned: Sequence[Abstraction], behaviour: str, domain: str,
    hook: str, seed: int,
) -> Beside:  # fmt: skip
    """What stands beside learned subspaces at one hook point. twin: None where there is none, or nobody asks."""
    out, asked = Beside(), replacement.spec.das_controls
    if not learned or INTERCHANGED not in replacement.spec.arms:
        return out
    for control in (name for name in (TWIN, SHUFFLED) if name in asked):
        place = replacement if control == SHUFFLED else twin
        if place is None:
            continue
        try:
            found = learn(place, behaviour, domain, hook, control == SHUFFLED)
        except FitError as error:
            out.outcome.records += unlearned(replacement, behaviour, domain, hook, INTERCHANGED, str(error), control)
            continue
        place.lately.forget("pairs")
        found = [replace(one, control=control) for one in found]
        if place is replacement:
            out.abstractions.extend(found)
        else:
            random = [random_at([hook], {hook: place.site(hook).shape[1]}, one.k, seed) for one in found]
            told = place.cell(behaviour, domain, [hook], hook, [*found, *random], [INTERCHANGED])
            out.outcome.records += told.records
            out.outcome.losses += told.losses
            out.twin.update({k: done for (_, k, of), done in place.exchanges.items() if of == control})
    for one in learned:
        basis = one.bases[hook]
        if PLACEBO in asked:
            both = torch.cat([basis, random_directions(len(basis), one.k, seed + OTHER)], 1)
            out.abstractions.append(replace(one, control=PLACEBO, bases={hook: both}))
        reads = None if replacement.model.plain is None else replacement.model.plain.read_in(hook)
        if reads is None:
            why = "everything is read there, or no one matrix reads it"
            at = replacement.at(one, "iia:illusion", behaviour, hook, domain)
            out.outcome.records.append(replacement.study.record(*replacement.study.untold(at, "not_defined", why)))
        else:
            read = torch.from_numpy(within(basis.numpy(), reads.float().cpu().numpy())).float()
            out.abstractions.append(replace(one, control=READ, bases={hook: read}))
    return out


def off_support(replacement: Replacement, one: Abstraction, behaviour: str, domain: str, hook: str) -> list[Record]:
    """How far exchanging a subspace leads from where activations of fit rows lie, and how much less it brings than on
    the pairs that it was learned from, in a cell that was just measured; no forward pass is needed."""
    _, cases = replacement.cases(behaviour, domain)
    donors, site, basis = replacement.counterfactuals(behaviour, cases), replacement.site(hook), one.bases[hook]
    base = site[torch.from_numpy(np.repeat(cases.rows.last, donors.n))]
    given = donors.site(hook)[torch.from_numpy(donors.rows.last[donors.index].reshape(-1))]
    reads = None if replacement.model.plain is None else replacement.model.plain.read_in(hook)
    natural = site[torch.from_numpy(cases.pool.last)]
    fitted, here = replacement.fitted.get(one.k), replacement.exchanges.get((one.source, one.k, ""))
    gap = None if fitted is None or here is None or not len(here.at) else fitted - here.accuracy
    found = support(natural.numpy(), base.numpy(), exchanged(base, basis, given).numpy(),
                    None if reads is None else reads.float().cpu().numpy(), gap)  # fmt: skip
    return [_told(replacement, one, behaviour, domain, hook, found, name, cases) for name in ("dormant", "far", "gap")
            if getattr(found, name) is not None]  # fmt: skip


def _told(
    replacement: Replacement, one: Abstraction, behaviour: str, domain: str, hook: str, found: Support, name: str,
    cases: Cases,
) -> Record:  # fmt: skip
    """A share as a record: a flag has no interval."""
    note = f"off support: {name}" if name in found.flags else ""
    share = replace(Estimate.missing("", note, len(cases.rows), len(cases.clusters.labels)), value=getattr(found, name))
    return replacement.study.record(replacement.at(one, f"iia:{name}", behaviour, hook, domain), share)
