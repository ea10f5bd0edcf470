"""Pages of docs/studies hold what their studies found: tables, pictures and intervals are of the JSON beside them."""

import re
from pathlib import Path

import pytest

from probekit.cli import reference
from probekit.proofs.studies.alone import ALONE, PAGES
from probekit.proofs.studies.truth import filled

DOCS = Path(__file__).parents[2] / "docs"
INTERVAL = re.compile(r"-?\d*\.?\d+ \[-?\d*\.?\d+, -?\d*\.?\d+\]")


def page_of(name):
    return DOCS / "studies" / f"{name}.md"


@pytest.fixture(scope="module", params=PAGES)
def study(request):
    """(name, its page, its tables) of a study."""
    one, page = ALONE[request.param], page_of(request.param)
    return request.param, page.read_text(encoding="utf-8"), one.page_tables(one.read(page.with_suffix(".json")))


def test_each_page_has_a_study_and_each_study_its_page():
    assert {path.stem for path in (DOCS / "studies").glob("*.md")} == set(PAGES)


def test_pages_and_pictures_are_those_of_the_studies():
    made = reference.studies_pages(DOCS)
    assert {page_of(name) for name in PAGES} | {DOCS / "dispute.md", DOCS / "dispute.svg"} < set(made)
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"


def test_a_page_has_tables_of_its_study_and_says_how_it_is_remade(study):
    name, page, tables = study
    assert set(re.findall(r"<!-- table: (.*?) -->", page)) <= set(tables)
    assert f"probekit study {name} --keep docs/studies/{name}.json" in page
    assert page_of(name).with_suffix(".json").stat().st_size < 250_000


def test_a_table_that_is_not_of_the_study_is_found(study):
    _, page, tables = study
    cells = (str(cell) for table in tables.values() for cell in table.to_numpy().ravel())
    cell = next(cell for cell in cells if INTERVAL.fullmatch(cell) and f"| {cell} |" in page)
    changed = page.replace(f"| {cell} |", "| 9.99 [9.99, 9.99] |")
    assert filled(changed, tables) == page != changed


def test_each_interval_in_its_sentences_is_in_a_table(study):
    _, page, tables = study
    prose = " ".join(re.sub(r"<!-- table.*?<!-- end -->|^    .*?$|^\|.*?$", "", page, flags=re.S | re.M).split())
    said = set(INTERVAL.findall(prose))
    told = " ".join(str(cell) for table in tables.values() for cell in table.to_numpy().ravel())
    assert len(said) >= 4 and not {one for one in said if one not in told}


@pytest.mark.parametrize("name", PAGES)
def test_no_table_of_a_page_is_empty(name):
    """A name with a digit or a hyphen was once passed over, and its table stayed empty."""
    blocks = re.findall(r"<!-- table: (.*?) -->\n(.*?)<!-- end -->", page_of(name).read_text(encoding="utf-8"), re.S)
    assert [block for block, table in blocks if table.count("\n") < 3] == []
