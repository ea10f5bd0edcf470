"""A user's own directions: what every file holds, and every mistake as one sentence."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from probekit.errors import BadInput, UnknownHook
from probekit.inputs.given import Brought, brought_directions, read_given
from probekit.jobs.plan import plan_rows
from probekit.spec import DirectionsEntry, JobSpec
from rowfiles import write

HOOK, OTHER = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


def rows(k, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(k, d)) * 10.0 ** np.arange(k)[:, None]


def same_span(basis, wanted):
    """Whether columns [d, k] are orthonormal and the first k' span the first k' wanted rows, for every k'."""
    assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)
    for k in range(1, basis.shape[1] + 1):
        part, unit = basis[:, :k], wanted[:k] / np.linalg.norm(wanted[:k], axis=1, keepdims=True)
        assert np.allclose(part @ (part.T @ unit.T), unit.T, atol=1e-4), k


def read(tmp_path, file, **keys):
    found = read_given(DirectionsEntry(name="mine", file=file, **keys), tmp_path)
    assert found is not None
    return found


def test_every_file_gives_the_directions_that_it_holds(tmp_path):
    wanted, other = rows(3), rows(2, seed=1)
    np.save(tmp_path / "three.npy", wanted)
    np.save(tmp_path / "one.npy", wanted[1].astype("float32"))
    save_file({HOOK: wanted, OTHER: other}, tmp_path / "hooks.safetensors")
    save_file({"W_dec": wanted.astype("float32"), "b": other}, tmp_path / "sae.safetensors")
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\n\ndef made():\n    return {{'{HOOK}': [[1.0, 0, 0], [0, 0, 2]]}}\n"
    )
    same_span(read(tmp_path, "three.npy", hook=HOOK).directions[HOOK], wanted)
    same_span(read(tmp_path, "one.npy", hook=HOOK).directions[HOOK], wanted[1:2])
    both = read(tmp_path, "hooks.safetensors").directions
    same_span(both[HOOK], wanted)
    same_span(both[OTHER], other)
    picked = read(tmp_path, "sae.safetensors", hook=HOOK, tensor="W_dec", rows=(2, 0)).directions[HOOK]
    same_span(picked, wanted[[2, 0]])
    assert np.allclose(read(tmp_path, "mine.py:made").directions[HOOK], np.eye(3)[:, [0, 2]])
    assert np.allclose(picked[:, 0] @ wanted[2], np.linalg.norm(wanted[2]), rtol=1e-5)  # its sign is the user's


def test_the_digest_tells_numbers_and_source_apart(tmp_path):
    one = Brought.of("mine", {HOOK: rows(2)})
    assert one.digest == Brought.of("other", {HOOK: rows(2).astype("float64")}).digest
    assert one.digest != Brought.of("mine", {OTHER: rows(2)}).digest
    assert one.digest != Brought.of("mine", {HOOK: rows(2) * 2}).digest
    made = []
    for note in ("# once\n", "# twice\n"):
        (tmp_path / "mine.py").write_text(f"{note}def made():\n    return {{'{HOOK}': [1.0, 2.0]}}\n")
        made.append(read(tmp_path, "mine.py:made").digest)
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((2, 4)), "nothing but zeros in row 0"),
        (np.array([[1.0, np.nan]]), "not finite, first at row 0"),
        (np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [2.0, 5.0, 0.0]]), "dependent: row 2 lies in the span"),
        (np.ones((5, 2)), "more than there can be: a row is a direction, so it looks transposed"),
        (np.ones((2, 2, 2)), "shape (2, 2, 2): give [k, d]"),
        (np.array(["a", "b"]), "is of type words: numbers are needed"),
    ],
)
def test_what_is_no_direction_is_refused(values, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        Brought.of("mine", {HOOK: values})


def test_a_wrong_width_is_told_and_what_looks_transposed():
    given = Brought.of("mine", {HOOK: rows(3)})
    given.check(HOOK, 6)
    with pytest.raises(BadInput, match="are 3 of width 6, and activations there have width 8"):
        given.check(HOOK, 8)
    with pytest.raises(BadInput, match="looks transposed"):
        given.check(HOOK, 3)


def test_what_a_file_cannot_give_is_one_sentence(tmp_path):
    np.save(tmp_path / "one.npy", rows(3))
    # A pickle, which could run code when it is read: written here so that reading it is seen to be refused.
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    save_file({"W_dec": rows(3), "W_enc": rows(2)}, tmp_path / "sae.safetensors")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    (tmp_path / "mine.py").write_text("def made():\n    return [1, 2]\n")
    for file, keys, said in (
        ("gone.npy", {}, "there is no file"),
        ("one.npy", {}, "names no hook point: give `hook`"),
        ("objects.npy", {"hook": HOOK}, "no plain .npy array"),
        ("one.npy", {"hook": HOOK, "rows": (0, 3)}, "there is no row 3: it has 3, from 0 on, or of the 6 columns"),
        ("no.safetensors", {"hook": HOOK}, "no valid safetensors file"),
        ("sae.safetensors", {"hook": HOOK}, "say which with `tensor`"),
        ("sae.safetensors", {"hook": HOOK, "tensor": "W_dek"}, "did you mean 'W_dec'"),
        ("sae.safetensors", {"tensor": "W_dec"}, "and no hook point"),
        ("mine.py:made", {}, "returned a list"),
        ("mine.py:other", {}, "defines no function 'other'"),
        ("mine.py:made", {"rows": (1,)}, "leave hook, tensor, rows out"),
        ("one.pt", {"hook": HOOK}, "there is no file"),
        ("mine.py", {"hook": HOOK}, "read from .npy and .safetensors"),
    ):
        with pytest.raises(BadInput, match=re.escape(said)):
            read(tmp_path, file, **keys)


def test_arrays_and_paths_come_by_name_in_python(tmp_path):
    np.save(tmp_path / "mine.npy", rows(2))
    for values in (rows(2), tmp_path / "mine.npy", {HOOK: rows(2)}):
        (found,) = brought_directions({"mine": values}, [HOOK])
        assert found.source == "given:mine" and found.digest == Brought.of("mine", {HOOK: rows(2)}).digest
    with pytest.raises(BadInput, match="one array for 2 hook points"):
        brought_directions({"mine": rows(2)}, [HOOK, OTHER])
    with pytest.raises(BadInput, match="directions is a list"):
        brought_directions([rows(2)], [HOOK])
    with pytest.raises(BadInput, match="give a name of letters"):
        brought_directions({"mine|k": rows(2)}, [HOOK])


def test_a_plan_refuses_what_no_run_could_use(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 2, "hidden_size": 6}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    write(tmp_path / "rows.jsonl", [{"text": "a", "truth": "yes"}])
    np.save(tmp_path / "mine.npy", rows(2))
    told = {
        "name": "given", "model": {"name": "model"}, "read": {"hooks": ["blocks.*.hook_resid_post"]},
        "task": {"file": "rows.jsonl", "text": "text",
                 "behaviours": [{"name": "truth", "kind": "label", "column": "truth"}]},
    }  # fmt: skip

    def planned(**entry):
        entry = {"name": "mine", "file": "mine.npy"} | entry
        return plan_rows(JobSpec.check(told | {"directions": [entry]}, "job"), tmp_path)

    assert "given:mine" in planned(hook=HOOK)[0]["levels"]
    with pytest.raises(UnknownHook, match="blocks.7"):
        planned(hook="blocks.7.hook_resid_post")
    with pytest.raises(BadInput, match="which is not read: did you mean"):
        planned(hook="blocks.1.hook_resid_pre")
    np.save(tmp_path / "wide.npy", rows(2, d=9))
    with pytest.raises(BadInput, match="of width 9, and activations there have width 6"):
        planned(hook=HOOK, file="wide.npy")
    with pytest.raises(BadInput, match="two of the directions are named 'mine'"):
        JobSpec.check(told | {"directions": [{"name": "mine", "file": "a.npy"}] * 2}, "job")
