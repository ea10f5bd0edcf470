"""docs/studies/sizes.md holds what its study found: its tables are of the JSON beside it, its words of its tables."""

import re
from pathlib import Path

import pytest

from probekit.cli import reference
from probekit.inputs.folders import bundled_folder
from probekit.proofs.studies.sizes import SIZES, SizesFindings, tables
from probekit.proofs.studies.truth import filled
from probekit.testbeds.tinyworld.world import rare_holders, rare_places

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "studies" / "sizes.json"
PAGE = STUDY.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return SizesFindings.read(STUDY)


def test_its_tables_are_those_of_the_study(found):
    assert reference.sizes_page(DOCS) == PAGE, "run `make docs`"
    assert set(re.findall(r"<!-- table: (.*?) -->", PAGE)) == set(tables(found))


def test_a_table_that_is_not_of_the_study_is_found(found):
    made = tables(found)
    cells = map(str, made["worst"].to_numpy().ravel())
    cell = next(cell for cell in cells if cell.endswith("]") and PAGE.count(cell) == 1)
    assert filled(PAGE.replace(cell, "9.99 [9.99, 9.99]"), made) == PAGE != PAGE.replace(cell, "9.99 [9.99, 9.99]")


def test_each_interval_in_its_sentences_is_in_a_table(found):
    prose = " ".join(re.sub(r"<!-- table.*?<!-- end -->|^    .*?$", "", PAGE, flags=re.S | re.M).split())
    said = set(re.findall(r"-?\d?\.\d\d \[-?\d?\.\d\d, -?\d?\.\d\d\]", prose))
    told = " ".join(str(cell) for table in tables(found).values() for cell in table.to_numpy().ravel())
    assert said and not {one for one in said if one not in told}


def test_it_is_of_the_networks_that_are_bundled(found):
    assert set(found.networks) == set(SIZES)
    assert all(f"tiny-world-{name}/CARD.md" in PAGE for name in SIZES)
    for name in SIZES:
        folder = bundled_folder(f"tiny-world-{name}")
        assert folder is not None and f'"d_model": {int(found.networks[name]["width"])}' in (
            folder / "checkpoints.json"
        ).read_text(encoding="utf-8")
    assert len(rare_places()) == len(rare_holders()) == 10 and "Ten pairs of an object" in PAGE
