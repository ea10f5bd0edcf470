"""The reading commands over good, unfinished, broken and no runs, and the command that serves the page."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from probekit.cli import dashboard, reading
from probekit.errors import BadInput, ProbekitError
from probekit.records import Record
from probekit.results import claims
from probekit.storage.lines import TOGETHER
from probekit.storage.runs import read_run
from probekit.storage.runwriter import RunWriter
from tests.synthetic_run import BEHAVIOURS, CAUSAL_HOOKS, shared_run, write_causal_run, write_run

app = typer.Typer()
reading.register(app)


def command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


# ------------------------------------------------------------------------------------------------------------ commands


def test_show_json_is_one_object_of_record_rows():
    run = shared_run()
    body = json.loads(command("show", str(run), "--json"))
    assert (body["schema_version"], body["command"], body["ok"]) == (1, "show", True)
    made = body["rows"][0]
    fields = {name: value for name, value in made.items() if name not in ("id", "seed", *TOGETHER)}
    # The run is told on reading: a record's name does not depend on the folder that it lies in.
    stored = Record(**(fields | {"run": ""})).row() | {"run": run.name}
    assert stored == {name: value for name, value in made.items() if name not in TOGETHER}
    assert any(row["band_low"] is not None and row["p_max"] == 0.005 for row in body["rows"])
    assert len(body["rows"]) == len(read_run(run))


def test_ls_lists_all_states(tmp_path):
    assert "probekit run SPEC" in command("ls", str(tmp_path))
    write_run(tmp_path, "good", 2, domains=("random",))
    write_run(tmp_path, "half", 2, finish=False, domains=("random",))
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / "losses.parquet").unlink()
    states = {row["run"]: row["state"] for row in json.loads(command("ls", str(tmp_path), "--json"))["rows"]}
    assert states == {"good": "complete", "half": "stopped", "bad": "damaged"}
    assert "good" in command("ls", str(tmp_path))
    body = json.loads(command("show", "half", "--runs", str(tmp_path), "--json", code=2))
    assert not body["ok"] and "not finished" in body["error"] and body["rows"] == []
    partial = json.loads(command("show", "half", "--runs", str(tmp_path), "--partial", "--json"))
    assert partial["rows"] and partial["problem"]


def test_ls_says_why_a_run_failed(tmp_path):
    write_run(tmp_path, "good", 2, domains=("random",))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{")
    refused = RunWriter.open(tmp_path, "refused", {"name": "refused"}, 4)
    refused.fail("every behaviour has one outcome in all of the rows that were given; so there is nothing to explain.")
    holes = RunWriter.open(tmp_path, "holes", {"name": "holes"}, 4)
    for cell in "ab":
        holes.write_cell(cell, [], [], error=f"read {cell}: FitError: no end", seconds=0.0)
    told = {row["run"]: row["reason"] for row in json.loads(command("ls", str(tmp_path), "--json"))["rows"]}
    assert told["good"] == "" and "bad is broken" in told["bad"].replace("/manifest.json", "")
    assert told["refused"].startswith("every behaviour has one") and told["refused"].endswith("to explain.")
    assert told["holes"] == "read a: FitError: no end (1 more)"
    shown = " ".join(command("ls", str(tmp_path)).split())
    assert "every" in shown and "to explain" not in shown


def test_show_and_figure(tmp_path):
    run = str(shared_run())
    assert "0 explains all" in command("show", run) and ".0" in command("show", run, "--table", "floor_switch")
    assert command("show", run, "--csv").startswith("behaviour,")
    out = tmp_path / "f.html"
    assert (
        command("figure", "frontier", run, "--out", str(out), "--dark").strip() == str(out)
        and out.stat().st_size > 10**6
    )
    body = json.loads(command("figure", "fronteer", run, "--json", code=2))
    assert "Did you mean 'frontier'" in body["error"]
    result = CliRunner().invoke(app, ["figure", "frontier", run, "--out", str(tmp_path / "none" / "f.html")])
    assert isinstance(result.exception, ProbekitError)


def test_the_dashboard_listens_on_this_machine_only():
    row = json.loads(command("dashboard", "runs", "--port", "8765", "--json"))["rows"][0]
    assert {"--server.address=127.0.0.1", "--browser.gatherUsageStats=false", "--server.fileWatcherType=none",
            "--server.allowedHosts=localhost", "--client.toolbarMode=viewer",
            "--client.showErrorLinks=false"} <= set(row["command"])  # fmt: skip
    with pytest.raises(BadInput, match="--unsafe-expose"):
        dashboard.dashboard_command(Path("runs"), 8501, False, "0.0.0.0")
    exposed, _ = dashboard.dashboard_command(Path("runs"), 8501, False, "0.0.0.0", unsafe_expose=True)
    assert "--server.address=0.0.0.0" in exposed


def test_help_loads_nothing_heavy():
    code = ("import sys, typer; from probekit.cli.reading import register; register(typer.Typer());"
            "print(sorted({'pandas', 'plotly', 'streamlit', 'torch', 'numpy'} & set(sys.modules)))")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_judge_says_in_a_line_each_which_claims_do_not_fit(monkeypatch):
    used = claims.Claim("is used", (claims.Need(name="kept", metric="replace", arm="random"),))
    monkeypatch.setitem(claims.CLAIMS, "is used", used)
    given = ["judge", str(shared_run()), "--level", "direction"]
    shown = " ".join(command(*given).split())
    assert "is used: " in shown
    told = shown.split("' is left out")
    assert [words.split("'")[-1] for words in told[:-1]] == ["predicts in distribution", "predicts the unseen"]
    assert all("say which source the claim is about." in words for words in told[1:])
    body = json.loads(command(*given, "--json"))
    assert body["ok"] and list(body["left_out"]) == ["predicts in distribution", "predicts the unseen"]
    assert {row["claim"] for row in body["rows"]} == {"is used", "the model uses it"}
    one = json.loads(command(*given, "--claim", "predicts the unseen", "--json", code=2))
    assert (one["ok"], one["error"]) == (False, body["left_out"]["predicts the unseen"])
    assert json.loads(command(*given, "--source", "logistic", "--json"))["rows"]


def test_a_claim_at_a_named_place_asks_nothing_of_the_selected_one(tmp_path, monkeypatch):
    used = claims.Claim("is used", (claims.Need(name="kept", metric="replace", arm="random"),))
    monkeypatch.setitem(claims.CLAIMS, "is used", used)
    at = {"behaviour": "b", "fit_domain": "all", "test_domain": "all", "n": 400, "groups": 100}
    figures = {"value": 0.02, "low": 0.01, "high": 0.03, "bits": 0.02, "floor_bits": 1.0, "ceiling_bits": 0.0}
    at |= figures | {"level": "directions", "source": "pca", "k": 4}
    writer = RunWriter.open(tmp_path, "chain", {"name": "chain"}, 1)
    writer.write_cell("c", [Record(metric="replace", arm="chain:random", **at)], [], seconds=0.0)
    writer.finish({})
    given = ["chain", "--runs", str(tmp_path), "--level", "directions", "--json"]
    told = json.loads(command("judge", *given, "--hook", "", "--claim", "is used"))
    assert (told["hook"], told["rows"][0]["verdict"]) == ("", "passed")
    assert "no level" in json.loads(command("judge", *given, code=2))["error"]


def test_show_prints_what_was_steered_at_one_site(tmp_path):
    write_causal_run(tmp_path)
    at = ["causal", "--runs", str(tmp_path), "--metric", "steer"]
    assert command("show", *at).startswith("answer at L7 resid_post")
    assert command("show", *at, "--hook", CAUSAL_HOOKS[2]).startswith("answer at L11 resid_post")
    assert len(command("show", *at, "--csv").splitlines()) == 1 + 3 * 3 * 6
    said = command("show", str(shared_run()), "--metric", "steer", "--behaviour", BEHAVIOURS[0], "--hook", "")
    assert "resid_post" in said
