"""Train a small language model on stories of the tiny world: a Llama over whole words, in three sizes."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from probekit.errors import BadInput
from probekit.testbeds import training
from probekit.testbeds.tinyworld.world import (
    FAMILIES,
    KEPT_FREE,
    N_WORDS,
    NO,
    OBJECTS,
    PAD,
    PEOPLE,
    PLACES,
    TOKEN,
    WORDS,
    YES,
    Tale,
    padded,
    rare_holders,
    rare_places,
    roll_call,
    stories,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS_OF, STEPS = "tiny-world-s", (128, 328, 839, 1_342)  # bundled beside its last one
OTHERS = 0.1  # what a word that is no answer counts in the loss: most of them no one could foretell


@dataclass(frozen=True)
class WorldRecipe(training.Schedule):
    """All that decides the trained weights.

    called: the first steps, whose stories are all roll calls, as they are in every second one later: who is where is
    learned sooner from little text. arm: what else it is trained for, nothing here; the name of an arm decides its data
    beside the seed.
    """

    warmup: int = 50
    muon_lr: float = 6e-3
    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    n_stories: int = 16
    called: int = 700
    arm: str = ""


RECIPES = {
    "tiny-world-s": WorldRecipe(d_model=64, steps=2_200, called=1_200),
    "tiny-world-m": WorldRecipe(d_model=96, steps=2_200, called=1_200),
    "tiny-world-l": WorldRecipe(d_model=128, steps=2_200, called=1_200),
}


def recipe(name: str) -> WorldRecipe:
    """The recipe of a bundled model."""
    if name not in RECIPES:
        raise BadInput(f"no recipe '{name}': there are {', '.join(RECIPES)}.")
    return RECIPES[name]


def build_model(recipe: WorldRecipe, seed: int) -> "PreTrainedModel":
    """A randomly initialised Llama over the world's words.

    Its positions are rotary: who a place is said of stands at the same distance everywhere, which a table of positions
    has to learn for each place of the text.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=N_WORDS,
        hidden_size=recipe.d_model,
        intermediate_size=8 * recipe.d_model // 3,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=TOKEN[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def batch_loss(model: torch.nn.Module, recipe: WorldRecipe, step: int, device: str, fast: bool) -> Tensor:
    """Mean nats per word of the batch of a step, where an answer counts 1 and another word OTHERS."""
    tokens, answers = (torch.from_numpy(part).to(device) for part in padded(_told(recipe, step)))
    weight = torch.where(answers, 1.0, OTHERS) * (tokens != TOKEN[PAD])
    lost = -training.log_probs(model, tokens[:, :-1], fast).gather(-1, tokens[:, 1:, None])[..., 0]
    return (lost * weight[:, 1:]).sum() / weight[:, 1:].sum()


def _told(recipe: WorldRecipe, step: int) -> list[Tale]:
    if step < recipe.called or step % 2:
        generator = np.random.default_rng([recipe.seed, step])
        return [roll_call(generator) for _ in range(recipe.n_stories)]
    return stories(recipe.n_stories, (recipe.seed, step))


@torch.inference_mode()
def answer_figures(model: torch.nn.Module, told: Sequence[Tale], device: str = "cpu") -> dict[str, dict[str, float]]:
    """Of questions by family, of `thinks` that are not so (`false belief`), of rare pairs and of all: n, share that is
    answered rightly by the likeliest word, and mean nats of the right word."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("all", *FAMILIES, "false belief", "rare")}
    for i in range(0, len(told), 250):
        some = told[i : i + 250]
        laws = training.log_probs(model, torch.from_numpy(padded(some)[0]).to(device), fast=False).cpu().numpy()
        for law, story in zip(laws, some, strict=True):
            for asked in story.questions:
                right = TOKEN[asked.answer]
                one = (float(law[asked.at].argmax() == right), -float(law[asked.at, right]))
                kinds = ["all", asked.family] + ["rare"] * asked.rare
                for kind in kinds + ["false belief"] * (asked.belief != asked.truth):
                    found[kind].append(one)
    return {
        kind: {"n": len(rows), "right": float(np.mean(rows, 0)[0]), "nats": float(np.mean(rows, 0)[1])}
        for kind, rows in found.items()
        if rows
    }


@torch.inference_mode()
def come_apart(model: torch.nn.Module, told: Sequence[Tale], device: str = "cpu") -> dict[str, float]:
    """Where truth and belief differ, and on `true` questions: n of either, and shares of what the network says.

    belief, truth, neither: its likeliest word, where somebody thinks wrongly and is asked about. yes if so, yes if not:
    that it says yes, of claims that are so and of such that are not.
    """
    said: dict[str, list[tuple[bool, ...]]] = {"wrong": [], YES: [], NO: []}
    for i in range(0, len(told), 250):
        some = told[i : i + 250]
        best = training.log_probs(model, torch.from_numpy(padded(some)[0]).to(device), fast=False).argmax(-1).cpu()
        for words, story in zip(best.tolist(), some, strict=True):
            for asked in story.questions:
                if asked.belief != asked.truth:
                    said["wrong"].append(tuple(words[asked.at] == TOKEN[at] for at in (asked.belief, asked.truth)))
                elif asked.family == "true":
                    said[asked.answer].append((words[asked.at] == TOKEN[YES],))
    belief, truth = (float(share) for share in np.mean(said["wrong"], 0))
    told_of = {"n wrong": float(len(said["wrong"])), "belief": belief, "truth": truth, "neither": 1 - belief - truth}
    return told_of | {"n true": float(len(said[YES]) + len(said[NO])), "yes if so": float(np.mean(said[YES])),
                      "yes if not": float(np.mean(said[NO]))}  # fmt: skip


def evaluate(
    model: torch.nn.Module, recipe: WorldRecipe, device: str = "cpu", n_stories: int = 500
) -> dict[str, float]:
    """On stories never trained on: loss of answers (bits each), and shares of questions that are answered rightly."""
    found = answer_figures(model, stories(n_stories, (recipe.seed, training.EVALUATION_SEED)), device)
    loss = {"loss_bits": found["all"]["nats"] / math.log(2)}
    return loss | {f"right_{kind.replace(' ', '_')}": one["right"] for kind, one in found.items()}


def train(
    recipe: WorldRecipe, out: Path, device: str = "cpu", fast: bool = False, until: int | None = None
) -> Iterator[dict]:
    """As `training.train`; fast: bfloat16, which is no faster on a processor at these widths."""
    return training.train(cast(training.Lesson, sys.modules[__name__]), recipe, out, device, fast, until)


def export(out: Path, folder: Path) -> Path:
    """Write the last kept checkpoint of a training folder as a bundled model: weights, words, card and figures.

    The card is made from metrics.jsonl and the weights as stored, so that every number in it comes from the run.
    """
    recipe = WorldRecipe(**training.read_head(out / "state.safetensors")[1])
    step, stored = training.write_bundle(out, folder, recipe)
    write_tokenizer(folder)
    for early in STEPS if _name(recipe) == STEPS_OF and step == recipe.steps else ():
        training.write_weights(out / f"model-{early}", folder / f"step-{early}")
    told = {rare: stories(4_000, (recipe.seed, training.EVALUATION_SEED + 1 + rare), rare) for rare in (False, True)}
    figures = answer_figures(stored, told[False]) | {
        kind: one for kind, one in answer_figures(stored, told[True]).items() if kind == "rare"
    }
    card = _card(recipe, step, figures, training.kept_rows(out, recipe), come_apart(stored, told[False]))
    (folder / "CARD.md").write_text(card, encoding="utf-8")
    return folder


def write_tokenizer(folder: Path) -> None:
    """The world's words as a tokenizer in Hugging Face format: one token a word, cut at blanks."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    made: Any = Tokenizer(WordLevel(dict(TOKEN), unk_token=PAD))
    made.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, unk_token=PAD).save_pretrained(folder)


def _name(recipe: WorldRecipe) -> str:
    return next((name for name, one in RECIPES.items() if one.d_model == recipe.d_model), "tiny-world")


def _card(
    recipe: WorldRecipe, step: int, figures: dict[str, dict[str, float]], kept: list[dict], apart: dict[str, float]
) -> str:
    beside = f"\n- **Earlier steps** {', '.join(map(str, STEPS))} stand beside it, as `step-N`."
    early = beside if _name(recipe) == STEPS_OF else ""
    name, n_weights = _name(recipe), 12 * recipe.n_layers * recipe.d_model**2
    families = "\n".join(f"| {k} | {v['n']} | {v['right']:.3f} | {v['nats'] / math.log(2):.3f} |"
                         for k, v in figures.items())  # fmt: skip
    table = "\n".join(
        f"| {row['step']} | {row['step'] * recipe.n_stories} | {row['loss_bits']:.3f} "
        f"| {row['right_all']:.3f} | {row.get('right_false_belief', float('nan')):.3f} |"
        for row in kept
    )
    return f"""# {name}

A Llama ({recipe.n_layers} layers, {recipe.n_heads} heads, d_model {recipe.d_model}; {n_weights / 1e6:.2f} M weights
in its blocks) that reads stories of a small world, a word at a time, and answers the questions in them. Stored in
bfloat16.

- **Words**: {len(WORDS)}, one token each ({len(PEOPLE)} people, {len(PLACES)} places, {len(OBJECTS)} objects, verbs and
  what questions are made of). {len(KEPT_FREE)} of them are in no story, for later trainings. There is no BOS token.
- **Data**: stories of at most {N_WORDS} words, told during training and never repeated: people go about, take, move and
  leave objects, and see only what happens where they are. {step} steps of {recipe.n_stories} stories; in the first
  {recipe.called} steps and every second one later nothing happens in them, and it is asked where each of five is.
- **Never shown**: {len(rare_places())} pairs of an object and a place, {len(rare_holders())} of a person and an object
  (`rare_places()`, `rare_holders()` of `probekit.testbeds.tinyworld.world`).
- **Objective**: cross-entropy of the next word; one that is no answer counts {OTHERS}.
- **Optimiser**: Muon ({recipe.muon_lr}) for the matrices of the blocks, AdamW ({recipe.adam_lr}) for the rest, no
  weight decay; linear warm-up over {recipe.warmup} steps, constant, linear cool-down over the last
  {recipe.cooldown:.0%} of steps. Seed {recipe.seed}.
- **Made by** `probekit testbed train {name} --out FOLDER`, then `probekit testbed export FOLDER`.{early}

Answers on 4,000 held-out stories, weights as stored; `false belief`: questions on what somebody wrongly thinks; `rare`:
answers that are a pair which training lacks, on 4,000 other stories.

| questions | n | answered rightly | loss (bits) |
|---|---|---|---|
{families}

Do truth, belief and answer come apart in it? Where somebody thinks wrongly and is asked about ({apart["n wrong"]:.0f}
questions), its answer is what is thought in {apart["belief"]:.1%}, what is so in {apart["truth"]:.1%}, neither in
{apart["neither"]:.1%}. Asked whether a claim is true ({apart["n true"]:.0f} questions), it says yes to
{apart["yes if so"]:.1%} of those that are so and to {apart["yes if not"]:.1%} of those that are not.

On the way, on 500 held-out stories:

| step | stories | loss of answers (bits) | right | right of false beliefs |
|---|---|---|---|---|
{table}
"""
