"""Equivalence to 0 within a declared margin (two one-sided tests), and the smallest leak that could be told."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Bootstrap


@dataclass(frozen=True)
class Equivalence:
    """Is a value within a declared margin of a reference?

    verdict: within | outside | undecided. low, high: the interval at 1 - 2 alpha that decides it. p: of the two
    one-sided tests (the larger), small when within; p_outside: small when beyond one of the borders. p_at_most and
    p_at_least: of "the truth is at most (at least) reference + margin", for one-sided questions.
    smallest_detectable: the smallest margin that would be certified in 80 % of data sets of this size if the truth were
    the reference.
    """

    verdict: str
    value: float
    low: float
    high: float
    margin: float
    p: float
    p_outside: float
    p_at_most: float
    p_at_least: float
    smallest_detectable: float


def equivalence(
    numerator: NDArray,
    denominator: NDArray,
    weights: NDArray,
    margin: float,
    reference: float = 0.0,
    alpha: float = 0.05,
) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) of |ratio - reference| <= margin, on a paired ratio's cluster bootstrap.

    numerator, denominator [n_groups]; weights [n_bootstrap, n_groups]. `within` when both tests reject at alpha,
    `outside` when the ratio is shown to lie beyond one of the borders, else `undecided`: not shown is not shown absent.
    """
    check_margin(margin, alpha)
    drawn = Bootstrap.of_ratio(numerator, denominator, weights)
    upper, lower = reference + margin, reference - margin
    at_most, at_least = drawn.p_below(upper), drawn.p_above(upper)
    p, beyond = max(at_least, drawn.p_below(lower)), min(at_most, drawn.p_above(lower))
    low, high = drawn.interval(1 - 2 * alpha)
    return Equivalence(
        _verdict(p, beyond, alpha), drawn.value, low, high, margin, p, beyond,
        at_most, at_least, smallest_detectable(drawn.error, alpha, n_groups=drawn.n_groups),
    )  # fmt: skip


def equivalence_of_interval(
    value: float,
    low: float,
    high: float,
    margin: float,
    reference: float = 0.0,
    alpha: float = 0.05,
    level: float = 0.95,
) -> Equivalence:
    """The same from a value and its interval at `level` alone, each side of it read as a normal distribution's."""
    check_margin(margin, alpha)
    z = float(ndtri((1 + level) / 2))
    below, above = max(value - low, 0.0) / z, max(high - value, 0.0) / z
    upper, lower = reference + margin, reference - margin

    def p_below(bound: float) -> float:
        """Of "the truth is at most bound"."""
        gap = bound - value
        error = below if gap < 0 else above
        return float(ndtr(gap / error)) if error > 0 else float(gap >= 0)

    at_most, at_least = p_below(upper), 1 - p_below(upper)
    p, beyond = max(at_least, p_below(lower)), min(at_most, 1 - p_below(lower))
    narrow = float(ndtri(1 - alpha))
    error = (below + above) / 2
    return Equivalence(
        _verdict(p, beyond, alpha), value, value - narrow * below, value + narrow * above, margin, p, beyond,
        at_most, at_least, smallest_detectable(error, alpha),
    )  # fmt: skip


def smallest_detectable(
    error: float, alpha: float = 0.05, power: float = 0.8, two_sided: bool = True, n_groups: int | None = None
) -> float:
    """Smallest margin certified with this power when the truth is the reference; error: standard error of the value.

    (z_(1-alpha) + z_((1+power)/2)) SE: both one-sided tests have to reject, so each may fail in half of 1 - power. With
    two_sided False ("at most margin above the reference" alone) it is (z_(1-alpha) + z_power) SE. With n_groups the
    quantiles are Student's t. NaN when the error is.
    """
    check_margin(0.0, alpha)
    chances = np.array([1 - alpha, (1 + power) / 2 if two_sided else power])
    quantiles = ndtri(chances) if n_groups is None else stdtrit(max(1, n_groups - 1), chances)
    return float(quantiles.sum() * error)


def _verdict(p: float, beyond: float, alpha: float) -> str:
    return "within" if p <= alpha else "outside" if beyond <= alpha else "undecided"


def check_margin(margin: float, alpha: float) -> None:
    """Raise BadInput for a margin or a level of a test that cannot be one."""
    if not margin >= 0 or not 0 < alpha < 0.5:
        raise BadInput(f"a margin is at least 0 and alpha between 0 and .5; found {margin} and {alpha}.")
