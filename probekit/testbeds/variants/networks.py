"""Networks of one task, alike but for one thing, stacked so that many run side by side. `Variant` says what differs.

They add two numbers modulo a prime: both are looked up, the two rows added and passed through an activation function;
then come further layers, one of which may be another differentiable function altogether, and one logit for each sum. Or
they say of four vectors whether both pairs are alike in being equal (`testbeds.equality`), which a matrix takes in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probekit.testbeds import equality

PRIME, WIDTH, DEPTH = 37, 64, 2
SHARE = 0.8  # of the table of sums, that a network is trained on
KNOTS, REACH = 16, 3.0  # of a lookup: values of each unit, evenly over twice this reach
FREE_WIDTH = 1024  # of layers that are never trained
N_VECTORS = 3000
Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """What a network is made of. changed: the one thing that differs from `plain`, in words.

    activation: relu, gelu, silu or tanh. chunk: what stands in place of the second layer's activation function: `gated`
    (half of a product), `radial` (a bump around 0 of each coordinate) or `lookup` (a table per unit, interpolated).
    kept: share of every matrix between neurons that a random mask leaves; shared: free numbers per weight of these,
    which random places share. What numbers are looked up in is left as it is.
    share: of the table that is trained on, 0 for fresh rows at every step. decay: of weights. free: layers that are
    never trained, but the last. first: the first seed, so that no two networks of PARTIAL have one.
    problem: `sum` or `equality`.
    """

    name: str
    changed: str
    problem: Literal["sum", "equality"] = "sum"
    activation: str = "relu"
    chunk: str = ""
    width: int = WIDTH
    depth: int = DEPTH
    kept: float = 1.0
    shared: float = 1.0
    share: float = SHARE
    decay: float = 1.0
    free: bool = False
    first: int = 0

    def seeds(self, n: int) -> tuple[int, ...]:
        """Those of n networks."""
        return tuple(range(self.first, self.first + n))


_PLAIN = Variant("plain", "the seed")
VARIANTS = {
    one.name: one
    for one in (
        _PLAIN,
        *(Variant(name, "the activation function", activation=name) for name in ("gelu", "silu", "tanh")),
        Variant("sparse", "which weights there are", kept=0.5),
        Variant("hashed", "which weights are one", shared=0.5),
        *(Variant(name, "a chunk", chunk=name) for name in ("gated", "radial", "lookup")),
        Variant("narrow", "the width", width=WIDTH // 2),
        Variant("wide", "the width", width=2 * WIDTH),
        Variant("shallow", "the depth", depth=1, width=2 * WIDTH),
        Variant("deep", "the depth", depth=3),
        Variant("memorised", "how it was learned", share=1.0, decay=0.0),
        Variant("unlearned", "how it was learned", share=1.0, decay=0.0, width=FREE_WIDTH, depth=1, free=True),
    )
}
# Tried, and not right about 99.5 % of rows in five networks (CARD.md).
NOT_TRAINED = ("tanh", "equal-unlearned")
CONTROLS = ("memorised", "unlearned")  # the same answers, and no reason to have the algorithm
SHARES = (0.2, 0.3)  # of the table, of networks that generalise more or less
PARTIAL = {
    name: replace(_PLAIN, name=name, share=share, first=100 + 5 * i)
    for i, share in enumerate(SHARES)
    for name in [f"share{share:g}"]
}

EQUAL = Variant("equal-plain", "the seed", "equality", width=32, depth=3, share=0.0, decay=0.0)


def _equal(name: str, **differs: Any) -> Variant:
    return replace(EQUAL, name=f"equal-{name}", changed=VARIANTS[name].changed, **differs)


EQUALITY = {
    one.name: one
    for one in (
        EQUAL,
        *(_equal(name, activation=name) for name in ("gelu", "silu", "tanh")),
        _equal("sparse", kept=0.5),
        _equal("hashed", shared=0.5),
        *(_equal(name, chunk=name) for name in ("gated", "radial", "lookup")),
        _equal("narrow", width=EQUAL.width // 2),
        _equal("wide", width=2 * EQUAL.width),
        _equal("shallow", depth=2, width=2 * EQUAL.width),
        _equal("deep", depth=4),
        _equal("memorised", share=1.0),
        _equal("unlearned", share=1.0, width=2 * FREE_WIDTH, depth=1, free=True),
    )
}


@dataclass(frozen=True)
class Table:
    """All pairs of numbers below PRIME: a, b and their sum [PRIME ** 2]; pair: what a pair is whichever comes first."""

    a: Int[Tensor, " n"]
    b: Int[Tensor, " n"]
    sum: Int[Tensor, " n"]

    @classmethod
    def make(cls) -> "Table":
        """Row a * PRIME + b is the pair (a, b)."""
        a, b = (one.flatten() for one in torch.meshgrid(torch.arange(PRIME), torch.arange(PRIME), indexing="ij"))
        return cls(a, b, (a + b) % PRIME)

    @property
    def pair(self) -> Int[Tensor, " n"]:
        """The same number for (a, b) and (b, a), which a network may know one from the other."""
        return torch.minimum(self.a, self.b) * PRIME + torch.maximum(self.a, self.b)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """As networks take them."""
        return self.a, self.b

    @property
    def answer(self) -> Int[Tensor, " n"]:
        """What a network is to say."""
        return self.sum

    def trained(self, share: float, seed: int) -> Tensor:
        """Which rows [n] a network of this seed is trained on: bool. Both orders of a pair go together."""
        names = self.pair.unique()
        drawn = np.random.default_rng([seed, 51]).permutation(len(names))[: round(share * len(names))]
        return torch.isin(self.pair, names[torch.from_numpy(drawn)])


@dataclass(frozen=True)
class Vectors:
    """Rows of four vectors [n, 16], and whether the left and the right pair are equal [n, 2]."""

    x: Float[Tensor, "*s n 16"]
    same: Bool[Tensor, "*s n 2"]

    @classmethod
    def draw(cls, *shape: int, generator: torch.Generator) -> "Vectors":
        """Both evenly."""
        same = equality.draw_same(*shape, generator=generator)
        return cls(equality.draw_inputs(same, generator), same)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """As networks take them."""
        return (self.x,)

    @property
    def answer(self) -> Int[Tensor, "*s n"]:
        """What a network is to say."""
        return equality.alike(self.same).long()

    @property
    def pair(self) -> Int[Tensor, " n"]:
        """No row is another one's kin."""
        return torch.arange(len(self.x))

    def trained(self, share: float, seed: int) -> Tensor:
        """Which rows [n] a network is trained on: none where it is shown fresh ones, or all."""
        return torch.full((len(self.x),), share == 1)


@cache
def rows_of(problem: str) -> Table | Vectors:
    """The rows that networks of a problem are asked about: the whole table, or N_VECTORS drawn once."""
    if problem == "sum":
        return Table.make()
    return Vectors.draw(N_VECTORS, generator=torch.Generator().manual_seed(53))


@dataclass(frozen=True)
class Networks:
    """s networks of one variant side by side. parameters: each with a first axis of s; fixed: masks and places."""

    variant: Variant
    parameters: Parameters
    fixed: Parameters

    def one(self, i: int) -> "Networks":
        """The i-th of them, still as a stack."""
        parameters, fixed = ({k: v[i : i + 1] for k, v in some.items()} for some in (self.parameters, self.fixed))
        return Networks(self.variant, parameters, fixed)

    def matrix(self, name: str) -> Float[Tensor, "s rows columns"]:
        """A matrix as it is used: with its mask, or its free numbers at their places."""
        made = self.parameters[name]
        if f"{name}.places" in self.fixed:
            places, sign = self.fixed[f"{name}.places"], self.fixed[f"{name}.signs"]
            made = made.gather(1, places.flatten(1)).view(places.shape) * sign
        return made * self.fixed[f"{name}.mask"] if f"{name}.mask" in self.fixed else made

    def hidden(self, *inputs: Tensor) -> list[Float[Tensor, "s n width"]]:
        """What each layer gives, for inputs that all networks share or for each its own: a and b, or vectors."""
        if self.variant.problem == "sum":
            told = sum(_rows(self.matrix(name), at) for name, at in zip("ab", inputs, strict=True))
        else:
            told = inputs[0] @ self.matrix("vectors")
        out = [_ACTIVATIONS[self.variant.activation](told + self.parameters["bias0"])]
        for layer in range(1, self.variant.depth):
            told = torch.baddbmm(self.parameters[f"bias{layer}"], out[-1], self.matrix(f"layer{layer}"))
            out.append(self._chunk(told, out[-1]) if layer == 1 else _ACTIVATIONS[self.variant.activation](told))
        return out

    def _chunk(self, told: Tensor, before: Tensor) -> Tensor:
        match self.variant.chunk:
            case "gated":
                return torch.nn.functional.silu(told) * torch.bmm(before, self.matrix("gate"))
            case "radial":
                return torch.exp(-(told**2))
            case "lookup":
                return interpolated(told, self.parameters["table"])
        return _ACTIVATIONS[self.variant.activation](told)

    def logits(self, *inputs: Tensor) -> Float[Tensor, "s n outcome"]:
        """Of every answer."""
        return self.read_out(self.hidden(*inputs)[-1])

    def read_out(self, last: Float[Tensor, "s n width"]) -> Float[Tensor, "s n outcome"]:
        """Of every answer, from what the last layer gives."""
        return torch.bmm(last, self.matrix("out"))

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of what training changes."""
        return ("out",) if self.variant.free else tuple(self.parameters)


def _rows(table: Float[Tensor, "s prime w"], at: Int[Tensor, "*s n"]) -> Float[Tensor, "s n w"]:
    if at.dim() == 1:
        return table[:, at]
    return table.gather(1, at[..., None].expand(-1, -1, table.shape[2]))


_ACTIVATIONS = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu,
                "tanh": torch.tanh}  # fmt: skip


def interpolated(x: Float[Tensor, "s n w"], table: Float[Tensor, "s w knots"]) -> Float[Tensor, "s n w"]:
    """A function of each unit, given at KNOTS places over twice REACH and straight between them; beyond, its ends."""
    at = ((x / REACH + 1) / 2 * (KNOTS - 1)).clamp(0, KNOTS - 1)
    below = at.detach().floor().clamp(max=KNOTS - 2).long()
    columns = table.transpose(1, 2)  # [s, knots, w]
    low, high = columns.gather(1, below), columns.gather(1, below + 1)
    return low + (at - below) * (high - low)


def untrained(variant: Variant, seeds: tuple[int, ...]) -> Networks:
    """Networks as they start, each drawn from its own seed."""
    made = [_draw(variant, seed) for seed in seeds]
    parameters, fixed = ({name: torch.stack([one[i][name] for one in made]) for name in made[0][i]} for i in (0, 1))
    return Networks(variant, parameters, fixed)


def _draw(variant: Variant, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator, w = torch.Generator().manual_seed(1000 * seed + _FAMILIES.index(_family(variant))), variant.width
    adds, n_in = variant.problem == "sum", equality.SIZE * 4
    shapes = {"a": (PRIME, w), "b": (PRIME, w)} if adds else {"vectors": (n_in, w)}
    shapes |= {f"layer{i}": (w, w) for i in range(1, variant.depth)}
    shapes |= {"gate": (w, w)} if variant.chunk == "gated" else {}
    shapes["out"] = (w, PRIME if adds else 2)
    # Of what takes the inputs in, which is left as it is; entries of vectors have a variance of 1 / 12.
    scale = {"a": 0.5**0.5, "b": 0.5**0.5, "vectors": (12 / n_in) ** 0.5}
    parameters, fixed = {}, {}
    for name, shape in shapes.items():
        between = name not in scale
        size = scale.get(name, (variant.kept * w) ** -0.5)
        if between and variant.kept < 1:
            fixed[f"{name}.mask"] = (torch.rand(shape, generator=generator) < variant.kept).float()
        if between and variant.shared < 1:
            n_free = round(variant.shared * shape[0] * shape[1])
            fixed[f"{name}.places"] = torch.randint(0, n_free, shape, generator=generator)
            fixed[f"{name}.signs"] = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
            shape = (n_free,)
        parameters[name] = size * torch.randn(shape, generator=generator)
    for layer in range(variant.depth):
        size = 1.0 if variant.free else 0.0
        parameters[f"bias{layer}"] = size * torch.randn(1, w, generator=generator)
    if variant.chunk == "lookup":
        parameters["table"] = torch.randn(w, KNOTS, generator=generator)
    return parameters, fixed


_FAMILIES = [*VARIANTS, *EQUALITY]  # each draws from seeds of its own


def _family(variant: Variant) -> str:
    return variant.name if variant.name in _FAMILIES else _PLAIN.name
