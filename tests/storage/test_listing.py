"""The line that a list says of a run: kept beside it, made again when it is of something else."""

import json
import os

import pandas as pd
import pytest

from probekit.results.headline import finding
from probekit.storage.listing import LISTED, Line, keep_line, kept_line, line_of
from probekit.storage.runs import Run, open_run
from tests.synthetic_run import write_run


@pytest.fixture
def run(tmp_path) -> Run:
    return open_run(write_run(tmp_path, "run", 3, domains=("random", "endgame")))


def test_a_kept_line_is_the_one_that_records_give_and_opens_none(run, monkeypatch):
    assert kept_line(run) is None
    made = line_of(run)
    assert made.behaviour and made.value.startswith((".", "1", "0")) and made.groups
    keep_line(run, made)

    def refuse(self: Run) -> pd.DataFrame:
        raise AssertionError("records were opened")

    monkeypatch.setattr(Run, "outline", refuse)
    assert kept_line(open_run(run.path)) == made


def test_the_outline_gives_the_finding_of_all_records(run):
    short, whole = finding(run.outline()), finding(run.records)
    assert short is not None and whole is not None and len(run.outline()) < len(run.records)
    assert short["id"] == whole["id"] and short["value"] == whole["value"]


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"of": 1, "line": 2}', '{"of": [1], "line": {"evil": 1}}'])
def test_what_nobody_wrote_is_not_believed(run, told):
    (run.path / LISTED).write_text(told, encoding="utf-8")
    assert kept_line(run) is None


def test_a_line_of_other_records_is_made_again(run):
    keep_line(run, line_of(run))
    before = (run.path / "records.parquet").stat().st_mtime_ns
    os.utime(run.path / "records.parquet", ns=(before + 1, before + 1))
    assert kept_line(open_run(run.path)) is None
    os.utime(run.path / "records.parquet", ns=(before, before))
    assert kept_line(open_run(run.path)) is not None
    told = json.loads((run.path / LISTED).read_text(encoding="utf-8"))
    told["of"][1] = "of another manifest"
    (run.path / LISTED).write_text(json.dumps(told), encoding="utf-8")
    assert kept_line(open_run(run.path)) is None


def test_what_cannot_be_read_is_said_and_not_kept(run):
    (run.path / "records.parquet").write_bytes(b"x" * (run.path / "records.parquet").stat().st_size)
    line = line_of(open_run(run.path))
    assert "does not match its manifest's digest" in line.wrong and not line.value
    keep_line(run, line)
    assert not (run.path / LISTED).exists()


def test_a_folder_that_refuses_a_file_is_listed_all_the_same(run, monkeypatch):
    def full(*given: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("probekit.storage.listing.put", full)
    keep_line(run, Line("model"))
    assert kept_line(run) is None
