"""Classes: which outcomes of a behaviour have rows enough to be told, and what becomes of the others.

A regularised reader judged on groups that it never saw is honest at any number of rows, so that few rows alone refuse
nothing. A number has no meaning only where a class cannot be seen or judged at all (docs/method.md, Rows).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.splits import Split
from probekit.task import VALUE

LEAST_GROUPS = 20
LEAST_ROWS = 8  # of a class, on the side that fits and on the side that judges
REST = "rest"


def is_certain(law: NDArray) -> bool:
    """Whether every row has one outcome for certain, as labels have: law [n, n_outcomes]."""
    return bool((law.max(axis=1) > 1 - 1e-6).all())


def entropy_bits(law: NDArray) -> NDArray[np.float64]:
    """Entropy of each row of a law [n, n_outcomes], in bits: [n]."""
    p = np.asarray(law, dtype=np.float64)
    return -(p * np.log2(p, where=p > 0, out=np.zeros_like(p))).sum(1)


def pool_rare(law: NDArray, fit_sides: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], int]:
    """Where each outcome goes once those with fewer than LEAST_ROWS rows on any fit side are one: `rest`.

    law [n, n_outcomes] of labels; fit_sides: rows of the fit side of each fold. Returns (new outcome of each old one
    [n_outcomes], number of outcomes pooled). The pool is the last outcome. Two outcomes, or only one that is rare and
    none to pool it with, stay as they are; so does the law of a soft behaviour, which is known without counting.
    """
    n_outcomes = law.shape[1]
    same = np.arange(n_outcomes)
    if n_outcomes <= 2 or not is_certain(law):
        return same, 0
    rows = np.min([law[side].sum(axis=0) for side in fit_sides], axis=0)
    rare = rows < LEAST_ROWS
    if rare.sum() < 2:
        return same, 0
    place = np.cumsum(~rare) - 1
    return np.where(rare, (~rare).sum(), place), int(rare.sum())


def pooled_law(law: NDArray, place: NDArray[np.int64]) -> NDArray:
    """A law after `pool_rare`: [..., n_outcomes] -> [..., number of new ones]."""
    made = np.zeros((*law.shape[:-1], int(place.max()) + 1), dtype=law.dtype)
    for old, new in enumerate(place):
        made[..., new] += law[..., old]
    return made


def pooled(law: NDArray, outcomes: Sequence[str], place: NDArray[np.int64]) -> tuple[NDArray, tuple[str, ...]]:
    """The law and names of the outcomes after `pool_rare`: [n, n_outcomes] -> [n, number of new ones]."""
    made = pooled_law(law, place)
    counts = np.bincount(place)
    # A class of the user's own that is called `rest` joins the pool by name only: the pool is told by its place.
    names = [next(o for o, p in zip(outcomes, place, strict=True) if p == i) for i in range(len(counts))]
    return made, tuple(REST if counts[i] > 1 else name for i, name in enumerate(names))


def unmeasurable(law: NDArray, outcomes: Sequence[str], group: NDArray, sides: Mapping[str, NDArray[np.int64]]) -> str:
    """Why a behaviour cannot be measured on these rows, with what would mend it; empty where it can.

    law [n, n_outcomes]; group [n]; sides: rows of `fit` and `test`. Fewer than LEAST_GROUPS groups cannot be resampled;
    of two classes, one with fewer than LEAST_ROWS rows on a side is not seen or not judged. A soft law counts by mass,
    and a number has no classes.
    """
    n_groups = len(np.unique(group))
    if n_groups < LEAST_GROUPS:
        return (
            f"{n_groups} groups where {LEAST_GROUPS} are needed to resample: give more, or a finer `group` column "
            "if rows of a group are in truth independent"
        )
    seen = [i for i in range(law.shape[1]) if law[:, i].sum() > 0]
    if len(seen) > 2 or tuple(outcomes) == VALUE:
        return ""
    for side, rows in sides.items():
        for i in seen:
            n = float(law[rows, i].sum())
            if n < LEAST_ROWS:
                return (
                    f"'{outcomes[i]}' has {n:.4g} of {len(rows)} {side} rows, where {LEAST_ROWS} are needed: "
                    "give more rows of it, or ask for more outer folds"
                )
    return ""


def unmeasurable_over(
    law: NDArray, outcomes: Sequence[str], group: NDArray, n_pooled: int, splits: Callable[[], Sequence[Split]]
) -> str:
    """`unmeasurable` over the folds of a domain, after `pool_rare` made one class of `n_pooled`.

    Test rows are those of all folds, which are judged together. splits: asked for only where there are groups enough,
    since too few to resample are told before they are too few to be split.
    """
    why = unmeasurable(law, outcomes, group, {})
    if not why and len(outcomes) == 1 and tuple(outcomes) != VALUE:
        why = f"none of {n_pooled} classes has {LEAST_ROWS} fit rows: give more rows, or fewer classes"
    if why:
        return why
    folds = splits()
    test = np.concatenate([split.test for split in folds])
    every = (unmeasurable(law, outcomes, group, {"fit": split.fit, "test": test}) for split in folds)
    return next(filter(None, every), "")
