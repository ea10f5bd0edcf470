"""Levels by name, and hypotheses with the hash of the code that states them."""

import hashlib

import numpy as np
import pytest

from probekit import records
from probekit.errors import BadInput
from probekit.levels import DEFAULT, NAMES, SIMPLE, Hypothesis, Level, check_stated

ALL = (*NAMES, *(f"simple:{name}" for name in SIMPLE), "hypothesis:rules")


@pytest.mark.parametrize("name", ALL)
def test_a_name_round_trips_and_a_record_accepts_it(name):
    assert Level.parse(name).name == name
    records.Record(
        behaviour="b", fit_domain="d", test_domain="d", metric="read", level=Level.parse(name).name, value=0.0
    )


def test_the_default_ladder_is_made_of_levels():
    assert [Level.parse(name).name for name in DEFAULT] == list(DEFAULT)


@pytest.mark.parametrize(
    ("text", "near"),
    [("liner", "linear"), ("simple:quadratik", "simple:quadratic"), ("simple", "simple:"), ("linear:x", "linear"),
     ("hypothesis:", "hypothesis:<name>"), ("", "")],
)  # fmt: skip
def test_an_unknown_level_is_named_with_the_nearest(text, near):
    with pytest.raises(BadInput) as caught:
        Level.parse(text)
    assert f"no level '{text}'. Did you mean '{near}" in str(caught.value)


def test_only_families_of_several_widths_have_k():
    assert {name for name in ALL if Level.parse(name).has_k} == {
        "neurons", "directions", *(f"simple:{name}" for name in SIMPLE),
    }  # fmt: skip


SOURCE = """
import numpy as np
SHARPNESS = 1.0

def both(features):
    on = features["bit"][:, 0]
    return np.stack([1 - on, on], 1).astype(np.float32)
"""


def test_a_hypothesis_is_loaded_from_a_file_beside_the_spec(tmp_path):
    (tmp_path / "rules.py").write_text(SOURCE)
    stated = Hypothesis.load("mine", ("bit",), "rules.py:both", tmp_path)
    assert stated.rule({"bit": np.array([[0], [1]])}).tolist() == [[1, 0], [0, 1]]
    assert stated.source_hash == hashlib.sha256(SOURCE.encode()).hexdigest()[:16]


def test_any_change_of_the_file_changes_the_hash(tmp_path):
    (tmp_path / "rules.py").write_text(SOURCE)
    before = Hypothesis.load("mine", ("bit",), "rules.py:both", tmp_path)
    (tmp_path / "rules.py").write_text(SOURCE.replace("SHARPNESS = 1.0", "SHARPNESS = 2.0"))
    assert Hypothesis.load("mine", ("bit",), "rules.py:both", tmp_path).source_hash != before.source_hash


@pytest.mark.parametrize("where", ["rules.py", "absent.py:both", "rules.py:", ":both"])
def test_a_rule_that_is_no_file_and_function_is_refused(tmp_path, where):
    (tmp_path / "rules.py").write_text(SOURCE)
    with pytest.raises(BadInput, match="no such file.py:function"):
        Hypothesis.load("mine", ("bit",), where, tmp_path)


@pytest.mark.parametrize("function", ["neither", "SHARPNESS"])
def test_a_rule_that_is_no_function_is_refused(tmp_path, function):
    (tmp_path / "rules.py").write_text(SOURCE)
    with pytest.raises(BadInput, match=f"defines no function '{function}'"):
        Hypothesis.load("mine", ("bit",), f"rules.py:{function}", tmp_path)


def test_a_wrapped_function_is_hashed_by_its_source():
    def one(features):
        return np.ones((len(features["a"]), 1), dtype=np.float32)

    def two(features):
        return np.zeros((len(features["a"]), 1), dtype=np.float32)

    hashes = [Hypothesis.of("h", ("a",), rule).source_hash for rule in (one, two, one)]
    assert hashes[0] == hashes[2] != hashes[1]
    assert len(hashes[0]) == 16


def test_a_hypothesis_may_be_stated_in_the_order_of_a_job_s_keys():
    def rule(features):
        return features["a"]

    one, other = Hypothesis.of("h", ("a", "b"), rule), Hypothesis.of("h", rule, ["a", "b"])
    assert one == other and one.features == ("a", "b") and one.rule is rule
    for features, wrong in (("a", rule), (("a",), ("b",)), (rule, rule)):
        with pytest.raises(BadInput, match="hypothesis 'h' is made of names of features and a function"):
            Hypothesis.of("h", features, wrong)


def test_a_hypothesis_of_what_is_not_there_is_refused_and_so_is_a_second_of_one_name():
    """Of a behaviour that is misspelt nothing would be measured, and nobody would be told."""

    def rule(features):
        return features["a"]

    one = Hypothesis.of("h", ("a",), rule, behaviour="truth")
    check_stated([one, Hypothesis.of("other", ("a", "b"), rule)], ["truth"], ["a", "b"])
    with pytest.raises(BadInput, match="no behaviour 'truth', which hypothesis 'h' speaks of: there is truht"):
        check_stated([one], ["truht"], ["a"])
    with pytest.raises(BadInput, match="no feature 'a', which hypothesis 'h' speaks of: there is none"):
        check_stated([one], ["truth"], [])
    with pytest.raises(BadInput, match="two hypotheses are named 'h'"):
        check_stated([one, one], ["truth"], ["a"])
