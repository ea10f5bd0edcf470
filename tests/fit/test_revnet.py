"""Invertible maps: they invert, find what no line holds, align a random network, and are refused what does not fit."""

from dataclasses import replace

import pytest
import torch

from probekit.errors import BadInput
from probekit.fit.das import fit_das, interchanged_laws
from probekit.fit.revnet import SwapPairs, fit_revnets, untrained_maps


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maps_of(s: int = 2, d: int = 8, loud: float = 1.0):
    like = 3 + 2 * torch.randn(s, 100, d, generator=seeded(1))
    made = untrained_maps(like, d // 2, 10, 16, seeded(2))
    return made.with_parameters(*(loud * part for part in made.parameters)), like


def test_maps_are_inverted_to_rounding():
    maps, h = maps_of()
    told = maps(h)
    assert (told - (h - maps.centre) / maps.scale).abs().max() > 0.5  # it does something
    assert (maps.inverse(told) - h).abs().max() < 1e-5 and (maps(maps.inverse(told)) - told).abs().max() < 1e-5


def test_loud_weights_cost_digits_and_no_more():
    """Twice the weights: what is given is a hundred times as large, and single precision is short of digits."""
    maps, h = maps_of(loud=2.0)
    exact = replace(maps, **{name: getattr(maps, name).double() for name in maps.__dataclass_fields__ if name != "k"})
    told = exact(h.double())
    assert told.abs().max() > 100 and (exact.inverse(told) - h).abs().max() < 1e-9


def test_a_swap_moves_the_first_coordinates_alone():
    maps, h = maps_of()
    base, source = h[:, :40], h[:, 40:80]
    told, was, given = (maps(part) for part in (maps.swapped(base, source), base, source))
    assert told[..., :4] == pytest.approx(given[..., :4], abs=1e-4)
    assert told[..., 4:] == pytest.approx(was[..., 4:], abs=1e-4)
    assert maps.swapped(base, base) == pytest.approx(base, abs=1e-4)


def test_every_network_has_a_map_of_its_own():
    maps, h = maps_of()
    assert maps.one(1)(h[1:]) == pytest.approx(maps(h)[1:], abs=1e-5)
    assert not torch.allclose(maps.one(0)(h[1:]), maps(h)[1:], atol=0.1)


def parity_pairs(n: int, generator: torch.Generator) -> SwapPairs:
    """Two signs at places 0 and 2 among noise; wanted is whether the source's are alike, which no line holds."""
    h = 0.2 * torch.randn(2, n, 4, generator=generator)
    signs = 2.0 * torch.randint(0, 2, (2, n, 2), generator=generator) - 1
    h[..., ::2] += signs
    return SwapPairs(h[:1], h[1:], (signs[1].prod(-1) > 0).long())


def parity_logits(h: torch.Tensor) -> torch.Tensor:
    product = 3 * h[..., 0] * h[..., 2]
    return torch.stack([-product, product], -1)


def accuracy(logits: torch.Tensor, pairs: SwapPairs) -> float:
    return float((logits.argmax(-1) == pairs.wanted).float().mean())


def test_one_coordinate_of_a_map_holds_a_parity_and_no_line_does():
    found = fit_revnets(parity_logits, parity_pairs, k=1, blocks=4, steps=400, lr=1e-2, batch=128, n_select=500)
    test = parity_pairs(2000, seeded(9))
    assert accuracy(parity_logits(found.maps.swapped(test.base, test.source)), test) > 0.95
    assert 0 < found.n_steps[0] <= 400 and found.select_loss[0] < 0.2
    assert (found.maps.inverse(found.maps(test.base)) - test.base).abs().max() < 1e-5
    base, source = test.base[0], test.source[0]
    wanted = torch.nn.functional.one_hot(test.wanted, 2).float()
    rows = torch.arange(500)
    line = fit_das(lambda h, at: parity_logits(h), base, source, wanted, select=rows, k=1, steps=60)
    laws = interchanged_laws(lambda h, at: parity_logits(h), line.basis, base, source, torch.arange(2000))
    assert accuracy(laws, test) < 0.8


def test_it_aligns_a_random_network_with_what_that_never_computes():
    """Why its accuracy says nothing without a twin: the answers of a random layer are bent into those asked for."""
    weights = torch.randn(1, 8, 2, generator=seeded(3)) / 8**0.5

    def pairs(n: int, generator: torch.Generator) -> SwapPairs:
        h = torch.randn(2, n, 8, generator=generator)
        return SwapPairs(h[:1], h[1:], (h[1, :, 0] > 0).long())

    def logits(h: torch.Tensor) -> torch.Tensor:
        return torch.relu(h) @ weights

    test = pairs(2000, seeded(9))
    assert abs(accuracy(logits(test.source), test) - 0.5) < 0.2  # left alone it does not answer that
    found = fit_revnets(logits, pairs, k=4, blocks=4, steps=400, lr=1e-2, batch=256, n_select=500)
    assert accuracy(logits(found.maps.swapped(test.base, test.source)), test) > 0.95


def test_a_fit_is_the_same_whatever_the_global_seed_and_keeps_the_best_map():
    asked = {"k": 1, "blocks": 2, "steps": 3, "batch": 16, "n_select": 50}
    torch.manual_seed(1)
    one = fit_revnets(parity_logits, parity_pairs, **asked)
    torch.manual_seed(2)
    again = fit_revnets(parity_logits, parity_pairs, **asked)
    assert all(map(torch.equal, one.maps.parameters, again.maps.parameters)) and one.select_loss == again.select_loss
    other = fit_revnets(parity_logits, parity_pairs, seed=1, **asked)
    assert not torch.equal(one.maps.read, other.maps.read)
    # Steps that are far too long only make it worse: the map before them is kept.
    wild = fit_revnets(parity_logits, parity_pairs, lr=50.0, **asked)
    assert wild.n_steps == (0,) and not wild.maps.read.requires_grad


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 4}, {"k": 1, "steps": 0}])
def test_what_does_not_fit_together_is_refused(wrong):
    with pytest.raises(BadInput, match="even site"):
        fit_revnets(parity_logits, parity_pairs, **wrong)


def test_an_odd_site_is_refused():
    def odd(n: int, generator: torch.Generator) -> SwapPairs:
        pairs = parity_pairs(n, generator)
        return replace(pairs, base=pairs.base[..., :3], source=pairs.source[..., :3])

    with pytest.raises(BadInput, match="d = 3"):
        fit_revnets(parity_logits, odd, k=1)
