"""The cache commands: what is listed, verified, explained, kept and deleted, and what a person is told."""

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import faults
from faults import ARRAYS, KEY, ROWS, N, capture
from probekit.cli.main import app
from probekit.errors import BadInput, StoreError
from probekit.storage import cache
from probekit.storage.store import Store

OTHER = "f" * 16


@pytest.fixture
def root(tmp_path):
    capture(tmp_path, ARRAYS)
    Store(tmp_path).write(
        OTHER, {"parts": {"n_rows": N, "tokens": "x", "dtype": "f"}, "task": "t"}, {"z": torch.ones(N, 4)}, ROWS
    )
    for folder, when in zip(sorted(tmp_path.glob("entries/*/*/*")), (100, 200, 300), strict=True):
        for path in (folder / "MANIFEST.json", folder / "shards"):
            os.utime(path, (when, when))
    return tmp_path


def invoke(*args):
    """Exit code and the one JSON object that was printed."""
    result = CliRunner().invoke(app, ["cache", *map(str, args), "--json"])
    return result.exit_code, json.loads(result.output)


def test_ls_lists_groups_with_what_they_hold(root):
    code, body = invoke("ls", "--store", root)
    assert code == 0
    assert [(r["key"], r["state"], r["n_rows"], r["used"]) for r in body["rows"]] == [
        (KEY, "complete", N, 100), (KEY, "complete", N, 200), (OTHER, "complete", N, 300)]  # fmt: skip
    on_disk = sum(p.stat().st_size for p in (root / "entries").rglob("*") if p.is_file())
    assert body["bytes"] == sum(r["bytes"] for r in body["rows"]) == on_disk
    plain = CliRunner().invoke(app, ["cache", "ls", "--store", str(root)])
    assert plain.exit_code == 0
    assert KEY[:6] in plain.output


@pytest.mark.parametrize("width", [60, 80])
def test_ls_fits_a_narrow_terminal_without_breaking_what_is_compared(tmp_path, width):
    long = {
        "parts": {},
        "model": "/home/someone/models/Qwen2.5-1.5B-Instruct",
        "task": "statements/of [many] cities.csv",
    }
    names = {f"blocks.{layer}.ln2.hook_normalized": torch.ones(N, 4) for layer in range(3)}
    Store(tmp_path).write(KEY, long, names, ROWS)
    cache.pin(tmp_path, KEY, "demo-20250203-1c2f3a")
    printed = CliRunner().invoke(app, ["cache", "ls", "--store", str(tmp_path)], env={"COLUMNS": str(width)}).output
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    row = next(line.split() for line in lines if line.startswith(KEY[:12]))
    assert row[1] == "complete" and row[3] in ("KB", "B") and row[4] == str(N)
    start = next(line.index("what") for line in lines if "what" in line)
    told = "".join(line[start:] for line in lines).replace(" ", "")
    assert f"{long['model']}on{long['task']}".replace(" ", "") in told
    assert "blocks.0.ln2.hook_normalizedand2more" in told and "pinnedbydemo-20250203-1c2f3a" in told


def test_ls_starts_without_torch(root):
    code = f"""
import sys
from probekit.cli.main import app
try:
    app(["cache", "verify", "--deep", "--store", {str(root)!r}])
except SystemExit as stop:
    print(stop.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


def test_verify_says_what_is_damaged(root):
    assert invoke("verify", "--store", root)[0] == 0
    assert invoke("verify", "--deep", "--store", root)[0] == 0
    shard = sorted(root.rglob("*.safetensors"))[-1]
    content = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert invoke("verify", "--store", root)[0] == 0  # a bit of the payload: only reading it shows
    code, body = invoke("verify", "--deep", "--store", root)
    assert code == 1
    assert [r["state"] for r in body["rows"]].count("damaged") == 1
    assert str(shard) in next(r["problem"] for r in body["rows"] if r["problem"])
    shard.write_bytes(content[:-1])
    assert invoke("verify", "--store", root)[0] == 1


def test_verify_finds_a_spec_that_says_another_thing_than_the_manifest(root):
    from probekit.storage.files import signed

    path = sorted(root.rglob("spec.json"))[0]
    body = json.loads(path.read_bytes())
    del body["digest"]
    path.unlink()
    path.write_bytes(signed(body | {"ranges": [[0, N]]}))
    code, body = invoke("verify", "--store", root)
    assert code == 1
    assert "say different things" in next(r["problem"] for r in body["rows"] if r["problem"])


def test_verify_finds_a_file_that_is_no_part(root):
    (next(root.rglob("shards")) / "notes.txt").write_text("mine")
    assert invoke("verify", "--store", root)[0] == 1


def test_an_unfinished_group_is_partial_and_no_fault(tmp_path):
    def stop(what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(tmp_path, ARRAYS, stop)
    code, body = invoke("verify", "--deep", "--store", tmp_path)
    assert code == 0
    assert [r["state"] for r in body["rows"]] == ["partial"]


def test_verify_of_what_is_no_store(tmp_path):
    assert invoke("verify", "--store", tmp_path)[0] == 2
    (tmp_path / "STORE.json").write_text("{}")
    assert invoke("verify", "--store", tmp_path)[0] == 2


def test_why_names_the_parts_that_differ_from_the_nearest(root):
    asked = {"parts": {"n_rows": N, "tokens": "y", "dtype": "f"}, "task": "u"}
    found = cache.why(root, "e" * 16, asked)
    assert (found.present, found.nearest) == (False, OTHER)
    assert found.differences == (("parts.tokens", "y", "x"), ("task", "u", "t"))
    assert cache.why(root, OTHER, asked).present
    nearer = cache.why(root, "e" * 16, {"parts": {"n_rows": N}})
    assert (nearer.nearest, nearer.differences) == (KEY, ())


def test_gc_deletes_the_least_recently_used_until_the_budget_holds(root):
    sizes = [r["bytes"] for r in invoke("ls", "--store", root)[1]["rows"]]
    keep = str(sum(sizes) - 1)
    code, body = invoke("gc", "--budget", keep, "--dry-run", "--store", root)
    assert code == 0
    assert [r["used"] for r in body["rows"]] == [100]
    assert len(invoke("ls", "--store", root)[1]["rows"]) == 3
    code, body = invoke("gc", "--budget", keep, "--store", root)
    assert [r["used"] for r in body["rows"]] == [100]
    assert body["bytes"] == sum(sizes[1:])
    assert not list((root / "tmp").iterdir())
    Store(root).read(OTHER, "z")  # which makes it the last used, as it was
    assert [r["used"] > 1e9 for r in invoke("ls", "--store", root)[1]["rows"]] == [False, True]
    faults.recovers(root, ARRAYS)


def test_gc_keeps_what_is_pinned_and_what_is_open(root):
    cache.pin(root, KEY, "run-1")
    group = Store(root).group("a" * 16, {}, faults.shapes_of({"z": torch.ones(N, 4)}), [(0, N)])
    deleted, remaining = cache.gc(root, 0)
    assert [entry.key for entry in deleted] == [OTHER]
    assert remaining > 0
    assert {entry.key for entry in cache.entries(root)} == {KEY, "a" * 16}
    with pytest.raises(BadInput, match="being written by another process"):
        cache.remove(root, "a" * 16)
    with pytest.raises(BadInput, match=rf"is pinned by run-1: `probekit cache pin {KEY[:12]} --off --label NAME`"):
        cache.remove(root, KEY)
    group.write(0, N, {"z": torch.ones(N, 4)}, ROWS)
    group.seal()
    del group
    cache.unpin(root, KEY, "run-1")
    assert cache.gc(root, 0)[1] == 0


@pytest.mark.parametrize("how", [["--dry-run"], []])
def test_gc_says_why_a_budget_is_not_met(root, how):
    cache.pin(root, KEY, "run-1")
    cache.pin(root, OTHER, "me")
    code, body = invoke("gc", "--budget", "0", *how, "--store", root)
    assert (code, body["ok"], body["rows"]) == (1, False, [])
    assert "remain of a budget of 0 B; they are pinned by me, run-1, or being written" in body["error"]
    plain = CliRunner().invoke(app, ["cache", "gc", "--budget", "0", *how, "--store", str(root)])
    assert (plain.exit_code, " ".join(plain.stderr.split())) == (1, body["error"])  # folded to the terminal
    code, body = invoke("gc", "--budget", "1GB", *how, "--store", root)
    assert (code, body["ok"], "error" in body) == (0, True, False)


def test_gc_clears_what_a_crash_and_damage_left(root):
    (root / "tmp" / "123-dead").write_bytes(b"x" * 100)
    (root / "quarantine").mkdir()
    (root / "quarantine" / "bad").write_bytes(b"x")
    cache.gc(root, 10**12, dry_run=True)
    assert list((root / "tmp").iterdir())
    cache.gc(root, 10**12)
    assert not list((root / "tmp").iterdir())
    assert not list((root / "quarantine").iterdir())


def test_pin_and_rm_take_the_start_of_a_key(root):
    assert invoke("pin", "ff", "--store", root)[1]["rows"] == [{"key": OTHER, "label": "user", "pinned": True}]
    assert invoke("pin", "ff", "--store", root)[0] == 0
    assert invoke("rm", "ff", "--store", root)[0] == 2
    assert invoke("pin", "ff", "--off", "--store", root)[1]["rows"] == [
        {"key": OTHER, "label": "user", "pinned": False}]  # fmt: skip
    assert invoke("rm", "ff", "--store", root)[0] == 0
    assert {r["key"] for r in invoke("ls", "--store", root)[1]["rows"]} == {KEY}
    assert invoke("rm", "9", "--store", root)[0] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200GB", 200 * 10**9), ("1.5 TiB", int(1.5 * 2**40)), ("5", 5), ("3kb", 3000), ("2 mib", 2**21), ("7B", 7)],
)
def test_sizes_are_read(text, expected):
    assert cache.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "1 XB", "-1GB", "nan", "1e9", "12iB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(BadInput, match="a size is a number"):
        cache.parse_bytes(text)


def test_a_capture_that_loses_its_folder_says_so(root):
    shapes = faults.shapes_of({"z": torch.ones(N, 4)})
    group = Store(root).group("a" * 16, {}, shapes, [(0, N)])
    group.folder.rename(root / "elsewhere")
    with pytest.raises(StoreError, match="could not be written"):
        group.write(0, N, {"z": torch.ones(N, 4)}, ROWS)
