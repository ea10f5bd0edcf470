"""Faults on the store: an accepted read is bit-exact, anything else is a StoreError, resuming reaches the exact state.

F1 to F15 as in docs/reliability.md. A part of it runs by default, all with `pytest -m slow tests/test_store_faults.py`;
with `--junitxml=counts.xml -o junit_family=xunit1` it writes down how many faults there were.
"""

import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import faults
from faults import (
    ARRAYS,
    KEY,
    ROWS,
    N,
    arrays_of,
    capture,
    clean,
    ended,
    forked,
    get_tree,
    put_tree,
    read_all,
    recovers,
)
from probekit.errors import StoreError
from probekit.records import canonical, digest
from probekit.storage import cache, files, shards, store
from probekit.storage.files import signed
from probekit.storage.shards import Layout
from probekit.storage.store import Store, row_ranges


def amounts(few, many):
    """Few by default, many in the long run."""
    return pytest.mark.parametrize("n", [few, pytest.param(many, marks=pytest.mark.slow)])


def steps(every):
    """Every so many calls by default, each of them in the long run."""
    return pytest.mark.parametrize("every", [every, pytest.param(1, marks=pytest.mark.slow)])


@pytest.fixture
def root(tmp_path):
    """In memory where that is possible: thousands of syncs to a disk take minutes and prove no more."""
    memory = Path("/dev/shm")
    folder = memory / f"faults-{os.getpid()}-{tmp_path.name}" if os.access(memory, os.W_OK) else tmp_path
    folder.mkdir(exist_ok=True)
    yield folder / "store"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[10.0, 0.0], ids=["", "saved"])
def saved(request, monkeypatch):
    """How often what is written of a shard is noted for the next writer: never here, or after every batch."""
    monkeypatch.setattr(shards, "SAVED_EVERY", request.param)


@pytest.fixture
def whole(root):
    capture(root, ARRAYS)
    return root


# F1 to F4: killed, refused, out of room ------------------------------------------------------------------------------


@amounts(5, 600)
def test_f1_killed_at_random_times_then_resumed(root, n, record_property):
    rng, arrays = random.Random(1), arrays_of(scale=50)
    begun = time.perf_counter()
    assert ended(forked(lambda: capture(clean(root), arrays))) == 0
    usual, kills, resumed = time.perf_counter() - begun, 0, 0
    while kills < n:
        clean(root)
        for _ in range(rng.randint(1, 4)):  # killed again while it resumes
            child = forked(lambda: capture(root, arrays))
            time.sleep(rng.random() * usual)
            os.kill(child, signal.SIGKILL)
            kills += ended(child) == -signal.SIGKILL
            if (root / "STORE.json").exists():
                read_all(root, arrays)
        recovers(root, arrays)
        resumed += 1
    record_property("kills", kills)
    record_property("resumed", resumed)


@steps(9)
@pytest.mark.parametrize("how", ["before", "after"])
def test_f2_killed_at_each_call(root, saved, how, every, record_property):
    made = faults.count_calls(lambda: capture(clean(root), ARRAYS))
    assert set(made) >= set(faults.MUTATING) - {"rename", "replace"}
    calls = range(0, len(made), every)
    for at in calls:
        clean(root)

        def work(at=at):
            with faults.failing(at, how):
                capture(root, ARRAYS)

        assert ended(forked(work)) == -signal.SIGKILL
        recovers(root, ARRAYS)
    record_property("kills", len(calls))


@steps(15)
@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "short"])
def test_f3_each_call_fails(root, saved, how, every, record_property):
    made = faults.count_calls(lambda: capture(clean(root), ARRAYS))
    raised, calls = 0, range(0, len(made), every)
    for at in calls:
        clean(root)
        try:
            with faults.failing(at, how):
                capture(root, ARRAYS)
        except StoreError as error:
            raised += 1
            one_sentence(error)
        recovers(root, ARRAYS)
    # A temporary that cannot be unlinked is left to gc; every other failure must be told.
    assert raised == (0 if how == "short" else sum(made[at] != "unlink" for at in calls))
    record_property("calls", len(calls))


SCRIPT = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {here!r}]
from pathlib import Path
import faults
arrays = faults.arrays_of()
for line in sys.stdin:
    root = Path(line.strip())
    child = os.fork()
    if not child:
        code = 1
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            faults.capture(root, arrays)
            code = 0
        except faults.StoreError:
            code = 3
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    print(child, flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGCONT)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
CALLS = ("fallocate", "pwrite64", "fsync", "link", "unlink", "mkdir")


class Traced:
    """The scenario under strace, which makes real system calls of the product fail or be the last."""

    def __init__(self):
        here = Path(__file__).parents[2]
        script = SCRIPT.format(tests=str(here / "tests"), here=str(here))
        self.server = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True)  # fmt: skip

    def say(self, line):
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()

    def run(self, root, log, *inject):
        self.say(str(root))
        child = self.server.stdout.readline().strip()
        tracer = subprocess.Popen(["strace", "-qqq", "-f", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *inject,
                                   "-p", child])  # fmt: skip
        status = Path(f"/proc/{child}/status")
        for _ in range(500):
            if f"TracerPid:\t{tracer.pid}" in status.read_text():
                break
            time.sleep(0.01)
        else:
            pytest.skip("processes cannot be traced here")
        self.say("go")
        code = int(self.server.stdout.readline())
        tracer.wait(20)
        return code

    def close(self):
        self.server.stdin.close()
        self.server.wait(20)
        self.server.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("how", ["signal=KILL", "error=ENOSPC", "error=EIO"])
def test_f2_f3_real_calls_by_strace(root, tmp_path, how, record_property):
    traced, log = Traced(), tmp_path / "log"
    try:
        assert traced.run(clean(root), log) == 0
        made = [line.split(maxsplit=1)[1].split("(")[0] for line in log.read_text().splitlines() if "(" in line]
        faults_done = 0
        for name in CALLS:
            for at in range(1, made.count(name) + 1):
                code = traced.run(clean(root), log, "-e", f"inject={name}:{how}:when={at}")
                expected = -signal.SIGKILL if how.startswith("signal") else 0 if name == "unlink" else 3
                assert code == expected, (name, at)
                recovers(root, ARRAYS)
                faults_done += 1
    finally:
        traced.close()
    assert faults_done > 100
    record_property("faults", faults_done)


@amounts(12, 200)
def test_f4_file_size_limit(root, n, record_property):
    sizes = sorted({len(content) for content in get_tree_of(root).values() if content})
    rng, raised = random.Random(4), 0
    for _ in range(n):
        clean(root)
        limit = rng.randint(0, sizes[-1] + 100)

        def work(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            capture(root, ARRAYS)

        code = ended(forked(work))
        assert code == (0 if limit >= sizes[-1] else 3)
        raised += code == 3
        recovers(root, ARRAYS)
    assert raised
    record_property("refused", raised)


def get_tree_of(root):
    capture(clean(root), ARRAYS)
    return get_tree(root)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("precheck", [True, False])
def test_f4_full_disk(tmp_path, precheck, monkeypatch, record_property):
    arrays, mount = arrays_of(scale=2000), tmp_path / "small"
    mount.mkdir()
    if not precheck:
        monkeypatch.setattr(store, "free_bytes", lambda folder: 2**60)
    raised, kibs = 0, list(range(40, 600, 12))
    for kib in kibs:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", mount], capture_output=True
        ).returncode:
            pytest.skip("mounting is not allowed here")
        try:
            root = mount / "store"
            try:
                capture(root, arrays)
            except StoreError as error:
                raised += 1
                told = one_sentence(error)
                assert "bytes" in told or "written to" in told
                assert not list((root / "tmp").glob("*")) if root.exists() else True
                if (root / "STORE.json").exists():
                    read_all(root, arrays)
            subprocess.run(["mount", "-o", "remount,size=4m", mount], check=True)
            recovers(root, arrays)
        finally:
            subprocess.run(["umount", mount], check=True)
    assert 0 < raised < len(kibs)
    record_property("full", raised)


# F5: the power goes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "n_random"), [(45, 0), pytest.param(1, 3, marks=pytest.mark.slow)])
def test_f5_power_lost_after_any_call(root, saved, every, n_random, record_property):
    states = faults.power_losses(root, n_random, every)
    assert states > 25
    record_property("states", states)


@pytest.mark.parametrize("lose", ["file", "folder"])
def test_f5_is_red_without_a_sync(root, lose):
    with pytest.raises((AssertionError, StoreError)):
        faults.power_losses(root, 0, 12, lose)


# F6, F7: bytes that changed ------------------------------------------------------------------------------------------


def flips(root, every):
    """Flip one bit in each byte of every file; the faults, and the files and bytes that nothing noticed."""
    tried, unnoticed = 0, []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        path.chmod(0o644)
        for i in range(0, len(content), every):
            path.write_bytes(content[:i] + bytes([content[i] ^ 1 << (i * 7 + len(content)) % 8]) + content[i + 1 :])
            tried += 1
            if i % 16 == 0 and path.name != "spec.json":  # which a reader does not need, but a resumed writer does
                assert read_all(root, ARRAYS) != set(ARRAYS), (path.name, i)
            try:
                if all(entry.state == "complete" for entry in cache.verify(root, deep=True)):
                    unnoticed.append((path.name, i))
            except StoreError:
                continue
        path.write_bytes(content)
    return tried, unnoticed


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_f6_one_bit_flipped_in_every_byte(whole, every, record_property):
    tried, unnoticed = flips(whole, every)
    assert not unnoticed
    assert tried > 400
    record_property("flips", tried)
    assert read_all(whole, ARRAYS) == set(ARRAYS)


def test_f6_is_red_without_the_digest(root, monkeypatch):
    monkeypatch.setattr(shards, "xxh3_64_intdigest", lambda data: 0)
    capture(root, ARRAYS)
    with pytest.raises(AssertionError):
        flips(root, 11)


def damaged(root, rng):
    """Ways to damage one file or two: a word for it and what does it."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    for path in files:
        content = path.read_bytes()
        for cut in sorted(
            {0, 1, 7, 8, len(content) // 2, len(content) - 8, len(content) - 1, *rng.sample(range(len(content)), 3)}
        ):
            yield (
                f"{path.name} cut to {cut}",
                lambda path=path, content=content, cut=cut: path.write_bytes(content[:cut]),
            )
        for more in (b"\0", b" ", b"\n", b"x" * 100):
            yield f"{path.name} longer", lambda path=path, content=content, more=more: path.write_bytes(content + more)
        yield f"{path.name} deleted", path.unlink
        yield f"{path.name} a link", lambda path=path: linked(path)
        yield f"{path.name} a folder", lambda path=path: (path.unlink(), path.mkdir())
        yield f"{path.name} a pipe", lambda path=path: (path.unlink(), os.mkfifo(path))
    for one in files:
        for other in files:
            if one < other:
                yield f"{one.name} and {other.name} swapped", lambda one=one, other=other: swapped(one, other)


def linked(path):
    elsewhere = path.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def swapped(one, other):
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def tampers(root, share, seed=0):
    """Every kind of damage; how many there were, and which of them nothing noticed."""
    rng, tree, tried, unnoticed = random.Random(seed), get_tree(root), 0, []
    n = sum(1 for _ in damaged(root, random.Random(seed)))
    for i in range(n):
        if rng.random() > share:
            continue
        put_tree(root, tree)
        what, act = next(x for j, x in enumerate(damaged(root, random.Random(seed))) if j == i)
        act()
        tried += 1
        if get_tree(root) == tree or what == "STORE.json deleted":  # two equal files; a marker that is made anew
            continue
        try:
            accepted = read_all(root, ARRAYS)
            if all(e.state == "complete" for e in cache.verify(root, deep=True)) and accepted == set(ARRAYS):
                unnoticed.append(what)
        except StoreError:
            continue
    put_tree(root, tree)
    return tried, unnoticed


@pytest.mark.parametrize("share", [0.15, pytest.param(1.0, marks=pytest.mark.slow)])
def test_f7_truncated_extended_deleted_swapped(whole, share, record_property):
    tried, unnoticed = tampers(whole, share)
    assert tried > 20
    # A sealed group whose manifest is gone is an unfinished one, and reading it is refused.
    assert not unnoticed
    record_property("tampers", tried)


def test_f7_is_red_without_the_size_check(whole, monkeypatch):
    class Any(int):
        def __ne__(self, other):
            return False

    monkeypatch.setattr(Layout, "size", Any(0))
    _, unnoticed = tampers(whole, 0.15)
    assert unnoticed
    assert all("longer" in what for what in unnoticed)


@pytest.mark.parametrize("damage", ["cut", "flip", "swap"])
def test_f7_a_damaged_shard_of_an_open_group_is_quarantined_and_made_again(root, damage):
    counter, made = iter(range(100)), []

    def stop(what):
        made.append(what)
        if next(counter) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(root, ARRAYS, stop)
    first, second = sorted(root.rglob("*.safetensors"))
    content = first.read_bytes()
    if damage == "swap":
        swapped(first, second)
    else:
        first.chmod(0o644)
        first.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert any(entry.state == "damaged" for entry in cache.verify(root, deep=True))
    capture(root, ARRAYS)
    assert len(list((root / "quarantine").iterdir())) == (2 if damage == "swap" else 1)
    recovers(root, ARRAYS)


# F8: writers that race -----------------------------------------------------------------------------------------------


def race(root, n_rounds):
    """Three writers of different numbers at once; rounds in which a reader found anything but whole shards of one."""
    seeds, corrupt = (0, 1, 2), 0
    truth = {seed: arrays_of(seed) for seed in seeds}
    for _ in range(n_rounds):
        clean(root)
        Store(root)
        gate_r, gate_w = os.pipe()

        def work(seed, gate=gate_r):
            os.read(gate, 1)
            capture(root, truth[seed])

        children = [forked(functools.partial(work, seed)) for seed in seeds]
        os.write(gate_w, b"xxx")
        codes = [ended(child) for child in children]
        os.close(gate_r)
        os.close(gate_w)
        assert set(codes) <= {0, 3}
        try:
            found = {name: Store(root).read(KEY, name) for name in ARRAYS}
        except StoreError:
            corrupt += 1
            continue
        for names in faults.GROUPS:
            for start, stop in row_ranges(N, {}, 4):
                exact = [
                    s for s in seeds if all(faults.same(found[n][start:stop], truth[s][n][start:stop]) for n in names)
                ]
                corrupt += len(exact) != 1
        corrupt += any(code != 0 for code in codes)
    return corrupt


@amounts(15, 360)
def test_f8_racing_writers_with_different_numbers(root, n, record_property):
    assert race(root, n) == 0
    record_property("rounds", n)


def late(root):
    """One writer seals while another still holds a shard of other numbers; what a reader then finds."""
    truth, other = {"d": arrays_of(0)["d"]}, {"d": arrays_of(1)["d"]}
    shapes = faults.shapes_of(truth)
    slow, fast = (Store(root).group(KEY, {}, shapes, [(0, N)]) for _ in range(2))
    with slow.shard(0, N) as stream:
        stream.put(0, other, ROWS)
        fast.write(0, N, truth, ROWS)
        fast.seal()
    slow.seal()
    return faults.same(Store(root).read(KEY, "d"), truth["d"])


def test_f8_what_is_published_while_its_name_is_opened_is_nobody_s_to_write(tmp_path, monkeypatch):
    """Between opening and locking, the other writer publishes and lets go: the open file is then the final one."""
    final, payload = tmp_path / "final", b"published"
    first = files.Temporary(tmp_path, final, len(payload), name=".half")
    first.write(payload, 0)
    lock, waiting = files.fcntl.flock, [first]

    def late(handle, how):
        while waiting:
            other = waiting.pop()
            assert other.publish()
            other.drop()
        lock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    second = files.Temporary(tmp_path, final, len(payload), name=".half")
    second.write(b"another's", 0)
    assert second.path.name != ".half" and not second.publish()
    second.drop()
    assert final.read_bytes() == payload and sorted(p.name for p in tmp_path.iterdir()) == ["final"]


def test_f8_the_first_writer_wins(root):
    assert late(root)


def test_f8_is_red_when_files_are_replaced(root, monkeypatch):
    monkeypatch.setattr(os, "link", os.replace)
    with pytest.raises(StoreError):
        late(root)


# F9: JSON that is signed and wrong ----------------------------------------------------------------------------------

ODD = (None, True, False, 0, 1, -1, 2, 3, 4, 10, 2**31, 2**63, 10**30, 0.5, 1e308, "", "a", "b.c", "d", "__rows__",
       "F32", "BF16", "../x", "\ud800", "a" * 200, [], {}, [[]], [0, 4], [4, 0], [0.0, 4.0], [True, 4], {"a": 1},
       [None], "f" * 32, "f" * 32 + " 0.0", "f" * 32 + " nan", [3, "F32"], [3, "BF16"], [0, "F32"],
       [10**12, "F32"])  # fmt: skip


def mutated(value, rng):
    """A copy of a JSON value with something changed somewhere."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        choice = rng.random()
        if choice < 0.12:
            return {k: v for k, v in value.items() if k != name}
        if choice < 0.2:
            return {**value, str(rng.choice(ODD)).encode("ascii", "replace").decode(): rng.choice(ODD)}
        return {**value, name: mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        i = rng.randrange(len(value))
        choice = rng.random()
        if choice < 0.12:
            return value[:i] + value[i + 1 :]
        if choice < 0.2:
            return [*value[:i], value[i], *value[i:]]
        return [*value[:i], mutated(value[i], rng), *value[i + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        return value + rng.choice((-1, 1, 4))
    return rng.choice(ODD)


@amounts(80, 5000)
def test_f9_fuzzed_and_signed_again(whole, n, record_property):
    rng = random.Random(9)
    targets = [p for p in sorted(whole.rglob("*")) if p.name in ("spec.json", "MANIFEST.json", "STORE.json")]
    headers = sorted(whole.rglob("*.safetensors"))[:4]
    contents = {path: path.read_bytes() for path in [*targets, *headers]}
    refused = 0
    for _ in range(n):
        path = rng.choice([*targets, *headers])
        content = contents[path]
        if path in headers:
            length = int.from_bytes(content[:8], "little")
            text = canonical(mutated(json.loads(content[8 : 8 + length]), rng)).encode()
            text += b" " * (-len(text) % 8) if rng.random() < 0.5 else b" " * max(0, length - len(text))
            new = len(text).to_bytes(8, "little") + text + content[8 + length :]
        else:
            body = json.loads(content)
            body.pop("digest", None)
            body = mutated(body, rng)
            new = signed(body) if isinstance(body, dict) and rng.random() < 0.95 else canonical(body).encode()
        path.chmod(0o644)
        path.write_bytes(new)
        try:
            refused += read_all(whole, ARRAYS, signed_again=True) != set(ARRAYS)
            cache.verify(whole, deep=True)
            for names in faults.GROUPS:
                shapes = faults.shapes_of({name: ARRAYS[name] for name in names})
                group = Store(whole).group(KEY, {}, shapes, row_ranges(N, shapes, 4))
                if group.sealed:
                    group.missing()
        except StoreError:
            refused += 1
        path.write_bytes(content)
        for stray in (whole / "quarantine").glob("*"):
            stray.unlink()
    assert refused > n / 4
    assert read_all(whole, ARRAYS) == set(ARRAYS)
    record_property("fuzzed", n)


BREAKERS = (b"[" * 10**6, b'{"a":' * 10**5, b"1e999", b"NaN", b"\xff\xfe", b"", b"9" * 10**4, b'{"a":1,"a":2}',
            b'"\\ud800"', b"null", b"[]")  # fmt: skip


@pytest.mark.parametrize("text", BREAKERS)
def test_f9_json_that_breaks_parsers(whole, text):
    for name in ("STORE.json", "MANIFEST.json", "spec.json"):
        path = next(whole.rglob(name))
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(text)
        if name == "spec.json":
            assert any(entry.state == "damaged" for entry in cache.verify(whole))
        else:
            assert read_all(whole, ARRAYS) != set(ARRAYS)
        path.write_bytes(content)


# F13: values that are no numbers -------------------------------------------------------------------------------------

BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_f13_not_finite_is_refused_on_write(root, bad, dtype):
    for name in ("first", "second"):
        for row in range(N):
            arrays = {"first": torch.ones(N, 3, dtype=dtype), "second": torch.ones(N, 2, dtype=dtype)}
            arrays[name][row, -1] = bad
            with pytest.raises(StoreError, match=f"'{name}' has a value that is not finite in row {row}"):
                Store(root).write(KEY, {}, arrays, ROWS)
            assert not list(root.rglob("*.safetensors"))


def test_f13_overflow_of_a_narrower_type_is_refused(root):
    with pytest.raises(StoreError, match="'a' has a value that is not finite in row 7"):
        wide = torch.ones(N, 2)
        wide[7, 0] = 3.4e38  # the largest bfloat16 is 3.39e38
        Store(root).write(KEY, {}, {"a": wide.bfloat16()}, ROWS)
    Store(root).write(KEY, {}, {"a": torch.full((N, 2), -3.38e38).bfloat16()}, ROWS)
    assert Store(root).read(KEY, "a").min() < -3.3e38


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("step", [N, 4])
def test_f13_not_finite_is_refused_on_read(root, bad, step, monkeypatch):
    """A file that was written by something else and signed properly."""
    arrays = arrays_of()
    arrays["b.c"][6, 1] = bad
    with monkeypatch.context() as patch:
        patch.setattr(shards, "refuse_not_finite", lambda *args: None)
        group = Store(root).group(KEY, {}, faults.shapes_of(arrays), row_ranges(N, {}, step))
        for a, b in group.ranges:
            group.write(a, b, {name: array[a:b] for name, array in arrays.items()}, ROWS[a:b])
        group.seal()
    found = Store(root)
    for reading in (lambda: found.read(KEY, "b.c"), lambda: found.gather(KEY, "b.c", torch.tensor([1, 6]))):
        with pytest.raises(StoreError, match="'b.c' has a value that is not finite in row 6"):
            reading()
    assert faults.same(found.read(KEY, "a"), arrays["a"])
    assert [entry.state for entry in cache.verify(root, deep=True)] == ["damaged"]


def test_magnitude_is_what_torch_says():
    g = torch.Generator().manual_seed(0)
    for code, dtype in store.DTYPES.items():
        if code == "I64":
            continue
        for scale in (0.0, -1e-30, 1.0, 1e30):
            for sign in (0, 1, -1):
                x = torch.randn(7, 5, generator=g).to(dtype) * scale
                x = x if sign == 0 else x.abs() * sign
                assert shards.magnitude(store._bytes(x), code) == float(x.abs().max())
        for bad in BAD:
            x[3, 2] = bad
            assert math.isnan(shards.magnitude(store._bytes(x), code))


# F15: what the key is made of ----------------------------------------------------------------------------------------


def test_f15_every_part_of_the_key_matters(tiny, monkeypatch):
    from probekit.activations import keys as room
    from samples import task_of

    model, task = tiny("gpt2"), task_of()
    parts = room.capture_spec(model, task, "bridge")["parts"]
    usual = room.activation_key(model, task, "bridge")
    assert usual == digest(parts, 32)
    for part in parts:
        assert digest({**parts, part: "another"}, 32) != usual
        assert digest({k: v for k, v in parts.items() if k != part}, 32) != usual

    def with_(**changes):
        return task_of(**changes)

    tokens = [np.array(t) for t in task.tokens]
    tokens[-1] = tokens[-1].copy()
    tokens[-1][-1] ^= 1
    positions = [np.array(p) for p in task.positions]
    positions[0] = positions[0][:-1]
    matter = {
        "tokens": lambda: room.activation_key(model, with_(tokens=tokens), "bridge"),
        "positions": lambda: room.activation_key(model, with_(positions=positions), "bridge"),
        "weights": lambda: room.activation_key(model.random_twin(1), task, "bridge"),
        "backend": lambda: room.activation_key(model, task, "hf"),
        "architecture": lambda: room.activation_key(tiny("llama"), task, "bridge"),
    }
    for name, key in matter.items():
        assert key() != usual, name
    weight = next(p for p in model.weights.values() if p.is_floating_point())
    with torch.no_grad():
        was = weight.view(-1)[0].item()
        weight.view(-1)[0] = np.nextafter(np.float32(was), np.float32(9)).item()
        assert room.activation_key(model, task, "bridge") != usual, "one bit of one weight"
        weight.view(-1)[0] = was
    assert room.activation_key(model, task, "bridge") == usual
    versions = room.library_versions()
    for name in versions:
        major, minor = versions[name].split(".")[:2]
        for other, same in ((f"{major}.{int(minor) + 1}.0", False), (f"{major}.{minor}.999", True)):
            monkeypatch.setattr(room, "library_versions", lambda found=versions | {name: other}: found)
            assert (room.activation_key(model, task, "bridge") == usual) == same, name
    monkeypatch.setattr(room, "library_versions", lambda: versions)
    must_not = {
        "name": "another", "group": np.arange(len(tokens)), "domain": np.array(["x"] * len(tokens)), "behaviours": (),
        "features": {},
    }  # fmt: skip
    for name, value in must_not.items():
        assert room.activation_key(model, with_(**{name: value}), "bridge") == usual, name


# What a person is told -----------------------------------------------------------------------------------------------


def one_sentence(error):
    text = str(error)
    assert text.endswith((".", "`.")), text
    assert "\n" not in text
    assert "Traceback" not in text
    assert 20 < len(text) < 420
    return text
