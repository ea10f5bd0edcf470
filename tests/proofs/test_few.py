"""The study of few rows: what is judged, by rows made up; one small unit; a stopped study that resumes."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from probekit.cli.main import app
from probekit.errors import BadInput, Interrupted
from probekit.proofs import few
from probekit.proofs.few import few_study, judge_few, read_few
from probekit.proofs.peers import usual_value


def rows(case="P1", limit=0.0, n=200, seeds=20, **figures):
    """Made-up rows of one cell: as many seeds with the same figures, or with those of a list."""
    known = {"value": limit + 0.1, "low": limit, "high": limit + 0.2, "p": None, "peer": 0.0, "peer_auroc": 0.0,
             "usual": limit + 0.5}  # fmt: skip
    at = {"case": case, "level": "linear", "k": 0, "n": n, "d": 512, "limit": limit}
    return pd.DataFrame(at | known | figures | {"seed": np.arange(seeds)})


def verdict(*cells, n=None):
    """(passed, why) of the cell with most rows, or of the cell named."""
    found = judge_few(pd.concat(cells, ignore_index=True)).query("level == 'linear'").set_index("n")
    row = found.loc[n or found.index.max()]
    return bool(row["passed"]), row["why"]


def test_what_is_right_is_accepted():
    falls = [rows(n=n, value=value) for n, value in ((200, 0.5), (1000, 0.3), (4000, 0.1))]
    found = judge_few(pd.concat(falls, ignore_index=True))
    assert found["passed"].all() and len(found) == 4
    assert found["value"].dropna().tolist() == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize(("missed", "passed"), [(1, True), (2, False)])
def test_a_limit_above_the_upper_limit_in_more_than_one_seed_of_twenty_is_too_good(missed, passed):
    high = np.where(np.arange(20) < missed, 0.4, 0.6)
    assert verdict(rows(limit=0.5, high=high))[0] is passed


def test_noise_is_one_and_rarely_significant():
    fine = {"case": "noise", "limit": 1.0, "value": 1.01}
    assert verdict(rows(**fine, p=0.5)) == (True, "")
    assert "noise is 0.970" in verdict(rows(**fine | {"value": 0.97}, p=0.5))[1]
    # 5 % + 2 SE of twenty seeds is 14.7 %: two of them may be significant, three may not
    assert verdict(rows(**fine, p=np.where(np.arange(20) < 2, 0.01, 0.5)))[0]
    assert "p at most 0.05 in 15%" in verdict(rows(**fine, p=np.where(np.arange(20) < 3, 0.01, 0.5)))[1]


def test_a_value_that_rises_with_more_rows_is_said():
    scatter = np.tile([-0.05, 0.05], 10)
    few_rows = rows(n=200, value=0.3 + scatter)
    assert verdict(few_rows, rows(n=1000, value=0.32 + scatter))[0], "within two standard errors"
    assert verdict(few_rows, rows(n=1000, value=0.35 + scatter)) == (False, "value rises from 0.300 with more rows")


def test_another_opinion_counts_where_there_is_something_to_rank():
    assert "scikit-learn is off by -0.020" in verdict(rows(peer=-0.02))[1]
    assert "AUROC is off by 0.0060" in verdict(rows(limit=0.5, peer_auroc=0.006))[1]
    assert verdict(rows(limit=1.0, high=1.2, peer_auroc=0.1))[0]
    assert verdict(rows(peer=np.tile([-0.02, 0.02], 10)))[0], "it is the mean that is judged"


def test_a_missing_value_and_a_usual_method_that_is_right_are_red():
    assert verdict(rows(value=np.where(np.arange(20) < 1, np.nan, 0.1))) == (False, "NA in 1 of 20")
    found = judge_few(rows(usual=0.1))
    assert found.iloc[-1]["level"] == "usual" and not found.iloc[-1]["passed"]
    assert "shows nothing" in found.iloc[-1]["why"]


@pytest.fixture(scope="module")
def faint():
    """A plant that one in four rows contradicts, at two numbers of rows."""
    return [read_few("P9", n, 64, seed) for n in (200, 1000) for seed in (0, 1)]


def test_a_unit_of_few_rows_is_not_too_good_and_agrees_with_scikit_learn(faint):
    found = [row for found in faint for row in found]
    assert [(row["n"], row["seed"], row["level"]) for row in found] == [
        (n, seed, "linear") for n in (200, 1000) for seed in (0, 1)
    ]
    assert all(row["limit"] == pytest.approx(0.517, abs=1e-3) and row["limit"] < row["high"] for row in found)
    assert all(abs(row["peer"]) < 0.02 and row["usual"] for row in found if row["seed"] == 0)
    assert all(row["peer"] is None for row in found if row["seed"] == 1)
    means = [np.mean([row["value"] for row in found if row["n"] == n]) for n in (200, 1000)]
    assert all(more < less + 0.02 for less, more in pairwise(means))


def test_the_usual_method_takes_random_labels_of_types_for_known_and_the_kit_does_not():
    (row,) = read_few("P10", 400, 64, 0)
    assert row["limit"] == 1 and row["value"] > 0.9
    assert row["usual"] < 0.2


def test_the_usual_method_is_right_where_rows_are_many_and_apart():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 4000)
    x = rng.normal(size=(4000, 2)).astype(np.float32)
    assert usual_value([x], label, 0) == pytest.approx(1, abs=0.02)
    assert usual_value([x, (x + 9 * label[:, None]).astype(np.float32)], label, 0) < 0.02


def test_a_stopped_study_resumes(tmp_path, monkeypatch):
    asked = []

    def counting(unit):
        if len(asked) == 1:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(unit)
        return rows(case=unit.case, n=unit.n, seeds=len(unit.seeds))

    monkeypatch.setattr(few, "_measure_unit", counting)
    with pytest.raises(Interrupted, match="1 of 2 cells are kept"):
        few_study(2, ("P1",), (200, 400), (64,), root=tmp_path)
    run, frame = few_study(2, ("P1",), (200, 400), (64,), root=tmp_path)
    assert [unit.n for unit in asked if unit] == [200, 400]
    assert frame["seeds"].tolist() == [2, 2, 2] and run.manifest is not None


def test_the_largest_size_is_measured_in_one_seed_of_ten(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(few, "_measure_unit", lambda unit: asked.append(unit) or rows(seeds=1))
    few_study(12, ("P1",), (200, 4000), (4096,), root=tmp_path)
    seeds = {n: sum((unit.seeds for unit in asked if unit.n == n), ()) for n in (200, 4000)}
    assert seeds == {200: tuple(range(12)), 4000: (0, 10)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: few_study(1, ("P6a",)), "'P6a' is not read from few rows: choose among P1"),
        (lambda: few_study(0), "needs one seed"),
        (lambda: few_study(1, sizes=(50,)), "100 rows and"),
        (lambda: few_study(1, sizes=(4000,), widths=(64,)), "400 coordinates at least"),
    ],
)
def test_a_mistake_is_one_sentence(call, message):
    with pytest.raises(BadInput, match=message):
        call()


def test_the_command_prints_a_row_for_each_size_and_its_exit_code_is_the_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(few, "_measure_unit", lambda unit: rows(case=unit.case, n=unit.n, seeds=1, high=-1.0))
    asked = ["calibrate", "--few", "--only", "P1", "--seeds", "1", "--n", "200", "--runs", str(tmp_path)]
    table = CliRunner().invoke(app, asked)
    assert table.exit_code == 1 and "0.100" in table.stdout
    assert "P1 linear 200 512: the limit is below the upper limit in 0%" in " ".join(table.stdout.split())
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [row["level"] for row in told["rows"]] == ["linear", "usual"]
