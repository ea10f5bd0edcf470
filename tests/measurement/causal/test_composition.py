"""Composition: plants whose parts are known, and an edited model of the library's own with hooks of the test's own."""

import numpy as np
import pytest
import torch

import checkpoints
from probekit import capture, load_model
from probekit.errors import BadInput
from probekit.measurement.causal import composition
from probekit.measurement.causal.composition import ARMS, Composition, Part, Parts
from probekit.measurement.cell import Measurement
from probekit.metrics.causal.compose import log_odds
from probekit.spec import ComposeSpec, ReadSpec
from probekit.task import BehaviourSpec, Task
from probekit.testbeds.ground_truth import CASES
from probekit.testbeds.ground_truth.circuits import SITE

D, N_LAYERS, N_VOCAB = 8, 3, 24
HOOKS = tuple(f"blocks.{i}.hook_resid_post" for i in range(N_LAYERS))


def composed(model, task, hooks, **spec):
    activations = capture(model, task, hooks, store=None)
    read = ReadSpec(floors=("strong",), outer_folds=1, inner_folds=1)
    study = Measurement(activations.observations, read, n_bootstrap=300)
    return Composition(model, task, activations, study, ComposeSpec(k=2, **spec))


def columns(basis, names=None, held=None):
    """Each column of a basis [d, m] as a part at SITE."""
    parts = [Part(f"part {i}", SITE, torch.from_numpy(column[:, None]).float()) for i, column in enumerate(basis.T)]
    return Parts("features", tuple(parts), held)


# Plants --------------------------------------------------------------------------------------------------------------


def plant(name, keep, held=None, **spec):
    network = CASES[name].network(1)
    task = network.task(1500, seed=2)
    cells = composed(network.model(), task, [SITE], **({"rows": 200, "donors": 12} | spec))
    found = cells.cell("answer", "seen", columns(network.keeps[keep][SITE], held=held), SITE)
    return {record.arm: record for record in found.records}, found


def holds(record, truth, least=0.02):
    assert record.value is not None, record.note
    assert record.low - least <= truth <= record.high + least, record
    assert abs(record.value - truth) < 0.05 * max(1, truth) + (record.high - record.low)


@pytest.mark.parametrize(
    ("name", "keep", "truths"),
    [
        ("P2", "both", {"additive_value": 1, "pair_value": 0, "additive_ablation": 1 / 3, "pair_ablation": 0,
                        "leave_one_out": 2, "alone": 1, "dependence": 0, "cross_talk": 0}),
        ("P3", "all", {"additive_value": 1, "pair_value": 1, "additive_ablation": 4 / 7, "pair_ablation": 1 / 7,
                       "pair_ablation:loss": 1 / 7, "leave_one_out": 3, "leave_one_out:mean": 3, "alone": 1}),
        ("P17", "s1 and one spelling", {"additive_value": 0, "pair_value": 0, "pair_ablation": 0}),
    ],
)  # fmt: skip
def test_parts_of_plants(name, keep, truths):
    found, outcome = plant(name, keep)
    for arm, truth in truths.items():
        holds(found[arm], truth)
        assert found[arm].metric == "compose" and found[arm].layer == 0 and "part 0, part 1" in found[arm].note
    assert len(outcome.records) == len({record.id for record in outcome.records})
    # All of the behaviour passes through the MLP behind the parts: there is no direct effect to be repaired.
    assert found["self_repair:mean"].na_reason == "small_denominator"
    assert "self_repair:mean:norm_held" not in found  # there is no norm


def test_a_backup_repairs_what_is_silenced_and_not_what_is_resampled():
    """The six neurons of the bump are held: without that, nothing is left of the direct effect."""
    behind = {"blocks.1.mlp.hook_post": torch.eye(8)[:, 2:]}
    found, _ = plant("P8", "both", behind)
    holds(found["self_repair:mean"], 1)
    holds(found["self_repair:resample"], 0)
    holds(found["leave_one_out:mean"], 0)  # a backup: neither seems to be needed
    holds(found["leave_one_out"], 1)
    holds(found["dependence"], 1)
    assert 0 <= found["self_repair:mean"].low <= found["self_repair:mean"].high <= 1
    assert "part 0 TE" in found["self_repair:mean"].note
    without, _ = plant("P8", "both")
    assert without["self_repair:mean"].na_reason == "small_denominator"


def test_many_parts_are_sampled():
    network = CASES["P2"].network(1)
    d = len(network.embed[0])
    wide = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0))).Q
    parts = Parts("random", tuple(Part(f"{i}", SITE, wide[:, i : i + 1]) for i in range(2)) * 7)
    cells = composed(network.model(), network.task(400, seed=2), [SITE], rows=16, donors=4, sets=300)
    found = {r.arm: r for r in cells.cell("answer", "seen", parts, SITE).records}
    assert found["pair_ablation"].k == 14
    with pytest.raises(BadInput, match="takes 283 sets of parts; found 100"):
        composed(network.model(), network.task(400), [SITE], sets=100).cell("answer", "seen", parts, SITE)


# A model of the library's --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    hf = checkpoints.build("gpt2", N_VOCAB, n_layers=N_LAYERS, d_model=D, n_ctx=8)
    hf.transformer.ln_f.weight.data.mul_(60)  # a random model is hardly ever sure of anything
    folder = tmp_path_factory.mktemp("model") / "tiny"
    hf.save_pretrained(folder)
    generator = np.random.default_rng(0)
    tokens = [generator.integers(4, N_VOCAB, generator.choice((4, 5, 6))) for _ in range(240)]
    task = Task(
        name="random", tokens=tokens, positions=[np.array([len(t) - 1]) for t in tokens], group=np.arange(240) % 24,
        domain=np.full(240, "all"), behaviours=(BehaviourSpec("choice", "choice", tokens=(0, 1)),), floor_inputs={},
    )  # fmt: skip
    return composed(load_model(folder), task, HOOKS, rows=20, donors=3)


def runner(cells):
    return cells._run(cells.study.setting("choice", "all"))


class Judge:
    """Hugging Face's own GPT-2, whose last token is written by the test."""

    def __init__(self, source):
        from transformers import GPT2LMHeadModel

        self.model = GPT2LMHeadModel.from_pretrained(source).eval()

    def law(self, tokens, writes):
        """Law of the two answers; writes: layer -> function of the last token's stream after that block."""
        handles = []
        for layer, write in writes.items():

            def hook(module, args, output, write=write):
                hidden = output[0] if isinstance(output, tuple) else output
                new = hidden.clone()
                new[:, -1] = write(hidden[:, -1])
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handles.append(self.model.transformer.h[layer].register_forward_hook(hook))
        with torch.inference_mode():
            logits = self.model(torch.from_numpy(tokens)[None]).logits[0, -1, :2]
        for handle in handles:
            handle.remove()
        return logits.softmax(0).double().numpy()


def oblique():
    """Three parts, one of two directions, that are not orthogonal to each other."""
    w = torch.linalg.qr(torch.randn(D, 4, generator=torch.Generator().manual_seed(3))).Q
    tilted = torch.nn.functional.normalize(w[:, 0] + w[:, 1], dim=0)[:, None]
    return Parts("features", (Part("a", HOOKS[0], w[:, :1]), Part("b", HOOKS[0], tilted),
                              Part("c", HOOKS[1], w[:, 2:4])))  # fmt: skip


def test_sets_of_parts_are_what_hooks_of_ones_own_make_of_them(bench):
    run, parts, judge = runner(bench), oblique(), Judge(bench.model.source)
    kept = np.array([[True, True, True], [False, False, True], [False, True, False], [False, False, False]])
    odds, _ = composition._over_sets(run, parts, kept, "resample")
    for i in range(0, 20, 4):
        tokens = bench.task.tokens[run.cases.rows.last[i]]
        for j, donor in enumerate(run.cases.pool.last[run.donors.index[i]]):
            for s, row in enumerate(kept):
                writes = {}
                for layer in (0, 1):
                    out = [p.basis for p, on in zip(parts.parts, row, strict=True) if not on and p.hook == HOOKS[layer]]
                    if out:
                        inside = torch.cat(out, 1) @ torch.linalg.pinv(torch.cat(out, 1))
                        given = bench.site(HOOKS[layer])[donor]
                        writes[layer] = lambda h, inside=inside, given=given: h + (given - h) @ inside
                truth = log_odds(run.cases.law[[i]], judge.law(tokens, writes)[None, None])
                assert odds[i, j, s] == pytest.approx(truth[0, 0], abs=2e-3)
    assert np.ptp(odds[..., 0], axis=1).max() < 1e-3  # nothing is replaced
    assert np.ptp(odds[..., 3], axis=1).max() > 0.1


def test_direct_effects_are_what_reaches_the_unembedding_by_itself(bench):
    """The stream at the end moves by what the part moved by; the norm is computed anew, or keeps its scale."""
    run, parts, judge = runner(bench), oblique(), Judge(bench.model.source)
    part, end = parts.parts[1], judge.model.transformer.ln_f
    held = bench._held(part, parts)
    assert list(held) == [f"blocks.{i}.hook_{what}" for i in (1, 2) for what in ("attn_out", "mlp_out")]
    free, kept = (run.odds(part, "mean", held | extra)[:, 0] for extra in ({}, {composition.NORM: None}))
    total = run.odds(part, "mean", {})[:, 0]
    mean = bench.site(part.hook)[torch.from_numpy(run.cases.pool.last)].mean(0)
    for i, row in enumerate(run.cases.rows.last):
        h, last = bench.site(part.hook)[row], bench.site(HOOKS[2])[row]
        delta = (mean - h) @ part.basis @ part.basis.T
        with torch.inference_mode():
            moved = last + delta
            scale = (last.var(unbiased=False) + end.eps).sqrt()
            frozen = (moved - moved.mean()) / scale * end.weight + end.bias
            for found, normed in ((free, end(moved)), (kept, frozen)):
                law = judge.model.lm_head(normed)[:2].softmax(0).double().numpy()
                assert found[i] == pytest.approx(log_odds(run.cases.law[[i]], law[None, None])[0, 0], abs=2e-3)
        law = judge.law(bench.task.tokens[row], {0: lambda x, delta=delta: x + delta})
        assert total[i] == pytest.approx(log_odds(run.cases.law[[i]], law[None, None])[0, 0], abs=2e-3)
    assert abs(free - kept).max() > 1e-2 and abs(free - total).max() > 1e-2


def test_cross_talk_at_the_site_and_behind_it(bench):
    run, parts = runner(bench), oblique()
    moved, follows = composition._moved(run, parts)
    assert follows.tolist() == [[True, True, True], [True, True, True], [False, False, True]]
    a, b = (part.basis for part in parts.parts[:2])
    assert moved[:, 0, 1] / moved[:, 0, 0] == pytest.approx(np.full(20, float(abs(a.T @ b))), abs=1e-5)
    judge, seen = Judge(bench.model.source), []
    handle = judge.model.transformer.h[1].register_forward_hook(
        lambda module, args, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1])
    )
    for i in (0, 7):
        change = []
        for donor in run.cases.pool.last[run.donors.index[i]]:
            given = bench.site(HOOKS[0])[donor]
            judge.law(bench.task.tokens[run.cases.rows.last[i]], {0: lambda h, given=given: h + (given - h) @ a @ a.T})
            clean = bench.site(HOOKS[1])[run.cases.rows.last[i]]
            change.append(float(((seen[-1] - clean) @ parts.parts[2].basis).norm()))
        assert moved[i, 0, 2] == pytest.approx(np.mean(change), abs=1e-4)
    handle.remove()


def test_every_arm_has_a_record_with_its_norm(bench):
    records = bench.cell("choice", "all", oblique()).records
    assert {record.arm for record in records} >= set(ARMS) | {"self_repair:mean:norm_held", "alone:loss"}
    assert {record.layer for record in records} == {None} and {record.k for record in records} == {3}
    valued = [record for record in records if record.value is not None]
    assert valued and all(record.note and record.n in (20, 240) for record in records)
    assert all((record.value is None) == bool(record.na_reason) for record in records)


def test_a_mistake_is_one_sentence(bench):
    with pytest.raises(BadInput, match="'sort' is a label of the data"):
        bench.cell("sort", "all", oblique())
    with pytest.raises(BadInput, match="at least two; found 1"):
        bench.cell("choice", "all", Parts("features", oblique().parts[:1]))
    for table in ({}, {"parts": ["a"]}, {"parts": ["a", "a"]}, {"parts": ["a", "b"], "k": 2}):
        with pytest.raises(BadInput, match="compose takes `parts`, two or more different features, or `k`"):
            ComposeSpec.model_validate(table)


def test_nothing_is_run_where_nothing_can_be_judged(bench, monkeypatch):
    monkeypatch.setattr(bench.study, "unmeasurable", lambda behaviour, domain: "too little")
    records = bench.cell("choice", "all", oblique()).records
    assert [record.arm for record in records] == list(ARMS)
    assert {record.na_reason for record in records} == {"too_few_rows"}
