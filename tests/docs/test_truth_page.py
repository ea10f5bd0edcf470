"""docs/truth.md holds what its run found: tables are made from docs/truth.json, sentences repeat their figures."""

import re
from pathlib import Path

import pytest

from probekit.cli import reference
from probekit.proofs.studies.statements import FAMILIES, SIZES
from probekit.proofs.studies.truth import Findings, figures_of, tables, with_tables

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "truth.md").read_text(encoding="utf-8")
FIGURE = re.compile(r"-?\d?\.\d\d \[-?\d?\.\d\d, -?\d?\.\d\d\]")


@pytest.fixture(scope="module")
def found():
    return Findings.read(DOCS / "truth.json")


def prose() -> str:
    """The page without its tables and code, on one line."""
    return " ".join(re.sub(r"<!-- table.*?<!-- end -->|```.*?```", "", PAGE, flags=re.S).split())


def test_its_tables_are_those_of_the_run(found):
    assert reference.truth_page(DOCS) == PAGE, "run `make docs`"
    assert set(re.findall(r"<!-- table: (.*?) -->", PAGE)) == set(tables(found))


def test_a_table_that_is_not_of_the_run_is_found(found):
    cell = tables(found)["layers"]["truth"].iloc[-1]
    table = PAGE[PAGE.index("<!-- table: layers -->") :]
    changed = PAGE.replace(table, table.replace(cell, ".00 [.00, .00]", 1))
    assert changed != PAGE == with_tables(changed, found)
    with pytest.raises(KeyError):
        with_tables(PAGE.replace("<!-- table: layers -->", "<!-- table: nonsense -->"), found)


def test_each_figure_in_its_sentences_is_of_the_run_and_has_an_interval(found):
    said = FIGURE.findall(prose())
    assert len(said) >= 5
    assert set(said) <= figures_of(found)
    bare = re.findall(r"(?<![\d,])\.\d+", FIGURE.sub("", prose()))
    assert not bare, "a figure without its interval"


def test_the_run_is_of_these_statements(found):
    assert found.statements == 2 * sum(SIZES.values()) == 1500
    assert [told["family"] for told in found.answers] == list(FAMILIES)
    read = found.frame.query("metric == 'read' and source == 'logistic' and behaviour == 'truth' and floor == 'strong'")
    home = read.query("control == '' and fit_domain == test_domain").drop_duplicates("test_domain")
    assert dict(zip(home["test_domain"], home["groups"], strict=True)) == SIZES  # every entity was tested once
    for template in FAMILIES.values():
        assert f"`{template}`" in PAGE
