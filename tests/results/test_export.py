"""Runs for other tools, read again by those tools' own libraries."""

import json
import shutil
import struct
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import probekit as pk
import synthetic_run
from probekit.cli.main import app
from probekit.errors import BadInput, MissingExtra, RunError
from probekit.results.export import FILE_STORE, export
from probekit.results.tables import leak_map

RUN = synthetic_run.shared_run()


def linear():
    """What the first behaviour leaves unexplained, by site, from the table that people read."""
    rows = leak_map(pk.read_run(RUN), behaviour="next_move", domain="random")
    return rows.loc[rows["label"] == "linear", "value"].tolist()


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep: two runs that are whole, one that is damaged, and a note of one that failed."""
    folder = tmp_path / "runs" / "swept-0123abcd"
    for name in ("one", "two", "three"):
        shutil.copytree(RUN, folder / name)
    (folder / "sweep.json").write_text("{}")
    (folder / "failed-four.json").write_text("{}")
    (folder / "three" / "records.parquet").write_bytes(b"")
    return folder


def test_a_sweep_is_one_frame_and_what_is_damaged_is_left_out_by_name_only(sweep, monkeypatch):
    with pytest.raises(RunError, match="three is broken: records.parquet has 0 bytes"):
        pk.read_runs(f"{sweep}/*")
    monkeypatch.chdir(sweep.parent.parent)
    one = pk.read_run(sweep / "one")
    for asked in (f"{sweep}/*", "runs/*", sweep, "swept-0123abcd", ["swept-*"]):
        frame = pk.read_runs(asked, unfinished="drop")
        assert len(frame) == 2 * len(one) and set(frame.attrs["manifests"]) == {"one", "two"}
        assert list(frame.attrs["left_out"]) == ["three"] and "is broken" in frame.attrs["left_out"]["three"]
    with pytest.raises(RunError, match="none of 1 runs is complete; the first: .*three is broken"):
        pk.read_runs(sweep / "three", unfinished="drop")
    with pytest.raises(BadInput, match="say refuse, or drop"):
        pk.read_runs(sweep, unfinished="skip")


def test_tables_are_the_frame(sweep, tmp_path):
    runs = [pk.open_run(sweep / name) for name in ("one", "two")]
    frame = pk.read_runs([sweep / "one", sweep / "two"])
    export(runs, "parquet", tmp_path / "a.parquet")
    export(runs, "csv", tmp_path / "a.csv")
    found = pd.read_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    text = pd.read_csv(tmp_path / "a.csv")
    assert text["value"].tolist() == pytest.approx(frame["value"].tolist(), nan_ok=True)
    assert list(text["run"].unique()) == list(frame["run"].unique())


def blocks(data, size=32_768):
    """The messages in a log of wandb, whose newer versions have no reader in Python: LevelDB's format of logs."""
    at, whole = 7, b""  # behind ":W&B" and a version
    while at + 7 <= len(data):
        if size - at % size < 7:
            at += size - at % size
            continue
        _, n, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + n]
        at += 7 + n
        if kind in (1, 4):  # whole, or the last part of one
            yield whole
            whole = b""


def test_wandb_reads_what_was_exported(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    (made,) = export([pk.open_run(RUN)], "wandb", tmp_path / "w")
    assert made.name.startswith("offline-run-") and made.parent == tmp_path / "w" / "wandb"
    history, config = [], {}
    for data in blocks(next(made.glob("*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            told = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            history.append(told)
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
    assert [row["next_move/random/linear"] for row in history if "next_move/random/linear" in row] == linear()
    assert config["task"]["testbed"] == "othello" and config["run"] == "synthetic"
    assert len(pd.read_csv(made / "files" / "records.csv")) == len(pk.read_run(RUN))


def test_mlflow_reads_what_was_exported(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    (made,) = export([pk.open_run(RUN)], "mlflow", tmp_path / "m")
    export([pk.open_run(RUN)], "mlflow", tmp_path / "m")  # into the same experiment
    monkeypatch.setenv(FILE_STORE, "true")
    client = MlflowClient(tracking_uri=(tmp_path / "m").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "probekit"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 and {one.info.run_name for one in runs} == {"synthetic"}
    told = client.get_metric_history(made.name, "next_move/random/linear")
    assert [one.value for one in sorted(told, key=lambda one: one.step)] == pytest.approx(linear())
    assert runs[0].data.params["task.testbed"] == "othello" and runs[0].info.status == "FINISHED"
    assert (made / "artifacts" / "records.csv").read_text().startswith("id,run,")


def test_what_cannot_be_exported_is_one_sentence(sweep, tmp_path, monkeypatch):
    run = pk.open_run(RUN)
    with pytest.raises(BadInput, match="exported to csv, parquet, wandb, mlflow; found 'json'"):
        export([run], "json", tmp_path / "x")
    with pytest.raises(BadInput, match="no run to be exported"):
        export([], "csv", tmp_path / "x")
    with pytest.raises(BadInput, match="cannot be written: No such file or directory"):
        export([run], "csv", tmp_path / "nowhere" / "x.csv")
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            MissingExtra, match=f"--to {name} takes a package that is not installed: pip install {name}"
        ):
            export([run], name, tmp_path / name)


def test_the_command(sweep, monkeypatch):
    monkeypatch.chdir(sweep.parent.parent)

    def call(*words, code=0):
        found = CliRunner().invoke(app, ["export", *words], env={"COLUMNS": "80"})
        assert found.exit_code == code, found.output + str(found.exception)
        return found

    assert "three is broken" in str(call("swept-*", "--to", "csv", code=1).exception)
    found = call("swept-*", "--to", "csv", "--drop")
    assert found.stdout == "runs.csv\n" and "2 runs, " in found.stderr and "left out: three" in found.stderr
    told = json.loads(call("runs/*", "--to", "parquet", "-o", "all.parquet", "--drop", "--json").stdout)
    assert told["rows"] == [{"path": "all.parquet"}] and told["runs"] == ["one", "two"] and "three" in told["left_out"]
