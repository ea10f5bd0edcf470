"""docs/studies/variants.md holds what its study found: tables, pictures and claims are of the JSON beside it."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from probekit.proofs.studies.variants import COMPARED, HIGH, VariantsFindings
from probekit.proofs.studies.variants_page import _spearman, cells, claim_holds, claims, verdict
from probekit.testbeds.variants import CONTROLS, EQUALITY, load_variants

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "studies" / "variants.json"
PAGE = STUDY.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return VariantsFindings.read(STUDY)


def prose() -> str:
    """The page without its tables and code, on one line."""
    return " ".join(re.sub(r"<!-- table.*?<!-- end -->|^    .*?$|^\|.*?$", "", PAGE, flags=re.S | re.M).split())


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
    assert counted.loc["form, fitted again", ["stays", "open"]].tolist() == [10, 2]
    assert counted.loc["neurons", "lost"] == len(able) == counted.loc["directions, turned", "lost"]
    for control in CONTROLS:
        assert verdict(told[control, "behaviour"]) == "stays"
        assert verdict(told[control, "form, fitted again"]) == "lost"


def test_rank_correlations_of_draws_are_those_of_scipy():
    """Rows with ties that come several times or not at all; the correlation of plain values is another number."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 40).astype(float)
    y = np.exp(x + rng.normal(scale=4, size=40).round())
    times = rng.integers(0, 4, (30, 40))
    theirs = [spearmanr(np.repeat(x, n), np.repeat(y, n)).statistic for n in times]
    assert _spearman(x, y, times) == pytest.approx(theirs, abs=1e-12)
    plain = [np.corrcoef(np.repeat(x, n), np.repeat(y, n))[0, 1] for n in times]
    assert np.abs(np.subtract(plain, theirs)).max() > 0.1
    alone = np.zeros((1, 40))
    alone[0, 3] = 5
    assert np.isnan(_spearman(x, y, alone)).all()


def test_of_the_other_task_the_direction_stays_but_not_in_rows_by_heart(found):
    counted = claims(found, EQUALITY).set_index("level")
    row = counted.loc["directions, any affine map"]
    assert (row["stays"], row["memorised"]) == (13, "lost")
    assert counted.loc["form, fitted again", "stays"] == 13
