"""The sweep bench: no simulated cell is lost, and its rows have the keys of every bench."""

import pytest

from probekit.proofs.bench import sweep


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_no_cell_is_lost_and_rows_have_the_keys_of_every_bench(tmp_path, engine):
    told = []
    size = sweep.SweepSize(cells=(5, 12), most=12, workers=2, jobs=30)
    rows = [row.row() for row in sweep.sweep_bench(size, tmp_path, [engine], told.append)]
    assert [row["case"] for row in rows] == [f"5 cells, {engine}", f"12 cells, {engine}"]
    assert all(row["gap"] == 0 and row["ours_seconds"] > 0 and row["ratio"] > 0 for row in rows)
    counted = [one for one in told if "cells_per_second" in one]
    assert [one["cells"] for one in counted] == [5, 12] and told[-1]["jobs"] == 30


def test_a_cell_that_is_lost_shows_in_the_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "Simulated", lambda i: Alike())
    size = sweep.SweepSize(cells=(4,), most=4, workers=2, jobs=10)
    (row,) = sweep.sweep_bench(size, tmp_path, ["serial"], lambda one: None)
    assert row.gap == 0.75


class Alike:
    """A cell that says what all others say."""

    number, label = 0, "alike"
