"""Foreign: captures that others made, row by row beside a plain forward of the same tokens.

Engines that serve many requests at once have attached rows to the wrong request, token or layer without a word. What a
row is nearest to says which: the same place, another layer or the final norm, another token of its request, a token of
another one, or the same place behind pads that were attended to.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.padding import Padded
from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.inputs.requests import Request, Requests
from probekit.model.audit import Backend, choose_backend
from probekit.model.model import Model

RIGHT, ROUNDED, LAYER, NORM = "right", "another precision", "another layer's", "behind the final norm"
TOKEN, OTHER, PADDING, UNKNOWN = "another token's", "another request's", "padding in front", "of none of these"
VERDICTS = (RIGHT, ROUNDED, LAYER, NORM, TOKEN, OTHER, PADDING, UNKNOWN)
# Medians over coordinates of |difference| / standard deviation over rows: rounding of single precision stays below the
# first, and of half precision below the last; behind the second a row is looked for elsewhere. Other rows lie near 1.
EXACT, SURE, ROUNDING = 1e-3, 1e-2, 0.1
N_NEAREST, CHUNK, PASS = 4, 1024, 16
EARLIER, LATER = "earlier", "later"
FINAL_NORM = "ln_final.hook_out"
MAX_NUMBERS = 250_000_000  # of the reference: 1 GB


@dataclass(frozen=True)
class ForeignAudit:
    """rows: a frame of every row that was looked at: request, layer (hook point), position, verdict, holds, apart.

    holds: what the row holds instead. apart: distance from what it should hold, see EXACT. requests: how many were
    looked at, of how many in the folder. guessed: that nobody said which layers these are. `summary` counts verdicts.

    >>> import probekit as pk
    >>> found = pk.audit_requests(pk.read_requests("captures"), pk.load_model("othello-6x6"))
    >>> found.right, found.requests, found.rows.columns.tolist()
    (False, (3, 3), ['request', 'layer', 'position', 'verdict', 'holds', 'apart'])
    """

    rows: pd.DataFrame
    requests: tuple[int, int]
    layers: tuple[str, ...]
    guessed: bool = False

    @property
    def hint(self) -> str:
        """What to do where it is the guess that is wrong, and not the rows; else empty."""
        if not self.guessed or (self.rows["verdict"] == LAYER).mean() <= 0.5:
            return ""
        return (
            f"Most rows are another layer's: the {len(self.layers)} layers of the files were taken for "
            f"{self.layers[0]} to {self.layers[-1]}. If they are others, say how many blocks were run before each, as "
            "--layers 0,1,2."
        )

    @property
    def right(self) -> bool:
        return bool((self.rows["verdict"] == RIGHT).all())

    @property
    def summary(self) -> pd.DataFrame:
        """verdict, rows, share, requests, example; those that occur, in the order of VERDICTS."""
        out = []
        for verdict in VERDICTS:
            some = self.rows[self.rows["verdict"] == verdict]
            if len(some):
                deep = some[some["layer"] == some["layer"].iloc[-1]]  # the first ones tell words apart, not places
                held = deep["holds"].mode()
                first = deep[deep["holds"] == held[0]].iloc[0]
                example = f"{first['request']} row {first['position']}: {held[0]}" if held[0] else ""
                share = len(some) / len(self.rows)
                out.append((verdict, len(some), share, some["request"].nunique(), example))
        return pd.DataFrame(out, columns=["verdict", "rows", "share", "requests", "example"])


def audit_requests(
    requests: Requests, model: Model, layers: Sequence[int] | None = None, n_requests: int = 100, seed: int = 0,
    backend: str = "auto", progress: Callable[[str, int, int], object] | None = None,
) -> ForeignAudit:  # fmt: skip
    """Whether rows equal a plain forward of their tokens by this model, and what they hold where they do not.

    layers: of each layer in the files how many blocks were run, 0 for the embeddings; all of them, or all but the
    embeddings, where their number says so. n_requests: how many are looked at, in runs of neighbours, since it is
    neighbours that are confused. Raises BadInput where layers or widths are not the model's.

    >>> import probekit as pk
    >>> found = pk.audit_requests(pk.read_requests("captures"), pk.load_model("othello-6x6"), layers=[1, 2, 3, 4, 5, 6])
    >>> found.summary[["verdict", "requests"]].to_dict("list")
    {'verdict': ['right', "another request's"], 'requests': [2, 1]}
    """
    hooks = _hooks(requests, model, layers)
    known = [*hooks, *_beside(hooks, model)]
    chosen = _chosen(requests, n_requests, seed, len(known))
    seen = [requests[i] for i in chosen]
    _check_tokens(seen, model)
    places = [np.arange(len(request.tokens)) for request in seen]
    tokens = [request.tokens for request in seen]
    way = choose_backend(model, backend, known, tokens)
    reference = _forwards(model, tokens, known, way, progress)
    least = torch.finfo(torch.float32).tiny
    spread = {hook: rows.std(0, correction=0).clamp_min(least) for hook, rows in reference.items()}
    owner = np.repeat(np.arange(len(seen)), [len(place) for place in places])
    at = np.concatenate(places)
    held = np.concatenate([np.arange(len(r.tokens)) < len(r.states) for r in seen])  # the last token has no row
    found = []
    for slot, hook in enumerate(hooks):
        rows = torch.from_numpy(np.concatenate([r.states[:, slot] for r in seen]))
        frame = _Slot(hook, reference, spread, owner, at, [r.name for r in seen]).judged(rows, np.flatnonzero(held))
        found.append(frame)
        if progress:
            progress("layers compared", slot + 1, len(hooks))
    rows = pd.concat(found, ignore_index=True)
    lengths = [head.n_tokens for head in requests.heads]
    Padded(model, hooks, spread, ROUNDING, lengths, way).name(rows, seen, SURE, PADDING)
    return ForeignAudit(_padded(rows.drop(columns="best")), (len(seen), len(requests)), hooks, layers is None)


def _forwards(
    model: Model, tokens: Sequence[NDArray[np.int64]], hooks: Sequence[str], way: Backend,
    progress: Callable[[str, int, int], object] | None,
) -> dict[str, Float[Tensor, "n_rows d"]]:  # fmt: skip
    """Rows of all tokens at `hooks`, in single precision."""
    parts = []
    for start in range(0, len(tokens), PASS):
        some = tokens[start : start + PASS]
        parts.append(model.read(some, hooks, [np.arange(len(ids)) for ids in some], backend=way))
        if progress:
            progress("requests run", min(start + PASS, len(tokens)), len(tokens))
    return {hook: torch.cat([part[hook].float() for part in parts]) for hook in hooks}


def _hooks(requests: Requests, model: Model, layers: Sequence[int] | None) -> tuple[str, ...]:
    """The hook point of each layer in the files."""
    n, of_model = requests.n_layers, model.n_layers
    if layers is None:
        if n not in (of_model, of_model + 1):
            raise BadInput(
                f"the files hold {n} layers and {model.name} has {of_model}: say which, as the number of blocks that "
                "were run before each (--layers 0,8,16; 0 is the embeddings)."
            )
        layers = range(of_model + 1 - n, of_model + 1)
    if len(layers) != n or not all(0 <= layer <= of_model for layer in layers):
        raise BadInput(
            f"layers {list(layers)} for files of {n} layers: one number from 0 to {of_model} each is asked for."
        )
    hooks = tuple(
        HookPoint.within(layer - 1, "hook_resid_post").name if layer else HookPoint.within(0, "hook_resid_pre").name
        for layer in layers
    )
    width = model.widths[hooks[0]]
    if requests.d != width:
        raise BadInput(f"rows have {requests.d} coordinates and {model.name} has {width}: is it the same model?")
    return hooks


def _beside(hooks: Sequence[str], model: Model) -> list[str]:
    """Hook points that a row may be confused with: one block earlier or later, and the final norm."""
    stream = [HookPoint.within(0, "hook_resid_pre").name]
    stream += [HookPoint.within(i, "hook_resid_post").name for i in range(model.n_layers)]
    near = {stream[i + step] for i in map(stream.index, hooks) for step in (-1, 1) if 0 <= i + step < len(stream)}
    norm = [FINAL_NORM] if FINAL_NORM in model.widths else []
    return [*sorted(near - set(hooks), key=stream.index), *norm]


def _chosen(requests: Requests, n: int, seed: int, n_hooks: int) -> list[int]:
    """Which requests are looked at: runs of four neighbours, as far as their reference fits the memory."""
    order = np.arange(len(requests))
    if n < len(requests):
        starts = np.arange(0, len(requests), 4)
        drawn = np.random.default_rng(seed).permutation(starts)[: -(-n // 4)]
        order = np.sort((drawn[:, None] + np.arange(4)).ravel())
        order = order[order < len(requests)]
    sizes = np.asarray([head.n_tokens for head in requests.heads])[order] * n_hooks * requests.d
    return order[sizes.cumsum() <= max(MAX_NUMBERS, sizes[0])].tolist()


def _check_tokens(seen: Sequence[Request], model: Model) -> None:
    for request in seen:
        outside = (request.tokens < 0) | (request.tokens >= model.d_vocab)
        if outside.any():
            raise BadInput(
                f"request {request.name}: token id {request.tokens[outside][0]} of {model.name}'s {model.d_vocab}."
            )


def _padded(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of nothing known in front of rows that are mostly as many places late: what was padded on the left."""
    for _, some in rows[rows["verdict"].isin((TOKEN, UNKNOWN))].groupby(["request", "layer"]):
        late = some.loc[some["holds"].str.endswith(EARLIER), "holds"].mode()
        if len(late):
            step = int(late[0].split()[0])
            front = some[(some["position"] < step) & (some["verdict"] == UNKNOWN)]
            behind = some[some["position"] >= step]
            if len(front) == step and (behind["holds"] == late[0]).mean() > 0.5:
                rows.loc[front.index, ["verdict", "holds"]] = PADDING, f"{step} rows of it"
    return rows


@dataclass
class _Found:
    """What rows are nearest to so far, each [n]."""

    best: NDArray[np.float64]
    verdict: NDArray[np.object_]
    holds: NDArray[np.object_]

    def nearer(self, rows: NDArray, apart: NDArray, verdict: str, holds: Sequence[str]) -> None:
        """Where `rows` lie nearer to something else; holds: the words for each of them."""
        at = np.flatnonzero((apart < self.best[rows]) & (apart <= ROUNDING))
        self.best[rows[at]], self.verdict[rows[at]] = apart[at], verdict
        self.holds[rows[at]] = np.asarray(holds, object)[at]


@dataclass(frozen=True)
class _Slot:
    """One layer of the files. reference: hook -> rows of all tokens, spread: their standard deviation [d]; owner, at
    [n_rows]: their request and place."""

    hook: str
    reference: Mapping[str, Float[Tensor, "n_rows d"]]
    spread: Mapping[str, Float[Tensor, " d"]]
    owner: NDArray
    at: NDArray
    names: Sequence[str]

    def judged(self, rows: Float[Tensor, "n d"], index: NDArray) -> pd.DataFrame:
        """A line for each row. index [n]: which rows of the reference they are said to be."""
        apart = self._distance(rows, self.hook, index)
        near = apart <= ROUNDING
        found = _Found(apart.copy(), np.where(near, ROUNDED, UNKNOWN).astype(object), np.full(len(rows), "", object))
        found.verdict[apart <= EXACT] = RIGHT
        some = np.flatnonzero(apart > SURE)
        for hook in self.reference:
            if hook != self.hook and len(some):
                verdict, holds = (NORM, "") if hook == FINAL_NORM else (LAYER, HookPoint.parse(hook).short)
                found.nearer(some, self._distance(rows[some], hook, index[some]), verdict, [holds] * len(some))
        if len(some):
            self._elsewhere(rows, index, some, found)
        self._shorter(rows, index, found)
        return pd.DataFrame({
            "request": [self.names[i] for i in self.owner[index]], "layer": HookPoint.parse(self.hook).short,
            "position": self.at[index], "verdict": found.verdict, "holds": found.holds, "apart": apart,
            "best": found.best,
        })  # fmt: skip

    def _elsewhere(self, rows: Tensor, index: NDArray, lost: NDArray, found: _Found) -> None:
        """Look for rows among all tokens: those of their own request first, since words return in many."""
        for hook in (self.hook, FINAL_NORM) if FINAL_NORM in self.reference else (self.hook,):
            known = self._standard(self.reference[hook], hook)
            for some in _chunks(lost):
                apart = torch.cdist(self._standard(rows[some], hook), known)
                own = torch.from_numpy(self.owner[index[some]][:, None] == self.owner)
                for verdict, mine, holds in ((TOKEN, own, self._step), (OTHER, ~own, self._place)):
                    gaps, nearest = apart.masked_fill(~mine, torch.inf).topk(min(N_NEAREST, len(known)), largest=False)
                    for gap, there in zip(gaps.T, nearest.T.numpy(), strict=True):
                        at = np.flatnonzero(
                            gap.isfinite().numpy()
                        )  # a request may have fewer tokens than are asked for
                        told = [holds(int(there[i]), int(index[some[i]])) for i in at]
                        found.nearer(some[at], self._distance(rows[some[at]], hook, there[at]), verdict, told)

    def _step(self, there: int, here: int) -> str:
        step = int(self.at[there]) - int(self.at[here])
        return f"{abs(step)} {LATER if step > 0 else EARLIER}"

    def _place(self, there: int, here: int) -> str:
        return f"{self.names[self.owner[there]]} row {self.at[there]}"

    def _shorter(self, rows: Tensor, index: NDArray, found: _Found) -> None:
        """Numbers of 16 bits are another precision however close they are, unless the model's own are such."""
        own = self.reference[self.hook]
        for dtype, name in ((torch.float16, "f16"), (torch.bfloat16, "bf16")):
            short = (rows == rows.to(dtype).float()).all(1).numpy()
            short &= ~(own == own.to(dtype).float()).all(1).numpy()[index]
            found.verdict[short & (found.verdict == RIGHT)] = ROUNDED
            found.holds[short & (found.verdict == ROUNDED)] = f"numbers are {name}"
        found.holds[(found.verdict == ROUNDED) & (found.holds == "")] = "computed in another precision"

    def _distance(self, rows: Tensor, hook: str, index: NDArray) -> NDArray[np.float64]:
        """Median over coordinates of |difference| / spread over rows: [n]. Few loud coordinates decide nothing."""
        known, spread = self.reference[hook], self.spread[hook]
        parts = [
            ((rows[some] - known[torch.from_numpy(index[some])]).abs() / spread).median(1).values
            for some in _chunks(np.arange(len(rows)))
        ]
        return torch.cat(parts).numpy().astype(np.float64)

    def _standard(self, rows: Tensor, hook: str) -> Tensor:
        return ((rows - self.reference[hook].mean(0)) / self.spread[hook]).clamp(-5, 5)


def _chunks(index: NDArray) -> list[NDArray]:
    """At most CHUNK at a time; one, without any, where there are none."""
    return np.array_split(index, max(1, -(-len(index) // CHUNK)))
