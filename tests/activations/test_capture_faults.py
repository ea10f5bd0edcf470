"""Capture when things go wrong: no memory (F10), Ctrl-C, a full disk, and what a person is told."""

import errno
import functools
import mmap
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import checkpoints
from probekit.activations import writing
from probekit.activations.capture import capture
from probekit.activations.laws import Reduction
from probekit.activations.passes import CapturePass
from probekit.activations.writing import Writer
from probekit.errors import BadInput, Interrupted, ProbekitError, StoreError, UnknownHook
from probekit.model import reading
from probekit.model.audit import check_model
from probekit.model.model import Model
from probekit.model.reading import most_tokens
from probekit.storage import files, shards
from probekit.task import BehaviourSpec
from samples import task_of

HOOKS = "blocks.*.hook_resid_post"
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
SHAPES = (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(ALLOCATOR))


@functools.cache
def large():
    """More tokens than a law has outcomes, so that a capture is two passes; the write tests are done."""
    model = Model(checkpoints.build("llama", 90), name="large")
    capture(model, wide_task(), HOOKS, store=None)
    return model


def wide_task(**changes):
    asked = [BehaviourSpec("next"), BehaviourSpec("top", "argmax"), BehaviourSpec("pair", "choice", tokens=(5, 6))]
    return task_of(asked, n=8, n_ids=90, **changes)


def same(got, truth):
    assert list(got.sites) == list(truth.sites)
    for name in truth.sites:
        assert torch.allclose(got.sites[name], truth.sites[name], atol=1e-5)
    for name, behaviour in truth.observations.behaviours.items():
        found = got.observations.behaviours[name]
        assert found.outcomes == behaviour.outcomes and found.covered == pytest.approx(behaviour.covered, abs=1e-5)
        assert np.allclose(found.law, behaviour.law, atol=1e-5)


def failing_once(monkeypatch, model, fail_at, error):
    """The model's forwards, counted in a list, of which one runs out of memory."""
    forward, sizes = type(model).forward, []

    def once(ids, *args, **how):
        sizes.append(len(ids))
        if len(sizes) == fail_at:
            raise error
        return forward(model, ids, *args, **how)

    monkeypatch.setattr(model, "forward", once)
    return sizes


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["hf", "bridge"])
def test_f10_memory_runs_out_at_each_forward_in_turn(tmp_path, monkeypatch, backend, first, record_property):
    """A batch of several is halved; one example alone is refused, and the same call resumes. Also in the audit."""
    model, task = large(), wide_task()
    ask = functools.partial(capture, model, task, HOOKS, batch_tokens=30, shard_rows=5, backend=backend)
    truth, sizes = ask(store=None), failing_once(monkeypatch, model, 0, None)
    ask(store=None)
    n_forwards, survived = len(sizes), 0
    for fail_at in range(1, n_forwards + 1):
        sizes = failing_once(monkeypatch, model, fail_at, SHAPES[(first + fail_at) % 3])
        try:
            same(ask(store=tmp_path / str(fail_at)), truth)
            survived += 1
            assert sizes[fail_at - 1] > 1
        except BadInput as error:
            assert sizes[fail_at - 1] == 1 and "out of memory on one example of" in one_sentence(error)  # noqa: PT017
            same(ask(store=tmp_path / str(fail_at)), truth)
    assert survived >= 6 and n_forwards >= 12
    record_property("forwards", n_forwards)
    record_property("halved", survived)


@pytest.mark.parametrize("error", SHAPES, ids=["torch", "numpy", "allocator"])
def test_f10_memory_for_one_example_only(monkeypatch, error):
    """Every larger batch fails, always: one pass after another gives up at most a few times, then goes one by one."""
    model, task, sizes = large(), wide_task(), []
    truth, forward = capture(model, task, HOOKS, store=None, backend="hf"), model.forward

    def tight(ids, *args, **how):
        sizes.append(len(ids))
        if len(ids) > 1:
            raise error
        return forward(ids, *args, **how)

    monkeypatch.setattr(model, "forward", tight)
    same(capture(model, task, HOOKS, store=None, shard_rows=5, backend="hf"), truth)
    later = sizes[sizes.index(1, 12) :]
    assert sizes.count(1) >= 16
    assert max(later[len(later) // 2 :]) <= 2, "a batch that did not fit once is not tried again in every range"


def test_f10_memory_runs_out_behind_the_forward(monkeypatch):
    """In the laws of a batch: what was added before is not added twice."""
    model, task = large(), wide_task()
    truth = capture(model, task, HOOKS, store=None)
    for method in ("mass", "law"):
        plain, calls = getattr(Reduction, method), []
        for fail_at in (1, 2):
            calls.clear()

            def failing(*args, plain=plain, calls=calls, fail_at=fail_at):
                calls.append(1)
                if len(calls) == fail_at:
                    raise torch.OutOfMemoryError("x")
                return plain(*args)

            with monkeypatch.context() as patch:
                patch.setattr(Reduction, method, failing)
                same(capture(model, task, HOOKS, store=None, batch_tokens=60), truth)
            assert len(calls) > fail_at


def test_ctrl_c_anywhere_leaves_no_thread_and_resumes(tmp_path, monkeypatch):
    """Stopped in a forward, while a batch is handed over, while the thread is waited for."""
    model, task = large(), wide_task()
    truth = capture(model, task, HOOKS, store=None)
    for where, fail_at in [("_read", 2), ("_read", 3), ("_pass", 1), ("_pass", 3), ("_size", 2)]:
        root, count, plain = tmp_path / f"{where}{fail_at}", 0, getattr(CapturePass, where)

        def stopped(*args, plain=plain, fail_at=fail_at, **how):
            nonlocal count
            count += 1
            if count == fail_at:
                raise KeyboardInterrupt
            return plain(*args, **how)

        with monkeypatch.context() as patch:
            patch.setattr(CapturePass, where, stopped)
            with pytest.raises(Interrupted, match="same call resumes"):
                capture(model, task, HOOKS, store=root, shard_rows=5)
        assert not [t for t in threading.enumerate() if t.name.startswith("probekit-writer")]
        assert not list((root / "tmp").iterdir())
        same(capture(model, task, HOOKS, store=root, shard_rows=5), truth)


def test_the_disk_fills_up_while_the_model_runs(tmp_path, monkeypatch):
    """The thread's error is the caller's, at the next batch or at the end, and what was finished stays."""
    model, task, plain = large(), wide_task(), os.pwrite
    truth = capture(model, task, HOOKS, store=None)
    for fail_at in (1, 10, 25):
        root, count = tmp_path / str(fail_at), 0

        def full(*args, fail_at=fail_at):
            nonlocal count
            count += threading.current_thread() is not threading.main_thread()
            if count >= fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(*args)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "pwrite", full)
            with pytest.raises(StoreError, match="No space left on device") as caught:
                capture(model, task, HOOKS, store=root, shard_rows=5)
        one_sentence(caught.value)
        assert not list((root / "tmp").iterdir())
        same(capture(model, task, HOOKS, store=root, shard_rows=5), truth)


def test_memory_for_writing_is_not_taken_for_the_models(tmp_path, monkeypatch):
    model, task = large(), wide_task()
    monkeypatch.setattr(shards.ShardWriter, "put", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(StoreError, match="while activations were written"):
        capture(model, task, HOOKS, store=tmp_path)


def test_buffers_do_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Two sets, each as large as one batch, whatever the number of rows."""
    model, held = large(), {}
    room = Writer.room

    def noted(self, n, names):
        got = room(self, n, names)
        held[id(got)] = sum(t.nbytes for t in got.values())
        return got

    monkeypatch.setattr(Writer, "room", noted)
    for n in (4, 40):
        held.clear()
        tokens = [np.arange(4, 14)] * n
        task = task_of(tokens=tokens, positions=[np.arange(10)] * n, n=n, labels={})
        capture(model, task, HOOKS, store=tmp_path / str(n), batch_tokens=20, shard_rows=70)
        assert len(held) == 2
        assert set(held.values()) == {20 * 3 * 32 * 4}


def test_buffers_that_memory_has_no_room_for_are_answered_by_smaller_batches(tmp_path, monkeypatch):
    model, task, plain, asked = large(), task_of(n=8, n_ids=90), mmap.mmap, []
    truth = capture(model, task, HOOKS, store=None, backend="hf")

    def tight(handle, size, **how):
        asked.append(size)
        if size > 4 * 32 * 4:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return plain(handle, size, **how)

    monkeypatch.setattr(writing, "mmap", SimpleNamespace(mmap=tight, ACCESS_COPY=mmap.ACCESS_COPY))
    same(capture(model, task, HOOKS, store=tmp_path, backend="hf"), truth)
    assert max(asked) > 4 * 32 * 4 >= asked[-1]


def test_forwards_on_a_cpu_keep_tensors_small_enough_to_be_reused(monkeypatch):
    """In captures alone: the audit compares two examples in one batch, however long they are."""
    model, task = large(), task_of(n=8, n_ids=90)
    widest, longest = max(model.widths.values()), max(map(len, task.tokens))
    assert most_tokens(model, 4096) == 4096
    monkeypatch.setattr(reading, "_WIDEST", widest * 4 * longest)
    assert most_tokens(model, 4096) == longest
    assert most_tokens(model, 5) == 5
    check_model(model, task.tokens)  # the write tests are done
    shapes, forward = [], model.forward

    def noted(ids, *args, **how):
        shapes.append(ids.shape)
        return forward(ids, *args, **how)

    monkeypatch.setattr(model, "forward", noted)
    capture(model, task, HOOKS, store=None, backend="bridge")
    audit, passed = shapes[:2], shapes[2:]
    assert [n for n, _ in audit] == [2, 1] and sum(n for n, _ in passed) == len(task.tokens)
    assert audit[0].numel() > longest >= max(shape.numel() for shape in passed)
    monkeypatch.setattr(Model, "device", torch.device("cuda"))
    assert most_tokens(model, 4096) == 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_values_that_are_not_finite_are_refused(dtype):
    """Also where the sum of finite values is not, or infinities cancel."""
    rows, huge = np.arange(5) + 10, torch.finfo(dtype).max
    values = torch.full((5, 8), huge, dtype=dtype)
    reading._refuse_not_finite(values, rows, "found")
    reading._refuse_not_finite(torch.zeros(5, 8, dtype=dtype), rows, "found")
    for wrong in ((torch.inf, 1.0), (torch.nan, 1.0), (torch.inf, -torch.inf)):
        values = torch.zeros(5, 8, dtype=dtype)
        values[3, 2:4] = torch.tensor(wrong, dtype=dtype)
        with pytest.raises(BadInput, match="found row 13: use another dtype"):
            reading._refuse_not_finite(values, rows, "found")


def one_sentence(error):
    text = str(error)
    assert text.endswith("."), text
    assert "\n" not in text and "Traceback" not in text
    assert 20 < len(text) < 420
    return text


def without_mask():
    """A model whose attention ignores the mask."""
    model = Model(checkpoints.build("bert", 42), name="blind")
    forward = model.forward
    model.forward = lambda ids, mask, *args, **how: forward(ids, torch.ones_like(mask), *args, **how)
    return model


def in_training():
    model = Model(checkpoints.build("gpt2", 42), name="training")
    model.bridge.hf.train()
    return model


def not_finite():
    model = Model(checkpoints.build("gpt2", 42), name="infinite")
    with torch.no_grad():
        model.weights["transformer.h.1.mlp.c_proj.weight"][0, 0] = torch.inf
    return model


def foreign_hook():
    model = Model(checkpoints.build("gpt2", 42), name="hooked")
    model.bridge.points["blocks.0.hook_resid_post"].register_forward_hook(lambda *_: None)
    return model


def elsewhere(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "STORE.json").write_text("{}")
    return tmp_path / "s"


def a_file(tmp_path):
    (tmp_path / "f").write_text("x")
    return tmp_path / "f"


def changed(tmp_path):
    """A store whose shard was changed after it was sealed."""
    capture(large(), wide_task(), HOOKS, store=tmp_path / "c", backend="bridge")
    for path in (tmp_path / "c").rglob("*.safetensors"):
        path.chmod(0o644)
        os.truncate(path, path.stat().st_size - 1)
    return tmp_path / "c"


REFUSALS = [
    ("unknown hook", UnknownHook, {"hooks": "blocks.9.hook_resid_post"}, "has no hook point"),
    ("unknown backend", BadInput, {"backend": "fast"}, "backend is one of auto, bridge, hf; found 'fast'"),
    ("no place", BadInput, {"hooks": "blocks.0.ln1.hook_scale", "backend": "hf"}, "no place for 'blocks.0.ln1.hook_"),
    ("no token", BadInput, {"task": {"tokens": [np.zeros(0, int)] * 8}}, "1 to 48 token ids"),
    ("token beyond", BadInput, {"task": {"tokens": [np.array([4, 95])] * 8, "positions": [np.array([0])] * 8}}, "95"),
    ("position beyond", BadInput, {"task": {"positions": [np.array([47])] * 8}}, "positions"),
    ("too long", BadInput, {"task": {"tokens": [np.full(49, 5)] * 8}}, "1 to 48 token ids"),
    ("no position", BadInput, {"task": {"positions": [np.zeros(0, int)] * 8}}, "reads no position"),
    ("behaviour", BadInput, {"task": {"behaviours": (BehaviourSpec("b", "mood"),)}}, "kinds are"),
    ("label", BadInput, {"task": {"behaviours": (BehaviourSpec("b", "label"),)}}, "lacks"),
    ("mask ignored", BadInput, {"model": without_mask, "task": {"behaviours": ()}}, "ignores the mask"),
    ("training", BadInput, {"model": in_training, "task": {"behaviours": ()}}, "training mode"),
    ("not finite", BadInput, {"model": not_finite, "task": {"behaviours": ()}}, "not finite at"),
    ("foreign hook", BadInput, {"model": foreign_hook, "task": {"behaviours": ()}}, "attached by other code"),
    ("other folder", StoreError, {"store": elsewhere}, "no store of this version"),
    ("store is a file", StoreError, {"store": a_file}, "f"),
    ("changed bytes", StoreError, {"store": changed, "backend": "bridge"}, "cache"),
]


@pytest.mark.parametrize(("kind", "asked", "told"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_every_refusal_is_one_sentence(tmp_path, kind, asked, told):
    model = asked["model"]() if "model" in asked else large()
    task = wide_task() if "task" not in asked else task_of(**({"n": 8} | asked["task"]))
    store = asked["store"](tmp_path) if "store" in asked else tmp_path / "new"
    with pytest.raises(ProbekitError) as caught:
        got = capture(model, task, asked.get("hooks", HOOKS), store=store, backend=asked.get("backend", "auto"))
        for name in got.sites:
            got.sites[name]
    assert type(caught.value) is kind
    assert told in one_sentence(caught.value)
