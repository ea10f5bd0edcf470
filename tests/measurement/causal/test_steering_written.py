"""Steering of what a model writes, judged by a loop of the test's own with hooks in the library's model."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import checkpoints
from probekit.activations.capture import capture
from probekit.measurement.causal.replacement import Replacement
from probekit.measurement.causal.steering import Steering
from probekit.measurement.cell import Measurement
from probekit.model.interventions import Abstraction
from probekit.model.loading import load_model
from probekit.spec import ReadSpec, ReplaceSpec
from probekit.task import BehaviourSpec, Generation, Task

LAYER, HOOK = 1, "blocks.1.hook_resid_post"
DOSES, N_TOKENS, DOMAIN = (-40.0, 40.0), 4, "seen"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("written") / "tiny", "llama")


def task_of(samples, n_vocab, rule):
    """Texts of different lengths, edited at two tokens in the middle and answered at the end."""
    draw = np.random.default_rng(3)
    tokens = [draw.integers(4, n_vocab, n) for n in draw.integers(6, 10, 80)]
    made = Generation((("meets", rule),), N_TOKENS, samples, 1.0, 5)
    return Task(
        name="written", tokens=tokens, positions=[np.array([1, 3])] * 80, group=np.arange(80),
        domain=np.array([DOMAIN] * 80), behaviours=(BehaviourSpec("writes", "generation", generation=made),),
        floor_inputs={}, answer=np.array([len(ids) - 1 for ids in tokens]),
    )  # fmt: skip


def by_hand(hf, model, ids, move, edited, made, row):
    """What is written, every token so far anew, with `move` added at the tokens that `edited` names."""

    def hook(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, edited(hidden.shape[1])] += move
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle, texts = hf.model.layers[LAYER].register_forward_hook(hook), []
    draws = np.random.default_rng([made.seed, row]).random((max(1, made.samples), N_TOKENS))
    for draw in draws:
        written = []
        while len(written) < N_TOKENS and 2 not in written:
            logits = hf(torch.tensor([[*ids, *written]])).logits[0, -1].double()
            law = logits.softmax(-1).cumsum(-1)
            chosen = int((law < draw[len(written)] * law[-1]).sum()) if made.samples else int(logits.argmax())
            written.append(chosen)
        texts.append(model.tokenizer.decode(written, skip_special_tokens=True))
    handle.remove()
    return np.mean([made.outcome(text) == 0 for text in texts])


@pytest.mark.parametrize(("samples", "written"), [(0, True), (3, True), (3, False)])
def test_shares_are_those_of_a_loop_by_hand(folder, samples, written):
    model, hf = load_model(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    words = sorted({model.tokenizer.decode([i]) for i in range(4, model.d_vocab, 2)})
    task = task_of(samples, model.d_vocab, tuple(words))
    activations = capture(model, task, [HOOK], store=None)
    study = Measurement(activations.observations, ReadSpec(floors=("strong",), outer_folds=1, inner_folds=1),
                        n_bootstrap=50)  # fmt: skip
    replacement = Replacement(model, task, activations, study, ReplaceSpec(rows=32))
    unit = np.linalg.qr(np.random.default_rng(1).normal(size=(checkpoints.D_MODEL, 1)))[0].astype(np.float32)
    given = Abstraction("directions", "given:mine", 1, {HOOK: torch.from_numpy(unit)})
    records = Steering(replacement, DOSES, written).cell("writes", DOMAIN, HOOK, [given]).records
    found = {(one.arm, one.control): one for one in records}
    first = found["share:+40", ""]
    target = ["meets", "no match"].index(first.note.partition("raises ")[2].partition(";")[0])
    cases, made = replacement.cases("writes", DOMAIN)[1], task.behaviours[0].generation
    size = float((activations.sites[HOOK].double().numpy()[cases.pool.last] @ unit[:, 0].astype(np.float64)).std())

    def edited(length):
        return np.arange(1, length) if written else np.array([1, 3])

    def rise(factor):
        after = [by_hand(hf, model, task.tokens[task.row_example[row]], torch.from_numpy(factor * size * unit[:, 0]),
                         edited, made, int(row)) for row in cases.rows.last]  # fmt: skip
        before = cases.law[:, target]
        return float(np.mean((np.array(after) if target == 0 else 1 - np.array(after)) - before))

    with torch.inference_mode():
        down, up = rise(-40.0), rise(40.0)
    assert max(abs(down), abs(up)) > 0.01, "nothing moves, so that nothing is shown"
    ours = [found[f"share:{dose:+g}", ""].value for dose in DOSES]
    # which sign of the direction raises the outcome is not the test's to know
    assert ours in (pytest.approx([down, up], abs=1e-6), pytest.approx([up, down], abs=1e-6))
    assert ("share:+40", "random_directions") in found and 0 <= found["wrong:+40", ""].value <= 1
    assert not any(arm.startswith("effect") for arm, _ in found)
