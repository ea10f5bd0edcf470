"""docs/benchmarks.md holds the run of the replace bench beside it, and says of its targets what that run says."""

import json
from pathlib import Path

from probekit.cli import reference
from probekit.proofs.bench.replace import CASES, FULL, SAME

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
STORED = json.loads((DOCS / "replace.json").read_text(encoding="utf-8"))


def test_the_table_is_that_of_one_whole_run():
    assert reference.benchmarks_page(DOCS) == PAGE, "run `make docs`"
    assert STORED["command"] == "bench replace" and STORED["ok"]
    assert [one["edited"] for one in STORED["blocks"]] == [case for case in CASES if case != "das"]
    cases = [row["case"] for row in STORED["rows"]]
    shape = f"{FULL.texts} texts of {FULL.shortest} to {FULL.longest} tokens x {FULL.donors} donors"
    assert sum(case.startswith(shape) for case in cases) == 7 and sum(case.startswith("das") for case in cases) == 1
    assert all(row["gap"] <= 20 * SAME for row in STORED["rows"])  # of logits, the largest of which is below 20


def test_what_is_said_of_the_targets_is_what_was_measured():
    edits = [row for row in STORED["rows"] if not row["case"].startswith("das")]
    faster = min(row["ratio"] for row in edits if "hooks of torch" not in row["peer"])
    share = next(one for one in STORED["blocks"] if one["edited"] == "all")
    (das,) = [row for row in STORED["rows"] if row["case"].startswith("das")]
    for asked, holds, figure in (
        ("within 10 % of (L + 1) / 2L", share["share"] <= 1.1 * share["all tokens, at least"], share["share"]),
        ("at least 1.5 x as fast", faster >= 1.5, faster),
        ("at most 1.2 x", das["bound_ratio"] <= 1.2, das["bound_ratio"]),
    ):
        (line,) = [line for line in PAGE.splitlines() if asked in line]
        assert line.endswith(f"| {figure:.3g} | {'holds' if holds else 'does not hold'} |"), (asked, line)
