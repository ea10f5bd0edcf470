"""Foresight on the tiny world: which questions will a network answer falsely? Said before it reads them.

What is said of a question comes from its world, which is known exactly: how long ago its answer was told, how often
what it asks about was named, whether somebody thinks wrongly. Rare pairs were never trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.activations.capture import capture
from probekit.fit.badness import Predictor
from probekit.inputs.surface import surface_features
from probekit.jobs.engines import Progress
from probekit.jobs.foresight import foresee
from probekit.metrics.foresight import FEW
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.proofs.studies import foresight
from probekit.proofs.studies.foresight import OWN, ForesightFindings, ForesightSize
from probekit.task import Task
from probekit.testbeds.tinyworld.task import SEEN, UNSEEN, WHERE, questions_of, tinyworld_task
from probekit.testbeds.tinyworld.world import PLACES, TOKEN, UNKNOWN, WORDS, Question

WORLD, POSITIONS = "s", 3
HOOK = "blocks.0.hook_resid_post"  # a capture needs one; nothing is read there
BAD = {"false": "the likeliest place is not the right one", "close": "the two likeliest places are less than .2 apart"}
CLOSE = 0.2
RANKINGS = {
    "abstraction": "14 numbers that the world gives, learned on seen stories",
    "long ago": "words since the right place was last named, the most first; nothing is learned",
    "unusual": "how far the 14 numbers lie from seen stories",
    "text": "a classifier of the words: 1-2-grams",
    "tokens": "a classifier of columns: the last three words, how often each word came, how many",
}
DOMAINS = (SEEN, UNSEEN)
LEARNED = 0.6  # of the seen stories
TITLES = foresight.TITLES | {f"words {name}": f"Tiny world: {title}" for name, title in foresight.TITLES.items()}


@dataclass(frozen=True)
class AskedRows:
    """Questions of some stories as they are known before the network runs."""

    task: Task
    asked: tuple[Question, ...]

    @classmethod
    def of(cls, task: Task, asked: Sequence[Question], kept: NDArray[np.bool_]) -> "AskedRows":
        """The stories of a task that are `kept`; asked: the question of each row of the whole task."""
        rows = kept[task.row_example]
        return cls(foresight.part_of(task, kept), tuple(one for one, keep in zip(asked, rows, strict=True) if keep))

    @property
    def group(self) -> NDArray[np.int64]:
        """The story of each row."""
        return np.asarray(self.task.group)[self.task.row_example]

    @property
    def names(self) -> tuple[str, ...]:
        """Of each row."""
        return tuple(f"story {g} word {q.at}" for g, q in zip(self.group, self.asked, strict=True))

    @cached_property
    def before(self) -> list[NDArray[np.int64]]:
        """What is read of each row: the words up to its question mark."""
        return [self.task.tokens[i][: q.at + 1] for i, q in zip(self.task.row_example, self.asked, strict=True)]

    @cached_property
    def world(self) -> NDArray[np.float64]:
        """What the world says of each question: [n, 14]."""
        return np.array([described(words, q) for words, q in zip(self.before, self.asked, strict=True)])

    @property
    def words(self) -> list[str]:
        """Each row as text."""
        return [" ".join(WORDS[i] for i in words) for words in self.before]

    @cached_property
    def right(self) -> NDArray[np.int64]:
        """Number of the right place: [n]."""
        return np.array([PLACES.index(q.answer) for q in self.asked])


def described(words: NDArray[np.int64], q: Question) -> list[float]:
    """A question [14]: its family, how far into the story, and how its answer came to be right.

    words: ids up to the question mark. An age is a number of words, that of the whole story where it was never named.
    """
    end = len(words) - 1
    place, subject = TOKEN[q.answer], TOKEN[q.subject]
    start = int(np.flatnonzero(words[:-1] == TOKEN["where"])[-1])  # of the question itself

    def ages(token: int) -> NDArray[np.int64]:
        return end - np.flatnonzero(words[:start] == token)

    of_place, of_subject = ages(place), ages(subject)
    others = {int(w) for w in words[end - min(of_place, default=end) : start]} & {TOKEN[p] for p in PLACES}
    here = sum(at == PLACES.index(q.answer) for at in q.where if at != UNKNOWN)
    told = [
        *(q.family == name for name in WHERE), end, int((words == TOKEN["?"]).sum()),
        min(of_place, default=end), max(of_place, default=end), len(of_place), min(of_subject, default=end),
        len(of_subject), len(others - {place}), here, q.belief != q.truth, q.had,
    ]  # fmt: skip
    return [float(one) for one in told]


def judged(law: NDArray, right: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Which rows are bad, by kind of BAD: law [n, places and the rest], right [n] by number."""
    places = law[:, : len(PLACES)]
    top = np.sort(places, 1)[:, ::-1]
    return {"false": places.argmax(1) != right, "close": top[:, 0] - top[:, 1] < CLOSE}


@dataclass(frozen=True)
class LearnedWords:
    """All that was learned on seen stories. predictors: by kind of BAD and ranking; own: of the network's own law."""

    middle: NDArray[np.float64]
    scale: NDArray[np.float64]
    predictors: Mapping[tuple[str, str], Any]
    own: Mapping[str, Predictor]

    @classmethod
    def learn(cls, seen: AskedRows, law: NDArray, seed: int) -> "LearnedWords":
        """law [n, outcome]: what the network says of the seen questions."""
        fitted: dict[tuple[str, str], Any] = {}
        own = {}
        for kind, bad in judged(law, seen.right).items():
            if bad.sum() < FEW:  # of fewer nothing is learned
                continue
            fitted[kind, OWN] = Predictor.fit(seen.world, bad, seen.group, seed)
            fitted[kind, "tokens"] = Predictor.fit(tokens_of(seen, seen), bad, seen.group, seed)
            fitted[kind, "text"] = foresight.text_classifier().fit(seen.words, bad)
            own[kind] = Predictor.fit(foresight.sureness(law, seen.task.row_position), bad, seen.group, seed)
        return cls(seen.world.mean(0), seen.world.std(0) + 1e-9, fitted, own)

    def scores(self, part: AskedRows, seen: AskedRows) -> dict[str, dict[str, NDArray[np.float64]]]:
        """kind of BAD -> every ranking of RANKINGS, before the network runs."""
        out = {}
        for kind in self.own:
            said = {
                OWN: self.predictors[kind, OWN].scores(part.world),
                "long ago": part.world[:, len(WHERE) + 2],
                "unusual": (((part.world - self.middle) / self.scale) ** 2).mean(1),
                "text": self.predictors[kind, "text"].predict_proba(part.words)[:, 1].astype(np.float64),
                "tokens": self.predictors[kind, "tokens"].scores(tokens_of(part, seen)),
            }
            out[kind] = {name: said[name] for name in RANKINGS}
        return out

    @property
    def by(self) -> dict[str, str]:
        """Digests of what was learned."""
        return {f"{kind}: {name}": one.digest for (kind, name), one in self.predictors.items() if name != "text"}


def tokens_of(part: AskedRows, seen: AskedRows) -> NDArray[np.float64]:
    """Columns of the bare words, as of the seen stories: [n, columns]."""
    blocks = surface_features(part.task, len(WORDS), like=seen.task)
    return np.concatenate(list(blocks.values()), 1).astype(np.float64)


def measure_words(
    root: Path, size: ForesightSize | None = None, seed: int = 0, progress: Progress | None = None
) -> ForesightFindings:
    """Learn on seen stories, seal rankings of other stories and of rare pairs, run the network on them, judge."""
    size, say = size or ForesightSize(), progress or (lambda *told: None)
    model, given = load_model(f"tiny-world-{WORLD}"), (size.games, POSITIONS, seed + 3)
    whole = tinyworld_task(WORLD, *given)
    task = replace(whole, labels={}, behaviours=tuple(b for b in whole.behaviours if b.name == "answer"))
    asked, domain = questions_of(*given), np.asarray(task.domain)
    chosen = (np.random.default_rng([seed, 73]).random(len(domain)) < LEARNED) & (domain == SEEN)
    say("seen stories", 0, 2)
    seen = AskedRows.of(task, asked, chosen)
    law = _law(model, seen)
    frozen = LearnedWords.learn(seen, law, seed)
    folder = foresight.new_folder(root)
    parts = {name: AskedRows.of(task, asked, (domain == name) & ~chosen) for name in DOMAINS}
    sealed = {(name, kind): foresee(folder / f"{name}-{kind}", part.names, scores, by=frozen.by)
              for name, part in parts.items() for kind, scores in frozen.scores(part, seen).items()}  # fmt: skip
    say("the network", 1, 2)
    rows, told, laws = [], [], dict[str, NDArray]()
    for (name, kind), ranking in sealed.items():
        part = parts[name]

        def answers(name: str = name, kind: str = kind, part: AskedRows = part) -> NDArray[np.bool_]:
            laws[name] = laws[name] if name in laws else _law(model, part)
            return judged(laws[name], part.right)[kind]

        ranking.run(answers)
        references = foresight.beside(laws[name], part.task, frozen.own[kind])
        rows += foresight.rows_of(ranking, part.group, references, name, kind, seed)
        told.append(foresight.sealed_row(ranking, name, kind))
    bad = {f"story {kind}": int(rows_.sum()) for kind, rows_ in judged(law, seen.right).items()}
    return ForesightFindings({"questions": len(law), "stories": int(chosen.sum())} | bad, tuple(rows), tuple(told))


def _law(model: Model, part: AskedRows) -> NDArray[np.float32]:
    acts = capture(model, part.task, [HOOK], store=None)
    return acts.observations.behaviours["answer"].law.astype(np.float32, copy=False)


def measure_both(
    root: Path, size: ForesightSize | None = None, seed: int = 0, progress: Progress | None = None
) -> ForesightFindings:
    """Of the network that plays Othello, then of the one that answers questions."""
    boards = foresight.measure_foresight(root, size, seed, progress)
    words = measure_words(root, size, seed, progress)
    return ForesightFindings(boards.learned | words.learned, boards.rows + words.rows, boards.sealed + words.sealed)


def tables(found: ForesightFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text."""
    words = {f"words {name}": table for name, table in foresight.tables(found, DOMAINS).items()}
    return foresight.tables(found) | words
