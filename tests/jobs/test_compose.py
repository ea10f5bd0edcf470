"""A job that composes: features or principal directions as parts, by way of a run folder to a terminal."""

import csv
import random

import pytest
from typer.testing import CliRunner

import checkpoints
import probekit as pk
from checkpoints import sharpen
from probekit.cli.main import app
from probekit.errors import BadInput
from probekit.jobs.plan import plan_rows
from probekit.measurement.causal.composition import ARMS
from probekit.results.parts import screens

WORDS = [word for sentence in checkpoints.SENTENCES for word in sentence.split()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return sharpen(checkpoints.write(folder / "plain", "gpt2", d_model=8, n_layers=3), folder / "tiny", 300.0)


def write_job(folder, model, compose, behaviour='kind = "choice"\ntokens = ["he", "nine"]'):
    """A spec beside its CSV, whose features are what two of the words say."""
    draw = random.Random(0)
    with (folder / "rows.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "group", "first", "last"])
        for i in range(400):
            words = [draw.choice(WORDS) for _ in range(5)]
            out.writerow([" ".join(words), i % 40, *("early" if words[at] < "m" else "late" for at in (3, 4))])
    path = folder / "job.toml"
    path.write_text(
        f'name = "parts"\nn_bootstrap = 200\n[model]\nname = "{model}"\n'
        '[task]\nfile = "rows.csv"\ntext = "text"\ngroup = "group"\n'
        f'[[task.behaviours]]\nname = "answer"\n{behaviour}\n'
        '[[task.features]]\nname = "first"\ncolumn = "first"\n[[task.features]]\nname = "last"\ncolumn = "last"\n'
        '[read]\nhooks = ["blocks.1.hook_resid_post"]\nlevels = ["linear"]\nks = [1]\ncontrols = []\n'
        'decomposition = false\nfloors = ["strong"]\nouter_folds = 1\ninner_folds = 1\nfalls = false\n'
        f"[compose]\nrows = 30\ndonors = 3\n{compose}\n"
    )
    return path


@pytest.mark.parametrize(
    ("asked", "source", "named", "k"),
    [
        ('parts = ["first", "last"]', "features", "parts first, last", 2),
        ("k = 3", "pca", "component 1, component 2, component 3", 3),
    ],
)
def test_a_job_composes_and_shows_it(small, tmp_path, asked, source, named, k):
    path = write_job(tmp_path, small, asked)
    planned = [row for row in plan_rows(pk.JobSpec.read_toml(path), tmp_path) if row["kind"] == "compose"]
    assert [(row["what"], row["sites"]) for row in planned] == [("answer", 1)]
    run = pk.run_job(path, root=tmp_path / "runs", store=tmp_path / "store")
    assert not run.manifest["cells"]["failed"]
    rows = run.records[run.records["metric"] == "compose"]
    assert set(ARMS) <= set(rows["arm"]) and rows["id"].is_unique
    assert set(rows["source"]) == {source} and set(rows["k"]) == {k}
    assert rows["note"].str.contains(named).all()
    assert rows["value"].notna().sum() >= 5
    assert [screen.assumption for screen in screens(run.records)] == [
        "separation", "independence", "alone as in the whole", "pairwise", "additivity",
    ]  # fmt: skip
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["show", str(run.path), "--metric", "compose"])
    assert shown.exit_code == 0, shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())
    assert f"do the parts of {source} add up?" in shown.output.replace("\n", " ")
    assert "not pairwise: sets" in shown.output and "cross-talk" in shown.output and "pairwise: " in shown.output
    plain = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["show", str(run.path)])
    assert "metric compose" in plain.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            'parts = ["first", "lst"]',
            "compose.parts names 'lst', which is no feature that is read: did you mean 'last'",
        ),
        ('parts = ["first"]', "two or more different features, or `k`; found parts first and k none"),
        ("", "found parts none and k none"),
        ('k = 2\nhooks = ["blocks.0.hook_resid_post"]', "which read.hooks lacks: its parts come from there"),
        ('k = 2\nbehaviours = ["other"]', "compose.behaviours has 'other', which is no behaviour that one forward"),
    ],
)
def test_a_mistake_is_one_sentence(small, tmp_path, asked, message):
    path = write_job(tmp_path, small, asked)
    with pytest.raises(BadInput, match=message):
        pk.run_job(path, root=tmp_path / "runs", store=tmp_path / "store")
