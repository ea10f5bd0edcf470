"""Log-probabilities of whole texts and of answers behind them, judged by the library's logits, one text at a time."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import checkpoints
from probekit.activations import scoring
from probekit.activations.capture import capture, capture_without
from probekit.errors import BadInput, Interrupted
from probekit.inputs.filetask import read_file_task
from probekit.model.loading import load_model
from probekit.spec import JobSpec, TaskSpec
from probekit.storage.store import Store
from probekit.task import VALUE, BehaviourSpec, Scoring

HOOK = "blocks.0.hook_resid_post"
WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})
_draw = np.random.default_rng(0)
ROWS = [
    {"good": " ".join(_draw.choice(WORDS, 3 + i % 5)), "bad": " ".join(_draw.choice(WORDS, 2 + i % 4)),
     "end": " " + " ".join(_draw.choice(WORDS, 1 + i % 3)), "right": f" {WORDS[i]} {WORDS[i + 1]}",
     "wrong": f" {WORDS[i + 2]}", "options": [f" {WORDS[i]}", f" {WORDS[i]} {WORDS[i + 3]}", f" {WORDS[i + 5]} a b"]}
    for i in range(10)
]  # fmt: skip
TEXT = {"name": "text", "kind": "logprob"}
END = {"name": "end", "kind": "logprob", "completion": "end"}
OPTIONS = {"name": "options", "kind": "choice", "answers": "options", "whole": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with a tokenizer that puts a BOS in front, and a chat template."""
    base = tmp_path_factory.mktemp("scoring")
    checkpoints.write(base / "plain", "llama", tokenizer=checkpoints.pieces())
    return checkpoints.sharpen(base / "plain", base / "model", 4.0)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def task_of(base, model, behaviours, rows=ROWS, **asked):
    (base / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {} if {"pair", "tokens", "chat", "template"} & set(asked) else {"text": "good"}
    spec = TaskSpec.model_validate({"file": "data.jsonl", "behaviours": behaviours, **source, **asked})
    return read_file_task(spec, base, model.encoder)


def judged(hf, ids, n_before):
    """(sum of log-probabilities of the ids from `n_before` on, how many they are), in double precision."""
    with torch.no_grad():
        law = torch.log_softmax(hf(torch.tensor([ids])).logits[0].double(), -1)
    return sum(float(law[at - 1, ids[at]]) for at in range(n_before, len(ids))), len(ids) - n_before


def found_of(model, task, **how):
    return capture(model, task, HOOK, store=None, **how).observations.behaviours


@pytest.mark.parametrize("backend", ["bridge", "hf"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_a_text_a_completion_and_their_differences_are_the_library_s(checkpoint, tiny, tmp_path, architecture, backend):
    model, hf = tiny(architecture), AutoModelForCausalLM.from_pretrained(checkpoint(architecture)).eval()
    asked = [TEXT, END, {**TEXT, "name": "mean", "per_token": True}, {**TEXT, "name": "prefers", "difference": True},
             {**END, "name": "both", "difference": True, "per_token": True}]  # fmt: skip
    task = task_of(tmp_path, model, asked, pair=["good", "bad"], position="all")
    found = found_of(model, task, backend=backend)
    encode, texts = model.tokenizer, [row[name] for row in ROWS for name in ("good", "bad")]
    whole = np.array([judged(hf, encode(text)["input_ids"], 1) for text in texts])
    ends = [
        (encode(text)["input_ids"], encode(text + ROWS[i // 2]["end"])["input_ids"]) for i, text in enumerate(texts)
    ]
    behind = np.array([judged(hf, both, len(before)) for before, both in ends])
    other = np.arange(20) ^ 1
    mean, end_mean = whole[:, 0] / whole[:, 1], behind[:, 0] / behind[:, 1]
    truth = {"text": whole[:, 0], "end": behind[:, 0], "mean": mean, "prefers": whole[:, 0] - whole[other, 0],
             "both": end_mean - end_mean[other]}  # fmt: skip
    assert set(truth) == set(found) and len(task.row_example) > 60
    for name, values in truth.items():
        assert found[name].outcomes == VALUE and found[name].is_value
        assert found[name].law[:, 0] == pytest.approx(values[task.row_example], abs=1e-4), name
        assert np.ptp(values) > 0.1, name


@pytest.mark.parametrize("backend", ["bridge", "hf"])
def test_answers_of_several_tokens_are_a_law_of_their_probabilities(folder, model, tmp_path, backend):
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    two = {"kind": "logit_diff", "correct": "right", "wrong": "wrong", "whole": True}
    same = [" red car", " a", " nine"]
    asked = [OPTIONS, {"name": "two", **two}, {"name": "mean", **two, "per_token": True},
             {"name": "odds", **two, "kind": "value"},
             {"name": "same", "kind": "choice", "tokens": same, "whole": True}]  # fmt: skip
    task = task_of(tmp_path, model, asked)
    found = found_of(model, task, backend=backend)
    encode = model.tokenizer

    def log_probabilities(answers):
        out = []
        for row, after in zip(ROWS, answers, strict=True):
            before = encode(row["good"])["input_ids"]
            out.append([judged(hf, encode(row["good"] + a)["input_ids"], len(before)) for a in after])
        return np.array(out)

    def law(values):
        return np.exp(values) / np.exp(values).sum(1, keepdims=True)

    options = log_probabilities([row["options"] for row in ROWS])
    pairs = log_probabilities([(row["right"], row["wrong"]) for row in ROWS])
    assert found["options"].law == pytest.approx(law(options[..., 0]), abs=1e-4)
    assert found["two"].law == pytest.approx(law(pairs[..., 0]), abs=1e-4)
    assert found["mean"].law == pytest.approx(law(pairs[..., 0] / pairs[..., 1]), abs=1e-4)
    assert found["odds"].is_value
    assert found["odds"].law[:, 0] == pytest.approx(pairs[:, 0, 0] - pairs[:, 1, 0], abs=1e-4)
    assert found["same"].law == pytest.approx(law(log_probabilities([same] * 10)[..., 0]), abs=1e-4)
    assert (found["two"].outcomes, found["same"].outcomes) == (("correct", "wrong"), tuple(same))
    assert found["options"].outcomes == ("answer 1", "answer 2", "answer 3")
    # the second option goes on from the first one, whose mass has it
    assert found["options"].covered == pytest.approx(np.exp(options[:, [0, 2], 0]).sum(1).mean(), abs=1e-6)
    assert found["two"].covered == pytest.approx(np.exp(pairs[..., 0]).sum(1).mean(), abs=1e-6)
    next_one = found_of(
        model, task_of(tmp_path, model, [{"name": "next", "kind": "choice", "tokens": [" a", " nine"]}])
    )
    assert found["same"].likeliest == next_one["next"].likeliest


def test_answers_of_one_token_are_what_the_next_token_s_law_says(model, tmp_path):
    one = {"kind": "choice", "tokens": [" a", " nine", " red"]}
    found = found_of(
        model, task_of(tmp_path, model, [{"name": "next", **one}, {"name": "whole", **one, "whole": True}])
    )
    assert found["whole"].law == pytest.approx(found["next"].law, abs=1e-5)
    assert found["whole"].covered == pytest.approx(found["next"].covered, abs=1e-5)


@pytest.mark.parametrize("most", [1, 3, 40])
def test_few_logits_at_a_time_change_nothing(model, tmp_path, monkeypatch, most):
    task = task_of(tmp_path, model, [TEXT, OPTIONS])
    whole = found_of(model, task)
    sizes, forward = [], model.forward

    def counted(*args, **how):
        out = forward(*args, **how)
        sizes.append(out.shape[0] * out.shape[1])
        return out

    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr(scoring, "MOST_LOGITS", (most * model.d_vocab,) * 2)
    monkeypatch.setattr(scoring, "ENTRIES_AT_ONCE", 2 * model.d_vocab)
    few = (
        scoring.scored(model, task, task.behaviours[0], *_kept(task)),
        scoring.scored(model, task, task.behaviours[1], *_kept(task)),
    )
    assert 0 < max(sizes) <= most
    for one, other in zip(few, (whole["text"], whole["options"]), strict=True):
        assert one.law == pytest.approx(other.law, abs=1e-5)


def _kept(task):
    """A store of its own, and what else `scored` is told of where it keeps things."""
    from probekit.storage.memory import Memory

    n = len(task.row_example)
    return Memory(), "0" * 32, {}, torch.zeros(n, 3, dtype=torch.long)


def test_what_was_scored_is_kept_and_an_interruption_costs_one_shard(model, tmp_path, monkeypatch):
    task = task_of(tmp_path, model, [TEXT], pair=["good", "bad"])
    monkeypatch.setattr(scoring, "SHARD_ROWS", 4)
    truth = capture(model, task, HOOK, store=tmp_path / "whole")
    real, calls = scoring._run, []

    def counted(model, pieces, *how):
        calls.append(len(pieces))
        return real(model, pieces, *how)

    def stopped(model, pieces, *how):
        if sum(calls) >= 9:
            raise KeyboardInterrupt
        return counted(model, pieces, *how)

    monkeypatch.setattr(scoring, "_run", stopped)
    with pytest.raises(Interrupted):
        capture(model, task, HOOK, store=tmp_path / "cut")
    assert sum(calls) == 12  # of 20 texts, in shards of 4
    calls.clear()
    steps = []
    monkeypatch.setattr(scoring, "_run", counted)
    again = capture(model, task, HOOK, store=tmp_path / "cut", progress=steps.append)
    assert sum(calls) == 8 and (steps[-1].rows, steps[-1].n_rows) == (8, 8)
    assert steps[-1].tokens == steps[-1].n_tokens == sum(len(ids) - 1 for ids in task.tokens[12:])
    law = again.observations.behaviours["text"].law
    assert np.array_equal(law, truth.observations.behaviours["text"].law)
    calls.clear()
    more = [TEXT, {**TEXT, "name": "mean", "per_token": True}, {**TEXT, "name": "less", "difference": True}]
    found = capture(model, task_of(tmp_path, model, more, pair=["good", "bad"]), HOOK, store=tmp_path / "cut")
    assert not calls, "means and differences are made of the sums that are there"
    assert found.observations.behaviours["less"].law[::2] == pytest.approx(law[::2] - law[1::2])
    key = found.observations.fingerprint
    assert scoring.stored_as(Scoring()) in Store(tmp_path / "cut").names(key)


def test_an_interruption_between_the_last_shard_and_the_seal_leaves_nothing_to_score(model, tmp_path, monkeypatch):
    task = task_of(tmp_path, model, [TEXT])
    truth = capture(model, task, HOOK, store=tmp_path / "whole").observations.behaviours["text"].law
    open_group = Store.group

    def unsealed(store, key, description, shapes, ranges):
        group = open_group(store, key, description, shapes, ranges)
        if scoring.stored_as(Scoring()) in shapes:
            monkeypatch.setattr(group, "seal", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        return group

    with monkeypatch.context() as patch:
        patch.setattr(Store, "group", unsealed)
        with pytest.raises(Interrupted):
            capture(model, task, HOOK, store=tmp_path / "cut")
    monkeypatch.setattr(scoring, "_run", None)  # nothing is run again
    found = capture(model, task, HOOK, store=tmp_path / "cut", progress=lambda step: None)
    assert np.array_equal(found.observations.behaviours["text"].law, truth)


def test_other_answers_are_kept_apart(model, tmp_path):
    first = found_of(model, task_of(tmp_path, model, [OPTIONS]))["options"]
    rows = [{**row, "options": row["options"][::-1]} for row in ROWS]
    kept = {row["options"][0]: scoring.stored_as(task_of(tmp_path, model, [OPTIONS], r).behaviours[0].scoring)
            for r in (ROWS, rows) for row in r[:1]}  # fmt: skip
    assert len(set(kept.values())) == 2
    assert found_of(model, task_of(tmp_path, model, [OPTIONS], rows))["options"].law == pytest.approx(
        first.law[:, ::-1], abs=1e-5
    )


def test_a_batch_without_room_is_halved(model, tmp_path, monkeypatch):
    task = task_of(tmp_path, model, [TEXT])
    truth, real, sizes = found_of(model, task)["text"].law, scoring._run, []

    def small(model, pieces, *how):
        sizes.append(len(pieces))
        if len(pieces) > 3:
            raise torch.OutOfMemoryError("no room")
        return real(model, pieces, *how)

    monkeypatch.setattr(scoring, "_run", small)
    assert found_of(model, task)["text"].law == pytest.approx(truth, abs=1e-5)
    assert max(sizes) > 3 and min(sizes) <= 3

    def none(model, pieces, *how):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(scoring, "_run", none)
    with pytest.raises(BadInput, match="out of memory while one text of"):
        found_of(model, task)


def test_a_completion_is_put_behind_the_chat_s_open_turn(folder, model, tmp_path):
    chat = [{"role": "user", "content": "{good}"}]
    task = task_of(tmp_path, model, [{**END, "completion": "right"}], chat=chat)
    hf, encode = AutoModelForCausalLM.from_pretrained(folder).eval(), model.tokenizer
    for i, row in enumerate(ROWS):
        text = encode.apply_chat_template([{"role": "user", "content": row["good"]}], tokenize=False,
                                          add_generation_prompt=True)  # fmt: skip
        before, both = (encode(t, add_special_tokens=False)["input_ids"] for t in (text, text + row["right"]))
        assert task.tokens[i].tolist() == before
        assert task.behaviours[0].scoring.answers[i][0].tolist() == both[len(before) :]
    truth = [judged(hf, [*ids, *answer[0]], len(ids))[0]
             for ids, answer in zip(task.tokens, task.behaviours[0].scoring.answers, strict=True)]  # fmt: skip
    assert found_of(model, task)["end"].law[:, 0] == pytest.approx(truth, abs=1e-4)


def test_token_ids_are_scored_behind_token_ids(model, tmp_path):
    rows = [{"ids": [1, 5 + i, 9], "more": [20 + i, 30]} for i in range(4)]
    task = task_of(tmp_path, model, [{**END, "completion": "more"}, TEXT], rows, tokens="ids")
    assert [answer[0].tolist() for answer in task.behaviours[0].scoring.answers] == [row["more"] for row in rows]
    found = found_of(model, task)
    assert np.isfinite(found["end"].law).all() and not np.allclose(found["end"].law, found["text"].law)


def test_a_deleted_span_is_scored_anew(folder, model, tmp_path):
    """What follows stands behind the shorter text; a text by itself is the shorter one."""
    rows = [{**row, "tag": "one two"} for row in ROWS]
    task = task_of(tmp_path, model, [END, TEXT], rows, template="{tag} {good}")
    whole = capture(model, task, HOOK, store=None)
    found = capture_without(model, task, "tag", whole, store=None).observations.behaviours
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    for i, (ids, answer) in enumerate(zip(task.tokens, task.behaviours[0].scoring.answers, strict=True)):
        start, stop = task.spans["field:tag"][i][0]
        left = [*ids[:start].tolist(), *ids[stop:].tolist()]
        truth = judged(hf, [*left, *answer[0].tolist()], len(left))[0], judged(hf, left, 1)[0]
        assert (found["end"].law[i, 0], found["text"].law[i, 0]) == pytest.approx(truth, abs=1e-4)
    assert not np.allclose(found["end"].law, whole.observations.behaviours["end"].law, atol=1e-3)


def test_what_is_scored_is_left_out_of_replacement(model, tmp_path, folder):
    from probekit.jobs.job import Job
    from probekit.jobs.plan import plan_rows

    task_of(tmp_path, model, [TEXT])
    next_one = {"name": "next", "kind": "choice", "tokens": [" a", " nine"]}
    job = {"name": "j", "model": {"name": str(folder)}, "replace": {"ks": [1], "levels": ["directions"]},
           "task": {"file": "data.jsonl", "text": "good", "behaviours": [TEXT, OPTIONS, next_one]},
           "read": {"hooks": [HOOK]}}  # fmt: skip
    spec = JobSpec.check(job, "here")
    assert {row["what"] for row in plan_rows(spec, tmp_path) if row["kind"] == "replace"} == {"next"}
    cells = Job.load(spec, tmp_path, model=model).cells()
    assert {cell.what for cell in cells if cell.kind == "replace"} == {"next"}
    asked = JobSpec.check({**job, "replace": {**job["replace"], "behaviours": ["options"]}}, "here")
    for refused in (lambda: plan_rows(asked, tmp_path), lambda: Job.load(asked, tmp_path, model=model).cells()):
        with pytest.raises(BadInput, match="'options', which is no behaviour that one forward pass shows"):
            refused()


MISTAKES = [
    ({**TEXT, "tokens": ["a"]}, {}, {}, "kind logprob takes no `tokens`: it takes `completion`"),
    ({**TEXT, "difference": True}, {}, {}, "is a difference between members of a pair: name `pair`"),
    ({**OPTIONS, "difference": True}, {}, {}, "takes no `difference`: it is for logprob"),
    ({**TEXT, "whole": True}, {}, {}, "takes no `whole`: it is for answers of choice"),
    ({**OPTIONS, "first_token": True}, {}, {}, "takes no `whole`: it is for answers of choice"),
    ({**OPTIONS, "whole": False, "per_token": True}, {}, {}, "takes no `per_token`"),
    ({**OPTIONS, "whole": False}, {}, {}, "also take whole = true"),
    ({**TEXT, "completion": "nowhere"}, {}, {}, "has no column 'nowhere' (asked for as 'text')"),
    ({**END}, {"end": ""}, {}, "row 2 has no value in column 'end'"),
    ({**END}, {"end": None}, {}, "row 2 has no value in column 'end'"),
    ({**END}, {"end": 7}, {}, "row 2, behaviour 'end', has the answer 7"),
    ({**END}, {"good": "o", "end": "ne car"}, {}, "row 2, behaviour 'end': 'ne car' begins inside a token"),
    ({**END}, {"end": " a" * 60}, {}, "row 2 has "),
    ({**END}, {"good": "a " * 60}, {"truncate": "right"}, "row 2 was cut, so that nothing of behaviour 'end'"),
    ({**END}, {}, {"chat": [{"role": "assistant", "content": "{good}"}]}, "row 1 ends with a turn that is over"),
    ({**OPTIONS}, {"options": [" a", " a", " b"]}, {}, "row 2, behaviour 'options', names"),
    ({**OPTIONS}, {"options": [" a", " b"]}, {}, "row 2 has 2 answers in column 'options': give a list of 3"),
    ({"name": "b", "kind": "logit_diff", "tokens": [" a b"], "whole": True}, {}, {}, "exactly 2 answers; found 1"),
    ({"name": "b", "kind": "choice", "tokens": [" a b", 7], "whole": True}, {}, {}, "behaviour 'b' has the answer 7"),
    ({**OPTIONS}, {"ids": [1, 2]}, {"tokens": "ids"}, "scores answers behind a text, and this task reads token ids"),
    ({**TEXT}, {"ids": [5]}, {"tokens": "ids"}, "row 2 has one token, and behaviour 'text' scores"),
    ({**END}, {"ids": [5], "end": "1 x"}, {"tokens": "ids"}, "give token ids, integers from 0 on"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "second", "asked", "words"), MISTAKES, ids=[words for *_, words in MISTAKES])
def test_a_mistake_is_one_sentence(model, tmp_path, entry, second, asked, words):
    rows = [{"ids": [1, 2, 3], **row} for row in ROWS]
    rows = [{**row, "end": "4 5"} for row in rows] if asked.get("tokens") else rows
    rows[1] = {**rows[1], **second}
    with pytest.raises(BadInput) as caught:
        task_of(tmp_path, model, [entry], rows, **asked)
    found = str(caught.value)
    assert words in found
    assert "\n" not in found and found.endswith((".", "?"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (BehaviourSpec("b", "choice", scoring=Scoring()), "needs `answers` for each example"),
        (BehaviourSpec("b", "choice", scoring=Scoring([[np.array([1])]] * 10)), r"has 10 rows of \[1\] answers"),
        (BehaviourSpec("b", "logprob", scoring=Scoring([[np.array([1])]] * 9)), r"has 9 rows of \[1\] answers"),
        (BehaviourSpec("b", "logprob", scoring=Scoring([[np.array([9999])]] * 10)), "is no token ids of"),
        (BehaviourSpec("b", "logprob", scoring=Scoring([[np.arange(46)]] * 10)), "an answer of 46 behind them"),
        (BehaviourSpec("b", "logprob", scoring=Scoring(minus=np.arange(1, 11))), "takes off the value of another"),
        (BehaviourSpec("b", "choice", outcomes=("x",), scoring=Scoring([[np.array([1]), np.array([2])]] * 10)),
         "has 2 answers and 1 names"),
    ],
)  # fmt: skip
def test_a_behaviour_made_in_a_script_is_checked_too(model, tmp_path, spec, words):
    import dataclasses

    task = task_of(tmp_path, model, [TEXT])
    with pytest.raises(BadInput, match=words):
        capture(model, dataclasses.replace(task, behaviours=(spec,)), HOOK, store=None)
