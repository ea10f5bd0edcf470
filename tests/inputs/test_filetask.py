"""Tasks from files: the same rows from every format, and one sentence for every mistake."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import BadInput
from probekit.inputs import columns
from probekit.inputs.columns import check_columns
from probekit.inputs.filetask import read_file_task
from probekit.spec import TaskSpec
from rowfiles import FORMATS, cut_off, tokeniser, with_bos, write

LABEL = {"name": "truth", "kind": "label", "column": "label"}
ROWS = [
    {"name": f"r{i}", "text": text, "ids": ids, "label": i % 2, "topic": f"t{i // 2}",
     "where": "seen" if i < 6 else "new", "at": len(ids) - 1 - i % 2,
     "colour": ["red", "green", "blue"][i % 3], "chance": i / 10}
    for i, (text, ids) in enumerate(zip(
        ["a b", "b c a", "12 b", "NA", "é b", 'x "q", y', "a\nb", "c d e", "d a", "b b"],
        [[1, 2], [2, 3, 1], [12, 2], [0, 2], [9, 2], [5, 6, 7], [1, 2, 2], [3, 4, 5], [4, 1], [2, 2]], strict=True))
]  # fmt: skip


def ids_of(texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in tokeniser.encode(texts).tokens]


def spec(**changes) -> TaskSpec:
    return TaskSpec.model_validate({"file": "data.jsonl", "text": "text", "behaviours": [LABEL], **changes})


def changed(**columns) -> list[dict]:
    """ROWS with the first row's values replaced."""
    return [{**ROWS[0], **columns}, *ROWS[1:]]


def column(name: str, values: list) -> list[dict]:
    """ROWS with a column replaced."""
    return [{**row, name: value} for row, value in zip(ROWS, values, strict=True)]


def message(base: Path, rows: list[dict] | str | bytes, file: str = "data.jsonl", encode=tokeniser, **changes) -> str:
    """The one sentence that reading these rows ends with."""
    path = base / file
    if isinstance(rows, list):
        write(path, rows)
    else:
        path.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    with pytest.raises(BadInput) as caught:
        read_file_task(spec(file=file, **changes), base, encode)
    found = str(caught.value)
    assert "\n" not in found
    assert found.endswith((".", "?"))
    return found


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("source", ["text", "ids"])
def test_all_formats_give_the_same_task(tmp_path, suffix, source):
    write(tmp_path / f"data.{suffix}", ROWS)
    asked = {"text": None, "tokens": "ids"} if source == "ids" else {"text": "text"}
    task = read_file_task(
        spec(file=f"data.{suffix}", id="name", group="topic", domain="where",
             position="at" if source == "ids" else None, features=[{"name": "hue", "column": "colour"}], **asked),
        tmp_path, tokeniser,
    )  # fmt: skip
    expected = [row["ids"] for row in ROWS] if source == "ids" else ids_of([row["text"] for row in ROWS])
    assert [ids.tolist() for ids in task.tokens] == [list(ids) for ids in expected]
    assert all(ids.dtype == np.int64 for ids in task.tokens)
    at = [row["at"] for row in ROWS] if source == "ids" else [len(ids) - 1 for ids in expected]
    assert task.row_position.tolist() == at
    assert task.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert task.domain.tolist() == ["seen"] * 6 + ["new"] * 4
    assert task.labels["truth"].law.tolist() == [[1, 0], [0, 1]] * 5
    assert task.labels["truth"].outcomes == ("0", "1")
    assert task.behaviours[0].kind == "label"
    assert task.features["hue"].classes == ("blue", "green", "red")
    assert task.features["hue"].labels[:, 0].tolist() == [2, 1, 0] * 3 + [2]
    assert (task.name, task.floor_inputs) == ("data", None)


def test_without_group_and_domain_every_row_is_its_own_group_in_one_domain(tmp_path):
    write(tmp_path / "data.jsonl", ROWS)
    task = read_file_task(spec(), tmp_path, tokeniser)
    assert task.group.tolist() == list(range(10))
    assert set(task.domain.tolist()) == {"all"}
    assert task.row_example.tolist() == list(range(10))


@pytest.mark.parametrize("suffix", FORMATS)
def test_fractions_are_the_probability_of_the_second_outcome(tmp_path, suffix):
    write(tmp_path / f"data.{suffix}", ROWS)
    entry = {"name": "p", "kind": "label", "column": "chance"}
    law = read_file_task(spec(file=f"data.{suffix}", behaviours=[entry]), tmp_path, tokeniser).labels["p"].law
    np.testing.assert_allclose(law[:, 1], [row["chance"] for row in ROWS], rtol=1e-6)


def test_a_long_text_and_a_late_fraction_in_csv(tmp_path):
    rows = ["text,label", *(f"{'long ' * 100},{i % 2}" for i in range(3_000)), f"{'very ' * 800_000},1", "short,0.25"]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    task = read_file_task(spec(file="data.csv"), tmp_path, tokeniser)
    assert len(task.tokens[-2]) == 800_000
    assert task.labels["truth"].law[[0, 1, -1], 1].tolist() == [0.0, 1.0, 0.25]


@pytest.mark.parametrize(
    ("values", "outcomes"),
    [
        ([True, False] * 5, ("false", "true")),
        ([10, 9] * 5, ("9", "10")),
        (["10", "9"] * 5, ("9", "10")),
        (["yes", "no"] * 5, ("no", "yes")),
    ],
)
def test_words_integers_and_booleans_are_classes(tmp_path, values, outcomes):
    write(tmp_path / "data.jsonl", column("label", values))
    label = read_file_task(spec(), tmp_path, tokeniser).labels["truth"]
    assert label.outcomes == outcomes
    assert [outcomes[i] for i in label.law.argmax(1)] == [str(value).lower() for value in values]


def test_a_column_of_many_classes_keeps_the_64_most_frequent_and_the_rest(tmp_path):
    rows = [{"text": "a", "label": f"c{i}"} for i in (*range(100), *range(20, 40))]
    write(tmp_path / "data.jsonl", rows)
    label = read_file_task(spec(), tmp_path, tokeniser).labels["truth"]
    assert label.law.shape == (120, 65)
    assert label.outcomes[-1] == "rest"
    assert {f"c{i}" for i in range(20, 40)} <= set(label.outcomes)
    assert label.covered == pytest.approx((20 * 2 + 44) / 120)
    assert label.law[:, -1].sum() == 36


def test_a_cap_keeps_the_first_rows_of_each_domain(tmp_path):
    write(tmp_path / "data.jsonl", ROWS)
    task = read_file_task(spec(domain="where", n_examples=3), tmp_path, tokeniser)
    assert [ids.tolist() for ids in task.tokens] == ids_of(
        [ROWS[i]["text"] for i in (0, 1, 2, 6, 7, 8)])  # fmt: skip


def test_behaviours_of_the_model_have_their_tokens_resolved(tmp_path):
    write(tmp_path / "data.jsonl", ROWS)
    entries = [
        {"name": "law"},
        {"name": "some", "kind": "argmax", "tokens": [3, "yes"]},
        {"name": "answer", "kind": "choice", "tokens": ["yes", "no"]},
        {"name": "margin", "kind": "logit_diff", "tokens": ["no", 7]},
        {"name": "sides", "kind": "groups", "sets": {"good": ["yes", 7], "bad": ["no"]}},
    ]
    for encode in (tokeniser, with_bos, cut_off):
        law, some, answer, margin, sides = read_file_task(spec(behaviours=entries), tmp_path, encode).behaviours
        assert (law.kind, law.tokens, law.outcomes) == ("law", None, None)
        assert (some.tokens, some.outcomes) == ((3, 7), ("3", "yes"))
        assert (answer.tokens, answer.outcomes) == ((7, 8), ("yes", "no"))
        assert margin.tokens == (8, 7)
        assert sides.sets == {"good": (7,), "bad": (8,)}


def test_the_fingerprint_follows_the_bytes_and_the_options_and_not_the_place(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("data.jsonl", "elsewhere/other.jsonl"):
        write(tmp_path / name, ROWS)
    first = read_file_task(spec(), tmp_path, tokeniser).fingerprint
    assert read_file_task(spec(file="elsewhere/other.jsonl"), tmp_path, tokeniser).fingerprint == first
    others = [read_file_task(spec(**option), tmp_path, tokeniser).fingerprint for option in (
        {"n_examples": 5}, {"group": "topic"}, {"features": [{"name": "hue", "column": "colour"}]})]  # fmt: skip
    write(tmp_path / "data.jsonl", changed(colour="black"))
    others.append(read_file_task(spec(), tmp_path, tokeniser).fingerprint)
    assert len({first, *others}) == 5


@given(rows=st.lists(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), min_size=3, max_size=8))
def test_token_columns_round_trip_through_every_format(tmp_path_factory, rows):
    base = tmp_path_factory.mktemp("tokens")
    table = [{"ids": ids, "label": i % 2} for i, ids in enumerate(rows)]
    for suffix in ("csv", "jsonl", "parquet", "json.gz", "tsv.zst"):
        write(base / f"data.{suffix}", table)
        task = read_file_task(spec(file=f"data.{suffix}", text=None, tokens="ids"), base, None)
        assert [ids.tolist() for ids in task.tokens] == rows


# Mistakes: the file


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_file(tmp_path, suffix):
    with pytest.raises(BadInput, match=f"no file .*nowhere.{suffix}: give a path"):
        read_file_task(spec(file=f"nowhere.{suffix}"), tmp_path, tokeniser)


def test_an_unknown_kind_of_file(tmp_path):
    known = "known files end in .csv, .tsv, .json, .jsonl, .parquet, all but .parquet also packed, in .gz or .zst"
    for name in ("data.xlsx", "data.gz", "data.parquet.gz", "data.csv.bz2"):
        assert known in message(tmp_path, "x", file=name)


def test_no_file_named(tmp_path):
    with pytest.raises(BadInput, match="names no file"):
        read_file_task(spec(file=None), tmp_path, tokeniser)


@pytest.mark.parametrize(
    ("file", "content"),
    [("data.csv", ""), ("data.jsonl", ""), ("data.parquet", ""), ("data.csv", "text,label\n"), ("data.jsonl", "\n\n")],
)
def test_an_empty_file(tmp_path, file, content):
    found = message(tmp_path, content, file=file)
    assert "is empty" in found or "has no rows" in found


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_column_is_named_with_the_nearest(tmp_path, suffix):
    found = message(tmp_path, ROWS, file=f"data.{suffix}", text="txt")
    assert "has no column 'txt' (asked for as text): did you mean 'text'?" in found
    found = message(tmp_path, ROWS, file=f"data.{suffix}", behaviours=[{**LABEL, "column": "labels"}])
    assert "has no column 'labels' (asked for as 'truth'): did you mean 'label'?" in found


def test_a_column_that_is_there_twice(tmp_path):
    assert "has the column 'label' twice" in message(tmp_path, "text,label,label\na,0,1\n", file="data.csv")


@pytest.mark.parametrize(("text", "tokens", "found"), [(None, None, "none"), ("text", "ids", "text and tokens")])
def test_neither_or_both_of_text_and_tokens(tmp_path, text, tokens, found):
    assert f"found {found}" in message(tmp_path, ROWS, text=text, tokens=tokens)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a", "label": 1', "line 2 is not JSON (Expecting ',' delimiter)"),
        ("[1, 2]", "line 2 is a list"),
        ("[" * 100_000, "line 2 is not JSON (nested too deeply)"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, words):
    assert words in message(tmp_path, '{"text": "a", "label": 0}\n' + line + "\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": ["a"]}', "holds a dict: write a list of objects"),
        ('[{"text": "a"}, 3]', "row 2 is a int"),
        ('{"text": "a"}\n{"text": "b"}', "is not JSON (Extra data): write a list of objects; one per line is .jsonl"),
        ("[]", "has no rows"),
    ],
)
def test_json_that_is_no_list_of_objects(tmp_path, content, words):
    assert words in message(tmp_path, content, file="data.json")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data.csv", b"text,label\na,0\nb,1,2\n"),
        ("data.csv", b"text,label\na\xff,0\n"),
        ("data.jsonl", b'{"text": "\xff"}\n'),
        ("data.parquet", b"PAR1 no parquet"),
        ("data.csv.gz", b"text,label\na,0\n"),
        ("data.jsonl.zst", b'{"text": "a"}\n'),
        ("data.json", b'[{"text": "\xff"}]'),
    ],
)
def test_a_damaged_file_is_no_traceback(tmp_path, file, content):
    assert "cannot be read as" in message(tmp_path, content, file=file)


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_are_checked_by_their_names_alone(tmp_path, suffix):
    path = write(tmp_path / f"data.{suffix}", ROWS)
    check_columns(path, {"text": "text", "label": "'truth'"})
    with pytest.raises(BadInput, match=r"has no column 'txt' \(asked for as text\): did you mean 'text'"):
        check_columns(path, {"txt": "text"})
    with pytest.raises(BadInput, match="no file .*nowhere"):
        check_columns(tmp_path / f"nowhere.{suffix}", {})


def test_names_are_found_without_reading_the_rows(tmp_path, monkeypatch):
    (tmp_path / "data.csv").write_bytes(b'\xef\xbb\xbftext,"la\nbel"\n' + b"a,1\n" * 10_000 + b"a,1,2\n")
    monkeypatch.setattr(columns, "HEADER_BYTES", 1000)
    check_columns(tmp_path / "data.csv", {"text": "text", "la\nbel": "'truth'"})
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n{"text": "a", "tag": "b"}\nno JSON\n')
    check_columns(tmp_path / "data.jsonl", {"text": "text", "tag": "span 'tag'"})
    with pytest.raises(BadInput, match="line 3 is not JSON"):
        check_columns(tmp_path / "data.jsonl", {"text": "text", "tga": "span 'tag'"})


# Mistakes: rows


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_text_is_named_by_its_row(tmp_path, suffix, empty):
    found = message(tmp_path, [*ROWS[:3], {**ROWS[3], "text": empty}, *ROWS[4:]], file=f"data.{suffix}")
    assert "row 4 has an empty text in column 'text'" in found


def test_a_text_without_tokens_and_a_text_that_is_none(tmp_path):
    assert "row 1: the text has no tokens" in message(tmp_path, changed(text="  "))
    assert "row 1 has a int in the text column" in message(tmp_path, changed(text=3))


def test_text_for_a_model_without_a_tokeniser(tmp_path):
    assert "no tokeniser: name a `tokens` column instead" in message(tmp_path, ROWS, encode=None)


@pytest.mark.parametrize("value", ["1 two", "1.5 2", [1, "a"], [1.0, 2.0], [[1]], [-1], 7, {"a": 1}, [True], [10**30]])
def test_tokens_that_are_no_integers(tmp_path, value):
    found = message(tmp_path, changed(ids=value), text=None, tokens="ids", encode=None)
    assert "row 1 has" in found
    assert "integers from 0 on" in found


@pytest.mark.parametrize(
    ("value", "words"), [([], "row 1 has no tokens"), ("", "has no value"), (None, "has no value")]
)
def test_empty_tokens(tmp_path, value, words):
    assert words in message(tmp_path, changed(ids=value), text=None, tokens="ids")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2, "row 1 has position 2 and 2 tokens: positions run from 0 to 1"),
        (-1, "row 1 has '-1' in column 'at': give positions, integers from 0 on"),
        (0.5, "give positions, integers from 0 on"),
        ("x", "give positions, integers from 0 on"),
        (None, "row 1 has no value in column 'at'"),
    ],
)
def test_a_position_that_the_example_does_not_have(tmp_path, value, words):
    assert words in message(tmp_path, changed(at=value), text=None, tokens="ids", position="at")


def test_too_few_groups(tmp_path):
    found = message(tmp_path, column("topic", ["a", "b"] * 5), group="topic")
    assert "column 'topic' has 2 groups in domain 'all'" in found
    assert "there are 2 rows" in message(tmp_path, ROWS[:2])
    found = message(tmp_path, column("topic", ["a", "b"] * 3 + list("cdef")), group="topic", domain="where")
    assert "has 2 groups in domain 'seen'" in found


@pytest.mark.parametrize("role", ["group", "domain", "id"])
def test_names_that_are_missing_or_no_names(tmp_path, role):
    assert "row 1 has no value in column 'topic'" in message(tmp_path, changed(topic=None), **{role: "topic"})
    assert f"row 1 has a list in the {role} column 'topic'" in message(tmp_path, changed(topic=[1]), **{role: "topic"})


def test_an_id_given_twice(tmp_path):
    assert "the id 'r1' in rows 1 and 2" in message(tmp_path, changed(name="r1"), id="name")


# Mistakes: labels and behaviours


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["label", "chance"])
def test_a_label_that_is_missing(tmp_path, suffix, name):
    entry = {"name": "b", "kind": "label", "column": name}
    found = message(tmp_path, changed(**{name: None}), file=f"data.{suffix}", behaviours=[entry])
    assert f"row 1 has no value in column '{name}'" in found


def test_a_label_that_is_not_a_number_in_json(tmp_path):
    assert "row 1 has no value in column 'chance'" in message(
        tmp_path, changed(chance=float("nan")), behaviours=[{**LABEL, "column": "chance"}]
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["x"] * 10, "there is nothing to explain in domain 'all': behaviour 'truth' has one class ('x')."),
        ([0.5] * 10, "behaviour 'truth' has one law at every row"),
        ([0.5] * 9 + [1.5], "row 10 has 1.5 for 'truth'"),
        ([0.5] * 9 + ["x"], "row 10 has 'x' for 'truth'"),
        ([0, 1] * 4 + [0, [[1]]], "row 10 has [1] for 'truth'"),
        ([0, 1] * 4 + [0, [1, 0]], "row 10 has 2 values in column 'label' and is read at 1 positions"),
    ],
)
def test_a_label_that_is_no_law(tmp_path, values, words):
    assert words in message(tmp_path, column("label", values))


def test_a_label_that_never_varies_is_no_mistake_beside_another(tmp_path):
    other = {**LABEL, "name": "always", "column": "same"}
    rows = [{**row, "same": "x"} for row in ROWS]
    for behaviours in ([LABEL, other], [{"name": "next", "kind": "law"}, other]):
        write(tmp_path / "data.jsonl", rows)
        task = read_file_task(spec(file="data.jsonl", behaviours=behaviours), tmp_path, tokeniser)
        always = task.labels["always"]
        assert (always.outcomes, always.law.tolist()) == (("x",), [[1.0]] * len(ROWS))


def test_a_feature_is_a_class_and_not_a_number_or_a_name(tmp_path):
    feature = [{"name": "f", "column": "chance"}]
    assert "row 1 has 0.0 for 'f' in column 'chance': give a class" in message(tmp_path, ROWS, features=feature)
    found = message(tmp_path, column("colour", ["red"] * 10), features=[{"name": "f", "column": "colour"}])
    assert "feature 'f' has one class ('red') in column 'colour'" in found
    many = [{"text": "a", "label": i % 2, "chance": i} for i in range(65)]
    assert "feature 'f' has 65 classes" in message(tmp_path, many, features=feature)
    assert "names the feature 'f' twice" in message(
        tmp_path, ROWS, features=[{"name": "f", "column": "label"}, {"name": "f", "column": "colour"}]
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "choice", "tokens": ["maybe", "no"]}, "needs one token and 'maybe' is 2 ([7, 8])"),
        ({"kind": "choice", "tokens": ["maybe", "no"]}, "choice, logit_diff, value also take whole = true"),
        ({"kind": "choice", "tokens": ["", "no"]}, "needs one token and '' is 0 ([])"),
        ({"kind": "choice", "tokens": ["yes"]}, "of kind choice takes at least 2 tokens; found 1"),
        ({"kind": "choice"}, "of kind choice takes at least 2 tokens; found 0"),
        ({"kind": "logit_diff", "tokens": [1, 2, 3]}, "of kind logit_diff takes exactly 2 tokens; found 3"),
        ({"kind": "law", "tokens": []}, "of kind law takes at least 1 tokens; found 0"),
        ({"kind": "choice", "tokens": ["yes", 7]}, "names token 7 twice"),
        ({"kind": "choice", "tokens": [-1, 7]}, "names token -1: token ids are integers from 0 on"),
        ({"kind": "groups", "sets": {"a": [1], "b": [1]}}, "has token 1 in the sets 'a' and 'b'"),
        ({"kind": "groups", "sets": {"a": []}}, "each with at least one token"),
        ({"kind": "groups"}, "takes `sets`"),
        ({"kind": "groups", "tokens": [1]}, "of kind groups takes no `tokens`: it takes `sets`"),
        ({"kind": "law", "column": "label"}, "of kind law takes no `column`"),
        ({"kind": "label"}, "of kind label needs `column`"),
        ({"kind": "value"}, "of kind value needs `column` or `tokens` or `correct` and `wrong`"),
        ({"kind": "value", "tokens": [1, 2, 3]}, "of kind value takes exactly 2 tokens; found 3"),
        ({"kind": "value", "column": "label", "tokens": [1, 2]}, "takes `column` or `tokens` or"),
        ({"kind": "value", "column": "colour"}, "a behaviour of kind value takes numbers"),
    ],
)
def test_a_behaviour_that_cannot_be_read(tmp_path, entry, words):
    for encode in (tokeniser, with_bos, cut_off):
        assert words in message(tmp_path, ROWS, encode=encode, behaviours=[{"name": "b", **entry}])


def test_behaviours_that_are_none_or_share_a_name(tmp_path):
    assert "names no behaviours" in message(tmp_path, ROWS, behaviours=[])
    assert "names the behaviour 'truth' twice" in message(tmp_path, ROWS, behaviours=[LABEL, LABEL])


def test_a_word_for_a_model_without_a_tokeniser(tmp_path):
    entry = {"name": "b", "kind": "choice", "tokens": ["yes", "no"]}
    found = message(tmp_path, ROWS, text=None, tokens="ids", encode=None, behaviours=[entry])
    assert "names the token 'yes' and the model has no tokeniser" in found


def test_positions_per_example_are_for_testbeds(tmp_path):
    assert "n_positions is for testbeds" in message(tmp_path, ROWS, n_positions=2)


# Pairs

PAIRS = [{"good": f"a {word}", "bad": f"b {word}", "kind": "xy"[i % 2], "topic": f"t{i // 2}", "pair": i}
         for i, word in enumerate(["c", "d", "e", "f", "g", "h"])]  # fmt: skip
WHICH = {"name": "which", "kind": "label", "column": "pair"}
KIND = {"name": "kind", "kind": "label", "column": "kind"}


def of_pairs(base: Path, rows=None, file="pairs.csv", **changes):
    """The task of two columns that are a pair; the file has no column `pair`."""
    rows = [{k: v for k, v in row.items() if k != "pair"} for row in PAIRS] if rows is None else rows
    write(base / file, rows)
    asked = {"file": file, "pair": ["good", "bad"], "behaviours": [WHICH], **changes}
    return read_file_task(TaskSpec.model_validate(asked), base, tokeniser)


@pytest.mark.parametrize("suffix", FORMATS)
def test_two_columns_that_are_a_pair_are_two_examples_of_one_group(tmp_path, suffix):
    task = of_pairs(tmp_path, file=f"pairs.{suffix}", behaviours=[WHICH, KIND], domain="kind",
                    features=[{"name": "topic", "column": "topic"}])  # fmt: skip
    texts = [text for row in PAIRS for text in (row["good"], row["bad"])]
    assert [ids.tolist() for ids in task.tokens] == ids_of(texts)
    assert task.group.tolist() == [i for i in range(6) for _ in range(2)]
    assert task.domain.tolist() == [row["kind"] for row in PAIRS for _ in range(2)]
    which = task.labels["which"]
    assert which.outcomes == ("bad", "good") and which.law.argmax(1).tolist() == [1, 0] * 6
    assert task.labels["kind"].law.argmax(1).tolist() == [i % 2 for i in range(6) for _ in range(2)]
    assert task.features["topic"].labels[:, 0].tolist() == [i // 2 for i in range(6) for _ in range(2)]


def test_a_group_column_holds_whole_pairs_and_a_cap_counts_rows_of_the_file(tmp_path):
    assert of_pairs(tmp_path, group="topic").group.tolist() == [i // 4 for i in range(12)]
    assert len(of_pairs(tmp_path, n_examples=4).tokens) == 8
    task = of_pairs(
        tmp_path, domain="pair", n_examples=4, behaviours=[{"name": "k", "kind": "label", "column": "kind"}]
    )
    assert task.domain.tolist() == ["good", "bad"] * 4 and task.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_file_s_own_column_named_pair_is_in_the_way_only_where_that_name_is_asked_for(tmp_path):
    for suffix in FORMATS:
        with pytest.raises(
            BadInput, match=r"has a column 'pair', .* makes one of that name, of 'good' and 'bad': rename"
        ):
            of_pairs(tmp_path, PAIRS, file=f"pairs.{suffix}")
    assert len(of_pairs(tmp_path, PAIRS, behaviours=[KIND]).tokens) == 12


@pytest.mark.parametrize("suffix", FORMATS)
def test_members_may_have_columns_of_their_own(tmp_path, suffix):
    """As a claim and its negation have each a truth of their own."""
    rows = [{"good": row["good"], "bad": row["bad"], "is": i % 3 == 0, "is not": i % 3 > 0, "a": "said", "b": "denied"}
            for i, row in enumerate(PAIRS)]  # fmt: skip
    truth = {"name": "truth", "kind": "label", "column": "truth"}
    task = of_pairs(tmp_path, rows, f"pairs.{suffix}", behaviours=[truth], domain="how",
                    members={"truth": ["is", "is not"], "how": ["a", "b"]})  # fmt: skip
    assert task.labels["truth"].outcomes == ("false", "true")
    found = [value for row in rows for value in (row["is"], row["is not"])]
    assert task.labels["truth"].law.argmax(1).tolist() == [int(value) for value in found]
    assert task.domain.tolist() == ["said", "denied"] * 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": {"truth": ["good", "bad"]}}, "makes a column 'truth', which nothing in the task asks for"),
        ({"members": {"good": ["kind", "topic"]}}, "`members` makes a column 'good', and the task has one"),
        ({"members": {"pair": ["kind", "topic"]}}, "`members` makes a column 'pair', and the task has one"),
        ({"members": {"kind": ["good", "bad"]}, "behaviours": [KIND]}, "has a column 'kind', and this task of pairs"),
        ({"members": {"k": ["good", "no"]}, "domain": "k"}, "has no column 'no' (asked for as 'k' of `members`)"),
        ({"members": {"k": ["good", "bad"]}, "domain": "k", "pair": None, "text": "good", "behaviours": [KIND]},
         "`members` are those of a `pair`, which this task does not"),
        ({"pair": ["good", "worse"]}, "pairs.csv has no column 'worse' (asked for as pair)"),
        ({"text": "good"}, "names one of text, tokens, template, chat, messages, pair; found text and pair"),
        ({"group": "pair"}, "column 'pair' has 2 groups"),
        ({"rows": [*PAIRS[:4], PAIRS[4] | {"bad": ""}], "behaviours": [KIND]},
         "pairs.csv row 5 has an empty text in column 'bad'"),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_be_read(tmp_path, changes, words):
    with pytest.raises(BadInput) as caught:
        of_pairs(tmp_path, **changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", [["good"], ["good", "good"], ["good", "bad", "ugly"], []])
def test_a_pair_is_two_columns(pair):
    with pytest.raises(BadInput, match="name two different columns"):
        TaskSpec.model_validate({"file": "x.csv", "pair": pair})
