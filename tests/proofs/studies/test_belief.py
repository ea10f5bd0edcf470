"""The study of beliefs: on plants it says what they run on, where the usual figure does not; pages are as stored."""

import numpy as np
import pandas as pd
import pytest

from probekit.proofs.studies import belief
from probekit.proofs.studies.belief import BeliefFindings
from probekit.proofs.studies.belief_edits import NOTHING, READ
from probekit.proofs.studies.belief_page import LEAVES, by_place, picture_of, tables, verdict
from probekit.proofs.studies.belief_seen import EXACT, FOUR, LOCAL, PLANT, RECENT, BeliefCell, BeliefSize

SMALL = BeliefSize(networks=2, rows=1600, scrubbed=60)


@pytest.fixture(scope="module")
def plants():
    """Two plants of each kind, measured and put together."""
    cells = [BeliefCell(PLANT + account, i, SMALL, 0) for account in (EXACT, LOCAL, RECENT, FOUR) for i in (0, 1)]
    told = belief.pooled(pd.concat([belief.measure_cell(cell) for cell in cells]))
    rows = told.astype(object).where(told.notna(), None).to_dict("records")
    return BeliefFindings(2, tuple(rows), tuple(belief.ladder(0, 500)))


def value(found, account, what, layer, arm):
    return by_place(found)[PLANT + account, what, layer, arm]["value"]


@pytest.mark.parametrize("account", [EXACT, LOCAL])
def test_a_plant_runs_on_its_account_and_not_on_the_other(plants, account):
    other = LOCAL if account == EXACT else EXACT
    for what, layer in (("says", 0), ("kept", 1)):
        assert abs(value(plants, account, what, layer, account)) < 0.01
        assert value(plants, account, what, layer, other) > 0.2
        assert value(plants, account, what, layer, RECENT) > 0.8
    assert value(plants, account, "kept", 1, NOTHING) > 1.5
    assert abs(value(plants, account, "set", 1, f"{account} to {other}")) < 0.01
    assert by_place(plants)[PLANT + account, "set", 1, f"{other} to {account}"]["na_reason"] == "small_denominator"


def test_reading_cannot_tell_which_account_a_plant_runs_on(plants):
    """Naive: a line reads the wrong account well enough that its rule leaves next to nothing; an edit is not fooled."""
    read = value(plants, LOCAL, "read", 1, f"rule on decoded {EXACT}")
    assert read < 0.1 and value(plants, LOCAL, "kept", 1, EXACT) - read > 0.2
    assert value(plants, LOCAL, "kept", 1, READ) < 0.1  # the same three directions, whatever they are said to hold


def test_a_plant_that_knows_two_tokens_has_no_belief_though_a_line_reads_one(plants):
    """Naive: without a floor more than half of the belief's variance is read; beside the floor next to none of it."""
    explained = 1 - value(plants, RECENT, "r2", 1, EXACT)
    beside = value(plants, RECENT, "coordinate", 1, "first pair, network")
    assert explained > 0.5 and beside > 0.85
    assert explained - (1 - beside) > 0.4
    assert by_place(plants)[PLANT + RECENT, "says", 0, EXACT]["na_reason"] == "small_denominator"


def test_a_plant_that_knows_four_tokens_runs_on_neither(plants):
    for account in (EXACT, LOCAL, RECENT):
        assert value(plants, FOUR, "says", 0, account) > 0.2
        assert value(plants, FOUR, "kept", 1, account) > 0.2


def made(**values):
    """Findings of one name with these values at the last layer."""
    rows = [{"name": "triangle", "what": "kept", "layer": 3, "arm": arm, "networks": 6, "missed": 0.0, "available": 1.0,
             "value": v, "low": None if v is None else v - 0.02, "high": None if v is None else v + 0.02,
             "na_reason": ""} for arm, v in values.items()]  # fmt: skip
    return by_place(BeliefFindings(6, tuple(rows), ()))


@pytest.mark.parametrize(
    ("exact", "local", "said"),
    [(0.02, 0.5, EXACT), (0.4, 0.1, LOCAL), (0.5, 0.6, "neither"), (0.1, 0.05, "several"), (0.19, 0.6, "open"),
     (None, 0.5, "NA")],
)  # fmt: skip
def test_a_verdict_is_of_the_intervals(exact, local, said):
    assert LEAVES["kept"] == 0.2
    assert verdict(made(**{EXACT: exact, LOCAL: local}), "triangle", "kept", 3) == said


def test_tables_and_picture_say_what_is_stored_and_findings_round_trip(plants, tmp_path):
    plants.write(tmp_path / "b.json")
    again = BeliefFindings.read(tmp_path / "b.json")
    assert again == plants
    told = tables(again)
    assert told["kept"].set_index("networks").loc[PLANT + EXACT, EXACT].startswith(".00 [")
    assert len(told["ladder"]) == 3 and told["silent"].empty
    assert picture_of(again).startswith("<svg")


def test_sequences_of_two_networks_differ_and_those_of_one_do_not():
    one, again, two = (belief.Seen.of(BeliefCell(f"{PLANT}{EXACT}", i, SMALL, 0)) for i in (0, 0, 1))
    assert np.array_equal(one.tokens, again.tokens) and not np.array_equal(one.tokens, two.tokens)
    split, group = one.setting.split, one.observations.group
    assert not set(group[split.test]) & set(group[np.concatenate([split.fit, split.select, split.calibrate])])
