"""Runner: a JobSpec becomes cells, cells become records in a run folder. Stops and resumes between cells.

A cell is the smallest unit that is redone: one hook point with one behaviour (`read`), one feature (`feature`), what is
said of all hook points of a behaviour together (`selected`), or one replaced site or chain in one domain (`replace`).
Cells of a finished id are never measured again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from itertools import product
from pathlib import Path
from traceback import format_exception
from typing import Any

import numpy as np
import pandas as pd
import torch

from probekit.cache import pin
from probekit.capture import DEFAULT_STORE, Activations, Step, capture, capture_without
from probekit.collector import Outcome
from probekit.errors import BadInput, FitError, Interrupted, ProbekitError, StoreError
from probekit.filetask import read_file_task
from probekit.fit.core import fit_frame
from probekit.folders import beside
from probekit.hookpoint import HookPoint
from probekit.interventions import orthonormal
from probekit.levels import Hypothesis
from probekit.measurement import Measurement, measurements_of, read_at
from probekit.model import Model, load_model
from probekit.records import digest
from probekit.replacement import Abstraction, Replacement, abstractions_at
from probekit.rundir import Run, RunWriter, open_run
from probekit.sites import SITE_COLUMNS
from probekit.spans import delete_span, find_span
from probekit.spec import JobSpec, ReplaceSpec
from probekit.task import ALL, Task, find_constant
from probekit.testbeds import load_testbed

log = logging.getLogger(__name__)

CELL_VERSION = 4  # raised when what a cell computes changes meaning, so that old cells are not taken for new ones
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cell:
    """One unit of work. what: behaviour or feature; hooks: one, or all of a chain; domain: for `replace` alone.

    place: the rule of positions whose rows are measured, where there are several.
    """

    kind: str
    what: str
    hooks: tuple[str, ...]
    domain: str = ""
    place: str = ALL

    @property
    def label(self) -> str:
        """For people: what is being measured."""
        several = f"all {len(self.hooks)} hook points" if self.kind == "selected" else f"chain of {len(self.hooks)}"
        hook = self.hooks[0] if len(self.hooks) == 1 else several
        return " ".join(filter(None, (self.kind, self.what, "at", hook, self.domain, _read_at(self.place))))

    def id(self, inputs: str) -> str:
        """Digest of the cell and of everything that its numbers depend on."""
        return digest({"version": CELL_VERSION, "inputs": inputs, **_parts(self)})


@dataclass(frozen=True)
class Job:
    """A spec with everything it names loaded."""

    spec: JobSpec
    model: Model
    task: Task
    hypotheses: tuple[Hypothesis, ...]
    deleted: Mapping[str, dict] = field(default_factory=dict)  # spans that readers are also tried without; their audits

    @classmethod
    def load(cls, spec: JobSpec, base: Path, device: str = "cpu") -> "Job":
        """Load model, task and hypotheses; paths are relative to `base`, the spec file's folder."""
        name = spec.model.name if spec.model else spec.task.testbed
        if name is None:
            raise BadInput("the spec names no model: give [model] name = a local folder, a hub name or a testbed.")
        asked = spec.model.model_dump(exclude={"name", "twin", "backend"}) if spec.model else {}
        model = load_model(beside(name, base), device=device, **asked)
        hypotheses = [Hypothesis.load(h.name, h.features, h.rule, base, h.behaviour) for h in spec.hypotheses]
        if spec.task.testbed:
            bundled = load_testbed(spec.task.testbed, spec.task.n_examples, spec.task.n_positions, spec.seed_data)
            task, hypotheses = bundled.task, [*bundled.hypotheses, *hypotheses]
        else:
            task = read_file_task(spec.task, base, model.encoder if model.tokenizer is not None else None)
        # A span that cannot be deleted is told before anything is captured.
        names = [find_span(task.spans, span) for span in spec.read.delete]
        deleted = {name: delete_span(task, name).audit["deleted"] | {"filler": spec.read.filler} for name in names}
        return cls(spec, model, task, tuple(hypotheses), deleted)

    @property
    def inputs(self) -> str:
        """Digest of all that decides the numbers: spec, weights, data and the source of every rule."""
        return digest(
            {
                "spec": self.spec.id,
                "model": self.model.fingerprint,
                "task": self.task.fingerprint,
                "hypotheses": [[h.name, h.source_hash] for h in self.hypotheses],
            }
            # with several, what was measured before they were told apart is another run
            | ({"places": list(self.task.rules)} if self.task.rules else {})
        )

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
        if spec.replace:
            out += self._replace_cells(spec.replace, hooks)
        return out

    def _replace_cells(self, spec: ReplaceSpec, read_hooks: Sequence[str]) -> list[Cell]:
        left_out = [hook for hook in read_hooks if HookPoint.parse(hook).part == "hook_resid_post"] or list(read_hooks)
        chain = tuple(hook.name for hook in self.model.hooks(spec.hooks)) if spec.hooks else tuple(left_out)
        for hook in chain:
            self.model.check_writable(hook)
            if hook not in read_hooks:
                raise BadInput(f"replace.hooks has '{hook}', which read.hooks lacks: its directions come from there.")
        domains = list(dict.fromkeys(self.task.domain.tolist()))
        moved = domains if self.spec.transfer else domains[:1]
        out = []
        for behaviour in spec.behaviours_of({b.name: b.kind for b in self.task.behaviours}):
            for place in self.task.rules or [ALL]:
                out += [Cell("replace", behaviour, (hook,), domains[0], place) for hook in chain]
                if len(chain) > 1:
                    out += [Cell("replace", behaviour, chain, domain, place) for domain in moved]
        return out


def run_job(
    spec: JobSpec | Path | str,
    *,
    root: Path | str = "runs",
    store: Path | str = DEFAULT_STORE,
    base: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Run:
    """Measure a job into `root/<run>` and return the finished run. A stopped job resumes; a finished one is returned.

    Raises BadInput for anything wrong with the request, Interrupted on Ctrl-C with every finished cell kept.
    """
    if not isinstance(spec, JobSpec):
        base = Path(spec).parent if base is None else base
        spec = JobSpec.read_toml(Path(spec))
    job = Job.load(spec, base or Path(), device)
    cells = job.cells()
    _check_labels(job)
    writer = RunWriter.open(Path(root), job.run, spec.model_dump(mode="json"), len(cells))
    if writer.complete:
        return open_run(writer.path)
    try:
        _measure_cells(job, cells, writer, store, progress)
    except (KeyboardInterrupt, Interrupted):
        writer.interrupt()
        done = f"{len(writer.done)} of {len(cells)} cells are kept in {writer.path}"
        raise Interrupted(f"stopped; {done}; the same command resumes.") from None
    except ProbekitError as error:
        writer.fail(str(error))
        raise
    return open_run(writer.path)


def _measure_cells(
    job: Job, cells: list[Cell], writer: RunWriter, store: Path | str, progress: Progress | None
) -> None:
    inputs = job.inputs
    started = time.monotonic()
    say = progress or (lambda what, done, total: None)
    spec = job.spec

    backend = spec.model.backend if spec.model else "auto"

    def telling(what: str) -> Callable[[Step], None]:
        return lambda step: say(f"{what}, {step.tokens_per_second:,.0f} tokens/s", step.tokens, step.n_tokens)

    def captured(model: Model, task: Task, what: str) -> Activations:
        return capture(model, task, spec.read.hooks, store=store, progress=telling(what), backend=backend)

    activations = captured(job.model, job.task, "capture")
    wants_twin = "random_twin" in spec.read.controls and (spec.model is None or spec.model.twin)
    # The twin's activations are read for what the trained network does: nobody asks what the twin does.
    unasked = replace(job.task, behaviours=())
    twin = captured(job.model.random_twin(spec.seed_probe), unasked, "capture random twin") if wants_twin else None
    deleted = {}
    for span in job.deleted:
        told = {"filler": spec.read.filler, "store": store, "progress": telling(f"capture without {span}")}
        deleted[span] = capture_without(job.model, job.task, span, activations, **told)
    timings = {"capture": time.monotonic() - started}
    seeds = (spec.seed_probe, spec.seed_data, 0)
    transfer = spec.transfer if len(activations.observations.domains) > 1 else None
    texts = {span: found.observations for span, found in deleted.items()}
    asked = spec.read, transfer, job.hypotheses, seeds, spec.n_bootstrap
    measurements = measurements_of(activations.observations, texts, *asked)
    # Not before it is known that something can be measured: what a refused run captured may go.
    for found in filter(None, (activations, twin, *deleted.values())):
        pin_for_run(Path(store), found.observations.fingerprint, writer.path.name)
    work = _Work(job, activations, twin, measurements, writer, deleted)
    for i, cell in enumerate(cells):
        say(cell.label, i, len(cells))
        key = cell.id(inputs)
        if key in writer.done:
            continue
        begun = time.monotonic()
        try:
            outcome = work.measure(cell)
        except (BadInput, StoreError, Interrupted):
            raise
        except (FitError, RuntimeError, ArithmeticError, ValueError, MemoryError) as error:
            # One cell that cannot be measured must not cost the others; its error is kept and the exit code says so.
            said = f"{cell.label}: {type(error).__name__}: {error}"
            kept = writer.write_log("".join([f"{said}\n", *format_exception(error)]))
            todo = f"all else is measured; the traceback is in {kept}; remove that folder and run again to retry it"
            log.warning("failed: %s; %s.", said.rstrip("."), todo)
            writer.write_cell(key, [], [], error=said, seconds=0.0)
            continue
        if outcome.tensors:
            writer.write_tensors(_tensor_name(cell), outcome.tensors)
        seconds = time.monotonic() - begun
        timings[cell.label] = seconds
        writer.write_cell(key, outcome.records, outcome.losses, seconds=seconds)
    say("done", len(cells), len(cells))
    timings["all"] = time.monotonic() - started
    writer.write_table("worst_examples", work.worst_examples(cells))
    writer.write_table("sites", work.sites(cells))
    writer.finish(_manifest(job, activations, measurements, timings, work.selected(cells)))


def _check_labels(job: Job) -> None:
    """Refuse, before anything is captured, a job whose behaviours are known already and leave nothing to explain."""
    task = job.task
    labels = {b.name: task.labels[b.column or b.name] for b in task.behaviours if b.kind == "label"}
    if len(labels) == len(task.behaviours):
        domain = np.asarray(task.domain)[task.row_example]
        domains = list(dict.fromkeys(task.domain.tolist()))
        find_constant(labels, domain, domains if job.spec.transfer else domains[:1])


class _Work:
    """Measures cells one after another; activations of the last hook are kept between cells of that hook."""

    def __init__(
        self, job: Job, activations: Activations, twin: Activations | None, measurements: Mapping[str, Measurement],
        writer: RunWriter, deleted: Mapping[str, Activations],
    ) -> None:  # fmt: skip
        self.job, self.activations, self.twin, self.deleted = job, activations, twin, deleted
        self.measurements, self.writer = measurements, writer
        self._loaded: tuple[str, torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]] | None = None
        self._replacements: dict[str, Replacement] = {}
        self._frames: dict[tuple[str, str], torch.Tensor] = {}
        self._curves: dict[tuple[str, str], list[dict]] = {}

    def measure(self, cell: Cell) -> Outcome:
        """The outcome of one cell."""
        if cell.kind == "replace":
            return self._replace(cell)
        if cell.kind == "selected":
            found = self._read_outcomes(cell)
            outcome, self._curves[cell.what, cell.place] = self.measurements[cell.place].selected(cell.what, found)
            return outcome
        x, twin, deleted = self._site(cell.hooks[0], cell.place)
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
            out[hook] = Outcome(records, losses, self._tensors(read))
        return out

    def selected(self, cells: Sequence[Cell]) -> dict[str, str]:
        """For each behaviour and place the hook point whose linear readout did best on the selection rows."""
        best: dict[str, tuple[float, str]] = {}
        for cell in cells:
            if cell.kind == "read":
                bits, name = self._tensors(cell).get("select_bits"), f"{cell.what} {_read_at(cell.place)}".strip()
                if bits is not None:
                    best[name] = min(best.get(name, (np.inf, "")), (float(np.mean(bits)), cell.hooks[0]))
        return {name: hook for name, (_, hook) in best.items()}

    def worst_examples(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """The test rows that `linear` misses most at each site: where they are, what was read, likeliest outcome."""
        rows = []
        for cell in cells:
            kept = self._tensors(cell) if cell.kind == "read" else {}
            observations = self.measurements[cell.place].observations
            behaviour = observations.behaviours.get(cell.what)
            for row, bits in zip(kept.get("worst_rows", ()), kept.get("worst_bits", ()), strict=True):
                assert behaviour is not None
                example, position = int(observations.example[row]), int(observations.position[row])
                rows.append(
                    {
                        "hook": cell.hooks[0], "behaviour": cell.what, "domain": str(observations.domain[row]),
                        "group": str(observations.group[row]), "example": example, "position": position,
                        "rule": cell.place,
                        "missed_bits": float(bits), "outcome": behaviour.outcomes[int(behaviour.law[row].argmax())],
                        "tokens": " ".join(str(int(t)) for t in self.job.task.tokens[example][: position + 1]),
                    }
                )  # fmt: skip
        names = ["hook", "behaviour", "domain", "group", "example", "position", "missed_bits", "outcome", "tokens"]
        return pd.DataFrame(rows, columns=[*names, "rule"])

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
        name = cell.hooks[0] if len(cell.hooks) == 1 else ""  # a chain is at no one hook point
        measurement = self.measurements[place]
        if cell.what in measurement.constant:
            told = {"metric": "replace", "hook": name, "test_domain": cell.domain}
            arms = [arm for arm in spec.arms if arm.startswith("single" if name else "chain")]
            places = [told | {"level": level, "arm": arm} for level in spec.levels for arm in arms]
            return measurement.nothing_to_explain(cell.what, places)
        if place not in self._replacements:
            seen = self.job.task.at(place), self.activations.at(place), measurement
            self._replacements[place] = Replacement(self.job.model, *seen, spec)
        asked = list(self._abstractions(cell, spec))
        return self._replacements[place].cell(cell.what, cell.domain, cell.hooks, name, asked)

    def _abstractions(self, cell: Cell, spec: ReplaceSpec) -> Iterator[Abstraction]:
        found = {hook: self._tensors(Cell("read", cell.what, (hook,), place=cell.place)) for hook in cell.hooks}
        missing = [hook for hook in cell.hooks if not found[hook]]
        if missing:
            raise FitError(f"no directions were fitted at {missing[0]}, so nothing can be kept there.")
        frames = {hook: self._principal(hook, cell.what, cell.place) for hook in cell.hooks}
        widths = {hook: frames[hook].shape[0] for hook in cell.hooks}
        yield from abstractions_at(cell.hooks, found, widths, spec, frames, self.job.spec.seed_probe)
        for hypothesis in self.job.hypotheses:
            if hypothesis.behaviour in ("", cell.what):
                yield from self._hypothesis(cell, hypothesis, widths)

    def _principal(self, hook: str, behaviour: str, place: str) -> torch.Tensor:
        """Principal directions [d, r] of the seen domain's fit rows: the same for every behaviour, found once."""
        if (hook, place) not in self._frames:
            measurement = self.measurements[place]
            seen = measurement.setting(behaviour, measurement.domains[0])
            x = self.activations.sites[hook][read_at(self.activations.observations, place)]
            self._frames[hook, place] = fit_frame(x[torch.from_numpy(seen.index[seen.split.fit])].float()).rotation
        return self._frames[hook, place]

    def _hypothesis(self, cell: Cell, hypothesis: Hypothesis, widths: dict[str, int]) -> Iterator[Abstraction]:
        """The subspace that the features are decoded from, and donors that agree on the features themselves."""
        level = f"hypothesis:{hypothesis.name}"
        bases = {}
        for hook in cell.hooks:
            cells = [Cell("feature", name, (hook,), place=cell.place) for name in hypothesis.features]
            parts = [self._tensors(feature).get(feature.what) for feature in cells]
            if any(part is None for part in parts):
                return
            directions = torch.from_numpy(np.concatenate([np.asarray(part) for part in parts], axis=1))
            bases[hook] = orthonormal(directions, tolerance=1e-4)
        rank = max(basis.shape[1] for basis in bases.values())
        yield Abstraction(level, "features", rank, bases)
        nothing = {hook: torch.zeros(widths[hook], 0) for hook in cell.hooks}
        yield Abstraction(level, "true", 0, nothing, features=hypothesis.features)

    def _tensors(self, cell: Cell) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        path = self.writer.path / "directions" / f"{_tensor_name(cell)}.safetensors"
        return load_file(path) if path.exists() else {}


def pin_for_run(store: Path, key: str, run: str) -> None:
    """Keep an entry for as long as the run refers to it, under the run's name: gc never deletes what is pinned."""
    try:
        pin(store, key, run)
    except StoreError as error:
        # A store that is shared read-only cannot be marked, and this user's gc cannot delete from it either.
        log.warning("%s is not pinned: %s", key, error)


def _tensor_name(cell: Cell) -> str:
    name = f"{cell.kind}-{cell.what}-{cell.hooks[0]}"
    return (
        "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80]
        + "-"
        + digest([cell.kind, cell.what, cell.hooks, *([] if cell.place == ALL else [cell.place])])[:8]
    )


def _parts(cell: Cell) -> dict[str, Any]:
    """What tells cells apart; the place only where there are several, so that it is no part of older ids."""
    return {name: value for name, value in asdict(cell).items() if (name, value) != ("place", ALL)}


def _read_at(place: str) -> str:
    """For people, where several rules of positions are measured apart."""
    return "" if place == ALL else f"read at {place}"


def _manifest(
    job: Job, activations: Activations, measurements: Mapping[str, Measurement], timings: dict[str, float],
    selected: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    floors, measurement = {}, next(iter(measurements.values()))
    read = [(cell.what, cell.place) for cell in job.cells() if cell.kind == "read"]
    for (behaviour, place), domain in product(dict.fromkeys(read), measurement.domains):
        # A resumed run may not have needed this setting again; its floors belong to the run all the same.
        at = f"{behaviour} {domain} {_read_at(place)}".strip()
        if behaviour in measurements[place].constant:
            floors[at] = {"constant": measurements[place].constant[behaviour]}
            continue
        try:
            setting = measurements[place].setting(behaviour, domain)
        except FitError as error:  # every cell of it has failed, and says so
            floors[at] = {"error": str(error)}
            continue
        for name, (floor, _) in setting.floors.items():
            floors[f"{at} {name}"] = {
                "family": floor.family, "blocks": list(floor.blocks), "parameters": floor.parameters,
                "bits": float(setting.floor_bits(name).mean()), "ceiling_bits": float(setting.test_ceiling.mean()),
            }  # fmt: skip
    behaviours = activations.observations.behaviours.values()
    return {
        "inputs": job.inputs,
        "model": {"name": job.model.name, "revision": job.model.revision, "fingerprint": job.model.fingerprint},
        "task": {"name": job.task.name, "fingerprint": job.task.fingerprint, "n_rows": len(activations.observations)},
        "behaviours": {b.name: {"n_outcomes": len(b.outcomes), "covered_mass": b.covered} for b in behaviours},
        "hypotheses": {h.name: {"features": list(h.features), "source_hash": h.source_hash} for h in job.hypotheses},
        "floors": floors,
        "selected": selected,
        "seeds": {"probe": measurement.seeds[0], "data": measurement.seeds[1], "model": measurement.seeds[2]},
        "packages": {name: _version(name) for name in _PACKAGES},
        "audit": activations.audit | _asked_of_text(job),
        "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
    }


def _asked_of_text(job: Job) -> dict[str, Any]:
    """How the examples were made from text, and what was deleted from them."""
    told = {"task": dict(job.task.audit), "deleted": dict(job.deleted)}
    return {name: value for name, value in told.items() if value}


_PACKAGES = (
    "abstraction-probekit",
    "torch",
    "transformers",
    "transformer-lens",
    "numpy",
    "scipy",
    "pandas",
    "safetensors",
)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
