"""Hook names: parsed once, expanded in forward order, an unknown one named with what there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.errors import UnknownHook
from probekit.hookpoint import HookPoint, expand, spread

PARTS = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out")
FORWARD = [
    "hook_embed",
    "hook_pos_embed",
    *(f"blocks.{layer}.{part}" for layer in range(12) for part in (*PARTS, "hook_resid_post")),
    "ln_final.hook_normalized",
]


@given(layer=st.integers(0, 999), part=st.from_regex(r"[a-z_]+(\.[a-z_]+)*", fullmatch=True))
def test_a_name_round_trips(layer, part):
    name = f"blocks.{layer}.{part}"
    point = HookPoint.parse(name)
    assert (point.layer, point.part, str(point)) == (layer, part, name)


@pytest.mark.parametrize("name", ["hook_embed", "ln_final.hook_scale", "blocks.x.hook_resid_post", "blocks.3"])
def test_outside_the_blocks_there_is_no_layer(name):
    assert HookPoint.parse(name) == HookPoint(name, None, name)


@given(shuffled=st.permutations(FORWARD))
def test_expansion_is_in_forward_order_whatever_the_model_lists_first(shuffled):
    assert [str(hook) for hook in expand("*", shuffled)] == FORWARD


def test_the_unembedding_comes_last():
    assert [str(hook) for hook in expand("*", ["unembed.hook_out", *FORWARD])][-1] == "unembed.hook_out"


def test_a_pattern_matches_every_layer_and_overlapping_patterns_give_each_hook_once():
    hooks = expand(["blocks.*.hook_resid_post", "blocks.3.*", "blocks.3.hook_resid_post"], FORWARD)
    assert [hook.layer for hook in hooks if hook.part == "hook_resid_post"] == list(range(12))
    assert len(hooks) == len(set(hooks)) == 12 + len(PARTS)


def test_a_layer_that_the_model_lacks_is_named_with_those_it_has():
    with pytest.raises(UnknownHook) as caught:
        expand("blocks.12.hook_resid_post", FORWARD, "gpt2")
    assert str(caught.value) == "gpt2 has no hook point 'blocks.12.hook_resid_post': it has 12 layers (0-11)."


def test_a_misspelt_hook_is_named_with_the_nearest():
    with pytest.raises(UnknownHook, match=r"Did you mean 'blocks\.3\.hook_resid_post'\?"):
        expand("blocks.3.hook_resd_post", FORWARD)


def test_one_unknown_name_among_good_ones_is_not_dropped():
    with pytest.raises(UnknownHook, match="hook_nowhere"):
        expand(["hook_embed", "hook_nowhere"], FORWARD)


def test_a_model_without_hooks_has_no_hint():
    with pytest.raises(UnknownHook, match=r"^the model has no hook point 'hook_embed'\.$"):
        expand("hook_embed", [])


def test_layers_at_even_distances_end_with_the_last_one():
    assert [hook.layer for hook in spread(30, 4)] == [7, 14, 21, 29]
    assert [hook.layer for hook in spread(30, 6)] == [4, 9, 14, 19, 24, 29]
    assert [hook.name for hook in spread(2, 4)] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
