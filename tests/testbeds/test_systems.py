"""Small systems: they do what they say, right accounts agree with them everywhere, wrong ones where nobody looks."""

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.testbeds.ground_truth import find_case
from probekit.testbeds.ground_truth.systems import SYSTEMS, plant_claim, plants

CLAIMS = {f"{s.name}: {what}": claim for s in (*SYSTEMS, *plants(1)) for what, claim in
          (("right", s.right), *s.wrong.items())}  # fmt: skip


def run_both(claim):
    """(what the mechanism's variables say by the account's names, what the account says), of every state."""
    natural = claim.account.read(claim.mechanism.run(claim.mechanism.states))
    return natural, claim.account.told.run({name: natural[name] for name in claim.account.told.roots})


def test_the_adder_adds():
    claim = SYSTEMS[0].right
    found, _ = run_both(claim)
    assert len(found["A"]) == 32
    assert np.array_equal(found["A"] + found["B"] + found["in"], found["sum"] + 4 * found["over"])
    assert np.array_equal(found["carry"], (found["A"] % 2 + found["B"] % 2 + found["in"]) // 2)


@pytest.mark.parametrize("name", CLAIMS)
def test_an_account_can_be_written_into_variables_and_read_again(name):
    claim = CLAIMS[name]
    account = claim.account
    found, _ = run_both(claim)
    again = account.read(account.write(found))
    assert set(again) == set(account.parts)
    assert all(again[part] == pytest.approx(found[part]) for part in found)
    assert set(account.parents) <= set(account.parts) and set(account.values) == set(account.parts)


@pytest.mark.parametrize("name", [name for name in CLAIMS if CLAIMS[name].valid])
def test_a_right_account_says_what_every_state_does(name):
    found, told = run_both(CLAIMS[name])
    assert all(told[part] == pytest.approx(found[part]) for part in told)


@pytest.mark.parametrize("name", [name for name in CLAIMS if CLAIMS[name].fools])
def test_what_fools_gives_the_right_answers_in_every_state(name):
    claim = CLAIMS[name]
    found, told = run_both(claim)
    assert not claim.valid and all(told[out] == pytest.approx(found[out]) for out in claim.account.output)


def test_what_is_held_stays_and_what_follows_goes_with_it():
    chain, fork = (next(s for s in SYSTEMS if s.name == name).right.mechanism for name in ("chain", "fork"))
    held = {"x": np.array([1.0, 2.0]), "y": np.array([7.0, 7.0])}
    assert chain.run(held)["z"].tolist() == [11.0, 11.0] and fork.run(held)["z"].tolist() == [5.0, 8.0]
    leaky = next(s for s in SYSTEMS if s.name == "backup pathway").wrong["copies that may differ"].mechanism
    assert leaky.run({"x": np.zeros(2), "one": np.array([0.0, 1.0])})["y"].tolist() == [0.0, 1.0]
    assert SYSTEMS[1].right.account.unmapped(leaky) == ("one", "other")


def test_a_plant_taken_apart_is_the_network():
    for seed in (0, 1):
        network = find_case("P5").network(seed)
        claim = plant_claim("P5", "u", False, seed)
        told = claim.mechanism.run(claim.mechanism.states)
        assert told["y"] == pytest.approx(network.law) and claim.account.parts["M"] == ("kept0",)
        assert told["kept0"] == pytest.approx((network.site @ network.keeps["u"]["blocks.0.hook_resid_post"])[:, 0])


def test_a_plant_with_more_than_one_site_is_refused():
    with pytest.raises(BadInput, match="P7 is no planted network that is read at one site"):
        plant_claim("P7", "all", True)
    with pytest.raises(BadInput, match="P9"):
        plant_claim("P9", "all", True)
