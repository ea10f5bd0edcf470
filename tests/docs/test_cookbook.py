"""The cookbook: every spec is planned as it stands, and run on a tiny network of the architecture that it names."""

import importlib.util
import shutil
import tomllib
import warnings
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from rich.console import Console

import checkpoints
import probekit as pk
from probekit.cli.out import plain_table
from probekit.jobs.plan import forecast_of, plan_rows
from probekit.results.seeds import seed_lines

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "docs" / "specs"
# of each spec: the architecture of its model, and what stands for it here
STANDS = {"ioi": "gpt2", "checkpoints": "neox", "base_and_chat": "llama", "chat": "llama", "adapter": "llama",
          "sweep": "llama", "packed": "llama", "othello": ""}  # fmt: skip
QUICK = ("checkpoints", "adapter", "sweep")
LOCAL = ("sweep", "packed", "adapter")  # name files that a reader makes or copies first
SHORT = {"outer_folds": 2, "inner_folds": 1, "falls": False, "extrapolate": False, "decomposition": False,
         "controls": [], "n_permutations": 0, "hooks": ["blocks.0.hook_resid_post"]}  # fmt: skip


def raw(name):
    return tomllib.loads((SPECS / f"{name}.toml").read_text())


def test_every_spec_is_on_the_page_and_stands_for_something():
    page = (ROOT / "docs" / "cookbook.md").read_text()
    assert {path.stem for path in SPECS.glob("*.toml")} == set(STANDS)
    assert all(f"(specs/{name}.toml)" in page for name in STANDS)


def test_data_are_what_the_script_makes(tmp_path):
    found = importlib.util.spec_from_file_location("make_specs", SPECS / "make.py")
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    made.write(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_text() == (SPECS / path.name).read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in SPECS.glob("*.csv")}
    assert sum(path.stat().st_size for path in SPECS.glob("*.csv")) < 20_000


@pytest.mark.parametrize("name", [name for name in STANDS if name not in LOCAL])
def test_a_spec_is_planned_as_it_stands(name):
    for job in pk.Sweep.check(raw(name), name).jobs:
        assert plan_rows(job, SPECS)
        told = forecast_of(job, SPECS)
        assert told is None or not [note for note in told.notes if "NA" in note]


def stand_in(folder, architecture):
    """A checkpoint with a tokenizer that knows every word of the specs and their data, and a template for chats."""
    tokenizer = checkpoints.words([path.read_text() for path in sorted(SPECS.iterdir()) if path.suffix != ".py"])
    tokenizer.chat_template = checkpoints.CHAT
    checkpoints.write(folder, architecture, tokenizer=tokenizer, n_layers=1, d_model=16, n_ctx=96)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in STANDS if STANDS[name]]
)
def test_a_spec_runs_on_a_stand_in(name, tmp_path):
    asked = raw(name)
    asked["read"] = asked["read"] | SHORT
    asked["n_bootstrap"] = 200
    asked.pop("budget", None)
    asked["seeds"] = [0]
    tasks = asked.get("tasks") or [asked["task"]]
    models = asked.pop("models", None) or [asked.pop("model")]
    if name == "sweep":
        models, asked["tasks"] = models[:1], tasks[:1]
    asked["models"] = [model | {"name": "./stand_in", "twin": False} for model in models[:1]]
    for key in ("revisions", "adapters"):
        if key in asked["models"][0]:
            asked["models"][0][key] = asked["models"][0][key][-1:]
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(asked))
    for path in SPECS.glob("*.csv"):
        shutil.copy(path, tmp_path)
    sweep = pk.Sweep.read_toml(tmp_path / "spec.toml")
    stand_in(tmp_path / "stand_in", STANDS[name])
    if name == "adapter":
        adapted(tmp_path)
    found = pk.run_sweep(sweep, tmp_path, root=tmp_path / "runs", store=tmp_path / "store")
    assert [outcome.state for outcome in found] == ["done"], found
    frame = pk.read_runs(f"{tmp_path}/runs/*")
    for metric in ("read", *(["replace"] if "replace" in asked else [])):
        told = frame[(frame["metric"] == metric) & frame["level"].isin(["linear", "directions"])]
        # an untrained network may say nearly the same of every text: then there is nothing to explain, and no fault
        assert told["value"].notna().any() or set(told["na_reason"]) == {"small_denominator"}, set(told["na_reason"])


def adapted(folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's use of the library
        base = AutoModelForCausalLM.from_pretrained(folder / "stand_in")
        get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder / "lora")


def test_the_page_shows_what_a_sweep_found(monkeypatch):
    """The table of docs/sizes.csv, which `probekit compare runs/sizes-* --csv` printed, as the command prints it."""
    monkeypatch.setenv("COLUMNS", "80")
    table = pd.read_csv(ROOT / "docs" / "sizes.csv")
    assert len(table) == 18 and set(table["seeds"]) == {5}
    head, lines, before = seed_lines(table)
    screen = Console(width=80, file=StringIO())
    screen.print(plain_table(head, lines, f"{before}*, linear: share unexplained"))
    printed = "\n".join(line.rstrip() for line in screen.file.getvalue().splitlines())
    assert printed in (ROOT / "docs" / "cookbook.md").read_text(), printed
