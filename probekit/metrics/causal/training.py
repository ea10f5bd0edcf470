"""Training: after what share of its training compute was a model as good as it is under an edit? Pure functions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters, ratio_intervals
from probekit.metrics.ratios import Estimate


@dataclass(frozen=True)
class TrainingCurve:
    """Losses of a model's checkpoints, in bits, by the compute that each took, ascending; the last is the model.

    compute: in any unit, since shares of the last one are told. envelope: the lowest loss so far, so that a share is
    that after which the model was first this good.
    """

    compute: NDArray[np.float64]
    envelope: NDArray[np.float64]

    @classmethod
    def of(cls, compute: NDArray, loss: NDArray) -> "TrainingCurve":
        """compute, loss [m], in any order. Raises BadInput for what is no curve."""
        compute, loss = np.asarray(compute, np.float64), np.asarray(loss, np.float64)
        if compute.shape != loss.shape or compute.ndim != 1 or len(compute) < 2:
            raise BadInput(f"a training curve has a loss for each of two or more computes; found {compute.shape} and "
                           f"{loss.shape}.")  # fmt: skip
        if not (np.isfinite(compute).all() and np.isfinite(loss).all()) or (compute < 0).any():
            raise BadInput("a training curve has numbers, and no compute below 0.")
        if len(np.unique(compute)) < len(compute):
            raise BadInput("a training curve names a compute twice: give one loss for each.")
        order = np.argsort(compute)
        return cls(compute[order], np.minimum.accumulate(loss[order]))

    def share(self, loss: float) -> float:
        """The share of all compute after which the loss was first this low; NaN outside of the curve.

        Between two checkpoints the loss falls along a line in the logarithm of compute, as trainings do; from a compute
        of 0 on along a line in compute.
        """
        last = self.envelope[-1]
        if not last <= loss <= self.envelope[0]:
            return float("nan")
        after = int(np.argmax(self.envelope <= loss))
        if after == 0:
            return float(self.compute[0] / self.compute[-1])
        high, low = self.envelope[after - 1], self.envelope[after]
        t = (high - loss) / (high - low)
        a, b = self.compute[after - 1], self.compute[after]
        at = a + t * (b - a) if a == 0 else a * (b / a) ** t
        return min(float(at / self.compute[-1]), 1.0)  # of which rounding makes a little more


def compute_equivalent(curve: TrainingCurve, lost: NDArray, clusters: Clusters) -> Estimate:
    """The share of training compute after which the model's loss was its last one and `lost` [n] bits a row more.

    Its interval is that of the mean of what is lost, read off the curve; an end beyond the curve is the curve's own.
    NA `not_defined` where the mean lies beyond it.
    """
    sums, sizes = clusters.sums(lost), clusters.sizes.astype(np.float64)
    mean = float(sums.sum() / sizes.sum())
    low, high = ratio_intervals(sums[None], sizes[None], clusters.weights)[0]
    last, n, groups = float(curve.envelope[-1]), len(lost), len(clusters.names)
    value = curve.share(last + mean)
    if not np.isfinite(value):
        worse = (
            f"it loses {mean:.3g} bits, and the first checkpoint {curve.envelope[0] - last:.3g} more than the last one"
        )
        said = worse if mean > 0 else f"it gains {-mean:.3g} bits over the last checkpoint"
        return Estimate.missing("not_defined", f"beyond the training curve: {said}", n, groups)
    ends = np.clip([last + high, last + low], last, curve.envelope[0])
    note = "an end of the interval is the curve's own" if ends[0] != last + high or ends[1] != last + low else ""
    first, second = (curve.share(float(end)) for end in ends)
    return Estimate(value, first, second, mean, None, None, None, None, n, groups, note=note)
