"""Distributed alignment search: a subspace of fixed rank, learned so that swapping it brings the source's answer.

Geiger, Wu, Potts, Icard and Goodman (2023), arXiv 2303.02536. What runs the network is the caller's: a function that
gradients pass through. Only the subspace matters, so it moves on the Grassmannian, by gradients with momentum that are
divided by their own running size; a rate is thus an angle, and nothing depends on the axes that activations come in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probekit.errors import BadInput

# From edited activations [n, d] of the pairs `rows` [n] to logits [n, outcome]; the logarithm of a law is as good.
Run = Callable[[Tensor, Tensor], Tensor]
MOMENTUM, MEMORY = 0.9, 0.99  # of the gradient and of its squared length
LOOK = 20  # steps between two looks at the pairs that decide when to stop
PATIENCE = 10  # looks without a gain of GAIN of the lowest loss
GAIN = 1e-3


@dataclass(frozen=True)
class Das:
    """A learned subspace, and how well swapping it brings what is wanted.

    basis [d, k]: orthonormal columns. train_loss, select_loss, test_loss: bits per pair, cross-entropy of the edited
    network's law to the wanted one; test_loss is None without test pairs. n_steps: those after which the basis was
    kept; 0 for a start that nothing improved. starts: the lowest select_loss of each start. The first of them is the
    difference of means, the others are random.
    """

    basis: Float[Tensor, "d k"]
    train_loss: float
    select_loss: float
    test_loss: float | None
    n_steps: int
    starts: tuple[float, ...]

    @property
    def k(self) -> int:
        """Rank."""
        return self.basis.shape[1]

    @property
    def overfit(self) -> float | None:
        """Bits per pair by which the pairs it was fitted on do better than those held out."""
        return None if self.test_loss is None else self.test_loss - self.train_loss


def fit_das(
    run: Run,
    base: Float[Tensor, "n d"],
    source: Float[Tensor, "n d"],
    wanted: Float[Tensor, "n outcome"],
    *,
    select: Int[Tensor, " n_select"],
    k: int,
    test: Int[Tensor, " n_test"] | None = None,
    seed: int = 0,
    steps: int = 600,
    lr: float = 0.15,
    batch: int = 256,
    n_starts: int = 3,
    patience: int = PATIENCE,
) -> Das:
    """The subspace of rank k whose swap from `source` into `base` brings the wanted law, as select pairs find.

    base, source: activations of each pair at one site; wanted: the law that the source's value is to bring. select,
    test: pairs, by number, of other groups than the rest, which it is fitted on. run: gets the numbers of the pairs
    beside their edited activations, and may use any state of its own; gradients are asked of the activations alone.
    lr: radians by which a step turns each direction at the start, falling to 0 over the steps. patience: looks (every
    20 steps) without a gain after which it stops. Starts run side by side,
    n_starts * batch pairs in a call, and the one of lowest loss on select pairs at any look is returned. On the device
    of the activations, and the same for the same seed. Raises BadInput for what does not fit together.
    """
    _check(base, source, wanted, select, test, k, min(steps, batch, n_starts))
    # Activations that were captured in inference mode cannot be part of what gradients pass through.
    with torch.inference_mode(False), torch.enable_grad():
        pairs = _Pairs(run, base.clone(), source.clone(), wanted.clone(), batch)
        others = torch.ones(len(base), dtype=torch.bool, device=base.device)
        for rows in (select, test):
            if rows is not None:
                others[rows.to(base.device)] = False
        fit = torch.nonzero(others).flatten()
        if len(fit) == 0:
            raise BadInput("all pairs are select or test pairs: leave some to fit the subspace on.")
        generator = torch.Generator().manual_seed(seed)
        bases = torch.stack(
            [_mean_difference(pairs, fit, k), *(_random(pairs.base, k, generator) for _ in range(n_starts - 1))]
        )
        kept, lowest, at = _search(pairs, bases, fit, select.to(base.device), steps, lr, patience, generator)
        best = int(lowest.argmin())
        loss = {
            name: float(pairs.bits(kept[best], rows.to(base.device)).mean())
            for name, rows in (("train", fit), ("test", test))
            if rows is not None
        }
        return Das(
            kept[best].clone(), loss["train"], float(lowest[best]), loss.get("test"), int(at[best]),
            tuple(lowest.tolist()),
        )  # fmt: skip


def interchanged_laws(
    run: Run,
    basis: Float[Tensor, "d k"],
    base: Float[Tensor, "n d"],
    source: Float[Tensor, "n d"],
    rows: Int[Tensor, " m"],
    batch: int = 256,
) -> Float[Tensor, "m outcome"]:
    """Laws of the pairs `rows` with the part of `base` in the subspace taken from `source`."""
    with torch.no_grad():
        parts = [
            run(_swapped(base[at], source[at], basis[None])[0], at).softmax(-1)
            for at in rows.to(base.device).split(batch)
        ]
    return torch.cat(parts)


@dataclass(frozen=True)
class _Pairs:
    """What a fit is given, with the losses that are asked of it."""

    run: Run
    base: Float[Tensor, "n d"]
    source: Float[Tensor, "n d"]
    wanted: Float[Tensor, "n outcome"]
    batch: int

    def losses(self, bases: Float[Tensor, "s d k"], rows: Int[Tensor, " n"]) -> Float[Tensor, "s n"]:
        """Bits of each pair under each subspace, in one call of the network."""
        edited = _swapped(self.base[rows], self.source[rows], bases)
        logits = self.run(edited.flatten(0, 1), rows.repeat(len(bases)))
        log_law = logits.to(bases.dtype).log_softmax(-1).unflatten(0, (len(bases), len(rows)))
        return -(self.wanted[rows] * log_law).sum(-1) / log(2)

    def bits(self, basis: Float[Tensor, "d k"], rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Bits of many pairs, batch by batch and without gradients."""
        return self.many_bits(basis[None], rows)[0]

    def many_bits(self, bases: Float[Tensor, "s d k"], rows: Int[Tensor, " n"]) -> Float[Tensor, "s n"]:
        """The same of several subspaces."""
        with torch.no_grad():
            return torch.cat([self.losses(bases, some) for some in rows.split(self.batch)], 1)


def _swapped(
    base: Float[Tensor, "n d"], source: Float[Tensor, "n d"], bases: Float[Tensor, "s d k"]
) -> Float[Tensor, "s n d"]:
    """base + (source - base) U U^T for each U, in the type that activations have."""
    moved = (source - base).to(bases.dtype)
    return (base.to(bases.dtype) + (moved @ bases) @ bases.mT).to(base.dtype)


def _search(
    pairs: _Pairs, bases: Float[Tensor, "s d k"], fit: Tensor, select: Tensor, steps: int, lr: float,
    patience: int, generator: torch.Generator,
) -> tuple[Float[Tensor, "s d k"], Float[Tensor, " s"], Int[Tensor, " s"]]:  # fmt: skip
    """Of each start the subspace of lowest loss on select pairs, that loss, and the step after which it was found."""
    kept, lowest = bases, pairs.many_bits(bases, select).mean(1)
    at = torch.zeros(len(bases), dtype=torch.long, device=bases.device)
    pull, size, order = torch.zeros_like(bases), bases.new_zeros(len(bases), 1, 1), fit[:0]
    best, idle = float(lowest.min()), 0
    for i in range(steps):
        if len(order) < min(pairs.batch, len(fit)):
            order = fit[torch.randperm(len(fit), generator=generator).to(fit.device)]
        rows, order = order[: pairs.batch], order[pairs.batch :]
        free = bases.detach().requires_grad_()
        slope = torch.autograd.grad(pairs.losses(free, rows).mean(1).sum(), free)[0]
        pull = MOMENTUM * pull + (1 - MOMENTUM) * _tangent(bases, slope)
        size = MEMORY * size + (1 - MEMORY) * (_tangent(bases, slope) ** 2).sum((1, 2), keepdim=True)
        scale = (size / (1 - MEMORY ** (i + 1))).sqrt() * (1 - MOMENTUM ** (i + 1))
        # A subspace that fills the site, or a loss that is flat, has no slope to be divided by.
        bases = _orthonormal(bases - lr * bases.shape[2] ** 0.5 * (1 - i / steps) * pull / scale.clamp_min(1e-30))
        pull = _tangent(bases, pull)
        if i % LOOK == LOOK - 1 or i == steps - 1:
            seen = pairs.many_bits(bases, select).mean(1)
            better = seen < lowest
            kept, lowest = torch.where(better[:, None, None], bases, kept), torch.where(better, seen, lowest)
            at = torch.where(better, i + 1, at)
            idle = 0 if float(lowest.min()) < (1 - GAIN) * best else idle + 1
            best = float(lowest.min()) if idle == 0 else best
            if idle == patience:
                break
    return kept, lowest, at


def _tangent(bases: Float[Tensor, "s d k"], move: Float[Tensor, "s d k"]) -> Float[Tensor, "s d k"]:
    """The part of a move that leaves the subspace: what turns it within itself changes nothing."""
    return move - bases @ (bases.mT @ move)


def _orthonormal(bases: Float[Tensor, "s d k"]) -> Float[Tensor, "s d k"]:
    """The retraction: Q of QR, of the sign that moves nothing where nothing has to be moved."""
    q, r = torch.linalg.qr(bases)
    return q * r.diagonal(dim1=1, dim2=2).sign()[:, None]


def _mean_difference(pairs: _Pairs, fit: Tensor, k: int) -> Float[Tensor, "d k"]:
    """Directions along which displacements go with what is wanted, filled up with those in which they are largest."""
    moved = (pairs.source[fit] - pairs.base[fit]).to(_working(pairs.base))
    wanted = pairs.wanted[fit].to(moved)
    told = torch.linalg.svd(moved.T @ (wanted - wanted.mean(0)), full_matrices=False)
    some = told.U[:, 1e-6 * told.S.max().clamp_min(1e-30) < told.S][:, :k]
    rest = moved - (moved @ some) @ some.T
    axes = torch.linalg.eigh(rest.T @ rest).eigenvectors.flip(1)[:, : k - some.shape[1]]
    return _orthonormal(torch.cat([some, axes], 1)[None])[0]


def _random(like: Float[Tensor, "n d"], k: int, generator: torch.Generator) -> Float[Tensor, "d k"]:
    """A uniform subspace, the same on every device."""
    drawn = torch.randn(like.shape[1], k, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].to(like.device, _working(like))


def _working(like: Tensor) -> torch.dtype:
    """Single precision at least: in half precision a basis would not stay orthonormal."""
    return torch.promote_types(like.dtype, torch.float32)


def _check(
    base: Tensor, source: Tensor, wanted: Tensor, select: Tensor, test: Tensor | None, k: int, least: int
) -> None:
    n, d = base.shape
    if source.shape != base.shape or len(wanted) != n:
        found = f"{tuple(base.shape)}, {tuple(source.shape)} and {len(wanted)}"
        raise BadInput(f"base and source are [n, d] of the same pairs, wanted has n rows; found {found}.")
    if not 1 <= k <= d:
        raise BadInput(f"a subspace of rank {k} is asked for in {d} coordinates: give a rank from 1 to {d}.")
    if least < 1:
        raise BadInput(f"steps, batch and n_starts are counts of at least 1; found {least}.")
    told = select if test is None else torch.cat([select, test.to(select.device)])
    if len(select) == 0 or int(told.min()) < 0 or int(told.max()) >= n or len(told.unique()) < len(told):
        raise BadInput(
            f"select and test are different pairs of 0 to {n - 1}, at least one to select by: give each once."
        )
    if not all(bool(torch.isfinite(part).all()) for part in (base, source, wanted)):
        raise BadInput("activations and laws must be finite to fit a subspace.")
