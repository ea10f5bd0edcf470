"""Rungs of the tiny world: directions tell the entities, entities the facts that are asked for, and facts the answer.

Every rung is exact in the world. The network need not hold each of them where it is read.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probekit.measurement.ladder import Rung
from probekit.task import Observations
from probekit.testbeds.tinyworld.task import SEEN, UNSEEN
from probekit.testbeds.tinyworld.world import OBJECTS, PEOPLE, PLACES, UNKNOWN, Question

RUNGS = ("entities", "facts", "answer")
DOMAINS = (SEEN, UNSEEN)
NONE = len(PLACES)  # class of an entity that is not there, and of a question that does not name one
_N_WHERE, _N_SEEN = len(PEOPLE) + len(OBJECTS), len(OBJECTS)  # targets: places, then where the thinker last saw each
_TINY = 1e-12


def entities_of(asked: Sequence[Question]) -> NDArray[np.float32]:
    """Where everybody and everything is, where the thinker last saw each thing, and whom the question names.

    [n, 33 targets, 11 classes]: a place of each of PEOPLE and OBJECTS, or NONE; where each of OBJECTS was last seen;
    then which person is asked about, which object, and who is asked to think, by number or NONE.
    """
    index = np.array([[*q.where, *q.last_seen, _number(q.subject, PEOPLE), _number(q.subject, OBJECTS),
                       _number(q.thinker, PEOPLE)] for q in asked])  # fmt: skip
    return np.eye(NONE + 1, dtype=np.float32)[np.where(index == UNKNOWN, NONE, index)]


def _number(word: str, words: Sequence[str]) -> int:
    return words.index(word) if word in words else UNKNOWN


def facts_of(entities: NDArray) -> NDArray[np.float32]:
    """Entities [n, 33, 11] to where the one asked about is, and where it is thought to be: [n, 2, places].

    What is not sure is taken for independent; zeros where the entities say of no place.
    """
    law = entities.astype(np.float64)
    where, seen = law[:, :_N_WHERE, :NONE], law[:, _N_WHERE : _N_WHERE + _N_SEEN, :NONE]
    person, thing, thinker = (law[:, _N_WHERE + _N_SEEN + i] for i in range(3))
    truth = np.einsum("ns,nsp->np", np.concatenate([person[:, :NONE], thing[:, :NONE]], 1), where)
    seen = np.einsum("ns,nsp->np", thing[:, :NONE], seen)
    nobody = thinker[:, NONE:]
    return np.stack([_sure(truth), _sure(nobody * _sure(truth) + (1 - nobody) * _sure(seen))], 1).astype(np.float32)


def _sure(law: NDArray[np.float64]) -> NDArray[np.float64]:
    total = law.sum(1, keepdims=True)
    return np.where(total > _TINY, law / np.maximum(total, _TINY), 0)


def answer_of(facts: NDArray) -> NDArray[np.float32]:
    """Facts [n, 2, places] to the law of the answer, which is what is thought: [n, 1, places and the rest]."""
    return np.pad(facts[:, 1:], ((0, 0), (0, 0), (0, 1))).astype(np.float32)


def words_stack(asked: Sequence[Question], observations: Observations) -> list[Rung]:
    """The rungs of RUNGS on all rows; the top one is what the network says."""
    entities = entities_of(asked)
    law = observations.behaviours["answer"].law[:, None]
    return [Rung("entities", entities), Rung("facts", facts_of(entities), facts_of), Rung("answer", law, answer_of)]
