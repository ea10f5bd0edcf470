"""Files from the wild: what they say is what is measured, or one sentence says why not."""

import io
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import csv

from probekit.errors import BadInput
from probekit.inputs.filetask import check_rows, read_file_task, read_rows, told_of
from probekit.inputs.folders import beside, local_folder
from probekit.inputs.words import alike, as_number, in_order
from probekit.levels import rule_of
from probekit.spec import TaskSpec
from rowfiles import FORMATS, Words, tokeniser, write

LABEL = {"name": "b", "kind": "label", "column": "label"}
VALUE = {"name": "b", "kind": "value", "column": "label"}
N = 12


def rows_of(**columns) -> list[dict]:
    """N rows with a text and these columns, each list over and over."""
    return [{"text": f"word {i}", **{name: values[i % len(values)] for name, values in columns.items()}}
            for i in range(N)]  # fmt: skip


def spec(file="data.jsonl", **changes) -> TaskSpec:
    return TaskSpec.model_validate({"file": file, "text": "text", "behaviours": [LABEL], **changes})


def task_of(base, rows, file="data.jsonl", **changes):
    write(base / file, rows)
    return read_file_task(spec(file, **changes), base, tokeniser)


def refused(base, rows, file="data.jsonl", **changes) -> str:
    """The sentence that reading ends with, which is told before a model is loaded too."""
    asked = spec(file, **changes)
    if rows is not None:
        write(base / file, rows)
    with pytest.raises(BadInput) as early:
        check_rows(asked, read_rows(asked, base))
    with pytest.raises(BadInput) as late:
        read_file_task(asked, base, tokeniser)
    assert str(early.value) == str(late.value) and "\n" not in str(late.value)
    assert str(late.value).isprintable()
    return str(late.value)


def same(one, other) -> None:
    """Two tasks that ask the same."""
    assert [ids.tolist() for ids in one.tokens] == [ids.tolist() for ids in other.tokens]
    assert one.row_position.tolist() == other.row_position.tolist()
    assert one.group.tolist() == other.group.tolist() and one.domain.tolist() == other.domain.tolist()
    assert one.labels.keys() == other.labels.keys() and one.features.keys() == other.features.keys()
    for name, label in one.labels.items():
        assert label.outcomes == other.labels[name].outcomes
        np.testing.assert_allclose(label.law, other.labels[name].law, rtol=1e-6)
    for name, feature in one.features.items():
        assert feature.classes == other.features[name].classes
        assert feature.labels.tolist() == other.features[name].labels.tolist()
    for asked, of_other in zip(one.behaviours, other.behaviours, strict=True):
        assert (asked.kind, asked.tokens, asked.outcomes) == (of_other.kind, of_other.tokens, of_other.outcomes)
        if asked.row_tokens is not None:
            assert asked.row_tokens.tolist() == of_other.row_tokens.tolist()


# One task from every format


MEANINGS = [
    (LABEL, ["1", "01", "001", "2"]),
    (LABEL, ["12345678901234567890", "12345678901234567891"]),
    (LABEL, ["true", "false"]),
    (LABEL, ["True", "true"]),
    (LABEL, [True, False]),
    (LABEL, [10, 9, -1]),
    (LABEL, ["10", "9"]),
    (LABEL, ["0x1", "1e3", "nan", "NA", "null", "inf"]),
    (LABEL, ["2024-01-02", "2024-1-2"]),
    (LABEL, ["yes", "yes ", " yes", "Yes"]),
    (LABEL, [0.25, 0.5, 1.0]),
    (VALUE, [1.5, -2.0, 3e-7]),
    (VALUE, [1, 2, 3000000000000000000]),
]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("entry", "values"), MEANINGS, ids=lambda given: str(given)[:30])
def test_a_label_means_the_same_in_every_format(tmp_path, suffix, entry, values):
    rows = rows_of(label=values)
    same(task_of(tmp_path, rows, f"data.{suffix}", behaviours=[entry]), task_of(tmp_path, rows, behaviours=[entry]))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_task_of_many_columns_is_the_same_in_every_format(tmp_path, suffix):
    rows = rows_of(label=["1", "01"], hue=["1", "01", "red"], topic=["007", "7", "07", " 7"],
                   where=["true", "True", "true"], right=["4", "1"], wrong=["7", "0"],
                   ids=[[3, 1], [4]], size=[0.5, -3])  # fmt: skip
    rows = [{**row, "size": float(row["size"]), "name": f"0{i}"} for i, row in enumerate(rows)]
    asked = {
        "template": "{text} of {right}", "text": None, "id": "name", "group": "topic", "domain": "where",
        "features": [{"name": "hue", "column": "hue"}],
        "behaviours": [LABEL, {**VALUE, "name": "v", "column": "size"},
                       {"name": "d", "kind": "logit_diff", "correct": "right", "wrong": "wrong"}],
    }  # fmt: skip
    task = task_of(tmp_path, rows, f"data.{suffix}", **asked)
    same(task, task_of(tmp_path, rows, **asked))
    assert task.labels["b"].outcomes == ("01", "1") and task.features["hue"].classes == ("01", "1", "red")
    assert len(set(task.group.tolist())) == 4 and len(set(task.domain.tolist())) == 2
    texts = Words()(["4", "7"])["input_ids"]  # the tokens of the texts `4` and `7`, which are not 4 and 7
    assert task.behaviours[2].row_tokens[0].tolist() == [texts[0][0], texts[1][0]] != [4, 7]
    asked = {"text": None, "tokens": "ids"}
    same(task_of(tmp_path, rows, f"data.{suffix}", **asked), task_of(tmp_path, rows, **asked))


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=6)
labels = st.one_of(
    st.lists(words.filter(lambda text: not text.isspace()), min_size=2, max_size=4, unique=True),
    st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=4, unique=True),
    st.just([True, False]),
)


@settings(max_examples=40, deadline=None)
@given(values=labels)
@example(values=['"', "'a,b'"])
@example(values=["\ufeffa", "a"])
def test_classes_are_what_was_written_whatever_that_is(tmp_path_factory, values):
    base, rows = tmp_path_factory.mktemp("any"), rows_of(label=values)
    try:
        first = task_of(base, rows)
    except BadInput as error:  # fractions and the like, which every format refuses
        first = str(error).partition(" row ")[2]
    for suffix in ("csv", "tsv", "parquet", "json"):
        try:
            same(task_of(base, rows, f"data.{suffix}"), first)
        except BadInput as error:
            found = str(error).partition(" row ")[2]
            if found != first:
                raise
    if not isinstance(first, str):
        assert len(first.labels["b"].outcomes) == len(values)


def test_the_reader_s_own_guess_merges_what_is_kept_apart_here(tmp_path):
    """As CSV readers do: the naive way, for which this test is here."""
    text = b"text,label\n" + b"".join(b"a,%s\n" % [b"1", b"01", b"2"][i % 3] for i in range(N))
    naive = csv.read_csv(io.BytesIO(text)).column("label").to_pylist()
    assert set(naive) == {1, 2}
    (tmp_path / "data.csv").write_bytes(text)
    assert read_file_task(spec("data.csv"), tmp_path, tokeniser).labels["b"].outcomes == ("01", "1", "2")


def test_a_json_number_in_a_template_is_as_it_was_written(tmp_path):
    (tmp_path / "data.jsonl").write_text(
        "".join(f'{{"text": "a", "label": {i % 2}, "x": {["1.50", "1e3", "true"][i % 3]}}}\n' for i in range(N)),
        encoding="utf-8",
    )
    task = read_file_task(spec(text=None, template="{x}"), tmp_path, tokeniser)
    found = [ids.tolist() for ids in tokeniser.encode(["1.50", "1e3", "true"]).tokens]
    assert [ids.tolist() for ids in task.tokens[:3]] == found


# Numbers, where they are needed


@pytest.mark.parametrize("text", ["1,5", "1_000", "0x10", "nan", "inf", "1e999", "٣", "1.5.2", "--1", "one"])
def test_a_number_in_a_csv_is_one_or_is_refused_by_row(tmp_path, text):
    assert as_number(text) is None
    found = refused(tmp_path, rows_of(label=["1.5", "2", text]), "data.csv", behaviours=[VALUE])
    assert "data.csv row 3 has" in found and "a behaviour of kind value takes numbers" in found


def test_a_number_may_stand_between_blanks():
    assert [as_number(text) for text in (" 1.5", "-2 ", "+.5", "3.", "1E-3", "007")] == [1.5, -2.0, 0.5, 3.0, 1e-3, 7.0]
    assert as_number(True) is None and as_number(10**400) is None and as_number(float("nan")) is None


def test_an_integer_beyond_all_floats_is_no_value(tmp_path):
    assert "row 1 has 1000" in refused(tmp_path, rows_of(label=[10**400, 1]), behaviours=[VALUE])
    long = '{"text": "a", "label": ' + "9" * 5000 + "}\n"
    (tmp_path / "data.jsonl").write_text(long, encoding="utf-8")
    assert "line 1 is not JSON" in refused_file(tmp_path)


def refused_file(base, file="data.jsonl", **changes) -> str:
    with pytest.raises(BadInput) as caught:
        read_rows(spec(file, **changes), base)
    return str(caught.value)


def test_ids_are_integers_and_nothing_else(tmp_path):
    for ids in ("1_0 2", "٣ 2", "1.0 2", "1,2", "0x1"):
        assert "give token ids, integers from 0 on" in refused(
            tmp_path, rows_of(label=[0, 1], ids=[ids]), "data.csv", text=None, tokens="ids"
        )


def test_answers_are_ids_only_where_the_task_reads_ids(tmp_path):
    rows = rows_of(label=[0, 1], ids=["3 1", "4"], right=["4"], wrong=["7"])
    asked = {"text": None, "tokens": "ids",
             "behaviours": [{"name": "d", "kind": "logit_diff", "correct": "right", "wrong": "wrong"}]}  # fmt: skip
    assert task_of(tmp_path, rows, "data.csv", **asked).behaviours[0].row_tokens.tolist() == [[4, 7]] * N
    for cell, words in (("yes", "give a token id, integers from 0 on"), ("4 5", "has the answer [4, 5]: give a")):
        rows[2]["right"] = cell
        found = refused(tmp_path, rows, "data.csv", **asked)
        assert "row 3" in found and words in found
    rows = rows_of(label=[0, 1], right=[4, 5], wrong=[7])
    asked = {"behaviours": asked["behaviours"]}
    task = task_of(tmp_path, rows, **asked)
    assert task.behaviours[0].row_tokens[0].tolist() == [4, 7]
    assert "behaviour 'd' takes the numbers in column 'right' as token ids" in task.audit["told"]
    rows[1]["right"] = "4"
    assert "two types in column 'right', a number in row 1 and a text in row 2" in refused(tmp_path, rows, **asked)


# Missing and mixed


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("role", ["label", "feature", "group", "domain", "id", "text", "value"])
def test_what_is_missing_is_one_sentence_or_left_out_and_told(tmp_path, suffix, role):
    rows = [{"text": f"word {i}", "label": f"c{i % 2}", "x": i + 0.5,
             "other": f"o{i // 6 if role == 'domain' else i}"} for i in range(N)]  # fmt: skip
    of_x = {"behaviours": [{**VALUE, "column": "x"}]}
    column, asked = {
        "label": ("label", {}),
        "value": ("x", of_x),
        "feature": ("label", of_x | {"features": [{"name": "f", "column": "label"}]}),
        "text": ("text", {}),
    }.get(role, ("other", {role: "other"}))  # fmt: skip
    whole = [row for i, row in enumerate(rows) if i not in (3, 7)]
    for row in (rows[3], rows[7]):
        row[column] = None
    found = refused(tmp_path, rows, f"data.{suffix}", **asked)
    assert f"data.{suffix} row 4 has " in found and f"in column '{column}'" in found
    assert 'missing = "drop"' in found
    task = task_of(tmp_path, rows, f"data.{suffix}", missing="drop", **asked)
    same(task, task_of(tmp_path, whole, **asked))
    assert task.audit["n_dropped"] == 2
    assert task.audit["told"] == [f"2 of the file's rows left out: 2 without a value in column '{column}'"]


def test_an_empty_text_is_missing_and_blanks_are_no_class(tmp_path):
    for label, words in (("", "row 2 has no value in column 'label'"), ("  ", "row 2 has '  ' for 'b' in column")):
        assert words in refused(tmp_path, rows_of(label=["a", label, "b"]))
    assert "row 2 has 'a\\x00'" in refused(tmp_path, rows_of(label=["a", "b"], d=["a", "a\0"]), domain="d")


def test_nan_and_null_in_lists_and_numbers_are_missing(tmp_path):
    rows = rows_of(label=[0.5, float("nan"), 0.25])
    assert "row 2 has no value in column 'label'" in refused(tmp_path, rows)
    assert len(task_of(tmp_path, rows, missing="drop").tokens) == 8
    for suffix in ("jsonl", "parquet"):
        rows = [{**row, "ids": [1, 2], "at": [0, 1], "label": [i % 2, 1]} for i, row in enumerate(rows_of())]
        rows[4]["label"] = [1, None]
        asked = {"text": None, "tokens": "ids", "position": "column:at"}
        assert "row 5 has no value in column 'label'" in refused(tmp_path, rows, f"data.{suffix}", **asked)
        task = task_of(tmp_path, rows, f"data.{suffix}", missing="drop", **asked)
        assert task.labels["b"].law.argmax(1).tolist() == [v for i in range(N) if i != 4 for v in (i % 2, 1)]


def test_a_row_without_a_span_is_no_row_to_drop(tmp_path):
    rows = rows_of(label=["a", "b"], part=["word", "word", None])
    task = task_of(tmp_path, rows, missing="drop", spans={"part": "part"})
    assert len(task.tokens) == N and task.audit["n_dropped"] == 0
    asked = {"text": None, "template": "read {part}", "spans": {"part": "part"}, "missing": "drop"}
    assert len(task_of(tmp_path, rows, **asked).tokens) == 8


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_empty_piece_of_a_template_is_empty_text_and_no_missing_value(tmp_path, suffix):
    rows = rows_of(label=["a", "b"], before=["", "word ", "word "], text=[f"word {i}" for i in range(9)])
    asked = {"text": None, "template": "{before}{text} word"}
    kept = task_of(tmp_path, rows, f"data.{suffix}", **asked)
    dropped = task_of(tmp_path, rows, f"data.{suffix}", missing="drop", **asked)
    same(dropped, kept)
    assert dropped.audit["n_dropped"] == 0
    alone = task_of(tmp_path, [{**row, "text": row["before"] + row["text"] + " word"} for row in rows])
    assert [ids.tolist() for ids in dropped.tokens] == [ids.tolist() for ids in alone.tokens]
    # nothing at all is no text, and what is no cell is no empty one
    for row in rows[:2]:
        row |= {"text": "", "before": ""}
    asked["template"] = "{before}{text}"
    left = task_of(tmp_path, rows, f"data.{suffix}", missing="drop", **asked)
    assert len(left.tokens) == len(rows) - 2 and left.audit["n_dropped"] == 2
    if suffix != "csv":  # where an empty cell is all that can be written
        rows[5]["before"] = None
        found = refused(tmp_path, rows[2:], f"data.{suffix}", **asked)
        assert "row 4 has no value in column 'before'" in found
        assert len(task_of(tmp_path, rows, f"data.{suffix}", missing="drop", **asked).tokens) == len(rows) - 3


def test_dropping_counts_rows_of_pairs_and_comes_before_the_cap(tmp_path):
    rows = [{"good": f"a {i}", "bad": f"b {i}", "k": None if i in (0, 4) else "xy"[i % 2]} for i in range(N)]
    asked = {"text": None, "pair": ["good", "bad"], "behaviours": [{**LABEL, "column": "k"}], "missing": "drop"}
    task = task_of(tmp_path, rows, n_examples=6, **asked)
    assert len(task.tokens) == 12 and task.audit["n_dropped"] == 2


def test_nothing_left_is_a_sentence(tmp_path):
    write(tmp_path / "data.jsonl", [{"text": "a", "label": None}, {"text": None, "label": "b"}])
    assert "has no row with a value in every column" in refused_file(tmp_path, missing="drop")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1", 1], "a text in row 1 and a number in row 2"),
        ([True, 1], "a truth value in row 1 and a number in row 2"),
        (["true", "x", False], "a text in row 1 and a truth value in row 3"),
    ],
)
@pytest.mark.parametrize("role", ["label", "feature", "group", "domain"])
def test_types_that_are_mixed_are_named_with_two_rows(tmp_path, role, values, words):
    rows = [{**row, "own": f"c{i % 2}"} for i, row in enumerate(rows_of(label=values))]
    own = {"behaviours": [{**LABEL, "column": "own"}]}
    asked = {} if role == "label" else own | (
        {"features": [{"name": "f", "column": "label"}]} if role == "feature" else {role: "label"})  # fmt: skip
    assert f"has values of two types in column 'label', {words}: write all" in refused(tmp_path, rows, **asked)


@pytest.mark.parametrize("value", [{"a": 1}, [[1]]])
def test_what_is_no_class_is_named_by_row(tmp_path, value):
    found = refused(tmp_path, [*rows_of(label=["a", "b"]), {"text": "x", "label": value}])
    assert "row 13 has " in found


def test_an_object_that_has_a_name_twice_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "a", "label": 0, "label": 1}\n', encoding="utf-8")
    assert "line 1 is not JSON (it has 'label' twice)" in refused_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('text,label\na,0\n"so" he said,1\nb,0\n', 3),
        ('text,label\na,0\n"b,1\nc,0\nd" x,1\ne,0\n', 3),  # which would be one row of three
        ('text,label\n"a\nb",0\n"c,1\n', 4),
        ('\ufefftext,label\n"a" ,0\n', 2),
    ],
)
def test_a_quotation_mark_that_closes_too_early_is_refused_by_line(tmp_path, text, line):
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        (tmp_path / f"data.{suffix}").write_text(text.replace(",", mark), encoding="utf-8", newline="")
        assert f"line {line} has a cell that begins with a quotation mark" in refused_file(tmp_path, f"data.{suffix}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotation_marks_that_are_in_their_place_are_read(tmp_path, end):
    lines = ["text,label,more", '"a ""b"", c",0,"x"', 'a "b" c,1,""', '"a\nb\r\nc",0,', '"""",1,"""a"""']
    (tmp_path / "data.csv").write_text(end.join(lines), encoding="utf-8", newline="")
    found = read_rows(spec("data.csv"), tmp_path)
    assert found.values["text"] == ['a "b", c', 'a "b" c', "a\nb\r\nc", '"']


@pytest.mark.parametrize("name", ["x" * 300, "x\0y", "x" * 5000, "a/" * 3000 + "b"])
def test_a_name_that_no_path_can_have_is_no_file_and_no_model(tmp_path, name):
    with pytest.raises(BadInput, match="no file"):
        read_rows(spec(f"{name}.csv"), tmp_path)
    with pytest.raises(BadInput, match=r"no such file\.py:function"):
        rule_of("h", f"{name}.py:f", tmp_path)
    assert beside(name, tmp_path) == name
    with pytest.raises(BadInput, match="no model file"):
        local_folder(f"{name}.gguf")


# Names that look alike


@pytest.mark.parametrize("suffix", FORMATS)
def test_classes_that_look_alike_are_told_and_never_merged(tmp_path, suffix):
    rows = rows_of(label=["yes", "yes ", " yes", "Yes", "yes", "no"])
    task = task_of(tmp_path, rows, f"data.{suffix}")
    assert len(task.labels["b"].outcomes) == 5
    (told,) = task.audit["told"]
    assert told == ("behaviour 'b' has names that look alike and are told apart: "
                    "'yes' (4), 'yes ' (2), ' yes' (2), 'Yes' (2)")  # fmt: skip
    asked = spec(f"data.{suffix}")
    assert told_of(asked, read_rows(asked, tmp_path)) == [told]


def test_groups_and_domains_that_look_alike_are_told_too(tmp_path):
    rows = rows_of(label=["a", "b", "c"], topic=["t1", "T1", "t2", "t3"], where=["in", "in", "in "])
    told = task_of(tmp_path, rows, group="topic", domain="where").audit["told"]
    assert told == [
        "the group column 'topic' has names that look alike and are told apart: 't1' (3), 'T1' (3)",
        "the domain column 'where' has names that look alike and are told apart: 'in' (8), 'in ' (4)",
    ]


def test_names_that_other_programs_write_where_nothing_is_are_told(tmp_path):
    (told,) = task_of(tmp_path, rows_of(label=["a", "NaN", "b", "null"]), "data.csv").audit["told"]
    assert told == ("behaviour 'b' has names that may stand for a missing value and are names here: "
                    "'NaN' (3), 'null' (3)")  # fmt: skip


def test_what_looks_alike():
    assert alike(["e\u0301", "\u00e9"]) and alike(["1", "01"]) and alike(["a  b", "a b"]) and alike(["ﬁ", "fi"])
    assert alike(["yes", "\ufeffyes"]) and alike(["a\u200bb", "ab"]) and alike(["co\u00adop", "coop"])
    assert not alike(["1", "2", "1.0", "a", "á", "a-b", "ab"])
    assert in_order(["10", "9", "-1", "09"]) == ["-1", "09", "9", "10"] and in_order(["10", "9", "x"]) == [
        "10",
        "9",
        "x",
    ]


def test_letters_that_were_lost_before_are_told(tmp_path):
    rows = [*rows_of(label=["a", "b"]), {"text": "caf\ufffd", "label": "a"}]
    for suffix in FORMATS:
        (told,) = task_of(tmp_path, rows, f"data.{suffix}").audit["told"]
        assert told.startswith(
            "column 'text' has a \ufffd in 1 of its cells, which programs write for a letter that they lack"
        )


def test_a_column_of_fractions_is_told(tmp_path):
    for suffix in ("csv", "jsonl"):
        (told,) = task_of(tmp_path, rows_of(label=[0.25, 0.5]), f"data.{suffix}").audit["told"]
        assert told == "behaviour 'b' has fractions: each is read as the probability of `1` against `0`"


# Half of a character


def test_half_a_character_is_named_by_its_row(tmp_path):
    rows = [{**row, "chat": [{"role": "user", "content": row["text"]}], "d": "in"} for row in rows_of(label=["a", "b"])]
    half = {"text": "a \ud83d b", "label": "b\udc00", "d": "\ud83d", "chat": [{"role": "user", "content": "\udc00"}]}
    for column, value in half.items():
        broken = [*rows[:5], {**rows[5], column: value}, *rows[6:]]
        asked = {"messages": "chat", "text": None} if column == "chat" else {"domain": "d"} if column == "d" else {}
        for suffix in ("jsonl", "json.gz"):
            write(tmp_path / f"data.{suffix}", broken)
            found = refused_file(tmp_path, f"data.{suffix}", **asked)
            assert f"row 6, column '{column}', has '\\u" in found and "half of a character" in found
            assert found.isascii()
    flat = [{**row, "chat": json.dumps(half["chat"] if i == 5 else row["chat"])} for i, row in enumerate(rows)]
    assert "row 6, column 'chat', has '\\udc00'" in refused(tmp_path, flat, "data.csv", text=None, messages="chat")


def test_a_pair_of_halves_is_a_character(tmp_path):
    (tmp_path / "data.jsonl").write_text(
        "".join(f'{{"text": "a \\ud83d\\ude00", "label": {i % 2}}}\n' for i in range(N)), encoding="ascii"
    )
    assert len(read_file_task(spec(), tmp_path, tokeniser).tokens) == N


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "a", "label": 0}\n{"text": "\xe9", "label": 1}\n')
    assert "line 2 cannot be read as UTF-8" in refused_file(tmp_path)
    (tmp_path / "data.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a", "label": 0}\n\xef\xbb\xbf\n')
    assert len(read_rows(spec(), tmp_path)) == 1
