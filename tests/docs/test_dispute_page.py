"""docs/dispute.md: its tables and picture are of the numbers in docs/studies, and its verdicts follow their rules."""

from dataclasses import replace
from pathlib import Path

import pytest

from probekit.proofs.studies import dispute
from probekit.proofs.studies.belief import BeliefFindings
from probekit.proofs.studies.belief_edits import READ
from probekit.proofs.studies.foresight import OWN, ForesightFindings
from probekit.proofs.studies.ladder import RUNGS, LadderFindings
from probekit.proofs.studies.sizes import SIZES, SizesFindings

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = DOCS / "studies"


@pytest.fixture(scope="module")
def claims():
    return {one.claim: one for one in dispute.claims(STUDIES)}


def verdict_of(study, findings, change):
    """The verdict with each row of the findings changed."""
    rows = tuple({**row, **change(row)} for row in findings.rows)
    return study(replace(findings, rows=rows)).verdict


def test_each_claim_is_on_the_picture(claims):
    """That the page and the picture are of the numbers is held with those of all studies, in test_studies_pages.py."""
    picture = (DOCS / "dispute.svg").read_text(encoding="utf-8")
    assert len(claims) == 8
    for one in claims.values():
        assert (STUDIES / f"{one.study}.md").exists() and one.claim in picture
        assert one.verdict in dispute.COLOURS and 2 <= len(one.marks) <= 8


def test_intervals_hold_their_values(claims):
    for one in claims.values():
        assert all(mark.low <= mark.value <= mark.high for mark in one.marks if mark.low is not None), one.claim
        assert any(mark.low is not None for mark in one.marks)


def test_other_numbers_would_have_given_another_verdict():
    belief = BeliefFindings.read(STUDIES / "belief.json")
    assert dispute._belief(belief).verdict == dispute.FAILS

    def little(row):
        return {"value": 0.1, "low": 0.05, "high": 0.15} if row["arm"] == READ else {}

    def wide(row):
        return {"value": 0.2, "low": 0.05, "high": 0.5} if row["arm"] == READ else {}

    assert verdict_of(dispute._belief, belief, little) == dispute.HOLDS
    assert verdict_of(dispute._belief, belief, wide) == dispute.OPEN
    found = ForesightFindings.read(STUDIES / "foresight.json")
    assert dispute._foresight(found).verdict == dispute.HOLDS

    def other_way(row):
        less = row["ranking"] == OWN and row["less"] == "moves" and row["value"] is not None
        return {"low": -row["high"], "high": -row["low"]} if less else {}

    assert verdict_of(dispute._foresight, found, other_way) == dispute.FAILS
    ladder = LadderFindings.read(STUDIES / "ladder.json")

    def nothing_left(row):
        return {"value": 0.95, "low": 0.92, "high": 0.99} if row["to"] == RUNGS[-1] else {}

    assert dispute._ladder(ladder).verdict == dispute.FAILS
    assert verdict_of(dispute._ladder, ladder, nothing_left) == dispute.HOLDS


def test_of_one_size_nothing_is_said_of_growth():
    found = SizesFindings.read(STUDIES / "sizes.json")
    rows = tuple(row for row in found.rows if row["size"] == SIZES[0])
    assert dispute._sizes(replace(found, rows=rows)).verdict == dispute.OPEN
