"""Span deletion: tasks with a stretch taken away, and plants whose label is, or is not, nothing but a tag."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

import probekit as pk
from probekit.activations.capture import capture, capture_without
from probekit.errors import BadInput
from probekit.inputs.spans import delete_span
from probekit.levels import Hypothesis
from probekit.records import Record
from probekit.results import tables, text
from probekit.task import Behaviour, BehaviourSpec, Feature, Task
from tag_plant import BOS, HOOK, READ, D, plant_task, planted_model, span


def small_task(**changes):
    task = Task(
        "t", [np.array([9, 1, 2, 3, 4]), np.array([9, 5, 6]), np.array([9, 7, 7, 8])],
        [np.array([4, 0]), np.array([2]), np.array([3])], np.arange(3), np.array(["all"] * 3), (),
        spans={"field:tag": [span((1, 3)), span(), span((1, 2), (2, 3))], "role:tag": [span()] * 3,
               "span:x": [span((2, 4))] * 3},
    )  # fmt: skip
    return dataclasses.replace(task, **changes)


def test_deleting_closes_the_text_and_takes_positions_along():
    made = delete_span(small_task(), "field:tag")
    assert [t.tolist() for t in made.tokens] == [[9, 3, 4], [9, 5, 6], [9, 8]]
    assert [p.tolist() for p in made.positions] == [[2, 0], [2], [1]]
    told = {"span": "field:tag", "filler": None, "n_tokens_deleted": 4, "n_examples_changed": 2}
    assert made.audit["deleted"] == told
    assert made.name == "t without field:tag"


def test_a_filler_keeps_every_place():
    made = delete_span(small_task(), "field:tag", 0)
    assert [t.tolist() for t in made.tokens] == [[9, 0, 0, 3, 4], [9, 5, 6], [9, 0, 0, 8]]
    assert [p.tolist() for p in made.positions] == [[4, 0], [2], [3]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no span 'nowhere' in the task; its spans are field:tag, role:tag, span:x"),
        ("tag", "several span 'tag'"),
        ("role:tag", "is empty in every row"),
        ("x", "is read at token 2 of its example 2, which belongs to 'span:x'"),
    ],
)
def test_what_cannot_be_deleted(name, words):
    with pytest.raises(BadInput) as caught:
        delete_span(small_task(), name)
    assert words in str(caught.value)


def test_a_control_of_a_record_may_name_any_span():
    told = {"behaviour": "b", "fit_domain": "a", "test_domain": "a", "metric": "read", "level": "linear", "value": 1.0}
    assert Record(**told, control="deleted:field:tag").control == "deleted:field:tag"
    with pytest.raises(BadInput, match="control is one of .*deleted:; found 'removed:x'"):
        Record(**told, control="removed:x")


@pytest.fixture(scope="module")
def planted():
    return planted_model()


def audited(model, task, filler=None, spans=("field:tag", "field:word"), **read):
    whole = capture(model, task, HOOK, store=None)
    deleted = {name: capture_without(model, task, name, whole, store=None, filler=filler) for name in spans}
    return pk.measure(whole, deleted=deleted, **(READ | read))


def value(records, level, control="", floor="strong", metric="read"):
    rows = records.query("metric == @metric and level == @level and control == @control and floor == @floor")
    assert len(rows) >= 1
    return rows.iloc[0]


@pytest.mark.parametrize("filler", [None, BOS])
def test_a_label_that_is_a_tag_falls_with_the_tag_and_with_nothing_else(planted, filler):
    records = audited(planted, plant_task("tag"), filler)
    # The strong floor reads the tag itself: there is nothing left to explain, and the weak scale shows why.
    assert value(records, "linear")["na_reason"] == "small_denominator"
    assert value(records, "linear", floor="weak")["value"] < 0.05
    assert value(records, "baseline", floor="weak")["value"] < 0.05
    for level in ("linear", "baseline"):
        assert value(records, level, "deleted:field:tag", "weak")["value"] > 0.9
        whole = 1 - value(records, level, floor="weak", metric="auroc")["value"] / 2
        without = 1 - value(records, level, "deleted:field:tag", "weak", metric="auroc")["value"] / 2
        assert whole > 0.99 and abs(without - 0.5) < 0.06
        assert value(records, level, "deleted:field:word", "weak")["value"] < 0.15


@pytest.mark.parametrize("filler", [None, BOS])
def test_a_label_that_is_elsewhere_stays(planted, filler):
    records = audited(planted, plant_task("word"), filler)
    for control in ("", "deleted:field:tag"):
        assert value(records, "linear", control, "weak")["value"] < 0.15
    assert value(records, "linear", "deleted:field:word", "weak")["value"] > 0.9


def test_readers_beyond_a_floor_that_cannot_see_the_tag(planted):
    task = plant_task("tag")
    blind = dataclasses.replace(task, floor_inputs={"position": np.ones((len(task.tokens), 1), np.float32)})
    whole = capture(planted, blind, HOOK, store=None)
    deleted = capture_without(planted, task, "tag", whole, store=None)
    blinded = dataclasses.replace(deleted.observations, floor_inputs=blind.floor_inputs)
    records = pk.measure(whole, deleted={"field:tag": dataclasses.replace(deleted, observations=blinded)}, **READ)
    for level in ("direction", "linear"):
        assert value(records, level)["value"] < 0.1 and value(records, level)["high"] < 0.15
        assert value(records, level, "deleted:field:tag")["low"] > 0.8
    assert value(records, "baseline", "deleted:field:tag")["value"] == pytest.approx(1, abs=0.01)
    table = tables.table("deletion", records)
    linear = table.query("level == 'linear' and floor == 'strong'").iloc[0]
    assert linear["fall"] == pytest.approx(linear["value"] - linear["whole"]) and linear["fall"] > 0.8
    weak = table.query("level == 'linear' and floor == 'weak'").iloc[0]
    assert weak["auroc_whole"] > 0.99 and weak["auroc"] < 0.6
    assert set(table["span"]) == {"field:tag"}
    assert "without field:tag" in pk.figure("layer_curves", records).to_json()


@pytest.fixture(scope="module")
def elsewhere(planted):
    """Two domains and one without tags, all with the tag as their label, a floor that cannot see it, a hypothesis."""
    task, names = plant_task("tag", 2_700), np.repeat(["seen", "unseen", "bare"], [1_200, 900, 600])
    tags = np.array([tokens[1] for tokens in task.tokens])
    spans = [span((1, 2)) if name != "bare" else span() for name in names]
    blind = {"position": np.ones((len(names), 1), np.float32)}
    task = dataclasses.replace(
        task, domain=names, floor_inputs=blind, spans={"field:tag": spans},
        features={"tag": Feature("tag", tags[:, None].astype(np.int64), ("0", "1"), ("tag",))},
    )  # fmt: skip
    rule = Hypothesis("by_tag", ("tag",), lambda f: np.eye(2)[f["tag"][:, 0]])
    whole = capture(planted, task, HOOK, store=None)
    without = capture_without(planted, task, "field:tag", whole, store=None)
    assert without.observations.touched.tolist() == (names != "bare").tolist()
    blinded = dataclasses.replace(without.observations, floor_inputs=blind)
    deleted = {"field:tag": dataclasses.replace(without, observations=blinded)}
    return pk.measure(whole, deleted=deleted, hypotheses=[rule], transfer=("direction", "linear"), **READ)


@pytest.mark.parametrize("level", ["direction", "linear", "hypothesis:by_tag"])
def test_unseen_domains_and_hypotheses_fall_with_the_tag_too(elsewhere, level):
    own = elsewhere.query("level == @level and floor == 'strong' and source != 'true'")
    for metric in ("read", "transfer"):
        rows = own[(own["metric"] == metric) & (own["test_domain"] != "bare")]
        whole, without = (rows[rows["control"] == control] for control in ("", "deleted:field:tag"))
        assert len(whole) == len(without) > 0
        assert set(zip(whole["fit_domain"], whole["test_domain"], strict=True)) == set(
            zip(without["fit_domain"], without["test_domain"], strict=True)
        )
        refitted = without[without["arm"] != "platt50"]
        assert (whole["value"] < 0.15).all() and (refitted["value"] > 0.8).all()


def test_true_features_survive_the_deletion(elsewhere):
    true = elsewhere.query("level == 'hypothesis:by_tag' and source == 'true' and metric in ('read', 'transfer')")
    told = true[true["test_domain"] != "bare"].set_index(["metric", "test_domain", "control"])["value"]
    for at in {key[:2] for key in told.index}:
        assert told[(*at, "deleted:field:tag")] == pytest.approx(told[(*at, "")], abs=1e-6)


def test_a_hypothesis_that_never_looked_at_the_span_stays(planted):
    task = plant_task("word", 1_500)
    words = np.array([tokens[2] % 2 for tokens in task.tokens])
    feature = Feature("word", words[:, None].astype(np.int64), ("0", "1"), ("word",))
    blind = {"position": np.ones((len(words), 1), np.float32)}
    task = dataclasses.replace(task, features={"word": feature}, floor_inputs=blind)
    whole = capture(planted, task, HOOK, store=None)
    deleted = {}
    for name in ("field:tag", "field:word"):
        without = capture_without(planted, task, name, whole, store=None)
        blinded = dataclasses.replace(without.observations, floor_inputs=blind)
        deleted[name] = dataclasses.replace(without, observations=blinded)
    rule = Hypothesis("by_word", ("word",), lambda f: np.eye(2)[f["word"][:, 0]])
    found = pk.measure(whole, deleted=deleted, hypotheses=[rule], **READ)
    told = found.query("level == 'hypothesis:by_word' and source == 'decoded'").set_index("control")["value"]
    assert told["deleted:field:tag"] < told[""] + 0.1 < 0.2 and told["deleted:field:word"] > 0.8


def test_a_domain_without_the_span_is_na_with_its_reason(elsewhere):
    deleted = elsewhere[elsewhere["control"] == "deleted:field:tag"]
    bare = deleted[deleted["test_domain"] == "bare"]
    assert set(bare["na_reason"]) == {"not_defined"}
    assert set(bare["note"]) == {"no text of domain 'bare' has 'field:tag'"}
    assert {"read", "transfer"} == set(bare["metric"])
    assert not (deleted.loc[deleted["test_domain"] != "bare", "na_reason"] == "not_defined").any()


def test_nothing_that_is_measured_on_whole_texts_is_silently_absent_without_a_span(elsewhere):
    names = ["metric", "arm", "hook", "level", "source", "k", "parameters", "floor", "fit_domain", "test_domain"]
    loss = elsewhere[elsewhere["metric"].isin(["read", "transfer"]) & (elsewhere["level"] != "prior")]
    keys = {control: set(map(tuple, rows[names].fillna(-1).to_numpy())) for control, rows in loss.groupby("control")}
    assert len(keys[""]) > 20 and keys[""] == keys["deleted:field:tag"]


def test_a_behaviour_that_never_varies_is_na_without_the_span_too(planted):
    task = plant_task("word", 400)
    never = Behaviour("never", np.tile(np.float32([1, 0]), (400, 1)), ("0", "1"))
    asked = (*task.behaviours, BehaviourSpec("never", "label", outcomes=("0", "1"), column="never"))
    task = dataclasses.replace(task, behaviours=asked, labels=task.labels | {"never": never})
    whole = capture(planted, task, HOOK, store=None)
    deleted = {"field:tag": capture_without(planted, task, "tag", whole, store=None)}
    found = pk.measure(whole, deleted=deleted, **(READ | {"levels": ("prior", "baseline", "linear")}))
    rows = found.query("behaviour == 'never'")
    assert set(zip(rows["level"], rows["control"], strict=True)) == {
        ("prior", ""), *((level, control) for level in ("baseline", "linear") for control in ("", "deleted:field:tag"))
    }  # fmt: skip
    assert set(rows["na_reason"]) == {"small_denominator"}


def test_the_table_tells_fbu_at_home_and_t_elsewhere(elsewhere):
    table = tables.table("deletion", elsewhere)
    home = table[table["metric"] == "read"]
    assert set(home["test_domain"]) == {"seen"} and set(table["metric"]) == {"read", "transfer"}
    away = table[(table["metric"] == "transfer") & (table["test_domain"] == "unseen")]
    assert set(away["arm"]) == {"raw", "refit", "platt50"} and away["fall"].notna().all()
    other = tables.table("deletion", elsewhere, domain="unseen")
    assert set(other.loc[other["metric"] == "read", "test_domain"]) == {"unseen"}
    out = io.StringIO()
    Console(file=out, width=200).print(text.deletion_text(table))
    assert "unseen" in out.getvalue() and "NA (not defined)" in out.getvalue()
    assert "FBU, or T elsewhere, whole" in out.getvalue()
    # Nothing but deleted rows, and none of them in what is about whole texts.
    assert set(tables.transfer_matrix(elsewhere)["control"]) == {""}
    assert set(tables.leak(elsewhere, domain="unseen")["control"]) == {""}


def test_what_the_model_does_is_asked_of_the_deleted_text(planted):
    task = dataclasses.replace(plant_task("word"), behaviours=(BehaviourSpec("own", "choice", tokens=(0, 1)),))
    whole = capture(planted, task, HOOK, store=None)
    deleted = capture_without(planted, task, "field:tag", whole, store=None)
    mass = {name: got.observations.behaviours["own"].law for name, got in (("whole", whole), ("deleted", deleted))}
    assert np.ptp(mass["whole"][:, 0]) > 0.3
    # Without a tag the model is of two minds, and a reader of the tag's direction knows that.
    assert np.allclose(mass["deleted"], 0.5, atol=1e-3)
    records = pk.measure(whole, deleted={"field:tag": deleted}, **READ)
    assert value(records, "linear", "deleted:field:tag", "weak")["value"] < 0.1


def test_a_large_law_keeps_its_outcomes(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from probekit.model.model import Model

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=200, n_embd=16, n_layer=1, n_head=2, n_positions=32, initializer_range=0.5)
    model = Model(GPT2LMHeadModel(config).eval(), name="large")
    asked = (BehaviourSpec("next"), BehaviourSpec("top", "argmax"), BehaviourSpec("few", tokens=(3, 4)))
    task = dataclasses.replace(plant_task("tag", 60), behaviours=asked)
    whole = capture(model, task, HOOK, store=tmp_path)
    without = capture_without(model, task, "field:tag", whole, store=tmp_path)
    for name, behaviour in whole.observations.behaviours.items():
        assert without.observations.behaviours[name].outcomes == behaviour.outcomes
    blocks = [{name: block.shape for name, block in got.observations.floor_inputs.items()} for got in (whole, without)]
    assert blocks[0] == blocks[1] and "embedding" in blocks[0]


def test_mistakes_of_a_script(planted):
    task = plant_task("word", 200)
    whole = capture(planted, task, HOOK, store=None)
    with pytest.raises(BadInput, match="give what `capture_without` returned"):
        pk.measure(whole, deleted={"x": np.zeros((200, D))}, **READ)
    other = capture(planted, dataclasses.replace(task, behaviours=()), HOOK, store=None)
    with pytest.raises(BadInput, match="make it with `capture_without`"):
        pk.measure(whole, deleted={"x": other}, **READ)
    with pytest.raises(BadInput, match="`filler` names the token ' x' and the model has no tokeniser"):
        capture_without(planted, task, "field:tag", whole, filler=" x", store=None)


def test_nothing_deleted_is_an_empty_table():
    frame = pk.measure({"h": np.random.default_rng(0).standard_normal((400, 3))},
                       behaviour={"b": np.arange(400) % 2}, **READ)  # fmt: skip
    assert isinstance(frame, pd.DataFrame) and tables.table("deletion", frame).empty
