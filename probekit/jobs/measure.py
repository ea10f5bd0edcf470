"""`measure`: activations and observations in, a frame of records out, and a run folder where one is asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probekit.containers import numbers
from probekit.errors import BadInput, nearest
from probekit.fit.floor import WEAK_BLOCKS, blocks_of
from probekit.inputs.copies import without_copies
from probekit.inputs.given import Brought, brought_directions
from probekit.inputs.precision import Narrowing
from probekit.jobs.cells import Cell
from probekit.jobs.engines import Ended, Station, work_off
from probekit.jobs.keeping import check_free, keep_run
from probekit.levels import Hypothesis
from probekit.measurement.cell import Measurement, measurements_of, read_at, to_tensor
from probekit.measurement.outcome import Outcome
from probekit.measurement.sites import SiteRow
from probekit.spec import ReadSpec, TransferSpec, validate
from probekit.task import Observations, check_names

if TYPE_CHECKING:
    import pandas as pd


def measure(
    activations: Any,
    *,
    behaviour: Any = None,
    floor: Any = None,
    groups: Any = None,
    domains: Any = None,
    types: Any = None,
    copies: str = "merge",
    missing: str = "refuse",
    features: Mapping[str, Any] | None = None,
    twin: Any = None,
    deleted: Mapping[str, Any] | None = None,
    hypotheses: Sequence[Hypothesis] = (),
    directions: Mapping[str, Any] | None = None,
    transfer: Sequence[str] = ("linear",),
    seed_probe: int = 0,
    seed_data: int = 0,
    n_bootstrap: int = 2_000,
    progress: Callable[[str], None] | None = None,
    keep: str | Path | None = None,
    **read: Any,
) -> "pd.DataFrame":
    """FBU of every level at every site: one record per row.

    activations: what `capture` returned; or, without any model, an array [n, d] or {hook name: array [n, d]} (NumPy,
    torch, a .npy, .npz or .safetensors path), with behaviour: labels [n], a law [n, n_outcomes] or {name: either};
    floor: inputs [n, width] of the input-only reader, or {block: array}, of which `text` may hold strings; groups,
    domains [n]; features {name: labels}; types [n]: what a control task gives random labels to, such as the token that
    was read. copies: what becomes of rows that are also in other groups, up to rounding, of arrays: `merge` makes such
    groups one, `keep` leaves them; the records' note counts them.
    missing: `refuse` raises for a row of arrays that lacks a value, `drop` leaves such rows out; the note counts them.
    twin: activations of a randomly initialised network on the same rows. deleted: span -> what `capture_without`
    returned for it: every reader is also tried there. directions: your own, read as source `given:<name>`: {name: array
    [k, d] or [d], {hook: array}, or the path of a .npy, .safetensors or saved reader}. transfer: levels moved between
    domains. What was captured at several rules of positions is measured at each apart, on the same groups; the column
    `position` says which.
    keep: a folder to write, such as "runs/mine", which `open_run`, `probekit dashboard runs`, reports and comparisons
    take as that of a job; one that holds a finished run is refused. Texts of rows are known from floor={"text": ...}.
    read: any key of a spec's [read] table (levels, ks, controls, outer_folds, inner_folds, lambdas, floors ...).
    Four columns speak of all sites together: band_low and band_high hold the curve of a level over all hook points
    with 95 % probability at once; p_max is the chance, under permutation, of a gain this large at any of them,
    NaN where no permutation leaves the behaviour's groups what they are (whole groups, no two of one size); select_bits
    is what the reader missed of the selection rows. Rows of metric `selected` are at the hook point that these prefer.
    Raises BadInput in one sentence for anything that cannot be measured. Formulas: docs/method.md.

    >>> import numpy as np
    >>> import probekit as pk
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(800, 4)).astype("float32")
    >>> quick = {"n_bootstrap": 200, "n_permutations": 0, "controls": (), "extrapolate": False, "decomposition": False}
    >>> records = pk.measure(x, behaviour=x[:, 0] > 0, groups=np.arange(800) // 4, levels=("linear",), **quick)
    >>> bool(records.query("floor == 'strong'")["value"].iloc[0] < 0.1)
    True
    """
    from probekit.inputs.arrays import as_activations, without_missing

    if keep is not None:
        check_free(Path(keep))
    given, dropped = without_missing(
        missing, activations=activations, behaviour=behaviour, floor=floor, groups=groups, domains=domains,
        features=features, types=types, twin=twin,
    )  # fmt: skip
    activations, twin = given["activations"], given.pop("twin")
    sites, observations = as_activations(**given)
    if dropped:
        observations = replace(observations, note="; ".join(filter(None, (dropped, observations.note))))
    if not hasattr(activations, "observations"):
        observations = without_copies(sites, observations, copies)
    twins = {} if twin is None else _twins(twin, activations, sites, len(observations))
    spec, asked = _asked(read, tuple(transfer), sites, twins, observations)
    moving = asked if len(observations.domains) > 1 else None
    without = deleted or {}
    _check_deleted(without, sites, len(observations))
    seeds = seed_probe, seed_data, 0
    told = {span: found.observations for span, found in without.items()}
    measurements = measurements_of(
        observations, told, spec, moving, hypotheses, seeds, n_bootstrap, given=_given(directions or {}, sites)
    )
    places, names = list(measurements), list(observations.behaviours)
    wanted = list(observations.features if spec.features is None else spec.features)
    cells = [Cell(kind, name, (hook,), place=place) for hook in sites for place in places
             for kind, asked in (("feature", wanted), ("read", names)) for name in asked]  # fmt: skip
    last = [Cell("selected", name, tuple(sites), place=place) for place in places for name in names]
    kept = _Kept()
    bench = _Bench(sites, twins, without, observations, measurements, kept, progress)
    work_off([{cell.id(""): cell for cell in phase} for phase in (cells, last)], Station(bench.measure, kept))
    kept.say(bench.told)
    if keep is not None:
        told = {"read": spec.model_dump(mode="json"), "n_bootstrap": n_bootstrap}
        keep_run(Path(keep), told, observations, measurements, kept.found, bench.table)
    return _framed(kept, bench.table)


def _framed(kept: "_Kept", table: Sequence[SiteRow]) -> "pd.DataFrame":
    """All records, with what is said of whole curves."""
    import pandas as pd

    frame = pd.DataFrame([record.row() for outcome, _ in kept.found.values() for record in outcome.records])
    together = pd.DataFrame(table, columns=["record", "band_low", "band_high", "p_max", "select_bits"])
    return frame.merge(together.rename(columns={"record": "id"}), how="left", on="id")


def _check_deleted(deleted: Mapping[str, Any], sites: Mapping[str, Any], n: int) -> None:
    """Raise BadInput for what was not captured without a span, at the sites that are measured and on the same rows."""
    for span, found in deleted.items():
        if not hasattr(found, "observations"):
            raise BadInput(f"deleted['{span}'] is a {type(found).__name__}: give what `capture_without` returned.")
        _check_sites(f"deleted['{span}']", found.sites, sites, len(found.observations), n)


def _twins(twin: Any, activations: Any, sites: Mapping[str, Any], n: int) -> Mapping[str, Any]:
    """The twin's activations at every site that is measured; two arrays without names belong together."""
    from probekit.inputs.arrays import as_sites

    if hasattr(twin, "observations"):
        _check_sites("twin", twin.sites, sites, len(twin.observations), n)
        return twin.sites
    twins = as_sites(twin)
    if not isinstance(twin, Mapping) and not isinstance(activations, Mapping) and len(sites) == len(twins) == 1:
        twins = dict(zip(sites, twins.values(), strict=True))
    _check_sites("twin", twins, sites, len(next(iter(twins.values()))), n)
    return twins


def _check_sites(what: str, found: Iterable[str], sites: Iterable[str], n_found: int, n: int) -> None:
    """Raise BadInput where a site that is measured is missing, or has other rows."""
    known = list(found)
    for name in sites:
        if name not in known:
            raise BadInput(f"{what} lacks '{name}', which is measured: did you mean '{nearest(name, known)}'?")
    if n_found != n:
        raise BadInput(f"{what} has {n_found} rows and what is measured has {n}: give the same rows.")


def _asked(
    read: Mapping[str, Any], levels: tuple[str, ...], sites: Mapping[str, Any], twins: Mapping[str, Any],
    observations: Observations,
) -> tuple[ReadSpec, TransferSpec]:  # fmt: skip
    """What is read and what is moved, as a job's tables say it. Raises BadInput."""
    check_names("activations", sites)
    spec = validate(ReadSpec, {"hooks": tuple(sites), **read}, "measure")
    _check_asked(read, twins, observations)
    return spec, validate(TransferSpec, {"levels": levels}, "measure")


def _given(directions: Mapping[str, Any], sites: Mapping[str, Any]) -> list[Brought]:
    """A user's own directions at the sites that are measured. Raises BadInput."""
    out = [one.among(sites) for one in brought_directions(directions, sites)]
    for one in out:
        for hook in one.directions:
            one.check(hook, sites[hook].shape[1])
    return out


def _check_asked(read: Mapping[str, Any], twins: Mapping[str, Any], observations: Observations) -> None:
    """Raise BadInput for what is asked for by name and that nothing was given for."""
    for key in filter(read.get, ("hooks", "delete", "filler")):
        raise BadInput(f"{key} is a key of jobs: measure reads the hook points of activations, and spans of deleted=.")
    asked, blocks = read.get("controls", ()), list(observations.floor_inputs)
    if "random_twin" in asked and not twins:
        raise BadInput("controls asks for 'random_twin', and no twin is given: give twin=, or leave the control out.")
    if "control_task" in asked and observations.types is None:
        raise BadInput("controls asks for 'control_task', and no types are given: give types=, or leave it out.")
    if "weak" in read.get("floors", ()) and blocks and not blocks_of("weak", observations.floor_inputs):
        near = nearest(WEAK_BLOCKS[0], blocks)
        raise BadInput(
            f"floors asks for 'weak', which reads the block '{WEAK_BLOCKS[0]}', and floor has none: did you mean "
            f"'{near}'? Name it so, or leave 'weak' out."
        )
    if "levels" in read and not read["levels"]:
        raise BadInput("levels is empty: name at least one, such as 'linear'.")


@dataclass
class _Bench:
    """What cells are measured on: sites in memory, one at a time as tensors. table: of the curves over sites.

    told: by hook point, what had been lost of its numbers before.
    """

    sites: Mapping[str, Any]
    twins: Mapping[str, Any]
    without: Mapping[str, Any]
    observations: Observations
    measurements: Mapping[str, Measurement]
    kept: "_Kept"
    progress: Callable[[str], None] | None
    table: list[SiteRow] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    _at: tuple[str, tuple[Tensor, Tensor | None, dict[str, Tensor]]] | None = None

    def measure(self, cell: Cell) -> Outcome:
        place, measurement = cell.place, self.measurements[cell.place]
        if cell.kind == "selected":
            outcome, rows = measurement.selected(cell.what, self.kept.read(cell))
            self.table += rows
            return outcome
        (x, twin, moved), rows = self._site(cell.hooks[0]), read_at(self.observations, place)
        if cell.kind == "feature":
            return measurement.feature_cell(cell.hooks[0], cell.what, x[rows])
        if self.progress:
            self.progress(f"{cell.hooks[0]} {cell.what}" + (f" {place}" if len(self.measurements) > 1 else ""))
        told = {span: found.observations for span, found in self.without.items()}
        gone = {s: moved[s][read_at(told[s], place)] for s in told if place in told[s].places}
        twin = None if twin is None else twin[rows]
        return measurement.read_cell(cell.hooks[0], cell.what, x[rows], twin, gone)

    def _site(self, hook: str) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Activations, the twin's, those without a span; kept while the same hook point is measured."""
        if self._at is None or self._at[0] != hook:
            x, moved = self.sites[hook], {span: found.sites[hook] for span, found in self.without.items()}
            (x, *without), self.told[hook] = _narrowed(hook, x, *moved.values())
            twin = None
            if hook in self.twins:
                (twin,), lost = _narrowed(f"{hook} of the twin", self.twins[hook])
                self.told[hook] = "; ".join(filter(None, (self.told[hook], lost)))
            self._at = hook, (x, twin, dict(zip(moved, without, strict=True)))
        return self._at[1]


def _narrowed(what: str, x: Any, *others: Any) -> tuple[list[Tensor], str]:
    """A site's rows, and others that go the same way, in the precision that readers have; and what was lost before."""
    if isinstance(x, Tensor) and x.element_size() < 4:
        return [to_tensor(one) for one in (x, *others)], ""
    arrays = [numbers(f"'{what}'", one) for one in (x, *others)]
    narrow = Narrowing.of(what, arrays[0])
    return [torch.from_numpy(narrow(one)) for one in arrays], narrow.told


@dataclass
class _Kept:
    """What was measured, in memory: of each cell its outcome and its seconds."""

    found: dict[Cell, tuple[Outcome, float]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def keep(self, key: str, unit: Cell, found: Outcome, seconds: float) -> None:
        self.done.add(key)
        self.found[unit] = found, seconds

    def say(self, told: Mapping[str, str]) -> None:
        """Write what is told of hook points into the notes of their records."""
        for outcome, _ in self.found.values():
            outcome.records = [
                replace(one, note="; ".join(filter(None, (one.note, told.get(one.hook))))) for one in outcome.records
            ]

    def fail(self, key: str, unit: Cell, error: Exception) -> str:
        raise error

    def note(self, told: Ended) -> None:
        raise AssertionError("one process measures into memory")

    def read(self, cell: Cell) -> dict[str, Outcome]:
        """The read cells behind a `selected` one."""
        return {hook: self.found[Cell("read", cell.what, (hook,), place=cell.place)][0] for hook in cell.hooks}
