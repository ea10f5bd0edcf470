"""A view as code: what it makes is what was looked at."""

import shlex

import pandas as pd
import pytest
from typer.testing import CliRunner

import probekit as pk
import synthetic_run
from probekit.cli.main import app
from probekit.errors import BadInput
from probekit.results.report.code import View
from probekit.results.text import to_csv
from rows_by_hand import write_rows_by_hand

RUN = str(synthetic_run.shared_run())
CHOSEN = [
    ("leak_map", {"behaviour": "pass_or_play", "k": 8, "domain": "endgame"}),
    ("leak_map", {"behaviour": None, "k": "all"}),
    ("layer_curves", {"level": "linear", "behaviour": "next_move"}),
    ("frontier", {"arm": "single:random", "hook": "blocks.2.hook_resid_post"}),
    ("decomposition", {"arm": "simple_first"}),
]


def made_by(python):
    """What lines of Python leave behind as `made`."""
    names: dict = {}
    exec(compile(python, "view", "exec"), names)
    return names["made"]


def printed_by(command):
    words = shlex.split(command)
    assert words[0] == "probekit"
    found = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


@pytest.mark.parametrize(("kind", "chosen"), CHOSEN)
def test_a_table_is_made_again(kind, chosen):
    view = View("table", kind, RUN, chosen)
    given = {name: value for name, value in chosen.items() if value is not None}
    looked_at = pk.table(kind, pk.open_run(RUN).records, **given)
    pd.testing.assert_frame_equal(made_by(view.python()), looked_at)
    assert printed_by(view.command()) == to_csv(looked_at)


@pytest.mark.parametrize("template", ["light", "dark"])
def test_a_figure_is_made_again(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view = View("figure", "leak_map", RUN, {"behaviour": "pass_or_play", "k": 4}, template=template)
    looked_at = pk.figure("leak_map", pk.open_run(RUN).records, behaviour="pass_or_play", k=4, template=template)
    assert made_by(view.python()).to_json() == looked_at.to_json()
    path = printed_by(view.command()).strip()
    assert "pass or play" in (tmp_path / path).read_text() and ("--dark" in view.command()) == (template == "dark")


def test_rows_are_made_again(tmp_path):
    write_rows_by_hand(tmp_path, "rows")
    view = View("table", "examples", str(tmp_path / "rows"), {"behaviour": "answer", "most": 3})
    looked_at = pk.table("examples", pk.open_run(tmp_path / "rows"), behaviour="answer", most=3)
    pd.testing.assert_frame_equal(made_by(view.python()), looked_at)
    assert printed_by(view.command()) == to_csv(looked_at)


def test_a_comparison_is_made_again():
    view = View("comparison", "", RUN, {"behaviour": "next_move", "k": 4, "most": 0}, other=RUN)
    assert set(made_by(view.python()).cells["verdict"]) == {"equal"}
    assert "equal, number for number" in " ".join(printed_by(view.command()).split())


@pytest.mark.parametrize("name", ["a b", "--csv", "'); import os; ('", "$(touch x)", "a\nb", '"', "näme"])
def test_a_name_is_never_code(name):
    """Quoted where it stands: no option, no command, no Python."""
    view = View("table", "leak_map", f"runs/{name}", {"behaviour": name})
    words = shlex.split(view.command())
    assert words[2] == name
    assert f"--behaviour={name}" in words
    calls: list[tuple] = []

    class Kit:
        def open_run(self, path):
            calls.append(("open_run", path))
            return type("Run", (), {"records": "records"})()

        def table(self, kind, records, **chosen):
            calls.append(("table", kind, records, chosen))

    lines = view.python().replace("import probekit as pk\n", "")
    exec(compile(lines, "view", "exec"), {"pk": Kit()})
    assert calls == [("open_run", f"runs/{name}"), ("table", "leak_map", "records", {"behaviour": name})]


def test_what_a_command_cannot_say_is_one_sentence():
    with pytest.raises(BadInput, match="no option for floor"):
        View("table", "leak_map", RUN, {"floor": "weak"}).command()
