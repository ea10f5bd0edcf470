"""The outside score: asked as its authors ask it, of what they printed; one sentence says that it is missing."""

import sys

import pytest

from probekit.errors import MissingExtra
from probekit.proofs.studies.cae import SCORES, cae
from probekit.testbeds.ground_truth.systems import SYSTEMS, plant_claim

ADDER = SYSTEMS[0]
# Of their notebook tutorial.ipynb: the adder that ORs, 300 interventions of at most two names, batches of 30, seed 0.
PRINTED = {"down without noise": 0.2093, "up without noise": 0.2000}


def test_its_printed_numbers_of_the_adder_are_found_to_the_last_digit():
    pytest.importorskip("causal_abstraction")
    wrong = cae(ADDER.wrong["OR in place of XOR"])
    assert {name: round(wrong[name], 4) for name in PRINTED} == PRINTED
    assert set(cae(ADDER.right).values()) == {0.0}


def test_noise_finds_the_copies_that_never_differ_and_nothing_else_does():
    pytest.importorskip("causal_abstraction")
    system = next(system for system in SYSTEMS if system.name == "backup pathway")
    right, wrong = cae(system.right), cae(system.wrong["copies that may differ"])
    assert set(right.values()) == {0.0} and wrong["down without noise"] == wrong["up without noise"] == 0
    assert wrong["down"] > 0.02 and wrong["up"] > 0.02
    assert cae(system.wrong["copies that may differ"], seed=1) != wrong == cae(system.wrong["copies that may differ"])


def test_it_is_asked_of_plants():
    pytest.importorskip("causal_abstraction")
    right, wrong = (cae(plant_claim("P5", keep, True), n=60) for keep in ("e_c", "e_r"))
    assert set(right) == set(SCORES)
    assert right["down without noise"] == pytest.approx(0, abs=1e-9) and wrong["down without noise"] > 0.05


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "causal_abstraction", None)
    with pytest.raises(MissingExtra, match="causal-abstraction-eval: pip install"):
        cae(ADDER.right)
