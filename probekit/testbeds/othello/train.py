"""Train an Othello-GPT: a GPT-2 that reads moves and predicts the law of the next one under random legal play.

Every batch is fresh, drawn from (seed, step), so a run is resumable from model and optimiser state alone. The target
is the exact next-move law that the generator knows, not the one move that was drawn from it: the gradient has the same
expectation and less variance (Rao-Blackwell). Matrices inside blocks are trained by Muon, all else by AdamW.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from probekit.errors import BadInput, Interrupted
from probekit.testbeds.othello.game import Geometry, generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
EVALUATION_SEED = 2**40  # no training step reaches this number, so evaluation games are never trained on
CHECKPOINT_RATIO = 1.6  # evaluated and kept at 50, 80, 128, ... steps: about 12 in a run, evenly spaced in log compute


@dataclass(frozen=True)
class Recipe:
    """All that decides the trained weights. `steps` may grow on resume while the learning rate is still constant."""

    size: int = 6
    n_layers: int = 6
    n_heads: int = 4
    d_model: int = 128
    n_games: int = 192
    steps: int = 6_500
    warmup: int = 100
    cooldown: float = 0.4
    muon_lr: float = 1.2e-2
    adam_lr: float = 3e-3
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning-rate factor: linear warm-up, constant, linear cool-down to zero over the last share `cooldown`."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / (self.cooldown * self.steps))

    def kept_steps(self) -> list[int]:
        """Steps at which a checkpoint is evaluated and kept, the last one included."""
        n = int(math.log(self.steps / 50, CHECKPOINT_RATIO)) + 1 if self.steps > 50 else 0
        return sorted({round(50 * CHECKPOINT_RATIO**i) for i in range(n)} | {self.steps})


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


def _optimisers(model: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    inside = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(inner, lr=recipe.muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _batch(recipe: Recipe, n_games: int, seed: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens [n, n_moves], law [n, n_moves, n_moves], live [n, n_moves]); padding is the last token number."""
    games = generate(n_games, np.random.default_rng([recipe.seed, seed]), recipe.size)
    tokens = np.where(games.moves >= 0, games.moves, Geometry(recipe.size).n_moves)
    return (
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(games.law()).to(device),
        torch.from_numpy(games.live).to(device),
    )


def _log_probs(model: torch.nn.Module, tokens: Tensor, fast: bool) -> Tensor:
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=fast):
        logits = model(input_ids=tokens, use_cache=False).logits
    return torch.log_softmax(logits.float(), -1)


@torch.inference_mode()
def evaluate(model: torch.nn.Module, recipe: Recipe, device: str = "cpu", n_games: int = 2_000) -> dict[str, float]:
    """On games never trained on: cross-entropy to the exact law and its excess over the entropy (bits per move),
    share of argmax moves that are legal, mean probability on legal moves."""
    totals = np.zeros(5)
    for i in range(0, n_games, 500):
        tokens, law, live = _batch(recipe, min(500, n_games - i), EVALUATION_SEED + i, device)
        log_p = _log_probs(model, tokens, fast=False)[live][:, :-1].double()
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


def _write_state(
    path: Path, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer], step: int, recipe: Recipe
):
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimiser.{i}.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"step": str(step), "recipe": json.dumps(asdict(recipe))})
    os.replace(part, path)


def _read_state(path: Path, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer]) -> tuple[int, Recipe]:
    with safe_open(path, "pt") as header:
        metadata = header.metadata()
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for i, optimiser in enumerate(optimisers):
        saved = optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{i}."):
                _, _, index, name = key.split(".", 3)
                saved["state"].setdefault(int(index), {})[name] = value
        optimiser.load_state_dict(saved)
    return int(metadata["step"]), Recipe(**json.loads(metadata["recipe"]))


def _check_resumable(old: Recipe, new: Recipe, step: int, out: Path) -> None:
    if replace(old, steps=new.steps) != new:
        raise BadInput(f"{out} holds a run of another recipe ({old}); asked was {new}. Give another --out.")
    if old.steps != new.steps and step > min(r.steps * (1 - r.cooldown) for r in (old, new)):
        raise BadInput(f"{out} is at step {step}, where the cool-down has begun: --steps can no longer change.")


def train(
    recipe: Recipe, out: Path, device: str = "cpu", fast: bool = True, until: int | None = None
) -> Iterator[dict]:
    """Train to `recipe.steps`, resuming what `out` holds; yields a metrics row every 50 steps and at kept checkpoints.

    out gets state.safetensors (for resuming), metrics.jsonl, and model-<step>/ (Hugging Face format) per kept step.
    until: a step to stop at; rates are those of the whole recipe, so that the same call without it goes on.
    fast: bfloat16 autocast in the forward pass; weights and optimiser stay in float32.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(recipe, recipe.seed)
    torch.nn.Module.to(model, device)  # in place; the library's own wrapper of `to` has no usable type
    optimisers = _optimisers(model, recipe)
    step, state = 0, out / "state.safetensors"
    if state.exists():
        step, old = _read_state(state, model, optimisers)
        _check_resumable(old, recipe, step, out)
        log.info("resuming %s at step %d", out, step)
    kept, started, running = set(recipe.kept_steps()), time.monotonic(), []
    last = min(recipe.steps, until or recipe.steps)
    try:
        while step < last:
            factor = recipe.rate(step)
            for optimiser, lr in zip(optimisers, (recipe.muon_lr, recipe.adam_lr), strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = lr * factor
            tokens, law, live = _batch(recipe, recipe.n_games, step, device)
            loss = -(law * _log_probs(model, tokens, fast)[..., :-1]).sum() / live.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            step += 1
            running.append(loss.detach())
            if step in kept or step % 50 == 0:
                row = {"step": step, "train_bits": float(torch.stack(running).mean()) / math.log(2), "lr": factor}
                row["seconds"] = time.monotonic() - started
                running = []
                if step in kept or step % 500 == 0:
                    row |= evaluate(model, recipe, device)
                if step in kept:
                    model.save_pretrained(out / f"model-{step}")
                with (out / "metrics.jsonl").open("a", encoding="utf-8") as f:
                    f.write(json.dumps(row) + "\n")
                yield row
            if step % 250 == 0 or step == last:
                _write_state(state, model, optimisers, step, recipe)
    except KeyboardInterrupt:
        _write_state(state, model, optimisers, step, recipe)
        raise Interrupted(f"stopped at step {step} of {recipe.steps}; the same command resumes from {state}") from None


def export(out: Path, folder: Path) -> Path:
    """Write the last kept checkpoint of a training folder as a bundled model: config.json, bfloat16 weights, CARD.md.

    The card is made from metrics.jsonl, so that every number in it comes from the run.
    """
    from transformers import GPT2LMHeadModel

    with safe_open(out / "state.safetensors", "pt") as header:
        metadata = header.metadata()
    recipe = Recipe(**json.loads(metadata["recipe"]))
    step = max(int(p.name.split("-")[1]) for p in out.glob("model-*"))
    model = GPT2LMHeadModel.from_pretrained(out / f"model-{step}", dtype=torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    stored = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    figures = evaluate(stored, recipe, n_games=4_000)
    rows = {
        row["step"]: row for row in map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    }
    kept = [rows[s] for s in recipe.kept_steps() if s in rows and "loss_bits" in rows[s]]
    (folder / "CARD.md").write_text(_card(recipe, step, figures, kept), encoding="utf-8")
    (folder / "checkpoints.json").write_text(
        json.dumps({"recipe": asdict(recipe), "checkpoints": kept}, indent=1), encoding="utf-8"
    )
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
