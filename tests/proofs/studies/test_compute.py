"""The study of compute: an earlier step in place of the network is found on the curve, where loss recovered is not."""

import pandas as pd
import pytest

from probekit.proofs.studies.beds import adder
from probekit.proofs.studies.compute import FLOORS, ComputeFindings, floors_of, told_of
from probekit.proofs.studies.compute_page import BEYOND, levels, picture_of, tables, told
from probekit.proofs.studies.courses import Stage


@pytest.fixture(scope="module")
def last():
    course = adder("plain", 0, levels={"directions": (2, 8)})
    return Stage(course, course.steps[-1], course.at(course.steps[-1]))


@pytest.mark.parametrize("step", [450, 600, 900])
def test_an_earlier_step_has_the_share_of_compute_that_it_took_and_loss_recovered_is_far_off(last, step):
    loss = last.loss(last.course.at(step).law[last.test])
    row = next(iter(told_of(last, {"planted": loss}, 0)))
    true = step / last.course.steps[-1]
    assert row["compute"] == pytest.approx(true, abs=0.01) and row["compute_low"] <= true <= row["compute_high"]
    assert row["zero"] - true > 0.2  # the naive method


def test_the_network_itself_is_all_recovered_and_a_floor_is_not_recovered_at_all(last):
    own = last.loss(last.snapshot.law[last.test])
    rows = {row["level"]: row for row in told_of(last, {"own": own, **floors_of(last)}, 0)}
    assert [rows["own"][scale] for scale in (*FLOORS, "compute")] == pytest.approx([1, 1, 1, 1])
    for floor in FLOORS:
        assert rows[floor][floor] == pytest.approx(0, abs=1e-9)


def test_more_directions_lose_less_and_all_of_them_nothing(last):
    lost = {name: float(last.loss(law).mean()) for name, law in last.replaced().items()}
    own = float(last.loss(last.snapshot.law[last.test]).mean())
    assert lost["directions 2"] > lost["directions 8"] > own and lost["random 8"] > lost["directions 8"]
    whole = last._run(last._kept(np_eye(64)))
    assert float(last.loss(whole).mean()) == pytest.approx(own, abs=1e-4)


def np_eye(d):
    import torch

    return torch.eye(d, dtype=torch.double)


def row(kind, network, level, **values):
    scales = {f"{s}{end}": values.get(s, 0.5) for s in (*FLOORS, "compute") for end in ("", "_low", "_high")}
    bits = {f"{floor}_bits": 5.0 for floor in FLOORS}
    return {"kind": kind, "network": network, "last": 1500, "level": level, "loss": 2.0, "own": 0.1, "n": 200,
            "compute_na": ""} | scales | bits  # fmt: skip


def test_tables_and_the_picture_say_what_is_stored_and_findings_round_trip(tmp_path):
    rows = [row("plain", i, "directions 8", zero=0.8 + 0.01 * i, compute=0.2) for i in range(5)]
    rows += [row("plain", i, "step 450", compute=0.3) for i in range(5)]
    rows += [row("plain", i, "rule", compute=None) for i in range(5)] + [row("othello-6x6", 0, "rule", input=-0.1)]
    ComputeFindings(tuple(rows)).write(tmp_path / "c.json")
    found = ComputeFindings.read(tmp_path / "c.json")
    assert found.frame.shape == pd.DataFrame(rows).shape
    assert told(found, "plain", "directions 8")["zero"]["value"] == pytest.approx(0.82)
    assert told(found, "othello-6x6", "rule")["input"] == {"value": -0.1, "low": -0.1, "high": -0.1, "n": 1}
    made = tables(found)
    explained = made["explained"].set_index(["network", "kept"])
    assert explained.loc[("plain", "directions 8"), "zero"] == ".82 [.80, .84]"
    assert explained.loc[("plain", "rule"), "compute"] == BEYOND
    assert made["known"]["true"].tolist() == [".300"] and "step 450" not in levels(found, "plain")
    picture = picture_of(found)
    assert picture.count("<circle") == 4 + 3 + 3  # no share is drawn that is not there, or below 0
