"""JobSpec: strict TOML; every mistake is one sentence that says where and what was meant."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.errors import BadInput
from probekit.spec import JobSpec

FULL = """
name = "demo"

[model]
name = "othello-6x6"

[task]
testbed = "othello-6x6"
n_examples = 100

[[task.behaviours]]
name = "move"
kind = "law"

[[task.behaviours]]
name = "side"
kind = "groups"
sets = {a = [1, 2], b = ["x"]}

[[hypotheses]]
name = "rules"
rule = "rules.py:legal"
features = ["board"]

[read]
levels = ["linear", "simple:quadratic"]
ks = [1, 4]

[replace]
behaviours = ["move"]

[transfer]
levels = ["linear"]
"""


def read(tmp_path, text: str) -> JobSpec:
    (tmp_path / "spec.toml").write_text(text)
    return JobSpec.read_toml(tmp_path / "spec.toml")


def message(tmp_path, text: str) -> str:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, text)
    found = str(caught.value)
    assert "\n" not in found
    assert str(tmp_path / "spec.toml") in found or found.startswith("no level")
    return found


def test_a_full_spec_reads_and_round_trips(tmp_path):
    spec = read(tmp_path, FULL)
    assert spec.task.behaviours[1].sets == {"a": (1, 2), "b": ("x",)}
    assert JobSpec.check(spec.model_dump(mode="json"), "again") == spec


def test_the_id_depends_on_every_choice_and_on_no_order_of_keys(tmp_path):
    spec = read(tmp_path, FULL)
    assert read(tmp_path, FULL).id == spec.id
    assert read(tmp_path, FULL.replace('[model]\nname = "othello-6x6"\n', "").replace(
        "[task]", '[model]\nname = "othello-6x6"\n\n[task]')).id == spec.id  # fmt: skip
    model = 'name = "othello-6x6"\n'
    assert read(tmp_path, FULL.replace(model, model + "seed = 0\n")).id == spec.id, "specs of before keep their id"
    for old, new in [
        (model, model + "seed = 1\n"),
        ("ks = [1, 4]", "ks = [1, 8]"),
        ("n_examples = 100", "n_examples = 101"),
        ('"demo"', '"demo2"'),
    ]:
        assert read(tmp_path, FULL.replace(old, new)).id != spec.id


@pytest.mark.parametrize(
    ("old", "new", "place", "near"),
    [
        ('name = "demo"', 'name = "demo"\nseed_prob = 1', "seed_prob", "seed_probe"),
        ("[read]", "[reed]", "reed", "read"),
        ("ks = ", "kz = ", "read.kz", "ks"),
        ("n_examples", "n_example", "task.n_example", "n_examples"),
        ('kind = "law"', 'knd = "law"', "task.behaviours.0.knd", "kind"),
        ("sets = ", "set = ", "task.behaviours.1.set", "sets"),
        ('rule = "rules.py:legal"', 'rulle = "rules.py:legal"', "hypotheses.0.rulle", "rule"),
        ("[replace]\n", "[replace]\ndonor = 3\n", "replace.donor", "donors"),
        ("[transfer]\n", "[transfer]\ndomain = []\n", "transfer.domain", "domains"),
        ("[model]\n", "[model]\nrevison = 'x'\n", "model.revison", "revision"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_the_nearest_at_each_depth(tmp_path, old, new, place, near):
    assert old in FULL
    found = message(tmp_path, FULL.replace(old, new, 1))
    assert f"unknown key '{place}'. Did you mean '{near}'?" in found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("n_examples = 100", "n_examples = 0", "task.n_examples: Input should be greater than 0"),
        ("n_examples = 100", 'n_examples = "many"', "task.n_examples: Input should be a valid integer"),
        ('kind = "law"', 'kind = "lore"', "task.behaviours.0.kind: Input should be 'law', 'argmax'"),
        ('name = "demo"', 'name = "."', "name: String should match pattern"),
        ('name = "demo"', 'name = "../demo"', "name: String should match pattern"),
        ('name = "demo"\n', "", "name: Field required"),
        ("[replace]", "[replace]\ndonors = 1", "replace.donors: Input should be greater than or equal to 2"),
        ('testbed = "othello-6x6"', "testbed = 3", "task.testbed: Input should be a valid string"),
        ("n_examples = 100", "position = 3", "position: Input should be a valid string, or Input should be a list."),
        ("n_examples = 100", 'spans = { w = ["a"] }', "spans.w: Input should be a valid string, or Field required."),
        ("sets = {a = [1, 2]", "sets = {a = [1.5]", "behaviours.1.sets.a.0: Input should be a valid integer, got a"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place(tmp_path, old, new, words):
    assert old in FULL
    assert words in message(tmp_path, FULL.replace(old, new, 1))


def test_a_task_is_a_testbed_or_a_file_and_never_both(tmp_path):
    found = message(tmp_path, FULL.replace("n_examples = 100", 'file = "own.csv"\ntext = "text"'))
    assert found.endswith("names both the testbed 'othello-6x6' and the file 'own.csv': leave one of them out.")


@pytest.mark.parametrize("table", ["read", "transfer"])
def test_an_unknown_level_is_refused_before_anything_runs(tmp_path, table):
    text = FULL.replace('levels = ["linear", "simple:quadratic"]\n', "")
    text = text.replace('[transfer]\nlevels = ["linear"]\n', "[transfer]\n").replace(
        f"[{table}]\n", f'[{table}]\nlevels = ["liner"]\n')  # fmt: skip
    assert "no level 'liner'. Did you mean 'linear'?" in message(tmp_path, text)


def test_a_hypothesis_is_no_level_to_be_fitted(tmp_path):
    found = message(tmp_path, FULL.replace('"simple:quadratic"]', '"hypothesis:rules"]'))
    assert "'hypothesis:rules' is no level to be fitted" in found


def test_a_file_that_is_not_toml_is_named_with_the_place(tmp_path):
    found = message(tmp_path, 'name = "demo\n')
    assert "is not TOML" in found
    assert "line 1" in found


def test_bytes_that_are_not_text(tmp_path):
    (tmp_path / "spec.toml").write_bytes(b"name = \xff")
    with pytest.raises(BadInput, match="is not TOML"):
        JobSpec.read_toml(tmp_path / "spec.toml")


def test_a_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"no spec file .*nowhere\.toml"):
        JobSpec.read_toml(tmp_path / "nowhere.toml")


def test_a_spec_cannot_be_changed_after_it_was_checked(tmp_path):
    with pytest.raises(Exception, match="frozen"):
        read(tmp_path, FULL).name = "other"


# From the wild


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_spec_is_utf8_with_or_without_a_mark_in_front(tmp_path, mark, end):
    text = FULL.replace('name = "move"', 'name = "véracité — 真実"').replace('["move"]', '["véracité — 真実"]')
    (tmp_path / "spec.toml").write_bytes(mark + text.replace("\n", end).encode())
    assert JobSpec.read_toml(tmp_path / "spec.toml").task.behaviours[0].name == "véracité — 真実"


def test_what_is_no_utf8_or_no_file_is_one_sentence(tmp_path):
    (tmp_path / "spec.toml").write_bytes(FULL.encode("utf-16"))
    with pytest.raises(BadInput, match=r"spec\.toml is not TOML, which is UTF-8 .*: save it as UTF-8"):
        JobSpec.read_toml(tmp_path / "spec.toml")
    with pytest.raises(BadInput, match="cannot be read as a spec file .*: give a TOML file"):
        JobSpec.read_toml(tmp_path)
    assert "is not TOML" in message(tmp_path, "a = " + "[" * 5000)


def test_a_token_is_an_id_or_a_text(tmp_path):
    entry = 'kind = "law"\ntokens = [{}]'
    assert read(tmp_path, FULL.replace('kind = "law"', entry.format('4, "4", "true"'))).task.behaviours[0].tokens == (
        4, "4", "true")  # fmt: skip
    assert "true is no token: give an id, or a text in quotes" in message(
        tmp_path, FULL.replace('kind = "law"', entry.format("true, false"))
    )
    assert "false is no token" in message(tmp_path, FULL.replace('["x"]', "[false]"))


@pytest.mark.parametrize("where", ["name", "key", "list"])
def test_half_a_character_in_a_spec_is_one_sentence(where):
    half = "a\ud83d"
    entry = {"name": half if where == "name" else "b", "kind": "groups", "sets": {half: ["a"], "b": ["b"]}}
    if where == "list":
        entry["sets"] = {"a": [half], "b": ["b"]}
    if where == "name":
        entry["sets"] = {"a": ["a"], "b": ["b"]}
    with pytest.raises(BadInput, match="here has '.ud83d', half of a character, in"):
        JobSpec.check({"name": "x", "task": {"file": "f.csv", "behaviours": [entry]}}, "here")


def test_a_name_is_something_and_the_job_s_leaves_room_for_its_digest(tmp_path):
    assert "behaviours.0.name" in message(tmp_path, FULL.replace('name = "move"', 'name = ""'))
    assert read(tmp_path, FULL.replace("demo", "x" * 91)).name == "x" * 91
    assert "name" in message(tmp_path, FULL.replace("demo", "x" * 92))


def test_numbers_that_no_file_keeps_are_refused(tmp_path):
    for value in ("inf", "nan", "-inf"):
        assert "read.lambdas.0" in message(tmp_path, FULL.replace("ks = [1, 4]", f"lambdas = [{value}]"))
    assert "is not TOML" in message(tmp_path, FULL.replace("n_examples = 100", "n_examples = 1" + "0" * 5000))


any_value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("a\ud83d"),
              st.just(10**400), st.datetimes()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)  # fmt: skip


def places(table: object, path: tuple = ()) -> list[tuple]:
    """Paths to everything in a table."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    return [found for key, value in items for found in [(*path, key), *places(value, (*path, key))]]


def in_one_sentence(error: BadInput) -> None:
    assert str(error).isprintable()


EVERY = FULL.replace("[read]", """[read]
lambdas = [1.0, 0.5]
delete = ["field:a"]
filler = 4
features = ["board"]
n_permutations = 9
extrapolate = false
outer_folds = 2
""").replace('kind = "law"', """kind = "generation"
n_tokens = 4
match = {a = ["b"], c = "d"}
temperature = 0.5
samples = 2""").replace("n_examples = 100", """n_examples = 100
spans = {a = "b", c = ["d", "e"]}
members = {a = ["b", "c"]}
position = ["last", "field:a"]
chat = [{role = "user", content = "{a}"}]""")  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_spec_with_anything_in_it_is_read_or_refused_in_a_sentence(data):
    raw = tomllib.loads(EVERY)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, key = data.draw(st.sampled_from(places(raw)))
        table = raw
        for parent in parents:
            table = table[parent]
        table[key] = data.draw(any_value)
    try:
        spec = JobSpec.check(raw, "here")
    except BadInput as error:
        in_one_sentence(error)
    else:
        assert len(spec.id) == 16


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(FULL)), noise=st.binary(min_size=1, max_size=4))
def test_a_spec_file_with_noise_in_it_is_read_or_refused_in_a_sentence(tmp_path_factory, at, noise):
    path = tmp_path_factory.getbasetemp() / "noise.toml"
    path.write_bytes(FULL[:at].encode() + noise + FULL[at:].encode())
    try:
        JobSpec.read_toml(path)
    except BadInput as error:
        in_one_sentence(error)


def test_levels_that_are_replaced_are_read():
    job = {"name": "first", "task": {"testbed": "othello-6x6"}, "replace": {"levels": ["neurons"]}}
    with pytest.raises(BadInput, match="replace.levels has 'neurons', which read.levels lacks"):
        JobSpec.check({**job, "read": {"levels": ["linear"]}}, "here")
    assert JobSpec.check({**job, "read": {"levels": ["neurons"]}}, "here").replace
    assert JobSpec.check({**job, "replace": {}, "read": {"levels": ["linear"]}}, "here").replace
