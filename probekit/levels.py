"""Level: a probe family fixed in advance. Hypothesis: named features and a rule that the user wrote."""

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile  # which says no to a name that no path can have
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, unknown

SIMPLE = ("one_threshold", "two_thresholds", "quadratic", "bilinear", "cubic", "mlp16")
NAMES = ("prior", "baseline", "neurons", "direction", "directions", "linear", "nonlinear")
DEFAULT = ("prior", "baseline", "neurons", "direction", "directions", "simple:two_thresholds", "simple:quadratic",
           "simple:mlp16", "linear", "nonlinear")  # fmt: skip
WHOLE = ("linear", "nonlinear")  # readers of all numbers of a site


@dataclass(frozen=True)
class Level:
    """`directions`, `simple:quadratic`, `hypothesis:rules`: a family and, after the colon, which member of it.

    family: one of prior, baseline, neurons, direction, directions, simple, linear, nonlinear, hypothesis
    (docs/method.md section 1). member: of `simple` the class, of `hypothesis` its name, else empty.

    >>> import probekit as pk
    >>> level = pk.Level.parse("simple:quadratic")
    >>> level.family, level.member, level.has_k
    ('simple', 'quadratic', True)
    """

    family: str
    member: str = ""

    @classmethod
    def parse(cls, text: str) -> "Level":
        """Parse a level's name; an unknown one raises BadInput naming the nearest."""
        family, _, member = text.partition(":")
        if family == "hypothesis" and member:
            return cls(family, member)
        if family == "simple" and member in SIMPLE:
            return cls(family, member)
        if not member and family in NAMES:
            return cls(family)
        known = [*NAMES, *(f"simple:{name}" for name in SIMPLE), "hypothesis:<name>"]
        raise unknown("level", text, known, "Levels:")

    @property
    def name(self) -> str:
        return f"{self.family}:{self.member}" if self.member else self.family

    @property
    def has_k(self) -> bool:
        """Whether the level is measured at several k."""
        return self.family in ("neurons", "directions", "simple")


def check_stated(stated: Sequence[Any], behaviours: Collection[str], features: Collection[str]) -> None:
    """Raise BadInput for a hypothesis of a behaviour or feature that is not there, which nothing would be said of.

    stated: what has a name, `features` and a `behaviour`, "" for any; also where two share a name.
    """
    for i, hypothesis in enumerate(stated):
        of = [hypothesis.behaviour] if hypothesis.behaviour else []
        for what, names, known in (("behaviour", of, behaviours), ("feature", hypothesis.features, features)):
            for name in names:
                if name not in known:
                    raise BadInput(
                        f"there is no {what} '{name}', which hypothesis '{hypothesis.name}' speaks of: there is "
                        f"{', '.join(known) or 'none'}."
                    )
        if any(other.name == hypothesis.name and _meet(other.behaviour, hypothesis.behaviour) for other in stated[:i]):
            raise BadInput(f"two hypotheses are named '{hypothesis.name}': give each a name of its own.")


def _meet(one: str, other: str) -> bool:
    """Whether two hypotheses may speak of one behaviour."""
    return one == other or "" in (one, other)


def function_of(what: str, where: str, base: Path) -> tuple[Path, str]:
    """(file, function) of `file.py:function`, relative to `base`; nothing is run. Raises BadInput about `what`."""
    file, _, function = where.partition(":")
    if not isfile(base / file) or not function:
        raise BadInput(f"{what} names '{where}': no such file.py:function under {base}.")
    return base / file, function


def rule_of(name: str, where: str, base: Path) -> tuple[Path, str]:
    """The same of a hypothesis' rule."""
    return function_of(f"hypothesis '{name}'", where, base)


def load_function(what: str, where: str, base: Path) -> tuple[Callable[..., Any], str]:
    """A user's function and the hash of its whole file, since it may use all of it. Runs the file. Raises BadInput."""
    path, function = function_of(what, where, base)
    source = path.read_bytes()
    module_spec = importlib.util.spec_from_file_location(f"given_{path.stem}", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise BadInput(f"{what}: {path.name} defines no function '{function}'.")
    return getattr(module, function), hashlib.sha256(source).hexdigest()[:16]


Rule = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]


@dataclass(frozen=True)
class Hypothesis:
    """Named features and a rule from them to a law: a high-level causal model that can be wrong.

    behaviour: the one it speaks of; all whose number of outcomes fits when empty. rule gets {feature name: labels
    [n, n_targets]} and returns [n, n_outcomes], each row a law or all zeros where the rule allows nothing (the floor
    then speaks). `of` wraps a function, `load` reads `file.py:function`, which runs the user's code; both hash the
    source into the record. How it is judged: docs/method.md section 1.

    >>> import numpy as np
    >>> import probekit as pk
    >>> from probekit.testbeds.othello.rules import legal_uniform
    >>> rules = pk.Hypothesis.of("rules", ("mine_yours",), legal_uniform, behaviour="next_move_law")
    >>> rules.name, rules.features, len(rules.source_hash)
    ('rules', ('mine_yours',), 16)
    """

    name: str
    features: tuple[str, ...]
    rule: Rule
    source_hash: str = ""
    behaviour: str = ""

    @classmethod
    def of(
        cls, name: str, features: Sequence[str] | Rule, rule: Rule | Sequence[str], behaviour: str = ""
    ) -> "Hypothesis":
        """Wrap a function, hashing its source text. Rule and features may also come in the order of a job's keys."""
        if callable(features):
            features, rule = rule, features
        if not callable(rule) or callable(features) or isinstance(features, str):
            raise BadInput(
                f"hypothesis '{name}' is made of names of features and a function; found {features!r}, {rule!r}."
            )
        source = inspect.getsource(rule).encode()
        return cls(name, tuple(features), rule, hashlib.sha256(source).hexdigest()[:16], behaviour)

    @classmethod
    def load(cls, name: str, features: tuple[str, ...], where: str, base: Path, behaviour: str = "") -> "Hypothesis":
        """Load `file.py:function`, relative to `base`. The whole file is hashed, since the rule may use all of it."""
        rule, source_hash = load_function(f"hypothesis '{name}'", where, base)
        return cls(name, features, rule, source_hash, behaviour)
