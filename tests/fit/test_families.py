"""Families of simple functions: slopes against autograd, losses against the textbook's, contrasts and packing."""

import pytest
import torch

from probekit.fit.readout import Rows
from probekit.fit.simple.families import CUTS, Contrasts, FamilyLoss, Pack, features_of, n_features, project, unit
from probekit.levels import SIMPLE

N, Q, STARTS = 40, 5, 3


def problem(kind: str, k: int, n_class: int, targets: int, with_floor: bool, seed: int = 0):
    """Rows in float64 whose laws have masses of their own, and points drawn anywhere."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    law = torch.softmax(draw(n_class, targets, N), 0) * (0.5 + draw(targets, N) ** 2)
    rows = Rows(draw(N, Q), law, draw(n_class, targets, N) if with_floor else None)
    pack = Pack.of(kind, k, Q, rows)
    return rows, pack, draw(STARTS, pack.pack({n: draw(1, *s) for n, s in pack.shapes.items()}).shape[1])


def textbook(rows: Rows, pack: Pack, points: torch.Tensor, steepness: float | None) -> torch.Tensor:
    """Mean cross-entropy over all outcomes, by nothing that the written-out losses share but the features."""
    given = pack.unpack(points)
    directions = unit(given["directions"]) if pack.kind in CUTS else given["directions"]
    features = features_of(pack.kind, torch.einsum("nq,sqk->skn", rows.z, directions), given, steepness)
    contrasts = Contrasts.of(rows.law)
    n_class, targets, _ = rows.law.shape
    logits = (
        torch.einsum("sfc,sfn->scn", contrasts.back(given["out"]), features) + contrasts.back(given["bias"])[..., None]
    )
    logits = logits.view(-1, n_class, targets, N)
    if rows.offset is not None:
        logits = logits + given["scale"][:, None, :, None] * rows.offset
    return -(rows.law * torch.log_softmax(logits, 1)).sum(1).mean(-1).sum(1)


@pytest.mark.parametrize("kind", SIMPLE)
@pytest.mark.parametrize(
    ("n_class", "targets", "with_floor"), [(2, 1, True), (2, 3, False), (5, 2, True), (4, 1, False)]
)
def test_losses_and_slopes_are_those_of_autograd(kind, n_class, targets, with_floor):
    for k in (1, 3):
        rows, pack, points = problem(kind, k, n_class, targets, with_floor)
        steepness = 3.0 if kind in CUTS else None
        moving = points.clone().requires_grad_()
        expected = textbook(rows, pack, moving, steepness)
        value, slope = FamilyLoss.of(pack, rows, steepness)(points)
        torch.testing.assert_close(value, expected.detach(), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(slope(), torch.autograd.grad(expected.sum(), moving)[0], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", list(CUTS))
def test_hard_thresholds_have_losses_and_no_slope(kind):
    rows, pack, points = problem(kind, 2, 3, 1, True)
    value, slope = FamilyLoss.of(pack, rows)(points)
    torch.testing.assert_close(value, textbook(rows, pack, points, None), atol=1e-10, rtol=1e-10)
    with pytest.raises(AssertionError, match="no slope"):
        slope()


@pytest.mark.parametrize("kind", SIMPLE)
def test_logits_give_the_losses(kind):
    rows, pack, points = problem(kind, 2, 4, 2, True)
    losses = FamilyLoss.of(pack, rows)
    logits = losses.logits(pack.unpack(points))
    expected = -(rows.law * torch.log_softmax(logits, 1)).sum(1).mean(-1).sum(1)
    torch.testing.assert_close(losses.values(points), expected, atol=1e-10, rtol=1e-10)


def test_logits_far_from_zero_lose_no_figures():
    """A saturated law, whose exponentials alone would overflow."""
    for n_class in (2, 3):
        rows, pack, points = problem("quadratic", 2, n_class, 1, False)
        value, slope = FamilyLoss.of(pack, rows)(300 * points)
        torch.testing.assert_close(value, textbook(rows, pack, 300 * points, None), atol=1e-6, rtol=1e-9)
        assert bool(torch.isfinite(slope()).all())


@pytest.mark.parametrize("n_class", [2, 3, 65])
def test_contrasts_lose_nothing_of_what_a_law_sees(n_class):
    law = torch.ones(n_class, 2, 7, dtype=torch.float64)
    contrasts = Contrasts.of(law)
    basis = contrasts.basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(n_class - 1, dtype=torch.float64), atol=1e-12, rtol=0)
    values = torch.randn(4, n_class * 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = (values.view(4, n_class, 2) - values.view(4, n_class, 2).mean(1, keepdim=True)).flatten(1)
    torch.testing.assert_close(contrasts.back(contrasts.along(values)), centred, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", SIMPLE)
def test_packing_is_undone_and_features_have_their_number(kind):
    rows, pack, points = problem(kind, 3, 3, 1, False)
    given = pack.unpack(points)
    torch.testing.assert_close(pack.pack(given), points, atol=0, rtol=0)
    features = features_of(kind, project(rows.z, given["directions"]), given)
    assert features.shape == (STARTS, n_features(kind, 3), N)
