"""Sampled behaviours: contrasts of next tokens that a model gives mass to on a user's text, so that nobody picks them.

A row is drawn, and of its next-token law as many different tokens as two sets have, by their mass (Gumbel top-k, Kool
et al. 2019). What is compared is then something that the model does have to decide somewhere in the text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.levels import Hypothesis, Rule
from probekit.model.model import Model
from probekit.records import SAMPLED
from probekit.task import BehaviourSpec, Task

MOST_ROWS = 2_000  # that contrasts are drawn from
DRAWS = 8  # from each of them, at most


def with_sampled(task: Task, model: Model, n: int, seed: int = 0, size: int = 1) -> Task:
    """The task with `n` sampled contrasts behind its own behaviours; where there are fewer, its audit tells.

    size: tokens on either side. Rows of the seen domain alone are drawn from, as far as the model's own behaviours are
    read there. Raises BadInput where the text has no contrast, such as in a model of one token.

    >>> import probekit as pk
    >>> from probekit.model.sampled import with_sampled
    >>> model, task = pk.load_model("othello-6x6"), pk.load_task("othello-6x6", n_examples=20)
    >>> [behaviour.name for behaviour in with_sampled(task, model, 2).behaviours][-2:]  # doctest: +ELLIPSIS
    ['sampled:...', 'sampled:...']
    """
    found = _contrasts(task, model, n, seed, size)
    if not found:
        raise BadInput(f"no row of task '{task.name}' has {2 * size} next tokens to compare: ask for a smaller size.")
    made = [_behaviour(model, *sides) for sides in found]
    told = [] if len(found) == n else [
        f"{n:,} sampled behaviours were asked for and the text gave {len(found):,} different ones: {DRAWS} draws from "
        f"each of at most {MOST_ROWS:,} rows"
    ]  # fmt: skip
    audit = {**task.audit, "told": [*task.audit.get("told", []), *told]}
    names = [behaviour.name for behaviour in task.behaviours]
    return replace(
        task, behaviours=(*task.behaviours, *(one for one in made if one.name not in names)), audit=audit,
        fingerprint=f"{task.fingerprint}+{n}.{seed}.{size}",
    )  # fmt: skip


def _contrasts(task: Task, model: Model, n: int, seed: int, size: int) -> list[tuple[tuple[int, ...], ...]]:
    """Different pairs of sets of tokens, the one with the smallest token first, in the order of the rows."""
    seen = np.flatnonzero(task.domain[task.row_example] == task.domain[0])
    rows = np.random.default_rng([seed, 31]).permutation(seen)[:MOST_ROWS]
    if 2 * size > model.d_vocab:
        return []
    # As the rows come in batches whose order is the model's, each has random numbers of its own.
    drawn: list[list[NDArray[np.int64]]] = [[] for _ in rows]

    def draw(logits, index: NDArray[np.int64]) -> None:
        for law, i in zip(logits.double().numpy(), index.tolist(), strict=True):
            noise = np.random.default_rng([seed, 32, int(rows[i])])
            for _ in range(DRAWS):
                scores = law + noise.gumbel(size=len(law))
                top = np.argpartition(-scores, 2 * size - 1)[: 2 * size]
                drawn[i].append(top[np.argsort(-scores[top])])

    tokens = [task.tokens[i] for i in task.row_example[rows]]
    model.read(tokens, [], [task.row_answer[rows[i : i + 1]] for i in range(len(rows))], on_logits=draw, backend="auto")
    return list(dict.fromkeys(_in_turn(drawn)))[:n]


def _in_turn(drawn: Sequence[Sequence[NDArray[np.int64]]]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """The first draw of every row, then the second of every row, and so on."""
    for turn in range(DRAWS):
        for row in drawn:
            sides = (tuple(sorted(row[turn][side::2].tolist())) for side in (0, 1))
            yield tuple(sorted(sides))


def _behaviour(model: Model, first: tuple[int, ...], second: tuple[int, ...]) -> BehaviourSpec:
    """Two tokens are compared by their law; sets by the mass of each, beside all others."""
    named = ["+".join(model.token_names(side)) for side in (first, second)]
    name = f"{SAMPLED}{named[0]}/{named[1]}"
    if len(first) == 1:
        return BehaviourSpec(name, "logit_diff", tokens=(*first, *second), outcomes=(named[0], named[1]))
    return BehaviourSpec(name, "groups", sets={named[0]: first, named[1]: second})


def narrowed(hypotheses: Sequence[Hypothesis], task: Task) -> tuple[Hypothesis, ...]:
    """Hypotheses, and what those of a law over tokens say of each sampled contrast of two of these tokens.

    Their name is that of the whole. Rows to which the law gives neither token are no claim.
    """
    laws = {one.name: one for one in task.behaviours if one.kind == "law" and one.tokens is not None}
    made = []
    for stated in hypotheses:
        whole = laws.get(stated.behaviour)
        known = list((whole.tokens if whole is not None else None) or ())
        for one in task.behaviours if known else ():
            if one.name.startswith(SAMPLED) and one.tokens and set(one.tokens) <= set(known):
                at = [known.index(token) for token in one.tokens]
                made.append(replace(stated, behaviour=one.name, rule=_Narrowed(stated.rule, tuple(at))))
    return (*hypotheses, *made)


@dataclass(frozen=True)
class _Narrowed:
    """A rule, asked for some of its outcomes alone."""

    rule: Rule
    at: tuple[int, ...]

    def __call__(self, features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        law = np.asarray(self.rule(features), dtype=np.float32)[:, list(self.at)]
        total = law.sum(1, keepdims=True)
        return np.divide(law, total, out=np.zeros_like(law), where=total > 0)
