"""The sweep bench: no simulated cell is lost, and its rows have the keys of every bench."""

from pathlib import Path

import pytest

from probekit.proofs.bench import scale, sweep

PER_BLOCK = 4 * 64**2 + 3 * 64 * 256 + 2 * 64  # attention, a gated MLP of four times the width, two norms


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_no_cell_is_lost_and_rows_have_the_keys_of_every_bench(tmp_path, engine):
    told = []
    size = sweep.SweepSize(cells=(5, 12), most=12, workers=2, jobs=30)
    rows = [row.row() for row in sweep.sweep_bench(size, tmp_path, [engine, "jobs"], told.append)]
    assert [row["case"] for row in rows] == [f"5 cells, {engine}", f"12 cells, {engine}"]
    assert all(row["gap"] == 0 and row["ours_seconds"] > 0 and row["ratio"] > 0 for row in rows)
    counted = [one for one in told if "cells_per_second" in one]
    assert [one["cells"] for one in counted] == [5, 12] and told[-1]["jobs"] == 30


def test_a_cell_that_is_lost_shows_in_the_gap(tmp_path, monkeypatch):
    alike = sweep.Simulated(0)
    monkeypatch.setattr(sweep, "Simulated", lambda i: alike)
    size = sweep.SweepSize(cells=(4,), most=4, workers=2, jobs=10)
    (row,) = sweep.sweep_bench(size, tmp_path, ["serial"], lambda one: None)
    assert row.gap == 0.75


def test_moments_of_rows_on_disk_take_a_block_of_memory(tmp_path):
    told = []
    size = sweep.SweepSize(cells=(), most=0, workers=1, jobs=1, rows=((4_100, 256), (60_000, 256)))
    rows = list(sweep.sweep_bench(size, tmp_path, ["rows"], told.append))
    assert all(row.gap < 0.2 for row in rows) and not list(tmp_path.iterdir())
    small, large = told
    assert large["file_mb"] > 14 * small["file_mb"] and large["peak_mb"] < 2 * small["peak_mb"] + 15


def test_forwards_are_told_beside_their_multiplications():
    told = []
    size = sweep.SweepSize(cells=(), most=0, workers=1, jobs=1, models=((64, 1), (64, 2)))
    rows = list(sweep.sweep_bench(size, Path(), ["forwards"], told.append))
    assert [one["parameters"] for one in told] == [1 * PER_BLOCK + 64, 2 * PER_BLOCK + 64]
    assert rows[scale.MIDDLE].gap == 0 and all(row.bound_ratio == pytest.approx(1 / row.ratio) for row in rows)


def test_a_reader_s_time_is_told_beside_a_product_of_its_rows():
    told = []
    size = sweep.SweepSize(cells=(), most=0, workers=1, jobs=1, problems=((400, 8), (800, 8)))
    rows = list(sweep.sweep_bench(size, Path(), ["readers"], told.append))
    assert [one["fit_rows"] for one in told] == [400, 800] and rows[scale.MIDDLE].gap == 0
    assert all(one["cpu_seconds"] > 0 for one in told)
