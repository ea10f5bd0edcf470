"""docs/studies/variants.md holds what its study found: tables, pictures and claims are of the JSON beside it."""

import re
from pathlib import Path

import pytest

from probekit.cli import reference
from probekit.proofs.studies.truth import filled
from probekit.proofs.studies.variants import COMPARED, HIGH, VariantsFindings
from probekit.proofs.studies.variants_page import cells, claim_holds, claims, page_tables, verdict
from probekit.testbeds.variants import CONTROLS, load_variants

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "studies" / "variants.json"
PAGE = STUDY.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return VariantsFindings.read(STUDY)


def prose() -> str:
    """The page without its tables and code, on one line."""
    return " ".join(re.sub(r"<!-- table.*?<!-- end -->|^    .*?$|^\|.*?$", "", PAGE, flags=re.S | re.M).split())


def test_its_tables_and_pictures_are_those_of_the_study(found):
    for path, text in reference.studies_pages(DOCS).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"
    assert set(re.findall(r"<!-- table: (.*?) -->", PAGE)) == set(page_tables(found))
    assert STUDY.stat().st_size < 200_000


def test_a_table_that_is_not_of_the_study_is_found(found):
    made = page_tables(found)
    cell = next(cell for cell in made["intervals"].to_numpy().ravel() if cell.endswith("]"))
    assert filled(PAGE.replace(cell, "9.99 [9.99, 9.99]"), made) == PAGE != PAGE.replace(cell, "9.99 [9.99, 9.99]")


def test_each_interval_in_its_sentences_is_in_a_table(found):
    said = set(re.findall(r"-?\d?\.\d\d \[-?\d?\.\d\d, -?\d?\.\d\d\]", prose()))
    told = " ".join(str(cell) for table in page_tables(found).values() for cell in table.to_numpy().ravel())
    assert len(said) >= 5
    assert not {one for one in said if one not in told}


def test_it_is_of_the_networks_that_are_bundled(found):
    for name in COMPARED:
        assert found.learned[name] == pytest.approx(load_variants(name).held_out.tolist(), abs=1e-4)
    assert all(row["pairs"] == 5 for row in found.rows)


def test_what_the_page_claims_is_what_its_tables_say(found):
    """Its bold sentences, in numbers: what every variant keeps, what every one loses, and what the controls keep."""
    told = cells(found)
    able = [name for name in COMPARED if name not in CONTROLS]
    counted = claims(found).set_index("level")
    for name in HIGH:
        assert not {verdict(told[variant, name]) for variant in able} & {"lost"}, name
    assert claim_holds(found) == {"high": False, "low": True, "beyond": True}
    assert counted.loc["form, fitted again", ["stays", "open"]].tolist() == [9, 2]
    assert counted.loc["neurons", "lost"] == len(able) == counted.loc["directions, turned", "lost"]
    for control in CONTROLS:
        assert verdict(told[control, "behaviour"]) == "stays"
        assert verdict(told[control, "form, fitted again"]) == "lost"
