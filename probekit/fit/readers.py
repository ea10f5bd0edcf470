"""Readers: every level of docs/method.md section 1 fitted at one site, behind one shape.

A Reader is what was fitted, ready to be applied to raw activations and a floor's logits, in any domain. All are fitted
on the same rows beside the same floor; ridge, class restarts and early stops are chosen on the selection rows, and a
temperature with intercepts is fitted on the calibration rows, kept only where the selection rows gain by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probekit.fit.directions import (
    fit_low_rank,
    fit_rank_curve,
    lda,
    mean_difference,
    n_free,
    pca,
    pick_neurons,
    random_directions,
    residual_moment,
)
from probekit.fit.frame import Frame, frame_of, frame_rows, moments
from probekit.fit.gaussian import is_value
from probekit.fit.mlp import fit_mlp, fit_mlps
from probekit.fit.path import LAMBDAS, Pair, beyond, fit_nested, fit_path
from probekit.fit.platt import fit_platt
from probekit.fit.readout import TOLERANCE, Readout, Rows, calibrate, cross_entropy, fit_readout, log_prior, smoothed
from probekit.fit.simple.joint import Simple, fit_simples, n_features, tells
from probekit.fit.simple.starts import MAX_K, Core, Region
from probekit.levels import Level
from probekit.metrics.classes import LEAST_MASS
from probekit.records import SOURCE_PREFIXES

CLASSES = 8  # of equal numbers of fit rows, into which a number is parted where simple functions of it are looked for
# Coordinates that joint fits look at, so many or one for so many rows: along more of them a few rows fit anything, and
# the directions of an XOR are not found.
LOUDEST, ROWS_PER_LOUD = 64, 8
FEW_PER_COORDINATE = 20  # rows, below which larger ridges are tried: at 1.3 the best one may be ten times the largest
FEW_TOLERANCE = 1e-7  # nats: large ridges bend a loss so little that a looser one is seen in the third digit


@dataclass(frozen=True)
class Affine:
    """What a linear reader says: (x - centre) @ along @ weight + bias + scale * offset; along None: all of x.

    weight [outcome, t, m] with m = k, or d without `along` [d, k]; bias [outcome, t]; scale [t]; centre [d].
    """

    weight: Float[Tensor, "outcome t m"]
    bias: Float[Tensor, "outcome t"]
    scale: Float[Tensor, " t"]
    centre: Float[Tensor, " d"]
    along: Float[Tensor, "d k"] | None = None

    def after(self, theta: Float[Tensor, "t outcome1"]) -> "Affine":
        """The same behind a temperature and intercepts (`calibrate`)."""
        size = theta[:, 0].exp()
        return replace(
            self, weight=size[:, None] * self.weight, bias=size * self.bias + theta[:, 1:].T, scale=size * self.scale
        )


@dataclass(frozen=True)
class Reader:
    """A fitted level. logits: (x [n, d], offset [outcome, target, n]) -> [outcome, target, n].

    directions [d, k]: where it looks, if anywhere. affine: the same as `logits`, in numbers, of what is linear.

    parameters: fitted numbers, the over-complete class counted once less.
    """

    level: str
    source: str
    k: int | None
    parameters: int
    logits: Callable[[Tensor, Tensor], Tensor]
    directions: Float[Tensor, "d k"] | None = None
    note: str = ""
    affine: Affine | None = None

    def bits(self, data: "Side") -> Float[Tensor, "t n"]:
        """Cross-entropy per row and target."""
        return cross_entropy(self.logits(data.x, data.offset), data.law)


@dataclass(frozen=True)
class Side:
    """Rows of one side of a split at one site: activations [n, d], behaviour and floor logits [outcome, target, n]."""

    x: Float[Tensor, "n d"]
    law: Float[Tensor, "outcome t n"]
    offset: Float[Tensor, "outcome t n"]


@dataclass(frozen=True)
class Site:
    """One site ready for fitting: its sides, the frame of the training rows, both sides in it, the linear readout.

    whole: the rows of fit and then select, in the frame.
    calibration: the side that temperatures are fitted on, None to leave readers as they were fitted. inner: pairs of
    positions in the rows of fit and then select, over which ridges are chosen; empty: fitted on `fit`, chosen on
    `select`. known: what `low_rank` has found.
    """

    fit: Side
    select: Side
    frame: Frame
    whole: Rows
    linear: Readout
    seed: int
    lambdas: Sequence[float]
    calibration: Side | None = None
    inner: Sequence[Pair] = ()
    known: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def prepare(
        cls,
        training: Sequence[tuple[Side, Side, Side | None]],
        seed: int,
        lambdas: Sequence[float] = LAMBDAS,
        inner: Sequence[Pair] = (),
        framed: tuple[Frame, Tensor] | None = None,
    ) -> list["Site"]:
        """Rotate the rows once and fit the linear readouts, which most levels start from.

        training: sides to fit, to select and to calibrate on, of one site or of several. These have the same rows of
        activations, and differ in what the rows show, what they weigh and the floor: their readouts are one problem.
        framed: the frame of the rows, and those of fit and then select in it, where they are known. Raises FitError
        where one of them has none.
        """
        fit, select, _ = training[0]
        frame, z = framed or (frame_rows(fit.x, select.x) if inner else frame_rows(fit.x, beside=[select.x]))
        tolerance, n_seen = TOLERANCE, len(fit.x) + (len(select.x) if inner else 0)
        if n_seen < FEW_PER_COORDINATE * len(frame.variance):
            lambdas, tolerance = beyond(lambdas), FEW_TOLERANCE
        parts = [inside for inside, _ in inner] if inner else [slice(len(fit.x))]
        rows = [_both_sides(z, one, other, parts) for one, other, _ in training]
        together = Rows(z, torch.cat([one.law for one in rows], 1), torch.cat([one.beside for one in rows], 1))
        linear = fit_nested(together, len(fit.x), inner, frame.variance, lambdas, tolerance)
        targets = torch.arange(together.law.shape[1], device=z.device).split([one.law.shape[1] for one in rows])
        return [
            cls(one, other, frame, whole, linear.take(at), seed, lambdas, calibration, inner)
            for (one, other, calibration), whole, at in zip(training, rows, targets, strict=True)
        ]

    @property
    def rows(self) -> tuple[Rows, Rows]:
        """Both sides in the frame."""
        n = len(self.fit.x)
        return (
            Rows(self.whole.z[:n], self.whole.law[..., :n], self.fit.offset),
            Rows(self.whole.z[n:], self.whole.law[..., n:], self.select.offset),
        )

    def calibrated(self, reader: "Reader") -> "Reader":
        """The reader after its temperature and intercepts, if they help on the selection rows."""
        side = self.calibration
        if side is None or not len(side.x):
            return reader
        theta = fit_platt(reader.logits(side.x, side.offset), side.law)
        before = reader.logits(self.select.x, self.select.offset)
        after = calibrate(before, theta)
        if cross_entropy(after, self.select.law).mean() >= cross_entropy(before, self.select.law).mean():
            return reader
        free = theta.shape[0] * (theta.shape[1] - 1)  # intercepts sum to 0, and the temperature
        return replace(
            reader,
            logits=lambda x, offset: calibrate(reader.logits(x, offset), theta),
            parameters=reader.parameters + free,
            affine=None if reader.affine is None else reader.affine.after(theta),
        )

    def low_rank(self, k: int) -> Float[Tensor, "r k"]:
        """Directions of the rank-k multinomial, found once."""
        if k not in self.known:
            self.known[k] = fit_low_rank(self.rows[0], self.unseen, self.frame.variance, k)
        return self.known[k]

    @cached_property
    def unseen(self) -> Readout:
        """The linear readout that the selection rows have no part in.

        What is found with the behaviour's help must be chosen on other rows: ridges of a direction that knows the rows
        held out would follow noise. Over inner folds the linear readout itself has seen all of them.
        """
        known = torch.isfinite(self.linear.ridge)
        if not self.inner or not bool(known.any()):
            return self.linear
        fit, ridge = self.rows[0], torch.where(known, self.linear.ridge, torch.ones_like(self.linear.ridge))
        found = fit_readout(fit.z, fit.law, fit.offset, self.frame.variance, ridge, self.linear)
        return self.linear.put(torch.nonzero(known).flatten(), found.take(torch.nonzero(known).flatten()))

    @cached_property
    def in_classes(self) -> "Site":
        """The same rows of a number that show which of CLASSES parts what the floor leaves of it lies in.

        Directions along which a number changes are among those along which its law does, which joint fits look for.
        """
        left = torch.cat([side.law - side.offset for side in (self.fit, self.select)], -1)[0, 0]
        n, share = len(self.fit.x), torch.arange(1, CLASSES, device=left.device) / CLASSES
        part = torch.bucketize(left, left[:n].quantile(share.to(left)))
        law = torch.nn.functional.one_hot(part, CLASSES).T[:, None].to(left)
        whole = Rows(self.whole.z, law, torch.zeros_like(law))
        fit, select = (Side(side.x, law[..., at], torch.zeros_like(law[..., at]))
                       for side, at in ((self.fit, slice(n)), (self.select, slice(n, None))))  # fmt: skip
        linear = fit_nested(whole, n, self.inner, self.frame.variance, self.lambdas)
        return Site(fit, select, self.frame, whole, linear, self.seed, self.lambdas, None, self.inner)

    @property
    def n_loudest(self) -> int:
        """Coordinates that joint fits look at: all where rows are many."""
        return min(self.d, max(LOUDEST, len(self.fit.x) // ROWS_PER_LOUD))

    @cached_property
    def core(self) -> Core:
        """Where simple functions look."""
        return Core.of(self.rows, self.frame.variance, self.low_rank(min(MAX_K, self.d)), self.n_loudest)

    @cached_property
    def region(self) -> Region:
        """Where joint fits start, shared by all simple functions."""
        return Region.of(*self.core.rows, self.core.variance, self.core.linear, self.seed)

    @property
    def d(self) -> int:
        """Coordinates of the site that vary at all."""
        return len(self.frame.variance)

    def back(self, directions: Float[Tensor, "r k"]) -> Float[Tensor, "d k"]:
        """Directions in frame coordinates as directions on raw activations."""
        return self.frame.back(directions)


def _both_sides(z: Tensor, fit: Side, select: Side, parts: Sequence[Tensor | slice]) -> Rows:
    """Rows of fit and then select; an outcome that hardly any of some part has is lent a row's worth."""
    law, offset = (torch.cat(both, -1) for both in ((fit.law, select.law), (fit.offset, select.offset)))
    if not is_value(law) and any(float(law[..., part].sum(-1).min()) < LEAST_MASS for part in parts):
        law = smoothed(law)
    return Rows(z, law, offset)


def fit_level(site: Site, level: Level, ks: Sequence[int]) -> Iterator[Reader]:
    """All readers of one level, calibrated: one per k where the level has one, one per source for `direction`."""
    for reader in _uncalibrated(site, level, ks):
        yield reader if level.family in ("prior", "baseline") else site.calibrated(reader)


def _uncalibrated(site: Site, level: Level, ks: Sequence[int]) -> Iterator[Reader]:
    free = n_free(site.fit.law)
    match level.family:
        case "prior":
            yield _prior(site, free)
        case "baseline":
            yield Reader("baseline", "", None, 0, lambda x, offset: offset)
        case "neurons":
            yield from _neurons(site, _upto(ks, site.fit.x.shape[1]), free)
        case "direction":
            for source, direction in _sources(site).items():
                yield from _along(site, "direction", source, site.back(direction), (1,), free)
        case "directions":
            asked = _upto(ks, min(site.d, free))
            for k, found in fit_rank_curve(site.rows[0], site.unseen, site.frame.variance, asked).items():
                yield from _along(site, "directions", "behaviour", site.back(found), (k,), free)
            asked = _upto(ks, site.d)
            yield from _along(site, "directions", "pca", site.back(pca(site.frame, asked[-1])), asked, free)
        case "simple":
            asked = _upto(ks, min(site.d, MAX_K))
            where = site.in_classes if is_value(site.fit.law) else site
            found = fit_simples(level.member, asked, *where.core.rows, where.region, site.lambdas)
            for k, fitted in found.items():
                if where is not site:
                    fitted = _of_the_number(site, fitted)
                yield _simple(where, level, k, fitted, free)
        case "linear":
            yield _linear(site, free)
        case "nonlinear":
            yield _nonlinear(site)


def random_readers(site: Site, ks: Sequence[int], seed: int) -> Iterator[Reader]:
    """The control: readouts of k random directions."""
    asked = _upto(ks, site.d)
    basis = random_directions(site.fit.x.shape[1], asked[-1], seed).to(site.fit.x.device)
    for reader in _along(site, "directions", "random", basis, asked, n_free(site.fit.law)):
        yield site.calibrated(reader)


def given_readers(site: Site, source: str, directions: Float[Tensor, "d k"], ks: Sequence[int]) -> Iterator[Reader]:
    """Readouts of the first k of directions that nobody fitted here, for the asked ks below theirs, and of all."""
    n_given = directions.shape[1]
    asked = sorted({*(k for k in ks if k < n_given), n_given})
    for reader in _along(site, "directions", source, directions.to(site.fit.x.device), asked, n_free(site.fit.law)):
        yield site.calibrated(reader)


def _sources(site: Site) -> dict[str, Float[Tensor, "r 1"]]:
    """Single directions, by what found them: of a number its covariance, and what least squares says."""
    if is_value(site.fit.law):
        return {"covariance": mean_difference(site.rows[0]), "least_squares": site.low_rank(1)}
    return {
        "mean_difference": mean_difference(site.rows[0]),
        "lda": lda(site.rows[0], len(site.frame.mean), None if site.inner else site.frame.variance),
        "logistic": site.low_rank(1),
    }


def _upto(ks: Sequence[int], most: int) -> list[int]:
    """The asked k that exist, the largest possible one standing in for all beyond it."""
    return sorted({min(k, most) for k in ks})


def _prior(site: Site, free: int) -> Reader:
    prior = log_prior(site.fit.law)
    return Reader("prior", "", None, free, lambda x, offset: prior[..., None].expand_as(offset))


def _along(
    site: Site, level: str, source: str, directions: Float[Tensor, "d k"], ks: Sequence[int], free: int
) -> Iterator[Reader]:
    """Linear readouts of the first k of some directions, beside the floor, for every k."""
    d = len(directions)
    seen = torch.cat([site.frame.along(side.x, directions) for side in (site.fit, site.select)])
    supervised = source not in ("pca", "random") and not source.startswith(SOURCE_PREFIXES)
    for k, readout in _subsets(site, seen, {k: slice(k) for k in ks}, supervised):
        looked_for = k * (d - k) if supervised else 0
        logits = _on_raw(site, replace(readout, weight=readout.weight @ directions[:, :k].T))
        affine = Affine(readout.weight, readout.bias, readout.scale, site.frame.mean, directions[:, :k])
        yield Reader(level, source, k, looked_for + (k + 1) * free, logits, directions[:, :k], affine=affine)


def _neurons(site: Site, ks: Sequence[int], free: int) -> Iterator[Reader]:
    """Linear readouts of the k coordinates that together tell most, for every k."""
    picked = pick_neurons(site.frame, residual_moment(site.rows[0]), ks)
    every, place = torch.cat(list(picked.values())).unique(return_inverse=True)
    mean = site.frame.mean[every]
    seen = torch.cat([side.x[:, every].float() - mean for side in (site.fit, site.select)])
    sets = dict(zip(picked, place.split([len(at) for at in picked.values()]), strict=True))
    for k, readout in _subsets(site, seen, sets, True):
        at = picked[k]

        def logits(x: Tensor, offset: Tensor, at: Tensor = at, readout: Readout = readout) -> Tensor:
            return readout.logits(x[:, at].float() - site.frame.mean[at], offset)

        axes = torch.zeros(len(site.frame.mean), k, device=at.device).scatter_(0, at[None], 1.0)
        yield Reader("neurons", "beam", k, k + (k + 1) * free, logits, axes)


def _subsets(
    site: Site, seen: Float[Tensor, "n k"], sets: Mapping[int, Int[Tensor, " _"] | slice], supervised: bool
) -> Iterator[tuple[int, Readout]]:
    """Readouts of sets of columns of what is seen of the rows of fit and select, each with a frame of its own.

    supervised: the columns were found with the behaviour of the fit rows, so that only the others may choose a ridge.
    """
    n_fit, law, offset = len(site.fit.x), site.whole.law, site.whole.offset
    inner = () if supervised else site.inner
    mean, moment = moments(seen if inner else seen[:n_fit])
    for k, at in sets.items():
        frame = frame_of(mean[at], moment[at][:, at])
        rows = Rows(frame.apply(seen[:, at]), law, offset)
        found = fit_nested(rows, n_fit, inner, frame.variance, site.lambdas)
        weight = found.weight @ frame.turn.T
        yield k, replace(found, weight=weight, bias=found.bias - weight @ frame.mean)


def _on_raw(site: Site, readout: Readout) -> Callable[[Tensor, Tensor], Tensor]:
    """Logits of a readout whose weights see centred activations."""
    n_outcomes = len(readout.weight)
    weight = rearrange(readout.weight, "outcome t d -> d (outcome t)")

    def logits(x: Tensor, offset: Tensor) -> Tensor:
        linear = rearrange(site.frame.along(x, weight), "n (outcome t) -> outcome t n", outcome=n_outcomes)
        return linear + readout.bias[..., None] + readout.scale[:, None] * offset

    return logits


def _simple(site: Site, level: Level, k: int, fitted: Simple, free: int) -> Reader:
    directions = site.back(site.core.back(fitted.directions))
    shape = sum(value.numel() for value in fitted.shape.values())

    def logits(x: Tensor, offset: Tensor) -> Tensor:
        return fitted.readout.logits(fitted.features_along(site.frame.along(x, directions)), offset)

    parameters = directions.numel() + shape + (n_features(level.member, k) + 1) * free
    return Reader(level.name, "joint", k, parameters, logits, directions)


def _of_the_number(site: Site, found: Simple) -> Simple:
    """A simple function that was found of a number's parts, with a last layer of the number itself, if that tells."""
    rows = site.in_classes.core.rows
    seen = torch.cat([found.features(side.z) for side in rows])
    _, readout = next(_subsets(site, seen, {0: slice(None)}, True))
    made, held_out = replace(found, readout=readout), Rows(rows[1].z, site.select.law, site.select.offset)
    if tells(cross_entropy(site.select.offset, site.select.law), made.bits(held_out)):
        return made
    return replace(found, readout=Readout.nothing(*readout.weight.shape, like=readout.weight))


def _linear(site: Site, free: int) -> Reader:
    weight = rearrange(site.linear.weight, "outcome t r -> r (outcome t)")
    raw = rearrange(site.back(weight), "d (outcome t) -> outcome t d", outcome=len(site.linear.weight))
    raw = replace(site.linear, weight=raw.contiguous())
    affine = Affine(raw.weight, raw.bias, raw.scale, site.frame.mean)
    return Reader("linear", "behaviour", None, (site.d + 1) * free, _on_raw(site, raw), affine=affine)


def _nonlinear(site: Site) -> Reader:
    m = site.n_loudest
    stacked = [Rows(rows.z[:, :m], rows.law, site.linear.logits(rows.z, rows.offset)) for rows in site.rows]
    mlp, below = fit_mlp(*stacked, seed=site.seed), _linear(site, n_free(site.fit.law))
    axes = site.back(pca(site.frame, m))

    def logits(x: Tensor, offset: Tensor) -> Tensor:
        return mlp.logits(site.frame.along(x, axes), below.logits(x, offset))

    parameters = mlp.n_parameters + site.linear.weight.numel()
    return Reader("nonlinear", "mlp", None, parameters, logits, note="" if mlp.epochs else "no epoch beat linear")


ORDERS = {
    "linear_first": ("direction", "directions", "linear", "simple", "nonlinear"),
    "simple_first": ("direction", "directions", "simple", "linear", "nonlinear"),
}


def decompose(site: Site, test: Side, k: int, simple: str) -> dict[str, list[tuple[str, Float[Tensor, "t n"]]]]:
    """Nested models from the floor to `nonlinear`, in each order of ORDERS: (class, test bits) after it was added.

    Each class is fitted beside the logits so far and kept only if the selection rows improve; else the bits repeat.
    k: directions of `directions` and of the simple class.
    """
    sides = (site.fit, site.select, test)
    z = [site.rows[0].z, site.rows[1].z, site.frame.apply(test.x)]
    laws = [side.law for side in sides]
    known: dict[tuple[str, ...], list[Tensor]] = {(): [side.offset for side in sides]}

    def rows_after(names: tuple[str, ...]) -> list[Rows]:
        return [Rows(*three) for three in zip(z, laws, known[names], strict=True)]

    def add(names: tuple[str, ...], logits: list[Tensor]) -> None:
        before = known[names[:-1]]
        better = cross_entropy(logits[1], laws[1]).mean() < cross_entropy(before[1], laws[1]).mean()
        known[names] = logits if better else before

    for names in ORDERS.values():
        for path in (names[: i + 1] for i in range(len(names) - 1)):
            # Orders share their first classes, which are fitted once.
            if path not in known:
                add(path, _add_class(path[-1], rows_after(path[:-1]), site, k, simple))
    # The last class of every order is an MLP: all of them are trained in one batch.
    last = [rows_after(names[:-1]) for names in ORDERS.values()]
    last = [[Rows(r.z[:, : site.n_loudest], r.law, r.offset) for r in rows] for rows in last]
    fits, selects = ([rows[side] for rows in last] for side in (0, 1))
    for names, rows, mlp in zip(ORDERS.values(), last, fit_mlps(fits, selects, [site.seed] * len(last)), strict=True):
        add(names, [mlp.logits(r.z, r.beside) for r in rows])
    return {
        order: [(name, cross_entropy(known[names[: i + 1]][2], laws[2])) for i, name in enumerate(names)]
        for order, names in ORDERS.items()
    }


def _add_class(name: str, rows: list[Rows], site: Site, k: int, simple: str) -> list[Tensor]:
    """Logits of the three sides after one class was fitted beside those in `rows`."""
    variance = site.frame.variance
    if name == "linear":
        linear = fit_path(rows[0], rows[1], variance, site.lambdas)
        return [linear.logits(r.z, r.offset) for r in rows]
    most = 1 if name == "direction" else min(k, len(variance))
    if name == "direction":
        start = site.unseen
    else:
        # Only directions to start from are wanted: one ridge, the site's own, and a loose certificate are enough.
        ridge = torch.where(torch.isfinite(site.linear.ridge), site.linear.ridge, torch.ones_like(site.linear.ridge))
        start = fit_readout(rows[0].z, rows[0].law, rows[0].offset, variance, ridge, tolerance=1e-4)
    found = fit_low_rank(rows[0], start, variance, most)
    if name == "simple":
        core = Core.of((rows[0], rows[1]), variance, found, site.n_loudest)
        region = Region.of(*core.rows, core.variance, core.linear, site.seed)
        fitted = fit_simples(simple, (most,), *core.rows, region, site.lambdas)[most]
        return [fitted.logits(r) for r in (*core.rows, rows[2] if core.axes is None else rows[2].along(core.axes))]
    seen = [Rows(r.z @ found, r.law, r.offset) for r in rows]
    readout = fit_path(seen[0], seen[1], None, site.lambdas)
    return [readout.logits(r.z, r.offset) for r in seen]
