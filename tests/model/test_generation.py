"""What a model writes under edits equals the library's own forward with hooks of the test's, one token at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import checkpoints
from probekit.errors import BadInput, UnknownHook
from probekit.model.generation import Manner, WhileWriting, generate, writer_of
from probekit.model.interventions import interchange, orthonormal, remove, steer
from probekit.model.loading import plant_model

D, N = checkpoints.D_MODEL, 8
HOOKS = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_post")
LENGTHS = (5, 9, 2, 14)
FIRST = np.array([2, 8, 0, 6])
SURE = 1e-3  # of logits: below it rounding decides which of two tokens is the likelier


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(model, lengths=LENGTHS):
    draw = np.random.default_rng(3)
    return [draw.integers(4, model.d_vocab, length) for length in lengths]


DIRECTION, BASIS, SOURCE = drawn(D), orthonormal(drawn(D, 3, seed=1)), 3 * drawn(len(LENGTHS), D, seed=2)
EDITS = {
    "steer": lambda act, at: act + (4.0 + at.text.to(act))[:, None] * DIRECTION.to(act),
    "ablate": lambda act, at: remove(act, BASIS.to(act)),
    "interchange": lambda act, at: interchange(act, SOURCE[at.text].to(act), BASIS.to(act)),
}


def by_hand(kind, act, row):
    """The same edit of one token's activation [d], in the words of linear algebra."""
    if kind == "steer":
        return act + (4.0 + row) * DIRECTION
    inside = BASIS @ (BASIS.T @ act)
    return act - inside if kind == "ablate" else act - inside + BASIS @ (BASIS.T @ SOURCE[row])


def judged(hf, architecture, hooks, kind, ids, row, first, on):
    """N tokens by the library alone: no cache, every token so far anew, hooks on its own blocks; and the margins."""
    base = hf.gpt_neox if architecture == "neox" else hf.transformer if architecture == "gpt2" else hf.model
    blocks, ids, margins = base.h if architecture == "gpt2" else base.layers, [int(i) for i in ids], []

    def hook(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        for at in range(first, hidden.shape[1] if on else first + 1):
            hidden[0, at] = by_hand(kind, hidden[0, at], row)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [blocks[int(name.split(".")[1])].register_forward_hook(hook) for name in hooks]
    written = []
    with torch.inference_mode():
        while len(written) < N:
            logits = hf(torch.tensor([ids + written])).logits[0, -1]
            best = logits.topk(2)
            margins.append(float(best.values[0] - best.values[1]))
            written.append(2 if 2 in written else int(best.indices[0]))
    for handle in handles:
        handle.remove()
    return written, next((i for i, margin in enumerate(margins) if margin < SURE), N)


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
@pytest.mark.parametrize("backend", ["bridge", "hf"])
def test_edited_texts_are_those_of_the_library_with_hooks(tiny, checkpoint, architecture, backend):
    model = tiny(architecture)
    hf = AutoModelForCausalLM.from_pretrained(checkpoint(architecture), attn_implementation="eager").eval()
    rows, changed, compared = rows_of(model), 0, 0
    for kind, on, hooks in (("steer", True, HOOKS[:1]), ("steer", False, HOOKS[1:]), ("ablate", True, HOOKS),
                            ("interchange", True, HOOKS[1:]), ("interchange", False, HOOKS)):  # fmt: skip
        edits = dict.fromkeys(hooks, EDITS[kind])
        some = [[i] for i in range(len(rows))] if backend == "bridge" else [list(range(len(rows)))]
        for at in some:
            # an edit is told a row's number in the call, and these are the test's own
            mine = {name: renumbered(edit, at) for name, edit in edits.items()}
            ours = generate(model, [rows[i] for i in at], N, backend=backend,
                            edited=WhileWriting(mine, FIRST[at], on))[:, 0]  # fmt: skip
            for i, written in zip(at, ours.tolist(), strict=True):
                theirs, sure = judged(hf, architecture, hooks, kind, rows[i], i, int(FIRST[i]), on)
                assert written[:sure] == theirs[:sure], (kind, on, i)
                compared += sure
                changed += written != generate(model, [rows[i]], N)[0, 0].tolist()
    assert compared > 0.9 * 5 * N * len(rows) and changed > 8
    fastest = {"hf": Manner(True, True), "bridge": Manner(True, False)}
    assert model.trials.manners[f"{backend} {HOOKS[0]}"] == fastest[backend]


def renumbered(edit, at):
    numbers = torch.tensor(at)
    return lambda act, where: edit(act, type(where)(numbers[where.text], where.branch, where.place))


def test_the_named_position_alone_is_not_that_and_all_behind_it(tiny):
    model = tiny("llama")
    rows, edits = rows_of(model), {HOOKS[0]: EDITS["steer"]}
    one, all_on = (
        generate(model, rows, N, backend="hf", edited=WhileWriting(edits, FIRST, on)) for on in (False, True)
    )
    assert not torch.equal(one, all_on)
    seen = []

    def watch(act, at):
        seen.append((len(act), at.place.tolist()))
        return act

    generate(model, rows[:1], 4, edited=WhileWriting({HOOKS[0]: watch}, FIRST[:1]))
    # tokens 2, 3 and 4 of the row of five, and each of the written ones that is read again, in its turn
    assert seen[-4:] == [(3, [0, 1, 2]), (1, [3]), (1, [4]), (1, [5])]


def hooks_of(model):
    return [(set(m._forward_hooks), set(m._forward_pre_hooks)) for m in model.plain.hf.modules()]


@pytest.mark.parametrize("backend", ["bridge", "hf"])
def test_hooks_are_gone_behind_an_error(tiny, backend):
    model = tiny("gpt2")
    rows = rows_of(model, (4, 4))
    before = generate(model, rows, N, backend=backend)
    calls = []

    def breaks(act, at):
        calls.append(len(act))
        if len(calls) == 3:
            raise RuntimeError("in the middle of a text")
        return act + 5

    edited = WhileWriting({HOOKS[0]: breaks}, np.array([1, 1]))
    generate(model, rows, 1, backend=backend, edited=WhileWriting({HOOKS[0]: lambda act, at: act}, np.array([1, 1])))
    held = hooks_of(model)  # the library leaves some of its own where it was asked for hidden states
    with pytest.raises(RuntimeError, match="in the middle"):
        generate(model, rows, N, backend=backend, edited=edited)
    model.check_clean()
    assert hooks_of(model) == held and len(calls) == 3
    assert torch.equal(generate(model, rows, N, backend=backend), before)


def test_samples_share_their_row_s_edit(tiny):
    model = tiny("gpt2")
    rows = rows_of(model, (4, 4))
    draws = torch.from_numpy(np.random.default_rng(0).random((2, 3, N)))
    edited = WhileWriting({HOOKS[0]: EDITS["steer"]}, np.array([1, 3]))
    together = generate(model, rows, N, draws, backend="hf", edited=edited)
    for sample in range(3):
        alone = generate(model, rows, N, draws[:, sample : sample + 1], backend="hf", edited=edited)
        assert torch.equal(alone[:, 0], together[:, sample])


def test_a_forward_that_would_do_something_else_is_not_written_with(tiny, monkeypatch):
    model = tiny("llama")
    assert writer_of(model, HOOKS) == "hf"
    lacking = next(name for name in model.hook_names if name not in model.plain.places)
    assert writer_of(model, [lacking]) == "bridge"
    monkeypatch.setattr(model.trials, "manners", {})
    places = dict(model.plain.places)
    monkeypatch.setitem(model.plain.places, HOOKS[0], places[HOOKS[1]])  # another block than the name says
    assert writer_of(model, HOOKS[:1]) == "bridge"
    with pytest.raises(BadInput, match="other things than the bridge"):
        generate(model, rows_of(model), N, backend="hf", edited=WhileWriting({HOOKS[0]: EDITS["steer"]}, FIRST))


def test_what_is_wrong_is_told(tiny):
    model = tiny("gpt2")
    rows, edits = rows_of(model, (4, 4)), {HOOKS[0]: EDITS["steer"]}
    with pytest.raises(BadInput, match="row 1 is edited from token 4 on, and has 4"):
        generate(model, rows, 2, edited=WhileWriting(edits, np.array([0, 4])))
    with pytest.raises(BadInput, match="2 rows are edited from 1 tokens on"):
        generate(model, rows, 2, edited=WhileWriting(edits, np.array([0])))
    with pytest.raises(UnknownHook):
        generate(model, rows, 2, edited=WhileWriting({"blocks.9.hook_resid_post": EDITS["steer"]}, np.array([0, 0])))
    with pytest.raises(BadInput, match="returned"):
        wide = {HOOKS[0]: lambda act, at: act[:, :3]}
        generate(model, rows, 2, edited=WhileWriting(wide, np.array([0, 0])))


def test_a_planted_ring_turns_the_other_way_when_it_is_told_to():
    """The likeliest token is the last one's successor; an edit that puts the predecessor's place in its stead."""
    eye = torch.eye(5)
    weights = {"tok_embed.weight": 4 * eye, "head.weight": torch.roll(eye, 1, 0), "layers.0.attn.v.weight": 0 * eye,
               "layers.0.mlp.fc_in.weight": torch.zeros(2, 5)}  # fmt: skip
    model = plant_model(weights, n_heads=1, n_ctx=8, name="ring")
    hook = "blocks.0.hook_resid_post"
    assert generate(model, torch.tensor([[0]]), 4)[0, 0].tolist() == [1, 2, 3, 4]
    back = WhileWriting({hook: lambda act, at: act.roll(-2, -1)}, np.array([0]))
    assert generate(model, torch.tensor([[0]]), 4, edited=back)[0, 0].tolist() == [4, 3, 2, 1]
    once = WhileWriting({hook: lambda act, at: act.roll(-2, -1)}, np.array([0]), on=False)
    assert generate(model, torch.tensor([[0]]), 4, edited=once)[0, 0].tolist() == [4, 0, 1, 2]
    pushed = WhileWriting({hook: lambda act, at: steer(act, eye[2], 100.0)}, np.array([0]))
    assert generate(model, torch.tensor([[0]]), 4, edited=pushed)[0, 0].tolist() == [3, 3, 3, 3]
