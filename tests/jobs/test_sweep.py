"""Sweeps: one file for many jobs is those jobs, whatever the order and the parts; one that fails costs itself alone."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import checkpoints
import probekit as pk
from checkpoints import sharpen
from probekit.cli.main import main
from probekit.errors import OutOfTime
from probekit.jobs.budget import TimeLimit, check_budget
from probekit.jobs.captures import captures_of
from probekit.jobs.job import Job
from probekit.jobs.sweep import SweptJob, json_schema, read_spec
from probekit.records import NA_REASONS
from probekit.spec import BudgetSpec, JobSpec, ModelSpec

SWEEP = """
name = "small"
n_bootstrap = 200
seeds = [0, 1]
[[models]]
name = "./first"
[[models]]
name = "./second"
[[tasks]]
name = "word"
file = "rows.csv"
text = "text"
group = "group"
behaviours = [{ name = "label", kind = "label", column = "label" }]
[[tasks]]
name = "colour"
file = "rows.csv"
text = "text"
group = "group"
behaviours = [{ name = "colour", kind = "label", column = "colour" }]
[read]
hooks = ["blocks.0.hook_resid_post"]
levels = ["prior", "linear"]
controls = []
outer_folds = 1
inner_folds = 1
falls = false
decomposition = false
floors = ["strong"]
"""
ONE = """
[model]
name = "./second"
[task]
file = "rows.csv"
text = "text"
group = "group"
behaviours = [{ name = "label", kind = "label", column = "label" }]
"""
NAMES = [f"small-{model}-{task}-s{seed}" for model in ("first", "second") for task in ("word", "colour")
         for seed in (0, 1)]  # fmt: skip


def write_rows(path):
    draw, words = random.Random(0), [word for sentence in checkpoints.SENTENCES for word in sentence.split()]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label", "group", "colour"])
        for i in range(240):
            text = [draw.choice(words) for _ in range(5)]
            label = "yes" if text[-1] < "m" or draw.random() < 0.2 else "no"
            out.writerow([" ".join(text), label, f"g{i % 24}", "early" if text[0] < "m" else "late"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two models, a file of rows and sweep.toml."""
    folder = tmp_path_factory.mktemp("sweep")
    for i, name in enumerate(("first", "second")):
        plain = checkpoints.write(folder / f"plain{i}", "gpt2", d_model=8, n_layers=1 + i)
        sharpen(plain, folder / name, 300.0)
        shutil.rmtree(plain)
    write_rows(folder / "rows.csv")
    (folder / "sweep.toml").write_text(SWEEP)
    return folder


@pytest.fixture(scope="module")
def swept(place):
    """(outcomes of the whole sweep, its folder)."""
    sweep = pk.Sweep.read_toml(place / "sweep.toml")
    found = pk.run_sweep(sweep, place, root=place / "runs", store=place / "store")
    return found, place / "runs" / sweep.folder


def values(frame):
    """What is measured, without what tells runs apart."""
    return frame.drop(columns=["run", "id"], errors="ignore").reset_index(drop=True)


def test_every_combination_is_a_job_with_a_name_of_its_own(place):
    sweep = pk.Sweep.read_toml(place / "sweep.toml")
    assert [job.name for job in sweep.jobs] == NAMES
    assert {(job.model.name, job.task.behaviours[0].name, job.seed_data) for job in sweep.jobs} == {
        (f"./{model}", task, seed) for model in ("first", "second") for task in ("label", "colour") for seed in (0, 1)
    }
    assert isinstance(read_spec(place / "sweep.toml"), pk.Sweep)


def test_jobs_of_a_sweep_are_the_same_as_jobs_alone(place, swept):
    found, folder = swept
    assert [(o.job, o.state) for o in found] == [(name, "done") for name in NAMES]
    frame = pk.read_runs(f"{folder}/*")
    assert frame["run"].nunique() == len(NAMES)
    for i in (1, 6):
        job = pk.Sweep.read_toml(place / "sweep.toml").jobs[i]
        alone = pk.run_job(job, base=place, root=place / "alone", store=place / "other store")
        ours = frame[frame["run"] == alone.name]
        pd.testing.assert_frame_equal(values(ours), values(alone.records))


def test_parts_make_what_the_whole_makes_and_a_second_call_makes_nothing(place, swept):
    found, folder = swept
    sweep = pk.Sweep.read_toml(place / "sweep.toml")
    sizes = []
    for i in (2, 0, 1):
        part = pk.run_sweep(sweep, place, root=place / "parts", store=place / "store", shard=(i, 3))
        sizes.append(len(part))
    assert sorted(sizes) == [2, 3, 3]
    left, right = pk.read_runs(f"{folder}/*"), pk.read_runs(f"{place / 'parts' / sweep.folder}/*")
    pd.testing.assert_frame_equal(left, right)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert pk.run_sweep(sweep, place, root=place / "runs", store=place / "store") == found
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def test_a_job_that_fails_costs_itself_alone_and_is_tried_again(place, tmp_path):
    (tmp_path / "sweep.toml").write_text(SWEEP.replace('"./second"', '"./absent"').replace("seeds = [0, 1]", ""))
    for name in ("first", "rows.csv"):
        (tmp_path / name).symlink_to(place / name)
    sweep, said = pk.Sweep.read_toml(tmp_path / "sweep.toml"), []
    asked = {"root": tmp_path / "runs", "store": place / "store", "told": said.append}
    found = pk.run_sweep(sweep, tmp_path, **asked)
    assert [o.state for o in found] == ["done", "done", "failed", "failed"] and found == said
    note = tmp_path / "runs" / sweep.folder / "failed-small-absent-word.json"
    assert "absent" in json.loads(note.read_text())["error"] and "absent" in found[2].error
    (tmp_path / "absent").symlink_to(place / "second")
    assert {o.state for o in pk.run_sweep(sweep, tmp_path, **asked)} == {"done"}
    assert not note.exists()


def test_a_job_that_another_process_measures_is_left_to_it(place, tmp_path, monkeypatch):
    from probekit.errors import RunHeld
    from probekit.jobs import runner

    sweep, plain = pk.Sweep.read_toml(place / "sweep.toml"), runner.run_job

    def held(spec, **asked):
        if spec.name == NAMES[0]:
            raise RunHeld("it is being measured")
        return plain(spec, **asked)

    monkeypatch.setattr(runner, "run_job", held)
    found = pk.run_sweep(sweep, place, root=tmp_path, store=place / "store", shard=(0, 4))
    assert found[0] == SweptJob(NAMES[0], "elsewhere", error="it is being measured") and found[1].state == "done"
    assert not list((tmp_path / sweep.folder).glob("failed-*"))


def test_a_job_that_another_driver_ends_meanwhile_is_done(place, tmp_path, monkeypatch):
    """While this one makes ready to write, or while it measures the next."""
    from probekit.errors import RunHeld, RunOver
    from probekit.jobs import runner

    sweep, plain, raised = pk.Sweep.read_toml(place / "sweep.toml"), runner.run_job, []

    def raced(spec, **asked):
        found = plain(spec, **asked)
        if len(raised) < 2 and spec.name not in raised:
            raised.append(spec.name)
            raise (RunOver if len(raised) == 1 else RunHeld)("by another")
        return found

    monkeypatch.setattr(runner, "run_job", raced)
    found = pk.run_sweep(sweep, place, root=tmp_path, store=place / "store", shard=(0, 4))
    assert len(raised) == 2 == len(found) and {one.state for one in found} == {"done"} and all(one.run for one in found)
    assert not list((tmp_path / sweep.folder).glob("failed-*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("seeds = [0, 1]", "seeds = []"), "seeds is a list with at least one entry"),
        (("[read]", '[model]\nname = "x"\n[read]'), "give one of them"),
        (("[read]", '[grid]\n"read.kss" = [1]\n[read]'), "unknown key 'read.kss'"),
        (("[read]", '[grid]\n"read.ks" = 3\n[read]'), "grid.read.ks is a list"),
        (("seeds = [0, 1]", 'combine = "some"'), "say all, every combination, or zip"),
        (('name = "colour"\nfile', 'name = "word"\nfile'), "two jobs would be named small-first-word-s0"),
        (('name = "./first"', 'nme = "./first"'), "unknown key 'model.nme'. Did you mean 'name'"),
        (("seeds = [0, 1]", 'seeds = ["a"]'), "seed_data"),
        (("seeds = [0, 1]", "[bugdet]\nminutes = 3\n"), "unknown key 'bugdet'. Did you mean 'budget'"),
        (("seeds = [0, 1]", "sedes = [0, 1]"), "unknown key 'sedes'. Did you mean 'seeds'"),
        (("seeds = [0, 1]", "[budget]\nminuts = 3\n"), "unknown key 'budget.minuts'. Did you mean 'minutes'"),
        (("seeds = [0, 1]", "[budget]\nminutes = 0\n"), "budget.minutes: Input should be greater than 0"),
        (('name = "./first"', 'name = "./first"\nadapters = []'), "models.adapters is a list with at least one"),
        (('name = "./first"', 'name = "./first"\nadapter = "a"\nadapters = ["b"]'), "both `adapter` and `adapters`"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, change, told):
    (tmp_path / "sweep.toml").write_text(SWEEP.replace(*change))
    with pytest.raises(pk.BadInput, match=told.replace("[", r"\[")) as error:
        pk.Sweep.read_toml(tmp_path / "sweep.toml")
    assert "\n" not in str(error.value)


def test_lists_of_a_grid_are_combined_or_go_side_by_side():
    raw = {"name": "g", "task": {"testbed": "othello-6x6"}, "grid": {"read": {"ks": [[1], [1, 2]]},
           "read.levels": [["linear"], ["prior"]]}}  # fmt: skip
    every = pk.Sweep.check(raw, "here")
    assert len(every.jobs) == 4 and len({job.id for job in every.jobs}) == 4
    beside = pk.Sweep.check(raw | {"combine": "zip"}, "here")
    assert [(job.read.ks, job.read.levels) for job in beside.jobs] == [((1,), ("linear",)), ((1, 2), ("prior",))]
    assert [job.name for job in beside.jobs] == ["g-ks-1-levels-linear", "g-ks-1_2-levels-prior"]
    raw["grid"]["read.levels"] = [["linear"]]
    with pytest.raises(pk.BadInput, match=r"the same length; found read.ks 2, read.levels 1"):
        pk.Sweep.check(raw | {"combine": "zip"}, "here")


def test_revisions_and_adapters_are_a_model_each():
    models = [{"name": "org/base", "revisions": ["step1", "step2"]}, {"name": "org/base", "adapters": ["none", "./a"]}]
    sweep = pk.Sweep.check({"name": "v", "models": models, "task": {"file": "x.csv", "text": "t"}}, "here")
    assert [job.name for job in sweep.jobs] == ["v-base-step1", "v-base-step2", "v-base", "v-base-a"]
    assert [(job.model.revision, job.model.adapter) for job in sweep.jobs] == [
        ("step1", None), ("step2", None), (None, None), (None, "./a"),
    ]  # fmt: skip
    both = models[0] | {"adapters": ["none", "a"]}
    assert len(pk.Sweep.check({"name": "v", "models": [both], "task": {"file": "x.csv"}}, "here").jobs) == 4


def test_a_budget_and_no_adapter_leave_a_job_what_it_was():
    raw = {"name": "one", "task": {"testbed": "othello-6x6"}, "model": {"name": "x"}}
    plain, limited = JobSpec.check(raw, "here"), JobSpec.check(raw | {"budget": {"minutes": 3}}, "here")
    assert plain.id == limited.id and limited.budget.minutes == 3 and "budget" not in limited.model_dump()
    assert "adapter" not in plain.model_dump()["model"] and plain.id == "45b819f53d6a961b"
    with_none = JobSpec.check(raw | {"model": {"name": "x", "adapter": "none"}}, "here")
    changed = JobSpec.check(raw | {"model": {"name": "x", "adapter": "a"}}, "here")
    assert with_none.id == plain.id != changed.id


def test_adapters_are_an_axis_whose_captures_are_told_apart(place, tmp_path):
    lora = adapted(place / "first", tmp_path / "lora")
    text = SWEEP.replace('[[models]]\nname = "./first"\n[[models]]\nname = "./second"',
                         '[[models]]\nname = "./first"\nadapters = ["none", "./lora"]')  # fmt: skip
    (tmp_path / "sweep.toml").write_text(text.replace("seeds = [0, 1]", ""))
    for name in ("first", "rows.csv"):
        (tmp_path / name).symlink_to(place / name)
    sweep = pk.Sweep.read_toml(tmp_path / "sweep.toml")
    found = pk.run_sweep(sweep, tmp_path, root=tmp_path / "runs", store=tmp_path / "store")
    assert [(o.job, o.state) for o in found] == [
        (f"small-first{lora}-{task}", "done") for lora in ("", "-lora") for task in ("word", "colour")
    ]
    frame = pk.read_runs(f"{tmp_path}/runs/*/*")
    assert set(frame["model"]) == {"first", "first+lora"}
    keys = {manifest["provenance"]["model"]["fingerprint"] for manifest in frame.attrs["manifests"].values()}
    assert len(keys) == 2 and lora == tmp_path / "lora"


def adapted(base, folder):
    """An adapter of `base` by peft, with weights that change what the model gives."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # peft's use of the library
        changed = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["c_proj"]))
        for name, weight in changed.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
        changed.save_pretrained(folder)
    return folder


# Budgets ------------------------------------------------------------------------------------------------------------


def budgeted(place, tmp_path, budget):
    (tmp_path / "sweep.toml").write_text(SWEEP + f"[budget]\n{budget}\n")
    for name in ("first", "second", "rows.csv"):
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(place / name)
    return tmp_path / "sweep.toml"


def test_time_that_is_up_stops_and_the_same_call_goes_on(place, swept, tmp_path, monkeypatch):
    """A clock by which the time of each call is up after eight looks at it: the parts are the whole."""
    looks = Counter()

    def left(limit):
        looks["all"] += 1
        return 1.0 if looks["all"] < 8 else 0.0

    sweep = pk.Sweep.read_toml(budgeted(place, tmp_path, "minutes = 1"))
    assert [job.id for job in sweep.jobs] == [job.id for job in pk.Sweep.read_toml(place / "sweep.toml").jobs]
    sweep = replace(sweep, jobs=sweep.jobs[:3])
    monkeypatch.setattr(TimeLimit, "left", property(left))
    asked, said = {"root": tmp_path / "runs", "store": place / "store"}, []
    while len(said) < 8:
        looks.clear()
        try:
            pk.run_sweep(sweep, tmp_path, **asked)
            break
        except OutOfTime as stop:
            said.append(str(stop))
    assert 1 <= len(said) < 8 and all(told.endswith("the same command resumes.") for told in said), said
    expected = pk.read_runs(f"{swept[1]}/*")
    names = [outcome.run for outcome in swept[0][:3]]
    expected = expected[expected["run"].isin(names)].reset_index(drop=True)
    pd.testing.assert_frame_equal(pk.read_runs(f"{tmp_path}/runs/*/*"), expected)


def test_a_job_stops_between_its_cells(place, tmp_path):
    asked = {"base": place, "root": tmp_path / "runs", "store": place / "store"}
    job = pk.Sweep.read_toml(place / "sweep.toml").jobs[0]
    with pytest.raises(OutOfTime, match=r"stopped, since the minutes of its budget are spent; 0 of 2 cells are kept"):
        pk.run_job(job.model_copy(update={"budget": BudgetSpec(minutes=1e-9)}), **asked | {"progress": None})
    assert pk.run_job(job, **asked).state == "complete"


def test_what_is_known_to_need_more_is_not_begun(place, tmp_path, monkeypatch, capsys):
    spec = budgeted(place, tmp_path, "gigabytes = 0.00001")
    code, told = command(monkeypatch, capsys, "plan", spec, "--runs", tmp_path / "runs")
    line = " ".join(told.out.split())
    # 240 rows of 8 numbers of 4 bytes, of two models: two tasks and two seeds of one read the same
    assert code == 0 and "budget: 1e-05 GB; known to be needed" in line and "3.07e-05 GB of activations" in line
    assert "which passes its gigabytes: run refuses to start" in line
    code, told = command(monkeypatch, capsys, "run", spec, "--runs", tmp_path / "runs", "--store", tmp_path / "store")
    assert code == 2 and "raise [budget] gigabytes" in told.err and not (tmp_path / "store").exists()
    job = pk.Sweep.read_toml(spec).jobs[0]
    with pytest.raises(
        pk.BadInput, match="small-first-word-s0 needs 7.68e-06 GB of activations and its budget is 5e-06"
    ):
        pk.run_job(job.model_copy(update={"budget": BudgetSpec(gigabytes=5e-6)}), base=tmp_path, root=tmp_path / "runs")
    with pytest.raises(pk.BadInput, match=r"needs .* or more here, readers not counted, and its budget is 0 s"):
        check_budget(job.model_copy(update={"budget": BudgetSpec(minutes=1e-9)}), tmp_path, captured=False)
    assert check_budget(job.model_copy(update={"budget": BudgetSpec(minutes=1e-9)}), tmp_path, captured=True) is None


def test_a_job_by_itself_is_a_sweep_of_one_and_runs_as_it_is(tmp_path):
    raw = {"name": "one", "task": {"testbed": "othello-6x6"}}
    assert pk.Sweep.check(raw, "here").jobs == (JobSpec.check(raw, "here"),)
    (tmp_path / "one.toml").write_text('name = "one"\n[task]\ntestbed = "othello-6x6"\n')
    assert read_spec(tmp_path / "one.toml") == JobSpec.check(raw, "here")


def test_long_names_stay_names_of_folders():
    models = [{"name": "./" + letter * 90} for letter in "ab"]
    sweep = pk.Sweep.check({"name": "n", "models": models, "task": {"testbed": "othello-6x6"}}, "here")
    assert all(len(job.name) <= 80 for job in sweep.jobs) and len({job.name for job in sweep.jobs}) == 2


def command(monkeypatch, capsys, *given):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["probekit", *map(str, given)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr()


def test_commands_plan_and_run(place, swept, monkeypatch, capsys):
    spec, runs, store = place / "sweep.toml", ("--runs", place / "runs"), ("--store", place / "store")
    code, told = command(monkeypatch, capsys, "plan", spec, *runs)
    assert code == 0 and told.out.count("complete") == 4 and "2 models" in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    code, told = command(monkeypatch, capsys, "plan", spec, "--runs", place / "none", "--json")
    listed = json.loads(told.out)["rows"]
    assert code == 0 and [row["job"] for row in listed] == NAMES and {row["state"] for row in listed} == {"to do"}
    assert all(row["tokens"] > 0 and row["sites"] == 1 for row in listed)
    code, told = command(monkeypatch, capsys, "run", spec, *runs, *store, "--shard", "1/4", "--json")
    found = json.loads(told.out)
    assert code == 0 and found["ok"] and [row["job"] for row in found["rows"]] == NAMES[2:4]
    code, told = command(monkeypatch, capsys, "run", spec, *runs, *store, "--shard", "4/4")
    assert code == 2 and "the last n - 1" in told.err and "Traceback" not in told.err
    code, told = command(monkeypatch, capsys, "run", spec, *runs, *store, "--shard", "one")
    assert code == 2 and "as 0/8" in told.err


def test_sites_that_memory_has_no_room_for_are_refused_before_the_capture(place, tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.jobs.captures.free_memory", lambda: 50_000)
    monkeypatch.setattr("probekit.jobs.captures.free_bytes", lambda folder: 10_000)
    job, asked = pk.Sweep.read_toml(place / "sweep.toml").jobs[0], {"base": place, "store": tmp_path / "store"}
    with pytest.raises(
        pk.BadInput, match=r"240 rows x 8 by 3 workers, .* takes 76 KB, and memory and .* have 60 KB: let TMPDIR"
    ):
        pk.run_job(job, root=tmp_path, n_workers=3, **asked)
    assert not (tmp_path / "store").exists()
    assert pk.run_job(job, root=tmp_path, **asked).state == "complete"


def test_a_batch_of_each_model_tells_time_memory_and_disk_and_makes_no_files(place, monkeypatch, capsys):
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(place)
    code, told = command(monkeypatch, capsys, "plan", place / "sweep.toml", "--runs", "none", "--probe", "--json")
    found = json.loads(told.out)["probe"]
    assert code == 0 and [one["job"] for one in found] == [NAMES[0], NAMES[4]] and sorted(place.rglob("*")) == before
    for one in found:
        assert one["n_tokens"] == 240 * 5 and one["disk_bytes"] == 240 * 8 * 4 and one["tokens_per_second"] > 0
        assert one["peak_bytes"] > 50_000_000 and one["n_passes"] == 1
    (place / "one.toml").write_text(SWEEP.split("seeds")[0] + ONE + "[read]" + SWEEP.split("[read]")[1])
    code, told = command(monkeypatch, capsys, "plan", place / "one.toml", "--probe")
    assert code == 0 and "tried: second loads in" in told.out and "disk: 7.68 KB" in told.out
    assert max(map(len, told.out.splitlines())) <= 80


def test_a_command_is_told_how_a_run_ended_and_its_failure_changes_nothing(place, swept, tmp_path, monkeypatch, capsys):
    asked = ("run", place / "sweep.toml", "--runs", place / "runs", "--store", place / "store", "--shard", "0/4")
    note = f"{sys.executable} -c \"import os; open('{tmp_path}/note', 'w').write(os.environ['PROBEKIT_STATE'] + ' ' " \
           "+ os.environ['PROBEKIT_RUN'] + os.environ['PROBEKIT_ERROR'])\""  # fmt: skip
    code, told = command(monkeypatch, capsys, *asked, "--notify-command", note)
    assert code == 0 and (tmp_path / "note").read_text() == f"complete {swept[1]}" and "notify" not in told.err
    code, told = command(monkeypatch, capsys, *asked, "--notify-command", f"{tmp_path}/nothing there", "--json")
    assert code == 0 and json.loads(told.out)["ok"] and "nothing there failed" in told.err
    code, told = command(monkeypatch, capsys, "run", tmp_path / "absent.toml", "--notify-command", note)
    assert code == 2 and (tmp_path / "note").read_text().startswith("failed ") and "absent.toml" in told.err
    code, told = command(monkeypatch, capsys, *asked, "--notify-command", "'open")
    assert code == 2 and "cannot be split into words" in told.err


def test_a_mistake_of_any_job_is_told_before_one_is_measured(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("blocks.0", "blocks.1"))  # the first model has one block
    for name in ("first", "second", "rows.csv"):
        (tmp_path / name).symlink_to(place / name)
    code, told = command(monkeypatch, capsys, "run", tmp_path / "sweep.toml", "--runs", tmp_path / "runs")
    assert code == 2 and "blocks.1" in told.err and not (tmp_path / "runs").exists()


def test_the_schema_knows_every_key(monkeypatch, capsys):
    code, told = command(monkeypatch, capsys, "schema")
    found = json.loads(told.out)
    assert code == 0 and found == json_schema()
    assert set(found["properties"]) == {*JobSpec.model_fields, "models", "tasks", "seeds", "grid", "combine", "across"}
    assert found["additionalProperties"] is False
    model = found["properties"]["models"]["items"]
    assert set(model["properties"]) == {*ModelSpec.model_fields, "revisions", "adapters"}


def test_editors_take_what_the_page_writes_and_nothing_else():
    import jsonschema

    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    for block in page.split("```toml\n")[1:]:
        raw = tomllib.loads(block.split("```")[0])
        if "name" in raw:
            jsonschema.validate(raw, json_schema())
    raw["models"] = [{"name": "x", "adaptors": ["none"]}]
    with pytest.raises(jsonschema.ValidationError, match="adaptors"):
        jsonschema.validate(raw, json_schema())


def test_the_page_s_file_is_a_sweep_of_24_jobs():
    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    sweep = pk.Sweep.check(tomllib.loads(page.split("```toml\n")[1].split("```")[0]), "docs/sweeps.md")
    assert len(sweep.jobs) == 24 and sweep.jobs[-1].name == "truth-pythia-160m-step3000-numbers-ks-1_2_4-s2"
    assert sweep.jobs[-1].model.revision == "step3000"


@pytest.mark.slow
def test_fifty_kills_change_nothing(place, swept, tmp_path):
    """Driver and workers killed at random moments, in as many sweeps as it takes: none twice, none lost, all equal."""
    expected = pk.read_runs(f"{swept[1]}/*")
    draw, kills, finished = random.Random(0), 0, 0
    asked = [sys.executable, "-c", "from probekit.cli.main import main; main()", "run", str(place / "sweep.toml"),
             "--workers", "2", "--json"]  # fmt: skip
    wait = 10.0
    while kills < 50 or not finished:  # one sweep at least is left to its end
        at = tmp_path / str(finished)
        there = ["--runs", str(at / "runs"), "--store", str(at / "store")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*asked, *there], start_new_session=True, **quiet)
        began = time.monotonic()
        try:
            code = process.wait(draw.uniform(0, 2 * wait) if kills < 50 else 3_600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert code == 0
        wait = max(5.0, 0.8 * (time.monotonic() - began))  # as long as what is left took
        found = pk.read_runs(f"{at / 'runs' / swept[1].name}/*")
        assert found["id"].groupby(found["run"]).nunique().equals(found.groupby("run").size().rename("id"))
        pd.testing.assert_frame_equal(found, expected)
        finished += 1


TWO_NODES = """
import os, sys
from pathlib import Path
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
from ray.cluster_utils import Cluster
import probekit as pk
from probekit.model.model import Model

cluster, place = Cluster(), Path(sys.argv[1])
cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000)
doomed = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000)]

def never(*given, **how):
    raise AssertionError("the driver ran a model")

Model.stream, at_once = never, 0

def watch(what, done, total, left=None):
    global at_once
    if "captures" in what:
        at_once = max(at_once, len(crew.workers._at_work))
    if doomed and sys.argv[5] in what and len(crew.workers._at_work) == 2:  # one is there, and has begun
        cluster.remove_node(doomed.pop(), allow_graceful=False)

with pk.crew_of("ray", 2, address=cluster.address) as crew:
    found = pk.run_sweep(pk.Sweep.read_toml(place / sys.argv[2]), place, root=sys.argv[3], store=sys.argv[4],
                         engine=crew, progress=watch)
cluster.shutdown()
sys.exit(bool(doomed) or at_once < 2 or [o.state for o in found] != ["done"] * len(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["captures", "job "])
def test_a_ray_cluster_that_loses_a_node_makes_what_one_process_makes(place, tmp_path, monkeypatch, phase):
    """While actors run the models, two at once and never the driver, or while they measure."""
    text = SWEEP.replace("blocks.0.hook_resid_post", "blocks.*.hook_resid_*").replace("seeds = [0, 1]", "")
    (place / "sites.toml").write_text(text)
    sweep = pk.Sweep.read_toml(place / "sites.toml")
    pk.run_sweep(sweep, place, root=tmp_path / "alone", store=tmp_path / "store")
    asked = [str(at) for at in (place, "sites.toml", tmp_path / "runs", tmp_path / "other store", phase)]
    done = subprocess.run([sys.executable, "-c", TWO_NODES, *asked], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "died by itself or with its node" in done.stderr
    for alone in sorted((tmp_path / "alone" / sweep.folder).glob("*/records.parquet")):
        found = tmp_path / "runs" / sweep.folder / alone.parent.name / alone.name
        assert found.read_bytes() == alone.read_bytes()
    monkeypatch.setattr("probekit.model.model.Model.stream", never)
    for job in map(partial(Job.load, base=place), sweep.jobs):  # of the first process and of actors, to 1e-5
        one, other = (captures_of(job, tmp_path / name)[0].sites for name in ("store", "other store"))
        assert len(one) > 2 and all(torch.allclose(other[hook], one[hook], rtol=0, atol=1e-5) for hook in one)


def never(*given, **how):
    raise AssertionError("this process ran a model")


def test_what_jobs_read_is_captured_by_workers_side_by_side(place, swept, tmp_path, monkeypatch):
    """Not by the process that watches; a model that is not there costs its own jobs, with its usual sentence."""
    (place / "three.toml").write_text(SWEEP.replace("[[tasks]]", '[[models]]\nname = "./nowhere"\n[[tasks]]', 1))
    sweep, told = pk.Sweep.read_toml(place / "three.toml"), []
    monkeypatch.setattr("probekit.model.model.Model.stream", never)
    found = pk.run_sweep(
        sweep, place, root=tmp_path, store=tmp_path / "store", n_workers=2, progress=lambda *each: told.append(each)
    )
    assert [o.state for o in found] == ["done"] * 8 + ["failed"] * 4
    assert all("no model folder" in o.error and "nowhere" in o.error for o in found[8:])
    passes = [(what, done, total) for what, done, total, *_ in told if "captures for 12 jobs: capture" in what]
    assert len(passes) == 6 and [done for _, done, _ in passes[:2]] == [0, 0]  # two at once, of two models
    assert {total for *_, total in passes} == {6} and "small-first-word" in passes[0][0]
    ours, theirs = pk.read_runs(f"{tmp_path / sweep.folder}/*"), pk.read_runs(f"{swept[1]}/*")
    pd.testing.assert_frame_equal(values(ours), values(theirs))
    again = pk.run_sweep(sweep, place, root=tmp_path, store=tmp_path / "store", n_workers=2)  # reads what is there
    assert [o.state for o in again] == [o.state for o in found]


def test_models_are_compared_task_by_task_as_by_hand(place, swept, tmp_path, monkeypatch):
    """Beside the runs of a sweep that is measured already, which stay; what is there is not computed again."""
    (place / "across.toml").write_text(f"{SWEEP}[across]\ndepths = [1.0]\nlevels = ['linear']\n")
    sweep, folder = pk.Sweep.read_toml(place / "across.toml"), tmp_path / swept[1].name
    shutil.copytree(swept[1], folder)
    asked = {"root": tmp_path, "store": place / "store"}
    found = pk.run_sweep(sweep, place, **asked)
    assert [o.job for o in found if o.across] == NAMES[:4]
    assert {o.state for o in found} == {"done"}
    told = pk.read_across(folder)
    jobs = [Job.load(sweep.jobs[i], place) for i in (3, 7)]  # colours, the second seed, by each model
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    seen = [pk.capture(job.model, job.task, hook, store=None) for job, hook in zip(jobs, hooks, strict=True)]
    rows = pd.read_csv(place / "rows.csv")
    group = seen[0].observations.group
    anchors = np.isin(group, np.random.default_rng(1).permutation(24)[:6])
    x = {name: one.sites[hook].numpy() for name, one, hook in zip(("first", "second"), seen, hooks, strict=True)}
    hand = pk.transfer_across(
        x, behaviour=rows["colour"], anchors=anchors, groups=group, floor=dict(seen[0].observations.floor_inputs),
        levels=["linear"], ks=(1, 4), alignments=["procrustes", "affine"], seed=1,
    )  # fmt: skip
    ours = told[(told["behaviour"] == "colour") & (told["seed_data"] == 1)].reset_index(drop=True)
    columns = ["fit_domain", "test_domain", "arm", "level", "value", "low", "high", "n", "na_reason", "note"]
    pd.testing.assert_frame_equal(ours[columns], hand[columns], check_dtype=False)
    # untrained networks hold nothing that words do not: compared are how far rows are aligned, and the reason
    assert len(ours) == 6 and ours["note"].str.contains("CKA ").all() and set(ours["na_reason"]) < set(NA_REASONS)
    assert set(zip(ours["fit_domain"], ours["fit_hook"], strict=True)) == set(zip(x, hooks, strict=True))
    monkeypatch.setattr("probekit.jobs.carried.transfer_across", never)
    assert [o.state for o in pk.run_sweep(sweep, place, **asked)] == ["done"] * 12
    pd.testing.assert_frame_equal(pk.read_across(folder), told)


@pytest.mark.parametrize(
    ("models", "across", "told"),
    [
        (["a"], {}, "compares models, and there is one"),
        (["a", "b"], {"anchor": 0.2}, "anchors"),
        (["a", "b"], {"depths": [0.0]}, "depths"),
    ],
)
def test_mistakes_about_across_are_told_before_anything_is_measured(models, across, told):
    asked = {"name": "x", "models": [{"name": name} for name in models], "task": {"file": "x.csv", "text": "t"}}
    with pytest.raises(pk.BadInput, match=told):
        pk.Sweep.check(asked | {"across": across}, "here")
