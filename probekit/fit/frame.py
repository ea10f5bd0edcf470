"""Frame: a site's activations rotated once into the eigenbasis of their covariance, quiet directions left out.

There the Hessian of a readout's loss is nearly diagonal, so that quasi-Newton with a diagonal start takes tens of steps
whatever the spectrum.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import FitError
from probekit.storage import scratch

MOMENT_BLOCK = 4_096  # rows that are upcast to float64 at a time
SPAN_COLUMNS = 512  # columns of few rows that are upcast at a time
KEPT = 2**23  # numbers of few rows that are kept in float64
KEPT_BYTES = 2**27  # of frames that are kept for other behaviours of the same rows
CENTRED = 1_024  # rows that are centred at a time: a block that stays in the cache


@dataclass(frozen=True)
class Frame:
    """An affine change of coordinates z = (x - mean) @ rotation, estimated on the fit rows alone.

    mean [d]; rotation [d, r], orthogonal up to one scale, so that a ridge penalty means the same in both coordinates;
    variance [r] of each z, largest first; r < d where rows are fewer than coordinates, or exactly degenerate. Rows that
    were not among those of the fit lose what lies outside their span, which no reader with a penalty would use.

    length: of every axis. turn: the rotation; of few rows what combines them to it, [n, r]: `span` keeps the rows, and
    nothing of d x r is made before it is asked for.
    """

    mean: Float[Tensor, " d"]
    turn: Float[Tensor, "m r"]
    variance: Float[Tensor, " r"]
    length: float
    span: tuple[Float[Tensor, "_ d"], ...] = ()

    @cached_property
    def rotation(self) -> Float[Tensor, "d r"]:
        """All axes as directions on raw activations."""
        return self.back(torch.eye(len(self.variance), dtype=torch.float32, device=self.mean.device))

    @property
    def spread(self) -> Float[Tensor, "d m"]:
        """A root of the covariance of raw activations, which is spread @ spread.T; of few rows the rows themselves."""
        if not self.span:
            return self.turn.double() * self.variance.double().sqrt() / self.length**2
        n = len(self.turn)
        return torch.cat([(block.T / n**0.5).float() for _, block in _centred_columns(self.span)])

    def back(self, directions: Float[Tensor, "r k"]) -> Float[Tensor, "d k"]:
        """Directions on coordinates of the frame as directions on raw activations."""
        if not self.span:
            return self.turn @ directions
        combined = self.turn @ directions.to(self.turn)
        # What combines rows sums to 0, so that a mean that is rounded takes nothing away.
        blocks = self._upcast or ((part - self.mean).double() for part in self.span)
        weights = combined.split([len(part) for part in self.span])
        out = torch.zeros(directions.shape[1], len(self.mean), dtype=torch.float64, device=self.mean.device)
        for rows, weight in zip(blocks, weights, strict=True):
            out += weight.T @ rows  # a few rows on the left cost a tenth of a few columns on the right
        return out.T.float().contiguous()

    @cached_property
    def _upcast(self) -> tuple[Float[Tensor, "_ d"], ...]:
        """The rows of the span in float64, less their mean, where they are few enough to be kept."""
        if sum(part.numel() for part in self.span) > KEPT:
            return ()
        return tuple(part.double() - self.mean for part in self.span)

    def apply(self, *parts: Float[Tensor, "_ d"]) -> Float[Tensor, "n r"]:
        """Rotate rows of activations; those of several parts come one after the other."""
        if self.span:
            products = torch.zeros(sum(map(len, parts)), len(self.turn), dtype=torch.float64, device=self.mean.device)
            # Their products with the rows of the span; float64, since the quiet axes are small differences of them.
            for (at, centre), block in _centred_columns(self.span):
                products.addmm_(torch.cat([part[:, at] for part in parts]).double() - centre, block.T)
            return (products @ self.turn).float()
        out = room(sum(map(len, parts)), self.turn.shape[1], self.turn)
        at = 0
        for rows in (rows for part in parts for rows in part.split(CENTRED)):
            torch.mm(rows.float() - self.mean, self.turn, out=out[at : at + len(rows)])
            at += len(rows)
        return out

    def along(self, x: Float[Tensor, "n d"], directions: Float[Tensor, "d k"]) -> Float[Tensor, "n k"]:
        """Rows along raw directions `back(v)` as `apply(x) @ v` would have them, without rotating every row."""
        # Centred block by block: a copy of all rows costs more than the product. Written in place: what a block leaves
        # behind would keep the room of the centred rows from being used again.
        across = directions.T.contiguous()
        out = self.mean.new_empty(len(x), directions.shape[1])
        for rows, part in zip(x.split(CENTRED), out.split(CENTRED), strict=True):
            part.copy_((across @ (rows.float() - self.mean).T).T)
        return out


def fit_frame(*parts: Float[Tensor, "_ d"]) -> Frame:
    """The frame of the rows of all parts, in float64. Raises FitError where they are not finite.

    Fewer rows than coordinates decide by their products with each other: nothing of d x d is made.
    """
    n, d = sum(map(len, parts)), parts[0].shape[1]
    return _frame_of_span(parts)[0] if n < d else frame_of(*moments(*parts))


def frame_rows(
    *parts: Float[Tensor, "_ d"], beside: Sequence[Float[Tensor, "_ d"]] = ()
) -> tuple[Frame, Float[Tensor, "n r"]]:
    """The same, and its own rows in it, which few rows need no product for; then those of `beside`."""
    if sum(map(len, parts)) < parts[0].shape[1]:
        frame, z = _frame_of_span(parts)
    else:
        frame, z = fit_frame(*parts), None
    return frame, _with_rows(frame, z, parts, beside)


def _with_rows(frame: Frame, z: Tensor | None, parts: Sequence[Tensor], beside: Sequence[Tensor]) -> Tensor:
    """Rows of parts, which are z where that is known, and of what is beside them, in a frame."""
    if z is None:
        return frame.apply(*parts, *beside)
    return torch.cat([z, frame.apply(*beside)]) if beside else z


def room(n: int, d: int, like: Tensor) -> Float[Tensor, "n d"]:
    """Rows whose values are not set yet; of many, in a file where memory has little room left (`scratch.empty`)."""
    if like.device.type != "cpu":
        return like.new_empty(n, d)
    return torch.from_numpy(scratch.empty((n, d), np.float64 if like.dtype == torch.float64 else np.float32))


def rows_of(x: Float[Tensor, "_ d"], rows: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Some rows in the precision in which they are read, block by block: x may lie in a file."""
    out = room(len(rows), x.shape[1], x.new_empty(0, dtype=torch.float32))
    for part, at in zip(out.split(CENTRED), rows.split(CENTRED), strict=True):
        part.copy_(x[at])
    return out


class Frames:
    """Frames that were fitted last, by the values of their rows, since several behaviours are read from the same ones.

    Up to KEPT_BYTES, with the rows of few in them.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Frame, Tensor | None]] = {}
        self._spans: dict[bytes, Span] = {}

    def of(
        self, *parts: Float[Tensor, "_ d"], beside: Sequence[Float[Tensor, "_ d"]] = (),
        among: Callable[[], tuple[Float[Tensor, "m d"], Int[Tensor, " n"]]] | None = None,
    ) -> tuple[Frame, Float[Tensor, "n r"]]:  # fmt: skip
        """As `frame_rows`. among: gives no more rows than coordinates, of which these are some, and which; others of
        them will be asked for too. It is called where the frame is not known.

        What they have in common is then made once, by `Span`.
        """
        key = b"".join(xxhash.xxh3_128_digest(part.contiguous().cpu().numpy().data) for part in parts)
        if key in self._known:
            frame, z = self._known[key]
            # A frame of its own for each caller: what it finds out on the way goes with the caller.
            frame = replace(frame, span=tuple(parts) if frame.span else ())
            return frame, _with_rows(frame, z, parts, beside)
        if among is not None:
            rows, at = among()
            frame, z = self._span(rows).frame(at, *parts)
            z = _with_rows(frame, z, parts, beside)
        else:
            frame, z = frame_rows(*parts, beside=beside)
        # Without the rows of its span, which whoever asks again brings: a view of them would keep them all.
        bare = replace(frame, span=tuple(part.new_empty(0, part.shape[1]) for part in frame.span))
        self._known[key] = bare, z[: sum(map(len, parts))] if frame.span else None
        while sum(map(_n_bytes, self._known.values())) > KEPT_BYTES:
            del self._known[next(iter(self._known))]
        return frame, z

    def _span(self, rows: Float[Tensor, "n d"]) -> "Span":
        """Of the rows that were asked for last."""
        key = xxhash.xxh3_128_digest(rows.contiguous().cpu().numpy().data)
        if key not in self._spans:
            self._spans = {key: Span.of(rows)}
        return self._spans[key]


@dataclass(frozen=True)
class Span:
    """Products of few rows with each other, less their mean, which frames of any of them are made of: [n, n].

    The rows of outer folds overlap: what takes time over all coordinates is done once, and each frame centres its own
    part of the products anew, so that it knows nothing of the other rows.
    """

    products: Float[Tensor, "n n"]

    @classmethod
    def of(cls, *parts: Float[Tensor, "_ d"]) -> "Span":
        """Of the rows of all parts. Raises FitError where they are not finite."""
        return cls(_products(parts)[0])

    def frame(self, at: Int[Tensor, " m"], *parts: Float[Tensor, "_ d"]) -> tuple[Frame, Float[Tensor, "m r"]]:
        """The frame of some of the rows, fewer than coordinates, and themselves in it; parts: these rows."""
        own = self.products[at][:, at]
        beside = own.mean(0)
        total = torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).sum(0)
        mean = (total / len(at)).float()
        return _frame_of_products(own - beside - (beside - beside.mean())[:, None], mean, parts)


def _n_bytes(kept: tuple[Frame, Tensor | None]) -> int:
    frame, z = kept
    return sum(tensor.numel() * tensor.element_size() for tensor in (frame.turn, z) if tensor is not None)


def _frame_of_span(parts: Sequence[Float[Tensor, "_ d"]]) -> tuple[Frame, Float[Tensor, "n r"]]:
    """The frame of few rows: the eigenvectors of their covariance that are not 0 lie in the span of the rows."""
    return _frame_of_products(*_products(parts), parts)


def _products(parts: Sequence[Float[Tensor, "_ d"]]) -> tuple[Float[Tensor, "n n"], Float[Tensor, " d"]]:
    """Of all rows with each other, less their mean, in float64; and the mean."""
    n, d = sum(map(len, parts)), parts[0].shape[1]
    gram = torch.zeros(n, n, dtype=torch.float64, device=parts[0].device)
    mean = torch.empty(d, device=gram.device)
    for (at, centre), block in _centred_columns(parts):
        mean[at] = centre.float()
        _add_products(gram, block.T)
    gram = gram.triu() + gram.triu(1).T
    if not bool(torch.isfinite(gram).all()):
        raise FitError(f"activations of {n} rows x {d} coordinates are not all finite.")
    return gram, mean


def _frame_of_products(
    gram: Float[Tensor, "n n"], mean: Float[Tensor, " d"], parts: Sequence[Float[Tensor, "_ d"]]
) -> tuple[Frame, Float[Tensor, "n r"]]:
    n = len(gram)
    values, vectors = eigh(gram / n)
    values, vectors, unit = _kept(values, vectors)
    length = (n * values).sqrt().clamp_min(1e-30)
    frame = Frame(mean, vectors / (length * unit), (values / unit**2).clamp_min(1e-12).float(),
                  1 / float(unit), tuple(parts))  # fmt: skip
    return frame, (vectors * (length / unit)).float()


def _add_products(total: Float[Tensor, "c c"], rows: Float[Tensor, "n c"]) -> None:
    """Add the products of columns, in the upper triangle alone, by panels: nearly half of the work of the whole."""
    c = len(total)
    panels = list(range(0, c, max(64, -(-c // 8))))
    for start, stop in zip(panels, [*panels[1:], c], strict=True):
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])


def _centred_columns(
    parts: Sequence[Float[Tensor, "_ d"]],
) -> Iterator[tuple[tuple[slice, Float[Tensor, " c"]], Float[Tensor, "n c"]]]:
    """All rows in float64, less their mean, a few columns at a time: (which, their mean), values."""
    for start in range(0, parts[0].shape[1], SPAN_COLUMNS):
        at = slice(start, start + SPAN_COLUMNS)
        block = torch.cat([part[:, at] for part in parts]).double()
        mean = block.mean(0)
        yield (at, mean), block - mean


def frame_of(mean: Float[Tensor, " d"], moment: Float[Tensor, "d d"]) -> Frame:
    """The frame of rows of this mean and covariance, scaled so that the median variance over directions is 1.

    The median, because a ridge is meant for the typical direction: real models have a few coordinates a thousand times
    as large as the rest, and beside their mean everything else would be regularised away.
    """
    values, vectors, unit = _kept(*eigh(moment))
    return Frame(mean.float(), (vectors / unit).float(), (values / unit**2).clamp_min(1e-12).float(), 1 / float(unit))


def _kept(values: Float[Tensor, " c"], vectors: Float[Tensor, "c c"]) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors that are more than rounding, and the unit: root of the median."""
    # Below float64 resolution of the largest direction an eigenvector is rounding noise, not a direction.
    kept = torch.nonzero(values > (float(values[-1]) * 1e-12)).flatten().flip(0)
    if len(kept) == 0 or float(values[-1]) <= 0:
        kept = torch.tensor([len(values) - 1], device=values.device)
    return values[kept], vectors[:, kept], values[kept].median().clamp_min(1e-30).sqrt()


def eigh(moment: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
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
    for rows in (rows for part in parts for rows in part.split(MOMENT_BLOCK)):
        centred = rows.double() - shift
        total += centred.sum(0)
        _add_products(moment, centred)
    moment = moment.triu() + moment.triu(1).T
    if not bool(torch.isfinite(moment).all()):
        raise FitError(f"activations of {n} rows x {d} coordinates are not all finite.")
    delta = total / n
    return shift + delta, moment / n - torch.outer(delta, delta)
