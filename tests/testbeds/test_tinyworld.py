"""The tiny world: every answer meets a second telling of the story from its words alone, and rare pairs stay rare."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from probekit.errors import BadInput, Interrupted
from probekit.inputs.folders import bundled_folder
from probekit.model.loading import load_model
from probekit.testbeds import NAMES, described, load_testbed
from probekit.testbeds.tinyworld import train as lesson
from probekit.testbeds.tinyworld.task import UNSEEN, says_belief, tinyworld_task
from probekit.testbeds.tinyworld.world import (
    DROP,
    FAMILIES,
    GO,
    KEPT_FREE,
    MOVE,
    N_WORDS,
    NOBODY,
    OBJECTS,
    PEOPLE,
    PLACES,
    TAKE,
    TOKEN,
    WORDS,
    rare_holders,
    rare_places,
    roll_call,
    stories,
)


class Reader:
    """What is so and what is thought, from a story's sentences, by somebody who knows nothing of how it was told."""

    def __init__(self):
        self.at, self.has, self.seen = {}, {}, {}

    def look(self):
        for who in filter(self.at.get, PEOPLE):
            for thing in filter(self.at.get, OBJECTS):
                if self.at[thing] == self.at[who]:
                    self.seen[who, thing] = self.at[who]
                elif self.seen.get((who, thing)) == self.at[who]:
                    del self.seen[who, thing]

    def hear(self, words):
        if words[0] == "in":
            self.at[words[-1]] = words[2]
        elif words[0] == "to":
            who = next(word for word in words if word in PEOPLE)
            things = [word for word in words if word in OBJECTS] or [
                o for o, holder in self.has.items() if holder == who
            ]
            here, there = self.at[who], words[2]
            for other in [name for name in PEOPLE if self.at.get(name) == here]:
                self.seen |= {(other, thing): there for thing in things}
            self.at |= dict.fromkeys([who, *things], there)
        elif words[1] in TAKE:
            assert self.at[words[0]] == self.at[words[3]] and words[3] not in self.has
            self.has[words[3]] = words[0]
        elif words[1] in DROP:
            assert self.has.pop(words[3]) == words[0]
        self.look()

    def answer(self, words):
        named = [word for word in words if word in (*PEOPLE, *OBJECTS)]
        if "think" in words:
            return self.seen[named[0], named[1]]
        if words[0] == "who":
            return self.has.get(named[0], NOBODY)
        if "true" in words:
            return "yes" if self.at[named[0]] == next(word for word in words if word in PLACES) else "no"
        return self.at[named[0]]


def told_again(story):
    """(question, its right answer, the reader) for each question of a story."""
    reader, words = Reader(), [WORDS[i] for i in story.words]
    sentence, asked = [], iter(story.questions)
    said = []
    for i, word in enumerate(words):
        if word == "?":
            question = next(asked)
            assert question.at == i
            said.append((question, reader.answer(sentence), dict(reader.at), dict(reader.seen)))
        elif word == "." and len(sentence) > 1 and sentence[0] not in ("where", "who", "is"):
            reader.hear(sentence)
        if word in ".?":
            sentence = []
        else:
            sentence.append(word)
    assert next(asked, None) is None
    return said


@pytest.mark.parametrize("rare", [False, True])
def test_answers_truth_and_belief_are_what_a_second_reader_finds(rare):
    found = {family: 0 for family in FAMILIES}
    wrong = 0
    for story in stories(300, (5,), rare):
        assert len(story.words) <= N_WORDS
        for question, right, at, seen in told_again(story):
            assert WORDS[story.words[question.at + 1]] == question.answer == right
            assert question.truth == at[question.subject]
            thought = seen[question.thinker, question.subject] if question.thinker else question.truth
            assert question.belief == thought
            found[question.family] += 1
            wrong += question.belief != question.truth
    assert min(found.values()) > 100 and wrong > 50


def test_what_is_thought_is_not_always_what_is_so_and_the_naive_reader_of_truth_fails_there():
    asked = [q for story in stories(400, (6,)) for q in story.questions if q.family == "thinks"]
    naive = np.mean([q.truth == q.answer for q in asked])
    assert naive < 0.8 and all(q.belief == q.answer for q in asked)


def test_rare_pairs_are_in_no_ordinary_story_and_in_rare_ones():
    at, held = set(rare_places()), set(rare_holders())
    assert len(at) == len(held) == 10
    ordinary = [told_again(story) for story in stories(300, (7,))]
    places = {(thing, place) for said in ordinary for _, _, at_, _ in said for thing, place in at_.items()}
    assert not places & at and len(places - {p for p in places if p[0] in PEOPLE}) == 90
    rows = [q for story in stories(300, (7,)) for q in story.questions]
    assert not any(q.rare for q in rows)
    assert not {(q.answer, q.subject) for q in rows if q.family == "holder"} & held
    rare = [q for story in stories(300, (7,), True) for q in story.questions if q.rare]
    assert {(q.subject, q.belief) for q in rare if q.family in ("object", "thinks")} <= at and len(rare) > 50


def test_roll_calls_put_each_of_five_at_a_place_of_its_own():
    for seed in range(50):
        story = roll_call(np.random.default_rng(seed))
        said = told_again(story)
        assert len({q.answer for q, *_ in said}) == len(said) == 5
        assert all(q.answer == right for q, right, *_ in said)
        assert not {(q.subject, q.answer) for q, *_ in said} & set(rare_places())


def test_words_are_few_and_the_ones_kept_free_are_in_no_story():
    assert len(WORDS) == len(TOKEN) <= 150
    used = {i for story in stories(300, (8,), True) for i in story.words}
    assert {WORDS[i] for i in used} & set(KEPT_FREE) == set()
    assert {*PEOPLE, *PLACES, *OBJECTS, *GO, *TAKE, *DROP, *MOVE} <= {WORDS[i] for i in used}


@pytest.fixture(scope="module")
def task():
    return tinyworld_task("s", 60, 3, 0)


def test_a_task_reads_question_marks_with_labels_of_what_is_so_and_thought(task):
    assert len(task.tokens) == 180 and list(dict.fromkeys(task.domain)) == ["stories", UNSEEN]
    for tokens, positions in zip(task.tokens, task.positions, strict=True):
        assert {WORDS[tokens[p]] for p in positions} == {"?"} and positions[-1] == len(tokens) - 1
        assert 1 <= len(positions) <= 3
    truth, belief = (task.labels[name].law.argmax(1) for name in ("truth", "belief"))
    assert (truth == task.features["truth"].labels[:, 0]).all() and 0 < (truth != belief).mean() < 0.5
    thinks = task.features["family"].labels[:, 0] == FAMILIES.index("thinks")
    assert (truth == belief)[~thinks].all()
    rare = task.domain[task.row_example] == UNSEEN
    pairs = {(OBJECTS.index(o), PLACES.index(p)) for o, p in rare_places()}
    subject = task.features["subject"].labels[:, 0] - len(PEOPLE)
    is_rare = [(s, b) in pairs for s, b in zip(subject, belief, strict=True)]
    assert (np.array(is_rare) == rare).all()
    assert says_belief({"belief": belief[:, None]})[:, :-1].argmax(1).tolist() == belief.tolist()


def test_a_seed_is_a_task_and_its_description_needs_none():
    small = [load_testbed("tiny-world-s", 5, 2, seed) for seed in (0, 0, 1)]
    assert small[0].task.fingerprint == small[1].task.fingerprint != small[2].task.fingerprint
    kinds, features = described("tiny-world-s")
    assert kinds == {b.name: b.kind for b in small[0].task.behaviours} and set(features) == set(small[0].task.features)
    with pytest.raises(BadInput, match="which a place answers; found holder"):
        tinyworld_task("s", 5, 2, 0, ("holder",))


BUNDLED = [name for name in NAMES if name in lesson.RECIPES]
TINY = lesson.WorldRecipe(n_layers=1, n_heads=2, d_model=16, n_stories=4, steps=6, called=3, warmup=2)


def test_training_resumes_to_the_same_bits_across_the_end_of_roll_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "evaluate", lambda *a, **k: {"loss_bits": 1.0})
    list(lesson.train(TINY, tmp_path / "whole"))
    real = lesson._told

    def stopped(recipe, step):
        if step == 4:
            raise KeyboardInterrupt
        return real(recipe, step)

    monkeypatch.setattr(lesson, "_told", stopped)
    with pytest.raises(Interrupted, match="stopped at step 4 of 6"):
        list(lesson.train(TINY, tmp_path / "parts"))
    monkeypatch.setattr(lesson, "_told", real)
    list(lesson.train(TINY, tmp_path / "parts"))
    whole, parts = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert all(value.tobytes() == parts[name].tobytes() for name, value in whole.items())
    with pytest.raises(BadInput, match="another recipe"):
        list(lesson.train(replace(TINY, called=2), tmp_path / "whole"))


class Oracle(torch.nn.Module):
    """Knows every answer, but takes all that is thought to be so."""

    def __init__(self, told):
        super().__init__()
        self.law = torch.zeros(len(told), N_WORDS, len(WORDS))
        for i, story in enumerate(told):
            for asked in story.questions:
                self.law[i, asked.at, TOKEN[asked.truth if asked.family == "thinks" else asked.answer]] = 50.0

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.law[:, : input_ids.shape[1]])


def test_figures_count_right_answers_by_family():
    told = stories(60, (9,))
    found = lesson.answer_figures(Oracle(told), told)
    assert found["person"]["right"] == found["object"]["right"] == found["true"]["right"] == 1
    assert found["false belief"]["right"] == 0 < found["thinks"]["right"] < 1


def card_of(name):
    """Share of questions answered rightly, by kind, as the card beside the weights says."""
    text = (bundled_folder(name) / "CARD.md").read_text(encoding="utf-8")
    return {k: float(v) for k, v in re.findall(r"^\| ([a-z ]+) \| \d+ \| ([\d.]+) \| [\d.]+ \|$", text, re.M)}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_network_answers_as_its_card_says_and_its_words_are_the_worlds(name):
    model, said = load_model(name), card_of(name)
    assert model.encoder.tokenizer.convert_tokens_to_ids(list(WORDS)) == list(range(len(WORDS)))
    assert model.tokenizer("where is anna ?")["input_ids"] == [TOKEN[word] for word in ("where", "is", "anna", "?")]
    told = stories(80, (3, 3))
    asked = [one for story in told for one in story.questions]
    guesses = np.zeros(len(asked), dtype=int)
    model.read([np.array(story.words) for story in told], [],
               [np.array([one.at for one in story.questions]) for story in told],
               on_logits=lambda logits, rows: guesses.__setitem__(rows, logits.argmax(-1).numpy()))  # fmt: skip
    right = guesses == [TOKEN[one.answer] for one in asked]
    assert np.mean(right) == pytest.approx(said["all"], abs=0.08)
    assert set(said) == {"all", *FAMILIES, "false belief", "rare"}


def test_a_network_that_always_says_yes_is_told_to_say_neither_truth_nor_belief():
    """A made one that always says yes answers neither."""
    told = stories(60, (7,))

    class Always(torch.nn.Module):
        def forward(self, input_ids, **_):
            logits = torch.zeros(*input_ids.shape, len(WORDS))
            logits[..., TOKEN["yes"]] = 1
            return SimpleNamespace(logits=logits)

    found = lesson.come_apart(Always(), told)
    assert found["yes if so"] == found["yes if not"] == found["neither"] == 1 and found["n wrong"] > 5


def test_what_is_bundled_is_small_and_says_how_it_was_made():
    folders = [bundled_folder(name) for name in BUNDLED]
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*")) <= 4.5e6
    assert {f"step-{step}" for step in lesson.STEPS} <= {path.name for path in folders[0].iterdir()}
    for name, folder in zip(BUNDLED, folders, strict=True):
        assert f"`probekit testbed train {name} --out FOLDER`" in (folder / "CARD.md").read_text(encoding="utf-8")
