"""The command line: mistakes are one sentence and an exit code, `--json` is one object, reading needs no torch."""

import json
import shutil
import subprocess
import sys

import pytest

import checkpoints
from probekit.cli import main
from probekit.results import figures

COLUMNS = {"metric", "behaviour", "fit_domain", "test_domain", "hook", "layer", "level", "source", "k", "value", "low",
           "high", "bits", "floor_bits", "ceiling_bits", "n", "groups", "seed", "control", "na_reason"}  # fmt: skip
READ = (
    'hooks = ["blocks.*.hook_resid_post"]\nlevels = ["prior", "baseline", "linear"]\nks = [1]\ncontrols = []\n'
    'decomposition = false\nfloors = ["strong"]\n'
)
TASK = (
    'file = "rows.csv"\ntext = "text"\ngroup = "group"\n'
    '[[task.behaviours]]\nname = "label"\nkind = "label"\ncolumn = "label"\n'
)


def rows(n=160, n_groups=20, one_class=False):
    """A CSV whose label is in the text's last word, one time in five the other."""
    words = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})
    lines = ["text,label,group"]
    for i in range(n):
        chosen = [words[(i * step + step) % len(words)] for step in (3, 5, 7, 11)]
        label = "yes" if one_class or (chosen[-1] < "m") != (i % 5 == 0) else "no"
        lines.append(f"{' '.join(chosen)},{label},g{i % n_groups}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of width 8, so that 160 rows satisfy the protocol."""
    return checkpoints.write(tmp_path_factory.mktemp("model") / "tiny", "gpt2", d_model=8, n_layers=2)


@pytest.fixture
def job(tmp_path, model):
    """`job(...)` writes a spec and its CSV, with one thing wrong where asked, and returns its path."""

    def write(*, csv=None, task=TASK, read=READ, name=model, more=""):
        (tmp_path / "rows.csv").write_text(rows() if csv is None else csv)
        path = tmp_path / "job.toml"
        path.write_text(
            f'name = "job"\nn_bootstrap = 200\n{more}[model]\nname = "{name}"\n[task]\n{task}[read]\n{read}'
        )
        return path

    return write


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`call("run", path)` runs the command line in this process: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["probekit", *map(str, words)])
        monkeypatch.chdir(tmp_path)
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def one_sentence(error):
    """The last line of stderr, less what progress and libraries said before it."""
    assert "Traceback" not in error
    said = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("probekit: ")]
    assert len(said) == 1, error
    assert said[0] == error.rstrip("\n").splitlines()[-1]
    return said[0].removeprefix("probekit: ")


CORRUPT = {
    "unknown hook": ({"read": READ.replace("hook_resid_post", "hook_residpost")}, "blocks.*.hook_resid"),
    "unknown key": ({"read": READ + "kss = [1]\n"}, "Did you mean 'ks'?"),
    "unknown table": ({"more": "[raed]\nks = [1]\n"}, "Did you mean 'read'?"),
    "missing column": ({"task": TASK.replace('column = "label"', 'column = "lable"')}, "did you mean 'label'?"),
    "one class": ({"csv": rows(one_class=True)}, "one class"),
    "an empty side": ({"csv": rows(n_groups=2)}, "2 groups"),
    "unknown level": ({"read": READ.replace('"linear"', '"liner"')}, "Did you mean 'linear'?"),
    "unknown testbed": ({"task": 'testbed = "othello-7x7"\n'}, "Did you mean 'othello-6x6'?"),
    "no such file": ({"task": TASK.replace("rows.csv", "row.csv")}, "row.csv"),
    "a rule that is not there": (
        {"read": READ, "more": '[[hypotheses]]\nname = "h"\nrule = "rule.py:f"\nfeatures = []\n'}, "rule.py:f",
    ),
}  # fmt: skip


def test_few_rows_are_a_note_before_and_na_after_and_no_mistake(job, call):
    code, out, error = call("run", job(csv=rows(n=24, n_groups=12)))
    assert code == 0, error
    before, after = error.split("capture", 1)
    assert "note: behaviour 'label' will be NA: 12 groups where 20 are needed" in " ".join(before.split())
    assert "too few rows" in " ".join(out.split()) and "Traceback" not in after


@pytest.mark.parametrize("wrong", list(CORRUPT))
def test_a_mistake_in_a_job_is_one_sentence_and_exit_code_2(job, call, wrong):
    changes, expected = CORRUPT[wrong]
    code, out, error = call("run", job(**changes))
    assert code == 2, error
    assert expected in one_sentence(error)
    assert out == ""


PLANNED = {
    "missing column": ({"task": TASK.replace('column = "label"', 'column = "lable"')}, "did you mean 'label'?"),
    "no such file": ({"task": TASK.replace("rows.csv", "row.csv")}, "row.csv"),
    "an empty file": ({"csv": ""}, "is empty"),
    "no task": ({"task": ""}, "names no file"),
    "a testbed and a file": (
        {"task": 'testbed = "othello-6x6"\n' + TASK},
        "both the testbed 'othello-6x6' and the file",
    ),
    "no behaviours": ({"task": TASK.partition("[[")[0]}, "names no behaviours"),
    "a label replaced": ({"read": READ + '[replace]\nbehaviours = ["label"]\n'}, "which is no behaviour that"),
    "unknown feature": ({"read": READ + 'features = ["colour"]\n'}, "read.features names 'colour'"),
    "BOS for token ids": (
        {"task": TASK.replace('text = "text"', 'tokens = "text"'), "name": 'MODEL"\nbos = "none'},
        "bos = 'none' is a policy for text",
    ),
    "no model folder": ({"name": "./nowhere"}, "no model folder ./nowhere"),
    "no config": ({"name": "empty"}, "empty has no config.json"),
    "no weights": ({"name": "bare"}, "bare has no safetensors weights"),
    "a config that is none": ({"name": "odd"}, "odd: config.json cannot be used"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("wrong", list(PLANNED))
def test_what_cannot_run_is_not_planned_either(job, call, tmp_path, model, wrong, command):
    for name, config in {"empty": None, "bare": "{}", "odd": "[no"}.items():
        (tmp_path / name).mkdir()
        if config:
            (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "odd" / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    changes, expected = PLANNED[wrong]
    changes |= {"name": changes.get("name", "MODEL").replace("MODEL", str(model))}
    code, out, error = call(command, job(**changes))
    assert (code, out) == (2, ""), error
    assert expected in one_sentence(error)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("name", ["./mine", "mine", "sub/mine"])
def test_a_model_folder_is_beside_the_spec_and_is_not_looked_for_elsewhere(job, call, tmp_path, model, command, name):
    spec = job(name=name)
    (tmp_path / "specs").mkdir()
    for file in (spec, tmp_path / "rows.csv"):
        file.rename(tmp_path / "specs" / file.name)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copytree(model, tmp_path / name)  # `call` runs in tmp_path
    code, out, error = call(command, tmp_path / "specs" / spec.name)
    assert (code, out) == (2, "")
    said = one_sentence(error)
    assert f"no model folder {tmp_path / 'specs' / name}: " in said and f"There is {tmp_path / name};" in said
    (tmp_path / "specs" / name).parent.mkdir(exist_ok=True)
    shutil.move(tmp_path / name, tmp_path / "specs" / name)
    assert call(command, tmp_path / "specs" / spec.name)[0] == 0


def test_a_plan_lists_what_a_run_measures(job, call, monkeypatch):
    from probekit.jobs.job import Job
    from probekit.spec import JobSpec

    features = "".join(f'[[task.features]]\nname = "{name}"\ncolumn = "label"\n' for name in ("kind", "other"))
    path = job(task=TASK + features, read=READ + 'features = ["kind"]\n')
    monkeypatch.setenv("COLUMNS", "60")
    rows = json.loads(call("plan", path, "--json")[1])["rows"]
    cells = Job.load(JobSpec.read_toml(path), path.parent).cells()
    assert [(row["kind"], row["what"]) for row in rows] == [("feature", "kind"), ("read", "label")]
    assert {(cell.kind, cell.what) for cell in cells} == {("feature", "kind"), ("read", "label"), ("selected", "label")}
    assert rows[0]["levels"] == "linear"
    assert "…" not in call("plan", path)[1], "cells are folded, never cut"


def test_a_missing_spec_and_one_that_is_not_toml(call, tmp_path):
    code, _, error = call("run", tmp_path / "none.toml")
    assert code == 2 and "no spec file" in one_sentence(error)
    (tmp_path / "bad.toml").write_text("name = \n")
    code, _, error = call("plan", tmp_path / "bad.toml")
    assert code == 2 and "is not TOML" in one_sentence(error)


@pytest.mark.parametrize("broken", ["without weights", "corrupted", "no folder"])
def test_a_model_that_cannot_be_loaded_is_one_sentence(job, call, model, tmp_path, broken):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    if broken == "without weights":
        weights.unlink()
    elif broken == "corrupted":
        weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])
    else:
        shutil.rmtree(folder)
    code, _, error = call("run", job(name=folder))
    assert code == 2, error
    assert "broken" in one_sentence(error)


def test_mistakes_of_reading_commands(call, tmp_path):
    code, _, error = call("show", "nothing")
    assert code == 2 and "nothing" in one_sentence(error)
    half = tmp_path / "runs" / "half"
    half.mkdir(parents=True)
    (half / "spec.json").write_text("{}")
    (half / "cells-0.jsonl").write_text('{"sum": "0123')
    code, _, error = call("show", "half")
    assert code == 2 and "is not finished" in one_sentence(error)
    (half / "manifest.json").write_text('{"schema_version": 1')
    code, _, error = call("show", "half")
    assert code == 2 and "broken" in one_sentence(error)
    code, out, _ = call("show", "half", "--json")
    answer = json.loads(out)
    assert code == 2 and answer["ok"] is False and answer["rows"] == [] and "broken" in answer["error"]


def test_with_json_a_mistake_is_one_object_and_the_same_exit_code(job, call):
    code, out, error = call("run", job(read=READ + "kss = [1]\n"), "--json")
    answer = json.loads(out)
    assert code == 2 and out.count("\n") == 1 and "Traceback" not in error
    assert {"schema_version": 1, "command": "run", "ok": False, "rows": []}.items() <= answer.items()
    assert "Did you mean 'ks'?" in answer["error"] and answer["kind"] == "BadInput"


def test_a_keyboard_interrupt_anywhere_exits_130(job, call, monkeypatch):
    from probekit.spec import JobSpec

    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(JobSpec, "read_toml", stop)
    code, _, error = call("run", job())
    assert code == 130 and "Traceback" not in error


def test_run_show_figure_and_ls_of_one_small_job(job, call, tmp_path):
    path = job()
    code, out, _ = call("plan", path, "--json")
    planned = json.loads(out)
    assert code == 0 and [row["kind"] for row in planned["rows"]] == ["read"] and planned["rows"][0]["sites"] == 2
    code, out, error = call("run", path, "--json")
    answer = json.loads(out)
    assert code == 0, error
    assert "capture, " in error and " tokens/s" in error
    assert out.count("\n") == 1
    assert answer["schema_version"] == 1 and answer["command"] == "run" and answer["ok"] is True
    assert answer["rows"] and all(row.keys() >= COLUMNS for row in answer["rows"])
    assert {row["hook"] for row in answer["rows"]} == {f"blocks.{i}.hook_resid_post" for i in range(2)}
    assert all((row["value"] is None) == bool(row["na_reason"]) for row in answer["rows"])
    name = answer["run"].rsplit("/", 1)[-1]
    # the same command again: the same numbers, nothing measured
    code, again, _ = call("run", path, "--json")
    assert code == 0 and json.loads(again)["rows"] == answer["rows"]
    code, out, _ = call("cache", "why", path, "--json")
    assert code == 0 and json.loads(out)["present"], "whichever forward `auto` took"
    code, out, _ = call("show", "latest", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["rows"] == answer["rows"] and shown["manifest"]["run"] == name
    code, out, _ = call("run", path)
    assert code == 0 and "label of tiny" in out and name in out
    code, out, _ = call("show", name)
    assert code == 0 and "label of tiny" in out and "Unexplained share of label" in out
    flat = " ".join(out.split())
    assert "extraction: hf (sdpa, float32)" in flat and "hooks fired once" in flat
    code, out, _ = call("ls", "runs", "--json")
    assert code == 0 and [(row["run"], row["state"], row["done"]) for row in json.loads(out)["rows"]] == [
        (name, "complete", 3)
    ]
    for kind in figures.KINDS:
        target = tmp_path / f"{kind}.html"
        code, out, error = call("figure", kind, name, "--out", target)
        assert code == 0, error
        assert out.strip() == str(target)
        html = target.read_text()
        assert html.lstrip().lower().startswith(("<html", "<!doctype html>")) and "Plotly.newPlot" in html
    code, _, error = call("figure", "leakmap", name)
    assert code == 2 and "Did you mean 'leak_map'?" in one_sentence(error)


@pytest.mark.parametrize("words", [["--help"], ["plan", "job.toml"], ["plan", "job.toml", "--json"]])
def test_help_and_plan_load_no_torch(job, tmp_path, words):
    job()
    code = (
        "import sys\nfrom probekit.cli.main import main\n"
        f"sys.argv = ['probekit', *{words!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'transformers', 'transformer_lens'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr
    assert ("read" in done.stdout) if words[0] == "plan" else ("Usage" in done.stdout)


def test_a_mistake_in_a_real_process_shows_no_traceback(job, tmp_path):
    job(read=READ + "kss = [1]\n")
    command = [sys.executable, "-c", "from probekit.cli.main import main; main()", "run", "job.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and one_sentence(done.stderr)
