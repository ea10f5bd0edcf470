"""Interventions: pure edits of activation tensors within a subspace. What installs them in a forward pass is the model.

A basis is [d, k] with orthonormal columns; `orthonormal` makes one of any directions. Activations are [..., d]. k = 0
is allowed everywhere: the empty subspace.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probekit.errors import BadInput

Act = Float[Tensor, "*batch d"]
Basis = Float[Tensor, "d k"]


@dataclass(frozen=True)
class Abstraction:
    """What is kept or erased: an orthonormal basis [d, k] per hook point. control: '' or `random_directions`.

    features: names of features that donors must agree on instead of a value in the subspace (a stated hypothesis).
    label: the behaviour or feature that the directions were fitted to, of which LEACE can erase all. rule, variables: a
    stated hypothesis and its features, of which `label` is the one that these directions are decoded along: what the
    rule says of the base with the donor's value of it is what its exchange is to bring.
    """

    level: str
    source: str
    k: int
    bases: Mapping[str, Float[Tensor, "d k"]]
    control: str = ""
    features: tuple[str, ...] = ()
    label: str = ""
    rule: Callable[[Mapping[str, Any]], Any] | None = None
    variables: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return self.k == 0 and not self.features


def orthonormal(directions: Float[Tensor, "d m"], tolerance: float = 1e-6) -> Basis:
    """An orthonormal basis of the span of the columns; k is their rank.

    Singular values below `tolerance` of the largest count as zero. Raises BadInput for values that are not finite.
    """
    if not torch.isfinite(directions).all():
        raise BadInput("directions must be finite to span a subspace.")
    if not directions.numel():
        return directions.new_zeros(directions.shape[0], 0)
    # in double precision: nearly parallel directions would lose orthogonality in single
    u, size, _ = torch.linalg.svd(directions.double(), full_matrices=False)
    return u[:, size > tolerance * size[0].clamp_min(1e-300)].to(directions.dtype).contiguous()


def complement(basis: Basis) -> Float[Tensor, "d r"]:
    """An orthonormal basis of everything orthogonal to `basis`."""
    d, k = basis.shape
    return torch.linalg.qr(basis.double(), mode="complete").Q[:, k:].to(basis.dtype) if k else torch.eye(d).to(basis)


def project(act: Act, basis: Basis) -> Act:
    """The part of `act` within the subspace."""
    return (act @ basis) @ basis.mT


def remove(act: Act, basis: Basis) -> Act:
    """The part of `act` outside the subspace: zero ablation of the subspace."""
    return act - project(act, basis)


def ablate(act: Act, basis: Basis, mean: Float[Tensor, " d"]) -> Act:
    """Replace the part within the subspace by that of `mean`: mean ablation."""
    return act - project(act - mean, basis)


def interchange(act: Act, source: Act, basis: Basis) -> Act:
    """Replace the part within the subspace by that of `source`: an interchange intervention."""
    return act + project(source - act, basis)


def keep_only(act: Act, basis: Basis, donor: Act) -> Act:
    """Keep the part within the subspace and take all else from `donor`."""
    return donor + project(act - donor, basis)


def steer(act: Act, direction: Float[Tensor, " d"], dose: float) -> Act:
    """Add `dose` times the unit vector along `direction`."""
    return act + dose * direction / direction.norm()


def placebo(act: Act, edited: Act, random: Act) -> Act:
    """Move `act` as far as `edited` lies from it, in the direction of `random`: a norm-matched control."""
    length = (edited - act).norm(dim=-1, keepdim=True)
    return act + length * random / random.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(act.dtype).tiny)
