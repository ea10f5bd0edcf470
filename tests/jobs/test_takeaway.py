"""Readers that are taken away from a run say what the run said, without the kit."""

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import checkpoints
import probekit as pk
from probekit.activations.capture import capture
from probekit.errors import BadInput
from probekit.inputs.filetask import read_file_task
from probekit.jobs.cells import Cell
from probekit.jobs.runner import run_job
from probekit.jobs.work import tensor_name
from probekit.measurement.outcome import ReaderName, kept_of
from probekit.spec import JobSpec
from rowfiles import write

HOOK = "blocks.1.hook_resid_post"
WORDS = ("capital", "sentence", "france", "spain", "red", "blue", "car", "bicycle", "old", "one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random network, and texts whose labels and number go with the word where they are read."""
    path = tmp_path_factory.mktemp("takeaway")
    checkpoints.build("gpt2", 64).save_pretrained(path / "model")
    checkpoints.words().save_pretrained(path / "model")
    draw = np.random.default_rng(0)
    made = draw.integers(0, len(WORDS), (200, 2))
    noise = draw.random(200) < 0.1
    rows = [{"a": WORDS[a], "b": WORDS[b], "kind": ["x", "y", "z"][b % 3], "far": 10.0 * b + a + 100,
             "same": ["no", "yes"][b % 2 ^ flipped], "group": f"g{i}"}
            for i, ((a, b), flipped) in enumerate(zip(made.tolist(), noise.tolist(), strict=True))]  # fmt: skip
    write(path / "rows.jsonl", rows)
    save_file({HOOK: draw.normal(size=(2, 32))}, path / "mine.safetensors")
    return path


def spec(folder, **task):
    told = {
        "name": "taken", "model": {"name": str(folder / "model"), "twin": False},
        "directions": [{"name": "mine", "file": "mine.safetensors"}],
        "task": {"file": str(folder / "rows.jsonl"), "template": "the {a} of {b} is", "group": "group",
                 "position": "field:b", "copies": "keep", "behaviours": [
                     {"name": "same", "kind": "label", "column": "same"},
                     {"name": "kind", "kind": "label", "column": "kind"},
                     {"name": "far", "kind": "value", "column": "far"}]} | task,
        "read": {"hooks": [HOOK], "levels": ["linear", "direction", "directions"], "ks": [1, 2], "controls": [],
                 "decomposition": False, "extrapolate": False, "falls": False, "n_permutations": 0,
                 "outer_folds": 2, "inner_folds": 2},
        "n_bootstrap": 200,
    }  # fmt: skip
    return JobSpec.check(told, "job")


@pytest.fixture(scope="module")
def taken(folder, tmp_path_factory):
    """A run, and activations of its rows."""
    path, job = tmp_path_factory.mktemp("run"), spec(folder)
    run = run_job(job, root=path, store=path / "store", base=folder)
    model = pk.load_model(folder / "model")
    x = capture(model, read_file_task(job.task, folder, model.encoder), [HOOK], store=None).sites[HOOK].float().numpy()
    return run, x, model


def first_fold(run, behaviour, x):
    """Rows of the first fold that were tested, and what was said of them."""
    scores = kept_of(run.tensors(tensor_name(Cell("read", behaviour, (HOOK,))))).scores
    tested = run.rows(hook=HOOK, behaviour=behaviour, level="linear").set_index("row")
    assert scores is not None and len(tested) == len(x)
    return scores


def test_what_was_taken_away_says_what_the_run_said(taken, tmp_path):
    run, x, _ = taken
    reader = pk.save_reader(run, tmp_path / "same.safetensors", hook=HOOK, behaviour="same")
    again = pk.load_reader(tmp_path / "same.safetensors")
    scores = first_fold(run, "same", x)
    logits = again.logits(x[scores.rows])
    odds = logits[:, 1] - logits[:, 0]
    # each fold has a reader of its own: of the first one's test rows, about half, nothing differs, and of others much
    alike = np.abs(odds - scores.odds) < 1e-3
    assert 0.4 < alike.mean() < 0.6 and np.ptp(odds[alike]) > 0.1
    assert np.allclose(again.probabilities(x[:5]), np.exp(reader.logits(x[:5])) / np.exp(reader.logits(x[:5])).sum(
        1, keepdims=True))  # fmt: skip
    assert np.array_equal(reader.weight, again.weight) and json.loads(json.dumps(reader.card)) == again.card
    # the threshold along its single direction is where the odds are even
    along = x @ again.direction
    logits = again.logits(x)
    assert np.array_equal(along > again.card["threshold"]["along"], logits[:, 1] > logits[:, 0])


def test_a_number_and_several_outcomes_are_taken_away_too(taken, tmp_path):
    run, x, _ = taken
    number = pk.save_reader(run, tmp_path / "far.safetensors", hook=HOOK, behaviour="far")
    scores = first_fold(run, "far", x)
    alike = np.abs(number.logits(x[scores.rows])[:, 0] - scores.odds) < 1e-3 * np.abs(scores.odds)
    assert alike.mean() >= 0.4 and number.card["outcomes"] is None and number.card["threshold"] is None
    with pytest.raises(BadInput, match="is a number, which has no probabilities"):
        number.probabilities(x)
    kinds = pk.save_reader(run, tmp_path / "kind.safetensors", hook=HOOK, behaviour="kind")
    assert kinds.card["outcomes"] == ["x", "y", "z"] and kinds.probabilities(x[0]).shape == (3,)
    assert kinds.directions.shape == (2, x.shape[1])
    with pytest.raises(BadInput, match="has no single direction"):
        _ = kinds.direction


def test_readers_along_directions_look_nowhere_else(taken, tmp_path, folder):
    run, x, _ = taken
    mine = pk.save_reader(run, tmp_path / "mine.safetensors", hook=HOOK, behaviour="same", level="directions", k=2,
                          source="given:mine")  # fmt: skip
    with safe_open(folder / "mine.safetensors", framework="np") as file:
        brought = file.get_tensor(HOOK)
    basis = np.linalg.qr(brought.T)[0]
    across = x - x @ basis @ basis.T
    assert np.allclose(mine.logits(across), mine.bias, atol=1e-4)
    assert np.abs(mine.logits(x) - mine.bias).max() > 1e-3
    one = pk.save_reader(run, tmp_path / "one.safetensors", hook=HOOK, behaviour="same", level="direction")
    assert one.directions.shape == (1, x.shape[1]) and one.card["source"] == "mean_difference"
    unit = one.directions[0] / np.linalg.norm(one.directions[0])
    assert abs(unit @ one.direction) == pytest.approx(1, abs=1e-6)


def test_the_card_says_where_it_comes_from(taken, tmp_path):
    run, _, model = taken
    card = pk.save_reader(run.path, tmp_path / "same.safetensors", hook=HOOK, behaviour="same").card
    assert card["model"]["fingerprint"] == model.fingerprint and card["position"] == "field:b"
    assert card["outcomes"] == ["no", "yes"] and card["hook"] == HOOK and card["run"] == run.name
    assert card["floor"]["name"] == "weak" and card["floor"]["left_out"] < 1e-6
    strong, weak = ([one for one in card["numbers"] if one["floor"] == floor] for floor in ("strong", "weak"))
    records = run.records.query("metric == 'read' and level == 'linear' and control == '' and behaviour == 'same'")
    assert len(strong) == len(weak) == 1
    record = records[records["floor"] == "weak"].iloc[0]
    for name in ("value", "low", "high", "auroc", "accuracy", "n_fit"):
        assert weak[0][name] == pytest.approx(record[name]), name


def test_numpy_alone_applies_it(taken, tmp_path):
    """As its docstring says, in a process that has nothing of the kit."""
    run, x, _ = taken
    reader = pk.save_reader(run, tmp_path / "same.safetensors", hook=HOOK, behaviour="same")
    np.save(tmp_path / "x.npy", x)
    code = """
import json, sys
import numpy as np, safetensors
path = "same.safetensors"
x = np.load("x.npy")
with safetensors.safe_open(path, "np") as file:
    card = json.loads(file.metadata()["probekit_reader"])
    logits = x.astype("float64") @ file.get_tensor("weight") + file.get_tensor("bias")
assert not {"torch", "probekit"} & set(sys.modules)
assert card["outcomes"] == ["no", "yes"]
np.save("said.npy", logits)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert np.array_equal(np.load(tmp_path / "said.npy"), reader.logits(x))
    told = pk.SavedReader.__doc__ or ""
    for line in code.splitlines()[5:8]:  # what was run is what the docstring says
        assert line.strip() in told, line


def test_a_reader_is_a_direction_of_another_run(taken, tmp_path):
    run, x, _ = taken
    reader = pk.save_reader(run, tmp_path / "same.safetensors", hook=HOOK, behaviour="same")
    labels = reader.logits(x)[:, 1] > reader.logits(x)[:, 0]
    read = {"levels": ("prior",), "ks": (1,), "controls": (), "n_bootstrap": 200, "n_permutations": 0,
            "extrapolate": False, "decomposition": False}  # fmt: skip
    frame = pk.measure({HOOK: x}, behaviour=labels, groups=np.arange(len(x)), copies="keep",
                       directions={"taken": tmp_path / "same.safetensors"}, **read)  # fmt: skip
    value = frame.query("source == 'given:taken' and metric == 'read'")["value"].iloc[0]
    assert value < 0.3  # it told these labels; a few rows near the threshold are all that is left


def test_another_model_or_width_is_told(taken, tmp_path):
    run, x, model = taken
    reader = pk.save_reader(run, tmp_path / "same.safetensors", hook=HOOK, behaviour="same")
    reader.check(model)
    with pytest.raises(BadInput, match="other weights have other directions"):
        reader.check(model.random_twin(0))
    with pytest.raises(BadInput, match=re.escape("reads [n, 32]")):
        reader.logits(x[:, :5])
    with pytest.raises(BadInput, match="not finite"):
        reader.logits(np.full((1, 32), np.nan))


def test_what_a_run_did_not_keep_is_one_sentence(taken, tmp_path):
    run, _, _ = taken
    ask: dict[str, Any] = {"hook": HOOK, "behaviour": "same"}
    for keys, said in (
        (ask | {"behaviour": "sane"}, "did you mean 'same'"),
        (ask | {"hook": "blocks.1.hook_resid_pos"}, f"did you mean '{HOOK}'"),
        (ask | {"level": "nonlinear"}, "no linear reader of level"),
        (ask | {"level": "directions", "source": "pca", "k": 1}, "linear behaviour"),
        ({"hook": HOOK}, "say which with behaviour="),
    ):
        with pytest.raises(BadInput, match=re.escape(said)):
            pk.save_reader(run, tmp_path / "x.safetensors", **keys)
    with pytest.raises(BadInput, match="as .safetensors"):
        pk.save_reader(run, tmp_path / "x.pt", **ask)
    assert not list(tmp_path.iterdir())
    (tmp_path / "no.safetensors").write_bytes(b"no")
    save_file({"weight": np.ones((2, 2))}, tmp_path / "plain.safetensors")
    save_file({"weight": np.ones((2, 2)), "bias": np.ones(3)}, tmp_path / "torn.safetensors",
              {"probekit_reader": '{"hook": "a", "outcomes": ["x", "y"]}'})  # fmt: skip
    for name, said in (("no", "no valid safetensors"), ("plain", "no reader's card"), ("torn", "damaged reader")):
        with pytest.raises(BadInput, match=said):
            pk.load_reader(tmp_path / f"{name}.safetensors")


def test_what_a_floor_of_positions_knows_is_left_out_and_told(folder, tmp_path):
    """All tokens of each text are read, and what the floor knows of where is no part of the activations."""
    run = run_job(spec(folder, position="all"), root=tmp_path, store=tmp_path / "store", base=folder)
    card = pk.save_reader(run, tmp_path / "same.safetensors", hook=HOOK, behaviour="same").card
    assert card["floor"]["blocks"] == ["position"] and "left out" in card["floor"]["said"]
    assert card["floor"]["left_out"] > 1e-6
    assert ReaderName("linear", "behaviour", None) in kept_of(
        run.tensors(tensor_name(Cell("read", "same", (HOOK,))))).alone  # fmt: skip
