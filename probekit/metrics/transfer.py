"""Transfer (measurement.md section 3): does what was fitted in one domain hold in another? Pure functions of losses."""

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.read import Ratio


def transfer(moved: NDArray, direct: NDArray, floor: NDArray, ceiling: NDArray) -> Ratio:
    """T = (S_B(fitted on A) - S_B(fitted on B)) / (S_B(floor) - S_B(fitted on B)); each [n], bits per row of B.

    0: nothing is lost by fitting elsewhere; 1: no better than B's floor. NA `absent_in_test_domain` when even the
    direct fit finds less than .05 bit there.
    """
    return Ratio(moved - direct, floor - direct, moved, floor, ceiling, too_little="absent_in_test_domain")


def difference(first: NDArray, second: NDArray) -> Ratio:
    """Mean difference of two losses in bits: below 0 the first is the better reader."""
    return Ratio(first - second, np.ones(len(first)), first)
