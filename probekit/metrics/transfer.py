"""Transfer (measurement.md section 3): does what was fitted in one domain hold in another? Pure functions of losses."""

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.read import Estimate, ratio
from probekit.stats import MIN_DENOMINATOR, Clusters


def transfer(moved: NDArray, direct: NDArray, floor: NDArray, ceiling: NDArray, clusters: Clusters) -> Estimate:
    """T = (S_B(fitted on A) - S_B(fitted on B)) / (S_B(floor) - S_B(fitted on B)); each [n], bits per row of B.

    0: nothing is lost by fitting elsewhere; 1: no better than B's floor. NA `absent_in_test_domain` when even the
    direct fit finds less than .05 bit there.
    """
    estimate = ratio(moved - direct, floor - direct, clusters, moved, floor, ceiling)
    if float(np.mean(floor - direct)) < MIN_DENOMINATOR:
        estimate = Estimate(**{**estimate.__dict__, "na_reason": "absent_in_test_domain"})
    return estimate


def difference(first: NDArray, second: NDArray, clusters: Clusters) -> Estimate:
    """Mean difference of two losses in bits, with its interval: below 0 the first is the better reader."""
    return Estimate(**{**ratio(first - second, np.ones(len(first)), clusters, first).__dict__})
