"""Systems: small mechanisms with a right and a wrong account of each, whose every state can be counted.

Rebuilt from the descriptions in Méloux, Pimentel, Portet and Peyrard (2026), arXiv 2607.00267: a two-bit adder, and
five contrasts made to fool a metric. Values that are continuous there are whole numbers here, so that what is true of
an account is found by running every state, and not by sampling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from probekit.errors import BadInput
from probekit.testbeds.ground_truth import CASES
from probekit.testbeds.ground_truth.circuits import SITE

Array = NDArray[np.float64]
Values = Mapping[str, Array]  # name -> value in each of n states
Equation = Callable[..., Array]


@dataclass(frozen=True)
class Mechanism:
    """What is run. roots: name -> values that each can have; equations: name -> function of all that stands before it.

    Every combination of root values is a state, all equally likely.
    """

    roots: Mapping[str, tuple[float, ...]]
    equations: Mapping[str, Equation]

    @property
    def names(self) -> tuple[str, ...]:
        """All variables, each after those it depends on."""
        return (*self.roots, *self.equations)

    @property
    def states(self) -> dict[str, Array]:
        """Every combination of root values: name -> [n]."""
        return dict(zip(self.roots, np.array(list(product(*self.roots.values())), float).T, strict=True))

    def run(self, held: Values) -> dict[str, Array]:
        """All variables with those in `held`, roots among them, at the values given there: name -> [n]."""
        told = {name: held[name] for name in self.roots}
        for name, equation in self.equations.items():
            told[name] = held[name] if name in held else np.asarray(equation(told), float)
        return told


@dataclass(frozen=True)
class Account:
    """A mechanism in fewer words, said to be that of another one.

    told: how it runs, by its own names. parts: its names -> the variables of the mechanism that stand for each. codes:
    of those names that several variables stand for, or whose values are numbers of something, what the variables are at
    0, 1, 2 ...: [n_values, n_parts]; the others have their variable's value. values: that each name can be set to.
    output: names that are answers; soft: whether the answer is the chance of one of two. parents: names that it says
    the answers depend on, and nothing else. internal: variables of the mechanism that belong to how it works and are
    never set.
    """

    told: Mechanism
    parts: Mapping[str, tuple[str, ...]]
    values: Mapping[str, tuple[float, ...]]
    output: tuple[str, ...]
    parents: tuple[str, ...]
    codes: Mapping[str, Array] = field(default_factory=dict)
    internal: tuple[str, ...] = ()
    soft: bool = False

    def read(self, variables: Values) -> dict[str, Array]:
        """Its names as the mechanism's variables have them; of a code the nearest number."""
        out: dict[str, Array] = {}
        for name, parts in self.parts.items():
            found = np.stack([variables[part] for part in parts], -1)
            code = self.codes.get(name)
            out[name] = found[..., 0] if code is None else (
                ((found[..., None, :] - code) ** 2).sum(-1).argmin(-1).astype(float)
            )  # fmt: skip
        return out

    def write(self, names: Values) -> dict[str, Array]:
        """Variables of the mechanism that have these values."""
        out: dict[str, Array] = {}
        for name, value in names.items():
            code = self.codes.get(name)
            found = value[..., None] if code is None else code[value.astype(np.int64)]
            out |= {part: found[..., i] for i, part in enumerate(self.parts[name])}
        return out

    @property
    def mapped(self) -> tuple[str, ...]:
        """Variables that stand for one of its names."""
        return tuple(part for parts in self.parts.values() for part in parts)

    def unmapped(self, mechanism: Mechanism) -> tuple[str, ...]:
        """Variables that it has no word for and says do not matter."""
        return tuple(name for name in mechanism.names if name not in {*self.mapped, *self.internal})


@dataclass(frozen=True)
class Proposal:
    """An account of a mechanism. valid: whether it is right; fools: what looks right although it is wrong."""

    mechanism: Mechanism
    account: Account
    valid: bool
    fools: str = ""


@dataclass(frozen=True)
class System:
    """A right account and wrong ones."""

    name: str
    right: Proposal
    wrong: Mapping[str, Proposal] = field(default_factory=dict)


BIT, TENS = (0.0, 1.0), tuple(float(i) for i in range(11))


def _xor(*bits: Array) -> Array:
    return np.add.reduce(bits) % 2


def _adder_wires() -> Mechanism:
    """Two full adders of gates: five each, and a carry between them."""
    gates: dict[str, Equation] = {}
    for i in (0, 1):
        a, b, carry, differ, both, passed = f"A{i}", f"B{i}", f"C{i}", f"differ{i}", f"both{i}", f"passed{i}"
        gates[differ] = lambda v, a=a, b=b: _xor(v[a], v[b])
        gates[f"S{i}"] = lambda v, differ=differ, carry=carry: _xor(v[differ], v[carry])
        gates[passed] = lambda v, differ=differ, carry=carry: v[differ] * v[carry]
        gates[both] = lambda v, a=a, b=b: v[a] * v[b]
        gates[f"C{i + 1}"] = lambda v, both=both, passed=passed: np.maximum(v[both], v[passed])
    return Mechanism({name: BIT for name in ("A0", "A1", "B0", "B1", "C0")}, gates)


def _adder_account(join: Callable[..., Array] = _xor, inverted: bool = False) -> Account:
    """A + B + carry, with the carry between the bits. join: what makes a sum bit; inverted: the carry's opposite."""
    four = tuple(map(float, range(4)))

    def turned(carry: Array) -> Array:
        return 1 - carry if inverted else carry

    def low(v: Values) -> Array:
        a, b = v["A"] % 2, v["B"] % 2
        spread = _xor(a, b) if join is _xor else np.maximum(a, b)
        return turned(np.maximum(a * b, v["in"] * spread))

    def total(v: Values) -> Array:
        return join(v["A"] % 2, v["B"] % 2, v["in"]) + 2 * join(v["A"] // 2, v["B"] // 2, turned(v["carry"]))

    def over(v: Values) -> Array:
        a, b = v["A"] // 2, v["B"] // 2
        return np.maximum(a * b, turned(v["carry"]) * _xor(a, b))

    told = Mechanism({"A": four, "B": four, "in": BIT}, {"carry": low, "sum": total, "over": over})
    parts = {
        "A": ("A0", "A1"),
        "B": ("B0", "B1"),
        "in": ("C0",),
        "carry": ("C1",),
        "sum": ("S0", "S1"),
        "over": ("C2",),
    }
    inner = tuple(f"{gate}{i}" for i in (0, 1) for gate in ("differ", "passed", "both"))
    values = {"A": four, "B": four, "in": BIT, "carry": BIT, "sum": four, "over": BIT}
    bits = np.array([(number % 2, number // 2) for number in four])
    return Account(
        told, parts, values, ("sum", "over"), ("A", "B", "in", "carry"), dict.fromkeys(("A", "B", "sum"), bits), inner
    )


def _either(*bits: Array) -> Array:
    return np.maximum.reduce(bits)


def _pathway(active: bool) -> Proposal:
    """x -> m -> y, and two copies of x, which turn y on where they differ, if `active`; by themselves they never do."""
    equations: dict[str, Equation] = {name: lambda v: v["x"] for name in ("m", "one", "other")}
    equations["y"] = lambda v: np.maximum(v["m"], _xor(v["one"], v["other"])) if active else v["m"]
    told = Mechanism({"X": BIT}, {"M": lambda v: v["X"], "Y": lambda v: v["M"]})
    account = Account(told, {"X": ("x",), "M": ("m",), "Y": ("y",)}, dict.fromkeys("XMY", BIT), ("Y",), ("M",))
    fools = "copies that never differ by themselves" if active else ""
    return Proposal(Mechanism({"x": BIT}, equations), account, not active, fools)


def _line(factor: float) -> Account:
    """x -> m -> z = 2 x + 3 with m = factor * x."""
    told = Mechanism({"X": TENS}, {"M": lambda v: factor * v["X"], "Z": lambda v: 2 * v["M"] / factor + 3})
    values = {"X": TENS, "M": tuple(2 * x for x in TENS), "Z": tuple(2 * x + 3 for x in TENS)}
    return Account(told, {"X": ("x",), "M": ("m",), "Z": ("z",)}, values, ("Z",), ("M",))


def _three(chained: bool) -> Mechanism:
    """y = 2 x + 1 and z = 3 x + 2, the latter by way of y if `chained`."""
    z: Equation = (lambda v: 1.5 * v["y"] + 0.5) if chained else (lambda v: 3 * v["x"] + 2)
    return Mechanism({"x": TENS}, {"y": lambda v: 2 * v["x"] + 1, "z": z})


def _three_account(chained: bool) -> Account:
    values = {"x": TENS, "y": tuple(2 * x + 1 for x in TENS), "z": tuple(3 * x + 2 for x in TENS)}
    parts = {name: (name,) for name in values}
    return Account(_three(chained), parts, values, ("z",), ("y",) if chained else ("x",))


def _threshold(at: float) -> Account:
    """x -> m = 2 x -> whether m is at least `at`; m can be set to 0, 1, 2 and 3, and is 0 or 2 by itself."""
    told = Mechanism({"X": BIT}, {"M": lambda v: 2 * v["X"], "Z": lambda v: (v["M"] >= at).astype(float)})
    values = {"X": BIT, "M": (0.0, 1.0, 2.0, 3.0), "Z": BIT}
    return Account(told, {"X": ("x",), "M": ("m",), "Z": ("z",)}, values, ("Z",), ("M",))


def _systems() -> tuple[System, ...]:
    wires, line, chain, fork = _adder_wires(), _mechanism_of(_line(2)), _three(True), _three(False)
    steps = _mechanism_of(_threshold(2))
    return (
        System("two-bit adder", Proposal(wires, _adder_account(), True), {
            "OR in place of XOR": Proposal(wires, _adder_account(_either), False),
            "carry inverted, and turned back": Proposal(wires, _adder_account(inverted=True), False, "another name"),
        }),
        System("backup pathway", _pathway(False), {"copies that may differ": _pathway(True)}),
        System("x to 2x to 2x + 3", Proposal(line, _line(2), True), {
            "by way of 3x": Proposal(line, _line(3), False, "another name"),
        }),
        System("fork", Proposal(fork, _three_account(False), True), {
            "a chain": Proposal(fork, _three_account(True), False, "a mediator that is none"),
        }),
        System("chain", Proposal(chain, _three_account(True), True), {
            "a fork": Proposal(chain, _three_account(False), False, "a mediator left out"),
        }),
        System("threshold", Proposal(steps, _threshold(2), True), {
            "a lower threshold": Proposal(steps, _threshold(1), False, "states that never occur"),
        }),
    )  # fmt: skip


def plant_claim(name: str, keep: str, valid: bool, seed: int = 0) -> Proposal:
    """A planted network whose site is taken apart into coordinates, and the account that it runs on those in `keep`.

    The account: the state says what the kept coordinates are, and they say the answer, which is the mean of all states
    that share them. All other coordinates are said not to matter.
    """
    network = CASES[name].network
    planted = network(seed) if network is not None else None
    if planted is None or planted.heads:
        raise BadInput(f"{name} is no planted network that is read at one site: choose among P1, P2, P3, P5, P6b, P8.")
    basis = planted.keeps[keep][SITE]
    k, d = basis.shape[1], basis.shape[0]
    frame = np.linalg.qr(np.concatenate([basis, np.eye(d)], 1))[0]
    frame[:, :k] = basis
    inside, outside = (tuple(f"{side}{i}" for i in range(n)) for side, n in (("kept", k), ("rest", d - k)))
    coordinates = planted.site @ frame
    numbers = tuple(map(float, range(len(coordinates))))

    def answer(v: Values) -> Array:
        h = np.stack([v[part] for part in (*inside, *outside)], -1) @ frame.T
        for layer in planted.layers:
            h = layer(h)
        return expit(h @ planted.out)

    equations: dict[str, Equation] = {
        part: lambda v, i=i: coordinates[v["x"].astype(np.int64), i] for i, part in enumerate((*inside, *outside))
    }
    codes, label = np.unique(coordinates[:, :k].round(9), axis=0, return_inverse=True)
    label = label.ravel()
    means = np.array([planted.law[label == number].mean() for number in range(len(codes))])
    told = Mechanism({"X": numbers}, {"M": lambda v: label[v["X"].astype(np.int64)].astype(float),
                                      "Y": lambda v: means[v["M"].astype(np.int64)]})  # fmt: skip
    values = {"X": numbers, "M": tuple(map(float, range(len(codes)))), "Y": tuple(np.unique(means))}
    account = Account(told, {"X": ("x",), "M": inside, "Y": ("y",)}, values, ("Y",), ("M",), {"M": codes}, soft=True)
    return Proposal(Mechanism({"x": numbers}, {**equations, "y": answer}), account, valid)


PLANTS = {
    "P1, a copied bit": ("P1", "s1", {"a bit that nothing reads": "s2"}),
    "P2, XOR": ("P2", "both", {"one of the two bits": "s1"}),
    "P5, readable and used": ("P5", "e_c", {"the copy that nothing reads": "e_r", "the illusion": "u"}),
    "P6b, majority of copies": ("P6b", "all", {"one copy": "one"}),
    "P8, a backup": ("P8", "a", {"the backup alone": "c"}),
    "P17, errors that cancel": ("P17", "all", {"one spelling of two": "s1 and one spelling"}),
}


def plants(seed: int = 0) -> tuple[System, ...]:
    """Planted networks of one seed, each with a right and a wrong choice of what it runs on."""
    return tuple(
        System(name, plant_claim(case, keep, True, seed),
               {what: plant_claim(case, other, False, seed) for what, other in wrong.items()})
        for name, (case, keep, wrong) in PLANTS.items()
    )  # fmt: skip


def _mechanism_of(account: Account) -> Mechanism:
    """What an account says, as a mechanism in small letters."""
    roots = {account.parts[name][0]: values for name, values in account.told.roots.items()}
    equations: dict[str, Equation] = {
        account.parts[name][0]: lambda v, equation=equation: equation({k: v[p[0]] for k, p in account.parts.items()
                                                                       if p[0] in v})
        for name, equation in account.told.equations.items()
    }  # fmt: skip
    return Mechanism(roots, equations)


SYSTEMS = _systems()
