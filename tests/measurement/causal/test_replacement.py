"""Replacement: keeping all changes nothing, keeping nothing is running the donor, and use is told from readability."""

import dataclasses

import numpy as np
import pytest
import torch

import checkpoints
from probekit import Feature, capture, load_model, measure
from probekit.errors import BadInput
from probekit.fit.directions import random_directions
from probekit.measurement.causal.abstractions import Found, abstractions_at
from probekit.measurement.causal.replacement import Replacement
from probekit.measurement.cell import Measurement
from probekit.measurement.outcome import Kept, ReaderName
from probekit.metrics.causal.replace import kl_bits, mixture_kl
from probekit.model.interventions import Abstraction
from probekit.spec import ReadSpec, ReplaceSpec
from probekit.task import BehaviourSpec, Task

D, N_LAYERS, N_VOCAB = 8, 3, 24
HOOKS = tuple(f"blocks.{i}.hook_resid_post" for i in range(N_LAYERS))
KEPT = {"single:random", "single:matched", "single:mean"}


def make_task(n=240, lengths=(4, 5, 6), features=None, seed=0, n_groups=24):
    """Random tokens read at the last one; the floor is given nothing, so that it is the prior."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(4, N_VOCAB, generator.choice(lengths)) for _ in range(n)]
    return Task(
        name="random", tokens=tokens, positions=[np.array([len(t) - 1]) for t in tokens], group=np.arange(n) % n_groups,
        domain=np.full(n, "all"), behaviours=(BehaviourSpec("choice", "choice", tokens=(0, 1)),),
        features={} if features is None else features(tokens), floor_inputs={},
    )  # fmt: skip


class Bench:
    """A model and all that a replace cell needs of it."""

    def __init__(self, model, task, **spec):
        self.model, self.task = model, task
        self.activations = capture(model, task, HOOKS, store=None)
        self.seen = self.activations.observations
        self.measurement = Measurement(
            self.seen, ReadSpec(floors=("strong",), outer_folds=1, inner_folds=1), n_bootstrap=200
        )
        self.spec = ReplaceSpec(**({"rows": 48, "donors": 16} | spec))
        self.replacement = Replacement(model, task, self.activations, self.measurement, self.spec)
        self.setting = self.measurement.setting("choice", "all")
        self.cases = self.replacement._cases(self.setting)

    def values(self, hooks, *abstractions):
        """(level source k arm) -> record."""
        hook = hooks[0] if len(hooks) == 1 else ""
        records = self.replacement.cell("choice", "all", hooks, hook, abstractions).records
        return {record.arm: record for record in records}

    def donors(self, abstraction, hooks, arm):
        found = self.replacement._treatment("choice", abstraction, arm, self.cases, hooks)
        return found.donors.index

    def laws(self, abstraction, hooks, arm):
        """Laws of the edited network as the metric was handed them: [n, donor, k]."""
        done = self.replacement._treatment("choice", abstraction, arm, self.cases, hooks)
        return self.replacement._run("choice", self.setting, self.cases, hooks, [done])[0]

    @property
    def law(self):
        return self.seen.behaviours["choice"].law


def kept(k, hooks, bases):
    return Abstraction("directions", "random", k, dict.fromkeys(hooks, bases))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    hf = checkpoints.build("gpt2", N_VOCAB, n_layers=N_LAYERS, d_model=D, n_ctx=8)
    hf.transformer.ln_f.weight.data.mul_(60)  # a random model is hardly ever sure of anything
    folder = tmp_path_factory.mktemp("model") / "tiny"
    hf.save_pretrained(folder)
    return Bench(load_model(folder), make_task())


@pytest.mark.parametrize("hooks", [HOOKS[:1], HOOKS[1:2], HOOKS[2:], HOOKS])
def test_keeping_everything_changes_nothing_whatever_the_donors(bench, hooks):
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1))).Q
    found = bench.values(hooks, kept(D, hooks, rotation))
    erased = {"necessity:resample", "necessity:mean"} if len(hooks) == 1 else set()
    kept_arms = KEPT if len(hooks) == 1 else {"chain:random", "chain:matched"}
    assert {arm.removesuffix(":pair") for arm in found} == kept_arms | erased
    for record in found.values():
        # all of the site is kept, or all of it is erased
        assert abs(record.value) < 1e-4, record
        assert record.layer == (None if len(hooks) > 1 else HOOKS.index(hooks[0]))
    laws = bench.laws(kept(D, hooks, rotation), hooks, next(iter(found)))
    assert np.allclose(laws, bench.law[bench.cases.rows.last][:, None], atol=1e-4)


def test_keeping_nothing_at_the_end_is_the_donors_own_behaviour(bench):
    for hooks in (HOOKS[2:], HOOKS):  # in the chain, the last site overrides the others
        nothing = kept(0, hooks, torch.zeros(D, 0))
        arm = "single:random" if len(hooks) == 1 else "chain:random"
        donors = bench.donors(nothing, hooks, arm)
        truth = bench.law[bench.cases.pool.last[donors]]
        assert np.allclose(bench.laws(nothing, hooks, arm), truth, atol=1e-4)
        record = bench.values(hooks, nothing)[arm]
        expected = mixture_kl(bench.law[bench.cases.rows.last].astype(float), truth.astype(float)).sum()
        assert record.value == pytest.approx(expected / (bench.cases.floor - bench.cases.ceiling).sum(), abs=1e-3)
        # with nothing kept all of the behaviour is lost, up to what few rows and donors can say
        assert record.value == pytest.approx(1.0, abs=0.35)
        # an empty value matches nobody, and nothing is there to erase
        mean = {"single:mean"} if len(hooks) == 1 else set()
        assert set(bench.values(hooks, nothing)) == {arm, arm + ":pair"} | mean


@pytest.mark.parametrize(("layer", "k"), [(0, 0), (1, 0), (0, 3), (1, 3)])
def test_the_edited_network_is_the_librarys_with_a_hook_of_its_own(bench, layer, k):
    basis = random_directions(D, k, 5) if k else torch.zeros(D, 0)
    abstraction = kept(k, HOOKS[layer : layer + 1], basis)
    donors = bench.donors(abstraction, HOOKS[layer : layer + 1], "single:random")[:, :4]
    found = bench.laws(abstraction, HOOKS[layer : layer + 1], "single:random")
    from transformers import GPT2LMHeadModel

    judge = GPT2LMHeadModel.from_pretrained(bench.model.source).eval()
    block = judge.transformer.h[layer]
    acts = bench.activations.sites[HOOKS[layer]]
    for i in range(0, len(bench.cases.rows.last), 7):
        tokens = torch.from_numpy(bench.task.tokens[bench.cases.rows.last[i]])[None]
        for j in range(donors.shape[1]):
            donor = acts[int(bench.cases.pool.last[donors[i, j]])]

            def write(module, args, output, donor=donor):
                hidden = output[0] if isinstance(output, tuple) else output
                new = hidden.clone()
                inside = basis @ basis.T
                new[:, -1] = hidden[:, -1] @ inside + donor @ (torch.eye(D) - inside)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = block.register_forward_hook(write)
            with torch.inference_mode():
                truth = judge(tokens).logits[0, -1, :2].softmax(0).numpy()
            handle.remove()
            assert np.allclose(found[i, j], truth, atol=1e-4)


def test_texts_that_memory_has_no_room_for_together_are_halved(bench, monkeypatch):
    from probekit.errors import FitError
    from probekit.model.branching import Trunk

    basis = random_directions(D, 2, 0)
    abstraction, plain, seen = kept(2, HOOKS[1:2], basis), Trunk.branch, []
    expected = bench.laws(abstraction, HOOKS[1:2], "single:random")

    def branch(trunk, edits, n_branches=1):
        seen.append(len(trunk.texts))
        if len(trunk.texts) > room:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        yield from plain(trunk, edits, n_branches)

    monkeypatch.setattr(Trunk, "branch", branch)
    room = 10
    assert np.allclose(bench.laws(abstraction, HOOKS[1:2], "single:random"), expected, atol=1e-5)
    assert max(seen) > room >= min(seen)
    room = 0
    with pytest.raises(FitError, match=r"out of memory while one text of \d tokens was edited"):
        bench.laws(abstraction, HOOKS[1:2], "single:random")


def test_a_chain_edits_what_the_edited_network_computed(bench):
    """Keeping all at the later sites lets the loss at the first one through, unchanged."""
    hooks = HOOKS[:2]
    basis = random_directions(D, 2, 3)
    chain = Abstraction("directions", "random", 2, {hooks[0]: basis, hooks[1]: torch.eye(D)})
    alone = bench.laws(kept(2, hooks[:1], basis), hooks[:1], "single:random")
    assert np.allclose(bench.laws(chain, hooks, "chain:random"), alone, atol=1e-4)  # the same donors are drawn
    assert not np.allclose(alone, bench.law[bench.cases.rows.last][:, None], atol=1e-2)


@pytest.mark.parametrize("hooks", [HOOKS[1:2], HOOKS])
def test_matched_donors_are_nearest_in_the_subspace_and_of_other_groups(bench, hooks):
    bases = {hook: random_directions(D, 2, 7 + i) for i, hook in enumerate(hooks)}
    abstraction = Abstraction("directions", "random", 2, bases)
    arm = "chain:matched" if len(hooks) > 1 else "single:matched"
    donors = bench.donors(abstraction, hooks, arm)
    rows, pool = bench.cases.rows.last, bench.cases.pool.last
    readout = np.concatenate([(bench.activations.sites[h] @ bases[h]).numpy() for h in hooks], 1)
    scale = readout[pool].std(0)
    for i, row in enumerate(rows):
        distance = np.linalg.norm((readout[pool] - readout[row]) / scale, axis=1)
        allowed = np.flatnonzero(bench.seen.group[pool] != bench.seen.group[row])
        nearest = np.sort(distance[allowed])[: bench.spec.donors]
        assert np.allclose(np.sort(distance[donors[i]]), nearest, atol=1e-3)
        assert len(set(donors[i])) == bench.spec.donors
        assert (bench.seen.group[pool[donors[i]]] != bench.seen.group[row]).all()
    drawn = bench.donors(abstraction, hooks, arm.replace("matched", "random"))
    assert (bench.seen.group[pool[drawn]] != bench.seen.group[rows][:, None]).all()
    assert all(len(set(row)) == bench.spec.donors for row in drawn)


def test_rows_are_test_rows_and_donors_come_from_the_fit_side(bench):
    split = bench.setting.split
    assert set(bench.cases.rows.last) <= set(split.test) and set(bench.cases.pool.last) <= set(split.fit)
    assert len(set(bench.cases.rows.last)) == len(bench.cases.rows.last) == 48
    assert (np.diff(bench.task.row_position[bench.cases.rows.last]) >= 0).all()


def test_labels_and_too_few_donors_are_refused(bench):
    with pytest.raises(BadInput, match="is a label of the data"):
        bench.replacement.cell("label", "all", HOOKS[:1], HOOKS[0], [])
    with pytest.raises(BadInput, match="to draw 500 donors from"):
        Bench(bench.model, bench.task, donors=500)


def test_abstractions_of_a_spec(bench):
    one, two = (np.eye(D, k, dtype=np.float32) for k in (1, 2))
    left = {("directions", "behaviour", 1): one, ("neurons", "beam", 2): two, ("direction", "lda", 1): one}
    of_label = {("directions", "behaviour", 1): one, ("direction", "lda", 1): one, ("directions", "pca", 1): one}
    kept_of = {name: dict.fromkeys(HOOKS, Kept({ReaderName(*n): directions for n, directions in some.items()}))
               for name, some in (("answer", left), ("truth", of_label))}  # fmt: skip
    spec = ReplaceSpec(levels=("directions", "neurons"), ks=(1, 2, 99))
    frames = {hook: torch.eye(D) for hook in HOOKS}
    three = dict.fromkeys(HOOKS, np.eye(D, 3, dtype=np.float32))
    given = {"mine": dict.fromkeys(HOOKS, torch.eye(D, 3)), "elsewhere": {HOOKS[0]: torch.eye(D, 1)}}
    found = Found(kept_of, frames, {"board": three}, given)
    made = list(abstractions_at(HOOKS, "answer", found, spec, 0))
    assert [(a.level, a.source, a.k, a.control, a.label) for a in made] == [
        ("directions", "random", 0, "random_directions", ""), ("directions", "behaviour", 1, "", "answer"),
        ("neurons", "beam", 2, "", "answer"), ("directions", "label:truth", 1, "", "truth"),
        ("directions", "label:board", 3, "", "board"), ("directions", "given:mine", 3, "", ""),
        ("directions", "pca", 1, "", ""), ("directions", "pca", 2, "", ""),
        *(("directions", "random", k, "random_directions", "") for k in (1, 2, 3)),
    ]  # fmt: skip
    single = list(abstractions_at(HOOKS, "answer", found, ReplaceSpec(levels=("direction",)), 0))
    assert ("direction", "label:truth:lda") in {(a.level, a.source) for a in single}
    for abstraction in made:
        assert set(abstraction.bases) == set(HOOKS)
        for basis in abstraction.bases.values():
            assert basis.shape == (D, abstraction.k)
            assert torch.allclose(basis.T @ basis, torch.eye(abstraction.k), atol=1e-5)
    draws = [made[-1].bases[hook] for hook in HOOKS]
    assert not torch.allclose(draws[0], draws[1])  # each site has directions of its own


# A network whose use is known ----------------------------------------------------------------------------------------


def planted_signs(tokens):
    """The sign that each text's last token carries."""
    return np.array([1 if t[-1] % 2 else 0 for t in tokens])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Attention and MLPs write nothing: the residual at a token is its embedding, s (used + inert) + noise.

    The unembedding looks along `used` alone, so the behaviour is s, which `inert` tells just as well (plant P5).
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(D, 1)
    # orthogonal to the vector of ones, which the final norm removes
    frame = torch.linalg.qr(torch.cat([ones, torch.randn(D, D - 1, generator=generator)], 1)).Q[:, 1:]
    used, inert, rest = frame[:, 0], frame[:, 1], frame[:, 2:]
    config = GPT2Config(vocab_size=N_VOCAB, n_embd=D, n_layer=N_LAYERS, n_head=2, n_positions=8, bos_token_id=1,
                        eos_token_id=2, tie_word_embeddings=False)  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    sign = torch.arange(N_VOCAB) % 2 * 2.0 - 1
    with torch.no_grad():
        for block in hf.transformer.h:
            for part in (block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
                part.bias.zero_()
        hf.transformer.wpe.weight.zero_()
        noise = torch.nn.functional.normalize(torch.randn(N_VOCAB, D - 2 - 1, generator=generator), dim=1)
        hf.transformer.wte.weight.copy_(3 * sign[:, None] * (used + inert) + 2 * noise @ rest.T)
        hf.lm_head.weight.zero_()
        hf.lm_head.weight[0], hf.lm_head.weight[1] = 2 * used, -2 * used
    folder = tmp_path_factory.mktemp("planted") / "planted"
    hf.save_pretrained(folder)

    def features(tokens):
        return {"sign": Feature("sign", planted_signs(tokens)[:, None], ("minus", "plus"), ("sign",))}

    bench = Bench(load_model(folder), make_task(n=480, features=features, n_groups=48), rows=96)
    return bench, used[:, None], inert[:, None], rest[:, :1]


def test_the_planted_network_is_what_it_should_be(planted):
    bench, used, inert, _ = planted
    sign = 2 * planted_signs(bench.task.tokens) - 1
    for hook in HOOKS:
        x = bench.activations.sites[hook]
        for direction in (used, inert):
            assert np.allclose((x @ direction)[:, 0].numpy(), 3 * sign, atol=1e-4)
    assert (abs(bench.law[:, 0] - (sign > 0)) < 0.05).all()


@pytest.mark.parametrize("hooks", [HOOKS[:1], HOOKS])
def test_replace_tells_the_used_direction_from_the_inert_one(planted, hooks):
    bench, used, inert, other = planted
    where = "chain" if len(hooks) > 1 else "single"
    random, matched = f"{where}:random", f"{where}:matched"
    by = {name: bench.values(hooks, kept(1, hooks, basis)) for name, basis in
          (("used", used), ("inert", inert), ("other", other))}  # fmt: skip
    nothing = bench.values(hooks, kept(0, hooks, torch.zeros(D, 0)))
    assert by["used"][random].value == pytest.approx(0, abs=0.02)
    assert by["used"][matched].value == pytest.approx(0, abs=0.02)
    assert nothing[random].value == pytest.approx(1, abs=0.15)
    assert by["inert"][random].value == pytest.approx(1, abs=0.15)
    assert by["other"][random].value == pytest.approx(1, abs=0.15)
    # donors that agree on the inert direction agree on the used one: matching tests the claim of equivalence only
    assert by["inert"][matched].value == pytest.approx(0, abs=0.02)
    # per donor, half are wrong by many bits: the mixture hides how badly
    assert by["inert"][random + ":pair"].value > 1.5


def test_the_inert_direction_is_read_perfectly(planted):
    bench, used, inert, _ = planted
    x = bench.activations.sites[HOOKS[0]]
    for direction in (used, inert):
        found = measure((x @ direction).numpy(), behaviour=bench.law, groups=bench.seen.group, levels=("linear",),
                        controls=(), decomposition=False, floors=("strong",), n_bootstrap=200)  # fmt: skip
        assert found["value"].iloc[0] == pytest.approx(0, abs=0.03)


def test_a_hypothesis_draws_donors_that_agree_on_its_features(planted):
    bench, *_ = planted
    hooks = HOOKS[:1]
    stated = Abstraction("hypothesis:sign", "true", 0, {hooks[0]: torch.zeros(D, 0)}, features=("sign",))
    found = bench.values(hooks, stated)
    assert set(found) == {"single:matched", "single:matched:pair"}  # no part of an activation is named
    assert found["single:matched"].value == pytest.approx(0, abs=0.02)
    donors = bench.donors(stated, hooks, "single:matched")
    sign = planted_signs(bench.task.tokens)
    assert (sign[bench.cases.pool.last[donors]] == sign[bench.cases.rows.last][:, None]).all()


def test_per_donor_values_are_the_mean_over_donors_of_the_loss(planted):
    bench, _, inert, _ = planted
    hooks = HOOKS[1:2]
    abstraction = kept(1, hooks, inert)
    laws = bench.laws(abstraction, hooks, "single:random")
    truth = bench.law[bench.cases.rows.last].astype(float)
    expected = kl_bits(truth[:, None], laws).mean(1).sum() / (bench.cases.floor - bench.cases.ceiling).sum()
    record = bench.values(hooks, abstraction)["single:random:pair"]
    assert record.value == pytest.approx(expected, rel=1e-6)
    assert record.floor_bits == pytest.approx(bench.cases.floor.mean())
    assert record.ceiling_bits == pytest.approx(bench.cases.ceiling.mean())
    assert record.n == 96 and record.metric == "replace"


# What is erased, and where it is read ------------------------------------------------------------------------------


def test_erasing_tells_the_used_direction_from_the_inert_one(planted):
    """Necessity: the readable direction can go, the used one cannot; a random one is hardly missed."""
    bench, used, inert, other = planted
    hooks = HOOKS[:1]
    for basis, needed in ((used, 0.0), (inert, 1.0), (other, 1.0)):
        found = bench.values(hooks, kept(1, hooks, basis))
        assert found["necessity:resample"].value == pytest.approx(needed, abs=0.03)
        # the norm blows up what little of the sign is left in the mean of the whole site, and not beside the rest
        assert found["necessity:mean"].value == pytest.approx(needed, abs=0.03 if needed else 0.25)
    both = bench.values(hooks, kept(2, hooks, torch.cat([used, inert], 1)))
    assert both["necessity:resample"].value == pytest.approx(0, abs=0.03)


def test_leace_erases_what_the_label_says_wherever_it_is_written(planted):
    bench, _, inert, _ = planted
    hooks = HOOKS[:1]
    for label, needed in (("sign", 0.0), ("choice", 0.0), ("", None)):
        a = Abstraction("directions", "label:sign", 1, {hooks[0]: inert}, label=label)
        found = bench.values(hooks, a)
        if needed is None:
            assert "necessity:leace" not in found  # nobody said of what
        else:
            assert found["necessity:leace"].value == pytest.approx(needed, abs=0.25)
            # the direction itself can go: what it reads is written elsewhere too
            assert found["necessity:resample"].value == pytest.approx(1, abs=0.03)


def test_the_answer_follows_the_used_direction_and_not_the_inert_one(planted):
    bench, used, inert, other = planted
    hooks, random = HOOKS[:1], Abstraction("directions", "random", 1, {HOOKS[0]: planted[3]}, "random_directions")
    made = {name: Abstraction("directions", name, 1, {hooks[0]: basis}) for name, basis in
            (("behaviour", used), ("pca", inert), ("lda", other))}  # fmt: skip
    outcome = bench.replacement.cell("choice", "all", hooks, hooks[0], [*made.values(), random], ["iia"])
    found = {(r.source, r.arm): r for r in outcome.records}
    assert {arm for _, arm in found} == {"iia", "iia:odds"} and not any(s == "random" for s, _ in found)
    for arm in ("iia", "iia:odds"):
        for source, leak in (("behaviour", 0.0), ("pca", 1.0), ("lda", 1.0)):
            assert found[source, arm].value == pytest.approx(leak, abs=0.03), (source, arm)
    assert "IIA 1.000, of all of the site 1.000" in found["behaviour", "iia"].note
    # pairs whose donor answers alike say nothing, and are not counted
    assert found["behaviour", "iia"].n < 96 * 16


def test_a_stated_rule_predicts_what_the_exchange_of_its_variable_brings(planted):
    """The counterfactual answer is the rule's, not the donor's: a rule that has it the wrong way round fails."""
    bench, used, _, other = planted
    hooks, random = HOOKS[:1], Abstraction("directions", "random", 1, {HOOKS[0]: other}, "random_directions")

    def as_it_is(features):
        return np.eye(2)[1 - features["sign"][:, 0]]  # plus is the first answer

    def found(rule):
        a = Abstraction("hypothesis:signs", "label:sign", 1, {hooks[0]: used}, label="sign", rule=rule,
                        variables=("sign",))  # fmt: skip
        records = bench.replacement.cell(
            "choice", "all", hooks, hooks[0], [a, random], ["iia", "single:random"]
        ).records
        return {record.arm: record for record in records if record.level == "hypothesis:signs"}

    right = found(as_it_is)
    assert set(right) == {"iia", "iia:odds"}  # nothing is kept of one variable
    assert right["iia"].value == pytest.approx(0, abs=0.03) and "IIA 1.000" in right["iia"].note
    wrong = found(lambda features: 1 - as_it_is(features))
    assert wrong["iia"].na_reason or wrong["iia"].value > 0.9
    silent = found(lambda features: 0 * as_it_is(features))  # a rule that says nothing has no pairs
    assert set(silent) == {"iia", "iia:odds"}
    assert {(r.value, r.na_reason) for r in silent.values()} == {(None, "small_denominator")}
    assert silent["iia"].note.startswith("0 of ") and "interchange needs two" in silent["iia"].note


def test_a_site_that_nothing_depends_on_has_no_necessity(planted):
    """An edit of the first token changes nothing where attention writes nothing: NA, neither needed nor not."""
    bench, used, *_ = planted
    task = dataclasses.replace(
        bench.task, positions=[np.array([0])] * len(bench.task.tokens), answer=np.array([len(t) - 1 for t in
        bench.task.tokens]), features={},
    )  # fmt: skip
    first = Bench(bench.model, task, rows=48)
    assert np.array_equal(first.law, bench.law)  # what is read is the answer at the end
    found = first.values(HOOKS[:1], kept(1, HOOKS[:1], used))
    assert found["necessity:resample"].na_reason == "small_denominator"
    assert abs(found["single:random"].value) < 1e-6


@pytest.mark.parametrize("places", [(1,), (0, 2)])
def test_edited_here_and_read_there_is_the_librarys_with_hooks(bench, places):
    """Tokens in the middle are edited together, the answer is read at the end, texts differ in length."""
    from transformers import GPT2LMHeadModel

    last = np.array([len(t) - 1 for t in bench.task.tokens])
    task = dataclasses.replace(bench.task, positions=[np.array(places)] * len(last), answer=last)
    there = Bench(bench.model, task)
    hook, basis = HOOKS[:1], random_directions(D, 3, 5)
    abstraction = kept(3, hook, basis)
    donors = there.donors(abstraction, hook, "single:random")
    found = there.laws(abstraction, hook, "single:random")
    judge = GPT2LMHeadModel.from_pretrained(bench.model.source).eval()
    acts = there.activations.sites[hook[0]].reshape(-1, len(places), D)  # a row per example and place
    inside = basis @ basis.T
    for i in range(0, len(there.cases.rows), 11):
        example = task.row_example[there.cases.rows.last[i]]
        tokens = torch.from_numpy(task.tokens[example])[None]
        donor = acts[task.row_example[there.cases.pool.last[donors[i, 1]]]]

        def write(module, args, output, donor=donor):
            new = (output[0] if isinstance(output, tuple) else output).clone()
            new[0, list(places)] = new[0, list(places)] @ inside + donor @ (torch.eye(D) - inside)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = judge.transformer.h[0].register_forward_hook(write)
        with torch.inference_mode():
            truth = judge(tokens).logits[0, -1, :2].softmax(0).numpy()
        handle.remove()
        assert np.allclose(found[i, 1], truth, atol=1e-4)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1))).Q
    for arm, record in there.values(hook, kept(D, hook, rotation)).items():
        assert record.na_reason == "small_denominator" or abs(record.value) < 1e-4, arm


def test_an_edit_behind_the_answer_is_refused(bench):
    task = dataclasses.replace(bench.task, answer=np.zeros(len(bench.task.tokens), dtype=np.int64))
    with pytest.raises(BadInput, match="nothing behind an answer can change it"):
        Bench(bench.model, task)
