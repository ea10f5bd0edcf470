"""Questions about the tiny world as a task: what is so, what somebody thinks, and what the model answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.levels import Hypothesis
from probekit.records import digest
from probekit.task import Behaviour, BehaviourSpec, Feature, Task
from probekit.testbeds.tinyworld.world import (
    FAMILIES,
    OBJECTS,
    PEOPLE,
    PLACES,
    TOKEN,
    Question,
    Tale,
    stories,
)

SEEN, UNSEEN = "stories", "rare_pairs"
WHERE = ("person", "object", "thinks")  # families that a place answers
_SEEDS = {SEEN: 21, UNSEEN: 22}  # beside those of training, whose second number is a step


def tinyworld_task(size: str, n_stories: int, n_positions: int, seed: int, families: Sequence[str] = WHERE) -> Task:
    """Questions of stories, read at the question mark: twice `n_stories` of what training tells, and of rare pairs.

    At most n_positions questions of a story, of `families` that a place answers; a group is a story. Behaviour
    `answer`: the law of the next word over all places. Labels: `truth`, the place where what is asked about is, and
    `belief`, the place where whoever is asked to think thinks it is (the truth where nobody is). Features: both, the
    family, and what is asked about. In `rare_pairs` every answer is a pair that training lacks. Raises BadInput for a
    family that no place answers.
    """
    asked = _every(n_stories, n_positions, seed, families)
    rows = [one for *_, questions in asked for one in questions]
    told = {"task": "tiny world", "stories": n_stories, "positions": n_positions, "seed": seed}
    return Task(
        name=f"tiny-world-{size}",
        tokens=[np.array(story.words[: questions[-1].at + 1], dtype=np.int64) for _, story, questions in asked],
        positions=[np.array([one.at for one in questions]) for _, _, questions in asked],
        group=np.arange(len(asked)),
        domain=np.array([domain for domain, _, _ in asked]),
        behaviours=behaviours(),
        features=_features(rows),
        labels={name: _one_hot(name, [getattr(one, name) for one in rows]) for name in ("truth", "belief")},
        fingerprint=digest(told | {"families": list(families)}),
    )


def questions_of(n_stories: int, n_positions: int, seed: int, families: Sequence[str] = WHERE) -> list[Question]:
    """The question of each row of `tinyworld_task`, with the state of its world. Raises BadInput as that does.

    >>> from probekit.testbeds.tinyworld.task import questions_of, tinyworld_task
    >>> rows, task = questions_of(5, 2, 0), tinyworld_task("s", 5, 2, 0)
    >>> [one.at for one in rows] == [at for positions in task.positions for at in positions]
    True
    """
    return [one for *_, questions in _every(n_stories, n_positions, seed, families) for one in questions]


def _every(n_stories: int, n_positions: int, seed: int, families: Sequence[str]):
    """(domain, story, its questions), in the order of the task."""
    if not families or set(families) - set(WHERE):
        raise BadInput(f"families are of {', '.join(WHERE)}, which a place answers; found {', '.join(families)}.")
    return [
        (domain, story, questions)
        for domain, n in ((SEEN, 2 * n_stories), (UNSEEN, n_stories))
        for story, questions in _asked(n, (seed, _SEEDS[domain]), domain == UNSEEN, n_positions, families)
    ]


def _asked(n: int, seed: tuple[int, ...], rare: bool, n_positions: int, families: Sequence[str]):
    """n stories that have such questions, each with the first of them."""
    found: list[tuple[Tale, list[Question]]] = []
    turn = 0
    while len(found) < n:
        for story in stories(n, (*seed, turn), rare):
            mine = [one for one in story.questions if one.family in families and one.rare == rare]
            if mine and len(found) < n:
                found.append((story, mine[:n_positions]))
        turn += 1
    return found


def behaviours() -> tuple[BehaviourSpec, ...]:
    """What the model answers, and what is so and what is thought."""
    return (
        BehaviourSpec("answer", "law", tokens=tuple(TOKEN[place] for place in PLACES), outcomes=PLACES),
        BehaviourSpec("truth", "label", outcomes=PLACES),
        BehaviourSpec("belief", "label", outcomes=PLACES),
    )


def hypotheses() -> tuple[Hypothesis, ...]:
    """Two accounts of the answer: it is what is thought, and it is what is so."""
    return (
        Hypothesis.of("thought", ("belief",), says_belief, behaviour="answer"),
        Hypothesis.of("so", ("truth",), says_truth, behaviour="answer"),
    )


def says_belief(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """The place that is thought, for sure: labels [n, 1] to a law [n, places and rest]."""
    return np.eye(len(PLACES) + 1, dtype=np.float32)[features["belief"][:, 0]]


def says_truth(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """The place where it is, whoever is asked."""
    return np.eye(len(PLACES) + 1, dtype=np.float32)[features["truth"][:, 0]]


def _features(asked: Sequence[Question]) -> dict[str, Feature]:
    named = {
        "truth": ([PLACES.index(one.truth) for one in asked], PLACES),
        "belief": ([PLACES.index(one.belief) for one in asked], PLACES),
        "family": ([FAMILIES.index(one.family) for one in asked], FAMILIES),
        "subject": ([(*PEOPLE, *OBJECTS).index(one.subject) for one in asked], (*PEOPLE, *OBJECTS)),
    }
    return {
        name: Feature(name, np.array(labels)[:, None], classes, (name,)) for name, (labels, classes) in named.items()
    }


def _one_hot(name: str, places: Sequence[str]) -> Behaviour:
    return Behaviour(name, np.eye(len(PLACES), dtype=np.float32)[[PLACES.index(one) for one in places]], PLACES)
