"""docs/scale.md holds the figures of the run beside it, in its tables and in its sentences."""

import json
import re
from pathlib import Path

import pytest

from probekit.cli import reference
from probekit.jobs.progress import time_left
from probekit.proofs.bench.scale import Large, reader_rule, tables

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8")
STORED = json.loads((DOCS / "scale.json").read_text(encoding="utf-8"))
READERS = [(one["fit_rows"], one["width"], one["cpu_seconds"]) for one in STORED["cells"] if "fit_rows" in one]


def test_tables_and_sentences_are_those_of_the_stored_run():
    assert reference.scale_page(DOCS) == PAGE, "run `make docs`"
    jobs = next(one for one in STORED["cells"] if "jobs" in one)
    assert jobs["jobs"] == 10_000 and f"checked in {time_left(jobs['check_ms_per_job'] * 10)}" in PAGE
    started = {one["engine"]: time_left(one["start_seconds"]) for one in STORED["cells"] if "start_seconds" in one}
    assert f"two workers takes {started['local']}, a Ray cluster with two {started['ray']}" in PAGE
    syncs = re.search(r"\((\S+) to (\S+) ms here", PAGE)
    found = [one["sync_ms"] for one in STORED["on_disk"]]
    assert syncs and (syncs[1], syncs[2]) == (f"{min(found):.2g}", f"{max(found):.2g}")
    rule = reader_rule(READERS)
    for n, d, seconds in READERS:
        (row,) = [row for row in STORED["rows"] if row["case"] == f"linear reader, {n:,} x {d:,}"]
        assert row["gap"] == pytest.approx(abs(rule(n, d) / seconds - 1), abs=2e-3)


def test_memory_is_flat_and_what_the_page_concludes_follows_from_its_table():
    rows = [one for one in STORED["cells"] if "peak_mb" in one]
    for width in {one["width"] for one in rows}:
        alike = [one for one in rows if one["width"] == width]
        assert max(one["rows"] for one in alike) >= 4 * min(one["rows"] for one in alike)
        assert max(one["peak_mb"] for one in alike) < 2 * min(one["peak_mb"] for one in alike) + 20
    on_disk = [one for one in STORED["cells"] if "reader_rows" in one]
    assert len(on_disk) >= 5 and max(one["reader_rows"] for one in on_disk) == 1_000_000
    for one in on_disk:
        # less than a quarter of the copies that a reader makes, but for what a dozen squares of the width take
        squares = 12 * 8 * one["width"] ** 2 / 2**20
        assert (
            one["private_mb"] < one["left_mb"] and one["private_mb"] < squares + 0.25 * 3.3 * 2 * one["file_mb"] + 100
        )
        assert abs(one["gap"]) < 10 * one["width"] / one["reader_rows"] + 0.01
    of = Large()
    readers = reader_rule(READERS)(of.texts, of.width) * of.cells / of.cores
    forward = 2 * of.parameters * of.texts * of.length / (of.gpu * of.achieved)
    every = of.texts * of.layers * of.width * 2 * of.length / of.disk
    assert readers > 3 * forward and every > forward
    table = tables(STORED)["large"].set_index("step")["time"]
    assert table["readers, one split"] == time_left(readers) and table["forward"] == time_left(forward)
