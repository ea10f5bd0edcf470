"""Work: measures the cells of a job one after another, with what they share loaded once."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from probekit.activations.activations import Activations
from probekit.errors import FitError
from probekit.fit.frame import fit_frame
from probekit.jobs.cells import Cell, said_place
from probekit.jobs.job import Job
from probekit.levels import Hypothesis
from probekit.measurement.cell import Measurement, read_at
from probekit.measurement.collector import Outcome
from probekit.measurement.replacement import Replacement, abstractions_at
from probekit.measurement.sites import SITE_COLUMNS
from probekit.model.interventions import Abstraction, orthonormal
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
                bits, name = self._tensors(cell).get("select_bits"), f"{cell.what} {said_place(cell.place)}".strip()
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

        path = self.writer.path / "directions" / f"{tensor_name(cell)}.safetensors"
        return load_file(path) if path.exists() else {}


def tensor_name(cell: Cell) -> str:
    name = f"{cell.kind}-{cell.what}-{cell.hooks[0]}"
    return (
        "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80]
        + "-"
        + digest([cell.kind, cell.what, cell.hooks, *([] if cell.place == ALL else [cell.place])])[:8]
    )
