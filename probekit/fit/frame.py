"""Frame: a site's activations rotated once into the eigenbasis of their covariance, quiet directions left out.

There the Hessian of a readout's loss is nearly diagonal, so that quasi-Newton with a diagonal start takes tens of steps
whatever the spectrum.
"""

from dataclasses import dataclass

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import FitError

MOMENT_BLOCK = 4_096  # rows that are upcast to float64 at a time
CENTRED = 1_024  # rows that are centred at a time: a block that stays in the cache


@dataclass(frozen=True)
class Frame:
    """An affine change of coordinates z = (x - mean) @ rotation, estimated on the fit rows alone.

    mean [d]; rotation [d, r], orthogonal up to one scale, so that a ridge penalty means the same in both coordinates;
    variance [r] of each z, largest first; r < d only where the activations are exactly degenerate.
    """

    mean: Float[Tensor, " d"]
    rotation: Float[Tensor, "d r"]
    variance: Float[Tensor, " r"]

    def apply(self, *parts: Float[Tensor, "_ d"]) -> Float[Tensor, "n r"]:
        """Rotate rows of activations; those of several parts come one after the other."""
        out = parts[0].new_empty(sum(map(len, parts)), self.rotation.shape[1], dtype=self.rotation.dtype)
        at = 0
        for rows in (rows for part in parts for rows in part.split(CENTRED)):
            torch.mm(rows.float() - self.mean, self.rotation, out=out[at : at + len(rows)])
            at += len(rows)
        return out

    def along(self, x: Float[Tensor, "n d"], directions: Float[Tensor, "d k"]) -> Float[Tensor, "n k"]:
        """Rows along raw directions `rotation @ v` as `apply(x) @ v` would have them, without rotating every row."""
        # Centred block by block: a copy of all rows costs more than the product.
        return torch.cat([(rows.float() - self.mean) @ directions for rows in x.split(CENTRED)])


def fit_frame(*parts: Float[Tensor, "_ d"]) -> Frame:
    """The frame of the rows of all parts, by one pass in float64. Raises FitError where they are not finite."""
    return frame_of(*moments(*parts))


def frame_of(mean: Float[Tensor, " d"], moment: Float[Tensor, "d d"]) -> Frame:
    """The frame of rows of this mean and covariance, scaled so that the median variance over directions is 1.

    The median, because a ridge is meant for the typical direction: real models have a few coordinates a thousand times
    as large as the rest, and beside their mean everything else would be regularised away.
    """
    values, vectors = _eigh(moment)
    # Below float64 resolution of the largest direction an eigenvector is rounding noise, not a direction.
    kept = torch.nonzero(values > (float(values[-1]) * 1e-12)).flatten().flip(0)
    if len(kept) == 0 or float(values[-1]) <= 0:
        kept = torch.tensor([len(mean) - 1], device=mean.device)
    unit = values[kept].median().clamp_min(1e-30).sqrt()
    return Frame(mean.float(), (vectors[:, kept] / unit).float(), (values[kept] / unit**2).clamp_min(1e-12).float())


def _eigh(moment: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues, ascending, and eigenvectors. Divide and conquer fails on one in a hundred matrices of low rank."""
    try:
        return torch.linalg.eigh(moment)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        values, vectors = scipy.linalg.eigh(moment.cpu().numpy(), driver="ev")
        return torch.from_numpy(values).to(moment.device), torch.from_numpy(vectors).to(moment.device)


def moments(*parts: Float[Tensor, "_ d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance of the rows of all parts in float64, in one pass; an early mean is taken off before.

    Raises FitError where the rows are not finite.
    """
    n, d = sum(map(len, parts)), parts[0].shape[1]
    shift = parts[0][:MOMENT_BLOCK].double().mean(0)
    total = torch.zeros(d, dtype=torch.float64, device=shift.device)
    moment = torch.zeros(d, d, dtype=torch.float64, device=shift.device)
    panels = list(range(0, d, max(64, -(-d // 8))))
    for rows in (rows for part in parts for rows in part.split(MOMENT_BLOCK)):
        centred = rows.double() - shift
        total += centred.sum(0)
        # The upper triangle in panels: nearly half of the work of the whole.
        for start, stop in zip(panels, [*panels[1:], d], strict=True):
            moment[start:stop, start:].addmm_(centred[:, start:stop].T, centred[:, start:])
    moment = moment.triu() + moment.triu(1).T
    if not bool(torch.isfinite(moment).all()):
        raise FitError(f"activations of {n} rows x {d} coordinates are not all finite.")
    delta = total / n
    return shift + delta, moment / n - torch.outer(delta, delta)
