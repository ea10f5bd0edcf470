"""Beds: the courses that there are. Networks that add and one that answers questions, bundled at steps of their
training, and the Othello network, whose first steps are trained again here. Another bed is another function that gives
a `Course`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.hookpoint import HookPoint
from probekit.inputs.folders import bundled_folder
from probekit.inputs.surface import surface_features
from probekit.levels import Hypothesis, Level
from probekit.measurement.across import Asked, SharedRows
from probekit.measurement.setting import Pooling
from probekit.metrics.causal.training import TrainingCurve
from probekit.metrics.splits import Split, split_by_group
from probekit.model.branching import EditedTexts
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.proofs.studies.courses import ANSWER, Course, Snapshot
from probekit.proofs.studies.variants import adds
from probekit.task import Behaviour, Feature, Observations, Task
from probekit.testbeds.othello import train as othello_training
from probekit.testbeds.othello.rules import legal_uniform
from probekit.testbeds.othello.task import SEEN, othello_task
from probekit.testbeds.tinyworld import task as world_task
from probekit.testbeds.tinyworld import train as world_training
from probekit.testbeds.tinyworld.world import PLACES, TOKEN, WORDS
from probekit.testbeds.variants.checkpoints import KEPT, load_checkpoints
from probekit.testbeds.variants.networks import PRIME, Networks, Table

OTHELLO, LAYER = "othello-6x6", 4  # activations behind this layer
UNTIL = 328  # steps of it that are trained again
WORLD, WORLD_LAYER = "tiny-world-s", 2
SITE = "stream"
RIDGES = (1e-1, 1e-2, 1e-3)
TRAINING_SIDES = (0.7, 0.15, 0.15, 0.0)
Levels = Mapping[str, tuple[int, ...]]  # of readers, each with its ks
READ: Levels = {"neurons": (16,), "directions": (8,), "simple:quadratic": (4,)}  # of networks that add
READ_OTHELLO: Levels = {"neurons": (32,), "directions": (16,), "simple:quadratic": (4,)}


def _parsed(levels: Levels) -> tuple[tuple[Level, tuple[int, ...]], ...]:
    return tuple((Level.parse(name), ks) for name, ks in levels.items())


def _all_outcomes(told: Behaviour) -> Pooling:
    """None of them joined, however rare: every step is asked for the same answers."""
    return Pooling(told, told.outcomes, np.arange(len(told.outcomes)), 0)


# Networks that add ----------------------------------------------------------------------------------------------------


def adder(kind: str, network: int, seed: int = 0, levels: Levels = READ) -> Course:
    """A bundled network that learns to add, on all pairs: tested on those that it was never trained on."""
    course, table = load_checkpoints(kind), Table.make()
    numbers, names = torch.stack([table.a, table.b], 1).numpy(), tuple(map(str, range(PRIME)))
    n, one_hot = len(numbers), np.eye(PRIME, dtype=np.float32)
    told = Behaviour(ANSWER, one_hot[table.sum.numpy()], names)
    seen = Observations(
        np.arange(n), np.zeros(n, dtype=np.int64), table.pair.numpy(), np.full(n, "all"), {ANSWER: told},
        {"numbers": Feature("numbers", numbers, names, ("a", "b"))},
        {"numbers": one_hot[numbers].reshape(n, -1)}, model=kind,
    )  # fmt: skip
    known = np.flatnonzero(table.trained(course.variant.share, course.seeds[network]).numpy())
    part = split_by_group(seen.group[known], seed, TRAINING_SIDES)
    unseen = np.setdiff1d(np.arange(n), known)
    split = Split(known[part.fit], known[part.select], known[part.calibrate], unseen)
    rule = Hypothesis.of("adds", ("numbers",), adds)
    asked = {"first": Asked((), (), (rule,), RIDGES, seed), "last": Asked(_parsed(levels), (), (), RIDGES, seed)}
    curve = TrainingCurve.of(np.array(course.steps), course.loss[:, network].numpy())
    return Course(
        kind, network, (0, *KEPT), curve, seen, SharedRows(split, _all_outcomes(told)), asked, "last",
        table.sum.numpy()[:, None].astype(np.float64), partial(_added, kind, network),
    )  # fmt: skip


@torch.no_grad()
def _added(kind: str, network: int, step: int) -> Snapshot:
    net, table = load_checkpoints(kind).at(step).one(network), Table.make()
    first, last = (one[0] for one in net.hidden(table.a, table.b))
    law = net.read_out(last[None])[0].double().softmax(-1).float().numpy()
    return Snapshot({"first": first, "last": last}, law, partial(_read_out, net))


@torch.no_grad()
def _read_out(net: Networks, rows: NDArray[np.int64], x: Float[Tensor, "n m d"]) -> Float[Tensor, "n m outcome"]:
    return net.read_out(x.flatten(0, 1)[None])[0].double().softmax(-1).view(*x.shape[:2], -1).float()


# Othello --------------------------------------------------------------------------------------------------------------


def legal_moves_even(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """The rules of the game: an even law over the legal moves, [n, n_moves]."""
    return legal_uniform(features)[:, :-1]


def train_othello(folder: Path, until: int = UNTIL) -> None:
    """Train the first steps of the bundled network again, where `folder` lacks them: the same seed, games and rates."""
    recipe = othello_training.recipe(OTHELLO)
    if not (folder / f"model-{until}").is_dir():
        for _ in othello_training.train(recipe, folder, until=until):
            pass
    if not (folder / "model-0").is_dir():
        othello_training.build_model(recipe, recipe.seed).save_pretrained(folder / "model-0")


def othello(
    folder: Path, n_games: int, seed: int = 0, levels: Levels = READ_OTHELLO, n_positions: int = 3, until: int = UNTIL
) -> Course:
    """The Othello network on random games. folder: what `train_othello` left; the last step is the bundled network."""
    task = othello_task(6, n_games // 2, n_positions, seed)
    kept = np.flatnonzero(np.repeat(task.domain == SEEN, [len(at) for at in task.positions]))
    example = np.repeat(np.arange(len(task.tokens)), [len(at) for at in task.positions])[kept]
    board = task.features["mine_yours"]
    board = Feature(board.name, board.labels[kept], board.classes, board.targets)
    moves = task.behaviours[0].outcomes
    assert moves is not None and task.floor_inputs is not None  # of every Othello task
    told = Behaviour(ANSWER, legal_moves_even({board.name: board.labels}), moves)
    seen = Observations(
        example, np.concatenate(task.positions)[kept], task.group[example], np.full(len(kept), SEEN), {ANSWER: told},
        {board.name: board}, {name: block[kept] for name, block in task.floor_inputs.items()}, model=OTHELLO,
    )  # fmt: skip
    rule = Hypothesis.of("rules", (board.name,), legal_moves_even)
    asked = Asked(_parsed(levels), (), (rule,), RIDGES, seed)
    recipe = othello_training.recipe(OTHELLO)
    steps = (0, *(step for step in recipe.kept_steps() if step <= until), recipe.steps)
    rows = SharedRows(split_by_group(seen.group, seed), _all_outcomes(told))
    return Course(
        OTHELLO, 0, steps, _curve(), seen, rows, {SITE: asked}, SITE, None, partial(_played, folder, task, seen)
    )


def _curve() -> TrainingCurve:
    """That of the bundled network, as its training recorded it."""
    path = Path(othello_training.__file__).with_name(OTHELLO) / "checkpoints.json"
    told = json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
    return TrainingCurve.of(*(np.array([row[name] for row in told]) for name in ("step", "loss_bits")))


def _played(folder: Path, task: Task, seen: Observations, step: int) -> Snapshot:
    last = step == othello_training.recipe(OTHELLO).steps
    model = load_model(OTHELLO if last else folder / f"model-{step}")
    n_moves = len(seen.behaviours[ANSWER].outcomes)  # what is behind them is padding
    return _said(model, LAYER, range(n_moves), task, seen)


def _said(model: Model, layer: int, tokens: Sequence[int], task: Task, seen: Observations) -> Snapshot:
    """What a network says over some tokens at every row, and with the stream behind a layer replaced."""
    hook, kept = HookPoint.within(layer, "hook_resid_post").name, list(tokens)
    law = torch.empty(len(seen), len(kept))
    texts = [task.tokens[i][: at + 1] for i, at in zip(seen.example, seen.position, strict=True)]
    ends = [np.array([len(ids) - 1]) for ids in texts]

    def said(logits: Float[Tensor, "*n v"]) -> Float[Tensor, "*n n_tokens"]:
        return logits[..., kept].double().softmax(-1).float()

    def keep(logits: Tensor, rows: NDArray[np.int64]) -> None:
        law[torch.from_numpy(rows)] = said(logits.cpu())

    def run(rows: NDArray[np.int64], x: Float[Tensor, "n m d"]) -> Float[Tensor, "n m outcome"]:
        out = torch.empty(*x.shape[:2], len(kept))
        for start in range(0, len(rows), 500):
            some = rows[start : start + 500]
            cut = [texts[i] for i in some]
            trunk = model.trunk(
                EditedTexts(cut, [ends[i] for i in some], np.array([len(ids) - 1 for ids in cut])), [hook]
            )
            given = x[start : start + 500]
            out[start : start + 500] = said(
                trunk.logits({hook: lambda act, at, given=given: given[at.text, at.branch]}, x.shape[1])
            )
        return out

    x = model.read(texts, [hook], ends, on_logits=keep)[hook].float()
    return Snapshot({SITE: x}, law.numpy(), run)


# The tiny world -------------------------------------------------------------------------------------------------------


def thought(features: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """What is thought is what is answered: [n, places]."""
    return world_task.says_belief(features)[:, :-1]


def tiny_world(n_stories: int, seed: int = 0, levels: Levels = READ, n_positions: int = 3) -> Course:
    """The network that answers questions, at the steps that are bundled and untrained; its curve is of these steps, on
    the rows that are tested."""
    task = world_task.tinyworld_task(WORLD.rsplit("-", 1)[1], n_stories // 2, n_positions, seed)
    kept = np.flatnonzero(np.repeat(task.domain == world_task.SEEN, [len(at) for at in task.positions]))
    example = task.row_example[kept]
    belief = task.features["belief"]
    belief = Feature(belief.name, belief.labels[kept], belief.classes, belief.targets)
    told = Behaviour(ANSWER, np.eye(len(PLACES), dtype=np.float32)[belief.labels[:, 0]], PLACES)
    inputs = {name: block[kept] for name, block in surface_features(task, len(WORDS)).items()}
    seen = Observations(
        example, task.row_position[kept], task.group[example], np.full(len(kept), world_task.SEEN), {ANSWER: told},
        {belief.name: belief}, inputs, model=WORLD,
    )  # fmt: skip
    rule = Hypothesis.of("thought", (belief.name,), thought)
    asked = Asked(_parsed(levels), (), (rule,), RIDGES, seed)
    rows = SharedRows(split_by_group(seen.group, seed), _all_outcomes(told))
    steps = (0, *world_training.STEPS, world_training.recipe(WORLD).steps)
    at = partial(_asked, task, seen)
    right = told.law[rows.split.test]
    losses = [-np.log2(np.maximum((at(step).law[rows.split.test] * right).sum(1), 1e-12)).mean() for step in steps]
    curve = TrainingCurve.of(np.array(steps), np.array(losses))
    return Course(WORLD, 0, steps, curve, seen, rows, {SITE: asked}, SITE, belief.labels.astype(np.float64), at)


def _asked(task: Task, seen: Observations, step: int) -> Snapshot:
    return _said(world_model(step), WORLD_LAYER, [TOKEN[place] for place in PLACES], task, seen)


def world_model(step: int) -> Model:
    """The network of the tiny world at a step: 0 untrained, the last one as it is bundled."""
    recipe, folder = world_training.recipe(WORLD), bundled_folder(WORLD)
    assert folder is not None
    if step == 0:
        untrained = world_training.build_model(recipe, recipe.seed).eval()
        return Model(untrained, name=f"{WORLD}, untrained", source=WORLD, tokenizer=None)
    return load_model(WORLD if step == recipe.steps else folder / f"step-{step}")
