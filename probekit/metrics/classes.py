"""Classes: which outcomes of a behaviour have rows enough to be told, and what becomes of the others.

A regularised reader judged on groups that it never saw is honest at any number of rows, so that few rows alone refuse
nothing. A number has no meaning only where a class cannot be seen or judged at all (docs/method.md, Rows).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.splits import Split, splits_by_group
from probekit.task import VALUE

LEAST_GROUPS = 20
LEAST_ROWS = 8  # of a class, on the side that fits and on the side that judges
UNFAIR = 0.25  # of its share of rows, below which a side hardly has an outcome
LEAST_MASS = 0.5  # rows of an outcome below which it is not there
DRAWS = 16  # of splits, of which one is looked for in which all classes can be told
REST = "rest"


def is_certain(law: NDArray) -> bool:
    """Whether every row has one outcome for certain, as labels have: law [n, n_outcomes]."""
    return bool((law.max(axis=1) > 1 - 1e-6).all())


def entropy_bits(law: NDArray) -> NDArray[np.float64]:
    """Entropy of each row of a law [n, n_outcomes], in bits: [n]."""
    p = np.asarray(law, dtype=np.float64)
    return -(p * np.log2(p, where=p > 0, out=np.zeros_like(p))).sum(1)


def pool_rare(
    law: NDArray, fit_sides: Sequence[NDArray[np.int64]], seen: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], int]:
    """Where each outcome goes once those with fewer than LEAST_ROWS rows on any fit side are one: `rest`.

    law [n, n_outcomes]; fit_sides: rows of the fit side of each fold; seen: rows of the domain that they are of, all
    when None. Returns (new outcome of each old one [n_outcomes], number of outcomes pooled). The pool is the last
    outcome. Where a fit side has less than UNFAIR of its share, as of a class that lies in one group, the rarest of the
    others joins it, as long as two are left: else what is said of it would be what the prior says, a constant. Of a
    soft law, which is known without counting, an outcome is rare where the prior lends it more than the fit rows have.
    Two outcomes stay as they are.
    """
    n_outcomes = law.shape[1]
    same = np.arange(n_outcomes)
    if n_outcomes <= 2:
        return same, 0
    everywhere = law if seen is None else law[seen]
    there, rows = everywhere.sum(axis=0), np.stack([law[side].sum(axis=0) for side in fit_sides])
    shares = np.array([len(side) / len(everywhere) for side in fit_sides])
    least, common = (LEAST_ROWS, 0) if is_certain(law) else (1 / n_outcomes, LEAST_ROWS)
    rare = (rows.min(axis=0) < least) & (there >= common)

    def unfair() -> bool:
        pool = there[rare].sum()
        return bool(pool >= LEAST_ROWS and (rows[:, rare].sum(axis=1) < UNFAIR * shares * pool).any())

    while unfair() and (~rare).sum() > 1:
        rare[np.where(rare, np.inf, there).argmin()] = True
    if rare.sum() < 2:
        return same, 0
    place = np.cumsum(~rare) - 1
    return np.where(rare, (~rare).sum(), place), int(rare.sum())


def splits_with_classes(
    group: NDArray, laws: Sequence[NDArray], seed: int, outer: int = 1, inner: int = 1
) -> list[Split]:
    """`splits_by_group`, drawn anew where a class that has rows enough is short of them on a side by mischance.

    laws [n, n_outcomes] each, of which those that are certain are looked at. It is the first draw, of DRAWS, in which
    fewest classes are short on a fit side, or of two classes on the test side: nearly always the very first. Raises
    BadInput.
    """
    known = [law[:, law.sum(axis=0) >= 2 * LEAST_ROWS] for law in laws if law.shape[1] > 1 and is_certain(law)]
    best, fewest = splits_by_group(group, seed, outer, inner), -1
    for draw in range(DRAWS if known else 0):
        splits = best if not draw else splits_by_group(group, seed + (draw << 32), outer, inner)
        test = np.concatenate([split.test for split in splits])
        short = 0
        for law in known:
            sides = [split.fit for split in splits] + ([test] if law.shape[1] == 2 else [])
            short += int((np.min([law[side].sum(axis=0) for side in sides], axis=0) < LEAST_ROWS).sum())
        if fewest < 0 or short < fewest:
            best, fewest = splits, short
        if not fewest:
            break
    return best


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
    of two classes, one with fewer than LEAST_ROWS rows on a side is not seen or not judged; of more, one of the test
    rows that no fit row has. A soft law counts by mass, and a number has no classes.
    """
    n_groups = len(np.unique(group))
    if n_groups < LEAST_GROUPS:
        return (
            f"{n_groups} groups where {LEAST_GROUPS} are needed to resample: give more, or a finer `group` column "
            "if rows of a group are in truth independent"
        )
    seen = [i for i in range(law.shape[1]) if law[:, i].sum() > 0]
    if tuple(outcomes) == VALUE:
        return ""
    if len(seen) > 2:
        both = [law[sides[side]] for side in ("fit", "test") if side in sides]
        return unseen(both[0], both[1], outcomes, LEAST_ROWS) if len(both) == 2 else ""
    for side, rows in sides.items():
        for i in seen:
            n = float(law[rows, i].sum())
            if n < LEAST_ROWS:
                return (
                    f"'{outcomes[i]}' has {n:.4g} of {len(rows)} {side} rows, where {LEAST_ROWS} are needed: "
                    "give more rows of it, or ask for more outer folds"
                )
    return ""


def unseen(fit: NDArray, test: NDArray, outcomes: Sequence[str], least: float = LEAST_MASS) -> str:
    """Why a reader of some rows cannot be judged on others: what they show, it never saw; empty where it did.

    fit, test: laws [_, n_outcomes] of either; least: test rows of an outcome, below which it does not count.
    """
    seen, shown = fit.sum(axis=0), test.sum(axis=0)
    for i in np.flatnonzero((seen < 1 / len(outcomes)) & (shown >= least)).tolist():
        return (
            f"'{outcomes[i]}' has {seen[i]:.4g} of {len(fit)} fit rows and {shown[i]:.4g} of {len(test)} test rows, "
            "so that what is said of it is the prior's: give more groups that have it, or leave it out"
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
