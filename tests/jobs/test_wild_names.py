"""Names are data: whatever a behaviour is called, its run is stored, opened and shown, and the name stays."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

import checkpoints
import probekit as pk
from probekit.cli.main import app
from probekit.cli.out import plain_table
from probekit.errors import BadInput, printable
from probekit.jobs.cells import Cell
from probekit.jobs.work import tensor_name
from probekit.results import text as text_of
from probekit.storage.files import RUN_NAME

pytestmark = pytest.mark.usefixtures("short_mlps")

WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})
NAMES = [
    "the model says that the statement is true, and not that it is false", "x" * 300, "véracité", "真実", "p[/yes]",
    "says [yes] or [no]", ":smile: 😀", "../up/a\\c", "a\nb", "\x1b[31mred", "=<b>x</b>",
]  # fmt: skip
HOOK = "blocks.1.hook_resid_post"


@given(name=st.text(min_size=1))
@example(name="x" * 300)
@example(name="真実")
def test_a_file_name_is_plain_and_short_whatever_a_behaviour_is_called(name):
    cell = Cell("read", name, (HOOK,))
    assert RUN_NAME.fullmatch(f"{tensor_name(cell)}.safetensors")
    assert tensor_name(cell) != tensor_name(Cell("read", name + "x", (HOOK,)))


def test_names_that_could_always_be_stored_keep_their_files():
    """A stopped run of older code goes on where it was."""
    assert tensor_name(Cell("read", "truth of it", (HOOK,))).startswith("read-truth_of_it-blocks.1.hook_resid_post-")


@pytest.mark.parametrize("name", [name for name in NAMES if name.isprintable()])
def test_a_title_is_printed_as_it_is(name):
    import pandas as pd

    frame = pd.DataFrame({name: [name]})
    for shown in (plain_table([name], [[name]], name), text_of.to_text(frame, name)):
        table = text_of.rendered(shown, 400)
        assert table.count(name) == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A job with all of these names at once: behaviours, features, domains, groups and classes."""
    folder = tmp_path_factory.mktemp("names")
    model = checkpoints.write(folder / "model", "gpt2", d_model=8, n_layers=2)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text", "label", "topic", "where"])
        for i in range(160):
            words = [WORDS[(i * step + step) % len(WORDS)] for step in (3, 5, 7, 11)]
            label = NAMES[4] if (words[-1] < "m") != (i % 5 == 0) else NAMES[3]
            out.writerow([" ".join(words), label, f"{NAMES[i % 8]} {i // 8}", NAMES[(i // 80) + 5]])
    job = {
        "name": "names", "n_bootstrap": 200, "model": {"name": str(model), "twin": False},
        "task": {"file": "rows.csv", "text": "text", "group": "topic", "domain": "where",
                 "behaviours": [{"name": name, "kind": "label", "column": "label"} for name in NAMES],
                 "features": [{"name": name, "column": "label"} for name in NAMES[2:4]]},
        "read": {"hooks": [HOOK], "levels": ["direction", "linear"], "ks": [1], "outer_folds": 1, "inner_folds": 1,
                 "falls": False, "controls": [], "decomposition": False, "extrapolate": False, "n_permutations": 0,
                 "floors": ["strong"]},
    }  # fmt: skip
    return pk.run_job(pk.JobSpec.check(job, "here"), base=folder, root=folder / "runs", store=folder / "store")


def test_a_run_with_any_names_is_whole_and_keeps_them(run):
    again = pk.open_run(run.path)
    assert again.state == "complete" and not again.manifest["cells"]["failed"]
    assert {"read", "feature"} <= {file.name.partition("-")[0] for file in (run.path / "directions").iterdir()}
    assert set(NAMES) == set(again.records.query("metric == 'read'")["behaviour"])
    assert set(again.table("scores")["behaviour"]) <= set(NAMES)
    assert set(again.records["fit_domain"]) <= set(NAMES[5:7])


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shows_a_run_whatever_its_behaviour_is_called(run, name):
    call, root = CliRunner(env={"COLUMNS": "400"}), ["--runs", str(run.path.parent)]
    shown = printable(name)
    for words in (["show", run.name, "--wide"], *([["judge", run.name], ["show", run.name]] if "[/" in name else [])):
        done = call.invoke(app, [*words, "--behaviour", name, *root])
        assert done.exit_code == 0, done.output
        assert shown in done.output and "\x1b" not in done.output
    done = call.invoke(app, ["show", run.name, "--csv", "--table", "leak", "--behaviour", name, *root])
    found = {row["behaviour"].removeprefix("'") for row in csv.DictReader(io.StringIO(done.output, newline=""))}
    assert found == {name}


def test_json_has_every_name(run):
    done = CliRunner().invoke(app, ["show", run.name, "--json", "--runs", str(run.path.parent)])
    assert set(NAMES) == {row["behaviour"] for row in json.loads(done.output)["rows"] if row["metric"] == "read"}


@pytest.mark.parametrize("name", ["=<b>x</b>", "p[/yes]"])
def test_figures_and_notebooks_hold_the_name_as_text(run, name):
    for kind in ("leak_map", "layer_curves", "by_position", "frontier"):
        made = pk.figure(kind, run.records, behaviour=name)
        assert "<b>x</b>" not in str(made.layout.title.subtitle.text)
    assert "<b>x</b>" not in pk.summary(run.records, behaviour=name)._repr_html_()


HALF, LABELS = "a\ud83d", np.arange(80) % 2


@pytest.mark.parametrize(
    "given",
    [
        {"behaviour": {HALF: LABELS}},
        {"behaviour": np.array(["a", HALF])[LABELS]},
        {"behaviour": LABELS, "domains": np.array(["a", HALF])[np.arange(80) // 40]},
        {"behaviour": LABELS, "features": {HALF: LABELS}},
        {"behaviour": LABELS, "features": {"f": np.array(["a", HALF])[LABELS]}},
        {"behaviour": LABELS, "activations": {HALF: np.zeros((80, 2), np.float32)}},
    ],
)
def test_half_a_character_in_a_name_of_arrays_is_refused_before_anything_is_measured(given):
    with pytest.raises(BadInput, match=r"has '.ud83d', half of a character, in 'a.ud83d'"):
        pk.measure(**{"activations": np.zeros((80, 2), np.float32), **given})
