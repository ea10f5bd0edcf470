"""Behaviours in words: answers, answers by row and generations, judged by the library's own logits and `generate`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import checkpoints
from probekit.activations.capture import capture
from probekit.activations.continuation import stored_as
from probekit.errors import BadInput
from probekit.inputs.filetask import read_file_task
from probekit.inputs.text import Encoder
from probekit.model.generation import Manner, generate, manner
from probekit.model.loading import load_model, plant_model
from probekit.model.model import Model
from probekit.spec import TaskSpec
from probekit.storage.store import Store
from probekit.task import Generation

WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})
rng = np.random.default_rng(0)
ROWS = [
    {"text": " ".join(rng.choice(WORDS, 2 + i % 4)), "right": WORDS[i % 9], "wrong": WORDS[(i % 9) + 1],
     "options": [str(w) for w in rng.choice(WORDS, 3, replace=False)], "label": i % 2}
    for i in range(12)
]  # fmt: skip
HOOK = "blocks.0.hook_resid_post"


def task_of(base, model, behaviours, rows=ROWS, **asked):
    (base / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = TaskSpec.model_validate({"file": "data.jsonl", "text": "text", "behaviours": behaviours, **asked})
    return read_file_task(spec, base, model.encoder if model is not None else None)


def logits_of(folder, task):
    """Of the checkpoint loaded anew by the library, one sequence at a time."""
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.stack([
            hf(torch.from_numpy(task.tokens[e][None])).logits[0, p]
            for e, p in zip(task.row_example, task.row_position, strict=True)
        ])  # fmt: skip


def test_answers_by_row_are_the_library_s_logits(checkpoint, tiny, tmp_path):
    model = tiny("gpt2")
    task = task_of(tmp_path, model, [
        {"name": "better", "kind": "logit_diff", "correct": "right", "wrong": "wrong"},
        {"name": "odds", "kind": "value", "correct": "right", "wrong": "wrong"},
        {"name": "which", "kind": "choice", "answers": "options"},
        {"name": "fixed", "kind": "choice", "tokens": ["car", "red"]},
    ], position=["last", "column:label"])  # fmt: skip
    got = capture(model, task, HOOK, store=tmp_path / "store", shard_rows=5)
    logits, vocabulary = logits_of(checkpoint("gpt2"), task), model.tokenizer.get_vocab()
    behaviours = got.observations.behaviours
    assert behaviours["better"].outcomes == ("correct", "wrong")
    assert behaviours["which"].outcomes == ("answer 1", "answer 2", "answer 3")
    for r, e in enumerate(task.row_example):
        right, wrong = (logits[r, vocabulary[ROWS[e][column]]] for column in ("right", "wrong"))
        assert behaviours["odds"].law[r, 0] == pytest.approx(float(right - wrong), abs=1e-4)
        for name, words in (("better", [ROWS[e]["right"], ROWS[e]["wrong"]]), ("which", ROWS[e]["options"])):
            expected = torch.softmax(logits[r, [vocabulary[word] for word in words]], -1)
            assert np.allclose(behaviours[name].law[r], expected, atol=1e-5)
    rows = np.array([3, 0, 3])
    assert np.allclose(got.laws["better"](logits[rows], rows), behaviours["better"].law[rows], atol=1e-5)
    with pytest.raises(BadInput, match="differ from row to row: say which rows"):
        got.laws["better"](logits)


def test_answers_by_row_are_kept_apart_in_the_store(tiny, tmp_path):
    model = tiny("gpt2")
    entry = {"name": "better", "kind": "logit_diff", "correct": "right", "wrong": "wrong"}
    swapped = [{**row, "right": row["wrong"], "wrong": row["right"]} for row in ROWS]
    first = capture(model, task_of(tmp_path, model, [entry]), HOOK, store=tmp_path / "store").observations
    second = capture(model, task_of(tmp_path, model, [entry], swapped), HOOK, store=tmp_path / "store").observations
    assert first.fingerprint == second.fingerprint  # the same activations
    laws = first.behaviours["better"].law, second.behaviours["better"].law
    assert np.allclose(laws[0], laws[1][:, ::-1]) and not np.allclose(laws[0], laws[1])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_what_is_generated_is_what_the_library_generates(checkpoint, tiny, architecture):
    model, n = tiny(architecture), 12
    hf = AutoModelForCausalLM.from_pretrained(checkpoint(architecture)).eval()
    tokens = torch.from_numpy(np.random.default_rng(1).integers(4, model.d_vocab, (5, 9)))
    judge = hf.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=n)[:, 9:]
    ours = generate(model, tokens, n)[:, 0]
    for mine, theirs in zip(ours.tolist(), judge.tolist(), strict=True):
        stop = theirs.index(2) + 1 if 2 in theirs else n  # the library pads behind an end of sequence
        assert mine[:stop] == theirs[:stop]
        assert set(mine[stop:]) <= {2}
    assert len({tuple(row) for row in ours.tolist()}) > 1


def margins(hf, row, written):
    """How far the likeliest token is ahead of the next one at each step, in logits of the library's forward alone."""
    ids = torch.cat([torch.as_tensor(row), written])[None, :-1]
    with torch.no_grad():
        best = hf(ids).logits[0, len(row) - 1 :].topk(2).values
    return best[:, 0] - best[:, 1]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "gemma2"])
def test_the_plain_forward_writes_what_the_bridge_writes(checkpoint, tiny, architecture):
    """Rows of many lengths, padded on the left in one batch, against rows of one length through the bridge.

    Where two tokens are nearly as likely, rounding decides: rows are compared up to their first step at which the
    likeliest is less than 1e-4 ahead (rounding moves logits of this size by about 1e-6), and few may end so.
    """
    model, n = tiny(architecture), 14
    assert (manner(model, "hf"), manner(model, "bridge")) == (Manner(True, True), Manner(True, False))
    hf = AutoModelForCausalLM.from_pretrained(checkpoint(architecture)).eval()
    draw = np.random.default_rng(2)
    rows = [draw.integers(4, model.d_vocab, length) for length in (3, 17, 9, 1, 30, 9, 12, 2, 24, 5, 7, 21)]
    ours = generate(model, rows, n, backend="hf")[:, 0]
    n_compared = 0
    for row, mine in zip(rows, ours, strict=True):
        theirs = generate(model, [row], n)[0, 0]
        close = (margins(hf, row, theirs) < 1e-4).nonzero().flatten()
        sure = int(close[0]) if len(close) else n
        assert mine[:sure].tolist() == theirs[:sure].tolist()
        n_compared += sure
    assert n_compared > 0.9 * n * len(rows)
    assert len({tuple(row) for row in ours.tolist()}) > 6
    with pytest.raises(BadInput, match="writes after rows of one length only by its bridge forward"):
        generate(model, rows, n)


def test_padding_is_only_trusted_where_it_holds(monkeypatch):
    """A forward that is not told the places of left-padded tokens, and one whose cache is wrong, are found by trial."""
    model = Model(checkpoints.build("gpt2", 42), name="tiny")
    forward = model.forward

    def deaf(ids, mask, keep=None, **given):
        places = given.pop("position_ids", None)
        start = 0 if places is None else mask.shape[1] - ids.shape[1]
        naive = torch.arange(start, mask.shape[1]).expand(len(ids), -1)
        return forward(ids, mask, keep, position_ids=naive, **given)

    monkeypatch.setattr(model, "forward", deaf)
    assert manner(model, "hf") == Manner(True, False)
    model.trials.manners.clear()

    def forgetful(ids, mask, keep=None, **given):
        if given.get("past_key_values") is not None and ids.shape[1] == 1:
            raise TypeError("no cache")
        return forward(ids, mask, keep, **given)

    monkeypatch.setattr(model, "forward", forgetful)
    assert manner(model, "hf") == Manner(False, True)
    tokens = [np.array([5, 9, 7]), np.array([8, 6])]
    uncached = generate(model, tokens, 4, backend="hf")
    monkeypatch.setattr(model, "forward", forward)
    model.trials.manners.clear()
    assert torch.equal(uncached, generate(model, tokens, 4, backend="hf"))


@pytest.mark.parametrize("backend", ["hf", "bridge"])
def test_a_generation_is_written_by_the_forward_that_the_key_names(tiny, tmp_path, monkeypatch, backend):
    model, ran = tiny("llama"), []
    task = task_of(tmp_path, model, [{**BEGINS, "samples": 2}])
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, mask, keep=None, backend="bridge", **given: ran.append(
        (backend, len(ids), bool(mask.min() == 0), given.get("use_cache", False))) or forward(
            ids, mask, keep, backend=backend, **given))  # fmt: skip
    manner(model, backend)
    found = capture(model, task, HOOK, store=tmp_path / "store", backend=backend)
    written = [run for run in ran if run[3]]  # those of two lengths of prompt, three tokens each
    n_lengths = len({len(tokens) for tokens in task.tokens})
    assert {run[0] for run in written[-3:]} == {backend}
    padded = [run for run in written[-3:] if run[2]]
    assert bool(padded) == (backend == "hf") and n_lengths > 1
    assert max(run[1] for run in written[-3:]) == (24 if backend == "hf" else 6)
    # A law that was written through the bridge below the same key is not taken for it.
    spec = task.behaviours[0].generation
    names = Store(tmp_path / "store").names(found.observations.fingerprint)
    assert stored_as(spec, model, backend) in names
    assert stored_as(spec, model, "hf") != stored_as(spec, model, "bridge") == stored_as(spec, model)


def test_samples_follow_the_law_and_their_row_s_seed_alone(tiny):
    model = tiny("gpt2")
    tokens = torch.tensor([[1, 5, 9], [1, 7, 4]])
    draws = torch.from_numpy(np.random.default_rng(0).random((2, 20_000, 1)))
    logits = []
    model.read(list(tokens.numpy()), [], [np.array([2])] * 2, on_logits=lambda values, rows: logits.append(values))
    for temperature in (1.0, 2.0):
        got = generate(model, tokens, 1, draws, temperature)[:, :, 0]
        law = torch.softmax(logits[0] / temperature, -1)
        for row in range(2):
            frequency = torch.bincount(got[row], minlength=model.d_vocab) / got.shape[1]
            assert (frequency - law[row]).abs().max() < 0.02
    assert torch.equal(generate(model, tokens[1:], 4, draws[1:, :3].expand(-1, -1, 4)),
                       generate(model, tokens, 4, draws[:, :3].expand(-1, -1, 4))[1:])  # fmt: skip


def test_a_model_without_an_exact_cache_generates_too():
    # A ring of four tokens: the likeliest one is the last one's successor.
    eye = torch.eye(4)
    weights = {"tok_embed.weight": eye, "head.weight": torch.roll(eye, 1, 0), "layers.0.attn.v.weight": 0 * eye,
               "layers.0.mlp.fc_in.weight": torch.zeros(2, 4)}  # fmt: skip
    model = plant_model(weights, n_heads=1, n_ctx=8, name="ring")
    assert generate(model, torch.tensor([[0], [2]]), 5)[:, 0].tolist() == [[1, 2, 3, 0, 1], [3, 0, 1, 2, 3]]
    assert model.trials.manners == {"bridge": Manner(False, False)}
    model.tokenizer = SimpleNamespace(eos_token_id=3)  # nothing is written behind the end
    assert generate(model, torch.tensor([[0], [2]]), 5)[:, 0].tolist() == [[1, 2, 3, 3, 3], [3, 3, 3, 3, 3]]


BEGINS = {"name": "says", "kind": "generation", "n_tokens": 3, "match": {"a": ["a", "b"], "t": "^t|the"}}


def test_a_generation_is_counted_by_rules_and_kept(checkpoint, tiny, tmp_path, monkeypatch):
    model, store = tiny("gpt2"), tmp_path / "store"
    hf = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2")).eval()
    task = task_of(tmp_path, model, [BEGINS, {"name": "label", "kind": "label", "column": "label"}])
    got = capture(model, task, HOOK, store=store).observations.behaviours["says"]
    assert got.outcomes == ("a", "t", "no match")
    for row, tokens in enumerate(task.tokens):
        ids = torch.from_numpy(tokens[None])
        new = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3)[0, len(tokens) :]
        text = model.tokenizer.decode(new, skip_special_tokens=True)
        expected = 0 if text.startswith(("a", "b")) else 1 if text.startswith("t") or "the" in text else 2
        assert got.law[row].tolist() == np.eye(3)[expected].tolist()
    monkeypatch.setattr("probekit.activations.continuation.generate", None)  # a second time nothing is written
    again = capture(model, task, HOOK, store=store)
    assert np.array_equal(again.observations.behaviours["says"].law, got.law)
    assert "says" not in again.laws
    names = Store(store).names(again.observations.fingerprint)
    assert sum(name.startswith("behaviour.") for name in names) == 1


def test_samples_become_frequencies_whatever_the_batch(tiny, tmp_path, monkeypatch):
    model = tiny("gpt2")
    task = task_of(tmp_path, model, [{**BEGINS, "samples": 8, "seed": 3}])
    laws = [capture(model, task, HOOK, store=None, batch_tokens=size).observations.behaviours["says"].law
            for size in (1, 200, 4096)]  # fmt: skip
    assert np.array_equal(laws[0], laws[1]) and np.array_equal(laws[0], laws[2])
    assert set(np.unique(laws[0] * 8)) <= set(range(9)) and len(np.unique(laws[0])) > 2
    monkeypatch.setattr("probekit.activations.continuation.SHARD_ROWS", 5)
    shards = capture(model, task, HOOK, store=tmp_path / "store").observations.behaviours["says"].law
    assert np.array_equal(laws[0], shards)
    other = task_of(tmp_path, model, [{**BEGINS, "samples": 8, "seed": 4}])
    assert not np.array_equal(laws[0], capture(model, other, HOOK, store=None).observations.behaviours["says"].law)


def test_a_batch_without_room_is_halved_and_progress_is_told(tiny, tmp_path, monkeypatch):
    model = tiny("gpt2")
    task = task_of(tmp_path, model, [{**BEGINS, "samples": 3}])
    steps = []
    whole = capture(model, task, HOOK, store=None, progress=steps.append).observations.behaviours["says"].law
    assert (steps[-1].rows, steps[-1].tokens) == (12, 12 * 3 * 3)
    sizes = []

    def tight(model, tokens, *args):
        sizes.append(len(tokens))
        if len(tokens) > room:
            raise torch.OutOfMemoryError("full")
        return generate(model, tokens, *args)

    monkeypatch.setattr("probekit.activations.continuation.generate", tight)
    room = 1
    halved = capture(model, task, HOOK, store=None).observations.behaviours["says"].law
    assert max(sizes) > 1 and np.array_equal(whole, halved)
    room = 0
    with pytest.raises(BadInput, match="out of memory while writing after one example of 5 tokens, 3 times at once"):
        capture(model, task, HOOK, store=None)


@pytest.mark.parametrize(
    ("text", "outcome"), [("Yes, sure", 0), ("  yes", 0), ("Say yes", 1), ("Oh no", 2), ("Perhaps", 3), ("", 3)]
)
def test_the_first_rule_that_is_met_counts(text, outcome):
    made = Generation((("begins", ("Yes", "yes")), ("holds", "yes"), ("no", r"\bno$")), 3)
    assert made.outcome(text) == outcome


def test_an_answer_of_several_tokens_stands_for_its_first_when_it_is_asked_to(tiny, tmp_path):
    entry = {"name": "b", "kind": "choice", "tokens": ["red car", "nine"], "first_token": True}
    model = tiny("gpt2")
    vocabulary = model.tokenizer.get_vocab()
    assert task_of(tmp_path, model, [entry]).behaviours[0].tokens == (vocabulary["red"], vocabulary["nine"])


MISTAKES = [
    ({"kind": "choice", "tokens": ["red car", "nine"]}, ROWS, "'red car' is 2 ("),
    ({"kind": "choice", "tokens": ["red car", "red bicycle"], "first_token": True}, ROWS,
     "twice ('red car' and 'red bicycle'): the model cannot tell them apart"),
    ({"kind": "logit_diff", "correct": "right"}, ROWS, "takes `tokens` or `correct` and `wrong`; found `correct`"),
    ({"kind": "logit_diff", "correct": "right", "wrong": "right"}, ROWS, "row 1, behaviour 'b', names token"),
    ({"kind": "logit_diff", "correct": "right", "wrong": "nowhere"}, ROWS, "no column 'nowhere' (asked for as 'b')"),
    ({"kind": "logit_diff", "correct": "right", "wrong": "wrong"}, [ROWS[0], {**ROWS[1], "wrong": "red car"}, *ROWS],
     "row 2, behaviour 'b', needs one token and 'red car' is 2"),
    ({"kind": "logit_diff", "correct": "right", "wrong": "wrong"}, [ROWS[0], {**ROWS[1], "wrong": 0.5}, *ROWS],
     "row 2, behaviour 'b', has the answer 0.5"),
    ({"kind": "logit_diff", "correct": "right", "wrong": "wrong"}, [ROWS[0], {**ROWS[1], "wrong": None}, *ROWS],
     "row 2 has no value in column 'wrong'"),
    ({"kind": "choice", "answers": "right"}, ROWS, "row 1 has no list in column 'right'"),
    ({"kind": "choice", "answers": "options"}, [ROWS[0], {**ROWS[1], "options": ["red", "car"]}, *ROWS],
     "row 2 has 2 answers in column 'options': give a list of 3, as in the first row"),
    ({"kind": "choice", "answers": "options", "tokens": ["red"]}, ROWS, "found `tokens` and `answers`"),
    ({"kind": "law", "answers": "options"}, ROWS, "takes no `answers`"),
    ({"kind": "label", "column": "label", "first_token": True}, ROWS, "no `first_token` without answers"),
    ({"kind": "label", "column": "label", "samples": 3}, ROWS, "takes no `samples`: it belongs to kind generation"),
    ({"kind": "generation"}, ROWS, "needs `match` and `n_tokens`"),
    ({"kind": "generation", "n_tokens": 3, "match": {}}, ROWS, "`match` with at least one outcome"),
    ({"kind": "generation", "n_tokens": 3, "match": {"no match": "x"}}, ROWS, "names the outcome 'no match'"),
    ({"kind": "generation", "n_tokens": 3, "match": {"a": "("}}, ROWS, "is no regular expression"),
    ({"kind": "generation", "n_tokens": 3, "match": {"a": [""]}}, ROWS, "has an empty beginning"),
    ({"kind": "generation", "match": {"a": "x"}}, ROWS, "takes `match` and `n_tokens`; found `match`"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "rows", "words"), MISTAKES, ids=[words for *_, words in MISTAKES])
def test_a_mistake_is_one_sentence(tiny, tmp_path, entry, rows, words):
    with pytest.raises(BadInput) as caught:
        task_of(tmp_path, tiny("gpt2"), [{"name": "b", **entry}], rows)
    found = str(caught.value)
    assert words in found
    assert "\n" not in found and found.endswith((".", "?"))


def test_what_a_model_cannot_do(tiny, tmp_path):
    with pytest.raises(BadInput, match="reads text and the model has no tokeniser"):
        task_of(tmp_path, None, [{**BEGINS, "name": "b"}], [{**row, "ids": [1, 2]} for row in ROWS], text=None,
                tokens="ids")  # fmt: skip
    model = tiny("gpt2")
    task = task_of(tmp_path, model, [{**BEGINS, "n_tokens": 46}])
    with pytest.raises(BadInput, match=r"'says' writes 46 tokens after up to 5 and tiny-gpt2 reads 48"):
        capture(model, task, HOOK, store=None)
    with pytest.raises(BadInput, match="46 tokens after 5 are more than the 48"):
        generate(model, torch.ones(1, 5, dtype=torch.long), 46)
    assert Encoder(model.tokenizer).fingerprint == load_model(tmp_path_of(model)).encoder.fingerprint


def tmp_path_of(model):
    return model.source
