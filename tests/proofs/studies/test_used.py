"""The study of use: what it writes, that its jobs are jobs, and that its page says what was kept of its run."""

import csv
import json
import re
from pathlib import Path

from probekit.cli import reference
from probekit.proofs.studies import equality, metrics, used
from probekit.proofs.studies.truth import Findings, figures_of, interval_of
from probekit.results.text import number
from probekit.spec import JobSpec

DOCS = Path(__file__).parents[3] / "docs"
FIGURE = r"-?\d?\.\d\d\d? \[-?\d?\.\d\d\d?, -?\d?\.\d\d\d?\]"


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_statements_and_sentences_are_taken_apart_into_fields(tmp_path):
    assert used.write_cities(tmp_path / "cities.csv") == len(rows(tmp_path / "cities.csv")) == 560
    cities = rows(tmp_path / "cities.csv")
    assert {"city": "Mombasa", "country": "Kenya", "truth": "yes"} in cities
    assert sum(row["truth"] == "yes" for row in cities) == 280


def test_its_job_learns_and_steers():
    job = JobSpec.read_toml(used.SPEC)
    assert job.replace is not None and job.replace.das_ks == (1,) and "iia" in job.replace.arms
    assert job.steer is not None


def test_the_page_is_of_the_kept_runs():
    page = (DOCS / "causal.md").read_text(encoding="utf-8")
    assert reference.causal_page(DOCS) == page, "run `make docs`"
    found = Findings.read(DOCS / "used.json")
    others = [*equality.tables(equality.EqualityFindings.read(DOCS / "equality.json")).values(),
              *metrics.tables(metrics.MetricsFindings.read(DOCS / "metrics.json")).values()]  # fmt: skip
    known = figures_of(found, used.tables) | {cell for table in others for cell in table.to_numpy().ravel()}
    told = json.loads((DOCS / "flip.json").read_text(encoding="utf-8"))["rows"]
    known |= {f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]" for row in told}
    prose = " ".join(re.sub(r"<!-- table.*?<!-- end -->|```.*?```", "", page, flags=re.S).split())
    figures = re.findall(FIGURE, prose)
    assert len(figures) >= 8 and set(figures) <= known, sorted(set(figures) - known)


def test_each_cell_of_its_tables_is_one_record():
    frame = Findings.read(DOCS / "used.json").frame
    made = used.tables(Findings.read(DOCS / "used.json"))
    first = made["used"].iloc[0]
    at = frame[(frame["behaviour"] == "says") & (frame["arm"] == "single:random") & (frame["source"] == "behaviour")]
    assert first["direction"] == "own" and first["kept"] == interval_of(at)
    assert set(made["used"]["direction"]) == {"own", "truth", "learned", "random", "nothing"}
    assert set(made["steered"]["dose"]) == {"-4", "-1", "+1", "+4"}
