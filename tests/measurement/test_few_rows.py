"""Few rows: what is answered where rows are fewer than coordinates, what is pooled, what is NA and what it costs."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.errors import BadInput
from probekit.inputs.arrays import as_activations
from probekit.levels import Hypothesis
from probekit.measurement.cell import Measurement
from probekit.spec import ReadSpec

QUICK = {"controls": (), "decomposition": False, "floors": ("strong",), "n_bootstrap": 200, "n_permutations": 0,
         "extrapolate": False}  # fmt: skip


def one(frame: pd.DataFrame, **where) -> pd.Series:
    """The single record with these coordinates; of metric `read` where none is named."""
    for name, value in ({"metric": "read", "control": ""} | where).items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, f"{len(frame)} records"
    return frame.iloc[0]


def planted(n: int, d: int, label: np.ndarray, seed: int, size: float = 4.0) -> np.ndarray:
    """Noise of d coordinates with each class at a place of its own along a random direction."""
    rng = np.random.default_rng([seed, 1])
    places = rng.normal(size=(int(label.max()) + 1, d))
    return rng.normal(size=(n, d)) + size * (places / np.linalg.norm(places, axis=1, keepdims=True))[label]


@pytest.mark.parametrize("width", [8, 256])
def test_rows_fewer_than_coordinates_are_answered(width):
    """240 rows: a plant is found at both widths, every group is tested, and every value carries its rows."""
    label = np.random.default_rng(0).permutation(np.arange(240) % 2)
    frame = pk.measure(planted(240, width, label, 2, 6.0), behaviour=label, levels=("direction", "linear"), **QUICK)
    linear = one(frame, level="linear")
    assert linear.na_reason == "" and linear.value < 0.35
    assert linear.n == 240, "five folds, without being asked"
    assert linear.n_fit == linear.n_fit_effective == 128
    assert linear.d_read == min(width, 165), "rank of the span of the fit and select rows at most"
    assert set(frame.loc[(frame["level"] == "direction") & (frame["metric"] == "read"), "d_read"]) == {1}
    assert linear.falls_low <= linear.falls <= linear.falls_high
    assert linear.accuracy > 0.9 and linear.auroc > 0.95
    baseline = one(pk.measure(planted(240, width, label, 2), behaviour=label, levels=("baseline",), **QUICK))
    assert baseline.d_read == 0 and abs(baseline.accuracy - 0.5) < 0.1 and abs(baseline.auroc - 0.5) < 0.15


def test_single_directions_of_hardly_more_rows_than_coordinates_follow_no_noise():
    """What is whitened with the selection rows looks well held out by them, and is far above 1 on any others.

    Four times the floor's loss was told of a direction that a linear reader of the same rows left alone.
    """
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 240)  # pairs, one of each
    frame = pk.measure(
        rng.normal(size=(480, 300)) * np.logspace(1, -2, 300), behaviour=label, groups=np.repeat(np.arange(240), 2),
        levels=("direction",), falls=False, **QUICK,
    )  # fmt: skip
    found = frame[frame["metric"] == "read"].set_index("source")["value"]
    assert set(found.index) == {"mean_difference", "lda", "logistic"}
    assert found.between(0.97, 1.05).all(), found


def test_noise_of_few_rows_is_one():
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        label = rng.permutation(np.arange(240) % 2)
        frame = pk.measure(rng.normal(size=(240, 256)), behaviour=label, levels=("linear",), falls=False, **QUICK)
        found.append(one(frame, level="linear").value)
    assert np.mean(found) == pytest.approx(1, abs=0.05)


def test_what_more_rows_would_explain_is_told_beside_the_value():
    """A faint plant in many coordinates is still learnt at 300 rows; one coordinate of 2,000 rows is not."""
    rng = np.random.default_rng(3)
    label = rng.permutation(np.arange(400) % 2)
    many = one(pk.measure(planted(400, 100, label, 4, 2.0), behaviour=label, levels=("linear",), **QUICK))
    assert many.falls > 0.03
    label = rng.permutation(np.arange(2000) % 2)
    few = one(pk.measure(planted(2000, 2, label, 5, 3.0), behaviour=label, levels=("linear",), **QUICK))
    assert abs(few.falls) < 0.02
    without = one(pk.measure(planted(2000, 2, label, 5), behaviour=label, levels=("linear",), falls=False, **QUICK))
    assert pd.isna(without.falls)


def test_a_class_of_one_per_cent_is_measured():
    label = (np.random.default_rng(6).permutation(2400) < 24).astype(int)
    frame = pk.measure(planted(2400, 16, label, 7, 8.0), behaviour=label, levels=("linear",), falls=False, **QUICK)
    found = one(frame, level="linear")
    assert found.na_reason == "" and found.value < 0.3
    assert found.auroc > 0.98 and found.accuracy > 0.99


def test_too_few_of_a_class_is_na_with_its_fix_and_costs_no_other_behaviour():
    rng = np.random.default_rng(8)
    rare, fine = (rng.permutation(240) < 6).astype(int), rng.permutation(np.arange(240) % 2)
    x = planted(240, 8, fine, 9)
    frame = pk.measure(x, behaviour={"rare": rare, "fine": fine}, levels=("baseline", "linear"), **QUICK)
    gone = frame[frame["behaviour"] == "rare"]
    assert set(gone["na_reason"]) == {"too_few_rows"} and set(gone["level"]) == {"baseline", "linear"}
    assert gone["note"].str.contains("'1' has .* fit rows, where 8 are needed: give more rows of it").all()
    assert one(frame, behaviour="fine", level="linear").value < 0.3


def test_fewer_than_twenty_groups_are_na():
    label = np.arange(240) % 2
    frame = pk.measure(planted(240, 8, label, 9), behaviour=label, groups=np.arange(240) // 16, levels=("linear",),
                       **QUICK)  # fmt: skip
    assert set(frame["na_reason"]) == {"too_few_rows"}
    assert frame["note"].str.contains("15 groups where 20 are needed").all()


@pytest.fixture(scope="module")
def twelve():
    """Twelve classes, six of which have five rows each, read by their own places and by a stated rule."""
    label = np.random.default_rng(10).permutation(np.repeat(np.arange(12), [60] * 6 + [5] * 6))
    rule = Hypothesis.of("known", ("class",), lambda features: np.eye(12)[features["class"][:, 0]])
    x = planted(len(label), 24, label, 11, 9.0)
    frame = pk.measure(x, behaviour=label, features={"class": label}, levels=("baseline", "linear"), hypotheses=[rule],
                       **QUICK)  # fmt: skip
    return frame[frame["metric"] == "read"]


def test_rare_classes_are_one_and_every_record_says_so(twelve):
    said = "6 classes with fewer than 8 fit rows are one, `rest`"
    assert twelve["note"].str.contains(said, regex=False).all() and len(twelve) == 4
    linear = one(twelve, level="linear")
    assert linear.value < 0.25 and linear.accuracy > 0.9
    assert linear.floor_bits == pytest.approx(
        -(6 * 60 / 390 * np.log2(60 / 390) + 30 / 390 * np.log2(30 / 390)), abs=0.1
    )


def test_a_class_in_no_fit_row_decides_no_number():
    """It lies in one group, so that the fold that tests it never fits it: FBU would follow what the prior says."""
    rng = np.random.default_rng(0)
    group, label = np.arange(1000) // 25, rng.integers(0, 2, 1000)
    label[group == 17] = 2
    x = rng.normal(size=(1000, 4)) + 1.5 * np.eye(4)[label]
    without = group != 17
    known = one(pk.measure(x[without], behaviour=label[without], groups=group[without], levels=("linear",), **QUICK))
    for seed in (0, 1):
        found = one(pk.measure(x, behaviour=label, groups=group, levels=("linear",), seed_data=seed, **QUICK))
        assert re.match(r"'2' with fewer than 8 fit rows and the next rarest, '[01]', are one, `rest`", found.note)
        assert found.floor_bits < 1.02 and found.value == pytest.approx(known.value, abs=0.1)


def test_a_class_that_another_domain_alone_has_is_na_there_and_nowhere_else():
    rng = np.random.default_rng(1)
    label, domain = rng.integers(0, 3, 900), np.repeat(["a", "b"], 450)
    label[:450] %= 2
    x = planted(900, 4, label, 20, 5.0)
    frame = pk.measure(x, behaviour=label, domains=domain, levels=("linear",), **QUICK)
    moved = frame[frame["metric"] == "transfer"].groupby(["fit_domain", "test_domain"])["na_reason"].agg(set)
    assert moved["a", "b"] == {"too_few_rows"} and moved["b", "a"] == {""}
    gone = frame[(frame["metric"] == "transfer") & (frame["fit_domain"] == "a")]
    assert set(gone["arm"]) == {"raw", "refit", "platt50"}
    assert gone["note"].str.contains("domain 'a': '2' has 0 of .* fit rows and .* test rows").all()
    read = frame[(frame["metric"] == "read") & (frame["level"] == "linear")]
    assert (
        (read["na_reason"] == "").all() and (read["value"] < 0.5).all() and not read["note"].str.contains("rest").any()
    )


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_a_class_that_a_member_of_the_floor_never_saw_is_no_clamp(texts):
    """Two groups have all rows of a class, so that a member that speaks for one of them has seen at most the other."""
    rng = np.random.default_rng(2)
    group, label = np.arange(600) // 15, rng.integers(0, 2, 600)
    label[np.isin(group, (3, 4))] = 2
    words = np.array(["red", "green", "blue"])
    floor = {"text": [f"{words[c]} {i}" for i, c in enumerate(label)]} if texts else rng.normal(size=(600, 3))
    frame = pk.measure(rng.normal(size=(600, 4)), behaviour=label, groups=group, floor=floor, levels=("baseline",),
                       **QUICK)  # fmt: skip
    told = one(frame, level="baseline")
    assert told.floor_bits < (0.1 if texts else 1.4), "a member that never saw a class was as sure as it could get"


def test_a_rule_is_pooled_with_its_behaviour(twelve):
    assert one(twelve, level="hypothesis:known", source="true").value < 0.03


def test_more_classes_than_rows_allow_are_na():
    label = np.repeat(np.arange(60), 5)
    frame = pk.measure(planted(300, 8, label, 12), behaviour=label, levels=("linear",), **QUICK)
    assert set(frame["na_reason"]) == {"too_few_rows"}
    assert frame["note"].str.contains("none of 60 classes has 8 fit rows").all()


def test_contrast_pairs_are_read_and_their_permutation_is_chance():
    """One true and one false text per group: permuted, nothing is left to read, nor anything inverted."""
    label = np.tile([0, 1], 150)
    frame = pk.measure(planted(300, 64, label, 13, 6.0), behaviour=label, groups=np.arange(300) // 2,
                       levels=("linear",), **QUICK | {"controls": ("permuted",)})  # fmt: skip
    assert one(frame, level="linear").value < 0.3
    control = frame[frame["control"].str.startswith("permuted")].iloc[0]
    assert control.value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("n", "folds"), [(4999, (5, 3)), (5000, (1, 1))])
def test_folds_suit_the_number_of_rows(n, folds):
    _, observations = as_activations(np.zeros((n, 1)), np.arange(n) % 2, None, None, None, None)
    assert Measurement(observations, ReadSpec()).folds == folds
    assert Measurement(observations, ReadSpec(outer_folds=2)).folds == (2, folds[1])


def test_auroc_is_that_of_the_judge():
    from probekit.metrics.auroc import auroc

    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 12, 300), rng.random(300) < 0.2
    assert auroc(score, label) == pytest.approx(roc_auc_score(label, score))


# ------------------------------------------------------------------------------------------------- domains, hypotheses


@pytest.fixture(scope="module")
def small_domain():
    """Two domains with one direction; the second has twelve rows of either class, of 12 groups."""
    label = np.concatenate([np.random.default_rng(14).permutation(np.arange(300) % 2), np.arange(24) % 2])
    domain = np.repeat(["large", "small"], [300, 24])
    group = np.concatenate([np.arange(300), 300 + np.arange(24) // 2])
    x = planted(324, 8, label, 15, 6.0)
    return pk.measure(x, behaviour=label, domains=domain, groups=group, levels=("linear",), **QUICK)


def test_a_small_domain_has_no_t_and_still_judges_what_was_fitted_elsewhere(small_domain):
    assert one(small_domain, level="linear", fit_domain="large", test_domain="large").value < 0.3
    missing = small_domain[small_domain["na_reason"] != ""]
    assert set(missing["na_reason"]) == {"too_few_rows"}
    assert missing["note"].str.contains("12 groups where 20 are needed").all()
    assert set(missing["metric"]) == {"read", "transfer"}
    moved = one(small_domain, level="linear", fit_domain="large", test_domain="small")
    assert moved.value < 0.4 and moved.n == 24 and moved.accuracy > 0.9 and moved.auroc > 0.9


def test_a_domain_of_two_groups_refuses_no_run():
    label = np.concatenate([np.arange(300) % 2, [0, 1]])
    domain = np.repeat(["large", "tiny"], [300, 2])
    frame = pk.measure(planted(302, 8, label, 16), behaviour=label, domains=domain, levels=("linear",), **QUICK)
    assert one(frame, level="linear", test_domain="large").value < 0.5
    assert set(frame.loc[frame["test_domain"] == "tiny", "na_reason"]) == {"too_few_rows"}


def test_a_group_in_two_domains_is_refused_by_name():
    label, domain = np.arange(300) % 2, np.repeat(["a", "b"], 150)
    with pytest.raises(BadInput, match=r"group 5 is in 'a' \(row 5\) and in 'b' \(row 150\)"):
        group = np.arange(300)
        group[150] = 5
        pk.measure(
            planted(300, 4, label, 17), behaviour=label, domains=domain, groups=group, levels=("linear",), **QUICK
        )


def test_one_row_that_a_rule_excludes_costs_bits_and_not_all_that_a_float_holds():
    """The rule is right on all rows but one in a hundred test rows, which no select row foretold."""
    rng = np.random.default_rng(18)
    label = rng.permutation(np.arange(400) % 2)
    wrong = label.copy()
    _, observations = as_activations(np.zeros((400, 1)), label, None, None, None, None)
    study = Measurement(observations, ReadSpec(outer_folds=1, inner_folds=1))
    wrong[study.setting("behaviour", "all").rows("test")[0]] ^= 1
    rule = Hypothesis.of("nearly", ("sign",), lambda features: np.eye(2)[features["sign"][:, 0]])
    frame = pk.measure(rng.normal(size=(400, 4)), behaviour=label, features={"sign": wrong}, hypotheses=[rule],
                       levels=("linear",), outer_folds=1, inner_folds=1, **QUICK)  # fmt: skip
    told = one(frame, level="hypothesis:nearly", source="true")
    assert 0.03 < told.value < 0.12
