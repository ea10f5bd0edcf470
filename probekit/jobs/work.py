"""Work: measures the cells of a job one after another, with what they share loaded once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probekit.activations.activations import Activations
from probekit.activations.capture import capture
from probekit.errors import FitError
from probekit.fit.frame import fit_frame
from probekit.jobs.cells import Cell, said_place
from probekit.jobs.job import Job
from probekit.levels import Hypothesis
from probekit.measurement.causal.abstractions import DEPENDENT, Found, abstractions_at
from probekit.measurement.causal.composition import ARMS, Composition, decoded_parts, principal_parts
from probekit.measurement.causal.learned import learn, unlearned
from probekit.measurement.causal.replacement import ROLL_OUT, Replacement, arms_of
from probekit.measurement.causal.steering import Steering
from probekit.measurement.causal.vacuity import TWIN, Beside, InTwin, beside_learned, off_support
from probekit.measurement.cell import Measurement, measurements_of, read_at
from probekit.measurement.outcome import Coordinates, Kept, Outcome, ReaderName, decoded_of, kept_of
from probekit.measurement.sites import SITE_COLUMNS, SiteRow
from probekit.model.interventions import Abstraction, orthonormal
from probekit.model.model import Model
from probekit.records import digest
from probekit.spec import ReplaceSpec
from probekit.storage.runwriter import RunWriter
from probekit.task import ALL


class Work:
    """Measures cells one after another; activations of the last hook are kept between cells of that hook."""

    def __init__(
        self, job: Job, activations: Activations, twin: Activations | None, measurements: Mapping[str, Measurement],
        writer: RunWriter, deleted: Mapping[str, Activations],
    ) -> None:  # fmt: skip
        self.job, self.activations, self.twin, self.deleted = job, activations, twin, deleted
        self.measurements, self.writer = measurements, writer
        self._loaded: tuple[str, torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]] | None = None
        self._replacements: dict[str, Replacement] = {}
        self._compositions: dict[str, Composition] = {}
        self._twins: dict[str, InTwin] = {}
        self._frames: dict[tuple[str, str], torch.Tensor] = {}
        self._curves: dict[tuple[str, str], list[SiteRow]] = {}
        self._other: tuple[int, Mapping[str, Measurement]] | None = None

    def measure(self, cell: Cell) -> Outcome:
        """The outcome of one cell."""
        if cell.kind in ("replace", ROLL_OUT):
            return self._replace(cell)
        if cell.kind == "steer":
            return self._steer(cell)
        if cell.kind == "compose":
            return self._compose(cell)
        if cell.kind == "selected":
            found = self._read_outcomes(cell)
            outcome, self._curves[cell.what, cell.place] = self.measurements[cell.place].selected(cell.what, found)
            return outcome
        x, twin, deleted = self._site(cell.hooks[0], cell.place)
        if cell.kind == "repeat":
            outcome = self._repeated(cell.split)[cell.place].read_cell(cell.hooks[0], cell.what, x, None)
            outcome.kept = Kept()  # whoever asks for directions or scores is given those of the first split
            return outcome
        if cell.kind == "feature":
            return self.measurements[cell.place].feature_cell(cell.hooks[0], cell.what, x)
        return self.measurements[cell.place].read_cell(cell.hooks[0], cell.what, x, twin, deleted)

    def sites(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """Every level's curve over the hook points with its simultaneous band and p-values."""
        rows = []
        for cell in cells:
            if cell.kind == "selected":
                if (cell.what, cell.place) not in self._curves:  # done before this process began
                    self.measure(cell)
                rows += self._curves[cell.what, cell.place]
        return pd.DataFrame(rows, columns=list(SITE_COLUMNS))

    def _read_outcomes(self, cell: Cell) -> dict[str, Outcome]:
        """The read cells of a behaviour as the run kept them, so that a resumed one has them too."""
        kept = self.writer.finished()
        out = {}
        for hook in cell.hooks:
            read = Cell("read", cell.what, (hook,), place=cell.place)
            records, losses = kept.get(read.id(self.job.inputs), ([], []))
            out[hook] = Outcome(records, losses, kept_of(self._tensors(read)))
        return out

    def selected(self, cells: Sequence[Cell]) -> dict[str, str]:
        """For each behaviour and place the hook point whose linear readout did best on the selection rows."""
        best: dict[str, tuple[float, str]] = {}
        for cell in cells:
            if cell.kind == "read":
                bits, name = kept_of(self._tensors(cell)).linear, f"{cell.what} {said_place(cell.place)}".strip()
                if bits is not None:
                    best[name] = min(best.get(name, (np.inf, "")), (float(np.mean(bits)), cell.hooks[0]))
        return {name: hook for name, (_, hook) in best.items()}

    def shown(self, cell: Cell) -> Kept:
        """What a read cell keeps of single rows; nothing of one that failed."""
        kept = kept_of(self._tensors(cell))
        return Kept(pairs=kept.pairs, answers=kept.answers, decoded=kept.decoded)

    def _repeated(self, split: int) -> Mapping[str, Measurement]:
        """What reads the levels, and nothing beside them, on another split of the rows; one split's floors are kept."""
        if self._other is None or self._other[0] != split:
            spec = self.job.spec
            lean = {"controls": (), "decomposition": False, "extrapolate": False, "falls": False, "online_orders": 0,
                    "n_permutations": 0, "delete": ()}  # fmt: skip
            probe, data, of_model = spec.seeds
            read, seeds = spec.read.model_copy(update=lean), (probe, data + split, of_model)
            self._other = (
                split,
                measurements_of(self.activations.observations, {}, read, seeds=seeds, n_bootstrap=spec.n_bootstrap),
            )
        return self._other[1]

    def _site(self, hook: str, place: str) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
        """Activations of the rows that are read at `place`, the twin's, and those of texts without a span."""
        if self._loaded is None or self._loaded[0] != hook:
            twin = self.twin.sites[hook] if self.twin else None
            self._loaded = hook, self.activations.sites[hook], twin, {s: d.sites[hook] for s, d in self.deleted.items()}
        _, x, twin, deleted = self._loaded
        rows, texts = read_at(self.activations.observations, place), self.deleted
        moved = {span: deleted[span][read_at(texts[span].observations, place)] for span in deleted
                 if place in texts[span].observations.places}  # fmt: skip
        return x[rows], None if twin is None else twin[rows], moved

    def _replace(self, cell: Cell) -> Outcome:
        spec, place = self.job.spec.replace, cell.place
        assert spec is not None
        rolled = cell.kind == ROLL_OUT
        arms = [ROLL_OUT] if rolled else arms_of(spec, len(cell.hooks))
        name = cell.hooks[-1] if rolled or len(cell.hooks) == 1 else ""  # a chain is at no one hook point
        measurement = self.measurements[place]
        if cell.what in measurement.constant:
            asked = [
                Coordinates(level, metric="replace", arm=arm, hook=name, test_domain=cell.domain)
                for level in spec.levels for arm in arms
            ]  # fmt: skip
            return measurement.nothing_to_explain(cell.what, asked)
        replacement = self._replacement(place)
        learned, why = [], ""
        try:
            learned = [] if len(cell.hooks) > 1 or rolled else learn(replacement, cell.what, cell.domain, name)
        except FitError as error:
            why = str(error)
        beside = self._beside(replacement, learned, cell) if learned else Beside()
        replacement.lately.forget("pairs")  # texts as far as the hook point, for every layer behind it
        asked = [*self._abstractions(cell, spec, learned), *beside.abstractions]
        outcome = replacement.cell(cell.what, cell.domain, cell.hooks, name, asked, arms, beside.twin)
        outcome.records += beside.outcome.records
        outcome.losses += beside.outcome.losses
        if "iia" in arms:
            for one in learned:
                outcome.records += off_support(replacement, one, cell.what, cell.domain, name)
        outcome.kept = Kept({ReaderName(a.level, a.source, a.k): a.bases[name].numpy() for a in learned})
        if why:
            outcome.records += unlearned(replacement, cell.what, cell.domain, name, arms[0], why)
        return outcome

    def _beside(self, replacement: Replacement, learned: Sequence[Abstraction], cell: Cell) -> Beside:
        """What stands beside learned subspaces, and what the twin does, which is captured when first asked for."""
        spec, place, model = self.job.spec, cell.place, self.job.spec.model
        assert spec.replace is not None
        if place not in self._twins and TWIN in spec.replace.das_controls and (model is None or model.twin):
            other = self.job.model.random_twin(spec.seed_probe)
            shown = spec.replace.behaviours_of(self.job.kinds)
            asked = replace(self.job.task, behaviours=[b for b in self.job.task.behaviours if b.name in shown])
            seen = capture(other, asked, replaced_alone(self.job), store=None).at(place)
            made = None if spec.replace.swap is None else lambda pairs: self._made(pairs, place, other)
            self._twins[place] = InTwin(
                other, self.job.task.at(place), seen, self.measurements[place], spec.replace, made
            )
        twin = self._twins.get(place)
        return beside_learned(replacement, twin, learned, cell.what, cell.domain, cell.hooks[0], spec.seed_probe)

    def kept(self, cell: Cell) -> Kept:
        """What a cell left behind in the run folder."""
        return kept_of(self._tensors(cell))

    def _steer(self, cell: Cell) -> Outcome:
        spec, steer, hook = self.job.spec.replace, self.job.spec.steer, cell.hooks[0]
        assert spec is not None and steer is not None
        if cell.what in self.measurements[cell.place].constant:
            return Outcome()
        kept = kept_of(self._tensors(replace(cell, kind="replace"))).directions  # what was learned there
        learned = [Abstraction(name.level, name.source, name.k or 0, {hook: torch.from_numpy(basis)})
                   for name, basis in kept.items()]  # fmt: skip
        asked = list(self._abstractions(cell, spec, learned))
        steering = Steering(self._replacement(cell.place), steer.doses, steer.written)
        return steering.cell(cell.what, cell.domain, hook, asked)

    def _replacement(self, place: str) -> Replacement:
        if place not in self._replacements:
            spec, here = self.job.spec.replace, self.activations.at(place)
            assert spec is not None
            made = None if spec.swap is None else lambda pairs: self._made(pairs, place)
            self._replacements[place] = Replacement(
                self.job.model,
                self.job.task.at(place),
                here,
                self.measurements[place],
                spec,
                made,
                self.job.curves,
            )
        return self._replacements[place]

    def _made(self, pairs: NDArray[np.int64], place: str, model: Model | None = None) -> Activations:
        """Activations of texts that differ from an example in the field that is swapped, read where it is."""
        task = self.job.swapped(pairs)
        task = task.at(place) if task.rules else task
        shown = self.job.spec.edited_of(self.job.kinds)["replace"]  # nothing is exchanged of what is written or scored
        asked = replace(task, behaviours=[b for b in self.activations.behaviours if b.name in shown])
        backend = self.activations.audit["backend"]
        return capture(model or self.job.model, asked, replaced_alone(self.job), store=None, backend=backend)

    def _abstractions(
        self, cell: Cell, spec: ReplaceSpec, learned: Sequence[Abstraction] = ()
    ) -> Iterator[Abstraction]:
        """What is kept, erased and exchanged in a cell."""
        kept = {name: self._kept(name, cell) for name in (cell.what, *spec.labels_of(self.job.kinds, cell.what))}
        missing = [hook for hook in cell.hooks if kept[cell.what][hook].is_empty]
        if missing and cell.kind != "steer":  # what is written may be steered by directions of something else
            raise FitError(f"no directions were fitted at {missing[0]}, so nothing can be kept there.")
        frames = {hook: self._principal(hook, cell.what, cell.place) for hook in cell.hooks}
        widths = {hook: frames[hook].shape[0] for hook in cell.hooks}
        decoded = {name: found for name in spec.features if (found := self._decoded(name, cell))}
        stated = [one for hypothesis in self.job.hypotheses if hypothesis.behaviour in ("", cell.what)
                  for one in stated_at(cell, hypothesis, widths, lambda name: self._decoded(name, cell))]  # fmt: skip
        given = {one.name: {hook: torch.from_numpy(basis) for hook, basis in one.directions.items()}
                 for one in self.job.given}  # fmt: skip
        found = Found(kept, frames, decoded, given, [*learned, *stated])
        yield from abstractions_at(cell.hooks, cell.what, found, spec, self.job.spec.seed_probe)

    def _compose(self, cell: Cell) -> Outcome:
        spec, place, hook = self.job.spec.compose, cell.place, cell.hooks[0]
        assert spec is not None
        measurement = self.measurements[place]
        if cell.what in measurement.constant:
            asked = [
                Coordinates("directions", metric="compose", arm=arm, hook=hook, test_domain=cell.domain) for arm in ARMS
            ]
            return measurement.nothing_to_explain(cell.what, asked)
        if place not in self._compositions:
            seen = self.job.task.at(place), self.activations.at(place), measurement
            self._compositions[place] = Composition(self.job.model, *seen, spec)
        if spec.parts:
            found = {name: self._tensors(Cell("feature", name, (hook,), place=place)) for name in spec.parts}
            lost = [name for name, tensors in found.items() if not tensors]
            if lost:
                raise FitError(f"no direction of '{lost[0]}' was fitted at {hook}, so that it is no part there.")
            parts = decoded_parts(hook, {n: decoded_of(n, t).directions for n, t in found.items()}, measurement)
        else:
            parts = principal_parts(hook, self._principal(hook, cell.what, place)[:, : spec.k])
        return self._compositions[place].cell(cell.what, cell.domain, parts, hook)

    def _kept(self, behaviour: str, cell: Cell) -> dict[str, Kept]:
        """What the read cells of a behaviour left behind, by hook point of the cell."""
        return {hook: kept_of(self._tensors(Cell("read", behaviour, (hook,), place=cell.place))) for hook in cell.hooks}

    def _decoded(self, feature: str, cell: Cell) -> dict[str, np.ndarray]:
        """Directions that a feature is decoded along at every hook point of the cell, or nothing."""
        read = {hook: self._tensors(Cell("feature", feature, (hook,), place=cell.place)) for hook in cell.hooks}
        return {hook: decoded_of(feature, t).directions for hook, t in read.items()} if all(read.values()) else {}

    def _principal(self, hook: str, behaviour: str, place: str) -> torch.Tensor:
        """Principal directions [d, r] of the seen domain's fit rows: the same for every behaviour, found once."""
        if (hook, place) not in self._frames:
            measurement = self.measurements[place]
            seen = measurement.setting(behaviour, measurement.domains[0])
            x = self.activations.sites[hook][read_at(self.activations.observations, place)]
            self._frames[hook, place] = fit_frame(x[torch.from_numpy(seen.index[seen.split.fit])].float()).rotation
        return self._frames[hook, place]

    def _tensors(self, cell: Cell) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        path = self.writer.path / "directions" / f"{tensor_name(cell)}.safetensors"
        return load_file(path) if path.exists() else {}


def replaced_alone(job: Job) -> list[str]:
    """Hook points that are replaced one at a time."""
    hooks = [cell.hooks[0] for cell in job.cells() if cell.kind == "replace" and len(cell.hooks) == 1]
    return list(dict.fromkeys(hooks))


def tensor_name(cell: Cell) -> str:
    """A plain file name, whatever the behaviour is called: with its ending it has at most 100 characters."""
    name = f"{cell.kind}-{cell.what}-{cell.hooks[0]}"
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[:79]
        + "-"
        + digest([cell.kind, cell.what, cell.hooks, *([] if cell.place == ALL else [cell.place])])[:8]
    )


def stated_at(
    cell: Cell, hypothesis: Hypothesis, widths: Mapping[str, int], decoded_at: Callable[[str], dict[str, np.ndarray]]
) -> Iterator[Abstraction]:
    """The subspace that the features are decoded from, donors that agree on the features, and each feature alone."""
    level = f"hypothesis:{hypothesis.name}"
    decoded = {name: decoded_at(name) for name in hypothesis.features}
    if not all(decoded.values()):
        return
    bases = {}
    for hook in cell.hooks:
        parts = [decoded[name][hook] for name in hypothesis.features]
        bases[hook] = orthonormal(torch.from_numpy(np.concatenate(parts, axis=1)), DEPENDENT)
    yield Abstraction(level, "features", max(basis.shape[1] for basis in bases.values()), bases)
    nothing = {hook: torch.zeros(widths[hook], 0) for hook in cell.hooks}
    yield Abstraction(level, "true", 0, nothing, features=hypothesis.features)
    for name, found in decoded.items() if len(cell.hooks) == 1 else ():
        of_one = {hook: orthonormal(torch.from_numpy(at), DEPENDENT) for hook, at in found.items()}
        k = of_one[cell.hooks[0]].shape[1]
        if k < widths[cell.hooks[0]]:
            yield Abstraction(level, f"label:{name}", k, of_one, label=name, rule=hypothesis.rule,
                              variables=hypothesis.features)  # fmt: skip
