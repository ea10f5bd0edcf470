"""The replace bench at its smallest: all give the same logits, a wrong one stops it, and blocks are counted."""

import json

import pytest
import torch
from typer.testing import CliRunner

from probekit.cli.main import app
from probekit.errors import BadInput, ProbekitError
from probekit.model.loading import load_model
from probekit.proofs.bench import replace
from probekit.proofs.bench.replace import (
    CASES,
    QUICK,
    count_blocks,
    made_interchanges,
    ours,
    replace_bench,
    transformer_lens,
    whole_texts,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the model in it."""
    made = tmp_path_factory.mktemp("bench")
    replace._save(QUICK, made / "model")
    return made


@pytest.mark.filterwarnings("ignore")  # of pyvene's own imports
@pytest.mark.parametrize("case", CASES[:3])
def test_all_give_the_same_logits_and_say_what_they_took(folder, case):
    notes = []
    rows = list(replace_bench(QUICK, folder, case, notes.append))
    peers = ["whole texts, hooks of torch", "pyvene", "TransformerLens intervened_logits"]
    assert [row.peer for row in rows] == (peers if case != "all" else peers[:1])
    assert all(row.gap <= 1e-5 and row.ratio > 0 and row.ours_seconds > 0 for row in rows)
    n, least = QUICK.n_layers, notes[0]["all tokens, at least"]
    assert least == (n + 1) / (2 * n) and rows[0].bound_ratio == pytest.approx(notes[0]["share"] / least)


def test_blocks_are_those_that_whole_texts_run(folder):
    model = load_model(folder / "model")
    problem = made_interchanges(model, QUICK, "all")
    ours(problem)
    columns = sum(problem.padded(batch).numel() for batch in problem.batches)
    edited = sum(problem.padded(text).numel() for text, _ in problem.parts())
    n = QUICK.n_layers
    # donors' texts are run once through all layers, edited ones once for each edited layer
    assert count_blocks(problem, whole_texts) == n * (columns + n * edited)
    # without what is shared below the edited layer: every edit runs the blocks behind its own, the trunk all of them
    runs = sum(n - 1 - layer for layer in range(n)) * edited + 2 * n * columns
    assert count_blocks(problem, ours) == pytest.approx(runs, rel=0.08)
    assert count_blocks(made_interchanges(model, QUICK, "last"), ours) <= count_blocks(problem, ours) / 2


def test_an_edit_is_seen_and_a_wrong_peer_stops_the_bench(folder, monkeypatch):
    model = load_model(folder / "model")
    problem = made_interchanges(model, QUICK, "last")
    found = ours(problem)
    nothing = replace.Interchanges(model, "last", problem.tokens, problem.donors, torch.zeros_like(problem.basis))
    assert float((ours(nothing) - found).abs().max()) > 1e-3  # it is the donors that the logits come from
    monkeypatch.setattr(replace, "transformer_lens", lambda problem: transformer_lens(nothing))
    with pytest.raises(ProbekitError, match="TransformerLens intervened_logits gives logits"):
        list(replace_bench(QUICK, folder, "last", lambda one: None))


def test_a_search_is_held_against_its_own_passes(folder):
    row = next(replace_bench(QUICK, folder, "das", lambda one: None))
    assert row.bound_ratio == pytest.approx(1 / row.ratio) and row.bound_ratio > 0.5 and row.peer_seconds > 0


def test_the_command_has_the_keys_of_every_bench(tmp_path):
    done = CliRunner().invoke(
        app, ["bench", "replace", "--quick", "--case", "all", "--folder", str(tmp_path), "--json"]
    )
    told = json.loads(done.stdout)
    assert set(told["rows"][0]) == {"case", "peer", "ours_seconds", "peer_seconds", "ratio", "gap", "bound_ratio"}
    assert told["blocks"][0]["edited"] == "all" and told["threads"] == 1
    with pytest.raises(BadInput, match="no case 'first' in this bench: last, middle, all, das"):
        next(replace_bench(QUICK, tmp_path, "first", lambda one: None))
