"""What `plan` tells of a file before a model is loaded, held to what loading the task finds."""

import csv
import random
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import checkpoints
import probekit as pk
from probekit.cli.main import app
from probekit.errors import BadInput, Interrupted, UnknownHook
from probekit.hookpoint import check_pattern
from probekit.jobs.plan import forecast_of, plan_rows
from probekit.measurement.cell import measurements_of
from probekit.spec import JobSpec

HOOKS = ["blocks.*.hook_resid_post"]
WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("forecast")
    checkpoints.write(made / "model", "llama")
    return made


def write(folder, labels, per_group=4):
    """A text for each label, in groups; the labels stand in the order given."""
    draw = random.Random(0)
    with (folder / "rows.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label", "group"])
        out.writerows(
            [" ".join(draw.choices(WORDS, k=5)), label, f"g{i // per_group}"] for i, label in enumerate(labels)
        )


def job(**changes):
    """A job on that file."""
    asked = {
        "name": "job", "model": {"name": "model"},
        "task": {"file": "rows.csv", "text": "text", "group": "group",
                 "behaviours": [{"name": "label", "kind": "label", "column": "label"}]},
    }  # fmt: skip
    return JobSpec.check(asked | changes, "here")


def test_it_is_what_the_task_turns_out_to_be(folder):
    write(folder, ["yes", "no", "no", "yes"] * 60)
    told = forecast_of(job(), folder)
    model = pk.load_model(folder / "model")
    task = pk.load_task(folder / "rows.csv", model=model, text="text", group="group",
                        behaviours=[{"name": "label", "kind": "label", "column": "label"}])  # fmt: skip
    assert told.texts == len(task.tokens) == 240 and told.groups == len(set(task.group.tolist())) == 60
    assert told.tokens == sum(map(len, task.tokens))
    assert told.classes == {"label": {"yes": 120, "no": 120}}
    acts = pk.capture(model, task, "blocks.0.hook_resid_post", store=None)
    measurement = measurements_of(acts.observations, {}, job().read)["all"]
    splits = measurement.splits("all")
    assert told.folds == (5, 3) == (len(splits), len(splits[0].inner))
    assert told.fit_rows == round(np.mean([len(split.fit) for split in splits]))
    assert measurement.unmeasurable("label", "all") == "" and not any("NA" in note for note in told.notes)
    assert "at least" in " ".join(told.notes)  # 32 coordinates, 240 rows


def test_padding_that_a_tokenizer_was_saved_with_is_not_counted(folder, tmp_path):
    """As a training script leaves it; texts reach the model without, and are not cut either."""
    from tokenizers import Tokenizer

    write(folder, ["yes", "no", "no", "yes"] * 60)
    shutil.copytree(folder, tmp_path / "saved")
    file = tmp_path / "saved" / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(file))
    assert forecast_of(job(), tmp_path / "saved").tokens == forecast_of(job(), folder).tokens


def test_passes_are_those_of_the_twin_and_of_what_is_deleted(folder):
    write(folder, ["yes", "no"] * 60)
    task = {"file": "rows.csv", "template": "say {text}", "group": "group",
            "behaviours": [{"name": "label", "kind": "label", "column": "label"}]}  # fmt: skip
    assert forecast_of(job(), folder).passes == 2
    assert forecast_of(job(model={"name": "model", "twin": False}), folder).passes == 1
    assert forecast_of(job(task=task, read={"delete": ["field:text"]}), folder).passes == 3
    scored = [{"name": "text", "kind": "logprob"}, {"name": "mean", "kind": "logprob", "per_token": True},
              {"name": "says", "kind": "choice", "tokens": ["a b", "c", "d"], "whole": True}]  # fmt: skip
    task = {**task, "behaviours": [*task["behaviours"], *scored]}
    assert forecast_of(job(task=task), folder).passes == 1 + 1 + 1 + 3  # the mean is made of the sum
    assert forecast_of(job(task=task, read={"delete": ["field:text"]}), folder).passes == 1 + 2 * (1 + 1 + 3)
    longer = forecast_of(job(task=task), folder)
    assert longer.tokens > forecast_of(job(), folder).tokens


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["yes"] * 200 + ["no"] * 6, "'no' has .* rows, where 8 are needed"),
        (["yes", "no"] * 30, "15 groups where 20 are needed"),
        ([f"class {i % 40}" for i in range(120)], "none of 40 classes has 8 fit rows"),
    ],
)
def test_what_will_be_na_is_told_in_advance_in_the_words_of_the_run(folder, labels, said):
    write(folder, labels)
    (note,) = [note for note in forecast_of(job(), folder).notes if "will be NA" in note]
    model = pk.load_model(folder / "model")
    task = pk.load_task(folder / "rows.csv", model=model, text="text", group="group",
                        behaviours=[{"name": "label", "kind": "label", "column": "label"}])  # fmt: skip
    acts = pk.capture(model, task, "blocks.0.hook_resid_post", store=None)
    why = measurements_of(acts.observations, {}, job().read)["all"].unmeasurable("label", "all")
    assert note == f"behaviour 'label' will be NA: {why}"
    import re

    assert re.search(said, note)


def test_rare_classes_that_become_one_are_told(folder):
    write(folder, [*["yes", "no"] * 100, *["perhaps", "rather"] * 3])
    (note,) = [note for note in forecast_of(job(), folder).notes if "will be one" in note]
    assert note == "2 classes of 'label' with few rows will be one, `rest`"


def test_hooks_that_no_model_has_are_refused_before_one_is_loaded(folder):
    write(folder, ["yes", "no"] * 60)
    with pytest.raises(UnknownHook, match=r"no hook point 'blocks\.3\.hook_resid_post': it has 3 layers \(0-2\)"):
        plan_rows(job(read={"hooks": ["blocks.3.hook_resid_post"]}), folder)
    with pytest.raises(UnknownHook, match="Did you mean 'blocks.\\*.hook_resid_post'"):
        plan_rows(job(read={"hooks": ["blocks.*.hook_residpost"]}), folder)
    for fine in ("blocks.2.hook_resid_post", "blocks.*.attn.hook_pattern", "hook_embed", "blocks.*.hook_*"):
        check_pattern(fine, 3, "model")
    check_pattern("blocks.99.hook_resid_post", None, "a model of the hub")


def test_levels_that_cannot_be_kept_are_refused():
    with pytest.raises(BadInput, match="replace keeps directions, of the levels .*; not 'linear'"):
        job(replace={"levels": ["linear"]})
    assert job(replace={"levels": ["directions"]}).replace.levels == ("directions",)


def test_what_is_kept_is_planned_as_far_as_it_is_read(folder):
    write(folder, ["yes", "no"] * 60)
    for levels, kept in (
        (["linear"], "principal components, random directions"),
        (["linear", "directions"], "directions, principal components, random directions"),
    ):
        task = {"file": "rows.csv", "text": "text", "behaviours": [{"name": "own", "kind": "choice", "tokens": [1, 2]}]}
        (row,) = (row for row in plan_rows(job(task=task, replace={}, read={"levels": levels, "hooks": HOOKS}), folder)
                  if row["kind"] == "replace")  # fmt: skip
        assert row["levels"] == kept


def test_plan_prints_it_at_80_columns(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write(folder, ["yes"] * 200 + ["no"] * 6)
    (folder / "job.toml").write_text(
        'name = "job"\n[model]\nname = "model"\n[task]\nfile = "rows.csv"\ntext = "text"\ngroup = "group"\n'
        '[[task.behaviours]]\nname = "label"\nkind = "label"\ncolumn = "label"\n'
    )
    done = CliRunner().invoke(app, ["plan", str(folder / "job.toml")])
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "label: yes 200, no 6" in said and "will be NA" in said and "2 forward passes" in said
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_what_is_in_the_file_is_told_by_plan_and_run_and_load_task(folder, caplog, monkeypatch):
    """Rows that are left out, and names that look alike: before anything is measured, and in the audit."""
    write(folder, [["yes", "no", "yes ", ""][i % 4] for i in range(80)])
    task = job().model_dump(exclude_unset=True)["task"] | {"missing": "drop"}
    left_out = "20 of the file's rows left out: 20 without a value in column 'label'"
    alike = "behaviour 'label' has names that look alike and are told apart: 'yes' (20), 'yes ' (20)"
    told = forecast_of(job(task=task), folder)
    assert told.told == (left_out, alike) and told.texts == 60
    assert [line for line in told.lines() if line.startswith("note: ")][:2] == [f"note: {left_out}", f"note: {alike}"]

    def stop(*given, **more):
        raise Interrupted("nothing is measured here")

    monkeypatch.setattr("probekit.jobs.runner.RunWriter.open", stop)
    with pytest.raises(Interrupted):
        pk.run_job(job(task=task), base=folder, root=folder / "runs", store=folder / "store")
    assert [record.getMessage() for record in caplog.records] == [f"rows: {left_out}", f"rows: {alike}"]
    caplog.clear()
    model = pk.load_model(folder / "model")
    with pytest.raises(Interrupted):
        pk.probe(model, folder / "rows.csv", text="text", label="label", group="group", missing="drop", progress=False)
    assert len(caplog.records) == 2
    caplog.clear()
    behaviours = [{"name": "label", "kind": "label", "column": "label"}]
    task = pk.load_task(folder / "rows.csv", model=model, text="text", behaviours=behaviours, missing="drop")
    assert len(caplog.records) == 2 and task.audit["told"] == [left_out, alike] and task.audit["n_dropped"] == 20


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["yes", "no", ""], "rows.csv row 3 has no value in column 'label'"),
        (["0.5", "1.5", "0.25"], "rows.csv row 2 has 1.5 for 'label'"),
        (["yes", "no", " "], "rows.csv row 3 has ' ' for 'label' in column 'label'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_before_a_model_is_loaded(folder, labels, words):
    write(folder, labels * 20)
    with pytest.raises(BadInput) as caught:
        forecast_of(job(), folder)
    assert words in str(caught.value)


def test_a_chat_template_with_a_clock_is_found_before_the_model_is_loaded(tmp_path):
    checkpoints.write(tmp_path / "model", "llama", tokenizer=checkpoints.pieces())
    write(tmp_path, ["yes", "no"] * 60)
    chat = {"file": "rows.csv", "chat": [{"role": "user", "content": "{text}"}], "group": "group",
            "behaviours": [{"name": "label", "kind": "label", "column": "label"}]}  # fmt: skip
    assert forecast_of(job(task=chat), tmp_path).texts == 120
    clocked = checkpoints.pieces()
    clocked.chat_template = "{{ strftime_now('%d') }}" + checkpoints.CHAT
    clocked.save_pretrained(tmp_path / "model")
    with pytest.raises(BadInput, match=r"model's chat template writes the time .* set chat_time = "):
        forecast_of(job(task=chat), tmp_path)
    assert forecast_of(job(task=chat | {"chat_time": "2026-01-01"}), tmp_path).texts == 120
