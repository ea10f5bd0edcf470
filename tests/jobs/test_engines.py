"""Engines: every unit once, wherever it runs; what fails costs itself, and a worker that dies is told."""

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from probekit.errors import BadInput, FitError, Interrupted
from probekit.jobs.engines import Folder, Station, stopping, work_off
from probekit.jobs.workers import crew_of, threads_of
from probekit.records import Record
from probekit.storage.runs import open_run
from probekit.storage.runwriter import RunWriter


@dataclass(frozen=True)
class Unit:
    """A number to be squared; some raise, one kills its process; kills_once: a mark that it has done so."""

    number: int
    kills_once: Path | None = None

    @property
    def label(self) -> str:
        return f"square {self.number}"


def square(unit):
    if unit.number == 13:
        raise FitError("unlucky")
    if unit.number == 66:
        raise BadInput("nothing of this can be measured.")
    if unit.kills_once and not unit.kills_once.exists():
        unit.kills_once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if unit.number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit.number**2


def killing(number):
    os.kill(os.getpid(), signal.SIGKILL)


def write(writer, key, unit, found):
    at = {"behaviour": "b", "fit_domain": "a", "test_domain": "a", "metric": "read", "level": "linear"}
    return [Record(**at, hook=key, value=float(found), n=os.getpid())], []


def station(root, n_cells, number, strict=False):
    return Station(square, Folder(RunWriter.open(root, "run", {"x": 1}, n_cells, worker=str(number)), write, strict))


def squares(root, numbers, n_workers, progress=None, phases=1, strict=False, engine="local"):
    units = {f"u{number}": Unit(number) for number in numbers}
    cut = len(units) // phases
    parts = [dict(list(units.items())[i * cut : (i + 1) * cut]) for i in range(phases)]
    here = station(root, len(units), 0, strict)
    with stopping(here.sink.writer), crew_of(engine, n_workers) as crew:
        begin = partial(station, root, len(units), strict=strict)
        work_off(parts, here, crew=crew, begin=begin, progress=progress)
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


def test_a_worker_that_dies_is_replaced_and_a_unit_that_kills_each_is_given_up(tmp_path):
    units = {f"u{i}": Unit(i, tmp_path / "mark" if i == 1 else None) for i in (1, 99, 2, 3)}
    here, begin = station(tmp_path, 4, 0), partial(station, tmp_path, 4)
    with crew_of("local", 2) as crew:
        work_off([units], here, crew=crew, begin=begin)
    here.sink.writer.finish({})
    run = open_run(tmp_path / "run")
    assert (tmp_path / "mark").exists() and sorted(run.records["hook"]) == ["u1", "u2", "u3"]
    (failed,) = run.manifest["cells"]["failed"]
    assert failed["cell"] == "u99" and "3 workers died of it, the last one with exit code -9" in failed["error"]


def test_workers_that_never_begin_end_the_run(tmp_path):
    here = station(tmp_path, 3, 0)
    with pytest.raises(FitError, match="3 workers died one after another"), crew_of("local", 2) as crew:
        work_off([{f"u{i}": Unit(i) for i in range(9)}], here, crew=crew, begin=killing)


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


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("slurm", 1), "no engine 'slurm': say serial, local, ray"),
        (("serial", 2), "the engine serial is one process; found 2 workers"),
        (("local", 0), "at least one worker; found 0"),
    ],
)
def test_mistakes_about_engines_are_one_sentence(asked, told):
    with pytest.raises(BadInput, match=told):
        crew_of(*asked)
    with pytest.raises(BadInput, match="came with the engine local"):
        crew_of("local", 2, address="auto")
    with pytest.raises(BadInput, match="an actor has one of its own: say cuda"):
        crew_of("ray", 2, device="auto")


def test_a_ray_cluster_of_our_own_replaces_what_dies_and_makes_what_one_process_makes(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    alone, _ = squares(tmp_path / "alone", [1, 2, 3, 13], 1)
    units = {f"u{i}": Unit(i, tmp_path / "mark" if i == 2 else None) for i in (1, 2, 3, 13)}
    here, begin = station(tmp_path, 4, 0), partial(station, tmp_path, 4)
    with crew_of("ray", 2) as crew:
        work_off([units], here, crew=crew, begin=begin)
        assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_MODE" not in os.environ
    here.sink.writer.finish({})
    run = open_run(tmp_path / "run")
    assert (tmp_path / "mark").exists()
    assert run.manifest["cells"]["failed"] == alone.manifest["cells"]["failed"]
    values = {row.hook: row.value for row in run.records.itertuples()}
    assert values == {row.hook: row.value for row in alone.records.itertuples()}
    assert os.getpid() not in set(run.records["n"])
