"""Steering of planted networks: what a dose does is known exactly, along what is read and along what is not."""

import numpy as np
import pytest

from probekit.activations.capture import capture
from probekit.measurement.causal.replacement import Replacement
from probekit.measurement.causal.steering import Steering
from probekit.measurement.cell import Measurement
from probekit.metrics.causal.steering import log_odds
from probekit.spec import ReadSpec, ReplaceSpec
from probekit.testbeds.ground_truth import CASES, SEEN
from probekit.testbeds.ground_truth.circuits import SITE

DOSES = (-2.0, -0.5, 0.5, 2.0)


@pytest.fixture(scope="module", params=["P1", "P5"])
def steered(request):
    """(network, the records of steering along each direction that the case keeps, by name)."""
    network = CASES[request.param].network(1)
    model, task = network.model(), network.task(400, 1)
    activations = capture(model, task, [SITE], store=None)
    study = Measurement(activations.observations, ReadSpec(floors=("strong",), outer_folds=1, inner_folds=1),
                        n_bootstrap=200)  # fmt: skip
    cells = Steering(Replacement(model, task, activations, study, ReplaceSpec(rows=60)), DOSES)
    found = {}
    for name, bases in network.keeps.items():
        if next(iter(bases.values())).shape[1] == 1 and name != "e_d":  # on which nothing lies, so that it has no dose
            records = cells.cell("answer", SEEN, SITE, [network.abstraction(name)]).records
            found[name] = {(record.arm, record.control): record for record in records}
    return network, found


def test_an_effect_is_what_the_weights_say(steered):
    network, found = steered
    for name, records in found.items():
        unit = network.keeps[name][SITE][:, 0]
        size = float(next(iter(records.values())).note.rpartition("a dose is ")[2])
        raises = next(iter(records.values())).note.partition("raises ")[2].partition(";")[0]
        readout = network.site @ unit
        p = np.stack([1 - network.law, network.law], 1)
        target = 0 if raises == "0" else 1
        sign = 1 if np.corrcoef(readout, log_odds(p, target))[0, 1] >= 0 else -1
        for dose in DOSES:
            after = network.run(network.site + sign * dose * size * unit)
            steered_law = np.stack([1 - after, after], 1)
            effect = (log_odds(steered_law, target) - log_odds(p, target)).mean()
            record = records[f"effect:{dose:+g}", ""]
            # the cases are a draw of the states, whose effects differ where a layer bends
            assert record.value == pytest.approx(effect, rel=0.15, abs=0.05), (name, dose)


def test_what_is_not_read_moves_nothing_and_what_is_read_moves_more_than_random_directions(steered):
    network, found = steered
    inert, used = {"P1": ("s2", "s1"), "P5": ("e_r", "e_c")}[network.name]
    for dose in DOSES:
        assert abs(found[inert][f"effect:{dose:+g}", ""].value) < 1e-3
        mine, random = (found[used][f"effect:{dose:+g}", c].value for c in ("", "random_directions"))
        assert np.sign(mine) == np.sign(dose) and abs(mine) > 2 * abs(random)
        assert found[used][f"wrong:{dose:+g}", ""].value == 0
    # without a tokenizer there are no other texts to look at
    assert not any(arm.startswith("unrelated") for arm, _ in found[used])
