"""JobSpec: strict TOML; every mistake is one sentence that says where and what was meant."""

import pytest

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
    for old, new in [("ks = [1, 4]", "ks = [1, 8]"), ("n_examples = 100", "n_examples = 101"), ('"demo"', '"demo2"')]:
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


def test_levels_that_are_replaced_are_read():
    job = {"name": "first", "task": {"testbed": "othello-6x6"}, "replace": {"levels": ["neurons"]}}
    with pytest.raises(BadInput, match="replace.levels has 'neurons', which read.levels lacks"):
        JobSpec.check({**job, "read": {"levels": ["linear"]}}, "here")
    assert JobSpec.check({**job, "read": {"levels": ["neurons"]}}, "here").replace
    assert JobSpec.check({**job, "replace": {}, "read": {"levels": ["linear"]}}, "here").replace
