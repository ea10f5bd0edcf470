"""Job: a spec with everything it names loaded, and the cells it consists of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.hookpoint import after_blocks
from probekit.inputs.filetask import read_file_task
from probekit.inputs.folders import beside
from probekit.inputs.given import Brought, read_given
from probekit.inputs.spans import delete_span, find_span
from probekit.inputs.swaps import check_swap, swapped_task
from probekit.jobs.cells import Cell
from probekit.jobs.plan import curve_of
from probekit.levels import Hypothesis
from probekit.metrics.causal.training import TrainingCurve
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.model.sampled import narrowed, with_sampled
from probekit.records import digest
from probekit.spec import ComposeSpec, JobSpec, ReplaceSpec
from probekit.task import ALL, Task
from probekit.testbeds import load_testbed


def load_model_of(spec: JobSpec, base: Path, device: str = "cpu") -> Model:
    """The model that a spec names, relative to `base`. Raises BadInput where it names none."""
    name = spec.model.name if spec.model else spec.task.testbed
    if name is None:
        raise BadInput("the spec names no model: give [model] name = a local folder, a hub name or a testbed.")
    asked = spec.model.model_dump(exclude={"name", "twin", "backend", "seed"}) if spec.model else {}
    if spec.model and spec.model.adapter:
        asked["adapter"] = beside(spec.model.adapter, base)
    return load_model(beside(name, base), device=device, **asked)


@dataclass(frozen=True)
class Job:
    """A spec with everything it names loaded."""

    spec: JobSpec
    model: Model
    task: Task
    hypotheses: tuple[Hypothesis, ...]
    deleted: Mapping[str, dict] = field(default_factory=dict)  # spans that readers are also tried without; their audits
    base: Path = Path()  # the spec file's folder
    given: tuple[Brought, ...] = ()  # directions of a user's own, at hook points that are read
    curves: Mapping[str, TrainingCurve] = field(default_factory=dict)  # of behaviours

    @classmethod
    def load(cls, spec: JobSpec, base: Path, device: str = "cpu", model: Model | None = None) -> "Job":
        """Load model, task and hypotheses; paths are relative to `base`, the spec file's folder.

        model: the one that the spec names, where it is loaded already.
        """
        model = model or load_model_of(spec, base, device)
        if model.is_spread and (spec.replace or spec.compose):
            raise BadInput(
                f"{model.name} is on several devices, where it is read and not edited: leave [replace] and [compose] "
                "out, or give a device that has room for all of it."
            )
        hypotheses = [Hypothesis.load(h.name, h.features, h.rule, base, h.behaviour) for h in spec.hypotheses]
        if spec.task.testbed:
            bundled = load_testbed(spec.task.testbed, spec.task.n_examples, spec.task.n_positions, spec.seed_data)
            task, hypotheses = bundled.task, [*bundled.hypotheses, *hypotheses]
        else:
            task = read_file_task(spec.task, base, model.encoder if model.tokenizer is not None else None)
        if (pool := spec.task.sampled) is not None:
            task = with_sampled(task, model, pool.n, pool.seed, pool.size)
            hypotheses = [*narrowed(hypotheses, task)]
        # A span that cannot be deleted is told before anything is captured.
        names = [find_span(task.spans, span) for span in spec.read.delete]
        deleted = {name: delete_span(task, name).audit["deleted"] | {"filler": spec.read.filler} for name in names}
        if spec.replace and spec.replace.swap is not None:
            check_swap(spec.task, spec.replace.swap)
        curves = {name: curve_of(base / file) for name, file in (spec.replace.curves if spec.replace else {}).items()}
        return cls(spec, model, task, tuple(hypotheses), deleted, base, _given(spec, base, model), curves)

    def swapped(self, pairs: NDArray[np.int64]) -> Task:
        """Texts of the task's examples pairs[:, 0] with the swapped field of pairs[:, 1]: [m, 2] -> m examples."""
        encoder = self.model.encoder if self.model.tokenizer is not None else None
        assert self.spec.replace is not None and self.spec.replace.swap is not None
        return swapped_task(self.spec.task, self.base, encoder, self.spec.replace.swap, pairs)

    @cached_property
    def inputs(self) -> str:
        """Digest of all that decides the numbers, as loaded: spec, weights, data and the source of every rule."""
        return digest(
            {
                "spec": self.spec.id,
                "model": self.model.fingerprint,
                "task": self.task.fingerprint,
                "hypotheses": [[h.name, h.source_hash] for h in self.hypotheses],
            }
            # with several, what was measured before they were told apart is another run
            | ({"places": list(self.task.rules)} if self.task.rules else {})
            | ({"directions": {one.name: one.digest for one in self.given}} if self.given else {})
            | (
                {"curves": {name: [one.compute.tolist(), one.envelope.tolist()] for name, one in self.curves.items()}}
                if self.curves
                else {}
            )
        )

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each behaviour; those that score whole texts are `logprob`."""
        return {b.name: "logprob" if b.is_scored else b.kind for b in self.task.behaviours}

    @property
    def run(self) -> str:
        """Name of the run folder: the job's name and the start of its inputs' digest."""
        return f"{self.spec.name}-{self.inputs[:8]}"

    def cells(self) -> list[Cell]:
        """All cells in the order they are measured; raises for a hook or behaviour that does not exist."""
        spec = self.spec
        hooks = [hook.name for hook in self.model.hooks(spec.read.hooks)]
        behaviours = [behaviour.name for behaviour in self.task.behaviours]
        features = spec.read.features_of(list(self.task.features))
        out = []
        places = list(self.task.rules) or [ALL]
        for hook in hooks:
            for place in places:
                out += [Cell("feature", name, (hook,), place=place) for name in features]
                out += [Cell("read", name, (hook,), place=place) for name in behaviours]
        out += [Cell("selected", name, tuple(hooks), place=place) for place in places for name in behaviours]
        for split in range(1, spec.repeats):
            out += [Cell("repeat", name, (hook,), place=place, split=split)
                    for hook in hooks for place in places for name in behaviours]  # fmt: skip
        if spec.replace:
            out += self._replace_cells(spec.replace, hooks)
        if spec.compose:
            out += self._compose_cells(spec.compose, hooks)
        return out

    def _compose_cells(self, spec: ComposeSpec, read_hooks: Sequence[str]) -> list[Cell]:
        asked = [hook.name for hook in self.model.hooks(spec.hooks)] if spec.hooks else after_blocks(read_hooks)
        for hook in asked:
            self.model.check_writable(hook)
            if hook not in read_hooks:
                raise BadInput(f"compose.hooks has '{hook}', which read.hooks lacks: its parts come from there.")
        spec.check_parts(self.spec.read.features_of(list(self.task.features)))
        kinds = {b.name: "logprob" if b.is_scored else b.kind for b in self.task.behaviours}
        return [
            Cell("compose", behaviour, (hook,), str(self.task.domain[0]), place)
            for behaviour in spec.behaviours_of(kinds) for place in self.task.rules or [ALL] for hook in asked
        ]  # fmt: skip

    def _replace_cells(self, spec: ReplaceSpec, read_hooks: Sequence[str]) -> list[Cell]:
        asked = [hook.name for hook in self.model.hooks(spec.hooks)] if spec.hooks else after_blocks(read_hooks)
        chain = tuple(asked)
        for hook in chain:
            self.model.check_writable(hook)
            if hook not in read_hooks:
                raise BadInput(f"replace.hooks has '{hook}', which read.hooks lacks: its directions come from there.")
        domains = list(dict.fromkeys(self.task.domain.tolist()))
        moved = domains if self.spec.transfer else domains[:1]
        out = []
        for feature in spec.features:
            if feature not in self.spec.read.features_of(list(self.task.features)):
                raise BadInput(f"replace.features has '{feature}', which is not read: name a feature of the task.")
        spec.labels_of(self.kinds, "")
        replaced, steered = self.spec.edited_of(self.kinds).values()
        for behaviour in dict.fromkeys((*replaced, *steered)):
            for place in self.task.rules or [ALL]:
                alone = ("replace",) * (behaviour in replaced) + ("steer",) * (behaviour in steered)
                out += [Cell(kind, behaviour, (hook,), domains[0], place) for kind in alone for hook in chain]
                if behaviour not in replaced:
                    continue
                if len(chain) > 1:
                    out += [Cell("replace", behaviour, chain, domain, place) for domain in moved]
                if "roll_out" in spec.arms:
                    out += [Cell("roll_out", behaviour, chain[:n], domains[0], place)
                            for n in range(1, len(chain) + 1)]  # fmt: skip
        return out


def _given(spec: JobSpec, base: Path, model: Model) -> tuple[Brought, ...]:
    """A user's own directions where they are read. Raises BadInput or UnknownHook for what no activation there has."""
    out = []
    for entry in spec.directions:
        found = read_given(entry, base)
        assert found is not None
        read = [hook.name for hook in model.hooks(spec.read.hooks)]
        found = found.spelt(read)
        for hook in found.directions:
            found.check(model.hooks(hook)[0].name, model.widths[hook])
        out.append(found.among(read))
    return tuple(out)
