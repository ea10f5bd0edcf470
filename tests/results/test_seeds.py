"""Seeds: what differs in a seed alone is one line, and its numbers are those of the runs."""

import json
import shutil

import pytest
from typer.testing import CliRunner

import probekit as pk
import synthetic_run
from probekit.cli.main import app
from probekit.errors import BadInput
from probekit.records import Record
from probekit.results.seeds import has_seeds, job_of, over_seeds, seed_lines
from probekit.storage.runwriter import RunWriter

VALUES = {"s-small-a-s0-00000001": 0.2, "s-small-a-s1-00000002": 0.4, "s-small-a-s2-00000003": 0.9,
          "s-large-a-s0-00000004": 0.1, "s-large-a-s1-00000005": 0.3}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The folder of a sweep of two jobs at three and two seeds, read at two sites; the second site adds 1 to all."""
    folder = tmp_path_factory.mktemp("swept") / "s-0123abcd"
    for name, value in VALUES.items():
        at = {"run": name, "behaviour": "truth", "fit_domain": "all", "test_domain": "all", "metric": "read", "n": 9,
              "groups": 3, "level": "linear"}  # fmt: skip
        records = [Record(**at, hook=f"blocks.{i}.hook_resid_post", layer=i, value=value + i, low=0.0, high=9.0)
                   for i in range(2)]  # fmt: skip
        records += [Record(**at, hook="blocks.0.hook_resid_post", layer=0, control="permuted_groups", value=7.0)]
        writer = RunWriter.open(folder, name, {"name": name}, 1)
        writer.write_cell("one", records, [], seconds=0.0)
        writer.finish({})
    (folder / "sweep.json").write_text("{}")
    return folder


def test_jobs_are_told_by_their_names():
    assert job_of("s-small-a-s0-00000001") == job_of("s-small-a-s12-0123abcd") == "s-small-a"
    assert job_of("a-step1000-0123abcd") == "a-step1000" and job_of("plain") == "plain"
    assert has_seeds(list(VALUES)) and not has_seeds(["a-0123abcd", "b-0123abcd"])


def test_means_and_spreads_are_those_of_the_runs(sweep):
    table = over_seeds(pk.read_runs(sweep))
    small = table[(table["job"] == "s-small-a") & (table["site"] == "L0 resid_post")].iloc[0]
    assert (small["seeds"], small["mean"], small["least"], small["most"]) == (3, pytest.approx(0.5), 0.2, 0.9)
    assert table["mean"].max() == pytest.approx(1.5), "a control is no value"
    head, lines, before = seed_lines(table)
    assert before == "s-" and head == ["job", "L0 resid_post", "L1 resid_post"]
    assert lines == [["large-a", ".20 [.10, .30]", "1.20 [1.10, 1.30]"], ["small-a", ".50 [.20, .90]",
                     "1.50 [1.20, 1.90]"]]  # fmt: skip
    with pytest.raises(BadInput, match="no run was read at level 'liner': did you mean 'linear'"):
        over_seeds(pk.read_runs(sweep), level="liner")


def test_the_command_takes_the_folder_of_a_sweep(sweep):
    def call(*words):
        found = CliRunner().invoke(app, ["compare", *map(str, words)], env={"COLUMNS": "80"})
        assert found.exit_code == 0, found.output + str(found.exception)
        return found.output

    said = call(sweep)
    assert ".50 [.20, .90]" in said and "over 3 seeds" in said and max(map(len, said.splitlines())) <= 80
    assert len(json.loads(call(sweep, "--json"))["rows"]) == 4 == len(call(sweep, "--csv").splitlines()) - 1


def test_long_names_are_letters(tmp_path):
    names = [f"a-long-name-of-a-run-of-some-model-on-some-task-{i}" for i in range(3)]
    for name in names:
        shutil.copytree(synthetic_run.shared_run(), tmp_path / name)
    found = CliRunner().invoke(app, ["compare", *names, "--runs", str(tmp_path)], env={"COLUMNS": "80"})
    assert found.exit_code == 0 and f"C: {names[2]}" in found.output
    assert "worse than A, = equal" in " ".join(found.output.split()) and ".02=" in found.output
    assert max(map(len, found.output.splitlines())) <= 80
