"""The README's code runs as it stands and prints what it says."""

import re
import tomllib
from pathlib import Path

import pytest

from probekit.spec import JobSpec
from probekit.testbeds.othello.task import write_games

README = (Path(__file__).parents[2] / "README.md").read_text()
SCRIPTS = re.findall(r"```python\n(.*?)```", README, re.S)
PRINTED = re.findall(r"<!-- printed by the script above -->\n```\n(.*?)```", README, re.S)
JOBS = re.findall(r"```toml\n(.*?)```", README, re.S)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a script of the README in an empty folder; returns its names and what it printed."""

    def run(script: str) -> tuple[dict, str]:
        monkeypatch.chdir(tmp_path)
        names: dict = {}
        exec(compile(script, "README.md", "exec"), names)
        return names, capsys.readouterr().out

    return run


def same(printed: str, said: str, tolerance: float = 0.03) -> bool:
    """Whether two tables have the same words and nearly the same numbers, which rounding elsewhere may move."""

    def number(word: str) -> float | None:
        return float(word) if re.fullmatch(r"-?\d+\.\d+", word) else None

    rows, told = ([line.split() for line in text.strip().splitlines()] for text in (printed, said))
    if [len(row) for row in rows] != [len(row) for row in told]:
        return False
    pairs = [(a, b) for row, other in zip(rows, told, strict=True) for a, b in zip(row, other, strict=True)]
    numbers = [(number(a), number(b), a == b) for a, b in pairs]
    return all(equal if x is None or y is None else abs(x - y) <= tolerance for x, y, equal in numbers)


def test_tables_are_told_apart():
    assert same("a b\nx 0.501", "a  b\n x  0.499")
    assert not same("a b\nx 0.60", "a b\nx 0.50")
    assert not same("a b\ny 0.50", "a b\nx 0.50")


def test_a_file_of_ones_own(run, tmp_path):
    """Two of the layers, on fewer games."""
    assert len(SCRIPTS[0].strip().splitlines()) <= 5
    write_games(tmp_path / "games.csv", 1_200)
    lean = 'progress=False, hooks=("blocks.[03].hook_resid_post",), n_permutations=0, falls=False'
    names, printed = run(SCRIPTS[0].replace("progress=False", lean))
    said = [line for line in PRINTED[0].splitlines() if line.startswith(("L", " "))]
    assert [line.split()[:2] for line in said[2:4]] == [["L0", "resid_post"], ["L1", "resid_post"]]
    assert "linear" in said[0].split() and "AUROC" in said[0].split() and "AUROC" in printed
    first, middle = names["found"].frame["value"]
    assert middle < first - 0.1


@pytest.mark.slow
def test_a_file_of_ones_own_prints_what_is_said(run, tmp_path):
    write_games(tmp_path / "games.csv", 2_000)
    _, printed = run(SCRIPTS[0])
    assert same(printed, PRINTED[0]), printed


def test_arrays_of_ones_own(run):
    names, printed = run(SCRIPTS[1])
    assert same(printed, PRINTED[1]), printed
    values = names["leak"].set_index("level")["value"]
    assert values["linear"] > 0.95 and values["simple:two_thresholds"] < 0.05


def test_the_job_is_valid():
    spec = JobSpec.check(tomllib.loads(JOBS[0]), "README.md")
    assert (spec.task.source, spec.task.group) == ("template", "country")
