"""A small world in words: people move, carry and leave objects, and see only what happens where they are.

A story is told in templated sentences with questions between them. What is so (`truth`) and what a person thinks
(`belief`, where that person last saw an object) are known exactly at every question, and may differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
PEOPLE = ("anna", "ben", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "jane")
PLACES = ("attic", "barn", "cellar", "garden", "hall", "kitchen", "library", "office", "porch", "shop")
OBJECTS = ("apple", "ball", "book", "coin", "cup", "hat", "key", "lamp", "ring", "rope")
GO, TAKE, DROP, MOVE = ("goes", "walks"), ("takes", "grabs"), ("drops", "leaves"), ("moves", "carries")
PAD, NOBODY, YES, NO = "<pad>", "nobody", "yes", "no"
# No story has them: words that arms with other training, who are told to be honest or are watched, will need.
KEPT_FREE = ("honest", "lie", "watched", "alone", "says", "asks", "reward", "rule")
WORDS = (PAD, ".", "?", *PEOPLE, *PLACES, *OBJECTS, *GO, *TAKE, *DROP, *MOVE, "is", "in", "to", "the", "where", "does",
         "think", "who", "has", "it", "true", "that", NOBODY, YES, NO, *KEPT_FREE)  # fmt: skip
TOKEN = {word: i for i, word in enumerate(WORDS)}
FAMILIES = ("person", "object", "thinks", "holder", "true")  # of questions
N_WORDS = 128  # of a story, at most; the last sentence that fits ends it
N_PEOPLE, N_OBJECTS, N_PLACES = 3, 2, 3  # in a story
UNKNOWN = -1
_DRAWS = 256  # random numbers of a story


def rare_places() -> tuple[tuple[str, str], ...]:
    """Pairs of an object and a place where it never is while a network is trained, for what it makes of them later.

    >>> from probekit.testbeds.tinyworld.world import rare_places
    >>> rare_places()[:2], len(rare_places())
    ((('apple', 'barn'), ('ball', 'hall')), 10)
    """
    return tuple((OBJECTS[o], PLACES[(3 * o + 1) % len(PLACES)]) for o in range(len(OBJECTS)))


def rare_holders() -> tuple[tuple[str, str], ...]:
    """Pairs of a person and an object that the person never has while a network is trained."""
    return tuple((PEOPLE[p], OBJECTS[(7 * p + 2) % len(OBJECTS)]) for p in range(len(PEOPLE)))


_RARE_AT = {(OBJECTS.index(o), PLACES.index(place)) for o, place in rare_places()}
_RARE_HELD = {(PEOPLE.index(p), OBJECTS.index(o)) for p, o in rare_holders()}


@dataclass(frozen=True)
class Question:
    """One question of a story. at: place of its question mark among the tokens, behind which the answer stands.

    subject: who or what is asked about, a word; thinker: who is asked to think so, or "". truth: place where the
    subject is. belief: place where the thinker thinks it is; of a question without one, as `truth`, since the story
    itself is asked, which knows all. answer: the right word. rare: whether the answer is a pair that training lacks.
    where: place of each of PEOPLE, then of OBJECTS; last_seen: where the thinker last saw each of OBJECTS; UNKNOWN of
    what is not in the story, and where nobody is asked to think. had: whether somebody has the subject.
    """

    family: str
    at: int
    subject: str
    thinker: str
    truth: str
    belief: str
    answer: str
    rare: bool
    where: tuple[int, ...] = ()
    last_seen: tuple[int, ...] = ()
    had: bool = False


@dataclass
class Tale:
    """A story while it is told. words: token ids. where [people]: their places; lies [objects]: places of objects.

    holder [objects]: who has each, or UNKNOWN; seen: (person, object) -> the place where that person last saw it.
    plot: who goes where next, or moves what: person, place or UNKNOWN for any, object or UNKNOWN for none.
    """

    u: Sequence[float]
    rare: bool = False
    words: list[int] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    where: dict[int, int] = field(default_factory=dict)
    lies: dict[int, int] = field(default_factory=dict)
    holder: dict[int, int] = field(default_factory=dict)
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    plot: list[tuple[int, int, int]] = field(default_factory=list)
    used: int = 0

    def draw(self, n: int) -> int:
        """A number below n, from the story's own random numbers."""
        self.used += 1
        return int(self.u[self.used - 1] * n)

    def choose(self, some: Sequence[T]) -> T:
        """One of them."""
        return some[self.draw(len(some))]

    def some(self, n: int, of: int) -> list[int]:
        """n different numbers below `of`."""
        rest = list(range(of))
        return [rest.pop(self.draw(len(rest))) for _ in range(n)]

    def say(self, *words: str) -> None:
        self.words += [TOKEN[word] for word in words]

    def look(self, place: int) -> None:
        """Everybody at a place sees what is there, and that what was last seen there is gone."""
        for person, at in self.where.items():
            if at == place:
                for thing, lies in self.lies.items():
                    if lies == place:
                        self.seen[person, thing] = place
                    elif self.seen.get((person, thing)) == place:
                        self.seen[person, thing] = UNKNOWN

    def _free(self, thing: int) -> list[int]:
        return [at for at in self.places if self.may_be(thing, at)]

    def may_be(self, thing: int, place: int) -> bool:
        return self.rare or (thing, place) not in _RARE_AT

    def begin(self) -> None:
        """Say who and what is where."""
        people, things, places = (
            self.some(n, of) for n, of in ((N_PEOPLE, len(PEOPLE)), (N_OBJECTS, len(OBJECTS)), (N_PLACES, len(PLACES)))
        )
        if self.rare:  # so that there is a pair to ask about
            thing = things[0]
            place = next(at for o, at in _RARE_AT if o == thing)
            places = [place, *(at for at in places if at != place)][:N_PLACES]
        self.places = places
        for person, i in zip(people, self.some(len(people), len(places)), strict=True):
            self.where[person] = place = places[i]
            self.say("in", "the", PLACES[place], "is", PEOPLE[person], ".")
        for thing in things:
            near = list(self.where.values()) if self.draw(4) else places  # where somebody is: something will happen
            self.lies[thing] = place = self.choose([at for at in near if self.may_be(thing, at)] or self._free(thing))
            self.holder[thing] = UNKNOWN
            self.say("in", "the", PLACES[place], "is", "the", OBJECTS[thing], ".")
        for place in set(self.where.values()):
            self.look(place)

    def event(self) -> None:
        """Something happens: a person takes, moves or leaves an object that is there, or goes somewhere else."""
        if not self.plot and self.draw(2):
            self.scheme()
        if self.plot and self.act(*self.plot.pop(0)):
            return
        beside = [who for who, at in self.where.items() if at in self.lies.values()]
        person = self.choose(beside if beside and self.draw(3) else list(self.where))
        here, kind = self.where[person], self.draw(4)
        mine = self.has(person)
        there = [o for o, at in self.lies.items() if at == here and not mine and self.may_take(person, o)]
        if there and kind == 3:
            self.go(person, here, (thing := self.choose(there),), ("the", OBJECTS[thing]))
        elif there and kind:
            thing = self.choose(there)
            self.holder[thing] = person
            self.say(PEOPLE[person], self.choose(TAKE), "the", OBJECTS[thing], ".")
        elif mine and kind == 3:
            self.holder[mine[0]] = UNKNOWN
            self.say(PEOPLE[person], self.choose(DROP), "the", OBJECTS[mine[0]], ".")
        else:
            self.go(person, here, mine)

    def has(self, person: int) -> list[int]:
        return [thing for thing, who in self.holder.items() if who == person]

    def may_take(self, person: int, thing: int) -> bool:
        return self.holder[thing] == UNKNOWN and (self.rare or (person, thing) not in _RARE_HELD)

    def scheme(self) -> None:
        """Somebody who sees a thing will leave, and another one will come and move it: a wrong belief."""
        seen = [(who, thing) for thing, at in self.lies.items() for who, place in self.where.items() if place == at]
        others = [(who, thing, other) for who, thing in seen for other in self.where
                  if other != who and self.may_take(other, thing) and not self.has(other)]  # fmt: skip
        if others:
            who, thing, other = self.choose(others)
            here = self.lies[thing]
            away = [(who, UNKNOWN, UNKNOWN)] * (len(self.has(who)) == 0)
            come = [(other, here, UNKNOWN)] * (self.where[other] != here)
            self.plot = [*away, *come, (other, UNKNOWN, thing)]

    def act(self, person: int, place: int, thing: int) -> bool:
        """The next part of a plot, if it can be played."""
        here = self.where[person]
        if thing == UNKNOWN:
            if place == here:
                return False
            self.go(person, here, self.has(person), place=place)
        else:
            if self.lies[thing] != here or self.has(person) or not self.may_take(person, thing):
                return False
            self.go(person, here, (thing,), ("the", OBJECTS[thing]))
        return True

    def go(self, person: int, here: int, mine: Sequence[int], moved: Sequence[str] = (), place: int = UNKNOWN) -> None:
        """A person goes elsewhere with what is theirs, or moves something there, in words, which is then nobody's.

        Who is left behind sees where to, and with what; who is there sees it too.
        """
        goals = [at for at in self.places if at != here and all(self.may_be(o, at) for o in mine)]
        there = place if place in goals else self.choose(goals)
        for thing in mine:
            self.lies[thing] = there
            for other, at in self.where.items():
                if at == here:
                    self.seen[other, thing] = there
        self.where[person] = there
        self.look(there)
        told = (PEOPLE[person], self.choose(MOVE), *moved) if moved else (self.choose(GO), PEOPLE[person])
        self.say("to", "the", PLACES[there], *told, ".")

    def state(self, thinker: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """`where` and `last_seen` of a question that is asked now."""
        where = [self.where.get(i, UNKNOWN) for i in range(len(PEOPLE))]
        where += [self.lies.get(i, UNKNOWN) for i in range(len(OBJECTS))]
        return tuple(where), tuple(self.seen.get((thinker, i), UNKNOWN) for i in range(len(OBJECTS)))

    def ask(self) -> None:
        """One question of a family drawn evenly, with its answer; none where its answer is not known."""
        person, thing = self.choose(list(self.where)), self.choose(list(self.lies))
        wrong = [one for one, at in self.seen.items() if at not in (UNKNOWN, self.lies[one[1]])]
        held = [o for o, who in self.holder.items() if who != UNKNOWN]
        # Few thoughts are wrong, and they tell belief from truth; what nobody has is soon known.
        often = ["thinks"] * (3 if wrong else 0) + ["holder"] * (1 if held else 0)
        family = self.choose(("person", "person", "object", "thinks", "true", *(often or ["holder"])))
        if family == "thinks" and wrong:
            person, thing = self.choose(wrong)
        if family == "holder" and held and self.draw(4):
            thing = self.choose(held)
        of_person = family == "person" or (family == "true" and self.draw(2) == 0)
        truth = self.where[person] if of_person else self.lies[thing]
        subject = PEOPLE[person] if of_person else OBJECTS[thing]
        belief, thinker, rare = truth, "", not of_person and (thing, truth) in _RARE_AT
        if family == "person":
            self.say("where", "is", subject, "?")
        elif family == "object":
            self.say("where", "is", "the", subject, "?")
        elif family == "thinks":
            belief, thinker = self.seen.get((person, thing), UNKNOWN), PEOPLE[person]
            if belief == UNKNOWN:
                return
            rare = (thing, belief) in _RARE_AT
            self.say("where", "does", thinker, "think", "the", subject, "is", "?")
        answer = PLACES[belief]
        if family == "holder":
            who = self.holder[thing]
            answer, rare = (NOBODY if who == UNKNOWN else PEOPLE[who]), (who, thing) in _RARE_HELD
            self.say("who", "has", "the", subject, "?")
        elif family == "true":
            claim = truth if self.draw(2) else self.choose([at for at in self.places if at != truth])
            answer = YES if claim == truth else NO
            named = (subject,) if of_person else ("the", subject)
            self.say("is", "it", "true", "that", *named, "is", "in", "the", PLACES[claim], "?")
        said = (family, len(self.words) - 1, subject, thinker, PLACES[truth], PLACES[belief], answer, rare)
        self.questions.append(Question(*said, *self.state(person if thinker else UNKNOWN), not of_person and
                                       self.holder[thing] != UNKNOWN))  # fmt: skip
        self.say(answer, ".")


def roll_call(generator: np.random.Generator) -> Tale:
    """A story in which nothing happens: five are each at a place of their own, and of all it is asked where they are.

    Networks are taught by these first: nothing but who a place was said of tells the answer.
    """
    story = Tale(generator.random(_DRAWS).tolist())
    words = [*((PEOPLE[i], False) for i in story.some(N_PEOPLE, len(PEOPLE))),
             *((OBJECTS[i], True) for i in story.some(N_OBJECTS, len(OBJECTS)))]  # fmt: skip
    order, places = story.some(len(words), len(words)), story.some(len(words), len(PLACES))
    while any(
        words[i][1] and (OBJECTS.index(words[i][0]), at) in _RARE_AT for i, at in zip(order, places, strict=True)
    ):
        places = [*places[1:], places[0]]
    where = {words[i]: PLACES[at] for i, at in zip(order, places, strict=True)}
    for (word, thing), place in where.items():
        story.say("in", "the", place, "is", *["the"] * thing, word, ".")
    for i in story.some(len(words), len(words)):
        (word, thing), place = words[i], where[words[i]]
        story.say("where", "is", *["the"] * thing, word, "?")
        at, family = len(story.words) - 1, FAMILIES[int(thing)]
        story.questions.append(Question(family, at, word, "", place, place, place, False))
        story.say(place, ".")
    return story


def tell(generator: np.random.Generator, rare: bool = False) -> Tale:
    """One story of at most N_WORDS words. rare: also of pairs that training lacks, and at least one object has one.

    >>> import numpy as np
    >>> from probekit.testbeds.tinyworld.world import WORDS, tell
    >>> story = tell(np.random.default_rng(0))
    >>> asked = story.questions[0]
    >>> WORDS[story.words[asked.at]], WORDS[story.words[asked.at + 1]] == asked.answer
    ('?', True)
    """
    story = Tale(generator.random(_DRAWS).tolist(), rare)
    story.begin()
    while True:
        n, n_asked = len(story.words), len(story.questions)
        if n_asked:
            story.event()
        for _ in range(1 + story.draw(2) if n_asked else 3):
            story.ask()
        if len(story.words) > N_WORDS:
            story.words, story.questions = story.words[:n], story.questions[:n_asked]
            return story


def stories(n: int, seed: Sequence[int], rare: bool = False) -> list[Tale]:
    """n stories, from one seed."""
    generator = np.random.default_rng(list(seed))
    return [tell(generator, rare) for _ in range(n)]


def padded(told: Sequence[Tale]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(tokens [n, longest], which of them are answers to questions); what is short is padded at its end."""
    tokens = np.full((len(told), max(len(story.words) for story in told)), TOKEN[PAD], dtype=np.int64)
    answers = np.zeros(tokens.shape, dtype=np.bool_)
    for i, story in enumerate(told):
        tokens[i, : len(story.words)] = story.words
        answers[i, [question.at + 1 for question in story.questions]] = True
    return tokens, answers
