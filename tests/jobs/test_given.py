"""A user's own directions measured like any other source: what they are worth is known."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import checkpoints
import probekit as pk
from probekit.errors import BadInput
from probekit.jobs.job import Job
from probekit.jobs.runner import run_job
from probekit.spec import JobSpec
from rowfiles import write

pytestmark = pytest.mark.usefixtures("short_mlps")

FIRST, LAST = "blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"
ARMS = ["single:random", "single:matched", "necessity:resample", "necessity:mean", "iia", "chain:random"]
WORDS = ("capital", "sentence", "france", "spain", "red", "blue", "car", "bicycle", "old", "one", "two", "three")
HOOK = "blocks.0.hook_resid_post"
LEAN = {"n_bootstrap": 200, "n_permutations": 0, "extrapolate": False, "decomposition": False, "falls": False}


@pytest.fixture(scope="module")
def plant():
    """A sign along one unit direction in loud noise across it, in two domains: (rows, sign, domain, direction)."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    sign = rng.integers(0, 2, 1600)
    h = np.concatenate(
        [(2 * sign - 1)[:, None] + 0.1 * rng.normal(size=(1600, 1)), 30 * rng.normal(size=(1600, 11))], 1
    )
    return (h @ turn.T).astype("float32"), sign, np.repeat(["a", "b"], 800), turn[:, 0]


def test_the_direction_that_was_planted_explains_all_and_its_neighbour_nothing(plant):
    x, sign, domain, true = plant
    wrong = np.linalg.qr(np.stack([true, np.ones(12)], 1))[0][:, 1]
    given = {"true": {HOOK: 7e3 * true}, "wrong": {HOOK: wrong}, "both": {HOOK: np.stack([wrong, true])}}
    frame = pk.measure({HOOK: x}, behaviour=sign, groups=np.arange(1600) // 4, domains=domain, directions=given,
                       levels=("prior", "directions"), ks=(1, 2), transfer=("directions",), controls=(
                           "random_directions",), **LEAN)  # fmt: skip
    read = frame[(frame["metric"] == "read") & (frame["test_domain"] == "a") & (frame["fit_domain"] == "a")]
    value = read.set_index(["source", "k", "control"])["value"]
    assert value["given:true", 1, ""] < 0.02 and value["given:both", 2, ""] < 0.02
    assert value["given:wrong", 1, ""] > 0.95 and value["given:both", 1, ""] > 0.95
    # the naive choice of as many directions, the loudest ones, finds nothing; random ones stand beside each k
    assert value["pca", 2, ""] > 0.95 and value["random", 1, "random_directions"] > 0.9
    # nothing was looked for: what is fitted is a slope and an intercept for each k, beside a temperature's two
    told = read[read["source"] == "given:both"].set_index("k")["parameters"]
    assert told[2] - told[1] == 1 and told[1] <= 4
    moved = frame[(frame["metric"] == "transfer") & (frame["source"] == "given:true") & (frame["arm"] == "raw")]
    assert set(zip(moved["fit_domain"], moved["test_domain"], strict=True)) == {("a", "b"), ("b", "a")}
    assert (moved["value"].abs() < 0.05).all()


def test_directions_of_a_hook_that_is_not_measured_or_of_another_width_are_refused(plant):
    x, sign, _, true = plant
    for given, said in (
        ({"mine": {"blocks.1.hook_resid_post": true}}, "which is not read"),
        ({"mine": {HOOK: true[:5]}}, "are 1 of width 5"),
    ):
        with pytest.raises(BadInput, match=said):
            pk.measure({HOOK: x}, behaviour=sign, groups=np.arange(1600), directions=given, levels=("linear",), **LEAN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random network that is asked of two cities, and the direction in which these differ before its first block."""
    path = tmp_path_factory.mktemp("given")
    hf = checkpoints.build("gpt2", 64)
    hf.transformer.ln_f.weight.data.mul_(300)  # a random network is hardly ever sure of anything
    hf.save_pretrained(path / "model")
    words = checkpoints.words()
    words.save_pretrained(path / "model")
    draw = np.random.default_rng(0)
    rows = [{"city": ["paris", "madrid"][i % 2], "what": str(draw.choice(WORDS)), "of": str(draw.choice(WORDS)),
             "group": f"g{i}"} for i in range(160)]  # fmt: skip
    write(path / "rows.jsonl", rows)
    embedding = hf.transformer.wte.weight.detach().numpy()
    paris, madrid = (embedding[words.convert_tokens_to_ids(word)] for word in ("paris", "madrid"))
    true = paris - madrid
    across = np.linalg.qr(np.stack([true, np.ones_like(true)], 1))[0][:, 1]
    save_file({FIRST: true}, path / "true.safetensors")
    save_file({"W_dec": np.stack([true, across.astype("float32")])}, path / "sae.safetensors")
    return path


def job(folder, directions, **read):
    told = {
        "name": "given", "model": {"name": str(folder / "model"), "twin": False}, "directions": directions,
        "task": {
            "file": str(folder / "rows.jsonl"), "template": "the {what} {of} {city} is", "group": "group",
            "position": "field:city", "answer": "last", "copies": "keep",
            "behaviours": [{"name": "says", "kind": "choice", "tokens": ["bicycle", "one"]}],
        },
        "read": {"hooks": [FIRST, LAST], "levels": ["directions", "linear"], "ks": [1],
                 "controls": [], "decomposition": False, "extrapolate": False, "falls": False, "n_permutations": 0,
                 "outer_folds": 1, "inner_folds": 1} | read,
        "replace": {"hooks": [FIRST, LAST], "ks": [1], "rows": 24, "donors": 4, "arms": ARMS},
        "steer": {"doses": [-1.0, 1.0]}, "n_bootstrap": 200,
    }  # fmt: skip
    return JobSpec.check(told, "job")


def test_a_model_runs_on_the_direction_in_which_all_its_inputs_differ(folder, tmp_path):
    picked = {"name": "across", "file": "sae.safetensors", "tensor": "W_dec", "rows": [1], "hook": FIRST}
    spec = job(folder, [{"name": "true", "file": "true.safetensors"}, picked])
    run = run_job(spec, root=tmp_path / "runs", store=tmp_path / "store", base=folder)
    records = run.records[run.records["hook"] == FIRST]
    value = records[records["metric"] == "replace"].set_index(["source", "arm", "control"])["value"]
    # erasing it is erasing all of the site, and a donor's answer comes as often as with all of the donor's site
    for arm in ("necessity:resample", "necessity:mean", "iia"):
        assert value["given:true", arm, ""] == pytest.approx(0, abs=1e-4), arm
        # across it nothing differs between inputs, and a random direction is nearly as far from it
        assert value["given:across", arm, ""] > 0.95, arm
    assert {"single:random", "single:matched"} <= set(records.loc[records["source"] == "given:true", "arm"])
    read = records[records["metric"] == "read"]
    assert set(read["source"]) >= {"given:true", "given:across"}
    steered = records[(records["metric"] == "steer") & (records["source"] == "given:true")]
    assert {"effect:-1", "effect:+1", "wrong:+1"} <= set(steered["arm"])
    still = records[(records["metric"] == "steer") & (records["source"] == "given:across")]
    assert set(still["na_reason"]) == {"not_defined"} and len(still) == 2
    assert run.manifest is not None
    told = run.manifest["provenance"]["directions"]
    assert set(told) == {"true", "across"} and told["true"]["hooks"] == {FIRST: 1}
    assert not run.records.loc[run.records["hook"] == LAST, "source"].str.startswith("given:").any()
    pk.summary(run.records)


def test_a_run_is_known_by_its_directions(folder, tmp_path):
    entry = {"name": "true", "file": str(tmp_path / "mine.npy"), "hook": FIRST}
    told, model = [], pk.load_model(folder / "model")
    for size in (1.0, 2.0):
        np.save(tmp_path / "mine.npy", np.arange(1, 33) ** size)
        told.append(Job.load(job(folder, [entry]), folder, model=model).inputs)
    assert told[0] != told[1]
    np.save(tmp_path / "mine.npy", np.ones(31))
    with pytest.raises(BadInput, match="are 1 of width 31, and activations there have width 32"):
        Job.load(job(folder, [entry]), folder, model=model)
    np.save(tmp_path / "mine.npy", np.ones(32))
    with pytest.raises(BadInput, match="which is not read"):
        Job.load(job(folder, [entry | {"hook": "blocks.0.hook_mlp_out"}]), folder, model=model)
