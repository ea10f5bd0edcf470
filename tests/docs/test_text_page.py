"""docs/text.md as it stands: its job through `probekit run`, its script, its tables, on a checkpoint made here."""

import contextlib
import io
import json
import random
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import checkpoints
import probekit as pk
from probekit.cli import main, reference
from probekit.jobs.job import Job
from probekit.jobs.plan import forecast_of
from probekit.proofs.studies import pronouns
from probekit.proofs.studies.truth import Findings, figures_of
from probekit.results import tables
from probekit.storage import cache

pytestmark = pytest.mark.usefixtures("short_mlps")

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "text.md").read_text(encoding="utf-8")
ROWS, JOB, SCRIPT = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("json", "toml", "python"))
GENERATION = next(block for block in JOB if 'kind = "generation"' in block)
SCRIPT, PREFERS = (next(block for block in SCRIPT if word in block) for word in ("capture_without", '"prefers"'))
PAIRS = [block for block in JOB if "agreement.csv" in block]
WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})


def run(folder, *arguments, fails=False):
    """What the command line prints, in this process: half a minute of imports would teach nothing."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(folder), streams[0], streams[1], pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["probekit", *arguments])
        patch.setenv("COLUMNS", "200")
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
    assert (code != 0) == fails, err.getvalue()
    return err.getvalue() if fails else out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's job, more rows like its two, and a checkpoint of width 8."""
    from transformers import GPT2LMHeadModel

    base = tmp_path_factory.mktemp("text")
    checkpoints.write(base / "plain", "gpt2", tokenizer=checkpoints.pieces(), d_model=8, n_ctx=64)
    hf = GPT2LMHeadModel.from_pretrained(base / "plain")
    with torch.no_grad():
        hf.transformer.ln_f.weight.mul_(30)  # a random model is hardly ever sure of anything
    hf.save_pretrained(base / "my-model")
    checkpoints.pieces().save_pretrained(base / "my-model")
    draw, rows = random.Random(0), [json.loads(line) for line in ROWS[0].strip().splitlines()]
    for i in range(600):
        country, city = draw.choice(["france", "spain"]), draw.choice(["paris", "madrid"])
        true = (country, city) in (("france", "paris"), ("spain", "madrid"))
        answers = [" true", " false"] if true else [" false", " true"]
        rows.append({"tag": "A" if true else "F", "context": " ".join(draw.choices(WORDS, k=4)),
                     "country": country, "city": city, "right": answers[0], "wrong": answers[1], "label": int(true),
                     "topic": f"t{i % 40}"})  # fmt: skip
    (base / "claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = JOB[0].replace("[read]\n", '[read]\nhooks = ["blocks.0.hook_resid_post"]\ncontrols = ["random_twin"]\n'
                         "decomposition = false\nextrapolate = false\nn_permutations = 0\n")  # fmt: skip
    (base / "claims.toml").write_text(job.replace('name = "claims"\n', 'name = "claims"\nn_bootstrap = 200\n', 1))
    return base


@pytest.fixture(scope="module")
def measured(folder):
    return json.loads(run(folder, "run", "claims.toml", "--json"))


def test_the_example_runs_and_finds_the_leaking_tag(folder, measured):
    found = pk.open_run(Path(folder) / measured["run"])
    assert not found.manifest["cells"]["failed"]
    table = tables.table("deletion", found.records, behaviour="truth")
    weak = table.query("floor == 'weak'").set_index("level")
    assert weak.loc["baseline", "whole"] < 0.05 and weak.loc["baseline", "value"] > 0.8
    assert weak.loc["baseline", "auroc_whole"] > 0.99 and weak.loc["baseline", "auroc"] < 0.65
    assert set(found.records["behaviour"]) == {"truth", "says", "right"}
    assert {"deleted:field:tag", "random_twin", ""} <= set(found.records["control"])
    audit = found.manifest["provenance"]["audit"]["task"]
    assert (audit["source"], audit["positions"], audit["n_bos"]) == ("template", {"last": 602}, {"1": 602})
    deleted = found.manifest["provenance"]["audit"]["deleted"]["field:tag"]
    assert (deleted["n_tokens_deleted"], deleted["n_examples_changed"], deleted["filler"]) == (602, 602, None)
    notes = found.records.query("level == 'baseline' and control == '' and floor == 'strong'")["note"]
    assert all("embedding" in note for note in notes)
    blocks = found.manifest["provenance"]["floors"]["truth all strong"]["blocks"]
    assert blocks == ["position", "length", "last_tokens", "bag", "embedding", "text"]


def test_it_is_planned_and_shown(folder, measured):
    plan = run(folder, "plan", "claims.toml")
    assert "without tag" in plan and "text: template of claims.jsonl, read at last" in plan
    told = json.loads(run(folder, "plan", "claims.toml", "--json"))
    assert told["text"]["fields"] == ["tag", "context", "country", "city"]
    shown = run(folder, "show", "latest")
    assert "with a span deleted" in shown and "field:tag" in shown
    assert "1.00 -> 0." in run(folder, "show", "latest", "--table", "deletion")


def test_what_a_run_reads_is_pinned_until_it_is_let_go(folder, measured):
    store, name = folder / "cached_activations", Path(measured["run"]).name
    pinned = {entry.key for entry in cache.entries(store) if entry.pins}
    assert len(pinned) == 3  # whole, random twin, without the tag
    assert {label for entry in cache.entries(store) for label in entry.pins} == {name}
    assert cache.gc(store, 0) == ([], sum(entry.n_bytes for entry in cache.entries(store)))
    assert "nothing in the store" in run(folder, "cache", "pin", "--off", "--label", "no-such-run", fails=True)
    assert "Give its key" in run(folder, "cache", "pin", fails=True)
    assert run(folder, "cache", "pin", "--off", "--label", name).count("no longer pinned") == 3
    assert {entry.key for entry in cache.gc(store, 0, dry_run=True)[0]} == pinned


def test_the_script_of_the_page(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(SCRIPT, "docs/text.md", "exec"), names)
    records = names["records"]
    first = records.query("metric == 'read' and floor == 'weak' and level == 'baseline' and layer == 0")
    weak = first.set_index("control")["value"]
    assert weak[""] < 0.05 and weak["deleted:field:tag"] > 0.8


def test_chats_generations_and_fillers_run_too(folder):
    (folder / "chat.toml").write_text("""
name = "chat"
n_bootstrap = 200
[model]
name = "./my-model"
twin = false
[task]
file = "claims.jsonl"
group = "topic"
n_examples = 240
position = ["role:user", "last"]
chat = [
  { role = "system", content = "{tag}" },
  { role = "user", content = "the capital of {country} is {city}" },
]
[[task.behaviours]]
name = "writes"
kind = "generation"
n_tokens = 2
match = { a = ["a", "the", "i", "e"], o = "[nt]" }
samples = 4
[read]
hooks = ["blocks.0.hook_resid_post"]
levels = ["linear"]
controls = []
delete = ["role:system"]
filler = " the"
decomposition = false
extrapolate = false
n_permutations = 0
""")
    found = json.loads(run(folder, "run", "chat.toml", "--json"))
    open_run = pk.open_run(folder / found["run"])
    audit = open_run.manifest["provenance"]["audit"]["task"]
    assert audit["positions"] == {"role:user": 240, "last": 240}
    assert audit["n_generation_prompts"] == 240 and audit["n_bos"] == {"1": 240}
    records = open_run.records.query("behaviour == 'writes' and level == 'linear' and metric == 'read'")
    assert set(records["control"]) == {"", "deleted:role:system"}
    assert set(records["position"]) == {"role:user", "last"} and len(records) == 2 * 2 * 2  # of two floors


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('position = "last"', 'position = "field:town"', "position names 'field:town'; the spans that the task will"),
        ('delete = ["tag"]', 'delete = ["tags"]', "read.delete names 'tags'"),
        ('correct = "right", wrong = "wrong"', 'correct = "right"', "takes `tokens` or `correct` and `wrong`"),
        ("[{tag}]", "[{tag]", "cannot be read"),
        ('template = "', 'text = "context"\ntemplate = "', "found text and template"),
        ('delete = ["tag"]', 'delte = ["tag"]', "Did you mean 'delete'?"),
    ],
)
def test_plan_finds_mistakes_without_a_model(folder, old, new, words):
    (folder / "bad.toml").write_text((folder / "claims.toml").read_text().replace(old, new))
    assert words in run(folder, "plan", "bad.toml", fails=True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('delete = ["tag"]', 'delete = ["tag"]\nfiller = "red car"', "`filler` needs one token and 'red car' is"),
        ('position = "last"', 'position = "field:tag"', "is read at token"),
    ],
)
def test_a_job_that_cannot_be_deleted_from_is_refused_in_one_sentence(folder, old, new, words):
    (folder / "bad.toml").write_text((folder / "claims.toml").read_text().replace(old, new))
    said = run(folder, "run", "bad.toml", fails=True)
    assert words in said and "Traceback" not in said


def test_pairs_and_texts_that_are_scored(folder, monkeypatch, capsys):
    """The page's three tasks of `agreement.csv`, planned and loaded, and its script."""
    draw, rows = random.Random(0), ["good,bad,prompt,right,wrong"]
    for i in range(40):
        start, right, wrong = " ".join(draw.choices(WORDS, k=3)), f" {WORDS[i % 20]} is", f" {WORDS[i % 20 + 1]}"
        rows.append(",".join([start + right, start + wrong, start, right, wrong]))
    (folder / "agreement.csv").write_text("\n".join(rows) + "\n")
    assert len(PAIRS) == 3
    jobs = [pk.JobSpec.check(tomllib.loads(f'name = "j"\n[model]\nname = "./my-model"\n{block}'), "page")
            for block in PAIRS]  # fmt: skip
    grammar, prefers, behind = jobs
    assert [forecast_of(job, folder).texts for job in jobs] == [80, 80, 40]
    assert [forecast_of(job, folder).passes for job in jobs] == [2, 3, 2 + 1 + 2]
    monkeypatch.chdir(folder)
    model = pk.load_model("./my-model")
    assert Job.load(grammar, folder, model=model).task.labels["grammar"].outcomes == ("bad", "good")
    names: dict = {"pk": pk, "model": model}
    exec(compile(PREFERS, "docs/text.md", "exec"), names)
    assert capsys.readouterr().out.endswith("of 40 pairs\n")
    assert (names["prefers"][::2] == -names["prefers"][1::2]).all() and len(set(names["prefers"])) > 40
    found = pk.capture(model, Job.load(behind, folder, model=model).task, "blocks.0.hook_resid_post", store=None)
    assert set(found.observations.behaviours) == {"sure", "agrees"}
    assert found.observations.behaviours["sure"].is_value and (found.observations.behaviours["sure"].law < 0).all()
    assert prefers.task.behaviours[0].difference


def test_the_page_s_generation_is_a_behaviour(folder):
    raw = (folder / "claims.toml").read_text().replace("[read]", GENERATION + "\n[read]")
    raw = re.sub(r"behaviours = \[.*?\n\]\n", "", raw, flags=re.S)
    (folder / "generation.toml").write_text(raw)
    task = Job.load(pk.JobSpec.read_toml(folder / "generation.toml"), folder).task
    assert task.behaviours[0].generation.outcomes == ("true", "false", "no match")
    assert task.behaviours[0].generation.outcome(" it is false") == 1


def test_what_is_said_of_pronouns_is_of_the_kept_run():
    found = Findings.read(DOCS / "pronouns.json")
    assert reference.text_page(DOCS) == PAGE, "run `make docs`"
    told = PAGE[PAGE.index("## Whether it is used") : PAGE.index("## What stays in the store")]
    prose = " ".join(re.sub(r"<!-- table.*?<!-- end -->|```.*?```", "", told, flags=re.S).split())
    figures = re.findall(r"-?\d?\.\d\d \[-?\d?\.\d\d, -?\d?\.\d\d\]", prose)
    assert len(figures) >= 5 and set(figures) <= figures_of(found, pronouns.tables)
    assert f"{found.statements} such sentences" in prose
