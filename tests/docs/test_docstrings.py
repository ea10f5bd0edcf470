"""Every public name says what it takes and shows it in use; the examples run."""

import doctest
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import probekit as pk
import synthetic_run
from probekit.testbeds.othello.task import write_games

NAMES = [name for name in pk.__all__ if name != "CLAIMS"]  # a mapping; Claim shows it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where examples run: games.csv, a finished run at runs/othello, and requests in captures, the second one's rows
    in the third."""
    base = tmp_path_factory.mktemp("examples")
    (base / "runs").mkdir()
    (base / "runs" / "othello").symlink_to(synthetic_run.shared_run().resolve(), target_is_directory=True)
    write_games(base / "games.csv", 30)
    model, games = pk.load_model("othello-6x6"), pk.load_task("othello-6x6", n_examples=3).tokens
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    rows = [torch.stack(list(model.read([game], hooks, [np.arange(len(game))]).values()), 1) for game in games]
    (base / "captures").mkdir()
    for i, held in enumerate([rows[0], rows[1], rows[1]]):
        ids = torch.from_numpy(np.asarray(games[i], dtype=np.int64))
        save_file({"token_ids": ids, "hidden_states": held[: len(ids)]}, base / "captures" / f"r{i}.safetensors")
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
