"""docs/studies/belief.md holds what its study found: tables, picture and claims are of the JSON beside it."""

import re
from pathlib import Path

import pytest

from probekit.cli import reference
from probekit.proofs.studies.belief import BeliefFindings
from probekit.proofs.studies.belief_page import by_place, names, tables, verdict
from probekit.proofs.studies.belief_seen import EXACT, LOCAL, PLANTS, RECENT
from probekit.testbeds.hmm import stored_names

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "studies" / "belief.json"
PAGE = STUDY.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return BeliefFindings.read(STUDY)


def prose() -> str:
    """The page without its tables and code, on one line."""
    return " ".join(re.sub(r"<!-- table.*?<!-- end -->|^    .*?$|^\|.*?$", "", PAGE, flags=re.S | re.M).split())


def test_its_tables_and_picture_are_those_of_the_study(found):
    for path, text in reference.belief_pages(DOCS).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"
    assert set(re.findall(r"<!-- table: (.*?) -->", PAGE)) == set(tables(found))
    assert STUDY.stat().st_size < 200_000


def test_it_is_of_the_networks_that_are_bundled(found):
    assert names(found) == [*stored_names(), *PLANTS]
    assert found.networks >= 5 and all(row["networks"] == found.networks for row in found.rows)


def test_each_interval_in_its_sentences_is_in_a_table(found):
    said = set(re.findall(r"-?\d*\.\d\d \[-?\d*\.\d\d, -?\d*\.\d\d\]", prose()))
    told = " ".join(str(cell) for table in tables(found).values() for cell in table.to_numpy().ravel())
    assert len(said) >= 8
    assert not {one for one in said if one not in told}
