"""Every public name says what it takes and shows it in use; the examples run."""

import doctest
import inspect
from pathlib import Path

import pytest

import probekit as pk
import synthetic_run
from probekit.testbeds.othello.task import write_games

NAMES = [name for name in pk.__all__ if name != "CLAIMS"]  # a mapping; Claim shows it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where examples run: games.csv, and a finished run at runs/othello."""
    base = tmp_path_factory.mktemp("examples")
    (base / "runs").mkdir()
    (base / "runs" / "othello").symlink_to(synthetic_run.shared_run().resolve(), target_is_directory=True)
    write_games(base / "games.csv", 30)
    return Path(base)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_runs(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    value = inspect.unwrap(getattr(pk, name))
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, name, None, None)
    assert examples.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert not said, "".join(said)
