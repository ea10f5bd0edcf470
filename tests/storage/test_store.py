"""The store: bit-exact or a StoreError, first writer wins, and a resumed group reaches the exact state."""

import itertools
import json
import os
import re
import subprocess
import threading

import pytest
import torch

from probekit.errors import BadInput, StoreError
from probekit.storage import shards
from probekit.storage.cache import gc, left_behind
from probekit.storage.files import signed
from probekit.storage.shards import Shape
from probekit.storage.store import Store, row_ranges

KEY = "0123456789abcdef"


def rows_of(n):
    return torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.long)], 1)


def arrays_of(n=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(n, 3, generator=g), "b.c": torch.randn(n, 2, generator=g).to(torch.bfloat16)}


def shapes_of(arrays):
    return {n: Shape(a.shape[1], "BF16" if a.dtype == torch.bfloat16 else "F32") for n, a in arrays.items()}


def begin(store, arrays, step=4):
    n = len(next(iter(arrays.values())))
    shapes = shapes_of(arrays)
    return store.group(KEY, {"why": "test"}, shapes, row_ranges(n, shapes, step))


def write(group, arrays, start, stop):
    group.write(start, stop, {n: a[start:stop] for n, a in arrays.items()}, rows_of(stop)[start:])


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def full(root):
    store, arrays = Store(root), arrays_of()
    group = begin(store, arrays)
    for start, stop in group.missing():
        write(group, arrays, start, stop)
    group.seal({"audit": 1})
    return store, arrays


@pytest.mark.parametrize("n", [1, 4, 10])
def test_round_trip_is_bit_exact(tmp_path, n):
    arrays = arrays_of(n)
    Store(tmp_path).write(KEY, {"why": "test"}, arrays, rows_of(n), {"audit": [1, 2]})
    again = Store(tmp_path)
    assert again.has(KEY, ["a", "b.c"])
    assert not again.has(KEY, ["a", "z"])
    for name, array in arrays.items():
        got = again.read(KEY, name)
        assert got.dtype == array.dtype
        assert torch.equal(got.view(torch.uint8), array.view(torch.uint8))
    assert torch.equal(again.rows(KEY, "a"), rows_of(n))
    assert again.note(KEY, "b.c") == {"audit": [1, 2]}
    assert not list((tmp_path / "tmp").iterdir())


def test_safetensors_itself_reads_the_shards(tmp_path):
    from safetensors.torch import load_file

    _, arrays = full(tmp_path)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert [s.name for s in shards] == [f"{a:012d}-{b:012d}.safetensors" for a, b in ((0, 4), (4, 8), (8, 10))]
    assert torch.equal(torch.cat([load_file(s)["a"] for s in shards]), arrays["a"])


def test_later_hooks_are_a_group_of_their_own(tmp_path):
    store, arrays = full(tmp_path)
    before = files(tmp_path)
    store.write(KEY, {}, {"d": torch.ones(10, 1)}, rows_of(10))
    assert store.has(KEY, ["a", "d"])
    assert before.items() <= files(tmp_path).items()
    assert torch.equal(store.read(KEY, "a"), arrays["a"])


def test_nothing_counts_before_the_seal(tmp_path):
    store, arrays = Store(tmp_path), arrays_of()
    group = begin(store, arrays)
    write(group, arrays, 0, 4)
    assert not store.has(KEY, ["a"])
    with pytest.raises(StoreError, match="no complete 'a'"):
        store.read(KEY, "a")
    with pytest.raises(StoreError, match="cannot be read"):
        group.seal()
    again = begin(Store(tmp_path), arrays, step=7)  # other ranges are asked: those of the group stay
    assert again.missing() == [(4, 8), (8, 10)]
    for start, stop in again.missing():
        write(again, arrays, start, stop)
    again.seal()
    assert torch.equal(store.read(KEY, "a"), arrays["a"])


def test_a_damaged_shard_of_an_open_group_is_written_again(tmp_path):
    store, arrays = Store(tmp_path), arrays_of()
    group = begin(store, arrays)
    write(group, arrays, 0, 4)
    shard = next(tmp_path.rglob("*.safetensors"))
    shard.chmod(0o644)
    os.truncate(shard, shard.stat().st_size - 1)
    assert group.missing() == [(0, 4), (4, 8), (8, 10)]
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_first_writer_wins(tmp_path):
    store, arrays, other = Store(tmp_path), arrays_of(), arrays_of(seed=1)
    group = begin(store, arrays)
    threads = [threading.Thread(target=write, args=(group, a, 0, 4)) for a in (arrays, other) * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shard = next(tmp_path.rglob("*.safetensors"))
    before = shard.read_bytes()
    write(group, other, 0, 4)
    assert shard.read_bytes() == before
    assert group.missing() == [(4, 8), (8, 10)]


def test_values_that_are_not_finite_are_refused_by_row_and_name(tmp_path):
    store, arrays = Store(tmp_path), arrays_of()
    arrays["a"][6, 1] = torch.nan
    with pytest.raises(StoreError, match="'a' has a value that is not finite in row 6"):
        write(begin(store, arrays), arrays, 4, 8)


def test_what_does_not_fit_is_refused(tmp_path):
    store, arrays = Store(tmp_path), arrays_of()
    group = begin(store, arrays)
    with pytest.raises(StoreError, match="no range of the group"):
        write(group, arrays, 0, 5)
    with pytest.raises(StoreError, match="a shard holds"):
        group.write(0, 4, {"a": arrays["a"][:4]}, rows_of(4))
    with pytest.raises(StoreError, match="'a' must be F32"):
        group.write(0, 4, {"a": arrays["a"][:4].double(), "b.c": arrays["b.c"][:4]}, rows_of(4))
    with pytest.raises(BadInput, match="cannot be stored"):
        store.group(KEY, {}, {"../a": Shape(1)}, [(0, 1)])
    with pytest.raises(StoreError, match="no key"):
        store.read("../../etc", "a")
    with pytest.raises(StoreError, match="cannot be stored as torch.float16"):
        store.write(KEY, {}, {"a": torch.ones(2, 2).half()}, rows_of(2))


def test_every_flipped_byte_is_noticed(tmp_path):
    """In each file of an entry, one bit in each byte: reading and resuming end in StoreError or in the exact values."""
    store, arrays = Store(tmp_path), {"a": arrays_of(2)["a"]}
    group = begin(store, arrays)
    write(group, arrays, 0, 2)
    group.seal()
    tried = 0
    for path in sorted(p for p in (tmp_path / "entries").rglob("*") if p.is_file()):
        content = path.read_bytes()
        path.chmod(0o644)
        for i in range(len(content)):
            path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
            if path.name == "spec.json":  # which a reader does not need, but a resumed writer does
                with pytest.raises(StoreError):
                    begin(store, arrays)
                continue
            with pytest.raises(StoreError):
                store.read(KEY, "a")
                store.rows(KEY, "a")
            tried += 1
        path.write_bytes(content)
    assert tried > 500
    assert torch.equal(store.read(KEY, "a"), arrays["a"])


@pytest.mark.parametrize("damage", ["truncate", "extend", "delete", "swap", "link", "twice"])
def test_tampered_shards(tmp_path, damage):
    store, _ = full(tmp_path)
    first, second, *_ = sorted(tmp_path.rglob("*.safetensors"))
    content = first.read_bytes()
    first.unlink()
    if damage == "truncate":
        first.write_bytes(content[:-1])
    elif damage == "extend":
        first.write_bytes(content + b"\0")
    elif damage == "swap":
        first.write_bytes(second.read_bytes())
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        first.symlink_to(tmp_path / "elsewhere")
    elif damage == "twice":
        # a key that occurs twice in the header: readers differ in which one they believe
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].rstrip()
        header = header[:-1] + b',"a":' + json.dumps(json.loads(header)["a"]).encode() + b"}"
        first.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    with pytest.raises(StoreError):
        store.read(KEY, "a")


def test_a_manifest_signed_again_over_less_rows_is_refused(tmp_path):
    store, _ = full(tmp_path)
    path = next(tmp_path.rglob("MANIFEST.json"))
    body = json.loads(path.read_bytes())
    del body["digest"]
    less = {"ranges": body["ranges"][1:], "facts": body["facts"][1:]}
    for change in (less, {"key": "f" * 16}, {"shapes": {"a": [3, "F32"]}}, {"ranges": 3}, {"ranges": [{}]},
                   {"shapes": []}, {"facts": body["facts"][::-1]}, {"version": 1}, {"facts": [1, 2, 3]}):  # fmt: skip
        path.unlink()
        path.write_bytes(signed(body | change))
        with pytest.raises(StoreError):
            store.read(KEY, "a")


def test_a_folder_that_is_no_store(tmp_path):
    (tmp_path / "STORE.json").write_text('{"format": "another"}')
    with pytest.raises(StoreError, match="no store of this version"):
        Store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written to"):
        Store(tmp_path / "file")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    store, arrays = Store(tmp_path), arrays_of()
    group = begin(store, arrays)
    write(group, arrays, 0, 4)
    before = files(tmp_path)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    for call in ("posix_fallocate", "pwrite", "fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full_disk)
            with pytest.raises(StoreError, match="No space left"):
                write(group, arrays, 4, 8)
        assert files(tmp_path) == before
    write(group, arrays, 4, 8)
    assert group.missing() == [(8, 10)]


def test_batches_come_in_any_order_and_every_row_once(tmp_path):
    store, arrays = Store(tmp_path), {"a": arrays_of(9000)["a"]}  # blocks of 1365 rows
    group = begin(store, arrays, step=5000)
    for start, stop in group.ranges:
        with group.shard(start, stop) as shard:
            cuts = [start, start + 1, start + 1365, start + 1366, start + 2730, start + 3000, stop]
            spans = list(itertools.pairwise(cuts))
            for a, b in spans[::-2] + spans[-2::-2]:
                shard.put(a, {"a": arrays["a"][a:b]}, rows_of(b)[a:])
            with pytest.raises(StoreError, match="each comes once"):
                shard.put(start, {"a": arrays["a"][start : start + 1]}, rows_of(start + 1)[start:])
    group.seal()
    in_order = Store(tmp_path / "in order")
    in_order.write("f" * 16, {}, arrays, rows_of(9000))
    assert torch.equal(store.read(KEY, "a"), arrays["a"])
    assert torch.equal(in_order.read("f" * 16, "a"), arrays["a"])
    rows = torch.randint(0, 9000, (500,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(store.gather(KEY, "a", rows), arrays["a"][rows])
    assert store.gather(KEY, "a", rows[:0]).shape == (0, 3)


def test_a_shard_with_a_row_missing_is_not_published(tmp_path):
    store, arrays = Store(tmp_path), arrays_of()
    group = begin(store, arrays)
    with pytest.raises(StoreError, match="row 7 of a shard was never written"), group.shard(4, 8) as shard:
        shard.put(4, {n: a[4:7] for n, a in arrays.items()}, rows_of(7)[4:])
    assert (4, 8) in group.missing()
    assert not list((tmp_path / "tmp").iterdir())


def test_one_shard_is_not_copied_and_belongs_to_its_reader(tmp_path):
    arrays = {"a": torch.ones(100_000, 2)}
    Store(tmp_path).write(KEY, {}, arrays, rows_of(100_000))
    before = files(tmp_path)
    store = Store(tmp_path)
    got = store.read(KEY, "a")
    got += 1
    assert torch.equal(store.read(KEY, "a"), arrays["a"])
    assert files(tmp_path) == before


def test_bytes_that_were_verified_are_verified_again_when_the_file_was_touched(tmp_path, monkeypatch):
    from probekit.storage import shards

    monkeypatch.setattr(shards, "_YOUNG_NS", 0)
    store, _ = full(tmp_path)
    seen = []
    monkeypatch.setattr(shards.Shard, "_verify", lambda self, *args, real=shards.Shard._verify, **more: (
        seen.append(self.path), real(self, *args, **more)))  # fmt: skip
    store.read(KEY, "a")
    n_first = len(seen)
    store.read(KEY, "a")
    assert (n_first, len(seen)) == (3, 3)
    shard = sorted(tmp_path.rglob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match="have changed"):
        for name in ("a", "b.c"):
            store.read(KEY, name)


def test_a_read_only_store_is_read(tmp_path):
    """A mount when that is allowed, which holds root off as well; permissions otherwise."""
    _, arrays = full(tmp_path / "store")
    command = ["mount", "--bind", "-o", "ro", tmp_path / "store", tmp_path / "store"]
    mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    folders = [p for p in (tmp_path / "store").rglob("*") if p.is_dir()] + [tmp_path / "store"]
    try:
        if not mounted:
            for folder in folders:
                folder.chmod(0o555)
        shared = Store(tmp_path / "store")
        assert torch.equal(shared.read(KEY, "a"), arrays["a"])
        assert torch.equal(shared.gather(KEY, "a", torch.tensor([9, 0])), arrays["a"][[9, 0]])
        if mounted or os.geteuid():
            with pytest.raises(StoreError, match="cannot be written to"):
                shared.write("f" * 16, {}, arrays, rows_of(10))
    finally:
        if mounted:
            subprocess.run(["umount", tmp_path / "store"], check=True)
        for folder in folders:
            folder.chmod(0o755)


def refused(root, what):
    """Do something that the store refuses; each row of the table below."""
    store, arrays = Store(root), arrays_of()
    if what == "not there":
        store.read(KEY, "a")
    elif what == "bad key":
        store.read("../../etc", "a")
    elif what == "bad name":
        store.group(KEY, {}, {"../a": Shape(1)}, [(0, 1)])
    elif what == "bad dtype":
        store.write(KEY, {}, {"a": torch.ones(2, 2).half()}, rows_of(2))
    elif what == "not finite":
        store.write(KEY, {}, {"a": torch.full((2, 2), torch.nan)}, rows_of(2))
    elif what == "no such range":
        write(begin(store, arrays), arrays, 0, 5)
    elif what == "unsealed":
        begin(store, arrays).seal()
    elif what == "too large":
        store.group(KEY, {}, {"a": Shape(2**30)}, [(0, 10**9)]).missing()
    elif what == "row out of range":
        full(root)[0].gather(KEY, "a", torch.tensor([10]))
    elif what == "manifest deleted":
        full(root)
        next(root.rglob("MANIFEST.json")).unlink()
        store.read(KEY, "a")
    elif what == "not a regular file":
        full(root)
        shard = next(root.rglob("*.safetensors"))
        shard.unlink()
        os.mkfifo(shard)
        store.read(KEY, "a")
    else:
        full(root)
        pattern, change = {
            "manifest changed": ("MANIFEST.json", lambda text: text.replace(b"audit", b"AUDIT")),
            "manifest no JSON": ("MANIFEST.json", lambda text: text[:-3]),
            "spec changed": ("spec.json", lambda text: text.replace(b"test", b"tent")),
            "another version": ("STORE.json", lambda text: text.replace(b"2", b"1")),
            "shard cut": ("*8.safetensors", lambda text: text[:-8]),
            "header changed": ("*8.safetensors", lambda text: text.replace(b"F32", b"I32", 1)),
            "payload changed": ("*8.safetensors", lambda text: text[:-1] + bytes([text[-1] ^ 1])),
        }[what]
        path = next(root.rglob(pattern))
        path.chmod(0o644)
        path.write_bytes(change(path.read_bytes()))
        for name in ("a", "b.c"):
            Store(root).read(KEY, name)
        begin(store, arrays)


@pytest.mark.parametrize(
    ("what", "kind", "told"),
    [
        ("not there", StoreError, "the store has no complete 'a' under 0123456789abcdef: capture it first."),
        ("bad key", StoreError, "keys are 16 to 64 hexadecimal digits."),
        ("bad name", BadInput, "names are letters, digits"),
        ("bad dtype", StoreError, "cannot be stored as torch.float16"),
        ("not finite", StoreError, "'a' has a value that is not finite in row 0"),
        ("no such range", StoreError, "is no range of the group|are no range of the group"),
        ("unsealed", StoreError, "No such file"),
        ("too large", StoreError, "bytes free and this capture needs"),
        ("row out of range", BadInput, "rows of 'a' are 0 to 9; asked for 10 to 10."),
        ("manifest deleted", StoreError, "capture it first."),
        ("not a regular file", StoreError, "is no regular file"),
        ("manifest changed", StoreError, "has changed since it was written"),
        ("manifest no JSON", StoreError, "is broken"),
        ("spec changed", StoreError, "has changed since it was written"),
        ("another version", StoreError, "is no store of this version"),
        ("shard cut", StoreError, "bytes in place of"),
        ("header changed", StoreError, "is not the file that its group names"),
        ("payload changed", StoreError, "have changed since they were written"),
    ],
)
def test_every_refusal_is_one_sentence(tmp_path, what, kind, told):
    with pytest.raises(kind) as caught:
        refused(tmp_path, what)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert re.search(told, text)
    assert "\n" not in text and text.endswith((".", "`.")) and len(text) < 420
    assert caught.value.exit_code == (2 if kind is BadInput else 3)


def stopped_at(store, arrays, n_put, monkeypatch, size=2):
    """A shard of ten rows of which the first `n_put` were put, in batches, when the writer stopped."""
    monkeypatch.setattr(shards, "SAVED_EVERY", 0.0)
    group = begin(store, arrays, 10)
    with pytest.raises(KeyboardInterrupt), group.shard(0, 10) as shard:
        for a in range(0, n_put, size):
            shard.put(a, {n: x[a : a + size] for n, x in arrays.items()}, rows_of(a + size)[a:])
        raise KeyboardInterrupt
    return group


@pytest.mark.parametrize("damaged", [False, True])
def test_a_shard_that_was_stopped_goes_on_with_the_rows_that_are_there(tmp_path, monkeypatch, damaged):
    store, arrays = Store(tmp_path / "stopped"), arrays_of()
    group = stopped_at(store, arrays, 6, monkeypatch)
    (part,), (notes,) = (list((tmp_path / "stopped" / "tmp").glob(f"*{end}")) for end in (".part", ".rows"))
    assert left_behind(store.root) == part.stat().st_size + notes.stat().st_size > 0
    if damaged:  # the last byte of row 3 of the first name: its batch is not believed, the others are
        layout = next(iter(group._layouts.values()))
        at = layout.base + layout.offsets["a"][0] + 4 * 12 - 1
        data = bytearray(part.read_bytes())
        data[at] ^= 1
        part.write_bytes(data)
    assert group.is_begun(0, 10)
    with group.shard(0, 10) as shard:
        assert shard.kept.tolist() == [not damaged or row not in (2, 3) for row in range(6)] + [False] * 4
        for a, b in ((4, 10), (0, 4)):  # other batches than before
            shard.put(a, {n: x[a:b] for n, x in arrays.items()}, rows_of(b)[a:])
    group.seal({"audit": 1})
    assert not group.is_begun(0, 10) and not list((store.root / "tmp").iterdir())
    whole = Store(tmp_path / "whole")
    made = begin(whole, arrays, 10)
    write(made, arrays, 0, 10)
    made.seal({"audit": 1})
    assert files(store.root) == files(whole.root)


def test_rows_that_were_kept_are_not_written_again(tmp_path, monkeypatch):
    """Seen by giving other values: what is kept wins, which is why only the same capture finds the same shard."""
    store, arrays = Store(tmp_path), arrays_of()
    group = stopped_at(store, arrays, 4, monkeypatch)
    other = {name: torch.zeros_like(x) for name, x in arrays.items()}
    write(group, other, 0, 10)
    group.seal()
    assert torch.equal(store.read(KEY, "a")[:4], arrays["a"][:4]) and not store.read(KEY, "a")[4:].any()


def test_gc_takes_what_a_stopped_capture_left_and_no_shard_that_is_being_written(tmp_path, monkeypatch):
    store, arrays = Store(tmp_path), arrays_of()
    group = stopped_at(store, arrays, 6, monkeypatch)
    with group.shard(0, 10) as shard:
        assert shard.kept.sum() == 6
        before = files(tmp_path / "tmp")
        gc(tmp_path, 10**9)
        assert files(tmp_path / "tmp") == before and left_behind(tmp_path) == 0
        for a in range(6, 10):
            shard.put(a, {n: x[a : a + 1] for n, x in arrays.items()}, rows_of(a + 1)[a:])
    group.seal()
    stopped_at(store, {"c": arrays["a"]}, 6, monkeypatch)
    assert left_behind(tmp_path)
    gc(tmp_path, 10**9)
    assert not left_behind(tmp_path) and not list((tmp_path / "tmp").iterdir())


def test_two_writers_of_one_shard_do_not_share_what_is_begun(tmp_path, monkeypatch):
    store, arrays = Store(tmp_path), arrays_of()
    group = stopped_at(store, arrays, 6, monkeypatch)
    with group.shard(0, 10) as first, begin(store, arrays, 10).shard(0, 10) as second:
        assert first.kept.sum() == 6 and not second.kept.any()
        for shard in (first, second):
            shard.put(0, arrays, rows_of(10))
    group.seal()
    assert torch.equal(store.read(KEY, "a"), arrays["a"]) and not list((tmp_path / "tmp").iterdir())
