"""The study of training: planted courses, where what is read, used and carried on is known; steps paired over rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probekit.levels import Level
from probekit.measurement.across import Asked, SharedRows
from probekit.measurement.setting import Pooling
from probekit.metrics.bootstrap import Clusters, Differences
from probekit.metrics.causal.training import TrainingCurve
from probekit.metrics.splits import split_by_group
from probekit.proofs.studies.beds import adder, othello, tiny_world
from probekit.proofs.studies.courses import ANSWER, BEHAVIOUR, RULE, Course, Snapshot
from probekit.proofs.studies.training import Mean, TrainingFindings, _listed, judged, onset
from probekit.proofs.studies.training_page import begun_of, page_tables, picture_of, ratios, tables
from probekit.task import Behaviour, Observations

N, CLASSES, SURE = 1200, 4, 6.0
LEVEL = "directions 3"


def planted():
    """Step 1: noise. 10: the answer lies in the second half, and something else is said, from the first. 100: the
    answer is said, from the second half. 1000: it has moved to the first half, and is said from there."""
    draw = np.random.default_rng(0)
    answer, other = draw.integers(0, CLASSES, (2, N))
    one_hot, noise = np.eye(CLASSES, dtype=np.float32), draw.standard_normal((N, 2 * CLASSES)).astype(np.float32)
    halves = {1: (None, None, 0), 10: (other, answer, 0), 100: (other, answer, 1), 1000: (answer, other, 0)}

    def at(step):
        first, second, said = halves[step]
        x = noise if first is None else np.concatenate([one_hot[first], one_hot[second]], 1) * SURE
        read = slice(CLASSES * said, CLASSES * (said + 1))

        def run(rows, given):
            return given[..., read].softmax(-1)

        return Snapshot({"site": torch.from_numpy(x)}, torch.from_numpy(x)[:, read].softmax(-1).numpy(), run)

    names = tuple("abcd")
    told = Behaviour(ANSWER, one_hot[answer], names)
    rows = np.arange(N)
    seen = Observations(rows, 0 * rows, rows, np.full(N, "all"), {ANSWER: told})
    asked = Asked(((Level.parse("directions"), (3,)),), (), (), (1e-2, 1e-3), 0)
    pooling = Pooling(told, names, np.arange(CLASSES), 0)
    curve = TrainingCurve.of(np.array([1.0, 1000.0]), np.array([2.0, 0.1]))
    return Course(
        "planted", 0, (1, 10, 100, 1000), curve, seen, SharedRows(split_by_group(rows, 0), pooling), {"site": asked},
        "site", answer[:, None].astype(float), at,
    )  # fmt: skip


def value(ratio):
    return ratio.missed.sum() / ratio.available.sum()


def test_what_is_readable_used_and_in_its_place_at_a_planted_step_is_told_apart():
    stages = list(planted().stages())
    read, used, moved = (
        {stage.step: value(told(stage)[LEVEL]) for stage in stages}
        for told in (lambda s: s.read(), lambda s: s.used(), lambda s: s.carried(stages[-1]))
    )
    assert read[1] > 0.95 and max(read[step] for step in (10, 100, 1000)) < 0.05
    assert used[1] > 0.5 and used[10] > 0.8 and max(used[100], used[1000]) < 0.05
    assert min(moved[step] for step in (1, 10, 100)) > 0.9 and abs(moved[1000]) < 0.01
    assert used[10] - read[10] > 0.2  # the naive method: what can be read is used


def test_the_rule_is_what_the_network_says_where_it_says_the_answer_and_not_before():
    said = {stage.step: (value(stage.used()[RULE]), value(stage.read()[BEHAVIOUR]), stage.accuracy)
            for stage in planted().stages()}  # fmt: skip
    assert said[10][0] > 0.8 and said[10][1] > 1 and said[10][2] < 0.4
    assert said[100][0] < 0.01 and said[100][1] < 0.05 and said[100][2] == 1


def test_of_a_network_that_adds_the_numbers_are_readable_before_any_training_and_the_sum_is_not():
    course = adder("narrow", 1, levels={"directions": (8,)})
    course = replace(course, steps=(0, 1500))
    first, last = course.stages()
    assert value(first.read()[RULE]) < 0.3 and value(first.read()["directions 8"]) > 0.9
    assert value(last.read()["directions 8"]) < 0.1 and value(last.used()["directions 8"]) < 0.3
    assert value(last.carried(last)["directions 8"]) == pytest.approx(0, abs=0.01)
    assert not set(course.donors["any"].ravel()) - set(range(len(course.seen)))
    told = course.seen.behaviours[ANSWER].law.argmax(1)
    assert (told[course.donors[RULE]] == told[course.setting.split.test][:, None]).all()


def test_the_othello_network_says_what_it_said_with_its_own_activations_and_another_s_with_another_s():
    """Laws are of the moves alone, and the last step is the bundled network."""
    course = othello(Path(), 24, until=0)
    last = course.at(course.steps[-1])
    assert course.steps == (0, 6500)
    rows = np.arange(8)
    x = last.x[course.edited]
    kept = last.run(rows, torch.stack([x[rows], x[rows + 8]], 1)).numpy()
    assert np.allclose(kept[:, 0], last.law[rows], atol=1e-4)
    assert np.abs(kept[:, 1] - last.law[rows]).max() > 0.1
    legal = course.seen.behaviours[ANSWER].law > 0
    assert (last.law * legal).sum(1).mean() > 0.95 and legal.sum(1).min() > 0


def test_the_network_of_the_tiny_world_learns_and_answers_with_a_donor_that_thinks_the_same():
    course = tiny_world(60)
    assert course.steps == (0, 128, 328, 839, 1342, 2200)
    assert course.curve.envelope[0] > 3 > 0.3 > course.curve.envelope[-1]  # ten places are 3.3 bits
    first, last = course.at(0), course.at(2200)
    assert np.allclose(first.law.max(1), 0.1, atol=0.05)
    test = course.setting.split.test
    right = course.seen.behaviours[ANSWER].law[test].argmax(1)
    assert (last.law[test].argmax(1) == right).mean() > 0.9
    said = {name: last.run(test, last.x[course.edited][torch.from_numpy(course.donors[name])]).numpy() for name in
            ("any", RULE)}  # fmt: skip
    kept = {name: (law.argmax(2) == right[:, None]).mean() for name, law in said.items()}
    assert kept[RULE] > 0.8 > 0.3 > kept["any"]


@pytest.mark.parametrize(("values", "found"), [
    ([1, 1, 0.5, 0.1], 10 * 10 ** (0.2 / 0.5)), ([0.5, 0.5, 0.5, 0.5], 0), ([1, 1, 1, 0.9], None),
    ([0.1, 1, 0.6, 0.1], 10 * 10 ** 0.5), ([np.nan, np.nan, 0.6, 0.1], 10 * 10 ** 0.5),
    ([1, 0.1, np.nan, 0.1], 100 * 10 ** (0.2 / 0.9)),
])  # fmt: skip
def test_a_level_is_there_from_the_step_on_from_which_it_stays(values, found):
    told = onset(np.array([0, 10, 100, 1000]), np.array(values, dtype=float))
    assert told == (found if found is None else pytest.approx(found))


def made(spread=0.5, change=-0.1, networks=5):
    """Rows of networks whose groups differ far more from each other than a level does from step to step."""
    draw, rows = np.random.default_rng(1), []
    for network in range(networks):
        shared = draw.normal(0, spread, 60)
        for i, step in enumerate((0, 10, 100)):
            for metric in ("read", "replace", "transfer"):
                for level in (LEVEL, BEHAVIOUR):
                    rows.append({
                        "kind": "plain", "network": network, "step": step, "accuracy": 0.1 * i, "loss": 3.0 - i,
                        "metric": metric, "level": level, "available": [1.0] * 60,
                        "missed": (1 + i * change + shared + draw.normal(0, 0.02, 60)).tolist(),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_steps_are_compared_over_rows_that_they_share():
    """The change is known within a hundredth; an interval that forgets which rows they were says nothing of it."""
    rows = made()
    told = judged(rows)
    found = told[(told["table"] == "rows") & (told["step"] == 100) & (told["metric"] == "read")].iloc[0]
    assert found["change_low"] < -0.1 < found["change_high"] < -0.09 and found["change_low"] > -0.11
    some = rows[(rows["metric"] == "read") & (rows["level"] == LEVEL)].sort_values("network")
    sums = [
        (np.concatenate(list(some.loc[some["step"] == step, "missed"]))[None], np.ones((1, 300))) for step in (10, 100)
    ]
    weights = tuple(Clusters.of(np.arange(300), 500, seed).weights for seed in (0, 1))
    low, high = Differences.unpaired(*sums, weights).intervals()[0]
    assert low < 0 < high or high - low > 5 * (found["change_high"] - found["change_low"])


def test_intervals_are_over_networks_where_there_are_five_and_over_rows_of_one():
    for networks, known in ((5, True), (3, False), (1, True)):
        told = judged(made(networks=networks))
        low = told.loc[told["table"] == "rows", "low"] if "low" in told else pd.Series([np.nan])
        assert low.notna().all() == known


def test_what_cannot_be_told_of_a_step_is_no_number():
    rows = made()
    gone = rows["step"] == 10
    rows.loc[gone, "missed"] = rows.loc[gone, "missed"].map(lambda one: [float("nan")] * len(one))
    told = judged(rows)
    here = told[(told["table"] == "rows") & (told["step"] == 10)]
    assert here["value"].isna().all() and told.loc[told["table"] == "rows", "change"].isna().all()


def test_a_mean_over_networks_is_geometric_and_has_no_interval_below_five():
    two = Mean.of(np.array([10.0, 1000.0]))
    assert (two.value, two.low, two.high, two.n) == (pytest.approx(100), None, None, 2)
    five = Mean.of(np.geomspace(10, 1000, 5))
    assert five.value == pytest.approx(100) and five.low < 50 < 200 < five.high


def test_tables_and_the_picture_say_what_is_stored_and_findings_round_trip(tmp_path):
    told = judged(made(change=-0.3))
    parts = [tuple(_listed(told[told["table"] == name])) for name in ("rows", "onsets", "learned")]
    TrainingFindings(*parts).write(tmp_path / "t.json")
    found = TrainingFindings.read(tmp_path / "t.json")
    assert found.frame.shape == pd.DataFrame(parts[0]).shape
    assert len(begun_of(found, "plain", "read", LEVEL)) == 5
    order = ratios(found, "plain", LEVEL, "used / readable")
    assert order is not None and order.value == pytest.approx(1, abs=0.5)
    made_of = page_tables(found)
    assert set(made_of) >= {*tables(found), "plain intervals", "plain changes"}
    assert made_of["learned"]["right"].tolist() == [".00", ".10", ".20"]
    assert picture_of(found).count("<path") > 10
