"""The study of foresight: before a network that plays Othello is run on a board, will it err there?

What the rules say of a sequence of moves, and how a decoder of the board erred on seen games, make a ranking of games
that the network has not been run on: positions of greedy play, and boards that no legal play reaches. Rankings are
sealed first; beside them stand chance, classifiers of the bare moves, and how sure the network itself is, which takes
its run.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.activations.capture import capture
from probekit.fit.badness import Predictor
from probekit.jobs.engines import Progress
from probekit.jobs.foresight import Ranking, foresee
from probekit.measurement.hypotheses import Decoder
from probekit.metrics.foresight import FEW, MEASURES, Foresight
from probekit.metrics.splits import split_by_group
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.proofs.studies.drawn import INK, begun, words
from probekit.proofs.studies.kept import Stored, figures, interval
from probekit.results.text import number
from probekit.task import Task
from probekit.testbeds.othello.describe import Replayed, described, replay
from probekit.testbeds.othello.game import Geometry, legal_moves, unpack
from probekit.testbeds.othello.task import SEEN, UNSEEN, othello_task

HOOK = "blocks.3.hook_resid_post"  # where a linear decoder of the board is best, docs/othello.md
BAD = {"illegal": "the likeliest move is illegal", "loose": "more than a tenth of the probability is on illegal moves"}
LOOSE = 0.1
BUDGETS = (0.01, 0.05, 0.2)
BUDGET = 0.05
RANKINGS = {
    "abstraction": "all that is below, learned on seen games",
    "rules": "what the rules say of the board and how it came about, learned on seen games",
    "noisy board": "the rules on a board whose discs are misread as often as a decoder misreads such discs",
    "unusual": "how far what the rules say lies from seen games",
    "text": "a classifier of the moves as words: 1-2-grams",
    "moves": "a classifier of the moves as columns: who played where, the last three, how many",
}
REFERENCES = {
    "confidence": "probability of the network's likeliest move, the least first; takes a run",
    "confidence, learned": "that, the margin, the entropy and the number of moves, learned on seen games; takes a run",
}
OWN = "abstraction"
DOMAINS = (SEEN, *UNSEEN)
LEARNED = 0.6  # of the seen games; rankings of the others are sealed as well
SAMPLES = 32  # boards that are drawn of each row
TITLES = {
    "recall": f"Share of the bad positions that are among the first {BUDGET:.0%} of a ranking (chance: {BUDGET:.0%})",
    "precision": f"Share of bad positions among the first {BUDGET:.0%} of a ranking",
    "less": "Recall of the abstraction's ranking less that of another, on the same games",
    "budgets": "Recall of the abstraction's ranking by budget",
    "sealed": "When rankings were sealed and when the network began to answer",
}


@dataclass(frozen=True)
class ForesightSize:
    """games: of each unseen domain, twice as many seen; positions: of each game."""

    games: int = 1_000
    positions: int = 8

    def of(self, share: float) -> "ForesightSize":
        """A share of the games, 100 at least."""
        return replace(self, games=max(100, round(share * self.games)))


@dataclass(frozen=True)
class ForesightFindings(Stored):
    """What the page speaks of. sealed: a row per ranking file; learned: rows learned from, and bad ones of them.

    rows: one per domain, kind of bad, budget, ranking, `less` (a ranking that was subtracted, or none) and measure.
    """

    learned: dict[str, int]
    rows: tuple[dict[str, Any], ...]
    sealed: tuple[dict[str, Any], ...]


# Descriptions ---------------------------------------------------------------------------------------------------------


def part_of(task: Task, kept: NDArray[np.bool_]) -> Task:
    """The examples of a task that are `kept`, of a task without labels."""
    rows, at = kept[task.row_example], np.flatnonzero(kept)
    return replace(
        task,
        tokens=[task.tokens[i] for i in at],
        positions=[task.positions[i] for i in at],
        group=np.asarray(task.group)[at],
        domain=np.asarray(task.domain)[at],
        features={name: replace(one, labels=one.labels[rows]) for name, one in task.features.items()},
        floor_inputs={name: block[rows] for name, block in (task.floor_inputs or {}).items()},
        fingerprint=f"{task.fingerprint}:{at[0]}:{len(at)}",
    )


@dataclass(frozen=True)
class Described:
    """Rows of some games as they are known before the network runs. names: of each row."""

    task: Task
    names: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, kept: NDArray[np.bool_]) -> "Described":
        """The examples of a task that are `kept`."""
        part = part_of(task, kept)
        games, moves = part.group[part.row_example], part.row_position + 1
        return cls(part, tuple(f"game {g} move {m}" for g, m in zip(games, moves, strict=True)))

    @cached_property
    def replayed(self) -> Replayed:
        """By the rules."""
        return replay(self.task.tokens, self.task.positions)

    @cached_property
    def rules(self) -> NDArray[np.float64]:
        """What they say: [n, columns]."""
        return described(self.replayed)

    @property
    def group(self) -> NDArray[np.int64]:
        """The game of each row."""
        return np.asarray(self.task.group)[self.task.row_example]

    @property
    def moves(self) -> NDArray[np.float64]:
        """The moves as columns, as an input-only reader sees them."""
        return np.concatenate([np.asarray(block) for block in (self.task.floor_inputs or {}).values()], 1).astype(float)

    @property
    def words(self) -> list[str]:
        """The moves as words."""
        geo = Geometry(self.replayed.size)
        name = [geo.name(square) for square in geo.playable.tolist()]
        return [" ".join(name[int(t)] for t in self.task.tokens[i][: at + 1])
                for i, at in zip(self.task.row_example, self.task.row_position, strict=True)]  # fmt: skip


def squares(replayed: Replayed) -> NDArray[np.float64]:
    """What is known of each disc before the network runs: [n, n_squares, 5]."""
    n = len(replayed.own)
    geo = Geometry(replayed.size)
    row, column = np.divmod(np.arange(geo.n_squares), replayed.size)
    rim = np.minimum.reduce([row, column, replayed.size - 1 - row, replayed.size - 1 - column])
    every = (replayed.times, replayed.age, replayed.board, np.broadcast_to(rim, (n, geo.n_squares)),
             np.broadcast_to(replayed.position[:, None], (n, geo.n_squares)))  # fmt: skip
    return np.stack(every, 2).astype(np.float64)


def misread(chance: NDArray[np.float64], replayed: Replayed, seed: int) -> NDArray[np.float64]:
    """Probability on illegal moves if the network played evenly by the rules on boards that it misreads: [n].

    chance [n, n_squares]: how often the disc of a square is taken for one of the other side; boards are drawn.
    """
    generator = np.random.default_rng([seed, 71])
    bit = np.left_shift(np.uint64(1), np.arange(replayed.size**2, dtype=np.uint64))
    disc = unpack(replayed.own | replayed.opp, replayed.size**2)
    legal, playable = replayed.legal, Geometry(replayed.size).playable
    total = np.zeros(len(chance))
    for _ in range(SAMPLES):
        turned = ((generator.random(chance.shape) < chance) & disc) @ bit
        own, opp = replayed.own ^ turned, replayed.opp ^ turned
        seen = unpack(legal_moves(own, opp, replayed.size), replayed.size**2)[:, playable]
        total += (seen & ~legal).sum(1) / np.maximum(seen.sum(1), 1)
    return total / SAMPLES


# Predictors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen:
    """All that was learned on seen games, for both kinds of bad. by: digests of what was learned."""

    reader: Predictor
    middle: NDArray[np.float64]
    scale: NDArray[np.float64]
    predictors: Mapping[tuple[str, str], Any]
    by: Mapping[str, str]
    seed: int

    @classmethod
    def learn(cls, seen: Described, bad: Mapping[str, NDArray], wrong: NDArray[np.bool_], seed: int) -> "Frozen":
        """bad: kind -> [n]; wrong [m, n_squares]: discs that a decoder misread on the last m rows, not its own."""
        held = len(wrong)
        disc = seen.replayed.board[-held:] < 2
        columns = squares(seen.replayed)[-held:]
        group = np.broadcast_to(seen.group[-held:, None], disc.shape)
        reader = Predictor.fit(columns[disc], wrong[disc], group[disc], seed)
        found = cls(reader, seen.rules.mean(0), seen.rules.std(0) + 1e-9, {}, {}, seed)
        fitted: dict[tuple[str, str], Any] = {}
        known = found.columns(seen)
        for kind, rows in bad.items():
            for name in (OWN, "rules", "moves"):
                fitted[kind, name] = Predictor.fit(known[name], rows, seen.group, seed)
            fitted[kind, "text"] = text_classifier().fit(seen.words, rows)
        by = {f"{kind}: {name}": one.digest for (kind, name), one in fitted.items() if name != "text"}
        return replace(found, predictors=fitted, by=by | {"discs": reader.digest})

    def noisy(self, part: Described) -> tuple[NDArray, NDArray]:
        """(probability on illegal moves on misread boards, discs that are misread on average), each [n]."""
        replayed = part.replayed
        disc, columns = replayed.board < 2, squares(replayed)
        chance = np.zeros(disc.shape)
        chance[disc] = self.reader.scores(columns[disc])
        return misread(chance, replayed, self.seed), chance.sum(1)

    def unusual(self, part: Described) -> NDArray[np.float64]:
        """Mean squared distance from the seen mean, column by column in standard deviations: [n]."""
        return (((part.rules - self.middle) / self.scale) ** 2).mean(1)

    def columns(self, part: Described) -> dict[str, NDArray[np.float64]]:
        """What each predictor sees, and the two rankings that were not learned from badness, as one column."""
        (noisy, discs), unusual = self.noisy(part), self.unusual(part)
        own = np.column_stack([part.rules, noisy, discs, unusual])
        return {OWN: own, "rules": part.rules, "moves": part.moves, "noisy board": noisy, "unusual": unusual}

    def scores(self, part: Described) -> dict[str, dict[str, NDArray[np.float64]]]:
        """kind of BAD -> every ranking of RANKINGS, before the network runs."""
        known, out = self.columns(part), {}
        for kind in dict.fromkeys(kind for kind, _ in self.predictors):
            said = {name: self.predictors[kind, name].scores(known[name]) for name in (OWN, "rules", "moves")}
            said["text"] = self.predictors[kind, "text"].predict_proba(part.words)[:, 1].astype(np.float64)
            out[kind] = {name: said[name] if name in said else known[name] for name in RANKINGS}
        return out


def text_classifier() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=3, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(max_iter=2_000))


# The network ----------------------------------------------------------------------------------------------------------


def judged(law: NDArray, legal: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Which rows are bad, by kind of BAD: law [n, n_moves + 1], legal [n, n_moves]."""
    moves = law[:, : legal.shape[1]]
    return {
        "illegal": ~legal[np.arange(len(legal)), moves.argmax(1)],
        "loose": (moves * ~legal).sum(1) > LOOSE,
    }


def sureness(law: NDArray, position: NDArray) -> NDArray[np.float64]:
    """What the network's own law says of its certainty: [n, 5]."""
    top = np.sort(law, 1)[:, ::-1]
    entropy = -(law * np.log2(np.maximum(law, 1e-12))).sum(1)
    return np.column_stack([top[:, 0], top[:, 0] - top[:, 1], entropy, (law > 0.02).sum(1), position]).astype(float)


@dataclass
class _Answers:
    """The network's law on some rows, run once when first asked for."""

    model: Model
    part: Described

    @cached_property
    def law(self) -> NDArray[np.float32]:
        """[n, n_moves + 1]."""
        acts = capture(self.model, self.part.task, [HOOK], store=None)
        return acts.observations.behaviours["next_move_law"].law.astype(np.float32, copy=False)

    def bad(self, kind: str) -> NDArray[np.bool_]:
        """Rows that are bad in one way."""
        return judged(self.law, self.part.replayed.legal)[kind]


def measure_foresight(
    root: Path, size: ForesightSize | None = None, seed: int = 0, progress: Progress | None = None
) -> ForesightFindings:
    """Learn on seen games, seal rankings of others, run the network on them, judge. Intervals are over games.

    Rankings lie in a new folder below `root`.
    """
    size, model = size or ForesightSize(), load_model("othello-6x6")
    task = othello_task(6, size.games, size.positions, seed + 3)
    domain = np.asarray(task.domain)
    chosen = np.random.default_rng([seed, 72]).random(len(domain)) < LEARNED
    seen = Described.of(task, (domain == SEEN) & chosen)
    say = progress or (lambda *told: None)
    say("seen games", 0, 3)
    frozen, own, learned = _learned(model, seen, seed)
    say("rankings", 1, 3)
    folder, parts = new_folder(root), {name: Described.of(task, (domain == name) & ~(chosen & (domain == SEEN)))
                                 for name in DOMAINS}  # fmt: skip
    sealed = {
        (name, kind): foresee(folder / f"{name}-{kind}", part.names, scores, by=frozen.by)
        for name, part in parts.items() for kind, scores in frozen.scores(part).items()
    }  # fmt: skip
    say("the network", 2, 3)
    rows, told, asked = [], [], dict[str, _Answers]()
    for (name, kind), ranking in sealed.items():
        answers = asked.setdefault(name, _Answers(model, parts[name]))
        ranking.run(lambda a=answers, k=kind: a.bad(k))
        own_law = beside(answers.law, parts[name].task, own[kind])
        rows += rows_of(ranking, parts[name].group, own_law, name, kind, seed)
        told.append(sealed_row(ranking, name, kind))
    return ForesightFindings(learned, tuple(rows), tuple(told))


def _learned(model: Model, seen: Described, seed: int) -> tuple[Frozen, dict[str, Predictor], dict[str, int]]:
    """(what ranks in advance, what is learned of the network's own law, how many rows that took)."""
    acts = capture(model, seen.task, [HOOK], store=None)
    law, n = acts.observations.behaviours["next_move_law"].law, len(seen.names)
    every = judged(law, seen.replayed.legal)
    bad = {kind: rows for kind, rows in every.items() if rows.sum() >= FEW}  # of fewer nothing is learned
    cut = np.flatnonzero(np.diff(seen.group, prepend=-1))  # the first row of each game
    half = int(cut[len(cut) // 2])
    split = split_by_group(seen.group[:half], seed)
    feature = seen.task.features["mine_yours"]
    decoder = Decoder.fit(feature, np.arange(half), split, acts.sites[HOOK].float(), (1e-1, 1e-2, 1e-3))
    wrong = decoder.predict(acts.sites[HOOK][half:].float()) != feature.labels[half:]
    frozen = Frozen.learn(seen, bad, wrong, seed)
    sure = sureness(law, seen.task.row_position)
    own = {kind: Predictor.fit(sure, rows, seen.group, seed) for kind, rows in bad.items()}
    return frozen, own, {"rows": n, "games": len(cut)} | {kind: int(rows.sum()) for kind, rows in every.items()}


def beside(law: NDArray, task: Task, own: Predictor) -> dict[str, NDArray[np.float64]]:
    """Each of REFERENCES on the rows of a task, from the network's law there and what was learned of it."""
    sure = sureness(law, task.row_position)
    return dict(zip(REFERENCES, (-sure[:, 0], own.scores(sure)), strict=True))


def new_folder(root: Path) -> Path:
    """A folder that holds nothing: rankings are never written over."""
    root.mkdir(parents=True, exist_ok=True)
    return root / f"foresight-{sum(1 for one in root.iterdir() if one.name.startswith('foresight-'))}"


def rows_of(
    ranking: Ranking, group: NDArray, beside: Mapping[str, NDArray], domain: str, kind: str, seed: int
) -> list[dict[str, Any]]:
    """Every measure of a ranking that was answered, beside rankings that take a run; intervals over groups [n]."""
    out = []
    for budget in BUDGETS:
        only = () if budget == BUDGET else (OWN,)
        told = ranking.judge(group, budget, beside=beside, only=only, n_bootstrap=1_000, seed=seed)
        at = {"domain": domain, "bad": kind, "budget": budget, "n": told.n, "n_bad": told.n_bad, "games": told.groups}
        out += [at | one for one in _told(told, every=budget == BUDGET)]
    return out


def _told(told: Foresight, every: bool) -> list[dict[str, Any]]:
    measures = MEASURES if every else ("recall",)
    rows = [{"ranking": "chance", "less": "", "measure": m, "value": round(told.random[m], 4), "low": None,
             "high": None, "na_reason": ""} for m in measures]  # fmt: skip
    named = [(name, "", one) for name, one in told.rankings.items()]
    if every:
        named += [(name, less, one) for (name, less), one in told.less.items() if name == OWN]
    return rows + [{"ranking": name, "less": less, "measure": m} | figures(one[m]) for name, less, one in named
                   for m in measures]  # fmt: skip


def sealed_row(ranking: Ranking, domain: str, kind: str) -> dict[str, Any]:
    """When it was sealed and when the network began to answer."""
    began = json.loads((ranking.folder / "answers.json").read_text(encoding="utf-8"))["began"]
    return {"domain": domain, "bad": kind, "digest": ranking.digest, "written": ranking.written.isoformat(),
            "began": began}  # fmt: skip


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(found: ForesightFindings, domains: tuple[str, ...] = DOMAINS) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text, of some domains."""
    frame = found.frame
    frame = frame[frame["domain"].isin(domains)]
    here = frame[frame["budget"] == BUDGET]
    made = {measure: _by_ranking(here[here["less"] == ""], measure) for measure in ("recall", "precision")}
    made["less"] = _by_ranking(here[(here["ranking"] == OWN) & (here["less"] != "")], "recall", "less")
    own = frame[(frame["ranking"] == OWN) & (frame["less"] == "") & (frame["measure"] == "recall")]
    made["budgets"] = pd.DataFrame([
        {"domain": domain, "bad": kind}
        | {f"{budget:.0%}": interval(some[some["budget"] == budget].to_dict("records")[0]) for budget in BUDGETS}
        for (domain, kind), some in own.groupby(["domain", "bad"], sort=False)  # pyright: ignore[reportGeneralTypeIssues]
    ])  # fmt: skip
    made["sealed"] = pd.DataFrame([
        {"domain": row["domain"], "bad": row["bad"], "SHA-256": f"{row['digest'][:16]}...",
         "sealed": row["written"][11:23], "first answer": row["began"][11:23]}
        for row in found.sealed if row["domain"] in domains
    ])  # fmt: skip
    return made


def _by_ranking(frame: pd.DataFrame, measure: str, column: str = "ranking") -> pd.DataFrame:
    rows = frame[frame["measure"] == measure].to_dict("records")
    places = dict.fromkeys((row["domain"], row["bad"]) for row in rows)
    told = {(row[column], row["domain"], row["bad"]): interval(row) for row in rows}
    return pd.DataFrame([
        {"ranking" if column == "ranking" else "less": name}
        | {f"{domain}, {kind}": told[name, domain, kind] for domain, kind in places}
        for name in dict.fromkeys(row[column] for row in rows)
    ])  # fmt: skip


# The picture ----------------------------------------------------------------------------------------------------------

SIDE, TOP, LINE, PANEL, GAP = 170, 84, 24, 190, 26


def picture_of(found: ForesightFindings) -> str:
    """Recall of every ranking with its interval, a panel per unseen domain and kind of bad; chance is a line."""
    places = [(domain, kind) for domain in UNSEEN for kind in BAD]
    names = [*RANKINGS, *REFERENCES]
    width, height = SIDE + len(places) * (PANEL + GAP), TOP + LINE * len(names) + 66
    parts = begun(width, height)
    parts.append(words(20, 28, f"Bad positions found among the first {BUDGET:.0%} of a ranking", size=17))
    for i, name in enumerate(names):
        y = TOP + LINE * (i + 0.5)
        parts.append(words(SIDE - 10, y + 5, name, "soft" if name in REFERENCES else "ink", "end"))
    for j, (domain, kind) in enumerate(places):
        parts += _panel(found, domain, kind, SIDE + j * (PANEL + GAP), names)
    said = "Line: chance. Grey: takes a run of the network, and is no foresight. Bars: 95 % over games."
    return "\n".join([*parts, words(20, height - 14, said, "soft"), "</svg>\n"])


def _panel(found: ForesightFindings, domain: str, kind: str, left: float, names: list[str]) -> Iterator[str]:
    frame = found.frame
    here = frame[(frame["domain"] == domain) & (frame["bad"] == kind) & (frame["budget"] == BUDGET)]
    told = {row["ranking"]: row for row in
            here[(here["less"] == "") & (here["measure"] == "recall")].to_dict("records")}  # fmt: skip
    bottom = TOP + LINE * len(names)
    yield words(left + PANEL / 2, TOP - 14, f"{domain.replace('_', ' ')}, {kind}", anchor="middle")
    yield f'<rect x="{left}" y="{TOP}" width="{PANEL}" height="{bottom - TOP}" fill="none" stroke="{INK["grid"]}"/>'
    chance = left + PANEL * BUDGET
    yield f'<line x1="{chance:.1f}" x2="{chance:.1f}" y1="{TOP}" y2="{bottom}" stroke="{INK["soft"]}"/>'
    for share in (0, 0.5, 1):
        yield words(left + PANEL * share, bottom + 18, number(share, 1), "soft", "middle", 12)
    for i, name in enumerate(names):
        row = told.get(name)
        if row is None or row["value"] is None or pd.isna(row["value"]):
            continue
        y, ink = TOP + LINE * (i + 0.5), INK["soft"] if name in REFERENCES else INK["blue"]
        low, at, high = (left + PANEL * row[part] for part in ("low", "value", "high"))
        yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{ink}" stroke-width="3"/>'
        yield f'<circle cx="{at:.1f}" cy="{y}" r="5" fill="{ink}"><title>{name}: {interval(row)}</title></circle>'
