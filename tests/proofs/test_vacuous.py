"""P16: the search finds an algorithm in a network that has none, and the kit says nothing of it."""

import numpy as np
import pytest
import torch

from probekit.proofs.calibration import replaced
from probekit.proofs.judging import judge
from probekit.proofs.units import units
from probekit.proofs.vacuous import _last_block, searched_in_noise
from probekit.testbeds.ground_truth import CASES


@pytest.mark.parametrize("seed", [0, 2])
def test_a_search_that_finds_all_in_noise_is_refused(seed):
    """The naive reading of the same numbers is an IIA of 1: the random network would run on the algorithm."""
    network = CASES["P16"].network(seed)
    found = searched_in_noise(network, seed)
    assert found.value is None and found.na_reason == "vacuous" and found.n > 300
    theirs, ours = (float(part.split()[-1].rstrip(":")) for part in found.note.replace(": at most", ",").split(",")[:2])
    assert min(ours, theirs) > 0.95


def test_the_readout_is_the_network_s_own():
    network = CASES["P16"].network(1)
    model, logits = network.model().random_twin(3), {}
    rows, weight, bias = _last_block(network, model)
    tokens = list(network.tokens(np.arange(len(network.words))))

    def note(values, at):
        logits.update({int(i): v[:2] for i, v in zip(at, values, strict=True)})

    model.read(tokens, ["blocks.0.hook_resid_post"], [np.array([len(t) - 1]) for t in tokens], on_logits=note)
    expected = torch.stack([logits[i] for i in range(len(tokens))])
    assert torch.allclose(rows @ weight.T + bias, expected, atol=1e-6) and expected.std() > 1e-3


def test_it_is_one_truth_of_the_calibration():
    records = replaced(CASES["P16"], 400, 0)
    assert [(r.level, r.arm, r.value, r.na_reason) for r in records] == [("nonlinear", "iia", None, "vacuous")]
    planned = units(["P16"], seeds=1, sizes=(400,))
    table = judge(planned, {unit.id: records for unit in planned})
    assert table["passed"].tolist() == [True] and table["kind"].tolist() == ["na"]
