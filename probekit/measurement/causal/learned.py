"""Learned subspaces: those that bring a donor's answer when they are exchanged, found on fit rows (fit/das.py)."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import FitError
from probekit.fit.das import Das, fit_das, interchanged_laws
from probekit.measurement.causal.cases import CaseRows, Cases, Donors, texts_of
from probekit.measurement.causal.replacement import Replacement
from probekit.metrics.causal.replace import random_donors
from probekit.model.branching import Edit, Trunk
from probekit.model.interventions import Abstraction
from probekit.model.model import Model
from probekit.records import Record
from probekit.task import Task

LEARNED_ON = 256  # cases of the fit side
BATCH, STARTS = 64, 2  # pairs of a step, and searches side by side
PATIENCE = 3  # looks at the select pairs without a gain; a search that finds nothing is over long before its last step
AT_ONCE = 64  # texts whose keys and values are found together
TINY = 1e-12
Law = Callable[[Tensor, NDArray[np.int64]], Tensor]


class Pairs:
    """Cases of the fit side, each with a donor that answers otherwise, at one hook point.

    rows: the cases; donors: one of each. law: from logits [n, d_vocab] and the rows of the observations they are for
    to laws, through which gradients pass.
    """

    def __init__(
        self, model: Model, task: Task, rows: CaseRows, donors: Donors, hook: str, law: Law,
        tokens: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.donors, self.hook, self.law = rows, donors, hook, law
        texts = texts_of(task, rows)
        order = np.array_split(np.arange(len(rows)), max(1, len(rows) // AT_ONCE))
        self._trunks: list[tuple[NDArray[np.int64], Trunk]] = [
            (at, model.trunk(texts.some(at), [hook], True, tokens)) for at in order
        ]
        self._trunk_of = np.repeat(np.arange(len(order)), [len(at) for at in order])
        self._first = np.array([at[0] for at in order])

    def run(self, edited: Float[Tensor, "n d"], pairs: Int[Tensor, " n"]) -> Float[Tensor, "n outcome"]:
        """Logarithms of the laws of pairs whose activations at the hook point are `edited`."""
        out: list[Tensor] = []
        places: list[NDArray[np.int64]] = []
        asked = pairs.cpu().numpy()
        for i, (_, trunk) in enumerate(self._trunks):
            mine = np.flatnonzero(self._trunk_of[asked] == i)
            if not len(mine):
                continue
            text, branch = _several(asked[mine] - self._first[i])
            n_branches = int(branch.max()) + 1
            names, number = np.unique(text, return_inverse=True)
            where = np.full((len(names), n_branches), -1)
            where[number, branch] = mine
            values = edited[torch.from_numpy(np.maximum(where, 0))]
            edit: Edit = lambda act, at, values=values: values[at.text, at.branch].to(act)  # noqa: E731
            for found in trunk.some(torch.from_numpy(names)).branch({self.hook: edit}, n_branches):
                at = where[found.text.numpy(), found.branch.numpy()]
                real = np.flatnonzero(at >= 0)
                laws = self.law(found.logits[torch.from_numpy(real)].float(), self.rows.last[asked[at[real]]])
                out.append(laws)
                places.append(at[real])
        order = np.argsort(np.concatenate(places))
        return torch.cat(out)[torch.from_numpy(order)].clamp_min(TINY).log()

    def fit(
        self, site: Callable[[str], Tensor], k: int, seed: int, steps: int, shuffled: bool = False
    ) -> tuple[Das, float]:
        """(the subspace of rank k, the share of the pairs it was fitted on whose answer it brings).

        site: activations of the cases' own rows. shuffled: of what is wanted, among pairs. Raises FitError for too few.
        """
        groups = np.unique(self.rows.group)
        kept = np.random.default_rng([seed, 33]).permutation(groups)[: max(1, len(groups) // 4)]
        select = np.flatnonzero(np.isin(self.rows.group, kept))
        if len(groups) < 8 or len(select) < 4:
            raise FitError(
                f"{len(groups)} groups of fit rows have a donor that answers otherwise: too few to learn from."
            )
        base = site(self.hook)[torch.from_numpy(self.rows.last)]
        donors = self.donors.rows.last[self.donors.index[:, 0]]
        source = self.donors.site(self.hook)[torch.from_numpy(donors)]
        wanted = torch.from_numpy(self.donors.law[self.donors.index[:, 0]]).float()
        if shuffled:
            wanted = wanted[torch.from_numpy(np.random.default_rng([seed, 36]).permutation(len(wanted)))]
        found = fit_das(
            self.run, base, source, wanted, select=torch.from_numpy(select), k=k, seed=seed, steps=steps, batch=BATCH,
            n_starts=STARTS, patience=PATIENCE,
        )  # fmt: skip
        others = torch.from_numpy(np.setdiff1d(np.arange(len(base)), select))
        laws = interchanged_laws(self.run, found.basis, base, source, others, BATCH)
        return found, float((laws.argmax(1) == wanted[others].argmax(1)).float().mean())


def answering_otherwise(law: NDArray[np.float64], donors: Donors, seed: int) -> tuple[NDArray[np.int64], Donors]:
    """(cases that have a donor of another answer, that donor, drawn from theirs). law [n, outcome]: of the cases."""
    other = donors.law[donors.index].argmax(2) != law.argmax(1)[:, None]
    chance = np.random.default_rng([seed, 34]).random(other.shape)
    chosen = np.where(other, chance, -1.0).argmax(1)
    at = np.flatnonzero(other.any(1))
    return at, Donors(donors.index[at, chosen[at]][:, None], donors.rows, donors.law, donors.site)


def _several(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each number, and how many equal ones came before it."""
    order = np.argsort(numbers, kind="stable")
    sorted_ = numbers[order]
    start = np.concatenate([[0], np.flatnonzero(np.diff(sorted_)) + 1])
    before = np.arange(len(numbers)) - np.repeat(start, np.diff([*start, len(numbers)]))
    out = np.empty_like(before)
    out[order] = before
    return numbers, out


def learn(
    replacement: Replacement, behaviour: str, domain: str, hook: str, shuffled: bool = False
) -> list[Abstraction]:
    """Subspaces of the ranks of the spec at one hook point, from fit rows. Raises FitError.

    shuffled: see `Pairs.fit`.
    """
    spec, site = replacement.spec, replacement.site
    asked = [k for k in spec.das_ks if k < site(hook).shape[1]]
    if not asked or replacement.study.unmeasurable(behaviour, domain):
        return []
    seed = replacement.study.seeds.data
    pairs = replacement.lately("pairs", (behaviour, domain, hook), lambda: _pairs(replacement, behaviour, domain, hook))
    found = [pairs.fit(site, k, seed, spec.das_steps, shuffled) for k in asked]
    if not shuffled:
        replacement.fitted = {one.k: share for one, share in found}
    return [Abstraction("directions", "das", one.k, {hook: one.basis.float().cpu()}) for one, _ in found]


def _pairs(replacement: Replacement, behaviour: str, domain: str, hook: str) -> Pairs:
    """What every search at a hook point is given: the pairs, and their texts as far as the hook point."""
    setting, cases = replacement.cases(behaviour, domain)
    rows, donors = replacement.lately("learnable", cases, lambda: _learnable(replacement, behaviour, cases))
    own, place = replacement.activations.laws[behaviour], torch.from_numpy(setting.pooling.place)

    def soft(logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        law = own(logits, rows)
        if not law.requires_grad and logits.requires_grad:
            raise FitError(f"'{behaviour}' is a hard choice, which has no slope to learn a subspace by.")
        return law.new_zeros(len(law), donors.law.shape[1]).index_add(1, place, law) if setting.pooling.n else law

    tokens = replacement.answers(behaviour)
    return Pairs(replacement.model, replacement.task, rows, donors, hook, soft, tokens)


def _learnable(replacement: Replacement, behaviour: str, cases: Cases) -> tuple[CaseRows, Donors]:
    """Cases of the fit side, each with a donor of another answer, at any hook point: texts made for it are run once."""
    bases, seed = cases.pool.some(np.arange(min(len(cases.pool), LEARNED_ON))), replacement.study.seeds.data
    drawn = random_donors(bases.group, cases.pool.group, replacement.spec.swaps, seed + 2)
    others = (
        Donors(drawn, cases.pool, cases.pool_law, replacement.site) if replacement.made is None
        else replacement.made_of(behaviour, bases, cases.pool.some(drawn.reshape(-1)), drawn.shape)
    )  # fmt: skip
    at, donors = answering_otherwise(cases.pool_law[: len(bases)], others, seed)
    return bases.some(at), donors


def unlearned(
    replacement: Replacement, behaviour: str, domain: str, hook: str, arm: str, why: str, control: str = ""
) -> list[Record]:
    """NA for each subspace that could not be learned."""
    study, out = replacement.study, []
    for k in replacement.spec.das_ks:
        at = replacement.at(Abstraction("directions", "das", k, {}, control), arm, behaviour, hook, domain)
        out.append(study.record(*study.untold(at, "not_converged", why)))
    return out
