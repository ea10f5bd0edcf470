"""`probe`: five lines for one's own file, and the same run as its job in TOML."""

import csv
import random
import tomllib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import checkpoints
import probekit as pk
from probekit.errors import BadInput
from probekit.jobs.plan import forecast_of
from probekit.spec import JobSpec

WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})
QUICK = {"outer_folds": 3, "inner_folds": 1, "n_permutations": 19, "levels": ("prior", "baseline", "linear")}


def write_csv(path, columns, rows):
    """A CSV file of these rows, and its path."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def some_words(draw, n=4):
    return [draw.choice(WORDS) for _ in range(n)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A label that the last word decides, of texts in groups of four, read from a random checkpoint."""
    folder = tmp_path_factory.mktemp("probe")
    checkpoints.write(folder / "model", "gpt2")
    draw = random.Random(0)
    texts = [some_words(draw) for _ in range(240)]
    rows = [(" ".join(words), "early" if words[-1] < "m" else "late", i // 4) for i, words in enumerate(texts)]
    write_csv(folder / "my file.csv", ["statement", "kind", "topic"], rows)
    model = pk.load_model(folder / "model")
    asked = {"text": "statement", "label": "kind", "group": "topic", "root": folder / "runs", "store": folder / "store"}
    return folder, model, asked, pk.probe(model, folder / "my file.csv", **asked, **QUICK, progress=False)


def test_a_frame_of_layers_with_what_papers_report(found):
    _, model, _, probe = found
    frame = probe.frame
    assert frame["site"].tolist() == [f"L{i} resid_post" for i in range(model.n_layers)]
    assert (
        frame[["value", "low", "high", "auroc", "accuracy", "floor_auroc", "floor_accuracy", "n_fit"]]
        .notna()
        .all(axis=None)
    )
    assert (frame["n"] == 240).all() and (frame["groups"] == 60).all()  # every group is tested once
    assert frame["auroc"].iloc[0] > 0.85 and (frame["auroc"] > 0.65).all(), "the last word is there at every layer"
    assert "AUROC" in repr(probe) and "the input alone" in repr(probe)
    assert max(map(len, repr(probe).splitlines())) <= 80


def test_scores_are_of_rows_that_the_reader_never_saw(found):
    """Their AUROC is the one told, and that of scikit-learn's reader on the same activations."""
    folder, model, _, probe = found
    scores, frame = probe.scores(), probe.frame
    assert scores.index.tolist() == list(range(240)) and list(scores.columns) == frame["hook"].tolist()
    with (folder / "my file.csv").open() as file:
        rows = list(csv.DictReader(file))
    late = np.array([row["kind"] == "late" for row in rows])
    told = frame.set_index("hook")["auroc"]
    for hook in scores:
        assert roc_auc_score(late, scores[hook]) == pytest.approx(told[hook], abs=1e-6)
    task = pk.load_task(folder / "my file.csv", model=model, text="statement", group="topic",
                        behaviours=[{"name": "kind", "kind": "label", "column": "kind"}])  # fmt: skip
    hook = frame["hook"].iloc[-1]
    x = pk.capture(model, task, hook, store=None).sites[hook].float().numpy()
    group = np.array([int(row["topic"]) for row in rows])
    theirs = np.empty(240)
    for fold in range(3):
        test = group % 3 == fold
        judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000)).fit(x[~test], late[~test])
        theirs[test] = judge.decision_function(x[test])
    assert told[hook] == pytest.approx(roc_auc_score(late, theirs), abs=0.03)


def test_best_is_chosen_on_selection_rows(found):
    _, _, _, probe = found
    best = probe.best()
    selected = probe.run.records.query("metric == 'selected' and level == 'linear' and control == ''").iloc[0]
    assert best["hook"] == selected["hook"] and best["value"] == selected["value"]
    assert {"site", "low", "high", "auroc"} <= set(best.index)


def test_it_is_the_run_of_its_toml(found, monkeypatch):
    folder, _, asked, probe = found
    saved = probe.save(folder / "saved")
    assert {file.name for file in saved.iterdir()} == {"layers.csv", "scores.csv", "layers.html", "job.toml"}
    assert tomllib.loads((saved / "job.toml").read_text())["task"]["text"] == "statement"
    again = pk.run_job(saved / "job.toml", root=asked["root"], store=asked["store"])
    assert again.path == probe.run.path, "nothing is measured again"


def test_a_template_and_words_of_a_mistake(found):
    folder, model, asked, _ = found
    with pytest.raises(BadInput, match="no file"):
        pk.probe(model, folder / "absent.csv", text="statement", label="kind")
    with pytest.raises(BadInput, match="`text`, `tokens` or a `pair`"):
        pk.probe(model, folder / "my file.csv", label="kind")
    with pytest.raises(BadInput, match="statment.*statement"):
        pk.probe(model, folder / "my file.csv", **asked | {"text": "statment"}, progress=False)
    with pytest.raises(BadInput, match="lambdas|lamdas"):
        pk.probe(model, folder / "my file.csv", **asked, lamdas=(1.0,), progress=False)
    with pytest.raises(BadInput, match="made in memory"):
        pk.probe(model.random_twin(0), folder / "my file.csv", **asked, progress=False)


def test_a_number_of_each_text_is_read_beside_the_input(tmp_path):
    """A number that the last word decides, and a part that nobody knows: R2 is told where AUROC would be."""
    checkpoints.write(tmp_path / "model", "gpt2")
    draw = random.Random(1)
    texts = [some_words(draw) for _ in range(300)]
    years = [1900 + 50 * (words[-1] < "m") + draw.gauss(0, 5) for words in texts]
    rows = [(" ".join(words), year, i // 3) for i, (words, year) in enumerate(zip(texts, years, strict=True))]
    write_csv(tmp_path / "years.csv", ["statement", "year", "topic"], rows)
    probe = pk.probe(
        tmp_path / "model", tmp_path / "years.csv", text="statement", label="year", kind="value", group="topic",
        root=tmp_path / "runs", store=tmp_path / "store", progress=False, **QUICK,
    )  # fmt: skip
    frame = probe.frame
    assert frame["auroc"].isna().all() and frame["accuracy"].isna().all()
    assert frame["r2"].iloc[0] > 0.4 and frame["floor_r2"].between(0, 1).all()
    scores = probe.scores()
    year = np.array(years)
    for hook, told in zip(frame["hook"], frame["r2"], strict=True):
        missed = (scores[hook].to_numpy() - year) ** 2
        assert 1 - missed.mean() / year.var() == pytest.approx(told, abs=1e-5), "in the column's own units"
    shown = repr(probe)
    assert "R²" in shown and "of the number's variance (R²)" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    with pytest.raises(BadInput, match="as `label` or as `value`; found kind 'number'"):
        pk.probe("model", tmp_path / "years.csv", text="statement", label="year", kind="number")


def test_a_pair_is_read_without_a_label_of_its_own(tmp_path):
    """Which of two columns a text is from: here its last word says so."""
    checkpoints.write(tmp_path / "model", "gpt2")
    draw = random.Random(0)
    starts = [" ".join(some_words(draw, 3)) for _ in range(60)]
    write_csv(tmp_path / "pairs.csv", ["good", "bad"], [(f"{start} paris", f"{start} madrid") for start in starts])
    model = pk.load_model(tmp_path / "model")
    asked = {"root": tmp_path / "runs", "store": tmp_path / "store", "progress": False, **QUICK}
    found = pk.probe(model, tmp_path / "pairs.csv", pair=["good", "bad"], hooks=["blocks.0.hook_resid_post"], **asked)
    assert found.behaviour == "pair" and (found.frame["n"] == 120).all() and (found.frame["groups"] == 60).all()
    assert found.frame["auroc"].iloc[0] > 0.99 and found.frame["floor_auroc"].iloc[0] > 0.99
    job = tomllib.loads(found.job)
    assert job["task"]["pair"] == ["good", "bad"] and job["task"]["behaviours"][0]["column"] == "pair"
    planned = forecast_of(JobSpec.check(job, "here"), tmp_path)
    assert (planned.texts, planned.groups, planned.classes) == (120, 60, {"pair": {"good": 60, "bad": 60}})
    task = pk.load_task(tmp_path / "pairs.csv", model=model, pair=["good", "bad"], behaviours=job["task"]["behaviours"])
    assert planned.tokens == sum(map(len, task.tokens))
    with pytest.raises(BadInput, match="found `text` and `pair`: name one"):
        pk.probe(model, tmp_path / "pairs.csv", pair=["good", "bad"], text="good")
    with pytest.raises(BadInput, match="name its column, label="):
        pk.probe(model, tmp_path / "pairs.csv", text="good")
