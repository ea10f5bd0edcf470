"""Edits of a subspace: exact identities over drawn shapes, then pyvene and TransformerLens as outside judges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import BadInput
from probekit.model.interventions import (
    ablate,
    complement,
    interchange,
    keep_only,
    orthonormal,
    placebo,
    project,
    remove,
    steer,
)


@st.composite
def cases(draw):
    d = draw(st.integers(1, 9))
    k, n, seed = draw(st.integers(0, d)), draw(st.integers(1, 5)), draw(st.integers(0, 999))
    g = torch.Generator().manual_seed(seed)
    act, other, mean = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((n, d), (n, d), (d,)))
    return act, other, mean, orthonormal(torch.randn(d, k, generator=g, dtype=torch.float64))


@given(cases())
def test_identities(case):
    act, other, mean, basis = case
    rest = complement(basis)
    assert torch.allclose(project(act, basis) + remove(act, basis), act)
    assert torch.allclose(remove(remove(act, basis), basis), remove(act, basis))
    assert torch.allclose(ablate(ablate(act, basis, mean), basis, mean), ablate(act, basis, mean))
    assert torch.allclose(keep_only(keep_only(act, basis, other), basis, other), keep_only(act, basis, other))
    # what one keeps the other replaces
    assert torch.allclose(keep_only(act, basis, other), interchange(other, act, basis))
    assert torch.allclose(keep_only(act, basis, other), interchange(act, other, rest))
    assert torch.allclose(keep_only(act, basis, other) @ basis, act @ basis)
    assert torch.allclose(keep_only(act, basis, other) @ rest, other @ rest)
    assert torch.allclose(project(act, basis), remove(act, rest))
    assert torch.allclose(ablate(act, basis, mean * 0), remove(act, basis))


@given(cases())
def test_edges_of_k(case):
    act, other, _, _ = case
    nothing, everything = act.new_zeros(act.shape[1], 0), torch.eye(act.shape[1], dtype=act.dtype)
    assert torch.equal(keep_only(act, nothing, other), other)
    assert torch.allclose(keep_only(act, everything, other), act)
    assert torch.equal(remove(act, nothing), act)


def test_orthonormal_drops_what_is_dependent():
    a = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    basis = orthonormal(torch.cat([a, a @ torch.tensor([[1.0], [2.0]])], 1))
    assert basis.shape == (6, 2)
    assert torch.allclose(basis.mT @ basis, torch.eye(2), atol=1e-6)
    assert torch.allclose(project(a.mT, basis), a.mT, atol=1e-5)
    assert orthonormal(torch.zeros(6, 3)).shape == (6, 0)
    with pytest.raises(BadInput, match="finite"):
        orthonormal(torch.full((3, 1), torch.nan))


def test_steer_and_placebo_have_the_stated_length():
    g = torch.Generator().manual_seed(0)
    act, edited, random = (torch.randn(4, 8, generator=g) for _ in range(3))
    moved = placebo(act, edited, random) - act
    assert torch.allclose(moved.norm(dim=-1), (edited - act).norm(dim=-1), atol=1e-5)
    assert float((steer(act, random[0], 2.5) - act)[0].norm()) == pytest.approx(2.5, abs=1e-5)


@pytest.mark.filterwarnings("ignore")  # of pyvene's own imports
def test_interchange_agrees_with_pyvene():
    from pyvene.models.interventions import LowRankRotatedSpaceIntervention

    g = torch.Generator().manual_seed(0)
    base, source, weight = (
        torch.randn(5, 8, generator=g),
        torch.randn(5, 8, generator=g),
        torch.randn(8, 3, generator=g),
    )
    theirs = LowRankRotatedSpaceIntervention(embed_dim=8, low_rank_dimension=3)
    basis = orthonormal(weight)
    with torch.no_grad():
        theirs.rotate_layer.weight = basis
        assert torch.allclose(theirs(base, source), interchange(base, source, basis), atol=1e-5)
    # a basis that is not orthonormal gives something else: the comparison can fail
    assert not torch.allclose(base + (source - base) @ weight @ weight.mT, interchange(base, source, basis), atol=1e-2)
