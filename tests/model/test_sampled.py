"""Sampled behaviours: drawn by the model's own mass, the same from one seed, of the seen domain alone."""

import numpy as np
import pytest

from probekit import BehaviourSpec, Hypothesis, JobSpec, Task
from probekit.errors import BadInput
from probekit.model.loading import load_model
from probekit.model.sampled import narrowed, with_sampled
from probekit.records import SAMPLED
from probekit.testbeds.othello.task import hypothesis, othello_task


@pytest.fixture(scope="module")
def model():
    return load_model("othello-6x6")


@pytest.fixture(scope="module")
def task():
    return othello_task(6, 30, 2, 0)


def drawn(task):
    return [one for one in task.behaviours if one.name.startswith(SAMPLED)]


def test_a_seed_decides_which_and_they_are_different_contrasts(model, task):
    first, again, other = (drawn(with_sampled(task, model, 20, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert len({one.tokens for one in first}) == len(first) == 20
    assert all(one.kind == "logit_diff" and one.tokens[0] < one.tokens[1] for one in first)
    assert {one.name for one in first} == {f"{SAMPLED}{a}/{b}" for a, b in (one.tokens for one in first)}


def test_tokens_come_from_where_the_mass_is_and_not_evenly_from_the_vocabulary(model, task):
    """Where the mass of a whole text is on few moves, a naive draw from the vocabulary finds others."""
    seen = [i for i in range(len(task.tokens)) if task.domain[i] == task.domain[0]]
    mass = np.zeros(model.d_vocab)
    model.read([task.tokens[i] for i in seen], [], [task.positions[i] for i in seen],
               on_logits=lambda logits, rows: mass.__iadd__(np.asarray(logits.softmax(-1).sum(0))))  # fmt: skip
    used = np.array([token for one in drawn(with_sampled(task, model, 40)) for token in one.tokens])
    even = np.random.default_rng(0).integers(model.d_vocab, size=4_000)
    assert mass[used].mean() > mass[even].mean()
    assert model.d_vocab - 1 not in used  # the padding is never played


def test_the_unseen_domains_decide_nothing(model, task):
    seen = np.array([name == task.domain[0] for name in task.domain])
    alone = Task(task.name, [t for t, s in zip(task.tokens, seen, strict=True) if s],
                 [p for p, s in zip(task.positions, seen, strict=True) if s], task.group[seen], task.domain[seen],
                 task.behaviours)  # fmt: skip
    assert [one.name for one in drawn(with_sampled(alone, model, 15))] == [
        one.name for one in drawn(with_sampled(task, model, 15))
    ]


def test_sets_are_compared_by_their_mass_beside_the_rest(model, task):
    sets = drawn(with_sampled(task, model, 5, size=2))
    assert all(one.kind == "groups" and len(one.sets) == 2 for one in sets)
    assert all(len({t for side in one.sets.values() for t in side}) == 4 for one in sets)
    with pytest.raises(BadInput, match="ask for a smaller size"):
        with_sampled(task, model, 5, size=20)


def test_fewer_than_asked_for_are_told(model):
    few = Task("few", [np.array([0, 1])], [np.array([1])], np.array([0]), np.array(["all"]), ())
    made = with_sampled(few, model, 500)
    assert 0 < len(drawn(made)) < 500 and "500 sampled behaviours were asked for" in made.audit["told"][-1]


def test_a_stated_law_speaks_of_each_contrast_of_its_tokens(model, task):
    made = with_sampled(task, model, 6)
    stated = narrowed([hypothesis(6)], made)
    assert [one.behaviour for one in stated[1:]] == [one.name for one in drawn(made)]
    features = {"mine_yours": task.features["mine_yours"].labels[:200]}
    whole = stated[0].rule(features)
    for one, spec in zip(stated[1:], drawn(made), strict=True):
        law, pair = one.rule(features), whole[:, list(spec.tokens)]
        claims = pair.sum(1) > 0
        assert np.allclose(law[claims], pair[claims] / pair[claims].sum(1, keepdims=True)) and not law[~claims].any()
        assert 0 < claims.mean() < 1 and one.name == "rules"
    other = Hypothesis.of("law", ("mine_yours",), lambda features: features["mine_yours"], behaviour="edge_mass")
    assert narrowed([other], made) == (other,)


def test_a_job_says_it_in_a_word_a_list_or_a_table():
    def asked(behaviours, **more):
        return JobSpec.check({"name": "a", "model": {"name": "m"}, "task": {
            "file": "x.csv", "text": "t", "behaviours": behaviours, **more}}, "here").task  # fmt: skip

    label = {"name": "truth", "kind": "label", "column": "truth"}
    word, listed, table = asked("sampled:200"), asked(["sampled:200", label]), asked([label], sampled={"n": 200})
    assert word.sampled == listed.sampled == table.sampled and word.sampled.n == 200 and word.sampled.seed == 0
    assert word.behaviours == () and listed.behaviours == table.behaviours
    assert asked("sampled:7:3").sampled.seed == 3
    for bad in ("sampled", "sampled:0", "sample:3", "sampled:3:x"):
        with pytest.raises(BadInput, match=r'"sampled:200", 200 sampled ones; found'):
            asked(bad)
    with pytest.raises(BadInput, match="sampled once"):
        asked(["sampled:3", "sampled:4"])


def test_a_job_without_them_is_the_job_it_was():
    assert (
        "sampled" not in JobSpec.check({"name": "a", "task": {"testbed": "othello-6x6"}}, "here").model_dump()["task"]
    )
    assert BehaviourSpec("next").kind == "law"
