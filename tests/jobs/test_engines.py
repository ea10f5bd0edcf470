"""Engines: every unit once, wherever it runs; what fails costs itself, and a worker that dies is told."""

import os
import signal
from dataclasses import dataclass
from functools import partial

import pytest

from probekit.errors import BadInput, FitError, Interrupted
from probekit.jobs.engines import Folder, Station, stopping, threads_of, work_off
from probekit.records import Record
from probekit.storage.runs import open_run
from probekit.storage.runwriter import RunWriter


@dataclass(frozen=True)
class Unit:
    """A number to be squared; some raise, one kills its process."""

    number: int

    @property
    def label(self) -> str:
        return f"square {self.number}"


def square(unit):
    if unit.number == 13:
        raise FitError("unlucky")
    if unit.number == 66:
        raise BadInput("nothing of this can be measured.")
    if unit.number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit.number**2


def write(writer, key, unit, found):
    at = {"behaviour": "b", "fit_domain": "a", "test_domain": "a", "metric": "read", "level": "linear"}
    return [Record(**at, hook=key, value=float(found), n=os.getpid())], []


def station(root, n_cells, number, strict=False):
    return Station(square, Folder(RunWriter.open(root, "run", {"x": 1}, n_cells, worker=str(number)), write, strict))


def squares(root, numbers, n_workers, progress=None, phases=1, strict=False):
    units = {f"u{number}": Unit(number) for number in numbers}
    cut = len(units) // phases
    parts = [dict(list(units.items())[i * cut : (i + 1) * cut]) for i in range(phases)]
    here = station(root, len(units), 0, strict)
    with stopping(here.sink.writer):
        begin = partial(station, root, len(units), strict=strict)
        work_off(parts, here, n_workers=n_workers, begin=begin, progress=progress)
    here.sink.writer.finish({})
    return open_run(root / "run"), here.sink


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_unit_is_measured_once_and_what_fails_costs_itself(tmp_path, n_workers):
    told = []
    run, sink = squares(tmp_path, range(10, 18), n_workers, lambda *each: told.append(each), phases=2)
    assert {row.hook: row.value for row in run.records.itertuples()} == {
        f"u{i}": i * i for i in range(10, 18) if i != 13
    }
    assert run.cells["cell"].is_unique and len(run.cells) == 8
    (failed,) = run.manifest["cells"]["failed"]
    assert failed == {"cell": "u13", "error": "square 13: FitError: unlucky"}
    assert set(sink.seconds) == {f"u{i}" for i in range(10, 18)} - {"u13"}
    assert [what for what, *_ in told] == [*(f"square {i}" for i in range(10, 18)), "done"]
    assert told[4][1] == 4  # the second phase waits for all of the first
    assert (os.getpid() in set(run.records["n"])) == (n_workers == 1)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_no_unit_can_do_without_ends_the_run_with_its_error(tmp_path, n_workers):
    with pytest.raises(BadInput, match="nothing of this"):
        squares(tmp_path, [1, 2, 66, 3], n_workers)
    run = open_run(tmp_path / "run", partial=True)
    assert run.state == "failed" and "nothing of this" in run.reason
    with pytest.raises(FitError, match="unlucky"):
        squares(tmp_path / "strict", [1, 13], n_workers, strict=True)


def test_a_worker_that_is_killed_is_told_and_what_is_finished_is_kept(tmp_path):
    with pytest.raises(FitError, match="exit code -9"):
        squares(tmp_path, [1, 2, 99], 2)
    run = open_run(tmp_path / "run", partial=True)
    assert run.state == "failed" and set(run.records["hook"]) <= {"u1", "u2"}


def test_stopping_ends_the_workers_and_the_same_call_resumes(tmp_path):
    def stop(what, done, total, left=None):
        if done >= 3 and what != "done":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="[345] of 6 cells are kept"):
        squares(tmp_path, range(6), 2, stop)
    assert open_run(tmp_path / "run", partial=True).state == "stopped"  # no worker holds it any more
    run, sink = squares(tmp_path, range(6), 2)
    assert len(run.records) == 6 and len(sink.seconds) <= 3


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [threads_of(n) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert threads_of(2) == 1
