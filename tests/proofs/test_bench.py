"""The fit bench: it runs, every row has the same keys, and peers agree. Time is never asserted."""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from probekit.cli.main import app
from probekit.errors import ProbekitError
from probekit.proofs.bench import Row
from probekit.proofs.bench.fit import QUICK, fit_bench
from probekit.proofs.bench.peers import Namesake, ours, scikit_learn
from probekit.proofs.bench.problems import Problem, drawn

KEYS = {"case", "peer", "ours_seconds", "peer_seconds", "ratio", "gap", "bound_ratio"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Rows of the quick bench, and what it said was left out."""
    said: list[str] = []
    return list(fit_bench(QUICK, tmp_path_factory.mktemp("peers"), False, said.append)), said


def test_rows_are_complete_and_agree(bench):
    rows, said = bench
    assert all(set(row.row()) == KEYS for row in rows)
    peers = {(row.case.split(",")[0], row.peer) for row in rows}
    assert len(peers) == len(rows) == 15
    for row in rows:
        assert min(row.ours_seconds, row.peer_seconds, row.ratio, row.bound_ratio) > 0
        # Adam does not converge everywhere, nor does scikit-learn in float32 on raw rows; the others do.
        if row.peer.startswith("linear level"):
            assert row.gap == 0, "the same number, whatever is measured beside it"
        if row.case.startswith("few rows"):
            assert row.gap < 0.4, "readers of a hundred rows, ours calibrated"
        elif "LogisticRegressionCV" in row.peer:
            assert row.gap < 0.02, "ridges of other coordinates"
        elif row.peer != "torch Adam" and not (row.peer == "scikit-learn" and "3 classes" in row.case):
            assert row.gap < 2e-3, row
    assert any("PyPI" in text and "not installed" in text for text in said)
    assert any(text.startswith("transformer_lens") and "binary" in text for text in said)


def test_the_command_prints_rows_of_the_same_keys(monkeypatch, tmp_path):
    row = Row("case", "peer", 1.0, 2.0, 2.0, 0.0, 3.0)
    monkeypatch.setattr("probekit.proofs.bench.fit.fit_bench", lambda *_: iter([row]))
    runner = CliRunner()
    found = json.loads(runner.invoke(app, ["bench", "fit", "--quick", "--json", "--cache", str(tmp_path)]).stdout)
    assert found["command"] == "bench fit"
    assert [set(one) for one in found["rows"]] == [KEYS]
    assert "x bound" in runner.invoke(app, ["bench", "fit", "--quick"]).stdout


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """Rows and peaks of the quick capture bench, by case."""
    from probekit.proofs.bench.capture import CASES, QUICK, capture_bench

    folder, said = tmp_path_factory.mktemp("capture"), []
    rows = {case: list(capture_bench(QUICK, folder, case, lambda *note: said.append(note)))
            for case in CASES if case != "memory"}  # fmt: skip
    return rows, folder, said


def test_captures_are_beside_their_peers(captured):
    rows, folder, said = captured
    assert {case: len(found) for case, found in rows.items()} == {"all": 4, "bridge": 3, "last": 3, "stop": 9}
    for row in [row for found in rows.values() for row in found]:
        assert set(row.row()) == KEYS
        assert min(row.ours_seconds, row.peer_seconds, row.ratio, row.bound_ratio) > 0
    block, peer, whole, once = rows["all"]
    assert block.gap == 0 and 0 < peer.gap < 1e-5, "the same numbers, by another forward"
    assert whole.ours_seconds > once.ours_seconds and whole.peer_seconds == once.peer_seconds
    found = [took for kind, took in said if kind == "blocks"]
    assert len(found) == len(said) == 6 * 6 and not (folder / "store").exists(), "six captures in six blocks each"
    theirs = [took["bare forward, hf"]["seconds"] for took in found[:6]]
    assert block.peer_seconds == statistics.median(theirs) and whole.peer_seconds == sum(theirs)


def test_captures_and_others_take_turns(monkeypatch):
    """Each goes first in half of the pairs; no block has what is done once or a pause; the writer's work is ours."""
    from probekit.proofs.bench import capture as room

    wall, thread, process, order = [0.0], [0.0], [0.0], []

    def passes(seconds, own, all_threads):
        wall[0], thread[0], process[0] = wall[0] + seconds, thread[0] + own, process[0] + all_threads

    clock = SimpleNamespace(
        perf_counter=lambda: wall[0], thread_time=lambda: thread[0], process_time=lambda: process[0]
    )
    monkeypatch.setattr(room, "time", clock)

    def other(name, seconds):
        def run(part):
            order.append(f"{name} {len(part.tokens)}")
            passes(seconds, seconds, seconds + 0.5)  # half a second of the writer's beside it

        return run

    def work(shard_rows, progress):
        assert shard_rows == 2 * 3
        passes(30, 30, 30)
        started, rows = wall[0], 21 * 3
        for done in range(3, rows + 1, 3):
            passes(2, 2, 2)
            order.append("ours")
            progress(room.Step(done, rows, done, rows, wall[0] - started))
        passes(5, 0, 5)

    told = []
    turns = room._Turns(room.made_task(9, 21, 3, every=True), 8, {"bare": other("bare", 4), "peer": other("peer", 7)},
                        lambda kind, one: told.append(one))  # fmt: skip
    turns.run(work)
    first = ["ours", "ours", "bare 2", "peer 2", "bare 2", "ours", "ours"]
    assert order[: 2 * 7] == [*first, "ours", "ours", "bare 2", "bare 2", "peer 2", "ours", "ours"]
    assert order[-2:] == ["ours", "bare 1"], "the last block is the odd one"
    assert turns.blocks == [{"capture": 4, "bare": 4} | ({"peer": 7} if i % 3 == 0 else {}) for i in range(10)] + [
        {"capture": 2, "bare": 4}]  # fmt: skip
    assert turns.once == 30 + 5
    assert [one["capture"]["processor"] for one in told] == [34, 5.5, 4, 5.5, 4, 5, 4, 5.5, 4, 5.5, 2]


def test_a_wrong_capture_shows_in_the_gap(captured, monkeypatch):
    from probekit.model.loading import load_model
    from probekit.proofs.bench import capture as room

    model, names = load_model(captured[1] / "model"), ["blocks.1.hook_resid_post"]
    task = room.made_task(60, 2, 8, every=True)
    assert room._gap(model, task, names) < 1e-5
    plain = room.capture

    def below(model, task, names, **how):
        found = plain(model, task, ["blocks.0.hook_resid_post"], **how)
        return dataclasses.replace(found, sites={names[0]: found.sites["blocks.0.hook_resid_post"]})

    monkeypatch.setattr(room, "capture", below)
    assert room._gap(model, task, names) > 1e-2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_capture_is_measured_in_a_process_of_its_own(captured):
    from probekit.proofs.bench import capture as room

    folder = captured[1]
    found = [room._process(folder / "model", folder / "store", 60, (4, 16), what) for what in ("bare", "all", "last")]
    assert all(0 <= one["peak"] < 64 * 2**20 for one in found)
    assert [one["batch"] for one in found] == [4 * n * 4 * 32 * 4 for n in (1, 16, 1)], "rows, layers, width, bytes"
    with pytest.raises(ProbekitError, match="the capture of 4 sequences failed"):
        room._process(folder / "nothing", folder / "store", 60, (4, 16), "bare")


def test_the_spectrum_drawn_is_that_of_what_it_is_like():
    like = torch.randn(4000, 10, generator=torch.Generator().manual_seed(0)) * torch.logspace(1, -2, 10)
    problem = drawn(3000, 100, 30, 2, 1e-2, like)
    for site in problem.sites:
        spread = torch.linalg.eigvalsh(torch.cov(site.fit.T)).flip(0).sqrt()
        assert float(spread[0]) == pytest.approx(10, rel=0.1)
        assert float(spread[-1]) == pytest.approx(0.01, rel=0.1)
    whitened = problem.inputs("whitened").sites[0].fit
    assert torch.allclose(torch.cov(whitened.T, correction=0), torch.eye(30), atol=1e-3)
    assert torch.allclose(problem.inputs("scaled").sites[1].fit.std(0, correction=0), torch.ones(30), atol=1e-3)


def test_a_gap_is_seen():
    """Two problems whose solutions differ: the comparison is no tautology."""
    from probekit.proofs.bench.fit import _bits

    like = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    problem = drawn(300, 200, 6, 1, 1e-3, like)
    other = Problem(problem.case, problem.sites, 2, 3.0)
    same = _bits(problem, ours(problem, 4)[0]) - _bits(problem, scikit_learn(problem, 4)[0])
    different = _bits(problem, ours(problem, 4)[0]) - _bits(problem, scikit_learn(other, 4)[0])
    assert float(same.abs().max()) < 5e-4
    assert float(different.abs().max()) > 0.05


def test_a_peer_that_is_not_there_says_why(tmp_path: Path):
    with pytest.raises(ProbekitError, match="is not installed in"):
        Namesake(tmp_path, install=False)
