"""What every command prints with: nothing wider than COLUMNS, time left of a phase, lines without a terminal."""

import json
import os
import subprocess
import sys

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from probekit.cli.out import console, plain_table, reporting
from probekit.errors import BadInput, OutOfTime
from probekit.jobs.progress import Phase, progress, time_left
from probekit.results.text import rendered


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.text(max_size=60), min_size=5, max_size=5), min_size=1, max_size=4),
    width=st.integers(60, 160),
)
def test_no_line_of_a_table_is_wider_than_the_terminal(rows, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        text = rendered(plain_table(("run", "state", "cells", "updated", "what"), rows), width)
    assert all(cell_len(line) <= width for line in text.split("\n"))


def test_what_fits_stays_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = plain_table(("hooks", "levels"), [("blocks.*.hook_resid_post", "prior, baseline, " * 9)])
    assert "blocks.*.hook_resid_post " in rendered(table, 80)


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("47", 47), (None, 80)])
def test_the_width_is_that_of_columns_and_80_without_a_terminal(monkeypatch, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width or columns is None  # tests may run on a terminal


def test_time_left_is_of_the_phase_and_not_of_what_came_before():
    now = [0.0]
    phase = Phase(lambda: now[0])
    assert phase.tell(0, 100) == (True, None)
    now[0] = 10
    assert phase.tell(50, 100) == (False, 10.0)
    now[0] = 1_000  # another capture over as many tokens
    assert phase.tell(0, 100) == (True, None)
    now[0] = 1_001
    assert phase.tell(10, 100) == (False, pytest.approx(9.0))
    assert phase.tell(3, 7)[0], "another total is another phase"
    now[0] = 1_005
    assert phase.tell(5, 7) == (False, pytest.approx(4.0)), "what was done before the phase was heard of is no rate"


def test_time_in_words():
    assert [time_left(s) for s in (4.2, 89, 125, 5400, 7500)] == ["4 s", "89 s", "2 min", "1 h 30 min", "2 h 5 min"]


def test_lines_are_few_fit_and_say_what_the_runner_knows(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with progress() as say:
        for i in range(100):
            say("read a behaviour with a name that goes on and on at blocks.11.hook_resid_post\n", i, 100, 300.0)
        say("done", 100, 100, None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "the first and the last: ten seconds have not gone by"
    assert "(0/100, about 5 min left)" in lines[0] and "…" in lines[0] and all(len(line) <= 80 for line in lines)
    assert "done" in lines[1] and "left" not in lines[1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_letters_of_a_name_stops_nothing(tmp_path, encoding):
    name = "véracité — 真実"
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"a,{i % 2}\n" for i in range(30)), encoding="utf-8")
    (tmp_path / "job.toml").write_text(
        'name = "job"\n[model]\nname = "some/model"\n[task]\nfile = "d.csv"\ntext = "text"\n'
        f'behaviours = [{{ name = "{name}", kind = "label", column = "label" }}]\n',
        encoding="utf-8",
    )
    told = {}
    for more in ([], ["--json"]):
        command = [sys.executable, "-c", "from probekit.cli.main import main; main()", "plan", "job.toml", *more]
        machine = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "200"}
        done = subprocess.run(command, cwd=tmp_path, env=machine, capture_output=True)
        assert done.returncode == 0, done.stderr
        told[bool(more)] = done.stdout.decode(encoding)
    assert json.loads(told[True])["rows"][0]["what"] == name
    assert name.encode(encoding, errors="replace").decode(encoding) in told[False]


@pytest.mark.parametrize(("error", "resumes"), [(OutOfTime("stopped."), True), (BadInput("no."), False)])
def test_json_of_what_was_stopped_has_the_command_that_goes_on(error, resumes, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["anything", "run", "my sweep.toml", "--json"])
    with pytest.raises(typer.Exit), reporting("run", True):
        raise error
    told = json.loads(capsys.readouterr().out)
    assert told.get("resume") == ("probekit run 'my sweep.toml' --json" if resumes else None)
    assert told["error"] == str(error) and told["ok"] is False
