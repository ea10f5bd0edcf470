"""The replace bench: subspaces interchanged in texts of different lengths at every layer, beside those who do it too.

The model has the shape of a small Llama and random weights. A problem edits one place of each text (its last token, one
in the middle, or all) at one layer after the other, with many donors, and wants the logits behind the last token. All
solve it with the same batches of texts and give the same logits, or the bench stops. Each finds its donors' activations
itself. A search for a subspace (DAS) is held against its own forward and backward passes.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, ProbekitError
from probekit.fit.das import fit_das
from probekit.fit.directions import random_directions
from probekit.hookpoint import HookPoint
from probekit.measurement.causal.cases import CaseRows, Donors
from probekit.measurement.causal.learned import BATCH, STARTS, Pairs
from probekit.model.branching import At, EditedTexts
from probekit.model.interventions import interchange
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.model.reading import batches
from probekit.proofs.bench import Row
from probekit.task import Task

CASES = ("last", "middle", "all", "das")
TOKENS = 2_048  # of the texts of a batch
SEQUENCES = 64  # edited texts that a peer runs together
SAME = 1e-5  # of the largest logit, or of 1
PAD = 0  # no text has it


@dataclass(frozen=True)
class ReplaceSize:
    """Shape of the model, texts and their lengths, donors of each, rank of the subspace, rounds that are timed.

    pairs, steps: of the search.
    """

    n_layers: int = 8
    d_model: int = 256
    n_heads: int = 8
    d_vocab: int = 2_000
    texts: int = 12
    shortest: int = 24
    longest: int = 64
    donors: int = 8
    k: int = 8
    rounds: int = 3
    pairs: int = 256
    steps: int = 60


FULL = ReplaceSize()
QUICK = ReplaceSize(3, 32, 4, 60, 6, 4, 9, 3, 2, 1, 40, 4)
Note = Callable[[dict[str, Any]], None]
Solver = Callable[["Interchanges"], Float[Tensor, "layer text donor d_vocab"]]


@dataclass(frozen=True)
class Interchanges:
    """EditedTexts to edit at `where` in each layer's residual stream. donors [text, m]: numbers of other texts."""

    model: Model
    where: str
    tokens: list[NDArray[np.int64]]
    donors: NDArray[np.int64]
    basis: Float[Tensor, "d k"]

    @cached_property
    def hooks(self) -> list[str]:
        return [HookPoint.within(layer, "hook_resid_post").name for layer in range(self.model.n_layers)]

    @cached_property
    def last(self) -> NDArray[np.int64]:
        """The token that is read, [text]."""
        return np.array([len(ids) - 1 for ids in self.tokens])

    @cached_property
    def places(self) -> list[NDArray[np.int64]]:
        """Those that are edited."""
        by = {
            "last": lambda n: np.array([n]),
            "middle": lambda n: np.array([n // 2]),
            "all": lambda n: np.arange(n + 1),
        }
        return [by[self.where](n) for n in self.last]

    @cached_property
    def batches(self) -> list[NDArray[np.int64]]:
        """EditedTexts that are run together, of similar length."""
        return batches(self.last + 1, TOKENS)

    def empty(self) -> Float[Tensor, "layer text donor d_vocab"]:
        return torch.empty(len(self.hooks), *self.donors.shape, self.model.d_vocab)

    def padded(self, texts: NDArray[np.int64]) -> Tensor:
        """Ids [n, longest of these]."""
        return torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(self.tokens[i]) for i in texts], batch_first=True, padding_value=PAD
        )

    def parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(text, number of its donor) of edited texts that a peer runs together."""
        for batch in self.batches:
            text, nth = np.repeat(batch, self.donors.shape[1]), np.tile(np.arange(self.donors.shape[1]), len(batch))
            for at in range(0, len(text), SEQUENCES):
                yield text[at : at + SEQUENCES], nth[at : at + SEQUENCES]


def replace_bench(size: ReplaceSize, folder: Path, case: str, note: Note) -> Iterator[Row]:
    """CaseRows of one case; `note` gets what was counted.

    ratio: peer over ours, the median over rounds. gap: largest difference of a logit. bound_ratio: block evaluations
    (blocks x tokens) of ours over those of whole texts, divided by (L + 1) / 2L, which is what edits of all tokens
    spread over all layers cannot go below; in `das` our time over that of the forward and backward passes alone. Raises
    ProbekitError where logits differ by more than SAME.
    """
    if case not in CASES:
        raise BadInput(f"no case '{case}' in this bench: {', '.join(CASES)}.")
    checkpoint = folder / "model"
    if not checkpoint.exists():
        _save(size, checkpoint)
    model = load_model(checkpoint)
    if case == "das":
        yield _das(model, size)
        return
    problem = made_interchanges(model, size, case)
    ours(problem)  # what is tried once is no part of what is counted or timed
    counted = {name: count_blocks(problem, solve) for name, solve in (("ours", ours), ("whole texts", whole_texts))}
    share, least = counted["ours"] / counted["whole texts"], (model.n_layers + 1) / (2 * model.n_layers)
    note({"edited": case, "blocks": counted, "share": share, "all tokens, at least": least})
    peers = {"whole texts, hooks of torch": whole_texts}
    if case != "all":  # the others edit as many places in every text
        peers |= {"pyvene": pyvene, "TransformerLens intervened_logits": transformer_lens}
    mine, theirs = [], {name: [] for name in peers}
    gaps = dict.fromkeys(peers, 0.0)
    for _ in range(size.rounds):
        found, seconds = timed(ours, problem)
        mine.append(seconds)
        for name, solve in peers.items():
            logits, seconds = timed(solve, problem)
            theirs[name].append(seconds)
            gaps[name] = max(gaps[name], float((logits - found).abs().max()))
        limit = SAME * max(1.0, float(found.abs().max()))
        if worst := [name for name, gap in gaps.items() if not gap <= limit]:
            raise ProbekitError(f"{worst[0]} gives logits that are {gaps[worst[0]]:.1e} from ours; asked {limit:.1e}.")
    lengths = f"{size.texts} texts of {size.shortest} to {size.longest} tokens x {size.donors} donors"
    for name, seconds in theirs.items():
        ratio = statistics.median(there / here for here, there in zip(mine, seconds, strict=True))
        case_name = f"{lengths} x {size.n_layers} layers, {case} edited"
        middle = statistics.median(mine), statistics.median(seconds)
        yield Row(case_name, name, *middle, ratio, gaps[name], share / least)


def tables(told: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The table of the page, as text, from what `probekit bench replace --json` printed."""
    blocks = {one["edited"]: one for one in told["blocks"]}
    rows = []
    for row in told["rows"]:
        what, _, edited = row["case"].removesuffix(" edited").rpartition(", ")
        counted = blocks.get(edited)
        search = f"a search ({what.partition(', ')[0].removeprefix('das: ')})"
        rows.append({
            "edited": edited if counted else search, "beside": row["peer"], "ours, s": f"{row['ours_seconds']:.3g}",
            "theirs, s": f"{row['peer_seconds']:.3g}", "theirs / ours": f"{row['ratio']:.2f}",
            "largest gap": f"{row['gap']:.0e}" if counted else "",
            "blocks of whole texts": f"{counted['share']:.3f}" if counted else "",
        })  # fmt: skip
    return {"edited": pd.DataFrame(rows), "targets": _targets(told)}


def _targets(told: Mapping[str, Any]) -> pd.DataFrame:
    """What was asked of it, and whether the run says so."""
    of_all = next(one for one in told["blocks"] if one["edited"] == "all")
    edits = [row for row in told["rows"] if not row["case"].startswith("das")]
    faster = min(row["ratio"] for row in edits if "hooks of torch" not in row["peer"])
    search = next(row["bound_ratio"] for row in told["rows"] if row["case"].startswith("das"))
    least = of_all["all tokens, at least"]
    asked = [
        (
            "blocks of whole texts, all tokens: within 10 % of (L + 1) / 2L",
            of_all["share"],
            of_all["share"] <= 1.1 * least,
        ),
        ("slowest beside pyvene and TransformerLens: at least 1.5 x as fast", faster, faster >= 1.5),
        ("a search beside its forward and backward passes alone: at most 1.2 x", search, search <= 1.2),
    ]
    return pd.DataFrame([
        {"asked": what, "found": f"{figure:.3g}", "verdict": "holds" if holds else "does not hold"}
        for what, figure, holds in asked
    ])  # fmt: skip


def timed(solve: Solver, problem: Interchanges) -> tuple[Tensor, float]:
    """What it gives, and seconds of the processor."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers' own imports and calls
        return solve(problem), time.process_time() - started


def made_interchanges(model: Model, size: ReplaceSize, where: str) -> Interchanges:
    """Random texts, each with donors among the others."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(size.shortest, size.longest + 1, size.texts)
    tokens = [generator.integers(PAD + 1, size.d_vocab, n) for n in lengths]
    donors = (
        np.arange(size.texts)[:, None] + generator.integers(1, size.texts, (size.texts, size.donors))
    ) % size.texts
    return Interchanges(model, where, tokens, donors, random_directions(size.d_model, size.k, 0))


# Who solves it --------------------------------------------------------------------------------------------------------


def ours(problem: Interchanges) -> Float[Tensor, "layer text donor d_vocab"]:
    """EditedTexts are run once, and edits branch off."""
    out, model, m = problem.empty(), problem.model, problem.donors.shape[1]
    last = [np.array([n]) for n in problem.last]
    site = model.read(problem.tokens, problem.hooks, last, backend="auto")
    texts = EditedTexts(problem.tokens, problem.places, problem.last)
    for batch in problem.batches:
        trunk = model.trunk(texts.some(batch), problem.hooks)
        index = torch.from_numpy(problem.donors[batch])
        for layer, hook in enumerate(problem.hooks):

            def edit(act: Tensor, at: At, source: Tensor = site[hook], index: Tensor = index) -> Tensor:
                return interchange(act, source[index[at.text, at.branch]], problem.basis)

            out[layer, batch] = trunk.logits({hook: edit}, m)
    return out


def whole_texts(problem: Interchanges) -> Float[Tensor, "layer text donor d_vocab"]:
    """Hooks of torch in the library's model, every edited text run from its beginning, logits where they are wanted."""
    assert problem.model.plain is not None
    out, hf = problem.empty(), problem.model.plain.hf
    sources = _sources(problem, hf)
    for text, nth in problem.parts():
        ids = problem.padded(text)
        last = torch.from_numpy(problem.last[text])
        mask = torch.arange(ids.shape[1]) <= last[:, None]
        edited = torch.zeros_like(ids, dtype=torch.bool)
        for row, i in enumerate(text):
            edited[row, problem.places[i]] = True
        kept, column = last.unique(return_inverse=True)
        for layer, source in enumerate(sources):
            donor = source[problem.donors[text, nth]]

            def edit(module: Any, args: Any, output: Any, donor: Tensor = donor, at: Tensor = edited) -> Any:
                act = output[0] if isinstance(output, tuple) else output
                moved = act + (donor[:, None] - act) @ problem.basis @ problem.basis.T
                new = torch.where(at[..., None], moved, act)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = hf.model.layers[layer].register_forward_hook(edit)
            try:
                with torch.inference_mode():
                    logits = hf(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
            finally:
                handle.remove()
            out[layer, text, nth] = logits[torch.arange(len(ids)), column]
    return out


def _sources(problem: Interchanges, hf: Any) -> list[Float[Tensor, "text d"]]:
    """Activations behind the last token of every text, by layer, from one forward of each batch."""
    out = [torch.empty(len(problem.tokens), problem.model.d_model) for _ in problem.hooks]
    for batch in problem.batches:
        ids, last = problem.padded(batch), torch.from_numpy(problem.last[batch])

        def keep(layer: int, batch: NDArray = batch, last: Tensor = last) -> Callable[..., None]:
            def take(module: Any, args: Any, output: Any) -> None:
                act = output[0] if isinstance(output, tuple) else output
                out[layer][batch] = act[torch.arange(len(last)), last]

            return take

        handles = [hf.model.layers[i].register_forward_hook(keep(i)) for i in range(len(out))]
        try:
            with torch.inference_mode():
                mask = torch.arange(ids.shape[1]) <= last[:, None]
                hf(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()
    return out


def pyvene(problem: Interchanges) -> Float[Tensor, "layer text donor d_vocab"]:
    """Its rotated-space intervention with the same rotation; donors' activations are given to it, found in one run."""
    import pyvene
    from pyvene.models.interventions import LowRankRotatedSpaceIntervention

    assert problem.model.plain is not None
    out, hf = problem.empty(), problem.model.plain.hf
    with torch.inference_mode(False):
        sources = [source.clone() for source in _sources(problem, hf)]
    for layer, source in enumerate(sources):
        asked = pyvene.RepresentationConfig(layer, "block_output", "pos", 1, low_rank_dimension=problem.basis.shape[1])
        kind: Any = LowRankRotatedSpaceIntervention
        intervenable = pyvene.IntervenableModel(pyvene.IntervenableConfig([asked], kind), hf)
        with torch.no_grad():
            rotated: Any = next(iter(intervenable.interventions.values()))
            rotated.rotate_layer.weight = problem.basis
            for text, nth in problem.parts():
                ids, last = problem.padded(text), torch.from_numpy(problem.last[text])
                mask = (torch.arange(ids.shape[1]) <= last[:, None]).long()
                places = [[int(problem.places[i][0])] for i in text]
                _, found = intervenable(
                    {"input_ids": ids, "attention_mask": mask},
                    unit_locations={"sources->base": (None, [places])},
                    source_representations=[source[problem.donors[text, nth]][:, None]],
                )
                out[layer, text, nth] = found.logits[torch.arange(len(ids)), last]
    return out


def transformer_lens(problem: Interchanges) -> Float[Tensor, "layer text donor d_vocab"]:
    """`collect_activations`, then `intervened_logits` with `SubspaceInterchange`."""
    from transformer_lens.tools.analysis import SubspaceInterchange, collect_activations, intervened_logits

    out, bridge = problem.empty(), problem.model.bridge.module

    def logits(ids: Tensor) -> Tensor:
        """Behind the last token, where only padding follows."""
        mask = (ids != PAD).long()
        return bridge(ids, attention_mask=mask)[torch.arange(len(ids)), mask.sum(1) - 1]

    change = SubspaceInterchange(problem.basis)
    for layer, hook in enumerate(problem.hooks):
        source = torch.empty(len(problem.tokens), problem.model.d_model)
        for batch in problem.batches:
            last = torch.from_numpy(problem.last[batch])
            source[batch] = collect_activations(bridge, hook, problem.padded(batch), logits, positions=last)
        for text, nth in problem.parts():
            places = torch.tensor([int(problem.places[i][0]) for i in text])
            out[layer, text, nth] = intervened_logits(
                bridge, hook, change, problem.padded(text), source[problem.donors[text, nth]], logits, positions=places
            )
    problem.model.bridge.clear()
    return out


def count_blocks(problem: Interchanges, solve: Solver) -> int:
    """Blocks times tokens (padding counts) that a solver runs through the library's forward."""
    assert problem.model.plain is not None
    count = 0

    def note(module: Any, args: tuple, kwargs: dict) -> None:
        nonlocal count
        states = args[0] if args else kwargs["x"]
        count += states.shape[0] * states.shape[1]

    handles = [
        block.mlp.register_forward_pre_hook(note, with_kwargs=True) for block in problem.model.plain.hf.model.layers
    ]
    try:
        solve(problem)
    finally:
        for handle in handles:
            handle.remove()
    return count


# The search for a subspace --------------------------------------------------------------------------------------------


def _das(model: Model, size: ReplaceSize) -> Row:
    """The search beside the same calls of the network, with gradients where it asked for them, and nothing else."""
    pairs, base, source, wanted, select = _learnable(model, size)
    mine, theirs = [], []
    for _ in range(size.rounds):
        calls: list[tuple[Tensor, Tensor, bool]] = []

        def run(edited: Tensor, rows: Tensor, calls: list = calls) -> Tensor:
            calls.append((edited.detach(), rows, edited.requires_grad))
            return pairs.run(edited, rows)

        started = time.process_time()
        fit_das(run, base, source, wanted, select=select, k=size.k, steps=size.steps, batch=BATCH, n_starts=STARTS)
        mine.append(time.process_time() - started)
        started = time.process_time()
        for edited, rows, slope in calls:
            with torch.inference_mode(False), torch.set_grad_enabled(slope):
                told = pairs.run(edited.requires_grad_(slope), rows)
                if slope:
                    torch.autograd.grad(told.sum(), edited)
        theirs.append(time.process_time() - started)
    ratio = statistics.median(there / here for here, there in zip(mine, theirs, strict=True))
    case = f"das: rank {size.k}, {size.pairs} pairs, {size.steps} steps, layer {model.n_layers // 2}"
    middle = statistics.median(mine), statistics.median(theirs)
    return Row(case, "its forward and backward passes alone", *middle, ratio, 0.0, 1 / ratio)


def _learnable(model: Model, size: ReplaceSize) -> tuple[Pairs, Tensor, Tensor, Tensor, Tensor]:
    """Pairs of random texts, edited in the middle and read at the end, whose answers are the first ten tokens."""
    generator = np.random.default_rng(1)
    tokens = [generator.integers(PAD + 1, size.d_vocab, n) for n in
              generator.integers(size.shortest, size.longest + 1, size.pairs)]  # fmt: skip
    places = [np.array([len(ids) // 2]) for ids in tokens]
    number = np.arange(size.pairs)
    task = Task(name="bench", tokens=tokens, positions=places, group=number, domain=np.array(["seen"] * size.pairs),
                behaviours=(), floor_inputs={}, answer=np.array([len(ids) - 1 for ids in tokens]))  # fmt: skip
    hook = HookPoint.within(model.n_layers // 2, "hook_resid_post").name
    site = model.read(tokens, [hook], places)[hook]
    law = np.eye(10)[generator.integers(0, 10, size.pairs)]
    rows = CaseRows(number[:, None], np.ones(size.pairs, dtype=np.int64), number)
    donors = Donors(generator.permutation(size.pairs)[:, None], rows, law, lambda name: site)

    def answers(logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        return logits[:, :10].softmax(-1)

    pairs = Pairs(model, task, rows, donors, hook, answers)
    source = torch.from_numpy(donors.index[:, 0])
    wanted = torch.from_numpy(law[donors.index[:, 0]]).float()
    return pairs, site, site[source], wanted, torch.arange(size.pairs // 4)


def _save(size: ReplaceSize, folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.d_vocab, hidden_size=size.d_model, num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads, num_key_value_heads=size.n_heads // 2,
        intermediate_size=8 * size.d_model // 3, max_position_embeddings=2 * size.longest, pad_token_id=PAD,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
