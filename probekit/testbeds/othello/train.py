"""Train an Othello-GPT: a GPT-2 that reads moves and predicts the law of the next one under random legal play.

The target is the exact next-move law that the generator knows, not the one move that was drawn from it: the gradient
has the same expectation and less variance (Rao-Blackwell).
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from probekit.errors import BadInput
from probekit.testbeds import training
from probekit.testbeds.othello.game import Geometry, generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Recipe(training.Schedule):
    """All that decides the trained weights. `steps` may grow on resume while the learning rate is still constant."""

    size: int = 6
    n_layers: int = 6
    n_heads: int = 4
    d_model: int = 128
    n_games: int = 192


RECIPES = {
    "othello-6x6": Recipe(),
    "othello-8x8": Recipe(size=8, n_layers=8, n_heads=8, d_model=512, n_games=512, steps=40_000, muon_lr=3e-3),
}


def recipe(name: str) -> Recipe:
    """The recipe of a bundled model."""
    if name not in RECIPES:
        raise BadInput(f"no recipe '{name}': there are {', '.join(RECIPES)}.")
    return RECIPES[name]


def build_model(recipe: Recipe, seed: int) -> "PreTrainedModel":
    """A randomly initialised GPT-2 for the recipe's board. The last token number is padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    n_moves = Geometry(recipe.size).n_moves
    config = GPT2Config(
        vocab_size=n_moves + 1,
        n_positions=n_moves,
        n_embd=recipe.d_model,
        n_layer=recipe.n_layers,
        n_head=recipe.n_heads,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=n_moves,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def _batch(recipe: Recipe, n_games: int, seed: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens [n, n_moves], law [n, n_moves, n_moves], live [n, n_moves]); padding is the last token number."""
    games = generate(n_games, np.random.default_rng([recipe.seed, seed]), recipe.size)
    tokens = np.where(games.moves >= 0, games.moves, Geometry(recipe.size).n_moves)
    return (
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(games.law()).to(device),
        torch.from_numpy(games.live).to(device),
    )


def batch_loss(model: torch.nn.Module, recipe: Recipe, step: int, device: str, fast: bool) -> Tensor:
    """Mean nats per move of the batch of a step, to the exact law."""
    tokens, law, live = _batch(recipe, recipe.n_games, step, device)
    return -(law * training.log_probs(model, tokens, fast)[..., :-1]).sum() / live.sum()


@torch.inference_mode()
def evaluate(model: torch.nn.Module, recipe: Recipe, device: str = "cpu", n_games: int = 2_000) -> dict[str, float]:
    """On games never trained on: cross-entropy to the exact law and its excess over the entropy (bits per move),
    share of argmax moves that are legal, mean probability on legal moves."""
    totals = np.zeros(5)
    for i in range(0, n_games, 500):
        tokens, law, live = _batch(recipe, min(500, n_games - i), training.EVALUATION_SEED + i, device)
        log_p = training.log_probs(model, tokens, fast=False)[live][:, :-1].double()
        truth = law[live].double()
        legal = truth > 0
        loss = -(truth * log_p).sum(-1)
        entropy = torch.log(legal.sum(-1).double())
        top_is_legal = legal.gather(-1, log_p.argmax(-1, keepdim=True))[:, 0].double()
        mass = (log_p.exp() * legal).sum(-1)
        totals += [float(x) for x in (loss.sum(), (loss - entropy).sum(), top_is_legal.sum(), mass.sum(), len(truth))]
    loss, excess, top, mass, n = totals.tolist()
    bits = n * math.log(2)
    return {"loss_bits": loss / bits, "excess_bits": excess / bits, "legal_top1": top / n, "legal_mass": mass / n}


def train(
    recipe: Recipe, out: Path, device: str = "cpu", fast: bool = True, until: int | None = None
) -> Iterator[dict]:
    """As `training.train`."""
    return training.train(cast(training.Lesson, sys.modules[__name__]), recipe, out, device, fast, until)


def export(out: Path, folder: Path) -> Path:
    """Write the last kept checkpoint of a training folder as a bundled model: config.json, bfloat16 weights, CARD.md.

    The card is made from metrics.jsonl, so that every number in it comes from the run.
    """
    recipe = Recipe(**training.read_head(out / "state.safetensors")[1])
    step, stored = training.write_bundle(out, folder, recipe)
    figures = evaluate(stored, recipe, n_games=4_000)
    kept = training.kept_rows(out, recipe)
    (folder / "CARD.md").write_text(_card(recipe, step, figures, kept), encoding="utf-8")
    return folder


def _card(recipe: Recipe, step: int, figures: dict[str, float], kept: list[dict]) -> str:
    name = f"othello-{recipe.size}x{recipe.size}"
    table = "\n".join(
        f"| {row['step']} | {row['step'] * recipe.n_games} | {row['loss_bits']:.4f} | {row['excess_bits']:.4f} "
        f"| {row['legal_top1']:.4f} | {row['legal_mass']:.4f} |"
        for row in kept
    )
    return f"""# {name}

A GPT-2 ({recipe.n_layers} layers, {recipe.n_heads} heads, d_model {recipe.d_model}) that reads the moves of an Othello
game on a {recipe.size} x {recipe.size} board and predicts the next one. Weights are stored in bfloat16.

- **Tokens**: 0 to {Geometry(recipe.size).n_moves - 1} are the squares that can be played, row by row, without the four
  in the centre; the last token is padding. There is no BOS token.
- **Data**: games of uniformly random legal play, generated during training and never repeated; a game is truncated at
  its first pass. {step} steps of {recipe.n_games} games: {step * recipe.n_games} games.
- **Objective**: cross-entropy to the exact next-move law (even over the legal moves), whose gradient is that of
  next-token prediction on the drawn moves in expectation, with less variance.
- **Optimiser**: Muon ({recipe.muon_lr}) for the matrices of the blocks, AdamW ({recipe.adam_lr}) for the rest, no
  weight decay; linear warm-up over {recipe.warmup} steps, constant, linear cool-down over the last
  {recipe.cooldown:.0%} of steps; bfloat16 autocast. Seed {recipe.seed}.
- **Made by** `probekit testbed train {name} --out FOLDER`, then `probekit testbed export FOLDER`.

On 4,000 held-out games, weights as stored: legal top-1 **{figures["legal_top1"]:.4f}**, probability on legal moves
**{figures["legal_mass"]:.4f}**, loss {figures["loss_bits"]:.4f} bits per move, {figures["excess_bits"]:.4f} above the
entropy of the law.

| step | games | loss (bits) | above entropy (bits) | legal top-1 | legal mass |
|---|---|---|---|---|---|
{table}
"""
