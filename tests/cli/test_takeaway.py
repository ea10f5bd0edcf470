"""Commands that set runs side by side and write what is taken away."""

import json

import pytest
from typer.testing import CliRunner

import synthetic_run
from probekit.cli.main import app
from probekit.errors import BadInput, ProbekitError

RUNS = ["--runs", str(synthetic_run.shared_run().parent)]


def call(*words, code=0):
    found = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "80"})
    assert found.exit_code == code, found.output + str(found.exception)
    return found.output


def test_two_runs_are_compared_at_eighty_columns():
    said = call("compare", "synthetic", "synthetic", *RUNS)
    assert "cells of both are equal, number for number" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80
    assert len(call("compare", "synthetic", "synthetic", "--wide", *RUNS).splitlines()) > len(said.splitlines())


def test_a_comparison_as_json_and_csv():
    told = json.loads(call("compare", "synthetic", "synthetic", "--json", *RUNS))
    assert told["ok"] and told["a"] == told["b"] == "synthetic"
    assert {row["verdict"] for row in told["rows"]} == {"equal"}
    assert {row["what"] for row in told["comparable"]} >= {"model", "data", "floor"}
    lines = call("compare", "synthetic", "synthetic", "--csv", *RUNS).splitlines()
    assert lines[0].startswith("site,label") and len(lines) == 1 + len(told["rows"])


def test_three_runs_stand_side_by_side(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).symlink_to(synthetic_run.shared_run().resolve(), target_is_directory=True)
    said = call("compare", "one", "two", "three", "--runs", tmp_path)
    assert "better, - worse than" in said and ".02=" in said
    table = json.loads(call("compare", "one", "two", "three", "--json", "--runs", tmp_path))
    assert table["runs"] == ["one", "two", "three"] == list(dict.fromkeys(row["run"] for row in table["rows"]))
    again = CliRunner().invoke(app, ["compare", "one", "two", "one", "--runs", str(tmp_path)])
    assert "two of the runs are named one" in str(again.exception)


def test_one_run_is_nothing_to_compare():
    found = CliRunner().invoke(app, ["compare", "synthetic", *RUNS])
    assert isinstance(found.exception, BadInput) and "from two on" in str(found.exception)
    with pytest.raises(BadInput, match="--k is a number"):
        raise CliRunner().invoke(app, ["compare", "synthetic", "synthetic", "--k", "x", *RUNS]).exception


def test_a_report_a_card_and_a_bundle_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("report", "synthetic", *RUNS).strip() == "synthetic.html"
    assert (tmp_path / "synthetic.html").read_text().startswith("<!doctype html>")
    told = json.loads(call("report", "synthetic", "--out", "b.html", "--compare", "synthetic", "--json", *RUNS))
    assert told["rows"] == [{"path": "b.html", "bytes": (tmp_path / "b.html").stat().st_size}]
    assert "Beside another run" in (tmp_path / "b.html").read_text()
    assert call("card", "synthetic", *RUNS).strip() == "synthetic-card.json"
    assert json.loads((tmp_path / "synthetic-card.json").read_text())["run"] == "synthetic"
    call("card", "synthetic", "-o", "card.html", *RUNS)
    assert "How far to trust it" in (tmp_path / "card.html").read_text()
    made = call("bundle", "syn*", "-o", "site", *RUNS).split()
    assert "site/index.html" in made and all((tmp_path / name).is_file() for name in made)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "nothing"], "no run 'nothing'"),
        (["report", "synthetic", "--behaviour", "next_mov"], "Did you mean 'next_move'"),
        (["report", "synthetic", "--reported", "gone.toml"], "gone.toml cannot be read"),
        (["report", "synthetic", "--out", "no/folder/x.html"], "cannot be written"),
        (["card", "synthetic", "--out", "card.pdf"], ".json or .html"),
        (["bundle", "zzz*"], "a name each; found none"),
    ],
)
def test_a_mistake_is_one_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, [*words, *RUNS])
    assert isinstance(found.exception, ProbekitError) and said in str(found.exception)
