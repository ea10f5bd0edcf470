"""Moments of a model's activations without storing them, against those of captured rows."""

import numpy as np
import pytest
import torch

from probekit import BadInput, UnknownHook, capture, load_model, row_statistics, stream_statistics
from probekit.fit.moments import Moments
from probekit.testbeds import load_testbed

HOOKS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


@pytest.fixture(scope="module")
def scene():
    model = load_model("othello-6x6")
    task = load_testbed("othello-6x6", n_examples=12, n_positions=6, seed=0).task
    return model, task, capture(model, task, HOOKS, store=None)


def labels_of(found) -> np.ndarray:
    """Whose the first square is, which depends on the row."""
    return next(iter(found.observations.features.values())).labels[:, 0]


def test_one_pass_gives_the_moments_of_captured_rows_and_leaves_nothing_behind(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, task, found = scene
    labels = labels_of(found)
    y = torch.nn.functional.one_hot(torch.from_numpy(labels)).double()
    statistics = stream_statistics(model, task, "blocks.*.hook_resid_post", labels, batch_tokens=64)
    assert next(iter(statistics)) == HOOKS[0] and set(HOOKS) < set(statistics)
    assert not list(tmp_path.iterdir())
    for hook in HOOKS:
        kept = Moments.of(found.sites[hook], y)
        assert statistics[hook].n == len(y)
        for name in ("x_mean", "y_mean", "xx", "xy", "yy"):
            ours, theirs = getattr(statistics[hook], name), getattr(kept, name)
            # Forwards of other batches differ in the last digit of float32, and sums in as much of their largest.
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max())), name


def test_rows_that_are_left_out_do_not_count(scene):
    model, task, found = scene
    labels = labels_of(found)
    rows = np.arange(len(labels)) % 3 > 0
    some = stream_statistics(model, task, HOOKS[0], labels, rows=rows)[HOOKS[0]]
    y = torch.nn.functional.one_hot(torch.from_numpy(labels)).double()
    at = torch.from_numpy(np.flatnonzero(rows))
    kept = Moments.of(found.sites[HOOKS[0]][at], y[at])
    assert some.n == rows.sum()
    assert torch.allclose(some.xy, kept.xy, atol=1e-5)
    everything = stream_statistics(model, task, HOOKS[0], labels)[HOOKS[0]]
    assert not torch.allclose(everything.xy, kept.xy, atol=1e-3)


def test_labels_that_do_not_fit_are_refused(scene):
    model, task, found = scene
    with pytest.raises(BadInput, match="found 3 labels"):
        stream_statistics(model, task, HOOKS[0], np.array([0, 1, 0]))
    with pytest.raises(BadInput, match="class numbers"):
        stream_statistics(model, task, HOOKS[0], np.array([0.5, 1.5]))
    with pytest.raises(BadInput, match="no label or feature of one target 'colour'"):
        stream_statistics(model, task, HOOKS[0], "colour")
    with pytest.raises(UnknownHook):
        stream_statistics(model, task, "blocks.99.hook_resid_post", labels_of(found))


def test_rows_on_disk_give_the_moments_of_the_same_rows_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.activations.statistics.BLOCK", 64)
    x = np.random.default_rng(0).normal(size=(333, 6)).astype(np.float16)
    label, used = np.arange(333) % 3, np.arange(333) % 2 == 0
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = Moments.of(torch.from_numpy(x[used]), torch.eye(3, dtype=torch.float64)[label[used]])
    found = row_statistics(mapped, label, used=used)["rows"]
    assert found.n == expected.n == 167
    for name in ("x_mean", "y_mean", "xx", "xy", "yy"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-12), name
    for wrong in (label[:-1], np.append(label, 0)):
        with pytest.raises(BadInput, match="other rows than the"):
            row_statistics({"x": mapped}, wrong)


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_captured_is_read_a_block_at_a_time(scene, tmp_path, monkeypatch, kept):
    monkeypatch.setattr("probekit.activations.statistics.BLOCK", 16)
    model, task, found = scene
    acts = capture(model, task, HOOKS, store=tmp_path) if kept else found
    labels = labels_of(found)
    moments = row_statistics(acts, labels)
    assert list(moments) == list(HOOKS)
    for name, site in found.sites.items():
        expected = Moments.of(site, torch.nn.functional.one_hot(torch.from_numpy(labels)).double())
        assert torch.allclose(moments[name].xx, expected.xx) and torch.allclose(moments[name].xy, expected.xy)
