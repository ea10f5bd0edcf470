"""Text tasks: prompts, chats and positions, judged by the tokenizer's own character maps, chats and masks."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet
from tokenizers import processors

import checkpoints
from probekit.errors import BadInput
from probekit.inputs.columns import Columns
from probekit.inputs.filetask import read_file_task
from probekit.inputs.positions import Place, parse_places
from probekit.inputs.text import Encoder, Prompt, Template, render_chat
from probekit.spec import TaskSpec

PIECES = checkpoints.pieces()
ENCODER = Encoder(PIECES, n_ctx=80, name="tiny")
LABEL = {"name": "truth", "kind": "label", "column": "label"}
QUESTIONS = ["what is red", "who sold the car", "is paris the capital", "naïve café ☕", "one two", "the end"]
ROWS = [
    {"q": q, "a": ["yes", "no"][i % 2], "label": i % 2, "n": i,
     "text": f"[{i}] {q} and more", "start": 4, "stop": 4 + len(q),
     "chat": [{"role": "system", "content": " be brief\n"}, {"role": "user", "content": q},
              {"role": "assistant", "content": " yes "}, {"role": "user", "content": "sure"}]}
    for i, q in enumerate(QUESTIONS)
]  # fmt: skip
TEMPLATE = "Q: {q}\nA{{}} {a}:"


def read(base: Path, rows=ROWS, encoder: Encoder | None = ENCODER, **asked):
    (base / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = TaskSpec.model_validate({"file": "data.jsonl", "behaviours": [LABEL], **asked})
    return read_file_task(spec, base, encoder)


def text_of(ids) -> str:
    return PIECES.decode(ids, skip_special_tokens=True)


# Prompts


@given(values=st.lists(st.text(max_size=12), min_size=2, max_size=2), around=st.text("ab {}\n", max_size=5))
def test_a_template_says_where_its_fields_are(values, around):
    escaped = around.replace("{", "{{").replace("}", "}}")
    template = Template.parse(f"{escaped}{{x}}: {{y}}{escaped}{{x}}")
    x, y = values
    prompt = template.fill({"x": x, "y": y})
    assert prompt.text == f"{around}{x}: {y}{around}{x}"
    assert [prompt.text[a:b] for a, b in prompt.marks["field:x"]] == [x, x]
    assert [prompt.text[a:b] for a, b in prompt.marks["field:y"]] == [y]


TRIMMING, PLAIN = (lambda text: text.strip()), (lambda text: text)


@pytest.mark.parametrize("shown", [TRIMMING, PLAIN])
@given(contents=st.lists(st.text("ab user<>\n\t é", max_size=10), min_size=1, max_size=4))
def test_a_chat_says_where_its_turns_and_fields_are(shown, contents):
    def render(messages):
        return "".join(f"<{m['role']}>{shown(m['content'])}</user>" for m in messages)

    template = Template.parse("so: {x} ?")
    turns = [("user" if i % 2 else "ab", template.fill({"x": text})) for i, text in enumerate(contents)]
    prompt = render_chat(turns, render)
    assert prompt.text == render([{"role": role, "content": p.text} for role, p in turns])
    for kind in ("user", "ab"):
        said = [p.text.strip() for role, p in turns if role == kind]
        assert [prompt.text[a:b] for a, b in prompt.marks.get(f"role:{kind}", [])] == said
    assert [prompt.text[a:b] for a, b in prompt.marks["field:x"]] == contents


def test_a_chat_template_that_rewrites_its_turns_gives_no_marks():
    prompt = render_chat(
        [("user", Prompt("<think>long</think>short"))], lambda m: m[0]["content"].split("</think>")[-1]
    )
    assert (prompt.text, prompt.marks) == ("short", {})
    quoted = render_chat([("user", Prompt('say "x"'))], lambda m: json.dumps(m[0]["content"]))
    assert quoted.marks == {}


# Positions, judged by the tokenizer's own map from characters to tokens


def test_fields_and_spans_are_the_tokens_that_the_tokenizer_says(tmp_path):
    task = read(tmp_path, template=TEMPLATE, position=["field:q", "field:a:first", "last"])
    for row, tokens, positions in zip(ROWS, task.tokens, task.positions, strict=True):
        text = f"Q: {row['q']}\nA{{}} {row['a']}:"
        judge = PIECES(text)
        assert tokens.tolist() == judge["input_ids"]
        end = 3 + len(row["q"])
        # The last token before the newline: of a character of several tokens the tokenizer names the first.
        asked = [judge.char_to_token(end) - 1, judge.char_to_token(end + 5), len(tokens) - 1]
        assert positions.tolist() == asked
    assert task.audit["positions"] == {"field:q": 6, "field:a:first": 6, "last": 6}
    assert (task.audit["n_named_twice"], task.audit["source"], task.audit["n_bos"]) == (0, "template", {"1": 6})
    first, last = task.spans["field:q"][3][0]
    assert text_of(task.tokens[3][first:last]).strip() == "naïve café ☕"


@pytest.mark.parametrize("spans", [{"it": ["start", "stop"]}, {"it": "q"}])
def test_spans_of_a_text_by_characters_or_by_what_they_say(tmp_path, spans):
    task = read(tmp_path, text="text", spans=spans, position=["span:it:first", "span:it"])
    for row, positions in zip(ROWS, task.positions, strict=True):
        judge = PIECES(row["text"])
        assert positions.tolist() == [judge.char_to_token(row["start"]), judge.char_to_token(row["stop"] + 1) - 1]


def test_a_span_inside_a_token_is_read_there_and_counted(tmp_path):
    rows = [{**row, "text": "the capital of france", "start": 5, "stop": 7} for row in ROWS]
    judge = PIECES("the capital of france")
    assert judge.char_to_token(5) == judge.char_to_token(8)  # " capital" is one token
    task = read(tmp_path, rows, text="text", spans={"it": ["start", "stop"]}, position="span:it")
    assert {p.tolist()[0] for p in task.positions} == {judge.char_to_token(5)}
    assert task.audit["n_spans_inside_a_token"] == len(ROWS)


def test_chats_are_the_library_s_own_tokens_and_masks(tmp_path):
    task = read(tmp_path, messages="chat", position="role:assistant:all")
    for row, tokens, positions in zip(ROWS, task.tokens, task.positions, strict=True):
        judge = PIECES.apply_chat_template(row["chat"], add_generation_prompt=True, return_dict=True,
                                           return_assistant_tokens_mask=True)  # fmt: skip
        assert tokens.tolist() == list(judge["input_ids"])
        assert positions.tolist() == np.flatnonzero(judge["assistant_masks"]).tolist()
        assert (tokens == PIECES.bos_token_id).sum() == 1  # the naive way, encode(rendered text), has two
        assert PIECES(PIECES.apply_chat_template(row["chat"], tokenize=False))["input_ids"][:2] == [1, 1]
    assert task.audit["n_generation_prompts"] == len(ROWS)
    assert task.audit["n_bos"] == {"1": len(ROWS)}
    task = read(tmp_path, messages="chat", position=["role:user[0]", "role:user[-1]:first"], generation_prompt=False)
    for row, tokens, (first, last) in zip(ROWS, task.tokens, task.positions, strict=True):
        assert tokens.tolist() == list(PIECES.apply_chat_template(row["chat"], return_dict=True)["input_ids"])
        assert text_of(tokens[: first + 1]).endswith(row["q"])
        assert text_of(tokens[last:]) == "sure\n"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_chats_and_lists_are_the_same_from_every_format(tmp_path, suffix):
    rows = [
        {"chat": row["chat"], "label": row["label"], "at": [1, 3], "each": [i % 2, 1]} for i, row in enumerate(ROWS)
    ]
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    elif suffix == "csv":
        plain = [{**row, "chat": json.dumps(row["chat"]), "at": "1 3", "each": "x"} for row in rows]
        csv.write_csv(pa.Table.from_pylist(plain), tmp_path / "data.csv")
    task = read(tmp_path, rows, messages="chat", position="at", file=f"data.{suffix}")
    judge = [list(PIECES.apply_chat_template(row["chat"], add_generation_prompt=True, return_dict=True)["input_ids"])
             for row in rows]  # fmt: skip
    assert [ids.tolist() for ids in task.tokens] == judge
    assert [p.tolist() for p in task.positions] == [[1, 3]] * len(rows)
    if suffix != "csv":  # a cell of a CSV file is one value
        entry = {"name": "each", "kind": "label", "column": "each"}
        law = read(tmp_path, rows, messages="chat", position="at", file=f"data.{suffix}", behaviours=[entry])
        assert law.labels["each"].law.argmax(1).tolist() == [0, 1, 1, 1] * 3


def test_a_template_per_turn_is_the_same_chat_as_its_messages(tmp_path):
    chat = [{"role": "system", "content": " be brief\n"}, {"role": "user", "content": "{q}"},
            {"role": "assistant", "content": " yes "}, {"role": "user", "content": "sure"}]  # fmt: skip
    one, other = read(tmp_path, chat=chat, position=["field:q", "last"]), read(tmp_path, messages="chat")
    assert [a.tolist() for a in one.tokens] == [b.tolist() for b in other.tokens]
    users = read(tmp_path, messages="chat", position=["role:user[0]", "last"])
    assert [a.tolist() for a in one.positions] == [b.tolist() for b in users.positions]
    answered = read(tmp_path, chat=chat[:3])
    assert answered.audit["n_generation_prompts"] == 0


def test_a_chat_template_with_a_clock_is_told_the_time(tmp_path):
    clocked = checkpoints.pieces()
    clocked.chat_template = "{{ strftime_now('%d %b %Y, %H') }} " + checkpoints.CHAT
    encoder = Encoder(clocked, n_ctx=80, name="tiny")
    with pytest.raises(BadInput, match=r"row 1: tiny's chat template writes the time .* set chat_time = \"20"):
        read(tmp_path, messages="chat", encoder=encoder)
    for time, written in (("2026-01-01", "01 Jan 2026, 00"), ("2025-12-31T13:40", "31 Dec 2025, 13")):
        task = read(tmp_path, messages="chat", encoder=encoder, chat_time=time)
        assert all(text_of(ids).startswith(written) for ids in task.tokens)
    clocked.chat_template = "{% set how = '%d' %}{{ strftime_now(how) }}" + checkpoints.CHAT
    with pytest.raises(BadInput, match="in a way that `chat_time` does not answer"):
        read(tmp_path, messages="chat", encoder=encoder, chat_time="2026-01-01")
    plain, told = (read(tmp_path, messages="chat", **more) for more in ({}, {"chat_time": "2026-01-01"}))
    assert [a.tolist() for a in plain.tokens] == [b.tolist() for b in told.tokens], "a template without a clock"
    for wrong, words in (("soon", "`chat_time` is a date or a time"), ("", "found ''")):
        with pytest.raises(BadInput, match=words):
            read(tmp_path, messages="chat", chat_time=wrong)
    with pytest.raises(BadInput, match="`chat_time` belongs to a chat"):
        read(tmp_path, text="text", chat_time="2026-01-01")


@pytest.mark.parametrize(
    ("policy", "n_bos", "added", "removed"), [("as_is", {"1": 6}, 0, 0), ("none", {"0": 6}, 0, 6),
                                              ("exactly_one", {"1": 6}, 0, 0)]
)  # fmt: skip
def test_the_bos_policy_holds_for_chats_and_is_counted(tmp_path, policy, n_bos, added, removed):
    task = read(tmp_path, messages="chat", position="role:user[0]", encoder=Encoder(PIECES, policy, 80))
    found = {key: task.audit[key] for key in ("bos", "n_bos", "n_bos_added", "n_bos_removed")}
    assert found == {"bos": policy, "n_bos": n_bos, "n_bos_added": added, "n_bos_removed": removed}
    # Whatever moved, the position is still the end of the question.
    ends = [text_of(tokens[: p[0] + 1]) for tokens, p in zip(task.tokens, task.positions, strict=True)]
    assert all(end.endswith(row["q"]) for end, row in zip(ends, ROWS, strict=True))


def test_a_bos_that_is_written_out_is_made_one(tmp_path):
    rows = [{**row, "text": "<bos><bos>" + row["text"]} for row in ROWS]
    for policy, n in (("as_is", "3"), ("exactly_one", "1"), ("none", "0")):
        task = read(tmp_path, rows, text="text", encoder=Encoder(PIECES, policy, 80))
        assert task.audit["n_bos"] == {n: len(ROWS)}


@pytest.fixture(scope="module")
def closing():
    """A tokenizer that puts an end of sequence behind every text."""
    tokenizer = checkpoints.pieces()
    around = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    tokenizer.backend_tokenizer.post_processor = around  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def test_an_end_of_sequence_behind_each_text_is_counted_and_can_be_left_out(tmp_path, closing):
    task = read(tmp_path, text="text", encoder=Encoder(closing, n_ctx=80, name="tiny"))
    assert all(ids[-1] == closing.eos_token_id for ids in task.tokens)
    assert task.audit["n_with_special_behind"] == len(ROWS), "a label may be read there"
    plain = read(tmp_path, text="text", encoder=Encoder(closing, n_ctx=80, name="tiny", eos="none"))
    assert [a.tolist() for a in plain.tokens] == [b.tolist()[:-1] for b in task.tokens]
    assert plain.audit["n_with_special_behind"] == 0 == read(tmp_path, text="text").audit["n_with_special_behind"]
    says = {"name": "says", "kind": "choice", "tokens": [" red", " and"], "first_token": True}
    whole, nothing = {**says, "first_token": False, "whole": True}, {"name": "own", "kind": "logprob"}
    for behaviour in (says, whole, {"name": "law"}):
        with pytest.raises(BadInput, match=r"row 1 is read behind '<eos>', which tiny's tokenizer .* eos = \"none\""):
            read(tmp_path, text="text", behaviours=[LABEL, behaviour], encoder=Encoder(closing, n_ctx=80, name="tiny"))
    inside = read(tmp_path, template="Q: {q}\nA:", position="field:q", behaviours=[says],
                  encoder=Encoder(closing, n_ctx=80, name="tiny"))  # fmt: skip
    assert len(inside.behaviours) == 1, "inside the text nothing is behind its end"
    own = read(tmp_path, text="text", behaviours=[nothing], encoder=Encoder(closing, n_ctx=80, name="tiny"))
    assert own.behaviours[0].kind == "logprob", "the end is part of what is scored"
    with pytest.raises(BadInput, match="eos is one of as_is, none; found 'some'"):
        Encoder(closing, eos="some")


def test_control_tokens_that_a_text_contains_are_told(tmp_path):
    rows = [{**ROWS[0], "text": "one<eos> two", "chat": [{"role": "user", "content": "one<eos>two"}]}, *ROWS[1:]]
    for asked in ({"text": "text"}, {"messages": "chat"}):
        told = read(tmp_path, rows, **asked).audit
        assert told["n_with_control_tokens"] == 1
        assert "1 text contains tokens that tiny's tokenizer takes for control, such as '<eos>'" in told["told"][-1]
        assert read(tmp_path, **asked).audit["n_with_control_tokens"] == 0


def test_many_positions_to_a_row_by_index_mask_and_all(tmp_path):
    lengths = [len(PIECES(row["text"])["input_ids"]) for row in ROWS]
    rows = [{**row, "at": [n - 1, 0], "one": 2, "keep": [i % 2 for i in range(n)]}
            for row, n in zip(ROWS, lengths, strict=True)]  # fmt: skip
    at = read(tmp_path, rows, text="text", position="at")
    assert [p.tolist() for p in at.positions] == [[n - 1, 0] for n in lengths]
    assert [p.tolist() for p in read(tmp_path, rows, text="text", position="column:one").positions] == [[2]] * 6
    mask = read(tmp_path, rows, text="text", position="mask:keep")
    assert [p.tolist() for p in mask.positions] == [list(range(1, n, 2)) for n in lengths]
    every = read(tmp_path, rows, text="text", position="all")
    assert [p.tolist() for p in every.positions] == [list(range(n)) for n in lengths]
    both = read(tmp_path, rows, text="text", position=["last", "at"])
    assert [p.tolist() for p in both.positions] == [[n - 1, 0] for n in lengths]
    assert both.audit["positions"] == {"last": 6, "at": 12}
    assert both.audit["n_named_twice"] == 6


def test_some_tokens_of_each_text_are_drawn_evenly_and_the_same_ones_again(tmp_path):
    """Beside the same rows in another order of columns and file; a shorter text is read whole."""
    lengths = [len(PIECES(row["text"])["input_ids"]) for row in ROWS]
    some = read(tmp_path, text="text", position="sample:2").positions
    assert [len(p) for p in some] == [min(2, n) for n in lengths]
    assert all((np.diff(p) > 0).all() and p[-1] < n for p, n in zip(some, lengths, strict=True))
    again = read(tmp_path, text="text", position=["last", "sample:2"]).positions
    assert all(set(p) <= set(q) for p, q in zip(some, again, strict=True))
    assert [len(p) for p in read(tmp_path, text="text", position="sample:99").positions] == lengths
    # Evenly: the first two of each, as a slice would have it, are hardly ever drawn from a text of twenty.
    drawn = [Place.parse("sample:2").at(Columns(tmp_path, {}, []), i, 20, {}, 20) for i in range(400)]
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    assert counts.sum() == 800 and counts.min() > 15 and counts.max() < 75


@pytest.mark.parametrize("text", ["sample:", "sample:0", "sample:-1", "sample:two"])
def test_a_draw_says_how_many(text):
    with pytest.raises(BadInput, match="write sample:4"):
        Place.parse(text)


def test_a_single_label_holds_at_every_position_and_a_list_has_one_for_each(tmp_path):
    rows = [{**row, "at": [1, 2, 0], "each": ["a", "b", "abc"[i % 3]], "p": [0.0, 0.5, 1.0]}
            for i, row in enumerate(ROWS)]  # fmt: skip
    behaviours = [
        LABEL,
        {"name": "each", "kind": "label", "column": "each"},
        {"name": "p", "kind": "label", "column": "p"},
    ]
    task = read(tmp_path, rows, text="text", position="at", behaviours=behaviours,
                features=[{"name": "f", "column": "each"}, {"name": "g", "column": "n"}])  # fmt: skip
    assert task.labels["truth"].law.argmax(1).tolist() == [i % 2 for i in range(6) for _ in range(3)]
    expected = [c for i in range(6) for c in ("a", "b", "abc"[i % 3])]
    assert [task.labels["each"].outcomes[i] for i in task.labels["each"].law.argmax(1)] == expected
    assert task.labels["p"].law[:, 1].tolist() == [0.0, 0.5, 1.0] * 6
    assert task.features["f"].labels[:, 0].tolist() == ["abc".index(c) for c in expected]
    assert task.features["g"].labels[:, 0].tolist() == [i for i in range(6) for _ in range(3)]
    assert task.row_example.tolist() == [i for i in range(6) for _ in range(3)]


def test_truncation_is_refused_unless_it_is_asked_for_and_then_counted(tmp_path):
    short = Encoder(PIECES, n_ctx=5, name="tiny")
    with pytest.raises(BadInput, match=r'row 1 has \d+ tokens and tiny reads 5 \(6 such rows\).*truncate = "right"'):
        read(tmp_path, text="text", encoder=short)
    task = read(tmp_path, text="text", encoder=short, truncate="right")
    assert task.audit["n_truncated"] == 6
    assert [len(ids) for ids in task.tokens] == [5] * 6
    assert [p.tolist() for p in task.positions] == [[4]] * 6
    with pytest.raises(BadInput, match="row 1: 'field:a' lies beyond the 5 tokens that are left"):
        read(tmp_path, template=TEMPLATE, position="field:a", encoder=short, truncate="right")
    spans = read(tmp_path, template="{a} {q}", encoder=short, truncate="right").spans
    assert max(span.max() for rows in spans.values() for span in rows) == 5


@pytest.mark.parametrize(
    "text", ["last", "all", "sample:3", "column:x y", "mask:m", "field:a", "role:user[0]", "span:a b[-2]:all"]
)
def test_rules_keep_their_words(text):
    assert parse_places(text) == [Place.parse(text)]
    assert Place.parse(text).text == text


# Mistakes


class Slow:
    """A tokenizer that does not know its characters."""

    is_fast, chat_template, bos_token_id, unk_token_id = False, None, None, None
    added_tokens_decoder, all_special_ids = {}, ()

    def __call__(self, text, add_special_tokens=True, verbose=True, return_offsets_mapping=False):
        assert not return_offsets_mapping
        return {"input_ids": [[1, 2]] * len(text)}


LONG = [*ROWS[:1], {**ROWS[1], "q": "word " * 40}, *ROWS[2:]]
MISTAKES = [
    ({"template": "{q}", "text": "text"}, ROWS, "found text and template: name exactly one"),
    ({"template": "{q} {"}, ROWS, "cannot be read"),
    ({"template": "{}"}, ROWS, "has the field '{}'"),
    ({"template": "{q:>5}"}, ROWS, "has the field '{q:>5}'"),
    ({"template": "{0}"}, ROWS, "has the field '{0}'"),
    ({"template": "{nowhere}"}, ROWS, "no column 'nowhere' (asked for as a field of the template)"),
    ({"template": "{q}"}, [{**ROWS[0], "q": None}, *ROWS[1:]], "row 1 has no value in column 'q'"),
    ({"template": "{q}"}, [ROWS[0], {**ROWS[1], "q": ["x"]}, *ROWS[2:]], "row 2 has a list in column 'q'"),
    ({"template": "{q}"}, [ROWS[0], {**ROWS[1], "q": ""}, *ROWS[2:]], "row 2 leaves the template empty"),
    ({"template": "{q}:", "position": "field:q"}, [ROWS[0], {**ROWS[1], "q": ""}, *ROWS[2:]],
     "row 2: 'field:q' is empty"),
    ({"template": "{q}", "position": "field:nowhere"}, ROWS, "row 1 has no 'field:nowhere': it has field:q (1)"),
    ({"template": "{q}", "position": "field:q[1]"}, ROWS, "row 1 has no 'field:q[1]'"),
    ({"template": "{q}", "position": "field:"}, ROWS, "position 'field:' names nothing"),
    ({"template": "{q}", "position": "feild:q"}, ROWS, "Did you mean 'field:q'?"),
    ({"template": "{q}", "position": "field:q[0]:middle"}, ROWS, "ends in neither :first, :last nor :all"),
    ({"template": "{q}", "position": []}, ROWS, "`position` is a rule or a list of different rules"),
    ({"template": "{q}", "position": ["last", "last"]}, ROWS, "list of different rules"),
    ({"template": "{q}", "position": "nowhere"}, ROWS, "no column 'nowhere' (asked for as position)"),
    ({"template": "{q}", "position": "n"}, [ROWS[0], {**ROWS[1], "n": 99}, *ROWS[2:]], "row 2 has position 99 and"),
    ({"template": "{q}", "position": "n"}, [ROWS[0], {**ROWS[1], "n": []}, *ROWS[2:]], "row 2 names no position"),
    ({"template": "{q}", "position": "n"}, [ROWS[0], {**ROWS[1], "n": [1, 1]}, *ROWS[2:]],
     "row 2 names position 1 twice"),
    ({"template": "{q}", "position": "mask:n"}, [{**row, "n": [1]} for row in ROWS], "row 1 has a mask of 1 numbers"),
    ({"tokens": "n", "position": "mask:m"}, [{**row, "n": [1, 2], "m": [0, 2]} for row in ROWS], "the largest 2"),
    ({"tokens": "n", "position": "mask:m"}, [{**row, "n": [1, 2], "m": [0, 0]} for row in ROWS], "a mask of zeros"),
    ({"tokens": "n", "position": "field:q"}, [{**row, "n": [1, 2]} for row in ROWS], "needs text and a fast tokenizer"),
    ({"tokens": "n", "spans": {"x": "q"}}, ROWS, "`spans` are found in text"),
    ({"text": "text", "spans": {"x": "a"}}, ROWS, "row 1: the text of span 'x', 'yes', is there 0 times"),
    ({"text": "text", "spans": {"x": ["start", "n"]}}, ROWS, "row 1: span 'x' runs from [4] to [0]"),
    ({"template": "{q}", "spans": {"x": ["start", "stop"]}}, ROWS, "span 'x' counts characters"),
    ({"text": "text", "spans": {"x": ["start", "stop"]}, "position": "span:x"},
     [ROWS[0], {**ROWS[1], "start": None}, *ROWS[2:]], "row 2 has no 'span:x': it has nothing that has a name"),
    ({"text": "text", "generation_prompt": True}, ROWS, "`generation_prompt` belongs to a chat"),
    ({"chat": []}, ROWS, "`chat` has no turns"),
    ({"messages": "q"}, ROWS, "row 1 has no chat in column 'q': give a list of messages (in CSV as JSON)"),
    ({"messages": "chat"}, [ROWS[0], {**ROWS[1], "chat": [{"role": "user"}]}, *ROWS[2:]], "row 2 has no chat"),
    ({"messages": "chat"}, [ROWS[0], {**ROWS[1], "chat": []}, *ROWS[2:]], "row 2 has no chat in column 'chat'"),
    ({"messages": "chat", "position": "role:tool"}, ROWS, "row 1 has no 'role:tool': it has role:"),
    ({"text": "text", "position": "all", "behaviours": [{**LABEL, "column": "each"}]},
     [{**row, "each": [0, 1]} for row in ROWS], "row 1 has 2 values in column 'each' and is read at"),
    ({"text": "text", "position": "n", "behaviours": [{**LABEL, "column": "each"}]},
     [{**row, "n": [0, 1], "each": [0, None]} for row in ROWS], "row 1 has no value in column 'each'"),
    ({"template": "{q}"}, LONG, "row 2 has 161 tokens and tiny reads 70"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "rows", "words"), MISTAKES, ids=[words for *_, words in MISTAKES])
def test_a_mistake_is_one_sentence_that_names_row_and_column(tmp_path, asked, rows, words):
    with pytest.raises(BadInput) as caught:
        read(tmp_path, rows, encoder=Encoder(PIECES, n_ctx=70, name="tiny"), **asked)
    found = str(caught.value)
    assert words in found
    assert "\n" not in found and found.endswith((".", "?"))


def test_what_a_tokenizer_cannot_do(tmp_path):
    with pytest.raises(BadInput, match="needs text and a fast tokenizer"):
        read(tmp_path, template="{q}", position="field:q", encoder=Encoder(Slow()))
    assert read(tmp_path, template="{q}", encoder=Encoder(Slow())).spans == {}
    with pytest.raises(BadInput, match="row 1: the model's tokenizer has no chat template"):
        read(tmp_path, messages="chat", encoder=Encoder(Slow()))
    strict = checkpoints.pieces()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadInput, match=r"row 1: the model's chat template refuses these messages \(roles must alter"):
        read(tmp_path, messages="chat", encoder=Encoder(strict))
    strict.chat_template = "{% for m in messages %}{{ m.content.split()[-1] }}{% endfor %}"
    with pytest.raises(BadInput, match="A chat template that rewrites its turns hides them"):
        read(tmp_path, messages="chat", encoder=Encoder(strict), position="role:user")
    with pytest.raises(BadInput, match="the model has no tokeniser: name a `tokens` column"):
        read(tmp_path, template="{q}", encoder=None)


def test_rows_are_numbered_as_in_the_file_after_a_cap(tmp_path):
    rows = [{**row, "d": "ab"[i > 3]} for i, row in enumerate(ROWS)]
    rows[4]["q"] = None
    with pytest.raises(BadInput, match="row 5 has no value in column 'q'"):
        read(tmp_path, rows, template="{q}", domain="d", n_examples=3)
