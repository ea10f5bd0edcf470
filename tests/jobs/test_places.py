"""Several rules of positions: each is measured apart, as if it had been asked alone, on the same groups."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
import probekit as pk
from checkpoints import sharpen
from probekit.activations.capture import capture, capture_without
from probekit.errors import BadInput
from probekit.inputs.filetask import read_file_task
from probekit.inputs.text import Encoder
from probekit.jobs import cells as cells_of
from probekit.jobs import job as job_of
from probekit.jobs import plan as planning
from probekit.jobs import work
from probekit.measurement.causal.replacement import Replacement
from probekit.measurement.cell import Measurement, measurements_of
from probekit.model.interventions import Abstraction
from probekit.records import digest
from probekit.results import figures, selection, tables
from probekit.results.claims import selected_hook
from probekit.spec import JobSpec, ReadSpec, ReplaceSpec, TaskSpec
from probekit.storage import cache
from probekit.task import Behaviour, BehaviourSpec, Observations
from tag_plant import BOS, HOOK, READ, plant_task, planted_model


@pytest.fixture(scope="module")
def planted():
    return planted_model()


FIGURES = ("value", "low", "high", "bits", "floor_bits", "ceiling_bits", "p99_bits", "worst_group", "n", "groups")


def two_places(task, first=(0,), second=(4,)):
    """The task read at the tokens `first` and `second` of each example, as rules of these names."""
    n = len(task.tokens)
    at = np.array(sorted({*first, *second}))
    named = {name: np.tile(np.isin(at, tokens), n) for name, tokens in (("first", first), ("last", second))}
    return repeated(task, at, rules=named)


def repeated(task, at, **changes):
    """The task read at the tokens `at` of each example; labels hold at all of them."""
    labels = {name: dataclasses.replace(b, law=np.repeat(b.law, len(at), 0)) for name, b in task.labels.items()}
    return dataclasses.replace(task, positions=[np.array(at)] * len(task.tokens), labels=labels, **changes)


def blind(task):
    """A floor that sees nothing of the text, and groups of two examples."""
    inputs = {"position": np.ones((len(task.row_position), 1), np.float32)}
    return dataclasses.replace(task, floor_inputs=inputs, group=np.arange(len(task.tokens)) // 2)


def coordinates(records, *more):
    """The records by all that tells them apart but the position."""
    names = ["metric", "arm", "hook", "level", "source", "k", "floor", "control", "fit_domain", "test_domain", *more]
    return records.assign(k=records["k"].fillna(-1)).set_index(names).sort_index()


def test_each_rule_is_measured_as_if_it_were_asked_alone(planted):
    task = blind(two_places(plant_task("tag", 1_200)))
    asked = READ | {"controls": ("permuted", "row_split", "random_twin"), "n_permutations": 19}
    twin = planted.random_twin(0)

    def measured(task):
        return pk.measure(capture(planted, task, HOOK, store=None), twin=capture(twin, task, HOOK, store=None), **asked)

    found = measured(task)
    assert set(found["position"]) == {"first", "last"} and found["id"].is_unique
    for name, at in (("first", 0), ("last", 4)):
        alone = measured(blind(repeated(plant_task("tag", 1_200), [at])))
        assert set(alone["position"]) == {"all"}
        ours, theirs = coordinates(found[found["position"] == name]), coordinates(alone)
        assert ours.index.equals(theirs.index)
        for column in (*FIGURES, "p_max"):
            assert np.allclose(ours[column].astype(float), theirs[column].astype(float), atol=2e-3, equal_nan=True)
    # Attention is causal: the first token knows nothing of the tag, the last one all of it.
    linear = found.query("metric == 'read' and level == 'linear' and control == '' and floor == 'strong'")
    leak = linear.set_index("position")["value"]
    assert leak["first"] > 0.95 and leak["last"] < 0.1


def test_the_same_groups_are_tested_at_every_rule():
    observations = capture_like(two_places(plant_task("tag", 400), first=(0, 2)), n_groups=40)
    read = ReadSpec(outer_folds=3, inner_folds=2, floors=("strong",))
    for seed in range(3):
        made = measurements_of(observations, {}, read, None, (), (0, seed, 0), 200)
        for fold in range(3):
            settings = {name: found.setting("b", "all", fold) for name, found in made.items()}
            for side in ("fit", "select", "calibrate", "test"):
                groups = {name: set(s.group[getattr(s.split, side)].tolist()) for name, s in settings.items()}
                assert groups["first"] == groups["last"]
        weights = [found.pool("b", "all").clusters.weights for found in made.values()]
        assert np.array_equal(*weights), "intervals are of the same draws, so that differences can be paired"
        n_rows = {name: len(found.observations) for name, found in made.items()}
        assert n_rows == {"first": 800, "last": 400}


def capture_like(task, n_groups):
    """Observations of a task without running a model."""
    return Observations(
        task.row_example, task.row_position, task.row_example % n_groups, task.domain[task.row_example],
        {"b": task.labels["b"]}, rules=task.rules,
    )  # fmt: skip


def test_a_view_holds_the_rows_of_its_rules_and_nothing_else():
    rng = np.random.default_rng(0)
    base = plant_task("tag", 50)
    spec = BehaviourSpec("which", "choice", row_tokens=rng.integers(0, 9, (150, 2)))
    law = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 150)]
    feature = pk.Feature("f", rng.integers(0, 2, (150, 1)), ("a", "b"), ("f",))
    inputs, labels = {"x": rng.random((150, 2), np.float32)}, {"b": Behaviour("b", law, ("0", "1"))}
    task = two_places(base, first=(0, 3), second=(4, 0))
    task = dataclasses.replace(task, behaviours=(spec,), labels=labels, features={"f": feature}, floor_inputs=inputs)
    for name, tokens in (("first", [0, 3]), ("last", [0, 4])):
        rows = np.flatnonzero(np.isin(np.tile([0, 3, 4], 50), tokens))
        view = task.at(name)
        assert [p.tolist() for p in view.positions] == [tokens] * 50
        assert np.array_equal(view.behaviours[0].row_tokens, spec.row_tokens[rows])
        assert np.array_equal(view.labels["b"].law, law[rows])
        assert np.array_equal(view.features["f"].labels, feature.labels[rows])
        assert np.array_equal(view.floor_inputs["x"], task.floor_inputs["x"][rows])
        assert list(view.rules) == [name] and view.rules[name].all()
    both = task.at("first", "last")
    assert [p.tolist() for p in both.positions] == [p.tolist() for p in task.positions]
    assert {name: rows.tolist() for name, rows in both.rules.items()} == {
        name: rows.tolist() for name, rows in task.rules.items()
    }
    with pytest.raises(BadInput, match="nothing is read at 'middle': the task is read at first, last"):
        task.at("middle")
    assert [p.tolist() for p in base.at("all").positions] == [[4]] * 50


def test_captured_views_are_rows_of_one_pass(planted, monkeypatch):
    task = blind(two_places(plant_task("tag", 200)))
    choice = BehaviourSpec("own", "choice", row_tokens=np.tile([[0, 1], [1, 0]], (200, 1)))
    task = dataclasses.replace(task, behaviours=(*task.behaviours, choice))
    capture(planted, task.at("last"), HOOK, store=None)  # what a model is asked once, whichever test comes first
    ran, forward = [], planted.forward
    monkeypatch.setattr(planted, "forward", lambda *args, **more: ran.append(1) or forward(*args, **more))
    whole = capture(planted, task, HOOK, store=None)
    n_both = len(ran)
    capture(planted, task.at("last"), HOOK, store=None)
    assert n_both == len(ran) - n_both, "two rules take no more forwards than one"
    for i, name in enumerate(("first", "last")):
        view = whole.at(name)
        assert np.array_equal(view.sites[HOOK], whole.sites[HOOK][i::2])
        assert view.observations.position.tolist() == [4 * i] * 200 and view.observations.place == name
        logits, rows = np.random.default_rng(0).standard_normal((3, planted.d_vocab)), np.array([7, 0, 7])
        logits = torch.from_numpy(logits).float()
        assert np.allclose(view.laws["own"](logits, rows), whole.laws["own"](logits, 2 * rows + i))


def test_a_rule_must_read_every_example(planted):
    task = blind(two_places(plant_task("tag", 20)))
    short = task.rules["last"].copy()
    short[1] = False
    with pytest.raises(BadInput, match="the rule 'last' must name at least one row of each example"):
        capture(planted, dataclasses.replace(task, rules=task.rules | {"last": short}), HOOK, store=None)


def test_a_behaviour_that_never_varies_at_one_rule_is_na_there_and_told_elsewhere(planted):
    task = two_places(plant_task("tag", 800))
    label = task.labels["b"]
    law = label.law.copy()
    law[::2] = [1, 0]
    task = blind(dataclasses.replace(task, labels={"b": dataclasses.replace(label, law=law)}))
    found = pk.measure(capture(planted, task, HOOK, store=None), **READ)
    linear = found.query("metric == 'read' and level == 'linear' and floor == 'strong'").set_index("position")
    assert linear.loc["first", "na_reason"] == "small_denominator" and linear.loc["last", "value"] < 0.1
    with pytest.raises(BadInput, match="one class"):
        never = dataclasses.replace(label, law=np.tile(np.float32([1, 0]), (1_600, 1)))
        pk.measure(capture(planted, dataclasses.replace(task, labels={"b": never}), HOOK, store=None), **READ)


def test_only_the_rows_of_a_rule_are_replaced(planted):
    """Keeping nothing at the first token changes nothing that is read there; both are judged by the rule alone."""
    task = dataclasses.replace(blind(two_places(plant_task("word", 400))),
                               behaviours=(BehaviourSpec("own", "choice", tokens=(0, 1)),))  # fmt: skip
    whole = capture(planted, task, HOOK, store=None)
    spec = ReplaceSpec(rows=32, donors=4, arms=("single:random",))
    nothing = Abstraction("directions", "random", 0, {HOOK: torch.zeros(planted.d_model, 0)})
    found = {}
    for name in ("first", "last"):
        measurement = Measurement(whole.observations.at(name), ReadSpec(floors=("strong",)), n_bootstrap=200)
        cells = Replacement(planted, task.at(name), whole.at(name), measurement, spec)
        cases, place = cells.cases("own", "all")[1], task.at(name).row_position
        assert set(place[cases.rows.last]) == set(place[cases.pool.last]) == {0 if name == "first" else 4}
        found[name] = cells.cell("own", "all", [HOOK], HOOK, [nothing]).records
    alone = repeated(plant_task("word", 400), [4], behaviours=task.behaviours)
    alone = dataclasses.replace(alone, floor_inputs={"position": np.ones((400, 1), np.float32)}, group=task.group)
    single = capture(planted, alone, HOOK, store=None)
    measurement = Measurement(single.observations, ReadSpec(floors=("strong",)), n_bootstrap=200)
    theirs = Replacement(planted, alone, single, measurement, spec).cell("own", "all", [HOOK], HOOK, [nothing]).records
    assert [r.value for r in found["last"]] == pytest.approx([r.value for r in theirs], abs=1e-4)
    assert {r.position for r in found["last"]} == {"last"} and {r.position for r in theirs} == {"all"}
    assert all(r.na_reason == "small_denominator" for r in found["first"]), "a BOS says the same in every text"


# Files and jobs


def test_a_file_with_several_rules_says_which_rows_are_whose(tmp_path):
    rows = [{"text": "the red car", "at": [0, 2] if i % 2 else [1], "label": i % 2} for i in range(8)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    label = {"name": "truth", "kind": "label", "column": "label"}
    encoder = Encoder(checkpoints.words())
    asked = {"file": "d.jsonl", "text": "text", "position": ["last", "at"], "behaviours": [label]}
    spec = TaskSpec.model_validate(asked)
    task = read_file_task(spec, tmp_path, encoder)
    assert [p.tolist() for p in task.positions] == [[2, 1], [2, 0]] * 4
    assert {name: m.tolist() for name, m in task.rules.items()} == {
        "last": [True, False, True, False] * 4, "at": [False, True, True, True] * 4,
    }  # fmt: skip
    assert task.audit["positions"] == {"last": 8, "at": 12} and task.audit["n_named_twice"] == 4
    one = read_file_task(spec.model_copy(update={"position": ("at",)}), tmp_path, encoder)
    assert one.rules == {} and [p.tolist() for p in one.at("all").positions] == [[1], [0, 2]] * 4


JOB = """
name = "places"
n_bootstrap = 200
[model]
name = "./sharp"
twin = false
[task]
file = "rows.jsonl"
template = "{tag} the {city} and {more}"
position = ["field:tag", "field:city", "last"]
group = "topic"
domain = "style"
behaviours = [
  { name = "truth", kind = "label", column = "label" },
  { name = "own", kind = "choice", tokens = ["he", "nine"] },
]
features = [{ name = "city", column = "city" }]
[read]
hooks = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
levels = ["baseline", "directions", "linear"]
ks = [1]
controls = ["random_directions"]
outer_folds = 1
inner_folds = 1
falls = false
decomposition = false
extrapolate = false
n_permutations = 19
delete = ["tag"]
[replace]
ks = [1]
rows = 16
donors = 4
[transfer]
levels = ["linear"]
[[hypotheses]]
name = "city"
rule = "rule.py:by_city"
features = ["city"]
behaviour = "truth"
"""
RULE = """
import numpy as np

def by_city(features):
    city = features["city"][:, 0] == 0
    return np.stack([~city, city], 1).astype(np.float32)
"""
PLACES = ["field:tag", "field:city", "last"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job read at three rules, one of which is what is deleted, in two domains."""
    folder = tmp_path_factory.mktemp("places")
    sharpen(checkpoints.write(folder / "plain", "gpt2", d_model=8, n_layers=3), folder / "sharp", 30.0)
    draw, words = random.Random(0), [w for s in checkpoints.SENTENCES for w in s.split()]
    with (folder / "rows.jsonl").open("w") as file:
        for i in range(700):
            row = {"tag": draw.choice(["red", "blue"]), "city": draw.choice(["paris", "madrid"]),
                   "more": " ".join(draw.choices(words, k=3)), "topic": f"t{i % 200}" if i < 400 else f"u{i % 150}",
                   "style": "plain" if i < 400 else "odd"}  # fmt: skip
            row["label"] = int(row["city"] == "madrid") if draw.random() < 0.7 else draw.randint(0, 1)
            file.write(json.dumps(row) + "\n")
    (folder / "rule.py").write_text(RULE)
    (folder / "places.toml").write_text(JOB)
    return folder / "places.toml"


@pytest.fixture(scope="module")
def run(job):
    return pk.run_job(job, root=job.parent / "runs", store=job.parent / "store")


def test_a_job_measures_every_rule_and_captures_once(job, run):
    assert not run.manifest["cells"]["failed"]
    n_hooks, n_places, n_behaviours = 2, 3, 2
    read, chains = n_hooks * (n_behaviours + 1) + n_behaviours, n_hooks + 2  # behaviours, a feature, selected; domains
    assert run.manifest["cells"]["total"] == n_places * (read + chains)
    assert len({entry.key for entry in cache.entries(job.parent / "store")}) == 2  # whole, and without the tag
    records = run.records
    assert records["id"].is_unique
    counts = records.groupby(["position", "metric"]).size().unstack()
    assert list(counts.index) == sorted(PLACES)
    for metric in ("read", "accuracy", "replace", "transfer", "crossing"):
        assert counts[metric].nunique() == 1 and counts[metric].notna().all(), metric
    # What the model answers behind one word the floor knows from the word: there is no site to be chosen for it.
    chosen = records[records["metric"] == "selected"].groupby("behaviour")["position"].agg(set)
    assert chosen["truth"] == set(PLACES) and "last" in chosen["own"]
    assert set(run.manifest["provenance"]["selected"]) == {
        f"{name} read at {place}" for name in ("truth", "own") for place in PLACES
    }
    floors = run.manifest["provenance"]["floors"]
    assert "truth plain read at last strong" in floors and len(floors) == 2 * 2 * 3 * 2
    worst = run.table("worst_examples")
    assert set(worst["rule"]) == set(PLACES)
    length = worst["tokens"].str.split().str.len()
    assert (length[worst["rule"] == "field:tag"] == 1).all() and (length[worst["rule"] == "field:city"] == 3).all()
    assert len(run.table("sites").query("behaviour == 'truth'")["record"].unique()) >= 3 * 2


def test_a_job_s_rule_is_the_job_with_that_rule_alone(job, run):
    """Read, transferred, selected, deleted and replaced: the rows, donors and edits of one rule, and of no other."""
    folder = job.parent
    alone = job.read_text().replace('position = ["field:tag", "field:city", "last"]', 'position = "last"')
    (folder / "alone.toml").write_text(alone.replace('name = "places"', 'name = "alone"', 1))
    theirs = pk.run_job(folder / "alone.toml", root=folder / "runs", store=folder / "store").records
    left, right = (
        coordinates(frame[~frame["arm"].str.contains("matched")], "behaviour")  # matched up to rounding
        for frame in (run.records[run.records["position"] == "last"], theirs)
    )
    assert left.index.is_unique and left.index.equals(right.index) and "replace" in left.index.get_level_values(0)
    assert (left["na_reason"] == right["na_reason"]).all() and left["value"].notna().sum() > 30
    for column in ("value", "bits", "floor_bits", "n", "groups"):
        a, b = left[column].astype(float), right[column].astype(float)
        assert np.allclose(a, b, atol=0.01, rtol=0.01, equal_nan=True), column


def test_deletion_is_na_where_it_is_what_is_read(run):
    deleted = run.records[run.records["control"] == "deleted:field:tag"]
    assert set(deleted["metric"]) == {"read", "transfer", "auroc"}
    inside = deleted[deleted["position"] == "field:tag"]
    assert set(inside["na_reason"]) == {"not_defined"}
    assert set(inside["note"]) == {"what is read here belongs to 'field:tag'"}
    others = deleted[deleted["position"] != "field:tag"]
    assert len(others) > len(inside) and not (others["na_reason"] == "not_defined").any()


def test_the_reading_side_never_mixes_positions(run):
    records = run.records
    assert selection.positions(records) == PLACES
    kinds = ("leak", "leak_map", "layer_curves", "floor_switch", "deletion", "ontology", "transfer_matrix", "frontier")
    for kind in kinds:
        chosen = {"behaviour": "own"} if kind == "frontier" else {}
        assert set(tables.table(kind, records, **chosen)["position"]) == {"field:tag"}, kind
        other = tables.table(kind, records, position="last", **chosen)
        assert set(other["position"]) == {"last"} and len(other), kind
    with pytest.raises(BadInput, match="no position 'lats'. Did you mean 'last'"):
        tables.leak_map(records, position="lats")
    both = tables.by_position(records, behaviour="truth")
    assert list(both["position"].unique()) == PLACES and not both.duplicated(["position", "site"]).any()
    drawn = figures.figure("by_position", records, behaviour="truth")
    assert {trace.name for trace in drawn.data if trace.name} == {f"read at {place}" for place in PLACES}
    assert "read at last" in figures.figure("leak_map", records, position="last").layout.title.subtitle.text
    # The curve of one rule is not chosen on the rows of another.
    selected = records.query("metric == 'selected' and behaviour == 'truth' and level == 'linear'")
    for place in PLACES:
        told = selected[selected["position"] == place]
        assert selected_hook(records, behaviour="truth", level="linear", position=place) == told["hook"].item()


def test_what_is_planned_is_what_is_measured(job, run):
    planned = planning.plan_rows(JobSpec.read_toml(job), job.parent)
    assert {row["position"] for row in planned} == set(PLACES)
    sites = sum(row["sites"] for row in planned if row["kind"] in ("read", "feature"))
    cells = job_of.Job.load(JobSpec.read_toml(job), job.parent).cells()
    assert sites == sum(cell.kind in ("read", "feature") for cell in cells)


def test_ids_of_what_has_one_rule_stay():
    """Cells and records without a place are what they were before places were told apart."""
    cell = cells_of.Cell("read", "truth", ("blocks.0.hook_resid_post",))
    old = {"version": cells_of.CELL_VERSION, "inputs": "x", "kind": "read", "what": "truth",
           "hooks": ("blocks.0.hook_resid_post",), "domain": ""}  # fmt: skip
    assert cell.id("x") == digest(old)
    assert dataclasses.replace(cell, place="last").id("x") != cell.id("x")
    assert work.tensor_name(cell) != work.tensor_name(dataclasses.replace(cell, place="last"))


def test_capture_without_keeps_the_rules_that_do_not_read_the_span(planted):
    task = two_places(plant_task("tag", 60), first=(1,), second=(4,))
    whole = capture(planted, task, HOOK, store=None)
    without = capture_without(planted, task, "field:tag", whole, store=None)
    assert without.observations.places == ["last"] and len(without.observations) == 60
    assert without.observations.position.tolist() == [3] * 60 and without.observations.touched.all()
    with pytest.raises(BadInput, match="is read at token 1 of its example 1, which belongs to 'field:tag'"):
        capture_without(planted, task.at("first"), "field:tag", whole.at("first"), store=None)
    assert BOS not in without.observations.types


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of streamlit's own tester
def test_the_command_line_and_the_page_select_a_position(run, monkeypatch):
    from typer.testing import CliRunner

    from probekit.cli.main import app

    def said(*arguments):
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    shown = said("show", str(run.path))
    assert "read at field:tag" in shown and "position field:city, last" in shown
    assert "read at last" in said("show", str(run.path), "--position", "last")
    assert "read at last" in said("judge", str(run.path), "--behaviour", "truth", "--position", "last")
    pytest.importorskip("streamlit")
    from streamlit.testing.v1 import AppTest

    page = Path(__file__).parents[2] / "apps" / "leakboard" / "app.py"
    monkeypatch.setattr("sys.argv", ["app", "--runs", str(run.path.parent)])
    monkeypatch.syspath_prepend(str(page.parents[1]))
    values = {}
    for place in PLACES:
        for name, tab in (("map", "map"), ("map", "layers"), ("map", "transfer"), ("story", ""), ("trust", "")):
            test = AppTest.from_file(str(page), default_timeout=120)
            test.run()
            asked = {"run": run.name, "behaviour": "truth", "position": place} | ({"tab": tab} if tab else {})
            for key, value in asked.items():
                test.query_params[key] = value
            test.switch_page(f"views/{name}.py").run()
            assert not test.exception, (name, tab, test.exception)
            if tab == "map":
                assert test.selectbox(key="choice:position").value == place
                values[place] = [metric.value for metric in test.metric]
    assert len({tuple(value) for value in values.values()}) == 3
