"""What a dose does to an answer: known odds, the outcome that a readout raises, and who moves against the dose."""

import numpy as np
import pytest

from probekit.metrics.causal.steering import log_odds, moved, target_of, wrong_way


def laws(odds):
    """Two outcomes whose first has these log2 odds."""
    p = 1 / (1 + 2.0 ** -np.asarray(odds, dtype=float))
    return np.stack([p, 1 - p], -1)


def test_log_odds_are_those_that_were_put_in_and_finite_for_sure_answers():
    assert np.allclose(log_odds(laws([-3.0, 0.0, 2.5]), 0), [-3.0, 0.0, 2.5])
    assert np.allclose(log_odds(laws([1.5]), 1), [-1.5])
    assert np.isfinite(log_odds(np.array([[1.0, 0.0]]), 0)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_target_is_the_outcome_that_goes_with_the_readout(sign):
    draw = np.random.default_rng(0)
    readout = draw.normal(size=400)
    logits = np.stack([0.1 * draw.normal(size=400), sign * readout, 0.1 * draw.normal(size=400)], 1)
    law = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert target_of(readout, law) == (1, sign)
    # of two outcomes both go alike with it: the first is told, with its own sign
    assert target_of(readout, laws(sign * readout)) == (0, sign)
    assert target_of(np.zeros(400), law)[0] in (0, 1, 2)  # no readout, no slope, and no error


def test_effects_and_who_moves_the_wrong_way():
    law, doses = laws([0.0, 1.0]), np.array([-1.0, 2.0])
    steered = laws([[-0.5, 1.5], [1.5, 0.9]])
    effect = moved(law, steered, 0)
    assert np.allclose(effect, [[-0.5, 1.5], [0.5, -0.1]])
    assert wrong_way(effect, doses).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert wrong_way(np.full((1, 2), 1e-5) * -np.sign(doses), doses).sum() == 0  # rounding is no move
