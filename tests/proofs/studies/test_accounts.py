"""What our metrics say of accounts, where the number is known: of systems by hand, of plants by their enumeration."""

from dataclasses import replace

import pytest

from probekit.proofs.studies.accounts import dormant, erased, follows, kept
from probekit.testbeds.ground_truth import find_case
from probekit.testbeds.ground_truth.circuits import resampling_rise
from probekit.testbeds.ground_truth.systems import PLANTS, SYSTEMS, plant_claim

BY_NAME = {system.name: system for system in SYSTEMS}
# kept, kept with donors apart, erased, follows, of wrong accounts: by hand.
WRONG = {
    ("two-bit adder", "carry inverted, and turned back"): (0, 0, None, 1),
    ("backup pathway", "copies that may differ"): (0, 0.5, 0, 1),  # x = 0 answers 1 where the copies differ
    ("x to 2x to 2x + 3", "by way of 3x"): (0, 0, 0, 1),
    ("fork", "a chain"): (1, 1, 1, 1 / 11),
    ("chain", "a fork"): (1, 1, None, 1 / 11),
    ("threshold", "a lower threshold"): (0, 0, 0, 1),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_right_account_loses_nothing_and_is_followed(name):
    claim = BY_NAME[name].right
    assert kept(claim) == kept(claim, apart=True) == 0 and follows(claim) == 1 and not dormant(claim)


@pytest.mark.parametrize(("name", "account"), WRONG)
def test_wrong_accounts_are_as_wrong_as_counted_by_hand(name, account):
    claim, (whole, apart, left, followed) = BY_NAME[name].wrong[account], WRONG[name, account]
    assert kept(claim) == pytest.approx(whole) and kept(claim, apart=True) == pytest.approx(apart)
    assert follows(claim) == pytest.approx(followed)
    if left is not None or name != "two-bit adder":
        assert erased(claim) == (None if left is None else pytest.approx(left))


def test_or_in_place_of_xor_answers_wrongly_wherever_two_bits_or_more_are_set():
    assert follows(BY_NAME["two-bit adder"].wrong["OR in place of XOR"]) < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", ["P1", "P2", "P5", "P6b", "P8", "P17"])
def test_plants_are_as_their_networks_say(case, seed):
    network = find_case(case).network(seed)
    for keep in network.keeps:
        claim = plant_claim(case, keep, True, seed)
        assert kept(claim) == pytest.approx(network.fbu(keep, "single:random"), abs=1e-9)
        assert erased(claim) == pytest.approx(1 - resampling_rise(network, keep), abs=1e-9)


def test_the_illusion_is_kept_and_followed_and_is_said_to_move_what_never_varies():
    right, illusion = (plant_claim("P5", keep, True) for keep in ("e_c", "u"))
    assert kept(illusion) == pytest.approx(0, abs=1e-9) and follows(illusion) == 1
    assert dormant(illusion) and not dormant(right)


def test_too_many_donors_are_not_run():
    claim = plant_claim("P1", "s1", True)
    assert kept(claim, apart=True) is None
    small = BY_NAME["backup pathway"].right
    assert kept(replace(small, valid=False), apart=True) == 0
    assert set(PLANTS) and all(len(wrong) for _, _, wrong in PLANTS.values())
