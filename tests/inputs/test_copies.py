"""The same input in two groups would be fitted and tested: it is counted, and such groups are one."""

import numpy as np
import pytest

import probekit as pk
from probekit.errors import BadInput
from probekit.inputs.copies import merged, numbered, same_rows
from probekit.inputs.filetask import read_file_task
from probekit.spec import BehaviourEntry, TaskSpec
from rowfiles import tokeniser

rng = np.random.default_rng(0)
X, LABEL = rng.normal(size=(300, 150)), rng.integers(0, 2, 300)
TWICE = np.tile(np.arange(300), 2)
QUICK = {"levels": ("linear",), "controls": (), "decomposition": False, "extrapolate": False, "falls": False,
         "n_permutations": 0, "n_bootstrap": 200, "floors": ("strong",)}  # fmt: skip
ONE = np.zeros(600, dtype=np.int64)  # domain


def read(x, label, **given):
    frame = pk.measure(x, behaviour=label, **QUICK | given)
    return frame[frame["metric"] == "read"].iloc[0]


def test_copies_in_two_groups_earn_nothing():
    """Noise twice: what was fitted on one is tested on the other."""
    kept = read(X[TWICE], LABEL[TWICE], copies="keep")
    assert kept.high < 0.99, "what a split of copies gives"
    assert kept.note == "600 of 600 rows are also in other groups, and were kept there as asked"
    found = read(X[TWICE], LABEL[TWICE])
    assert found.value == pytest.approx(1, abs=0.03) and found.groups == 300
    assert found.note.startswith(
        "600 of 600 rows are also in other groups, which became one: 300 groups of 600 are left"
    )


def test_rounding_hides_no_copy():
    draw = np.random.default_rng(7)
    jitter = X[TWICE] * (1 + 1e-6 * draw.normal(size=(600, 150)))
    assert len(np.unique(same_rows([jitter]))) == 300
    assert read(X[TWICE].astype(np.float32), LABEL[TWICE]).groups == 300


def test_texts_that_are_equal_are_copies_whatever_their_activations():
    draw = np.random.default_rng(7)
    texts = [f"text {i}" for i in TWICE]
    found = read(draw.normal(size=(600, 3)), LABEL[TWICE], floor={"text": texts}, levels=("prior",))
    assert found.groups == 300 and "600 of 600 rows" in found.note


def test_no_row_is_a_copy_of_another_that_only_looks_like_it():
    assert len(np.unique(same_rows([X]))) == 300
    moved = X[TWICE].copy()
    moved[300:, 7] += 0.01
    assert len(np.unique(same_rows([moved]))) == 600
    assert len(np.unique(same_rows([X[TWICE], np.arange(600)[:, None]]))) == 600, "what the floor reads differs"
    assert read(X, LABEL).note == ""


def test_rows_of_one_group_may_be_alike():
    group, said = merged(TWICE, TWICE, ONE)
    assert group is TWICE and said == ""


def test_games_that_share_an_opening_stay_apart_and_a_game_that_comes_twice_is_one():
    """Groups of ten rows; the first four rows of all are the same, and the last two groups are one game."""
    position, game = np.tile(np.arange(10), 24), np.repeat(np.arange(24), 10)
    row = np.where(position < 4, position, 10 * np.minimum(game, 22) + position)
    group, said = merged(game, row, ONE[:240])
    assert len(np.unique(group)) == 23 and (group[220:230] == group[230:240]).all()
    assert said.startswith("108 of 240 rows are also in other groups, which became one: 23 groups of 24")
    group, said = merged(game[:230], row[:230], ONE[:230])
    assert np.array_equal(group, game[:230])
    assert (
        said
        == "92 of 230 rows are also in other groups, and less than half of the rows of any: groups stay as they are"
    )


def test_inputs_of_few_kinds_are_no_copies():
    """Three bits: eight inputs in six hundred rows, as tokens or boards have them."""
    draw = np.random.default_rng(7)
    bits = draw.integers(0, 2, (600, 3))
    found = read(bits, bits[:, 0])
    assert found.groups == 600 and "taken for inputs of few kinds" in found.note


def test_a_text_is_a_copy_however_often_it_stands(tmp_path):
    """Twenty-five texts with a label each, forty times over: who knows the text knows the label."""
    draw = np.random.default_rng(7)
    texts, label = [f"text {i % 25}" for i in range(1000)], LABEL[np.arange(1000) % 25]
    found = read(draw.normal(size=(1000, 3)), label, floor={"text": texts}, levels=("prior",))
    assert found.groups == 25 and "25 groups of 1000 are left" in found.note
    rows = [(f"text {i % 25}", f"g{i}", 0) for i in range(100)]
    lines = [f"{text},{group},{i % 2}" for i, (text, group, _) in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,group,label", *lines]), encoding="utf-8")
    label = BehaviourEntry(name="label", kind="label", column="label")
    task = read_file_task(
        TaskSpec(file="rows.csv", text="text", group="group", behaviours=(label,)), tmp_path, tokeniser
    )
    assert len(set(task.group.tolist())) == 25


def test_a_handful_of_texts_is_told_and_left():
    """Two texts: as one group each there would be nothing to measure with."""
    found = read(rng.normal(size=(600, 3)), LABEL[TWICE], floor={"text": [f"text {i % 2}" for i in range(600)]})
    assert found.groups == 600 and "taken for inputs of few kinds" in found.note


def test_copies_in_another_domain_are_told_and_make_no_group_one():
    domain = np.repeat(["a", "b"], 300)
    group, said = merged(np.arange(600), TWICE, numbered(domain))
    assert len(np.unique(group)) == 600 and said == "600 rows of one domain are also rows of another"


def test_the_names_of_groups_and_the_order_of_rows_do_not_matter():
    draw = np.random.default_rng(7)
    order = draw.permutation(600)
    names = draw.permutation(600)
    found, other = merged(np.arange(600), TWICE, ONE)[0], merged(names[order], TWICE[order], ONE)[0]
    assert len(np.unique(np.stack([found[order], other]), axis=1).T) == 300


def test_another_word_is_refused():
    with pytest.raises(BadInput, match="copies is 'drop': say merge or keep"):
        read(X, LABEL, copies="drop")


# ------------------------------------------------------------------------------------------------------------ in files


def task_of(folder, rows, **keys):
    """The task of a file of token ids, groups, labels and domains."""
    lines = [f"{text},{group},{i % 2},d{domain}" for i, (text, group, domain) in enumerate(rows)]
    (folder / "rows.csv").write_text("\n".join(["text,group,label,domain", *lines]), encoding="utf-8")
    label = BehaviourEntry(name="label", kind="label", column="label")
    spec = TaskSpec(file="rows.csv", tokens="text", behaviours=(label,), **{"group": "group", **keys})
    return read_file_task(spec, folder)


def test_a_text_that_stands_twice_in_a_file_is_one_group(tmp_path):
    rows = [*((i, f"g{i}", 0) for i in range(30)), *((i, f"h{i}", 0) for i in range(10))]
    task = task_of(tmp_path, rows)
    assert len(set(task.group.tolist())) == 30
    assert np.array_equal(task.group[:10], task.group[30:])
    assert task.audit["copies"].startswith("20 of 40 rows are also in other groups, which became one: 30 groups of 40")
    kept = task_of(tmp_path, rows, copies="keep")
    assert len(set(kept.group.tolist())) == 40 and "kept there as asked" in kept.audit["copies"]
    assert kept.fingerprint != task.fingerprint


def test_texts_of_their_own_leave_groups_as_they_are_numbered(tmp_path):
    task = task_of(tmp_path, [(i, f"g{i // 2}", 0) for i in range(30)])
    assert task.group.tolist() == [i // 2 for i in range(30)] and "copies" not in task.audit
    across = task_of(tmp_path, [(i % 30, f"g{i}", i // 30) for i in range(60)], domain="domain")
    assert across.group.tolist() == list(range(60))
    assert across.audit["copies"] == "60 rows of one domain are also rows of another"
