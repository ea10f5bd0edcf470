"""Edited here and read there, from a file: an answer follows a field that is swapped, and a subspace is learned so."""

import numpy as np
import pytest
import torch

import checkpoints
import probekit as pk
from probekit.activations.capture import capture
from probekit.errors import BadInput
from probekit.inputs.filetask import read_file_task
from probekit.inputs.swaps import swapped_task
from probekit.jobs.job import Job
from probekit.jobs.plan import forecast_of, plan_rows
from probekit.jobs.runner import run_job
from probekit.jobs.work import Work
from probekit.metrics.causal.training import TrainingCurve
from probekit.model.branching import Trunk
from probekit.model.model import Model
from probekit.results import tables
from probekit.results.text import causal_text, steering_text
from probekit.spec import JobSpec, SteerSpec
from rowfiles import write

CITIES = ("paris", "madrid", "france", "spain", "red", "blue", "car", "bicycle", "old", "one", "two", "three")
FIRST, LAST = "blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random network of whole words whose answers are sharp, and a file of what it is asked."""
    path = tmp_path_factory.mktemp("causal")
    hf = checkpoints.build("gpt2", 64)
    hf.transformer.ln_f.weight.data.mul_(40)  # a random network is hardly ever sure of anything
    hf.save_pretrained(path / "model")
    checkpoints.words().save_pretrained(path / "model")
    draw = np.random.default_rng(0)
    rows = [{"city": CITIES[i % 12], "what": str(draw.choice(["capital", "sentence", "bicycle"])),
             "truth": ["no", "yes"][int(draw.integers(2))], "group": f"g{i}"} for i in range(120)]  # fmt: skip
    write(path / "rows.jsonl", rows)
    return path, answers_of(path / "model", rows)


def answers_of(path, rows):
    """Two words between which the field decides, as it stands: each is the likelier one for half of the cities."""
    model = pk.load_model(path)
    texts = model.encoder.encode([f"the {row['what']} of {row['city']} is" for row in rows], special=True).tokens
    logits = torch.zeros(len(texts), model.d_vocab)
    ends = [np.array([len(ids) - 1]) for ids in texts]
    model.read(texts, [], ends, on_logits=lambda values, at: logits.__setitem__(at, values))
    by_city = torch.stack([logits[i::12].mean(0) for i in range(12)])
    words = [
        w for w in ("france", "spain", "car", "red", "one", "two", "three", "four", "blue", "old", "true", "false")
    ]
    ids = [model.encoder.answer(word)[0] for word in words]
    gap = by_city[:, ids][:, :, None] - by_city[:, ids][:, None]
    balance = (gap > 0).float().mean(0)
    score = torch.where((balance - 0.5).abs() <= 0.1, gap.abs().min(0).values, -1.0)
    i, j = divmod(int(score.argmax()), len(words))
    return [words[i], words[j]]


def job(folder, answers=None, **replace):
    folder, known = folder
    answers = known if answers is None else answers
    told = {
        "name": "causal", "model": {"name": str(folder / "model"), "twin": False},
        "task": {
            "file": str(folder / "rows.jsonl"), "template": "the {what} of {city} is", "group": "group",
            "position": "field:city", "answer": "last", "copies": "keep",
            "behaviours": [{"name": "says", "kind": "choice", "tokens": list(answers)},
                           {"name": "truth", "kind": "label", "column": "truth"}],
        },
        "read": {"hooks": [FIRST, "blocks.1.hook_resid_post", LAST], "levels": ["directions", "linear"], "ks": [1],
                 "controls": [], "decomposition": False, "extrapolate": False, "falls": False, "n_permutations": 0,
                 "outer_folds": 1, "inner_folds": 1},
        "replace": {"hooks": [FIRST, LAST], "ks": [1], "rows": 24, "donors": 4, "behaviours": ["says"]} | replace,
        "n_bootstrap": 200,
    }  # fmt: skip
    return JobSpec.check(told, "job")


def test_the_answer_is_read_where_it_is_asked_and_activations_elsewhere(folder):
    (path, answers), spec = folder, job(folder).task
    model = pk.load_model(path / "model")
    task = read_file_task(spec, path, model.encoder)
    assert [p.tolist() for p in task.positions[:3]] == [[3], [3], [3]]
    assert task.answer is not None and set(task.answer.tolist()) == {4}
    found = capture(model, task, [FIRST], store=None)
    ends = [np.array([len(t) - 1]) for t in task.tokens]
    logits = torch.zeros(len(ends), model.d_vocab)
    model.read(task.tokens, [], ends, on_logits=lambda values, rows: logits.__setitem__(rows, values))
    ids = [model.encoder.answer(word)[0] for word in answers]
    assert np.allclose(found.observations.behaviours["says"].law, logits[:, ids].softmax(1).numpy(), atol=1e-5)
    # the floor is told the whole text, up to where the answer is read
    assert set(found.observations.floor_inputs["text"]) >= {"the capital of paris is"}
    own = read_file_task(spec.model_copy(update={"answer": None}), path, model.encoder)
    elsewhere = capture(model, own, [FIRST], store=None)
    assert not np.allclose(elsewhere.observations.behaviours["says"].law, found.observations.behaviours["says"].law)


def test_texts_that_differ_in_one_field_are_made_of_the_tasks_own_rows(folder):
    path, spec = folder[0], job(folder).task
    model, folder = pk.load_model(path / "model"), path
    task = read_file_task(spec, folder, model.encoder)
    made = swapped_task(spec, folder, model.encoder, "city", np.array([[0, 1], [0, 0], [5, 2]]))
    words = [model.tokenizer.decode(ids) for ids in made.tokens]
    own = [model.tokenizer.decode(ids) for ids in task.tokens]
    assert words[0] == own[0].replace("paris", "madrid") and words[1] == own[0]
    assert words[2] == own[5].replace(CITIES[5], "france")
    assert made.answer is not None and [p.tolist() for p in made.positions] == [[3]] * 3
    with pytest.raises(BadInput, match="no field of the text. Did you mean 'city'"):
        swapped_task(spec, folder, model.encoder, "cityy", np.array([[0, 1]]))


def test_an_answer_follows_a_field_that_is_swapped_before_anything_is_computed(folder, tmp_path):
    """Below the first block the field's token is all that differs: the network does what it does on the made text."""
    run = run_job(job(folder, swap="city", das_ks=[2], das_steps=40), root=tmp_path / "runs", store=tmp_path / "store")
    records = run.records[(run.records["metric"] == "replace") & (run.records["position"] == "all")]
    iia = records[(records["arm"] == "iia") & (records["control"] == "")].set_index(["hook", "source"])
    assert {"behaviour", "label:truth", "pca", "das"} <= set(iia.index.get_level_values(1))
    for _, row in iia.loc[FIRST].iterrows():
        assert "of all of the site 1.000" in row["note"]
    # what was learned by exchanging it does better than a direction that reads as much, and is kept with the run
    assert iia.loc[FIRST, "das"]["value"] < iia.loc[FIRST, "label:truth"]["value"] - 0.2
    told = run.table("angles").set_index(["hook", "reads"])  # beside what chance makes
    assert set(told["mediates"]) == {"das, k=2"} and told["p"].between(0, 1).all()
    assert told["degrees"].between(0, 90).all() and (told["chance_low"] < told["chance_high"]).all()
    assert {"says: directions (behaviour), k=1", "truth: directions (behaviour), k=1"} <= set(told.loc[FIRST].index)
    arms = set(records.loc[records["source"] == "das", "arm"])
    assert {"single:random", "single:matched", "necessity:resample", "iia"} <= arms  # judged like any other source
    # behind the last block nothing at that token reaches the answer: no interchange, nothing to be necessary
    assert set(records.loc[(records["hook"] == LAST) & records["arm"].isin(["iia", "necessity:resample"]),
                           "na_reason"]) == {"small_denominator"}  # fmt: skip
    labels = records[records["source"] == "label:truth"]
    assert set(labels["arm"]) >= {"single:random", "necessity:leace"}


MLP = "blocks.0.mlp.hook_post"


def test_beside_what_was_learned_stands_what_the_search_does_elsewhere(folder, tmp_path, monkeypatch):
    """The twin is the network itself, in which the same search on the same cases does the same: vacuous, exactly."""
    monkeypatch.setattr(Model, "random_twin", lambda self, seed: self)
    spec = job(folder, swap="city", das_ks=[2], das_steps=10, hooks=[FIRST, MLP], arms=["single:random", "iia"])
    hooks = {"hooks": (FIRST, MLP)}
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"twin": True}),
                                   "read": spec.read.model_copy(update=hooks)})  # fmt: skip
    of_work, made = Work._made, []
    monkeypatch.setattr(Work, "_made", lambda self, *asked: made.append(asked[1:]) or of_work(self, *asked))
    run = run_job(spec, root=tmp_path / "runs", store=tmp_path / "store")
    # in either network those that are exchanged and those that are learned from, and not for each search and hook point
    assert len(made) == 4
    learned = run.records[(run.records["metric"] == "replace") & (run.records["source"] == "das")]
    rows = learned.set_index(["hook", "arm", "control"])
    for hook in (FIRST, MLP):
        told = {c: iia(rows.loc[(hook, "iia", c), "note"])
                for c in ("random_twin", "shuffled_counterfactuals", "placebo")}  # fmt: skip
        assert told["random_twin"] == iia(rows.loc[(hook, "iia", ""), "note"].replace("an IIA of", "IIA"))
        assert told["placebo"] < told["random_twin"]  # where nothing says where to, as large a move brings less
        assert all(0 <= rows.loc[(hook, f"iia:{name}", ""), "value"] <= 1 for name in ("dormant", "far"))
        # on the pairs that it was learned from it cannot be right more often than always
        gap, own = rows.loc[(hook, "iia:gap", ""), "value"], rows.loc[(hook, "iia", ""), "note"]
        assert -1 <= gap <= 1 - iia(own.replace("an IIA of", "IIA")) + 5e-4
    # behind the nonlinearity all of the site brings few answers, and there is nothing to divide by in the first place
    assert [rows.loc[(hook, "iia", ""), "na_reason"] for hook in (FIRST, MLP)] == ["vacuous", "small_denominator"]
    assert rows.loc[(FIRST, "iia", "random_twin"), "value"] < rows.loc[(FIRST, "iia", "placebo"), "value"]
    assert rows.loc[(FIRST, "iia:illusion", ""), "na_reason"] == "not_defined"  # everything is read of a stream
    gap = rows.loc[(MLP, "iia:illusion", "")]
    whole, inside = iia(gap["note"]), float(gap["note"].partition("of what is read ")[2][:5])
    assert gap["value"] == pytest.approx(whole - inside, abs=2e-3)

    shown = tables.table("causal", run.records, hook=FIRST).set_index("label")
    one = shown[shown["source"] == "das"].iloc[0]
    assert {"in_twin", "shuffled", "placebo", "illusion", "dormant", "far", "gap"} <= set(shown.columns)
    assert one["placebo"] == rows.loc[(FIRST, "iia", "placebo"), "value"]
    said = causal_text(tables.table("causal", run.records, hook=FIRST), "says", 80)
    assert max(map(len, said.splitlines())) <= 80
    assert "leaves NA (as in a random network)" in " ".join(
        said.split()
    ) and "moved as far in random directions" in " ".join(said.split())


def test_a_plan_tells_how_often_the_model_is_run_with_edits(folder, tmp_path, monkeypatch):
    """Held to what is run: texts as a whole, and each edit of each of them."""
    spec = job(folder, ("she", "six"))
    spec = spec.model_copy(update={"steer": SteerSpec(doses=(-2.0, 2.0))})
    told = {one.kind: one for one in forecast_of(spec, folder[0]).edited}
    passes, runs = dict.fromkeys(told, 0), dict.fromkeys(told, 0)
    whole, branch, doing = Trunk._run, Trunk.branch, ["replace"]

    def count_whole(self, layers):
        passes[doing[0]] += len(self.texts)
        return whole(self, layers)

    def count_branch(self, edits, n_branches=1):
        if len(self.texts) <= 24 and self.texts.lengths.max() < 8:  # no other texts
            runs["chain" if len(edits) > 1 else doing[0]] += len(self.texts) * n_branches
        return branch(self, edits, n_branches)

    def steer(self, cell):
        doing[0] = "steer"
        try:
            return of_cell(self, cell)
        finally:
            doing[0] = "replace"

    of_cell = Work._steer
    monkeypatch.setattr(Trunk, "_run", count_whole)
    monkeypatch.setattr(Trunk, "branch", count_branch)
    monkeypatch.setattr(Work, "_steer", steer)
    run_job(spec, root=tmp_path / "runs", store=tmp_path / "store")
    assert told["replace"].places == told["steer"].places == 2
    for kind, one in told.items():
        assert 0.6 * one.runs <= runs[kind] <= one.runs, (
            kind
        )  # at most: LEACE may find nothing, a direction may be still
        # texts of something else come on top; those of the chain are counted with the single sites'
        assert one.passes == {"chain": 24}.get(kind, 48) and (kind == "chain" or one.passes <= passes[kind])
    assert set(told) == {"replace", "chain", "steer"} and told["chain"].places == 1
    assert told["chain"].blocks == 3 * 24 + 3 * told["chain"].runs
    # edits before the first of three blocks run all of them, those of what the last one ends with none
    n = told["steer"].runs // 2
    assert told["steer"].blocks == 3 * 2 * 24 + n * (3 + 0)
    assert told["steer"].seconds > 0 and "edited ones, " in told["steer"].line()


def test_what_is_lost_is_told_as_a_share_of_training(folder, tmp_path):
    losses = [(step, 0.4 + 3 * step**-0.5) for step in (1, 4, 16, 64, 256, 1024)]
    write(folder[0] / "curve.jsonl", [{"compute": step, "loss": loss} for step, loss in losses])
    spec = job(folder, ("she", "six"), hooks=[FIRST], arms=["single:random"], curves={"says": "curve.jsonl"})
    run = run_job(spec, root=tmp_path / "runs", store=tmp_path / "store", base=folder[0])
    rows = run.records[run.records["metric"] == "replace"].set_index(["arm", "source", "k"])
    curve = TrainingCurve.of(*np.array(losses).T / [[1], [np.log(2)]])
    told = rows.loc["single:random:compute"]
    assert len(told) == len(rows.loc["single:random:pair"]) >= 4
    for at, row in told.iterrows():
        bits = rows.loc[("single:random:pair", *at), "bits"]
        assert row["bits"] == pytest.approx(bits, rel=1e-5)
        assert row["value"] == pytest.approx(curve.share(curve.envelope[-1] + bits)) and row["low"] <= row["value"]
    said = causal_text(tables.table("causal", run.records, hook=FIRST), "says", 80)
    assert "share of its training: " in " ".join(said.split()) and max(map(len, said.splitlines())) <= 80
    wrong = {"truth": ("curve.jsonl", "replace.curves names 'truth'"), "says": ("none.csv", "none.csv"),
             "says ": ("rows.jsonl", "no column 'compute'")}  # fmt: skip
    for curves, words in (({name.strip(): file}, words) for name, (file, words) in wrong.items()):
        with pytest.raises(BadInput, match=words):
            plan_rows(job(folder, ("she", "six"), curves=curves), folder[0])


def iia(note):
    return float(note.partition("IIA ")[2][:5])


def test_a_run_that_steers_and_rolls_out_fills_its_tables(folder, tmp_path):
    # two answers that this network gives about as often, so that both have rows enough
    spec = job(folder, ("she", "six"), arms=["single:random", "roll_out"])
    spec = spec.model_copy(update={"steer": SteerSpec(doses=(-2.0, 2.0))})
    priced = {one.kind: one for one in forecast_of(spec, folder[0]).edited}
    # at the first of two sites, then at both; either way from the first of three blocks on
    assert priced["roll_out"].places == 2 and priced["roll_out"].blocks == 2 * 3 * 24 + 3 * priced["roll_out"].runs
    run = run_job(spec, root=tmp_path / "runs", store=tmp_path / "store")
    shown = tables.table("steering", run.records, hook=FIRST)
    assert {"behaviour", "label:truth"} <= set(shown["source"]) and set(shown["dose"]) == {-2.0, 2.0}
    assert shown[["effect", "random_effect", "wrong", "unrelated"]].notna().all(axis=None)
    assert shown["note"].str.startswith("raises ").all()
    points = tables.table("read_against_replace", run.records, hook=FIRST)
    assert {"", "random_directions"} == set(points["control"])
    assert (points["kept"].isna() == (points["na_reason"] != "")).all()  # 24 rows explain too little, and say so
    assert points.loc[points["source"] == "label:truth", "fitted_to"].tolist() == ["truth"]
    assert tables.table("roll_out", run.records).groupby("label")["n_sites"].apply(list)["PCA, k=1"] == [1, 2]
    assert "raises " in steering_text(shown, 80)


def test_a_job_steers_what_the_model_writes(folder, tmp_path):
    told = job(folder, ("she", "six"), hooks=[FIRST], arms=["single:random"]).model_dump(
        mode="json", exclude_unset=True
    )
    drawn = {"n_tokens": 2, "samples": 4, "temperature": 1000.0}  # its likeliest word is the same one everywhere
    told["task"]["behaviours"].append({"name": "writes", "kind": "generation", "match": {"with e": "e"}} | drawn)
    spec = JobSpec.check(told | {"steer": {"doses": [-2.0, 2.0]}}, "job")
    priced = {one.kind: one for one in forecast_of(spec, folder[0]).edited}["steer while writes is written"]
    run = run_job(spec, root=tmp_path / "runs", store=tmp_path / "store")
    shown = tables.table("steering", run.records, behaviour="writes", hook=FIRST)
    assert set(shown["dose"]) == {-2.0, 2.0} and "label:truth" in set(shown["source"])
    assert shown["effect"].isna().all() and shown[["share", "random_share", "wrong"]].notna().all(axis=None)
    n = len(shown) // 2  # directions
    assert priced.runs == 24 * 2 * 2 * n and priced.blocks == 3 * 2 * 4 * priced.runs
    printed = steering_text(shown, 80)
    assert max(map(len, printed.splitlines())) <= 80 and "share" in printed
    assert not tables.table("steering", run.records, behaviour="says", hook=FIRST).empty
    with pytest.raises(BadInput, match="steer.behaviours has 'truth', which no model says"):
        plan_rows(JobSpec.check(told | {"steer": {"behaviours": ["truth"]}}, "job"), folder[0])


def test_what_cannot_be_swapped_or_kept_is_told_before_anything_runs(folder):
    for replace, said in (
        ({"swap": "town"}, "no field of the text"),
        ({"labels": ["says"]}, "the task's labels are: truth"),
        ({"features": ["colour"]}, "which is not read"),
    ):
        with pytest.raises(BadInput, match=said):
            Job.load(job(folder, **replace), folder[0]).cells()
