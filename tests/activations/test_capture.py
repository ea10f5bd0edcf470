"""Capture: rows in the task's order, behaviour against a direct computation, nothing run twice, resume after Ctrl-C."""

import dataclasses

import numpy as np
import pytest
import torch

from checkpoints import sharpen
from probekit.activations.capture import capture
from probekit.activations.keys import activation_key
from probekit.activations.laws import Reduction
from probekit.errors import BadInput, Interrupted, StoreError, UnknownHook
from probekit.inputs.surface import surface_features
from probekit.jobs.measure import measure
from probekit.model.loading import load_model
from probekit.storage.store import Store
from probekit.task import BehaviourSpec
from samples import task_of

HOOKS = ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_post")


class Counted:
    """A model that counts its forwards, or fails at one of them."""

    def __init__(self, monkeypatch, model, fail_at=None, error=KeyboardInterrupt):
        self.n, forward = 0, model.forward

        def counted(*args, **kwargs):
            self.n += 1
            if self.n == fail_at:
                raise error
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", counted)


def direct(model, task):
    """Activations and next-token law row by row, one sequence at a time."""
    acts, laws = [], []
    for tokens, positions in zip(task.tokens, task.positions, strict=True):
        for p in positions:
            got = model.read([tokens], ["blocks.1.hook_resid_post"], [np.array([p])],
                             on_logits=lambda values, rows: laws.append(torch.softmax(values, -1)))  # fmt: skip
            acts.append(got["blocks.1.hook_resid_post"])
    return torch.cat(acts), torch.cat(laws).numpy()


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_rows_follow_the_task(tiny, tmp_path, batch_tokens):
    model, task = tiny("llama"), task_of([BehaviourSpec("next")])
    got = capture(model, task, HOOKS, store=tmp_path, batch_tokens=batch_tokens, shard_rows=5)
    acts, laws = direct(model, task)
    assert list(got.sites) == ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(3))]
    assert torch.allclose(got.sites["blocks.1.hook_resid_post"], acts, atol=1e-5)
    assert np.allclose(got.observations.behaviours["next"].law, laws, atol=1e-5)
    assert got.observations.example.tolist() == task.row_example.tolist()
    assert got.observations.position.tolist() == task.row_position.tolist()
    assert got.observations.group.tolist() == (task.row_example % 4).tolist()
    assert got.observations.domains == ["seen", "new"]
    assert got.observations.fingerprint == activation_key(model, task, "hf")
    assert got.audit["invariance"] <= got.audit["invariance_limit"]
    rows = Store(tmp_path).rows(got.observations.fingerprint, "blocks.1.hook_resid_post").numpy()
    assert rows[:, 2].tolist() == [int(task.tokens[e][p]) for e, p in rows[:, :2]]


def test_behaviours(tiny):
    model = tiny("gpt2")
    specs = [
        BehaviourSpec("next"),
        BehaviourSpec("some", "law", tokens=(5, 7)),
        BehaviourSpec("top", "argmax"),
        BehaviourSpec("top_of_some", "argmax", tokens=(5, 7)),
        BehaviourSpec("choice", "choice", tokens=(5, 7, 9), outcomes=("a", "b", "c")),
        BehaviourSpec("difference", "logit_diff", tokens=(9, 5)),
        BehaviourSpec("log_odds", "value", tokens=(9, 5)),
        BehaviourSpec("sets", "groups", sets={"low": (4, 5, 6), "high": (20, 21)}),
        BehaviourSpec("truth", "label"),
    ]
    task = task_of(specs)
    got = capture(model, task, "blocks.0.hook_resid_post", store=None).observations.behaviours
    _, p = direct(model, task)
    assert list(got) == [s.name for s in specs]
    assert np.allclose(got["next"].law, p, atol=1e-5)
    assert np.allclose(got["some"].law, np.c_[p[:, [5, 7]], 1 - p[:, [5, 7]].sum(1)], atol=1e-5)
    assert got["some"].outcomes == (*model.token_names([5, 7]), "rest")
    assert np.array_equal(got["top"].law, np.eye(model.d_vocab)[p.argmax(1)])
    top = [0 if t == 5 else 1 if t == 7 else 2 for t in p.argmax(1)]
    assert np.array_equal(got["top_of_some"].law, np.eye(3)[top])
    assert np.allclose(got["choice"].law, p[:, [5, 7, 9]] / p[:, [5, 7, 9]].sum(1, keepdims=True), atol=1e-5)
    assert got["choice"].outcomes == ("a", "b", "c")
    assert np.allclose(got["difference"].law[:, 0], p[:, 9] / (p[:, 9] + p[:, 5]), atol=1e-5)
    assert got["log_odds"].is_value and got["log_odds"].law.shape == (len(p), 1)
    assert np.allclose(got["log_odds"].law[:, 0], np.log(p[:, 9] / p[:, 5]), atol=1e-4)
    assert got["log_odds"].covered == pytest.approx(p[:, [9, 5]].sum(1).mean(), abs=1e-5)
    # What is renormalised tells what it was of: the mass of the answers, and what most rows would go on with.
    assert got["choice"].covered == pytest.approx(p[:, [5, 7, 9]].sum(1).mean(), abs=1e-5)
    assert got["choice"].likeliest == model.token_names([int(np.bincount(p.argmax(1)).argmax())])[0]
    assert got["next"].likeliest == "" and got["next"].covered == 1
    low, high = p[:, 4:7].sum(1), p[:, 20:22].sum(1)
    assert np.allclose(got["sets"].law, np.stack([low, high, 1 - low - high], 1), atol=1e-5)
    assert got["sets"].outcomes == ("low", "high", "rest")
    assert got["truth"] is task.labels["truth"]


def test_a_large_vocabulary_is_reduced_as_task_does_it(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from probekit.model.model import Model
    from probekit.task import reduce_law

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=200, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5)
    model = Model(GPT2LMHeadModel(config).eval(), name="large")
    task = task_of([BehaviourSpec("next"), BehaviourSpec("top", "argmax")], n_ids=200)
    for _ in range(2):  # computed, then read back
        got = capture(model, task, "blocks.0.hook_resid_post", store=tmp_path, shard_rows=5).observations.behaviours
        _, p = direct(model, task)
        truth = reduce_law("next", p, [str(i) for i in range(200)])
        assert got["next"].outcomes == truth.outcomes
        assert np.allclose(got["next"].law, truth.law, atol=1e-5)
        assert got["next"].covered == pytest.approx(truth.covered, abs=1e-5)
        top = np.unique(p.argmax(1))
        assert len(top) < 64 and got["top"].outcomes == (*model.token_names(top.tolist()), "rest")  # what occurs
        assert np.array_equal(got["top"].law, np.eye(len(top) + 1)[np.searchsorted(top, p.argmax(1))])
        assert got["top"].covered == 1


def test_a_second_capture_runs_nothing(tiny, tmp_path, monkeypatch):
    model, task = tiny("gpt2"), task_of([BehaviourSpec("next")])
    first = capture(model, task, HOOKS, store=tmp_path)
    Counted(monkeypatch, model, fail_at=1, error=AssertionError("the model was run"))
    second = capture(model, task, HOOKS, store=tmp_path)
    for name in first.sites:
        assert torch.equal(first.sites[name], second.sites[name])
    assert np.array_equal(first.observations.behaviours["next"].law, second.observations.behaviours["next"].law)
    assert first.audit == second.audit
    with pytest.raises(AssertionError, match="was run"):
        capture(model, task, "blocks.0.hook_mlp_out", store=tmp_path)


def test_one_more_layer_or_behaviour_leaves_the_rest_alone(tiny, tmp_path, monkeypatch):
    model, task = tiny("gpt2"), task_of([BehaviourSpec("next")])
    capture(model, task, "blocks.0.hook_resid_post", store=tmp_path)
    reads, stream = [], model.stream

    def noted(tokens, names, *args, **how):
        if "room" in how:  # others are the audit's
            reads.append(list(names))
        return stream(tokens, names, *args, **how)

    monkeypatch.setattr(model, "stream", noted)
    more = dataclasses.replace(task, behaviours=(*task.behaviours, BehaviourSpec("other", "choice", tokens=(5, 6))))
    capture(model, more, "blocks.0.hook_resid_post", store=tmp_path)
    assert reads == [[]]  # logits alone
    reads.clear()
    capture(model, more, "blocks.*.hook_resid_post", store=tmp_path)
    assert len(reads) == 1 and reads[0] == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]


def test_resume_reaches_the_exact_state(tiny, tmp_path, monkeypatch):
    model, task = tiny("gpt2"), task_of([BehaviourSpec("next")])
    truth = capture(model, task, HOOKS, store=tmp_path / "whole", shard_rows=4)
    with monkeypatch.context() as patch:
        counted = Counted(patch, model)
        capture(model, task, HOOKS, store=tmp_path / "counted", shard_rows=4)
        total = counted.n
    steps = []
    for fail_at in range(total - 4, total + 1):
        root = tmp_path / str(fail_at)
        with monkeypatch.context() as patch:
            Counted(patch, model, fail_at)
            with pytest.raises(Interrupted, match="resumes"):
                capture(model, task, HOOKS, store=root, shard_rows=4)
        done = sum(int(path.stem[13:]) - int(path.stem[:12]) for path in root.rglob("*.safetensors")) // 2
        steps.clear()
        got = capture(model, task, HOOKS, store=root, shard_rows=4, progress=steps.append)
        assert (steps[-1].rows, steps[-1].n_rows) == (len(truth.observations) - done,) * 2  # finished shards are kept
        assert done >= len(truth.observations) - 4 * (total - fail_at + 1)
        for name in truth.sites:
            assert torch.equal(got.sites[name], truth.sites[name])
        assert np.array_equal(got.observations.behaviours["next"].law, truth.observations.behaviours["next"].law)


@pytest.mark.parametrize("at", [2, 4])
def test_a_capture_stopped_inside_a_shard_runs_only_the_batches_that_it_lacks(tiny, tmp_path, monkeypatch, at):
    from probekit.storage import shards

    monkeypatch.setattr(shards, "SAVED_EVERY", 0.0)
    model, task = tiny("gpt2"), task_of([BehaviourSpec("choice", "choice", tokens=(5, 6))])
    ask = {"backend": "bridge", "batch_tokens": 12}
    with monkeypatch.context() as patch:
        counted = Counted(patch, model)
        truth = capture(model, task, HOOKS, store=tmp_path / "whole", **ask)
        total = counted.n
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == at:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        capture(model, task, HOOKS, store=tmp_path / "cut", progress=stop, **ask)
    assert not list((tmp_path / "cut").rglob("*.safetensors"))
    with monkeypatch.context() as patch:
        counted = Counted(patch, model)
        got = capture(model, task, HOOKS, store=tmp_path / "cut", progress=steps.append, **ask)
        assert counted.n == total - at
    assert steps[-1].rows == steps[-1].n_rows == len(truth.observations)
    for name in truth.sites:
        assert torch.equal(got.sites[name], truth.sites[name])
    assert np.array_equal(got.observations.behaviours["choice"].law, truth.observations.behaviours["choice"].law)


def test_the_key(tiny, checkpoint):
    from probekit.model.loading import load_model

    model, task = tiny("gpt2"), task_of()
    key = activation_key(model, task, "hf")
    assert activation_key(load_model(checkpoint("gpt2")), task, "hf") == key
    tokens = [t.copy() for t in task.tokens]
    tokens[3][0] = 4 + (tokens[3][0] - 3) % 20
    longer = [np.r_[task.tokens[0], 5], *task.tokens[1:]]
    moved = [np.array([(int(task.positions[0][0]) + 1) % len(task.tokens[0])]), *task.positions[1:]]
    joined = [np.r_[task.positions[0], task.positions[1][:0]], *task.positions[1:]]
    must = [dataclasses.replace(task, tokens=tokens), dataclasses.replace(task, tokens=longer),
            dataclasses.replace(task, positions=moved), task_of(n=8)]  # fmt: skip
    must_not = [dataclasses.replace(task, name="other"), dataclasses.replace(task, group=task.group * 0),
                dataclasses.replace(task, positions=joined),
                dataclasses.replace(task, behaviours=(BehaviourSpec("next"),))]  # fmt: skip
    keys = [activation_key(model, t, "hf") for t in must]
    assert len({key, *keys}) == len(must) + 1
    assert {activation_key(model, t, "hf") for t in must_not} == {key}
    others = [model.random_twin(0), load_model(checkpoint("gpt2"), dtype="bfloat16"), tiny("llama")]
    assert len({key, *(activation_key(m, task, "hf") for m in others)}) == 4


def test_a_changed_store_is_never_read(tiny, tmp_path):
    model, task = tiny("gpt2"), task_of()
    got = capture(model, task, HOOKS, store=tmp_path)
    shard = next(tmp_path.rglob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(bytes(content))
    with pytest.raises(StoreError):
        for name in got.sites:
            got.sites[name]


def test_surface_features_see_nothing_ahead():
    task = task_of()
    blocks = surface_features(task, 42)
    n = len(task.row_example)
    assert {name: block.shape[0] for name, block in blocks.items()} == dict.fromkeys(blocks, n)
    assert all(block.dtype == np.float32 for block in blocks.values())
    for row, (e, p) in enumerate(zip(task.row_example, task.row_position, strict=True)):
        seen = task.tokens[e][: p + 1]
        assert blocks["position"][row].argmax() == p
        assert blocks["bag"][row].sum() == len(seen)
        for back in range(3):
            part = blocks["last_tokens"][row, back * 42 : (back + 1) * 42]
            assert part.sum() == (back < len(seen))
            if back < len(seen):
                assert part.argmax() == seen[-1 - back]
    # changing what lies ahead of every row changes nothing but which tokens are frequent
    ahead = [t.copy() for t in task.tokens]
    for t, p in zip(ahead, task.positions, strict=True):
        t[max(p) + 1 :] = t[0]
    changed = surface_features(dataclasses.replace(task, tokens=ahead), 42)
    for name in ("position", "length", "last_tokens"):
        assert np.array_equal(blocks[name], changed[name])


def test_surface_features_of_long_text_and_large_vocabularies():
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 5000, 100) for _ in range(20)]
    task = task_of(tokens=tokens, positions=[np.array([70, 10])] * 20, group=np.arange(20), domain=np.array(["a"] * 20))
    blocks = surface_features(task, 5000)
    assert {name: block.shape[1] for name, block in blocks.items()} == {
        "position": 2, "length": 2, "last_tokens": 768, "bag": 512,
    }  # fmt: skip
    assert (blocks["last_tokens"].sum(1) == 3).all()
    assert np.isfinite(blocks["position"]).all()


def test_given_floor_inputs_are_kept(tiny):
    task = task_of()
    own = {"mine": np.ones((len(task.row_example), 1), np.float32)}
    got = capture(tiny("gpt2"), dataclasses.replace(task, floor_inputs=own), HOOKS[0], store=None)
    assert got.observations.floor_inputs is own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviours": (BehaviourSpec("b", "choice"),)}, "needs `tokens`"),
        ({"behaviours": (BehaviourSpec("b", "choice", tokens=(1, 99)),)}, "lie in 0 to 41"),
        ({"behaviours": (BehaviourSpec("b", "choice", tokens=(1, 1)),)}, "must differ"),
        ({"behaviours": (BehaviourSpec("b", "logit_diff", tokens=(1, 2, 3)),)}, "compares two tokens"),
        ({"behaviours": (BehaviourSpec("b", "value", tokens=(1, 2, 3)),)}, "compares two tokens"),
        ({"behaviours": (BehaviourSpec("b", "value"),)}, "needs `tokens`"),
        ({"behaviours": (BehaviourSpec("b", "groups"),)}, "needs `sets`"),
        ({"behaviours": (BehaviourSpec("b", "groups", sets={"x": (1, 2), "y": (2,)}),)}, "must differ"),
        ({"behaviours": (BehaviourSpec("b", "choice", tokens=(1, 2), outcomes=("a",)),)}, "2 outcomes and 1 names"),
        ({"behaviours": (BehaviourSpec("b", "mood"),)}, "kinds are"),
        ({"behaviours": (BehaviourSpec("b", "label"),)}, "which task 't' lacks"),
        ({"behaviours": (BehaviourSpec("b"), BehaviourSpec("b"))}, "two behaviours alike"),
        ({"group": np.arange(3)}, "group and domain"),
        ({"positions": [np.zeros(0, int)] * 9}, "reads no position"),
    ],
)
def test_bad_tasks(tiny, changes, message):
    with pytest.raises(BadInput, match=message):
        capture(tiny("gpt2"), task_of(**changes), HOOKS[0], store=None)


def test_unknown_hook(tiny):
    with pytest.raises(UnknownHook, match="3 layers"):
        capture(tiny("gpt2"), task_of(), "blocks.7.hook_resid_post", store=None)


def test_the_mass_of_rest_over_a_large_vocabulary_is_right_in_the_sixth_digit():
    """A hundred thousand small probabilities, added up one after the other in float32, are 7e-5 off."""
    d_vocab, generator = 100_000, np.random.default_rng(0)
    logits = 3 * generator.normal(size=(20, d_vocab)).astype(np.float32)
    tokens = ((5,), (70_000,), tuple(range(100, 60_000)))
    reduction = Reduction(BehaviourSpec("sets", "groups", sets={"all": (1,)}), tokens, ("a", "b", "c"), d_vocab, 0)
    law = reduction.sized().law(torch.from_numpy(logits)).numpy()
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(1, keepdims=True)
    judged = np.stack([exact[:, list(group)].sum(1) for group in tokens], 1)
    assert law.dtype == np.float32
    assert np.abs(law - np.c_[judged, 1 - judged.sum(1)]).max() < 2e-7


def test_the_last_layer_is_read_by_the_unembedding_only_behind_the_final_norm(checkpoint, tmp_path):
    """In front of it every row has a length of its own, which no linear reader takes out."""
    model = load_model(sharpen(checkpoint("llama"), tmp_path / "sharp", 4.0))
    rng = np.random.default_rng(0)
    tokens = [rng.integers(4, model.d_vocab, 12) for _ in range(1500)]
    task = task_of(
        [BehaviourSpec("two", "choice", tokens=(5, 9))], tokens=tokens, positions=[np.array([11])] * 1500,
        group=np.arange(1500), domain=np.array(["all"] * 1500), labels={},
    )  # fmt: skip
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    got = capture(model, task, ("ln_final.hook_normalized", last), store=None)
    frame = measure(got, levels=("linear",), controls=(), decomposition=False, floors=("strong",), n_permutations=0,
                    extrapolate=False, falls=False, n_bootstrap=200, outer_folds=1, inner_folds=1)  # fmt: skip
    found = frame[frame["metric"] == "read"].set_index("hook")["value"]
    assert found["ln_final.hook_normalized"] < 0.002
    assert found[last] > 0.01
