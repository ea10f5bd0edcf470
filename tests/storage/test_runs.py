"""Run folders: what is written is read back exactly, and anything else says so in one sentence."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from probekit.errors import BadInput, RunError
from probekit.records import Losses, Record
from probekit.results.tables import table
from probekit.storage.runs import find_run, find_runs, list_runs, list_sweeps, open_run, read_run, read_runs
from probekit.storage.runwriter import RunWriter

SPEC = {"name": "demo", "read": {"levels": ["linear"]}}


def record(layer: int, **figures) -> Record:
    figures = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 100, "groups": 10} | figures
    return Record(behaviour="next", fit_domain="id", test_domain="id", metric="read", level="linear", layer=layer,
                  hook=f"blocks.{layer}.hook_resid_post", **figures)  # fmt: skip


def losses(of: Record) -> Losses:
    return Losses(of.id, ["a", "b"], [0.5, 0.25], [1.0, 2.0], [3, 4])


def filled(root, n: int = 3, upto: int | None = None) -> RunWriter:
    writer = RunWriter.open(root, "demo", SPEC, n)
    for layer in range(n if upto is None else upto):
        writer.write_cell(f"c{layer}", [record(layer)], [losses(record(layer))], seconds=0.1)
    return writer


def test_round_trip(tmp_path):
    writer = filled(tmp_path)
    writer.write_table("examples", pd.DataFrame({"text": ["=1+1"], "x": [1.5]}))
    writer.write_tensors("directions", {"u": np.arange(6, dtype=np.float32).reshape(2, 3)})
    writer.finish({"versions": {"torch": "0"}, "path": tmp_path})
    run = open_run(tmp_path / "demo")
    assert run.problem == "" and run.status["state"] == "complete"
    frame = read_run(tmp_path / "demo")
    assert list(frame["layer"]) == [0, 1, 2] and frame["k"].isna().all() and (frame["value"] == 0.25).all()
    assert list(frame["id"]) == [record(i).id for i in range(3)]
    assert frame.attrs["manifest"]["spec"] == SPEC
    one = run.losses_of(record(1).id)
    assert one[["group", "numerator", "denominator", "n"]].values.tolist() == [["a", 0.5, 1.0, 3], ["b", 0.25, 2.0, 4]]
    assert len(run.losses) == 6 and run.tables == ["examples"] and run.table("examples").loc[0, "text"] == "=1+1"
    assert run.tensors("directions")["u"][1, 2] == 5 and not list((tmp_path / "demo").glob("*.jsonl"))


def test_nothing_but_the_losses_can_be_read_through_the_view(tmp_path):
    import duckdb

    filled(tmp_path).finish({})
    (tmp_path / "secret.csv").write_text("a\n1\n")
    view = open_run(tmp_path / "demo")._view
    with pytest.raises(duckdb.Error):
        view.execute(f"select * from read_csv('{tmp_path / 'secret.csv'}')")
    with pytest.raises(duckdb.Error):
        view.execute("set enable_external_access = true")


def test_na_stays_na(tmp_path):
    writer = RunWriter.open(tmp_path, "demo", SPEC, 1)
    na = record(0, value=None, low=None, high=None, na_reason="small_denominator")
    writer.write_cell("c", [na], [], seconds=0.0)
    writer.finish({})
    frame = read_run(tmp_path / "demo")
    assert frame["value"].isna().all() and frame.loc[0, "na_reason"] == "small_denominator"


def test_half_written_says_how_to_resume_and_resumes(tmp_path):
    filled(tmp_path, upto=2)
    with pytest.raises(RunError, match=r"2 of 3 cells are done.*probekit run SPEC"):
        read_run(tmp_path / "demo")
    partial = open_run(tmp_path / "demo", partial=True)
    assert "not finished" in partial.problem and len(partial.records) == 2 and len(partial.losses_of(record(0).id)) == 2
    writer = RunWriter.open(tmp_path, "demo", SPEC, 3)
    assert writer.done == {"c0", "c1"} and not writer.complete
    with pytest.raises(RunError, match="cannot be finished"):
        writer.finish({})
    writer.write_cell("c2", [record(2)], [], seconds=1.0)
    writer.finish({})
    assert len(read_run(tmp_path / "demo")) == 3


def test_complete_is_never_written_again(tmp_path):
    filled(tmp_path).finish({})
    writer = RunWriter.open(tmp_path, "demo", SPEC, 3)
    assert writer.complete and writer.done == {"c0", "c1", "c2"}
    for write in (lambda: writer.write_cell("x", [], [], seconds=0.0), lambda: writer.write_table("t", pd.DataFrame()),
                  lambda: writer.finish({})):  # fmt: skip
        with pytest.raises(RunError, match="complete"):
            write()


def test_torn_line_is_ignored_counted_and_does_not_swallow_the_next(tmp_path):
    writer = filled(tmp_path, upto=2)
    lines = tmp_path / "demo" / "cells-0.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])
    writer.close()
    writer = RunWriter.open(tmp_path, "demo", SPEC, 3)
    assert writer.done == {"c0"}
    writer.write_cell("c1", [record(1)], [], seconds=0.0)
    writer.write_cell("c2", [record(2)], [], seconds=0.0)
    assert open_run(tmp_path / "demo", partial=True).torn == 1
    writer.finish({})
    assert len(read_run(tmp_path / "demo")) == 3


def test_a_changed_digit_in_a_line_is_not_believed(tmp_path):
    filled(tmp_path, upto=1)
    lines = tmp_path / "demo" / "cells-0.jsonl"
    lines.write_text(lines.read_text().replace("0.25", "0.75", 1))
    assert open_run(tmp_path / "demo", partial=True).records.empty


def test_first_ok_wins_and_a_failed_cell_is_retried(tmp_path):
    writer = RunWriter.open(tmp_path, "demo", SPEC, 1)
    na = record(0, value=None, low=None, high=None, na_reason="failed")
    writer.write_cell("c", [na], [], error="boom", seconds=0.0)
    assert writer.done == set()
    assert json.loads((tmp_path / "demo" / "status.json").read_text())["failed"] == [{"cell": "c", "error": "boom"}]
    writer.write_cell("c", [record(0, value=0.5)], [], seconds=0.0)
    other = RunWriter.open(tmp_path, "demo", SPEC, 1, worker="1")
    other.write_cell("c", [record(0, value=0.9)], [], seconds=0.0)
    other.finish({})
    assert read_run(tmp_path / "demo")["value"].tolist() == [0.5]


def test_a_run_with_failed_cells_finishes_and_says_so(tmp_path):
    writer = filled(tmp_path, n=2, upto=1)
    writer.write_cell("c1", [], [], error="boom", seconds=0.0)
    writer.finish({})
    run = open_run(tmp_path / "demo")
    assert run.manifest["cells"]["failed"] == [{"cell": "c1", "error": "boom"}]


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-x", "a" * 101])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(BadInput):
        RunWriter.open(tmp_path, name, SPEC, 1)


def test_a_symlink_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput):
        RunWriter.open(tmp_path / "runs", "demo", SPEC, 1)


def test_another_spec_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(RunError, match="another spec"):
        RunWriter.open(tmp_path, "demo", SPEC | {"n": 2}, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(tmp_path, value):
    writer = RunWriter.open(tmp_path, "demo", SPEC, 1)
    with pytest.raises(BadInput, match="cell c"):
        writer.write_cell("c", [record(0, value=value)], [], seconds=0.0)


@pytest.mark.parametrize("name", ["records.parquet", "losses.parquet", "manifest.json", "spec.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_every_damage_is_a_run_error(tmp_path, name, damage):
    filled(tmp_path).finish({"versions": {}})
    path = tmp_path / "demo" / name
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"broken|manifest|missing|finished"):
        run = open_run(tmp_path / "demo")
        _ = run.records, run.losses
    shown = open_run(tmp_path / "demo", partial=True)
    assert shown.problem or name in ("records.parquet", "losses.parquet")


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_runs import *
from pathlib import Path
w = RunWriter.open(Path({str(tmp_path)!r}), "demo", SPEC, 10**6)
for i in range(10**6):
    w.write_cell(f"c{{i}}", [record(i)], [losses(record(i))], seconds=0.0)
    sys.stdout.write(f"c{{i}}\\n"); sys.stdout.flush()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        acknowledged = [process.stdout.readline().strip() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split("\n")[:-1]
    assert set(acknowledged) <= RunWriter.open(tmp_path, "demo", SPEC, 10**6).done


def test_state_is_running_only_while_a_process_holds_the_run(tmp_path):
    writer = filled(tmp_path, upto=1)
    assert json.loads((tmp_path / "demo" / "status.json").read_text())["state"] == "running"
    assert open_run(tmp_path / "demo", partial=True).state == "running"
    with pytest.raises(RunError, match="by another process"):
        RunWriter.open(tmp_path, "demo", SPEC, 3)
    other = RunWriter.open(tmp_path, "demo", SPEC, 3, worker="1")
    writer.close()
    assert open_run(tmp_path / "demo", partial=True).state == "running"  # the other worker is still there
    other.close()
    # what a kill leaves behind: a status that says it runs, and nobody who does
    assert json.loads((tmp_path / "demo" / "status.json").read_text())["state"] == "running"
    run = open_run(tmp_path / "demo", partial=True)
    assert run.state == "stopped" and run.reason == ""


def test_state_and_reason_of_every_kind_of_run(tmp_path):
    writer = filled(tmp_path, n=3, upto=2)
    writer.fail("the disk is full")
    run = open_run(tmp_path / "demo", partial=True)
    assert (run.state, run.reason) == ("failed", "the disk is full")
    writer = RunWriter.open(tmp_path, "demo", SPEC, 3)
    writer.write_cell("c2", [], [], error="boom", seconds=0.0)
    writer.interrupt()
    run = open_run(tmp_path / "demo", partial=True)
    assert (run.state, run.reason) == ("stopped", "boom")
    RunWriter.open(tmp_path, "demo", SPEC, 3).finish({})
    run = open_run(tmp_path / "demo")
    assert (run.state, run.reason) == ("complete", "boom")
    (tmp_path / "demo" / "records.parquet").unlink()
    run = open_run(tmp_path / "demo", partial=True)
    assert run.state == "damaged" and "records.parquet is missing" in run.reason
    (tmp_path / "other").mkdir()
    assert open_run(tmp_path / "other", partial=True).state == "damaged"


def test_several_runs_in_one_frame_are_told_apart(tmp_path, monkeypatch):
    for name in ("a-1", "a-2", "b-1"):
        writer = RunWriter.open(tmp_path, name, SPEC, 1)
        writer.write_cell("c", [record(0)], [], seconds=0.0)
        writer.finish({})
    RunWriter.open(tmp_path, "half", SPEC, 1)
    both = read_runs(str(tmp_path / "a-*"))
    assert both["run"].tolist() == ["a-1", "a-2"] and both["id"].nunique() == 1
    assert read_run(tmp_path / "b-1")["run"].tolist() == ["b-1"]
    assert read_runs(["a-2", tmp_path / "b-1"], root=tmp_path)["run"].tolist() == ["a-2", "b-1"]
    assert set(both.attrs["manifests"]) == {"a-1", "a-2"}
    with pytest.raises(BadInput, match="two of the runs are named a-1"):
        read_runs(["a-1", tmp_path / "a-1"], root=tmp_path)
    with pytest.raises(BadInput, match="no runs under"):
        read_runs(str(tmp_path / "z-*"))
    with pytest.raises(RunError, match="not finished"):
        read_runs(str(tmp_path / "*"))
    with pytest.raises(BadInput, match="runs a-1, a-2"):
        table("leak_map", both)
    alone = table("leak_map", both[both["run"] == "a-2"])
    assert len(alone) == 1


def test_a_crash_while_finishing_is_finished_later(tmp_path, monkeypatch):
    from probekit.storage import lines, runwriter

    writer = filled(tmp_path)
    real = lines.publish_file

    def dies(path, data):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(runwriter, "publish_file", dies)
    with pytest.raises(KeyboardInterrupt):
        writer.finish({})
    monkeypatch.setattr(runwriter, "publish_file", real)
    writer.close()
    assert "not finished" in open_run(tmp_path / "demo", partial=True).problem
    RunWriter.open(tmp_path, "demo", SPEC, 3).finish({})
    assert len(read_run(tmp_path / "demo")) == 3


def test_finding_and_listing(tmp_path):
    assert list_runs(tmp_path / "none") == []
    filled(tmp_path)
    (tmp_path / "not-a-run").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["demo"]
    assert find_run("latest", tmp_path) == find_run("demo", tmp_path) == tmp_path / "demo"
    with pytest.raises(RunError, match="Did you mean 'demo'"):
        find_run("deno", tmp_path)
    with pytest.raises(RunError, match="no run folder"):
        open_run(tmp_path / "missing")


def test_reading_needs_no_torch(tmp_path):
    filled(tmp_path).finish({})
    code = ("import sys; from probekit.storage.runs import read_run; read_run(sys.argv[1]);"
            "assert not {'torch', 'transformer_lens'} & set(sys.modules)")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "demo")], check=True)


def test_a_name_that_no_path_can_have_is_no_run(tmp_path):
    for name in ("x" * 300, "x" * 5000):
        with pytest.raises(RunError, match="no run '"):
            find_run(name, tmp_path)
        with pytest.raises(RunError, match="no run folder"):
            open_run(name)
        assert list_runs(tmp_path / name) == []


def test_runs_of_a_sweep_are_found_by_name_and_as_the_latest(tmp_path):
    """Beside runs of single jobs; the sweep's folder itself is no run, and says what can be asked of it."""
    from tests.synthetic_run import BEHAVIOURS, DOMAINS, write_run

    write_run(tmp_path, "alone", 1, domains=DOMAINS[:1], behaviours=BEHAVIOURS[:1])
    inside = write_run(tmp_path / "many-0a1b", "first-1c2d", 1, domains=DOMAINS[:1], behaviours=BEHAVIOURS[:1])
    assert list_sweeps(tmp_path) == {"many-0a1b": 1}
    assert find_run("first-1c2d", tmp_path) == inside == find_run("latest", tmp_path)
    with pytest.raises(RunError, match="folder of a sweep of 1 runs: name one of them, such as first-1c2d"):
        find_run("many-0a1b", tmp_path)
    with pytest.raises(RunError, match="Did you mean 'first-1c2d'"):
        find_run("first-1c2", tmp_path)
    assert find_runs("many-0a1b", tmp_path) == [tmp_path / "many-0a1b"]  # no sweep has marked it as its own
