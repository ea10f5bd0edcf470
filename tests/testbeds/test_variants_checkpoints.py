"""Checkpoints of networks that add: what is stored is what was trained; two kinds generalise and one never does."""

import math
from dataclasses import replace

import pytest
import torch

from probekit.errors import BadInput
from probekit.testbeds.variants.checkpoints import FILE, KEPT, KINDS, LOOKED, _packed, learn, load_checkpoints
from probekit.testbeds.variants.networks import Table, untrained
from probekit.testbeds.variants.train import held_out_of, nats_of

TABLE = Table.make()


@pytest.mark.parametrize("kind", list(KINDS))
def test_stored_weights_lose_what_the_curve_says(kind):
    """Half precision moves a small loss by less than a hundredth of a bit; step 0 is drawn from the seed."""
    course = load_checkpoints(kind)
    rows = torch.stack([TABLE.trained(course.variant.share, seed) for seed in course.seeds])
    for step in (0, *KEPT):
        found = held_out_of(nats_of(course.at(step), TABLE), rows) / math.log(2)
        assert torch.allclose(found, course.loss[course.steps.index(step)], atol=0.01, rtol=2e-3), step


def test_two_kinds_generalise_late_and_one_learns_by_heart_alone():
    for kind in ("plain", "narrow"):
        course = load_checkpoints(kind)
        knows, adds = course.steps.index(250), course.steps.index(1500)
        assert course.trained[knows].min() > 0.1 + course.unseen[knows].max()
        assert course.unseen[adds].min() > 0.95
        assert course.loss[1:].amax(0).min() > course.loss[0].max()  # worse than untrained before it is better
    never = load_checkpoints("never")
    assert never.trained[-1].min() > 0.99 and never.unseen.max() < 0.1


def test_the_bundled_file_is_small_and_what_is_not_there_is_named():
    assert FILE.stat().st_size < 1_600_000
    with pytest.raises(BadInput, match="Did you mean 'plain'"):
        load_checkpoints("plane")
    with pytest.raises(BadInput, match="no weights of step 7"):
        load_checkpoints("plain").at(7)


def test_a_course_is_kept_as_it_was_learned(monkeypatch):
    for name, value in (("KEPT", (2, 4)), ("LOOKED", (2, 4))):
        monkeypatch.setattr(f"probekit.testbeds.variants.checkpoints.{name}", value)
    course = learn(replace(KINDS["narrow"][0], width=8), 2)
    assert course.steps == (0, 2, 4) and course.loss.shape == (3, 2)
    start = untrained(course.variant, course.seeds)
    assert torch.equal(course.at(0).parameters["a"], start.parameters["a"])
    assert not torch.equal(course.at(2).parameters["a"], course.at(4).parameters["a"])
    packed = dict(_packed("narrow", course))
    assert packed["narrow@4/out"].dtype == torch.float16 and packed["narrow/loss"].shape == (3, 2)
    assert set(LOOKED) >= set(KEPT)
