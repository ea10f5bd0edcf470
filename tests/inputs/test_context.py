"""Answers where they stand: the token that the text and the answer give together, row by row and place by place."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoModelForCausalLM

import checkpoints
import probekit as pk
from probekit.errors import BadInput
from probekit.inputs.filetask import read_file_task
from probekit.inputs.text import Encoder
from probekit.spec import TaskSpec

SENTENCES, PIECES, WORDS = checkpoints.sentences(), checkpoints.pieces(), checkpoints.words()
LABEL = {"name": "truth", "kind": "label", "column": "label"}
AB = {"name": "says", "kind": "choice", "tokens": ["A", "B"]}


def read(base, texts, behaviours, tokenizer=SENTENCES, **asked):
    rows = [text if isinstance(text, dict) else {"text": text, "label": i % 2, "good": "A", "bad": "B"}
            for i, text in enumerate(texts)]  # fmt: skip
    (base / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {"file": "data.jsonl", "text": "text", "behaviours": [LABEL, *behaviours], **asked}
    return read_file_task(TaskSpec.model_validate(given), base, Encoder(tokenizer, n_ctx=80, name="tiny"))


def behind(text, answer, tokenizer=SENTENCES):
    """As the tokenizer itself has it."""
    return tokenizer(text + answer)["input_ids"][len(tokenizer(text)["input_ids"]) :]


def alone(answer, tokenizer=SENTENCES):
    return tokenizer(answer, add_special_tokens=False)["input_ids"]


COLONS = [f"{word} Answer:" for word in ("red", "blue", "one", "two", "the car", "spain")]


def test_an_answer_is_the_token_that_it_is_behind_the_text(tmp_path):
    """With SentencePiece a word by itself begins with a blank, which behind the text is not there."""
    (of_a,) = behind(COLONS[0], "A")
    assert [of_a] != alone("A"), "the naive token is another one"
    says = read(tmp_path, COLONS, [AB]).behaviours[1]
    assert says.tokens == (of_a, behind(COLONS[0], "B")[0]) and says.outcomes == ("A", "B")
    columns = {"name": "better", "kind": "logit_diff", "correct": "good", "wrong": "bad"}
    assert read(tmp_path, COLONS, [columns]).behaviours[1].row_tokens[:, 0].tolist() == [of_a] * 6
    spaced = {**AB, "tokens": [" A", " B"]}
    assert read(tmp_path, COLONS, [spaced]).behaviours[1].tokens == tuple(behind(COLONS[0], x)[0] for x in (" A", " B"))


def test_a_place_at_which_an_answer_is_another_token_has_its_own(tmp_path):
    """Behind the first token of all nothing stands in front of the answer: there it begins with a blank."""
    at = {"position": "at"}
    rows = [{"text": text, "label": i % 2, "at": 0 if i < 3 else len(SENTENCES(text)["input_ids"]) - 1}
            for i, text in enumerate(COLONS)]  # fmt: skip
    (inside,), (begins,) = behind(COLONS[0], "A"), alone("A")
    says = read(tmp_path, rows, [AB], **at).behaviours[1]
    assert says.tokens is None and says.row_tokens[:, 0].tolist() == [begins] * 3 + [inside] * 3
    for more in ({"kind": "law", "tokens": ["A", "B"]}, {"kind": "groups", "sets": {"one": ["A"], "two": ["B"]}}):
        words = f"same outcomes for all rows, and 'A' is token {begins} behind .* row 1 and {inside} behind .* row 4"
        with pytest.raises(BadInput, match=words):
            read(tmp_path, rows, [{"name": "b", **more}], **at)
        same = read(tmp_path, COLONS, [{"name": "b", **more}]).behaviours[1]
        assert inside in (same.tokens or same.sets["one"])


@pytest.mark.parametrize(
    ("tokenizer", "ends", "answer", "whole"),
    [(SENTENCES, "the capital of france is ", "A", False), (PIECES, "the capital of france is ", "paris", True),
     (PIECES, "the", "n", False), (SENTENCES, "par", "is", False)],
)  # fmt: skip
def test_an_answer_that_begins_inside_a_token_is_refused_with_its_row(tmp_path, tokenizer, ends, answer, whole):
    texts = [*COLONS[:4], ends, COLONS[5]]
    entry = {"name": "says", "kind": "choice", "tokens": [answer, "A" if answer != "A" else "B"]}
    for more in ({"first_token": True}, {"whole": True}):
        with pytest.raises(BadInput, match=rf"row 5, behaviour 'says': '{answer}' begins inside a token of the text"):
            read(tmp_path, texts, [entry | more], tokenizer)
    text = read(tmp_path, texts, [entry | {"tokens": [3, 7]}], tokenizer).behaviours[1]
    assert text.tokens == (3, 7), "token ids are what they are"


def test_a_tokenizer_of_whole_words_needs_no_blank(tmp_path):
    """It makes nothing of one: without it the two would run into a word that it does not know."""
    texts = ["the red", "the blue", "the car", "one two", "is paris", "is madrid"]
    for tokens in (["car", "nine"], [" car", " nine"]):
        says = read(tmp_path, texts, [AB | {"tokens": tokens}], WORDS).behaviours[1]
        assert says.tokens == tuple(alone(word, WORDS)[0] for word in ("car", "nine"))
    with pytest.raises(BadInput, match="row 1, behaviour 'says', has 'zebra', which tiny's tokenizer has no token for"):
        read(tmp_path, texts, [AB | {"tokens": ["car", "zebra"]}], WORDS)


def test_what_is_put_behind_a_text_does_not_stand_between_it_and_an_answer(tmp_path):
    closing = checkpoints.words()
    around = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", closing.eos_token_id)])
    closing.backend_tokenizer.post_processor = around  # pyright: ignore[reportAttributeAccessIssue]
    last = ("blue", "car", "one", "two", "paris", "madrid")
    rows = [{"text": f"the red {word}", "label": i % 2, "at": 1} for i, word in enumerate(last)]
    says = read(tmp_path, rows, [AB | {"tokens": ["car", "nine"]}], closing, position="at").behaviours[1]
    assert says.tokens == tuple(alone(word, WORDS)[0] for word in ("car", "nine"))


@given(
    st.lists(st.text("abA: (é\n☕", min_size=1, max_size=6), min_size=3, max_size=6), st.sampled_from(["A", " A", "b"])
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_asked_of_a_row_is_what_the_tokenizer_makes_of_both(tmp_path, texts, answer):
    """Or it is refused: never another token."""
    for tokenizer in (SENTENCES, PIECES):
        asked = {"name": "says", "kind": "choice", "tokens": [answer, 5], "first_token": True}
        fits = [behind(text, answer, tokenizer) for text in texts]
        clean = [
            tokenizer(t + answer)["input_ids"][: len(tokenizer(t)["input_ids"])] == tokenizer(t)["input_ids"] and ids
            and tokenizer.unk_token_id not in ids and ids[0] != 5 for t, ids in zip(texts, fits, strict=True)
        ]  # fmt: skip
        if not all(clean):
            with pytest.raises(BadInput):
                read(tmp_path, texts, [asked], tokenizer)
            continue
        says = read(tmp_path, texts, [asked], tokenizer).behaviours[1]
        found = [says.tokens[0]] * len(texts) if says.tokens else says.row_tokens[:, 0].tolist()
        assert found == [ids[0] for ids in fits]


def test_the_probability_is_that_of_the_token_behind_the_text(tmp_path):
    """As the library's own forward has it on the text alone."""
    checkpoints.write(tmp_path / "model", "llama", tokenizer=SENTENCES)
    model = pk.load_model(tmp_path / "model")
    task = read(tmp_path, COLONS, [AB])
    found = pk.capture(model, task, "blocks.0.hook_resid_pre", store=None).observations.behaviours["says"].law
    judge = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    for text, law in zip(COLONS, found, strict=True):
        with torch.inference_mode():
            odds = judge(torch.tensor([SENTENCES(text)["input_ids"]])).logits[0, -1].softmax(0)
        both = odds[[behind(text, "A")[0], behind(text, "B")[0]]].numpy()
        assert law == pytest.approx(both / both.sum(), abs=1e-5)
