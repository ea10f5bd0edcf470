"""Interchange: does swapping an abstraction bring the source's answer? Pure functions of laws of pairs.

The runner runs each pair with the subspace swapped, with the whole site swapped, and with a random subspace of the same
rank swapped, and hands the laws over. Interchange intervention accuracy (IIA): Geiger et al. 2021, arXiv 2106.02997.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.ratios import Estimate, Ratio

TINY = 1e-12
VACUOUS = 0.05  # a random network's accuracy within so much of a trained one's says that it is the search that succeeds


@dataclass(frozen=True)
class Interchanged:
    """What an interchange does to the pairs whose source has another answer than their base.

    at [m]: those pairs, by number. right [m]: 1 where the likeliest answer is the source's, its share of a tie. odds
    [m]: log2 of the chance of the source's answer over that of the base's, in the edited network.
    """

    at: NDArray[np.int64]
    right: NDArray[np.float64]
    odds: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """IIA: the mean of `right`; not a number without pairs."""
        return float(self.right.mean()) if len(self.right) else float("nan")


def interchanged(base: NDArray, source: NDArray, edited: NDArray) -> Interchanged:
    """Answers of an edited network on the pairs whose counterfactual answer differs from the base's.

    base, source, edited [n, outcome]: laws of the unedited base; of the source, or what a high-level model says that
    the source's value brings; of the base with the source's value swapped in. Raises BadInput for other shapes.
    """
    if not base.shape == source.shape == edited.shape or base.ndim != 2:
        found = ", ".join(str(law.shape) for law in (base, source, edited))
        raise BadInput(f"laws of the same pairs are asked for, [n, outcome] each; found {found}.")
    old, new = base.argmax(1), source.argmax(1)
    at = np.nonzero(old != new)[0]
    after = edited[at].astype(np.float64)
    pair = np.arange(len(at))
    best = after == after.max(1, keepdims=True)
    odds = np.log2(np.maximum(after[pair, new[at]], TINY)) - np.log2(np.maximum(after[pair, old[at]], TINY))
    return Interchanged(at, best[pair, new[at]] / best.sum(1), odds)


def accuracy(kept: Interchanged) -> Ratio:
    """IIA of one interchange, to be given an interval by `estimates`."""
    return Ratio(kept.right, np.ones(len(kept.right)), of_reader=False)


def interchange_leak(kept: Interchanged, site: Interchanged, random: Interchanged) -> Ratio:
    """1 - (IIA_U - IIA_random) / (IIA_site - IIA_random), of pairs: 0 does all that the site does, 1 does nothing more
    than a random subspace of that rank. NA `small_denominator` where the site itself brings no answers.
    """
    _check_same(kept, site, random)
    return Ratio(site.right - kept.right, site.right - random.right, of_reader=False)


def odds_leak(kept: Interchanged, site: Interchanged, random: Interchanged) -> Ratio:
    """The same of log-odds in bits, which also count what does not yet turn an answer."""
    _check_same(kept, site, random)
    return Ratio(site.odds - kept.odds, site.odds - random.odds, of_reader=False)


def refused_if_vacuous(leak: Estimate, kept: Interchanged, twin: Interchanged) -> Estimate:
    """The estimate, or NA `vacuous` where a search in a random network of the same shape comes as far.

    twin: its subspace of the same rank, found and tried by the same means on pairs of its own (Sutter et al. 2025,
    arXiv 2507.08802: a search that is rich enough aligns any network with any algorithm).
    """
    ours, theirs = kept.accuracy, twin.accuracy
    if leak.na_reason or not np.isfinite(ours + theirs) or ours - theirs > VACUOUS:
        return leak
    said = f"the search in a random network has an IIA of {theirs:.3f}, in this one {ours:.3f}"
    return Estimate.missing("vacuous", f"{said}: at most {VACUOUS:g} lie between them", leak.n, leak.groups)


def _check_same(*parts: Interchanged) -> None:
    if not all(np.array_equal(parts[0].at, part.at) for part in parts):
        raise BadInput("interchanges of different pairs are compared: give laws of the same bases and sources.")
