"""Training of bundled language models: a schedule, a loop that resumes, and a checkpoint as a bundled folder.

Every batch is fresh, drawn from (seed, step), so a run is resumable from model and optimiser state alone. Matrices
inside blocks are trained by Muon, all else by AdamW.
"""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from probekit.errors import BadInput, Interrupted, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
EVALUATION_SEED = 2**40  # no training step reaches this number, so what is evaluated on is never trained on
CHECKPOINT_RATIO = 1.6  # evaluated and kept at 50, 80, 128, ... steps: about 12 in a run, evenly spaced in log compute

BLOCKS = re.compile(r"\.(h|layers)\.\d")  # in the names of weights


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `steps` may grow on resume while the learning rate is still constant.

    >>> from probekit.testbeds.training import Schedule
    >>> Schedule(steps=100, warmup=10).rate(4), Schedule(steps=100).kept_steps()
    (0.5, [50, 80, 100])
    """

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


@runtime_checkable
class Lesson(Protocol):
    """What a testbed's own module says of its training; the module itself is one."""

    def build_model(self, recipe: Any, seed: int) -> "PreTrainedModel":
        """A randomly initialised network."""
        ...

    def batch_loss(self, model: torch.nn.Module, recipe: Any, step: int, device: str, fast: bool) -> Tensor:
        """Mean nats of the batch of a step."""
        ...

    def evaluate(self, model: torch.nn.Module, recipe: Any, device: str = "cpu") -> dict[str, float]:
        """Figures on what is never trained on, the first of them a loss."""
        ...


def optimisers_of(model: torch.nn.Module, recipe: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and BLOCKS.search(name)]
    inside = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(inner, lr=recipe.muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _write_state(
    path: Path, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer], step: int, recipe: Schedule
):
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimiser.{i}.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    write_atomically(path, tensors, {"step": str(step), "recipe": json.dumps(asdict(recipe))})


def write_atomically(path: Path, parts: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A file of tensors that is there whole or not at all."""
    part = path.with_suffix(".part")
    save_file(parts, part, metadata=metadata)
    part.replace(path)


@cache
def _stored(file: Path) -> dict[str, Tensor]:
    return load_file(file)


def names_in(file: Path) -> list[str]:
    """Names of the networks that a file has parts of, `name/part` each, in their order."""
    return list(dict.fromkeys(key.split("/")[0] for key in _stored(file)))


def parts_of(name: str, file: Path) -> dict[str, Tensor]:
    """The parts of networks by name, in single precision. Raises BadInput for another one, naming the nearest."""
    known = names_in(file)
    if name not in known:
        raise unknown("networks", name, known, "There are")
    return {key.split("/")[1]: part.float() for key, part in _stored(file).items() if key.split("/")[0] == name}


def gathered(folder: Path, file: Path, stacks: Mapping[str, Callable[[], dict[str, Tensor]]]) -> None:
    """Train what `folder` lacks of the stacks, a file for each by its name, and put all of them into one."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Tensor] = {}
    for name, train in stacks.items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            write_atomically(path, train())
        parts |= load_file(path)
    write_atomically(file, parts)


def _read_state(path: Path, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer]) -> tuple[int, dict]:
    step, recipe = read_head(path)
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for i, optimiser in enumerate(optimisers):
        saved = optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{i}."):
                _, _, index, name = key.split(".", 3)
                saved["state"].setdefault(int(index), {})[name] = value
        optimiser.load_state_dict(saved)
    return step, recipe


def read_head(path: Path) -> tuple[int, dict]:
    """The step and the recipe of a training's state file."""
    with safe_open(path, "pt") as header:
        metadata = header.metadata()
    return int(metadata["step"]), json.loads(metadata["recipe"])


def name_of(out: Path) -> str:
    """The name of the model that a training folder is of. Raises BadInput for a folder that is none."""
    path = out / "state.safetensors"
    if not path.is_file():
        raise BadInput(f"{out} holds no training (no {path.name}): give the --out of `probekit testbed train`.")
    told = read_head(path)[1]
    return f"othello-{told['size']}x{told['size']}" if "size" in told else "tiny-world-"


def _check_resumable(old: Schedule, new: Schedule, step: int, out: Path) -> None:
    if replace(old, steps=new.steps) != new:
        raise BadInput(f"{out} holds a run of another recipe ({old}); asked was {new}. Give another --out.")
    if old.steps != new.steps and step > min(r.steps * (1 - r.cooldown) for r in (old, new)):
        raise BadInput(f"{out} is at step {step}, where the cool-down has begun: --steps can no longer change.")


def train(
    lesson: Lesson, recipe: Schedule, out: Path, device: str = "cpu", fast: bool = True, until: int | None = None
) -> Iterator[dict]:
    """Train to `recipe.steps`, resuming what `out` holds; yields a metrics row every 50 steps and at kept checkpoints.

    out gets state.safetensors (for resuming), metrics.jsonl, and model-<step>/ (Hugging Face format) per kept step.
    until: a step to stop at; rates are those of the whole recipe, so that the same call without it goes on.
    fast: bfloat16 autocast in the forward pass; weights and optimiser stay in float32.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = lesson.build_model(recipe, recipe.seed)
    torch.nn.Module.to(model, device)  # in place; the library's own wrapper of `to` has no usable type
    optimisers = optimisers_of(model, recipe)
    step, state = 0, out / "state.safetensors"
    if state.exists():
        step, old = _read_state(state, model, optimisers)
        known = set(asdict(recipe))
        if set(old) != known:
            raise BadInput(f"{out} holds a run of another kind of recipe ({old}): give another --out.")
        _check_resumable(type(recipe)(**old), recipe, step, out)
        log.info("resuming %s at step %d", out, step)
    kept, started, running = set(recipe.kept_steps()), time.monotonic(), []
    last = min(recipe.steps, until or recipe.steps)
    try:
        while step < last:
            factor = recipe.rate(step)
            running.append(_step(lesson, model, optimisers, recipe, step, device, fast))
            step += 1
            if step in kept or step % 50 == 0:
                row = {"step": step, "train_bits": float(torch.stack(running).mean()) / math.log(2), "lr": factor}
                row["seconds"] = time.monotonic() - started
                running = []
                if step in kept or step % 500 == 0:
                    row |= lesson.evaluate(model, recipe, device)
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


def _step(
    lesson: Lesson, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer], recipe: Schedule, step: int,
    device: str, fast: bool,
) -> Tensor:  # fmt: skip
    for optimiser, lr in zip(optimisers, (recipe.muon_lr, recipe.adam_lr), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = lr * recipe.rate(step)
    loss = lesson.batch_loss(model, recipe, step, device, fast)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def log_probs(model: torch.nn.Module, tokens: Tensor, fast: bool) -> Tensor:
    """Of every next token, in float32: [n, t, d_vocab]."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=fast):
        logits = model(input_ids=tokens, use_cache=False).logits
    return torch.log_softmax(logits.float(), -1)


def kept_rows(out: Path, recipe: Schedule) -> list[dict]:
    """Figures of a training folder at the steps that are kept."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines) if "loss_bits" in row}
    return [rows[step] for step in recipe.kept_steps() if step in rows]


def write_weights(checkpoint: Path, folder: Path) -> None:
    """A kept checkpoint in bfloat16."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def write_bundle(out: Path, folder: Path, recipe: Schedule) -> tuple[int, "PreTrainedModel"]:
    """Write the last kept checkpoint of a training folder in bfloat16 with the figures of all; (step, as stored)."""
    from transformers import AutoModelForCausalLM

    step = max(int(p.name.split("-")[1]) for p in out.glob("model-*"))
    write_weights(out / f"model-{step}", folder)
    told = {"recipe": asdict(recipe), "checkpoints": kept_rows(out, recipe)}
    (folder / "checkpoints.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    return step, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
