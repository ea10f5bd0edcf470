"""What is written under doses and erasure, judged by the library with hooks of the test's own; and the command."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import checkpoints
from probekit.cli import main
from probekit.measurement.causal.writing import ADDED, ERASED, Along, ablated_texts, lengths_at, steered_texts
from probekit.model.loading import load_model

HOOK, D, N = "blocks.1.hook_resid_post", checkpoints.D_MODEL, 6
PROMPT = "the capital of france"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model of a chat, and a file of two directions of lengths 3 and 5."""
    path = checkpoints.write(tmp_path_factory.mktemp("chat") / "tiny", "llama", tokenizer=checkpoints.pieces())
    rows = np.random.default_rng(0).normal(size=(2, D))
    rows *= np.array([[3.0], [5.0]]) / np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(path / "two.npy", rows.astype(np.float32))
    np.save(path / "one.npy", rows[0].astype(np.float32))
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["probekit", "steer", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def judged(folder, ids, change, first):
    """N tokens by the library alone, every token so far anew, `change` on each from `first` on; and their surprise."""
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()

    def hook(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, first:] = torch.stack([change(act) for act in hidden[0, first:]])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle, written = hf.model.layers[1].register_forward_hook(hook), []
    with torch.inference_mode():
        while len(written) < N and 2 not in written:
            written.append(int(hf(torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
        handle.remove()
        law = hf(torch.tensor([[*ids, *written]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    bits = -law.gather(1, torch.tensor(written)[:, None]).mean() / np.log(2)
    return written, float(bits)


def chat_ids(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True,
                                         tokenize=False)  # fmt: skip
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_doses_and_erasure_are_what_hooks_in_the_library_do(folder):
    model, ids = load_model(folder), chat_ids(folder)
    rows = torch.from_numpy(np.load(folder / "two.npy"))
    first = 3
    one = Along({HOOK: rows[:1].T}, np.array([first]))
    found = steered_texts(model, [np.array(ids)], one, [0.0, 2.0, -4.0], N)
    assert [(w.dose, w.control) for w in found] == [
        (0.0, ""), (2.0, ""), (2.0, "random_directions"), (-4.0, ""), (-4.0, "random_directions")]  # fmt: skip
    random = one.random()[HOOK][:, 0]
    assert float(random.norm()) == pytest.approx(3.0, rel=1e-5)
    for written in found:
        along = random if written.control else rows[0]
        theirs, bits = judged(folder, ids, lambda act, dose=written.dose or 0.0, a=along: act + dose * a, first)
        assert list(written.ids) == theirs and written.surprise == pytest.approx(bits, abs=1e-3)
        assert written.text == model.tokenizer.decode(theirs, skip_special_tokens=True)
        assert (written.how == ADDED) == bool(written.dose)
    assert len({written.ids for written in found}) > 2

    both = Along({HOOK: rows.T}, np.array([first]))
    basis = torch.linalg.qr(rows.T.double())[0].float()
    plain, erased, beside = ablated_texts(model, [np.array(ids)], both, N)
    assert plain.ids == found[0].ids and plain.surprise == found[0].surprise
    assert (erased.how, erased.control, beside.control) == (ERASED, "", "random_directions")
    theirs, bits = judged(folder, ids, lambda act: act - basis @ (basis.T @ act), first)
    assert list(erased.ids) == theirs and erased.surprise == pytest.approx(bits, abs=1e-3)
    # surprise of what the unedited model writes itself is the least that greedy writing leaves it with
    assert plain.surprise < max(w.surprise for w in found)
    hidden = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids]), output_hidden_states=True).hidden_states
    assert lengths_at(model, [np.array(ids)], both)[HOOK] == pytest.approx(
        float(hidden[2][0, first:].detach().norm(dim=1).mean()), rel=1e-4)  # fmt: skip


def test_the_command_prints_every_dose_beside_a_random_direction(folder, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    asked = (folder, "--direction", folder / "one.npy", "--hook", HOOK, "--prompt", PROMPT, "--tokens", N)
    code, out, error = call(*asked, "--dose", "0,2")
    assert code == 0 and error == ""
    assert max(map(len, out.splitlines())) <= 80
    heads = [line.partition(", surprise")[0] for line in out.splitlines() if ", surprise" in line]
    assert heads == ["unedited", "+2 times the direction", "+2 times a random direction"]
    ids = chat_ids(folder)
    assert f"(edit of token {len(ids) - 1}, from 0 on" in out and "A direction of length 3 at" in out

    code, out, _ = call(*asked, "--dose", "2", "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"] and told["places"] == [{"tokens": len(ids), "first": len(ids) - 1}]
    along = torch.from_numpy(np.load(folder / "one.npy"))
    theirs, _ = judged(folder, ids, lambda act: act + 2 * along, len(ids) - 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert told["rows"][0]["text"] == tokenizer.decode(theirs, skip_special_tokens=True)

    code, out, _ = call(*asked, "--ablate", "--from", "role:user:first", "--json")
    told = json.loads(out)
    assert [row["how"] for row in told["rows"]] == ["unedited", "erased", "erased"]
    assert 0 < told["places"][0]["first"] < len(ids) - 1
    code, out, _ = call(*asked, "--plain", "--once", "--json", "--prompt", "one two")
    plain = [tokenizer(text)["input_ids"] for text in (PROMPT, "one two")]
    assert json.loads(out)["places"] == [{"tokens": len(one), "first": len(one) - 1} for one in plain]


@pytest.mark.parametrize(("words", "said"), [
    (["--dose", "0,much"], "--dose is a list of numbers, such as 0,2,4; found '0,much'"),
    (["--row", "-1"], "--row is a list of whole numbers"),
    (["--row", "7"], "there is no row 7"),
    (["--direction", "two.npy"], "one direction is added at a hook point: pick it, or erase them all"),
    (["--hook", "blocks.9.hook_resid_post"], "blocks.9.hook_resid_post"),
    (["--hook", "blocks.0.mlp.hook_post"], "have width 32, and activations at 'blocks.0.mlp.hook_post' 96"),
    (["--from", "role:usr"], "has no 'role:usr': it has role:user (1)"),
    (["--from", "column:at"], "a prompt has no columns"),
    (["--direction", "none.npy"], "there is no file"),
    (["--tokens", "999"], "are more than the 48"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(folder, call, words, said):
    words = [str(folder / word) if word.endswith(".npy") else word for word in words]
    asked = {"--direction": str(folder / "two.npy" if "--row" in words else folder / "one.npy"), "--hook": HOOK}
    asked |= dict(zip(words[::2], words[1::2], strict=True))
    code, out, error = call(folder, "--prompt", PROMPT, *(part for pair in asked.items() for part in pair))
    assert code == 2 and out == "" and error.startswith("probekit: ") and said in error and "Traceback" not in error
