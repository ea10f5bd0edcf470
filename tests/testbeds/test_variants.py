"""Variants: each differs from the plain network in one thing, they train, are kept, and do what their card says."""

from dataclasses import replace

import pytest
import torch

from probekit.errors import BadInput
from probekit.testbeds.variants import (
    CONTROLS,
    ENOUGH,
    EQUALITY,
    FILE,
    NOT_TRAINED,
    PARTIAL,
    VARIANTS,
    load_variants,
    rows_of,
    stored_names,
)
from probekit.testbeds.variants.networks import KNOTS, PRIME, REACH, Networks, Table, interpolated, untrained
from probekit.testbeds.variants.train import EARLY, Stack, _packed, make, train

TABLE = Table.make()


def test_the_table_has_every_pair_once_and_both_orders_are_trained_on_together():
    assert len(set(zip(TABLE.a.tolist(), TABLE.b.tolist(), strict=True))) == PRIME**2
    assert torch.equal(TABLE.sum, (TABLE.a + TABLE.b) % PRIME)
    rows = TABLE.trained(0.7, 3).view(PRIME, PRIME)
    assert torch.equal(rows, rows.T) and abs(rows.float().mean() - 0.7) < 0.01
    assert TABLE.trained(1.0, 0).all() and not torch.equal(rows, TABLE.trained(0.7, 4).view(PRIME, PRIME))


@pytest.mark.parametrize("name", [*VARIANTS, *PARTIAL, *EQUALITY])
def test_a_variant_differs_from_plain_in_one_thing(name):
    variant = (VARIANTS | PARTIAL | EQUALITY)[name]
    plain = EQUALITY["equal-plain"] if name in EQUALITY else VARIANTS["plain"]
    differ = {k for k in vars(plain) if getattr(variant, k) != getattr(plain, k)} - {"name", "changed", "first"}
    allowed = {"shallow": {"depth", "width"}, "memorised": {"share", "decay"},
               "unlearned": {"share", "decay", "width", "depth", "free"},
               "equal-shallow": {"depth", "width"}, "equal-unlearned": {"share", "width", "depth", "free"}}  # fmt: skip
    assert differ == allowed.get(name, differ) and len(differ) == len(allowed.get(name, {0} if differ else {}))


def test_networks_of_a_stack_are_what_each_would_be_alone():
    stack, third = untrained(VARIANTS["gated"], (0, 1, 2)), untrained(VARIANTS["gated"], (2,))
    assert torch.allclose(stack.logits(TABLE.a, TABLE.b)[2], third.logits(TABLE.a, TABLE.b)[0], atol=1e-5)
    assert torch.allclose(stack.one(2).logits(TABLE.a, TABLE.b), third.logits(TABLE.a, TABLE.b), atol=1e-5)


def test_a_masked_weight_is_never_used_and_a_shared_one_is_one_number():
    sparse = untrained(VARIANTS["sparse"], (0,))
    used = sparse.matrix("layer1")[0] != 0
    assert abs(used.float().mean() - 0.5) < 0.03
    hashed = untrained(VARIANTS["hashed"], (0,))
    matrix, free = hashed.matrix("layer1")[0], hashed.parameters["layer1"][0]
    assert matrix.abs().unique().numel() <= free.numel() == matrix.numel() // 2
    one = hashed.fixed["layer1.places"][0].flatten()
    at = torch.nonzero(one == one[0]).flatten()
    assert len(at) >= 1 and matrix.flatten()[at].abs().unique().numel() == 1


def test_a_lookup_goes_through_its_knots_straight_and_stays_at_its_ends():
    table = torch.randn(2, 3, KNOTS)
    knots = torch.linspace(-REACH, REACH, KNOTS)
    x = knots[None, :, None].expand(2, -1, 3)
    assert torch.allclose(interpolated(x, table), table.transpose(1, 2), atol=1e-4)
    middle = interpolated((x[:, 1:] + x[:, :-1]) / 2, table)
    assert torch.allclose(middle, (table[..., 1:] + table[..., :-1]).transpose(1, 2) / 2, atol=1e-4)
    assert torch.allclose(interpolated(9 * torch.ones(2, 1, 3), table)[:, 0], table[..., -1])


def test_vectors_are_alike_by_their_rule_and_every_kind_of_pair_is_drawn():
    """The answer and the variables are those of the numbers themselves, compared anew."""
    told = rows_of("equality")
    four = told.x.unflatten(1, (4, 4))
    left, right = ((four[:, i] == four[:, i + 1]).all(-1) for i in (0, 2))
    assert torch.equal(torch.stack([left, right], 1), told.same)
    assert torch.equal(told.answer, (left == right).long())
    assert told.same.long().mul(torch.tensor([2, 1])).sum(1).bincount(minlength=4).min() > 600
    assert not told.trained(0.0, 1).any() and told.trained(1.0, 1).all()


def test_fresh_rows_are_learned_and_the_rows_asked_about_are_none_of_them():
    """A few hundred steps are better than chance on rows that no step has shown."""
    made, _ = train(replace(EQUALITY["equal-plain"], width=16), (0,), steps=400)
    assert float(made.held_out[0]) > 0.6 and torch.equal(made.fitted, made.held_out)


def test_only_the_last_layer_of_an_unlearned_network_is_trained():
    nets = untrained(VARIANTS["unlearned"], (0, 1))
    assert nets.trained == ("out",)
    made, _ = train(replace(nets.variant, width=32), (0, 1), steps=2)
    assert torch.equal(made.networks.parameters["a"], untrained(made.networks.variant, (0, 1)).parameters["a"])


def test_training_goes_on_where_it_was_stopped_and_what_is_kept_is_what_was_trained(tmp_path, monkeypatch):
    small, ran = replace(VARIANTS["plain"], width=8), []

    def run(self):
        ran.append(self.variant.name)
        return {self.variant.name: train(small, (0, 1)[: self.n], steps=2, early=self.early)[0]}

    monkeypatch.setattr(Stack, "run", run)
    monkeypatch.setattr(
        "probekit.testbeds.variants.train.stacks", lambda: [Stack(small, 2), Stack(VARIANTS["gelu"], 1)]
    )
    make(tmp_path, tmp_path / "all.safetensors")
    make(tmp_path, tmp_path / "all.safetensors")
    assert ran == ["plain", "gelu"]
    assert stored_names(tmp_path / "all.safetensors") == ["gelu", "plain"]


def test_half_precision_changes_no_answer_and_the_file_says_what_its_networks_do():
    for name in stored_names():
        found = load_variants(name)
        nets: Networks = found.networks
        table = rows_of(nets.variant.problem)
        right = (nets.logits(*table.inputs).argmax(-1) == table.answer).float()
        for i in range(len(found.held_out)):
            rows = table.trained(nets.variant.share, nets.variant.first + i)
            out = right[i, ~rows] if not rows.all() else right[i]
            assert abs(float(out.mean() - found.held_out[i])) < 0.006, (name, i)


def test_the_bundled_file_is_small_and_whole():
    assert FILE.stat().st_size < 4_500_000
    assert {*VARIANTS, *PARTIAL, *EQUALITY, *(f"plain@{at}" for at in EARLY)} - {*NOT_TRAINED} == set(stored_names())
    assert len(load_variants("plain").able) >= 10
    with pytest.raises(BadInput, match="Did you mean 'gelu'"):
        load_variants("gelus")


def test_enough_networks_add_to_be_compared():
    """At least five seeds of each, or the card says that it was not trained."""
    card = FILE.with_name("CARD.md").read_text()
    for name, variant in (VARIANTS | EQUALITY).items():
        if name in NOT_TRAINED:
            assert name not in stored_names() and f"`{name}`" in card.partition("Not trained")[2]
            continue
        able = load_variants(name).able
        assert len(able) >= 5, (name, load_variants(name).held_out)
        assert variant.changed


def test_weights_are_packed_in_half_precision_without_what_is_drawn_again():
    made, _ = train(replace(VARIANTS["sparse"], width=8), (0,), steps=1)
    packed = dict(_packed("sparse", made))
    assert packed["sparse/a"].dtype == torch.float16 and not any("mask" in key for key in packed)
    assert ENOUGH > 0.99 and set(CONTROLS) < set(VARIANTS)
