"""The runner: a batch job and the researcher's entry agree, runs stop and resume, a broken cell costs itself alone."""

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import checkpoints
import probekit as pk
from checkpoints import sharpen
from probekit.errors import BadInput, Interrupted
from probekit.jobs import captures, job
from probekit.jobs import work as work_of
from probekit.records import digest

WORDS = [word for sentence in checkpoints.SENTENCES for word in sentence.split()]
COORDINATES = ["hook", "level", "source", "k", "control", "floor", "fit_domain", "test_domain", "behaviour", "metric",
               "arm"]  # fmt: skip


def write_rows(path, n, domains=("seen",), seed=0):
    """n rows of the first domain, fewer of others, twenty groups each; the label is what the text says, or chance."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label", "group", "domain", "colour"])
        for d, domain in enumerate(domains):
            for i in range(n if d == 0 else min(n, 200)):
                words = [draw.choice(WORDS) for _ in range(5)]
                label = "yes" if words[-1] < "m" or draw.random() < 0.2 else "no"
                colour = "early" if words[-1] < "m" else "late"
                out.writerow([" ".join(words), label, f"{d}-{i % 20}", domain, colour])


def write_job(folder, model, *, name="job", rows=400, domains=("seen",), hooks='"blocks.*.hook_resid_post"', read="",
              more="", label=True):  # fmt: skip
    """A spec beside its CSV: a label of the data, and the model's own choice between two tokens."""
    write_rows(folder / "rows.csv", rows, domains)
    own = '[[task.behaviours]]\nname = "choice"\nkind = "choice"\ntokens = ["he", "nine"]\n'
    external = '[[task.behaviours]]\nname = "label"\nkind = "label"\ncolumn = "label"\n'
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nn_bootstrap = 200\n[model]\nname = "{model}"\n'
        '[task]\nfile = "rows.csv"\ntext = "text"\ngroup = "group"\ndomain = "domain"\n'
        + own + (external if label else "")
        + f'[read]\nhooks = [{hooks}]\n' + ONE_SPLIT + (read or READ) + more
    )  # fmt: skip
    return path


ONE_SPLIT = "outer_folds = 1\ninner_folds = 1\nfalls = false\n"
READ = (
    'levels = ["prior", "direction", "linear"]\nks = [1]\ncontrols = []\ndecomposition = false\nfloors = ["strong"]\n'
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of width 8, so that 400 rows satisfy the protocol."""
    folder = tmp_path_factory.mktemp("small")
    return sharpen(checkpoints.write(folder / "plain", "gpt2", d_model=8, n_layers=3), folder / "tiny", 300.0)


def go(path, folder, **more):
    return pk.run_job(path, root=folder / "runs", store=folder / "store", **more)


def name_of(path):
    """Name of the folder that a job would be measured into."""
    return job.Job.load(pk.JobSpec.read_toml(path), path.parent).run


def keys(frame):
    """One text per row out of the coordinates, a missing k as such."""
    k = ["-" if pd.isna(value) else str(int(value)) for value in frame["k"]]
    rows = frame[COORDINATES].assign(k=k).itertuples(index=False)
    return [" ".join(map(str, row)) for row in rows]


def measured(run):
    """Records in one order."""
    return run.records.sort_values("id").reset_index(drop=True)


class Counter:
    """Counts the cells that are measured."""

    def __init__(self, monkeypatch):
        self.cells = []
        plain = work_of.Work.measure

        def counted(work, cell):
            self.cells.append(cell.label)
            return plain(work, cell)

        monkeypatch.setattr(work_of.Work, "measure", counted)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_job_and_measure_on_its_activations_agree(checkpoint, tmp_path, architecture):
    wide = architecture == "llama"
    folder = sharpen(checkpoint(architecture), tmp_path / "sharp", 12.0 if wide else 40.0)
    read = READ
    if wide:
        levels = '"baseline", "direction", "directions", "simple:two_thresholds", "linear"'
        read = f"levels = [{levels}]\nks = [1]\nsimple_ks = [1]\n"
        read += 'controls = ["random_directions", "permuted", "random_twin"]\n'
        read += "decomposition = false\n"
    domains, more = (("seen", "other"), '[transfer]\nlevels = ["linear"]\n') if wide else (("seen",), "")
    path = write_job(tmp_path, folder, rows=900, domains=domains, hooks='"blocks.1.hook_resid_post"',
                     read=read, more=more)  # fmt: skip
    run = go(path, tmp_path)
    spec = pk.JobSpec.read_toml(path)
    model = pk.load_model(folder)
    task = job.Job.load(spec, tmp_path).task
    captured = pk.capture(model, task, spec.read.hooks, store=None)
    twin = pk.capture(model.random_twin(0), task, spec.read.hooks, store=None)
    seen = captured.observations
    options = spec.read.model_dump(exclude={"hooks"})
    arrays = {name: site.numpy() for name, site in captured.sites.items()}
    found = pk.measure(
        arrays, behaviour={b.name: b.law for b in seen.behaviours.values()}, floor=dict(seen.floor_inputs),
        groups=seen.group, domains=seen.domain, twin={name: site.numpy() for name, site in twin.sites.items()},
        n_bootstrap=200, **options,
    )  # fmt: skip
    left, right = (frame.set_index(pd.Index(keys(frame))).sort_index() for frame in (run.records, found))
    assert left.index.is_unique
    assert left.index.tolist() == right.index.tolist()
    for column in ("value", "low", "high", "bits", "floor_bits", "ceiling_bits"):
        a, b = (pd.to_numeric(side[column]).to_numpy(float) for side in (left, right))
        assert np.allclose(a, b, atol=1e-6, rtol=0, equal_nan=True), column
    assert (left["na_reason"] == right["na_reason"]).all()
    assert left.query("metric == 'read'")["value"].notna().sum() >= 6

    # the law that was measured is what the library itself chooses
    from transformers import AutoModelForCausalLM, AutoTokenizer

    judge = AutoModelForCausalLM.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    tokens = words.convert_tokens_to_ids(["he", "nine"])
    with torch.inference_mode():
        logits = judge(input_ids=torch.from_numpy(np.stack(task.tokens))).logits[:, -1]
    law = seen.behaviours["choice"].law
    assert np.allclose(law, logits[:, tokens].softmax(1).numpy(), atol=1e-4)
    assert 0.1 < law[:, 0].mean() < 0.9  # both happen
    check_records(run, spec)


def check_records(run, spec):
    """What every record and manifest must hold."""
    frame = run.records
    assert frame["id"].is_unique
    valued = frame[frame["value"].notna()]
    in_bits = valued[valued["metric"] != "auroc"]
    assert (valued["na_reason"] == "").all()
    assert (frame[frame["value"].isna()]["na_reason"] != "").all()
    assert (valued["low"] <= valued["value"] + 1e-9).all()
    assert (valued["value"] <= valued["high"] + 1e-9).all()
    assert in_bits[["floor_bits", "ceiling_bits"]].notna().all().all()
    assert valued[["n", "groups"]].notna().all().all()
    assert (valued["n"] >= valued["groups"]).all() and (valued["groups"] >= 3).all()
    assert (in_bits["floor_bits"] - in_bits["ceiling_bits"] >= 0.05).all()
    manifest = run.manifest
    assert manifest["spec_hash"] == digest(run.spec) == spec.id
    worst = run.table("worst_examples")
    assert len(worst) and worst["missed_bits"].notna().all()
    for _, part in worst.groupby(["hook", "behaviour"]):
        assert part["missed_bits"].is_monotonic_decreasing  # the worst first
    kept = manifest["provenance"]
    assert len(kept["model"]["fingerprint"]) == 32 and len(kept["task"]["fingerprint"]) == 16
    assert kept["packages"]["torch"] and kept["packages"]["transformers"]
    assert kept["seeds"] == {"probe": 0, "data": 0, "model": 0}
    assert kept["audit"]["hf_parity"] < 1e-4
    assert kept["timings"]["all"] > 0
    assert {name.split()[0] for name in kept["floors"]} == set(frame["behaviour"])
    assert all(floor["bits"] >= floor["ceiling_bits"] for floor in kept["floors"].values())
    assert set(kept["selected"]) == set(frame["behaviour"])
    assert set(kept["selected"].values()) <= set(frame["hook"])


@pytest.fixture(scope="module")
def stopped(small, tmp_path_factory):
    """One job measured at a stretch, and again with an interruption: (whole, half, resumed, cells as measured)."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter(patch)
        path = write_job(folder, small)
        whole = go(path, folder)
        n_cells = whole.manifest["cells"]["total"]
        assert n_cells == len(counter.cells) == 8  # two behaviours, each at three layers and at the selected one
        counter.cells.clear()

        def stop(what, done, total, left=None):
            if done == 5 and total == n_cells:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match="5 of 8 cells are kept"):
            pk.run_job(path, root=folder / "again", store=folder / "store", progress=stop)
        assert len(counter.cells) == 5
        (again,) = (folder / "again").iterdir()
        half = pk.open_run(again, partial=True)
        assert half.problem and half.state == "stopped" and len(half.records)
        resumed = pk.run_job(path, root=folder / "again", store=folder / "store")
    return whole, half, resumed, counter.cells


def test_an_interrupted_run_resumes_without_measuring_a_cell_twice(stopped):
    whole, half, resumed, cells = stopped
    assert len(cells) == len(set(cells)) == 8  # the rest, and nothing twice
    assert resumed.path == half.path and resumed.status["state"] == "complete"
    pd.testing.assert_frame_equal(measured(resumed), measured(whole))
    assert set(resumed.cells["cell"]) == set(whole.cells["cell"])
    kept = [run.manifest["provenance"] for run in (resumed, whole)]
    assert kept[0]["selected"] == kept[1]["selected"]


def test_a_resumed_run_names_every_floor(stopped):
    whole, _, resumed, _ = stopped
    assert resumed.manifest["provenance"]["floors"] == whole.manifest["provenance"]["floors"]


def test_a_finished_run_returns_at_once_and_another_spec_gets_another_folder(small, tmp_path, monkeypatch):
    path = write_job(tmp_path, small, hooks='"blocks.0.hook_resid_post"', label=False)
    first = go(path, tmp_path)
    sealed = {file: file.read_bytes() for file in first.path.rglob("*") if file.is_file()}
    counter = Counter(monkeypatch)
    plain, calls = captures.capture, []
    monkeypatch.setattr(captures, "capture", lambda *args, **more: calls.append(1) or plain(*args, **more))
    second = go(path, tmp_path)
    assert not counter.cells and not calls
    assert second.path == first.path
    assert sealed == {file: file.read_bytes() for file in first.path.rglob("*") if file.is_file()}
    path.write_text(path.read_text().replace("ks = [1]", "ks = [2]"))
    third = go(path, tmp_path)
    assert third.path != first.path and third.path.name.startswith("job-")
    assert counter.cells
    # other rows under the same spec are another run too
    write_rows(tmp_path / "rows.csv", 400, seed=1)
    assert name_of(path) not in (first.name, third.name)


RULE = """
import numpy as np

def by_colour(features):
    early = features["colour"][:, 0] == 0
    return np.stack([~early, early], 1).astype(np.float32)
"""


def test_a_hypothesis_from_a_file_is_measured_and_its_source_decides_the_run(small, tmp_path):
    more = '[[hypotheses]]\nname = "early"\nrule = "rule.py:by_colour"\nfeatures = ["colour"]\nbehaviour = "label"\n'
    path = write_job(tmp_path, small, hooks='"blocks.2.hook_resid_post"', read=READ + 'features = ["colour"]\n',
                     more='[[task.features]]\nname = "colour"\ncolumn = "colour"\n' + more)  # fmt: skip
    (tmp_path / "rule.py").write_text(RULE)
    run = go(path, tmp_path)
    stated = run.manifest["provenance"]["hypotheses"]["early"]
    assert stated == {"features": ["colour"], "source_hash": hashlib.sha256(RULE.encode()).hexdigest()[:16]}
    rows = run.records[run.records["level"] == "hypothesis:early"]
    assert set(rows["behaviour"]) == {"label"} and set(rows["source"]) == {"decoded", "true"}
    true = rows[rows["source"] == "true"].iloc[0]
    # 'yes' if early, else with probability .2: the rule mixed with the floor is at most as bad as the floor
    assert true["bits"] <= true["floor_bits"] + 0.05
    assert stated["source_hash"] in true["note"]
    (tmp_path / "rule.py").write_text(RULE + "# the same rule, another source\n")
    assert name_of(path) != run.name


def test_replace_cells_keep_what_read_cells_left_behind(small, tmp_path):
    read = 'levels = ["linear", "directions"]\nks = [1]\ncontrols = []\ndecomposition = false\nfloors = ["strong"]\n'
    hooks = '"blocks.1.hook_resid_post", "blocks.2.hook_resid_post"'
    more = f"[replace]\nhooks = [{hooks}]\nks = [1]\nrows = 100\ndonors = 4\n"
    run = go(write_job(tmp_path, small, label=False, hooks=hooks, read=read, more=more), tmp_path)
    assert not run.manifest["cells"]["failed"]
    rows = run.records[run.records["metric"] == "replace"]
    assert {"single:random", "single:matched", "chain:random", "chain:matched"} <= set(rows["arm"])
    assert {"behaviour", "pca", "random"} == set(rows["source"])
    assert (rows["hook"] == "").equals(rows["arm"].str.startswith("chain"))
    assert rows["value"].notna().all()


ALWAYS = '[[task.behaviours]]\nname = "always"\nkind = "choice"\ntokens = ["nine", "he"]\n'


def test_a_behaviour_that_never_varies_is_na_beside_the_others(small, tmp_path, monkeypatch):
    """What the model does is known once it has been run: here it always says the same."""
    from probekit.activations.laws import Reduction

    read = 'levels = ["linear", "directions"]\nks = [1]\ncontrols = []\ndecomposition = false\nfloors = ["strong"]\n'
    more = '[replace]\nks = [1]\nrows = 16\ndonors = 4\nbehaviours = ["choice", "always"]\n'
    hooks = '"blocks.1.hook_resid_post", "blocks.2.hook_resid_post"'
    path = write_job(tmp_path, small, hooks=hooks, read=read, more=more)
    path.write_text(path.read_text().replace("[[task.behaviours]]", ALWAYS + "[[task.behaviours]]", 1))
    plain = Reduction.law

    def law(reduction, logits, rows=None):
        found = plain(reduction, logits, rows)
        return torch.eye(2)[[0] * len(found)] if reduction.spec.name == "always" else found

    monkeypatch.setattr(Reduction, "law", law)
    run = go(path, tmp_path)
    assert not run.manifest["cells"]["failed"]
    rows = run.records[run.records["behaviour"] == "always"]
    assert set(rows["metric"]) == {"read", "replace"} and set(rows["na_reason"]) == {"small_denominator"}
    assert set(rows["note"]) == {"one class ('nine')"} and rows["id"].is_unique
    kept = {f"{sites}:{donor}" for sites in ("single", "chain") for donor in ("random", "matched")} | {"single:mean"}
    erased = {"necessity:resample", "necessity:mean", "necessity:leace"}
    assert set(rows["arm"]) == {"", "iia"} | kept | erased
    assert run.manifest["provenance"]["floors"]["always seen"] == {"constant": "one class ('nine')"}
    assert (run.records.query("behaviour == 'choice' and metric == 'read'")["na_reason"] == "").all()


def test_repeats_are_the_same_job_under_other_seeds_of_the_data(small, tmp_path):
    """Their values are those of jobs that ask for the seed alone; all that is shown of one split is of the first."""
    lean = {"name": "repeated", "read": READ.replace('"linear"', '"linear", "baseline"'), "label": True, "rows": 200}
    path = write_job(tmp_path, small, **lean, hooks='"blocks.[01].hook_resid_post"')
    path.write_text("repeats = 3\n" + path.read_text().replace("[task]", "seed = 7\n[task]", 1))
    run = go(path, tmp_path)
    found = run.records.query("metric == 'read' and control == ''")
    assert set(found["seed_data"]) == {0, 1, 2} and run.records["id"].is_unique
    assert set(run.records["seed_model"]) == {7}, "what the spec says of its model, in every record of every split"
    path.write_text(path.read_text().replace("repeats = 3", "seed_data = 2"))
    alone = go(path, tmp_path).records.query("metric == 'read' and control == ''")
    ours = found[found["seed_data"] == 2]
    pd.testing.assert_frame_equal(
        ours.sort_values("id").reset_index(drop=True)[["id", "value", "low", "high", "bits", "n"]],
        alone.sort_values("id").reset_index(drop=True)[["id", "value", "low", "high", "bits", "n"]],
    )
    told = pk.table("spread", run.records, behaviour="label")
    linear = told[(told["level"] == "linear") & (told["hook"] == "blocks.1.hook_resid_post")].iloc[0]
    values = found.query("level == 'linear' and hook == 'blocks.1.hook_resid_post' and behaviour == 'label'")["value"]
    assert linear["splits"] == 3 and linear["mean"] == pytest.approx(values.mean())
    assert (linear["lowest"], linear["highest"]) == (values.min(), values.max())
    assert linear["value"] == values[found["seed_data"] == 0].iloc[0]
    assert "over 3 splits of the rows" in " ".join(str(pk.summary(run.records, behaviour="label")).split())
    assert set(pk.table("leak_map", run.records, behaviour="label")["n"]) == {50}, "one split alone"


def test_what_answers_are_worth_is_told_before_anything_is_read(small, tmp_path, caplog):
    """Mass, entropy and agreement with the label against the library's own forward on the same texts."""
    write_rows(tmp_path / "rows.csv", 60)
    text = (tmp_path / "rows.csv").read_text().replace(",yes,", ",He,").replace(",no,", ",nine ,")
    (tmp_path / "rows.csv").write_text(text)
    path = write_job(tmp_path, small, read=READ.replace('"linear"', '"baseline"'), hooks='"blocks.0.hook_resid_post"')
    (tmp_path / "rows.csv").write_text(text)
    run = go(path, tmp_path)
    model = pk.load_model(small)
    told, agrees, tops = [], [], []
    ids = [model.tokenizer.convert_tokens_to_ids(word) for word in ("he", "nine")]
    for row in csv.DictReader(text.splitlines()):
        tokens = torch.tensor([model.tokenizer(row["text"])["input_ids"]])
        with torch.no_grad():
            p = torch.softmax(model.bridge.hf(tokens).logits[0, -1].double(), -1)
        told.append(float(p[ids].sum()))
        tops.append(int(p.argmax()))
        agrees.append((p[ids[0]] > p[ids[1]]) == (row["label"] == "He"))
    kept = run.manifest["provenance"]["behaviours"]["choice"]
    assert kept["covered_mass"] == pytest.approx(np.mean(told), abs=1e-4)
    assert kept["agrees"] == {"label": pytest.approx(np.mean(agrees))}
    assert 0 <= kept["entropy_bits"] <= 1
    likeliest = model.token_names([int(np.bincount(tops).argmax())])[0]
    assert kept["likeliest"] == likeliest
    little = kept["covered_mass"] < 0.5
    assert little == ("hold" in caplog.text), caplog.text
    shown = str(pk.summary(run.records, behaviour="choice"))
    assert little == ("The answers asked for hold" in " ".join(shown.split()))
    assert "it is the label label" in " ".join(shown.split())


@pytest.mark.parametrize("transfer", ["", '[transfer]\nlevels = ["linear"]\n'])
def test_where_no_label_varies_nothing_is_captured(small, tmp_path, transfer):
    path = write_job(tmp_path, small, domains=("seen", "new"), more=transfer)
    text = path.read_text()
    start, stop = text.index("[[task.behaviours]]"), text.index('[[task.behaviours]]\nname = "label"')
    path.write_text(text[:start] + text[stop:])
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    for row in rows:  # varies in the domain that is not measured without [transfer]
        row["label"] = "yes" if row["domain"] == "seen" else row["label"]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    if transfer:
        assert len(go(path, tmp_path).records)
        return
    with pytest.raises(BadInput, match=r"in domain 'seen': behaviour 'label' has one class \('yes'\)"):
        go(path, tmp_path)
    assert not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()


def test_one_failing_cell_is_named_and_costs_no_other(small, tmp_path, monkeypatch, capsys, caplog):
    from probekit.cli.main import main

    path = write_job(tmp_path, small)
    plain = work_of.Work.measure

    def fails(work, cell):
        if cell.what == "label" and cell.hooks == ("blocks.1.hook_resid_post",):
            raise RuntimeError("planted")
        return plain(work, cell)

    monkeypatch.setattr(work_of.Work, "measure", fails)
    command = ["probekit", "run", str(path), "--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    run = pk.open_run(next((tmp_path / "runs").iterdir()))
    assert run.manifest["cells"]["ok"] == 7
    (failed,) = run.manifest["cells"]["failed"]
    assert failed["error"] == "read label at blocks.1.hook_resid_post: RuntimeError: planted"
    log = run.path / "log-0.txt"
    # what a terminal gets: the warning at once, and its first half again below the tables
    (said,) = (record for record in caplog.records if "its answers hold" not in record.getMessage())
    assert f"failed: {failed['error']}; all else is measured; the traceback is in {log}" in said.getMessage()
    assert said.exc_info is None
    assert f"failed: {failed['error']}\n" in capsys.readouterr().err
    assert "Traceback" in log.read_text() and failed["error"] in log.read_text()
    valued = run.records[run.records["na_reason"] != "failed"].groupby("behaviour")["hook"].nunique()
    assert valued["choice"] == 3 and valued["label"] == 2
    lost = run.records[run.records["na_reason"] == "failed"]
    assert set(lost["hook"]) == {"blocks.1.hook_resid_post"} and set(lost["behaviour"]) == {"label"}
    assert set(pk.table("layers", run, behaviour="label")["mark"]) >= {"NA: failed"}


def test_groups_without_anything_to_explain_warn_nobody():
    from probekit.metrics.bootstrap import Clusters
    from probekit.metrics.ratios import estimates, fbu

    group = np.repeat(np.arange(40), 5)
    floor = (group % 2).astype(float)  # as where a class falls into some of the groups
    [estimate] = estimates([fbu(np.full(200, 0.1), floor, np.zeros(200))], Clusters.of(group, 200, 0))
    assert estimate.value == pytest.approx(0.2)


def test_a_hook_or_feature_that_is_not_there_is_told_before_anything_is_captured(small, tmp_path):
    path = write_job(tmp_path, small, hooks='"blocks.7.hook_resid_post"')
    with pytest.raises(BadInput, match="3 layers"):
        go(path, tmp_path)
    path = write_job(tmp_path, small, read=READ + 'features = ["colour"]\n')
    with pytest.raises(BadInput, match="read.features names 'colour'"):
        go(path, tmp_path)
    assert not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()


def n_done(runs):
    """Cells finished in the one run folder, as its status says."""
    return sum(json.loads(status.read_text())["done"] for status in runs.glob("*/status.json"))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_in_a_real_process_exits_130_and_the_same_command_resumes(small, tmp_path):
    path = write_job(tmp_path, small)
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", "from probekit.cli.main import main; main()", "run", str(path),
               "--runs", str(runs), "--store", str(tmp_path / "store")]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Tests that a shell started in the background inherit a SIGINT that is ignored; a person's terminal does not.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not n_done(runs) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    resume = error.strip().splitlines()[-1]
    assert "are kept in" in " ".join(error.split()) and resume.startswith(f"resume: probekit run {path} ")
    (folder,) = Path(runs).iterdir()
    before = pk.open_run(folder, partial=True)
    done = json.loads((folder / "status.json").read_text())["done"]
    assert 1 <= done < 8 and before.manifest is None
    lines = next(folder.glob("cells-*.jsonl")).read_bytes()
    resumed = go(path, tmp_path)
    assert resumed.manifest["cells"]["ok"] == 8
    first = json.loads(lines.splitlines()[0])
    kept = resumed.cells.set_index("cell")["seconds"]
    assert kept[first["cell"]] == first["seconds"]  # not measured again: another time would be written


def write_wide_job(folder, model):
    """Cells that read what other cells kept: a hypothesis on decoded features, the selected site, a replaced chain."""
    read = 'levels = ["linear", "directions"]\nks = [1]\ncontrols = []\ndecomposition = false\nfloors = ["strong"]\n'
    hooks = '"blocks.1.hook_resid_post", "blocks.2.hook_resid_post"'
    more = '[replace]\nks = [1]\nrows = 16\ndonors = 4\nbehaviours = ["choice"]\n'
    more += '[[task.features]]\nname = "colour"\ncolumn = "colour"\n[[hypotheses]]\nname = "early"\n'
    more += 'rule = "rule.py:by_colour"\nfeatures = ["colour"]\nbehaviour = "label"\n'
    (folder / "rule.py").write_text(RULE)
    return write_job(folder, model, hooks=hooks, read=read + 'features = ["colour"]\n', more=more)


def test_two_workers_find_what_one_finds_and_resume_after_a_stop(small, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the workers, as of this process: bits depend on it
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        path = write_wide_job(tmp_path, small)
        whole = pk.run_job(path, root=tmp_path / "one", store=tmp_path / "store")
        n_cells = whole.manifest["cells"]["total"]

        def stop(what, done, total, left=None):
            if done >= 3 and total == n_cells:
                raise KeyboardInterrupt

        both = {"root": tmp_path / "two", "store": tmp_path / "store", "n_workers": 2}
        with pytest.raises(Interrupted, match=f"of {n_cells} cells are kept"):
            pk.run_job(path, **both, progress=stop)
        (folder,) = (tmp_path / "two").iterdir()
        half = pk.open_run(folder, partial=True)
        assert half.state == "stopped" and half.status["done"] >= 3 and len(half.records)
        kept = half.cells.set_index("cell")["seconds"]
        written = {file.name for file in folder.glob("cells-*.jsonl")}
        assert written and written <= {"cells-1.jsonl", "cells-2.jsonl"}  # the driver only watches
        resumed = pk.run_job(path, **both)
    finally:
        torch.set_num_threads(before)
    assert not whole.manifest["cells"]["failed"] and not resumed.manifest["cells"]["failed"]
    pd.testing.assert_frame_equal(measured(resumed), measured(whole), check_exact=True)
    assert set(resumed.cells["cell"]) == set(whole.cells["cell"])
    again = resumed.cells.set_index("cell")["seconds"]
    assert (again[kept.index] == kept).all()  # not measured again: another time would be written
    for name in ("worst_examples", "sites"):
        pd.testing.assert_frame_equal(resumed.table(name), whole.table(name), check_exact=True)
    told = [run.manifest["provenance"] for run in (whole, resumed)]
    assert told[0]["selected"] == told[1]["selected"] and told[0]["floors"] == told[1]["floors"]
