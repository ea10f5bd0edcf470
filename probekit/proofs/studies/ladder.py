"""The study of leaps: descriptions of a network that plays Othello, each stated over the one below it.

Directions of a layer tell the squares; the squares, by the rules, the legal set; the legal set, with one weight for
each kind of square, the law of the next move; that law, whether the move goes to the edge. What is lost at each leap
and over several, from the true value of a rung and from what is read of it. A second stack, of a network that answers
questions on a small world, has words for rungs (`ladder_words`).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations
from probekit.activations.capture import capture
from probekit.fit.floor import fit_floor
from probekit.fit.frame import fit_frame
from probekit.fit.path import fit_path
from probekit.fit.readout import Rows
from probekit.hookpoint import HookPoint
from probekit.jobs.engines import Progress
from probekit.measurement.ladder import Ladder, Rung, ladder
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.replace import kl_bits
from probekit.metrics.ratios import Ratio, estimates, fbu
from probekit.metrics.splits import Split, folds_by_group, split_by_group
from probekit.model.branching import At, EditedTexts
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.proofs.studies import ladder_words
from probekit.proofs.studies.kept import Stored, figures, interval
from probekit.results.text import number
from probekit.task import TEXT, Observations, Task
from probekit.testbeds.othello.game import Geometry
from probekit.testbeds.othello.rules import legal_uniform
from probekit.testbeds.othello.task import SEEN, UNSEEN, othello_task
from probekit.testbeds.tinyworld.task import questions_of, tinyworld_task

RUNGS = ("squares", "legal set", "next move", "edge")
SITE, SIZE = "directions", 6
TO = " to "  # between the site and a rung that it tells without those below
DOMAINS = (SEEN, *UNSEEN)
RIDGES, FOLDS = (1e-1, 1e-2, 1e-3), 3
WORLD, STORY_POSITIONS = "s", 3  # the network of the tiny world, and questions of a story
EVEN, KINDS = 60, ("corner", "beside a corner", "edge", "middle")  # rounds until weights of kinds stand still
TITLES = {
    "given": "FBU of a rung, given the true rung below, and given what the directions of a layer tell of it",
    "leaps": "FBU by the rung that is told and the true rung that it is told from",
    "compound": "All leaps from the directions: what is left, what the product of the leaps says, the difference",
    "direct": "The same rung read off the layer directly, linearly, without any rung between",
    "replace": "The layer taken from another game that agrees on a rung: KL of the next move, of what there is to tell",
}
TITLES |= {f"words {name}": f"Tiny world: {title}" for name, title in TITLES.items()} | {
    "words above": "Tiny world: FBU where the directions tell the facts, with no entities between"
}


@dataclass(frozen=True)
class LadderSize:
    """games: of each unseen domain, twice as many seen, and half as many stories; positions: of each game; pairs: rows
    that are replaced."""

    games: int = 1_500
    positions: int = 4
    pairs: int = 1_000

    def of(self, share: float) -> "LadderSize":
        """A share of the games, 100 at least."""
        return replace(self, games=max(100, round(share * self.games)), pairs=max(100, round(share * self.pairs)))


@dataclass(frozen=True)
class LadderFindings(Stored):
    """What the page speaks of. weights: of each kind of square, as fitted.

    rows: one per domain, layer (none: true rungs alone), rungs from and to, and what: `left`, `compounded`, `excess`,
    `direct`, or `replace`, with a value and its interval.
    """

    weights: dict[str, float]
    rows: tuple[dict[str, Any], ...]


# Rungs ----------------------------------------------------------------------------------------------------------------


def legal_of(board: NDArray) -> NDArray[np.float32]:
    """Squares [n, n_squares, 3], the likeliest taken, to the legal set by the rules: [n, n_moves, 2], legal first."""
    allowed = legal_uniform({"mine_yours": board.argmax(2)})[:, :-1] > 0
    return np.stack([allowed, ~allowed], 2).astype(np.float32)


def kinds() -> NDArray[np.int64]:
    """Of each move, the kind of its square, as in KINDS: [n_moves]."""
    row, column = np.divmod(Geometry(SIZE).playable, SIZE)
    far = [np.minimum(side, SIZE - 1 - side) for side in (row, column)]
    corner, beside = np.maximum(*far) == 0, (np.maximum(*far) == 1) & (far[0] + far[1] <= 2)
    return np.where(corner, 0, np.where(beside, 1, np.where(np.minimum(*far) == 0, 2, 3)))


def weights_of(legal: NDArray, law: NDArray) -> NDArray[np.float64]:
    """The weight of each kind of square that makes the law over legal moves likeliest: [len(KINDS)], mean 1.

    legal [n, n_moves] bool; law [n, n_moves + 1]. Iterative scaling of a log-linear law (Darroch and Ratcliff 1972).
    """
    kind, weight = kinds(), np.ones(len(KINDS))
    some = legal.any(1)
    seen = np.array([law[some][:, :-1][:, kind == k].sum() for k in range(len(KINDS))])
    for _ in range(EVEN):
        told = legal[some] * weight[kind]
        told = told / told.sum(1, keepdims=True)
        weight = weight * seen / np.array([told[:, kind == k].sum() for k in range(len(KINDS))])
    return weight / weight.mean()


def moves_of(legal: NDArray, weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """The legal set [n, n_moves, 2] to the law of the next move [n, 1, n_moves + 1]; zeros where none is legal."""
    told = legal[..., 0] * weight[kinds()]
    told = told / np.maximum(told.sum(1, keepdims=True), 1e-12)
    return np.pad(told, ((0, 0), (0, 1)))[:, None].astype(np.float32)


def edge_of(moves: NDArray) -> NDArray[np.float32]:
    """The law of the next move [n, 1, n_moves + 1] to that of a move on the edge: [n, 1, 2], edge first."""
    geo = Geometry(SIZE)
    edge = moves[:, 0, :-1][:, geo.edge[geo.playable]].sum(1)
    known = moves[:, 0].sum(1)
    return np.stack([edge, known - edge], 1)[:, None].astype(np.float32)


def stack_of(observations: Observations, weight: NDArray[np.float64] | None = None) -> list[Rung]:
    """The rungs of RUNGS on all rows. weight: of the kinds of square, even when None."""
    board = np.eye(3, dtype=np.float32)[observations.features["mine_yours"].labels]
    law = observations.behaviours["next_move_law"].law[:, None]
    told = partial(moves_of, weight=np.ones(len(KINDS)) if weight is None else weight)
    return [Rung("squares", board), Rung("legal set", legal_of(board), legal_of), Rung("next move", law, told),
            Rung("edge", edge_of(law), edge_of)]  # fmt: skip


# Readers --------------------------------------------------------------------------------------------------------------


def _across(law: NDArray) -> Float[Tensor, "outcome t n"]:
    return torch.from_numpy(np.ascontiguousarray(law.transpose(2, 1, 0))).float()


def _back(logits: Tensor) -> NDArray[np.float32]:
    return torch.softmax(logits.double(), 0).permute(2, 1, 0).float().numpy()


def read_law(x: Tensor, law: NDArray, split: Split, floor: Tensor | None = None) -> NDArray[np.float32]:
    """What a linear reader of a site says of every row, beside the logits of a floor: [n, n_targets, n_classes]."""
    truth, frame = _across(law), fit_frame(x[torch.from_numpy(split.fit)].float())
    z = frame.apply(x.float())
    sides = [torch.from_numpy(side) for side in (split.fit, split.select)]
    rows = [Rows(z[at], truth[..., at].contiguous(), None if floor is None else floor[..., at]) for at in sides]
    return _back(fit_path(rows[0], rows[1], frame.variance, RIDGES).logits(z, floor))


def floors_of(rungs: list[Rung], seen: Observations, split: Split, seed: int) -> dict[str, Tensor]:
    """Logits of an input-only reader of each rung on all rows, fitted on the seen ones: [outcome, t, n].

    The strong floor where there is one target; a linear reader of the same columns of all squares or moves at once.
    """
    n = int((seen.domain == seen.domain[0]).sum())  # seen rows come first, so that a split of them is one of all rows
    blocks = [np.asarray(block) for name, block in seen.floor_inputs.items() if name != TEXT]
    columns = torch.from_numpy(np.concatenate(blocks, 1)).float()
    home, away = ({name: np.asarray(block)[side] for name, block in seen.floor_inputs.items()}
                  for side in (slice(n), slice(n, None)))  # fmt: skip
    out = {}
    for rung in rungs:
        if rung.law.shape[1] > 1:
            said = _honest(columns, rung.law, split, seen.group, seed)
            out[rung.name] = torch.from_numpy(np.log(np.maximum(said, 1e-9)).transpose(2, 1, 0).copy())
            continue
        law = _across(rung.law[:n])
        floor, honest = fit_floor("strong", home, law, seen.group[:n], split, seed)
        out[rung.name] = torch.cat([honest, floor.logits(away, len(rung.law) - n)], 2)
    return out


def _honest(x: Tensor, law: NDArray, split: Split, group: NDArray, seed: int) -> NDArray[np.float32]:
    """The same, with what is said of each fit row by a reader that was not fitted on its group.

    A reader that is fitted beside what was said of its own rows would find them told already.
    """
    fold = folds_by_group(group[split.fit], FOLDS, seed)
    out = None
    for i in range(FOLDS):
        said = read_law(x, law, replace(split, fit=split.fit[fold != i]))
        out = said if out is None else out
        out[split.fit[fold == i]] = said[split.fit[fold == i]]
    assert out is not None
    return out


# The study ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stacked:
    """A network's activations behind each layer, and the stack that is told of them. domains: the seen one first;
    behaviour: by its name, and said: as the rung that it is; starts: rungs that the directions tell, each with those
    above it."""

    model: Model
    task: Task
    acts: Activations
    rungs: list[Rung]
    split: Split
    domains: tuple[str, ...]
    behaviour: str
    said: str
    starts: tuple[int, ...] = (0,)

    def measure(self, pairs: int, seed: int, progress: Progress | None) -> list[dict[str, Any]]:
        """Every rung from every lower one and from every layer, where seen and frozen where not."""
        seen, rungs, rows = self.acts.observations, self.rungs, []
        logits = floors_of(rungs, seen, self.split, seed)
        floors = {name: _back(one) for name, one in logits.items()}
        hooks = list(self.acts.sites)
        for layer, hook in enumerate(hooks):
            if progress:
                progress("layers", layer, len(hooks))
            x = self.acts.sites[hook].float()
            read = {start: read_law(x, rungs[start].law, self.split) for start in self.starts}
            direct = {rung.name: read_law(x, rung.law, self.split, logits[rung.name]) for rung in rungs[1:]}
            for domain in self.domains:
                at = self.split.test if domain == self.domains[0] else np.flatnonzero(seen.domain == domain)
                for start, law in read.items():
                    found = ladder(rungs[start:], seen.group, self.split, read=law, floors=floors, test=at,
                                   n_bootstrap=1_000, seed=seed)  # fmt: skip
                    rows += _rows(found, domain, layer, "" if start == 0 else f"{SITE}{TO}{rungs[start].name}")
                rows += _direct(rungs, direct, floors, seen.group, at, domain, layer)
            rows += _replaced(self, hook, floors, pairs, layer, seed)
        return rows


def _captured(model: Model, task: Task, seed: int) -> tuple[Activations, Split]:
    """Behind every layer, and a split of the rows of the first domain."""
    hooks = [HookPoint.within(layer, "hook_resid_post").name for layer in range(model.n_layers)]
    acts = capture(model, task, hooks, store=None)
    seen = acts.observations
    return acts, split_by_group(seen.group[seen.domain == seen.domain[0]], seed)


def measure_ladder(size: LadderSize | None = None, seed: int = 0, progress: Progress | None = None) -> LadderFindings:
    """Every rung from every lower one, and from every layer, where seen and frozen where not; intervals over games."""
    size = size or LadderSize()
    weight, boards = _boards(size, seed)
    rows = boards.measure(size.pairs, seed, progress)
    rows += words_of(size, seed).measure(size.pairs, seed, progress)
    return LadderFindings({k: round(float(w), 4) for k, w in zip(KINDS, weight, strict=True)}, tuple(rows))


def _boards(size: LadderSize, seed: int) -> tuple[NDArray[np.float64], Stacked]:
    """The network that plays Othello, and the weights of kinds of square."""
    model, task = load_model("othello-6x6"), othello_task(SIZE, size.games, size.positions, seed + 5)
    acts, split = _captured(model, task, seed)
    law = acts.observations.behaviours["next_move_law"].law
    legal = stack_of(acts.observations)[1].law[..., 0] > 0
    weight = weights_of(legal[split.fit], law[split.fit])
    rungs = stack_of(acts.observations, weight)
    return weight, Stacked(model, task, acts, rungs, split, DOMAINS, "next_move_law", "next move")


def words_of(size: LadderSize, seed: int = 0) -> Stacked:
    """The network that answers questions on the tiny world."""
    asked = (size.games // 2, STORY_POSITIONS, seed + 5)
    model, task = load_model(f"tiny-world-{WORLD}"), tinyworld_task(WORLD, *asked)
    acts, split = _captured(model, task, seed)
    rungs = ladder_words.words_stack(questions_of(*asked), acts.observations)
    return Stacked(model, task, acts, rungs, split, ladder_words.DOMAINS, "answer", "answer", (0, 1))


def _rows(found: Ladder, domain: str, layer: int, above: str = "") -> list[dict[str, Any]]:
    """True rungs have no layer, and are told once. above: what a site that tells a higher rung is named by."""
    out = []
    for what in ("left", "compounded", "excess"):
        for (i, j), one in getattr(found.leaps, what).items():
            if i == 0 or (layer == 0 and not above):
                name = (above or SITE) if i == 0 else found.names[i]
                at = {"domain": domain, "layer": layer if i == 0 else None, "from": name, "to": found.names[j]}
                eps = round(found.eps[i, j], 4) if what == "left" else None
                out.append(at | {"what": what} | figures(one) | {"eps": eps})
    return out


def _direct(
    rungs: list[Rung], direct: Mapping[str, NDArray], floors: Mapping[str, NDArray], group: NDArray,
    at: NDArray[np.int64], domain: str, layer: int,
) -> list[dict[str, Any]]:  # fmt: skip
    clusters, out = Clusters.of(group[at], 1_000, 0), []
    for rung in rungs[1:]:
        truth = rung.law[at].astype(np.float64)
        bits = [-(truth * np.log2(np.maximum(law[at], 1e-30))).sum((1, 2))
                for law in (direct[rung.name], floors[rung.name], rung.law)]  # fmt: skip
        one = estimates([fbu(*bits)], clusters)[0]
        at_place = {"domain": domain, "layer": layer, "from": SITE, "to": rung.name, "what": "direct"}
        out.append(at_place | figures(one) | {"eps": None})
    return out


def _replaced(
    of: Stacked, hook: str, floors: Mapping[str, NDArray], n_pairs: int, layer: int, seed: int
) -> list[dict[str, Any]]:
    """The site of test rows taken from the nearest donor of another text by each rung, and from any: KL of the law."""
    acts, rungs, split, task = of.acts, of.rungs, of.split, of.task
    seen, generator = acts.observations, np.random.default_rng([seed, 81])
    base = np.sort(generator.permutation(split.test)[:n_pairs])
    pool = np.concatenate([split.fit, split.select])
    donors = {rung.name: _nearest(rung.law, base, pool, generator) for rung in rungs}
    donors["any"] = (generator.choice(pool, len(base)), np.zeros(len(base)))
    x = acts.sites[hook].float()
    values = torch.stack([x[torch.from_numpy(at)] for at, _ in donors.values()], 1)  # [n, donors, d]
    texts = [task.tokens[i][: at + 1] for i, at in zip(seen.example[base], seen.position[base], strict=True)]
    last = [np.array([len(ids) - 1]) for ids in texts]
    trunk = of.model.trunk(EditedTexts(texts, last, np.concatenate(last)), [hook])

    def edit(act: Tensor, at: At) -> Tensor:
        return values[at.text, at.branch].to(act.dtype)

    logits = trunk.logits({hook: edit}, values.shape[1])
    tokens = next(spec.tokens for spec in task.behaviours if spec.name == of.behaviour)
    moves = torch.softmax(logits.double(), 2).numpy()[..., list(tokens or ())]
    said = np.concatenate([moves, 1 - moves.sum(2, keepdims=True)], 2)
    truth = seen.behaviours[of.behaviour].law[base].astype(np.float64)
    ends = [-(truth * np.log2(np.maximum(q, 1e-30))).sum(1) for q in (floors[of.said][base][:, 0], truth)]
    clusters, out = Clusters.of(seen.group[base], 1_000, seed), []
    for i, (name, (_, apart)) in enumerate(donors.items()):
        kl = kl_bits(truth, np.maximum(said[:, i], 1e-30))
        one = estimates([Ratio(kl, ends[0] - ends[1])], clusters)[0]
        out.append({"domain": of.domains[0], "layer": layer, "from": name, "to": of.said, "what": "replace"}
                   | figures(one) | {"eps": round(float((apart < 1e-6).mean()), 4)})  # fmt: skip
    return out


def _nearest(
    law: NDArray, base: NDArray[np.int64], pool: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each base row the row of the pool whose law is nearest, ties at random, and how far it is: total variation."""
    flat = law.reshape(len(law), -1).astype(np.float32)
    best, apart = np.empty(len(base), dtype=np.int64), np.empty(len(base))
    noise = generator.random(len(pool)) * 1e-4
    for i, row in enumerate(base):
        far = np.abs(flat[pool] - flat[row]).sum(1) / 2
        at = int((far + noise).argmin())
        best[i], apart[i] = pool[at], far[at]
    return best, apart


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(found: LadderFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text: of the boards, and of the tiny world where it was measured."""
    frame = found.frame.astype({"layer": "Int64"})
    made = _tables(frame[frame["domain"].isin(DOMAINS)], RUNGS, DOMAINS, "next move")
    words = frame[frame["domain"].isin(ladder_words.DOMAINS)]
    if len(words):
        told = _tables(words, ladder_words.RUNGS, ladder_words.DOMAINS, "answer")
        made |= {f"words {name}": table for name, table in told.items()}
        above = words[words["from"].str.startswith(SITE + TO) & (words["what"] == "left")]
        layers = [int(layer) for layer in sorted(above["layer"].dropna().unique())]
        made["words above"] = pd.concat([
            _by_layer(some, "to", layers).assign(domain=domain) for domain, some in above.groupby("domain", sort=False)
        ])  # fmt: skip
    return made


def _tables(
    frame: pd.DataFrame, rungs: tuple[str, ...], domains: tuple[str, ...], said: str
) -> dict[str, pd.DataFrame]:
    site, seen = frame["from"] == SITE, frame["domain"] == domains[0]
    layers = [int(layer) for layer in sorted(frame["layer"].dropna().unique())]
    left = frame["what"] == "left"
    below = dict(zip(rungs[1:], rungs[:-1], strict=True))
    rows = [{"rung": name, "true rung below": _cell(frame[seen & left & (frame["from"] == below.get(name)) &
                                                          (frame["to"] == name)])}
            | {f"layer {k}": _cell(frame[seen & left & site & (frame["to"] == name) & (frame["layer"] == k)])
               for k in layers} for name in rungs]  # fmt: skip
    made = {"given": pd.DataFrame(rows)}
    made["leaps"] = pd.DataFrame([
        {"told": to, "from": start} | {d: _cell(frame[left & (frame["domain"] == d) & (frame["from"] == start)
                                                      & (frame["to"] == to)]) for d in domains}
        for j, to in enumerate(rungs) for start in rungs[:j]
    ])  # fmt: skip
    made["compound"] = pd.DataFrame([
        {"domain": d, "layer": int(k), "leaps": rungs.index(to) + 1, "to": to}
        | {what: _cell(frame[site & (frame["domain"] == d) & (frame["what"] == what) & (frame["to"] == to)
                             & (frame["layer"] == k)]) for what in ("left", "compounded", "excess")}
        for d in domains for k in (best_layer(frame, domains[0], said),) for to in rungs[1:]
    ])  # fmt: skip
    made["direct"] = _by_layer(frame[seen & (frame["what"] == "direct")], "to", layers)
    replaced = frame[frame["what"] == "replace"]
    alike = replaced[replaced["layer"] == layers[0]].set_index("from")["eps"]
    made["replace"] = _by_layer(replaced, "from", layers)
    made["replace"].insert(1, "exactly alike", ["" if rung == "any" else number(alike[rung]) for rung in alike.index])
    return made


def best_layer(frame: pd.DataFrame, seen: str = SEEN, said: str = "next move") -> int:
    """The layer whose directions leave least of what the network says over all leaps, where seen."""
    some = frame[(frame["from"] == SITE) & (frame["what"] == "left") & (frame["to"] == said)]
    some = some[(some["domain"] == seen) & some["value"].notna()]
    return int(some.sort_values("value")["layer"].iloc[0])


def _by_layer(frame: pd.DataFrame, column: str, layers: list[int]) -> pd.DataFrame:
    return pd.DataFrame([
        {"rung": name} | {f"layer {k}": _cell(frame[(frame[column] == name) & (frame["layer"] == k)]) for k in layers}
        for name in dict.fromkeys(frame[column])
    ])  # fmt: skip


def _cell(rows: pd.DataFrame) -> str:
    """The first of the rows; empty where there is none."""
    return "" if rows.empty else interval(rows.iloc[0])
