"""The study of flips: a disc is turned inside a network that plays Othello, and its law must follow the rules.

As Li et al. (2022, arXiv 2210.13382) and Nanda, Lee and Wattenberg (2023, arXiv 2309.00941) do, activations behind the
last move are moved along the {mine, yours} direction of one square, and the network's best guesses are held against the
legal moves of the board with that disc turned. Beside their count of errors stands what is lost on our own scale.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from probekit.fit.frame import fit_frame
from probekit.fit.readout import fit_readout
from probekit.hookpoint import HookPoint
from probekit.jobs.engines import Progress
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import Estimate, Ratio, estimates, fbu
from probekit.model.branching import At, Edit, EditedTexts, Trunk
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.proofs.studies.kept import Stored, figures, interval
from probekit.testbeds.othello.game import Games, Geometry, generate, legal_moves, unpack
from probekit.testbeds.othello.rules import EMPTY, MINE, YOURS

Way = Literal["weights", "means", "written"]
Span = Literal["one", "on"]
WAYS: dict[Way, str] = {
    "weights": "what a linear reader weighs",
    "means": "difference of the means",
    "written": "what the square adds, the others held",
}
SPANS: dict[Span, str] = {"one": "one layer", "on": "that layer and all above"}
AMOUNTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
PUBLISHED = {"unedited": 2.7, "edited": 0.1}  # errors per case on the full board, of 8 layers
RIDGE, TOLERANCE = 1e-3, 1e-4
FIRST = 4  # the fifth move: before it boards are few
TITLES = {
    "errors": "A disc turned inside the network: wrong guesses per case, of as many as there are legal moves",
    "leak": "A disc turned inside the network: 0 follows the rules, 1 is the unedited network",
    "beside": "What it is held against",
}


@dataclass(frozen=True)
class FlipSize:
    """Games that directions are fitted on, that amounts are chosen on, and that are tested; cases drawn of each game.

    rows: positions of each game of the fit.
    """

    fit: int = 2000
    rows: int = 12
    select: int = 400
    test: int = 1000
    cases: int = 2

    def of(self, share: float) -> "FlipSize":
        """A share of the games, 20 at least."""
        fit, select, test = (max(20, round(share * n)) for n in (self.fit, self.select, self.test))
        return FlipSize(fit, self.rows, select, test, self.cases)


@dataclass(frozen=True)
class FlipFindings(Stored):
    """What the page speaks of. cases: flips that are tested; changed: share whose legal moves change; rows: `frame`."""

    cases: int
    games: int
    changed: float
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Flips:
    """Cases: texts of moves, edited and read at the last one; clean: activations there by hook point.

    square [n]: whose disc is turned; towards [n]: 1 where it becomes the mover's, else -1. before, after [n, n_moves]:
    legal moves. group [n]: the game.
    """

    texts: EditedTexts
    clean: Mapping[str, Float[Tensor, "n d"]]
    square: Int[Tensor, " n"]
    towards: Float[Tensor, " n"]
    before: Bool[Tensor, "n n_moves"]
    after: Bool[Tensor, "n n_moves"]
    group: NDArray[np.int64]

    @property
    def changed(self) -> Bool[Tensor, " n"]:
        """Whether the rules ask for anything."""
        return (self.before != self.after).any(1)


@dataclass(frozen=True)
class Directions:
    """Mine minus yours of each square at one hook point, [n_squares, d] by way. bias [n_squares]: of the reader."""

    by_way: Mapping[Way, Float[Tensor, "n_squares d"]]
    bias: Float[Tensor, " n_squares"]

    def moves(self, way: Way, clean: Float[Tensor, "n d"], flips: Flips) -> Float[Tensor, "n d"]:
        """What turns each disc once: to the other class's mean, or as far behind a reader's boundary as it lay before
        it."""
        direction = self.by_way[way][flips.square]
        if way == "weights":
            logit = (clean * direction).sum(1) + self.bias[flips.square]
            direction = direction * (2 * logit.abs() / (direction**2).sum(1))[:, None]
        return flips.towards[:, None] * direction


# Cases ----------------------------------------------------------------------------------------------------------------


def draw_flips(model: Model, n_games: int, per_game: int, seed: int) -> Flips:
    """Random games cut at random moves; of each board any disc, whose turning leaves the mover a legal move."""
    games, game, column = _positions(n_games, per_game, seed, 21)
    size, geo = games.size, Geometry(games.size)
    generator = np.random.default_rng([seed, 22])
    board = _board(games, game, column)
    square = np.where(board == EMPTY, -1.0, generator.random(board.shape)).argmax(1)
    bit = np.left_shift(np.uint64(1), square.astype(np.uint64))
    own, opp = games.own[game, column] ^ bit, games.opp[game, column] ^ bit
    before, after = (
        unpack(legal, geo.n_squares)[:, geo.playable]
        for legal in (games.legal[game, column], legal_moves(own, opp, size))
    )
    kept = np.flatnonzero(after.any(1))
    tokens = [games.moves[game[i], : column[i] + 1] for i in kept]
    last = [np.array([len(ids) - 1]) for ids in tokens]
    towards = np.where(board[kept, square[kept]] == YOURS, 1.0, -1.0)
    return Flips(
        texts=EditedTexts(tokens, last, np.concatenate(last)),
        clean=model.read(tokens, _hooks(model), last),
        square=torch.from_numpy(square[kept]),
        towards=torch.from_numpy(towards).float(),
        before=torch.from_numpy(before[kept]),
        after=torch.from_numpy(after[kept]),
        group=game[kept],
    )


def _hooks(model: Model) -> list[str]:
    return [HookPoint.within(layer, "hook_resid_post").name for layer in range(model.n_layers)]


def _positions(n_games: int, per_game: int, seed: int, stream: int) -> tuple[Games, NDArray, NDArray]:
    """Games, and (game, column) in order: up to `per_game` moves of each behind which a move follows."""
    generator = np.random.default_rng([seed, stream])
    games = generate(n_games, generator)
    live = games.live.copy()
    live[:, :FIRST] = False
    chance = np.where(live, generator.random(live.shape), -1.0)
    game, column = np.nonzero(live & ((-chance).argsort(1).argsort(1) < per_game))
    return games, game, column


def _board(games: Games, game: NDArray, column: NDArray) -> NDArray[np.int64]:
    """MINE, YOURS or EMPTY of every square, seen by the one who moves next: [n, n_squares]."""
    own, opp = (unpack(side[game, column], games.size**2) for side in (games.own, games.opp))
    return np.where(own, MINE, np.where(opp, YOURS, EMPTY))


# Directions -----------------------------------------------------------------------------------------------------------


def fit_directions(model: Model, n_games: int, per_game: int, seed: int) -> dict[str, Directions]:
    """The directions of all squares at every layer, from games of their own."""
    games, game, column = _positions(n_games, per_game, seed, 20)
    board = torch.from_numpy(_board(games, game, column))
    at = np.split(column, np.flatnonzero(np.diff(game)) + 1)
    tokens = [games.moves[i, : some[-1] + 1] for i, some in zip(np.unique(game), at, strict=True)]
    acts = model.read(tokens, _hooks(model), at)
    return {hook: _fitted(acts[hook].float(), board, torch.from_numpy(column)) for hook in acts}


def _fitted(x: Float[Tensor, "n d"], board: Int[Tensor, "n n_squares"], column: Int[Tensor, " n"]) -> Directions:
    frame = fit_frame(x)
    # mine or yours: a row with no disc there has no mass, and does not count
    law = torch.stack([(board == side).T.float() for side in (MINE, YOURS)])
    found = fit_readout(frame.apply(x), law, None, frame.variance, RIDGE * frame.length**2, tolerance=TOLERANCE)
    weights = frame.back((found.weight[MINE] - found.weight[YOURS]).T).T
    bias = found.bias[MINE] - found.bias[YOURS] - weights @ frame.mean
    mine, yours = ((board == side).float() for side in (MINE, YOURS))
    means = [side.T @ x / side.sum(0).clamp_min(1)[:, None] for side in (mine, yours)]
    # what each disc adds to the stream, with all other discs and the number of moves held: least squares
    told = torch.cat([mine, yours, one_hot(column).float()], 1).double()
    products = told.T @ told + RIDGE * len(x) * torch.eye(told.shape[1], dtype=told.dtype)
    added = torch.linalg.solve(products, told.T @ x.double()).float()
    n = board.shape[1]
    ways: dict[Way, Tensor] = {
        "weights": weights, "means": means[0] - means[1], "written": added[:n] - added[n : 2 * n],
    }  # fmt: skip
    return Directions(ways, bias)


# Edits ----------------------------------------------------------------------------------------------------------------


def set_coordinate(
    act: Float[Tensor, "n d"], unit: Float[Tensor, "n d"], value: Float[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Each row with its coordinate along `unit` set to `value`.

    A second time changes nothing, unlike a reflection: what one layer turned the next one would turn back.
    """
    return act + (value - (act * unit).sum(1))[:, None] * unit


def _edit(clean: Float[Tensor, "n d"], moves: Float[Tensor, "n m d"], amounts: Float[Tensor, " m"]) -> Edit:
    """Branch j of a text has its coordinate along moves[:, j] where the clean one lay, and amounts[j] moves on."""
    unit = normalize(moves, dim=2)
    value = (unit * clean[:, None]).sum(2) + moves.norm(dim=2) * amounts

    def edit(act: Tensor, at: At) -> Tensor:
        return set_coordinate(act.float(), unit[at.text, at.branch], value[at.text, at.branch])

    return edit


@dataclass(frozen=True)
class Scored:
    """errors [n, m]: of as many best guesses as there are legal moves, those that are not legal and those that are
    missed. bits [n, m]: KL from the even law over the legal moves."""

    errors: Float[Tensor, "n m"]
    bits: Float[Tensor, "n m"]


def score(logits: Float[Tensor, "n m d_vocab"], legal: Bool[Tensor, "n n_moves"]) -> Scored:
    """Moves come first in the vocabulary."""
    n_moves = legal.shape[1]
    count = legal.sum(1)
    rank = logits[..., :n_moves].argsort(-1, descending=True).argsort(-1)
    guessed = rank < count[:, None, None]
    errors = (guessed != legal[:, None]).sum(-1).float()
    log_q = logits.double().log_softmax(-1)[..., :n_moves]
    # the law is even, so that its entropy is the logarithm of how many there are
    cross = -torch.where(legal[:, None], log_q, 0).sum(-1) / count[:, None]
    return Scored(errors, ((cross - count.double().log()[:, None]) / np.log(2)).float())


def measure_flip(size: FlipSize | None = None, seed: int = 0, progress: Progress | None = None) -> FlipFindings:
    """Every way at every layer, alone and with all above, the amount chosen on games of its own; intervals are over
    games."""
    size = size or FlipSize()
    model = load_model("othello-6x6")
    directions = fit_directions(model, size.fit, size.rows, seed)
    select = draw_flips(model, size.select, size.cases, seed + 1)
    test = draw_flips(model, size.test, size.cases, seed + 2)
    told = _Told.of(model, test, seed)
    sides = [(flips, model.trunk(flips.texts, _hooks(model))) for flips in (select, test)]
    plan = [(way, span, layer) for way in WAYS for span in SPANS for layer in range(model.n_layers)]
    rows = told.beside()
    for i, (way, span, layer) in enumerate(plan):
        if progress:
            progress("flips", i, len(plan))
        hooks = _hooks(model)[layer : None if span == "on" else layer + 1]
        chosen, tested = ({h: directions[h].moves(way, f.clean[h].float(), f) for h in hooks} for f, _ in sides)
        amount = _chosen(*sides[0], chosen)
        for control, one in _tested(*sides[1], tested, amount, seed).items():
            rows += told.rows(one, way=way, span=span, layer=layer, control=control, amount=amount)
    changed = round(float(test.changed.float().mean()), 4)
    return FlipFindings(len(test.group), len(np.unique(test.group)), changed, tuple(rows))


def _chosen(flips: Flips, trunk: Trunk, moves: Mapping[str, Tensor]) -> float:
    """The amount of AMOUNTS that loses least."""
    amounts = torch.tensor(AMOUNTS)
    edits = {
        hook: _edit(flips.clean[hook].float(), move[:, None].expand(-1, len(amounts), -1), amounts)
        for hook, move in moves.items()
    }
    return AMOUNTS[int(score(trunk.logits(edits, len(amounts)), flips.after).bits.mean(0).argmin())]


def _tested(flips: Flips, trunk: Trunk, moves: Mapping[str, Tensor], amount: float, seed: int) -> dict[str, Scored]:
    """By control: the edit itself, and moves of the same lengths in random directions."""
    edits = {}
    for j, (hook, move) in enumerate(moves.items()):
        both = torch.stack([move, _placebo(move, (seed, j))], 1)
        edits[hook] = _edit(flips.clean[hook].float(), both, torch.full((2,), amount))
    found = score(trunk.logits(edits, 2), flips.after)
    return {control: Scored(found.errors[:, [i]], found.bits[:, [i]]) for i, control in enumerate(("", "random"))}


def _placebo(moves: Float[Tensor, "n d"], seed: tuple[int, ...]) -> Float[Tensor, "n d"]:
    """Directions drawn at random, of the same lengths."""
    drawn = np.random.default_rng([*seed, 23]).standard_normal(tuple(moves.shape))
    return normalize(torch.from_numpy(drawn).float(), dim=1) * moves.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class _Told:
    """What scores are turned into rows with. unedited, own: of the same cases, against both boards."""

    flips: Flips
    unedited: Scored
    own: Scored
    clusters: Clusters

    @classmethod
    def of(cls, model: Model, flips: Flips, seed: int) -> "_Told":
        hook = _hooks(model)[0]
        logits = model.trunk(flips.texts, [hook]).logits({hook: lambda act, at: act})
        return cls(flips, score(logits, flips.after), score(logits, flips.before), Clusters.of(flips.group, 2000, seed))

    def beside(self) -> list[dict[str, Any]]:
        """The unedited network, against the board with the disc turned and against its own."""
        return [
            row
            for way, one in (("unedited", self.unedited), ("own_board", self.own))
            for row in self.rows(one, way=way, span="", layer=None, control="", amount=None)
        ]

    def rows(self, one: Scored, **at: Any) -> list[dict[str, Any]]:
        """A row per measure."""
        errors, bits, floor = (part[:, 0].double().numpy() for part in (one.errors, one.bits, self.unedited.bits))
        changed = self.flips.changed.double().numpy()
        ratios = {
            "errors": Ratio(errors, np.ones(len(errors))),
            "errors_changed": Ratio(errors * changed, changed),
            "fbu": fbu(bits, floor, np.zeros(len(bits))),
        }
        told = estimates(ratios.values(), self.clusters)
        return [at | {"measure": name} | _figures(estimate) for name, estimate in zip(ratios, told, strict=True)]


def _figures(told: Estimate) -> dict[str, Any]:
    bits = None if told.bits is None else round(told.bits, 4)
    return figures(told) | {"bits": bits, "n": told.n, "games": told.groups}


def tables(found: FlipFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text: a row per span and layer."""
    frame = found.frame
    made = {}
    for title, measure in (("errors", "errors"), ("leak", "fbu")):
        rows = []
        for span in get_args(Span):
            here = frame[(frame["measure"] == measure) & (frame["span"] == span)]
            for layer in sorted(here["layer"].unique()):
                told = {(r["way"], r["control"]): r for r in here[here["layer"] == layer].to_dict("records")}
                cells = {name: interval(told[way, ""]) for way, name in WAYS.items()}
                rows.append({"edited": SPANS[span], "layer": int(layer), **cells,
                             "random, as long as the last": interval(told["written", "random"])})  # fmt: skip
        made[title] = pd.DataFrame(rows)
    names = {"unedited": "unedited, the turned board", "own_board": "unedited, the board it saw"}
    beside = {(r["way"], r["measure"]): interval(r) for r in frame[frame["span"] == ""].to_dict("records")}
    made["beside"] = pd.DataFrame([
        {"network": name, "errors": beside[way, "errors"],
         "errors where moves change": beside[way, "errors_changed"], "leak": beside[way, "fbu"]}
        for way, name in names.items()
    ])  # fmt: skip
    return made
