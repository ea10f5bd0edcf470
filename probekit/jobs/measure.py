"""`measure`: activations and observations in, a frame of records out, without a run folder."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probekit.errors import BadInput
from probekit.levels import Hypothesis, Level
from probekit.measurement.cell import measurements_of, read_at, to_tensor
from probekit.measurement.collector import Outcome
from probekit.records import Record
from probekit.spec import ReadSpec, TransferSpec, validate

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
    features: Mapping[str, Any] | None = None,
    twin: Any = None,
    deleted: Mapping[str, Any] | None = None,
    hypotheses: Sequence[Hypothesis] = (),
    transfer: Sequence[str] = ("linear",),
    seed_probe: int = 0,
    seed_data: int = 0,
    n_bootstrap: int = 2_000,
    progress: Callable[[str], None] | None = None,
    **read: Any,
) -> "pd.DataFrame":
    """FBU of every level at every site: one record per row.

    activations: what `capture` returned; or, without any model, an array [n, d] or {hook name: array [n, d]} (NumPy,
    torch, a .npy or .safetensors path), with behaviour: labels [n], a law [n, n_outcomes] or {name: either};
    floor: inputs [n, width] of the input-only reader, or {block: array}; groups, domains [n]; features {name: labels};
    types [n]: what a control task gives random labels to, such as the token that was read.
    twin: activations of a randomly initialised network on the same rows. deleted: span -> what `capture_without`
    returned for it: every reader is also tried there. transfer: levels moved between domains. What was captured at
    several rules of positions is measured at each apart, on the same groups; the column `position` says which.
    read: any key of a spec's [read] table (levels, ks, controls, outer_folds, inner_folds, lambdas, floors ...).
    Three columns speak of all sites together: band_low and band_high hold the curve of a level over all hook points
    with 95 % probability at once; p_max is the chance, under permutation, of a gain this large at any of them,
    NaN where no permutation leaves the behaviour's groups what they are (whole groups, no two of one size). Rows of
    metric `selected` are at the hook point that the selection rows prefer.
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
    import pandas as pd

    from probekit.inputs.arrays import as_activations

    sites, observations = as_activations(activations, behaviour, floor, groups, domains, features, types)
    twins = as_activations(twin, behaviour, floor, groups, domains, features)[0] if twin is not None else {}
    spec = validate(ReadSpec, {"hooks": tuple(sites), **read}, "measure")
    for name in spec.levels:
        Level.parse(name)
    moving = TransferSpec(levels=tuple(transfer)) if len(observations.domains) > 1 else None
    without = deleted or {}
    for span, found in without.items():
        if not hasattr(found, "observations") or set(sites) - set(found.sites):
            raise BadInput(f"deleted['{span}'] must be what `capture_without` returned, at the same hook points.")
    seeds = seed_probe, seed_data, 0
    told = {span: found.observations for span, found in without.items()}
    measurements = measurements_of(observations, told, spec, moving, hypotheses, seeds, n_bootstrap)
    records: list[Record] = []
    kept: dict[tuple[str, str], dict[str, Outcome]] = {}
    for hook in sites:
        x, other = to_tensor(sites[hook]), to_tensor(twins[hook]) if hook in twins else None
        moved = {span: to_tensor(found.sites[hook]) for span, found in without.items()}
        for place, measurement in measurements.items():
            rows = read_at(observations, place)
            for feature in observations.features if spec.features is None else spec.features:
                records += measurement.feature_cell(hook, feature, x[rows]).records
            for name in observations.behaviours:
                if progress:
                    progress(f"{hook} {name}" + (f" {place}" if len(measurements) > 1 else ""))
                gone = {s: moved[s][read_at(told[s], place)] for s in told if place in told[s].places}
                outcome = measurement.read_cell(hook, name, x[rows], None if other is None else other[rows], gone)
                records += outcome.records
                kept.setdefault((place, name), {})[hook] = outcome
    table: list[dict] = []
    for (place, name), outcomes in kept.items():
        outcome, found = measurements[place].selected(name, outcomes)
        records += outcome.records
        table += found
    frame = pd.DataFrame([record.row() for record in records])
    together = pd.DataFrame(table, columns=["record", "band_low", "band_high", "p_max"])
    return frame.merge(together.rename(columns={"record": "id"}), how="left", on="id")
