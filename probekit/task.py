"""Task: what is asked of a model. Observations: what was seen when it was asked, one row per place that was read.

A Task names examples, the positions read in each, groups and domains, and what counts as behaviour. Running a model
over it (`capture`) gives Observations beside the activations. Arrays from another collector make Observations directly.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.containers import first_row, numbers
from probekit.errors import BadInput, check_text

ALIKE = 1e-6  # laws of two rows that differ by less are one
ROUNDING = 1e-12  # of the largest, numbers that differ by no more are one
MAX_OUTCOMES = 64  # a larger law keeps its outcomes of largest mean mass, those that have any, and `rest`
TEXT = "text"  # the block of a floor that holds strings: what each row reads, up to and including its token
VALUE = ("value",)  # the outcomes of a behaviour that is a number
ALL = "all"  # the place of rows that one rule of positions named, whatever it is


@dataclass(frozen=True)
class BehaviourSpec:
    """A behaviour to read off the model's own output, or a label that came with the data.

    kind: `law` (next-token law over `tokens`, or over the vocabulary when None, reduced to 64 outcomes and `rest`),
    `argmax` (the same, as a hard choice), `choice` (law renormalised over `tokens`), `logit_diff` (two tokens: the law
    of the first against the second), `groups` (total mass of named sets of tokens, `sets`, and `rest`), `generation`
    (which rule the continuation meets, `generation`), `value` (the log-odds of the first of two tokens against the
    second, a number), `logprob` (the log-probability of whole texts, `scoring`, which `choice`, `logit_diff` and
    `value` take too, for answers of several tokens), `label` (an external label or number, column `column`; nothing is
    read off the model). row_tokens [n_rows, k]: the tokens of `choice`, `logit_diff` and `value` where they differ from
    row to row.

    >>> import probekit as pk
    >>> pk.BehaviourSpec("answer", "choice", tokens=(7, 9), outcomes=("yes", "no")).outcomes
    ('yes', 'no')
    """

    name: str
    kind: str = "law"
    tokens: tuple[int, ...] | None = None
    outcomes: tuple[str, ...] | None = None
    sets: Mapping[str, tuple[int, ...]] | None = None
    column: str | None = None
    row_tokens: NDArray[np.int64] | None = None
    generation: "Generation | None" = None
    scoring: "Scoring | None" = None

    @property
    def is_scored(self) -> bool:
        """Whether it is made of log-probabilities of whole texts, so that no one forward pass shows it."""
        return self.kind == "logprob" or self.scoring is not None

    @property
    def scored(self) -> "Scoring":
        """What is scored: the examples' own texts unless anything is said."""
        return self.scoring or Scoring()

    def rows(self, index: NDArray) -> "BehaviourSpec":
        """The same, asked of the rows at `index` alone."""
        return self if self.row_tokens is None else replace(self, row_tokens=self.row_tokens[index])


@dataclass(frozen=True)
class Scoring:
    """Log-probabilities, in nats, of whole texts: of each example's own, or of answers that follow it.

    answers: for each example one or more arrays of token ids, which stand behind all of its tokens; None scores the
    example's own tokens, all after the first one. per_token: means over tokens in place of sums. minus [n_examples]:
    another example for each, whose value is taken off.

    >>> import numpy as np
    >>> import probekit as pk
    >>> from probekit.task import Scoring
    >>> paris, new_york = np.array([7]), np.array([4, 9])
    >>> pk.BehaviourSpec("says", "choice", scoring=Scoring([[paris, new_york]])).is_scored
    True
    """

    answers: Sequence[Sequence[NDArray[np.int64]]] | None = None
    per_token: bool = False
    minus: NDArray[np.int64] | None = None


NO_MATCH = "no match"


@dataclass(frozen=True)
class Generation:
    """Continuations of `n_tokens`, each counted as the first outcome whose rule it meets, or as `no match`.

    match: outcome and its rule, a regular expression (found anywhere) or a tuple of beginnings (blanks in front do not
    count). samples: 0 takes the likeliest token each time; n draws n continuations at `temperature` from `seed`.
    """

    match: tuple[tuple[str, str | tuple[str, ...]], ...]
    n_tokens: int
    samples: int = 0
    temperature: float = 1.0
    seed: int = 0

    @property
    def outcomes(self) -> tuple[str, ...]:
        return (*(name for name, _ in self.match), NO_MATCH)

    def outcome(self, text: str) -> int:
        """Number of the outcome that a continuation counts as."""
        for i, (_, rule) in enumerate(self.match):
            if re.search(rule, text) if isinstance(rule, str) else text.lstrip().startswith(rule):
                return i
        return len(self.match)


@dataclass(frozen=True)
class Behaviour:
    """What the model did: law [n, n_outcomes] float32, rows on the simplex; one-hot when it is deterministic.

    A number, such as a log-odds or a year, has the one outcome `value`, and `law` [n, 1] holds it in units of its own,
    in double precision where it has the digits (`number` makes one).
    covered: mean mass that the outcomes have together, where there are others: when a large law was reduced to 64 and
    `rest`, and of a choice among answers. likeliest: of a choice, the token that most rows would go on with. Raises
    BadInput for rows that are not finite or do not sum to 1 within .001.

    >>> import numpy as np
    >>> import probekit as pk
    >>> pk.Behaviour("truth", np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32), ("true", "false")).law.shape
    (2, 2)
    """

    name: str
    law: NDArray[np.float32] | NDArray[np.float64]
    outcomes: tuple[str, ...]
    covered: float = 1.0
    likeliest: str = ""

    @classmethod
    def number(cls, name: str, values: Any) -> "Behaviour":
        """A behaviour that is a number: values [n], in any container. Raises BadInput for one that is no number.

        >>> import numpy as np
        >>> import probekit as pk
        >>> pk.Behaviour.number("year", np.array([1905, 1961, 2001])).law.shape
        (3, 1)
        """
        law = numbers(f"behaviour '{name}'", values).astype(np.float64)
        if law.ndim != 1:
            raise BadInput(f"behaviour '{name}' has shape {law.shape}: give one number for each row.")
        return cls(name, law[:, None], VALUE)

    @property
    def is_value(self) -> bool:
        """Whether it is a number, which is read with squared error, and no law."""
        return self.outcomes == VALUE

    def __post_init__(self) -> None:
        check_names(f"behaviour {self.name!r}", (self.name, *self.outcomes))
        if self.law.ndim != 2 or self.law.shape[1] != len(self.outcomes):
            raise BadInput(
                f"behaviour '{self.name}' has a law of shape {self.law.shape} for {len(self.outcomes)} outcomes."
            )
        if self.is_value:
            if not np.isfinite(self.law).all():
                bad = first_row(~np.isfinite(self.law))
                raise BadInput(f"behaviour '{self.name}' has no finite value at row {bad}: drop it or give one.")
            return
        bad = ~np.isfinite(self.law).all(1) | (abs(self.law.sum(1) - 1) > 1e-3) | (self.law < -ALIKE).any(1)
        if bad.any():
            raise BadInput(
                f"behaviour '{self.name}' is no probability law: rows must be finite, not negative and sum to 1, and "
                f"row {first_row(bad)} does not."
            )


def find_constant(
    behaviours: Mapping[str, Behaviour], domain: NDArray[np.str_], domains: Sequence[str]
) -> dict[str, str]:
    """As `constants`. Raises BadInput when all behaviours are, and there are some."""
    found = constants(behaviours, domain, domains)
    if found and len(found) == len(behaviours):
        said = "; ".join(f"behaviour '{name}' has {what}" for name, what in found.items())
        where = " and ".join(f"'{name}'" for name in domains)
        raise BadInput(f"there is nothing to explain in domain {where}: {said}. Give rows of another class too.")
    return found


def constants(behaviours: Mapping[str, Behaviour], domain: NDArray[np.str_], domains: Sequence[str]) -> dict[str, str]:
    """Behaviours that leave nothing to explain, each with what it is: in each of `domains` the same at every row.

    domain [n]: of each row.
    """
    rows = [domain == name for name in domains]
    found: dict[str, str] = {}
    for name, behaviour in behaviours.items():
        # A number has units of its own, in which a millionth may be much.
        least = ROUNDING * float(np.abs(behaviour.law).max(initial=0)) if behaviour.is_value else ALIKE
        if rows and all(np.ptp(behaviour.law[at], axis=0).max() <= least for at in rows):
            kept = {behaviour.outcomes[int(behaviour.law[at][0].argmax())]: behaviour.law[at][0].max() for at in rows}
            sure = min(kept.values()) > 1 - ALIKE and not behaviour.is_value
            what = "number" if behaviour.is_value else "law"
            found[name] = f"one class ({', '.join(map(repr, kept))})" if sure else f"one {what} at every row"
    return found


@dataclass(frozen=True)
class Feature:
    """Named concept labels: labels [n, n_targets] of class numbers, such as 36 squares each mine, yours or empty.

    classes: the names of the numbers; targets: of the columns.

    >>> import numpy as np
    >>> import probekit as pk
    >>> pk.Feature("colour", np.array([[0], [1], [0]]), ("red", "blue"), ("car",)).labels.shape
    (3, 1)
    """

    name: str
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        check_names(f"feature {self.name!r}", (self.name, *self.classes, *self.targets))


@dataclass(frozen=True)
class Observations:
    """One row per (example, position) that was read. All arrays share the first axis.

    floor_inputs: named blocks [n, width], and `text`, strings [n], that the input-only reader may use; the weak floor
    sees `position` alone.
    types: what a control task gives random labels to (the token that is read); None where nothing is known of it.
    rules: which rows each of several rules of positions names [n]; empty where there is one. touched: where a span was
    deleted, which rows' texts had it [n]. note: what every record says of the rows.

    example, position, group [n]: numbers; domain [n]: names, the first one is the seen one.

    >>> import numpy as np
    >>> import probekit as pk
    >>> truth = pk.Behaviour("truth", np.eye(2, dtype=np.float32)[[0, 1, 1, 0]], ("no", "yes"))
    >>> rows = np.arange(4)
    >>> seen = pk.Observations(rows, 0 * rows, rows // 2, np.array(["a", "a", "b", "b"]), {"truth": truth})
    >>> len(seen), seen.domains, len(seen.rows(seen.domain == "b"))
    (4, ['a', 'b'], 2)
    """

    example: NDArray[np.int64]
    position: NDArray[np.int64]
    group: NDArray[np.int64]
    domain: NDArray[np.str_]
    behaviours: Mapping[str, Behaviour]
    features: Mapping[str, Feature] = field(default_factory=dict)
    floor_inputs: Mapping[str, NDArray] = field(default_factory=dict)
    task: str = "arrays"
    model: str = "arrays"
    revision: str = ""
    fingerprint: str = ""
    types: NDArray[np.int64] | None = None
    rules: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    touched: NDArray[np.bool_] | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.example)

    def __repr__(self) -> str:
        read = f" at {_listed(self.rules)}" if self.rules else ""
        n_groups = len(set(self.group.tolist()))
        return (
            f"<Observations of {self.model} on {self.task}: {len(self):,} rows{read} in {n_groups:,} groups; "
            f"domains {_listed(self.domains)}; behaviours {_listed(self.behaviours)}; "
            f"features {_listed(self.features)}>"
        )

    @property
    def places(self) -> list[str]:
        """What is measured apart: each rule of positions; `all` where there is one."""
        return list(self.rules) or [ALL]

    @property
    def place(self) -> str:
        """The rule that all rows come from; `all` where there is one, or where several are still together."""
        return self.places[0] if len(self.places) == 1 else ALL

    def at(self, *places: str) -> "Observations":
        """The rows that any of these rules names."""
        rows = self.rows(named(self.rules, places, len(self)))
        return replace(rows, rules={name: mask for name, mask in rows.rules.items() if name in places})

    @property
    def domains(self) -> list[str]:
        """Domain names in order of first appearance; the first is the seen one."""
        return list(dict.fromkeys(self.domain.tolist()))

    def rows(self, index: NDArray) -> "Observations":
        """The rows at `index` (a mask or positions)."""
        take = {
            name: replace(b, law=b.law[index]) for name, b in self.behaviours.items()
        }, {name: replace(f, labels=f.labels[index]) for name, f in self.features.items()}  # fmt: skip
        return replace(
            self,
            example=self.example[index],
            position=self.position[index],
            group=self.group[index],
            domain=self.domain[index],
            behaviours=take[0],
            features=take[1],
            floor_inputs={name: block[index] for name, block in self.floor_inputs.items()},
            types=None if self.types is None else self.types[index],
            rules={name: rows[index] for name, rows in self.rules.items()},
            touched=None if self.touched is None else self.touched[index],
        )


@dataclass(frozen=True)
class Task:
    """Examples, where each is read, and what is asked there. Rows follow examples in order, then positions.

    tokens: one array of token ids per example, unpadded. positions: indices into each example at which the model is
    read. group, domain: one per example. features and labels are per row; labels hold the columns that `label`
    behaviours name. floor_inputs: per row, None for the automatic ones (position, length, last tokens, bag of tokens).
    spans: name of a stretch of text (`field:question`) -> first and last-plus-one token of each [m, 2], per example.
    rules: where several rules say what is read, which rows each names [n_rows]; they are measured apart. answer
    [n_examples]: the token behind which the model's own behaviours are read; None where that is the row's own.
    audit: how the examples were made: what was rendered, added, cut and counted, as plain JSON values.

    >>> import numpy as np
    >>> import probekit as pk
    >>> tokens = [np.array([3, 1, 4]), np.array([1, 5])]
    >>> read = [np.array([2]), np.array([0, 1])]
    >>> spec = pk.BehaviourSpec("next", "law")
    >>> pk.Task("two texts", tokens, read, np.array([0, 1]), np.array(["all", "all"]), (spec,)).row_example
    array([0, 1, 1])
    """

    name: str
    tokens: Sequence[NDArray[np.int64]]
    positions: Sequence[NDArray[np.int64]]
    group: NDArray[np.int64]
    domain: NDArray[np.str_]
    behaviours: Sequence[BehaviourSpec]
    features: Mapping[str, Feature] = field(default_factory=dict)
    labels: Mapping[str, Behaviour] = field(default_factory=dict)
    floor_inputs: Mapping[str, NDArray] | None = None
    fingerprint: str = ""
    spans: Mapping[str, Sequence[NDArray[np.int64]]] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    answer: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        domains = dict.fromkeys(self.domain.tolist())
        return (
            f"<Task {self.name}: {len(self.tokens):,} examples, {sum(map(len, self.positions)):,} rows in "
            f"{len(set(self.group.tolist())):,} groups; domains {_listed(domains)}; "
            f"behaviours {_listed(b.name for b in self.behaviours)}; features {_listed(self.features)}>"
        )

    def at(self, *places: str) -> "Task":
        """The same examples, read where any of these rules says."""
        read = named(self.rules, places, len(self.row_position))
        apart = np.split(read, np.cumsum([len(p) for p in self.positions])[:-1])
        inputs = self.floor_inputs
        return replace(
            self,
            positions=[np.asarray(p)[keep] for p, keep in zip(self.positions, apart, strict=True)],
            behaviours=tuple(spec.rows(read) for spec in self.behaviours),
            features={name: replace(f, labels=f.labels[read]) for name, f in self.features.items()},
            labels={name: replace(b, law=b.law[read]) for name, b in self.labels.items()},
            floor_inputs=None if inputs is None else {name: block[read] for name, block in inputs.items()},
            rules={name: rows[read] for name, rows in self.rules.items() if name in places},
        )

    @cached_property
    def row_example(self) -> NDArray[np.int64]:
        """Example of each row: [n_rows]."""
        return np.repeat(np.arange(len(self.tokens)), [len(p) for p in self.positions])

    @cached_property
    def row_position(self) -> NDArray[np.int64]:
        """Token position of each row: [n_rows]."""
        return np.concatenate([np.asarray(p) for p in self.positions]) if len(self.positions) else np.zeros(0, int)

    @property
    def row_answer(self) -> NDArray[np.int64]:
        """Token position behind which each row's own behaviour of the model is read: [n_rows]."""
        return self.row_position if self.answer is None else self.answer[self.row_example]


def check_names(where: str, names: Iterable[str]) -> None:
    """Raise BadInput for a name that cannot be written down, before anything is measured under it."""
    for name in names:
        check_text(str(name), where)


def _listed(names: Iterable[str], most: int = 6) -> str:
    """Names for one line: the first few, and how many more there are."""
    every = [name if len(name) <= 40 else f"{name[:39]}…" for name in map(str, names)]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return (", ".join(every[:most]) or "none") + more


def named(rules: Mapping[str, NDArray[np.bool_]], places: Sequence[str], n: int) -> NDArray[np.bool_]:
    """Which of `n` rows any of these rules names; without rules, the place of all rows is `all`. Raises BadInput."""
    known = rules or {ALL: np.ones(n, dtype=np.bool_)}
    for place in places:
        if place not in known:
            raise BadInput(f"nothing is read at '{place}': the task is read at {', '.join(known)}.")
    return np.logical_or.reduce([known[place] for place in places])


def reduce_law(name: str, law: NDArray[np.float32], outcomes: Sequence[str], most: int = MAX_OUTCOMES) -> Behaviour:
    """Keep the `most` outcomes of largest mean mass, of those that have any, and `rest`; the mass kept is recorded."""
    if law.shape[1] <= most + 1:
        return Behaviour(name, law, tuple(outcomes))
    mass = law.mean(0)
    keep = np.sort(np.argsort(-mass)[: min(most, int((mass > 0).sum()))])
    kept = law[:, keep]
    rest = np.clip(1 - kept.sum(1, keepdims=True), 0, None)
    return Behaviour(
        name, np.concatenate([kept, rest], 1), (*(outcomes[int(i)] for i in keep), "rest"), float(kept.sum(1).mean())
    )
