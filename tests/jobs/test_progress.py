"""Time left: by what a cell of a kind took, within a factor of two though kinds differ tenfold."""

import json
import os
import socket
import time

import pytest

from probekit.jobs.job import Cell
from probekit.jobs.progress import Pace

TOOK = {"feature": 2.0, "read": 20.0, "selected": 3.0, "replace": 12.0}
CHAIN = 30.0


def cells(n_sites=8):
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(n_sites)]
    out = [Cell(kind, "x", (hook,)) for hook in hooks for kind in ("feature", "read")]
    out.append(Cell("selected", "x", tuple(hooks)))
    out += [Cell("replace", "x", (hook,), "home") for hook in hooks]
    return [*out, Cell("replace", "x", tuple(hooks), "home")]


def seconds(cell):
    return CHAIN if cell.kind == "replace" and len(cell.hooks) > 1 else TOOK[cell.kind]


def test_nothing_is_said_before_a_cell_is_done():
    pace = Pace(cells())
    assert pace.left() is None
    pace.finished(cells()[0], 0.0)  # it failed at once
    assert pace.left() is None


def test_after_one_cell_of_each_kind_of_reading_the_rest_is_known_within_a_factor_of_two():
    every = cells()
    pace, total = Pace(every), sum(map(seconds, every))
    spent, naive_off = 0.0, []
    for i, cell in enumerate(every[:-1]):
        pace.finished(cell, seconds(cell))
        spent += seconds(cell)
        rest = total - spent
        if i >= 1:
            assert rest / 2 <= pace.left() <= rest * 2
        naive_off.append(spent / (i + 1) * (len(every) - i - 1) / rest)
    assert min(naive_off) < 0.2, "a mean over all kinds is what this is better than"


def test_a_kind_that_was_measured_is_its_own_judge():
    every = cells(2)
    pace = Pace(every)
    for cell in every[:-2]:
        pace.finished(cell, seconds(cell))
    left = pace.left()
    assert left == pytest.approx(12.0 + pace_of_chain(every), rel=1e-6)


def pace_of_chain(every):
    """No chain was measured: it is judged by the kinds that were, at its weight."""
    means = {"feature": 2.0 / 0.15, "read": 20.0, "selected": 3.0 / 0.1, "replace": 12.0 / 0.5}
    return sum(means.values()) / len(means) * 0.5 * 2


def test_a_run_folder_says_what_is_done_there_also_in_a_long_cell(tmp_path, monkeypatch):
    from probekit.jobs import progress as module
    from probekit.storage.runwriter import RunWriter

    monkeypatch.setattr(module, "BEAT", 0.05)
    writer, told = RunWriter.open(tmp_path, "run", {"x": 1}, 7), []

    def status():
        return json.loads((tmp_path / "run" / "status.json").read_text())

    time.sleep(0.6)  # what was told as it was opened
    with module.beating(writer, lambda *each: told.append(each)) as say:
        say("read a at b", 1, 7, 99.6)
        first = status()
        assert told == [("read a at b", 1, 7, 99.6)] and (first["doing"], first["left"]) == ("read a at b", 100)
        assert (first["state"], first["pid"], first["host"]) == ("running", os.getpid(), socket.gethostname())
        (tmp_path / "run" / "status.json").unlink()
        deadline = time.monotonic() + 10
        while not (tmp_path / "run" / "status.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert status()["doing"] == "read a at b"
    writer.interrupt()
    assert status()["state"] == "stopped" and "doing" not in status()
