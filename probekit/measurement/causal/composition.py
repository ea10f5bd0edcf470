"""Composition: runs the model with some parts of its activations taken from donors, and asks whether the parts add up.

A part is an orthonormal subspace at a hook point. With a set S of parts kept, the others are interchanged with a
donor's, together: what lies in the span of the parts outside S comes from one donor, all else stays. The formulas are
in metrics/causal/compose.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations
from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.measurement.causal.cases import Cases, Donors, RowsAt
from probekit.measurement.outcome import Coordinates, Outcome
from probekit.measurement.setting import Setting
from probekit.measurement.study import Study
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.compose import (
    Leak,
    Subsets,
    alone_gap,
    binned,
    clipped,
    cross_talk,
    dependence,
    leave_one_out,
    log_odds,
    negative_loss,
    self_repair,
    subset_leak,
    value_leak,
)
from probekit.metrics.ratios import Estimate, Ratio, estimates
from probekit.model.branching import At, Edit
from probekit.model.interventions import interchange, orthonormal
from probekit.model.model import Model
from probekit.spec import ComposeSpec
from probekit.task import Task

ALONE = 0.5  # of the rows may have values of the parts that no other half of the rows has
WRITERS = ("hook_attn_out", "hook_mlp_out")  # what writes into the stream
NORM = "ln_final.hook_scale"
ARMS = (
    "additive_value", "pair_value", "dependence", "additive_ablation", "pair_ablation", "leave_one_out", "alone",
    "leave_one_out:mean", "self_repair:resample", "self_repair:mean", "cross_talk",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """An orthonormal basis [d, k] at a hook point. codes: values [n_rows] where they are known, for value space."""

    name: str
    hook: str
    basis: Float[Tensor, "d k"]
    codes: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Parts:
    """Two or more parts. source: of their directions, a word of `records.SOURCES`.

    held: hook point -> basis [width, k] of what could step in for a part, and is held at what it was when the direct
    effect is measured. When None, all that attention and MLPs behind the part write.
    """

    source: str
    parts: tuple[Part, ...]
    held: Mapping[str, Float[Tensor, "_ _"]] | None = None

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]

    @property
    def hooks(self) -> list[str]:
        return list(dict.fromkeys(part.hook for part in self.parts))

    def union(self, hook: str, which: Sequence[bool] | NDArray) -> Float[Tensor, "d k"]:
        """A basis of the span of those parts that lie at the hook point."""
        chosen = [p.basis for p, on in zip(self.parts, which, strict=True) if on and p.hook == hook]
        width = next(p.basis.shape[0] for p in self.parts if p.hook == hook)
        return orthonormal(torch.cat([torch.zeros(width, 0), *chosen], 1)) if chosen else torch.zeros(width, 0)


def decoded_parts(hook: str, directions: Mapping[str, NDArray], study: Study) -> Parts:
    """Features as parts: what each is decoded along [d, k], and its labels as its values."""
    parts = []
    for name, found in directions.items():
        basis = orthonormal(torch.from_numpy(found).float(), tolerance=1e-4)
        codes = np.unique(study.observations.features[name].labels, axis=0, return_inverse=True)[1].reshape(-1)
        parts.append(Part(name, hook, basis, codes))
    return Parts("features", tuple(parts))


def principal_parts(hook: str, directions: Float[Tensor, "d k"]) -> Parts:
    """Each leading principal direction as a part."""
    bases = [orthonormal(directions[:, i : i + 1]) for i in range(directions.shape[1])]
    return Parts("pca", tuple(Part(f"component {i + 1}", hook, basis) for i, basis in enumerate(bases)))


@dataclass(frozen=True)
class _Found:
    """One arm before it is resampled. why: what makes it NA."""

    arm: str
    leak: Leak | None
    clusters: Clusters
    note: str = ""
    share: bool = False
    why: str = ""


class Composition:
    """Compose cells of one model and task."""

    def __init__(self, model: Model, task: Task, activations: Activations, study: Study, spec: ComposeSpec) -> None:
        self.model, self.task, self.activations = model, task, activations
        self.study, self.spec = study, spec
        self.site = RowsAt(activations)

    def cell(self, behaviour: str, domain: str, parts: Parts, name: str = "") -> Outcome:
        """Every arm for these parts. name: the hook point of the records, "" for parts at several.

        Raises BadInput for a behaviour that one forward pass does not show, fewer than two parts, too few rows to draw
        donors from, or a hook point that cannot be written.
        """
        if behaviour not in self.activations.laws:
            raise BadInput(
                f"compose needs a behaviour of the model's own output; '{behaviour}' is a label of the data."
            )
        subsets = Subsets.of(len(parts.parts), self.spec.sets, self.study.seeds.data)
        outcome = Outcome()
        if why := self.study.unmeasurable(behaviour, domain):
            for arm in ARMS:
                at = self._at(behaviour, domain, parts, name, arm)
                outcome.records.append(self.study.record(*self.study.untold(at, "too_few_rows", why)))
            return outcome
        setting = self.study.setting(behaviour, domain)
        run = self._run(setting)
        for found in (
            *self._over_values(setting, parts),
            *self._over_sets(run, parts, subsets),
            *self._over_repair(run, parts),
            _Found("cross_talk", _plain(cross_talk(*_moved(run, parts))), run.cases.clusters),
        ):
            said = ", ".join(parts.names)
            estimate = _estimate(found)
            raw = found.leak.raw if found.leak and not estimate.na_reason else None
            at = self._at(behaviour, domain, parts, name, found.arm)
            note = "; ".join(filter(None, (f"parts {said}", found.note)))
            outcome.add(self.study.record(at, estimate, note, raw), estimate, found.clusters)
        return outcome

    def _at(self, behaviour: str, domain: str, parts: Parts, name: str, arm: str) -> Coordinates:
        return Coordinates(
            "directions", parts.source, len(parts.parts), "compose", arm, behaviour=behaviour, hook=name,
            fit_domain=self.study.home, test_domain=domain,
        )  # fmt: skip

    def _run(self, setting: Setting) -> "_Run":
        cases = Cases.of(self.task, self.study, setting, self.spec.rows, self.spec.donors)
        donors = cases.random(self.spec.donors, self.study.seeds.data, self.site)
        return _Run(self.model, self.activations, setting, cases, donors, self.site)

    def _over_values(self, setting: Setting, parts: Parts) -> Iterator[_Found]:
        """Of all rows of the domain: nothing is run."""
        seed, at = self.study.seeds.data, setting.index
        clusters = Clusters.of(setting.group, self.study.n_bootstrap, seed)
        codes = np.stack([self._codes(part)[at] for part in parts.parts], 1)
        for order, arm in enumerate(("additive_value", "pair_value"), 1):
            leak = value_leak(setting.behaviour.law[at], codes, setting.group, order, seed)
            why = ""
            if leak.seen < ALONE:
                why = (
                    f"{1 - leak.seen:.0%} of the rows have values of the parts that half of the others lack: give more "
                    "rows, or fewer parts or bins"
                )
            yield _Found(arm, leak, clusters, f"{leak.seen:.0%} of rows" if leak.seen < 1 else "", why=why)
        yield _Found("dependence", _plain(dependence(codes, setting.group, seed)), clusters)

    def _codes(self, part: Part) -> NDArray[np.int64]:
        if part.codes is not None:
            return part.codes
        return binned((self.site(part.hook) @ part.basis).numpy(), self.spec.bins)

    def _over_sets(self, run: "_Run", parts: Parts, subsets: Subsets) -> Iterator[_Found]:
        law, clusters, seed = run.cases.law, run.cases.clusters, self.study.seeds.data
        odds, losses = _over_sets(run, parts, subsets.kept, "resample")
        for values, suffix in ((odds, ""), (losses, ":loss")):
            for order, arm in enumerate(("additive_ablation", "pair_ablation"), 1):
                yield _Found(arm + suffix, subset_leak(values, subsets, order, seed), clusters)
            note = _shares(values.mean(1), subsets, parts.names)
            yield _Found("leave_one_out" + suffix, _plain(leave_one_out(values, subsets)), clusters, note)
            yield _Found("alone" + suffix, alone_gap(values, subsets), clusters)
        ends = np.unique([subsets.whole, subsets.nothing, *subsets.without])
        silent = np.zeros((len(law), 1, len(subsets.kept)))
        silent[..., ends] = _over_sets(run, parts, subsets.kept[ends], "mean")[0]
        note = _shares(silent.mean(1), subsets, parts.names)
        yield _Found("leave_one_out:mean", _plain(leave_one_out(silent, subsets)), clusters, note)

    def _over_repair(self, run: "_Run", parts: Parts) -> Iterator[_Found]:
        """TE with all behind the part free; DE with what could step in held, the last norm free and held."""
        arms = [(how, norm) for how in ("resample", "mean") for norm in ("", ":norm_held")]
        try:
            if int(run.cases.rows.count.max()) > 1 or (run.cases.texts.read != run.cases.texts.first).any():
                raise BadInput(
                    "behaviours are read at another token than the edited one: what lies between is not held."
                )
            held = [self._held(part, parts) for part in parts.parts]
            for name in {name for one in held for name in one}:
                self.model.check_writable(name)
        except BadInput as error:
            for how, norm in arms:
                if not norm:
                    yield _Found(f"self_repair:{how}", None, run.cases.clusters, why=str(error))
            return
        clean = log_odds(run.cases.law, run.cases.law[:, None])
        for how, norm in arms:
            if norm and NORM not in self.model.widths:
                continue
            extra = {NORM: None} if norm else {}
            pairs = list(zip(parts.parts, held, strict=True))
            total = [clean - run.odds(part, how, {}) for part, _ in pairs]
            direct = [clean - run.odds(part, how, {**one, **extra}) for part, one in pairs]
            effects = np.concatenate(total, 1), np.concatenate(direct, 1)
            by_part = [f"{p.name} TE {t:.2f} DE {d:.2f}" for p, t, d in
                       zip(parts.parts, *(e.mean(0) for e in effects), strict=True)]  # fmt: skip
            note = f"bits by part: {', '.join(by_part)}"
            yield _Found(
                f"self_repair:{how}{norm}", _plain(self_repair(*effects)), run.cases.clusters, note, share=True
            )

    def _held(self, part: Part, parts: Parts) -> dict[str, Float[Tensor, "_ _"] | None]:
        """What is held behind a part: hook point -> basis, None for all of it."""
        after = HookPoint.parse(part.hook).order
        if parts.held is not None:
            return {name: basis for name, basis in parts.held.items() if HookPoint.parse(name).order > after}
        points = map(HookPoint.parse, self.model.hook_names)
        return {point.name: None for point in points if point.part in WRITERS and point.order > after}


class _Run:
    """The model run on the same cases with one edit or another."""

    def __init__(
        self, model: Model, activations: Activations, setting: Setting, cases: Cases, donors: Donors,
        site: Callable[[str], Float[Tensor, "n d"]],
    ) -> None:  # fmt: skip
        self.model, self.setting, self.cases, self.donors, self.site = model, setting, cases, donors, site
        self._law = activations.laws[setting.behaviour.name]
        self._clean: dict[str, Float[Tensor, "n w"]] = {}

    def n_donors(self, how: str) -> int:
        return 1 if how == "mean" else self.donors.n

    def laws(
        self, hooks: Sequence[str], make: Callable[[NDArray[np.int64]], Mapping[str, Edit]], n_branches: int
    ) -> NDArray[np.float64]:
        """Laws [n, n_branches, outcome] with the edits at `hooks` that `make` gives for a batch of cases."""
        out = np.empty((len(self.cases.rows), n_branches, self.setting.behaviour.law.shape[1]))

        def run(batch: NDArray[np.int64]) -> None:
            trunk = self.model.trunk(self.cases.texts.some(batch), hooks)
            for found in trunk.branch(make(batch), n_branches):
                case = batch[found.text.numpy()]
                law = self._law(found.logits.float().cpu(), self.cases.rows.last[case]).double().numpy()
                out[case, found.branch.numpy()] = self.setting.pooling.law(law)

        self.cases.each_batch(run)
        return out

    def exchange(self, hook: str, bases: Sequence[Float[Tensor, "d _"]], how: str, batch: NDArray[np.int64]) -> Edit:
        """Interchange within one of the bases, with donors or the mean of the pool: branches are bases x donors."""
        site, n_donors = self.site(hook), self.n_donors(how)
        mean = site[torch.from_numpy(self.cases.pool.last)].mean(0)

        def edit(act: Tensor, at: At) -> Tensor:
            which, donor = at.branch // n_donors, at.branch % n_donors
            if how == "mean":
                given = mean.expand(len(act), -1).to(act)
            else:
                given = site[self.cases.given(self.donors, batch, At(at.text, donor, at.place))].to(act)
            out = act.clone()
            for i in which.unique().tolist():
                mine = (which == i).to(act.device)
                out[mine] = interchange(act[mine], given[mine], bases[i].to(act))
            return out

        return edit

    def odds(self, part: Part, how: str, held: Mapping[str, Tensor | None]) -> NDArray[np.float64]:
        """Log-odds of the answer with one part ablated and `held` what it was, mean over donors: [n, 1]."""

        def make(batch: NDArray[np.int64]) -> dict[str, Edit]:
            holding = {name: _hold(self.clean(name)[torch.from_numpy(batch)], basis) for name, basis in held.items()}
            return {part.hook: self.exchange(part.hook, [part.basis], how, batch), **holding}

        for name in held:
            self.clean(name)  # before anything is edited
        law = self.laws([part.hook, *held], make, self.n_donors(how))
        return log_odds(self.cases.law, law).mean(1, keepdims=True)

    def clean(self, hook: str) -> Float[Tensor, "n w"]:
        """What a hook point holds at the last edited token when nothing is edited."""
        if hook not in self._clean:
            self._clean[hook] = self.watched({}, [hook], 1)[hook][:, 0]
        return self._clean[hook]

    def watched(
        self, edits: Mapping[str, Callable[[NDArray[np.int64]], Edit]], hooks: Sequence[str], n_branches: int
    ) -> dict[str, Float[Tensor, "n r _"]]:
        """Activations of the last edited token at `hooks`, while the model runs with edits elsewhere."""
        n = len(self.cases.rows)
        seen = {name: torch.zeros(n, n_branches, self.model.widths[name]) for name in hooks}

        def watch(name: str, batch: NDArray[np.int64]) -> Edit:
            def see(act: Tensor, at: At) -> Tensor:
                case = torch.from_numpy(batch)[at.text]
                last = at.place == torch.from_numpy(self.cases.rows.count)[case] - 1
                seen[name][case[last], at.branch[last]] = act.detach().float().cpu()[last]
                return act

            return see

        def make(batch: NDArray[np.int64]) -> dict[str, Edit]:
            return {name: edit(batch) for name, edit in edits.items()} | {name: watch(name, batch) for name in hooks}

        self.laws([*edits, *hooks], make, n_branches)
        return seen


def _hold(clean: Float[Tensor, "b w"], basis: Float[Tensor, "w k"] | None) -> Edit:
    """Set all, or what lies in a subspace, to what it was."""

    def edit(act: Tensor, at: At) -> Tensor:
        given = clean[at.text].to(act)
        return given if basis is None else interchange(act, given, basis.to(act))

    return edit


def _over_sets(
    run: _Run, parts: Parts, kept: NDArray[np.bool_], how: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-odds of the answer, and minus the loss, with each set of parts kept: [n, donor, n_sets] in bits."""
    n_donors = run.n_donors(how)
    bases = {hook: [parts.union(hook, ~row) for row in kept] for hook in parts.hooks}

    def make(batch: NDArray[np.int64]) -> dict[str, Edit]:
        return {hook: run.exchange(hook, each, how, batch) for hook, each in bases.items()}

    law = run.laws(parts.hooks, make, len(kept) * n_donors)
    law = law.reshape(len(law), len(kept), n_donors, -1).swapaxes(1, 2)
    return log_odds(run.cases.law, law), negative_loss(run.cases.law, law)


def _moved(run: _Run, parts: Parts) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far readout j moves when part i is a donor's, mean over donors [n, i, j]; which j lie at or behind i."""
    (n, n_donors), m, pool = run.donors.index.shape, len(parts.parts), run.cases.pool.last
    order = [HookPoint.parse(part.hook).order for part in parts.parts]
    follows = np.array([[behind >= here for behind in order] for here in order])
    moved = np.zeros((n, m, m))
    rows, donors = torch.from_numpy(run.cases.rows.last), torch.from_numpy(pool[run.donors.index])
    for i, part in enumerate(parts.parts):
        whole = run.site(part.hook)[donors] - run.site(part.hook)[rows][:, None]
        here = whole @ part.basis @ part.basis.mT
        behind = [hook for hook in parts.hooks if HookPoint.parse(hook).order > order[i]]
        change = {part.hook: here}
        if behind:
            edits = {part.hook: lambda batch, p=part: run.exchange(p.hook, [p.basis], "resample", batch)}
            seen = run.watched(edits, behind, n_donors)
            change |= {hook: seen[hook] - run.clean(hook)[:, None] for hook in behind}
        for j, other in enumerate(parts.parts):
            if follows[i, j]:
                moved[:, i, j] = (change[other.hook] @ other.basis).norm(dim=-1).mean(1).numpy()
    return moved, follows


def _plain(ratio: Ratio) -> Leak:
    """Of what is linear in rows and donors: its noise is 0 in the mean, and nothing is subtracted."""
    total = float(ratio.available.sum())
    return Leak(ratio, float(ratio.missed.sum()) / total if total else float("nan"))


def _shares(v: NDArray[np.float64], subsets: Subsets, names: Sequence[str]) -> str:
    """What the behaviour falls by without each part, in bits: for the note."""
    lost = (v[:, [subsets.whole]] - v[:, subsets.without]).mean(0)
    return "bits lost without " + ", ".join(f"{name} {x:.2f}" for name, x in zip(names, lost, strict=True))


def _estimate(found: _Found) -> Estimate:
    if found.leak is None or found.why:
        n, groups = len(found.clusters.code), len(found.clusters.names)
        reason = "not_defined" if found.leak is None else "too_few_rows"
        return Estimate.missing(reason, found.why, n, groups)
    estimate = estimates([found.leak.ratio], found.clusters)[0]
    return clipped(estimate) if found.share else estimate
