"""`transfer_across`: activations of two or more networks on the same inputs in, what carries over between them out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probekit.containers import numbers, plain
from probekit.errors import BadInput
from probekit.inputs.arrays import as_activations
from probekit.inputs.precision import Narrowing
from probekit.levels import Hypothesis, Level, check_stated
from probekit.measurement.across import PREFIX, Asked, Pair, SharedRows, Subject, estimate_over, measure_pair
from probekit.metrics.alignment import ALIGNMENTS, check_alignment
from probekit.metrics.ratios import Estimate
from probekit.records import Record
from probekit.task import Observations

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("neurons", "direction", "directions", "linear")


def transfer_across(
    models: Mapping[str, Any],
    *,
    behaviour: Any,
    anchors: Any,
    groups: Any = None,
    floor: Any = None,
    features: Mapping[str, Any] | None = None,
    hypotheses: Sequence[Hypothesis] = (),
    levels: Sequence[str] = LEVELS,
    ks: Sequence[int] = (1, 4, 16),
    alignments: Sequence[str] = ALIGNMENTS,
    of: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
    n_bootstrap: int = 2_000,
) -> "pd.DataFrame":
    """What was fitted on one network, in another that ran on the same inputs: one record per row.

    models: name -> activations [n, d] of one hook point, in any container; widths may differ. Or a list of these, one
    for each seed that was trained: then the pair of networks of one place in the lists is the unit, and fewer than 5
    have no interval. behaviour: labels [n] or a law [n, n_outcomes] that all share; or {model name: one, or a list}.
    anchors: a mask [n], or positions, of rows that align and do nothing else; no label of theirs is read. groups,
    floor, features, hypotheses: as in `measure`. levels, ks: of readers. of: pairs (fitted on, tested on), all when
    None.

    The arm of a record says what was moved: `models:identity`, `models:permutation`, `models:procrustes` and
    `models:affine` are a frozen reader on aligned rows; `models:function` the frozen function on the second network's
    own directions of the same level, or a frozen rule on features as they are decoded there; `models:refit` is the
    same form fitted there, as the share of what it explains in the first that is lost. Their value is T of docs/
    method.md, after one temperature and intercepts; `raw` before these. NA `absent_in_test_domain`: the second network
    has nothing that the level could read. The note tells linear CKA and what the alignment misses. Raises BadInput.

    >>> import numpy as np
    >>> import probekit as pk
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(1200, 4))
    >>> turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    >>> found = pk.transfer_across({"a": x, "b": turned}, behaviour=x[:, 0] > 0, anchors=np.arange(200),
    ...                            levels=("linear",), of=[("a", "b")])
    >>> abs(float(found.set_index("arm").loc["models:procrustes", "value"].round(1)))
    0.0
    """
    import pandas as pd

    stacks, n = _stacks(models)
    chosen = _chosen(anchors, n)
    observed = _observed(stacks, n, behaviour, groups, floor, features)
    for name in alignments:
        check_alignment(name)
    asked = Asked(
        tuple((Level.parse(name), tuple(ks)) for name in levels), tuple(alignments), tuple(hypotheses), seed=seed
    )
    first = next(iter(observed.values()))[0]
    check_stated(asked.hypotheses, first.behaviours, first.features)
    _check_anchors(first.group, chosen)
    pairs = list(permutations(stacks, 2)) if of is None else list(of)
    for name in {name for pair in pairs for name in pair}:
        if name not in stacks:
            raise BadInput(f"of names the network '{name}', and there is {', '.join(stacks)}.")
    n_seeds = len(next(iter(stacks.values())))
    measured: dict[tuple[str, str], list[Pair]] = {pair: [] for pair in pairs}
    for i in range(n_seeds):
        for pair, found in _pairs(i, stacks, observed, ~chosen, pairs, asked).items():
            measured[pair].append(found)
    records = [record for (a, b), found in measured.items() for record in _records(a, b, found, seed, n_bootstrap)]
    return pd.DataFrame([record.row() for record in records])


def _pairs(
    i: int, stacks: Mapping[str, Sequence[Tensor]], observed: Mapping[str, Sequence[Observations]],
    kept: NDArray[np.bool_], pairs: Sequence[tuple[str, str]], asked: Asked,
) -> dict[tuple[str, str], Pair]:  # fmt: skip
    """Every network of one seed fitted once, and all pairs of them."""
    rows: SharedRows | None = None
    fitted: dict[str, Subject] = {}
    at = torch.from_numpy(kept)
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        some = observed[name][i].rows(kept)
        rows = rows or SharedRows.of(some, BEHAVIOUR, asked.seed)
        fitted[name] = Subject.of(stacks[name][i][at], some, BEHAVIOUR, rows, asked)
    return {(a, b): measure_pair(fitted[a], fitted[b], (stacks[a][i][~at], stacks[b][i][~at]), asked) for a, b in pairs}


BEHAVIOUR = "behaviour"


def _stacks(models: Mapping[str, Any]) -> tuple[dict[str, list[Tensor]], int]:
    """Activations of every network, by name and seed. Raises BadInput."""
    if len(models) < 2:
        raise BadInput(f"transfer across models needs two or more of them by name; found {len(models)}.")
    out: dict[str, list[Tensor]] = {}
    for name, given in models.items():
        many = given if isinstance(given, list | tuple) else [given]
        out[name] = []
        for one in many:
            what = f"activations of '{name}'"
            x = numbers(what, one)
            if x.ndim != 2 or 0 in x.shape:
                raise BadInput(
                    f"{what} have shape {x.shape}: give [n, d], or a list with one such array for each seed."
                )
            out[name].append(torch.from_numpy(Narrowing.of(what, x)(x)))
    for what, told in (
        ("seeds", {k: len(v) for k, v in out.items()}),
        ("rows", {k: len(v[0]) for k, v in out.items()}),
    ):
        if len(set(told.values())) > 1:
            found = ", ".join(f"{n} of '{name}'" for name, n in told.items())
            raise BadInput(f"networks are compared on the same inputs and seed by seed; found {what}: {found}.")
    return out, len(next(iter(out.values()))[0])


def _chosen(anchors: Any, n: int) -> NDArray[np.bool_]:
    given = plain("anchors", anchors)
    if given.dtype != bool:
        mask = np.zeros(n, dtype=bool)
        mask[given.astype(np.int64)] = True
        given = mask
    if given.shape != (n,) or not 2 <= given.sum() < n:
        raise BadInput(
            f"anchors name {int(given.sum())} of {n} rows: give some of the rows, and leave others to measure."
        )
    return given


def _check_anchors(group: NDArray[np.int64], anchors: NDArray[np.bool_]) -> None:
    both = np.intersect1d(group[anchors], group[~anchors])
    if len(both):
        raise BadInput(
            f"anchors only align, and {len(both)} groups have rows that are anchors and rows that are not, such as "
            f"group {both[0]}: make anchors of whole groups."
        )


def _observed(
    stacks: Mapping[str, Sequence[Tensor]], n: int, behaviour: Any, groups: Any, floor: Any, features: Any
) -> dict[str, list[Observations]]:
    """What was seen of every network; a behaviour that all share is one object."""
    nothing = np.zeros((n, 1), dtype=np.float32)

    def seen(told: Any) -> Observations:
        return as_activations(nothing, {BEHAVIOUR: told}, floor, groups, None, features)[1]

    n_seeds = len(next(iter(stacks.values())))
    if not isinstance(behaviour, Mapping):
        shared = seen(behaviour)
        return {name: [shared] * n_seeds for name in stacks}
    out = {}
    for name in stacks:
        if name not in behaviour:
            raise BadInput(f"behaviour is given by network and lacks '{name}': give one for each, or one for all.")
        told = behaviour[name]
        many = told if isinstance(told, list | tuple) else [told] * n_seeds
        out[name] = [replace(seen(one), model=name) for one in many]
    return out


def _records(a: str, b: str, pairs: Sequence[Pair], seed: int, n_bootstrap: int) -> list[Record]:
    mean = {name: float(np.mean([p.told[name] for p in pairs])) for name in pairs[0].told}
    out = []
    for moved, found, raw in estimate_over(pairs, seed, n_bootstrap):
        missed = f"alignment misses {mean[moved.arm]:.2f} of the variance" if moved.arm in mean else ""
        note = "; ".join(filter(None, (found.note, f"CKA {mean['cka']:.3f}", missed)))
        out.append(_record(a, b, moved, found, raw, note, "example" if len(pairs) == 1 else "seed", seed))
    return out


def _record(a: str, b: str, moved: Any, found: Estimate, raw: float | None, note: str, unit: str, seed: int) -> Record:
    return Record(
        model=b, task="arrays", behaviour=BEHAVIOUR, fit_domain=a, test_domain=b, metric="transfer",
        arm=PREFIX + moved.arm, level=moved.name.level, source=moved.name.source, k=moved.name.k,
        parameters=moved.parameters, unit=unit, seed_probe=seed, seed_data=seed, value=found.value, low=found.low,
        high=found.high, raw=raw, bits=found.bits, floor_bits=found.floor_bits, ceiling_bits=found.ceiling_bits,
        p99_bits=found.p99_bits, worst_group=found.worst_group, n=found.n, groups=found.groups,
        na_reason=found.na_reason, note=note,
    )  # fmt: skip
