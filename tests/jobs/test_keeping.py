"""What was measured in memory, kept as a run folder: the same numbers, pages' rows, two of them paired by group."""

import numpy as np
import pytest

import probekit as pk
from probekit.errors import BadInput
from probekit.results.examples import added_bits, examples
from probekit.storage.listing import kept_line

QUICK = {"levels": ("linear",), "n_bootstrap": 200, "n_permutations": 0, "controls": (), "extrapolate": False,
         "decomposition": False}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two networks on the same rows: of a number the first has the sign cleanly, the second under noise."""
    root, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    x = rng.normal(size=(900, 4)).astype("float32")
    label, groups = x[:, 0] > 0, np.arange(900) // 3
    noisy = x + rng.normal(size=x.shape).astype("float32")
    texts = np.array([f"text {i}" for i in range(900)])
    told = {"behaviour": {"sign": label}, "groups": groups, "floor": {"text": texts}}
    frames = {
        name: pk.measure({"layer 1": of}, **told, keep=root / name, **QUICK)
        for name, of in (("clean", x), ("noisy", noisy))
    }
    return root, frames


def test_a_kept_run_has_the_records_that_were_returned(kept):
    root, frames = kept
    for name, frame in frames.items():
        run = pk.open_run(root / name)
        assert run.state == "complete" and run.records["id"].tolist() == frame["id"].tolist()
        same = run.records["value"].to_numpy(float), frame["value"].to_numpy(float)
        assert np.array_equal(*same, equal_nan=True)
        line = kept_line(run)
        assert line is not None and line.behaviour == "sign" and line.where == "linear at layer 1"
        assert "sign of arrays" in str(pk.summary(run.records))


def test_its_rows_have_texts_and_make_the_value(kept):
    root, _ = kept
    run = pk.open_run(root / "noisy")
    worst = examples(run, behaviour="sign", most=5)
    assert worst["text"].str.startswith("text ").all() and worst["missed_bits"].is_monotonic_decreasing
    rows = run.rows(behaviour="sign", level="linear")
    read = run.records.query("metric == 'read' and level == 'linear' and floor == 'strong' and control == ''").iloc[0]
    explained = added_bits(rows).sum() / (rows["floor_bits"] - rows["ceiling_bits"]).sum()
    assert explained == pytest.approx(1 - read["value"], abs=1e-3)


def test_two_kept_runs_are_compared_by_group_and_the_noisy_one_is_worse(kept):
    root, _ = kept
    found = pk.compare(pk.open_run(root / "clean"), pk.open_run(root / "noisy"))
    assert found.first is not None and found.first["how"] == "paired" and found.first["verdict"] == "worse"
    assert found.sentences[0].startswith("noisy (B) is worse than clean (A)")


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_measured(kept, tmp_path):
    root, _ = kept
    with pytest.raises(BadInput, match="never written to again: give another folder"):
        pk.measure("nothing that could be measured", keep=root / "clean")
