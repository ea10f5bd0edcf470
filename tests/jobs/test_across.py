"""Transfer across networks: what was planted is found, each refusal is a sentence, and the seed is the unit."""

import numpy as np
import pandas as pd
import pytest

import probekit as pk
from probekit.errors import BadInput
from probekit.measurement import across
from probekit.testbeds.ground_truth import draw

N = 600
ANCHORS = np.arange(N) % 4 == 0


def cell(frame, arm, level, **more):
    rows = frame[(frame["arm"] == f"models:{arm}") & (frame["level"] == level)]
    for name, value in more.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def clones(seed=0, n=N, d=4):
    """Rows that tell a label along one direction, and the same turned and stretched, with noise of its own."""
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], size=n)
    x = 0.4 * rng.normal(size=(n, d))
    x[:, 0] += sign
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return x, 3 * x @ turn + 0.02 * rng.normal(size=(n, d)) + 5, sign > 0


def test_a_turned_clone_needs_a_turn_and_a_frozen_function_of_its_own_directions_needs_none():
    x, other, label = clones()
    found = pk.transfer_across({"a": x, "b": other}, behaviour=label, anchors=ANCHORS, ks=(1,),
                               levels=("direction", "linear"), of=[("a", "b")])  # fmt: skip
    assert cell(found, "identity", "linear")["value"] > 0.3
    for arm in ("procrustes", "affine", "refit"):
        assert abs(cell(found, arm, "linear")["value"]) < 0.05, arm
    assert abs(cell(found, "function", "direction", source="logistic")["value"]) < 0.05
    assert "CKA 0.99" in cell(found, "procrustes", "linear")["note"] or "CKA 1.0" in found["note"].iloc[0]
    assert set(found["unit"]) == {"example"} and found["low"].notna().any()


def test_what_the_second_network_lacks_is_na_when_moved_and_1_when_fitted_there():
    planted = draw("P13c", 1200, d=6, seed=3)
    found = pk.transfer_across({"a": planted.activations, "b": planted.extra["second"]}, behaviour=planted.law,
                               anchors=np.arange(300), levels=("linear",), of=[("a", "b"), ("b", "a")])  # fmt: skip
    there = found[found["fit_domain"] == "a"]
    moved = there[there["arm"] != "models:refit"]
    assert (moved["na_reason"] == "absent_in_test_domain").all() and moved["value"].isna().all()
    assert cell(there, "refit", "linear")["value"] == pytest.approx(1, abs=0.05)
    assert "CKA 1.000" in there["note"].iloc[0]
    # Nothing is there to be carried the other way.
    back = cell(found[found["fit_domain"] == "b"], "refit", "linear")
    assert back["na_reason"] == "small_denominator"


def test_a_stated_rule_is_carried_by_features_that_each_network_decodes_for_itself():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, size=(N, 2))
    codes = [(2.0 * bits - 1) @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2] for _ in range(2)]
    first, second = (code + 0.1 * rng.normal(size=code.shape) for code in codes)
    rule = pk.Hypothesis.of("xor", ("bits",), exclusive)
    found = pk.transfer_across({"a": first, "b": second}, behaviour=(bits.sum(1) == 1).astype(int), anchors=ANCHORS,
                               features={"bits": bits}, hypotheses=[rule], levels=("linear",), ks=(2,),
                               of=[("a", "b")])  # fmt: skip
    for arm in ("function", "refit", "procrustes", "affine"):
        assert abs(cell(found, arm, "hypothesis:xor")["value"]) < 0.02, arm
    assert cell(found, "identity", "hypothesis:xor")["value"] > 0.2
    assert cell(found, "procrustes", "linear")["na_reason"] == "absent_in_test_domain"


def exclusive(features):
    on = features["bits"].sum(1) == 1
    return np.stack([~on, on], 1).astype(np.float32)


def test_the_seed_is_the_unit_and_fewer_than_five_have_no_interval():
    drawn = [clones(seed, n=240) for seed in range(5)]
    label = drawn[0][2]
    drawn = [(np.where(label == y, 1.0, -1.0)[:, None] * (x - 0), other, y) for x, other, y in drawn]
    stacks = {"a": [x for x, _, _ in drawn], "b": [x @ np.diag([1, -1, 1, 1.0]) for x, _, _ in drawn]}
    asked = {"behaviour": label, "anchors": np.arange(240) % 4 == 0, "levels": ("linear",), "of": [("a", "b")]}
    found = pk.transfer_across(stacks, **asked)
    assert set(found["unit"]) == {"seed"} and set(found["groups"]) == {5}
    one = cell(found, "procrustes", "linear")
    assert one["low"] <= one["value"] <= one["high"]
    few = pk.transfer_across({name: rows[:3] for name, rows in stacks.items()}, **asked)
    told = cell(few, "procrustes", "linear")
    assert pd.isna(told["low"]) and not np.isnan(told["value"]) and "no interval below 5" in told["note"]


def test_an_interval_over_seeds_is_that_of_a_t_test_where_all_have_one_denominator():
    from scipy import stats

    rng = np.random.default_rng(0)
    values = rng.normal(0.4, 0.1, size=6)
    name = across.ReaderName("linear", "behaviour", None)
    pairs = []
    for value in values:
        ratio = across.Ratio(np.full(50, value), np.ones(50), np.ones(50), np.ones(50), np.zeros(50))
        pairs.append(across.Pair([across.Carried(name, "affine", ratio)], np.arange(50)))
    (_, found, _), *_ = across.estimate_over(pairs, 0)
    low, high = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_networks_of_two_widths_are_aligned_and_not_taken_as_they_are():
    x, other, label = clones()
    wide = np.concatenate([other, 0.1 * other], 1)
    found = pk.transfer_across({"a": x, "b": wide}, behaviour=label, anchors=ANCHORS, levels=("linear",),
                               of=[("a", "b")])  # fmt: skip
    assert cell(found, "identity", "linear")["na_reason"] == "not_defined"
    assert abs(cell(found, "affine", "linear")["value"]) < 0.05


def test_each_network_may_have_a_behaviour_of_its_own():
    x, other, label = clones()
    laws = {"a": label, "b": ~label}
    found = pk.transfer_across({"a": x, "b": other}, behaviour=laws, anchors=ANCHORS, levels=("linear",),
                               of=[("a", "b")])  # fmt: skip
    assert cell(found, "procrustes", "linear")["raw"] > 1  # the same direction, and the opposite answer
    with pytest.raises(BadInput, match="lacks 'b'"):
        pk.transfer_across({"a": x, "b": other}, behaviour={"a": label}, anchors=ANCHORS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": {"a": np.ones((N, 2))}}, "needs two or more"),
        ({"models": {"a": np.ones((N, 2)), "b": np.ones((5, 2))}}, "found rows: 600 of 'a', 5 of 'b'"),
        ({"models": {"a": [np.ones((N, 2))] * 2, "b": np.ones((N, 2))}}, "found seeds: 2 of 'a', 1 of 'b'"),
        ({"anchors": np.zeros(N, dtype=bool)}, "anchors name 0 of 600 rows"),
        ({"groups": np.arange(N) // 2}, "make anchors of whole groups"),
        ({"of": [("a", "c")]}, "names the network 'c'"),
        ({"alignments": ("procrustean",)}, "Did you mean 'procrustes'"),
        ({"levels": ("linaer",)}, "Did you mean 'linear'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(change, said):
    x, other, label = clones()
    asked = {"models": {"a": x, "b": other}, "behaviour": label, "anchors": ANCHORS, "levels": ("linear",)} | change
    with pytest.raises(BadInput, match=said):
        pk.transfer_across(asked.pop("models"), **asked)


def test_too_few_anchors_for_a_turn_cost_that_alignment_alone():
    x, other, label = clones(d=6)
    found = pk.transfer_across({"a": x, "b": other}, behaviour=label, anchors=np.arange(5), levels=("linear",),
                               alignments=("permutation", "procrustes"), of=[("a", "b")])  # fmt: skip
    told = cell(found, "procrustes", "linear")
    assert told["na_reason"] == "not_defined" and "needs as many anchors, and there are 5" in told["note"]
    assert not np.isnan(cell(found, "permutation", "linear")["value"])
