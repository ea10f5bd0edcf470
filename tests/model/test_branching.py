"""Branches of a text equal the library's own forward with hooks of a test's own, text by text, wherever is edited."""

import numpy as np
import pytest
import torch

import checkpoints
from probekit.errors import BadInput, UnknownHook
from probekit.model.branching import EditedTexts, Trunk, Way, way_of

D = 32
TEXTS = EditedTexts(
    [np.arange(4, 12), np.arange(20, 25), np.arange(9, 16)],
    [np.array([2, 4]), np.array([4]), np.array([0, 1, 6])],
    np.array([6, 4, 6]),
)
HOOKS = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_post", "blocks.2.hook_mlp_out")


def moved(generator=0):
    """An edit that depends on what was there, and on which text, branch and place it is at."""
    delta = torch.randn(3, 4, 3, D, generator=torch.Generator().manual_seed(generator))

    def edit(act, at):
        return 0.5 * act.flip(-1) + delta[at.text, at.branch, at.place].to(act)

    return edit


def judged(checkpoint, architecture, edits, text, branch, texts=TEXTS):
    """Logits of the library's own model on one text, edited by hooks on its own blocks."""
    from transformers import AutoModelForCausalLM

    judge = AutoModelForCausalLM.from_pretrained(checkpoint(architecture), attn_implementation="eager").eval()
    base = judge.gpt_neox if architecture == "neox" else judge.transformer if architecture == "gpt2" else judge.model
    blocks = base.h if architecture == "gpt2" else base.layers
    places = texts.places[text]

    class Where:
        pass

    Where.text = torch.full((len(places),), text)
    Where.branch = torch.full((len(places),), branch)
    Where.place = torch.arange(len(places))

    def write(edit):
        def hook(module, args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[0, places] = edit(hidden[0, places], Where)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    for name, edit in edits.items():
        block = blocks[int(name.split(".")[1])]
        (block.mlp if name.endswith("mlp_out") else block).register_forward_hook(write(edit))
    with torch.inference_mode():
        return judge(torch.as_tensor(texts.tokens[text])[None]).logits[0, texts.read[text]]


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
@pytest.mark.parametrize("hooks", [HOOKS[:1], HOOKS[1:2], HOOKS[:2], HOOKS])
def test_branches_equal_the_library_with_hooks_text_by_text(tiny, checkpoint, architecture, hooks):
    model = tiny(architecture)
    if architecture == "gemma2":
        hooks = [hook for hook in hooks if "mlp" not in hook]  # normed once more before it joins the stream
    edits = {hook: moved(i) for i, hook in enumerate(hooks)}
    trunk = model.trunk(TEXTS, hooks)
    assert trunk.way.branches  # from the trunk on, not as a whole
    found = trunk.logits(edits, 4)
    for text, branch in [(0, 0), (0, 3), (1, 1), (2, 2)]:
        truth = judged(checkpoint, architecture, edits, text, branch)
        assert torch.allclose(found[text, branch], truth, atol=1e-4)
    assert not torch.allclose(found[0, 0], found[0, 1], atol=1e-3)
    whole = Trunk(model, TEXTS, [], Way("bridge", False)).logits(edits, 4)
    assert torch.allclose(found, whole, atol=1e-4)
    assert torch.equal(trunk.logits(edits, 4), found)  # a trunk is left as it was


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
@pytest.mark.parametrize("way", [Way("hf", True), Way("bridge", True), Way("bridge", False)])
def test_logits_of_some_tokens_alone_are_those_of_all(tiny, architecture, way):
    """Soft caps and scales behind the unembedding included; all others are told as 0."""
    model, hooks, some = tiny(architecture), HOOKS[:1], torch.tensor([7, 3, 21])
    edits = {hooks[0]: moved()}
    every = Trunk(model, TEXTS, hooks, way).logits(edits, 4)
    found = Trunk(model, TEXTS, hooks, way, tokens=some).logits(edits, 4)
    assert torch.allclose(found[..., some], every[..., some], atol=1e-5)
    others = [i for i in range(model.d_vocab) if i not in some.tolist()]
    assert int(found[..., others].count_nonzero()) == 0
    assert "forward" not in vars(model.backend(way.backend).hf.get_output_embeddings())


def test_attention_that_slides_over_a_shorter_window_is_run_as_a_whole(tiny, checkpoint):
    model, long = tiny("gemma2"), EditedTexts([np.arange(4, 24)], [np.array([3])], np.array([19]))
    assert way_of(model, HOOKS[:1], 8).branches and not way_of(model, HOOKS[:1], 20).branches
    edits = {HOOKS[0]: moved()}
    found = model.trunk(long, HOOKS[:1]).logits(edits, 2)
    for branch in (0, 1):
        assert torch.allclose(found[0, branch], judged(checkpoint, "gemma2", edits, 0, branch, long), atol=1e-4)


def test_blocks_below_the_edit_and_tokens_before_it_are_not_run_again(tiny):
    model, seen = tiny("llama"), []
    trunk = model.trunk(TEXTS, ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_post"])
    blocks = [model.backend(trunk.way.backend).block(i) for i in range(3)]
    norms = [block.input_layernorm for block in blocks]
    handles = [norm.register_forward_hook(lambda m, args, out, i=i: seen.append((i, out.shape[1])))
               for i, norm in enumerate(norms)]  # fmt: skip
    trunk.logits({"blocks.2.hook_resid_post": moved()}, 2)
    assert not seen  # what the last block ended with goes to the unembedding
    trunk.logits({"blocks.1.hook_resid_post": moved()}, 2)
    assert seen == [(2, 2 * 7)]  # the next block, two branches of the seven tokens from the first edited one on
    seen.clear()
    trunk.logits({"blocks.1.hook_mlp_out": moved(), "blocks.2.hook_resid_post": moved()}, 2)
    assert [block for block, _ in seen] == [1, 2]
    for handle in handles:
        handle.remove()
    late = EditedTexts(TEXTS.tokens, [np.array([r]) for r in TEXTS.read], TEXTS.read)
    assert model.trunk(late, ["blocks.0.hook_resid_post"]).width == 1


def test_a_wrong_edit_is_refused_and_nothing_is_left_behind(tiny):
    model, name = tiny("gpt2"), "blocks.1.hook_resid_post"
    trunk = model.trunk(TEXTS, [name])
    before = trunk.logits({name: lambda act, at: act}, 1)
    with pytest.raises(BadInput, match="returned"):
        trunk.logits({name: lambda act, at: act[:1]}, 2)
    with pytest.raises(BadInput, match="not finite"):
        trunk.logits({name: lambda act, at: act * torch.inf}, 2)
    with pytest.raises(ZeroDivisionError):
        trunk.logits({name: lambda act, at: 1 / 0}, 2)
    with pytest.raises(UnknownHook, match="3 layers"):
        model.trunk(TEXTS, ["blocks.3.hook_resid_post"])
    with pytest.raises(BadInput, match="one branch only"):
        model.trunk(TEXTS, ["blocks.1.hook_resid_mid"])
    model.check_clean()
    forward = model.backend(trunk.way.backend)
    assert not any("forward" in vars(forward.block(i)) for i in range(3))
    assert torch.equal(trunk.logits({name: lambda act, at: act}, 1), before)


@pytest.mark.parametrize(
    ("places", "read", "said"),
    [([3, 2], 6, "in order"), ([], 6, "one or more"), ([2], 9, "read at 9"), ([4], 3, "behind it"), ([-1], 3, "-1")],
)
def test_places_that_cannot_be_edited_are_refused(places, read, said):
    with pytest.raises(BadInput, match=said):
        EditedTexts([np.arange(8)], [np.array(places, dtype=np.int64)], np.array([read]))


@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_flow_from_the_logits_to_what_is_written(tiny, layer):
    """Against differences of logits: the weights have no gradient, what is written does."""
    model, name = tiny("llama"), f"blocks.{layer}.hook_resid_post"
    given = torch.randn(len(TEXTS), D, generator=torch.Generator().manual_seed(0)).double()

    def said(value, grad):
        trunk = model.trunk(TEXTS, [name], grad=grad)
        edit = {name: lambda act, at: act + value[at.text].to(act)}
        return torch.cat([some.logits for some in trunk.branch(edit, 1)])[:, 7].double().sum()

    wanted = given.clone().requires_grad_()
    said(wanted, True).backward()
    assert wanted.grad is not None
    step = torch.zeros_like(given)
    for text, at in [(0, 0), (1, 5), (2, 31)]:
        step.zero_()[text, at] = 1e-2
        slope = (said(given + step, False) - said(given - step, False)) / 2e-2
        assert float(wanted.grad[text, at]) == pytest.approx(float(slope), abs=2e-3)
    assert all(p.grad is None for p in model.bridge.hf.parameters())
