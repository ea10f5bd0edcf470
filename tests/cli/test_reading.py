"""Commands that read runs: what they print fits the terminal, and the headline comes first."""

import json
import sys

import pytest
from rich.cells import cell_len

from probekit.cli import main
from probekit.results import examples, tables
from rows_by_hand import write_rows_by_hand
from synthetic_run import write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, "a-run-with-a-name-that-is-as-long-as-names-of-jobs-get-1a2b3c4d", 12)
    write_run(folder, "half", finish=False)
    write_rows_by_hand(folder, "rows")
    return folder


@pytest.fixture
def printed(monkeypatch, capsys):
    def run(*words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["probekit", *map(str, words)])
        with pytest.raises(SystemExit) as stop:  # typer always ends so
            main.main()
        assert not stop.value.code
        return capsys.readouterr().out.splitlines()

    return run


LONG = "a-run-with-a-name-that-is-as-long-as-names-of-jobs-get-1a2b3c4d"
SHOWN = [
    [], ["--intervals"], ["--wide"], ["--metric", "replace"], ["--metric", "replace", "--arm", "random", "--intervals"],
    ["--behaviour", "pass_or_play"], ["--k", "all"],
]  # fmt: skip


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("words", SHOWN + [["--table", kind] for kind in tables.KINDS])
def test_nothing_that_show_prints_is_wider_than_the_terminal(root, printed, words, columns):
    lines = printed("show", LONG, "--runs", root, *words, columns=columns)
    assert lines and max(map(cell_len, lines)) <= columns


@pytest.mark.parametrize("words", [["ls"], ["judge", LONG, "--runs"]])
def test_neither_is_what_the_others_print(root, printed, words):
    lines = printed(*words, root)
    assert lines and max(map(cell_len, lines)) <= 80


def test_the_headline_comes_first_and_replace_has_its_map(root, printed):
    lines = printed("show", LONG, "--runs", root)
    assert lines[0].startswith("next_move of othello, 2,000 test rows of 400 groups (random):")
    assert any(line.startswith("L11 resid_post*") for line in lines)
    kept = "\n".join(printed("show", LONG, "--runs", root, "--metric", "replace"))
    assert "matched" in kept and "all sites" in kept and "random" in kept and "holds nothing" not in kept


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("kind", examples.KINDS)
def test_single_rows_are_printed_in_words(root, printed, kind, columns):
    lines = printed("show", "rows", "--runs", root, "--table", kind, columns=columns)
    assert lines[0].startswith("rows: ") and max(map(cell_len, lines)) <= columns


def test_single_rows_are_given_to_programs_as_they_are(root, printed):
    (line,) = printed("show", "rows", "--runs", root, "--table", "counterexamples", "--level", "directions", "--json")
    told = json.loads(line)
    assert (told["ok"], told["run"], told["table"], len(told["rows"])) == (True, "rows", "counterexamples", 1)
    assert told["rows"][0]["law_a"] == [0.98, 0.02] and told["rows"][0]["text_a"] == "[red] car"
    lines = printed("show", "rows", "--runs", root, "--table", "examples", "--most", "3", "--csv")
    assert len(lines) == 4 and lines[0].startswith("hook,behaviour,rule,level")


def test_what_is_of_single_rows_is_not_taken_for_the_map(root, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["probekit", "show", "rows", "--runs", str(root), "--level", "linear"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2 and "give --table as well" in " ".join(capsys.readouterr().err.split())
