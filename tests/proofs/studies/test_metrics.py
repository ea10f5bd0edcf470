"""The study of metrics: what it keeps, whom it calls apart, and that its page is of the kept run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from probekit.cli.main import app
from probekit.proofs.studies import metrics
from probekit.proofs.studies.metrics import RIGHT, MetricsFindings, MetricsSize, measure_metrics, tables
from probekit.testbeds.ground_truth.systems import PLANTS, SYSTEMS

ACCOUNTS = sum(1 + len(system.wrong) for system in SYSTEMS) + sum(1 + len(wrong) for _, _, wrong in PLANTS.values())


def scored(claim, seed, n):
    """A score that sees through everything, with some noise."""
    return dict.fromkeys(
        ("down", "up", "down without noise", "up without noise"), 0.01 * seed + 0.2 * (not claim.valid)
    )


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(metrics, "cae", scored)
    seen = []
    told = measure_metrics(MetricsSize(seeds=2), progress=lambda what, done, total, left=None: seen.append(done))
    assert seen == [0, 1]
    return told


def test_every_account_is_measured_and_kept(found, tmp_path):
    frame = found.frame
    assert frame[["system", "account"]].drop_duplicates().shape[0] == ACCOUNTS and found.seeds == 2
    assert frame.groupby(["system", "account", "measure", "beside"]).size().max() == 1
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    beside = frame[frame["beside"] == RIGHT]
    assert (beside["account"] != RIGHT).all() and (beside[beside["measure"] == "down"]["value"] == 0.2).all()
    found.write(tmp_path / "kept.json")
    assert MetricsFindings.read(tmp_path / "kept.json") == found


def test_its_tables_say_who_tells_right_from_wrong(found):
    made = tables(found)
    assert set(made) == set(metrics.TITLES) and sum(map(len, made.values())) == ACCOUNTS
    told = {}
    for table in made.values():
        wrong = table[table["account"].str.startswith("not: ")]
        assert set(wrong["CAE tells"]) == {"yes"}
        assert (table.drop(wrong.index)[["ours tell", "CAE tells"]] == "").all(axis=None)
        told |= dict(zip(wrong["account"], wrong["ours tell"], strict=True))
    assert {account for account, tell in told.items() if tell == "no"} == {
        "not: carry inverted, and turned back", "not: by way of 3x", "not: a lower threshold",
    }  # fmt: skip
    systems = made["systems"].set_index("account")
    assert systems.loc["not: copies that may differ", ["kept", "apart"]].tolist() == [".00", ".50"]


def test_the_command_prints_keeps_and_tells_in_json(found, tmp_path, monkeypatch):
    asked = []

    def measure(size, progress):
        asked.append(size.seeds)
        return found

    monkeypatch.setattr(metrics, "measure_metrics", measure)
    kept = tmp_path / "kept.json"
    shown = CliRunner().invoke(app, ["study", "metrics", "--share", "0.1", "--keep", str(kept)])
    assert shown.exit_code == 0 and MetricsFindings.read(kept) == found and asked == [2]
    assert "by way of 3x" in shown.output and all(title in shown.output for title in metrics.TITLES.values())
    told = json.loads(CliRunner().invoke(app, ["study", "metrics", "--json"]).stdout)
    assert told["seeds"] == 2 and len(told["rows"]) == len(found.rows)


def test_what_is_kept_is_whole_and_says_of_ours_what_counting_says(found):
    kept = MetricsFindings.read(Path(__file__).parents[3] / "docs" / "metrics.json")
    assert kept.seeds == MetricsSize().seeds
    by = ["of", "system", "account", "measure", "beside"]
    here, there = (told.frame.set_index(by) for told in (kept, found))
    assert set(here.index) == set(there.index)
    exact = [row for row in here.index if row[0] == "systems" and row[3] in ("kept", "apart", "erased", "follows")]
    assert here.loc[exact, "value"].to_dict() == there.loc[exact, "value"].to_dict()
    right = here.xs(("systems", RIGHT), level=("of", "account"))
    scores = right[right.index.get_level_values("measure").isin(["down", "up"])]
    assert (scores["high"] == 0).all() and len(scores) == 2 * len(SYSTEMS)
