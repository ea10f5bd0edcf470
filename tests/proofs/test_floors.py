"""Published tasks by their text alone: how rows are drawn, what is found where the answer is known, and the wheel."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import checkpoints
from probekit.errors import BadInput
from probekit.metrics.auroc import auroc
from probekit.proofs.floors import model, page, tasks, text

TOLD, UNTOLD = "117_us_state_FL", "118_us_state_CA"
WORDS = np.array([f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "nrst"])


def write(folder, task: str, texts, target) -> None:
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame({"prompt": texts, "prompt_len": [len(t) for t in texts], "target": target})
    frame.to_csv(tasks.file_of(folder, task), index=False, compression="zstd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One task that words tell in part, one that only repeated texts tell: their labels are drawn."""
    rng, found = np.random.default_rng(0), tmp_path_factory.mktemp("tasks") / "cleaned_data"
    label = rng.permutation(np.arange(500) % 2)
    odds = np.ones((2, len(WORDS)))
    odds[0, :10], odds[1, 10:20] = 4, 4
    odds /= odds.sum(1, keepdims=True)
    write(found, TOLD, [" ".join(rng.choice(WORDS, 5, p=odds[side])) for side in label], np.array(["no", "yes"])[label])
    names = [f"{a} {b} {i}" for i, (a, b) in enumerate(rng.choice(WORDS, (200, 2)))]
    which = rng.permutation(np.repeat(np.arange(200), 3))
    write(found, UNTOLD, [names[i] for i in which], rng.permutation(np.arange(200) % 2)[which])
    return found


def test_rows_are_drawn_as_published():
    label = np.random.default_rng(1).permutation(np.arange(5_000) % 2)
    for n, trained, tested in ((5_000, 1_024, 2_000), (1_000, 900, 100), (1_500, 1_024, 476)):
        one, other = text.draw(label[:n] if n == 5_000 else np.arange(n) % 2, 0)
        assert (len(one), len(other)) == (trained, tested)
        assert not set(one) & set(other)
        for rows in (one, other):
            assert abs(2 * (label if n == 5_000 else np.arange(n) % 2)[rows].sum() - len(rows)) <= 1
    again, differs = text.draw(label, 0)[0], text.draw(label, 1)[0]
    assert np.array_equal(text.draw(label, 0)[0], again) and not np.array_equal(again, differs)
    with pytest.raises(BadInput, match="more than 24 rows of each class"):
        text.draw((np.arange(149) < 20).astype(np.int64), 0)


def test_trained_rows_are_all_shared_out():
    split = text.sides(1_024, 3_024)
    assert [len(side) for side in (split.fit, split.select, split.calibrate, split.test)] == [683, 204, 137, 2_000]
    assert np.array_equal(np.concatenate([split.fit, split.select, split.calibrate, split.test]), np.arange(3_024))


def test_what_words_tell_is_found_and_what_only_repeats_tell_is_told_apart(folder, tmp_path):
    """Judge: scikit-learn on TF-IDF of words, the same rows."""
    run, found = text.text_floors(folder, 2, [TOLD, UNTOLD], root=tmp_path)
    row, other = found.to_dict("records")
    assert (row["task"], row["n_rows"], row["n_trained"], row["n_test"], row["splits"]) == (TOLD, 500, 400, 100, 2)
    assert row["layer_20"] == tasks.published()[TOLD]["layer_20"] == 0.9588
    rows, theirs = tasks.read_texts(folder, TOLD), []
    for seed in range(2):
        trained, tested = text.draw(rows.label, seed)
        x = TfidfVectorizer().fit([rows.texts[i] for i in trained]).transform(rows.texts)
        judge = LogisticRegression(C=3).fit(x[trained], rows.label[trained])
        theirs.append(auroc(judge.decision_function(x[tested]), rows.label[tested]))
    assert np.mean(theirs) > 0.75
    assert row["floor"] == pytest.approx(np.mean(theirs), abs=0.05)
    assert row["lowest"] <= row["floor"] <= row["highest"] and row["sd"] >= 0
    assert row["unseen"] == 1 and row["floor_unseen"] == row["floor"], "no text comes twice"
    assert other["n_texts"] == 200 and other["floor"] > 0.8 and other["unseen"] < 0.2
    assert run.table("floors")["task"].tolist() == [TOLD, UNTOLD]


def test_a_study_that_was_finished_is_read_again(folder, tmp_path, monkeypatch):
    _, first = text.text_floors(folder, 1, [TOLD], root=tmp_path)
    monkeypatch.setattr(text, "_measure_unit", lambda unit: pytest.fail("measured twice"))
    _, again = text.text_floors(folder, 1, [TOLD], root=tmp_path)
    pd.testing.assert_frame_equal(first, again)


def test_a_task_that_does_not_exist_is_refused(folder, tmp_path):
    with pytest.raises(BadInput, match=f"Did you mean '{TOLD}'"):
        text.text_floors(folder, 1, ["117_us_state_FLL"], root=tmp_path)
    with pytest.raises(BadInput, match="at least once; found 0"):
        text.text_floors(folder, 0, root=tmp_path)


def test_a_wheel_is_laid_out_and_none_of_its_tasks_is_dropped_silently(folder, tmp_path):
    wheel, bare = tmp_path / "whole.whl", tmp_path / "bare.whl"
    payload = tasks.file_of(folder, TOLD).read_bytes()
    for path, names in ((wheel, list(tasks.published())), (bare, list(tasks.published())[1:])):
        with zipfile.ZipFile(path, "w") as files:
            for name in names:
                files.writestr(f"{tasks.INSIDE}{name}.csv.zst", payload)
    found = tasks.folder_of(wheel, tmp_path / "cache")
    assert tasks.read_texts(found, UNTOLD).texts == tasks.read_texts(folder, TOLD).texts
    assert len(list(found.iterdir())) == 113
    with pytest.raises(BadInput, match=r"lacks 1 of 113 tasks, the first 5_hist_fig_ismale\.csv\.zst"):
        tasks.folder_of(bare, tmp_path / "other")
    with pytest.raises(BadInput, match="lacks 111 of 113 tasks"):
        tasks.folder_of(folder, tmp_path / "cache")
    for path, words in ((tmp_path / "no.whl", "no wheel and no folder"), (tasks.file_of(folder, TOLD), "is no wheel")):
        with pytest.raises(BadInput, match=words):
            tasks.folder_of(path, tmp_path / "third")


def test_the_shortest_texts_come_first(monkeypatch):
    lengths = {"5_hist_fig_ismale": 18.0, "6_hist_fig_isamerican": 15.0, "7_hist_fig_ispolitician": 15.0}
    monkeypatch.setattr(model, "chosen", lambda only: list(lengths))
    monkeypatch.setattr(
        model, "read_texts", lambda folder, task: tasks.Texts(["x" * int(lengths[task])], np.zeros(1, np.int64))
    )
    assert model.shortest(Path(), 2) == ["6_hist_fig_isamerican", "7_hist_fig_ispolitician"]


def test_a_model_reads_a_task_beside_its_floor(folder, tmp_path):
    """No text is on two sides, so that drawn labels of repeated texts are nobody's to know."""
    checkpoints.write(tmp_path / "small", "gpt2", tokenizer=checkpoints.pieces(), d_model=8, n_ctx=64)
    told = {"root": tmp_path / "runs"}
    run, found = model.model_floors(folder, str(tmp_path / "small"), [UNTOLD], 300, **told)
    row = found.to_dict("records")[0]
    assert (row["task"], row["n"]) == (UNTOLD, 300) and row["groups"] < 200
    assert row["low"] <= row["fbu"] <= row["high"] and row["high"] >= 1
    assert row["floor_auroc"] < 0.65 and row["auroc"] < 0.65
    assert "hook_resid_post" in row["hook"] and run.table("model_floors")["task"].tolist() == [UNTOLD]


def test_where_the_text_tells_all_there_is_nothing_left_for_a_model():
    frame = pd.DataFrame([{"n": 300, "groups": 280, "floor_auroc": 1.0, "floor_bits": 0.01, "value": None}])
    row = {"task": TOLD, "length": 12.0} | model._told(frame, None)
    assert (row["floor_auroc"], row["groups"], row["hook"]) == (1.0, 280, "") and np.isnan(row["fbu"])
    assert page.model_table(pd.DataFrame([row])).splitlines()[2].endswith("| 1.000 | NA | NA |  |")


def results() -> pd.DataFrame:
    rows = [("5_hist_fig_ismale", 0.9, 0.01, 0.88), ("54_cs_tf", 0.6, 0.02, 0.7), ("68_credit-card", 0.99, 0.0, 1.0)]
    more = {"n_rows": 2_000, "n_texts": 1_500, "n_trained": 1_024, "n_test": 976, "unseen": 0.5, "floor_unseen": 0.8,
            "embedding": 0.7, "layer_9": 0.8, "length": 20.0}  # fmt: skip
    return pd.DataFrame([dict(zip(("task", "floor", "sd", "layer_20"), row, strict=True)) | more for row in rows])


def test_facts_are_counted_from_the_results():
    told = page.facts(results())
    assert (told["near"], told["as good"], told["beyond"]) == ("2 of 3", "1 of 3", "0 of 3")
    assert told["mean floor"] == "0.830" and told["repeated"] == "25 %" and told["seen"] == "50 %"
    beside = pd.DataFrame([
        {"task": "54_cs_tf", "length": 20.0, "n": 1_000, "groups": 900, "floor_auroc": 0.6, "auroc": 0.8, "fbu": 0.9,
         "low": 0.85, "high": 0.95},
        {"task": "68_credit-card", "length": 20.0, "n": 1_000, "groups": 900, "floor_auroc": 0.9, "auroc": 0.9,
         "fbu": 1.0, "low": 0.98, "high": 1.02},
    ])  # fmt: skip
    both = page.results(results(), beside)
    told = page.facts(both)
    assert (told["something"], told["nothing left"], told["fooled"]) == ("1 of 2", "1 of 2", "1")
    assert page.model_table(both).splitlines()[2] == "| 54 cs tf | 1,000 | 900 | 0.600 | 0.800 | 0.90 | 0.85 to 0.95 |"
    assert len(page.text_table(both).splitlines()) == 5


def test_the_picture_has_every_task_at_its_place():
    made = page.scatter(results())
    assert made.count("<title>") == 3 and "credit-card: text 0.990, layer 20 1.000" in made
    assert made.count("<circle") == 2, "one task where the probe finds more, and the key"
    x, y = page._at(0.6, 0.7)
    assert f'<circle cx="{x:.1f}" cy="{y:.1f}"' in made
