"""Hierarchical equality: what is drawn has the label it says, networks learn it, each by itself."""

import pytest
import torch

from probekit.testbeds.equality import (
    SIZE,
    WIDTH,
    EqualityNets,
    accuracy,
    alike,
    draw_donors,
    draw_inputs,
    draw_same,
    draw_swaps,
    train,
    untrained,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equal(x: torch.Tensor) -> torch.Tensor:
    """Whether each pair of vectors is one, read off the inputs: [..., 2]."""
    parts = x.unflatten(-1, (4, SIZE))
    return torch.stack([(parts[..., i, :] == parts[..., i + 1, :]).all(-1) for i in (0, 2)], -1)


def test_inputs_are_equal_where_they_are_said_to_be():
    same = draw_same(3, 500, generator=seeded())
    x = draw_inputs(same, seeded(1))
    assert torch.equal(equal(x), same)
    assert x.abs().max() <= 0.5 and 0.45 < alike(same).float().mean() < 0.55


@pytest.mark.parametrize("variable", ["both", "left"])
def test_a_swap_of_the_left_equality_asks_for_the_source_s_left_and_the_base_s_right(variable):
    pairs = draw_swaps(variable, 800, seeded(2))
    assert torch.equal(pairs.wanted, equal(pairs.source)[:, 0] == equal(pairs.base)[:, 1])
    changed = pairs.wanted != alike(equal(pairs.base))
    assert 0.4 < changed.float().mean() < 0.6


def test_a_swap_of_the_first_vector_asks_whether_it_equals_the_base_s_second():
    pairs = draw_swaps("first", 800, seeded(3))
    first, second = pairs.source[:, :SIZE], pairs.base[:, SIZE : 2 * SIZE]
    assert torch.equal(pairs.wanted, (first == second).all(1) == equal(pairs.base)[:, 1])
    assert 0.4 < (first == second).all(1).float().mean() < 0.6
    assert 0.4 < equal(pairs.source)[:, 0].float().mean() < 0.6


@pytest.mark.parametrize("variable", ["left", "first"])
def test_donors_agree_on_their_part_and_on_nothing_else(variable):
    drawn = draw_donors(variable, 300, 8, seeded(4))
    own = equal(drawn.x)[:, None].expand(-1, 8, -1)
    of_variable, of_rest = equal(drawn.of_variable), equal(drawn.of_rest)
    if variable == "left":
        assert torch.equal(of_variable[..., 0], own[..., 0]) and torch.equal(of_rest[..., 1], own[..., 1])
        assert 0.4 < (of_variable[..., 1] == own[..., 1]).float().mean() < 0.6
        assert 0.4 < (of_rest[..., 0] == own[..., 0]).float().mean() < 0.6
    else:
        whole = drawn.x[:, None].expand(-1, 8, -1)
        assert torch.equal(drawn.of_variable[..., :SIZE], whole[..., :SIZE])
        assert torch.equal(drawn.of_rest[..., SIZE:], whole[..., SIZE:])
        assert not (drawn.of_rest[..., :SIZE] == whole[..., :SIZE]).all(-1).any()


def test_layers_put_together_are_the_network():
    nets, x = untrained(3), draw_inputs(draw_same(20, generator=seeded()), seeded())
    whole = nets.after(x, 0)
    assert whole.shape == (3, 20, 2)
    for layer in (1, 2, 3):
        assert nets.after(nets.upto(x, layer), layer) == pytest.approx(whole, abs=1e-6)
    assert nets.one(1).after(x, 0)[0] == pytest.approx(whole[1], abs=1e-6)


def test_a_network_written_by_hand_is_judged_right():
    """x1 == x2 on one coordinate: |x1 - x2| by two ReLUs; the accuracy of a rule that looks at the left pair is 1/2."""
    zero = [torch.zeros(1, WIDTH, WIDTH) for _ in range(3)]
    zero[0][0, 0, 0], zero[0][0, SIZE, 0], zero[0][0, 0, 1], zero[0][0, SIZE, 1] = 1, -1, -1, 1
    zero[1][0, :2, 0], zero[2][0, 0, 0] = 1, 1
    head = torch.zeros(1, WIDTH, 2)
    head[0, 0, 0] = 100
    biases = (*(torch.zeros(1, 1, WIDTH) for _ in range(3)), torch.tensor([[[0.0, 0.01]]]))
    nets = EqualityNets((*zero, head), biases)
    same = draw_same(4000, generator=seeded(5))
    x = draw_inputs(same, seeded(6))
    assert accuracy(nets, x, same[:, 0])[0] > 0.99
    assert abs(float(accuracy(nets, x, alike(same))[0]) - 0.5) < 0.03


def test_networks_learn_and_are_the_same_alone_as_side_by_side():
    start = untrained(2, seed=3)
    assert not torch.equal(start.weights[0][0], start.weights[0][1])
    _, right = train(start, steps=700)
    same = draw_same(4000, generator=seeded(8))
    before = accuracy(start, draw_inputs(same, seeded(9)), alike(same))
    assert (right > before + 0.02).all()
    assert torch.equal(start.weights[0], untrained(2, seed=3).weights[0])  # where they started is kept
    again, _ = train(start, steps=32)
    alone, _ = train(start.one(1), steps=32)
    assert again.weights[0][1] == pytest.approx(alone.weights[0][0], abs=1e-5)
