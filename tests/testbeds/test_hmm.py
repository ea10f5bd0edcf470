"""Hidden Markov processes: beliefs are those of an enumeration of hidden paths; networks are what their card says."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from probekit.errors import BadInput
from probekit.metrics.causal.replace import kl_bits
from probekit.testbeds.hmm import (
    FILE,
    LENGTH,
    PROCESSES,
    Plant,
    load_transformers,
    process_of,
    stored_names,
)
from probekit.testbeds.hmm.networks import untrained
from probekit.testbeds.hmm.processes import RELATIONS, triangle
from probekit.testbeds.hmm.train import EARLY, STACKS, make, target

NAMES = list(PROCESSES)


def drawn(name, n=200, seed=0):
    return PROCESSES[name].draw(n, np.random.default_rng(seed))


def by_paths(process, tokens):
    """The law of the last state, from every path of hidden states: none of the filter's algebra."""
    told = np.zeros(len(process.start))
    for path in product(range(len(process.start)), repeat=len(tokens) + 1):
        chance = process.start[path[0]]
        for token, here, there in zip(tokens, path, path[1:], strict=False):
            chance *= process.moves[token, here, there]
        told[path[-1]] += chance
    return told / told.sum()


@pytest.mark.parametrize("name", NAMES)
def test_the_filter_agrees_with_an_enumeration_of_hidden_paths(name):
    process, apart = PROCESSES[name], []
    for tokens in drawn(name, 4)[:, :4]:
        found = process.beliefs(tokens[None])[0, -1]
        assert found == pytest.approx(by_paths(process, tokens), abs=1e-12)
        apart.append(np.abs(found - by_paths(process, tokens[::-1])).max())
    assert max(apart) > 1e-3  # the order counts: a filter that forgot it would be found


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_drawn_as_the_exact_law_says(name):
    process, tokens = PROCESSES[name], drawn(name, 40_000)
    law = process.law(process.beliefs(tokens[:, :3]))[:, -1]
    seen = np.eye(process.n_tokens)[tokens[:, 3]]
    error = (law * (1 - law)).mean(0) ** 0.5 / len(tokens) ** 0.5
    assert (np.abs(seen.mean(0) - law.mean(0)) < 5 * error).all()
    surest = law.argmax(1)
    hit = seen[np.arange(len(seen)), surest].mean()
    assert hit == pytest.approx(law.max(1).mean(), abs=0.012) and hit > 1.15 / process.n_tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_from_coordinates_is_the_law_of_the_belief(name):
    process = PROCESSES[name]
    belief = process.beliefs(drawn(name))
    assert process.law_of(process.told(belief)) == pytest.approx(process.law(belief), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_who_saw_the_last_tokens_says_what_all_pasts_say_together(name):
    """By enumeration of what may have come before, weighed by how often it does."""
    process, last = PROCESSES[name], np.array([1, 0])
    pasts = np.array([(*past, *last) for past in product(range(process.n_tokens), repeat=2)])
    chance = np.array([np.einsum("i,ij,jk,kl,lm->", process.start, *(process.moves[t] for t in row)) for row in pasts])
    told = (process.beliefs(pasts)[:, -1] * chance[:, None]).sum(0) / chance.sum()
    assert process.recent(pasts[:1], 2)[0, -1] == pytest.approx(told, abs=1e-12)
    assert process.recent(pasts, 4) == pytest.approx(process.beliefs(pasts), abs=1e-12)
    with pytest.raises(BadInput, match="0 or more"):
        process.recent(pasts, -1)


def test_the_law_does_not_tell_the_silent_coin():
    """Two contexts with one law and beliefs that are far apart: who reads the law alone knows nothing of it."""
    process = PROCESSES["turns"]
    told = process.told(process.beliefs(np.array([[0, 0, 1, 0, 1, 0, 1, 0], [0, 1, 1, 1, 1, 1, 1, 1]])))[:, -1]
    law = process.law_of(told)
    silent = process.names.index("silent")
    assert law[0] == pytest.approx(process.law_of(told * np.array([1, 0]))[0], abs=1e-9)
    assert abs(told[0, silent] - told[1, silent]) > 1


# Loops ----------------------------------------------------------------------------------------------------------------


def loopy(couplings, rng, rounds=200):
    """Sum-product messages on three signs from a random start: what each pair is expected to be."""
    pairs = {(0, 1): couplings[0], (1, 2): couplings[1], (0, 2): couplings[2]}
    linked = {**pairs, **{(j, i): c for (i, j), c in pairs.items()}}
    fields = dict.fromkeys(linked, 0.0) | {edge: rng.normal() for edge in linked}
    for _ in range(rounds):
        fields = {(i, j): np.arctanh(np.tanh(c) * np.tanh(sum(f for (k, to), f in fields.items()
                  if to == i and k != j))) for (i, j), c in linked.items()}  # fmt: skip
    out = []
    for (i, j), c in pairs.items():
        here, there = (sum(f for (k, to), f in fields.items() if to == a and k != b) for a, b in ((i, j), (j, i)))
        weight = {(a, b): np.exp(c * a * b + here * a + there * b) for a in (-1, 1) for b in (-1, 1)}
        out.append(sum(a * b * w for (a, b), w in weight.items()) / sum(weight.values()))
    return np.array(out)


def test_the_cheaper_account_is_what_loopy_propagation_says_and_not_what_is_true():
    """Signs that never change: what was told of each pair adds up, and messages are passed round the loop by hand."""
    process, rng = triangle(anew=0.0), np.random.default_rng(3)
    tokens = process.draw(20, rng, length=6)
    weight = np.arctanh(2 * 0.9 - 1)
    couplings = np.stack([((2 * (tokens % 2) - 1) * (tokens // 2 == pair)).sum(1) for pair in range(3)], 1) * weight
    assert process.local is not None
    found = process.local(tokens)[:, -1]
    for row, told in zip(couplings, found, strict=True):
        assert loopy(np.clip(row, -1.5, 1.5), rng) == pytest.approx(np.tanh(np.clip(row, -1.5, 1.5)), abs=1e-3)
        assert told == pytest.approx(np.tanh(row), abs=1e-9)
    chance = np.exp(couplings @ RELATIONS.T)
    true = chance / chance.sum(1, keepdims=True) @ RELATIONS
    assert process.told(process.beliefs(tokens))[:, -1] == pytest.approx(true, abs=1e-9)
    assert np.abs(found - true).mean() > 0.1


def test_loops_cost_bits():
    """Half a tenth of a bit a token, which is more than any network of the file errs by."""
    process, tokens = PROCESSES["triangle"], drawn("triangle", 4000)
    law = process.law(process.beliefs(tokens))
    assert process.local is not None
    assert 0.03 < kl_bits(law, process.law_of(process.local(tokens)))[:, 6:].mean() < 0.07


# Networks -------------------------------------------------------------------------------------------------------------


def test_networks_of_a_stack_are_what_each_would_be_alone_and_see_nothing_ahead():
    process, tokens = PROCESSES["turns"], torch.from_numpy(drawn("turns", 5))
    stack, second = untrained(process, (7, 8)), untrained(process, (8,))
    assert torch.allclose(stack.logits(tokens)[1], second.logits(tokens)[0], atol=1e-5)
    assert torch.allclose(stack.one(1).logits(tokens), second.logits(tokens), atol=1e-5)
    changed = tokens.clone()
    changed[:, 9] = 1 - changed[:, 9]
    before, after = stack.logits(tokens), stack.logits(changed)
    assert torch.allclose(before[:, :, :9], after[:, :, :9], atol=1e-6)
    assert not torch.allclose(before[:, :, 9:], after[:, :, 9:], atol=1e-3)
    for layer in range(stack.depth + 1):
        assert torch.allclose(stack.after(stack.upto(tokens, layer), layer), before, atol=1e-5)


def test_a_plant_says_what_its_account_says():
    process, tokens = PROCESSES["triangle"], drawn("triangle", 50)
    assert process.local is not None
    plant = Plant(process, process.local)
    law = plant.logits(torch.from_numpy(tokens))[0].exp().numpy()
    assert law == pytest.approx(process.law_of(process.local(tokens)), abs=1e-4)
    h = plant.upto(torch.from_numpy(tokens), 1)
    assert torch.equal(h, plant.upto(torch.from_numpy(tokens), 1)) and h.std() > 0.2


def test_training_goes_on_where_it_was_stopped_and_lowers_the_loss(tmp_path, monkeypatch):
    small = {"turns": replace(STACKS["turns"], early=(2,)), "taught": STACKS["taught"]}
    monkeypatch.setattr("probekit.testbeds.hmm.train.STACKS", small)
    make(tmp_path, tmp_path / "all.safetensors", steps=20)
    made = (tmp_path / "turns.safetensors").stat().st_mtime_ns
    make(tmp_path, tmp_path / "all.safetensors", steps=20)
    assert (tmp_path / "turns.safetensors").stat().st_mtime_ns == made
    assert set(stored_names(tmp_path / "all.safetensors")) == {"turns", "turns@2", "taught"}
    tokens = drawn("turns")
    law = target(PROCESSES["turns"], tokens, local=False)
    start, end = (kl_bits(law, load_transformers(name, tmp_path / "all.safetensors").logits(
        torch.from_numpy(tokens))[0].softmax(-1).double().numpy()).mean() for name in ("turns@2", "turns"))  # fmt: skip
    assert end < 0.8 * start


@pytest.mark.parametrize("name", stored_names())
def test_the_card_says_what_bundled_networks_say(name):
    """Within .001 bit a token of what they were taught; those taught one account of the triangle not of the other."""
    stack, process = STACKS[name.split("@")[0]], process_of(name)
    tokens = process.draw(500, np.random.default_rng(0))
    said = load_transformers(name).logits(torch.from_numpy(tokens)).double().softmax(-1).numpy()[:, :, 5:15]
    lost = {local: [kl_bits(target(process, tokens, local)[:, 5:15], one).mean() for one in said]
            for local in (False, True)}  # fmt: skip
    spread = {local: f"{min(of):.4f} to {max(of):.4f}".replace("0.", ".") for local, of in lost.items()}
    other = spread[True] + " " if process.local is not None else ""
    assert f"| `{name}` | {spread[False]} | {other}|" in FILE.with_name("CARD.md").read_text(encoding="utf-8")
    if name in STACKS:
        assert len(said) >= 5 and max(lost[stack.local]) < 0.001
    if name in ("taught", "triangle"):
        assert min(lost[not stack.local]) > 0.05


def test_the_bundled_file_is_small_and_whole():
    assert FILE.stat().st_size < 2_200_000
    assert {*STACKS, *(f"triangle@{at}" for at in EARLY)} == set(stored_names())
    card = FILE.with_name("CARD.md").read_text(encoding="utf-8")
    assert "probekit.testbeds.hmm.train" in card and all(f"`{name}`" in card for name in stored_names())
    assert load_transformers("mess3").parameters["place"].shape[1] == LENGTH
    with pytest.raises(BadInput, match="Did you mean 'mess3'"):
        load_transformers("mess")
