"""docs/studies/belief.md holds what its study found: tables, picture and claims are of the JSON beside it."""

from pathlib import Path

import pytest

from probekit.proofs.studies.belief import BeliefFindings
from probekit.proofs.studies.belief_edits import NEXT_ALONE
from probekit.proofs.studies.belief_page import by_place, names, verdict
from probekit.proofs.studies.belief_seen import EXACT, FOUR, LOCAL, PLANT, PLANTS, RECENT
from probekit.testbeds.hmm import stored_names

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "studies" / "belief.json"
PAGE = STUDY.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return BeliefFindings.read(STUDY)


def test_it_is_of_the_networks_that_are_bundled(found):
    assert names(found) == [*stored_names(), *PLANTS]
    assert found.networks >= 5 and all(row["networks"] == found.networks for row in found.rows)


def test_what_the_page_claims_is_what_its_tables_say(found):
    """Its bold sentences, in numbers: what networks say, and what they run on behind the first block and the last."""
    rows = by_place(found)
    for name in ("mess3", "turns", "triangle"):
        assert verdict(rows, name, "says", 0) == verdict(rows, name, "kept", 3) == EXACT
    assert verdict(rows, "taught", "says", 0) == verdict(rows, "taught", "kept", 3) == LOCAL
    assert verdict(rows, "mess3", "kept", 1) == "neither" == verdict(rows, "triangle@60", "kept", 3)
    assert verdict(rows, "triangle", "kept", 2) == "several"
    early = {account: rows["triangle@60", "says", 0, account]["value"] for account in (EXACT, LOCAL)}
    assert early[LOCAL] < early[EXACT] - 0.05
    left, wrong = (rows["triangle", what, layer, LOCAL] for what, layer in (("kept", 2), ("says", 0)))
    assert left["high"] < wrong["low"]


def test_plants_are_told_and_the_usual_figures_are_wrong_of_them(found):
    rows = by_place(found)
    for account, said in ((EXACT, EXACT), (LOCAL, LOCAL), (RECENT, "NA"), (FOUR, "neither")):
        assert verdict(rows, PLANT + account, "says", 0) == verdict(rows, PLANT + account, "kept", 1) == said
    read = rows[PLANT + FOUR, "read", 1, f"rule on decoded {EXACT}"]
    assert rows[PLANT + FOUR, "kept", 1, EXACT]["low"] - read["high"] > 0.2
    beside = rows[PLANT + RECENT, "coordinate", 1, "first pair, network"]
    assert beside["low"] - rows[PLANT + RECENT, "r2", 1, EXACT]["high"] > 0.2


def test_the_silent_coin_is_no_better_read_than_where_nothing_was_learned(found):
    rows = by_place(found)
    silent, coin = (rows["turns", "coordinate", 3, f"{name}, network"] for name in ("silent", "next"))
    twin = rows["turns", "coordinate", 3, "silent, untrained"]
    assert silent["low"] < twin["value"] < silent["high"] and coin["high"] < 0.05
    kept, alone = (rows["turns", "kept", 3, arm] for arm in (EXACT, NEXT_ALONE))
    assert abs(kept["value"] - alone["value"]) < 0.01
